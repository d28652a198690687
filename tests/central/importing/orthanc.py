"""Debian's Orthanc as the archive that is imported from."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.peers_installed import program
from tests.ports import free_base_port


@dataclass
class Orthanc:
    """Its data lie in `folder` and outlive it; it knows `destinations`, AE title → port on loopback."""

    folder: Path
    destinations: Mapping[str, int]
    limit_find_results: int = 0
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.http_port = free_base_port(2)
        self.port = self.http_port + 1
        settings = {
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "index"),
            "HttpPort": self.http_port,
            "DicomPort": self.port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "DicomAlwaysAllowStore": True,
            "DicomModalities": {ae: [ae, "127.0.0.1", port] for ae, port in self.destinations.items()},
            "LimitFindResults": self.limit_find_results,
            "TcpNoDelay": True,
            "OverwriteInstances": False,
        }
        (self.folder / "orthanc.json").write_text(json.dumps(settings))

    @property
    def source(self) -> str:
        return f"ORTHANC@127.0.0.1:{self.port}"

    def put(self, content: bytes) -> None:
        answer = httpx.post(f"http://127.0.0.1:{self.http_port}/instances", content=content, trust_env=False)
        assert answer.status_code == 200, answer.text

    def start(self) -> None:
        path = program("Orthanc")
        assert path is not None
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [path, str(self.folder / "orthanc.json")],
                stdout=log,
                stderr=log,
                env={**os.environ, "TCP_NODELAY": "1"},
            )
        deadline_s = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{self.http_port}/system", trust_env=False).raise_for_status()
            except httpx.HTTPError:
                assert time.monotonic() < deadline_s, (self.folder / "log").read_text(errors="replace")
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(60)
            self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
