"""Central's DICOM port against peers that are slow, foreign, greedy or hostile, and over TLS."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom

import pytest
from pydantic import ValidationError
from pynetdicom import AE

from central.audit.reading import Wanted
from central.dimse.association import STUDY_ROOT_FIND
from central.dimse.settings import DimseSettings
from tests.central.access.house import STUDY, pydicom_file
from tests.central.databases import arriving_in
from tests.central.dimse.house import PEER, House, dcmtk, open_house
from tests.edge.gateway.authority import Authority
from tests.peers.attacks import ATTACKS, Siege
from tests.peers.bystander import Bystander
from tests.peers.scripted_scu import (
    CT_STORAGE,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    VERIFICATION,
    ScriptedScu,
    associate_rq,
    command,
    p_data,
    pdu,
)
from tests.peers.test_pdu_fuzz import Sender

MUTATED_PDUS = 20_000 if os.environ.get("DICOMNET_SOAK") else 150
ECHOES = 20  # under siege, with attackers and attacked on one machine
REQUEST = associate_rq([(1, VERIFICATION, [IMPLICIT_LITTLE])])
ATTACKER = {**PEER, "ae_title": "CT1", "address": "127.0.0.0/16"}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(
        tmp_path,
        peers=[ATTACKER, PEER],
        request_timeout_s=1.5,
        max_connections_per_address=4,
        stall_timeout_s=1,
    ) as opened:
        yield opened


def echoes(port: int, source: str = "127.0.0.9") -> bool:
    with ScriptedScu(port, source=source) as scu:
        scu.associate([(1, VERIFICATION, [IMPLICIT_LITTLE])])
        scu.send(p_data(1, 3, command(0x0030)))
        answered = scu.read_response().status == 0
        scu.release()
        return answered


def test_an_unfinished_request_is_cut_by_the_clock(house: House) -> None:
    with ScriptedScu(house.port) as scu:
        scu.send(REQUEST[:56])
        assert scu.wait_for_close() == b""
    assert echoes(house.port)


def test_connections_of_one_address_are_counted(house: House) -> None:
    held = [ScriptedScu(house.port, source="127.0.0.8") for _ in range(4)]
    try:
        with ScriptedScu(house.port, source="127.0.0.8") as one_too_many:
            assert one_too_many.wait_for_close() == b""
        assert echoes(house.port)
    finally:
        for scu in held:
            scu.socket.close()


def test_half_open_connections_make_room_for_a_newcomer(tmp_path: Path) -> None:
    with open_house(
        tmp_path, max_connections=4, max_connections_per_address=4, request_timeout_s=30
    ) as house:
        held = [ScriptedScu(house.port, source="127.0.0.8") for _ in range(4)]
        for scu in held:
            scu.send(REQUEST[:56])
        assert echoes(house.port)
        assert held[0].wait_for_close() == b""
        for scu in held:
            scu.socket.close()


@pytest.mark.parametrize(
    "sent",
    [
        pdu(0x04, bytes(20)),
        b"\x01\x00\xff\xff\xff\xf0" + bytes(100),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        REQUEST[:6] + bytes(len(REQUEST) - 6),
    ],
)
def test_what_is_no_request_is_closed(house: House, sent: bytes) -> None:
    with ScriptedScu(house.port) as scu:
        scu.send(sent)
        scu.wait_for_close()
    assert echoes(house.port)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x04\x00\xff\xff\xff\xf0",  # a PDU of 4 GB
        p_data(1, 1, bytes(60_000)) * 3,  # a command without an end
        p_data(9, 3, command(0x0030)),  # on a context that was not accepted
        p_data(1, 2, bytes(10)),  # a data set without a command
        p_data(1, 3, command(0x0100, has_data_set=True)),  # N-EVENT-REPORT: pynetdicom would start a thread
    ],
)
def test_messages_that_would_be_held_are_not(house: House, sent: bytes) -> None:
    with ScriptedScu(house.port) as scu:
        scu.associate([(1, VERIFICATION, [IMPLICIT_LITTLE]), (3, CT_STORAGE, [EXPLICIT_LITTLE])])
        scu.send(sent)
        scu.wait_for_close()
    assert echoes(house.port)


def test_an_identifier_without_end_is_cut(house: House) -> None:
    with ScriptedScu(house.port) as scu:
        scu.associate([(1, STUDY_ROOT_FIND, [IMPLICIT_LITTLE])])
        find = command(0x0020, has_data_set=True)
        scu.send(p_data(1, 3, find))
        for _ in range(90):
            scu.send(p_data(1, 0, bytes(100_000)))
        assert scu.read_pdu()[0] == 0x07  # A-ABORT
    assert echoes(house.port)


def test_a_trickle_inside_a_message_is_cut(house: House) -> None:
    with ScriptedScu(house.port) as scu:
        scu.associate()
        scu.send(p_data(1, 1, b"\0"))
        began_s = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT012
            while time.monotonic() < began_s + 60:
                scu.send(p_data(1, 1, b"\0"))
                time.sleep(0.05)


def test_an_association_is_one_thread(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_house(tmp_path) as house, ScriptedScu(house.port) as scu:
        before = set(threading.enumerate())
        scu.associate([(1, VERIFICATION, [IMPLICIT_LITTLE])], calling=b"PEER", called=b"DICOMNET")
        scu.send(p_data(1, 3, command(0x0030)))
        assert scu.read_response().status == 0
        assert {one.name for one in {*threading.enumerate()} - before} <= {"dicom-connection"}
        assert [one.name for one in threading.enumerate()].count("dicom-connection") == 1
        scu.release()
    assert not [
        record for record in caplog.records if record.levelno >= logging.ERROR
    ]  # of pynetdicom's, too


def test_stopping_ends_associations_that_are_open(tmp_path: Path) -> None:
    with open_house(tmp_path, peers=[ATTACKER]) as house:
        scu = ScriptedScu(house.port)
        scu.associate()
        house.server.stop()
        scu.wait_for_close()
        scu.socket.close()


def test_under_siege_the_others_are_served(tmp_path: Path) -> None:
    with open_house(
        tmp_path,
        peers=[ATTACKER],
        request_timeout_s=5,
        max_associations=100,
        max_connections=60,
        max_connections_per_address=10,
    ) as house:
        house.put(pydicom_file("CT_small.dcm"))
        with Siege(house.port) as siege, Bystander(house.port) as bystander:
            began_s = time.monotonic()
            while time.monotonic() < began_s + (6 if len(bystander.waits_s) >= ECHOES else 40):
                time.sleep(0.1)
        bystander.check(5.0)
        assert len(siege.rounds) == len(ATTACKS)
        assert not list(tmp_path.rglob("*evil*"))
        assert house.find({"QueryRetrieveLevel": "STUDY"}, STUDY_ROOT_FIND, ae_title="CT1")[0] == 0


def test_mutated_sessions_end_and_the_next_is_served(house: House) -> None:
    sender = Sender(house.port, SystemRandom().randrange(1 << 32), MUTATED_PDUS)
    sender.run()
    assert sender.hung == []
    assert echoes(house.port)
    deadline_s = time.monotonic() + 30  # who sent it saw the end of its connection first
    while arriving_in(house.root) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert arriving_in(house.root) == []


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def tls_of(authority: Authority, name: str) -> dict[str, object]:
    pair = authority.issue(name)
    return {"port": 0, "certificate": pair.certificate, "key": pair.key, "client_ca": authority.ca}


@pytest.mark.needs("dcmtk")
def test_a_peer_is_who_its_certificate_says(authority: Authority, tmp_path: Path) -> None:
    good, other = authority.issue("good"), authority.issue("other")
    peers = [{**PEER, "certificate_sha256": good.sha256}]
    with open_house(tmp_path, peers=peers, tls=tls_of(authority, "central")) as house:
        house.put(pydicom_file("CT_small.dcm"))
        tls_port = house.server.tls_port
        assert tls_port is not None

        def find(port: int, *tls: object) -> bool:
            asked = dcmtk(
                "findscu", *tls, "-S", "-aet", "PEER", "-aec", "DICOMNET",
                "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID", "127.0.0.1", port,
            )  # fmt: skip
            return STUDY in asked.stdout + asked.stderr

        def showing(pair: object) -> tuple[object, ...]:
            return ("+tls", pair.key, pair.certificate, "+cf", authority.ca)  # type: ignore[attr-defined]

        assert find(tls_port, *showing(good))
        assert not find(tls_port, *showing(other))
        assert "another certificate" in house.audit.newest(Wanted(), limit=1)[0].event.detail
        assert not find(house.port)
        assert "TLS port only" in house.audit.newest(Wanted(), limit=1)[0].event.detail
        assert not find(tls_port, "+tla", "+cf", authority.ca)


def test_tls_below_1_2_and_strangers_ca_are_refused(authority: Authority, tmp_path: Path) -> None:
    with open_house(tmp_path, tls=tls_of(authority, "central")) as house:
        assert house.server.tls_port is not None
        stranger = Authority(tmp_path / "stranger", "Another CA").issue("stranger")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(authority.ca)
        context.load_cert_chain(stranger.certificate, stranger.key)
        before = sockets()
        for _ in range(16):
            assert not _answered(house.server.tls_port, context)
        deadline_s = time.monotonic() + 60
        while sockets() > before and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert sockets() <= before  # no handshake that failed holds a descriptor
        assert _echo_over_tls(house, authority)


def sockets() -> int:
    """Open ones of this process; other descriptors come and go with the threads' databases."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found += str(link.readlink()).startswith("socket:")
    return found


