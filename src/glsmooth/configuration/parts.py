"""The parts of a training that a user may name: the optimizer, by the name of its class.

What is typed beside ``_target_`` are arguments of the class, but for the fields that say how training goes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from glsmooth.configuration.build import accepted, check_arguments, imported
from glsmooth.configuration.fields import shown
from glsmooth.errors import UserError, did_you_mean

__all__ = ["SGD", "build_optimizer", "check_optimizer", "described", "optimizer_arguments"]

#: The optimizer where none is named.
SGD = "torch.optim.SGD"
#: Fields of ``optimizer`` that say how training goes.
_OF_TRAINING = ("_target_", "bias_lr", "schedule", "milestones", "gamma", "epochs", "batch_size")
#: Fields that every recipe for SGD has: another class is given those that it takes.
_OF_SGD = ("momentum", "nesterov")
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


def _is_optimizer(member: Any) -> bool:
    return inspect.isclass(member) and issubclass(member, torch.optim.Optimizer)
