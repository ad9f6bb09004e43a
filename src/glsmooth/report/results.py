"""Reading a certify run back, and deciding its images again from the stored votes.

A certificate is the comparison p_A > h_min. The run stores p_A of every image; h_min depends on neither image
nor network. So any region and any method can be decided from the records without a forward pass.
"""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glsmooth import bounds
from glsmooth.configuration.build import build_family, build_region
from glsmooth.errors import UserError, did_you_mean
from glsmooth.family.regions import Box
from glsmooth.family.resolvability import check_family
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.voting.draws import coin
from glsmooth.voting.procedures import given_up

NEEDED_COLUMNS = ("index", "label", "prediction", "n0", "n", "count", "base_prediction")
REAL_COLUMNS = ("p_lower", "coin")
SUMMARY_KEYS = ("transform", "smoothing", "region", "dataset", "monte_carlo", "images", "methods")


@dataclass(frozen=True)
class Decision:
    """What one method says about the images of one run.

    Attributes:
        method: name in ``bounds.METHODS``.
        h_min: required probability of the region, or None where the method does not apply.
        reason: why it does not apply, else why it covers the region; may be None.
        worst: the parameter that needs h_min, or None.
        sound: whether it may count as certified.
        failure_probability: alpha_b, the error probability of h_min itself where it was estimated.
        certified: (images,) bool, p_A > h_min. All False where the method is unsound or does not apply.
        claimed: (images,) bool, the same comparison whether or not the method is sound.
        residual: of a transformation that is only approximately resolvable, for which nothing is certified; or None.
    """

    method: str
    h_min: float | None
    reason: str | None
    worst: Mapping[str, float] | None
    sound: bool
    failure_probability: float
    certified: NDArray[np.bool_]
    claimed: NDArray[np.bool_]
    residual: float | None = None

    @property
    def title(self) -> str:
        return bounds.METHODS[self.method].title

    @property
    def standing(self) -> str:
        """``"sound"``, ``"unsound"`` (the method is), ``"estimate"`` (its value for this family is) or
        ``"approximate"`` (the transformation is) with the residual."""
        if self.sound:
            return "sound"
        if self.residual is not None:
            return f"approximate, residual {self.residual:.2g}"
        return "estimate" if bounds.METHODS[self.method].sound else "unsound"


