"""Entry points: compose the configuration with Hydra, check it, run; mistakes show no traceback.

Help, and mistakes that Hydra finds, come without torch: whatever imports it is imported where a job begins.
"""

from __future__ import annotations

import atexit
import copy
import errno
import gc
import hashlib
import importlib
import io
import itertools
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import hydra
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.core.plugins import Plugins
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
    SearchPathException,
)
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from glsmooth.commands.jobs import OneAfterAnother, behind, failures, job_of, table_of_failures, told_by_job
from glsmooth.configuration.folder import conf_dir
from glsmooth.configuration.untrusted import Limits, using_limits
from glsmooth.errors import UserError, did_you_mean, keyed, near_field, visible
from glsmooth.learning.stopping import scontrol_requeue, started_by_srun, stoppable
from glsmooth.runs.files import check_writable

__all__ = [
    "check_regions",
    "ending",
    "entry",
    "environment",
    "literal",
    "quoted",
    "show_any_character",
    "site_first",
    "task_of",
    "typed_or_help",
    "what_to_type",
]

log = logging.getLogger(__name__)

#: Exit status of a command that a mistake of the user's stopped, as argparse and most programs have it.
USAGE_ERROR = 2
#: How to go on after a signal, of commands that leave a part of their work behind.
_GO_ON = dict.fromkeys(("train", "certify", "attack"), "; the same command goes on from here")
#: Commands that have a ``logger``.
_LOGGED = ("train", "certify", "attack")
#: What the system says of a disk that takes no more. Never a bug, whoever was writing.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
#: Hydra's options that take a value.
_OPTIONS = {
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--package",
    "-p",
    "--cfg",
    "-c",
    "--info",
    "-i",
}


def entry(
    command: str, run: Callable[[DictConfig], None] | None = None, positional: str | None = None
) -> Callable[[], None]:
    """The ``main`` of a command.

    Args:
        command: names ``conf/<command>.yaml``.
        run: does the job with the composed and validated configuration, once a job of a ``--multirun``. By default
            ``run`` of ``glsmooth.commands.<command>``, which is imported for that.
        positional: a field that collects the arguments without ``=`` in a list.

    Returns:
        A function without arguments that reads ``sys.argv``. A mistake of the user's ends it with status 2
        and a message whose last line says what to type; a signal ends it as :mod:`glsmooth.learning.stopping`
        says; any other exception passes through.
    """

    def main() -> None:
        show_any_character()
        sys.argv[1:] = [own_law(quoted(argument)) for argument in sys.argv[1:]]
        with ending(command):
            check_regions(sys.argv[1:])
        if positional is not None:
            sys.argv[1:] = _collect_positional(sys.argv[1:], positional)
        if command in _LOGGED:
            sys.argv[1:] = _grouped(command, sys.argv[1:])
        start = hydra.main(config_path=str(conf_dir()), config_name=command, version_base="1.3")(task_of(command, run))
        failures.clear()  # of a command that ran before in this process
        requeue = scontrol_requeue if started_by_srun() else None
        with ending(command), environment(), site_first(), stoppable(_GO_ON.get(command, ""), requeue=requeue):
            try:
                start()
            finally:
                print(table_of_failures(), end="", file=sys.stderr)

    return main


def task_of(command: str, run: Callable[[DictConfig], None] | None = None) -> Callable[[DictConfig], None]:
    """What Hydra runs for a command, as a job of a cluster too: checks the configuration, and does the work.

    Args:
        command, run: as :func:`entry` has them.
    """

    def task(cfg: DictConfig) -> None:
        with _importing():
            from glsmooth.configuration.fields import keys
            from glsmooth.configuration.settings import validate

        with keyed(keys(validate(cfg, command))):
            if cfg.run_dir != HydraConfig.get().runtime.output_dir:
                raise UserError(f"run_dir={cfg.run_dir} does not move the run; set hydra.run.dir={cfg.run_dir}")
            check_writable(cfg.run_dir)
            try:
                with using_limits(Limits(**cfg.get("limits", {}))):
                    (run or _run_of(command))(cfg)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                raise UserError(
                    f"{error.filename or cfg.run_dir}: cannot be written ({error.strerror}); make room or the folder "
                    "writable, and run the same command again"
                ) from error

    return job_of(task, _GO_ON.get(command, ""))


