"""Datasets: images in [0, 1], a label and a position, split into train, val and test.

Small images are decoded once and kept as one tensor; a batch is then an indexing operation. Large folders are decoded
as they are read. Both kinds take a position or a list of positions, for one loader.

Pixels are uint8 in 0 … 255, or int32 in 0 … 65535 where a file has 16 bits; either is scaled to [0, 1]: here for
certification, image by image, and on the device for training (:func:`pixel_batches`,
:func:`glsmooth.learning.pixels.unit`). Those of a user's own data set may be float32 in [0, 1] already.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from glsmooth.configuration.fields import cut, shown
from glsmooth.configuration.untrusted import limits, open_file, read_names
from glsmooth.errors import UserError, did_you_mean, visible
from glsmooth.learning.own_images import CUSTOM, OwnData, OwnImages, check_dataset_fields
from glsmooth.learning.pixels import pixel_digest, unit
from glsmooth.runs.summary import DEFAULT_SIZES, IMAGE_SIZES, SPLIT_IMAGES

# Mean and standard deviation of each channel.
_IMAGENET_COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_STATS = {
    "digits": ((0.3053,), (0.3236,)),
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "image_folder": _IMAGENET_COLOURS,
    "imagenet": _IMAGENET_COLOURS,
}
NAMES = (*_STATS, CUSTOM)

#: Pixels of one image, height times width, that a network can be asked to take.
LARGEST_IMAGE = 2048**2
_LARGEST_DIGIT = 512**2  # of all 1,797 in memory

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
# What is decoded, whatever a file's name says: others may run a program (EPS), or are read as they please.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_BYTES_A_PIXEL = 4  # of a file; the largest images have fewer, those without compression are smaller than the limit
_MNIST_BYTES = 100 * 10**6  # twice the largest of its files
_MEMORY_LIMIT = 2**30  # bytes of decoded pixels up to which a folder is kept in memory

Split = Callable[[], Dataset[Any]]


class TensorImages(Dataset[Any]):
    """Images in memory.

    Args:
        images: uint8, int32 with 16 bits, or float32 in [0, 1], `N x C x H x W`.
        labels: `N` class numbers.
        files: the files that they were decoded from, if any.
    """

    def __init__(self, images: Tensor, labels: Tensor, files: FolderImages | None = None) -> None:
        self.images, self.labels, self.files = images, labels, files

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | list[int]) -> tuple[Any, Any, Any]:
        """(image float32 in [0, 1], label, index); for a list of positions a batch of each."""
        images = unit(self.images[index])
        if isinstance(index, list):
            return images, self.labels[index], torch.tensor(index)
        return images, int(self.labels[index]), index

    def raw(self, index: list[int]) -> Tensor:
        """Unscaled pixels of some images: `N x C x H x W` as they are held."""
        return self.images[index]

    def names(self) -> list[str]:
        """What a message calls each image."""
        return self.files.names() if self.files is not None else [f"image {i}" for i in range(len(self))]

    def digest(self, index: int) -> str:
        """SHA-256 of the image's file, or where there is none of its pixels and label."""
        if self.files is not None:
            return self.files.digest(index)
        return pixel_digest(self.images[index], int(self.labels[index]))


