"""The verify command: a run is checked by a program that shares no code with the bounds.

That program is :mod:`glsmooth.runs.verify`. This command gives it what it needs, a proof, where a run has none, and
notes what was verified, for the report.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from glsmooth.commands.entry import ending, typed_or_help
from glsmooth.errors import UserError, did_you_mean

__all__ = ["main"]

HELP = """\
Check certification runs by a second program, which shares no code with the bounds and computes in balls that hold the
true numbers: do votes give each p_lower, is the required probability proved for the whole region, are the certified
images above it, are the shares those of the records?

Usage: glsmooth verify RUN ... [seconds=120]

Settings
  RUN ...       directories that certify wrote, folders of them, or files of proofs (glsmooth bounds ... proof=FILE)
  seconds       for finding a proof where a run has none yet (120): proof.json is written into the run

Exit status
  0 everything is verified; 1 a number does not follow from what it should; 3 something could not be told

Examples
  glsmooth verify outputs/certify/<id>
  glsmooth verify outputs/certify
  glsmooth verify proof.json
"""


def main() -> None:
    """Check what ``sys.argv`` names; ends the process with the checker's status."""
    arguments = typed_or_help(HELP)
    if arguments is None:
        return
    with ending("verify"):
        status = _run(arguments)
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    paths, seconds = _read(arguments)
    from glsmooth.runs import verify
    from glsmooth.runs.failures import find_runs
    from glsmooth.runs.proof import PROOF, note_verified

    for name in paths:
        if not Path(name).exists():
            raise UserError(f"runs: {name!r} does not exist; give a directory that certify wrote, or a file of a proof")
    results = []
    for run in find_runs(paths)[0]:
        path = Path(run)
        if path.is_dir():
            _prove(path, seconds)
        with tqdm(desc="Checking", unit="cell", delay=1, leave=False, disable=None) as bar:
            results.append(verify.check(path, partial(_show, bar)))
        verify.show(path, results[-1])
        if results[-1].verified and (path / PROOF).is_file():
            note_verified(path)
    return verify.status(results)


def _read(arguments: list[str]) -> tuple[list[str], float]:
    paths, seconds = [], 120.0
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or Path(argument).exists():
            paths.append(argument)
            continue
        if key != "seconds":
            raise UserError(f"{key}: verify has no such setting{did_you_mean(key, ['seconds'])}")
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < 1e9:
            raise UserError(f"seconds={value} is not a number of seconds; set for example seconds=120")
    if not paths:
        raise UserError("runs: name a directory that certify wrote: glsmooth verify outputs/certify/<id>")
    return paths, seconds


def _prove(path: Path, seconds: float) -> None:
    """Write the proof that a run lacks; where none can be written the checker says what is missing."""
    from glsmooth.runs.proof import PROOF, prove_run
    from glsmooth.runs.run import load_run

    end = time.monotonic() + seconds
    with tqdm(desc="Proving", unit="cell", delay=1, leave=False, disable=None) as bar:

        def say(above: float) -> None:
            left = max(end - time.monotonic(), 0)
            bar.set_postfix_str(f"{max(above, 0):.1e} above the bound, at most {left:.0f} s left", refresh=False)
            bar.update()

        try:
            written = prove_run(load_run(path), seconds, say)
        except UserError as error:  # a run that is not whole, a class of the user's own, a region without a proof
            print(f"{path}: no proof could be written: {error}", file=sys.stderr)
            return
    if written:
        print(f"{path / PROOF} written", file=sys.stderr)


def _show(bar: tqdm[NoReturn], done: int, of: int) -> None:
    bar.total = of
    bar.update(done - bar.n)
