"""A slice of ``python -m tests.attacking``; and that it notices what is false."""

from dataclasses import replace

import pytest

from glsmooth.bounds import certify_region

from . import attacking


@pytest.fixture(scope="module")
def told():
    return attacking.run(seed=0, minutes=1, rounds=4)


def test_no_certificate_is_broken_and_the_planted_ones_are_found(told):
    assert not told.failed, told.lines
    assert told.planted.refuted == told.planted.certified == 2
    assert sum(one.certified for one in told.counts.values()) > 5
    assert "| planted: GL as printed | 1 | 2 | 2 | 2 | 2 |" in attacking.table(told)


def test_a_planted_certificate_that_is_not_found_is_a_failure(told):
    planted = replace(told.planted, refuted=told.planted.refuted - 1)
    assert replace(told, planted=planted).failed


def test_more_broken_certificates_than_alpha_explains_are_a_failure(told):
    (kind, count), *_ = told.counts.items()
    few, many = (replace(told, counts=told.counts | {kind: replace(count, broken=n)}) for n in (1, 20))
    assert not few.failed
    assert many.failed


def test_a_bound_that_is_too_low_is_noticed(monkeypatch):
    """A region requires half of what is above 1/2: half-lines that were cut a hair above that are refuted."""

    def low(*arguments):
        outcome = certify_region(*arguments)
        return outcome if outcome.h_min is None else replace(outcome, h_min=0.5 + (outcome.h_min - 0.5) / 4)

    monkeypatch.setattr(attacking, "certify_region", low)
    monkeypatch.setattr("glsmooth.smoothing.certify_region", low)
    monkeypatch.setattr(attacking, "PROCEDURES", {"fixed n": {"n": 2000}})
    monkeypatch.setattr(attacking, "CLASSIFIERS", ("half-line",))
    monkeypatch.setattr(attacking.stress, "KINDS", ("brightness",))
    found = [attacking.play(0, number)[2] for number in range(6)]
    assert any(one is not None and one.refuted for one in found)
