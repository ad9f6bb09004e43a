"""Rules of files: what they hold is checked as the fields of a configuration are, and shown short."""

import math

import pytest
import torch

from glsmooth.configuration.fields import (
    FLAG,
    OBJECT,
    check_file,
    is_number,
    leaves,
    list_of,
    number,
    shown,
    text,
    whole,
)
from glsmooth.errors import UserError

RULES = {
    "count": whole(0, 1, most=10),
    "share": number("in [0, 1]", "0.5", lambda v: 0 <= v <= 1).or_null(),
    "names": list_of(text(most=5), "a list of names", "[a]").or_null(),
    "groups": list_of(list_of(FLAG, "a list of flags", "[true]"), "lists of flags", "[[true]]").or_null(),
    "part": OBJECT,
    "part.*": FLAG,
    "part.*.depth": whole(0, 1).or_null(),
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": True}, "count is true, not a whole number from 0 to 10"),
        ({"count": 11}, "count is 11, not a whole number from 0 to 10"),
        ({"count": 10**5000}, "count is int, not a whole number from 0 to 10 below 2^64"),
        ({"count": {}}, "count is {}, not a whole number"),
        ({"count": {"x": {}}}, "count.x={} is not known here"),
        ({"count": {"x": 1}}, "count.x=1 is not known here"),
        ({"share": math.nan}, "share is nan, not in [0, 1]"),
        ({"names": "abc"}, "names is 'abc', not a list of names"),
        ({"names": ["a", "b" * 6]}, "names[1] is 'bbbbbb', not a text of at most 5 characters"),
        ({"groups": [[True], [True, 1]]}, "groups[1][1] is 1, not true or false"),
        ({"part": [1]}, "part is [1], not an object"),
        ({"part": {"a": None}}, "part.a is null, not true or false"),
        ({"part": {"a": {"depth": -1}}}, "part.a.depth is -1, not a whole number, at least 0"),
        ({"part": {"a.depth": 3}}, "part: 'a.depth' is not a name; leave it out"),
        ({"part": {3: True}}, "part: 3 is not a name; leave it out"),
        ({"other\x1b[2J": "\x1b"}, "other\\x1b[2J='\\x1b' is not known here"),
        ({"count": None}, "count is null, not a whole number from 0 to 10"),
    ],
)
def test_a_value_is_refused_in_one_line(change, words):
    good = {"count": 1, "part": {"a": True}}
    check_file(good, RULES, "file.json", "write it again")
    with pytest.raises(UserError) as refusal:
        check_file(good | change, RULES, "file.json", "write it again")
    assert str(refusal.value).startswith(f"file.json: {words}")
    assert str(refusal.value).endswith("; write it again")
    assert str(refusal.value).isprintable()


def test_what_cannot_be_null_cannot_be_missing():
    check_file({"count": 1, "part": {}}, RULES, "file.json", "write it again")
    for name in ("count", "part"):
        content = {"count": 1, "part": {}}
        del content[name]
        with pytest.raises(UserError, match=rf"file\.json: lacks {name}; write it again"):
            check_file(content, RULES, "file.json", "write it again")
    with pytest.raises(UserError, match=r"file\.json: holds list, not an object"):
        check_file([], RULES, "file.json", "write it again")


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, "\x1b[2J" * 100, [[[[[[[[[0]]]]]]]]] * 1000, {str(i): i for i in range(10**5)}, 10**1000, 10**5000,
     torch.zeros(1000, 1000), "\ud800", b"\0" * 10**5],
    ids=range(9),
)  # fmt: skip
def test_what_is_shown_fits_on_a_line(value):
    assert shown(value).isprintable()
    assert len(shown(value)) <= 80


def test_short_values_are_shown_as_they_are():
    values = (None, True, 3, 0.5, "a", [1, 2], {"a": None})
    assert [*map(shown, values)] == ["null", "true", "3", "0.5", "'a'", "[1, 2]", "{'a': None}"]


def test_numbers_are_those_that_a_float_holds():
    assert all(map(is_number, (0, -1, 0.5, 2**64 - 1, 1e308)))
    assert not any(map(is_number, (True, None, "1", math.nan, math.inf, 2**64, -(10**400), [1])))


def test_a_name_with_a_dot_passes_for_no_other():
    with pytest.raises(UserError, match=r"region: 'b\.c' is not a name"):
        dict(leaves({"region": {"b.c": [0, 1]}}))
