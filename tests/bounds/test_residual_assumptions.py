"""What a certificate with a residual assumes: without it, a classifier is certified and wrong.

Each test has a classifier whose probabilities are known exactly, at the reference and at the attacked image, and the
formula of whoever forgets the assumption: it asks for less than the classifier has, and the attacked image is lost.
Where the package has a formula for the case, it asks for more.
"""

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import nct, ncx2
from torch import nn

import glsmooth as gs
from glsmooth.bounds import certify_near, residual_alone
from glsmooth.bounds.tradeoffs import Atoms
from glsmooth.errors import UserError

from . import noisy
from .test_residual import by_quadrature

T = gs.transforms


def near(transform, laws, beta, residual, sigma):
    return certify_near(gs.SmoothedFamily(transform, laws, pixel_noise=sigma), gs.Points([beta]), residual).h_min


def refuted(required, at_reference, at_attacked):
    """Is a certificate false that asks for so much?"""
    return at_reference > required and at_attacked <= 0.5


# --------------------------------------------------------------------------------------------- what the classifier sees


def test_a_classifier_that_is_told_the_draw():
    """Divided by α, a bright pixel shows the contrast of the image itself."""
    law, c, bright, sigma = gs.LogNormal(0.0, 0.4), 1.3, 10.0, 0.25
    z, weight = noisy.normal_nodes(0.4, 400)
    middle = (1 + c) / 2 * bright

    def probability(pixel):
        return float(weight @ ndtr(np.exp(z) * (middle - pixel) / sigma))

    required = near(T.Contrast(), {"contrast": law}, {"contrast": c}, 0.0, sigma)
    assert refuted(required, probability(bright), probability(c * bright))
    # Who sees the pixel alone, and not α, is no exception.
    theta = np.exp(z)[:, None] * np.array([bright, 0.0])
    reached = noisy.Seen.of((theta, c * theta), weight, sigma).best()
    assert required - 0.002 <= reached <= required + 1e-9


