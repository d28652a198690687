"""Where a box keeps things, and what its log lines and sizes look like."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from contract.settings import SettingsError, load_settings
from edge.config import MAX_SOCKET_PATH_BYTES, Settings
from edge.logs import FieldFormatter
from edge.report import size_text


def settings(**environ: str) -> Settings:
    return load_settings(Settings, None, environ)


def test_the_control_socket_lies_in_the_state_directory() -> None:
    found = settings(DICOMNET_BOX_STATE_DIRECTORY="/srv/box").control_socket_path
    assert found == Path("/srv/box/control.sock")


def test_a_long_state_directory_gets_a_short_socket_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "/srv/" + "x" * 100
    for runtime in ("/run/user/1000", None):
        if runtime:
            monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        else:
            monkeypatch.delenv("XDG_RUNTIME_DIR")
        first = settings(DICOMNET_BOX_STATE_DIRECTORY=long).control_socket_path
        other = settings(DICOMNET_BOX_STATE_DIRECTORY=long + "y").control_socket_path
        assert len(os.fsencode(first)) <= MAX_SOCKET_PATH_BYTES
        assert first != other
        assert first == settings(DICOMNET_BOX_STATE_DIRECTORY=long).control_socket_path


def test_a_socket_path_that_was_set_too_long_is_refused_with_the_limit() -> None:
    with pytest.raises(SettingsError, match="at most 107 bytes, this one has 121"):
        settings(DICOMNET_BOX_CONTROL_SOCKET="/" + "ä" * 60)


def test_a_log_line_is_one_line_with_fields() -> None:
    record = logging.makeLogRecord(
        {
            "name": "edge.test",
            "levelname": "INFO",
            "msg": "refused\nforged line",
            "calling_ae_title": 'CT 1" x\n',
            "attempts": 3,
            "created": 0.0,
        }
    )
    line = FieldFormatter().format(record)
    assert "\n" not in line
    assert line.startswith("1970-01-01T00:00:00")
    assert line.endswith(r'refused forged line calling_ae_title="CT 1\" x\n" attempts=3')


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1_572_864, "1.50 MiB"),
        (1023 << 20, "1023 MiB"),
        (5 << 40, "5.00 TiB"),
        (5 << 50, "5120 TiB"),
    ],
)
def test_sizes_are_short(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text
