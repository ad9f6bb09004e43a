"""The smoothed classifier: predict and certify (Cohen et al. 2019; General Lipschitz, Figure 1)."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glsmooth.bounds import Outcome, certifies_runner_up, certify_region
from glsmooth.bounds.confidence import leader_bounds
from glsmooth.errors import UserError
from glsmooth.family.regions import Region
from glsmooth.family.resolvability import check_family, why_approximate
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.threats import Nearby, Slices, Threat
from glsmooth.voting.classifier import BaseClassifier
from glsmooth.voting.engine import VoteEngine, check_random
from glsmooth.voting.finite import FiniteLaw
from glsmooth.voting.images import as_image, check_image, gather
from glsmooth.voting.procedures import (
    ABSTAIN,
    MOST_REFERENCES,
    Exhaustive,
    FixedSample,
    Procedure,
    Sequential,
    Tally,
    image_of,
    reference_index,
)
from glsmooth.voting.speed import AUTO, Auto, Speed
from glsmooth.voting.tuning import choose_speed

__all__ = [
    "ABSTAIN",
    "Certificate",
    "Slicing",
    "SmoothedClassifier",
    "Verdict",
    "certify",
    "check_image",
]


@dataclass(frozen=True)
class Slicing:
    """How an image was certified over the interval of a threat's parameter, which is cut into slices.

    Attributes:
        slices: how many.
        tried: of how many votes decided; the first that fails ends the image.
        votes: in all of these and at the image itself.
        residual: no attacked image is further away from the reference of its slice.
        failed: ends of the slice that failed; None where none did.
    """

    slices: int
    tried: int
    votes: int
    residual: float
    failed: tuple[float, float] | None


@dataclass(frozen=True)
class Verdict:
    """What :func:`certify` finds for one image.

    Attributes:
        tally: its votes; where it was cut into slices, those of the one that has shown least.
        prediction: the selected class; ABSTAIN (-1) when no draw voted.
        p_lower: lower confidence bound p_A of that class's probability.
        certified: by method, whether the region is certified.
        slicing: where it was cut into slices, how.
    """

    tally: Tally
    prediction: int
    p_lower: float
    certified: dict[str, bool]
    slicing: Slicing | None = None


def certify(
    engine: VoteEngine,
    images: Iterable[tuple[int, Tensor]],
    outcomes: Mapping[str, Outcome],
    region: Region | None = None,
) -> Iterator[Verdict]:
    """CERTIFY (Cohen et al. 2019; General Lipschitz, Figure 1) for a stream of images, by several bounds at once.

    For each image, except with probability at most alpha over its draws (none are drawn, and alpha is 0, where every
    shift is visited): if ``certified[method]``, the smoothed classifier predicts ``prediction`` on φ(x, β) for every β
    of the region. Where the bound itself was estimated, its ``failure_probability`` comes on top.

    Args:
        engine: draws the votes f(φ(x, α)), α from the smoothing laws, as its procedure asks.
        images: (index, image (C, H, W)) pairs; the index fixes an image's draws.
        outcomes: what each bound requires of the region. No image and no vote entered it.
        region: that region, for a family whose threat cuts it into slices.

    Yields:
        A verdict an image, as soon as it is finished (not always in order).
    """
    family = engine.family
    if family.warps:
        assert region is not None
        yield from _certify_slices(engine, images, outcomes, *family.interval(region))
        return
    if isinstance(family.threat, Nearby):
        images = _near_enough(family, images)
    for tally in engine.run(images):
        # Select: the class with the most votes among the first draws.
        prediction = tally.prediction
        # Count: tally.count of tally.n fresh draws, which had no part in the selection, vote for it.
        # Bound: its probability is at least p_A, with confidence 1 - alpha.
        p_lower = engine.procedure.lower_bound(tally)
        # Compare: p_A > h_min.
        certified = {method: bool(outcome.certifies(p_lower)) for method, outcome in outcomes.items()}
        yield Verdict(tally, prediction, p_lower, certified)


def _near_enough(family: SmoothedFamily, images: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
    """The images, each checked for what the residual says of its size."""
    assert isinstance(family.threat, Nearby)
    for index, image in images:
        needed = family.threat.residual(image.shape)
        if family.residual is None or family.residual < needed:
            raise UserError(
                f"residual={family.residual}: {family.threat!r} leads images of shape {tuple(image.shape)} up to "
                f"{needed:.6g} away; give residual=threat.residual({tuple(image.shape)})"
            )
        yield index, image


@dataclass
class _Image:
    """An image whose slices are voted on, in an order that was fixed before."""

    slices: Slices
    order: list[int]
    #: What came back, by place in the order, from 1 on; the image itself is at 0.
    tallies: dict[int, Tally] = field(default_factory=dict)
    #: Slices that passed, one after the other.
    passed: int = 0
    votes: int = 0
    ended: bool = False
    #: The bound and the tally of the slice that has shown least.
    least: tuple[float, Tally] | None = None


def _certify_slices(
    engine: VoteEngine, images: Iterable[tuple[int, Tensor]], outcomes: Mapping[str, Outcome], low: float, high: float
) -> Iterator[Verdict]:
    """:func:`certify` under a threat that warps: each image is cut into slices with a reference each.

    The one claim is about all slices, each of which has to pass, by an anytime-valid test of fresh votes for the class
    that other votes, at the image itself, selected. A false certificate needs one particular slice to pass whose
    reference has too small a probability, which has probability at most alpha: every slice uses all of it, and neither
    the order nor the end after the first failure costs anything.

    Which slices count does not depend on what else is under way: those up to the first that fails.
    """
    under_way: dict[int, _Image] = {}

    def points() -> Iterator[tuple[int, Tensor]]:
        for index, one, itself in _ahead(engine, images, low, high):
            first = reference_index(index, 0)
            under_way[index] = one
            yield index, itself
            for place, k in enumerate(one.order, start=1):
                if one.ended:
                    break
                yield first + place, one.slices.references[k]

    for tally in engine.run(points()):
        index, place = image_of(tally.index)
        if index not in under_way:  # it failed while this slice was under way
            continue
        one = under_way[index]
        one.tallies[place] = tally
        _advance(one, engine.procedure, outcomes)
        if one.ended:
            yield _of_slices(one, index, outcomes)
            del under_way[index]


def _ahead(
    engine: VoteEngine, images: Iterable[tuple[int, Tensor]], low: float, high: float
) -> Iterator[tuple[int, _Image, Tensor]]:
    """Images cut into slices, in their order, by the processor while votes are taken of those before them."""
    # Where votes are taken by the processor, too, one thread beside them is enough.
    workers = 1 if engine.classifier.device.type == "cpu" else max(1, min(4, (os.cpu_count() or 1) - 1))
    waiting: deque[tuple[int, Future[tuple[_Image, Tensor]]]] = deque()
    with ThreadPoolExecutor(workers, "slices") as pool:
        try:
            for index, image in images:
                waiting.append((index, pool.submit(_sliced, engine.family, index, image, low, high)))
                if len(waiting) > workers:
                    index, made = waiting.popleft()
                    yield index, *made.result()
            while waiting:
                index, made = waiting.popleft()
                yield index, *made.result()
        finally:
            for _, made in waiting:
                made.cancel()


def _sliced(family: SmoothedFamily, index: int, image: Tensor, low: float, high: float) -> tuple[_Image, Tensor]:
    """An image cut into slices, hardest first, and what the threat makes of it where it does least."""
    threat = family.threat
    assert isinstance(threat, Threat)
    assert family.residual is not None
    single = image.to("cpu", torch.float32)
    try:
        itself = threat.apply(single[None], min(max(threat.identity, low), high))[0]
        slices = threat.slices(single, low, high, family.residual * (1 - 1e-12))  # what rounding adds stays below
    except UserError as error:
        raise UserError(f"image {index}: {error}") from None
    if len(slices) >= MOST_REFERENCES:
        raise UserError(f"image {index}: residual={family.residual:g} takes {len(slices)} slices; give a larger one")
    # Far from the image first, where a slice is likeliest to fail.
    distances = (slices.references - itself).flatten(1).norm(dim=1)
    return _Image(slices, distances.argsort(descending=True, stable=True).tolist()), itself


def _advance(one: _Image, procedure: Procedure, outcomes: Mapping[str, Outcome]) -> None:
    """Decide slices in their order, as far as their votes are in."""
    if 0 not in one.tallies:
        return
    prediction = one.tallies[0].prediction
    if prediction == ABSTAIN:
        one.ended = True
    while not one.ended and one.passed + 1 in one.tallies:
        tally = _for_class(one.tallies.pop(one.passed + 1), prediction, one.tallies[0].clean)
        bound = procedure.lower_bound(tally)
        if one.least is None or bound < one.least[0]:
            one.least = bound, tally
        if any(outcome.certifies(bound) for outcome in outcomes.values()):
            one.passed += 1
            one.ended = one.passed == len(one.order)
        else:
            one.ended = True
        one.votes += tally.n0 + tally.n


def _for_class(tally: Tally, prediction: int, clean: int) -> Tally:
    """A slice's votes for the class of its image, with the bound that they give in the end.

    An earlier look may have been one at another class.
    """
    tally.index, _ = image_of(tally.index)
    tally.at_reference, tally.selection[prediction] = False, 1
    tally.p_seen, tally.seen, tally.clean = 0.0, (0, 0), clean
    return tally


def _of_slices(one: _Image, index: int, outcomes: Mapping[str, Outcome]) -> Verdict:
    """What is known of an image that has ended."""
    itself = one.tallies[0]
    bound, tally = one.least if one.least is not None else (0.0, itself)
    failed = one.order[one.passed] if one.passed < len(one.order) else None
    tried = one.passed + (failed is not None and one.least is not None)
    slicing = Slicing(
        slices=len(one.slices),
        tried=tried,
        votes=itself.n0 + itself.n + one.votes,
        residual=float(one.slices.residual.max()),
        failed=None if failed is None else (float(one.slices.edges[failed]), float(one.slices.edges[failed + 1])),
    )
    certified = {method: bool(outcome.certifies(bound)) for method, outcome in outcomes.items()}
    if failed is not None:
        assert not any(certified.values())
    return Verdict(tally, itself.prediction, bound, certified, slicing)


@dataclass(frozen=True)
class Certificate:
    """What is proved about one image.

    Attributes:
        prediction: the selected class, also when nothing is certified; ABSTAIN (-1) when no draw voted.
        p_lower: lower confidence bound of the selected class's probability under the smoothing law.
        certified: ``p_lower > h_min``: the smoothed classifier keeps ``prediction`` on the whole region. It
            does not know the label.
        samples_used: votes drawn for this image, n0 + n.
        h_min: required probability of the region (1.0: nothing can be certified).
        method: the bound that gave ``h_min``.
        failure_probability: of a false certificate: alpha (0 if every shift was visited), plus that of a bound that
            was itself estimated.
        n0, n, count: selection draws, counting draws (or visited shifts), and how many of these voted for
            ``prediction``.
        abstained: draws that voted for no class: exact ties and non-finite logits.
        near_ties: draws decided by less than rounding could change.
        p_upper: upper confidence bound of every other class's probability; None unless asked for.
        coin: the image's uniform draw in (0, 1] behind a randomised ``p_lower``; None unless asked for.
        residual: how far the transformation is from resolvable, for a run with ``approximate=True`` whose
            transformation failed its check (nothing is certified then); None otherwise.
        slicing: under a threat that warps, how the image was cut into slices; the votes are then those of the slice
            that has shown least, and ``samples_used`` counts them all. None otherwise.
    """

    prediction: int
    p_lower: float
    certified: bool
    samples_used: int
    h_min: float
    method: str
    failure_probability: float
    n0: int
    n: int
    count: int
    abstained: int
    near_ties: int
    p_upper: float | None = None
    residual: float | None = None
    coin: float | None = None
    slicing: Slicing | None = None


# Settings that were chosen for one call are chosen again for one that draws so many times more.
_LONGER = 4

#: An image, or a batch.
Image = Tensor | NDArray[Any]


def class_of(votes: NDArray[np.int64], alpha: float) -> int:
    """PREDICT (Cohen et al. 2019): the class that the smoothed classifier predicts, or ABSTAIN (-1).

    Except with probability at most ``alpha`` over the draws a class that is returned is the right one, by a two-sided
    binomial test of the two leaders: what :meth:`glsmooth.SmoothedClassifier.predict` returns.

    Args:
        votes: (classes,) votes for each class.
    """
    from scipy.stats import binomtest  # late, as all of scipy.stats: it takes half a second

    second, first = sorted(votes.tolist())[-2:]
    if first == 0 or binomtest(first, first + second, 0.5).pvalue > alpha:
        return ABSTAIN
    return int(votes.argmax())


class SmoothedClassifier:
    """h(x) = argmax_c P_{α~P}[ f(φ(x, α)) = c ] for a base classifier f.

    Images come as numpy arrays or as tensors on any device, of any floating dtype; they are transformed in float32 and
    handed to the network in the network's dtype (see :class:`glsmooth.voting.classifier.BaseClassifier`), so networks
    in float16, bfloat16 and float64 need nothing else.

    Args:
        model: base classifier, (N, C, H, W) images in [0, 1] -> logits (N, num_classes). Normalisation, resizing and
            whatever else it needs belong inside it: transformations act on the images that are given. Each call puts
            it in evaluation mode and gives every submodule its own mode back.
        family: transformation and smoothing laws. On a torus (``image_size`` given) images must have that
            size.
        num_classes: number of classes, at least 2.
        batch_size, compile, channels_last, threads: see :class:`glsmooth.voting.speed.Speed`. What is "auto" is chosen
            by measuring, at the first call, and kept (attribute ``speed``); batches that do not fit into memory are
            then halved.
        precision, device: see :class:`glsmooth.voting.classifier.BaseClassifier`.
        stochastic: accept a network that is random in evaluation mode (and draws its randomness independently for
            every image). Predictions and certificates are then about the classifier smoothed over that, too.
    """

    def __init__(
        self,
        model: nn.Module,
        family: SmoothedFamily,
        num_classes: int,
        *,
        batch_size: int | Auto = AUTO,
        device: torch.device | str | None = None,
        precision: str = "32-true",
        compile: bool | Auto = AUTO,
        channels_last: bool | Auto = AUTO,
        threads: int | Auto = AUTO,
        stochastic: bool = False,
    ) -> None:
        self.family = family
        self.num_classes = num_classes
        #: How votes are taken; what is AUTO is chosen at the first call.
        self.speed = Speed(batch_size, channels_last=channels_last, compile=compile, threads=threads)
        #: The same as it was asked for.
        self.asked, self._chosen_for = self.speed, 0.0
        self.classifier = BaseClassifier(model, num_classes, device=device, precision=precision, stochastic=stochastic)

    def predict(self, x: Image, n: int = 1000, alpha: float = 1e-3, seed: int = 0, index: int = 0) -> int:
        """The smoothed classifier's class at ``x``, an array or tensor (C, H, W), or ABSTAIN (-1).

        Except with probability at most ``alpha`` over the ``n`` draws, the returned class is the one that the
        smoothed classifier predicts (Cohen et al. 2019, PREDICT): a two-sided binomial test of the two
        leaders.
        """
        x = as_image(x, "x")
        # The selection draws are all that is needed; the one counting draw is not used.
        (tally,) = self._engine(FixedSample(n0=n, n=1, alpha=alpha), seed, [x]).run([(index, x)])
        return class_of(tally.selection, alpha)

    def certify(
        self,
        x: Image,
        region: Region,
        n0: int = 200,
        n: int = 1000,
        alpha: float = 1e-3,
        seed: int = 0,
        method: str = "neyman_pearson",
        sequential: bool = False,
        index: int = 0,
        runner_up: bool = False,
        exhaustive: bool = False,
        approximate: bool = False,
        randomised: bool = False,
    ) -> Certificate:
        """Certify one image over a region of transformation parameters.

        Except with probability at most ``alpha`` over the draws (plus that of a bound estimated from samples;
        see ``failure_probability``), ``certified`` implies, in exact arithmetic: the smoothed classifier
        predicts ``prediction`` on φ(x, β) for every β in ``region``.

        Args:
            x: image (C, H, W) with values in [0, 1], a numpy array or a tensor of floats.
            region: Box, Ball or Points of parameters; those left out stay at the identity.
            n0: draws that select the class.
            n: fresh draws that count it.
            alpha: failure probability, in (0, 1).
            seed: of the draws. With ``index`` it fixes every draw, on any batch size.
            method: bound that gives h_min, a name in ``glsmooth.bounds.METHODS``.
            sequential: stop as soon as the image is decided, by an anytime-valid test at the same ``alpha``;
                ``n0`` and ``n`` are then the most that may be drawn. Under a threat that warps always so, with ``n0``
                and ``n`` at each of the references.
            index: the image's number: images with different numbers get independent draws.
            runner_up: compare with the other classes' own upper bounds instead of with all the rest together
                (:func:`glsmooth.bounds.certifies_runner_up`). Half of ``alpha`` pays for ``p_lower``, half for
                the upper bounds, all valid at once. It helps where votes spread over many classes.
            exhaustive: for translations alone, on the torus and without pixel noise: let every shift vote at most
                once, the most probable first, until the image is decided. Nothing is drawn, so ``n0``, ``n``,
                ``alpha``, ``seed`` and ``index`` mean nothing and the votes have no probability of error.
            randomised: let ``p_lower`` be the exact randomised bound, by a coin of the image's own that follows from
                ``seed`` and ``index`` (:func:`glsmooth.bounds.confidence.randomised_lower`). It uses all of ``alpha``.
            approximate: take votes although the transformation fails its check; nothing is certified then, and
                ``residual`` says by how much it fails.

        Raises:
            ValueError: an impossible argument, named with its fix; a network that no votes can be taken of
                (:meth:`glsmooth.voting.classifier.BaseClassifier.ready`); a transformation of the caller's own that
                is not resolvable as it says (:func:`glsmooth.check_transform`; tried at the first use of a family
                with a region).
            NotApplicable: ``method`` says nothing about this family.
        """
        (result,) = self.certify_many(
            [as_image(x, "x")],
            region,
            n0,
            n,
            alpha,
            seed,
            method,
            sequential,
            [index],
            runner_up,
            exhaustive,
            approximate,
            randomised,
        )
        return result

    def certify_many(
        self,
        images: Image | Iterable[Any],
        region: Region,
        n0: int = 200,
        n: int = 1000,
        alpha: float = 1e-3,
        seed: int = 0,
        method: str = "neyman_pearson",
        sequential: bool = False,
        indices: Sequence[int] | None = None,
        runner_up: bool = False,
        exhaustive: bool = False,
        approximate: bool = False,
        randomised: bool = False,
    ) -> list[Certificate]:
        """:meth:`certify` for each of ``images``, sharing full batches.

        The guarantee is for each image separately.

        Args:
            images: an array or tensor (B, C, H, W), or a data set, a DataLoader or any iterable of images (C, H, W),
                of batches of them, or of tuples (images, labels). Labels are ignored: a certificate does not know
                them. All images are held in memory; :func:`glsmooth.certify_dataset` reads them as it goes.
            indices: the images' numbers, by default 0, 1, …
        """
        images = gather(images)
        indices = range(len(images)) if indices is None else [int(i) for i in indices]
        if len(indices) != len(images) or len(set(indices)) != len(images):
            raise UserError(f"indices={list(indices)}: give each of the {len(images)} images its own index")
        if exhaustive and (sequential or runner_up):
            raise UserError(
                f"exhaustive=True goes with sequential=False and runner_up=False, not with sequential={sequential} "
                f"and runner_up={runner_up}"
            )
        if runner_up and (sequential or method != "neyman_pearson"):
            raise UserError(
                f"runner_up=True goes with sequential=False and method='neyman_pearson', not with "
                f"sequential={sequential} and method={method!r}"
            )
        if randomised and (sequential or exhaustive or runner_up):
            raise UserError(
                f"randomised=True is a bound for a fixed number of draws; not with sequential={sequential}, "
                f"exhaustive={exhaustive}, runner_up={runner_up}"
            )
        warps = self.family.warps
        if warps and (exhaustive or runner_up or randomised):
            raise UserError(
                f"{self.family.name} is certified at many references, by votes that stop when each is decided; not "
                f"with exhaustive={exhaustive}, runner_up={runner_up}, randomised={randomised}"
            )
        # These check their arguments before the bound takes time.
        procedure: Procedure = FixedSample(n0, n, alpha, randomised=randomised)
        law = FiniteLaw.of(self.family) if exhaustive else None
        self.family.check_region(region)
        check = check_family(self.family, self.family.rest(region), images) if images else None
        if check is not None:
            check.require(approximate)
        outcome = certify_region(self.family, region, method)
        if check is not None and not check.passed:
            outcome = outcome.approximate(check.residual, why_approximate(check.found))
        targets = {method: outcome.h_min} if outcome.h_min is not None and outcome.h_min < 1 else {}
        if law is not None:
            procedure, alpha = Exhaustive(law, targets), 0.0
        elif sequential or warps:
            procedure = Sequential(targets, n0, n, alpha, at_references=warps)
        if not images:
            return []
        engine = self._engine(procedure, seed, images)
        pairs = zip(indices, images, strict=True)
        verdicts = {v.tally.index: v for v in certify(engine, pairs, {method: outcome}, region)}
        certificates = []
        for verdict in (verdicts[index] for index in indices):
            certificate = _certificate(verdict, outcome, alpha, coin=verdict.tally.coin if randomised else None)
            if runner_up:
                certificate = self._against_runner_up(certificate, verdict.tally, outcome, region, alpha)
            certificates.append(certificate)
        return certificates

    def _against_runner_up(
        self, certificate: Certificate, tally: Tally, outcome: Outcome, region: Region, alpha: float
    ) -> Certificate:
        """The selected class compared with the strongest of the others, instead of with all the rest together."""
        if tally.prediction == ABSTAIN:
            return certificate
        p_lower, p_upper = leader_bounds(tally.counting, tally.n, tally.prediction, alpha)
        certified = outcome.sound and certifies_runner_up(self.family, region, p_lower, p_upper)
        return replace(certificate, p_lower=p_lower, p_upper=p_upper, certified=certified)

    def _engine(self, procedure: Procedure, seed: int, images: Sequence[Tensor]) -> VoteEngine:
        check_random(procedure, self.classifier.stochastic)
        draws = len(images) * procedure.draws_range()[1]
        # What was chosen for a short call, maybe in haste, is not for a long one.
        if draws > self._chosen_for:
            chosen = choose_speed(self.asked, self.classifier, self.family, procedure, images[0], len(images))
            self.speed = self.asked.filled(chosen.speed)
            self._chosen_for = math.inf if chosen.complete else _LONGER * draws
        return VoteEngine(
            self.classifier,
            self.family,
            procedure,
            seed=seed,
            batch_size=int(self.speed.batch_size),
            images=len(images),
            on_smaller=self._smaller if self.asked.batch_size == AUTO else None,
        )

    def _smaller(self, batch_size: int) -> None:
        self.speed = replace(self.speed, batch_size=batch_size)


def _certificate(verdict: Verdict, outcome: Outcome, alpha: float, coin: float | None) -> Certificate:
    tally = verdict.tally
    assert outcome.h_min is not None
    return Certificate(
        prediction=verdict.prediction,
        p_lower=verdict.p_lower,
        certified=verdict.certified[outcome.method],
        samples_used=tally.n0 + tally.n if verdict.slicing is None else verdict.slicing.votes,
        h_min=outcome.h_min,
        method=outcome.method,
        failure_probability=alpha + outcome.failure_probability,
        n0=tally.n0,
        n=tally.n,
        count=tally.count,
        abstained=tally.abstained,
        near_ties=tally.near_ties,
        residual=outcome.residual,
        coin=coin,
        slicing=verdict.slicing,
    )
