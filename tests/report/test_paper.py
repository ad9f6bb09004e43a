"""Pictures for print: what their artists show is compared with the bounds and the records."""

import csv
import io
import itertools
import json
import math
import shutil
from functools import partial

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axis import Tick
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection, QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.patches import PathPatch, Polygon, Rectangle
from matplotlib.text import Text
from scipy.stats import norm

import glsmooth as gs
from glsmooth import bounds, figures
from glsmooth.bounds import gl
from glsmooth.errors import UserError
from glsmooth.report.figures import plain_ticks
from glsmooth.report.paper import style
from glsmooth.report.paper.files import write_figures, write_training_curves
from glsmooth.report.paper.references import Attacked
from glsmooth.runs import history
from glsmooth.runs.run import load_run
from tests.report.test_page import H_MIN, IMAGES, SIGMA, make_run, p_lower_of, plane_run

IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
BRIGHTNESS = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 0.3)})
AFFINE = gs.SmoothedFamily(
    gs.transforms.ContrastBrightness(), {"contrast": gs.LogNormal(0.0, 0.6), "brightness": gs.Normal(0.0, 0.6)}
)
REGION = gs.Box(contrast=(0.7, 1.4), brightness=(-0.2, 0.2))
SHIFTS = gs.SmoothedFamily(gs.transforms.Translation(), {"tx": gs.Normal(0.0, 2.0), "ty": gs.Normal(0.0, 3.0)}, (8, 8))
PLANE = gs.SmoothedFamily(gs.transforms.Translation(), SHIFTS.laws)
THREE = gs.SmoothedFamily(
    gs.transforms.BrightnessTranslation(),
    {"brightness": gs.Normal(0.0, 0.4), "tx": gs.Normal(0.0, 2.0), "ty": gs.Normal(0.0, 2.0)},
    (8, 8),
)


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    return plane_run(tmp_path_factory.mktemp("paper") / "plane")


