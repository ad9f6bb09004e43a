"""Does a transformation do what its resolving function says?

A certificate rests on φ(φ(x, β), α) = φ(x, γ(α, β)). For the transformations of this package that is proved and
tested. For a user's it is a claim, and it is tried here before any vote: on images of the run and on made-up ones,
with α from the smoothing laws, their tails included, and β from the region, its corners included. A trial can refute
the claim, not prove it; what it looks at is chosen so that the usual mistakes (clipping, a swapped order, a rounding,
a state) cannot hide.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.family.regions import Ball, Box, Points, Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import Law
from glsmooth.transforms.base import ResolvableTransform
from glsmooth.transforms.compose import Composition
from glsmooth.transforms.factors import Shift
from glsmooth.transforms.translation import nearest_integer

__all__ = ["Residual", "TransformCheck", "check_family", "check_transform", "holds", "is_users"]

#: Largest residual, relative to the image's norm, that rounding in float64 may explain.
TOLERANCE = 1e-8

# The identities, as messages and reports name them.
RESOLVES = "φ(φ(x, β), α) = φ(x, γ(α, β))"
FACTORS = "φ(φ(x, β), α) = φ(x, γ(α, β)) with γ of the declared factors"
RIGHT = "γ(α, β₀) = α"
LEFT = "γ(β₀, β) = β"
KEEPS = "φ(x, β₀) = x"
WHOLE = "φ(x, θ) = φ(x, θ in whole numbers; shifts modulo the image's size)"
_IDENTITIES = frozenset({RESOLVES, FACTORS, RIGHT, LEFT, KEEPS, WHOLE})

# Quantiles in the tails of the smoothing laws. What goes wrong beyond them has too little probability to matter.
_TAILS = (1e-12, 1e-9, 1e-6, 1e-4, 1e-2)
# Trials: pixel values in all, the number of trials that this allows at most and at least, pixel values at a time.
_BUDGET, _MOST, _LEAST, _CHUNK = 2**25, 1024, 192, 2**22
_CORNERS = 64
# How often the last trial is repeated, for what shows after some calls only.
_REPEATS = 100
_STATEFUL = "random, or keeps a state"
# An action in float32 may differ from the same in float64 by this much, relative to the image's norm.
_SINGLE = 1e-3


@dataclass(frozen=True)
class Residual:
    """The largest residual of one identity and the parameters at which it was found.

    Attributes:
        value: relative to the image's norm (or to the parameter's size).
        alpha, beta: the parameters α and β, by name; None where the identity does not speak of them.
    """

    value: float
    alpha: dict[str, float] | None = None
    beta: dict[str, float] | None = None

    def __str__(self) -> str:
        at = [
            f"{symbol} = ({', '.join(f'{name} {value:.6g}' for name, value in values.items())})"
            for symbol, values in (("α", self.alpha), ("β", self.beta))
            if values is not None
        ]
        return f"{self.value:.2g}{' at ' if at else ''}{', '.join(at)}"


@dataclass(frozen=True)
class TransformCheck:
    """What :func:`check_transform` found.

    Attributes:
        name: the transformation's class, with its parts.
        residuals: the largest residual of each identity, by the identity. The norm that an image's residual is
            relative to is the largest of: that of x, those of the two sides, that of an image one grey level (1/255)
            bright, and a 10⁻⁵ part of that of φ(x, β), whose rounding errors are part of the residual. So it stays
            comparable for actions that amplify or damp, and is at most 2.
        fault: why the action cannot be used at all, or None: an exception, a result of another shape or type or not
            finite, an input changed in place, a result that is random, keeps a state or depends on the batch.
        tolerance: what a residual may be.
    """

    name: str
    residuals: Mapping[str, Residual]
    fault: str | None = None
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        """No fault, and every residual within the tolerance."""
        return self.fault is None and self.residual <= self.tolerance

    @property
    def worst(self) -> str | None:
        """The identity with the largest residual; None where nothing was compared."""
        return max(self.residuals, key=lambda identity: self.residuals[identity].value, default=None)

    @property
    def residual(self) -> float:
        """The largest residual of all; infinite where nothing was compared."""
        return math.inf if self.worst is None else self.residuals[self.worst].value

    @property
    def found(self) -> dict[str, Any]:
        """The largest residual, its identity, and the α and β where it was found, as plain values."""
        residual = self.residuals[self.worst or ""]
        return {"residual": residual.value, "identity": self.worst, "alpha": residual.alpha, "beta": residual.beta}

    def __str__(self) -> str:
        lines = [f"{self.name}: {'passed' if self.passed else 'failed'}"]
        if self.fault is not None:
            lines.append(f"  {self.fault}")
        for identity, residual in self.residuals.items():
            verdict = "ok    " if residual.value <= self.tolerance else "FAILED"
            lines.append(f"  {verdict}  {identity}   residual {residual}")
        return "\n".join(lines)

    def require(self, approximate: bool = False) -> None:
        """Raise a UserError that says what is wrong unless the check passed.

        Args:
            approximate: accept residuals (not faults), for a run that certifies nothing.
        """
        if self.fault is not None:
            raise UserError(self.fault)
        if not self.passed and not approximate:
            raise UserError(
                f"{self.name} is not resolvable as it says: {self.worst} fails with a residual of "
                f"{self.residuals[self.worst or '']} (relative to the image; {self.tolerance:g} is allowed). Mend "
                "apply, resolve or factors (glsmooth.check_transform shows every identity), or set approximate=true "
                "(approximate=True in Python) for a run that certifies nothing"
            )


def is_users(transform: ResolvableTransform) -> bool:
    """Is the transformation, or a part of it, defined outside this package (or replaced on the object)?"""
    if type(transform).__module__.partition(".")[0] != "glsmooth":
        return True
    if {"apply", "resolve"} & getattr(transform, "__dict__", {}).keys():
        return True
    return isinstance(transform, Composition) and any(is_users(part) for part in transform.parts)


def why_approximate(found: Mapping[str, Any]) -> str:
    """In words, why nothing is certified; ``found`` is :attr:`TransformCheck.found`."""
    residual = Residual(found["residual"], found.get("alpha"), found.get("beta"))
    # It may be a file that speaks: words of our own alone.
    identity = found.get("identity") if found.get("identity") in _IDENTITIES else "an identity"
    return f"approximate: {identity} fails with residual {residual}"


# What was checked already: certifying in a loop must not pay for it each time.
_CHECKED: WeakKeyDictionary[SmoothedFamily, dict[str, TransformCheck]] = WeakKeyDictionary()


def check_family(
    family: SmoothedFamily, region: Region, images: Iterable[Tensor] = (), shape: tuple[int, ...] | None = None
) -> TransformCheck | None:
    """The check of a user's transformation under the family's laws, over a region; remembered for both.

    One that claims nothing (``resolvable`` is False) must still give images like those that it is given.

    Args:
        images: some of the run's, (C, H, W) each. They are looked at the first time only.
        shape: (C, H, W) of the made-up images where there are no others.

    Returns:
        None for this package's own transformations, and for those that claim nothing.

    Raises:
        UserError: a transformation that claims nothing, and cannot be used either.
    """
    if not is_users(family.transform):
        return None
    images = list(images)
    if images:
        shape = tuple(images[0].shape)
    if not family.transform.resolvable:
        _check_action(family.transform, images, shape or _shape(family.image_size), family.quantile)
        return None
    key = json.dumps([region.to_config(), shape], sort_keys=True)
    known = _CHECKED.setdefault(family, {})
    if key not in known:
        known[key] = _check(family.transform, images, shape or _shape(family.image_size), family.quantile, region)
    return known[key]


def holds(family: SmoothedFamily, region: Region, images: Iterable[Tensor] = ()) -> bool:
    """May the region be certified, as far as the transformation is concerned? True for ours."""
    check = check_family(family, region, images)
    return check is None or check.passed


def check_transform(
    transform: ResolvableTransform,
    images: Tensor | Iterable[Tensor] | None = None,
    laws: Mapping[str, Law] | None = None,
    region: Region | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
) -> TransformCheck:
    """Try the identities that a certificate rests on, in float64.

    They are φ(φ(x, β), α) = φ(x, γ(α, β)), γ(β₀, β) = β, γ(α, β₀) = α and φ(x, β₀) = x; with declared ``factors``
    their γ, too, and for shifts of pixels that only whole pixels matter. Besides, the action must be a function of
    its own image and parameters: no randomness, no state, no change of its input, nothing from the batch.

    Args:
        transform: any transformation, a user's or one of ours.
        images: images (N, C, H, W), or an iterable of (C, H, W), with values in [0, 1]; a few are chosen. Made-up
            ones (black, white, random, a chessboard, ramps) always join them.
        laws: smoothing laws, from which α is drawn, their tails included; by default moderate parameters.
        region: from which β is drawn, its corners included; by default like α.
        image_size: (H, W) of the made-up images where no others are given.
        seed: of the draws.

    Returns:
        The largest residual of each identity and where it was found; it does not raise for what the class does.

    Raises:
        UserError: laws or a region that do not fit the transformation.
    """
    chosen = [] if images is None else list(images)
    for image in chosen[:1]:
        if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point():
            raise UserError(
                "images: give floating tensors (C, H, W), or one of (N, C, H, W), with values in [0, 1]; the first is "
                f"{tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__}"
            )
    shape = tuple(chosen[0].shape) if chosen else _shape(image_size)
    quantile = None
    if laws is not None:
        quantile = SmoothedFamily(transform, laws, (shape[1], shape[2])).quantile
    return _check(transform, chosen, shape, quantile, region, seed)


def _shape(image_size: tuple[int, int] | None) -> tuple[int, int, int]:
    return (3, *image_size) if image_size else (3, 9, 12)


class _Fault(Exception):
    """What makes an action unusable; the message is for the user."""


def _name(transform: ResolvableTransform) -> str:
    """Class names, with parts: a user's __repr__ may be anything."""
    name = type(transform).__name__
    if isinstance(transform, Composition):
        name += f"({', '.join(map(_name, transform.parts))})"
    return name


