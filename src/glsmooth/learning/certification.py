"""Certification as a LightningModule: votes for the images of a data set, recorded as they finish.

Lightning chooses devices and starts a process for each; every process certifies its share of the images.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.data import Batches, loader
from glsmooth.runs.records import COLUMNS, RecordWriter, part_path, read_rows
from glsmooth.smoothing import check_image
from glsmooth.voting.classifier import BaseClassifier
from glsmooth.voting.engine import VoteEngine, keep_freed_memory
from glsmooth.voting.procedures import FixedSample, Procedure, Tally

__all__ = ["CertificationModule", "Settings", "columns", "quieten_lightning", "record"]

# Images that a loading step brings: enough that its overhead does not show, few enough to keep memory small.
_IMAGES_A_STEP = 16


@dataclass(frozen=True)
class Settings:
    """How votes are taken.

    ``seed`` fixes the draws, ``stochastic`` accepts a random network; the rest is speed: evaluations a batch, and
    what :class:`glsmooth.voting.classifier.BaseClassifier` says about ``precision``, ``compile`` and ``channels_last``.
    """

    seed: int = 0
    batch_size: int = 256
    precision: str = "32-true"
    compile: bool = False
    channels_last: bool = False
    num_workers: int = 0
    stochastic: bool = False


def quieten_lightning() -> None:
    """Drop Lightning's greetings and the advice that does not fit; other warnings stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for advice in (
        ".*does not have many workers.*",
        ".*predict returned None.*",
        ".*LeafSpec.*is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=advice)


def columns(methods: Sequence[str], coin: bool = False) -> list[str]:
    """Columns of records.csv for these methods; ``coin`` where the bound is randomised."""
    return [*COLUMNS, *(["coin"] if coin else []), *(f"certified_{method}" for method in methods)]


def record(tally: Tally, label: int, thresholds: Mapping[str, float | None]) -> dict[str, object]:
    """A row of records.csv; which of its values are written is up to :func:`columns`.

    Args:
        tally: the votes of the image.
        label: its class.
        thresholds: required probability by method; None where the method does not apply or is not sound.
    """
    certified = {
        f"certified_{method}": h_min is not None and tally.p_lower > h_min for method, h_min in thresholds.items()
    }
    return {
        "index": tally.index,
        "label": label,
        "prediction": tally.prediction,
        "n0": tally.n0,
        "n": tally.n,
        "count": tally.count,
        "p_lower": float(tally.p_lower),
        "base_prediction": tally.clean,
        "abstain_votes": tally.abstained,
        "nonfinite_votes": tally.nonfinite,
        "near_ties": tally.near_ties,
        "coin": float(tally.coin),
        **certified,
    }


