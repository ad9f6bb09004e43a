"""Configuration: checks, the objects that its dictionaries describe, and the names of runs.

Everything here works on plain dictionaries (or OmegaConf's), so what a checkpoint or a run stores builds the
same objects as the command line. Hydra itself enters in :mod:`glsmooth.cli` only.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib
import inspect
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from glsmooth import laws, transforms
from glsmooth._text import did_you_mean
from glsmooth.family import SmoothedFamily
from glsmooth.fields import UserError, check_fields, is_number, leaves, rule_of
from glsmooth.regions import Box
from glsmooth.transforms import ResolvableTransform

__all__ = [
    "UserError",
    "build_family",
    "build_laws",
    "build_region",
    "build_transform",
    "conf_dir",
    "merge_checkpoint",
    "plain",
    "run_id",
    "validate",
]

log = logging.getLogger(__name__)


@contextmanager
def _as_user_error() -> Iterator[None]:
    """What the library refuses to build from the configuration is the user's to mend."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def conf_dir() -> Path:
    """The folder of the configuration files: in the package when installed, in the repository otherwise."""
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
        rule = rule_of(error.full_key or "")
        raise UserError(
            f"{error.full_key} is missing; set {error.full_key}={rule.example if rule else 'VALUE'}"
        ) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}; give a value") from None


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
    if command == "train" and config["model"]["name"] is None:
        raise UserError("model.name is missing; set model.name=auto for the dataset's usual network")
    if command in ("train", "bounds"):
        size = config["dataset"]["image_size"] if command == "train" else config["image_size"]
        family = build_family(config["transform"], config["smoothing"], size)
        region = build_region(config["region"], family.transform)
        with _as_user_error():
            family.check_region(region)
    for key in ("ckpt", "votes"):
        if config.get(key) is not None and not Path(config[key]).is_file():
            raise UserError(f"{key}={config[key]!r} is not a file; set {key}= to the path of an existing file")
    if command == "report" and bool(config["runs"]) == (config["votes"] is not None):
        raise UserError("runs=[] and votes=null; name directories that certify wrote (or votes=FILE, not both)")
    for run in config.get("runs", ()):
        if not Path(run).is_dir():
            raise UserError(
                f"runs: {run!r} is not a directory; name directories that certify wrote, outputs/certify/<id>"
            )
    return config


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
    cls = _import(target)
    if not (inspect.isclass(cls) and issubclass(cls, ResolvableTransform)):
        raise UserError(f"transform._target_={target!r} is not a subclass of glsmooth.ResolvableTransform; name one")
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
        raise UserError(f"transform._target_={target!r} names no module; set transform._target_=my_module.{target}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the user's module was found; something that it imports was not
        raise UserError(
            f"transform._target_={target!r}: there is no module {error.name!r}; "
            f"run where {error.name}.py lies, or install it"
        ) from None
    if not hasattr(module, name):
        names = [n for n, member in vars(module).items() if inspect.isclass(member) and not n.startswith("_")]
        raise UserError(f"transform._target_={target!r}: no {name!r} in {module_name}{did_you_mean(name, names)}")
    return getattr(module, name)


def build_laws(spec: Mapping[str, Any], transform: ResolvableTransform) -> dict[str, laws.Law]:
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
                f"smoothing.{name}={spec[name]} is stray: {transform.name} has the parameters "
                f"{', '.join(transform.parameters)}; remove it (smoothing.{name}=null)"
            )
    for name in transform.parameters:
        if name not in spec:
            raise UserError(f"smoothing.{name} is missing; set '+smoothing.{name}={{law:Normal,loc:0,scale:0.5}}'")
    with _as_user_error():
        return {name: laws.from_config(spec[name], f"smoothing.{name}") for name in transform.parameters}


def build_region(spec: Mapping[str, Any], transform: ResolvableTransform) -> Box:
    """The box ``{parameter: [low, high]}``; parameters that are null count as left out.

    Raises:
        UserError: an interval for a parameter that the transformation does not have, or not an interval.
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
    with _as_user_error():
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
    with _as_user_error():
        return SmoothedFamily(built, build_laws(smoothing, built), size, pixel_noise)


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
                log.warning("transform.%s=%s, but the checkpoint was trained with %s", key, typed[key], kept[key])
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
        "approximate",
    ),
    # approximate and stochastic permit a run, and do not change what it gives.
    "certify": ("ckpt", "batch_size", "compile", "channels_last", "dry_run", "approximate", "stochastic", "trainer.*"),
    "bounds": ("format", "plot"),
    "report": (),
}
_NEVER_DECISIVE = ("run_dir", "logger.*", "dataset.download", "dataset.num_workers")


def run_id(cfg: Any, command: str) -> str:
    """Name of a run: a digest of everything that decides its result, 12 hexadecimal digits.

    A checkpoint counts by its bytes, wherever it lies. A data set that has a name counts by that name, a
    folder of the user's own by its path.

    Raises:
        UserError: the configuration is not valid; so a mistake leaves no directory behind.
    """
    config = validate(cfg, command)
    ignored = [*_NEVER_DECISIVE, *UNDECISIVE[command]]
    if config.get("dataset", {}).get("name") not in (None, "image_folder"):
        ignored.append("dataset.root")
    fields = {
        # 1 and 1.0 are the same setting
        key: float(value) if is_number(value) else value
        for key, value in leaves(config)
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in ignored)
    }
    if "ckpt" in config:
        with open(config["ckpt"], "rb") as file:
            fields["ckpt"] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def _resolve_run_id(command: str, *, _root_: DictConfig) -> str:
    # The run directory is what is being named here, and Hydra's own node is no part of the configuration.
    keys = [str(key) for key in _root_ if key not in ("hydra", "run_dir")]
    return run_id(OmegaConf.masked_copy(_root_, keys), command)


# ${run_id:COMMAND} in hydra.run.dir; registered on import, so that jobs on other machines know it too.
OmegaConf.register_new_resolver("run_id", _resolve_run_id, replace=True)
