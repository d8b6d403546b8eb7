"""One strategy over every repeat: trained on train, its best epoch chosen on val, reported on test."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base import json_files, stopping
from pipeline.base.skipped import Skipped
from pipeline.config import MEMORY_MB, FinetuneParams
from pipeline.data.manifest import Manifest
from pipeline.heads.run import majority
from pipeline.heads.sets import Sets
from pipeline.metrics import classify
from pipeline.nets.weights import Weights
from pipeline.strategies import checkpoints, finished, groups, kept, live, outputs, saved
from pipeline.strategies import resume as going_on
from pipeline.strategies.direct import Direct
from pipeline.strategies.expected import Work
from pipeline.strategies.losses import guessing
from pipeline.strategies.nodes import Nodes, nodes_of
from pipeline.strategies.predict import probabilities
from pipeline.strategies.prepared import Place, Prepared, place_of, prepared, run_key, view_of
from pipeline.strategies.reading import read
from pipeline.strategies.sets import sets_of
from pipeline.strategies.train import Fitted, Limits, fit, follow, peak_memory_bytes

log = logging.getLogger(__name__)

OUTS = ("predictions.csv", "curves.csv", "groups.json", saved.MODEL, saved.HEAD)


def run_strategy(
    name: str,
    manifest: Manifest,
    weights: Weights,
    params: FinetuneParams,
    out: str | Path,
    *,
    cache: Path,
    memory_mb: int = MEMORY_MB,
    resume: Path | None = None,
) -> dict[str, Any]:
    """Writes metrics.json, OUTS, `outputs.PLAIN_TEXT` where asked, live-curves/ and kept-checkpoints/ under `out`.

    Returns what metrics.json holds. `resume`: a checkpoint that was kept, to go on from, see `resume.starts`.
    Killed at any instant, the next run goes on from the last checkpoint, half a minute of work before, to the same
    result; a strategy that was finished and lies under `out` as it was is not trained again. Without labels the files
    say that the strategy was skipped. Of several machines the first does this, the others train along and write nothing
    here. Images that are decoded at once share `memory_mb`. Raises UserError if the strategy, the weights or the data
    don't fit.
    """
    out = Path(out)
    params = params.of(name)
    nodes = nodes_of(params.nodes)
    if not manifest.classes:
        return _write_skipped(out, name, "no labels") if nodes.is_first else {}
    starts = {} if resume is None else going_on.starts(resume, going_on.Run(name, manifest, weights, params))
    place = place_of(name, manifest, weights, params, cache, memory_mb=memory_mb, starts=starts)
    if not nodes.is_first:
        return _follow(place, nodes)
    sets = _sets(place)
    repeats = range(len(sets))
    # With what could be read, so that images that are back are not passed by.
    wanted = {"inference_txt": params.inference_txt, "left_out": sets[0].left_out}
    mark = json_files.fingerprint({"runs": [run_key(place, r) for r in repeats], **wanted})
    if (before := finished.result(cache, mark, out)) is not None:
        log.info("%s: finished before, in %s", name, out)
        _forget_checkpoints(place, repeats)  # stopped in between, that run has not come to it
        return before
    records, shown, curves = [], [], []
    tests: dict[str, float] = {}
    for repeat in repeats:
        made = prepared(place, sets, repeat)
        if repeat == 0:
            # Not before it is clear that the strategy fits: a wrong wish leaves no folder.
            live.clear(out)
            kept.clear(out, lambda one: going_on.stays(place, one))
        fitted = _train(place, made, repeat, out, sets=sets, nodes=nodes)
        record, probs = _test(place, made, fitted, sets[repeat])
        records.append({"repeat": repeat} | record)
        shown.append((manifest.ids[sets[repeat].test], sets[repeat].y_test, probs))
        curves.append(fitted.curve if fitted else [])
        if repeat == 0:
            _write_model(place, made, fitted, out)
        tests |= _test_kept(place, made, out, repeat, sets[repeat])
        log.info("%s, repeat %d: accuracy %.3f. %s", name, repeat, record["accuracy"], record["reading"])
    kept.write_tests(out, tests)  # a folder without a file is one that DVC warns of
    outputs.write_predictions(out / "predictions.csv", manifest.classes, shown)
    outputs.write_curves(out / "curves.csv", curves)
    if params.inference_txt:
        outputs.write_plain_text(out, manifest, sets[0].test, shown[0][2])
    else:
        outputs.clear_plain_text(out)  # of other results
    epochs = max(len(curve) for curve in curves)
    result = {
        "strategy": name,
        "kind": place.strategy.kind,
        "settings": place.strategy.model_dump(mode="json"),
        "params": params.model_dump(mode="json", exclude={"run", "strategies"}),
        "classes": len(manifest.classes),
        "trained": _trained(made, epochs),
        "trained_values": sum(g.values for g in made.table if g.trained(epochs - 1)),
        "never_trained": outputs.never_trained(made.table, epochs),
        "values": sum(p.numel() for p in made.ready.model.parameters()),
        "renewed": made.ready.renewed,
        "left_out": sets[0].left_out,
        "device": place.device,
        "devices": made.world,
        "precision": place.precision,
        **_went_on(place),
        "repeats": records,
        **outputs.over_repeats(records),
        "majority": majority(sets, len(manifest.classes)),
    }
    json_files.write_last(out / "metrics.json", result)
    kept_ones = [str(path.relative_to(out)) for path in (out / kept.FOLDER).rglob("*") if path.is_file()]
    finished.remember(cache, mark, out, [*OUTS, *outputs.PLAIN_TEXT, *kept_ones])
    _forget_checkpoints(place, repeats)
    return result


def _went_on(place: Place) -> dict[str, Any]:
    """What the repeats went on from, if they did."""
    found = [{"repeat": r, "epoch": one.epoch, "sha256": one.digest} for r, one in sorted(place.starts.items())]
    return {"went_on_from": found} if found else {}


def _follow(place: Place, nodes: Nodes) -> dict[str, Any]:
    """What a machine does that is not the first: its part of every training that machines share."""
    sets = _sets(place)
    for repeat in range(len(sets)):
        made = prepared(place, sets, repeat)
        if made.training is not None and made.train is not None and made.world > 1:
            going_on.seed(place, made, repeat, _folder(place, repeat))
            follow(
                made.training,
                made.train,
                made.val,
                Limits.of(place.params, device=place.device, alone=False),
                folder=_folder(place, repeat),
                key=run_key(place, repeat),
                nodes=nodes,
            )
    return {"strategy": place.name, "follows": str(nodes)}


def _sets(place: Place) -> list[Sets]:
    """Of each repeat."""
    p, manifest = place.params, place.manifest
    repeats = range(min(p.repeats, manifest.repeats))
    return [sets_of(manifest, place.images, r, max_train=p.max_train, seed=p.seed) for r in repeats]


def _train(
    place: Place, made: Prepared, repeat: int, out: Path, *, sets: Sequence[Sets], nodes: Nodes
) -> Fitted | None:
    """None if the strategy trains nothing."""
    if made.training is None or made.train is None:
        return None
    if repeat == 0:
        log.info("%s trains %s\n%s", place.name, _trained(made, place.params.epochs), groups.describe(made.table))
    folder = _folder(place, repeat)
    going_on.seed(place, made, repeat, folder)
    with stopping.says(lambda: checkpoints.kept(folder, place.params.epochs)):
        return fit(
            made.training,
            made.train,
            made.val,
            Limits.of(place.params, device=place.device, alone=made.world == 1),
            folder=folder,
            key=run_key(place, repeat),
            live=live.folder(out, repeat),
            work=_work(place, made, sets) if repeat == 0 else None,
            nodes=nodes if made.world > 1 else None,
            keeping=going_on.keeping(place, made, repeat, out, loss=_loss(place)),
        )


def _work(place: Place, made: Prepared, sets: Sequence[Sets]) -> Work:
    """Of all repeats, which are as large as the first."""
    first = sets[0]
    views = _test_views(place, made)
    return Work(len(first.train), len(first.val), len(first.test), views, place.params.epochs, len(sets))


def _test_views(place: Place, made: Prepared) -> int:
    return place.params.test_views if made.ready.table and place.strategy.augment else 1


def _trained(made: Prepared, epochs: int) -> str:
    """What was trained in that many epochs, in words; in direct use the map of classes."""
    model = made.ready.model
    if isinstance(model, Direct):
        return f"nothing; {model.told()}"
    order = list(dict.fromkeys(groups.layer_of(name) for name in model.canonical()))
    return outputs.trained_text(made.table, order, epochs)


def _test(
    place: Place, made: Prepared, fitted: Fitted | None, sets: Sets
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    start = time.perf_counter()
    shown = _shown(place, made)
    predict_s = time.perf_counter() - start
    record: dict[str, Any] = {
        "n_train": len(sets.train),
        "n_val": len(sets.val),
        "n_test": len(sets.test),
        "chosen": {"epoch": fitted.best_epoch} if fitted else {},
    }
    record |= classify.measure(sets.y_test, shown, probabilities=saved.are_probabilities(_loss(place)) is True)
    train_s = fitted.train_s if fitted else 0.0
    record |= {
        "fit_s": train_s,
        "predict_s": predict_s,
        "epochs": len(fitted.curve) if fitted else 0,
        "train_s": train_s,
        "peak_memory_bytes": fitted.peak_memory_bytes if fitted else peak_memory_bytes(place.device),
        "reading": _reading(place, fitted, sets),
    }
    return record, shown


def _shown(place: Place, made: Prepared) -> NDArray[np.float32]:
    """(n, k) of the test images, by the model as it is now."""
    return probabilities(
        made.ready.model.eval(),
        made.test,
        views=_test_views(place, made),
        batch_size=place.params.batch_size,
        device=place.device,
        precision=place.precision,
    )


def _test_kept(place: Place, made: Prepared, out: Path, repeat: int, sets: Sets) -> dict[str, float]:
    """Digest -> test accuracy of the repeat's checkpoints. The model is left with the last one's weights."""
    found = {}
    for path in kept.files(kept.folder_of(out, repeat)):
        one = kept.Kept.open(path)
        made.ready.model.load_state_dict(one.model())
        found[one.digest] = float(np.mean(_shown(place, made).argmax(axis=1) == sets.y_test))
    return found


def _reading(place: Place, fitted: Fitted | None, sets: Sets) -> str:
    """What the losses say, in words."""
    if fitted is None:
        return "Nothing was trained."
    counts = np.bincount(sets.y_train, minlength=len(place.manifest.classes))
    return str(read(fitted.curve, guessing(place.params.loss, counts.tolist())))


def _write_model(place: Place, made: Prepared, fitted: Fitted | None, out: Path) -> None:
    json_files.write(out / "groups.json", groups.as_json(made.table))
    provenance = {
        "source": f"finetune:{place.name}",
        "kind": place.strategy.kind,
        "from": dict(place.weights.provenance),
        "from_sha256": place.weights.sha256,
        "epoch": fitted.best_epoch if fitted else 0,
    }
    saved.write(
        out,
        made.ready.model,
        classes=place.manifest.classes,
        view=view_of(place.params),
        loss=_loss(place),
        provenance=provenance,
        source=place.weights,
    )


def _loss(place: Place) -> str:
    """What the scores were trained by. In direct use the source's: cross-entropy, as published classifiers are, unless
    a network that was tuned here says another."""
    if place.strategy.kind == "direct":
        return str(place.weights.provenance.get("loss", "cross_entropy"))
    return place.params.loss


def _folder(place: Place, repeat: int) -> Path:
    return place.cache / checkpoints.FOLDER / run_key(place, repeat)[:32]


def _forget_checkpoints(place: Place, repeats: range) -> None:
    """The results are written: what was kept for a kill goes. What `keep_every` asked for is beside them."""
    for repeat in repeats:
        shutil.rmtree(_folder(place, repeat), ignore_errors=True)


def _write_skipped(out: Path, name: str, reason: str) -> dict[str, Any]:
    live.clear(out)
    kept.clear(out, lambda _: False)
    kept.write_tests(out, {})
    return Skipped(reason).write(out, texts=OUTS, strategy=name)
