"""Confidence bounds: closed-form special cases first, then coverage by simulation.

Random tests have fixed seeds; their tolerances are four standard deviations of the number of runs.
"""

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from scipy.stats import binom

from glsmooth.bounds.confidence import (
    MIXTURES,
    anytime_lower,
    anytime_samples_needed,
    clopper_pearson_lower,
    clopper_pearson_upper,
    fewest_successes,
    log_evidence,
    randomised_lower,
    samples_needed,
)


def allowed(alpha: float, runs: int) -> float:
    """Largest failure rate over ``runs`` that a procedure of level ``alpha`` shows by chance (4 sigma)."""
    return alpha + 4 * math.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.parametrize("alpha", [0.05, 1e-3, 5e-4])
@pytest.mark.parametrize("n", [1, 10, 1000, 10**7])
def test_clopper_pearson_of_all_successes_is_the_root_of_alpha(n, alpha):
    bound = clopper_pearson_lower(n, n, alpha)
    assert bound == pytest.approx(alpha ** (1 / n), rel=1e-9)
    assert bound <= alpha ** (1 / n)


@pytest.mark.parametrize(("count", "n"), [(1, 10), (7, 10), (950, 1000), (500, 1000), (999, 1000), (20, 100_000)])
def test_clopper_pearson_inverts_the_binomial_tail_on_the_safe_side(count, n):
    lower, upper = clopper_pearson_lower(count, n, 1e-3), clopper_pearson_upper(count, n, 1e-3)
    assert binom.sf(count - 1, n, lower) == pytest.approx(1e-3, rel=1e-5)
    assert binom.sf(count - 1, n, lower) <= 1e-3
    assert binom.cdf(count, n, upper) == pytest.approx(1e-3, rel=1e-5)
    assert binom.cdf(count, n, upper) <= 1e-3


def test_clopper_pearson_at_the_ends():
    assert clopper_pearson_lower(0, 10, 0.01) == 0.0
    assert clopper_pearson_upper(10, 10, 0.01) == 1.0
    # The best that the paper's 1,000 votes can prove.
    assert clopper_pearson_lower(1000, 1000, 1e-3) == pytest.approx(0.99312, abs=5e-6)


@pytest.mark.parametrize("p", [0.03, 0.5, 0.93, 0.999])
def test_clopper_pearson_covers(p):
    """Exact, without simulation: the bound exceeds p with probability at most alpha."""
    n, alpha = 200, 0.01
    wrong = [k for k in range(n + 1) if clopper_pearson_lower(k, n, alpha) > p]
    assert binom.pmf(wrong, n, p).sum() <= alpha


def failing_coins(count, n, alpha, p):
    """The measure of the u in (0, 1] whose randomised bound exceeds p: by bisection, as it falls with u."""
    low, high = 0.0, 1.0
    if randomised_lower(count, n, alpha, 1.0) > p:
        return 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if randomised_lower(count, n, alpha, middle) > p:
            low = middle
        else:
            high = middle
    return low


@pytest.mark.parametrize("p", [0.002, 0.03, 0.5, 0.93, 0.9995])
@pytest.mark.parametrize(("n", "alpha"), [(1, 0.3), (20, 0.05), (120, 1e-3)])
def test_the_randomised_bound_covers_exactly(p, n, alpha):
    """Sum over counts and integral over coins: P(bound > p) = alpha, which no bound without a coin can reach."""
    wrong = sum(binom.pmf(k, n, p) * failing_coins(k, n, alpha, p) for k in range(n + 1))
    # Bounds are rounded down by 1e-11 of themselves, which moves tails by at most n / (1 - p) times that.
    assert wrong <= alpha + 1e-13
    assert wrong == pytest.approx(alpha, abs=1e-11 * n / (1 - p))


