"""Objects from the plain dictionaries of a configuration, a checkpoint or a run."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from glsmooth.configuration.fields import cut, shown
from glsmooth.configuration.plain import plain
from glsmooth.errors import UserError, did_you_mean, keyed
from glsmooth.family.regions import Box
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import LAWS, Law
from glsmooth.transforms import BUILTIN, ResolvableTransform

__all__ = [
    "ONLY_IN_PYTHON",
    "accepted",
    "build_canonical",
    "build_family",
    "build_law",
    "build_laws",
    "build_region",
    "build_transform",
    "check_arguments",
    "check_target",
    "family_config",
    "imported",
    "law_config",
    "with_folder",
]

#: How a name ends of what a file cannot say how to build.
ONLY_IN_PYTHON = " (only in Python)"
_IN_PYTHON = (
    "was made in Python, and no file can say how; in Python, glsmooth.report.page.write_report(DIR, family=FAMILY) "
    "writes the report"
)

#: By these names files may ask for a class of ours; no other is imported because a file says so.
_BUILTIN_TARGETS = frozenset(
    f"{module}.{cls.__name__}" for cls in BUILTIN.values() for module in ("glsmooth.transforms", cls.__module__)
)


def check_target(spec: Mapping[str, Any], source: str, typed: str | None = None, group: str = "transform") -> None:
    """Refuse a class that a file names, unless it is built in or the user named it, too. Imports nothing.

    To import a module is to run it, and a file may come from anybody.

    Args:
        spec: ``{"_target_": "package.Class", argument: value, …}`` as the file has it.
        source: the file, in words.
        typed: the target that the user typed on the command line, or gave in Python.
        group: ``transform``, or ``model`` or ``dataset``, of which none is built in by such a name.

    Raises:
        UserError: neither.
    """
    target = spec.get("_target_")
    if str(target).endswith(ONLY_IN_PYTHON):
        raise UserError(f"{group}._target_: {shown(target)} {_IN_PYTHON}")
    if not target or target in (*(_BUILTIN_TARGETS if group == "transform" else ()), typed):
        return
    name = str(target)
    if not re.fullmatch(r"\w+(\.\w+)+", name):
        raise UserError(f"{group}._target_={name!r} comes from {source} and names no class; use another file")
    what = {"transform": "transformations", "model": "networks", "dataset": "data sets"}[group]
    raise UserError(
        f"{group}._target_={name} comes from {source}; files may name built-in {what} only. If you trust "
        f"it, type {group}._target_={name}"
    )


def build_transform(spec: Mapping[str, Any]) -> ResolvableTransform:
    """The transformation that ``{"_target_": "package.Class", argument: value, …}`` describes.

    Raises:
        UserError: no such class, not a transformation, or arguments that it does not take.
    """
    spec = plain(spec)
    target = spec.get("_target_")
    if not target:
        raise UserError(
            "transform._target_ is missing; set transform._target_=my_module.Shear, or transform=NAME for a "
            "built-in one"
        )
    cls = imported(target)
    if not (inspect.isclass(cls) and issubclass(cls, ResolvableTransform)):
        raise UserError(f"transform._target_={target!r} is not a subclass of glsmooth.ResolvableTransform; name one")
    arguments = {key: value for key, value in spec.items() if key != "_target_" and value is not None}
    check_arguments("transform", target, cls, arguments)
    # What a class of the user's own refuses it may refuse with any ValueError; from ours that would be a bug.
    refusal = UserError if cls in BUILTIN.values() else ValueError
    try:
        return cls(**arguments)
    except refusal as error:
        message = str(error)
        for value in arguments.values():
            message = message.replace(repr(value), shown(value))  # a file may hold a megabyte
        named = message.partition("=")[0] in arguments
        raise UserError(f"transform{'.' if named else ': '}{message}") from error


def accepted(make: Callable[..., Any], given: int = 0) -> dict[str, inspect.Parameter] | None:
    """The parameters that a class or function takes by name, without the first ``given``; None: any."""
    parameters = list(inspect.signature(make).parameters.values())[given:]
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return None
    return {one.name: one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}


def check_arguments(
    group: str, target: str, make: Callable[..., Any], arguments: Mapping[str, Any], given: int = 0
) -> None:
    """Compare what was typed under ``group`` beside ``_target_`` with what the class or function takes.

    Args:
        given: how many arguments it gets first that nobody types.

    Raises:
        UserError: an argument that it does not take, or one that it cannot do without.
    """
    takes = accepted(make, given)
    if takes is None:
        return
    for key, value in arguments.items():
        if key not in takes:
            words = f"it takes {', '.join(takes)}" if takes else "it takes none"
            raise UserError(
                f"{group}.{cut(key)}={shown(value)} is not an argument of {target}, {words}; remove it "
                f"({group}.{cut(key)}=null)"
            )
    for key, one in takes.items():
        if one.default is one.empty and key not in arguments:
            raise UserError(f"{group}.{key} is missing: {target} takes it; set +{group}.{key}=VALUE")


def build_canonical(name: str | None) -> ResolvableTransform | None:
    """The built-in transformation whose canonical form ``model.canonical`` names; None for ``none`` and null.

    Raises:
        UserError: no such transformation.
    """
    if name in (None, "none"):
        return None
    if name not in BUILTIN:
        raise UserError(f"model.canonical={shown(name)} is not a choice{did_you_mean(cut(name), ['none', *BUILTIN])}")
    return BUILTIN[name]()


def imported(target: str, field: str = "transform._target_") -> Any:
    """What ``"package.name"`` names, from an installed module or one of the working directory. Runs that module.

    Args:
        field: in which the user typed it.

    Raises:
        UserError: no such module, or nothing of this name in it.
    """
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise UserError(f"{field}={target!r} names no module; set {field}=my_module.{target}")
    try:
        with with_folder():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the user's module was found; something that it imports was not
        raise UserError(
            f"{field}={target!r}: there is no module {error.name!r}; run where {error.name}.py lies, or install it"
        ) from None
    if not hasattr(module, name):
        found = {n: member for n, member in vars(module).items() if not n.startswith("_")}
        names = [n for n, member in found.items() if inspect.isclass(member) or inspect.isfunction(member)]
        where = f"{module_name} ({module.__file__})" if getattr(module, "__file__", None) else module_name
        raise UserError(f"{field}={target!r}: no {name!r} in {where}{did_you_mean(name, names)}")
    return getattr(module, name)


@contextmanager
def with_folder() -> Iterator[None]:
    """Have modules of the user's own found in the working directory, after all others and for so long only.

    Last, so that no file in it takes the place of an installed module.
    """
    folder = os.getcwd()
    if folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def build_laws(spec: Mapping[str, Any], transform: ResolvableTransform) -> dict[str, Law]:
    """The smoothing laws ``{parameter: {law, loc, scale, rate, low, high}}`` of a transformation.

    Parameters that are null (or hold nothing but nulls) count as left out.

    Raises:
        UserError: a law for a parameter that the transformation does not have, no law for one that it has, or
            a law whose fields are missing, left over or impossible.
    """
    spec = {
        name: law for name, law in plain(spec).items() if law is not None and any(v is not None for v in law.values())
    }
    for name in spec:
        if name not in transform.parameters:
            raise UserError(
                f"smoothing.{cut(name)}={shown(spec[name])} is stray: {transform.name} has the parameters "
                f"{', '.join(transform.parameters)}; remove it (smoothing.{cut(name)}=null)"
            )
    for name in transform.parameters:
        if name not in spec:
            raise UserError(f"smoothing.{name} is missing; set '+smoothing.{name}={{law:Normal,loc:0,scale:0.5}}'")
    return {name: build_law(spec[name], f"smoothing.{name}") for name in transform.parameters}


def build_region(spec: Mapping[str, Any], transform: ResolvableTransform) -> Box:
    """The box ``{parameter: [low, high]}``; parameters that are null count as left out.

    Raises:
        UserError: an interval for a parameter that the transformation does not have, or not an interval.
    """
    spec = {name: interval for name, interval in plain(spec).items() if interval is not None}
    for name in spec:
        if name not in transform.parameters:
            raise UserError(
                f"region.{cut(name)}={shown(spec[name])} is stray: {transform.name} has the parameters "
                f"{', '.join(transform.parameters)}; remove it (region.{cut(name)}=null)"
            )
    if not spec:
        example = f"+region.{transform.parameters[0]}=[-1,1]"
        raise UserError(f"region is empty: nothing would be certified; set for example '{example}'")
    with keyed(_under("region", transform)):
        return Box(**spec)


def build_family(
    transform: Mapping[str, Any],
    smoothing: Mapping[str, Any],
    image_size: Sequence[int] | None = None,
    pixel_noise: float = 0.0,
) -> SmoothedFamily:
    """The smoothed family of two dictionaries; ``image_size`` (H, W) puts translations on that torus.

    Raises:
        UserError: whatever the parts or their combination refuse.
    """
    built = build_transform(transform)
    size = None if image_size is None else (image_size[0], image_size[1])
    laws = build_laws(smoothing, built)
    with keyed(_under("smoothing", built)):
        return SmoothedFamily(built, laws, size, pixel_noise)


def _under(group: str, transform: ResolvableTransform) -> dict[str, str]:
    """Keys of the parameters, which the library calls by their names alone."""
    return {name: f"{group}.{name}" for name in transform.parameters}


def family_config(family: SmoothedFamily) -> tuple[dict[str, Any], dict[str, Any]]:
    """Transformation and smoothing laws of a family as :func:`build_family` takes them.

    What it could not make again exactly is named for readers only, with :data:`ONLY_IN_PYTHON` at the end: a law or a
    transformation that is defined in a notebook, a script or a function, or that was made of more than plain values.
    """
    smoothing = {
        name: law_config(law) if type(law) in LAWS.values() else {"law": f"{law!r}{ONLY_IN_PYTHON}"}
        for name, law in family.laws.items()
    }
    transform = family.transform
    cls = type(transform)
    builtin = BUILTIN.get(transform.name) is cls
    spec = {"_target_": f"{'glsmooth.transforms' if builtin else cls.__module__}.{cls.__qualname__}"}
    spec |= {name: _argument(transform, name) for name in inspect.signature(cls).parameters}
    if not _is_made_by(spec, transform):
        spec = {"_target_": f"{cls.__qualname__}{ONLY_IN_PYTHON}"}
    return spec, smoothing


def _argument(transform: ResolvableTransform, name: str) -> Any:
    """The argument that a transformation, or a part of it, keeps by its name; None where there is none."""
    for part in (transform, *getattr(transform, "parts", ())):
        value = vars(part).get(name)
        if isinstance(value, str | int | float):
            return value
    return None


def _is_made_by(spec: Mapping[str, Any], transform: ResolvableTransform) -> bool:
    """Does a configuration's text give a transformation that is this one in every attribute?"""
    if not re.fullmatch(r"\w+(\.\w+)+", spec["_target_"]) or spec["_target_"].startswith("__main__."):
        return False
    try:
        again = build_transform(spec)
        again.seal()
    except Exception:  # a user's class may raise anything
        return False
    return _same(again, transform)


