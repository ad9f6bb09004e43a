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


def smoothed(model: nn.Module, threat, residual=None, transform: T.ResolvableTransform | None = None, **laws):
    family = gs.SmoothedFamily(transform or T.Identity(), laws, pixel_noise=SIGMA, threat=threat, residual=residual)
    return gs.SmoothedClassifier(model, family, 2, batch_size=512, threads=1, channels_last=False, compile=False)


def certify(model: nn.Module, image: torch.Tensor, threat, low: float, high: float, residual=None, **options):
    options = {"n": 4000, **options}
    return smoothed(model, threat, residual).certify(image, gs.Box(**{threat.parameter: (low, high)}), **options)


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
    h = residual_alone(0.25, SIGMA)
    outcomes = {}
    for more in (-0.03, 0.06):
        # Where p of class 0 is h + more at the reference. Other references may have less.
        end = float((slices.references.flatten(1) @ away.flatten()).max()) + SIGMA * float(away.norm()) * float(
            ndtri(h + more)
        )
        model = Half(away, end)
        result = certify(model, image, threat, low, high, residual=0.25)
        outcomes[more] = result.certified
        assert result.h_min == pytest.approx(h, abs=1e-8)
        assert result.slicing.residual == float(slices.residual.max()) <= 0.25
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
    h = residual_alone(0.15, SIGMA)
    assert len(slices) >= 4
    monkeypatch.setattr(gs.threats.Rotation, "slices", lambda *_: slices)
    normal = slices.references[-1] - slices.references[0]
    heights = slices.references.flatten(1) @ normal.flatten()
    model = Half(normal, float(heights.max()) + SIGMA * float(normal.norm()) * float(ndtri(h - 1e-4)))
    classifier, region = smoothed(model, threat, 0.15), gs.Box(angle=(low, high))
    found = classifier.certify_many([image] * runs, region, n=400, alpha=alpha)
    passed = sum(one.certified for one in found)
    assert passed / runs <= alpha + 4 * math.sqrt(alpha * (1 - alpha) / runs)
    # It is no empty statement: with a little more the image is certified nearly always.
    model.end += SIGMA * float(normal.norm()) * (float(ndtri(min(h + 0.2, 0.999))) - float(ndtri(h - 1e-4)))
    assert sum(one.certified for one in classifier.certify_many([image] * 10, region, n=400, alpha=alpha)) > 5


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
    result = certify(model, image, threat, -40, 40, residual=0.2)
    assert not result.certified
    assert result.slicing.failed is not None
    assert result.slicing.tried < result.slicing.slices
    # The classifier is left as it was, and another call finds what the first did.
    assert result == certify(model, image, threat, -40, 40, residual=0.2)
    other = certify(Half(normal, float(heights.max()) + 1e4), image, threat, -40, 40)
    assert (other.certified, other.slicing.failed, other.slicing.tried) == (True, None, other.slicing.slices)
    # Of the two ends alone, neither fails by itself.
    ends = gs.threats.Slices(slices.edges[[0, 1, -1]], slices.references[[0, -1]], slices.residual[[0, -1]])
    monkeypatch.setattr(gs.threats.Rotation, "slices", lambda *_: ends)
    two = certify(model, image, threat, -40, 40, residual=0.2)
    assert not two.certified
    assert two.p_lower < 0.1  # that of the image's class, of which the other end has nothing


def test_beside_brightness_the_joint_probability_is_required():
    image, region = photograph(10), gs.Box(angle=(-5, 5), brightness=(-0.2, 0.2))
    model = Half(torch.ones(3, 10, 10) / 300, 1.5)
    classifier = smoothed(model, gs.threats.Rotation(), 0.15, T.Brightness(), brightness=gs.Normal(0.0, 0.3))
    result = classifier.certify(image, region)
    size = math.hypot(0.2 / 0.3, 0.15 / SIGMA)
    assert result.h_min == pytest.approx(float(ndtr(size)), abs=1e-6)
    assert result.certified


def test_the_usual_residual_needs_the_fewest_votes():
    image = photograph(16)
    model = Half(torch.ones(3, 16, 16), 1e6)
    usual = certify(model, image, gs.threats.Rotation(), -60, 60)
    assert usual.certified
    for residual in (0.5 * SIGMA, 0.95 * SIGMA):
        other = certify(model, image, gs.threats.Rotation(), -60, 60, residual=residual)
        assert other.certified
        assert other.samples_used > usual.samples_used


