"""Reports of certify runs. The run is made by hand, so that every printed number was counted by hand."""

import base64
import csv
import json
import re
from dataclasses import asdict, replace
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy.stats import norm

import glsmooth.commands.report as command
from glsmooth import bounds
from glsmooth.bounds.confidence import anytime_lower, clopper_pearson_lower
from glsmooth.errors import UserError
from glsmooth.family.regions import Ball, Box, Points
from glsmooth.family.sizes import scaled
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import Normal
from glsmooth.report import figures, page, sweeps, tables, wording
from glsmooth.report.comparison import write_comparison
from glsmooth.report.page import write_report
from glsmooth.report.sweeps import SIZES, affordable_axes
from glsmooth.runs.records import read_records
from glsmooth.runs.run import Run, load_run
from glsmooth.runs.summary import Numbers, Summary
from glsmooth.transforms import ContrastBrightness, Translation

from ..bounds.user_transforms import AFFINE
from ..pictures import few_points

COLUMNS = [
    "index",
    "label",
    "prediction",
    "n0",
    "n",
    "count",
    "p_lower",
    "base_prediction",
    "abstain_votes",
    "nonfinite_votes",
    "near_ties",
]
ALPHA = 0.001
# What 936 of 1000 votes prove, 0.90856, is made the h_min of the run, so that equality is among the images. Under
# N(0, σ²) and |b| ≤ 0.4 Neyman-Pearson needs Φ(0.4 / σ): as much, but for what tells it from a stored H_MIN.
H_MIN = clopper_pearson_lower(936, 1000, ALPHA)
SIGMA = 0.4 / float(norm.ppf(H_MIN - 1e-5))  # 0.3003
PRINTED = 0.7475
NP = bounds.METHODS["neyman_pearson"].title
# index, label, selected class, base classifier's class, votes of 1000 for the selected class
IMAGES = [
    (3, 0, 0, 0, 971),  # p_lower 0.95: certified and correct
    (5, 1, 1, 1, 999),  # 0.99: certified and correct
    (7, 2, 2, 0, 938),  # 0.91: certified and correct, though the base classifier is wrong
    (8, 1, 1, 1, 929),  # 0.90: only the printed procedure would claim it
    (11, 0, 0, 0, 839),  # 0.80: only the printed procedure would claim it
    (12, 2, 1, 2, 986),  # 0.97: certified in a wrong class
    (14, 1, 1, 1, 649),  # 0.60
    (20, 0, 0, 0, 549),  # 0.4997: abstains
    (21, 2, 0, 0, 346),  # 0.30: abstains, wrong
    (30, 1, 1, 1, 936),  # equality does not certify
]


def p_lower_of(count, n=1000, sequential=False, mixture="uniform"):
    return anytime_lower(count, n, ALPHA, mixture) if sequential else clopper_pearson_lower(count, n, ALPHA)


