"""Monte Carlo procedures: how many votes an image gets, and the lower bound p_A that they prove."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from scipy.special import betainc, betaincc

from glsmooth.bounds import Outcome
from glsmooth.bounds.confidence import (
    MIXTURE,
    anytime_lower,
    anytime_samples_needed,
    clopper_pearson_lower,
    fewest_successes,
    log_evidence,
    randomised_lower,
    samples_needed,
)
from glsmooth.errors import UserError
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.voting.draws import Stream
from glsmooth.voting.finite import FiniteLaw

__all__ = [
    "ABSTAIN",
    "MOST_REFERENCES",
    "PROCEDURES",
    "Exhaustive",
    "FixedSample",
    "Procedure",
    "Sequential",
    "Tally",
    "build_procedure",
    "fewest_visits",
    "given_up",
    "image_of",
    "is_reference",
    "reference_index",
]

#: Stands for "no class".
ABSTAIN = -1

#: Names of the procedures; the first two are :class:`FixedSample`.
PROCEDURES = ("paper", "paper_literal", "sequential", "exhaustive")

#: ``argmax``: a vote goes to the class with the largest logit. ``majority``: to the class whose softmax exceeds 1/2.
VoteRule = Literal["argmax", "majority"]


#: Indices from here on are those of references, so many of each image.
_FIRST_REFERENCE, MOST_REFERENCES = 2**61, 2**20


def reference_index(index: int, number: int) -> int:
    """The index that stands for one of the references of an image: it fixes the draws there.

    Raises:
        UserError: an index too large to have any.
    """
    if not 0 <= index < 2**40:
        raise UserError(f"index={index} must be an integer in [0, 2^40)")
    return _FIRST_REFERENCE + index * MOST_REFERENCES + number


def is_reference(index: int) -> bool:
    """Does an index stand for a point near an image, rather than for the image?"""
    return index >= _FIRST_REFERENCE


def image_of(index: int) -> tuple[int, int]:
    """The image that an index belongs to, and the number of its reference; 0 for the image itself."""
    return divmod(index - _FIRST_REFERENCE, MOST_REFERENCES) if is_reference(index) else (index, 0)


class Tally:
    """Votes of one image so far.

    Attributes:
        selection, counting: votes for each class, int64 (num_classes,), from disjoint draws.
        mass: probability of the visited shifts that voted for each class, int64 (num_classes,), in the units
            of :class:`glsmooth.voting.finite.FiniteLaw`; 0 unless shifts are visited.
        n0, n: numbers of selection and counting draws, those that voted for no class included.
        abstained: draws that voted for no class (exact tie, non-finite logits, no majority).
        nonfinite: those of them with a non-finite logit.
        near_ties: draws decided by less than rounding could change.
        clean: vote at the image itself (ABSTAIN until asked for).
        p_seen: what an anytime-valid bound of the selected class's probability has reached so far.
        seen: (count, n) when it did.
        coin: the image's uniform in (0, 1] for a randomised bound.
        at_reference: whether they are votes at a reference, whose class is that of its image: none are for a selection.
    """

    def __init__(self, index: int, num_classes: int, coin: float = 1.0, at_reference: bool = False) -> None:
        self.index = index
        self.at_reference = at_reference
        self.coin = coin
        self.selection = np.zeros(num_classes, dtype=np.int64)
        self.counting = np.zeros(num_classes, dtype=np.int64)
        self.mass = np.zeros(num_classes, dtype=np.int64)
        self.n0 = self.n = self.abstained = self.nonfinite = self.near_ties = 0
        self.clean = ABSTAIN
        self.p_seen = 0.0
        self.seen = (0, 0)

    @property
    def prediction(self) -> int:
        """Class with the most selection votes, or mass (the first of equals); ABSTAIN when no draw voted.

        At a reference, that of the counting votes, which only says for how long to go on.
        """
        # One of the three counts: no selection precedes the test at a reference, whose class is that of its image.
        votes = self.counting if self.at_reference else self.selection + self.mass
        return int(votes.argmax()) if votes.any() else ABSTAIN

    @property
    def count(self) -> int:
        """Counting votes for the selected class."""
        return 0 if self.prediction == ABSTAIN else int(self.counting[self.prediction])


def given_up(p_lower: np.ndarray, n: np.ndarray, prediction: np.ndarray, most: int) -> np.ndarray:
    """Whose votes ended early, the region being out of reach, before p_A > 1/2 was proved? (images,) -> bool (images,).

    Of the other images with p_A <= 1/2, all ``most`` counting draws were taken (or none voted): they abstain.
    """
    return np.asarray((p_lower <= 0.5) & (n < most) & (prediction != ABSTAIN))


class Procedure(Protocol):
    """Decides, from the votes of an image so far, what to draw next, and what they prove in the end."""

    @property
    def rule(self) -> VoteRule:
        """What counts as a vote."""
        ...

    def advance(self, tally: Tally) -> dict[Stream, int]:
        """The draws to add, by stream; none: the image is finished."""
        ...

    def lower_bound(self, tally: Tally) -> float:
        """p_A: the lower confidence bound of the selected class's probability that a finished image's votes give."""
        ...

    def bound_range(self, count: int, n: int, coin: float = 1.0) -> tuple[float, float]:
        """The least and the most that p_A can be of a finished image with ``count`` of ``n`` counting votes.

        One number where they alone decide it. Records keep no more of the votes than these.
        """
        ...

    def draws_needed(self, h_min: float) -> int | None:
        """Fewest counting draws that can show p_A > h_min, all votes agreeing; None if no number can."""
        ...

    def draws_range(self) -> tuple[int, int]:
        """Fewest and most draws that an image can take."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain values that decide the result."""
        ...