def test_batches_decide_nothing():
    """Which slices count, and what they have shown, follows from their order alone."""
    images = [photograph(10, seed) for seed in range(3)]
    normal = images[0] - images[1]
    model = Half(normal, float(images[0].flatten() @ normal.flatten()))
    region, found = gs.Box(angle=(-30, 30)), []
    for size in (7, 64, 4096):
        family = gs.SmoothedFamily(T.Identity(), {}, pixel_noise=SIGMA, threat=gs.threats.Rotation())
        classifier = gs.SmoothedClassifier(
            model, family, 2, batch_size=size, threads=1, channels_last=False, compile=False
        )
        found.append(classifier.certify_many(images, region, n=300))
    assert found[0] == found[1] == found[2]
    assert any(one.slicing.failed is not None and one.slicing.tried > 1 for one in found[0])


def test_each_image_is_certified_as_if_it_were_alone():
    images = [photograph(10, seed) for seed in range(3)]
    model = Half(torch.ones(3, 10, 10) / 300, 0.6)
    classifier, region = smoothed(model, gs.threats.Scaling()), gs.Box(scale=(0.9, 1.1))
    together = classifier.certify_many(images, region)
    assert together == [classifier.certify(image, region, index=i) for i, image in enumerate(images)]


def test_an_image_that_no_draw_votes_for_is_not_certified():
    class Tied(nn.Module):
        def forward(self, images):
            return torch.zeros(len(images), 2)

    result = certify(Tied(), photograph(8), gs.threats.Rotation(), -5, 5)
    assert (result.prediction, result.certified, result.p_lower, result.slicing.tried) == (-1, False, 0.0, 0)


NEARBY = gs.threats.Nearby(round8=True, l2=0.1)


def test_what_ends_near_the_transformed_image_is_certified_by_the_same_votes():
    """Brightness and a perturbation, both straight at a half-space: the worst that there is."""
    image, residual = photograph(8), NEARBY.residual((3, 8, 8))
    assert residual == pytest.approx(0.1 + math.sqrt(192) / 510)
    normal = torch.ones(3, 8, 8) / math.sqrt(192)
    region = gs.Box(brightness=(-0.1, 0.1))
    laws = {"brightness": gs.Normal(0.0, 0.3)}
    family = gs.SmoothedFamily(T.Brightness(), laws, pixel_noise=SIGMA, threat=NEARBY, residual=residual)
    h = gs.required_probability(family, region)
    # Brightness b moves the image by b √192 along the normal, noise by σ: the worst is 0.1 √192 and the residual.
    assert h == pytest.approx(float(ndtr(math.hypot(0.1 / 0.3, residual / SIGMA))), abs=1e-6)
    assert h > gs.required_probability(family.exact, region) + 0.05
    model = Half(normal, float(image.flatten() @ normal.flatten()) + 100)
    result = gs.SmoothedClassifier(model, family, 2).certify(image, region)
    assert (result.certified, result.h_min, result.slicing) == (True, h, None)
    assert family.name == "brightness, then 8 bits and l2 perturbation"


def test_a_residual_for_smaller_images_is_refused():
    family = gs.SmoothedFamily(T.Identity(), {}, pixel_noise=SIGMA, threat=NEARBY, residual=NEARBY.residual((3, 8, 8)))
    with pytest.raises(UserError, match=r"residual=.* leads images of shape \(3, 9, 9\)"):
        gs.SmoothedClassifier(Half(torch.ones(3, 9, 9), 1e6), family, 2).certify(photograph(9), gs.Box())
    unsaid = gs.SmoothedFamily(T.Identity(), {}, pixel_noise=SIGMA, threat=NEARBY)
    with pytest.raises(UserError, match="residual is missing"):
        gs.required_probability(unsaid, gs.Box())


class OtherRotation(gs.threats.Rotation):
    """Residuals would be those of a rotation."""

    def warp(self, images, beta):
        return 1 - super().warp(images, beta)


ROTATION = gs.threats.Rotation()
FAMILIES = [
    (T.Identity(), {}, SIGMA, OtherRotation(), None, "is none of glsmooth.threats"),
    (T.Identity(), {}, 0.0, ROTATION, None, "pixel_noise=0"),
    (T.Contrast(), {"contrast": gs.LogNormal(0, 0.3)}, SIGMA, ROTATION, None, "does more than to shift"),
    (T.Identity(), {}, SIGMA, T.Brightness(), None, "threat=Brightness.. is none of"),
    (T.Identity(), {}, SIGMA, ROTATION, -1.0, "residual=-1.0 must be"),
    (T.Identity(), {}, SIGMA, None, 0.2, "without a threat"),
]


@pytest.mark.parametrize(("transform", "laws", "noise", "threat", "residual", "said"), FAMILIES)
def test_families_that_cannot_be_certified_are_refused(transform, laws, noise, threat, residual, said):
    with pytest.raises(UserError, match=said):
        gs.SmoothedFamily(transform, laws, pixel_noise=noise, threat=threat, residual=residual)


MISTAKES = [
    ({"residual": 1e-9}, "image 0: residual=1e-09 must be above"),
    ({"low": -500.0}, "angle=-500 must be within a turn"),
    ({"index": -1}, "index=-1"),
    ({"runner_up": True}, "runner_up=True"),
    ({"exhaustive": True}, "exhaustive=True"),
    ({"randomised": True}, "randomised=True"),
]


