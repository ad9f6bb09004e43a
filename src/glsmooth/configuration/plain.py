"""Configurations as plain dictionaries."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from glsmooth.configuration.fields import rule_of
from glsmooth.errors import UserError

__all__ = ["plain"]


def plain(cfg: Any) -> Any:
    """A configuration as plain dictionaries, lists, numbers and strings, with every reference resolved.

    Raises:
        UserError: a mandatory field without a value, or a reference to nothing.
    """
    if not OmegaConf.is_config(cfg):
        return cfg
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        rule = rule_of(error.full_key or "")
        raise UserError(
            f"{error.full_key} is missing; set {error.full_key}={rule.example if rule else 'VALUE'}"
        ) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}; give a value") from None
