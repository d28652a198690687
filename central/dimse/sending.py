"""C-STORE sub-operations: an archived instance out on an association, read as fast as the other side takes it.

pynetdicom queues what is to be sent without end, so a piece is handed over only when the queue has room: an instance
costs a mebibyte or two of memory whatever its size.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Final

from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from central.dimse.errors import PeerGoneError
from central.dimse.transport import PackedData

_PACKS_WAITING: Final = 4
_PACK_BYTES: Final = 256 << 10  # what leaves in one write
_NO_LIMIT_PDU_BYTES: Final = 131_072  # what is sent to a peer that names no maximum
_PDV_BYTES: Final = 6
_LOOK_EVERY_S: Final = 0.5
_MEDIUM_PRIORITY: Final = 0
_PREAMBLE_BYTES: Final = 132
_META_GROUP: Final = 0x0002
_LONG_VRS: Final = frozenset((b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN"))
_MAX_META_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Originator:
    """Who asked for a C-MOVE (PS3.7 section 9.1.1.1.6)."""

    ae_title: str
    message_id: int


def send_store(
    association: Association,
    context_id: int,
    sop_class_uid: str,
    sop_instance_uid: str,
    part10: BinaryIO,
    *,
    message_id: int,
    timeout_s: float,
    originator: Originator | None = None,
) -> int:
    """Send the data set of a Part 10 file; the status it is answered with.

    Parameters
    ----------
    timeout_s : silence of the other side that is borne, while sending and while it stores.

    Raises
    ------
    PeerGoneError : the association ended, or its other side did not answer.
    """
    request = C_STORE()
    request.MessageID = message_id
    request.AffectedSOPClassUID = sop_class_uid
    request.AffectedSOPInstanceUID = sop_instance_uid
    request.Priority = _MEDIUM_PRIORITY
    request.DataSet = BytesIO()  # the command says that one follows; the pieces are sent below
    if originator is not None:
        request.MoveOriginatorApplicationEntityTitle = originator.ae_title
        request.MoveOriginatorMessageID = originator.message_id
    association.dimse.send_msg(request, context_id)
    room = (association.dimse.maximum_pdu_size or _NO_LIMIT_PDU_BYTES) - _PDV_BYTES
    at_once = max(1, _PACK_BYTES // room) * room
    skip_meta(part10)
    piece = part10.read(at_once)
    while True:
        following = part10.read(at_once)
        _wait_for_room(association, timeout_s)
        association.dul.send_pdu(PackedData(context_id, memoryview(piece), room, is_last=not following))
        if not following:
            break
        piece = following
    return _answer(association, message_id)


def skip_meta(part10: BinaryIO) -> None:
    """Move to the data set's first byte. ValueError if this is no Part 10 file."""
    if part10.read(_PREAMBLE_BYTES)[128:] != b"DICM":
        raise ValueError("not a Part 10 file")
    while True:
        start = part10.tell()
        head = part10.read(8)
        if len(head) < 8 or start > _MAX_META_BYTES:
            raise ValueError("no data set after the File Meta Information")
        group, _, vr, short = struct.unpack("<HH2sH", head)
        if group != _META_GROUP:
            part10.seek(start)
            return
        length = struct.unpack("<I", part10.read(4))[0] if vr in _LONG_VRS else short
        part10.seek(length, 1)


def _wait_for_room(association: Association, timeout_s: float) -> None:
    waiting = association.dul.to_provider_queue
    deadline_s = time.monotonic() + timeout_s
    with waiting.not_full:  # notified whenever something is taken out
        while len(waiting.queue) >= _PACKS_WAITING:
            waiting.not_full.wait(_LOOK_EVERY_S)
            if is_over(association) or time.monotonic() > deadline_s:
                raise PeerGoneError("the association ended while an instance was sent")
    if is_over(association):
        raise PeerGoneError("the association ended while an instance was sent")


def is_over(association: Association) -> bool:
    return not association.dul.is_alive() or association.acse.is_aborted()


def _answer(association: Association, message_id: int) -> int:
    _, answer = association.dimse.get_msg(block=True)
    if (
        not isinstance(answer, C_STORE)
        or answer.MessageIDBeingRespondedTo != message_id
        or answer.Status is None
    ):
        raise PeerGoneError("no answer came to a C-STORE sub-operation")
    return int(answer.Status)