class FolderImages(Dataset[Any]):
    """Image files, decoded when read: resized to cover ``resize``, then the centre of ``size``.

    Args:
        paths: one file an image.
        labels: `N` class numbers.
        size: (height, width) of what is returned.
        resize: (height, width) that the resized image must cover before its centre is cut out.
        channels: 3 for colour, 1 for grey.
        root: folder from which the images are named.

    Files are refused beyond the limits (:class:`glsmooth.configuration.untrusted.Limits`) that hold when this is made.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Tensor,
        size: tuple[int, int],
        resize: tuple[int, int],
        channels: int = 3,
        root: Path | None = None,
    ) -> None:
        self.paths, self.labels, self.size, self.resize, self.channels = paths, labels, size, resize, channels
        self.root = root
        self.pixels = limits().pixels  # in processes that load images, too

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | list[int]) -> tuple[Any, Any, Any]:
        """(image float32 in [0, 1], label, index); for a list of positions a batch of each."""
        if isinstance(index, list):
            return unit(self.raw(index)), self.labels[index], torch.tensor(index)
        return unit(self.decode(index)), int(self.labels[index]), index

    def raw(self, index: list[int]) -> Tensor:
        """Unscaled pixels of some images, `N x C x H x W`: uint8, or all int32 where one of them has 16 bits."""
        images = [self.decode(i) for i in index]
        wide = any(image.dtype != torch.uint8 for image in images)
        return torch.stack([_widened(image) for image in images] if wide else images)

    def decode(self, index: int) -> Tensor:
        """One image, `C x H x W`: uint8, or int32 in 0 … 65535 where its file has 16 bits.

        Raises:
            UserError: a file that is no image, one that is too large, or whose pixels have no certain meaning.
        """
        from PIL import Image, UnidentifiedImageError

        path = self.paths[index]
        try:
            with open_file(path) as stream, _no_limit_of_pil():
                if os.fstat(stream.fileno()).st_size > _BYTES_A_PIXEL * self.pixels:
                    # Some decoders read all of it, which may be a hole.
                    raise ValueError(f"it is larger than an image of limits.pixels={self.pixels} can be")
                with Image.open(stream, formats=_FORMATS) as file:
                    _check_tiff(file, self.pixels)
                    shape = self._resized(path, file.width, file.height)
                    image = _pixels(file, "RGB" if self.channels == 3 else "L")
        except UserError:
            raise
        except (OSError, ValueError, SyntaxError, *_DAMAGED) as error:
            unknown = isinstance(error, UnidentifiedImageError)
            reason = f"none of {', '.join(_FORMATS)}" if unknown else getattr(error, "strerror", None) or error
            raise UserError(f"root: {path} is not a readable image ({reason}); repair or remove it") from error
        if shape != (image.width, image.height):
            image = image.resize(shape, Image.Resampling.BILINEAR)
        rows, columns = self.size
        left, top = (image.width - columns) // 2, (image.height - rows) // 2
        image = image.crop((left, top, left + columns, top + rows))
        pixels = torch.from_numpy(np.array(image)).view(rows, columns, -1).permute(2, 0, 1)
        return pixels.expand(self.channels, -1, -1)  # 16 bits are grey

    def _resized(self, path: Path, width: int, height: int) -> tuple[int, int]:
        """(width, height) to which an image of this size is resized, so that it covers ``resize``.

        Raises:
            UserError: before or after it has more pixels than the limit.
        """
        scale = max(self.resize[0] / height, self.resize[1] / width)
        shape = width, height
        if scale != 1:
            shape = max(self.resize[1], round(width * scale)), max(self.resize[0], round(height * scale))
        for (columns, rows), what in (((width, height), "has"), (shape, "resized would have")):
            if columns * rows > self.pixels:
                raise UserError(
                    f"root: {path} {what} {columns}x{rows} pixels, more than limits.pixels={self.pixels}; raise that "
                    "if you trust it, or remove it"
                )
        return shape

    def names(self) -> list[str]:
        """Each file's path from the root: the same on every machine."""
        return [(path.relative_to(self.root) if self.root is not None else path).as_posix() for path in self.paths]

    def digest(self, index: int) -> str:
        """SHA-256 of the bytes of the image's file.

        Raises:
            UserError: it cannot be read.
        """
        try:
            with open_file(self.paths[index]) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"root: {self.paths[index]} cannot be read ({error.strerror}); restore it") from error

    def in_memory(self) -> Dataset[Any]:
        """All images decoded now; as they are read, still, where 16 bits make them too large."""
        from tqdm import tqdm

        images = torch.empty(len(self), self.channels, *self.size, dtype=torch.uint8)
        for i in tqdm(range(len(self)), desc="Decoding images", unit="image", delay=2, leave=False):
            pixels = self.decode(i)
            if images.dtype == torch.uint8 and pixels.dtype != torch.uint8:
                if 4 * images.numel() > _MEMORY_LIMIT:
                    return self
                images = _widened(images)
            images[i] = pixels if pixels.dtype == images.dtype else _widened(pixels)
        return TensorImages(images, self.labels, self)


@contextmanager
def _no_limit_of_pil() -> Iterator[None]:
    """Have PIL accept any size: ours is checked, and it can be raised."""
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


