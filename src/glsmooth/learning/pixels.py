"""Pixels: their scale, and what tells one image from another."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

__all__ = ["pixel_digest", "unit"]


def unit(pixels: Tensor) -> Tensor:
    """Pixels as float32 in [0, 1], to the bit the same on every device.

    Args:
        pixels: uint8, int32 with 16 bits, or float32 that are so already.
    """
    if pixels.is_floating_point():
        return pixels
    # Divided by a tensor: a GPU would multiply by the inverse of a number, and round otherwise.
    return pixels.float() / torch.full((), 255.0 if pixels.dtype == torch.uint8 else 65535.0, device=pixels.device)


def pixel_digest(pixels: Tensor, label: int) -> str:
    """SHA-256 of an image in memory and its label."""
    image = pixels.contiguous().numpy()
    return hashlib.sha256(f"{image.dtype} {image.shape} {label}\n".encode() + image.tobytes()).hexdigest()
