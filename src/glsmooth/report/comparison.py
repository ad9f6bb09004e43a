"""The comparison of several results: what was swept, against what came out, as tables, a picture and report.html."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glsmooth import bounds
from glsmooth.bounds import METHODS
from glsmooth.configuration.fields import cut
from glsmooth.errors import visible
from glsmooth.report import comparison_figures as pictures
from glsmooth.report import html, tables, wording
from glsmooth.report.comparison_figures import Cell, Curve, Dot
from glsmooth.report.differences import SEEDS, Axis, Best, Comparison, Result, Setting, Tally, compare, sound
from glsmooth.report.formats import write_tables
from glsmooth.report.page import recertified_note, save_picture
from glsmooth.runs.attacks import Era
from glsmooth.runs.failures import Failure
from glsmooth.runs.files import write_text
from glsmooth.runs.run import Run

__all__ = ["write_comparison"]

log = logging.getLogger(__name__)

#: What a table or a picture has room for; table.csv always has all.
_COLUMNS, _LINES, _DRAWN, _LISTED, _NAMES = 12, 6, 40, 500, 3
#: Characters of a text of somebody else's in a table of failures.
_TEXT = 300


def write_comparison(
    results: Sequence[Result],
    out: Path,
    failures: Sequence[Failure] = (),
    eras: Sequence[Era | None] | None = None,
) -> str:
    """Write table.md, .csv, .json and .tex, report.html and comparison.svg/png of several results to ``out``.

    Args:
        results: runs with a region and what the bounds say of it; a run may occur with several regions.
        failures: jobs of the same sweep without a result.
        eras: empirical robust accuracy of each result; None where it was not attacked.

    Returns:
        The content of table.md.
    """
    out.mkdir(parents=True, exist_ok=True)
    comparison = compare(results, eras)
    bests = comparison.best()
    headline = _headline(comparison, bests)
    common, trained = _common(comparison)
    header, rows, strong, numeric_from = _table(comparison, bests)
    notes = _notes(comparison)
    sure = _sure(comparison, bests)
    said = "; ".join(f"{what}: {value}" for what, value in common)

    parts = [tables.escaped(headline) + "\n"]
    if said:
        parts.append(f"All runs: {tables.escaped(said)}.\n")
    parts.append(tables.markdown(header, rows, numeric_from, strong))
    if notes:
        parts.append(tables.bullets(notes))
    parts.append("How sure:\n")
    parts.append(tables.bullets(sure))
    if failures:
        parts.append("Jobs without a result:\n")
        parts.append(tables.markdown(_FAILED, _failed(failures), numeric_from=len(_FAILED)))
    table = "\n".join(parts)
    write_text(out / "table.md", table)
    above = f"All runs: {said}." if said else ""
    tex = tables.latex_file(above, tables.latex(header, rows, numeric_from, strong))
    write_tables(out, tex, *_every_run(comparison))

    picture = _picture(comparison, bests, out)
    sections = [
        html.section(
            "Result",
            html.figure(picture),
            html.table(header, rows, range(numeric_from, len(header)), strong=strong),
            html.bullets(notes, small=True),
        ),
        html.section("How sure", html.bullets(sure)),
        html.section("How it was done", html.pairs([*common, *trained])),
        html.section("Every run", _listing(comparison)),
    ]
    if failures:
        listed = html.table(_FAILED, _failed(failures))
        sections.insert(1, html.section("Jobs without a result", listed))
    write_text(out / "report.html", html.page("Certified robustness: comparison", headline, "", sections, wide=True))
    log.info("report: wrote %s", out / "report.html")
    return table


# What came out, in words


def _headline(comparison: Comparison, bests: Sequence[Best]) -> str:
    """The best setting with its region and numbers; where none is comparable with another, what was compared."""
    method, settings = comparison.method, comparison.settings
    count = f"{len(comparison.results)} results" if _recertified(comparison) else f"{len(comparison.results)} runs"
    if method is None:
        return f"{count} compared. No sound method applies: no image is certified in any of them."
    if len(bests) == 1:
        return _best_sentence(comparison, bests[0])
    if bests:
        told = []
        for best in bests[:_NAMES]:
            first = settings[best.winners[0]]
            tally = _tally(comparison, first)
            told.append(f"{_named(comparison, best, best.winners)} with {tally.words()} {_where(comparison, first)}")
        rest = f", and {len(bests) - _NAMES} more in the table" if len(bests) > _NAMES else ""
        errors = [(run.alpha, d.failure_probability) for run, _, ds in comparison.results if (d := sound(ds, method))]
        error = wording.error(*max(errors, key=sum))
        return f"Best settings by CRA ({METHODS[method].title}), {error}: {'; '.join(told)}{rest}."
    tallies = {i: t for i, setting in enumerate(settings) if (t := comparison.cra(setting, method)) is not None}
    if len(tallies) == 1:
        (only,) = tallies
        others = f" {len(settings) - 1} other settings have no sound certificate." if len(settings) > 1 else ""
        return f"{_claim(comparison, settings[only], tallies[only])}{others}"
    ends = [choose(tallies, key=lambda i: tallies[i].mean) for choose in (min, max)]
    least, most = (f"{_mean(tallies[i])} {_where(comparison, settings[i])}" for i in ends)
    alike = tallies[ends[0]].mean == tallies[ends[1]].mean
    cra = f"{_mean(tallies[ends[0]])} in each of them" if alike else f"from {least} to {most}"
    return (
        f"{count} compared: CRA by {METHODS[method].title} is {cra}. None is marked as the best, "
        f"for each setting has its own {_apart(comparison)}."
    )


def _apart(comparison: Comparison) -> str:
    """What makes settings answer different questions, in words."""
    names = [key.name for axis in comparison.axes for key in axis.keys]
    parts = (("images", "images"), ("transform.", "transformation"), ("region", "region"), ("monte_carlo.alpha", "α"))
    return wording.join(words for prefix, words in parts if any(name.startswith(prefix) for name in names))


def _best_sentence(comparison: Comparison, best: Best) -> str:
    first = comparison.settings[best.winners[0]]
    tally = _tally(comparison, first)
    if not any(tally.counts):
        return (
            f"None of the {best.rivals} settings certifies any of the {tally.images} {comparison.called} in its true "
            f"class {_where(comparison, first)}."
        )
    which = _named(comparison, best, best.winners)
    if len(best.winners) > 1:
        every = "all tie" if len(best.winners) == best.rivals else f"{which} tie as the best"
        return f"Of {best.rivals} settings {every}. {_claim(comparison, first, tally)}"
    noise = " The next is within the noise." if best.noise else ""
    return f"Best of {best.rivals} settings: {which}. {_claim(comparison, first, tally)}{noise}"


def _claim(comparison: Comparison, setting: Setting, tally: Tally) -> str:
    """The result of one setting, with its error probability."""
    run, _, outcomes = comparison.results[setting.members[0]]
    assert comparison.method is not None
    outcome = outcomes[comparison.method]
    error = wording.error(run.alpha, outcome.failure_probability)
    where = _where(comparison, setting)
    if len(tally.counts) == 1:
        share = f"{tally.counts[0]} ({tally.words()})"
        return f"Of {tally.images} {comparison.called}, {share} provably keep their correct class {where}, {error}."
    least, most = (wording.percent(end, tally.images) for end in (min(tally.counts), max(tally.counts)))
    return (
        f"Of {tally.images} {comparison.called}, {_mean(tally)} on average over {len(tally.counts)} seeds "
        f"({least} to {most}) provably keep their correct class {where}, {error}."
    )


def _mean(tally: Tally) -> str:
    return wording.percent(sum(tally.counts), len(tally.counts) * tally.images)


def _tally(comparison: Comparison, setting: Setting) -> Tally:
    assert comparison.method is not None
    tally = comparison.cra(setting, comparison.method)
    assert tally is not None
    return tally


def _where(comparison: Comparison, setting: Setting) -> str:
    _, region, _ = comparison.results[setting.members[0]]
    return f"under {wording.every(region)}"


def _named(comparison: Comparison, best: Best, positions: Sequence[int]) -> str:
    """Settings by what tells them from their rivals."""
    rivals = [setting for setting in comparison.settings if setting.question == best.question]
    telling = [n for n in range(len(comparison.axes)) if len({setting.levels[n] for setting in rivals}) > 1]
    words = []
    for position in positions[:_NAMES]:
        levels = comparison.settings[position].levels
        words.append(
            ", ".join(
                f"{cut(comparison.axes[n].name)} = {comparison.axes[n].words[levels[n]]}" for n in telling[:_NAMES]
            )
        )
    if len(positions) > _NAMES:
        words.append(f"{len(positions) - _NAMES} more")
    return " and ".join(words)


def _sure(comparison: Comparison, bests: Sequence[Best]) -> list[str]:
    """How sure the numbers and the choice of the best are, a sentence each."""
    images = sorted({run.images for run, _, _ in comparison.results})
    counts = wording.join(map(str, images)) if len(images) <= _NAMES else f"{images[0]} to {images[-1]}"
    sentences = [f"CRA and accuracies are shares of {counts} {comparison.called}."]
    if comparison.seeds:
        names = wording.join(key.name for key in comparison.seeds)
        sentences.append(
            f"Runs that differ in {names} only are averaged; brackets hold the least and the largest of them."
        )
    if any(comparison.eras):
        sentences.append(
            "ERA, empirical robust accuracy, is the share of the attacked images, whose number is in brackets, that "
            "are right and for which no parameter was found at which the smoothed classifier is wrong. It is an upper "
            "estimate, of fewer images than CRA where the attack took some of them; a better attack may find more."
        )
    for best in bests[:_NAMES]:
        sentences += _margin(comparison, best, len(bests) > 1)
    if bests:
        sentences.append(
            "The best setting was chosen by these images, so on other images its CRA can be expected to be a little "
            "lower. Every certificate holds as it is."
        )
    assumed = [tables.assumptions(run, outcomes) for run, _, outcomes in comparison.results]
    for sentence in dict.fromkeys(itertools.chain.from_iterable(assumed)):
        if all(sentence in each for each in assumed):
            sentences.append(sentence)
        else:
            which = [run for (run, _, _), each in zip(comparison.results, assumed, strict=True) if sentence in each]
            sentences.append(f"{_labels(which)}: {sentence}")
    return sentences


def _margin(comparison: Comparison, best: Best, several: bool) -> list[str]:
    """How far the best is from the next, in plain words."""
    first = comparison.settings[best.winners[0]]
    tally = _tally(comparison, first)
    where = f" {_where(comparison, first)}" if several else ""
    sentences = []
    if len(best.winners) > 1:
        sentences.append(f"{_named(comparison, best, best.winners)} have the same CRA{where}, and all are marked.")
    if best.next is None:
        return sentences
    ahead, error = wording.floor(100 * best.difference, 1), wording.ceil(100 * best.error, 1)
    sentence = (
        f"{_named(comparison, best, best.winners[:1])} is {ahead} percentage points ahead of the next, "
        f"{_named(comparison, best, [best.next])}{where}; on the same {tally.images} images chance alone makes "
        f"differences of about {error} (one standard error)."
    )
    if best.noise:
        sentence += " The mark is within the noise: more images or seeds could move it."
    return [*sentences, sentence]


def _notes(comparison: Comparison) -> list[str]:
    """What a reader of the table must know, a sentence each."""
    notes = []
    for axis in comparison.axes:
        followers = [cut(key.name) for key in axis.keys[1:] if key.name not in ("images", "region")]
        if followers:
            more = f" and {len(followers) - _LINES} more" if len(followers) > _LINES else ""
            notes.append(f"Together with {cut(axis.name)} vary: {', '.join(followers[:_LINES])}{more} (table.csv).")
    hidden = len(comparison.axes) - _COLUMNS
    if hidden > 0:
        notes.append(f"{hidden} more keys vary; table.csv has them all.")
    repeats = [comparison.results[i][0] for setting in comparison.settings for i in setting.repeats]
    if repeats:
        notes.append(
            f"{_labels(repeats)}: the settings and seeds of another run in the table, so not counted again in any mean."
        )
    incomplete = [
        comparison.results[setting.members[0]][0]
        for setting in comparison.settings
        if comparison.method is not None
        and comparison.cra(setting, comparison.method) is None
        and any(sound(comparison.results[i][2], comparison.method) for i in setting.members)
    ]
    if incomplete:
        notes.append(f"{_labels(incomplete)}: no mean CRA, for not every run of the setting has a sound certificate.")
    again: dict[str, list[Run]] = {}
    for run, region, outcomes in comparison.results:
        note = recertified_note(run, region, outcomes).removeprefix(f"{run.label}: ")
        if note:
            again.setdefault(note, []).append(run)
    return [*notes, *(f"{_labels(runs)}: {note}" for note, runs in again.items())][:_LISTED]


def _labels(runs: Sequence[Run]) -> str:
    labels = list(dict.fromkeys(cut(run.label) for run in runs))
    more = f" and {len(labels) - _NAMES} more" if len(labels) > _NAMES else ""
    return ", ".join(labels[:_NAMES]) + more


def _recertified(comparison: Comparison) -> bool:
    return len({run.path for run, _, _ in comparison.results}) < len(comparison.results)


# Tables


def _table(
    comparison: Comparison, bests: Sequence[Best]
) -> tuple[list[str], list[list[str]], set[tuple[int, int]], int]:
    """Header, a row a setting, the cells of the best, and the first column of numbers: what varies, what came out."""
    columns = [axis for axis in comparison.axes if axis.name != "images"][:_COLUMNS]
    regions = any(key.name == "region" for axis in comparison.axes for key in axis.keys[1:])
    occurring = [name for name in bounds.METHODS if any(name in outcomes for _, _, outcomes in comparison.results)]
    methods = [name for name in occurring if bounds.METHODS[name].sound]
    unsound = [name for name in occurring if name not in methods]
    header = ["run", *(_title(axis.name) for axis in columns), *(["region"] if regions else [])]
    numeric_from = len(header)
    header += [f"CRA {wording.METHODS.get(name, name)} (h_min)" for name in methods]
    attacked = any(comparison.eras)
    header += ["ERA (images)"] if attacked else []
    header += ["smoothed", "base", "images"]
    header += [f"{wording.METHODS.get(name, name)}: unsound, not counted" for name in unsound]
    sets = _image_words(comparison)
    rows = []
    for setting in comparison.settings:
        _, region, _ = comparison.results[setting.members[0]]
        row = [_runs(comparison, setting)]
        row += [axis.words[setting.levels[comparison.axes.index(axis)]] for axis in columns]
        row += [wording.region(region)] if regions else []
        row += [_cell(comparison, setting, name) for name in methods]
        row += [_era(comparison.era(setting))] if attacked else []
        row += [comparison.smoothed(setting).words(), comparison.base(setting).words(), sets[setting.members[0]]]
        row += [_cell(comparison, setting, name) for name in unsound]
        rows.append(row)
    strong = set()
    if comparison.method in methods:
        column = numeric_from + methods.index(comparison.method)
        strong = {
            (i, column)
            for best in bests
            for i in best.winners
            if any(_tally(comparison, comparison.settings[i]).counts)
        }
    return header, rows, strong, numeric_from


def _title(name: str) -> str:
    """A key as the head of a column."""
    return "transformation" if name == "transform._target_" else cut(name)


def _runs(comparison: Comparison, setting: Setting) -> str:
    return _labels([comparison.results[i][0] for i in (*setting.members, *setting.repeats)])


def _image_words(comparison: Comparison) -> list[str]:
    for key in (*comparison.same, *(key for axis in comparison.axes for key in axis.keys)):
        if key.name == "images":
            return list(key.words)
    raise AssertionError("every result has images")


def _cell(comparison: Comparison, setting: Setting, method: str) -> str:
    found = [comparison.results[i][2].get(method) for i in setting.members]
    outcomes = [outcome for outcome in found if outcome is not None]
    if not outcomes:
        return "–"
    if all(outcome.h_min is None for outcome in outcomes):
        return "n/a"
    tally, h_min = comparison.cra(setting, method), comparison.h_min(setting, method)
    if tally is None or h_min is None:
        return next((wording.standing(outcome) for outcome in outcomes if not outcome.sound), "–")
    return f"{tally.words()} ({wording.ceil(h_min, 5)})"


def _era(tally: Tally | None) -> str:
    return "–" if tally is None else f"{tally.words()} ({tally.images})"


def _every_run(comparison: Comparison) -> tuple[list[str], list[list[Any]]]:
    """Every result on its own, with every key that varies, in full precision."""
    keys = [key for axis in comparison.axes for key in axis.keys if key.name not in ("images", "region")]
    keys += comparison.seeds
    sets = _image_words(comparison)
    regions = [tables.region_columns(region) for _, region, _ in comparison.results]
    varies = any(key.name == "region" for axis in comparison.axes for key in axis.keys)
    columns = list(dict.fromkeys(name for region in regions for name in region)) if varies else []
    header = ["run", *(key.name for key in keys)]
    header += columns
    header += ["image_set"] if any("set" in words for words in sets) else []
    header += ["images", "base_correct", "base_accuracy", "smoothed_correct", "smoothed_accuracy"]
    for name in comparison.methods:
        header += [f"certified_{name}", f"cra_{name}", f"h_min_{name}"]
    attacked = any(comparison.eras)
    header += ["attacked", "withstood", "era"] if attacked else []
    rows = []
    for i in _ordered(comparison):
        run, _, outcomes = comparison.results[i]
        row: list[Any] = [run.label, *(key.values[i] for key in keys)]
        row += [regions[i].get(name) for name in columns]
        row += [sets[i]] if "image_set" in header else []
        row.append(run.images)
        for column in ("base_prediction", "prediction"):
            correct = int(np.count_nonzero(run.columns[column] == run.columns["label"]))
            row += [correct, correct / run.images]
        for name in comparison.methods:
            outcome = sound(outcomes, name)
            if outcome is None:
                row += [None, None, None]
            else:
                robust = tables.robust_count(run, outcome)
                row += [robust, robust / run.images, outcome.h_min]
        if attacked:
            era = comparison.eras[i]
            row += [None, None, None] if era is None else [era.images, era.robust, era.robust / era.images]
        rows.append(row)
    return header, rows


def _ordered(comparison: Comparison) -> list[int]:
    """Positions of the results in the order of the settings."""
    return [i for setting in comparison.settings for i in sorted((*setting.members, *setting.repeats))]


_FAILED = ("job", "state", "reason", "log")


def _failed(failures: Sequence[Failure]) -> list[list[str]]:
    def words(text: str) -> str:
        text = visible(text[: _TEXT + 1])
        return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"

    rows = [
        [words(text) for text in (failure.job, failure.state, failure.reason, failure.log)]
        for failure in failures[:_LISTED]
    ]
    if len(failures) > _LISTED:
        rows.append([f"{len(failures) - _LISTED} more", "", "", ""])
    return rows


#: The rows of settings in words, and the keys that they are made of.
_GROUPS = {
    "transformation": "transform.",
    "smoothing laws": "smoothing.",
    "Monte Carlo": "monte_carlo.",
    "images": "dataset.",
    "model": "model.",
}


def _common(comparison: Comparison) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What is the same for all results, in words, and the training that is."""
    every = [dict(tables.settings(*result)) for result in comparison.results]
    own = {"votes"} if len(set(_image_words(comparison))) == 1 else {"votes", "images"}
    common = [
        (what, value)
        for what, value in every[0].items()
        if what not in own and all(each.get(what) == value for each in every)
    ]
    told = {what for what, _ in common}
    for what, prefix in _GROUPS.items():
        left = [key for key in comparison.same if key.name.startswith(prefix) and what not in told]
        common += [(cut(key.name), key.words[0]) for key in left]
    trained = [
        (cut(key.name), key.words[0])
        for key in comparison.same
        if key.name.startswith("training.") or key.name in SEEDS or key.name in ("precision", "checkpoint")
    ]
    return common[:_LISTED], trained[:_LISTED]


