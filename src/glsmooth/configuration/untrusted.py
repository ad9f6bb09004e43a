"""Files that may come from strangers: how large they may be, and what is taken from them.

Sizes are read from headers before anything is unpacked. Only regular files are opened: a pipe of the right name would
wait for ever, a device have no end.
"""

from __future__ import annotations

import math
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from glsmooth.errors import UserError, visible

__all__ = [
    "Limits",
    "check_unpacked",
    "limits",
    "open_file",
    "plain_values",
    "read_bytes",
    "read_names",
    "using_limits",
]

#: What metadata need many times over: the number of their values, their nesting, the length of a text and of all.
_VALUES, _DEPTH, _TEXT, _TEXTS = 100_000, 20, 10_000, 2_000_000


@dataclass(frozen=True)
class Limits:
    """How large files may be.

    Attributes:
        pixels: height times width of an image, as it is stored and when it is resized.
        megabytes: of a JSON, CSV or npz file, unpacked; in units of 10^6 bytes.
        gigabytes: of a checkpoint or another file of weights; in units of 10^9 bytes.
    """

    pixels: int = 64_000_000
    megabytes: int = 128
    gigabytes: int = 16


_limits: ContextVar[Limits] = ContextVar("limits", default=Limits())  # noqa: B039 - it is frozen


def limits() -> Limits:
    """The limits that hold here."""
    return _limits.get()


@contextmanager
def using_limits(limits: Limits) -> Iterator[None]:
    """Have other limits hold inside."""
    token = _limits.set(limits)
    try:
        yield
    finally:
        _limits.reset(token)


def open_file(path: str | Path) -> BufferedReader:
    """A regular file, opened for reading.

    Raises:
        OSError: there is none, or it is something else (a pipe, a device, a folder).
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(None, "not a regular file")
    return file


def read_bytes(path: Path) -> bytes:
    """A file's content, if it is not larger than :attr:`Limits.megabytes`.

    Raises:
        OSError: it cannot be read.
        UserError: it is too large.
    """
    most = limits().megabytes
    with open_file(path) as file:
        content = file.read(most * 10**6 + 1)
    if len(content) > most * 10**6:
        raise UserError(f"{path}: larger than limits.megabytes={most}; raise that if you trust the file")
    return content


def read_names(path: str | Path) -> list[str]:
    """The names of the classes in a file: one a line, in UTF-8; empty lines do not count.

    Raises:
        UserError: it cannot be read, or does not hold two or more different names.
    """
    fix = "give a file with the name of a class folder on each line"
    try:
        lines = read_bytes(Path(path).expanduser()).decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"dataset.class_names={path}: cannot be read ({reason}); {fix}") from None
    names = [name for line in lines if (name := line.strip())]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if len(names) < 2 or twice:
        what = f"names {visible(twice[0][:80])} twice" if twice else f"holds {len(names)} names"
        raise UserError(f"dataset.class_names={path}: {what}; {fix}")
    return names


def check_unpacked(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a zip file whose members, unpacked, are larger than :attr:`Limits.megabytes`; reads its directory only.

    Raises:
        UserError: it is too large.
    """
    most, size = limits().megabytes, sum(member.file_size for member in archive.infolist())
    if size > most * 10**6:
        raise UserError(
            f"{path}: unpacks to {math.ceil(size / 10**6)} megabytes, limits.megabytes={most}; raise that if you trust "
            "the file"
        )


def plain_values(content: Any) -> Any:
    """A copy of what a file holds, made of dictionaries with texts as keys, lists, texts, numbers, bools and None.

    Control characters in texts are written out (:func:`glsmooth.errors.visible`). Tuples become lists.

    Raises:
        ValueError: values of another kind, more or deeper nested ones than metadata have, or numbers beyond 64 bits.
    """
    left, characters = _VALUES, _TEXTS

    def text(value: str) -> str:
        nonlocal characters
        characters -= len(value)
        if len(value) > _TEXT:
            raise ValueError(f"it has a text of {len(value)} characters")
        if characters < 0:  # one text may be referred to many times
            raise ValueError(f"its texts have more than {_TEXTS} characters")
        return visible(value)

    def copy(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEPTH:  # parts that are shared many times over would unfold without end
            raise ValueError("it holds more values, or deeper nested ones, than metadata have")
        if isinstance(value, dict):
            if not all(type(key) is str for key in value):
                raise ValueError("it has keys that are no texts")
            return {text(key): copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [copy(item, depth + 1) for item in value]
        if isinstance(value, str):
            return text(value)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("it has a number beyond 64 bits")
        if value is None or type(value) in (bool, int, float):
            return value
        raise ValueError(f"it has a value of type {type(value).__name__}")

    return copy(content, 0)