class Told(nn.Module):
    """Notes what it is called with."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, *given, **named):
        self.calls.append((given, named))
        return torch.zeros(len(given[0]), 2) + torch.tensor([1.0, 0.0])


def test_our_classifiers_are_told_nothing_but_images():
    family = gs.SmoothedFamily(
        T.Brightness(), {"brightness": gs.Normal(0.0, 0.3)}, pixel_noise=0.25, threat=gs.threats.Rotation()
    )
    model = Told()
    smoothed = gs.SmoothedClassifier(model, family, 2, batch_size=64, threads=1, channels_last=False, compile=False)
    smoothed.certify(torch.rand(1, 6, 6), gs.Box(angle=(-2, 2)))
    assert model.calls
    for given, named in model.calls:
        assert not named
        assert [x.shape[1:] for x in given] == [(1, 6, 6)]


class ByTheBatch(nn.Module):
    """A half-space of the mean of all images of a batch, and the same answer for all of them."""

    def __init__(self, normal, end, together):
        super().__init__()
        self.normal, self.end, self.together = nn.Parameter(normal.flatten()), end, together

    def forward(self, images):
        beyond = images.flatten(1) @ self.normal - self.end
        if self.together:
            beyond = beyond.mean().expand(len(images))
        return torch.stack([-beyond, beyond], dim=1)


@pytest.mark.parametrize("together", [True, False])
def test_a_classifier_that_depends_on_the_batch(together):
    """The mean of 64 noisy copies has an eighth of the noise: it is sure of what it sees, and still near the border."""
    sigma, copies = 0.25, 64
    image, threat = torch.zeros(1, 8, 8), gs.threats.Rotation()
    image[0, :2] = 1.0
    low, high = 0.0, 6.0
    away = (threat.warp(image[None], high) - image[None])[0]
    away = away / away.norm()
    # Every reference is on the good side by 0.12, and the image at the other end of the interval is on the bad one.
    slices = threat.slices(image, low, high, 0.9)
    assert len(slices) == 1
    end = float((slices.references[0] * away).sum()) + 0.12
    attacked = float((threat.warp(image[None], high) * away).sum())
    required = residual_alone(float(slices.residual[0]), sigma)
    spread = sigma / math.sqrt(copies) if together else sigma
    probability = [float(ndtr((end - x) / spread)) for x in (end - 0.12, attacked)]
    assert refuted(required, *probability) == together
    family = gs.SmoothedFamily(T.Identity(), {}, pixel_noise=sigma, threat=threat, residual=0.9)
    smoothed = gs.SmoothedClassifier(
        ByTheBatch(away, end, together), family, 2, batch_size=copies, threads=1, channels_last=False, compile=False
    )
    if together:
        with pytest.raises(UserError, match="depend on the other images of its batch"):
            smoothed.certify(image, gs.Box(angle=(low, high)), n=100_000)
    else:
        result = smoothed.certify(image, gs.Box(angle=(low, high)), n=100_000)
        assert not result.certified
        assert result.prediction == 0


# -------------------------------------------------------------------------------------------------- what is done before


def half_space(reference, attacked, sigma):
    """Probabilities of the half-space half-way between two images."""
    size = float(np.linalg.norm(attacked - reference) / sigma)
    return float(ndtr(size / 2)), float(ndtr(-size / 2))


def test_preprocessing_that_the_residual_does_not_know():
    """Stretched to [0, 1], as many programs do first, two images of low contrast are five times as far apart."""
    sigma = 0.5
    v, attacked = np.array([0.4, 0.5, 0.6]), np.array([0.6, 0.5, 0.4])

    def stretched(x):
        return (x - x.min()) / (x.max() - x.min())

    probability = half_space(stretched(v), stretched(attacked), sigma)
    assert refuted(residual_alone(float(np.linalg.norm(attacked - v)), sigma), *probability)
    seen = float(np.linalg.norm(stretched(attacked) - stretched(v)))
    assert not refuted(residual_alone(seen, sigma), *probability)


def test_rounding_that_the_residual_does_not_know():
    """A rotation by a ten thousandth of a degree, of an image whose pixels are between two levels of 8 bits."""
    sigma, angle = 0.02, 1e-4
    y = torch.arange(16.0, dtype=torch.float64)
    image = (127.5 + 1e-3 * (-1) ** (y[:, None] + y) / 2)[None, None] / 255
    rounded, plain = gs.threats.Rotation(mask="disk", round8=True), gs.threats.Rotation(mask="disk")
    reference = plain.warp(image, 0.0)
    attacked = rounded.apply(image, angle)
    probability = half_space(reference.numpy(), attacked.numpy(), sigma)
    without = residual_alone(float(plain.residual(image, reference, 0.0, angle).upper), sigma)
    assert without < 0.502
    assert refuted(without, *probability)
    ours = residual_alone(float(rounded.residual(image, reference, 0.0, angle).upper), sigma)
    assert not refuted(ours, *probability)


def test_a_perturbation_that_the_residual_does_not_know():
    image, sigma = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64), 0.25
    with_l2, without = gs.threats.Scaling(l2=0.3), gs.threats.Scaling()
    reference = without.warp(image, 1.1)
    attacked = with_l2.apply(image, 1.1, torch.ones_like(image))
    probability = half_space(reference.numpy(), attacked.numpy(), sigma)
    assert refuted(residual_alone(float(without.residual(image, reference, 1.1, 1.1).upper), sigma), *probability)
    assert not refuted(residual_alone(float(with_l2.residual(image, reference, 1.1, 1.1).upper), sigma), *probability)


# ------------------------------------------------------------------------------------------ how far the actions lead


def by_contrast(s, t, c, b, size):
    """Most that a class can have at an image of which less than half is left at c·x + b and a push of ``size``."""
    v, push = np.zeros((2, 10_000))
    v[:2], push[2:4] = (30.0, -30.0), (size * math.sqrt(0.5), -size * math.sqrt(0.5))
    return noisy.contrasted(v, c * v + b + push, (s, t), 1.0).best()


def test_a_contrast_whose_stretch_of_the_residual_is_dropped():
    laws = {"contrast": gs.LogNormal(0.0, 0.3)}
    wrong = by_quadrature(laws, 1.3, 0.0, 1.0, "contrast_first", slope="none")
    reached = by_contrast(0.3, 0.0, 1.3, 0.0, 1.0)
    assert round(wrong, 4) == 0.9080
    assert refuted(wrong, reached, 0.5)
    assert not refuted(near(T.Contrast(), laws, {"contrast": 1.3}, 1.0, 1.0), reached, 0.5)


def test_a_contrast_whose_stretch_is_taken_at_the_parameter():
    """θ_c = c α_c is what is seen; the residual is multiplied by α_c."""
    laws = {"contrast": gs.LogNormal(0.0, 0.4), "brightness": gs.Normal(0.0, 0.3)}
    wrong = by_quadrature(laws, 0.8, -0.1, 1.6, "contrast_first", slope="theta")
    reached = by_contrast(0.4, 0.3, 0.8, -0.1, 1.6)
    assert round(wrong, 5) == 0.93775
    assert refuted(wrong, reached, 0.5)
    assert not refuted(
        near(T.ContrastBrightness(), laws, {"contrast": 0.8, "brightness": -0.1}, 1.6, 1.0), reached, 0.5
    )


def test_a_contrast_whose_brightness_law_is_forgotten():
    """σ_b = 0 would lose the residual altogether: c = 1, e = σ needs .85895, and 1/2 would be claimed."""
    reached = by_contrast(0.4, 0.0, 1.0, 0.0, 1.0)
    assert refuted(0.5, reached, 0.5)
    assert reached > 0.85
    assert not refuted(
        near(T.Contrast(), {"contrast": gs.LogNormal(0.0, 0.4)}, {"contrast": 1.0}, 1.0, 1.0), reached, 0.5
    )


def floored(mass, size):
    """Levels below which no pixel stays, γ = max, and an image that has been at the upper one: no draw leads it back.

    Returns:
        (p, q) of the best classifier at level 1/2, and the joint experiment with that mass and without it.
    """
    sigma, levels = 0.3, (-6.0, 0.0)
    weights = np.array([mass, 1 - mass])
    v = np.array([-9.0, -9.0])
    attacked = np.maximum(v, levels[1]) + size * sigma * np.array([0.6, 0.8])
    means = [np.stack([np.maximum(x, level) for level in levels]) for x in (v, attacked)]
    reached = noisy.Seen.of((means[0], means[1]), weights, sigma, 0.2).best()
    # θ is the upper level, always: given that, α is what it was, and its law says nothing.
    right = Atoms(np.full(2, -math.log(1 - mass)), (1 - mass) * weights, weights, np.full(2, size), only_0=mass)
    wrong = Atoms(right.ell, right.p_0, right.p_b, right.spread)
    return reached, right, wrong


def test_mass_that_the_attacked_image_never_has_is_dropped():
    mass, size = 0.3, 0.7
    reached, right, wrong = floored(mass, size)
    assert reached == pytest.approx(mass + (1 - mass) * ndtr(size), abs=0.003)
    assert refuted(wrong.inverse(0.5), reached, 0.5)
    assert not refuted(right.inverse(0.5), reached, 0.5)
    # The claim in numbers: at .6 of a class, more than half is said to be left; it is less than a fifth.
    true = ndtr(ndtri((0.6 - mass) / (1 - mass)) - size)
    assert wrong(0.6) > 0.6 > 0.5 > 0.2 > true >= right(0.6) - 1e-6


def test_an_action_that_is_only_approximately_exact():
    """Bilinear rotations by eighths of a turn are taken for a group, under whose uniform law any of them were free.

    Two interpolations smooth a checkerboard more than one does, and its energy tells. (A sum of squares of pixels under
    noise has a non-central χ² law.)
    """
    sigma, threat = 0.25, gs.threats.Rotation(mask="disk")
    y = torch.arange(9)
    image = threat.warp(((y[:, None] + y) % 2 * 2.0 - 1).double()[None, None], 0.0)
    angles = 45.0 * torch.arange(8, dtype=torch.float64)
    attacked = threat.warp(image, 45.0)

    def orbit(x):
        return threat.warp(x.expand(8, -1, -1, -1), angles).flatten(1)

    def probability(x, energy):
        return float(ncx2.sf(energy / sigma**2, 81, orbit(x).square().sum(1) / sigma**2).mean())

    claimed = residual_alone(0.0, sigma)
    best = max(
        (probability(image, energy), -probability(attacked, energy))
        for energy in np.linspace(2, 60, 200)
        if probability(attacked, energy) <= 0.5
    )
    assert refuted(claimed, best[0], -best[1])
    assert best[0] > 0.9
    # With the true difference of what is seen, for the worst of the draws, it is no exception.
    difference = (orbit(attacked) - orbit(image).roll(-1, dims=0)).norm(dim=1).max()
    assert not refuted(residual_alone(float(difference), sigma), *best)
    # What only approximates an action of ours is refused.
    family = gs.SmoothedFamily(
        T.Translation(padding="reflect"), {"tx": gs.Normal(0, 3), "ty": gs.Normal(0, 3)}, pixel_noise=sigma
    )
    with pytest.raises(gs.NotApplicable, match="only approximately resolvable"):
        certify_near(family, gs.Points([{"tx": 1}]), 0.1)


class Bent(T.Brightness):
    """Somebody's own, that stretches differences."""

    def apply(self, images, theta):
        return torch.sinh(torch.asinh(images) + theta[:, 0, None, None, None])


