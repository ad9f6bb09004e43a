"""The records of an attack: attacks.csv, a row an image, appended as blocks of images finish."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from glsmooth.attacks import Finding
from glsmooth.attacks.search import STAGES
from glsmooth.configuration.fields import Rule, is_number, whole
from glsmooth.runs.files import ATTACKS
from glsmooth.runs.records import Table, read_table
from glsmooth.voting.procedures import ABSTAIN

__all__ = ["columns", "read_findings", "row"]

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
