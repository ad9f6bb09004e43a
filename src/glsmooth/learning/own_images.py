"""Data sets of a user's own: what a function of theirs makes of each split, checked image by image."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence, Sized
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from glsmooth.configuration.build import accepted, check_arguments, imported
from glsmooth.configuration.fields import RULES, cut, shown
from glsmooth.configuration.untrusted import read_names
from glsmooth.errors import UserError, near_field
from glsmooth.learning.pixels import pixel_digest, unit
from glsmooth.voting.images import as_image, as_label

__all__ = ["CUSTOM", "OwnData", "OwnImages", "check_dataset_fields", "own_arguments"]

log = logging.getLogger(__name__)

#: The name of a data set that a function of the user's own makes.
CUSTOM = "custom"
#: Fields of ``dataset`` that are no arguments of that function. It may take ``root`` and ``download``.
_NOT_ARGUMENTS = {key.partition(".")[2] for key in RULES if key.startswith("dataset.")} - {"root", "download"}


def own_arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the user's function is called with beside ``split``."""
    given = {key: value for key, value in spec.items() if key not in _NOT_ARGUMENTS and value is not None}
    return {key: value for key, value in given.items() if (key, value) != ("download", False)}


def check_dataset_fields(spec: Mapping[str, Any]) -> None:
    """Refuse fields of a ``dataset`` group that its kind of data set does not have.

    Raises:
        UserError: it names an unknown field, or a function beside the name of a data set.
    """
    target = spec.get("_target_")
    if (spec.get("name") == CUSTOM) != (target is not None):
        raise UserError(
            f"dataset.name={spec.get('name')} and dataset._target_={shown(target)}: for images of your own set "
            "dataset=custom dataset._target_=my_module.make_dataset"
        )
    for key in spec if target is None else ():
        name = f"dataset.{key}"
        if name not in RULES:
            known = [field for field in RULES if "*" not in field]
            raise UserError(f"{cut(name)}={shown(spec[key])} is not a field{near_field(name, known)}; leave it out")


class OwnData:
    """The splits that the user's function makes, each when it is asked for.

    Args:
        spec: of :func:`glsmooth.learning.data.load_dataset`: ``_target_``, ``class_names`` or ``num_classes``,
            ``image_size``, and arguments of the function.
        first: the split whose first image says how large all are.

    Raises:
        UserError: no such function, arguments that it does not take, a split that is no data set, classes that nobody
            names, or a first image that is none.
    """

    def __init__(self, spec: Mapping[str, Any], first: str) -> None:
        self.target = str(spec["_target_"])
        self.make = imported(self.target, "dataset._target_")
        self.arguments = own_arguments(spec)
        takes = accepted(self.make) if callable(self.make) else {}
        if takes is not None and "split" not in takes:
            raise UserError(
                f"dataset._target_={self.target} takes no split; name a function or class that does: "
                "def make_dataset(split), with 'train', 'val' or 'test'"
            )
        check_arguments("dataset", self.target, self.make, {"split": first, **self.arguments})
        self._sources: dict[str, Any] = {}
        looked_at = first if self.has(first) else "train"
        self.class_names = self._classes(spec, looked_at)
        image = self.images(looked_at)[0][0]
        self.channels, *size = image.shape
        self.size = (int(size[0]), int(size[1]))
        given = spec.get("image_size")
        if given is not None and tuple(given) != self.size:
            raise UserError(f"image_size={list(given)}: images of {self.target} are {list(self.size)}; leave it out")

    def has(self, split: str) -> bool:
        """Is there such a split? The function says no by None or a ValueError."""
        return self._source(split) is not None

    def images(self, split: str, positions: Sequence[int] | None = None) -> OwnImages:
        """The images of a split, or some of them.

        Raises:
            UserError: it has no such split, or one that is no data set.
        """
        source = self._source(split)
        if source is None:
            raise UserError(
                f"dataset._target_={self.target} has no split {split!r}, which this command needs; return one"
            )
        return OwnImages(source, f"dataset._target_={self.target}: {split}", len(self.class_names), positions)

    def _source(self, split: str) -> Any:
        if split not in self._sources:
            try:
                source = self.make(split=split, **self.arguments)
            except ValueError as error:
                if isinstance(error, UserError):
                    raise
                source = None
                log.info("dataset._target_=%s has no split %r (%s)", self.target, split, error)
            if source is not None and not (hasattr(source, "__getitem__") and isinstance(source, Sized)):
                raise UserError(
                    f"dataset._target_={self.target} makes a {type(source).__name__} of split={split!r}; return a data "
                    "set with a length and (image, label) items"
                )
            if source is not None and not len(source):
                raise UserError(f"dataset._target_={self.target}: its split {split!r} holds no image; return some")
            self._sources[split] = source
        return self._sources[split]

    def _classes(self, spec: Mapping[str, Any], split: str) -> tuple[str, ...]:
        given, number = spec.get("class_names"), spec.get("num_classes")
        names = read_names(given) if isinstance(given, str) else given
        if names is None:
            names = getattr(self._source(split), "classes", None)
        if names is None and number is not None:
            names = range(number)
        if names is None:
            raise UserError(
                f"dataset.num_classes is missing: what {self.target} makes has no .classes; set "
                "dataset.num_classes=10, or 'dataset.class_names=[cat,dog]'"
            )
        classes = tuple(map(str, names))
        if number not in (None, len(classes)):
            raise UserError(f"dataset.num_classes={number}: {self.target} has {len(classes)} classes; leave it out")
        if len(classes) < 2 or len(set(classes)) < len(classes):
            raise UserError(f"dataset.class_names={shown(list(classes))}: give two or more different names")
        return classes


