"""Pixel-wise intensity: c·x + b, c·(x + b) and c·x^g with their one-parameter cases."""

from __future__ import annotations

from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.transforms.base import ResolvableTransform, column
from glsmooth.transforms.canonical import centred, log_scaled, log_standardised, scaled, standardised
from glsmooth.transforms.factors import PowerThenScale, Scale, ScaleThenShift, Shift, ShiftThenScale

__all__ = ["Brightness", "Contrast", "ContrastBrightness", "Gamma", "GammaContrast"]

ORDERS = ("contrast_first", "brightness_first")


class Brightness(ResolvableTransform):
    """x + b; b in units of the image's range [0, 1]."""

    name = "brightness"
    factors = (Shift("brightness"),)

    def apply(self, images: Tensor, theta: Tensor) -> Tensor:
        return images + column(theta, 0, images)

    def canonical(self, images: Tensor) -> Tensor:
        return centred(images)


class Contrast(ResolvableTransform):
    """c·x with c > 0."""

    name = "contrast"
    factors = (Scale("contrast"),)

    def apply(self, images: Tensor, theta: Tensor) -> Tensor:
        return images * column(theta, 0, images)

    def canonical(self, images: Tensor) -> Tensor:
        return scaled(images)


class ContrastBrightness(ResolvableTransform):
    """Affine intensity.

    Args:
        order: ``"contrast_first"`` is c·x + b, ``"brightness_first"`` is c·(x + b). The two are the same set of
            images in other coordinates: the same box and the same laws mean other things, and need other numbers.
    """

    name = "contrast_brightness"
    parameters = ("contrast", "brightness")

    def __init__(self, order: str = "contrast_first") -> None:
        if order not in ORDERS:
            raise UserError(f"order={order!r} is unknown; choose from {', '.join(ORDERS)}")
        self.order = order
        factor = ScaleThenShift if order == "contrast_first" else ShiftThenScale
        self.factors = (factor("contrast", "brightness"),)
        self.seal()

    def apply(self, images: Tensor, theta: Tensor) -> Tensor:
        contrast, brightness = column(theta, 0, images), column(theta, 1, images)
        if self.order == "contrast_first":
            return contrast * images + brightness
        return contrast * (images + brightness)

    def canonical(self, images: Tensor) -> Tensor:
        return standardised(images)

    def __repr__(self) -> str:
        return f"ContrastBrightness(order={self.order!r})"


class Gamma(ResolvableTransform):
    """x^g with g > 0, on images that are nowhere negative."""

    name = "gamma"
    factors = (Scale("gamma"),)

    def apply(self, images: Tensor, theta: Tensor) -> Tensor:
        return images ** column(theta, 0, images)

    def canonical(self, images: Tensor) -> Tensor:
        return log_scaled(images)


class GammaContrast(ResolvableTransform):
    """c·x^g with g, c > 0, on images that are nowhere negative."""

    name = "gamma_contrast"
    factors = (PowerThenScale("gamma", "contrast"),)

    def apply(self, images: Tensor, theta: Tensor) -> Tensor:
        return column(theta, 1, images) * images ** column(theta, 0, images)

    def canonical(self, images: Tensor) -> Tensor:
        return log_standardised(images)
