"""Optimisers of others, one for each image, side by side: what all of them ask is evaluated as one batch.

An optimiser of SciPy's calls a function and waits for its value. Here each runs in a thread of its own that does
nothing but wait: a round is over when every one of them has asked, or has ended, and then all get their answers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ask", "lockstep"]

#: Points (n, k) -> their values (n,).
Ask = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class _Over(BaseException):
    """The search has ended elsewhere: the optimiser shall go home."""


def lockstep(
    optimisers: Mapping[int, Callable[[Ask], Any]],
    evaluate: Callable[[dict[int, NDArray[np.float64]]], Mapping[int, NDArray[np.float64] | None]],
) -> None:
    """Run optimisers to their ends.

    Args:
        optimisers: by a number, each takes the function that it may ask.
        evaluate: points (n, k) by number -> values (n,) by number; None ends that optimiser.

    Raises:
        Exception: what ``evaluate`` or an optimiser raises, once all have stopped.
    """
    asked: queue.Queue[tuple[int, Any]] = queue.Queue()
    answers: dict[int, queue.Queue[Any]] = {number: queue.Queue() for number in optimisers}

    def work(number: int) -> None:
        def ask(points: NDArray[np.float64]) -> NDArray[np.float64]:
            asked.put((number, points))
            answer = answers[number].get()
            if answer is None:
                raise _Over
            found: NDArray[np.float64] = answer
            return found

        try:
            optimisers[number](ask)
        except _Over:
            asked.put((number, None))
        except BaseException as error:
            asked.put((number, error))
        else:
            asked.put((number, None))

    threads = {
        number: threading.Thread(target=work, args=(number,), daemon=True, name=f"glsmooth-search-{number}")
        for number in optimisers
    }
    waiting: dict[int, NDArray[np.float64]] = {}
    try:
        for thread in threads.values():
            thread.start()
        running = set(threads)
        while running:
            while len(waiting) < len(running):
                number, points = asked.get()
                if isinstance(points, BaseException):
                    raise points
                if points is None:
                    running.discard(number)
                else:
                    waiting[number] = points
            if waiting:
                found = evaluate({number: waiting[number] for number in sorted(waiting)})
                waiting.clear()
                for number, values in found.items():
                    answers[number].put(values)
    finally:
        for waits in answers.values():  # whoever still waits, or asks once more
            waits.put(None)
        for thread in threads.values():
            if thread.ident is not None:
                thread.join(timeout=5)
