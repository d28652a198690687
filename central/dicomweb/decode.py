"""One frame's bytes to an array of its pixel cells, for every transfer syntax that is drawn.

Runs in a worker process only (see `central.dicomweb.render`): the codecs are C code fed with bytes from outside.

What is always true: the array is (rows, columns) or (rows, columns, samples), in the type that Bits Stored and
Pixel Representation declare, whatever the codec made of it; colour is as `Decoded.photometric_interpretation`
says, because some codecs undo the colour transform and some do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from central.dicomweb.conversion import JPEG_XL, JPEG_XL_JPEG_RECOMPRESSION, JPEG_XL_LOSSLESS
from central.dicomweb.errors import NotAnImageError
from central.dicomweb.pixel_data import ImagePixel, StoredImage

Array = npt.NDArray[Any]
MAX_SAMPLES: Final = 1 << 27  # cells of one frame: 11,000 x 11,000 monochrome


@dataclass(frozen=True)
class Decoded:
    cells: Array
    photometric_interpretation: str


def decode_frame(image: StoredImage, number: int) -> Decoded:
    """Frame `number` (from 1) of `image`.

    Raises
    ------
    NotAnImageError : it is damaged, too large, or in a transfer syntax that is not drawn.
    """
    pixels = image.pixels
    if pixels.rows * pixels.columns * pixels.samples_per_pixel > MAX_SAMPLES:
        raise NotAnImageError("a frame of this instance is too large to be drawn")
    frame = image.read_frame(number)
    if not image.is_encapsulated:
        return Decoded(_declared(_native(frame, pixels), pixels), _native_colour(pixels))
    decoder = _DECODERS.get(image.transfer_syntax_uid)
    if decoder is None:
        raise NotAnImageError(f"images in {image.transfer_syntax_uid.name} are not drawn here")
    try:
        cells, colour = decoder(frame, pixels)
    except (ValueError, RuntimeError, TypeError) as error:  # imagecodecs' own errors are RuntimeErrors
        raise NotAnImageError("the compressed pixel data of this frame is damaged") from error
    wanted = (pixels.rows, pixels.columns) + ((pixels.samples_per_pixel,) if cells.ndim == 3 else ())
    if cells.shape != wanted:
        raise NotAnImageError("the compressed image has another size than its header says")
    return Decoded(_declared(cells, pixels), colour)


def _native(frame: bytes, pixels: ImagePixel) -> Array:
    rows, columns, samples = pixels.rows, pixels.columns, pixels.samples_per_pixel
    if pixels.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")
        return bits[: rows * columns].reshape(rows, columns)
    kind = "f" if pixels.is_float else "u"
    cells = np.frombuffer(frame, f"<{kind}{pixels.bits_allocated // 8}")
    if pixels.photometric_interpretation == "YBR_FULL_422":
        return _full_422(cells, rows, columns)
    if samples == 1:
        return cells.reshape(rows, columns)
    if pixels.is_planar:
        return cells.reshape(samples, rows, columns).transpose(1, 2, 0)
    return cells.reshape(rows, columns, samples)


def _full_422(cells: Array, rows: int, columns: int) -> Array:
    """Y Y Cb Cr for two pixels to Y Cb Cr for each (PS3.3 C.7.6.3.1.2)."""
    if columns % 2:
        raise NotAnImageError("a YBR_FULL_422 image must have an even number of columns")
    pairs = cells.reshape(rows, columns // 2, 4)
    full = np.empty((rows, columns, 3), cells.dtype)
    full[:, 0::2, 0], full[:, 1::2, 0] = pairs[..., 0], pairs[..., 1]
    full[..., 1], full[..., 2] = (np.repeat(pairs[..., index], 2, axis=1) for index in (2, 3))
    return full


def _native_colour(pixels: ImagePixel) -> str:
    colour = pixels.photometric_interpretation
    return "YBR_FULL" if colour == "YBR_FULL_422" else colour


def _declared(cells: Array, pixels: ImagePixel) -> Array:
    """Cells as Bits Stored, High Bit and Pixel Representation declare them; other bits may hold anything."""
    if cells.dtype.kind == "f" or pixels.bits_allocated == 1:
        return cells
    width = cells.dtype.itemsize * 8
    stored = min(pixels.bits_stored or width, width)
    cells = cells.view(f"u{cells.dtype.itemsize}")
    if stored <= pixels.high_bit < width:
        cells = cells >> (pixels.high_bit + 1 - stored)
    if not pixels.is_signed:
        return cells & ((1 << stored) - 1) if stored < width else cells
    # The sign bit is moved to the top and back, so that it fills what lies above it.
    return (cells << (width - stored)).view(f"i{cells.dtype.itemsize}") >> (width - stored)


def _jpeg(frame: bytes, pixels: ImagePixel) -> tuple[Array, str]:
    if pixels.samples_per_pixel == 1:
        return imagecodecs.jpeg8_decode(frame), pixels.photometric_interpretation
    says_colour = b"JFIF\0" in frame[:64] or b"\xff\xee\x00\x0eAdobe" in frame[:1024]
    if says_colour:
        return imagecodecs.jpeg8_decode(frame), "RGB"
    # Without a marker the library would take any three components for YCbCr.
    coded = "RGB" if pixels.photometric_interpretation == "RGB" else "YCBCR"
    return imagecodecs.jpeg8_decode(frame, colorspace=coded, outcolorspace="RGB"), "RGB"


def _jpeg_lossless(frame: bytes, pixels: ImagePixel) -> tuple[Array, str]:
    return np.ascontiguousarray(imagecodecs.jpegsof3_decode(frame)), pixels.photometric_interpretation


def _jpeg_ls(frame: bytes, pixels: ImagePixel) -> tuple[Array, str]:
    return imagecodecs.jpegls_decode(frame), pixels.photometric_interpretation


def _jpeg_2000(frame: bytes, pixels: ImagePixel) -> tuple[Array, str]:
    return imagecodecs.jpeg2k_decode(frame), _without_transform(pixels)


def _htj2k(frame: bytes, pixels: ImagePixel) -> tuple[Array, str]:
    return imagecodecs.htj2k_decode(frame), _without_transform(pixels)


def _jpeg_xl(frame: bytes, pixels: ImagePixel) -> tuple[Array, str]:
    colour = "RGB" if pixels.samples_per_pixel == 3 else pixels.photometric_interpretation
    return imagecodecs.jpegxl_decode(frame), colour


def _rle(frame: bytes, pixels: ImagePixel) -> tuple[Array, str]:
    cells = np.frombuffer(
        imagecodecs.dicomrle_decode(frame, dtype=f"<u{pixels.bits_allocated // 8}"),
        f"<u{pixels.bits_allocated // 8}",
    )
    rows, columns, samples = pixels.rows, pixels.columns, pixels.samples_per_pixel
    if samples == 1:
        return cells.reshape(rows, columns), pixels.photometric_interpretation
    # The segments hold one sample plane after the other (PS3.5 Annex G.2).
    return cells.reshape(samples, rows, columns).transpose(1, 2, 0), pixels.photometric_interpretation


def _without_transform(pixels: ImagePixel) -> str:
    """The JPEG 2000 decoders undo the component transform that YBR_RCT and YBR_ICT name."""
    colour = pixels.photometric_interpretation
    return "RGB" if colour in ("YBR_RCT", "YBR_ICT") else colour


_Decoder = Callable[[bytes, ImagePixel], tuple[Array, str]]
_DECODERS: Final[Mapping[UID, _Decoder]] = {
    JPEGBaseline8Bit: _jpeg,
    JPEGExtended12Bit: _jpeg,
    JPEGLossless: _jpeg_lossless,
    JPEGLosslessSV1: _jpeg_lossless,
    JPEGLSLossless: _jpeg_ls,
    JPEGLSNearLossless: _jpeg_ls,
    JPEG2000Lossless: _jpeg_2000,
    JPEG2000: _jpeg_2000,
    HTJ2KLossless: _htj2k,
    HTJ2KLosslessRPCL: _htj2k,
    HTJ2K: _htj2k,
    JPEG_XL_LOSSLESS: _jpeg_xl,
    JPEG_XL_JPEG_RECOMPRESSION: _jpeg_xl,
    JPEG_XL: _jpeg_xl,
    RLELossless: _rle,
}
