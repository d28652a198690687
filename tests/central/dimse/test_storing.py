"""C-STOREs that follow each other: cut into PDUs in any way, between other messages, or broken off in the middle."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from random import Random, SystemRandom

import pytest

from central.access.policy import Action, Grant, Principal, Role, authorize
from central.dimse import store
from central.dimse.association import STUDY_ROOT_FIND
from central.dimse.transport import Limits, fill
from contract.part10 import file_meta
from tests.central.databases import arriving_in
from tests.central.dimse.house import PEER, House, open_house
from tests.peers.scripted_scu import (
    CT_STORAGE,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    VERIFICATION,
    ScriptedScu,
    c_store_rq,
    command,
    p_data,
    pdu,
    small_data_set,
)

WHO = Principal("u", "radiologist", Role.RADIOLOGIST)
MAX_OBJECT_BYTES = 100_000
CONTEXTS = [
    (1, CT_STORAGE, [EXPLICIT_LITTLE]),
    (3, VERIFICATION, [IMPLICIT_LITTLE]),
    (5, STUDY_ROOT_FIND, [IMPLICIT_LITTLE]),
]
RELEASE_RQ = pdu(0x05, bytes(4))
BOUND_S = 30.0


@pytest.fixture
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    peers = [{**PEER, "ae_title": "CT1"}]
    root = tmp_path_factory.mktemp("central")
    with open_house(root, peers=peers, max_object_bytes=MAX_OBJECT_BYTES, idle_timeout_s=2) as opened:
        yield opened


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context_id, control) + data


def data_set(study: str, number: int, size: int = 3000) -> bytes:
    return small_data_set(f"{study}.{number}", study=study, series=f"{study}.0", pixels=bytes(size))


def store_rq(study: str, number: int) -> bytes:
    return c_store_rq(CT_STORAGE, f"{study}.{number}", message_id=number)


def archived(house: House, study: str) -> dict[str, bytes]:
    facts = house.archive.reading.facts(study)
    if facts is None:
        return {}
    grant = authorize(WHO, Action.VIEW, facts)
    assert isinstance(grant, Grant)
    return {
        one.sop_instance_uid: one.path.read_bytes() for one in house.archive.reading.open_instances(grant)
    }


def expected(study: str, numbers: range, size: int = 3000) -> dict[str, bytes]:
    return {
        (uid := f"{study}.{number}"): file_meta(CT_STORAGE, uid, EXPLICIT_LITTLE)
        + data_set(study, number, size)
        for number in numbers
    }


def test_pynetdicom_sees_the_first_of_an_association_only(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = []
    serve = store.StoreService.serve
    monkeypatch.setattr(
        store.StoreService, "serve", lambda self, request: (served.append(request), serve(self, request))
    )
    with ScriptedScu(house.port, timeout_s=BOUND_S) as scu:
        scu.associate(CONTEXTS)
        assert [scu.store(data_set("1.2.1", n), f"1.2.1.{n}").status for n in range(1, 6)] == [0] * 5
        scu.release()
    assert archived(house, "1.2.1") == expected("1.2.1", range(1, 6))
    assert len(served) == 1


def test_any_cut_into_fragments_and_pdus_is_the_same_object(house: House) -> None:
    seed = SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = Random(seed)
    with ScriptedScu(house.port, timeout_s=BOUND_S) as scu:
        scu.associate(CONTEXTS)
        for number in range(1, 30):
            data, pieces = data_set("1.2.2", number), []
            while data:
                size = chance.choice((1, 7, 100, 2999, 10_000))
                pieces.append(data[:size])
                data = data[size:]
            fragments = [pdv(1, 3, store_rq("1.2.2", number))]
            fragments += [pdv(1, 2 if n == len(pieces) else 0, piece) for n, piece in enumerate(pieces, 1)]
            stream = b""
            while fragments:
                together = chance.randrange(1, 4)
                stream += pdu(0x04, b"".join(fragments[:together]))
                del fragments[:together]
            for at in range(0, len(stream), 1700):
                scu.send(stream[at : at + 1700])
            assert scu.read_response().status == 0
        scu.release()
    assert archived(house, "1.2.2") == expected("1.2.2", range(1, 30))


def test_messages_that_do_not_wait_for_answers_are_answered_in_order(house: House) -> None:
    """Which nobody agreed to (PS3.7 Annex D.3.3.3), and was borne before: also where one PDU has parts of two."""
    parts = [[pdv(1, 3, store_rq("1.2.3", n)), pdv(1, 2, data_set("1.2.3", n))] for n in range(1, 6)]
    flat = [fragment for part in parts for fragment in part]
    flat.append(pdv(3, 3, command(0x0030, message_id=77)))
    stream = pdu(0x04, flat[0]) + b"".join(
        pdu(0x04, b"".join(flat[at : at + 2])) for at in range(1, len(flat), 2)
    )
    with ScriptedScu(house.port, timeout_s=BOUND_S) as scu:
        scu.associate(CONTEXTS)
        assert scu.store(data_set("1.2.3", 9), "1.2.3.9").status == 0
        scu.send(stream + RELEASE_RQ)
        answers = [scu.read_response() for _ in range(6)]
        assert scu.read_pdu()[0] == 0x06
    said = [int.from_bytes(answer.elements[0x0120], "little") for answer in answers]
    assert said == [1, 2, 3, 4, 5, 77]
    assert all(answer.status == 0 for answer in answers)
    assert archived(house, "1.2.3") == expected("1.2.3", range(1, 6)) | expected("1.2.3", range(9, 10))


def test_other_messages_are_served_in_between(house: House) -> None:
    with ScriptedScu(house.port, timeout_s=BOUND_S) as scu:
        scu.associate(CONTEXTS)
        for number in range(1, 4):
            assert scu.store(data_set("1.2.4", number), f"1.2.4.{number}").status == 0
            assert scu.store(data_set("1.2.4", number + 10), f"1.2.4.{number + 10}").status == 0
            scu.send(p_data(3, 3, command(0x0030)))
            assert scu.read_response().status == 0
        scu.release()
    assert len(archived(house, "1.2.4")) == 6


def test_one_that_is_too_large_is_refused_and_the_next_is_taken(house: House) -> None:
    with ScriptedScu(house.port, timeout_s=BOUND_S) as scu:
        scu.associate(CONTEXTS)
        assert scu.store(data_set("1.2.5", 1), "1.2.5.1").status == 0
        assert scu.store(data_set("1.2.5", 2, MAX_OBJECT_BYTES), "1.2.5.2").status == 0xA700
        assert scu.store(data_set("1.2.5", 3), "1.2.5.3").status == 0
        scu.release()
    assert archived(house, "1.2.5") == expected("1.2.5", range(1, 2)) | expected("1.2.5", range(3, 4))
    assert arriving_in(house.root) == []


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(pdu(0x07, bytes(4)), id="A-ABORT"),
        pytest.param(b"", id="the end of the connection"),
        pytest.param(b"\x04\x00\xff\xff\xff\xf0", id="a PDU of 4 GB"),
        pytest.param(p_data(1, 3, store_rq("1.2.6", 3)), id="a command inside a data set"),
        pytest.param(p_data(9, 2, bytes(10)), id="a context that was not accepted"),
        pytest.param(pdu(0x04, b"\0\0\0\x01\x01\x00"), id="a fragment of no length"),
        pytest.param(None, id="silence"),
    ],
)
def test_one_that_breaks_off_leaves_nothing(house: House, end: bytes | None) -> None:
    with ScriptedScu(house.port, timeout_s=BOUND_S) as scu:
        scu.associate(CONTEXTS)
        assert scu.store(data_set("1.2.6", 1), "1.2.6.1").status == 0
        scu.send(p_data(1, 3, store_rq("1.2.6", 2)) + p_data(1, 0, bytes(5000)) + (end or b""))
        if end == b"":
            scu.socket.shutdown(socket.SHUT_WR)
        scu.wait_for_close()
    deadline_s = time.monotonic() + BOUND_S
    while arriving_in(house.root):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert archived(house, "1.2.6") == expected("1.2.6", range(1, 2))


def test_a_command_inside_the_data_set_of_an_unusual_request_leaves_nothing(house: House) -> None:
    unusual = store_rq("1.2.8", 1).replace(
        struct.pack("<HHIH", 0, 0x0700, 2, 0), struct.pack("<HHIH", 0, 0x0700, 2, 9)
    )
    assert unusual != store_rq("1.2.8", 1), "a priority that none has: pynetdicom reads it"
    with ScriptedScu(house.port, timeout_s=BOUND_S) as scu:
        scu.associate(CONTEXTS)
        scu.send((p_data(1, 3, unusual) + p_data(1, 0, bytes(5000))) * 2)
        scu.wait_for_close()
    deadline_s = time.monotonic() + BOUND_S
    while arriving_in(house.root):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_the_server_stops_while_a_sender_says_nothing(house: House) -> None:
    with ScriptedScu(house.port, timeout_s=BOUND_S) as scu:
        scu.associate(CONTEXTS)
        assert scu.store(data_set("1.2.7", 1), "1.2.7.1").status == 0
        house.server.stop()
        assert not [one for one in threading.enumerate() if one.name == "dicom-connection"]
        scu.wait_for_close()


def test_what_came_before_counts_nothing_for_a_trickle() -> None:
    """The buffer holds earlier PDUs: where a read begins in it is no rate."""
    limits = Limits(max_pdu_bytes=1 << 16, max_object_bytes=0, stall_timeout_s=0.2, min_rate_bytes_per_s=1000)
    ours, theirs = socket.socketpair()
    over = threading.Event()

    def trickle() -> None:
        while not over.wait(0.01):
            theirs.send(b"x")

    peer = threading.Thread(target=trickle)
    with ours, theirs:
        peer.start()
        try:
            with pytest.raises(TimeoutError, match="trickles"):
                fill(ours, bytearray(100_000), 99_000, limits, 100_000)
        finally:
            over.set()
            peer.join()
