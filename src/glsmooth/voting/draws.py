"""Random draws that depend on (seed, image index, stream, draw index) alone.

Batch size, order of images, number of workers or devices and a resume change nothing: draw j of an image is
read at position j of that image's own counter-based generator (Philox 4x64, Salmon et al. 2011).
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from glsmooth.errors import UserError

__all__ = ["Stream", "coin", "pixel_normals", "uniforms"]

_WORD = 64  # bits of Philox's words; a block has four of them


class Stream(IntEnum):
    """What a draw is for. Streams never share a random number."""

    SELECTION = 0  #: chooses the class
    COUNTING = 1  #: counts it
    CLEAN = 2  #: the image itself, θ = β₀, without pixel noise: no random number is used
    VISITING = 3  #: the shifts of a finite law, one after the other: no random number is used
    COIN = 4  #: the one random number of the randomised Clopper-Pearson bound
    SEARCH = 5  #: guides an attack's search for a parameter; never counted


def uniforms(seed: int, index: int, stream: Stream, first: int, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Random numbers of the draws ``first`` … ``first + n - 1`` of one image.

    Returns:
        float64 uniforms (n, d) strictly inside (0, 1), to be mapped to parameters by the laws' quantiles, and
        int64 keys (n,) for :func:`pixel_normals`.
    """
    blocks = d // 4 + 1  # d words and one for the key, in blocks of four
    philox = np.random.Philox(key=_key(seed, index), counter=[first * blocks, int(stream), 0, 0])
    words = philox.random_raw(n * blocks * 4).reshape(n, blocks * 4)
    # 52 bits and half a step: the largest value is 1 - 2^-53, the smallest 2^-53, both exact.
    u = ((words[:, :d] >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return u, words[:, d].view(np.int64).copy()


def coin(seed: int, index: int) -> float:
    """The image's one uniform in (0, 1] for :func:`glsmooth.bounds.confidence.randomised_lower`.

    The upper end of the cell of 2^-52 that :func:`uniforms` halves: P(coin <= t) <= t for every t.
    """
    return float(uniforms(seed, index, Stream.COIN, 0, 1, 1)[0][0, 0]) + 2.0**-53


def _key(seed: int, index: int) -> np.ndarray:
    if not (0 <= seed < 2**_WORD and 0 <= index < 2**_WORD):
        raise UserError(f"seed={seed}, index={index}: both must be integers in [0, 2^64)")
    return np.array([seed, index], dtype=np.uint64)


def pixel_normals(keys: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Standard normal pixel noise (N, C, H, W), float32, made on the device of ``keys`` (N,) from them alone.

    Each pair of pixels hashes (key, position) with the finaliser of SplitMix64 (Steele et al. 2014) to 64
    bits and turns them into two normals by Box and Muller's formula.
    """
    size = math.prod(shape)
    pairs = torch.arange(1, size // 2 + 2, device=keys.device)
    z = keys[:, None] + pairs * -7046029254386353131  # 0x9E3779B97F4A7C15: int64 arithmetic wraps as it should
    z = (z ^ _shift_right(z, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    z = (z ^ _shift_right(z, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    z = z ^ _shift_right(z, 31)
    # 24 and 32 bits: as many as float32 resolves near 1, and enough near 0 for a tail of 6 standard deviations.
    radius = torch.sqrt(-2 * torch.log((_shift_right(z, 32).to(torch.float32) + 0.5) * 2.0**-32))
    angle = (z & 0xFFFFFF).to(torch.float32) * (2 * math.pi * 2.0**-24)
    normals = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return normals[:, :size].reshape(-1, *shape)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical (not arithmetic) right shift of int64."""
    return (z >> bits) & ((1 << (_WORD - bits)) - 1)
