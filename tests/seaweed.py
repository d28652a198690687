"""A real S3 server of our own (SeaweedFS), on loopback, in a folder of its own; it goes with the tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import obstore
from obstore.store import S3Store

from tests.ports import free_base_port

KEY_ID, SECRET = "tests", "only-for-tests"
_START_S = 60


@dataclass
class S3Server:
    """Answers at `endpoint`; buckets are made when something is put into them."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _written: bool = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def credentials(self) -> Path:
        return self.folder / "credentials"

    def bucket(self, name: str) -> S3Store:
        """A client of the tests' own."""
        return S3Store(
            name,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=KEY_ID,
            secret_access_key=SECRET,
            client_options={"allow_http": True},
        )

    def start(self) -> None:
        names = ("s3.port", "master.port", "volume.port", "filer.port")
        ports = [f"-{name}={self.port + offset}" for offset, name in enumerate(names)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    Path(sysconfig.get_path("scripts")) / "weed",
                    "mini",
                    f"-dir={self.folder / 'data'}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    *ports,
                    f"-s3.config={self.folder / 's3.json'}",
                    "-admin.ui=false",
                    "-webdav=false",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-master.telemetry=false",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "GOMEMLIMIT": "256MiB"},
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "SeaweedFS did not start"
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        """Whether it is there, and has its volumes: what was written in its last life can be read again."""
        try:
            if httpx.get(f"{self.endpoint}/healthz", trust_env=False, timeout=2).status_code != 200:
                return False
            probe = self.bucket("probe")
            if self._written:
                obstore.get(probe, "probe").bytes()
            obstore.put(probe, "probe", b"written")
        except (httpx.TransportError, obstore.exceptions.BaseError, FileNotFoundError):
            return False
        self._written = True
        return True


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server; everything of it is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="dicomnet-s3-"))
    server = S3Server(folder, free_base_port(4))
    try:
        (folder / "data").mkdir()
        (folder / "s3.json").write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": "tests",
                            "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}],
                            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                        }
                    ]
                }
            )
        )
        server.credentials.touch(mode=0o600)
        server.credentials.write_text(
            f"[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n"
        )
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
