"""Files of the user's site, from --config-dir, in every command: they come before the packaged ones."""

import csv
import json
import re
import statistics
import sys
from pathlib import Path

import pytest

from glsmooth.commands import bounds, certify, report, train

MAIN = {"bounds": bounds.main, "certify": certify.main, "report": report.main, "train": train.main}

TINT = """
import torch
import glsmooth as gs

class Tint(gs.ResolvableTransform):
    name = "tint"
    factors = (gs.transforms.Shift("tint"),)

    def apply(self, images, theta):
        return images + theta[:, 0].to(images)[:, None, None, None]
"""


@pytest.fixture
def site(elsewhere):
    """A site: laws of its own for brightness, a transformation of its own, an experiment and a cluster."""
    files = {
        "smoothing/brightness": "brightness: {law: Normal, loc: 0.0, scale: 0.5}",
        "region/brightness": "brightness: [-0.1, 0.1]",
        "transform/mine": "_target_: my_site_module.Tint",
        "smoothing/mine": "tint: {law: Normal, loc: 0.0, scale: 0.25}",
        "region/mine": "tint: [-0.1, 0.1]",
        "smoothing/pixels": ("defaults:\n  - parts/ty_follows_tx@_here_\ntx: {law: Normal, loc: 0.0, scale: 3.0}"),
        "transform/bare": "_target_: my_site_module.Tint",
        "experiment/mine": (
            "# @package _global_\ndefaults:\n  - override /transform: brightness\n  - override /bound: all\n"
            "dataset:\n  subset: 3\nregion:\n  brightness: [-0.2, 0.2]"
        ),
        "cluster/mysite": "# @package _global_\ntrainer:\n  accelerator: cpu\n  devices: 1",
    }
    for name, text in files.items():
        path = elsewhere / "site" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (elsewhere / "my_site_module.py").write_text(TINT)
    yield elsewhere / "site"
    sys.modules.pop("my_site_module", None)


@pytest.fixture
def call(site, monkeypatch, capsys):
    """``call(command, arguments…)`` runs the command with the site's files; returns its standard streams."""

    def call_(command, *arguments):
        monkeypatch.setattr(sys, "argv", [command, "--config-dir", "site", *map(str, arguments)])
        MAIN[command]()
        return capsys.readouterr()

    return call_


def required(captured, digits=4):
    """Neyman–Pearson's required probability, as certify says it before it starts."""
    return float(re.search(rf"Neyman–Pearson: required probability (\d\.\d{{{digits}}})", captured.err).group(1))


normal_cdf = statistics.NormalDist().cdf
DRY = ("dry_run=true", "dataset.subset=4", "batch_size=8", "cluster=mysite")


def test_certify_takes_the_laws_and_the_region_of_the_site(call, untrained):
    """Φ(b / σ) for brightness in [-b, b]: σ = 0.5 and b = 0.1 are the site's, 0.6 and 0.4 the package's."""
    captured = call("certify", f"ckpt={untrained[0]}", "transform=brightness", *DRY)
    assert required(captured) == pytest.approx(normal_cdf(0.1 / 0.5), abs=1e-4)
    captured = call("certify", f"ckpt={untrained[0]}", "transform=brightness", "smoothing.brightness.scale=0.2", *DRY)
    assert required(captured) == pytest.approx(normal_cdf(0.1 / 0.2), abs=1e-4)


def test_certify_takes_a_sites_own_transformation_with_its_defaults(call, untrained):
    captured = call("certify", f"ckpt={untrained[0]}", "transform=mine", *DRY)
    assert required(captured) == pytest.approx(normal_cdf(0.1 / 0.25), abs=1e-4)
    # certify cannot know the parameter's name before it reads the checkpoint, hence the +.
    arguments = ("transform=mine", "+smoothing.tint.scale=0.2", "+region.tint=[-0.05,0.05]")
    captured = call("certify", f"ckpt={untrained[0]}", *arguments, *DRY)
    assert required(captured) == pytest.approx(normal_cdf(0.05 / 0.2), abs=1e-4)


