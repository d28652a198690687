"""C-STORE sub-operations: an archived instance out on an association, read as fast as the other side takes it.

An instance costs a mebibyte or two of memory whatever its size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from pynetdicom.association import Association

from central.dimse.command_set import store_rq
from central.dimse.errors import PeerGoneError
from central.dimse.lane import Lane, packed

_PACK_BYTES: Final = 256 << 10  # what leaves in one write
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
    lane: Lane,
    context_id: int,
    sop_class_uid: str,
    sop_instance_uid: str,
    part10: BinaryIO,
    *,
    message_id: int,
    originator: Originator | None = None,
) -> int:
    """Send the data set of a Part 10 file; the status it is answered with.

    Raises
    ------
    PeerGoneError : the association ended, or its other side did not answer, or the file cannot be read to its end.
    OSError, ValueError : it cannot be read, or is no Part 10 file; nothing was sent.
    """
    skip_meta(part10)
    asked_by = (originator.ae_title, originator.message_id) if originator is not None else None
    command = store_rq(sop_class_uid, sop_instance_uid, message_id, asked_by)
    before = packed(context_id, command, lane.room, is_last=True, is_command=True)
    at_once = max(1, _PACK_BYTES // lane.room) * lane.room
    piece = part10.read(at_once)
    while True:
        try:
            following = part10.read(at_once)
        except OSError as error:  # half an instance is on the wire: nothing can follow it
            raise PeerGoneError("an archived file cannot be read to its end") from error
        lane.send(before + packed(context_id, memoryview(piece), lane.room, is_last=not following))
        if not following:
            return lane.answer(message_id)
        before, piece = b"", following


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


def is_over(association: Association) -> bool:
    return not association.dul.is_alive() or association.acse.is_aborted()
