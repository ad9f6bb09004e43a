"""What every configuration field may hold."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glsmooth.bounds import METHODS
from glsmooth.configuration.folder import members
from glsmooth.errors import UserError, did_you_mean
from glsmooth.laws import LAWS
from glsmooth.voting.classifier import PRECISIONS
from glsmooth.voting.procedures import PROCEDURES

__all__ = ["RULES", "Rule", "check_fields", "is_number", "keys", "leaves", "near_field", "rule_of"]


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


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(wanted: str, example: str, within: Callable[[float], bool] = lambda _: True) -> Rule:
    return Rule(lambda v: is_number(v) and within(v), wanted, example)


def _whole(least: int, example: int) -> Rule:
    return Rule(
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least,
        f"a whole number, at least {least}",
        str(example),
    )


def _choice(*choices: str) -> Rule:
    return Rule(lambda v: v in choices, f"one of {', '.join(choices)}", choices[0], choices)


def _list_of(rule: Rule, wanted: str, example: str, length: int | None = None, least: int = 0) -> Rule:
    return Rule(
        lambda v: (
            isinstance(v, list)
            and len(v) >= least
            and (length is None or len(v) == length)
            and all(map(rule.accepts, v))
        ),
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
    lambda v: is_number(v) and (v >= 1 if isinstance(v, int) else 0 < v <= 1),
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
    "approximate": _FLAG,
    "stochastic": _FLAG,
    "pixel_noise": _NOT_NEGATIVE.or_null(),
    "image_size": _SIZE.or_null(),
    "alpha": _ALPHA,
    "format": _choice("table", "json"),
    "plot": _FLAG,
    "runs": _list_of(_PATH, "a list of directories", "[outputs/certify/ID]"),
    "votes": _PATH.or_null(),
    "transform._target_": Rule(_TEXT.accepts, "the name of a class", "my_module.Shear").or_null(),
    "transform.*": _ANY,  # arguments of the class, which checks them itself
    "smoothing.*.law": _choice(*LAWS).or_null(),
    "smoothing.*.loc": _REAL.or_null(),
    "smoothing.*.low": _REAL.or_null(),
    "smoothing.*.high": _REAL.or_null(),
    "smoothing.*.scale": _POSITIVE.or_null(),
    "smoothing.*.rate": _POSITIVE.or_null(),
    "smoothing.*": Rule(
        lambda v: v is None or v == {}, "a law with its fields, or null", "{law:Normal,loc:0,scale:0.5}"
    ),
    "region.*": _INTERVAL.or_null(),
    "bound.methods": _list_of(
        _choice(*METHODS), f"a list of methods among {', '.join(METHODS)}", "[neyman_pearson,gl]", least=1
    ).or_null(),
    "monte_carlo.name": _choice(*PROCEDURES),
    "monte_carlo.n0": _whole(1, 200),
    "monte_carlo.n": _whole(1, 1000),
    "monte_carlo.alpha": _ALPHA,
    "monte_carlo.randomised": _FLAG,
    "dataset.name": _choice(*members("dataset")).or_null(),
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
    "model.new_head": _FLAG.or_null(),
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
    "logger.name": _choice(*members("logger")),
    "logger.project": _TEXT,
    "logger.entity": _TEXT.or_null(),
}


def rule_of(key: str) -> Rule | None:
    if key in RULES:
        return RULES[key]
    patterns = (p for p in RULES if "*" in p and p.count(".") == key.count(".") and fnmatch.fnmatchcase(key, p))
    return RULES.get(next(patterns, ""))


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field with its dotted name. Lists are values; what ``transform`` holds is up to its class.

    So is an empty dictionary where a field is meant: no field takes it, and its rule says so.
    """
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and prefix != "transform." and (value or rule_of(name) is None):
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def keys(config: Mapping[str, Any]) -> dict[str, str]:
    """Keys of a valid configuration by their last part, by which the library knows them.

    For :func:`glsmooth.errors.keyed`. Fields of fixed choices are left out: these were checked, and the library has
    nothing to say about them. So are laws, each of which has the same fields: whoever builds them names them.
    """
    found: dict[str, list[str]] = {}
    for key, _ in leaves(config):
        rule = rule_of(key)
        if rule is not None and not rule.choices and not key.startswith(("smoothing.", "transform.")):
            found.setdefault(key.rpartition(".")[2], []).append(key)
    return {name: chosen[0] for name, chosen in found.items() if len(chosen) == 1}


def check_fields(config: Mapping[str, Any]) -> None:
    """Check every field of a plain configuration against its rule.

    Raises:
        UserError: an unknown field, or a value that its field does not accept.
    """
    for key, value in leaves(config):
        rule = rule_of(key)
        if rule is None:
            known = [name for name in RULES if "*" not in name] + [name for name, _ in leaves(config) if rule_of(name)]
            raise UserError(f"{key}={_shown(value)} is not a field{near_field(key, known)}; leave it out otherwise")
        if not rule.accepts(value):
            raise UserError(rule.refusal(key, value))
        if key.startswith("region.") and value is not None and value[0] > value[1]:
            raise UserError(f"{key}={value} is inverted; set '{key}=[{value[1]},{value[0]}]'")


def near_field(key: str, known: Sequence[str]) -> str:
    """``"; did you mean 'x'?"`` for an unknown field: the one that is spelled alike, else its neighbours."""
    group, _, name = key.rpartition(".")
    neighbours = sorted(field for field in known if group and field.rpartition(".")[0] == group)
    alike = difflib.get_close_matches(name, [field.rpartition(".")[2] for field in neighbours], n=1)
    if alike:
        return f"; did you mean {f'{group}.{alike[0]}'!r}?"
    if not neighbours and (alike := difflib.get_close_matches(key, known, n=1)):
        return f"; did you mean {alike[0]!r}?"
    return f"; choose from {', '.join(neighbours)}" if neighbours else ""
