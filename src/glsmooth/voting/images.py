"""Images as users hold them, numpy arrays, tensors or loaders of either, as the tensors that votes are taken of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from glsmooth.errors import UserError

__all__ = ["as_image", "as_label", "check_image", "gather"]

#: Numbers of channels that are common: an array that ends with one, and does not begin with one, is (H, W, C).
_LAST, _FIRST = (1, 3, 4), (1, 2, 3, 4)


def as_image(image: Any, name: str) -> Tensor:
    """One image (C, H, W), an array or a tensor on any device, as a tensor.

    Raises:
        UserError: it is something else, or its pixels are not floats in [0, 1]; ``name`` opens the message.
    """
    tensor = _as_tensor(image, name)
    check_image(tensor, name, numpy=isinstance(image, np.ndarray))
    return tensor


def as_label(label: Any, name: str, num_classes: int, fix: str) -> int:
    """A label, a whole number of whatever kind, as Python's.

    Args:
        name, fix: begin and end the message where it is none of ``num_classes``.

    Raises:
        UserError: it is none.
    """
    if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
        label = label.item()
    if isinstance(label, np.integer):
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, int):
        raise UserError(f"{name}: its label {label!r} is no class; give its number, 0 to {num_classes - 1}")
    if not 0 <= label < num_classes:
        raise UserError(f"{name}: its label {label} is not one of the {num_classes} classes; {fix}")
    return label


def check_image(image: Tensor, name: str, numpy: bool = False, batch: bool = False) -> None:
    """Raise a UserError unless ``image`` is a finite floating (C, H, W) tensor with values in [0, 1].

    Args:
        name: what to call it.
        numpy, batch: whether the user holds an array, and a batch: so the fix is spelled.
    """
    if not isinstance(image, Tensor):
        raise UserError(f"{name} is a {type(image).__name__}; give a torch.Tensor of shape (C, H, W)")
    if image.ndim != 3 or 0 in image.shape:
        grey = ", x[None] of a grey (H, W)" if image.ndim == 2 else ""
        raise UserError(
            f"{name} has shape {tuple(image.shape)}; give one image of shape (C, H, W){grey}, or use certify_many for "
            "a batch"
        )
    if image.shape[-1] in _LAST and image.shape[0] not in _FIRST:
        axes = "0, 3, 1, 2" if batch else "2, 0, 1"
        raise UserError(
            f"{name} has shape {tuple(image.shape)}, which looks like (H, W, C); give (C, H, W): "
            f"x.{'transpose' if numpy else 'permute'}({axes})"
        )
    _check_dtype(image, name)
    if not bool(torch.isfinite(image).all()):
        raise UserError(f"{name} has non-finite pixels; replace NaN and infinity before certifying")
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        # Beyond 2 no colour is a rounding error, or normalised: these are the numbers of files.
        fix = f": x / {255 if high <= 255 else 65535}" if low >= 0 and high > 2 else ""
        raise UserError(
            f"{name} has values in [{low:g}, {high:g}]; give pixels in [0, 1]"
            f"{fix or ' and keep normalisation inside the model'}"
        )


def gather(images: Any) -> list[Tensor]:
    """All images of a batch (B, C, H, W), or of a data set, loader or other iterable, in their order.

    Items of an iterable are images (C, H, W) or batches of them, or tuples (and lists) that begin with one; what else
    these hold are labels, and is left alone.

    Raises:
        UserError: the first that is no image like the others, called ``images[i]``.
    """
    found: list[Tensor] = []
    for item in _items(images):
        name = f"images[{len(found)}]"
        if isinstance(item, (tuple, list)) and item:
            item, *labels = item
            _check_labels(labels, name)
        if not isinstance(item, (Tensor, np.ndarray)):
            raise UserError(
                f"{name} is a {type(item).__name__}; give images (C, H, W), batches (B, C, H, W), or tuples (images, "
                "labels), as arrays or tensors"
            )
        tensor, batch, numpy = _as_tensor(item, name), item.ndim == 4, isinstance(item, np.ndarray)
        if batch and not len(tensor):
            raise UserError(f"{name} is a batch of shape {tuple(item.shape)}, which holds no image; leave it out")
        for image in tensor if batch else (tensor,):
            name = f"images[{len(found)}]"
            check_image(image, name, numpy=numpy, batch=batch)
            if found and image.shape != found[0].shape:
                raise UserError(
                    f"{name} has shape {tuple(image.shape)}, those before it {tuple(found[0].shape)}; resize all "
                    "images to one size"
                )
            found.append(image)
    return found


def _items(images: Any) -> Iterator[Any]:
    if isinstance(images, (Tensor, np.ndarray)):
        shape = tuple(images.shape)
        if images.ndim != 4:
            one = ": x[None] of one image, or certify" if images.ndim == 3 else ""
            raise UserError(f"images has shape {shape}; give a batch of shape (B, C, H, W){one}")
        if not len(images):
            raise UserError(f"images has shape {shape}: it holds no image; give at least one")
        return iter((images,))
    if isinstance(images, Dataset) and hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        return (images[i] for i in range(len(images)))  # many raise no IndexError at their end
    if isinstance(images, (str, bytes, Mapping)) or not isinstance(images, Iterable):
        raise UserError(
            f"images is a {type(images).__name__}; give a batch (B, C, H, W), a data set, a loader, or an iterable of "
            "images"
        )
    return iter(images)


def _check_labels(labels: list[Any], name: str) -> None:
    """Refuse a list of images where (images, labels) is meant: all but the first would be left out."""
    for label in labels:
        if isinstance(label, (Tensor, np.ndarray)) and label.ndim > 2:
            raise UserError(
                f"{name}: where labels belong, in (images, labels), is something of shape {tuple(label.shape)}; "
                "give a batch of images as one tensor (torch.stack)"
            )


def _as_tensor(image: Any, name: str) -> Tensor:
    """An array or tensor of floats as a tensor that shares its memory where torch can."""
    if isinstance(image, np.ndarray):
        _check_dtype(image, name)
        plain = image.dtype.isnative and image.dtype.itemsize <= 8 and image.flags.writeable
        if not plain or any(stride < 0 for stride in image.strides):
            kind = np.dtype(f"f{min(image.dtype.itemsize, 8)}")  # in this machine's order of bytes
            image = np.array(image, dtype=kind, order="C")
        return torch.from_numpy(image)
    if not isinstance(image, Tensor):
        raise UserError(f"{name} is a {type(image).__name__}; give a torch.Tensor of shape (C, H, W), or a numpy array")
    if image.is_meta:
        raise UserError(f"{name} lies on meta, without values; give one that has pixels")
    if image.layout != torch.strided:
        raise UserError(f"{name} is a sparse tensor; give a dense one: x.to_dense()")
    _check_dtype(image, name)
    return image.detach()


def _check_dtype(image: Any, name: str) -> None:
    numpy = isinstance(image, np.ndarray)
    kind = image.dtype.kind if numpy else ("f" if image.is_floating_point() else "c" if image.is_complex() else "i")
    if kind == "f":
        return
    floats = "x.astype('float32')" if numpy else "x.float()"
    if kind == "c":
        fix = "give the real pixels, in [0, 1]"
    elif image.dtype in (torch.bool, np.dtype(bool)):
        fix = f"convert it to floats in [0, 1]: {floats}"
    elif kind in "iu":
        fix = f"convert it to floats in [0, 1]: {floats} / 255"
    else:
        fix = "convert it to floats in [0, 1]"
    raise UserError(f"{name} has dtype {image.dtype}; {fix}")
