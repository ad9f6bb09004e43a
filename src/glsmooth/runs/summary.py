"""summary.json of a certification: what was certified, how, and the numbers that came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from glsmooth.bounds import METHODS, Outcome
from glsmooth.configuration.fields import check_fields, is_number
from glsmooth.errors import UserError, did_you_mean
from glsmooth.runs.files import SUMMARY, read_json, write_text
from glsmooth.runs.records import Columns
from glsmooth.voting.procedures import given_up

__all__ = ["Numbers", "Summary", "check_methods", "robust_accuracy"]


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
        votes = records["n0"] + records["n"]
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
        pixel_noise: standard deviation.
        approximate: residual, identity, alpha and beta of a transformation that is only approximately resolvable.
        stochastic: whether a random network was accepted.
        classes: their names.
        checkpoint: path and sha256.
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
    pixel_noise: float = 0.0
    approximate: dict[str, Any] | None = None
    stochastic: bool = False
    classes: list[str] | None = None
    checkpoint: dict[str, Any] | None = None
    seed: int = 0
    precision: str | None = None
    seconds_per_image: float | None = None
    invocation: dict[str, Any] | None = None
    hardware: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None

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
        if not isinstance(content, dict):
            raise UserError(f"{file}: holds {type(content).__name__}, not an object; run certify again")
        for key in (*_GROUPS, "images"):
            if key not in content:
                raise UserError(f"{file}: lacks {key!r}; it was not written by certify, or by an older version")
        for key in _GROUPS:
            if not isinstance(content[key], dict):
                raise UserError(f"{file}: {key} is {content[key]!r}, not an object; run certify again")
        alpha, certain = content["monte_carlo"].get("alpha"), content["monte_carlo"].get("name") == "exhaustive"
        if not (isinstance(alpha, float) and (alpha == 0.0 if certain else 0.0 < alpha < 1.0)):
            wanted = "0" if certain else "in (0, 1)"
            raise UserError(f"{file}: monte_carlo.alpha is {alpha!r}, not {wanted}; run certify again")
        check_methods(content["methods"], f"{file}: methods")
        _check_values(content, file)
        given = {name: content[name] for name in _PLAIN if content.get(name) is not None}
        if "image_size" in given:
            given["image_size"] = tuple(int(length) for length in given["image_size"])
        return cls(
            **given,
            outcomes={
                name: _outcome(name, entry, content.get("approximate"), file)
                for name, entry in content["methods"].items()
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
#: Keys that hold objects, without which there is no run.
_GROUPS = ("transform", "smoothing", "region", "dataset", "monte_carlo", "methods")


#: Keys of summary.json that are fields of a configuration, too, of which the same rules hold.
_FIELDS = ("transform", "smoothing", "region", "image_size", "pixel_noise", "stochastic", "seed", "precision")


def _check_values(content: Mapping[str, Any], file: Path) -> None:
    """Refuse values of another kind than certify writes."""
    given = {key: value for key, value in content.items() if value is not None}
    settings = {key: given[key] for key in _FIELDS if key in given}
    draws = {key: given["monte_carlo"][key] for key in ("name", "n") if key in given["monte_carlo"]}
    try:
        check_fields({**settings, "monte_carlo": draws})
    except UserError as error:
        raise UserError(f"{file}: {error}; or run certify again") from None
    numbers = (*Numbers.__dataclass_fields__, "seconds_per_image")
    objects = ("approximate", "model", "checkpoint", "invocation", "hardware", "versions")
    wrong = [(key, "a number") for key in numbers if key in given and not is_number(given[key])]
    wrong += [(key, "an object") for key in objects if key in given and not isinstance(given[key], dict)]
    if "classes" in given and not isinstance(given["classes"], list):
        wrong.append(("classes", "a list"))
    for key, wanted in wrong:
        raise UserError(f"{file}: {key} is {given[key]!r}, not {wanted}; run certify again")
    if "approximate" in given and not is_number(given["approximate"].get("residual")):
        raise UserError(
            f"{file}: approximate.residual is {given['approximate'].get('residual')!r}, not a number; run certify again"
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


def _outcome(method: str, entry: Any, approximate: Mapping[str, Any] | None, file: Path) -> Outcome:
    if not isinstance(entry, dict):
        raise UserError(f"{file}: methods.{method} is {entry!r}, not an object; run certify again")
    h_min = entry.get("required_probability")
    if not (h_min is None or (isinstance(h_min, (int, float)) and 0.5 <= h_min <= 1.0)):
        raise UserError(f"{file}: methods.{method}: required_probability is {h_min!r}, not in [1/2, 1]; certify again")
    failure, worst = entry.get("failure_probability") or 0.0, entry.get("worst_parameter")
    if not (is_number(failure) and 0 <= failure <= 1):
        raise UserError(f"{file}: methods.{method}: failure_probability is {failure!r}, not in [0, 1]; certify again")
    if not (worst is None or (isinstance(worst, dict) and all(map(is_number, worst.values())))):
        raise UserError(f"{file}: methods.{method}: worst_parameter is {worst!r}, not a point; run certify again")
    residual = None if approximate is None else float(approximate["residual"])
    return Outcome(
        None if h_min is None else float(h_min),
        worst,
        method,
        # A summary cannot make an unsound method sound.
        sound=bool(entry.get("sound", True)) and METHODS[method].sound and residual is None,
        failure_probability=float(failure),
        argument=entry.get("reason") or entry.get("argument") or "",
        residual=residual,
    )


def check_methods(methods: Any, field: str = "bound.methods") -> None:
    """Raise a UserError for a name that is not in ``bounds.METHODS``, with the nearest one."""
    for name in methods:
        if name not in METHODS:
            raise UserError(f"{field}: unknown method {name!r}{did_you_mean(str(name), METHODS)}")
