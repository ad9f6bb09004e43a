"""The tables of a report, as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from glsmooth import bounds
from glsmooth.bounds import Outcome, own_laws
from glsmooth.bounds.sampled import OWN_CLAIM
from glsmooth.family.regions import Ball, Box, Points, Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.report import wording
from glsmooth.runs.proof import verified
from glsmooth.runs.run import Run
from glsmooth.threats import Threat

#: What would be a command to whoever renders Markdown: a backslash before a sign, cells, code, formulas, emphasis
#: (between letters, as in h_min, a _ is none), tags, entities, links, bare addresses, and at the beginning what makes a
#: heading, a quotation or an item of a list.
_MARKS = re.compile(
    r"""\\(?=[!-/:-@\[-`{-~]|$)
    | [|`$*]
    | (?<![^\W_])_+ | _+(?![^\W_])
    | (?<=\S)~ | ~(?=\S)
    | <(?=[A-Za-z/!?])
    | &(?=\#?\w+;)
    | !(?=\[) | \](?=[(\[:])
    | (?<=http):(?=//) | (?<=https):(?=//) | (?<=ftp):(?=//) | (?<=www)\.
    | ^(?:\#|>|[-+](?=\s|$)|\d+[.)](?=\s|$))
    """,
    re.VERBOSE | re.IGNORECASE,
)


def escaped(text: str) -> str:
    """A text for Markdown that shows as it is. Only what needs it is escaped, so that numbers stay readable."""
    return _MARKS.sub(lambda mark: re.sub(r"\D", r"\\\g<0>", mark[0]), text.strip())


def bullets(sentences: Iterable[str]) -> str:
    """A Markdown list."""
    return "".join(f"* {escaped(sentence)}\n" for sentence in sentences)


def markdown(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric_from: int = 1,
    strong: Collection[tuple[int, int]] = (),
) -> str:
    """A Markdown table; columns from ``numeric_from`` on are right-aligned, cells (row, column) of ``strong`` bold."""
    lines = ["| " + " | ".join(map(escaped, header)) + " |"]
    lines.append("|" + "|".join("---" if i < numeric_from else "---:" for i in range(len(header))) + "|")
    for number, row in enumerate(rows):
        cells = [f"**{escaped(cell)}**" if (number, i) in strong else escaped(cell) for i, cell in enumerate(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


#: Signs that LaTeX reads as commands, or sets as others in its oldest font encoding. A bracket or a star that opens a
#: row would belong to the end of the row before.
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "_%&#${}"},
    **{sign: f"{{{sign}}}" for sign in "[]*-`'?!,"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "–": r"\textendash{}",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "²": "$^2$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "σ": r"$\sigma$",
    "φ": r"$\varphi$",
    "…": r"\dots{}",
}


def latex_escaped(text: str) -> str:
    """A text for LaTeX that shows as it is, with any engine and font; a sign that few fonts have by its number."""

    def sign(char: str) -> str:
        known = _LATEX.get(char)
        if known is not None:
            return known
        # Latin letters with accents are known to every LaTeX since 2018.
        plain = char.isascii() or (char <= "ÿ" and unicodedata.normalize("NFD", char)[0].isascii())
        return char if plain and char.isprintable() else f"{{[}}U+{ord(char):04X}{{]}}"

    words = re.sub(r"\bh\\_min\b", r"$h_{\\min}$", "".join(map(sign, text.strip())))
    return re.sub(r"\bp\\_A\b", "$p_A$", words)


def latex(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric_from: int = 1,
    strong: Collection[tuple[int, int]] = (),
) -> str:
    """A LaTeX table, for the package booktabs; arguments as :func:`markdown` has them."""
    columns = "".join("l" if i < numeric_from else "r" for i in range(len(header)))
    lines = [f"\\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(map(latex_escaped, header)) + r" \\"]
    lines.append(r"\midrule")
    for number, row in enumerate(rows):
        cells = [
            f"\\textbf{{{latex_escaped(cell)}}}" if (number, i) in strong else latex_escaped(cell)
            for i, cell in enumerate(row)
        ]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def latex_file(text: str, *tabulars: str) -> str:
    """A file for ``\\input``: a paragraph of words, if there are any, and tables (:func:`latex`)."""
    above = f"\\noindent {latex_escaped(text)}\\par\\medskip\n" if text else ""
    return f"% Needs \\usepackage{{booktabs}}.\n{above}" + "\\par\\medskip\n".join(tabulars)


def comma_separated(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A CSV file with numbers as they are, and nothing for None.

    What is neither number nor text is JSON. A text that a spreadsheet would compute has an apostrophe before it.
    """

    def cell(value: object) -> object:
        if isinstance(value, bool) or not (value is None or isinstance(value, (int, float, str))):
            value = json.dumps(value, ensure_ascii=False)
        return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([[cell(value) for value in row] for row in [header, *rows]])
    return stream.getvalue()


def json_rows(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same as a JSON list of objects, one a row."""
    found = [dict(zip(header, map(_finite, row), strict=True)) for row in rows]
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no number for infinity, but a file may have named one."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


#: Units of parameters that have one, as names of columns say them.
_UNITS = {"tx": "pixels", "ty": "pixels", "blur": "pixels2"}


def region_columns(region: Region) -> dict[str, Any]:
    """A region for programs, by the names of its columns.

    ``region.tx.low_pixels`` and ``region.tx.high_pixels`` of a box, ``region.radius`` and ``region.tx.centre_pixels``
    of a ball, ``region.points`` of points: JSON.
    """
    if isinstance(region, Points):
        return {"region.points": json.dumps(region.to_config()["points"])}
    if isinstance(region, Ball):
        return {"region.radius": region.radius} | {
            _column(name, "centre"): value for name, value in region.centre.items()
        }
    assert isinstance(region, Box)
    return {
        _column(name, end): value
        for name, ends in region.intervals.items()
        for end, value in zip(("low", "high"), ends, strict=True)
    }


def _column(parameter: str, what: str) -> str:
    unit = _UNITS.get(parameter)
    return f"region.{parameter}.{what}" + (f"_{unit}" if unit else "")


def count(flags: np.ndarray) -> int:
    return int(np.count_nonzero(flags))


def robust_count(run: Run, outcome: Outcome) -> int:
    """Number of images that are certified in their true class."""
    return count(run.robust(outcome))


def primary(outcomes: Mapping[str, Outcome]) -> Outcome | None:
    """The method that headlines speak of: Neyman-Pearson, else the sound one with the least h_min."""
    sound = [outcome for outcome in outcomes.values() if outcome.sound and outcome.h_min is not None]
    for outcome in sound:
        if outcome.method == "neyman_pearson":
            return outcome
    return min(sound, key=lambda outcome: outcome.h_min or 1.0, default=None)


def accuracy_rows(run: Run) -> list[tuple[str, str, str]]:
    """(quantity, images, share) of what the classifiers do without any transformation of the test image."""
    total = run.images
    counts = [
        ("base classifier correct", count(run.columns["base_prediction"] == run.columns["label"])),
        ("smoothed classifier: selected class correct", count(run.correct)),
        ("smoothed classifier abstains (p_A ≤ 1/2)", count((run.p_lower <= 0.5) & ~run.given_up)),
    ]
    if run.stops_early:
        counts.append(("given up early (region out of reach, p_A > 1/2 left open)", count(run.given_up)))
    return [(what, str(images), wording.percent(images, total)) for what, images in counts]


#: What stands below the table of methods.
MEANING = (
    "h_min: the probability that the method requires for this region. Certified: p_A > h_min. CRA, "
    "certified robust accuracy: the share of the images that are certified in their true class.\n"
)
METHOD_HEADER = ("method", "h_min", "certified", "and correct", "CRA")


def method_rows(run: Run, outcomes: Mapping[str, Outcome]) -> list[tuple[str, str, str, str, str]]:
    """(method, h_min, certified, certified and correct, CRA) per method; unsound methods have no counts."""
    rows = []
    for outcome in outcomes.values():
        if outcome.h_min is None:
            rows.append((wording.title(outcome), "n/a", "n/a", "n/a", "n/a"))
        elif not outcome.sound:
            standing = wording.standing(outcome).partition(",")[0]
            rows.append((marked_title(outcome), wording.ceil(outcome.h_min, 5), standing, standing, standing))
        else:
            robust = robust_count(run, outcome)
            share = wording.percent(robust, run.images)
            rows.append(
                (
                    wording.title(outcome),
                    wording.ceil(outcome.h_min, 5),
                    f"{count(outcome.certifies(run.p_lower))}",
                    f"{robust}",
                    share,
                )
            )
    return rows


def every_method(run: Run, region: Region, outcomes: Mapping[str, Outcome]) -> tuple[list[str], list[list[Any]]]:
    """Header and a row a method, in full precision, for programs: counts are images, cra and accuracies shares of 1.

    What an unsound method would claim is not counted: None.
    """
    where = region_columns(region)
    header = ["run", "transform", *where]
    header += ["method", "standing", "h_min", "certified", "certified_correct", "cra"]
    header += ["votes_failure_probability", "bound_failure_probability"]
    header += ["images", "base_correct", "base_accuracy", "smoothed_correct", "smoothed_accuracy", "abstained"]
    common: list[Any] = [run.label, run.family.name, *where.values()]
    base, smoothed = count(run.columns["base_prediction"] == run.columns["label"]), count(run.correct)
    abstained = count((run.p_lower <= 0.5) & ~run.given_up)
    accuracies = [run.images, base, base / run.images, smoothed, smoothed / run.images, abstained]
    rows: list[list[Any]] = []
    for name, outcome in outcomes.items():
        numbers: list[Any]
        if outcome.h_min is None:
            numbers = ["does not apply", *[None] * 4]
        elif not outcome.sound:
            numbers = [wording.standing(outcome), outcome.h_min, *[None] * 3]
        else:
            certified, robust = count(outcome.certifies(run.p_lower)), robust_count(run, outcome)
            numbers = ["sound", outcome.h_min, certified, robust, robust / run.images]
        rows.append([*common, name, *numbers, run.alpha, outcome.failure_probability, *accuracies])
    return header, rows


def marked_title(outcome: Outcome) -> str:
    """The method's title, with the word that says why it does not count."""
    title, standing = wording.title(outcome), wording.standing(outcome)
    return title if outcome.sound or standing in title.lower() else f"{title} ({standing})"


def method_notes(run: Run, outcomes: Mapping[str, Outcome]) -> list[str]:
    """Why a method has no CRA, a sentence each."""
    notes = []
    for outcome in outcomes.values():
        if outcome.h_min is None:
            notes.append(f"{wording.title(outcome)} does not apply: {outcome.argument}")
        elif not outcome.sound:
            claimed = wording.percent(count(outcome.claims(run.p_lower) & run.correct), run.images)
            why = f" ({outcome.argument})" if outcome.argument else ""
            notes.append(f"{marked_title(outcome)} proves nothing{why}; never counted. It would claim {claimed}.")
    return notes


def verified_note(run: Run, region: Region) -> str | None:
    """That ``glsmooth verify`` found every number of these very files to follow, where it did."""
    if region.to_config() != run.region.to_config() or not verified(run.path):
        return None
    return (
        "Verified by an independent checker (glsmooth verify): each p_A follows from its votes, the region's required "
        "probability is proved (proof.json), and the certificates follow from both."
    )


def headline(run: Run, region: Region, outcomes: Mapping[str, Outcome]) -> str:
    """The result in one plain sentence, with its error probability."""
    best = primary(outcomes)
    where = wording.every(region)
    if best is None and (approximate := next((d for d in outcomes.values() if d.residual is not None), None)):
        return (
            f"Approximate: the transformation is not resolvable as it says (residual {approximate.residual:.2g}), so "
            f"none of the {run.images} {run.called} is certified under {where}."
        )
    if best is None:
        return f"No sound method applies: none of the {run.images} {run.called} is certified under {where}."
    robust = robust_count(run, best)
    part = f" of shard {run.summary.shard}" if run.summary.shard else ""
    if robust == 0:
        nothing = f"None of the {run.images} {run.called}{part} is certified in its true class under {where}."
        return f"{nothing} {_why_none(run, best)}".rstrip()
    return (
        f"Of {run.images} {run.called}{part}, {robust} ({wording.percent(robust, run.images)}) provably keep their "
        f"correct class under {where}{_on_grid(run)}, {wording.error(run.alpha, best.failure_probability)}."
    )


def _on_grid(run: Run) -> str:
    """Of which parameters a certificate speaks, where draws lie on a grid."""
    return " on the grid of the draws" if run.family.grids else ""


def _why_none(run: Run, outcome: Outcome) -> str:
    assert outcome.h_min is not None
    if run.exhaustive or run.randomised:
        needed = None if outcome.h_min == 1 else 0  # no number of votes rules a certificate out
    else:
        needed = bounds.samples_needed(outcome.h_min, run.alpha)
    if needed is None:
        return f"{wording.title(outcome)} requires h_min = {wording.ceil(outcome.h_min, 5)}, which no vote can reach."
    votes = int(run.columns["n"].max())
    if needed > votes:
        return (
            f"h_min = {wording.ceil(outcome.h_min, 5)} needs at least {needed} unanimous votes an image, "
            f"and at most {votes} were drawn."
        )
    return ""


def assumptions(run: Run, outcomes: Mapping[str, Outcome]) -> list[str]:
    """What must hold for the certificate to be true, a sentence each."""
    best = primary(outcomes)
    estimated = best.failure_probability if best is not None else 0.0
    if run.exhaustive:
        votes = "No vote was sampled: p_A is the probability of the shifts that voted for the class, those that were "
        votes += "not visited count against it, and there is no probability of error in the votes"
        if estimated > 0:
            votes += f"; the bound fails with probability at most {wording.probability(estimated)}"
        votes += "."
    else:
        votes = f"The statement about one image fails with probability at most {wording.probability(run.alpha)} (votes)"
        if estimated > 0:
            votes += f" plus {wording.probability(estimated)} (the bound was estimated from samples)"
        votes += "; over many images it may fail for a few."
        if run.randomised:
            votes += " It depends on a coin of each image, which records.csv keeps; drawing it again would void it."
    sentences = [
        votes,
        *_done(run.family),
        "Arithmetic is treated as exact: rounding of the transformation and of the network is not covered.",
        "The statement is about the smoothed classifier, the majority vote over the smoothing laws, not "
        "about the base classifier alone.",
    ]
    if run.summary.stochastic:
        sentences.append(
            "A random network was accepted: each vote draws its randomness afresh, and the statement is about the "
            "classifier smoothed over that randomness, too."
        )
    if run.family.grids:
        sentences.append("It speaks of the parameters on the grid of the draws, and of no others.")
    own = own_laws(run.family)
    if own:
        sentences.append(f"What {wording.join(own)} says of its own shape is so: it was tried, and not proved.")
    if best is not None and OWN_CLAIM in best.argument:
        sentences.append(
            "What the transformation's author claims of monotone parameters is so: it was tried, and not proved."
        )
    parameters = run.family.parameters
    if "tx" in parameters or "ty" in parameters:
        torus = run.family.torus
        where = (
            f"h_min is that of the torus of {run.family.image_size[0]} × {run.family.image_size[1]} pixels."
            if torus and run.family.image_size is not None
            else "h_min is that of shifts on the plane, which stays valid for cyclic ones."
        )
        sentences.append(
            f"Shifts are cyclic and by whole pixels (what leaves at one border enters at the other); {where}"
        )
    if "blur" in parameters:
        sentences.append("Blur is exact multiplication in the frequency domain, not a truncated kernel.")
    return sentences


def _done(family: SmoothedFamily) -> list[str]:
    """What is done to images, beside the transformation, and what is not."""
    threat, round8 = family.threat, family.threat is not None and family.threat.round8
    sentences = []
    if isinstance(threat, Threat):
        kept = "; the inscribed disk is kept, zeros take the place of the rest" if getattr(threat, "mask", None) else ""
        sentences.append(
            f"{threat.name.capitalize()} is about the centre of the image and bilinear, zeros outside of it{kept}. "
            "Another interpolation is another attack."
        )
    if round8:
        sentences.append(
            "Images are rounded to 8 bits before they reach the classifier, and not clipped by that, for they lie in "
            "[0, 1]."
        )
    else:
        sentences.append(
            "Transformed images are not clipped to [0, 1] and not rounded to 8 bits before they reach the classifier."
        )
    if threat is not None and threat.l2:
        sentences.append(f"A perturbation is added to each, of l2 norm {wording.number(threat.l2)} at most.")
    return sentences


def settings(run: Run, region: Region, outcomes: Mapping[str, Outcome]) -> list[tuple[str, str]]:
    """The settings in words: (what, value)."""
    transform = run.family.transform
    order = run.summary.transform.get("order")
    rows = [
        ("transformation", run.family.name + (f" ({str(order).replace('_', ' ')})" if order else "")),
        ("smoothing laws", wording.laws(run.summary.smoothing)),
        ("certified region", wording.region(region)),
    ]
    best = primary(outcomes)
    if best is not None and best.worst:
        rows.append(("hardest parameter in it", wording.point(best.worst)))
    left_out = [name for name in transform.parameters if name not in region.parameters]
    if left_out:
        rows.append(("left at the identity", wording.join(wording.parameter(name) for name in left_out)))
    if run.family.pixel_noise:
        rows.append(("pixel noise", f"Normal, standard deviation {wording.number(run.family.pixel_noise)}"))
    if run.family.threat is not None:
        rows.append(("what noise pays for", _residual(run)))
    if run.family.grids:
        grid = ", ".join(f"{wording.parameter(name)} {grid}" for name, grid in run.family.grids.items())
        rows.append(("draws", f"on a grid; certificates speak of the parameters on it: {grid}"))
    rows.append(
        (
            "Monte Carlo",
            f"{run.procedure}: {_draws(run)}"
            + ("" if run.exhaustive else f"; α = {wording.probability(run.alpha)} an image"),
        )
    )
    rows.append(("votes", _votes(run)))
    dataset = run.summary.dataset
    rows.append(
        (
            "images",
            f"{run.images} of the {run.split} split of {run.name}"
            + _chosen(dataset)
            + (f", shard {run.summary.shard} of the certification" if run.summary.shard else ""),
        )
    )
    model = run.summary.model
    rows.append(("model", network(model) if isinstance(model, Mapping) else str(model)))
    return rows


def _chosen(dataset: Mapping[str, object]) -> str:
    """Which of a split's images were certified, where not all."""
    words = []
    if dataset.get("skip"):
        words.append(f"the first {dataset['skip']} left out")
    if dataset.get("every") not in (None, 1):
        words.append(f"one of {dataset['every']}")
    if dataset.get("subset") is not None:
        words.append(f"random subset, seed {dataset.get('subset_seed')}")
    return f" ({', '.join(words)})" if words else ""


def network(model: Mapping[str, object]) -> str:
    """The network of a configuration in words."""
    name, canonical = model.get("name"), model.get("canonical")
    words = str(name) if canonical in (None, "none") else f"{name} on canonical forms of {canonical}"
    mean, std = model.get("mean"), model.get("std")
    if isinstance(mean, list) and isinstance(std, list):  # typed, or of a network from elsewhere
        words += f"; {normalisation(mean, std)}"
    return words


def normalisation(mean: Sequence[float], std: Sequence[float]) -> str:
    """What a network does to the pixels of each channel first."""
    rounded = (", ".join(f"{value:.4g}" for value in values) for values in (mean, std))
    return "pixels minus [{}], divided by [{}]".format(*rounded)


def _draws(run: Run) -> str:
    """How the votes of an image are drawn and counted."""
    monte_carlo = run.summary.monte_carlo
    n0, n = monte_carlo.get("n0"), monte_carlo.get("n")
    if run.exhaustive:
        return (
            f"each of {n} shifts votes at most once, the most probable first, until the image is decided; p_A is the "
            "probability of those that voted for the class"
        )
    if run.procedure == "sequential":
        return (
            f"draws, {n0} at most, until one class leads clearly; then fresh ones, {n} at most, until an "
            "anytime-valid test decides the image or it is given up"
        )
    words = f"{n0} draws select the class, {n} fresh ones count it; "
    words += "randomised Clopper–Pearson lower bound" if run.randomised else "Clopper–Pearson lower bound"
    if monte_carlo.get("interval") == "two-sided":
        words += " of the two-sided interval (α/2)"
    if monte_carlo.get("vote") == "majority":
        words += "; a vote is a softmax output above 1/2"
    return words


def _residual(run: Run) -> str:
    """How far attacked images are from their references."""
    assert run.family.residual is not None
    words = f"a distance of {wording.ceil(run.family.residual, 4)}, in the units of a pixel (l2)"
    if not run.family.warps:
        return words
    slices = run.columns["slices"]
    return (
        f"{words}, from the reference of one of {int(slices.min())} to {int(slices.max())} slices of the interval "
        f"({int(np.median(slices))} for an image in the middle); the largest of an image is "
        f"{wording.ceil(float(np.median(run.columns['residual'])), 4)} in the middle, "
        f"{wording.ceil(float(run.columns['residual'].max()), 4)} at most"
    )


def _votes(run: Run) -> str:
    """How many votes there were, and how many of them are doubtful."""
    words = f"{int(run.votes.sum()):,} in all"
    if run.family.warps:
        words += f", {int(np.median(run.votes)):,} for an image in the middle, {int(run.votes.max()):,} for one at most"
    for column, meaning in (
        ("abstain_votes", "for no class (exact ties, non-finite logits)"),
        ("nonfinite_votes", "with a non-finite logit"),
        ("near_ties", "nearer to a tie than rounding"),
    ):
        if column in run.columns and run.columns[column].any():
            words += f"; {int(run.columns[column].sum()):,} {meaning}"
    return words


def provenance(run: Run) -> list[tuple[str, str]]:
    """Seed, checkpoint, precision, speed, hardware, versions: what is needed to run it again."""
    summary = run.summary
    rows = [("run directory", run.label), ("seed", str(summary.seed))]
    checkpoint = summary.checkpoint
    if isinstance(checkpoint, Mapping):
        rows.append(("checkpoint", f"{checkpoint.get('path')} (sha256 {str(checkpoint.get('sha256'))[:16]}…)"))
    if summary.precision is not None:
        rows.append(("precision", summary.precision))
    if summary.speed:
        rows.append(("speed", " ".join(f"{key}={str(value).lower()}" for key, value in summary.speed.items())))
    seconds = summary.seconds_per_image
    if seconds is not None:
        rows.append(("seconds an image", f"{float(seconds):.3g}"))
    if summary.hardware:
        rows.append(("hardware", _flat(summary.hardware)))
    if summary.versions:
        rows.append(("versions", _flat(summary.versions)))
    return rows


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)


def run_latex(run: Run, region: Region, outcomes: Mapping[str, Outcome], note: str = "") -> str:
    """table.tex of one run: the headline, the methods, and the accuracies without transformation."""
    return latex_file(
        f"{headline(run, region, outcomes)} {note}",
        latex(METHOD_HEADER, method_rows(run, outcomes)),
        latex(("without transformation", "images", "share"), accuracy_rows(run)),
    )


def run_table(run: Run, region: Region, outcomes: Mapping[str, Outcome], note: str = "", more: str = "") -> str:
    """table.md of one run; ``more`` is Markdown that follows the numbers."""
    parts = [
        f"# Certified robust accuracy: {escaped(f'{run.family.name} on {run.name}')}\n",
        escaped(headline(run, region, outcomes)) + "\n",
    ]
    if note:
        parts.append(escaped(note) + "\n")
    parts.append(markdown(METHOD_HEADER, method_rows(run, outcomes)))
    if notes := method_notes(run, outcomes):
        parts.append(bullets(notes))
    if checked := verified_note(run, region):
        parts.append(checked + "\n")
    parts.append(MEANING)
    parts.append(markdown(("without transformation", "images", "share"), accuracy_rows(run)))
    if more:
        parts.append(more)
    parts.append(markdown(("setting", "value"), settings(run, region, outcomes), numeric_from=2))
    parts.append("What the certificate assumes:\n")
    parts.append(bullets(assumptions(run, outcomes)))
    parts.append(markdown(("run", "value"), provenance(run), numeric_from=2))
    return "\n".join(parts)
