"""summary.json of a certification: what was certified, how, and the numbers that came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from glsmooth.bounds import METHODS, Outcome
from glsmooth.bounds.confidence import MIXTURES
from glsmooth.configuration.build import ONLY_IN_PYTHON
from glsmooth.configuration.fields import (
    CLASS_NAMES,
    FLAG,
    INTERVAL,
    OBJECT,
    RULES,
    Rule,
    check_file,
    choice,
    is_number,
    list_of,
    number,
    rules_under,
    shown,
    text,
    whole,
)
from glsmooth.configuration.untrusted import plain_values
from glsmooth.errors import UserError, did_you_mean
from glsmooth.runs.files import SUMMARY, read_json, write_text
from glsmooth.runs.records import Columns
from glsmooth.voting.classifier import PRECISIONS
from glsmooth.voting.procedures import given_up

__all__ = ["DEFAULT_SIZES", "IMAGE_SIZES", "SPLIT_IMAGES", "Numbers", "Summary", "check_methods", "robust_accuracy"]

#: The size of the images of data sets that have one.
IMAGE_SIZES = {"cifar10": (32, 32), "cifar100": (32, 32), "mnist": (28, 28), "imagenet": (224, 224)}
#: The size that the others have where ``dataset.image_size`` is null.
DEFAULT_SIZES = {"digits": (32, 32), "image_folder": (224, 224)}
#: What the images of a split are called.
SPLIT_IMAGES = {"test": "test images", "val": "validation images", "train": "training images"}


@dataclass(frozen=True)
class Numbers:
    """What the records say, all images together.

    Attributes:
        images: their number; the following are fractions of it.
        base_accuracy: the base classifier is right on the image as it is.
        smoothed_accuracy: the selected class is the true one.
        abstained: p_A is not above 1/2 after all counting draws (or no draw voted), so that the selected class is not
            proved to be the smoothed classifier's.
        given_up: votes ended before that, the region being out of reach: whether the class would have been proved is
            not known.
        votes_used, votes_per_image: selection and counting draws, in all and on average.
        abstained_votes, nonfinite_votes, near_ties: draws for no class, those of them with a non-finite logit, and
            draws decided by less than rounding could change.
    """

    images: int
    base_accuracy: float | None = None
    smoothed_accuracy: float | None = None
    abstained: float | None = None
    given_up: float | None = None
    votes_used: int | None = None
    votes_per_image: float | None = None
    abstained_votes: int | None = None
    nonfinite_votes: int | None = None
    near_ties: int | None = None

    @classmethod
    def of(cls, records: Columns, most: int) -> Numbers:
        """The numbers of finished records; ``most`` is the number of counting draws that an image can take."""
        correct = records["prediction"] == records["label"]
        votes = records["votes"] if "votes" in records else records["n0"] + records["n"]
        early = given_up(records["p_lower"], records["n"], records["prediction"], most)
        return cls(
            images=len(votes),
            base_accuracy=float((records["base_prediction"] == records["label"]).mean()),
            smoothed_accuracy=float(correct.mean()),
            abstained=float(((records["p_lower"] <= 0.5) & ~early).mean()),
            given_up=float(early.mean()),
            votes_used=int(votes.sum()),
            votes_per_image=float(votes.mean()),
            abstained_votes=int(records["abstain_votes"].sum()),
            nonfinite_votes=int(records["nonfinite_votes"].sum()),
            near_ties=int(records["near_ties"].sum()),
        )


def robust_accuracy(records: Columns, outcome: Outcome) -> float | None:
    """CRA: the fraction of images whose selected class is the true one, and certified; None without a statement."""
    if outcome.h_min is None:
        return None
    correct = records["prediction"] == records["label"]
    return float((correct & outcome.certifies(records["p_lower"])).mean())


@dataclass(frozen=True)
class Summary:
    """summary.json; the dictionaries are configuration groups as in config.yaml, in plain values.

    Attributes:
        transform, smoothing, region, dataset, model: as they were certified.
        monte_carlo: name, n0, n, alpha and what else decides the votes.
        outcomes: what each method says of the region.
        robust_accuracy: certified robust accuracy by method.
        numbers: what the records say.
        image_size: (height, width).
        shard: ``i/n``, where the run is one of n shares of a certification.
        pixel_noise: standard deviation.
        draws: how smoothing parameters were drawn, as :class:`glsmooth.family.SmoothedFamily` has it.
        approximate: residual, identity, alpha and beta of a transformation that is only approximately resolvable.
        stochastic: whether a random network was accepted.
        classes: their names.
        checkpoint: path and sha256.
        training: what decided the checkpoint's training, dotted names with plain values
            (:attr:`glsmooth.learning.checkpoint.Checkpoint.identity`); empty or None where it is not known.
        precision: of the base classifier.
        speed: batch size and what else of :class:`glsmooth.voting.speed.Speed` was last used.
        invocation: images, seconds and network evaluations of the last start of the command.
        hardware, versions: where and with what it ran.
    """

    transform: dict[str, Any]
    smoothing: dict[str, Any]
    region: dict[str, Any]
    dataset: dict[str, Any]
    monte_carlo: dict[str, Any]
    outcomes: dict[str, Outcome]
    numbers: Numbers
    robust_accuracy: dict[str, float | None] = field(default_factory=dict)
    model: dict[str, Any] | None = None
    image_size: tuple[int, int] | None = None
    shard: str | None = None
    pixel_noise: float = 0.0
    draws: str = "continuous"
    approximate: dict[str, Any] | None = None
    stochastic: bool = False
    classes: list[str] | None = None
    checkpoint: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    seed: int = 0
    precision: str | None = None
    speed: dict[str, Any] | None = None
    seconds_per_image: float | None = None
    invocation: dict[str, Any] | None = None
    hardware: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None

    @property
    def told(self) -> dict[str, Any]:
        """What certify was told, nested as in the configuration, in plain values."""
        return {
            "transform": self.transform,
            "smoothing": self.smoothing,
            "monte_carlo": self.monte_carlo,
            "pixel_noise": self.pixel_noise,
            "draws": self.draws,
            "dataset": self.dataset,
            "model": self.model,
            "precision": self.precision,
            "stochastic": self.stochastic,
            "image_size": None if self.image_size is None else list(self.image_size),
            "seed": self.seed,
            "region": self.region,
        }

    def to_json(self) -> dict[str, Any]:
        """The content of summary.json."""
        content = {name: getattr(self, name) for name in _PLAIN}
        methods = {
            name: _entry(outcome) | {"certified_robust_accuracy": self.robust_accuracy.get(name)}
            for name, outcome in self.outcomes.items()
        }
        return {
            "command": "certify",
            **asdict(self.numbers),
            "seconds_per_image": self.seconds_per_image,
            "methods": methods,
            **content,
        }

    def write(self, directory: Path) -> None:
        """Write summary.json."""
        write_text(directory / SUMMARY, json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def read(cls, directory: Path) -> Summary:
        """Read summary.json.

        Raises:
            UserError: it is missing or not readable, lacks a key, or a value is impossible.
        """
        file = directory / SUMMARY
        content = read_json(file, "run the same certify command again")
        if isinstance(content, dict):  # what another version adds is not read
            content = {key: value for key, value in content.items() if key in _KEYS}
            content["training"] = _training(content.get("training"), file)
        check_file(_without_training(content), _RULES, file, _FIX)
        check_methods(content["methods"], f"{file}: methods")
        _check_together(content, file)
        given = {name: content[name] for name in _PLAIN if content.get(name) is not None}
        if "image_size" in given:
            given["image_size"] = tuple(given["image_size"])
        return cls(
            **given,
            outcomes={
                name: _outcome(name, entry, content.get("approximate")) for name, entry in content["methods"].items()
            },
            robust_accuracy={n: entry.get("certified_robust_accuracy") for n, entry in content["methods"].items()},
            numbers=Numbers(**{name: content[name] for name in Numbers.__dataclass_fields__ if name in content}),
            seconds_per_image=content.get("seconds_per_image"),
        )


#: Keys of summary.json that are attributes of the same name; the others stand elsewhere in the file.
_PLAIN = tuple(
    attribute.name
    for attribute in fields(Summary)
    if attribute.name not in ("outcomes", "robust_accuracy", "numbers", "seconds_per_image")
)
_FIX = "run certify again"

_TEXT = text()
_COUNT = whole(0, 100, most=10**12)
_SHARE = number("a share in [0, 1]", "0.5", lambda v: 0 <= v <= 1)
_NOT_NEGATIVE = number("a finite number, at least 0", "0.5", lambda v: v >= 0)
_REAL = number("a finite number")

#: What summary.json may hold; ``*`` stands for one name. What may be null may be missing.
_RULES = {
    # As in the configuration.
    **rules_under("transform", "smoothing", "region", "dataset", "model"),
    **{key: RULES[key].or_null() for key in ("seed", "pixel_noise", "draws", "stochastic")},
    "precision": choice(*PRECISIONS).or_null(),
    # On a larger torus bounds take minutes and gigabytes.
    "image_size": list_of(whole(1, 32, most=4096), "a size [height,width] in whole pixels", "[32,32]", 2).or_null(),
    "shard": RULES["shard"],
    "transform": OBJECT,
    "transform._target_": text("the name of a class"),
    "smoothing": OBJECT,
    "smoothing.*.law": Rule(
        lambda v: RULES["smoothing.*.law"].accepts(v) or (_TEXT.accepts(v) and v.endswith(ONLY_IN_PYTHON)),
        RULES["smoothing.*.law"].wanted,
        "Normal",
    ).or_null(),
    "region": OBJECT,
    "model": OBJECT.or_null(),
    "dataset": OBJECT,
    "dataset.name": _TEXT.or_null(),
    "dataset.class_names": CLASS_NAMES.or_null(),
    "monte_carlo": OBJECT,
    "monte_carlo.name": RULES["monte_carlo.name"],
    "monte_carlo.n0": _COUNT,
    "monte_carlo.n": _COUNT,
    "monte_carlo.alpha": number("a number in [0, 1)", "0.001", lambda v: 0 <= v < 1),
    "monte_carlo.randomised": FLAG.or_null(),
    "monte_carlo.mixture": choice(*MIXTURES).or_null(),
    "monte_carlo.vote": choice("argmax", "majority").or_null(),
    "monte_carlo.interval": choice("one-sided", "two-sided").or_null(),
    "monte_carlo.stopped_for": OBJECT.or_null(),
    "monte_carlo.stopped_for.*": _REAL,
    # What came out.
    "images": _COUNT,
    "votes_used": _COUNT.or_null(),
    "votes_per_image": _NOT_NEGATIVE.or_null(),
    "seconds_per_image": _NOT_NEGATIVE.or_null(),
    **{key: _SHARE.or_null() for key in ("base_accuracy", "smoothed_accuracy", "abstained", "given_up")},
    **{key: _COUNT.or_null() for key in ("abstained_votes", "nonfinite_votes", "near_ties")},
    "methods": OBJECT,
    "methods.*": OBJECT,
    "methods.*.sound": FLAG.or_null(),
    "methods.*.required_probability": number("in [1/2, 1]", "0.9", lambda v: 0.5 <= v <= 1).or_null(),
    "methods.*.failure_probability": _SHARE.or_null(),
    "methods.*.certified_robust_accuracy": _SHARE.or_null(),
    "methods.*.residual": _NOT_NEGATIVE.or_null(),
    "methods.*.reason": _TEXT.or_null(),
    "methods.*.argument": _TEXT.or_null(),
    "methods.*.worst_parameter": OBJECT.or_null(),
    "methods.*.worst_parameter.*": _REAL,
    "approximate": OBJECT.or_null(),
    "approximate.residual": _NOT_NEGATIVE.or_null(),
    "approximate.identity": _TEXT.or_null(),
    **{f"approximate.{parameter}": OBJECT.or_null() for parameter in ("alpha", "beta")},
    **{f"approximate.{parameter}.*": _REAL for parameter in ("alpha", "beta")},
    # Where it came from.
    "classes": list_of(_TEXT, f"a list of names, each {_TEXT.wanted}", "[cat,dog]").or_null(),
    "checkpoint": OBJECT.or_null(),
    "checkpoint.*": _TEXT.or_null(),
    "invocation": OBJECT.or_null(),
    "invocation.*": _NOT_NEGATIVE.or_null(),
    "speed": OBJECT.or_null(),
    **{f"speed.{key}": whole(1, 2).or_null() for key in ("batch_size", "threads")},
    **{f"speed.{key}": FLAG.or_null() for key in ("channels_last", "compile")},
    "hardware": OBJECT.or_null(),
    "hardware.*": Rule(lambda v: v is None or is_number(v) or _TEXT.accepts(v), "a text or a number", "CPU"),
    "versions": OBJECT.or_null(),
    "versions.*": _TEXT.or_null(),
}
_KEYS = frozenset(key.partition(".")[0] for key in _RULES) | {"training"}


def _without_training(content: Any) -> Any:
    """What rules are about: names of ``training`` have dots, and are those of a checkpoint of any version."""
    return {k: v for k, v in content.items() if k != "training"} if isinstance(content, dict) else content


def _training(value: Any, file: Path) -> dict[str, Any] | None:
    """The field ``training``, under the limits by which certify took it from the checkpoint."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise UserError(f"{file}: training is {shown(value)}, not an object; {_FIX}")
    try:
        return dict(plain_values(value))
    except ValueError as error:
        raise UserError(f"{file}: training: {error}; {_FIX}") from None