def make_run(path, images=IMAGES, n=1000, **changes):
    """A certify run directory by hand; ``changes`` replace keys of its summary."""
    path.mkdir(parents=True, exist_ok=True)
    summary = {
        "command": "certify",
        "transform": {"_target_": "glsmooth.transforms.Brightness"},
        "smoothing": {"brightness": {"law": "Normal", "loc": 0.0, "scale": SIGMA}},
        "region": {"brightness": [-0.4, 0.4]},
        "image_size": [8, 8],
        "pixel_noise": 0.0,
        "dataset": {"name": "squares", "subset": None},
        "model": {"name": "small_cnn"},
        "classes": ["cat", "dog", "<emu>"],
        "checkpoint": {"path": "best.ckpt", "sha256": "0" * 64},
        "monte_carlo": {"name": "paper", "n0": 200, "n": 1000, "alpha": ALPHA},
        "seed": 0,
        "images": len(images),
        "methods": {
            "neyman_pearson": {
                "required_probability": H_MIN,
                "sound": True,
                "worst_parameter": {"brightness": 0.4},
            },
            "gl": {"required_probability": H_MIN, "sound": True},
            "gl_printed": {"required_probability": PRINTED, "sound": False},
            "mp": {"required_probability": None, "sound": True, "reason": "no multiplicative law"},
        },
    }
    summary.update(changes)
    (path / "summary.json").write_text(json.dumps(summary))
    with (path / "records.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*COLUMNS, *(f"certified_{name}" for name in summary["methods"])])
        for index, label, prediction, base, count in images:
            monte_carlo = summary["monte_carlo"]
            p_lower = p_lower_of(count, n, monte_carlo["name"] == "sequential", monte_carlo.get("mixture") or "uniform")
            row = [index, label, prediction, 200, n, count, repr(p_lower), base, 1, 0, 0]
            certified = []
            for entry in summary["methods"].values():
                threshold = entry["required_probability"] if entry["sound"] else None
                certified.append(int(threshold is not None and p_lower > threshold))
            writer.writerow(row + certified)
    generator = torch.Generator().manual_seed(0)
    np.savez(
        path / "figure1.npz",
        index=7,
        image=torch.rand(3, 8, 8, generator=generator).numpy(),
        transformed=torch.rand(6, 3, 8, 8, generator=generator).numpy(),
        theta=torch.randn(6, len(summary["smoothing"]), generator=generator).numpy(),
        votes=np.array([2, 2, 1, -1, 2, 2]),
        class_names=np.array(["cat", "dog", "<emu>"]),
    )
    return path


def plane_run(path):
    """A run of two parameters whose bounds come from ``bounds`` themselves."""
    changes = {
        "transform": {"_target_": "glsmooth.transforms.ContrastBrightness"},
        "smoothing": {
            "contrast": {"law": "LogNormal", "loc": 0.0, "scale": 0.6},
            "brightness": {"law": "Normal", "loc": 0.0, "scale": 0.6},
        },
        "region": {"contrast": [0.7, 1.4], "brightness": [-0.2, 0.2]},
    }
    make_run(path, **changes)
    stored = load_run(path)
    bound = bounds.certify_region(stored.family, stored.region, "neyman_pearson")
    methods = {"neyman_pearson": {"required_probability": bound.h_min, "sound": True, "worst_parameter": bound.worst}}
    return make_run(path, **changes, methods=methods)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with few_points():
        yield


@pytest.fixture
def run_dir(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run with two parameters and its written report."""
    path = plane_run(tmp_path_factory.mktemp("report") / "plane")
    write_report(path)
    return path


def rows_of(markdown):
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines]


# Numbers


def test_table_has_the_hand_counted_numbers(run_dir):
    write_report(run_dir)
    text = (run_dir / "table.md").read_text()
    rows = rows_of(text)
    assert [NP, wording.ceil(H_MIN, 5), "4", "3", "30.0 %"] in rows
    assert ["base classifier correct", "8", "80.0 %"] in rows
    assert ["smoothed classifier: selected class correct", "8", "80.0 %"] in rows
    assert ["smoothed classifier abstains (p_A ≤ 1/2)", "2", "20.0 %"] in rows
    assert (
        "Of 10 test images, 3 (30.0 %) provably keep their correct class under every brightness in "
        "[−0.4, 0.4], except with probability at most 0.001 for each image." in text
    )
    assert "does not apply: MP covers a single multiplicative parameter" in text


@pytest.mark.parametrize("claimed_sound", [False, True])
def test_unsound_method_never_counts(tmp_path, claimed_sound):
    """Five correct images are above the printed h_min; not even a summary that calls it sound counts them."""
    methods = {"gl_printed": {"required_probability": PRINTED, "sound": False}}
    path = make_run(tmp_path / "run", methods=methods)
    methods["gl_printed"]["sound"] = claimed_sound
    summary = json.loads((path / "summary.json").read_text()) | {"methods": methods}
    (path / "summary.json").write_text(json.dumps(summary))
    stored = load_run(path)
    outcome = stored.outcomes["gl_printed"]
    assert not outcome.certifies(stored.p_lower).any()
    assert outcome.claims(stored.p_lower).sum() == 7
    write_report(path)
    text = (path / "table.md").read_text()
    row = next(row for row in rows_of(text) if "unsound" in row[0])
    assert row[2:] == ["unsound", "unsound", "unsound"]
    assert "none of the 10 test images is certified" in text
    assert not stored.robust(stored.evaluate(stored.region, ["gl_printed"])["gl_printed"]).any()
    table = write_comparison([(stored, stored.region, stored.outcomes)] * 2, tmp_path / "both")
    assert rows_of(table)[2][-1] == "unsound"
    assert "No sound method applies" in table
    assert not (path / "cra_region.svg").exists()


def test_headline_says_why_nothing_is_certified(tmp_path):
    needs_many = {"neyman_pearson": {"required_probability": 0.9964, "sound": True}}
    text = tables.headline(*_stored(make_run(tmp_path / "many", methods=needs_many)))
    assert "None of the 10" in text
    assert "1916 unanimous votes" in text
    impossible = {"neyman_pearson": {"required_probability": 1.0, "sound": True}}
    text = tables.headline(*_stored(make_run(tmp_path / "never", methods=impossible)))
    assert "no vote can reach" in text


def test_estimated_bounds_add_their_failure_probability(tmp_path):
    entry = {"required_probability": H_MIN, "sound": True, "failure_probability": 0.0005}
    arguments = _stored(make_run(tmp_path / "run", methods={"neyman_pearson": entry}))
    assert "at most 0.0015 for each image" in tables.headline(*arguments)


def _stored(path):
    stored = load_run(path)
    return stored, stored.region, stored.outcomes


@pytest.mark.parametrize(
    ("function", "value", "digits", "text"),
    [
        (wording.floor, 0.99319, 4, "0.9931"),
        (wording.ceil, 0.90871, 4, "0.9088"),
        (wording.ceil, 0.9375, 4, "0.9375"),
    ],
)
def test_rounding_is_safe(function, value, digits, text):
    assert function(value, digits) == text


def test_captions_are_short_and_plain():
    assert wording.caption("great white shark, white shark", 16) == "great white sha…"
    assert wording.caption("a $1 bill", 16) == r"a \$1 bill"


def test_percentages_and_probabilities_are_exact():
    assert wording.percent(331, 360) == "91.9 %"
    assert wording.percent(29, 100) == "29.0 %"  # 0.29 * 100 is 28.999…
    assert wording.percent(9999, 10000) == "99.9 %"
    assert wording.probability(0.001) == "0.001"
    assert wording.probability(0.0010001) == "0.00101"


# Regions


def test_decide_equals_the_direct_comparison(run_dir):
    stored = load_run(run_dir)
    region = Box(brightness=(-0.3, 0.2))
    outcome = stored.evaluate(region, ["neyman_pearson"])["neyman_pearson"]
    h_min = bounds.required_probability(stored.family, region, method="neyman_pearson")
    assert h_min == pytest.approx(norm.cdf(0.3 / SIGMA), abs=1e-6)
    expected = [p_lower_of(count) > h_min for *_, count in IMAGES]
    assert sum(expected) == 6  # the smaller region certifies two more images
    assert outcome.certifies(stored.p_lower).tolist() == expected


def test_robust_accuracy_counts_strictly_above():
    p_lower, correct = np.array([0.6, 0.7, 0.7, 0.8]), np.array([True, True, False, True])
    assert sweeps.robust_accuracy(p_lower, correct, np.array([0.5, 0.6, 0.7, 0.8])).tolist() == [
        0.75,
        0.5,
        0.25,
        0.0,
    ]


def test_a_scaled_box_keeps_the_domain(written):
    transform = load_run(written).family.transform
    box = scaled(transform, Box(contrast=(0.5, 2.0), brightness=(-0.2, 0.4)), 2.0)
    assert box.intervals["contrast"] == pytest.approx((0.25, 4.0))
    assert box.intervals["brightness"] == pytest.approx((-0.4, 0.8))
    box = scaled(transform, Box(contrast=(0.5, 2.0)), 0.0)
    assert box.intervals["contrast"] == (1.0, 1.0)


def test_a_scaled_ball_stays_a_ball(written):
    family = load_run(written).family
    ball = Ball(0.3, contrast=1.2, brightness=0.1)
    assert scaled(family.transform, ball, 2.0).to_config()["centre"] == pytest.approx(
        {"contrast": 1.4, "brightness": 0.2}
    )
    assert scaled(family.transform, ball, 2.0).radius == 0.6
    assert scaled(family.transform, ball, 0.0) == Ball(0, contrast=1, brightness=0)


def test_sizes_of_a_ball_that_leave_the_domain_are_left_out(written, monkeypatch):
    monkeypatch.setattr(sweeps, "SIZES", SIZES)
    stored, _, _ = _stored(written)
    ball = Ball(0.8, contrast=1)
    h_min = bounds.required_probability(stored.family, ball)
    arguments = (stored.family, ball, "neyman_pearson", stored.p_lower, stored.correct, h_min)
    sizes, cra = sweeps.region_curve(*arguments, seconds=100.0)
    assert sizes.tolist() == [i / 16 for i in range(20)]  # at 20/16 contrast 0 is in the ball
    assert (np.diff(cra) <= 0).all()


def test_region_curve_falls_and_meets_the_table(written, monkeypatch):
    monkeypatch.setattr(sweeps, "SIZES", SIZES)
    stored, region, outcomes = _stored(written)
    outcome = outcomes["neyman_pearson"]
    arguments = (stored.family, region, "neyman_pearson", stored.p_lower, stored.correct, outcome.h_min)
    sizes, cra = sweeps.region_curve(*arguments, seconds=100.0)
    assert sizes.tolist() == [i / 16 for i in range(33)]
    assert (np.diff(cra) <= 0).all()
    assert cra[-1] < cra[0] == (stored.correct & (stored.p_lower > 0.5)).mean()
    assert cra[16] == stored.robust(outcome).mean()
    box = Box(contrast=(0.7**1.5, 1.4**1.5), brightness=(-0.3, 0.3))
    larger = stored.evaluate(box, ["neyman_pearson"])["neyman_pearson"]
    assert cra[24] == stored.robust(larger).mean()
    # Without time there is one more size than the one that is known.
    sizes, few = sweeps.region_curve(*arguments, seconds=0.0)
    assert sizes.tolist() == [0.5, 1.0]
    assert few.tolist() == [cra[8], cra[16]]


def test_plane_keeps_to_its_time(written):
    stored, region, _ = _stored(written)
    assert affordable_axes(stored.family, region, "neyman_pearson", 1000.0)[0].nodes.size == 41
    assert affordable_axes(stored.family, region, "neyman_pearson", 0.0) is None
    for image_size in ((224, 224), None):
        shifts = SmoothedFamily(Translation(), {"tx": Normal(0.0, 50.0), "ty": Normal(0.0, 50.0)}, image_size)
        x, y = sweeps.plane_axes(shifts, Box(tx=(-56, 56), ty=(-3, 3)))
        assert x.nodes.size <= 41
        assert 0.0 in x.nodes
        assert (x.nodes == np.round(x.nodes)).all()
        assert y.nodes.tolist() == list(range(-6, 7))


def test_sampled_bounds_are_as_dear_as_they_are():
    """Their answers are kept, so asking twice for the same one tells nothing of the next."""
    assert affordable_axes(AFFINE, Box(c=(0.9, 1.1), b=(-0.1, 0.1)), "neyman_pearson", 1.0) is None


def test_parameter_plane_is_pointwise(written):
    stored, region, _ = _stored(written)
    axes = sweeps.plane_axes(stored.family, region, nodes=5)
    assert [axis.name for axis in axes] == ["contrast", "brightness"]
    plane = sweeps.required_probability_plane(stored.family, region, axes, "neyman_pearson")
    assert plane.values[2, 2] == plane.values.min()  # brightness 0 and a contrast near the identity
    corner = {"contrast": plane.x.nodes[0], "brightness": plane.y.nodes[4]}
    box = Box(**{name: (value, value) for name, value in corner.items()})
    assert plane.values[4, 0] == pytest.approx(bounds.required_probability(stored.family, box), abs=1e-6)
    assert sweeps.plane_axes(stored.family, Box(contrast=(0.5, 2.0))) is None


def test_a_ball_is_cut_by_the_plane(written):
    family = load_run(written).family
    ball = Ball(0.3, contrast=1.2, brightness=0.1)
    x, y = axes = sweeps.plane_axes(family, ball, nodes=3)
    assert (*x.interval, *y.interval) == pytest.approx((0.9, 1.5, -0.2, 0.4))
    plane = sweeps.required_probability_plane(family, ball, axes, "neyman_pearson")
    assert np.hypot(*(plane.circle() - [1.2, 0.1]).T) == pytest.approx(0.3)
    assert plane.points() == []
    listed = replace(plane, region=Points([{"contrast": 2.0}, {"brightness": 0.1}]))
    assert listed.points() == [(2.0, 0.0), (1.0, 0.1)]
    assert listed.circle() is None
    # A third parameter at its identity takes from the radius.
    at = {"tx": 0.0, "ty": 0.0, "b": 0.0}
    assert sweeps.circle(Ball(5, tx=0, ty=0, b=4), ("tx", "ty"), at).max() == pytest.approx(3)
    assert sweeps.circle(Ball(3, tx=0, ty=0, b=4), ("tx", "ty"), at) is None
    assert sweeps.circle(Ball(3, tx=0, ty=0), ("tx", "b"), at) is None


# The page


@pytest.mark.parametrize(
    ("region", "headline", "shape"),
    [
        (
            Ball(0.1, contrast=1, brightness=0),
            "under every contrast and brightness within 0.1 of c = 1, b = 0",
            "circle",
        ),
        (
            Points([{"contrast": 1.2, "brightness": 0.1}, {"brightness": -0.1}]),
            "under each of the points (c = 1.2",
            "squares",
        ),
    ],
)
def test_a_page_of_another_region(written, tmp_path, monkeypatch, region, headline, shape):
    monkeypatch.setattr(page, "CURVE_SECONDS", 0.0)
    stored = load_run(written)
    outcomes = stored.evaluate(region, ["neyman_pearson"])
    page.write_run_report(stored, tmp_path, region, outcomes)
    table, words = (tmp_path / "table.md").read_text(), (tmp_path / "report.html").read_text()
    assert headline in table
    assert f"The {shape}" in words
    assert (tmp_path / "cra_region.png").is_file() == isinstance(region, Ball)  # a list has no size
    (row,) = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    if isinstance(region, Ball):
        assert (row["region.radius"], row["region.contrast.centre"], row["region.brightness.centre"]) == (
            "0.1",
            "1.0",
            "0.0",
        )
    else:
        assert json.loads(row["region.points"]) == region.to_config()["points"]


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (Ball(20, tx=0, ty=0), "horizontal shift and vertical shift within 20 pixels of no shift (l2)"),
        (Ball(2.5, tx=3, ty=0), "horizontal shift and vertical shift within 2.5 pixels of tx = 3, ty = 0 (l2)"),
        (Ball(0.1, brightness=0), "brightness within 0.1 of b = 0 (l2)"),
        (
            Ball(0.3, tx=0, contrast=1),
            "horizontal shift and contrast within 0.3 of tx = 0, c = 1 (l2, each in its own unit)",
        ),
        (Points([{"tx": 1}, {"tx": 2}]), "the points (tx = 1) and (tx = 2)"),
        (
            Points([{"tx": i} for i in range(9)]),
            "the points (tx = 0), (tx = 1), (tx = 2), (tx = 3) and 5 more",
        ),
    ],
)
def test_regions_in_words(region, words):
    assert wording.region(region) == words


def test_plot_of_required_probabilities(written, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "plane_axes", partial(sweeps.plane_axes, nodes=5))
    family = load_run(written).family
    figures.required_probability_plane(family, Box(contrast=(0.7, 1.4), brightness=(0.0, 0.2)), tmp_path / "h.png")
    assert (tmp_path / "h.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="plot: the region has the parameters contrast; a plane needs"):
        figures.required_probability_plane(family, Box(contrast=(0.7, 1.4)), tmp_path / "no.png")


def test_a_transformation_may_be_called_anything(written, tmp_path, monkeypatch):
    class Odd(ContrastBrightness):
        name = "$x^$"

    monkeypatch.setattr(sweeps, "plane_axes", partial(sweeps.plane_axes, nodes=3))
    stored = load_run(written)
    family = SmoothedFamily(Odd(), stored.family.laws)
    figures.required_probability_plane(family, Box(contrast=(0.7, 1.4), brightness=(0.0, 0.2)), tmp_path / "h.svg")
    assert "$x^$: required" in (tmp_path / "h.svg").read_text()


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links = set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in ("src", "srcset", "href", "data", "poster")]


def test_page_is_self_contained(written):
    text = (written / "report.html").read_text()
    parser = _Links()
    parser.feed(text)
    assert not parser.tags & {"script", "link", "iframe", "object", "base"}
    assert len(parser.links) >= 6
    assert all(link.startswith("data:image/svg+xml;base64,") for link in parser.links)
    assert "http" not in re.sub(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"@import|url\(", text)
    for link in parser.links:
        svg = base64.b64decode(link.partition(",")[2]).decode()
        targets = re.findall(r'href="([^"]*)"', svg)
        assert all(target.startswith(("#", "data:")) for target in targets)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_page_says_what_then_how_sure_then_how(written):
    titles = re.findall(r"<h2>(.*?)</h2>", (written / "report.html").read_text())
    assert titles == [
        "Result",
        "Certified robust accuracy against the size of the region",
        "Certified robust accuracy at every point of the plane",
        "How far the images are from the threshold",
        "What the certificate assumes",
        "What was done to one image",
        "Settings",
        "Every image",
        "This run",
    ]


def test_page_escapes_and_shows_every_part(written):
    text = (written / "report.html").read_text()
    assert "<emu>" not in text
    assert "&lt;emu&gt;" in text
    for words in ("What was done to one image", "size of the region", "point of the plane", "not clipped"):
        assert words in text
    for name in ("procedure", "cra_region", "cra_plane", "threshold"):
        assert (written / f"{name}.png").stat().st_size > 5000
        assert (written / f"{name}.svg").read_bytes().startswith(b"<?xml")


def test_pictures_leave_matplotlib_as_it_was(run_dir):
    import matplotlib

    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)
    write_report(run_dir)
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend(auto_select=False) == backend


def test_a_picture_is_laid_out_once_for_all_its_files(monkeypatch):
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine, times = ConstrainedLayoutEngine.execute, []
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda *given: (times.append(1), engine(*given)))
    figure = figures.new_figure(figures.LIGHT, 2.0)
    axes = figure.add_subplot(ylabel="left of the ticks")
    places = [axes.get_position().bounds]
    for kind, begin in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        assert figures.rendered(figure, kind).startswith(begin)
        places.append(axes.get_position().bounds)
    assert places[0] != places[1] == places[2]
    assert times == [1]


def test_pictures_are_drawn_with_the_defaults(run_dir, monkeypatch):
    """Settings that were read before, from a file of the working directory, say, do nothing."""
    import matplotlib

    write_report(run_dir)
    names = ("procedure", "cra_region", "threshold")
    before = {name: (run_dir / f"{name}.png").read_bytes() for name in names}
    there = set(run_dir.iterdir())
    monkeypatch.chdir(run_dir)
    hostile = {
        "svg.image_inline": False,
        "text.usetex": True,
        "text.latex.preamble": r"\newwrite\f",
        "lines.linewidth": 0.0,
        "font.size": 1.0,
        "savefig.facecolor": "red",
        "savefig.bbox": "tight",
    }
    with matplotlib.rc_context(hostile):
        write_report(run_dir)
    assert {name: (run_dir / f"{name}.png").read_bytes() for name in names} == before
    assert set(run_dir.iterdir()) == there


def test_diagram_tells_the_row_of_its_image(run_dir, monkeypatch):
    seen = []
    monkeypatch.setattr(
        figures,
        "procedure",
        lambda theme, what, draw=figures.procedure: seen.append(what) or draw(theme, what),
    )
    write_report(run_dir)
    what = seen[0]
    assert (what.count, what.n, what.p_lower, what.h_min) == (938, 1000, p_lower_of(938), H_MIN)
    assert (what.selected, what.label) == ("<emu>", "<emu>")
    assert list(what.votes) == ["<emu>", "<emu>", "dog", "abstains", "<emu>", "<emu>"]
    assert list(what.agree) == [True, True, False, False, True, True]


# Mistakes


def _edit(path, name, old, new):
    text = (path / name).read_text()
    assert old in text
    (path / name).write_text(text.replace(old, new, 1))


FIRST = repr(p_lower_of(971))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: _edit(p, "summary.json", '"alpha": 0.001', '"alpha": 2'), r"alpha is 2, not a number in \[0, 1\)"),
        (lambda p: _edit(p, "summary.json", '"dataset": {', '"dataset": 1, "d": {'), r"dataset is 1, not an"),
        (lambda p: _edit(p, "summary.json", repr(H_MIN), "0.3"), r"required_probability is 0\.3"),
        (
            lambda p: (p / "records.csv").unlink(),
            r"has no records\.csv; give a directory in which certify has finished",
        ),
        (lambda p: (p / "summary.json").unlink(), r"has no summary\.json"),
        (lambda p: (p / "summary.json").write_text("{"), r"not readable as JSON"),
        (lambda p: (p / "summary.json").write_text("[]"), r"not an object"),
        (lambda p: _edit(p, "summary.json", '"smoothing"', '"smooth"'), r"lacks smoothing;"),
        (
            lambda p: _edit(p, "summary.json", '"neyman_pearson"', '"neyman_person"'),
            r"did you mean 'neyman_pearson'",
        ),
        (lambda p: _edit(p, "summary.json", '"images": 10', '"images": 12'), r"10 images, but .* images=12"),
        (lambda p: _edit(p, "records.csv", "p_lower", "p"), r"no column 'p_lower'"),
        (lambda p: _edit(p, "records.csv", FIRST, "1.95"), r"line 2: p_lower is 1\.95, not in \[0, 1\]"),
        (lambda p: _edit(p, "records.csv", FIRST, "nan"), r"line 2: p_lower is nan"),
        (lambda p: _edit(p, "records.csv", FIRST, "much"), r"line 2: p_lower is 'much', not a number"),
        (lambda p: _edit(p, "records.csv", "\n5,", "\n3,"), r"index 3 occurs 2 times"),
        (
            lambda p: _edit(p, "records.csv", FIRST, "0.85"),
            r"index 3: certified_neyman_pearson=1, but p_lower=0\.85",
        ),
        (
            lambda p: (p / "records.csv").write_text((p / "records.csv").read_text()[:-6]),
            r"line 11 has \d+ values",
        ),
        (
            lambda p: (p / "records.csv").write_text((p / "records.csv").read_text().split("\n")[0]),
            r"holds no image",
        ),
        (lambda p: (p / "figure1.npz").write_bytes(b"torn"), r"figure1\.npz: not readable"),
        (
            lambda p: np.savez(
                p / "figure1.npz",
                index=4,
                image=np.zeros((1, 8, 8)),
                transformed=np.zeros((1, 1, 8, 8)),
                theta=[[0.0]],
                votes=[0],
            ),
            r"index 4 is not",
        ),
    ],
)
def test_damaged_runs_are_refused(run_dir, damage, words):
    damage(run_dir)
    with pytest.raises(UserError, match=words):
        write_report(run_dir)


def _cells(path, index, **cells):
    """Change cells of one image's row."""
    with (path / "records.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    next(row for row in rows if row["index"] == str(index)).update({name: str(cell) for name, cell in cells.items()})
    with (path / "records.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _summary(path, change):
    content = json.loads((path / "summary.json").read_text())
    change(content)
    (path / "summary.json").write_text(json.dumps(content))


def _claim(required):
    return lambda content: [entry.update(required_probability=required) for entry in content["methods"].values()]


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (
            lambda p: _cells(p, 3, count=0, p_lower=1.0),
            r"index 3: p_lower=1, but count=0 of n=1000 at alpha=0\.001 gives 0;",
        ),
        (
            lambda p: _cells(p, 12, p_lower=p_lower_of(986) * (1 + 1e-8)),
            r"index 12: p_lower=0\.970385, but count=986 of n=1000 at alpha=0\.001 gives 0\.970385;",
        ),
        (lambda p: _cells(p, 12, p_lower=0.97), r"index 12: p_lower=0\.97, but count=986"),  # smaller is no better
        (lambda p: _cells(p, 3, count=1001), r"index 3: count=1001 of n=1000;"),
        (lambda p: _cells(p, 3, count=-1), r"line 2: count is -1, not a whole number from 0"),
        (lambda p: _cells(p, 3, n=2000), r"index 3: n=2000, but summary\.json has monte_carlo\.n=1000;"),
        (lambda p: _cells(p, 3, n0=100), r"index 3: n0=100, but summary\.json has monte_carlo\.n0=200;"),
        (lambda p: _cells(p, 3, prediction=-1), r"index 3: count=971, but no draw voted"),
        (
            lambda p: _summary(p, lambda s: s["monte_carlo"].update(alpha=1e-9)),
            r"index 3: .* at alpha=1e-09 gives 0\.9",
        ),
        (lambda p: _summary(p, lambda s: s["monte_carlo"].update(name="paper_literal")), r"index 3: p_lower=0\.95"),
        (lambda p: _summary(p, lambda s: s["monte_carlo"].update(name="sequential")), r"index 3: p_lower=0\.95"),
        (
            lambda p: _summary(p, lambda s: s["monte_carlo"].update(name="none")),
            r"monte_carlo\.name is 'none', not one of",
        ),
        (lambda p: _summary(p, lambda s: s["monte_carlo"].pop("name")), r"lacks monte_carlo\.name;"),
        (
            lambda p: _summary(p, lambda s: s["monte_carlo"].update(n="many")),
            r"monte_carlo\.n is 'many', not a whole number",
        ),
        (lambda p: _summary(p, lambda s: s["monte_carlo"].update(n0=0)), r"n0=0, n=1000: both must be at least 1"),
        (
            lambda p: _summary(p, _claim(0.5)),
            r"methods\.neyman_pearson: required_probability=0\.5, but its transformation, laws and region give 0\.90",
        ),
        (lambda p: _summary(p, lambda s: s["methods"]["gl"].update(required_probability=0.9085)), r"methods\.gl: req"),
        (lambda p: _summary(p, lambda s: s["region"].update(brightness=[-0.4, 0.41])), r"and region give 0\.91"),
        (lambda p: _summary(p, lambda s: s["smoothing"]["brightness"].update(scale=0.29)), r"and region give 0\.91"),
        (
            lambda p: _summary(p, lambda s: s["methods"]["mp"].update(required_probability=0.5)),
            r"methods\.mp: required_probability=0\.5, but its transformation, laws and region give nothing",
        ),
        # Words that the procedure does not mean, and draws beyond those of the row.
        (
            lambda p: _summary(p, lambda s: s["monte_carlo"].update(interval="two-sided")),
            r"monte_carlo\.interval is 'two-sided', but monte_carlo\.name=paper means 'one-sided';",
        ),
        (
            lambda p: _summary(p, lambda s: s["monte_carlo"].update(vote="majority")),
            r"monte_carlo\.vote is 'majority', but monte_carlo\.name=paper means 'argmax';",
        ),
        (
            lambda p: _summary(p, lambda s: s["monte_carlo"].update(stopped_for={"gl": 0.9})),
            r"monte_carlo\.stopped_for is .*, but monte_carlo\.name=paper means nothing;",
        ),
        (lambda p: _cells(p, 3, abstain_votes=230), r"index 3: abstain_votes=230, but it can be 229 at most;"),
        (lambda p: _cells(p, 3, nonfinite_votes=2), r"index 3: nonfinite_votes=2, but it can be 1 at most;"),
        (lambda p: _cells(p, 3, near_ties=1201), r"index 3: near_ties=1201, but it can be 1200 at most;"),
        # Numbers that the records do not give.
        *(
            (
                lambda p, key=key, value=value: _summary(p, lambda s: s.update({key: value})),
                rf"json: {key} is {value}, ",
            )
            for key, value in (
                ("base_accuracy", 0.9),
                ("smoothed_accuracy", 0.81),
                ("votes_used", 12001),
                ("votes_per_image", 1199.0),
                ("abstained_votes", 11),
                ("nonfinite_votes", 1),
                ("near_ties", 1),
                ("given_up", 0.1),
            )
        ),
        (
            lambda p: _summary(p, lambda s: s.update(given_up=0.0, abstained=0.1)),
            r"json: abstained is 0\.1, but .* 0\.2;",
        ),
        (
            lambda p: _summary(p, lambda s: s["methods"]["gl"].update(certified_robust_accuracy=0.4)),
            r"json: methods\.gl\.certified_robust_accuracy is 0\.4, but records\.csv gives 0\.3;",
        ),
        # Another torus than that of the images.
        (
            lambda p: _summary(p, lambda s: s["dataset"].update(image_size=[8, 9])),
            r"json: image_size is \[8, 8\], but the images of 'squares' have \[8, 9\] pixels;",
        ),
        (
            lambda p: _summary(p, lambda s: s["dataset"].update(name="cifar10")),
            r"json: image_size is \[8, 8\], but the images of 'cifar10' have \[32, 32\] pixels;",
        ),
        (
            lambda p: _summary(p, lambda s: (s["dataset"].update(name="digits"), s.update(image_size=[1, 1]))),
            r"json: image_size is \[1, 1\], but the images of 'digits' have \[32, 32\] pixels;",
        ),
        (
            lambda p: _summary(p, lambda s: s.update(image_size=[1, 1])),
            r"figure1\.npz: its image has \[8, 8\] pixels, but summary\.json says image_size=\[1, 1\];",
        ),
        # What the files claim was certified contradicts them.
        (lambda p: _cells(p, 8, certified_neyman_pearson=1), r"index 8: certified_neyman_pearson=1, but p_lower=0\.90"),
    ],
)
def test_forged_numbers_are_refused(run_dir, forge, words):
    # A forger fills in the columns of what is certified as they follow from the lie.
    forge(run_dir)
    with (run_dir / "records.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    needed = json.loads((run_dir / "summary.json").read_text())["methods"]
    if "certified_neyman_pearson=1" not in words:
        for row in rows:
            for name in ("neyman_pearson", "gl", "mp"):
                h_min = needed[name]["required_probability"]
                _cells(run_dir, row["index"], **{f"certified_{name}": int(float(row["p_lower"]) > (h_min or 2))})
    with pytest.raises(UserError, match=words):
        write_report(run_dir)
    assert not (run_dir / "table.md").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"region": {}}, "region is empty"),
        ({"region": {"gamma": [0.5, 1.0]}}, r"region\.gamma=\[0\.5, 1\.0\] is stray"),
        ({"region": {"brightness": [-1e300, 1e300]}}, None),
        ({"smoothing": {}}, r"smoothing\.brightness is missing"),
        ({"smoothing": {"gamma": {"law": "Normal", "scale": 1.0}}}, r"smoothing\.gamma=.* is stray"),
        ({"smoothing": {"brightness": {"law": "Normal"}}}, r"smoothing\.brightness\.scale is missing"),
        ({"monte_carlo": {"name": "paper_literal", "n0": 200, "n": 1000, "alpha": 5e-324}}, "alpha="),
        (
            {"transform": {"_target_": "glsmooth.transforms.Brightness", "a": "x" * 10**6}},
            r"transform\.a='xx.*xx' is not an",
        ),
        (
            {"transform": {"_target_": "glsmooth.transforms.ContrastBrightness", "order": "x" * 10**6}},
            r"transform\.order='xx.*xx' is unknown",
        ),
        ({"approximate": {"residual": 1.0, "alpha": {"10 images": 1.0}}}, r"approximate\.alpha\.10 images"),
    ],
)
def test_messages_about_a_summary_name_it_and_are_short(run_dir, change, words):
    _summary(run_dir, lambda s: s.update(change))
    with pytest.raises(UserError, match=words) as refusal:
        load_run(run_dir)
    assert str(refusal.value).startswith(str(run_dir))
    assert len(str(refusal.value)) < 1000


