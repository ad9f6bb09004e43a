"""Canonical forms: one image for all that a group makes of it.

Where a transformation is a group, an image and all its transforms form an orbit, and a canonical form C takes the whole
orbit to one image of it: C(φ(x, β)) = C(x) for every β, in exact arithmetic. Floating point leaves a residual of the
order of its rounding, magnified by what β took from the image (shades that a small contrast brought close to each other
are drawn apart again). Rolls are exact.

Statistics are of the whole image (channels, height and width), for so are the actions, and in float32 at least. All
functions take (N, C, H, W). A pixel that is not finite leaves an image that is not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["at_least_float32", "centred", "landmark", "log_scaled", "log_standardised", "scaled", "standardised"]

_IMAGE = (1, 2, 3)
#: Canonical images look like usual ones, of which pretrained networks know. On the training images of CIFAR-10 the
#: mean is 0.47 and the standard deviation 0.25 over all of them, 0.21 within one.
_MEAN, _SPREAD = 0.45, 0.25
_ROOT_MEAN_SQUARE = math.hypot(_MEAN, _SPREAD)
#: How far the mean of log x lies below 0, or below the largest. There it is 0.94, or 0.89; with 0.9 the canonical
#: images have the mean 0.47 or 0.48, and 0.23 or 0.24 for their standard deviation.
_DEPTH = 0.9
#: Pixels that differ by no more than so many roundings of the largest are no picture, but rounding and a mean's error.
_ROUNDINGS = 8


def at_least_float32(images: Tensor) -> Tensor:
    """Images (N, C, H, W) whose sums are worth something: half precision becomes float32."""
    return images.float() if images.dtype in (torch.float16, torch.bfloat16) else images


def _no_picture(images: Tensor) -> float:
    return _ROUNDINGS * torch.finfo(images.dtype).eps


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax(_IMAGE, keepdim=True)


def _near_one(x: Tensor) -> Tensor:
    """Images times a power of two, which rounds nothing: squares of their pixels neither overflow nor vanish."""
    return torch.ldexp(x, -torch.frexp(_largest(x.detach())).exponent)


def centred(images: Tensor) -> Tensor:
    """x + b with a fixed mean."""
    x = at_least_float32(images)
    return (x - x.mean(_IMAGE, keepdim=True) + _MEAN).to(images.dtype)


def scaled(images: Tensor) -> Tensor:
    """c·x with a fixed root mean square; a black image stays black.

    Not a fixed spread: a bright wall with hardly a shade on it would become many times as bright.
    """
    x = _near_one(at_least_float32(images))
    power = x.square().mean(_IMAGE, keepdim=True)
    scale = _ROOT_MEAN_SQUARE / torch.where(power == 0, 1.0, power).sqrt()
    return (x * scale).to(images.dtype)


def standardised(images: Tensor) -> Tensor:
    """c·x + b with fixed mean and standard deviation; a constant image is that mean everywhere."""
    x = _near_one(at_least_float32(images))
    largest = _largest(x)
    x = x - x.mean(_IMAGE, keepdim=True)
    variance = x.square().mean(_IMAGE, keepdim=True)
    constant = _largest(x) <= _no_picture(images) * largest
    # The root of zero has no slope, so it is not taken of a constant image.
    scale = _SPREAD / torch.where(constant, 1.0, variance).sqrt()
    return (torch.where(constant, 0.0, x * scale) + _MEAN).to(images.dtype)


def _logarithm(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log x, 0 where a pixel is not above 0; which pixels are; and how many, an image (at least 1)."""
    x = at_least_float32(images)
    lit = ~(x <= 0)  # NaN is no black pixel: it must come out as NaN
    return torch.where(lit, x, 1.0).log(), lit, lit.sum(_IMAGE, keepdim=True).clamp(min=1)


def log_scaled(images: Tensor) -> Tensor:
    """x^g with a fixed mean of |log x| over the pixels above 0; all others are 0. Pixels of 1 stay 1.

    Pixels above 1 come to e at most: a white image with one of them would overflow.
    """
    x, lit, count = _logarithm(images)
    depth = x.abs().sum(_IMAGE, keepdim=True) / count
    constant = _largest(x) <= _no_picture(images)
    x = torch.where(constant, 0.0, x * (_DEPTH / torch.where(constant, 1.0, depth)))
    return torch.where(lit, x.clamp(max=1.0).exp(), 0.0).to(images.dtype)


