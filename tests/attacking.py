"""Are certificates broken by attacks? A part of ``make stress``, or ``python -m tests.attacking --help``.

Each round draws a family and a region as ``tests.stress`` does, and a classifier that is hard for it: a score of the
image, cut where the class has a hair more than what the region requires (half-lines of brightness, which are the worst
case of Neyman and Pearson's lemma, random linear scores, random networks), or a small network that was trained on
digits. Images are certified by a procedure at random with ``certify_many``, and attacked by ``glsmooth.attack_images``.

Nothing that is certified may be *refuted*, and all rounds together may hold as many broken certificates as their alpha
explains. Every run plants certificates of the procedure as printed, which are false: the attack has to refute them all.
A round is a function of (seed, number) alone.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor, nn

import glsmooth as gs
from glsmooth.attacks import Attacked, Effort
from glsmooth.attacks.decide import chance
from glsmooth.bounds import certify_region
from glsmooth.bounds.base import NotApplicable
from glsmooth.errors import UserError
from tests import stress

ALPHA = 0.01
#: Error probability of the attack in a round, and of the count over all of them.
DELTA = 1e-6
IMAGES = 8
EFFORT = Effort(passes=600, draws=8, votes=400, tries=2, delta=DELTA, reach=0)
CLASSIFIERS = ("half-line", "linear", "network", "digits")
PROCEDURES: dict[str, dict[str, object]] = {
    "fixed n": {"n": 400},
    "randomised": {"n": 400, "randomised": True},
    "sequential": {"n": 2000, "sequential": True},
    "runner-up": {"n": 400, "runner_up": True},
}
#: Every so many rounds false certificates are planted, the first one among them.
PLANTED = 10
SPEED = {"batch_size": 1024, "compile": False, "channels_last": False, "threads": 1}


@dataclass
class Count:
    """What came of the rounds with one kind of classifier.

    Attributes:
        least: the smallest share of fresh votes for a class of which more than half is certified.
    """

    rounds: int = 0
    images: int = 0
    certified: int = 0
    broken: int = 0
    refuted: int = 0
    least: float = math.inf

    def add(self, found: Attacked) -> None:
        self.rounds += 1
        self.images += found.images
        self.certified += sum(one.certified for one in found.findings)
        self.broken += len(found.beaten)
        self.refuted += len(found.refuted)
        sure = [one for one in found.findings if one.certified and one.n and one.index not in found.leads]
        self.least = min([self.least, *(one.count / one.n for one in sure)])


@dataclass
class Told:
    """All rounds: counts by classifier, rounds that were refused, and lines that repeat what was found."""

    counts: dict[str, Count] = field(default_factory=lambda: {name: Count() for name in CLASSIFIERS})
    planted: Count = field(default_factory=Count)
    refused: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def chance(self) -> float:
        """How likely so many broken certificates are, at most."""
        every = self.counts.values()
        return chance(sum(one.broken for one in every), sum(one.images for one in every), ALPHA)

    @property
    def failed(self) -> bool:
        missed = not self.planted.certified or self.planted.refuted < self.planted.certified
        return missed or any(one.refuted for one in self.counts.values()) or self.chance <= DELTA


class Cut(nn.Module):
    """Two classes: whether a score of an image is below a threshold."""

    def __init__(self, score: nn.Module, threshold: float, below: int) -> None:
        super().__init__()
        self.score, self.threshold, self.below = score, threshold, below

    def forward(self, images: Tensor) -> Tensor:
        margin = (self.threshold - self.score(images)) * (1 if self.below == 0 else -1)
        return torch.stack((margin, -margin), dim=1)


class Mean(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))


def _score(kind: str, shape: tuple[int, int, int], rng: np.random.Generator) -> nn.Module:
    torch.manual_seed(int(rng.integers(2**31)))
    if kind == "half-line":
        return Mean()
    hidden = [] if kind == "linear" else [nn.Linear(math.prod(shape), 16), nn.Tanh()]
    last = nn.Linear(16 if hidden else math.prod(shape), 1)
    return nn.Sequential(nn.Flatten(), *hidden, last, nn.Flatten(0))


@cache
def digits() -> tuple[nn.Module, Tensor]:
    """A small network that was trained on half of scikit-learn's digits for a second, and the other half."""
    from sklearn.datasets import load_digits

    read = load_digits()
    images = torch.tensor(read.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(read.target)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    half = len(images) // 2
    for _ in range(60):
        light = 0.8 + 0.4 * torch.rand(half, 1, 1, 1), 0.3 * torch.randn(half, 1, 1, 1)
        loss = nn.functional.cross_entropy(network(light[0] * images[:half] + light[1]), labels[:half])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval(), images[half:]


def _classifier(
    kind: str, family: gs.SmoothedFamily, h_min: float, rng: np.random.Generator
) -> tuple[nn.Module, Tensor, int]:
    """A network, images and the number of classes."""
    if kind == "digits":
        network, images = digits()
        return network, images[torch.from_numpy(rng.choice(len(images), IMAGES, replace=False))], 10
    size = family.image_size or (8, 8)
    # Alike, so that the threshold of one is near that of all.
    images = torch.from_numpy(0.1 + 0.8 * rng.random((1, 1, *size))).float()
    images = (images + torch.from_numpy(rng.normal(0, 1e-3, (IMAGES, 1, *size))).float()).clamp(0, 1)
    score = _score(kind, (1, *size), rng).eval()
    with torch.no_grad():
        theta = family.quantile(torch.from_numpy(rng.random((1000, len(family.parameters)))))
        scores = score(family.transform.apply(images[:1].expand(1000, -1, -1, -1), theta)).double()
    below = int(rng.integers(2))
    share = min(h_min + rng.uniform(-0.01, 0.1), 0.999)  # of the class, where the image is
    threshold = torch.quantile(scores.nan_to_num(), share if below == 0 else 1 - share)
    return Cut(score, float(threshold), below), images, 2


def play(seed: int, number: int, method: str = "neyman_pearson") -> tuple[str, str, Attacked | None]:
    """One round: the kind of classifier, what it was in words, and what the attack found; None where there is none."""
    rng = np.random.default_rng([seed, number])
    kind, procedure = str(rng.choice(CLASSIFIERS)), str(rng.choice(list(PROCEDURES)))
    for attempt in range(1000):
        case = stress.draw_case(seed, str(rng.choice(stress.KINDS)), 1000 * number + attempt)
        family, words = case.family, f"{kind}, {procedure}: {case}"
        if kind == "digits" and family.image_size not in (None, (8, 8)):
            family = gs.SmoothedFamily(family.transform, family.laws, (8, 8))
        try:
            outcome = certify_region(family, case.region, method)
        except (UserError, NotApplicable):
            continue
        # Where something can be certified by so few votes, and not for nothing.
        if outcome.h_min is not None and 0.5 < outcome.h_min < 0.98:
            break
    else:
        raise AssertionError("no region was drawn of which something can be certified")
    network, images, classes = _classifier(kind, family, outcome.h_min, rng)
    smoothed = gs.SmoothedClassifier(network, family, classes, **SPEED)
    arguments = PROCEDURES[procedure if method == "neyman_pearson" else "fixed n"]
    try:
        certificates = smoothed.certify_many(
            images, case.region, n0=20, alpha=ALPHA, seed=seed, method=method, **arguments
        )
        labels = [max(one.prediction, 0) for one in certificates]
        found = gs.attack_images(
            smoothed, images, labels, case.region, certificates=certificates, alpha=ALPHA, effort=EFFORT, seed=seed
        )
    except UserError as error:
        return kind, f"{words}: {error}", None
    return kind, words, found


def plant(seed: int, number: int) -> Attacked:
    """False certificates of the procedure as printed: a half-line of brightness between its value and the true one."""
    rng = np.random.default_rng([seed, number, 1])
    sigma, far = rng.uniform(0.1, 0.5), rng.uniform(1.1, 1.5)
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, sigma)})
    region = gs.Box(brightness=(-far * sigma, far * sigma))
    printed = gs.required_probability(family, region, "gl_printed")
    between = (printed + float(norm.cdf(far))) / 2
    images = torch.from_numpy(rng.random((2, 1, 4, 4))).float() / 2
    images = images - images.mean((1, 2, 3), keepdim=True) + 0.5
    network = Cut(Mean(), 0.5 + sigma * float(norm.ppf(between)), 0)
    smoothed = gs.SmoothedClassifier(network, family, 2, **SPEED)
    certificates = smoothed.certify_many(images, region, n=4000, alpha=ALPHA, seed=seed, method="gl_printed")
    return gs.attack_images(
        smoothed, images, [0, 0], region, certificates=certificates, alpha=ALPHA, effort=EFFORT, seed=seed
    )


