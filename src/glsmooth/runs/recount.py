"""The numbers of a run, computed again: p_A from its counts, h_min from its family and region.

What a file claims is compared with what follows from the rest of it, and a contradiction is refused. Where a value may
differ (another release of scipy rounds otherwise), images are decided by the one on the side of safety. The counts
themselves, labels and predictions are taken as they are: no file can show that votes were really taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glsmooth.bounds import METHODS, Outcome
from glsmooth.configuration.fields import cut, is_number, shown
from glsmooth.errors import UserError
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.runs.files import RECORDS, SUMMARY
from glsmooth.runs.records import LOOK, SLICES, Columns
from glsmooth.voting.procedures import ABSTAIN, Exhaustive, FixedSample, Procedure, Sequential, build_procedure

__all__ = ["agree", "recount", "recount_h_min"]

#: Relative difference of a lower bound that releases of scipy may make.
_P_LOWER = 1e-9
#: How much smaller than ours a stored h_min may be.
_H_MIN = 1e-6
#: The same where it was estimated from draws, which another release of torch may make differently: 6 standard
#: deviations of sampled.DRAWS draws under either law, whose threshold moves the value at most twice as fast.
_SAMPLED = 0.01

#: Columns of draws for no class, those of them with a non-finite logit, and draws near a tie.
_DOUBTFUL = ("abstain_votes", "nonfinite_votes", "near_ties")
_CALLED_UNSOUND = "the run's summary.json calls it unsound"
_FIX = "a file was changed after certify wrote it; run certify again into an empty directory"


def recount(
    directory: Path,
    columns: Columns,
    monte_carlo: Mapping[str, Any],
    outcomes: Mapping[str, Outcome],
    family: SmoothedFamily,
) -> NDArray[np.float64]:
    """The lower bounds p_A by which the images of a run are decided, (images,): at most what their counts prove.

    Args:
        monte_carlo, outcomes: as the run's summary has them.

    Raises:
        UserError: numbers of draws that the procedure does not take, or a p_lower that the votes cannot have given;
            it names the row.
    """
    procedure = _procedure(directory / SUMMARY, monte_carlo, outcomes, family)
    stored = columns["p_lower"]
    decisive = stored.copy()
    known: dict[tuple[float, ...], tuple[float, float]] = {}
    looks = isinstance(procedure, Sequential) and all(name in columns for name in LOOK)
    coins = columns["coin"] if isinstance(procedure, FixedSample) and procedure.randomised else np.ones(len(stored))
    for row in range(len(stored)):
        prediction, n0, n, count = (int(columns[name][row]) for name in ("prediction", "n0", "n", "count"))
        where = f"{directory / RECORDS}: index {columns['index'][row]}"
        _check_draws(where, procedure, n0, n, count)
        _check_doubtful(where, {name: int(columns[name][row]) for name in _DOUBTFUL if name in columns}, n0 + n, count)
        if prediction == ABSTAIN and count:
            raise UserError(f"{where}: count={count}, but no draw voted (prediction={ABSTAIN}); {_FIX}")
        if family.warps:
            _check_slices(where, family, {name: columns[name][row] for name in SLICES if name in columns}, n0 + n)
        if looks:
            seen, look = (int(columns[name][row]) for name in LOOK)
            if not (0 <= seen <= count and seen <= look <= n and look - seen <= n - count):
                raise UserError(
                    f"{where}: {LOOK[0]}={seen} of {LOOK[1]}={look} is no part of count={count} of n={n}; {_FIX}"
                )
            # What any look has shown holds.
            count, n = seen, look
        votes = (count, n, float(coins[row]))
        if votes not in known:
            least, most = procedure.bound_range(*votes)
            known[votes] = (least, least if looks else most)
        least, most = known[votes]
        if not least * (1 - _P_LOWER) <= stored[row] <= most * (1 + _P_LOWER):
            gives = f"{most:.6g}" if least == most else f"{least:.6g} to {most:.6g}"
            raise UserError(
                f"{where}: p_lower={stored[row]:.6g}, but count={count} of n={n} at alpha={monte_carlo['alpha']:g} "
                f"gives {gives}; {_FIX}"
            )
        decisive[row] = min(stored[row], most)
        if family.warps and columns["slices_tried"][row] < columns["slices"][row]:
            decisive[row] = 0.0  # nobody knows what the others would have shown
    return decisive


def recount_h_min(directory: Path, stored: Mapping[str, Outcome], again: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """What each method says, by the larger of the stored h_min and the one that was computed again, in our words.

    Args:
        again: the outcomes that family and region give now, for each method of ``stored``.

    Raises:
        UserError: a stored h_min that is too small; it names the method.
    """
    return {name: _decisive(directory, before, again[name]) for name, before in stored.items()}


def _decisive(directory: Path, before: Outcome, outcome: Outcome) -> Outcome:
    if before.h_min is None:  # another release may know more
        argument = "it did not when the run was certified" if outcome.h_min is not None else outcome.argument
        return replace(outcome, h_min=None, worst=None, sound=before.sound, argument=argument)
    if not before.sound:  # nothing is certified by it: what it would claim is ours to say
        return replace(outcome, sound=False, argument=_CALLED_UNSOUND) if outcome.sound else outcome
    slack = _SAMPLED if outcome.failure_probability else _H_MIN
    if outcome.h_min is None or before.h_min < outcome.h_min - slack:
        gives = "nothing" if outcome.h_min is None else f"{outcome.h_min:.6g}"
        raise UserError(
            f"{directory / SUMMARY}: methods.{outcome.method}: required_probability={before.h_min:.6g}, but its "
            f"transformation, laws and region give {gives}; {_FIX}"
        )
    return replace(
        outcome,
        h_min=max(before.h_min, outcome.h_min),
        failure_probability=max(before.failure_probability, outcome.failure_probability),
    )


def _procedure(
    file: Path, monte_carlo: Mapping[str, Any], outcomes: Mapping[str, Outcome], family: SmoothedFamily
) -> Procedure:
    # An approximate run's votes stop where they would for a certificate.
    targets = {name: replace(outcome, sound=METHODS[name].proves(family)) for name, outcome in outcomes.items()}
    try:
        procedure = build_procedure(monte_carlo, targets, family)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if isinstance(procedure, Exhaustive) and monte_carlo["n"] != len(procedure.law.weights):
        raise UserError(
            f"{file}: monte_carlo.n={monte_carlo['n']}, but the law has {len(procedure.law.weights)} shifts; {_FIX}"
        )
    said = {"randomised": False, **procedure.describe()}
    for key, value in monte_carlo.items():
        if value is not None and not agree(value, said.get(key)):
            meant = "nothing" if key not in said else shown(said[key])
            raise UserError(
                f"{file}: monte_carlo.{cut(key)} is {shown(value)}, but monte_carlo.name={monte_carlo['name']} means "
                f"{meant}; {_FIX}"
            )
    return procedure


def agree(stated: Any, computed: Any) -> bool:
    """Is what a file states what was computed, but for rounding?"""
    if isinstance(stated, Mapping) and isinstance(computed, Mapping):
        return stated.keys() == computed.keys() and all(agree(stated[key], computed[key]) for key in stated)
    if is_number(stated) and is_number(computed):
        return math.isclose(stated, computed, rel_tol=_P_LOWER, abs_tol=_P_LOWER if computed == 0 else 0.0)
    return bool(stated == computed)


def _check_draws(where: str, procedure: Procedure, n0: int, n: int, count: int) -> None:
    said = procedure.describe()
    fixed = isinstance(procedure, FixedSample)
    for name, number in (("n0", n0), ("n", n)):
        if not (number == said[name] if fixed else 0 <= number <= said[name]):
            raise UserError(
                f"{where}: {name}={number}, but summary.json has monte_carlo.{name}={said[name]}"
                f"{'' if fixed else ' at most'}; {_FIX}"
            )
    if not 0 <= count <= n:
        raise UserError(f"{where}: count={count} of n={n}; {_FIX}")


def _check_slices(where: str, family: SmoothedFamily, said: Mapping[str, Any], votes: int) -> None:
    """What the records say of an image's slices; of a certified one all were tried (the least of them decides)."""
    for name in SLICES:
        if name not in said:
            raise UserError(f"{where}: no column {name!r}, but {family.name} cuts images into slices; {_FIX}")
    if not 0 <= said["slices_tried"] <= said["slices"] or said["slices"] < 1:
        raise UserError(f"{where}: slices_tried={said['slices_tried']} of slices={said['slices']}; {_FIX}")
    if family.residual is None or said["residual"] > family.residual:
        raise UserError(
            f"{where}: residual={said['residual']:g} is more than transform.residual={family.residual}; {_FIX}"
        )
    if said["votes"] < votes:
        raise UserError(f"{where}: votes={said['votes']}, but one slice took {votes}; {_FIX}")


def _check_doubtful(where: str, doubtful: Mapping[str, int], draws: int, count: int) -> None:
    abstained = doubtful.get("abstain_votes", draws)
    for name, most in zip(_DOUBTFUL, (draws - count, abstained, draws), strict=True):
        if doubtful.get(name, 0) > most:
            raise UserError(f"{where}: {name}={doubtful[name]}, but it can be {most} at most; {_FIX}")
