"""Members of configuration groups, as Hydra composes them."""

import sys

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig

from glsmooth.commands import bounds
from glsmooth.configuration.groups import chosen, member


def test_a_packaged_member():
    assert member("region", "gamma") == {"gamma": [1.0, 2.0]}
    assert chosen("transform") is None


def test_what_a_command_leaves_behind_is_not_a_running_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bounds", "transform=contrast", "--help"])
    with pytest.raises(SystemExit):
        bounds.main()
    assert HydraConfig.initialized()
    assert chosen("transform") is None


def test_a_member_of_parts():
    laws = member("smoothing", "translation")
    assert list(laws) == ["tx", "ty"]
    assert laws["ty"] == laws["tx"]


def test_no_such_member():
    assert member("smoothing", "mine") == {}
    assert member("smoothing", "custom") == {}
    assert member("nothing", "mine") == {}


def test_the_search_path_is_that_of_the_running_command(tmp_path):
    (tmp_path / "smoothing").mkdir()
    (tmp_path / "smoothing" / "mine.yaml").write_text("tint: {law: Normal, loc: 0.0, scale: 2.0}\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert member("smoothing", "mine") == {"tint": {"law": "Normal", "loc": 0.0, "scale": 2.0}}
        assert member("smoothing", "translation") == {}
    assert member("smoothing", "mine") == {}
