"""The rows of Table 1 as experiments: complete, with the required probability that they state, and each one runs."""

import math
import re
from functools import cache
from pathlib import Path

import hydra
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from torch import nn

import glsmooth as gs
from glsmooth.bounds import samples_needed
from glsmooth.commands import certify, train
from glsmooth.commands.plan import plan_of
from glsmooth.configuration.build import build_family, build_region
from glsmooth.configuration.folder import conf_dir
from glsmooth.configuration.settings import merge_checkpoint, validate
from glsmooth.learning import models
from glsmooth.report import tables, wording
from glsmooth.runs.files import write_text
from glsmooth.runs.run import load_run

# The paper's nine rows, and the number of each.
PAPER = {
    "contrast_brightness_wide": 1,
    "gamma_contrast": 2,
    "brightness_translation": 3,
    "contrast_translation": 4,
    "translation": 5,
    "contrast_brightness_translation": 6,
    "translation_blur_brightness_contrast": 7,
    "gamma": 8,
    "gamma_below_one": 9,
}
ONE_PARAMETER = {"brightness", "contrast", "gaussian_blur_4", "gaussian_blur_16"}
ROWS = {*PAPER, *ONE_PARAMETER, "contrast_brightness", "translation_all"}
SIDE = {"cifar10": 32, "cifar100": 32, "digits": 32, "imagenet": 224}
EXPERIMENTS = [
    *(f"{dataset}/{row}" for dataset in SIDE for row in sorted(ROWS)),
    *(f"imagenet/paper/{row}" for row in PAPER),
]
#: Networks to start others from.
BASES = ("cifar10_base", "cifar100_base")
FOLDER = conf_dir() / "experiment"
#: Votes of monte_carlo=paper.
N, ALPHA = 1000, 0.001


def compose(command, *overrides):
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(command, ["run_dir=somewhere", *overrides])


@cache
def problem(*overrides):
    config = validate(compose("bounds", *overrides), "bounds")
    family = build_family(config["transform"], config["smoothing"], config["image_size"])
    return family, build_region(config["region"], family.transform)


@cache
def other_row():
    """What a checkpoint holds that was trained for laws and a region that no experiment has."""
    others = ("smoothing.contrast.scale=9", "region.contrast=[1,1.01]")
    return validate(compose("train", "transform=contrast_brightness", *others), "train")


@cache
def required(name):
    return gs.required_probability(*problem(f"experiment={name}"))


def said_of(family):
    return repr(family.transform), dict(family.laws), family.image_size


def comment(name):
    return (FOLDER / f"{name}.yaml").read_text().splitlines()[1]


# What there is.


@pytest.mark.parametrize("folder", ["rows", *SIDE])
def test_every_data_set_has_every_row(folder):
    assert {path.stem for path in (FOLDER / folder).glob("*.yaml")} == ROWS


def test_the_paper_has_its_nine_rows():
    assert {path.stem for path in (FOLDER / "imagenet" / "paper").iterdir()} == set(PAPER)
    for row, number in PAPER.items():
        assert f"row {number}," in comment(f"imagenet/paper/{row}")


def test_every_row_and_data_set_is_in_the_help_of_train():
    page = (conf_dir() / "train.yaml").read_text()
    listed = page[page.index("experiment    a prepared") : page.index("        cluster ")]
    assert set(re.findall(r"\w+", listed)) >= {*ROWS, *SIDE, *BASES, "paper", "demo"}


# What they ask for.


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_comment_states_the_required_probability(name):
    h = required(name)
    assert re.findall(r"h_min (0\.\d{5})\b", comment(name)) == [wording.ceil(h, 5)]
    needed = samples_needed(h, ALPHA)
    said = re.findall(r"n = (\d+) can certify nothing, n = (\d+) can\b", comment(name))
    assert said == ([(str(N), str(needed))] if needed > N else [])
    assert "/paper/" in name or needed <= N  # laws of our own can certify


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_all_commands_understand_the_same(name, tmp_path):
    trained = validate(compose("train", f"experiment={name}"), "train")
    family, region = problem(f"experiment={name}")
    size = trained["dataset"]["image_size"]
    assert said_of(build_family(trained["transform"], trained["smoothing"], tuple(size))) == said_of(family)
    assert region == build_region(trained["region"], family.transform)
    dataset = name.partition("/")[0]
    assert family.image_size == (SIDE[dataset],) * 2
    assert trained["dataset"]["name"] == dataset
    assert trained["dataset"]["subset"] == (None if dataset == "digits" else 500)
    # Typed for certify, they replace the laws and the region of a checkpoint of another row.
    stored = other_row()
    (tmp_path / "best.ckpt").touch()
    typed = compose("certify", f"experiment={name}", f"ckpt={tmp_path / 'best.ckpt'}")
    merged = merge_checkpoint(typed, stored)
    assert said_of(build_family(merged["transform"], merged["smoothing"], family.image_size)) == said_of(family)
    assert build_region(merged["region"], family.transform) == region
    assert (typed.monte_carlo.n0, typed.monte_carlo.n, typed.monte_carlo.alpha) == (200, N, ALPHA)


