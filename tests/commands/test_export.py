"""The export command: a folder to share, read back as the checkpoint that it was made from, and its card."""

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from glsmooth.commands import certify, export
from glsmooth.configuration.identity import checkpoint_digest, decisive
from glsmooth.errors import UserError, visible
from glsmooth.learning import checkpoint as checkpoints
from glsmooth.learning.checkpoint import KEY, is_export, load_checkpoint
from glsmooth.learning.models import build_model
from glsmooth.report import tables, wording
from glsmooth.runs.run import load_run

pytestmark = pytest.mark.usefixtures("elsewhere")

CERTIFY = (
    *("dataset.subset=4", "monte_carlo.n0=20", "monte_carlo.n=40", "trainer.accelerator=cpu", "batch_size=16"),
    *("channels_last=false", "compile=false", "threads=1"),
)
FILES = ["README.md", "config.json", "model.safetensors"]
TIED = """
from torch import nn


class Tied(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.first, self.second, self.third = (nn.Linear(16, 16) for _ in range(3))
        self.second.weight = self.third.weight = self.first.weight
        self.third.bias = self.first.bias
        self.last = nn.Linear(16, num_classes)

    def forward(self, images):
        hidden = self.pool(images.mean(1)).flatten(1)
        return self.last(self.third(self.second(self.first(hidden).relu()).relu()))
"""


def changed_checkpoint(untrained, path, change, *, channels=1):
    """A checkpoint of another network, with weights of its own."""
    content = torch.load(untrained[0], weights_only=True)
    content[KEY] |= change
    if "model" in change or channels != 1:
        content[KEY] |= {"mean": [0.4] * channels, "std": [0.2] * channels}
        torch.manual_seed(1)
        model = build_model(content[KEY]["model"], 10, channels, [0.4] * channels, [0.2] * channels, (32, 32))
        content["state_dict"] = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save(content, path)
    return path


def network(name, **more):
    return {"model": {"name": name, "pretrained": False, "weights": None, **more}}


@pytest.fixture(autouse=True)
def quick_report(monkeypatch):
    """certify without its pictures."""

    def write(directory, family, **_):
        run = load_run(directory, family=family)
        (directory / "table.md").write_text(tables.run_table(run, run.region, run.outcomes))
        return directory / "report.html"

    monkeypatch.setattr(certify, "write_report", write)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("exported") / "shared"


@pytest.fixture
def shared(call, untrained, elsewhere, kept):
    """The first untrained network, exported."""
    if not kept.exists():
        status, printed = call("export", f"ckpt={untrained[0]}", f"out={kept}")
        assert status == 0, printed.err
    return shutil.copytree(kept, elsewhere / "shared")


@pytest.fixture
def refused(call):
    """``refused(command, arguments…)``: the one line that says why it does not run."""

    def refused_(*arguments):
        status, printed = call(*arguments)
        assert status == 2, printed.err
        assert "Traceback" not in printed.err
        assert len(printed.err) < 2000
        return printed.err.rstrip().splitlines()[-1]

    return refused_


# Read back


@pytest.mark.parametrize(
    ("change", "channels"),
    [
        ({"precision": "bf16-mixed"}, 1),
        (network("small_cnn", canonical="contrast"), 1),
        (network("test_resnet"), 3),
        (network("squeezenet1_1", library="torchvision"), 3),
        (network("custom", _target_="tied.Tied"), 1),
    ],
    ids=["bf16", "canonical", "timm", "torchvision", "custom"],
)
def test_a_network_comes_back_bit_for_bit(call, untrained, elsewhere, monkeypatch, change, channels):
    (elsewhere / "tied.py").write_text(TIED)
    monkeypatch.delitem(sys.modules, "tied", raising=False)
    ckpt = changed_checkpoint(untrained, elsewhere / "best.ckpt", change, channels=channels)
    before = load_checkpoint(ckpt)
    target = before.model.get("_target_")
    typed = [f"model._target_={target}"] if target else []
    status, printed = call("export", f"ckpt={ckpt}", "out=shared", *typed)
    assert status == 0, printed.err
    after = load_checkpoint("shared")
    told = {name: getattr(before, name) for name in ("transform", "smoothing", "region", "classes", "mean", "std")}
    assert told == {name: getattr(after, name) for name in told}
    assert (after.precision, after.seed, after.metrics) == (before.precision, before.seed, before.metrics)
    images = torch.rand(3, channels, 32, 32)
    one, other = (checkpoint.build_model(target) for checkpoint in (before, after))
    assert torch.equal(one(images), other(images))
    assert one.state_dict().keys() == other.state_dict().keys()
    if target:  # what has several names is stored once
        stored = load_file("shared/model.safetensors")
        assert [name for name in stored if name.endswith(("second.weight", "third.weight", "third.bias"))] == []
        with pytest.raises(UserError, match=r"type model\._target_=tied\.Tied"):
            after.build_model()


