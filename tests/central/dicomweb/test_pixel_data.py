"""Frames against pydicom's own reading of its test files, in every transfer syntax."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.pixels import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
)

from central.dicomweb import pixel_data
from central.dicomweb.decode import JPEG_XL_LOSSLESS, decode_frame
from central.dicomweb.errors import NotAnImageError
from central.dicomweb.pixel_data import open_image
from tests.central.access.house import part10
from tests.central.dicomweb.conftest import IMAGES

NO_REFERENCE = (
    "JPEG-LL.dcm",
    "JPGExtended.dcm",
    "emri_small_jpeg_ls_lossless.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
)


def file(name: str) -> tuple[Path, Dataset]:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path), dcmread(path)


@pytest.mark.parametrize("name", [name for name in IMAGES if name not in NO_REFERENCE])
def test_cells_are_those_that_pydicom_reads(name: str) -> None:
    path, dataset = file(name)
    with open_image(path, dataset.file_meta.TransferSyntaxUID) as image:
        for frame in range(image.pixels.number_of_frames):
            expected = pixel_array(dataset, index=frame, raw=True)
            np.testing.assert_array_equal(decode_frame(image, frame + 1).cells, expected)


@pytest.mark.parametrize(
    ("compressed", "plain"),
    [
        ("emri_small_jpeg_ls_lossless.dcm", "emri_small.dcm"),
        ("emri_small_jpeg_2k_lossless.dcm", "emri_small.dcm"),
        ("emri_small_RLE.dcm", "emri_small.dcm"),
    ],
)
def test_lossless_codecs_give_the_plain_images_cells(compressed: str, plain: str) -> None:
    path, dataset = file(compressed)
    _, reference = file(plain)
    with open_image(path, dataset.file_meta.TransferSyntaxUID) as image:
        for frame in range(image.pixels.number_of_frames):
            expected = pixel_array(reference, index=frame, raw=True)
            np.testing.assert_array_equal(decode_frame(image, frame + 1).cells, expected)


def test_encapsulated_frames_leave_as_they_are_stored() -> None:
    path, dataset = file("emri_small_jpeg_ls_lossless.dcm")
    expected = list(generate_frames(dataset.PixelData, number_of_frames=10))
    with open_image(path, dataset.file_meta.TransferSyntaxUID) as image:
        assert [image.read_frame(number) for number in range(1, 11)] == expected
        assert image.delivered_transfer_syntax_uid == dataset.file_meta.TransferSyntaxUID


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (HTJ2KLossless, partial(imagecodecs.htj2k_encode, reversible=True)),
        (JPEG2000Lossless, partial(imagecodecs.jpeg2k_encode, level=0, reversible=True, codecformat="j2k")),
        (JPEGLSLossless, imagecodecs.jpegls_encode),
        (JPEG_XL_LOSSLESS, partial(imagecodecs.jpegxl_encode, lossless=True)),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_what_we_encode_losslessly_comes_back(
    tmp_path: Path, syntax: UID, encode: Callable[[np.ndarray], bytes], signed: bool
) -> None:
    low, high = (-2048, 2048) if signed else (0, 4096)
    cells = np.random.default_rng(5).integers(low, high, (40, 30), dtype="<i2" if signed else "<u2")
    dataset = image_dataset(1)
    dataset.Rows, dataset.Columns = cells.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = int(signed)
    # Codecs without a sign get the cells as twos complement in Bits Stored, as PS3.5 section 8.2 wants it.
    dataset.PixelData = encapsulate([encode((cells & 0xFFF).astype(np.uint16))])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless  # pydicom writes no JPEG XL; the form is the same
    with open_image(written(tmp_path, dataset), syntax) as image:
        np.testing.assert_array_equal(decode_frame(image, 1).cells, cells)


def test_a_codestream_of_another_size_is_refused(tmp_path: Path) -> None:
    dataset = image_dataset(1)
    dataset.PixelData = encapsulate([imagecodecs.jpegls_encode(np.zeros((400, 400), np.uint8))])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    with (
        open_image(written(tmp_path, dataset), JPEGLSLossless) as image,
        pytest.raises(NotAnImageError, match="another size"),
    ):
        decode_frame(image, 1)


@pytest.mark.parametrize("extended", [False, True])
def test_frames_in_several_fragments(tmp_path: Path, extended: bool) -> None:
    frames = [b"\xff\xd8" + bytes([number]) * (100 * number) + b"\xff\xd9" for number in (1, 2, 3)]
    dataset = image_dataset(3)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    if extended:
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = (
            encapsulate_extended(frames)
        )
    else:
        dataset.PixelData = encapsulate(frames, fragments_per_frame=2)
    dataset["PixelData"].is_undefined_length = True
    path = written(tmp_path, dataset)
    with open_image(path, JPEGBaseline8Bit) as image:
        for number in (3, 1, 2):
            assert image.read_frame(number).rstrip(b"\0") == frames[number - 1]


def test_big_endian_leaves_as_little_endian() -> None:
    path, dataset = file("MR_small_bigendian.dcm")
    _, little = file("MR_small.dcm")
    with open_image(path, ExplicitVRBigEndian) as image:
        assert image.delivered_transfer_syntax_uid == ExplicitVRLittleEndian
        assert image.read_frame(1) == little.PixelData != dataset.PixelData


def test_frames_of_one_bit_begin_at_a_byte(tmp_path: Path) -> None:
    cells = np.random.default_rng(7).integers(0, 2, (3, 5, 5), dtype=np.uint8)
    dataset = image_dataset(3)
    dataset.Rows = dataset.Columns = 5
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    dataset.PixelData = np.packbits(cells.ravel(), bitorder="little").tobytes()
    with open_image(written(tmp_path, dataset), ExplicitVRLittleEndian) as image:
        for number in (1, 2, 3):
            np.testing.assert_array_equal(decode_frame(image, number).cells, cells[number - 1])
            assert len(image.read_frame(number)) == 4


def test_one_frame_is_read_without_the_others(tmp_path: Path) -> None:
    path = tmp_path / "sparse.dcm"
    dataset = image_dataset(1000)
    dataset.Rows = dataset.Columns = 1000
    dataset.PixelData = b""
    head = part10(dataset).removesuffix(b"\0\0\0\0")
    with path.open("wb") as out:  # a gigabyte that takes no room
        out.write(head + (10**9).to_bytes(4, "little"))
        out.truncate(len(head) + 4 + 10**9)
        out.seek(len(head) + 4 + 999 * 10**6)
        out.write(b"\x01" * 10**6)
    with open_image(path, ExplicitVRLittleEndian) as image:
        assert image.read_frame(1000) == b"\x01" * 10**6
        assert image.read_frame(1) == bytes(10**6)


def test_high_bits_that_mean_something_else_are_taken_away(tmp_path: Path) -> None:
    dataset = image_dataset(1)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 1
    dataset.PixelData = np.full((4, 4), 0xAFFE, "<u2").tobytes()  # 0xFFE in 12 signed bits: -2
    with open_image(written(tmp_path, dataset), ExplicitVRLittleEndian) as image:
        assert set(decode_frame(image, 1).cells.ravel().tolist()) == {-2}


def test_a_deflated_bomb_stops_at_its_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_data, "MAX_INFLATED_BYTES", 4 << 20)
    dataset = image_dataset(1)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    plain = part10(dataset)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = packer.compress(bytes(64 << 20)) + packer.flush()
    path = tmp_path / "bomb.dcm"
    meta_end = 144 + int.from_bytes(plain[140:144], "little")
    path.write_bytes(plain[:meta_end] + bomb)
    with (
        pytest.raises(NotAnImageError, match="too large"),
        open_image(path, DeflatedExplicitVRLittleEndian),
    ):
        pass


@pytest.mark.parametrize("name", ["test-SR.dcm", "rtplan.dcm"])
def test_what_has_no_pixels_is_no_image(name: str) -> None:
    path, dataset = file(name)
    with (
        pytest.raises(NotAnImageError, match="no pixel data"),
        open_image(path, dataset.file_meta.TransferSyntaxUID),
    ):
        pass


def test_a_frame_that_is_not_whole_is_refused() -> None:
    path, dataset = file("MR_truncated.dcm")
    with open_image(path, dataset.file_meta.TransferSyntaxUID) as image:
        with pytest.raises(NotAnImageError):
            decode_frame(image, image.pixels.number_of_frames)
        with pytest.raises(NotAnImageError, match="frames"):
            image.read_frame(image.pixels.number_of_frames + 1)


def test_files_cut_anywhere_end_in_one_kind_of_error(tmp_path: Path) -> None:
    """Every prefix of a file is an image of which a frame can be read, or a NotAnImageError; nothing else."""
    whole = []
    for name in ("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"):
        source, dataset = file(name)
        content = source.read_bytes()
        path = tmp_path / "cut.dcm"
        for length in range(0, len(content), len(content) // 80):
            path.write_bytes(content[:length])
            with (
                suppress(NotAnImageError),
                open_image(path, dataset.file_meta.TransferSyntaxUID) as image,
            ):
                decode_frame(image, 1)
                whole.append(name)
    assert len(whole) <= 6  # a cut in the padding after the pixels does no harm; most cuts do


def image_dataset(frames: int) -> Dataset:
    """A 4 × 4 monochrome image of `frames` frames, without pixel data worth the name."""
    _, dataset = file("MR_small.dcm")
    dataset.Rows = dataset.Columns = 4
    dataset.NumberOfFrames = frames
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = bytes(16 * frames)
    dataset["PixelData"].VR = "OB"
    dataset.pop("DataSetTrailingPadding", None)
    return dataset


def written(folder: Path, dataset: Dataset) -> Path:
    path = folder / "image.dcm"
    path.write_bytes(part10(dataset))
    return path


@pytest.mark.parametrize("has_length", [True, False])
def test_an_image_of_more_items_than_a_header_has_is_not_taken_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_length: bool
) -> None:
    monkeypatch.setattr("central.archive.header.MAX_ITEMS", 1000)
    _, dataset = file("CT_small.dcm")
    dataset.ReferencedImageSequence = [Dataset() for _ in range(1001)]
    dataset["ReferencedImageSequence"].is_undefined_length = not has_length
    path = tmp_path / "many.dcm"
    path.write_bytes(part10(dataset))
    if not has_length:
        with pytest.raises(NotAnImageError), open_image(path, ExplicitVRLittleEndian):
            pass
        return
    with open_image(path, ExplicitVRLittleEndian) as image:  # of bytes that nobody looks at
        assert "ReferencedImageSequence" not in image.header
        assert image.read_frame(1) == dataset.PixelData
