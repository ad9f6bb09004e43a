"""The report command: tables and pictures from stored votes, without a forward pass."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from glsmooth.bounds import Outcome
from glsmooth.commands.mains import report as main
from glsmooth.configuration.build import build_region
from glsmooth.configuration.plain import plain
from glsmooth.errors import UserError
from glsmooth.family.regions import Box
from glsmooth.report import page, published
from glsmooth.report.comparison import write_comparison
from glsmooth.runs.failures import find_runs
from glsmooth.runs.files import write_text
from glsmooth.runs.run import Run, load_run
from glsmooth.runs.shards import merge
from glsmooth.runs.summary import check_methods

__all__ = ["decide", "main", "run"]


def run(cfg: DictConfig) -> None:
    """Write the report that ``cfg`` asks for and print its table to standard output."""
    settings = plain(cfg)
    paths, votes, out = settings["runs"], settings["votes"], Path(settings["run_dir"])
    methods = settings["bound"]["methods"]
    if methods is not None:
        check_methods(methods)
    typed = {key: value for key, value in settings.get("transform", {}).items() if value is not None}
    if votes:
        if typed:
            raise UserError("transform: votes=FILE names built-in transformations itself; leave transform out")
        if any(interval is not None for interval in settings["region"].values()):
            raise UserError("region: votes=FILE brings each run's own region; leave region.* out")
        if settings["dataset"]["root"] is not None:
            raise UserError("dataset.root: votes=FILE has no images; leave it out")
        size = settings["image_size"]
        table = published.votes_table(
            published.load_votes(votes),
            methods or published.METHODS,
            None if size is None else (size[0], size[1]),
        )
        write_text(out / "votes.md", table)
        sys.stdout.write(table)
        return
    if settings["image_size"] is not None:
        raise UserError("image_size: a run keeps the size that it was certified at; leave it out, or use votes=FILE")
    root = settings["dataset"]["root"]
    overrides = {name: interval for name, interval in settings["region"].items() if interval is not None}
    found, unfinished = find_runs(paths)

    def load(path: str | Path) -> Run:
        return load_run(path, transform_target=typed.get("_target_"), dataset_root=root)

    read = [load(path) for path in found]
    _check_transform(typed, read)
    whole, incomplete = (read, []) if len(read) == 1 else merge(read, out / "shards")
    runs = [one if isinstance(one, Run) else load(one) for one in whole]
    unfinished += incomplete
    if not runs:
        raise UserError(f"runs: {unfinished[0].job}: {unfinished[0].reason}")
    # A folder of one run is a sweep, too; what was put together is one run.
    alone = len(runs) == 1 and (found == paths or (runs != read and not unfinished))
    for one in whole:
        if not isinstance(one, Run):
            print(f"Shards put together: {one}", file=sys.stderr)
    if alone and not overrides and methods is None:
        page.write_run_report(runs[0], runs[0].path, runs[0].region, runs[0].outcomes)
        sys.stdout.write((runs[0].path / "table.md").read_text(encoding="utf-8"))
        return
    results = [decide(run, overrides, methods) for run in runs]
    if alone:
        stored, region, outcomes = results[0]
        note = page.recertified_note(stored, region, outcomes)
        page.write_run_report(stored, out, region, outcomes, note)
        sys.stdout.write((out / "table.md").read_text(encoding="utf-8"))
    else:
        sys.stdout.write(write_comparison(results, out, unfinished))


def decide(
    stored: Run, overrides: Mapping[str, Any], methods: Sequence[str] | None
) -> tuple[Run, Box, Mapping[str, Outcome]]:
    """A run with a region and what the bounds say of it: its own, or anew where a region or methods are asked for."""
    if not overrides and methods is None:
        return stored, stored.region, stored.outcomes
    region = build_region({**stored.summary.region, **overrides}, stored.family.transform)
    return stored, region, stored.evaluate(region, methods or list(stored.outcomes))


def _check_transform(typed: Mapping[str, Any], runs: Sequence[Run]) -> None:
    """Refuse fields of a transformation that no run was certified with: typed, they permit and change nothing."""
    for key, value in typed.items():
        found = [run.summary.transform.get(key) for run in runs]
        if value not in found:
            raise UserError(
                f"transform.{key}={value}: {runs[0].path} was certified with {found[0]}; "
                "a run keeps its own, leave it out"
            )
