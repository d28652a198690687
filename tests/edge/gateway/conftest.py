"""A gateway on a free port over a real spool, and the key to look inside what it stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from contract.identifiers import ObjectId
from edge.buffer.records import ObjectRow
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.gateway.server import GatewayServer
from edge.gateway.settings import GatewaySettings
from tests.edge.buffer.instances import Central
from tests.peers.scripted_scu import ScriptedScu


@dataclass
class Gateway:
    """What a test sees of a running gateway."""

    server: GatewayServer
    spool: Spool
    central: Central
    folder: Path

    @property
    def port(self) -> int:
        return self.server.port

    def connect(self) -> ScriptedScu:
        return ScriptedScu(self.port)

    def rows(self, *states: State) -> list[ObjectRow]:
        return self.spool.list_objects(states=states or list(State), limit=10_000)

    def unseal(self, object_id: ObjectId) -> bytes:
        return self.central.unseal(self.spool, object_id)

    def files(self) -> list[str]:
        """Names of every sealed or unfinished file."""
        return [path.name for path in self.folder.rglob("*") if path.suffix in {".part", ".sealed"}]

    def last_error(self) -> str | None:
        return self.spool.scanners_seen()[0].last_error


StartGateway = Callable[..., Gateway]


@pytest.fixture(scope="session")
def receiving_central() -> Central:
    return Central()


@pytest.fixture
def start_gateway(tmp_path: Path, receiving_central: Central) -> Iterator[StartGateway]:
    """Start one with other settings than the default; `enrolled` and `reserve_bytes` are the spool's."""
    running: list[Gateway] = []

    def start(*, enrolled: bool = True, reserve_bytes: int = 0, **changes: object) -> Gateway:
        spool = Spool.open(
            tmp_path / "spool",
            reserve_bytes=reserve_bytes,
            quarantine_max_bytes=1 << 20,
            keys=receiving_central.ring() if enrolled else None,
        )
        settings = GatewaySettings.model_validate({"host": "127.0.0.1", "port": 0, **changes})
        gateway = Gateway(GatewayServer(settings, spool), spool, receiving_central, tmp_path / "spool")
        gateway.server.start()
        running.append(gateway)
        return gateway

    yield start
    for gateway in running:
        gateway.server.stop()
        gateway.spool.close()


@pytest.fixture
def gateway(start_gateway: StartGateway) -> Gateway:
    return start_gateway()
