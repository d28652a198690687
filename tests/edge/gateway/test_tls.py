"""DIMSE over TLS with DCMTK and with Python's clients: who gets in, what the others are told, what a half one costs."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from pydicom.data import get_testdata_file

from edge.buffer.states import State
from edge.gateway.errors import CannotListenError
from edge.gateway.settings import TlsSettings
from edge.gateway.tls import TlsIdentity
from tests.edge.gateway.authority import Authority, Pair
from tests.edge.gateway.conftest import Gateway, StartGateway
from tests.edge.gateway.test_association import wait_until
from tests.peers.scripted_scu import (
    CT_STORAGE,
    EXPLICIT_LITTLE,
    ScriptedScu,
    associate_rq,
    c_store_rq,
    p_data,
    pdu,
    small_data_set,
)
from tests.peers_installed import program

RJ, ABORT = 0x03, 0x07


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def box(authority: Authority) -> Pair:
    return authority.issue("box")


@pytest.fixture(scope="session")
def ct1(authority: Authority) -> Pair:
    return authority.issue("ct1")


StartTls = Callable[..., Gateway]


@pytest.fixture
def start_tls(start_gateway: StartGateway, authority: Authority, box: Pair) -> StartTls:
    def start(*, tls: dict[str, object] | None = None, **more: object) -> Gateway:
        settings = {
            "port": 0,
            "certificate": box.certificate,
            "key": box.key,
            "client_ca": authority.ca,
            **(tls or {}),
        }
        return start_gateway(tls=settings, **more)

    return start


def client_context(authority: Authority, pair: Pair | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


class SecureScu(ScriptedScu):
    """The scripted peer inside TLS."""

    def __init__(self, gateway: Gateway, context: ssl.SSLContext) -> None:
        assert gateway.server.tls_port is not None
        super().__init__(gateway.server.tls_port)
        self.socket = context.wrap_socket(self.socket, server_hostname="127.0.0.1")

    @property
    def tls(self) -> ssl.SSLSocket:
        assert isinstance(self.socket, ssl.SSLSocket)
        return self.socket


def plain_to_tls_port(gateway: Gateway) -> ScriptedScu:
    assert gateway.server.tls_port is not None
    return ScriptedScu(gateway.server.tls_port)


def last_error(gateway: Gateway) -> str:
    wait_until(lambda: bool(gateway.spool.scanners.all()))
    return gateway.last_error() or ""


# Who gets in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("profile", ["bcp195", "modified-bcp195"])
def test_an_object_of_many_records_arrives_whole(
    version: ssl.TLSVersion, profile: str, start_tls: StartTls, authority: Authority, ct1: Pair
) -> None:
    gateway = start_tls(tls={"profile": profile})
    context = client_context(authority, ct1)
    context.minimum_version = context.maximum_version = version
    data = small_data_set(pixels=os.urandom(3_000_000))
    with SecureScu(gateway, context) as scu:
        scu.associate()
        assert scu.tls.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert scu.store(data, "1.2.3.1", fragment_bytes=200_000).status == 0
        assert scu.store(small_data_set("1.2.3.2"), "1.2.3.2").status == 0
        scu.release()
        scu.socket.settimeout(60)
        assert scu.tls.recv(1) == b""  # a close_notify, not a cut line: a cut one raises
        scu.tls.unwrap()
    rows = {row.sop_instance_uid: row for row in gateway.rows(State.READY)}
    assert set(rows) == {"1.2.3.1", "1.2.3.2"}
    assert hashlib.sha256(gateway.unseal(rows["1.2.3.1"].object_id)[-len(data) :]).digest() == (
        hashlib.sha256(data).digest()
    )


def dcmtk(*command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TCP_NODELAY": "1"}
    return subprocess.run(
        [str(part) for part in command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.needs("dcmtk")
@pytest.mark.parametrize("use_rsa", [False, True], ids=["ecdsa", "rsa"])
def test_dcmtk_sends_and_is_refused_without_a_certificate(
    use_rsa: bool, start_tls: StartTls, authority: Authority
) -> None:
    box, ct = (authority.issue(f"{name}-{use_rsa}", use_rsa=use_rsa) for name in ("box", "ct"))
    gateway = start_tls(tls={"certificate": box.certificate, "key": box.key})
    storescu, sample = program("storescu"), get_testdata_file("CT_small.dcm")
    target = ["-aec", "DICOMNET", "127.0.0.1", gateway.server.tls_port]
    trust = ["+cf", authority.ca]

    sent = dcmtk(storescu, "+tls", ct.key, ct.certificate, *trust, *target, sample)
    assert sent.returncode == 0, sent.stderr
    assert len(gateway.rows(State.READY)) == 1
    assert gateway.spool.scanners.all()[0].rejected == 0
    echoed = dcmtk(program("echoscu"), "+tls", ct.key, ct.certificate, *trust, *target)
    assert echoed.returncode == 0, echoed.stderr

    anonymous = dcmtk(storescu, "+tla", *trust, *target, sample)
    assert anonymous.returncode != 0
    wait_until(
        lambda: any("showed no certificate" in (one.last_error or "") for one in gateway.spool.scanners.all())
    )
    assert len(gateway.rows()) == 1


@pytest.mark.needs("dcmtk")
def test_dcmtk_on_the_wrong_port_both_ways(start_tls: StartTls, authority: Authority, ct1: Pair) -> None:
    gateway = start_tls()
    storescu, sample = program("storescu"), get_testdata_file("CT_small.dcm")
    plain = dcmtk(storescu, "-aet", "CT1", "127.0.0.1", gateway.server.tls_port, sample)
    assert "Rejected" in plain.stderr
    assert "plain DICOM on the TLS port" in last_error(gateway)
    assert gateway.spool.scanners.all()[0].calling_ae_title == "CT1"

    secured = dcmtk(
        storescu, "+tls", ct1.key, ct1.certificate, "+cf", authority.ca, "127.0.0.1", gateway.port, sample
    )
    assert secured.returncode != 0
    wait_until(
        lambda: any("TLS on the plain port" in (one.last_error or "") for one in gateway.spool.scanners.all())
    )
    assert gateway.rows() == []


@pytest.mark.parametrize(
    ("entry", "numbers"),
    [
        ({"tls": "off"}, (1, 1, 3)),
        ({"tls": "required", "certificate_sha256": "0" * 64}, (1, 1, 3)),
        ({"tls": "required"}, None),
    ],
)
def test_a_scanners_entry_counts_inside_tls(
    entry: dict[str, object],
    numbers: tuple[int, int, int] | None,
    start_tls: StartTls,
    authority: Authority,
    ct1: Pair,
) -> None:
    gateway = start_tls(scanners=[{"ae_title": "CT1", **entry}])
    with SecureScu(gateway, client_context(authority, ct1)) as scu:
        scu.send(associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])]))
        kind, body = scu.read_pdu()
    assert (kind, tuple(body[1:])) == (RJ, numbers) if numbers else kind == 2


def test_the_pinned_certificate_gets_in_and_what_it_says_is_listed(
    start_tls: StartTls, authority: Authority, ct1: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gateway = start_tls(unknown_scanners="hold")
    context = client_context(authority, ct1)
    with SecureScu(gateway, context) as scu:
        scu.send(associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])]))
        assert scu.read_pdu()[0] == RJ
    (waiting,) = gateway.admission.waiting()
    assert waiting.certificate is not None
    assert waiting.certificate.sha256 == ct1.sha256
    assert waiting.certificate.subject == "CN=ct1"
    assert set(waiting.certificate.names) == {"DNS:ct1.test", "IP Address:127.0.0.1"}
    gateway.admission.approve("CT1", "127.0.0.1")
    (listed,) = gateway.admission.listed()
    pinned = listed.scanner.model_copy(update={"tls": "required", "certificate_sha256": ct1.sha256})
    gateway.admission.save(pinned)
    with SecureScu(gateway, context) as scu:
        scu.associate()
    (listed,) = gateway.admission.listed()
    assert listed.certificate == waiting.certificate
    with gateway.connect() as scu:
        scu.send(associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])]))
        assert scu.read_pdu()[0] == RJ
    assert "must use TLS" in last_error(gateway)
    secured = next(record for record in caplog.records if record.message == "secured by TLS")
    assert (vars(secured)["subject"], vars(secured)["certificate_sha256"]) == ("CN=ct1", ct1.sha256)


# What the others are told ------------------------------------------------------------------------------------


def fails(gateway: Gateway, context: ssl.SSLContext) -> str:
    """A client that does not get in; what the technician reads."""
    with pytest.raises((OSError, AssertionError)), SecureScu(gateway, context) as scu:
        scu.associate()
    return last_error(gateway)


@pytest.mark.parametrize(
    ("which", "sentence"),
    [
        ("none", "showed no certificate"),
        ("old", "has expired"),
        ("early", "compare the clock of the box with the true time"),
        ("foreign", "a CA that this box does not know"),
    ],
)
def test_every_bad_certificate_has_its_own_sentence(
    which: str, sentence: str, start_tls: StartTls, authority: Authority, tmp_path: Path
) -> None:
    pair = {
        "none": lambda: None,
        "old": lambda: authority.issue("old", begins_d=-30, ends_d=-1),
        "early": lambda: authority.issue("early", begins_d=1, ends_d=30),
        "foreign": lambda: Authority(tmp_path / "foreign", "Somebody else").issue("foreign"),
    }[which]()
    assert sentence in fails(start_tls(), client_context(authority, pair))


def test_a_clock_that_is_wrong_is_called_a_clock(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("clock-box", begins_d=-5, ends_d=5)
    identity = TlsIdentity(TlsSettings(certificate=pair.certificate, key=pair.key, client_ca=authority.ca))
    expired = ssl.SSLCertVerificationError(1, "")
    expired.verify_code, expired.verify_message = 10, "certificate has expired"
    early = ssl.SSLCertVerificationError(1, "")
    early.verify_code, early.verify_message = 9, "certificate is not yet valid"
    now = datetime.now(UTC)
    assert "the clock of this box is wrong: it says 1970-01-01" in identity.explain(
        early, datetime.fromtimestamp(60, UTC)
    )
    assert "check the clock of this box, then renew both" in identity.explain(
        expired, now + timedelta(days=90)
    )
    assert "renew it on the scanner" in identity.explain(expired, now)


def test_old_protocols_and_foreign_ciphers(start_tls: StartTls, authority: Authority, ct1: Pair) -> None:
    gateway = start_tls()
    weak = client_context(authority, ct1)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES256-SHA256")  # no forward secrecy
    assert "no cipher suite of this profile" in fails(gateway, weak)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_below_1_2_is_named(start_tls: StartTls, authority: Authority, ct1: Pair) -> None:
    gateway = start_tls()
    old = client_context(authority, ct1)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    assert "TLS below 1.2" in fails(gateway, old)


def test_a_scanner_that_does_not_trust_the_box(start_tls: StartTls, ct1: Pair, tmp_path: Path) -> None:
    gateway = start_tls()
    stranger = Authority(tmp_path / "stranger", "Another CA")
    assert "give the scanner the CA that issued it" in fails(gateway, client_context(stranger, ct1))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "an HTTP request"),
        (b"SSH-2.0-x\r\n", "an SSH client"),
        (b"\xff" * 8, "neither TLS nor DICOM"),
    ],
)
def test_other_protocols_on_the_tls_port(said: bytes, reason: str, start_tls: StartTls) -> None:
    gateway = start_tls()
    with plain_to_tls_port(gateway) as scu:
        scu.send(said)
        scu.wait_for_close()
    assert reason in last_error(gateway)


def test_plain_dicom_on_the_tls_port_is_rejected_in_its_own_words(start_tls: StartTls) -> None:
    gateway = start_tls()
    with plain_to_tls_port(gateway) as scu:
        scu.send(associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])], calling=b"MR7"))
        kind, body = scu.read_pdu()
        assert (kind, tuple(body[1:])) == (RJ, (1, 1, 1))
    assert "switch TLS on in the scanner" in last_error(gateway)
    assert gateway.spool.scanners.all()[0].calling_ae_title == "MR7"


# What a half one costs ---------------------------------------------------------------------------------------


def test_a_port_check_is_no_event(start_tls: StartTls, authority: Authority, ct1: Pair) -> None:
    gateway = start_tls()
    plain_to_tls_port(gateway).socket.close()
    with SecureScu(gateway, client_context(authority, ct1)) as scu:
        scu.associate()
        scu.release()
    assert gateway.spool.scanners.all() == []


def test_half_handshakes_lock_nobody_out(start_tls: StartTls, authority: Authority, ct1: Pair) -> None:
    gateway = start_tls(request_timeout_s=60, max_connections_per_address=14)
    attackers = [plain_to_tls_port(gateway) for _ in range(12)]
    for scu in attackers[1:]:  # the first is silent
        scu.send(b"\x16\x03\x01")
    with SecureScu(gateway, client_context(authority, ct1)) as scanner:
        scanner.associate()
        assert scanner.store(small_data_set(), "1.2.3.1").status == 0
    wait_until(lambda: len(gateway.server._running) == 12)  # they are all still there
    for scu in attackers:
        scu.socket.close()


def test_half_and_trickled_handshakes_are_cut_by_the_wall(
    start_tls: StartTls, authority: Authority, ct1: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = start_tls(request_timeout_s=1.0, max_connections_per_address=14)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(authority, ct1).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    silent, half = plain_to_tls_port(gateway), plain_to_tls_port(gateway)
    tricklers = [plain_to_tls_port(gateway) for _ in range(10)]
    half.send(hello[: len(hello) // 2])
    pause = threading.Event()
    for byte in hello[:40]:
        for scu in tricklers:
            try:
                scu.send(bytes((byte,)))
            except OSError:
                break
        pause.wait(0.05)
    wait_until(lambda: not gateway.server._running, timeout_s=60)
    for scu in (silent, half, *tricklers):
        scu.socket.close()
    # The list has the last of them, and no one knows whose that is.
    assert "not complete in time" in str([vars(record).get("reason") for record in caplog.records])


@pytest.mark.parametrize("how", ["abort", "close", "goodbye", "reset"])
def test_an_object_cut_off_in_the_middle_leaves_nothing(
    how: str, start_tls: StartTls, authority: Authority, ct1: Pair
) -> None:
    gateway = start_tls()
    with SecureScu(gateway, client_context(authority, ct1)) as scu:
        scu.associate()
        scu.send(p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")) + p_data(1, 0, small_data_set()))
        if how == "abort":
            scu.send(pdu(ABORT, bytes(4)))
        elif how == "goodbye":
            scu.tls.settimeout(0.5)
            with contextlib.suppress(OSError):
                scu.tls.unwrap()  # half-close: a close_notify in the middle of an object
        elif how == "reset":
            scu.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: not gateway.server._running)
    assert gateway.files() == []
    assert gateway.rows() == []
    assert gateway.spool.scanners.all()[0].rejected == 1


def test_a_stall_inside_an_object_and_a_silent_association_are_ended(
    start_tls: StartTls, authority: Authority, ct1: Pair
) -> None:
    gateway = start_tls(stall_timeout_s=0.3, idle_timeout_s=1.0)
    context = client_context(authority, ct1)
    with SecureScu(gateway, context) as stalled, SecureScu(gateway, context) as idle:
        stalled.associate()
        stalled.send(p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")))
        idle.associate()
        assert stalled.wait_for_close()[:1] == bytes((ABORT,))
        assert idle.wait_for_close()[:1] == bytes((ABORT,))
    wait_until(lambda: not gateway.server._running)
    assert gateway.files() == []


def test_stopping_lets_the_instance_in_progress_finish_and_aborts_the_idle_inside_tls(
    start_tls: StartTls, authority: Authority, ct1: Pair
) -> None:
    gateway = start_tls()
    context = client_context(authority, ct1)
    data = small_data_set(pixels=os.urandom(1_000_000))
    pieces = [data[at : at + 200_000] for at in range(0, len(data), 200_000)]
    half = plain_to_tls_port(gateway)  # in its handshake when the box stops
    half.send(b"\x16\x03\x01")
    with SecureScu(gateway, context) as busy, SecureScu(gateway, context) as idle:
        busy.associate()
        idle.associate()
        busy.send(p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")))
        for piece in pieces[:-1]:
            busy.send(p_data(1, 0, piece))
        wait_until(gateway.is_receiving)
        stopping = threading.Thread(target=gateway.server.stop)
        stopping.start()
        assert idle.wait_for_close()[:1] == bytes((ABORT,)), "it must not be told in the clear, or not at all"
        busy.send(p_data(1, 2, pieces[-1]))
        assert busy.read_response().status == 0
        assert busy.wait_for_close()[:1] == bytes((ABORT,))
        stopping.join(60)
        assert not stopping.is_alive()
    half.socket.close()
    assert len(gateway.rows(State.READY)) == 1


# Start -------------------------------------------------------------------------------------------------------


def test_files_that_do_not_fit_are_said_in_one_sentence(
    authority: Authority, box: Pair, ct1: Pair, tmp_path: Path
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nothing")
    good = {"certificate": box.certificate, "key": box.key, "client_ca": authority.ca}
    for changes, sentence in (
        ({"certificate": tmp_path / "absent"}, "gateway.tls.certificate: .*No such file"),
        ({"certificate": nonsense}, "holds no PEM certificate"),
        ({"key": ct1.key}, "is not the key of the certificate"),
        ({"key": nonsense}, "gateway.tls.key: .*cannot be used"),
        ({"client_ca": nonsense}, "holds no PEM certificates"),
        ({"client_ca": tmp_path / "absent"}, "gateway.tls.client_ca: .*No such file"),
    ):
        with pytest.raises(CannotListenError, match=sentence):
            TlsIdentity(TlsSettings.model_validate({**good, **changes}))


def test_a_certificate_that_expires_soon_is_said_at_start(
    start_tls: StartTls, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    soon = authority.issue("soon", ends_d=5)
    start_tls(tls={"certificate": soon.certificate, "key": soon.key})
    expires = x509.load_pem_x509_certificate(soon.certificate.read_bytes()).not_valid_after_utc
    assert any(
        "expires soon" in record.message and vars(record)["expires_at_utc"] == expires.isoformat()
        for record in caplog.records
    )
