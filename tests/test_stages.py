"""How a stage learns which item of its matrix it is: by the name that DVC gives it, and a name it has to be."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.errors import UserError
from stages._run import item_of

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
