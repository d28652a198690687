"""The attributes of an instance that queries match and return, from the first bytes of its Part 10 file.

Pixels are never read, sequences are passed over, and what cannot be followed ends the reading: the UIDs, by which the
instance is found, are known without it. Text stays in the bytes it came in.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import chain
from typing import Final

from pydicom.filereader import data_element_generator

from edge.gateway.data_set import DataSet, Element, vr_of

PREFIX_BYTES: Final = 1 << 20
"""How far an instance is read; what stands behind a private element larger than this is not found."""

META_MIN_BYTES: Final = 144
"""As much as `meta_bytes` needs to see."""

_LAST_TAG: Final = 0x00280011
_META_GROUP_LENGTH_AT: Final = 132 + 8
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_VALUE_MAX_BYTES: Final = 1024

WANTED: Final = frozenset(
    {
        0x00080005,  # Specific Character Set
        0x00080012, 0x00080013,  # Instance Creation
        0x00080016, 0x00080018,  # SOP Class and Instance UID
        0x00080020, 0x00080021, 0x00080022, 0x00080023,  # dates of study, series, acquisition, content
        0x00080030, 0x00080031, 0x00080032, 0x00080033,  # times
        0x00080050,  # Accession Number
        0x00080060, 0x00080070, 0x00080080, 0x00080090,  # Modality, Manufacturer, Institution, Referring Physician
        0x00081010, 0x00081030, 0x0008103E, 0x00081090,  # Station, Study and Series Description, Model
        0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100032, 0x00100040,  # Patient
        0x00101010, 0x00101020, 0x00101030, 0x00104000,
        0x00180015, 0x00181030,  # Body Part, Protocol Name
        0x0020000D, 0x0020000E, 0x00200010, 0x00200011, 0x00200012, 0x00200013,  # UIDs, ID, Numbers
        0x00280008, 0x00280010, 0x00280011,  # Number of Frames, Rows, Columns
    }
)  # fmt: skip


def meta_bytes(prefix: bytes | bytearray) -> int:
    """Where the data set begins in a Part 10 file that this box wrote."""
    length = int.from_bytes(prefix[_META_GROUP_LENGTH_AT : _META_GROUP_LENGTH_AT + 4], "little")
    return _META_GROUP_LENGTH_AT + 4 + length


def after_meta(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The data set of such a file; the meta information is read here, so that what does not open is known at once."""
    held = b""
    while len(held) < META_MIN_BYTES or len(held) < meta_bytes(held):
        piece = next(pieces, b"")
        if not piece:
            break
        held += piece
    return chain((held[meta_bytes(held) :],), pieces)


def read_attributes(pieces: Iterable[bytes], transfer_syntax_uid: str) -> DataSet:
    """What was found of `WANTED`, as far as the data set could be followed."""
    held = bytearray()
    for piece in pieces:
        held += piece[: PREFIX_BYTES - len(held)]
        if len(held) >= PREFIX_BYTES:
            break
    data = bytes(held[meta_bytes(held) :])
    found: dict[int, Element] = {}
    if transfer_syntax_uid == _DEFLATED:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflater.decompress(data, PREFIX_BYTES)
        except zlib.error:
            return found
    little = transfer_syntax_uid != _BIG_ENDIAN
    # By the first element, as `edge.gateway.identify` does: some equipment sends one where it agreed on the other.
    vr = data[4:6]
    raw_elements = data_element_generator(
        BytesIO(data),
        not (vr.isalpha() and vr.isupper()),
        little,
        stop_when=lambda tag, _vr, _length: tag > _LAST_TAG,
        specific_tags=list(WANTED),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for raw in raw_elements:
                value = raw.value
                if int(raw.tag) in WANTED and isinstance(value, bytes) and len(value) <= _VALUE_MAX_BYTES:
                    known_vr = vr_of(int(raw.tag))
                    swapped = known_vr == "US" and not little
                    found[int(raw.tag)] = Element(known_vr, value[::-1] if swapped else value)
    except Exception:  # whatever a broken data set makes pydicom raise, RecursionError included
        return found
    return found
