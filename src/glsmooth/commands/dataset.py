"""What the certify command does, from Python: anybody's network, images and family, to a run directory."""

from __future__ import annotations

from glsmooth.commands import plain_matplotlib  # noqa: F401 - before Lightning

# isort: split
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, Subset
from torch.utils.data import default_collate as collated
from tqdm import tqdm

from glsmooth.bounds import evaluate
from glsmooth.bounds.confidence import MIXTURE
from glsmooth.commands.estimate import preflight
from glsmooth.configuration.build import family_config, law_config
from glsmooth.configuration.fields import leaves
from glsmooth.errors import UserError
from glsmooth.family.regions import Region
from glsmooth.family.resolvability import is_users
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import LAWS
from glsmooth.learning.certification import (
    CertificationModule,
    Options,
    save_draws,
    summarise,
    take_votes,
    try_transformation,
)
from glsmooth.report.page import Drawn, write_report
from glsmooth.runs.files import write_config
from glsmooth.runs.own import remember, run_files
from glsmooth.runs.records import Images, Records
from glsmooth.runs.run import Run
from glsmooth.runs.summary import check_methods
from glsmooth.smoothing import SmoothedClassifier
from glsmooth.voting.classifier import PRECISIONS, BaseClassifier
from glsmooth.voting.engine import check_random
from glsmooth.voting.images import as_image, as_label
from glsmooth.voting.procedures import Procedure, build_procedure

__all__ = ["certify_dataset"]

#: Channels that a picture can show.
_GREY_OR_COLOUR = (1, 3)


