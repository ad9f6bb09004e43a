"""The advise command: laws for a region from a few votes on validation images, and lines that can be typed."""

import json
import shlex

import numpy as np
import pytest
import torch

from glsmooth.commands import advise
from glsmooth.configuration.build import build_law
from glsmooth.configuration.settings import validate
from glsmooth.learning.checkpoint import KEY, load_checkpoint
from glsmooth.learning.data import Data, TensorImages, load_dataset
from glsmooth.voting.engine import VoteEngine
from glsmooth.voting.expectation import Expectation
from tests.configuration.test_config import compose

pytestmark = pytest.mark.usefixtures("elsewhere")

SETTLED = ("batch_size=64", "channels_last=false", "compile=false", "threads=1")
FEW = ("trial.images=12", "trial.votes=20", "trial.scales=3", "monte_carlo.n=100", *SETTLED)
#: Out of reach of the checkpoint's own law with 100 votes, and not of wider ones.
WIDE = "region.contrast=[0.6,1.6]"


@pytest.fixture
def told(call, elsewhere):
    """``told(ckpt, arguments…)`` runs advise; returns advise.json, what was printed, and all that was written."""

    def told_(ckpt, *arguments):
        status, printed = call("advise", f"ckpt={ckpt}", *FEW, *arguments)
        assert status == 0, printed.err
        (directory,) = (path.parent for path in elsewhere.glob("outputs/advise/*/advise.json"))
        text = "".join(path.read_text() for path in sorted(directory.iterdir()) if path.suffix != ".png")
        return json.loads((directory / "advise.json").read_text()), printed, text

    return told_


@pytest.fixture
def refused(call):
    """``refused(ckpt, arguments…)``: the one line that says why advise does not run."""

    def refused_(ckpt, *arguments):
        status, printed = call("advise", f"ckpt={ckpt}", *FEW, *arguments)
        assert status == 2
        assert "Traceback" not in printed.err
        return printed.err.rstrip().splitlines()[-1]

    return refused_


