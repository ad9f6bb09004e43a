"""Compositions of commuting transformations, and the built-in ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.transforms.base import ResolvableTransform
from glsmooth.transforms.blur import GaussianBlur
from glsmooth.transforms.canonical import at_least_float32
from glsmooth.transforms.factors import Domain
from glsmooth.transforms.intensity import Brightness, Contrast, ContrastBrightness
from glsmooth.transforms.translation import Translation

__all__ = [
    "BrightnessTranslation",
    "Composition",
    "ContrastBrightnessTranslation",
    "ContrastTranslation",
    "TranslationBlurBrightnessContrast",
]


class Composition(ResolvableTransform):
    """φ = the parts, one after the other; resolvable because every two of them commute.

    Args:
        parts: transformations with different parameters, first applied first.
        name: how messages and records call it.

    Raises:
        UserError: two parts share a parameter or do not commute; the message says which and what to do.
    """

    name = "composition"

    def __init__(self, *parts: ResolvableTransform, name: str | None = None) -> None:
        for part in parts:
            part.seal()  # what follows is read from the parts once
        if name is not None:
            self.name = name  # type: ignore[misc]
        self.parts = parts
        self.parameters = tuple(p for part in parts for p in part.parameters)
        repeated = {p for p in self.parameters if self.parameters.count(p) > 1}
        if repeated:
            raise UserError(f"parameter {min(repeated)!r} belongs to two parts; a parameter may occur once")
        self.resolvable = all(part.resolvable for part in parts)
        if self.resolvable:
            _refuse_unless_commuting(parts)
        if all(part.factors is not None for part in parts):
            self.factors = tuple(factor for part in parts for factor in part.factors or ())
        self.seal()

    def _split(self, theta: Tensor) -> list[Tensor]:
        return list(theta.split([len(part.parameters) for part in self.parts], dim=-1))

    @property
    def identity(self) -> Tensor:
        return torch.cat([part.identity for part in self.parts])

    def domain(self, name: str) -> Domain:
        return next((part.domain(name) for part in self.parts if name in part.parameters), super().domain(name))

    @property
    def monotone_parameters(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset().union(*(part.monotone_parameters for part in self.parts))

    @property
    def integer_parameters(self) -> frozenset[str]:
        return frozenset().union(*(part.integer_parameters for part in self.parts))

    def apply(self, images: Tensor, theta: Tensor) -> Tensor:
        for part, values in zip(self.parts, self._split(theta), strict=True):
            images = part.apply(images, values)
        return images

    def canonical(self, images: Tensor) -> Tensor:
        """The forms of those parts that have one, one after the other.

        Rolls come last: a landmark is found by brightness, and power laws move it; forms of intensity are of all
        pixels, wherever they are.
        """
        having = [part for part in self.parts if part.canonical_parameters]
        if not having:
            return super().canonical(images)
        form = at_least_float32(images)
        for part in sorted(having, key=lambda part: isinstance(part, Translation)):
            form = part.canonical(form)
        return form.to(images.dtype)

    @property
    def canonical_parameters(self) -> tuple[str, ...]:
        return tuple(p for part in self.parts for p in part.canonical_parameters)

    def without_canonical(self) -> str | None:
        return "; ".join(filter(None, (part.without_canonical() for part in self.parts))) or None

    def resolve(self, alpha: Tensor, beta: Tensor) -> Tensor:
        alpha, beta = torch.broadcast_tensors(alpha, beta)
        pairs = zip(self.parts, self._split(alpha), self._split(beta), strict=True)
        return torch.cat([part.resolve(a, b) for part, a, b in pairs], dim=-1)

    def inverse(self, theta: Tensor, beta: Tensor) -> Tensor | None:
        pairs = zip(self.parts, self._split(theta), self._split(beta), strict=True)
        solved = [part.inverse(t, b) for part, t, b in pairs]
        return None if any(part is None for part in solved) else torch.cat(solved, dim=-1)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.parts))})"


def _refuse_unless_commuting(parts: Sequence[ResolvableTransform]) -> None:
    """Try both orders of every two parts on random images: a pair that differs is refused.

    Two analytic actions that agree on random images and parameters to rounding agree everywhere but on a set of
    measure zero, so a trial is as good as a table of rules, and covers users' own transformations too.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 2, 7, 9, dtype=torch.float64, generator=generator)
    for i, first in enumerate(parts):
        for second in parts[i + 1 :]:
            a, b = (part.random_parameters(len(images), generator) for part in (first, second))
            one = second.apply(first.apply(images, a), b)
            other = first.apply(second.apply(images, b), a)
            gap = (one - other).abs().max().item()
            if gap > 1e-9 or gap != gap:
                raise UserError(
                    f"{first!r} and {second!r} do not commute (their two orders differ by {gap:.2g} on a random "
                    f"image), so their composition is not resolvable{_remedy(first, second)}"
                )


def _remedy(*pair: ResolvableTransform) -> str:
    if any(isinstance(part, GaussianBlur) for part in pair) and any(isinstance(part, Translation) for part in pair):
        return "; use GaussianBlur(border='cyclic')"
    names = {parameter for part in pair for parameter in part.parameters}
    if names == {"contrast", "brightness"}:
        return "; use ContrastBrightness, the group that the two generate"
    if names == {"gamma", "contrast"}:
        return "; use GammaContrast, the group that the two generate"
    return "; leave one of the two out"


class BrightnessTranslation(Composition):
    """x + b of the cyclically shifted image."""

    name = "brightness_translation"

    def __init__(self, padding: str = "cyclic") -> None:
        super().__init__(Brightness(), Translation(padding))


class ContrastTranslation(Composition):
    """c·x of the cyclically shifted image."""

    name = "contrast_translation"

    def __init__(self, padding: str = "cyclic") -> None:
        super().__init__(Contrast(), Translation(padding))


class ContrastBrightnessTranslation(Composition):
    """c·x + b (or c·(x + b)) of the cyclically shifted image."""

    name = "contrast_brightness_translation"

    def __init__(self, order: str = "contrast_first", padding: str = "cyclic") -> None:
        super().__init__(ContrastBrightness(order), Translation(padding))


class TranslationBlurBrightnessContrast(Composition):
    """c·(blur_r(shift_T x) + b) with cyclic shift and cyclic blur (or c·blur_r(shift_T x) + b)."""

    name = "translation_blur_brightness_contrast"

    def __init__(self, order: str = "brightness_first") -> None:
        super().__init__(Translation(), GaussianBlur("cyclic"), ContrastBrightness(order))