# Errors of PIL's decoders for damaged files that are neither OSError nor ValueError nor SyntaxError.
_DAMAGED = (EOFError, IndexError, KeyError, OverflowError, TypeError, struct.error, zlib.error, ZeroDivisionError)


def _widened(pixels: Tensor) -> Tensor:
    """Pixels of 8 or 16 bits as those of 16: 255 becomes 65535, exactly."""
    return pixels if pixels.dtype == torch.int32 else pixels.to(torch.int32) * 257


# Modes of PIL whose conversion to RGB or grey is certain; 16 bits and what may be transparent have rules of their own.
_PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


def _check_tiff(image: Any, pixels: int) -> None:
    """Refuse a TIFF of which a tile is larger than an image may be, or whose 16 bits are not from black to white."""
    if image.format != "TIFF":
        return
    tags = image.tag_v2
    width, height, bits, meaning = (tags.get(number) for number in (322, 323, 258, 262))
    if width and height and width * height > pixels:
        raise ValueError(f"its tiles have {width}x{height} pixels, more than limits.pixels={pixels}")
    if image.mode.startswith("I;16") and (bits != (16,) or meaning != 1):
        raise ValueError("its pixels are not of 16 bits from black to white: save it with 8 or 16 bits a channel")


def _pixels(image: Any, mode: str) -> Any:
    """The image in ``mode`` (RGB or L), or as 32-bit whole numbers in 0 … 65535 (mode I) where it has 16 bits."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        if image.format == "TIFF" and image.mode == "I":  # elsewhere (PNG, PGM) I is another name of 16 bits
            raise ValueError("32-bit pixels have no certain range: save it with 8 or 16 bits a channel")
        if "transparency" in image.info:
            raise ValueError("it has 16 bits and a transparent value: save it without transparency")
        return image.convert("I")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        if image.convert("RGBA").getextrema()[3][0] < 255:
            raise ValueError("it is transparent in places: put it on a background and save it without transparency")
        image = image.convert("RGBA")
    elif image.mode not in _PLAIN_MODES:
        raise ValueError(f"pixels of mode {image.mode} have no certain range: save it with 8 or 16 bits a channel")
    return image.convert(mode)


class Batches(Sampler[list[int]]):
    """Lists of positions for a loader: in order, or shuffled by (seed, epoch), which a resumed run repeats.

    With several processes each takes every ``world_size``-th position. When shuffled, up to ``world_size`` - 1 images
    sit an epoch out, so that all processes make equally many steps.
    """

    def __init__(
        self, size: int, batch_size: int, shuffle_seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> None:
        self.size, self.batch_size, self.shuffle_seed = size, batch_size, shuffle_seed
        self.rank, self.world_size, self.epoch = rank, world_size, 0
        self.begun = (-1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def resume(self, epoch: int, done: int) -> None:
        """Go on in an epoch of which ``done`` batches were seen before; its length stays."""
        self.epoch, self.begun = epoch, (epoch, done)

    def positions(self) -> Tensor:
        """The positions of the epoch for this process, in their order, but for those that were seen before."""
        epoch, done = self.begun
        return self._all()[done * self.batch_size if epoch == self.epoch else 0 :]

    def _all(self) -> Tensor:
        if self.shuffle_seed is None:
            return torch.arange(self.size)[self.rank :: self.world_size]
        generator = torch.Generator().manual_seed(self.shuffle_seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator)
        return order[: self.size - self.size % self.world_size][self.rank :: self.world_size]

    def __iter__(self) -> Iterator[list[int]]:
        positions = self.positions().tolist()
        return (positions[i : i + self.batch_size] for i in range(0, len(positions), self.batch_size))

    def __len__(self) -> int:
        return -(-len(self._all()) // self.batch_size)


def loader(dataset: Dataset[Any], batches: Batches, num_workers: int = 0, pin_memory: bool = False) -> DataLoader[Any]:
    """A loader of ready-made batches, as ``dataset`` returns them for a list of positions."""
    return DataLoader(
        dataset,
        sampler=batches,
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
    )


class _Pixels(Dataset[Any]):
    """Unscaled pixels and labels of lists of positions."""

    def __init__(self, images: TensorImages | FolderImages | OwnImages) -> None:
        self.images = images

    def __getitem__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        return self.images.raw(index), self.images.labels[index]


class ResidentBatches:
    """Batches of images that lie on the device: gathered there, by positions that are sent once an epoch.

    Args:
        images: copied to ``device`` unless they are there.
        sampler: the batches; Lightning, which knows it by this name, tells it the epoch.
        device: of the batches.
    """

    def __init__(self, images: TensorImages, sampler: Batches, device: torch.device) -> None:
        self.images, self.labels = images.images.to(device), images.labels.to(device)
        self.sampler, self.batch_sampler = sampler, None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        positions = self.sampler.positions().to(self.images.device)
        for index in positions.split(self.sampler.batch_size):
            yield self.images[index], self.labels[index]


#: Share of a GPU's free memory that images may take.
_RESIDENT_SHARE = 0.25


def pixel_batches(
    dataset: Dataset[Any], batches: Batches, num_workers: int, device: torch.device
) -> ResidentBatches | DataLoader[Any]:
    """Batches of (unscaled pixels `N x C x H x W`, labels `N`) for :func:`glsmooth.learning.pixels.unit` on ``device``.

    Images in memory lie on the device where they fit, and are gathered there; others come from ``num_workers``
    processes.
    """
    assert isinstance(dataset, TensorImages | FolderImages | OwnImages)
    if isinstance(dataset, TensorImages) and _fits(dataset.images, device):
        return ResidentBatches(dataset, batches, device)
    return loader(_Pixels(dataset), batches, num_workers, pin_memory=device.type == "cuda")


def _fits(images: Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return device.type == "cpu"
    return images.nbytes <= _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]


@dataclass
class Data:
    """A dataset: what its images are, and its three splits, each loaded when first asked for.

    Items are (image float32 in [0, 1] `C x H x W`, label, index); ``index`` is the position in the whole split.
    ``mean`` and ``std`` are per channel, for the model's normalisation layer.
    """

    name: str
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: dict[str, Split] = field(repr=False)
    crop_padding: int = 0
    flip: bool = False
    num_workers: int = 0

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return len(self.mean)

    @cached_property
    def train(self) -> Dataset[Any]:
        return self.splits["train"]()

    @cached_property
    def val(self) -> Dataset[Any]:
        return self.splits["val"]()

    @cached_property
    def test(self) -> Dataset[Any]:
        return self.splits["test"]()

    def to_certify(self, split: str) -> Dataset[Any]:
        """The images of ``train``, ``val`` or ``test`` as they are certified: those of training, too, in their size."""
        if split == "train" and "train_centres" in self.splits:
            return self.splits["train_centres"]()
        images: Dataset[Any] = getattr(self, split)
        return images

    def augment(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The standard training augmentation, batched on the images' device, of pixels before or after scaling.

        Zero padding by ``crop_padding``, a random crop to ``image_size``, and with ``flip`` a mirror image
        half of the time.
        """
        height, width = self.image_size
        images = F.pad(images, (self.crop_padding,) * 4)
        n, channels, padded_height, padded_width = images.shape

        def draw(high: int) -> Tensor:
            return torch.randint(high, (n, 1), generator=generator, device=images.device)

        rows = draw(padded_height - height + 1) + torch.arange(height, device=images.device)
        columns = draw(padded_width - width + 1) + torch.arange(width, device=images.device)
        if self.flip:
            columns = torch.where(draw(2) == 1, columns.flip(1), columns)
        index = (rows[:, :, None] * padded_width + columns[:, None, :]).view(n, 1, height * width)
        index = index.expand(n, channels, height * width)
        return images.flatten(2).gather(2, index).view(n, channels, height, width)


