import pytest

import glsmooth as gs
from glsmooth.errors import UserError
from glsmooth.family.regions import region_of
from glsmooth.family.sizes import multiplicative, scaled


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


REGIONS = [
    gs.Box(contrast=(0.5, 2), tx=(-1, 1)),
    gs.Ball(5, tx=0, ty=3),
    gs.Points([{"tx": 1}, {"tx": -1, "ty": 2}]),
    gs.Box(ball=(0, 1), points=(0, 1)),  # names that a user may give to parameters
]


@pytest.mark.parametrize("region", REGIONS, ids=repr)
def test_a_region_is_made_again_from_its_config(region):
    again = region_of(region.to_config())
    assert type(again) is type(region)
    assert again.to_config() == region.to_config()


@pytest.mark.parametrize(
    "config",
    [
        {"ball": 1, "centre": {"tx": 0}, "ty": [0, 1]},
        {"ball": 1},
        {"points": [{"tx": 0}], "ty": [0, 1]},
        {"points": [], "ball": 1},
        {"centre": {"tx": 0}},
    ],
)
def test_what_describes_no_region_is_refused(config):
    with pytest.raises(UserError):
        region_of(config)


def test_the_smallest_box_around_a_region():
    identity = {"contrast": 1.0, "tx": 0.0, "ty": 0.0}
    box, ball, points, _ = REGIONS
    assert box.box(identity) == box
    assert ball.box(identity) == gs.Box(tx=(-5, 5), ty=(-2, 8))
    assert points.box(identity) == gs.Box(tx=(-1, 1), ty=(0, 2))
    # What a point leaves out is at its identity, which is inside then.
    assert gs.Points([{"contrast": 2.0}, {"tx": 3}]).box(identity) == gs.Box(contrast=(1, 2), tx=(0, 3))


def test_regions_are_scaled_around_the_identity():
    """By powers where a parameter multiplies, from the identity where it adds, to the end of its domain."""
    contrast_brightness, blur = gs.transforms.ContrastBrightness(), gs.transforms.GaussianBlur()
    box = gs.Box(contrast=(0.5, 4.0), brightness=(-0.1, 0.2))
    assert scaled(contrast_brightness, box, 2.0) == gs.Box(contrast=(0.25, 16.0), brightness=(-0.2, 0.4))
    assert scaled(contrast_brightness, box, 0.0) == gs.Box(contrast=(1.0, 1.0), brightness=(0.0, 0.0))
    assert scaled(blur, gs.Box(blur=(0.0, 3.0)), 2.0) == gs.Box(blur=(0.0, 6.0))
    ball = gs.Ball(3.0, tx=1.0, ty=0.0)
    assert scaled(gs.transforms.Translation(), ball, 2.0) == gs.Ball(6.0, tx=2.0, ty=0.0)
    assert [multiplicative(contrast_brightness, name) for name in ("contrast", "brightness")] == [True, False]
    assert not multiplicative(blur, "blur")
