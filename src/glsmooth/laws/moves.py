"""A law against itself moved by d, for every d at once: what an observed coordinate does to an inner one.

In c·x + b and c·x^g the inner coordinate moves by an amount that is proportional to the observed one. The pair
(law, law moved by d) is an experiment E_d. A law's own subclass of :class:`Move`, which stands beside it, gives its
log-likelihood ratio's distribution in closed form, and the *slip* of the chord rule: for d between d_1 and d_2, E_d is
no easier to tell apart than E_{d_1} or E_{d_2} chosen at random with the weights of linear interpolation, once its two
laws are allowed to change by slip · (d_2 - d_1)² in total variation.

Why: let the density of one of the two laws, in coordinates in which the other one stands still, be ρ_d. The chord
(1 - λ) ρ_{d_1} + λ ρ_{d_2} differs from ρ_d by at most (d_2 - d_1)²/8 ∫ |∂²ρ/∂d²| in total, half of that in total
variation; and telling a mixture apart is no easier than telling its parts apart with the choice revealed. Where the
density jumps at an end of its support the coordinates are those in which the end stands still (then the other law
moves, and the mass that leaves the support is one more outcome).

Only the direction d > 0 is written down. Moving the other way exchanges the two laws.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Flat", "Move", "increasing_root", "slip_of"]


def slip_of(bend: float) -> tuple[float, float]:
    """The slip where one law stands still and the moved density's slope has the total variation ``bend``."""
    return 0.0, bend / 16


@dataclass(frozen=True, kw_only=True)
class Move(ABC):
    """E_d for every size d >= 0.

    Attributes:
        slip: (under μ_β₀, under μ_β), the chord rule's slips per squared step.
        limit: from this size on the two laws share nothing.
        ordered: is a larger move easier to tell apart (Blackwell's order)?
        slow: does ``below`` search for roots?
    """

    slip: tuple[float, float]
    limit: float = math.inf
    ordered: bool = True
    slow: bool = False

    @abstractmethod
    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """P(L <= t) under the law as it is and under the moved one, for sizes > 0: broadcast arrays.

        Where L has an atom at a finite value the move must be :class:`Flat`, or give its own ``reversed``.
        """

    def reversed(self) -> Move:
        """The same moves the other way."""
        return _Reversed(self, **_facts_of_reverse(self))


def _facts_of_reverse(move: Move) -> dict[str, Any]:
    return {"slip": move.slip[::-1], "limit": move.limit, "ordered": move.ordered, "slow": move.slow}


@dataclass(frozen=True)
class _Reversed(Move):
    """The two laws change places, and L its sign."""

    forward: Move

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # L has no atom at a finite value in the classes that are reversed, so < and <= agree.
        under_0, under_b = self.forward.below(-t, size)
        return 1 - under_b, 1 - under_0


class Flat(Move):
    """Moves under which L is constant where both laws live: two numbers say everything."""

    @abstractmethod
    def overlap(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mass that either law has where both live: under the law as it is, under the moved one."""

    def below(self, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        common_0, common_b = self.overlap(size)
        with np.errstate(divide="ignore", invalid="ignore"):
            under = np.log(common_b) - np.log(common_0) <= t
        return np.where(under, 1.0, 1 - common_0), np.where(under, common_b, 0.0)

    def reversed(self) -> Flat:
        return _FlatReversed(self, **_facts_of_reverse(self))


@dataclass(frozen=True)
class _FlatReversed(Flat):
    """As :class:`_Reversed`."""

    forward: Flat

    def overlap(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        common_0, common_b = self.forward.overlap(size)
        return common_b, common_0


def increasing_root(
    function: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    level: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Where increasing functions pass ``level`` between ``low`` and ``high``: Newton's method, bisection where it
    leaves the bracket.

    A test {L <= t} whose ends are off by e is worse than the best one by about e², so 1e-8 is plenty.

    Args:
        function: (v, which) -> value and slope of the functions numbered ``which`` (a flat index).
        level, low, high, start: arrays of one shape; the root is an end where the level is not reached between them.
    """
    shape, low, high, level = low.shape, low.ravel(), high.ravel(), np.broadcast_to(level, low.shape).ravel()
    root = (low + high) / 2 if start is None else np.clip(start.ravel(), low, high)
    which = np.arange(root.size)
    v, a, b = root.copy(), low, high
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(80):
            value, slope = function(v, which)
            less = value < level[which]
            a, b = np.where(less, v, a), np.where(less, b, v)
            following = v - (value - level[which]) / slope
            following = np.where((following > a) & (following < b), following, (a + b) / 2)
            open_ = np.abs(following - v) > 1e-8
            root[which] = following
            if not open_.any():
                break
            which, v, a, b = which[open_], following[open_], a[open_], b[open_]
    roots: np.ndarray = root.reshape(shape)
    return roots
