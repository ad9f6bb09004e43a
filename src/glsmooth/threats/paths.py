"""Images along a motion, as curves in the space of images: how far they are from a point, and how long at most.

Bilinear interpolation is continuous, and in each cell between four pixels a bilinear function. The change of all
channels along a velocity w, squared and summed, is a convex function of the place in the cell, so that it is largest at
one of the cell's corners. There it is

    w_x² A + 2 w_x w_y B + w_y² C,   A = Σ (∂_x I)², B = Σ ∂_x I · ∂_y I, C = Σ (∂_y I)²  over the channels.

While a pixel's source moves along an arc, it stays in the cells of the arc's bounding box. With the largest A and C,
and the least and the largest B of the box, and with the range of the velocity, that bounds the speed of the pixel; the
root of the sum of squares over the pixels bounds the speed of the image. Cells of the border have corners outside of
the image, which are zero.

The derivative of a value also bounds how far the value strays from the chord between the ends of an interval: by Δ/4 of
the derivative's range (it can rise no faster and fall no faster). In the interior of a cell ∂_x I changes with y alone
and ∂_y I with x alone, so on short arcs few pixels have derivatives of any range, those which pass from one cell to
another: images stray from their chord by Δ to the power of 3/2.

Everything is float64, on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from glsmooth.threats.motions import Motion, pixels

__all__ = ["NUMBERS", "WINDOW", "Paths", "Speeds"]

#: Bounding boxes have at most so many cells a side.
WINDOW = 4
#: What is known of each box, see ``Paths.table``.
NUMBERS = 6
#: Pixels that are worked on at once, of all times together: what is computed of so many stays near the processor.
_CHUNK = 1 << 17


class Speeds(NamedTuple):
    """Bounds for K images on an interval of time each, (K,).

    Attributes:
        speed: the image changes no faster.
        sag: it strays from the chord between the interval's ends by no more than this times the interval's length.
        slope: it changes by no more than √2 times this for each pixel that coordinates of sources are off by.
        moving: kept pixels that change at all.
    """

    speed: Tensor
    sag: Tensor
    slope: Tensor
    moving: Tensor


class Paths:
    """Curves t ↦ warped image.

    Args:
        images: (N, C, H, W), float64.
        motion: where pixels come from.
        inside: (H, W), which pixels are kept; the others are zero.
    """

    def __init__(self, images: Tensor, motion: Motion, inside: Tensor) -> None:
        self.images, self.motion = images, motion
        self.size = images.shape[2:]
        self.inside = inside.flatten()
        self.places = pixels(*self.size)[self.inside]
        self.bend = motion.bend(self.places)
        self.amplitude = images.abs().amax(dim=(1, 2, 3))
        self._table: Tensor | None = None

    @property
    def rounding_of_places(self) -> float:
        """A source place is computed to within this many pixels, as long as angles are within a turn."""
        return 2.0**-47 * (max(self.size) + 2)

    @property
    def longest_step(self) -> float:
        """So short are steps whose boxes have at most WINDOW cells a side."""
        # A step of half-length h leads no further than ρh + ρh²/2 to either side: less than (WINDOW - 1)/2 in all.
        radius = float(self.places.norm(dim=-1).max()) if len(self.places) else 0.0
        return 2 * min(1.25 / max(radius, 1e-9), 0.3)

    def _chunks(self, count: int) -> Iterator[slice]:
        rows = max(1, _CHUNK // max(1, len(self.places)))
        return (slice(start, start + rows) for start in range(0, count, rows))

    def at(self, which: Tensor, t: Tensor) -> Tensor:
        """Kept pixels (K, C, P) of the images ``which`` (K,) warped to the times ``t`` (K,)."""
        found = [self._at(which[part], t[part]) for part in self._chunks(len(t))]
        return torch.cat(found)

    def _at(self, which: Tensor, t: Tensor) -> Tensor:
        height, width = self.size
        u, _ = self.motion.sources(t, self.places)
        grid = u * torch.tensor([2 / width, 2 / height], dtype=torch.float64)
        return F.grid_sample(self.images[which], grid[:, None], align_corners=False)[:, :, 0]

    def distances(self, which: Tensor, t: Tensor, references: Tensor, row: Tensor) -> Tensor:
        """Distance (K,) of warped images from rows ``row`` (K,) of ``references`` (M, C, P)."""
        found = [
            (self._at(which[part], t[part]) - references[row[part]]).flatten(1).norm(dim=1)
            for part in self._chunks(len(t))
        ]
        return torch.cat(found)

    def speeds(self, which: Tensor, low: Tensor, high: Tensor) -> Speeds:
        """Bounds for images ``which`` (K,) between times (K,) that are :attr:`longest_step` apart at most."""
        found = [self._speeds(which[part], low[part], high[part]) for part in self._chunks(len(low))]
        return Speeds(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _speeds(self, which: Tensor, low: Tensor, high: Tensor) -> Speeds:
        u, w = self.motion.sources((low + high) / 2, self.places)
        half = ((high - low) / 2 * (1 + 1e-12))[:, None]
        change = self.bend * half  # of the velocity, at most
        size_x, size_y = w[..., 0].abs(), w[..., 1].abs()
        height, width = self.size
        # With what places computed in float32 are off by.
        room = change * half / 2 + 2.0**-20 * (max(height, width) + 2)
        reach_x, reach_y = size_x * half + room, size_y * half + room
        first_column, columns = _cells(u[..., 0], reach_x, width)
        first_row, rows = _cells(u[..., 1], reach_y, height)
        shape = (rows * WINDOW + columns) * (height + 3) + first_row
        index = (which[:, None] * (WINDOW**2 * (height + 3)) + shape) * (width + 3) + first_column
        a, c, most, least, range_x, range_y = (
            self.table.index_select(0, index.flatten()).view(*index.shape, NUMBERS).unbind(-1)
        )
        cross = w[..., 0] * w[..., 1]
        spread = change * (size_x + size_y + change)
        squared = (size_x + change).square() * a + (size_y + change).square() * c
        squared += 2 * torch.maximum(cross * most, cross * least) + 2 * spread * torch.maximum(most.abs(), least.abs())
        within = rows + columns == 0
        range_x = torch.where(within, range_x * (2 * reach_y).clamp(max=1), range_x)
        range_y = torch.where(within, range_y * (2 * reach_x).clamp(max=1), range_y)
        ranges = (size_x + change) * range_x + (size_y + change) * range_y + 2 * change * (a.sqrt() + c.sqrt())
        return Speeds(
            squared.clamp(min=0).sum(1).sqrt(), ranges.norm(dim=1) / 4, (a + c).sum(1).sqrt(), (a + c > 0).sum(1)
        )

    @property
    def table(self) -> Tensor:
        """What is known of each window of cells, by image, rows, columns, first row and first column, each less one.

        Six numbers: the largest A, C and B, the least B, and the ranges of ∂_x I and ∂_y I (norms over the channels).
        A cell has the number of its upper left pixel plus 2: cells 0 and the last lie outside of the image.
        """
        if self._table is None:
            self._table = _table(self.images)
        return self._table


def _cells(middle: Tensor, reach: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The first cell between ``middle`` ± ``reach``, and how many more there are."""
    origin = (size - 1) / 2 + 2
    first = torch.floor(middle - reach + origin).clamp(0, size + 2)
    last = torch.floor(middle + reach + origin).clamp(0, size + 2)
    return first.long(), (last - first).long()


