"""Checkpoints that know what they are: plain primitives beside the weights (weights_only=True reads them).

``train`` writes them as files of torch, ``export`` as folders of JSON and safetensors; both are read here.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import Tensor, nn

from glsmooth.configuration.build import build_family, check_law_targets, check_target, typed_again
from glsmooth.configuration.exported import ABOUT, WEIGHTS, exported_files
from glsmooth.configuration.fields import (
    CLASS_NAMES,
    OBJECT,
    RULES,
    check_file,
    choice,
    cut,
    list_of,
    number,
    shown,
    text,
    whole,
)
from glsmooth.configuration.identity import checkpoint_digest, decisive, file_digest
from glsmooth.configuration.untrusted import plain_values
from glsmooth.errors import UserError
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning import models
from glsmooth.learning.data import LARGEST_IMAGE, Data
from glsmooth.learning.data import NAMES as DATASETS
from glsmooth.learning.models import build_model, tensors_without_values
from glsmooth.learning.tensors import in_brief, read_tensors
from glsmooth.learning.weights import misfit
from glsmooth.runs.files import read_json, write_text
from glsmooth.runs.own import foreign_root, is_own
from glsmooth.voting.classifier import PRECISIONS, BaseClassifier, nonfinite

#: Key of the payload in the checkpoint that Lightning writes, and in the config.json of a folder.
KEY = "glsmooth"


def make_payload(settings: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """What a checkpoint says about itself, in plain primitives.

    Args:
        settings: the resolved configuration of a training run, as plain dictionaries; its precision is not auto.
        data: its dataset.
    """
    parts = ("transform", "smoothing", "region", "dataset", "model", "loss", "optimizer", "seed")
    return {
        **{part: settings[part] for part in parts},
        "precision": settings["trainer"]["precision"],
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
    (:func:`glsmooth.configuration.identity.decisive`; empty where an older version did not say); ``precision`` (one
    of :data:`glsmooth.voting.classifier.PRECISIONS`) is that of the network that was trained and validated; ``metrics``
    are the validation results of the epoch that was saved; ``mean`` and ``std`` are per channel; ``sha256`` is the
    :func:`glsmooth.configuration.identity.checkpoint_digest` of what was read.
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
    precision: str
    identity: dict[str, Any]
    metrics: dict[str, float]
    sha256: str
    state_dict: dict[str, Tensor]

    def build_model(self, model_target: str | None = None) -> nn.Module:
        """The trained base classifier, in evaluation mode, on the CPU.

        Args:
            model_target: ``"my_module.function"`` where that makes the network: the file alone is not trusted with an
                import.

        Raises:
            UserError: the checkpoint names another function; or its weights do not fit, or are not finite.
        """
        check_target(self.model, "the checkpoint", model_target, "model")
        # Its weights follow, so none are fetched from the hub or read from where training started.
        spec = {**self.model, "pretrained": False, "weights": None}
        height, width = self.image_size
        own = spec.get("_target_") is not None
        if not own:  # before a network is built whose size is only a name in the file
            self._require_fit(tensors_without_values(spec, len(self.classes), len(self.mean), (height, width)))
        model = build_model(spec, len(self.classes), len(self.mean), self.mean, self.std, (height, width))
        if own:  # as large as the user's own function makes it
            self._require_fit(model.state_dict())
        try:
            model.load_state_dict(self.state_dict)
        except RuntimeError as error:  # of a kind that cannot be converted
            raise self._misfit(f": {in_brief(error)}") from error
        broken = nonfinite(model)
        if broken is not None:
            raise UserError(f"ckpt: its {broken}; training went wrong, train again with a smaller optimizer.lr")
        return model.eval()

    def certify_with(self, ckpt: Path) -> str:
        """The command that certifies what lies at ``ckpt``, with the names of a user's own parts, to be typed again."""
        own = typed_again(self.transform, self.smoothing, self.model, self.dataset)
        return " ".join(["glsmooth certify", f"ckpt={shlex.quote(str(ckpt))}", *own])

    def _require_fit(self, own: Mapping[str, Tensor]) -> None:
        said = misfit(self.state_dict, own)
        if said is not None:
            raise self._misfit(said)

    def _misfit(self, said: str) -> UserError:
        return UserError(
            f"ckpt: its weights do not fit {cut(self.model['name'])} as these versions of glsmooth and timm build it"
            f"{said}; use the versions that it was trained with"
        )

    def build_family(self, transform_target: str | None = None, law_targets: Collection[str] = ()) -> SmoothedFamily:
        """The smoothed family that the classifier was trained for, on the torus of its images' size.

        Args:
            transform_target: ``"package.Class"`` where that is a transformation of your own: the file alone is not
                trusted with an import.
            law_targets: the same of laws of your own.

        Raises:
            UserError: the checkpoint names another class that is not built in.
        """
        check_target(self.transform, "the checkpoint", transform_target)
        check_law_targets(self.smoothing, "the checkpoint", law_targets)
        height, width = self.image_size
        return build_family(self.transform, self.smoothing, (height, width), self.loss["pixel_noise"])