def certification_images(
    data: Data,
    subset: int | None = None,
    seed: int = 0,
    split: str = "test",
    skip: int = 0,
    every: int = 1,
) -> Dataset[Any]:
    """The images to certify, in the order of their split.

    Args:
        data: the dataset.
        subset: a random subset of so many of the images that the others leave; None: all of them.
        seed: which subset.
        split: ``train``, ``val`` or ``test``.
        skip: images left out at the beginning.
        every: every so manieth of the rest.

    Raises:
        UserError: no or not so many images are there.
    """
    images = data.to_certify(split)
    size = len(images)  # type: ignore[arg-type]
    if skip >= size:
        raise UserError(f"skip={skip}: {data.name} has {size} {SPLIT_IMAGES[split]}; give 0 to {size - 1}")
    chosen = np.arange(skip, size, every)
    if subset is not None:
        if not 1 <= subset <= len(chosen):
            left = "" if len(chosen) == size else f", of which skip={skip} and every={every} leave {len(chosen)}"
            raise UserError(
                f"subset={subset}: {data.name} has {size} {SPLIT_IMAGES[split]}{left}; give 1 to {len(chosen)}, or "
                "none (null) for all"
            )
        chosen = chosen[np.sort(np.random.default_rng(seed).choice(len(chosen), subset, replace=False))]
    return images if len(chosen) == size else Subset(images, chosen.tolist())


