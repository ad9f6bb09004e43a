"""What a transformation is: an action on images and the function that merges two applications into one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, SupportsFloat

import torch
from torch import Tensor

from glsmooth.errors import UserError, did_you_mean
from glsmooth.transforms.factors import Domain, Factor, Shift

__all__ = ["ResolvableTransform", "column"]

#: Attributes on which bounds rest.
_DECIDING = ("name", "parameters", "factors", "resolvable", "monotone_parameters")


def column(theta: Tensor, index: int, images: Tensor) -> Tensor:
    """Parameter ``index`` of ``theta`` (N, d) as (N, 1, 1, 1) in the device and dtype of ``images``."""
    return theta[:, index].to(device=images.device, dtype=images.dtype)[:, None, None, None]


class ResolvableTransform(ABC):
    """A semantic transformation φ with φ(φ(x, β), α) = φ(x, γ(α, β)) (Li et al. 2021; General Lipschitz, sec. 2).

    A new transformation is one subclass with four things: ``name``, ``parameters``, :meth:`apply`, and either
    ``factors`` (when its parameters merge like the built-in groups: bounds are then exact) or ``identity`` and
    :meth:`resolve` (bounds then estimate at a stated confidence). Images never are clipped.

    Once a family holds it (:meth:`seal`), an attribute without a leading underscore cannot be set again.
    """

    name: ClassVar[str]
    parameters: tuple[str, ...]
    #: Groups that the parameters form, in the order of ``parameters``; None when unknown.
    factors: tuple[Factor, ...] | None = None
    #: False for approximations (reflected translation): they may be plotted and trained with, never certified.
    resolvable: bool = True
    #: Parameters of a transformation without factors for which its author vouches that the whole trade-off curve
    #: never rises as the parameter moves away from its identity, the others held fixed (at level 1/2 alone it would
    #: not carry over to compositions). Then the corners of a box are its worst parameters; without this claim only
    #: single parameters (``Points``), or all whole ones where the action rounds, are certified.
    monotone_parameters: frozenset[str] = frozenset()

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        factors = cls.__dict__.get("factors")
        if isinstance(factors, tuple) and "parameters" not in cls.__dict__:
            cls.parameters = tuple(name for factor in factors for name in factor.parameters)

    def seal(self) -> None:
        """Fix what decides a certificate: bounds are cached for the transformation as it is now.

        Public attributes can then be neither set again nor deleted; what only a cache needs may have a name with a
        leading underscore. Attributes of the class are copied, so that a later change of the class is not seen.
        """
        for name in _DECIDING:
            value = getattr(self, name, None)
            if isinstance(value, (list, set)):
                value = tuple(value) if isinstance(value, list) else frozenset(value)
            if not isinstance(getattr(type(self), name, None), property):
                self.__dict__[name] = value
        self.__dict__["_sealed"] = True

    def __setattr__(self, name: str, value: object) -> None:
        self._refuse_if_sealed("set", name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._refuse_if_sealed("delete", name)
        super().__delattr__(name)

    def _refuse_if_sealed(self, verb: str, name: str) -> None:
        if self.__dict__.get("_sealed") and (name == "_sealed" or (not name.startswith("_") and hasattr(self, name))):
            raise AttributeError(
                f"cannot {verb} {name} of {self!r}: bounds may have been computed for it as it is; build a new one"
            )

    @property
    def identity(self) -> Tensor:
        """Parameters β₀ that leave every image as it is: float64, shape (d,)."""
        if self.factors is None:
            raise NotImplementedError(f"{type(self).__name__} must define identity (or factors)")
        return torch.tensor([v for factor in self.factors for v in factor.identity], dtype=torch.float64)

    @abstractmethod
    def apply(self, images: Tensor, theta: Tensor) -> Tensor:
        """φ(x, θ) for a batch.

        Args:
            images: (N, C, H, W), any floating dtype, any device.
            theta: (N, d), one parameter vector an image; float64 is best (integer shifts are rounded from it).

        Returns:
            (N, C, H, W), same dtype and device, not clipped, differentiable in both arguments where φ is.
        """

    def resolve(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """Resolving function γ(α, β), β acting first: (…, d), (…, d) -> (…, d)."""
        if self.factors is None:
            raise NotImplementedError(f"{type(self).__name__} must define resolve (or factors)")
        alpha, beta = torch.broadcast_tensors(alpha, beta)
        merged, start = [], 0
        for factor in self.factors:
            part = slice(start, start + len(factor.parameters))
            merged.append(factor.resolve(alpha[..., part], beta[..., part]))
            start = part.stop
        return torch.cat(merged, dim=-1)

    def canonical(self, images: Tensor) -> Tensor:
        """Optional: a form of the images that the action does not change: ``canonical(φ(x, β))`` is ``canonical(x)``.

        A network behind it is exactly invariant. No bound and no vote relies on it, so a wrong form costs accuracy
        and never a certificate.

        Args:
            images: (N, C, H, W), any floating dtype, any device.

        Returns:
            (N, C, H, W), same dtype and device, each image from its own pixels alone.

        Raises:
            UserError: there is none.
        """
        raise UserError(f"{self!r} has no canonical form: {self.without_canonical()}")

    @property
    def canonical_parameters(self) -> tuple[str, ...]:
        """Parameters that :meth:`canonical` takes out of an image: all of them where a class defines it, else none."""
        return () if type(self).canonical is ResolvableTransform.canonical else self.parameters

    def without_canonical(self) -> str | None:
        """Why :meth:`canonical` leaves parameters in an image, in words; None where it leaves none."""
        return None if self.canonical_parameters else f"{type(self).__name__} defines none"

    def inverse(self, theta: Tensor, beta: Tensor) -> Tensor | None:
        """Optional: the α with γ(α, β) = θ, for (n, d) and (d,) -> (n, d); NaN where there is none.

        Bounds for a transformation without factors need it. None, the default there, lets those of single parameters
        solve for α by Newton's method. Intervals are covered (:mod:`glsmooth.bounds.boxes`) by this formula alone, if
        it is made of torch's arithmetic, exp, log, sqrt, sin, cos, tanh, stack and the like, without branches. Either
        way it is compared with :meth:`resolve`.
        """
        if self.factors is None:
            return None
        solved, start = [], 0
        for factor in self.factors:
            part = slice(start, start + len(factor.parameters))
            solved.append(factor.inverse(theta[..., part], beta[part]))
            start = part.stop
        return torch.cat(solved, dim=-1)

    @property
    def integer_parameters(self) -> frozenset[str]:
        """Parameters that the action rounds to the nearest integer (shifts of pixels), in β as well as in α."""
        return frozenset(f.name for f in self.factors or () if isinstance(f, Shift) and f.axis)

    def domain(self, name: str) -> Domain:
        """Values that the parameter ``name`` may take."""
        for factor in self.factors or ():
            if name in factor.parameters:
                return factor.domain(name)
        return Domain()

    def vector(self, values: Mapping[str, float]) -> Tensor:
        """Named parameters as a float64 vector (d,); those left out stay at the identity.

        Raises:
            UserError: unknown name, or a value that is not finite or outside the domain.
        """
        self.check(values)
        return torch.tensor(
            [float(values.get(p, i)) for p, i in zip(self.parameters, self.identity.tolist(), strict=True)],
            dtype=torch.float64,
        )

    def check(self, values: Mapping[str, float]) -> None:
        """Raise a UserError that names the first parameter that is unknown or outside its domain."""
        for name, value in values.items():
            if name not in self.parameters:
                raise UserError(f"{name!r} is not a parameter of {self.name}{did_you_mean(name, self.parameters)}")
            if isinstance(value, (str, bytes)) or not isinstance(value, SupportsFloat):
                raise UserError(f"{name}={value!r} is not a number; give {self.domain(name)}")
            if not math.isfinite(value):
                raise UserError(f"{name}={value} is not finite; give {self.domain(name)}")
            if not self.domain(name).contains(value):
                raise UserError(f"{name}={value:g} is outside the domain of {self.name}; give {self.domain(name)}")

    def random_parameters(self, n: int, generator: torch.Generator) -> Tensor:
        """Moderate parameters (n, d) inside the domain, integers where the action rounds: for checks and demos."""
        columns = []
        for name in self.parameters:
            domain = self.domain(name)
            draw = torch.randn(n, dtype=torch.float64, generator=generator)
            if name in self.integer_parameters:
                draw = torch.round(6 * draw)
            elif domain.low_included:
                draw = 3 * draw.abs()
            elif domain.low == 0:
                draw = torch.exp(0.3 * draw)
            columns.append(draw)
        return torch.stack(columns, dim=-1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
