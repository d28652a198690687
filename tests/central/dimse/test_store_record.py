"""What the audit record says of images that peers send: who, of which study, how many. Without it nothing is kept."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NoReturn

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE

from central.archive.examining import Indexable
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditEvent
from central.audit.reading import Wanted
from contract.receipt import Outcome
from tests.central.access.house import ORIGIN, pydicom_file
from tests.central.databases import arriving_in, contents_in
from tests.central.dimse.house import PEER, House, open_house

CT = "1.2.840.10008.5.1.4.1.1.2"
ONE, MANY = "1.2.77.1", "1.2.77.2"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path, peers=[{**PEER, "ae_title": "CT1", "may": ["store"]}]) as opened:
        yield opened


def image(study: str, number: int) -> Dataset:
    uid = f"{study}.{number}"
    changes = {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.0", "SOPInstanceUID": uid}
    return dcmread(BytesIO(pydicom_file("CT_small.dcm", **changes)))


def send(house: House, *images: Dataset, abort: bool = False) -> list[int]:
    ae = AE("CT1")
    ae.add_requested_context(CT, images[0].file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
    assert association.is_established
    statuses = [association.send_c_store(one).Status for one in images]
    association.abort() if abort else association.release()
    return statuses


def recorded(house: House, expected: int) -> list[tuple[str, str | None, str]]:
    """The records of storing, once there are as many: the last ones are written when the association is over."""
    deadline_s = time.monotonic() + 60
    while True:
        rows = house.audit.newest(Wanted(action=Action.STORE), limit=100)
        if len(rows) >= expected or time.monotonic() > deadline_s:
            assert {(row.event.actor, row.event.actor_role) for row in rows} <= {("CT1", "peer")}
            assert {row.event.source_address for row in rows} <= {"127.0.0.1"}
            return [
                (row.event.outcome, row.event.study_instance_uid, row.event.detail) for row in reversed(rows)
            ]
        time.sleep(0.02)


@pytest.mark.parametrize("abort", [False, True])
def test_a_study_is_on_record_with_its_first_image_and_the_number_at_the_end(
    house: House, abort: bool
) -> None:
    send(house, image(MANY, 1), image(ONE, 1), image(MANY, 2), image(MANY, 3), abort=abort)
    assert recorded(house, 3) == [
        ("success", MANY, "C-STORE: the first instance"),
        ("success", ONE, "C-STORE: the first instance"),
        ("success", MANY, "C-STORE: 3 instances stored"),
    ]


def test_it_is_on_record_before_the_answer(house: House) -> None:
    ae = AE("CT1")
    first = image(ONE, 1)
    ae.add_requested_context(CT, first.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
    try:
        assert association.send_c_store(first).Status == 0x0000
        assert [row.event.study_instance_uid for row in house.audit.newest(Wanted(), limit=9)] == [ONE]
    finally:
        association.release()


def test_what_is_refused_is_on_record_once_with_its_number(house: House) -> None:
    house.put(pydicom_file("CT_small.dcm", StudyInstanceUID=ONE))
    house.archive.erasures.erase(ONE, "admin, admin-two")
    assert send(house, image(ONE, 1), image(ONE, 2)) == [0x0124, 0x0124]
    assert recorded(house, 4) == [
        ("success", ONE, "C-STORE: the first instance"),
        ("refused", ONE, "C-STORE: not stored: 0124"),
        ("success", ONE, "C-STORE: 0 instances stored"),
        ("refused", ONE, "C-STORE: not stored: 2 x 0124"),
    ]


def test_without_the_record_nothing_is_kept(house: House) -> None:
    house.audit.close()
    assert send(house, image(ONE, 1)) == [0xA700]
    assert house.archive.reading.facts(ONE) is None
    assert contents_in(house.root) == []


@pytest.mark.skipif(
    any(os.environ.get(name) for name in ("DICOMNET_TEST_OBJECTS", "DICOMNET_TEST_AT_REST")),
    reason="only plain files lie under a name that is the same for the same bytes, and can be read here",
)
def test_what_is_not_kept_is_not_taken_from_whoever_brings_the_same(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two send the very same bytes, and only what one of them does cannot be recorded."""
    others: list[Indexable] = []

    def meanwhile(_event: AuditEvent) -> NoReturn:
        if not others:
            (same,) = [path.read_bytes() for path in arriving_in(house.root)] or contents_in(house.root)
            with house.archive.receiving.new_object() as sink:
                sink.write(same)
                others.append(house.archive.receiving.keep(sink, ORIGIN))
        raise AuditUnavailableError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(house.audit, "record", meanwhile)
        assert send(house, image(ONE, 1)) == [0xA700]
    assert house.archive.receiving.index_together(others) == [Outcome.ARCHIVED]
    (content,) = contents_in(house.root)
    assert hashlib.sha256(content).hexdigest() == others[0].stored.sha256
