"""Puts the report of a run together: tables, pictures and report.html in one directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from glsmooth.bounds import METHODS, Outcome
from glsmooth.family.regions import Ball, Box, Points, Region
from glsmooth.family.resolvability import holds
from glsmooth.family.sizes import multiplicative
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.report import figures, html, radii, sweeps, tables, wording
from glsmooth.report.defaults import defaults
from glsmooth.report.formats import write_tables
from glsmooth.report.tables import primary
from glsmooth.runs.files import write_bytes, write_text
from glsmooth.runs.run import Run, load_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

# Time for the bounds behind two pictures. Slow bounds are drawn at fewer regions, never less exactly.
CURVE_SECONDS = 6.0
PLANE_SECONDS = 6.0
LISTED_IMAGES = 500  # rows of the list of images in report.html; records.csv always has all
GALLERY = 12  # images in each half of the gallery


@dataclass
class Drawn:
    """What a report shows, for whoever shows it elsewhere, too: bounds that took seconds are not computed again.

    Attributes:
        run: whose report it is; None before it is written.
        pictures: the files by name.
        curves: CRA against the size of the region, a series for each sound method.
        plane: CRA at every point of the plane, by the headline's method.
    """

    run: Run | None = None
    pictures: dict[str, Path] = field(default_factory=dict)
    curves: list[figures.Series] = field(default_factory=list)
    plane: sweeps.Plane | None = None


def write_report(
    run_dir: str | Path,
    transform_target: str | None = None,
    family: SmoothedFamily | None = None,
    dataset_root: str | None = None,
    drawn: Drawn | None = None,
    test_images: Callable[[int], NDArray[np.floating]] | None = None,
    law_targets: Collection[str] = (),
    dataset_target: str | None = None,
) -> Path:
    """Write table.md, .csv, .json and .tex, report.html and the pictures of a finished certify run into its directory.

    Reads records.csv, summary.json and, for the diagram of one image, figure1.npz; needs no model and no GPU.

    Args:
        transform_target, family, dataset_root, test_images, law_targets, dataset_target: as
            :func:`glsmooth.runs.run.load_run` has them.
        drawn: takes what the report shows.

    Returns:
        The path of report.html.

    Raises:
        UserError: the directory, a file or a value in it is missing, unreadable or of another run; a transformation
            that is neither built in nor ``transform_target``.
    """
    run = load_run(
        run_dir,
        transform_target=transform_target,
        family=family,
        dataset_root=dataset_root,
        test_images=test_images,
        law_targets=law_targets,
        dataset_target=dataset_target,
    )
    return write_run_report(run, run.path, run.region, run.outcomes, drawn=drawn)


def write_run_report(
    run: Run,
    out: Path,
    region: Region,
    outcomes: Mapping[str, Outcome],
    note: str = "",
    drawn: Drawn | None = None,
    found: radii.Radii | None = None,
) -> Path:
    """The same for any region and methods, written to ``out``; ``note`` follows the headline.

    With radii, ``found``, radii.csv is written, too.
    """
    out.mkdir(parents=True, exist_ok=True)
    more = "" if found is None else radii.section(run, found)
    write_text(out / "table.md", tables.run_table(run, region, outcomes, note, more))
    if found is not None:
        write_text(out / "radii.csv", radii.radii_csv(run, found))
    write_tables(out, tables.run_latex(run, region, outcomes, note), *tables.every_method(run, region, outcomes))
    log.info("report: pictures of %d images under %s", run.images, out)
    drawn = Drawn() if drawn is None else drawn
    drawn.run = run
    drawn.curves, drawn.plane = _curves(run, region, outcomes), _accuracy_plane(run, region, outcomes)

    def picture(title: str, name: str, picture: html.Picture | None) -> list[str]:
        if picture is None:
            return []
        drawn.pictures[name] = out / f"{name}.png"
        return [html.section(title, html.figure(picture))]

    sections = [
        # What was certified.
        _result(run, region, outcomes),
        *picture(
            "Certified robust accuracy against the size of the region",
            "cra_region",
            _region_curve(run, region, drawn.curves, out),
        ),
        *picture(
            "Certified robust accuracy at every point of the plane",
            "cra_plane",
            _plane(run, outcomes, drawn.plane, out),
        ),
        *picture("Some of the images", "gallery", _gallery(run, outcomes, out)),
        *([] if found is None else [_radii(run, found)]),
        # How sure that is.
        *picture("How far the images are from the threshold", "threshold", _threshold(run, outcomes, out)),
        html.section("What the certificate assumes", html.bullets(tables.assumptions(run, outcomes))),
        # How it was done.
        *picture("What was done to one image", "procedure", _procedure(run, outcomes, out)),
        html.section("Settings", html.pairs(tables.settings(run, region, outcomes))),
        html.section("Every image", _images(run, outcomes)),
        html.section("This run", html.pairs(tables.provenance(run))),
    ]
    title = f"Certified robustness: {run.family.name} on {run.name}"
    file = out / "report.html"
    write_text(file, html.page(title, tables.headline(run, region, outcomes), note, sections))
    log.info("report: wrote %s", file)
    return file


def recertified_note(run: Run, region: Region, outcomes: Mapping[str, Outcome]) -> str:
    """What a reader must know about votes that decide another region or method than certify's own, or "".

    Fixed-n votes do not know the region. Sequential and exhaustive ones stop as soon as theirs is decided.
    """
    if region.to_config() == run.region.to_config() and outcomes.keys() <= run.outcomes.keys():
        return ""
    if not run.stops_early:
        return (
            f"{run.label}: decided again from the stored votes, without a forward pass. An "
            "image's p_A does not depend on region or method, so its one error probability covers all "
            "regions together."
        )
    drawn_for = ", ".join(
        f"{wording.ceil(d.h_min, 5)} ({wording.title(d)})" for d in _sound(run.outcomes).values() if d.h_min is not None
    )
    return (
        f"{run.label}: the votes were stopped early, for h_min = {drawn_for} of the region "
        f"{wording.region(run.region)}. They decide another region or method only through their "
        + (
            "p_A, for which every shift that was not visited counts against the class; with all shifts it could be "
            "higher."
            if run.exhaustive
            else "p_A, which holds at every stopping time but can be lower than a fixed number of votes would give."
        )
    )


def save_picture(
    draw: Callable[[figures.Theme], Figure], out: Path, name: str, words: str, caption: str
) -> html.Picture:
    """Save NAME.svg and NAME.png under ``out`` and return the picture in both themes for the page."""
    with defaults():
        light = draw(figures.LIGHT)
        write_bytes(out / f"{name}.png", figures.rendered(light, "png"))
        images = [figures.rendered(light, "svg"), figures.rendered(draw(figures.DARK), "svg")]
    write_bytes(out / f"{name}.svg", images[0])
    return html.Picture(images[0], images[1], words, caption)


def _result(run: Run, region: Region, outcomes: Mapping[str, Outcome]) -> str:
    checked = tables.verified_note(run, region)
    flagged = [i for i, d in enumerate(outcomes.values()) if not d.sound]
    return html.section(
        "Result",
        html.table(tables.METHOD_HEADER, tables.method_rows(run, outcomes), (1, 2, 3, 4), flagged),
        html.bullets(tables.method_notes(run, outcomes), small=True),
        "" if checked is None else html.paragraph(checked),
        html.paragraph(
            "An image is certified when the lower bound p_A of its class probability is above h_min, the "
            "probability that the method requires for this transformation, these smoothing laws and this "
            "region. CRA, certified robust accuracy, is the share of the images certified in their true "
            "class.",
            small=True,
        ),
        html.table(("without transformation", "images", "share"), tables.accuracy_rows(run), (1, 2)),
    )


def _radii(run: Run, found: radii.Radii) -> str:
    rows = radii.radius_rows(run, found)
    return html.section(
        "Radius of each image" + (f", by {METHODS[found.method].title}" if found.method else ""),
        html.table(radii.RADIUS_HEADER, rows, range(2, len(radii.RADIUS_HEADER))) if rows else "",
        html.bullets(radii.radius_notes(run, found), small=True),
    )


def _sound(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    return {name: d for name, d in outcomes.items() if d.sound and d.h_min is not None}


def _curves(run: Run, region: Region, outcomes: Mapping[str, Outcome]) -> list[figures.Series]:
    """CRA of each sound method over regions of many sizes; a list of points has no size."""
    sound = _sound(outcomes)
    series: list[figures.Series] = []
    if not sound or not isinstance(region, (Box, Ball)) or run.family.warps:
        return series  # votes at references tell of their own interval alone
    with _progress("CRA against region size", len(sound) * len(sweeps.SIZES)) as tick:
        for name, outcome in sound.items():
            sizes, cra = sweeps.region_curve(
                run.family,
                region,
                name,
                run.p_lower,
                run.correct,
                h_min=outcome.h_min or 1.0,
                seconds=CURVE_SECONDS / len(sound),
                tick=tick,
                images=run.example,
            )
            # A few values are points; a line between them would claim what was not computed.
            line = len(sizes) >= len(sweeps.SIZES) // 2
            series.append(figures.Series(name, wording.title(outcome), sizes.tolist(), cra.tolist(), line))
    return series


def _region_curve(run: Run, region: Region, series: Sequence[figures.Series], out: Path) -> html.Picture | None:
    if not series:
        return None
    smoothed = float(np.mean(run.correct))
    names = region.parameters if isinstance(region, Box) else ()
    powers = [wording.parameter(name) for name in names if multiplicative(run.family.transform, name)]
    caption = (
        f"The region {wording.region(region)} scaled around the identity. Every point is a "
        "certificate for a whole region, from the same votes."
    )
    if powers:
        caption += f" For {wording.join(powers)} the ends are raised to the power of the size."
    caption += _stopped(run)
    ends = ", ".join(f"{one.title} {wording.floor(min(one.cra), 3)} at {max(one.sizes):g}" for one in series)
    words = f"Line chart: CRA falls as the region grows; {ends}."
    return save_picture(lambda theme: figures.region_curve(theme, series, smoothed), out, "cra_region", words, caption)


def _stopped(run: Run) -> str:
    if not run.stops_early:
        return ""
    return " Votes stopped once the region of this run was decided, so more votes could certify more beyond it."


def _accuracy_plane(run: Run, region: Region, outcomes: Mapping[str, Outcome]) -> sweeps.Plane | None:
    """CRA at every single point of a two-parameter plane, by the headline's method."""
    best = primary(outcomes)
    if best is None or run.family.warps:
        return None
    axes = sweeps.affordable_axes(run.family, region, best.method, PLANE_SECONDS)
    if axes is None:
        return None
    everywhere = Box(**{axis.name: (float(axis.nodes[0]), float(axis.nodes[-1])) for axis in axes})
    if not holds(run.family, everywhere, run.example):
        return None  # beyond its region a user's transformation is not what it says
    with _progress("CRA over the plane", axes[0].nodes.size * axes[1].nodes.size) as tick:
        needed = sweeps.required_probability_plane(run.family, region, axes, best.method, tick)
    cra = sweeps.robust_accuracy(run.p_lower, run.correct, needed.values)
    return replace(needed, values=cra)


