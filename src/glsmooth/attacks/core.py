"""Attack a base classifier and its smoothed classifier: empirical robust accuracy, and false certificates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from glsmooth.attacks import decide
from glsmooth.attacks.objective import Change, Objective
from glsmooth.attacks.outside import Condition
from glsmooth.attacks.search import STAGES, Best, Plan, search
from glsmooth.attacks.space import Space
from glsmooth.bounds import certifies_runner_up, certify_region
from glsmooth.bounds.base import NotApplicable
from glsmooth.bounds.confidence import leader_bounds
from glsmooth.errors import UserError
from glsmooth.family.regions import Ball, Box, Region
from glsmooth.family.resolvability import holds
from glsmooth.family.sizes import scaled
from glsmooth.smoothing import SmoothedClassifier
from glsmooth.voting.engine import VoteEngine
from glsmooth.voting.procedures import ABSTAIN, FixedSample, VoteRule
from glsmooth.voting.speed import AUTO
from glsmooth.voting.tuning import choose_speed

__all__ = ["PHASES", "Attacked", "Attacker", "Claim", "Effort", "Finding", "Item", "Violation", "certified_sizes"]

#: Votes of an attack are those of indices from here on: no draw of a certification, whose indices are small, and none
#: of ``glsmooth advise``, which begins at 2^63, is used again.
FIRST_INDEX = 2**62
_LARGEST_INDEX = 2**52
#: Draws for a second look at what a search kept, and the share of votes below which a candidate is worth fresh ones.
_SECOND_LOOK, _PROMISING = 64, 0.55
#: Sizes of the ladder that a search outside the region climbs, halvings of its last step, and draws on it.
_LADDER, _HALVINGS, _LADDER_DRAWS = 12, 5, 8
#: Standard deviations of a share of fresh votes by which a parameter must be lost beyond what a test needs.
_SPARE = 1.2
#: Certified sizes are multiples of this.
_SIZE_STEP = 1 / 16
#: Steps of a block that a bar can show, where no parameter is given.
PHASES = 5
#: Votes of a second certification, relative to those of a test.
_AGAIN = 10
#: First stages of the draws of each search.
_BASE_STAGE, _SIZE_STAGE, _LOOK_STAGE, _OUTSIDE_STAGE = 100, 200, 300, 400
#: Tests of one image beside those in the region and outside the theorem: of the nearest parameter.
_SIZE_TESTS = 2


class Violation(UserError):
    """Certified images are broken, and not by chance. No mistake of the user's, but nothing to trust either."""