@dataclass(frozen=True)
class FixedSample:
    """``n0`` draws select the class, ``n`` fresh draws count it (Cohen et al. 2019, CERTIFY).

    With ``two_sided`` the bound is the lower end of the two-sided interval, alpha / 2 on each side. With
    ``randomised`` it is :func:`glsmooth.bounds.confidence.randomised_lower` of the image's own coin.
    """

    n0: int = 200
    n: int = 1000
    alpha: float = 1e-3
    rule: VoteRule = "argmax"
    two_sided: bool = False
    randomised: bool = False

    def __post_init__(self) -> None:
        _check(self.n0, self.n, self.alpha)

    @property
    def _tail(self) -> float:
        return self.alpha / 2 if self.two_sided else self.alpha

    def advance(self, tally: Tally) -> dict[Stream, int]:
        if tally.n == 0:
            return {Stream.SELECTION: self.n0, Stream.COUNTING: self.n}
        return {}

    def lower_bound(self, tally: Tally) -> float:
        return self._bound(tally.count, tally.n, tally.coin)

    def bound_range(self, count: int, n: int, coin: float = 1.0) -> tuple[float, float]:
        bound = self._bound(count, n, coin)
        return bound, bound

    def _bound(self, count: int, n: int, coin: float) -> float:
        if self.randomised:
            return randomised_lower(count, n, self._tail, coin)
        return clopper_pearson_lower(count, n, self._tail)

    def draws_needed(self, h_min: float) -> int | None:
        # Whatever the coin says; with a lucky one fewer do.
        return samples_needed(h_min, self._tail)

    def chance(self, h_min: float) -> float:
        """Probability, over the coin, that n equal votes give p_A > h_min; with ``randomised`` only."""
        return math.exp(min(0.0, math.log(self._tail) - self.n * math.log(h_min)))

    def draws_range(self) -> tuple[int, int]:
        return self.n0 + self.n, self.n0 + self.n

    def describe(self) -> dict[str, Any]:
        return {
            "name": "paper_literal" if self.two_sided else "paper",
            "n0": self.n0,
            "n": self.n,
            "alpha": self.alpha,
            "vote": self.rule,
            "interval": "two-sided" if self.two_sided else "one-sided",
        } | ({"randomised": True} if self.randomised else {})