def test_numbers_that_the_records_give_are_accepted(tmp_path):
    records = read_records(make_run(tmp_path / "run"))
    numbers = Numbers.of(records, 1000)
    assert (numbers.smoothed_accuracy, numbers.abstained, numbers.votes_used) == (0.8, 0.2, 12000)
    methods = {
        "gl": {"required_probability": H_MIN, "sound": True, "certified_robust_accuracy": 0.3 + 1e-12},
        "gl_printed": {"required_probability": PRINTED, "sound": False, "certified_robust_accuracy": 0.0},
    }
    monte_carlo = {"name": "paper", "n0": 200, "n": 1000, "alpha": ALPHA, "vote": "argmax", "interval": "one-sided"}
    stated = {key: value for key, value in asdict(numbers).items() if key != "images"}
    path = make_run(tmp_path / "run", methods=methods, monte_carlo=monte_carlo | {"randomised": False}, **stated)
    assert load_run(path).summary.numbers == numbers
    assert load_run(make_run(tmp_path / "plane", image_size=None)).family.image_size is None


def test_a_run_is_decided_on_the_side_of_safety(run_dir):
    """Where stored and computed numbers differ by rounding, the smaller p_A and the larger h_min decide."""
    exact = load_run(run_dir)
    assert exact.p_lower.tolist() == [p_lower_of(count) for *_, count in IMAGES]
    assert exact.outcomes["neyman_pearson"].h_min == H_MIN  # the file's: ours is smaller
    assert not exact.outcomes["neyman_pearson"].certifies(exact.p_lower)[-1]
    # A release that rounds p_A up by 5e-10 and h_min down by 5e-7.
    computed = exact.evaluate(exact.region, ["neyman_pearson"])["neyman_pearson"].h_min
    for index, *_, count in IMAGES:
        _cells(run_dir, index, p_lower=repr(p_lower_of(count) * (1 + 5e-10)))
    _summary(run_dir, lambda s: s["methods"]["neyman_pearson"].update(required_probability=computed - 5e-7))
    _cells(run_dir, 30, certified_neyman_pearson=1, certified_gl=1)  # as its own numbers say
    rounded = load_run(run_dir)
    assert rounded.p_lower.tolist() == exact.p_lower.tolist()
    assert rounded.outcomes["neyman_pearson"].h_min == computed


