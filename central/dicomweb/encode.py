"""One frame coded anew without loss, for who asks for it over a thin line: HTJ2K or JPEG-LS.

Runs in a worker process only (see `central.dicomweb.render`). Always true: what leaves here was decoded again and
compared, pixel by pixel.
"""

from __future__ import annotations

import imagecodecs
import numpy as np
from pydicom.uid import UID, HTJ2KLossless

from central.dicomweb.decode import Array, decode_frame
from central.dicomweb.errors import NotAnImageError
from central.dicomweb.pixel_data import StoredImage


def encode_frame(image: StoredImage, number: int, wanted: str) -> bytes:
    """Frame `number` (from 1) of a monochrome `image`, in `wanted`: see `central.dicomweb.conversion.coded_anew`.

    Raises
    ------
    NotAnImageError : it cannot be decoded, or not coded without loss.
    """
    cells = np.ascontiguousarray(decode_frame(image, number).cells)
    is_htj2k = UID(wanted) == HTJ2KLossless
    encode, decode = (_htj2k, imagecodecs.htj2k_decode) if is_htj2k else (_jpeg_ls, imagecodecs.jpegls_decode)
    try:
        coded = encode(cells)
        is_same = np.array_equal(decode(coded).view(cells.dtype), cells)
    except (ValueError, RuntimeError, TypeError) as error:  # imagecodecs' own errors are RuntimeErrors
        raise NotAnImageError(f"this frame cannot be had in {UID(wanted).name}") from error
    if not is_same:
        raise NotAnImageError(f"this frame cannot be had in {UID(wanted).name} without loss")
    return coded


def _htj2k(cells: Array) -> bytes:
    return bytes(imagecodecs.htj2k_encode(cells, reversible=True))


def _jpeg_ls(cells: Array) -> bytes:
    """JPEG-LS knows no sign: the bits are coded, and Pixel Representation says what they mean (PS3.5 section 8.2.3)."""
    return bytes(imagecodecs.jpegls_encode(cells.view(f"u{cells.dtype.itemsize}")))
