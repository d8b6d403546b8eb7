"""One function in several processes, a device each, that can add up their tensors (torch.distributed).

Processes are spawned, not made by running the script again as Lightning's `ddp` would: a script or a user's program
does much before and after training, which then would have to be harmless in every copy of it. A spawned one runs the
loop and nothing else. What it is given goes through a pipe, not through shared memory, of which containers have little.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from pipeline import schema
from pipeline.errors import UserError
from pipeline.finetune.batches import Part

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


@dataclass(frozen=True)
class Group:
    """`scratch`: a folder for what the processes tell; `threads`: of each."""

    world: int
    device: str
    threads: int
    scratch: Path


def require(count: int, device: str) -> None:
    """Raises UserError if there are fewer than `count` devices of a type."""
    if count > 1 and device not in BACKENDS:
        raise UserError(f"finetune.devices {count} on {device}", allowed=f"1, or a device of {', '.join(BACKENDS)}")
    if device == "cuda" and count > torch.cuda.device_count():
        raise UserError(f"finetune.devices {count}, and there are fewer", allowed=f"1 to {torch.cuda.device_count()}")


def spread(function: Callable[..., Any], arguments: Sequence[Any], *, world: int, device: str) -> Any:
    """What function(Part(0, world), *arguments) returned, plain values; the same runs for every other part.

    All must be picklable. Raises the UserError that a process raised, and one if a process was killed; the others are
    ended then, wherever they wait.
    """
    payload = pickle.dumps((function, tuple(arguments)))
    with tempfile.TemporaryDirectory() as scratch:
        group = Group(world, device, max(1, torch.get_num_threads() // world), Path(scratch))
        started = start_processes(_work, (payload, group), nprocs=world, join=False, start_method="spawn")  # type: ignore[no-untyped-call]
        try:
            while not started.join():
                pass
        except ProcessRaisedException:
            for path in sorted(group.scratch.glob("error-*.json")):
                raise UserError(**schema.read_json(path)) from None
            raise
        except ProcessExitedException as e:
            raise UserError(
                f"a training process ended by {e.signal_name or f'exit code {e.exit_code}'}; checkpoints are kept",
                allowed="memory for finetune.devices copies of the network, and a program that calls this only under "
                "`if __name__ == '__main__'`",
            ) from None
        finally:
            for process in started.processes:
                if process.is_alive():
                    process.terminate()
                    process.join()
        return schema.read_json(group.scratch / "answer.json")


def _work(rank: int, payload: bytes, group: Group) -> None:
    # Lightning takes a process that has a rank for one that needs no others started.
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "OMP_NUM_THREADS": str(group.threads)}
    torch.set_num_threads(group.threads)
    # gloo tells of its connections on stdout, which is for the answer of the program.
    os.dup2(sys.stderr.fileno(), 1)
    if group.device == "cuda":
        torch.cuda.set_device(rank)
    store = f"file://{group.scratch}/store"
    distributed.init_process_group(BACKENDS[group.device], init_method=store, rank=rank, world_size=group.world)
    function, arguments = pickle.loads(payload)
    try:
        answer = function(Part(rank, group.world), *arguments)
    except UserError as e:
        told = {"what": e.what, "allowed": e.allowed, "see": e.see}
        schema.write_json(group.scratch / f"error-{rank}.json", told)
        raise
    if rank == 0:
        schema.write_json(group.scratch / "answer.json", answer)
    distributed.barrier()
    distributed.destroy_process_group()
