"""How much is ImageNet? Passes, GPU-hours, jobs and disk for the nine rows of the paper's Table 1.

    python benchmarks/cluster.py [key=value ...]

Keys and defaults are in ``DEFAULTS`` below. Passes are the vote engine's, padding and the image itself included. Of
``monte_carlo=paper`` they do not depend on the votes. For ``monte_carlo=sequential`` the engine replays the published
votes (``votes=FILE``) of ImageNet under a row's smoothing laws, against that row's required probability (Neyman-Pearson
alone, translations on the torus of 224×224 pixels); more images than were published have the same votes again. Where no
votes were published the image that takes most stands in (≤), as ``benchmarks/search.py`` plays it. Sizes are those of
bytes written here.

Hours need the speed of your GPU, and are left out until you type it: nothing here is timed.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from common import untrained
from glsmooth import bounds
from glsmooth.configuration.build import build_family, build_region
from glsmooth.configuration.folder import conf_dir
from glsmooth.configuration.groups import member
from glsmooth.family.regions import Box
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.training import VALIDATION_COPIES
from glsmooth.report import wording
from glsmooth.report.published import PublishedRun, load_votes
from glsmooth.runs.records import Images, RecordWriter, columns
from glsmooth.runs.records import row as record
from glsmooth.smoothing import Verdict
from glsmooth.voting.procedures import FixedSample, Procedure, Sequential, Tally
from search import Variant, play
from votes import Published, replayed, vote_counts

DEFAULTS: dict[str, Any] = {
    "certify_rate": None,  # network passes a second of one of your GPUs in the run's precision; null: no hours
    "train_rate": None,  # transformed copies a second that one of your GPUs trains on; null: no hours
    "job_hours": 4,  # that a job may last, as in conf/cluster/slurm.yaml
    "gpus": 1,  # that you have at once, a job on each
    "images": [500, 50000],  # certified in each row
    "batch_size": 256,  # network evaluations at once: the last ones are padded
    "seed": 0,  # of the replay
    "votes": "../shared/data/published_votes.json",
}
MEASURE = """\
Hours and jobs need the speed of your own GPU, which nothing here knows. Measure it there, and type both:

    certify_rate: `glsmooth certify ckpt=BEST.ckpt dry_run=true` prints passes a second
    train_rate:   the bar of `glsmooth train experiment=imagenet/gamma dataset.root=DIR`, steps a second, times {step}\
