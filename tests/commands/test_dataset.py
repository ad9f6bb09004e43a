"""certify_dataset: the run of the command, from Python, with anybody's network, data and family."""

import csv
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import glsmooth as gs
from glsmooth.commands import dataset
from glsmooth.configuration.build import build_family, family_config
from glsmooth.errors import UserError
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning import certification
from glsmooth.learning.checkpoint import load_checkpoint
from glsmooth.learning.data import certification_images, load_dataset
from glsmooth.report import page, wording
from glsmooth.runs.run import load_run
from glsmooth.transforms import BUILTIN
from tests.bounds.test_own_laws import Laplace

IMAGES = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
FAMILY = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 0.3)})
REGION = gs.Box(brightness=(-0.02, 0.02))
DRAWS = {"n0": 10, "n": 60}
SETTLED = {"batch_size": 32, "compile": False, "channels_last": False, "threads": 1}


class Tint(gs.ResolvableTransform):
    name = "tint"
    factors = (gs.transforms.Shift("tint"),)

    def __init__(self, strength=1.0):
        self._strength = strength  # by another name, where nobody can read it back

    def apply(self, images, theta):
        pattern = self._strength * torch.linspace(-1, 1, images.shape[-1], dtype=images.dtype, device=images.device)
        return images + theta[:, 0].to(images)[:, None, None, None] * pattern


class Wide(gs.transforms.Brightness):
    """A transformation that its module and its name say all about."""

    name = "wide"


def network(seed=2, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)).to(dtype)


def smoothed(model=None, family=FAMILY, classes=4):
    return gs.SmoothedClassifier(network() if model is None else model, family, classes, **SETTLED)


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures take seconds, and are the same as the command's."""

    def tables_only(run, out, region, outcomes, note="", drawn=None):
        (out / "table.md").write_text("")
        drawn.run = run

    monkeypatch.setattr(page, "write_run_report", tables_only)


def certify(directory, data=(IMAGES, LABELS), classifier=None, region=REGION, **options):
    classifier = smoothed() if classifier is None else classifier
    options = {"progress": False, **DRAWS, **options}
    return gs.certify_dataset(classifier, data, region, directory=directory, **options)


