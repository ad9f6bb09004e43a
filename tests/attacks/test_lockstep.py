"""Optimisers side by side: each gets its own answers, in rounds, and none is left behind."""

import threading

import numpy as np
import pytest
from scipy.optimize import differential_evolution, minimize

from glsmooth.attacks.lockstep import lockstep


def alive():
    return [thread for thread in threading.enumerate() if thread.name.startswith("glsmooth-search")]


def test_each_finds_its_own_minimum_and_all_are_asked_together():
    found, rounds = {}, []

    def of(number):
        def run(ask):
            found[number] = minimize(lambda u: float(ask(u[None])[0]), [0.5], method="Powell", bounds=[(0, 1)]).x[0]

        return run

    def evaluate(asked):
        rounds.append(len(asked))
        return {number: (points[:, 0] - number / 10) ** 2 for number, points in asked.items()}

    lockstep({number: of(number) for number in range(1, 6)}, evaluate)
    assert found == {number: pytest.approx(number / 10, abs=1e-2) for number in range(1, 6)}
    assert rounds[0] == 5
    assert not alive()


def test_one_that_is_told_to_end_does_not_stop_the_others():
    ended = []

    def of(number):
        def run(ask):
            differential_evolution(lambda u: ask(u.T), [(0, 1)] * 2, vectorized=True, updating="deferred", seed=0,
                                   maxiter=3, polish=False, tol=0)  # fmt: skip
            ended.append(number)

        return run

    def evaluate(asked):
        return {number: None if number == 0 else points.sum(axis=1) for number, points in asked.items()}

    lockstep({number: of(number) for number in range(3)}, evaluate)
    assert sorted(ended) == [1, 2]
    assert not alive()


@pytest.mark.parametrize("where", ["evaluate", "optimiser"])
def test_what_is_raised_comes_out_and_all_threads_end(where):
    def run(ask):
        ask(np.zeros((1, 1)))
        if where == "optimiser":
            raise ArithmeticError
        ask(np.zeros((1, 1)))

    def evaluate(asked):
        if where == "evaluate":
            raise ArithmeticError
        return {number: np.zeros(1) for number in asked}

    with pytest.raises(ArithmeticError):
        lockstep({0: run, 1: lambda ask: [ask(np.zeros((1, 1))) for _ in range(5)]}, evaluate)
    assert not alive()
