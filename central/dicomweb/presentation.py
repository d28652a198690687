"""From pixel cells to the picture a person looks at: 8 bits, grey or RGB, right way round.

The grayscale pipeline of PS3.3 C.11 (modality, then values of interest) and the colour models of C.7.6.3.1.2.
Runs in a worker process only (see `central.dicomweb.render`).
"""

from __future__ import annotations

import io
import math
from typing import Final

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi, convert_color_space
from pydicom.uid import ExplicitVRBigEndian

from central.dicomweb.decode import Array, Decoded
from central.dicomweb.errors import NotAnImageError
from central.dicomweb.pixel_data import StoredImage
from central.dicomweb.view_parameters import Region, ViewParameters, Window, WindowFunction

_PALETTE_WORDS: Final = tuple(
    f"{prefix}{colour}PaletteColorLookupTableData"
    for prefix in ("", "Segmented")
    for colour in ("Red", "Green", "Blue")
)
_FUNCTIONS: Final[dict[str, WindowFunction]] = {
    "LINEAR": "linear",
    "LINEAR_EXACT": "linear-exact",
    "SIGMOID": "sigmoid",
}


def picture(stored: StoredImage, decoded: Decoded, frame: int, view: ViewParameters) -> bytes:
    """Frame `frame` (from 1) of `stored`, decoded, as a JPEG or PNG file.

    Raises
    ------
    NotAnImageError : its colour model or lookup tables are not understood.
    """
    try:
        if decoded.photometric_interpretation.startswith("MONOCHROME"):
            image = Image.fromarray(_grey(decoded, stored.header, frame, view.window), "L")
        else:
            image = Image.fromarray(np.ascontiguousarray(_colour(decoded, stored)), "RGB")
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, NotImplementedError) as error:
        raise NotAnImageError("the lookup tables or colours of this image are not understood") from error
    if view.region is not None:
        image = _part(image, view.region)
    if view.viewport is not None:
        scale = min(view.viewport[0] / image.width, view.viewport[1] / image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    out = io.BytesIO()
    if view.media_type == "image/png":
        image.save(out, "PNG", compress_level=3)
    else:
        image.save(out, "JPEG", quality=view.quality, subsampling=0)
    return out.getvalue()


def _part(image: Image.Image, region: Region) -> Image.Image:
    columns, rows = (image.width, image.height) if region.is_share else (1, 1)
    left, top = region.left * columns, region.top * rows
    width = image.width - left if region.width is None else region.width * columns
    height = image.height - top if region.height is None else region.height * rows
    box = (
        math.floor(left),
        math.floor(top),
        min(image.width, math.ceil(left + abs(width))),
        min(image.height, math.ceil(top + abs(height))),
    )
    if box[0] >= box[2] or box[1] >= box[3]:
        raise NotAnImageError("the part that is asked for lies outside of this image")
    part = image.crop(box)
    if width < 0:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return part.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if height < 0 else part


def _grey(decoded: Decoded, header: Dataset, frame: int, window: Window | None) -> Array:
    values = _modality_values(decoded.cells, header, frame)
    shown = window or _stored_window(header, frame)
    if window is None and header.get("VOILUTSequence"):
        table = np.asarray(apply_voi(values, header))
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        grey: Array = table.astype(np.float32) * (255.0 / ((1 << bits) - 1))
    else:
        grey = _windowed(values.astype(np.float32), shown or _full_range(values))
    if decoded.photometric_interpretation == "MONOCHROME1":  # the lowest value is white
        grey = 255.0 - grey
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _modality_values(cells: Array, header: Dataset, frame: int) -> Array:
    rescale = _functional_group(header, frame, "PixelValueTransformationSequence")
    if rescale is not None and "RescaleSlope" in rescale:
        return cells.astype(np.float64) * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept)
    return np.asarray(apply_modality_lut(cells, header))


def _stored_window(header: Dataset, frame: int) -> Window | None:
    """The first window of the image, or of the frame in an enhanced multi-frame image (C.7.6.16.2.10)."""
    source = _functional_group(header, frame, "FrameVOILUTSequence") or header
    centre, width = source.get("WindowCenter"), source.get("WindowWidth")
    if centre is None or width is None:
        return None
    first = [
        value[0] if isinstance(value, (list, tuple)) or hasattr(value, "append") else value
        for value in (centre, width)
    ]
    if float(first[1]) <= 0:
        return None
    function = _FUNCTIONS.get(str(source.get("VOILUTFunction", "LINEAR")), "linear")
    return Window(float(first[0]), float(first[1]), function)


def _functional_group(header: Dataset, frame: int, keyword: str) -> Dataset | None:
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for groups in (per_frame[frame - 1 : frame], shared[:1]):
        if groups and groups[0].get(keyword):
            found = groups[0][keyword].value[0]
            return found if isinstance(found, Dataset) else None
    return None


def _full_range(values: Array) -> Window:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return Window((low + high) / 2, max(high - low, 1e-6), "linear-exact")


def _windowed(values: Array, window: Window) -> Array:
    """0 to 255 (C.11.2.1.2 and C.11.2.1.3)."""
    if window.function == "sigmoid":
        exponent = np.clip(-4 * (values - window.centre) / window.width, -80, 80)
        return np.asarray(255.0 / (1 + np.exp(exponent)))
    centre, width = window.centre, window.width
    if window.function == "linear":
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return np.asarray(np.clip((values - centre) / width + 0.5, 0, 1) * 255)


def _colour(decoded: Decoded, stored: StoredImage) -> Array:
    colour, cells = decoded.photometric_interpretation, decoded.cells
    if colour == "PALETTE COLOR":
        return _to_8_bits(apply_color_lut(cells, _palette(stored))[..., :3])
    if cells.ndim != 3 or cells.shape[2] < 3:
        raise NotAnImageError(f"images in {colour} are not drawn here")
    cells = cells[..., :3]
    if cells.dtype.itemsize > 1:
        white = (1 << (stored.pixels.bits_stored or 8)) - 1
        cells = (cells.astype(np.float64) * (255.0 / white)).astype(np.uint8)
    return np.asarray(convert_color_space(cells, colour, "RGB")) if colour.startswith("YBR") else cells


def _palette(stored: StoredImage) -> Dataset:
    """The header, its palette in little endian: pydicom takes the words of OW for little endian always."""
    if stored.transfer_syntax_uid != ExplicitVRBigEndian:
        return stored.header
    swapped = Dataset(stored.header)
    for name in _PALETTE_WORDS:
        if name in swapped:
            swapped[name].value = np.frombuffer(swapped[name].value, "<u2").byteswap().tobytes()
    swapped.set_original_encoding(False, True)
    return swapped


def _to_8_bits(cells: Array) -> Array:
    return cells if cells.dtype.itemsize == 1 else (cells >> 8).astype(np.uint8)
