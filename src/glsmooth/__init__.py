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
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glsmooth import bounds, threats, transforms
    from glsmooth.attacks import attack_images
    from glsmooth.bounds import NotApplicable, required_probability, tradeoff
    from glsmooth.commands.dataset import certify_dataset
    from glsmooth.family.regions import Ball, Box, Points
    from glsmooth.family.resolvability import check_transform
    from glsmooth.family.smoothed import SmoothedFamily
    from glsmooth.laws import Exponential, HalfNormal, Laplace, Law, LogNormal, Normal, Rayleigh, Uniform, UniformCyclic
    from glsmooth.laws.checks import check_law
    from glsmooth.report.paper import figures
    from glsmooth.smoothing import SmoothedClassifier
    from glsmooth.transforms import ResolvableTransform

__version__ = "0.1.0"

__all__ = [
    "Ball",
    "Box",
    "Exponential",
    "HalfNormal",
    "Laplace",
    "Law",
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
    "attack_images",
    "bounds",
    "certify_dataset",
    "check_law",
    "check_transform",
    "figures",
    "required_probability",
    "threats",
    "tradeoff",
    "transforms",
]

#: Where the names above come from when they are first used: torch, which they bring, takes seconds.
_HOMES = {
    "attacks": ("attack_images",),
    "bounds": ("NotApplicable", "required_probability", "tradeoff"),
    "commands.dataset": ("certify_dataset",),
    "family.regions": ("Ball", "Box", "Points"),
    "family.resolvability": ("check_transform",),
    "family.smoothed": ("SmoothedFamily",),
    "laws": (
        "Exponential",
        "HalfNormal",
        "Laplace",
        "Law",
        "LogNormal",
        "Normal",
        "Rayleigh",
        "Uniform",
        "UniformCyclic",
    ),
    "laws.checks": ("check_law",),
    "report.paper": ("figures",),
    "smoothing": ("SmoothedClassifier",),
    "transforms": ("ResolvableTransform",),
}
_ROOMS = ("errors", "laws", "transforms", "threats", "family", "bounds", "voting", "smoothing", "attacks")

if not TYPE_CHECKING:  # to which the names above are all that there are

    def __getattr__(name: str) -> object:
        if name in _ROOMS:
            return import_module(f"glsmooth.{name}")
        for module, names in _HOMES.items():
            if name in names:
                globals()[name] = getattr(import_module(f"glsmooth.{module}"), name)
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