def _listing(comparison: Comparison) -> str:
    """Every run on its own, for the page."""
    axes = comparison.axes[:_COLUMNS]
    method = comparison.method
    header = ["run", *(_title(axis.name) for axis in axes), *(key.name for key in comparison.seeds)]
    numeric_from = len(header)
    header += [] if method is None else [f"CRA {wording.METHODS.get(method, method)}"]
    header += ["ERA (images)"] if any(comparison.eras) else []
    header += ["smoothed", "base", "images"]
    rows = []
    for i in _ordered(comparison)[:_LISTED]:
        run, _, outcomes = comparison.results[i]
        row = [cut(run.label), *(axis.words[axis.levels[i]] for axis in axes)]
        row += [key.words[i] for key in comparison.seeds]
        if method is not None:
            outcome = sound(outcomes, method)
            row.append("–" if outcome is None else wording.percent(tables.robust_count(run, outcome), run.images))
        if any(comparison.eras):
            era = comparison.eras[i]
            row.append(_era(None if era is None else Tally((era.robust,), era.images)))
        base, smoothed = (share for _, _, share in tables.accuracy_rows(run)[:2])
        row += [smoothed, base, str(run.images)]
        rows.append(row)
    listing = html.table(header, rows, range(numeric_from, len(header)))
    words = "Each run has its own report in the directory of this name. Full precision is in table.csv."
    return html.details(f"{len(rows)} of {len(comparison.results)} results", listing) + html.paragraph(
        words, small=True
    )


