"""Which checkpoints and runs commands of this user wrote on this machine.

They name folders of images. A file of somebody else's could name any folder, and its images would come into a report
that is passed on. So a folder that nobody typed is read only where the file that names it is one of our own, to the
last byte. That is kept outside the files, where a copy of them does not take it along.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from glsmooth.configuration.identity import file_digest
from glsmooth.errors import UserError
from glsmooth.runs.files import RECORDS, SUMMARY

__all__ = ["foreign_root", "is_own", "remember", "run_files"]

log = logging.getLogger(__name__)


def run_files(directory: Path) -> list[Path]:
    """What makes a run its own: its numbers and its records."""
    return [directory / SUMMARY, directory / RECORDS]


def remember(files: Iterable[Path]) -> None:
    """Note that these files, together and as they are now, were written here."""
    note = _note(files)
    try:
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        note.touch()
    except OSError as error:
        log.warning(
            "%s cannot be written (%s): whoever uses this run later must type dataset.root=DIR", note, error.strerror
        )


def is_own(files: Iterable[Path]) -> bool:
    """Whether :func:`remember` was told of exactly these files."""
    try:
        return _note(files).is_file()
    except OSError:
        return False


def foreign_root(root: str, ckpt: str | Path) -> UserError:
    """What to say of a folder of images that only a checkpoint names, which is not one of ours."""
    return UserError(
        f"dataset.root={root} comes from {ckpt}, which train did not write on this machine; type the folder of the "
        f"images, dataset.root={shlex.quote(root)} if that is the one"
    )


def _note(files: Iterable[Path]) -> Path:
    # The state folder of the XDG base directory specification.
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    digests = "".join(file_digest(file) for file in files)
    return Path(state) / "glsmooth" / "own" / hashlib.sha256(digests.encode()).hexdigest()
