"""What certification costs beyond the network, and how many passes the sequential procedure saves.

    python benchmarks/votes.py [key=value ...]

Keys and defaults are in ``DEFAULTS`` below. ``benchmarks/search.py`` chose the sequential procedure. Three parts:

* ``throughput``: images a second of certification (draws, transformation, network, votes, records on disk) over those
  of the network alone on one ready batch of the same size, precision and memory format. Both run in turns in this
  process, on a CPU batch by batch; the quieter half of the turns counts. On a CPU there is also the ratio of CPU time,
  which other programs disturb less.
* ``replay``: published votes (``votes=FILE``), as Bernoulli streams through the real engine with a network that takes
  no time.
* ``checkpoints``: real runs, ``monte_carlo=paper`` against ``monte_carlo=sequential``.
"""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from scipy.special import betaincinv
from scipy.stats import norm
from torch import Tensor, nn

from common import begin, default_family, machine, untrained
from glsmooth import bounds, laws, transforms
from glsmooth.bounds.confidence import clopper_pearson_lower
from glsmooth.configuration.build import build_family, build_region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.runs.records import RecordWriter, columns, row
from glsmooth.smoothing import Verdict
from glsmooth.transforms import Brightness
from glsmooth.voting.engine import BaseClassifier, VoteEngine
from glsmooth.voting.memory import keep_freed_memory
from glsmooth.voting.procedures import FixedSample, Procedure, Sequential, Tally

DEFAULTS = {
    "parts": ["throughput", "replay", "checkpoints"],
    "device": None,  # null: a GPU if there is one
    "threads": None,  # torch's threads on a CPU
    # Network, image size, batch size on a CPU and on a GPU.
    "networks": [["cifar_resnet20", 32, 128, 2048], ["resnet50", 224, 8, 256]],
    "transforms": None,  # null: all
    # Precision, channels_last, compile: on a CPU the plain setting and channels-last, on a GPU all.
    "options": None,
    "turns": 20,
    "gpu_batches": 20,  # in a turn on a GPU; on a CPU one
    "seed": 0,  # of the replay
    "votes": "../shared/data/published_votes.json",
    "checkpoints": None,  # paths; null: a network for the digits, trained now if it was not before
    "subset": 100,  # images of each checkpoint
}
CPU_OPTIONS: list[Any] = [["32-true", False, False], ["32-true", True, False]]
CLASSES = 10  # of the replay: votes that are not for class 0 are spread over the others
GPU_OPTIONS: list[Any] = [
    ["32-true", False, False],
    ["32-true", True, False],
    ["bf16-mixed", True, False],
    ["bf16-mixed", True, True],
]


def throughput(cfg: DictConfig, device: torch.device) -> None:
    """Print a table of ratios: certification over the pure forward pass."""
    names = cfg.transforms or list(transforms.BUILTIN)
    options = cfg.options or (GPU_OPTIONS if device.type == "cuda" else CPU_OPTIONS)
    cpu = device.type == "cpu"
    print(
        "\n| network | precision | memory | compiled | transformation | pure/s | certified/s | ratio |"
        + (" ratio of CPU time |" if cpu else "")
    )
    print("|---|---|---|---|---|---:|---:|---:|" + ("---:|" if cpu else ""))
    for name, size, cpu_batch, gpu_batch in cfg.networks:
        batch_size = gpu_batch if device.type == "cuda" else cpu_batch
        for precision, channels_last, compiled in options:
            classifier = BaseClassifier(
                untrained(name, size),
                10,
                device=device,
                precision=precision,
                compile=compiled,
                channels_last=channels_last,
            )
            for transform in names:
                pure, certified, ratio, cpu_ratio = measure(
                    classifier, default_family(transform, size), size, batch_size, cfg
                )
                memory = "channels last" if channels_last else "contiguous"
                print(
                    f"| {name} {size} ×{batch_size} | {precision} | {memory} | {'yes' if compiled else 'no'} "
                    f"| {transform} | {pure:,.1f} | {certified:,.1f} | {ratio:.3f} |"
                    + (f" {cpu_ratio:.3f} |" if cpu else ""),
                    flush=True,
                )