# Pictures


def _picture(comparison: Comparison, bests: Sequence[Best], out: Path) -> html.Picture:
    """Lines against a swept number, a heat map of two, or points."""
    marked = {i for best in bests for i in best.winners}
    axes = comparison.axes
    numeric = [axis for axis in axes if axis.numbers is not None]
    if comparison.method is not None and len(numeric) == len(axes) == 2 and _filled(comparison):
        return _heat_map(comparison, marked, out)
    if comparison.method is not None and numeric:
        x = max(numeric, key=lambda axis: len(axis.words))
        rest = [n for n, axis in enumerate(axes) if axis is not x]
        lines = sorted({tuple(setting.levels[n] for n in rest) for setting in comparison.settings})
        if len(lines) <= _LINES and 2 * len(lines) <= len(comparison.settings):
            return _lines(comparison, x, rest, lines, marked, out)
    return _points(comparison, marked, out)


def _filled(comparison: Comparison) -> bool:
    """Is at least half of the plane of two axes computed?"""
    cells = len(comparison.axes[0].words) * len(comparison.axes[1].words)
    return 2 * len(comparison.settings) >= cells


def _dot(tally: Tally, x: float = 0.0, best: bool = False) -> Dot:
    return Dot(x, tally.mean, *tally.span, best=best)


