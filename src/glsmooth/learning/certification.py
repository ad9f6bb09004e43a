"""Certification as a LightningModule: votes for the images of a data set, recorded as they finish.

Lightning chooses devices and starts a process for each; every process certifies its share of the images.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from glsmooth.bounds import Outcome
from glsmooth.errors import UserError
from glsmooth.family.regions import Region
from glsmooth.family.resolvability import check_family
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.data import Batches, loader
from glsmooth.learning.stopping import Stopped
from glsmooth.learning.trainer import accelerator, device_name, progress_bar, quieten_lightning, spawned
from glsmooth.learning.wandb_log import Session
from glsmooth.runs.figure import Draws
from glsmooth.runs.files import write_text
from glsmooth.runs.records import Columns, Records, RecordWriter, columns, older_columns, part_path, read_records, row
from glsmooth.runs.speed import read_speed, write_speed
from glsmooth.runs.summary import Numbers, Summary, robust_accuracy
from glsmooth.smoothing import Verdict, certify, check_image
from glsmooth.voting.classifier import BaseClassifier, can_compile
from glsmooth.voting.engine import VoteEngine
from glsmooth.voting.procedures import FixedSample, Procedure, Sequential
from glsmooth.voting.speed import AUTO, Speed
from glsmooth.voting.tuning import Chosen, arrange, choose_speed

__all__ = [
    "CertificationModule",
    "Options",
    "clear",
    "read_evaluations",
    "save_draws",
    "summarise",
    "take_votes",
    "try_transformation",
]

# Images that a loading step brings: enough that its overhead does not show, few enough to keep memory small.
_IMAGES_A_STEP = 16
# Finished images are put on disk together, this often: to wait for the disk, and to see that the network is still the
# same, takes as long for one as for many.
SECONDS_A_WRITE = 0.1
# Transformed copies in the picture of what was done to one image.
_FIGURE_COPIES = 8
# Images on which a transformation of the user's own is tried.
_TRIED = 8


@dataclass(frozen=True)
class Place:
    """Where a share of the images is certified.

    Attributes:
        device: of the network.
        rank, ranks: which process this is, of how many.
        share: gives every process what the first one has.
    """

    device: torch.device
    rank: int = 0
    ranks: int = 1
    share: Callable[[Chosen | None], Chosen | None] = lambda chosen: chosen


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

    @classmethod
    def of(cls, settings: Mapping[str, Any], num_workers: int = 0) -> Options:
        """Those of a command's settings, whose precision is not auto.

        Raises:
            UserError: the network is to be compiled for a CPU, and there is no compiler.
        """
        if settings["compile"] is True and not can_compile(accelerator(settings)):
            raise UserError("compile=true: needs a C++ compiler on a CPU; install g++, or set compile=false")
        speed = Speed(**{key: settings[key] for key in ("batch_size", "channels_last", "compile", "threads")})
        return cls(settings["seed"], settings["precision"], settings["stochastic"], num_workers, speed)

    def classifier(self, model: nn.Module, num_classes: int, device: torch.device) -> BaseClassifier:
        """The base classifier as these options run it."""
        return BaseClassifier(model, num_classes, device=device, precision=self.precision, stochastic=self.stochastic)


class CertificationModule(LightningModule):
    """Runs :func:`glsmooth.smoothing.certify` on ``images`` and appends a row for each to a file of records.

    Lightning runs it on one device or several; :meth:`certify` needs no Trainer, and runs it on one. Images that
    records.csv holds already are left out. With several processes each takes a share and writes its own part
    (:func:`glsmooth.runs.records.part_path`), which :class:`glsmooth.runs.records.Records` merges.

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
        progress: show a bar, and say how votes are taken.
        region: what is certified, where the family's threat cuts it into slices.

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
        region: Region | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.family, self.procedure, self.num_classes = family, procedure, num_classes
        self.images, self.indices = images, list(indices)
        self.outcomes, self.options, self.directory, self.progress = dict(outcomes), options, directory, progress
        self.region = region
        self.logged = Session()

    @property
    def columns(self) -> list[str]:
        """Columns of this run's records.csv."""
        randomised = isinstance(self.procedure, FixedSample) and self.procedure.randomised
        look = isinstance(self.procedure, Sequential)
        names = columns(list(self.outcomes), coin=randomised, look=look, slices=self.family.warps)
        return older_columns(self.directory, names)

    def predict_dataloader(self) -> DataLoader[Any]:
        return DataLoader(cast("Dataset[int]", [0]), batch_size=None)  # one step: images share batches of votes

    def _share(self, records: Columns, place: Place) -> tuple[DataLoader[Any], int]:
        """This process's part of the images that ``records`` do not hold yet, and their number."""
        finished = set(records["index"].tolist())
        remaining = [position for position, index in enumerate(self.indices) if index not in finished]
        share = Batches(len(remaining), _IMAGES_A_STEP, rank=place.rank, world_size=place.ranks)
        size = len(range(place.rank, len(remaining), place.ranks))
        return loader(Subset(self.images, remaining), share, self.options.num_workers), size

    def setup(self, stage: str) -> None:
        quieten_lightning()  # in processes that Lightning starts, too

    def predict_step(self, _: int) -> None:
        """Certify all images of this process's share."""
        share = partial(self.trainer.strategy.broadcast, src=0)
        self.certify(Place(self.device, self.global_rank, self.trainer.world_size, share))

    def certify(self, place: Place) -> None:
        """Certify all images of this place's share."""
        records = read_records(self.directory)
        share, size = self._share(records, place)
        classifier = self.options.classifier(self.model, self.num_classes, place.device)
        speed = self._settled(classifier, records, place)
        engine = VoteEngine(
            classifier,
            self.family,
            self.procedure,
            seed=self.options.seed,
            batch_size=int(speed.batch_size),
            clean=True,
            images=size,
            on_smaller=self._smaller(speed, place.device) if self.options.speed.batch_size == AUTO else None,
        )
        writer = RecordWriter(part_path(self.directory, place.rank, place.ranks), self.columns)
        bar = _Progress(self, records, place)
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
            for verdict in certify(engine, self._stream(share, labels), self.outcomes, self.region):
                finished[verdict.tally.index] = verdict
                if time.monotonic() - written >= SECONDS_A_WRITE:
                    engine.classifier.check_unchanged()  # what is on disk counts, whatever happens next
                    write()
                    written = time.monotonic()
            write()  # the end of certify has checked the network
        finally:
            writer.close()
            bar.close()
        _write_evaluations(self.directory, place.rank, engine.evaluations)

    def _settled(self, classifier: BaseClassifier, records: Columns, place: Place) -> Speed:
        """The speed of this run: kept from its beginning, or measured by the first process on its first image."""
        name = device_name(place.device)
        chosen: Chosen | None = None
        if place.rank == 0:
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
                max(1, remaining // place.ranks),
                clean=True,
                index=self.indices[first],
                show=self.progress,
            )
            write_speed(self.directory, name, chosen.speed)
            if self.progress:
                _say(chosen, self.options.speed, kept, place.device.type)
        chosen = place.share(chosen)
        assert chosen is not None
        arrange(classifier, chosen.speed)
        return chosen.speed

    def _smaller(self, speed: Speed, device: torch.device) -> Callable[[int], None]:
        """What to do when a batch was too large and is halved: say so, and keep it for whoever goes on with the run."""

        def smaller(batch_size: int) -> None:
            print(f"Out of memory: batches of {batch_size} from here on", file=sys.stderr)
            write_speed(self.directory, device_name(device), replace(speed, batch_size=batch_size))

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

    def __init__(self, module: CertificationModule, records: Columns, place: Place) -> None:
        ranks = place.ranks
        self.sound = [m for m, outcome in module.outcomes.items() if outcome.h_min is not None and outcome.sound]
        stated = (m for m, outcome in module.outcomes.items() if outcome.h_min is not None)
        self.method = next(stated, None)
        self.seen = len(records["index"])
        self.robust = {m: self._robust_before(records, m) for m in {*self.sound, self.method} if m is not None}
        self.logged = module.logged if place.rank == 0 else Session()
        remaining = len(module.indices) - self.seen
        self.bar = progress_bar(
            "Certifying" if ranks == 1 else f"Certifying (device 1 of {ranks})",
            "image",
            total=self.seen + len(range(place.rank, remaining, ranks)),
            done=self.seen,
            show=module.progress and place.rank == 0,
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


def try_transformation(
    family: SmoothedFamily, region: Region, images: Dataset[Any], permitted: bool = False
) -> dict[str, Any] | None:
    """Try a user's transformation on some of the images: what is refused stops here, before any vote.

    Returns:
        Where ``permitted`` (by ``approximate=true``), for one that fails: the residual and where it was found, as
        plain values. Else None.
    """
    count = min(_TRIED, len(images))  # type: ignore[arg-type]
    check = check_family(family, family.rest(region), [images[i][0] for i in range(count)])
    if check is None:
        return None
    check.require(permitted)
    if check.passed:
        return None
    print(check, file=sys.stderr)
    return check.found


def take_votes(trainer: Trainer | torch.device, module: CertificationModule, records: Records) -> dict[str, Any]:
    """Bring the records to the end: an interrupted run goes on.

    Args:
        trainer: says on which devices; or the device on which this process does it.
        module: says what to do.
        records: of the module's directory.

    Returns:
        What this invocation did: ``images``, ``seconds``, and network ``evaluations``, padding included.
    """
    try:
        remaining, strange = set(module.indices) - records.finished, records.finished - set(module.indices)
        if strange:
            raise UserError(
                f"{module.directory}: its records hold image {min(strange)}, which is not one of this run's: the data "
                "set has changed; choose another hydra.run.dir, or remove that directory"
            )
        start = time.monotonic()
        clear(module.directory)
        if remaining:
            if records.finished and module.progress:
                print(f"Resuming: {len(records.finished)} images are recorded already", file=sys.stderr)
            if isinstance(trainer, torch.device):
                module.certify(Place(trainer))
            else:
                with spawned(module.family, module.model):
                    trainer.predict(module, return_predictions=False)
            records.merge(module.indices)
        return {
            "images": len(remaining),
            "seconds": time.monotonic() - start,
            "evaluations": read_evaluations(module.directory),
        }
    except Stopped as stop:
        records.merge()  # what several processes had written
        stop.progress = f"after {len(records.finished)} of {len(module.indices)} images"
        raise


def summarise(
    module: CertificationModule, invocation: dict[str, Any], device: torch.device, devices: int = 1, **told: Any
) -> Summary:
    """The summary of a finished run.

    Args:
        module: of the run.
        invocation: as :func:`take_votes` returns it.
        device, devices: on which, and on how many.
        told: what the module does not know: transform, smoothing, region, dataset and model as plain values, and other
            fields of :class:`glsmooth.runs.summary.Summary`.
    """
    records, monte_carlo = read_records(module.directory), module.procedure.describe()
    speed = read_speed(module.directory)
    return Summary(
        **told,
        monte_carlo=monte_carlo,
        outcomes=module.outcomes,
        robust_accuracy={method: robust_accuracy(records, outcome) for method, outcome in module.outcomes.items()},
        numbers=Numbers.of(records, most=monte_carlo["n"]),
        image_size=module.family.image_size,
        pixel_noise=module.family.pixel_noise,
        draws=module.family.draws,
        stochastic=module.options.stochastic,
        seed=module.options.seed,
        precision=module.options.precision,
        speed=None if speed is None else asdict(speed),
        seconds_per_image=invocation["seconds"] / invocation["images"] if invocation["images"] else None,
        invocation=invocation,
        hardware={"device": device_name(device), "devices": devices},
        versions={name: version(name) for name in ("glsmooth", "torch", "lightning", "numpy", "scipy")}
        | {"python": platform.python_version()},
    )


def save_draws(module: CertificationModule, classes: Sequence[str], device: torch.device) -> None:
    """Keep the first counting draws of one image, the first that is certified and correct if there is one.

    Args:
        module: of a finished run.
        classes: their names.
        device: where the network is.
    """
    records = read_records(module.directory)
    shows = records["prediction"] == records["label"]
    certified = [column != 0 for name, column in records.items() if name.startswith("certified_")]
    if certified:
        shows &= sum(certified[1:], certified[0])
    index = int(records["index"][shows.argmax()])
    image = module.images[module.indices.index(index)][0]
    classifier = module.options.classifier(module.model, module.num_classes, device)
    engine = VoteEngine(
        classifier, module.family, module.procedure, seed=module.options.seed, batch_size=_FIGURE_COPIES
    )
    with engine.classifier.ready(image):
        theta, transformed, votes = engine.replay(index, image, _FIGURE_COPIES)
    Draws(index, image.numpy(), transformed.numpy(), theta.numpy(), votes.numpy()).save(module.directory, classes)
