"""Members of configuration groups as Hydra composes them: files of the site, from ``--config-dir``, come first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from glsmooth.configuration.folder import conf_dir
from glsmooth.configuration.plain import plain

__all__ = ["chosen", "member"]


def member(group: str, name: str) -> dict[str, Any]:
    """What ``group=name`` brings, without any override; nothing where the group has no such member.

    Inside a running command the search path is the command's own, in the jobs of a sweep too. Elsewhere, as in
    Python, it is the packaged folder alone.
    """
    typed = HydraConfig.get().overrides.hydra if _in_command() else []
    overrides = [override for override in typed if override.startswith("hydra.searchpath=")]
    with _hydra():
        loader = GlobalHydra.instance().config_loader()
        known = loader.get_group_options(group, overrides=overrides)
        cfg = hydra.compose(overrides=[*overrides, f"+{group}={name}"]) if name in known else {}
        found: dict[str, Any] = plain(cfg.get(group, {}))
        return found


def chosen(group: str) -> str | None:
    """The member of ``group`` that the running command was composed of; None outside a command."""
    name: str | None = HydraConfig.get().runtime.choices.get(group) if _in_command() else None
    return name


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
