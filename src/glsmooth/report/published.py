"""Published per-image votes, decided again under sound bounds.

The file is a JSON list of runs with the keys ``run, dataset, transform, smoothing, region, n0, n, alpha,
published_cra, caveat, p_lower, correct``: names and intervals as in this program's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from glsmooth import bounds, laws
from glsmooth.bounds import Outcome, evaluate
from glsmooth.configuration.build import build_law, build_region
from glsmooth.configuration.fields import (
    OBJECT,
    RULES,
    Rule,
    check_file,
    choice,
    list_of,
    number,
    rules_under,
    text,
    whole,
)
from glsmooth.errors import UserError
from glsmooth.family.regions import Box, Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.report import wording
from glsmooth.report.tables import bullets, count, escaped, markdown
from glsmooth.runs.files import read_json
from glsmooth.runs.summary import IMAGE_SIZES, check_methods
from glsmooth.transforms import BUILTIN

#: What each run of the file may hold; ``*`` stands for one name. What may be null may be missing.
_RULES = {
    **rules_under("smoothing", "region"),
    "run": text(),
    "dataset": text(),
    "transform": choice(*BUILTIN),
    "smoothing": OBJECT,
    "region": OBJECT,
    "n0": whole(0, 200, most=10**12).or_null(),
    "n": whole(1, 1000, most=10**12),
    "alpha": RULES["alpha"],
    "published_cra": OBJECT,
    "published_cra.*": number("a share in [0, 1]", "0.5", lambda v: 0 <= v <= 1).or_null(),
    "caveat": text().or_null(),
    "p_lower": list_of(
        number("in [0, 1]", "0.9", lambda v: 0 <= v <= 1), "a list of numbers, one an image", "[0.9]", least=1
    ),
    "correct": list_of(
        Rule(lambda v: v in (0, 1), "0 or 1", "1"), "a list of 0 and 1, one for each p_lower", "[1]", least=1
    ),
}
_FIX = "correct the file"
METHODS = ("neyman_pearson", "gl", "tss", "mp")


@dataclass(frozen=True)
class PublishedRun:
    """One published certification run.

    Attributes:
        name: as published; ``dataset``: its name; ``caveat``: how the sampler differed from the law.
        transform, laws, region: what was certified.
        n, alpha: votes an image and the error probability of p_lower.
        published: method -> CRA as printed by the authors.
        p_lower: (images,) lower bounds p_A; ``correct``: (images,) bool.
    """

    name: str
    dataset: str
    caveat: str | None
    transform: str
    laws: Mapping[str, laws.Law]
    region: Region
    n: int
    alpha: float
    published: Mapping[str, float | None]
    p_lower: NDArray[np.float64]
    correct: NDArray[np.bool_]

    def evaluate(self, methods: Sequence[str], image_size: tuple[int, int] | None) -> dict[str, Outcome]:
        """What ``methods`` say of the region; translation is on the plane unless ``image_size`` is given."""
        family = SmoothedFamily(BUILTIN[self.transform](), self.laws, image_size=image_size)
        return evaluate(family, self.region, methods)


def load_votes(file: str | Path) -> list[PublishedRun]:
    """Read a file of published votes.

    Raises:
        UserError: no such file, not JSON, or a run with a missing or impossible value; it names run and key.
    """
    file = Path(file)
    if not file.is_file():
        raise UserError(f"votes: no file {str(file)!r}; give a JSON file of published votes")
    entries = read_json(file, "give a file of published votes")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"votes: {str(file)!r} must hold a list of at least one run")
    return [_parse(entry, f"votes={file}: run {i}") for i, entry in enumerate(entries)]


def _parse(entry: Any, field: str) -> PublishedRun:
    if isinstance(entry, dict):  # more may stand in the file
        entry = {key: value for key, value in entry.items() if key in _RULES}
    check_file(entry, _RULES, field, _FIX)
    p_lower, correct = np.array(entry["p_lower"], dtype=np.float64), np.array(entry["correct"], dtype=np.float64)
    if p_lower.shape != correct.shape:
        raise UserError(f"{field}: p_lower has {len(p_lower)} images, correct has {len(correct)}; {_FIX}")
    # As many as n votes, all equal, prove; a two-sided interval proves less.
    most = entry["alpha"] ** (1 / entry["n"])
    if p_lower.max() > most + 1e-9:
        i = int(p_lower.argmax())
        raise UserError(
            f"{field}: p_lower[{i}] is {p_lower[i]:.6g}, but n={entry['n']} votes at alpha={entry['alpha']:.6g} prove "
            f"{most:.6g} at most; {_FIX}"
        )
    try:
        family_laws = {name: build_law(spec or {}, f"smoothing.{name}") for name, spec in entry["smoothing"].items()}
        transform = BUILTIN[entry["transform"]]()
        region = build_region(entry["region"], transform)
        SmoothedFamily(transform, family_laws).check_region(region)
    except UserError as error:
        raise UserError(f"{field}: {error}") from None
    return PublishedRun(
        name=entry["run"],
        dataset=entry["dataset"],
        caveat=entry.get("caveat"),
        transform=entry["transform"],
        laws=family_laws,
        region=region,
        n=entry["n"],
        alpha=float(entry["alpha"]),
        published=entry["published_cra"],
        p_lower=p_lower,
        correct=correct == 1,
    )


class _Notes:
    """Footnotes: a letter for every distinct text, in order of first use; after z comes aa."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def __getitem__(self, text: str) -> str:
        return self.letters.setdefault(text, _letters(len(self.letters)))

    def lines(self) -> str:
        return bullets(f"({letter}) {text}" for text, letter in self.letters.items())


