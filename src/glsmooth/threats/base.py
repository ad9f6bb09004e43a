"""What a threat is: what the attacker really does, and how far that leads from a point at most."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.laws.immutable import Immutable
from glsmooth.threats.motions import Motion, pixels
from glsmooth.threats.paths import NUMBERS, WINDOW, Paths
from glsmooth.threats.supremum import supremum

__all__ = ["Residual", "Slices", "Threat"]

#: Bytes of tables that are kept at once, by which images are worked on in groups.
_MEMORY = 1 << 27


def _numbers(name: str, value: Tensor | float, n: int) -> Tensor:
    """``value`` for each of n images, float64."""
    numbers = torch.as_tensor(value, dtype=torch.float64)
    if numbers.ndim > 1 or (numbers.ndim == 1 and len(numbers) not in (1, n)):
        raise UserError(f"{name} has the shape {tuple(numbers.shape)}; give one number, or one for each of {n} images")
    return numbers.expand(n)


@dataclass(frozen=True, eq=False)
class Residual:
    """How far attacked images are from references.

    Attributes:
        upper: (N,), float64: no attacked image is further away. Rounded up.
        attained: (N,), float64: the largest distance that was seen, before rounding to 8 bits and perturbation.
        worst: (N,), float64: the parameter at which.
    """

    upper: Tensor
    attained: Tensor
    worst: Tensor


@dataclass(frozen=True, eq=False)
class Slices:
    """An interval of a threat's parameter, cut for one image.

    Attributes:
        edges: (K + 1,), float64, ascending: the first slice lies between the first two.
        references: (K, C, H, W), the point of each slice.
        residual: (K,), float64: no attacked image of the slice is further away from its point.
    """

    edges: Tensor
    references: Tensor
    residual: Tensor

    def __len__(self) -> int:
        return len(self.references)


class Threat(Immutable, ABC):
    """An image warped by one parameter, then perturbed and rounded: φ_a(x, β).

    The warp is bilinear, about the centre of the image, with zeros outside of it; so it is continuous in β, at the
    border too. It is resolvable for no resolving function. What a certificate needs instead is its
    :class:`Residual`: the largest distance from a fixed point, which pixel noise pays for
    (:func:`glsmooth.bounds.residual_alone`).

    Args:
        round8: the attacker rounds to 8 bits: to the nearest of k/255 in [0, 1]. Images then must lie in [0, 1].
        l2: largest l2 norm of a perturbation that the attacker adds to the warped image.
    """

    name: ClassVar[str]
    #: The parameter β, and its value at which the warp is the identity.
    parameter: ClassVar[str]
    identity: ClassVar[float]
    #: Where the pixels of the warped image come from.
    motion: ClassVar[Motion]

    round8: bool
    l2: float

    @abstractmethod
    def check(self, beta: Tensor) -> None:
        """Raise a UserError unless every parameter is one that the threat has."""

    def kept(self, height: int, width: int) -> Tensor:
        """Pixels of the warped image that are kept, (H, W) of bool; the others are 0."""
        return torch.ones(height, width, dtype=torch.bool)

    def warp(self, images: Tensor, beta: Tensor | float) -> Tensor:
        """The continuous part of the attack.

        Args:
            images: (N, C, H, W), any floating dtype, any device.
            beta: (N,) or one number for all.

        Returns:
            (N, C, H, W), same dtype and device; differentiable in both arguments where bilinear interpolation is.
        """
        n, _, height, width = images.shape
        beta = _numbers("beta", beta, n)
        self.check(beta)
        u, _ = self.motion.sources(self.motion.time(beta), pixels(height, width, beta.device))
        grid = u * u.new_tensor([2 / width, 2 / height])
        exact = images if images.dtype in (torch.float32, torch.float64) else images.float()
        warped = F.grid_sample(exact, grid.view(n, height, width, 2).to(exact), align_corners=False)
        return torch.where(self.kept(height, width).to(images.device), warped, 0.0).to(images.dtype)

    def apply(self, images: Tensor, beta: Tensor | float, perturbation: Tensor | None = None) -> Tensor:
        """What the classifier gets: the warped image, perturbed and rounded.

        Args:
            images, beta: as :meth:`warp`.
            perturbation: (N, C, H, W), added to the warped image, scaled down to the norm ``l2`` where it is larger.

        Returns:
            (N, C, H, W). Rounding has no gradient; search for attacks with :meth:`warp`.
        """
        attacked = self.warp(images, beta)
        if perturbation is not None:
            norm = perturbation.flatten(1).norm(dim=1).clamp(min=1e-30)[:, None, None, None]
            attacked = attacked + perturbation * (self.l2 / norm).clamp(max=1.0)
        return (attacked.clamp(0, 1) * 255).round() / 255 if self.round8 else attacked

    def residual(
        self,
        images: Tensor,
        references: Tensor,
        low: Tensor | float,
        high: Tensor | float,
        *,
        tolerance: float = 0.01,
        evaluations: int = 20_000,
    ) -> Residual:
        """Upper bound of sup ||φ_a(x, β) - v||_2 over all β between ``low`` and ``high`` and all perturbations.

        It holds for exact arithmetic, and for warps whose places and values are computed in the images' dtype
        (``warp``, and torch's ``affine_grid`` with ``grid_sample``).

        Args:
            images: (N, C, H, W), float32 or float64.
            references: (N, C, H, W), the points v.
            low, high: ends of the interval, (N,) or one number for all.
            tolerance: the bound is this close to a distance that is attained, but for rounding (also to 8 bits), ...
            evaluations: ... unless so many warps of an image were not enough. The bound holds all the same.

        Raises:
            UserError: shapes, dtypes, parameters or numbers that do not fit.
        """
        n, _, height, width = images.shape
        self._check_images(images)
        if references.shape != images.shape:
            raise UserError(f"references: {tuple(references.shape)} must have the images' shape {tuple(images.shape)}")
        if not bool(references.isfinite().all()):
            raise UserError("references must be finite numbers; some are not")
        if not tolerance > 0:
            raise UserError(f"tolerance={tolerance} must be above 0; give for example tolerance=0.01")
        intervals = self._intervals(low, high, n)
        group = max(1, _MEMORY // (8 * WINDOW**2 * NUMBERS * (height + 3) * (width + 3)))
        found = [
            self._residual(
                self._paths(images[part]),
                images.dtype,
                torch.arange(len(images[part])),
                references[part],
                intervals[part],
                tolerance,
                evaluations,
            )
            for part in (slice(start, start + group) for start in range(0, n, group))
        ]
        upper, attained, worst = (torch.cat(parts) for parts in zip(*found, strict=True)) if n else [torch.zeros(0)] * 3
        return Residual(upper, attained, worst)

    def _check_images(self, images: Tensor) -> None:
        if images.dtype not in (torch.float32, torch.float64):
            raise UserError(f"images are {images.dtype}; bounds are of float32 and float64 images, give one of these")
        if not bool(images.isfinite().all()):
            raise UserError("images must be finite numbers; some are not")
        if self.round8 and images.numel() and not bool(((images >= 0) & (images <= 1)).all()):
            raise UserError("images must lie in [0, 1] where round8=True; rescale them, or leave round8 out")

    def _intervals(self, low: Tensor | float, high: Tensor | float, n: int) -> Tensor:
        ends = [_numbers(name, end, n).detach().cpu() for name, end in (("low", low), ("high", high))]
        if bool((ends[0] > ends[1]).any()):
            raise UserError(f"low={low} is above high={high}; exchange the two")
        intervals = torch.stack(ends, dim=1)
        self.check(intervals)
        return intervals

    def _paths(self, images: Tensor) -> Paths:
        return Paths(images.detach().cpu().double(), self.motion, self.kept(*images.shape[2:]))

    def _edges(self, paths: Paths, interval: Tensor) -> np.ndarray:
        """Times that cut an interval into steps short enough for bounds of the speed."""
        first, last = sorted(self.motion.time(interval).tolist())
        return np.linspace(first, last, 1 + max(1, math.ceil((last - first) / paths.longest_step)))

    def _residual(
        self,
        paths: Paths,
        dtype: torch.dtype,
        which: Tensor,
        references: Tensor,
        intervals: Tensor,
        tolerance: float,
        evaluations: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of ``references`` (M, C, H, W) against images ``which`` (M,), which are of ``dtype``."""
        points = references.detach().cpu().double().flatten(2)
        kept, rest = points[..., paths.inside], points[..., ~paths.inside].flatten(1).square().sum(1)
        edges = [self._edges(paths, interval) for interval in intervals]

        def distance(curve: np.ndarray, time: np.ndarray) -> np.ndarray:
            row = torch.from_numpy(curve)
            inner = paths.distances(which[row], torch.from_numpy(time), kept, row)
            return (inner.square() + rest[row]).sqrt().numpy()

        def speeds(curve: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            bounds = paths.speeds(which[torch.from_numpy(curve)], torch.from_numpy(low), torch.from_numpy(high))
            return bounds.speed.numpy(), bounds.sag.numpy()

        found = supremum(edges, distance, speeds, tolerance, evaluations)
        # A sum of d squares is good to d 2^-53 of itself, in whatever order.
        upper = torch.from_numpy(found.upper) * (1 + 2.0**-30) + self.l2 * (1 + 2.0**-20)
        upper = upper + self._allowance(paths, dtype, which, edges)
        worst = self.motion.beta(torch.from_numpy(found.where)).clamp(intervals[:, 0], intervals[:, 1])
        return upper, torch.from_numpy(found.attained), worst

    def _allowance(self, paths: Paths, dtype: torch.dtype, which: Tensor, edges: list[np.ndarray]) -> Tensor:
        """What rounding changes at most: of numbers, and to 8 bits where the attacker does that."""
        curve = torch.from_numpy(np.repeat(np.arange(len(edges)), [len(times) - 1 for times in edges]))
        low = torch.from_numpy(np.concatenate([times[:-1] for times in edges]))
        high = torch.from_numpy(np.concatenate([times[1:] for times in edges]))
        bounds = paths.speeds(which[curve], low, high)
        slope, moving = (
            x.new_zeros(len(edges)).scatter_reduce(0, curve, x, "amax") for x in (bounds.slope, bounds.moving)
        )
        size = paths.images[0].numel()
        # A place in float32: its coordinate divided by half the image's size, and back, in less than 8 roundings of
        # numbers no larger than that. An image whose places are off changes by the slope times that.
        places, unit = paths.rounding_of_places, 2.0**-53
        if dtype == torch.float32:
            places, unit = places + 2.0**-21 * (max(paths.size) + 2), 2.0**-24
        # Weights, their products and the sum of four: less than 16 roundings of a value.
        values = 16 * unit * paths.amplitude[which] * math.sqrt(size)
        allowance = math.sqrt(2) * places * slope + values
        if not self.round8:
            return allowance
        if self.l2:  # which may change every pixel
            return allowance + math.sqrt(size) / 510
        # Pixels that do not change have a value of the image, which may be one of 8 bits already.
        still = len(paths.places) - moving
        off = (paths.images - (paths.images * 255).round() / 255).abs().amax(dim=(1, 2, 3))[which]
        return allowance + (paths.images.shape[1] * (moving / 510**2 + still * off.square())).sqrt()

    def centre(self, images: Tensor, low: Tensor | float, high: Tensor | float, *, points: int = 33) -> Tensor:
        """References that all warped images of an interval are near to: centres of small balls around them.

        The smallest ball around ``points`` of them, by the iteration of Bădoiu and Clarkson (2003). Any reference is
        allowed, so nothing rests on how good these are.

        Args:
            images, low, high: as :meth:`residual`.
            points: parameters, evenly spread, whose images the ball is around.

        Returns:
            (N, C, H, W), in dtype and on the device of the images.
        """
        self._check_images(images)
        intervals = self._intervals(low, high, len(images))
        found = [
            self._centres(self._paths(images[i : i + 1]), images.dtype, intervals[i : i + 1], points)
            for i in range(len(images))
        ]
        return torch.cat(found).to(images.device) if found else images

    def _centres(self, paths: Paths, dtype: torch.dtype, intervals: Tensor, points: int) -> Tensor:
        """Of one image, for intervals (K, 2): (K, C, H, W), on the CPU."""
        ends = self.motion.time(intervals)
        share = torch.linspace(0, 1, points, dtype=torch.float64)
        times = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * share
        along = paths.at(times.new_zeros(times.numel(), dtype=torch.long), times.flatten()).flatten(1)
        along = along.view(len(intervals), points, -1)
        moved = along - along[:, :1]
        products = moved @ moved.mT
        weights = torch.full_like(times, 1 / points)
        for i in range(1, 1000):
            # Of each point, its squared distance from the centre, less what all have in common.
            far = (products.diagonal(dim1=1, dim2=2) - 2 * (products @ weights[..., None])[..., 0]).argmax(1)
            weights = weights * (i / (i + 1))
            weights[torch.arange(len(far)), far] += 1 / (i + 1)
        kept = (weights[:, None] @ along)[:, 0].view(len(intervals), paths.images.shape[1], -1)
        centres = kept.new_zeros(*kept.shape[:2], len(paths.inside))
        centres[..., paths.inside] = kept
        return centres.view(-1, *paths.images.shape[1:]).to(dtype)

    def length(self, images: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
        """Length (N,), float64, of the curve β ↦ ``warp(images, β)``. Measured, no bound."""
        self._check_images(images)
        intervals = self._intervals(low, high, len(images))
        found = [self._travelled(self._paths(images[i : i + 1]), intervals[i])[1][-1] for i in range(len(images))]
        return torch.tensor(found, dtype=torch.float64)

    def _travelled(self, paths: Paths, interval: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Ascending parameters of an interval, and the length of the curve up to each, measured on short steps."""
        edges = self._edges(paths, interval)
        times = np.linspace(edges[0], edges[-1], 4 * len(edges))
        step = 1e-3 * max(times[1] - times[0], 1e-12)
        begin = torch.from_numpy(times - step / 2)
        which = torch.zeros(len(times), dtype=torch.long)
        there, then = paths.at(which, begin), paths.at(which, begin + step)
        speed = ((then - there).flatten(1).norm(dim=1) / step).numpy()
        lengths = (speed[1:] + speed[:-1]) / 2 * np.diff(times)
        beta = self.motion.beta(torch.from_numpy(times)).numpy()
        if beta[0] > beta[-1]:
            beta, lengths = beta[::-1], lengths[::-1]
        return beta, np.concatenate(([0.0], np.cumsum(lengths)))

    def least_residual(self, image: Tensor, low: float, high: float) -> float:
        """What rounding and perturbation alone may come to: part of every residual of :meth:`slices`, however short.

        Args:
            image, low, high: as :meth:`slices`.
        """
        self._check_images(image[None])
        return self._alone(self._paths(image[None]), image.dtype, self._intervals(low, high, 1)[0])

    def _alone(self, paths: Paths, dtype: torch.dtype, interval: Tensor) -> float:
        edges = self._edges(paths, interval)
        return self.l2 + float(self._allowance(paths, dtype, torch.zeros(1, dtype=torch.long), [edges]))

    def slices(self, image: Tensor, low: float, high: float, residual: float, *, points: int = 5) -> Slices:
        """Cut an interval into slices, each with a reference and a residual of at most ``residual``.

        The cuts are moved until all residuals are about equal; about as few as such references allow.

        Args:
            image: (C, H, W), float32 or float64.
            low, high: ends of the interval.
            residual: largest :attr:`Residual.upper` of a slice, in the units of a pixel.
            points: images of each slice that its reference is the centre of.

        Raises:
            UserError: as :meth:`residual`; a residual that rounding and perturbation alone exceed.
        """
        images = image[None]
        self._check_images(images)
        interval = self._intervals(low, high, 1)[0]
        paths = self._paths(images)
        alone = self._alone(paths, image.dtype, interval)
        room = residual - alone
        if not (math.isfinite(residual) and room > 0):
            raise UserError(
                f"residual={residual:g} must be above {alone:.3g}, which rounding and perturbation alone may reach; "
                f"give for example residual={2 * alone + 0.1:.2g}"
            )
        cuts, travelled = self._travelled(paths, interval)
        # A reference in the middle of a short piece has half of its length as residual.
        costs, reached = travelled[-1:] / 2, travelled / 2
        best: Slices | None = None
        for _ in range(6):
            count = max(1, math.ceil(float(costs.sum()) / (0.98 * room)))
            if best is not None and count >= len(best):
                return best
            cuts = np.interp(np.linspace(0, reached[-1], count + 1), reached, cuts)
            slices = self._sliced(paths, image.dtype, interval, cuts, room, points)
            costs = slices.residual.numpy() - alone
            reached = np.concatenate(([0.0], np.cumsum(np.maximum(costs, 1e-3 * room))))
            if costs.max() <= room:
                best = slices
        if best is not None:
            return best
        for _ in range(30):  # halve what is too far
            wide = np.flatnonzero(costs > room)
            cuts = np.sort(np.concatenate((cuts, (cuts[wide] + cuts[wide + 1]) / 2)))
            slices = self._sliced(paths, image.dtype, interval, cuts, room, points)
            costs = slices.residual.numpy() - alone
            if costs.max() <= room:
                return slices
        raise UserError(f"residual={residual:g} is too small for images of {image.dtype}; give a larger one")

    def _sliced(
        self, paths: Paths, dtype: torch.dtype, interval: Tensor, cuts: np.ndarray, room: float, points: int
    ) -> Slices:
        """Slices between ascending parameters, each with its centre and residual."""
        edges = torch.from_numpy(cuts).clone()
        edges[0], edges[-1] = interval
        intervals = torch.stack((edges[:-1], edges[1:]), dim=1)
        group = max(1, _MEMORY // (64 * paths.images.numel()))
        references, upper = [], []
        for part in intervals.split(group):
            centres = self._centres(paths, dtype, part, points)
            which = torch.zeros(len(part), dtype=torch.long)
            upper.append(self._residual(paths, dtype, which, centres, part, 0.01 * room, 1000)[0])
            references.append(centres)
        return Slices(edges, torch.cat(references), torch.cat(upper))
