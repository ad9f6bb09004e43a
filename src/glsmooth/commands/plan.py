"""What a sweep does, read from its command line: every training, every certification, and where they lie."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from glsmooth.commands.entry import check_regions, literal, own_law, quoted, what_to_type
from glsmooth.commands.jobs import behind
from glsmooth.configuration.folder import conf_dir
from glsmooth.errors import UserError, near_field

__all__ = ["Plan", "Step", "compose", "composer", "plan_of"]

#: First parts of the keys that train alone has, certify alone, and both.
_TRAIN = ("ckpt", "transform", "smoothing", "dataset", "model", "loss", "optimizer", "trainer", "experiment", "seed")
_CERTIFY = (
    *("region", "monte_carlo", "bound", "precision", "batch_size", "channels_last", "compile", "threads"),
    *("pixel_noise", "draws", "stochastic", "dataset.subset", "dataset.subset_seed"),
    *("dataset.split", "dataset.skip", "dataset.every"),
)
#: Keys of what certify imports, too.
_IMPORTED = ("transform._target_", "dataset._target_", "model._target_")
_BOTH = ("logger", "limits", "cluster", "approximate", "trainer.accelerator", "trainer.devices", "hydra")
#: Settings of the sweep itself, with their defaults.
_OWN: dict[str, Any] = {"jobs": 1, "shards": 1, "dry_run": False}
#: Keys that decide neither what is trained nor what is certified, and so not the name of the sweep's folder.
_NO_MATTER = ("jobs", "dry_run", "logger", "cluster", "hydra", "limits", "trainer.accelerator", "trainer.devices")


@dataclass
class Step:
    """One run of train or of certify.

    Attributes:
        command: ``train`` or ``certify``.
        overrides: what is typed for it.
        name: what tells it from the others.
        after: the training whose checkpoint it certifies.
        directory: of the run, once it is known.
        state: ``waiting``, ``finished``, ``failed`` or ``killed``.
        group: of its run at W&B; "" where one is typed.
    """

    command: str
    overrides: list[str]
    name: str
    after: Step | None = None
    directory: Path | None = None
    state: str = "waiting"
    group: str = ""

    @property
    def title(self) -> str:
        """What it is called in tables."""
        return f"{self.command} {self.name}".strip()

    @property
    def arguments(self) -> list[str]:
        """What its command is started with."""
        return [*self.overrides, f"logger.group={self.group}"] if self.group else self.overrides

    def locate(self) -> bool:
        """Find the run's directory, where its name can be known: that of certify follows from the checkpoint.

        Returns:
            Whether a result is there.
        """
        if self.after is not None:
            assert self.after.directory is not None
            checkpoint = self.after.directory / "best.ckpt"
            if not (checkpoint.is_file() and (self.after.directory / "summary.json").is_file()):
                return False
        self.directory = Path(compose(self.command, self.overrides, lambda cfg: str(cfg.hydra.run.dir)))
        results = ("summary.json", "best.ckpt" if self.command == "train" else "records.csv")
        if all((self.directory / name).is_file() for name in results):
            self.state = "finished"
        return self.state == "finished"


@dataclass
class Plan:
    """What a sweep does: its steps, the regions that votes decide, and its settings."""

    steps: list[Step]
    regions: list[dict[str, Any]]
    folder: Path
    settings: dict[str, Any]
    transform_target: str | None
    law_targets: frozenset[str]
    launcher: str

    @property
    def certifications(self) -> list[Step]:
        return [step for step in self.steps if step.command == "certify"]


def plan_of(arguments: Sequence[str]) -> Plan:
    """Read the command line.

    Raises:
        UserError: a field that neither command has, a value that is none; nothing has begun then.
    """
    typed = _overrides(arguments)
    settings = dict(_OWN)
    stages: dict[str, list[Override]] = {"train": [], "certify": []}
    folder: Path | None = None
    for override in typed:
        key = override.get_key_element().lstrip("+~")
        if key == "hydra.run.dir":
            folder = _folder(override)
        elif key.startswith("hydra.sweep."):
            raise UserError(
                f"{override.input_line}: runs lie where train and certify write them; leave it out (hydra.run.dir is "
                "where the report goes)"
            )
        elif key in _OWN:
            settings[key] = _setting(key, override)
        elif key.startswith(("train.", "certify.")):
            command, _, rest = str(override.input_line).lstrip("+~").partition(".")
            prefix = str(override.input_line)[: -len(f"{command}.{rest}")]
            stages[command] += _parse([prefix + rest])
        else:
            for command in _commands(key, str(override.input_line)):
                stages[command].append(override)
    _own_parts(typed, stages)
    for stage in stages.values():
        check_regions([str(one.input_line) for one in stage])
    laws = _own_laws(typed, stages)
    regions = [one for one in stages["certify"] if _of_region(str(one.input_line))]
    others = [one for one in stages["certify"] if one not in regions]
    boxes = _product(regions) if regions else []
    first = boxes[0] if boxes else []
    own = any(one.get_key_element() == "transform._target_" for one in stages["train"])
    if own and not any(_of_region(str(one.input_line)) for one in stages["train"]):
        stages["train"] += _parse(first)  # train asks for one, and of a transformation of the user's own has none
    shards = range(settings["shards"]) if settings["shards"] > 1 else (None,)
    steps: list[Step] = []
    trainings, certifications = _product(stages["train"]), _without_repeats(_product(others))
    directories: set[Path] = set()
    for overrides in trainings:
        train = Step("train", overrides, _different(overrides, trainings))
        train.locate()
        assert train.directory is not None
        if train.directory in directories:
            continue  # the same in other words: 0.1 and 1e-1
        directories.add(train.directory)
        steps.append(train)
        for more in certifications:
            for shard in shards:
                part = [] if shard is None else [f"shard={shard}/{settings['shards']}"]
                checkpoint = [f"ckpt={literal(str(train.directory / 'best.ckpt'))}"]
                name = " ".join(filter(None, (train.name, _different(more, certifications), *part)))
                steps.append(Step("certify", [*checkpoint, *more, *first, *part], name, after=train))
    decided = [_region(box) for box in boxes]
    _check(steps, decided)
    _check_regions(steps, boxes)
    for step in steps:
        if step.command == "certify":
            step.locate()
    words = sorted(str(one.input_line) for one in typed if not one.get_key_element().startswith(_NO_MATTER))
    name = hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
    folder = Path("outputs/sweep", name) if folder is None else folder
    if not any(one.get_key_element() == "logger.group" for one in typed):
        for step in steps:
            step.group = f"sweep-{name}"
    target = next((one.value() for one in typed if one.get_key_element() == "transform._target_"), None)
    launcher = str(compose("train", steps[0].overrides, lambda cfg: cfg.hydra.launcher._target_))
    if not launcher.endswith((".BasicLauncher", ".glsmooth_launcher.SlurmLauncher")):
        raise UserError(
            f"hydra/launcher: sweep starts no jobs by {launcher}; set hydra/launcher=slurm, or leave it out and set "
            "for example jobs=2"
        )
    return Plan(steps, decided, folder, settings, None if target is None else str(target), laws, launcher)


def _overrides(arguments: Sequence[str]) -> list[Override]:
    words, skip = [], False
    for argument in arguments:
        if skip:
            _check_site(argument)
            skip = False
        elif argument in ("--config-dir", "-cd"):
            skip = True  # site_first reads it
        elif argument.startswith("--config-dir="):
            _check_site(argument.removeprefix("--config-dir="))
        elif argument.startswith("-"):
            raise UserError(f"{argument}: sweep takes no such option (glsmooth sweep --help)")
        else:
            words.append(own_law(quoted(argument)))
    return _parse(words)


def _check_site(folder: str) -> None:
    if not Path(folder).is_dir():
        raise UserError(f"--config-dir={folder} is not a directory; name one that exists")


def _parse(words: Sequence[str]) -> list[Override]:
    parsed: list[Override] = []
    for word in words:
        try:
            parsed += OverridesParser.create().parse_overrides([word])
        except HydraException as error:
            raise UserError(what_to_type(error, "train")) from None
    return parsed


def _commands(key: str, typed: str) -> list[str]:
    """The commands that a field is for."""

    def within(keys: Sequence[str]) -> bool:
        return any(key == one or key.startswith((f"{one}.", f"{one}/")) for one in keys)

    if within(_BOTH):
        return ["train", "certify"]
    if within(_CERTIFY):
        return ["certify"]
    if within(_TRAIN):
        return ["train"]
    known = [one.partition(".")[0] for one in (*_TRAIN, *_CERTIFY, *_BOTH, *_OWN)]
    hint = near_field(key.partition(".")[0], known)
    raise UserError(f"{typed} is a field of neither train nor certify{hint} (glsmooth sweep --help)")


def _own_parts(typed: Sequence[Override], stages: dict[str, list[Override]]) -> None:
    """What is the user's own is named to certify, too: a file alone is not trusted with an import."""
    for override in typed:
        key = override.get_key_element().lstrip("+~")
        if key in _IMPORTED and override.is_sweep_override():
            # Each network would be certified with the others' parts, too.
            what = {"transform": "transformation", "dataset": "data set", "model": "network"}[key.partition(".")[0]]
            raise UserError(f"{override.input_line}: one {what} of your own a sweep; start one for each")
        if key in _IMPORTED or (key == "transform" and override.value() == "custom"):
            stages["certify"].append(override)