def certify_dataset(
    smoothed: SmoothedClassifier,
    data: Any,
    region: Region,
    *,
    directory: str | Path,
    n0: int = 200,
    n: int = 1000,
    alpha: float = 1e-3,
    seed: int = 0,
    methods: Sequence[str] = ("neyman_pearson", "gl", "tss", "mp"),
    sequential: bool = False,
    classes: Sequence[str] | None = None,
    name: str = "images",
    progress: bool = True,
) -> Run:
    """Certify labelled images over a region, on disk: what ``glsmooth certify`` does, with your own network and data.

    The directory is a run as the command writes it (records.csv, summary.json, table.md, report.html, pictures), and
    ``glsmooth report`` takes it: other regions, comparisons, tables. The same call on the same directory goes on where
    it was killed, and takes no more votes when it has finished. It refuses a directory that was begun with another
    family, region, procedure, seed, network or with other images. One process on one device.

    The guarantee is that of :meth:`SmoothedClassifier.certify`, for each image separately; each row equals its
    certificate for the same seed and index.

    Args:
        smoothed: network and family.
        data: a pair (images (B, C, H, W), labels (B,)) of arrays or tensors, a data set of (image, label, …) items, or
            a DataLoader of (images, labels, …) batches. A data set is read twice, item by item, and so is that of a
            DataLoader in order; batches of a loader that collates in its own way are held in memory. An image's index
            is its place; images of a ``torch.utils.data.Subset`` keep the places that they have in the whole.
        region: a Box, a Ball or Points.
        directory: where the run is; made if it is not there.
        n0, n, alpha, seed, sequential: as :meth:`SmoothedClassifier.certify` has them; with ``sequential``, an image's
            votes go on until every method has decided it.
        methods: names in ``glsmooth.bounds.METHODS``; those that do not apply to the family say why.
        classes: names of the classes, by default their numbers.
        name: what the report calls the images.
        progress: a bar with the time left, and what else is worth telling, on standard error.

    Returns:
        The run: ``columns`` (column of records.csv -> (images,) array), ``summary``, ``outcomes``; and
        ``evaluate(region, methods)`` decides other regions.

    Raises:
        UserError: an impossible argument; an image or label that is none; a directory of another run; a network that no
            votes can be taken of.
    """
    family, classifier, directory = smoothed.family, smoothed.classifier, Path(directory)
    names = [str(number) for number in range(smoothed.num_classes)] if classes is None else list(map(str, classes))
    if len(names) != smoothed.num_classes:
        raise UserError(f"classes: {len(names)} names for num_classes={smoothed.num_classes}; give one for each class")
    if not methods or isinstance(methods, str):
        raise UserError(f"methods={methods!r}: give a list of names, for example ('neyman_pearson',)")
    check_methods(methods, "methods")
    family.check_region(region)
    monte_carlo = {
        "name": "sequential" if sequential or family.warps else "paper",
        "n0": n0,
        "n": n,
        "alpha": alpha,
        "mixture": MIXTURE,
    }
    build_procedure(monte_carlo, {}, family)  # refuses its numbers before the data are read
    with _in_python(directory):
        held = _read(data, smoothed.num_classes, family.image_size)
        images = _identified(held, progress)
        certified = Subset(held.images, held.indices)
        try_transformation(family, region, certified)
        outcomes = evaluate(family, region, methods)
        procedure = build_procedure(monte_carlo, outcomes, family)
        check_random(procedure, classifier.stochastic)
        if progress:
            print(preflight(outcomes, procedure), file=sys.stderr)
        options = Options(seed, _precision(classifier), classifier.stochastic, held.num_workers, smoothed.asked)
        module = CertificationModule(
            cast("torch.nn.Module", classifier.network),
            family,
            procedure,
            smoothed.num_classes,
            certified,
            held.indices,
            outcomes,
            options,
            directory,
            progress,
            region,
        )
        network = classifier.digest()
        identity = _identity(family, region, procedure, methods, options, smoothed.num_classes) | {"network": network}
        with Records(directory, identity, module.columns, images) as records:
            invocation = take_votes(classifier.device, module, records)
            transform, smoothing = family_config(family)
            summary = summarise(
                module,
                invocation,
                classifier.device,
                transform=transform,
                smoothing=smoothing,
                region=region.to_config(),
                dataset={"name": name},
                model={"name": _model_name(classifier)},
                classes=names,
                checkpoint={"path": "the network as it was in Python", "sha256": network},
            )
            write_config(directory, {**summary.told, "bound": {"methods": list(methods)}})
            pictures = certified[0][0].shape[0] in _GREY_OR_COLOUR
            if pictures:
                save_draws(module, names, classifier.device)
            summary.write(directory)
            remember(run_files(directory))
            drawn = Drawn()
            write_report(directory, family=family, drawn=drawn, test_images=held.picture if pictures else None)
    assert drawn.run is not None
    return drawn.run


def _precision(classifier: BaseClassifier) -> str:
    return next(name for name, dtype in PRECISIONS.items() if dtype == classifier.autocast)


def _model_name(classifier: BaseClassifier) -> str:
    """The network's class, and its dtype where that is not the common one."""
    name = type(classifier.network).__name__
    return name if classifier.dtype == torch.float32 else f"{name} in {str(classifier.dtype).removeprefix('torch.')}"


def _identity(
    family: SmoothedFamily,
    region: Region,
    procedure: Procedure,
    methods: Sequence[str],
    options: Options,
    num_classes: int,
) -> dict[str, Any]:
    """What decides the rows, by dotted name, in plain values; not yet the network and the images."""
    transform, _ = family_config(family)
    if is_users(family.transform):
        transform["state"] = hashlib.sha256(_plainly(family.transform).encode()).hexdigest()
    smoothing = {
        name: law_config(law)
        if type(law) in LAWS.values()
        else {"law": f"{type(law).__module__}.{type(law).__qualname__}", **law.values}
        for name, law in family.laws.items()
    }
    # Where the votes of an image stop follows from the rest.
    told = {key: value for key, value in procedure.describe().items() if key != "stopped_for"}
    return dict(
        leaves(
            {
                "transform": {key: value for key, value in transform.items() if value is not None},
                "smoothing": smoothing,
                "pixel_noise": family.pixel_noise,
                "draws": family.draws,
                "image_size": None if family.image_size is None else list(family.image_size),
                "region": region.to_config(),
                "bound": {"methods": list(methods)},
                "monte_carlo": told,
                "seed": options.seed,
                "precision": options.precision,
                "num_classes": num_classes,
            },
            rules={},
        )
    )


