"""Classes that strategies of fine-tuning map by name, against those that a source lists."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.base.errors import UserError
from pipeline.config import FinetuneParams
from pipeline.data.sources import Record
from pipeline.data.spelling import spelled


def require_labels(params: FinetuneParams, listed: Sequence[Record]) -> None:
    """Raises UserError if a strategy that is run maps classes that no listed image has."""
    classes = {record.label for record in listed} - {""}
    for name in params.run:
        named = {spelled(target) for target in params.strategies[name].labels}
        if unknown := sorted(named - classes):
            raise UserError(
                f"finetune.strategies.{name}.labels has unknown target classes {', '.join(unknown[:10])}",
                allowed=sorted(classes)[:20],
            )
