"""The cube of a search: all of its points are parameters of the region, and its corners are reached."""

import math

import numpy as np
import pytest
import torch

import glsmooth as gs
from glsmooth.attacks.space import Space
from glsmooth.errors import UserError
from glsmooth.family.sizes import scaled

AFFINE = gs.SmoothedFamily(
    gs.transforms.ContrastBrightness(), {"contrast": gs.LogNormal(0, 0.6), "brightness": gs.Normal(0, 0.6)}
)
SHIFTS = {"tx": gs.Normal(0, 3), "ty": gs.Normal(0, 3)}
TORUS = gs.SmoothedFamily(gs.transforms.Translation(), SHIFTS, (16, 16))
PLANE = gs.SmoothedFamily(gs.transforms.Translation(), SHIFTS)

REGIONS = [
    (AFFINE, gs.Box(contrast=(0.7, 1.4), brightness=(-0.2, 0.2))),
    (AFFINE, gs.Box(contrast=(0.7, 1.4))),
    (AFFINE, gs.Box(contrast=(1.2, 1.2), brightness=(0.1, 0.3))),
    (AFFINE, gs.Ball(0.3, contrast=1, brightness=0)),
    (AFFINE, gs.Ball(0.3, contrast=1.2, brightness=0.1)),
    (TORUS, gs.Box(tx=(-2.6, 2.6), ty=(0, 1))),
    (TORUS, gs.Ball(3.5, tx=0, ty=0)),
    (TORUS, gs.Ball(0.4, tx=0, ty=0)),
    (TORUS, gs.Points([{"tx": 1}, {"ty": 2}])),
]


def points(space):
    every = [space.corners(), space.grid(200)]
    if space.dimensions:
        rng = np.random.default_rng(0)
        u = torch.from_numpy(space.random(300, rng))
        every += [space.parameters(u), space.parameters(u.round())]
    return torch.cat(every)


@pytest.mark.parametrize(("family", "region"), REGIONS, ids=[str(region) for _, region in REGIONS])
def test_every_point_is_in_the_region(family, region):
    space = Space(family, region)
    found = points(space)
    assert len(found) > 1 or isinstance(region, gs.Ball)
    for beta in found:
        assert space.contains(beta), beta


def test_the_ends_are_reached_and_whole_shifts_are_whole():
    corners = Space(AFFINE, REGIONS[0][1]).corners().tolist()
    assert {(0.7, -0.2), (0.7, 0.2), (1.4, -0.2), (1.4, 0.2)} <= set(map(tuple, corners))
    shifts = points(Space(TORUS, gs.Box(tx=(-2.6, 2.6), ty=(0, 1))))
    assert shifts.frac().abs().max() == 0
    assert {tuple(row) for row in shifts.tolist()} == {(float(x), float(y)) for x in range(-2, 3) for y in (0, 1)}
    # On the plane a box covers what its values are rounded to.
    assert Space(PLANE, gs.Box(tx=(-2.6, 2.6))).corners()[:, 0].min() == -3


def test_a_region_without_a_whole_shift_is_refused():
    with pytest.raises(UserError, match="tx: the region holds no whole"):
        Space(TORUS, gs.Box(tx=(0.2, 0.8)))


@pytest.mark.parametrize(("family", "region"), REGIONS[:5], ids=[str(region) for _, region in REGIONS[:5]])
def test_a_parameter_and_its_point_of_the_cube(family, region):
    space = Space(family, region)
    u = torch.from_numpy(space.random(50, np.random.default_rng(1)))
    beta = space.parameters(u)
    again = space.parameters(torch.from_numpy(np.stack([space.cube(row) for row in beta.tolist()])))
    assert torch.allclose(beta, again, atol=1e-9)


def test_parameters_are_differentiable():
    u = torch.full((1, 2), 0.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(Space(AFFINE, REGIONS[0][1]).parameters(u).sum(), u)
    assert slope[0, 1].item() == pytest.approx(0.4)
    assert slope[0, 0].item() == pytest.approx(0.7 * 2**0.3 * math.log(2))


def test_sizes_are_those_of_scaled_regions():
    region = gs.Box(contrast=(0.7, 1.4), brightness=(-0.2, 0.2))
    space = Space(AFFINE, region)
    assert space.has_sizes
    for size in (0.25, 0.5, 1.0, 1.5):
        moved = space.outward(space.corners(), torch.full((8,), size, dtype=torch.float64))
        inside = scaled(AFFINE.transform, region, size * (1 + 1e-9))
        outside = scaled(AFFINE.transform, region, size * (1 - 1e-9))
        for beta in moved:
            values = dict(zip(AFFINE.parameters, beta.tolist(), strict=True))
            assert space.size(beta) == pytest.approx(size)
            assert inside.contains(values)
            assert not outside.contains(values)


def test_regions_without_the_identity_have_no_sizes():
    assert not Space(AFFINE, gs.Box(contrast=(1.2, 1.4))).has_sizes
    assert not Space(AFFINE, gs.Ball(0.5, contrast=1.2, brightness=0)).has_sizes
    assert not Space(TORUS, gs.Points([{"tx": 1}])).has_sizes
    assert Space(AFFINE, gs.Box(contrast=(1.0, 1.4))).size(torch.tensor([0.9, 0.0], dtype=torch.float64)) == math.inf
