"""The results of a certification at W&B: numbers of the summary, tables, curves and pictures.

A method that is not sound certifies nothing there, either: what it would have claimed has names of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from glsmooth.learning.wandb_log import Session, grid
from glsmooth.report import wording
from glsmooth.report.page import Drawn
from glsmooth.runs.run import Run

__all__ = ["LISTED_IMAGES", "log_results"]

#: Rows of the table of images; records.csv always has all.
LISTED_IMAGES = 200


def log_results(logged: Session, drawn: Drawn, image: Callable[[int], Tensor]) -> None:
    """Send what a report shows.

    Args:
        logged: the command's session.
        drawn: of :func:`glsmooth.report.page.write_report`.
        image: the image (C, H, W) of an index in the records.
    """
    run = drawn.run
    if logged.run is None or run is None:
        return
    logged.summarise(_numbers(run))
    with logged.going_on():
        import wandb

        columns, rows = _methods(run)
        logged.log({"tables/methods": wandb.Table(columns=columns, data=rows)})
        if drawn.curves:
            logged.log({"curves/cra_region": _curves(wandb, drawn)})
        if drawn.plane is not None:
            logged.log({"tables/cra_plane": wandb.Table(**_plane(drawn))})
        logged.log({f"pictures/{name}": wandb.Image(str(path)) for name, path in drawn.pictures.items()})
        columns, rows = _images(run)
        for row in rows:
            row[1] = wandb.Image(grid([image(row[0])[None]]))
        logged.log({"tables/images": wandb.Table(columns=columns, data=rows)})


def _numbers(run: Run) -> dict[str, float]:
    """Numbers of the summary. Methods without a statement about the region have none."""
    counts = run.summary.to_json()
    names = ("base_accuracy", "smoothed_accuracy", "abstained", "given_up", "votes_used", "votes_per_image")
    numbers = {name: counts[name] for name in (*names, "near_ties", "seconds_per_image") if counts[name] is not None}
    for method, outcome in run.outcomes.items():
        if outcome.h_min is None:
            continue
        if outcome.sound:
            numbers[f"cra/{method}"] = float(run.robust(outcome).mean())
            numbers[f"h_min/{method}"] = outcome.h_min
        else:
            numbers[f"unsound/{method}"] = _claimed(run, outcome)
    return numbers


def _claimed(run: Run, outcome: Any) -> float:
    """What a method would have certified, were it sound."""
    return float((outcome.claims(run.p_lower) & run.correct).mean())


def _methods(run: Run) -> tuple[list[str | int], list[list[Any]]]:
    """Columns and rows of the table of methods; ``CRA`` is of sound ones only."""
    columns: list[str | int] = [
        "method",
        "standing",
        "h_min",
        "CRA",
        "would claim, unsound",
        "failure probability",
        "why",
    ]
    rows: list[list[Any]] = []
    for outcome in run.outcomes.values():
        row: list[Any] = [wording.title(outcome), "does not apply", None, None, None, None, outcome.argument]
        if outcome.h_min is not None:
            row[1:3], row[5] = [wording.standing(outcome), outcome.h_min], outcome.failure_probability
            row[3 if outcome.sound else 4] = (
                float(run.robust(outcome).mean()) if outcome.sound else _claimed(run, outcome)
            )
        rows.append(row)
    return columns, rows


def _curves(wandb: Any, drawn: Drawn) -> Any:
    return wandb.plot.line_series(
        xs=[list(one.sizes) for one in drawn.curves],
        ys=[list(one.cra) for one in drawn.curves],
        keys=[one.title for one in drawn.curves],
        title="CRA against the size of the region",
        xname="size of the region; 1: as certified",
    )


def _plane(drawn: Drawn) -> dict[str, Any]:
    assert drawn.plane is not None
    x, y, values = drawn.plane.x, drawn.plane.y, drawn.plane.values
    points = [
        [float(one), float(other), float(values[j, i])]
        for j, other in enumerate(y.nodes)
        for i, one in enumerate(x.nodes)
    ]
    return {"columns": [x.name, y.name, "CRA"], "data": points}


def _images(run: Run) -> tuple[list[str | int], list[list[Any]]]:
    """Columns and the first rows of the table of images, without their pictures."""
    sound = {name: outcome for name, outcome in run.outcomes.items() if outcome.sound and outcome.h_min is not None}
    columns: list[str | int] = ["index", "image", "label", "prediction", "p_A", *sound]
    rows: list[list[Any]] = []
    for i in range(min(run.images, LISTED_IMAGES)):
        verdicts = []
        for outcome in sound.values():
            certified = bool(outcome.certifies(run.p_lower[i]))
            verdicts.append(("certified" if run.correct[i] else "certified in a wrong class") if certified else "no")
        label, prediction = (run.class_name(int(run.columns[key][i])) for key in ("label", "prediction"))
        rows.append([int(run.columns["index"][i]), None, label, prediction, float(run.p_lower[i]), *verdicts])
    return columns, rows
