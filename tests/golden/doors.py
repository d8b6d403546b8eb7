"""The one way of the golden tests into the product: each door says in product-free words what it gives.

When a module moves, only this file follows it. The doors take and give plain values, arrays and paths, so that the
golden files and their tests know no class of the product.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.optimizer import register_optimizer_step_post_hook

from pipeline import config, transfer, tuned, workspace
from pipeline.advice import reference
from pipeline.base.cache import cache_root
from pipeline.codes import Codes, Embedder, parts, settings
from pipeline.codes import extract as extract_codes
from pipeline.codes.plan import check
from pipeline.codes.store import Store
from pipeline.codes.weights_header import WeightsHeader
from pipeline.collection import Collection, add
from pipeline.collection import build as build_collection
from pipeline.data.build import build as build_dataset
from pipeline.data.manifest import Failure, Manifest
from pipeline.hashing.base import HASHERS
from pipeline.hashing.save import read_bits, read_hasher, write_bits, write_hasher
from pipeline.heads.model import Model
from pipeline.heads.model import predict as score
from pipeline.heads.predict import predict as label
from pipeline.heads.registry import HEADS
from pipeline.heads.run import fit_head
from pipeline.heads.scaling import Scaling
from pipeline.nets import backbone
from pipeline.nets.vgg.facts import tensor_shapes as tensor_shapes_of
from pipeline.nets.weights import Preprocessing, Weights, read_canonical, write_canonical
from pipeline.nets.weights.preprocessings import PREPROCESSINGS
from pipeline.nets.weights.record import plain_preprocessing
from pipeline.retrieval.run import run_spec
from pipeline.search import INDEXES
from pipeline.search import make as make_index
from pipeline.search import save as indexes
from pipeline.strategies import baselines, outputs, saved, tree
from pipeline.strategies.direct import Direct
from pipeline.strategies.images import CachedView
from pipeline.strategies.kept import find as find_kept
from pipeline.strategies.model import Classifier, TrunkClassifier
from pipeline.strategies.run import run_strategy

Plain = dict[str, Any]
Array = NDArray[Any]
Ids = NDArray[np.str_]

HASHER_NAMES = tuple(HASHERS)
HEAD_NAMES = tuple(HEADS)
INDEX_NAMES = tuple(INDEXES)
# Of the one family that there was.
ARCH_NAMES = tuple(arch for arch in backbone.archs() if backbone.find(arch).family == "vgg")

# What a section of params holds where a test says nothing else.
CODES: Plain = {
    "layers": ["pool5-avg"],
    "view": "crop",
    "crop": 224,
    "scales": [256],
    "flip": False,
    "combine": "average",
    "background": [255, 255, 255],
    "reduced_decode": False,
    "precision": "fp32",
    "dtype": "float16",
    "device": "cpu",
    "batch_size": 16,
    "memory_mb": 4096,
    "compile": False,
}


# --- keys


def preprocessings() -> dict[str, Plain]:
    """Name -> channels, scale, mean, std of every preprocessing that ships."""
    return {name: _plain(one) for name, one in PREPROCESSINGS.items()}


def variant(arch: str, side: int, widths: tuple[int, int]) -> str:
    """The name of an architecture with other fc layers."""
    return backbone.find(arch).with_head("vgg", size=side, widths=widths)


def layer_names(arch: str) -> tuple[str, ...]:
    return backbone.names(backbone.find(arch))


def records(*, arch: str, weights_sha256: str, normalisation: Plain, codes: Plain) -> dict[str, Plain]:
    """Spec -> the record of all that changes a value of its codes; `codes`: keys of CODES to change."""
    params = config.CodesParams.model_validate(CODES | codes)
    wanted = settings.Normalisation.model_validate_json(json.dumps(normalisation))
    found = settings.resolve(params, arch=arch, weights_sha256=weights_sha256, normalisation=wanted)
    return {spec: one.as_json() for spec, one in found.items()}


def key(record: Plain) -> str:
    """The folder in the store for codes of a record."""
    return settings.Settings.from_json(record).key


def read_codes_section(params_file: Path) -> Plain:
    """The section `codes` of a params file, whole and checked."""
    return config.load(config.CodesParams, params_file).model_dump(mode="json")


# --- files from fixed arrays


def write_store(root: Path, record: Plain, digests: Sequence[str], rows: Array, notes: Plain) -> Store:
    """One shard, and the list of its images, below `root`/codes/KEY."""
    store = Store(record, dim=rows.shape[1], dtype=str(rows.dtype), root=root)
    store.append(np.array(digests, dtype="S64"), rows, notes=notes)
    return store


def write_codes(folder: Path, record: Plain, ids: Ids, digests: Sequence[str], rows: Array, *, scratch: Path) -> None:
    """`folder`/SPEC with its parts and codes.json, and failures.csv beside it."""
    one = settings.Settings.from_json(record)
    store = write_store(scratch, record, digests, rows, {})
    parts.export_parts(one, store, ids, np.array(digests, dtype="S64"), folder / one.spec.name)
    parts.write_failures(folder, {str(ids[0]): ("=a,b\nc.jpg", 'it is "cut" short')})


def write_manifest(
    folder: Path, columns: Mapping[str, Array], about: Plain, failures: Sequence[tuple[str, ...]]
) -> None:
    Manifest(root=Path(about.pop("root")), **columns, **about).write(folder, [Failure(*f) for f in failures])


def write_index(
    folder: Path, kind: str, how: Plain, *, packed: Array, ids: Ids, made_by: Plain, columns: dict[str, Array]
) -> None:
    """A new index of packed bits with its columns and a file of its own."""
    one = indexes.Saved(_index(kind, how, packed, ids), made_by, columns, {"note.txt": b"a file that comes along"})
    indexes.create(folder, one)


def add_to_index(folder: Path, packed: Array, ids: Ids, columns: dict[str, Array]) -> None:
    """The next generation, with more rows."""
    with indexes.updating(folder) as one:
        one.add(packed, ids, columns)


def _index(kind: str, how: Plain, packed: Array, ids: Ids) -> Any:
    index = make_index(kind, packed.shape[1] * 8, **how)
    index.add(packed, ids)
    return index


def write_hash_file(path: Path, hasher: str, params: Plain, arrays: Mapping[str, Array], record: Plain) -> None:
    """A hasher that learned these arrays."""
    write_hasher(path, HASHERS[hasher].from_arrays(params, dict(arrays)), settings=record)


def write_bits_file(path: Path, ids: Ids, bits: NDArray[np.bool_]) -> None:
    write_bits(path, ids, bits, hasher="lsh", hasher_fingerprint="f" * 64)


def write_head(
    path: Path, head: str, arrays: Mapping[str, Array], *, scaling: tuple[str, Array, Array], classes: Sequence[str],
    record: Plain,
) -> None:  # fmt: skip
    """A head that learned these arrays, for codes of `record`."""
    one = settings.Settings.from_json(record)
    made = HEADS[head].from_arrays(arrays)
    dim = one.dim(num_classes=1000)
    Model(head, made, Scaling(*scaling), tuple(classes), one.spec.name, dim, record).save(path)


def write_reference(path: Path, name: str, shared: Plain, rows: Mapping[str, Array]) -> None:
    reference.write(reference.Reference(name, shared, rows), path)


def tensor_shapes(arch: str, *, deepest: str | None = None, classes: int = 6) -> dict[str, tuple[int, ...]]:
    """Canonical names and shapes of an architecture's tensors."""
    return tensor_shapes_of(arch, deepest=deepest, num_classes=classes)


