"""Losses of a user's own: what they are given, what they may return, and what a checkpoint says of them."""

import json
import sys

import pytest
import torch

from glsmooth.learning.checkpoint import load_checkpoint

MODULE = """
import torch
import torch.nn.functional as F

given = []

def focal(logits, labels, gamma=2.0):
    given.append((tuple(logits.shape), tuple(labels.shape), logits.dtype))
    log = F.log_softmax(logits, -1).gather(-1, labels.expand(len(logits), -1)[..., None])
    return -((1 - log.exp()) ** gamma * log).mean()

class Weighted(torch.nn.Module):
    def __init__(self, weight, scale=1.0):
        super().__init__()
        if scale <= 0:
            raise ValueError("scale must be positive")
        self.register_buffer("weight", torch.tensor(weight))
        self.scale = scale

    def forward(self, logits, labels):
        return self.scale * F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), self.weight)

class Learning(Weighted):
    def __init__(self):
        super().__init__([1.0] * 10)
        self.temperature = torch.nn.Parameter(torch.ones(()))

class Mute:
    pass

def each(logits, labels):
    return logits.mean((0, 2))

def number(logits, labels):
    return 1.0

def whole(logits, labels):
    return logits.argmax(-1).sum()

def cut_off(logits, labels):
    return logits.detach().mean()

def infinite(logits, labels):
    return logits.mean() + (float("inf") if len(labels) > 4 else 0.0)

def flat(logits, labels):
    return F.cross_entropy(logits, labels)

something = 3
"""
SHORT = (
    *("dataset.image_size=[8,8]", "optimizer.epochs=1", "trainer.limit_train_batches=2", "optimizer.batch_size=8"),
    *("trainer.limit_val_batches=1", "trainer.accelerator=cpu", "trainer.progress=false", "hydra.run.dir=run"),
)


@pytest.fixture
def own(elsewhere):
    (elsewhere / "my_losses.py").write_text(MODULE)
    yield elsewhere / "run"
    sys.modules.pop("my_losses", None)


def test_a_function_is_given_copies_and_labels(call, own):
    loss = ("loss=custom", "loss._target_=my_losses.focal", "+loss.gamma=3.0", "loss.copies=3")
    status, captured = call("train", *SHORT, *loss)
    assert status == 0, captured.err
    assert ((3, 8, 10), (8,), torch.float32) in sys.modules["my_losses"].given
    checkpoint = load_checkpoint(own / "best.ckpt")
    assert checkpoint.loss["_target_"] == checkpoint.identity["loss._target_"] == "my_losses.focal"
    assert checkpoint.identity["loss.gamma"] == 3
    epoch = (own / "metrics.csv").read_text().splitlines()[1].split(",")
    assert float(epoch[1]) < float(epoch[2])  # a focal loss is below the cross-entropy, which is told beside it
    status, captured = call("train", *SHORT, *loss[:2], "loss.copies=3")
    assert status == 2
    assert "a run with loss.gamma=3, this run has no loss.gamma stated" in captured.err
    # Nothing is imported to certify: the loss is no part of the network.
    sys.modules.pop("my_losses")
    short = ("dataset.subset=2", "batch_size=8", "trainer.accelerator=cpu", "monte_carlo.n0=4", "monte_carlo.n=8")
    status, captured = call("certify", "ckpt=run/best.ckpt", *short, "hydra.run.dir=votes")
    assert status == 0, captured.err
    assert "my_losses" not in sys.modules


def test_a_module_has_arguments_of_its_constructor(call, own):
    weight = json.dumps([1.0] * 10).replace(" ", "")
    loss = ("loss=custom", "loss._target_=my_losses.Weighted", f"+loss.weight={weight}", "loss.transformed=false")
    status, captured = call("train", *SHORT, *loss)
    assert status == 0, captured.err
    epoch = (own / "metrics.csv").read_text().splitlines()[1].split(",")
    assert float(epoch[1]) == pytest.approx(float(epoch[2]), rel=1e-5)  # weights of one are no weights
    assert not any(name == "weight" for name in load_checkpoint(own / "best.ckpt").state_dict)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ((), "loss._target_ is missing; set loss._target_=my_module.my_loss"),
        (("loss._target_=my_losses.focall",), "did you mean 'focal'?"),
        (("loss._target_=my_losses.something",), "loss._target_='my_losses.something' cannot be called"),
        (("loss._target_=my_losses.Mute",), "makes what cannot be called"),
        (("loss._target_=my_losses.focal", "+loss.gama=1"), "loss.gama=1 is not an argument of my_losses.focal, it ta"),
        (("loss._target_=my_losses.focal", "loss.entropy=1"), "loss.entropy=1 is a field of glsmooth's own loss"),
        (("loss._target_=my_losses.focal", "loss.gamma=1"), "or +loss.gamma=1 for an argument of loss._target_"),
        (("loss._target_=my_losses.Weighted",), "loss.weight is missing"),
        (("loss._target_=my_losses.Weighted", "+loss.weight=[1]", "+loss.scale=0"), "refuses its arguments: scale mus"),
        (("loss._target_=my_losses.Learning",), "has parameters, which nothing would train"),
        (("loss._target_=my_losses.each",), "loss._target_=my_losses.each returns a tensor of shape (4,)"),
        (("loss._target_=my_losses.number",), "returns a float; return a scalar torch.Tensor"),
        (("loss._target_=my_losses.whole",), "and torch.int64; return one number"),
        (("loss._target_=my_losses.cut_off",), "returns what does not depend on the logits"),
        (("loss._target_=my_losses.flat",), "fails for logits of shape (1, 4, 10) and labels of shape (4,)"),
        (("loss._target_=my_losses.infinite",), "loss._target_=my_losses.infinite: the loss is inf in epoch 1, step 1"),
        (("loss._target_=my_losses.focal", "loss=default"), "loss.consistency=5.0 is a field of glsmooth's own loss"),
        (("loss=default", "+loss.gama=1"), "loss.gama=1 is not a field; "),
        (("loss=default", "loss.entropy=null"), "loss.entropy=null must be a finite number, at least 0"),
    ],
)
def test_mistakes_name_the_loss(call, own, typed, words):
    choice = () if "loss=default" in typed else ("loss=custom",)
    status, captured = call("train", *SHORT, *choice, *typed)
    assert status == 2, captured.err
    assert words in captured.err.rstrip().splitlines()[-1]
    assert not list(own.glob("*.ckpt"))