"""

#: Rows of Table 1: the transformation, and what its default region does not say.
ROWS: list[tuple[str, dict[str, list[float]]]] = [
    ("contrast_brightness", {}),
    ("gamma_contrast", {}),
    ("brightness_translation", {}),
    ("contrast_translation", {}),
    ("translation", {}),
    ("contrast_brightness_translation", {}),
    ("translation_blur_brightness_contrast", {}),
    ("gamma", {}),
    ("gamma", {"gamma": [0.5, 1.0]}),
]
TRAIN_IMAGES, TEST_IMAGES, CLASSES, SIZE = 1_281_167, 50_000, 1000, (224, 224)
MIB = 2**20
#: Report, figures and replayed copies of a run, in MiB, at most: of 224×224 pixels of noise, which hardly compress.
REPORT = 11
#: Images of the replay: their votes again and again, up to so many.
REPLAYED = 2000


class Row(NamedTuple):
    """A row of Table 1; ``rates``, (images,), are published shares of votes under its laws, empty where there are none.

    ``like`` is the number of an earlier row with the same laws: one network and one run's votes serve both.
    """

    number: int
    name: str
    family: SmoothedFamily
    region: Box
    h_min: float
    rates: np.ndarray
    like: int | None

    @property
    def title(self) -> str:
        sides = (
            f"{wording.SYMBOLS.get(key, key)} {wording.interval(ends)}" for key, ends in self.region.intervals.items()
        )
        return f"{self.name.replace('_', ' ')}: {', '.join(sides)}"


def rows(published: Sequence[PublishedRun]) -> list[Row]:
    """The nine rows, with the published votes of their laws."""
    found: list[Row] = []
    for number, (name, region) in enumerate(ROWS, start=1):
        family = build_family(member("transform", name), member("smoothing", name), SIZE)
        box = build_region({**member("region", name), **region}, family.transform)
        laws = _laws(family.laws)
        votes = [run for run in published if run.dataset == "imagenet" and _laws(run.laws) == laws]
        rates = [vote_counts(run.p_lower, run.n, run.alpha) / run.n for run in votes]
        like = next((row.number for row in found if _laws(row.family.laws) == laws), None)
        h_min = bounds.required_probability(family, box)
        found.append(Row(number, name, family, box, h_min, np.concatenate([np.zeros(0), *rates]), like))
    return found


def _laws(laws: Any) -> dict[str, str]:
    return {name: repr(law) for name, law in laws.items()}


# Passes


def fixed_passes(images: int, batch_size: int) -> int:
    """Of ``monte_carlo=paper``: the same for every image, in whole batches."""
    return batch_size * math.ceil(images * (FixedSample().draws_range()[1] + 1) / batch_size)


def sequential_passes(row: Row, images: int, batch_size: int, seed: int) -> float:
    """Of ``monte_carlo=sequential``: replayed by the engine, or at most where there are no votes to replay."""
    if not len(row.rates):
        return images * most_passes(row.h_min, seed)
    some = min(images, REPLAYED)
    return images / some * replayed(np.resize(row.rates, some), sequential(row.h_min), seed, batch_size)[1]


@cache
def most_passes(h_min: float, seed: int) -> float:
    """Passes of the image that takes most, on average over its draws: by the share of votes that its class has."""
    rates, procedure = np.linspace(0, 1, 101), sequential(h_min)
    least = procedure.draws_needed(h_min)
    if least is None or least > procedure.n:  # selection alone, which is not played
        return max(replayed(np.full(500, rate), procedure, seed)[1] / 500 for rate in rates[::10])
    found = []
    for rate in rates:
        run = Published("", np.full(1000, rate), np.ones(1000, dtype=bool), procedure.alpha, h_min)
        found.append(play(run, Variant(), np.random.default_rng(seed))[0])
    return max(found)


def sequential(h_min: float) -> Sequential:
    return Sequential({"neyman_pearson": h_min})


# Hours and jobs


@dataclass(frozen=True)
class Work:
    """GPU-hours of one task, and the jobs that it takes (shards, or starts of the same command)."""

    hours: float
    jobs: int

    def __str__(self) -> str:
        return f"{up(self.hours)} h, {self.jobs:,}"


def up(hours: float) -> str:
    """Hours, rounded up to a tenth."""
    return f"{math.ceil(hours * 10 - 1e-9) / 10:,.1f}"


def certification(images: int, passes: float, rate: float, job_hours: float) -> Work:
    """Shards hold whole images: as many as one job finishes.

    Raises:
        SystemExit: not one.
    """
    hours = passes / rate / 3600
    a_job = math.floor(job_hours / (hours / images) + 1e-9)
    if a_job == 0:
        raise SystemExit(f"job_hours={job_hours}: not one image is certified in that; give more")
    return Work(hours, math.ceil(images / a_job))


def training(copies: int, rate: float, job_hours: float) -> Work:
    """One job, started again where it was cut off."""
    hours = copies / rate / 3600
    return Work(hours, math.ceil(hours / job_hours - 1e-9))


def elapsed(works: Sequence[Work], gpus: int, chain: bool = False) -> float:
    """Hours until all is done, the longest first, without waiting in a queue; ``chain``: jobs of a task in turn."""
    tasks = [work.hours for work in works] if chain else [w.hours / w.jobs for w in works for _ in range(w.jobs)]
    busy = [0.0] * gpus
    for hours in sorted(tasks, reverse=True):
        busy[busy.index(min(busy))] += hours
    return max(busy)


class Epochs(NamedTuple):
    """What ``experiment=imagenet/gamma`` trains with: images in training and validation, and passes of each kind."""

    train: int
    val: int
    epochs: int
    copies: int
    step: int  # copies
    trained: int
    validated: int


def imagenet() -> Epochs:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["experiment=imagenet/gamma", "dataset.root=DIR"])
    # Held out by class, so that the exact number differs by some tens.
    val = round(cfg.dataset.val_fraction * TRAIN_IMAGES)
    train, epochs, copies = TRAIN_IMAGES - val, cfg.optimizer.epochs, cfg.loss.copies
    trained, validated = epochs * train * copies, epochs * val * (VALIDATION_COPIES + 1)
    return Epochs(train, val, epochs, copies, cfg.optimizer.batch_size * copies, trained, validated)


# Disk


def checkpoint_bytes() -> tuple[int, int]:
    """A ResNet-50 of 1,000 classes, saved: its weights (best.ckpt), and with SGD's momentum (last.ckpt)."""
    network = untrained("resnet50", SIZE[0], CLASSES)
    sgd = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    sgd.step()
    weights = {"state_dict": network.state_dict()}
    return _saved(weights), _saved({**weights, "optimizer_states": [sgd.state_dict()]})


