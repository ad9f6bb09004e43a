"""Objects from the plain dictionaries of a configuration, a checkpoint or a run."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from glsmooth import threats
from glsmooth.configuration.fields import INTERVAL, cut, shown
from glsmooth.configuration.plain import plain
from glsmooth.errors import UserError, did_you_mean, keyed
from glsmooth.family.regions import Ball, Box, Points, Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import LAWS, Law
from glsmooth.threats import Nearby, Threat
from glsmooth.transforms import BUILTIN, Identity, ResolvableTransform

__all__ = [
    "ONLY_IN_PYTHON",
    "accepted",
    "both_regions",
    "build_canonical",
    "build_family",
    "build_law",
    "build_laws",
    "build_region",
    "build_threat",
    "build_transform",
    "check_arguments",
    "check_law_targets",
    "check_target",
    "family_config",
    "imported",
    "law_config",
    "law_targets",
    "law_words",
    "merge_region",
    "typed_again",
    "with_folder",
    "without_replaced",
    "without_usual",
]

#: How a name ends of what a file cannot say how to build.
ONLY_IN_PYTHON = " (only in Python)"
_IN_PYTHON = (
    "was made in Python, and no file can say how; in Python, glsmooth.report.page.write_report(DIR, family=FAMILY) "
    "writes the report"
)

#: By these names files may ask for a class of ours; no other is imported because a file says so.
_TRANSFORMS = {
    f"{module}.{cls.__name__}": cls for cls in BUILTIN.values() for module in ("glsmooth.transforms", cls.__module__)
}
_IDENTITY = "glsmooth.transforms.Identity"
_THREATS = {f"glsmooth.threats.{cls.__name__}": cls for cls in threats.BUILTIN.values()}
_BUILTIN_TARGETS = frozenset((*_TRANSFORMS, *_THREATS))

#: Fields of ``transform`` that are no arguments of a transformation's class, but say what else is done to images.
_THREAT_FIELDS = ("then", "round8", "l2", "residual")


def check_target(spec: Mapping[str, Any], source: str, typed: str | None = None, group: str = "transform") -> None:
    """Refuse a class that a file names, unless it is built in or the user named it, too. Imports nothing.

    To import a module is to run it, and a file may come from anybody.

    Args:
        spec: ``{"_target_": "package.Class", argument: value, …}`` as the file has it.
        source: the file, in words.
        typed: the target that the user typed on the command line, or gave in Python.
        group: ``transform``; or ``model``, ``dataset`` or ``smoothing.NAME``, of which none is built in by such a name.

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
    what = {"transform": "transformations", "model": "networks", "dataset": "data sets"}.get(group, "laws")
    typing = f"{group}._target_={name}"
    other = "" if typed is None else f" (typed was {typed})"
    raise UserError(
        f"{group}._target_={name} comes from {source}{other}; files may name built-in {what} only. If you trust "
        f"it, type {typing}"
    )


def typed_again(
    transform: Mapping[str, Any],
    smoothing: Mapping[str, Any],
    model: Mapping[str, Any],
    dataset: Mapping[str, Any] | None = None,
) -> list[str]:
    """What a user types, ``transform._target_=my_module.Shear``, for what :func:`check_target` would refuse of a file.

    Args:
        transform, smoothing, model, dataset: groups as a checkpoint has them; without ``dataset`` for a command that
            reads none.
    """
    named = {"transform": transform, "model": model, "dataset": dataset or {}}
    named |= {f"smoothing.{name}": law or {} for name, law in smoothing.items()}
    targets = {group: spec.get("_target_") for group, spec in named.items()}
    if targets["transform"] in _BUILTIN_TARGETS:
        del targets["transform"]
    return [f"{group}._target_={target}" for group, target in targets.items() if target]


def law_targets(smoothing: Mapping[str, Any]) -> frozenset[str]:
    """The classes of laws that a configuration's ``smoothing`` names: typed, they may be imported."""
    return frozenset(law["_target_"] for law in smoothing.values() if law and law.get("_target_"))


def check_law_targets(smoothing: Mapping[str, Any], source: str, typed: Collection[str]) -> None:
    """Refuse a law's class that a file names, unless the user named it, too: as :func:`check_target`.

    Args:
        smoothing: the laws as the file has them.
        typed: the classes that the user typed on the command line, or gave in Python.

    Raises:
        UserError: another one.
    """
    for name, law in smoothing.items():
        target = (law or {}).get("_target_")
        if target:
            check_target(law, source, target if target in typed else None, f"smoothing.{cut(name)}")