def load_checkpoint(ckpt: str | Path) -> Checkpoint:
    """Read best.ckpt or last.ckpt of a training run, or a folder that ``glsmooth export`` wrote.

    Raises:
        UserError: no such file or folder, a damaged one, or one that this program did not write.
    """
    path = Path(ckpt).expanduser()
    folder = path.is_dir()
    if not folder and not path.is_file():
        raise UserError(f"ckpt={path}: no such file; train writes best.ckpt into outputs/train/<id>/")
    digest = checkpoint_digest(path)
    content: Any = None
    failure: Exception | None = None
    try:
        content = _read_exported(path) if folder else read_tensors(path)
    except Exception as error:
        failure = error  # damaged and foreign files fail in many ways: zip, pickle, truncation, refused classes
    if checkpoint_digest(path) != digest:
        raise UserError(f"ckpt={path}: was replaced while it was read; run again when its training has ended")
    if isinstance(failure, UserError):
        raise failure
    if failure is not None:
        raise UserError(f"ckpt={path}: not a readable checkpoint ({in_brief(failure)}); {_FIX}") from failure
    payload = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(payload, dict) or not payload.keys() >= _NAMES:
        weights = path / WEIGHTS if folder else path
        raise UserError(
            f"ckpt={path}: not a checkpoint of this program; to start from its weights, train with weights={weights}"
        )
    try:
        payload = plain_values({"identity": {}, **{name: payload[name] for name in payload}})
        payload.setdefault("precision", _older_precision(payload["identity"]))
        state = _state(content.get("state_dict"))
    except ValueError as error:
        raise UserError(f"ckpt={path}: not a checkpoint that train wrote: {error}; {_FIX}") from None
    _check_payload(payload, f"ckpt={path}")
    return Checkpoint(
        **{name: payload[name] for name in (*_NAMES, "precision", "identity")}, sha256=digest, state_dict=state
    )


def _read_exported(folder: Path) -> dict[str, Any]:
    """What a checkpoint of torch holds, from a folder."""
    about, weights = exported_files(folder)
    content = read_json(about, f"give {_CHECKPOINT}", as_it_is=True)
    return {KEY: content.get(KEY) if isinstance(content, dict) else None, "state_dict": read_tensors(weights)}