def _axis_label(axis: Axis) -> str:
    """The key as it is typed, with what varies with it."""
    if axis.label != axis.name:
        return axis.label
    followers = [key.name for key in axis.keys[1:] if key.name not in ("images", "checkpoint")]
    words = _title(axis.name)
    if followers and len(words) + len(followers[0]) < 50:
        words += f" (with {cut(followers[0])}{', …' if len(followers) > 1 else ''})"
    return wording.shortened(words, 64)


def _mark_words(marked: set[int], comparison: Comparison, what: str) -> str:
    spread = any(len(setting.members) > 1 for setting in comparison.settings)
    words = (
        f" {what} marks the best setting of those with the same images, transformation, region and α." if marked else ""
    )
    return words + (" Points are means over seeds, bars reach from the least to the largest." if spread else "")


def _lines(
    comparison: Comparison,
    x: Axis,
    rest: Sequence[int],
    lines: Sequence[tuple[int, ...]],
    marked: set[int],
    out: Path,
) -> html.Picture:
    assert x.numbers is not None
    assert comparison.method is not None
    at, numbers, method = comparison.axes.index(x), x.numbers, comparison.method

    def curve(title: str, kind: str, tallies: Mapping[int, Tally | None], ring: bool = False) -> Curve:
        dots = [
            _dot(tally, numbers[comparison.settings[i].levels[at]], ring and i in marked)
            for i, tally in tallies.items()
            if tally is not None
        ]
        return Curve(title, kind, dots)

    settings = dict(enumerate(comparison.settings))
    title = METHODS[method].title
    beside: list[tuple[Curve, Curve]] = []
    if not rest:
        curves = [
            curve(
                f"CRA {wording.METHODS.get(name, name)}",
                name,
                {i: comparison.cra(setting, name) for i, setting in settings.items()},
                name == method,
            )
            for name in comparison.methods
        ]
        if any(comparison.eras):
            curves.append(curve("ERA", "era", {i: comparison.era(setting) for i, setting in settings.items()}))
        curves.append(curve("smoothed accuracy", "smoothed", {i: comparison.smoothed(s) for i, s in settings.items()}))
        curves.append(curve("base accuracy", "base", {i: comparison.base(s) for i, s in settings.items()}))
        other, words = "", f"Certified robust accuracy by every sound method against {_axis_label(x)}."
    else:
        curves = []
        for levels in lines:
            inside = {i: s for i, s in settings.items() if tuple(s.levels[n] for n in rest) == levels}
            name = ", ".join(comparison.axes[n].words[level] for n, level in zip(rest, levels, strict=True))
            name = wording.shortened(name, 68)  # a region of two parameters has some 60 signs, its own ones last
            curves.append(curve(name, "", {i: comparison.cra(s, method) for i, s in inside.items()}, True))
            accuracies = (comparison.smoothed, comparison.base)
            smoothed, base = (curve(name, "", {i: tally(s) for i, s in inside.items()}) for tally in accuracies)
            beside.append((smoothed, base))
        other = ", ".join(_title(comparison.axes[n].name) for n in rest)
        words = f"Certified robust accuracy by {title} against {_axis_label(x)}, a line for each value of {other}."
    caption = words + " Lines join what was computed."
    if x.label != x.name:
        caption += f" The largest region: {x.words[-1]}."
    caption += _mark_words(marked, comparison, "The ring")
    label = _axis_label(x)
    return save_picture(
        lambda theme: pictures.lines(theme, label, curves, wording.shortened(other, 70), beside),
        out,
        "comparison",
        words,
        caption,
    )


