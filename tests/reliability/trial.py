"""One trial: a command that is disturbed in a fresh box, what it left, and the same command once more."""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.front import ExitCode
from tests.reliability.commands import Command, make_world
from tests.reliability.folders import Snapshot, differing, leftovers, mark, snapshot, timeless
from tests.reliability.runner import Fault, Runner, Told

_THERE = re.compile("is there already|exists")  # what a command that makes a new thing says if that is there
_NOT_THERE = re.compile("not in|not indexed|no image")  # and one that takes a thing away
# Of the cache: what a run that was stopped goes on from.
_KEPT = ("cache/finetune-runs/", "cache/hash-training/", "cache/unfinished/", "cache/work/")
# A temporary name, which stands for that of what is made.
_TEMPORARY = re.compile(r"^\.(.+?)(\.[a-z0-9_]{8})?\.(tmp.*|partial)$")
_SHOWN = 4


@dataclass(frozen=True)
class Undisturbed:
    """How a command ends when nothing is in its way. `answers`: those of `then` before it and after it."""

    code: int
    s: float
    before: Snapshot
    after: Snapshot
    answers: Sequence[str]
    writes: Sequence[str]
    reads: Sequence[str]


class World:
    """The runner, the things that commands begin with, and how each command ends undisturbed."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="reliability-"))
        self.runner = Runner(folder)
        self.box = self.runner.box
        self._folder, self._things = folder, folder / "things"
        self._undisturbed: dict[str, Undisturbed] = {}
        # Many faults leave the same: what comes after is found once for each state (`folders.mark`) and command.
        self.answers: dict[tuple[str, str], str | None] = {}
        self.reruns: dict[tuple[str, str, bool], list[str]] = {}
        atexit.register(self.close)
        make_world(self.runner)
        self.box.rename(self._things)

    def close(self) -> None:
        """Ends the server and removes all files."""
        self.runner.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def fresh(self, command: Command) -> None:
        """The box with what the command needs and nothing else."""
        shutil.rmtree(self.box, ignore_errors=True)
        (self.box / "tmp").mkdir(parents=True)
        for name in (*command.needs, "one.png"):
            thing = self._things / name
            # With their times, by which the memory of hashed files knows them.
            (shutil.copytree if thing.is_dir() else shutil.copy2)(thing, self.box / name)
        for name in command.without:
            shutil.rmtree(self.box / name)

    def undisturbed(self, command: Command) -> Undisturbed:
        """Found once. Raises RuntimeError if two such runs end differently, or one leaves something."""
        if command.name not in self._undisturbed:
            self.fresh(command)
            self.runner.run(*command.argv, learn=True)  # its time shall not be that of its imports
            first = self._run(command, Fault(0))
            second = self._run(command, Fault(0, reads=True))
            if other := differing(second.after, first.after):
                raise RuntimeError(f"{command.name} ends otherwise the second time: {other[:_SHOWN]}")
            self._undisturbed[command.name] = Undisturbed(
                first.code, second.s, first.before, first.after, first.answers, first.writes, second.reads
            )
        return self._undisturbed[command.name]

    def answer(self, command: Command) -> str | None:
        """What `then` says: what it prints and what it writes to then.npy; "" if it refuses in one line, None if it
        fails in another way."""
        if not command.then:
            return ""
        told = self.runner.run(*command.then)
        made = self.box / "then.npy"
        written = made.read_bytes().hex() if made.exists() else ""
        for beside in self.box.glob("then.*"):
            beside.unlink()
        if told.code == 0:
            return timeless(told.out) + written
        return "" if told.code in (1, 2) and "Traceback" not in told.err else None

    def _run(self, command: Command, counted: Fault) -> Undisturbed:
        self.fresh(command)
        before, first = snapshot(self.box), self.answer(command) or ""
        told = self.runner.run(*command.argv, fault=counted)
        if left := leftovers(self.box):
            raise RuntimeError(f"{command.name} leaves {left[:_SHOWN]}")
        if "Traceback" in told.err:
            raise RuntimeError(f"{command.name} fails: {told.err}")
        after, last = snapshot(self.box), self.answer(command) or ""
        return Undisturbed(told.code, told.s, before, after, (first, last), told.calls, told.calls)


@functools.cache
def world() -> World:
    """The one of this process."""
    return World()


def faulty(command: Command, fault: Fault) -> str | None:
    """What is wrong with a command of which one call fails."""
    here = world()
    calm = here.undisturbed(command)
    here.fresh(command)
    told = here.runner.run(*command.argv, fault=fault)
    wrong, now = _sentence(told, calm, fault, fewer=command.fewer), snapshot(here.box)
    if not fault.reads:  # an image that can't be read is left out, which is another result
        wrong += _state(now, calm, done=told.code == calm.code)
    # What can't be read can't be removed either, if it is a folder.
    wrong += [f"leaves {name}" for name in leftovers(here.box) if not (fault.reads and name.startswith("cache/work/"))]
    wrong += _answer(here, command, calm, now) if not fault.reads else []
    return _told(wrong + _rerun(here, command, calm, exact=not fault.reads))


def killed(command: Command, signal: int, share: float) -> str | None:
    """What is wrong with a command that gets a signal after a share of its usual time."""
    here = world()
    calm = here.undisturbed(command)
    here.fresh(command)
    told = here.runner.run(*command.argv, kill_s=share * calm.s, signal_=signal)
    wrong = []
    if told.hung or "Traceback" in told.err:
        wrong.append("hangs" if told.hung else f"traceback: {_last(told.err)}")
    # By the signal itself where it comes before the first line of ours.
    if told.code not in {calm.code, -signal, 128 + signal}:
        wrong.append(f"exit code {told.code} after signal {signal}: {_last(told.err)}")
    now = snapshot(here.box)
    wrong += _state(now, calm, done=False, hidden=False)
    wrong += _answer(here, command, calm, now)
    return _told(wrong + _rerun(here, command, calm))


def _sentence(told: Told, calm: Undisturbed, fault: Fault, *, fewer: ExitCode) -> list[str]:
    """Whether a command that failed says so in one line that names the place. It may also end
    with `fewer`, which it does with fewer images at times.
    """
    if told.hung or "Traceback" in told.err:
        return ["hangs" if told.hung else f"traceback: {_last(told.err)}"]
    if told.code == calm.code or (fault.reads and told.code == fewer):
        return []
    lines = [line for line in told.err.splitlines() if re.match(r"[\w.@-]+: error: ", line)]
    if told.code != 2 or len(lines) != 1:
        return [f"exit code {told.code}, {len(lines)} lines of errors: {_last(told.err)}"]
    if len(told.calls) < fault.nth:
        return [f"fails before the call: {lines[0]}"]
    # Where the disk is full, the first call that it refuses may be one that can be done without.
    failed = told.calls[fault.nth - 1 : None if fault.always else fault.nth]
    named = any(_names_one(_places(call), lines[0]) for call in failed)
    named = named or (fault.reads and Path(failed[0]).name in lines[0])  # of an image the path below its folder
    return [] if named else [f"does not name the place of {failed[0]}: {lines[0]}"]


def _places(call: str) -> list[str]:
    """The path of a call below the box and its parents; [] if that is the box itself."""
    path = Path(call.partition(" ")[2]).relative_to(world().box)
    path = Path(*(_TEMPORARY.sub(r"\1", part) for part in path.parts))
    if path.name.startswith(".tmp"):  # of a library, beside what is made
        path = path.parent
    return [place.as_posix() for place in (path, *path.parents)][:-1]


def _names_one(places: Sequence[str], line: str) -> bool:
    return not places or any(_names(place, line) for place in places)


def _names(place: str, line: str) -> bool:
    return re.search(rf"(^|[\s/:'\"]){re.escape(place)}($|[\s/:;,'\")])", line) is not None


def _state(found: Snapshot, calm: Undisturbed, *, done: bool, hidden: bool = True) -> list[str]:
    """Whether each file is as it was before, or as it should be after; after, if the command says that it is done."""
    wrong = []
    for path in sorted(found.keys() | calm.before.keys() | calm.after.keys()):
        values = found.get(path), calm.before.get(path), calm.after.get(path)
        if path.startswith(_KEPT) or (not hidden and any(part.startswith(".") for part in path.split("/"))):
            continue
        # What the cache lacks is made again; what it has must be right.
        if path.startswith("cache/") and (values[0] is None or path.endswith(".sqlite")):
            if str(values[0]).startswith("broken"):
                wrong.append(f"{path} is broken")
        elif values[0] not in (values[2:] if done else values[1:]):
            wrong.append(f"{path} is {'missing' if values[0] is None else 'neither as before nor whole'}")
    return wrong


def _answer(here: World, command: Command, calm: Undisturbed, now: Snapshot) -> list[str]:
    key = command.name, mark(here.box, now)
    if key not in here.answers:
        here.answers[key] = here.answer(command)
    answer = here.answers[key]
    if answer is None:
        return [f"`{' '.join(command.then)}` fails after it"]
    return [] if answer in ("", *calm.answers) else [f"`{' '.join(command.then)}` has another answer after it"]


def _rerun(here: World, command: Command, calm: Undisturbed, *, exact: bool = True) -> list[str]:
    """Whether the same command then ends as if nothing had been. Not `exact`: a file was taken for unreadable, so that
    the first run may have made something of the others, and the cache may hold more.
    """
    shutil.rmtree(here.box / "tmp")  # the system's to clear
    (here.box / "tmp").mkdir()
    for name in leftovers(here.box):  # as on the next day: another run might be at work on what is young
        os.utime(here.box / name, (0, 0))
    begun = snapshot(here.box)
    key = command.name, mark(here.box, begun), exact
    if key not in here.reruns:
        here.reruns[key] = _run_again(here, command, calm, begun, exact=exact)
    return here.reruns[key]


def _run_again(here: World, command: Command, calm: Undisturbed, begun: Snapshot, *, exact: bool) -> list[str]:
    was_done = not differing(_but_memory(begun), _but_memory(calm.after))
    told = here.runner.run(*command.argv)
    wrong = []
    refused = told.code == 2 and bool(_THERE.search(told.err) or _NOT_THERE.search(told.err))
    done_already = refused and (was_done or not exact)
    if told.hung or (told.code != calm.code and not done_already):
        wrong.append(f"rerun ends with {told.code}: {_last(told.err)}")
    if done_already and not exact:
        return wrong
    now = {p: v for p, v in snapshot(here.box).items() if exact or p in calm.after or not p.startswith("cache/")}
    wanted = calm.after
    if done_already:  # what could not be remembered is looked up by a run that reads the files again
        now, wanted = _but_memory(now), _but_memory(wanted)
    wrong += [f"after the rerun {what}" for what in differing(now, wanted)]
    return wrong + [f"the rerun leaves {name}" for name in leftovers(here.box)]


def _but_memory(found: Snapshot) -> Snapshot:
    return {path: value for path, value in found.items() if not path.endswith(".sqlite")}


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["(nothing said)"])[-1]


def _told(wrong: Sequence[str]) -> str | None:
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return "; ".join(wrong[:_SHOWN]) + more if wrong else None
