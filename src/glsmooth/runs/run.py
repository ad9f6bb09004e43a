"""A certification that was run: read back from its directory, and decided again from its votes.

A certificate is the comparison p_A > h_min. The run stores p_A of every image; h_min depends on neither image
nor network. So any region and any method can be decided from the records without a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glsmooth.bounds import Outcome, evaluate
from glsmooth.configuration.build import build_family, build_region, check_law_targets, check_target
from glsmooth.configuration.fields import cut
from glsmooth.errors import UserError, of_file, visible
from glsmooth.family.regions import Region
from glsmooth.family.resolvability import check_family, why_approximate
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.runs.figure import Draws
from glsmooth.runs.files import FIGURE, RECORDS, SUMMARY
from glsmooth.runs.own import is_own, run_files
from glsmooth.runs.records import Columns, read_records
from glsmooth.runs.recount import agree, recount, recount_h_min
from glsmooth.runs.summary import SPLIT_IMAGES, Numbers, Summary, robust_accuracy
from glsmooth.threats import Nearby
from glsmooth.voting.draws import coin
from glsmooth.voting.procedures import given_up

__all__ = ["Run", "load_run"]


@dataclass(frozen=True)
class Run:
    """The records and the summary that ``certify`` left in a directory.

    Attributes:
        path: the directory.
        summary: summary.json.
        columns: records.csv, column name -> (images,) array.
        transform_target: ``"package.Class"`` of a user's own transformation, which may be imported.
        known_family: the run's family where it was built before. Bounds are cached by it.
        dataset_root: folder of the images, where the user named it.
        dataset_target: ``"my_module.function"`` of a user's own data set, which may be imported.
        test_images: gives the image (C, H, W) of an index, where the caller has them.
        law_targets: classes of a user's own laws, which may be imported.
    """

    path: Path
    summary: Summary
    columns: Columns
    transform_target: str | None = None
    known_family: SmoothedFamily | None = None
    dataset_root: str | None = None
    test_images: Callable[[int], NDArray[np.floating]] | None = None
    law_targets: Collection[str] = ()
    dataset_target: str | None = None

    @property
    def images(self) -> int:
        return len(self.columns["index"])

    @property
    def p_lower(self) -> NDArray[np.float64]:
        return self.columns["p_lower"]

    @property
    def votes(self) -> NDArray[np.int64]:
        """(images,) votes in all: selection and counting draws, at each reference where there are several."""
        return np.asarray(self.columns.get("votes", self.columns["n0"] + self.columns["n"]))

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(images,) whether the selected class is the true one."""
        return np.asarray(self.columns["prediction"] == self.columns["label"])

    @cached_property
    def family(self) -> SmoothedFamily:
        if self.known_family is not None:
            return self.known_family
        summary = self.summary
        check_target(summary.transform, str(self.path / SUMMARY), self.transform_target)
        check_law_targets(summary.smoothing, str(self.path / SUMMARY), self.law_targets)
        return build_family(
            *(summary.transform, summary.smoothing, summary.image_size, summary.pixel_noise, summary.draws)
        )

    @cached_property
    def region(self) -> Region:
        return build_region(self.summary.region, self.family.transform, self.family.threat)

    @property
    def outcomes(self) -> Mapping[str, Outcome]:
        """What each method of the run says of its region."""
        return self.summary.outcomes

    @property
    def readable_dataset(self) -> dict[str, Any] | None:
        """The data set whose images may be read: in a folder that the user named, or that a run of our own names."""
        dataset: dict[str, Any] = {**self.summary.dataset, "download": False}
        if dataset.get("_target_") is not None:
            # What is imported the user has typed; with which arguments, a run of our own says.
            own = dataset["_target_"] == self.dataset_target and is_own(run_files(self.path))
            return {**dataset, "root": self.dataset_root or dataset.get("root")} if own else None
        if self.dataset_root is not None:
            return {**dataset, "root": self.dataset_root}
        return dataset if dataset.get("root") is None or is_own(run_files(self.path)) else None

    @property
    def name(self) -> str:
        """The data set's name."""
        return str(self.summary.dataset.get("name", "images"))

    @property
    def split(self) -> str:
        """The split whose images were certified: test, val or train."""
        return str(self.summary.dataset.get("split") or "test")

    @property
    def called(self) -> str:
        """What its images are called."""
        return SPLIT_IMAGES[self.split]

    @property
    def label(self) -> str:
        """The directory's name, for tables and pictures."""
        return visible(self.path.resolve().name)

    @property
    def alpha(self) -> float:
        return float(self.summary.monte_carlo["alpha"])

    @property
    def procedure(self) -> str:
        """``paper``, ``paper_literal``, ``sequential`` or ``exhaustive``."""
        return str(self.summary.monte_carlo.get("name", ""))

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
        return bool(self.summary.monte_carlo.get("randomised", False))

    @cached_property
    def given_up(self) -> NDArray[np.bool_]:
        """(images,) whether votes ended early, the region being out of reach, before p_A > 1/2 was proved."""
        if not self.stops_early:
            return np.zeros(self.images, dtype=bool)
        most = int(self.summary.monte_carlo["n"])
        return given_up(self.p_lower, self.columns["n"], self.columns["prediction"], most)

    def class_name(self, label: int) -> str:
        classes = self.summary.classes
        return str(classes[label]) if classes is not None and 0 <= label < len(classes) else str(label)

    def robust(self, outcome: Outcome) -> NDArray[np.bool_]:
        """(images,) whether the image is certified in its true class."""
        return np.asarray(outcome.certifies(self.p_lower) & self.correct)

    def evaluate(self, region: Region, methods: Sequence[str]) -> dict[str, Outcome]:
        """What methods say of another region, to decide the images by their stored p_A alone.

        Valid for fixed n because the Clopper-Pearson bound (randomised or not) does not depend on the region; for
        sequential votes because their p_A holds at any stopping time, and for exhaustive ones because the shifts
        that were not visited count against the class, though more votes could have given a larger p_A.
        """
        if self.family.warps:
            self._check_voted(region)
        outcomes = evaluate(self.family, region, methods)
        found = self.summary.approximate
        if found is None:
            check = check_family(self.family, self.family.rest(region), self.example)
            found = None if check is None or check.passed else check.found
        if found is None:
            return outcomes
        why = why_approximate(found)
        return {name: outcome.approximate(float(found["residual"]), why) for name, outcome in outcomes.items()}

    def _check_voted(self, region: Region) -> None:
        """Refuse what no votes were taken for: slices covered the run's own interval alone."""
        assert self.family.threat is not None
        (low, high), (least, most) = self.family.interval(region), self.family.interval(self.region)
        if not least <= low <= high <= most:
            name = self.family.threat.parameter  # type: ignore[union-attr]
            raise UserError(
                f"region.{name}=[{low:g},{high:g}]: votes were taken for [{least:g},{most:g}] alone; certify again"
            )

    @cached_property
    def draws(self) -> Draws | None:
        """The draws of one image that certify left for a picture; None where there are none.

        Raises:
            UserError: the file is not readable, or not of this run.
        """
        draws = Draws.load(self.path, len(self.family.parameters))
        if draws is not None and not (self.columns["index"] == draws.index).any():
            raise UserError(
                f"{self.path}: index {draws.index} is not in records.csv; the file of its draws is of another run, "
                "delete it"
            )
        size = self.summary.image_size
        if draws is not None and size is not None and draws.image.shape[1:] != size:
            raise UserError(
                f"{self.path / FIGURE}: its image has {list(draws.image.shape[1:])} pixels, but summary.json says "
                f"image_size={list(size)}; one of them is of another run, run certify again"
            )
        return draws

    @cached_property
    def example(self) -> list[Tensor]:
        """The image (C, H, W) of those draws, to try a user's transformation on; none where it cannot be had."""
        try:
            return [] if self.draws is None else [torch.from_numpy(self.draws.image)]
        except (UserError, TypeError):
            return []


