"""The parts of a training that a user may name: the optimizer and the loss, by a class or a function.

What is typed beside ``_target_`` are its arguments, but for the fields that say how training goes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

import torch

from glsmooth.configuration.build import accepted, check_arguments, imported
from glsmooth.configuration.fields import RULES, cut, shown
from glsmooth.errors import UserError, did_you_mean, near_field

__all__ = [
    "SGD",
    "build_loss",
    "build_optimizer",
    "check_loss",
    "check_optimizer",
    "check_total",
    "described",
    "optimizer_arguments",
    "try_loss",
]

#: The optimizer where none is named.
SGD = "torch.optim.SGD"
#: Fields of ``optimizer`` that say how training goes.
_OF_TRAINING = ("_target_", "bias_lr", "schedule", "milestones", "gamma", "epochs", "batch_size", "ema")
#: Fields that every recipe for SGD has: another class is given those that it takes.
_OF_SGD = ("momentum", "nesterov")
#: Fields of ``loss`` that say what a loss is given.
_NOT_OF_LOSS = ("_target_", "copies", "pixel_noise", "transformed")
#: Fields of ``loss`` that are arguments of ours.
_OF_OURS = ("consistency", "entropy", "label_smoothing")
#: Those of torch's that no network here can be trained with.
_UNFIT = {
    "torch.optim.LBFGS": "it tries each batch several times a step, and takes no tensors in the order of channels_last",
    "torch.optim.SparseAdam": "it takes sparse gradients alone",
}


def optimizer_arguments(spec: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any], list[str]]:
    """What makes the optimizer that ``spec`` describes, the arguments that it is given, and SGD's that it is not.

    Args:
        spec: the configuration group; null arguments are left to the class.

    Raises:
        UserError: no such class, or arguments that it does not take.
    """
    target = spec.get("_target_") or SGD
    if "." not in target:
        names = [f"torch.optim.{name}" for name, member in vars(torch.optim).items() if _is_optimizer(member)]
        raise UserError(f"optimizer._target_={target!r} names no module{did_you_mean(f'torch.optim.{target}', names)}")
    if target in _UNFIT:
        raise UserError(f"optimizer._target_={target}: {_UNFIT[target]}; choose another, torch.optim.AdamW for example")
    make = imported(target, "optimizer._target_")
    if not callable(make) or (inspect.isclass(make) and not _is_optimizer(make)):
        raise UserError(f"optimizer._target_={target!r} is no subclass of torch.optim.Optimizer; name one")
    arguments = {key: value for key, value in spec.items() if key not in _OF_TRAINING and value is not None}
    takes = accepted(make)
    left_out = [] if takes is None else [name for name in _OF_SGD if name in arguments and name not in takes]
    arguments = {key: value for key, value in arguments.items() if key not in left_out}
    check_arguments("optimizer", target, make, arguments, given=1)
    return make, arguments, left_out


def build_optimizer(spec: Mapping[str, Any], groups: Iterable[Any]) -> torch.optim.Optimizer:
    """The optimizer that ``{"_target_": "package.Class", argument: value, …}`` describes; SGD where it names none.

    Args:
        spec: the configuration group.
        groups: parameters, or groups of them, as torch's optimizers take them.

    Raises:
        UserError: as :func:`optimizer_arguments`; or the class refuses them, or makes something else.
    """
    make, arguments, _ = optimizer_arguments(spec)
    target = spec.get("_target_") or SGD
    try:
        optimizer = make(list(groups), **arguments)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{name}={shown(value)}" for name, value in arguments.items())
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"optimizer._target_={target} refuses its arguments ({given}): {reason}; change them"
        ) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(
            f"optimizer._target_={target} makes a {type(optimizer).__name__}; it must make a torch.optim.Optimizer"
        )
    return optimizer


def check_optimizer(spec: Mapping[str, Any]) -> None:
    """Try what an optimizer is made of, and its schedule, before there is a network.

    Raises:
        UserError: as :func:`build_optimizer`; or milestones that are none.
    """
    build_optimizer(spec, [torch.nn.Parameter(torch.zeros(1, 1))])
    milestones, epochs = spec.get("milestones"), spec["epochs"]
    if milestones is None:
        return
    said = f"optimizer.milestones={milestones}"
    if spec["schedule"] != "step":
        raise UserError(f"{said}: schedule={spec['schedule']} has none; set optimizer.schedule=step, or leave it out")
    if sorted(set(milestones)) != milestones:
        raise UserError(f"{said}: give epochs that grow, for example 'optimizer.milestones=[30,45]'")
    if milestones[-1] >= epochs:
        raise UserError(f"{said}: the training has optimizer.epochs={epochs}; give epochs below that")


def described(spec: Mapping[str, Any]) -> str:
    """The optimizer in words: its class, what it is given and what not."""
    _, arguments, left_out = optimizer_arguments(spec)
    given = ", ".join(f"{name}={shown(value)}" for name, value in arguments.items())
    without = f"; without {' and '.join(left_out)}, which it does not take" if left_out else ""
    return f"{spec.get('_target_') or SGD}({given}){without}"


def build_loss(spec: Mapping[str, Any]) -> Callable[..., Any] | None:
    """The loss that ``{"_target_": "package.name", argument: value, …}`` describes; None where it names none.

    Args:
        spec: the configuration group. Its arguments are those of a function beside logits and labels, or those of a
            class's constructor.

    Returns:
        What is called with logits `copies x N x K` and labels `N`, and returns a scalar.

    Raises:
        UserError: no such name, arguments that it does not take, or what it makes cannot be called, or would learn.
    """
    target = spec.get("_target_")
    if target is None:
        return None
    make = imported(target, "loss._target_")
    arguments = {key: value for key, value in spec.items() if key not in _NOT_OF_LOSS and value is not None}
    fix = "name a function of logits and labels, or a class whose objects are called with them"
    if not callable(make):
        raise UserError(f"loss._target_={target!r} cannot be called; {fix}")
    given = 0 if inspect.isclass(make) else 2
    takes = accepted(make, given)
    usual = [key for key in _OF_OURS if key in arguments and takes is not None and key not in takes]
    if usual:
        raise UserError(
            f"loss.{usual[0]}={shown(arguments[usual[0]])} is a field of glsmooth's own loss, which {target} does not "
            "take; set loss=custom, where these are null"
        )
    check_arguments("loss", target, make, arguments, given)
    if not inspect.isclass(make):
        return partial(make, **arguments)
    try:
        loss = make(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"loss._target_={target} refuses its arguments: {_first_line(error)}; change them") from error
    if not callable(loss):
        raise UserError(f"loss._target_={target!r} makes what cannot be called; {fix}")
    if isinstance(loss, torch.nn.Module) and any(value.requires_grad for value in loss.parameters()):
        raise UserError(f"loss._target_={target} has parameters, which nothing would train; make them buffers")
    return cast("Callable[..., Any]", loss)


def check_loss(spec: Mapping[str, Any]) -> None:
    """Check the configuration group before there are logits.

    Raises:
        UserError: as :func:`build_loss`; or where it names none, a field that is missing, or that is none.
    """
    build_loss(spec)
    if spec.get("_target_") is not None:
        return
    for key, value in spec.items():
        name = f"loss.{key}"
        if name not in RULES:
            fields = [field for field in RULES if "*" not in field]
            raise UserError(f"{cut(name)}={shown(value)} is not a field{near_field(name, fields)}; leave it out")
        if value is None and key not in _NOT_OF_LOSS:
            raise UserError(RULES[name].refusal(name, None))


def check_total(target: str, total: Any) -> None:
    """Refuse what a loss of the user's own returns unless training can go down it.

    Raises:
        UserError: it is no scalar tensor of floats that depends on the logits.
    """
    if not isinstance(total, torch.Tensor):
        raise UserError(f"loss._target_={target} returns a {type(total).__name__}; return a scalar torch.Tensor")
    if total.ndim or not total.is_floating_point():
        raise UserError(
            f"loss._target_={target} returns a tensor of shape {tuple(total.shape)} and {total.dtype}; return one "
            "number, for example the mean over images: loss.mean()"
        )
    if not total.requires_grad:
        raise UserError(
            f"loss._target_={target} returns what does not depend on the logits; leave out what cuts it off (argmax, "
            ".item(), .detach(), torch.no_grad())"
        )


def try_loss(target: str, loss: Callable[..., Any], copies: int, classes: int) -> None:
    """Call a loss of the user's own once, before the training.

    Raises:
        UserError: it fails, or :func:`check_total` refuses what it returns.
    """
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(copies, 4, classes, generator=generator), torch.arange(4) % classes
    try:
        with torch.random.fork_rng(devices=[]):
            total = loss(logits.requires_grad_(), labels)
    except Exception as error:
        raise UserError(
            f"loss._target_={target} fails for logits of shape {tuple(logits.shape)} and labels of shape (4,): "
            f"{type(error).__name__}: {_first_line(error)}; it is given logits (copies, images, classes) and labels "
            "(images), and returns a scalar: F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits))), say"
        ) from error
    check_total(target, total)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _is_optimizer(member: Any) -> bool:
    return inspect.isclass(member) and issubclass(member, torch.optim.Optimizer)
