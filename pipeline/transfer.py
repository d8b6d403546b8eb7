"""Transfer strategies on a user's own folder: what the stage does, as typed functions.

```python
from pipeline.transfer import finetune, predict
records = finetune("photos", out="tuned", strategies=["frozen", "scratch"], settings={"epochs": 5})
records["frozen"]["mean"]["accuracy"]
predict("tuned/finetune/frozen", ["new.jpg"])
```
Values not given come from pipeline/config/presets/base.yaml. torch is loaded when a function runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import config
from pipeline.base.cache import cache_root, working_folder
from pipeline.base.errors import UserError
from pipeline.base.writable import require_writable
from pipeline.config import MEMORY_MB, FinetuneParams
from pipeline.config.finetune import OWN, of_no_use
from pipeline.workspace import (
    Workspace,
    canonical_weights,
    images_section,
    network,
    other_images,
    preset,
)

if TYPE_CHECKING:
    from pipeline.data.manifest import Manifest
    from pipeline.data.sources import Record
    from pipeline.nets.weights import Weights
    from pipeline.strategies.kept import Kept
    from pipeline.strategies.lr_find import Sweep
    from pipeline.strategies.sanity.step import Step

FOLDER = "finetune"


def params_of(
    settings: Mapping[str, Any], params_file: str | Path | None = None, *, start: Kept | None = None
) -> FinetuneParams:
    """The section `finetune` of a params file, else what a checkpoint was trained with, else the preset's, with some
    keys changed; of a mapping, such as `schedule`, those that are given. What is given for all strategies holds for
    those too that a file gives a value of their own. Raises UserError."""
    sections = config.preset_values() if params_file is None else config.read_params(params_file)
    # The preset is right: what is wrong without a file is among the settings.
    own, where = sections[FOLDER], FOLDER if params_file is None else f"{params_file}: {FOLDER}"
    if start is not None:
        name = start.about["strategy"]
        if params_file is None:
            own |= start.about["params"] | {"strategies": {name: start.about.get("settings")}}
            where = f"{start.path}: {FOLDER}"
        settings = {"run": [name], **settings}
    if isinstance(own["strategies"], Mapping):
        own["strategies"] = {name: _without(one, settings.keys() & OWN) for name, one in own["strategies"].items()}
    changed = settings.get("strategies")
    # One that says its kind may be a whole record, which spells out all keys.
    pairs = changed.items() if isinstance(changed, Mapping) else ()
    parts = {name: one for name, one in pairs if isinstance(one, Mapping) and "kind" not in one}
    wrong = of_no_use(parts, own["strategies"])
    return config.validate(FinetuneParams, config.over(own, settings, (FOLDER,)), where=where, wrong=wrong)


def _without(values: Any, keys: Collection[str]) -> Any:
    return {k: v for k, v in values.items() if k not in keys} if isinstance(values, Mapping) else values


def finetune(
    images: str | Path | None = None,
    *,
    out: str | Path,
    train: Sequence[str | Path] = (),
    test: Sequence[str | Path] = (),
    strategies: Sequence[str] | None = None,
    arch: str | None = None,
    weights: str | None = None,
    dataset: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    params_file: str | Path | None = None,
    replace: bool = False,
    memory_mb: int = MEMORY_MB,
    resume: str | Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Name -> what the strategy's metrics.json holds; `out` gets dataset/, weights/ and finetune/<name>/.

    `images`: a folder whose first level is the class, or one that this or DVC filled, for its dataset/ and weights/;
    `train`, `test`: HDF5 files in its place. `arch`: if None, what `workspace.network` finds. `weights`: demo if None.
    `settings`: keys of the section `finetune` to change. `memory_mb`: of images that are decoded at once. Killed and
    called again, it goes on from the last checkpoint; what was finished is not trained again. `resume`: a checkpoint
    that `keep_every` kept, to go on from: its strategy, settings and weights are taken where others aren't given, and
    checked where they are. Results that `out` holds of other strategies on the same images and weights stay; `replace`:
    those of others go; without it they are an error that lists them. Raises UserError.
    """
    chosen: dict[str, Any] = {"run": list(strategies)} if strategies else {}
    start = None if resume is None else _start(Path(resume), strategies)
    params = params_of({**(settings or {}), **chosen}, params_file, start=start)
    given = images_section(images, train, test)
    from pipeline.data.build import build
    from pipeline.nets.weights import read_canonical, write_canonical
    from pipeline.strategies.foreseen import require_fit, require_known
    from pipeline.strategies.run import run_strategy

    require_known(params.run, params)
    space = Workspace(Path(out))
    require_writable(space.root)
    if _is_filled(given):
        filled = Workspace(Path(given["root"]))
        manifest, source = _labelled(filled.manifest(), filled.root), filled.weights()
        require_fit(params.run, params, source, manifest.classes)
        lost = _lost(space, _other_rows(space, manifest), source, replace=replace)
        _take_over(filled, manifest, space)
    else:
        data = _dataset(given, dataset)
        file = _weights_of(start) if weights is None else None
        own = start.about["arch"] if start and arch is None and file is None else arch
        source = read_canonical(file or canonical_weights(network(own, weights or "demo")[0], cache_root()))
        lost = _lost(space, other_images(space, data), source, replace=replace)
        known = _fitting(params.run, params, source)
        manifest = build(data, space.root / "dataset", memory_mb=memory_mb, known=known)
        _labelled(manifest, data.root)
    for folder in lost:
        shutil.rmtree(folder)
    write_canonical(source, space.weights_file)
    return {
        name: run_strategy(
            name,
            manifest,
            source,
            params,
            space.root / FOLDER / name,
            cache=cache_root(),
            memory_mb=memory_mb,
            resume=None if start is None else start.path,
        )
        for name in params.run
    }


