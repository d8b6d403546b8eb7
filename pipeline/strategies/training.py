"""One model in training, as Lightning sees it: the step, the rates, what is frozen, and the curve."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from pipeline.base.seeds import seed_of
from pipeline.strategies import begun, optimisers
from pipeline.strategies.augment import Mix
from pipeline.strategies.batches import Batch, PartBatches, Steps
from pipeline.strategies.diverged import diverged
from pipeline.strategies.groups import Group
from pipeline.strategies.losses import Loss, soft_labels
from pipeline.strategies.model import Classifier, autocast
from pipeline.strategies.schedules import Schedule


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. `on_codes`: batches hold the body's codes, and only the top is run.

    `precision`: fp32 or bf16, of the products on the way forward. `penalties_in_loss`: for the optimiser that knows no
    weight decay.
    """

    k: int
    loss: Loss
    smoothing: float
    steps: Steps
    mix: Mix | None
    schedule: Schedule
    optimiser: optimisers.Hyperparameters
    seed: int
    on_codes: bool
    precision: str = "fp32"
    penalties_in_loss: bool = False


@dataclass
class Sums:
    """Of a pass over images: `loss` and `correct` summed, on the device."""

    loss: Tensor | float = 0.0
    correct: Tensor | float = 0.0
    images: int = 0

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        self.loss += loss.detach() * len(targets)
        self.correct += (logits.detach().argmax(dim=1) == targets).sum()
        self.images += len(targets)

    def over_all(self, device: torch.device) -> Sums:
        """Of all processes."""
        found = torch.tensor([self.loss, self.correct, self.images], dtype=torch.float64, device=device)
        distributed.all_reduce(found)
        return Sums(found[0], found[1], int(found[2]))

    def means(self) -> tuple[float | None, float | None]:
        """(loss, accuracy); None without images."""
        if not self.images:
            return None, None
        return float(self.loss) / self.images, float(self.correct) / self.images


