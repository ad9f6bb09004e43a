"""Hypothesis strategies for laws, families, regions and parameters inside them."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

import glsmooth as gs

T = gs.transforms


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_subnormal=False)


def positive(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers of every order of magnitude between two positive ends."""
    return numbers(math.log(low), math.log(high)).map(math.exp)


@st.composite
def laws(draw: Any, name: str, symmetric: bool = False) -> gs.laws.Law:
    """A law for a parameter; ``symmetric``: about its centre (in logarithms for contrast and gamma)."""
    unit = draw(positive(0.1, 2.0)) * {"tx": 10.0, "ty": 10.0, "blur": 2.0}.get(name, 1.0)
    if name in ("contrast", "gamma"):
        kinds = ["LogNormal"] if symmetric else ["LogNormal", "Rayleigh", "Exponential", "HalfNormal", "Uniform"]
    else:
        kinds = ["Normal", "Uniform"] if symmetric else ["Uniform", "Exponential", "HalfNormal", "Rayleigh"]
        if name != "blur" and not symmetric:
            kinds.append("Normal")
    kind = draw(st.sampled_from(kinds))
    if kind == "LogNormal":
        return gs.LogNormal(draw(numbers(-0.5, 0.5)), draw(positive(0.1, 1.0)))
    if kind == "Normal":
        return gs.Normal(draw(st.one_of(st.sampled_from([0.0, 0.5]), numbers(-1, 1))), unit)
    if kind == "Uniform":
        if name not in ("contrast", "gamma", "blur") and draw(st.booleans()):
            return gs.Uniform(-unit, unit)
        low = draw(numbers(0, 1)) if name in ("contrast", "gamma", "blur") else draw(numbers(-1, 1))
        return gs.Uniform(low, low + unit)
    if kind == "Exponential":
        return gs.Exponential(1 / unit)
    return {"Rayleigh": gs.Rayleigh, "HalfNormal": gs.HalfNormal}[kind](unit)


#: One coordinate or a torus: fast enough for many examples.
SIMPLE = (T.Brightness, T.Contrast, T.Gamma, T.GaussianBlur, T.Translation)
GROUPS = tuple(make for make in SIMPLE if make is not T.GaussianBlur)  # blur has no way back
#: The affine groups.
AFFINE = (T.ContrastBrightness, lambda: T.ContrastBrightness(order="brightness_first"), T.GammaContrast)


@st.composite
def families(
    draw: Any, transforms: tuple[Any, ...] = SIMPLE, symmetric: bool = False, torus: bool | None = None
) -> gs.SmoothedFamily:
    transform = draw(st.sampled_from(transforms))()
    chosen = {name: draw(laws(name, symmetric)) for name in transform.parameters}
    size = None
    if transform.integer_parameters and (torus or (torus is None and draw(st.booleans()))):
        size = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    return gs.SmoothedFamily(transform, chosen, size)


def value(name: str, largest: float = 1.0) -> st.SearchStrategy[float]:
    """A moderate value of a parameter, whole for translations."""
    if name in ("tx", "ty"):
        return st.integers(-8, 8).map(float)
    if name == "blur":
        return numbers(0, largest)
    if name in ("contrast", "gamma"):
        return numbers(-0.5 * largest, 0.5 * largest).map(math.exp)
    return numbers(-largest, largest)


@st.composite
def parameters(draw: Any, family: gs.SmoothedFamily) -> dict[str, float]:
    return {name: draw(value(name)) for name in family.parameters}


@st.composite
def nested_boxes(draw: Any, family: gs.SmoothedFamily) -> tuple[gs.Box, gs.Box]:
    """A box and a larger one around it."""
    inner, outer = {}, {}
    for name in family.parameters:
        a, b, c, d = sorted(draw(st.tuples(*[value(name)] * 4)))
        inner[name], outer[name] = (b, c), (a, d)
    # Two equal boxes would compare a number with itself.
    assume(inner != outer)
    return gs.Box(**inner), gs.Box(**outer)


@st.composite
def point_of(draw: Any, box: gs.Box, family: gs.SmoothedFamily) -> dict[str, float]:
    point = {}
    for name, (low, high) in box.intervals.items():
        if name in family.transform.integer_parameters:
            point[name] = float(draw(st.integers(math.ceil(low), math.floor(high))))
        else:
            point[name] = draw(st.one_of(st.sampled_from([low, high]), numbers(low, high)))
    return point