@dataclass(frozen=True)
class CertifyRun:
    """The records and the summary that ``certify`` left in a directory.

    Attributes:
        path: the directory.
        summary: summary.json.
        columns: column name -> (images,) array of records.csv; p_lower and coin float64, the rest int64.
    """

    path: Path
    summary: Mapping[str, Any]
    columns: Mapping[str, NDArray[Any]]

    @property
    def images(self) -> int:
        return len(self.columns["index"])

    @property
    def p_lower(self) -> NDArray[np.float64]:
        return self.columns["p_lower"]

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(images,) whether the selected class is the true one."""
        return self.columns["prediction"] == self.columns["label"]

    @cached_property
    def family(self) -> SmoothedFamily:
        size = self.summary.get("image_size")
        return build_family(
            self.summary["transform"],
            self.summary["smoothing"],
            None if size is None else (int(size[0]), int(size[1])),
            float(self.summary.get("pixel_noise") or 0.0),
        )

    @cached_property
    def region(self) -> Box:
        return build_region(self.summary["region"], self.family.transform)

    @property
    def name(self) -> str:
        return str(self.summary["dataset"].get("name", "images"))

    @property
    def alpha(self) -> float:
        return float(self.summary["monte_carlo"]["alpha"])

    @property
    def procedure(self) -> str:
        """``paper``, ``paper_literal``, ``sequential`` or ``exhaustive``."""
        return str(self.summary["monte_carlo"].get("name", ""))

    @property
    def exhaustive(self) -> bool:
        """Whether every shift was visited by its probability, so that no error probability enters the votes."""
        return self.procedure == "exhaustive"

    @property
    def stops_early(self) -> bool:
        """Whether the votes of an image stopped when the region of the run was decided."""
        return self.procedure in ("sequential", "exhaustive")

    @property
    def randomised(self) -> bool:
        """Whether p_A depends on a coin of each image, which the records keep."""
        return bool(self.summary["monte_carlo"].get("randomised", False))

    @cached_property
    def given_up(self) -> NDArray[np.bool_]:
        """(images,) whether votes ended early, the region being out of reach, before p_A > 1/2 was proved."""
        if not self.stops_early:
            return np.zeros(self.images, dtype=bool)
        most = int(self.summary["monte_carlo"]["n"])
        return given_up(self.p_lower, self.columns["n"], self.columns["prediction"], most)

    @property
    def classes(self) -> Sequence[str] | None:
        return self.summary.get("classes")

    def class_name(self, label: int) -> str:
        if self.classes is not None and 0 <= label < len(self.classes):
            return str(self.classes[label])
        return str(label)

    def stored_decisions(self) -> dict[str, Decision]:
        """The decisions that certify wrote, one per method of the run."""
        decisions = {}
        for name, entry in self.summary["methods"].items():
            h_min = entry.get("required_probability")
            decisions[name] = _decide(
                name,
                self.p_lower,
                h_min=None if h_min is None else float(h_min),
                sound=bool(entry.get("sound", True)),
                reason=entry.get("reason") or entry.get("argument"),
                worst=entry.get("worst_parameter"),
                failure_probability=float(entry.get("failure_probability") or 0.0),
                residual=self.approximate,
            )
        return decisions

    def decide(self, region: Box, methods: Sequence[str]) -> dict[str, Decision]:
        """The decisions for another region or other methods, from the stored p_A alone.

        Valid for fixed n because the Clopper-Pearson bound (randomised or not) does not depend on the region; for
        sequential votes because their p_A holds at any stopping time, and for exhaustive ones because the shifts
        that were not visited count against the class, though more votes could have given a larger p_A.
        """
        residual = self.approximate
        if residual is None:
            check = check_family(self.family, region, self.example)
            residual = None if check is None or check.passed else check.residual
        return {name: decide(self.family, region, name, self.p_lower, residual) for name in methods}

    @property
    def approximate(self) -> float | None:
        """The residual of a transformation that is only approximately resolvable; None of a resolvable one."""
        found = self.summary.get("approximate")
        return None if found is None else float(found["residual"])

    @cached_property
    def example(self) -> list[Tensor]:
        """The image (C, H, W) of the run that certify left for a picture; none where there is no such file."""
        try:
            with np.load(self.path / "figure1.npz", allow_pickle=False) as stored:
                return [torch.from_numpy(stored["image"])]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return []


def decide(
    family: SmoothedFamily, region: Box, method: str, p_lower: NDArray[np.float64], residual: float | None = None
) -> Decision:
    """Compare (images,) lower bounds with the required probability of ``region`` by ``method``."""
    try:
        bound = bounds.certify_region(family, region, method)
    except bounds.NotApplicable as reason:
        return _decide(method, p_lower, h_min=None, sound=bounds.METHODS[method].sound, reason=str(reason))
    return _decide(
        method,
        p_lower,
        h_min=bound.h_min,
        sound=bound.sound,
        reason=bound.argument,
        worst=bound.worst,
        failure_probability=bound.failure_probability,
        residual=residual,
    )


def _decide(
    method: str,
    p_lower: NDArray[np.float64],
    *,
    h_min: float | None,
    sound: bool,
    reason: str | None = None,
    worst: Mapping[str, float] | None = None,
    failure_probability: float = 0.0,
    residual: float | None = None,
) -> Decision:
    claimed = np.zeros(len(p_lower), dtype=bool) if h_min is None else p_lower > h_min
    # A summary cannot make an unsound method sound.
    sound = sound and bounds.METHODS[method].sound and residual is None
    certified = claimed if sound else np.zeros(len(p_lower), dtype=bool)
    return Decision(method, h_min, reason, worst, sound, failure_probability, certified, claimed, residual)


def check_methods(methods: Sequence[str], field: str = "bound.methods") -> None:
    """Raise UserError for a name that is not in ``bounds.METHODS``, with the nearest one."""
    for name in methods:
        if name not in bounds.METHODS:
            raise UserError(f"{field}: unknown method {name!r}{did_you_mean(str(name), bounds.METHODS)}")


def primary(decisions: Mapping[str, Decision]) -> Decision | None:
    """The method that headlines speak of: Neyman-Pearson, else the sound one with the least h_min."""
    sound = [d for d in decisions.values() if d.sound and d.h_min is not None]
    for decision in sound:
        if decision.method == "neyman_pearson":
            return decision
    return min(sound, key=lambda d: d.h_min or 1.0, default=None)


def load_run(path: str | Path, field: str = "runs") -> CertifyRun:
    """Read a run directory and check that its files belong together.

    Raises:
        UserError: a directory, file, column or value is missing, unreadable or contradicts another one.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{field}: no directory {str(path)!r}; give the directory that certify wrote")
    for name in ("records.csv", "summary.json"):
        if not (path / name).is_file():
            raise UserError(
                f"{field}: {str(path)!r} has no {name}; give a directory in which certify has finished (the "
                "same certify command again resumes an unfinished one)"
            )
    summary = _read_summary(path / "summary.json")
    columns = _read_records(path / "records.csv", list(summary["methods"]))
    run = CertifyRun(path, summary, columns)
    _check_together(run)
    return run


