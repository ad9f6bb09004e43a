"""Residual bounds against the truth: attacked images at many parameters, by torch's own functions."""

import math

import numpy as np
import pytest
import torch

import glsmooth as gs
from glsmooth.errors import UserError
from glsmooth.threats.paths import Paths
from glsmooth.threats.supremum import supremum

from .images import by_torch, checkerboard, largest, noise, photograph, spike

ROTATIONS = (gs.threats.Rotation(), gs.threats.Rotation(mask="disk"))
SCALING = gs.threats.Scaling()

pytestmark = pytest.mark.usefixtures("one_thread")

# ------------------------------------------------------------------------------------------------------------ warps


@pytest.mark.parametrize("threat", [*ROTATIONS, SCALING], ids=str)
@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (3, 2, 5, 9), (3, 1, 1, 1)])
def test_warps_are_torchs(threat, shape):
    images = noise(*shape)
    beta = torch.tensor([0.7, 1.3, 31.0 if threat.name == "rotation" else 2.0], dtype=torch.float64)
    torch.testing.assert_close(threat.warp(images, beta), by_torch(threat, images, beta), rtol=0, atol=1e-12)


def test_rotations_are_counter_clockwise():
    image = noise(2, 3, 6, 6)
    torch.testing.assert_close(gs.threats.Rotation().warp(image, 90.0), torch.rot90(image, 1, (2, 3)))


def test_identities():
    image = noise(1, 1, 6, 7)
    for threat in (gs.threats.Rotation(), SCALING):
        torch.testing.assert_close(threat.warp(image, threat.identity), image)


def test_the_mask_keeps_what_never_leaves_the_image():
    image = torch.ones(1, 1, 9, 9)
    threat = gs.threats.Rotation(mask="disk")
    for angle in (0.0, 17.0, 45.0):
        torch.testing.assert_close(threat.warp(image, angle)[0, 0], threat.kept(9, 9).float())
    assert 49 <= int(threat.kept(9, 9).sum()) <= 53


def test_warps_are_continuous_at_the_border():
    images = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    for threat in (gs.threats.Rotation(), SCALING):
        beta = threat.identity + torch.linspace(-0.1, 0.1, 400, dtype=torch.float64)
        steps = threat.warp(images.expand(400, -1, -1, -1), beta).diff(dim=0).flatten(1).norm(dim=1)
        assert float(steps.max()) < 0.02


