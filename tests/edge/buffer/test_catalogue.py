"""The catalogue: the latest object of an instance, counts by study and series, and nothing in clear."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.identifiers import ObjectId, new_object_id
from edge.buffer.catalogue import Catalogue, forget_catalogue
from edge.buffer.device_key import DeviceKey, NotSealedHereError
from edge.buffer.records import Present
from edge.buffer.service_database import ServiceDatabase
from edge.buffer.spool import Spool
from tests.edge.buffer.instances import store

CT = "1.2.840.10008.5.1.4.1.1.2"


def one(sequence: int, sop: str, *, study: str = "1.1", series: str = "1.1.1") -> Present:
    return Present(sequence, new_object_id(), CT, sop, study, series, "1.2.840.10008.1.2.1")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ServiceDatabase]:
    database = ServiceDatabase(tmp_path / "services.sqlite3")
    yield database
    database.close()


@pytest.fixture
def catalogue(database: ServiceDatabase) -> Catalogue:
    return Catalogue(database, DeviceKey(bytes(32)))


def test_groups_carry_the_latest_record_and_count_instances_once(catalogue: Catalogue) -> None:
    first, again = one(1, "1.9.1"), one(4, "1.9.1")
    others = [one(2, "1.9.2"), one(3, "1.9.3", series="1.1.2"), one(5, "1.9.4", study="1.2", series="1.2.1")]
    catalogue.add([(first, b"old"), (others[0], b"b"), (others[1], b"c"), (again, b"new"), (others[2], b"d")])

    studies = list(catalogue.groups("study_instance_uid"))
    assert [(s.study_instance_uid, s.series, s.instances, s.record) for s in studies] == [
        ("1.2", 1, 1, b"d"),
        ("1.1", 2, 3, b"new"),
    ]
    (series,) = catalogue.groups(
        "series_instance_uid", study_instance_uid=["1.1"], series_instance_uid=["1.1.1"]
    )
    assert (series.instances, series.record) == (2, b"new")
    assert catalogue.objects(study_instance_uid=["1.1"]) == [others[0], others[1], again]
    assert catalogue.objects(study_instance_uid=["1.1"], sop_instance_uid=["1.9.4"]) == []
    assert catalogue.missing([first, one(9, "1.9.9")])[0].sop_instance_uid == "1.9.9"


def test_what_is_gone_is_forgotten(catalogue: Catalogue, database: ServiceDatabase) -> None:
    kept, gone = one(1, "1.9.1"), one(2, "1.9.2")
    catalogue.add([(kept, b"a"), (gone, b"b")])
    assert catalogue.keep_only({kept.object_id}) == 1
    assert catalogue.objects(study_instance_uid=["1.1"]) == [kept]

    forget_catalogue(database)
    assert Catalogue(database, DeviceKey(bytes(32))).objects(study_instance_uid=["1.1"]) == []


def test_records_are_sealed_each_for_its_object(
    catalogue: Catalogue, database: ServiceDatabase, tmp_path: Path
) -> None:
    catalogue.add([(one(1, "1.9.1"), b"CANARY^PATIENT")])
    database.close()
    assert all(b"CANARY" not in path.read_bytes() for path in tmp_path.iterdir())

    other = ServiceDatabase(tmp_path / "services.sqlite3")
    with pytest.raises(NotSealedHereError):
        list(Catalogue(other, DeviceKey(b"\x01" * 32)).groups("study_instance_uid"))
    other.close()


def test_the_spool_pages_through_what_is_here(spool: Spool) -> None:
    for number in range(5):
        store(spool, number)
    claimed = spool.queue.claim(lease_s=60)
    assert claimed is not None
    spool.queue.acknowledge(claimed.object_id, "a verified receipt")

    seen: list[str] = []
    ids: set[ObjectId] = set()
    after = 0
    while page := spool.holdings.present(after=after, limit=2):
        after = page[-1].sequence
        seen += [found.sop_instance_uid for found in page]
        ids |= {found.object_id for found in page}
    assert seen == [f"1.2.3.{number}" for number in range(1, 5)]
    assert claimed.object_id not in ids
