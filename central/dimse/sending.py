"""C-STORE sub-operations: an archived instance out on an association, read as fast as the other side takes it.

An instance costs a mebibyte of memory at most, whatever its size, and the one that is ready behind it as much.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from central.dimse.command_set import store_rq
from central.dimse.errors import PeerGoneError
from central.dimse.lane import Lane
from central.dimse.transport import packed

_PACK_BYTES: Final = 256 << 10  # what leaves in one write: nothing leaves while it is packed
_PREAMBLE_BYTES: Final = 132
_META_GROUP: Final = 0x0002
_LONG_VRS: Final = frozenset((b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN"))
_MAX_META_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Originator:
    """Who asked for a C-MOVE (PS3.7 section 9.1.1.1.6)."""

    ae_title: str
    message_id: int


class ReadyStore:
    """A C-STORE sub-operation, read and framed up to its first pack; none of it has left.

    Parameters
    ----------
    room : bytes of a message that a PDU takes on the association that it will go by.
    part10 : the instance's file, to be kept open until it was sent.

    Raises
    ------
    OSError, ValueError : it cannot be read, or is no Part 10 file.
    """

    def __init__(
        self,
        room: int,
        context_id: int,
        sop_class_uid: str,
        sop_instance_uid: str,
        part10: BinaryIO,
        *,
        message_id: int,
        originator: Originator | None = None,
    ) -> None:
        self._room, self._context_id, self._part10 = room, context_id, part10
        self.message_id = message_id
        skip_meta(part10)
        asked_by = (originator.ae_title, originator.message_id) if originator is not None else None
        command = store_rq(sop_class_uid, sop_instance_uid, message_id, asked_by)
        self._at_once = max(1, _PACK_BYTES // room) * room
        piece = part10.read(self._at_once)
        self._following = part10.read(self._at_once)
        self._packed = packed(context_id, command, room, is_last=True, is_command=True) + self._pack(piece)

    def send(self, lane: Lane) -> None:
        """Send all of it, once.

        Raises
        ------
        PeerGoneError : the association ended, or the file cannot be read to its end.
        """
        lane.send(self._packed)
        while self._following:
            piece = self._following
            try:
                self._following = self._part10.read(self._at_once)
            except OSError as error:  # half an instance is on the wire: nothing can follow it
                raise PeerGoneError("an archived file cannot be read to its end") from error
            lane.send(self._pack(piece))

    def _pack(self, piece: bytes) -> bytes:
        return packed(self._context_id, memoryview(piece), self._room, is_last=not self._following)


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
