"""What dvc.yaml says of each stage: one entry a stage. `cnncodes dvc write` makes dvc.yaml of it.

A stage's command, its digest of code and the preset need no entry: they follow from its name, and from having params.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# A stage that has a name of params.yaml in a path has DVC load this from the folder NAME/.. (the file says why).
PLAIN_NAMES = "stages/plain-names.yaml"
CODE = "out/code.json"  # stage -> digest of its code, made by the first stage
PRESET = "preset"  # the key of params.yaml that says what it lies over
MANIFEST = "out/dataset/dataset.json"  # holds the sha256 of manifest.csv, which is the other half


# What all strategies share.
_TRAINING = tuple(f"finetune.{group}" for group in ("image", "model", "optimiser", "loop", "compute"))
# What decides how well a hash finds.
_RETRIEVAL = ("retrieval.settings", "retrieval.protocol")
_MEMORY = "codes.compute.memory_mb"


@dataclass(frozen=True)
class Stage:
    """A stage, whose script is `stages/<name>.py`.

    `matrix`: a key of each item -> the key of params.yaml whose list it goes through; `${item.<key>}` in other fields
    stands for it. `params`: keys of params.yaml. `outs`: paths that DVC caches, and with `persist` does not remove
    before the stage runs. `plots`: paths that it draws too -> how. `coded`: reruns when its code changes.
    """

    name: str
    about: str = ""
    matrix: Mapping[str, str] = field(default_factory=dict)
    deps: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()
    persist: bool = False
    plots: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    coded: bool = True

    @property
    def item(self) -> str:
        """The folder of an item below out/<name>/, such as `${item.strategy}`; "" for a stage of one."""
        return next((out.split("/")[2] for out in self.outs if "${" in out), "")


STAGES = (
    Stage(
        "code",
        "Before all others, and before DVC removes what is there for the stages that have a name of params.yaml in a "
        "path: it checks all sections of params.yaml, together too. Its file stays where it fails, so the others are "
        "up to date as before.",
        deps=("pipeline", "stages"),
        params=(
            *("dataset", "weights", "codes", "heads", "retrieval", "advise", "finetune", "sanity", "tuned", "report"),
        ),
        outs=(CODE,),
        persist=True,
        coded=False,
    ),
    Stage(
        "digests",
        "The one stage that depends on the photographs themselves, so that no other copies or commits them. Where they "
        "are not there, DVC's refusal leaves the file as it is.",
        deps=("${dataset.root}",),
        params=("dataset.root", "dataset.leave_out", "dataset.follow_links"),
        outs=("out/digests/files.csv",),
        persist=True,
    ),
    Stage(
        "dataset",
        "out/dataset/images, which some sources draw or unpack, is not an out: DVC would copy it. Hence `persist`: DVC "
        "is not to bring back these files from an earlier run without their images.",
        deps=("out/digests/files.csv",),
        params=("dataset", _MEMORY),
        outs=("out/dataset/manifest.csv", MANIFEST, "out/dataset/failures.csv"),
        persist=True,
    ),
    Stage("weights", deps=("${weights.file}",), params=("weights",), outs=("out/weights",)),
    Stage("codes", deps=(MANIFEST, "out/weights"), params=("codes",), outs=("out/codes",)),
    Stage(
        "heads",
        "All layers and heads in one process. What is there and would be made again stays as it is: hence `persist`.",
        deps=(MANIFEST, "out/codes"),
        params=("codes.layers", "heads.heads", "heads.fit"),
        outs=("out/heads",),
        persist=True,
    ),
    Stage(
        "retrieval",
        "All hashes in one process, as above.",
        deps=(MANIFEST, "out/codes"),
        params=("retrieval.specs", *_RETRIEVAL, "retrieval.approximate"),
        outs=("out/retrieval",),
        persist=True,
    ),
    Stage(
        "advise",
        "From train and val alone, and from no other stage's results: the page sets it against what was then measured.",
        deps=("${advise.reference}", MANIFEST, "out/weights", "out/codes"),
        params=(
            "advise",
            "codes.layers",
            "heads.fit",
        ),
        outs=("out/advise/metrics.json", "out/advise/layers.csv"),
        plots={"out/advise/curve.csv": {"x": "n", "y": "accuracy"}},
    ),
    Stage(
        "finetune",
        "One process a strategy; a strategy's own settings rerun it alone, the shared ones all.",
        matrix={"strategy": "finetune.run"},
        deps=(MANIFEST, "out/weights"),
        params=(
            "finetune.strategies.${item.strategy}",
            *_TRAINING,
            _MEMORY,
        ),
        outs=(
            "out/finetune/${item.strategy}/metrics.json",
            "out/finetune/${item.strategy}/predictions.csv",
            "out/finetune/${item.strategy}/groups.json",
            "out/finetune/${item.strategy}/model.safetensors",
            "out/finetune/${item.strategy}/head.safetensors",
            "out/finetune/${item.strategy}/kept-checkpoints",
        ),
        plots={
            "out/finetune/${item.strategy}/curves.csv": {"x": "epoch", "y": "val_accuracy"},
            "out/finetune/${item.strategy}/live-curves": {"x": "step"},
        },
    ),
    Stage(
        "sanity",
        "One process a strategy. A step that fails is a result, not an error.",
        matrix={"strategy": "sanity.strategies"},
        deps=(MANIFEST, "out/weights"),
        params=(
            "finetune.strategies.${item.strategy}",
            *_TRAINING,
            "sanity.steps",
            _MEMORY,
        ),
        outs=("out/sanity/${item.strategy}/metrics.json", "out/sanity/${item.strategy}/curves.json"),
    ),
    Stage(
        "tuned",
        "out/finetune as a whole: a strategy that was not run is left out in words, a missing dep would be an error.",
        deps=(MANIFEST, "out/weights", "out/finetune"),
        params=(
            "tuned",
            "codes.dtype",
            "codes.image",
            "codes.compute",
            "heads.fit",
            *_RETRIEVAL,
        ),
        outs=(
            "out/tuned/metrics.json",
            "out/tuned/codes",
            "out/tuned/heads",
            "out/tuned/retrieval",
            "out/tuned/source",
        ),
    ),
    Stage(
        "figures",
        deps=(
            *(MANIFEST, "out/dataset/failures.csv", "out/weights", "out/codes", "out/heads", "out/retrieval"),
            *("out/finetune", "out/sanity", "out/tuned", "out/advise"),
        ),
        params=("codes.layers", "heads", "retrieval", "finetune.run", "sanity.strategies", "report"),
        outs=("out/figures",),
    ),
    Stage(
        "report",
        "It draws what `figures` computed: a change of the page's look reruns this stage alone.",
        deps=("out/figures",),
        outs=("out/report",),
    ),
)

# What `dvc metrics` and `dvc exp show` list.
METRICS = ("out/figures/metrics.json",)


@dataclass(frozen=True)
class Plot:
    """A figure of `dvc plots`: a column of a CSV file against another."""

    title: str
    template: str
    x: str
    file: str
    y: str


_PLOTS = "out/report/plots"
PLOTS = (
    Plot("Accuracy by depth", "scatter", "depth", f"{_PLOTS}/depth.csv", "accuracy"),
    Plot("Learning curve", "linear", "n_train", f"{_PLOTS}/learning_curve.csv", "accuracy"),
    Plot("Confusion", "confusion_normalized", "actual", f"{_PLOTS}/confusion.csv", "predicted"),
    Plot("Accuracy by bytes", "scatter", "bytes_per_code", f"{_PLOTS}/tradeoff.csv", "accuracy"),
    Plot("Precision by recall of the best hash", "simple", "recall", f"{_PLOTS}/precision.csv", "precision"),
    Plot("mAP by bits", "scatter", "nbits", f"{_PLOTS}/retrieval.csv", "map_at_k"),
    Plot("Training of the deep belief network", "linear", "epoch", f"{_PLOTS}/hash_training.csv", "rounded_held_out"),
    Plot("Accuracy by strategy", "bar_horizontal", "accuracy", f"{_PLOTS}/strategies.csv", "strategy"),
)
