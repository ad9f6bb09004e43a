"""Interval arithmetic with derivatives: whatever torch computes inside an interval lies in what is computed of it."""

import math

import pytest
import torch

from glsmooth.bounds.enclosure import Enclosure, Unenclosed, determinant

ONE = torch.ones((), dtype=torch.float64)

#: Functions of x (n, 2), a point, and of b (2,), an interval.
FUNCTIONS = {
    "arithmetic": lambda x, b: 2 - 0.1 * x[:, 0] * b[0] + (x[:, 1] - 3 * b[1]) / 2 - -x[:, 0] + (ONE - b[0]) * ONE,
    "quotients": lambda x, b: (
        1 / (2 + b[0]) + x[:, 0] / (b[1] + 4) + ONE / (x[:, 1] ** 2 + 1) + (b[0] + 5).reciprocal()
    ),
    "whole powers": lambda x, b: (x[:, 0] - b[0]) ** 2 + (x[:, 1] + b[1]) ** 3 + (3 + b[0]) ** -2 + b[1].square(),
    "a square around zero": lambda x, b: torch.pow(b[0] * x[:, 0], 2) + torch.square(b[1] - x[:, 1]),
    "real powers": lambda x, b: (3 + b[0]) ** x[:, 0] + (2.5 + b[1]) ** 0.5 + 2 ** b[1] + (3 + x[:, 1]) ** b[0],
    "exponentials": lambda x, b: (
        torch.exp(b[0] * x[:, 0]) + torch.exp2(b[1]) * torch.expm1(b[1]) + (x[:, 1] - b[0]).exp()
    ),
    "logarithms": lambda x, b: (
        torch.log(3 + b[0] + x[:, 0]) - torch.log2(4 + b[1]) + torch.log1p(b[1] / 3) + (x[:, 1] + 4).log() * b[0]
    ),
    "roots": lambda x, b: torch.sqrt(3 + b[0]) * x[:, 0] + (4 + x[:, 1] - b[1]).sqrt(),
    "tanh": lambda x, b: torch.tanh(b[0] + x[:, 0]) - torch.tanh(x[:, 1] * b[1]),
    "sines": lambda x, b: torch.sin(2 * b[0] + x[:, 0]) + torch.cos(3 * b[1] - x[:, 1]) * torch.cos(b[0]),
    "moves": lambda x, b: torch.cat((torch.stack(x.unbind(-1), dim=1), b.expand_as(x)), dim=-1)[..., 1:3].unsqueeze(0),
    "parts": lambda x, b: (
        torch.broadcast_tensors(x.split([1, 1], dim=-1)[1][:, 0] * b[1], x[:, 0])[0] + torch.ones_like(b[0])
    ),
}


def boxes(n, generator):
    """Random intervals of b of all widths, some around 0, some that are points."""
    centre = 2 * torch.rand(n, 2, dtype=torch.float64, generator=generator) - 1
    width = torch.rand(n, 1, dtype=torch.float64, generator=generator) ** 4
    width[::7] = 0
    return centre - width / 2, centre + width / 2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_slopes_lie_inside(name):
    function, generator = FUNCTIONS[name], torch.Generator().manual_seed(0)
    low, high = boxes(60, generator)
    x = 2 * torch.rand(50, 2, dtype=torch.float64, generator=generator) - 1
    tight = False
    for ends in zip(low, high, strict=True):
        found = function(Enclosure.variables(x), Enclosure(*ends))
        share = torch.rand(40, 2, dtype=torch.float64, generator=generator)
        share[:3] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        for part in share:
            leaf = x.clone().requires_grad_()
            value = function(leaf, torch.lerp(*ends, part))
            assert bool((found.low <= value).all() and (value <= found.high).all())
            for j, slope in enumerate(found.slopes):
                (by_x,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True, materialize_grads=True)
                # Rows do not mix, and each function has one output a row, but for the moves.
                if value.ndim == 1:
                    assert bool((slope.low <= by_x[:, j]).all() and (by_x[:, j] <= slope.high).all())
        if bool((ends[0] == ends[1]).all()):
            tight = True
            assert float((found.high - found.low).max()) < 1e-11  # a point stays one
            assert all(float((slope.high - slope.low).max()) < 1e-11 for slope in found.slopes)
    assert tight