def test_certify_gives_the_records_of_the_checkpoint(call, untrained, shared, elsewhere):
    for ckpt, directory in ((untrained[0], "one"), (shared, "other"), (untrained[1], "another network")):
        status, printed = call("certify", f"ckpt={ckpt}", *CERTIFY, f'hydra.run.dir="{directory}"')
        assert status == 0, printed.err
    records = [(elsewhere / name / "records.csv").read_bytes() for name in ("one", "other", "another network")]
    assert records[0] == records[1] != records[2]
    summaries = [json.loads((elsewhere / name / "summary.json").read_text()) for name in ("one", "other")]
    assert summaries[1]["checkpoint"] == {"path": str(shared), "sha256": checkpoint_digest(shared)}
    assert summaries[0]["training"] == summaries[1]["training"]
    # Records of one are not continued with the other, though the network is the same.
    status, printed = call("certify", f"ckpt={shared}", *CERTIFY, "hydra.run.dir=one", "dataset.subset=5")
    assert status == 2
    assert load_run("other").summary.checkpoint["sha256"] == load_checkpoint(shared).sha256


def test_other_commands_read_it(call, untrained, shared):
    status, printed = call("advise", f"ckpt={shared}", "trial.images=4", "trial.votes=20", "trial.scales=3")
    assert status == 0, printed.err
    assert "Of 15 laws" in printed.out or "None of 15 laws" in printed.out
    short = ("optimizer.epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
    status, printed = call(
        "train",
        *(f"ckpt={shared}", "transform=contrast", "dataset=digits", *short, "trainer.accelerator=cpu"),
        *("optimizer.lr=1e-30", "optimizer.bias_lr=1e-30", "trainer.progress=false", "hydra.run.dir=tuned"),
    )
    assert status == 0, printed.err
    tuned, before = load_checkpoint("tuned/best.ckpt"), load_checkpoint(shared)
    assert tuned.identity["ckpt"] == checkpoint_digest(shared)
    assert tuned.identity["model.weights"] == hashlib.sha256((shared / FILES[2]).read_bytes()).hexdigest()
    torch.testing.assert_close(tuned.state_dict["network.fc.weight"], before.state_dict["network.fc.weight"])


def test_what_its_identity_is(shared, elsewhere):
    lines = "".join(f"{hashlib.sha256((shared / name).read_bytes()).hexdigest()}  {name}\n" for name in FILES[1:])
    digest = hashlib.sha256(lines.encode()).hexdigest()  # of what sha256sum prints
    assert load_checkpoint(shared).sha256 == checkpoint_digest(shared) == digest
    assert decisive({"ckpt": str(shared)}, "predict")["ckpt"] == digest
    (shared / "README.md").write_text("Words of mine.")
    assert checkpoint_digest(shared) == digest
    about = json.loads((shared / "config.json").read_text())
    about[KEY]["seed"] += 1
    (shared / "config.json").write_text(json.dumps(about))
    assert checkpoint_digest(shared) != digest


# The folder


def test_paths_of_this_machine_stay_here(call, untrained, elsewhere):
    content = torch.load(untrained[0], weights_only=True)
    told = content[KEY]
    told["dataset"] = {"name": "image_folder", "root": "/home/me/images", "image_size": [32, 32]}
    told["model"] |= {"weights": "/home/me/weights.pt"}
    told["identity"] |= {"dataset.root": "/home/me/images", "dataset.name": "image_folder"}
    torch.save(content, elsewhere / "best.ckpt")
    status, printed = call("export", "ckpt=best.ckpt", "out=shared")
    assert status == 0, printed.err
    for name in FILES:
        assert b"/home/me" not in (elsewhere / "shared" / name).read_bytes()
    after = load_checkpoint("shared")
    assert (after.dataset["root"], after.dataset["name"], after.model["weights"]) == (None, "image_folder", None)
    assert after.identity == {key: value for key, value in told["identity"].items() if key != "dataset.root"}


def test_every_file_or_none(call, untrained, elsewhere, monkeypatch):
    def fail(*arguments):
        assert [path.name for path in elsewhere.iterdir() if path.suffix == ".part"]
        raise UserError("no card")

    with monkeypatch.context() as patch:
        patch.setattr(export, "write_text", fail)
        assert call("export", f"ckpt={untrained[0]}", "out=shared")[0] == 2
    assert list(elsewhere.rglob("*")) in ([], [elsewhere / "shared"])  # Hydra makes it
    assert call("export", f"ckpt={untrained[0]}", "out=shared")[0] == 0
    assert sorted(os.listdir("shared")) == FILES
    assert {path.stat().st_mode & 0o777 for path in (elsewhere / "shared").iterdir()} == {0o666 & ~current_umask()}


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_nothing_else_is_written_over(call, refused, untrained, shared, elsewhere):
    before = {name: (shared / name).read_bytes() for name in FILES}
    assert f"out={shared}: holds another network; name a folder" in refused(
        "export", f"ckpt={untrained[1]}", "out=shared"
    )
    assert {name: (shared / name).read_bytes() for name in FILES} == before
    (shared / "README.md").write_text("Words of mine.")
    (shared / ".git").mkdir()
    # The same network: the card alone, from the checkpoint and from the folder itself.
    for ckpt, licence in ((untrained[0], "mit"), (shared, "apache-2.0")):
        status, printed = call("export", f"ckpt={ckpt}", "out=shared", f"license={licence}")
        assert status == 0, printed.err
        assert ModelCard.load(shared / "README.md").data.license == licence
    assert {name: (shared / name).read_bytes() for name in FILES[1:]} == {name: before[name] for name in FILES[1:]}
    (elsewhere / "full").mkdir()
    (elsewhere / "full" / "config.json").write_text("{}")
    assert "holds other files; name a folder" in refused("export", f"ckpt={untrained[0]}", "out=full")
    assert (elsewhere / "full" / "config.json").read_text() == "{}"


def test_weights_that_share_parts_of_their_memory_are_not_exported(untrained, tmp_path, monkeypatch):
    """safetensors would store one of the names, and the other would come back as the whole."""
    checkpoint = load_checkpoint(untrained[0])
    model = checkpoint.build_model()
    weight = model.network.get_submodule("fc").weight
    del model.network.fc.bias
    model.network.fc.register_buffer("bias", weight.detach().flatten()[: weight.shape[0]])
    with pytest.raises(UserError, match="tensors of its network share parts of their memory"):
        checkpoints.write_exported(checkpoint, model, tmp_path)


def test_where_it_goes_by_default(call, untrained, elsewhere):
    for _ in range(2):
        assert call("export", f"ckpt={untrained[0]}")[0] == 0
    (folder,) = (elsewhere / "outputs" / "export").iterdir()
    assert sorted(os.listdir(folder)) == FILES


def test_every_command_has_a_face():
    done = subprocess.run(
        [sys.executable, "-m", "glsmooth.export", "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage: glsmooth export ckpt=PATH" in done.stdout


# The card


@pytest.fixture
def certified(call, untrained, elsewhere):
    assert call("certify", f"ckpt={untrained[0]}", *CERTIFY, "hydra.run.dir=run")[0] == 0
    return elsewhere / "run"


def test_the_card_states_the_table_of_the_report(call, untrained, certified, elsewhere):
    status, printed = call("export", f"ckpt={untrained[0]}", "runs=[run]", "license=mit", "out=shared")
    assert status == 0, printed.err
    text = (elsewhere / "shared" / "README.md").read_text()
    table = (certified / "table.md").read_text()
    wanted = [line for line in table.split("| setting")[0].splitlines() if line.startswith(("|", "Of ", "None "))]
    assert len(wanted) > 8
    assert [line for line in wanted if line not in text.splitlines()] == []
    assert str(elsewhere) not in text
    assert checkpoint_digest(untrained[0]) in text
    data = ModelCard(text).data
    assert (data.library_name, data.license, data.pipeline_tag) == ("glsmooth", "mit", "image-classification")
    result, accuracy = data.eval_results
    assert (result.dataset_type, result.dataset_split) == ("digits", "test")
    (row,) = [line for line in wanted if line.startswith("| Neyman")]
    assert row.endswith(f"| {100 * result.metric_value:.1f} % |")
    assert accuracy.metric_type == "accuracy"


def test_a_card_without_runs_claims_nothing(shared):
    card = ModelCard.load(shared / "README.md")
    assert card.data.license is None
    assert card.data.eval_results is None
    assert "## Results" not in card.text
    assert "| smoothing laws | contrast ~ LogNormal(loc 0, scale 0.3) |" in card.text
    assert "| region | contrast in [0.9, 1.1] |" in card.text


def test_shares_are_rounded_down():
    assert [wording.share(count, 359) for count in (0, 350, 358, 359)] == [0.0, 0.974, 0.997, 1.0]
    assert wording.percent(350, 359) == "97.4 %"


def test_results_of_another_network_are_refused(refused, call, untrained, certified, shared):
    for ckpt in (untrained[1], shared):  # the same weights in other bytes: what was certified is not known to be them
        line = refused("export", f"ckpt={ckpt}", "runs=[run]", "out=other")
        assert line.startswith("runs: run was certified with another checkpoint (SHA-256 ")
    assert call("certify", f"ckpt={untrained[0]}", *CERTIFY, "shard=0/2", "hydra.run.dir=part")[0] == 0
    assert "is shard 0/2 of a certification" in refused("export", f"ckpt={untrained[0]}", "runs=[part]", "out=other")
    assert "runs: 'nowhere' is not a directory" in refused("export", f"ckpt={untrained[0]}", "runs=[nowhere]")


def test_licences_are_names(refused, untrained):
    line = refused("export", f"ckpt={untrained[0]}", "license=MIT Licence")
    assert "license='MIT Licence' must be the name of a licence" in line


@pytest.mark.parametrize("nasty", ["---\nlicense: mit", "| cell | `code` <b>", "![x](http://a.b)", "{a: [1", "\x1b[2J‮"])
def test_texts_of_strangers_stay_texts(call, untrained, elsewhere, nasty):
    content = torch.load(untrained[0], weights_only=True)
    content[KEY]["classes"] = [f"{nasty} {i}" for i in range(10)]
    content[KEY]["optimizer"] = {"schedule": "cosine"}
    content[KEY]["identity"] = {nasty: nasty}
    torch.save(content, elsewhere / "best.ckpt")
    status, printed = call("export", "ckpt=best.ckpt", "out=shared")
    assert status == 0, printed.err
    text = (elsewhere / "shared" / "README.md").read_text()
    plain = ModelCard.load("shared/README.md")
    assert plain.data.to_dict().keys() == {"library_name", "metrics", "pipeline_tag", "tags"}
    (row,) = [line for line in text.splitlines() if line.startswith("| classes |")]
    assert len([i for i, char in enumerate(row) if char == "|" and row[i - 1 : i] != "\\"]) == 3
    assert all(line.isprintable() for line in text.splitlines())
    assert re.search(r"(?<!\\)(\]\(|<b|`)", row) is None


# Folders of strangers


def rewrite(folder, change):
    about = json.loads((folder / "config.json").read_text())
    change(about)
    (folder / "config.json").write_text(json.dumps(about))


def tensors(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors")


def header(folder, change):
    """Change the header of the weights as text."""
    content = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    new = change(content[8 : 8 + length].decode()).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(new)) + new + content[8 + length :])


def set_in(part, **fields):
    return lambda about: (about[KEY][part] if part else about[KEY]).update(fields)


def replaced(name, make):
    def change(folder):
        (folder / name).unlink()
        make(folder / name)

    return change


HOSTILE = {
    "no weights": (replaced("model.safetensors", lambda path: None), r"ckpt=\S+: has no model\.safetensors; give"),
    "no config": (replaced("config.json", lambda path: None), r"ckpt=\S+: has no config\.json; give"),
    "link": (replaced("config.json", lambda path: path.symlink_to("/etc/hostname")), "config.json is a symbolic link"),
    "linked weights": (
        replaced("model.safetensors", lambda path: path.symlink_to("/dev/zero")),
        "model.safetensors is a symbolic link",
    ),
    "pipe": (replaced("config.json", os.mkfifo), "its config.json is no regular file"),
    "folder": (replaced("model.safetensors", os.mkdir), "its model.safetensors is no regular file"),
    "no json": (replaced("config.json", lambda path: path.write_bytes(b"\x80\x04.")), "not readable as JSON"),
    "deep": (replaced("config.json", lambda path: path.write_text('{"a":' * 10**5)), "not readable as JSON"),
    "a list": (replaced("config.json", lambda path: path.write_text("[1]")), "not a checkpoint of this program"),
    "of others": (
        replaced("config.json", lambda path: path.write_text('{"architectures": ["ViT"]}')),
        r"to start from its weights, train with weights=\S+/model\.safetensors",
    ),
    "many values": (lambda f: rewrite(f, set_in("identity", x=[0] * 200_000)), "more values"),
    "nested": (lambda f: rewrite(f, set_in("identity", x=json.loads("[" * 99 + "]" * 99))), "deeper nested"),
    "long text": (lambda f: rewrite(f, set_in("model", name="x" * 20_000)), "a text of 20000 characters"),
    "wrong type": (lambda f: rewrite(f, set_in("", classes=3)), "classes"),
    "infinity": (lambda f: rewrite(f, set_in("", std=[float("inf")])), r"std\[0\] is inf"),
    "a class": (lambda f: rewrite(f, set_in("transform", _target_="os.system")), r"transform\._target_=os\.system"),
    "a function": (lambda f: rewrite(f, set_in("model", name="custom", _target_="os.system")), r"type model\._target_"),
    "a path": (lambda f: rewrite(f, set_in("model", name="../../evil")), "neither one of"),
    "another network": (lambda f: rewrite(f, set_in("model", name="cifar_resnet20")), "only the model has"),
    "a large network": (lambda f: rewrite(f, set_in("model", name="vit_giant_patch14_224")), "do not fit"),
    "a lying header": (lambda f: header(f, lambda text: text.replace("[0,", "[9,")), "not a readable checkpoint"),
    "a huge header": (lambda f: header(f, lambda text: text + " " * 101_000_000), "not a readable checkpoint"),
    "truncated": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        "not a readable checkpoint",
    ),
    "a pickle": (
        lambda f: torch.save({"x": torch.zeros(1)}, f / "model.safetensors"),
        "not a readable checkpoint",
    ),
    "another type": (
        lambda f: tensors(f, lambda state: state.update({"network.fc.bias": torch.zeros(10, dtype=torch.int8)})),
        r"network\.fc\.bias is of the kind torch\.int8, strided, where the model has torch\.float32",
    ),
    "complex": (
        lambda f: tensors(f, lambda state: state.update({"network.fc.bias": torch.zeros(10, dtype=torch.complex64)})),
        r"is of the kind torch\.complex64",
    ),
    "nan": (
        lambda f: tensors(f, lambda state: state["network.fc.bias"].fill_(torch.nan)),
        "network.fc.bias holds NaN or infinity in 10 of its 10 values",
    ),
    "more": (
        lambda f: tensors(f, lambda state: state.update({"../../evil\x1b": torch.zeros(1)})),
        r"only the file has 1 \(\.\./\.\./evil\\x1b 1\)",
    ),
    "fewer": (
        lambda f: tensors(f, lambda state: state.pop("network.fc.bias")),
        r"only the model has 1 \(network\.fc\.bias 10\)",
    ),
    "a second name": (
        lambda f: header(f, lambda text: text.replace('"format":"pt"', '"format":"pt","more":"network.fc.bias"')),
        r"only the file has 1 \(more 10\)",
    ),
}  # fmt: skip


def read(folder):
    checkpoint = load_checkpoint(folder)
    checkpoint.build_family()
    checkpoint.build_model()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_folder_of_a_stranger(shared, kind):
    change, words = HOSTILE[kind]
    change(shared)
    with pytest.raises(UserError, match=words) as refusal:
        read(shared)
    assert len(str(refusal.value)) < 1000
    assert visible(str(refusal.value)) == str(refusal.value)


@pytest.mark.parametrize("kind", ["no weights", "link", "a path"])
def test_commands_say_so(refused, shared, kind):
    change, words = HOSTILE[kind]
    change(shared)
    for command in (("certify", *CERTIFY), ("export", "out=other")):
        assert re.search(words, refused(command[0], f"ckpt={shared}", *command[1:]))
    assert not os.path.exists("other/config.json")


def test_limits_hold_for_folders(refused, shared):
    (shared / "config.json").write_text((shared / "config.json").read_text() + " " * 1_100_000)
    assert "larger than limits.megabytes=1" in refused("certify", f"ckpt={shared}", "limits.megabytes=1", *CERTIFY)
    os.truncate(shared / "model.safetensors", 1_100_000_000)  # of few blocks on disk
    assert "larger than limits.gigabytes=1" in refused("certify", f"ckpt={shared}", "limits.gigabytes=1", *CERTIFY)


def test_a_run_of_train_is_no_export(refused, untrained):
    folder = untrained[0].parent
    assert f"ckpt={folder}: has no config.json; give ckpt={untrained[0]}" in refused("certify", f"ckpt={folder}")


def test_is_export_looks_at_every_part(shared, untrained):
    checkpoint = load_checkpoint(untrained[0])
    model = checkpoint.build_model()
    assert is_export(load_checkpoint(shared), checkpoint, model)
    with torch.no_grad():
        model.network.fc.bias[0] += 1e-6
    assert not is_export(load_checkpoint(shared), checkpoint, model)
    rewrite(shared, set_in("", seed=5))
    assert not is_export(load_checkpoint(shared), checkpoint, checkpoint.build_model())