def _own_laws(typed: Sequence[Override], stages: dict[str, list[Override]]) -> frozenset[str]:
    """So are laws of the user's own; returns their classes."""
    found: dict[str, str] = {}
    for override in typed:
        text = str(override.input_line)
        name = override.get_key_element().lstrip("+~").removesuffix("._target_")
        if not name.startswith("smoothing."):
            continue
        targets = set(re.findall(r"_target_\s*[:=]\s*['\"]?([\w.]+)", text))
        if len(targets) > 1:
            # Each network would be certified under the others' laws, too.
            raise UserError(f"{text}: one law of your own for a parameter in a sweep; start one for each")
        if targets:
            (found[name],) = targets
    for name, target in found.items():
        stages["certify"] += _parse([f"+{name}._target_={target}"])
    return frozenset(found.values())


def _setting(key: str, override: Override) -> Any:
    value: Any = override.value()
    default = _OWN[key]
    if override.is_sweep_override() or type(value) is not type(default) or (not isinstance(value, bool) and value < 1):
        wanted = "true or false" if isinstance(default, bool) else "a whole number, at least 1"
        raise UserError(f"{override.input_line} must be {wanted}; set for example {key}={str(default).lower()}")
    return value


def _folder(override: Override) -> Path:
    value = override.value()
    if override.is_sweep_override() or value in (None, "") or "${" in str(value):
        raise UserError(f"{override.input_line} must be one folder; set for example hydra.run.dir=outputs/sweep/first")
    return Path(str(value))