def test_missing_directory_is_named(tmp_path):
    with pytest.raises(UserError, match=r"runs: no directory .*nowhere"):
        load_run(tmp_path / "nowhere")


# The command


def _report(out, **settings):
    base = {
        "runs": [],
        "votes": None,
        "figures": "page",
        "format": "markdown",
        "radii": False,
        "region": {"brightness": None, "contrast": None},
        "bound": {"methods": None},
        "image_size": None,
        "dataset": {"root": None},
        "run_dir": str(out),
    }
    out.mkdir(exist_ok=True)
    command.run(OmegaConf.create(base | settings))


def test_command_recertifies_without_touching_the_run(run_dir, tmp_path, capsys):
    before = {file.name: file.read_bytes() for file in run_dir.iterdir()}
    _report(tmp_path / "out", runs=[str(run_dir)], region={"brightness": [-0.3, 0.2], "contrast": None})
    printed = capsys.readouterr().out
    assert [NP, "6", "5", "50.0 %"] in [row[:1] + row[2:] for row in rows_of(printed)]
    assert "decided again from the stored votes" in printed
    assert (tmp_path / "out" / "report.html").is_file()
    assert {file.name: file.read_bytes() for file in run_dir.iterdir()} == before


def test_command_uses_other_methods(run_dir, tmp_path, capsys):
    _report(tmp_path / "out", runs=[str(run_dir)], bound={"methods": ["tss"]})
    rows = rows_of(capsys.readouterr().out)
    # One more than by the stored h_min: TSS's own is a little smaller, and passes the image that was equal to that.
    assert any(row[0].startswith("TSS") and row[2:] == ["5", "4", "40.0 %"] for row in rows)
    with pytest.raises(UserError, match=r"bound.methods: unknown method 'tsss'; did you mean 'tss'"):
        _report(tmp_path / "out", runs=[str(run_dir)], bound={"methods": ["tsss"]})


