"""Draws on a grid: the probabilities are those that are said, and so are the bounds."""

import math

import numpy as np
import pytest
import torch
from flint import arb

import glsmooth as gs
from glsmooth.errors import UserError
from glsmooth.family.grid import ALLOWANCE, Grid
from glsmooth.runs import verify

T = gs.transforms
UNITS = 2**52

CASES = {
    "brightness, normal": (T.Brightness(), {"brightness": gs.Normal(0.1, 0.3)}, {"brightness": 0.4}),
    "brightness, laplace": (T.Brightness(), {"brightness": gs.Laplace(0.0, 0.3)}, {"brightness": -0.3}),
    "brightness, uniform": (T.Brightness(), {"brightness": gs.Uniform(-1.0, 1.3)}, {"brightness": 0.2}),
    "contrast, log-normal": (T.Contrast(), {"contrast": gs.LogNormal(0.0, 0.4)}, {"contrast": 1.4}),
    "contrast, uniform": (T.Contrast(), {"contrast": gs.Uniform(0.4, 2.0)}, {"contrast": 0.8}),
    "gamma, rayleigh": (T.Gamma(), {"gamma": gs.Rayleigh(0.7)}, {"gamma": 1.5}),
    "gamma, exponential": (T.Gamma(), {"gamma": gs.Exponential(1.1)}, {"gamma": 0.7}),
    "blur, half-normal": (T.GaussianBlur(), {"blur": gs.HalfNormal(3.0)}, {"blur": 2.0}),
    "blur, rayleigh": (T.GaussianBlur(), {"blur": gs.Rayleigh(3.0)}, {"blur": 2.0}),
    "blur, exponential": (T.GaussianBlur(), {"blur": gs.Exponential(0.3)}, {"blur": 1.0}),
}


def family_of(case, draws="grid", **kwargs):
    transform, laws, _ = CASES[case]
    return gs.SmoothedFamily(transform, laws, draws=draws, **kwargs)


def masses(grid: Grid) -> np.ndarray:
    """Of each cell, in units of 2^-52, exactly."""
    return np.diff(grid.below.numpy(), prepend=0)


@pytest.mark.parametrize("case", CASES)
def test_probabilities_are_those_of_the_law(case):
    """Enclosed by the checker's own distribution functions; the sum of all differences is at most 2ε."""
    (grid,) = family_of(case).grids.values()
    ((_, law),) = CASES[case][1].items()
    checker = verify.Law.of({"law": type(law).__name__, **law.values})
    found = masses(grid)
    assert found.sum() == UNITS
    assert (found >= 0).all()
    ends = [arb(2) ** (arb(j) * grid.width) if grid.log else arb(j) * grid.width for j in grid_ends(grid)]
    lower = [arb(0), *(checker.tails(end)[0] for end in ends[1:-1]), arb(1)]
    total = sum((abs(arb(int(q)) / UNITS - (b - a)) for q, a, b in zip(found, lower, lower[1:], strict=False)), arb(0))
    assert total.upper() <= 2 * grid.error
    assert 3 * grid.error <= ALLOWANCE / 5


def grid_ends(grid: Grid) -> range:
    return range(grid.first, grid.first + len(grid.below) + 1)


