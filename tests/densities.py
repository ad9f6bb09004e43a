"""Densities of μ_β on the plane, in closed form: an oracle of the tests'. Bounds never evaluate one.

θ = γ(α, β), so the density at θ is that of α = γ(·, β)⁻¹(θ) times the Jacobian of that inverse.
"""

import torch

from glsmooth.transforms.factors import PowerThenScale, Scale, ScaleThenShift, Shift, ShiftThenScale


def log_density(family, theta, beta):
    """log of the density of μ_β at θ: (…, d), (…, d) -> (…)."""
    theta, beta = torch.broadcast_tensors(theta, beta)
    total, start = torch.zeros(theta.shape[:-1], dtype=theta.dtype), 0
    for factor in family.transform.factors:
        part = slice(start, start + len(factor.parameters))
        total = total + OF_FACTOR[type(factor)](factor, family.laws, theta[..., part], beta[..., part])
        start = part.stop
    return total


def log_ratio(family, theta, beta):
    """L(θ) = log dμ_β/dμ_β₀ (θ), the privacy-loss variable; ±inf where one density vanishes."""
    return log_density(family, theta, beta) - log_density(family, theta, family.transform.identity)


def shift(factor, laws, theta, beta):
    return laws[factor.name].log_prob((theta - beta)[..., 0])


def scale(factor, laws, theta, beta):
    return laws[factor.name].log_prob((theta / beta)[..., 0]) - torch.log(beta[..., 0])


def scale_then_shift(factor, laws, theta, beta):
    t_c, t_b = theta.unbind(-1)
    b_c, b_b = beta.unbind(-1)
    alpha_c = t_c / b_c
    outer = laws[factor.scale].log_prob(alpha_c) - torch.log(b_c)
    return outer + laws[factor.shift].log_prob(t_b - alpha_c * b_b)


def power_then_scale(factor, laws, theta, beta):
    t_g, t_c = theta.unbind(-1)
    b_g, b_c = beta.unbind(-1)
    alpha_g = t_g / b_g
    log_scale = alpha_g * torch.log(b_c)
    outer = laws[factor.power].log_prob(alpha_g) - torch.log(b_g)
    return outer + laws[factor.scale].log_prob(t_c * torch.exp(-log_scale)) - log_scale


def shift_then_scale(factor, laws, theta, beta):
    t_c, t_b = theta.unbind(-1)
    b_c, b_b = beta.unbind(-1)
    # The Jacobians 1/β_c of the scale and β_c of the shift cancel.
    return laws[factor.scale].log_prob(t_c / b_c) + laws[factor.shift].log_prob((t_b - b_b) * b_c)


OF_FACTOR = {
    Shift: shift,
    Scale: scale,
    ScaleThenShift: scale_then_shift,
    PowerThenScale: power_then_scale,
    ShiftThenScale: shift_then_scale,
}