@pytest.mark.parametrize(("more", "said"), MISTAKES)
def test_mistakes(more, said):
    with pytest.raises(UserError, match=said):
        certify(Half(torch.ones(3, 8, 8), 0.0), photograph(8), ROTATION, **{"low": -5.0, "high": 5.0, **more})


def test_a_region_has_an_interval_of_the_parameter_and_no_other_shape():
    classifier = smoothed(Half(torch.ones(3, 8, 8), 0.0), ROTATION)
    with pytest.raises(UserError, match="angle is cut into slices, so it needs an interval"):
        classifier.certify(photograph(8), gs.Ball(5.0, angle=0.0))
    with pytest.raises(UserError, match=r"'angel' is not a parameter of rotation.*angle"):
        classifier.certify(photograph(8), gs.Box(angel=(-1, 1)))


def test_noise_alone_is_a_family():
    """Cohen et al.'s smoothing: nothing to cover but the image itself."""
    family = gs.SmoothedFamily(T.Identity(), {}, pixel_noise=SIGMA)
    result = gs.SmoothedClassifier(Half(torch.ones(3, 8, 8), 1e6), family, 2).certify(photograph(8), gs.Box(), n=100)
    assert (result.prediction, result.certified, result.h_min) == (0, True, 0.5)
    assert family.sample(3).shape == (3, 0)
    assert T.Composition(T.Identity(), T.Brightness()).parameters == ("brightness",)


def test_what_sees_parameters_alone_refuses_a_threat():
    classifier = smoothed(Half(torch.ones(3, 8, 8), 1e6), ROTATION, None, T.Brightness(), brightness=gs.Normal(0, 0.3))
    image, family, b = photograph(8), classifier.family, {"brightness": 0.1}
    for refused in (
        lambda: gs.tradeoff(family, b),
        lambda: gs.figures.tradeoff_curves(family, [b]),
        lambda: gs.figures.gl_functions(family, [b]),
        lambda: gs.figures.certified_set(family, 0.9, image, nodes=7),
        lambda: gs.attack_images(classifier, image[None], [0], gs.Box(angle=(-1, 1))),
    ):
        with pytest.raises(UserError, match="rotation"):
            refused()
    assert gs.tradeoff(family.exact, b)(0.9) < 0.9


def test_any_index_is_an_image_where_nothing_is_sliced():
    """Its class comes from selection draws alone, also where a threat would number its references."""
    family = gs.SmoothedFamily(T.Identity(), {}, pixel_noise=SIGMA)
    image = photograph(8)
    classifier = gs.SmoothedClassifier(Half(torch.ones(3, 8, 8), float(image.sum())), family, 2)
    for procedure in ({}, {"sequential": True}):
        found = classifier.certify_many(
            [image] * 40, gs.Box(), n0=1, n=99, indices=range(2**61, 2**61 + 40), **procedure
        )
        assert {one.n0 for one in found} == {1}
        assert any(one.count < one.n / 2 for one in found)


@pytest.mark.parametrize("residual", [0.9, 2.5])
def test_what_no_votes_can_show_is_not_certified(residual):
    """4,000 votes cannot reach the required probability, or none can: a few at the first reference, and no more."""
    result = certify(Half(torch.ones(3, 8, 8), 1e6), photograph(8), ROTATION, 0, 6, residual=residual)
    assert not result.certified
    assert (result.n, result.count, result.slicing.tried) == (8, 8, 1)


@pytest.mark.parametrize(
    ("threat", "size", "residual"),
    [
        (gs.threats.Nearby(l2=0.3), None, 0.1),
        (gs.threats.Nearby(round8=True), (8, 8), 0.9 * 8 / 510),
        (gs.threats.Rotation(l2=0.3), None, 0.2),
    ],
)
def test_a_residual_below_what_the_threat_says_is_refused_before_any_bound(threat, size, residual):
    """Bounds see no image, so they would print what no image bears out."""
    with pytest.raises(UserError, match=r"residual is .* alone leads images"):
        gs.SmoothedFamily(T.Identity(), {}, size, pixel_noise=SIGMA, threat=threat, residual=residual)


def test_a_perturbation_needs_no_residual_to_be_said():
    family = gs.SmoothedFamily(T.Identity(), {}, pixel_noise=SIGMA, threat=gs.threats.Nearby(l2=0.1))
    assert family.residual == 0.1
    result = gs.SmoothedClassifier(Half(torch.ones(3, 8, 8), 1e6), family, 2).certify(photograph(8), gs.Box())
    assert result.certified
    assert result.h_min == pytest.approx(float(ndtr(0.1 / SIGMA)), abs=1e-9)
