"""Central's own certificates are renewed while it runs: for the gateways' listener, and at the broker beside it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from central.identity import identity
from tests.central.app.house import Box, House, enrol, head
from tests.central.fleet.test_broker import Broker, configured_broker
from tests.ports import free_base_port

pytestmark = pytest.mark.needs("mosquitto")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    port = free_base_port(2)
    mqtt = {"host": "127.0.0.1", "port": port, "directory": str(tmp_path / "broker")}
    with House(tmp_path / "central", mqtt=mqtt) as house:
        yield house


@pytest.fixture
def broker(house: House, tmp_path: Path) -> Iterator[Broker]:
    with configured_broker(house, tmp_path / "broker") as broker:
        broker.start()
        until(lambda: house.central.fleet.broker_state() == "connected")
        yield broker


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def shown(box: Box, port: int) -> x509.Certificate:
    """What a box is shown at this port, after it has verified it."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as raw,
        box.tls().wrap_socket(raw, server_hostname="127.0.0.1") as line,
    ):
        der = line.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def test_a_certificate_whose_end_is_near_is_renewed_without_a_restart(
    house: House, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = enrol(house, tmp_path / "box", "ct1")
    ports = (house.central.gateways.port, broker.plan.port)
    before = [shown(box, port) for port in ports]
    house.central.certificates.look()
    assert [shown(box, port) for port in ports] == before, "there is time yet"
    with box.client() as standing:
        assert head(standing, "0" * 32).status_code == 404
        monkeypatch.setattr(identity, "RENEW_BEFORE", timedelta(days=3650))
        house.central.certificates.look()
        assert head(standing, "0" * 32).status_code == 404, "who is connected stays connected"
    until(lambda: shown(box, ports[1]) != before[1])  # the broker reads it when it comes to its signals
    after = [shown(box, port) for port in ports]
    assert after[0] == after[1]
    assert after[0].serial_number != before[0].serial_number
    assert house.central.fleet.broker_state() == "connected", "and so does central at the broker"


def test_what_cannot_be_renewed_is_logged_and_tried_again(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    box = enrol(house, tmp_path / "box", "ct1")
    before = shown(box, house.central.gateways.port)
    monkeypatch.setattr(identity, "RENEW_BEFORE", timedelta(days=3650))
    key = house.central.foundation.identity.server.key
    key.chmod(0o644)
    house.central.certificates.look()
    assert "could not be looked after" in caplog.text
    assert "chmod 600" in caplog.text
    key.chmod(0o600)
    house.central.certificates.look()
    until(lambda: shown(box, house.central.gateways.port) != before)
