"""What every configuration field may hold."""

from __future__ import annotations

import fnmatch
import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glsmooth.bounds import METHODS
from glsmooth.configuration.folder import members
from glsmooth.configuration.untrusted import Limits
from glsmooth.errors import UserError, did_you_mean, near_field, visible
from glsmooth.family.smoothed import DRAWS
from glsmooth.laws import LAWS
from glsmooth.transforms import BUILTIN
from glsmooth.voting.classifier import PRECISIONS
from glsmooth.voting.procedures import PROCEDURES
from glsmooth.voting.speed import AUTO

__all__ = [
    "CLASS_NAMES",
    "FLAG",
    "INTERVAL",
    "OBJECT",
    "OLDER_SCHEDULES",
    "RULES",
    "RULES_OF",
    "SCHEDULES",
    "Rule",
    "check_fields",
    "check_file",
    "choice",
    "cut",
    "is_number",
    "keys",
    "leaves",
    "list_of",
    "number",
    "rule_of",
    "rules_under",
    "shown",
    "text",
    "whole",
]


@dataclass(frozen=True)
class Rule:
    """What a field accepts: a test, its wording ("a number above 0") and an example for the message.

    ``choices`` are those of a field that has some, ``item`` is the rule of what a list holds.
    """

    accepts: Callable[[Any], bool]
    wanted: str
    example: str
    choices: tuple[str, ...] = ()
    item: Rule | None = None

    def or_null(self) -> Rule:
        return replace(self, accepts=lambda v: v is None or self.accepts(v))

    def or_auto(self) -> Rule:
        return replace(self, accepts=lambda v: v == AUTO or self.accepts(v), wanted=f"{self.wanted}, or {AUTO}")

    def refusal(self, key: str, value: Any) -> str:
        """Why the field ``key`` cannot be ``value``, and what to type."""
        if self.choices:
            word = value if isinstance(value, str) else shown(value)
            return f"{key}={shown(value)} is not a choice{did_you_mean(word, self.choices)}"
        example = self.example
        if isinstance(value, float) and value.is_integer() and self.accepts(int(value)):
            example = str(int(value))  # 1e3 is a float to YAML
        setting = f"'{key}={example}'" if example[0] in "[{" else f"{key}={example}"
        return f"{key}={shown(value)} must be {self.wanted}{_too_large(value)}; set for example {setting}"


#: Characters of a value that a message shows.
_SHOWN = 80
_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = _SHOWN
_brief.maxlist = _brief.maxtuple = _brief.maxdict = 16


def shown(value: Any) -> str:
    """A value in a message, on one line: cut short, for a file of unknown origin may hold a megabyte."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    try:
        words = visible(_brief.repr(value))
    except ValueError:  # an integer of more digits than Python writes
        words = type(value).__name__
    return words if len(words) <= _SHOWN else f"{words[: _SHOWN - 1]}…"


#: Integers beyond are taken neither by tensors nor by random generators.
_LARGEST = 2**64


def _too_large(value: Any) -> str:
    return " below 2^64" if isinstance(value, int) and abs(value) >= _LARGEST else ""


def is_number(value: Any) -> bool:
    """Whether a value of a file or of a configuration is a finite number, and one that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < _LARGEST if isinstance(value, int) else math.isfinite(value)


def number(wanted: str, example: str = "0.0", within: Callable[[float], bool] = lambda _: True) -> Rule:
    return Rule(lambda v: is_number(v) and within(v), wanted, example)


def whole(least: int, example: int, most: int | None = None) -> Rule:
    highest = _LARGEST - 1 if most is None else most
    return Rule(
        lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= highest,
        f"a whole number, at least {least}" if most is None else f"a whole number from {least} to {most}",
        str(example),
    )


def choice(*choices: str) -> Rule:
    return Rule(lambda v: v in choices, f"one of {', '.join(choices)}", choices[0], choices)


def list_of(rule: Rule, wanted: str, example: str, length: int | None = None, least: int = 0) -> Rule:
    return Rule(
        lambda v: (
            isinstance(v, list)
            and len(v) >= least
            and (length is None or len(v) == length)
            and all(map(rule.accepts, v))
        ),
        wanted,
        example,
        item=rule,
    )