def log_standardised(images: Tensor) -> Tensor:
    """c·x^g with the largest pixel 1 and a fixed mean of log x over the pixels above 0; all others are 0.

    The largest and not a fixed spread of log x: exp would overflow on an image that is flat but for one bright pixel.
    """
    x, lit, count = _logarithm(images)
    lowest = torch.finfo(x.dtype).min
    largest = torch.where(lit, x, lowest).amax(_IMAGE, keepdim=True)
    largest = torch.where(largest == lowest, 0.0, largest)  # not one pixel above 0
    x = torch.where(lit, x - largest, 0.0)
    depth = -x.sum(_IMAGE, keepdim=True) / count
    constant = _largest(x) <= _no_picture(images) * (1 + largest.abs())
    x = torch.where(constant, 0.0, x * (_DEPTH / torch.where(constant, 1.0, depth)))
    return torch.where(lit, x.exp(), 0.0).to(images.dtype)


#: Whole numbers up to 2^16 for shades and 2^17 for the sum of a window: a sum of their products is below 2^52.
_SHADES, _WINDOW = 2**16 - 1, 2**17


def _window(size: int, skew: float, device: torch.device) -> Tensor:
    """A wide bump at each place of a circle, as rows (size, size) of whole numbers in float64.

    exp(2 cos t + skew sin 2t) has no mirror, so that the mirror image of a place is another place.
    """
    t = torch.arange(size, dtype=torch.float64, device=device) * (2 * math.pi / size)
    bump = torch.exp(2 * torch.cos(t) + skew * torch.sin(2 * t))
    bump = (bump * (_WINDOW / bump.sum())).round()
    place = torch.arange(size, device=device)
    return bump[(place[None] - place[:, None]) % size]


@torch.no_grad()
def landmark(images: Tensor) -> Tensor:
    """A place that moves with an image that is rolled: (N, 2), column and row, whole numbers in float64.

    It is where the image is brightest in a wide window; windows of the two axes differ, so that few images are as
    bright in two. All sums are of whole numbers that float64 holds, so they are exact in any order: an image that is
    rolled has the same ones at other places, to the bit. Of places with equal sums it is the one from which the pixels,
    read on around the edges, come last in an order. Where two are equal in that, too, the image is periodic, and rolled
    to either it is the same one.
    """
    shades = images[:, 0].double()
    for channel in range(1, images.shape[1]):  # each with another weight: colours of equal brightness differ, too
        shades = shades + images[:, channel].double() * (1 + channel / images.shape[1])
    lowest = shades.amin((1, 2), keepdim=True)
    extent = shades.amax((1, 2), keepdim=True) - lowest
    shades = ((shades - lowest) / torch.where(extent == 0, 1.0, extent) * _SHADES).round()
    rows, columns = _window(shades.shape[1], 0.5, images.device), _window(shades.shape[2], -0.3, images.device)
    sums = (rows @ (shades @ columns.mT)).flatten(1)
    brightest = sums == sums.amax(1, keepdim=True)
    best = brightest.int().argmax(1)
    tied = brightest.sum(1) > 1
    if tied.any():  # flat images, stripes and tiles, and few others
        best[tied] = torch.where(brightest[tied], _ranks(images[tied]).flatten(1), -1).argmax(1)
    return torch.stack((best % shades.shape[2], best // shades.shape[2]), dim=1).double()


def _ranks(images: Tensor) -> Tensor:
    """Numbers (N, H, W) of all rolls of an image in a fixed order; equal where rolls are the same image.

    By doubling: the ranks of windows of k pixels, in pairs of neighbours, are those of windows of 2k.
    """
    n, channels, height, width = images.shape
    pixels = images.double().permute(0, 2, 3, 1).reshape(-1, channels)
    ranks: Tensor = pixels.unique(dim=0, return_inverse=True)[1].view(n, height, width)
    for axis, size in ((2, width), (1, height)):
        reach = 1
        while reach < size:
            pairs = ranks * ranks.numel() + ranks.roll(-reach, axis)
            ranks = pairs.unique(return_inverse=True)[1]
            reach *= 2
    return ranks