@pytest.mark.parametrize(("count", "n"), [(0, 10), (1, 10), (7, 10), (950, 1000), (999, 1000), (1000, 1000)])
def test_the_randomised_bound_solves_its_equation_above_the_plain_one(count, n):
    alpha = 1e-3
    plain = clopper_pearson_lower(count, n, alpha)
    bounds = [randomised_lower(count, n, alpha, u) for u in (1e-9, 1e-4, 0.002, 0.1, 0.5, 0.9, 1.0)]
    assert all(a >= b for a, b in pairwise(bounds))
    assert min(bounds) >= plain
    assert bounds[-1] == pytest.approx(plain, rel=1e-10)
    for u, bound in zip((0.002, 0.1, 0.5, 0.9), bounds[2:], strict=False):
        tail = binom.sf(count, n, bound) + u * binom.pmf(count, n, bound)
        assert tail <= alpha or bound == 0
        assert tail == pytest.approx(alpha, rel=1e-6) or bound == 0
    if count:
        # One failure more would have given less, whatever the coins.
        assert bounds[-1] > randomised_lower(count - 1, n, alpha, 0.002) or count == 1


@pytest.mark.parametrize("u", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("n", [1, 10, 1000])
def test_the_randomised_bound_of_all_successes_is_a_root(n, u):
    bound = randomised_lower(n, n, 1e-3, u)
    assert bound == pytest.approx((1e-3 / u) ** (1 / n), rel=1e-10)
    assert bound <= (1e-3 / u) ** (1 / n)
    # With the coins' alpha-part the error probability is spent: nothing is excluded but p < 1.
    assert randomised_lower(n, n, 1e-3, 1e-3) == pytest.approx(1, abs=2e-11)
    # Just above it, where the search for the root must not look beyond 1.
    assert randomised_lower(n, n, 1e-3, math.nextafter(1e-3, 1)) == pytest.approx(1, abs=2e-11)


def test_a_lucky_coin_without_any_success():
    # 1 - (1 - u)(1 - p)^10 = 0.1 at u = 0.05.
    expected = 1 - (0.9 / 0.95) ** 0.1
    assert randomised_lower(0, 10, 0.1, 0.05) == pytest.approx(expected, rel=1e-10)
    assert randomised_lower(0, 10, 0.1, 0.05) <= expected
    assert randomised_lower(0, 10, 0.1, 0.1) == 0
    with pytest.raises(ValueError, match=r"u=0 is not a draw from \(0, 1\]"):
        randomised_lower(1, 2, 0.1, 0)


@pytest.mark.parametrize(
    ("h_min", "alpha", "needed"),
    [(0.9088, 1e-3, 73), (0.99639, 1e-3, 1911), (0.5, 0.5, 2), (0.5, 1e-3, 10), (1.0, 1e-3, None)],
)
def test_samples_needed(h_min, alpha, needed):
    assert samples_needed(h_min, alpha) == needed
    if needed is not None:
        assert clopper_pearson_lower(needed, needed, alpha) > h_min
        assert needed == 1 or clopper_pearson_lower(needed - 1, needed - 1, alpha) <= h_min


def by_quadrature(count, n, h, weights):
    """log M_n(h) by its definition: likelihood ratios of alternatives q, weighed."""
    u = (np.arange(200_000) + 0.5) / 200_000
    density = weights.decline * (1 - u) ** (weights.decline - 1)
    q = h + (1 - h) * u
    ratios = (q / h) ** count * ((1 - q) / (1 - h)) ** (n - count)
    sure = h**-n if count == n else 0.0
    return math.log(weights.sure * sure + (1 - weights.sure) * (density * ratios).mean())


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize(
    ("count", "n", "h"), [(0, 5, 0.3), (3, 3, 0.5), (90, 100, 0.8), (60, 100, 0.7), (199, 200, 0.95), (80, 80, 0.9)]
)
def test_evidence_is_the_mixture_of_likelihood_ratios(count, n, h, name):
    value, expected = log_evidence(count, n, h, name), by_quadrature(count, n, h, MIXTURES[name])
    assert value == pytest.approx(expected, abs=1e-6)
    assert value <= expected + 1e-9


def exact_evidence(count, n, h, weights):
    """log M_n(h) in 50 digits, from sums of the binomial law."""
    with mpmath.workdps(50):
        h, k = mpmath.mpf(h), n - count + weights.decline
        total = count + k

        def mass(j):
            ways = mpmath.loggamma(total + 1) - mpmath.loggamma(j + 1) - mpmath.loggamma(total - j + 1)
            return mpmath.exp(ways + j * mpmath.log(h) + (total - j) * mpmath.log1p(-h))

        # P(X <= count) for X of total draws: the smaller tail, from its largest term outwards.
        below = count <= total * h
        j = count if below else count + 1
        term, tail = mass(j), mpmath.mpf(0)
        while 0 <= j <= total and term > tail * mpmath.mpf(10) ** -45:
            tail += term
            term *= j * (1 - h) / ((total - j + 1) * h) if below else (total - j) * h / ((j + 1) * (1 - h))
            j += -1 if below else 1
        rest = mpmath.loggamma(count + 1) + mpmath.loggamma(k) - mpmath.loggamma(total + 1)
        rest += mpmath.log(tail if below else 1 - tail) - count * mpmath.log(h) - k * mpmath.log1p(-h)
        evidence = (1 - mpmath.mpf(weights.sure)) * weights.decline * mpmath.exp(rest)
        if count == n:
            evidence += mpmath.mpf(weights.sure) * h**-n
        return mpmath.log(evidence)


def votes_and_targets(runs, seed):
    """(count, n, h): n up to a million; few, no or many failures; h near 0, near 1, and around count / n."""
    rng = np.random.default_rng(seed)
    for _ in range(runs):
        n = int(10 ** rng.uniform(0, 6))
        failures = min(n, int(rng.choice([0, rng.integers(n + 1), 10 ** rng.uniform(0, 3)])))
        near = (n - failures) / n - rng.uniform(0, 8) * math.sqrt(failures + 1) / n
        h = rng.choice([1 - 10 ** rng.uniform(-9, -0.1), 10 ** rng.uniform(-9, -0.1), near, near])
        yield n - failures, n, float(np.clip(h, 1e-9, 1 - 1e-12))


@pytest.mark.parametrize("name", MIXTURES)
def test_evidence_is_rounded_down_but_little(name):
    worth = 0
    for count, n, h in votes_and_targets(400, seed=0):
        value, exact = log_evidence(count, n, h, name), exact_evidence(count, n, h, MIXTURES[name])
        assert value < exact
        if exact > 0:
            assert exact - value < 2 * (1e-11 + 1e-14 * n)
            worth += 1
    assert worth > 100


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("h", [0.5, 0.9])
@pytest.mark.parametrize("n", [1, 7, 60])
def test_evidence_has_mean_at_most_one_at_the_null(h, n, name):
    """Exact: E M_n(h) = 1 at p = h and less below: what Ville's inequality needs."""

    def mean(p):
        return sum(binom.pmf(k, n, p) * math.exp(log_evidence(k, n, h, name)) for k in range(n + 1))

    assert mean(h) == pytest.approx(1, abs=1e-9)
    assert mean(h - 0.1) < 1


def crossing(p, h, alpha, longest, mixture):
    """P_p(M_n(h) >= 1/alpha at some n <= longest), exactly: the votes stop the first time that it is so."""
    shares, crossed = np.ones(1), 0.0  # probability of each count on the paths that go on
    for n in range(1, longest + 1):
        shares = np.append(shares * (1 - p), 0.0) + np.append(0.0, shares * p)
        needed = fewest_successes(n, h, alpha, mixture)
        if needed is not None:
            crossed += shares[needed:].sum()
            shares[needed:] = 0.0
    return crossed


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("alpha", [0.05, 1e-3])
@pytest.mark.parametrize("h", [0.5, 0.7, 0.9088, 0.97])
def test_no_rule_for_stopping_breaks_the_level(h, alpha, name):
    """By dynamic programming over all paths of 500 draws; stopping at the first crossing is the worst that can be."""
    assert 0 < crossing(h, h, alpha, 500, name) <= alpha
    assert crossing(h - 0.05, h, alpha, 500, name) <= crossing(h, h, alpha, 500, name)


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("h", [0.7, 0.9088])
def test_weights_that_add_up_to_more_break_the_level(h, name, monkeypatch):
    """The test above can fail: it does where all weights are half as large again."""
    honest = log_evidence
    monkeypatch.setattr(
        "glsmooth.bounds.confidence.log_evidence", lambda *votes_and_test: honest(*votes_and_test) + math.log(1.5)
    )
    assert crossing(h, h, 0.05, 500, name) > 0.05


@pytest.mark.parametrize(("count", "n"), [(1, 1), (3, 3), (7, 10), (95, 100), (950, 1000), (10**6 - 5, 10**6)])
def test_anytime_lower_is_where_the_evidence_reaches_its_goal(count, n):
    bound = anytime_lower(count, n, 1e-3)
    assert log_evidence(count, n, bound) >= math.log(1e3)
    assert log_evidence(count, n, bound + 1e-9) < math.log(1e3)
    assert 0 < bound < clopper_pearson_lower(count, n, 1e-3)


@pytest.mark.parametrize("name", MIXTURES)
def test_evidence_decreases_in_h(name):
    for count, n in [(1, 3), (50, 100), (990, 1000), (40, 40)]:
        values = [log_evidence(count, n, h, name) for h in np.linspace(0.01, 0.999, 300)]
        assert all(a > b for a, b in pairwise(values))
    rng = np.random.default_rng(1)
    for count, n, h in votes_and_targets(2000, seed=1):
        above = min(h + (1 - h) * 10 ** rng.uniform(-6, 0), 1 - 1e-12)
        # Each value may be too low by its rounding.
        assert log_evidence(count, n, h, name) >= log_evidence(count, n, above, name) - 1e-11 - 1e-14 * n


@pytest.mark.parametrize("name", MIXTURES)
def test_evidence_grows_with_successes_and_falls_with_failures(name):
    for count, n, h in votes_and_targets(2000, seed=2):
        rounding = 1e-11 + 1e-14 * n
        value = log_evidence(count, n, h, name)
        assert log_evidence(count + 1, n + 1, h, name) >= value - rounding
        assert log_evidence(count, n + 1, h, name) <= value + rounding


def test_anytime_lower_is_stable_for_very_many_draws():
    n = 10**7
    bound = anytime_lower(int(0.7 * n), n, 1e-3)
    # log M ~ n (0.7 - h)^2 / (2 * 0.21) against ln(1000) + ln(n) / 2.
    width = math.sqrt(2 * 0.21 * (math.log(1e3) + 0.5 * math.log(n)) / n)
    assert 0.7 - 1.3 * width < bound < 0.7
    assert anytime_lower(0, n, 1e-3) == 0.0


@pytest.mark.parametrize("h", [0.5, 0.52, 0.7, 0.9088, 0.92221, 0.99639])
def test_fewest_votes_of_the_anytime_test(h):
    needed = anytime_samples_needed(h, 1e-3)
    assert anytime_lower(needed, needed, 1e-3) > h
    assert anytime_lower(needed - 1, needed - 1, 1e-3) <= h
    # A failure later, the same boundary from the other side.
    later = anytime_samples_needed(h, 1e-3, 3)
    assert fewest_successes(later, h, 1e-3) == later - 3
    assert fewest_successes(later - 1, h, 1e-3) > later - 4


@pytest.mark.parametrize("alpha", [1e-2, 1e-3, 1e-4, 1e-6])
def test_the_price_of_looking_at_will(alpha):
    """Votes of an image that is sure, over ln α / ln h, the fewest that any test can use."""
    for h in [*np.linspace(0.02, 0.98, 25), *(1 - np.logspace(-2, -6, 5))]:
        fewest = math.log(alpha) / math.log(h)
        assert samples_needed(h, alpha) <= anytime_samples_needed(h, alpha) <= math.ceil(1.12 * fewest)
        if h > 0.5:  # below, whole draws hide the difference
            assert anytime_samples_needed(h, alpha) < anytime_samples_needed(h, alpha, mixture="uniform")


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("h", [1e-5, 0.01, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("alpha", [0.5, 0.01, 1e-3])
def test_bisections_find_what_a_plain_search_finds(h, alpha, name):
    goal = -math.log(alpha)
    for n in range(1, 25):
        counts = (k for k in range(n + 1) if log_evidence(k, n, h, name) >= goal)
        assert fewest_successes(n, h, alpha, name) == next(counts, None)
    for failures in [*range(6), *np.random.default_rng(0).integers(6, 40, 3).tolist()]:
        needed = next(n for n in range(failures + 1, 2000) if log_evidence(n - failures, n, h, name) >= goal)
        assert anytime_samples_needed(h, alpha, failures, name) == needed
        assert fewest_successes(needed, h, alpha, name) == needed - failures


def test_the_test_of_older_runs_stays_as_it_was():
    """Values of the version before ``mixture`` was in a run's description, to the last bit but for scipy's release."""
    for (count, n, h), value in {
        (0, 5, 0.3): -1.7917594692381054,
        (3, 3, 0.5): 1.3217558399722893,
        (90, 100, 0.8): 2.6842562971679405,
        (95, 95, 0.9088): 6.915121102782571,
        (700, 1000, 0.6633): 0.8398218812983576,
        (999_990, 10**6, 0.9999): 64.4515848011891,
    }.items():
        assert log_evidence(count, n, h, "uniform") == pytest.approx(value, abs=1e-13 * n)
    for (count, n), value in {
        (3, 3): 0.06440934554469133,
        (7, 10): 0.14616588880238543,
        (95, 95): 0.9088787197553424,
        (95, 100): 0.8137965212301266,
        (549, 1000): 0.4801639619644703,
        (1990, 2000): 0.9856948758314855,
        (999_990, 10**6): 0.999971252849977,
    }.items():
        assert anytime_lower(count, n, 1e-3, "uniform") == pytest.approx(value, rel=1e-11)
    for (h, alpha, failures), needed in {
        (0.9088, 1e-3, 0): 95,
        (0.9088, 1e-3, 3): 172,
        (0.5, 0.01, 0): 9,
        (0.99639, 1e-3, 0): 2521,
        (0.6633, 1e-6, 20): 147,
    }.items():
        assert anytime_samples_needed(h, alpha, failures, "uniform") == needed
    assert fewest_successes(2000, 0.9088, 1e-3, "uniform") == 1870
    assert fewest_successes(50, 0.9088, 1e-3, "uniform") is None


def test_nothing_reaches_one():
    assert anytime_samples_needed(1.0, 1e-3) is None
    assert fewest_successes(5, 0.9, 1e-3) is None


def worst_lower(bound, p, alpha, runs, longest, seed=0):
    """Fraction of runs in which ``bound``, looked at after every draw, ever exceeds the true p.

    No stopping rule can do worse: this one stops the first time that anything looks good. `bound(n)` is the
    least count at which the bound after n draws exceeds p.
    """
    votes = np.random.default_rng(seed).random((runs, longest)) < p
    counts = votes.cumsum(axis=1)
    limits = np.array([bound(n) for n in range(1, longest + 1)])
    return (counts >= limits).any(axis=1).mean()


@pytest.mark.parametrize("p", [0.55, 0.9])
def test_adversarial_stopping(p):
    runs, longest, alpha = 4000, 1000, 0.02

    def anytime(n):
        needed = fewest_successes(n, p, alpha)
        return n + 1 if needed is None else needed

    def peeking(n):
        return next(
            (k for k in range(int(binom.ppf(1 - 2 * alpha, n, p)), n + 1) if clopper_pearson_lower(k, n, alpha) > p),
            n + 1,
        )

    assert worst_lower(anytime, p, alpha, runs, longest) <= allowed(alpha, runs)
    # The same test must be able to fail: peeking at Clopper-Pearson's bound breaks it by far.
    assert worst_lower(peeking, p, alpha, runs, longest) > 2 * allowed(alpha, runs)


def test_impossible_arguments_are_named():
    with pytest.raises(ValueError, match="alpha=0"):
        clopper_pearson_lower(1, 2, 0)
    with pytest.raises(ValueError, match=r"count=3 of n=2"):
        clopper_pearson_lower(3, 2, 0.1)
    with pytest.raises(ValueError, match=r"count=-1"):
        anytime_lower(-1, 2, 0.1)
    with pytest.raises(ValueError, match=r"h_min=1\.2"):
        samples_needed(1.2, 0.1)
