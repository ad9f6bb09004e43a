"""Certificates of rotated and scaled images: true where the truth is known, and false as seldom as they say."""

import math

import pytest
import torch
from scipy.special import ndtr, ndtri
from torch import nn

import glsmooth as gs
from glsmooth.bounds import residual_alone
from glsmooth.errors import UserError

T = gs.transforms
SIGMA = 0.25


class Half(nn.Module):
    """Class 0 on a half-space of images, and class 1 beyond it."""

    def __init__(self, normal: torch.Tensor, end: float) -> None:
        super().__init__()
        self.normal, self.end = nn.Parameter(normal.flatten().double()), end

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        beyond = images.flatten(1).double() @ self.normal - self.end
        return torch.stack([-beyond, beyond], dim=1)

    def probability(self, image: torch.Tensor, sigma: float = SIGMA) -> float:
        """Of class 0, under noise, exactly."""
        normal = self.normal.detach()
        distance = self.end - float(image.flatten().double() @ normal)
        return float(ndtr(distance / (sigma * float(normal.norm()))))


def photograph(size: int, seed: int = 0) -> torch.Tensor:
    """A smooth image with an edge, (3, size, size)."""
    rough = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(rough, size=(size, size), mode="bilinear", align_corners=False)[0]
    smooth[:, : size // 3, size // 2 :] = 0.9
    return smooth


def smoothed(model: nn.Module, transform: T.ResolvableTransform | None = None, **laws: gs.laws.Law):
    family = gs.SmoothedFamily(transform or T.Identity(), laws, pixel_noise=SIGMA)
    return gs.SmoothedClassifier(model, family, 2, batch_size=512, threads=1, channels_last=False, compile=False)


THREATS = {
    "rotation": (gs.threats.Rotation(), -20.0, 20.0),
    "disk": (gs.threats.Rotation(mask="disk"), -10.0, 25.0),
    "scaling": (gs.threats.Scaling(), 0.8, 1.2),
    "8 bits": (gs.threats.Rotation(round8=True), -5.0, 5.0),
    "perturbed": (gs.threats.Scaling(l2=0.05), 0.9, 1.05),
}


@pytest.mark.parametrize("name", THREATS)
def test_the_worst_classifier_is_certified_where_it_may_be_and_nowhere_else(name):
    """A half-space that faces the attacked image furthest from its slice's reference, a little on either side of h."""
    threat, low, high = THREATS[name]
    image = photograph(12)
    slices = threat.slices(image, low, high, 0.25)
    found = threat.residual(
        image.expand_as(slices.references), slices.references, slices.edges[:-1], slices.edges[1:], tolerance=1e-4
    )
    k = int(found.upper.argmax())
    beta = float(found.worst[k])
    away = threat.warp(image[None], beta)[0] - slices.references[k]
    h = residual_alone(float(slices.residual.max()), SIGMA)
    outcomes = {}
    for more in (-0.03, 0.06):
        # Where p of class 0 is h + more at the reference. Other references may have less.
        end = float((slices.references.flatten(1) @ away.flatten()).max()) + SIGMA * float(away.norm()) * float(
            ndtri(h + more)
        )
        model = Half(away, end)
        result = gs.certify_threat(smoothed(model), image, threat, low, high, residual=0.25)
        outcomes[more] = result.certified
        assert (result.residual, result.h_min) == (float(slices.residual.max()), pytest.approx(h, abs=1e-12))
        # Whatever the attacker does: a perturbation straight at the half-space, too.
        attacked = threat.apply(image.expand(801, -1, -1, -1), torch.linspace(low, high, 801, dtype=torch.float64))
        least = min(model.probability(one + threat.l2 * away / away.norm()) for one in attacked)
        assert not result.certified or least > 0.5
    assert outcomes == {-0.03: False, 0.06: True}


def test_half_of_the_residual_would_certify_what_breaks():
    """The worst of all images comes near to 1/2, so a smaller residual would be too small."""
    threat, low, high = THREATS["scaling"]
    image = photograph(12)
    slices = threat.slices(image, low, high, 0.25)
    k = int(slices.residual.argmax())
    found = threat.residual(image[None], slices.references[k : k + 1], slices.edges[k], slices.edges[k + 1])
    away = threat.warp(image[None], found.worst)[0] - slices.references[k]
    h = residual_alone(float(slices.residual[k]), SIGMA)
    reference = slices.references[k]
    model = Half(
        away, float(reference.flatten() @ away.flatten()) + SIGMA * float(away.norm()) * float(ndtri(h + 1e-3))
    )
    attacked = model.probability(threat.warp(image[None], found.worst)[0])
    assert 0.5 < attacked < 0.55
    wrong = residual_alone(0.5 * float(slices.residual[k]), SIGMA)
    assert wrong < h - 0.1  # a p between the two would be certified, and the attacked image lost


def test_a_false_slice_passes_as_seldom_as_alpha(monkeypatch):
    """One reference has a hair less than it needs, the others more than enough: α is used whole, and once."""
    threat, low, high, alpha, runs = gs.threats.Rotation(), -4.0, 4.0, 0.1, 300
    image = photograph(8)
    slices = threat.slices(image, low, high, 0.15)
    h = residual_alone(float(slices.residual.max()), SIGMA)
    assert len(slices) >= 4
    monkeypatch.setattr(gs.threats.Rotation, "slices", lambda *_: slices)
    normal = slices.references[-1] - slices.references[0]
    heights = slices.references.flatten(1) @ normal.flatten()
    model = Half(normal, float(heights.max()) + SIGMA * float(normal.norm()) * float(ndtri(h - 1e-4)))
    classifier = smoothed(model)
    passed = sum(
        gs.certify_threat(classifier, image, threat, low, high, residual=0.15, n=400, alpha=alpha, index=i).certified
        for i in range(runs)
    )
    assert passed / runs <= alpha + 4 * math.sqrt(alpha * (1 - alpha) / runs)
    # It is no empty statement: with a little more the image is certified nearly always.
    model.end += SIGMA * float(normal.norm()) * (float(ndtri(min(h + 0.2, 0.999))) - float(ndtri(h - 1e-4)))
    passed = sum(
        gs.certify_threat(classifier, image, threat, low, high, residual=0.15, n=400, alpha=alpha, index=i).certified
        for i in range(10)
    )
    assert passed > 5


def test_slices_have_to_agree_and_the_first_failure_ends_the_image(monkeypatch):
    """Two classes, each sure at one end of the interval."""
    image = photograph(12)
    threat = gs.threats.Rotation()
    slices = threat.slices(image, -40, 40, 0.2)
    normal = 100 * (slices.references[-1] - slices.references[0])
    heights = slices.references.flatten(1).double() @ normal.flatten().double()
    model = Half(normal, float(heights[0] + heights[-1]) / 2)
    for k in (0, len(slices) - 1):
        assert abs(model.probability(slices.references[k]) - 0.5) > 0.499
    result = gs.certify_threat(smoothed(model), image, threat, -40, 40, residual=0.2)
    assert not result.certified
    assert result.failed is not None
    assert result.tried < result.slices
    # The classifier is left as it was, and another call finds what the first did.
    assert result == gs.certify_threat(smoothed(model), image, threat, -40, 40, residual=0.2)
    other = gs.certify_threat(smoothed(Half(normal, float(heights.max()) + 1e4)), image, threat, -40, 40)
    assert (other.certified, other.failed, other.tried) == (True, None, other.slices)
    # Of the two ends alone, neither fails by itself.
    ends = gs.threats.Slices(slices.edges[[0, 1, -1]], slices.references[[0, -1]], slices.residual[[0, -1]])
    monkeypatch.setattr(gs.threats.Rotation, "slices", lambda *_: ends)
    two = gs.certify_threat(smoothed(model), image, threat, -40, 40, residual=0.2)
    assert two.p_lower > two.h_min
    assert (two.certified, two.tried) == (False, 2)


def test_beside_brightness_the_joint_probability_is_required():
    image, region = photograph(10), gs.Box(brightness=(-0.2, 0.2))
    model = Half(torch.ones(3, 10, 10) / 300, 1.5)
    classifier = smoothed(model, T.Brightness(), brightness=gs.Normal(0.0, 0.3))
    result = gs.certify_threat(classifier, image, gs.threats.Rotation(), -5, 5, region, residual=0.15)
    size = math.hypot(0.2 / 0.3, result.residual / SIGMA)
    assert result.h_min == pytest.approx(float(ndtr(size)), abs=1e-6)
    assert result.certified


def test_the_fewest_passes_are_asked_for():
    image = photograph(12)
    model = Half(torch.ones(3, 12, 12), 1e6)
    threat = gs.threats.Rotation(round8=True, l2=0.02)
    chosen = gs.certify_threat(smoothed(model), image, threat, -20, 20)
    for residual in (0.6 * chosen.residual, 1.7 * chosen.residual):
        other = gs.certify_threat(smoothed(model), image, threat, -20, 20, residual=residual)
        assert other.certified
        assert other.samples_used > chosen.samples_used


class OtherRotation(gs.threats.Rotation):
    """Residuals would be those of a rotation."""

    def warp(self, images, beta):
        return 1 - super().warp(images, beta)


MISTAKES = [
    (T.Identity(), {}, SIGMA, {"threat": OtherRotation()}, "OtherRotation is none of"),
    (T.Identity(), {}, 0.0, {}, "pixel_noise=0"),
    (T.Contrast(), {"contrast": gs.LogNormal(0, 0.3)}, SIGMA, {}, "does more than to shift"),
    (T.Identity(), {}, SIGMA, {"threat": T.Brightness()}, "threat=Brightness.. is not a threat"),
    (T.Identity(), {}, SIGMA, {"residual": 2.5, "n": 500}, "requires 1|needs n=|no votes"),
    (T.Identity(), {}, SIGMA, {"residual": 1e-9}, "must be above"),
    (T.Identity(), {}, SIGMA, {"low": 5.0, "high": -5.0}, "exchange"),
    (T.Identity(), {}, SIGMA, {"index": -1}, "index=-1"),
]


@pytest.mark.parametrize(("transform", "laws", "noise", "more", "said"), MISTAKES)
def test_mistakes(transform, laws, noise, more, said):
    family = gs.SmoothedFamily(transform, laws, pixel_noise=noise)
    classifier = gs.SmoothedClassifier(Half(torch.ones(3, 8, 8), 0.0), family, 2)
    arguments = {"threat": gs.threats.Rotation(), "low": -5.0, "high": 5.0, **more}
    with pytest.raises((UserError, gs.NotApplicable), match=said):
        gs.certify_threat(classifier, photograph(8), **arguments)


def test_noise_alone_is_a_family():
    """Cohen et al.'s smoothing: nothing to cover but the image itself."""
    classifier = smoothed(Half(torch.ones(3, 8, 8), 1e6))
    result = classifier.certify(photograph(8), gs.Box(), n=100)
    assert (result.prediction, result.certified, result.h_min) == (0, True, 0.5)
    assert classifier.family.sample(3).shape == (3, 0)
    assert T.Composition(T.Identity(), T.Brightness()).parameters == ("brightness",)