def text(wanted: str = "a text", most: int = 4096) -> Rule:
    """A text of a file: empty or not, but not of a megabyte."""
    return Rule(lambda v: isinstance(v, str) and len(v) <= most, f"{wanted} of at most {most} characters", "NAME")


FLAG = Rule(lambda v: isinstance(v, bool), "true or false", "true")
#: What holds others: of these each has its own rule.
OBJECT = Rule(lambda v: isinstance(v, Mapping) and not v, "an object", "{}")
_TEXT = Rule(lambda v: isinstance(v, str) and v != "", "a text", "NAME")
_PATH = Rule(lambda v: isinstance(v, str) and v != "", "a path", "PATH")
_REAL = number("a finite number", "0.0")
_POSITIVE = number("a finite number above 0", "0.5", lambda v: v > 0)
_NOT_NEGATIVE = number("a finite number, at least 0", "0.5", lambda v: v >= 0)
_UNIT = number("a number between 0 and 1, both excluded", "0.1", lambda v: 0 < v < 1)
_ALPHA = number("a number between 0 and 1, both excluded", "0.001", lambda v: 0 < v < 1)
_SHARE = Rule(
    lambda v: is_number(v) and (v >= 1 if isinstance(v, int) else 0 < v <= 1),
    "a share in (0, 1] or a whole number of batches",
    "1.0",
)
INTERVAL = list_of(_REAL, "an interval [low,high] of finite numbers", "[-0.2,0.2]", 2)


def _or_interval(rule: Rule) -> Rule:
    """A parameter of a user's own may be called as a field of the region is."""
    return replace(rule, accepts=lambda v: v is None or rule.accepts(v) or INTERVAL.accepts(v))


_POINT = Rule(lambda v: isinstance(v, Mapping) and bool(v) and all(map(_REAL.accepts, v.values())), "a point", "{tx:1}")
_SIZE = list_of(whole(1, 32), "a size [height,width] in whole pixels", "[32,32]", 2)
CLASS_NAMES = list_of(text("a name"), "a list of two or more names", "[cat,dog]", least=2)
_ANY = Rule(lambda _: True, "anything", "VALUE")

#: What the learning rate may do. Two had other names, which older runs and files of a site's have.
SCHEDULES = ("cosine", "onecycle", "step", "none")
OLDER_SCHEDULES = {"one_cycle": "onecycle", "constant": "none"}

