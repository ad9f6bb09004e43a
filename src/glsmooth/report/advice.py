"""Which law for a region: what was tried, in a table, a picture and a page. An estimate, and it says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glsmooth.bounds import Outcome
from glsmooth.configuration.build import law_config
from glsmooth.family.candidates import Candidate, spread
from glsmooth.family.regions import Region
from glsmooth.report import figures, html, tables, wording
from glsmooth.report.page import save_picture
from glsmooth.runs.files import write_text

__all__ = ["Advice", "Trial", "headline", "meaning", "notes", "short_table", "write_advice"]

#: Laws that the console shows, the trained one beside them.
_SHOWN = 5


@dataclass(frozen=True)
class Trial:
    """One candidate.

    Attributes:
        candidate: its laws.
        outcome: what the region requires under them.
        needed: fewest of the planned votes that certify; None where all of them are not enough.
        counts: votes for the true class, one number an image; None where none were taken.
        accuracy: share of the images whose class has the most votes; None likewise.
        estimate, low, high: expected CRA with its interval; 0 where the region is out of reach.
    """

    candidate: Candidate
    outcome: Outcome
    needed: int | None
    counts: Sequence[int] | None = None
    accuracy: float | None = None
    estimate: float = 0.0
    low: float = 0.0
    high: float = 0.0

    @property
    def h_min(self) -> float:
        return 1.0 if self.outcome.h_min is None else self.outcome.h_min

    def to_json(self) -> dict[str, Any]:
        family = self.candidate.family
        return {
            "smoothing": {name: law_config(law) for name, law in family.laws.items()},
            "varied": list(self.candidate.varied),
            "spread": {name: spread(family, name) for name in self.candidate.varied},
            "multiplier": self.candidate.multiplier,
            "trained": self.candidate.own,
            "h_min": self.outcome.h_min,
            "argument": self.outcome.argument,
            "votes_needed": self.needed,
            "votes_for_true_class": None if self.counts is None else list(self.counts),
            "smoothed_accuracy": self.accuracy,
            "expected_cra": self.estimate,
            "interval": [self.low, self.high],
        }


@dataclass(frozen=True)
class Advice:
    """What was tried for a region.

    Attributes:
        transform, dataset: their names.
        region: what is to be certified.
        trials: in the order in which they were tried; one of them is the trained law.
        best: the one with the largest estimate.
        images, votes: how many validation images there were, and votes of each under each law.
        monte_carlo: the votes that are planned (:meth:`glsmooth.voting.procedures.Procedure.describe`).
        most: the largest p_A that they can show.
        gain: lower bound of what the best law gains over the trained one; None where that one is the best.
        failure: probability that one of the intervals does not cover; and again, that the gain does not hold.
        certify, train: the lines to type, for the best law.
        settings: (name, value) pairs for the page.
    """

    transform: str
    dataset: str
    region: Region
    trials: Sequence[Trial]
    best: Trial
    images: int
    votes: int
    monte_carlo: Mapping[str, Any]
    most: float
    gain: float | None
    failure: float
    certify: str
    train: str
    settings: Sequence[tuple[str, str]]

    @property
    def trained(self) -> Trial:
        return next(trial for trial in self.trials if trial.candidate.own)

    @property
    def alone(self) -> bool:
        """Is there one parameter, or two shifts that vary as one? Then scales are its own, else relative."""
        return len({trial.candidate.varied for trial in self.trials}) == 1

    def to_json(self) -> dict[str, Any]:
        return {
            "transform": self.transform,
            "dataset": self.dataset,
            "region": self.region.to_config(),
            "images": self.images,
            "votes": self.votes,
            "monte_carlo": dict(self.monte_carlo),
            "gain_over_trained": self.gain,
            "failure": self.failure,
            "best": list(self.trials).index(self.best),
            "trained": list(self.trials).index(self.trained),
            "certify": self.certify,
            "train": self.train,
            "trials": [trial.to_json() for trial in self.trials],
        }


def headline(advice: Advice) -> str:
    """The advice in one sentence."""
    best, where = advice.best, wording.region(advice.region)
    expected = f"CRA {_percent(best.estimate)} ({_interval(best)})"
    if best.candidate.own:
        return (
            f"None of {len(advice.trials)} laws that were tried for {where} is expected to do better for this network "
            f"than its own, {_laws(best.candidate)}: {expected}."
        )
    return (
        f"Of {len(advice.trials)} laws that were tried for {where}, {_laws(best.candidate, whole=True)} is expected "
        f"to do best for this network: {expected}."
    )


def notes(advice: Advice) -> list[str]:
    """What a reader must know of the numbers, a sentence each."""
    trained = advice.trained
    found = [
        "This is an estimate to choose a law by, not a certificate: glsmooth certify makes those, on test images.",
        f"The network was trained under {_laws(trained.candidate, whole=True)}. Another law, the farther from that the "
        "more, may do better after training under it, which no vote of this network can show.",
    ]
    if all(trial.h_min <= 0.5 for trial in advice.trials):
        found.append(
            "The region holds no transformation but the identity: under every law p_A > 1/2 is enough, and the most "
            "accurate law is the best."
        )
    if advice.gain is not None:
        found.append(
            (
                f"Under its own law its CRA is expected to be {_percent(trained.estimate)} ({_interval(trained)})"
                if trained.counts is not None
                else "Under its own law the region is out of reach of the planned votes"
            )
            + (
                f"; the gain is at least {_percent(advice.gain)}, except with probability "
                f"{wording.probability(advice.failure)}."
                if advice.gain > 0
                else f". That the other gains is not certain from {advice.images} images; more may show it "
                "(trial.images)."
            )
        )
    return found


def meaning(advice: Advice) -> list[str]:
    """What the numbers are, a sentence each."""
    voted = sum(trial.counts is not None for trial in advice.trials)
    n, alpha = advice.monte_carlo["n"], wording.probability(advice.monte_carlo["alpha"])
    return [
        f"Expected CRA is the share of images like the {advice.images} validation images for which {n} votes would "
        f"give p_A > h_min in their true class, at α = {alpha}.",
        f"All {voted} intervals cover at once except with probability {wording.probability(advice.failure)}, whatever "
        f"the images are like, as far as the {advice.images} are drawn at random from all; so the interval of the "
        "law that is chosen holds, too. Its estimate flatters: it is the largest of many.",
        "The votes are those for one class that the region requires; accuracy is the share of the validation images "
        "whose class has the most votes.",
        "The validation images chose best.ckpt, which flatters every law a little, and the trained one most.",
        "Under every law an image is transformed by the same random numbers, which certify never draws.",
    ]


_HEADER = ("law", "h_min", "votes", "accuracy", "expected CRA", "interval")


def _rows(advice: Advice, trials: Sequence[Trial]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for trial in trials:
        marks = [word for word, holds in (("best", trial is advice.best), ("trained", trial.candidate.own)) if holds]
        law = _laws(trial.candidate) + (f" ({', '.join(marks)})" if marks else "")
        h_min = "n/a" if trial.outcome.h_min is None else wording.ceil(trial.outcome.h_min, 4)
        if trial.counts is None:
            rows.append((law, h_min, "out of reach", "", "0 %", ""))
            continue
        assert trial.needed is not None
        rows.append(
            (
                law,
                h_min,
                f"{trial.needed} of {advice.monte_carlo['n']}",
                _percent(trial.accuracy or 0.0),
                _percent(trial.estimate),
                _interval(trial),
            )
        )
    return rows


def short_table(advice: Advice) -> str:
    """The best laws, and the trained one, as Markdown."""
    ranked = sorted(advice.trials, key=lambda trial: (trial is advice.best, trial.estimate), reverse=True)
    shown = ranked[:_SHOWN]
    if advice.trained not in shown:
        shown.append(advice.trained)
    return tables.markdown(_HEADER, _rows(advice, shown))


def write_advice(advice: Advice, out: Path) -> Path:
    """Write table.md, report.html and the picture to ``out``; returns the path of the page."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [("certify this network", advice.certify), ("train under it first", advice.train)]
    written = "".join(f"\n{what.capitalize()}:\n\n    {line}\n" for what, line in lines)
    write_text(
        out / "table.md",
        f"# Which law: {tables.escaped(advice.transform)} on {tables.escaped(advice.dataset)}\n\n"
        f"{tables.escaped(headline(advice))}\n{written}\n{tables.markdown(_HEADER, _rows(advice, advice.trials))}\n"
        f"{tables.bullets([*notes(advice), *meaning(advice)])}",
    )
    first, *others = notes(advice)
    sections = [
        html.section(
            "What to type", *(html.paragraph(f"{what.capitalize()}:") + html.command(line) for what, line in lines)
        ),
        html.section("Expected CRA against scale", html.figure(_picture(advice, out))),
        html.section(
            "Every law that was tried", html.table(_HEADER, _rows(advice, advice.trials), range(1, len(_HEADER)))
        ),
        html.section("What the numbers mean", html.bullets([*others, *meaning(advice)])),
        html.section("Settings", html.pairs(advice.settings)),
    ]
    title = f"Which smoothing law: {advice.transform} on {advice.dataset}"
    file = out / "report.html"
    write_text(file, html.page(title, headline(advice), first, sections))
    return file


