"""Balls and points in configurations: what is typed, what it replaces, and what is stored of it."""

import re

import pytest

import glsmooth as gs
from glsmooth.commands.entry import check_regions
from glsmooth.configuration.build import build_region, merge_region, without_replaced
from glsmooth.configuration.fields import check_fields
from glsmooth.configuration.identity import decisive
from glsmooth.configuration.settings import merge_checkpoint, validate
from glsmooth.errors import UserError

from .test_config import compose

SHIFTS, THREE = gs.transforms.Translation(), gs.transforms.BrightnessTranslation()


@pytest.mark.parametrize("command", ["bounds", "train"])
@pytest.mark.parametrize(
    ("typed", "region"),
    [
        (["region={ball:20,over:[tx,ty]}"], gs.Ball(20, tx=0, ty=0)),
        (["region.ball=20", "region.over=[ty,tx]"], gs.Ball(20, tx=0, ty=0)),
        (["region={ball:2.5,over:[tx,ty],centre:{tx:3}}"], gs.Ball(2.5, tx=3, ty=0)),
        (["region.ball=20", "region.centre={ty:1}"], gs.Ball(20, ty=1)),
        (["region={ball:0.1,over:[brightness,tx]}"], gs.Ball(0.1, brightness=0, tx=0)),
        (["region={points:[{tx:1,ty:2},{brightness:0.1}]}"], gs.Points([{"tx": 1, "ty": 2}, {"brightness": 0.1}])),
        (["region.points=[{tx:1}]", "region.ball=null"], gs.Points([{"tx": 1}])),
        (["region={brightness:[0,1]}"], gs.Box(brightness=(0, 1), tx=(-56, 56), ty=(-56, 56))),
        (["region.ball=null"], gs.Box(brightness=(-0.2, 0.2), tx=(-56, 56), ty=(-56, 56))),
        (
            ["experiment=imagenet/brightness_translation", "region.ball=3", "region.over=[tx,ty]"],
            gs.Ball(3, tx=0, ty=0),
        ),
    ],
)
def test_what_is_typed_replaces_the_default_box(command, typed, region):
    config = validate(compose(command, "transform=brightness_translation", *typed), command)
    assert build_region(config["region"], THREE) == region
    decides = {key for key in decisive(config, command) if key.startswith("region.")}
    if isinstance(region, gs.Box):
        assert decides == {"region.brightness", "region.tx", "region.ty"}  # as before there were others
    else:
        assert not decides & {"region.brightness", "region.tx", "region.ty"}


def test_a_ball_is_over_all_where_they_have_one_unit():
    assert build_region({"ball": 3}, SHIFTS) == gs.Ball(3, tx=0, ty=0)
    assert build_region({"ball": 0.5}, gs.transforms.Contrast()) == gs.Ball(0.5, contrast=1)
    with pytest.raises(UserError, match=r"region\.over is missing: .* brightness, tx, ty; .*'region\.over=\[tx,ty\]'"):
        build_region({"ball": 3}, THREE)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"ball": 3, "over": ["tx", "tz"]}, "region.over: 'tz' is not a parameter of translation; did you mean 't"),
        ({"ball": 3, "centre": {"x": 1}}, "region.centre: 'x' is not a parameter"),
        ({"points": [{"tx": 1}, {"tz": 1}]}, "region.points: 'tz' is not a parameter"),
        ({"over": ["tx"]}, "which has no radius; set 'region={ball:20,over:"),
        ({"centre": {"tx": 1}, "tx": [0, 1]}, "which has no radius"),
        ({"ball": 3, "points": [{"tx": 1}]}, "region.points and region.ball are two regions"),
        ({"ball": 3, "tx": [0, 1]}, "region.tx and region.ball: a region is a box, a ball or points, and no product"),
        ({"points": [{"tx": 1}], "tx": [0, 1]}, "region.tx and region.points"),
        ({"ball": -3}, "region.ball=-3 is negative"),
    ],
)
def test_mistakes_in_files(spec, words):
    with pytest.raises(UserError, match=re.escape(words)):
        build_region(spec, SHIFTS)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("region.ball=-1", "region.ball=-1 must be a radius"),
        ("region.ball=[1]", "region.ball=[1] must be a radius"),
        ("region.over=tx", "region.over='tx' must be a list of parameters"),
        ("region.points=[]", "region.points=[] must be a list of points, each with its parameters; set for example"),
        ("region.points=[{tx:a}]", "must be a list of points"),
        ("region.points=[{}]", "must be a list of points"),
        ("region.centre={tx:a}", "region.centre.tx='a' must be a finite number"),
        ("region.points=[{tx:0.5}]", "region.tx=0.5 is a fractional point"),
        (
            "region={ball:1,over:[brightness],centre:{brightness:1e10}}",
            "region.ball=1 around region.brightness=1e+10 is",
        ),
    ],
)
def test_mistakes_on_the_command_line(typed, words):
    with pytest.raises(UserError, match=re.escape(words)):
        validate(compose("bounds", "transform=brightness_translation", typed), "bounds")


