"""Base classifiers: images in [0, 1] go in, logits come out; normalisation is the first layer."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from glsmooth.configuration.build import build_canonical, imported, with_folder
from glsmooth.configuration.fields import shown
from glsmooth.errors import UserError
from glsmooth.learning.data import Data
from glsmooth.learning.networks import BUILTIN, CifarFast, CifarResNet, Head
from glsmooth.learning.weights import PUBLISHED, Fitted, check_classes, fit, read_weights, statistics
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
    "custom": "cifar_resnet20",
}


#: The name of a network that a function of the user's own makes.
CUSTOM = "custom"
TORCHVISION = "torchvision"


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

    ``pretrained: null`` means pretrained on imagenet (the paper fine-tunes), and from scratch elsewhere. What is null
    beside it, the result does not speak of.
    ``canonical: auto`` is the name of ``transform``, if that is built in and has a canonical form. Without one the
    result does not speak of it.
    """
    name = DEFAULT_MODEL[dataset] if spec.get("name", "auto") == "auto" else spec["name"]
    weights, pretrained = spec.get("weights"), spec.get("pretrained")
    if pretrained is None:
        pretrained = dataset == "imagenet" and name not in (*BUILTIN, CUSTOM) and weights is None
    resolved = {"name": name, "pretrained": pretrained, "weights": weights}
    canonical = _canonical_name(spec.get("canonical"), transform)
    return (
        resolved
        | ({"new_head": True} if spec.get("new_head") else {})
        | {key: spec[key] for key in ("library", "_target_", "mean", "std") if spec.get(key) is not None}
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


class Brought(NamedTuple):
    """A network to use as it is: ``mean`` and ``std`` are its normalisation's, per channel, over images in [0, 1];
    ``notes`` say what was taken from where; ``new_head`` that its last layer is a random one."""

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]
    new_head: bool


def bring(spec: Mapping[str, Any], data: Data) -> Brought:
    """The network of a resolved model configuration for the images and classes of a dataset, with its own weights.

    Nothing is trained. Its normalisation is, in this order: ``mean`` and ``std`` of ``spec``; that of a layer in the
    file of weights; what Cohen et al. and Li et al. published for files of theirs, which lack it; that of timm's or
    torchvision's configuration, for networks of theirs with weights; the dataset's statistics. Each note is logged.

    Args:
        spec: of :func:`resolve_model`; as for :func:`build_model`, and ``mean`` and ``std``.
        data: its classes, channels, image size and statistics; no image is read.

    Returns:
        The model `N x C x H x W` in [0, 1] to logits `N x num_classes`, on the CPU, in training mode.

    Raises:
        UserError: an unknown name; weights that cannot be had, do not fit, or are of other classes; images that the
            model does not take; an impossible normalisation.
    """
    given = spec.get("mean"), spec.get("std")
    if (given[0] is None) != (given[1] is None):
        raise UserError(f"mean={shown(given[0])} and std={shown(given[1])}: give both, or neither")
    for key, values in zip(("mean", "std"), given, strict=True):
        if values is not None and len(values) != data.channels:
            raise UserError(f"{key}={shown(values)} has {len(values)} values, the images {data.channels} channels")
    network, fitted, notes = _with_weights(spec, data.num_classes, data.channels, data.image_size, data.class_names)
    mean, std, source = _normalisation(spec, network, fitted, data)
    numbers = (f"[{', '.join(f'{value:.4g}' for value in values)}]" for values in (mean, std))
    said = f"normalisation: mean {next(numbers)}, std {next(numbers)}, {source}"
    log.info("%s", said)
    model = _assembled(spec, network, mean, std, data.num_classes, data.image_size)
    new_head = bool(spec.get("new_head") or (spec.get("pretrained") and not spec.get("weights") and notes))
    return Brought(model, tuple(mean), tuple(std), (*notes, said), new_head)


