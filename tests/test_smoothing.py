"""The smoothed classifier: classifiers whose smoothed probabilities are known in closed form.

A base classifier that votes by a half-space of the parameter is the worst case of the Neyman-Pearson lemma,
so that both the level and the power of certificates can be checked exactly.
"""

import math

import pytest
import torch
from scipy.stats import binom, norm
from torch import nn

import glsmooth as gs
from glsmooth.bounds.confidence import clopper_pearson_lower, randomised_lower
from glsmooth.smoothing import ABSTAIN, SmoothedClassifier

SIGMA = 0.3


class HalfSpace(nn.Module):
    """Class 0 where the brightness added to the image is below the image's threshold (its top left pixel).

    The other pixel of the image is 0, so that it shows the brightness that was added.
    """

    def forward(self, images):
        brightness = images[:, 0, 0, 1]
        threshold = images[:, 0, 0, 0] - brightness
        return torch.stack([threshold, brightness], dim=1)


def half_space_image(threshold):
    return torch.tensor([[[threshold, 0.0]]])


@pytest.fixture
def family():
    return gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, SIGMA)})


def smoothed(family, **kwargs):
    return SmoothedClassifier(HalfSpace(), family, num_classes=2, **kwargs)


@pytest.mark.parametrize("sequential", [False, True])
def test_false_certificates_are_rarer_than_alpha(family, sequential):
    """h_0(β) = Φ((t - β) / σ) falls to exactly 1/2 at β = t: a certificate for |b| <= t is false.

    The half-space attains the Neyman-Pearson bound, so that the rate of false certificates comes close to
    alpha: a bound or a count that is off by little breaks this test.
    """
    alpha, runs, t = 0.05, 3000, 0.2
    region = gs.Box(brightness=(-t, t))
    images = [half_space_image(t)] * runs
    results = smoothed(family, batch_size=4096).certify_many(
        images, region, n0=10, n=200, alpha=alpha, sequential=sequential
    )
    # Class 1 is never the smoothed class here, but may be selected: certificates for it are false as well.
    false = sum(result.certified for result in results) / runs
    assert false <= alpha + 4 * math.sqrt(alpha * (1 - alpha) / runs)
    assert false > alpha / 10


def test_power_is_that_of_the_binomial_law(family):
    runs, n, t = 1000, 200, 0.5
    region = gs.Box(brightness=(-0.2, 0.2))
    results = smoothed(family, batch_size=4096).certify_many(
        [half_space_image(t)] * runs, region, n0=10, n=n, alpha=0.05
    )
    h_min = norm.cdf(0.2 / SIGMA)
    assert results[0].h_min == pytest.approx(h_min, abs=1e-6)
    limit = next(k for k in range(n + 1) if clopper_pearson_lower(k, n, 0.05) > h_min)
    power = binom.sf(limit - 1, n, norm.cdf(t / SIGMA))
    certified = sum(r.certified for r in results) / runs
    assert abs(certified - power) < 4 * math.sqrt(power * (1 - power) / runs) + 0.01


def test_a_certificate_says_what_was_drawn(family):
    region = gs.Box(brightness=(-0.4, 0.4))
    result = smoothed(family).certify(half_space_image(1.0), region)
    assert result.prediction == 0
    assert (result.n0, result.n, result.samples_used) == (200, 1000, 1200)
    assert result.p_lower == clopper_pearson_lower(result.count, 1000, 1e-3)
    assert result.h_min == pytest.approx(norm.cdf(4 / 3), abs=1e-6)
    assert result.certified == (result.p_lower > result.h_min)
    assert result.certified
    assert result.failure_probability == 1e-3
    assert (result.abstained, result.method) == (0, "neyman_pearson")


def test_sequential_certificates_agree_and_cost_less(family):
    classifier = smoothed(family)
    region = gs.Box(brightness=(-0.3, 0.3))
    for threshold in (0.05, 0.2, 0.9, 1.0):
        fixed = classifier.certify(half_space_image(threshold), region)
        early = classifier.certify(half_space_image(threshold), region, n=2000, sequential=True)
        assert early.certified == fixed.certified == (threshold >= 0.9)
        assert early.samples_used < 250
        assert early.failure_probability == fixed.failure_probability


