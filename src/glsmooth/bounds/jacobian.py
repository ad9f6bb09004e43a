"""Derivatives of a resolving function by automatic differentiation, for transformations that declare no factors."""

from __future__ import annotations

import torch
from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.transforms.base import ResolvableTransform

__all__ = ["check_resolving_function", "jacobians"]


def jacobians(
    transform: ResolvableTransform, alpha: Tensor, beta: Tensor, create_graph: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """γ(α, β) with its Jacobians ∂γ/∂α and ∂γ/∂β, row by row: (n, d), (n, d) -> (n, d), (n, d, d), (n, d, d).

    One backward pass an output. Rows do not mix in :meth:`~glsmooth.ResolvableTransform.resolve`, so the gradient
    of a column's sum holds the rows' own gradients.

    Args:
        alpha, beta: float64. With ``create_graph`` they must require gradients, and the Jacobians keep theirs.
    """
    if not create_graph:
        alpha, beta = alpha.detach().requires_grad_(), beta.detach().requires_grad_()
    with torch.enable_grad():
        theta = transform.resolve(alpha, beta)
        rows = [
            torch.autograd.grad(
                theta[:, i].sum(),
                (alpha, beta),
                create_graph=create_graph,
                retain_graph=True,
                materialize_grads=True,
            )
            for i in range(theta.shape[-1])
        ]
    by_alpha, by_beta = (torch.stack(part, dim=1) for part in zip(*rows, strict=True))
    return theta if create_graph else theta.detach(), by_alpha, by_beta


def check_resolving_function(transform: ResolvableTransform, alpha: Tensor) -> None:
    """Raise a UserError unless γ(α, β₀) is α, differentiably, for smoothing parameters ``alpha`` (n, d)."""
    identity = transform.identity
    alpha = alpha.detach().requires_grad_()
    theta = transform.resolve(alpha, identity.expand_as(alpha))
    if theta.shape != alpha.shape or theta.dtype != alpha.dtype:
        raise UserError(
            f"{transform!r}.resolve maps (n, d) = {tuple(alpha.shape)} float64 to {tuple(theta.shape)} {theta.dtype}; "
            "it must keep shape and dtype"
        )
    if not theta.requires_grad:
        raise UserError(
            f"{transform!r}.resolve loses the gradient in alpha; compute it with torch operations, without detach()"
        )
    error = float(((theta - alpha).abs() / (1 + alpha.abs())).max().detach())
    if not error < 1e-9:
        raise UserError(
            f"{transform!r}: resolve(alpha, identity) differs from alpha by {error:.2g} (relative); the identity "
            f"{identity.tolist()} must leave every parameter as it is"
        )
