"""Where the pixels of a warped image come from: paths through the source image, and how fast and how straight they are.

Positions are (x, y), in pixels from the centre of the image, y downwards.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["Motion", "Turn", "Zoom", "pixels"]


def pixels(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Centres of the pixels, row by row: float64, shape (height·width, 2)."""
    y = torch.arange(height, dtype=torch.float64, device=device) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64, device=device) - (width - 1) / 2
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1).reshape(-1, 2)


class Motion(ABC):
    """One-parameter family of maps from places of the warped image to places of the source.

    Its own parameter is a *time* t, a monotone function of the threat's parameter.
    """

    @abstractmethod
    def time(self, beta: Tensor) -> Tensor:
        """t of parameters, elementwise."""

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """The parameters of times, elementwise."""

    @abstractmethod
    def sources(self, t: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Where ``places`` (P, 2) come from at times (K,), and the velocity there: two tensors (K, P, 2)."""

    @abstractmethod
    def bend(self, places: Tensor) -> Tensor:
        """Most that a velocity's length changes in a unit of time: (P, 2) -> (P,)."""


class Turn(Motion):
    """Rotation about the centre; t is the angle in radians, the parameter is in degrees."""

    def time(self, beta: Tensor) -> Tensor:
        return beta * (math.pi / 180)

    def beta(self, t: Tensor) -> Tensor:
        return t * (180 / math.pi)

    def sources(self, t: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = t.cos()[:, None], t.sin()[:, None]
        x, y = places.unbind(-1)
        u, v = cos * x - sin * y, sin * x + cos * y
        return torch.stack((u, v), dim=-1), torch.stack((-v, u), dim=-1)

    def bend(self, places: Tensor) -> Tensor:
        radius: Tensor = places.norm(dim=-1)
        return radius


class Zoom(Motion):
    """Scaling about the centre; t is the inverse of the scale, so that paths are straight and of even speed."""

    def time(self, beta: Tensor) -> Tensor:
        return 1 / beta

    def beta(self, t: Tensor) -> Tensor:
        return 1 / t

    def sources(self, t: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        u = t[:, None, None] * places
        return u, places.expand_as(u)

    def bend(self, places: Tensor) -> Tensor:
        return torch.zeros_like(places[:, 0])
