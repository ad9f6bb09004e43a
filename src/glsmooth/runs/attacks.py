"""The records of an attack: attacks.csv, a row an image, appended as blocks finish; and ERA, read back from them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from glsmooth.attacks import Finding
from glsmooth.attacks.outside import CONDITIONS
from glsmooth.attacks.search import STAGES
from glsmooth.configuration.fields import Rule, is_number, whole
from glsmooth.configuration.identity import certificates_digest
from glsmooth.errors import UserError
from glsmooth.family.regions import Region
from glsmooth.runs.files import ATTACKS, IDENTITY, RECORDS, SUMMARY, read_json
from glsmooth.runs.records import Table, read_table
from glsmooth.runs.run import Run
from glsmooth.voting.procedures import ABSTAIN

__all__ = ["Era", "Stored", "beside", "columns", "empirical", "find_attacks", "read_attack", "read_findings", "row"]

#: Entries of a folder of attacks that are looked at.
_MOST_ENTRIES = 10_000

#: Attributes of a finding that are a parameter, and what their columns begin with.
_BETAS = {"base_beta": "base", "beta": "worst", "nearest": "nearest"}
_OUTSIDE = "outside_"
_PLAIN = [one.name for one in fields(Finding) if one.name not in (*_BETAS, "outside")]

_COUNT = whole(0, 100, most=10**12)
_FLAG = whole(0, 1, most=1)
_CLASS = whole(ABSTAIN, 3, most=10**9)
_STAGE = whole(-1, 0, most=len(STAGES) - 1)
_NUMBER = Rule(lambda v: v != v or is_number(v), "a finite number, or nan", "0.5")
_SIZE = Rule(lambda v: v != v or (is_number(v) and v >= 0), "a number, at least 0, or nan", "0.5")
_RULES = {
    "index": whole(0, 17, most=10**12),
    "label": whole(0, 3, most=10**9),
    "prediction": _CLASS,
    "base_prediction": _CLASS,
    **dict.fromkeys(("certified", "base_broken", "broken", "beaten", "refuted"), _FLAG),
    **dict.fromkeys(("base_found_by", "found_by"), _STAGE),
    **dict.fromkeys(("count", "n", "again_count", "again_n", "passes"), _COUNT),
    **dict.fromkeys(("certified_size", "broken_size"), _SIZE),
    "gap": _NUMBER,
}


def columns(parameters: Sequence[str], outside: Sequence[str]) -> list[str]:
    """Columns of attacks.csv for a family's parameters and names of conditions outside the theorem."""
    betas = [f"{prefix}_{name}" for prefix in _BETAS.values() for name in parameters]
    return [*_PLAIN, "gap", *betas, *(f"{_OUTSIDE}{name}" for name in outside)]


def row(finding: Finding, parameters: Sequence[str]) -> dict[str, object]:
    """The row of a finding; what is not known is nan."""
    values: dict[str, object] = {name: getattr(finding, name) for name in _PLAIN}
    values["gap"] = float(finding.gap)
    for attribute, prefix in _BETAS.items():
        beta = getattr(finding, attribute) or (math.nan,) * len(parameters)
        values |= {f"{prefix}_{name}": float(value) for name, value in zip(parameters, beta, strict=True)}
    return values | {f"{_OUTSIDE}{name}": value for name, value in finding.outside.items()}


def read_findings(directory: Path, parameters: Sequence[str], outside: Sequence[str]) -> list[Finding]:
    """What attacks.csv says, an image after the other.

    Raises:
        UserError: it is missing or not readable, or a value is impossible.
    """
    names = columns(parameters, outside)
    betas = {f"{prefix}_{name}" for prefix in _BETAS.values() for name in parameters}
    rules = {name: _RULES.get(name) or (_NUMBER if name in betas else whole(-1, 0, most=1)) for name in names}
    real = frozenset({"certified_size", "broken_size", "gap", *betas})
    found = read_table(directory / ATTACKS, Table("attack", rules, tuple(names), real))
    findings = []
    for i in range(len(found["index"])):
        plain = {name: found[name][i].item() for name in _PLAIN}
        plain |= {name: bool(plain[name]) for name in ("certified", "base_broken", "broken", "beaten", "refuted")}
        of: dict[str, Any] = {
            attribute: tuple(found[f"{prefix}_{name}"][i].item() for name in parameters)
            for attribute, prefix in _BETAS.items()
        }
        conditions = {name: int(found[f"{_OUTSIDE}{name}"][i]) for name in outside}
        findings.append(Finding(**plain, **of, outside=conditions))
    return findings