def test_unsound_methods_never_certify(family):
    region = gs.Box(brightness=(-0.2, 0.2))
    result = smoothed(family).certify(half_space_image(1.0), region, method="gl_printed")
    assert result.p_lower > result.h_min
    assert not result.certified


def test_seed_index_and_batch_size(family):
    region = gs.Box(brightness=(-0.2, 0.2))
    image = half_space_image(0.3)
    first = smoothed(family).certify(image, region, seed=3)
    assert smoothed(family, batch_size=37).certify(image, region, seed=3) == first
    assert smoothed(family).certify(image, region, seed=4).count != first.count
    many = smoothed(family).certify_many(torch.stack([image] * 3), region, seed=3)
    assert many[0] == first
    assert len({result.count for result in many}) > 1
    assert smoothed(family).certify(image, region, seed=3, index=2) == many[2]
    again = smoothed(family).certify_many([image, image], region, seed=3, indices=[2, 0])
    assert again == [many[2], many[0]]


def test_predict(family):
    classifier = smoothed(family)
    assert classifier.predict(half_space_image(0.3)) == 0
    # h_0 = 0.537: a thousand draws do not tell, twenty thousand do.
    assert classifier.predict(half_space_image(0.028), n=100) == ABSTAIN
    assert classifier.predict(half_space_image(0.028), n=20_000) == 0

    class Abstainer(nn.Module):
        def forward(self, images):
            return torch.full((len(images), 2), torch.nan)

    assert SmoothedClassifier(Abstainer(), family, num_classes=2).predict(half_space_image(0.3)) == ABSTAIN


def test_prediction_is_wrong_with_probability_at_most_alpha(family):
    """A tie of two classes: whatever is returned is wrong, so that abstaining is right."""
    classifier = smoothed(family, batch_size=4096)
    runs, alpha = 500, 0.1
    answers = [classifier.predict(half_space_image(0.0), n=50, alpha=alpha, index=i) for i in range(runs)]
    rate = sum(answer != ABSTAIN for answer in answers) / runs
    assert 0 < rate <= alpha + 4 * math.sqrt(alpha / runs)


