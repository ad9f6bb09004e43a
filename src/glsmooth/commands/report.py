"""The report command: tables and pictures from stored votes, without a forward pass."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from glsmooth.bounds import Outcome
from glsmooth.commands.mains import report as main
from glsmooth.configuration.build import build_region, law_targets, merge_region
from glsmooth.configuration.settings import settled
from glsmooth.errors import UserError
from glsmooth.family.regions import Region
from glsmooth.report import page, published
from glsmooth.report.comparison import write_comparison
from glsmooth.report.differences import Result
from glsmooth.report.formats import check_format, printed
from glsmooth.report.paper.files import write_figures
from glsmooth.report.radii import radii
from glsmooth.runs.attacks import Era, beside, empirical, find_attacks, read_attack
from glsmooth.runs.failures import Failure, find_runs
from glsmooth.runs.files import SWEEP, write_text
from glsmooth.runs.run import Run, load_run
from glsmooth.runs.shards import merge
from glsmooth.runs.summary import check_methods
from glsmooth.runs.sweep import Sweep

__all__ = ["decide", "main", "report_sweep", "run"]


def run(cfg: DictConfig) -> None:
    """Write the report that ``cfg`` asks for and print its table to standard output."""
    settings = settled(cfg)
    paths, votes, out = settings["runs"], settings["votes"], Path(settings["run_dir"])
    form = settings["format"]
    check_format(form)
    methods = settings["bound"]["methods"]
    if methods is not None:
        check_methods(methods)
    typed = {key: value for key, value in settings.get("transform", {}).items() if value is not None}
    if votes:
        if typed:
            raise UserError("transform: votes=FILE names built-in transformations itself; leave transform out")
        if any(interval is not None for interval in settings["region"].values()):
            raise UserError("region: votes=FILE brings each run's own region; leave region.* out")
        if settings["figures"] == "paper":
            raise UserError("figures=paper: votes=FILE holds no run to draw; leave it out")
        if settings["radii"]:
            raise UserError("radii=true: votes=FILE holds no run; leave it out")
        if settings["dataset"]["root"] is not None:
            raise UserError("dataset.root: votes=FILE has no images; leave it out")
        if form != "markdown":
            raise UserError(f"format={form}: votes=FILE is printed as markdown; leave it out")
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
    for_paper = settings["figures"] == "paper"
    root = settings["dataset"]["root"]
    overrides = {name: interval for name, interval in settings["region"].items() if interval is not None}
    loading = {
        "transform_target": typed.get("_target_"),
        "law_targets": law_targets(settings.get("smoothing", {})),
        "dataset_root": root,
        "dataset_target": settings["dataset"].get("_target_"),
    }
    paths, attacked = find_attacks(paths)
    if not paths:
        raise UserError(f"runs: {attacked[0]} is an attack; name the runs of certify that were attacked beside it")
    sweeps = [sweep for path in paths if (sweep := Sweep.read(Path(path))) is not None]
    found, unfinished = find_runs([path for path in paths if not (Path(path) / SWEEP).is_file()])
    runs, incomplete = _read([*found, *(run for sweep in sweeps for run in sweep.runs)], out, loading)
    _check_transform(typed, runs)
    unfinished += [*incomplete, *(failure for sweep in sweeps for failure in sweep.failures)]
    if not runs:
        raise UserError(f"runs: {unfinished[0].job}: {unfinished[0].reason}" if unfinished else "runs: none has ended")
    # A folder of one run is a sweep, too; shards that were put together are one run.
    together = len(runs) == 1 and runs[0].path.is_relative_to(out) and not unfinished
    alone = len(runs) == 1 and (found == paths or together)
    if for_paper and not alone:
        raise UserError("figures=paper: draws one run; give the directory of one, or leave it out")
    if settings["radii"] and not alone:
        raise UserError("radii=true: is about one run; give the directory of one, or leave it out")
    if alone and attacked:
        raise UserError(f"runs: {attacked[0]} is an attack, which has a report of its own; leave it out")
    if alone and not overrides and methods is None:
        found_radii = radii(runs[0]) if settings["radii"] else None
        page.write_run_report(runs[0], runs[0].path, runs[0].region, runs[0].outcomes, found=found_radii)
        if for_paper:
            write_figures(runs[0], runs[0].region, runs[0].path / "paper")
        sys.stdout.write(printed(runs[0].path, form))
        return
    regions = [overrides] if overrides else [region for sweep in sweeps for region in sweep.regions]
    results = [decide(run, region, methods) for run in runs for region in regions or [{}]]
    if alone:
        stored, region, outcomes = results[0]
        note = page.recertified_note(stored, region, outcomes)
        found_radii = radii(stored, outcomes) if settings["radii"] else None
        page.write_run_report(stored, out, region, outcomes, note, found=found_radii)
        if for_paper:
            write_figures(stored, region, out / "paper")
    else:
        write_comparison(results, out, unfinished, _eras(results, attacked))
    sys.stdout.write(printed(out, form))


def report_sweep(
    sweep: Sweep, out: Path, transform_target: str | None = None, law_targets: Collection[str] = ()
) -> str:
    """Write the report of a sweep, every run in every region; returns its table.

    Args:
        transform_target: ``"package.Class"`` of a transformation of the user's own.
        law_targets: the same of laws.
    """
    runs, incomplete = _read(sweep.runs, out, {"transform_target": transform_target, "law_targets": law_targets})
    results = [decide(run, region, None) for run in runs for region in sweep.regions or [{}]]
    return write_comparison(results, out, [*sweep.failures, *incomplete], _eras(results)) if results else ""


def _eras(results: Sequence[Result], named: Sequence[str] = ()) -> list[Era | None]:
    """Empirical robust accuracy of each result, where an attack of it was named or lies beside its run."""
    attacks = {Path(path).resolve(): read_attack(Path(path)) for path in named}
    for path in sorted({path for run, _, _ in results for path in beside(run.path)} - attacks.keys()):
        try:
            attacks[path] = read_attack(path)
        except UserError as error:  # nobody asked for it
            print(f"{path} is left out: {error}", file=sys.stderr)
    return [empirical(run, region, list(attacks.values())) for run, region, _ in results]


def _read(paths: Sequence[str | Path], out: Path, loading: Mapping[str, Any]) -> tuple[list[Run], list[Failure]]:
    """The runs, shards put together under ``out``, and the certifications of which shards are missing."""
    found = [load_run(path, **loading) for path in paths]
    if len(found) == 1:
        return found, []
    runs: list[Run] = []
    whole, incomplete = merge(found, out / "shards")
    for one in whole:
        if not isinstance(one, Run):
            print(f"Shards put together: {one}", file=sys.stderr)
        runs.append(one if isinstance(one, Run) else load_run(one, **loading))
    return runs, incomplete


def decide(
    stored: Run, overrides: Mapping[str, Any], methods: Sequence[str] | None
) -> tuple[Run, Region, Mapping[str, Outcome]]:
    """A run with a region and what the bounds say of it: its own, or anew where a region or methods are asked for."""
    if not overrides and methods is None:
        return stored, stored.region, stored.outcomes
    region = build_region(merge_region(stored.summary.region, overrides), stored.family.transform, stored.family.threat)
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