def _plane(run: Run, outcomes: Mapping[str, Outcome], plane: sweeps.Plane | None, out: Path) -> html.Picture | None:
    best = primary(outcomes)
    if best is None or plane is None:
        return None
    caption = (
        "The colour at a point is the share of the images that are correct and certified at that single "
        f"transformation, by {wording.title(best)}. {_outline(plane.region)}; the cross is the untransformed image."
        + _stopped(run)
    )
    names = wording.join(wording.parameter(axis.name) for axis in (plane.x, plane.y))
    words = f"Heat map of CRA over {names}."
    return save_picture(
        lambda theme: figures.accuracy_plane(theme, plane, wording.title(best)), out, "cra_plane", words, caption
    )


def _outline(region: Region) -> str:
    """What of a picture is the region."""
    if isinstance(region, Points):
        return "The squares are the points of the headline, at all of which an image must hold at once"
    shape = "circle" if isinstance(region, Ball) else "box"
    return f"The {shape} is the region of the headline, which must hold everywhere inside at once"


def _threshold(run: Run, outcomes: Mapping[str, Outcome], out: Path) -> html.Picture | None:
    sound = _sound(outcomes)
    if not sound:
        return None
    h_min = {name: d.h_min for name, d in sound.items() if d.h_min is not None}
    titles = {name: wording.title(d) for name, d in sound.items()}
    caption = (
        "The share of the images that are in their true class with p_A above the horizontal value. Where a "
        "vertical line meets the curve, its height is the CRA of that method."
    )
    if run.stops_early:
        caption += " Votes stopped once an image was decided, so p_A piles up just above the h_min of this run."
    return save_picture(
        lambda theme: figures.threshold_curve(theme, run.p_lower, run.correct, h_min, titles),
        out,
        "threshold",
        "Falling curve of the share of images against the required probability.",
        caption,
    )