def _normalisation(
    spec: Mapping[str, Any], network: nn.Module, fitted: Fitted | None, data: Data
) -> tuple[Sequence[float], Sequence[float], str]:
    weights = spec.get("weights") or ""
    if spec.get("mean") is not None:
        return spec["mean"], spec["std"], "as given"
    if fitted is not None:
        found = statistics(fitted, data.channels, weights)
        if found is not None:
            return found[1], found[2], f"of {found[0]} in {weights}"
        if fitted.bare and data.name in PUBLISHED:
            source = f"which Cohen et al. and their successors have for {data.name}: {weights} is named as theirs are"
            return *PUBLISHED[data.name], f"{source}, and they save none"
    config = getattr(network, "pretrained_cfg", None) or {}
    known = (spec.get("pretrained") or weights) and not spec.get("_target_")
    if known and len(config.get("mean") or ()) == data.channels == len(config.get("std") or ()):
        return config["mean"], config["std"], f"of {spec.get('library', 'timm')}'s configuration of {spec['name']}"
    fix = "; if your network normalises by itself, set model.mean to zeros and model.std to ones"
    source = (
        "for nothing is known of your images (model.mean, model.std)"
        if data.name == "custom"
        else f"the statistics of {data.name}"
    )
    return data.mean, data.std, f"{source}{fix if spec.get('_target_') else ''}"


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
        spec: ``name`` (a key of :data:`glsmooth.learning.networks.BUILTIN`, any timm name, or any of torchvision's
            with ``library: torchvision``; ``custom`` for what ``_target_`` makes, ``"my_module.function"``, which is
            imported), ``pretrained`` (weights from the hub), ``weights`` (path of a state_dict, or null) and
            ``new_head`` (with either: the last layer starts afresh); ``canonical`` (the name of a built-in
            transformation, whose canonical form becomes the first layer; absent, null or ``none``: no such layer).
        mean, std: per channel, over images in [0, 1]; :func:`bring` finds those that belong to the weights.

    Raises:
        UserError: an unknown name, weights that cannot be had or do not fit, images the model does not take.
    """
    network, _, _ = _with_weights(spec, num_classes, channels, image_size)
    return _assembled(spec, network, mean, std, num_classes, image_size)


def _assembled(
    spec: Mapping[str, Any],
    network: nn.Module,
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int,
    image_size: tuple[int, int],
) -> nn.Module:
    transform = build_canonical(spec.get("canonical"))
    layers: dict[str, nn.Module] = {} if transform is None else {"canonical": Canonical(transform)}
    model = nn.Sequential(OrderedDict(layers, normalize=Normalize(mean, std), network=network))
    check_takes(model, spec["name"], len(mean), image_size, num_classes)
    return model


def _with_weights(
    spec: Mapping[str, Any],
    num_classes: int,
    channels: int,
    image_size: tuple[int, int],
    classes: Collection[str] | None = None,
) -> tuple[nn.Module, Fitted | None, list[str]]:
    """The network with the weights that it starts from, what a file of them held, and what there is to say."""
    build_canonical(spec.get("canonical"))  # refused before anything is read
    network = _network(spec, num_classes, channels, image_size)
    new_head, weights = bool(spec.get("new_head")), spec.get("weights")
    fitted: Fitted | None = None
    notes: list[str] = []
    if weights:
        fitted = _load_weights(network, Path(weights).expanduser(), num_classes, new_head, classes)
        notes += fitted.notes
    elif spec.get("pretrained"):
        notes += _new_head_of_pretrained(network, spec, num_classes, new_head)
    for note in notes:
        log.info("%s", note)
    for layer in map(dict(network.named_modules()).get, _layers_of_head(network)):
        if type(layer) is nn.Linear:
            layer.__class__ = Head  # the same weights under the same names
    return network, fitted, notes


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


_CUSTOM_FIX = "for a network of your own set model=custom model._target_=my_module.make_model"


def _network(spec: Mapping[str, Any], num_classes: int, channels: int, image_size: tuple[int, int]) -> nn.Module:
    name, pretrained = spec["name"], bool(spec.get("pretrained"))
    if (name == CUSTOM) != bool(spec.get("_target_")):
        raise UserError(f"name={name} and _target_={shown(spec.get('_target_'))}: {_CUSTOM_FIX}")
    if name == CUSTOM:
        if pretrained:
            raise UserError(f"pretrained=true: {name} is what your function makes; load its weights there")
        return _custom_model(spec["_target_"], num_classes, channels)
    if spec.get("library") == TORCHVISION:
        return _torchvision_model(name, pretrained and not spec.get("weights"), num_classes)
    if name in BUILTIN:
        if pretrained:
            raise UserError(f"pretrained=true: {name} has no pretrained weights; use pretrained=false")
        return BUILTIN[name](channels, num_classes)
    return _timm_model(name, pretrained and not spec.get("weights"), num_classes, channels, image_size)


def tensors_without_values(
    spec: Mapping[str, Any], num_classes: int, channels: int, image_size: tuple[int, int]
) -> dict[str, Tensor]:
    """What the state_dict of :func:`build_model` would hold, on meta: no memory is taken for it.

    Raises:
        UserError: an unknown name.
    """
    with torch.device("meta"):
        network = _network(spec, num_classes, channels, image_size)
        model = nn.Sequential(OrderedDict(normalize=Normalize([0.0] * channels, [1.0] * channels), network=network))
    return dict(model.state_dict())


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


#: They return more than logits in training, and change their images by a setting that only their weights bring.
_OF_SEVERAL_HEADS = {"googlenet", "inception_v3"}


def _torchvision_model(name: str, pretrained: bool, num_classes: int) -> nn.Module:
    from torchvision import models

    known = set(models.list_models(module=models)) - _OF_SEVERAL_HEADS
    if name not in known:
        near = difflib.get_close_matches(name, sorted(known), n=3)
        fix = f"did you mean {' or '.join(near)}?" if near else "use a classifier of torchvision.models.list_models()"
        raise UserError(f"name={name}: not a classifier of torchvision; {fix}")
    if not pretrained:
        network = models.get_model(name, weights=None, num_classes=num_classes)
    else:
        try:
            network = models.get_model(name, weights="DEFAULT")
        except Exception as error:
            raise UserError(
                f"pretrained=true: torchvision's weights of {name} could not be had ({_brief(error)}); "
                "use pretrained=false or weights=FILE"
            ) from error
    weights = models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    # As timm's networks say it of themselves.
    network.pretrained_cfg = {
        "classifier": _layers_that_follow_classes(lambda classes: models.get_model(name, num_classes=classes)),
        "num_classes": len(weights.meta["categories"]),
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
    }
    return network  # type: ignore[no-any-return]


def _layers_that_follow_classes(make: Callable[[int], nn.Module]) -> list[str]:
    """Names of the layers whose shapes depend on the number of classes."""
    with torch.device("meta"):
        two, three = make(2).state_dict(), make(3).state_dict()
    return sorted({key.rpartition(".")[0] for key in two if two[key].shape != three[key].shape})


def _custom_model(target: str, num_classes: int, channels: int) -> nn.Module:
    """What a function of the user's own returns, called in the working directory."""
    field = "model._target_"
    make = imported(target, field)
    if isinstance(make, nn.Module) or not callable(make):
        raise UserError(f"{field}={target}: is a {type(make).__name__}; name a function that returns the network")
    offered = {"num_classes": num_classes, "in_chans": channels}
    accepted = inspect.signature(make).parameters
    needed = [
        name
        for name, parameter in accepted.items()
        if name not in offered
        and parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise UserError(
            f"{field}={target}: needs {', '.join(needed)}, and is given num_classes and in_chans at most; name a "
            "function that gives it the rest"
        )
    try:
        with with_folder():
            network = make(**{name: value for name, value in offered.items() if name in accepted})
    except ValueError as error:
        raise UserError(f"{field}={target}: {_brief(error)}") from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"{field}={target}: returns {type(network).__name__}, not a torch.nn.Module; return the network"
        )
    if not hasattr(network, "pretrained_cfg"):
        last = [
            name
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Linear) and layer.out_features == num_classes
        ]
        network.pretrained_cfg = {"classifier": last[-1:]}  # type: ignore[assignment]
    return network


