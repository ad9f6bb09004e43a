"""Procedures against simulated votes: levels, power and cost, without a network."""

import math

import numpy as np
import pytest
from scipy.stats import beta, binom

import glsmooth as gs
from glsmooth.bounds import Outcome
from glsmooth.bounds.confidence import (
    anytime_lower,
    anytime_samples_needed,
    clopper_pearson_lower,
    fewest_successes,
    randomised_lower,
)
from glsmooth.errors import UserError
from glsmooth.voting.draws import Stream
from glsmooth.voting.procedures import ABSTAIN, FixedSample, Sequential, Tally, build_procedure


def run(procedure, classes, draw):
    """Run a procedure on one image; ``draw(first, n)`` counts the votes for each class in the next n of a stream."""
    tally = Tally(0, classes)
    while requests := procedure.advance(tally):
        for stream, n in requests.items():
            assert n >= 1
            if stream == Stream.SELECTION:
                tally.selection += draw(tally.n0, n)
                tally.n0 += n
            else:
                tally.counting += draw(tally.n, n)
                tally.n += n
    tally.p_lower = procedure.lower_bound(tally)
    return tally


def simulate(procedure, probabilities, rng):
    """Draws vote for class k with ``probabilities[k]``."""
    return run(procedure, len(probabilities), lambda first, n: rng.multinomial(n, probabilities))


def test_fixed_sample_is_clopper_pearson_on_fresh_draws():
    tally = simulate(FixedSample(20, 100, 0.01), [0.1, 0.9, 0], np.random.default_rng(0))
    assert (tally.n0, tally.n, tally.prediction) == (20, 100, 1)
    assert tally.p_lower == clopper_pearson_lower(int(tally.counting[1]), 100, 0.01)


def test_paper_literal_uses_half_of_alpha():
    tally = simulate(FixedSample(20, 100, 0.01, two_sided=True), [0.1, 0.9], np.random.default_rng(0))
    assert tally.p_lower == clopper_pearson_lower(tally.count, 100, 0.005)
    assert FixedSample(20, 100, 1e-3, two_sided=True).draws_needed(0.9088) == 80
    assert FixedSample(20, 100, 1e-3).draws_needed(0.9088) == 73


def test_an_image_without_votes_abstains():
    for procedure in (FixedSample(5, 5, 0.01), Sequential({"a": 0.6})):
        tally = Tally(0, 3)
        for _ in range(100):
            requests = procedure.advance(tally)
            if not requests:
                break
            tally.n0 += requests.get(Stream.SELECTION, 0)
            tally.n += requests.get(Stream.COUNTING, 0)
        assert (tally.prediction, tally.count, procedure.lower_bound(tally)) == (ABSTAIN, 0, 0.0)


@pytest.mark.parametrize("h", [0.52, 0.7, 0.9088, 0.92, 0.97])
def test_sure_images_cost_hardly_more_than_any_test_takes(h):
    """They are looked at exactly when they can be decided."""
    tally = simulate(Sequential({"a": h}), [0, 1.0], np.random.default_rng(0))
    assert tally.p_lower > h
    assert tally.n0 == 5
    assert tally.n == anytime_samples_needed(h, 1e-3) <= math.ceil(1.12 * math.log(1e-3) / math.log(h))


@pytest.mark.parametrize("h", [0.9940, 0.9958, 0.9962])
def test_sure_images_are_not_given_up_where_no_vote_may_differ(h):
    """The last of these thresholds needs nearly all 2,000 votes, and every one of them for the class."""
    procedure = Sequential({"a": h})
    assert fewest_successes(procedure.n, h, procedure.alpha) == procedure.n
    tally = simulate(procedure, [0, 1.0], np.random.default_rng(0))
    assert tally.p_lower > h
    assert tally.n == anytime_samples_needed(h, 1e-3) <= procedure.n
    # One that differs decides it, and soon ends it.
    doubtful = simulate(procedure, [0.02, 0.98], np.random.default_rng(0))
    assert doubtful.p_lower <= h
    assert doubtful.n < 400


def test_hopeless_images_cost_little():
    rng = np.random.default_rng(0)
    tallies = [simulate(Sequential({"a": 0.92}), [0.5, 0.3, 0.2], rng) for _ in range(200)]
    assert max(t.p_lower for t in tallies) <= 0.92
    assert np.mean([t.n0 + t.n for t in tallies]) <= 24
    # Enough votes for a prediction, which is reported.
    assert min(t.n0 + t.n for t in tallies) >= 8
    for first, second in (np.sort(t.selection)[:0:-1] for t in tallies if t.n0 < 16):
        assert beta.cdf(0.5, first + 1, second + 1) <= 0.02