@pytest.mark.parametrize("row", PAPER)
def test_the_papers_laws_and_regions(row):
    """Those of the transformation's own files, which are compared with Table 1 elsewhere."""
    family, region = problem(f"experiment=imagenet/paper/{row}")
    transform = re.sub("_wide$|_below_one$", "", row)
    ninth = ["region.gamma=[0.5,1]"] if row == "gamma_below_one" else []
    default = problem(f"transform={transform}", "image_size=[224,224]", *ninth)
    assert (said_of(default[0]), default[1]) == (said_of(family), region)
    ours = problem(f"experiment=imagenet/{row}")
    assert ours[1] == region
    assert said_of(ours[0])[0] == said_of(family)[0]
    assert ours[0].laws != family.laws


#: Laws that small images have for themselves.
OWN_LAWS = {f"{dataset}/gaussian_blur_16": {"blur": gs.Exponential(0.15)} for dataset in ("cifar10", "cifar100")}


@pytest.mark.parametrize("row", sorted(ROWS))
def test_regions_of_small_images(row):
    """Laws and regions of ImageNet, but for one law; of shifts the same share, rounded up to whole pixels."""
    theirs, large = problem(f"experiment=imagenet/{row}")
    for dataset in ("cifar10", "cifar100", "digits"):
        family, small = problem(f"experiment={dataset}/{row}")
        assert family.laws == OWN_LAWS.get(f"{dataset}/{row}", theirs.laws)
        scaled = dict(large.intervals)
        for name in family.transform.integer_parameters:
            end = math.ceil(large.intervals[name][1] * SIDE[dataset] / SIDE["imagenet"])
            scaled[name] = (-3, 3) if large.intervals[name] == (-3, 3) else (-end, end)  # the few pixels of row 7 stay
        assert small.intervals == scaled


def test_the_tables_of_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text().replace("−", "-")
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in page.splitlines() if line.startswith("| `")]
    ours = {row[0].strip("`"): row[1:] for row in rows if len(row) == 4}
    theirs = {row[0].strip("`"): row[1:] for row in rows if len(row) == 3}
    assert (set(ours), set(theirs)) == (ROWS, set(PAPER))
    symbols = {"gamma": "γ", "contrast": "c", "brightness": "b", "blur": "r", "tx": "t"}
    for row, (ends, laws, h) in ours.items():
        family, region = problem(f"experiment=imagenet/{row}")
        named = [(name, symbol) for name, symbol in symbols.items() if name in family.laws]
        boxes = [(symbol, region.intervals[name]) for name, symbol in named]
        assert ends == ", ".join(f"{symbol} [{low:g}, {high:g}]" for symbol, (low, high) in boxes)
        assert laws == ", ".join(f"{symbol} {family.laws[name]!r}" for name, symbol in named)
        assert h == wording.ceil(required(f"imagenet/{row}"), 5)
    for row, (h, votes) in theirs.items():
        value = required(f"imagenet/paper/{row}")
        assert (h, int(votes.replace(",", ""))) == (wording.ceil(value, 5), samples_needed(value, ALPHA))


def test_one_parameter_rows():
    region = {row: dict(problem(f"experiment=cifar10/{row}")[1].intervals) for row in ONE_PARAMETER}
    assert region == {
        "brightness": {"brightness": (-0.4, 0.4)},
        "contrast": {"contrast": (0.6, 1.4)},
        "gaussian_blur_4": {"blur": (0, 4)},
        "gaussian_blur_16": {"blur": (0, 16)},
    }


def test_bounds_takes_the_image_size_of_a_data_set():
    shifts = ("transform=translation", "smoothing.tx.scale=15", "region.tx=[-14,14]")
    assert problem(*shifts)[0].image_size is None
    assert problem(*shifts, "dataset=cifar10")[0].image_size == (32, 32)
    assert problem(*shifts, "dataset=cifar10", "image_size=null")[0].image_size is None
    assert problem(*shifts, "dataset=cifar10", "image_size=[8,8]")[0].image_size == (8, 8)
    assert problem(*shifts, "dataset=digits", "dataset.image_size=[9,9]")[0].image_size == (9, 9)


def test_a_sweep_of_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_of(["experiment=digits/gamma,imagenet/paper/translation", "seed=0,1"])
    assert [step.command for step in plan.steps] == ["train", "certify"] * 4
    assert len({step.directory for step in plan.steps if step.command == "train"}) == 4


# Each runs.

