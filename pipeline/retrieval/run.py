"""One hash spec, or the exact cosine of the reference row: fitted on train, searched with test, written down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base import csv_files, disk, hdf5_files, json_files, stopping, unfinished
from pipeline.base.errors import RefusedError, UserError
from pipeline.base.skipped import Skipped, reason_in
from pipeline.base.unfinished import NOTHING, Part, SoFar
from pipeline.codes.reader import Codes
from pipeline.config import HashSpec, RetrievalParams
from pipeline.data.manifest import Manifest
from pipeline.hashing import base, check
from pipeline.hashing.base import Hasher
from pipeline.hashing.dbn.hasher import Dbn
from pipeline.hashing.pack import pack
from pipeline.hashing.save import write_bits, write_hasher
from pipeline.hashing.sigmoid import Sigmoid
from pipeline.hashing.supervised import Supervised
from pipeline.retrieval import bits as spread
from pipeline.retrieval.approximate import approximate
from pipeline.retrieval.linear import svm_accuracy
from pipeline.retrieval.measures import Curve, by_class, by_neighbours, mean_average_precision
from pipeline.retrieval.ranking import Classes, FloatRanking, HammingRanking, Neighbours, Ranking
from pipeline.retrieval.sets import QuerySets, sets_of
from pipeline.retrieval.timing import query_times
from pipeline.search import make
from pipeline.search.cosine import Cosine

log = logging.getLogger(__name__)

Packed = NDArray[np.uint8]
Record = dict[str, Any]
_HASHED_ROWS = 4096  # at a time
_FEW_QUERIES = 1000  # for what needs a product with every unrounded code


@dataclass
class Evaluation:
    """`record`: what metrics.json holds. Without a hasher (cosine), or `skipped`, there are no bits."""

    record: Record
    curve: Curve | None = None
    hasher: Hasher | None = None
    bits: NDArray[np.bool_] | None = None
    training: list[dict[str, float | int | str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Task:
    spec: HashSpec
    codes: Codes
    manifest: Manifest
    sets: QuerySets
    params: RetrievalParams
    so_far: SoFar

    @property
    def k(self) -> int:
        return min(self.params.k, self.sets.answers)

    @property
    def near(self) -> int:
        return min(self.params.neighbours, self.sets.answers)


def evaluate(
    spec: HashSpec,
    codes: Codes,
    manifest: Manifest,
    params: RetrievalParams,
    *,
    so_far: SoFar = NOTHING,
) -> Evaluation:
    """Queries are the first split's test images, the database its train and val; only train fits the hasher.

    Relevant is what has the query's label, ties are resolved by expectation, and a query is never its own answer;
    without labels there is recall against exact cosine alone. AP is over the first min(k, answers). `so_far`: of this
    very evaluation, its hasher and each of its measures. Raises UserError if the hasher refuses the codes or tells none
    of them apart, or there are too few of them.
    """
    sets = sets_of(codes, manifest, max_queries=params.max_queries, seed=params.seed)
    task = _Task(spec, codes, manifest, sets, params, so_far)
    if spec.hasher == Supervised.name and sets.targets is None:
        log.info("%s: no labels, skipped", spec.name)
        return Evaluation(Skipped("no labels").record(spec=spec.name, hasher=spec.hasher))
    cosine, build_s, true = _true_neighbours(task)
    result, ranking = _reference(task, cosine, build_s) if spec.hasher == "cosine" else _hashed(task)
    figures, result.curve = _kept_measure(so_far.part("by-neighbours"), lambda: by_neighbours(ranking, true, k=task.k))
    result.record = _about(task) | result.record | figures
    if sets.targets is not None:
        classes = Classes(sets.targets[sets.queries], sets.targets[sets.database])
        figures, result.curve = _kept_measure(
            so_far.part("by-class"), lambda: by_class(ranking, classes, k=task.k, radius=params.radius)
        )
        result.record |= figures
        log.info("%s: mAP@%d %.3f", spec.name, task.k, figures["map_at_k"])
    return result


def run_spec(
    spec: HashSpec,
    folder: Path,
    manifest: Manifest,
    params: RetrievalParams,
    out: Path,
    *,
    cache: Path | None = None,
) -> None:
    """Evaluates a spec on the codes in `folder`/<codes> and writes its files to `out`.

    `cache`: where a run that is stopped leaves its hasher and the measures that were done, and the next one takes them.

    A spec that this set has no codes for, or too few images to fit, is skipped in words, and what comes after goes on:
    a new `codes.layers` or a small folder must not need a new `retrieval.specs`. Raises UserError on bad settings.
    """
    _hasher_of(spec, params)
    where = folder / spec.codes.name
    codes = Codes.open(where) if where.is_dir() else None
    key = {} if codes is None else {"kind": "retrieval", "spec": spec.name, **_key(codes, manifest, params)}

    def kept() -> str:
        return f"{spec.name}: what was found is kept; {stopping.GOES_ON}" if so_far.written else ""

    with unfinished.of(None if codes is None else cache, key) as so_far, stopping.says(kept):
        try:
            if codes is None:
                raise UserError(f"there are no codes of {spec.codes.name}", see="codes.layers in params.yaml")
            result = evaluate(spec, codes, manifest, params, so_far=so_far)
        except RefusedError:
            raise
        except UserError as e:
            log.warning("%s: skipped: %s", spec.name, e)
            result = Evaluation(Skipped(str(e)).record(spec=spec.name, hasher=spec.hasher))
        write(result, codes, out)


def what_decides(spec: HashSpec, folder: Path, manifest: Manifest, params: RetrievalParams) -> dict[str, Any]:
    """All that changes what `run_spec` writes, as plain values; no settings of other hashers."""
    where = folder / spec.codes.name
    codes = Codes.open(where).content() if where.is_dir() else None
    own = params.model_dump(mode="json", exclude={"specs", "settings"})
    settings = params.settings.get(spec.hasher, {})
    return {"spec": spec.name, "codes": codes, "images": manifest.content(), "params": own, "settings": settings}


def _key(codes: Codes, manifest: Manifest, params: RetrievalParams) -> dict[str, Any]:
    """What an evaluation that was stopped is known by."""
    return {
        "codes": codes.content(),
        "images": manifest.content(),
        "params": params.model_dump(mode="json", exclude={"specs"}),
    }


def _kept_measure(
    so_far: SoFar, measure: Callable[[], tuple[dict[str, float], Curve]]
) -> tuple[dict[str, float], Curve]:
    def make() -> Part:
        figures, curve = measure()
        return Part({"precision": curve.precision, "recall": curve.recall}, figures)

    part = so_far.once(make)
    return dict(part.values), Curve(part.arrays["precision"], part.arrays["recall"])


def _kept_record(so_far: SoFar, measure: Callable[[], Any]) -> Any:
    """What `measure` gives, which is plain values."""
    return so_far.once(lambda: Part({}, {"record": measure()})).values["record"]


def _hasher_of(spec: HashSpec, params: RetrievalParams) -> Hasher | None:
    """Unfitted; None for cosine. Raises UserError on settings that the hasher doesn't know."""
    if spec.hasher == "cosine":
        return None
    return base.make(spec.hasher, **params.settings.get(spec.hasher, {}), **spec.parameters)


