"""Whatever is typed: a value, or an error that names the argument and says what to give."""

import numpy as np
import pytest
import torch

import glsmooth as gs

T, N = gs.transforms, gs.Normal
LAWS = {"brightness": N(0, 1)}
SHIFTS = {"tx": N(0, 1), "ty": N(0, 1)}
FAMILY = gs.SmoothedFamily(T.Brightness(), LAWS)
REGION = gs.Box(brightness=(0, 1))

REFUSED = {
    "a huge end": (lambda: gs.Box(brightness=(0, 10**400)), "^brightness=inf is not finite"),
    "a missing end": (lambda: gs.Box(brightness=[None, 1]), "^brightness=None is not a number"),
    "a text as an interval": (lambda: gs.Box(brightness="ab"), "not an interval"),
    "a huge scale": (lambda: N(0, 10**400), "scale=inf is not finite"),
    "many numbers": (lambda: N(torch.zeros(2), 1), "loc=.* is not one number"),
    "a huge radius": (lambda: gs.Ball(10**400, tx=0), "radius=inf is not finite"),
    "a text as points": (lambda: gs.Points("abc"), "points='abc' is not a list of points"),
    "one point, not a list": (lambda: gs.Points({"tx": 1}), "is not a list of points"),
    "a number as points": (lambda: gs.Points(5), "points=5 is not a list of points"),
    "a point without names": (lambda: gs.Points([5]), "the point 5 does not name its parameters"),
    "an infinite image": (lambda: gs.SmoothedFamily(T.Translation(), SHIFTS, (float("inf"), 3)), "image_size=.*two"),
    "one side": (lambda: gs.SmoothedFamily(T.Translation(), SHIFTS, 5), "image_size=5 must be two positive"),
    "a text as a side": (lambda: gs.SmoothedFamily(T.Translation(), SHIFTS, ("a", 3)), "image_size=.*two positive"),
    "half a pixel": (lambda: gs.SmoothedFamily(T.Translation(), SHIFTS, (2.5, 3)), "image_size=.*two positive"),
    "no noise": (lambda: gs.SmoothedFamily(T.Brightness(), LAWS, pixel_noise=None), "pixel_noise=None must be"),
    "a text as noise": (lambda: gs.SmoothedFamily(T.Brightness(), LAWS, pixel_noise="a"), "pixel_noise='a' must be"),
    "a list of laws": (lambda: gs.SmoothedFamily(T.Brightness(), [N(0, 1)]), "laws=.* is not a dictionary"),
    "a name as a transformation": (lambda: gs.SmoothedFamily("brightness", LAWS), "transform='brightness' is not"),
    "a class": (lambda: gs.SmoothedFamily(T.Brightness, LAWS), "is not a transformation; give an instance"),
    "a text as a region": (lambda: gs.required_probability(FAMILY, "box"), "region='box' is not a Box"),
    "a dictionary as a region": (lambda: gs.required_probability(FAMILY, {"brightness": 1}), "is not a Box, a Ball"),
    "a list as a method": (lambda: gs.required_probability(FAMILY, REGION, ["gl"]), r"method=\['gl'\] is unknown"),
    "no method": (lambda: gs.required_probability(FAMILY, REGION, None), "method=None is unknown"),
    "half a method": (lambda: gs.required_probability(FAMILY, REGION, "neyman"), "did you mean 'neyman_pearson'"),
    "a text as a parameter": (lambda: gs.tradeoff(FAMILY, {"brightness": "a"}), "brightness='a' is not a number"),
    "no parameter": (lambda: gs.tradeoff(FAMILY, {"brightness": None}), "brightness=None is not a number"),
    "a fractional point": (
        lambda: gs.required_probability(gs.SmoothedFamily(T.Translation(), SHIFTS), gs.Points([{"tx": 2.5}])),
        "whole pixels, give 3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_by_name(case):
    build, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        build()


def test_scalars_of_other_libraries_are_numbers():
    values = {gs.tradeoff(FAMILY, {"brightness": v}).inverse(0.5) for v in (0.5, np.float32(0.5), torch.tensor(0.5))}
    assert len(values) == 1
    assert gs.Box(brightness=np.array([0, 1])) == gs.Box(brightness=(0.0, 1.0))
    assert gs.SmoothedFamily(T.Translation(), SHIFTS, (8, 8.0)).image_size == (8, 8)