def write_weights(
    path: Path, arch: str, tensors: Mapping[str, Array], preprocessing: Plain, *, classes: Sequence[str] | None = None
) -> str:
    """The canonical file; returns the digest that identifies the weights."""
    one = _weights(arch, tensors, preprocessing, classes)
    write_canonical(one, path)
    return one.sha256


def _weights(arch: str, tensors: Mapping[str, Array], preprocessing: Plain, classes: Sequence[str] | None) -> Weights:
    return Weights.make(
        arch,
        {name: torch.from_numpy(a) for name, a in tensors.items()},
        _preprocessing(preprocessing),
        {"source": "golden"},
        None if classes is None else tuple(classes),
    )


def write_tuned(
    folder: Path, kind: str, tensors: Callable[[str, tuple[int, ...]], Array], source: tuple[str, Mapping[str, Array]],
    preprocessing: Plain,
) -> None:  # fmt: skip
    """A trained network's two files. `kind`: gap, vgg, direct or cnn; `tensors`: a tensor's name, shape -> values."""
    classes, source_classes = ("blue", "green", "red"), ("a", "b", "c", "d", "e", "f")
    own = _weights(source[0], source[1], preprocessing, source_classes)
    model: Classifier
    if kind == "direct":
        model = Direct(own, {"blue": ["a", "b"], "red": ["c"]}, classes, size=64)
    elif kind == "cnn":
        model = baselines.Baseline("cnn", k=3, widths=(8, 8), dropout=0.5, size=32)
    else:
        model = TrunkClassifier(source[0], own.preprocessing, size=32, head=kind, widths=(12, 10), dropout=0.5, k=3)
    if kind != "direct":
        with torch.no_grad():
            for name, tensor in model.canonical_state().items():
                tensor.copy_(torch.from_numpy(tensors(name, tuple(tensor.shape))))
    view = CachedView("crop", 36, (255, 255, 255))
    provenance = {"source": "finetune:golden", "kind": "finetune", "from": {"source": "golden"}, "epoch": 2}
    saved.write(
        folder, model.eval(), classes=classes, view=view, loss="cross_entropy", provenance=provenance, source=own
    )