def images_asked(data: Data, spec: Mapping[str, Any]) -> Dataset[Any]:
    """:func:`certification_images` as the fields of a dataset's configuration say."""
    return certification_images(
        data,
        spec.get("subset"),
        spec.get("subset_seed") or 0,
        spec.get("split") or "test",
        spec.get("skip") or 0,
        spec.get("every") or 1,
    )


def share(images: Dataset[Any], number: int, shares: int) -> Dataset[Any]:
    """Every ``shares``-th of the images from :func:`certification_images`, from the one of that number on.

    Raises:
        UserError: there are fewer images than shares.
    """
    held = positions(images)
    if shares > len(held):
        raise UserError(f"shard={number}/{shares}: there are {len(held)} images; split them into {len(held)} at most")
    whole = images.dataset if isinstance(images, Subset) else images
    return Subset(whole, held[number::shares])


def positions(images: Dataset[Any]) -> list[int]:
    """The position in its split of each image from :func:`certification_images`, in their order."""
    return list(images.indices) if isinstance(images, Subset) else list(range(len(images)))  # type: ignore[arg-type]


def digests(images: Dataset[Any]) -> tuple[list[str], dict[int, str]]:
    """What tells these images from others, wherever they lie: of those from :func:`certification_images`.

    Returns:
        The names of all images of the split in their order, and of the images given index -> SHA-256 of the file, or
        of pixels and label where the data set is not a folder of images.

    Raises:
        UserError: a file cannot be read.
    """
    from tqdm import tqdm

    whole = images.dataset if isinstance(images, Subset) else images
    assert isinstance(whole, TensorImages | FolderImages | OwnImages)
    bar = tqdm(positions(images), desc="Comparing images", unit="image", delay=2, leave=False)
    return whole.names(), {index: whole.digest(index) for index in bar}


def load_dataset(spec: Mapping[str, Any], in_memory: bool = True, first: str = "test") -> Data:
    """The dataset that ``spec`` describes; images are read when a split is first used.

    Args:
        spec: ``name`` (one of :data:`NAMES`) and, where they apply, ``root`` (folder), ``download``,
            ``image_size`` ([height, width]; digits and image_folder), ``val_fraction`` and ``test_fraction``
            (held out of each class, chosen by ``split_seed``), ``crop_padding`` and ``flip`` (augmentation),
            ``num_workers`` (decoding processes), ``class_names`` (the order of the classes of a folder: a file with
            one name a line, or a list; alphabetical without); of a data set of the user's own what
            :class:`glsmooth.learning.own_images.OwnData` takes.
        first: of a data set of the user's own, the split that is looked at where ``spec`` names none.
        in_memory: decode all images of a folder at once if they fit; False for a few of them.

    Raises:
        UserError: an unknown name, a missing or empty root, an impossible fraction or size.
    """
    name, order = spec.get("name"), spec.get("class_names")
    check_dataset_fields(spec)
    if name == CUSTOM:
        return _own(spec, in_memory, spec.get("split") or first)
    if order is not None and name not in ("image_folder", "imagenet"):
        raise UserError(f"class_names={shown(order)}: the classes of {name} have their order; leave it out")
    if name not in _STATS:
        raise UserError(f"name={name!r} is not a dataset{did_you_mean(str(name), NAMES)}")
    size = _image_size(name, spec.get("image_size"))
    mean, std = _STATS[name]
    if spec.get("download") and name not in ("mnist", "cifar10", "cifar100"):
        raise UserError(f"download=true: {name} cannot be downloaded; use download=false")
    if name == "digits":
        class_names, splits = _digits(spec, size)
    elif name in ("image_folder", "imagenet"):
        class_names, splits = _folders(spec, _root(spec), size, len(mean), in_memory)
    else:
        root = _root(spec)
        folders = (root / "train").is_dir() or (root / "test").is_dir()
        class_names, splits = _folders(spec, root, size, len(mean), in_memory) if folders else _torchvision(spec, root)
    return Data(
        name,
        tuple(map(visible, class_names)),  # a folder may be called anything; checkpoints and tables hold text
        size,
        mean,
        std,
        splits,
        crop_padding=spec.get("crop_padding") or 0,
        flip=bool(spec.get("flip")),
        num_workers=spec.get("num_workers") or 0,
    )


