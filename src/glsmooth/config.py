"""Configuration: what every field may hold, and the objects that configuration dictionaries describe.

Everything here works on plain dictionaries (or OmegaConf's), so a checkpoint's or a run's stored configuration
builds the same objects as the command line does. Hydra itself enters in :mod:`glsmooth.cli` only.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import importlib
import inspect
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from glsmooth import laws, transforms
from glsmooth._text import did_you_mean
from glsmooth.family import SmoothedFamily
from glsmooth.regions import Box
from glsmooth.transforms import ResolvableTransform

__all__ = [
    "UserError",
    "build_family",
    "build_laws",
    "build_region",
    "build_transform",
    "conf_dir",
    "leaves",
    "merge_checkpoint",
    "near_field",
    "plain",
    "run_id",
    "validate",
]

log = logging.getLogger(__name__)

METHODS = ("neyman_pearson", "gl", "gl_ode", "gl_printed", "tss", "mp")
DATASETS = ("digits", "mnist", "cifar10", "cifar100", "image_folder", "imagenet")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


class UserError(ValueError):
    """A mistake that the user can mend. Its last line names the field, the value and the fix."""


def conf_dir() -> Path:
    """The folder of the configuration files: inside the package when installed, the repository's otherwise."""
    package = Path(__file__).resolve().parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


def plain(cfg: Any) -> Any:
    """A configuration as plain dictionaries, lists, numbers and strings, with every reference resolved.

    Raises:
        UserError: a mandatory field without a value, or a reference to nothing.
    """
    if not OmegaConf.is_config(cfg):
        return cfg
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key or "a field"
        raise UserError(
            f"{key} is missing; set {key}={_rule(key).example if _rule(key) else 'VALUE'}"
        ) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}; give a value") from None


# ---------------------------------------------------------------------------------------------------------------
# What every field may hold


@dataclass(frozen=True)
class Rule:
    """What a field accepts: a test, its wording ("a number above 0") and an example for the message."""

    accepts: Callable[[Any], bool]
    wanted: str
    example: str
    choices: tuple[str, ...] = ()

    def or_null(self) -> Rule:
        return Rule(lambda v: v is None or self.accepts(v), self.wanted, self.example, self.choices)

    def refusal(self, key: str, value: Any) -> str:
        """Why the field ``key`` cannot be ``value``, and what to type."""
        if self.choices:
            return f"{key}={value!r} is not a choice{did_you_mean(str(value), self.choices)}"
        example = self.example
        if isinstance(value, float) and value.is_integer() and self.accepts(int(value)):
            example = str(int(value))  # 1e3 is a float to YAML
        setting = f"'{key}={example}'" if example[0] in "[{" else f"{key}={example}"
        return f"{key}={_shown(value)} must be {self.wanted}; set for example {setting}"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(wanted: str, example: str, within: Callable[[float], bool] = lambda _: True) -> Rule:
    return Rule(lambda v: _is_number(v) and within(v), wanted, example)


def _whole(least: int, example: int) -> Rule:
    return Rule(
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least,
        f"a whole number, at least {least}",
        str(example),
    )


def _choice(*choices: str) -> Rule:
    return Rule(lambda v: v in choices, f"one of {', '.join(choices)}", choices[0], choices)


def _list_of(rule: Rule, wanted: str, example: str, length: int | None = None) -> Rule:
    return Rule(
        lambda v: isinstance(v, list) and (length is None or len(v) == length) and all(map(rule.accepts, v)),
        wanted,
        example,
    )


_FLAG = Rule(lambda v: isinstance(v, bool), "true or false", "true")
_TEXT = Rule(lambda v: isinstance(v, str) and v != "", "a text", "NAME")
_PATH = Rule(lambda v: isinstance(v, str) and v != "", "a path", "PATH")
_REAL = _number("a finite number", "0.0")
_POSITIVE = _number("a finite number above 0", "0.5", lambda v: v > 0)
_NOT_NEGATIVE = _number("a finite number, at least 0", "0.5", lambda v: v >= 0)
_UNIT = _number("a number between 0 and 1, both excluded", "0.1", lambda v: 0 < v < 1)
_ALPHA = _number("a number between 0 and 1, both excluded", "0.001", lambda v: 0 < v < 1)
_SHARE = Rule(
    lambda v: _is_number(v) and (v >= 1 if isinstance(v, int) else 0 < v <= 1),
    "a share in (0, 1] or a whole number of batches",
    "1.0",
)
_INTERVAL = _list_of(_REAL, "an interval [low,high] of finite numbers", "[-0.2,0.2]", 2)
_SIZE = _list_of(_whole(1, 32), "a size [height,width] in whole pixels", "[32,32]", 2)
_ANY = Rule(lambda _: True, "anything", "VALUE")

