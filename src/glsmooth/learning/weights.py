"""A user's own weights: what a file of unknown origin holds, and which of its tensors is which of a network's.

Names are never guessed: wrappers are taken off only where all names have them and more of what remains is the
network's, and in the end every tensor has a place of its name and shape, or the file is refused with both sides listed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glsmooth.configuration.fields import cut
from glsmooth.configuration.untrusted import plain_values
from glsmooth.errors import UserError
from glsmooth.learning.tensors import in_brief, read_tensors

__all__ = ["PUBLISHED", "Fitted", "Weights", "check_classes", "fit", "misfit", "read_weights", "statistics"]

#: Mean and standard deviation of the layers in front of networks of Cohen et al. (2019, locuslab/smoothing,
#: code/datasets.py), whose files do not hold them, by data set; that of MNIST is of Li et al. (2021, TSS, datasets.py).
PUBLISHED = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": ((0.5,), (0.5,)),
}

#: Under which a file has its state dictionary, the averages of the weights last: these are taken where nothing else is.
_PARTS = ("state_dict", "model_state_dict", "model", "net", "network")
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_DEEPEST = 8  # dictionaries, and wrappers of names, inside each other
#: What programs put in front of all names. Numbers are places in a Sequential.
_WRAPPERS = frozenset(("module", "_orig_mod", "model", "backbone", "network", "net", "0", "1"))
#: Those that may stand inside a name, too, where a part of the network was wrapped.
_INNER = frozenset(("module", "_orig_mod"))
#: How layers that normalise call their two tensors.
_NORMALISING = {
    "mean": ("std", "sd"),
    "means": ("stds", "sds"),
    "_mean": ("_std",),
    "mu": ("sigma",),
    "new_mean": ("new_std",),
}
#: Tensors that other programs count in: they are no part of a network.
_COUNTERS = frozenset(("n_averaged", "total_ops", "total_params"))
_TRACKED = "num_batches_tracked"


@dataclass(frozen=True)
class Weights:
    """What a file of weights holds.

    ``tensors`` has the names of the file, ``others`` the kinds of what is no tensor beside them; ``classes`` are the
    names of the classes in the order of its outputs, None where it does not say; ``notes`` say what was taken.
    """

    path: Path
    tensors: dict[str, Tensor]
    others: dict[str, str]
    classes: tuple[str, ...] | None
    notes: tuple[str, ...]


class Fitted(NamedTuple):
    """Tensors of a file under the names of the network.

    ``normalising`` are mean and standard deviation of a layer in front, by the names in the file; ``bare`` says that
    the names are those of a network behind a layer without tensors, as Cohen et al. save theirs.
    """

    state: dict[str, Tensor]
    normalising: dict[str, tuple[Tensor, Tensor]]
    bare: bool
    notes: tuple[str, ...]


def read_weights(path: Path) -> Weights:
    """What a file of torch.save or safetensors holds: a state dictionary, plain or inside others.

    Raises:
        UserError: it is not readable, or holds no tensors.
    """
    try:
        content = read_tensors(path)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        state, where, left = _taken(content)
        if not state:
            raise ValueError("it holds no tensors")
        if not all(isinstance(key, str) for key in state):
            raise ValueError("its state_dict has names that are no texts")
        classes = _classes(content)
    except Exception as error:
        raise UserError(
            f"weights={path}: not a readable state_dict ({in_brief(error)}); give a file of torch.save or safetensors"
        ) from error
    notes = []
    if left:
        notes.append(f"{path}: holds {', '.join((where[-1], *left))}; {'.'.join(where)} is taken")
    elif where and where[-1] in _AVERAGES:
        notes.append(f"{path}: holds averaged weights alone ({'.'.join(where)}); they are taken")
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    others = {key: type(value).__name__ for key, value in state.items() if not isinstance(value, Tensor)}
    return Weights(path, tensors, others, classes, tuple(notes))


def _taken(content: Mapping[Any, Any]) -> tuple[dict[Any, Any], list[str], list[str]]:
    """The state dictionary, the keys that lead to it, and those that lead to others beside the last of them."""
    state, where, left = dict(content), [], []
    for _ in range(_DEEPEST):
        found = [key for key in (*_PARTS, *_AVERAGES) if _holds_tensors(state.get(key))]
        if not found:
            break
        where.append(found[0])
        left = found[1:]
        state = state[found[0]]
    holds = any(isinstance(value, Tensor) for value in state.values())
    return (state if holds else {}), where, left


def _holds_tensors(part: Any) -> bool:
    """Is it a state dictionary, or does it lead to one?"""
    waiting, seen = [part], set()  # each once: parts that are shared many times over would unfold without end
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict) and id(part) not in seen:
            seen.add(id(part))
            if any(isinstance(value, Tensor) for value in part.values()):
                return True
            waiting += [part.get(key) for key in (*_PARTS, *_AVERAGES)]
    return False


def _classes(content: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """Names of the classes in the order of the outputs: of ``classes``, or ``class_to_idx`` as torchvision's."""
    names, numbers = content.get("classes"), content.get("class_to_idx")
    if isinstance(names, list | tuple):
        plain = plain_values(names)
        return tuple(plain) if plain and all(isinstance(name, str) for name in plain) else None
    if isinstance(numbers, dict):
        plain = plain_values(numbers)
        if sorted(map(str, plain.values())) != sorted(map(str, range(len(plain)))):
            raise ValueError("its class_to_idx does not number the classes")
        return tuple(sorted(plain, key=lambda name: int(plain[name])))
    return None


