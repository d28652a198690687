"""An audit record repository for tests: a real TLS server that reads RFC 5425 frames and keeps the messages."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from central.audit.settings import AuditSettings
from central.identity.authority import CertificateAuthority
from tests.ports import free_base_port

WAIT_S = 60


class Papers:
    """A CA in a folder, and certificates of it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._authority = CertificateAuthority.open(folder)
        self.ca = folder / "authority.pem"
        self.ca.write_bytes(self._authority.pem)

    def server(self, *hosts: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        return self._written("server", key, self._authority.issue_server(key.public_key(), hosts))

    def client(self) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        return self._written("client", key, self._authority.issue_broker_client(key.public_key()))

    def _written(self, name: str, key: ec.EllipticCurvePrivateKey, certificate: object) -> tuple[Path, Path]:
        paths = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))  # type: ignore[attr-defined]
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return paths


class Repository:
    """Listens in the block; `stop` and `start` again on the same port.

    Attributes
    ----------
    messages : whole messages, in the order in which they came, over all connections.
    reading : cleared, nothing more is read.
    """

    def __init__(self, papers: Papers, *, wants_certificate: bool = False) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*papers.server("127.0.0.1"))
        if wants_certificate:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(papers.ca)
        self.messages: list[bytes] = []
        self.connections = 0
        self.reading = threading.Event()
        self.reading.set()
        self._changed = threading.Condition()
        self._open: list[socket.socket] = []
        self.port = 0

    def __enter__(self) -> Repository:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reading.set()
        self.stop()

    def start(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port or free_base_port(1)))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, args=(self._listening,))
        self._thread.start()

    def stop(self) -> None:
        """Gone at once, as by a fall of the machine's power: connections break, the port refuses."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._changed:
            for line in self._open:
                with contextlib.suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
        self._thread.join(WAIT_S)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_S), f"{len(self.messages)} messages"

    def settings(self, papers: Papers, **changes: object) -> AuditSettings:
        return AuditSettings.model_validate(
            {"syslog_host": "127.0.0.1", "syslog_port": self.port, "syslog_ca": papers.ca, **changes}
        )

    def _accept(self, listening: socket.socket) -> None:
        readers = []
        while True:
            try:
                line, _ = listening.accept()
            except OSError:
                break
            with self._changed:
                self._open.append(line)
            reader = threading.Thread(target=self._read, args=(line,))
            reader.start()
            readers.append(reader)
        for reader in readers:
            reader.join(WAIT_S)

    def _read(self, plain: socket.socket) -> None:
        try:
            line = self._context.wrap_socket(plain, server_side=True)
        except OSError:
            plain.close()
            return
        with self._changed:
            self._open.append(line)
            self.connections += 1
            self._changed.notify_all()
        waiting = b""
        with line, contextlib.suppress(OSError, ValueError):  # ValueError: `stop` was in between
            while True:
                self.reading.wait(WAIT_S)
                piece = line.recv(65536)
                if not piece:
                    line.unwrap()
                    break
                waiting = self._keep(waiting + piece)
        assert waiting == b"" or self._listening.fileno() == -1, "an end within a message"

    def _keep(self, waiting: bytes) -> bytes:
        """Take whole frames off the front; what is left of the last one."""
        while (length := re.match(rb"[1-9][0-9]{0,4} ", waiting)) is not None:
            end = length.end() + int(length[0])
            if len(waiting) < end:
                break
            with self._changed:
                self.messages.append(waiting[length.end() : end])
                self._changed.notify_all()
            waiting = waiting[end:]
        return waiting


def until(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells: another thread's log line, a row that it wrote."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