#: What each field of any command may hold; ``*`` stands for one name. A field without a rule is unknown.
RULES: dict[str, Rule] = {
    "seed": whole(0, 0),
    "run_dir": _PATH,
    "ckpt": Rule(_PATH.accepts, "a path", "outputs/train/ID/best.ckpt").or_null(),
    "batch_size": whole(1, 256).or_auto(),
    "precision": choice(AUTO, *PRECISIONS),
    "compile": FLAG.or_auto(),
    "channels_last": FLAG.or_auto(),
    "threads": whole(1, 2).or_auto(),
    "dry_run": FLAG,
    "shard": Rule(lambda v: isinstance(v, str) and 0 < len(v) < 32, "i/n with i from 0 to n - 1", "0/4").or_null(),
    "approximate": FLAG,
    "stochastic": FLAG,
    "pixel_noise": _NOT_NEGATIVE.or_null(),
    "draws": choice(*DRAWS).or_null(),
    "image_size": _SIZE.or_null(),
    "n": whole(1, 1000),
    "alpha": _ALPHA,
    "images": Rule(_PATH.accepts, "a path", "photos"),
    "format": choice("table", "json"),
    "plot": FLAG,
    "proof": _TEXT.or_null(),
    "runs": list_of(_PATH, "a list of directories", "[outputs/certify/ID]"),
    "out": _PATH,
    "license": Rule(
        lambda v: isinstance(v, str) and re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,63}", v) is not None,
        "the name of a licence as Hugging Face has them, in small letters",
        "mit",
    ).or_null(),
    "figures": choice("page", "paper"),
    "radii": FLAG,
    "votes": _PATH.or_null(),
    "transform._target_": Rule(_TEXT.accepts, "the name of a class", "my_module.Shear").or_null(),
    "transform.*": _ANY,  # arguments of the class, which checks them itself
    "smoothing.*.law": choice(*LAWS).or_null(),
    "smoothing.*._target_": Rule(_TEXT.accepts, "the name of a class", "my_module.Logistic").or_null(),
    "smoothing.*.loc": _REAL.or_null(),
    "smoothing.*.low": _REAL.or_null(),
    "smoothing.*.high": _REAL.or_null(),
    "smoothing.*.scale": _POSITIVE.or_null(),
    "smoothing.*.rate": _POSITIVE.or_null(),
    "smoothing.*.*": _REAL.or_null(),  # arguments of a class of the user's own, which names those that it takes
    "smoothing.*": Rule(
        lambda v: v is None or v == {}, "a law with its fields, or null", "{law:Normal,loc:0,scale:0.5}"
    ),
    "region.ball": _or_interval(number("a radius, a finite number, at least 0", "20", lambda v: v >= 0)),
    "region.over": _or_interval(list_of(text("a name"), "a list of parameters", "[tx,ty]", least=1)),
    "region.centre": _or_interval(OBJECT),
    "region.centre.*": _REAL.or_null(),
    "region.points": _or_interval(
        list_of(_POINT, "a list of points, each with its parameters", "[{tx:1,ty:2},{tx:3}]", least=1)
    ),
    "region.*": INTERVAL.or_null(),
    "run": Rule(_PATH.accepts, "a path", "outputs/certify/ID").or_null(),
    "attack.images": whole(1, 50).or_null(),
    "attack.passes": whole(1, 4000),
    "attack.draws": whole(1, 16),
    "attack.votes": whole(20, 1000),
    "attack.tries": whole(1, 3, most=1000),
    "attack.delta": _ALPHA,
    "attack.reach": number("a number from 0 to 16", "2", lambda v: 0 <= v <= 16),
    "attack.outside": FLAG,
    "attack.minutes": _POSITIVE.or_null(),
    "attack.index": whole(0, 17, most=10**12).or_null(),
    "attack.at": OBJECT.or_null(),
    "attack.at.*": _REAL,
    "trial.images": whole(2, 48),
    "trial.votes": whole(20, 200),
    "trial.scales": whole(3, 6),
    "bound.methods": list_of(
        choice(*METHODS), f"a list of methods among {', '.join(METHODS)}", "[neyman_pearson,gl]", least=1
    ).or_null(),
    "monte_carlo.name": choice(*PROCEDURES),
    "monte_carlo.n0": whole(1, 200),
    "monte_carlo.n": whole(1, 1000),
    "monte_carlo.alpha": _ALPHA,
    "monte_carlo.randomised": FLAG,
    "dataset.name": choice(*members("dataset")).or_null(),
    "dataset.root": _PATH.or_null(),
    "dataset.download": FLAG.or_null(),
    "dataset.image_size": _SIZE.or_null(),
    "dataset.val_fraction": _UNIT.or_null(),
    "dataset.test_fraction": _UNIT.or_null(),
    "dataset.split_seed": whole(0, 0).or_null(),
    "dataset.subset": whole(1, 500).or_null(),
    "dataset.subset_seed": whole(0, 0).or_null(),
    "dataset.split": choice("test", "val", "train").or_null(),
    "dataset.skip": whole(0, 100).or_null(),
    "dataset.every": whole(1, 20).or_null(),
    "dataset.crop_padding": whole(0, 4).or_null(),
    "dataset.flip": FLAG.or_null(),
    "dataset.num_workers": whole(0, 4).or_null(),
    "dataset._target_": Rule(_TEXT.accepts, "the name of a function", "my_module.make_dataset").or_null(),
    "dataset.num_classes": whole(2, 10).or_null(),
    "dataset.*": _ANY,  # arguments of the function, which checks them itself
    "dataset.class_names": Rule(
        lambda v: _PATH.accepts(v) or CLASS_NAMES.accepts(v), "a file of names, or a list of them", "FILE"
    ).or_null(),
    "model.name": _TEXT.or_null(),
    "model.pretrained": FLAG.or_null(),
    "model.weights": _PATH.or_null(),
    "model.new_head": FLAG.or_null(),
    "model.canonical": choice("none", AUTO, *BUILTIN).or_null(),
    "model.library": choice("torchvision").or_null(),
    "model._target_": Rule(_TEXT.accepts, "the name of a function", "my_module.make_model").or_null(),
    "model.mean": list_of(_REAL, "a list of a number a channel", "[0.5,0.5,0.5]", least=1).or_null(),
    "model.std": list_of(_POSITIVE, "a list of a number above 0 a channel", "[0.25,0.25,0.25]", least=1).or_null(),
    "loss._target_": Rule(_TEXT.accepts, "the name of a function or class", "my_module.my_loss").or_null(),
    "loss.copies": whole(1, 2),
    "loss.consistency": _NOT_NEGATIVE.or_null(),
    "loss.entropy": _NOT_NEGATIVE.or_null(),
    "loss.pixel_noise": _NOT_NEGATIVE.or_null(),
    "loss.label_smoothing": number("a number in [0, 1)", "0.2", lambda v: 0 <= v < 1).or_null(),
    "loss.transformed": FLAG,
    "loss.*": _ANY,  # arguments of the user's own, which checks them itself
    "optimizer._target_": Rule(_TEXT.accepts, "the name of a class", "torch.optim.AdamW").or_null(),
    "optimizer.lr": _POSITIVE.or_null(),
    "optimizer.bias_lr": _POSITIVE,
    "optimizer.momentum": number("a number in [0, 1)", "0.9", lambda v: 0 <= v < 1).or_null(),
    "optimizer.weight_decay": _NOT_NEGATIVE.or_null(),
    "optimizer.nesterov": FLAG.or_null(),
    "optimizer.schedule": replace(choice(*SCHEDULES), accepts=lambda v: v in (*SCHEDULES, *OLDER_SCHEDULES)),
    "optimizer.milestones": list_of(whole(1, 30), "a list of epochs", "[30,45]", least=1).or_null(),
    "optimizer.gamma": number("a number in (0, 1]", "0.1", lambda v: 0 < v <= 1),
    "optimizer.epochs": whole(1, 20),
    "optimizer.batch_size": whole(1, 128),
    "optimizer.ema": number("a number in (0, 1)", "0.999", lambda v: 0 < v < 1).or_null(),
    "optimizer.*": _ANY,  # arguments of the class, which checks them itself
    "trainer.accelerator": _TEXT,
    "trainer.devices": Rule(
        lambda v: v in ("auto", -1) or whole(1, 1).accepts(v), "a number of devices, -1 (all) or auto", "2"
    ),
    "trainer.num_nodes": whole(1, 1),
    "trainer.strategy": _TEXT,
    "trainer.precision": choice(AUTO, *PRECISIONS),
    "trainer.num_threads": whole(1, 2).or_null(),
    "trainer.fast_dev_run": FLAG,
    "trainer.limit_train_batches": _SHARE,
    "trainer.limit_val_batches": _SHARE,
    "trainer.progress": FLAG,
    "limits.pixels": whole(1, Limits.pixels),
    "limits.megabytes": whole(1, Limits.megabytes),
    "limits.gigabytes": whole(1, Limits.gigabytes),
    "logger.name": choice(*members("logger")),
    "logger.project": _TEXT,
    "logger.entity": _TEXT.or_null(),
    "logger.group": _TEXT.or_null(),
    "logger.log_checkpoint": FLAG,
}


