"""Where a box keeps things, and what its log lines and sizes look like."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

from contract.settings import SettingsError, load_settings, print_default_config
from contract.sizes import size_text
from edge.config import MAX_SOCKET_PATH_BYTES, Settings
from edge.logs import FieldFormatter


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


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    return path


def test_the_printed_configuration_is_the_defaults(tmp_path: Path) -> None:
    text = print_default_config(Settings)
    assert load_settings(Settings, write(tmp_path, text), {}) == Settings()
    for table in ("\n[gateway.tls]\n", "\n# [[scanners]]\n", "\n# [quirks.name]\n"):
        assert table in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '[[scanners]]\nae_title = "CT1"\n[[scanners]]\nae_title = "CT1"\n',
            "edge.toml: two scanners have the AE title CT1: one entry with both addresses does it",
        ),
        (
            '[[scanners]]\nae_title = "CT1"\nquirks = "old"\n',
            "edge.toml: CT1 names the quirks old, and no such profile is there",
        ),
        (
            '[[scanners]]\nae_title = "CT1"\naddresses = ["10.0.0.0/33"]\n',
            "line 3: scanners.0.addresses.0: '10.0.0.0/33' is not an IP address or network",
        ),
        (
            f'[[scanners]]\nae_title = "CT1"\ncertificate_sha256 = "{"a" * 64}"\n',
            'line 1: scanners.0: certificate_sha256 needs tls = "required"',
        ),
        (
            '[[scanners]]\nae_title = "CT1"\ncall_over = "tls"\n',
            "CT1 is to be called over TLS: that needs certificate, key and client_ca of gateway.tls",
        ),
        ('[gateway.tls]\ncertificate = "/a"\n', "line 1: gateway.tls: key and client_ca not set"),
        (
            "[quirks.mine]\nmax_pdu = 5\n",
            "line 2: unknown key quirks.mine.max_pdu; did you mean quirks.<name>.max",
        ),
    ],
)
def test_what_cannot_hold_together_is_said_in_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=re.escape(says)):
        load_settings(Settings, write(tmp_path, text), {})


def test_a_scanner_may_name_a_profile_of_the_box_or_of_the_file(tmp_path: Path) -> None:
    text = (
        '[[scanners]]\nae_title = "A"\nquirks = "old-toolkit"\n'
        '[[scanners]]\nae_title = "B"\nquirks = "mine"\n[quirks.mine]\nomit_error_comment = true\n'
    )
    assert [one.quirks for one in load_settings(Settings, write(tmp_path, text), {}).scanners] == [
        "old-toolkit",
        "mine",
    ]


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