@torch.inference_mode()
def measure(
    classifier: BaseClassifier, family: SmoothedFamily, size: int, batch_size: int, cfg: DictConfig
) -> tuple[float, float, float, float]:
    """Passes a second of the network alone and of certification, and the ratios of their wall and CPU
    time."""
    image = torch.rand(3, size, size)
    batch = torch.rand(batch_size, 3, size, size, device=classifier.device)
    batch = batch.contiguous(memory_format=classifier.memory_format)
    engine = VoteEngine(classifier, family, FixedSample(), batch_size=batch_size)
    indices = itertools.count()

    def pure(batches: int) -> None:
        for _ in range(batches):
            classifier(batch)

    def decided(tally: Tally) -> Verdict:
        p_lower = engine.procedure.lower_bound(tally)
        return Verdict(tally, tally.prediction, p_lower, {"neyman_pearson": p_lower > 0.9})

    def certified(batches: int) -> None:
        goal = engine.evaluations + batches * batch_size
        while engine.evaluations < goal:
            while engine.wants_image:
                engine.add(next(indices), image)
            writer.append(row(decided(tally), label=0) for tally in engine.step())

    def timed(work: Callable[[int], None]) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        work(batches)
        if classifier.device.type == "cuda":
            torch.cuda.synchronize(classifier.device)
        return time.perf_counter() - wall, time.process_time() - cpu

    with tempfile.TemporaryDirectory() as folder:
        writer = RecordWriter(Path(folder) / "records.csv", columns(["neyman_pearson"]))
        batches = cfg.gpu_batches if classifier.device.type == "cuda" else 1
        timed(pure), timed(certified)
        turns = np.array([(timed(pure), timed(certified)) for _ in range(cfg.turns)])
        writer.close()
    quiet = turns[turns[:, :, 0].sum(axis=1).argsort()[: (cfg.turns + 1) // 2]]
    (pure_wall, pure_cpu), (wall, cpu) = quiet.sum(axis=0)
    passes = len(quiet) * batches * batch_size
    return passes / pure_wall, passes / wall, pure_wall / wall, pure_cpu / cpu


class Replayed(nn.Module):
    """Votes for class 0 with the probability that the image carries, else for one of nine others.

    An image is two pixels, (z, 0) with z the normal quantile of the probability; brightness with a standard
    normal law moves both.
    """

    def forward(self, images: Tensor) -> Tensor:
        draw = images[:, 1, 0, 0]
        for_class = draw < images[:, 0, 0, 0] - draw
        other = 1 + (draw.double() * 1e4).floor().long() % (CLASSES - 1)
        return nn.functional.one_hot(torch.where(for_class, 0, other), CLASSES).float()


def replay_image(probability: float) -> Tensor:
    quantile = norm.ppf(min(max(probability, 1e-9), 1 - 1e-12))
    return torch.tensor([quantile, 0.0], dtype=torch.float32)[:, None, None]


def vote_counts(p_lower: np.ndarray, n: int, alpha: float) -> np.ndarray:
    """Counts behind published bounds: one-sided Clopper-Pearson, as the largest, alpha^(1/n), shows."""
    counts = np.arange(n + 1)
    bounds_of = np.where(counts > 0, betaincinv(np.maximum(counts, 1), n - counts + 1, alpha), 0.0)
    found = np.abs(bounds_of[None] - p_lower[:, None]).argmin(axis=1)
    assert np.abs(bounds_of[found] - p_lower).max() < 1e-9
    return found


class Published(NamedTuple):
    """A published run: the share of votes of each image, (images,), whether its class is the true one, and h_min."""

    name: str
    rates: np.ndarray
    correct: np.ndarray
    alpha: float
    h_min: float


def published_runs(path: str | Path) -> list[Published]:
    """The runs of a file of published votes."""
    runs = []
    for run in json.loads(Path(path).read_text()):
        target = f"glsmooth.transforms.{''.join(word.title() for word in run['transform'].split('_'))}"
        smoothing = {
            name: {"law": law["law"], "scale": law["scale"]} | ({} if law["law"] == "Rayleigh" else {"loc": 0.0})
            for name, law in run["smoothing"].items()
        }
        published = build_family({"_target_": target}, smoothing)
        h_min = bounds.required_probability(published, build_region(run["region"], published.transform))
        rates = vote_counts(np.array(run["p_lower"]), run["n"], run["alpha"]) / run["n"]
        sides = ", ".join(f"{name} {low:g}…{high:g}" for name, (low, high) in run["region"].items())
        name = f"{run['dataset']} | {run['transform']} | {sides}"
        runs.append(Published(name, rates, np.array(run["correct"], dtype=bool), run["alpha"], h_min))
    return runs


def replayed(rates: np.ndarray, procedure: Procedure, seed: int = 0, batch_size: int = 256) -> tuple[list[Tally], int]:
    """Votes of images with these shares, (images,), by the engine: their tallies in order, and network evaluations.

    The image itself is classified, too; padding counts.
    """
    family = SmoothedFamily(Brightness(), {"brightness": laws.Normal(0.0, 1.0)})
    classifier = BaseClassifier(Replayed(), CLASSES)
    engine = VoteEngine(classifier, family, procedure, seed=seed, batch_size=batch_size, clean=True)
    tallies = list(engine.run(enumerate(replay_image(rate) for rate in rates)))
    return sorted(tallies, key=lambda tally: tally.index), engine.evaluations


def replay(cfg: DictConfig) -> None:
    """Print passes an image and CRA of both procedures on the published votes."""
    path = Path(cfg.votes)
    if not path.is_file():
        print(f"\nvotes={path} is not there: no replay of published votes")
        return
    print("\n| data | transformation | region | h_min | passes/image | saved | surest | CRA fixed | CRA sequential |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    saved, moved = [], []
    for run in published_runs(path):
        h_min, rates, correct, alpha = run.h_min, run.rates, run.correct, run.alpha
        procedure = Sequential({"neyman_pearson": h_min}, alpha=alpha)
        tallies, evaluations = replayed(rates, procedure, cfg.seed)
        passes = evaluations / len(rates)
        above = [procedure.lower_bound(tally) > h_min for tally in tallies]
        sequential = np.array([ok and tally.prediction == 0 for ok, tally in zip(above, tallies, strict=True)])
        # Fresh votes for the fixed procedure, too.
        counts = np.random.default_rng(cfg.seed).binomial(1000, rates)
        fixed = np.array([clopper_pearson_lower(int(count), 1000, alpha) > h_min for count in counts])
        cra = (fixed & correct).mean(), (sequential & correct).mean()
        sure = [t.n for ok, t in zip(above, tallies, strict=True) if ok and t.count == t.n]
        surest = f"{max(sure) * math.log(h_min) / math.log(alpha):.2f}×" if sure else "–"
        print(
            f"| {run.name} | {h_min:.4f} | {passes:.1f} "
            f"| {1200 / passes:.1f}× | {surest} | {cra[0]:.3f} | {cra[1]:.3f} |",
            flush=True,
        )
        if h_min <= 0.92:
            saved.append(passes)
            moved.append(cra[1] - cra[0])
    mean = np.mean(saved)
    print(
        f"\n{len(saved)} runs with h_min <= 0.92: {mean:.1f} passes an image on average, padding and selection "
        f"included, {1200 / mean:.1f} times fewer than 1,200; CRA moves by {np.mean(moved):+.4f} on average, "
        f"{max(moved, key=abs):+.4f} at most. Surest: votes of images without a dissenting vote over "
        "ln(alpha) / ln(h_min), the fewest that any test can use."
    )


def checkpoints(cfg: DictConfig) -> None:
    """Print what both procedures find with trained networks."""
    paths = cfg.checkpoints
    if paths is None:
        command(["train", "experiment=demo", "hydra.run.dir=outputs/bench/train"])
        paths = ["outputs/bench/train/best.ckpt"]
    print(
        "\n| checkpoint | images | monte_carlo | votes/image | passes/image | seconds/image "
        "| smoothed accuracy | CRA (Neyman-Pearson) |"
    )
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    for path in paths:
        for name in ("paper", "sequential"):
            folder = Path(f"outputs/bench/{Path(path).parent.name}-{name}")
            command(
                [
                    "certify",
                    f"ckpt={path}",
                    f"monte_carlo={name}",
                    f"dataset.subset={cfg.subset}",
                    "bound.methods=[neyman_pearson]",
                    f"hydra.run.dir={folder}",
                ]
            )
            summary = json.loads((folder / "summary.json").read_text())
            invocation, found = summary["invocation"], summary["methods"]["neyman_pearson"]
            # A run that was finished before has only its records to tell.
            passes = invocation["evaluations"] / invocation["images"] if invocation["images"] else math.nan
            print(
                f"| {path} | {summary['images']} | {name} | {summary['votes_per_image']:.1f} | {passes:.1f} "
                f"| {summary['seconds_per_image'] or math.nan:.3f} | {summary['smoothed_accuracy']:.3f} "
                f"| {found['certified_robust_accuracy']:.3f} |",
                flush=True,
            )


def command(arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "glsmooth", *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    cfg, device = begin(DEFAULTS)
    print(machine(device))
    if device.type == "cpu":
        keep_freed_memory()  # as certification does
    if "throughput" in cfg.parts:
        throughput(cfg, device)
    if "replay" in cfg.parts:
        replay(cfg)
    if "checkpoints" in cfg.parts:
        checkpoints(cfg)


if __name__ == "__main__":
    main()
