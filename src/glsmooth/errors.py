"""Mistakes of the user's, and the wording that error messages share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["OutOfMemory", "UserError", "did_you_mean", "keyed", "near_field", "of_file", "out_of_memory", "visible"]


class UserError(ValueError):
    """A mistake that the user can mend. Its last line names the field, the value and the fix.

    Only this is shown without a traceback; a ValueError of another kind is a broken assumption.
    """


class OutOfMemory(UserError):
    """What was asked for is too large for the memory of a device, or of this computer."""


@contextmanager
def keyed(keys: Mapping[str, str]) -> Iterator[None]:
    """Have a UserError call fields by the keys under which the user set them.

    The library knows arguments: ``root=here: no such folder``. With ``{"root": "dataset.root"}`` that leaves as
    ``dataset.root=here: no such folder``, and so does every other ``field=…`` of the message. A message that does not
    begin with one of the fields is about something else, and stays.
    """
    try:
        yield
    except UserError as error:
        fields = "|".join(map(re.escape, keys))
        message = str(error)
        first = rf"({fields})(?==|:| is )"
        if fields and re.match(first, message):
            error.args = (re.sub(rf"^{first}|(?<!\S)({fields})(?==)", lambda match: keys[match[0]], message),)
        raise


@contextmanager
def of_file(file: Path) -> Iterator[None]:
    """Have a UserError begin with the file whose content it is about, unless it names that or one beside it."""
    try:
        yield
    except UserError as error:
        if file.name not in str(error) and not str(error).startswith(str(file.parent)):
            error.args = (f"{file}: {error}",)
        raise


def out_of_memory(error: BaseException) -> bool:
    """Is it a device's, or this computer's, memory that did not do? Libraries say so in several ways."""
    if isinstance(error, MemoryError):
        return True
    words = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'x'? choose from a, b, …"`` for an unknown name, to be appended to a message."""
    known = sorted(map(str, choices))
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    # A near miss in capitals only ("lognormal") is the commonest slip and difflib can rank it low.
    near = [name for name in known if name.lower() == word.lower()] or near
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} choose from {', '.join(known)}"


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


def visible(text: str, keep: str = "") -> str:
    """A text of unknown origin with its control characters written out: ``\\n``, ``\\x1b``, ``\\u202e``, ….

    Printed raw they would break lines, turn writing round, or be commands to the terminal.

    Args:
        keep: characters that stay as they are.
    """
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode("ascii") for char in text
    )
