"""Certified robustness of image classifiers under semantic transformations, by randomized smoothing.

>>> import glsmooth as gs
>>> family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 0.3)})
>>> round(gs.required_probability(family, gs.Box(brightness=(-0.4, 0.4))), 4)
0.9088
"""

from glsmooth.commands import safe_path  # noqa: F401 - before every other import

# isort: split
from glsmooth.voting import memory  # noqa: F401 - before torch takes any

# isort: split
from glsmooth import bounds, transforms
from glsmooth.bounds import NotApplicable, required_probability, tradeoff
from glsmooth.family.regions import Ball, Box, Points
from glsmooth.family.resolvability import check_transform
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import Exponential, HalfNormal, LogNormal, Normal, Rayleigh, Uniform, UniformCyclic
from glsmooth.smoothing import SmoothedClassifier
from glsmooth.transforms import ResolvableTransform

__version__ = "0.1.0"

__all__ = [
    "Ball",
    "Box",
    "Exponential",
    "HalfNormal",
    "LogNormal",
    "Normal",
    "NotApplicable",
    "Points",
    "Rayleigh",
    "ResolvableTransform",
    "SmoothedClassifier",
    "SmoothedFamily",
    "Uniform",
    "UniformCyclic",
    "bounds",
    "check_transform",
    "required_probability",
    "tradeoff",
    "transforms",
]