def _start(path: Path, strategies: Sequence[str] | None) -> Kept:
    """Raises UserError if it is not a checkpoint that was kept, or another strategy's than the ones asked for."""
    from pipeline.strategies.kept import Kept

    start = Kept.open(path)
    if strategies and list(strategies) != [start.about["strategy"]]:
        raise UserError(
            f"{path} is a checkpoint of strategy {start.about['strategy']}, not of {', '.join(strategies)}",
            allowed="one strategy: that of the checkpoint",
        )
    return start


def _weights_of(start: Kept | None) -> Path | None:
    """What a checkpoint's strategy began with, where its folder still stands beside the weights."""
    if start is None:
        return None
    file = Workspace(start.path.absolute().parents[4]).weights_file  # OUT/finetune/NAME/kept-checkpoints/repeat-0/FILE
    return file if file.is_file() else None


def find_rate(
    where: str | Path | None,
    strategy: str,
    *,
    train: Sequence[str | Path] = (),
    test: Sequence[str | Path] = (),
    low: float,
    high: float,
    steps: int,
    plot: Path | None = None,
    arch: str | None = None,
    weights: str = "demo",
    dataset: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    params_file: str | Path | None = None,
    memory_mb: int = MEMORY_MB,
) -> Sweep:
    """The loss of a strategy over a sweep of learning rates. `where`: a folder of images, or one with dataset/ and
    weights/, whose weights then are the ones; None where `train` and `test` are HDF5 files. Nothing is
    written but the cache and `plot`, a .png or .svg file of the curve. Killed and called again, it goes on from half a
    minute before. Raises UserError."""
    params = params_of(settings or {}, params_file)
    images = images_section(where, train, test)
    from pipeline.strategies import lr_plot
    from pipeline.strategies.foreseen import require_known
    from pipeline.strategies.lr_find import find, require_range

    if plot is not None:
        lr_plot.check(plot)

    require_known([strategy], params)
    require_range(low, high, steps)
    with working_folder() as scratch:
        manifest, source = _Ground(arch, weights, dataset, memory_mb, [strategy], params).of(images, scratch)
        own: dict[str, Any] = {"low": low, "high": high, "steps": steps, "plot": plot, "memory_mb": memory_mb}
        return find(strategy, manifest, source, params, cache=cache_root(), **own)


