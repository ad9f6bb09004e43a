"""Checkpoints that know what they are: plain primitives beside the weights (weights_only=True reads them)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glsmooth.configuration.build import build_family, check_target
from glsmooth.configuration.fields import is_number, leaves, rule_of
from glsmooth.configuration.identity import decisive, file_digest
from glsmooth.errors import UserError
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.data import LARGEST_IMAGE, Data
from glsmooth.learning.models import build_model, tensor_shapes
from glsmooth.learning.tensors import read_tensors
from glsmooth.untrusted import plain_values

#: Key of the payload in the checkpoint that Lightning writes.
KEY = "glsmooth"


def make_payload(settings: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """What a checkpoint says about itself, in plain primitives.

    Args:
        settings: the resolved configuration of a training run, as plain dictionaries.
        data: its dataset.
    """
    parts = ("transform", "smoothing", "region", "dataset", "model", "loss", "optimizer", "seed")
    return {
        **{part: settings[part] for part in parts},
        "identity": decisive(settings, "train"),
        "classes": list(data.class_names),
        "image_size": list(data.image_size),
        "mean": list(data.mean),
        "std": list(data.std),
    }


@dataclass(frozen=True)
class Checkpoint:
    """A trained base classifier with everything that it was trained with.

    The dictionaries are configuration groups as in a run's config.yaml; ``identity`` is what decided the training
    (:func:`glsmooth.configuration.identity.decisive`; empty where an older version did not say); ``metrics`` are the
    validation results of the epoch that was saved; ``mean`` and ``std`` are per channel; ``sha256`` is the file's.
    """

    transform: dict[str, Any]
    smoothing: dict[str, Any]
    region: dict[str, Any]
    dataset: dict[str, Any]
    model: dict[str, Any]
    loss: dict[str, Any]
    optimizer: dict[str, Any]
    seed: int
    classes: list[str]
    image_size: list[int]
    mean: list[float]
    std: list[float]
    identity: dict[str, Any]
    metrics: dict[str, float]
    sha256: str
    state_dict: dict[str, Tensor]

    def build_model(self) -> nn.Module:
        """The trained base classifier, in evaluation mode, on the CPU."""
        # Its weights follow, so none are fetched from the hub or read from where training started.
        spec = {**self.model, "pretrained": False, "weights": None}
        height, width = self.image_size
        misfit = UserError(
            f"ckpt: its weights do not fit {self.model['name']} as these versions of glsmooth and timm "
            "build it; use the versions that it was trained with"
        )
        # Before a network is built whose size is only a name in the file.
        shapes = tensor_shapes(spec, len(self.classes), len(self.mean), (height, width))
        if shapes != {name: tuple(tensor.shape) for name, tensor in self.state_dict.items()}:
            raise misfit
        model = build_model(spec, len(self.classes), len(self.mean), self.mean, self.std, (height, width))
        try:
            model.load_state_dict(self.state_dict)
        except RuntimeError as error:
            raise misfit from error
        return model.eval()

    def build_family(self, transform_target: str | None = None) -> SmoothedFamily:
        """The smoothed family that the classifier was trained for, on the torus of its images' size.

        Args:
            transform_target: ``"package.Class"`` where that is a transformation of your own: the file alone is not
                trusted with an import.

        Raises:
            UserError: the checkpoint names another class that is not built in.
        """
        check_target(self.transform, "the checkpoint", transform_target)
        height, width = self.image_size
        return build_family(self.transform, self.smoothing, (height, width), self.loss["pixel_noise"])


def load_checkpoint(ckpt: str | Path) -> Checkpoint:
    """Read best.ckpt or last.ckpt of a training run.

    Raises:
        UserError: no such file, a damaged one, or one that this program did not write.
    """
    path = Path(ckpt).expanduser()
    if not path.is_file():
        raise UserError(f"ckpt={path}: no such file; train writes best.ckpt into outputs/train/<id>/")
    digest = file_digest(path)
    content, failure = None, None
    try:
        content = read_tensors(path)
    except Exception as error:
        failure = error  # damaged and foreign files fail in many ways: zip, pickle, truncation, refused classes
    if file_digest(path) != digest:
        raise UserError(f"ckpt={path}: was replaced while it was read; run again when its training has ended")
    if failure is not None:
        raise UserError(
            f"ckpt={path}: not a readable checkpoint ({_brief(failure)}); give a best.ckpt that train wrote"
        ) from failure
    payload = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(payload, dict) or not _NAMES <= payload.keys():
        raise UserError(
            f"ckpt={path}: not a checkpoint of this program; to start from its weights, train with weights={path}"
        )
    try:
        payload = _checked(plain_values({"identity": {}, **{name: payload[name] for name in payload}}))
        state = _state(content.get("state_dict"))
    except ValueError as error:
        raise UserError(f"ckpt={path}: not a checkpoint that train wrote: {error}; give a best.ckpt") from None
    return Checkpoint(**{name: payload[name] for name in (*_NAMES, "identity")}, sha256=digest, state_dict=state)


def _brief(error: Exception) -> str:
    """Other libraries' errors run over many lines; ours fit in one."""
    return str(error) if isinstance(error, ValueError | OSError) and len(str(error)) < 200 else type(error).__name__


#: What every checkpoint says about itself; older ones lack the identity.
_NAMES = {field.name for field in fields(Checkpoint)} - {"identity", "sha256", "state_dict"}
_GROUPS = ("transform", "smoothing", "region", "dataset", "model", "loss", "optimizer", "identity", "metrics")


def _checked(payload: dict[str, Any]) -> dict[str, Any]:
    """A payload whose values are of the kinds that train writes.

    Raises:
        ValueError: one is not.
    """

    def is_texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)

    def are_numbers(value: Any) -> bool:
        return isinstance(value, list) and all(map(is_number, value))

    for group in _GROUPS:
        if not isinstance(payload[group], dict):
            raise ValueError(f"{group} is no dictionary")
    settings = {group: payload[group] for group in (*_GROUPS[:7], "image_size", "seed") if group in payload}
    for key, value in leaves(settings):
        rule = rule_of(key)  # fields of another version have none, and nobody asks for them
        if rule is not None and not rule.accepts(value):
            raise ValueError(rule.refusal(key, value))
    size, mean, std, classes = (payload[name] for name in ("image_size", "mean", "std", "classes"))
    if not is_texts(classes) or len(set(classes)) < max(2, len(classes)):
        raise ValueError("classes are not two or more names, all different")
    if not (are_numbers(mean) and are_numbers(std) and len(mean) == len(std) in (1, 3) and min(std) > 0):
        raise ValueError("mean and std are not numbers of 1 or 3 channels, std above 0")
    if size is None or size[0] * size[1] > LARGEST_IMAGE:
        raise ValueError(f"image_size={size} is none of at most {LARGEST_IMAGE} pixels")
    if not all(map(is_number, payload["metrics"].values())):
        raise ValueError("metrics are not all numbers")
    for group, name in (("loss", "pixel_noise"), ("model", "name"), ("dataset", "name")):
        if payload[group].get(name) is None:
            raise ValueError(f"{group}.{name} is missing")
    return payload


def _state(state: Any) -> dict[str, Tensor]:
    """The weights, by name.

    Raises:
        ValueError: they are none.
    """
    if not isinstance(state, dict) or not state:
        raise ValueError("it has no state_dict")
    for key, value in state.items():
        if not (isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided):
            raise ValueError("its state_dict holds something else than names and tensors")
    return {key.removeprefix("model."): value for key, value in state.items()}
