"""Certification as a LightningModule: votes for the images of a data set, recorded as they finish.

Lightning chooses devices and starts a process for each; every process certifies its share of the images.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from glsmooth.bounds import Outcome
from glsmooth.errors import UserError
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.data import Batches, loader
from glsmooth.learning.trainer import device_name, progress_bar, quieten_lightning
from glsmooth.learning.wandb_log import Session
from glsmooth.runs.files import write_text
from glsmooth.runs.records import Columns, RecordWriter, columns, part_path, read_records, row
from glsmooth.runs.speed import read_speed, write_speed
from glsmooth.smoothing import Verdict, certify, check_image
from glsmooth.voting.classifier import BaseClassifier
from glsmooth.voting.engine import VoteEngine
from glsmooth.voting.procedures import FixedSample, Procedure
from glsmooth.voting.speed import AUTO, Speed
from glsmooth.voting.tuning import Chosen, arrange, choose_speed

__all__ = ["CertificationModule", "Options", "clear", "read_evaluations"]

# Images that a loading step brings: enough that its overhead does not show, few enough to keep memory small.
_IMAGES_A_STEP = 16
# Finished images are put on disk together, this often: to wait for the disk, and to see that the network is still the
# same, takes as long for one as for many.
SECONDS_A_WRITE = 0.1


@dataclass(frozen=True)
class Options:
    """How votes are taken, beside procedure and family.

    ``seed`` fixes the draws; ``precision`` and ``stochastic`` are those of
    :class:`glsmooth.voting.classifier.BaseClassifier`; ``num_workers`` processes load images; ``speed`` changes no
    draw.
    """

    seed: int = 0
    precision: str = "32-true"
    stochastic: bool = False
    num_workers: int = 0
    speed: Speed = Speed()  # noqa: RUF009 - it is frozen

    def classifier(self, model: nn.Module, num_classes: int, device: torch.device) -> BaseClassifier:
        """The base classifier as these options run it."""
        return BaseClassifier(model, num_classes, device=device, precision=self.precision, stochastic=self.stochastic)


class CertificationModule(LightningModule):
    """Runs :func:`glsmooth.smoothing.certify` on ``images`` and appends a row for each to a file of records.

    Images that records.csv holds already are left out. With several processes each takes a share and writes
    its own part (:func:`glsmooth.runs.records.part_path`), which :class:`glsmooth.runs.records.Records` merges.

    Args:
        model: base classifier, (N, C, H, W) images in [0, 1] -> logits (N, num_classes).
        family: transformation, smoothing laws and pixel noise.
        procedure: how many votes an image gets.
        num_classes: number of classes.
        images: (image (C, H, W), label, index) items.
        indices: the index of each item; unique: it fixes the image's draws and names it in the records.
        outcomes: what each bound requires of the region; their order is that of the columns.
        options: how votes are taken.
        directory: run directory.
        progress: show a bar.

    Attributes:
        logged: where the first process tells the running CRA, beside the bar.
    """

    def __init__(
        self,
        model: nn.Module,
        family: SmoothedFamily,
        procedure: Procedure,
        num_classes: int,
        images: Dataset[Any],
        indices: Sequence[int],
        outcomes: Mapping[str, Outcome],
        options: Options,
        directory: Path,
        progress: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.family, self.procedure, self.num_classes = family, procedure, num_classes
        self.images, self.indices = images, list(indices)
        self.outcomes, self.options, self.directory, self.progress = dict(outcomes), options, directory, progress
        self.logged = Session()

    @property
    def columns(self) -> list[str]:
        """Columns of this run's records.csv."""
        randomised = isinstance(self.procedure, FixedSample) and self.procedure.randomised
        return columns(list(self.outcomes), coin=randomised)

    def predict_dataloader(self) -> DataLoader[Any]:
        return DataLoader(cast("Dataset[int]", [0]), batch_size=None)  # one step: images share batches of votes

    def _share(self, records: Columns) -> tuple[DataLoader[Any], int]:
        """This process's part of the images that ``records`` do not hold yet, and their number."""
        finished = set(records["index"].tolist())
        remaining = [position for position, index in enumerate(self.indices) if index not in finished]
        share = Batches(len(remaining), _IMAGES_A_STEP, rank=self.global_rank, world_size=self.trainer.world_size)
        size = len(range(self.global_rank, len(remaining), self.trainer.world_size))
        return loader(Subset(self.images, remaining), share, self.options.num_workers), size

    def setup(self, stage: str) -> None:
        quieten_lightning()  # in processes that Lightning starts, too

    def predict_step(self, _: int) -> None:
        """Certify all images of this process's share."""
        records = read_records(self.directory)
        share, size = self._share(records)
        classifier = self.options.classifier(self.model, self.num_classes, self.device)
        speed = self._settled(classifier, records)
        engine = VoteEngine(
            classifier,
            self.family,
            self.procedure,
            seed=self.options.seed,
            batch_size=int(speed.batch_size),
            clean=True,
            images=size,
            on_smaller=self._smaller(speed) if self.options.speed.batch_size == AUTO else None,
        )
        writer = RecordWriter(part_path(self.directory, self.global_rank, self.trainer.world_size), self.columns)
        bar = _Progress(self, records)
        labels: dict[int, int] = {}  # of images not yet written, in their order
        finished: dict[int, Verdict] = {}  # that are not yet written

        def write() -> None:
            rows = []
            for index in list(labels):
                if index not in finished:  # rows keep the images' order: those behind this one wait for it
                    break
                rows.append(row(finished.pop(index), labels.pop(index)))
            writer.append(rows)
            bar.update(rows)

        written = time.monotonic()
        try:
            for verdict in certify(engine, self._stream(share, labels), self.outcomes):
                finished[verdict.tally.index] = verdict
                if time.monotonic() - written >= SECONDS_A_WRITE:
                    engine.classifier.check_unchanged()  # what is on disk counts, whatever happens next
                    write()
                    written = time.monotonic()
            write()  # the end of certify has checked the network
        finally:
            writer.close()
            bar.close()
        _write_evaluations(self.directory, self.global_rank, engine.evaluations)

    def _settled(self, classifier: BaseClassifier, records: Columns) -> Speed:
        """The speed of this run: kept from its beginning, or measured by the first process on its first image."""
        name = device_name(self.device)
        chosen: Chosen | None = None
        if self.global_rank == 0:
            kept = read_speed(self.directory, name)
            asked = self.options.speed if kept is None else self.options.speed.filled(kept)
            finished = set(records["index"].tolist())
            first = next(position for position, index in enumerate(self.indices) if index not in finished)
            image, remaining = self.images[[first]][0][0], len(self.indices) - len(finished)
            check_image(image, f"image {self.indices[first]}")
            chosen = choose_speed(
                asked,
                classifier,
                self.family,
                self.procedure,
                image,
                max(1, remaining // self.trainer.world_size),
                clean=True,
                index=self.indices[first],
                show=self.progress,
            )
            write_speed(self.directory, name, chosen.speed)
            _say(chosen, self.options.speed, kept, self.device.type)
        chosen = self.trainer.strategy.broadcast(chosen, src=0)
        assert chosen is not None
        arrange(classifier, chosen.speed)
        return chosen.speed

    def _smaller(self, speed: Speed) -> Callable[[int], None]:
        """What to do when a batch was too large and is halved: say so, and keep it for whoever goes on with the run."""

        def smaller(batch_size: int) -> None:
            print(f"Out of memory: batches of {batch_size} from here on", file=sys.stderr)
            write_speed(self.directory, device_name(self.device), replace(speed, batch_size=batch_size))

        return smaller

    def _stream(self, share: DataLoader[Any], labels: dict[int, int]) -> Iterator[tuple[int, Tensor]]:
        """(index, image) pairs of the share, checked; their labels go into ``labels``."""
        for images, classes, indices in share:
            for image, label, index in zip(images, classes.tolist(), indices.tolist(), strict=True):
                check_image(image, f"image {index}")
                if not 0 <= label < self.num_classes:
                    raise UserError(
                        f"image {index}: its label {label} is outside the model's {self.num_classes} classes; "
                        "certify the dataset that the model was trained for"
                    )
                labels[index] = label
                yield index, image

    def teardown(self, stage: str) -> None:
        self.trainer.strategy.barrier("certified")  # all parts are complete


def _say(chosen: Chosen, asked: Speed, kept: Speed | None, device: str) -> None:
    """One line about how votes are taken."""
    how = "as set"
    if chosen.rate is not None:
        how = f"measured in {chosen.seconds:.1f} s: {chosen.rate:,.0f} passes a second"
    elif not asked.settled and kept is not None:
        how = "as when the run began"
    print(f"Speed: {chosen.speed.words(device)} ({how})", file=sys.stderr)
    if chosen.note:
        print(chosen.note, file=sys.stderr)


def _write_evaluations(directory: Path, rank: int, evaluations: int) -> None:
    """Leave the number of a process's network evaluations where its parent finds it."""
    write_text(directory / f"evaluations.rank{rank}", str(evaluations))


def read_evaluations(directory: Path) -> int:
    """Network evaluations of this invocation, padding included, from the files that the processes left."""
    total = sum(int(path.read_text(encoding="utf-8")) for path in directory.glob("evaluations.rank*"))
    _forget_evaluations(directory)
    return total


def _forget_evaluations(directory: Path) -> None:
    for path in (*directory.glob("evaluations.rank*"), *directory.glob(".evaluations.rank*")):
        path.unlink()


def clear(directory: Path) -> None:
    """Remove what a killed invocation left half done, before the processes of this one start."""
    _forget_evaluations(directory)


class _Progress:
    """A bar with images a second, time left and the running CRA, shown by the first process for its share.

    The same CRA goes to W&B.
    """

    def __init__(self, module: CertificationModule, records: Columns) -> None:
        ranks = module.trainer.world_size
        self.sound = [m for m, outcome in module.outcomes.items() if outcome.h_min is not None and outcome.sound]
        stated = (m for m, outcome in module.outcomes.items() if outcome.h_min is not None)
        self.method = next(stated, None)
        self.seen = len(records["index"])
        self.robust = {m: self._robust_before(records, m) for m in {*self.sound, self.method} if m is not None}
        self.logged = module.logged if module.global_rank == 0 else Session()
        remaining = len(module.indices) - self.seen
        self.bar = progress_bar(
            "Certifying" if ranks == 1 else f"Certifying (device 1 of {ranks})",
            "image",
            total=self.seen + len(range(module.global_rank, remaining, ranks)),
            done=self.seen,
            show=module.progress and module.global_rank == 0,
        )

    @staticmethod
    def _robust_before(records: Columns, method: str) -> int:
        certified = records[f"certified_{method}"] != 0
        return int(np.count_nonzero(certified & (records["prediction"] == records["label"])))

    def update(self, rows: Sequence[Mapping[str, object]]) -> None:
        self.seen += len(rows)
        for method in self.robust:
            self.robust[method] += sum(bool(r[f"certified_{method}"]) and r["prediction"] == r["label"] for r in rows)
        if rows and self.method is not None:
            share = self.robust[self.method] / self.seen
            self.bar.set_postfix_str(f"CRA {share:.1%} ({self.method})", refresh=False)
        if rows:
            self._log()
        self.bar.update(len(rows))

    def _log(self, last: bool = False) -> None:
        self.logged.running(self.seen, {m: self.robust[m] / self.seen for m in self.sound}, last)

    def close(self) -> None:
        self.bar.close()
        if self.seen:
            self._log(last=True)