def _heat_map(comparison: Comparison, marked: set[int], out: Path) -> html.Picture:
    assert comparison.method is not None
    x, y = sorted(comparison.axes, key=lambda axis: -len(axis.words))
    at = comparison.axes.index(x)
    cells = {}
    for i, setting in enumerate(comparison.settings):
        tally = comparison.cra(setting, comparison.method)
        if tally is not None:
            smoothed = _mean(comparison.smoothed(setting)).removesuffix(" %")
            where = (setting.levels[at], setting.levels[1 - at])
            cells[where] = Cell(tally.mean, _mean(tally).removesuffix(" %"), f"({smoothed})", i in marked)
    labels = [(_axis_label(axis), _ticks(axis)) for axis in (x, y)]
    words = f"Heat map of CRA by {METHODS[comparison.method].title} over {labels[0][0]} and {labels[1][0]}."
    caption = f"{words} In a cell: CRA in per cent, and in brackets the smoothed accuracy."
    for axis in (x, y):
        if axis.label != axis.name:
            caption += f" The largest region: {axis.words[-1]}."
    caption += _mark_words(marked, comparison, "The white box").replace(
        " Points are means over seeds, bars reach from the least to the largest.", " Numbers are means over seeds."
    )
    title = f"CRA by {METHODS[comparison.method].title}"
    return save_picture(
        lambda theme: pictures.heat_map(theme, labels[0], labels[1], cells, title), out, "comparison", words, caption
    )