def check_classes(weights: Weights, classes: Iterable[str]) -> None:
    """Refuse weights whose outputs mean other classes than the data set's, where the file says what they mean.

    Raises:
        UserError: other classes, or another order.
    """
    theirs, ours = weights.classes, tuple(classes)
    if theirs is None or theirs == ours:
        return
    if len(theirs) == len(ours) and set(theirs) == set(ours):
        at = next(i for i, name in enumerate(theirs) if name != ours[i])
        raise UserError(
            f"weights={weights.path}: its outputs are in another order than the dataset's classes (output {at} is "
            f"{cut(theirs[at])}, not {cut(ours[at])}); write its classes into a file, one a line in its order, and set "
            "dataset.class_names=FILE"
        )
    raise UserError(
        f"weights={weights.path}: its {len(theirs)} classes ({_names(theirs)}) are not the dataset's {len(ours)} "
        f"({_names(ours)}); give the dataset that it was trained for, call the folders as it calls its classes, or "
        "set new_head=true to train a new last layer from a random start"
    )


class _Reading(NamedTuple):
    """One way to read a file's names: ``names`` are the network's by those of the file."""

    names: dict[str, str]
    stripped: tuple[str, ...] = ()
    aside: bool = False  # were normalising layers and counters left out?
    changes: int = 0


