"""Base classifiers: images in [0, 1] go in, logits come out; normalisation is the first layer."""

from __future__ import annotations

import difflib
import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glsmooth.configuration.build import build_canonical
from glsmooth.configuration.fields import cut
from glsmooth.errors import UserError
from glsmooth.learning.networks import BUILTIN, CifarFast, Head
from glsmooth.learning.tensors import in_brief, read_tensors
from glsmooth.transforms import BUILTIN as TRANSFORMS
from glsmooth.transforms import ResolvableTransform
from glsmooth.voting.classifier import nonfinite
from glsmooth.voting.speed import AUTO

log = logging.getLogger(__name__)

DEFAULT_MODEL = {
    "digits": "small_cnn",
    "mnist": "small_cnn",
    "cifar10": "cifar_resnet20",
    "cifar100": "cifar_resnet20",
    "image_folder": "resnet50",
    "imagenet": "resnet50",
}


class Normalize(nn.Module):
    """Subtracts the mean and divides by the standard deviation of each channel.

    A layer rather than a preprocessing step: transformations and certificates are about images in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Canonical(nn.Module):
    """The canonical form of images: what follows cannot tell an image from its transforms.

    It holds no tensor, so weights of a network without it fit one with it, and the other way round.
    """

    def __init__(self, transform: ResolvableTransform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, images: Tensor) -> Tensor:
        # Half precision is for the network: in it a transform of an image would no longer come to the same form.
        with torch.autocast(images.device.type, enabled=False):
            return self.transform.canonical(images)

    def extra_repr(self) -> str:
        return repr(self.transform)


def resolve_model(
    spec: Mapping[str, Any], dataset: str, transform: ResolvableTransform | None = None
) -> dict[str, Any]:
    """The model configuration with ``auto`` and null replaced by what the dataset's default is.

    ``pretrained: null`` means pretrained on imagenet (the paper fine-tunes), and from scratch elsewhere.
    ``canonical: auto`` is the name of ``transform``, if that is built in and has a canonical form. Without one the
    result does not speak of it.
    """
    name = DEFAULT_MODEL[dataset] if spec.get("name", "auto") == "auto" else spec["name"]
    weights, pretrained = spec.get("weights"), spec.get("pretrained")
    if pretrained is None:
        pretrained = dataset == "imagenet" and name not in BUILTIN and weights is None
    resolved = {"name": name, "pretrained": pretrained, "weights": weights}
    canonical = _canonical_name(spec.get("canonical"), transform)
    return (
        resolved
        | ({"new_head": True} if spec.get("new_head") else {})
        | ({} if canonical == "none" else {"canonical": canonical})
    )


def _canonical_name(asked: str | None, transform: ResolvableTransform | None) -> str:
    if asked != AUTO or transform is None:
        return asked or "none"
    name = next((name for name, cls in TRANSFORMS.items() if type(transform) is cls), None)
    why = transform.without_canonical()
    if name is None:
        name, why = "none", f"{type(transform).__name__} is not built in, so a checkpoint could not name its form"
    elif not transform.canonical_parameters:
        name = "none"
    elif not _same_form(TRANSFORMS[name](), transform):
        name, why = "none", f"{transform!r} has another form than {TRANSFORMS[name]()!r}, which a checkpoint could name"
    log.info("model.canonical=auto: %s%s", name, f" ({why})" if why else "")
    return name


def _same_form(one: ResolvableTransform, other: ResolvableTransform) -> bool:
    image = torch.rand(1, 1, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.equal(one.canonical(image), other.canonical(image))


def build_model(
    spec: Mapping[str, Any],
    num_classes: int,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: tuple[int, int],
) -> nn.Module:
    """A classifier of images in [0, 1], `N x C x H x W` to logits `N x num_classes`, normalisation included.

    Args:
        spec: ``name`` (a key of :data:`glsmooth.learning.networks.BUILTIN` or any timm name),
            ``pretrained`` (timm only: weights from the hub), ``weights`` (path of a state_dict, or null) and
            ``new_head`` (with either: the last layer starts afresh); ``canonical`` (the name of a built-in
            transformation, whose canonical form becomes the first layer; absent, null or ``none``: no such layer).
        mean, std: per channel, over images in [0, 1].

    Raises:
        UserError: an unknown name, weights that cannot be had or do not fit, images the model does not take.
    """
    name, weights = spec["name"], spec.get("weights")
    transform = build_canonical(spec.get("canonical"))
    network = _network(spec, num_classes, channels, image_size)
    layers: dict[str, nn.Module] = {} if transform is None else {"canonical": Canonical(transform)}
    model = nn.Sequential(OrderedDict(layers, normalize=Normalize(mean, std), network=network))
    if weights:
        _load_weights(network, Path(weights).expanduser(), num_classes, bool(spec.get("new_head")))
    elif spec.get("pretrained"):
        _new_head_of_pretrained(network, name, num_classes, bool(spec.get("new_head")))
    for layer in map(dict(network.named_modules()).get, _layers_of_head(network)):
        if type(layer) is nn.Linear:
            layer.__class__ = Head  # the same weights under the same names
    check_takes(model, name, channels, image_size)
    return model


def fit_first_layer(model: nn.Module, dataset: Any) -> None:
    """Let a new network whose first layer follows from images take that from 5,000 of ``dataset``.

    Args:
        model: of :func:`build_model`.
        dataset: the training images; a list of positions gives images in [0, 1] and what belongs to them.
    """
    layers = list(model.children())
    if isinstance(layers[-1], CifarFast):
        images = dataset[list(range(0, len(dataset), -(-len(dataset) // 5000)))][0]
        layers[-1].whiten.fit(nn.Sequential(*layers[:-1])(images))


def _network(spec: Mapping[str, Any], num_classes: int, channels: int, image_size: tuple[int, int]) -> nn.Module:
    name, pretrained = spec["name"], bool(spec.get("pretrained"))
    if name in BUILTIN:
        if pretrained:
            raise UserError(f"pretrained=true: {name} has no pretrained weights; use pretrained=false")
        return BUILTIN[name](channels, num_classes)
    return _timm_model(name, pretrained and not spec.get("weights"), num_classes, channels, image_size)


def tensor_shapes(
    spec: Mapping[str, Any], num_classes: int, channels: int, image_size: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """Shapes of what the state_dict of :func:`build_model` would hold; no memory is taken for them.

    Raises:
        UserError: an unknown name.
    """
    with torch.device("meta"):
        network = _network(spec, num_classes, channels, image_size)
        model = nn.Sequential(OrderedDict(normalize=Normalize([0.0] * channels, [1.0] * channels), network=network))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _timm_model(name: str, pretrained: bool, num_classes: int, channels: int, image_size: tuple[int, int]) -> nn.Module:
    import timm  # imported here: it takes a second, and most commands do not need it

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, [*BUILTIN, *timm.list_models()], n=3)
        fix = f"did you mean {' or '.join(near)}?" if near else "use a name of timm.list_models()"
        raise UserError(f"name={name}: neither one of {', '.join(BUILTIN)} nor a timm model; {fix}")
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    try:
        config = timm.get_pretrained_cfg(name)
        if config is not None and config.fixed_input_size:
            options["img_size"] = image_size
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:
        # The hub fails in many ways (no network, no such file, no weights of this name): one message for all.
        if not pretrained:
            raise UserError(f"name={name}: timm cannot build it ({_brief(error)}); use another name") from error
        raise UserError(
            f"pretrained=true: the weights of {name} could not be had ({_brief(error)}); "
            "use pretrained=false or weights=FILE"
        ) from error


def _new_head_of_pretrained(network: Any, name: str, num_classes: int, wanted: bool) -> None:
    """Say that the last layer of a network from the hub starts afresh; timm does it where the classes differ."""
    theirs = network.pretrained_cfg.get("num_classes")
    if wanted:
        network.reset_classifier(num_classes)
    if wanted or theirs != num_classes:
        log.info(
            "pretrained=true: the last layer of %s (%s classes) is left out; a new one for %d classes starts at random",
            name,
            theirs,
            num_classes,
        )


def _head_of(network: nn.Module) -> set[str]:
    """Names of the last layer's tensors: timm says which layer it is, the networks of this module call it fc."""
    prefixes = tuple(f"{layer}." for layer in _layers_of_head(network))
    return {key for key in network.state_dict() if key.startswith(prefixes)}


