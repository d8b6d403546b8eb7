"""Every command that writes, on 20 images of 32 px, and the folder of things that each of them begins with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.base.front import ExitCode
from tests import yaml_files
from tests.reliability.runner import Runner

ROOT = Path(__file__).parents[2]
SPECS = ("conv5_3-avg", "pool5-flatten")


@dataclass(frozen=True)
class Command:
    """`argv` as in a shell. `needs`: what it finds in the box, by name in the world. `without`: what of that is not
    there. `then`: a command that reads what it wrote; its answer is an undisturbed run's, or a refusal. `fewer`: how
    it may end as well where an image was left out: sanity with what it found, lr-find without a rate.
    """

    name: str
    argv: tuple[str, ...]
    needs: tuple[str, ...]
    without: tuple[str, ...] = ()
    then: tuple[str, ...] = ()
    fewer: ExitCode = ExitCode.DONE


def _command(
    name: str,
    line: str,
    *needs: str,
    without: tuple[str, ...] = (),
    then: str = "",
    fewer: ExitCode = ExitCode.DONE,
) -> Command:
    return Command(name, tuple(line.split()), needs, without, tuple(then.split()), fewer)


_NET = "--arch tinyvgg --weights random:0 --size 32"
_TRAIN = f"{_NET} --params params.yaml --batch-size 8 --precision fp32"
_EXTRACT = f"cnncodes extract photos {_NET} --layers {','.join(SPECS)} --out codes"
_INDEX = f"cnncodes index photos {_NET} --out my.index"

COMMANDS = {
    c.name: c
    for c in (
        _command(
            "extract", _EXTRACT, "photos", then="cnncodes export codes --layer pool5 --to npy --out then.npy --replace"
        ),
        _command(
            "extract-more",
            _EXTRACT.replace("--layers ", "--layers conv4_3-avg,"),
            "photos",
            "codes",
            "cache",
            then="cnncodes info codes",
        ),
        _command(
            "compare",
            "cnncodes compare codes --heads svm,knn --layers conv5_3-avg",
            "photos",
            "codes",
            "cache",
            without=("codes/heads", "codes/figures", "codes/report"),
            then="cnncodes predict codes/heads/conv5_3-avg-svm one.png --json",
        ),
        _command(
            "compare-again", "cnncodes compare codes --heads knn --layers pool5-flatten", "photos", "codes", "cache"
        ),
        _command(
            "compare-networks",
            "cnncodes compare codes --out which --heads knn --layers conv5_3-avg",
            "photos",
            "codes",
            "cache",
        ),
        _command("index", _INDEX, "photos", then="cnncodes search my.index one.png --json"),
        _command(
            "index-add",
            "cnncodes index add my.index more",
            "my.index",
            "photos",
            "more",
            "cache",
            then="cnncodes search my.index one.png --json -k 30",
        ),
        _command(
            "index-remove",
            "cnncodes index remove my.index photos/red/0.png",
            "my.index",
            "photos",
            then="cnncodes search my.index one.png --json -k 30",
        ),
        _command("montage", "cnncodes search my.index one.png --montage found.png", "my.index", "photos"),
        _command("export-npy", "cnncodes export codes --layer pool5 --to npy --out made.npy", "codes"),
        _command("export-parquet", "cnncodes export codes --layer pool5 --to parquet --out made.parquet", "codes"),
        _command("export-neon", "cnncodes export codes --layer pool5 --to neon-hdf5 --out made.h5", "codes"),
        _command("predict-none", "cnncodes predict codes/heads/conv5_3-avg-svm none.png one.png", "codes", "photos"),
        _command("advise", f"cnncodes advise photos {_NET} --layers conv5_3-avg --out advice", "photos"),
        _command(
            "convert",
            "cnncodes weights convert tiny.pth --arch tinyvgg --preprocessing caffe --out made.safetensors",
            "tiny.pth",
            then="cnncodes weights inspect made.safetensors --json",
        ),
        _command(
            "reference",
            f"cnncodes weights reference photos {_NET} --layers conv5_3-avg --out made.h5",
            "photos",
            "cache",
        ),
        _command(
            "finetune",
            f"cnncodes finetune photos --out tuned {_TRAIN} --strategy frozen --strategy finetune",
            "photos",
            "params.yaml",
            then="cnncodes predict tuned/finetune/finetune one.png --json",
        ),
        _command(
            "lr-find",
            f"cnncodes lr-find photos {_TRAIN} --steps 6 --plot rates.png",
            "photos",
            "params.yaml",
            fewer=ExitCode.UNANSWERED,
        ),
        _command(
            "sanity",
            f"cnncodes sanity photos {_TRAIN} --strategy frozen --rounds 1 --epochs 1 --plot steps.png",
            "photos",
            "params.yaml",
            fewer=ExitCode.FOUND,
        ),
        _command("cache-gc", "cnncodes cache gc --keep codes --training", "codes", "cache", "tuned"),
        _command("stage-digests", "digests", "photos", "params.yaml"),
        _command("stage-dataset", "dataset", "photos", "params.yaml", "out", without=("out/dataset",)),
        _command("stage-weights", "weights", "params.yaml", "out", without=("out/weights",)),
        _command("stage-codes", "codes", "params.yaml", "photos", "out", without=("out/codes",)),
        _command("stage-heads", "heads conv5_3-avg-svm", "params.yaml", "photos", "out", without=("out/heads",)),
        _command(
            "stage-retrieval",
            "retrieval itq8-conv5_3-avg",
            "params.yaml",
            "photos",
            "out",
            "cache",
            without=("out/retrieval",),
        ),
        _command(
            "stage-retrieval-dbn",
            "retrieval dbn16-conv5_3-avg",
            "params.yaml",
            "photos",
            "out",
            without=("out/retrieval",),
        ),
        _command("stage-advise", "advise", "params.yaml", "photos", "out", without=("out/advise",)),
        _command("stage-finetune", "finetune frozen", "params.yaml", "photos", "out", without=("out/finetune",)),
        _command("stage-sanity", "sanity frozen", "params.yaml", "photos", "out", without=("out/sanity",)),
        _command("stage-tuned", "tuned", "params.yaml", "photos", "out", without=("out/tuned",)),
        _command("stage-figures", "figures", "params.yaml", "photos", "out", without=("out/figures",)),
        _command("stage-report", "report", "params.yaml", "photos", "out", without=("out/report",)),
    )
}

# What is in the world, in the order in which it is made.
_MADE = (
    _EXTRACT,
    "cnncodes compare codes --heads svm,knn --layers conv5_3-avg",
    _INDEX,
    f"cnncodes finetune photos --out tuned {_TRAIN} --strategy finetune",
    "digests",
    "dataset",
    "weights",
    "codes",
    "heads conv5_3-avg-svm",
    "heads pool5-flatten-svm",
    "retrieval itq8-conv5_3-avg",
    "advise",
    "finetune finetune",
    "finetune frozen",
    "sanity frozen",
    "tuned",
    "figures",
    "report",
)


def make_world(runner: Runner) -> None:
    """Fills the runner's box. Raises RuntimeError if a command fails there undisturbed."""
    box = runner.box
    _draw(box / "photos", per_class=10, seed=0)
    _draw(box / "more", per_class=2, seed=1)
    _draw(box / "many", per_class=40, seed=2)
    next((box / "more" / "red").iterdir()).rename(box / "one.png")
    (box / "params.yaml").write_text(yaml_files.dump_params(_params()))
    (box / "tmp").mkdir()
    for line in _MADE:
        told = runner.run(*line.split(), learn=True)
        if told.code:
            raise RuntimeError(f"{line} ends with {told.code}: {told.err}")
    _write_pth(box)


