"""The section `finetune`: how each named strategy trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pipeline.base.errors import UserError
from pipeline.config.base import Name, Section, validate
from pipeline.config.layered import kind_defaults, strategy
from pipeline.config.layout import Groups, group

Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Optimiser = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad", "lbfgs"]
ScheduleKind = Literal["constant", "step", "linear", "cosine", "inverse_sqrt"]
# The shared keys that a strategy may set for itself.
OWN = ("epochs", "batch_size", "optimiser", "learning_rate", "schedule")
Augment = Literal[
    "crop",
    "resized_crop",
    "flip",
    "colour",
    "autoaugment",
    "randaugment",
    "trivialaugment",
    "erasing",
    "noise",
    "mixup",
    "cutmix",
]


class TableEntry(Section):
    """Layers that are trained alike. `layers` are names or shell patterns for some; a layer's batch norm has a
    name of its own.

    `multiple` of the learning rate, 0: frozen. `from_epoch`: frozen before that epoch. `optimiser` "": the run's own.
    """

    layers: list[str] = Field(min_length=1)
    multiple: NotNegative
    weight_decay: NotNegative
    l1: NotNegative
    optimiser: Literal["", "sgd", "adam", "adamw", "rmsprop", "adagrad"]
    from_epoch: int = Field(ge=0)


class StrategySchedule(Section):
    """The schedule of one strategy; a key that it leaves out is that of finetune.optimiser.schedule."""

    kind: ScheduleKind
    warmup: float | None = Field(None, ge=0.0, lt=1.0)
    every: int | None = Field(None, ge=1)
    factor: float | None = Field(None, gt=0.0, lt=1.0)


class StrategyParams(Section):
    """One named strategy. A key that its kind has no use for is left out, and is in the record what `UNUSED` says.

    `multiple`: of the learning rate of imported layers (finetune, gradual). `below`: layers before this one are frozen
    (finetune; "" for none). `every`: epochs from one unfreezing to the next (gradual). `labels`: target class -> source
    classes (direct; {} proposes a map by equal names). `table`: the per-layer table; [] for the one of the kind.
    `epochs`, `batch_size`, `optimiser`, `learning_rate`, `schedule`: in place of the shared ones.
    """

    @model_validator(mode="before")
    @classmethod
    def _of_its_kind(cls, values: Any) -> Any:
        return strategy(values)

    kind: Literal["direct", "frozen", "finetune", "gradual", "scratch", "fc", "cnn", "resnet18", "resnet50"]
    multiple: NotNegative
    below: str
    every: int = Field(ge=0)
    augment: list[Augment]
    labels: dict[str, list[str]]
    table: list[TableEntry]
    epochs: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    optimiser: Optimiser | None = None
    learning_rate: Positive | None = None
    schedule: StrategySchedule | None = None

    @property
    def own(self) -> dict[str, Any]:
        """The shared keys that this strategy sets for itself."""
        return {key: value for key in OWN if (value := getattr(self, key)) is not None}

    @model_serializer(mode="wrap")
    def _without_what_is_shared(self, values: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Files and fingerprints have a shared key only where the strategy sets it."""
        return {key: value for key, value in values(self).items() if key not in OWN or value is not None}

    @model_validator(mode="after")
    def _check(self) -> StrategyParams:
        for key, kinds in USED_BY.items():
            if self.kind not in kinds and getattr(self, key) != UNUSED[key]:
                raise ValueError(f"{key} is of no use to kind {self.kind}: leave it out")
        if self.kind == "gradual" and self.every < 1:
            raise ValueError("kind gradual needs `every` of at least 1 epoch")
        if self.kind == "direct" and (self.augment or self.table):
            raise ValueError("kind direct trains nothing: augment and table must be []")
        if self.kind == "direct" and self.own:
            raise ValueError(f"kind direct trains nothing: leave out {', '.join(self.own)}")
        if len(set(self.augment)) != len(self.augment):
            raise ValueError("augment names one twice")
        return self


