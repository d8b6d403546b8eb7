"""How a stage learns which item of its matrix it is: by the name that DVC gives it, and a name it has to be."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.errors import UserError
from pipeline.base.items import Item
from stages._run import item_of, run_items

ROOT = Path(__file__).parent.parent


def asked(monkeypatch: pytest.MonkeyPatch, *args: str, dvc_stage: str | None = None) -> str:
    monkeypatch.setattr(sys, "argv", ["stages.heads", *args])
    monkeypatch.delenv("DVC_STAGE", raising=False)
    if dvc_stage is not None:
        monkeypatch.setenv("DVC_STAGE", dvc_stage)
    return item_of("heads", "about")


@pytest.mark.parametrize("stage", ["heads@conv5_3.pre-avg-l2-svm", "dvc.yaml:heads@conv5_3.pre-avg-l2-svm"])
def test_the_name_is_that_of_the_stage(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, dvc_stage=stage) == "conv5_3.pre-avg-l2-svm"
    assert asked(monkeypatch, "pool5-avg-knn", dvc_stage=stage) == "pool5-avg-knn", "by hand"


@pytest.mark.parametrize("name", ["a;touch PWNED", "../../x", "a/b", "a b", "$(x)", "a..b", ".hidden", "a\nb", "`x`"])
def test_what_is_more_than_a_name_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="more than a name"):
        asked(monkeypatch, dvc_stage=f"heads@{name}")


def test_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in (None, "", "retrieval@x"):
        with pytest.raises(UserError, match="not told what to run"):
            asked(monkeypatch, dvc_stage=stage)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs a stage of some items; returns those that it made."""
    monkeypatch.chdir(tmp_path)

    def run(*names: str, only: str = "") -> list[str]:
        made: list[str] = []

        def item(name: str) -> Item:
            def make(out: Path) -> None:
                out.mkdir(parents=True)
                made.append(name)

            return Item({"name": name}, make)

        monkeypatch.setattr(sys, "argv", ["stages.heads", *([only] if only else [])])
        run_items("heads", names, item, "about")
        return made

    return run


def test_a_longer_list_makes_what_is_new_and_a_shorter_one_removes(listed: Callable[..., list[str]]) -> None:
    assert listed("a", "b") == ["a", "b"]
    assert listed("a", "b", "c") == ["c"]
    assert listed("b") == [] and [p.name for p in Path("out/heads").iterdir()] == ["b"]


def test_one_by_hand_leaves_the_others(listed: Callable[..., list[str]]) -> None:
    listed("a", "b")
    assert listed("a", "b", only="c") == ["c"] and len(list(Path("out/heads").iterdir())) == 3


@pytest.mark.parametrize("name", ["../a", "a/b", ".."])
def test_an_item_that_is_more_than_a_name_removes_nothing(name: str, listed: Callable[..., list[str]]) -> None:
    listed("a")
    for only in ("", name):
        with pytest.raises(UserError, match="more than a name"):
            listed("b", name, only=only)
    assert [p.name for p in Path("out/heads").iterdir()] == ["a"]


def test_ctrl_c_while_a_stage_imports_shows_no_traceback() -> None:
    """As `python -m stages.NAME` imports the package before the stage."""
    code = (
        "import sys; sys.argv[0] = '-m'; import stages, os, signal; os.kill(os.getpid(), signal.SIGINT); raise OSError"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_stages_that_are_imported_leave_signals_alone() -> None:
    code = "import signal, stages; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
