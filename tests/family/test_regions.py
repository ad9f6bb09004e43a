import pytest

import glsmooth as gs
from glsmooth.errors import UserError


def test_box():
    box = gs.Box(contrast=(0.5, 2), brightness=[-0.4, 0.4])
    assert box.parameters == ("contrast", "brightness")
    assert box.contains({"contrast": 0.5, "brightness": 0.4})
    assert not box.contains({"contrast": 0.49, "brightness": 0.0})
    assert box.to_config() == {"contrast": [0.5, 2.0], "brightness": [-0.4, 0.4]}


def test_ball_and_points():
    ball = gs.Ball(5, tx=0, ty=0)
    assert ball.contains({"tx": 3, "ty": 4})
    assert not ball.contains({"tx": 4, "ty": 4})
    points = gs.Points([{"tx": 1}, {"ty": 2}])
    assert points.parameters == ("tx", "ty")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gs.Box(contrast=(2, 1)), r"^contrast=\[2, 1\] is inverted; give \[1, 2\]$"),
        (lambda: gs.Box(contrast=(1, float("nan"))), "not finite"),
        (lambda: gs.Box(contrast=1.0), "not an interval"),
        (lambda: gs.Box(contrast="12"), "not an interval"),
        (lambda: gs.Ball(-1, tx=0), "negative"),
        (lambda: gs.Ball(1), "named parameters"),
        (lambda: gs.Points([]), "empty"),
        (lambda: gs.Points([{"tx": float("inf")}]), "not finite"),
    ],
)
def test_bad_regions_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
