"""The comparison of layers and heads: one self-contained page, and its numbers as CSV and DVC metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from pipeline.config import HeadsParams, ReportParams

if TYPE_CHECKING:
    from pipeline.report.inputs import Wanted


def build(root: Path, params: ReportParams, *, heads: HeadsParams, **wanted: Unpack[Wanted]) -> Path:
    """Makes `root`/report from what the earlier stages left beside it; returns its index.html. Raises UserError.

    Results that neither `wanted` nor `heads.heads` names, left from earlier params, stay out.
    """
    from pipeline.report.inputs import read_inputs
    from pipeline.report.page import write_report

    out = root / "report"
    write_report(read_inputs(root, params, heads=heads, **wanted), out)
    return out / "index.html"
