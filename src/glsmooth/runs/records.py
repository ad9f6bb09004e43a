"""The records of a certification run: records.csv, a row an image, appended as images finish.

A row is on disk before its image counts as done. Whatever kills the run, the same command goes on where it stopped
and ends with the same bytes: rows hold nothing that depends on time, batch size or device, and end up in image order.
Runs on several devices write a part each, merged into one file.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import stat
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from glsmooth.bounds import METHODS
from glsmooth.configuration.fields import OBJECT, Rule, check_file, list_of, number, shown, text, whole
from glsmooth.configuration.identity import difference
from glsmooth.configuration.untrusted import read_bytes
from glsmooth.errors import UserError, visible
from glsmooth.runs.files import IDENTITY, IMAGES, RECORDS, read_json, remove_leftovers, sync, write_text
from glsmooth.smoothing import Slicing, Verdict
from glsmooth.voting.procedures import ABSTAIN

__all__ = [
    "COLUMNS",
    "LOOK",
    "SLICES",
    "Columns",
    "Images",
    "RecordWriter",
    "Records",
    "Table",
    "columns",
    "holding",
    "older_columns",
    "part_path",
    "read_records",
    "read_table",
    "row",
]

#: Columns of records.csv; ``coin`` where the bound is randomised, :data:`LOOK` where there are many looks,
#: :data:`SLICES` where images are cut into slices, and
#: ``certified_<method>`` for each method follow.
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
#: The votes at the look on which p_lower rests: those at the end, or earlier ones that had shown more.
LOOK = ("look_count", "look_n")
#: Of an image that was cut into slices: their number, how many votes decided, all votes of the image, and how far it is
#: from its references at most. The other columns of votes are those of the slice that has shown least.
SLICES = ("slices", "slices_tried", "votes", "residual")


_COUNT = whole(0, 100, most=10**12)
_LABEL = whole(0, 3, most=10**9)
_CLASS = whole(ABSTAIN, 3, most=10**9)

#: What a cell of records.csv may hold.
_RULES = {
    "index": whole(0, 17, most=10**12),
    "label": _LABEL,
    "prediction": _CLASS,
    "n0": _COUNT,
    "n": _COUNT,
    "count": _COUNT,
    "p_lower": number("in [0, 1]", "0.9", lambda v: 0 <= v <= 1),
    "base_prediction": _CLASS,
    "abstain_votes": _COUNT,
    "nonfinite_votes": _COUNT,
    "near_ties": _COUNT,
    "coin": number("in (0, 1]", "0.5", lambda v: 0 < v <= 1),
    **dict.fromkeys((*LOOK, *SLICES), _COUNT),
    "residual": number("at least 0", "0.2", lambda v: v >= 0),
    **{f"certified_{method}": whole(0, 1, most=1) for method in METHODS},
}


@dataclass(frozen=True)
class Table:
    """What a file of rows may hold.

    Attributes:
        command: wrote it, and repairs it.
        rules: of the cells, by column.
        needed: columns that every version writes.
        real: columns of real numbers; the others are whole.
    """

    command: str
    rules: Mapping[str, Rule]
    needed: tuple[str, ...]
    real: frozenset[str]


_CERTIFIED = Table(
    "certify",
    _RULES,
    ("index", "label", "prediction", "n0", "n", "count", "p_lower", "base_prediction"),
    frozenset(("p_lower", "coin", "residual")),
)

#: Column name -> (images,) array.
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Images:
    """Which images a run certifies.

    ``names`` of all images of the split, in their order: one that comes or goes moves the others. ``digests``, by
    index, of those that are certified.
    """

    names: list[str]
    digests: Mapping[int, str]

    def text(self) -> str:
        """What images.json says; its digest stands for the images in identity.json."""
        digests = {str(index): self.digests[index] for index in sorted(self.digests)}
        return json.dumps({"names": self.names, "digests": digests}, indent=0) + "\n"

    @classmethod
    def read(cls, file: Path) -> Images:
        """What images.json says.

        Raises:
            UserError: it is missing, not readable, or something else.
        """
        content = _read(file)
        check_file(content, _IMAGES, file, _AFRESH)
        try:
            digests = {int(index): digest for index, digest in content["digests"].items()}
        except ValueError:
            raise UserError(f"{file}: digests are not those of indices; {_AFRESH}") from None
        return cls(content["names"], digests)

    def difference(self, now: Images) -> str:
        """The first image in which ``now`` differs, in words."""
        present, known = set(now.names), set(self.names)
        for index, name in enumerate(self.names):
            if name not in present:
                return f"{name} is no longer among the images"
            if now.names[index : index + 1] != [name]:
                break
            if self.digests.get(index) != now.digests.get(index):
                return f"{name} has changed"
        added = next((name for name in now.names if name not in known), None)
        return f"{added} is new among the images" if added else "the images are in another order"


#: What images.json may hold.
_IMAGES = {
    "names": list_of(text(), f"a list of names, each {text().wanted}", "[a.png]"),
    "digests": OBJECT,
    "digests.*": text("the SHA-256 of an image", most=64),
}
_AFRESH = "remove its directory to start afresh"


def _read(file: Path) -> Any:
    """The content of a JSON file, its texts as they are: they are compared with what this run would write."""
    return read_json(file, _AFRESH, as_it_is=True)


def part_path(directory: Path, rank: int, ranks: int) -> Path:
    """File that process ``rank`` of ``ranks`` writes: records.csv itself when it is the only one."""
    return directory / (RECORDS if ranks == 1 else f"records.rank{rank}.csv")


def columns(methods: Sequence[str], coin: bool = False, look: bool = False, slices: bool = False) -> list[str]:
    """Columns of records.csv for these methods.

    Args:
        coin: the bound is randomised.
        look: there are many looks.
        slices: images are cut into slices.
    """
    more = [*(["coin"] if coin else []), *(LOOK if look else []), *(SLICES if slices else [])]
    return [*COLUMNS, *more, *(f"certified_{method}" for method in methods)]


def older_columns(directory: Path, wanted: Sequence[str]) -> list[str]:
    """``wanted`` columns, without :data:`LOOK` where an older version began records that have none."""
    older = [name for name in wanted if name not in LOOK]
    header = (",".join(older) + "\n").encode()
    for path in (directory / RECORDS, *directory.glob("records.rank*.csv")):
        if path.is_file():
            with path.open("rb") as file:
                if file.readline(len(header)) == header:
                    return older
    return list(wanted)


def row(verdict: Verdict, label: int) -> dict[str, object]:
    """The row of an image of class ``label``; which of its values are written is up to :func:`columns`."""
    tally = verdict.tally
    look = tally.seen if tally.p_seen == verdict.p_lower else (tally.count, tally.n)
    return {
        "index": tally.index,
        "label": label,
        "prediction": verdict.prediction,
        "n0": tally.n0,
        "n": tally.n,
        "count": tally.count,
        "p_lower": float(verdict.p_lower),
        "base_prediction": tally.clean,
        "abstain_votes": tally.abstained,
        "nonfinite_votes": tally.nonfinite,
        "near_ties": tally.near_ties,
        "coin": float(tally.coin),
        **dict(zip(LOOK, look, strict=True)),
        **({} if verdict.slicing is None else dict(zip(SLICES, _slices(verdict.slicing), strict=True))),
        **{f"certified_{method}": certified for method, certified in verdict.certified.items()},
    }


def _slices(slicing: Slicing) -> tuple[float, ...]:
    return slicing.slices, slicing.tried, slicing.votes, slicing.residual


def read_records(directory: Path) -> Columns:
    """records.csv of a run: column name -> (images,) array; p_lower and coin float64, the rest int64.

    Raises:
        UserError: it is missing or not readable, its columns are others, or a value is not one of its column's.
    """
    return read_table(directory / RECORDS, _CERTIFIED)


def read_table(file: Path, table: Table) -> Columns:
    """A file of rows: column name -> (images,) array, float64 or int64.

    Raises:
        UserError: it is missing or not readable, its columns are others, or a value is not one of its column's.
    """
    try:
        with io.StringIO(read_bytes(file).decode("utf-8"), newline="") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            _check_header(file, header, table)
            # Of 8 bytes a number from the start: as text, a large file would take ten times its size.
            values: dict[str, array[Any]] = {name: array("d" if name in table.real else "q") for name in header}
            for line, cells in enumerate(reader, start=2):
                if len(cells) != len(header):
                    raise UserError(
                        f"{file}: line {line} has {len(cells)} values instead of {len(header)}; the same "
                        f"{table.command} command again repairs it"
                    )
                for name, cell in zip(header, cells, strict=True):
                    values[name].append(_value(name, cell, f"{file}: line {line}", table))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: not readable as CSV ({error}); run the same {table.command} command again") from None
    return {name: np.array(column) for name, column in values.items()}


def _check_header(file: Path, header: Sequence[str], table: Table) -> None:
    what, again = _WRITTEN[table.command], f"run {table.command} again"
    for name in table.needed:
        if name not in header:
            raise UserError(f"{file}: no column {name!r}; these are not the records of {what}")
    for name in header:
        if name not in table.rules:
            raise UserError(f"{file}: column {shown(name)} is not one of {what}'s; {again}")
        if header.count(name) > 1:
            raise UserError(f"{file}: column {shown(name)} occurs {header.count(name)} times; {again}")


_WRITTEN = {"certify": "a certification", "attack": "an attack"}


def _value(name: str, cell: str, where: str, table: Table) -> float:
    again = f"run {table.command} again"
    try:
        value = float(cell) if name in table.real else int(cell)
    except ValueError:
        raise UserError(f"{where}: {name} is {shown(cell)}, not a number; {again}") from None
    if not table.rules[name].accepts(value):
        raise UserError(f"{where}: {name} is {shown(value)}, not {table.rules[name].wanted}; {again}")
    return value


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
        self._file = _open(path)
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
            sync(path.parent)

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
    """The records of one run directory, held by one process until :meth:`close`; a context manager.

    What kills of an earlier one left half written in the directory is removed.

    Args:
        directory: the run directory; created if it is not there.
        identity: plain values that decide the result, by name (:func:`glsmooth.configuration.identity.decisive`). They
            are stored with the first use of the directory.
        columns: columns of the table.
        images: what is certified, stored likewise; None does not compare it.
        name: of the file.

    Raises:
        UserError: another process holds the directory, or its records belong to another configuration or to other
            images.
    """

    def __init__(
        self,
        directory: Path,
        identity: Mapping[str, Any],
        columns: Sequence[str],
        images: Images | None = None,
        name: str = RECORDS,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.columns = tuple(columns)
        self.path = directory / name
        self._lock = _hold(directory)
        remove_leftovers(directory)
        #: Images that are on disk.
        self.finished: frozenset[int] = frozenset()
        self._check_identity(identity, images)
        self.merge()

    def _check_identity(self, identity: Mapping[str, Any], images: Images | None) -> None:
        path = self.directory / IDENTITY
        if images is not None:
            identity = {**identity, "images": hashlib.sha256(images.text().encode()).hexdigest()}
        if not path.exists():
            if images is not None:
                write_text(self.directory / IMAGES, images.text())  # first: an identity never lacks its images
            write_text(path, json.dumps(identity, indent=2, sort_keys=True) + "\n")
            return
        before = _read(path)
        if not isinstance(before, dict):
            raise UserError(f"{path}: holds {type(before).__name__}, not an object; {_AFRESH}")
        now = json.loads(json.dumps(identity))
        digests = before.pop("images", None), now.pop("images", None)
        fix = "choose another hydra.run.dir, or remove that directory"
        other = difference(before, now)
        if other is not None:
            raise UserError(f"{self.directory}: its records were taken with {other}; {fix}")
        if images is not None and digests[0] != digests[1]:
            raise UserError(
                f"{self.directory}: its records were taken of other images: {self._changed(images)}; restore the "
                f"images, {fix}"
            )

    def _changed(self, images: Images) -> str:
        try:
            before = Images.read(self.directory / IMAGES)
        except UserError:
            return f"{IMAGES}, which would say which, is missing or damaged"
        return visible(before.difference(images))

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
            write_text(self.path, content.decode())
        for path in parts:
            path.unlink()

    def close(self) -> None:
        self._lock.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def holding(directory: Path) -> Iterator[None]:
    """Hold a run directory, which no other process may then write to.

    Raises:
        UserError: another process holds it.
    """
    lock = _hold(directory)
    try:
        yield
    finally:
        lock.close()


def _hold(directory: Path) -> BinaryIO:
    lock = _open(directory / "run.lock")  # the lock lasts as long as the file is open
    _lock(lock.fileno(), directory)
    return lock


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
    for i, line in enumerate(lines[1:], start=2):
        index = line.split(b",", 1)[0]
        cells = line.endswith(b"\n") and line.count(b",") == len(columns) - 1
        complete = cells and line.isascii() and index.isdigit() and _RULES["index"].accepts(_integer(index))
        if not complete and i == len(lines):
            return content[: -len(line)]
        if not complete:
            raise UserError(f"{path}: line {i} is damaged; remove that line and run the same command again")
    return content


def _integer(digits: bytes) -> int:
    return int(digits) if len(digits) < 100 else -1  # Python refuses thousands of them


def _open(path: Path) -> BinaryIO:
    """Open a file to append to it and to read it.

    Raises:
        UserError: it is a link, so that what lies elsewhere would be changed, or no file at all.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        why = "is a link" if path.is_symlink() else f"cannot be opened ({error.strerror})"
        raise UserError(f"{path}: {why}; remove it, or choose another hydra.run.dir") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path}: is not a file; remove it, or choose another hydra.run.dir")
    return os.fdopen(descriptor, "a+b", buffering=0)


def _lock(descriptor: int, path: Path) -> None:
    # Record locks, unlike flock's, are not inherited by data loading processes, which may outlive a killed
    # run. They end when this process closes any descriptor of the file: hence it is read through this one.
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(
            f"{path}: another process is writing here; wait for it, or choose another hydra.run.dir"
        ) from None