def _draw(folder: Path, *, per_class: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for name, colour in {"red": (200, 40, 40), "blue": (50, 70, 210)}.items():
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            noise = generator.integers(-30, 30, size=(32, 32, 3))
            Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")


def _write_pth(box: Path) -> None:
    """The world's weights as torch.save writes them."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(box / "codes/weights/weights.safetensors")
    torch.save(tensors, box / "tiny.pth")


def _params() -> dict[str, object]:
    """The shipped params, for tiny images and a tiny network."""
    params = yaml_files.params(ROOT / "params.yaml")
    params["dataset"] |= {"source": "folder", "root": "photos", "repeats": 2}
    params["weights"] |= {"arch": "tinyvgg", "source": "random:0"}
    params["codes"] |= {"layers": list(SPECS), "crop": 32, "scales": [32], "precision": "fp32", "device": "cpu"}
    params["heads"] |= {"heads": ["svm"], "c_grid": [1.0]}
    params["retrieval"] |= {"specs": ["itq8-conv5_3-avg"], "timed_queries": 2, "k": 5, "neighbours": 3}
    params["advise"] |= {"folds": 2, "learning_curve": [1.0]}
    small = {"epochs": 1, "batch_size": 8, "repeats": 1, "precision": "fp32", "device": "cpu", "keep_every": 1}
    params["finetune"] |= {"run": ["frozen", "finetune"], "widths": [4, 4], **small}
    params["sanity"] |= {"batches": 1, "overfit_steps": 4, "sweep_steps": 4, "grid_rates": [1.0], "grid_decays": [1.0]}
    params["sanity"] |= {"epochs": 1, "rounds": 1}
    params["tuned"] |= {"layers": ["conv5_3-avg"], "hashes": ["itq8-conv5_3-avg"]}
    params["report"] |= {"learning_curve": [1.0], "map_method": "pca"}
    return dict(params)
