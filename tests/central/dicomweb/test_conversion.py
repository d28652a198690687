"""Retrieval in a transfer syntax by name: what arrives is checked with DCMTK and against other decoders' pixels."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from central.archive.header import read_header
from central.dicomweb import decode
from central.dicomweb.conversion import DECODED, JPEG_XL_LOSSLESS, converts_to_native
from central.dicomweb.errors import NotAnImageError
from central.dicomweb.render import FILES_AT_ONCE, Renderer
from tests.central.access.house import STUDY, House, open_house, part10, pydicom_file
from tests.central.archive.test_archive import part_10_files
from tests.central.dicomweb.conftest import IMAGES
from tests.central.dicomweb.test_dicomweb import JPEG_LS_SERIES, outside_client, parts, stored

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
# What no decoder here or elsewhere reads, or what has fewer pixels or less of a header than it says.
BROKEN = {
    "JPEG2000-embedded-sequence-delimiter.dcm",
    "GDCMJ2K_TextGBR.dcm",
    "MR_truncated.dcm",
    "badVR.dcm",
    "meta_missing_tsyntax.dcm",
    "nested_priv_SQ.dcm",
    "emri_small_jpeg_2k_lossless_too_short.dcm",
}
DCMTK_DECODERS = {"51": "dcmdjpeg", "57": "dcmdjpeg", "70": "dcmdjpeg", "80": "dcmdjpls", "81": "dcmdjpls"}


@cache
def images() -> dict[Path, UID]:
    """Every image of pydicom's test data that can be converted."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in part_10_files():
            header = read_header(path)
            syntax = UID(header.transfer_syntax_uid)
            if header.pixel_data is not None and path.name not in BROKEN and converts_to_native(syntax):
                found[path] = syntax
    return found


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    with Renderer(1) as opened:
        yield opened  # type: ignore[misc]


def reference(path: Path, syntax: UID, folder: Path) -> np.ndarray:
    """The pixels as pydicom decodes them, or DCMTK where pydicom has no decoder here."""
    tool = DCMTK_DECODERS.get(syntax.rpartition(".")[2]) if syntax.is_encapsulated else None
    if tool is None:
        return dcmread(path).pixel_array
    plain = folder / "plain.dcm"
    done = subprocess.run([f"/usr/bin/{tool}", path, plain], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return dcmread(plain).pixel_array


@pytest.mark.needs("dcmtk")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", images(), ids=lambda path: path.name)
def test_converted_files_are_sound_and_have_the_same_pixels(
    renderer: Renderer, tmp_path: Path, path: Path
) -> None:
    syntax = images()[path]
    wanted_pixels = reference(path, syntax, tmp_path)
    before = dcmread(path)
    for wanted in NATIVE:
        if wanted == syntax:
            continue
        with renderer.converted(path, syntax, wanted) as opened:
            content = opened.read()
        file = tmp_path / "converted.dcm"
        file.write_bytes(content)
        for command in (["dcmdump", "-q", file], ["dcmconv", file, tmp_path / "again.dcm"]):
            done = subprocess.run([f"/usr/bin/{command[0]}", *command[1:]], capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
            assert command[0] == "dcmconv" or not done.stderr  # which warns of UN with undefined length
        got = dcmread(BytesIO(content))
        assert got.file_meta.TransferSyntaxUID == wanted
        np.testing.assert_array_equal(got.pixel_array, wanted_pixels)
        for element in before:
            if element.tag.element > 0 and element.tag.group < 0x0028 and not element.tag.is_private:
                assert got[element.tag].value == element.value, element


def said_to_be(content: bytes, syntax: str) -> bytes:
    """A Part 10 file whose File Meta Information names `syntax`; pydicom writes only those that it knows."""
    at = content.index(b"\x02\x00\x10\x00UI") + 6
    end = at + 2 + int.from_bytes(content[at : at + 2], "little")
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = content[144:at] + len(value).to_bytes(2, "little") + value
    size = int.from_bytes(content[140:144], "little") + len(value) - (end - at - 2)
    return content[:140] + size.to_bytes(4, "little") + meta + content[end:]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEG2000Lossless])