def _own(spec: Mapping[str, Any], in_memory: bool, first: str) -> Data:
    """What a function of the user's makes; validation images that it lacks are held out of the training images."""
    own = OwnData(spec, first)

    def images(split: str, part: int | None = None) -> Dataset[Any]:
        found = own.images(split)
        if part is not None:
            held = _held_out(found.labels.numpy(), "val_fraction", spec, 0.1)
            found = own.images(split, held[part])
        if in_memory and len(found) * found.shape.numel() * found.dtype.itemsize <= _MEMORY_LIMIT:
            return TensorImages(*found.everything())
        return found

    def training(part: int) -> Dataset[Any]:
        if own.has("val"):
            return images(("train", "val")[part])
        return images("train", part)

    return Data(
        CUSTOM,
        tuple(map(visible, own.class_names)),
        own.size,
        # Nobody knows theirs; half and a quarter are about those of most.
        (0.5,) * own.channels,
        (0.25,) * own.channels,
        {"train": partial(training, 0), "val": partial(training, 1), "test": partial(images, "test")},
        crop_padding=spec.get("crop_padding") or 0,
        flip=bool(spec.get("flip")),
        num_workers=spec.get("num_workers") or 0,
    )


def _image_size(name: str, given: Sequence[int] | None) -> tuple[int, int]:
    default = IMAGE_SIZES.get(name) or DEFAULT_SIZES[name]
    if given is None:
        return default
    size = tuple(given)
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"image_size={list(size)}: use [height, width], both at least 1")
    most = _LARGEST_DIGIT if name == "digits" else LARGEST_IMAGE
    if size[0] * size[1] > most:
        raise UserError(f"image_size={list(size)}: images of {name} may have {most} pixels at most; use a smaller size")
    if size != default and name in IMAGE_SIZES:
        raise UserError(f"image_size={list(size)}: images of {name} are {list(default)}; leave it out")
    return size[0], size[1]


def _root(spec: Mapping[str, Any]) -> Path:
    if spec.get("root") is None:
        raise UserError(f"root is not set: give the folder of {spec['name']}, e.g. root=data")
    root = Path(spec["root"]).expanduser()
    if not root.is_dir() and not spec.get("download"):
        raise UserError(f"root={root}: no such folder; give the folder of {spec['name']}")
    return root


def _held_out(labels: np.ndarray, field: str, spec: Mapping[str, Any], default: float) -> tuple[Any, Any]:
    """Sorted positions (kept, held out); held out is the fraction ``spec[field]`` of each class."""
    fraction = default if spec.get(field) is None else spec[field]
    if not 0 < fraction < 1:
        raise UserError(f"{field}={fraction}: must lie strictly between 0 and 1, e.g. {default}")
    rng = np.random.default_rng(spec.get("split_seed") or 0)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held[members[: round(fraction * len(members))]] = True
    if held.all() or not held.any():
        raise UserError(f"{field}={fraction}: leaves a part without images ({len(labels)} in all)")
    return np.flatnonzero(~held), np.flatnonzero(held)


