"""The records of a certification run: records.csv, a row an image, appended as images finish.

A row is on disk before its image counts as done. Whatever kills the run, the same command goes on where it
stopped
and ends with the same bytes: rows hold nothing that depends on time, batch size or device, and end up in
image order. Runs on several devices write a part each, merged into one file.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glsmooth.errors import UserError

__all__ = ["COLUMNS", "RecordWriter", "Records", "part_path", "read_rows"]

#: Columns of records.csv; ``coin`` where the bound is randomised, and ``certified_<method>`` for each method follow.
COLUMNS = (
    "index",
    "label",
    "prediction",
    "n0",
    "n",
    "count",
    "p_lower",
    "base_prediction",
    "abstain_votes",
    "nonfinite_votes",
    "near_ties",
)


def part_path(directory: Path, rank: int, ranks: int) -> Path:
    """File that process ``rank`` of ``ranks`` writes: records.csv itself when it is the only one."""
    return directory / ("records.csv" if ranks == 1 else f"records.rank{rank}.csv")


def read_rows(directory: Path) -> list[dict[str, str]]:
    """All rows of a run's records.csv, as text."""
    with (directory / "records.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class RecordWriter:
    """Appends rows to one file, which no other process may write.

    Args:
        path: the file; created with its header if it is not there. A torn last line is cut off.
        columns: names of the columns.

    Raises:
        UserError: the file is locked by another process or is not a file of these columns.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - kept open for the life of the run
        _lock(self._file.fileno(), path)
        self._file.seek(0)
        content = self._file.read()
        #: The rows that are there already, with the header, as bytes.
        self.content = _whole_lines(path, content, self.columns)
        self._size = len(self.content)
        if self._size < len(content):
            os.ftruncate(self._file.fileno(), self._size)
        if self._size == 0:
            self._write(",".join(self.columns) + "\n")
            _sync_directory(path.parent)

    def append(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Write rows and wait until they are on disk.

        Raises:
            UserError: the disk is full (or fails); the file then ends with the last row that is whole.
        """
        text = "".join(",".join(_text(row[name]) for name in self.columns) + "\n" for row in rows)
        if text:
            self._write(text)

    def _write(self, text: str) -> None:
        data = text.encode()
        descriptor = self._file.fileno()
        try:
            written = 0
            while written < len(data):  # a disk that fills up takes a part
                written += os.write(descriptor, data[written:])
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, self._size)
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}). Every image recorded so far is safe; "
                "free space on this disk and run the same command again"
            ) from error
        self._size += len(data)

    def close(self) -> None:
        self._file.close()


class Records:
    """The records of one run directory, held by one process until :meth:`close`.

    Args:
        directory: the run directory; created if it is not there.
        identity: plain values that decide the result. They are stored with the first use of the directory.
        columns: columns of the table.

    Raises:
        UserError: another process holds the directory, or its records belong to another configuration.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any], columns: Sequence[str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.columns = tuple(columns)
        self.path = directory / "records.csv"
        self._lock = open(directory / "run.lock", "a+")  # noqa: SIM115 - the lock lasts as long as the file is open
        _lock(self._lock.fileno(), directory)
        #: Images that are on disk.
        self.finished: frozenset[int] = frozenset()
        self._check_identity(identity)
        self.merge()

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        path = self.directory / "identity.json"
        new = _flat(json.loads(json.dumps(identity)))
        if not path.exists():
            _replace(path, json.dumps(identity, indent=2, sort_keys=True) + "\n")
            return
        try:
            old = _flat(json.loads(path.read_text()))
        except ValueError:
            raise UserError(f"{path}: damaged; remove {self.directory} to start afresh") from None
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                raise UserError(
                    f"{self.directory}: its records were taken with {name}={old.get(name)}, this run has "
                    f"{name}={new.get(name)}; choose another hydra.run.dir, or remove that directory"
                )

    def merge(self, order: Sequence[int] | None = None) -> None:
        """Bring the parts of several processes into records.csv, rows sorted by image.

        Args:
            order: the images of the run. Given, the file must now hold each of them exactly once.
        """
        parts = sorted(self.directory.glob("records.rank*.csv"))
        lines: dict[int, bytes] = {}
        for path in [self.path, *parts]:
            if path.exists():
                writer = RecordWriter(path, self.columns)  # refuses a file in use, repairs a torn one
                writer.close()
                for line in writer.content.splitlines(keepends=True)[1:]:
                    lines.setdefault(int(line.split(b",", 1)[0]), line)
        self.finished = frozenset(lines)
        if order is not None and self.finished != set(order):
            missing = sorted(set(order) - self.finished)
            raise RuntimeError(f"{self.path}: images {missing[:5]} … are missing after the run")
        header = ",".join(self.columns) + "\n"
        content = header.encode() + b"".join(lines[index] for index in sorted(lines))
        if not self.path.exists() or self.path.read_bytes() != content:
            _replace(self.path, content.decode())
        for path in parts:
            path.unlink()

    def close(self) -> None:
        self._lock.close()


def _text(value: object) -> str:
    return repr(float(value)) if isinstance(value, float) else str(int(value))  # type: ignore[call-overload]


def _whole_lines(path: Path, content: bytes, columns: Sequence[str]) -> bytes:
    """The content of a file without a torn last line.

    Raises:
        UserError: another header, or a damaged line before the last.
    """
    lines = content.splitlines(keepends=True)
    header = (",".join(columns) + "\n").encode()
    if not lines or (len(lines) == 1 and header.startswith(lines[0])):
        return content if content == header else b""
    if lines[0] != header:
        raise UserError(f"{path}: has other columns than this run; choose another hydra.run.dir, or remove the file")
    for number, line in enumerate(lines[1:], start=2):
        whole = line.endswith(b"\n") and line.count(b",") == len(columns) - 1 and line.split(b",", 1)[0].isdigit()
        if not whole and number == len(lines):
            return content[: -len(line)]
        if not whole:
            raise UserError(f"{path}: line {number} is damaged; remove that line and run the same command again")
    return content


def _lock(descriptor: int, path: Path) -> None:
    # Record locks, unlike flock's, are not inherited by data loading processes, which may outlive a killed
    # run. They end when this process closes any descriptor of the file: hence it is read through this one.
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(
            f"{path}: another process is writing here; wait for it, or choose another hydra.run.dir"
        ) from None


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is there either whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free space and run the same command again"
        ) from error
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
