"""What an attack found: tables, a picture and a page; and the same for W&B."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glsmooth.attacks import Attacked, Finding
from glsmooth.attacks.search import STAGES
from glsmooth.bounds import METHODS, Outcome
from glsmooth.family.regions import Region
from glsmooth.learning.wandb_log import Session
from glsmooth.report import html, tables, wording
from glsmooth.report.figures import Theme, label_axes, new_axes, new_figure
from glsmooth.report.page import LISTED_IMAGES, save_picture
from glsmooth.runs.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Attack", "headline", "log_attack", "short_table", "write_attack"]

#: Images that the picture shows one by one.
_SHOWN = 200


@dataclass(frozen=True)
class Attack:
    """What a report of an attack says.

    Attributes:
        attacked: what was found.
        transform, dataset: their names.
        region: where.
        method: whose certificates were tested; None where none were.
        outcome: what it says of the region.
        classes: their names.
        asked: images that were to be attacked.
        settings: (name, value) pairs for the page.
        stops_early: did the certification's votes stop once the region was decided?
    """

    attacked: Attacked
    transform: str
    dataset: str
    region: Region
    method: str | None
    outcome: Outcome | None
    classes: Sequence[str]
    asked: int
    settings: Sequence[tuple[str, str]]
    stops_early: bool = False

    @property
    def sound(self) -> bool:
        """Were certificates tested, and are they such? Those of an unsound method count as no certificates."""
        return self.method is not None and METHODS[self.method].sound and (self.outcome is None or self.outcome.sound)

    def numbers(self) -> dict[str, Any]:
        """The numbers of summary.json."""
        found = self.attacked
        gaps = [one.gap for one in found.findings if not math.isnan(one.gap) and one.certified]
        return {
            "images": len(found.findings),
            "asked": self.asked,
            "base_accuracy": found.base_accuracy,
            "smoothed_accuracy": found.accuracy,
            "base_empirical_robust_accuracy": found.base_era,
            "empirical_robust_accuracy": found.era,
            "certified_robust_accuracy": found.cra if self.sound else None,
            "certified": sum(one.certified for one in found.findings) if found.tested else None,
            "false_certificates": len(found.beaten) if found.tested else None,
            "refuted": len(found.refuted) if found.tested else None,
            "chance": found.chance if found.tested else None,
            "images_of_chance": found.images if found.tested else None,
            "median_gap": float(np.median(gaps)) if gaps else None,
            "outside": {
                name: dict(zip(("broken", "tried"), _outside(found, name), strict=True)) for name in found.outside
            },
            "passes": sum(one.passes for one in found.findings),
        }


def _outside(found: Attacked, name: str) -> tuple[int, int]:
    """Images that break under a condition, and those that were tried."""
    tried = [one.outside[name] for one in found.findings if one.outside[name] >= 0]
    return sum(tried), len(tried)


def headline(attack: Attack) -> str:
    """The result in one or two sentences."""
    found, images = attack.attacked, len(attack.attacked.findings)
    where = wording.every(attack.region)
    robust = sum(one.prediction == one.label and not one.broken for one in found.findings)
    words = (
        f"Of {images} images the attack found no failure of the smoothed classifier for {robust} "
        f"({wording.percent(robust, images)}) under {where}."
    )
    if not found.tested:
        return f"{words} No certificates were tested."
    certified = sum(one.certified for one in found.findings)
    which = "certified images" if attack.sound else f"images that {wording.METHODS[attack.method or '']} claims"
    if not found.beaten:
        return f"{words} None of the {certified} {which} is broken."
    how = (
        "and not by chance: the certificates are false"
        if found.violated
        else f"which happens by chance with probability {found.chance:.2g}"
    )
    return f"{words} {len(found.beaten)} of the {certified} {which} are broken, {how}."


_RATES = ("classifier", "as it is", "ERA", "CRA")


def _rates(attack: Attack) -> list[tuple[str, ...]]:
    found, images = attack.attacked, len(attack.attacked.findings)

    def share(held: Sequence[bool]) -> str:
        return wording.percent(sum(held), images)

    of = found.findings
    certified = share([one.certified and one.prediction == one.label for one in of]) if attack.sound else "–"
    return [
        (
            "base",
            share([one.base_prediction == one.label for one in of]),
            share([one.base_prediction == one.label and not one.base_broken for one in of]),
            "–",
        ),
        (
            "smoothed",
            share([one.prediction == one.label for one in of]),
            share([one.prediction == one.label and not one.broken for one in of]),
            certified,
        ),
    ]


_FOUND = ("attack", "base broken", "smoothed broken")


def _found(attack: Attack) -> list[tuple[str, ...]]:
    """How many images each attack was the first to break, in its best parameter."""
    rows: list[tuple[str, ...]] = []
    for number, name in enumerate(STAGES):
        base = sum(one.base_broken and one.base_found_by == number for one in attack.attacked.findings)
        broken = sum(one.broken and one.found_by == number for one in attack.attacked.findings)
        if base or broken:
            rows.append((name, str(base), str(broken)))
    return rows


_OUTSIDE = ("outside the theorem", "tried", "broken", "share")


def _conditions(attack: Attack) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, title in attack.attacked.outside.items():
        broken, tried = _outside(attack.attacked, name)
        rows.append((title, str(tried), str(broken), wording.percent(broken, tried) if tried else "–"))
    return rows


_IMAGES = (
    "index",
    "true class",
    "class",
    "certified",
    "worst parameter",
    "votes there",
    "broken",
    "certified to",
    "broken at",
    "gap",
)


def _images(attack: Attack) -> list[tuple[str, ...]]:
    rows = []
    for one in attack.attacked.findings[:LISTED_IMAGES]:
        beta = dict(zip(attack.attacked.parameters, one.beta, strict=True))
        worst = wording.point(beta) if one.n else "–"
        rows.append(
            (
                str(one.index),
                _class(attack, one.label),
                _class(attack, one.prediction),
                "yes" if one.certified else "no",
                worst,
                f"{one.count} of {one.n}" if one.n else "–",
                "yes" if one.broken or one.beaten else "no",
                *(_size(value) for value in (one.certified_size, one.broken_size, one.gap)),
            )
        )
    return rows


def _class(attack: Attack, number: int) -> str:
    return attack.classes[number] if 0 <= number < len(attack.classes) else "none"


def _size(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "−")


def _notes(attack: Attack) -> list[str]:
    """What a reader must know, a sentence each."""
    found = attack.attacked
    notes = [
        "ERA, empirical robust accuracy, is the share of the images that are right and for which no parameter was "
        "found at which they are wrong. It is an upper estimate: a better attack may find more. CRA is a lower one.",
        "A failure of the smoothed classifier counts by fresh votes at the parameter that was found: another class "
        "leads, and all such statements of this attack hold at once except with probability "
        f"{wording.probability(found.delta)}.",
    ]
    if attack.method is not None:
        unsound = "" if METHODS[attack.method].sound else " This method is known to be unsound."
        notes.append(
            f"Certificates are those of {METHODS[attack.method].title}; one is broken where its class has at most half "
            f"of the probability.{unsound}"
        )
    if found.beaten and not found.violated:
        notes.append(
            f"{len(found.beaten)} certified images are broken, and fresh votes at the identity do not certify them "
            f"again: their votes were lucky. Of {found.images} images so many are with probability "
            f"{found.chance:.2g} by chance."
        )
    if attack.stops_early:
        notes.append(
            "The votes of the certification stopped once the region was decided, so images may be certified farther "
            "than they are shown to be."
        )
    if len(found.findings) < attack.asked:
        notes.append(f"{attack.asked - len(found.findings)} of the {attack.asked} images have not been attacked yet.")
    return notes


_SIZES = (
    "Sizes are of the region, scaled around the identity: 1 is the region itself. An image is certified up to the one "
    "and was found to break at the other; between them nothing is known. The gap is the difference."
)
_BEYOND = (
    "Certificates are about transformed images as they are: not clipped, not rounded, shifts cyclic. Here the "
    "certified images (where nothing is certified, those that were not broken) are attacked as other programs would "
    "change them. Nothing is promised about these, so what breaks here contradicts no certificate."
)


def short_table(attack: Attack) -> str:
    """What the console shows, as Markdown."""
    parts = [
        f"# Attack: {tables.escaped(attack.transform)} on {tables.escaped(attack.dataset)}\n",
        f"{tables.escaped(headline(attack))}\n",
        tables.markdown(_RATES, _rates(attack)),
    ]
    if rows := _found(attack):
        parts.append(tables.markdown(_FOUND, rows))
    if rows := _conditions(attack):
        parts += [f"{tables.escaped(_BEYOND)}\n", tables.markdown(_OUTSIDE, rows)]
    return "\n".join([*parts, tables.bullets(_notes(attack))])


def write_attack(attack: Attack, out: Path) -> Path:
    """Write table.md, report.html and the picture to ``out``; returns the path of the page."""
    write_text(out / "table.md", short_table(attack))
    sections = [html.section("Result", html.table(_RATES, _rates(attack), (1, 2, 3)))]
    if rows := _found(attack):
        sections.append(html.section("Which attack broke them", html.table(_FOUND, rows, (1, 2))))
    picture = _picture(attack, out)
    if picture is not None:
        sections.append(html.section("Between the certificate and the nearest failure", html.figure(picture)))
    if rows := _conditions(attack):
        sections.append(
            html.section(
                "What the assumptions cost: outside the theorem",
                html.paragraph(_BEYOND),
                html.table(_OUTSIDE, rows, (1, 2, 3), range(len(rows))),
            )
        )
    flagged = [i for i, one in enumerate(attack.attacked.findings[:LISTED_IMAGES]) if one.beaten]
    sections += [
        html.section("What the numbers mean", html.bullets(_notes(attack))),
        html.section("Every image", html.table(_IMAGES, _images(attack), (0, 7, 8, 9), flagged)),
        html.section("Settings", html.pairs(attack.settings)),
    ]
    title = f"Attack: {attack.transform} on {attack.dataset}"
    file = out / "report.html"
    write_text(file, html.page(title, headline(attack), "", sections, wide=True))
    return file


def _with_size(attack: Attack) -> list[Finding]:
    """Images whose sizes are known, by the size up to which they are certified."""
    shown = [
        one for one in attack.attacked.findings if not (math.isnan(one.certified_size) and math.isnan(one.broken_size))
    ]
    return sorted(shown, key=lambda one: (one.certified_size, one.broken_size))[:_SHOWN]


def _picture(attack: Attack, out: Path) -> html.Picture | None:
    shown = _with_size(attack)
    if not shown:
        return None
    words = (
        "A row an image: the size of the region up to which it is certified, and the smallest at which it was broken."
    )
    return save_picture(lambda theme: _gaps(theme, shown), out, "gap", words, _SIZES)


def _gaps(theme: Theme, shown: Sequence[Finding]) -> Figure:
    """A row an image: a bar to where it is certified, a mark where it was broken, a line between the two."""
    figure = new_figure(theme, 3.4)
    axes = new_axes(figure, theme)
    rows = np.arange(len(shown))
    certified = np.array([one.certified_size for one in shown])
    broken = np.array([one.broken_size for one in shown])
    axes.barh(rows, np.nan_to_num(certified), height=0.8, color=theme.yes, label="certified up to here")
    axes.hlines(rows, certified, broken, color=theme.rule, linewidth=1)
    if not np.isnan(broken).all():
        axes.plot(broken, rows, "x", color=theme.no, markersize=5, label="broken here")
    axes.axvline(1.0, color=theme.ink, linewidth=1, linestyle="--", label="the region")
    axes.set_yticks([])
    axes.set_xlim(0, 1.05 * float(np.nanmax([1.0, *certified, *broken])))
    label_axes(axes, theme, "size of the region", "images")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8.5, labelcolor=theme.ink, frameon=False)
    return figure


def log_attack(logged: Session, attack: Attack, out: Path) -> None:
    """Send what the page shows to W&B."""
    if logged.run is None:
        return
    numbers = attack.numbers()
    outside = numbers.pop("outside")
    logged.summarise(
        {f"attack/{name}": value for name, value in numbers.items() if value is not None}
        | {f"attack/outside/{name}": of["broken"] / of["tried"] for name, of in outside.items() if of["tried"]}
    )
    with logged.going_on():
        import wandb

        logged.log({"tables/attack": wandb.Table(columns=list(_IMAGES), data=[list(one) for one in _images(attack)])})
        if (out / "gap.png").is_file():
            logged.log({"pictures/gap": wandb.Image(str(out / "gap.png"))})