def write_checkpoint(path: Path, values: Any, about: Plain) -> None:
    """Nested values, in which arrays become tensors."""
    tree.write(path, _tensors(values), about=about)


def _tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, dict):
        return {name: _tensors(one) for name, one in value.items()}
    return [_tensors(one) for one in value] if isinstance(value, list) else value


def write_training_tables(folder: Path, curves: list[list[Plain]], classes: Sequence[str], shown: list[Any]) -> None:
    outputs.write_curves(folder / "curves.csv", curves)
    outputs.write_predictions(folder / "predictions.csv", classes, shown)


# --- what was made before: a small world of everything, and its answers


@dataclass
class Counted:
    """What was computed meanwhile: modules of a network that were called, steps of an optimiser, hashers and heads that
    were fitted."""

    forward: int = 0
    steps: int = 0
    fits: list[str] = field(default_factory=list)

    def nothing(self) -> bool:
        return not (self.forward or self.steps or self.fits)


@contextlib.contextmanager
def counted() -> Iterator[Counted]:
    """Counts at torch's own doors, whatever of the product runs the network, and at each hasher's and head's `fit`."""
    found = Counted()

    def forward(*_: Any) -> None:
        found.forward += 1

    def step(*_: Any) -> None:
        found.steps += 1

    def noted(name: str, fit: Any) -> Any:
        def fitting(*args: Any, **keys: Any) -> Any:
            found.fits.append(name)
            return fit(*args, **keys)

        return fitting

    with contextlib.ExitStack() as stack:
        # Functions for private use, as torch says, and the only ones that see every module.
        hooks = [
            torch.nn.modules.module.register_module_forward_pre_hook(forward),
            register_optimizer_step_post_hook(step),
        ]
        for hook in hooks:
            stack.callback(hook.remove)
        for name, kind in itertools.chain(HASHERS.items(), HEADS.items()):
            # A bound classmethod of a head, a plain function of a hasher.
            patched = noted(name, kind.fit)
            stack.enter_context(mock.patch.object(kind, "fit", staticmethod(patched) if name in HEADS else patched))
        yield found


def list_images(images: Path, folder: Path) -> None:
    """The manifest of a folder of images without labels."""
    params = {"source": "folder", "root": str(images), "val_share": 0.0, "test_share": 0.0, "repeats": 1}
    build_dataset(workspace.preset(config.DatasetParams, **params), folder, labels_needed=False)


def extract(images: str, out: str, specs: Sequence[str], *, weights: str, codes: Plain, dataset: Plain) -> None:
    """A workspace from a folder of images, by the store of $CNNCODES_CACHE."""
    workspace.extract(images, out=out, layers=specs, weights=weights, codes=codes, dataset=dataset)


def read_codes(folder: Path) -> tuple[list[str], Array, str]:
    """ids, rows and key of the codes in OUT/codes/SPEC."""
    codes = Codes.open(folder)
    return codes.ids.tolist(), codes.rows(slice(None)), codes.fingerprint


def stored_rows(weights: Path, params: Plain, dim: dict[str, int], manifest: Path) -> dict[str, Array | None]:
    """Spec -> the rows of a manifest's images, read from the store of $CNNCODES_CACHE; None if it lacks some."""
    digests = Manifest.read(manifest).pixel_digests.astype("S64")
    found = check(WeightsHeader.of(weights), config.CodesParams.model_validate(CODES | params))
    return {
        spec: Store(one.as_json(), dim=dim[spec], dtype=one.dtype, root=cache_root()).read(digests)
        for spec, one in found.items()
    }


