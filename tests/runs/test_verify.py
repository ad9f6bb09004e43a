"""The second program: what it proves is true, what is changed in a proof or a run it refuses, and it stands alone."""

import ast
import copy
import csv
import functools
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import glsmooth as gs
from glsmooth.bounds import certify_region
from glsmooth.bounds.confidence import anytime_lower, clopper_pearson_lower
from glsmooth.runs import verify
from glsmooth.runs.proof import prove

from .. import stress

T = gs.transforms
LN, N, R = gs.LogNormal, gs.Normal, gs.Rayleigh


def shifts(scale):
    return {"tx": N(0.0, scale), "ty": N(0.0, scale)}


def family(transform, size=None, **laws):
    return gs.SmoothedFamily(transform, laws, size)


def proved(family, region, **more):
    proof = prove(family, region, certify_region(family, region), **more)
    return json.loads(json.dumps(proof))


def checked(proof):
    checker = verify.Family(proof["transform"], proof["smoothing"], proof["image_size"])
    return verify.check_proof(checker, proof["region"], proof)


#: Values that were computed twice elsewhere (Neyman-Pearson limits of the paper's rows, and of the torus).
REFERENCE = [
    (family(T.ContrastBrightness(), contrast=LN(0, 0.6), brightness=N(0, 0.6)), (0.5, 0.4), 0.92221),
    (family(T.GammaContrast(), gamma=R(0.1), contrast=LN(0, 0.1)), (1.4, 2), 0.85829),
    (family(T.BrightnessTranslation(), brightness=N(0, 0.4), **shifts(30)), (0.2, 56, 56), 0.99639),
    (family(T.ContrastTranslation(), contrast=LN(0, 0.4), **shifts(30)), (0.5, 56, 56), 0.99921),
    (family(T.Translation(), **shifts(50)), (56, 56), 0.94339),
    (
        family(T.ContrastBrightnessTranslation(), contrast=LN(0, 0.8), brightness=N(0, 0.8), **shifts(50)),
        (1.5, 0.2, 25, 25),
        0.82805,
    ),
    (family(T.Gamma(), gamma=R(0.1)), (2,), 0.93750),
    (family(T.Gamma(), gamma=R(0.1)), (0.5,), 0.84090),
    (family(T.Translation(), (32, 32), **shifts(15)), (14, 14), 0.52072),
    (family(T.Translation(), (32, 32), **shifts(3)), (3, 3), 0.91943),
    (family(T.ContrastBrightness("brightness_first"), contrast=LN(0, 0.6), brightness=N(0, 0.6)), (2, 0.4), 0.9339),
    (family(T.GaussianBlur(), blur=gs.Exponential(0.4)), (4,), 1 - math.exp(-1.6) / 2),
]


@pytest.mark.parametrize(("family", "beta", "value"), REFERENCE, ids=lambda case: str(case)[:40])
def test_reference_values(family, beta, value):
    at = gs.Points([dict(zip(family.parameters, beta, strict=True))])
    h = checked(proved(family, at))
    digits = len(f"{value:.5f}".rstrip("0")) - 2  # those that are known
    assert -(10.0**-digits) / 2 < h - value < 10.0**-digits / 2 + 5e-6


def pairs():
    """Every law that another one moves or rescales, beside every law of that other one."""
    outer = [LN(0.1, 0.5), R(0.7), gs.Exponential(1.3), gs.HalfNormal(0.8), gs.Uniform(0.3, 1.6), gs.Uniform(0, 1)]
    moved = [N(0.1, 0.5), gs.Exponential(1.5), gs.HalfNormal(0.6), gs.Laplace(0.1, 0.4), gs.Uniform(-0.5, 0.9)]
    rescaled = [LN(0.1, 0.5), gs.Exponential(1.5), gs.HalfNormal(0.6), R(0.5), gs.Uniform(0.2, 0.9), gs.Uniform(0, 1)]
    for transform, laws in ((T.ContrastBrightness(), moved), (T.GammaContrast(), rescaled)):
        for i, inner in enumerate(laws):
            for first, second in ((1.15, 1.1), (0.9, 0.88)):
                law = outer[(i + (first < 1)) % len(outer)]
                beta = first, math.log(second) if transform.name == "contrast_brightness" else second
                names = transform.parameters
                yield pytest.param(
                    gs.SmoothedFamily(transform, dict(zip(names, (law, inner), strict=True))),
                    dict(zip(names, beta, strict=True)),
                    id=f"{law}-{inner}-{first}",
                )