def _plainly(value: Any, depth: int = 0) -> str:
    """What an object of the user's holds, as far as it can be written: numbers, texts, tensors and what is made so."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plainly(item, depth + 1) for item in value)}]" if depth < 10 else "…"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_plainly(item, depth + 1) for item in value))}}}"
    if isinstance(value, Mapping):
        items = (f"{key}: {_plainly(value[key], depth + 1)}" for key in sorted(value, key=str))
        return f"{{{', '.join(items)}}}" if depth < 10 else "…"
    return f"{type(value).__qualname__} {_plainly(vars(value), depth + 1) if hasattr(value, '__dict__') else ''}"


@contextmanager
def _in_python(directory: Path) -> Iterator[None]:
    """Have messages name what was given in Python, where the command would name what was typed."""
    try:
        yield
    except UserError as error:
        message = str(error)
        for typed, given in (
            ("choose another hydra.run.dir", "choose another directory"),
            (f"hydra.run.dir={directory}", f"directory={directory}"),
            ("the same certify command", "the same certify_dataset call"),
            ("the same command", "the same call"),
        ):
            message = message.replace(typed, given)
        error.args = (message,)
        raise


# Images


@dataclass(frozen=True)
class _Held:
    """What is certified: ``images`` by index, those of ``indices``, loaded by ``num_workers`` processes."""

    images: _Labelled
    indices: list[int]
    num_workers: int = 0

    def picture(self, index: int) -> NDArray[np.floating[Any]]:
        """The image (C, H, W) of an index."""
        return np.asarray(self.images[index][0])


class _Labelled(Dataset[Any]):
    """(image float32 (C, H, W) in [0, 1], label, index) of anybody's items; for a list of indices a batch of each.

    Args:
        read: gives image and label of an index.
        size: number of items.
        num_classes: of the network.
        image_size: (H, W) of the torus, if the family has one.
    """

    def __init__(
        self, read: Callable[[int], tuple[Any, Any]], size: int, num_classes: int, image_size: tuple[int, int] | None
    ) -> None:
        self.read, self.size, self.num_classes, self.image_size = read, size, num_classes, image_size
        self.shape: torch.Size | None = None  # of all images
        self.digests: dict[int, str] = {}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int | list[int]) -> tuple[Any, Any, Any]:
        if isinstance(index, list):
            images, labels, _ = zip(*(self[i] for i in index), strict=True)
            return torch.stack(images), torch.tensor(labels), torch.tensor(index)
        image, label = self._checked(index)
        if self.digests.get(index) not in (None, self._digest(image, label)):
            raise UserError(
                f"data[{index}] is another image each time that it is read; certify a data set without random changes "
                "(augmentation?)"
            )
        return image, label, index

    def _checked(self, index: int) -> tuple[Tensor, int]:
        name = f"data[{index}]"
        image, label = self.read(index)
        image = as_image(image, name).to("cpu", torch.float32)
        if self.shape is not None and image.shape != self.shape:
            raise UserError(
                f"{name} has shape {tuple(image.shape)}, those before it {tuple(self.shape)}; resize all images to "
                "one size"
            )
        if self.image_size is not None and tuple(image.shape[1:]) != self.image_size:
            raise UserError(
                f"{name} has size {tuple(image.shape[1:])}, the family's torus {self.image_size}; build the family "
                "with the image_size of the images"
            )
        fix = f"give num_classes of the network, and labels from 0 to {self.num_classes - 1}"
        return image, as_label(label, name, self.num_classes, fix)

    def identify(self, index: int) -> str:
        """Look at an image for the first time: its digest, which it must have from now on."""
        image, label = self._checked(index)
        self.shape = image.shape
        self.digests[index] = self._digest(image, label)
        return self.digests[index]

    @staticmethod
    def _digest(image: Tensor, label: int) -> str:
        what = f"{image.dtype} {tuple(image.shape)} {label}\n"
        return hashlib.sha256(what.encode() + image.contiguous().numpy().tobytes()).hexdigest()


def _identified(held: _Held, progress: bool) -> Images:
    """Names and digests of the images; the first that is none stops here, before any vote."""
    bar = tqdm(held.indices, desc="Reading images", unit="image", delay=2, leave=False, disable=not progress)
    digests = {index: held.images.identify(index) for index in bar}
    return Images([f"image {index}" for index in range(len(held.images))], digests)


def _read(data: Any, num_classes: int, image_size: tuple[int, int] | None) -> _Held:
    """Anybody's data as items of image and label."""
    workers, indices, source = 0, None, data
    if isinstance(data, DataLoader):
        if isinstance(data.sampler, RandomSampler):
            raise UserError("data: the loader shuffles, and images are known by their place; give shuffle=False")
        plain = data.collate_fn is collated and isinstance(data.sampler, SequentialSampler) and not data.drop_last
        if plain and not isinstance(data.dataset, IterableDataset):
            source, workers = data.dataset, data.num_workers
        else:
            source = [pair for batch in data for pair in _pairs(batch)]
    if isinstance(source, tuple | list) and len(source) == 2 and isinstance(source[0], Tensor | np.ndarray):
        source = _pairs(source, "data")
    elif isinstance(source, Subset):
        indices, source = [int(index) for index in source.indices], source.dataset
        if len(set(indices)) < len(indices):
            raise UserError("data: the Subset holds an image twice; give each once")
    if isinstance(source, str | bytes | Mapping) or not (hasattr(source, "__getitem__") and isinstance(source, Sized)):
        raise UserError(
            f"data is a {type(data).__name__}; give a DataLoader, a data set of (image, label) items with a length, or "
            "a pair (images, labels) of arrays or tensors"
        )
    if not len(source):
        raise UserError("data holds no image; give at least one")
    indices = list(range(len(source))) if indices is None else indices
    if not indices:
        raise UserError("data holds no image; give at least one")
    return _Held(_Labelled(_Items(source), len(source), num_classes, image_size), indices, workers)