def _letters(i: int) -> str:
    return (_letters(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)


def votes_table(
    runs: Sequence[PublishedRun], methods: Sequence[str] = METHODS, image_size: tuple[int, int] | None = None
) -> str:
    """Markdown: the published CRA next to the CRA of sound methods on the same votes, with notes.

    Args:
        runs: from :func:`load_votes`.
        methods: names in ``bounds.METHODS``.
        image_size: puts every translation on that torus; None is the plane, with an extra column for the torus of the
            data set's own image size.
    """
    check_methods(methods)
    published = [name for name in ("gl", "tss", "mp") if any(run.published.get(name) is not None for run in runs)]
    header = ["run", "dataset", "transformation and region", "smoothing", "n"]
    header += [f"published {name.upper()}" for name in published]
    header += [_short(name) + ("" if bounds.METHODS[name].sound else ", unsound") for name in methods]
    torus = image_size is None and any(_has_torus(run) for run in runs)
    if torus:
        header.append("NP on the torus")
    header.append("note")
    notes = _Notes()
    rows, above = [], 0
    for run in tqdm(runs, desc="Published runs", unit="run", leave=False, disable=None):
        outcomes = run.evaluate(methods, image_size)
        row = [
            run.name.rsplit("/", 1)[-1],
            run.dataset,
            f"{run.transform.replace('_', ' ')}: {_short_region(run.region)}",
            "; ".join(f"{wording.SYMBOLS.get(name, name)} {law!r}" for name, law in run.laws.items()),
            str(run.n),
        ]
        row += [_published(run.published.get(name)) for name in published]
        row += [_cell(run, outcome, notes) for outcome in outcomes.values()]
        if torus:
            row.append(_cell(run, _neyman_pearson(run, IMAGE_SIZES[run.dataset]), notes) if _has_torus(run) else "–")
        row.append(f"({notes[_caveat(run.caveat)]})" if run.caveat else "")
        rows.append(row)
        limit = outcomes.get("neyman_pearson") or _neyman_pearson(run, image_size)
        share = count(limit.certifies(run.p_lower) & run.correct) / len(run.correct)
        above += (run.published.get("gl") or 0.0) > share + 1e-9
    where = "on the plane" if image_size is None else f"on the torus of {image_size[0]} × {image_size[1]} pixels"
    key = "; ".join(f"{_short(name)}: {bounds.METHODS[name].title}" for name in methods)
    text = (
        f"{key}. A cell is the share of the images certified in their true class (p_lower > h_min) from the "
        f"published votes, with h_min in brackets; translations are {where}. In {above} of {len(runs)} runs "
        "the published CRA of GL is above that of NP, the most that any sound method can certify from "
        "these votes."
    )
    table = f"{markdown(header, rows, numeric_from=4)}\n{escaped(text)}\n"
    return table + ("\nNotes:\n\n" + notes.lines() if notes.letters else "")


def _neyman_pearson(run: PublishedRun, image_size: tuple[int, int] | None) -> Outcome:
    return run.evaluate(["neyman_pearson"], image_size)["neyman_pearson"]


def _short(method: str) -> str:
    return wording.METHODS.get(method, method)


def _has_torus(run: PublishedRun) -> bool:
    return run.dataset in IMAGE_SIZES and bool({"tx", "ty"} & set(run.region.parameters))


def _caveat(caveat: str) -> str:
    return f"{caveat}: not the law that is certified, so no number in this row is a certificate."


def _short_region(region: Region) -> str:
    if not isinstance(region, Box):
        return wording.region(region)
    return ", ".join(
        f"{wording.SYMBOLS.get(name, name)} {wording.interval(ends)}" for name, ends in region.intervals.items()
    )


def _published(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _cell(run: PublishedRun, outcome: Outcome, notes: _Notes) -> str:
    if outcome.h_min is None:
        reason = f"{_short(outcome.method)} does not apply: {outcome.argument}"
        return f"n/a ({notes[reason]})"
    images = len(run.correct)
    # Floor in integers: a share is never rounded up.
    share = f"{1000 * count(outcome.claims(run.p_lower) & run.correct) // images / 1000:.3f}"
    cell = f"{share} ({wording.ceil(outcome.h_min, 5)})"
    return cell if outcome.sound else f"unsound: {cell}"
