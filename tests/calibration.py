"""Are certificates false as seldom as they say? Images of which the truth is known, by whole procedures.

    python -m tests.calibration [--images 20000] [--seed 0]

The base classifier is the worst one that Neyman and Pearson know: it says 0 on a half-line of brightness, so under a
normal law its probability at brightness b is Φ((t - b)/σ), exactly. t is put a hair below where a certificate would be
true, so that **every** certificate is false, at the hardest place there is. Of many images, each with its own draws, at
most a share α may be certified: more than α + 4 standard deviations of the binomial law is a failure.

Rows with several regions count an image if it is certified in any in which it may not be: one α has to pay for all.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.stats import norm
from torch import Tensor, nn

import glsmooth as gs

__all__ = ["CASES", "Case", "allowed", "share"]

SIGMA, REGIONS = 0.3, (0.1, 0.2, 0.3)
ALPHA = 0.05


class HalfLine(nn.Module):
    """Class 0 below a brightness, and above it class 1 (or class 1 or 2 by the parity of a fine grid)."""

    def __init__(self, end: float, others: int) -> None:
        super().__init__()
        self.end, self.others = end, others

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.mean(dim=(1, 2, 3)).double()
        other = 1 + (torch.floor(brightness * 1e4).long() % self.others)
        label = torch.where(brightness < self.end, torch.zeros_like(other), other)
        return nn.functional.one_hot(label, 3).to(images)


@dataclass(frozen=True)
class Case:
    """A procedure: arguments of ``certify_many``, and how far below its region's truth the classifier is."""

    arguments: dict[str, object]
    others: int = 1
    regions: tuple[float, ...] = REGIONS[1:2]


CASES: dict[str, Case] = {
    "fixed n": Case({"n0": 20, "n": 200}),
    "fixed n, several regions": Case({"n0": 20, "n": 200}, regions=REGIONS),
    "randomised": Case({"n0": 20, "n": 200, "randomised": True}),
    "sequential": Case({"n0": 20, "n": 1000, "sequential": True}),
    "sequential, several regions": Case({"n0": 20, "n": 1000, "sequential": True}, regions=REGIONS),
    "runner-up, two classes": Case({"n0": 20, "n": 200, "runner_up": True}),
    "runner-up, three classes": Case({"n0": 20, "n": 200, "runner_up": True}, others=2),
}


def _smoothed(end: float, others: int) -> gs.SmoothedClassifier:
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, SIGMA)})
    return gs.SmoothedClassifier(HalfLine(end, others), family, num_classes=3)


def share(case: Case, images: int, seed: int = 0) -> float:
    """The share of images that a procedure certifies although no certificate is true.

    With several regions the truth lies at the smallest one's end: a certificate of any of them is false.
    """
    # P(class 0 at b) = Φ((t - b)/σ) is below 1/2 at the end b = r of a region if t < r.
    smallest = min(case.regions)
    smoothed = _smoothed(smallest * (1 - 1e-9), case.others)
    if case.others == 2:
        # Each of the others has half of the rest, so class 0 keeps its lead as long as it has a third.
        smoothed = _smoothed((smallest + SIGMA * float(norm.ppf(1 / 3))) * (1 - 1e-9), case.others)
    batch = torch.zeros(images, 1, 1, 1)
    wrong = torch.zeros(images, dtype=torch.bool)
    for size in case.regions:
        region = gs.Box(brightness=(-size, size))
        certified: Callable[..., list[gs.Certificate]] = smoothed.certify_many
        results = certified(batch, region, alpha=ALPHA, seed=seed, **case.arguments)
        wrong |= torch.tensor([result.certified and result.prediction == 0 for result in results])
    return float(wrong.double().mean())


def allowed(images: int) -> float:
    """The largest share that a procedure of level α shows by chance (4 standard deviations)."""
    return ALPHA + 4 * math.sqrt(ALPHA * (1 - ALPHA) / images)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    bound, failed = allowed(arguments.images), 0
    print(f"| procedure | false certificates, of {arguments.images:,} images | allowed at alpha = {ALPHA} |")
    print("| --- | ---: | ---: |")
    for name, case in CASES.items():
        found = share(case, arguments.images, arguments.seed)
        failed += found > bound
        print(f"| {name} | {found:.4f} | {bound:.4f} |", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