def _procedure(run: Run, outcomes: Mapping[str, Outcome], out: Path) -> html.Picture | None:
    """The diagram of one image, from the draws that certify left for one image of the run."""
    best, draws = primary(outcomes), run.draws
    if best is None or best.h_min is None or draws is None:
        return None
    row = int(np.flatnonzero(run.columns["index"] == draws.index)[0])
    prediction = int(run.columns["prediction"][row])

    def class_name(label: int) -> str:
        return wording.caption(run.class_name(label), 16)

    what = figures.Procedure(
        image=draws.image,
        transformed=draws.transformed,
        captions=[_caption(run, theta) for theta in draws.theta],
        votes=[class_name(int(vote)) if vote >= 0 else "abstains" for vote in draws.votes],
        agree=[int(vote) == prediction for vote in draws.votes],
        selected=class_name(prediction),
        label=class_name(int(run.columns["label"][row])),
        count=int(run.columns["count"][row]),
        n=int(run.columns["n"][row]),
        p_lower=float(run.p_lower[row]),
        h_min=best.h_min,
        method=wording.title(best),
        source=_source(run),
        drawn=not run.exhaustive,
    )
    verdict = "certified" if best.certifies(what.p_lower) else "not certified"
    caption = (
        f"Image {draws.index} of the {run.split} split. Pixels are clipped to [0, 1] for the eye only; "
        f"the classifier sees the unclipped values. {what.count} of {what.n} votes give p_A = "
        f"{wording.floor(what.p_lower, 4)} against h_min = {wording.ceil(what.h_min, 4)}: {verdict}."
    )
    words = f"One image, {len(what.votes)} transformed copies with their votes, the count; {verdict}."
    return save_picture(lambda theme: figures.procedure(theme, what), out, "procedure", words, caption)


