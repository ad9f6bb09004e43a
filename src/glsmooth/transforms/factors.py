"""Resolving functions: the groups of which the built-in transformations are products.

A factor owns some of a transformation's parameters and says how two applications merge: θ = γ(α, β), β acting
first. Bounds know the law of γ(α, β), α ~ P, for these five classes, so a transformation that is built from them, a
user's too, has exact certificates.

Parameters come along the last axis of tensors, in the order of ``parameters``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from glsmooth.errors import UserError


@dataclass(frozen=True)
class Domain:
    """Interval of values that a parameter may take."""

    low: float = -math.inf
    low_included: bool = False

    def contains(self, value: float) -> bool:
        return (self.low < value or (self.low_included and value == self.low)) and value < math.inf

    def __str__(self) -> str:
        if self.low == -math.inf:
            return "any finite number"
        return f"{'>=' if self.low_included else '>'} {self.low:g}"


REAL = Domain()
POSITIVE = Domain(low=0.0)
NON_NEGATIVE = Domain(low=0.0, low_included=True)


class Factor(ABC):
    """One group (or semigroup) with its parameters."""

    parameters: tuple[str, ...]
    identity: tuple[float, ...]

    @abstractmethod
    def domain(self, name: str) -> Domain:
        """Values that the parameter may take."""

    @abstractmethod
    def resolve(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """γ(α, β), β acting first: shapes (…, d), (…, d) -> (…, d)."""

    @abstractmethod
    def inverse(self, theta: Tensor, beta: Tensor) -> Tensor:
        """The α with γ(α, β) = θ: shapes (n, d), (d,) -> (n, d)."""


@dataclass(frozen=True)
class Shift(Factor):
    """θ = α + β: brightness, translation, blur. ``axis`` makes it a shift of pixels along H or W."""

    name: str
    non_negative: bool = False
    axis: str | None = None  # "height" or "width": integer shifts, cyclic on an image of known size

    def __post_init__(self) -> None:
        if self.axis not in (None, "height", "width"):
            raise UserError(f"axis={self.axis!r} is not an axis of an image; use 'height', 'width' or None")

    @property
    def parameters(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.name,)

    @property
    def identity(self) -> tuple[float, ...]:  # type: ignore[override]
        return (0.0,)

    def domain(self, name: str) -> Domain:
        return NON_NEGATIVE if self.non_negative else REAL

    def resolve(self, alpha: Tensor, beta: Tensor) -> Tensor:
        return alpha + beta

    def inverse(self, theta: Tensor, beta: Tensor) -> Tensor:
        return theta - beta


@dataclass(frozen=True)
class Scale(Factor):
    """θ = α β with positive numbers: contrast, gamma."""

    name: str

    @property
    def parameters(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.name,)

    @property
    def identity(self) -> tuple[float, ...]:  # type: ignore[override]
        return (1.0,)

    def domain(self, name: str) -> Domain:
        return POSITIVE

    def resolve(self, alpha: Tensor, beta: Tensor) -> Tensor:
        return alpha * beta

    def inverse(self, theta: Tensor, beta: Tensor) -> Tensor:
        return theta / beta


@dataclass(frozen=True)
class _ScaleAndShift(Factor):
    """The affine group in one dimension: a positive scale and a shift."""

    scale: str
    shift: str

    @property
    def parameters(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.scale, self.shift)

    @property
    def identity(self) -> tuple[float, ...]:  # type: ignore[override]
        return (1.0, 0.0)

    def domain(self, name: str) -> Domain:
        return POSITIVE if name == self.scale else REAL


@dataclass(frozen=True)
class ScaleThenShift(_ScaleAndShift):
    """c·x + b (contrast first): γ = (α_c β_c, α_c β_b + α_b). The shift seen at θ is θ_c β_b / β_c."""

    def resolve(self, alpha: Tensor, beta: Tensor) -> Tensor:
        a_c, a_b = alpha.unbind(-1)
        b_c, b_b = beta.unbind(-1)
        return torch.stack((a_c * b_c, a_c * b_b + a_b), dim=-1)

    def inverse(self, theta: Tensor, beta: Tensor) -> Tensor:
        a_c = theta[..., 0] / beta[0]
        return torch.stack((a_c, theta[..., 1] - a_c * beta[1]), dim=-1)


@dataclass(frozen=True)
class PowerThenScale(Factor):
    """c·x^g: γ = (α_g β_g, α_c β_c^{α_g}); the affine group again, acting on log x."""

    power: str
    scale: str

    @property
    def parameters(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.power, self.scale)

    @property
    def identity(self) -> tuple[float, ...]:  # type: ignore[override]
        return (1.0, 1.0)

    def domain(self, name: str) -> Domain:
        return POSITIVE

    def resolve(self, alpha: Tensor, beta: Tensor) -> Tensor:
        a_g, a_c = alpha.unbind(-1)
        b_g, b_c = beta.unbind(-1)
        return torch.stack((a_g * b_g, a_c * b_c**a_g), dim=-1)

    def inverse(self, theta: Tensor, beta: Tensor) -> Tensor:
        a_g = theta[..., 0] / beta[0]
        return torch.stack((a_g, theta[..., 1] / beta[1] ** a_g), dim=-1)


@dataclass(frozen=True)
class ShiftThenScale(_ScaleAndShift):
    """c·(x + b) (brightness first): γ = (α_c β_c, β_b + α_b / β_c); the two coordinates stay independent."""

    def resolve(self, alpha: Tensor, beta: Tensor) -> Tensor:
        a_c, a_b = alpha.unbind(-1)
        b_c, b_b = beta.unbind(-1)
        return torch.stack((a_c * b_c, b_b + a_b / b_c), dim=-1)

    def inverse(self, theta: Tensor, beta: Tensor) -> Tensor:
        return torch.stack((theta[..., 0] / beta[0], (theta[..., 1] - beta[1]) * beta[0]), dim=-1)


#: The groups that bounds know. They are taken as they are, so nothing may inherit from them.
FACTORS = (Shift, Scale, ScaleThenShift, PowerThenScale, ShiftThenScale)