def test_warps_have_gradients():
    image, beta = noise(1, 1, 5, 5).requires_grad_(), torch.tensor([10.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gs.threats.Rotation().warp, (image, beta))


def test_apply_perturbs_and_rounds():
    threat = gs.threats.Rotation(round8=True, l2=0.5)
    image, push = noise(2, 3, 8, 8), noise(2, 3, 8, 8, seed=1) - 0.5
    warped, attacked = threat.warp(image, 20.0), threat.apply(image, 20.0, 100 * push)
    assert torch.equal((attacked * 255).round() / 255, attacked)
    distances = (attacked - warped).flatten(1).norm(dim=1)
    assert (distances <= 0.5 + math.sqrt(192) / 510).all()
    assert (distances > 0.4).all()
    torch.testing.assert_close(gs.threats.Rotation(l2=0.5).apply(image, 20.0, 1e-3 * push), warped + 1e-3 * push)


# ---------------------------------------------------------------------------------------------------------- bounds

IMAGES = {
    "checkerboard": checkerboard(8),
    "spike": spike(9, 1, 2),
    "spike at the border": spike(8, 0, 7),
    "noise": noise(1, 3, 5, 7),
    "black and white": noise(1, 2, 12, 12).round(),
    "two": noise(1, 1, 2, 2),
    "one": noise(1, 1, 1, 1),
    "row": noise(1, 1, 1, 6),
    "beyond [0, 1]": 5 * noise(1, 1, 6, 6) - 2,
}
CASES = [
    *((threat, ends) for threat in ROTATIONS for ends in ((-30, 30), (44, 46), (-180, 180), (3, 3.001), (7, 7))),
    *((SCALING, ends) for ends in ((0.8, 1.2), (1, 1.01), (0.05, 3))),
]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_attacked_image_is_further_away(name, dtype):
    image = IMAGES[name].to(dtype)
    for k, (threat, (low, high)) in enumerate(CASES):
        references = (image, threat.centre(image, low, high), noise(*image.shape, seed=3).to(dtype))
        for reference in references[k % 2 :: 2] if dtype == torch.float32 else references[1:2]:
            found = threat.residual(image, reference, low, high)
            assert largest(threat, image, reference, low, high, 200) <= float(found.upper)
            assert float(found.upper) <= float(found.attained) + 0.0105
            at = threat.warp(image.double(), found.worst)
            assert float((at - reference).double().norm()) == pytest.approx(float(found.attained), abs=1e-6)


@pytest.mark.parametrize("threat", [*ROTATIONS, SCALING], ids=str)
@pytest.mark.parametrize("index", [0, 1])
def test_photographs_at_twenty_thousand_parameters(threat, index):
    image = photograph(index)
    low, high = (-30, 30) if threat.name == "rotation" else (0.8, 1.2)
    centre = threat.centre(image, low, high)
    found = threat.residual(image, centre, low, high)
    assert largest(threat, image, centre, low, high, 20_000) <= float(found.upper) <= float(found.attained) + 0.0115
    # The centre nearly halves the residual of the image itself.
    assert float(found.upper) < 0.65 * float(threat.residual(image, image, low, high).upper)


@pytest.mark.parametrize("threat", [*ROTATIONS, SCALING], ids=str)
def test_images_that_an_adversary_chose(threat):
    """Gradient ascent on what the ends do not show: what is far between them."""
    low, high = (10, 100) if threat.name == "rotation" else (0.6, 1.2)
    image = noise(1, 1, 8, 8).requires_grad_()
    middle, ends = torch.tensor([(low + high) / 2]), torch.tensor([low, high])
    optimizer = torch.optim.Adam([image], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        reference = threat.warp(image, ends[:1])
        gain = (threat.warp(image, middle) - reference).norm() - 2 * (threat.warp(image, ends[1:]) - reference).norm()
        (-gain).backward()
        optimizer.step()
        image.data.clamp_(0, 1)
    image = image.detach()
    reference = threat.warp(image, low)
    truth = largest(threat, image, reference, low, high, 2000)
    assert truth > 1.1 * float((threat.warp(image, high) - reference).norm())
    assert truth <= float(threat.residual(image, reference, low, high).upper) <= truth + 0.03


@pytest.mark.parametrize("threat", [*ROTATIONS, SCALING], ids=str)
@pytest.mark.parametrize("name", ["checkerboard", "spike", "noise", "black and white"])
def test_speed_and_sag_are_bounds_and_near(threat, name):
    image = IMAGES[name]
    paths = Paths(image, threat.motion, threat.kept(*image.shape[2:]))
    generator = np.random.default_rng(0)
    ratios = []
    for length in (paths.longest_step, 1e-2, 1e-4):
        low = generator.uniform(0.5, 2, size=40)
        high = low + length
        which = torch.zeros(40, dtype=torch.long)
        bounds = paths.speeds(which, torch.from_numpy(low), torch.from_numpy(high))
        share = np.linspace(0, 1, 41)
        times = torch.from_numpy(low[:, None] + length * share)
        along = paths.at(torch.zeros(times.numel(), dtype=torch.long), times.flatten()).view(40, 41, -1)
        speed = along.diff(dim=1).norm(dim=2) / (length / 40)
        assert (speed.amax(1) <= bounds.speed * (1 + 1e-6)).all()
        chord = along[:, :1] + (along[:, -1:] - along[:, :1]) * torch.from_numpy(share)[:, None]
        strayed = (along - chord).norm(dim=2).amax(1) / length
        assert (strayed <= bounds.sag + 1e-9).all()
        ratios.append(float((speed.amax(1) / bounds.speed.clamp(min=1e-9)).mean()))
    assert ratios[-1] > 0.35


def test_the_speed_of_a_ramp_is_exact():
    image = (torch.arange(15.0, dtype=torch.float64) / 15).expand(1, 1, 15, 15)
    threat = gs.threats.Rotation(mask="disk")
    paths = Paths(image, threat.motion, threat.kept(15, 15))
    y = torch.arange(15.0, dtype=torch.float64)[:, None] - 7
    exact = float((threat.kept(15, 15) * y / 15).norm())
    found = paths.speeds(torch.zeros(1, dtype=torch.long), torch.tensor([-1e-6]), torch.tensor([1e-6]))
    # But for pixels at the rim, whose arcs touch a cell of the border.
    assert exact <= float(found.speed) < 1.05 * exact


RAMP = (torch.arange(33, dtype=torch.float64) / 33).expand(1, 1, 33, 33)


@pytest.mark.parametrize(
    ("image", "place"),
    [
        (spike(33, 7, 16), (0.0, -10.001)),  # at its highest it is in a cell without a slope; before and after not
        (spike(33, 16, 25), (10.001, 0.0)),
        (RAMP, (10.0, 0.0)),  # in the middle of the arc it moves along y alone, of which the ramp knows nothing
        (RAMP.mT, (0.0, 10.0)),
    ],
    ids=["arc beyond its box, y", "arc beyond its box, x", "turning to x", "turning to y"],
)
def test_arcs_are_no_straight_lines(image, place):
    threat = gs.threats.Rotation()
    paths = Paths(image, threat.motion, threat.kept(33, 33))
    paths.places = torch.tensor([place], dtype=torch.float64)
    paths.bend = threat.motion.bend(paths.places)
    half = 0.03
    bounds = paths.speeds(torch.zeros(1, dtype=torch.long), torch.tensor([-half]), torch.tensor([half]))
    values = paths.at(torch.zeros(601, dtype=torch.long), torch.linspace(-half, half, 601, dtype=torch.float64))[
        :, 0, 0
    ]
    speed = values.diff().abs().max() / (2 * half / 600)
    assert float(speed) > 1e-3
    assert float(speed) <= float(bounds.speed)
    assert float((values - values[0]).abs().max()) > 0  # the ends agree: the chord does not move
    assert float((values - values[0]).abs().max()) <= float(bounds.sag) * 2 * half


def test_a_bound_holds_when_the_work_is_cut_short():
    image = IMAGES["noise"]
    threat = gs.threats.Rotation()
    centre = threat.centre(image, -30, 30)
    bounds = [
        float(threat.residual(image, centre, -30, 30, tolerance=1e-4, evaluations=n).upper) for n in (0, 10, 40, 20_000)
    ]
    truth = largest(threat, image, centre, -30, 30, 2000)
    assert truth <= bounds[3] < bounds[2] < bounds[1] < bounds[0]
    assert bounds[0] > truth + 0.05


def test_images_do_not_depend_on_their_batch():
    images = torch.cat([checkerboard(6), noise(2, 1, 6, 6)])
    low, high = torch.tensor([-10.0, 5.0, 0.0]), torch.tensor([10.0, 5.5, 90.0])
    for threat in ROTATIONS:
        together = threat.residual(images, images, low, high).upper
        alone = [float(threat.residual(images[i : i + 1], images[i : i + 1], low[i], high[i]).upper) for i in range(3)]
        assert together.tolist() == pytest.approx(alone, abs=1e-9)
    assert threat.residual(images[:0], images[:0], 0, 1).upper.shape == (0,)


def test_the_distance_of_a_known_curve():
    """A circle of radius 1 about the origin, from points at distances 1/2 and 2."""

    def distance(curve, t):
        return np.hypot(np.cos(t) - 0.5 * (1 + 3 * curve), np.sin(t))

    def speeds(curve, low, high):
        return np.ones(len(low)), np.full(len(low), np.inf)

    edges = [np.linspace(0, 6, 4), np.linspace(0, 6, 3)]
    found = supremum(edges, distance, speeds, 1e-4, 10_000)
    assert found.upper == pytest.approx([1.5, 3.0], abs=2e-4)
    assert (found.upper >= [1.5, 3.0]).all()
    assert found.where == pytest.approx([math.pi, math.pi], abs=0.05)


# ------------------------------------------------------------------------------------------- 8 bits and perturbations


@pytest.mark.parametrize("threat", [gs.threats.Rotation(round8=True), gs.threats.Scaling(round8=True)], ids=str)
def test_what_rounding_adds(threat):
    image = (noise(1, 3, 8, 8) * 255).round() / 255
    low, high = (5, 25) if threat.name == "rotation" else (0.9, 1.2)
    plain = type(threat)().residual(image, image, low, high)
    rounded = threat.residual(image, image, low, high)
    added = float(rounded.upper - plain.upper)
    assert added <= math.sqrt(192) / 510 + 1e-12
    beta = low + (high - low) * noise(2000)
    attacked = threat.apply(image.expand(2000, -1, -1, -1), beta)
    assert float((attacked - image).flatten(1).norm(dim=1).max()) <= float(rounded.upper)
    both = type(threat)(round8=True, l2=0.3).residual(image, image, low, high)
    assert float(both.upper - plain.upper) == pytest.approx(0.3 + math.sqrt(192) / 510)


def test_rounding_costs_nothing_where_nothing_changes():
    image = torch.zeros(1, 1, 28, 28)
    image[..., 10:18, 10:18] = 128 / 255  # a digit on black
    threat = gs.threats.Rotation(round8=True)
    added = threat.residual(image, image, -10, 10).upper - gs.threats.Rotation().residual(image, image, -10, 10).upper
    assert 0 < float(added) < 0.5 * 28 / 510
    still = gs.threats.Rotation(round8=True).residual(torch.full((1, 1, 4, 4), 0.3), torch.zeros(1, 1, 4, 4), 0, 0)
    assert float(still.upper - still.attained) >= 0.0  # 0.3 is not of 8 bits
    assert abs(0.3 - round(0.3 * 255) / 255) * 4 < float(still.upper - still.attained) + 1e-6


# ------------------------------------------------------------------------------------------------------------ slices


@pytest.mark.parametrize("threat", [gs.threats.Rotation(mask="disk", round8=True), SCALING], ids=str)
def test_slices_cover_and_are_near(threat):
    image = noise(2, 10, 10).float()
    low, high = (-8, 8) if threat.name == "rotation" else (0.9, 1.1)
    target = 0.4
    slices = threat.slices(image, low, high, target)
    assert float(slices.edges[0]) == low
    assert float(slices.edges[-1]) == high
    assert (slices.edges.diff() > 0).all()
    assert len(slices) == len(slices.edges) - 1 == len(slices.residual)
    assert (slices.residual <= target).all()
    assert float(slices.residual.min()) > 0.6 * target
    for k in range(len(slices)):
        beta = slices.edges[k] + (slices.edges[k + 1] - slices.edges[k]) * noise(200)
        attacked = threat.apply(image.expand(200, -1, -1, -1), beta)
        assert float((attacked - slices.references[k]).flatten(1).norm(dim=1).max()) <= float(slices.residual[k])
    # Half of the length, over the slices, is what an ideal reference of straight pieces leaves.
    room = target - (math.sqrt(2 * int(threat.kept(10, 10).sum())) / 510 if threat.round8 else 0)
    ideal = float(threat.length(image[None], low, high)) / (2 * room)
    assert 0.75 * ideal < len(slices) < 1.25 * ideal + 1


def test_the_length_of_a_curve():
    image = photograph(0)
    threat = gs.threats.Rotation(mask="disk")
    beta = torch.linspace(-30, 30, 4001, dtype=torch.float64)
    steps = [
        threat.warp(image.expand(len(b), -1, -1, -1), b).diff(dim=0).flatten(1).norm(dim=1).sum()
        for b in (beta[i : i + 501] for i in range(0, 4000, 500))
    ]
    assert float(threat.length(image, -30, 30)) == pytest.approx(float(sum(steps)), rel=0.02)


# ---------------------------------------------------------------------------------------------------------- mistakes


def test_threats_are_values():
    assert gs.threats.Rotation(mask="disk") == gs.threats.Rotation(mask="disk") != gs.threats.Rotation()
    assert len({gs.threats.Scaling(), gs.threats.Scaling(l2=0), gs.threats.Scaling(l2=0.1)}) == 2
    assert eval(repr(gs.threats.Rotation("disk", True, 0.25)), vars(gs.threats)) == gs.threats.Rotation(
        "disk", True, 0.25
    )
    with pytest.raises(AttributeError, match="never changes"):
        gs.threats.Rotation().l2 = 1.0


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda t, x: gs.threats.Rotation(mask="square"), "mask='square'"),
        (lambda t, x: gs.threats.Rotation(l2=-1), "l2=-1 must be"),
        (lambda t, x: gs.threats.Rotation(round8=1), "round8=1 must be"),
        (lambda t, x: t.residual(x, x, -400, 0), "angle=-400"),
        (lambda t, x: t.residual(x, x, math.nan, 0), "angle=nan"),
        (lambda t, x: t.residual(x, x, 3, 2), "low=3 is above high=2"),
        (lambda t, x: t.residual(x, x[:, :, :2], 0, 1), "references"),
        (lambda t, x: t.residual(x.half(), x.half(), 0, 1), "float16"),
        (lambda t, x: t.residual(x + 1, x, 0, 1), r"\[0, 1\]"),
        (lambda t, x: SCALING.residual(x / 0, x, 1, 1), "finite"),
        (lambda t, x: t.residual(x, x * math.nan, 0, 1), "finite"),
        (lambda t, x: t.residual(x, x, 0, 1, tolerance=0), "tolerance=0"),
        (lambda t, x: gs.threats.Scaling().warp(x, 0.0), "scale=0"),
        (lambda t, x: t.residual(x, x, torch.zeros(3), 1), r"low has the shape \(3,\)"),
        (lambda t, x: t.warp(x, torch.zeros(1, 2)), r"beta has the shape \(1, 2\)"),
        (lambda t, x: SCALING.slices(x[0].float(), 1, 1.1, 2e-6), "residual=2e-06"),
        (lambda t, x: t.slices(x[0], 0, 1, 0.001), "residual=0.001 must be above"),
    ],
)
def test_mistakes_are_named(mistake, message):
    with pytest.raises(UserError, match=message):
        mistake(gs.threats.Rotation(round8=True), noise(1, 1, 4, 4))
