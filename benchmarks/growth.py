"""How do time and memory grow with the number of images, n, the transformation's parameters and the image size?

    python benchmarks/growth.py [key=value ...]

Keys and defaults are in ``DEFAULTS`` below. A table for each of the four, in which nothing else changes. Time should
follow a straight line, and memory should be that of a batch.

Each row is a process of its own, so that its memory is its own; the processes of a table run in turns, and the quietest
turn of each counts. Settings that are otherwise measured are fixed. *Network alone* is that of one ready batch, in the
same turns: where it leaves the line, so does certification. Memory is the largest resident set during all turns (on a
GPU: the most that torch had allocated) less what there was before the first, with the network in place; the resident
set on Linux only.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from common import begin, default_family, machine, read, untrained
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.voting.engine import BaseClassifier, VoteEngine
from glsmooth.voting.procedures import FixedSample

DEFAULTS = {
    "parts": ["images", "n", "parameters", "pixels"],
    "device": None,  # null: a GPU if there is one
    "threads": 1,  # torch's threads on a CPU
    "network": "small_cnn",
    "batch_size": 64,
    "turns": 4,
    "images": [5, 10, 20, 40, 80],
    "n": [250, 500, 1000, 2000, 4000],
    "transforms": [  # of one to five parameters
        "brightness",
        "contrast_brightness",
        "brightness_translation",
        "contrast_brightness_translation",
        "translation_blur_brightness_contrast",
    ],
    "sizes": [16, 32, 64, 128],
    "case": None,  # of a process that this starts: images, n, transformation, image size
}
N0 = 20
BATCHES = 4  # of the network alone, in a turn
PROC = Path("/proc/self")


class Case(NamedTuple):
    """What a row certifies."""

    images: int
    n: int
    transform: str
    size: int

    @property
    def family(self) -> SmoothedFamily:
        """The transformation's default laws."""
        return default_family(self.transform, self.size)


class Cost(NamedTuple):
    """Of a row: seconds of its quietest turn by either clock; those of one evaluation of the network alone; MB, or nan
    where the system does not tell."""

    wall: float
    cpu: float
    network_wall: float
    network_cpu: float
    memory: float


def table(cfg: DictConfig, what: str) -> list[tuple[int, Case]]:
    """Rows of a part: how much there is of what grows, and the case."""
    affine = "contrast_brightness"
    if what == "images":
        return [(images, Case(images, 80, affine, 32)) for images in cfg.images]
    if what == "n":
        return [(n, Case(2, n, affine, 32)) for n in cfg.n]
    if what == "parameters":
        cases = [Case(5, 500, name, 32) for name in cfg.transforms]
        return [(len(case.family.parameters), case) for case in cases]
    if what == "pixels":
        return [(size**2, Case(2, 300, affine, size)) for size in cfg.sizes]
    raise SystemExit(f"parts={what}: choose from {', '.join(DEFAULTS['parts'])}")


class Memory:
    """The most that this process has used since it was made, beyond what it used then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device) / 1e6
            return
        self.before = math.nan
        try:
            (PROC / "clear_refs").write_text("5")  # the highest so far was importing, maybe
        except OSError:
            return
        self.before = self._resident("VmRSS")

    @property
    def peak(self) -> float:
        """MB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6 - self.before
        return self._resident("VmHWM") - self.before

    @staticmethod
    def _resident(which: str) -> float:
        found = re.search(rf"{which}:\s*(\d+) kB", read(PROC / "status"))
        return int(found.group(1)) * 1024 / 1e6 if found else math.nan


def answer(cfg: DictConfig, device: torch.device) -> None:
    """A row's process: certifies once for each line that it is sent, and says what that took."""
    case = Case(*cfg.case)
    torch.manual_seed(0)
    model = untrained(cfg.network, case.size).eval()
    classifier = BaseClassifier(model, 10, device=device)
    family, procedure = case.family, FixedSample(N0, case.n)
    batch = torch.rand(cfg.batch_size, 3, case.size, case.size, device=device)
    memory = Memory(device)

    def images() -> Iterator[tuple[int, Tensor]]:
        # One at a time, as from a disk: a list of them would grow.
        for index in range(case.images):
            yield index, torch.rand(3, case.size, case.size)

    def certified() -> None:
        engine = VoteEngine(classifier, family, procedure, batch_size=cfg.batch_size)
        for tally in engine.run(images()):
            procedure.lower_bound(tally)

    @torch.inference_mode()
    def network() -> None:
        for _ in range(BATCHES):
            classifier(batch)

    print("ready", flush=True)
    for _ in sys.stdin:
        whole, peak, alone = timed(certified, device), memory.peak, timed(network, device)
        print(json.dumps([*whole, *(seconds / BATCHES / cfg.batch_size for seconds in alone), peak]), flush=True)


