"""What decides a command's result.

One list. The name of a run's directory follows from it, and whether a directory's records or checkpoint may be
continued: never anything else.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from glsmooth.configuration.exported import exported_files
from glsmooth.configuration.fields import OLDER_SCHEDULES, cut, leaves, shown
from glsmooth.configuration.parts import SGD
from glsmooth.configuration.settings import validate
from glsmooth.configuration.untrusted import Limits, limits, open_file, read_names, using_limits
from glsmooth.errors import UserError

__all__ = [
    "BY_ROOT",
    "USUAL",
    "certificates_digest",
    "checkpoint_digest",
    "decisive",
    "difference",
    "digest",
    "file_digest",
    "run_id",
]

#: Fields that do not decide a command's result: where and how fast it runs, where it reports to, and what only permits
#: it to run.
_UNDECISIVE: dict[str, tuple[str, ...]] = {
    "train": (
        "trainer.accelerator",
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.strategy",
        "trainer.num_threads",
        "trainer.progress",
        "dataset.subset",  # of the test images; training does not see them
        "dataset.subset_seed",
        *("dataset.split", "dataset.skip", "dataset.every"),
        "approximate",
    ),
    "advise": ("batch_size", "compile", "channels_last", "threads", "stochastic", "trainer.*"),
    "attack": (
        *("batch_size", "compile", "channels_last", "threads", "stochastic", "trainer.*"),
        *("approximate", "run", "attack.minutes"),  # which certificates were attacked is noted by what they are
    ),
    "certify": (
        *("batch_size", "compile", "channels_last", "threads", "dry_run"),
        *("approximate", "stochastic", "trainer.*"),
    ),
    "export": (),
    "predict": ("format", "batch_size", "compile", "channels_last", "threads", "stochastic", "trainer.*"),
    "bounds": ("format", "plot", "proof", "dataset.*"),  # image_size counts, wherever it comes from
    # All but the format are those of the runs: typed, they only permit to import and to read.
    "report": ("format", "transform.*", "smoothing.*", "dataset.root", "dataset._target_"),
}
#: Fields that once were not there, with what null stands for.
USUAL = {
    "dataset.split": "test",
    "dataset.skip": 0,
    "dataset.every": 1,
    "radii": False,
    "draws": "continuous",
    "optimizer._target_": SGD,
    "optimizer.gamma": 0.1,
} | dict.fromkeys(
    (
        *("shard", "model.library", "model._target_", "model.mean", "model.std", "dataset.class_names"),
        *("optimizer.milestones", "optimizer.ema", "loss._target_", "dataset._target_", "dataset.num_classes"),
        *("region.ball", "region.over", "region.centre", "region.points"),
    )
)
#: Names of data sets that do not say which images they hold: their root does.
BY_ROOT = (None, "image_folder", "custom")
_NEVER_DECISIVE = ("run_dir", "logger.*", "limits.*", "dataset.download", "dataset.num_workers")


def decisive(settings: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The fields that decide the result of ``command``, by dotted name, in plain values.

    A checkpoint counts by its bytes (:func:`checkpoint_digest`), wherever it lies, and so do weights from which
    training starts. A data set that has a name counts by that name, a folder of the user's own by its path, seen from
    wherever; an order of classes by their names. What is null and was no field once is not spoken of.
    """
    ignored = [*_NEVER_DECISIVE, *_UNDECISIVE[command]]
    if settings.get("dataset", {}).get("name") not in BY_ROOT:
        ignored.append("dataset.root")
    fields = {
        key: _canonical(value)
        for key, value in leaves(settings)
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in ignored)
    }
    for folder in ("dataset.root", "images"):
        if fields.get(folder) is not None:
            fields[folder] = str(Path(fields[folder]).expanduser().resolve())
    schedule = fields.get("optimizer.schedule")  # by the name that older runs have
    if schedule in OLDER_SCHEDULES.values():
        fields["optimizer.schedule"] = next(old for old, new in OLDER_SCHEDULES.items() if new == schedule)
    for name, usual in USUAL.items():
        if fields.get(name) in (None, usual):
            fields.pop(name, None)
    # With ckpt, null is what that network has.
    if fields.get("model.canonical") in ((None,) if settings.get("ckpt") else (None, "none")):
        fields.pop("model.canonical", None)
    if isinstance(fields.get("dataset.class_names"), str):
        fields["dataset.class_names"] = read_names(fields["dataset.class_names"])
    if settings.get("ckpt") is None:  # train, which need not start from one, and once could not
        fields.pop("ckpt", None)
    else:
        fields["ckpt"] = checkpoint_digest(settings["ckpt"])
    if command == "attack" and settings.get("run") is not None:
        fields["run"] = certificates_digest(settings["run"])
    weights = fields.get("model.weights") if command in ("train", "attack", "certify") else None
    if weights is not None and Path(weights).expanduser().is_file():
        fields["model.weights"] = file_digest(weights)
    return fields


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first field in which two results of :func:`decisive` differ, in words; None where they agree."""
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            return f"{_stated(name, before)}, this run has {_stated(name, now)}"
    return None


def _stated(name: str, fields: Mapping[str, Any]) -> str:
    if name not in fields:
        return f"no {cut(name)} stated"  # by an older version, for example
    value = fields[name]
    return f"{cut(name)}={cut(value) if isinstance(value, str) else shown(value)}"


def run_id(cfg: Any, command: str) -> str:
    """Name of a run: the :func:`digest` of what decides it.

    Raises:
        UserError: the configuration is not valid; so a mistake leaves no directory behind.
    """
    settings = validate(cfg, command)
    with using_limits(Limits(**settings.get("limits", {}))):
        return digest(decisive(settings, command))


def digest(fields: Mapping[str, Any]) -> str:
    """A name for a result of :func:`decisive`: 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def checkpoint_digest(ckpt: str | Path) -> str:
    """SHA-256 of a checkpoint, in hexadecimal: of the file's bytes, or of both files of a folder that export wrote.

    That of a folder is of what ``sha256sum config.json model.safetensors`` prints in it; the card does not count.

    Raises:
        OSError: a file cannot be read, or is no regular file.
        UserError: it is larger than a checkpoint may be, or the folder is none that export wrote.
    """
    path = Path(ckpt).expanduser()
    if not path.is_dir():
        return file_digest(path)
    lines = [f"{file_digest(file)}  {file.name}\n" for file in exported_files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def certificates_digest(run: str | Path) -> str:
    """SHA-256 of the records of a certification, in hexadecimal: what it certified.

    Raises:
        UserError: there are none.
    """
    file = Path(run).expanduser() / "records.csv"
    if not file.is_file():
        raise UserError(f"run={run}: has no records.csv; give the directory of a certification, outputs/certify/ID")
    return file_digest(file)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; computed once while the file stays as it is.

    Raises:
        OSError: it cannot be read, or is no regular file.
        UserError: it is larger than a checkpoint may be.
    """
    path = Path(path).expanduser().resolve()
    status = path.stat()
    if status.st_size > limits().gigabytes * 10**9:  # before it takes minutes
        raise UserError(f"{path}: larger than limits.gigabytes={limits().gigabytes}; raise that if you trust the file")
    # Whoever writes a file can set back the time of its content, but not that of the change.
    return _file_digest(path, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=8)
def _file_digest(path: Path, state: tuple[int, ...]) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _canonical(value: Any) -> Any:
    """1 and 1.0 are the same setting."""
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