USED_BY = {"multiple": ("finetune", "gradual"), "below": ("finetune",), "every": ("gradual",), "labels": ("direct",)}
UNUSED = {"multiple": 0.0, "below": "", "every": 0, "labels": {}}


def of_no_use(written: Any, over: Any = None) -> list[str]:
    """A sentence for each key that a person wrote in these strategies, by name, at what its kind has it at anyway.
    `over`: the strategies that they change, which say the kind where they don't."""
    found = []
    for name, one in written.items() if isinstance(written, Mapping) else ():
        before = over.get(name) if isinstance(over, Mapping) else None
        kind = next((of["kind"] for of in (one, before) if isinstance(of, Mapping) and "kind" in of), None)
        if isinstance(one, Mapping) and isinstance(kind, str) and kind in kind_defaults():
            found += [
                f"strategies.{name}.{key}: {key} is of no use to kind {kind}: leave it out"
                for key, kinds in USED_BY.items()
                if kind not in kinds and key in one and one[key] == UNUSED[key]
            ]
    return found


class ScheduleParams(Section):
    """`warmup`: share of all steps. `every` (epochs) and `factor` are of the step schedule."""

    kind: ScheduleKind
    warmup: float = Field(ge=0.0, lt=1.0)
    every: int = Field(ge=1)
    factor: float = Field(gt=0.0, lt=1.0)


