"""Cuts what this box sends into P-DATA-TF PDUs (PS3.8 section 9.3.5): nothing larger than the peer takes.

A data set is asked for piece by piece as it is sent, so an object of any size costs one PDU of memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from edge.gateway.pdu import HEADER, PduType

MAX_SENT_PDU_BYTES = 262_144
"""For peers that set no limit, or one larger than is any use."""

_PDV = struct.Struct(">IBB")
_COMMAND_BIT = 0x01
_LAST_BIT = 0x02


def encode_message(
    context_id: int, command: bytes, data_set: Iterable[bytes] | None, *, max_pdu_bytes: int
) -> Iterator[bytes]:
    """The PDUs of one message: its command set, then its data set if it has one.

    Parameters
    ----------
    max_pdu_bytes : what the peer takes; 0 is no limit.
    """
    room = min(max_pdu_bytes or MAX_SENT_PDU_BYTES, MAX_SENT_PDU_BYTES) - _PDV.size
    yield from _fragments(context_id, _COMMAND_BIT, [command], room)
    if data_set is not None:
        yield from _fragments(context_id, 0, data_set, room)


def _fragments(context_id: int, control: int, pieces: Iterable[bytes], room: int) -> Iterator[bytes]:
    """Full fragments as long as there is more; the last one, which may be empty, says that it is."""
    held = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        while len(held) + len(view) > room:
            taken = room - len(held)
            yield _pdu(context_id, control, held + view[:taken])
            held.clear()
            view = view[taken:]
        held += view
    yield _pdu(context_id, control | _LAST_BIT, held)


def _pdu(context_id: int, control: int, fragment: bytes | bytearray) -> bytes:
    header = HEADER.pack(PduType.P_DATA_TF, _PDV.size + len(fragment))
    return header + _PDV.pack(2 + len(fragment), context_id, control) + fragment
