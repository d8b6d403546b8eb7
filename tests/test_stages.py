"""How a stage learns which item of its matrix it is: by the name that DVC gives it, and a name it has to be."""

from __future__ import annotations

import sys

import pytest

from pipeline.errors import UserError
from stages._run import item_of


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
