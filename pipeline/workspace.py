"""The folder that a run fills, by DVC (`out/`) or by the command line, and the same steps as typed functions.

```python
from pipeline import extract, compare
run = extract("photos", out="codes", layers=["conv5_2-avg", "pool5-flatten"])
run.codes("conv5_2-avg").by_id(run.manifest().ids[:3])    # (3, 512)
compare(run)                                              # codes/report/index.html
```
Values not given come from pipeline/config/presets/base.yaml; `cnncodes info` prints what was used.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pipeline import config
from pipeline.base import disk, json_files
from pipeline.base.cache import cache_root
from pipeline.base.errors import UserError
from pipeline.base.versions import VERSIONS
from pipeline.base.writable import require_writable
from pipeline.config.heads import HeadName
from pipeline.nets import backbone, external_data
from pipeline.nets.mistaken import require_not_mistaken

if TYPE_CHECKING:
    from pipeline.codes import Codes
    from pipeline.codes.settings import Settings
    from pipeline.data.manifest import Manifest
    from pipeline.nets.weights import Weights

HEAD_NAMES: tuple[str, ...] = get_args(HeadName)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workspace:
    """`root` with `dataset/`, `weights/`, `codes/<spec>/`, `heads/<spec>-<head>/`, `figures/`, `report/` below it."""

    root: Path

    @classmethod
    def open(cls, root: str | Path) -> Workspace:
        """Raises UserError if the folder holds no codes."""
        found = cls(Path(root))
        if not found.specs():
            raise UserError(
                f"{root} holds no codes",
                allowed="a folder that `cnncodes extract` or `dvc repro` filled",
                see="`cnncodes extract --help`",
            )
        return found

    @property
    def weights_file(self) -> Path:
        return self.root / "weights" / "weights.safetensors"

    def specs(self) -> list[str]:
        """Names of the codes that are here, sorted. Raises PermissionError if it may not be told."""
        folder = self.root / "codes"
        return sorted(p.name for p in folder.iterdir() if (p / "codes.json").exists()) if folder.is_dir() else []

    def codes(self, spec: str) -> Codes:
        """Raises UserError if the spec is not here, naming those that are."""
        from pipeline.codes import Codes

        if spec not in self.specs():
            close = [s for s in self.specs() if s.split("-")[0] == spec]
            if len(close) != 1:
                raise UserError(f"{self.root} holds no codes of {spec!r}", allowed=close or self.specs())
            spec = close[0]
        return Codes.open(self.root / "codes" / spec)

    def heads_on(self, spec: str) -> list[Path]:
        """Folders of the heads on codes that were trained here."""
        names = [f"{spec}-{head}" for head in HEAD_NAMES]
        return [folder for name in names if (folder := self.root / "heads" / name).is_dir()]

    def manifest(self) -> Manifest:
        from pipeline.data.manifest import Manifest

        return Manifest.read(self.root / "dataset")

    def weights(self) -> Weights:
        from pipeline.nets.weights import read_canonical

        return read_canonical(self.weights_file)


def preset(model: type[config.S], **changes: Any) -> config.S:
    """A section of the preset with some keys changed. Raises UserError on unknown keys and bad values."""
    section = next(name for name, m in config.PRESET_SECTIONS.items() if m is model)
    return config.validate(model, config.over(config.preset_values()[section], changes, (section,)), where=section)


def canonical_weights(params: config.WeightsParams, cache: Path) -> Path:
    """The canonical file of these weights under `cache`, made once: what has it loads no torch. Raises UserError."""
    source: dict[str, Any] = params.model_dump() | {"version": VERSIONS["weights"]}
    if params.source == "file":
        named = [Path(params.file), Path(params.file + ".json"), *_beside(Path(params.file))]
        source["file"] = [disk.sha256(path) for path in named if path.is_file()]
    path = cache / "weights" / f"{json_files.fingerprint(source)}.safetensors"
    if not path.is_file():
        from pipeline.nets.weights import resolve, write_canonical

        write_canonical(resolve(params, cache), path)
    return path


def _beside(path: Path) -> list[Path]:
    """Other files that a weights file needs. Raises UserError if it names what is not beside it."""
    if path.suffix.lower() != ".onnx" or not path.is_file():
        return []
    require_not_mistaken(path)
    return external_data.files(path)


def network(arch: str | None, weights: str) -> tuple[config.WeightsParams, dict[str, Any]]:
    """The params of some weights, and keys of `codes` for the view of images that they were trained on.

    A canonical file states both: its architecture, and the view if it was trained here. Without `arch` that of another
    file is found from the shapes of its layers, and that of weights with a name is the preset's. Raises UserError if
    `arch` contradicts the file, or several fit it alike.
    """
    from pipeline.codes.weights_header import stated

    own = stated(weights)
    if own is not None and arch not in (None, own.arch):
        raise UserError(f"{weights} holds weights of {own.arch}, not {arch}", allowed=f"{own.arch}, or no architecture")
    named = arch or (own.arch if own else _arch_of(weights))
    return config.WeightsParams.of(named, weights), dict(own.codes if own else backbone.find(named).codes)


def _arch_of(weights: str) -> str:
    usual: str = config.preset_values()["weights"]["arch"]
    if config.WeightsParams.of(usual, weights).source != "file":
        return usual
    from pipeline.nets.weights.sources import arch_of

    return arch_of(Path(weights))


def images_section(
    images: str | Path | None, train: Sequence[str | Path] = (), test: Sequence[str | Path] = ()
) -> dict[str, Any]:
    """The keys of the section `dataset` that say where images are: in a folder, or in HDF5 files of train and of test.

    Raises UserError unless it is one of both.
    """
    files = [os.path.abspath(file) for file in (*train, *test)]
    if (images is None) == (not files):
        came = "there are no images" if images is None else f"there are both the folder {images} and {files[0]}"
        raise UserError(
            came,
            allowed="a folder of images, or HDF5 files by --train FILE and --test FILE (train=, test= in Python)",
            see="docs/params.md",
        )
    if images is not None:
        return {"source": "folder", "root": str(images)}
    if missing := [str(file) for file in (*train, *test) if not Path(file).is_file()]:
        raise UserError(f"{', '.join(missing)}: no such file", allowed="HDF5 files", see="docs/params.md")
    root = os.path.commonpath([os.path.dirname(file) for file in files])  # noqa: PTH120
    return {"source": "hdf5", "root": root, "train": list(map(str, train)), "test": list(map(str, test))}


def extract(
    images: str | Path | None = None,
    *,
    out: str | Path,
    train: Sequence[str | Path] = (),
    test: Sequence[str | Path] = (),
    layers: Sequence[str] | None = None,
    arch: str | None = None,
    weights: str = "demo",
    dataset: dict[str, Any] | None = None,
    codes: dict[str, Any] | None = None,
    shard: tuple[int, int] | None = None,
    replace: bool = False,
    fleeting: bool = False,
) -> Workspace:
    """Codes of every image in a folder, computed once and kept; `out` becomes a workspace.

    `train`, `test`: HDF5 files (docs/params.md) in place of the folder; test is the test split of every repeat.
    `layers`: specs such as `conv5_3-avg`. `arch`: if None, what `network` finds. `dataset` and `codes`:
    keys of those params sections to change; a network that was tuned here brings the view of its training. `shard`
    (i, n), i from 1: only the i-th of n shares, for several machines with one cache. Codes of other layers that `out`
    holds, of the same folder and settings, stay beside the new ones and are brought up to date with them. `replace`:
    codes of other images or settings, and the heads on them, go; without it they are an error that lists them.
    `fleeting`: `out` goes away with the command, so that the list of what is left out is kept in the cache. Raises
    UserError.
    """
    from pipeline.codes import extract as run_extraction
    from pipeline.codes.plan import check
    from pipeline.codes.weights_header import WeightsHeader
    from pipeline.data.build import build
    from pipeline.data.sources.folder import require_folder

    space = Workspace(Path(out))
    require_writable(space.root)
    source, view = network(arch, weights)
    params = preset(config.CodesParams, **(view | (codes or {})), **({"layers": list(layers)} if layers else {}))
    data = preset(config.DatasetParams, **images_section(images, train, test) | (dataset or {}))
    if data.source == "folder":
        require_folder(data.root)  # before weights are looked for
    canonical = canonical_weights(source, cache_root())
    header = WeightsHeader.of(canonical)
    kept, lost = _what_stays(space, data, check(header, params), replace=replace)
    params = params.model_copy(update={"layers": [*params.layers, *kept]})
    check(header, params)
    memory_mb = params.memory_mb
    manifest = build(data, space.root / "dataset", labels_needed=False, fleeting=fleeting, memory_mb=memory_mb)
    for folder in (folder for spec in lost for folder in space.heads_on(spec)):
        shutil.rmtree(folder)
    with disk.atomic_path(space.weights_file) as tmp:
        shutil.copyfile(canonical, tmp)
    run_extraction(manifest, space.weights_file, params, space.root / "codes", shard=shard)
    return space


def _what_stays(
    space: Workspace,
    data: config.DatasetParams,
    settings: Mapping[str, Settings],
    *,
    replace: bool,
) -> tuple[list[str], list[str]]:
    """Specs that are there and stay beside those of `settings`, and those that go. Raises UserError, unless `replace`,
    if any go.
    """
    from pipeline.codes.beside import differing, held

    before = held(space.root / "codes")
    if not before:
        return [], []
    why = other_images(space, data)
    lost = dict.fromkeys(before, why) if why else differing(before, settings)
    if lost and not replace:
        heads = [p.name for spec in lost for p in space.heads_on(spec)]
        named = "; ".join(f"{spec} ({told})" for spec, told in lost.items())
        also = f"; and heads on them: {', '.join(heads)}" if heads else ""
        raise UserError(
            f"{space.root} holds codes that would go: {named}{also}",
            allowed="another folder, or --replace (replace=True)",
        )
    for spec in lost:
        log.warning("replaced in %s: %s (%s)", space.root, spec, lost[spec])
    kept = [spec for spec in before if spec not in lost and spec not in settings]
    if kept:
        log.info("kept beside them: %s", ", ".join(kept))
    return kept, list(lost)


def other_images(space: Workspace, data: config.DatasetParams) -> str:
    """How the images of a workspace are others than those of `data`, in words; "" if they come from the same place."""
    try:
        manifest = space.manifest()
    except UserError:
        return "the list of its images can't be read"
    if manifest.source != data.source:
        return f"images of the source {manifest.source}, not {data.source}"
    if data.source == "folder" and manifest.root.resolve() != Path(data.root).resolve():
        return f"images of {manifest.root}, not {data.root}"
    return ""


def compare(
    space: Workspace,
    *,
    heads: Sequence[str] | None = None,
    specs: Iterable[str] | None = None,
    head_params: dict[str, Any] | None = None,
    report_params: dict[str, Any] | None = None,
) -> Path:
    """Trains every head on every spec's codes and makes the page; returns `report/index.html`. A head that is there and
    was trained on the same by the same settings is not trained again. Raises UserError."""
    from pipeline.figures.run import compute
    from pipeline.heads.every import fit_every
    from pipeline.report import build

    params = preset(config.HeadsParams, **(head_params or {}), **({"heads": list(heads)} if heads else {}))
    report = preset(config.ReportParams, **(report_params or {}))
    chosen = [space.codes(spec).spec for spec in specs or space.specs()]
    require_writable(space.root)
    fit_every({spec: space.codes(spec) for spec in chosen}, space.manifest(), params, space.root / "heads")
    compute(space.root, report, heads=params, specs=chosen)
    return build(space.root)


def strategies_page(
    space: Workspace, strategies: Sequence[str], report_params: config.ReportParams | None = None
) -> Path:
    """Makes the page of strategies that were trained here, beside the heads on codes of these images, if there are any;
    returns `report/index.html`. `report_params`: the preset's if None. Raises UserError."""
    from pipeline.figures.run import compute
    from pipeline.report import build

    params, report = preset(config.HeadsParams), report_params or preset(config.ReportParams)
    known = set(space.manifest().ids.tolist())
    specs = [spec for spec in space.specs() if known.issuperset(space.codes(spec).ids.tolist())]
    heads = [name for name in params.heads if specs and all(_is_fitted(space, spec, name) for spec in specs)]
    if heads:
        params = preset(config.HeadsParams, heads=heads)
    compute(space.root, report, heads=params, specs=specs if heads else [], strategies=strategies)
    return build(space.root)


def _is_fitted(space: Workspace, spec: str, head: str) -> bool:
    return (space.root / "heads" / f"{spec}-{head}" / "metrics.json").is_file()
