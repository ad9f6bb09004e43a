"""The training module with networks simple enough to see through."""

import itertools

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

import glsmooth as gs
from glsmooth.errors import UserError
from glsmooth.learning import training
from glsmooth.learning.data import Data, TensorImages
from glsmooth.learning.losses import LossTerms, training_loss
from glsmooth.learning.pixels import unit
from glsmooth.learning.training import _STEPS_A_LOOK, CLEAN, UNDER_LAW, VALIDATION_COPIES, TrainingModule

LOSS = {"copies": 2, "consistency": 1.0, "entropy": 0.5, "label_smoothing": 0.0, "transformed": True}
OPTIMIZER = {
    "lr": 0.1,
    "bias_lr": 1.0,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "nesterov": True,
    "schedule": "cosine",
    "batch_size": 8,
}
BRIGHTNESS = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 0.5)})


class Watched(nn.Module):
    """A linear network that keeps the last images it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 2)

    def forward(self, images):
        self.seen = images.detach()
        return self.linear(images.mean((1, 2, 3))[:, None])


def make(family=BRIGHTNESS, data=None, **changes):
    data = data or Data("x", ("a", "b"), (4, 4), (0,), (1,), {})
    module = TrainingModule(Watched(), family, data, LOSS | changes.pop("loss", {}), OPTIMIZER | changes, 0, {})
    module.log = lambda *args, **kwargs: None
    return module


GREY = 0.6  # 153 / 255


def batch(n=500):
    return torch.full((n, 1, 4, 4), 153, dtype=torch.uint8), torch.zeros(n, dtype=torch.long)


def test_copies_are_drawn_independently_from_the_law():
    module = make(loss={"copies": 3})
    module.training_step(batch(2000), 0)
    brightness = module.model.seen[:, 0, 0, 0] - GREY
    assert brightness.shape == (6000,)
    assert len(brightness.unique()) > 5990
    copies = brightness.view(3, 2000)
    # Means, standard deviations and correlations scatter as n^-1/2; four of those.
    tolerance = 4 * 2000**-0.5
    assert copies.mean(1).abs().max() < 0.5 * tolerance
    assert (copies.std(1) - 0.5).abs().max() < 0.5 * tolerance
    assert (torch.corrcoef(copies) - torch.eye(3)).abs().max() < tolerance


def test_copies_stay_with_their_labels():
    # Brightness moves by a thousandth; each image is told by its own grey value.
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 1e-3)})
    module = make(family)
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 4, 4)
    module.model.linear = nn.Identity()
    logits = module.transformed_logits(images, copies=3)
    assert logits.shape == (3, 10, 1)
    torch.testing.assert_close(logits[..., 0], torch.arange(10.0).expand(3, 10), atol=0.01, rtol=0)


def test_augmentation_comes_before_the_transformation():
    module = make(data=Data("x", ("a", "b"), (4, 4), (0,), (1,), {}, crop_padding=2))
    module.training_step(batch(), 0)
    seen = module.model.seen[:, 0]
    brightness = seen.amin((1, 2))
    padded = (seen - brightness[:, None, None]).amax((1, 2)) > 0.4  # images with padding in the crop
    assert padded.float().mean() > 0.8
    # Were padding put on afterwards, it would be 0 instead of the brightness that was added to it.
    assert brightness[padded].std() > 0.4


def test_pixel_noise():
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 1e-6)}, pixel_noise=0.25)
    module = make(family)
    module.training_step(batch(), 0)
    noise = module.model.seen - GREY
    assert noise.std().item() == pytest.approx(0.25, abs=4 * 0.25 * noise.numel() ** -0.5)


def test_one_copy_leaves_no_consistency():
    with pytest.raises(UserError, match=r"^copies=1 with consistency=1.0: .*would be zero.* copies=2"):
        make(loss={"copies": 1})
    make(loss={"copies": 1, "consistency": 0.0}).training_step(batch(), 0)


def test_unknown_schedule():
    with pytest.raises(UserError, match=r"^schedule='linear' is not a choice.* choose from cosine, none, one"):
        make(schedule="linear")


def test_loss_that_is_not_finite_stops():
    module = make()
    torch.nn.init.constant_(module.model.linear.weight, torch.nan)
    with pytest.raises(UserError, match=r"^lr=0.1: the loss is nan in epoch 1, step 1; use a smaller"):
        module.training_step(batch(), 0)


def test_a_loss_that_is_looked_at_later_is_named_by_its_step(monkeypatch):
    """As on a GPU, which is not waited for at every step."""
    module = make()
    monkeypatch.setattr(TrainingModule, "device", property(lambda self: torch.device("meta")))
    monkeypatch.setattr(TrainingModule, "restart_draws", lambda *_: None)  # which are there
    monkeypatch.setattr(TrainingModule, "global_step", property(lambda self: step))
    for step in range(_STEPS_A_LOOK - 1):
        module.training_step(batch(8), 0)
        if step == 2:
            torch.nn.init.constant_(module.model.linear.weight, torch.inf)
    step += 1
    with pytest.raises(UserError, match="the loss is nan in epoch 1, step 4;"):
        module.training_step(batch(8), 0)
    module.training_step(batch(8), 0)
    with pytest.raises(UserError, match=f"step {_STEPS_A_LOOK};"):  # the epoch ends before it is time again
        module.on_train_epoch_end()


def test_logged_loss_is_the_mean_over_images(stripes, tmp_path, monkeypatch):
    seen = []

    def loss(*args):
        seen.append((len(args[1]), training_loss(*args)))
        return seen[-1][1]

    monkeypatch.setattr(training, "training_loss", loss)
    stripes.train.images, stripes.train.labels = stripes.train.images[:60], stripes.train.labels[:60]
    trainer = fit(make(data=stripes), tmp_path)
    assert [size for size, _ in seen] == [8] * 7 + [4]
    for name in LossTerms._fields:
        mean = sum(size * getattr(terms, name).item() for size, terms in seen) / 60
        assert trainer.callback_metrics[f"train/{name}"].item() == pytest.approx(mean, rel=1e-6)


def test_convolutions_run_channels_last_from_the_same_weights(stripes, tmp_path):
    class Convolution(Watched):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, images):
            self.seen = images
            return self.conv(images).mean((2, 3))

    model = Convolution()
    weights = model.conv.weight.detach().clone()
    data = Data("x", ("a", "b"), (4, 4), (0,) * 3, (1,) * 3, {})
    module = TrainingModule(model, BRIGHTNESS, data, LOSS, OPTIMIZER, 0, {})
    assert torch.equal(model.conv.weight, weights)
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    module.training_step((torch.zeros(8, 3, 4, 4, dtype=torch.uint8), torch.zeros(8, dtype=torch.long)), 0)
    assert model.seen.is_contiguous(memory_format=torch.channels_last)


def test_half_precision_leaves_the_transformation_alone():
    images = torch.rand(8, 1, 4, 4)
    family = gs.SmoothedFamily(gs.transforms.GaussianBlur(), {"blur": gs.Exponential(0.5)})
    module = make(family)
    seen = []
    for enabled in (False, True):
        module.restart_draws(0, 0, 0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = module.transformed_logits(images, copies=2)
        seen.append(module.model.seen)
    assert torch.equal(*seen)
    assert logits.dtype == torch.bfloat16


@pytest.fixture
def stripes() -> Data:
    """Bright and dark images: two classes that brightness confuses."""
    labels = torch.arange(64) % 2
    images = (80 + 80 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    everything = TensorImages(images, labels)
    return Data("x", ("dark", "bright"), (4, 4), (0,), (1,), {"train": lambda: everything, "val": lambda: everything})


def fit(module, tmp_path, **options):
    del module.log  # the Trainer's
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=options.pop("max_epochs", 1),
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(module)
    return trainer


def test_validation_measures_both_accuracies(stripes, tmp_path):
    module = make(data=stripes, lr=0.0)
    with torch.no_grad():  # bright if the mean exceeds 120/255
        module.model.linear.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        module.model.linear.bias.copy_(torch.tensor([120 / 255, -120 / 255]))
    trainer = fit(module, tmp_path)
    assert trainer.callback_metrics[CLEAN] == 1
    # Each class is 40/255 from the threshold: right with probability Φ(40/255/.5).
    expected = torch.special.ndtr(torch.tensor(40 / 255 / 0.5)).item()
    n = 64 * VALIDATION_COPIES
    assert trainer.callback_metrics[UNDER_LAW].item() == pytest.approx(expected, abs=4 * 0.5 * n**-0.5)


def test_epochs_are_compared_on_the_same_validation_draws():
    module, seen = make(), []
    for _ in range(2):
        module.on_validation_epoch_start()
        module.transformed_logits(unit(batch()[0]), VALIDATION_COPIES)
        seen.append(module.model.seen)
    assert torch.equal(*seen)


def test_schedules(stripes, tmp_path):
    rates = {}
    for schedule in ("cosine", "none"):
        trainer = fit(make(data=stripes, schedule=schedule), tmp_path)
        rates[schedule] = trainer.optimizers[0].param_groups[0]["lr"]
    assert rates["cosine"] == pytest.approx(0, abs=1e-9)  # all 8 steps are done
    assert rates["none"] == 0.1


class Watching(Callback):
    """Keeps the weights after every step, and what a checkpoint would hold then."""

    def __init__(self):
        self.weights, self.saved = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.weights.append({k: v.clone() for k, v in pl_module.model.state_dict().items()})
        dumped = trainer._checkpoint_connector.dump_checkpoint()
        self.saved.append({key: {k: v.clone() for k, v in dumped[key].items()} for key in ("state_dict", "learning")})


def test_a_moving_average_is_what_is_validated_and_saved(stripes, tmp_path):
    module, watching = make(data=stripes, ema=0.5), Watching()
    mean = {name: value.clone() for name, value in module.model.state_dict().items()}
    seen, apart = [], []
    module._averaged[0].register_forward_hook(lambda *_: seen.append(module.training))
    trainer = fit(module, tmp_path, callbacks=[watching], num_sanity_val_steps=0)
    for step, (weights, saved) in enumerate(zip(watching.weights, watching.saved, strict=True)):
        stays = min(0.5, (1 + step) / (10 + step))  # the first weights are random, and soon forgotten
        mean = {name: stays * value + (1 - stays) * weights[name] for name, value in mean.items()}
        torch.testing.assert_close(saved["state_dict"], {f"model.{name}": value for name, value in mean.items()})
        torch.testing.assert_close(saved["learning"], {f"model.{name}": value for name, value in weights.items()})
        apart.append((mean["linear.weight"] - weights["linear.weight"]).abs().max().item())
    assert step == 7
    assert len(seen) == 2 * 8  # of each batch of validation, as it is and transformed
    assert not any(seen)
    assert "learning" not in trainer._checkpoint_connector.dump_checkpoint(weights_only=True)
    assert max(apart) > 1e-3, "the mean never left the weights that learn: the comparisons above tell nothing"


def test_a_moving_average_goes_on_where_it_stopped(stripes, tmp_path):
    ended, begun = make(data=stripes, ema=0.9, epochs=1), make(data=stripes, ema=0.9, epochs=1)
    with torch.no_grad():
        for value in begun.model.parameters():
            value.zero_()
    trainer = fit(ended, tmp_path)
    checkpoint = trainer._checkpoint_connector.dump_checkpoint()
    begun.on_load_checkpoint(checkpoint)
    begun.load_state_dict(checkpoint["state_dict"])
    torch.testing.assert_close(begun.model.state_dict(), ended.model.state_dict())
    torch.testing.assert_close(begun._averaged[0].state_dict(), ended._averaged[0].state_dict())
    with pytest.raises(ValueError, match="lacks the weights that learn"):
        begun.on_load_checkpoint({name: value for name, value in checkpoint.items() if name != "learning"})


@pytest.mark.parametrize("milestones", [[2, 3], None])
def test_steps_come_when_their_epoch_begins(stripes, tmp_path, monkeypatch, milestones):
    rates, step = [], TrainingModule.training_step

    def watched(module, *arguments):
        rates.append(module.trainer.optimizers[0].param_groups[0]["lr"])
        return step(module, *arguments)

    monkeypatch.setattr(TrainingModule, "training_step", watched)
    fit(make(data=stripes, schedule="step", milestones=milestones, gamma=0.5, epochs=4), tmp_path, max_epochs=4)
    assert rates == [0.1] * 16 + [0.05] * 8 + [0.025] * 8  # 8 steps an epoch


@pytest.mark.parametrize(("old", "new"), [("constant", "none"), ("one_cycle", "onecycle")])
def test_older_names_of_schedules_mean_the_same(old, new):
    for done in (0.0, 0.1, 0.5, 1.0):
        assert training.rate({"schedule": old}, done) == training.rate({"schedule": new}, done)


def test_one_cycle_rises_and_falls():
    rates = [training.rate({"schedule": "onecycle"}, step / 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[20] == pytest.approx(1.0)
    assert rates[100] == 0
    steps = {round(after - before, 9) for before, after in itertools.pairwise(rates)}
    assert steps == {0.04, -0.0125}


def test_biases_may_learn_faster_and_decay_as_much(stripes, tmp_path):
    module = make(data=stripes, bias_lr=8.0, weight_decay=0.4)
    module.model.norm = nn.BatchNorm1d(1)
    fit(module, tmp_path)
    weights, biases = module.trainer.optimizers[0].param_groups
    linear, norm = module.model.linear, module.model.norm
    assert {*map(id, weights["params"])} == {id(linear.weight), id(linear.bias), id(norm.weight)}
    assert {*map(id, biases["params"])} == {id(norm.bias)}
    assert (weights["initial_lr"], biases["initial_lr"]) == (0.1, 0.8)
    assert biases["initial_lr"] * biases["weight_decay"] == pytest.approx(0.1 * 0.4)


def test_what_is_frozen_is_left_alone():
    module = make()
    module.model.linear.bias.requires_grad_(False)
    assert [value is module.model.linear.weight for group in module._groups() for value in group["params"]] == [True]


def test_plain_training_sees_images_as_they_are():
    module = make(loss={"copies": 1, "consistency": 0.0, "entropy": 0.0, "transformed": False})
    module.training_step(batch(8), 0)
    torch.testing.assert_close(module.model.seen, torch.full((8, 1, 4, 4), GREY))
    with pytest.raises(UserError, match=r"^transformed=false with copies=2.*loss=plain"):
        make(loss={"transformed": False, "consistency": 0.0})


def test_every_step_draws_anew_and_repeats_itself():
    module = make()
    draws = {}
    for where in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)):  # purpose, epoch, step
        module.restart_draws(*where)
        draws.setdefault(where, []).append(module.family.sample(4, generator=module.draws))
    assert torch.equal(*draws[0, 0, 0])
    every = [drawn[0] for drawn in draws.values()]
    assert not any(torch.equal(*two) for two in itertools.combinations(every, 2))