FAST_TRAIN = (
    *("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.progress=false"),
    *("model=small_cnn", "dataset.num_workers=0"),
    *("trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "optimizer.batch_size=2", "optimizer.epochs=1"),
)
FAST_CERTIFY = (
    *("trainer.accelerator=cpu", "dataset.subset=2", "bound.methods=[neyman_pearson]"),
    *("monte_carlo.n0=1", "monte_carlo.n=3"),
    *("batch_size=4", "channels_last=false", "compile=false", "threads=1"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, list[str]]:
    """What is typed for each data set: for CIFAR-10 and ImageNet the folder of a few random images."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 2), ("test", 1), ("val", 1)):
        for number in range(10):
            folder = root / split / f"class {number}"
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    there = [f"dataset.root={root}", "dataset.val_fraction=0.5"]
    return {"digits": [], "cifar10": there, "cifar100": there, "imagenet": there}


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    """In place of the small one."""

    def build(channels, classes):
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, classes))

    monkeypatch.setitem(models.BUILTIN, "small_cnn", build)


@pytest.fixture
def words_alone(monkeypatch):
    """The report without its pictures, which take seconds."""

    def report(directory, family, dataset_root, **_):
        run = load_run(directory, family=family, dataset_root=dataset_root)
        write_text(directory / "table.md", tables.run_table(run, run.region, run.outcomes))

    monkeypatch.setattr(certify, "write_report", report)
    monkeypatch.setattr(certify, "save_draws", lambda *_: None)


def run(command, directory: Path, *overrides):
    directory.mkdir(exist_ok=True)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        command.run(hydra.compose(command.__name__.rpartition(".")[2], [*overrides, f"run_dir={directory}"]))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_trains_and_certifies(name, data, words_alone, tmp_path, capsys):
    run(train, tmp_path / "train", f"experiment={name}", *data[name.partition("/")[0]], *FAST_TRAIN)
    checkpoint = f"ckpt={tmp_path / 'train' / 'best.ckpt'}"
    run(certify, tmp_path / "certify", checkpoint, *FAST_CERTIFY)
    said, table = capsys.readouterr().err, (tmp_path / "certify" / "table.md").read_text()
    h = required(name)
    needed = samples_needed(h, ALPHA)
    # What could be certified with how many votes is said before the first, and where none was certified.
    assert f"at least {needed} votes: n = 3 can never certify; set monte_carlo.n={needed} or more" in said
    assert f"h_min = {wording.ceil(h, 5)} needs at least {needed} unanimous votes an image, and at most 3" in table
    assert f"| {wording.ceil(h, 5)} | 0 | 0 | 0.0 % |" in table


@pytest.mark.parametrize("name", BASES)
def test_a_row_starts_from_a_base_network(name, data, tmp_path, capsys):
    """By its own recipe, but for the size of what is trained."""
    dataset = name.partition("_")[0]
    composed = compose("train", f"experiment={name}")
    assert (composed.dataset.name, composed.model.name, composed.loss.transformed) == (dataset, "cifar_fast", False)
    run(train, tmp_path / "base", f"experiment={name}", *data[dataset], *FAST_TRAIN)
    start = (f"ckpt={tmp_path / 'base' / 'best.ckpt'}", "optimizer=fine_tune", f"experiment={dataset}/gamma")
    fast = [override for override in FAST_TRAIN if not override.startswith("model=")]
    run(train, tmp_path / "row", *start, *data[dataset], *fast)
    assert "Starting from the small_cnn of" in capsys.readouterr().err
    assert composed.dataset.val_fraction == compose("train", start[2]).dataset.val_fraction  # the same images held out


@pytest.mark.parametrize(("row", "needed"), [("brightness_translation", 1593), ("contrast_translation", 7155)])
def test_a_dry_run_says_which_n_can(row, needed, data, tmp_path, capsys):
    run(train, tmp_path / "train", f"experiment=imagenet/paper/{row}", *data["imagenet"], *FAST_TRAIN)
    fast = [override for override in FAST_CERTIFY if not override.startswith("monte_carlo")]
    checkpoint = f"ckpt={tmp_path / 'train' / 'best.ckpt'}"
    run(certify, tmp_path / "certify", checkpoint, *fast, "dry_run=true")
    said = capsys.readouterr()
    assert f"at least {needed} votes: n = 1000 can never certify; set monte_carlo.n={needed} or more" in said.err
    assert "Nothing was started" in said.out


def test_how_many_images_the_experiment_says(data, tmp_path, capsys):
    """The checkpoint has it for certify."""
    typed = [*data["cifar10"], "dataset.subset=3"]
    run(train, tmp_path / "train", "experiment=cifar10/gamma", *typed, *FAST_TRAIN)
    fast = [override for override in FAST_CERTIFY if not override.startswith("dataset.subset")]
    checkpoint = f"ckpt={tmp_path / 'train' / 'best.ckpt'}"
    run(certify, tmp_path / "certify", checkpoint, *fast, "dry_run=true")
    assert re.search(r"Images: +3\n", capsys.readouterr().out)