def _check(
    transform: ResolvableTransform,
    images: list[Tensor],
    shape: tuple[int, ...],
    quantile: Callable[[Tensor], Tensor] | None,
    region: Region | None,
    seed: int = 0,
) -> TransformCheck:
    trial = _Trial(transform)
    try:
        with torch.inference_mode():  # as votes are taken
            trial.run(_pictures(images, shape, seed), quantile, region, torch.Generator().manual_seed(seed))
    except _Fault as fault:
        return TransformCheck(trial.name, trial.residuals, str(fault))
    return TransformCheck(trial.name, trial.residuals)


def _check_action(
    transform: ResolvableTransform,
    images: list[Tensor],
    shape: tuple[int, ...],
    quantile: Callable[[Tensor], Tensor],
) -> None:
    """Raise a UserError where the action does not give finite images like its own, in float64 and as votes run."""
    trial, pictures = _Trial(transform), _pictures(images, shape, seed=0)
    try:
        with torch.inference_mode():
            trial.declarations()
            alpha = trial.alphas(len(pictures), quantile, torch.Generator().manual_seed(0))
            trial.apply(pictures, alpha)
            trial.apply(pictures.float(), alpha)
    except _Fault as fault:
        raise UserError(str(fault)) from fault


def _pictures(images: list[Tensor], shape: tuple[int, ...], seed: int) -> Tensor:
    """Images to try, float64 (n, C, H, W): of the given ones two, the darkest and the brightest; then made-up ones."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(shape, dtype=torch.float64, generator=generator)
    rows = torch.arange(height, dtype=torch.float64)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.float64)[None, :].expand(height, width)
    tint = torch.arange(1, channels + 1, dtype=torch.float64)[:, None, None] / channels
    made_up = [
        noise,
        torch.zeros(shape, dtype=torch.float64),
        torch.ones(shape, dtype=torch.float64),
        ((rows + columns) % 2).expand(shape),
        (rows / max(1, height - 1)).expand(shape),
        (1 - columns / max(1, width - 1)) * tint,
        (noise > 0.5).double(),
    ]
    given = [image.detach().to("cpu", torch.float64) for image in images if tuple(image.shape) == shape]
    by_light = sorted(range(len(given)), key=lambda i: float(given[i].mean()))
    chosen = dict.fromkeys([*range(min(2, len(given))), *by_light[:1], *by_light[-1:]])
    return torch.stack([*(given[i] for i in chosen), *made_up])


@dataclass
class _Trial:
    """One check under way."""

    transform: ResolvableTransform
    residuals: dict[str, Residual] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = _name(self.transform)
        self.parameters: tuple[str, ...] = ()

    # The user's code, guarded.

    def call(self, what: str, function: Callable[..., Any], *arguments: Any, retry: Any = None) -> Any:
        """A call into the user's code; ``retry`` is the theta of a batch, to find the row that is to blame."""
        try:
            return function(*arguments)
        except Exception as error:
            at = "" if retry is None else self.first_row_that_fails(function, arguments, retry)
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise _Fault(f"{self.name}.{what} raised {reason}{at}; mend it, or its parameters") from error

    def first_row_that_fails(self, function: Callable[..., Any], arguments: tuple[Any, ...], theta: Tensor) -> str:
        for i in range(len(theta)):
            try:
                function(*(argument[i : i + 1] for argument in arguments))
            except Exception:
                return f" at {self.at(theta[i])} (one image alone)"
        return f" for a batch of {len(theta)}, with {self.at(theta[0])} first"

    def at(self, theta: Tensor) -> str:
        return ", ".join(f"{name} = {value:.6g}" for name, value in self.named(theta).items())

    def named(self, theta: Tensor) -> dict[str, float]:
        return dict(zip(self.parameters, theta.tolist(), strict=True))

    def apply(self, images: Tensor, theta: Tensor) -> Tensor:
        """φ(x, θ) of a batch, with everything about the result checked that needs no second call."""
        given, parameters = images.clone(), theta.clone()
        result = self.call("apply", self.transform.apply, given, parameters, retry=theta)
        if not isinstance(result, Tensor):
            raise _Fault(f"{self.name}.apply returned a {type(result).__name__}; return a tensor like its images")
        for what, got, wanted in (
            ("shape", tuple(result.shape), tuple(images.shape)),
            ("dtype", result.dtype, images.dtype),
            ("device", result.device, images.device),
        ):
            if got != wanted:
                raise _Fault(
                    f"{self.name}.apply returned {what} {got} for images of {what} {wanted}, with "
                    f"{self.at(theta[0])} first; return the images' own {what}"
                )
        if not torch.equal(given, images):
            raise _Fault(f"{self.name}.apply changes its images in place; work on a new tensor (x + b, not x += b)")
        if not torch.equal(parameters, theta):
            raise _Fault(f"{self.name}.apply changes its parameters (theta) in place; work on a new tensor")
        finite = result.isfinite().flatten(1).all(dim=1)
        if not finite.all() and images.dtype == torch.float64:  # in float32 an extreme draw may overflow
            row = int((~finite).nonzero()[0])
            raise _Fault(
                f"{self.name}.apply gives pixels that are not finite at {self.at(theta[row])} (for an image with "
                f"values in [{images[row].min():.6g}, {images[row].max():.6g}]); give a law and a region where it is "
                "defined, or mend it"
            )
        return result

    def resolve(self, function: Callable[[Tensor, Tensor], Tensor], alpha: Tensor, beta: Tensor) -> Tensor:
        """γ(α, β) of n pairs (n, d), or of n α with one β (d,), as bounds call it."""
        a, b = alpha.clone(), beta.clone()
        result = self.call("resolve", function, a, b)
        if not isinstance(result, Tensor) or tuple(result.shape) != tuple(alpha.shape):
            got = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else f"a {type(result).__name__}"
            raise _Fault(
                f"{self.name}.resolve returned {got} for α of shape {tuple(alpha.shape)} and β of shape "
                f"{tuple(beta.shape)}; return a tensor (…, d) with d = {len(self.parameters)}, as broadcasting has it"
            )
        if result.dtype != torch.float64:
            raise _Fault(f"{self.name}.resolve returned dtype {result.dtype} for parameters in torch.float64; keep it")
        if not (torch.equal(a, alpha) and torch.equal(b, beta)):
            raise _Fault(f"{self.name}.resolve changes its arguments in place; work on new tensors")
        finite = result.isfinite().all(dim=-1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            one = beta if beta.ndim == 1 else beta[row]
            raise _Fault(
                f"{self.name}.resolve gives a parameter that is not finite at α = ({self.at(alpha[row])}), β = "
                f"({self.at(one)}); give a law and a region where it is defined, or mend it"
            )
        return result

    # The trials.

    def run(
        self,
        pictures: Tensor,
        quantile: Callable[[Tensor], Tensor] | None,
        region: Region | None,
        generator: torch.Generator,
    ) -> None:
        identity = self.declarations()
        n = min(_MOST, max(_LEAST, _BUDGET // pictures[0].numel()))
        alpha = self.alphas(n, quantile, generator)
        beta = self.betas(n, len(pictures), identity, quantile, region, generator)
        self.parameters_agree(alpha, beta, identity)
        self.behaves(pictures, alpha)
        own = type(self.transform).resolve is ResolvableTransform.resolve
        # Every other round of the pictures in another light and with another contrast, a different one each time.
        ends = torch.rand(n, 2, dtype=torch.float64, generator=generator).sort(dim=1).values
        as_is = (torch.arange(n) // (2 * len(pictures))) % 2 == 0
        ends[as_is] = torch.tensor([0.0, 1.0], dtype=torch.float64)
        first, pick = None, torch.arange(n) % len(pictures)
        size = max(1, _CHUNK // pictures[0].numel())
        for a, b, which, light in zip(*(values.split(size) for values in (alpha, beta, pick, ends)), strict=True):
            low, high = light[:, :, None, None, None].unbind(1)
            images = low + (high - low) * pictures[which]
            middle = self.apply(images, b)
            twice = self.apply(middle, a)
            once = self.apply(images, self.resolve(self.transform.resolve, a, b))
            self.compare(RESOLVES, twice, once, images, a, b, middle)
            if self.transform.factors is not None and not own:
                factors = self.resolve(lambda x, y: ResolvableTransform.resolve(self.transform, x, y), a, b)
                by_factors = self.apply(images, factors)
                self.compare(FACTORS, twice, by_factors, images, a, b, middle)
            self.whole_pixels(images, a)
            first = (middle, a, twice) if first is None else first
        unchanged = self.apply(pictures, identity.expand(len(pictures), -1))
        self.compare(KEEPS, unchanged, pictures, pictures)
        assert first is not None
        self.same(self.apply(first[0], first[1]), first[2], _STATEFUL)
        for _ in range(_REPEATS):
            self.same(self.apply(first[0][:1], first[1][:1]), first[2][:1], _STATEFUL)

    def declarations(self) -> Tensor:
        """What the class says about its parameters; returns the identity β₀."""
        parameters = self.call("parameters", lambda: tuple(self.transform.parameters))
        if not parameters or len(set(parameters)) < len(parameters) or not all(isinstance(p, str) for p in parameters):
            raise _Fault(f"{self.name}.parameters is {parameters!r}; give each parameter a name of its own")
        self.parameters = parameters
        factors = self.transform.factors
        if factors is not None:
            declared = tuple(name for factor in factors for name in factor.parameters)
            if declared != parameters:
                # Bounds would take one parameter's law for another's.
                raise _Fault(
                    f"{self.name}.parameters is {parameters}, but its factors speak of {declared}; bring them into one "
                    "order, or leave parameters out"
                )
        identity = self.call("identity", lambda: self.transform.identity)
        if not isinstance(identity, Tensor) or tuple(identity.shape) != (len(parameters),):
            shape = tuple(identity.shape) if isinstance(identity, Tensor) else type(identity).__name__
            raise _Fault(
                f"{self.name}.identity is {shape}; give a float64 tensor of shape ({len(parameters)},), one value for "
                f"each of {', '.join(parameters)}"
            )
        if not identity.isfinite().all():
            raise _Fault(f"{self.name}.identity is not finite; give the parameters that leave every image as it is")
        return identity.detach().to("cpu", torch.float64)

    def alphas(self, n: int, quantile: Callable[[Tensor], Tensor] | None, generator: torch.Generator) -> Tensor:
        """n draws of α: a third as they come, a third with one parameter in a tail, a third with all of them."""
        if quantile is None:
            moderate: Tensor = self.call("random_parameters", self.transform.random_parameters, n, generator)
            return moderate
        d = len(self.parameters)
        u = torch.rand(n, d, dtype=torch.float64, generator=generator).clamp(1e-15, 1 - 1e-15)
        tails = torch.tensor([*_TAILS, *(1 - t for t in _TAILS)], dtype=torch.float64)
        extreme = tails[torch.randint(len(tails), (n, d), generator=generator)]
        single = torch.nn.functional.one_hot(torch.randint(d, (n,), generator=generator), d).bool()
        kind = torch.randint(3, (n, 1), generator=generator)
        return quantile(torch.where(((kind == 1) & single) | (kind == 2), extreme, u))

    def betas(
        self,
        n: int,
        pictures: int,
        identity: Tensor,
        quantile: Callable[[Tensor], Tensor] | None,
        region: Region | None,
        generator: torch.Generator,
    ) -> Tensor:
        """n values of β: by turns a corner of the region for each picture, and random ones."""
        if region is None:
            inside = self.alphas(n, quantile, generator)
            corners = inside[:_CORNERS]
        else:
            corners, inside = _of_region(self.transform, region, identity, n, generator)
        turn = torch.arange(n) // pictures
        beta = torch.where((turn % 2 == 0)[:, None], corners[(turn // 2) % len(corners)], inside)
        for i, name in enumerate(self.parameters):
            if name in self.transform.integer_parameters:
                beta[:, i] = nearest_integer(beta[:, i])
        return beta

    def parameters_agree(self, alpha: Tensor, beta: Tensor, identity: Tensor) -> None:
        """γ with the identity on either side, and γ of one β with many α as bounds call it."""
        function, neutral = self.transform.resolve, identity.expand(len(alpha), -1)
        for identity_name, merged, wanted, where in (
            (RIGHT, self.resolve(function, alpha, neutral), alpha, {"alpha": alpha}),
            (LEFT, self.resolve(function, neutral, beta), beta, {"beta": beta}),
        ):
            size = wanted.abs() + wanted.abs().median(dim=0).values
            gap = ((merged - wanted).abs() / torch.where(size > 0, size, torch.ones_like(size))).amax(dim=1)
            gap = gap.nan_to_num(nan=math.inf)
            row = int(gap.argmax())
            at = {name: self.named(values[row]) for name, values in where.items()}
            self.residuals[identity_name] = Residual(float(gap[row]), **at)
        for one in (beta[0], beta[-1]):
            broadcast = self.resolve(function, alpha, one)
            if not torch.allclose(broadcast, self.resolve(function, alpha, one.expand_as(alpha)), rtol=1e-10, atol=0):
                raise _Fault(
                    f"{self.name}.resolve gives another result for one β (d,) with many α (n, d) than row by row; "
                    "index parameters from the end (beta[..., 0])"
                )

    def behaves(self, pictures: Tensor, alpha: Tensor) -> None:
        """The action is a function of its own image and parameters: again, alone, in another order, in float32."""
        # Parameters within the bulk of the laws, a different one an image, some images twice.
        images = torch.cat([pictures, pictures])[: 2 * len(pictures)]
        theta = alpha[: len(images)]
        result = self.apply(images, theta)
        self.same(self.apply(images, theta), result, _STATEFUL)
        self.same(
            self.apply(images.flip(0), theta.flip(0)).flip(0), result, "dependent on the other images of its batch"
        )
        alone = torch.cat([self.apply(images[i : i + 1], theta[i : i + 1]) for i in range(len(images))])
        self.same(alone, result, "dependent on the other images of its batch")
        single = self.apply(images.float(), theta).double()
        gap = (single - result).flatten(1).norm(dim=1) / _scale(images, result)
        gap = torch.where(gap.isfinite(), gap, torch.zeros_like(gap))
        if gap.max() > _SINGLE:
            row = int(gap.argmax())
            raise _Fault(
                f"{self.name}.apply in float32, as votes run, differs from itself in float64 by {gap[row]:.2g} of the "
                f"image's norm at {self.at(theta[row])}; compute both alike"
            )

    def same(self, result: Tensor, wanted: Tensor, why: str) -> None:
        gap = (result - wanted).flatten(1).norm(dim=1) / _scale(wanted, result)
        if not gap.max() <= 1e-10:  # NaN is a difference
            raise _Fault(
                f"{self.name}.apply is {why}: the same image with the same parameters came out different by "
                f"{gap.max():.2g} of its norm; make it a function of its image and parameters alone"
            )

    def whole_pixels(self, images: Tensor, theta: Tensor) -> None:
        """Bounds take a declared shift of pixels for one by whole pixels on a cycle, and regions mean whole parameters
        where they are said to be rounded."""
        sizes = {"height": images.shape[2], "width": images.shape[3]}
        cycles = {
            factor.name: sizes[factor.axis]
            for factor in self.transform.factors or ()
            if isinstance(factor, Shift) and factor.axis is not None
        }
        rounded = theta.clone()
        for i, name in enumerate(self.parameters):
            if name in cycles or name in self.transform.integer_parameters:
                rounded[:, i] = nearest_integer(theta[:, i])
            if name in cycles:
                rounded[:, i] %= cycles[name]
        if cycles or self.transform.integer_parameters:
            self.compare(WHOLE, self.apply(images, theta), self.apply(images, rounded), images, theta)

    def compare(
        self,
        identity: str,
        one: Tensor,
        other: Tensor,
        images: Tensor,
        alpha: Tensor | None = None,
        beta: Tensor | None = None,
        middle: Tensor | None = None,
    ) -> None:
        gap = ((one - other).flatten(1).norm(dim=1) / _scale(images, one, other, middle)).nan_to_num(nan=math.inf)
        row = int(gap.argmax())
        known = self.residuals.get(identity)
        if known is None or float(gap[row]) > known.value:
            at = [None if values is None else self.named(values[row]) for values in (alpha, beta)]
            self.residuals[identity] = Residual(float(gap[row]), *at)


def _scale(images: Tensor, one: Tensor, other: Tensor | None = None, middle: Tensor | None = None) -> Tensor:
    """What the residual of each image is relative to: see :class:`TransformCheck`."""

    def norm(tensor: Tensor) -> Tensor:
        length: Tensor = tensor.flatten(1).norm(dim=1)
        return length

    scale = torch.maximum(norm(images), norm(one)).clamp(min=math.sqrt(images[0].numel()) / 255)
    if other is not None:
        scale = torch.maximum(scale, norm(other))
    return scale if middle is None else torch.maximum(scale, 1e-5 * norm(middle))


def _of_region(
    transform: ResolvableTransform, region: Region, identity: Tensor, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Extreme β of a region (k, d), and n random ones (n, d)."""
    names = list(transform.parameters)
    if isinstance(region, Points):
        points = torch.stack([transform.vector(point) for point in region.points])
        return points, points[torch.randint(len(points), (n,), generator=generator)]
    if not isinstance(region, (Box, Ball)):
        raise UserError(f"region={region!r} is not a Box, a Ball or Points")
    columns = []
    for name in region.parameters:
        if name not in names:
            transform.check({name: 0.0})
        columns.append(names.index(name))
    k = len(columns)
    if isinstance(region, Box):
        low, high = (
            torch.tensor([region.intervals[p][i] for p in region.parameters], dtype=torch.float64) for i in (0, 1)
        )
        chosen = list(product((0.0, 1.0), repeat=k)) if 2**k <= _CORNERS else None
        ends = (
            torch.tensor(chosen, dtype=torch.float64)
            if chosen is not None
            else torch.randint(2, (_CORNERS, k), generator=generator).double()
        )
        share = torch.rand(n, k, dtype=torch.float64, generator=generator)
        # Written so that a corner is the corner itself, to the last bit.
        edge, inner = (low * (1 - s) + high * s for s in (ends, share))
    else:
        centre = torch.tensor([region.centre[p] for p in region.parameters], dtype=torch.float64)
        axes = torch.eye(k, dtype=torch.float64)
        way = torch.randn(n, k, dtype=torch.float64, generator=generator)
        way = way / way.norm(dim=1, keepdim=True)
        edge = centre + region.radius * torch.cat([axes, -axes, way[:_CORNERS]])
        inner = centre + region.radius * torch.rand(n, 1, dtype=torch.float64, generator=generator) ** (1 / k) * way
    corners, inside = (identity.repeat(len(values), 1) for values in (edge, inner))
    corners[:, columns], inside[:, columns] = edge, inner
    for values in (corners, inside):
        for row in (values[0], values[-1]):
            transform.check(dict(zip(names, row.tolist(), strict=True)))
    return corners, inside
