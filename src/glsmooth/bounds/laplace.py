"""Laplace's approximation of the density of a smoothed *image* (Korzh et al., eq. 5, 12, 13): a diagnostic.

With pixel noise the smoothed image is y = φ(x̂, ψ(α)) + σ·ε, x̂ = φ(x, β), ψ the quantile map from standard normal
numbers to the smoothing law. Its density has no closed form; linearising φ in α at a point gives

    log ρ(y|x̂) ≈ log C - ‖μ‖²/(2σ²) + (M α₀, α₀)/(2σ²) - ½ log det M,   log C = -n/2 log(2π σ²) + d log σ,

    μ = y - φ + Jα,   M = JᵀJ + σ² I,   α₀ = M⁻¹ Jᵀ μ = M⁻¹ Jᵀ (y - φ + Jα),   J = ∂φ/∂α.

The factor 1/(2σ²) of the second term and the Jᵀ in α₀ are missing in print. The formula is exact where φ is affine
in α. It depends on the image and is an approximation elsewhere, so it shows what pixel noise does to scores and
never certifies: certificates leave pixel noise out, which is post-processing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from glsmooth.family.smoothed import SmoothedFamily

__all__ = ["gauss_newton_step", "laplace_log_density"]


def _expansion(family: SmoothedFamily, x_hat: Tensor, alpha: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """μ (n,) and J (n, d) at ``alpha``, n = C·H·W; both keep the graph of ``x_hat``."""
    d = len(family.parameters)
    for name, value, shape in (("y", y, x_hat.shape), ("alpha", alpha, (d,))):
        if value.shape != shape or value.dtype != torch.float64:
            raise ValueError(f"{name} is {tuple(value.shape)} {value.dtype}; it must be {tuple(shape)} float64")
    if x_hat.ndim != 3 or x_hat.dtype != torch.float64:
        raise ValueError(f"x_hat is {tuple(x_hat.shape)} {x_hat.dtype}; give one image (C, H, W), float64")

    def image(a: Tensor) -> Tensor:
        theta = family.quantile(torch.special.ndtr(a)[None])
        return family.transform.apply(x_hat[None], theta).flatten()

    differentiate: Any = torch.autograd.functional.jacobian  # torch gives it no types
    jacobian: Tensor = differentiate(image, alpha, create_graph=x_hat.requires_grad)
    return y.flatten() - image(alpha) + jacobian @ alpha, jacobian


def _sigma(family: SmoothedFamily, sigma: float | None) -> float:
    sigma = family.pixel_noise if sigma is None else sigma
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma={sigma} must be a finite number above 0: without pixel noise y has no density")
    return sigma


def gauss_newton_step(
    family: SmoothedFamily, x_hat: Tensor, alpha: Tensor, y: Tensor, sigma: float | None = None
) -> Tensor:
    """α₀ (d,), one Gauss-Newton step from ``alpha`` towards the most likely α given y (eq. 13, with its Jᵀ).

    Arguments as :func:`laplace_log_density`.
    """
    sigma = _sigma(family, sigma)
    mu, jacobian = _expansion(family, x_hat, alpha, y)
    m = jacobian.T @ jacobian + sigma**2 * torch.eye(jacobian.shape[1], dtype=torch.float64)
    step: Tensor = torch.linalg.solve(m, jacobian.T @ mu)
    return step


def laplace_log_density(
    family: SmoothedFamily, x_hat: Tensor, alpha: Tensor, y: Tensor, sigma: float | None = None
) -> Tensor:
    """Laplace's approximation of log ρ(y|x̂), eq. 12 corrected: a diagnostic, which never certifies.

    It can be differentiated in ``x_hat``, so in β where x̂ = φ(x, β): the score of the noisy smoothed image.

    Args:
        family: transformation and laws, on the plane.
        x_hat: the attacked image, (C, H, W), float64.
        alpha: expansion point in standard normal coordinates, (d,), float64: the smoothing parameters are the law's
            quantiles ψ(α) at Φ(α). Good ones come from :func:`gauss_newton_step`.
        y: the noisy smoothed image whose density is asked for, (C, H, W), float64.
        sigma: standard deviation of the pixel noise; the family's ``pixel_noise`` when left out.

    Returns:
        The log-density with all constants, a scalar tensor.

    Raises:
        ValueError: shapes or dtypes that do not fit, or no pixel noise.
    """
    sigma = _sigma(family, sigma)
    mu, jacobian = _expansion(family, x_hat, alpha, y)
    n, d = jacobian.shape
    m = jacobian.T @ jacobian + sigma**2 * torch.eye(d, dtype=torch.float64)
    alpha_0 = torch.linalg.solve(m, jacobian.T @ mu)
    log_c = -n / 2 * math.log(2 * math.pi * sigma**2) + d * math.log(sigma)
    quadratic = (alpha_0 @ m @ alpha_0 - mu @ mu) / (2 * sigma**2)
    log_density: Tensor = log_c + quadratic - 0.5 * torch.linalg.slogdet(m).logabsdet
    return log_density
