"""A sample of the mutants and hostile files of `make reliability`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.reliability.child import Child
from tests.reliability.registry import PARTS
from tests.reliability.runner import has_compiler
from tests.small_files import WEIGHTS

SAMPLES = {"images": 5000, "weights": 200, "sets": 100, "hostile": len(WEIGHTS), "mutants": 24}


def wrong(part: str, count: int | None) -> list[str]:
    found = [(draw.name, draw.wrong()) for draw in PARTS[part].draws(0, count)]
    assert found
    return [f"{name}: {said}" for name, said in found if said]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "count"), SAMPLES.items())
def test_a_sample(part: str, count: int | None) -> None:
    if part == "mutants" and not has_compiler():
        pytest.skip("no compiler")
    assert wrong(part, count) == []


def test_a_child_that_hangs_dies_or_takes_too_much_is_told_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.reliability.child.LIMIT_S", 0.2)

    def work(what: str) -> str | None:
        if what == "well":
            return None
        exec(what, {})
        return "nothing happened"

    child = Child(work)
    assert child.ask("well") is None
    assert child.ask("while True: pass") == "takes more than 0.2 s"
    begins = f"import subprocess; subprocess.run(['sh', '-c', 'echo $$ > {tmp_path}/pid; while :; do :; done'])"
    assert child.ask(begins) == "takes more than 0.2 s"
    assert _is_gone(int((tmp_path / "pid").read_text())), "with what it began"
    assert child.ask("import os; os._exit(3)") == "ends the process with 3"
    assert str(child.ask("bytes(5 << 30)")).startswith("MemoryError")
    assert str(child.ask("1 / 0")).startswith("ZeroDivisionError")
    assert child.ask("well") is None
    child.close()


def _is_gone(pid: int) -> bool:
    """Whether a process has ended; it may wait for a parent that looks."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_draws_are_the_same_whenever_the_seed_is() -> None:
    names = [[draw.name for draw in PARTS["images"].draws(1, 50)] for _ in range(2)]
    assert names[0] == names[1] and len(set(names[0])) == 50