def test_slopes_of_moved_numbers_follow_them():
    x = torch.rand(5, 2, dtype=torch.float64)
    found = FUNCTIONS["moves"](Enclosure.variables(x), Enclosure(*[torch.zeros(2, dtype=torch.float64)] * 2))
    assert found.shape == (1, 5, 2)
    assert found.slopes[0].low.abs().max() == 0
    assert torch.equal(found.slopes[1].low[0], torch.tensor([[1.0, 0.0]] * 5, dtype=torch.float64))


def between(low, high):
    return Enclosure(torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64))


@pytest.mark.parametrize(
    "value",
    [
        lambda: 1 / between(-1, 1),
        lambda: 1 / between(0, 1),
        lambda: between(-1, 1) ** -1,
        lambda: between(-0.1, 1).log(),
        lambda: between(-0.1, 1).sqrt(),
        lambda: between(-0.1, 1) ** 0.5,
        lambda: (1 / between(-1, 1)) * 0,
        lambda: torch.sin(between(1e10, 1e10)),
    ],
)
def test_what_cannot_be_known_is_nan(value):
    found = value()
    assert bool((found.low.isnan() | found.high.isnan() | (found.low == -math.inf)).all())


@pytest.mark.parametrize(("low", "high"), [(1.5, 1.6), (-1.6, -1.5), (0, 7), (4.7, 4.72), (-3.2, -3.1), (1e6, 1e6 + 1)])
def test_turning_points_of_the_sine(low, high):
    found = torch.sin(between(low, high))
    values = torch.sin(torch.linspace(low, high, 10_001, dtype=torch.float64))
    assert float(found.low) <= float(values.min())
    assert float(found.high) >= float(values.max())
    assert float(found.high - found.low) < float(values.max() - values.min()) + 1e-6


@pytest.mark.parametrize(
    ("operation", "named"),
    [
        (lambda x: torch.where(x > 0, x, x), "a comparison"),
        (lambda x: x if x else -x, "a comparison"),
        (lambda x: x == 1, "a comparison"),
        (lambda x: torch.where(torch.tensor([True]), x, x), "where"),
        (lambda x: x.abs(), "abs"),
        (lambda x: x.clamp(min=0), "clamp"),
        (lambda x: x.item(), "item"),
        (lambda x: x.add_(1), "add_"),
        (lambda x: x.is_cuda, "is_cuda"),
        (lambda x: x.__iadd__(1), "in place"),
        (lambda x: torch.add(x, x, alpha=2), "add with alpha"),
        (lambda x: x.float(), "float"),
        (lambda x: x * torch.tensor(1j), "a complex number"),
    ],
)
def test_what_is_not_known_is_refused_by_name(operation, named):
    with pytest.raises(Unenclosed, match=named):
        operation(between(1, 2))


def test_numbers_cannot_be_taken_out():
    with pytest.raises(TypeError):
        math.exp(between(1, 2))
    with pytest.raises(TypeError):
        float(between(1, 2))


def test_determinants_lie_inside():
    generator = torch.Generator().manual_seed(0)
    for d in (1, 2, 3, 4):
        low = torch.rand(d, d, 20, dtype=torch.float64, generator=generator) - 0.5
        high = low + 0.2 * torch.rand(d, d, 20, dtype=torch.float64, generator=generator)
        found = determinant([[Enclosure(low[i, j], high[i, j]) for j in range(d)] for i in range(d)])
        for _ in range(20):
            inside = torch.lerp(low, high, torch.rand(low.shape, dtype=torch.float64, generator=generator))
            value = torch.linalg.det(inside.permute(2, 0, 1))
            assert bool((found.low <= value + 1e-15).all() and (value <= found.high + 1e-15).all())