@dataclass(frozen=True)
class _Items:
    """Image and label of each item; a class, so that loading processes can be sent it."""

    source: Any

    def __call__(self, index: int) -> tuple[Any, Any]:
        item = self.source[index]
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise UserError(
                f"data[{index}] is a {type(item).__name__} without a label; give (image, label) items: certified "
                "accuracy counts labels"
            )
        return item[0], item[1]


def _pairs(batch: Any, name: str = "data") -> list[tuple[Any, Any]]:
    """Items of a batch (images, labels, …)."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise UserError(
            f"{name}: a batch is a {type(batch).__name__} without labels; give (images, labels): certified accuracy "
            "counts labels"
        )
    images, labels = batch[0], batch[1]
    if getattr(images, "ndim", 4) == 3 and getattr(labels, "ndim", 0) == 0:  # a loader without batches
        return [(images, labels)]
    if not isinstance(images, Tensor | np.ndarray) or images.ndim != 4:
        what = f"has shape {tuple(images.shape)}" if hasattr(images, "shape") else f"is a {type(images).__name__}"
        raise UserError(f"{name}: what should be a batch of images {what}; give shape (B, C, H, W)")
    if not isinstance(labels, Sized) or getattr(labels, "ndim", 1) != 1 or len(labels) != len(images):
        what = f"shape {tuple(labels.shape)}" if hasattr(labels, "shape") else f"a {type(labels).__name__}"
        raise UserError(f"{name}: the labels of {len(images)} images are {what}; give one class number an image")
    return list(zip(images, cast("Any", labels), strict=True))
