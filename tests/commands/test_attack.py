"""The attack command: from a certification to its report, on a few digits; what stops it, and what is refused."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from glsmooth.attacks import core
from glsmooth.commands import attack, certify
from glsmooth.learning.checkpoint import KEY, make_payload
from glsmooth.learning.data import load_dataset
from glsmooth.learning.models import build_model
from glsmooth.learning.stopping import Stopped
from glsmooth.runs.attacks import read_findings
from glsmooth.runs.records import read_records
from tests.wandb_file import told

pytestmark = pytest.mark.usefixtures("elsewhere")

SETTLED = ("batch_size=64", "channels_last=false", "compile=false", "threads=1")
CERTIFY = (*SETTLED, "dataset.subset=12", "monte_carlo.n=300", "monte_carlo.n0=50")
QUICK = (*SETTLED, "attack.images=6", "attack.passes=200", "attack.draws=4", "attack.votes=100", "attack.tries=2")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A network for digits that sees brightness alone: class 0 where the image is dark on average, else class 1."""
    data = load_dataset({"name": "digits", "image_size": [8, 8]})
    settings = {
        "transform": {"_target_": "glsmooth.transforms.Brightness"},
        "smoothing": {"brightness": {"law": "Normal", "loc": 0.0, "scale": 0.3}},
        "region": {"brightness": [-0.05, 0.05]},
        "dataset": {
            "name": "digits", "root": None, "image_size": [8, 8], "num_workers": 0, "subset": None,
            "subset_seed": 0,
        },
        "model": {"name": "small_cnn", "pretrained": None, "weights": None},
        "loss": {"copies": 2, "consistency": 0.0, "entropy": 0.0, "pixel_noise": 0.0},
        "optimizer": {},
        "trainer": {"precision": "32-true"},
        "seed": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    model = build_model(settings["model"], 10, 1, data.mean, data.std, data.image_size).eval()
    images = torch.stack([data.test[i][0] for i in range(20)])
    with torch.no_grad():
        (head,) = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
        seen = []
        head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for shift in (0.0, 0.6):
            model(images + shift)
        way = seen[1].mean(0) - seen[0].mean(0)
        # Half-way to a shift of 0.27: h(0) is about 0.82.
        middle = seen[0].mean(0) @ way + 0.45 * (way @ way)
        head.weight.zero_(), head.bias.fill_(-1e4)
        head.weight[0], head.bias[0] = -way, middle
        head.weight[1], head.bias[1] = way, -middle
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    path = tmp_path_factory.mktemp("train") / "best.ckpt"
    torch.save({"state_dict": state, KEY: {**make_payload(settings, data), "metrics": {}}}, path)
    return path


@pytest.fixture(scope="module")
def certification(trained, tmp_path_factory):
    """A folder with a certification of 12 images in its usual place."""
    folder = tmp_path_factory.mktemp("certified")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["certify", f"ckpt={trained}", *CERTIFY])
        certify.main()
    return folder


@pytest.fixture
def certified(certification, elsewhere):
    """The same below the working directory; its path."""
    shutil.copytree(certification / "outputs", elsewhere / "outputs")
    (directory,) = {path.parent for path in Path("outputs/certify").glob("*/summary.json")}
    return directory


def attacked(call, *arguments, status=0):
    found, printed = call("attack", *QUICK, *arguments)
    assert found == status, printed.err
    assert "Traceback" not in printed.err
    directories = {path.parent for path in Path("outputs/attack").glob("*/attacks.csv")}
    return max(directories, key=lambda path: path.stat().st_mtime) if directories else None, printed


