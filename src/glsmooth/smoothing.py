"""The smoothed classifier: predict and certify (Cohen et al. 2019; General Lipschitz, Figure 1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from glsmooth.bounds import RegionBound, certifies_runner_up, certify_region
from glsmooth.bounds.confidence import clopper_pearson_lower, clopper_pearson_upper
from glsmooth.family.regions import Region
from glsmooth.family.resolvability import check_family
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.voting.engine import BaseClassifier, VoteEngine
from glsmooth.voting.finite import FiniteLaw
from glsmooth.voting.procedures import ABSTAIN, Exhaustive, FixedSample, Procedure, Sequential, Tally

__all__ = ["ABSTAIN", "Certificate", "SmoothedClassifier", "check_image"]


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


def check_image(image: Tensor, name: str) -> None:
    """Raise a ValueError unless ``image`` is a finite floating (C, H, W) tensor with values in [0, 1]."""
    if not isinstance(image, Tensor):
        raise ValueError(f"{name} is a {type(image).__name__}; give a torch.Tensor of shape (C, H, W)")
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(
            f"{name} has shape {tuple(image.shape)}; give one image of shape (C, H, W), or use certify_many for a batch"
        )
    if not image.is_floating_point():
        raise ValueError(f"{name} has dtype {image.dtype}; convert it to floats in [0, 1] (image.float() / 255)")
    if not bool(torch.isfinite(image).all()):
        raise ValueError(f"{name} has non-finite pixels; replace NaN and infinity before certifying")
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"{name} has values in [{low:g}, {high:g}]; give pixels in [0, 1] and keep normalisation inside the model"
        )


class SmoothedClassifier:
    """h(x) = argmax_c P_{α~P}[ f(φ(x, α)) = c ] for a base classifier f.

    Args:
        model: base classifier, (N, C, H, W) images in [0, 1] -> logits (N, num_classes); normalisation
            belongs inside it. Each call puts it in evaluation mode and gives every submodule its own mode back.
        family: transformation and smoothing laws. On a torus (``image_size`` given) images must have that
            size.
        num_classes: number of classes, at least 2.
        batch_size: evaluations a batch; it changes speed and memory, not the votes.
        precision, compile, channels_last, device: see :class:`glsmooth.voting.classifier.BaseClassifier`.
        stochastic: accept a network that is random in evaluation mode (and draws its randomness independently for
            every image). Predictions and certificates are then about the classifier smoothed over that, too.
    """

    def __init__(
        self,
        model: nn.Module,
        family: SmoothedFamily,
        num_classes: int,
        *,
        batch_size: int = 256,
        device: torch.device | str | None = None,
        precision: str = "32-true",
        compile: bool = False,
        channels_last: bool = False,
        stochastic: bool = False,
    ) -> None:
        self.family = family
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.classifier = BaseClassifier(
            model,
            num_classes,
            device=device,
            precision=precision,
            compile=compile,
            channels_last=channels_last,
            stochastic=stochastic,
        )

    def predict(self, x: Tensor, n: int = 1000, alpha: float = 1e-3, seed: int = 0, index: int = 0) -> int:
        """The smoothed classifier's class at ``x`` (C, H, W), or ABSTAIN (-1).

        Except with probability at most ``alpha`` over the ``n`` draws, the returned class is the one that the
        smoothed classifier predicts (Cohen et al. 2019, PREDICT): a two-sided binomial test of the two
        leaders.
        """
        check_image(x, "x")
        # The selection draws are all that is needed; the one counting draw is not used.
        (tally,) = self._engine(FixedSample(n0=n, n=1, alpha=alpha), seed).run([(index, x)])
        second, first = sorted(tally.selection.tolist())[-2:]
        if first == 0 or binomtest(first, first + second, 0.5).pvalue > alpha:
            return ABSTAIN
        return tally.prediction

    def certify(
        self,
        x: Tensor,
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
            x: image (C, H, W) with values in [0, 1].
            region: Box, Ball or Points of parameters; those left out stay at the identity.
            n0: draws that select the class.
            n: fresh draws that count it.
            alpha: failure probability, in (0, 1).
            seed: of the draws. With ``index`` it fixes every draw, on any batch size.
            method: bound that gives h_min, a name in ``glsmooth.bounds.METHODS``.
            sequential: stop as soon as the image is decided, by an anytime-valid test at the same ``alpha``;
                ``n0`` and ``n`` are then the most that may be drawn.
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
            [x], region, n0, n, alpha, seed, method, sequential, [index], runner_up, exhaustive, approximate, randomised
        )
        return result

    def certify_many(
        self,
        images: Tensor | Iterable[Tensor],
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
        """:meth:`certify` for each of ``images`` (B, C, H, W), or an iterable of (C, H, W), sharing full
        batches.

        The guarantee is for each image separately. ``indices`` defaults to 0, 1, …
        """
        images = list(images)
        indices = range(len(images)) if indices is None else [int(i) for i in indices]
        if len(indices) != len(images) or len(set(indices)) != len(images):
            raise ValueError(f"indices={list(indices)}: give each of the {len(images)} images its own index")
        for i, image in enumerate(images):
            check_image(image, "x" if len(images) == 1 else f"images[{i}]")
        if exhaustive and (sequential or runner_up):
            raise ValueError(
                f"exhaustive=True goes with sequential=False and runner_up=False, not with sequential={sequential} "
                f"and runner_up={runner_up}"
            )
        if runner_up and (sequential or method != "neyman_pearson"):
            raise ValueError(
                f"runner_up=True goes with sequential=False and method='neyman_pearson', not with "
                f"sequential={sequential} and method={method!r}"
            )
        if randomised and (sequential or exhaustive or runner_up):
            raise ValueError(
                f"randomised=True is a bound for a fixed number of draws; not with sequential={sequential}, "
                f"exhaustive={exhaustive}, runner_up={runner_up}"
            )
        # These check their arguments before the bound takes time.
        procedure: Procedure = FixedSample(n0, n, alpha, randomised=randomised)
        law = FiniteLaw.of(self.family) if exhaustive else None
        self.family.check_region(region)
        check = check_family(self.family, region, images) if images else None
        if check is not None:
            check.require(approximate)
        bound = certify_region(self.family, region, method)
        residual = None
        if check is not None and not check.passed:
            residual = check.residual
            bound = replace(bound, sound=False, argument=f"approximate: the residual is {residual:.2g}")
        targets = {method: bound.h_min} if bound.h_min < 1 else {}
        if law is not None:
            procedure, alpha = Exhaustive(law, targets), 0.0
        elif sequential:
            procedure = Sequential(targets, n0, n, alpha)
        tallies = {t.index: t for t in self._engine(procedure, seed).run(zip(indices, images, strict=True))}
        return [
            replace(
                self._certificate(tallies[index], bound, region, alpha, runner_up),
                residual=residual,
                coin=tallies[index].coin if randomised else None,
            )
            for index in indices
        ]

    def _certificate(
        self, tally: Tally, bound: RegionBound, region: Region, alpha: float, runner_up: bool
    ) -> Certificate:
        p_lower, p_upper = tally.p_lower, None
        certified = p_lower > bound.h_min
        if runner_up and tally.prediction != ABSTAIN:
            # Bonferroni over the selected class and the others: all bounds hold at once.
            p_lower = clopper_pearson_lower(tally.count, tally.n, alpha / 2)
            others = np.delete(tally.counting, tally.prediction)
            p_upper = clopper_pearson_upper(int(others.max()), tally.n, alpha / 2 / len(others))
            certified = certifies_runner_up(self.family, region, p_lower, p_upper)
        return Certificate(
            prediction=tally.prediction,
            p_lower=p_lower,
            certified=bound.sound and certified,
            samples_used=tally.n0 + tally.n,
            h_min=bound.h_min,
            method=bound.method,
            failure_probability=alpha + bound.failure_probability,
            n0=tally.n0,
            n=tally.n,
            count=tally.count,
            abstained=tally.abstained,
            near_ties=tally.near_ties,
            p_upper=p_upper,
        )

    def _engine(self, procedure: Procedure, seed: int) -> VoteEngine:
        return VoteEngine(self.classifier, self.family, procedure, seed=seed, batch_size=self.batch_size)