def _new_head_of_pretrained(network: Any, spec: Mapping[str, Any], num_classes: int, wanted: bool) -> list[str]:
    """Say that the last layer of a network from the hub starts afresh; timm does it where the classes differ."""
    name, theirs = spec["name"], network.pretrained_cfg.get("num_classes")
    if not wanted and theirs == num_classes:
        return []
    if spec.get("library") == TORCHVISION:
        fresh = _torchvision_model(name, False, num_classes)
        for layer in network.pretrained_cfg["classifier"]:
            parent, _, leaf = layer.rpartition(".")
            setattr(network.get_submodule(parent), leaf, fresh.get_submodule(layer))
    elif wanted:
        network.reset_classifier(num_classes)
    return [
        f"pretrained=true: the last layer of {name} ({theirs} classes) is left out; a new one for {num_classes} "
        "classes starts at random"
    ]


def _head_of(network: nn.Module) -> set[str]:
    """Names of the last layer's tensors."""
    prefixes = tuple(f"{layer}." for layer in _layers_of_head(network))
    return {key for key in network.state_dict() if key.startswith(prefixes)}


def _layers_of_head(network: nn.Module) -> list[str]:
    """Those that give the logits: timm says which they are, the networks of this program call theirs fc."""
    layers = getattr(network, "pretrained_cfg", {}).get("classifier", "fc")
    return [layers] if isinstance(layers, str) else list(layers)