@pytest.mark.parametrize(("family", "beta"), list(pairs()))
def test_laws_that_another_parameter_moves(family, beta):
    """Two programs that share no code say the same."""
    outcome = certify_region(family, gs.Points([beta]))
    h = checked(json.loads(json.dumps(prove(family, gs.Points([beta]), outcome))))
    assert abs(h - outcome.h_min) < 1e-5


REGIONS = [
    (
        family(T.ContrastBrightness(), contrast=LN(0, 0.6), brightness=N(0, 0.6)),
        gs.Box(contrast=(0.5, 2), brightness=(-0.4, 0.4)),
    ),
    (
        family(T.GammaContrast(), gamma=LN(0, 0.5), contrast=LN(0, 0.8)),
        gs.Box(gamma=(0.8, 1.4), contrast=(0.6, 2)),
    ),
    (family(T.Translation(), (32, 32), **shifts(6)), gs.Box(tx=(-20, 20), ty=(-20, 20))),
    (family(T.Translation(), (32, 32), **shifts(10)), gs.Ball(9, tx=0, ty=0)),
    (family(T.BrightnessTranslation(), brightness=N(0, 0.4), **shifts(30)), gs.Ball(20, tx=0, ty=0)),
    (family(T.Brightness(), brightness=LN(0, 0.5)), gs.Box(brightness=(0.01, 0.05))),
]


@pytest.mark.parametrize(("family", "region"), REGIONS, ids=lambda case: type(case).__name__)
def test_regions(family, region):
    ordered = type(family.laws[region.parameters[0]]) is not LN or len(family.parameters) > 1
    tolerance = 1e-5 if ordered else 3e-4  # whose shifts have no order: many cells, each of many masses
    outcome = certify_region(family, region)
    proof = json.loads(json.dumps(prove(family, region, outcome, tolerance=tolerance)))
    assert checked(proof) == proof["required_probability"]
    assert -1e-6 < proof["required_probability"] - outcome.h_min < 3 * tolerance


def test_the_corner_of_a_cycle_is_not_the_worst():
    """32 pixels, σ 6, |T| <= 20: the corner needs .9846, (16, 16) .9908."""
    proof = proved(*REGIONS[2])
    assert checked(proof) > 0.99
    corner = {"tx": 20.0, "ty": 20.0}
    proof |= {"required_probability": 0.985, "cells": [{"beta": corner, "k": 60.0}]}
    with pytest.raises(verify.Wrong, match="no cell covers"):
        checked(proof)


def attained(family, region):
    """A level that some classifier has at the identity and not one half at some β of the region."""
    corner = certify_region(family, region).worst
    return gs.required_probability(family, gs.Points([corner])) - 1e-6


@pytest.mark.parametrize(("family", "region"), REGIONS[:3], ids=("affine", "power", "cycle"))
def test_a_changed_proof_is_refused_unless_it_is_one(family, region):
    """Hundreds of random changes; whatever is accepted is true, and covers the region."""
    proof = prove(family, region, certify_region(family, region), tolerance=1e-4)
    true = attained(family, region)
    checker = verify.Family(proof["transform"], proof["smoothing"], proof["image_size"])
    known = functools.cache(lambda beta, k: verify.Family.u(checker, dict(beta), k))
    checker.u = lambda beta, k: known(tuple(beta.items()), k)  # most cells of a changed proof are those of the proof
    rng = random.Random(0)
    refused = 0
    for _ in range(150):
        other = copy.deepcopy(proof)
        cell = rng.choice(other["cells"])
        size = 10 ** rng.uniform(-6, 0)
        change = rng.choice(["value", "k", "beta", "cell", "lost", "other"])
        if change == "value":
            other["required_probability"] -= size / 2
        elif change == "k":
            cell["k"] *= 1 + rng.choice([-1, 1]) * size
        elif change == "beta":
            name = rng.choice(sorted(cell["beta"]))
            cell["beta"][name] += rng.choice([-1, 1]) * size
        elif change == "cell" and "over" in cell:
            cell["over"]["interval"][rng.randrange(2)] += rng.choice([-1, 1]) * size
        elif change == "lost":
            other["cells"].remove(cell)
        else:
            cell["over"] = {"name": rng.choice(sorted(cell["beta"])), "interval": [-1e9, 1e9]}
        try:
            h = verify.check_proof(checker, other["region"], json.loads(json.dumps(other)))
        except verify.Wrong:
            refused += 1
            continue
        assert h >= true
        assert change in ("k", "cell", "beta"), "a value that is lower, or a cell that is missing, was accepted"
    assert refused > 75