@pytest.mark.parametrize("h", [0.6, 0.9])
def test_sequential_level(h):
    """At p = h, where every certificate is false, at most alpha of the images get one."""
    alpha, runs = 0.05, 4000
    rng = np.random.default_rng(1)
    procedure = Sequential({"a": h}, alpha=alpha, n=1000)
    wrong = sum(simulate(procedure, [h, 1 - h], rng).p_lower > h for _ in range(runs))
    assert wrong / runs <= alpha + 4 * math.sqrt(alpha / runs)
    # Futility must not be what keeps the level: some images do get there.
    assert wrong > 0


def test_sequential_decides_as_fixed_samples_do():
    """Over images of all kinds: certified fractions within 1 point, with many times fewer draws."""
    h, rng = 0.9088, np.random.default_rng(2)
    # Sharp and blurred images, as on the published runs.
    rates = np.concatenate([np.ones(600), 1 - 0.3 * rng.random(300) ** 2, rng.random(300)])
    fixed, sequential, draws = 0.0, 0, 0
    procedure = Sequential({"a": h})
    limit = next(k for k in range(1001) if clopper_pearson_lower(k, 1000, 1e-3) > h)
    for p in rates:
        tally = simulate(procedure, [p, *[(1 - p) / 3] * 3], rng)
        sequential += tally.p_lower > h and tally.prediction == 0
        fixed += binom.sf(limit - 1, 1000, p)
        draws += tally.n0 + tally.n
    assert abs(sequential - fixed) / len(rates) < 0.01
    assert draws / len(rates) < 1200 / 6


def test_several_regions_share_one_stream_of_votes():
    targets = {"small": 0.7, "large": 0.93, "out of reach": 0.9999}
    procedure = Sequential(targets, n=2000)
    needed = anytime_samples_needed(0.93, 1e-3)
    tally = simulate(procedure, [1.0, 0], np.random.default_rng(0))
    assert tally.n == needed
    assert tally.p_lower > 0.93
    # The small region keeps its certificate although the large one was tried for and lost afterwards.
    rng = np.random.default_rng(3)
    tallies = [simulate(procedure, [0.88, 0.12], rng) for _ in range(50)]
    assert sum(t.p_lower > 0.7 for t in tallies) == 50
    assert sum(t.p_lower > 0.93 for t in tallies) == 0
    assert max(t.n for t in tallies) < 2000


def evenly(procedure, p, classes=3):
    """Votes that are spread evenly: draw j is for class 1 where the fraction of j·φ is below p."""

    def draw(first, n):
        votes = np.where((np.arange(first, first + n) * (math.sqrt(5) - 1) / 2) % 1 < p, 1, 0)
        return np.bincount(votes, minlength=classes)

    return run(procedure, classes, draw)


@pytest.mark.parametrize(
    ("targets", "p", "n0", "n", "count"),
    [
        ([0.7, 0.9], 1.0, 5, 71, 71),
        ([0.7, 0.9], 0.97, 5, 246, 239),
        ([0.7, 0.9], 0.9, 5, 363, 328),
        ([0.7, 0.9], 0.6, 60, 0, 0),
        ([0.52], 0.8, 8, 49, 40),
        ([0.52], 0.6, 90, 739, 444),
        ([0.52], 0.3, 30, 146, 102),
        ([0.92221], 0.97, 5, 461, 447),
        ([0.92221], 0.8, 8, 32, 26),
        ([0.92221], 0.6, 17, 0, 0),
    ],
)
def test_sequential_runs_are_pinned(targets, p, n0, n, count):
    """Block sizes are free to choose, but stored runs must come out again: a change must be seen."""
    tally = evenly(Sequential({str(h): h for h in targets}), p)
    assert (tally.n0, tally.n, tally.count) == (n0, n, count)


def voted(selection, count, n):
    tally = Tally(0, len(selection))
    tally.selection[:] = selection
    tally.n0 = sum(selection)
    tally.counting[0], tally.n = count, n
    return tally


