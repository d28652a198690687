"""The whole box and its scanners: held, approved through the control socket, and remembered after a kill."""

from __future__ import annotations

import json
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE, evt

from contract.control import CallerParams, KnownScanner, ScannerEntry, ScannerList
from edge.control import ControlError, ask
from tests.edge.app.test_app import RunningBox
from tests.edge.gateway.authority import Authority, Pair

VERIFICATION = "1.2.840.10008.1.1"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    authority = Authority(tmp_path / "ca")
    box = authority.issue("box")
    path = tmp_path / "edge.toml"
    path.write_text(
        f"""
[box]
state_directory = "{tmp_path / "state"}"
control_socket = "{tmp_path / "c.sock"}"
[gateway]
host = "127.0.0.1"
port = 0
unknown_scanners = "hold"
[gateway.tls]
port = 0
certificate = "{box.certificate}"
key = "{box.key}"
client_ca = "{authority.ca}"
[buffer]
reserve_bytes = 0
[[scanners]]
ae_title = "FIXED"
quirks = "site"
[quirks.site]
max_pdu_bytes = 32768
"""
    )
    return path


@pytest.fixture
def box(config: Path) -> Iterator[RunningBox]:
    running = RunningBox(config)
    yield running
    if running.process.poll() is None:
        running.stop()


def echo(port: int, ae_title: str) -> AE | None:
    """What is negotiated with a C-ECHO user of that name; None if it is rejected."""
    ae = AE(ae_title=ae_title)
    ae.add_requested_context(VERIFICATION)
    association = ae.associate("127.0.0.1", port, ae_title="DICOMNET")
    if not association.is_established:
        return None
    ae.maximum_pdu_size = association.acceptor.maximum_length
    association.release()
    return ae


def change(box: RunningBox, method: str, **params: object) -> list[KnownScanner]:
    return ScannerList.model_validate(ask(box.socket, method, params, timeout_s=60)).scanners


def standings(scanners: list[KnownScanner]) -> dict[str, str]:
    return {one.ae_title: one.standing for one in scanners}


def test_a_technicians_decisions_hold_at_once_and_after_a_kill(box: RunningBox, config: Path) -> None:
    fixed = echo(box.port, "FIXED")
    assert fixed is not None
    assert fixed.maximum_pdu_size == 32_768
    assert echo(box.port, "CT1") is None
    assert echo(box.port, "BAD") is None
    held = change(box, "scanners")
    assert standings(held) == {"CT1": "waiting", "BAD": "waiting", "FIXED": "configured"}

    change(box, "approve", **CallerParams(ae_title="CT1", address="127.0.0.1").model_dump())
    change(box, "refuse", **CallerParams(ae_title="BAD", address="127.0.0.1").model_dump())
    assert echo(box.port, "CT1") is not None
    assert echo(box.port, "BAD") is None
    with pytest.raises(ControlError, match="FIXED is in the configuration file"):
        change(box, "remove_scanner", ae_title="FIXED")
    with pytest.raises(ControlError, match=r"addresses\.0: 'nowhere' is not an IP address"):
        change(box, "save_scanner", **ScannerEntry(ae_title="MR1", addresses=["nowhere"]).model_dump())

    box.process.send_signal(signal.SIGKILL)
    box.process.wait(60)
    again = RunningBox(config)
    try:
        assert echo(again.port, "CT1") is not None
        assert echo(again.port, "BAD") is None
        scanners = change(again, "scanners")
        assert standings(scanners) == {"FIXED": "configured", "CT1": "approved", "BAD": "refused"}
        change(again, "remove_scanner", ae_title="BAD", address="127.0.0.1")
        assert echo(again.port, "BAD") is None
        assert standings(change(again, "scanners"))["BAD"] == "waiting"
    finally:
        again.stop()
    kept = json.loads((config.parent / "state" / "scanners.json").read_text())
    assert [one["ae_title"] for one in kept["scanners"]] == ["CT1"]


def test_the_tls_port_is_told_and_serves(box: RunningBox, config: Path) -> None:
    tls_port = box.status().tls_port
    assert tls_port
    ca = config.parent / "ca"
    pair = Pair(ca / "box.pem", ca / "box.key")
    context = ssl.create_default_context(cafile=str(ca / "ca.pem"))
    context.load_cert_chain(pair.certificate, pair.key)
    ae = AE(ae_title="FIXED")
    ae.add_requested_context(VERIFICATION)
    ended: list[object] = []
    association = ae.associate(
        "127.0.0.1",
        tls_port,
        ae_title="DICOMNET",
        tls_args=(context, "127.0.0.1"),
        evt_handlers=[(evt.EVT_ABORTED, ended.append)],
    )
    assert association.is_established
    assert association.send_c_echo().Status == 0
    association.release()
    assert ended == []