def _product(overrides: Sequence[Override]) -> list[list[str]]:
    """The combinations of all values, as overrides."""
    combinations: list[list[str]] = BasicSweeper.split_arguments(list(overrides), max_batch_size=None)[0]
    return combinations


def _without_repeats(combinations: Sequence[list[str]]) -> list[list[str]]:
    return [one for number, one in enumerate(combinations) if one not in combinations[:number]]


def _of_region(override: str) -> bool:
    """Does it say what is certified: a field of the region, or several in braces?"""
    return override.lstrip("+").startswith(("region.", "region={"))


def _region(overrides: Sequence[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for one in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = one.get_key_element().lstrip("+"), one.value()
        fields |= value if key == "region" and isinstance(value, dict) else {key.removeprefix("region."): value}
    return fields


def _different(overrides: Sequence[str], every: Sequence[Sequence[str]]) -> str:
    """What tells one combination from the others."""
    return " ".join(one for one in overrides if any(one not in other for other in every))


def _check(steps: Sequence[Step], regions: Sequence[Mapping[str, Any]]) -> None:
    """Refuse mistakes in any step before the first begins."""
    from glsmooth.configuration.fields import check_fields
    from glsmooth.configuration.plain import plain
    from glsmooth.runs.shards import parse

    seen: set[tuple[str, ...]] = set()
    for step in steps:
        key = tuple(one for one in step.overrides if not one.startswith("ckpt="))
        if step.command == "train" or key in seen:
            continue  # the directory of a training was named, and for that it was validated
        seen.add(key)

        def check(cfg: DictConfig) -> None:
            names = [str(name) for name in cfg if name not in ("hydra", "run_dir")]
            settings = plain(OmegaConf.masked_copy(cfg, names))
            check_fields(settings)
            parse(settings["shard"])
            procedure = settings["monte_carlo"]["name"]
            if len(regions) > 1 and procedure in ("sequential", "exhaustive"):
                raise UserError(
                    f"monte_carlo={procedure}: stops when one region is decided, and {len(regions)} are asked for; "
                    "give one region, or monte_carlo=paper, whose votes decide all"
                )

        compose("certify", step.overrides, check)


def _check_regions(steps: Sequence[Step], regions: Sequence[Sequence[str]]) -> None:
    """Refuse a region that no votes could decide: all but the first come up when every job has ended.

    Raises:
        UserError: an interval that is none, or a parameter that the transformation of a training lacks.
    """
    for step in steps if len(regions) > 1 else ():
        if step.command == "train":
            target = str(compose("train", step.overrides, lambda cfg: cfg.transform.get("_target_")))
            if target.startswith("glsmooth.threats."):
                raise UserError(
                    f"region: votes for {target.rpartition('.')[2].lower()} are taken at references for one region, "
                    f"and {len(regions)} are asked for; start a sweep for each"
                )
    for region in regions:
        for name, interval in _region(region).items():
            if interval is None:
                raise UserError(f"region.{name}=null is no region; give [low,high], or leave region out")
        certify = next(step for step in steps if step.command == "certify")
        others = [one for one in certify.overrides if not _of_region(one)]
        _check([Step("certify", [*others, *region], "")], [])
        if not any(one.startswith("+") for one in region):  # with + it is of a transformation of the user's own
            for step in steps if region is regions[0] else ():
                if step.command == "train":
                    compose("train", [*step.overrides, *region], lambda cfg: str(cfg.hydra.run.dir))


def compose(command: str, overrides: Sequence[str], read: Callable[[DictConfig], Any]) -> Any:
    """What ``read`` finds in a composed configuration, Hydra's own part included.

    Raises:
        UserError: it does not compose, or is not valid.
    """
    with composer():
        try:
            return read(hydra.compose(command, list(overrides), return_hydra_config=True))
        except HydraException as error:
            raise UserError(f"{error}\n{what_to_type(error, command)}") from None
        except OmegaConfBaseException as error:
            mistake = behind(error)
            if mistake is None:
                raise
            raise mistake from None


@contextmanager
def composer() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield
