"""What few votes on few images say of many: counts, estimates, and intervals that cover."""

import math

import numpy as np
import pytest
from scipy.stats import beta, binom

from glsmooth.bounds.confidence import clopper_pearson_lower
from glsmooth.voting.expectation import Expectation, fewest_counts
from glsmooth.voting.procedures import FixedSample

#: Plans: (n, h_min, votes) with thresholds in the middle, near 1, and with fewer and with more votes than planned.
PLANS = [
    (1000, 0.76, 200),
    (1000, 0.5, 50),
    (1000, 0.97, 200),
    (1000, 0.985, 200),
    (100, 0.76, 300),
    (10_000, 0.9, 100),
]


def planned(n, h_min, votes, n0=200):
    needed = fewest_counts(FixedSample(n0, n, 1e-3), h_min)
    return Expectation(needed, n0, n, votes)


@pytest.mark.parametrize(
    "procedure", [FixedSample(10, 100, 1e-3), FixedSample(10, 37, 0.05, "majority", two_sided=True)]
)
@pytest.mark.parametrize("h_min", [0.5, 0.76, 0.9, 0.93, 0.95, 0.999])
def test_the_fewest_votes_that_certify(procedure, h_min):
    enough = [k for k in range(procedure.n + 1) if procedure.bound_range(k, procedure.n)[0] > h_min]
    assert fewest_counts(procedure, h_min) == (enough[0] if enough else None)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_chance_of_an_image_lies_between_its_bounds(plan):
    """With two classes it is known: the count, and a selection that the class wins with half of the votes or more."""
    expectation, p = planned(*plan), np.linspace(0, 1, 501)
    counted = binom.sf(expectation.needed - 1, expectation.n, p)
    exact = counted * binom.sf(expectation.n0 / 2 - 1, expectation.n0, p)
    assert (expectation.least(p) <= exact + 1e-12).all()
    assert (exact <= expectation.most(p) + 1e-12).all()
    assert np.abs(expectation.least(p) - exact).max() < 0.06  # a tie of the selection is all that separates them
    assert expectation.most(p) == pytest.approx(counted)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_thresholds_give_no_more_away_than_they_say(plan):
    expectation = planned(*plan)
    (low_at, low_slack), (high_at, high_slack) = expectation._thresholds
    p = np.unique(np.concatenate([np.linspace(0, 1, 20_011), 1 - np.logspace(-6, -1, 5000)]))
    too_many = binom.sf(low_at - 1, expectation.votes, p) - expectation.least(p)
    too_few = expectation.most(p) - binom.sf(high_at - 1, expectation.votes, p)
    assert too_many.max() <= low_slack
    assert too_few.max() <= high_slack
    # Nor much more: between two nodes no curve moves by more.
    assert low_slack - max(0, too_many.max()) < 0.005
    assert high_slack - max(0, too_few.max()) < 0.005


#: Beta laws of the class probability over images: easy with a few hard ones, spread out, and around a threshold.
BETAS = [(2.0, 0.05), (0.5, 0.5), (30.0, 10.0)]


@pytest.mark.parametrize("numbers", BETAS, ids=str)
@pytest.mark.parametrize("needed", [580, 806, 998])
def test_estimates_are_right_on_average(numbers, needed):
    """To within 0.03, and four standard deviations of the simulation; also where 998 of 1000 are judged by 200."""
    expectation = Expectation(needed, 200, 1000, 200)
    rng = np.random.default_rng(3)
    p = rng.beta(*numbers, size=(100, 100))
    truth = expectation.least(rng.beta(*numbers, size=200_000)).mean()
    found = np.array([expectation.estimate(row) for row in rng.binomial(200, p)])
    assert abs(found.mean() - truth) <= 0.03 + 4 * found.std() / math.sqrt(len(found))


def test_all_votes_of_an_image_mean_more_where_other_images_are_sure():
    """How many of 1000 votes follow from 200 of 200, that alone does not say."""
    expectation = Expectation(998, 200, 1000, 200)
    sure, doubtful = np.array([200] * 40), np.array([200] * 10 + [199, 198, 197, 196, 195, 190] * 5)
    assert expectation.estimate(sure) > 0.9
    assert expectation.estimate(doubtful) < 0.5
    assert expectation.estimate(np.zeros(40, dtype=np.int64)) < 1e-6


def mixtures(expectation):
    """Class probabilities of an image by the name of how images are: values and their weights."""
    edge = expectation.needed / expectation.n
    p = np.linspace(0, 1, 5001)
    low_at, _ = expectation._thresholds[0]
    high_at, _ = expectation._thresholds[1]
    too_many = binom.sf(low_at - 1, expectation.votes, p) - expectation.least(p)
    too_few = expectation.most(p) - binom.sf(high_at - 1, expectation.votes, p)
    grid = np.linspace(0.0005, 0.9995, 1000)
    easy = beta(4, 0.3).pdf(grid)
    return {
        "at the edge": ([edge], [1.0]),
        "easy and hard": ([0.02, edge - 0.05, 0.999], [0.2, 0.1, 0.7]),
        "mostly easy": (grid, easy / easy.sum()),
        "where few votes mislead most": ([p[too_many.argmax()], 0.0], [0.9, 0.1]),
        "where they mislead the other way": ([p[too_few.argmax()], 0.0], [0.9, 0.1]),
        "all easy": ([1.0], [1.0]),
    }