def test_what_has_no_pixels_is_converted_too(renderer: Renderer, tmp_path: Path, syntax: UID) -> None:
    """A report may lie there in any transfer syntax; some senders put it under that of the images beside it."""
    sent = dcmread(BytesIO(pydicom_file("test-SR.dcm")))
    report = Dataset.from_json(sent.to_json())  # free of the encoding it was read in
    report.file_meta = sent.file_meta
    path = tmp_path / "report.dcm"
    if syntax == JPEG2000Lossless:
        path.write_bytes(said_to_be(pydicom_file("test-SR.dcm"), syntax))
    else:
        report.file_meta.TransferSyntaxUID = syntax
        little = syntax != ExplicitVRBigEndian
        report.save_as(
            path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=little, enforce_file_format=True
        )
    with renderer.converted(path, syntax, ExplicitVRLittleEndian) as opened:
        got = dcmread(BytesIO(opened.read()))
    assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert got.to_json_dict() == dcmread(BytesIO(pydicom_file("test-SR.dcm"))).to_json_dict()


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (HTJ2KLossless, partial(imagecodecs.htj2k_encode, reversible=True)),
        (JPEG_XL_LOSSLESS, partial(imagecodecs.jpegxl_encode, lossless=True)),
    ],
)
@pytest.mark.parametrize("name", ["MR2_UNCR.dcm", "SC_rgb.dcm"])
def test_codecs_that_pydicom_has_no_files_of(
    renderer: Renderer, tmp_path: Path, name: str, syntax: UID, encode: Callable[[np.ndarray], bytes]
) -> None:
    ds = dcmread(BytesIO(pydicom_file(name)))
    cells = ds.pixel_array
    ds.PixelData = encapsulate([encode(cells)])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    path = tmp_path / "coded.dcm"
    path.write_bytes(said_to_be(part10(ds), syntax))
    with renderer.converted(path, syntax, ExplicitVRLittleEndian) as opened:
        np.testing.assert_array_equal(dcmread(BytesIO(opened.read())).pixel_array, cells)


def test_what_is_said_to_be_decoded_is_decoded() -> None:
    assert set(decode._DECODERS) == DECODED


# Over HTTP


def fetch(house: House, path: str, accept: str, **headers: str) -> httpx.Response:
    with house.client("radiologist") as client:
        return client.get(f"/dicom-web/studies/{STUDY}{path}", headers={"Accept": accept, **headers})


@pytest.mark.parametrize("name", IMAGES)
def test_one_instance_as_explicit_vr_little_endian(house: House, name: str) -> None:
    series = f"1.2.9.{IMAGES.index(name)}"
    path = f"/series/{series}/instances/{series}.1"
    single = fetch(house, path, f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}")
    assert single.status_code == 200, single.text
    assert single.headers["content-type"] == f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
    got = dcmread(BytesIO(single.content))
    assert got.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert got.PatientName == "Doe^Jané"
    many = fetch(
        house, path, f'multipart/related; type="application/dicom"; transfer-syntax={ExplicitVRLittleEndian}'
    )
    assert [content for _, content in parts(many)] == [single.content]


def test_a_study_in_one_transfer_syntax(house: House) -> None:
    answer = fetch(
        house, "", f'multipart/related; type="application/dicom"; transfer-syntax={ExplicitVRLittleEndian}'
    )
    found = [dcmread(BytesIO(content)) for _, content in parts(answer)]
    assert len(found) == len(IMAGES)
    assert {ds.file_meta.TransferSyntaxUID for ds in found} == {ExplicitVRLittleEndian}


def test_the_python_client_asks_for_uncompressed(house: House) -> None:
    client = outside_client(house)
    media_types = (("application/dicom", ExplicitVRLittleEndian),)
    for ds in client.retrieve_series(STUDY, JPEG_LS_SERIES, media_types=media_types):
        original = dcmread(BytesIO(stored(house, f"1.2.9.{IMAGES.index('emri_small.dcm')}")))
        assert isinstance(ds, Dataset)
        np.testing.assert_array_equal(ds.pixel_array, original.pixel_array)  # the same images in JPEG-LS
    octets = (("application/octet-stream", ExplicitVRLittleEndian),)
    frames = client.retrieve_instance_frames(
        STUDY, JPEG_LS_SERIES, f"{JPEG_LS_SERIES}.1", [10, 1], media_types=octets
    )
    assert frames == [original.pixel_array[index].tobytes() for index in (9, 0)]


def test_the_accept_header_decides(house: House) -> None:
    path = f"/series/{JPEG_LS_SERIES}/instances/{JPEG_LS_SERIES}.1"
    explicit, anything = f"transfer-syntax={ExplicitVRLittleEndian}", "transfer-syntax=*"
    for accept, compressed in (
        (f"application/dicom; {anything}; q=0.5, application/dicom; {explicit}", False),
        (f"application/dicom; {anything}, application/dicom; {explicit}; q=0.5", True),
        ("application/dicom", True),
        ("*/*", True),
    ):
        answer = fetch(house, path, accept)
        content = (
            answer.content
            if answer.headers["content-type"].startswith("application")
            else parts(answer)[0][1]
        )
        assert dcmread(BytesIO(content)).file_meta.TransferSyntaxUID.is_compressed == compressed, accept
    assert fetch(house, path, "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90").status_code == 406


