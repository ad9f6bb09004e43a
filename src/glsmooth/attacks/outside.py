"""Attacks that no certificate speaks of: what happens to images between a transformation and a classifier in the world.

Certificates are about φ(x, β) as it is: not clipped, not rounded, shifts cyclic. Files and cameras do other things.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glsmooth.attacks.objective import Change
from glsmooth.transforms import Composition, ResolvableTransform, Translation
from glsmooth.transforms.translation import nearest_integer

__all__ = ["CONDITIONS", "Condition", "conditions_of"]

#: Quality of the JPEG files, Pillow's own default.
QUALITY = 75


@dataclass(frozen=True)
class Condition:
    """Another attack than the one that is certified.

    Attributes:
        name: as records have it.
        title: in words.
        change: what it does.
    """

    name: str
    title: str
    change: Change


#: What each does to the attacker's image, by the name that records have.
CONDITIONS: Mapping[str, str] = {
    "clipped": "clipped to [0, 1]",
    "rounded": "clipped and rounded to 8 bits",
    "jpeg": f"saved as JPEG, quality {QUALITY}",
    "reflected": "shifts with mirrored borders",
    "zeros": "shifts with black borders",
}


def conditions_of(transform: ResolvableTransform, channels: int) -> list[Condition]:
    """Those that mean something for a transformation and images of so many channels.

    Borders are of shifts; JPEG files hold one channel or three.
    """
    found = [
        Condition("clipped", CONDITIONS["clipped"], lambda x, beta: transform.apply(x, beta).clamp(0, 1)),
        Condition("rounded", CONDITIONS["rounded"], lambda x, beta: _rounded(transform.apply(x, beta))),
    ]
    if channels in (1, 3):
        found.append(Condition("jpeg", CONDITIONS["jpeg"], lambda x, beta: _jpeg(transform.apply(x, beta))))
    if any(isinstance(part, Translation) and part.resolvable for part in _parts(transform)):
        mirrored = Translation("reflect")
        found.append(
            Condition("reflected", CONDITIONS["reflected"], lambda x, beta: _shifted(transform, mirrored, x, beta))
        )
        found.append(Condition("zeros", CONDITIONS["zeros"], lambda x, beta: _shifted(transform, None, x, beta)))
    return found


def _parts(transform: ResolvableTransform) -> tuple[ResolvableTransform, ...]:
    return transform.parts if isinstance(transform, Composition) else (transform,)


def _rounded(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255


def _jpeg(images: Tensor) -> Tensor:
    """Each image written to a file in memory, and read again."""
    from PIL import Image

    pixels = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    read = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "JPEG", quality=QUALITY)
        file.seek(0)
        with Image.open(file) as opened:
            read.append(np.asarray(opened).reshape(image.shape))
    again = torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2)
    return (again.to(images.dtype) / 255).to(images.device)


def _shifted(transform: ResolvableTransform, instead: Translation | None, images: Tensor, beta: Tensor) -> Tensor:
    """The transformation with other shifts in the place of cyclic ones: mirrored, or black where there is none."""
    start = 0
    for part in _parts(transform):
        values = beta[:, start : start + len(part.parameters)]
        start += len(part.parameters)
        if not isinstance(part, Translation):
            images = part.apply(images, values)
        elif instead is not None:
            images = instead.apply(images, values)
        else:
            images = part.apply(images, values) * _inside(images, values)
    return images


def _inside(images: Tensor, values: Tensor) -> Tensor:
    """Where a pixel comes from inside the image: (N, 1, H, W) of 0 and 1."""
    shift = nearest_integer(values).to(images.device)
    rows = torch.arange(images.shape[2], device=images.device)[None] - shift[:, 1:]
    columns = torch.arange(images.shape[3], device=images.device)[None] - shift[:, :1]
    row = (rows >= 0) & (rows < images.shape[2])
    column = (columns >= 0) & (columns < images.shape[3])
    return (row[:, None, :, None] & column[:, None, None, :]).to(images.dtype)
