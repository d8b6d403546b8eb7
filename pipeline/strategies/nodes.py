"""Machines that train together: all run the same command, and meet where the first one listens.

The first is the one that matters to a user: it tests, writes results and holds checkpoints. The others train along.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pipeline.base.errors import UserError

log = logging.getLogger(__name__)

# As Lightning names them; torchrun's name of the first is GROUP_RANK.
RANK, HOST, PORT = "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"
# How long one waits for the others: a queue may start them one after the other.
WAIT_S = 1800.0
_RUN = "run"
_OTHER = (
    "it is at another run (its settings, images or weights are others, or `auto` found another device or precision)"
)


@dataclass(frozen=True)
class Nodes:
    """`count` machines, of which this is number `rank`; `host`:`port` is where the first is reached."""

    count: int = 1
    rank: int = 0
    host: str = ""
    port: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def __str__(self) -> str:
        return f"machine {self.rank} of {self.count}, which meet at {self.host}:{self.port}"


def nodes_of(count: int, environment: Mapping[str, str] = os.environ) -> Nodes:
    """This machine's place among `count`, from the environment. Raises UserError if that doesn't tell."""
    if count == 1:
        return Nodes()
    first = f"0 to {count - 1}; 0 writes the results"
    allowed = f"on every machine {RANK} ({first}), {HOST} and {PORT} (where number 0 is reached)"
    if missing := [name for name in (RANK, HOST, PORT) if not environment.get(name)]:
        raise UserError(
            f"finetune.compute.nodes {count} without {', '.join(missing)} in the environment", allowed=allowed
        )
    rank, port = (_integer(environment[name]) for name in (RANK, PORT))
    if rank is None or not 0 <= rank < count or port is None or not 0 < port < 65536:
        raise UserError(
            f"finetune.compute.nodes {count} with {RANK} {environment[RANK]} and {PORT} {environment[PORT]}",
            allowed=allowed,
        )
    return Nodes(count, rank, environment[HOST], port)


def meet(nodes: Nodes, run: str) -> TCPStore:
    """On the first machine what the others connect to, as long as it is referred to; on these, a connection to it.

    `run` names all that changes the result: machines of another run are waited for. Raises UserError if the port is
    taken, and if the first machine is not at this run within WAIT_S.
    """
    log.info("%s", nodes)
    try:
        # torch would try for minutes.
        socket.getaddrinfo(nodes.host, nodes.port)
    except OSError as e:
        raise UserError(f"{HOST} {nodes.host} is not a name of a machine ({e})", allowed="a name or an address") from e
    if nodes.is_first:
        try:
            store = TCPStore(nodes.host, nodes.port, is_master=True, wait_for_workers=False)
        except RuntimeError as e:
            told = f"cannot listen at {nodes.host}:{nodes.port}: {str(e).splitlines()[0][:200]}"
            raise UserError(told, allowed=f"in {PORT} a free port") from e
        store.set(_RUN, run)
        return store
    return _find(nodes, run, until_s=time.monotonic() + WAIT_S)


def connect(nodes: Nodes) -> TCPStore:
    """For a process of any machine, once its machine has met the first."""
    return TCPStore(nodes.host, nodes.port, is_master=False, timeout=timedelta(seconds=WAIT_S))


def _find(nodes: Nodes, run: str, *, until_s: float) -> TCPStore:
    """It may not be there yet, or still at the run before."""
    seen = ""
    while time.monotonic() < until_s:
        try:
            # torch's client would tell of every attempt.
            socket.create_connection((nodes.host, nodes.port), timeout=5).close()
            store = TCPStore(nodes.host, nodes.port, is_master=False, timeout=timedelta(seconds=10))
            if store.get(_RUN).decode() == run:
                return store
            if seen != _OTHER:
                log.info("waiting for %s:%d, which is at another run", nodes.host, nodes.port)
            seen = _OTHER
        except (OSError, RuntimeError):
            # RuntimeError: it ended between the two connections.
            seen = "nothing listens there"
        time.sleep(0.5)
    raise UserError(
        f"the first machine, {nodes.host}:{nodes.port}, was not met in {WAIT_S:.0f} s: {seen}",
        allowed="the same command, params.yaml and out/ on all machines",
        see="docs/params.md",
    )


def _integer(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