def test_one_frame_by_itself(house: House) -> None:
    path = f"/series/{JPEG_LS_SERIES}/instances/{JPEG_LS_SERIES}.1/frames"
    original = dcmread(BytesIO(stored(house, f"1.2.9.{IMAGES.index('emri_small.dcm')}"))).pixel_array
    accept = f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}"
    decoded = fetch(house, f"{path}/3", accept)
    assert decoded.content == original[2].tobytes()
    assert decoded.headers["etag"].startswith("W/")
    assert fetch(house, f"{path}/3", accept, **{"If-None-Match": decoded.headers["etag"]}).status_code == 304
    coded = fetch(house, f"{path}/3", "image/jls")
    assert coded.content.startswith(b"\xff\xd8")
    part = fetch(house, f"{path}/3", "image/jls", Range="bytes=2-9")
    assert (part.status_code, part.content) == (206, coded.content[2:10])
    assert fetch(house, f"{path}/3,4", "image/jls").status_code == 406  # two do not go into one part


def test_what_cannot_be_decoded_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(
        tempfile, "tempdir", str(tmp_path / "temporary")
    )  # others' tests write to the common one
    with open_house(tmp_path) as house:
        damaged = pydicom_file("MR_small_jp2klossless.dcm", SeriesInstanceUID="1.2", SOPInstanceUID="1.2.1")
        house.put(damaged[:-3000])
        video = pydicom_file("MR_small_jp2klossless.dcm", SeriesInstanceUID="1.3", SOPInstanceUID="1.3.1")
        house.put(video.replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.99"))
        for series in ("1.2", "1.3"):
            for form in ("application/dicom", 'multipart/related; type="application/dicom"'):
                accept = f"{form}; transfer-syntax={ExplicitVRLittleEndian}"
                answer = fetch(house, f"/series/{series}/instances/{series}.1", accept)
                assert answer.status_code == 406
                assert answer.headers["content-type"] == "application/problem+json"
        assert list((tmp_path / "temporary").glob("dicomnet-*/written")) == []


@pytest.mark.parametrize("is_short", [True, False])
def test_an_instance_that_fails_in_the_middle_of_a_study_cuts_the_answer(
    tmp_path: Path, is_short: bool
) -> None:
    """Never a study that looks whole and is not. Of a short one nothing has left by then: it is refused in order."""
    more = {} if is_short else {"Rows": 1024, "Columns": 1024, "PixelData": bytes(1024 * 1024 * 2)}
    uids = {"SeriesInstanceUID": "1.1", "SOPInstanceUID": "1.1.1", "SeriesNumber": 1}
    with open_house(tmp_path) as house:
        house.put(pydicom_file("CT_small.dcm", **uids, **more))
        damaged = pydicom_file(
            "MR_small_jp2klossless.dcm", SeriesInstanceUID="1.2", SOPInstanceUID="1.2.1", SeriesNumber=2
        )
        house.put(damaged[:-3000])
        accept = f'multipart/related; type="application/dicom"; transfer-syntax={ExplicitVRLittleEndian}'
        if is_short:
            assert fetch(house, "", accept).status_code == 406
            return
        with pytest.raises(httpx.RemoteProtocolError):
            fetch(house, "", accept)


def test_a_worker_that_dies_while_it_converts_costs_that_answer_only(tmp_path: Path) -> None:
    path = tmp_path / "never.dcm"
    os.mkfifo(path)  # opening it waits for ever
    with Renderer(1) as renderer:
        worker = renderer._idle.queue[0]
        worker._ready()
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.join()
        source = next(iter(images()))
        with renderer.converted(source, images()[source], ExplicitVRLittleEndian) as opened:
            assert opened.read(132).endswith(b"DICM")
        renderer._conversion_timeout_s = 0.3
        with (
            pytest.raises(NotAnImageError, match="within"),
            renderer.converted(path, ExplicitVRBigEndian, ExplicitVRLittleEndian),
        ):
            pass


def test_who_hangs_up_leaves_nothing_behind(tmp_path: Path) -> None:
    with Renderer(1) as renderer, open_house(tmp_path, renderer=renderer) as house:
        ds = dcmread(BytesIO(pydicom_file("MR_small.dcm", SeriesInstanceUID="1.1", SOPInstanceUID="1.1.1")))
        ds.Rows = ds.Columns = 512
        ds.NumberOfFrames = 128
        ds.PixelData = bytes(512 * 512 * 2 * 128)
        house.put(part10(ds))
        for form in ("application/dicom", 'multipart/related; type="application/dicom"'):
            accept = {"Accept": f"{form}; transfer-syntax={ImplicitVRLittleEndian}"}
            with house.client("radiologist") as client:
                path = f"/dicom-web/studies/{STUDY}/series/1.1/instances/1.1.1"
                with client.stream("GET", path, headers=accept) as answer:
                    assert next(answer.iter_raw())
                    assert house.renderer._places._value == FILES_AT_ONCE - 1
            gone = threading.Event()
            for _ in range(1200):
                if house.renderer._places._value == FILES_AT_ONCE:
                    break
                gone.wait(0.05)
            assert house.renderer._places._value == FILES_AT_ONCE