def _table(images: Tensor) -> Tensor:
    padded = F.pad(images, (2, 2, 2, 2))
    dx, dy = padded.diff(dim=3), padded.diff(dim=2)
    corners = [(x, y) for x in (dx[:, :, :-1], dx[:, :, 1:]) for y in (dy[..., :-1], dy[..., 1:])]
    a = torch.stack([x.square().sum(1) for x, _ in corners]).amax(0)
    c = torch.stack([y.square().sum(1) for _, y in corners]).amax(0)
    b = torch.stack([(x * y).sum(1) for x, y in corners])
    cells = torch.stack((a, c, b.amax(0), -b.amin(0)), dim=1)  # (N, 4, H + 3, W + 3)
    n, _, height, width = cells.shape
    table = cells.new_empty(n, WINDOW, WINDOW, height, width, NUMBERS)
    for i in range(WINDOW):
        for j in range(WINDOW):
            window = table[:, i, j]
            window[..., :4] = _largest(cells, i, j).movedim(1, -1)
            # A window of cells has a row of differences along x more, and a column of those along y.
            for k, (values, down, right) in enumerate(((dx, i + 1, j), (dy, i, j + 1))):
                ranges = _largest(values, down, right) + _largest(-values, down, right)
                window[..., 4 + k] = ranges[..., :height, :width].square().sum(1).sqrt()
    table[..., 3].neg_()
    return table.view(-1, NUMBERS)


def _largest(values: Tensor, down: int, right: int) -> Tensor:
    """Largest of ``values`` (N, K, H, W) in windows of ``down`` + 1 rows and ``right`` + 1 columns."""
    padded = F.pad(values, (0, right, 0, down), value=-torch.inf)
    return F.max_pool2d(padded, (down + 1, right + 1), stride=1)
