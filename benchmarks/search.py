"""Which test, selection, blocks and rule for giving up need the fewest passes: the choice behind ``Sequential``.

    python benchmarks/search.py [key=value ...]

Plays the published votes (``votes=FILE``) as Bernoulli streams, in numpy, without the engine: no padding, and the image
itself counts as one pass. Each line of the table changes one thing of the present procedure. *Sure image*: its votes
over ln α / ln h_min at h_min = 0.9088. *CRA moves by*: against the expectation for 1,000 fixed votes. A rule that gives
images up earlier saves passes and loses certificates, so variants compare *at equal CRA*: passes where that rule is
made stricter or looser until the CRA is that of fixed votes. *Predictions kept*: images whose class is selected.
``benchmarks/votes.py parts=[replay]`` confirms the choice with the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from scipy.special import betainc, betaincc
from scipy.stats import binom

from glsmooth.bounds.confidence import MIXTURES, Mixture, anytime_samples_needed, clopper_pearson_lower
from glsmooth.voting import procedures
from votes import CLASSES, Published, published_runs

DEFAULTS = {"votes": "../shared/data/published_votes.json", "seeds": 40, "first_seed": 0}
N0, N, ALPHA = 200, 2000, 1e-3


@dataclass(frozen=True)
class Variant:
    """What may be chosen; the defaults are the present procedure."""

    mixture: Mixture = MIXTURES["sure"]
    doubt: float = procedures._DOUBT
    settled: int = procedures._SETTLED
    first: int = procedures._FIRST_BLOCK
    growth: int = procedures._GROWTH
    step: int = procedures._STEP
    hopeless: float = procedures._HOPELESS
    lead: int | None = None  # selection by 16 draws at a time, until a class leads by so many votes
    constant: bool = False  # give up below a chance of ``hopeless``, however many draws were used


@dataclass
class Seen:
    """Votes of many images: selection votes (images, classes) and their number, counting votes and theirs."""

    selection: np.ndarray
    n0: np.ndarray = field(init=False)
    count: np.ndarray = field(init=False)
    n: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.n0, self.count, self.n = (np.zeros(len(self.selection), dtype=np.int64) for _ in range(3))


@cache
def earliest(mixture: Mixture, h: float) -> np.ndarray:
    """(N + 1,): least n at which h can be exceeded, by the number of failures; N + 1 where there is none up to N."""
    MIXTURES[str(mixture)] = mixture
    found = np.full(N + 1, N + 1)
    for failures in range(N + 1):
        needed = anytime_samples_needed(h, ALPHA, failures, str(mixture))
        if needed is None or needed > N:
            break
        found[failures] = needed
    return found


@cache
def go_on(variant: Variant, h: float) -> np.ndarray:
    """Fewest successes among so many votes that leave the image a chance."""
    found = earliest(variant.mixture, h)
    rate = 1 - ((found <= N).sum() - 1) / N
    votes = np.arange(N0 + N + 1)
    least = variant.hopeless * (1 if variant.constant else votes / (N0 + N))
    low, high = np.full_like(votes, -1), votes + 1
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = betaincc(middle + 1, np.maximum(votes - middle, 0) + 1, rate) > least
        low, high = np.where(enough, low, middle), np.where(enough, np.minimum(middle, high), high)
    return high


@cache
def needed_for_the_first(doubt: float) -> np.ndarray:
    """Votes for the first class that end the selection, by those for the second."""
    votes = np.arange(N0 + 1)
    chance = betainc(votes[None, :] + 1, votes[:, None] + 1, 0.5)
    return np.asarray(np.where(chance <= doubt, votes[None, :], N0).min(axis=1))


def until_selected(variant: Variant, selection: np.ndarray) -> np.ndarray:
    """Fewest draws more that can end the selection, (images, classes) -> (images,)."""
    second, first = np.sort(selection, axis=1)[:, -2:].T
    if variant.lead is not None:
        return np.where(first - second >= variant.lead, 0, 16)
    return np.asarray(np.maximum(needed_for_the_first(variant.doubt)[second] - first, 0))


def play(run: Published, variant: Variant, rng: np.random.Generator) -> tuple[float, float, float]:
    """Passes an image, CRA, and the share of images whose prediction is the published one."""
    images = len(run.rates)
    if anytime_samples_needed(run.h_min, ALPHA) is None or earliest(variant.mixture, run.h_min)[0] > N:
        return 1 + float(needed_for_the_first(variant.doubt)[0]), 0.0, 1.0
    table, least = earliest(variant.mixture, run.h_min), go_on(variant, run.h_min)
    rates = np.clip(run.rates, 1e-9, 1 - 1e-12)
    others = np.repeat((1 - rates)[:, None] / (CLASSES - 1), CLASSES - 1, axis=1)
    shares = np.concatenate([rates[:, None], others], axis=1)
    seen = Seen(np.zeros((images, CLASSES), dtype=np.int64))
    hopeful = np.ones(images, dtype=bool)
    some = np.arange(images)
    while len(some):
        more = np.minimum(until_selected(variant, seen.selection[some]), N0 - seen.n0[some])
        seen.selection[some] += rng.multinomial(more, shares[some])
        seen.n0[some] += more
        hopeful[some] = seen.selection[some].max(axis=1) >= least[seen.n0[some]]
        going_on = hopeful[some] | (seen.n0[some] < variant.settled)
        some = some[going_on & (seen.n0[some] < N0) & (until_selected(variant, seen.selection[some]) > 0)]
    leader = seen.selection.argmax(axis=1)
    successes, own = seen.selection.max(axis=1), shares[np.arange(images), leader]
    certified = np.zeros(images, dtype=bool)
    some = np.flatnonzero(hopeful)
    while len(some):
        n, count = seen.n[some], seen.count[some]
        wanted = np.maximum(table[n - count] - n, np.maximum(n // variant.step, 1))
        block = np.minimum(np.minimum(wanted, np.maximum(variant.first, n // variant.growth)), N - n)
        count = count + rng.binomial(block, own[some])
        n = n + block
        seen.n[some], seen.count[some] = n, count
        done = n >= table[n - count]
        certified[some] = done
        some = some[~done & (count + successes[some] >= least[n + seen.n0[some]]) & (n < N)]
    passes = 1 + seen.n0 + seen.n
    return float(passes.mean()), float((certified & (leader == 0) & run.correct).mean()), float((leader == 0).mean())


def many(run: Published, seeds: int) -> Published:
    """The same images ``seeds`` times over."""
    return run._replace(rates=np.tile(run.rates, seeds), correct=np.tile(run.correct, seeds))


def fixed_cra(run: Published) -> float:
    """Expected CRA of 1,000 fixed votes."""
    counts = np.arange(1001)
    enough = counts[clopper_pearson_lowers(1000) > run.h_min]
    return float((binom.sf(enough[0] - 1, 1000, run.rates) * run.correct).mean()) if len(enough) else 0.0


@cache
def clopper_pearson_lowers(n: int) -> np.ndarray:
    return np.array([clopper_pearson_lower(count, n, ALPHA) for count in range(n + 1)])


def measure(runs: list[Published], variant: Variant, seeds: int, first_seed: int) -> np.ndarray:
    """Mean passes, CRA less that of fixed votes, and share of kept predictions over ``runs``."""
    found = []
    for number, run in enumerate(runs):
        passes, cra, kept = play(many(run, seeds), variant, np.random.default_rng([first_seed, number]))
        found.append((passes, cra - fixed_cra(run), kept))
    return np.mean(found, axis=0)


def at_equal_cra(runs: list[Published], variant: Variant, seeds: int, first_seed: int) -> float:
    """Passes where the rule for giving up leaves the CRA as it is with fixed votes: by quadratics through several."""
    scales = np.log([0.25, 0.4, 0.6, 0.8, 1.0, 1.3, 1.7])
    found = np.array(
        [
            measure(runs, replace(variant, hopeless=variant.hopeless * np.exp(scale)), seeds, first_seed + 1 + number)
            for number, scale in enumerate(scales)
        ]
    )
    passes, moved = (np.polynomial.Polynomial.fit(scales, column, 2) for column in found.T[:2])
    fine = np.linspace(scales[0], scales[-1], 1001)
    return float(passes(fine[np.abs(moved(fine)).argmin()]))


def variants() -> dict[str, Variant]:
    """The procedure before, the present one, and those that differ from it by one choice."""
    present = Variant()
    before = Variant(Mixture(0.0, 1), lead=8, first=32, growth=2, step=16, hopeless=0.01, constant=True)
    found = {"before": before, "present": present}
    for sure, decline in ((0.0, 1), (0.3, 1), (0.5, 1), (0.4, 2), (0.5, 2), (0.6, 2), (0.7, 2), (0.55, 3)):
        found[f"weight {sure} on 1, decline {decline}"] = replace(present, mixture=Mixture(sure, decline))
    found["selection by 16 draws, until a lead of 8"] = replace(present, lead=8)
    found |= {f"doubt {value}": replace(present, doubt=value) for value in (0.1, 0.05, 0.01, 0.001)}
    found |= {f"settled {value}": replace(present, settled=value) for value in (0, 8, 24)}
    found |= {f"first block {value}": replace(present, first=value) for value in (4, 16, 32)}
    found |= {f"growth 1/{value}": replace(present, growth=value) for value in (1, 2, 8)}
    found |= {f"step 1/{value}": replace(present, step=value) for value in (8, 16, 64)}
    found |= {f"hopeless {value}": replace(present, hopeless=value) for value in (0.1, 0.2, 0.3, 0.4)}
    found["give up below a chance of 0.01, however long"] = replace(present, hopeless=0.01, constant=True)
    return found


def main() -> None:
    cfg = OmegaConf.merge(OmegaConf.create(DEFAULTS), OmegaConf.from_cli())
    if not Path(cfg.votes).is_file():
        print(f"votes={cfg.votes} is not there: nothing to search by")
        return
    runs = published_runs(cfg.votes)
    low = [run for run in runs if run.h_min <= 0.92]
    print(
        f"{cfg.seeds} seeds from {cfg.first_seed}; {len(low)} runs with h_min <= 0.92, and all {len(runs)}\n\n"
        "| what | sure image | passes/image | CRA moves by | predictions kept | passes at equal CRA "
        "| passes/image, all | CRA moves by, all |\n|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    for what, variant in variants().items():
        passes, moved, kept = measure(low, variant, cfg.seeds, cfg.first_seed)
        equal = at_equal_cra(low, variant, cfg.seeds, cfg.first_seed)
        passes_all, moved_all, _ = measure(runs, variant, cfg.seeds, cfg.first_seed)
        needed = earliest(variant.mixture, 0.9088)[0] * np.log(0.9088) / np.log(ALPHA)
        print(
            f"| {what} | {needed:.2f}× | {passes:.1f} | {moved:+.4f} | {kept:.3f} | {equal:.1f} | {passes_all:.1f} "
            f"| {moved_all:+.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