def _layers_of_head(network: nn.Module) -> list[str]:
    layers = getattr(network, "default_cfg", {}).get("classifier", "fc")
    return [layers] if isinstance(layers, str) else list(layers)


def _load_weights(network: nn.Module, path: Path, num_classes: int, new_head: bool) -> None:
    """Start ``network`` from a state_dict: plain, under the key state_dict, or of this program's checkpoints.

    All tensors must fit; with ``new_head`` those of the last layer are left out and start at random.
    """
    try:
        content = read_tensors(path)
        content = content.get("state_dict", content)
        state = {_bare_name(key): value for key, value in content.items() if isinstance(value, Tensor)}
    except Exception as error:
        raise UserError(
            f"weights={path}: not a readable state_dict ({in_brief(error)}); give a file of torch.save or safetensors"
        ) from error
    own = network.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith("normalize.")}
    head = _head_of(network)
    other = [key for key in sorted(head & state.keys()) if state[key].shape != own[key].shape]
    theirs = {state[key].shape[0] for key in sorted(head & state.keys()) if state[key].ndim}
    if new_head:
        state = {key: value for key, value in state.items() if key not in head}
        log.info(
            "new_head=true: the last layer of %s (%s classes) is left out; a new one for %d classes starts at random",
            path,
            " and ".join(map(str, sorted(theirs))) or "no",
            num_classes,
        )
    elif other and state[other[0]].ndim and theirs == {state[other[0]].shape[0]} != {num_classes}:
        raise UserError(
            f"weights={path}: its last layer ({other[0]}) has {state[other[0]].shape[0]} classes, the dataset "
            f"{num_classes}; give the dataset that it was trained for, or set new_head=true to train a new last "
            "layer from a random start"
        )
    missing = sorted(own.keys() - state.keys() - (head if new_head else set()))
    unknown = sorted(state.keys() - own.keys())
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    for what, keys in (("lacks", missing), ("has unknown", unknown), ("has other shapes in", shapes)):
        if keys:
            raise UserError(
                f"weights={path}: does not fit: it {what} {len(keys)} tensors, the first {cut(keys[0])}; "
                "use a file of the same architecture, or another model"
            )
    try:
        network.load_state_dict(state, strict=False)
    except RuntimeError as error:  # of a kind that cannot be converted
        raise UserError(f"weights={path}: does not fit ({_brief(error)}); use a file of the same kind") from error
    broken = nonfinite(network)
    if broken is not None:
        raise UserError(f"weights={path}: its {broken}; use a file of a whole network")


def _brief(error: Exception) -> str:
    """Other libraries' errors run over many lines; the first says what happened."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _bare_name(key: str) -> str:
    """A parameter's name without the wrappers that training programs leave in front of it."""
    return re.sub(r"^(?:(?:module|model|network)\.)+", "", key)


@torch.no_grad()
def check_takes(model: nn.Module, name: str, channels: int, image_size: tuple[int, int]) -> None:
    """One blank image through the model, so that a misfit is told before the work starts.

    Raises:
        UserError: it does not take images of these channels and this size.
    """
    training = model.training
    try:
        model.eval()(torch.zeros(1, channels, *image_size))
    except Exception as error:
        height, width = image_size
        raise UserError(
            f"name={name}: does not take {channels}x{height}x{width} images ({_brief(error)}); "
            "use another model, or images of another size"
        ) from error
    model.train(training)