def write(result: Evaluation, codes: Codes | None, out: Path) -> None:
    """hasher.h5, bits.h5 (of every image, in id order), curve.csv, training.csv and last metrics.json.

    DVC asks for every out of a stage: where there are no bits the HDF5 files hold only a word that says so.
    """
    if codes is not None and result.hasher is not None and result.bits is not None:
        mark = write_hasher(out / "hasher.h5", result.hasher, settings=codes.settings)
        write_bits(out / "bits.h5", codes.ids, result.bits, hasher=result.hasher.name, hasher_fingerprint=mark)
    else:
        for name in ("hasher.h5", "bits.h5"):
            with hdf5_files.new(out / name) as f:
                f.attrs.update(Skipped(reason_in(result.record) or "cosine makes no bits").record())
    points = () if result.curve is None else zip(result.curve.recall, result.curve.precision, strict=True)
    disk.write_text(
        out / "curve.csv", csv_files.text([["recall", "precision"], *([f"{r:.6f}", f"{p:.6f}"] for r, p in points)])
    )
    header = list(dict.fromkeys(["phase", "epoch", *(name for row in result.training for name in row)]))
    rows = [[row.get(name, "") for name in header] for row in result.training]
    disk.write_text(out / "training.csv", csv_files.text([header, *rows]))
    json_files.write_last(out / "metrics.json", result.record)