def write_exported(checkpoint: Checkpoint, model: nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors, from which :func:`load_checkpoint` reads the same checkpoint.

    What names files of this machine is left out: where its images lie, and the weights that its training started from.

    Args:
        model: as :meth:`Checkpoint.build_model` makes it.
        folder: an empty one.

    Raises:
        UserError: it says what JSON has no number for; its tensors share memory in parts; or it cannot be written.
    """
    content = {"library_name": KEY, KEY: _to_share(checkpoint), "checkpoint_sha256": checkpoint.sha256}
    try:
        about = json.dumps(content, indent=2, allow_nan=False)
    except ValueError:
        raise UserError(f"ckpt: it says NaN or infinity of itself, which JSON cannot hold; {_FIX}") from None
    write_text(folder / ABOUT, f"{about}\n")
    try:
        save_model(model, str(folder / WEIGHTS), metadata={"format": "pt"})
    except SafetensorError as error:  # so it tells of a full disk, too
        raise UserError(
            f"{folder / WEIGHTS}: cannot be written ({error}); make room, and run the same again"
        ) from error
    except RuntimeError as error:
        raise UserError(f"ckpt: {_SHARED}") from error
    if not is_export(load_checkpoint(folder), checkpoint, model):
        raise UserError(f"ckpt: {_SHARED}")


def is_export(exported: Checkpoint, checkpoint: Checkpoint, model: nn.Module) -> bool:
    """Whether a checkpoint is what :func:`write_exported` makes of another one, bit for bit; ``model`` as there."""
    state = model.state_dict()
    return (
        _to_share(exported) == _to_share(checkpoint)
        and exported.state_dict.keys() == state.keys()
        and all(
            tensor.dtype == state[name].dtype and torch.equal(tensor, state[name])
            for name, tensor in exported.state_dict.items()
        )
    )


_SHARED = (
    "tensors of its network share parts of their memory, which safetensors cannot hold; give each tensor its own "
    "(tensor.clone()) and train again"
)


def _to_share(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint says about itself, without what names files of this machine."""
    payload = {name: getattr(checkpoint, name) for name in _ORDER}
    identity = {key: value for key, value in checkpoint.identity.items() if key != "dataset.root"}
    return {
        **payload,
        "dataset": {**checkpoint.dataset, "root": None},
        "model": {**checkpoint.model, "weights": None},
        "identity": identity,
    }


def of_network(settings: Mapping[str, Any], data: Data) -> Checkpoint:
    """A network that was trained elsewhere, as a checkpoint would hold it.

    Args:
        settings: of certify, complete; its ``model`` names the weights.
        data: the dataset, whose classes are the network's.

    Raises:
        UserError: weights that cannot be had or do not fit, or none.
    """
    spec = settings["model"]
    if not (spec["weights"] or spec["pretrained"] or spec.get("_target_")):
        raise UserError(
            f"model.weights is missing: a {spec['name']} with random weights has nothing to certify; give the file of "
            "its weights, or model.pretrained=true for those of the hub"
        )
    model, mean, std, notes, new_head = models.bring(spec, data)
    if new_head:
        raise UserError(
            f"model: {notes[0]}, which nobody has trained for the dataset's classes: train first, or give weights and "
            "images of the same classes"
        )
    return Checkpoint(
        **{part: dict(settings[part]) for part in ("transform", "smoothing", "region", "dataset", "model")},
        loss={"pixel_noise": 0.0},
        optimizer={},
        seed=0,
        classes=list(data.class_names),
        image_size=list(data.image_size),
        mean=list(mean),
        std=list(std),
        precision="32-true",
        identity={},
        metrics={},
        sha256=file_digest(spec["weights"]) if spec["weights"] else BaseClassifier(model, data.num_classes).digest(),
        state_dict=model.state_dict(),
    )


def starting_from(ckpt: str | Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training that starts from the network of a checkpoint.

    Its ``model`` becomes that network, with its canonical form where none is named; another named one starts from its
    weights, if they fit. Where ``dataset`` names the same images without saying where they lie, its ``root`` is the
    checkpoint's.

    Raises:
        UserError: no such checkpoint, or weights are named beside it.
    """
    base = load_checkpoint(ckpt)
    model, dataset = settings["model"], dict(settings["dataset"])
    same = model["name"] in ("auto", base.model["name"])
    if same:
        check_target(base.model, f"ckpt={ckpt}", model.get("_target_"), "model")
    if model["weights"] is not None or model["pretrained"]:
        raise UserError("ckpt and other weights to start from: leave out model.weights and model.pretrained, or ckpt")
    told = all(dataset.get(key) == base.dataset.get(key) for key in ("name", "_target_"))
    root = base.dataset["root"]
    if dataset["root"] is None and told and root is not None:
        if not is_own([Path(ckpt).expanduser()]):
            raise foreign_root(root, ckpt)
        dataset["root"] = root
    name = base.model["name"] if same else model["name"]
    weights = Path(ckpt).expanduser().resolve()
    started = {"name": name, "pretrained": False, "weights": str(weights / WEIGHTS if weights.is_dir() else weights)}
    if same:
        started |= {key: base.model[key] for key in ("library", "_target_") if base.model.get(key) is not None}
    if model.get("canonical") is None:
        started["canonical"] = base.model.get("canonical")
    return {**settings, "dataset": dataset, "model": {**model, **started}}


def _older_precision(identity: Any) -> Any:
    """Older checkpoints name their precision among what decided the training, the oldest nowhere."""
    return identity.get("trainer.precision", "32-true") if isinstance(identity, dict) else None


#: What every checkpoint says about itself; older ones lack the precision and the identity.
_ORDER = tuple(field.name for field in fields(Checkpoint) if field.name not in ("sha256", "state_dict"))
_NAMES = {*_ORDER} - {"precision", "identity"}
_GROUPS = ("transform", "smoothing", "region", "dataset", "model", "loss", "optimizer")
_CHECKPOINT = "a best.ckpt that train wrote, or a folder that export wrote"
_FIX = f"give {_CHECKPOINT}"
_NUMBERS = number("a finite number")
#: What a checkpoint says about itself: fields of the configuration as there, and what follows from the data.
_RULES = {
    **{key: rule.or_null() for key, rule in RULES.items() if key.partition(".")[0] in _GROUPS},
    **dict.fromkeys((*_GROUPS, "metrics"), OBJECT),
    "transform._target_": text("the name of a class"),
    "dataset.name": choice(*DATASETS),
    "dataset.class_names": CLASS_NAMES.or_null(),  # no file that is there by chance
    "model.name": text("the name of a network"),
    "loss.pixel_noise": number("a finite number, at least 0", within=lambda v: v >= 0),
    "seed": RULES["seed"],
    "precision": choice(*PRECISIONS),
    "classes": CLASS_NAMES,
    "image_size": list_of(whole(1, 32), "a size [height,width] in whole pixels", "[32,32]", 2),
    "mean": list_of(_NUMBERS, "a list of 1 or 3 numbers", "[0.5]", least=1),
    "std": list_of(number("a number above 0", within=lambda v: v > 0), "a list of 1 or 3 numbers above 0", "[0.5]"),
    "metrics.*": _NUMBERS,
}


def _check_payload(payload: Mapping[str, Any], name: str) -> None:
    """Refuse values of other kinds than train writes.

    Raises:
        UserError: it names the file and the value.
    """
    if not isinstance(payload["identity"], dict):  # its names have dots
        raise UserError(f"{name}: identity is {shown(payload['identity'])}, not an object; {_FIX}")
    check_file({key: payload[key] for key in (*_NAMES, "precision")}, _RULES, name, _FIX)
    size, classes, mean = payload["image_size"], payload["classes"], payload["mean"]
    if size[0] * size[1] > LARGEST_IMAGE:
        raise UserError(f"{name}: image_size is {size}, more than {LARGEST_IMAGE} pixels; {_FIX}")
    if len(set(classes)) < len(classes):
        raise UserError(f"{name}: classes are not all different; {_FIX}")
    if len(mean) not in (1, 3) or len(payload["std"]) != len(mean):
        raise UserError(
            f"{name}: mean is {shown(mean)} and std {shown(payload['std'])}, not of 1 or 3 channels; {_FIX}"
        )


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