def _digits(spec: Mapping[str, Any], size: tuple[int, int]) -> tuple[tuple[str, ...], dict[str, Split]]:
    """scikit-learn's 1,797 handwritten digits, 8x8 with 17 grey levels, enlarged to ``size``."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    # A few at a time: the float ones would take four times the memory.
    images = torch.cat(
        [(F.interpolate(few, size=size, mode="bilinear") * 255).round().byte() for few in small.split(64)]
    )
    rest, test = _held_out(digits.target, "test_fraction", spec, 0.2)
    kept, held = _held_out(digits.target[rest], "val_fraction", spec, 0.1)

    def split(positions: np.ndarray) -> Split:
        return lambda: TensorImages(images[positions], torch.tensor(digits.target[positions]))

    splits = {"train": split(rest[kept]), "val": split(rest[held]), "test": split(test)}
    return tuple(map(str, digits.target_names)), splits


def _torchvision(spec: Mapping[str, Any], root: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    """MNIST or CIFAR from torchvision's files."""
    from torchvision import datasets

    class MNIST(datasets.MNIST):  # type: ignore[misc]  # its folder has this name
        def _check_legacy_exist(self) -> bool:
            return False  # files of torch.save, made by torchvision before 2021: not read

        def _load_data(self) -> Any:
            for file in Path(self.raw_folder).iterdir():
                if file.stat().st_size > _MNIST_BYTES:  # read whole, twice
                    raise ValueError(f"{file.name} is larger than MNIST is")
            return super()._load_data()

    name = spec["name"]
    source = {"mnist": MNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]

    @cache
    def read(train: bool) -> tuple[Tensor, np.ndarray, list[str]]:
        try:
            part = source(root, train=train, download=bool(spec.get("download")))
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"root={root}: {name} is not there or is damaged, neither torchvision's files nor folders train/ "
                f"and test/ of classes ({error}); give its folder, or fetch it with download=true"
            ) from error
        except Exception as error:
            # Neither reader checks what it reads: damaged files fail in many ways.
            raise UserError(f"root={root}: the files of {name} are damaged ({error!r}); fetch them again") from error
        pixels, labels = torch.as_tensor(part.data), np.asarray(part.targets)
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
        mean, shape = _STATS[name][0], IMAGE_SIZES[name]
        right = pixels.dtype == torch.uint8 and pixels.shape == (len(labels), len(mean), *shape) and labels.ndim == 1
        if not (right and len(labels) and labels.min() >= 0 and labels.max() < len(part.classes)):
            raise UserError(
                f"root={root}: the files of {name} are damaged: {tuple(pixels.shape)} pixels, {labels.shape} labels of "
                f"{len(part.classes)} classes; fetch them again"
            )
        return pixels, labels, part.classes

    def split(train: bool, part: int | None = None) -> Split:
        def images() -> Dataset[Any]:
            pixels, labels, _ = read(train)
            if part is None:
                return TensorImages(pixels, torch.as_tensor(labels))
            positions = _held_out(labels, "val_fraction", spec, 0.1)[part]
            return TensorImages(pixels[positions], torch.as_tensor(labels[positions]))

        return images

    class_names = tuple(map(str, range(10))) if name == "mnist" else tuple(read(False)[2])
    return class_names, {"train": split(True, 0), "val": split(True, 1), "test": split(False)}


class _Files(NamedTuple):
    paths: list[Path]
    labels: np.ndarray

    def take(self, positions: np.ndarray) -> _Files:
        return _Files([self.paths[i] for i in positions], self.labels[positions])