@pytest.mark.parametrize(("family", "region"), REGIONS, ids=lambda case: type(case).__name__)
def test_a_value_that_is_lower_by_a_millionth_is_refused(family, region):
    proof = proved(family, region, tolerance=3e-4)
    proof["required_probability"] -= 1e-6
    with pytest.raises(verify.Wrong, match=r"below 1/2|not shown"):
        checked(proof)


def test_the_printed_procedure_has_no_proof():
    brightness = family(T.Brightness(), brightness=N(0, 0.3))
    region = gs.Box(brightness=(-0.4, 0.4))
    printed = certify_region(brightness, region, "gl_printed")
    proof = proved(brightness, region)
    assert proof["required_probability"] > 0.9087
    for k in (1.0, 2.0, 4.0, 8.0, 20.0):  # no ratio makes it true
        proof["required_probability"] = printed.h_min
        proof["cells"] = [cell | {"k": k} for cell in proof["cells"]]
        with pytest.raises(verify.Wrong):
            checked(proof)


def test_random_families_against_the_oracle():
    """The tests' own oracle knows classifiers that lose; none may be above what is proved."""
    compared = 0
    for seed, kind, number in stress.schedule(5, None):
        case = stress.draw_case(seed, kind, number)
        if number > 4:
            break
        verdict = stress.Verdict(kind, number, "proof")
        try:
            proof = prove(case.family, case.region, certify_region(case.family, case.region), seconds=0.2)
        except gs.NotApplicable:
            continue
        verdict.value = proof["required_probability"]
        stress.compare(case, verdict)
        assert verdict.deficit <= stress.TOLERANCE, str(case)
        compared += verdict.points > 0
    assert compared > 15


@pytest.mark.parametrize(
    ("count", "n", "p"), [(950, 1000, 0.93), (1000, 1000, 0.99), (1, 1000, 1e-7), (0, 10, 0.1), (199, 200, 0.9)]
)
def test_tails_and_evidence(count, n, p):
    mp = pytest.importorskip("mpmath")
    tail = sum(mp.binomial(n, i) * mp.mpf(p) ** i * (1 - mp.mpf(p)) ** (n - i) for i in range(count, n + 1))
    assert float(verify.binomial_tail(count, n, verify.arb(p)).mid()) == pytest.approx(float(tail), rel=1e-9)
    for mixture, (sure, b) in {"uniform": (0, 1), "sure": (0.55, 2)}.items():
        h = mp.mpf(p)
        weigh = lambda u, b=b, h=h: (  # noqa: E731
            (1 + u * (1 - h) / h) ** count * (1 - u) ** (n - count + b - 1) * b
        )
        peak = max(0.0, (count / n - p) / (1 - p))
        mean = mp.quad(weigh, sorted({0, peak / 2, peak, (1 + peak) / 2, 1}))
        value = (1 - sure) * mean + (sure * h**-count if count == n else 0)
        assert float(verify.evidence(count, n, verify.arb(p), mixture).mid()) == pytest.approx(float(value), rel=1e-6)


# Runs.

H = 0.92222
ALPHA = 0.001


@pytest.fixture(scope="module")
def proof():
    return proved(*REGIONS[0], tolerance=1e-5)


def lower(count, n, procedure):
    if procedure == "sequential":
        return anytime_lower(count, n, ALPHA, "sure")
    return clopper_pearson_lower(count, n, ALPHA / 2 if procedure == "paper_literal" else ALPHA)


@pytest.fixture(params=["paper", "paper_literal", "sequential"])
def run(request, tmp_path, proof):
    """A run by hand: five images, three of them certified, one in a wrong class."""
    n = 1000
    counts = [1000, 998, 970, 900, 500]
    bounds = [lower(count, n, request.param) for count in counts]
    rows = [
        {
            "index": i * 3, "label": 1, "prediction": 2 if i == 1 else 1, "n0": 100, "n": n, "count": count,
            "p_lower": p, "base_prediction": 1, "abstain_votes": 0, "nonfinite_votes": 0, "near_ties": 0,
            "certified_neyman_pearson": int(p > H), "certified_gl": int(p > 0.94), "certified_gl_printed": 0,
        }
        for i, (count, p) in enumerate(zip(counts, bounds, strict=True))
    ]  # fmt: skip
    assert [row["certified_neyman_pearson"] for row in rows] == [1, 1, 1, 0, 0]
    summary = {
        "images": 5,
        "base_accuracy": 1.0,
        "smoothed_accuracy": 0.8,
        "methods": {
            "neyman_pearson": {"sound": True, "required_probability": H, "certified_robust_accuracy": 0.4},
            "gl": {"sound": True, "required_probability": 0.94, "certified_robust_accuracy": 0.4},
            "gl_printed": {"sound": False, "required_probability": 0.8, "certified_robust_accuracy": 0.0},
        },
        **{key: proof[key] for key in ("transform", "smoothing", "region", "image_size")},
        "monte_carlo": {"name": request.param, "n0": 100, "n": n, "alpha": ALPHA, "mixture": "sure"},
    }
    summary["methods"]["gl"]["certified_robust_accuracy"] = sum(p > 0.94 for p in (bounds[0], *bounds[2:])) / 5
    write(tmp_path, summary, rows, proof)
    return tmp_path