@pytest.mark.parametrize("case", CASES)
def test_draws_are_what_the_table_says(case):
    """Each of the 2^52 uniforms has its cell: the first and last of some cells, and a sample."""
    family = family_of(case)
    (grid,) = family.grids.values()
    below = grid.below.numpy()
    wide = np.flatnonzero(masses(grid) > 1)[:: max(1, len(below) // 50)]
    first = np.where(wide > 0, below[wide - 1], 0)
    for units in (first, below[wide] - 1):
        u = torch.from_numpy((units.astype(np.float64) + 0.5) / UNITS)
        assert torch.equal(grid.values(u), place(grid, wide))
    drawn = family.sample(100_000, torch.Generator().manual_seed(0))[:, 0]
    steps = (torch.log2(drawn) if grid.log else drawn) / grid.width - 0.5
    assert torch.allclose(steps, steps.round(), atol=1e-9)
    ((_, law),) = CASES[case][1].items()
    for level in (0.1, 0.5, 0.9):
        share = float((drawn <= law.icdf(torch.tensor(level, dtype=torch.float64))).double().mean())
        # A cell's mass at either end, and four standard deviations.
        assert abs(share - level) < 4 * math.sqrt(level * (1 - level) / 1e5) + 0.003


def place(grid: Grid, cells: np.ndarray) -> torch.Tensor:
    middle = (torch.from_numpy(cells).to(torch.float64) + grid.first + 0.5) * grid.width
    return torch.exp2(middle) if grid.log else middle


def attained(family: gs.SmoothedFamily, moves: int) -> float:
    """The most that a class can have before a move and exactly 1/2 after it: Neyman-Pearson of the very table."""
    (grid,) = family.grids.values()
    before, after = masses(grid).astype(object), np.zeros(len(grid.below), dtype=object)
    empty = np.zeros(abs(moves), dtype=object)
    before = np.concatenate([before, empty] if moves > 0 else [empty, before])
    after = np.concatenate([empty, masses(grid)] if moves > 0 else [masses(grid), empty])
    ratio = np.array([math.inf if a == 0 else b / a for a, b in zip(after, before, strict=True)])
    order = np.argsort(-ratio, kind="stable")  # what keeps most of before for the least of after
    kept = lost = 0
    for cell in order:
        if lost + after[cell] > UNITS // 2:
            return (kept + before[cell] * (UNITS // 2 - lost) / after[cell]) / UNITS
        kept, lost = kept + before[cell], lost + after[cell]
    return 1.0


@pytest.mark.parametrize("case", CASES)
def test_bound_is_that_of_the_very_law_that_is_drawn(case):
    """No classifier of cells refutes it at any β of the grid, and some come near."""
    family, beta = family_of(case), CASES[case][2]
    ((name, end),) = beta.items()
    (grid,) = family.grids.values()
    moves = math.trunc((math.log2(end) if grid.log else end) / grid.width)
    value = 2.0 ** (moves * grid.width) if grid.log else moves * grid.width
    worst = gs.required_probability(family, gs.Points([{name: value}]))
    found = attained(family, moves)
    assert found <= worst < found + 2e-3
    assert worst == pytest.approx(
        gs.required_probability(family.continuous, gs.Points([{name: value}])) + ALLOWANCE, abs=1e-15
    )


def test_shifts_of_whole_pixels_keep_their_law():
    """On the plane cells lie around whole numbers, so that the law of what is applied does not change."""
    laws = {"tx": gs.Normal(0.0, 2.0), "ty": gs.Uniform(-3.0, 3.0)}
    family = gs.SmoothedFamily(T.Translation(), laws, draws="grid")
    assert family.grids["tx"].width == 1
    tx = family.grids["tx"]
    normal = torch.distributions.Normal(0.0, 2.0)
    for cell in (-3, 0, 2):
        expected = normal.cdf(torch.tensor(cell + 0.5, dtype=torch.float64)) - normal.cdf(
            torch.tensor(cell - 0.5, dtype=torch.float64)
        )
        assert masses(tx)[cell - tx.first] / UNITS == pytest.approx(float(expected), abs=1e-12)
    drawn = family.sample(1000, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, drawn.round())


def test_a_cycle_is_visited_evenly():
    laws = {"tx": gs.UniformCyclic(), "ty": gs.UniformCyclic()}
    family = gs.SmoothedFamily(T.Translation(), laws, image_size=(28, 30), draws="grid")
    assert set(masses(family.grids["tx"])) == {UNITS // 30, UNITS // 30 + 1}
    drawn = family.sample(1000, torch.Generator().manual_seed(1))
    assert drawn.min() == 0
    assert drawn.amax(0).tolist() == [29, 27]


def test_a_residual_costs_what_it_costs_and_the_grid_comes_on_top():
    family = family_of("brightness, normal", pixel_noise=0.5)
    region = gs.Box(brightness=(-0.2, 0.2))
    near = gs.bounds.certify_near(family, region, residual=0.25)
    assert near.h_min == gs.bounds.certify_near(family.continuous, region, residual=0.25).h_min + ALLOWANCE


def test_independent_parameters_share_the_cost():
    laws = {"brightness": gs.Normal(0.0, 0.3), "tx": gs.Normal(0.0, 3.0), "ty": gs.Normal(0.0, 3.0)}
    family = gs.SmoothedFamily(T.BrightnessTranslation(), laws, image_size=(32, 32), draws="grid")
    region = gs.Box(brightness=(-0.2, 0.2), tx=(-1, 1))
    outcome = gs.bounds.certify_region(family, region)
    plain = gs.bounds.certify_region(family.continuous, region)
    assert outcome.h_min == plain.h_min + ALLOWANCE
    assert "on the grid" in outcome.argument
    # With two classes the runner-up's form is the same comparison.
    for p in (outcome.h_min - 1e-6, outcome.h_min + 1e-6):
        assert gs.bounds.certifies_runner_up(family, region, p, 1 - p) == (p > outcome.h_min)


@pytest.mark.parametrize("case", CASES)
def test_points_off_the_grid_are_refused_and_the_nearest_one_is_not(case):
    """No certificate speaks of them."""
    family = family_of(case)
    ((name, end),) = CASES[case][2].items()
    (grid,) = family.grids.values()
    value = 1.0003 * end
    with pytest.raises(UserError, match=rf"draws=grid: {name}={value} is no point of the grid; give ") as error:
        gs.required_probability(family, gs.Points([{}, {name: value}]))
    near = float(str(error.value).rpartition(" ")[2])
    assert abs(near - value) < grid.width * max(1.0, value)
    assert gs.required_probability(family, gs.Points([{name: near}])) > 0.5


@pytest.mark.parametrize(
    ("transform", "laws", "said"),
    [
        (
            T.ContrastBrightness(),
            {"contrast": gs.LogNormal(0, 0.3), "brightness": gs.Normal(0, 0.3)},
            "contrast of contrast_brightness is not shifted or rescaled by itself alone",
        ),
        (T.Brightness(), {"brightness": gs.LogNormal(0.0, 4.0)}, "reach too far"),
        (T.Contrast(), {"contrast": gs.LogNormal(0.0, 1e-4)}, "too narrow"),
    ],
)
def test_what_has_no_grid_says_why(transform, laws, said):
    with pytest.raises(UserError, match=said):
        gs.SmoothedFamily(transform, laws, draws="grid")


def test_unknown_draws_suggest_the_near_name():
    with pytest.raises(UserError, match="did you mean 'grid'"):
        gs.SmoothedFamily(*CASES["brightness, normal"][:2], draws="girds")