def _check_together(content: Mapping[str, Any], file: Path) -> None:
    """Refuse values that each are possible, but not beside each other."""
    alpha, certain = content["monte_carlo"]["alpha"], content["monte_carlo"]["name"] == "exhaustive"
    if (alpha == 0) != certain:
        wanted = "0" if certain else "in (0, 1)"
        raise UserError(f"{file}: monte_carlo.alpha is {shown(alpha)}, not {wanted}; {_FIX}")
    for name, ends in content["region"].items():
        if INTERVAL.accepts(ends) and ends[0] > ends[1]:
            raise UserError(f"{file}: region.{name} is {shown(ends)}, which is inverted; {_FIX}")
    _check_size(content, file)
    if content.get("approximate") is not None and content["approximate"].get("residual") is None:
        raise UserError(f"{file}: lacks approximate.residual; {_FIX}")


def _check_size(content: Mapping[str, Any], file: Path) -> None:
    """Refuse a torus that is not that of the images. Without one h_min is the plane's, which holds on every torus."""
    size, dataset = content.get("image_size"), content["dataset"]
    name, chosen = dataset.get("name"), dataset.get("image_size")
    actual = IMAGE_SIZES.get(name) or chosen or DEFAULT_SIZES.get(name)
    for key, value in (("image_size", size), ("dataset.image_size", chosen)):
        if value is not None and actual is not None and list(value) != list(actual):
            raise UserError(
                f"{file}: {key} is {shown(value)}, but the images of {shown(name)} have {list(actual)} pixels; {_FIX}"
            )


