"""Smoothing laws: one-dimensional distributions of a transformation's parameter.

``torch.distributions`` where it has the law, plus what certificates need and it lacks: Rayleigh and the
uniform law on a cycle, tail probabilities that keep their relative precision, ``-inf`` (not an error or a
NaN) as the log-density outside the support, and the facts about shape on which proofs lean (log-concavity,
symmetry, moves). Every law is scalar and lives in float64; arguments are positional as in torch, and *scale* and
*rate* are different words: the rate of an exponential law is one over its mean. :mod:`glsmooth.laws.base` says what
a new law has to define.
"""

from __future__ import annotations

from glsmooth.laws.base import Law, open_uniform
from glsmooth.laws.exponential import Exponential
from glsmooth.laws.half_normal import HalfNormal
from glsmooth.laws.laplace import Laplace
from glsmooth.laws.log_normal import LogNormal
from glsmooth.laws.normal import Normal
from glsmooth.laws.rayleigh import Rayleigh
from glsmooth.laws.uniform import Uniform
from glsmooth.laws.uniform_cyclic import UniformCyclic

__all__ = [
    "LAWS",
    "Exponential",
    "HalfNormal",
    "Laplace",
    "Law",
    "LogNormal",
    "Normal",
    "Rayleigh",
    "Uniform",
    "UniformCyclic",
    "open_uniform",
]

#: glsmooth's own laws by name.
LAWS: dict[str, type[Law]] = {
    law.__name__: law for law in (Normal, Laplace, LogNormal, Rayleigh, Exponential, HalfNormal, Uniform, UniformCyclic)
}
