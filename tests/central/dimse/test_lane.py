"""Sub-operations by our own hand: what the other side may do to them, and that pynetdicom understands the same."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import decode
from pynetdicom.presentation import build_role

from central.dimse.association import STUDY_ROOT_GET
from central.dimse.command_set import plain_store_rq, store_rq, store_rsp
from central.dimse.transport import packed
from tests.central.access.house import STUDY, pydicom_file
from tests.central.dimse.house import House, identifier, open_house
from tests.peers.scripted_scu import c_store_rq, command, element, p_data, pdu

CT = "1.2.840.10008.5.1.4.1.1.2"
IMAGES = 3
GET_ID = 7
BOUND_S = 60


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("central"), idle_timeout_s=2) as opened:
        for number in range(IMAGES):
            opened.put(
                pydicom_file("CT_small.dcm", SOPInstanceUID=f"{STUDY}.{number}", InstanceNumber=number)
            )
        yield opened


def get(house: House, on_first: Callable[[Association], None] = lambda _: None) -> tuple[list[Dataset], bool]:
    """The statuses of a C-GET whose first sub-operation meets `on_first`, and whether the association was aborted."""
    done: list[str] = []

    def store(event: evt.Event) -> int:
        done.append(event.request.AffectedSOPInstanceUID)
        if len(done) == 1:
            on_first(event.assoc)
        return 0

    ae = AE("PEER")
    ae.add_requested_context(STUDY_ROOT_GET)
    ae.add_requested_context(CT)
    assoc = ae.associate(
        "127.0.0.1",
        house.port,
        ae_title="DICOMNET",
        ext_neg=[build_role(CT, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, store)],
    )
    keys = identifier({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY})
    statuses = [status for status, _ in assoc.send_c_get(keys, STUDY_ROOT_GET, msg_id=GET_ID)]
    if statuses[-1].get("Status") is not None:
        assoc.release()
        return statuses, False
    deadline_s = time.monotonic() + BOUND_S
    while assoc.is_alive() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return statuses, assoc.is_aborted


def sends(pdus: bytes) -> Callable[[Association], None]:
    def send(assoc: Association) -> None:
        assert assoc.dul.socket is not None
        assoc.dul.socket.send(pdus)

    return send


def responded(field: int, message_id: int) -> bytes:
    """A command that names a message before it, in one PDU on the context of the images."""
    body = element(0x0100, struct.pack("<H", field)) + element(0x0120, struct.pack("<H", message_id))
    body += element(0x0800, struct.pack("<H", 0x0101)) + element(0x0900, struct.pack("<H", 0))
    return p_data(3, 3, element(0x0000, struct.pack("<I", len(body))) + body)


def test_a_get_can_be_cancelled(house: House) -> None:
    statuses, was_aborted = get(house, sends(responded(0x0FFF, GET_ID)))
    assert not was_aborted
    assert statuses[-1].Status == 0xFE00
    assert statuses[-1].NumberOfRemainingSuboperations == IMAGES - 1


@pytest.mark.parametrize(
    "pdus",
    [
        pytest.param(responded(0x8001, 999), id="an answer to another message"),
        pytest.param(p_data(3, 3, command(0x0030)), id="another request"),
        pytest.param(p_data(3, 2, b"data"), id="a data set"),
        pytest.param(p_data(3, 3, b"\x00\x00\x00\x01\xff\xff\xff\x7f"), id="an element without end"),
        pytest.param(pdu(4, struct.pack(">IBB", 4096, 3, 3)), id="a fragment longer than its PDU"),
        pytest.param(pdu(4, b"\0\0"), id="half a fragment"),
        pytest.param(struct.pack(">BxI", 4, 1 << 30), id="a PDU longer than was agreed"),
        pytest.param(pdu(5, bytes(4)), id="a release"),
        pytest.param(pdu(7, bytes(4)), id="an abort"),
    ],
)
def test_what_is_no_answer_ends_this_association_only(house: House, pdus: bytes) -> None:
    _, was_aborted = get(house, sends(pdus))
    statuses, _ = get(house)
    assert statuses[-1].Status == 0
    assert statuses[-1].NumberOfCompletedSuboperations == IMAGES
    # Who released or aborted in the middle hears no more of it.
    assert was_aborted or pdus[0] in (5, 7)


def test_who_never_answers_is_left(house: House) -> None:
    left = threading.Event()

    def wait(assoc: Association) -> None:
        deadline_s = time.monotonic() + BOUND_S
        while house.server._serving and time.monotonic() < deadline_s:
            time.sleep(0.01)
        left.set()

    get(house, wait)
    assert left.is_set()
    assert not house.server._serving


@pytest.mark.parametrize("originator", [None, ("WHO ASKED", 4711)])
def test_pydicom_reads_the_same_command_sets(originator: tuple[str, int] | None) -> None:
    request = store_rq(CT, "1.2.3", 65_535, originator)
    asked = decode(BytesIO(request), True, True)
    assert (asked.AffectedSOPClassUID, asked.AffectedSOPInstanceUID, asked.MessageID) == (CT, "1.2.3", 65_535)
    assert (asked.CommandField, asked.CommandDataSetType, asked.Priority) == (1, 1, 0)
    assert asked.get("MoveOriginatorMessageID") == (originator[1] if originator else None)
    assert asked.get("MoveOriginatorApplicationEntityTitle") == (originator[0] if originator else None)
    response = store_rsp(CT, "1.2.3", 9, 0xA700, "no room")
    answer = decode(BytesIO(response), True, True)
    assert (answer.CommandField, answer.MessageIDBeingRespondedTo) == (0x8001, 9)
    assert (answer.Status, answer.ErrorComment, answer.CommandDataSetType) == (0xA700, "no room", 0x0101)
    for encoded, read in ((request, asked), (response, answer)):
        assert read.CommandGroupLength == len(encoded) - 12, "all that is behind it"


def test_only_an_ordinary_request_is_read_here() -> None:
    usual = plain_store_rq(c_store_rq(CT, "1.2.3", message_id=5))
    assert usual is not None
    assert (usual.message_id, usual.priority, usual.sop_class_uid, usual.sop_instance_uid) == (
        5,
        0,
        CT,
        "1.2.3",
    )
    whole = c_store_rq(CT, "1.2.3")
    for other in (b"", whole[:-3], c_store_rq("", "1.2.3"), c_store_rq(CT, "1..3"), command(0x0030)):
        assert plain_store_rq(other) is None


@pytest.mark.parametrize("room", [1, 7, 100])
def test_pieces_fit_the_other_sides_pdu(room: int) -> None:
    data, out, at, controls = bytes(range(100)), b"", 0, []
    encoded = packed(3, data, room, is_last=True)
    while at < len(encoded):
        kind, length, pdv_length, context_id, control = struct.unpack_from(">BxLLBB", encoded, at)
        assert (kind, context_id, length) == (4, 3, pdv_length + 4)
        assert pdv_length - 2 <= room
        out += encoded[at + 12 : at + 6 + length]
        controls.append(control)
        at += 6 + length
    assert out == data
    assert controls == [0] * (len(controls) - 1) + [2]
