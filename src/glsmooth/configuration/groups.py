"""Members of configuration groups as Hydra composes them: files of the site, from ``--config-dir``, come first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from glsmooth.configuration.folder import conf_dir
from glsmooth.configuration.plain import plain

__all__ = ["chosen", "command", "member"]


def member(group: str, name: str) -> dict[str, Any]:
    """What ``group=name`` brings, without any override; nothing where the group has no such member.

    Inside a running command the search path is the command's own, in the jobs of a sweep too. Elsewhere, as in
    Python, it is the packaged folder alone.
    """
    overrides = _search_path()
    with _hydra():
        loader = GlobalHydra.instance().config_loader()
        known = loader.get_group_options(group, overrides=overrides)
        cfg = hydra.compose(overrides=[*overrides, f"+{group}={name}"]) if name in known else {}
        found: dict[str, Any] = plain(cfg.get(group, {}))
        return found


def command(name: str, choices: list[str]) -> DictConfig:
    """The configuration of a command as it would be composed with these ``group=choice``; not resolved.

    Seen from where :func:`member` looks.
    """
    with _hydra():
        return hydra.compose(name, [*_search_path(), *choices])


def chosen(group: str) -> str | None:
    """The member of ``group`` that the running command was composed of; None outside a command."""
    name: str | None = HydraConfig.get().runtime.choices.get(group) if _in_command() else None
    return name


def _search_path() -> list[str]:
    typed = HydraConfig.get().overrides.hydra if _in_command() else []
    return [override for override in typed if override.startswith("hydra.searchpath=")]


def _in_command() -> bool:
    # Hydra's configuration outlives a command that only printed its help.
    return GlobalHydra.instance().is_initialized() and HydraConfig.initialized()


@contextmanager
def _hydra() -> Iterator[None]:
    if GlobalHydra.instance().is_initialized():
        yield
    else:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
