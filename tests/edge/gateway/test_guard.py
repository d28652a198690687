"""What is not DICOM is recognised by how it begins, and said to the technician in words."""

from __future__ import annotations

import ssl

import pytest

from edge.gateway.guard import explain_foreign
from tests.edge.gateway.conftest import Gateway, StartGateway
from tests.edge.gateway.test_association import wait_until
from tests.peers.scripted_scu import CT_STORAGE, EXPLICIT_LITTLE, ScriptedScu, associate_rq, small_data_set


def client_hello() -> bytes:
    """What a real TLS client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="box")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (client_hello(), "TLS on the plain port"),
        (b"GET / HTTP/1.1\r\nHost: box\r\n\r\n", "an HTTP request"),
        (b"HEAD / HTTP/1.0\r\n\r\n", "an HTTP request"),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", "an HTTP request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "an HTTP request"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "an SSH client"),
        (b"\x0bMSH|^~\\&|RIS|", "an HL7 message"),
        (b"\xde\xad\xbe\xef\x00\x00", "not an A-ASSOCIATE-RQ"),
    ],
)
def test_other_protocols_are_named(said: bytes, reason: str, gateway: Gateway) -> None:
    with gateway.connect() as peer:
        peer.send(said)
        peer.wait_for_close()
    wait_until(lambda: gateway.spool.scanners.all() != [])
    assert reason in (gateway.last_error() or "")


def test_no_honest_request_is_taken_for_another_protocol() -> None:
    assert explain_foreign(associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])])[:6]) is None


def test_half_open_connections_from_many_addresses_do_not_keep_a_scanner_out(
    start_gateway: StartGateway,
) -> None:
    gateway = start_gateway(max_connections=24, request_timeout_s=60)
    request = associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])])
    held = []
    for number in range(60):  # six machines, more than enough to take every place
        attacker = ScriptedScu(gateway.port, source=f"127.0.1.{number % 6 + 1}")
        attacker.send(request[:56])
        held.append(attacker)
    for turn in range(10):
        with ScriptedScu(gateway.port, source="127.0.0.1") as scanner:
            scanner.associate()
            assert scanner.store(small_data_set(f"1.2.3.{turn}"), f"1.2.3.{turn}").status == 0
            scanner.release()
    assert len(gateway.server._running) <= 24 + 1
    for attacker in held:
        attacker.socket.close()


def test_an_association_never_goes_for_a_newcomer(start_gateway: StartGateway) -> None:
    gateway = start_gateway(max_connections=3)
    scanners = [gateway.connect() for _ in range(3)]
    for scanner in scanners:
        scanner.associate()
    with ScriptedScu(gateway.port, source="127.0.0.7") as newcomer:
        assert newcomer.wait_for_close() == b""
    for number, scanner in enumerate(scanners):
        assert scanner.store(small_data_set(f"1.2.3.{number}"), f"1.2.3.{number}").status == 0
        scanner.release()
        scanner.socket.close()
    wait_until(lambda: not gateway.server._running)
    with gateway.connect() as again:
        again.associate()


def test_two_machines_that_release_nothing_do_not_keep_a_scanner_out(start_gateway: StartGateway) -> None:
    gateway = start_gateway(max_associations=8)
    held = []
    answers: list[int] = []
    for source in ("127.0.1.1", "127.0.1.2"):
        for _ in range(8):
            peer = ScriptedScu(gateway.port, source=source)
            peer.send(associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])], calling=b"LEAKS"))
            kind, body = peer.read_pdu()
            assert kind == 0x02 or tuple(body[1:]) == (2, 3, 2)
            answers.append(kind)
            held.append(peer)
    assert [answers[:8].count(0x02), answers[8:].count(0x02)] == [4, 2]
    with ScriptedScu(gateway.port, source="127.0.0.1") as scanner:
        scanner.associate()
        assert scanner.store(small_data_set("1.2.3.1"), "1.2.3.1").status == 0
        scanner.release()
    assert "6 associations are open, 2 of this address" in str(
        [seen.last_error for seen in gateway.spool.scanners.all()]
    )
    for peer in held:
        peer.socket.close()
    wait_until(lambda: not gateway.server._running)
    assert not gateway.server._guard._associated


def test_a_storm_of_refusals_leaves_the_database_alone(start_gateway: StartGateway) -> None:
    gateway = start_gateway(max_connections_per_address=1, request_timeout_s=60)
    with gateway.connect():
        wait_until(lambda: len(gateway.server._running) == 1)
        for _ in range(200):
            with gateway.connect() as refused:
                assert refused.wait_for_close() == b""
    (seen,) = gateway.spool.scanners.all()
    assert 1 <= seen.rejected <= 10
    assert "does the scanner leave its associations open?" in (seen.last_error or "")
