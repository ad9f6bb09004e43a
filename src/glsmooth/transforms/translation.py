"""Translation by whole pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.transforms.base import ResolvableTransform
from glsmooth.transforms.canonical import landmark
from glsmooth.transforms.factors import Shift

__all__ = ["Translation", "nearest_integer"]

PADDINGS = ("cyclic", "reflect")


def nearest_integer(theta: Tensor) -> Tensor:
    """Round half up. Unlike round-half-even and truncation it commutes with adding an integer."""
    return torch.floor(theta + 0.5)


class Translation(ResolvableTransform):
    """Shift to the right by ``tx`` and down by ``ty`` pixels, each rounded to the nearest integer.

    Args:
        padding: ``"cyclic"`` (pixels that leave on one side enter on the other) is exactly resolvable for integer
            β. ``"reflect"`` mirrors the border; border pixels are lost, so it is only approximately resolvable
            and never certified.
    """

    name = "translation"
    factors = (Shift("tx", axis="width"), Shift("ty", axis="height"))

    def __init__(self, padding: str = "cyclic") -> None:
        if padding not in PADDINGS:
            raise UserError(f"padding={padding!r} is unknown; choose from {', '.join(PADDINGS)}")
        self.padding = padding
        self.resolvable = padding == "cyclic"
        self.seal()

    def _sources(self, size: int, shift: Tensor) -> Tensor:
        """Where each of ``size`` output pixels is read from, an image: (N, size)."""
        source = torch.arange(size, device=shift.device)[None] - shift[:, None]
        if self.padding == "cyclic":
            return source % size
        source = source % (2 * size)  # mirror without repeating rules for each side: a triangle wave
        return torch.where(source < size, source, 2 * size - 1 - source)

    def apply(self, images: Tensor, theta: Tensor) -> Tensor:
        n, c, h, w = images.shape
        shift = nearest_integer(theta).to(device=images.device, dtype=torch.int64)
        rows, columns = self._sources(h, shift[:, 1]), self._sources(w, shift[:, 0])
        index = (rows[:, :, None] * w + columns[:, None, :]).reshape(n, 1, h * w)
        return images.reshape(n, c, h * w).gather(2, index.expand(n, c, h * w)).reshape(n, c, h, w)

    def canonical(self, images: Tensor) -> Tensor:
        if not self.canonical_parameters:
            return super().canonical(images)
        height, width = images.shape[2:]
        return self.apply(images, images.new_tensor([width // 2, height // 2], dtype=torch.float64) - landmark(images))

    @property
    def canonical_parameters(self) -> tuple[str, ...]:
        return self.parameters if self.resolvable else ()

    def without_canonical(self) -> str | None:
        return None if self.resolvable else "pixels that leave an image with mirrored borders are lost"

    def __repr__(self) -> str:
        return f"Translation(padding={self.padding!r})"
