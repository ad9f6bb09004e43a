"""The result table of a report as files, of which ``glsmooth report format=`` prints one."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glsmooth.errors import UserError
from glsmooth.report import tables
from glsmooth.runs.files import write_bytes, write_text

__all__ = ["FORMATS", "check_format", "printed", "write_tables"]

#: What can be asked for, and the file that has it.
FORMATS = {
    "markdown": "table.md",
    "latex": "table.tex",
    "csv": "table.csv",
    "json": "table.json",
    "parquet": "table.parquet",
}


def check_format(name: str) -> None:
    """Raise a UserError where the format needs a package that is not there: better now than after the work."""
    if name != "parquet":
        return
    # None is how Python marks a module that must not be imported.
    there = sys.modules["pyarrow"] is not None if "pyarrow" in sys.modules else importlib.util.find_spec("pyarrow")
    if not there:
        raise UserError("format=parquet needs pyarrow; type pip install 'glsmooth[parquet]'")


def write_tables(out: Path, tex: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write table.tex, table.csv and table.json to ``out``.

    Args:
        tex: content of the first.
        header, rows: of the others, plain values in full precision; None where there is none.
    """
    write_text(out / FORMATS["latex"], tex)
    write_text(out / FORMATS["csv"], tables.comma_separated(header, rows))
    write_text(out / FORMATS["json"], tables.json_rows(header, rows))


def printed(out: Path, name: str) -> str:
    """What ``format=name`` prints of the tables that were written to ``out``; of parquet, which is no text, the path.

    Raises:
        UserError: the disk is full or fails, as parquet is written.
    """
    if name != "parquet":
        return (out / FORMATS[name]).read_text(encoding="utf-8")
    file = out / FORMATS[name]
    write_bytes(file, _parquet(json.loads((out / FORMATS["json"]).read_text(encoding="utf-8"))))
    return f"{file}\n"


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    def column(values: list[Any]) -> Any:
        # Lists and objects, and what differs in kind from row to row, are text.
        kinds = {float if type(value) is int else type(value) for value in values if value is not None}
        if len(kinds) < 2 and not kinds & {list, dict}:
            try:
                return pyarrow.array(values)
            except (pyarrow.ArrowInvalid, OverflowError):  # an integer of more than 64 bits
                pass
        return pyarrow.array([None if value is None else _text(value) for value in values])

    names = list(rows[0])
    table = pyarrow.table({_text(name): column([_safe(row[name]) for row in rows]) for name in names})
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue()


def _safe(value: Any) -> Any:
    return _text(value) if isinstance(value, str) else value


def _text(value: Any) -> str:
    """A value as UTF-8 can have it: names of files may hold bytes that are no text."""
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return words.encode("utf-8", "backslashreplace").decode("utf-8")