def test_command_names_the_h_of_sequential_votes(tmp_path, capsys):
    monte_carlo = {"name": "sequential", "n0": 200, "n": 2000, "alpha": 0.001}
    path = make_run(tmp_path / "run", monte_carlo=monte_carlo)
    _report(tmp_path / "out", runs=[str(path)], region={"brightness": [-0.2, 0.2]})
    printed = capsys.readouterr().out
    assert f"stopped early, for h_min = {wording.ceil(H_MIN, 5)}" in printed
    assert "only through their p_A" in printed


@pytest.mark.parametrize("mixture", [None, "uniform", "sure"])
def test_sequential_votes_count_by_the_test_they_were_taken_with(tmp_path, mixture):
    monte_carlo = {"name": "sequential", "n0": 200, "n": 2000, "alpha": 0.001, "mixture": mixture}
    path = make_run(tmp_path / "run", monte_carlo=monte_carlo)
    run = load_run(path)
    np.testing.assert_allclose(
        run.p_lower, [p_lower_of(image[-1], 1000, True, mixture or "uniform") for image in IMAGES], rtol=1e-9
    )
    # A certificate by one test is none by the other.
    other = "uniform" if mixture == "sure" else "sure"
    _summary(path, lambda s: s["monte_carlo"].update(mixture=other))
    with pytest.raises(UserError, match=r"index 3: p_lower=0\.9.*, but count=971 of n=1000"):
        load_run(path)
    _summary(path, lambda s: s["monte_carlo"].update(name="paper", n=1000))
    with pytest.raises(UserError, match=r"monte_carlo\.mixture is '\w+', but monte_carlo\.name=paper means nothing"):
        load_run(path)


