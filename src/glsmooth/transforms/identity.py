"""The action that does nothing: with pixel noise, plain randomized smoothing (Cohen et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from glsmooth.transforms.base import ResolvableTransform

__all__ = ["Identity"]


class Identity(ResolvableTransform):
    """φ(x, ()) = x, without parameters: what is left for a classifier that pixel noise alone smooths."""

    name = "identity"
    parameters = ()
    factors = ()

    def apply(self, images: Tensor, theta: Tensor) -> Tensor:
        return images

    def resolve(self, alpha: Tensor, beta: Tensor) -> Tensor:
        merged: Tensor = torch.broadcast_tensors(alpha, beta)[0]
        return merged

    def inverse(self, theta: Tensor, beta: Tensor) -> Tensor:
        return theta

    def random_parameters(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(n, 0, dtype=torch.float64)

    def canonical(self, images: Tensor) -> Tensor:
        return images