def test_an_action_of_which_distances_are_not_known():
    """Resolvable exactly, with the same resolving function as brightness, and still not the same with a residual."""
    s, turn = 0.8, np.array([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
    image, push = np.array([15.0, 15.0]), np.array([math.sqrt(0.5), -math.sqrt(0.5)])
    theta, weights = noisy.normal_nodes(s, 600, 4.0)
    means = [
        Bent().apply(torch.from_numpy(x).expand(len(theta), 1, 1, 2), torch.from_numpy(theta)[:, None])
        for x in (image, image + push)
    ]
    reached = noisy.Seen.of(tuple(x.flatten(1).numpy() @ turn for x in means), weights, 1.0).best()
    laws = {"brightness": gs.Normal(0.0, s)}
    wrong = near(T.Brightness(), laws, {"brightness": 0.0}, 1.0, 1.0)
    assert reached > wrong + 0.03
    assert refuted(wrong, reached, 0.5)
    with pytest.raises(gs.NotApplicable, match="nothing is known of how far"):
        near(Bent(), laws, {"brightness": 0.0}, 1.0, 1.0)


# -------------------------------------------------------------------------------------------------------------- noise


def test_noise_before_the_contrast():
    """Pixels that show nothing but noise show how much it was multiplied by: to the ratio, α does not matter.

    A bright pixel over the root mean square of m dark ones has a non-central t law.
    """
    law, c, bright, m = gs.LogNormal(0.0, 0.4), 1.3, 10.0, 400
    required = near(T.Contrast(), {"contrast": law}, {"contrast": c}, 0.0, 1.0)
    end = (1 + c) / 2 * bright
    probability = float(nct.cdf(end, m, bright)), float(nct.cdf(end, m, c * bright))
    assert refuted(required, *probability)
    # By draws, too.
    rng = np.random.default_rng(0)
    n = 4000
    for pixel, exact in zip((bright, c * bright), probability, strict=True):
        alpha = np.exp(0.4 * rng.standard_normal((n, 1)))
        seen = alpha * (np.eye(m + 1)[0] * pixel + rng.standard_normal((n, m + 1)))
        ratio = seen[:, 0] / np.sqrt(np.square(seen[:, 1:]).mean(1))
        assert (ratio <= end).mean() == pytest.approx(exact, abs=4.5 * 0.5 / math.sqrt(n))
    # Noise that comes after it hides the same image.
    theta, weights = noisy.normal_nodes(0.4, 400)
    means = np.exp(theta)[:, None] * np.array([bright, 0.0])
    assert noisy.Seen.of((means, c * means), weights, 1.0).best() <= required + 1e-9


class FirstNoise(nn.Module):
    """A bright pixel against the root mean square of dark ones."""

    def forward(self, images):
        pixels = images.flatten(1)
        beyond = pixels[:, 0] - 11.5 * pixels[:, 1:].square().mean(1).sqrt()
        return torch.stack([-beyond, beyond], dim=1)


def test_our_noise_comes_last():
    """The classifier of the test before is of no use against our draws: dark pixels have noise of sigma, always."""
    family = gs.SmoothedFamily(T.Contrast(), {"contrast": gs.LogNormal(0.0, 0.4)}, pixel_noise=0.05)
    smoothed = gs.SmoothedClassifier(
        FirstNoise(), family, 2, batch_size=512, threads=1, channels_last=False, compile=False
    )
    image = torch.zeros(1, 20, 20)
    image[0, 0, 0] = 0.5
    result = smoothed.certify(image, gs.Box(contrast=(1.0, 1.3)), n0=500, n=2000, alpha=1e-3)
    # α is seen in nothing but the pixel: half of the draws are above 1.15, about.
    expected = float(ndtr(math.log(1.15) / 0.4))
    assert result.count / result.n == pytest.approx(expected, abs=0.02 + 4.5 * 0.5 / math.sqrt(2000))
    assert not result.certified


def test_noise_that_is_not_the_same_in_every_direction():
    scales, push = np.array([0.25, 1.0]), np.array([0.3, 0.0])
    same = math.sqrt(np.square(scales).mean())  # as much noise in all
    probability = float(ndtr(0.5 * push[0] / scales[0])), float(ndtr(-0.5 * push[0] / scales[0]))
    for sigma in (same, scales.max()):
        assert refuted(residual_alone(float(np.linalg.norm(push)), sigma), *probability)
    right = residual_alone(float(np.linalg.norm(push / scales)), 1.0)
    assert not refuted(right, *probability)
    seen = noisy.Seen.of((np.zeros((1, 2)), push[None]), np.ones(1), scales[None], 0.2)
    assert right - 0.002 <= seen.best() <= right + 1e-9


def test_isometries_that_are_none_in_the_norm_of_the_noise():
    """Two pixels exchanged by the toss of a coin, one of which has three times the noise of the other."""
    scales, push = np.array([0.9, 0.3]), np.array([0.5, 0.0])
    v = np.array([-8.0, 8.0])
    means = [np.stack((x, x[::-1])) for x in (v, v + push)]
    reached = noisy.Seen.of((means[0], means[1]), np.full(2, 0.5), np.stack((scales, scales)), 0.2).best()
    size = np.array([push[0] / scales[0], push[0] / scales[1]])
    assert refuted(residual_alone(float(size[0]), 1.0), reached, 0.5)
    right = Atoms(np.zeros(2), np.full(2, 0.5), np.full(2, 0.5), size)
    assert not refuted(right.inverse(0.5), reached, 0.5)
    assert reached >= right.inverse(0.5) - 0.003


def test_noise_of_complex_coordinates():
    """Of variance σ² in all, as complex normal draws are: half of it is in each real direction."""
    size = float(ndtri(0.943))
    reached = float(ndtr(math.sqrt(2) * size))
    assert round(reached, 3) == 0.987
    draws = torch.randn(200_000, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    inside = float((draws.real < size).double().mean())  # P of the half-plane that is `size` away, at sigma 1
    assert inside == pytest.approx(reached, abs=4.5 * math.sqrt(reached * (1 - reached) / 200_000))
    assert refuted(residual_alone(size, 1.0), inside, 0.5)
    assert not refuted(residual_alone(math.sqrt(2) * size, 1.0), reached - 1e-9, 0.5)