class Training(L.LightningModule):
    """`curve` has one record an epoch: epoch (from 1), step, train and val loss and accuracy, rates by group.

    Training losses are of the images as they were shown, without penalties; `seconds` are the epochs' times.
    """

    def __init__(self, model: Classifier, groups: Sequence[Group], recipe: Recipe) -> None:
        super().__init__()
        self.model, self.groups, self.recipe = model, list(groups), recipe
        self.named = model.canonical()
        self.curve: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.parts: PartBatches | None = None
        self.train_sums, self.val_sums = Sums(), Sums()
        self.started_s = 0.0
        # For a checkpoint within an epoch: how many batches of training and of validation are done, and who is asked
        # before each of validation whether it is time for one.
        self.within: tuple[int, int] | None = None
        self.before_val_batch: Callable[[], None] | None = None
        self.val_batches = 0
        self._begun: dict[str, Any] | None = None
        self._batch: tuple[Batch, int] | None = None
        self._norm = torch.zeros(())
        # Parameters that are never trained are not part of a checkpoint.
        self.strict_loading = False
        self.freeze_for(0)

    # -- one of several processes

    def take_part(self, parts: PartBatches) -> None:
        """Trains on its part of every training batch, as one of the processes of a group; before the trainer begins."""
        self.parts = parts
        # Few validation images may leave a process without any.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def setup(self, stage: str) -> None:
        """Gradients are averaged over processes of what needs one now, and what is unfrozen later must be among it."""
        if self.parts is not None:
            for group in self.groups:
                for name in group.parameters:
                    self.named[name].requires_grad_(group.multiple > 0)

    def _share_norms(self) -> None:
        """Statistics of the images that all processes saw: means of theirs."""
        assert self.parts is not None
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.training:
                for statistic in (module.running_mean, module.running_var):
                    assert statistic is not None
                    distributed.all_reduce(statistic)
                    statistic.div_(self.parts.part.world)

    # -- what is frozen

    def freeze_for(self, epoch: int) -> None:
        """Frozen parameters get no gradient; their norms use and keep the statistics they came with."""
        for group in self.groups:
            for name in group.parameters:
                self.named[name].requires_grad_(group.trained(epoch))
        self._rest_norms()

    def train(self, mode: bool = True) -> Training:
        super().train(mode)
        if hasattr(self, "groups"):
            self._rest_norms()
        return self

    def _rest_norms(self) -> None:
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                trained = any(p.requires_grad for p in module.parameters())
                module.train(self.training and trained)

    # -- a step

    def configure_optimizers(self) -> Optimizer:
        return optimisers.make(self.groups, self.named, self.recipe.optimiser)

    def logits(self, inputs: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Pixels or codes -> logits in float32, and the labels after mixing, which is done where there are labels.

        What is rounded to the run's precision is rounded here: weights, losses, gradients of weights and steps are in
        float32, whoever calls.
        """
        if not self.recipe.on_codes:
            inputs = self.model.normalise(inputs)
            if labels is not None and self.recipe.mix is not None:
                inputs, labels = self.recipe.mix(inputs, labels)
        with autocast(inputs.device.type, self.recipe.precision):
            logits = self.model.top(inputs if self.recipe.on_codes else self.model.body(inputs))
        return logits.float(), labels

    def loss_of(self, batch: Batch, seed: int) -> tuple[Tensor, Tensor]:
        """(loss, logits) of a training batch; dropout and mixing are drawn from `seed`."""
        torch.manual_seed(seed)
        inputs, targets = batch
        logits, labels = self.logits(inputs, soft_labels(targets, self.recipe.k, smoothing=self.recipe.smoothing))
        assert labels is not None
        return self.recipe.loss(logits, labels), logits

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss, logits = self.loss_of(batch, self.step_seed(index))
        # L-BFGS asks many times in a step, always for all images: what they were before it is the epoch's loss.
        if not (self.recipe.penalties_in_loss and self.train_sums.images):
            self.train_sums.add(loss, logits, batch[1])
        self._batch = (batch, index)
        if self.recipe.penalties_in_loss:
            loss = loss + optimisers.l2_penalty(self.groups, self.named)
        return loss * self._weight(len(batch[1]), index)

    def _weight(self, images: int, index: int) -> float:
        """Of the mean over some images of batch `index`: the step's loss is the mean over all of its images, whatever
        the sizes of its batches and of the processes' parts of them.

        It undoes what is divided by numbers of batches and processes: by Lightning the loss, by DDP the gradient.
        """
        steps = self.recipe.steps
        processes = self.parts.part.world if self.parts is not None else 1
        return images / steps.images_of(index) * steps.accumulate * processes

    def step_seed(self, index: int) -> int:
        """Each process draws for its own images; the first, what a run on one device would."""
        rank = self.parts.part.rank if self.parts is not None else 0
        return seed_of(self.recipe.seed, "step", self.current_epoch, index, *([rank] if rank else []))

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        rate = self.recipe.optimiser.rate * self.recipe.schedule.at(self.global_step)
        optimisers.set_rates(self._optimiser, rate, self.current_epoch)

    def on_train_batch_end(self, outputs: Any, batch: Batch, index: int) -> None:
        if self.parts is not None and self.trainer.is_last_batch:
            self._share_norms()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Raises UserError before a step that would spoil the weights."""
        optimisers.add_l1(self.groups, self.named)
        self._norm = nn.utils.get_total_norm([p.grad for p in self.named.values() if p.grad is not None])
        if not torch.isfinite(self._norm):
            assert self._batch is not None
            batch, index = self._batch
            raise diverged(self, batch, self.step_seed(index), step=self.global_step)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """By the norm just seen. Lightning's own way takes it again, and refuses fused optimisers with bf16."""
        if gradient_clip_val:
            nn.utils.clip_grads_with_norm_(self.named.values(), gradient_clip_val, self._norm)

    @property
    def _optimiser(self) -> Optimizer:
        found = self.optimizers(use_pl_optimizer=False)
        assert isinstance(found, Optimizer)
        return found

    # -- an epoch

    def on_train_epoch_start(self) -> None:
        self.train_sums, self.started_s = Sums(), time.perf_counter()
        self.freeze_for(self.current_epoch)

    def on_validation_epoch_start(self) -> None:
        if not self.val_batches:
            self.val_sums = Sums()

    def validation_step(self, batch: Batch, index: int) -> None:
        if self.before_val_batch is not None:
            self.before_val_batch()
        logits, _ = self.logits(batch[0])
        self.val_sums.add(self.recipe.loss(logits, soft_labels(batch[1], self.recipe.k)), logits, batch[1])
        # Not the index, which begins at 0 where validation goes on.
        self.val_batches += 1

    def on_train_epoch_end(self) -> None:
        self.val_batches = 0
        train, val = self.train_sums, self.val_sums
        if self.parts is not None:
            # Not kept: a process without validation images never begins such an epoch, and its sums stay empty.
            train, val = train.over_all(self.device), val.over_all(self.device)
        train_loss, train_accuracy = train.means()
        val_loss, val_accuracy = val.means()
        self.curve.append(
            {
                "epoch": self.current_epoch + 1,
                "step": self.global_step,
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "rates": {g["name"]: g["lr"] for g in self._optimiser.param_groups},
            }
        )
        self.seconds.append(time.perf_counter() - self.started_s)

    # -- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["curve"], checkpoint["seconds"] = self.curve, self.seconds
        checkpoint["begun"] = None if self.within is None else begun.state_of(self, *self.within)
        for name in self._never_trained():
            del checkpoint["state_dict"][name]

    def trained_state(self) -> dict[str, Tensor]:
        """What a step may change: the state without what is never trained."""
        never = self._never_trained()
        return {name: tensor for name, tensor in self.state_dict().items() if name not in never}

    def _never_trained(self) -> set[str]:
        never = {id(self.named[n]) for g in self.groups if g.multiple == 0 for n in g.parameters}
        return {name for name, parameter in self.named_parameters() if id(parameter) in never}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curve, self.seconds = list(checkpoint["curve"]), list(checkpoint["seconds"])
        self._begun = checkpoint.get("begun")

    def on_train_start(self) -> None:
        """Lightning goes on within an epoch without its beginning."""
        if self._begun is not None:
            begun.restore(self, self._begun)
            self.val_batches = self._begun["val_batches"]
            self.freeze_for(self.current_epoch)
            self._begun = None