def _saved(content: Any) -> int:
    file = io.BytesIO()
    torch.save(content, file)
    return file.tell()


def row_bytes() -> int:
    """The longest row of records.csv under ``monte_carlo=paper``, of those that all counts of votes write."""
    procedure, methods, last = FixedSample(), ["neyman_pearson", "gl", "tss", "mp"], CLASSES - 1
    written = []
    for count in range(procedure.n + 1):
        tally = Tally(TEST_IMAGES - 1, CLASSES)
        tally.n0, tally.n, tally.clean = procedure.n0, procedure.n, last
        tally.abstained = tally.nonfinite = tally.near_ties = procedure.n
        tally.selection[last], tally.counting[last] = procedure.n0, count
        written.append(record(Verdict(tally, last, procedure.lower_bound(tally), dict.fromkeys(methods, True)), last))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "records.csv"
        writer = RecordWriter(file, columns(methods))
        writer.append(written)
        writer.close()
        return max(map(len, file.read_bytes().splitlines(keepends=True)[1:]))


def names_bytes(images: int) -> int:
    """images.json: the names of all test images, whatever the number certified, and a digest of each of those."""
    names = [f"val/n01440764/ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, TEST_IMAGES + 1)]
    return len(Images(names, dict.fromkeys(range(TEST_IMAGES - images, TEST_IMAGES), "0" * 64)).text())


def run_bytes(images: int) -> int:
    """A certification's folder."""
    return images * row_bytes() + names_bytes(images) + REPORT * MIB


def mib(size: float) -> str:
    return f"{math.ceil(size / MIB):,}"


# Tables


def table(heading: Sequence[str], lines: Sequence[Sequence[str]], words: int) -> None:
    """Print Markdown; the first ``words`` columns hold words, the others numbers."""
    print("\n| " + " | ".join(heading) + " |")
    print("|" + "---|" * words + "---:|" * (len(heading) - words))
    for line in lines:
        print("| " + " | ".join(line) + " |")


def needed(procedure: Procedure, h_min: float) -> str:
    """Fewest votes of a certificate; in brackets where an image is not certified though all its votes agree."""
    tally = replayed(np.ones(1), procedure)[0][0]
    least = f"{procedure.draws_needed(h_min):,}"
    return least if procedure.lower_bound(tally) > h_min else f"({least})"


def passes_table(found: Sequence[Row], cfg: DictConfig) -> dict[tuple[int, int, str], float]:
    """Print millions of passes; return them by number of row, images and procedure, votes that serve two rows once."""
    passes: dict[tuple[int, int, str], float] = {}
    lines = []
    for row in found:
        line = [str(row.number), row.title]
        line += [needed(procedure, row.h_min) for procedure in (FixedSample(), sequential(row.h_min))]
        for images in cfg.images:
            if row.like is None:
                passes[row.number, images, "paper"] = fixed_passes(images, cfg.batch_size)
            passes[row.number, images, "sequential"] = sequential_passes(row, images, cfg.batch_size, cfg.seed)
            line.append(f"as row {row.like}" if row.like else millions(passes[row.number, images, "paper"]))
            line.append(at_most([row]) + millions(passes[row.number, images, "sequential"]))
        lines.append(line)
    sums = [
        sign + millions(sum(value for key, value in passes.items() if key[1:] == (images, procedure)))
        for images in cfg.images
        for procedure, sign in (("paper", ""), ("sequential", at_most(found)))
    ]
    lines.append(["all", "", "", "", *sums])
    heading = ["row", "transformation: region", "votes a certificate needs: paper", "sequential"]
    heading += [f"{images:,} images: {name}" for images in cfg.images for name in ("paper", "sequential")]
    table(heading, lines, words=2)
    return passes


def at_most(found: Sequence[Row]) -> str:
    return "" if all(len(row.rates) for row in found) else "≤ "


def millions(passes: float) -> str:
    return f"{passes / 1e6:,.3f}"


def hours_table(found: Sequence[Row], passes: dict[tuple[int, int, str], float], copies: int, cfg: DictConfig) -> None:
    """Print GPU-hours and jobs of trainings and certifications, at the rates that were typed."""
    kinds = [(images, procedure) for images in cfg.images for procedure in ("paper", "sequential")]
    trainings = {row.number: training(copies, cfg.train_rate, cfg.job_hours) for row in found if row.like is None}
    works = {
        (number, images, procedure): certification(images, value, cfg.certify_rate, cfg.job_hours)
        for (number, images, procedure), value in passes.items()
    }
    lines = [
        [str(row.number), *(str(cell) if cell else f"as row {row.like}" for cell in cells)]
        for row in found
        for cells in [[trainings.get(row.number), *(works.get((row.number, *kind)) for kind in kinds)]]
    ]
    works_of = [list(trainings.values()), *([w for key, w in works.items() if key[1:] == kind] for kind in kinds)]
    lines.append(
        ["all", *(str(Work(sum(w.hours for w in column), sum(w.jobs for w in column))) for column in works_of)]
    )
    over = [elapsed(column, cfg.gpus, chain=number == 0) for number, column in enumerate(works_of)]
    lines.append([f"hours on {cfg.gpus} at once", *map(up, over)])
    heading = ["row", "training", *(f"{images:,} images: {procedure}" for images, procedure in kinds)]
    table(heading, lines, words=1)


def disk_table(found: Sequence[Row], images: Sequence[int]) -> None:
    best, last = checkpoint_bytes()
    networks = sum(row.like is None for row in found)
    lines = [
        ["best.ckpt of a ResNet-50: weights", mib(best)],
        ["last.ckpt: weights and momentum", mib(last)],
        *([f"a certification of {n:,} images", mib(run_bytes(n))] for n in images),
        ["each further shard: names of all images, its own report", mib(names_bytes(0) + REPORT * MIB)],
        *(
            [
                f"{networks} trainings and {len(found)} certifications of {n:,} images",
                mib(networks * (best + last) + len(found) * run_bytes(n)),
            ]
            for n in images
        ),
    ]
    table(["disk", "MiB"], lines, words=1)
    print(f"\nA row of records.csv has at most {row_bytes()} bytes.")


def settings() -> DictConfig:
    """What was typed, over the defaults.

    Raises:
        SystemExit: a key that there is not, or a value that makes no sense.
    """
    typed = OmegaConf.from_cli()
    for key in typed:
        if key not in DEFAULTS:
            raise SystemExit(f"{key}: there is no such key; keys are {', '.join(DEFAULTS)}")
    cfg = OmegaConf.merge(OmegaConf.create(DEFAULTS), typed)
    assert isinstance(cfg, DictConfig)
    for key in ("certify_rate", "train_rate", "job_hours"):
        if cfg[key] is not None or key == "job_hours":
            positive(key, cfg[key], (int, float))
    for key in ("gpus", "batch_size"):
        positive(key, cfg[key], int)
    if not OmegaConf.is_list(cfg.images) or not cfg.images:
        raise SystemExit(f"images={cfg.images}: give a list, for example images=[500,50000]")
    for images in cfg.images:
        positive("images", images, int)
        if images > TEST_IMAGES:
            raise SystemExit(f"images={images}: there are {TEST_IMAGES:,}; give fewer")
    if isinstance(cfg.seed, bool) or not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise SystemExit(f"seed={cfg.seed}: give a whole number, 0 or more")
    if (cfg.certify_rate is None) != (cfg.train_rate is None):
        raise SystemExit("certify_rate and train_rate: give both, or neither")
    return cfg


def positive(key: str, value: Any, kind: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
        raise SystemExit(f"{key}={value}: give {'a whole' if kind is int else 'a'} number above 0")


def main() -> None:
    cfg = settings()
    if not Path(cfg.votes).is_file():
        print(f"votes={cfg.votes} is not there: every row is counted with the image that takes most")
    found = rows(load_votes(cfg.votes) if Path(cfg.votes).is_file() else [])
    print("Million network passes; in brackets: nothing is certified with the default monte_carlo.n:")
    passes = passes_table(found, cfg)
    plan = imagenet()
    print(
        f"\nTraining of one row: {plan.epochs} epochs of {plan.train:,} images in {plan.copies} copies, "
        f"{plan.trained:,} copies, and validation on {plan.val:,} images held out of them in {VALIDATION_COPIES + 1}, "
        f"{plan.validated:,} passes."
    )
    if cfg.certify_rate is None:
        print("\n" + MEASURE.format(step=plan.step))
    else:
        print(
            f"\nGPU-hours, and jobs of at most {cfg.job_hours:g} hours, at YOUR {cfg.certify_rate:,} passes and "
            f"{cfg.train_rate:,} trained copies a second. "
            "Validation counts as training:"
        )
        hours_table(found, passes, plan.trained + plan.validated, cfg)
    disk_table(found, cfg.images)


if __name__ == "__main__":
    main()
