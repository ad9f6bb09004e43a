"""When a failure counts: an attack's own confidence, and how many false certificates there may be by chance.

A search tries thousands of parameters and keeps the one that looks worst. The votes that made it look so prove nothing:
the worst of a thousand estimates is below 1/2 for many a sound certificate. And a certificate is itself a statement
that fails with probability α. So a claim goes through three gates.

*The failure is real.* Whatever a search returns, by any heuristics, is only a candidate β. **Fresh** votes are drawn
there, of which nothing that went before knows, and Clopper and Pearson's bound is taken at a level that is shared by
all tests which the attack may make at most: δ in all, δ / M each, M fixed before the first (images times the tests of
an image). A later candidate may depend on earlier votes in any way: given these, each test still errs with probability
at most δ / M, and so any of them errs with probability at most δ. A certified class is *beaten* at β if the upper bound
of its probability is at or below 1/2: a certificate (p_A > h_min) promises more than 1/2 at every β, though another
class need not lead. A class *fails* at β if some other one is ahead of it, by the one-sided binomial test of the two at
that level divided by the number of others: whichever of them is ahead, and though two others be as good as each other.
A certificate against the runner-up promises the lead alone, and is beaten where its class fails. What fails by these
votes has at most half by them, too, so both statements share one error.

*The failure is the bound's.* A certificate that is beaten is false, and there are two ways to be false: its votes were
lucky (p_A above the true probability p, which has probability at most α), or p is above h_min and the bound is wrong.
The second is what must never be. So fresh votes are drawn at the identity, too, and p's own lower bound is taken anew,
at level δ / N for N images. If that is above h_min, the image has been certified a second time with error probability
δ / N and is beaten: α has nothing to do with it. If bound, transformation and network were as they should be, that
would happen to some image with probability at most 2 δ. One such image is enough to stop. It is *refuted*.

*Or it is one of those that α allows.* If the second certification fails, the image is counted. Each of the N images of
which votes were taken (not only those that came out certified: an image whose p lies just below h_min is certified only
by luck) got a false certificate with probability at most α, independently, so the number of false ones is
stochastically at most Binomial(N, α). With k beaten ones, P(Binomial(N, α) >= k) is how likely so many are by chance;
α_b, where the bound itself was estimated, is added, since it would spoil all at once. The attack stops when that
probability is at or below δ, so that a sound procedure is accused with probability at most 2 δ on this count; above it,
the images are reported with that probability. Where no vote was sampled (α = 0) one beaten image is enough.

The N images must have been chosen without a look at their votes. The command takes them evenly spread from those of the
run, certified or not, for that reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glsmooth.bounds.base import exceeds
from glsmooth.bounds.confidence import clopper_pearson_lower, clopper_pearson_upper
from glsmooth.errors import UserError

__all__ = ["Levels", "beaten", "certified_again", "chance", "fails"]


@dataclass(frozen=True)
class Levels:
    """How the attack's own error probability is shared.

    Args:
        delta: probability, at most, that any failure of the attack is none.
        images: N, of all that will be attacked.
        tests: of one image, at most.
    """

    delta: float
    images: int
    tests: int

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise UserError(f"delta={self.delta}: the attack's own error must lie between 0 and 1; give 0.001, say")

    @property
    def test(self) -> float:
        """Of one test at one parameter."""
        return self.delta / (self.images * self.tests)

    @property
    def again(self) -> float:
        """Of one second certification."""
        return self.delta / self.images


def beaten(count: int, n: int, level: float) -> bool:
    """Is a class's probability at or below 1/2, by ``count`` of ``n`` fresh votes? An error of at most ``level``."""
    return clopper_pearson_upper(count, n, level) <= 0.5


def fails(votes: NDArray[np.int64], label: int, level: float) -> bool:
    """Is another class ahead of ``label``, by fresh ``votes`` (classes,)? An error of at most ``level``."""
    own, others = int(votes[label]), np.delete(votes, label)
    rival = int(others.max())
    return rival > own and clopper_pearson_upper(own, own + rival, level / len(others)) <= 0.5


def certified_again(count: int, n: int, h_min: float, level: float) -> bool:
    """Do ``count`` of ``n`` fresh votes at the identity show a probability above ``h_min``, at ``level``?"""
    return exceeds(clopper_pearson_lower(count, n, level), h_min)


def chance(false: int, images: int, alpha: float, bound: float = 0.0) -> float:
    """Probability, at most, of ``false`` or more false certificates among those of ``images`` by chance.

    Args:
        alpha: of each image's votes.
        bound: α_b, of a bound that was estimated.
    """
    from scipy.stats import binom  # late, as all of scipy.stats

    if false == 0:
        return 1.0
    return min(1.0, float(binom.sf(false - 1, images, alpha)) + bound)