IMAGE = torch.rand(1, 4, 4)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(2, 1, 4, 4), r"x has shape \(2, 1, 4, 4\); give one image .* certify_many"),
        (torch.rand(4, 4), r"x has shape \(4, 4\)"),
        (torch.rand(1, 0, 4), r"x has shape \(1, 0, 4\)"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), r"x has dtype torch.uint8; convert"),
        (IMAGE * 255, r"x has values in .* give pixels in \[0, 1\]"),
        (IMAGE - 1, r"x has values in"),
        (torch.where(IMAGE.max() == IMAGE, torch.nan, IMAGE), "x has non-finite pixels"),
        ([[0.0]], "x is a list; give a torch.Tensor"),
    ],
)
def test_bad_images_are_refused(family, image, message):
    with pytest.raises(ValueError, match=message):
        smoothed(family).certify(image, gs.Box(brightness=(-0.1, 0.1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n=0"),
        ({"n0": 0}, "n0=0"),
        ({"alpha": 0}, "alpha=0"),
        ({"alpha": 1}, "alpha=1"),
        ({"seed": -1}, "seed=-1"),
        ({"method": "neyman"}, "neyman_pearson"),
    ],
)
def test_bad_arguments_are_refused(family, arguments, message):
    with pytest.raises(ValueError, match=message):
        smoothed(family).certify(half_space_image(0.5), gs.Box(brightness=(-0.1, 0.1)), **arguments)


def test_bad_regions_and_batches_are_refused(family):
    with pytest.raises(ValueError, match="contrast"):
        smoothed(family).certify(half_space_image(0.5), gs.Box(contrast=(0.9, 1.1)))
    with pytest.raises(ValueError, match=r"images\[1\] has values"):
        smoothed(family).certify_many([IMAGE, IMAGE + 1], gs.Box(brightness=(-0.1, 0.1)))
    with pytest.raises(ValueError, match=r"indices=\[1, 1\]"):
        smoothed(family).certify_many([IMAGE, IMAGE], gs.Box(brightness=(-0.1, 0.1)), indices=[1, 1])
    assert smoothed(family).certify_many([], gs.Box(brightness=(-0.1, 0.1))) == []


def test_a_torus_needs_images_of_its_size():
    laws = {"tx": gs.Normal(0.0, 3.0), "ty": gs.Normal(0.0, 3.0)}
    family = gs.SmoothedFamily(gs.transforms.Translation(), laws, image_size=(8, 8))
    classifier = SmoothedClassifier(HalfSpace(), family, num_classes=2)
    with pytest.raises(ValueError, match=r"image 0 has size \(4, 4\), the family's torus \(8, 8\)"):
        classifier.certify(IMAGE, gs.Box(tx=(-1, 1)))


class ThreeWays(nn.Module):
    """Class 0 in the middle of the brightness, classes 1 and 2 beyond it on either side."""

    def forward(self, images):
        b = images[:, 0, 0, 1]
        return torch.stack([0.25 - b.abs(), b - 0.25, -b - 0.25], dim=1)


def test_the_runner_up_form_certifies_what_the_binary_one_cannot(family):
    """h_0(0) = 0.595, h_1 = h_2 = 0.202: |b| <= 0.1 needs 0.6306 against the rest, but only a lead on each other."""
    classifier = SmoothedClassifier(ThreeWays(), family, num_classes=3)
    image, region = half_space_image(0.5), gs.Box(brightness=(-0.1, 0.1))
    binary = classifier.certify(image, region, n=4000)
    lead = classifier.certify(image, region, n=4000, runner_up=True)
    assert binary.prediction == lead.prediction == 0
    assert not binary.certified
    assert binary.p_upper is None
    assert lead.certified
    assert lead.p_lower < binary.p_lower  # half of alpha pays for the upper bounds
    # The bound at alpha/4 lies 3.5 deviations above the larger count; two are asked for, one count may be low.
    rest = norm.sf(0.25 / SIGMA)
    assert rest + 2 * math.sqrt(rest * (1 - rest) / 4000) < lead.p_upper < 0.25
    assert not classifier.certify(image, gs.Box(brightness=(-0.25, 0.25)), n=4000, runner_up=True).certified


def test_runner_up_does_not_mix_with_other_options(family):
    for options in ({"sequential": True}, {"method": "tss"}):
        with pytest.raises(ValueError, match="runner_up=True goes with"):
            smoothed(family).certify(half_space_image(0.5), gs.Box(brightness=(0, 0.1)), runner_up=True, **options)


def test_randomised_bound_is_the_image_s_own_and_never_lower():
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 0.3)})
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    smoothed = gs.SmoothedClassifier(model, family, num_classes=3)
    x, region = torch.rand(3, 2, 2), gs.Box(brightness=(-0.1, 0.1))
    plain = smoothed.certify(x, region, n0=20, n=200)
    first, again = (smoothed.certify(x, region, n0=20, n=200, randomised=True) for _ in range(2))
    assert first == again
    assert plain.coin is None
    assert 0 < first.coin <= 1
    assert first.count == plain.count
    assert plain.p_lower < first.p_lower == randomised_lower(first.count, 200, 1e-3, first.coin)
    assert smoothed.certify(x, region, n0=20, n=200, randomised=True, index=1).coin != first.coin
    with pytest.raises(ValueError, match="randomised=True is a bound for a fixed number of draws"):
        smoothed.certify(x, region, randomised=True, sequential=True)


def test_a_users_transformation_is_tried_on_the_darkest_and_brightest_of_all_images():
    """Wrong for one image of twenty alone, the brightest and last."""

    class Marks(gs.ResolvableTransform):
        name = "marks"
        factors = (gs.transforms.Shift("b"),)

        def apply(self, images, theta):
            b = theta[:, 0].to(images)[:, None, None, None]
            step = images[:, :1, :1, :1] - images[:, :1, :1, 1:2]  # which no shift of brightness changes
            return images + torch.where((step - 0.611).abs() < 1e-3, b**3, b)

    images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.5
    images[-1] = torch.tensor([0.961, 0.35, 0.961, 0.961])
    smoothed = gs.SmoothedClassifier(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)),
        gs.SmoothedFamily(Marks(), {"b": gs.Normal(0.0, 0.01)}),
        num_classes=2,
    )
    with pytest.raises(ValueError, match="not resolvable"):
        smoothed.certify_many(images, gs.Box(b=(-0.01, 0.01)), n0=2, n=4)
