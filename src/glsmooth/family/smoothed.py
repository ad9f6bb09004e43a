"""The smoothed family {μ_β}: a transformation together with its smoothing laws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from glsmooth.errors import UserError, did_you_mean
from glsmooth.family.grid import ALLOWANCE, Grid
from glsmooth.family.regions import Ball, Box, Points, Region
from glsmooth.laws import LAWS, Law, open_uniform
from glsmooth.laws.checks import own_check
from glsmooth.laws.from_torch import from_torch
from glsmooth.laws.immutable import FrozenMapping
from glsmooth.threats import BUILTIN, Nearby, Threat
from glsmooth.transforms.base import ResolvableTransform
from glsmooth.transforms.factors import FACTORS, Scale, Shift

__all__ = ["DRAWS", "SmoothedFamily"]

#: Parameters of a region may not be larger than this (nor positive ones smaller than its inverse): their squares
#: and exponentials must stay far from overflow.
LARGEST = 1e9
#: How smoothing parameters are drawn.
DRAWS = ("continuous", "grid")
#: The residual of a slice for which long curves need the fewest votes, in standard deviations of the pixel noise.
BEST_RESIDUAL = 0.68


@dataclass(frozen=True, eq=False)
class SmoothedFamily:
    """μ_β, the law of γ(α, β) with α drawn from independent smoothing laws, for every β.

    Certificates are statements about this family alone: no image and no model enters. Bounds are cached by it, so it
    keeps a copy of the laws, and seals its transformation (:meth:`ResolvableTransform.seal`).

    Args:
        transform: what is done to images.
        laws: a law for each of the transformation's parameters. Some of ``torch.distributions`` are taken, too, and
            become ours with the same numbers (:func:`glsmooth.laws.from_torch.from_torch`).
        image_size: (H, W). Given, translations live on the torus Z_H × Z_W (exact and much tighter); without it
            on the plane, whose values stay valid for images of any size.
        pixel_noise: standard deviation of normal noise added to each pixel after φ. It is post-processing, so it
            does not enter the bounds.
        draws: ``continuous``, or ``grid`` for draws whose probabilities are exactly known
            (:mod:`glsmooth.family.grid`); certificates then speak of the β on that grid.
        threat: what else is done to the image, which nothing but the pixel noise covers: a rotation or scaling before
            the transformation, whose parameter is then one of the region's (:mod:`glsmooth.threats`), or what leads no
            further than a known distance after it (:class:`glsmooth.threats.Nearby`).
        residual: how far the threat leads from a reference at most, which the noise is to pay for; images are cut into
            as many slices as that takes. None: 0.68 standard deviations of the noise, for which long curves need the
            fewest votes, and what the threat perturbs by.

    Raises:
        UserError: missing or stray laws, a law that leaves the parameter's domain, an impossible size, a grid for
            parameters that are not shifted or rescaled each by itself; a threat without pixel noise, or one that warps
            before a transformation that enlarges distances.
    """

    transform: ResolvableTransform
    laws: Mapping[str, Law]
    image_size: tuple[int, int] | None = None
    pixel_noise: float = 0.0
    draws: str = "continuous"
    threat: Threat | Nearby | None = None
    residual: float | None = None

    def __init_subclass__(cls, **kwargs: object) -> None:
        # Votes would be drawn as the subclass says, and bounded as this class does.
        raise TypeError(
            f"{cls.__name__} inherits from SmoothedFamily, whose bounds would not see what it overrides; write a "
            "transformation (glsmooth.ResolvableTransform) or a law (glsmooth.laws.Law) of your own instead"
        )

    def __post_init__(self) -> None:
        if not isinstance(self.transform, ResolvableTransform):
            raise UserError(
                f"transform={self.transform!r} is not a transformation; give an instance, such as "
                "glsmooth.transforms.Brightness()"
            )
        if not isinstance(self.laws, Mapping):
            raise UserError(
                f"laws={self.laws!r} is not a dictionary of laws by parameter, such as {{'brightness': Normal(0, 1)}}"
            )
        laws = {
            name: from_torch(law, name) if isinstance(law, Distribution) and not isinstance(law, Law) else law
            for name, law in self.laws.items()
        }
        object.__setattr__(self, "laws", FrozenMapping(laws))
        self.transform.seal()
        names = self.transform.parameters
        for name in self.laws:
            if name not in names:
                raise UserError(f"{name!r} is not a parameter of {self.transform.name}{did_you_mean(name, names)}")
        for name in names:
            law = self.laws.get(name)
            if law is None:
                raise UserError(f"no law for {name!r}: {self.transform.name} needs one for each of {', '.join(names)}")
            if not isinstance(law, Law):
                raise UserError(f"{name}={law!r} is not a smoothing law; use one of glsmooth's, e.g. Normal(0.0, 0.5)")
            if type(law) not in LAWS.values() and isinstance(law, tuple(LAWS.values())):
                raise UserError(
                    f"{name}={law!r}: {type(law).__name__} inherits from one of glsmooth's laws, whose "
                    "bounds would be taken for it whatever it overrides; derive a law of your own from "
                    "glsmooth.laws.Law"
                )
            check = own_check(law)
            if check is not None:
                check.require()
            domain = self.transform.domain(name)
            if not law.cyclic and law.interval[0] < domain.low:
                raise UserError(
                    f"{name}={law!r} reaches outside the domain of {name} ({domain}); "
                    "use a positive law such as LogNormal, Rayleigh, Exponential or HalfNormal"
                )
        for factor in self.transform.factors or ():
            if type(factor) not in FACTORS and isinstance(factor, FACTORS):
                raise UserError(
                    f"{self.transform.name}: {type(factor).__name__} inherits from one of glsmooth's factors, whose "
                    "bounds would be taken for it whatever it overrides; leave factors out and define resolve"
                )
        if self.image_size is not None:
            object.__setattr__(self, "image_size", _size(self.image_size))
        for name, law in self.laws.items():
            if law.cyclic and name not in self.torus:
                why = (
                    "give image_size=(H, W)"
                    if name in self.transform.integer_parameters
                    else "only tx and ty are cyclic"
                )
                raise UserError(f"{name}={law!r} needs a cycle: {why}")
        try:
            object.__setattr__(self, "pixel_noise", float(self.pixel_noise))
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"pixel_noise={self.pixel_noise!r} must be a finite number >= 0") from None
        if not (math.isfinite(self.pixel_noise) and self.pixel_noise >= 0):
            raise UserError(f"pixel_noise={self.pixel_noise} must be a finite number >= 0")
        if self.draws not in DRAWS:
            raise UserError(f"draws={self.draws!r} is unknown{did_you_mean(str(self.draws), DRAWS)}")
        if self.draws == "grid":
            _ = self.grids  # refuses what has none
        self._check_threat()

    def _check_threat(self) -> None:
        if self.threat is None:
            if self.residual is not None:
                raise UserError(f"residual={self.residual!r} without a threat; give the threat, too, or leave it out")
            return
        if type(self.threat) not in (*BUILTIN.values(), Nearby):
            raise UserError(
                f"threat={self.threat!r} is none of glsmooth.threats, whose residuals would not see what another "
                "overrides; give one of these, such as Rotation()"
            )
        if self.pixel_noise == 0:
            raise UserError(
                f"pixel_noise=0: {self.threat.name} is certified by noise alone; give for example pixel_noise=0.25"
            )
        residual = self.residual
        if residual is None and not (self.threat.round8 and not self.warps):
            residual = self.threat.l2 + (BEST_RESIDUAL * self.pixel_noise if self.warps else 0.0)
        if residual is not None:
            try:
                residual = float(residual)
            except (TypeError, ValueError, OverflowError):
                residual = math.nan
            if not (math.isfinite(residual) and residual >= 0):
                raise UserError(f"residual={self.residual!r} must be a finite number >= 0")
        # Whatever the image: a perturbation, and rounding of one channel.
        size = self.image_size or (1, 1)
        least = self.threat.l2 if isinstance(self.threat, Threat) else self.threat.residual((1, *size))
        if residual is not None and residual < least:
            raise UserError(
                f"residual is {residual:g}, but {self.threat!r} alone leads images {least:.6g} away; give more"
            )
        object.__setattr__(self, "residual", residual)
        if not isinstance(self.threat, Threat):
            return
        if self.threat.parameter in self.parameters:
            raise UserError(f"{self.threat.parameter!r} is a parameter of {self.transform.name} and of the threat")
        factors = self.transform.factors
        if factors is None or not all(isinstance(factor, Shift) for factor in factors):
            raise UserError(
                f"{self.transform.name} after {self.threat.name} does more than to shift its parameters, so that "
                "distances may grow; use Identity, Brightness, Translation, GaussianBlur or what is composed of them"
            )

    def __eq__(self, other: object) -> bool:
        """Families of the same transformation, the object itself, are equal when their numbers are."""
        return type(self) is type(other) and self.transform is other.transform and self._numbers == other._numbers

    def __hash__(self) -> int:
        return hash((id(self.transform), self._numbers))

    @property
    def _numbers(self) -> tuple[object, ...]:
        return self.laws, self.image_size, self.pixel_noise, self.draws, self.threat, self.residual

    @property
    def name(self) -> str:
        """What is done to images, in a word or two."""
        if self.threat is None:
            return self.transform.name
        done = [self.threat.name, self.transform.name] if self.warps else [self.transform.name, self.threat.name]
        return ", then ".join(name for name in done if name != "identity")

    @property
    def warps(self) -> bool:
        """Does the threat have a parameter, over whose interval an image is certified slice by slice?"""
        return isinstance(self.threat, Threat)

    @property
    def exact(self) -> SmoothedFamily:
        """The same without the threat."""
        return self if self.threat is None else replace(self, threat=None, residual=None)

    def rest(self, region: Region) -> Region:
        """A region without the threat's parameter."""
        if not isinstance(self.threat, Threat) or self.threat.parameter not in region.parameters:
            return region
        assert isinstance(region, Box)
        return Box(**{name: ends for name, ends in region.intervals.items() if name != self.threat.parameter})

    def interval(self, region: Region) -> tuple[float, float]:
        """The threat's parameter in a region."""
        assert isinstance(self.threat, Threat)
        if self.threat.parameter not in region.parameters:
            return self.threat.identity, self.threat.identity
        assert isinstance(region, Box)
        return region.intervals[self.threat.parameter]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the last axis of every tensor."""
        return self.transform.parameters

    @property
    def _regional(self) -> tuple[str, ...]:
        return (*((self.threat.parameter,) if isinstance(self.threat, Threat) else ()), *self.parameters)

    @property
    def identity(self) -> dict[str, float]:
        """The parameters β₀ that leave every image as it is, by name."""
        return dict(zip(self.parameters, self.transform.identity.tolist(), strict=True))

    @property
    def torus(self) -> dict[str, int]:
        """Length of the cycle of each translation parameter; empty on the plane."""
        if self.image_size is None or not self.transform.resolvable:
            return {}
        sizes = {"height": self.image_size[0], "width": self.image_size[1]}
        shifts = (f for f in self.transform.factors or () if isinstance(f, Shift))
        return {f.name: sizes[f.axis] for f in shifts if f.axis is not None}

    def quantile(self, u: Tensor) -> Tensor:
        """Smoothing parameters by inversion: uniforms u (n, d) in (0, 1), float64 -> α (n, d), float64."""
        columns = []
        for i, name in enumerate(self.parameters):
            law = self.laws[name]
            columns.append(torch.floor(u[:, i] * self.torus[name]) if law.cyclic else law.icdf(u[:, i]))
        return torch.stack(columns, dim=-1) if columns else u

    @property
    def grids(self) -> dict[str, Grid]:
        """The grid of each parameter, where draws lie on one."""
        if self.draws != "grid":
            return {}
        factors = self.transform.factors or ()
        alone = {factor.name: factor for factor in factors if isinstance(factor, (Shift, Scale))}
        for name in self.parameters:
            if name not in alone:
                raise UserError(
                    f"draws=grid: {name} of {self.transform.name} is not shifted or rescaled by itself alone, so that "
                    "no grid stays one; use draws=continuous"
                )
        return {
            name: Grid.of(
                name,
                self.laws[name],
                isinstance(alone[name], Scale),
                name in self.transform.integer_parameters,
                self.torus.get(name),
            )
            for name in self.parameters
        }

    @property
    def draws_error(self) -> float:
        """What h_min grows by because draws lie on a grid; 0 for continuous draws."""
        grids = self.grids
        return max(ALLOWANCE, 3 * sum(grid.error for grid in grids.values())) if grids else 0.0

    @property
    def continuous(self) -> SmoothedFamily:
        """The same with continuous draws."""
        return replace(self, draws="continuous") if self.draws != "continuous" else self

    def draw(self, u: Tensor) -> Tensor:
        """The smoothing parameters of uniforms u (n, d) in (0, 1), float64: as votes draw them."""
        grids = self.grids
        if not grids:
            return self.quantile(u)
        return torch.stack([grids[name].values(u[:, i]) for i, name in enumerate(self.parameters)], dim=-1)

    def sample(
        self, n: int, generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """``n`` independent draws of α ~ P: float64, shape (n, d)."""
        u = torch.rand(n, len(self.parameters), dtype=torch.float64, generator=generator, device=device)
        return self.draw(open_uniform(u))

    def check_region(self, region: Region) -> None:
        """Raise a UserError unless every β of ``region`` is one that the transformation can apply."""
        if not isinstance(region, (Box, Ball, Points)):
            raise UserError(f"region={region!r} is not a Box, a Ball or Points")
        if isinstance(self.threat, Threat) and self.threat.parameter in region.parameters:
            name = self.threat.parameter
            if not isinstance(region, Box):
                raise UserError(f"{name} is cut into slices, so it needs an interval; give a Box")
            self.threat.check(torch.tensor(region.intervals[name], dtype=torch.float64))
            region = self.rest(region)
        grids = self.grids
        for name in region.parameters:
            if name not in self.parameters:
                raise UserError(f"{name!r} is not a parameter of {self.name}{did_you_mean(name, self._regional)}")
            domain = self.transform.domain(name)
            if isinstance(region, Points):
                ends: tuple[float, ...] = tuple(point[name] for point in region.points if name in point)
            else:
                ends = region.box(self.identity).intervals[name]
            where = f"{name}={list(ends)}"
            if isinstance(region, Ball):
                where = f"radius={region.radius:g} around {name}={region.centre[name]:g}"
            for end in ends:
                if not domain.contains(end):
                    raise UserError(f"{where} leaves the domain of {name}; every value must be {domain}")
                if abs(end) > LARGEST or (domain.low == 0 and not domain.low_included and end < 1 / LARGEST):
                    raise UserError(
                        f"{where} is too extreme to compute with; give values of size at most "
                        f"{LARGEST:g}{f' and at least {1 / LARGEST:g}' if domain.low == 0 else ''}"
                    )
                if isinstance(region, Points) and name in self.transform.integer_parameters and end != round(end):
                    raise UserError(
                        f"{name}={end:g} is a fractional point; translations move by whole "
                        f"pixels, give {math.floor(end + 0.5)}"
                    )
                if isinstance(region, Points) and grids and (near := grids[name].nearest(end)) != end:
                    raise UserError(f"draws=grid: {name}={end!r} is no point of the grid; give {near!r}")


def _size(image_size: Any) -> tuple[int, int]:
    """Height and width as integers."""
    try:
        height, width = image_size
        if height >= 1 and width >= 1 and int(height) == height and int(width) == width:
            return int(height), int(width)
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"image_size={image_size!r} must be two positive integers (height, width)")
