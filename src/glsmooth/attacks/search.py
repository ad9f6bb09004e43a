"""The search for a parameter at which a classifier fails, for many images side by side.

Every stage starts from what those before it found: points at corners, on a grid and at random; steps down the gradient;
differential evolution (Storn and Price 1997) and Powell's method along one direction after the other (1964), both
SciPy's. None of it need be right: what is found is only a candidate (:mod:`glsmooth.attacks.decide`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glsmooth.attacks.lockstep import Ask, lockstep
from glsmooth.attacks.objective import Objective
from glsmooth.attacks.space import Space

__all__ = ["STAGES", "Best", "Plan", "search"]

#: Attacks by the number that records have; the last one is a parameter that was given.
STAGES = ("corners", "grid", "random", "gradient", "evolution", "coordinates", "given")

#: A search of an image ends at this score: nearly all draws are lost.
_ENOUGH = -0.8
#: Starts of the gradient; a first step in the cube, and what the last one is of it.
_STARTS, _STEP, _LAST = 2, 0.2, 0.05
_POPULATION = 12
#: Candidates of an image that are kept.
_KEPT = 4


@dataclass(frozen=True)
class Plan:
    """What an image may cost.

    Args:
        passes: network evaluations of the search, about.
        draws: α for one look at a parameter; 0 for the base classifier, which has none.
    """

    passes: int
    draws: int

    def looks(self, share: float) -> int:
        """Parameters that can be looked at for a share of the passes."""
        return max(2, int(share * self.passes / max(1, self.draws)))


@dataclass
class Best:
    """The worst parameters of an image so far, ascending by score: (score, β, stage)."""

    found: list[tuple[float, tuple[float, ...], int]] = field(default_factory=list)

    def add(self, score: float, beta: Sequence[float], stage: int) -> None:
        beta = tuple(beta)
        if any(known == beta and score >= before for before, known, _ in self.found):
            return
        self.found = [one for one in self.found if one[1] != beta]
        self.found.append((score, beta, stage))
        self.found.sort(key=lambda one: one[0])
        del self.found[_KEPT:]

    @property
    def score(self) -> float:
        return self.found[0][0] if self.found else math.inf


def search(
    objective: Objective,
    space: Space,
    plan: Plan,
    rngs: Sequence[np.random.Generator],
    first_stage: int,
    active: Sequence[int] | None = None,
    adaptive: bool = True,
) -> list[Best]:
    """The worst parameters of each image of an objective.

    Args:
        objective: of K images.
        space: the region.
        plan: what an image may cost.
        rngs: one an image.
        first_stage: number of the first stage's draws; the others follow.
        active: the images that are attacked; by default all.
        adaptive: whether what follows points at corners, on a grid and at random is done, too.
    """
    run = _Search(objective, space, plan, rngs, first_stage, list(range(len(rngs))) if active is None else list(active))
    run.points(1.0 if not adaptive else 0.3)
    if adaptive and space.dimensions:
        run.gradient(0.25)
        run.evolution(0.3)
        run.coordinates(0.15)
    objective.forget()
    return run.best


class _Search:
    def __init__(
        self,
        objective: Objective,
        space: Space,
        plan: Plan,
        rngs: Sequence[np.random.Generator],
        first_stage: int,
        active: list[int],
    ) -> None:
        self.objective, self.space, self.plan, self.rngs = objective, space, plan, rngs
        self.stage = first_stage  # of draws
        self.active = active
        self.best = [Best() for _ in rngs]
        # The point of the cube that each parameter came from, for searches that go on from it.
        self.where: dict[tuple[int, tuple[float, ...]], NDArray[np.float64]] = {}

    @property
    def open(self) -> list[int]:
        """Images that are not clearly lost."""
        return [i for i in self.active if self.best[i].score > self._enough]

    @property
    def _enough(self) -> float:
        # Two equal logits, a margin of 0, may still be the right answer.
        return _ENOUGH if self.plan.draws else -1e-9

    def _keep(self, which: Tensor, beta: Tensor, scores: Tensor, kind: str, u: Tensor | None = None) -> None:
        number = STAGES.index(kind)
        for row, (image, values, score) in enumerate(zip(which.tolist(), beta.tolist(), scores.tolist(), strict=True)):
            self.best[image].add(score, values, number)
            if u is not None:
                self.where[image, tuple(values)] = u[row].detach().numpy()

    def points(self, share: float) -> None:
        """Corners, grid and random parameters."""
        looks = self.plan.looks(share)
        corners, grid = self.space.corners(), self.space.grid(looks // 2)
        if not self.space.dimensions:  # a list, all of it where that is within the budget
            corners = corners[np.unique(np.linspace(0, len(corners) - 1, max(looks, 2)).round().astype(int))]
        rest = max(4, looks - len(corners) - len(grid)) if self.space.dimensions else 0
        for kind, beta in (("corners", corners), ("grid", grid)):
            images = torch.tensor(self.open, dtype=torch.int64)
            which, rows = images.repeat_interleave(len(beta)), beta.repeat(len(images), 1)
            self._keep(which, rows, self.objective.scores(which, rows, self.stage, self.plan.draws), kind)
        images = torch.tensor(self.open, dtype=torch.int64)
        if rest and len(images):
            u = torch.from_numpy(np.concatenate([self.space.random(rest, self.rngs[i]) for i in images.tolist()]))
            which, rows = images.repeat_interleave(rest), self.space.parameters(u)
            scores = self.objective.scores(which, rows, self.stage, self.plan.draws)
            self._keep(which, rows, scores, "random", u)
        self.stage += 1

    def _starts(self, image: int, number: int) -> NDArray[np.float64]:
        """Points of the cube (number, k) from which to go on: those of the worst parameters, else random ones."""
        known = [self.where.get((image, beta)) for _, beta, _ in self.best[image].found]
        points = [self.space.cube(beta) if u is None else u for u, (_, beta, _) in zip(
            known, self.best[image].found, strict=True
        )]  # fmt: skip
        points = points[:number]
        while len(points) < number:
            points.append(self.space.random(1, self.rngs[image])[0])
        return np.stack(points)

    def gradient(self, share: float) -> None:
        """Normalised steps down the expected margin, from the worst parameters, shorter and shorter."""
        images = self.open
        steps = self.plan.looks(share) // (3 * _STARTS)
        if not images or not steps:
            return
        which = torch.tensor(images, dtype=torch.int64).repeat_interleave(_STARTS)
        u = torch.from_numpy(np.concatenate([self._starts(i, _STARTS) for i in images]))
        for i in range(steps):
            scores, slopes = self.objective.gradient(which, u, self.space.parameters, self.stage, self.plan.draws)
            self._keep(which, self.space.parameters(u), scores, "gradient", u)
            if not bool(slopes.any()):
                break  # nothing here can be differentiated
            size = _STEP * _LAST ** (i / max(1, steps - 1))
            largest = slopes.abs().amax(dim=1, keepdim=True)
            u = (u - size * slopes / largest.clamp_min(1e-300)).clamp(0.0, 1.0)
        else:
            beta = self.space.parameters(u)
            self._keep(which, beta, self.objective.scores(which, beta, self.stage, self.plan.draws), "gradient", u)
        self.stage += 1

    def _side_by_side(self, kind: str, optimisers: dict[int, Callable[[Ask], Any]], looks: int) -> None:
        spent = dict.fromkeys(optimisers, 0)

        def evaluate(asked: dict[int, NDArray[np.float64]]) -> dict[int, NDArray[np.float64] | None]:
            going = {i: u for i, u in asked.items() if spent[i] < looks and self.best[i].score > self._enough}
            answers: dict[int, NDArray[np.float64] | None] = dict.fromkeys(asked)
            if going:
                which = torch.tensor([i for i, u in going.items() for _ in u], dtype=torch.int64)
                u = torch.from_numpy(np.concatenate(list(going.values())))
                beta = self.space.parameters(u)
                scores = self.objective.scores(which, beta, self.stage, self.plan.draws)
                self._keep(which, beta, scores, kind, u)
                for i, points in going.items():
                    spent[i] += len(points)
                    answers[i] = scores[which == i].numpy()
            return answers

        lockstep(optimisers, evaluate)
        self.stage += 1

    def evolution(self, share: float) -> None:
        """Differential evolution, begun from the worst parameters and random ones."""
        from scipy.optimize import differential_evolution  # late: it takes long to import

        looks, k = self.plan.looks(share), self.space.dimensions
        generations = looks // _POPULATION
        if not generations:
            return

        def of(image: int) -> Callable[[Ask], Any]:
            starts = self._starts(image, _KEPT)
            more = self.space.random(_POPULATION - len(starts), self.rngs[image])
            return lambda ask: differential_evolution(
                lambda points: ask(points.T.copy()),
                [(0.0, 1.0)] * k,
                maxiter=generations,
                init=np.concatenate([starts, more]),
                seed=self.rngs[image],
                vectorized=True,
                updating="deferred",
                polish=False,
                tol=0,
            )

        self._side_by_side("evolution", {image: of(image) for image in self.open}, looks)

    def coordinates(self, share: float) -> None:
        """Powell's method: line searches along the coordinates, and along where they led."""
        from scipy.optimize import minimize

        looks, k = self.plan.looks(share), self.space.dimensions

        def of(image: int) -> Callable[[Ask], Any]:
            start = self._starts(image, 1)[0]
            return lambda ask: minimize(
                lambda u: float(ask(np.asarray(u, dtype=np.float64)[None])[0]),
                start,
                method="Powell",
                bounds=[(0.0, 1.0)] * k,
                options={"maxfev": looks, "xtol": 1e-3, "ftol": 1e-4},
            )

        self._side_by_side("coordinates", {image: of(image) for image in self.open}, looks)