def rows_of(directory):
    with (directory / "records.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_records_are_the_certificates_of_certify_many(no_pictures, tmp_path):
    run = certify(tmp_path, seed=7)
    certificates = smoothed().certify_many(IMAGES, REGION, seed=7, **DRAWS)
    assert run.columns["index"].tolist() == list(range(8))
    assert run.columns["label"].tolist() == LABELS.tolist()
    for name, attribute in (("prediction", "prediction"), ("count", "count"), ("n", "n"), ("near_ties", "near_ties")):
        assert run.columns[name].tolist() == [getattr(certificate, attribute) for certificate in certificates]
    assert run.p_lower.tolist() == [certificate.p_lower for certificate in certificates]
    assert run.columns["certified_neyman_pearson"].tolist() == [certificate.certified for certificate in certificates]
    assert 0 < run.columns["certified_neyman_pearson"].sum() < 8
    base = smoothed().classifier.network(IMAGES).argmax(dim=1)
    assert run.columns["base_prediction"].tolist() == base.tolist()
    assert (run.summary.seed, run.summary.model, run.name) == (7, {"name": "Sequential"}, "images")


@pytest.mark.parametrize("sequential", [False, True])
def test_records_are_those_of_the_command(no_pictures, untrained, call, elsewhere, sequential):
    checkpoint = load_checkpoint(untrained[0])
    settled = (f"{key}={str(value).lower()}" for key, value in SETTLED.items())
    procedure = "sequential" if sequential else "paper"
    typed = (f"monte_carlo={procedure}", "monte_carlo.n0=10", "monte_carlo.n=60", "seed=3", "dataset.subset=5")
    status, streams = call(
        "certify", f"ckpt={untrained[0]}", *typed, *settled, "hydra.run.dir=command", "trainer.accelerator=cpu"
    )
    assert status == 0, streams.err
    images = certification_images(load_dataset({"name": "digits"}), 5, 0)
    run = certify(
        elsewhere / "python",
        images,
        smoothed(checkpoint.build_model(), checkpoint.build_family(), 10),
        gs.Box(contrast=(0.9, 1.1)),
        seed=3,
        sequential=sequential,
        methods=tuple(load_run(elsewhere / "command").outcomes),
    )
    content = (elsewhere / "command" / "records.csv").read_bytes()
    assert (elsewhere / "python" / "records.csv").read_bytes() == content
    assert run.columns["index"].tolist() == images.indices


def test_a_run_from_data_to_report_and_to_another_region(call, elsewhere):
    family = gs.SmoothedFamily(
        gs.transforms.ContrastBrightness("brightness_first"),
        {"contrast": gs.LogNormal(0.0, 0.4), "brightness": gs.Normal(0.0, 0.3)},
    )
    region = gs.Box(contrast=(0.99, 1.01), brightness=(-0.01, 0.01))
    run = certify(
        elsewhere / "run", classifier=smoothed(family=family), region=region, classes=["cat", "dog", "owl", "elk"],
        name="animals",
    )  # fmt: skip
    written = {path.name for path in (elsewhere / "run").iterdir()}
    assert {"config.yaml", "figure1.npz", "identity.json", "images.json", "records.csv"} <= written
    assert {"report.html", "summary.json", "table.md", "procedure.png", "gallery.png"} <= written
    assert "animals" in (elsewhere / "run" / "table.md").read_text()
    assert set(run.outcomes) == {"neyman_pearson", "gl", "tss", "mp"}
    assert run.class_name(3) == "elk"
    summary = json.loads((elsewhere / "run" / "summary.json").read_text())
    assert summary["transform"] == {"_target_": "glsmooth.transforms.ContrastBrightness", "order": "brightness_first"}

    wider = {"contrast": [0.5, 2.0], "brightness": [-0.5, 0.5]}
    status, streams = call(
        "report", "runs=[run]", *(f"region.{key}={value}" for key, value in wider.items()), "hydra.run.dir=wider"
    )
    assert status == 0, streams.err
    h_min = gs.required_probability(family, gs.Box(**wider))
    decided = run.evaluate(gs.Box(**wider), ["neyman_pearson"])["neyman_pearson"]
    assert decided.h_min == pytest.approx(h_min, abs=1e-9)
    assert wording.ceil(h_min, 5) in streams.out


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(no_pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(certification, "SECONDS_A_WRITE", 0.0)
    certify(tmp_path / "whole")
    passes = 0

    def interrupt(*_):
        nonlocal passes
        passes += 1
        if passes == 14:
            raise KeyboardInterrupt

    model = network()
    handle = model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        certify(tmp_path / "killed", classifier=smoothed(model))
    done = len(rows_of(tmp_path / "killed"))
    assert 0 < done < 8
    handle.remove()
    run = certify(tmp_path / "killed", classifier=smoothed(model))
    assert run.summary.invocation["images"] == 8 - done
    for name in ("records.csv", "identity.json", "images.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert certify(tmp_path / "killed").summary.invocation["evaluations"] == 0


OTHER = smoothed(network(1))
PICTURED = nn.Sequential(*network()[:2], nn.GELU(), network()[3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classifier": OTHER}, "network="),
        ({"classifier": smoothed(PICTURED)}, "network="),
        ({"classifier": smoothed(network(dtype=torch.float64))}, "network="),
        ({"classifier": smoothed(family=gs.SmoothedFamily(FAMILY.transform, {"brightness": gs.Normal(0.0, 0.31)}))},
         r"smoothing\.brightness\.scale=0\.3, this run has smoothing\.brightness\.scale=0\.31"),
        ({"classifier": smoothed(family=gs.SmoothedFamily(FAMILY.transform, FAMILY.laws, pixel_noise=0.1))},
         r"pixel_noise=0"),
        ({"region": gs.Box(brightness=(-0.02, 0.03))}, r"region\.brightness"),
        ({"seed": 1}, "seed=0, this run has seed=1"),
        ({"n": 61}, r"monte_carlo\.n=60"),
        ({"alpha": 0.01}, r"monte_carlo\.alpha"),
        ({"sequential": True}, r"monte_carlo\."),
        ({"methods": ["neyman_pearson"]}, r"bound\.methods"),
        ({"data": (IMAGES, LABELS.roll(1))}, "of other images: image 0 has changed"),
        ({"data": (IMAGES.flip(0), LABELS)}, "of other images: image 0 has changed"),
        ({"data": (IMAGES[:7], LABELS[:7])}, "of other images: image 7 is no longer"),
    ],
)  # fmt: skip
def test_another_run_is_not_gone_on_with(no_pictures, tmp_path, changes, message):
    certify(tmp_path)
    content = (tmp_path / "records.csv").read_bytes()
    with pytest.raises(UserError, match=message) as caught:
        certify(tmp_path, **changes)
    assert "choose another directory, or remove that directory" in str(caught.value)
    assert "hydra" not in str(caught.value)
    assert (tmp_path / "records.csv").read_bytes() == content


class Triple(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return IMAGES[index].numpy(), np.int64(LABELS[index]), f"{index}.png"


class Streamed(IterableDataset):
    def __iter__(self):
        yield from zip(IMAGES, LABELS.tolist(), strict=True)


@pytest.mark.parametrize(
    "data",
    [
        (IMAGES.numpy(), LABELS.numpy()),
        (IMAGES.double(), LABELS.tolist()),
        [IMAGES, LABELS],
        TensorDataset(IMAGES, LABELS),
        Triple(),
        [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)],
        DataLoader(TensorDataset(IMAGES, LABELS), batch_size=3),
        DataLoader(Streamed(), batch_size=3),
        DataLoader(Streamed(), batch_size=None),
        DataLoader(Triple(), batch_size=3, collate_fn=lambda items: [torch.tensor(x) for x in
                   (np.stack([i[0] for i in items]), [i[1] for i in items])]),
    ],
    ids=lambda data: type(data).__name__,
)  # fmt: skip
def test_data_of_every_kind_are_the_same_run(no_pictures, tmp_path, data):
    certify(tmp_path / "run")
    before = (tmp_path / "run" / "records.csv").read_bytes()
    assert certify(tmp_path / "run", data).summary.invocation["images"] == 0  # images, labels and indices are the same
    assert (tmp_path / "run" / "records.csv").read_bytes() == before


def test_images_of_a_subset_keep_their_places(no_pictures, tmp_path):
    whole = certify(tmp_path / "whole")
    run = certify(tmp_path / "part", DataLoader(Subset(TensorDataset(IMAGES, LABELS), [6, 1, 4]), batch_size=2))
    assert run.columns["index"].tolist() == [1, 4, 6]
    for name, column in run.columns.items():
        assert column.tolist() == whole.columns[name][[1, 4, 6]].tolist()


class Random(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.rand(1, 8, 8), 0


class Grown(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.rand(1, 8, 8 + index // 2), 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (IMAGES, "data is a|without a label"),
        ((IMAGES, LABELS[:3]), "labels of 8 images are shape"),
        ((IMAGES[0], LABELS), r"should be a batch of images has shape \(1, 8, 8\)"),
        ((IMAGES, LABELS + 1), r"data\[3\]: its label 4 is not one of the 4 classes"),
        ((IMAGES, LABELS.float()), r"data\[0\]: its label 0\.0 is no class; give its number, 0 to 3"),
        ((255 * IMAGES, LABELS), r"data\[0\] has values in .* x / 255"),
        ((IMAGES.permute(0, 2, 3, 1), LABELS), r"data\[0\] has shape \(8, 8, 1\), .*x\.permute\(2, 0, 1\)"),
        (((255 * IMAGES).byte(), LABELS), r"data\[0\] has dtype torch\.uint8"),
        ((IMAGES[:0], LABELS[:0]), "data holds no image"),
        (Subset(TensorDataset(IMAGES, LABELS), [1, 1]), "holds an image twice"),
        (TensorDataset(IMAGES), r"data\[0\] is a tuple without a label; give \(image, label\) items"),
        (DataLoader(TensorDataset(IMAGES, LABELS), shuffle=True), "shuffles.*shuffle=False"),
        (Random(), r"data\[0\] is another image each time that it is read; .*augmentation"),
        (Grown(), r"data\[2\] has shape \(1, 8, 9\), those before it \(1, 8, 8\); resize"),
        ("folder", "data is a str; give a DataLoader"),
        ((x for x in IMAGES), "data is a generator"),
    ],
)
def test_data_that_cannot_be_certified_are_named(no_pictures, tmp_path, data, message):
    with pytest.raises(UserError, match=message) as caught:
        certify(tmp_path, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": gs.Ball(0.1, contrast=0)}, "contrast"),
        ({"region": {"brightness": [0, 1]}}, "is not a Box, a Ball or Points"),
        ({"region": gs.Box(contrast=(1, 2))}, "contrast"),
        ({"methods": []}, "methods"),
        ({"methods": "gl"}, "methods"),
        ({"methods": ["neyman"]}, "methods: unknown method 'neyman'"),
        ({"classes": ["a"]}, "classes: 1 names for num_classes=4"),
        ({"n": 0}, "n=0"),
        ({"alpha": 2}, "alpha=2"),
        ({"classifier": gs.SmoothedClassifier(lambda x: x.flatten(1)[:, :4], FAMILY, 4, **SETTLED)}, "wrap it in an"),
    ],
)
def test_mistakes_are_named_before_a_directory_is_made(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        certify(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("region", [gs.Ball(0.02, brightness=0), gs.Points([{"brightness": 0.02}])], ids=repr)
def test_a_ball_and_points_are_kept_as_they_are(no_pictures, tmp_path, region):
    run = certify(tmp_path, region=region)
    assert load_run(tmp_path).region == run.region == region
    assert run.outcomes["neyman_pearson"].h_min == pytest.approx(gs.required_probability(FAMILY, region))
    with pytest.raises(UserError, match="region"):
        certify(tmp_path)


@dataclass(frozen=True, repr=False)
class Missing:
    family: SmoothedFamily
    region: gs.Box
    words: str


def here(scale):
    """A law whose class is in a function, where no file can find it."""

    class Here(Laplace):
        pass

    return Here(scale)


@pytest.mark.parametrize(
    "missing",
    [
        Missing(gs.SmoothedFamily(Tint(2.0), {"tint": gs.Normal(0.0, 0.5)}), gs.Box(tint=(-0.1, 0.1)), "Tint"),
        Missing(gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": here(0.2)}), REGION, "Here(0.2)"),
    ],
    ids=["transformation", "law"],
)
def test_a_family_that_no_file_can_name_has_its_report_from_python_alone(call, elsewhere, missing):
    classifier = smoothed(family=missing.family)
    run = certify(elsewhere / "run", classifier=classifier, region=missing.region, methods=["neyman_pearson"])
    assert (elsewhere / "run" / "report.html").is_file()
    assert load_run(elsewhere / "run", family=missing.family).p_lower.tolist() == run.p_lower.tolist()
    assert certify(
        elsewhere / "run", classifier=classifier, region=missing.region, methods=["neyman_pearson"]
    ).summary.invocation["images"] == 0  # fmt: skip
    status, streams = call("report", "runs=[run]", "hydra.run.dir=again")
    assert status == 2
    assert missing.words in streams.err
    assert "in Python, glsmooth.report.page.write_report(DIR, family=FAMILY)" in streams.err
    assert "Traceback" not in streams.err


def test_a_law_in_a_module_is_reported_once_it_is_typed(call, elsewhere):
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": Laplace(0.2)})
    certify(elsewhere / "run", classifier=smoothed(family=family), region=REGION, methods=["neyman_pearson"])
    typed = "smoothing.brightness._target_=tests.bounds.test_own_laws.Laplace"
    status, streams = call("report", "runs=[run]", "hydra.run.dir=again")
    assert status == 2
    assert f"type {typed}" in streams.err
    status, _ = call("report", "runs=[run]", typed, "hydra.run.dir=again")
    assert status == 0


def test_what_only_python_knows_of_a_transformation_decides_too(no_pictures, tmp_path):
    def tinted(strength):
        return smoothed(family=gs.SmoothedFamily(Tint(strength), {"tint": gs.Normal(0.0, 0.5)}))

    region = gs.Box(tint=(-0.1, 0.1))
    certify(tmp_path, classifier=tinted(2.0), region=region)
    assert certify(tmp_path, classifier=tinted(2.0), region=region).summary.invocation["images"] == 0
    with pytest.raises(UserError, match=r"transform\.state="):
        certify(tmp_path, classifier=tinted(2.5), region=region)


def test_a_transformation_in_a_module_is_reported_once_it_is_typed(no_pictures, call, elsewhere):
    family = gs.SmoothedFamily(Wide(), {"brightness": gs.Normal(0.0, 0.3)})
    run = certify(elsewhere / "run", classifier=smoothed(family=family))
    target = f"{__name__}.Wide"
    assert run.summary.transform == {"_target_": target}
    status, streams = call("report", "runs=[run]", "hydra.run.dir=again")
    assert status == 2
    assert f"type transform._target_={target}" in streams.err
    assert load_run(elsewhere / "run", transform_target=target).p_lower.tolist() == run.p_lower.tolist()


@pytest.mark.parametrize("name", BUILTIN)
def test_configurations_make_the_same_family_again(name):
    transform = BUILTIN[name]()
    laws = {
        parameter: gs.Exponential(3.0) if parameter == "blur" else gs.LogNormal(0.0, 0.3)
        if parameter in ("contrast", "gamma") else gs.Normal(0.0, 0.2)
        for parameter in transform.parameters
    }  # fmt: skip
    family = gs.SmoothedFamily(transform, laws, (8, 8), 0.1)
    spec, smoothing = family_config(family)
    assert spec["_target_"] == f"glsmooth.transforms.{type(transform).__name__}"
    again = build_family(spec, smoothing, (8, 8), 0.1)
    assert repr(again) == repr(family)
    assert family_config(again) == (spec, smoothing)


@pytest.mark.parametrize(
    ("transform", "argument"),
    [
        (gs.transforms.ContrastBrightness("brightness_first"), {"order": "brightness_first"}),
        (gs.transforms.TranslationBlurBrightnessContrast("contrast_first"), {"order": "contrast_first"}),
        (gs.transforms.BrightnessTranslation("reflect"), {"padding": "reflect"}),
        (gs.transforms.GaussianBlur("cyclic"), {"border": "cyclic"}),
    ],
)
def test_configurations_keep_arguments(transform, argument):
    laws = {
        p: gs.Exponential(3.0) if p == "blur" else gs.LogNormal(0.0, 0.3) if p == "contrast" else gs.Normal(0.0, 0.2)
        for p in transform.parameters
    }
    spec, _ = family_config(gs.SmoothedFamily(transform, laws))
    assert {key: value for key, value in spec.items() if key != "_target_"} == argument


def test_compositions_and_replaced_actions_are_not_taken_for_ours():
    composed = gs.transforms.Composition(gs.transforms.Brightness(), gs.transforms.Translation())
    replaced = gs.transforms.Brightness()
    replaced.apply = lambda images, theta: images
    normal = gs.Normal(0.0, 0.2)
    for transform in (composed, replaced):
        spec, _ = family_config(gs.SmoothedFamily(transform, dict.fromkeys(transform.parameters, normal)))
        assert spec["_target_"].endswith(" (only in Python)")


def test_two_channels_have_no_pictures_and_half_networks_are_named(no_pictures, tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 25, 4)).bfloat16()
    run = certify(tmp_path, (torch.rand(3, 2, 5, 5), [0, 1, 2]), smoothed(model))
    assert not (tmp_path / "figure1.npz").exists()
    assert run.summary.model == {"name": "Sequential in bfloat16"}


def test_the_network_stays_as_it_was(no_pictures, tmp_path):
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    certify(tmp_path, classifier=smoothed(model))
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_progress_has_a_bar_with_the_time_left(no_pictures, tmp_path, capsys, monkeypatch):
    certify(tmp_path, progress=True)
    err = capsys.readouterr().err
    assert "Certifying: 100%" in err
    assert "CRA" in err
    certify(tmp_path / "silent")
    assert capsys.readouterr().err == ""
    assert dataset.__all__ == ["certify_dataset"]
