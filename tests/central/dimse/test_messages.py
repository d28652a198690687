"""Messages out of fragments: what is read by our own hand says the same as when pynetdicom reads it."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import pytest
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom.dimse_messages import C_ECHO_RQ, C_FIND_RQ, C_GET_RQ, C_MOVE_RQ
from pynetdicom.dimse_primitives import C_ECHO, C_FIND, C_GET, C_MOVE
from pynetdicom.dsutils import encode

from central.dimse import messages
from central.dimse.associate import ACCEPTED, Answered
from central.dimse.association import STUDY_ROOT_GET
from central.dimse.errors import OverLimitError
from central.dimse.messages import MAX_IDENTIFIER_BYTES, Messages
from central.dimse.transport import Limits
from tests.peers.scripted_scu import element

IDENTIFIER = bytes(range(200))
LIMITS = Limits(1 << 20, 0, 30.0, 0)
CONTEXT = Answered(1, ACCEPTED, UID(STUDY_ROOT_GET), ImplicitVRLittleEndian)


def encoded(kind: type, message: type, **more: str) -> bytes:
    """A command set as pynetdicom writes it."""
    request: Any = kind()
    request.MessageID, request.AffectedSOPClassUID = 77, UID(STUDY_ROOT_GET)
    if kind is not C_ECHO:
        request.Priority, request.Identifier = 1, BytesIO(IDENTIFIER)
    for keyword, value in more.items():
        setattr(request, keyword, value)
    made: Any = message()
    made.primitive_to_message(request)
    command = encode(made.command_set, True, True)
    assert command is not None
    return command


def pdv(control: int, data: bytes) -> bytes:
    return struct.pack(">IBB", len(data) + 2, 1, control) + data


def came(*pdvs: bytes) -> Any:
    reading = Messages(LIMITS, None, {1: CONTEXT})
    for one in pdvs:
        reading.take(memoryview(one))
    assert reading.is_at_rest is not bool(reading.waiting)
    return reading.waiting.popleft()[1]


REQUESTS = [
    encoded(C_GET, C_GET_RQ),
    encoded(C_FIND, C_FIND_RQ),
    encoded(C_MOVE, C_MOVE_RQ, MoveDestination="SOMEWHERE"),
    encoded(C_ECHO, C_ECHO_RQ),
]


@pytest.mark.parametrize("command", REQUESTS)
def test_pynetdicom_reads_the_same(command: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    is_echo = command == REQUESTS[-1]
    pdvs = [pdv(3, command)] + ([] if is_echo else [pdv(0, IDENTIFIER[:90]) + pdv(2, IDENTIFIER[90:])])
    ours = came(*pdvs)
    assert messages._plain_query(command) is not None
    monkeypatch.setattr(messages, "_plain_query", lambda _: None)
    theirs = came(*pdvs)
    assert type(ours) is type(theirs)
    for keyword in ("MessageID", "AffectedSOPClassUID", "Priority", "MoveDestination", "is_valid_request"):
        assert getattr(ours, keyword, None) == getattr(theirs, keyword, None), keyword
    if not is_echo:
        assert ours.Identifier.getvalue() == theirs.Identifier.getvalue() == IDENTIFIER


def test_what_is_unusual_is_left_to_pynetdicom() -> None:
    get, move, echo = REQUESTS[0], REQUESTS[2], REQUESTS[3]
    priority = element(0x0700, struct.pack("<H", 1))
    for command in (
        b"",
        get[:-3],
        get.replace(priority, element(0x0700, struct.pack("<H", 9))),
        get.replace(priority, b""),
        move.replace(b"SOMEWHERE ", b" " * 10),
        echo.replace(element(0x0800, b"\x01\x01"), element(0x0800, b"\0\0")),
    ):
        assert command not in REQUESTS
        assert messages._plain_query(command) is None


def test_an_identifier_is_bounded() -> None:
    reading = Messages(LIMITS, None, {1: CONTEXT})
    reading.take(memoryview(pdv(3, REQUESTS[0])))
    half = memoryview(pdv(0, bytes(MAX_IDENTIFIER_BYTES // 2)))
    reading.take(half)
    reading.take(half)
    with pytest.raises(OverLimitError, match="longer identifier"):
        reading.take(memoryview(pdv(0, b"x")))