@pytest.fixture
def changed(untrained, tmp_path):
    """``changed(**parts)``: the untrained checkpoint, which says other things of itself, or always says one thing."""

    def changed_(constant=False, **parts):
        content = torch.load(untrained[0], weights_only=True)
        if constant:
            (head,) = [tensor for tensor in content["state_dict"].values() if tensor.ndim == 2]
            head.zero_()
        content[KEY] |= parts
        torch.save(content, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return changed_


def laws(trial):
    return {name: build_law(law) for name, law in trial["smoothing"].items()}


def test_it_tries_every_law_and_says_what_it_found(told, untrained, elsewhere, rendering):
    found, printed, written = told(untrained[0], WIDE)
    trials = found["trials"]
    assert {next(iter(laws(trial).values())).__class__.__name__ for trial in trials} == {
        *("LogNormal", "Rayleigh", "Exponential", "HalfNormal", "Uniform")
    }
    assert [trial["trained"] for trial in trials].index(True) == found["trained"]
    best = trials[found["best"]]
    assert best["expected_cra"] == max(trial["expected_cra"] for trial in trials)
    for trial in trials:
        reached = trial["votes_needed"] is not None
        assert reached == (trial["votes_for_true_class"] is not None)
        if not reached:
            assert (trial["expected_cra"], trial["interval"], trial["smoothed_accuracy"]) == (0, [0, 0], None)
            continue
        counts = np.array(trial["votes_for_true_class"])
        assert (len(counts), counts.max() <= 20, counts.min() >= 0) == (12, True, True)
        expectation = Expectation(trial["votes_needed"], 200, 100, 20)
        assert trial["expected_cra"] == expectation.estimate(counts)
        within_reach = sum(one["votes_needed"] is not None for one in trials)
        assert trial["interval"] == list(expectation.interval(counts, 0.05 / within_reach))
        assert 0 <= trial["interval"][0] <= trial["interval"][1] <= 1
    assert not trials[found["trained"]]["votes_for_true_class"]  # out of reach, and no vote was spent on it
    assert "Under its own law the region is out of reach of the planned votes" in printed.out
    assert "an estimate to choose a law by, not a certificate" in printed.out
    assert "Its estimate flatters: it is the largest of many" in written
    for line in (found["certify"], found["train"]):
        assert line in printed.out
    assert (elsewhere / "outputs" / "advise").is_dir()
    assert "certified" not in (printed.out + printed.err + written).lower()


def test_the_line_for_certify_certifies_under_the_law(told, untrained, call, elsewhere):
    found, *_ = told(untrained[0], WIDE)
    program, command, *arguments = shlex.split(found["certify"])
    assert (program, command) == ("glsmooth", "certify")
    status, printed = call(
        command, *arguments, "dataset.subset=2", "hydra.run.dir=run", "bound.methods=[neyman_pearson]"
    )
    assert status == 0, printed.err
    summary = json.loads((elsewhere / "run" / "summary.json").read_text())
    best = found["trials"][found["best"]]
    assert {name: build_law(law) for name, law in summary["smoothing"].items()} == laws(best)
    assert summary["region"] == found["region"]
    assert summary["methods"]["neyman_pearson"]["required_probability"] == best["h_min"]
    assert summary["monte_carlo"]["n"] == 100


def test_the_line_for_train_trains_the_same_under_the_law(told, changed, untrained, call, elsewhere):
    content = torch.load(untrained[0], weights_only=True)[KEY]
    ckpt = changed(
        loss=content["loss"] | {"consistency": 3.5},
        optimizer={"lr": 0.02, "epochs": 7},
        seed=4,
        dataset=content["dataset"] | {"crop_padding": 0},
    )
    found, *_ = told(ckpt, WIDE)
    program, command, *arguments = shlex.split(found["train"])
    assert (program, command) == ("glsmooth", "train")
    settings = validate(compose("train", *arguments), "train")
    assert {name: build_law(law) for name, law in settings["smoothing"].items()} == laws(found["trials"][found["best"]])
    assert settings["region"] == found["region"]
    # What the checkpoint does not say came later, and is as it was then.
    loss = {name: value for name, value in settings["loss"].items() if name != "_target_"}
    assert loss == {"label_smoothing": 0.0, "transformed": True} | content["loss"] | {"consistency": 3.5}
    assert (settings["optimizer"]["lr"], settings["optimizer"]["epochs"], settings["seed"]) == (0.02, 7, 4)
    assert (settings["dataset"]["crop_padding"], settings["dataset"]["name"]) == (0, "digits")
    few = ("trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "optimizer.epochs=1", "hydra.run.dir=new")
    status, printed = call("train", *arguments, *few)
    assert status == 0, printed.err
    assert load_checkpoint(elsewhere / "new" / "best.ckpt").smoothing.keys() == {"contrast"}


def test_votes_are_taken_of_validation_images_alone(told, untrained, monkeypatch):
    seen = {}
    add = VoteEngine.add

    def spy(self, index, image):
        seen.setdefault(index, image.clone())
        add(self, index, image)

    data = load_dataset({"name": "digits"})
    val, test = ({bytes(images[i][0].numpy()) for i in range(len(images))} for images in (data.val, data.test))
    assert not val & test
    monkeypatch.setattr(VoteEngine, "add", spy)
    monkeypatch.setattr(Data, "test", property(lambda _: pytest.fail("test images were read")))
    told(untrained[0], WIDE)
    assert len(seen) == 12
    assert {bytes(image.numpy()) for image in seen.values()} <= val
    # Their draws are not those of any certificate: the law that is chosen depends on them.
    assert min(seen) >= advise.FIRST_INDEX > 2**62


def test_the_split_is_that_of_the_training(refused, untrained):
    for setting in ("val_fraction=0.2", "test_fraction=0.1", "split_seed=3", "name=mnist"):
        error = refused(untrained[0], f"dataset.{setting}")
        assert error.startswith(f"dataset.{setting}: the network was trained with ")
        assert "test images" in error
    assert "trial.images=5" in refused(untrained[0], "dataset.subset=5")


def test_it_takes_the_validation_images_that_there_are(told, untrained, monkeypatch):
    few = load_dataset({"name": "digits"}).val[list(range(5))]
    monkeypatch.setattr(Data, "val", property(lambda _: TensorImages((few[0] * 255).byte(), few[1])))
    found, printed, _ = told(untrained[0], WIDE)
    assert found["images"] == 5
    assert "digits has 5 validation images: all of them are used" in printed.err


def test_a_seed_chooses_the_images():
    data = load_dataset({"name": "digits"})
    first = [position for position, *_ in advise.validation_images(data, 12, 0)]
    assert first == sorted(set(first)) == [position for position, *_ in advise.validation_images(data, 12, 0)]
    assert first != [position for position, *_ in advise.validation_images(data, 12, 1)]
    assert all(label == data.val[position][1] for position, _, label in advise.validation_images(data, 12, 0))


def test_the_same_command_says_the_same(told, untrained):
    first, *_ = told(untrained[0], WIDE)
    assert told(untrained[0], WIDE)[0] == first


def test_a_network_whose_own_law_is_best(told, changed):
    """It has one answer for all images, whatever the law: none that is tried is better."""
    found, printed, _ = told(changed(constant=True), "region.contrast=[0.95,1.05]")
    assert found["best"] == found["trained"]
    assert found["gain_over_trained"] is None
    assert "is expected to do better for this network than its own" in printed.out
    assert "smoothing" not in found["certify"]


def test_a_region_without_a_transformation(told, untrained):
    found, printed, _ = told(untrained[0], "region.contrast=[1,1]")
    assert {trial["h_min"] for trial in found["trials"]} == {0.5}
    assert "The region holds no transformation but the identity" in printed.out


def test_translations_on_the_torus(told, changed, call, elsewhere):
    shift = {"law": "Normal", "loc": 0.0, "scale": 1.5}
    ckpt = changed(
        transform={"_target_": "glsmooth.transforms.Translation"},
        smoothing={"tx": shift, "ty": shift},
        region={"tx": [-1.0, 1.0], "ty": [-1.0, 1.0]},
    )
    found, *_ = told(ckpt, "region.tx=[-9,9]")
    assert {law["law"] for trial in found["trials"] for law in trial["smoothing"].values()} == {
        *("Normal", "Laplace", "Uniform", "UniformCyclic")
    }
    assert found["region"] == {"tx": [-9, 9], "ty": [-9, 9]}
    best = found["trials"][found["best"]]
    assert best["h_min"] < 0.9
    for command in ("certify", "train"):
        settings = compose(command, *shlex.split(found[command])[2:])
        for name, law in laws(best).items():
            assert build_law(settings.smoothing[name]) == law
    assert call("certify", *shlex.split(found["certify"])[2:], "dataset.subset=1", "hydra.run.dir=run")[0] == 0


OWN = """
import glsmooth as gs


class Tint(gs.ResolvableTransform):
    name = "tint"
    factors = (gs.transforms.Shift("tint"),)

    def apply(self, images, theta):
        return images + theta[:, 0].to(images)[:, None, None, None]


class Clamped(Tint):
    def apply(self, images, theta):
        return super().apply(images, theta).clamp(0, 1)
"""


def test_a_transformation_of_ones_own(told, refused, changed, call, elsewhere, rendering):
    (elsewhere / "my_tint.py").write_text(OWN)
    laws_and_region = {
        "smoothing": {"tint": {"law": "Normal", "loc": 0.0, "scale": 0.1}},
        "region": {"tint": [-0.1, 0.1]},
    }
    ckpt = changed(transform={"_target_": "my_tint.Tint"}, **laws_and_region)
    assert "type transform._target_=my_tint.Tint" in refused(ckpt)
    found, *_ = told(ckpt, "transform._target_=my_tint.Tint", "+region.tint=[-0.3,0.3]")
    best = found["trials"][found["best"]]
    assert not best["trained"]
    settings = validate(compose("train", *shlex.split(found["train"])[2:]), "train")
    assert {name: build_law(law) for name, law in settings["smoothing"].items()} == laws(best)
    assert settings["region"] == {"tint": [-0.3, 0.3]}
    status, printed = call("certify", *shlex.split(found["certify"])[2:], "dataset.subset=1", "hydra.run.dir=run")
    assert status == 0, printed.err

    ckpt = changed(transform={"_target_": "my_tint.Clamped"}, **laws_and_region)
    error = refused(ckpt, "transform._target_=my_tint.Clamped")
    assert "Clamped is not resolvable as it says" in error
    assert "approximate=true" not in error


def test_what_a_stranger_wrote_is_one_word_of_the_line(told, changed, untrained, rendering):
    model = torch.load(untrained[0], weights_only=True)[KEY]["model"]
    found, printed, written = told(changed(model=model | {"weights": "w'; echo \"no\x1b[31m\n"}))
    words = shlex.split(found["train"])
    assert [word for word in words if "echo" in word] == [word for word in words if word.startswith("model.weights=")]
    assert "\x1b" not in printed.out + printed.err + written
    assert found["train"] in printed.out.splitlines()[-3].strip()


REFUSALS = [
    (["region.contrast=[0.5,-1]"], "inverted"),
    (["region.contrast=[-1,2]"], "region.contrast=[-1.0, 2.0] leaves the domain of contrast"),
    (["region.brightness=[0,1]"], "region.brightness=[0, 1] is stray"),
    (["region.contrast=[0.5,2]", "monte_carlo.n=10"], "set monte_carlo.n=1"),
    (["region.contrast=[0.001,1000]", "monte_carlo.n=10"], "is out of reach of all"),
    (["trial.votes=5"], "trial.votes=5 must be a whole number, at least 20"),
    (["trial.vote=50"], "did you mean 'trial.votes'?"),
    (["monte_carlo=sequential"], "monte_carlo=sequential: advise plans with a fixed number of votes"),
    (["monte_carlo.randomised=true"], "use monte_carlo=paper"),
    (["+smoothing.contrast.scale=0.5"], "smoothing: advise varies the laws itself"),
    (["transform=brightness"], "the network was trained for glsmooth.transforms.Contrast"),
    (["trainer.accelerator=tpu"], "trainer.accelerator=tpu: advise votes on cpu or gpu"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSALS, ids=[" ".join(arguments) for arguments, _ in REFUSALS])
def test_mistakes_name_the_field_and_the_fix(refused, untrained, elsewhere, arguments, said):
    error = refused(untrained[0], *arguments)
    assert said in error
    assert not list(elsewhere.glob("outputs/advise/*/report.html"))