def _picture(advice: Advice, out: Path) -> html.Picture:
    lines = _lines(advice)
    if advice.alone:
        names = advice.trained.candidate.varied
        word = "shift" if len(names) > 1 else wording.literal(wording.parameter(names[0]))
        label = f"spread of the law of {word}"
        scale = (
            "The spread of a law is half the distance between its quantiles at 16 % and 84 %: of a normal law, its "
            "scale. "
        )
    else:
        label, scale = "scale, relative to the trained law", ""
    caption = (
        f"{scale}Vertical strokes are the intervals, which cover all at once. Crosses are laws under which "
        f"{advice.monte_carlo['n']} votes can never reach the region. The ring is the trained law, the triangle above "
        "points at the best. Below is what the region requires of the votes; the dashed line is the most that they can "
        "show."
    )
    words = f"Expected CRA, with intervals, and h_min against the scale of {len(lines)} laws. {headline(advice)}"
    marks = {"trained": _place(advice, advice.trained), "best": _place(advice, advice.best)}
    return save_picture(
        lambda theme: figures.advice(theme, lines, label, advice.most, **marks), out, "advice", words, caption
    )


def _place(advice: Advice, trial: Trial) -> figures.Tried:
    candidate = trial.candidate
    x = spread(candidate.family, candidate.varied[0]) if advice.alone else candidate.multiplier
    return figures.Tried(x, trial.estimate, trial.low, trial.high, trial.h_min, trial.counts is not None)