def _folders(
    spec: Mapping[str, Any], root: Path, size: tuple[int, int], channels: int, in_memory: bool
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """root/{train,val,test}/<class>/… or, for image_folder, root/<class>/…; classes in the alphabetical order
    unless one is given.

    ImageNet's val is its test split, as in the literature: its test images have no labels.
    """
    imagenet = spec["name"] == "imagenet"
    present = {name for name in ("train", "val", "test") if (root / name).is_dir()}
    test_name = "test" if "test" in present and not imagenet else "val"
    order = spec.get("class_names")
    resize = _resize(spec["name"], size)  # from which training crops

    def images(files: _Files, crop: tuple[int, int]) -> Dataset[Any]:
        folder = FolderImages(files.paths, torch.as_tensor(files.labels), crop, resize, channels, root)
        fits = len(files.paths) * channels * crop[0] * crop[1] <= _MEMORY_LIMIT
        return folder.in_memory() if fits and in_memory else folder

    if not present and spec["name"] == "image_folder":
        class_names = _in_order(_class_names(root), order)
        files = _list_files(root, class_names)
        rest, test = _held_out(files.labels, "test_fraction", spec, 0.2)
        kept, held = _held_out(files.labels[rest], "val_fraction", spec, 0.1)
        parts = {"train": files.take(rest[kept]), "val": files.take(rest[held]), "test": files.take(test)}
        return class_names, {name: partial(images, part, size) for name, part in parts.items()}

    if not present & {"train", test_name}:
        raise UserError(f"root={root}: has neither train/ nor {test_name}/; give the folder that holds them")
    class_names = _in_order(_class_names(root / ("train" if "train" in present else test_name)), order)

    @cache
    def listed(name: str) -> _Files:
        if name not in present:
            raise UserError(f"root={root}: has no folder {name}/, which this command needs")
        return _list_files(root / name, class_names)

    def training_part(held_out: bool) -> _Files:
        if test_name == "test" and "val" in present:
            return listed("val" if held_out else "train")
        files = listed("train")
        return files.take(_held_out(files.labels, "val_fraction", spec, 0.1)[held_out])

    return class_names, {
        "train": lambda: images(training_part(held_out=False), resize),
        "val": lambda: images(training_part(held_out=True), size),
        "test": lambda: images(listed(test_name), size),
    } | ({} if resize == size else {"train_centres": lambda: images(training_part(held_out=False), size)})


def _resize(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that the images of a data set must cover before their centre is cut out."""
    # ImageNet, as in the literature: the shorter side to 256, the centre 224.
    return (256, 256) if name == "imagenet" else size


def image_files(where: Path, name: str, size: tuple[int, int], channels: int) -> FolderImages:
    """An image file, or all of those below a folder by name, read as files of the data set ``name`` are for certify.

    Their labels are -1.

    Raises:
        UserError: no such file, or no image in the folder.
    """
    if where.is_dir():
        paths = sorted(path for path in where.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
        if not paths:
            raise UserError(f"root: {where} holds no images; give a file, or a folder with some")
    elif where.is_file():
        paths = [where]
    else:
        raise UserError(f"root: {where} is no file and no folder; give one of images")
    root = where if where.is_dir() else where.parent
    return FolderImages(paths, torch.full((len(paths),), -1), size, _resize(name, size), channels, root)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."))
    if len(names) < 2:
        raise UserError(
            f"root: {folder} holds {len(names)} class folders; give a folder with one folder of "
            "images a class, or with train/ and test/ made so"
        )
    return names


def _in_order(folders: tuple[str, ...], order: str | Sequence[str] | None) -> tuple[str, ...]:
    """The class folders in the order that the user gives: a file of names, or the names.

    Raises:
        UserError: other names than the folders'.
    """
    if order is None:
        return folders
    names = read_names(order) if isinstance(order, str) else order
    by_name = {visible(folder): folder for folder in folders}  # as checkpoints have them
    ordered = tuple(by_name.get(visible(name), name) for name in names)
    if sorted(ordered) != list(folders):
        lists = (("has no folder for", set(ordered) - set(folders)), ("does not name", set(folders) - set(ordered)))
        said = "; it ".join(
            f"{what} {len(left)} ({', '.join(map(cut, sorted(left)[:3]))}{', …' * (len(left) > 3)})"
            for what, left in lists
            if left
        )
        source = order if isinstance(order, str) else f"[{cut(names[0])}, …]"
        raise UserError(
            f"dataset.class_names={source}: {said or 'names one twice'}; give the name of every class folder, one a "
            "line, in the order of the network's outputs"
        )
    return ordered


def _list_files(folder: Path, class_names: Sequence[str]) -> _Files:
    """The images under each class folder, sorted, so that positions do not depend on the file system."""
    if set(_class_names(folder)) != set(class_names):
        raise UserError(f"root: the class folders of {folder} differ from those of the training images")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
        if not found:
            raise UserError(f"root: {folder / name} holds no images; fill it or remove it")
        paths += found
        labels += [label] * len(found)
    return _Files(paths, np.array(labels))