def sanity(
    where: str | Path | None,
    strategy: str,
    *,
    train: Sequence[str | Path] = (),
    test: Sequence[str | Path] = (),
    how: Mapping[str, Any] | None = None,
    arch: str | None = None,
    weights: str = "demo",
    dataset: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    params_file: str | Path | None = None,
    memory_mb: int = MEMORY_MB,
) -> list[Step]:
    """The steps of the procedure for choosing hyperparameters. `where`: as of `find_rate`; `how`: keys of the section
    `sanity` of the params file, or of the preset, to change. Nothing is written but the cache. Raises UserError."""
    params = params_of(settings or {}, params_file)
    images = images_section(where, train, test)
    own = {} if params_file is None else config.read_params(params_file)["sanity"]
    chosen = preset(config.SanityParams, **{**own, **(how or {})})
    from pipeline.strategies.foreseen import require_known
    from pipeline.strategies.sanity.run import check

    require_known([strategy], params)
    with working_folder() as scratch:
        manifest, source = _Ground(arch, weights, dataset, memory_mb, [strategy], params).of(images, scratch)
        return check(strategy, manifest, source, params, chosen, cache=cache_root(), memory_mb=memory_mb)


def is_tuned(folder: str | Path) -> bool:
    """Whether a folder is a strategy's, finetune/<name>."""
    return (Path(folder) / "head.safetensors").is_file()


def checkpoints(folder: str | Path) -> list[dict[str, Any]]:
    """The checkpoints that were kept of a strategy, or of all in a folder: `{"strategy", "name", "repeat", "epoch",
    "train_loss", "val_loss", "val_accuracy", "test_accuracy", "best_so_far", "bytes", "file"}`. `test_accuracy` is None
    until its repeat has ended. Raises UserError if the folder has no strategies, or a checkpoint is broken."""
    from pipeline.strategies import kept

    return [record for strategy in kept.strategies_in(Path(folder)) for record in kept.listed(strategy)]


def predict(
    folder: str | Path,
    images: Sequence[str | Path],
    *,
    top: int = 3,
    device: str = "cpu",
    precision: str = "fp32",
    memory_mb: int = MEMORY_MB,
    checkpoint: str | None = None,
    follow_links: bool = False,
) -> list[dict[str, Any]]:
    """Labels of new images by a strategy's trained network, or by the `checkpoint` of that name (`epoch-0004`, of
    another repeat than the first `repeat-1/epoch-0004`), as `heads.predict` gives them: `{"image", "probabilities",
    "classes": [{"label", "score"}, ...]}`, best first, or `{"image", "error"}`. `images`: files, and folders of
    them, in which links out of the folder are passed by unless `follow_links`. `device`, `precision`: of the network.

    The scores of an image always add to 1; `probabilities` says whether they tell how sure the network is: False if it
    was trained with hinge loss, None if its file is too old to say. Raises UserError if the model or all of the images
    can't be read."""
    from pipeline.data.asked import files_of, require_some
    from pipeline.data.room import Room
    from pipeline.strategies import kept, saved

    model = saved.read(Path(folder)) if checkpoint is None else saved.read_kept(kept.find(Path(folder), checkpoint))
    model, asked = model.on(device, precision), files_of(images, follow_links=follow_links)
    room = Room(memory_mb)
    answers: list[dict[str, Any]] = []
    failures: dict[int, str] = {}
    for position, image in enumerate(asked.files):
        shown = model.scores(image, room=room, open_file=asked.open)
        if isinstance(shown, str):
            failures[position] = shown
            answers.append({"image": str(image), "error": shown})
            continue
        best = (-shown).argsort(kind="stable")[:top]
        answers.append(
            {
                "image": str(image),
                "probabilities": saved.are_probabilities(model.loss),
                "classes": [{"label": model.classes[c], "score": float(shown[c])} for c in best],
            }
        )
    require_some(asked.files, failures)
    return answers


