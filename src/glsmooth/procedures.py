"""Monte Carlo procedures: how many votes an image gets, and the lower bound p_A that they prove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from glsmooth.confidence import clopper_pearson_lower, samples_needed
from glsmooth.draws import Stream

__all__ = ["ABSTAIN", "FixedSample", "Procedure", "Tally"]

#: Stands for "no class".
ABSTAIN = -1

#: ``argmax``: a vote goes to the class with the largest logit. ``majority``: to the class whose softmax exceeds 1/2.
VoteRule = Literal["argmax", "majority"]


class Tally:
    """Votes of one image so far.

    Attributes:
        selection, counting: votes for each class, int64 (num_classes,), from disjoint draws.
        n0, n: numbers of selection and counting draws, those that voted for no class included.
        abstained: draws that voted for no class (exact tie, non-finite logits, no majority).
        nonfinite: those of them with a non-finite logit.
        near_ties: draws decided by less than rounding could change.
        clean: vote at the image itself (ABSTAIN until asked for).
        p_lower: lower confidence bound of the selected class's probability.
    """

    def __init__(self, index: int, num_classes: int) -> None:
        self.index = index
        self.selection = np.zeros(num_classes, dtype=np.int64)
        self.counting = np.zeros(num_classes, dtype=np.int64)
        self.n0 = self.n = self.abstained = self.nonfinite = self.near_ties = 0
        self.clean = ABSTAIN
        self.p_lower = 0.0

    @property
    def prediction(self) -> int:
        """Class with the most selection votes (the first of equals); ABSTAIN when no draw voted."""
        return int(self.selection.argmax()) if self.selection.any() else ABSTAIN

    @property
    def count(self) -> int:
        """Counting votes for the selected class."""
        return 0 if self.prediction == ABSTAIN else int(self.counting[self.prediction])


class Procedure(Protocol):
    """Decides, from the votes of an image so far, what to draw next."""

    alpha: float
    rule: VoteRule

    def advance(self, tally: Tally) -> dict[Stream, int]:
        """Bring ``tally.p_lower`` up to date; return the draws to add, by stream; none: the image is finished."""
        ...

    def draws_needed(self, h_min: float) -> int | None:
        """Fewest counting draws that can show p_A > h_min, all votes agreeing; None if no number can."""
        ...

    def draws_range(self) -> tuple[int, int]:
        """Fewest and most draws that an image can take."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain values that decide the result."""
        ...


@dataclass(frozen=True)
class FixedSample:
    """``n0`` draws select the class, ``n`` fresh draws count it (Cohen et al. 2019, CERTIFY).

    With ``two_sided`` the bound is the lower end of the two-sided interval, alpha / 2 on each side.
    """

    n0: int = 200
    n: int = 1000
    alpha: float = 1e-3
    rule: VoteRule = "argmax"
    two_sided: bool = False

    def __post_init__(self) -> None:
        if self.n0 < 1 or self.n < 1:
            raise ValueError(f"n0={self.n0}, n={self.n}: both must be at least 1")
        samples_needed(0.5, self.alpha)  # refuses an impossible alpha

    @property
    def _tail(self) -> float:
        return self.alpha / 2 if self.two_sided else self.alpha

    def advance(self, tally: Tally) -> dict[Stream, int]:
        if tally.n == 0:
            return {Stream.SELECTION: self.n0, Stream.COUNTING: self.n}
        tally.p_lower = clopper_pearson_lower(tally.count, tally.n, self._tail)
        return {}

    def draws_needed(self, h_min: float) -> int | None:
        return samples_needed(h_min, self._tail)

    def draws_range(self) -> tuple[int, int]:
        return self.n0 + self.n, self.n0 + self.n

    def describe(self) -> dict[str, Any]:
        return {
            "name": "paper_literal" if self.two_sided else "paper",
            "n0": self.n0,
            "n": self.n,
            "alpha": self.alpha,
            "vote": self.rule,
            "interval": "two-sided" if self.two_sided else "one-sided",
        }
