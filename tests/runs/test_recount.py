"""Numbers of a run that are computed again; runs of files and of the command are in tests/report and tests/commands."""

from dataclasses import replace

import numpy as np
import pytest

import glsmooth as gs
from glsmooth.bounds import Outcome
from glsmooth.bounds.confidence import anytime_lower
from glsmooth.errors import UserError
from glsmooth.runs.recount import recount, recount_h_min
from glsmooth.voting.procedures import Sequential

OURS = Outcome(0.8, {"b": 1.0}, "neyman_pearson", argument="ours")
SAMPLED = replace(OURS, failure_probability=1e-4)


def decisive(tmp_path, stored, again):
    return recount_h_min(tmp_path, {"neyman_pearson": stored}, {"neyman_pearson": again})["neyman_pearson"]


def test_the_larger_h_min_decides_and_the_rest_is_ours(tmp_path):
    theirs = Outcome(0.85, {"b": 7.0}, "neyman_pearson", failure_probability=0.01, argument="theirs")
    assert decisive(tmp_path, theirs, OURS) == replace(OURS, h_min=0.85, failure_probability=0.01)
    assert decisive(tmp_path, replace(OURS, h_min=0.8 - 9e-7), OURS) == OURS
    # What fails its check now is approximate, whatever the file says of it.
    assert not decisive(tmp_path, theirs, OURS.approximate(0.3, "approximate")).sound
    assert decisive(tmp_path, theirs, SAMPLED).failure_probability == 0.01


def test_a_smaller_h_min_is_refused_unless_draws_explain_it(tmp_path):
    with pytest.raises(UserError, match=r"methods\.neyman_pearson: required_probability=0\.799998, .* give 0\.8;"):
        decisive(tmp_path, replace(OURS, h_min=0.8 - 2e-6), OURS)
    assert decisive(tmp_path, replace(SAMPLED, h_min=0.795), SAMPLED) == SAMPLED
    with pytest.raises(UserError, match=r"required_probability=0\.789, .* give 0\.8;"):
        decisive(tmp_path, replace(SAMPLED, h_min=0.789), SAMPLED)
    with pytest.raises(UserError, match=r"give nothing;"):
        decisive(tmp_path, OURS, Outcome(None, None, "neyman_pearson", argument="does not apply"))


def test_words_are_ours(tmp_path):
    """Of what proves nothing, too: a file can say anything."""
    nothing = Outcome(None, None, "mp", argument="theirs")
    ours = replace(nothing, argument="ours")
    assert decisive(tmp_path, nothing, ours) == ours
    assert decisive(tmp_path, nothing, OURS).h_min is None
    assert "theirs" not in decisive(tmp_path, nothing, OURS).argument
    unsound = Outcome(0.7, None, "gl_printed", sound=False, argument="theirs")
    computed = replace(unsound, h_min=0.75, argument="ours")
    assert decisive(tmp_path, unsound, computed) == computed
    assert decisive(tmp_path, unsound, replace(computed, h_min=None)).h_min is None
    lowered = decisive(tmp_path, unsound, OURS)
    assert not lowered.sound
    assert "theirs" not in lowered.argument


def test_the_look_that_a_record_names_decides(tmp_path):
    """Of 90 votes in 100 without it, an earlier look may have shown more, up to a target."""
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 0.3)})
    monte_carlo = Sequential({"neyman_pearson": 0.8}, 50, 1000, 0.01).describe()
    votes = {"index": 7, "prediction": 1, "n0": 20, "n": 100, "count": 90}

    def again(p_lower, **look):
        columns = {name: np.array([value]) for name, value in {**votes, "p_lower": p_lower, **look}.items()}
        return recount(tmp_path, columns, monte_carlo, {"neyman_pearson": OURS}, family)

    bound = anytime_lower(90, 100, 0.01)
    assert bound < 0.79
    assert again(0.79) == [0.79]
    assert again(bound, look_count=90, look_n=100) == [bound]
    for look in ((90, 100), (80, 89)):
        with pytest.raises(UserError, match=rf"p_lower=0\.79, but count={look[0]} of n={look[1]}"):
            again(0.79, look_count=look[0], look_n=look[1])
    for look in ((91, 95), (70, 81), (5, 4), (-1, 3)):
        with pytest.raises(
            UserError, match=rf"look_count={look[0]} of look_n={look[1]} is no part of count=90 of n=100"
        ):
            again(bound, look_count=look[0], look_n=look[1])