class CertificationModule(LightningModule):
    """Takes the votes of ``images`` and appends a row for each to a file of records, in their order.

    Images that records.csv holds already are left out. With several processes each takes a share and writes
    its own part (:func:`glsmooth.runs.records.part_path`), which :class:`glsmooth.runs.records.Records` merges.

    Args:
        model: base classifier, (N, C, H, W) images in [0, 1] -> logits (N, num_classes).
        family: transformation, smoothing laws and pixel noise.
        procedure: how many votes an image gets.
        num_classes: number of classes.
        images: (image (C, H, W), label, index) items.
        indices: the index of each item; unique: it fixes the image's draws and names it in the records.
        thresholds: required probability by method, as in :func:`record`; its order is that of the columns.
        settings: seed and speed.
        directory: run directory.
        progress: show a bar.
    """

    def __init__(
        self,
        model: nn.Module,
        family: SmoothedFamily,
        procedure: Procedure,
        num_classes: int,
        images: Dataset,
        indices: Sequence[int],
        thresholds: Mapping[str, float | None],
        settings: Settings,
        directory: Path,
        progress: bool = True,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer images than processes
        self.model = model
        self.family, self.procedure, self.num_classes = family, procedure, num_classes
        self.images, self.indices = images, list(indices)
        self.thresholds, self.settings, self.directory, self.progress = (
            dict(thresholds),
            settings,
            directory,
            progress,
        )

    @property
    def columns(self) -> list[str]:
        """Columns of this run's records.csv."""
        randomised = isinstance(self.procedure, FixedSample) and self.procedure.randomised
        return columns(list(self.thresholds), coin=randomised)

    def predict_dataloader(self) -> DataLoader:
        finished = {int(row["index"]) for row in read_rows(self.directory)}
        remaining = [position for position, index in enumerate(self.indices) if index not in finished]
        share = Batches(len(remaining), _IMAGES_A_STEP, rank=self.global_rank, world_size=self.trainer.world_size)
        return loader(Subset(self.images, remaining), share, self.settings.num_workers)

    def setup(self, stage: str) -> None:
        quieten_lightning()  # in processes that Lightning starts, too

    def on_predict_start(self) -> None:
        settings = self.settings
        if self.device.type == "cpu":
            keep_freed_memory()
        classifier = BaseClassifier(
            self.model,
            self.num_classes,
            device=self.device,
            precision=settings.precision,
            compile=settings.compile,
            channels_last=settings.channels_last,
            stochastic=settings.stochastic,
        )
        self._ready = ExitStack()
        self._ready.enter_context(classifier.ready(self.images[0][0]))
        self._engine = VoteEngine(
            classifier,
            self.family,
            self.procedure,
            seed=settings.seed,
            batch_size=settings.batch_size,
            clean=True,
        )
        path = part_path(self.directory, self.global_rank, self.trainer.world_size)
        self._bar = _Progress(self)
        self._writer = RecordWriter(path, self.columns)
        self._labels: dict[int, int] = {}  # of images not yet written, in their order
        self._finished: dict[int, Tally] = {}  # that wait for one before them

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        # The engine sends each image once, and labels are only compared on the host.
        return batch

    def predict_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        for image, label, index in zip(batch[0], batch[1].tolist(), batch[2].tolist(), strict=True):
            check_image(image, f"image {index}")
            if not 0 <= label < self.num_classes:
                raise ValueError(
                    f"image {index}: its label {label} is outside the model's {self.num_classes} classes; "
                    "certify the dataset that the model was trained for"
                )
            while not self._engine.wants_image:
                self._write(self._engine.step())
            self._labels[index] = label
            self._engine.add(index, image)

    def on_predict_epoch_end(self) -> None:
        while self._engine.busy:
            self._write(self._engine.step())

    def on_predict_end(self) -> None:
        self._ready.close()
        self._writer.close()
        self._bar.close()
        # The number of evaluations leaves a spawned process in a file.
        path = self.directory / f"evaluations.rank{self.global_rank}"
        path.write_text(str(self._engine.evaluations))

    def teardown(self, stage: str) -> None:
        self.trainer.strategy.barrier("certified")  # all parts are complete; also passed by a process without images

    def _write(self, tallies: Sequence[Tally]) -> None:
        """Record finished images in their order; those that finished before an earlier one wait for it."""
        self._finished.update((tally.index, tally) for tally in tallies)
        rows = []
        for index in list(self._labels):
            if index not in self._finished:
                break
            rows.append(record(self._finished.pop(index), self._labels.pop(index), self.thresholds))
        if rows:
            self._engine.classifier.check_unchanged()  # what is on disk counts, whatever happens next
        self._writer.append(rows)
        self._bar.update(rows)


class _Progress:
    """A bar with images a second, time left and the running CRA, shown by the first process for its share."""

    def __init__(self, module: CertificationModule) -> None:
        ranks = module.trainer.world_size
        rows = read_rows(module.directory)
        self.method = next((m for m, h_min in module.thresholds.items() if h_min is not None), None)
        self.seen = self.certified = 0
        self._count(rows)
        remaining = len(module.indices) - len(rows)
        self.bar = tqdm(
            total=len(rows) + len(range(module.global_rank, remaining, ranks)),
            initial=len(rows),
            desc="Certifying" if ranks == 1 else f"Certifying (device 1 of {ranks})",
            unit="image",
            disable=not (module.progress and module.global_rank == 0),
            mininterval=0.5 if sys.stderr.isatty() else 10,  # a log file needs no animation
        )

    def _count(self, rows: Sequence[Mapping[str, object]]) -> None:
        for row in rows:
            certified = int(row.get(f"certified_{self.method}", 0))  # type: ignore[call-overload]
            self.certified += bool(certified) and int(row["prediction"]) == int(row["label"])  # type: ignore[call-overload]
            self.seen += 1

    def update(self, rows: Sequence[Mapping[str, object]]) -> None:
        self._count(rows)
        if rows and self.method is not None:
            self.bar.set_postfix_str(f"CRA {self.certified / self.seen:.1%} ({self.method})", refresh=False)
        self.bar.update(len(rows))

    def close(self) -> None:
        self.bar.close()