def _answered(port: int, context: ssl.SSLContext) -> bool:
    """Whether an A-ASSOCIATE-RQ over TLS is answered at all."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 10) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as sock,
        ):
            sock.sendall(REQUEST)
            return bool(sock.recv(1))
    except OSError:
        return False


def _echo_over_tls(house: House, authority: Authority) -> bool:
    pair = authority.issue("peer")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca)
    context.load_cert_chain(pair.certificate, pair.key)
    ae = AE("PEER")
    ae.add_requested_context(VERIFICATION)
    assert house.server.tls_port is not None
    assoc = ae.associate(
        "127.0.0.1", house.server.tls_port, ae_title="DICOMNET", tls_args=(context, "127.0.0.1")
    )
    status = assoc.send_c_echo()
    assoc.release()
    return bool(status.Status == 0)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"peers": [{**PEER, "certificate_sha256": "ab" * 32}]}, "wants TLS"),
        ({"peers": [{**PEER, "certificate_sha256": "ab"}]}, "64 hexadecimal"),
        ({"peers": [{**PEER, "host": "a"}, {**PEER, "host": "b"}]}, "only one can be the destination"),
        ({"tls": {"certificate": "a.pem"}}, "together"),
        ({"peers": [{**PEER, "may": ["everything"]}]}, "may"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        DimseSettings.model_validate(settings)