@pytest.mark.parametrize(
    "words",
    [
        ["region.ball=1", "region.brightness=[0,1]"],
        ["region={ball:1,over:[tx,ty],brightness:[0,1]}"],
        ["+region.b=[0,1]", "region={points:[{tx:1}]}"],
        ["region.ball=1,2", "region.tx=[0,1],[0,2]"],
        ["region={ball:1},{tx:[0,1]}", "region.ty=[0,1]"],
    ],
)
def test_an_interval_beside_a_ball_is_refused_before_it_is_lost(words):
    with pytest.raises(UserError, match="no product of them"):
        check_regions(["transform=translation", *words])


@pytest.mark.parametrize(
    "words",
    [
        ["region.ball=1", "region.over=[tx,ty]", "region.brightness=null"],
        ["region.tx=[0,1]", "region.ball=null"],
        ["region={ball:1},{tx:[0,1]}"],  # two jobs
        ["+region.ball=[0,1]", "+region.points=[0,1]"],  # parameters
        ["region=translation", "region.ball=1"],
        ["region.ball=1", "region.over=[tx"],  # Hydra's to refuse
        ["smoothing.ball=1", "region.tx=[0,1]"],
    ],
)
def test_nothing_else_is(words):
    check_regions(words)


BALL, BOX = {"ball": 3, "over": ["tx", "ty"]}, {"tx": [-1, 1], "ty": [-2, 2]}


@pytest.mark.parametrize(
    ("stored", "typed", "merged"),
    [
        (BOX, {"ty": None, "ball": None}, BOX),
        (BOX, {"ty": [0, 1]}, {"tx": [-1, 1], "ty": [0, 1]}),
        (BOX, BALL, BALL),
        (BOX, {"points": [{"tx": 1}]}, {"points": [{"tx": 1}]}),
        (BALL, {}, BALL),
        (BALL, {"tx": [0, 1]}, {"tx": [0, 1]}),
        (BALL, {"ball": 5}, {"ball": 5, "over": ["tx", "ty"]}),
        (BALL, {"over": ["tx"]}, {"ball": 3, "over": ["tx"]}),
        (BALL, {"centre": {"tx": 1}}, {**BALL, "centre": {"tx": 1}}),
        ({"ball": 3, "centre": {"tx": 1, "ty": 2}}, {"centre": {"ty": 4}}, {"ball": 3, "centre": {"tx": 1, "ty": 4}}),
        ({"ball": 3, "centre": {"tx": 1}}, {"over": ["ty"]}, {"ball": 3, "over": ["ty"]}),
        (BALL, {"points": [{"tx": 1}]}, {"points": [{"tx": 1}]}),
        ({"points": [{"tx": 1}]}, {"ball": 2}, {"ball": 2}),
    ],
)
def test_what_is_typed_replaces_what_is_stored(stored, typed, merged):
    assert merge_region({**stored, "points": stored.get("points")}, typed) == merged


def test_a_checkpoint_of_a_ball_is_certified_for_it():
    spec = {"_target_": "glsmooth.transforms.Translation"}
    stored = {"transform": spec, "smoothing": {}, "region": BALL}
    for typed, region in (
        ([], gs.Ball(3, tx=0, ty=0)),
        (["region.ball=4"], gs.Ball(4, tx=0, ty=0)),
        (["region.tx=[-1,1]"], gs.Box(tx=(-1, 1), ty=(-1, 1))),
        (["region={points:[{tx:2}]}"], gs.Points([{"tx": 2}])),
    ):
        merged = merge_checkpoint(compose("certify", *typed), stored)
        assert build_region(merged["region"], SHIFTS) == region


def test_parameters_may_be_called_as_fields_of_the_region_are():
    class Odd(gs.ResolvableTransform):
        name = "odd"
        parameters = ("ball", "over", "centre", "points")
        apply = None

    spec = {name: [0, 1] for name in Odd.parameters}
    check_fields({"region": spec})
    assert without_replaced({**spec, "x": None}) == {**spec, "x": None}
    assert build_region(spec, Odd()) == gs.Box(**spec)
    with pytest.raises(UserError, match="is inverted"):
        check_fields({"region": {"ball": [1, 0]}})