#: What each field of any command may hold; ``*`` stands for one name. A field without a rule is unknown.
RULES: dict[str, Rule] = {
    "seed": _whole(0, 0),
    "run_dir": _PATH,
    "ckpt": Rule(_PATH.accepts, "a path", "outputs/train/ID/best.ckpt"),
    "batch_size": _whole(1, 256),
    "precision": _choice(*PRECISIONS),
    "compile": _FLAG,
    "channels_last": _FLAG,
    "dry_run": _FLAG,
    "pixel_noise": _NOT_NEGATIVE.or_null(),
    "image_size": _SIZE.or_null(),
    "alpha": _ALPHA,
    "format": _choice("table", "json"),
    "plot": _FLAG,
    "runs": _list_of(_PATH, "a list of directories", "[outputs/certify/ID]"),
    "votes": _PATH.or_null(),
    "transform._target_": Rule(_TEXT.accepts, "the name of a class", "my_module.Shear").or_null(),
    "transform.*": _ANY,  # arguments of the class, which checks them itself
    "smoothing.*.law": _choice(*laws.LAWS).or_null(),
    "smoothing.*.loc": _REAL.or_null(),
    "smoothing.*.low": _REAL.or_null(),
    "smoothing.*.high": _REAL.or_null(),
    "smoothing.*.scale": _POSITIVE.or_null(),
    "smoothing.*.rate": _POSITIVE.or_null(),
    "smoothing.*": Rule(
        lambda v: v is None, "a law with its fields, or null", "{law:Normal,loc:0,scale:0.5}"
    ),
    "region.*": _INTERVAL.or_null(),
    "bound.methods": _list_of(
        _choice(*METHODS), f"a list of methods among {', '.join(METHODS)}", "[neyman_pearson,gl]"
    ).or_null(),
    "monte_carlo.name": _choice("paper", "paper_literal", "sequential"),
    "monte_carlo.n0": _whole(1, 200),
    "monte_carlo.n": _whole(1, 1000),
    "monte_carlo.alpha": _ALPHA,
    "dataset.name": _choice(*DATASETS).or_null(),
    "dataset.root": _PATH.or_null(),
    "dataset.download": _FLAG.or_null(),
    "dataset.image_size": _SIZE.or_null(),
    "dataset.val_fraction": _UNIT.or_null(),
    "dataset.test_fraction": _UNIT.or_null(),
    "dataset.split_seed": _whole(0, 0).or_null(),
    "dataset.subset": _whole(1, 500).or_null(),
    "dataset.subset_seed": _whole(0, 0).or_null(),
    "dataset.crop_padding": _whole(0, 4).or_null(),
    "dataset.flip": _FLAG.or_null(),
    "dataset.num_workers": _whole(0, 4).or_null(),
    "model.name": _TEXT.or_null(),
    "model.pretrained": _FLAG.or_null(),
    "model.weights": _PATH.or_null(),
    "loss.copies": _whole(1, 2),
    "loss.consistency": _NOT_NEGATIVE,
    "loss.entropy": _NOT_NEGATIVE,
    "loss.pixel_noise": _NOT_NEGATIVE,
    "optimizer.lr": _POSITIVE,
    "optimizer.momentum": _number("a number in [0, 1)", "0.9", lambda v: 0 <= v < 1),
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.nesterov": _FLAG,
    "optimizer.schedule": _choice("cosine", "constant"),
    "optimizer.epochs": _whole(1, 20),
    "optimizer.batch_size": _whole(1, 128),
    "trainer.accelerator": _TEXT,
    "trainer.devices": Rule(
        lambda v: v in ("auto", -1) or _whole(1, 1).accepts(v), "a number of devices, -1 (all) or auto", "2"
    ),
    "trainer.num_nodes": _whole(1, 1),
    "trainer.strategy": _TEXT,
    "trainer.precision": _choice(*PRECISIONS),
    "trainer.num_threads": _whole(1, 2).or_null(),
    "trainer.fast_dev_run": _FLAG,
    "trainer.limit_train_batches": _SHARE,
    "trainer.limit_val_batches": _SHARE,
    "trainer.progress": _FLAG,
    "logger.name": _choice("csv", "wandb"),
    "logger.project": _TEXT,
    "logger.entity": _TEXT.or_null(),
}