def build_transform(spec: Mapping[str, Any]) -> ResolvableTransform:
    """The transformation that ``{"_target_": "package.Class", argument: value, …}`` describes.

    Raises:
        UserError: no such class, not a transformation, or arguments that it does not take.
    """
    spec = plain(spec)
    target = spec.get("_target_")
    if target in _THREATS:
        then = spec.get("then") or _IDENTITY
        if then != _IDENTITY and then not in _TRANSFORMS:
            raise UserError(
                f"transform.then={shown(then)} is not one of glsmooth.transforms; leave it out, or name one"
            )
        return Identity() if then == _IDENTITY else _TRANSFORMS[then]()
    if target in _TRANSFORMS:  # a class of the user's own may have arguments of these names
        spec = {key: value for key, value in spec.items() if key not in _THREAT_FIELDS or key == "then"}
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


def without_usual(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A ``transform`` without the :data:`_THREAT_FIELDS` that say nothing: older files have none."""
    target = spec.get("_target_")
    if target is not None and target not in _BUILTIN_TARGETS:  # arguments of a class of the user's own
        return dict(spec)
    usual = (None,) if target is None else (None, False, 0)
    return {key: value for key, value in spec.items() if key not in (*_THREAT_FIELDS, "mask") or value not in usual}


def build_threat(spec: Mapping[str, Any]) -> Threat | Nearby | None:
    """The threat that a ``transform`` describes: its ``_target_``, or what ``round8`` and ``l2`` say of another one.

    Raises:
        UserError: arguments that it does not take.
    """
    spec = plain(spec)
    target = spec.get("_target_")
    if target not in _BUILTIN_TARGETS:
        return None
    arguments = {key: value for key, value in spec.items() if key != "_target_" and value is not None}
    done = {key: arguments.pop(key, usual) for key, usual in (("round8", False), ("l2", 0.0))}
    if arguments.get("mask") == "none":
        del arguments["mask"]
    with keyed({key: f"transform.{key}" for key in (*done, *arguments)}):
        if target not in _THREATS:
            return Nearby(**done) if done["round8"] or done["l2"] else None
        arguments = {key: value for key, value in arguments.items() if key not in _THREAT_FIELDS}
        check_arguments("transform", str(target), _THREATS[target], arguments)
        return _THREATS[target](**arguments, **done)


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
                f"smoothing.{cut(name)}={shown(spec[name])} is stray: {transform.name} has other parameters"
                f"{did_you_mean(cut(name), transform.parameters)}; remove it (smoothing.{cut(name)}=null)"
            )
    for name in transform.parameters:
        if name not in spec:
            raise UserError(f"smoothing.{name} is missing; set '+smoothing.{name}={{law:Normal,loc:0,scale:0.5}}'")
    return {name: build_law(spec[name], f"smoothing.{name}") for name in transform.parameters}


#: Fields of a region that is no box.
_SHAPES = ("ball", "over", "centre", "points")
_BALL = "'region={ball:20,over:[tx,ty]}'"


def _shapes(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a region says of a ball or of points. A parameter of one of these names has an interval."""
    return {key: spec[key] for key in _SHAPES if spec.get(key) is not None and not INTERVAL.accepts(spec[key])}


def without_replaced(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A region's fields in a configuration: beside a ball or points its intervals, which are then defaults, go.

    What is typed of both, or stands in one file, is refused elsewhere (``commands.entry``, :func:`build_region`).
    """
    shapes = _shapes(spec)
    if {"ball", "points"} & shapes.keys():
        return shapes
    return {key: value for key, value in spec.items() if key not in _SHAPES or value is not None}


def merge_region(stored: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """A stored region with the fields that were typed.

    Intervals are replaced one by one, and so are radius and centre of a ball; a region of another kind replaces all.
    """
    said = {key: value for key, value in without_replaced(typed).items() if value is not None}
    kept = {key: value for key, value in stored.items() if value is not None}
    now, was = _shapes(said), _shapes(kept)
    if not said:
        return kept
    if "ball" in was and now and "points" not in now:
        if "over" in now:
            was = {"ball": was["ball"]}
        centre = {**was.get("centre", {}), **now.get("centre", {})}
        return {**was, **now, **({"centre": centre} if centre else {})}
    return said if now or was else {**kept, **said}


def build_region(
    spec: Mapping[str, Any], transform: ResolvableTransform, threat: Threat | Nearby | None = None
) -> Region:
    """The box ``{parameter: [low, high]}``, the ball ``{ball: radius, over: [parameter], centre: {parameter: value}}``
    or the points ``{points: [{parameter: value}]}``. What is null counts as left out.

    Of a ball, ``over`` may be left out where all parameters have one unit (shifts, or a single one) or ``centre`` names
    some; parameters without a centre have their identity.

    Raises:
        UserError: a parameter that the transformation does not have, two kinds of region, or none.
    """
    spec = {name: value for name, value in plain(spec).items() if value is not None}
    shapes = _shapes(spec)
    warped = isinstance(threat, Threat) and threat.parameter
    names = (*((warped,) if warped else ()), *transform.parameters)
    if warped and shapes:
        raise UserError(
            f"region: {warped} is cut into slices, so it needs an interval; set 'region.{warped}=[LOW,HIGH]'"
        )
    for name in spec.keys() - shapes.keys():
        if name not in names:
            owner = threat.name if threat is not None and warped else transform.name
            raise UserError(
                f"region.{cut(name)}={shown(spec[name])} is stray: {owner} has the parameters "
                f"{', '.join(names)}; remove it (region.{cut(name)}=null)"
            )
    if shapes:
        _check_alone(spec, shapes)
        of_points = [name for point in shapes.get("points", ()) for name in point]
        for field, found in (
            ("over", shapes.get("over", ())),
            ("centre", shapes.get("centre", ())),
            ("points", of_points),
        ):
            for name in found:
                if name not in names:
                    hint = did_you_mean(cut(name), names)
                    raise UserError(f"region.{field}: {cut(name)!r} is not a parameter of {transform.name}{hint}")
        with keyed({"radius": "region.ball", "points": "region.points"}):
            return (
                Points(shapes["points"]) if "points" in shapes else Ball(shapes["ball"], **_centre(shapes, transform))
            )
    if not spec:
        example = f"+region.{names[0]}=[-1,1]"
        raise UserError(f"region is empty: nothing would be certified; set for example '{example}'")
    with keyed({name: f"region.{name}" for name in names}):
        return Box(**spec)


def _check_alone(spec: Mapping[str, Any], shapes: Mapping[str, Any]) -> None:
    """Refuse what is beside a ball or points, or of a ball that has no radius."""
    if "points" in shapes and len(shapes) > 1:
        other = next(key for key in shapes if key != "points")
        raise UserError(f"region.points and region.{other} are two regions; leave one out (region.{other}=null)")
    if "points" not in shapes and "ball" not in shapes:
        field = next(iter(shapes))
        raise UserError(f"region.{field}={shown(shapes[field])} is of a ball, which has no radius; set {_BALL}")
    for name in spec.keys() - shapes.keys():
        raise UserError(both_regions(name, "ball" if "ball" in shapes else "points"))


def both_regions(name: str, shape: str) -> str:
    """What to say of an interval beside a ball or points."""
    return (
        f"region.{cut(name)} and region.{shape}: a region is a box, a ball or points, and no product of them; leave "
        f"one out, or take a box that holds the {shape}"
    )


def _centre(shapes: Mapping[str, Any], transform: ResolvableTransform) -> dict[str, float]:
    """The centre of a ball in each of its parameters."""
    over, centre = shapes.get("over"), shapes.get("centre", {})
    names = transform.parameters
    if over is None and not centre and (len(names) == 1 or set(names) == set(transform.integer_parameters)):
        over = names
    if over is None and not centre:
        shifts = [name for name in names if name in transform.integer_parameters]
        raise UserError(
            f"region.over is missing: a ball of {transform.name} could be over {', '.join(names)}; set for example "
            f"'region.over=[{','.join(shifts or names[:1])}]'"
        )
    identity = dict(zip(names, transform.identity.tolist(), strict=True))
    chosen = [name for name in names if name in {*(over or ()), *centre}]
    return {name: centre.get(name, identity[name]) for name in chosen}


def build_family(
    transform: Mapping[str, Any],
    smoothing: Mapping[str, Any],
    image_size: Sequence[int] | None = None,
    pixel_noise: float = 0.0,
    draws: str = "continuous",
) -> SmoothedFamily:
    """The smoothed family of two dictionaries; ``image_size`` (H, W) puts translations on that torus.

    Raises:
        UserError: whatever the parts or their combination refuse.
    """
    built, threat = build_transform(transform), build_threat(transform)
    size = None if image_size is None else (image_size[0], image_size[1])
    laws = build_laws(smoothing, built)
    residual = None if threat is None else transform.get("residual")
    with keyed(_under("smoothing", built) | {"residual": "transform.residual"}):
        return SmoothedFamily(built, laws, size, pixel_noise, draws, threat, residual)


def _under(group: str, transform: ResolvableTransform) -> dict[str, str]:
    """Keys of the parameters, which the library calls by their names alone."""
    return {name: f"{group}.{name}" for name in transform.parameters}


def family_config(family: SmoothedFamily) -> tuple[dict[str, Any], dict[str, Any]]:
    """Transformation and smoothing laws of a family as :func:`build_family` takes them.

    What it could not make again exactly is named for readers only, with :data:`ONLY_IN_PYTHON` at the end: a law or a
    transformation that is defined in a notebook, a script or a function, or that was made of more than plain values.
    """
    smoothing = {
        name: law_config(law) if _law_is_made(law) else {"law": f"{law!r}{ONLY_IN_PYTHON}"}
        for name, law in family.laws.items()
    }
    transform = family.transform
    cls = type(transform)
    builtin = BUILTIN.get(transform.name) is cls
    spec = {"_target_": f"{'glsmooth.transforms' if builtin else cls.__module__}.{cls.__qualname__}"}
    spec |= {name: _argument(transform, name) for name in inspect.signature(cls).parameters}
    threat = family.threat
    if threat is not None:
        said = {**vars(threat), "residual": family.residual}
        if not isinstance(threat, Threat):
            return {**spec, **said}, smoothing
        then = None if type(transform) is Identity else spec["_target_"]
        spec = {"_target_": f"glsmooth.threats.{type(threat).__name__}", **({"then": then} if then else {}), **said}
        return (
            spec if _is_made_by(spec, transform) else {"_target_": f"{cls.__qualname__}{ONLY_IN_PYTHON}"}
        ), smoothing
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


def _is_importable(target: str) -> bool:
    """Is it a class of a module, not one of a notebook, a script or a function?"""
    return bool(re.fullmatch(r"\w+(\.\w+)+", target)) and not target.startswith("__main__.")


def _law_is_made(law: Law) -> bool:
    """Does a configuration's text give this law?"""
    if type(law) in LAWS.values():
        return True
    config = law_config(law)
    if not _is_importable(config["_target_"]):
        return False
    try:
        return build_law(config) == law
    except Exception:  # a user's class may raise anything
        return False


def _is_made_by(spec: Mapping[str, Any], transform: ResolvableTransform) -> bool:
    """Does a configuration's text give a transformation that is this one in every attribute?"""
    if not _is_importable(spec["_target_"]):
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
    """The plain dictionary ``{"law": name, field: value, …}`` of a law, as configurations and records hold it.

    Of a user's own law ``_target_`` names the class.
    """
    cls = type(law)
    if cls not in LAWS.values():
        return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **law.values}
    return {"law": cls.__name__, **law.values}


def law_words(config: Mapping[str, Any]) -> str:
    """How a law of a configuration is written, ``Normal(0, 0.6)``; a user's own is not built for that."""
    target = config.get("_target_")
    if not target:
        return repr(build_law(config))
    numbers = (v for key, v in config.items() if key not in ("law", "_target_") and v is not None)
    return f"{cut(str(target)).rpartition('.')[2]}({', '.join(f'{v:g}' for v in numbers)})"


def build_law(config: Mapping[str, Any], field: str = "smoothing") -> Law:
    """The law of ``{"law": name, loc, scale, rate, low, high}``, null where unused.

    One of the user's own is ``{"_target_": "package.Class", argument: number, …}``; ``law`` says nothing beside that.

    Args:
        config: the dictionary; fields that the law does not take must be absent or None.
        field: how the caller calls this dictionary; it opens every message.

    Raises:
        UserError: unknown law, missing, leftover or impossible field; the message names it and the fix.
    """
    if config.get("_target_"):
        return _own_law(config, field)
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


def _own_law(config: Mapping[str, Any], field: str) -> Law:
    """The law of a class of the user's own; the arguments that are null count as left out."""
    target = str(config["_target_"])
    cls = imported(target, f"{field}._target_")
    if not (inspect.isclass(cls) and issubclass(cls, Law)):
        raise UserError(f"{field}._target_={target!r} is not a subclass of glsmooth.Law; name one")
    if cls in LAWS.values():
        raise UserError(f"{field}._target_={target!r} is one of glsmooth's laws; set {field}.law={cls.__name__}")
    arguments = {key: v for key, v in config.items() if key not in ("law", "_target_") and v is not None}
    accepted = inspect.signature(cls).parameters
    for key, value in arguments.items():
        if key not in accepted:
            near = did_you_mean(key, accepted) if accepted else "; it takes none"
            raise UserError(
                f"{field}.{cut(key)}={shown(value)} is not an argument of {target}{near} (leave it out, or set "
                f"{field}.{cut(key)}=null)"
            )
    for key, parameter in accepted.items():
        if key not in arguments and parameter.default is parameter.empty:
            raise UserError(f"{field}.{key} is missing: {target} takes {_listed(tuple(accepted))}")
    try:
        with keyed({key: f"{field}.{key}" for key in accepted}):
            law: Law = cls(**arguments)
    except ValueError as error:  # what a class of the user's own refuses it may refuse with any
        message = str(error)
        raise UserError(message if message.startswith(field) else f"{field}: {message}") from error
    return law


def _listed(fields: tuple[str, ...]) -> str:
    return " and ".join(fields) if fields else "no field"