# Sequential draws. None of these numbers touches validity; they trade draws against undecided images and were chosen by
# benchmarks/search.py.
_DOUBT = 0.02  # chance, given the votes, that the second class is ahead of the first: selection ends at that
_SETTLED = 16  # selection draws before an image may be given up: its prediction is reported
# Counting draws between looks. Up to the first n at which the image can be certified: what is missing, but at most
# _FIRST_BLOCK or one in _GROWTH of those so far. Where that n is near: at least one in _STEP.
_FIRST_BLOCK, _GROWTH, _STEP = 8, 4, 32
# An image is given up when its chance, given the votes, of being certifiable within n is at most this times the share
# of all draws that it has used: the longer it lasts, the more draws it takes to learn more.
_HOPELESS = 0.25


@dataclass(frozen=True)
class Sequential:
    """Draws until the image is decided, by the anytime-valid test of
    :func:`glsmooth.bounds.confidence.log_evidence`.

    Stops as soon as p_A exceeds every target, and gives a target up when the votes so far make it hopeless:
    both may depend on the votes in any way, since p_A holds at every n at once. One alpha serves all targets.

    Args:
        targets: required probability (in (0, 1)) by name; those that even ``n`` equal votes cannot reach are
            left out.
        n0: selection draws, at most.
        n: counting draws, at most.
        alpha: failure probability.
        mixture: the test, a name of :data:`glsmooth.bounds.confidence.MIXTURES`.
        at_references: only votes at references are to reach a target; those of an image itself select its class.
    """

    targets: Mapping[str, float]
    n0: int = 200
    n: int = 2000
    alpha: float = 1e-3
    mixture: str = MIXTURE
    rule: VoteRule = "argmax"
    at_references: bool = False

    def __post_init__(self) -> None:
        _check(self.n0, self.n, self.alpha)
        # What the rate of votes must be in the end for the target to be certified; below 1, of which no votes speak.
        needed = {h: fewest_successes(self.n, h, self.alpha, self.mixture) for h in self.targets.values()}
        reachable = {h: min(count, self.n - 0.5) / self.n for h, count in needed.items() if count is not None}
        object.__setattr__(self, "_rates", dict(sorted(reachable.items())))

    def advance(self, tally: Tally) -> dict[Stream, int]:
        open_targets = self._open(tally)
        if tally.n == 0 and tally.n0 < self.n0 and not tally.at_reference:
            more = _until_selected(tally)
            if more and (open_targets or tally.n0 < _SETTLED):
                return {Stream.SELECTION: min(more, self.n0 - tally.n0)}
        if open_targets and tally.n < self.n:
            return {Stream.COUNTING: self._block(tally, open_targets[-1])}
        if tally.at_reference and tally.n == 0:  # out of reach for any votes; a few say how far
            return {Stream.COUNTING: min(_FIRST_BLOCK, self.n)}
        return {}

    def lower_bound(self, tally: Tally) -> float:
        # Whatever the bound has been at any time still holds.
        return max(tally.p_seen, self._bound(tally.count, tally.n)) if tally.n else tally.p_seen

    def bound_range(self, count: int, n: int, coin: float = 1.0) -> tuple[float, float]:
        del coin
        if n == 0:
            return 0.0, 0.0
        least = self._bound(count, n)
        # An earlier look counts, too. It had at most ``count`` successes, and the evidence falls with every failure:
        # it cannot have reached more than all successes and no failure do. And votes went on after it only for a
        # target that it had not passed.
        rates: dict[float, float] = self._rates  # type: ignore[attr-defined]
        earlier = min(self._bound(count, count), max(rates)) if count and rates else 0.0
        return least, max(least, earlier)

    def _bound(self, count: int, n: int) -> float:
        return anytime_lower(count, n, self.alpha, self.mixture)

    def _open(self, tally: Tally) -> list[float]:
        """Targets that are neither certified nor hopeless, ascending; certified ones raise ``tally.p_seen``."""
        if self.at_references and not tally.at_reference:
            return []
        if tally.prediction == ABSTAIN and (tally.n or not tally.at_reference):
            return []
        rates: dict[float, float] = self._rates  # type: ignore[attr-defined]
        count, n = tally.count, tally.n
        goal = -math.log(self.alpha)
        # Whether >= or > decides nothing: log_evidence is rounded down, and p_A is what certifies.
        if n and any(h >= tally.p_seen and log_evidence(count, n, h, self.mixture) >= goal for h in rates):
            bound = self._bound(count, n)
            if bound > tally.p_seen:
                tally.p_seen, tally.seen = bound, (count, n)
        # P(p >= rate) given all votes for the class, under a uniform prior.
        successes = count + int(tally.selection[tally.prediction])
        failures = n + tally.n0 - successes
        least = _HOPELESS * (tally.n0 + n) / (self.n0 + self.n)
        return [
            h for h, rate in rates.items() if h >= tally.p_seen and betaincc(successes + 1, failures + 1, rate) > least
        ]

    def _block(self, tally: Tally, target: float) -> int:
        """Up to the first n at which the target can be certified, by steps that grow with n.

        Any sizes would do, since p_A holds at every n; but the records depend on them.
        """
        earliest = anytime_samples_needed(target, self.alpha, tally.n - tally.count, self.mixture)
        assert earliest is not None
        block = min(max(earliest - tally.n, tally.n // _STEP, 1), max(_FIRST_BLOCK, tally.n // _GROWTH))
        return min(block, self.n - tally.n)

    def draws_needed(self, h_min: float) -> int | None:
        return anytime_samples_needed(h_min, self.alpha, mixture=self.mixture)

    def draws_range(self) -> tuple[int, int]:
        return min(_until_selected(Tally(0, 2)), self.n0), self.n0 + self.n

    def describe(self) -> dict[str, Any]:
        return {
            "name": "sequential",
            "n0": self.n0,
            "n": self.n,
            "alpha": self.alpha,
            "mixture": self.mixture,
            "vote": self.rule,
            "stopped_for": dict(self.targets),
        }


def _until_selected(tally: Tally) -> int:
    """Fewest selection draws more that can end the selection; 0 where it has ended."""
    second, first = (int(votes) for votes in np.sort(tally.selection)[-2:])
    more = 0
    # P(the second class is the more probable one) given the votes for the two, under a uniform prior.
    while betainc(first + more + 1, second + 1, 0.5) > _DOUBT:
        more += 1
    return more


def fewest_visits(law: FiniteLaw, masses: Iterable[int], leader: int, n: int) -> int:
    """Shifts without which it cannot be decided which of ``masses`` a class reaches.

    Args:
        law: the shifts.
        masses: in units of the law's weights.
        leader: the largest mass of a class after ``n`` shifts.
    """
    cumulative = law.cumulative
    seen, total = int(cumulative[n]), int(cumulative[-1])
    visits = 0
    for target in masses:
        # All votes for the leader, until it has the target's mass; or none, until it cannot get there. Neither is
        # beyond n where the target is decided.
        certified = np.searchsorted(cumulative, seen + target - leader, side="left")
        given_up = np.searchsorted(cumulative, leader + total - target, side="right")
        visits = max(visits, int(min(certified, given_up)) - n)
    return visits


_FIRST_LOOK = 16  # shifts visited where no target is within reach, so that the image has a prediction


@dataclass(frozen=True)
class Exhaustive:
    """Visits the shifts of a finite law, most probable first, until the image is decided: nothing is sampled.

    p_A is the probability of the visited shifts that voted for the class, a lower bound that holds without any
    probability of error. A class with p_A > 1/2 needs no selection: no other can have as much. Each target is
    decided as by visiting all shifts, and no shift is visited that the decision could have spared.

    Args:
        law: the shifts.
        targets: required probability (in [1/2, 1)) by name; those out of reach are left out.
    """

    law: FiniteLaw
    targets: Mapping[str, float]
    rule: VoteRule = "argmax"

    def __post_init__(self) -> None:
        for name, h in self.targets.items():
            if not 0.5 <= h < 1:
                raise ValueError(f"targets: {name}={h} is not a required probability; give a number in [1/2, 1)")
        needed = (self.law.needed(h) for h in self.targets.values())
        object.__setattr__(self, "_masses", sorted(mass for mass in needed if mass is not None))
        heaviest = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.sort(self.law.weights)[::-1])])
        object.__setattr__(self, "_heaviest", heaviest)

    def advance(self, tally: Tally) -> dict[Stream, int]:
        leader = int(tally.mass.max())
        visits = self._visits(leader, tally.n)
        if not visits and tally.n == 0:
            visits = min(_FIRST_LOOK, len(self.law.weights))
        if visits:
            return {Stream.VISITING: visits}
        return {}

    def lower_bound(self, tally: Tally) -> float:
        return self.law.lower(int(tally.mass.max()))

    def bound_range(self, count: int, n: int, coin: float = 1.0) -> tuple[float, float]:
        del coin
        # The first n shifts are the most probable ones (but for ties): ``count`` of them weigh at most as much as the
        # heaviest that there are, and at least what the heaviest n - count leave over.
        heaviest = self._heaviest  # type: ignore[attr-defined]
        least = int(self.law.cumulative[n]) - int(heaviest[n - count])
        return self.law.lower(max(0, least)), self.law.lower(int(heaviest[count]))

    def _visits(self, leader: int, n: int) -> int:
        return fewest_visits(self.law, self._masses, leader, n)  # type: ignore[attr-defined]

    def draws_needed(self, h_min: float) -> int | None:
        needed = self.law.needed(h_min)
        return None if needed is None else int(np.searchsorted(self.law.cumulative, needed, side="left"))

    def draws_range(self) -> tuple[int, int]:
        return self._visits(0, 0) or min(_FIRST_LOOK, len(self.law.weights)), len(self.law.weights)

    def describe(self) -> dict[str, Any]:
        return {
            "name": "exhaustive",
            "n0": 0,
            "n": len(self.law.weights),
            "alpha": 0.0,
            "vote": self.rule,
            "stopped_for": dict(self.targets),
        }


