"""One certification that was split over jobs, put together again: each certified its share of the images."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from glsmooth.configuration.fields import leaves, shown
from glsmooth.configuration.identity import difference
from glsmooth.errors import UserError
from glsmooth.runs.failures import Failure
from glsmooth.runs.figure import Draws
from glsmooth.runs.files import CONFIG, FIGURE, IDENTITY, IMAGES, RECORDS, SUMMARY, read_json, write_bytes, write_text
from glsmooth.runs.own import is_own, remember, run_files
from glsmooth.runs.records import Images
from glsmooth.runs.run import Run
from glsmooth.runs.summary import Numbers, robust_accuracy

__all__ = ["merge", "parse"]


def parse(shard: str | None) -> tuple[int, int] | None:
    """(number, of how many), counted from zero, of a shard that is written ``0/4``; None for the whole.

    Raises:
        UserError: it is written otherwise, or there is no such shard.
    """
    if shard is None:
        return None
    numbers = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard)
    if numbers is None or not int(numbers[1]) < int(numbers[2]):
        raise UserError(f"shard={shown(shard)} must be i/n with i from 0 to n - 1; set for example shard=0/4")
    return int(numbers[1]), int(numbers[2])


def merge(runs: Sequence[Run], out: Path) -> tuple[list[Path | Run], list[Failure]]:
    """Put shards of the same certification together.

    Args:
        runs: whole ones and shards, as they were read.
        out: folder in which a directory is made for each certification that is put together. It is as certify would
            have written it without shards, records.csv to the byte.

    Returns:
        The runs, shards replaced by the directories, and for each certification of which shards are missing what they
        are: the others of it are left out.

    Raises:
        UserError: files of a shard are missing or damaged, or shards hold the same images.
    """
    result: list[Path | Run] = []
    groups: dict[str, dict[int, Run]] = {}
    counts: dict[str, int] = {}
    for run in runs:
        shard = parse(run.summary.shard)
        if shard is None:
            result.append(run)
            continue
        key = hashlib.sha256(json.dumps(_identity(run), sort_keys=True).encode()).hexdigest()[:12]
        # Shards of four and of five are two certifications.
        key = f"{key}-{shard[1]}"
        if key not in groups:
            result.append(out / key)
        groups.setdefault(key, {})[shard[0]] = run
        counts[key] = shard[1]
    failures = []
    for key, shards in groups.items():
        absent = [number for number in range(min(counts[key], 10_000)) if number not in shards]
        if absent:
            few = ", ".join(f"{number}/{counts[key]}" for number in absent[:8]) + (" …" if len(absent) > 8 else "")
            others = f"{len(shards)} of {counts[key]} shards ({shards[min(shards)].label} …)"
            failures.append(Failure(others, "unfinished", f"no result of shard {few}; certify them, then report again"))
            result.remove(out / key)
        else:
            _write([shards[number] for number in sorted(shards)], out / key)
    return result, failures


def _identity(run: Run) -> dict[str, Any]:
    """What decided the votes of a shard, but for which images it had."""
    content = read_json(run.path / IDENTITY, "run its certify command again")
    if not isinstance(content, dict):
        raise UserError(f"{run.path / IDENTITY}: holds no object; run its certify command again")
    return {name: value for name, value in content.items() if name not in ("shard", "images")}


def _write(shards: Sequence[Run], out: Path) -> None:
    """Write the run directory of the whole certification."""
    first = shards[0]
    _check_same(shards)
    images = _images(shards)
    header, lines = b"", {}
    for run in shards:
        content = (run.path / RECORDS).read_bytes().splitlines(keepends=True)
        if header not in (b"", content[0]):
            raise UserError(f"{run.path / RECORDS}: other columns than {first.path / RECORDS}; run its certify again")
        header = content[0]
        lines.update({int(line.split(b",", 1)[0]): line for line in content[1:]})
    columns = {name: np.concatenate([run.columns[name] for run in shards]) for name in first.columns}
    summary = replace(
        first.summary,
        shard=None,
        numbers=Numbers.of(columns, most=first.summary.monte_carlo["n"]),
        robust_accuracy={method: robust_accuracy(columns, outcome) for method, outcome in first.outcomes.items()},
        seconds_per_image=None,
        invocation=_sums([run.summary.invocation for run in shards]),
    )
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / RECORDS, header + b"".join(lines[index] for index in sorted(lines)))
    write_text(out / IMAGES, images.text())
    digest = hashlib.sha256(images.text().encode()).hexdigest()
    identity = {**_identity(first), "images": digest}
    write_text(out / IDENTITY, json.dumps(identity, indent=2, sort_keys=True) + "\n")
    if (first.path / CONFIG).is_file():
        config = (first.path / CONFIG).read_bytes()
        write_bytes(out / CONFIG, re.sub(rb"(?m)^shard: .*$", b"shard: null", config))
    draws = _best_draws(shards)
    if draws is not None:
        write_bytes(out / FIGURE, draws.read_bytes())
    summary.write(out)
    if all(is_own(run_files(run.path)) for run in shards):
        remember(run_files(out))


def _check_same(shards: Sequence[Run]) -> None:
    """Refuse shards whose summaries are of other settings than their identities: one summary will speak for all.

    Raises:
        UserError: naming the first that differs.
    """
    first = shards[0]
    for run in shards:
        other = difference(_stated(first), _stated(run))
        if other is not None:
            raise UserError(
                f"{run.path / SUMMARY}: {first.path} was certified with {other}; certify both with the same settings"
            )
        digest = hashlib.sha256((run.path / IMAGES).read_bytes()).hexdigest()
        if read_json(run.path / IDENTITY, "run its certify command again").get("images") != digest:
            raise UserError(f"{run.path / IMAGES}: is not that of {IDENTITY} beside it; certify this shard again")


def _stated(run: Run) -> dict[str, Any]:
    """What a summary says of how its votes were taken, by dotted name; not what differs from machine to machine."""
    summary = run.summary
    fields = {
        **summary.told,
        "methods": {name: {"sound": outcome.sound} for name, outcome in run.outcomes.items()},
        "classes": summary.classes,
        "ckpt": (summary.checkpoint or {}).get("sha256"),
    }
    left_out = ("dataset.root", "dataset.num_workers", "dataset.download", "monte_carlo.stopped_for")
    return {key: value for key, value in leaves(fields) if not key.startswith(left_out)}


def _images(shards: Sequence[Run]) -> Images:
    """The images of all shards together.

    Raises:
        UserError: they are not shares of the same ones.
    """
    found = [Images.read(run.path / IMAGES) for run in shards]
    digests: dict[int, str] = {}
    for run, images in zip(shards, found, strict=True):
        if images.names != found[0].names:
            raise UserError(
                f"{run.path}: its images are not those of {shards[0].path}: {found[0].difference(images)}; certify "
                "both with the same images"
            )
        twice = digests.keys() & images.digests.keys()
        if twice or set(run.columns["index"].tolist()) != images.digests.keys():
            raise UserError(
                f"{run.path}: its images are not the share that shard={run.summary.shard} has; certify it again"
            )
        digests.update(images.digests)
    return Images(found[0].names, digests)


def _best_draws(shards: Sequence[Run]) -> Path | None:
    """The draws that certify would have kept: of the first image that is certified and correct, else the first."""
    held: list[tuple[bool, int, Path]] = []
    for run in shards:
        draws: Draws | None = run.draws
        if draws is None:
            continue
        row = int(np.flatnonzero(run.columns["index"] == draws.index)[0])
        shows = any(bool(run.robust(outcome)[row]) for outcome in run.outcomes.values() if outcome.h_min is not None)
        held.append((not shows, draws.index, run.path / FIGURE))
    return min(held)[2] if held else None


def _sums(invocations: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    if any(one is None for one in invocations):
        return None
    every = [one for one in invocations if one is not None]
    names = set.intersection(*(set(one) for one in every))
    return {
        name: sum(one[name] for one in every) for name in sorted(names) if all(one[name] is not None for one in every)
    }
