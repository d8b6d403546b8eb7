"""The page: drawn from `figures` and nothing else, with the numbers beside it as CSV."""

from __future__ import annotations

from pathlib import Path


def build(root: Path) -> Path:
    """Makes `root`/report from `root`/figures; returns its index.html. Raises UserError."""
    from pipeline.figures.records.files import read
    from pipeline.report.page import write_report

    out = root / "report"
    write_report(read(root / "figures"), out)
    return out / "index.html"
