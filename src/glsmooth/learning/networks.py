"""Networks of this program, of images that are normalised already."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Linear):
    """A last layer that computes in float32 also where autocast has the others in half precision.

    Logits of 8 bits tie now and then, and a tie is no vote.
    """

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features.to(self.weight.dtype), self.weight, self.bias)


def _conv_bn(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class SmallCNN(nn.Module):
    """Four convolutions for small grey images: trains in about a minute on two CPU cores."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv_bn(channels, 32, size=5, stride=2),
            nn.ReLU(),
            _conv_bn(32, 64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            _conv_bn(64, 64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            _conv_bn(64, 128),
            nn.ReLU(),
        )
        self.fc = Head(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(images).mean(dim=(2, 3)))
        return logits


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv_bn(inputs, outputs, stride=stride)
        self.conv2 = _conv_bn(outputs, outputs)
        # A 1x1 convolution where the shape changes, as in Cohen et al. 2019 (He et al. pad with zeros).
        changes = stride != 1 or inputs != outputs
        self.shortcut = _conv_bn(inputs, outputs, size=1, stride=stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class CifarResNet(nn.Module):
    """The residual network for 32x32 images of He et al. 2016, section 4.2, of depth 6n + 2.

    Three stages of n basic blocks with 16, 32 and 64 channels; shortcuts are 1x1 convolutions ("option B"),
    as in Cohen et al. 2019.
    """

    def __init__(self, depth: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = _conv_bn(channels, 16)
        blocks: list[nn.Module] = []
        inputs = 16
        for stage, outputs in enumerate((16, 32, 64)):
            for block in range((depth - 2) // 6):
                blocks.append(_BasicBlock(inputs, outputs, stride=2 if stage > 0 and block == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.blocks_a_stage = len(blocks) // 3
        self.fc = Head(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.blocks(F.relu(self.stem(images))).mean(dim=(2, 3)))
        return logits

    def layout_of_cohen(self) -> dict[str, str]:
        """The names that this network's tensors have in the code of Cohen et al. (locuslab/smoothing,
        code/archs/cifar_resnet.py), each with ours: the same layers, called as torchvision calls its."""
        names = {}
        for ours in self.state_dict():
            parts = ours.split(".")
            if parts[0] == "stem":
                layer = {"0": "conv1", "1": "bn1"}[parts[1]]
            elif parts[0] == "blocks":
                stage, block = divmod(int(parts[1]), self.blocks_a_stage)
                kind, place = parts[2:4]
                number = kind.removeprefix("conv")
                inner = f"downsample.{place}" if kind == "shortcut" else f"{('conv', 'bn')[int(place)]}{number}"
                layer = f"layer{stage + 1}.{block}.{inner}"
            else:
                layer = parts[0]
            names[f"{layer}.{parts[-1]}"] = ours
        return names


class _WideBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        change = self.conv2(F.relu(self.bn2(self.conv1(active))))
        # Where the shape changes, the shortcut is of what the block sees.
        out: Tensor = change + (x if self.shortcut is None else self.shortcut(active))
        return out


class WideResNet(nn.Module):
    """The wide residual network for 32x32 images of Zagoruyko & Komodakis 2016, WRN-depth-width, without dropout.

    Three stages of (depth − 4) / 6 blocks with 16, 32 and 64 times ``width`` channels; normalisation and ReLU come
    before the convolutions.
    """

    def __init__(self, depth: int, width: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        inputs = 16
        for stage, outputs in enumerate((16 * width, 32 * width, 64 * width)):
            for block in range((depth - 4) // 6):
                blocks.append(_WideBlock(inputs, outputs, stride=2 if stage > 0 and block == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.fc = Head(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(F.relu(self.bn(self.blocks(self.stem(images)))).mean(dim=(2, 3)))
        return logits


#: Added to the eigenvalues of patches: directions without content are not blown up.
_WHITENING_EPS = 5e-4
#: Logits are divided by it: the network is so short that they would be large from the first step on.
_LOGIT_SCALE = 9.0


class Whitening(nn.Conv2d):
    """A frozen 2x2 convolution whose outputs are the decorrelated patches of the training images, and their negatives.

    Before :meth:`fit` it holds random weights, which loaded ones replace.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * 4 * channels, 2)
        self.weight.requires_grad_(False)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Take the eigenvectors of the patches of ``images`` (N, C, H, W), as the network sees them."""
        patches = images.double().unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
        values, vectors = torch.linalg.eigh(patches.mT @ patches / len(patches))
        filters = (vectors / (values.clamp(min=0) + _WHITENING_EPS).sqrt()).mT.unflatten(1, self.weight.shape[1:])
        self.weight.copy_(torch.cat((filters, -filters)))


class _CyclicConv2d(nn.Conv2d):
    """A 3x3 convolution of images whose opposite edges touch.

    That of torch (``padding_mode="circular"``) loses the memory format, and half of the speed with it.
    """

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(_wrapped(images, 1, 1, 1, 1), self.weight, self.bias)


def _wrapped(images: Tensor, above: int, below: int, left: int, right: int) -> Tensor:
    """Images with so many rows and columns more, which are those at the opposite edge."""
    height, width = images.shape[-2:]
    images = torch.cat((images[..., width - left :], images, images[..., :right]), 3)
    return torch.cat((images[:, :, height - above :], images, images[:, :, :below]), 2)


def _convolution(inputs: int, outputs: int, cyclic: bool) -> nn.Conv2d:
    """A 3x3 convolution that hands its inputs through until it has learnt better."""
    conv = (_CyclicConv2d if cyclic else nn.Conv2d)(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight[: min(inputs, outputs)])
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    """A batch normalisation whose scale stays 1: the next convolution has one."""
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


class CifarFast(nn.Module):
    """A compact network for small images, which trains in minutes.

    A whitening, three groups of two convolutions with a maximum over 2x2 pixels between, and the maximum over the
    image. The design and most of the training recipe (``experiment=cifar10_base``) follow the speed records on CIFAR-10
    of Page ("How to train your ResNet", 2018) and Jordan ("94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024).

    Args:
        widths: channels of the groups; 118 million multiplications an image of 32x32 pixels.
        cyclic: beyond an edge lies what is at the opposite one, as where images are shifted cyclically: no shift moves
            anything out of sight. Weights of one kind fit the other, and are a start for its training.
    """

    def __init__(
        self, channels: int, num_classes: int, widths: Sequence[int] = (64, 256, 256), cyclic: bool = False
    ) -> None:
        super().__init__()
        self.cyclic = cyclic
        self.whiten = Whitening(channels)
        layers: list[nn.Module] = []
        inputs = self.whiten.out_channels
        for outputs in widths:
            layers += [_convolution(inputs, outputs, cyclic), nn.MaxPool2d(2), _norm(outputs), nn.GELU()]
            layers += [_convolution(outputs, outputs, cyclic), _norm(outputs), nn.GELU()]
            inputs = outputs
        self.groups = nn.Sequential(*layers)
        self.fc = Head(inputs, num_classes)
        nn.init.kaiming_uniform_(self.fc.weight, a=math.sqrt(5))
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        if self.cyclic:
            images = _wrapped(images, 0, 1, 0, 1)
        features = self.groups(F.gelu(self.whiten(images))).amax(dim=(2, 3))
        logits: Tensor = self.fc(features) / _LOGIT_SCALE
        return logits


#: Of the record for 95 %; 2.5 times the multiplications.
_WIDE = (128, 384, 384)

BUILTIN: dict[str, Callable[[int, int], nn.Module]] = {
    "small_cnn": SmallCNN,
    "cifar_resnet20": lambda channels, num_classes: CifarResNet(20, channels, num_classes),
    "cifar_resnet110": lambda channels, num_classes: CifarResNet(110, channels, num_classes),
    "cifar_wrn16_4": lambda channels, num_classes: WideResNet(16, 4, channels, num_classes),
    "cifar_wrn28_10": lambda channels, num_classes: WideResNet(28, 10, channels, num_classes),
    "cifar_fast": CifarFast,
    "cifar_fast_cyclic": lambda channels, num_classes: CifarFast(channels, num_classes, cyclic=True),
    "cifar_fast_wide": lambda channels, num_classes: CifarFast(channels, num_classes, _WIDE),
    "cifar_fast_wide_cyclic": lambda channels, num_classes: CifarFast(channels, num_classes, _WIDE, cyclic=True),
}
