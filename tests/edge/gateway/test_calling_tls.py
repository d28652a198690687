"""Calls over TLS: who is asked must prove who it is, and nothing is said before it has."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.events import Event

from edge.buffer.worklist_refresh import WorklistSourceError
from edge.gateway.addresses import Address, address_of, scanner_address
from edge.gateway.calling_tls import CallingTls
from edge.gateway.echo import EchoResult, echo
from edge.gateway.errors import CannotCallError
from edge.gateway.settings import ScannerSettings, TlsSettings
from edge.gateway.worklist import MODALITY_WORKLIST_FIND
from edge.gateway.worklist_source import UpstreamWorklist
from tests.edge.destinations.sending import StoreScp
from tests.edge.gateway.authority import Authority, Pair, server_context
from tests.ports import free_base_port


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> TlsSettings:
    box = authority.issue("box")
    return TlsSettings(certificate=box.certificate, key=box.key, client_ca=authority.ca)


@pytest.fixture(scope="module")
def theirs(authority: Authority) -> Pair:
    return authority.issue("ct1")


@pytest.fixture
def scanner(authority: Authority, theirs: Pair, tmp_path: Path) -> Iterator[StoreScp]:
    """DCMTK's, on a TLS port, which wants a certificate."""
    scp = StoreScp(tmp_path / "scanner", free_base_port(1))
    scp.start("+tls", str(theirs.key), str(theirs.certificate), "+cf", str(authority.ca))
    yield scp
    scp.kill()


def asked(address: Address) -> EchoResult:
    return echo(address, "CT1", "DICOMNET", 30)


def entry(port: int, **more: object) -> ScannerSettings:
    return ScannerSettings.model_validate(
        {"ae_title": "CT1", "host": "127.0.0.1", "port": port, "tls": "required", **more}
    )


@pytest.mark.needs("dcmtk")
def test_a_scanner_that_must_send_over_tls_is_called_over_it(scanner: StoreScp, ours: TlsSettings) -> None:
    assert asked(scanner_address(entry(scanner.port), ours)).ok

    plain = asked(scanner_address(entry(scanner.port, call_over="plain"), ours))
    assert not plain.ok
    assert "did not answer as a DICOM node does" in plain.detail


@pytest.mark.needs("dcmtk")
def test_who_shows_another_certificate_is_told_nothing(
    scanner: StoreScp, ours: TlsSettings, theirs: Pair, tmp_path: Path
) -> None:
    pinned = entry(scanner.port, certificate_sha256=theirs.sha256)
    assert asked(scanner_address(pinned, ours)).ok
    other = asked(scanner_address(entry(scanner.port, certificate_sha256="0" * 64), ours))
    assert f"pin the new one ({theirs.sha256})" in other.detail

    stranger = Authority(tmp_path / "stranger")
    of_strangers = ours.model_copy(update={"client_ca": stranger.ca})
    unknown = asked(scanner_address(entry(scanner.port), of_strangers))
    assert "its certificate is not accepted" in unknown.detail
    assert ours.client_ca is not None
    misnamed = CallingTls(ca=ours.client_ca, name="ct2.test", certificate=ours.certificate, key=ours.key)
    assert "the name in it" in asked(Address("127.0.0.1", scanner.port, misnamed)).detail
    nobody = CallingTls(ca=ours.client_ca, name="127.0.0.1", certificate=None, key=None)
    refused = asked(Address("127.0.0.1", scanner.port, nobody))
    assert "does it want a certificate of this box" in refused.detail


@pytest.mark.needs("dcmtk")
def test_a_pinned_certificate_holds_whatever_names_are_in_it(
    scanner: StoreScp, ours: TlsSettings, theirs: Pair
) -> None:
    assert ours.client_ca is not None
    tls = CallingTls(
        ca=ours.client_ca,
        name="10.1.2.3",
        certificate=ours.certificate,
        key=ours.key,
        certificate_sha256=theirs.sha256,
    )
    assert asked(Address("127.0.0.1", scanner.port, tls)).ok


def test_a_box_without_a_certificate_says_so() -> None:
    with pytest.raises(CannotCallError, match=r"of gateway\.tls"):
        scanner_address(entry(104), TlsSettings())


# A worklist server, which is asked through pynetdicom ---------------------------------------------------------


@contextlib.contextmanager
def worklist_server(tls: ssl.SSLContext | None) -> Iterator[int]:
    def find(event: Event) -> Iterator[tuple[int, Dataset | None]]:
        del event
        item = Dataset()
        item.PatientID, item.StudyInstanceUID = "P1", "1.2.3"
        yield 0xFF00, item

    ae = AE("RIS")
    ae.add_supported_context(MODALITY_WORKLIST_FIND)
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find)], ssl_context=tls
    )
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def upstream(address: Address) -> UpstreamWorklist:
    return UpstreamWorklist(
        address, ae_title="RIS", calling_ae_title="DICOMNET", horizon_days=3, timeout_s=30
    )


def test_a_worklist_is_fetched_over_tls(authority: Authority, theirs: Pair, ours: TlsSettings) -> None:
    with worklist_server(server_context(theirs, authority)) as port:
        assert len(upstream(address_of("127.0.0.1", port, ours, over_tls=True)).fetch("").items) == 1


def test_a_worklist_server_of_strangers_is_asked_nothing(ours: TlsSettings, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    with (
        worklist_server(server_context(stranger.issue("ris"), stranger)) as port,
        pytest.raises(WorklistSourceError, match="its certificate is not accepted"),
    ):
        upstream(address_of("127.0.0.1", port, ours, over_tls=True)).fetch("")


def test_a_worklist_server_without_tls_gets_no_query_in_the_clear(ours: TlsSettings) -> None:
    received = bytearray()

    def take(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            while piece := peer.recv(65_536):
                received.extend(piece)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=take, args=(listener,))
        thread.start()
        with pytest.raises(WorklistSourceError, match="is this its TLS port"):
            upstream(address_of("127.0.0.1", listener.getsockname()[1], ours, over_tls=True)).fetch("")
        thread.join(60)
    assert received[:1] == b"\x16"  # a client hello (RFC 8446 section 5.1)
    assert b"DICOMNET" not in received