class FinetuneParams(Section):
    groups: ClassVar[Groups] = {
        "image": group("view", "scale", "size", "background", "mix_alpha", "noise", "test_views", "views"),
        "model": group("head", "widths", "dropout", "init"),
        "optimiser": group(
            *("learning_rate", "scale_rate_with_batch", "schedule", "weight_decay", "l1", "decay_biases", "momentum"),
            *("nesterov", "clip"),
            kind="optimiser",
        ),
        "loop": group(
            *("repeats", "seed", "max_train", "epochs", "batch_size", "accumulate", "loss", "label_smoothing"),
            *("select", "patience", "keep_every", "inference_txt"),
        ),
        "compute": group("precision", "device", "devices", "nodes", "workers"),
    }

    run: list[Name] = Field(min_length=1, description="names of the strategies that the stage runs")
    strategies: dict[Name, StrategyParams]
    repeats: int = Field(ge=1, description="the first repeats of the dataset's splits")
    seed: int = Field(ge=0)

    view: Literal["crop", "squash"]
    scale: int = Field(ge=16, description="side in pixels of the cached square images")
    size: int = Field(ge=16, description="side in pixels of the network's input")
    background: list[int] = Field(min_length=3, max_length=3, description="RGB under transparent pixels, 0..255")
    max_train: int = Field(ge=0, description="training images a repeat, the first by a seeded order; 0: all")

    head: str = Field(min_length=1, description="gap, or a head of the architecture's own")
    widths: list[int] = Field(min_length=2, max_length=2, description="hidden layers of the architecture's own head")
    dropout: float = Field(ge=0.0, lt=1.0)
    init: Literal["he", "xavier"]

    optimiser: Optimiser
    momentum: float = Field(ge=0.0, lt=1.0)
    nesterov: bool
    learning_rate: Positive
    scale_rate_with_batch: bool = Field(description="learning_rate is for a batch of 256 and grows with the batch")
    schedule: ScheduleParams
    weight_decay: NotNegative
    l1: NotNegative
    decay_biases: bool = Field(description="weight decay and L1 on biases and norms too")
    clip: NotNegative = Field(description="largest norm of the gradient; 0: no limit")

    loss: Literal["cross_entropy", "hinge"]
    label_smoothing: float = Field(ge=0.0, lt=1.0)
    mix_alpha: Positive = Field(description="of mixup's and cutmix' Beta distribution")
    noise: NotNegative = Field(description="standard deviation, of pixel values 0..255")
    test_views: int = Field(ge=1, description="1: the centre; more: augmented ones too, probabilities averaged")
    views: int = Field(
        ge=0, description="augmented views of an image whose codes a frozen part keeps; 0: it runs in every epoch"
    )

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    accumulate: int = Field(ge=1)
    select: Literal["accuracy", "loss"] = Field(description="of the validation images: what makes an epoch the best")
    patience: int = Field(ge=0, description="epochs without a better one before stopping; 0: never stop early")
    keep_every: int = Field(ge=0, description="epochs between checkpoints that are kept; 0: only best and last")

    precision: Literal["auto", "fp32", "bf16"]
    device: Literal["auto", "cpu", "cuda", "mps"]
    devices: int = Field(ge=1, description="of each machine that share every batch")
    nodes: int = Field(ge=1, description="machines that share every batch")
    workers: int = Field(ge=0, description="processes that augment; 0: in this one")
    inference_txt: bool = Field(description="also write inference.txt and probabilities.txt")

    @classmethod
    def of_no_use(cls, values: Mapping[str, Any]) -> list[str]:
        return of_no_use(values.get("strategies"))

    @property
    def world(self) -> int:
        """Devices that share every batch."""
        return self.nodes * self.devices

    @property
    def shared_by(self) -> str:
        """For messages."""
        nodes = f" on each of finetune.compute.nodes {self.nodes}" if self.nodes > 1 else ""
        return f"finetune.compute.devices {self.devices}{nodes}"

    def strategy(self, name: str) -> StrategyParams:
        """Raises UserError if there is none of that name."""
        if name not in self.strategies:
            raise UserError(f"unknown strategy {name!r}", allowed=self.strategies, see="finetune.strategies")
        return self.strategies[name]

    def of(self, name: str) -> FinetuneParams:
        """These, with the shared keys that a strategy sets for itself. Raises UserError if there is none of that name,
        and if its keys don't fit the others."""
        strategy = self.strategy(name)
        own = strategy.own
        if not own:
            return self
        if "schedule" in own:
            own["schedule"] = self.schedule.model_dump() | own["schedule"].model_dump(exclude_none=True)
        plain = {key: value for key, value in strategy.model_dump().items() if key not in OWN}
        values = self.model_dump() | {"run": [name], "strategies": {name: plain}} | own
        found = validate(FinetuneParams, values, where=f"finetune.strategies.{name}")
        return found.model_copy(update={"run": self.run, "strategies": self.strategies})

    @model_validator(mode="after")
    def _check(self) -> FinetuneParams:
        unknown = [name for name in self.run if name not in self.strategies]
        if unknown:
            raise ValueError(f"finetune.run names {', '.join(unknown)}; allowed: {', '.join(self.strategies)}")
        if self.size > self.scale:
            raise ValueError(f"finetune.image.size {self.size} must not be above finetune.image.scale {self.scale}")
        if any(not 0 <= v <= 255 for v in self.background):
            raise ValueError("finetune.image.background must be three numbers from 0 to 255")
        if any(w < 1 for w in self.widths):
            raise ValueError("finetune.model.widths must be positive")
        if self.views and self.test_views - 1 > self.views:
            raise ValueError(
                f"finetune.image.test_views {self.test_views} is more than the {self.views} of finetune.image.views"
            )
        if self.loss == "hinge" and self.label_smoothing:
            raise ValueError("finetune.loop.label_smoothing is of cross_entropy: 0 with hinge")
        if self.world > 1 and self.optimiser == "lbfgs":
            raise ValueError(f"{self.shared_by} with lbfgs, whose line search is of one device: 1")
        if self.clip and self.optimiser == "lbfgs":
            raise ValueError(
                f"finetune.optimiser.clip {self.clip:g} with lbfgs, whose line search needs the whole gradient: 0"
            )
        if self.world > 1 and self.batch_size < 2 * self.world:
            raise ValueError(
                f"finetune.loop.batch_size {self.batch_size} is below two images for each of {self.shared_by}"
            )
        if self.nesterov and not self.momentum:
            raise ValueError("finetune.optimiser.nesterov needs a momentum")
        for name in self.strategies:
            try:
                self.of(name)
            except UserError as e:
                raise ValueError(e.what) from None
        return self