def _read_summary(file: Path) -> dict[str, Any]:
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{file}: not readable as JSON ({error}); run the same certify command again") from None
    if not isinstance(summary, dict):
        raise UserError(f"{file}: holds {type(summary).__name__}, not an object; run certify again")
    missing = [key for key in SUMMARY_KEYS if key not in summary]
    if missing:
        raise UserError(f"{file}: lacks {missing[0]!r}; it was not written by certify, or by an older version")
    for key in ("transform", "smoothing", "region", "dataset", "monte_carlo", "methods"):
        if not isinstance(summary[key], dict):
            raise UserError(f"{file}: {key} is {summary[key]!r}, not an object; run certify again")
    check_methods(list(summary["methods"]), f"{file}: methods")
    for name, entry in summary["methods"].items():
        h_min = entry.get("required_probability")
        if not (h_min is None or (isinstance(h_min, (int, float)) and 0.5 <= h_min <= 1.0)):
            raise UserError(
                f"{file}: methods.{name}: required_probability is {h_min!r}, not in [1/2, 1]; certify again"
            )
    alpha = summary["monte_carlo"].get("alpha")
    certain = summary["monte_carlo"].get("name") == "exhaustive"
    if not (isinstance(alpha, float) and (alpha == 0.0 if certain else 0.0 < alpha < 1.0)):
        wanted = "0" if certain else "in (0, 1)"
        raise UserError(f"{file}: monte_carlo.alpha is {alpha!r}, not {wanted}; run certify again")
    return summary


def _read_records(file: Path, methods: Sequence[str]) -> dict[str, NDArray[Any]]:
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: not readable as CSV ({error}); run the same certify command again") from None
    needed = [*NEEDED_COLUMNS, "p_lower", *(f"certified_{name}" for name in methods)]
    missing = [name for name in needed if name not in header]
    if missing:
        raise UserError(f"{file}: no column {missing[0]!r}; these are not the records of this run's summary.json")
    if not rows:
        raise UserError(f"{file}: holds no image; run the same certify command again")
    columns: dict[str, NDArray[Any]] = {
        name: np.empty(len(rows), dtype=np.float64 if name in REAL_COLUMNS else np.int64) for name in header
    }
    for i, row in enumerate(rows):
        line = i + 2
        if len(row) != len(header):
            raise UserError(
                f"{file}: line {line} has {len(row)} values instead of {len(header)}; the same certify "
                "command again repairs it"
            )
        for name, text in zip(header, row, strict=True):
            try:
                columns[name][i] = float(text) if name in REAL_COLUMNS else int(text)
            except ValueError:
                raise UserError(f"{file}: line {line}: {name} is {text!r}, not a number; run certify again") from None
        p_lower = columns["p_lower"][i]
        if not (math.isfinite(p_lower) and 0.0 <= p_lower <= 1.0):
            raise UserError(f"{file}: line {line}: p_lower is {p_lower}, not in [0, 1]; run certify again")
    return columns


def _check_together(run: CertifyRun) -> None:
    """Refuse records that are not the ones the summary speaks of."""
    file = run.path / "records.csv"
    fix = "records.csv and summary.json are of different runs; run certify again into an empty directory"
    stated = run.summary["images"]
    if run.images != stated:
        raise UserError(f"{file}: {run.images} images, but summary.json says images={stated}; {fix}")
    index, counts = np.unique(run.columns["index"], return_counts=True)
    if counts.max() > 1:
        raise UserError(f"{file}: index {index[counts.argmax()]} occurs {counts.max()} times; {fix}")
    if run.randomised:
        _check_coins(run, file)
    for name, decision in run.stored_decisions().items():
        wrong = np.flatnonzero((run.columns[f"certified_{name}"] != 0) != decision.certified)
        if len(wrong):
            row = wrong[0]
            raise UserError(
                f"{file}: index {run.columns['index'][row]}: "
                f"certified_{name}={run.columns[f'certified_{name}'][row]}, but "
                f"p_lower={run.p_lower[row]:.6g} and summary.json has "
                f"required_probability={decision.h_min}; {fix}"
            )


def _check_coins(run: CertifyRun, file: Path) -> None:
    """Refuse coins that are not those of (seed, index): a coin that was drawn again has no level."""
    if "coin" not in run.columns:
        raise UserError(f"{file}: no column 'coin', but summary.json says randomised=true; run certify again")
    seed = int(run.summary.get("seed", 0))
    for index, stored in zip(run.columns["index"].tolist(), run.columns["coin"].tolist(), strict=True):
        if stored != coin(seed, index):
            raise UserError(
                f"{file}: index {index}: coin={stored} is not the one of seed={seed}, so its p_lower proves nothing; "
                "run certify again into an empty directory"
            )
