"""The one line that says the system stands: `READY {json}`. Its shape is a contract; scripts read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class DicomAddress:
    host: str
    port: int
    ae_title: str


@dataclass(frozen=True)
class GatewayReady:
    host: str
    port: int
    ae_title: str
    control_socket: str
    pid: int


@dataclass(frozen=True)
class CentralReady:
    url: str
    pid: int
    dicom: DicomAddress


@dataclass(frozen=True)
class BrokerReady:
    """Where anybody on this machine may read the heartbeats."""

    host: str
    port: int


@dataclass(frozen=True)
class Credentials:
    username: str
    password: str


@dataclass(frozen=True)
class Ready:
    """`accounts` has the keys admin, radiologist, doctor and patient."""

    gateway: GatewayReady
    central: CentralReady
    mqtt: BrokerReady
    accounts: Mapping[str, Credentials]

    def json(self) -> str:
        return json.dumps(asdict(self))