@dataclass(frozen=True)
class Effort:
    """What an attack may cost, and how sure it must be.

    Attributes:
        passes: network evaluations of the search for each image, about; 0 where parameters are given.
        draws: of the smoothing laws at each parameter that is looked at.
        votes: fresh ones, at each candidate.
        tries: candidates of an image that get fresh votes, at most.
        delta: δ, the probability at most that any failure which the attack reports is none
            (:mod:`glsmooth.attacks.decide`).
        reach: how far outside the region, in sizes of it, the nearest failure is looked for; 1 or less: not at all.
    """

    passes: int = 4000
    draws: int = 16
    votes: int = 1000
    tries: int = 3
    delta: float = 1e-3
    reach: float = 4.0

    def __post_init__(self) -> None:
        for name, least in (("passes", 0), ("draws", 1), ("votes", 20), ("tries", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name}={value!r} must be a whole number, at least {least}")
        if not (math.isfinite(self.reach) and self.reach >= 0):
            raise UserError(f"reach={self.reach!r} must be a finite number, at least 0")
        decide.Levels(self.delta, 1, 1)


@dataclass(frozen=True)
class Claim:
    """What a certification says of an image.

    Attributes:
        prediction: the class.
        p_lower: p_A.
        h_min: of the region. The claim is made where ``p_lower > h_min``, whether or not the method is sound.
        size: the largest size of the region for which it is made; NaN where regions have no sizes.
        leads: the claim is made against the runner-up: the class leads, maybe with less than half.
    """

    prediction: int
    p_lower: float
    h_min: float
    size: float = math.nan
    leads: bool = False

    @property
    def certified(self) -> bool:
        return self.prediction != ABSTAIN and (self.leads or self.p_lower > self.h_min)


@dataclass(frozen=True)
class Item:
    """An image (C, H, W) to attack, its number and label, and what is claimed of it, if anything is."""

    index: int
    image: Tensor
    label: int
    claim: Claim | None = None


@dataclass(frozen=True)
class Finding:
    """What was found of one image.

    Attributes:
        index, label: of the image.
        certified: is it claimed for the region?
        prediction: the class that is claimed, or else the smoothed classifier's at the identity, by its votes.
        base_prediction: the base classifier's class of the image as it is.
        base_broken: is the base classifier right there, and wrong at ``base_beta``?
        base_found_by, found_by: the attack that found the parameters, a number of
            :data:`glsmooth.attacks.search.STAGES`; -1 where none was made.
        base_beta, beta: the worst parameters, in the order of the family's; NaN where no attack was made.
        broken: is the smoothed classifier right at the identity, and another class ahead at ``beta``, by fresh votes?
        count, n: fresh votes at ``beta`` for the class that was attacked, and all of them.
        beaten: certified, and its class has at most half of the probability at ``beta`` (or does not lead there, if no
            more than that is claimed).
        again_count, again_n: of a beaten one, fresh votes for the class at the identity.
        refuted: beaten, and certified again by these: the bound is wrong.
        certified_size: size of the region up to which the image is certified.
        broken_size, nearest: the smallest size, and the parameter, at which the smoothed classifier was found to fail;
            NaN where none was.
        outside: by name of the condition, whether it fails (1) under what no certificate speaks of; -1: not tried.
        passes: network evaluations, of searches and votes.
    """

    index: int
    label: int
    certified: bool
    prediction: int
    base_prediction: int
    base_broken: bool = False
    base_found_by: int = -1
    base_beta: tuple[float, ...] = ()
    broken: bool = False
    found_by: int = -1
    beta: tuple[float, ...] = ()
    count: int = 0
    n: int = 0
    beaten: bool = False
    again_count: int = 0
    again_n: int = 0
    refuted: bool = False
    certified_size: float = math.nan
    broken_size: float = math.nan
    nearest: tuple[float, ...] = ()
    outside: Mapping[str, int] = field(default_factory=dict)
    passes: int = 0

    @property
    def gap(self) -> float:
        """How much larger the region would have to be, in its sizes, than it is certified, for the failure that was
        found; NaN where either is not known."""
        return self.broken_size - self.certified_size


@dataclass(frozen=True)
class Attacked:
    """What an attack found.

    Attributes:
        parameters: names, in the order of every β.
        findings: one an image.
        images: N, of all that were to be attacked; certificates of images that were left out count in the allowance.
        alpha: of the certificates' votes; 0 where every shift was visited.
        bound: α_b, where the bound was estimated.
        delta: the attack's own.
        tested: were certificates tested?
        outside: titles of what else was tried, by name.
        leads: indices of images whose certificates promise no more than that the class leads.
    """

    parameters: tuple[str, ...]
    findings: tuple[Finding, ...]
    images: int
    alpha: float
    bound: float
    delta: float
    tested: bool
    outside: Mapping[str, str] = field(default_factory=dict)
    leads: frozenset[int] = frozenset()

    def _share(self, holds: Callable[[Finding], bool]) -> float:
        return sum(map(holds, self.findings)) / len(self.findings) if self.findings else math.nan

    @cached_property
    def base_accuracy(self) -> float:
        """Share of the images that the base classifier gets right as they are."""
        return self._share(lambda one: one.base_prediction == one.label)

    @cached_property
    def accuracy(self) -> float:
        """Share of the images whose smoothed class is the true one."""
        return self._share(lambda one: one.prediction == one.label)

    @cached_property
    def base_era(self) -> float:
        """Empirical robust accuracy of the base classifier: right, and no parameter was found at which it is wrong."""
        return self._share(lambda one: one.base_prediction == one.label and not one.base_broken)

    @cached_property
    def era(self) -> float:
        """Empirical robust accuracy of the smoothed classifier."""
        return self._share(lambda one: one.prediction == one.label and not one.broken)

    @cached_property
    def cra(self) -> float:
        """Certified robust accuracy, of the same images."""
        return self._share(lambda one: one.certified and one.prediction == one.label)

    @cached_property
    def beaten(self) -> list[Finding]:
        """Certified images whose certificate is false."""
        return [one for one in self.findings if one.beaten]

    @cached_property
    def refuted(self) -> list[Finding]:
        """Those of them that the votes do not explain: the bound, or what it assumes, is wrong."""
        return [one for one in self.findings if one.refuted]

    @property
    def chance(self) -> float:
        """How likely so many false certificates are by chance, at most (:func:`glsmooth.attacks.decide.chance`)."""
        return decide.chance(len(self.beaten), self.images, self.alpha, self.bound)

    @property
    def violated(self) -> bool:
        """Is there more wrong than chance allows?"""
        return bool(self.refuted) or (bool(self.beaten) and self.chance <= self.delta)

    def require(self, reproduce: Callable[[Finding], str] | None = None) -> None:
        """The one assertion: no certified image is broken, but for those that α allows.

        Args:
            reproduce: a line that repeats one finding.

        Raises:
            Violation: more than chance allows; names an image, its parameter and its votes.
        """
        if not self.violated:
            return
        worst = (self.refuted or self.beaten)[0]
        lines = [
            f"image {worst.index} is certified for class {worst.prediction}, and is broken: at "
            f"{self.words(worst.beta)} only {worst.count} of {worst.n} fresh votes are for it, and a certificate "
            f"promises {'that it leads' if worst.index in self.leads else 'more than half'}"
        ]
        if worst.refuted:
            lines.append(
                f"Its votes were not lucky: {worst.again_count} of {worst.again_n} fresh votes at the identity certify "
                "it again. The bound is wrong, or the transformation or the network is not what it is taken for "
                f"(the attack is wrong with probability at most {2 * self.delta:.2g})"
            )
        else:
            lines.append(
                f"{len(self.beaten)} of {self.images} images have a false certificate; by chance so many would have "
                f"one with probability at most {self.chance:.2g}"
            )
        if reproduce is not None:
            lines.append(f"See it again:\n  {reproduce(worst)}")
        raise Violation("\n".join(lines))

    def words(self, beta: Sequence[float]) -> str:
        """A parameter, in words."""
        return ", ".join(f"{name} = {value:.6g}" for name, value in zip(self.parameters, beta, strict=True))


def certified_sizes(
    smoothed: SmoothedClassifier, region: Region, method: str, p_lower: Sequence[float], reach: float, example: Tensor
) -> list[float]:
    """The largest size of a region up to which each image is certified, a multiple of 1/16 up to ``reach``.

    Each size is one that the bound itself was asked for; 0 where none is certified, NaN where regions have no sizes.
    """
    family = smoothed.family
    if family.transform.factors is None or not Space(family, region).has_sizes:
        return [math.nan] * len(p_lower)
    assert isinstance(region, Box | Ball)
    sizes = [_SIZE_STEP * i for i in range(1, int(reach / _SIZE_STEP) + 1)]
    known: dict[int, float] = {}

    def needed(i: int) -> float:
        if i not in known:
            try:
                there = scaled(family.transform, region, sizes[i - 1])
                family.check_region(there)
                outcome = certify_region(family, there, method)
                known[i] = 1.0 if outcome.h_min is None or not holds(family, there, [example]) else outcome.h_min
            except (UserError, NotApplicable):
                known[i] = 1.0
        return known[i]

    found = []
    for p in p_lower:
        yes, no = 0, len(sizes) + 1
        while p > 0.5 and no - yes > 1:
            middle = (yes + no) // 2
            yes, no = (middle, no) if p > needed(middle) else (yes, middle)
        found.append(sizes[yes - 1] if yes else 0.0)
    return found


class Attacker:
    """Attacks images in blocks, every step for all images of a block together.

    What is found of an image depends on ``seed`` and its index alone, but for rounding in batches of other sizes.

    Args:
        smoothed: network and family.
        region: where to attack.
        images: N, how many will be attacked in all; the attack's error probability is shared by them.
        effort: what it may cost.
        seed: of the searches and of fresh votes.
        rule: what counts as a vote.
        conditions: what else is tried on certified images (:func:`glsmooth.attacks.outside.conditions_of`).
        given: the only parameter that is tried, by name.
        tick: called with a number of images after each of the :data:`PHASES` of a block.
    """

    def __init__(
        self,
        smoothed: SmoothedClassifier,
        region: Region,
        images: int,
        effort: Effort | None = None,
        seed: int = 0,
        rule: VoteRule = "argmax",
        conditions: Sequence[Condition] = (),
        given: Mapping[str, float] | None = None,
        tick: Callable[[int], object] = lambda images: None,
    ) -> None:
        self.tick = tick
        self.smoothed, self.family, self.classifier = smoothed, smoothed.family, smoothed.classifier
        self.family.check_region(region)
        self.region, self.space = region, Space(self.family, region)
        self.effort, self.seed, self.conditions = effort or Effort(), seed, list(conditions)
        self.given = None if given is None else self.family.transform.vector(given)
        if self.given is not None and not self.space.contains(self.given):
            raise UserError(f"at={dict(given or {})} is not in the region {region.to_config()}; give a parameter in it")
        tests = self.effort.tries + _SIZE_TESTS + len(self.conditions)
        self.levels = decide.Levels(self.effort.delta, images, tests)
        self._tests = tests + 2  # and those that decide nothing: at the identity, before and again
        self._spent: dict[int, int] = {}  # fresh votes of each image of the block
        self._procedure = FixedSample(n0=1, n=self.effort.votes - 1, rule=rule)
        self._batch: int | None = None

    # Votes

    def _settle(self, image: Tensor) -> int:
        """The batch size, measured once."""
        if self._batch is None:
            chosen = choose_speed(
                self.smoothed.asked, self.classifier, self.family, self._procedure, image, self.levels.images
            )
            self._batch = int(chosen.speed.batch_size)
        return self._batch

    def _smaller(self, batch_size: int) -> None:
        self._batch = batch_size

    def _votes(self, images: Mapping[int, Tensor], test: int, times: int = 1) -> dict[int, NDArray[np.int64]]:
        """Fresh votes (classes,) of images by index, which are those of no other test of theirs."""
        if not images:
            return {}
        by_number = {FIRST_INDEX + index * self._tests + test: index for index in images}
        for index in images:
            self._spent[index] = self._spent.get(index, 0) + times * self.effort.votes
        procedure = FixedSample(n0=1, n=times * self.effort.votes - 1, rule=self._procedure.rule)
        engine = VoteEngine(
            self.classifier,
            self.family,
            procedure,
            seed=self.seed,
            batch_size=self._settle(next(iter(images.values()))),
            images=len(images),
            on_smaller=self._smaller if self.smoothed.asked.batch_size == AUTO else None,
        )
        pairs = ((number, images[index]) for number, index in by_number.items())
        return {by_number[tally.index]: tally.selection + tally.counting for tally in engine.run(pairs)}

    def _attacked(self, images: Tensor, which: Sequence[int], beta: Tensor, change: Change | None = None) -> Tensor:
        """φ(x, β) of some images, as the classifier gets them."""
        with torch.no_grad():
            apply = change or self.family.transform.apply
            return apply(images[torch.tensor(list(which), device=images.device)], beta.to(images.device))

    # One block

    def run(self, items: Sequence[Item]) -> list[Finding]:
        """Attack some images.

        Raises:
            UserError: an image whose index is too large, or a network that no votes can be taken of.
        """
        for item in items:
            if not 0 <= item.index < _LARGEST_INDEX:
                raise UserError(f"index={item.index}: an attack numbers images from 0 to {_LARGEST_INDEX - 1}")
        if not items:
            return []
        device = self.classifier.device
        images = torch.stack([item.image for item in items]).to(device, torch.float32)
        indices = [item.index for item in items]
        self._spent = {}
        self._settle(items[0].image)
        with self.classifier.ready(items[0].image):
            base = self._base_classes(images)
        unknown = {item.index: item.image for item in items if item.claim is None}
        at_identity = self._votes(unknown, self._tests - 2)
        predictions = [
            item.claim.prediction if item.claim is not None else _leader(at_identity[item.index]) for item in items
        ]
        certified = [item.claim is not None and item.claim.certified for item in items]
        # The class that is certified, be it right or wrong; else the true one.
        targets = [p if sure else item.label for p, sure, item in zip(predictions, certified, items, strict=True)]
        active = [i for i, item in enumerate(items) if certified[i] or predictions[i] == item.label]
        active_base = [i for i, item in enumerate(items) if base[i] == item.label]

        def rngs(stream: int) -> list[np.random.Generator]:
            return [np.random.default_rng([self.seed, index, stream]) for index in indices]

        searched: list[Objective] = []

        def objective(targets: Sequence[int], change: Change | None = None) -> Objective:
            batch = self._settle(items[0].image)
            made = Objective(self.classifier, self.family, images, indices, targets, self.seed, batch, change)
            searched.append(made)
            return made

        of_smoothed, of_base = objective(targets), objective([item.label for item in items])
        effort, identity = self.effort, self.space.identity.expand(len(items), -1)
        with self.classifier.ready(items[0].image):
            of_smoothed.calibrate(identity, effort.draws)
            of_base.calibrate(identity, 0)
            if self.given is not None:
                best, best_base = self._only(len(items)), self._only(len(items))
            else:
                plan = Plan(effort.passes, effort.draws)
                best = search(of_smoothed, self.space, plan, rngs(1), 1, active)
                self.tick(len(items))
                # A look at the base classifier costs one pass, and as many looks are enough.
                base_plan = Plan(max(64, effort.passes // effort.draws), 0)
                best_base = search(of_base, self.space, base_plan, rngs(2), _BASE_STAGE, active_base)
            self._look_again(of_smoothed, best, active)
            self.tick(len(items))
            base_lost = self._base_lost(images, items, best_base, active_base)
        tested = self._test(items, images, targets, best, active)
        self.tick(len(items))
        nearest = self._nearest(items, of_smoothed, best, active, tested) if self.given is None else {}
        again = self._again(items, tested)
        self.tick(len(items))
        outside = self._outside(items, images, objective, targets, certified, predictions, best, rngs(3), tested)
        self.tick(len(items))
        none = (math.nan,) * len(self.family.parameters)
        findings = []
        for i, item in enumerate(items):
            of, found, size = tested.get(i), again.get(i), nearest.get(i)
            count_again, n_again, refuted = found or (0, 0, False)
            first = best_base[i].found[0] if i in active_base and best_base[i].found else None
            findings.append(
                Finding(
                    index=item.index,
                    label=item.label,
                    certified=certified[i],
                    prediction=predictions[i],
                    base_prediction=base[i],
                    base_broken=i in base_lost,
                    base_found_by=-1 if first is None else first[2],
                    base_beta=none if first is None else first[1],
                    broken=of is not None and of.fails and predictions[i] == item.label,
                    found_by=-1 if of is None else of.stage,
                    beta=none if of is None else of.beta,
                    count=0 if of is None else of.count,
                    n=0 if of is None else of.n,
                    beaten=of is not None and of.beaten,
                    again_count=count_again,
                    again_n=n_again,
                    refuted=refuted,
                    certified_size=math.nan if item.claim is None else item.claim.size,
                    broken_size=math.nan if size is None else size[0],
                    nearest=none if size is None else size[1],
                    outside={condition.name: outside.get((i, condition.name), -1) for condition in self.conditions},
                    passes=sum(made.passes[i] for made in searched) + self._spent.get(item.index, 0),
                )
            )
        return findings

    def _base_classes(self, images: Tensor) -> list[int]:
        with torch.inference_mode():
            logits = torch.cat([self.classifier(part).float() for part in images.split(self._settle(images[0]))])
        finite = logits.isfinite().all(dim=1)
        found: list[int] = torch.where(finite, logits.nan_to_num().argmax(dim=1), ABSTAIN).tolist()
        return found

    def _only(self, images: int) -> list[Best]:
        assert self.given is not None
        return [Best([(0.0, tuple(self.given.tolist()), STAGES.index("given"))]) for _ in range(images)]

    def _look_again(self, objective: Objective, best: list[Best], active: Sequence[int]) -> None:
        """Order what was kept by more draws than found it: the least of many noisy scores flatters."""
        rows = [(i, beta, stage) for i in active for _, beta, stage in best[i].found]
        if not rows:
            return
        which = torch.tensor([i for i, _, _ in rows], dtype=torch.int64)
        beta = torch.tensor([beta for _, beta, _ in rows], dtype=torch.float64)
        margins = objective.margins(which, beta, _LOOK_STAGE, _SECOND_LOOK)
        shares = (margins > 0).double().mean(dim=1).tolist()
        scores = torch.tanh(margins / margins.abs().median().clamp_min(1e-3)).mean(dim=1).tolist()
        for i in active:
            best[i].found = []
        for (i, values, stage), share, score in zip(rows, shares, scores, strict=True):
            best[i].found.append((share + 1e-3 * score, values, stage))  # the score decides between equal shares
        for i in active:
            best[i].found.sort(key=lambda one: one[0])

    def _base_lost(self, images: Tensor, items: Sequence[Item], best: list[Best], active: Sequence[int]) -> set[int]:
        """Images that the base classifier loses at their worst parameter: by its answer, for a margin of 0 is none."""
        rows = [i for i in active if best[i].found]
        if not rows:
            return set()
        beta = torch.tensor([best[i].found[0][1] for i in rows], dtype=torch.float64)
        classes = self._base_classes(self._attacked(images, rows, beta))
        return {i for i, found in zip(rows, classes, strict=True) if found != items[i].label}

    def _test(
        self,
        items: Sequence[Item],
        images: Tensor,
        targets: Sequence[int],
        best: list[Best],
        active: Sequence[int],
    ) -> dict[int, _Tested]:
        """Fresh votes at the candidates of each image, the worst first, until one of them is lost."""
        tested: dict[int, _Tested] = {}
        for attempt in range(self.effort.tries):
            going = [
                i
                for i in active
                if attempt < len(best[i].found)
                and (i not in tested or not tested[i].lost)
                and (attempt == 0 or best[i].found[attempt][0] < _PROMISING)
            ]
            if not going:
                break
            beta = torch.tensor([best[i].found[attempt][1] for i in going], dtype=torch.float64)
            attacked = self._attacked(images, going, beta)
            votes = self._votes({items[i].index: attacked[row] for row, i in enumerate(going)}, attempt)
            for i in going:
                _, values, stage = best[i].found[attempt]
                of = self._tested(items[i], votes[items[i].index], targets[i], values, stage)
                if i not in tested or of.lost or of.count < tested[i].count:
                    tested[i] = of
        return tested

    def _tested(
        self, item: Item, votes: NDArray[np.int64], target: int, beta: tuple[float, ...], stage: int
    ) -> _Tested:
        count, n, level = int(votes[target]), self.effort.votes, self.levels.test
        fails, claim = decide.fails(votes, target, level), item.claim
        beaten = claim is not None and claim.certified and (fails if claim.leads else decide.beaten(count, n, level))
        return _Tested(beta, stage, count, n, fails, beaten)

    def _again(self, items: Sequence[Item], tested: Mapping[int, _Tested]) -> dict[int, tuple[int, int, bool]]:
        """Certify beaten images a second time: (votes for the class, of how many, certified again)."""
        beaten = [i for i, of in tested.items() if of.beaten]
        votes = self._votes({items[i].index: items[i].image for i in beaten}, self._tests - 1, times=_AGAIN)
        found = {}
        for i in beaten:
            claim = items[i].claim
            assert claim is not None
            there, n, level = votes[items[i].index], _AGAIN * self.effort.votes, self.levels.again
            count = int(there[claim.prediction])
            if claim.leads:
                bounds = leader_bounds(there, n, claim.prediction, level)
                again = certifies_runner_up(self.family, self.region, *bounds)
            else:
                again = decide.certified_again(count, n, claim.h_min, level)
            found[i] = count, n, again
        return found

    def _nearest(
        self,
        items: Sequence[Item],
        objective: Objective,
        best: list[Best],
        active: Sequence[int],
        tested: dict[int, _Tested],
    ) -> dict[int, tuple[float, tuple[float, ...]]]:
        """The smallest size of the region, and the parameter, at which the smoothed classifier was found to fail.

        Along straight ways from the identity through corners and the worst parameter of the image: up a ladder of
        sizes, then by halving; fresh votes decide. What is lost inside the region is entered in ``tested``, too.
        """
        if self.effort.reach <= 0 or not self.space.has_sizes or not active:
            return {}
        found = {
            i: (self.space.size(torch.tensor(of.beta, dtype=torch.float64)), of.beta)
            for i, of in tested.items()
            if of.fails
        }
        ladder = torch.linspace(self.effort.reach / _LADDER, self.effort.reach, _LADDER, dtype=torch.float64)
        with self.classifier.ready(items[0].image):
            first = self._first_lost(objective, best, active, ladder)
            first = {i: (size, way) for i, (size, way) in first.items() if i not in found or size < found[i][0]}
            if not first:
                return found
            going = list(first)
            ways = torch.stack([way for _, way in first.values()])
            upper = torch.tensor([size for size, _ in first.values()], dtype=torch.float64)
            near, upper = self._halved(objective, going, ways, upper, ladder)
        # If what lies nearest cannot be shown to be lost, a step farther.
        for attempt, sizes in enumerate((near, upper + ladder[0])):
            left = [row for row, i in enumerate(going) if i not in found or float(sizes[row]) < found[i][0]]
            if not left:
                break
            beta = self.space.outward(ways[left], sizes[left])
            attacked = self._attacked(objective.images, [going[row] for row in left], beta)
            votes = self._votes(
                {items[going[row]].index: attacked[k] for k, row in enumerate(left)}, self.effort.tries + attempt
            )
            for k, row in enumerate(left):
                i, size, values = going[row], self.space.size(beta[k]), tuple(beta[k].tolist())
                target = int(objective.targets[i])
                of = self._tested(items[i], votes[items[i].index], target, values, best[i].found[0][2])
                if of.fails and (i not in found or size < found[i][0]):
                    found[i] = size, values
                if of.lost and not (i in tested and tested[i].lost) and self.space.contains(beta[k]):
                    tested[i] = of
        return found

    @property
    def _lost_at(self) -> float:
        """A share of votes so clearly below half that fresh votes will show it."""
        return 0.5 + (float(ndtri(self.levels.test)) - _SPARE) * 0.5 / math.sqrt(self.effort.votes)

    def _first_lost(
        self, objective: Objective, best: list[Best], active: Sequence[int], ladder: Tensor
    ) -> dict[int, tuple[float, Tensor]]:
        """Of each image the way that seems lost at the smallest size of the ladder, by few draws: (size, way)."""
        corners = [way for way in self.space.corners() if 0 < self.space.size(way) < math.inf]
        # Of many parameters there are more corners than the passes of an image are worth.
        most = max(1, self.effort.passes // (_LADDER * _LADDER_DRAWS))
        if len(corners) > most:
            corners = [corners[i] for i in np.unique(np.linspace(0, len(corners) - 1, most).round().astype(int))]
        rows: list[tuple[int, Tensor]] = []
        for i in active:
            own = torch.tensor(best[i].found[0][1], dtype=torch.float64)
            size = self.space.size(own)
            rows += [(i, way) for way in corners]
            if 0 < size < math.inf:
                rows.append((i, self.space.outward(own[None], torch.tensor([1 / size]))[0]))
        if not rows:
            return {}
        which = torch.tensor([i for i, _ in rows]).repeat_interleave(_LADDER)
        ways = torch.stack([way for _, way in rows]).repeat_interleave(_LADDER, dim=0)
        shares = self._shares(objective, which, ways, ladder.repeat(len(rows)), _SIZE_STAGE, _LADDER_DRAWS)
        first: dict[int, tuple[float, Tensor]] = {}
        for (i, way), row in zip(rows, shares.view(len(rows), _LADDER).tolist(), strict=True):
            lost = [float(size) for size, share in zip(ladder, row, strict=True) if share <= self._lost_at]
            if lost and (i not in first or lost[0] < first[i][0]):
                first[i] = lost[0], way
        return first

    def _halved(
        self, objective: Objective, going: Sequence[int], ways: Tensor, upper: Tensor, ladder: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The smallest lost size (n,) of images along their ways, and the step of the ladder above it."""
        images, step = torch.tensor(list(going)), float(ladder[0])
        climbing = torch.arange(len(images))
        for climb in range(_LADDER):  # few draws flatter: up until more of them say the same
            at = images[climbing], ways[climbing], upper[climbing]
            shares = self._shares(objective, *at, _SIZE_STAGE + 20 + climb, _SECOND_LOOK)
            climbing = climbing[(shares > self._lost_at) & (upper[climbing] < ladder[-1])]
            if not len(climbing):
                break
            upper[climbing] += step
        low, near = upper - step, upper.clone()
        for halving in range(_HALVINGS):
            middle = (low + near) / 2
            shares = self._shares(objective, images, ways, middle, _SIZE_STAGE + 1 + halving, _SECOND_LOOK)
            lost = shares <= self._lost_at
            low, near = torch.where(lost, low, middle), torch.where(lost, middle, near)
        return near, upper

    def _shares(
        self, objective: Objective, which: Tensor, ways: Tensor, sizes: Tensor, stage: int, draws: int
    ) -> Tensor:
        """Shares of votes (R,) along ways, at sizes."""
        margins = objective.margins(which, self.space.outward(ways, sizes), stage, draws)
        return (margins > 0).double().mean(dim=1)

    def _outside(
        self,
        items: Sequence[Item],
        images: Tensor,
        objective: Callable[[Sequence[int], Change], Objective],
        targets: Sequence[int],
        certified: Sequence[bool],
        predictions: Sequence[int],
        best: list[Best],
        rngs: Sequence[np.random.Generator],
        tested: Mapping[int, _Tested],
    ) -> dict[tuple[int, str], int]:
        """Images that are certified, or where nothing is that were not broken, under conditions outside the theorem."""
        claims = any(item.claim is not None for item in items)
        tried = [
            i
            for i, item in enumerate(items)
            if (certified[i] if claims else predictions[i] == item.label and not (i in tested and tested[i].fails))
        ]
        found: dict[tuple[int, str], int] = {}
        if not tried:
            return found
        plan = Plan(max(self.effort.passes // 8, 16 * self.effort.draws), self.effort.draws)
        for number, condition in enumerate(self.conditions):
            of = objective(targets, condition.change)
            with self.classifier.ready(items[0].image):
                of.calibrate(self.space.identity.expand(len(items), -1), self.effort.draws)
                worst = search(of, self.space, plan, rngs, _OUTSIDE_STAGE + 20 * number, tried, adaptive=False)
                for i in tried:  # and what was worst without it
                    if best[i].found:
                        worst[i].found.append((0.0, best[i].found[0][1], best[i].found[0][2]))
                self._look_again(of, worst, tried)
            going = [i for i in tried if worst[i].found[0][0] < _PROMISING]
            found |= {(i, condition.name): 0 for i in tried}
            if not going:
                continue
            beta = torch.tensor([worst[i].found[0][1] for i in going], dtype=torch.float64)
            attacked = self._attacked(images, going, beta, condition.change)
            test = self.effort.tries + _SIZE_TESTS + number
            votes = self._votes({items[i].index: attacked[row] for row, i in enumerate(going)}, test)
            for i in going:
                found[i, condition.name] = int(decide.fails(votes[items[i].index], targets[i], self.levels.test))
        return found


@dataclass
class _Tested:
    """Fresh votes at one parameter."""

    beta: tuple[float, ...]
    stage: int
    count: int
    n: int
    fails: bool
    beaten: bool

    @property
    def lost(self) -> bool:
        return self.fails or self.beaten


def _leader(votes: NDArray[Any]) -> int:
    return int(votes.argmax()) if votes.any() else ABSTAIN
