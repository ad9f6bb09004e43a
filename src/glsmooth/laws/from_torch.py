"""A frozen distribution of ``torch.distributions`` as a law, where the two are exactly the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import distributions
from torch.distributions import Distribution

from glsmooth.errors import UserError
from glsmooth.laws.base import Law
from glsmooth.laws.exponential import Exponential
from glsmooth.laws.half_normal import HalfNormal
from glsmooth.laws.laplace import Laplace
from glsmooth.laws.log_normal import LogNormal
from glsmooth.laws.normal import Normal
from glsmooth.laws.uniform import Uniform

__all__ = ["from_torch"]

#: torch's class, ours, and the names of the numbers, which are the same in both.
_SAME: dict[type[Distribution], tuple[Callable[..., Law], tuple[str, ...]]] = {
    distributions.Normal: (Normal, ("loc", "scale")),
    distributions.Laplace: (Laplace, ("loc", "scale")),
    distributions.LogNormal: (LogNormal, ("loc", "scale")),
    distributions.Exponential: (Exponential, ("rate",)),
    distributions.HalfNormal: (HalfNormal, ("scale",)),
    distributions.Uniform: (Uniform, ("low", "high")),
}


def from_torch(distribution: Any, name: str) -> Law:
    """Our law with the numbers of a distribution of torch.

    torch computes in the type of those numbers, float32 by default, in which tails have no relative precision, and it
    has no upper tails; so nothing of the distribution is used but its numbers, in float64, as they are.

    Args:
        distribution: Normal, Laplace, LogNormal, Exponential, HalfNormal or Uniform, of one number each.
        name: the parameter that it is for; opens the messages.

    Raises:
        UserError: another distribution (a subclass, too, for it may override anything), or many at once.
    """
    kind = type(distribution)
    if kind not in _SAME:
        known = ", ".join(cls.__name__ for cls in _SAME)
        raise UserError(
            f"{name}={kind.__name__}: of torch.distributions {known} are taken; write any other as a law of your own, "
            "a subclass of glsmooth.Law with log_prob and icdf"
        )
    law, fields = _SAME[kind]
    if distribution.batch_shape or distribution.event_shape:
        shape = tuple(distribution.batch_shape + distribution.event_shape)
        raise UserError(f"{name}={kind.__name__}: holds {shape} laws; give one, of plain numbers")
    return law(**{field: torch.as_tensor(getattr(distribution, field)).detach().item() for field in fields})
