"""Tensors and plain values from files of unknown origin, in torch's format or as safetensors.

``torch.load(weights_only=True)`` runs no code of the file's. What it leaves open is memory: a small file may ask for
much by a number alone (``bytearray(10**11)``), by compressed members, or by a member that counts several times. So
before torch reads a file, its directory and its pickles are compared with what ``torch.save`` writes.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from glsmooth.configuration.untrusted import limits, open_file

__all__ = ["in_brief", "read_tensors"]

_STORAGES = {
    f"{place} {name}"
    for name in vars(torch)
    if name.endswith("Storage") and name not in ("Storage", "TypedStorage", "UntypedStorage")
    for place in ("torch", "torch.cuda")
}
#: What pickles may call, and what else they may name.
_CALLS = {
    *("collections OrderedDict", "collections Counter", "torch Size", "torch device"),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
}
_NAMES = (
    _CALLS | _STORAGES | {f"torch {name}" for name, member in vars(torch).items() if isinstance(member, torch.dtype)}
)
#: A pickle describes the tensors; the largest networks need a tenth of this.
_PICKLE = 64 * 10**6
_LEGACY_PICKLES = 5  # of files before torch 1.6: magic number, protocol, system, content, keys of the storages
_ZIP, _ZIP_END = b"PK\x03\x04", b"PK\x05\x06"


def read_tensors(path: Path) -> Any:
    """What ``torch.save`` or safetensors put into a file, on the CPU.

    Raises:
        OSError: it cannot be read, or is no regular file.
        Exception: of many kinds: it is damaged, or was not written so.
    """
    with open_file(path) as file:
        size = file.seek(0, 2)
        if size > limits().gigabytes * 10**9:  # of few blocks on disk, perhaps
            raise ValueError(f"it is larger than limits.gigabytes={limits().gigabytes}; raise that if you trust it")
        if path.suffix == ".safetensors":
            return _of_safetensors(path)
        _check(file)
        file.seek(0)
        content = torch.load(file, map_location="cpu", weights_only=True)
    _check_memory(content, size)
    return content


def _of_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file. One that has several names in its network is stored under one of them; the metadata say
    which the others are, as ``safetensors.torch.save_model`` writes them."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    others = {name: tensors[stored] for name, stored in metadata.items() if name != "format" and stored in tensors}
    return {**others, **tensors}


def in_brief(error: Exception) -> str:
    """Why :func:`read_tensors` failed. Other libraries' errors run over many lines; ours fit in one."""
    return str(error) if isinstance(error, ValueError | OSError) and len(str(error)) < 200 else type(error).__name__


def _check(file: BinaryIO) -> None:
    file.seek(0)
    if file.read(4) != _ZIP:  # so torch tells its two formats apart
        file.seek(0)
        content = io.BytesIO(file.read(_PICKLE))
        for _ in range(_LEGACY_PICKLES):
            _check_pickle(content)
        return
    size = file.seek(0, 2)
    file.seek(max(0, size - 22))
    end = file.read()
    if not (end.startswith(_ZIP_END) and end.endswith(b"\0\0")):  # with a comment, readers may find different ends
        raise ValueError("it does not end as torch.save ends a file")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its members are compressed, which torch.save never does")
        if sum(member.file_size for member in members) > size:
            raise ValueError("its members are larger than the file")
        if min(member.header_offset for member in members) != 0:
            raise ValueError("something stands before its members")
        names = [member.filename.casefold() for member in members]  # torch looks for names in any case
        pickles = [member for member, name in zip(members, names, strict=True) if name.endswith(".pkl")]
        if len(set(names)) < len(names) or len(pickles) != 1:
            raise ValueError("it holds a member twice, or not one pickle")
        if pickles[0].file_size > _PICKLE:
            raise ValueError(f"its pickle is larger than {_PICKLE} bytes")
        _check_pickle(io.BytesIO(archive.read(pickles[0])))


class _Kind(str):
    """What a pickle puts on its stack, as far as it matters here: a kind of value, or the name of a class."""

    __slots__ = ()


_TEXT, _NUMBER, _VALUE, _LIST, _DICT = map(_Kind, ("text", "number", "value", "list", "dictionary"))
_PUSHES = {
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _NUMBER),
    **dict.fromkeys(("BINUNICODE", "BINSTRING", "SHORT_BINSTRING"), _TEXT),
    **{"EMPTY_LIST": _LIST, "EMPTY_DICT": _DICT, "EMPTY_TUPLE": ()},
}


def _check_pickle(content: io.BytesIO) -> None:
    """Follow one pickle to its end without making anything, and refuse what state dictionaries do not have.

    Tuples that share their parts cost little until they are hashed or printed, and then 2^depth: so keys are texts and
    numbers, and what is called gets values that are no tuples of tuples.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def above_mark() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise ValueError(f"its pickle {what}, which torch.save does not for tensors and plain values")

    for operation, argument, _ in pickletools.genops(content):
        name = operation.name
        if name in _PUSHES:
            stack.append(_PUSHES[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
        elif name == "TUPLE":
            stack.append(tuple(above_mark()))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("APPEND", "APPENDS"):
            above_mark() if name == "APPENDS" else stack.pop()
            require(stack[-1] is _LIST, "appends to something else than a list")
        elif name in ("SETITEM", "SETITEMS"):
            items = above_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            require(stack[-1] is _DICT, "sets items of something else than a dictionary")
            require(all(key is _TEXT or key is _NUMBER for key in items[::2]), "has keys that are no texts or numbers")
        elif name == "GLOBAL":
            require(argument in _NAMES, f"names {argument}")
            stack.append(_Kind(argument))
        elif name == "BINPERSID":
            require(_is_flat(stack[-1]) and stack[-1][:1] == (_TEXT,), "has storages without a name")
            stack[-1] = _VALUE
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            require(isinstance(called, _Kind) and called in _CALLS, "calls what is not to be called")
            require(_is_flat(arguments), "calls with nested values")
            ordered = called == "collections OrderedDict"
            require(not ordered or arguments == (), "fills a dictionary by a call")
            stack.append(_DICT if ordered else _VALUE)
        elif name == "BUILD":
            require(stack.pop() is _DICT and stack[-1] is _DICT, "changes the state of a value")
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"its pickle uses {name}, which torch.save does not")


def _is_flat(values: Any) -> bool:
    """Whether this is a tuple of values, and of tuples of values at most."""
    return isinstance(values, tuple) and all(
        not isinstance(value, tuple) or not any(isinstance(part, tuple) for part in value) for value in values
    )


def _check_memory(content: Any, size: int) -> None:
    """Refuse tensors that are larger than the file they come from: repeated elements, or memory nobody wrote."""
    for part in _dictionaries(content):
        tensors = [value for value in part.values() if isinstance(value, torch.Tensor)]
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if total > 2 * size:  # a tensor of two names is stored once
            raise ValueError(f"its tensors have {total} bytes, the file {size}")


def _dictionaries(content: Any) -> Iterator[dict[Any, Any]]:
    """A dictionary, and all those that it has inside dictionaries, each once."""
    waiting, seen = [content], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict) and id(part) not in seen:
            seen.add(id(part))
            waiting += part.values()
            yield part