def _entry(outcome: Outcome) -> dict[str, Any]:
    """What summary.json says of a method."""
    if outcome.h_min is None:
        return {"sound": outcome.sound, "required_probability": None, "reason": outcome.argument}
    return {
        "sound": outcome.sound,
        "required_probability": outcome.h_min,
        "reason": None,
        "worst_parameter": outcome.worst,
        "failure_probability": outcome.failure_probability,
        "argument": outcome.argument,
    } | ({} if outcome.residual is None else {"residual": outcome.residual})


def _outcome(method: str, entry: Mapping[str, Any], approximate: Mapping[str, Any] | None) -> Outcome:
    h_min = entry.get("required_probability")
    residual = None if approximate is None else float(approximate["residual"])
    return Outcome(
        None if h_min is None else float(h_min),
        entry.get("worst_parameter"),
        method,
        # A summary cannot make an unsound method sound.
        sound=entry.get("sound") is not False and METHODS[method].sound and residual is None,
        failure_probability=float(entry.get("failure_probability") or 0.0),
        argument=entry.get("reason") or entry.get("argument") or "",
        residual=residual,
    )


def check_methods(methods: Any, field: str = "bound.methods") -> None:
    """Raise a UserError for a name that is not in ``bounds.METHODS``, with the nearest one."""
    for name in methods:
        if name not in METHODS:
            raise UserError(f"{field}: unknown method {shown(name)}{did_you_mean(str(name), METHODS)}")