def build_procedure(spec: Mapping[str, Any], outcomes: Mapping[str, Outcome], family: SmoothedFamily) -> Procedure:
    """The procedure of a configuration's ``monte_carlo``, or of the description of a run.

    Args:
        spec: name, n0, n, alpha; for a fixed number of draws randomised, for sequential ones the mixture (``uniform``
            where none is given: the runs that name none were taken with it).
        outcomes: those that may stop the votes of an image.

    Raises:
        UserError: an unknown name, an impossible number, or ``exhaustive`` for a family whose law is not finite.
    """
    targets = {m: o.h_min for m, o in outcomes.items() if o.sound and o.h_min is not None and o.h_min < 1}
    name = spec["name"]
    if family.warps and name != "sequential":
        raise UserError(
            f"monte_carlo.name={name!r}: {family.name} is certified at many references of each image, most of which a "
            "few votes decide; use sequential"
        )
    if name == "exhaustive":
        return Exhaustive(FiniteLaw.of(family), targets)
    n0, n, alpha = spec["n0"], spec["n"], spec["alpha"]
    if name == "sequential":
        mixture = spec.get("mixture") or "uniform"
        return Sequential(targets, n0, n, alpha, mixture, at_references=family.warps)
    randomised = bool(spec.get("randomised", False))
    if name == "paper":
        return FixedSample(n0, n, alpha, randomised=randomised)
    if name == "paper_literal":
        return FixedSample(n0, n, alpha, rule="majority", two_sided=True, randomised=randomised)
    raise UserError(f"monte_carlo.name={name!r} is not a procedure; use paper, paper_literal, sequential or exhaustive")


def _check(n0: int, n: int, alpha: float) -> None:
    if n0 < 1 or n < 1:
        raise UserError(f"n0={n0}, n={n}: both must be at least 1")
    samples_needed(0.5, alpha)  # refuses an impossible alpha