def load_run(
    path: str | Path,
    field: str = "runs",
    transform_target: str | None = None,
    family: SmoothedFamily | None = None,
    dataset_root: str | None = None,
    test_images: Callable[[int], NDArray[np.floating]] | None = None,
    law_targets: Collection[str] = (),
    dataset_target: str | None = None,
) -> Run:
    """Read a run directory, check that its files belong together, and compute p_A and h_min again.

    Where stored and computed numbers differ by rounding, the smaller p_A and the larger h_min decide.

    Args:
        field: how the caller calls the path; it opens the messages about it.
        transform_target: ``"package.Class"`` where the run is of a transformation of your own.
        family: the run's family, where the caller has just certified it: its bounds are known then.
        dataset_root: folder of the images. Without it that of the file is read where this machine wrote the run.
        test_images: gives the image (C, H, W) of an index, where the caller has them.
        law_targets: classes of laws of your own that the run may be of, ``"package.Class"``.
        dataset_target: ``"my_module.function"`` where the run is of a data set of your own.

    Raises:
        UserError: a directory, file, column or value is missing, unreadable or contradicts another one; a
            transformation that is neither built in nor ``transform_target``.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{field}: no directory {str(path)!r}; give the directory that certify wrote")
    for name in (RECORDS, SUMMARY):
        if not (path / name).is_file():
            raise UserError(
                f"{field}: {str(path)!r} has no {name}; give a directory in which certify has finished (the "
                "same certify command again resumes an unfinished one)"
            )
    read = Summary.read(path), read_records(path)
    run = Run(path, *read, transform_target, family, dataset_root, test_images, law_targets, dataset_target)
    with of_file(path / SUMMARY):
        _check_approximate(run)
        _check_nearby(run)
        _check_together(run)
        run.draws  # noqa: B018 - refuses those of another run
        outcomes = recount_h_min(path, run.outcomes, run.evaluate(run.region, list(run.outcomes)))
        p_lower = recount(path, run.columns, run.summary.monte_carlo, run.outcomes, run.family)
    return replace(
        run,
        summary=replace(run.summary, outcomes=outcomes),
        columns={**run.columns, "p_lower": p_lower},
        known_family=run.family,
    )


def _check_nearby(run: Run) -> None:
    """Refuse a residual that is too small for images of the size that the files have."""
    threat, size = run.family.threat, run.summary.image_size
    if not isinstance(threat, Nearby) or size is None:
        return
    channels = len((run.summary.model or {}).get("mean") or [0])
    needed = threat.residual((channels, *size))
    if run.family.residual is None or run.family.residual < needed * (1 - 1e-9):
        raise UserError(
            f"{run.path / SUMMARY}: transform.residual is {run.family.residual}, but {threat!r} leads images of this "
            f"size {needed:.6g} away; run certify again"
        )


def _check_together(run: Run) -> None:
    """Refuse records that are not the ones the summary speaks of."""
    file = run.path / RECORDS
    fix = "records.csv and summary.json are of different runs; run certify again into an empty directory"
    if not run.images:
        raise UserError(f"{file}: holds no image; run the same certify command again")
    stated = run.summary.numbers.images
    if run.images != stated:
        raise UserError(f"{file}: {run.images} images, but summary.json says images={stated}; {fix}")
    index, counts = np.unique(run.columns["index"], return_counts=True)
    if counts.max() > 1:
        raise UserError(f"{file}: index {index[counts.argmax()]} occurs {counts.max()} times; {fix}")
    if run.randomised:
        _check_coins(run, file)
    _check_numbers(run)
    for name, outcome in run.outcomes.items():
        column = f"certified_{name}"
        if column not in run.columns:
            raise UserError(f"{file}: no column {column!r}; these are not the records of this run's summary.json")
        certifies = outcome.certifies(run.p_lower)
        if run.family.warps:
            certifies = certifies & (run.columns["slices_tried"] == run.columns["slices"])
        wrong = np.flatnonzero((run.columns[column] != 0) != certifies)
        if len(wrong):
            row = wrong[0]
            raise UserError(
                f"{file}: index {run.columns['index'][row]}: {column}={run.columns[column][row]}, but "
                f"p_lower={run.p_lower[row]:.6g} and summary.json has required_probability={outcome.h_min}; {fix}"
            )


def _check_approximate(run: Run) -> None:
    """Refuse parameters that the transformation does not have: their names would be words in the report."""
    for key in ("alpha", "beta"):
        for name in (run.summary.approximate or {}).get(key) or {}:
            if name not in run.family.parameters:
                raise UserError(f"approximate.{key}.{cut(name)} is not a parameter; run certify again")


def _check_numbers(run: Run) -> None:
    """Refuse numbers of the summary that its records do not give. Releases that state less of them are not asked."""
    absent = [name for name in ("abstain_votes", "nonfinite_votes", "near_ties") if name not in run.columns]
    columns = run.columns | dict.fromkeys(absent, np.zeros(run.images, dtype=np.int64))
    computed = asdict(Numbers.of(columns, int(run.summary.monte_carlo["n"])))
    stated = asdict(run.summary.numbers)
    left_out = {"abstained_votes" if name == "abstain_votes" else name for name in absent}
    if stated["given_up"] is None:
        left_out.add("abstained")  # it may have meant both
    for method, outcome in run.outcomes.items():
        key = f"methods.{method}.certified_robust_accuracy"
        stated[key], computed[key] = run.summary.robust_accuracy.get(method), robust_accuracy(columns, outcome)
    for key, value in stated.items():
        if value is not None and key not in left_out and not agree(value, computed[key]):
            raise UserError(
                f"{run.path / SUMMARY}: {key} is {value}, but records.csv gives {computed[key]}; one of them was "
                "changed after certify wrote it, run certify again into an empty directory"
            )


def _check_coins(run: Run, file: Path) -> None:
    """Refuse coins that are not those of (seed, index): a coin that was drawn again has no level."""
    if "coin" not in run.columns:
        raise UserError(f"{file}: no column 'coin', but summary.json says randomised=true; run certify again")
    seed = int(run.summary.seed)
    for index, stored in zip(run.columns["index"].tolist(), run.columns["coin"].tolist(), strict=True):
        if stored != coin(seed, index):
            raise UserError(
                f"{file}: index {index}: coin={stored} is not the one of seed={seed}, so its p_lower proves nothing; "
                "run certify again into an empty directory"
            )
