"""Requests and reports as pydicom writes and reads them, and requests that lie."""

from __future__ import annotations

import random

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from edge.buffer.commitments import Failure, Reference
from edge.gateway.commitment_messages import decode_request, encode_report
from edge.gateway.errors import GatewayError
from edge.gateway.sop_classes import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from tests.edge.gateway.commitment_scanner import CT, action_information

SYNTAXES = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]


def encoded(ds: Dataset, syntax: str, *, undefined: bool = False) -> bytes:
    for element in ds.iterall():
        if undefined and element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, syntax == IMPLICIT_VR_LITTLE_ENDIAN
    write_dataset(out, ds)
    return out.getvalue()


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
def test_a_request_as_pydicom_writes_it(syntax: str, undefined: bool) -> None:
    ds = action_information("1.9.1", [(CT, "1.2.1"), (CT, "1.2.2"), (CT, "1.2.1")])
    ds.StorageMediaFileSetUID = "1.2.3"
    ds.add_new(0x00091001, "UN", b"private")
    nested = Dataset()
    nested.ReferencedSOPSequence = action_information("1.1", [(CT, "1.2.99")]).ReferencedSOPSequence
    ds.ReferencedStudySequence = [nested]  # not the request's own

    assert decode_request(encoded(ds, syntax, undefined=undefined), syntax) == (
        "1.9.1",
        [Reference(CT, "1.2.1"), Reference(CT, "1.2.2")],
    )


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("failed", [0, 2])
def test_a_report_is_what_pydicom_reads(syntax: str, failed: int) -> None:
    failures = [Failure(Reference(CT, f"1.3.{number}"), 0x0112) for number in range(failed)]
    raw = encode_report("1.9.1", [Reference(CT, "1.2.1")], failures, syntax)
    ds = read_dataset(DicomBytesIO(raw), syntax == IMPLICIT_VR_LITTLE_ENDIAN, True)

    assert ds.TransactionUID == "1.9.1"
    assert [item.ReferencedSOPInstanceUID for item in ds.ReferencedSOPSequence] == ["1.2.1"]
    assert [item.FailureReason for item in ds.get("FailedSOPSequence", [])] == [0x0112] * failed
    assert [element.tag for element in ds] == sorted(element.tag for element in ds)


def test_mutations_end_in_one_error_or_none() -> None:
    """Whatever a peer sends: no other exception, and no walk past the end."""
    chance = random.Random(20261123)
    whole = [
        encoded(action_information("1.9", [(CT, "1.2")] * 3), syntax, undefined=undefined)
        for syntax in SYNTAXES
        for undefined in (False, True)
    ]
    outcomes = {"read": 0, "refused": 0}
    for _ in range(4_000):
        raw = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 3)):
            raw[chance.randrange(len(raw))] = chance.choice((0, 1, 0xFE, 0xFF, chance.randrange(256)))
        if chance.random() < 0.3:
            del raw[chance.randrange(len(raw)) :]
        try:
            decode_request(bytes(raw), chance.choice(SYNTAXES))
            outcomes["read"] += 1
        except GatewayError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 1000
    assert outcomes["read"] > 10