def test_selection_comes_first_and_ends_for_good():
    procedure = Sequential({"a": 0.52}, n0=40)
    assert procedure.advance(Tally(0, 2)) == {Stream.SELECTION: 5}
    assert procedure.advance(voted([5, 0], 0, 0)) == {Stream.COUNTING: 8}
    assert procedure.advance(voted([4, 1], 0, 0)) == {Stream.SELECTION: 3}  # 7 to 1 would be clear
    assert procedure.advance(voted([9, 7], 0, 0)) == {Stream.SELECTION: 9}
    assert procedure.advance(voted([17, 15], 0, 0)) == {Stream.SELECTION: 8}  # what is left of n0
    assert list(procedure.advance(voted([13, 4], 0, 0))) == [Stream.COUNTING]
    assert list(procedure.advance(voted([21, 19], 0, 0))) == [Stream.COUNTING]  # n0 is used up
    assert list(procedure.advance(voted([9, 7], 20, 32))) == [Stream.COUNTING]


@pytest.mark.parametrize("second", range(30))
def test_selection_ends_where_the_second_class_is_hardly_ahead(second):
    """P(its probability is the larger one), the votes for the two under a uniform prior, is 1/50 at most."""
    procedure = Sequential({"a": 0.5001}, n0=200)
    needed = next(first for first in range(100) if beta.cdf(0.5, first + 1, second + 1) <= 0.02)
    for first in range(max(second, 1), needed + 1):
        more = {Stream.SELECTION: needed - first} if first < needed else {Stream.COUNTING: 8}
        assert procedure.advance(voted([first, second], 0, 0)) == more


def test_nothing_is_given_up_before_its_prediction_is_settled():
    procedure = Sequential({"a": 0.97})
    assert procedure.advance(voted([4, 3, 3], 0, 0)) == {Stream.SELECTION: 7}
    assert procedure.advance(voted([6, 5, 4], 0, 0)) == {Stream.SELECTION: 9}
    assert procedure.advance(voted([6, 5, 5], 0, 0)) == {}
    assert procedure.advance(voted([9, 2, 4], 0, 0)) == {Stream.SELECTION: 4}
    assert procedure.advance(voted([14, 1, 0], 0, 0)) == {Stream.COUNTING: 8}


@pytest.mark.parametrize(
    ("count", "n", "block"), [(8, 8, 8), (40, 40, 10), (70, 70, 9), (77, 78, 19), (1000, 1060, 33)]
)
def test_looks_grow_apart_and_meet_the_first_n_that_can_decide(count, n, block):
    """Sizes are free, p_A holding at every n; they trade looks against votes that were not needed."""
    procedure = Sequential({"a": 0.9088})
    assert anytime_samples_needed(0.9088, 1e-3) == 79
    assert procedure.advance(voted([5, 0], count, n)) == {Stream.COUNTING: block}


@pytest.mark.parametrize("selection", [[16, 0], [12, 4], [30, 2]])
@pytest.mark.parametrize("n", [32, 100, 700])
@pytest.mark.parametrize("h", [0.6, 0.92])
def test_an_image_is_given_up_when_its_chance_is_not_worth_the_draws(selection, n, h):
    """P(the rate of votes that the target needs in the end), all votes so far under a uniform prior, against a quarter
    of the share of all draws that were used.
    """
    procedure = Sequential({"a": h}, n0=100, n=1000)
    rate = fewest_successes(1000, h, 1e-3) / 1000
    tallies = [voted(selection, count, n) for count in range(n + 1)]
    undecided = [t for t in tallies if anytime_lower(t.count, n, 1e-3) <= h]
    chances = [beta.sf(rate, t.count + selection[0] + 1, n - t.count + selection[1] + 1) for t in undecided]
    least = 0.25 * (n + sum(selection)) / 1100
    assert [bool(procedure.advance(t)) for t in undecided] == [chance > least for chance in chances]
    assert 0 < sum(chance > least for chance in chances) < len(chances)
    # A decided one is finished, with its bound.
    assert procedure.advance(tallies[-1]) == {} or len(undecided) > n
    assert (procedure.lower_bound(tallies[-1]) > h) == (len(undecided) <= n)


def test_a_bound_equal_to_the_target_leaves_it_open():
    """Certificates are strict: p_A = h is not one."""
    tally = voted([16, 0], 20, 32)
    tally.p_seen = 0.6
    assert list(Sequential({"a": 0.6}).advance(tally)) == [Stream.COUNTING]
    tally = voted([16, 0], 300, 300)
    tally.p_seen = 0.6
    assert Sequential({"a": 0.6}).advance(tally) == {}
    assert tally.p_seen > 0.6


