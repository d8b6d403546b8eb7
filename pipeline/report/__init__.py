"""The comparison of layers and heads: one self-contained page, and its numbers as CSV and DVC metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import HeadsParams, ReportParams


def build(
    root: Path,
    params: ReportParams,
    *,
    heads: HeadsParams,
    specs: Sequence[str],
    retrieval: Sequence[str] = (),
    strategies: Sequence[str] = (),
    sanity: Sequence[str] = (),
) -> Path:
    """Makes `root`/report from what the earlier stages left beside it; returns its index.html. Raises UserError.

    `specs` and `heads.heads` name the combinations to compare, `retrieval` the hashes, `strategies` those
    of the finetune stage, `sanity` those that were checked: results of others, left from earlier params, stay out.
    """
    from pipeline.report.inputs import read_inputs
    from pipeline.report.page import write_report

    out = root / "report"
    inputs = read_inputs(
        root, params, heads=heads, specs=specs, retrieval=retrieval, strategies=strategies, sanity=sanity
    )
    write_report(inputs, out)
    return out / "index.html"
