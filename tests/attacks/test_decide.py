"""When a failure counts: levels are kept, and chance is what it says."""

import numpy as np
import pytest
from scipy.stats import binom

from glsmooth.attacks.decide import Levels, beaten, certified_again, chance, fails
from glsmooth.bounds.confidence import clopper_pearson_lower, clopper_pearson_upper, leader_bounds
from glsmooth.errors import UserError

N, LEVEL = 400, 0.01
COUNTS = np.arange(N + 1)


def test_a_class_with_half_of_the_votes_or_more_is_rarely_called_beaten():
    called = np.array([beaten(int(count), N, LEVEL) for count in COUNTS])
    assert called[:100].all()
    for p in (0.5 + 1e-9, 0.55):
        assert binom.pmf(COUNTS, N, p)[called].sum() <= LEVEL
    assert binom.pmf(COUNTS, N, 0.5)[called].sum() > LEVEL / 3  # and not for want of trying


def test_a_class_at_the_threshold_is_rarely_certified_again():
    again = np.array([certified_again(int(count), N, 0.8, LEVEL) for count in COUNTS])
    assert LEVEL / 3 < binom.pmf(COUNTS, N, 0.8)[again].sum() <= LEVEL


def test_a_classifier_that_is_right_rarely_fails():
    called = np.array([fails(np.array([count, N - count]), 0, LEVEL) for count in COUNTS])
    assert LEVEL / 3 < binom.pmf(COUNTS, N, 0.5)[called].sum() <= LEVEL
    assert fails(np.array([100, 300, 0]), 0, LEVEL)
    # Two others that are as good as each other are both ahead.
    assert fails(np.array([60, 170, 170]), 0, LEVEL)
    assert not fails(np.array([0, 0, 0]), 0, LEVEL)
    assert not fails(np.array([100, 300, 0]), 1, LEVEL)
    # The largest of many others is ahead by chance more often than one of them.
    rng = np.random.default_rng(0)
    draws = rng.multinomial(N, np.full(10, 0.1), size=20_000)
    assert np.mean([fails(votes, 0, 0.1) for votes in draws]) <= 0.1
    # Many classes: less than half, and still ahead.
    assert not fails(np.array([160, 80, 80, 80]), 0, LEVEL)


def test_votes_for_no_class_count_against_the_lead():
    """Of 400 votes 100 are for none."""
    p_lower, p_upper = leader_bounds(np.array([60, 150, 90]), N, 1, LEVEL)
    assert p_lower == clopper_pearson_lower(150, N, LEVEL / 2)
    assert p_upper == clopper_pearson_upper(90, N, LEVEL / 4)


def test_the_error_is_shared_by_every_test():
    levels = Levels(1e-3, images=50, tests=10)
    assert levels.test * 50 * 10 == pytest.approx(1e-3)
    assert levels.again * 50 == pytest.approx(1e-3)
    with pytest.raises(UserError, match="delta=0"):
        Levels(0.0, 1, 1)


def test_chance_is_that_of_so_many_false_certificates():
    assert chance(0, 50, 1e-3) == 1.0
    assert chance(1, 50, 1e-3) == pytest.approx(1 - 0.999**50)
    assert chance(2, 50, 1e-3) == pytest.approx(binom.sf(1, 50, 1e-3))
    assert chance(1, 50, 1e-3, bound=0.01) == pytest.approx(1 - 0.999**50 + 0.01)
    assert chance(1, 50, 0.0) == 0.0  # nothing was sampled
