"""The File Meta Information put in front of the bytes that come by C-STORE (PS3.10 section 7.1).

A pure function of SOP class, SOP instance and transfer syntax: no time, no AE title, no version. The same
instance sent twice, to a box or straight to central, is therefore the same file with the same hash, which is how
resends are recognized.
"""

from __future__ import annotations

import struct

IMPLEMENTATION_CLASS_UID = "2.25.181920345811046296873412208759463054717"
"""Ours, from a random UUID (PS3.5 Annex B.2). It is part of every file's hash: it never changes."""

_PREAMBLE = bytes(128) + b"DICM"
_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2sHI")


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and group 0002, in Explicit VR Little Endian; the data set follows as it was sent."""
    elements = b"".join(
        (
            _LONG.pack(0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01",
            _uid(0x0002, sop_class_uid),
            _uid(0x0003, sop_instance_uid),
            _uid(0x0010, transfer_syntax_uid),
            _uid(0x0012, IMPLEMENTATION_CLASS_UID),
        )
    )
    return _PREAMBLE + _SHORT.pack(0x0002, 0x0000, b"UL", 4) + struct.pack("<I", len(elements)) + elements


def _uid(element: int, value: str) -> bytes:
    raw = value.encode("ascii")
    raw += b"\0" * (len(raw) % 2)
    return _SHORT.pack(0x0002, element, b"UI", len(raw)) + raw