# Beside the certification that was attacked


@dataclass(frozen=True)
class Stored:
    """What an attack left in its directory.

    Attributes:
        path: the directory.
        certificates: digest of the records of the certification that was attacked; None where it was of none.
        region: as a configuration has it.
        chosen: one image or one parameter was named, so its images are not those of a fair sample.
        outside: names of conditions outside the theorem.
    """

    path: Path
    certificates: str | None
    region: Any
    chosen: bool
    outside: tuple[str, ...]


@dataclass(frozen=True)
class Era:
    """Empirical robust accuracy: of ``images``, those that are right and for which the attack found no failure."""

    robust: int
    images: int


def find_attacks(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths that are no attacks, and directories of attacks: those among ``paths``, and those in folders of them."""
    rest, found = [], []
    for path in paths:
        folder = Path(path)
        inside = [] if _is_attack(folder) or (folder / RECORDS).is_file() else _attacks_in(folder)
        if _is_attack(folder):
            found.append(path)
        elif inside:
            found += map(str, inside)
        else:
            rest.append(path)
    return rest, found


def beside(run: Path) -> list[Path]:
    """Attacks where the attack command puts them beside certifications: ``../../attack/<id>`` or ``../attack``."""
    folder = run.resolve().parent
    return [one for one in (folder / "attack",) if _is_attack(one)] + _attacks_in(folder.parent / "attack")


def _is_attack(directory: Path) -> bool:
    return (directory / ATTACKS).is_file() and (directory / SUMMARY).is_file()


def _attacks_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for _, entry in zip(range(_MOST_ENTRIES), entries, strict=False)
                     if entry.is_dir(follow_symlinks=False)]  # fmt: skip
    except OSError:
        return []
    return [folder / name for name in sorted(names) if _is_attack(folder / name)]


def read_attack(directory: Path) -> Stored:
    """What an attack says of itself; its findings are read where they are needed.

    Raises:
        UserError: a file is missing, unreadable, or not of an attack.
    """
    fix = "run the same attack command again"
    summary, identity = (read_json(directory / name, fix, as_it_is=True) for name in (SUMMARY, IDENTITY))
    if not isinstance(summary, dict) or not isinstance(identity, dict):
        raise UserError(f"{directory}: summary.json and identity.json are not those of an attack; {fix}")
    asked, outside, region = (summary.get(name) for name in ("attack", "outside", "region"))
    if not (isinstance(asked, dict) and isinstance(outside, dict) and isinstance(region, dict)) or not (
        outside.keys() <= CONDITIONS.keys()
    ):
        raise UserError(f"{directory / SUMMARY}: is not the summary of an attack; {fix}")
    certificates = identity.get("run")
    return Stored(
        directory,
        certificates if isinstance(certificates, str) else None,
        region,
        any(asked.get(name) is not None for name in ("index", "at")),
        tuple(outside),
    )


def empirical(run: Run, region: Region, attacks: Sequence[Stored]) -> Era | None:
    """ERA of a certification in a region, by the attack of it that tried most images; None without one.

    Raises:
        UserError: records that are not readable, or of other images.
    """
    attacked = json.loads(json.dumps(region.to_config()))
    digest = certificates_digest(run.path) if attacks else None
    found = []
    for attack in attacks:
        if attack.certificates == digest and attack.region == attacked and not attack.chosen:
            findings = read_findings(attack.path, run.family.parameters, attack.outside)
            _check_findings(run, attack, findings)
            robust = sum(one.prediction == one.label and not one.broken for one in findings)
            found.append(Era(robust, len(findings)))
    # Of attacks of as many images the one that found most.
    return max((one for one in found if one.images), key=lambda one: (one.images, -one.robust), default=None)


def _check_findings(run: Run, attack: Stored, findings: Sequence[Finding]) -> None:
    known: Mapping[int, tuple[int, int]] = {
        index: (label, prediction)
        for index, label, prediction in zip(
            *(run.columns[name].tolist() for name in ("index", "label", "prediction")), strict=True
        )
    }
    for one in findings:
        if known.get(one.index) != (one.label, one.prediction):
            raise UserError(
                f"{attack.path / ATTACKS}: index {one.index} is not as {run.path} has it; run the attack again"
            )