def _about(task: _Task) -> Record:
    sets = task.sets
    return {
        "spec": task.spec.name,
        "hasher": task.spec.hasher,
        "codes": task.codes.spec,
        "dim": task.codes.dim,
        "queries_from": sets.protocol,
        "n_fit": len(sets.train),
        "n_database": len(sets.database),
        "n_queries": len(sets.queries),
        "k": task.k,
        "neighbours": task.near,
        "radius": task.params.radius,
    }


def _true_neighbours(task: _Task) -> tuple[Cosine, float, Neighbours]:
    """The cosine index of the database, the seconds it took, and each query's nearest rows in it, itself left out."""
    codes, sets = task.codes, task.sets
    rows = codes.rows(sets.database)
    start = time.perf_counter()
    cosine = Cosine(rows, codes.ids[sets.database])
    build_s = time.perf_counter() - start
    wanted = min(task.near + int((sets.own >= 0).any()), len(sets.database))
    part = task.so_far.part("true").once(
        lambda: Part({"rows": cosine.search_rows(codes.rows(sets.queries), wanted)[1]})
    )
    found = part.arrays["rows"]
    # Its own row moves behind the others, in whose order nothing changes.
    order = np.argsort(found == sets.own[:, None], axis=1, kind="stable")
    return cosine, build_s, Neighbours(np.take_along_axis(found, order, axis=1)[:, : task.near])


def _reference(task: _Task, cosine: Cosine, build_s: float) -> tuple[Evaluation, Ranking]:
    codes, sets = task.codes, task.sets
    queries = codes.rows(sets.queries)
    record: Record = {"nbits": None, "bytes_per_image": codes.dim * codes.dtype.itemsize, "build_s": build_s}
    record |= query_times(lambda q: cosine.search_rows(q, task.k), queries, task.params.timed_queries)
    linear = task.so_far.part("linear")
    record["linear"] = _kept_record(
        linear, lambda: svm_accuracy(codes, task.manifest, task.params, linear.part("choice"))
    )
    return Evaluation(record), FloatRanking.cosine(queries, cosine.codes, sets.own)


def _hashed(task: _Task) -> tuple[Evaluation, Ranking]:
    codes, sets, params = task.codes, task.sets, task.params
    hasher, training, fit_s = _fitted(task)
    found, encode_s = _encoded(hasher, task)
    check.tells_apart(found[sets.train], lambda: codes.rows(sets.train), who=hasher.name)
    packed = pack(found)
    index = make("exact", hasher.nbits)
    begun = time.perf_counter()
    index.add(packed[sets.database], codes.ids[sets.database])
    build_s = time.perf_counter() - begun
    queries = packed[sets.queries]
    record: Record = {
        "nbits": hasher.nbits,
        "bytes_per_image": packed.shape[1],
        "params": hasher.params(),
        "fit_s": fit_s,
        "encode_ms": 1000 * encode_s / len(codes),
        "build_s": build_s,
    }
    record |= query_times(lambda q: index.search_rows(q, task.k), queries, params.timed_queries)
    record["approximate"] = _kept_record(
        task.so_far.part("approximate"),
        lambda: approximate(index, queries[:_FEW_QUERIES], task.near, params.approximate, timed=params.timed_queries),
    )
    share = spread.sparse_share(index, queries[:_FEW_QUERIES], task.near)
    record["popcount"] = spread.popcounts(index.packed) | {"sparse_share": share}
    record["bits_balanced"] = spread.balanced(index.packed)
    linear = task.so_far.part("linear")
    record["linear"] = _kept_record(
        linear, lambda: svm_accuracy(_as_codes(codes, found), task.manifest, params, linear.part("choice"))
    )
    record |= _kept_record(task.so_far.part("rounding"), lambda: _rounding(hasher, codes, packed, sets, task.k))
    ranking = HammingRanking(queries, packed[sets.database], sets.own)
    return Evaluation(record, hasher=hasher, bits=found, training=training), ranking


