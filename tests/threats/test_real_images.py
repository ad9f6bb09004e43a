"""Residual bounds at 20,000 random parameters: of real images, and of those that are hard for bounds.

What the attacker does is computed here, by torch's own functions, in the images' dtype. A bound must never be below
what is attained, and no more above it than it says.
"""

import math

import pytest
import torch

import glsmooth as gs

from .images import by_torch, checkerboard, cifar, digit, noise, photograph, spike

Rotation, Scaling = gs.threats.Rotation, gs.threats.Scaling

pytestmark = pytest.mark.usefixtures("one_thread")

#: Parameters of each image, and as many around the worst of them.
RANDOM, AROUND = 20_000, 500
TOLERANCE = 0.01


def attacked(threat, image, beta, reference):
    """Rows (N, C, H, W): warped, pushed straight away from the reference and rounded."""
    rows = by_torch(threat, image.expand(len(beta), -1, -1, -1), beta)
    if threat.l2:
        away = (rows - reference).double() + 1e-12  # some direction, where there is no distance
        length = away.flatten(1).norm(dim=1)[:, None, None, None]
        rows = rows + (threat.l2 * away / length).to(rows)
    return (rows.clamp(0, 1) * 255).round() / 255 if threat.round8 else rows


def distances(threat, image, beta, reference):
    return torch.cat(
        [
            (attacked(threat, image, part, reference) - reference).double().flatten(1).norm(dim=1)
            for part in beta.split(500)
        ]
    )


def furthest(threat, image, reference, low, high, seed=0):
    """Largest distance at random parameters, at the ends, and around the worst of these."""
    beta = low + (high - low) * noise(RANDOM, seed=seed)
    beta[:2] = torch.tensor([low, high])
    found = distances(threat, image, beta, reference)
    worst, step = beta[found.argmax()], 4 * (high - low) / RANDOM
    near = (worst + step * torch.linspace(-1, 1, AROUND, dtype=torch.float64)).clamp(low, high)
    return max(float(found.max()), float(distances(threat, image, near, reference).max()))


def holds(threat, image, low, high, reference=None):
    """The bound is not below what is attained, nor far above it."""
    reference = threat.centre(image, low, high) if reference is None else reference
    found = threat.residual(image, reference, low, high, tolerance=TOLERANCE)
    truth = furthest(threat, image, reference, low, high)
    assert truth <= float(found.upper)
    # Rounding may move every pixel by half a level, and seldom moves them all away. Nor do perturbations reach as far
    # as they may where what leaves [0, 1] is cut off.
    rounding = math.sqrt(image.numel()) / 510 if threat.round8 else 0.0
    slack = TOLERANCE + 1e-3 + 1e-4 * truth  # parameters are not everywhere, numbers are rounded
    assert float(found.upper) <= float(found.attained) + threat.l2 + rounding + slack
    assert float(found.attained) <= truth + rounding + slack
    if not threat.round8:
        assert float(found.upper) <= truth + slack


def threats(**options):
    return [
        (Rotation(**options), (-30, 30)),
        (Rotation("disk", **options), (-30, 30)),
        (Scaling(**options), (0.8, 1.2)),
    ]


OPTIONS = [{}, {"round8": True}, {"l2": 0.05}, {"round8": True, "l2": 0.05}]
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("index", [21])
def test_digits(index, options, dtype):
    """In every way that there is."""
    for threat, (low, high) in threats(**options):
        holds(threat, digit(index).to(dtype), low, high)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_photographs(index, k):
    threat, ends = threats(**OPTIONS[k])[(k + index) % 3]
    holds(threat, photograph(index, 20).to(DTYPES[(k + index) % 2]), *ends)


@pytest.mark.skipif(not cifar(3), reason="no images of CIFAR-10: set CIFAR10_IMAGES to a folder of them")
@pytest.mark.parametrize("k", range(3))
def test_cifar(k):
    threat, ends = threats(**OPTIONS[k])[k]
    holds(threat, cifar(3)[k].to(DTYPES[k % 2]), *ends)


def border(size):
    image = torch.zeros(1, 1, size, size)
    image[..., [0, -1], :] = image[..., [0, -1]] = 1
    return image


STRIPES = (torch.arange(12) % 2).float().expand(1, 1, 12, 12)
HARD = {
    "checkerboard": checkerboard(12),
    "checkerboard of blocks": checkerboard(6).repeat_interleave(2, 2).repeat_interleave(2, 3),
    "stripes": STRIPES,
    "bright centre": spike(11, 5, 5),
    "bright pixel": spike(12, 3, 8),
    "bright corner": spike(12, 0, 0),
    "bright pixel at the border": spike(12, 11, 5),
    "border": border(12),
    "edge at the border": torch.cat((torch.ones(1, 1, 12, 1), torch.zeros(1, 1, 12, 11)), dim=3),
    "white": torch.ones(1, 2, 9, 14),
    "black and white": noise(1, 3, 10, 13, seed=5).round(),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_images(name):
    """Each with half of the warps, over wide and over short intervals, with options and dtypes by turns."""
    first = list(HARD).index(name)
    cases = [
        *((Rotation, mask, ends) for mask in (None, "disk") for ends in ((-180, 180), (40, 50), (89.9, 90.1))),
        *((Scaling, None, ends) for ends in ((0.5, 2), (0.97, 1.03))),
    ]
    for k in range(first % 2, len(cases), 2):
        kind, mask, ends = cases[k]
        k += first
        threat = kind(**OPTIONS[k % 4], **({"mask": mask} if mask else {}))
        image = HARD[name].to(DTYPES[k // 4 % 2])
        holds(threat, image, *ends, reference=image if k % 3 == 0 else None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_of_any_size(dtype):
    for threat, ends in threats(l2=0.5):
        holds(threat, (50 * noise(1, 2, 8, 8) - 20).to(dtype), *ends)
        holds(threat, (1e-3 * noise(1, 2, 8, 8)).to(dtype), *ends)


@pytest.mark.parametrize("l2", [0.0, 1e-3])
@pytest.mark.parametrize("still", [True, False])
def test_rounding_may_move_every_pixel_away(still, l2):
    """Grey between two levels, of pixels that never change or of those that all do, by next to nothing."""
    image = (127.5 + (torch.zeros(1, 1, 8, 8) if still else 2e-4 * checkerboard(8) - 1e-4)) / 255
    threat, plain = Rotation("disk", round8=True, l2=l2), Rotation("disk")
    image = plain.warp(image.double(), 0.0)
    found = threat.residual(image, image, 0.0, 1e-3, tolerance=1e-4)
    attained = float((threat.apply(image, 1e-3) - image).norm())
    kept = math.sqrt(int(threat.kept(8, 8).sum())) / 510
    assert 0.999 * kept < attained <= float(found.upper)
    assert float(found.upper) <= l2 + (math.sqrt(64) / 510 if l2 else kept) + 2e-4


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_slices_of_a_digit(options):
    """Every parameter is in a slice whose residual it keeps, the edges in both."""
    for threat, (low, high) in threats(**options):
        image = digit(4)
        slices = threat.slices(image[0], low, high, 0.35)
        assert len(slices) > 3
        beta = torch.cat((low + (high - low) * noise(RANDOM), slices.edges))
        for k in range(len(slices)):
            inside = beta[(beta >= slices.edges[k]) & (beta <= slices.edges[k + 1])]
            assert len(inside) > 300
            far = distances(threat, image, inside, slices.references[k : k + 1])
            assert float(far.max()) <= float(slices.residual[k]) <= 0.35
