"""Settings from central: a short list, by version, kept over restarts, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from contract.command import Desired, SettingValue
from edge.uplink.remote import Remote


class InForce:
    def __init__(self, directory: Path) -> None:
        self.values: dict[str, SettingValue] = {}
        apply = {name: self._setter(name) for name in ("log_level", "echo_interval_s")}
        self.remote = Remote(directory, {"log_level": "info", "echo_interval_s": 300}, apply)

    def _setter(self, name: str) -> Any:
        return lambda value: self.values.__setitem__(name, value)


def test_a_version_is_applied_at_once_reported_and_kept(tmp_path: Path) -> None:
    box = InForce(tmp_path)
    assert box.remote.reported().version == 0
    assert box.remote.desire(Desired(version=3, settings={"echo_interval_s": 60}))
    assert box.values == {"log_level": "info", "echo_interval_s": 60}
    again = InForce(tmp_path)
    assert again.values == {"log_level": "info", "echo_interval_s": 60}
    assert again.remote.reported().settings["echo_interval_s"] == 60
    assert again.remote.desire(Desired(version=4, settings={}))
    assert again.values["echo_interval_s"] == 300, "what is left out is the box's own again"


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_or_known_version_undoes_nothing(tmp_path: Path, version: int) -> None:
    box = InForce(tmp_path)
    box.remote.desire(Desired(version=3, settings={"log_level": "debug"}))
    assert not box.remote.desire(Desired(version=version, settings={"log_level": "error"}))
    assert box.values["log_level"] == "debug"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("gateway.unknown_scanners", "accept", "cannot be set from central"),
        ("log_level", "silent", "must be one of"),
        ("echo_interval_s", 1, "must be whole seconds"),
        ("echo_interval_s", True, "must be whole seconds"),
        ("echo_interval_s", "60", "must be whole seconds"),
    ],
)
def test_what_may_not_be_set_is_refused_by_name(
    tmp_path: Path, name: str, value: SettingValue, why: str
) -> None:
    box = InForce(tmp_path)
    assert box.remote.desire(Desired(version=1, settings={name: value, "log_level": "debug"} | {name: value}))
    assert box.remote.reported().refused[name].startswith(why)
    assert name not in box.values or box.values[name] in ("info", 300)


def test_pausing_is_kept_over_restarts_and_versions(tmp_path: Path) -> None:
    box = InForce(tmp_path)
    box.remote.keep_paused(True)
    box.remote.desire(Desired(version=1, settings={}))
    assert InForce(tmp_path).remote.paused
    box.remote.keep_paused(False)
    assert not InForce(tmp_path).remote.paused


def test_a_damaged_file_leaves_the_boxs_own_settings(tmp_path: Path) -> None:
    (tmp_path / "remote.json").write_bytes(b'{"version": 1, "settings"')
    assert InForce(tmp_path).remote.reported().settings == {"log_level": "info", "echo_interval_s": 300}


def test_a_value_no_longer_known_is_dropped_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "remote.json").write_text('{"version": 7, "settings": {"gone": 1, "log_level": "debug"}}')
    box = InForce(tmp_path)
    assert box.values["log_level"] == "debug"
    assert box.remote.reported().version == 7
