"""The lane carries any service: requests whole and bounded, replies in PDUs, cancels, and calls the other way."""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from itertools import count

import pytest

from edge.buffer.states import State
from edge.gateway.command_set import CommandField, us
from edge.gateway.errors import PeerGoneError
from edge.gateway.service import MAX_IDENTIFIER_BYTES, Answer, Call, Peer, Reply, Request
from tests.edge.gateway.conftest import Gateway, StartGateway
from tests.edge.gateway.test_association import wait_until
from tests.peers.scripted_scu import (
    CT_STORAGE,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    VERIFICATION,
    ScriptedScu,
    command,
    element,
    p_data,
    pdu,
    small_data_set,
)

SERVICE = "1.2.840.10008.5.1.4.31"  # any that is not storage
FIND, ACTION, CREATE, CANCEL, REPORT = 0x0020, 0x0130, 0x0140, 0x0FFF, 0x0100
CONTEXTS = [(1, CT_STORAGE, [EXPLICIT_LITTLE]), (3, SERVICE, [IMPLICIT_LITTLE])]


class Echoing:
    """C-FIND gives the identifier back in pieces until cancelled; N-ACTION fails; N-CREATE calls back."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.peer: Peer | None = None
        self.answers: list[Answer] = []

    @property
    def operations(self) -> Mapping[str, frozenset[int]]:
        fields = (CommandField.C_FIND_RQ, CommandField.N_ACTION_RQ, CommandField.N_CREATE_RQ)
        return {SERVICE: frozenset(fields)}

    def handle(self, request: Request, peer: Peer) -> Iterator[Reply]:
        self.requests.append(request)
        self.peer = peer
        if request.command.field == CommandField.N_ACTION_RQ:
            raise ValueError("quotes DOE^JANE")
        if request.command.field == CommandField.N_CREATE_RQ:
            self.answers.append(peer.call(report(), timeout_s=60))
            yield Reply(0x0000, elements={0x1000: b"1.2.3"})
            return
        for _ in count() if request.data_set == b"endless!" else range(3):
            if peer.cancelled:
                yield Reply(0xFE00)
                return
            yield Reply(0xFF00, data_set=request.data_set)
        yield Reply(0x0000, "done")


def report(data_set: bytes | None = b"reported") -> Call:
    return Call(
        3,
        CommandField.N_EVENT_REPORT_RQ,
        {0x0002: SERVICE.encode(), 0x1000: b"1.2.3.4", 0x1002: us(1)},
        None if data_set is None else [data_set],
    )


@pytest.fixture
def service() -> Echoing:
    return Echoing()


@pytest.fixture
def serving(start_gateway: StartGateway, service: Echoing) -> Gateway:
    return start_gateway(services=[service])


def read_message(scu: ScriptedScu) -> tuple[dict[int, bytes], bytes, int]:
    """Command elements, data set, and the length of the longest PDU."""
    held = {1: b"", 0: b""}
    longest = 0
    elements: dict[int, bytes] = {}
    while True:
        kind, body = scu.read_pdu()
        assert kind == 0x04, f"PDU type {kind} instead of a message"
        longest = max(longest, len(body))
        control = body[5]
        held[control & 1] += body[6:]
        if control & 1 and control & 2:
            at = 0
            while at < len(held[1]):
                _, number, length = struct.unpack_from("<HHI", held[1], at)
                elements[number] = held[1][at + 8 : at + 8 + length]
                at += 8 + length
        if control & 2 and (not control & 1 or elements[0x0800] == struct.pack("<H", 0x0101)):
            return elements, held[0], longest


def status_of(elements: dict[int, bytes]) -> int:
    return int.from_bytes(elements[0x0900], "little")


def find(identifier: bytes, *, message_id: int = 7) -> bytes:
    return p_data(3, 3, command(FIND, message_id=message_id, has_data_set=True)) + p_data(3, 2, identifier)


def cancel(message_id: int) -> bytes:
    body = element(0x0100, us(CANCEL)) + element(0x0120, us(message_id)) + element(0x0800, us(0x0101))
    return p_data(3, 3, element(0x0000, struct.pack("<I", len(body))) + body)


def response_to(elements: dict[int, bytes], *, data_set: bytes = b"") -> bytes:
    body = (
        element(0x0100, us(int.from_bytes(elements[0x0100], "little") | 0x8000))
        + element(0x0120, elements[0x0110])
        + element(0x0800, us(1 if data_set else 0x0101))
        + element(0x0900, us(0))
    )
    sent = p_data(3, 3, element(0x0000, struct.pack("<I", len(body))) + body)
    return sent + (p_data(3, 2, data_set) if data_set else b"")


def test_replies_come_in_pdus_the_peer_takes(serving: Gateway, service: Echoing) -> None:
    with serving.connect() as scu:
        scu.associate(CONTEXTS, max_pdu_bytes=128)
        identifier = bytes(range(250))
        scu.send(find(identifier[:100])[: -len(p_data(3, 2, identifier[:100]))])
        for at in range(0, 250, 50):
            scu.send(p_data(3, 2 if at == 200 else 0, identifier[at : at + 50]))
        messages = [read_message(scu) for _ in range(4)]
        scu.release()

    assert [status_of(elements) for elements, _, _ in messages] == [0xFF00, 0xFF00, 0xFF00, 0x0000]
    assert [data_set for _, data_set, _ in messages] == [identifier] * 3 + [b""]
    assert max(longest for _, _, longest in messages) <= 128
    assert messages[-1][0][0x0902].strip() == b"done"
    assert messages[0][0][0x0120] == us(7)
    (request,) = service.requests
    assert (request.calling_ae_title, request.called_ae_title) == ("CT1", "DICOMNET")
    assert request.context.transfer_syntax_uid == IMPLICIT_LITTLE


def test_storage_and_a_service_share_one_association(serving: Gateway) -> None:
    with serving.connect() as scu:
        scu.associate(CONTEXTS)
        before = scu.store(small_data_set("1.2.3.1"), "1.2.3.1")
        scu.send(find(b"identify"))
        found = [status_of(read_message(scu)[0]) for _ in range(4)]
        after = scu.store(small_data_set("1.2.3.2"), "1.2.3.2")
        scu.release()

    assert (before.status, found[-1], after.status) == (0, 0, 0)
    assert len(serving.rows(State.READY)) == 2


def test_a_cancel_ends_the_replies(serving: Gateway) -> None:
    with serving.connect() as scu:
        scu.associate(CONTEXTS)
        scu.send(find(b"endless!", message_id=9))
        assert status_of(read_message(scu)[0]) == 0xFF00
        scu.send(cancel(8))  # of a message that is not in progress: without effect
        scu.send(cancel(9))
        statuses = {status_of(read_message(scu)[0])}
        while 0xFE00 not in statuses:
            statuses.add(status_of(read_message(scu)[0]))
        scu.send(find(b"identify"))
        again = [status_of(read_message(scu)[0]) for _ in range(4)]
        scu.release()

    assert statuses <= {0xFF00, 0xFE00}
    assert again == [0xFF00, 0xFF00, 0xFF00, 0]


@pytest.mark.parametrize(("field", "status"), [(FIND, 0xA700), (ACTION, 0x0213)])
def test_a_data_set_past_the_bound_is_refused_and_not_kept(
    field: int, status: int, serving: Gateway, service: Echoing
) -> None:
    with serving.connect() as scu:
        scu.associate(CONTEXTS)
        scu.send(p_data(3, 3, command(field, has_data_set=True)))
        for _ in range(MAX_IDENTIFIER_BYTES // 65_536 + 1):
            scu.send(p_data(3, 0, bytes(65_536)))
        scu.send(p_data(3, 2, b""))
        elements, _, _ = read_message(scu)
        scu.send(find(b"identify"))
        after = status_of(read_message(scu)[0])

    assert status_of(elements) == status
    assert after == 0xFF00
    assert [request.data_set for request in service.requests] == [b"identify"]


def test_a_service_that_raises_is_answered_and_logged_without_its_words(
    serving: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with serving.connect() as scu, caplog.at_level(logging.INFO):
        scu.associate(CONTEXTS)
        scu.send(p_data(3, 3, command(ACTION)))
        elements, _, _ = read_message(scu)
        stored = scu.store(small_data_set(), "1.2.3.1")

    assert (status_of(elements), stored.status) == (0x0110, 0)
    (record,) = [record for record in caplog.records if record.message == "a service failed"]
    assert "ValueError" in record.problem  # type: ignore[attr-defined]
    assert "test_services" in record.problem  # type: ignore[attr-defined]
    assert "DOE" not in str(vars(record))


def test_operations_a_service_does_not_have(serving: Gateway, service: Echoing) -> None:
    with serving.connect() as scu:
        scu.associate([*CONTEXTS, (5, VERIFICATION, [IMPLICIT_LITTLE])])
        scu.send(p_data(3, 3, command(0x0150)))
        delete = scu.read_response()
        store = scu.store(small_data_set(), "1.2.3.1", context_id=3)
        scu.send(p_data(5, 3, command(FIND, has_data_set=True)) + p_data(5, 2, b"identify"))
        elsewhere = scu.read_response()
        scu.release()

    assert (delete.status, store.status, elsewhere.status) == (0x0211, 0x0122, 0x0211)
    assert service.requests == []


def test_the_service_calls_the_peer_while_it_handles(serving: Gateway, service: Echoing) -> None:
    with serving.connect() as scu:
        scu.associate(CONTEXTS)
        scu.send(p_data(3, 3, command(CREATE, message_id=4)))
        asked, information, _ = read_message(scu)
        scu.send(response_to(asked, data_set=b"an event reply nobody needs"))
        answered, _, _ = read_message(scu)
        scu.release()

    assert (asked[0x0100], information) == (us(REPORT), b"reported")
    assert asked[0x0002].rstrip(b"\0").decode() == SERVICE
    assert answered[0x0120] == us(4)
    assert answered[0x1000] == b"1.2.3\0"
    assert [answer.status for answer in service.answers] == [0]


def test_a_task_runs_between_messages_even_while_the_peer_sends(serving: Gateway, service: Echoing) -> None:
    with serving.connect() as scu:
        scu.associate(CONTEXTS)
        scu.send(find(b"identify"))
        for _ in range(4):
            read_message(scu)
        assert service.peer is not None
        told: Future[Answer] = service.peer.submit(lambda peer: peer.call(report(), timeout_s=60))
        asked, _, _ = read_message(scu)
        stored = scu.store(small_data_set(), "1.2.3.1")  # before the answer is given
        assert not told.done()
        scu.send(response_to(asked))
        assert told.result(60).status == 0
        scu.release()

    assert stored.status == 0


@pytest.mark.parametrize("ending", ["release", "abort", "cut", "silence"])
def test_a_task_learns_that_the_association_ended(
    ending: str, start_gateway: StartGateway, service: Echoing
) -> None:
    gateway = start_gateway(services=[service], stall_timeout_s=5)
    with gateway.connect() as scu:
        scu.associate(CONTEXTS)
        scu.send(find(b"identify"))
        for _ in range(4):
            read_message(scu)
        assert service.peer is not None
        told = service.peer.submit(lambda peer: peer.call(report(None), timeout_s=0.3))
        read_message(scu)
        if ending == "release":
            scu.release()
        elif ending == "abort":
            scu.send(pdu(0x07, bytes(4)))
        elif ending == "cut":
            scu.socket.close()
        assert told.exception(60) is not None

    # After mere silence the association goes on; it ends when the box has seen that the connection has.
    wait_until(lambda: service.peer is not None and not service.peer.is_open)
    late: Future[None] = service.peer.submit(lambda _: None)
    with pytest.raises(PeerGoneError):
        late.result(60)


def test_a_task_that_fails_by_itself_disturbs_nobody(serving: Gateway, service: Echoing) -> None:
    with serving.connect() as scu:
        scu.associate(CONTEXTS)
        scu.send(find(b"identify"))
        for _ in range(4):
            read_message(scu)
        assert service.peer is not None
        with pytest.raises(ZeroDivisionError):
            service.peer.submit(lambda _: 1 // 0).result(60)
        assert scu.store(small_data_set(), "1.2.3.1").status == 0
        scu.release()


@pytest.mark.parametrize(
    "sent",
    [
        response_to({0x0100: us(REPORT), 0x0110: us(1)}),
        p_data(3, 3, command(FIND, has_data_set=True)) + p_data(1, 2, b"on another context"),
        p_data(3, 3, command(FIND, has_data_set=True)) + p_data(3, 3, command(FIND)),
        # Two requests in one PDU: the second comes before the first can have been answered.
        pdu(0x04, (p_data(3, 3, command(CREATE))[6:]) * 2),
    ],
)
def test_messages_out_of_turn_abort_the_association(sent: bytes, serving: Gateway) -> None:
    with serving.connect() as scu:
        scu.associate(CONTEXTS)
        scu.send(sent)
        assert scu.wait_for_close()[:1] == b"\x07"


def test_stopping_the_box_ends_an_association_that_waits(serving: Gateway, service: Echoing) -> None:
    with serving.connect() as scu:
        scu.associate(CONTEXTS)
        scu.send(find(b"identify"))
        for _ in range(4):
            read_message(scu)
        stopper = threading.Thread(target=serving.server.stop)
        stopper.start()
        assert scu.wait_for_close()[:1] == b"\x07"
        stopper.join(60)
        assert not stopper.is_alive()


def test_a_stop_inside_a_request_ends_the_association_behind_its_answer(
    start_gateway: StartGateway,
) -> None:
    handling, go_on = threading.Event(), threading.Event()

    class Slow(Echoing):
        def handle(self, request: Request, peer: Peer) -> Iterator[Reply]:
            handling.set()
            assert go_on.wait(60)
            yield Reply(0x0000)

    gateway = start_gateway(services=[Slow()])
    with gateway.connect() as scu:
        scu.associate(CONTEXTS)
        scu.send(find(b"identify"))
        assert handling.wait(60)
        stopper = threading.Thread(target=gateway.server.stop)
        stopper.start()
        wait_until(lambda: gateway.server._stopping.is_set())
        go_on.set()
        assert status_of(read_message(scu)[0]) == 0x0000
        assert scu.wait_for_close()[:1] == b"\x07"
        stopper.join(60)
        assert not stopper.is_alive()


def test_a_service_is_offered_only_where_it_is_installed(gateway: Gateway) -> None:
    with gateway.connect() as scu:
        answer = scu.associate(CONTEXTS)
    results = [answer[at + 6] for at in _context_items(answer)]
    assert results == [0, 3]


def _context_items(body: bytes) -> Iterator[int]:
    at = 68
    while at < len(body):
        kind, _, length = struct.unpack_from(">BBH", body, at)
        if kind == 0x21:
            yield at
        at += 4 + length