def write(path, summary, rows, proof):
    (path / "summary.json").write_text(json.dumps(summary))
    with (path / "records.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    if proof is not None:
        (path / "proof.json").write_text(json.dumps(proof))


def read(path):
    with (path / "records.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return json.loads((path / "summary.json").read_text()), rows, json.loads((path / "proof.json").read_text())


def test_a_run_is_verified(run):
    result = verify.check(run)
    assert result.verified, result
    assert "3 by neyman_pearson" in result.lines[-1]
    assert verify.status([result]) == 0


def set_(key, value):
    def change(summary, rows, proof):
        *path, last = key.split("/")
        target = {"summary": summary, "rows": rows, "proof": proof}
        for part in path:
            target = target[int(part) if part.isdigit() else part]
        target[int(last) if last.isdigit() else last] = value

    return change


def certify_what_was_not(summary, rows, proof):
    rows[3]["certified_neyman_pearson"] = 1


CHANGES = {
    "p_lower": set_("rows/3/p_lower", 0.93),
    "p_lower by a millionth": lambda s, rows, p: rows[2].update(p_lower=float(rows[2]["p_lower"]) + 1e-6),
    "count": set_("rows/0/count", 900),
    "fewer draws": set_("rows/1/n", 998),
    "more than there are": set_("rows/1/count", 1001),
    "certificate": certify_what_was_not,
    "no certificate": set_("rows/0/certified_neyman_pearson", 0),
    "unsound certificate": set_("rows/0/certified_gl_printed", 1),
    "abstained": set_("rows/1/prediction", -1),
    "twice": set_("rows/1/index", 0),
    "not a number": set_("rows/0/p_lower", "nan"),
    "CRA": set_("summary/methods/neyman_pearson/certified_robust_accuracy", 0.6),
    "accuracy": set_("summary/smoothed_accuracy", 1.0),
    "images": set_("summary/images", 6),
    "share of abstentions": set_("summary/abstained", 0.4),
    "given up": set_("summary/given_up", 0.2),
    "votes": set_("summary/votes_used", 5499),
    "draws that are no number": set_("summary/monte_carlo/n", 1000.5),
    "selection of less than nothing": lambda s, rows, p: [x.update(n0=-5) for x in (s["monte_carlo"], *rows)],
    "randomised": set_("summary/monte_carlo/randomised", "false"),
    "a cycle of another size": lambda s, r, p: s.update(image_size=[32, 32], dataset={"image_size": [28, 28]}),
    "no points": set_("summary/region", {"points": []}),
    "required": set_("summary/methods/neyman_pearson/required_probability", 0.8),
    "region": set_("summary/region/brightness", [-0.5, 0.4]),
    "another parameter": set_("summary/region/gamma", [1, 2]),
    "law": set_("summary/smoothing/brightness/scale", 0.5),
    "order": set_("summary/transform/order", "brightness_first"),
    "alpha": set_("summary/monte_carlo/alpha", 1e-5),
    "no alpha": set_("summary/monte_carlo/alpha", 0),
    "value": lambda s, r, proof: proof.update(required_probability=proof["required_probability"] - 1e-6),
    "cells": set_("proof/cells", []),
    "half a proof": lambda s, r, proof: proof.update(cells=proof["cells"][1:]),
    "outside the domain": set_("summary/region/contrast", [-0.1, 2]),
    "a certificate of another method": lambda s, rows, p: [row.update(certified_mp=1) for row in rows],
    "strange": set_("summary/methods", None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_run_is_wrong(run, name):
    content = read(run)
    sequential = content[0]["monte_carlo"]["name"] == "sequential"
    CHANGES[name](*content)
    write(run, *content)
    result = verify.check(run)
    if sequential and name == "fewer draws":  # any number of draws is one at which the test may stop
        assert result.verified
    elif sequential and name == "p_lower by a millionth":  # it might be what earlier counts gave
        assert "1 certified images (6)" in result.open[0]
        assert verify.status([result]) == 3
    else:
        assert result.wrong, result
        assert verify.status([result]) == 1


def with_look(run, at, look, **more):
    """The third image's p_lower rests on these earlier votes, count and n, it says."""
    summary, rows = read_without_proof(run)
    for i, row in enumerate(rows):
        row["look_count"], row["look_n"] = look if i == at else (row["count"], row["n"])
        row.update(more if i == at else {})
    write(run, summary, rows, None)
    return verify.check(run)


@pytest.mark.parametrize("run", ["sequential"], indirect=True)
def test_an_earlier_look_is_checked_where_the_records_keep_it(run):
    """It was left open without: more votes against, after the look that had certified."""
    earlier = {"count": 940, "p_lower": repr(lower(708, 720, "sequential"))}
    assert float(earlier["p_lower"]) > H
    assert with_look(run, 2, (708, 720), **earlier).verified
    summary, rows = read_without_proof(run)
    without = [{key: value for key, value in row.items() if not key.startswith("look_")} for row in rows]
    write(run, summary, without, None)
    assert "1 certified images (6)" in verify.check(run).open[0]
    for count, n in ((707, 720), (708, 721), (0, 0)):
        assert "does not follow" in with_look(run, 2, (count, n)).wrong[0], (count, n)
    # More successes, or more failures, than there were in the end; more successes than votes.
    for count, n in ((941, 960), (900, 961), (720, 700), (-1, 5)):
        assert "no part of" in with_look(run, 2, (count, n)).wrong[0], (count, n)


@pytest.mark.parametrize("run", ["paper"], indirect=True)
def test_draws_on_a_grid_cost_a_little_more(run):
    summary, rows = read_without_proof(run)
    write(run, summary | {"draws": "grid"}, rows, None)
    assert "leaves no grid" in verify.check(run).wrong[0]  # contrast moves brightness
    write(run, summary | {"draws": "dice"}, rows, None)
    assert "draws='dice' are not known here" in verify.check(run).open[0]
    # Where each parameter moves alone: an image that is certified by half of the cost is open.
    other = proved(family(T.Brightness(), brightness=N(0, 0.3)), gs.Box(brightness=(-0.4, 0.4)))
    h = other["required_probability"]
    summary |= {key: other[key] for key in ("transform", "smoothing", "region", "image_size")} | {"images": 1}
    summary["methods"] = {
        "neyman_pearson": {"sound": True, "required_probability": h, "certified_robust_accuracy": 1.0}
    }
    summary |= {"base_accuracy": 1.0, "smoothed_accuracy": 1.0}
    row = {name: value for name, value in rows[0].items() if name not in ("certified_gl", "certified_gl_printed")}
    for more, draws, verified in ((5e-8, "continuous", True), (5e-8, "grid", False), (2e-7, "grid", True)):
        write(run, summary | {"draws": draws}, [row | {"p_lower": repr(h + more)}], other)
        result = verify.check(run)
        assert (result.verified, result.wrong) == (verified, []), (more, draws)
    assert result.required_probability == h + 1e-7


def test_what_cannot_be_told(run):
    (run / "proof.json").unlink()
    result = verify.check(run)
    assert (result.wrong, verify.status([result])) == ([], 3)
    assert "proof.json" in result.open[0]
    summary, rows, _ = (*read_without_proof(run), None)
    write(run, summary | {"transform": {"_target_": "my.Shear"}}, rows, None)
    assert "my.Shear is not one of those known here" in verify.check(run).open[0]


def read_without_proof(path):
    with (path / "records.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return json.loads((path / "summary.json").read_text()), rows


def test_a_looser_proof_leaves_images_open(run, proof):
    """What the bounds certify and the proof does not reach is named."""
    summary, rows, _ = read(run)
    loose = proof | {"required_probability": 0.99}
    write(run, summary, rows, loose)
    result = verify.check(run)
    assert not result.wrong
    assert any("the proof needs 0.99" in line for line in result.open)
    assert verify.status([result]) == 3


def test_columns_that_occur_twice_and_values_beyond_the_last(run):
    lines = (run / "records.csv").read_text().splitlines()
    for change in ("header", "row"):
        twice = [lines[0] + ",p_lower", *(line + ",0.999" for line in lines[1:])]
        more = [lines[0], lines[1] + ",1", *lines[2:]]
        (run / "records.csv").write_text("\n".join(twice if change == "header" else more) + "\n")
        assert verify.check(run).wrong


@pytest.mark.parametrize("region", [{"blur": [-1.0, 2.0]}, {"points": [{"blur": -1.0}]}])
def test_parameters_that_there_are_not(region):
    blur = family(T.GaussianBlur(), blur=gs.Exponential(0.4))
    proof = proved(blur, gs.Box(blur=(0, 2))) | {"region": region}
    with pytest.raises(verify.Wrong, match="no parameter of the transformation"):
        checked(proof)


@pytest.mark.parametrize(
    ("family", "beta", "name", "move"),
    [
        (REGIONS[0][0], {"contrast": 0.9, "brightness": 0.4}, "contrast", lambda b, r: {"brightness": b * (1 - r)}),
        (REGIONS[1][0], {"gamma": 1.1, "contrast": 1.6}, "gamma", lambda c, r: {"contrast": c ** (1 - r)}),
        (
            family(T.ContrastBrightness("brightness_first"), contrast=R(0.6), brightness=N(0, 0.6)),
            {"contrast": 0.9, "brightness": 0.4},
            "contrast",
            lambda b, r: {"brightness": 0.0},
        ),
        (REGIONS[5][0], {"brightness": 0.1}, "brightness", None),
    ],
    ids=("affine", "power", "affine_b", "shift"),
)
def test_the_variation_within_a_cell_is_not_below_the_true_one(family, beta, name, move):
    """U at k = 1 is the total variation, here of the step δ from β to an end of the cell: β′ = γ(δ, β)."""
    config = proved(family, gs.Points([beta]))
    checker = verify.Family(config["transform"], config["smoothing"], None)
    other = next((value for key, value in beta.items() if key != name), 0.0)
    for low, high in ((0.8, 1.05), (0.95, 1.3)):  # of β
        bound = checker.variation(beta, name, (low * beta[name], high * beta[name]))
        for ratio in (low, high):
            step = {name: (ratio - 1) * beta[name]} if move is None else {name: ratio, **move(other, ratio)}
            true = checker.u(checker.identity | step, 1.0)
            assert true <= bound + 1e-4  # U itself is above the truth by the square of its steps


def test_a_ball_of_a_shift_on_a_cycle_and_another_one_is_no_normal_shift():
    """Rounded, a narrow law of pixels asks for less than the brightness that is as far away."""
    mixed = family(T.BrightnessTranslation(), (32, 32), brightness=N(0, 0.4), tx=N(0, 0.3), ty=N(0, 3))
    proof = proved(mixed, gs.Ball(1.0, brightness=0, tx=0))
    assert checked(proof) >= gs.required_probability(mixed, gs.Points([{"brightness": 1.0}])) > 0.99
    one = {"brightness": 0.0, "tx": 1.0, "ty": 0.0}
    proof |= {"required_probability": 0.98, "cells": [{"beta": one, "k": 5.0}]}
    with pytest.raises(verify.Wrong, match="no cell covers"):
        checked(proof)


def needs_on_a_cycle(region):
    law = {"law": "Normal", "loc": 0.0, "scale": 3.0}
    shift = verify.Family({"_target_": "glsmooth.transforms.Translation"}, {"tx": law, "ty": law}, [16, 16])
    return [need.beta for need in verify.needed(shift, region)]


def test_a_shift_on_the_edge_of_a_ball():
    """2.1² - (2 + 0.1)² is 4e-16 in real numbers and 0 in floats: (0, -2) lies inside, by 1e-8."""
    needs = needs_on_a_cycle({"ball": 2.1, "centre": {"ty": 0.1, "tx": 5e-9}})
    assert {"tx": 0.0, "ty": 14.0} in needs
    # -0.9 + 1.9 is 1 in decimal numbers, and less in binary ones.
    wide = verify.Family(
        {"_target_": "glsmooth.transforms.Translation"},
        {name: {"law": "Exponential", "rate": 0.5} for name in ("tx", "ty")},
        [16, 16],
    )
    assert {"tx": 1.0, "ty": 0.0} in [
        need.beta for need in verify.needed(wide, {"ball": 1.9, "centre": {"tx": -0.9, "ty": 0.0}})
    ]


@pytest.mark.parametrize(("radius", "centre"), [(1e9, 0.0), (1e300, 0.0), (3.0, 16e15), (3.0, -(2.0**200))])
def test_balls_far_larger_or_further_than_a_cycle(radius, centre):
    """There are no more rows than the cycle has, whatever the radius, and whole turns lead nowhere."""
    near = {"tx": [0, 15], "ty": [0, 15]} if radius > 3 else {"ball": radius, "centre": {"tx": 0.0, "ty": 0.0}}
    assert needs_on_a_cycle({"ball": radius, "centre": {"tx": centre, "ty": 0.0}}) == needs_on_a_cycle(near)


def test_cycles_of_which_one_is_nearly_flat():
    """Steps as narrow as its likelihood ratios would be more than a memory holds."""
    laws = {
        "contrast": ("LogNormal", 0.4),
        "brightness": ("Normal", 0.4),
        "tx": ("Normal", 20.0),
        "ty": ("Normal", 2.0),
    }
    both = verify.Family(
        {"_target_": "glsmooth.transforms.ContrastBrightnessTranslation"},
        {name: {"law": kind, "loc": 0.0, "scale": scale} for name, (kind, scale) in laws.items()},
        [16, 16],
    )
    beta = {"contrast": 0.8, "brightness": 0.1, "tx": 0.0, "ty": 1.0}
    without, flat = both.u(beta, 2.0), both.u(beta | {"tx": 3.0}, 2.0)
    assert abs(flat - without) < 1e-4


def test_a_cycle_of_more_places_than_can_be_taken_one_by_one(monkeypatch):
    shift = verify.Family(
        {"_target_": "glsmooth.transforms.Translation"},
        {name: {"law": "Normal", "loc": 0.0, "scale": 9.0} for name in ("tx", "ty")},
        [32, 32],
    )
    exact = shift.u({"tx": 4.0, "ty": 7.0}, 1.5)
    monkeypatch.setattr(verify, "_FEW", 1000)
    monkeypatch.setattr(verify, "_exactly", None)  # it is not asked
    shift._parts.cache_clear()
    assert -1e-11 < shift.u({"tx": 4.0, "ty": 7.0}, 1.5) - exact < 1e-4


@pytest.mark.parametrize("law", [gs.Uniform(1, 2), gs.Laplace(1, 0.5), gs.Rayleigh(1), gs.LogNormal(0, 1)], ids=str)
def test_tails_of_a_ball_hold_those_of_its_numbers(law):
    """Around the ends of a support, and around a kink, too."""
    known = verify.Law.of({"law": type(law).__name__, **{name: getattr(law, name) for name in type(law).fields}})
    for middle in (0.0, 1.0, 1.5, 2.0):
        ball = verify.arb(middle, 0.01)
        below, above = known.tails(ball)
        for x in (middle - 0.009, middle, middle + 0.009):
            cdf = float(law.cdf(torch.tensor(x, dtype=torch.float64)))
            assert not below.is_finite() or below.contains(cdf) or abs(below - cdf) < 1e-15
            assert not above.is_finite() or above.contains(1 - cdf) or abs(above - (1 - cdf)) < 1e-15


def test_a_fractional_point_is_no_shift():
    shift = family(T.Translation(), (32, 32), **shifts(3))
    proof = proved(shift, gs.Points([{"tx": 1}])) | {"region": {"points": [{"tx": 1.4}]}}
    with pytest.raises(verify.Wrong, match="no whole number of pixels"):
        checked(proof)


def test_shifts_of_the_plane_are_rounded():
    """1.5 and -1.5 pixels are shifts by two."""
    plane = family(T.Translation(), **shifts(5))
    assert checked(proved(plane, gs.Box(tx=(-1.5, 1.5)))) == checked(proved(plane, gs.Box(tx=(-2, 2))))


@pytest.mark.parametrize(
    "law", [{"law": "Normal", "loc": 10**400, "scale": 1}, {"law": "Normal", "loc": 0, "scale": 0}]
)
def test_numbers_that_are_none_are_not_verified(run, law):
    summary, rows, proof = read(run)
    summary["smoothing"]["brightness"] = law
    write(run, summary, rows, proof)
    assert not verify.check(run).verified


@pytest.mark.parametrize("content", ["", "[]", "{}", "NaN", '{"transform": 1}', "\x00", '{"methods": {"a": []}}'])
def test_files_that_are_something_else(run, content):
    for name in ("summary.json", "proof.json", "records.csv"):
        before = (run / name).read_bytes()
        (run / name).write_text(content)
        result = verify.check(run)
        assert result.wrong or result.open, name
        assert not result.verified
        (run / name).write_bytes(before)
    assert verify.check(run).verified


@pytest.mark.parametrize("coin", [-1e300, -1e-9, 1.5, "nan"])
def test_a_coin_that_cannot_be_drawn(run, coin):
    """Far below 0 it would make a probability of a tail negative, and so let any p_lower follow from any count."""
    summary, rows, proof = read(run)
    summary["monte_carlo"] |= {"name": "paper", "randomised": True}
    rows = [row | {"coin": coin} for row in rows]
    rows[3] |= {"p_lower": 0.93, "certified_neyman_pearson": 1}
    summary["methods"]["neyman_pearson"]["certified_robust_accuracy"] = 0.6
    write(run, summary, rows, proof)
    assert "coin" in verify.check(run).wrong[0] or coin == "nan"
    assert verify.check(run).wrong


def test_every_shift_that_is_asked(run):
    """Counts of shifts that were visited prove what the least probable of them weigh; none prove more than the most."""
    law = {"law": "Normal", "loc": 0.0, "scale": 0.7}
    of_axis = [float(mass.mid()) for mass in verify._cycle(verify.Law.of(law), 4)]
    masses = sorted((x * y for x in of_axis for y in of_axis), reverse=True)
    shift = gs.SmoothedFamily(T.Translation(), shifts(0.7), (4, 4))
    proof = proved(shift, gs.Box(tx=(0, 1)))
    h = proof["required_probability"]
    summary, rows, _ = read(run)
    summary |= {key: proof[key] for key in ("transform", "smoothing", "region", "image_size")}
    summary["monte_carlo"] = {"name": "exhaustive", "n0": 0, "n": 16, "alpha": 0.0}
    summary["methods"] = {"neyman_pearson": {"sound": True, "required_probability": h}}
    rows = [{key: value for key, value in row.items() if key not in ("certified_gl", "certified_gl_printed")}
            | {"prediction": 1, "n0": 0, "n": 16} for row in rows]  # fmt: skip

    def check(count, p, **more):
        for row in rows:
            row |= {"count": count, "p_lower": p, "certified_neyman_pearson": int(p > h)}
        write(run, summary | {"smoothed_accuracy": 1.0} | more, rows, proof)
        return verify.check(run)

    assert check(16, 1 - 1e-9).verified
    least, most = sum(masses[-12:]), sum(masses[:12])
    assert least < h < most
    assert check(12, least - 1e-9).verified
    assert verify.status([check(12, most - 1e-9)]) == 3  # which of them voted is not in the records
    assert check(12, most + 1e-9).wrong
    assert check(16, 1 - 1e-9, pixel_noise=0.1).wrong
    assert check(16, 1 - 1e-9, stochastic=True).wrong
    large = verify.Family(proof["transform"], proof["smoothing"], [8192, 8192])
    with pytest.raises(verify.Unverifiable, match="more shifts than can be counted"):
        verify._Votes(summary, large)


def test_words_of_a_file_that_a_reader_might_take_otherwise(run):
    for name in ("summary.json", "proof.json"):
        before = (run / name).read_text()
        for more in ('"region": {"brightness": [0, 0]}', f'"required_probability": {H}'):
            (run / name).write_text(f"{before[:-1]}, {more}, {more}}}")
            assert "occurs twice" in verify.check(run).wrong[0]
        (run / name).write_text('{"a":' * 100_000)
        assert "is not JSON" in verify.check(run).wrong[0]
        (run / name).write_text(before)
    summary, rows, proof = read(run)
    for more in ({"sigma": 3}, {"border": "zero"}):
        write(run, summary | {"transform": summary["transform"] | more}, rows, proof)
        assert not verify.check(run).verified


def test_what_a_file_says_is_printed_on_one_line(run, capsys):
    summary, rows, proof = read(run)
    write(run, summary | {"transform": {"_target_": "\ud800\n  verified\x1b[2J"}}, rows, proof)
    verify.show(run, verify.check(run))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "  not verified"
    assert "  verified" not in lines
    assert "\\ud800\\n  verified\\x1b[2J" in "".join(lines)


def test_it_stands_alone(run):
    """One file, which runs without the package and without torch."""
    file = Path(verify.__file__)
    tree = ast.parse(file.read_text())
    modules = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) == {"flint"}
    done = subprocess.run([sys.executable, "-P", str(file), str(run)], capture_output=True, text=True, cwd=run)
    assert (done.returncode, done.stdout.splitlines()[-1].strip()) == (0, "verified"), done.stderr