class OwnImages(Dataset[Any]):
    """Images of a user's own data set, read and checked one by one.

    Args:
        source: (image, label) items: an image is a PIL image or a uint8 array (H, W) or (H, W, C) or tensor
            (C, H, W), or floats (C, H, W) in [0, 1]; of 1 or 3 channels, all of one size and kind.
        name: what to call it; ``name[7]`` is the image at 7.
        num_classes: of its labels.
        positions: those of its items that count, in their order; None: all.

    Raises:
        UserError: now, if the first image is none, or not the same when it is read again; later, if another is none.
    """

    def __init__(self, source: Any, name: str, num_classes: int, positions: Sequence[int] | None = None) -> None:
        self.source, self.name, self.num_classes = source, name, num_classes
        self.positions = list(range(len(source))) if positions is None else [int(i) for i in positions]
        first, label = self._read(0)
        self.dtype, self.shape = first.dtype, first.shape
        if self.digest(0) != pixel_digest(first, label):
            raise UserError(
                f"{self._called(0)} is another image each time that it is read; leave random changes out: training has "
                "dataset.flip and dataset.crop_padding, and the smoothing"
            )

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int | list[int]) -> tuple[Any, Any, Any]:
        """(image float32 in [0, 1], label, index); for a list of positions a batch of each."""
        if isinstance(index, list):
            images, labels = zip(*map(self.read, index), strict=True)
            return unit(torch.stack(images)), torch.tensor(labels), torch.tensor(index)
        image, label = self.read(index)
        return unit(image), label, index

    def raw(self, index: list[int]) -> Tensor:
        """Unscaled pixels of some images, `N x C x H x W`: uint8 or float32."""
        return torch.stack([self.read(i)[0] for i in index])

    def read(self, index: int) -> tuple[Tensor, int]:
        """One image `C x H x W`, uint8 or float32, and its label.

        Raises:
            UserError: it is none, or not like the first.
        """
        image, label = self._read(index)
        if image.shape != self.shape or image.dtype != self.dtype:
            words = (f"{tuple(one.shape)} {one.dtype}" for one in (image, self))
            raise UserError(
                f"{self._called(index)} is {next(words)}, the first one {next(words)}; give all in one size and kind"
            )
        return image, label

    def everything(self) -> tuple[Tensor, Tensor]:
        """All images `N x C x H x W`, and their labels."""
        images, labels = torch.empty(len(self), *self.shape, dtype=self.dtype), []
        for i in self._progress("Reading images"):
            images[i], label = self.read(i)
            labels.append(label)
        return images, torch.tensor(labels)

    @cached_property
    def labels(self) -> Tensor:
        """The labels: ``targets`` of the user's data set, if it has some, else of the images, which are read for it."""
        targets = getattr(self.source, "targets", None)
        if isinstance(targets, Sized) and len(targets) == len(self.source):
            values: Any = targets
            return torch.tensor([self._label(values[position], i) for i, position in enumerate(self.positions)])
        return torch.tensor([self.read(i)[1] for i in self._progress("Reading labels")])

    def names(self) -> list[str]:
        """What a message calls each image."""
        return [f"image {i}" for i in range(len(self))]

    def digest(self, index: int) -> str:
        """SHA-256 of pixels and label."""
        return pixel_digest(*self.read(index))

    def _called(self, index: int) -> str:
        return f"{self.name}[{self.positions[index]}]"

    def _read(self, index: int) -> tuple[Tensor, int]:
        item, name = self.source[self.positions[index]], self._called(index)
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise UserError(f"{name} is a {type(item).__name__}; give (image, label) items")
        return _pixels(item[0], name), self._label(item[1], index)

    def _label(self, label: Any, index: int) -> int:
        fix = f"give labels from 0 to {self.num_classes - 1}, or other classes (dataset.num_classes)"
        return as_label(label, self._called(index), self.num_classes, fix)

    def _progress(self, what: str) -> Iterator[int]:
        from tqdm import tqdm

        yield from tqdm(range(len(self)), desc=what, unit="image", delay=2, leave=False)


def _pixels(image: Any, name: str) -> Tensor:
    """One image of anybody's, `C x H x W`: uint8 as it is, or float32 in [0, 1].

    Raises:
        UserError: it is none.
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        if image.mode not in ("L", "RGB"):
            raise UserError(f"{name} is a PIL image of mode {image.mode}; give image.convert('RGB'), or 'L'")
        image = np.array(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        image = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1)))
    if not (isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3):
        image = as_image(image, name).to("cpu", torch.float32)
    if image.shape[0] not in (1, 3) or 0 in image.shape:
        raise UserError(f"{name} has shape {tuple(image.shape)}; give (C, H, W) with 1 or 3 channels")
    return image.cpu()  # type: ignore[no-any-return]