def _load_weights(
    network: nn.Module, path: Path, num_classes: int, new_head: bool, classes: Collection[str] | None
) -> Fitted:
    """Start ``network`` from a file of weights, all of which must fit but, with ``new_head``, its last layer."""
    weights = read_weights(path)
    if classes is not None and not new_head:
        check_classes(weights, classes)
    layout = network.layout_of_cohen() if isinstance(network, CifarResNet) else None
    fitted = fit(weights, network.state_dict(), _head_of(network), num_classes, new_head, layout)
    try:
        network.load_state_dict(fitted.state, strict=False)
    except RuntimeError as error:  # of a kind that cannot be converted
        raise UserError(f"weights={path}: does not fit ({_brief(error)}); use a file of the same kind") from error
    broken = nonfinite(network)
    if broken is not None:
        raise UserError(f"weights={path}: its {broken}; use a file of a whole network")
    return fitted


def _brief(error: Exception) -> str:
    """Other libraries' errors run over many lines; the first says what happened."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@torch.no_grad()
def check_takes(
    model: nn.Module, name: str, channels: int, image_size: tuple[int, int], num_classes: int | None = None
) -> None:
    """Blank images through the model, so that a misfit is told before the work starts.

    Args:
        num_classes: of the logits, which are looked at if it is given.

    Raises:
        UserError: it does not take images of these channels and this size, or gives something else than logits.
    """
    training = model.training
    height, width = image_size
    try:
        logits = model.eval()(torch.zeros(2, channels, height, width))
    except Exception as error:
        raise UserError(
            f"name={name}: does not take {channels}x{height}x{width} images ({_brief(error)}); "
            "use another model, or images of another size"
        ) from error
    model.train(training)
    if num_classes is None or (isinstance(logits, Tensor) and logits.shape == (2, num_classes)):
        return
    found = "x".join(map(str, logits.shape)) if isinstance(logits, Tensor) else type(logits).__name__
    raise UserError(
        f"name={name}: gives {found} for 2 images, not the logits 2x{num_classes} of the dataset's {num_classes} "
        "classes; use a network for as many classes"
    )