#: Fields of one command that hold something else than those of the same name of the others.
RULES_OF: dict[str, dict[str, Rule]] = {
    "attack": {
        "bound.methods": list_of(
            choice(*METHODS), f"a list of one method among {', '.join(METHODS)}", "[neyman_pearson]", length=1
        )
    },
    "predict": {"format": choice("table", "json", "csv")},
    "report": {"format": choice("markdown", "latex", "csv", "json", "parquet")},
}


def rules_under(*groups: str) -> dict[str, Rule]:
    """The rules of the fields of these groups, for a file that holds them, too."""
    return {key: rule for key, rule in RULES.items() if key.partition(".")[0] in groups and "." in key}


def rule_of(key: str, rules: Mapping[str, Rule] = RULES) -> Rule | None:
    if key in rules:
        return rules[key]
    patterns = (p for p in rules if "*" in p and p.count(".") == key.count(".") and fnmatch.fnmatchcase(key, p))
    return rules.get(next(patterns, ""))


#: Characters that a name may have: a file of unknown origin may have a megabyte of them.
_NAME = 200


def leaves(config: Mapping[str, Any], prefix: str = "", rules: Mapping[str, Rule] = RULES) -> Iterator[tuple[str, Any]]:
    """Every field with its dotted name. Lists are values; what ``transform`` holds is up to its class.

    So is an empty dictionary where a field is meant: no field takes it, and its rule says so. In a configuration, one
    without a rule is a group of no fields.

    Raises:
        UserError: a name that is no text, or that has a dot: it could pass for another.
    """
    for key, value in config.items():
        if not isinstance(key, str) or "." in key or len(key) > _NAME:
            where = prefix.rstrip(".")
            raise UserError(f"{where}{': ' if where else ''}{shown(key)} is not a name; leave it out")
        name = f"{prefix}{key}"
        group = bool(value) or (rules is RULES and rule_of(name) is None)
        if isinstance(value, Mapping) and prefix != "transform." and group:
            yield from leaves(value, f"{name}.", rules)
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