@contextmanager
def ending(command: str) -> Iterator[None]:
    """End the process as :func:`entry` says where a mistake of the user's comes out."""
    try:
        yield
    except UserError as error:
        log.debug("", exc_info=True)  # its traceback, with hydra.verbose=true
        _stop(str(error))
    except HydraException as error:
        cause = f"\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
        _stop(f"{error}{cause}\n{what_to_type(error, command)}")
    except OmegaConfBaseException as error:
        # Hydra asks for the run directory before the task starts, and naming it validates.
        mistake = behind(error)
        if mistake is None:
            raise
        _stop(str(mistake))
    except OSError as error:
        if not _of_hydra(error):
            raise
        field = "hydra.sweep.dir" if get_args_parser().parse_known_args()[0].multirun else "hydra.run.dir"
        _stop(
            f"{field}: {error.filename} cannot be made or written ({error.strerror}); "
            f"set {field}=DIR to a directory that can be"
        )
    except Exception as error:
        message = told_by_job(error)
        if message is None:
            raise
        _stop(message)


@contextmanager
def _importing() -> Iterator[None]:
    """Import much at once. It stays for good, so no search for garbage looks through it, now, later, or at the end.

    That takes a quarter off the time of ``glsmooth bounds``.
    """
    modules, searching = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:  # else there may be garbage, of the jobs before
            gc.freeze()
            atexit.register(_unfreeze)
        if searching:
            gc.enable()


def _unfreeze() -> None:
    # What binds triton to Python complains of every object that outlives the program, and of hundreds.
    if "triton" in sys.modules:
        gc.unfreeze()


def _run_of(command: str) -> Callable[[DictConfig], None]:
    """What a command does; imports it."""
    with _importing():
        run: Callable[[DictConfig], None] = importlib.import_module(f"glsmooth.commands.{command}").run
    return run


def _resolve_run_id(command: str, *, _root_: DictConfig) -> str:
    with _importing():
        from glsmooth.configuration.identity import run_id

    # The run directory is what is being named here, and Hydra's own node is no part of the configuration.
    keys = [str(key) for key in _root_ if key not in ("hydra", "run_dir", "out")]
    return run_id(OmegaConf.masked_copy(_root_, keys), command)


# ${run_id:COMMAND} in hydra.run.dir; registered on import, so that jobs on other machines know it too: they import this
# module for _run_of.
OmegaConf.register_new_resolver("run_id", _resolve_run_id, replace=True)


class VisibleFormatter(logging.Formatter):
    """Control characters written out: messages quote files and their names. Line breaks are ours alone."""

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)  # other handlers see it, too
        if isinstance(record.args, tuple):
            record.args = tuple(arg if isinstance(arg, (int, float)) else visible(str(arg)) for arg in record.args)
        return visible(super().format(record), keep="\n")


class LogFile(logging.FileHandler):
    """A run's log. Where the disk takes no more it is left out: the results tell of that.

    So it is where a link, a pipe or a folder has its name: what lies elsewhere is not written to.
    """

    def _open(self) -> Any:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.fdopen(os.open(self.baseFilename, flags, 0o666), "a", encoding=self.encoding, errors=self.errors)

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # it opens with the first message
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def show_any_character() -> None:
    """Have the standard streams write out what their encoding lacks, rather than fail in the middle of a table."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def typed_or_help(text: str) -> list[str] | None:
    """The arguments of a command that Hydra does not read; None where its help was printed instead."""
    show_any_character()
    arguments = sys.argv[1:]
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(text, end="")
        return None
    return arguments


def quoted(argument: str) -> str:
    """``key=value`` with the value in quotes where it holds bytes that are no text here: Hydra cannot read them bare.

    Any name of a file may hold some, and in the C locale every letter beyond ASCII is one.
    """
    key, equals, value = argument.partition("=")
    readable = not any("\ud800" <= char <= "\udfff" for char in value)
    if readable or not equals or key.startswith("-") or value[:1] in ("'", '"', "[", "{"):
        return argument
    return f"{key}={literal(value)}"


def own_law(argument: str) -> str:
    """``smoothing.NAME={_target_:…}`` with a + before it.

    No file has that field, nor the arguments of the user's class, and Hydra would ask for it.
    """
    names_class = re.match(r"smoothing\.\w+(\._target_=|=.*\b_target_\s*:)", argument)
    return f"+{argument}" if names_class else argument


def literal(text: str) -> str:
    """A text in quotes, as Hydra reads it whatever it holds."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _of_hydra(error: OSError) -> bool:
    """Did Hydra meet it while it made the directories that the run writes to, before the task?"""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    in_task = any(code.co_filename == __file__ and code.co_name == "task" for code in codes)
    return not in_task and any(code.co_name in ("run_job", "sweep") for code in codes)