def test_without_numbers_both_procedures_take_those_of_the_commands():
    fixed, sequential = FixedSample(), Sequential({})
    assert (fixed.n0, fixed.n, fixed.alpha) == (200, 1000, 1e-3)
    assert (sequential.n0, sequential.n, sequential.alpha) == (200, 2000, 1e-3)


def test_draws_range():
    assert FixedSample(20, 100).draws_range() == (120, 120)
    assert Sequential({"a": 0.6}, n0=50, n=300).draws_range() == (5, 350)
    assert Sequential({"a": 0.6}, n0=4, n=300).draws_range() == (4, 304)


def test_the_chance_of_a_coin():
    """Share of the coins with which n equal votes give p_A > h."""
    procedure = FixedSample(200, 1000, 1e-3, randomised=True)
    coins = (np.arange(2000) + 0.5) / 2000
    for h in (0.99, 0.9945, 0.996):
        lucky = [randomised_lower(1000, 1000, 1e-3, u) > h for u in coins]
        assert procedure.chance(h) == pytest.approx(np.mean(lucky), abs=1 / 2000)
    assert FixedSample(1, 10**6, randomised=True).chance(0.5) == 1


def test_the_randomised_bound_uses_the_coin_of_the_tally():
    tally = Tally(0, 2, coin=0.25)
    tally.selection[1], tally.counting[1], tally.n = 10, 95, 100
    one_sided = FixedSample(10, 100, 0.01, randomised=True).lower_bound(tally)
    assert one_sided == randomised_lower(95, 100, 0.01, 0.25) > clopper_pearson_lower(95, 100, 0.01)
    two_sided = FixedSample(10, 100, 0.01, randomised=True, two_sided=True).lower_bound(tally)
    assert two_sided == randomised_lower(95, 100, 0.005, 0.25)
    assert "randomised" not in FixedSample(10, 100).describe()


def test_without_its_coin_a_randomised_bound_is_the_plain_one():
    plain = clopper_pearson_lower(95, 100, 1e-3)
    assert FixedSample(10, 100, randomised=True).bound_range(95, 100) == pytest.approx((plain, plain), rel=1e-9)


def test_nothing_within_reach_draws_next_to_nothing():
    tally = simulate(Sequential({"a": 0.9999}, n=1000), [1.0, 0], np.random.default_rng(0))
    assert (tally.n, tally.p_lower) == (0, 0.0)
    assert tally.prediction == 0