def _ticks(axis: Axis) -> list[str]:
    """Levels of an axis as ticks: its numbers, for the words of a region are long."""
    return [f"{number:.4g}".replace("-", "−") for number in axis.numbers or ()]


def _points(comparison: Comparison, marked: set[int], out: Path) -> html.Picture:
    """A group a setting; where nothing varies but seeds, a group a run."""
    if comparison.axes:
        groups = list(enumerate(comparison.settings))
    else:
        groups = [(0, Setting((), (i,), (), 0)) for i in range(len(comparison.results))]
    drawn = groups[:_DRAWN]
    values: dict[tuple[str, str], list[Dot | None]] = {
        ("smoothed accuracy", "smoothed"): [_dot(comparison.smoothed(setting)) for _, setting in drawn],
        ("base accuracy", "base"): [_dot(comparison.base(setting)) for _, setting in drawn],
    }
    for method in comparison.methods:
        series: list[Dot | None] = []
        for i, setting in drawn:
            tally = comparison.cra(setting, method)
            best = method == comparison.method and i in marked
            series.append(None if tally is None else _dot(tally, best=best))
        values[f"CRA {wording.METHODS.get(method, method)}", method] = series
    if any(comparison.eras):
        eras = [comparison.era(setting) for _, setting in drawn]
        values["ERA", "era"] = [None if era is None else _dot(era) for era in eras]
    names = [_point_name(comparison, setting) for _, setting in drawn]
    caption = "Accuracies are those of the untransformed images; CRA is that of the region in the table."
    caption += _mark_words(marked, comparison, "The ring")
    if len(groups) > _DRAWN:
        caption += f" The first {_DRAWN} of {len(groups)} are drawn."
    return save_picture(
        lambda theme: pictures.points(theme, names, values),
        out,
        "comparison",
        "Accuracies as points, a group a setting.",
        caption,
    )


def _point_name(comparison: Comparison, setting: Setting) -> str:
    run, _, _ = comparison.results[setting.members[0]]
    label = run.label if len(setting.members) == 1 else f"{len(setting.members)} seeds"
    if not comparison.axes:
        return f"{wording.shortened(run.family.name, 28)}\n{wording.shortened(f'{run.name}, {label}', 28)}"
    words = ", ".join(axis.words[level] for axis, level in zip(comparison.axes, setting.levels, strict=True))
    return f"{wording.shortened(words, 28)}\n{wording.shortened(label, 28)}"