def test_what_sequential_votes_gave_up_does_not_abstain(tmp_path):
    """An image that stopped early is undecided; one that took all its votes in vain abstains, as with a fixed n."""
    monte_carlo = {"name": "sequential", "n0": 200, "n": 2000, "alpha": 0.001}
    path = make_run(tmp_path / "run", monte_carlo=monte_carlo)
    before, after = p_lower_of(549, 1000, sequential=True), p_lower_of(1049, 2000, sequential=True)
    assert max(before, after) < 0.5
    _edit(path, "records.csv", f"20,0,0,200,1000,549,{before!r}", f"20,0,0,200,2000,1049,{after!r}")
    run = load_run(path)
    assert run.columns["index"][run.given_up].tolist() == [21]
    rows = rows_of(tables.run_table(run, run.region, run.outcomes))
    assert ["smoothed classifier abstains (p_A ≤ 1/2)", "1", "10.0 %"] in rows
    assert ["given up early (region out of reach, p_A > 1/2 left open)", "1", "10.0 %"] in rows
    (words,) = [row[1] for row in rows if row[0] == "Monte Carlo"]
    assert "200 draws select the class" not in words
    assert "draws, 200 at most, until one class leads clearly" in words
    fixed = load_run(make_run(tmp_path / "fixed"))
    assert not fixed.given_up.any()
    assert "given up" not in tables.run_table(fixed, fixed.region, fixed.outcomes)


