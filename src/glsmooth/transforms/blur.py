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
@torch.inference_mode(False)  # kept for those who want derivatives, too
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


#: Squared frequencies, in radians a pixel, that a canonical form keeps. Blur of 25 pixels² damps the finest of them by
#: exp(-12.5), to 30 times what float32 rounds off.
_BAND = 1.0
#: Where the mean squared frequency of a canonical form lies between the least and the largest of the band, weighted by
#: content: the median of CIFAR-10's training images.
_SHARPNESS = 0.15
#: Bounds of the blur that is undone, in pixels². An image that needs more than that is left as sharp as it is.
_SHARPEST = 100.0


def _sharpening(content: Tensor, squared: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor]:
    """The blur to be undone (N,), and which images have nothing to be sharpened (N,), for which it is 0.

    Args:
        content: (N, C, K), coefficients.
        squared: (K,), their squared frequencies.
        rounding: (N,), the sum of squares that rounding leaves of coefficients of 0, at most.
    """
    # The mean brightness is left out: it is not blurred.
    structure = torch.where(squared > 0, content.square().sum(1), 0.0)
    flat = structure.sum(1) <= rounding
    lowest = squared[squared > 0].amin() if (squared > 0).any() else squared.new_zeros(())
    target = lowest + _SHARPNESS * (squared.amax() - lowest)
    if target == lowest:  # a grid of one frequency
        flat = torch.ones_like(flat)

    def mean(blur: Tensor) -> tuple[Tensor, Tensor]:
        """The mean squared frequency, and its slope, which is a variance and so not negative."""
        exponent = blur[:, None] * squared
        weights = structure * torch.exp(exponent - exponent.amax(1, keepdim=True).detach())
        total = weights.sum(1)
        weights = weights / torch.where(total > 0, total, 1.0)[:, None]
        first = weights @ squared
        return first, weights @ squared.square() - first.square()

    with torch.no_grad():
        low, high = (torch.full_like(structure[:, 0], bound) for bound in (-_SHARPEST, _SHARPEST))
        for _ in range(14):
            middle = (low + high) / 2
            coarse = mean(middle)[0] < target
            low, high = torch.where(coarse, middle, low), torch.where(coarse, high, middle)
        blur = (low + high) / 2
    # Newton's method: to the last digit, and with the slope of a root in the images.
    for _ in range(4):
        first, slope = mean(blur)
        inside = ~flat & (slope > 1e-9) & (blur.abs() < _SHARPEST - 0.1)
        step = (target - first) / torch.where(inside, slope, 1.0).detach()
        blur = torch.where(inside, blur + step, blur)
    return torch.where(flat | (blur > _SHARPEST - 0.1), 0.0, blur), flat


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

    def canonical(self, images: Tensor) -> Tensor:
        """The coarse frequencies of an image, as sharp as those of every other.

        On a finite grid blur takes nothing from an image: it damps each frequency by a known factor, and all by one
        number. So an image has one sharpening after which the mean squared frequency of its content is a fixed one,
        and a blurred copy has the same but for a number that is larger by the blur. Rounding ends this: a frequency
        that was damped below the last digits is lost. Hence the band, and hence no form of images of 8 bits.

        An image with content at a single frequency has none, for of it blur cannot be told from less contrast, nor
        has one whose content is all coarser than that. It is left as sharp as it is, or what rounding left at other
        frequencies is sharpened: its form depends on its blur.
        """
        rows, squared_rows = _basis(images.shape[2], self.border, images.device, torch.float64)
        columns, squared_columns = _basis(images.shape[3], self.border, images.device, torch.float64)
        squared = squared_rows[:, None] + squared_columns
        band = squared <= _BAND
        content = rows @ images.double() @ columns.T
        # Of all content: what is finer than the band is rounded, too.
        rounding = (16 * torch.finfo(images.dtype).eps) ** 2 * content.square().sum((1, 2, 3))
        sharpening, flat = _sharpening(content[..., band], squared[band], rounding)
        factor = torch.where(band, torch.exp(0.5 * sharpening[:, None, None] * torch.where(band, squared, 0.0)), 0.0)
        sharp = rows.T @ (content * factor[:, None]) @ columns
        return torch.where(flat[:, None, None, None], images.double().mean((2, 3), keepdim=True), sharp).to(
            images.dtype
        )

    def __repr__(self) -> str:
        return f"GaussianBlur(border={self.border!r})"