def test_caps_are_kept():
    procedure = Sequential({"a": 0.5}, n0=20, n=50, alpha=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(100):
        tally = simulate(procedure, [0.62, 0.38], rng)
        assert tally.n0 <= 20
        assert tally.n <= 50


@pytest.mark.parametrize("procedure", [FixedSample, lambda *a: Sequential({"a": 0.6}, *a)])
def test_impossible_arguments(procedure):
    with pytest.raises(UserError, match="n0=0"):
        procedure(0, 10, 0.1)
    with pytest.raises(UserError, match="n=0"):
        procedure(10, 0, 0.1)
    with pytest.raises(ValueError, match=r"alpha=1\.5"):
        procedure(10, 10, 1.5)


# What a record says of p_A


def test_a_fixed_number_of_draws_leaves_no_choice():
    for procedure in (
        FixedSample(20, 100, 0.01),
        FixedSample(20, 100, 0.01, two_sided=True),
        FixedSample(20, 100, 0.01, randomised=True),
    ):
        tally = simulate(procedure, [0.1, 0.9], np.random.default_rng(0))
        tally.coin = 0.3
        bound = procedure.lower_bound(tally)
        assert procedure.bound_range(tally.count, tally.n, tally.coin) == (bound, bound)


def test_sequential_bounds_are_within_what_their_counts_can_have_given():
    """Most end with the bound of their counts; what an earlier look had shown is kept, and is not above a target."""
    procedure = Sequential({"a": 0.6, "b": 0.8, "c": 0.95, "never": 0.9999999}, n0=50, n=1000, alpha=0.01)
    rng, kept = np.random.default_rng(0), 0
    for p in np.tile(np.linspace(0.3, 1.0, 40), 20):
        tally = simulate(procedure, [p, 1 - p], rng)
        least, most = procedure.bound_range(tally.count, tally.n)
        assert least <= tally.p_lower <= most
        assert most == least or most <= 0.95
        kept += tally.p_lower > least
        if tally.p_lower > least:  # the earlier look is remembered, and gives the very bound
            count, n = tally.seen
            assert (count < tally.count, n < tally.n, n - count <= tally.n - tally.count) == (True, True, True)
            assert anytime_lower(count, n, 0.01) == tally.p_lower
    assert kept > 10


def test_sequential_bounds_beyond_the_targets_are_those_of_the_counts():
    procedure = Sequential({"a": 0.6, "b": 0.8}, n=1000, alpha=0.01)
    unbroken = anytime_lower(90, 90, 0.01)
    assert unbroken > 0.8
    # 90 votes in a row would have passed both targets, and ended the votes: no vote against can have followed.
    assert procedure.bound_range(90, 90) == (unbroken, unbroken)
    assert procedure.bound_range(90, 100) == (anytime_lower(90, 100, 0.01), 0.8)
    assert procedure.bound_range(7, 40) == (anytime_lower(7, 40, 0.01), anytime_lower(7, 7, 0.01))
    assert procedure.bound_range(0, 40) == procedure.bound_range(0, 0) == (0.0, 0.0)
    # Without a target within reach there is one look, at the end.
    bound = anytime_lower(7, 40, 0.01)
    assert Sequential({"a": 0.9999}, n=1000, alpha=0.01).bound_range(7, 40) == (bound, bound)


def test_runs_that_name_no_test_were_taken_with_the_uniform_mixture():
    """Numbers of the version before descriptions named it; ``sure`` gives others."""
    outcomes = {"a": Outcome(0.6, None, "a"), "b": Outcome(0.8, None, "b")}
    spec = {"name": "sequential", "n0": 50, "n": 1000, "alpha": 0.01}
    family = gs.SmoothedFamily(gs.transforms.Identity(), {}, pixel_noise=0.5)
    old, new = (build_procedure(spec | more, outcomes, family) for more in ({}, {"mixture": "sure"}))
    assert (old.describe()["mixture"], new.describe()["mixture"]) == ("uniform", "sure")
    assert Sequential({"a": 0.6}).describe()["mixture"] == "sure"
    for votes, (least, most) in {
        (90, 90): (0.9308878302052196, 0.9308878302052196),
        (90, 100): (0.7697986803026509, 0.8),
        (7, 40): (0.03277412235944369, 0.41546085004229255),
    }.items():
        assert old.bound_range(*votes) == pytest.approx((least, most), rel=1e-11)
        assert new.bound_range(*votes) != pytest.approx((least, most), rel=1e-6)
    assert new.bound_range(90, 90)[0] > old.bound_range(90, 90)[0]
    assert old.draws_needed(0.9088) > new.draws_needed(0.9088)
    # Other rules of selection and blocks are free: the test decides what votes prove.
    tally = voted([5, 0], 95, 95)
    assert old.lower_bound(tally) == anytime_lower(95, 95, 0.01, "uniform")
    assert new.lower_bound(tally) == anytime_lower(95, 95, 0.01, "sure")


def test_the_test_of_older_runs_still_decides():
    procedure = Sequential({"a": 0.9088}, mixture="uniform")
    tally = simulate(procedure, [0, 1.0], np.random.default_rng(0))
    assert tally.n == anytime_samples_needed(0.9088, 1e-3, mixture="uniform") == 95
    assert procedure.advance(voted([5, 0], 78, 78)) == {Stream.COUNTING: 95 - 78}
    assert tally.p_lower > 0.9088
    # After a vote against, it has enough evidence before the present test has.
    needed = anytime_samples_needed(0.9088, 1e-3, 1, "uniform")
    assert needed < anytime_samples_needed(0.9088, 1e-3, 1)
    tally = voted([5, 0], needed - 1, needed)
    assert procedure.advance(tally) == {}
    assert tally.p_seen > 0.9088
    # What is within its reach decides what an earlier look can have shown.
    old, new = (Sequential({"a": 0.9088}, n=90, mixture=name) for name in ("uniform", "sure"))
    assert old.bound_range(50, 60) == (anytime_lower(50, 60, 1e-3, "uniform"),) * 2
    assert new.bound_range(50, 60)[1] == anytime_lower(50, 50, 1e-3, "sure")
