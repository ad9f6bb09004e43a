"""A sweep's folder: the runs that finished in it, and what did not become a result."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from glsmooth.configuration.fields import shown
from glsmooth.errors import UserError
from glsmooth.runs.files import CONFIG, FAILED, FIGURE, RECORDS, SUMMARY, read_json, write_text

__all__ = ["Failure", "find_runs", "forget_failure", "leave_failure"]

#: Entries of a folder that are looked at: more are no sweep.
_MOST_ENTRIES = 10_000
#: Characters of a text that are shown.
_LONGEST = 1000


@dataclass(frozen=True)
class Failure:
    """A job of a sweep without a result. Its texts may be a stranger's: whoever shows one escapes it.

    Attributes:
        job: what it was, its overrides for example.
        state: ``failed``, ``killed`` or ``unfinished``.
        reason: why, in a line.
        log: path of its log, seen from the sweep's folder.
    """

    job: str
    state: str
    reason: str = ""
    log: str = ""


def leave_failure(directory: Path, failure: Failure) -> None:
    """Leave in a run directory why there is no result, for whoever reads the sweep's folder; best effort."""
    with suppress(UserError):  # where the disk is full, that is why
        write_text(directory / FAILED, json.dumps(asdict(failure), indent=2) + "\n")


def forget_failure(directory: Path) -> None:
    """The run has begun anew, or ended."""
    with suppress(OSError):
        (directory / FAILED).unlink()


def _left(directory: Path) -> Failure | None:
    """What :func:`leave_failure` left; None where that is nothing of ours."""
    file = directory / FAILED
    if file.is_symlink() or not file.is_file():
        return None
    try:
        content = read_json(file, "remove it")
    except UserError:
        return None
    texts = isinstance(content, dict) and content.keys() == Failure.__dataclass_fields__.keys()
    if not texts or not all(isinstance(text, str) for text in content.values()):
        return None
    return Failure(**{name: text[:_LONGEST] for name, text in content.items()})


def find_runs(paths: Sequence[str]) -> tuple[list[str], list[Failure]]:
    """Run directories, each folder of runs among ``paths`` replaced by the runs in it, sorted by name.

    A directory with a summary.json, or with a run's other files, stands for itself, and so does what is no directory:
    whoever reads it says what is wrong with it. Symbolic links inside a folder are not followed.

    Returns:
        The runs, and the subdirectories that hold an unfinished one.

    Raises:
        UserError: a folder without a finished run, or with more entries than a sweep has.
    """
    found: list[str] = []
    unfinished: list[Failure] = []
    for path in paths:
        folder = Path(path)
        if not folder.is_dir() or any(os.path.lexists(folder / name) for name in (SUMMARY, RECORDS)):
            found.append(path)
            continue
        inside, failures = _inside(folder)
        if not inside:
            if any((folder / failure.job / "best.ckpt").is_file() for failure in failures):
                raise UserError(
                    f"runs: {shown(path)} holds networks that train wrote; give directories that certify wrote for "
                    "them, outputs/certify for example"
                )
            begun = f"only {len(failures)} unfinished" if failures else "no finished run"
            raise UserError(
                f"runs: {shown(path)} is no run and holds {begun}; give directories that certify wrote, or a folder "
                "of them in which one has finished (the same certify command again resumes an unfinished one)"
            )
        found += inside
        unfinished += failures
    return found, unfinished


def _inside(folder: Path) -> tuple[list[str], list[Failure]]:
    names = []
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number == _MOST_ENTRIES:
                    raise UserError(
                        f"runs: {shown(str(folder))} has more than {_MOST_ENTRIES} entries; give the directories of "
                        "the runs themselves"
                    )
                if entry.is_dir(follow_symlinks=False):
                    names.append(entry.name)
    except OSError as error:
        raise UserError(
            f"runs: {shown(str(folder))} cannot be read ({error.strerror}); make it readable, or give another"
        ) from error
    runs, failures = [], []
    for name in sorted(names):
        directory = folder / name
        linked = [file for file in (SUMMARY, RECORDS, FIGURE) if (directory / file).is_symlink()]
        if linked:
            failures.append(
                Failure(name, "unfinished", f"its {linked[0]} is a symbolic link; give the run itself to report it")
            )
        elif (directory / SUMMARY).is_file() and (directory / RECORDS).is_file():
            runs.append(str(directory))
        elif (left := _left(directory)) is not None:
            failures.append(left)
        elif any((directory / file).is_file() for file in (SUMMARY, RECORDS, CONFIG)):
            failures.append(Failure(name, "unfinished", "certify has not finished; its command again resumes it"))
    return runs, failures
