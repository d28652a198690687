"""The attributes that queries see, from real files in every transfer syntax, and from files that mean harm."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
import zlib

from pydicom import dcmread

from contract.part10 import file_meta
from edge.gateway.query_attributes import PREFIX_BYTES, WANTED, meta_bytes, read_attributes
from tests.edge.gateway.samples import data_set_bytes, pydicom_instances
from tests.peers.scripted_scu import CT_STORAGE, EXPLICIT_LITTLE, ds_element, small_data_set

DEFLATED = "1.2.840.10008.1.2.1.99"
PATIENT_NAME, PATIENT_ID, ROWS = 0x00100010, 0x00100020, 0x00280010


def attributes(data: bytes, syntax: str = EXPLICIT_LITTLE) -> dict[int, bytes]:
    whole = file_meta(CT_STORAGE, "1.2.3.1", syntax) + data
    assert whole[meta_bytes(whole) :] == data
    pieces = (whole[at : at + 100_000] for at in range(0, len(whole), 100_000))
    return {tag: element.value for tag, element in read_attributes(pieces, syntax).items()}


def test_pydicoms_files_in_their_own_transfer_syntaxes() -> None:
    syntaxes = set()
    for path in pydicom_instances():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = dcmread(path, stop_before_pixels=True)
            syntax = str(ds.file_meta.TransferSyntaxUID)
            found = attributes(data_set_bytes(path), syntax)
            for tag in (PATIENT_NAME, PATIENT_ID):
                if tag in ds:
                    wanted = ds.get_item(tag).value
                    raw = wanted if isinstance(wanted, bytes) else str(wanted).encode("latin-1", "replace")
                    assert found.get(tag, b"").strip() == (raw or b"").strip(), path.name
            if "Rows" in ds:
                assert found[ROWS] == struct.pack("<H", ds.Rows), path.name
        syntaxes.add(syntax)
    assert len(syntaxes) > 8


def test_pixels_private_blobs_and_long_values_are_not_kept() -> None:
    blob = ds_element(0x0009, 0x1001, "OB", bytes(300_000))
    long_name = ds_element(0x0010, 0x0010, "PN", b"A" * 5000)
    found = attributes(blob + long_name + small_data_set())
    assert set(found) <= WANTED
    assert all(len(value) <= 1024 for value in found.values())
    assert attributes(ds_element(0x0009, 0x1001, "OB", bytes(PREFIX_BYTES)) + small_data_set()) == {}


def test_harmful_files_cost_little_and_end() -> None:
    nested = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = deflater.compress(small_data_set() + bytes(300_000_000)) + deflater.flush()
    tracemalloc.start()
    for data, syntax in [
        (nested * 20_000, EXPLICIT_LITTLE),
        (bomb, DEFLATED),
        (b"\xff" * 100_000, EXPLICIT_LITTLE),
        (b"not deflated", DEFLATED),
        (b"", EXPLICIT_LITTLE),
        (ds_element(0x0010, 0x0010, "PN", b"CUT^SHORT")[:-4], EXPLICIT_LITTLE),
    ]:
        attributes(data, syntax)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 40 << 20
