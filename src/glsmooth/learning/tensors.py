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
from safetensors.torch import load_file

from glsmooth.configuration.untrusted import limits, open_file

__all__ = ["read_tensors"]

#: What pickles may name: what state dictionaries are made of. Storages are tensors' memory in the file, and follow.
_NAMES = {  # as the pickle writes them: module, space, name
    *("collections OrderedDict", "collections Counter", "torch Size", "torch device"),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch.nn.parameter Parameter"),
    *("_codecs encode", "builtins set"),
    *(f"torch {name}" for name, member in vars(torch).items() if isinstance(member, torch.dtype)),
    *(f"{place} {name}" for name in vars(torch) if name.endswith("Storage") for place in ("torch", "torch.cuda")),
}
_NAMES -= {f"torch {name}" for name in ("Storage", "TypedStorage", "UntypedStorage")}  # these are no types of elements
#: Operations that make a value as large as a number in the file says.
_SIZED = {"BYTEARRAY8"}
#: A pickle describes the tensors; the largest networks need a tenth of this.
_PICKLE = 64 * 10**6
_LEGACY_PICKLES = 5  # of files before torch 1.6: magic number, protocol, system, content, keys of the storages


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
            return load_file(path)
        _check(file)
        file.seek(0)
        content = torch.load(file, map_location="cpu", weights_only=True)
    _check_memory(content, size)
    return content


def _check(file: BinaryIO) -> None:
    if not zipfile.is_zipfile(file):
        file.seek(0)
        content = io.BytesIO(file.read(_PICKLE))
        for _ in range(_LEGACY_PICKLES):
            _check_pickle(content)
        return
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its members are compressed, which torch.save never does")
        if sum(member.file_size for member in members) > size:
            raise ValueError("its members are larger than the file")
        names = [member.filename.casefold() for member in members]  # torch looks for names in any case
        pickles = [member for member, name in zip(members, names, strict=True) if name.endswith(".pkl")]
        if len(set(names)) < len(names) or len(pickles) != 1:
            raise ValueError("it holds a member twice, or not one pickle")
        if pickles[0].file_size > _PICKLE:
            raise ValueError(f"its pickle is larger than {_PICKLE} bytes")
        _check_pickle(io.BytesIO(archive.read(pickles[0])))


def _check_pickle(content: io.BytesIO) -> None:
    """Read one pickle, without running it, to its end."""
    for operation, argument, _ in pickletools.genops(content):
        named = operation.name in ("GLOBAL", "STACK_GLOBAL", "INST")
        if operation.name in _SIZED or (named and argument not in _NAMES):
            raise ValueError(f"its pickle asks for {argument or operation.name}")


def _check_memory(content: Any, size: int) -> None:
    """Refuse tensors that are larger than the file they come from: repeated elements, or memory nobody wrote."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(content))
    if total > 2 * size:  # a tensor of two names is stored once
        raise ValueError(f"its tensors have {total} bytes, the file {size}")


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    """Tensors of a state dictionary, and of the one in a checkpoint."""
    if isinstance(content, dict):
        for value in (*content.values(), *_values(content.get("state_dict"))):
            if isinstance(value, torch.Tensor):
                yield value


def _values(part: Any) -> Any:
    return part.values() if isinstance(part, dict) else ()
