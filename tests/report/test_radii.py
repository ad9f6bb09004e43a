"""Radii: never above the exact one, certified as they are printed, and as large as the grid allows."""

import csv
import io
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

import glsmooth as gs
from glsmooth.bounds import certify_region
from glsmooth.configuration.build import law_config
from glsmooth.errors import UserError
from glsmooth.laws import Exponential, LogNormal, Normal, Rayleigh, UniformCyclic
from glsmooth.report import radii
from glsmooth.report.radii import STEP, axis_of
from glsmooth.runs.run import load_run
from glsmooth.transforms import BUILTIN
from tests.report.test_formats import no_pictures, report  # noqa: F401 - fixtures
from tests.report.test_page import ALPHA, IMAGES, SIGMA, make_run, rows_of

LAWS = {
    "brightness": Normal(0.0, 0.3),
    "contrast": LogNormal(0.0, 0.3),
    "gamma": LogNormal(0.0, 0.3),
    "tx": Normal(0.0, 2.0),
    "ty": Normal(0.0, 2.0),
    "blur": Exponential(0.5),
}
SIZE = (8, 8)


def run_of(path, name, laws=LAWS, image_size=SIZE, method="neyman_pearson", images=None, **changes):
    """A run by hand of a built-in transformation, with the identity as its region."""
    cls = BUILTIN[name]
    family = gs.SmoothedFamily(cls(), {p: laws[p] for p in cls().parameters}, image_size)
    region = {p: [family.identity[p]] * 2 for p in family.parameters}
    needed = gs.required_probability(family, gs.Box(**region), method)
    make_run(
        path,
        images or [(7 + i, 0, 0, 0, count) for i, count in enumerate((400, 560, 700, 985))],
        transform={"_target_": f"glsmooth.transforms.{cls.__name__}"},
        smoothing={p: law_config(law) for p, law in family.laws.items()},
        region=region,
        image_size=None if image_size is None else list(image_size),
        methods={method: {"required_probability": needed, "sound": True}},
        **changes,
    )
    (path / "figure1.npz").unlink()  # of another size
    return load_run(path)


def h_min(run, interval, method="neyman_pearson"):
    return certify_region(run.family, gs.Box(**interval), method)


def test_brightness_alone_is_the_radius_of_cohen(tmp_path):
    run = load_run(
        make_run(tmp_path / "run", [(7 + i, 0, 0, 0, count) for i, count in enumerate((1000, 939, 700, 540))])
    )
    (one,) = radii.radii(run).found
    exact = SIGMA * norm.ppf(run.p_lower[:3])
    assert (one.values[:3] <= exact).all()
    assert (one.values[:3] * (1 + STEP) >= exact * (1 - 1e-3)).all()  # four digits move a size by 5 · 10⁻⁴
    assert run.p_lower[3] < 0.5
    assert one.values[3] == 0.0
    assert not one.at_least.any()


@pytest.mark.parametrize("name", BUILTIN)
def test_a_radius_is_certified_and_the_next_size_is_not(tmp_path, name):
    run = run_of(tmp_path / "run", name)
    found = radii.radii(run)
    assert [one.axis.parameter for one in found.found] == list(run.family.parameters)
    assert not found.without
    for one in found.found:
        parameter = one.axis.parameter
        steps = list(zip(one.axis.sizes, one.axis.sizes[1:], strict=False))
        if parameter in ("tx", "ty"):
            assert list(one.axis.sizes) == [1.0, 2.0, 3.0, 4.0]
        else:
            relative = [(b - one.axis.none) / (a - one.axis.none) for a, b in steps]
            assert all(1.005 < step < 1.015 for step in relative)
        for p, size, at_least in zip(run.p_lower, one.values, one.at_least, strict=True):
            at = list(one.axis.sizes).index(size) + 1 if size != one.axis.none else 0
            assert p > 0.5 or at == 0
            if at:
                ends = {"contrast": (1 / size, size), "gamma": (1 / size, size), "blur": (0, size)}
                assert h_min(run, {parameter: ends.get(parameter, (-size, size))}).h_min < p
            assert at_least == (at == len(one.axis.sizes))
            if p > 0.5 and not at_least:
                assert h_min(run, one.axis.region(one.axis.sizes[at]).intervals).h_min >= p
        assert (np.diff(one.values) >= 0).all()  # p_A ascends
        assert one.values[-1] > one.values[0] == one.axis.none


@pytest.mark.parametrize("method", ["gl", "tss", "mp"])
def test_the_method_is_the_one_that_is_named(tmp_path, method):
    name = "gamma" if method == "mp" else "brightness"
    run = run_of(tmp_path / "run", name, laws=LAWS | {"gamma": Rayleigh(1.0)}, method=method)
    found = radii.radii(run)
    assert found.method == method
    (one,) = found.found
    assert one.values[-1] > 0
    for p, size in zip(run.p_lower[1:], one.values[1:], strict=True):
        if size != one.axis.none:
            assert h_min(run, one.axis.region(size).intervals, method).h_min < p


def test_without_a_sound_method_there_is_none(tmp_path):
    run = load_run(make_run(tmp_path / "run", methods={"gl_printed": {"required_probability": 0.6, "sound": False}}))
    found = radii.radii(run)
    assert (found.method, found.found, dict(found.without)) == (None, (), {"brightness": "no sound method applies"})
    assert "brightness: no sound method applies." in radii.section(run, found)
    assert "radius" not in radii.radii_csv(run, found)


