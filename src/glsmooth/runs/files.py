"""The files of a run directory, and how they are written: whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from glsmooth.configuration.untrusted import read_bytes
from glsmooth.errors import UserError, visible

__all__ = [
    "ATTACKS",
    "CONFIG",
    "FAILED",
    "FIGURE",
    "IDENTITY",
    "IMAGES",
    "METRICS",
    "RECORDS",
    "SPEED",
    "SUMMARY",
    "SWEEP",
    "check_writable",
    "new_folder",
    "read_json",
    "remove_leftovers",
    "replacing",
    "sync",
    "wandb_id",
    "write_bytes",
    "write_config",
    "write_text",
]

# Files are as readable to others as those that a plain open() makes.
_UMASK = os.umask(0)
os.umask(_UMASK)

#: How the names of files end that are being written.
_PART = ".part"

#: A row an image; the numbers of the run; what decides them; names and digests of the images; the settings, resolved;
#: one image's draws for a picture; the batch size and what else decides the speed; why there is no result;
#: in a sweep's folder, which runs are its own; of a training, its numbers by epoch; and of an attack, a row an image.
RECORDS, SUMMARY, IDENTITY, IMAGES, CONFIG, FIGURE, SPEED, FAILED, SWEEP, METRICS, ATTACKS = (
    "records.csv",
    "summary.json",
    "identity.json",
    "images.json",
    "config.yaml",
    "figure1.npz",
    "speed.json",
    "failed.json",
    "sweep.json",
    "metrics.csv",
    "attacks.csv",
)


def check_writable(directory: str | Path) -> None:
    """Raise a UserError unless files can be made in the run directory: better now than after the work."""
    try:
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise UserError(
            f"hydra.run.dir={directory}: cannot be written ({error.strerror}); make it writable, or choose another"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8, whole or not at all (:func:`write_bytes`)."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all (:func:`replacing`)."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the name ``path`` at the end: it is there either whole or not at all.

    It is a new file in the same folder, renamed over the name. So a symbolic link of this name is replaced; what it
    points to is not touched.

    Raises:
        UserError: the disk is full or fails, or the folder cannot be written.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PART, dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o666 & ~_UMASK)
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
        temporary = None
        sync(path.parent)
    except (OSError, RuntimeError) as error:  # torch tells of a full disk by the latter
        reason = getattr(error, "strerror", None) or "the disk is full, or fails"
        raise UserError(
            f"{path}: cannot be written ({reason}); make room or the folder writable, and run the same command again"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill with files that takes the name ``path`` at the end: it is there either with all of them or not
    at all. An empty folder of this name is replaced.

    Raises:
        UserError: the folder that it lies in cannot be written, or the name is taken by then.
    """
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_PART, dir=path.parent))
        temporary.chmod(0o777 & ~_UMASK)
        yield temporary
        for file in temporary.iterdir():  # others write them, too, and to be read by their owner alone
            file.chmod(0o666 & ~_UMASK)
            sync(file)
        sync(temporary)
        os.rename(temporary, path)
        temporary = None
        sync(path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); name another folder, and run the same command again"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def read_json(path: Path, fix: str, as_it_is: bool = False) -> Any:
    """The content of a JSON file of whatever origin, with control characters in its texts written out.

    Args:
        fix: what to do about a file that is not readable, to end the message.
        as_it_is: leave texts as they are, to compare them; whoever shows one writes it out.

    Raises:
        UserError: it cannot be read, is too large, is no JSON, or is nested deeper than anything that this program
            writes.
    """
    try:
        content = json.loads(read_bytes(path).decode("utf-8"))
        return content if as_it_is else _visible(content)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # a number of thousands of digits is a ValueError, too
        raise UserError(f"{path}: not readable as JSON ({error}); {fix}") from None
    except RecursionError:
        raise UserError(f"{path}: not readable as JSON (it is nested too deeply); {fix}") from None


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key): _visible(item) for key, item in value.items()}
    if isinstance(value, list):
        for i, item in enumerate(value):  # in place: a large file is in memory once
            value[i] = _visible(item)
    return value


def remove_leftovers(directory: Path) -> None:
    """Remove what kills in the middle of :func:`replacing` left in a directory that no other process writes to."""
    for left in directory.glob(f".*{_PART}"):
        left.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file's content, or a directory's entries, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_config(directory: Path, settings: Mapping[str, Any]) -> None:
    """config.yaml: the settings as they were used, with every reference resolved."""
    # Not through OmegaConf, to which a text of a checkpoint's could look like a reference.
    write_text(directory / CONFIG, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))


def wandb_id(directory: Path) -> str:
    """The run's name at W&B, which a resumed run keeps."""
    file = directory / "wandb_id"
    if file.is_symlink() or not file.is_file():  # a link may lead to anything, and the name is sent away
        write_text(file, secrets.token_hex(4))
    return file.read_text(encoding="utf-8")
