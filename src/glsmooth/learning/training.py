"""Training of the base classifier under the smoothing laws, as a LightningModule."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn

from glsmooth.configuration.fields import OLDER_SCHEDULES, RULES, shown
from glsmooth.configuration.parts import build_loss, build_optimizer, check_total, try_loss
from glsmooth.errors import UserError
from glsmooth.family.regions import Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning import stopping
from glsmooth.learning.checkpoint import KEY
from glsmooth.learning.data import Batches, Data, pixel_batches
from glsmooth.learning.losses import LossTerms, training_loss
from glsmooth.learning.pixels import unit
from glsmooth.learning.trainer import progress_bar
from glsmooth.runs.history import ACCURACIES, LOSSES, History, read_history, write_history
from glsmooth.threats import Threat
from glsmooth.voting.memory import keep_freed_memory

#: Logged names. Under the law: of single transformed images, not of the smoothed classifier's majority vote.
CLEAN = "val/accuracy"
UNDER_LAW = "val/accuracy_under_law"

#: Transformed copies of each validation image: more than one steadies the choice of best.ckpt.
VALIDATION_COPIES = 4

#: In last.ckpt, what was done of an epoch that has not ended.
BEGUN = "begun"
#: In last.ckpt, the weights that learn, where those of its network are their average.
LEARNING = "learning"

#: Seconds after which last.ckpt is saved inside an epoch, also where no signal asks for it.
SECONDS_A_SAVE = 600.0
#: Seconds of training that are saved before the last step of an epoch: validation follows, and may take long.
_WORTH_SAVING = 30.0

#: Steps after which the losses of a GPU are looked at: each time it must be waited for.
_STEPS_A_LOOK = 50


class TrainingModule(LightningModule):
    """Trains a base classifier on transformed copies with the consistency loss (Jeong & Shin 2020).

    The network runs in the channels-last memory format.

    Args:
        model: images in [0, 1] `N x C x H x W` to logits `N x K`.
        family: the transformation with its smoothing laws, and the standard deviation of pixel noise.
        data: the dataset; its augmentation acts before the transformation.
        loss: ``copies`` (m, of each image), ``transformed`` (False: images as they are), and either ``consistency``
            (λ), ``entropy`` (η) and ``label_smoothing``, or what :func:`glsmooth.configuration.parts.build_loss` takes.
        optimizer: what :func:`glsmooth.configuration.parts.build_optimizer` takes, ``bias_lr`` (of biases of batch
            normalisation, in units of lr), ``schedule``, ``milestones``, ``gamma`` and ``epochs`` (:func:`rate`),
            ``batch_size`` (images; the network sees m times as many), and ``ema``, the share of an average of the
            weights that stays at each step (None: no average): the average is what is validated and saved.
        seed: fixes the order of images, the augmentation and the smoothing parameters of every epoch.
        payload: what checkpoints say about themselves (:func:`glsmooth.learning.checkpoint.make_payload`).
        region: what will be certified, for a family whose threat warps images: its parameter is drawn evenly from it.

    Raises:
        UserError: one copy with a consistency weight, where the term would be zero; an unknown schedule; a loss of
            the user's own that fails; and in training a loss that is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        family: SmoothedFamily,
        data: Data,
        loss: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        seed: int,
        payload: Mapping[str, Any],
        region: Region | None = None,
    ) -> None:
        super().__init__()
        own = build_loss(loss)
        if own is not None:
            try_loss(loss["_target_"], own, loss["copies"], data.num_classes)
        elif loss["copies"] < 2 and loss["consistency"] > 0:
            raise UserError(
                f"copies={loss['copies']} with consistency={loss['consistency']}: the term compares copies and would "
                "be zero; use copies=2 or more, or consistency=0"
            )
        if not loss["transformed"] and (loss["copies"] > 1 or (own is None and loss["entropy"] > 0)):
            raise UserError(
                f"transformed=false with copies={loss['copies']} and entropy={shown(loss['entropy'])}: copies of an "
                "image would all be the same; use copies=1 consistency=0 entropy=0 (loss=plain), or transformed=true"
            )
        if not RULES["optimizer.schedule"].accepts(optimizer["schedule"]):
            raise UserError(RULES["optimizer.schedule"].refusal("schedule", optimizer["schedule"]))
        self.model, self.family, self.data = model.to(memory_format=torch.channels_last), family, data
        self.loss, self.optimizer, self.seed, self.payload = loss, optimizer, seed, payload
        assert region is not None or not family.warps
        self._interval = family.interval(region) if region is not None and family.warps else (0.0, 0.0)
        # In a tuple, for a module here would be a part of the network and of its checkpoint.
        self._own = (own,)
        # In a tuple, too: checkpoints have its weights in the place of the network's.
        averaged = optimizer.get("ema") is not None
        self._averaged = (copy.deepcopy(self.model).requires_grad_(False).eval(),) if averaged else ()
        self.draws = torch.Generator()
        #: Has training begun, and with it the reading of the checkpoint that it resumes from ended?
        self.begun = False
        #: While a checkpoint is saved inside an epoch, the steps of it that were made; else 0.
        self.steps_begun = 0
        #: Steps of the epoch that last.ckpt holds.
        self.steps_saved = 0
        #: Epochs that had ended where training goes on.
        self.first_epoch = 0
        # Steps of the next one that were made before.
        self._first_step = 0
        # Of the epoch: steps that were not looked at yet (number, images, loss terms), and the sums of the others.
        self._steps: list[tuple[int, int, Tensor]] = []
        self._sums, self._images = torch.zeros(len(LossTerms._fields), dtype=torch.float64), 0

    def forward(self, images: Tensor) -> Tensor:
        network = self.model if self.training or not self._averaged else self._averaged[0]
        logits: Tensor = network(images)
        return logits

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self._average()  # before anything is saved after the step

    @torch.no_grad()
    def _average(self) -> None:
        """Move the average towards the weights, in the first steps faster: it begins with weights that know nothing."""
        for averaged in self._averaged:
            stays = min(self.optimizer["ema"], (1 + self.global_step) / (10 + self.global_step))
            pairs = zip(averaged.state_dict().values(), self.model.state_dict().values(), strict=True)
            for mean, value in pairs:
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - stays)
                else:
                    mean.copy_(value)  # the number of batches

    def restart_draws(self, purpose: int, epoch: int, step: int) -> None:
        """Restart the random draws from seed, epoch and step: a resumed run repeats them exactly."""
        seed = 0
        for number in (self.seed, self.global_rank, purpose, epoch, step):
            seed = (seed * 1_000_003 + number) % 2**63
        self.draws = torch.Generator(self.device).manual_seed(seed)

    def transformed(self, images: Tensor, copies: int) -> Tensor:
        """Independently transformed copies of ``images`` `N x C x H x W`, one set after the other."""
        images = images.repeat(copies, 1, 1, 1)
        # Half precision is for the network: the transformation is what is certified, and stays exact.
        with torch.autocast(images.device.type, enabled=False):
            if isinstance(self.family.threat, Threat):
                low, high = self._interval
                share = torch.rand(len(images), generator=self.draws, device=images.device, dtype=torch.float64)
                images = self.family.threat.warp(images, low + (high - low) * share)
            theta = self.family.sample(len(images), generator=self.draws, device=images.device)
            images = self.family.transform.apply(images, theta)
            if self.family.pixel_noise > 0:
                noise = torch.randn(images.shape, generator=self.draws, device=images.device)
                images = images + self.family.pixel_noise * noise
        return images

    def transformed_logits(self, images: Tensor, copies: int) -> Tensor:
        """Logits `copies x N x K` of independently transformed copies of ``images``."""
        images = self.transformed(images, copies)
        logits: Tensor = self(images.contiguous(memory_format=torch.channels_last)).unflatten(0, (copies, -1))
        return logits

    def on_train_start(self) -> None:
        self.begun = True
        if isinstance(self._own[0], nn.Module):
            self._own[0].to(self.device)
        for averaged in self._averaged:
            averaged.to(self.device)
        for one in self.trainer.lr_scheduler_configs:
            # With more epochs than before the schedule is another one from the first step on.
            schedule: Any = one.scheduler
            rates = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
            for group, highest, factor in rates:
                group["lr"] = highest * factor(schedule.last_epoch)
        if self.device.type == "cpu":
            keep_freed_memory()

    def on_train_epoch_start(self) -> None:  # not called where training goes on inside an epoch
        self._steps, self._sums, self._images = [], torch.zeros_like(self._sums), 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        pixels, labels = batch
        self.restart_draws(0, self.current_epoch, batch_idx)
        images = unit(self.data.augment(pixels, self.draws))
        if self.loss["transformed"]:
            logits = self.transformed_logits(images, self.loss["copies"])
        else:
            logits = self(images.contiguous(memory_format=torch.channels_last))[None]
        terms = self._terms(logits, labels)
        self._steps.append((self.global_step + 1, len(labels), torch.stack(terms).detach()))
        if self.device.type == "cpu" or len(self._steps) == _STEPS_A_LOOK:
            self._look_at_steps()
        return terms.total

    def _terms(self, logits: Tensor, labels: Tensor) -> LossTerms:
        if self._own[0] is None:
            weights = (self.loss[name] for name in ("consistency", "entropy", "label_smoothing"))
            return training_loss(logits, labels, *weights)
        with torch.autocast(logits.device.type, enabled=False):
            total = self._own[0](logits.float(), labels)
        check_total(self.loss["_target_"], total)
        with torch.no_grad():  # to be looked at
            return training_loss(logits, labels, consistency=0.0, entropy=0.0)._replace(total=total)

    def _look_at_steps(self) -> None:
        """Add up the loss terms of the last steps, for which a GPU is waited for.

        Raises:
            UserError: one that is not finite.
        """
        if not self._steps:
            return
        numbers, sizes, terms = zip(*self._steps, strict=True)
        self._steps = []
        values = torch.stack(terms).to("cpu", torch.float64)
        for number, total in zip(numbers, values[:, 0].tolist(), strict=True):
            if not math.isfinite(total):
                target = self.loss.get("_target_")
                whose = f"loss._target_={target}" if target else f"lr={shown(self.optimizer['lr'])}"
                fix = "mend it, or set a smaller optimizer.lr" if target else "use a smaller one"
                where = f"epoch {self.current_epoch + 1}, step {number}"
                raise UserError(
                    f"{whose}: the loss is {total} in {where}; {fix}, or check the images and the precision"
                )
        self._sums += torch.tensor(sizes, dtype=torch.float64) @ values
        self._images += sum(sizes)

    def on_train_epoch_end(self) -> None:
        self._look_at_steps()
        for name, total in zip(LossTerms._fields, self._sums.tolist(), strict=True):
            self.log(f"train/{name}", total / self._images, sync_dist=True, batch_size=self._images)

    def on_validation_epoch_start(self) -> None:
        # The same draws after every epoch, so that epochs are compared on the same transformed images.
        self.restart_draws(1, 0, 0)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        pixels, labels = batch
        images = unit(pixels)
        # Of a plain training this is no more than told, so it need not be steady.
        logits = self.transformed_logits(images, VALIDATION_COPIES if self.loss["transformed"] else 1)
        for name, correct in (
            (CLEAN, self(images.contiguous(memory_format=torch.channels_last)).argmax(-1) == labels),
            (UNDER_LAW, logits.argmax(-1) == labels),
        ):
            self.log(name, correct.float().mean(), on_epoch=True, sync_dist=True, batch_size=len(labels))

    def configure_optimizers(self) -> Any:
        chosen = self.optimizer
        optimizer = build_optimizer(chosen, self._groups())
        for group, factor in zip(optimizer.param_groups, (1.0, chosen["bias_lr"]), strict=False):
            # What is null the class has chosen.
            if "lr" not in group:
                raise UserError(
                    f"optimizer._target_={chosen['_target_']}: its groups of parameters have no lr, which schedules "
                    "change; have it keep one, as torch's own do"
                )
            group["lr"] = group["lr"] * factor
            if "weight_decay" in group:
                group["weight_decay"] = group["weight_decay"] / factor  # what it takes off in a step stays
        if _schedule(chosen) == "none":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(chosen, step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _groups(self) -> list[dict[str, Any]]:
        """Those that learn, in groups: biases that learn faster (``bias_lr``) are the second one."""
        learning = [value for value in self.model.parameters() if value.requires_grad]
        if self.optimizer["bias_lr"] == 1:
            return [{"params": learning}]
        norms = (module for module in self.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
        biases = {id(module.bias) for module in norms}
        return [
            {"params": [value for value in learning if id(value) not in biases]},
            {"params": [value for value in learning if id(value) in biases]},
        ]

    def _kept(self) -> dict[int, dict[str, Any]]:
        """What the optimizer keeps of each parameter after a step, by its number; nothing where that cannot be tried.

        Zeros in the parameters' shapes stand for them.
        """
        groups = [
            {**group, "params": [torch.zeros(value.shape, requires_grad=True) for value in group["params"]]}
            for group in self._groups()
        ]
        for value in (value for group in groups for value in group["params"]):
            value.grad = torch.zeros_like(value)
        optimizer = build_optimizer(self.optimizer, groups)
        try:
            optimizer.step()
        except Exception:  # LBFGS wants a closure, and one of the user's own may want anything
            return {}
        kept: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
        return kept

    def train_dataloader(self) -> Any:
        batches = self._batches(self.data.train, shuffle_seed=self.seed)
        batches.resume(self.first_epoch, self._first_step)
        return pixel_batches(self.data.train, batches, self.data.num_workers, self.device)

    def val_dataloader(self) -> Any:
        return pixel_batches(self.data.val, self._batches(self.data.val), self.data.num_workers, self.device)

    def _batches(self, dataset: Any, shuffle_seed: int | None = None) -> Batches:
        world = self.trainer.global_rank, self.trainer.world_size
        return Batches(len(dataset), self.optimizer["batch_size"], shuffle_seed, *world)

    @property
    def _size(self) -> int:
        images: Any = self.data.train
        return len(images)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for averaged in self._averaged:
            if LEARNING not in checkpoint:
                raise ValueError("it lacks the weights that learn")
            weights = checkpoint["state_dict"]
            averaged.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
            checkpoint["state_dict"] = checkpoint[LEARNING]
        # Lightning orders the batches of a resumed run's first epoch before it restores the epoch's number.
        self.first_epoch = int(checkpoint[KEY]["metrics"]["epoch"])
        begun = checkpoint[KEY].get(BEGUN)
        if begun is not None:
            self._first_step = self.steps_saved = int(begun["steps"])
            self._images = int(begun["images"])
            # Other batches than those that were left would follow, or none.
            size, now = begun["size"], self._size
            made = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"]
            if size != now:
                raise ValueError(f"it stopped inside an epoch of {size} images, and now there are {now}")
            if self._first_step != made or not 0 < self._images <= made * self.optimizer["batch_size"]:
                raise ValueError(f"it was changed: {made} steps were made, and it says {self._first_step}")
            self._sums = torch.tensor(begun["sums"], dtype=torch.float64).reshape(self._sums.shape)
        # The optimizer takes any tensors, and fails at its first step.
        stored = checkpoint["optimizer_states"][0]["state"]
        for number, kept in self._kept().items() if stored else ():
            for name, value in kept.items():
                found = stored.get(number, {}).get(name)
                if isinstance(value, Tensor) and value.ndim and getattr(found, "shape", None) != value.shape:
                    what = f"has shape {tuple(found.shape)}" if isinstance(found, Tensor) else "is missing"
                    raise ValueError(f"the optimizer's {name} {number} {what}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Weights lie in the file as any other program has them.
        checkpoint["state_dict"] = {name: value.contiguous() for name, value in checkpoint["state_dict"].items()}
        for averaged in self._averaged:
            if "optimizer_states" in checkpoint:  # to go on from
                checkpoint[LEARNING] = checkpoint["state_dict"]
            weights = averaged.state_dict()
            checkpoint["state_dict"] = {f"model.{name}": value.contiguous() for name, value in weights.items()}
        metrics = {name: value.item() for name, value in self.trainer.callback_metrics.items()}
        finished = self.current_epoch + (self.steps_begun == 0)
        checkpoint[KEY] = {**self.payload, "metrics": {"epoch": finished, **metrics}}
        if self.steps_begun:
            self._look_at_steps()
            checkpoint[KEY][BEGUN] = {
                "steps": self.steps_begun,
                "images": self._images,  # of the first process
                "size": self._size,
                "sums": self._sums.tolist(),
            }


def rate(optimizer: Mapping[str, Any], done: float) -> float:
    """The learning rate after a share of the steps, in units of lr, by the ``schedule`` of ``optimizer``.

    cosine: down to nothing. onecycle: up from a fifth in a fifth of the steps, then down to nothing, both in a straight
    line. step: times ``gamma`` after each of ``milestones``, in epochs of ``epochs``; null: after half of them and
    after three quarters, as He et al. (2016) have it. none: as it is.
    """
    schedule = _schedule(optimizer)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "onecycle":
        return 0.2 + 4 * done if done < 0.2 else (1 - done) / 0.8
    if schedule == "step":
        milestones = optimizer["milestones"]
        shares = (0.5, 0.75) if milestones is None else (epoch / optimizer["epochs"] for epoch in milestones)
        return float(optimizer["gamma"] ** sum(done >= share for share in shares))
    return 1.0


def _schedule(optimizer: Mapping[str, Any]) -> str:
    name: str = optimizer["schedule"]
    return OLDER_SCHEDULES.get(name, name)


class SavesInsideEpochs(Callback):
    """Saves last.ckpt inside an epoch, too: when a signal stops the training, every ten minutes, and near the end.

    Signals wait for the end of a step. In the last one, and in the validation that follows, they do not: that is
    repeated.

    Args:
        path: of last.ckpt.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.saved = path, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved = time.monotonic()
        stopping.boundary(waits=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stopping.boundary(waits=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps, left = batch_idx + 1, int(trainer.num_training_batches) - (batch_idx + 1)
        if not trainer.is_global_zero:
            return  # the others go on until the first is done: it may need them for its step
        since = time.monotonic() - self.saved
        due = stopping.asked() or since > SECONDS_A_SAVE or (left == 1 and since > _WORTH_SAVING)
        if left > 0 and due and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save(trainer, pl_module, steps)
        stopping.boundary(waits=left > 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved = time.monotonic()  # ModelCheckpoint does
        assert isinstance(pl_module, TrainingModule)
        pl_module.steps_saved = 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stopping.boundary(waits=False)

    def _save(self, trainer: Trainer, module: LightningModule, steps: int) -> None:
        assert isinstance(module, TrainingModule)
        module.steps_begun = steps
        try:
            # trainer.save_checkpoint would wait for processes that are at another step.
            trainer.strategy.save_checkpoint(trainer._checkpoint_connector.dump_checkpoint(), self.path)
        finally:
            module.steps_begun = 0
        self.saved, module.steps_saved = time.monotonic(), steps


class WritesMetrics(Checkpoint):
    """Writes metrics.csv when an epoch ends, before last.ckpt is saved: a kill leaves no epoch out and none twice.

    It is a Checkpoint for its place, after all that the module logs.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.history: History = {name: {} for name in (*LOSSES, *ACCURACIES)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        done = pl_module.first_epoch
        if done == 0 or not trainer.is_global_zero:
            return
        try:
            found = read_history(self.directory)
        except UserError as reason:
            print(f"metrics.csv begins with epoch {done + 1}: {reason}", file=sys.stderr)
            return
        # Of an epoch that was not saved there may be numbers, too.
        self.history = {name: {e: v for e, v in values.items() if e <= done} for name, values in found.items()}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics  # for which all processes meet
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for name, values in self.history.items():
                values[trainer.current_epoch + 1] = metrics[name].item()
            write_history(self.directory, self.history)


class TrainingProgress(Callback):
    """One bar over all steps of the training, with the time left and the last validation."""

    def __init__(self, show: bool) -> None:
        self.show = show

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar = progress_bar(
            "Training",
            "step",
            total=int(trainer.estimated_stepping_batches),
            done=trainer.global_step,
            show=self.show and trainer.is_global_zero,
        )

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics
        self.bar.set_postfix_str(
            f"epoch {trainer.current_epoch + 1}, accuracy {metrics[CLEAN]:.1%}, under the law {metrics[UNDER_LAW]:.1%}",
            refresh=False,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.close()  # what is said next begins a line