def fit(
    weights: Weights,
    own: Mapping[str, Tensor],
    head: set[str],
    num_classes: int,
    new_head: bool = False,
    layout: Mapping[str, str] | None = None,
) -> Fitted:
    """Find the place of each tensor of a file in a network.

    Args:
        own: the network's state_dict.
        head: those of its names that are its last layer's.
        num_classes: of the network.
        new_head: leave the last layer of the file out.
        layout: the names of the same network in another program, each with ours.

    Raises:
        UserError: another number of classes, or anything that is left over on either side.
    """
    path, notes = weights.path, list(weights.notes)
    pairs, counters = _aside(weights.tensors)
    reading = _best(weights.tensors, own, pairs, counters, layout or {})
    state = {name: weights.tensors[key] for key, name in reading.names.items()}
    if reading.aside and counters:
        notes.append(f"{path}: {_names(sorted(counters))} left out, which other programs count in")
    theirs = {state[key].shape[0] for key in sorted(head & state.keys()) if state[key].ndim}
    other = [key for key in sorted(head & state.keys()) if state[key].shape != own[key].shape]
    wanted = dict(own)
    if new_head:
        state, wanted = ({key: value for key, value in part.items() if key not in head} for part in (state, wanted))
        notes.append(
            f"new_head=true: the last layer of {path} ({' and '.join(map(str, sorted(theirs))) or 'no'} classes) is "
            f"left out; a new one for {num_classes} classes starts at random"
        )
    elif other and state[other[0]].ndim and theirs == {state[other[0]].shape[0]} != {num_classes}:
        raise UserError(
            f"weights={path}: its last layer ({other[0]}) has {state[other[0]].shape[0]} classes, the dataset "
            f"{num_classes}; give the dataset that it was trained for, or set new_head=true to train a new last "
            "layer from a random start"
        )
    for key in wanted.keys() - state.keys():
        # Programs before 2018 did not count, and evaluation does not ask.
        if key.endswith(f".{_TRACKED}") and key.replace(_TRACKED, "running_var") in state:
            state[key] = wanted[key]
    _refuse_misfit(weights, state, wanted, head)
    found = {mean: (weights.tensors[mean], weights.tensors[std]) for mean, std in pairs} if reading.aside else {}
    return Fitted(state, found, "1" in reading.stripped and not found, tuple(notes))


def _aside(tensors: Mapping[str, Tensor]) -> tuple[list[tuple[str, str]], set[str]]:
    """What may be no part of the network: pairs of names (mean, standard deviation), and counters."""
    pairs = []
    for key in tensors:
        layer, dot, name = key.rpartition(".")
        for partner in _NORMALISING.get(name, ()):
            if f"{layer}{dot}{partner}" in tensors:
                pairs.append((key, f"{layer}{dot}{partner}"))
    return pairs, {key for key in tensors if key.rpartition(".")[2] in _COUNTERS}


def _best(
    tensors: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    pairs: list[tuple[str, str]],
    counters: set[str],
    layout: Mapping[str, str],
) -> _Reading:
    """The reading by which most tensors have a place of their name and shape, then fewest none; with least change."""
    shapes = {name: tensor.shape for name, tensor in own.items()}
    aside = counters.union(*pairs)
    start = [_Reading({key: key for key in tensors})]
    if aside:
        start.append(_Reading({key: key for key in tensors if key not in aside}, aside=True, changes=1))
    readings = [
        translated
        for reading in start
        for cleaned in _cleaned(reading)
        for bare in _stripped(cleaned)
        for translated in (bare, *_translated(bare, layout))
    ]

    def order(reading: _Reading) -> tuple[int, int, int]:
        fitting = sum(shapes.get(name) == tensors[key].shape for key, name in reading.names.items())
        return fitting, fitting - len(reading.names), -reading.changes

    return max(readings, key=order)


def _cleaned(reading: _Reading) -> Iterator[_Reading]:
    """As it is, and without wrappers of parts of the network: ``features.module.0.weight``."""
    yield reading
    names = {
        key: ".".join(part for i, part in enumerate(name.split(".")) if i == 0 or part not in _INNER)
        for key, name in reading.names.items()
    }
    if names != reading.names and len(set(names.values())) == len(names):
        yield reading._replace(names=names, changes=reading.changes + 1)


def _stripped(reading: _Reading) -> Iterator[_Reading]:
    """As it is, and without one wrapper after the other, each of which stands in front of all names."""
    for _ in range(_DEEPEST):
        yield reading
        split = {key: name.partition(".") for key, name in reading.names.items()}
        first = {part[0] for part in split.values()}
        if len(first) != 1 or not first <= _WRAPPERS or not all(part[2] for part in split.values()):
            return
        reading = _Reading(
            {key: part[2] for key, part in split.items()},
            (*reading.stripped, *first),
            reading.aside,
            reading.changes + 1,
        )


def _translated(reading: _Reading, layout: Mapping[str, str]) -> Iterator[_Reading]:
    """Under our names, where all are another layout's."""
    if layout.keys() >= set(reading.names.values()):
        names = {key: layout[name] for key, name in reading.names.items()}
        if len(set(names.values())) == len(names):
            yield reading._replace(names=names, changes=reading.changes + 1)