def _same(one: Any, other: Any, depth: int = 0) -> bool:
    """Are these equal in all that they hold? Where that cannot be seen, they are not."""
    if one is other:
        return True
    if type(one) is not type(other) or depth > 10:
        return False
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(a, b, depth + 1) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key], depth + 1) for key in one)
    own: Any = type(one).__eq__
    if own is object.__eq__ and hasattr(one, "__dict__"):
        return _same(vars(one), vars(other), depth + 1)
    return bool(one == other)


def law_config(law: Law) -> dict[str, Any]:
    """The plain dictionary ``{"law": name, field: value, …}`` of a law, as configurations and records hold it."""
    return {"law": type(law).__name__, **law.values}


def build_law(config: Mapping[str, Any], field: str = "smoothing") -> Law:
    """The law of ``{"law": name, loc, scale, rate, low, high}``, null where unused.

    Args:
        config: the dictionary; fields that the law does not take must be absent or None.
        field: how the caller calls this dictionary; it opens every message.

    Raises:
        UserError: unknown law, missing, leftover or impossible field; the message names it and the fix.
    """
    name = config.get("law")
    if str(name).endswith(ONLY_IN_PYTHON):
        raise UserError(f"{field}.law: {shown(name)} {_IN_PYTHON}")
    if name not in LAWS:
        raise UserError(f"{field}.law={name!r} is not a law{did_you_mean(str(name), LAWS)}")
    law = LAWS[name]
    for key in config:
        if key != "law" and key not in ("loc", "scale", "rate", "low", "high"):
            raise UserError(
                f"{field}.{key}={config[key]!r} is not a field of a law; {name} takes {_listed(law.fields)}"
            )
    leftover = [key for key in config if key != "law" and key not in law.fields and config[key] is not None]
    if leftover:
        key = leftover[0]
        raise UserError(
            f"{field}.{key}={config[key]!r} is left over: {name} takes {_listed(law.fields)}; "
            f"add {key}:null to the dictionary ({field}.{key}=null)"
        )
    values: dict[str, Any] = {}
    for key in law.fields:
        value = config.get(key)
        if value is None and key == "loc":
            value = 0.0
        if value is None:
            raise UserError(f"{field}.{key} is missing: {name} takes {_listed(law.fields)}; set {field}.{key}=NUMBER")
        values[key] = value
    with keyed({key: f"{field}.{key}" for key in law.fields}):
        return law(**values)


def _listed(fields: tuple[str, ...]) -> str:
    return " and ".join(fields) if fields else "no field"