def embed(weights: Path, codes_folder: Path, images: Sequence[Path]) -> Array:
    """Rows of images as those of a folder of codes were made."""
    return Embedder(weights, Codes.open(codes_folder).settings)(images)


def extract_rows(weights: Path, manifest: Path, codes: Plain, out: Path, cache: Path) -> dict[str, Array]:
    """Spec -> the rows of a manifest's images, by a store of its own, written to `out`."""
    params = config.CodesParams.model_validate(CODES | codes)
    found = extract_codes(Manifest.read(manifest), weights, params, out, cache=cache)
    return {spec: one.rows(slice(None)) for spec, one in found.items()}


def read_manifest(folder: Path) -> dict[str, list[Any]]:
    """Columns of a manifest, and its splits, as lists."""
    one = Manifest.read(folder)
    columns = {name: getattr(one, name).tolist() for name in ("ids", "paths", "labels", "sha256", "splits", "targets")}
    return columns | {"pixel_digests": one.pixel_digests.tolist(), "classes": list(one.classes)}


def fit(out: Path, spec: str, head: str, **params: Any) -> None:
    """OUT/heads/SPEC-HEAD."""
    space = workspace.Workspace(out)
    how = config.HeadsParams.model_validate(HEADS_SECTION | params)
    fit_head(space.codes(spec), space.manifest(), how, head, out / "heads" / f"{spec}-{head}")


HEADS_SECTION: Plain = {
    "heads": ["svm"], "scaling": "l2", "c_grid": [0.1, 1.0, 10.0], "k_grid": [1, 3], "class_weight": "none",
    "memory_mb": 256, "seed": 0,
}  # fmt: skip


def head_answers(out: Path, name: str) -> tuple[list[str], Array]:
    """Labels and scores of every image whose codes are in `out`, by the head OUT/heads/NAME; no network is run."""
    model = Model.load(out / "heads" / name / "model.h5")
    return score(model, Codes.open(out / "codes" / model.spec))


def head_labels(head: Path, images: Sequence[Path]) -> list[list[tuple[str, float]]]:
    """(label, score) of new images, best first, through the network."""
    return [[(c["label"], c["score"]) for c in one["classes"]] for one in label(head, images)]


def retrieve(out: Path, spec: str, params: Plain) -> None:
    """OUT/retrieval/SPEC."""
    how = config.RetrievalParams.model_validate(RETRIEVAL_SECTION | params | {"specs": [spec]})
    manifest = workspace.Workspace(out).manifest()
    run_spec(config.HashSpec.parse(spec), out / "codes", manifest, how, out / "retrieval" / spec)


RETRIEVAL_SECTION: Plain = {
    "specs": ["cosine-pool5-avg"], "settings": {}, "approximate": {}, "k": 20, "neighbours": 5, "radius": 2,
    "max_queries": 1000, "timed_queries": 2, "c_grid": [1.0], "memory_mb": 256, "seed": 0,
}  # fmt: skip


def hashed_codes(spec: str) -> str:
    """The spec of the codes that a hash spec names."""
    return config.HashSpec.parse(spec).codes.name


def saved_bits(folder: Path) -> tuple[list[str], Array]:
    """ids and packed bits in a folder's bits.h5."""
    bits = read_bits(folder / "bits.h5")
    return bits.ids.tolist(), bits.packed


def hash_again(folder: Path, rows: Array) -> Array:
    """Packed bits of codes by the hasher in a folder's hasher.h5."""
    return np.packbits(read_hasher(folder / "hasher.h5").hasher.bits(rows), axis=1)


def search_index(folder: Path, queries: Array, k: int) -> list[list[tuple[str, int]]]:
    """(id, distance) of the k nearest of each query."""
    distances, ids = indexes.load(folder).index.search(queries, k)
    return [
        [(str(i), int(d)) for i, d in zip(*one, strict=True)]
        for one in zip(ids.tolist(), distances.tolist(), strict=True)
    ]


def search_index_within(folder: Path, queries: Array, radius: int) -> list[list[tuple[str, int]]]:
    found = indexes.load(folder).index.range_search(queries, radius)
    return [[(str(i), int(d)) for d, i in zip(distances, ids, strict=True)] for distances, ids in found]


