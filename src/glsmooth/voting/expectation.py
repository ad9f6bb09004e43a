"""What a few votes on a few images say of the votes that many images will get: the expected CRA.

An image whose class has the probability p under the smoothing law comes out certified in that class with a probability
g(p) that the binomial law gives. The expected CRA is the mean of g(p) over images like those at hand, of which each has
shown K of ``votes`` votes for its class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincc, betaln

from glsmooth.bounds import exceeds
from glsmooth.bounds.confidence import clopper_pearson_lower, clopper_pearson_upper
from glsmooth.voting.procedures import FixedSample

__all__ = ["Expectation", "fewest_counts"]

# What the two ends of an interval may give away, as a share of all images, for what few votes do not tell of one image:
# less, and more images lie between the thresholds.
_SLACK = 0.02
# Nodes of p over [0, 1], evenly spaced in arcsin √p, for each √n: between two nodes tails move by less than 0.004.
_NODES = 400
# For the estimate: the numbers of a beta law, the smallest weight of a pair of them that matters, and parts of (0, 1).
_SHAPES, _NEGLIGIBLE, _LEVELS = np.logspace(-2.5, 2.5, 21), 1e-3, 64


def fewest_counts(procedure: FixedSample, h_min: float) -> int | None:
    """The least count of ``procedure.n`` votes whose p_A is above ``h_min``; None where all of them are not enough."""
    low, high = -1, procedure.n + 1  # p_A rises with the count
    while high - low > 1:
        middle = (low + high) // 2
        if exceeds(procedure.bound_range(middle, procedure.n)[0], h_min):
            high = middle
        else:
            low = middle
    return None if high > procedure.n else high


def _tail(count: int, n: int, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(at least ``count`` of ``n`` draws of probability p)."""
    if count <= 0:
        return np.ones_like(p)
    return np.zeros_like(p) if count > n else np.asarray(betainc(count, n - count + 1, p))


@dataclass(frozen=True)
class Expectation:
    """From votes for the true class to the expected CRA.

    Attributes:
        needed: fewest of ``n`` counting votes that certify (:func:`fewest_counts`).
        n0, n: votes of an image in the run that is planned.
        votes: votes that each of the images at hand got.
    """

    needed: int
    n0: int
    n: int
    votes: int

    def least(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """A lower bound of g(p): the class is selected where it has more than half of the n0 votes, and before."""
        return self.most(p) * _tail(self.n0 // 2 + 1, self.n0, p)

    def most(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """An upper bound of g(p): the class is always selected. Both rise with p."""
        return _tail(self.needed, self.n, p)

    def estimate(self, counts: NDArray[np.int64]) -> float:
        """The mean over the images of what g is expected to be, given all their votes.

        The class probabilities are taken to be drawn from a beta law, with a flat prior of the logarithms of its two
        numbers: how far above 0.99 those images are of which all votes agree, the other images tell. The interval does
        not rest on this.

        Args:
            counts: votes for the true class, (images,).
        """
        found, repeats = np.unique(counts, return_counts=True)
        a, b = (numbers.reshape(-1, 1) for numbers in np.meshgrid(_SHAPES, _SHAPES))
        likelihood = (betaln(found + a, self.votes - found + b) - betaln(a, b)) @ repeats
        weight = np.exp(likelihood - likelihood.max())
        matters = weight > _NEGLIGIBLE
        a, b, weight = a[matters], b[matters], weight[matters] / weight[matters].sum()
        # g is the share of levels u in (0, 1) that it exceeds, so its mean is that of P(p > the p with g(p) = u).
        above = betaincc((found + a)[..., None], (self.votes - found + b)[..., None], self._levels)
        return float(weight @ above.mean(axis=2) @ repeats) / len(counts)

    def interval(self, counts: NDArray[np.int64], failure: float) -> tuple[float, float]:
        """A confidence interval of the expected CRA: each end fails with probability ``failure`` / 2 at most.

        No shape of the distribution of p over images is assumed. For a threshold c of the votes that is fixed before
        they are seen, with s = max over p of P(Binomial(votes, p) >= c) - g(p), the mean of g is at least
        P(K >= c) - s, and P(K >= c) is the probability of an event that each image shows or not: Clopper and Pearson's
        bound holds for any number of images that are drawn independently of each other. The upper end is found
        likewise, with another threshold. Votes that are too few for the run that is planned leave s large.

        Args:
            counts: votes for the true class, (images,).
            failure: probability that the interval does not cover.
        """
        images = len(counts)
        low_at, low_slack = self._thresholds[0]
        high_at, high_slack = self._thresholds[1]
        low = clopper_pearson_lower(int((counts >= low_at).sum()), images, failure / 2) - low_slack
        high = clopper_pearson_upper(int((counts >= high_at).sum()), images, failure / 2) + high_slack
        return max(0.0, low), min(1.0, high)

    def gain(self, other: Expectation, counts: NDArray[np.int64], others: NDArray[np.int64], failure: float) -> float:
        """A lower confidence bound of the expected CRA less that of ``other``, from votes on the same images.

        As in :meth:`interval`, and images that pass both thresholds or neither do not count: with the lower threshold
        here and the upper one there, the difference is at least P(only here) - P(only there) less both s. It fails with
        probability ``failure`` at most.

        Args:
            counts, others: votes for the true class here and there, (images,) each, in one order.
        """
        (here, slack), (there, their_slack) = self._thresholds[0], other._thresholds[1]
        passed, passed_there = counts >= here, others >= there
        images = len(counts)
        more = clopper_pearson_lower(int((passed & ~passed_there).sum()), images, failure / 2)
        less = clopper_pearson_upper(int((~passed & passed_there).sum()), images, failure / 2)
        return more - less - slack - their_slack

    @cached_property
    def _levels(self) -> NDArray[np.float64]:
        """Where g passes the middles of equal parts of (0, 1)."""
        p = self._nodes
        return np.interp((np.arange(_LEVELS) + 0.5) / _LEVELS, self.least(p), p)

    @cached_property
    def _nodes(self) -> NDArray[np.float64]:
        nodes = _NODES * math.isqrt(max(self.n, self.votes)) + 1
        p = np.sin(np.linspace(0.0, math.pi / 2, nodes)) ** 2
        p[-1] = 1.0
        return p

    @cached_property
    def _thresholds(self) -> tuple[tuple[int, float], tuple[int, float]]:
        """(c, s) of the lower and of the upper end: those nearest to each other with s at most ``_SLACK``, if any."""
        p = self._nodes
        least, most = self.least(p), self.most(p)

        # Between two nodes both curves rise: one is below its right value, the other above its left one.
        def too_many(c: int) -> float:
            return float((_tail(c, self.votes, p)[1:] - least[:-1]).max())

        def too_few(c: int) -> float:
            return float((most[1:] - _tail(c, self.votes, p)[:-1]).max())

        low, high = -1, self.votes  # too_many falls with c
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if too_many(middle) <= _SLACK else (middle, high)
        lower = (high, max(0.0, too_many(high)))
        low, high = 0, self.votes + 1  # too_few rises with c, and every image counts at 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if too_few(middle) <= _SLACK else (low, middle)
        return lower, (low, max(0.0, too_few(low)))
