"""sweep.json: the certifications of a sweep, which lie where they would without it, and what became of the others."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glsmooth.configuration.fields import shown
from glsmooth.errors import UserError
from glsmooth.runs.failures import Failure
from glsmooth.runs.files import SWEEP, read_json, write_text
from glsmooth.runs.own import is_own, remember

__all__ = ["Sweep"]


@dataclass(frozen=True)
class Sweep:
    """What a sweep brought.

    Attributes:
        runs: directories that certify wrote.
        regions: fields of each region that their votes decide, as typed; none means each run's own.
        failures: jobs without a result.
    """

    runs: Sequence[Path]
    regions: Sequence[Mapping[str, Any]] = ()
    failures: Sequence[Failure] = ()

    def write(self, folder: Path) -> None:
        """Write sweep.json; directories are named as seen from ``folder``."""
        content = {
            "runs": [os.path.relpath(run, folder) for run in self.runs],
            "regions": [dict(region) for region in self.regions],
            "failures": [asdict(failure) for failure in self.failures],
        }
        write_text(folder / SWEEP, json.dumps(content, indent=2) + "\n")
        remember([folder / SWEEP])

    @classmethod
    def read(cls, folder: Path) -> Sweep | None:
        """The sweep of a folder; None where it is none.

        Raises:
            UserError: sweep.json was not written here, and could name any directory, or is damaged.
        """
        file = folder / SWEEP
        if not file.is_file():
            return None
        if not is_own([file]):
            raise UserError(
                f"runs: {shown(str(file))} was not written by sweep on this machine, and may name any directory; give "
                "the directories of its runs"
            )
        content = read_json(file, "run the same sweep again", as_it_is=True)
        try:
            return cls(
                [Path(os.path.normpath(folder / run)) for run in content["runs"]],
                content["regions"],
                [Failure(**failure) for failure in content["failures"]],
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{file}: written by another version ({error}); run the same sweep again") from None
