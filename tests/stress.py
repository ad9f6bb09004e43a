"""Random families and regions against the oracle: ``make stress``, or ``python -m tests.stress --help``.

Each case draws a transformation, its laws and a region, asks the package for the required probability, and compares it
with the oracle's lower enclosure at points of the region. A value more than 1e-9 below it is a violation: some
classifier refutes the certificate. Where the region is a list of points the truth is known, so values that are much too
high are counted as well. A case is a function of (seed, kind, number) alone, and every finding prints the command that
repeats it.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import glsmooth as gs
from glsmooth.bounds import certify_region
from glsmooth.runs import verify
from glsmooth.runs.proof import prove
from tests.oracle import enclosure

T = gs.transforms

TOLERANCE = 1e-9
TOO_HIGH = 1e-4
SLOW = 20.0  # seconds of the package alone
LIMIT = 120  # seconds after which a case is given up

Rng = np.random.Generator


@dataclass
class Case:
    """A family, a region, and parameters inside it."""

    family: gs.SmoothedFamily
    region: gs.regions.Region
    points: list[dict[str, float]]

    def __str__(self) -> str:
        size = f", image_size={self.family.image_size}" if self.family.image_size else ""
        laws = ", ".join(f"{name!r}: {exact(law)}" for name, law in self.family.laws.items())
        return f"SmoothedFamily({_transform(self.family.transform)}, {{{laws}}}{size}), {exact_region(self.region)}"


def exact(law: gs.laws.Law) -> str:
    """A law with all its digits."""
    return f"gs.{type(law).__name__}({', '.join(map(repr, law.values.values()))})"


def exact_region(region: gs.regions.Region) -> str:
    if isinstance(region, gs.Box):
        return f"gs.Box({', '.join(f'{name}={ends!r}' for name, ends in region.intervals.items())})"
    if isinstance(region, gs.Ball):
        centre = "".join(f", {name}={value!r}" for name, value in region.centre.items())
        return f"gs.Ball({region.radius!r}{centre})"
    return f"gs.Points({region.points!r})"


def _transform(transform: T.ResolvableTransform) -> str:
    if type(transform) is T.Composition:
        return f"T.Composition({', '.join(_transform(part) for part in transform.parts)})"
    arguments = [f"{name}={getattr(transform, name)!r}" for name in ("order", "border") if hasattr(transform, name)]
    for part in getattr(transform, "parts", ()):
        if hasattr(part, "order"):
            arguments.append(f"order={part.order!r}")
    return f"T.{type(transform).__name__}({', '.join(arguments)})"


# ------------------------------------------------------------------------------------------------------------ drawing


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def _sign(rng: Rng) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def draw_law(rng: Rng, name: str, cycle: int | None, extreme: float = 1.0) -> gs.laws.Law:
    """Any law that the parameter may have, in units that are usual for it, times ``extreme``."""
    if name in ("contrast", "gamma"):
        kind = rng.choice(["LogNormal", "LogNormal", "Rayleigh", "Exponential", "HalfNormal", "Uniform"])
        unit = _log_uniform(rng, 0.05, 5) * extreme
        if kind == "LogNormal" and extreme != 1:
            return gs.LogNormal(math.log(extreme), _log_uniform(rng, 0.001, 9))
        if kind == "LogNormal":
            loc = 0.0 if rng.random() < 0.5 else rng.uniform(-1, 1)
            scale = _log_uniform(rng, 0.03, 1.2) if rng.random() < 0.8 else _log_uniform(rng, 0.005, 4)
            return gs.LogNormal(loc, scale)
        if kind == "Uniform":
            low = 0.0 if rng.random() < 0.3 else unit * rng.uniform(0.05, 1)
            return gs.Uniform(low, low + unit * _log_uniform(rng, 0.1, 3))
    else:
        kinds = ["Rayleigh", "Exponential", "HalfNormal", "Uniform", "LogNormal"]
        if name != "blur":
            kinds += ["Normal", "Normal", "Normal"]
        if cycle is not None:
            kinds += ["UniformCyclic"]
        kind = rng.choice(kinds)
        unit = {"brightness": _log_uniform(rng, 0.02, 2), "blur": _log_uniform(rng, 0.1, 20)}.get(
            name, _log_uniform(rng, 0.8, 60)
        )
        unit *= extreme
        if kind == "UniformCyclic":
            return gs.UniformCyclic()
        if kind == "Normal":
            return gs.Normal(0.0 if rng.random() < 0.5 else unit * rng.uniform(-2, 2), unit)
        if kind == "Uniform":
            if name == "blur":
                low = 0.0 if rng.random() < 0.5 else unit * rng.uniform(0, 1)
                return gs.Uniform(low, low + unit)
            return gs.Uniform(-unit, unit) if rng.random() < 0.5 else gs.Uniform(-unit * rng.uniform(-1, 1), unit * 1.5)
        if kind == "LogNormal":
            return gs.LogNormal(math.log(unit), _log_uniform(rng, 0.05, 1.0))
    if kind == "Exponential":
        return gs.Exponential(1 / unit)
    return {"Rayleigh": gs.Rayleigh, "HalfNormal": gs.HalfNormal}[str(kind)](unit)


def _spread(law: gs.laws.Law, name: str, cycle: int | None) -> float:
    """A natural unit for shifts of a law: about one standard deviation, of the logarithm for contrast and gamma."""
    v, kind = law.values, type(law).__name__
    if kind == "UniformCyclic":
        return float(cycle or 1)
    if name in ("contrast", "gamma"):
        if kind == "LogNormal":
            return v["scale"]
        return 0.5 * math.log(v["high"] / v["low"]) if kind == "Uniform" and v["low"] > 0 else 0.7
    if kind == "LogNormal":
        return math.exp(v["loc"]) * min(1.0, v["scale"])
    if kind == "Uniform":
        return 0.3 * (v["high"] - v["low"])
    return 1 / v["rate"] if kind == "Exponential" else v["scale"]


def _centre(law: gs.laws.Law) -> float:
    v, kind = law.values, type(law).__name__
    if kind == "LogNormal":
        return math.exp(v["loc"])
    if kind == "Uniform":
        return 0.5 * (v["low"] + v["high"])
    return 1 / v["rate"] if kind == "Exponential" else v["scale"]


def _units(family: gs.SmoothedFamily) -> dict[str, float]:
    laws = family.laws
    units = {name: _spread(law, name, family.torus.get(name)) for name, law in laws.items()}
    if "contrast" in laws and "brightness" in laws and _order(family.transform) == "contrast_first":
        units["brightness"] /= max(_centre(laws["contrast"]), 1e-3)
    if "contrast" in laws and "gamma" in laws:
        units["contrast"] /= max(_centre(laws["gamma"]), 1e-3)
    return units


def _order(transform: T.ResolvableTransform) -> str | None:
    for part in getattr(transform, "parts", (transform,)):
        if hasattr(part, "order"):
            return str(part.order)
    return None


def _interval(rng: Rng, name: str, unit: float, size: float, whole: bool) -> tuple[float, float]:
    """An interval of a parameter: around the identity, beside it, one-sided, a single value, tiny or huge."""
    shape = rng.choice(["around", "around", "beside", "one-sided", "single", "tiny", "huge"], p=None)
    width = size * unit * {"tiny": _log_uniform(rng, 1e-6, 1e-2), "huge": _log_uniform(rng, 2, 30)}.get(str(shape), 1.0)
    a, b = width * rng.uniform(0.1, 1), width * rng.uniform(0.1, 1)
    if shape in ("around", "tiny", "huge"):
        low, high = (-a, a) if rng.random() < 0.4 else (-a, b)
    elif shape == "beside":
        low, high = sorted((a, b))
    elif shape == "one-sided":
        low, high = 0.0, a
    else:
        low = high = a
    if name != "blur" and shape not in ("around", "huge") and rng.random() < 0.5:
        low, high = -high, -low
    if name == "blur":
        low = max(low, 0.0)
        high = max(high, low)
    if whole and (rng.random() < 0.6 or math.ceil(low) > math.floor(high)):
        low, high = float(math.floor(low + 0.5)), float(math.floor(high + 0.5))
    low, high = min(max(low, -1e8), 1e8), min(max(high, -1e8), 1e8)
    if name in ("contrast", "gamma"):
        low, high = (math.exp(min(max(v, -18.0), 18.0)) for v in (low, high))
    return low + 0.0, high + 0.0


def _whole_range(family: gs.SmoothedFamily, name: str, low: float, high: float) -> tuple[int, int] | None:
    """The whole shifts of an interval: on the torus those inside, on the plane those that its values round to."""
    if name in family.torus:
        first, last = math.ceil(low), math.floor(high)
    else:
        first, last = math.floor(low + 0.5), math.floor(high + 0.5)
    return (first, last) if first <= last else None


def points_of_box(rng: Rng, family: gs.SmoothedFamily, box: gs.Box, n: int) -> list[dict[str, float]]:
    """Corners, places on edges and near them, and random places inside."""
    points = []
    for i in range(n):
        point = {}
        for name, (low, high) in box.intervals.items():
            if name in family.transform.integer_parameters:
                ends = _whole_range(family, name, low, high)
                if ends is None:
                    return []
                a, b = ends
                end, inside = float(rng.choice([a, b])), float(rng.integers(a, b + 1))
                near = float(min(max(end + rng.integers(-2, 3), a), b))
            else:
                end = float(rng.choice([low, high]))
                if name in ("contrast", "gamma"):
                    inside = math.exp(rng.uniform(math.log(low), math.log(high))) if low < high else low
                else:
                    inside = float(rng.uniform(low, high))
                inside = min(max(inside, low), high)
                near = end + (inside - end) * _log_uniform(rng, 1e-6, 1)
                near = min(max(near, low), high)
            share = i / n  # first corners, then edges, then anywhere
            if share < 0.4:
                point[name] = end
            else:
                pick = rng.random()
                point[name] = end if pick < 0.5 * (1 - share) + 0.15 else near if pick < 0.6 else inside
        points.append(point)
    return [dict(p) for p in dict.fromkeys(tuple(p.items()) for p in points)]


def beside(rng: Rng, family: gs.SmoothedFamily, box: gs.Box, point: dict[str, float], reach: float) -> dict[str, float]:
    """A place near a point of a box: each coordinate moved by up to ``reach`` of its interval, or left alone."""
    moved = dict(point)
    for name, (low, high) in box.intervals.items():
        ends = _whole_range(family, name, low, high) if name in family.transform.integer_parameters else (low, high)
        if ends is None or rng.random() < 0.3:
            continue
        step = reach * (ends[1] - ends[0]) * rng.uniform(-1, 1)
        if name in family.transform.integer_parameters:
            step = math.copysign(max(1, round(abs(step))), step)
        moved[name] = min(max(point[name] + step, ends[0]), ends[1])
    return moved


def points_of_ball(rng: Rng, family: gs.SmoothedFamily, ball: gs.Ball, n: int) -> list[dict[str, float]]:
    points = []
    names = list(ball.centre)
    for _ in range(4 * n):
        direction = rng.normal(size=len(names))
        direction *= ball.radius * (1.0 if rng.random() < 0.6 else rng.random()) / np.linalg.norm(direction)
        point = {}
        for name, step in zip(names, direction, strict=True):
            value = ball.centre[name] + (1 - 1e-12) * float(step)
            whole = name in family.transform.integer_parameters
            # Towards the centre, so that the whole shift stays inside.
            point[name] = float(math.floor(value) if step > 0 else math.ceil(value)) if whole else value
        if ball.contains(point):
            points.append(point)
        if len(points) >= n:
            break
    return [dict(p) for p in dict.fromkeys(tuple(p.items()) for p in points)]


def _size(rng: Rng) -> tuple[int, int]:
    """(H, W) of an image: usual, odd, or a line."""
    draw = rng.random()
    if draw < 0.15:
        return 1, int(rng.integers(1, 65))
    if draw < 0.3:
        return int(rng.integers(1, 40)), 1
    if draw < 0.6:
        return 32, 32
    return int(rng.integers(2, 49)), int(rng.integers(2, 49))


def _transforms(kind: str, rng: Rng) -> T.ResolvableTransform:
    order = str(rng.choice(["contrast_first", "brightness_first"]))
    border = str(rng.choice(["reflect", "cyclic"]))
    made = {
        "brightness": lambda: T.Brightness(),
        "contrast": lambda: T.Contrast(),
        "gamma": lambda: T.Gamma(),
        "translation": lambda: T.Translation(),
        "gaussian_blur": lambda: T.GaussianBlur(border=border),
        "contrast_brightness": lambda: T.ContrastBrightness(order="contrast_first"),
        "brightness_contrast": lambda: T.ContrastBrightness(order="brightness_first"),
        "gamma_contrast": lambda: T.GammaContrast(),
        "brightness_translation": lambda: T.BrightnessTranslation(),
        "contrast_translation": lambda: T.ContrastTranslation(),
        "contrast_brightness_translation": lambda: T.ContrastBrightnessTranslation(order=order),
        "translation_blur_brightness_contrast": lambda: T.TranslationBlurBrightnessContrast(order=order),
        "composition": lambda: _composition(rng, order),
    }
    return made[kind]()


def _composition(rng: Rng, order: str) -> T.Composition:
    """Two to five parameters from parts that commute."""
    intensities = [T.Brightness(), T.Contrast(), T.ContrastBrightness(order=order), T.Gamma(), T.GammaContrast(), None]
    intensity = intensities[int(rng.integers(len(intensities)))]
    parts: list[Any] = [] if intensity is None else [intensity]
    may_blur = intensity is None or "gamma" not in intensity.parameters
    wanted = int(rng.integers(1, 4))
    if wanted != 1:
        parts.append(T.Translation())
    if may_blur and (wanted != 2 or len(parts) < 2):
        parts.append(T.GaussianBlur(border="cyclic"))
    if len(parts) < 2 and not any(isinstance(part, T.Translation) for part in parts):
        parts.append(T.Translation())
    if len(parts) < 2:
        parts.append(T.Brightness())
    return T.Composition(*(parts[i] for i in rng.permutation(len(parts))))


KINDS = (
    "brightness", "contrast", "gamma", "gaussian_blur", "translation", "contrast_brightness", "brightness_contrast",
    "gamma_contrast", "brightness_translation", "contrast_translation", "contrast_brightness_translation",
    "translation_blur_brightness_contrast", "composition",
)  # fmt: skip
#: Cases of a kind in one round: the affine groups are where bounds are hardest.
WEIGHTS = {"contrast_brightness": 4, "brightness_contrast": 3, "gamma_contrast": 4, "composition": 3}


def draw_case(seed: int, kind: str, number: int) -> Case:
    """The case of a seed, a kind and a number; each kind's cases are independent of the others'."""
    rng = np.random.default_rng([seed, KINDS.index(kind), number])
    transform = _transforms(kind, rng)
    moves = bool(transform.integer_parameters)
    size = _size(rng) if rng.random() < (0.6 if moves else 0.05) else None
    cycles = dict(zip(("ty", "tx"), size, strict=True)) if size and moves else {}
    usual = rng.random() < 0.25  # the laws of the literature
    # Of every ten cases one has laws of extreme size (drawn apart, so that the others stay as they are).
    apart = np.random.default_rng([seed, KINDS.index(kind), number, 1])
    extreme = apart.random() < 0.1
    laws = {}
    for name in transform.parameters:
        if extreme:
            far = 1e3 if name in ("tx", "ty") else 1e6
            laws[name] = draw_law(rng, name, cycles.get(name), _log_uniform(apart, 1 / far, far))
        elif usual and name not in ("contrast", "gamma", "blur"):
            range_ = (0.05, 1) if name == "brightness" else (1, 30)
            laws[name] = gs.Normal(0.0, _log_uniform(rng, *range_))
        else:
            laws[name] = draw_law(rng, name, cycles.get(name))
    family = gs.SmoothedFamily(transform, laws, size)
    units = _units(family)
    names = [name for name in transform.parameters if rng.random() < 0.9] or list(transform.parameters[:1])
    strength = _log_uniform(rng, 0.05, 2.5) / math.sqrt(len(names))
    box = gs.Box(
        **{name: _interval(rng, name, units[name], strength, name in transform.integer_parameters) for name in names}
    )
    draw = rng.random()
    # Single points test tightness as well; products of many coordinates are slow, so they get fewer points.
    if draw < 0.3:
        points = points_of_box(rng, family, box, 3)
        if points:
            return Case(family, gs.Points(points[: 1 if draw < 0.2 else 3]), points[: 1 if draw < 0.2 else 3])
    count = 30 if len(laws) <= 2 else 16
    if draw > 0.9:
        in_ball = [name for name in names if name not in ("contrast", "gamma", "blur")]
        if in_ball:
            centre = {name: float(math.floor(0.5 * sum(box.intervals[name]) + 0.5)) if name in ("tx", "ty") else
                      0.5 * sum(box.intervals[name]) for name in in_ball}  # fmt: skip
            radius = max(0.5 * (b - a) for a, b in (box.intervals[name] for name in in_ball))
            ball = gs.Ball(radius, **centre)
            return Case(family, ball, points_of_ball(rng, family, ball, count))
    return Case(family, box, points_of_box(rng, family, box, count))


# ------------------------------------------------------------------------------------------------------------ judging


@dataclass
class Verdict:
    """What one case found."""

    kind: str
    number: int
    method: str = "neyman_pearson"
    points: int = 0
    value: float = math.nan
    deficit: float = -math.inf  # oracle's lower enclosure minus the value: positive is a violation
    worst: dict[str, float] = field(default_factory=dict)
    excess: float = -math.inf  # value minus the truth, for lists of points
    slack: float = math.nan  # value minus the largest lower enclosure seen
    crash: str = ""
    late: bool = False
    refused: str = ""
    not_applicable: str = ""
    seconds: float = 0.0
    oracle_seconds: float = 0.0
    text: str = ""

    @property
    def bad(self) -> bool:
        return bool(self.crash) or self.deficit > TOLERANCE


class OutOfTime(Exception):
    """A case took longer than its limit."""


def _alarm(*_: object) -> None:
    raise OutOfTime(f"no answer in {LIMIT} s")


def _names_a_field(message: str, family: gs.SmoothedFamily) -> bool:
    """Does a refusal say which field is at fault?"""
    return any(re.search(rf"\b{name}\b", message) for name in (*family.parameters, "image_size", "region"))


def value_of(case: Case, method: str) -> float:
    """What a method of the package requires; of ``proof`` what the second program proves."""
    if method != "proof":
        return gs.required_probability(case.family, case.region, method=method)
    proof = prove(case.family, case.region, certify_region(case.family, case.region), seconds=5)
    checker = verify.Family(proof["transform"], proof["smoothing"], proof["image_size"])
    return verify.check_proof(checker, proof["region"], proof)


def judge(seed: int, kind: str, number: int, method: str = "neyman_pearson") -> Verdict:
    """Run one case."""
    verdict = Verdict(kind, number, method)
    # Not every platform and thread can set an alarm; where none is set a case may take as long as it likes.
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(LIMIT)
    started = time.perf_counter()
    try:
        case = draw_case(seed, kind, number)
        verdict.text = str(case)
        started = time.perf_counter()
        try:
            verdict.value = value_of(case, method)
        except gs.NotApplicable as error:
            verdict.not_applicable = str(error)
            return verdict
        except ValueError as error:
            if _names_a_field(str(error), case.family):
                verdict.refused = str(error)
            else:
                verdict.crash = traceback.format_exc()
            return verdict
        except OutOfTime:
            verdict.late = True
            return verdict
        finally:
            verdict.seconds = time.perf_counter() - started
        signal.alarm(0)
        if not 0.5 <= verdict.value <= 1:
            verdict.crash = f"required_probability returned {verdict.value!r}"
            return verdict
        compare(case, verdict)
    except Exception:
        verdict.crash = verdict.crash or traceback.format_exc()
    finally:
        signal.alarm(0)
    return verdict


def compare(case: Case, verdict: Verdict) -> None:
    """Hold ``verdict.value`` against the oracle at every point of the case, and climb from the worst of them."""
    started = time.perf_counter()
    rng = np.random.default_rng(verdict.number)
    truth, best = 0.5, -math.inf
    listed = isinstance(case.region, gs.Points)
    climb = len(case.points) // 2 if isinstance(case.region, gs.Box) else 0
    for i in range(len(case.points) + climb):
        if i < len(case.points):
            point = case.points[i]
        elif not verdict.worst:
            break  # the oracle knows nothing of these points
        else:
            reach = 0.2 * 0.75 ** (i - len(case.points))
            point = beside(rng, case.family, case.region, verdict.worst, reach)
        try:
            known = enclosure(case.family, point, estimate=listed)
        except NotImplementedError:
            continue
        verdict.points += 1
        best, truth = max(best, known.lower), max(truth, known.upper)
        if known.lower - verdict.value > verdict.deficit:
            verdict.deficit, verdict.worst = known.lower - verdict.value, point
    if verdict.points:
        verdict.slack = verdict.value - best
    if listed and verdict.points == len(case.points):
        verdict.excess = verdict.value - truth
    verdict.oracle_seconds = time.perf_counter() - started


def _work(job: tuple[int, str, int, str]) -> Verdict:
    return judge(*job)


def _start() -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool


def schedule(seed: int, only: str | None, region: str | None = None) -> Iterator[tuple[int, str, int]]:
    """Endless rounds over the kinds; ``region`` keeps the cases with that kind of region (Box, Ball, Points)."""
    numbers = dict.fromkeys(KINDS, 0)
    while True:
        for kind in KINDS:
            if only is None or kind == only:
                for _ in range(WEIGHTS.get(kind, 2)):
                    number = numbers[kind]
                    numbers[kind] += 1
                    if region is None or type(draw_case(seed, kind, number).region).__name__ == region:
                        yield seed, kind, number


# ------------------------------------------------------------------------------------------------------------- report


def table(verdicts: list[Verdict]) -> str:
    """One row a kind of family, in Markdown."""
    head = (
        "family", "regions", "points", "violations", "worst deficit", "crashes", "not applicable", "refused",
        "points too high", "worst excess", "median gap", "over 20 s", "no answer", "slowest (s)", "median (s)",
        "oracle a point (ms)",
    )  # fmt: skip
    rows = [head, ("---",) + ("---:",) * (len(head) - 1)]
    for kind in (*KINDS, "all"):
        some = [v for v in verdicts if kind in (v.kind, "all")]
        if not some:
            continue
        points = sum(v.points for v in some)
        deficits = [v.deficit for v in some if v.deficit > -math.inf]
        excesses = [v.excess for v in some if v.excess > -math.inf]
        # How small an error could have been seen: the value less the largest lower enclosure in its region.
        gaps = [v.slack for v in some if v.points and v.value < 1]
        rows.append(
            (
                kind, str(len(some)), str(points), str(sum(v.deficit > TOLERANCE for v in some)),
                f"{max(deficits):.1e}" if deficits else "", str(sum(bool(v.crash) for v in some)),
                str(sum(bool(v.not_applicable) for v in some)), str(sum(bool(v.refused) for v in some)),
                f"{sum(e > TOO_HIGH for e in excesses)} of {len(excesses)}",
                f"{max(excesses):.1e}" if excesses else "", f"{np.median(gaps):.0e}" if gaps else "",
                str(sum(v.seconds > SLOW for v in some)), str(sum(v.late for v in some)),
                f"{max(v.seconds for v in some):.1f}",
                f"{np.median([v.seconds for v in some]):.3f}",
                f"{1e3 * sum(v.oracle_seconds for v in some) / max(points, 1):.0f}",
            )
        )  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _command(seed: int, verdict: Verdict) -> str:
    method = "" if verdict.method == "neyman_pearson" else f" --method {verdict.method}"
    return f"python -m tests.stress --seed {seed} --only {verdict.kind} --case {verdict.number}{method}"


def findings(seed: int, verdicts: list[Verdict]) -> str:
    """Every violation and crash, and per kind the value that is furthest above the truth."""
    lines = []
    for v in sorted((v for v in verdicts if v.deficit > TOLERANCE), key=lambda v: -v.deficit):
        lines.append(
            f"* VIOLATION {v.deficit:.2e}: value {v.value!r}, oracle {v.value + v.deficit!r} at {v.worst}\n"
            f"  {v.text}\n  {_command(seed, v)}"
        )
    for v in verdicts:
        if v.crash:
            lines.append(f"* CRASH: {v.crash.strip().splitlines()[-1]}\n  {v.text}\n  {_command(seed, v)}")
    for kind in KINDS:
        some = [v for v in verdicts if v.kind == kind]
        if not some:
            continue
        v = max(some, key=lambda v: v.excess)
        if v.excess > TOO_HIGH:
            lines.append(f"* too high by {v.excess:.2e}: value {v.value!r}\n  {v.text}\n  {_command(seed, v)}")
        v = max(some, key=lambda v: v.seconds)
        if v.seconds > SLOW:
            late = ", no answer" if v.late else ""
            lines.append(f"* slow: {v.seconds:.1f} s{late}\n  {v.text}\n  {_command(seed, v)}")
    return "\n".join(lines)


def run(
    points: int,
    seed: int,
    jobs: int,
    minutes: float,
    only: str | None = None,
    region: str | None = None,
    method: str = "neyman_pearson",
) -> list[Verdict]:
    """Cases until there are enough points or the time is over."""
    from tqdm import tqdm

    deadline = time.monotonic() + 60 * minutes
    verdicts: list[Verdict] = []
    seen = 0
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, initializer=_start) as pool, tqdm(total=points, unit="point", smoothing=0.02) as bar:
        queue = schedule(seed, only, region)
        # Jobs are handed out as they are finished: an endless iterator given to imap would be read to its end.
        waiting = [pool.apply_async(_work, ((*next(queue), method),)) for _ in range(4 * jobs)]
        while seen < points and time.monotonic() < deadline:
            for i, result in enumerate(waiting):
                if result.ready():
                    verdict = result.get()
                    waiting[i] = pool.apply_async(_work, ((*next(queue), method),))
                    verdicts.append(verdict)
                    seen += verdict.points
                    bar.update(verdict.points)
                    bar.set_postfix(bad=sum(v.bad for v in verdicts), refresh=False)
                    break
            else:
                time.sleep(0.005)
        pool.terminate()
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--points", type=int, default=100_000, help="parameters to compare (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes (default: all cores)")
    parser.add_argument("--minutes", type=float, default=60, help="stop after this long (default %(default)s)")
    parser.add_argument("--only", choices=KINDS, help="one kind of family")
    parser.add_argument("--method", default="neyman_pearson", help="of the package, or proof (default %(default)s)")
    parser.add_argument("--region", choices=("Box", "Ball", "Points"), help="one kind of region")
    parser.add_argument("--case", type=int, help="repeat one case of --only and print it")
    parser.add_argument("--output", type=Path, default=Path("outputs/stress.md"), help="where the table goes")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.case is not None:
        if arguments.only is None:
            parser.error("--case needs --only KIND")
        verdict = judge(arguments.seed, arguments.only, arguments.case, arguments.method)
        print(verdict.text)
        print(f"value {verdict.value!r} in {verdict.seconds:.2f} s; {verdict.points} points")
        print(f"oracle minus value at most {verdict.deficit:.3e}, at {verdict.worst}; value minus truth "
              f"{verdict.excess:.3e}")  # fmt: skip
        for what in ("crash", "refused", "not_applicable"):
            if getattr(verdict, what):
                print(f"{what}: {getattr(verdict, what)}")
        return int(verdict.bad)
    started = time.monotonic()
    a = arguments
    verdicts = run(a.points, a.seed, a.jobs, a.minutes, a.only, a.region, a.method)
    only = "".join(f" --{name} {value}" for name in ("only", "region") if (value := getattr(a, name)))
    only += f" --method {a.method}" if a.method != "neyman_pearson" else ""
    text = (
        f"`python -m tests.stress --seed {arguments.seed} --points {arguments.points}{only}`: "
        f"{(time.monotonic() - started) / 60:.1f} min with {arguments.jobs} processes\n\n"
        f"{table(verdicts)}\n\n{findings(arguments.seed, verdicts)}\n"
    )
    print(text)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text)
    return int(any(v.bad for v in verdicts))


if __name__ == "__main__":
    sys.exit(main())