def timed(work: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Seconds of wall and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


@contextmanager
def processes(cfg: DictConfig, cases: list[Case]) -> Iterator[list[subprocess.Popen[str]]]:
    """A process for each case, at work once it is sent a line."""
    settings = ("device", "threads", "network", "batch_size")
    keys = [f"{key}={'null' if cfg[key] is None else cfg[key]}" for key in settings]
    running: list[subprocess.Popen[str]] = []
    try:
        for case in cases:
            command = [sys.executable, __file__, *keys, f"case=[{','.join(map(str, case))}]"]
            running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        yield running
    finally:
        for process in running:
            process.communicate()


def told(process: subprocess.Popen[str]) -> str:
    """The next line of a row's process."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a process that measures has ended; its own message is above")
    return line


def measured(cfg: DictConfig, cases: list[Case]) -> list[Cost]:
    """The cost of each case, in turns."""
    turns: list[list[list[float]]] = [[] for _ in cases]
    with processes(cfg, cases) as running:
        for process in running:
            told(process)
        for _ in range(cfg.turns):
            for process, costs in zip(running, turns, strict=True):
                assert process.stdin is not None
                process.stdin.write("once\n")
                process.stdin.flush()
                costs.append(json.loads(told(process)))
    return [Cost(*np.min(costs, axis=0)[:-1], np.max(costs, axis=0)[-1]) for costs in turns]


def line(amounts: list[int], seconds: list[float]) -> tuple[float, float, float]:
    """Seconds = a + b · amount, by least squares of relative errors: a, b, and the largest of those errors."""
    x, y = np.array(amounts, dtype=float), np.array(seconds)
    a, b = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones_like(y), rcond=None)[0]
    return a, b, float(np.abs((a + b * x) / y - 1).max())


def main() -> None:
    cfg, device = begin(DEFAULTS)
    if cfg.case is not None:
        answer(cfg, device)
        return
    print(machine(device))
    # Other programs disturb CPU time less; a GPU's work is not in it.
    cpu = device.type != "cuda"
    clock = "CPU" if cpu else "wall"
    print(
        f"{cfg.network}, batches of {cfg.batch_size}, float32, contiguous, not compiled, n0 = {N0}. Least of "
        f"{cfg.turns} turns; µs are of {clock} time, MB beyond the network's"
    )
    for what in cfg.parts:
        rows = table(cfg, what)
        print(
            f"\n| {what} | transformation | certified | evaluations | wall s | CPU s "
            "| µs/evaluation | network alone | MB |"
        )
        print("|---:|---|---|---:|---:|---:|---:|---:|---:|")
        amounts, cases = [amount for amount, _ in rows], [case for _, case in rows]
        costs = measured(cfg, cases)
        seconds = [cost.cpu if cpu else cost.wall for cost in costs]
        for amount, case, cost, taken in zip(amounts, cases, costs, seconds, strict=True):
            evaluations = case.images * (N0 + case.n)
            alone = cost.network_cpu if cpu else cost.network_wall
            print(
                f"| {amount} | {case.transform} | {case.images} images {case.size}×{case.size}, n = {case.n} "
                f"| {evaluations} | {cost.wall:.2f} | {cost.cpu:.2f} | {1e6 * taken / evaluations:.0f} "
                f"| {1e6 * alone:.0f} | {cost.memory:.1f} |",
                flush=True,
            )
        fixed, each, error = line(amounts, seconds)
        print(
            f"\n{what} × {amounts[-1] / amounts[0]:.3g}: {clock} time × {seconds[-1] / seconds[0]:.3g}, memory "
            f"× {costs[-1].memory / costs[0].memory:.3g}. Line: {1e3 * fixed:.3g} ms + {1e3 * each:.3g} ms × {what}, "
            f"off by {100 * error:.1f} % at most"
        )


if __name__ == "__main__":
    main()
