"""Transfer strategies on a user's own folder: what the stage does, as typed functions.

```python
from pipeline.transfer import finetune, predict
records = finetune("photos", out="tuned", strategies=["frozen", "scratch"], settings={"epochs": 5})
records["frozen"]["mean"]["accuracy"]
predict("tuned/finetune/frozen", ["new.jpg"])
```
Values not given come from pipeline/preset.yaml. torch is loaded when a function runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import config
from pipeline.cache import cache_root
from pipeline.config import MEMORY_MB, FinetuneParams
from pipeline.errors import UserError
from pipeline.workspace import Workspace, canonical_weights, network, preset

if TYPE_CHECKING:
    from pipeline.data.manifest import Manifest
    from pipeline.finetune.lr_find import Sweep
    from pipeline.finetune.sanity.step import Step
    from pipeline.nets.weights import Weights

FOLDER = "finetune"


def params_of(settings: Mapping[str, Any], params_file: str | Path | None = None) -> FinetuneParams:
    """The section `finetune` of a params file, or of the preset, with some keys changed. Raises UserError."""
    if params_file is None:
        return preset(FinetuneParams, **settings)
    sections = config.read_params(params_file)
    if FOLDER not in sections:
        raise UserError(f"{params_file} has no section {FOLDER}", see="docs/params.md")
    return config.validate(FinetuneParams, sections[FOLDER] | settings, where=f"{params_file}: {FOLDER}")


def finetune(
    images: str | Path,
    *,
    out: str | Path,
    strategies: Sequence[str] | None = None,
    arch: str | None = None,
    weights: str = "demo",
    dataset: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    params_file: str | Path | None = None,
    memory_mb: int = MEMORY_MB,
) -> dict[str, dict[str, Any]]:
    """Name -> what the strategy's metrics.json holds; `out` gets dataset/, weights/ and finetune/<name>/.

    `images`: a folder whose first level is the class. `arch`: if None, what `workspace.network` finds. `settings`: keys
    of the section `finetune` to change. `memory_mb`: of images that are decoded at once. Killed and called again, it
    goes on from the last epoch. Raises UserError.
    """
    chosen: dict[str, Any] = {"run": list(strategies)} if strategies else {}
    params = params_of({**(settings or {}), **chosen}, params_file)
    from pipeline.finetune.run import run_strategy
    from pipeline.nets.weights import read_canonical, write_canonical

    space = Workspace(Path(out))
    source = read_canonical(canonical_weights(network(arch, weights)[0], cache_root()))
    manifest = _labelled(_build(images, space.root / "dataset", dataset, memory_mb, fleeting=False), images)
    write_canonical(source, space.weights_file)
    return {
        name: run_strategy(
            name, manifest, source, params, space.root / FOLDER / name, cache=cache_root(), memory_mb=memory_mb
        )
        for name in params.run
    }


def find_rate(
    where: str | Path,
    strategy: str,
    *,
    low: float,
    high: float,
    steps: int,
    arch: str | None = None,
    weights: str = "demo",
    dataset: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    params_file: str | Path | None = None,
    memory_mb: int = MEMORY_MB,
) -> Sweep:
    """The loss of a strategy over a sweep of learning rates. `where`: a folder of images, or one with dataset/ and
    weights/, whose weights then are the ones. Nothing is written but the cache. Raises UserError."""
    params = params_of(settings or {}, params_file)
    from pipeline.finetune.lr_find import find

    with tempfile.TemporaryDirectory() as scratch:
        manifest, source = _ground(Path(where), Path(scratch), arch, weights, dataset=dataset, memory_mb=memory_mb)
        bounds: dict[str, Any] = {"low": low, "high": high, "steps": steps}
        return find(strategy, manifest, source, params, cache=cache_root(), memory_mb=memory_mb, **bounds)


def sanity(
    where: str | Path,
    strategy: str,
    *,
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
    own = {} if params_file is None else config.read_params(params_file).get("sanity", {})
    chosen = preset(config.SanityParams, **{**own, **(how or {})})
    from pipeline.finetune.sanity.run import check

    with tempfile.TemporaryDirectory() as scratch:
        manifest, source = _ground(Path(where), Path(scratch), arch, weights, dataset=dataset, memory_mb=memory_mb)
        return check(strategy, manifest, source, params, chosen, cache=cache_root(), memory_mb=memory_mb)


def is_tuned(folder: str | Path) -> bool:
    """Whether a folder is a strategy's, finetune/<name>."""
    return (Path(folder) / "head.safetensors").is_file()


def predict(
    folder: str | Path,
    images: Sequence[str | Path],
    *,
    top: int = 3,
    memory_mb: int = MEMORY_MB,
    follow_links: bool = False,
) -> list[dict[str, Any]]:
    """Labels of new images by a strategy's trained network, in the form of `query.predict`: `{"image", "probabilities",
    "classes": [{"label", "score"}, ...]}`, best first, or `{"image", "error"}`. `images`: files, and folders of them,
    in which links out of the folder are passed by unless `follow_links`.

    The scores of an image always add to 1; `probabilities` says whether they tell how sure the network is: False if it
    was trained with hinge loss, None if its file is too old to say. Raises UserError if the model or all of the images
    can't be read."""
    from pipeline.data.asked import files_of, require_some
    from pipeline.data.room import Room
    from pipeline.finetune import saved

    model, files = saved.read(Path(folder)), files_of(images, follow_links=follow_links)
    room = Room(memory_mb)
    answers: list[dict[str, Any]] = []
    failures: dict[int, str] = {}
    for position, image in enumerate(files):
        shown = model.scores(image, room=room)
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
    require_some(files, failures)
    return answers


def _ground(
    where: Path,
    scratch: Path,
    arch: str | None,
    weights: str,
    *,
    dataset: Mapping[str, Any] | None,
    memory_mb: int,
) -> tuple[Manifest, Weights]:
    from pipeline.nets.weights import read_canonical

    space = Workspace(where)
    if (space.root / "dataset" / "dataset.json").is_file():
        return _labelled(space.manifest(), where), space.weights()
    canonical = canonical_weights(network(arch, weights)[0], cache_root())
    manifest = _build(where, scratch / "dataset", dataset, memory_mb, fleeting=True)
    return _labelled(manifest, where), read_canonical(canonical)


def _labelled(manifest: Manifest, images: str | Path) -> Manifest:
    """A stage skips what needs labels; who asks for it is told."""
    if not manifest.classes:
        allowed = "a folder whose first level is the class, or with a labels.csv"
        raise UserError(f"{images} has no labels to learn from", allowed=allowed)
    return manifest


def _build(
    images: str | Path, folder: Path, dataset: Mapping[str, Any] | None, memory_mb: int, *, fleeting: bool
) -> Manifest:
    from pipeline.data.build import build

    params = preset(config.DatasetParams, **{"source": "folder", "root": str(images)} | dict(dataset or {}))
    return build(params, folder, fleeting=fleeting, memory_mb=memory_mb)
