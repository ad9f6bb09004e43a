"""A command's settings: checked before any work, and completed by what a checkpoint stores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glsmooth import transforms
from glsmooth.bounds import best_residual
from glsmooth.configuration import groups
from glsmooth.configuration.build import (
    build_canonical,
    build_family,
    build_region,
    build_threat,
    build_transform,
    check_law_targets,
    check_target,
    law_targets,
    merge_region,
    without_replaced,
    without_usual,
)
from glsmooth.configuration.exported import exported_files
from glsmooth.configuration.fields import RULES, check_fields
from glsmooth.configuration.parts import check_loss, check_optimizer
from glsmooth.configuration.plain import plain
from glsmooth.configuration.untrusted import read_names
from glsmooth.errors import UserError, keyed
from glsmooth.threats import Nearby, Threat
from glsmooth.voting.speed import AUTO

__all__ = ["merge_checkpoint", "settle_residual", "settled", "usual_noise", "validate", "without_checkpoint"]

#: Standard deviation of the pixel noise that pays for what is done beside a transformation, where none is said.
_NOISE = 0.25
#: By which a residual is chosen where votes have no probability of error (and slices are refused).
_ALPHA = 1e-3

log = logging.getLogger(__name__)


def settled(cfg: Any) -> dict[str, Any]:
    """A composed configuration as plain dictionaries, in which a ball or points have replaced default intervals."""
    config: dict[str, Any] = plain(cfg)
    if "transform" in config:
        config["transform"] = without_usual(config["transform"])
    if "region" in config:
        config["region"] = without_replaced(config["region"])
    if "loss" in config and config["loss"].get("pixel_noise") is None:
        config["loss"] = {**config["loss"], "pixel_noise": usual_noise(config["transform"])}
    return config


def usual_noise(transform: Mapping[str, Any]) -> float:
    """The standard deviation of the pixel noise where none is said: none, unless something has to be paid for by it."""
    return 0.0 if build_threat(transform) is None else _NOISE


def settle_residual(settings: dict[str, Any], shape: Sequence[int]) -> None:
    """Fill ``transform.residual`` where nobody has said it.

    Args:
        settings: of a certification, with its ``pixel_noise``.
        shape: (C, H, W) of its images.
    """
    threat, transform = build_threat(settings["transform"]), settings["transform"]
    if threat is None or transform.get("residual") is not None:
        return
    sigma = settings["pixel_noise"]
    if not sigma > 0:
        raise UserError(
            f"pixel_noise={sigma}: {threat.name} is certified by noise alone; set for example pixel_noise={_NOISE}, as "
            "the network was trained with"
        )
    least = Nearby(threat.round8, threat.l2).residual(shape) if threat.round8 or threat.l2 else 0.0
    if isinstance(threat, Threat):
        least = best_residual(sigma, settings["monte_carlo"].get("alpha", _ALPHA), least)
    settings["transform"] = {**transform, "residual": least}


def validate(cfg: Any, command: str) -> dict[str, Any]:
    """Check a composed configuration before any work.

    Args:
        cfg: the configuration of ``command`` (``train``, ``advise``, ``certify``, ``attack``, ``predict``, ``export``,
            ``bounds``, ``report``).

    Returns:
        The configuration as plain dictionaries.

    Raises:
        UserError: the first mistake found.
    """
    check_fields(plain(cfg), command)
    config = settled(cfg)
    if command == "train" and config["model"]["name"] is None:
        raise UserError("model.name is missing; set model.name=auto for the dataset's usual network")
    if command == "train" and config["model"].get("canonical") != AUTO:
        build_canonical(config["model"].get("canonical"))
    # Null means "as stored", and these are stored nowhere.
    if command == "train" and config["dataset"]["name"] is None:
        raise UserError(RULES["dataset.name"].refusal("dataset.name", None))
    if command == "train":
        check_optimizer(config["optimizer"])
        check_loss(config["loss"])
    if command in ("advise", "export", "predict") and config["ckpt"] is None:
        raise UserError(RULES["ckpt"].refusal("ckpt", None))
    if command == "attack" and not any((config["run"], config["ckpt"], config["model"]["name"])):
        raise UserError(
            "ckpt is missing; set run=outputs/certify/ID to test the certificates of a run, or "
            "ckpt=outputs/train/ID/best.ckpt"
        )
    if command == "certify" or (command == "attack" and config["run"] is None):
        _check_network(config)
    if command == "attack" and config["run"] is not None and not Path(config["run"]).expanduser().is_dir():
        raise UserError(f"run={config['run']!r} is not a directory; name one that certify wrote, outputs/certify/<id>")
    if command in ("attack", "certify", "bounds") and config["bound"]["methods"] is None:
        raise UserError(RULES["bound.methods"].refusal("bound.methods", None))
    if command in ("train", "bounds"):
        size = config["dataset"]["image_size"] if command == "train" else config["image_size"]
        noise = config["loss"]["pixel_noise"] if command == "train" else config["pixel_noise"]
        if noise is None:
            noise = usual_noise(config["transform"])
        family = build_family(config["transform"], config["smoothing"], size, noise)
        region = build_region(config["region"], family.transform, family.threat)
        with keyed({**{name: f"region.{name}" for name in region.parameters}, "radius": "region.ball"}):
            family.check_region(region)
    for key in ("ckpt", "votes"):
        named = config.get(key)
        if key == "ckpt" and named is not None and Path(named).is_dir():
            exported_files(Path(named))
        elif named is not None and not Path(named).is_file():
            raise UserError(f"{key}={named!r} is not a file; set {key}= to the path of an existing file")
    if command == "predict" and not Path(config["images"]).expanduser().exists():
        raise UserError(
            f"images={config['images']!r} is no file and no folder; name an image file, or a folder of some"
        )
    if command == "report" and bool(config["runs"]) == (config["votes"] is not None):
        raise UserError("runs=[] and votes=null; name directories that certify wrote (or votes=FILE, not both)")
    for run in config.get("runs", ()):
        if not Path(run).is_dir():
            raise UserError(
                f"runs: {run!r} is not a directory; name directories that certify wrote, outputs/certify/<id>"
            )
    return config


def _check_network(config: Mapping[str, Any]) -> None:
    """A certification says what it is of: a checkpoint, or a network from elsewhere with everything that one says.

    Raises:
        UserError: it says neither, or both.
    """
    model = config["model"]
    source = next((f"model.{key}" for key in ("weights", "pretrained") if model.get(key)), None)
    if config["ckpt"] is not None:
        if source is not None:
            raise UserError(f"ckpt and {source} are two networks; leave one out")
        return
    if source is None and model["name"] is None:
        raise UserError(
            "ckpt is missing; set ckpt=outputs/train/ID/best.ckpt, or bring a network from elsewhere: model=resnet50 "
            "model.weights=FILE dataset=image_folder dataset.root=DIR transform=brightness"
        )
    for key, wanted in (
        ("model.name", "say which network the weights are of: model=resnet50"),
        ("dataset.name", "say on which images: dataset=image_folder dataset.root=DIR"),
        ("transform._target_", "say under what to certify: transform=brightness"),
    ):
        group, field = key.split(".")
        if config[group][field] is None:
            raise UserError(f"{key} is missing: without ckpt, {wanted}")


def without_checkpoint(cfg: Any) -> dict[str, Any]:
    """A configuration of certify without ckpt: laws and region are those that train would take, and what it says.

    Raises:
        UserError: no such transformation.
    """
    transform = _said(plain(cfg)["transform"])
    defaults = {group: _defaults(group, transform) for group in ("smoothing", "region")}
    return merge_checkpoint(cfg, {"transform": transform, **defaults})


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
        UserError: another model than the checkpoint's; a transformation of a user's own that ``cfg`` does not name.
    """
    config: dict[str, Any] = plain(cfg)
    typed = _said(config.get("transform", {}))
    kept = _said(stored["transform"])
    if typed.get("_target_", kept["_target_"]) == kept["_target_"]:
        check_target(kept, f"ckpt={config.get('ckpt')}", typed.get("_target_"))
        smoothing, region = stored["smoothing"], stored["region"]
        for key in typed.keys() & kept.keys():
            if typed[key] != kept[key]:
                log.warning("transform.%s=%s, but the checkpoint was trained with %s", key, typed[key], kept[key])
        config["transform"] = {**kept, **typed}
    else:
        smoothing, region = _defaults("smoothing", typed), _defaults("region", typed)
        log.warning(
            "the checkpoint was trained for %s; %s takes its own default laws and region",
            kept["_target_"],
            typed["_target_"],
        )
        config["transform"] = typed
    config["transform"] = without_usual(config["transform"])
    said_laws = config.get("smoothing", {})
    config["smoothing"] = _merge_laws(smoothing, said_laws)
    check_law_targets(config["smoothing"], f"ckpt={config.get('ckpt')}", law_targets(said_laws))
    config["region"] = merge_region(region, config["region"])
    if "dataset" in config and "dataset" in stored:
        dataset, kept = _said(config["dataset"]), _said(stored["dataset"])
        if dataset.get("name", kept["name"]) == kept["name"]:
            check_target(kept, f"ckpt={config.get('ckpt')}", dataset.get("_target_"), "dataset")
            config["dataset"] = {**stored["dataset"], **dataset}
    if isinstance(config.get("dataset", {}).get("class_names"), str):  # what is written of it shall hold elsewhere, too
        config["dataset"]["class_names"] = read_names(config["dataset"]["class_names"])
    if "model" in config and "model" in stored:
        target = config["model"].get("_target_")
        fields = (("name", None), ("_target_", None), ("library", None), ("mean", None), ("std", None))
        for key, absent in (*fields, ("canonical", "none")):
            said, trained = config["model"].get(key), stored["model"].get(key) or absent
            if said not in (None, trained):
                raise UserError(f"model.{key}={said!r}, but the checkpoint holds {trained!r}; leave model out")
        check_target(stored["model"], f"ckpt={config.get('ckpt')}", target, "model")
        config["model"] = dict(stored["model"])
    return config


def _said(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that hold something."""
    return {key: value for key, value in config.items() if value is not None}


def _defaults(group: str, transform: Mapping[str, Any]) -> dict[str, Any]:
    """What ``train`` would take for a transformation: the member of ``group`` that is named as its own file, a file
    of the site or of the package. One that is named by its class alone takes those of the built-in name."""
    name = groups.chosen("transform")
    if name in (None, "from_checkpoint"):
        cls = type(build_transform(transform))
        name = next((name for name, builtin in transforms.BUILTIN.items() if builtin is cls), None)
    return groups.member(group, name) if name else {}


def _merge_laws(base: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    merged = {name: _said(law) for name, law in base.items() if law is not None}
    for name, law in typed.items():
        said = _said(law or {})
        if said:
            # Another law starts afresh: the fields of the old one mean nothing to it.
            known = merged.get(name, {})
            same = _which_law(said) in (None, _which_law(known))
            merged[name] = {**known, **said} if same else said
    return merged


def _which_law(law: Mapping[str, Any]) -> Any:
    """What names the law: a class of the user's own, or else one of glsmooth's."""
    return law.get("_target_") or law.get("law")
