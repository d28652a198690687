"""What of an archived instance a worker process can be asked to write into a file: conversions and single values.

The file has no name any more when its first byte is read, so nothing of it stays, whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from central.archive.sealed_file import ObjectFile

CONVERSION_TIMEOUT_S: Final = 300.0
# JPEG XL (PS3.5 Annex A.4.13 ff.) is younger than pydicom's list of names.
JPEG_XL_LOSSLESS: Final = UID("1.2.840.10008.1.2.4.110")
JPEG_XL_JPEG_RECOMPRESSION: Final = UID("1.2.840.10008.1.2.4.111")
JPEG_XL: Final = UID("1.2.840.10008.1.2.4.112")
DECODED: Final = frozenset(
    {
        JPEGBaseline8Bit,
        JPEGExtended12Bit,
        JPEGLossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEGLSNearLossless,
        JPEG2000Lossless,
        JPEG2000,
        HTJ2KLossless,
        HTJ2KLosslessRPCL,
        HTJ2K,
        JPEG_XL_LOSSLESS,
        JPEG_XL_JPEG_RECOMPRESSION,
        JPEG_XL,
        RLELossless,
    }
)
"""The encapsulated transfer syntaxes that `central.dicomweb.decode` decodes."""
CODED_ANEW: Final = (HTJ2KLossless, JPEGLSLossless)
"""What `central.dicomweb.encode` codes single frames in."""

_WITHOUT_LOSS: Final = frozenset(
    {
        JPEGLossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEG2000Lossless,
        HTJ2KLossless,
        HTJ2KLosslessRPCL,
        JPEG_XL_LOSSLESS,
        RLELossless,
    }
)
_NATIVE: Final = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)


@dataclass(frozen=True)
class Conversion:
    """The Part 10 file at `path` in the native transfer syntax `wanted`."""

    path: ObjectFile
    transfer_syntax_uid: str
    wanted: str


@dataclass(frozen=True)
class FrameConversion:
    """Frames (numbers from 1) of the image at `path` as little endian cells, one behind the other.

    The answer is a JSON list of their sizes in bytes.
    """

    path: ObjectFile
    transfer_syntax_uid: str
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class FrameCoding:
    """Frame `number` (from 1) of the image at `path`, coded in `wanted` (of `CODED_ANEW`). The frame is the answer."""

    path: ObjectFile
    transfer_syntax_uid: str
    number: int
    wanted: str


@dataclass(frozen=True)
class Extraction:
    """One element's value. `element` is its tag, or tag, item number (from 1), tag for one inside a sequence.

    The answer is the JSON of an `Extracted`, or of None.
    """

    path: ObjectFile
    transfer_syntax_uid: str
    element: tuple[int, ...]


@dataclass(frozen=True)
class Extracted:
    """Where a value is: `size_bytes` from `offset` of the stored file on, or, with None, alone in the written file."""

    size_bytes: int
    offset: int | None


FileJob = Conversion | FrameConversion | Extraction


@dataclass(frozen=True)
class WrittenFile:
    """What a worker wrote, and what it said of it. Whoever has it closes it."""

    opened: BinaryIO
    answer: bytes
    size_bytes: int
    close: Callable[[], None]


def converts_to_native(transfer_syntax_uid: str) -> bool:
    """Whether an instance in this transfer syntax can be had in a native one."""
    return transfer_syntax_uid in _NATIVE or transfer_syntax_uid in DECODED


def coded_anew(transfer_syntax_uid: str, *, is_encapsulated: bool) -> list[UID]:
    """What frames of a monochrome image can be coded in besides: what has lost something once gains nothing by it."""
    if is_encapsulated and transfer_syntax_uid not in _WITHOUT_LOSS:
        return []
    return [syntax for syntax in CODED_ANEW if syntax != transfer_syntax_uid]


def private_file(folder: Path) -> Path:
    """A new file in `folder`, for the eyes of this user."""
    path = folder / "written"
    path.touch(mode=0o600)
    return path
