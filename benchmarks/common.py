"""What the benchmarks share: their settings, the machine, an untrained network, a transformation's default laws."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from glsmooth.configuration.build import build_family
from glsmooth.configuration.groups import member
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.models import build_model


def begin(defaults: Mapping[str, Any]) -> tuple[DictConfig, torch.device]:
    """The settings, those typed among them; the device that they choose; torch has their number of threads."""
    cfg = OmegaConf.merge(OmegaConf.create(dict(defaults)), OmegaConf.from_cli())
    assert isinstance(cfg, DictConfig)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    return cfg, torch.device(cfg.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def machine(device: torch.device) -> str:
    """What figures are to be quoted with: processor, versions, threads, and what else it had to do."""
    model = re.search(r"model name\s*: (.*)", read(Path("/proc/cpuinfo")))
    name = model.group(1) if model else platform.processor() or platform.machine()
    cuda = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return (
        f"{cuda}{name}, {os.cpu_count()} cores{load}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread(s)"
    )


def read(path: Path) -> str:
    """A file's text; empty where there is none, as on other systems."""
    try:
        return path.read_text()
    except OSError:
        return ""


def untrained(name: str, size: int, classes: int = 10, channels: int = 3) -> nn.Module:
    """A network with random weights, by torch's generator as it stands, for square images."""
    spec = {"name": name, "pretrained": False, "weights": None}
    return build_model(spec, classes, channels, [0.5] * channels, [0.25] * channels, (size, size))


def default_family(transform: str, size: int) -> SmoothedFamily:
    """The family of a transformation's default laws, for square images."""
    return build_family(member("transform", transform), member("smoothing", transform), (size, size))