def rows(directory):
    with (directory / "attacks.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_is_attacked_and_told_of(call, certified, rendering):
    directory, printed = attacked(call, f"run={certified}")
    records = read_records(certified)
    known = {int(index): i for i, index in enumerate(records["index"])}
    found = rows(directory)
    assert len(found) == 6
    for one in found:
        i = known[int(one["index"])]
        assert int(one["label"]) == records["label"][i]
        assert int(one["prediction"]) == records["prediction"][i]
        assert int(one["certified"]) == records["certified_neyman_pearson"][i]
        assert abs(float(one["worst_brightness"])) <= 0.05 or one["n"] == "0"
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["command"] == "attack"
    assert summary["images"] == 6
    assert summary["false_certificates"] == 0
    assert summary["run"] == str(certified)
    assert set(summary["outside"]) == {"clipped", "rounded", "jpeg"}
    table = (directory / "table.md").read_text()
    assert re.search(r"None of the \d certified images is broken", table)
    assert "outside the theorem" in table
    assert table in printed.out
    page = (directory / "report.html").read_text()
    assert "What the assumptions cost" in page
    assert (directory / "gap.png").is_file() == any(one["certified_size"] != "nan" for one in found)
    findings = read_findings(directory, ["brightness"], ["clipped", "rounded", "jpeg"])
    assert [one.index for one in findings] == [int(one["index"]) for one in found]
    assert np.allclose([one.gap for one in findings], [float(one["gap"]) for one in found], equal_nan=True)


def test_a_comparison_finds_the_attack_beside_the_run(call, certified):
    directory, _ = attacked(call, f"run={certified}", "attack.outside=false", "attack.reach=0")
    era = json.loads((directory / "summary.json").read_text())["empirical_robust_accuracy"]
    shutil.copytree(certified, certified.parent / "copy")
    status, printed = call("report", str(certified), str(certified.parent / "copy"), "format=json")
    assert status == 0, printed.err
    found = json.loads(printed.out)
    assert [one["attacked"] for one in found] == [6, 6]
    assert [one["era"] for one in found] == [era, era]


def test_the_usual_run_is_found_and_only_that(call, certified, trained):
    words = [f"ckpt={trained}", *CERTIFY[len(SETTLED) :]]
    _, printed = attacked(call, *words)
    assert f"certified in {certified}" in printed.err
    directory, printed = attacked(call, *words, "region.brightness=[-0.04,0.04]")
    assert "No certificates are tested: outputs/certify/" in printed.err
    assert json.loads((directory / "summary.json").read_text())["certified_robust_accuracy"] is None
    assert "No certificates were tested" in printed.out


def test_an_image_that_is_named_could_have_been_any_of_the_run(call, certified):
    index = int(read_records(certified)["index"][3])
    for words, images in (((), 6), ((f"attack.index={index}",), 12)):
        directory, _ = attacked(
            call,
            f"run={certified}",
            *words,
            "attack.outside=false",
            "attack.reach=0",
            f"hydra.run.dir=outputs/attack/of_{images}",
        )
        assert json.loads((directory / "summary.json").read_text())["images_of_chance"] == images
    assert [int(one["index"]) for one in rows(directory)] == [index]


def test_another_region_is_decided_by_the_runs_votes(call, certified):
    directory, _ = attacked(call, f"run={certified}", "region.brightness=[-0.01,0.02]", "attack.outside=false")
    tried = [float(one["worst_brightness"]) for one in rows(directory) if one["n"] != "0"]
    assert tried
    assert all(-0.01 <= value <= 0.02 for value in tried)
    assert json.loads((directory / "summary.json").read_text())["region"] == {"brightness": [-0.01, 0.02]}


def test_an_attack_that_was_stopped_goes_on_to_the_same_rows(call, certified, monkeypatch):
    short = (*QUICK, "attack.outside=false", "attack.reach=0", f"run={certified}")
    whole, _ = attacked(call, *short, "hydra.run.dir=outputs/attack/whole")
    monkeypatch.setattr(attack, "BLOCK", 2)
    real, blocks = core.Attacker.run, []

    def run(self, items):
        if blocks and blocks[-1] == "stop":
            raise Stopped(15)
        blocks.append(len(items) if len(blocks) < 1 else "stop")
        return real(self, items)

    with monkeypatch.context() as patch:
        patch.setattr(core.Attacker, "run", run)
        patch.setattr("sys.argv", ["attack", *short])
        with pytest.raises((Stopped, SystemExit)):
            attack.main()
    (directory,) = {path.parent for path in Path("outputs/attack").glob("*/attacks.csv")} - {whole}
    assert len(rows(directory)) == 4
    _, printed = call("attack", *short)
    assert "Resuming: 4 images are recorded already" in printed.err
    assert rows(directory) == rows(whole)
    # Finished: no image is attacked again.
    monkeypatch.setattr(core.Attacker, "run", None)
    assert call("attack", *short)[0] == 0


def test_minutes_end_it_between_blocks(call, certified, monkeypatch):
    monkeypatch.setattr(attack, "BLOCK", 2)
    clock = iter(range(0, 10**6, 40))
    monkeypatch.setattr(attack.time, "monotonic", lambda: next(clock))
    # One block is done in any case, or what comes before it could use up the time of each start.
    directory, printed = attacked(call, f"run={certified}", "attack.minutes=0.1")
    assert len(rows(directory)) == 2
    assert "2 of 6 images were attacked in 0.1 minutes; the same command goes on from here" in printed.err
    directory, printed = attacked(call, f"run={certified}", "attack.minutes=100")
    assert len(rows(directory)) == 6


#: The procedure as printed certifies h(0) of about 0.8 for |b| <= 0.4; half of the votes are lost there.
PRINTED = (
    "region.brightness=[-0.4,0.4]",
    "bound.methods=[gl_printed]",
    "attack.votes=1000",
    "attack.outside=false",
    "attack.images=2",
)


def test_a_false_certificate_stops_it_and_can_be_seen_again(call, certified):
    _, printed = attacked(call, f"run={certified}", *PRINTED, status=2)
    last = printed.err.rstrip().splitlines()[-1].strip()
    assert re.search(
        r"image \d+ is certified for class \d, and is broken: at brightness = 0.4 only \d+ of 1000", printed.err
    )
    assert "fresh votes at the identity certify it again" in printed.err
    assert "unsound" in printed.out
    assert re.search(r"\d of the \d images that GL as printed claims are broken, and not by chance", printed.out)
    assert re.search(r"^\| smoothed \|.*\| – \|$", printed.out, re.M)  # no CRA
    # Again: no image is attacked once more, and the mistake is told of again.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.Attacker, "run", None)
        assert call("attack", *QUICK, f"run={certified}", *PRINTED)[0] == 2
    assert last.startswith("glsmooth attack ")
    words = shlex.split(last)[2:]
    status, again = call("attack", *words)
    assert status == 2
    (at,) = (word for word in words if word.startswith("attack.index="))
    assert f"image {at.partition('=')[2]} is certified" in again.err
    # The sound bound certifies nothing there, and says so.
    _, printed = attacked(call, f"run={certified}", *PRINTED, "bound.methods=[neyman_pearson]", status=2)
    assert "is certified by neyman_pearson for this region" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attack.pases=3"], "attack.pases=3 is not a field of attack; did you mean 'attack.passes'?"),
        (["attack.passes=0"], "attack.passes=0 must be a whole number, at least 1"),
        (["attack.delta=2"], "attack.delta=2 must be a number between 0 and 1"),
        (["bound.methods=[gl,tss]"], "must be a list of one method"),
        (["run=nowhere"], "run='nowhere' is not a directory"),
        (["run=."], "has no records.csv; give the directory of a certification"),
        (["ckpt=nowhere.ckpt"], "ckpt='nowhere.ckpt' is not a file"),
        (["region.contrast=[0.5,2]"], "region.contrast"),
        (["region.brightness=[0.4,-0.4]"], "region.brightness=[0.4, -0.4] is inverted"),
        (["region.brightness=[-1e12,0]"], "too extreme"),
        (["attack.index=100000"], "attack.index=100000 is not one of the"),
        (["attack.at={brightness:0.4}"], "is not in the region"),
        (["attack.at={contrast:1}"], "'contrast' is not a parameter of brightness"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_named(call, trained, arguments, message):
    ckpt = [] if arguments[0].startswith(("run=", "ckpt=")) else [f"ckpt={trained}"]
    status, printed = call("attack", *QUICK, *ckpt, *arguments)
    assert status == 2
    assert "Traceback" not in printed.err
    assert message in printed.err


def test_nothing_to_attack_is_named(call):
    status, printed = call("attack")
    assert status == 2
    assert "ckpt is missing" in printed.err
    assert "run=outputs/certify/ID" in printed.err


def test_a_run_of_another_network_is_refused(call, certified, untrained, trained):
    _, printed = attacked(call, f"run={certified}", f"ckpt={untrained[0]}", "dataset=digits", status=2)
    assert f"run={certified}: its certificates are of something else" in printed.err
    _, printed = attacked(call, f"run={certified}", "smoothing.brightness.scale=0.4", status=2)
    assert "smoothing.brightness.scale=0.4, that run has smoothing.brightness.scale=0.3" in printed.err
    trained.rename(trained.with_name("moved.ckpt"))
    try:
        _, printed = attacked(call, f"run={certified}", status=2)
        assert "best.ckpt, which is not here; type ckpt=PATH" in printed.err
        attacked(call, f"run={certified}", f"ckpt={trained.with_name('moved.ckpt')}", "attack.images=2")
    finally:
        trained.with_name("moved.ckpt").rename(trained)


def test_it_needs_no_run(call, trained):
    directory, printed = attacked(call, f"ckpt={trained}", "attack.images=3", "attack.reach=0")
    assert len(rows(directory)) == 3
    assert {one["certified"] for one in rows(directory)} == {"0"}
    assert {one["broken_size"] for one in rows(directory)} == {"nan"}
    assert "No certificates were tested" in printed.out


def test_wandb_has_the_numbers_the_table_and_the_picture(call, certified, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_DATA_DIR": str(tmp_path / "data"),
    }.items():
        monkeypatch.setenv(name, value)
    directory, _ = attacked(call, f"run={certified}", "attack.images=2", "logger=wandb")
    (one,) = told(directory)
    assert one.run.job_type == "attack"
    summary = json.loads((directory / "summary.json").read_text())
    share = summary["empirical_robust_accuracy"]
    assert one.summary["attack/empirical_robust_accuracy"] == share
    assert "attack/outside/clipped" in one.summary or not summary["certified"]
    assert any("tables/attack" in point for point in one.history)
    assert any("pictures/gap" in point for point in one.history) == (directory / "gap.png").is_file()