def test_exhaustive_votes_have_no_error_but_that_of_the_bound(tmp_path):
    monte_carlo = {"name": "exhaustive", "n0": 0, "n": 1000, "alpha": 0.0}
    path = make_run(tmp_path / "run", monte_carlo=monte_carlo)
    with pytest.raises(UserError, match=r"monte_carlo=exhaustive: brightness of brightness has a continuous law"):
        load_run(path)
    run = Run(path, Summary.read(path), read_records(path))  # its words are as for shifts, which can be visited
    outcomes = run.outcomes
    assert "without any probability of error in the votes." in tables.headline(run, run.region, outcomes)
    assert tables.assumptions(run, outcomes)[0].startswith("No vote was sampled")
    estimated = {name: replace(outcome, failure_probability=1e-4) for name, outcome in outcomes.items()}
    headline = tables.headline(run, run.region, estimated)
    assert "except with probability at most 0.0001 for each image" in headline
    assert "the bound fails with probability at most 0.0001" in tables.assumptions(run, estimated)[0]
    nothing = replace(outcomes["neyman_pearson"], h_min=1.0)
    assert "which no vote can reach" in tables.headline(run, run.region, {"neyman_pearson": nothing})
    out_of_reach = replace(nothing, h_min=0.9999)
    assert "were drawn" not in tables.headline(run, run.region, {"neyman_pearson": out_of_reach})
    _edit(path, "summary.json", '"alpha": 0.0', '"alpha": 0.001')
    with pytest.raises(UserError, match=r"alpha is 0\.001, not 0"):
        load_run(path)
    _edit(path, "summary.json", '"exhaustive"', '"paper"')
    _edit(path, "summary.json", '"alpha": 0.001', '"alpha": 0.0')
    with pytest.raises(UserError, match=r"alpha is 0\.0, not in \(0, 1\)"):
        load_run(path)