@dataclass(frozen=True)
class _Ground:
    """What a strategy is tried on: images and weights that are named, or those of a folder that a run filled."""

    arch: str | None
    weights: str
    dataset: Mapping[str, Any] | None
    memory_mb: int
    strategies: Sequence[str]
    params: FinetuneParams

    def of(self, images: Mapping[str, Any], scratch: Path) -> tuple[Manifest, Weights]:
        """`images`: what `images_section` gives. Raises UserError, before one is opened, if a strategy does not fit."""
        from pipeline.data.build import build
        from pipeline.nets.weights import read_canonical
        from pipeline.strategies.foreseen import require_fit

        where = images["root"]
        space = Workspace(Path(where))
        if _is_filled(images):
            manifest, source = _labelled(space.manifest(), where), space.weights()
            require_fit(self.strategies, self.params, source, manifest.classes)
            return manifest, source
        data = _dataset(images, self.dataset)
        source = read_canonical(canonical_weights(network(self.arch, self.weights)[0], cache_root()))
        known = _fitting(self.strategies, self.params, source)
        manifest = build(data, scratch / "dataset", fleeting=True, memory_mb=self.memory_mb, known=known)
        return _labelled(manifest, data.root), source


def _is_filled(images: Mapping[str, Any]) -> bool:
    """Whether what `images_section` gives is a folder that a run or DVC filled."""
    return images["source"] == "folder" and (Path(images["root"]) / "dataset" / "dataset.json").is_file()


def _other_rows(space: Workspace, manifest: Manifest) -> str:
    """What `other_images` says, of a manifest that is there already."""
    if not (space.root / "dataset" / "dataset.json").is_file():
        return ""
    return "" if space.manifest().ids.tolist() == manifest.ids.tolist() else "other images"


def _take_over(filled: Workspace, manifest: Manifest, space: Workspace) -> None:
    """Another folder than the one that was filled gets its dataset/ too."""
    from pipeline.data.manifest import read_failures

    if space.root.resolve() != filled.root.resolve():
        manifest.write(space.root / "dataset", read_failures(filled.root / "dataset"))


def _labelled(manifest: Manifest, images: str | Path) -> Manifest:
    """A stage skips what needs labels; who asks for it is told."""
    if not manifest.classes:
        allowed = "a folder whose first level is the class, or with a labels.csv"
        raise UserError(f"{images} has no labels to learn from", allowed=allowed)
    return manifest


def _dataset(images: Mapping[str, Any], changes: Mapping[str, Any] | None) -> config.DatasetParams:
    return preset(config.DatasetParams, **{**images, **(changes or {})})


def _lost(space: Workspace, other: str, source: Weights, *, replace: bool) -> list[Path]:
    """Folders of results in a workspace that are of other images, which `other` says, or of other weights.

    Raises UserError, unless `replace`, if there are any.
    """
    from pipeline.codes.weights_header import WeightsHeader

    found = sorted(path.parent for path in (space.root / FOLDER).glob("*/metrics.json"))
    if not found:
        return []
    why = other
    if not why and space.weights_file.is_file() and WeightsHeader.of(space.weights_file).sha256 != source.sha256:
        why = "other weights"
    if not why:
        return []
    if not replace:
        names = ", ".join(folder.name for folder in found)
        raise UserError(
            f"{space.root} holds results that would go: {names} ({why})",
            allowed="another folder, or --replace (replace=True)",
        )
    return found


def _fitting(strategies: Sequence[str], params: FinetuneParams, source: Weights) -> Callable[[Sequence[Record]], None]:
    """What `data.build` asks of a listing before it opens an image: whether the strategies fit its classes."""
    from pipeline.strategies.foreseen import require_fit

    def known(listed: Sequence[Record]) -> None:
        classes = sorted({record.label for record in listed} - {""})
        if len(classes) > 1:  # of fewer the data says more
            require_fit(strategies, params, source, classes)

    return known