def _refuse_misfit(weights: Weights, state: Mapping[str, Tensor], own: Mapping[str, Tensor], head: set[str]) -> None:
    """Refuse a file unless it and the network have the same tensors: names, shapes and kinds.

    Raises:
        UserError: it lists the first of what only one side has, and of what differs.
    """
    said = misfit(state, own, weights.others)
    if said is not None:
        without_head = ", or set new_head=true" if state.keys() == own.keys() - head else ""
        raise UserError(
            f"weights={weights.path}: does not fit{said}; use a file of the same architecture, or the model that it is "
            f"of{without_head}"
        )


def misfit(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], others: Mapping[str, str] | None = None
) -> str | None:
    """Why the tensors of a file are not those of a network, in words that follow "does not fit"; None where they are.

    Args:
        state: the tensors of the file under the names of the network.
        own: the network's state_dict; its values are not looked at.
        others: the kinds of what the file has under further names, and is no tensor.
    """
    both, others = [key for key in own if key in state], others or {}
    lists = {
        "only the file has": [f"{_short(key)} {_shape(state[key])}" for key in state if key not in own],
        "only the model has": [
            f"{_short(key)} {_shape(own[key])}" + f" (a {kind} in the file)" * bool(kind)
            for key in own
            if key not in state
            for kind in [others.get(key, "")]
        ],
        "of other shapes in the file are": [
            f"{_short(key)} {_shape(state[key])} for {_shape(own[key])}"
            for key in both
            if own[key].shape != state[key].shape
        ],
    }
    said = [f"{what} {len(found)} ({_few(found)})" for what, found in lists.items() if found]
    if said:
        return f", in tensors: {'; '.join(said)}"
    for key in both:
        if state[key].layout != torch.strided or state[key].is_floating_point() != own[key].is_floating_point():
            return (
                f": {_short(key)} is of the kind {state[key].dtype}, "
                f"{str(state[key].layout).removeprefix('torch.')}, where the model has {own[key].dtype} (save it as "
                "plain floating-point numbers)"
            )
    return None


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _short(name: str) -> str:
    """A name in a list of several: in these the end tells more."""
    return cut(name if len(name) <= 48 else f"…{name[-47:]}")


def _names(names: Sequence[str]) -> str:
    return _few([_short(name) for name in names])


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def statistics(fitted: Fitted, channels: int, path: Path | str) -> tuple[str, list[float], list[float]] | None:
    """Mean and standard deviation per channel of the normalising layer of a file, and what it is called there.

    Raises:
        UserError: of another number of channels, of images that are not in [0, 1], or several that differ.
    """
    found: dict[str, tuple[list[float], list[float]]] = {}
    fix = "type the right ones, for example 'model.mean=[0.5,0.5,0.5]' 'model.std=[0.25,0.25,0.25]'"
    for name, pair in fitted.normalising.items():
        layer = _short(name)
        if any(part.numel() not in (1, channels) or part.layout != torch.strided for part in pair):
            shapes = " and ".join(map(_shape, pair))
            raise UserError(
                f"weights={path}: {layer} and its deviation are {shapes}, not of {channels} channels; {fix}"
            )
        mean, std = (part.detach().double().flatten().expand(channels).tolist() for part in pair)
        if not (all(map(math.isfinite, (*mean, *std))) and min(std) > 0):
            raise UserError(f"weights={path}: {layer} or its deviation is not finite, or the latter not above 0; {fix}")
        if max(mean) > 1:
            raise UserError(f"weights={path}: {layer} is {max(mean):.4g}, but images here are in [0, 1]; {fix}")
        found[layer] = (mean, std)
    if not found:
        return None
    name, first = next(iter(found.items()))
    if any(other != first for other in found.values()):
        raise UserError(f"weights={path}: its layers {_few(list(found))} do not normalise alike; {fix}")
    return name, *first
