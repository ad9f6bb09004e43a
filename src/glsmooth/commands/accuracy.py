"""Is the base classifier any good on these images? Asked before votes are spent on it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from glsmooth.learning.certification import Options
from glsmooth.learning.models import Normalize
from glsmooth.learning.weights import PUBLISHED
from glsmooth.voting.classifier import undisturbed

__all__ = ["NORMALISATIONS", "accuracy_beforehand"]

#: Images that are tried at most, and those without which nothing can be said of chance.
_TRIED, _FEWEST = 100, 10
_BATCH = 20
#: How improbable luck must be for a warning.
_LUCK = 1e-3
#: What networks are trained with elsewhere: mean and standard deviation of every colour.
NORMALISATIONS = {
    "imagenet": PUBLISHED["imagenet"],
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def accuracy_beforehand(
    model: nn.Module,
    classes: list[str],
    images: Dataset[Any],
    options: Options,
    device: torch.device,
    brought: bool = False,
) -> str:
    """How many of up to 100 images, spread evenly, the base classifier gets right, and what may be wrong if few.

    Args:
        model: base classifier; afterwards on the CPU.
        classes: their names.
        images: (image (C, H, W), label, index) items.
        options: how it runs.
        device: where.
        brought: it was trained elsewhere, so its normalisation and the order of its classes may be others.

    Returns:
        A line, and a warning below it where the accuracy is near chance, where another normalisation would be clearly
        better, or where the outputs seem to be in another order.

    Raises:
        UserError: a network that no votes can be taken of.
    """
    size = len(images)  # type: ignore[arg-type]
    chosen = np.unique(np.linspace(0, size - 1, min(size, _TRIED)).round().astype(int))
    items = [images[int(i)] for i in chosen]
    labels = np.array([int(label) for _, label, _ in items])
    batches = torch.stack([image for image, _, _ in items]).split(_BATCH)

    def classify(network: nn.Module) -> NDArray[np.int64]:
        classifier = options.classifier(network, len(classes), device)
        # A network may draw from the global generators: votes find them as they were.
        with torch.inference_mode(), classifier.ready(batches[0][0]), undisturbed(device):
            logits = [classifier(batch.to(device)) for batch in batches]
        return torch.cat(logits).argmax(1).cpu().numpy()

    try:
        predictions = classify(model)
        right = predictions == labels
        lines = [f"Base classifier: right on {right.sum()} of {len(labels)} images, as they are"]
        better = _better_normalisation(model, right, lambda network: classify(network) == labels) if brought else None
    finally:
        model.cpu()
    if better is not None:
        name, (mean, std), count = better
        lines.append(
            f"WARNING: with the normalisation {name!r} it would be right on {count}. Was it trained with that? Set "
            f"'model.mean=[{_numbers(mean)}]' 'model.std=[{_numbers(std)}]'"
        )
    elif len(labels) >= _FEWEST and _is_luck(int(right.sum()), len(right), 1 / len(classes)):
        lines.append(
            f"WARNING: that is no better than guessing among {len(classes)} classes, and hardly anything will be "
            "certified. " + (_other_order(predictions, labels, classes) if brought else _NEAR_CHANCE)
        )
    return "\n".join(lines)


_NEAR_CHANCE = "Are these the images, in the classes, that it was trained for?"


def _is_luck(successes: int, trials: int, chance: float, risk: float = _LUCK) -> bool:
    """Would as many successes come by chance alone, more often than at ``risk``?"""
    from scipy.stats import binomtest  # late: it takes half a second

    return trials == 0 or bool(binomtest(successes, trials, chance, alternative="greater").pvalue > risk)


def _better_normalisation(
    model: nn.Module, right: NDArray[np.bool_], classify: Any
) -> tuple[str, tuple[list[float], list[float]], int] | None:
    """The normalisation that is right most often, if that is clearly more often than the network's own."""
    layers = OrderedDict(model.named_children())
    own = layers.get("normalize")
    if not isinstance(own, Normalize):
        return None
    best = None
    for name, (mean, std) in NORMALISATIONS.items():
        other = Normalize(mean[: len(own.mean)], std[: len(own.std)])
        pairs = ((other.mean, own.mean), (other.std, own.std))
        if all(torch.allclose(one, two.cpu(), atol=1e-3) for one, two in pairs):
            continue
        layers["normalize"] = other.to(own.mean.dtype)
        found = classify(nn.Sequential(layers))
        won, lost = int((found & ~right).sum()), int((right & ~found).sum())
        clear = not _is_luck(won, won + lost, 0.5, _LUCK / len(NORMALISATIONS))
        if clear and (best is None or found.sum() > best[2]):
            best = name, (other.mean.flatten().tolist(), other.std.flatten().tolist()), int(found.sum())
    return best


def _other_order(predictions: NDArray[np.int64], labels: NDArray[np.int64], classes: list[str]) -> str:
    """What may be wrong with a network from elsewhere that guesses; where another order fits, that."""
    from scipy.optimize import linear_sum_assignment

    seen = np.zeros((len(classes), len(classes)), dtype=int)  # by true class, then prediction
    np.add.at(seen, (labels, predictions), 1)
    rows, columns = linear_sum_assignment(seen, maximize=True)
    fits = int(seen[rows, columns].sum())
    # Some order fits a guesser, too: on average far fewer of so many images a class.
    if len(labels) >= 3 * len(classes) and fits >= 0.7 * len(labels):
        moved = next(i for i in rows if columns[i] != i)
        return (
            f"In another order of its classes it would be right on {fits}: what is called {classes[moved]} seems to be "
            f"its output {columns[moved]}. Name the classes in the order of its outputs, dataset.class_names=FILE"
        )
    return (
        "Are these the images that it was trained for, its classes in the order of the folders' names "
        "(dataset.class_names=FILE), and pixels normalised as in its training (model.mean, model.std)?"
    )


def _numbers(values: list[float]) -> str:
    return ",".join(f"{round(value, 6):g}" for value in values)