def _source(run: Run) -> str:
    """What p_A is, in two words, with its error probability."""
    if run.exhaustive:
        return "probability of the shifts that voted for it"
    name = "anytime-valid bound" if run.stops_early else "Clopper–Pearson"
    name = f"randomised {name}" if run.randomised else name
    return f"{name}, α = {wording.probability(run.alpha)}"


def _caption(run: Run, theta: NDArray[np.floating]) -> str:
    """The drawn parameters of one copy, two on a line; whole pixels where the action rounds to them."""
    words = []
    for name, value in zip(run.family.parameters, theta.tolist(), strict=True):
        whole = name in run.family.transform.integer_parameters
        words.append(f"{wording.literal(wording.SYMBOLS.get(name, name))} {round(value) if whole else f'{value:.2g}'}")
    return "\n".join(", ".join(words[i : i + 2]) for i in range(0, len(words), 2)).replace("-", "−")


def _gallery(run: Run, outcomes: Mapping[str, Outcome], out: Path) -> html.Picture | None:
    """The first images of each verdict by index: not picked by eye."""
    best = primary(outcomes)
    images = _split_images(run)
    if best is None or images is None:
        return None
    robust = run.robust(best)

    def entries(rows: NDArray[np.int64]) -> list[tuple[NDArray[np.floating], str]]:
        chosen = []
        for row in rows[:GALLERY]:
            label, prediction = run.columns["label"][row], run.columns["prediction"][row]
            caption = wording.caption(run.class_name(int(label)), 14)
            if label != prediction:
                caption += f"\n→ {wording.caption(run.class_name(int(prediction)), 12)}"
            chosen.append(
                (
                    images(int(run.columns["index"][row])),
                    f"{caption}\n{figures.P_A} {wording.floor(run.p_lower[row], 3)}",
                )
            )
        return chosen

    certified, others = entries(np.flatnonzero(robust)), entries(np.flatnonzero(~robust))
    caption = (
        f"The first {GALLERY} images of each kind in the order of the {run.split} split, with the true class (and, "
        "after an arrow, the selected one where it differs) and p_A. The threshold is h_min = "
        f"{wording.ceil(best.h_min or 1.0, 4)}."
    )
    words = f"{len(certified)} certified and {len(others)} other {run.called}."
    return save_picture(lambda theme: figures.gallery(theme, certified, others), out, "gallery", words, caption)


