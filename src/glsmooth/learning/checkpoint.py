"""Checkpoints that know what they are: plain primitives beside the weights (weights_only=True reads them)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glsmooth.configuration.build import build_family, check_target
from glsmooth.configuration.identity import decisive, file_digest
from glsmooth.errors import UserError
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.data import Data
from glsmooth.learning.models import build_model
from glsmooth.voting.classifier import nonfinite

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
        model = build_model(spec, len(self.classes), len(self.mean), self.mean, self.std, (height, width))
        try:
            model.load_state_dict(self.state_dict)
        except RuntimeError as error:
            raise UserError(
                f"ckpt: its weights do not fit {self.model['name']} as these versions of glsmooth and timm "
                "build it; use the versions that it was trained with"
            ) from error
        broken = nonfinite(model)
        if broken is not None:
            raise UserError(f"ckpt: its {broken}; training went wrong, train again with a smaller optimizer.lr")
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
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged and foreign files fail in many ways: zip, pickle, truncation, refused classes.
        raise UserError(f"ckpt={path}: not a readable checkpoint; give a best.ckpt that train wrote") from error
    if file_digest(path) != digest:
        raise UserError(f"ckpt={path}: was replaced while it was read; run again when its training has ended")
    payload = content.get(KEY) if isinstance(content, dict) else None
    names = {field.name for field in fields(Checkpoint)} - {"state_dict", "sha256"}
    payload = {"identity": {}, **payload} if isinstance(payload, dict) else None
    if payload is None or not names <= payload.keys():
        raise UserError(
            f"ckpt={path}: not a checkpoint of this program; to start from its weights, train with weights={path}"
        )
    state = {key.removeprefix("model."): value for key, value in content["state_dict"].items()}
    return Checkpoint(**{name: payload[name] for name in names}, sha256=digest, state_dict=state)