def run(seed: int, minutes: float, rounds: int) -> Told:
    """Rounds until there are enough, or the time is over."""
    deadline, told = time.monotonic() + 60 * minutes, Told()
    for number in range(rounds):
        if number and time.monotonic() > deadline:
            break
        if number % PLANTED == 0:
            told.planted.add(plant(seed, number))
        kind, words, found = play(seed, number)
        if found is None:
            told.refused += 1
            continue
        told.counts[kind].add(found)
        if found.beaten:
            said = "REFUTED" if found.refuted else "broken, maybe by chance"
            told.lines.append(f"* {said}: {words}\n  python -m tests.attacking --seed {seed} --round {number}")
    return told


def table(told: Told) -> str:
    """One row a kind of classifier, in Markdown."""
    head = ("classifier", "rounds", "images", "certified", "broken", "of these refuted", "least share of fresh votes")
    rows = [head, ("---",) + ("---:",) * (len(head) - 1)]
    for name, one in (*told.counts.items(), ("planted: GL as printed", told.planted)):
        least = f"{one.least:.3f}" if math.isfinite(one.least) else ""
        rows.append(
            (name, *map(str, (one.rounds, one.images, one.certified, one.broken, one.refuted)), least)
        )  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacking", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=15, help="stop after this long (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=10**6, help="at most so many")
    parser.add_argument("--round", type=int, help="repeat one round and print it")
    parser.add_argument("--output", type=Path, default=Path("outputs/stress_attack.md"), help="where the table goes")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if arguments.round is not None:
        _, words, found = play(arguments.seed, arguments.round)
        print(words)
        for one in found.findings if found is not None else ():
            print(one)
        return int(found is not None and found.violated)
    started = time.monotonic()
    told = run(arguments.seed, arguments.minutes, arguments.rounds)
    text = (
        f"`python -m tests.attacking --seed {arguments.seed}`: {(time.monotonic() - started) / 60:.1f} min, "
        f"alpha = {ALPHA}\n\n{table(told)}\n\n"
        f"So many broken certificates, or more, are there by chance with probability {told.chance:.2g} at most; "
        f"{told.refused} rounds were refused.\n"
    ) + "".join(f"{line}\n" for line in told.lines)
    print(text)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text, encoding="utf-8")
    return int(told.failed)


if __name__ == "__main__":
    sys.exit(main())