def test_command_compares_runs(run_dir, tmp_path, capsys):
    other = make_run(tmp_path / "other", images=IMAGES[:4])
    _report(tmp_path / "out", runs=[str(run_dir), str(other)])
    rows = rows_of(capsys.readouterr().out)
    shares = {row[0]: row[rows[0].index("CRA NP (h_min)")].split(" (")[0] for row in rows[2:4]}
    assert shares == {"run": "30.0 %", "other": "75.0 %"}  # of other images, so neither is the best
    assert all("unsound" in row for row in rows[2:4])
    assert (tmp_path / "out" / "comparison.svg").is_file()


def test_command_refuses_a_parameter_of_another_transformation(run_dir, tmp_path):
    with pytest.raises(UserError, match="contrast"):
        _report(tmp_path / "out", runs=[str(run_dir)], region={"brightness": None, "contrast": [0.8, 1.2]})


def test_progress_and_gallery_are_optional(run_dir):
    """The data set of the run does not exist on this machine: the report has no gallery and no error."""
    page.write_report(run_dir)
    assert not (run_dir / "gallery.png").exists()


# Strangers' files


def test_a_report_writes_through_no_link(run_dir, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    names = ("table.md", "report.html", "threshold.svg", "threshold.png", "procedure.svg", "cra_region.png")
    for name in names:
        (run_dir / name).symlink_to(mine)
    write_report(run_dir)
    assert mine.read_text() == "mine"
    assert not any((run_dir / name).is_symlink() for name in names)


def test_nothing_of_a_file_reaches_the_report_raw(tmp_path, capsys):
    evil = "squares\ntouch /tmp/x\x1b]0;title\x07\u202e"
    path = make_run(
        tmp_path / "run",
        dataset={"name": evil, "subset": None},
        model={"name": evil},
        classes=[f"cat{evil}", "dog\udcff", "<emu>"],
        checkpoint={"path": evil, "sha256": evil},
        hardware={evil: evil},
        versions={"python": evil},
    )
    _report(tmp_path / "out", runs=[str(path)])
    texts = [capsys.readouterr().out, (path / "table.md").read_text(), (path / "report.html").read_text()]
    texts += [file.read_text() for file in path.glob("*.svg")]
    assert len(texts) > 5
    for text in texts:
        assert not any(sign in text for sign in ("\x1b", "\x07", "\u202e", "\ntouch", "\udcff"))
    assert r"squares\ntouch" in texts[1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("![x](http://evil/p.png)", r"\![x\](http\://evil/p.png)"),
        ("[a](x) [b][c]", r"[a\](x) [b\][c]"),
        ("<script>a</script> <!--", r"\<script>a\</script> \<!--"),
        (r"a\|b \ \n", r"a\\\|b \ \n"),
        ("`x` *y* _z_ __w__ ~v~", r"\`x\` \*y\* \_z\_ \_\_w\_\_ \~v\~"),
        ("# a", r"\# a"),
        ("12. a", r"12\. a"),
        ("- a", r"\- a"),
        ("see www.evil.org &lt;", r"see www\.evil.org \&lt;"),
        ("h_min of p_A in [−0.4, 0.4], 3.5 % (n = 10) x < 2 & c ~ Normal(0, 1)", None),
        ("10.5 #1 a-b +1 best.ckpt 2024_01 C:\\data", None),
    ],
)
def test_markdown_shows_a_text_as_it_is(text, shown):
    assert tables.escaped(text) == (shown or text)


def test_a_file_writes_no_markdown(tmp_path, capsys):
    """Images, links and tags of a stranger's would be loaded by whoever reads table.md; so would be his words."""
    evil = "![x](http://evil/p.png) <script> a\\|b"
    methods = {
        "neyman_pearson": {"required_probability": H_MIN, "sound": True, "argument": evil},
        "gl_printed": {"required_probability": PRINTED, "sound": False, "argument": evil},
        "mp": {"required_probability": None, "sound": True, "reason": "Of 10 test images, 10 (100 %) provably"},
        "tss": {"required_probability": None, "sound": True, "reason": evil},
    }
    changes = {
        "dataset": {"name": evil, "subset": None},
        "model": {"name": evil},
        "classes": [evil, evil, evil],
        "checkpoint": {"path": evil, "sha256": evil},
        "hardware": {"device": evil},
        "versions": {"python": evil},
    }
    path = make_run(tmp_path / "[x](y) *z*", methods=methods, **changes)
    other = make_run(tmp_path / "other", methods=methods, **changes)
    _report(tmp_path / "out", runs=[str(path)])
    _report(tmp_path / "again", runs=[str(path)], region={"brightness": [-0.3, 0.2]})
    _report(tmp_path / "both", runs=[str(path), str(other)], region={"brightness": [-0.3, 0.2]})
    capsys.readouterr()
    for table in (path / "table.md", tmp_path / "again" / "table.md", tmp_path / "both" / "table.md"):
        text = table.read_text()
        assert "script" in text
        for mark in ("](", "<script", "http:", "*z*", r"a\|b", r"a\\|b"):
            assert not re.search(rf"(?<!\\){re.escape(mark)}", text), (table, mark)
        assert "provably\n" not in text
    text = (path / "table.md").read_text()
    assert "MP (Muravev & Petiushko 2021) does not apply: MP covers a single" in text
    assert "TSS (Li et al. 2021) does not apply: it did not when the run was certified" in text
    assert "100 %" not in text + (path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")


def test_what_an_unsound_method_would_claim_is_computed(tmp_path):
    methods = {"gl_printed": {"required_probability": 0.5, "sound": False}}
    stored = load_run(make_run(tmp_path / "run", methods=methods))
    assert stored.outcomes["gl_printed"].h_min == pytest.approx(PRINTED, abs=0.001)


@pytest.mark.parametrize("name", ["$x^$", "a\\b", "$", "two\nlines", "**bold** | cell"])
def test_a_run_directory_may_be_called_anything(tmp_path, capsys, name):
    path, other = make_run(tmp_path / name), make_run(tmp_path / "other")
    write_report(path)
    _report(tmp_path / "out", runs=[str(path), str(other)])
    assert (tmp_path / "out" / "comparison.svg").is_file()
    rows = rows_of(capsys.readouterr().out)
    assert len({len(row) for row in rows}) == 1
