"""The essentials of the demo's results, read from its `out/` by json and csv alone, and how far they may move.

Accuracies and what else is measured, no times, no memory. Names are those of the files on disk.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.same import PASSED_BY

Plain = dict[str, Any]

# Of the heads and of fine-tuning the means over splits are kept, and the spread of these.
_MEANS = ("accuracy", "mean_class_recall", "top5", "macro_f1", "log_loss")
# Table -> how far a figure may lie from the stored one, in the precision of the stored (fp32) and in another. In fp32 a
# processor may tip single test images (1 of 475 is .002 of a split, .0004 of the mean over five); bf16 changes codes in
# their third digit. What learns by gradient steps amplifies that: fine-tuning's spread over splits is up to .05.
# None: not compared; a verdict near its bound is the processor's.
TOLERANCE: dict[str, tuple[float | None, float | None]] = {
    "dataset": (0.0, 0.0),
    "weights": (0.0, 0.0),
    "codes": (0.0, 0.0),
    "heads": (0.005, 0.02),
    "retrieval": (0.02, 0.04),
    "finetune": (0.05, 0.05),
    "tuned": (0.05, 0.05),
    "advise": (0.02, 0.05),
    "sanity": (None, None),
    "report": (0.0, 0.0),
}
# Tables of the page with a line an answer, such as a mistake: how many lines is a figure too.
_OF_ANSWERS = ("mistakes.csv", "confusions.csv", "copies.csv")
# What another precision may change altogether: the store's key, and which of several level layers leads.
_OF_A_PRECISION = ("key", "leader")


def tables(out: Path) -> Plain:
    """Table -> row -> figure -> value. Of a demo that was stopped, the tables of the stages before fine-tuning."""
    settings = [_json(path)["settings"] for path in sorted(out.glob("codes/*/codes.json"))]
    found = {
        "precision": settings[0]["precision"],
        "dataset": {"images": _dataset(out)},
        "weights": {"settings": {name: settings[0][name] for name in ("arch", "weights_sha256")}},
        "codes": {path.parent.name: _codes(path) for path in sorted(out.glob("codes/*/codes.json"))},
        "heads": {path.parent.name: _means(_json(path)) for path in sorted(out.glob("heads/*/metrics.json"))},
        "retrieval": {path.parent.name: _numbers(_json(path)) for path in sorted(out.glob("retrieval/*/metrics.json"))},
    }
    if not (out / "report" / "metrics.json").is_file():
        return found
    return found | {
        "finetune": {path.parent.name: _trained(_json(path)) for path in sorted(out.glob("finetune/*/metrics.json"))},
        "tuned": _tuned(_json(out / "tuned" / "metrics.json")),
        "advise": _advice(_json(out / "advise" / "metrics.json")),
        "sanity": {path.parent.name: _verdicts(_json(path)) for path in sorted(out.glob("sanity/*/metrics.json"))},
        "report": {path.relative_to(out).as_posix(): _shape(path) for path in sorted(out.glob("report/**/*.csv"))},
    }


def differences(golden: Plain, found: Plain) -> Iterator[str]:
    """Lines that say which figures lie further from the stored ones than TOLERANCE allows, of the tables stored."""
    same = golden["precision"] == found["precision"]
    for table in [name for name in TOLERANCE if name in golden]:
        tolerances = TOLERANCE[table]
        allowed = tolerances[0 if same else 1]
        if allowed is None:
            continue
        for row in sorted(golden[table].keys() | found[table].keys()):
            if row not in found[table] or row not in golden[table]:
                yield f"{table}/{row} is {'gone' if row not in found[table] else 'new'}"
                continue
            one, other = golden[table][row], found[table][row]
            for name in sorted(one.keys() | other.keys()):
                a, b = one.get(name), other.get(name)
                if (name in _OF_A_PRECISION and not same) or _is_near(a, b, allowed):
                    continue
                yield f"{table}/{row}/{name} is {b!r}, was {a!r} (allowed: {allowed:g})"


def _is_near(a: Any, b: Any, allowed: float) -> bool:
    if isinstance(a, float) and isinstance(b, int | float):
        return abs(a - b) <= allowed * max(1.0, abs(a))
    return bool(a == b)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _dataset(out: Path) -> Plain:
    record = _json(out / "dataset" / "dataset.json")
    names = ("images", "failed", "unlabelled", "repeats", "seed", "manifest_sha256", "source")
    return {name: record[name] for name in names} | {f"of {c}": n for c, n in record["classes"].items()}


def _codes(path: Path) -> Plain:
    stated = _json(path)
    return {"key": stated["fingerprint"], **{name: stated[name] for name in ("dim", "rows", "dtype")}}


def _means(record: Plain) -> Plain:
    """Rounded to what can be told."""
    found = {name: record["mean"][name] for name in _MEANS} | {"spread": record["std"]["accuracy"]}
    return {name: _rounded(value) for name, value in found.items()}


def _trained(record: Plain) -> Plain:
    return _means(record) | {name: record[name] for name in ("kind", "trained_values", "values")}


def _numbers(record: Plain) -> Plain:
    """The numbers of one level, without times."""
    return {
        name: _rounded(value)
        for name, value in record.items()
        if isinstance(value, int | float | str) and not isinstance(value, bool) and not PASSED_BY.search(name)
    }


def _tuned(record: Plain) -> Plain:
    """Of both networks, by codes and head or hash; the tuned one's digest is of a training."""
    found = {"about": {name: record[name] for name in ("strategy", "n_train", "n_val", "n_test")}}
    for group in ("accuracy", "hashes"):
        for name, figures in record[group].items():
            for figure, sides in figures.items():
                found[f"{name} {figure}"] = {side: _rounded(value) for side, value in sides.items()}
    return found


def _advice(record: Plain) -> Plain:
    said = ("size", "likeness", "transfer", "leader", "images", "scored", "classes")
    # Which of settings that do equally well is chosen is a matter of last digits.
    kept = [{name: value for name, value in one.items() if name not in ("ridge", "knn_k")} for one in record["layers"]]
    return {"said": {name: record[name] for name in said}} | {one["spec"]: _numbers(one) for one in kept}


def _verdicts(record: Plain) -> Plain:
    """Of each step; words with numbers in them are left out."""
    return {"verdict": record["verdict"]} | {step["name"]: step["verdict"] for step in record["steps"]}


def _shape(path: Path) -> Plain:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    shape = {"columns": rows[0] if rows else []}
    return shape if path.name in _OF_ANSWERS else shape | {"rows": len(rows) - 1}


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
