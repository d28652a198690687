"""C-ECHO as a technician uses it: an answer, or a sentence that says where to look."""

from __future__ import annotations

import subprocess
import threading
import time

import pytest

from edge.gateway.addresses import Address
from edge.gateway.echo import echo
from tests.edge.gateway.conftest import Gateway, StartGateway
from tests.peers_installed import program
from tests.ports import free_base_port


def test_a_box_that_is_there(gateway: Gateway) -> None:
    result = echo(Address("127.0.0.1", gateway.port), "DICOMNET", "TECH", 60)
    assert result.ok
    assert result.round_trip_ms is not None
    assert 0 < result.round_trip_ms < 60_000


def test_a_wrong_ae_title(start_gateway: StartGateway) -> None:
    gateway = start_gateway(require_called_ae_title=True)
    result = echo(Address("127.0.0.1", gateway.port), "WRONG", "TECH", 60)
    assert (result.ok, "check its AE title" in result.detail) == (False, True)


def test_nobody_there() -> None:
    result = echo(Address("127.0.0.1", free_base_port(1)), "NOBODY", "TECH", 2)
    assert (result.ok, "cannot be reached" in result.detail) == (False, True)


@pytest.mark.needs("dcmtk")
def test_a_foreign_peer(tmp_path: object) -> None:
    port = free_base_port(1)
    process = subprocess.Popen(
        [str(program("storescp")), "-od", str(tmp_path), str(port)], stderr=subprocess.DEVNULL
    )
    try:
        deadline_s = time.monotonic() + 60
        while not (result := echo(Address("127.0.0.1", port), "STORESCP", "TECH", 10)).ok:
            if time.monotonic() > deadline_s:
                break
            threading.Event().wait(0.05)  # it does not say when it listens
        assert result.ok, result.detail
    finally:
        process.terminate()
        process.wait()
