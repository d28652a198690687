"""The lane against a peer that follows no rule: refusals by the book, limits, and what each leaves behind."""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time

import pytest
from pynetdicom import AE, build_role

from edge.buffer.states import State
from edge.gateway.errors import CannotListenError
from edge.gateway.server import GatewayServer
from edge.gateway.settings import GatewaySettings
from tests.edge.buffer.instances import contents
from tests.edge.gateway.conftest import Gateway, StartGateway
from tests.peers.scripted_scu import (
    CT_STORAGE,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    VERIFICATION,
    ScriptedScu,
    associate_rq,
    c_store_rq,
    command,
    element,
    item,
    p_data,
    pdu,
    small_data_set,
)

RJ, ABORT = 0x03, 0x07


def wait_until(condition: object, timeout_s: float = 60.0) -> None:
    """Another thread's doing, polled because nothing outside the gateway is told of it."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline_s, "it did not come about"
        threading.Event().wait(0.01)


def trickle(scu: ScriptedScu, pieces: list[bytes]) -> None:
    """Send a piece every 50 ms until the gateway cuts the line; fail if it takes them all."""
    pause = threading.Event()
    for piece in pieces:
        try:
            scu.send(piece)
        except OSError:  # broken pipe or reset, as the kernel likes
            return
        pause.wait(0.05)
    pytest.fail("the gateway took the trickle to its end")


def healthy(gateway: Gateway) -> bool:
    """A well-behaved scanner still gets its instance in."""
    uid = f"1.2.7.{time.monotonic_ns()}"
    with gateway.connect() as scu:
        scu.associate()
        stored = scu.store(small_data_set(uid), uid).status == 0
        scu.release()
    return stored


# Data sets that cannot be taken ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"\x08\x00\x05\x00" + b"\xff" * 5000, 0xC001, "nested deeper"),
        (b"not DICOM, but as long as something that is " * 99, 0xC002, "no SOP Instance UID"),
        (b"", 0xC002, "no SOP Instance UID"),
        (small_data_set(""), 0xC002, "no SOP Instance UID"),
        (small_data_set("1.2.3.99"), 0xC003, "different SOP instances"),
        (small_data_set(sop_class="1.2.840.10008.5.1.4.1.1.4"), 0xA900, "different SOP classes"),
        (small_data_set(sop_class=""), 0xA900, "different SOP classes"),
        (small_data_set(study=""), 0xC005, "no Study Instance UID"),
        (small_data_set(series=""), 0xC006, "no Series Instance UID"),
        (small_data_set(study="../../etc/passwd"), 0xC004, "digits and dots"),
        (small_data_set(series="1.2.x"), 0xC004, "digits and dots"),
        (small_data_set()[:40], 0xC001, "ends inside"),
    ],
)
def test_it_is_quarantined_answered_and_nothing_else_is_disturbed(
    data: bytes, status: int, reason: str, gateway: Gateway
) -> None:
    with gateway.connect() as scu:
        scu.associate()
        response = scu.store(data, "1.2.3.1")
        after = scu.store(small_data_set("1.2.3.2"), "1.2.3.2")
        scu.release()

    assert response.status == status
    assert 0 < len(response.comment) <= 64
    assert after.status == 0
    (kept,) = gateway.rows(State.QUARANTINED)
    assert not kept.success_answered
    assert gateway.unseal(kept.object_id).endswith(data)
    assert reason in (kept.last_error or "")
    assert gateway.last_error() == kept.last_error
    assert [row.sop_instance_uid for row in gateway.rows(State.READY)] == ["1.2.3.2"]


@pytest.mark.parametrize("uid", ["../../../../tmp/evil", "1.2.3;DROP TABLE objects", "1..2", "1" * 65, ""])
def test_a_uid_in_the_command_that_is_none(uid: str, gateway: Gateway) -> None:
    with gateway.connect() as scu:
        scu.associate()
        response = scu.store(small_data_set(uid), uid)
        scu.release()

    assert response.status == 0xC004
    (kept,) = gateway.rows(State.QUARANTINED)
    assert gateway.files() == [f"{kept.object_id}.sealed"]


def test_the_answer_names_the_request(gateway: Gateway) -> None:
    with gateway.connect() as scu:
        scu.associate()
        scu.send(
            p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1", message_id=777)) + p_data(1, 2, small_data_set())
        )
        response = scu.read_response()

    assert response.elements[0x0100] == struct.pack("<H", 0x8001)
    assert response.elements[0x0120] == struct.pack("<H", 777)
    assert response.elements[0x0002].rstrip(b"\0").decode() == CT_STORAGE
    assert response.elements[0x1000].rstrip(b"\0") == b"1.2.3.1"
    assert response.elements[0x0800] == struct.pack("<H", 0x0101)


def test_before_enrolment_the_scanner_is_told_to_try_again(start_gateway: StartGateway) -> None:
    gateway = start_gateway(enrolled=False)
    with gateway.connect() as scu:
        scu.associate([(1, CT_STORAGE, [EXPLICIT_LITTLE]), (3, VERIFICATION, [IMPLICIT_LITTLE])])
        response = scu.store(small_data_set(), "1.2.3.1")
        scu.send(p_data(3, 3, command(0x0030)))
        echo = scu.read_response()

    assert response.status == 0xA700
    assert "not set up" in response.comment
    assert echo.status == 0
    assert gateway.files() == []


def test_below_the_reserve_the_scanner_is_told_to_try_again(start_gateway: StartGateway) -> None:
    gateway = start_gateway(reserve_bytes=1 << 62)
    with gateway.connect() as scu:
        scu.associate()
        response = scu.store(small_data_set(pixels=bytes(500_000)), "1.2.3.1")
        scu.release()

    assert (response.status, "full" in response.comment) == (0xA700, True)
    assert gateway.files() == []


def test_an_unexpected_failure_is_answered_and_survived(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    with gateway.connect() as scu:
        scu.associate()
        with monkeypatch.context() as patched:
            patched.setattr(gateway.spool.entrance, "register", broken)
            response = scu.store(small_data_set(), "1.2.3.1")
        after = scu.store(small_data_set(), "1.2.3.1")

    assert (response.status, after.status) == (0xC0FF, 0)
    assert len(gateway.files()) == 1


# Services and negotiation ----------------------------------------------------------------------------------


def test_other_requests_are_answered_not_obeyed(gateway: Gateway) -> None:
    with gateway.connect() as scu:
        scu.associate([(1, CT_STORAGE, [EXPLICIT_LITTLE]), (3, VERIFICATION, [IMPLICIT_LITTLE])])
        scu.send(p_data(1, 3, command(0x0020, has_data_set=True)) + p_data(1, 2, b"\x08\x00\x52\x00"))
        find = scu.read_response()
        scu.send(p_data(1, 3, command(0x0150)))  # N-DELETE-RQ
        delete = scu.read_response()
        wrong_context = scu.store(small_data_set(), "1.2.3.1", context_id=3)
        scu.send(p_data(1, 3, command(0x0FFF)))  # C-CANCEL: no answer
        scu.send(p_data(3, 3, command(0x0030, message_id=9)))
        echo = scu.read_response()

    assert (find.status, delete.status, wrong_context.status, echo.status) == (0x0211, 0x0211, 0x0122, 0)
    assert echo.elements[0x0120] == struct.pack("<H", 9)
    assert gateway.files() == []


def test_storage_is_accepted_and_other_services_are_not(gateway: Gateway) -> None:
    accepted = [
        VERIFICATION,
        CT_STORAGE,
        "1.2.840.10008.5.1.4.1.1.481.3",  # RT Structure Set
        "1.2.840.10008.5.1.4.1.1.6",  # retired ultrasound
        "1.3.46.670589.11.0.0.12.1",  # private MR spectrum
        "1.2.840.10008.5.1.4.1.1.99999",  # not invented yet
    ]
    refused = [
        "1.2.840.10008.5.1.4.31",  # worklist
        "1.2.840.10008.5.1.4.1.2.2.1",  # query
        "1.2.840.10008.3.1.2.3.3",  # MPPS
        "1.2.840.10008.1.20.1",  # storage commitment
        "1.2.840.10008.5.1.1.9",  # print
        "1.2.840.10008.5.1.4.38.1",  # hanging protocol: no study
        "1.2.840.10008.1.3.10",  # DICOMDIR
    ]
    ae = AE(ae_title="ASKS")
    for uid in accepted + refused:
        ae.add_requested_context(uid, EXPLICIT_LITTLE)
    association = ae.associate("127.0.0.1", gateway.port)
    assert {cx.abstract_syntax for cx in association.accepted_contexts} == set(accepted)
    assert {(cx.abstract_syntax, cx.result) for cx in association.rejected_contexts} == {
        (uid, 3) for uid in refused
    }
    association.release()


def test_what_is_no_uid_is_not_agreed_on(gateway: Gateway) -> None:
    evil = "1.2.3\r\nX-Evil: 1"
    contexts = [
        (1, CT_STORAGE, [evil]),
        (3, "storage", [EXPLICIT_LITTLE]),
        (5, CT_STORAGE, [evil, "1.2.x", IMPLICIT_LITTLE]),
        (7, "1.2.840.113619.4.30", ["1.2.840.113619.5.2"]),  # private
    ]
    with gateway.connect() as scu:
        body = scu.associate(contexts)
        results = [body[at + 6] for at in range(len(body)) if body[at : at + 2] == b"\x21\0"]
        assert results == [4, 3, 0, 0]
        assert item(0x40, IMPLICIT_LITTLE.encode()) in body
        scu.release()


def test_the_scp_role_is_declined(gateway: Gateway) -> None:
    ae = AE(ae_title="ROLES")
    ae.add_requested_context(CT_STORAGE, EXPLICIT_LITTLE)
    role = build_role(CT_STORAGE, scu_role=True, scp_role=True)
    association = ae.associate("127.0.0.1", gateway.port, ext_neg=[role])
    (context,) = association.accepted_contexts
    association.release()
    assert (context.as_scu, context.as_scp) == (True, False)


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({"called": b"SOMEBODY"}, (1, 1, 7)),
        ({"called": b" "}, (1, 1, 7)),
        ({"calling": b" "}, (1, 1, 3)),
        ({"calling": b"A\\B"}, (1, 1, 3)),
        ({"calling": b"\xff\xfe\n"}, (1, 1, 3)),
        ({"version": 2}, (1, 2, 2)),
        ({"application_context": "1.2.3"}, (1, 1, 2)),
    ],
)
def test_associations_are_rejected_by_the_book(
    changes: dict[str, object], numbers: tuple[int, int, int], start_gateway: StartGateway
) -> None:
    gateway = start_gateway(require_called_ae_title=True)
    with gateway.connect() as scu:
        scu.send(associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])], **changes))  # type: ignore[arg-type]
        kind, body = scu.read_pdu()
        assert (kind, tuple(body[1:])) == (RJ, numbers)
        assert scu.wait_for_close() == b""
    assert gateway.spool.scanners.all()[0].rejected == 1
    assert healthy(gateway)


def test_a_peer_with_tiny_pdus_gets_its_answer_in_pieces(gateway: Gateway) -> None:
    with gateway.connect() as scu:
        scu.associate(max_pdu_bytes=64)
        scu.send(p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")) + p_data(1, 2, b""))
        kind, body = scu.read_pdu()
        assert (kind, len(body) <= 64, body[5]) == (0x04, True, 1)


def test_a_command_in_many_fragments_and_several_values_in_one_pdu(gateway: Gateway) -> None:
    data, request = small_data_set(), c_store_rq(CT_STORAGE, "1.2.3.1")
    with gateway.connect() as scu:
        scu.associate()
        for byte in request[:-1]:
            scu.send(p_data(1, 1, bytes((byte,))))
        values = [(3, request[-1:]), (0, data[:100]), (0, b""), (2, data[100:])]
        body = b"".join(struct.pack(">IBB", len(value) + 2, 1, control) + value for control, value in values)
        scu.send(pdu(0x04, body))
        assert scu.read_response().status == 0
    (row,) = gateway.rows(State.READY)
    assert gateway.unseal(row.object_id).endswith(data)


# Attacks ---------------------------------------------------------------------------------------------------


def test_requests_that_do_not_end_lock_nobody_out(start_gateway: StartGateway) -> None:
    gateway = start_gateway(request_timeout_s=60, max_connections_per_address=14)
    attackers = [gateway.connect() for _ in range(12)]
    for scu in attackers:
        scu.send(associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])])[:56])
    assert healthy(gateway), "a scanner had to wait for the attackers"
    wait_until(lambda: len(gateway.server._running) == 12)  # they are all still there
    for scu in attackers:
        scu.socket.close()


def test_a_trickled_request_is_cut_off_by_the_wall(start_gateway: StartGateway) -> None:
    gateway = start_gateway(request_timeout_s=1.0)
    request = associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])])
    with gateway.connect() as scu:
        scu.send(request[:56])
        trickle(scu, [bytes((byte,)) for byte in request[56:]])
    wait_until(lambda: not gateway.server._running)
    assert "did not arrive in time" in (gateway.last_error() or "")


def test_connections_of_one_address_are_counted(start_gateway: StartGateway) -> None:
    gateway = start_gateway(max_connections_per_address=3, request_timeout_s=60)
    held = [gateway.connect() for _ in range(3)]
    with gateway.connect() as fourth:
        assert fourth.wait_for_close() == b""
    for scu in held:
        scu.socket.close()
    wait_until(lambda: not gateway.server._running)
    assert healthy(gateway)
    assert "3 connections from this address" in str(
        [seen.last_error for seen in gateway.spool.scanners.all()]
    )


def test_too_many_associations_are_told_to_come_back(start_gateway: StartGateway) -> None:
    gateway = start_gateway(max_associations=1)
    with gateway.connect() as first, gateway.connect() as second:
        first.associate()
        second.send(associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])]))
        kind, body = second.read_pdu()
        assert (kind, tuple(body[1:])) == (RJ, (2, 3, 2))
        first.release()
    wait_until(lambda: not gateway.server._running)
    assert healthy(gateway)


@pytest.mark.parametrize(
    "first",
    [
        struct.pack(">BBI", 0x01, 0, 0xFFFFFFF0) + bytes(1000),
        struct.pack(">BBI", 0x01, 0, 10) + bytes(10),
        struct.pack(">BBI", 0x04, 0, 100) + bytes(100),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        pdu(0x01, struct.pack(">HH", 1, 0) + b"A".ljust(16) + b"B".ljust(16) + bytes(32) + os.urandom(300)),
        associate_rq([(1, CT_STORAGE, [])]),
        associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])], max_pdu_bytes=5),
        associate_rq([(2, CT_STORAGE, [EXPLICIT_LITTLE])]),
    ],
)
def test_what_is_no_request_is_aborted(first: bytes, gateway: Gateway) -> None:
    with gateway.connect() as scu:
        scu.send(first)
        answer = scu.wait_for_close()
    assert answer == b"" or answer[0] == ABORT
    assert healthy(gateway)


@pytest.mark.parametrize(
    "message",
    [
        struct.pack(">BBI", 0x04, 0, 0xFFFFFFF0) + bytes(1000),
        struct.pack(">BBI", 0x04, 0, 262_145) + bytes(1000),
        pdu(0x04, struct.pack(">IBB", 0xFFFFFFFF, 1, 3) + bytes(50)),
        pdu(0x04, struct.pack(">IBB", 1, 1, 3)),
        pdu(0x04, b"\0\0\0"),
        pdu(0x09, bytes(4)),
        pdu(0x02, bytes(100)),
        pdu(0x05, bytes(4000)),
        associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])]),
        p_data(5, 3, c_store_rq(CT_STORAGE, "1.2.3.1")),  # a context nobody accepted
        p_data(1, 2, small_data_set()),  # a data set without a command
        p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")) * 2,  # a command inside a data set
        p_data(1, 3, b"\xff" * 40),
        p_data(1, 3, element(0x0100, b"\x01\x00")),  # no message id
        p_data(1, 3, element(0x0100, b"\x01")),
        p_data(1, 3, command(0x8001)),  # a response
        p_data(1, 1, bytes(60_000)) * 2,
        p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")) + pdu(0x05, bytes(4)),  # a release inside a message
    ],
)
def test_what_breaks_the_protocol_is_aborted_and_leaves_nothing(message: bytes, gateway: Gateway) -> None:
    with gateway.connect() as scu:
        scu.associate()
        scu.send(message)
        answer = scu.wait_for_close()
    assert answer == b"" or answer[0] == ABORT
    assert gateway.files() == []
    assert gateway.rows() == []
    assert healthy(gateway)


@pytest.mark.parametrize("how", ["abort", "close", "reset"])
def test_an_object_cut_off_in_the_middle_leaves_nothing(how: str, gateway: Gateway) -> None:
    with gateway.connect() as scu:
        scu.associate()
        scu.send(p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")) + p_data(1, 0, small_data_set()))
        wait_until(gateway.is_receiving)
        if how == "abort":
            scu.send(pdu(ABORT, bytes(4)))
            scu.wait_for_close()
        elif how == "reset":
            scu.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: not gateway.server._running)
    assert gateway.files() == []
    assert gateway.rows() == []
    assert gateway.spool.scanners.all()[0].rejected == 1
    assert healthy(gateway)


def test_a_stall_and_a_trickle_inside_an_object_are_ended(start_gateway: StartGateway) -> None:
    gateway = start_gateway(stall_timeout_s=0.3, min_rate_bytes_per_s=10_000)
    with gateway.connect() as stalled, gateway.connect() as trickler:
        for scu in (stalled, trickler):
            scu.associate()
            scu.send(p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")))
        trickle(trickler, [p_data(1, 0, b"xx")] * 100)
        assert stalled.wait_for_close()[:1] == bytes((ABORT,))
    wait_until(lambda: not gateway.server._running)
    assert gateway.files() == []


def test_a_silent_association_is_ended(start_gateway: StartGateway) -> None:
    gateway = start_gateway(idle_timeout_s=0.2)
    with gateway.connect() as scu:
        scu.associate()
        assert scu.wait_for_close()[:1] == bytes((ABORT,))
    assert gateway.spool.scanners.all() == []


def test_a_port_check_is_no_event(gateway: Gateway) -> None:
    gateway.connect().socket.close()
    assert healthy(gateway)
    assert [seen.rejected for seen in gateway.spool.scanners.all()] == [0]


def test_no_patient_reaches_log_or_index(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with gateway.connect() as scu:
        scu.associate()
        scu.store(small_data_set(), "1.2.3.1")
        scu.store(small_data_set(study=""), "1.2.3.1")
        scu.store(small_data_set()[:-3000], "1.2.3.1")
        scu.send(p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")) * 2)
        scu.wait_for_close()
    logged = "".join(str(vars(record)) for record in caplog.records)
    assert "instance refused" in logged
    for secret in ("CANARY", "19700131"):
        assert secret not in logged
        for path, content in contents(gateway.folder):
            assert secret.encode() not in content, path.name


# Start and stop --------------------------------------------------------------------------------------------


def test_stopping_lets_the_instance_in_progress_finish(gateway: Gateway) -> None:
    data = small_data_set()
    with gateway.connect() as busy, gateway.connect() as idle:
        busy.associate()
        idle.associate()
        busy.send(p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")) + p_data(1, 0, data[:100]))
        wait_until(gateway.is_receiving)
        stopping = threading.Thread(target=gateway.server.stop)
        stopping.start()
        assert idle.wait_for_close()[:1] == bytes((ABORT,))
        with pytest.raises(OSError):  # it no longer listens
            gateway.connect()
        busy.send(p_data(1, 2, data[100:]))
        assert busy.read_response().status == 0
        assert busy.wait_for_close()[:1] == bytes((ABORT,))
        stopping.join(60)
        assert not stopping.is_alive()
    assert len(gateway.rows(State.READY)) == 1


def test_stopping_cuts_what_does_not_finish(start_gateway: StartGateway) -> None:
    before = set(threading.enumerate())
    gateway = start_gateway(stop_grace_s=0.1)
    with gateway.connect() as scu:
        scu.associate()
        scu.send(p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")) + p_data(1, 0, b"x"))
        wait_until(gateway.is_receiving)
        gateway.server.stop()
    assert gateway.files() == []
    gateway.spool.close()
    wait_until(lambda: set(threading.enumerate()) <= before)  # no thread is left behind


def test_a_taken_port_is_said_in_one_sentence(gateway: Gateway) -> None:
    settings = GatewaySettings(host="127.0.0.1", port=gateway.port)
    with pytest.raises(CannotListenError, match=f"port {gateway.port}: Address already in use"):
        GatewayServer(settings, gateway.spool.entrance).start()
