"""The Laplace log-density against exact marginals; eq. 6 of the paper is its special case."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.special import ndtri

import glsmooth as gs
from glsmooth.bounds.laplace import gauss_newton_step, laplace_log_density

KAPPA, SIGMA = 0.4, 0.3
BRIGHTNESS = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0, KAPPA)}, pixel_noise=SIGMA)
ZERO = torch.zeros(1, dtype=torch.float64)


def images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, dtype=torch.float64, generator=generator)
    return x, x + 0.5 * torch.randn(shape, dtype=torch.float64, generator=generator)


def marginal(mean, factor, y, sigma):
    """log N(y; mean, σ² I + factor factorᵀ)."""
    covariance = sigma**2 * torch.eye(y.numel(), dtype=torch.float64) + factor @ factor.T
    law = torch.distributions.MultivariateNormal(mean.flatten(), covariance)
    return float(law.log_prob(y.flatten()))


@pytest.mark.parametrize("start", [-1.3, 0.0, 0.7])
def test_exact_for_brightness_whatever_the_expansion_point(start):
    x, y = images(2, 3, 4)
    found = laplace_log_density(BRIGHTNESS, x, ZERO + start, y)
    factor = torch.full((24, 1), KAPPA, dtype=torch.float64)
    assert float(found) == pytest.approx(marginal(x, factor, y, SIGMA), abs=1e-9)


def test_exact_for_contrast_first_affine_with_normal_brightness_at_a_fixed_contrast():
    """Two parameters: linear in the brightness; beside a narrow law of contrast the rest is negligible."""
    x, y = images(1, 3, 3)
    family = gs.SmoothedFamily(
        gs.transforms.ContrastBrightness(),
        {"contrast": gs.LogNormal(0.0, 1e-3), "brightness": gs.Normal(0.2, KAPPA)},
    )
    found = laplace_log_density(family, x, torch.zeros(2, dtype=torch.float64), y, SIGMA)
    factor = torch.stack((1e-3 * x.flatten(), torch.full((9,), KAPPA, dtype=torch.float64)), dim=1)
    assert float(found) == pytest.approx(marginal(x + 0.2, factor, y, SIGMA), abs=1e-6)


@pytest.mark.parametrize("pixels", [1, 12])
def test_equation_6_is_the_special_case(pixels):
    """The score of brightness with pixel noise is normal, of scale √(κ² + σ²/n); one pixel gives ξ = √(κ² + σ²) Φ⁻¹.

    Since y ~ N(x + β, σ² I + κ² 11ᵀ), the score is 1ᵀ Σ⁻¹ (y - x - β) with 1ᵀ Σ⁻¹ = 1ᵀ / (σ² + n κ²).
    """
    x, y = images(1, 1, pixels)
    beta = torch.tensor(0.15, dtype=torch.float64, requires_grad=True)
    value = laplace_log_density(BRIGHTNESS, x + beta, ZERO, y)
    (score,) = torch.autograd.grad(value, beta)
    scale = math.sqrt(KAPPA**2 + SIGMA**2 / pixels)
    assert float(score) == pytest.approx((float((y - x).mean()) - 0.15) / scale**2, abs=1e-9)
    # mean(y - x) has the variance scale², so the score is N(0, 1 / scale²) and w(h) = φ(Φ⁻¹(h)) / scale.
    xi, _ = quad(lambda h: scale * math.sqrt(2 * math.pi) * math.exp(ndtri(h) ** 2 / 2), 0.5, 0.9)
    assert xi == pytest.approx(scale * ndtri(0.9), abs=1e-9)
    if pixels == 1:
        assert scale == pytest.approx(math.sqrt(KAPPA**2 + SIGMA**2))


def exact_contrast(x, y, s, sigma):
    """log ∫ N(y; c x, σ²) dLogNormal(0, s) by quadrature over the normal coordinate."""

    def log_joint(a):
        residual = y - math.exp(s * a) * x
        return float(-(residual**2).sum() / (2 * sigma**2)) - a * a / 2

    nodes = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    logs = torch.tensor([log_joint(float(a)) for a in nodes], dtype=torch.float64)
    step = float(nodes[1] - nodes[0])
    n = y.numel()
    return float(torch.logsumexp(logs, 0)) + math.log(step) - (n + 1) / 2 * math.log(2 * math.pi) - n * math.log(sigma)


def test_near_the_exact_density_where_the_transformation_is_curved():
    """Contrast with a log-normal law, expanded where Gauss-Newton steps lead; the error vanishes with σ."""
    x, _ = images(1, 4, 4)
    family = gs.SmoothedFamily(gs.transforms.Contrast(), {"contrast": gs.LogNormal(0, 0.5)})
    errors = []
    for sigma in (0.2, 0.05, 0.0125):
        noise = sigma * torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        y = 1.4 * x + noise
        alpha = ZERO
        for _ in range(20):
            alpha = gauss_newton_step(family, x, alpha, y, sigma)
        errors.append(abs(float(laplace_log_density(family, x, alpha, y, sigma)) - exact_contrast(x, y, 0.5, sigma)))
    assert errors[0] < 0.05
    assert errors[2] < 2e-3
    assert float(alpha) == pytest.approx(math.log(1.4) / 0.5, abs=0.05)


def test_gauss_newton_is_the_posterior_mean_for_brightness():
    """α | y is normal with mean κ Σ(y - x) / (σ² + n κ²); without Jᵀ (as printed) shapes do not even match."""
    x, y = images(1, 2, 3)
    expected = KAPPA * float((y - x).sum()) / (SIGMA**2 + 6 * KAPPA**2)
    assert float(gauss_newton_step(BRIGHTNESS, x, ZERO + 0.9, y)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.0}, "sigma=0.0 must be"),
        ({"y": torch.zeros(1, 2, 2, dtype=torch.float64)}, r"y is \(1, 2, 2\)"),
        ({"alpha": torch.zeros(2, dtype=torch.float64)}, r"alpha is \(2,\)"),
        ({"alpha": torch.zeros(1)}, "float64"),
        ({"x_hat": torch.zeros(2, 3), "y": torch.zeros(2, 3, dtype=torch.float64)}, "x_hat is"),
    ],
)
def test_bad_input_is_named(change, message):
    x, y = images(1, 2, 3)
    with pytest.raises(ValueError, match=message):
        laplace_log_density(BRIGHTNESS, **{"x_hat": x, "alpha": ZERO, "y": y, **change})
