"""One function in several processes, a device each, that can add up their tensors (torch.distributed).

Processes are spawned, not made by running the script again as Lightning's `ddp` would: a script or a user's program
does much before and after training, which then would have to be harmless in every copy of it. A spawned one runs the
loop and nothing else. What it is given goes through a pipe, not through shared memory, of which containers have little.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from pipeline.base import folders, json_files
from pipeline.base.errors import UserError
from pipeline.strategies.batches import Part
from pipeline.strategies.nodes import WAIT_S, Nodes, connect, meet

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
# How long a process may take to end before it is killed.
_END_S = 10.0
# "Connection closed by peer", "Timed out waiting 1800000ms for recv operation", "No route to host".
_GROUP_WORDS = re.compile(r"gloo|nccl|connection|timed out|timeout|no route|peer", re.IGNORECASE)


@dataclass(frozen=True)
class Processes:
    """`count` processes on this machine; `threads`: of each; `scratch`: a folder for what they tell."""

    count: int
    device: str
    nodes: Nodes
    threads: int
    scratch: Path

    def part(self, local: int) -> Part:
        return Part(self.nodes.rank * self.count + local, self.nodes.count * self.count)

    def join(self, local: int) -> None:
        """Makes the calling process one of the group."""
        part, backend = self.part(local), BACKENDS[self.device]
        if self.nodes.count > 1:
            store, wait = connect(self.nodes), timedelta(seconds=WAIT_S)
            distributed.init_process_group(backend, store=store, rank=part.rank, world_size=part.world, timeout=wait)
        else:
            file = f"file://{self.scratch}/store"
            distributed.init_process_group(backend, init_method=file, rank=part.rank, world_size=part.world)


def require(count: int, device: str, *, nodes: int = 1) -> None:
    """Raises UserError if this machine has fewer than `count` devices of a type, or they can't work together."""
    if count * nodes > 1 and device not in BACKENDS:
        machines = f" and finetune.compute.nodes {nodes}" if nodes > 1 else ""
        allowed = f"1, or a device of {', '.join(BACKENDS)}"
        raise UserError(f"finetune.compute.devices {count}{machines} on {device}", allowed=allowed)
    if device == "cuda" and count > torch.cuda.device_count():
        raise UserError(
            f"finetune.compute.devices {count}, and there are fewer", allowed=f"1 to {torch.cuda.device_count()}"
        )


def spread(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    count: int,
    device: str,
    nodes: Nodes | None = None,
    run: str = "",
) -> Any:
    """What function(part, *arguments) returned, plain values, in the first of `count` processes on this machine, each
    with a part of its own; other `nodes` call the same. `run` names what all have to agree about.

    All must be picklable. Raises the UserError that a process raised, and one if a process was killed, here or on
    another machine; the others are ended then, wherever they wait.
    """
    nodes = nodes or Nodes()
    payload = pickle.dumps((function, tuple(arguments)))
    with folders.scratch() as scratch:
        group = Processes(count, device, nodes, max(1, torch.get_num_threads() // count), scratch)
        # Referred to until all is done: on the first machine it is what the others connect to.
        meeting = meet(nodes, run) if nodes.count > 1 else None
        with _deaf_to_interrupts():
            started = start_processes(_work, (payload, group), nprocs=count, join=False, start_method="spawn")  # type: ignore[no-untyped-call]
        try:
            while not started.join():
                pass
        except ProcessRaisedException:
            # What is wrong here before that others are gone, which may come of it.
            for path in sorted(group.scratch.glob("error-*.json")) + sorted(group.scratch.glob("lost-*.json")):
                raise UserError(**json_files.read(path)) from None
            raise
        except ProcessExitedException as e:
            if e.signal_name == signal.SIGINT.name:
                # Of a Ctrl-C, which this process gets as well.
                raise KeyboardInterrupt from None
            raise UserError(
                f"a training process ended by {e.signal_name or f'exit code {e.exit_code}'}; checkpoints are kept",
                allowed="memory for finetune.compute.devices copies of the network, and a program that calls this "
                "only under `if __name__ == '__main__'`",
            ) from None
        finally:
            for process in started.processes:
                if process.is_alive():
                    process.terminate()
                    process.join(_END_S)
                    process.kill()
                    process.join()
            del meeting
        return json_files.read(group.scratch / "answer.json")


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started ignore Ctrl-C, which a terminal sends to them too, until they can end without a
    word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(local: int, payload: bytes, group: Processes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Lightning takes a process that has a rank for one that needs no others started.
    ranks = {"LOCAL_RANK": str(local), "NODE_RANK": str(group.nodes.rank)}
    os.environ |= ranks | {"OMP_NUM_THREADS": str(group.threads)}
    torch.set_num_threads(group.threads)
    # gloo tells of its connections on stdout, which is for the answer of the program.
    os.dup2(sys.stderr.fileno(), 1)
    if group.device == "cuda":
        torch.cuda.set_device(local)
    function, arguments = pickle.loads(payload)
    try:
        group.join(local)
        answer = function(group.part(local), *arguments)
        if local == 0:
            json_files.write(group.scratch / "answer.json", answer)
        distributed.barrier()
    except UserError as e:
        _tell(group.scratch / f"error-{local}.json", e)
        raise
    except RuntimeError as e:
        if group.nodes.count > 1 and _is_of_group(e):
            _tell(group.scratch / f"lost-{local}.json", _lost(e))
        raise
    distributed.destroy_process_group()


def _tell(path: Path, error: UserError) -> None:
    json_files.write(path, {"what": error.what, "allowed": error.allowed, "see": error.see})


def _is_of_group(error: RuntimeError) -> bool:
    """Whether it says that other processes were not reached. gloo raises plain RuntimeErrors, in its own words."""
    return isinstance(error, distributed.DistError) or _GROUP_WORDS.search(str(error)) is not None


def _lost(error: RuntimeError) -> UserError:
    return UserError(
        "a training process of another machine ended or can't be reached "
        f"({str(error).splitlines()[0][:200]}); checkpoints are kept",
        allowed="the same command again on all machines, which goes on from the last checkpoint",
        see="what the other machines say",
    )