def index_rows(folder: Path) -> tuple[list[str], Array, dict[str, Array]]:
    """ids, packed bits and columns of an index."""
    one = indexes.load(folder)
    return one.index.ids.tolist(), one.index.packed, one.columns


def build(images: str, folder: str, weights: str, codes: Plain, **asked: Any) -> None:
    """A searchable collection."""
    build_collection(images, folder, weights=weights, codes=codes, **asked)


def collection_methods(folder: Path) -> list[str]:
    return list(Collection.open(folder).methods)


def search(folder: Path, image: Path | str, method: str, k: int) -> list[tuple[str, float]]:
    """(id, distance) of the k nearest images to a file, or to an image of the collection by its id."""
    one = Collection.open(folder)
    if isinstance(image, Path):
        found = one.search(image, k=k, method=method)
    else:
        found = one.search_id(image, k=k, method=method)
    return [(n.id, float(n.distance)) for n in found.neighbours]


def add_images(folder: Path, images: Path) -> Plain:
    """What adding a folder to a collection did."""
    return add(folder, images).as_json()


def finetune(filled: str, out: str, strategies: Mapping[str, Plain], **changes: Any) -> None:
    """OUT/finetune/NAME of each strategy, on the dataset and weights of a workspace."""
    transfer.finetune(filled, out=out, strategies=list(strategies), settings=_training(strategies, changes))


def finetune_again(out: Path, name: str, strategies: Mapping[str, Plain], **changes: Any) -> Plain:
    """What the metrics.json of a strategy holds, after it was asked for once more."""
    space = workspace.Workspace(out)
    params = transfer.params_of(_training(strategies, changes) | {"run": list(strategies)})
    weights = read_canonical(space.weights_file)
    return run_strategy(name, space.manifest(), weights, params, out / "finetune" / name, cache=cache_root())


def _training(strategies: Mapping[str, Plain], changes: Mapping[str, Any]) -> Plain:
    empty = {"multiple": 0.0, "below": "", "every": 0, "augment": [], "labels": {}, "table": []}
    return {"strategies": {name: empty | one for name, one in strategies.items()}, **changes}


def tuned_answers(folder: Path, images: Sequence[Path], *, checkpoint: str | None = None) -> Array:
    """(n, k) probabilities of images by a strategy's network, or by one of its checkpoints."""
    model = saved.read(folder) if checkpoint is None else saved.read_kept(find_kept(folder, checkpoint))
    return model.probabilities(images)


def tuned_curves(folder: Path) -> list[list[Plain]]:
    return outputs.read_curves(folder / "curves.csv")


def measure_tuned(strategy: Path, out: Path, *, layer: str, hashes: Sequence[str], codes: Plain) -> Plain:
    """`out` with codes, heads and hashes of a tuned network and of its source."""
    space = workspace.Workspace(strategy.parent.parent)
    params = {"strategy": strategy.name, "layers": [layer], "heads": ["svm"], "hashes": hashes, "batch_size": 16}
    protocol = tuned.Protocol(
        config.TunedParams.model_validate(params),
        config.CodesParams.model_validate(CODES | codes),
        config.HeadsParams.model_validate(HEADS_SECTION),
        config.RetrievalParams.model_validate(RETRIEVAL_SECTION | {"specs": hashes}),
    )
    return tuned.measure(strategy, space.weights_file, space.manifest(), protocol, out, cache=cache_root())


def make_reference(path: Path, out: Path, specs: Sequence[str]) -> None:
    reference.write(reference.make({s: Codes.open(out / "codes" / s) for s in specs}, name="golden"), path)


def distance_to(path: Path, out: Path, spec: str) -> tuple[float, float]:
    """Of an OUT's codes to a reference, and the reference's own yardstick."""
    one = reference.read(path)
    reference.require_same(one, {spec: Codes.open(out / "codes" / spec).settings})
    found = reference.distance(Codes.open(out / "codes" / spec).rows(slice(None)), one, spec)
    assert found is not None
    return found.distance, found.yardstick


def _preprocessing(values: Plain) -> Preprocessing:
    return Preprocessing(values["channels"], values["scale"], tuple(values["mean"]), tuple(values["std"]))


def _plain(one: Preprocessing) -> Plain:
    return plain_preprocessing(one)
