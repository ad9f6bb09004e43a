"""Confidence bounds for the probability of a vote.

*Clopper–Pearson* (1934) for a number of draws that is fixed in advance; an *anytime-valid test* (a mixture
supermartingale: Ville 1939; Robbins 1970) for a number that depends on the votes. Every value is rounded in the safe
direction: lower bounds down, upper bounds up, evidence down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainc, betaincc, betaincinv, betaln

from glsmooth.errors import UserError

__all__ = [
    "MIXTURE",
    "MIXTURES",
    "Mixture",
    "anytime_lower",
    "anytime_samples_needed",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "fewest_successes",
    "leader_bounds",
    "log_evidence",
    "mean_upper",
    "randomised_lower",
    "samples_needed",
]

# scipy's incomplete beta functions and their inverses are good to about 1e-13 relative; this is wider.
_ROUNDING = 1e-11
_SMALLEST = 1e-9  # lower bounds below it are 0
_UNDERFLOW = 1e-290  # tails below it are not as good


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise UserError(f"alpha={alpha} is not a failure probability; give a number between 0 and 1 (0.001, say)")


def _check_counts(count: int, n: int) -> None:
    if n < 1 or not 0 <= count <= n:
        raise ValueError(f"count={count} of n={n} is not a number of successes; 0 <= count <= n and n >= 1")


def clopper_pearson_lower(count: int, n: int, alpha: float) -> float:
    """One-sided lower confidence bound of p after ``count`` successes in ``n`` draws, n fixed in advance.

    P(bound > p) <= alpha for every p. The lower end of the two-sided interval is this at ``alpha / 2``.
    """
    _check_counts(count, n)
    _check_alpha(alpha)
    if count == 0:
        return 0.0
    return float(betaincinv(count, n - count + 1, alpha)) * (1 - _ROUNDING)


def clopper_pearson_upper(count: int, n: int, alpha: float) -> float:
    """One-sided upper confidence bound of p: P(bound < p) <= alpha for every p."""
    # Near 1 the spacing of floats, not the inverse function, is what rounds.
    return min(1.0, math.nextafter(1.0 - clopper_pearson_lower(n - count, n, alpha), 2.0))


def leader_bounds(votes: NDArray[np.int64], n: int, label: int, alpha: float) -> tuple[float, float]:
    """(p_A, p_B): of a class from below, of every other one from above, by ``votes`` (classes,) among ``n`` draws.

    Both hold at once except with probability at most ``alpha``: Bonferroni over the class and the others.
    """
    others = np.delete(votes, label)
    p_upper = clopper_pearson_upper(int(others.max()), n, alpha / 2 / len(others))
    return clopper_pearson_lower(int(votes[label]), n, alpha / 2), p_upper


def mean_upper(mean: float, n: int, alpha: float) -> float:
    """One-sided upper confidence bound of an expectation, from the mean of ``n`` independent draws in [0, 1].

    The largest q with n·kl(mean, q) <= log(1/alpha) (Hoeffding 1963, Theorem 1: P(mean <= x) <= exp(-n kl(x, q)) for
    an expectation q > x), kl the relative entropy of two coins.
    """
    _check_alpha(alpha)
    if n < 1 or not 0 <= mean <= 1:
        raise ValueError(f"mean={mean} of n={n} is not that of draws in [0, 1]")
    most = math.log(1 / alpha) / n
    low, high = mean, 1.0
    for _ in range(60):
        q = (low + high) / 2
        entropy = (mean * math.log(mean / q) if mean else 0.0) + (
            (1 - mean) * math.log((1 - mean) / (1 - q)) if q < 1 else math.inf
        )
        low, high = (q, high) if entropy <= most else (low, q)
    return min(1.0, high + _ROUNDING)


def randomised_lower(count: int, n: int, alpha: float, u: float) -> float:
    """Randomised Clopper–Pearson lower bound: the p with P_p(X > count) + u P_p(X = count) = alpha.

    With u uniform on (0, 1] and independent of the votes, P(bound > p) = alpha exactly for every p in (0, 1)
    (Stevens 1950), where the plain bound (u = 1) wastes what the steps of the binomial law leave over. It is
    never below the plain bound. It is 1 for n successes and u <= alpha: there the error probability is spent.

    Args:
        u: in (0, 1], drawn once before the votes are seen and kept: a second draw breaks the level.
    """
    _check_counts(count, n)
    _check_alpha(alpha)
    if not 0 < u <= 1:
        raise ValueError(f"u={u} is not a draw from (0, 1]; give the image's coin")
    plain = clopper_pearson_lower(count, n, alpha)
    if count == 0:
        # 1 - (1 - u) (1 - p)^n = alpha, where u < alpha.
        root = -math.expm1((math.log1p(-alpha) - math.log1p(-u)) / n) if u < alpha else 0.0
        return root * (1 - _ROUNDING) if root > _SMALLEST else 0.0

    def excess(p: float) -> float:
        # P(X > x) + u P(X = x) as a mean of two tails: nothing cancels.
        more = float(betainc(count + 1, n - count, p)) if count < n else 0.0
        return (1 - u) * more + u * float(betainc(count, n - count + 1, p)) - alpha

    if count == n and u <= alpha:
        root = 1.0
    else:
        # At `plain` both tails are at most alpha; at `high` both are at least alpha.
        high = float(betaincinv(count + 1, n - count, alpha)) if count < n else (alpha / u) ** (1 / n)
        high = min(1.0, high * (1 + _ROUNDING))
        root = float(brentq(excess, plain, high, xtol=1e-15, rtol=1e-14)) if plain < high else plain
    return max(plain, root * (1 - _ROUNDING))


def samples_needed(h_min: float, alpha: float) -> int | None:
    """Fewest draws whose Clopper–Pearson bound can exceed ``h_min`` at all: ⌊ln α / ln h_min⌋ + 1, all
    successes.

    None when ``h_min`` is 1: no number of draws is enough. No other test can use fewer.
    """
    _check_alpha(alpha)
    if not 0 < h_min <= 1:
        raise ValueError(f"h_min={h_min} is not a probability; give a number in (0, 1]")
    return None if h_min == 1 else math.floor(math.log(alpha) / math.log(h_min)) + 1


@dataclass(frozen=True)
class Mixture:
    """How an anytime-valid test of ``p <= h`` weighs the alternatives q = h + (1 - h) u, u in (0, 1].

    The weights add up to 1 for every h, and are the same in u for every h.

    Attributes:
        sure: weight of u = 1, where each vote is a success, in [0, 1).
        decline: the rest has density b (1 - u)^(b - 1), b = ``decline`` >= 1: more of them near h the larger it is.
    """

    sure: float
    decline: int


#: Tests by name: a run's description has the name, so that its numbers can be computed again. None may ever change.
#: ``uniform`` is the test of the runs that name none; ``sure`` was chosen by ``benchmarks/search.py``.
MIXTURES = {"uniform": Mixture(0.0, 1), "sure": Mixture(0.55, 2)}
#: The test of new runs.
MIXTURE = "sure"


def log_evidence(count: int, n: int, h: float, mixture: str = MIXTURE) -> float:
    """log M_n(h), the evidence against ``p <= h`` after ``count`` successes in ``n`` draws; 0 < h < 1.

    M_n(h) = ∫ q^S (1-q)^F dν(u) / [h^S (1-h)^F] = ∫ (1 + u (1-h)/h)^S (1-u)^F dν(u), with S successes and F failures,
    q = h + (1-h) u and ν the weights of the :class:`Mixture`. For each u the product gains a factor of mean at most 1 a
    draw where p <= h. So it is a supermartingale in n for every p <= h, and P(sup_n M_n(h) >= 1/α) <= α: looking after
    every draw and stopping at will cost nothing. It decreases in h, grows with S and falls with F, as each factor does.
    The value is rounded down.

    Args:
        mixture: a name of ``MIXTURES``.
    """
    if n == 0:
        return 0.0
    weights = MIXTURES[mixture]
    failures = n - count
    # ∫_h^1 q^S (1-q)^(F + b - 1) dq by the incomplete beta function.
    b = weights.decline
    tail = float(betaincc(count + 1, failures + b, h))
    log_m = -math.inf
    if tail > _UNDERFLOW:  # below, h is far above count / n: no evidence
        log_m = (
            float(betaln(count + 1, failures + b))
            + math.log(tail)
            - count * math.log(h)
            - (failures + b) * math.log1p(-h)
            + math.log(b)
            + math.log1p(-weights.sure)
        )
    if weights.sure > 0 and failures == 0:  # a failure rules u = 1 out
        log_m = float(np.logaddexp(log_m, math.log(weights.sure) - n * math.log(h)))
    # Terms as large as n cancel: their rounding, about n machine epsilons, is taken off.
    return log_m - _ROUNDING - 1e-14 * n


def anytime_lower(count: int, n: int, alpha: float, mixture: str = MIXTURE) -> float:
    """Lower confidence bound of p that holds at every n at once: sup{h : M_n(h) >= 1/α}, rounded down.

    P(the bound exceeds p at any n, however the votes decided when to stop) <= alpha. Its running maximum over
    n is valid with the same alpha.
    """
    _check_counts(count, n)
    _check_alpha(alpha)
    goal = -math.log(alpha)
    if count == 0:
        return 0.0

    def excess(h: float) -> float:
        return log_evidence(count, n, h, mixture) - goal

    # The evidence falls from +inf at h = 0 to at most 1 at h = count / n (to -inf just above, where it underflows).
    if excess(_SMALLEST) < 0:
        return 0.0
    bound = float(brentq(excess, _SMALLEST, count / n if count < n else 1 - 1e-16, xtol=1e-12, rtol=1e-12))
    step = 1e-12
    while excess(bound) < 0:  # the root finder may end on either side
        bound, step = bound - step, 2 * step
    return bound


def fewest_successes(n: int, h: float, alpha: float, mixture: str = MIXTURE) -> int | None:
    """Least count of ``n`` draws whose anytime-valid bound exceeds ``h``; None when even n successes do
    not."""
    goal = -math.log(alpha)
    if log_evidence(n, n, h, mixture) < goal:
        return None
    low, high = 0, n  # the evidence grows with the count; `high` always has enough
    while high - low > 1:
        middle = (low + high) // 2
        if log_evidence(middle, n, h, mixture) >= goal:
            high = middle
        else:
            low = middle
    return high


@lru_cache(maxsize=65536)
def anytime_samples_needed(h: float, alpha: float, failures: int = 0, mixture: str = MIXTURE) -> int | None:
    """Least n at which the anytime-valid test can exceed ``h`` when ``failures`` of the n votes fail.

    None when ``h`` is 1. With no failures it is at most 1.12 times ln α / ln h, rounded up to a whole draw, for α from
    1e-6 to 0.01 (1.32 times by ``uniform`` at 0.001): the price of a test that may be looked at after every draw.
    """
    _check_alpha(alpha)
    if h >= 1:
        return None
    goal = -math.log(alpha)

    def enough(n: int) -> bool:
        # Without a success there is no evidence: n > failures only keeps counts from being negative.
        return n > failures and log_evidence(n - failures, n, h, mixture) >= goal

    high = failures + 1
    while not enough(high):
        high *= 2
    low = high // 2  # not enough: from there on the evidence of successes alone grows with n
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high
