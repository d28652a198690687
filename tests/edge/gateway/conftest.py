"""A gateway on a free port over a real spool, and the key to look inside what it stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from contract.identifiers import ObjectId
from edge.buffer.label import Label
from edge.buffer.records import ObjectRow
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.gateway.admission import Admission
from edge.gateway.approved import ApprovedFile
from edge.gateway.arrival import TlsArrival
from edge.gateway.association import Association
from edge.gateway.quirks import Quirks, profiles
from edge.gateway.server import GatewayServer
from edge.gateway.service import Service
from edge.gateway.settings import GatewaySettings, ScannerSettings
from tests.edge.buffer.instances import Central, held_files
from tests.peers.scripted_scu import ScriptedScu


@dataclass
class Gateway:
    """What a test sees of a running gateway."""

    server: GatewayServer
    spool: Spool
    central: Central
    folder: Path
    admission: Admission

    @property
    def port(self) -> int:
        return self.server.port

    def connect(self) -> ScriptedScu:
        return ScriptedScu(self.port)

    def rows(self, *states: State) -> list[ObjectRow]:
        return self.spool.holdings.list_objects(states=states or list(State), limit=10_000)

    def unseal(self, object_id: ObjectId) -> bytes:
        return self.central.unseal(self.spool, object_id)

    def files(self) -> list[str]:
        """Names of every file with something of an instance in it."""
        return [path.name for path in held_files(self.folder)]

    def is_receiving(self) -> bool:
        """Whether some association is inside a message."""
        running = list(self.server._running.values())
        associations = [one._association if isinstance(one, TlsArrival) else one for one in running]
        exchanges = [one._exchange for one in associations if isinstance(one, Association)]
        return any(one is not None and one.busy for one in exchanges)

    def last_error(self) -> str | None:
        return self.spool.scanners.all()[0].last_error


StartGateway = Callable[..., Gateway]


@pytest.fixture(scope="session")
def receiving_central() -> Central:
    return Central()


@pytest.fixture
def start_gateway(tmp_path: Path, receiving_central: Central) -> Iterator[StartGateway]:
    """Start one with other settings than the default; `enrolled` and `reserve_bytes` are the spool's."""
    running: list[Gateway] = []

    def start(
        *,
        enrolled: bool = True,
        reserve_bytes: int = 0,
        services: Sequence[Service] = (),
        on_stored: Callable[[Label], None] = lambda _: None,
        scanners: Sequence[Mapping[str, object]] = (),
        quirks: Mapping[str, Quirks] | None = None,
        approved: Path | None = None,
        may_ask: Callable[[str, str], bool] = lambda _ae_title, _address: False,
        **changes: object,
    ) -> Gateway:
        spool = Spool.open(
            tmp_path / "spool",
            reserve_bytes=reserve_bytes,
            quarantine_max_bytes=1 << 20,
            keys=receiving_central.ring() if enrolled else None,
            on_stored=on_stored,
        )
        settings = GatewaySettings.model_validate({"host": "127.0.0.1", "port": 0, **changes})
        admission = Admission(
            settings,
            [ScannerSettings.model_validate(scanner) for scanner in scanners],
            profiles=profiles(quirks or {}),
            file=ApprovedFile(approved) if approved else None,
            may_ask=may_ask,
        )
        gateway = Gateway(
            GatewayServer(settings, spool.entrance, services, admission),
            spool,
            receiving_central,
            tmp_path / "spool",
            admission,
        )
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