class _Site(SearchPathPlugin):
    """Puts the folder of ``--config-dir`` before the packaged one; Hydra itself looks there last."""

    folder: str | None = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.folder is not None:
            search_path.prepend("site", f"file://{self.folder}", anchor="main")


@contextmanager
def site_first() -> Iterator[None]:
    """Have files of the site's replace packaged files of the same name."""
    plugins = Plugins.instance()
    plugins.register(_Site)
    plugins.class_name_to_class[f"{BasicLauncher.__module__}.{BasicLauncher.__name__}"] = OneAfterAnother
    folder = get_args_parser().parse_known_args()[0].config_dir
    _Site.folder = None if folder is None else os.path.abspath(folder)
    try:
        yield
    finally:
        _Site.folder = None


#: Hydra shall raise its errors instead of printing them and exiting with status 1. Processes that the command starts,
#: jobs of a cluster among them, shall not look for modules in the working directory.
_ENVIRONMENT = {"HYDRA_FULL_ERROR": "1", "PYTHONSAFEPATH": "1"}


@contextmanager
def environment() -> Iterator[None]:
    """The variables of a command and of the processes that it starts."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _stop(message: str) -> NoReturn:
    sys.stdout.flush()
    print(visible(message, keep="\n\t"), file=sys.stderr)  # it may quote a file
    sys.exit(USAGE_ERROR)


def check_regions(arguments: Sequence[str]) -> None:
    """Refuse a ball or points beside an interval that is typed, too: of a default one they take the place.

    Once composed, one cannot be told from the other.

    Raises:
        UserError: both are typed.
    """
    words = [word for word in arguments if re.match(r"\+{0,2}region[.=]", word)]
    if not any("ball" in word or "points" in word for word in words):
        return
    try:
        typed = OverridesParser.create().parse_overrides(words)
    except HydraException:
        return  # Hydra says what is wrong
    for together in itertools.product(*map(_region_fields, typed)):
        said = {key: value for fields in together for key, value in fields.items() if value is not None}
        shape = next((key for key in ("ball", "points") if key in said and not _pair(said[key])), None)
        interval = next((key for key, value in said.items() if _pair(value)), None)
        if shape and interval:
            from glsmooth.configuration.build import both_regions

            raise UserError(both_regions(interval, shape))


def _region_fields(override: Override) -> list[dict[str, Any]]:
    """What an override says of the region: its fields, for each value of a sweep."""
    value: Any = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    key = override.get_key_element().lstrip("+")
    if key == "region":
        return [one if isinstance(one, dict) else {} for one in values]  # else a member of the group
    return [{key.removeprefix("region."): one} for one in values]


def _pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(end, int | float) for end in value)


def _collect_positional(arguments: list[str], field: str) -> list[str]:
    """Replace the arguments that are neither options nor overrides by one override ``field=[…]``."""
    plain_arguments: list[str] = []
    rest: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_override = "=" in argument or argument.startswith(("-", "~")) or before in _OPTIONS
        (rest if is_override else plain_arguments).append(argument)
    if plain_arguments:
        rest.append(f"{field}=[{','.join(map(literal, plain_arguments))}]")
    return rest


def _grouped(command: str, arguments: list[str]) -> list[str]:
    """The arguments, of a sweep with a name for the group of its jobs: the same whenever the same is typed."""
    typed = any(re.match(r"[+~]*logger\.group\b", argument) for argument in arguments)
    if typed or not get_args_parser().parse_known_args(arguments)[0].multirun:
        return arguments
    words = json.dumps([command, *sorted(arguments)])
    return [*arguments, f"logger.group=sweep-{hashlib.sha256(words.encode()).hexdigest()[:12]}"]


_NO_SITE = "--config-dir is not a directory; name one that exists"


def what_to_type(error: HydraException, command: str) -> str:
    """One line that names what is wrong and the fix, to follow Hydra's own text."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if "submitit" in choice:
            return "hydra/launcher=slurm needs the Slurm extra; type pip install 'glsmooth[slurm]'"
        known = [os.path.splitext(option)[0] for option in error.options or ()]
        if group.startswith("experiment/"):  # Hydra lists those of the folder above
            group, _, choice = error.missing_cfg_file.partition("/")
            files = [file for file in (conf_dir() / group).rglob("*.yaml") if file.parent.name != "rows"]
            known = sorted(file.relative_to(conf_dir() / group).with_suffix("").as_posix() for file in files)
        site = get_args_parser().parse_known_args()[0].config_dir
        if site is not None and not os.path.isdir(site):  # a sweep composes without asking Hydra for it
            return _NO_SITE
        if group == "region" and choice in ("ball", "points"):
            example = (
                "'region={ball:20,over:[tx,ty]}'" if choice == "ball" else "'region={points:[{tx:1,ty:2},{tx:3}]}'"
            )
            return f"region={choice} says not which; set for example {example}"
        own = "; a file of your own needs --config-dir DIR, where DIR/cluster has it"
        return f"{group}={choice} is not a choice{did_you_mean(choice, known)}" + (
            own if group == "cluster" and site is None else ""
        )
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override} cannot be read as key=value; quote brackets and braces for the shell "
            "('region.contrast=[0.7,1.4]') and values that hold '=' ('ckpt=\"a=b.ckpt\"')"
        )
    unknown = re.search(
        r"Could not (?:override|append to config|delete from config).*?'([^']+)'", str(error), re.DOTALL
    )
    if isinstance(error, ConfigCompositionException) and unknown:
        key = unknown.group(1).partition("@")[0]
        inside = re.search(r"full_key: (\S+)", str(error.__cause__))  # of a group that is set in braces
        key = inside.group(1) if inside else key
        hint = near_field(key, _known_keys(command))
        typed = next((a for a in sys.argv[1:] if a.lstrip("+~").startswith(key)), key)
        own = ""
        if command in ("advise", "attack", "certify", "report") and key.startswith(
            ("transform.", "smoothing.", "region.")
        ):
            own = f", or +{typed} for a transformation of your own"  # what the checkpoint holds is not known yet
        groups = ("optimizer.", "loss.", "dataset.") if command == "train" else ("dataset.",)
        if command in ("train", "advise", "attack", "certify") and key.startswith(groups):
            own = f", or +{typed} for an argument of {key.partition('.')[0]}._target_"
        if key.startswith("hydra.launcher."):
            own = "; jobs have it, with cluster=slurm or a file of your own"
        return f"{typed} is not a field of {command}{hint}{own} (glsmooth {command} --help)"
    if isinstance(error, SearchPathException):
        return _NO_SITE
    return f"type glsmooth {command} --help for what the command takes"


def _known_keys(command: str) -> list[str]:
    """Groups and fields of the command, under the groups' choices that are typed as far as they compose."""
    chosen = [argument for argument in sys.argv[1:] if (conf_dir() / argument.partition("=")[0]).is_dir()]
    GlobalHydra.instance().clear()
    with site_first(), hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            cfg = hydra.compose(command, chosen)
        except HydraException:
            cfg = hydra.compose(command)
    return ["experiment", "cluster", *_names(OmegaConf.to_container(cfg, resolve=False))]


def _names(fields: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of groups and fields."""
    for key, value in fields.items() if isinstance(fields, dict) else ():
        yield f"{prefix}{key}"
        yield from _names(value, f"{prefix}{key}.")
