"""Visiting every shift: against exact sums over the torus, in arithmetic of fifty digits."""

import itertools
import math
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

import glsmooth as gs
from glsmooth import laws
from glsmooth.errors import UserError
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.transforms import Brightness, ContrastBrightness, Translation
from glsmooth.voting.draws import Stream
from glsmooth.voting.engine import BaseClassifier, VoteEngine
from glsmooth.voting.finite import FiniteLaw
from glsmooth.voting.procedures import ABSTAIN, Exhaustive, Tally, fewest_visits

mpmath.mp.dps = 50
SIZE = (5, 6)  # height, width: odd and even


def shifts(tx, ty=None, size=SIZE, **kwargs):
    return SmoothedFamily(Translation(), {"tx": tx, "ty": ty or tx}, image_size=size, **kwargs)


FAMILIES = {
    "narrow": shifts(laws.Normal(0.0, 0.8)),
    "wide": shifts(laws.Normal(0.3, 2.5), laws.Normal(-0.4, 1.0)),
    "skewed": shifts(laws.Exponential(0.7), laws.Rayleigh(1.5)),
    "uniform": shifts(laws.UniformCyclic()),
}


def exact_cdf(law, x):
    """P(X <= x) in fifty digits, from the definition of each law."""
    x, v = mpmath.mpf(x), {name: mpmath.mpf(value) for name, value in law.values.items()}
    if isinstance(law, laws.Normal):
        return mpmath.ncdf((x - v["loc"]) / v["scale"])
    if isinstance(law, laws.Uniform):
        return min(mpmath.mpf(1), max(mpmath.mpf(0), (x - v["low"]) / (v["high"] - v["low"])))
    if x <= 0:
        return mpmath.mpf(0)
    if isinstance(law, laws.LogNormal):
        return mpmath.ncdf((mpmath.log(x) - v["loc"]) / v["scale"])
    if isinstance(law, laws.Rayleigh):
        return -mpmath.expm1(-((x / v["scale"]) ** 2) / 2)
    if isinstance(law, laws.HalfNormal):
        return mpmath.erf(x / (v["scale"] * mpmath.sqrt(2)))
    assert isinstance(law, laws.Exponential)
    return -mpmath.expm1(-v["rate"] * x)


@cache
def exact_masses(law, size):
    """Probabilities of round(α) mod size in fifty digits."""
    if law.cyclic:
        return [mpmath.mpf(1) / size] * size
    low, high = (float(v) for v in law.icdf(torch.tensor([1e-18, 1 - 1e-16], dtype=torch.float64)))
    turns = range(math.floor(low / size) - 2, math.ceil(high / size) + 2)
    edges = {k: exact_cdf(law, k - 0.5) for k in range(turns[0] * size, (turns[-1] + 1) * size + 1)}
    return [sum(edges[t * size + r + 1] - edges[t * size + r] for t in turns) for r in range(size)]


def exact(family):
    """{(tx, ty) modulo the size: probability} in fifty digits."""
    height, width = family.image_size
    x, y = exact_masses(family.laws["tx"], width), exact_masses(family.laws["ty"], height)
    return {(i, j): x[i] * y[j] for i in range(width) for j in range(height)}


def wrapped(point, family):
    height, width = family.image_size
    return int(point[0]) % width, int(point[1]) % height


@pytest.mark.parametrize(
    "family",
    [
        *FAMILIES.values(),
        shifts(laws.Normal(0.0, 50.0), size=(32, 32)),
        shifts(laws.Normal(-700.2, 30.0), size=(9, 16)),
        shifts(laws.LogNormal(1.7, 1e-3), laws.LogNormal(0.5, 1.0)),
        shifts(laws.HalfNormal(2.0), laws.Uniform(-1.3, 7.9)),
        shifts(laws.Normal(0.0, 0.1)),
    ],
)
def test_masses_claim_no_more_than_the_exact_ones(family):
    """The set of shifts whose mass is overstated most stays within the slack; so does every other set."""
    law, truth = FiniteLaw.of(family), exact(family)
    stated = {wrapped(point, family): int(w) for point, w in zip(law.points, law.weights, strict=True)}
    assert len(stated) == len(law.weights)  # every shift at most once
    over = sum(max(mpmath.mpf(w) / 2**62 - truth[key], 0) for key, w in stated.items())
    short = 1 - sum(mpmath.mpf(w) / 2**62 for w in stated.values())
    assert over <= law.slack
    # What no shift has, and what the slack costs, is next to nothing.
    assert abs(short) + law.slack < 1e-8
    assert law.lower(law.cumulative[-1]) <= 1


def test_slack_knows_ill_conditioned_laws():
    """Half of a tiny law lies on either side of 5.5: the rounding of log(5.5) moves mass across."""
    family = shifts(laws.LogNormal(math.log(5.5), 3e-6), laws.UniformCyclic(), size=(1, 16))
    law, truth = FiniteLaw.of(family), exact(family)
    over = sum(
        max(int(w) / mpmath.mpf(2) ** 62 - truth[wrapped(point, family)], 0)
        for point, w in zip(law.points, law.weights, strict=True)
    )
    assert 1e-12 < over <= law.slack


@pytest.mark.parametrize("family", FAMILIES.values())
def test_the_most_probable_shift_comes_first(family):
    law, truth = FiniteLaw.of(family), exact(family)
    along = [float(truth[wrapped(point, family)]) for point in law.points]
    assert all(a >= b - 2.0**-39 for a, b in itertools.pairwise(along))
    assert set(law.points[0]) == {0.0} or family is not FAMILIES["narrow"]
    assert np.abs(law.points).max(axis=0).tolist() == [SIZE[1] // 2, SIZE[0] // 2]


@pytest.mark.parametrize("family", [FAMILIES["uniform"], shifts(laws.Normal(0.0, 1.5))])
def test_tied_shifts_come_in_the_order_of_the_pixels(family):
    law = FiniteLaw.of(family)
    tied = [
        [(key[1], key[0]) for key in (wrapped(point, family) for point in law.points[law.weights >> 22 == mass])]
        for mass in sorted(set((law.weights >> 22).tolist()))
    ]
    assert any(len(keys) > 1 for keys in tied)
    assert all(keys == sorted(keys) for keys in tied)


@pytest.mark.parametrize("h", [0.5, 0.7, 0.99, 1 - 1e-9])
def test_needed_mass_is_the_least_above_the_threshold(h):
    law = FiniteLaw.of(FAMILIES["wide"])
    needed = law.needed(h)
    assert law.lower(needed) > h >= law.lower(needed - 1)
    assert law.needed(1 - 1e-15) is None
    assert law.lower(0) == 0


class Table(nn.Module):
    """Votes by where the brightest pixel is: the shift that was applied to an image whose first one is lit.

    An image's other entries are its own table: the class of each shift, in tenths; 0.9 is a tie.
    """

    def __init__(self, classes=3):
        super().__init__()
        self.classes = classes
        self.seen = []

    def forward(self, images):
        n, _, height, width = images.shape
        lit = images[:, 0].flatten(1)
        where = lit.argmax(dim=1)
        # The trial batch before the votes holds images of another kind.
        if bool((lit.count_nonzero(dim=1) == 1).all()):
            self.seen += where.tolist()
        ty, tx = where // width, where % width
        # The second channel was shifted too: read it where it was before, then at the shift.
        entry = images[:, 1].flatten(1)[torch.arange(n), (2 * ty % height) * width + 2 * tx % width]
        logits = torch.nn.functional.one_hot((10 * entry).round().long() % self.classes, self.classes).float()
        return torch.where(entry[:, None] > 0.85, torch.zeros_like(logits), logits)


def table_image(table):
    """(2, H, W) for a (H, W) table of classes; -1 votes for no class."""
    image = torch.zeros(2, *table.shape)
    image[0, 0, 0] = 1
    image[1] = torch.where(torch.from_numpy(table) < 0, 0.9, torch.from_numpy(table) / 10.0)
    return image


def tables(count, seed=0, classes=3):
    """Tables of all kinds: one class nearly everywhere near the identity, to all classes alike."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        table = rng.integers(-1, classes, SIZE)
        yield np.where(rng.random(SIZE) < rng.choice([0.3, 0.8, 0.95, 1.0]), rng.integers(classes), table)


def probability(table, family, c, beta=(0, 0)):
    """Exact h_c(β) of the classifier of ``table``."""
    height, width = SIZE
    return sum(
        mass for (tx, ty), mass in exact(family).items() if table[(ty + beta[1]) % height, (tx + beta[0]) % width] == c
    )


def visit_one_by_one(law, targets, table, family):
    """The definition: after how many shifts every target is decided, and the mass of each class by then."""
    mass, left = [0, 0, 0], sum(int(w) for w in law.weights)
    for n, (point, weight) in enumerate(zip(law.points, law.weights, strict=True)):
        if not any(law.lower(max(mass)) <= h < law.lower(max(mass) + left) for h in targets):
            return n, mass
        tx, ty = wrapped(point, family)
        left -= int(weight)
        if table[ty, tx] >= 0:
            mass[table[ty, tx]] += int(weight)
    return len(law.weights), mass


@pytest.mark.parametrize("family", FAMILIES.values())
@pytest.mark.parametrize("targets", [[0.5], [0.8], [0.55, 0.9]])
def test_decides_as_a_full_visit_does_and_no_shift_later(family, targets):
    law = FiniteLaw.of(family)
    procedure = Exhaustive(law, {str(h): h for h in targets})
    all_tables = list(tables(60))
    engine = VoteEngine(BaseClassifier(Table(), 3), family, procedure, batch_size=32)
    tallies = {t.index: t for t in engine.run(enumerate(map(table_image, all_tables)))}
    certified = 0
    for index, table in enumerate(all_tables):
        tally = tallies[index]
        n, mass = visit_one_by_one(law, targets, table, family)
        assert (tally.n0, tally.n, tally.mass.tolist()) == (0, n, mass)
        p_lower = procedure.lower_bound(tally)
        assert p_lower == law.lower(max(mass))
        least, most = procedure.bound_range(tally.count, tally.n)
        assert least <= p_lower <= most
        # Never above the truth, in fifty digits.
        truth = [probability(table, family, c) for c in range(3)]
        assert p_lower <= (0 if tally.prediction == ABSTAIN else truth[tally.prediction])
        order = [table[ty, tx] for tx, ty in (wrapped(point, family) for point in law.points)]
        assert tally.count == (tally.prediction != ABSTAIN) * order[:n].count(tally.prediction)
        assert tally.abstained == order[:n].count(ABSTAIN)
        for h in targets:
            # Nothing lies within the slack above the threshold, where the full visit would not certify either.
            assert not 1e-40 < max(truth) - h < 10 * law.slack
            assert (p_lower > h) == (max(truth) - h > 1e-40)
            if p_lower > h:
                assert truth[tally.prediction] == max(truth)
                certified += 1
    assert 10 < certified < 60 * len(targets)


@pytest.mark.parametrize("family", [FAMILIES["narrow"], FAMILIES["wide"]])
def test_certificates_hold_for_every_shift_of_the_region(family):
    """Through Python, and the power: what is not certified lacks the probability that the region requires."""
    classifier = gs.SmoothedClassifier(Table(), family, num_classes=3)
    region = gs.Box(tx=(-1, 1), ty=(0, 1))
    all_tables = list(tables(60, seed=1))
    results = classifier.certify_many([table_image(t) for t in all_tables], region, exhaustive=True)
    for table, result in zip(all_tables, results, strict=True):
        assert result.failure_probability == 0
        assert (result.n0, result.samples_used) == (0, result.n)
        if result.certified:
            for beta in itertools.product((-1, 0, 1), (0, 1)):
                assert probability(table, family, result.prediction, beta) > 0.5
        else:
            truth = max(probability(table, family, c) for c in range(3))
            assert truth <= result.h_min + 1e-9
    assert 5 < sum(result.certified for result in results) < 55
    assert classifier.certify(table_image(all_tables[7]), region, exhaustive=True, seed=9, index=5) == results[7]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_each_shift_is_visited_once_whatever_the_batch(batch_size):
    family = FAMILIES["wide"]
    law, table = FiniteLaw.of(family), next(tables(1))
    model = Table()
    engine = VoteEngine(
        BaseClassifier(model, 3), family, Exhaustive(law, {"a": 0.6}), batch_size=batch_size, clean=True
    )
    (tally,) = engine.run([(0, table_image(table))])
    assert tally.clean == table[0, 0]
    height, width = SIZE
    expected = [(int(ty) % height) * width + int(tx) % width for tx, ty in law.points[: tally.n].tolist()]
    seen = [where for where in model.seen if where]  # padding shows the image itself
    assert sorted(seen) == sorted(where for where in expected if where)
    assert 1 < tally.n < len(law.weights)


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 30, 4))


def test_a_network_on_many_images_in_any_batches():
    images = torch.rand(20, 1, *SIZE, generator=torch.Generator().manual_seed(3))
    family, model = FAMILIES["wide"], small_network()
    law = FiniteLaw.of(family)
    procedure = Exhaustive(law, {"a": 0.55, "b": 0.8})

    def run(batch_size, order=range(20), seed=0):
        engine = VoteEngine(BaseClassifier(model, 4), family, procedure, batch_size=batch_size, seed=seed)
        return {
            t.index: (t.mass.tolist(), t.counting.tolist(), t.n, procedure.lower_bound(t))
            for t in engine.run((i, images[i]) for i in order)
        }

    reference = run(64)
    assert len({value[2] for value in reference.values()}) > 5  # they stop at different places
    assert run(7) == run(1) == run(64, range(19, -1, -1)) == run(64, seed=5) == reference
    with torch.no_grad():
        for i in (0, 11):
            moved = family.transform.apply(images[i].expand(len(law.points), -1, -1, -1), torch.from_numpy(law.points))
            mass, counting, n, _ = reference[i]
            votes = model(moved).argmax(1).numpy()[:n]
            assert counting == np.bincount(votes, minlength=4).tolist()
            assert mass == [int(law.weights[:n][votes == c].sum()) for c in range(4)]


def test_replay_shows_the_first_visits():
    family = FAMILIES["narrow"]
    law = FiniteLaw.of(family)
    engine = VoteEngine(BaseClassifier(Table(), 3), family, Exhaustive(law, {"a": 0.6}))
    table = next(tables(1))
    theta, images, votes = engine.replay(0, table_image(table), 8)
    np.testing.assert_array_equal(theta, law.points[:8])
    assert votes.tolist() == [table[ty, tx] for tx, ty in (wrapped(p, family) for p in law.points[:8])]
    assert images.shape == (8, 2, *SIZE)
    few = FiniteLaw.of(shifts(laws.Normal(0.0, 0.05)))  # hardly any shift has mass
    assert len(few.points) < 8
    engine = VoteEngine(BaseClassifier(Table(), 3), family, Exhaustive(few, {"a": 0.6}))
    assert [len(part) for part in engine.replay(0, table_image(table), 8)] == [len(few.points)] * 3


def test_what_no_shift_can_reach_costs_one_look():
    law = FiniteLaw.of(FAMILIES["wide"])
    procedure = Exhaustive(law, {"a": 1 - 1e-15})
    tally = Tally(0, 2)
    assert procedure.advance(tally) == {Stream.VISITING: 16}
    tally.n = 16
    tally.mass[1] = law.cumulative[16]
    assert procedure.advance(tally) == {}
    assert (tally.prediction, procedure.lower_bound(tally)) == (1, law.lower(law.cumulative[16]))
    assert procedure.draws_range() == (16, 30)
    assert procedure.draws_needed(1 - 1e-15) is None


def test_visits_are_the_fewest_that_can_decide():
    """Every state of a small law, ties with the target included, against the definition."""
    weights = np.array([4, 3, 2, 2, 1])
    law, total = FiniteLaw(np.zeros((5, 1)), weights, 0.0), 12
    for target in range(1, total + 1):
        for n in range(6):
            rest = [weights[n : n + k].sum() for k in range(6 - n)]
            for leader in range(weights[:n].sum() + 1):
                decided = (
                    k for k, more in enumerate(rest) if leader + more >= target or leader + rest[-1] - more < target
                )
                assert fewest_visits(law, [target], leader, n) == next(decided)


def test_fewest_shifts():
    law = FiniteLaw.of(FAMILIES["wide"])
    procedure = Exhaustive(law, {"a": 0.8})
    needed = procedure.draws_needed(0.8)
    assert law.lower(law.cumulative[needed]) > 0.8 >= law.lower(law.cumulative[needed - 1])
    # An image is given up at the earliest when a fifth of the mass has voted for no class.
    fewest, most = procedure.draws_range()
    left = int(law.cumulative[-1]) - law.cumulative
    assert law.lower(left[fewest]) <= 0.8 < law.lower(left[fewest - 1])
    assert fewest < needed
    assert most == len(law.weights)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (SmoothedFamily(Brightness(), {"brightness": laws.Normal(0.0, 1.0)}), "brightness of brightness has a cont"),
        (
            SmoothedFamily(
                ContrastBrightness(), {"contrast": laws.LogNormal(0.0, 1.0), "brightness": laws.Normal(0.0, 1.0)}
            ),
            "contrast of contrast_brightness",
        ),
        (shifts(laws.Normal(0.0, 1.0), size=None), r"image_size=\(H, W\)"),
        (shifts(laws.Normal(0.0, 1.0), pixel_noise=0.1), "pixel_noise=0.1"),
        (
            SmoothedFamily(
                Translation(padding="reflect"),
                {"tx": laws.Normal(0.0, 1.0), "ty": laws.Normal(0.0, 1.0)},
                image_size=SIZE,
            ),
            "padding=cyclic",
        ),
    ],
)
def test_what_is_not_finite_is_refused(family, message):
    with pytest.raises(UserError, match=f"monte_carlo=exhaustive: .*{message}"):
        FiniteLaw.of(family)
    classifier = gs.SmoothedClassifier(Table(), family, num_classes=3)
    with pytest.raises(UserError, match=message):
        classifier.certify(torch.rand(2, *SIZE), gs.Points([{}]), exhaustive=True)


def test_random_networks_are_refused():
    """Their votes would be samples, and the certificate would have an error after all."""
    classifier = gs.SmoothedClassifier(Table(), FAMILIES["wide"], num_classes=3, stochastic=True)
    with pytest.raises(UserError, match="stochastic=true: monte_carlo=exhaustive"):
        classifier.certify(torch.rand(2, *SIZE), gs.Box(tx=(-1, 1)), exhaustive=True)


def test_arguments_that_do_not_go_together():
    classifier = gs.SmoothedClassifier(Table(), FAMILIES["wide"], num_classes=3)
    for other in ("sequential", "runner_up"):
        with pytest.raises(ValueError, match=f"{other}=True"):
            classifier.certify(torch.rand(2, *SIZE), gs.Box(tx=(-1, 1)), exhaustive=True, **{other: True})
    with pytest.raises(ValueError, match=r"a=0\.4 is not a required probability"):
        Exhaustive(FiniteLaw.of(FAMILIES["wide"]), {"a": 0.4})


def test_a_torus_of_too_many_shifts_is_refused():
    with pytest.raises(UserError, match=r"image_size=\[4096, 2048\] has 8388608 shifts, more than the 4194304"):
        FiniteLaw.of(shifts(laws.Normal(0, 2), laws.Normal(0, 2), size=(4096, 2048)))


def test_a_description_is_what_decides():
    law = FiniteLaw.of(FAMILIES["wide"])
    assert Exhaustive(law, {"a": 0.6}, "majority").describe() == {
        "name": "exhaustive", "n0": 0, "n": 30, "alpha": 0.0, "vote": "majority", "stopped_for": {"a": 0.6},
    }  # fmt: skip