def test_files_that_hydra_searchpath_names_are_found_too(site, untrained, monkeypatch, capsys):
    """Hydra looks there after the packaged files: they add, and replace nothing."""
    for transform, expected in (("mine", 0.1 / 0.25), ("brightness", 0.4 / 0.6)):
        arguments = [f"ckpt={untrained[0]}", f"transform={transform}", f"hydra.searchpath=[file://{site}]"]
        monkeypatch.setattr(sys, "argv", ["certify", *arguments, *DRY])
        certify.main()
        assert required(capsys.readouterr()) == pytest.approx(normal_cdf(expected), abs=1e-4)


def test_files_of_the_site_can_use_packaged_parts(call):
    said = json.loads(call("bounds", "transform=translation", "smoothing=pixels", "format=json").out)
    assert said["smoothing"]["ty"] == said["smoothing"]["tx"] == {"law": "Normal", "loc": 0.0, "scale": 3.0}
    arguments = ("transform=translation", "smoothing=pixels", "smoothing.ty.scale=5", "format=json")
    said = json.loads(call("bounds", *arguments).out)
    assert [said["smoothing"][name]["scale"] for name in ("tx", "ty")] == [3.0, 5.0]


def test_the_last_line_suggests_what_the_site_knows(call, untrained, capsys):
    for arguments, expected in (
        (("bounds", "transform=mien"), "did you mean 'mine'"),
        (("bounds", "transform=mine", "smoothing.tint.sclae=1"), "did you mean 'smoothing.tint.scale'?"),
        (("certify", f"ckpt={untrained[0]}", "transform=mine", "region.tint=[0,1]"), "or +region.tint=[0,1] for"),
    ):
        with pytest.raises(SystemExit) as ended:
            call(*arguments)
        assert ended.value.code == 2
        assert expected in capsys.readouterr().err.splitlines()[-1]


def test_a_transformation_of_the_site_without_laws_is_named(call, untrained, capsys):
    with pytest.raises(SystemExit) as ended:
        call("certify", f"ckpt={untrained[0]}", "transform=bare", *DRY)
    assert ended.value.code == 2
    assert "smoothing.tint is missing" in capsys.readouterr().err.splitlines()[-1]


def test_an_experiment_of_the_site_for_certify(call, untrained):
    captured = call("certify", f"ckpt={untrained[0]}", "experiment=mine", "dry_run=true", "batch_size=8")
    assert required(captured) == pytest.approx(normal_cdf(0.2 / 0.5), abs=1e-4)
    assert len(re.findall("unsound: never counts", captured.err)) == 1  # of bound=all alone
    assert "Images:          3" in captured.out
    # The command line beats the experiment.
    typed = ("experiment=mine", "dataset.subset=2", "region.brightness=[0,0.1]")
    captured = call("certify", f"ckpt={untrained[0]}", *typed, "dry_run=true", "batch_size=8")
    assert required(captured) == pytest.approx(normal_cdf(0.1 / 0.5), abs=1e-4)
    assert "Images:          2" in captured.out


def test_train_bounds_and_report_take_them_too(call):
    said = json.loads(call("bounds", "transform=mine", "format=json").out)
    assert said["required_probability"]["neyman_pearson"] == pytest.approx(normal_cdf(0.1 / 0.25), abs=1e-9)
    captured = call("train", "transform=mine", "cluster=mysite", "trainer.fast_dev_run=true", "optimizer.batch_size=8")
    assert "One batch of training and of validation passed" in captured.out


def test_what_the_site_trained_is_certified_and_reported(call, elsewhere):
    """From transform=mine to a report for another region. The files do not name a class of the user's: he does."""
    small = ("transform=mine", "optimizer.epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
    call("train", *small, "cluster=mysite", "hydra.run.dir=trained")
    votes = ("monte_carlo.n0=8", "monte_carlo.n=16", "dataset.subset=4")
    own = ("transform=mine", "cluster=mysite")
    call("certify", "ckpt=trained/best.ckpt", *votes, *own, "hydra.run.dir=certified")
    with (elsewhere / "certified" / "records.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    assert json.loads((elsewhere / "certified" / "summary.json").read_text())["region"] == {"tint": [-0.1, 0.1]}
    call("report", "certified", "transform=mine", "+region.tint=[-0.05,0.05]", "hydra.run.dir=again")
    assert "tint in [−0.05, 0.05]" in (Path("again") / "table.md").read_text()