def _fitted(task: _Task) -> tuple[Hasher, list[dict[str, float | int | str]], float]:
    """The hasher, its training's records, and the seconds that it took."""
    hasher = _hasher_of(task.spec, task.params)
    assert hasher is not None
    so_far = task.so_far.part("hasher")

    def make() -> Part:
        _fit(hasher, task, so_far)
        history = hasher.history if isinstance(hasher, Dbn) else []
        return Part(hasher.arrays(), {"training": history, "seconds": so_far.seconds()})

    part = so_far.once(make)
    fitted = type(hasher).from_arrays(hasher.params(), dict(part.arrays))
    return fitted, part.values["training"], part.values["seconds"]


def _encoded(hasher: Hasher, task: _Task) -> tuple[NDArray[np.bool_], float]:
    """The bits of all codes, and the seconds that they took."""
    so_far = task.so_far.part("bits")

    def make() -> Part:
        found = np.concatenate([hasher.bits(rows) for _, rows in task.codes.blocks(_HASHED_ROWS)])
        return Part({"bits": found}, {"seconds": so_far.seconds()})

    part = so_far.once(make)
    return part.arrays["bits"], part.values["seconds"]


def _fit(hasher: Hasher, task: _Task, so_far: SoFar) -> None:
    """On train alone; val, where there is one, only says when to stop."""
    codes, sets = task.codes, task.sets
    train = codes.rows(sets.train)
    targets = None if sets.targets is None else sets.targets[sets.train]
    val = codes.rows(sets.val) if len(sets.val) else None
    if not isinstance(hasher, Dbn):
        base.fit(hasher, train, targets=targets, val=val, so_far=so_far)
        return
    if sets.targets is None or val is None or len(val) < 3:
        hasher.fit(train, val=val, so_far=so_far, watch=_log_epoch)
        return
    labels, own = sets.targets[sets.val][:_FEW_QUERIES], np.arange(min(len(val), _FEW_QUERIES))
    classes, most = Classes(labels, labels), min(task.k, len(own) - 1)

    def rounding(soft: NDArray[np.float32], cut: NDArray[np.bool_]) -> dict[str, float]:
        """mAP among the validation images, each a query among the others, before and after rounding."""
        soft, packed = soft[: len(own)], pack(cut[: len(own)])
        return {
            "map_unrounded": mean_average_precision(FloatRanking.euclidean(soft, soft, own), classes, k=most),
            "map_rounded": mean_average_precision(HammingRanking(packed, packed, own), classes, k=most),
        }

    hasher.fit(train, val=val, so_far=so_far, rounding=rounding, watch=_log_epoch)


def _rounding(hasher: Hasher, codes: Codes, packed: Packed, sets: QuerySets, k: int) -> Record:
    """mAP@k by squared Euclidean distance of the code before it was cut, and what the cut lost, on the same queries."""
    if not isinstance(hasher, Dbn | Sigmoid) or sets.targets is None:
        return {}
    queries, own = sets.queries[:_FEW_QUERIES], sets.own[:_FEW_QUERIES]
    classes = Classes(sets.targets[queries], sets.targets[sets.database])
    soft = FloatRanking.euclidean(hasher.soft(codes.rows(queries)), hasher.soft(codes.rows(sets.database)), own)
    cut = HammingRanking(packed[queries], packed[sets.database], own)
    unrounded = mean_average_precision(soft, classes, k=k)
    return {"map_at_k_unrounded": unrounded, "rounding_loss": unrounded - mean_average_precision(cut, classes, k=k)}


def _as_codes(codes: Codes, bits: NDArray[np.bool_]) -> Codes:
    """Bits as values of +-1, which a linear head takes for codes."""
    values = np.where(bits, np.float16(1), np.float16(-1))
    return Codes.from_arrays(codes.ids, values, spec=codes.spec, settings=codes.settings)


def _log_epoch(told: Mapping[str, float | int | str]) -> None:
    figures = (f"{name.replace('_', ' ')} {v:.4g}" for name, v in told.items() if isinstance(v, float))
    log.info("%s, epoch %s: %s", told["phase"], told["epoch"], ", ".join(figures))
