"""Procedures against simulated votes: levels, power and cost, without a network."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from glsmooth.confidence import anytime_samples_needed, clopper_pearson_lower
from glsmooth.draws import Stream
from glsmooth.procedures import ABSTAIN, FixedSample, Sequential, Tally


def simulate(procedure, probabilities, rng):
    """Run a procedure on an image whose draws vote for class k with ``probabilities[k]``."""
    tally = Tally(0, len(probabilities))
    while requests := procedure.advance(tally):
        for stream, n in requests.items():
            assert n >= 1
            votes = rng.multinomial(n, probabilities)
            if stream == Stream.SELECTION:
                tally.selection += votes
                tally.n0 += n
            else:
                tally.counting += votes
                tally.n += n
    return tally


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
        assert (tally.prediction, tally.count, tally.p_lower) == (ABSTAIN, 0, 0.0)


@pytest.mark.parametrize("h", [0.52, 0.7, 0.9088, 0.92, 0.97])
def test_sure_images_cost_at_most_half_more_than_any_test(h):
    tally = simulate(Sequential({"a": h}), [0, 1.0], np.random.default_rng(0))
    assert tally.p_lower > h
    assert tally.n <= 1.5 * math.log(1e-3) / math.log(h)


def test_hopeless_images_cost_little():
    tally = simulate(Sequential({"a": 0.92}), [0.5, 0.3, 0.2], np.random.default_rng(0))
    assert tally.p_lower <= 0.92
    assert tally.n0 + tally.n <= 64


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
    assert draws / len(rates) < 1200 / 4.5


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
    with pytest.raises(ValueError, match="n0=0"):
        procedure(0, 10, 0.1)
    with pytest.raises(ValueError, match="n=0"):
        procedure(10, 0, 0.1)
    with pytest.raises(ValueError, match=r"alpha=1\.5"):
        procedure(10, 10, 1.5)
