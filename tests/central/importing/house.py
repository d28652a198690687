"""A central for imports: its settings in a file, and the command line as a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from central.access.policy import Principal, Role, scope_of
from central.archive.archive import Archive
from central.archive.query import InstanceQuery
from central.archive.rows import InstanceRow
from central.audit.events import Action, AuditRow
from central.audit.reading import Wanted
from central.commands import run_command
from central.config import Settings
from central.foundation import Foundation, open_archive
from contract.settings import load_settings
from tests.central.app.program import CENTRAL
from tests.central.databases import storage_keys
from tests.ports import free_base_port

_MEASURED = """
import resource, sys
from central.app import main
code = main()
ours = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])  # rusage counts who started us
print("PEAK", max(ours, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss), file=sys.stderr)
sys.exit(code)
"""
MOST_BYTES = 320 << 20
"""More than any of the programs takes, and less than one that holds an instance of `large`."""

EVERYBODY = Principal("t", "t", Role.RADIOLOGIST)


def configuration(tmp_path: Path, dicom: dict[str, Any] | None = None, **storage: object) -> Path:
    """A settings file in `tmp_path`, with ports that are free."""
    port = free_base_port(3)
    keys = {**storage_keys(tmp_path / "root"), "reserve_bytes": 0, **storage}
    sections: dict[str, dict[str, Any]] = {
        "people": {"port": port},
        "gateways": {"port": port + 1},
        "dicom": {"port": port + 2, **(dicom or {"enabled": False})},
        "storage": keys,
    }
    path = tmp_path / "central.toml"
    path.write_text("\n".join(_section(name, values) for name, values in sections.items()))
    return path


def _section(name: str, values: dict[str, Any]) -> str:
    plain = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items() if _is_plain(value))
    below = [_section(f"{name}.{key}", value) for key, value in values.items() if isinstance(value, dict)]
    tables = [
        _section(f"[{name}.{key}]", one)
        for key, value in values.items()
        if isinstance(value, list) and not _is_plain(value)
        for one in value
    ]
    head = f"[{name}]"
    return "\n".join([head, plain, *below, *tables])


def _is_plain(value: object) -> bool:
    return not isinstance(value, dict) and not (isinstance(value, list) and any(map(_is_table, value)))


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def command(
    config: Path, name: str, *arguments: object, largest_file_bytes: int = resource.RLIM_INFINITY
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; a file that grows beyond `largest_file_bytes` meets a full disk."""
    return subprocess.run(
        [*CENTRAL, *name.split(), "--config", str(config), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes,) * 2),
    )


def large() -> dict[str, object]:
    """Changes that make an instance of 384 MiB."""
    return {"Rows": 12_288, "Columns": 16_384, "PixelData": bytes(384 << 20)}


def measured(config: Path, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """As `command`; `peak_bytes` says the most memory that it, or a worker of it, took."""
    return subprocess.run(
        [sys.executable, "-c", _MEASURED, name, "--config", str(config), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def peak_bytes(done: subprocess.CompletedProcess[str]) -> int:
    return int(done.stderr.rpartition("PEAK ")[2]) * 1024


def told(config: Path, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """As `command`, without a process of its own."""
    said, errors = io.StringIO(), io.StringIO()
    words = [*name.split(), "--config", str(config), *map(str, arguments)]
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(said):
        try:
            code = run_command(words, lambda _settings: None)
        except SystemExit as error:  # argparse's
            code = int(error.code or 0)
    return subprocess.CompletedProcess(words, code, said.getvalue(), errors.getvalue())


def begun(config: Path, name: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a command."""
    return subprocess.Popen(
        [*CENTRAL, *name.split(), "--config", str(config), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_objects(config: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until so many contents are in the archive, or `process` has ended."""
    root, deadline_s = settings_of(config).storage.root, time.monotonic() + 60
    while len(list(root.glob("objects*/??/**/*.dcm"))) < count and process.poll() is None:
        assert time.monotonic() < deadline_s, f"{count} objects did not come"
        time.sleep(0.02)


def settings_of(config: Path) -> Settings:
    return load_settings(Settings, config)


@contextmanager
def looked_into(config: Path) -> Iterator[tuple[Archive, list[AuditRow]]]:
    """The archive, and the newest records of the audit."""
    foundation = Foundation.open(settings_of(config))
    try:
        archive = open_archive(foundation.settings.storage, foundation.db)
        yield archive, foundation.audit.newest(Wanted(), limit=500)
    finally:
        foundation.close()


def instances(archive: Archive) -> list[InstanceRow]:
    return archive.reading.find_instances(scope_of(EVERYBODY, Action.SEARCH), InstanceQuery(limit=None))