def _split_images(run: Run) -> Callable[[int], NDArray[np.floating]] | None:
    """The split's images by index; None where they are not on this machine, or not for a stranger's file to name."""
    from glsmooth.learning.data import NAMES, load_dataset

    if run.test_images is not None:
        return run.test_images
    if run.summary.dataset.get("name") not in (None, *NAMES):
        log.info("report: no gallery, %s are images that were given in Python", run.name)
        return None
    dataset = run.readable_dataset
    if dataset is None:
        if run.summary.dataset.get("_target_") is not None:
            target = run.summary.dataset["_target_"]
            log.warning("report: no gallery: type dataset._target_=%s where the run was made to have it", target)
            return None
        log.warning(
            "report: no gallery: this machine did not write %s, which says that its images are in %s; type "
            "dataset.root=DIR to have them",
            run.path,
            run.summary.dataset["root"],
        )
        return None
    last = int(run.columns["index"].argmax())
    try:
        # Some two dozen of perhaps all of ImageNet.
        images = load_dataset(dataset, in_memory=False).to_certify(run.split)
        label = images[int(run.columns["index"][last])][1]
    except (ValueError, OSError, IndexError) as error:
        log.warning("report: no gallery, the images of %s cannot be read: %s", run.name, error)
        return None
    if label != run.columns["label"][last]:
        log.warning("report: no gallery, %s is not the data that was certified", run.name)
        return None
    return lambda index: np.asarray(images[index][0])


def _images(run: Run, outcomes: Mapping[str, Outcome]) -> str:
    best = primary(outcomes)
    certified = np.zeros(run.images, dtype=bool) if best is None else best.certifies(run.p_lower)
    columns = run.columns
    rows = [
        (
            str(columns["index"][i]),
            run.class_name(int(columns["label"][i])),
            run.class_name(int(columns["prediction"][i])),
            f"{columns['count'][i]} of {columns['n'][i]}",
            wording.floor(run.p_lower[i], 4),
            ("yes" if run.correct[i] else "yes, in a wrong class") if certified[i] else "no",
        )
        for i in range(min(run.images, LISTED_IMAGES))
    ]
    header = ("index", "true class", "selected class", "votes", "p_A", "certified")
    listing = html.details(f"The first {len(rows)} of {run.images} images", html.table(header, rows, (0, 3, 4)))
    return listing + html.paragraph("All of them, with every method, are in records.csv.", small=True)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], object]]:
    """A progress bar on standard error where that is a terminal; yields the function that advances it."""
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit="bound", leave=False, disable=None) as bar:
        yield bar.update