def test_what_is_certified_at_every_size_is_at_least_the_last(tmp_path):
    run = run_of(tmp_path / "run", "translation", laws=dict.fromkeys(("tx", "ty"), UniformCyclic()), image_size=(6, 9))
    across, down = radii.radii(run).found
    assert across.values.tolist() == [0, 4, 4, 4]  # nine columns: ± 4 are all shifts
    assert down.values.tolist() == [0, 3, 3, 3]
    assert across.at_least.tolist() == [False, True, True, True]
    text = radii.section(run, radii.radii(run))
    assert "≥ 4" in text
    assert "covers the whole torus: every shift is certified" in text


def test_shifts_on_the_plane_end_nowhere_near(tmp_path):
    run = run_of(tmp_path / "run", "translation", image_size=None)
    across, _ = radii.radii(run).found
    assert len(across.axis.sizes) == 1000
    assert not across.at_least.any()
    exact = [max(0, math.floor(2.0 * norm.ppf(p) - 0.5)) if p > 0.5 else 0 for p in run.p_lower]
    assert (across.values <= np.array(exact) + 1).all()


class Odd(gs.ResolvableTransform):
    """A shift that is no group of ours."""

    name = "odd"
    parameters = ("odd",)
    identity = torch.zeros(1, dtype=torch.float64)

    def apply(self, images, theta):
        return images + theta[:, 0, None, None, None].to(images)

    def resolve(self, alpha, beta):
        return alpha + beta


class Tint(gs.ResolvableTransform):
    """A shift by its factor."""

    name = "tint"
    factors = (gs.transforms.Shift("tint"),)

    def apply(self, images, theta):
        return images + theta[:, 0, None, None, None].to(images)


def test_a_transformation_of_the_users_has_radii_by_its_factors():
    family = gs.SmoothedFamily(Tint(), {"tint": Normal(0, 0.3)})
    assert axis_of(family, "tint").region(0.25).intervals == {"tint": (-0.25, 0.25)}
    family = gs.SmoothedFamily(Odd(), {"odd": Normal(0, 0.3)})
    assert axis_of(family, "odd") == "no symmetric interval: Odd declares no factors"


def test_a_transformation_that_is_not_what_it_says_has_none(tmp_path, monkeypatch):
    run = run_of(tmp_path / "run", "brightness")
    evaluate = type(run).evaluate

    def approximate(self, region, methods):
        return {name: one.approximate(0.5, "approximate: why") for name, one in evaluate(self, region, methods).items()}

    monkeypatch.setattr(type(run), "evaluate", approximate)
    found = radii.radii(run)
    assert not found.found
    assert dict(found.without) == {"brightness": "approximate: why"}


# The command


def test_radii_are_written_for_every_image(tmp_path, report):  # noqa: F811
    path = make_run(tmp_path / "run")
    printed, _ = report(path, radii=True)
    found = list(csv.DictReader(io.StringIO((path / "radii.csv").read_text())))
    assert list(found[0]) == [
        *("index", "label", "prediction", "correct", "p_lower", "radius_brightness", "at_least_brightness")
    ]
    assert [[int(row["index"]), int(row["label"]), int(row["prediction"])] for row in found] == [
        list(image[:3]) for image in IMAGES
    ]
    assert [row["correct"] for row in found] == [str(int(image[1] == image[2])) for image in IMAGES]
    run = load_run(path)
    assert [float(row["p_lower"]) for row in found] == run.p_lower.tolist()
    values = [float(row["radius_brightness"]) for row in found]
    exact = [max(0.0, SIGMA * norm.ppf(p)) if p > 0.5 else 0.0 for p in run.p_lower]
    assert all(a <= b <= a * 1.0115 for a, b in zip(values, exact, strict=True))
    # Of the eight correct images, ascending: the second, the fourth, the sixth and the last.
    right = sorted(value for value, row in zip(values, found, strict=True) if row["correct"] == "1")
    (row,) = [row for row in rows_of(printed) if row[0].startswith("brightness")]
    assert row[1:] == ["[−r, r]", *(repr(right[i]).removesuffix(".0") for i in (1, 3, 5, 7))]
    assert "Radius of each image, by Neyman–Pearson:" in printed
    assert f"Radius of each image, by {gs.bounds.METHODS['neyman_pearson'].title}" in (path / "report.html").read_text()


def test_without_radii_there_is_none(tmp_path, report):  # noqa: F811
    path = make_run(tmp_path / "run")
    printed, _ = report(path)
    assert "adius" not in printed
    assert not (path / "radii.csv").exists()


def test_the_method_of_the_command_line_is_taken(tmp_path, report):  # noqa: F811
    path = make_run(tmp_path / "run")
    printed, out = report(path, radii=True, bound={"methods": ["tss"]})
    assert "Radius of each image, by TSS" in printed
    assert (out / "radii.csv").is_file()
    assert not (path / "radii.csv").exists()


def test_votes_that_stopped_are_said(tmp_path):
    path = make_run(tmp_path / "run", monte_carlo={"name": "sequential", "n0": 200, "n": 1000, "alpha": ALPHA})
    run = load_run(path)
    assert any("a fixed number of them could give larger radii" in note for note in notes_of(run))


def notes_of(run):
    return radii.radius_notes(run, radii.radii(run))


def test_radii_are_about_one_run(tmp_path, report):  # noqa: F811
    runs = [make_run(tmp_path / name) for name in "ab"]
    with pytest.raises(UserError, match="radii=true: is about one run"):
        report(*runs, radii=True)
    with pytest.raises(UserError, match="radii=true: votes=FILE holds no run"):
        report(votes="votes.json", radii=True)