NAMES = list(mixtures(planned(*PLANS[0])))


def drawn(rng, mixture, expectation, images, runs):
    """Votes of images, (runs, images), with the class probabilities behind them."""
    values, weights = mixture
    p = rng.choice(np.asarray(values), size=(runs, images), p=weights)
    return rng.binomial(expectation.votes, p), p


def expected(expectation, mixture):
    """What the expected CRA may be, whatever the selection does: two bounds, equal but near p = 1/2."""
    values, weights = np.asarray(mixture[0]), np.asarray(mixture[1])
    return float(expectation.least(values) @ weights), float(expectation.most(values) @ weights)


RUNS, FAILURE = 1500, 0.1


@pytest.mark.parametrize("images", [12, 48, 400])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plan", [PLANS[0], PLANS[1], PLANS[3]], ids=str)
def test_intervals_cover(plan, name, images):
    """Each end fails in at most 5 % of simulated runs, to within four standard deviations of that share."""
    expectation = planned(*plan)
    mixture = mixtures(expectation)[name]
    rng = np.random.default_rng(0)
    counts, _ = drawn(rng, mixture, expectation, images, RUNS)
    ends = np.array([expectation.interval(row, FAILURE) for row in counts])
    least, most = expected(expectation, mixture)
    allowed = FAILURE / 2 + 4 * math.sqrt(FAILURE / 2 * (1 - FAILURE / 2) / RUNS)
    assert (ends[:, 0] > most).mean() <= allowed
    assert (ends[:, 1] < least).mean() <= allowed
    assert ((ends >= 0) & (ends <= 1)).all()


def test_the_simulation_finds_an_interval_that_takes_few_votes_for_many():
    """Of many images that all lie where few votes mislead most, the bound without its slack covers never."""
    expectation = planned(*PLANS[0])
    mixture = mixtures(expectation)["where few votes mislead most"]
    counts, _ = drawn(np.random.default_rng(0), mixture, expectation, 20_000, 20)
    (threshold, slack), _ = expectation._thresholds
    without = np.array([clopper_pearson_lower(int((row >= threshold).sum()), row.size, 0.05) for row in counts])
    assert (without > expected(expectation, mixture)[1]).all()
    assert all(
        expectation.interval(row, 0.1)[0] == max(0, low - slack) for row, low in zip(counts, without, strict=True)
    )


@pytest.mark.parametrize("h_mins", [(0.6, 0.9), (0.9, 0.6), (0.76, 0.76)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gains_are_not_overstated(h_mins, name):
    """Of two laws under which the images have the same class probabilities; votes for them are independent or equal."""
    here, there = (planned(1000, h, 200) for h in h_mins)
    mixture = mixtures(here)[name]
    difference = expected(here, mixture)[1] - expected(there, mixture)[0]
    rng = np.random.default_rng(1)
    counts, p = drawn(rng, mixture, here, 100, RUNS)
    for others in (counts, rng.binomial(200, p)):
        gains = np.array([here.gain(there, a, b, 0.1) for a, b in zip(counts, others, strict=True)])
        assert (gains > difference).mean() <= 0.1 + 4 * math.sqrt(0.1 * 0.9 / RUNS)


def test_pairs_show_a_gain_where_intervals_overlap():
    here, there = planned(1000, 0.6, 200), planned(1000, 0.9, 200)
    counts = np.repeat([199, 150, 50], 10)  # 150 of 200 is enough here, and far too little there
    assert here.gain(there, counts, counts, 0.05) > 0
    assert here.interval(counts, 0.05)[0] < there.interval(counts, 0.05)[1]
    assert there.gain(here, counts, counts, 0.05) < -0.3


def test_votes_that_are_too_few_say_little():
    """All of 20 votes, of any number of images, may come from probabilities of which few reach a required 0.99."""
    many = np.full(100_000, 20)
    low, high = planned(10_000, 0.99, 20).interval(many, 0.05)
    assert low < 0.2
    assert high == 1
    assert planned(10_000, 0.99, 2000).interval(100 * many, 0.05)[0] > 0.97


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_more_votes_for_the_class_never_lower_the_interval(plan):
    expectation = planned(*plan)
    rng = np.random.default_rng(2)
    fewer = rng.integers(0, expectation.votes + 1, size=30)
    more = np.minimum(fewer + rng.integers(0, 9, size=30), expectation.votes)
    assert all(a >= b for a, b in zip(expectation.interval(more, 0.05), expectation.interval(fewer, 0.05), strict=True))