def check_fields(config: Mapping[str, Any], command: str = "") -> None:
    """Check every field of a plain configuration, that of ``command``, against its rule.

    Raises:
        UserError: an unknown field, or a value that its field does not accept.
    """
    own = RULES_OF.get(command, {})
    for key, value in leaves(config):
        rule = own.get(key) or rule_of(key)
        if rule is None:
            names = [name for name, _ in leaves(config) if rule_of(name)]
            known = [name for name in RULES if "*" not in name] + names
            raise UserError(f"{cut(key)}={shown(value)} is not a field{near_field(key, known)}; leave it out otherwise")
        if not rule.accepts(value):
            raise UserError(rule.refusal(cut(key), value))
        if key.startswith("region.") and INTERVAL.accepts(value) and value[0] > value[1]:
            raise UserError(f"{cut(key)}={value} is inverted; set '{cut(key)}=[{value[1]},{value[0]}]'")


def check_file(content: Any, rules: Mapping[str, Rule], file: Path | str, fix: str) -> None:
    """Check what a file holds against its rules, as :func:`check_fields` does.

    What may be null may be absent, too.

    Args:
        content: plain values, as read.
        file: opens the messages.
        fix: what to do about it; ends them.

    Raises:
        UserError: not an object, a name that is missing or that no rule knows, or a value that its rule refuses.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{file}: holds {type(content).__name__}, not an object; {fix}")
    try:
        given = dict(leaves(content, rules=rules))
    except UserError as error:
        raise UserError(f"{file}: {error}; {fix}") from None
    for key, value in given.items():
        rule = rule_of(key, rules)
        if rule is None:
            raise UserError(f"{file}: {cut(key)}={shown(value)} is not known here; {fix}")
        if not rule.accepts(value):
            raise UserError(f"{file}: {_refusal(cut(key), value, rule)}; {fix}")
    for key, rule in rules.items():
        optional = "*" in key or rule.accepts(None)
        if not optional and key not in given and not any(name.startswith(f"{key}.") for name in given):
            raise UserError(f"{file}: lacks {key}; {fix}")


def _refusal(key: str, value: Any, rule: Rule) -> str:
    if rule.item is not None and isinstance(value, list):
        for i, item in enumerate(value):
            if not rule.item.accepts(item):
                return _refusal(f"{key}[{i}]", item, rule.item)
    return f"{key} is {shown(value)}, not {rule.wanted}{_too_large(value)}"


def cut(words: str) -> str:
    """A name or a text in a message, as :func:`shown` but without quotes."""
    return visible(words if len(words) <= _SHOWN else f"{words[: _SHOWN - 1]}…")