@pytest.fixture
def line(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training of three epochs that was resumed inside its third, which the second start did again."""
    path = tmp_path_factory.mktemp("paper") / "train"
    write_metrics(path, 2, [(0, 2.0, 0.3, 0.2), (1, 1.5, 0.6, 0.5), (2, 9.0, 0.0, 0.1)])
    write_metrics(path, 10, [(2, 1.0, 0.8, 0.75), (3, 0.9, 0.9, 0.7)])
    return path


def write_metrics(path, version, epochs):
    folder = path / "metrics" / f"version_{version}"
    folder.mkdir(parents=True)
    with (folder / "metrics.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["epoch", "step", "train/total", "train/divergence", "val/accuracy", "val/accuracy_under_law"])
        for epoch, loss, clean, under in epochs:
            writer.writerow([epoch, 7 * epoch, "", "", clean, under])
            writer.writerow([epoch, 7 * epoch, loss, loss / 100, "", ""])


def drawn_lines(axes):
    """Label -> (x, y) of the lines that have one."""
    return {
        line.get_label(): (np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def legend_of(figure):
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


# CRA against the size of the region


def test_cra_against_region_size_is_that_of_the_bounds(line):
    figure = figures.cra_against_region_size(line, sizes=(0.0, 0.5, 1.0, 2.0))
    (axes,) = figure.axes
    shown = drawn_lines(axes)
    assert legend_of(figure) == ["Neyman–Pearson", "GL, product form", "GL, ode form", "TSS", "printed (unsound)"]
    p_lower = np.array([p_lower_of(count) for *_, count in IMAGES])
    correct = np.array([label == prediction for _, label, prediction, _, _ in IMAGES])
    for label, method in (("Neyman–Pearson", "neyman_pearson"), ("printed (unsound)", "gl_printed")):
        x, y = shown[label]
        assert x.tolist() == [0.0, 0.5, 1.0, 2.0]
        needed = [
            bounds.required_probability(load_run(line).family, gs.Box(brightness=(-0.4 * s, 0.4 * s)), method)
            for s in x
        ]
        if method == "neyman_pearson":
            assert needed == pytest.approx([norm.cdf(0.4 * s / SIGMA) for s in x])
            needed[2] = H_MIN  # what the run's own table has
        assert y.tolist() == [(correct & (p_lower > h)).mean() for h in needed]
    assert shown["printed (unsound)"][1][2] > shown["Neyman–Pearson"][1][2]
    assert "certified robust accuracy" in axes.get_ylabel()
    assert axes.get_xlabel().endswith("brightness ∈ [−0.4, 0.4] of the range")


def test_the_printed_line_alone_is_grey(line):
    (axes,) = figures.cra_against_region_size(line, sizes=(1.0,)).axes
    for drawn in axes.lines:
        red, green, blue = to_rgb(drawn.get_color())
        if drawn.get_label() == "printed (unsound)":
            assert max(red, green, blue) - min(red, green, blue) < 0.05
        elif not drawn.get_label().startswith("_"):
            assert max(red, green, blue) - min(red, green, blue) > 0.3


def test_lines_differ_without_colour():
    looks = [*style.LINES.values(), style.PRINTED]
    for name in ("linestyle", "marker"):
        assert len({str(look[name]) for look in looks}) == len(looks)
    assert set(style.LINES) | {"gl_printed"} == set(bounds.METHODS)


def test_an_approximate_run_has_no_line(plane, tmp_path):
    found = {"residual": 0.5, "identity": "action", "alpha": {"contrast": 1.1}, "beta": {"contrast": 1.2}}
    content = json.loads((plane / "summary.json").read_text())
    methods = {"neyman_pearson": {**content["methods"]["neyman_pearson"], "sound": False}}
    path = make_run(
        tmp_path / "run",
        **{key: content[key] for key in ("transform", "smoothing", "region")},
        methods=methods,
        approximate=found,
    )
    for draw in (figures.cra_against_region_size, partial(figures.cra_plane, nodes=3)):
        with pytest.raises(UserError, match="certifies"):
            draw(path)


def test_certificates_are_drawn_without_a_run():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    smoothed = gs.SmoothedClassifier(model, BRIGHTNESS, num_classes=3, batch_size=100)
    images, region = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)), gs.Box(brightness=(-0.1, 0.1))
    results = smoothed.certify_many(images, region, n0=20, n=100)
    labels = [results[0].prediction, results[1].prediction, (results[2].prediction + 1) % 3, results[3].prediction]
    votes = figures.Votes.of(results, labels, BRIGHTNESS, region)
    assert votes.correct.tolist() == [True, True, False, True]
    shown = drawn_lines(figures.cra_against_region_size(votes, methods=["neyman_pearson"], sizes=[1.0]).axes[0])
    assert set(shown) == {"Neyman–Pearson"}
    assert shown["Neyman–Pearson"][1].tolist() == [
        np.mean([one.certified and one.prediction == label for one, label in zip(results, labels, strict=True)])
    ]
    with pytest.raises(UserError, match="labels: 1 for 4 certificates"):
        figures.Votes.of(results, [0], BRIGHTNESS, region)


# Planes


def test_planes_show_the_bound_at_every_point(plane):
    figure = figures.h_min_plane(AFFINE, REGION, nodes=5)
    axes, bar = figure.axes
    (mesh,) = (one for one in axes.collections if isinstance(one, QuadMesh))
    values = np.asarray(mesh.get_array()).reshape(5, 5)
    contrast, brightness = np.geomspace(0.49, 1.96, 5), np.linspace(-0.4, 0.4, 5)
    for i, j in itertools.product(range(5), repeat=2):
        point = gs.Points([{"contrast": contrast[j], "brightness": brightness[i]}])
        assert values[i, j] == pytest.approx(bounds.required_probability(AFFINE, point), abs=1e-9)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert axes.get_xlabel() == "contrast $c$ (factor)"
    assert axes.get_ylabel() == "brightness $b$ (units of image range)"
    assert "required probability" in bar.get_ylabel()
    assert axes.get_title() == "Neyman–Pearson"
    (box,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
    assert box.get_bbox().get_points().tolist() == pytest.approx(np.array([[0.7, -0.2], [1.4, 0.2]]))
    # Each value fills the cell around its point.
    centres = mesh.get_coordinates()
    assert (centres[0, :-1, 0] < contrast).all()
    assert (centres[0, 1:, 0] > contrast).all()

    (shares,) = (one for one in figures.cra_plane(plane, nodes=5).axes[0].collections if isinstance(one, QuadMesh))
    run = load_run(plane)
    expected = [[(run.correct & (run.p_lower > h)).mean() for h in row] for row in values]
    assert np.asarray(shares.get_array()).reshape(5, 5).tolist() == expected


def test_a_ball_is_a_circle_and_points_are_squares():
    ball = gs.Ball(0.2, contrast=1.1, brightness=0.1)
    axes = figures.h_min_plane(AFFINE, ball, nodes=3).axes[0]
    (circle,) = (patch for patch in axes.patches if isinstance(patch, Polygon))
    assert np.hypot(*(circle.get_xy() - [1.1, 0.1]).T) == pytest.approx(0.2)
    listed = gs.Points([{"contrast": 1.2, "brightness": 0.1}, {"contrast": 0.8}])
    axes = figures.h_min_plane(AFFINE, listed, nodes=3).axes[0]
    squares = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "s"]
    assert squares == [[[1.2, 0.1]], [[0.8, 0.0]]]
    assert not axes.patches
    axes = figures.certified_set(AFFINE, 0.9, IMAGE, region=ball, nodes=5).axes[0]
    (circle,) = (patch for patch in axes.patches if isinstance(patch, Polygon))
    assert np.hypot(*(circle.get_xy() - [1.1, 0.1]).T) == pytest.approx(0.2)
    with pytest.raises(UserError, match="points are not drawn"):
        figures.certified_set(AFFINE, 0.9, IMAGE, region=listed)


def test_sizes_of_balls_and_not_of_points():
    p_lower, correct = np.array([0.6, 0.95]), np.array([True, True])
    axes = figures.cra_against_region_size(
        figures.Votes(AFFINE, gs.Ball(0.8, contrast=1), p_lower, correct),
        sizes=(0, 0.5, 1, 2),
        methods=["neyman_pearson"],
    ).axes[0]
    assert "contrast within 0.8 of c = 1 (l2)" in axes.get_xlabel()
    (line,) = (one for one in axes.lines if len(one.get_xdata()) == 3)  # a ball twice as large holds contrast 0
    assert line.get_xdata().tolist() == [0, 0.5, 1]
    with pytest.raises(UserError, match="has no size"):
        figures.cra_against_region_size(figures.Votes(AFFINE, gs.Points([{"contrast": 1.1}]), p_lower, correct))


def test_colours_are_monotone_in_grey():
    """Luminance as a grey printer has it, of sRGB."""
    rgb = matplotlib.colormaps[style.COLOUR_MAP](np.linspace(0, 1, 256))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()
    assert luminance[-1] - luminance[0] > 0.5
    (mesh,) = (
        one for one in figures.h_min_plane(AFFINE, REGION, nodes=3).axes[0].collections if isinstance(one, QuadMesh)
    )
    assert mesh.get_cmap().name.removesuffix("_r") == style.COLOUR_MAP


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: figures.h_min_plane(AFFINE, gs.Box(contrast=(0.7, 1.4))), "a plane needs two, not 'contrast'"),
        (
            lambda: figures.h_min_plane(THREE, gs.Box(brightness=(-0.1, 0.1), tx=(-2, 2), ty=(-2, 2))),
            r"region has 3, brightness, tx, ty; choose the two of the plane, parameters=\('tx', 'ty'\)",
        ),
        (lambda: figures.h_min_plane(AFFINE, REGION, parameters=("contrast", "bright")), "did you mean 'brightness'"),
        (lambda: figures.h_min_plane(AFFINE, REGION, method="gl_printed"), "method=gl_printed is unsound"),
        (lambda: figures.h_min_plane(AFFINE, REGION, method="np"), "method='np' is unknown"),
        (lambda: figures.h_min_plane(AFFINE, REGION, nodes=1), "nodes=1: give at least 3"),
        (
            lambda: figures.h_min_plane(AFFINE, gs.Box(contrast=(1, 1), brightness=(-0.2, 0.2))),
            "is no plane around the identity",
        ),
        (lambda: figures.h_min_plane(AFFINE, REGION, width="wide"), "width='wide' .*use 'column' or 'full'"),
        (lambda: figures.certified_set(THREE, 0.9, IMAGE), r"the family has 3, .*parameters=\('tx', 'ty'\)"),
        (lambda: figures.certified_set(BRIGHTNESS, 0.5, IMAGE), "p_lower=0.5: nothing is certified"),
        (lambda: figures.certified_set(BRIGHTNESS, math.nan, IMAGE), "p_lower=nan: nothing is certified"),
        (lambda: figures.certified_set(BRIGHTNESS, 0.9, IMAGE, method="gl_printed"), "is unsound"),
        (lambda: figures.certified_set(BRIGHTNESS, 0.9, 255 * IMAGE), r"image has values in \[0"),
        (lambda: figures.certified_set(SHIFTS, 0.9, torch.rand(3, 8, 9)), r"image has \[8, 9\] pixels"),
        (lambda: figures.certified_set(BRIGHTNESS, 0.9, IMAGE, parameters=("contrast",)), "'contrast' is not one of"),
        (
            lambda: figures.certified_set(AFFINE, 0.9, IMAGE, window=gs.Box(contrast=(0.5, 2))),
            "window: no interval for brightness",
        ),
        (lambda: figures.certified_set(AFFINE, 0.9, IMAGE, region=gs.Box(gamma=(1, 2))), "'gamma' is not a parameter"),
        (
            lambda: figures.certified_set(PLANE, 0.6, IMAGE, region=gs.Box(tx=(-1e9, 1e9))),
            "window: tx from -.* is too much to draw; give a smaller window",
        ),
        (
            lambda: figures.certified_set(PLANE, 0.6, IMAGE, window=gs.Box(tx=(-99, 99), ty=(-99, 99))),
            r"window: 199 × 199 shifts are too many to draw; give window=gs\.Box\(tx=\(-20, 20\), ty=",
        ),
        (lambda: figures.tradeoff_curves(BRIGHTNESS, []), "betas=.*give one to six"),
        (lambda: figures.gl_functions(BRIGHTNESS, [{"brightness": 0.0}]), "is the identity, where no path leads"),
        (
            lambda: figures.gl_functions(
                gs.SmoothedFamily(gs.transforms.GaussianBlur(), {"blur": gs.Exponential(1.0)}), [{"blur": 1.0}]
            ),
            "GL cannot use",
        ),
        (lambda: figures.cra_against_region_size("nowhere"), "votes: no directory 'nowhere'"),
        (lambda: figures.cra_against_region_size(3), "votes=3: give the directory of a run"),
        (lambda: figures.training_curves("nowhere"), "directory: no directory 'nowhere'"),
    ],
)
def test_mistakes_are_named_with_their_fix(call, words):
    with pytest.raises(UserError, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_mistakes_about_a_run(line):
    with pytest.raises(UserError, match="methods: 'gll' is unknown; did you mean 'gl'"):
        figures.cra_against_region_size(line, methods=["gll"])
    with pytest.raises(UserError, match=r"methods: none certifies this region \(mp: "):
        figures.cra_against_region_size(line, methods=["mp", "gl_printed"])
    with pytest.raises(UserError, match=r"sizes=\[-1\.0\]: give numbers of at least 0"):
        figures.cra_against_region_size(line, sizes=[-1])
    (line / "records.csv").unlink()
    with pytest.raises(UserError, match=r"votes: .* has no records\.csv"):
        figures.cra_against_region_size(line)


# The certified set


def outline_of(figure):
    (patch,) = (patch for patch in figure.axes[0].patches if isinstance(patch, PathPatch))
    return patch.get_path()


@pytest.mark.parametrize("method", ["neyman_pearson", "tss"])
def test_the_boundary_of_a_set_is_where_the_bound_says(method):
    order = "contrast_first" if method == "neyman_pearson" else "brightness_first"
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness(order=order), AFFINE.laws)
    path = outline_of(figures.certified_set(family, 0.9, IMAGE, nodes=15, method=method))
    vertices = np.unique(path.vertices, axis=0)
    assert len(vertices) > 15
    centre = np.array([0.0, 0.0])

    def certified(u):
        point = gs.Points([{"contrast": math.exp(u[0]), "brightness": u[1]}])
        return bounds.required_probability(family, point, method) < 0.9

    assert certified(centre)
    for contrast, brightness in vertices:
        u = np.array([math.log(contrast), brightness])
        assert certified(u)
        assert not certified(1.02 * u)
    # In its true shape: wider than the largest box, and no ellipse.
    box = path.get_extents()
    assert not path.contains_point((box.x0 * 1.02, box.y0 * 0.98))


def test_a_set_holds_no_more_than_its_nodes_and_has_holes():
    """A set with a hole keeps it."""
    from glsmooth.report.paper.certified import Line, outline

    class Ring:
        p_lower = 0.9

        def above(self, h_min):
            return h_min < 0.9

        def certifies(self, x, y):
            return 1.0 <= math.hypot(x, y) <= 2.0

    line = Line("b", 0.0, False, False, -math.inf, math.inf, 0.1)
    nodes = np.linspace(-2.5, 2.5, 21)
    x, y = np.meshgrid(nodes, nodes)
    radius = np.hypot(x, y)
    path = outline(Ring(), (line, line), (nodes, nodes), np.where((radius >= 1) & (radius <= 2), 0.6, 0.95))
    assert np.hypot(*path.vertices.T) == pytest.approx(np.hypot(*path.vertices.T).round(), abs=0.01)
    assert {int(r) for r in np.hypot(*path.vertices.T).round()} == {1, 2}
    areas = [
        ((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)
        for x, y in (ring.T for ring in path.to_polygons(closed_only=True))
    ]
    assert sorted(areas) == pytest.approx([-math.pi, 4 * math.pi], rel=0.05)  # the other way round, as holes are
    assert outline(Ring(), (line, line), (nodes, nodes), np.full((21, 21), 0.95)) is None


def test_a_set_of_shifts_is_made_of_the_pixels_that_are_certified():
    figure = figures.certified_set(SHIFTS, 0.8, IMAGE, region=gs.Box(tx=(-1, 1), ty=(-1.5, 1)))
    axes = figure.axes[0]
    (cells,) = (one for one in axes.collections if isinstance(one, PatchCollection))
    centres = {tuple(np.asarray(path.vertices[:4]).mean(axis=0).tolist()) for path in cells.get_paths()}
    # Every shift of the torus once: 8 pixels, -3 to 4.
    expected = {
        (x, y)
        for x, y in itertools.product(range(-3, 5), repeat=2)
        if bounds.required_probability(SHIFTS, gs.Points([{"tx": x, "ty": y}])) < 0.8
    }
    assert centres == expected
    assert 4 < len(expected) < 64
    (box,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
    assert box.get_bbox().get_points().tolist() == [[-1.5, -1.5], [1.5, 1.5]]  # the whole shifts inside
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "horizontal shift $t_x$ (pixels)",
        "vertical shift $t_y$ (pixels)",
    )
    assert all(tick == round(tick) for tick in (*axes.get_xticks(), *axes.get_yticks()))


def test_a_pixel_and_a_number_give_bars_with_exact_ends():
    figure = figures.certified_set(THREE, 0.8, IMAGE, parameters=("tx", "brightness"), nodes=9)
    bars = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len(bars) > 2

    def certified(x, b):
        return bounds.required_probability(THREE, gs.Points([{"tx": x, "brightness": b}])) < 0.8

    for bar in bars:
        x, low, high = bar.get_x() + 0.5, bar.get_y(), bar.get_y() + bar.get_height()
        assert x == round(x)
        assert certified(x, low)
        assert certified(x, high)
        assert not certified(x, low - 0.005)
        assert not certified(x, high + 0.005)
    assert bounds.required_probability(THREE, gs.Points([{"tx": max(bar.get_x() for bar in bars) + 1.5}])) >= 0.8


def test_one_parameter_gives_an_interval():
    figure = figures.certified_set(BRIGHTNESS, 0.95, IMAGE, region=gs.Box(brightness=(-0.2, 0.3)))
    axes = figure.axes[0]
    (span,) = axes.patches
    end = 0.3 * norm.ppf(0.95)
    low, high = span.get_x(), span.get_x() + span.get_width()
    assert (low, high) == pytest.approx((-end, end), abs=1e-3)
    assert -end <= low < high <= end
    assert legend_of(figure) == ["certified: $b$ from −0.4934 to 0.4934"]
    x, y = axes.lines[0].get_data()
    assert y == pytest.approx(norm.cdf(np.abs(x) / 0.3), abs=1e-9)
    assert axes.get_xlabel() == "brightness $b$ (units of image range)"
    assert "p_A" in "".join(text.get_text() for text in figure.texts)
    assert "0.9500" in "".join(text.get_text() for text in figure.texts)


def test_images_along_the_axes_are_transformed_and_framed_by_the_bound():
    figure = figures.certified_set(BRIGHTNESS, 0.95, IMAGE)
    axes, *pictures = figure.axes
    assert len(pictures) == 6
    low, high = axes.get_xlim()
    certified = []
    for i, picture in enumerate(pictures):
        value = low + (high - low) * (i + 0.5) / 6
        shown = np.asarray(picture.images[0].get_array()).transpose(2, 0, 1)
        assert shown == pytest.approx(np.clip(IMAGE.double().numpy() + value, 0, 1), abs=1e-6)
        assert picture.get_position().y0 > axes.get_position().y1
        certified.append(picture.spines["left"].get_linestyle() == "-")
        assert certified[-1] == (abs(value) < 0.3 * norm.ppf(0.95))
    assert certified == [False, True, True, True, True, False]


def test_a_window_is_kept_and_a_blur_begins_at_none():
    window = gs.Box(contrast=(0.8, 1.25), brightness=(-0.1, 0.1))
    figure = figures.certified_set(AFFINE, 0.95, IMAGE, window=window, nodes=5)
    assert figure.axes[0].get_xlim() == pytest.approx((0.8, 1.25))
    assert outline_of(figure).get_extents().extents == pytest.approx((0.8, -0.1, 1.25, 0.1))
    blur = gs.SmoothedFamily(gs.transforms.GaussianBlur(), {"blur": gs.Exponential(1.0)})
    figure = figures.certified_set(blur, 0.9, IMAGE)
    axes = figure.axes[0]
    assert legend_of(figure) == ["certified: $r$ from 0 to 1.6094"]
    assert axes.get_xlim()[0] == 0.0
    assert axes.get_xlabel() == "blur $r$ (variance, pixels²)"
    (span,) = axes.patches
    assert span.get_x() + span.get_width() == pytest.approx(-math.log(0.2), abs=2e-3)


def test_a_certificate_and_its_classifier_are_enough():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    smoothed = gs.SmoothedClassifier(model, BRIGHTNESS, num_classes=3, batch_size=100)
    result = smoothed.certify(IMAGE, gs.Box(brightness=(-0.1, 0.1)), n0=20, n=100)
    (span,) = figures.certified_set(smoothed, result, IMAGE.numpy()).axes[0].patches
    assert span.get_x() + span.get_width() == pytest.approx(0.3 * norm.ppf(result.p_lower), abs=1e-3)


def test_a_transformation_that_is_not_what_it_says_has_no_set():
    class Wrong(gs.ResolvableTransform):
        name = "wrong"
        factors = (gs.transforms.Shift("wrong"),)

        def apply(self, images, theta):
            return images + theta[:, 0].to(images)[:, None, None, None] ** 3

    family = gs.SmoothedFamily(Wrong(), {"wrong": gs.Normal(0.0, 0.5)})
    with pytest.raises(UserError, match="Wrong is not resolvable as it says"):
        figures.certified_set(family, 0.9, IMAGE)


# Curves


def test_tradeoff_curves_are_those_of_the_bound():
    betas = [{"brightness": 0.2}, {"contrast": 1.4, "brightness": 0.2}]
    figure = figures.tradeoff_curves(AFFINE, betas)
    (axes,) = figure.axes
    curves = [line.get_data() for line in axes.lines if len(line.get_xdata()) > 100]
    assert len(curves) == 2
    for beta, (p, n) in zip(betas, curves, strict=True):
        exact = gs.tradeoff(AFFINE, beta)
        assert n.tolist() == [exact(float(one)) for one in p] if isinstance(n, np.ndarray) else list(n)
        assert (np.asarray(n) <= p + 1e-12).all()
    marks = [line.get_data() for line in axes.lines if len(line.get_xdata()) == 1]
    assert [float(x[0]) for x, _ in marks] == [gs.tradeoff(AFFINE, beta).inverse(0.5) for beta in betas]
    assert [float(y[0]) for _, y in marks] == [0.5, 0.5]
    identity, *labels = legend_of(figure)
    assert identity == "identity"
    assert drawn_lines(axes)["identity"][0].tolist() == drawn_lines(axes)["identity"][1].tolist() == [0, 1]
    assert labels[0].startswith("$b$ = 0.2: $h_")
    assert labels[1].startswith("$c$ = 1.4, $b$ = 0.2: ")


@pytest.mark.parametrize("width", ["column", "full"])
def test_gl_functions_are_those_of_theorem_1(width):
    """For a normal shift ξ(1/2) - ξ(1 - h) is Φ⁻¹(h) / (2π)^½ times what ĝ is |b| / σ times (paper, eq. 6)."""
    figure = figures.gl_functions(BRIGHTNESS, [{"brightness": 0.2}, {"brightness": -0.4}], width=width)
    left, right = figure.axes
    assert "eq. 8" in left.get_ylabel()
    assert r"\hat g" in left.get_ylabel()
    assert "eq. 8" in right.get_ylabel()
    assert r"\xi" in right.get_ylabel()
    assert left.get_xlabel() == "brightness $b$ (units of image range)"
    g_hat = left.lines[0].get_data()
    xi = right.lines[0].get_data()
    form = gl.straight_form(BRIGHTNESS, {"brightness": 0.2})
    assert g_hat[1][-1] == form.g_hat()
    assert g_hat[0][-1] == 0.2
    scale = 1 / math.sqrt(2 * math.pi)
    assert np.asarray(g_hat[1]) == pytest.approx(scale * np.asarray(g_hat[0]) / 0.3, abs=2e-5)
    inner = np.asarray(xi[0]) < 0.999
    assert np.asarray(xi[1])[inner] == pytest.approx(scale * norm.ppf(np.asarray(xi[0])[inner]), abs=2e-3)
    assert min(xi[0]) == 0.5
    # The mark is at the h_min of the product form, which is on the safe side of the exact one.
    marks = [line.get_data() for line in right.lines if len(line.get_xdata()) == 1]
    assert [float(x[0]) for x, _ in marks] == [gl.product_at(BRIGHTNESS, {"brightness": b}) for b in (0.2, -0.4)]
    assert [float(x[0]) for x, _ in marks] == pytest.approx([norm.cdf(0.2 / 0.3), norm.cdf(0.4 / 0.3)], abs=1e-3)


def test_paths_of_several_parameters_are_followed_in_t():
    figure = figures.gl_functions(AFFINE, [{"contrast": 1.4, "brightness": 0.2}])
    assert figure.axes[0].get_xlabel().startswith("$t$, on the path")
    assert figure.axes[0].get_xlim() == (0, 1)


# Training


def test_training_curves_join_the_parts_of_a_resumed_training(trained):
    figure = figures.training_curves(trained)
    losses, accuracies = figure.axes
    shown = {**drawn_lines(losses), **drawn_lines(accuracies)}
    assert {name: (list(x), list(y)) for name, (x, y) in shown.items()} == {
        "total, which is minimised": ([1, 2, 3, 4], [2.0, 1.5, 1.0, 0.9]),
        "divergence of the copies": ([1, 2, 3, 4], [0.02, 0.015, 0.01, 0.9 / 100]),
        "on validation images": ([1, 2, 3, 4], [0.3, 0.6, 0.8, 0.9]),
        "under the smoothing laws": ([1, 2, 3, 4], [0.2, 0.5, 0.75, 0.7]),
        "best.ckpt": ([3], [0.75]),
    }
    assert (losses.get_ylabel(), accuracies.get_ylabel(), accuracies.get_xlabel()) == (
        "loss (nats)",
        "validation accuracy",
        "epoch",
    )


@pytest.mark.parametrize(
    ("transformed", "ring"), [("false", ([4], [0.9])), ("true", ([3], [0.75])), ("[", ([3], [0.75]))]
)
def test_the_ring_is_where_best_ckpt_was_chosen(trained, tmp_path, transformed, ring):
    """Of a training on images as they are by the accuracy on those; torn settings change nothing."""
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(f"loss:\n  transformed: {transformed}\n")
    x, y = drawn_lines(figures.training_curves(tmp_path / "run").axes[1])["best.ckpt"]
    assert (list(x), list(y)) == ring


def test_a_loss_of_zero_is_not_on_a_logarithmic_axis(tmp_path):
    write_metrics(tmp_path, 0, [(0, 2.0, 0.3, 0.2), (1, 0.0, 0.6, 0.5)])
    assert figures.training_curves(tmp_path).axes[0].get_yscale() == "linear"


def test_history_names_the_columns_that_training_logs():
    from glsmooth.learning.losses import LossTerms
    from glsmooth.learning.training import CLEAN, UNDER_LAW

    assert list(history.LOSSES) == [f"train/{name}" for name in LossTerms._fields]
    assert list(history.ACCURACIES) == [CLEAN, UNDER_LAW]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("0.6", "much", r"line 4: val/accuracy is 'much', not a finite number"),
        ("0.6", "nan", r"line 4: val/accuracy is 'nan', not a finite number"),
        ("1,7", "-1,7", r"line 4: epoch is '-1', not a whole number"),
        ("1,7", "9" * 20 + ",7", r"epoch is '9+', not a whole number"),
    ],
)
def test_damaged_metrics_are_refused(tmp_path, old, new, words):
    write_metrics(tmp_path, 0, [(0, 2.0, 0.3, 0.2), (1, 1.5, 0.6, 0.5)])
    file = tmp_path / "metrics" / "version_0" / "metrics.csv"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=words) as refusal:
        figures.training_curves(tmp_path)
    assert str(refusal.value).startswith(str(file))


def test_a_directory_without_metrics_is_named(line):
    with pytest.raises(UserError, match=r"has no metrics of a training .*give the directory that train wrote"):
        figures.training_curves(line)


# How they look


def every_figure(plane, trained, width):
    shifts = gs.Box(tx=(-2, 2), ty=(-2, 2))
    return {
        "cra": figures.cra_against_region_size(plane, methods=["neyman_pearson", "gl_printed"], width=width),
        "cra_plane": figures.cra_plane(plane, nodes=5, width=width),
        "h_min_plane": figures.h_min_plane(SHIFTS, shifts, width=width),
        "set": figures.certified_set(AFFINE, 0.9, IMAGE, region=REGION, nodes=7, width=width),
        "cells": figures.certified_set(SHIFTS, 0.8, IMAGE, region=shifts, width=width),
        "bars": figures.certified_set(THREE, 0.8, IMAGE, parameters=("tx", "brightness"), nodes=7, width=width),
        "interval": figures.certified_set(BRIGHTNESS, 0.95, IMAGE, width=width),
        "tradeoff": figures.tradeoff_curves(AFFINE, [{"brightness": 0.2}, {"contrast": 1.4}], width=width),
        "gl": figures.gl_functions(AFFINE, [{"brightness": 0.2}, {"contrast": 1.4, "brightness": 0.1}], width=width),
        "training": figures.training_curves(trained, width=width),
        "residuals": figures.residuals(IMAGE, gs.threats.Rotation(round8=True), -10, 10, 0.5, width=width),
        "balls": figures.reference_balls(IMAGE, gs.threats.Scaling(), 0.8, 1.2, 0.5, width=width),
    }


@pytest.fixture(scope="module", params=["column", "full"])
def drawn(request, plane, trained):
    return request.param, every_figure(plane, trained, request.param)


def visible_texts(figure):
    """Words that are drawn, with their boxes in pixels of the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    # Ticks beyond the limits of an axis exist, but are not drawn.
    labels = {id(label) for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    shown = [axis for axes in figure.axes if axes.axison for axis in (axes.xaxis, axes.yaxis)]
    drawn = {id(label) for axis in shown for tick in axis._update_ticks() for label in (tick.label1, tick.label2)}
    return [
        (text, text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and (id(text) not in labels or id(text) in drawn)
    ]


def test_figures_are_as_wide_as_a_column_or_a_page_and_their_letters_large_enough(drawn):
    width, pictures = drawn
    for name, figure in pictures.items():
        assert figure.get_size_inches()[0] == {"column": 3.35, "full": 6.9}[width]
        assert figure.get_size_inches()[1] < 6, name
        texts = visible_texts(figure)
        assert len(texts) > 5, name
        for text, _ in texts:
            assert text.get_fontsize() >= 7, (name, text)


def test_words_are_inside_the_figure_and_beside_each_other(drawn):
    _, pictures = drawn
    for name, figure in pictures.items():
        texts = visible_texts(figure)
        for text, box in texts:
            assert box.x0 >= 0 and box.y0 >= 0, (name, text)  # noqa: PT018
            assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, (name, text)  # noqa: PT018
        for (one, first), (other, second) in itertools.combinations(texts, 2):
            wide = min(first.x1, second.x1) - max(first.x0, second.x0)
            high = min(first.y1, second.y1) - max(first.y0, second.y0)
            assert wide < 1 or high < 1, (name, one, other)


def test_images_do_not_overlap(drawn):
    _, pictures = drawn
    for name in ("set", "cells", "bars", "interval", "residuals", "balls"):
        places = [axes.get_position() for axes in pictures[name].axes]
        for one, other in itertools.combinations(places, 2):
            wide, high = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
            assert wide <= 1e-9 or high <= 1e-9, name
        assert all(p.x0 >= 0 and p.x1 <= 1 and p.y0 >= 0 and p.y1 <= 1 for p in places)


def test_what_is_saved_is_png_and_pdf_with_truetype(drawn, tmp_path):
    width, pictures = drawn
    for name, figure in pictures.items():
        figure.savefig(tmp_path / f"{name}.png")
        figure.savefig(tmp_path / f"{name}.pdf")
        png, pdf = (tmp_path / f"{name}.png").read_bytes(), (tmp_path / f"{name}.pdf").read_bytes()
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        assert imread(tmp_path / f"{name}.png").shape[1] == round(300 * {"column": 3.35, "full": 6.9}[width])
        assert pdf.startswith(b"%PDF-")
        assert b"/CIDFontType2" in pdf
        assert b"/FontFile2" in pdf
        assert b"/Type3" not in pdf
        assert b"CreationDate" not in pdf


def test_settings_of_others_neither_change_nor_count(trained, monkeypatch):
    def saved():
        content = io.BytesIO()
        figures.training_curves(trained).savefig(content, format="pdf")
        return content.getvalue()

    before, backend, mine = dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False), saved()
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend(auto_select=False) == backend
    hostile = {"text.usetex": True, "font.size": 1.0, "pdf.fonttype": 3, "savefig.bbox": "tight", "lines.linewidth": 0}
    with matplotlib.rc_context(hostile):
        assert saved() == mine
    assert "matplotlib.pyplot" not in vars(figures)


def test_units_stand_at_every_parameter():
    threats = (threat.parameter for threat in gs.threats.BUILTIN.values())
    names = ("brightness", "contrast", "gamma", "tx", "ty", "blur", *threats)
    assert {name: style.axis_label(name) for name in names} == {
        "brightness": "brightness $b$ (units of image range)",
        "contrast": "contrast $c$ (factor)",
        "gamma": r"gamma $\gamma$ (exponent, factor)",
        "tx": "horizontal shift $t_x$ (pixels)",
        "ty": "vertical shift $t_y$ (pixels)",
        "blur": "blur $r$ (variance, pixels²)",
        "angle": r"angle $\beta$ (degrees)",
        "scale": r"scale $\beta$ (factor)",
    }
    assert style.axis_label("my$tint") == r"my\$tint"


# Residuals of threats

ROTATION = gs.threats.Rotation(mask="disk", round8=True)
THREATS = {ROTATION: (-10.0, 14.0), gs.threats.Scaling(l2=0.1): (0.9, 1.1)}


@pytest.fixture(scope="module", params=THREATS, ids=repr)
def threatened(request):
    """A threat, its interval, slices of residual 0.5, and the picture of them."""
    threat, (low, high) = request.param, THREATS[request.param]
    slices = threat.slices(IMAGE, low, high, 0.5)
    assert len(slices) > 3
    return threat, low, high, slices, figures.residuals(IMAGE, threat, low, high, 0.5)


def true_distances(threat, beta, reference):
    attacked = threat.apply(IMAGE.expand(len(beta), -1, -1, -1), torch.from_numpy(beta))
    return (attacked - reference).double().flatten(1).norm(dim=1).numpy()


def test_residuals_are_the_distances_from_three_references(threatened):
    threat, low, high, slices, figure = threatened
    above, below = figure.axes[:2]
    ends = [threat.warp(IMAGE[None], threat.identity), threat.centre(IMAGE[None], low, high)]
    curves = [line for line in above.lines if len(line.get_xdata()) > 10]
    assert len(curves) == 3
    for line, reference in zip(curves, ends, strict=False):
        beta = np.asarray(line.get_xdata())
        assert (beta[0], beta[-1]) == (low, high)
        assert (np.diff(beta) >= 0).all()
        np.testing.assert_allclose(line.get_ydata(), true_distances(threat, beta, reference), atol=1e-6)
    # The saw-tooth: each slice against its own reference, under its own step.
    edges = slices.edges.numpy()
    (step,) = (patch for patch in below.patches if hasattr(patch, "get_data"))
    values, borders, _ = step.get_data()
    np.testing.assert_array_equal(values, slices.residual.numpy())
    np.testing.assert_array_equal(borders, edges)
    (walls,) = below.collections
    assert [segment[0][0] for segment in walls.get_segments()] == edges.tolist()
    beta, own = (np.asarray(part).reshape(len(slices), -1) for part in curves[2].get_data())
    np.testing.assert_array_equal(below.lines[0].get_ydata(), own.ravel())
    for k, reference in enumerate(slices.references):
        assert (beta[k, 0], beta[k, -1]) == pytest.approx((edges[k], edges[k + 1]))
        np.testing.assert_allclose(own[k], true_distances(threat, beta[k], reference), atol=1e-6)
        # What is proved is of perturbations, too.
        assert 0 < values[k] - own[k].max() - threat.l2 < 0.05
    whole = [float(threat.residual(IMAGE[None], reference, low, high).upper) for reference in ends]
    e = [f"{math.ceil(100 * value) / 100:.2f}" for value in (*whole, float(slices.residual.max()))]
    assert [text.rpartition("e ≤ ")[2] for text in legend_of(figure)[:3]] == e
    assert legend_of(figure)[0].startswith(f"(a) v: the image at {threat.parameter} {threat.identity:g},")
    assert f"each of {len(slices)} slices" in legend_of(figure)[2]
    # Thin lines at what is proved.
    assert [line.get_ydata()[0] for line in above.lines if len(line.get_xdata()) == 2][:3] == pytest.approx(
        [*whole, float(slices.residual.max())]
    )


def test_pictures_of_residuals_are_attacked_images_and_references(threatened):
    threat, low, high, slices, figure = threatened
    shown = [np.asarray(axes.images[0].get_array()).transpose(2, 0, 1) for axes in figure.axes if axes.images]
    references = [threat.warp(IMAGE[None], threat.identity)[0], threat.centre(IMAGE[None], low, high)[0]]
    beta = low + (high - low) * (np.arange(5) + 0.5) / 5
    attacked = threat.apply(IMAGE.expand(5, -1, -1, -1), torch.from_numpy(beta))
    for picture, expected in zip(shown, [*references, slices.references[len(slices) // 2], *attacked], strict=True):
        np.testing.assert_allclose(picture, np.asarray(expected).clip(0, 1), atol=1e-6)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["(a)", "(b)", "(c)"]
    x = [line.get_xdata()[0] for line in figure.axes[0].lines if not line.get_clip_on()]
    assert x == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


def test_balls_hold_what_they_are_proved_to_hold(threatened):
    threat, low, high, slices, _ = threatened
    figure = figures.reference_balls(IMAGE, threat, low, high, 0.5)
    (axes,) = (one for one in figure.axes if one.patches)
    whole, *circles = axes.patches
    centre = threat.centre(IMAGE[None], low, high)
    assert whole.center == (0, 0)
    assert whole.radius == float(threat.residual(IMAGE[None], centre, low, high).upper)
    assert [circle.radius for circle in circles] == slices.residual.tolist()
    shown = drawn_lines(axes)
    curve = np.stack(shown["attacked images"], axis=1)
    assert (np.hypot(*curve.T) <= whole.radius).all()
    beta = np.linspace(low, high, len(curve))
    for k, circle in enumerate(circles):
        inside = (beta >= float(slices.edges[k])) & (beta <= float(slices.edges[k + 1]))
        assert inside.sum() > 10
        assert (np.linalg.norm(curve[inside] - circle.center, axis=1) <= circle.radius).all()
    # It is a projection, and the one that keeps most.
    attacked = threat.apply(IMAGE.expand(len(beta), -1, -1, -1), torch.from_numpy(beta)).double().flatten(1).numpy()
    _, sizes, directions = np.linalg.svd(attacked - attacked.mean(0), full_matrices=False)
    placed = (attacked - centre.double().flatten().numpy()) @ directions[:2].T
    np.testing.assert_allclose(np.abs(curve), np.abs(placed), atol=1e-5)
    apart = [np.linalg.norm(points[1:] - points[:-1], axis=1) for points in (curve, attacked)]
    assert (apart[0] <= apart[1] + 1e-9).all()
    share = 100 * (sizes[:2] ** 2).sum() / (sizes**2).sum()
    assert float(axes.get_title().split("\n")[1].split(" %")[0]) == pytest.approx(share, abs=0.1)
    assert curve[-1, 0] > curve[0, 0]
    references = [label for label in shown if f"each of {len(slices)} slices" in label]
    assert np.stack(shown[references[0]], axis=1).tolist() == [list(circle.center) for circle in circles]


def test_the_image_is_marked_where_it_is_one_of_the_attacked():
    rotation = gs.threats.Rotation()
    across = figures.reference_balls(IMAGE, rotation, -4, 5, 0.5)
    aside = figures.reference_balls(IMAGE, rotation, 1, 5, 0.5)
    assert [label for label in legend_of(across) if "°" in label] == [
        "$\\beta$ = −4°",
        "$\\beta$ = 5°",
        "$\\beta$ = 0°",
    ]
    assert [label for label in legend_of(aside) if "°" in label] == ["$\\beta$ = 1°", "$\\beta$ = 5°"]
    (axes,) = (one for one in across.axes if one.patches)
    shown = drawn_lines(axes)
    curve = np.stack(shown["attacked images"], axis=1)
    image = np.ravel(shown["$\\beta$ = 0°"])
    assert np.linalg.norm(curve - image, axis=1).argmin() == round(400 * 4 / 9)


def test_one_pixel_and_one_slice():
    """A pixel scaled: one direction, and nothing to cut."""
    pixel = torch.full((1, 2, 1), 0.5)
    figure = figures.reference_balls(pixel, gs.threats.Scaling(), 0.7, 1.0, 2.0)
    assert any("the one slice" in label for label in legend_of(figure))
    assert "100 % of the curve" in next(axes.get_title() for axes in figure.axes if axes.get_title())


@pytest.mark.parametrize("draw", [figures.residuals, figures.reference_balls])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image": IMAGE[0]}, r"image has shape \(8, 8\); give one image of shape \(C, H, W\), x\[None\]"),
        ({"image": IMAGE[None]}, r"image has shape \(1, 3, 8, 8\)"),
        ({"image": "3.png"}, "image"),
        ({"image": 255 * IMAGE}, r"image has values in \[0"),
        ({"image": IMAGE.half()}, "float16"),
        ({"image": torch.zeros(1, 8, 8)}, "image: it is the same at every angle from -5 to 5; give one that changes"),
        ({"threat": "rotation"}, r"threat='rotation': give one with its options, such as gs\.threats\.Rotation\("),
        ({"threat": gs.threats.Rotation}, "threat=<class .*: give one with its options"),
        ({"threat": gs.transforms.Brightness()}, "threat=Brightness.*: give one with its options"),
        ({"low": 5, "high": -5}, "low=5.0 is above high=-5.0; exchange the two"),
        ({"low": 5}, "low=5 and high=5 leave nothing to draw; give low < high"),
        ({"low": "five"}, "low='five' must be a number"),
        ({"high": torch.ones(2)}, "high=.* must be a number"),
        ({"low": -400}, "angle=-400 must be within a turn"),
        ({"high": math.nan}, "angle=nan must be within a turn"),
        ({"residual": 0.001}, "residual=0.001 must be above 0.[0-9]*, which rounding and perturbation alone may reach"),
        ({"residual": math.inf}, "residual=inf must be above"),
        ({"residual": math.nan}, "residual=nan must be above"),
        ({"residual": None}, "residual=None must be a number"),
        (
            {"residual": 0.03, "low": -60},
            r"residual=0.03 makes about \d{3,} slices, too many to draw; give for example residual=0\.\d+$",
        ),
        ({"width": "wide"}, "width='wide' .*use 'column' or 'full'"),
    ],
)
def test_mistakes_about_threats(draw, arguments, words):
    given = {"image": IMAGE, "threat": ROTATION, "low": -5, "high": 5, "residual": 0.5, **arguments}
    with pytest.raises(UserError, match=words) as refusal:
        draw(**given)
    assert "\n" not in str(refusal.value)


def test_the_residual_that_is_proposed_is_drawn():
    with pytest.raises(UserError, match="too many to draw") as refusal:
        figures.residuals(IMAGE, ROTATION, -20, 20, 0.03)
    assert len(Attacked.of(IMAGE, ROTATION, -20, 20, float(str(refusal.value).rpartition("=")[2])).slices) > 30


# Files


def test_a_report_writes_every_picture(plane, tmp_path, monkeypatch):
    quick = {"cra_plane": {"nodes": 3}, "h_min_plane": {"nodes": 3}, "certified_set": {"nodes": 5}}
    quick["cra_against_region_size"] = {"sizes": [1.0], "methods": ["neyman_pearson"]}
    for name, options in quick.items():
        monkeypatch.setattr(figures, name, partial(getattr(figures, name), **options))
    run = load_run(plane)
    files = write_figures(run, run.region, tmp_path / "paper")
    names = ["cra_region", "cra_plane", "h_min_plane", "certified_set", "tradeoff", "gl_functions"]
    assert [file.name for file in files] == [f"{name}.{kind}" for name in names for kind in ("png", "pdf")]
    assert all(file.stat().st_size > 3000 for file in files)


def test_pictures_that_do_not_apply_are_left_out(line, tmp_path, caplog):
    _, label, prediction, base, _ = IMAGES[2]
    images = [(7, label, prediction, base, 100) if image[0] == 7 else image for image in IMAGES]
    run = load_run(make_run(line, images=images))
    files = write_figures(run, run.region, tmp_path / "paper")
    assert {file.stem for file in files} == {"cra_region", "tradeoff", "gl_functions"}
    assert "no certified_set: p_lower=" in caplog.text


def test_training_leaves_its_curves(trained, tmp_path):
    write_metrics(tmp_path, 0, [(0, 2.0, 0.3, 0.2)])
    assert [file.name for file in write_training_curves(tmp_path)] == ["training.png", "training.pdf"]
    assert (tmp_path / "training.pdf").read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [
        ((0.08, 13), [0.1, 0.2, 0.5, 1, 2, 5, 10]),
        ((1e-3, 1e3), [1e-3, 1e-2, 0.1, 1, 10, 100, 1000]),
        ((0.5, 2), [0.5, 0.7, 1, 1.5, 2]),
        ((0.7, 1.4), [0.7, 0.8, 1, 1.2, 1.4]),
        ((0.95, 1.05), [0.96, 0.98, 1, 1.02, 1.04]),
    ],
)
def test_ticks_of_factors_are_round_and_one_series(ends, ticks):
    assert plain_ticks(*ends, log=True) == pytest.approx(ticks)


def test_a_plane_of_shifts_has_ticks_at_whole_pixels():
    shifts = gs.SmoothedFamily(
        gs.transforms.Translation(), {"tx": gs.Normal(0, 6), "ty": gs.Normal(0, 6)}, image_size=(32, 32)
    )
    axes = figures.h_min_plane(shifts, gs.Box(tx=(-4, 4), ty=(-4, 4)), nodes=5).axes[0]
    ticks = (*axes.get_xticks(), *axes.get_yticks())
    assert len(ticks) > 4
    assert all(tick == round(tick) for tick in ticks)