def _rule(key: str) -> Rule | None:
    if key in RULES:
        return RULES[key]
    patterns = (
        p for p in RULES if "*" in p and p.count(".") == key.count(".") and fnmatch.fnmatchcase(key, p)
    )
    return RULES.get(next(patterns, ""))


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field with its dotted name. Lists are values; what ``transform`` holds is the class's own business."""
    for key, value in config.items():
        if isinstance(value, Mapping) and prefix != "transform.":
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_fields(config: Mapping[str, Any]) -> None:
    """Check every field of a plain configuration against its rule.

    Raises:
        UserError: an unknown field, or a value that its field does not accept.
    """
    for key, value in leaves(config):
        rule = _rule(key)
        if rule is None:
            known = [name for name in RULES if "*" not in name] + [
                name for name, _ in leaves(config) if _rule(name)
            ]
            raise UserError(
                f"{key}={_shown(value)} is not a field{near_field(key, known)}; leave it out otherwise"
            )
        if not rule.accepts(value):
            raise UserError(rule.refusal(key, value))
        if key.startswith("region.") and value is not None and value[0] > value[1]:
            raise UserError(f"{key}={value} is inverted; set '{key}=[{value[1]},{value[0]}]'")


def near_field(key: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for an unknown field: the one that is spelled alike, or else its neighbours."""
    group = key.rpartition(".")[0]
    known = sorted(known)
    neighbours = [name for name in known if group and name.rpartition(".")[0] == group]
    near = difflib.get_close_matches(key, neighbours or known, n=1, cutoff=0.8 if neighbours else 0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; choose from {', '.join(neighbours)}" if neighbours else ""


def validate(cfg: Any, command: str) -> dict[str, Any]:
    """Check a composed configuration before any work.

    Args:
        cfg: the configuration of ``command`` (``train``, ``certify``, ``bounds`` or ``report``).

    Returns:
        The configuration as plain dictionaries.

    Raises:
        UserError: the first mistake found.
    """
    config = plain(cfg)
    check_fields(config)
    if command in ("train", "bounds"):
        size = config["dataset"]["image_size"] if command == "train" else config["image_size"]
        family = build_family(config["transform"], config["smoothing"], size)
        family.check_region(build_region(config["region"], family.transform))
    for key in ("ckpt", "votes"):
        if config.get(key) is not None and not Path(config[key]).is_file():
            raise UserError(
                f"{key}={config[key]!r} is not a file; set {key}= to the path of an existing file"
            )
    if command == "report" and bool(config["runs"]) == (config["votes"] is not None):
        raise UserError(
            "runs=[] and votes=null; name directories that certify wrote (or votes=FILE, not both)"
        )
    for run in config.get("runs", ()):
        if not Path(run).is_dir():
            raise UserError(
                f"runs: {run!r} is not a directory; name directories that certify wrote, outputs/certify/<id>"
            )
    return config


# ---------------------------------------------------------------------------------------------------------------
# Objects


def build_transform(spec: Mapping[str, Any]) -> ResolvableTransform:
    """The transformation that ``{"_target_": "package.Class", argument: value, …}`` describes.

    Raises:
        UserError: no such class, not a transformation, or arguments that it does not take.
    """
    spec = plain(spec)
    target = spec.get("_target_")
    if not target:
        raise UserError(
            "transform._target_ is missing; set transform._target_=my_module.Shear, or name a built-in transform"
        )
    cls = _import(target)
    if not (inspect.isclass(cls) and issubclass(cls, ResolvableTransform)):
        raise UserError(
            f"transform._target_={target!r} is not a subclass of glsmooth.ResolvableTransform; name one"
        )
    arguments = {key: value for key, value in spec.items() if key != "_target_" and value is not None}
    accepted = inspect.signature(cls).parameters
    for key, value in arguments.items():
        if key not in accepted and not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
            takes = f"it takes {', '.join(accepted)}" if accepted else "it takes none"
            raise UserError(
                f"transform.{key}={value!r} is not an argument of {target}, {takes}; remove it (transform.{key}=null)"
            )
    try:
        return cls(**arguments)
    except ValueError as error:
        named = str(error).partition("=")[0] in arguments
        raise UserError(f"transform{'.' if named else ': '}{error}") from error


def _import(target: str) -> Any:
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise UserError(
            f"transform._target_={target!r} names no module; set transform._target_=my_module.{target}"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the user's module was found; something that it imports was not
        raise UserError(
            f"transform._target_={target!r}: there is no module {error.name!r}; run where {error.name}.py lies, or install it"
        ) from None
    if not hasattr(module, name):
        names = [n for n, member in vars(module).items() if inspect.isclass(member) and not n.startswith("_")]
        raise UserError(
            f"transform._target_={target!r}: no {name!r} in {module_name}{did_you_mean(name, names)}"
        )
    return getattr(module, name)


def build_laws(spec: Mapping[str, Any], transform: ResolvableTransform) -> dict[str, laws.Law]:
    """The smoothing laws ``{parameter: {law, loc, scale, rate, low, high}}`` of a transformation.

    Parameters that are null (or hold nothing but nulls) count as left out.

    Raises:
        UserError: a law for a parameter that the transformation does not have, no law for one that it has, or a
            law whose fields are missing, left over or impossible.
    """
    spec = {
        name: law
        for name, law in plain(spec).items()
        if law is not None and any(v is not None for v in law.values())
    }
    for name in spec:
        if name not in transform.parameters:
            raise UserError(
                f"smoothing.{name}={spec[name]} is stray: {transform.name} has the parameters "
                f"{', '.join(transform.parameters)}; remove it (smoothing.{name}=null)"
            )
    for name in transform.parameters:
        if name not in spec:
            raise UserError(
                f"smoothing.{name} is missing; set '+smoothing.{name}={{law:Normal,loc:0,scale:0.5}}'"
            )
    try:
        return {name: laws.from_config(spec[name], f"smoothing.{name}") for name in transform.parameters}
    except ValueError as error:
        raise UserError(str(error)) from error


def build_region(spec: Mapping[str, Any], transform: ResolvableTransform) -> Box:
    """The box ``{parameter: [low, high]}``; parameters that are null count as left out.

    Raises:
        UserError: an interval for a parameter that the transformation does not have, not an interval, inverted.
    """
    spec = {name: interval for name, interval in plain(spec).items() if interval is not None}
    for name in spec:
        if name not in transform.parameters:
            raise UserError(
                f"region.{name}={spec[name]} is stray: {transform.name} has the parameters "
                f"{', '.join(transform.parameters)}; remove it (region.{name}=null)"
            )
    if not spec:
        example = f"+region.{transform.parameters[0]}=[-1,1]"
        raise UserError(f"region is empty: nothing would be certified; set for example '{example}'")
    try:
        return Box(**spec)
    except ValueError as error:
        raise UserError(str(error)) from error


def build_family(
    transform: Mapping[str, Any],
    smoothing: Mapping[str, Any],
    image_size: Sequence[int] | None = None,
    pixel_noise: float = 0.0,
) -> SmoothedFamily:
    """The smoothed family of two configuration dictionaries; ``image_size`` (H, W) puts translations on the torus.

    Raises:
        UserError: whatever the parts or their combination refuse.
    """
    built = build_transform(transform)
    size = None if image_size is None else (image_size[0], image_size[1])
    try:
        return SmoothedFamily(built, build_laws(smoothing, built), size, pixel_noise)
    except ValueError as error:
        raise UserError(str(error)) from error


# ---------------------------------------------------------------------------------------------------------------
# What a checkpoint or a run brings


def merge_checkpoint(cfg: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Fill a configuration from what a checkpoint (or a run's summary) stores: null means "as stored".

    With the stored transformation, its laws and region hold except where ``cfg`` says otherwise. Another
    transformation takes its own defaults, with a warning, and again what ``cfg`` says.

    Args:
        cfg: a configuration whose groups are ``from_checkpoint`` or named.
        stored: plain dictionaries under ``transform``, ``smoothing``, ``region``, ``dataset`` and ``model``;
            those that it lacks stay as in ``cfg``.

    Returns:
        The whole configuration as plain dictionaries.

    Raises:
        UserError: another model than the checkpoint's.
    """
    config = plain(cfg)
    typed = _said(config.get("transform", {}))
    kept = _said(stored["transform"])
    if typed.get("_target_", kept["_target_"]) == kept["_target_"]:
        smoothing, region = stored["smoothing"], stored["region"]
        for key in typed.keys() & kept.keys():
            if typed[key] != kept[key]:
                log.warning(
                    "transform.%s=%s, but the checkpoint was trained with %s", key, typed[key], kept[key]
                )
        config["transform"] = {**kept, **typed}
    else:
        cls = type(build_transform(typed))
        name = next((name for name, builtin in transforms.BUILTIN.items() if builtin is cls), None)
        smoothing, region = _defaults("smoothing", name), _defaults("region", name)
        log.warning(
            "the checkpoint was trained for %s; %s takes its own default laws and region",
            kept["_target_"],
            typed["_target_"],
        )
        config["transform"] = typed
    config["smoothing"] = _merge_laws(smoothing, config.get("smoothing", {}))
    config["region"] = {**_said(region), **_said(config["region"])}
    if "dataset" in config and "dataset" in stored:
        dataset = _said(config["dataset"])
        if dataset.get("name", stored["dataset"]["name"]) == stored["dataset"]["name"]:
            config["dataset"] = {**stored["dataset"], **dataset}
    if "model" in config and "model" in stored:
        name, trained = config["model"]["name"], stored["model"]["name"]
        if name not in (None, trained):
            raise UserError(f"model.name={name!r}, but the checkpoint holds {trained!r}; leave model out")
        config["model"] = dict(stored["model"])
    return config


def _said(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that hold something."""
    return {key: value for key, value in config.items() if value is not None}


def _defaults(group: str, name: str | None) -> dict[str, Any]:
    """The packaged defaults of a built-in transformation; none for a user's own."""
    return plain(OmegaConf.load(conf_dir() / group / f"{name}.yaml")) if name else {}


def _merge_laws(base: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    merged = {name: _said(law) for name, law in base.items() if law is not None}
    for name, law in typed.items():
        said = _said(law or {})
        if said:
            # Another law starts afresh: the fields of the old one mean nothing to it.
            same = said.get("law", merged.get(name, {}).get("law")) == merged.get(name, {}).get("law")
            merged[name] = {**merged.get(name, {}), **said} if same else said
    return merged


# ---------------------------------------------------------------------------------------------------------------
# The name of a run

#: Fields that do not decide a command's result: where and how fast it runs, and where it reports to.
UNDECISIVE: dict[str, tuple[str, ...]] = {
    "train": (
        "trainer.accelerator",
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.strategy",
        "trainer.num_threads",
        "trainer.progress",
        "dataset.subset",  # of the test images; training does not see them
        "dataset.subset_seed",
    ),
    "certify": ("ckpt", "batch_size", "compile", "channels_last", "dry_run", "trainer.*"),
    "bounds": ("format", "plot"),
    "report": (),
}
_NEVER_DECISIVE = ("run_dir", "logger.*", "dataset.download", "dataset.num_workers")


def run_id(cfg: Any, command: str) -> str:
    """Name of a run: a digest of everything that decides its result, 12 hexadecimal digits.

    A checkpoint counts by its bytes, wherever it lies. A data set that has a name counts by that name, a folder of
    the user's own by its path.

    Raises:
        UserError: the configuration is not valid; so a mistake leaves no directory behind.
    """
    config = validate(cfg, command)
    ignored = [*_NEVER_DECISIVE, *UNDECISIVE[command]]
    if config.get("dataset", {}).get("name") not in (None, "image_folder"):
        ignored.append("dataset.root")
    fields = {
        # 1 and 1.0 are the same setting
        key: float(value) if _is_number(value) else value
        for key, value in leaves(config)
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in ignored)
    }
    if "ckpt" in config:
        with open(config["ckpt"], "rb") as file:
            fields["ckpt"] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def _resolve_run_id(command: str, *, _root_: DictConfig) -> str:
    config = OmegaConf.masked_copy(_root_, [key for key in _root_ if key not in ("hydra", "run_dir")])
    return run_id(config, command)


# Used as ${run_id:COMMAND} by hydra.run.dir; registered on import, so that jobs on other machines know it too.
OmegaConf.register_new_resolver("run_id", _resolve_run_id, replace=True)
