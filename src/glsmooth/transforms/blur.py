"""Gaussian blur as the heat semigroup, so that two blurs merge exactly."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.transforms.base import ResolvableTransform
from glsmooth.transforms.factors import Shift

__all__ = ["GaussianBlur"]

BORDERS = ("reflect", "cyclic")


@lru_cache(maxsize=32)
def _basis(size: int, border: str, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Orthonormal real eigenvectors of the heat kernel as rows (size, size), and squared frequencies (size,)."""
    position = torch.arange(size, dtype=torch.float64)
    if border == "reflect":  # DCT-II: cosines at half-integer positions
        frequency = math.pi * position / size
        basis = torch.cos(frequency[:, None] * (position[None] + 0.5)) * math.sqrt(2 / size)
        basis[0] /= math.sqrt(2)
    else:  # real Fourier basis: cosines up to the Nyquist frequency, sines above it
        k = torch.where(position <= size // 2, position, size - position)
        frequency = 2 * math.pi * k / size
        angle = frequency[:, None] * position[None]
        basis = torch.where((position <= size // 2)[:, None], torch.cos(angle), torch.sin(angle))
        basis = basis / basis.norm(dim=1, keepdim=True)
    return basis.to(device, dtype), (frequency**2).to(device, dtype)


class GaussianBlur(ResolvableTransform):
    """Heat kernel of variance ``blur`` = r >= 0 (pixels²): frequencies ω are damped by exp(-r‖ω‖²/2).

    A sampled, truncated kernel is not a semigroup; this is, to rounding.

    Args:
        border: ``"reflect"`` mirrors the image at its border (cosine transform). ``"cyclic"`` wraps it (Fourier);
            only that one commutes with cyclic shifts, so only it may be composed with a translation.
    """

    name = "gaussian_blur"
    factors = (Shift("blur", non_negative=True),)

    def __init__(self, border: str = "reflect") -> None:
        if border not in BORDERS:
            raise UserError(f"border={border!r} is unknown; choose from {', '.join(BORDERS)}")
        self.border = border
        self.seal()

    def _kernel(self, size: int, blur: Tensor) -> Tensor:
        """One (size, size) matrix an image: (N, size, size)."""
        basis, squared = _basis(size, self.border, blur.device, blur.dtype)
        return basis.T @ (torch.exp(-0.5 * blur[:, None] * squared)[:, :, None] * basis)

    def apply(self, images: Tensor, theta: Tensor) -> Tensor:
        blur = theta[:, 0].to(device=images.device, dtype=images.dtype)
        rows = self._kernel(images.shape[2], blur)[:, None]
        columns = self._kernel(images.shape[3], blur)[:, None]
        return rows @ images @ columns.mT

    def without_canonical(self) -> str:
        return "blur cannot be undone, so images that become alike have no common image to go back to"

    def __repr__(self) -> str:
        return f"GaussianBlur(border={self.border!r})"