def _lines(advice: Advice) -> dict[str, list[figures.Tried]]:
    """The trials by the line that they lie on, each from left to right; the trained law lies on all of its kinds'."""
    lines: dict[str, list[Trial]] = {}
    trained = advice.trained
    for trial in advice.trials:
        lines.setdefault(_line(advice, trial.candidate), []).append(trial)
    for title, trials in lines.items():
        varied, kind = trials[0].candidate.varied, trials[0].candidate.kind
        own = [type(trained.candidate.family.laws[name]).__name__ for name in varied]
        if trained not in trials and (kind is None or own == [kind] * len(own)):
            lines[title] = [*trials, trained]
    return {
        title: sorted((_place(advice, trial) for trial in trials), key=lambda one: one.x)
        for title, trials in lines.items()
    }


def _line(advice: Advice, candidate: Candidate) -> str:
    """What varies along a line, in words."""
    if advice.alone:
        return candidate.kind or "all laws"
    if candidate.varied == candidate.family.parameters:
        return "all together"
    names = _names(candidate)
    own = {type(advice.trained.candidate.family.laws[name]).__name__ for name in candidate.varied}
    return f"{names} alone" if candidate.kind is None or own == {candidate.kind} else f"{names}: {candidate.kind}"


def _names(candidate: Candidate) -> str:
    shifts = {"tx", "ty"} == set(candidate.varied)
    return "shift" if shifts else wording.join(wording.parameter(name) for name in candidate.varied)


def _laws(candidate: Candidate, whole: bool = False) -> str:
    """The laws that differ, or all, in words."""
    names = candidate.family.parameters if whole or candidate.own else candidate.varied
    laws = {name: repr(candidate.family.laws[name]).replace("-", "−") for name in names}
    if len(set(laws.values())) == 1 and len(candidate.family.parameters) == len(names):
        return next(iter(laws.values()))
    return ", ".join(f"{wording.parameter(name)} ~ {law}" for name, law in laws.items())


def _percent(share: float) -> str:
    return f"{wording.floor(100 * share, 1)} %"


def _interval(trial: Trial) -> str:
    return f"{wording.floor(100 * trial.low, 1)} to {wording.ceil(100 * trial.high, 1)} %"
