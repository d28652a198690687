"""The command line, as a person types it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_base_port


def dicomnet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "demo.app", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )


def test_help_names_the_command_and_its_options() -> None:
    assert "demo" in dicomnet("--help").stdout
    shown = dicomnet("demo", "--help").stdout
    for option in ("--state", "--base-port", "--send", "--no-sample", "--json-only"):
        assert option in shown


@pytest.mark.parametrize(
    "wrong",
    [
        ["--base-port", "80"],
        ["--base-port", "65535"],
        ["--base-port", "many"],
        ["--send", "/does/not/exist"],
        ["--stat", "x", "y"],
    ],
)
def test_a_wrong_command_line_is_refused(wrong: list[str]) -> None:
    result = dicomnet("demo", *wrong)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_a_taken_port_is_one_sentence_and_leaves_nothing_running(tmp_path: Path) -> None:
    base = free_base_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base))
        taken.listen()
        result = dicomnet("demo", "--state", str(tmp_path / "state"), "--base-port", str(base), "--json-only")
    assert result.returncode == 1
    assert result.stdout == ""
    assert f"port {base}" in result.stderr
    assert "--base-port" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_state_directory_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = dicomnet("demo", "--state", str(tmp_path / "file"))
    assert result.returncode == 1
    assert "--state" in result.stderr
    assert "Traceback" not in result.stderr
