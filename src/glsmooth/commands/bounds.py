"""``glsmooth bounds``: the class probability that a region requires, by every method."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from glsmooth.bounds import METHODS, Outcome, evaluate, samples_needed
from glsmooth.bounds.cover import covers_torus
from glsmooth.commands.mains import bounds as main
from glsmooth.configuration.build import build_family, build_law, build_region, law_config, law_words
from glsmooth.configuration.fields import INTERVAL, OBJECT, RULES, check_file, number, rules_under, text, whole
from glsmooth.configuration.plain import plain
from glsmooth.configuration.settings import settled, usual_noise
from glsmooth.errors import keyed, of_file
from glsmooth.family.regions import Ball, Box, Points, Region, region_of
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.report import wording
from glsmooth.report.tables import markdown
from glsmooth.runs.files import read_json, write_text
from glsmooth.runs.summary import check_methods

__all__ = ["main", "run"]

RESULT_FILE = "bounds.json"


_TEXT = text()
#: What the file may hold; ``*`` stands for one name. What may be null may be missing.
_RULES = {
    **rules_under("smoothing", "region"),
    "transform": _TEXT,
    "smoothing": OBJECT,
    "smoothing.*": OBJECT,
    "region": OBJECT,
    "region.*": INTERVAL,
    "image_size": RULES["image_size"],
    "required_probability": OBJECT,
    "required_probability.*": number("in [1/2, 1]", "0.9", lambda v: 0.5 <= v <= 1).or_null(),
    "reasons": OBJECT.or_null(),
    "reasons.*": _TEXT.or_null(),
    "worst_parameter": OBJECT.or_null(),
    "worst_parameter.*": number("a finite number"),
    "failure_probability": OBJECT.or_null(),
    "failure_probability.*": number("in [0, 1]", "0.001", lambda v: 0 <= v <= 1),
    "samples_needed": OBJECT,
    "samples_needed.*": whole(0, 1000).or_null(),
}


def as_json(family: SmoothedFamily, region: Region, outcomes: Mapping[str, Outcome], alpha: float) -> dict[str, Any]:
    """What the command prints as JSON: plain primitives only."""
    exact = outcomes.get("neyman_pearson")
    return {
        "transform": family.name,
        "smoothing": {name: law_config(law) for name, law in family.laws.items()},
        "region": region.to_config(),
        "image_size": list(family.image_size) if family.image_size else None,
        "required_probability": {method: outcome.h_min for method, outcome in outcomes.items()},
        "reasons": {method: _reason(outcome) for method, outcome in outcomes.items()},
        "worst_parameter": None if exact is None else exact.worst,
        # α_b of bounds that were estimated from samples, added to the votes' alpha
        "failure_probability": {
            method: outcome.failure_probability for method, outcome in outcomes.items() if outcome.failure_probability
        },
        "samples_needed": {
            method: None if outcome.h_min is None else samples_needed(outcome.h_min, alpha)
            for method, outcome in outcomes.items()
        },
    }


def _reason(outcome: Outcome) -> str | None:
    """Why the method has no number, or why its number certifies nothing."""
    if outcome.h_min is None:
        return outcome.argument
    return None if outcome.sound else f"certifies nothing: {outcome.argument}"


def _up(h: float | None) -> str:
    """A required probability with five digits, rounded up."""
    return "—" if h is None else wording.ceil(h, 5)


def table(result: Mapping[str, Any], alpha: float) -> str:
    """The result as text for people."""
    law_text = ", ".join(f"{name} ~ {law_words(law)}" for name, law in result["smoothing"].items())
    region = _words(region_of(result["region"]), "{} in [{:g}, {:g}]")
    where = f" on the torus {result['image_size'][0]}×{result['image_size'][1]}" if result["image_size"] else ""
    lines = [f"{result['transform']}{where}", f"  smoothing  {law_text}", f"  region     {region}"]
    if result["worst_parameter"]:
        lines.append(f"  worst at   {_point(result['worst_parameter'])}")
    own = sorted({law["_target_"].rpartition(".")[2] for law in result["smoothing"].values() if law.get("_target_")})
    rows = [("method", "required probability", f"votes needed at alpha = {alpha:g}", "")]
    for method, h in result["required_probability"].items():
        needed = result["samples_needed"][method]
        votes = "" if h is None else ("no number is enough" if needed is None else str(needed))
        remark = result["reasons"][method] or ""
        if method in result["failure_probability"]:
            remark = f"estimated from samples: true except with probability {result['failure_probability'][method]:g}"
        if own and h is not None:
            remark = "; ".join(filter(None, (remark, f"by what {', '.join(own)} says of its own shape")))
        rows.append((METHODS[method].title, _up(h), votes, remark))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines.append("")
    for row in rows:
        lines.append("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)) + "  " + row[3])
    return "\n".join(line.rstrip() for line in lines)


def _words(region: Region, interval: str) -> str:
    """The region by the names of its parameters; ``interval`` is the format of one of a box."""
    if isinstance(region, Ball):
        return f"{', '.join(region.parameters)} within {region.radius:g} of {_point(region.centre)} (l2)"
    if isinstance(region, Points):
        return "; ".join(map(_point, region.points))
    assert isinstance(region, Box)
    return ", ".join(interval.format(name, *ends) for name, ends in region.intervals.items())


def _point(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in values.items())


def sweep_table(folder: Path) -> str:
    """One Markdown table of every result stored below ``folder``.

    Raises:
        UserError: one of them is not readable, or was not written by this command.
    """
    results = [_read(path) for path in sorted(folder.glob(f"*/{RESULT_FILE}"))]
    methods = list(dict.fromkeys(m for result in results for m in result["required_probability"]))
    header = ["transform", "smoothing", "region", *methods, "votes needed (Neyman–Pearson)"]
    rows = []
    for result in results:
        law_text = ", ".join(f"{n} {law_words(law)}" for n, law in result["smoothing"].items())
        region = _words(region_of(result["region"]), "{} [{:g}, {:g}]")
        values = [_up(result["required_probability"].get(method)) for method in methods]
        needed = result["samples_needed"].get("neyman_pearson")
        rows.append([result["transform"], law_text, region, *values, str(needed or "—")])
    return markdown(header, rows, numeric_from=len(header))


def _read(file: Path) -> dict[str, Any]:
    fix = "remove it, or choose another hydra.sweep.dir"
    content: dict[str, Any] = read_json(file, fix)
    check_file(content, _RULES, file, fix)
    check_methods(content["required_probability"], f"{file}: required_probability")
    for name, law in content["smoothing"].items():
        if not law.get("_target_"):  # of a class of the user's own nothing is imported because a file says so
            build_law(law, f"{file}: smoothing.{name}")
    with of_file(file):
        region_of(content["region"])
    return content


def run(cfg: DictConfig) -> None:
    """Evaluate the configured region and print it as a table or as JSON."""
    image_size = tuple(cfg.image_size) if cfg.image_size is not None else None
    noise = usual_noise(plain(cfg.transform)) if cfg.pixel_noise is None else cfg.pixel_noise
    family = build_family(cfg.transform, cfg.smoothing, image_size, noise)
    region = build_region(settled(cfg)["region"], family.transform, family.threat)
    with keyed({"residual": "transform.residual"}):
        outcomes = evaluate(family, region, cfg.bound.methods)
    result = as_json(family, region, outcomes, cfg.alpha)
    directory = Path(cfg.run_dir)
    write_text(directory / RESULT_FILE, json.dumps(result, indent=2) + "\n")
    if cfg.format == "json":
        print(json.dumps(result))
    else:
        print(table(result, cfg.alpha))
        for name in covers_torus(family, region):
            print(f"  note       {name} covers the whole torus: every shift is in the region")
    if cfg.proof is not None:
        _write_proof(Path(cfg.proof), family, region, outcomes)
    if cfg.plot:
        from glsmooth.report.figures import required_probability_plane

        required_probability_plane(family, region, directory / "plane.svg")
    if _in_sweep():
        write_text(directory.parent / "table.md", sweep_table(directory.parent))


def _write_proof(path: Path, family: SmoothedFamily, region: Region, outcomes: Mapping[str, Outcome]) -> None:
    from glsmooth.runs.proof import prove, write_proof

    exact = outcomes.get("neyman_pearson") or evaluate(family, region, ["neyman_pearson"])["neyman_pearson"]
    proof = prove(family, region, exact)
    write_proof(path, proof)
    print(
        f"Proof of {wording.ceil(proof['required_probability'], 6)} in {len(proof['cells'])} cells: {path}; check it "
        f"with glsmooth verify {shlex.quote(str(path))}",
        file=sys.stderr,
    )


def _in_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
