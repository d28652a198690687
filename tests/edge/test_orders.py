"""What the worklist says of an order, and that it reaches what a study's images are owed and how urgent they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from contract.priority import Priority
from edge.buffer.records import InstanceIdentity, Origin
from edge.buffer.spool import Spool
from edge.buffer.worklist_cache import WorklistItem
from edge.config import Settings
from edge.orders import NO_ORDER, Order, Orders
from edge.routing import Routing
from tests.edge.buffer.instances import Central
from tests.edge.gateway.worklist_samples import encoded

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
ORIGIN = Origin("CT1", "DICOMNET", "192.0.2.7", EXPLICIT_LITTLE)


def item(study: str, priority: str, *, accession: str = "", service: str = "") -> WorklistItem:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.AccessionNumber = accession
    ds.PatientName = "NOBODY^AT ALL"
    ds.StudyInstanceUID = study
    ds.RequestingService = service
    ds.RequestedProcedurePriority = priority
    return encoded(ds)


def test_an_order_is_found_by_study_and_else_by_accession_number() -> None:
    orders = Orders()
    orders.learn(
        [
            item("1.1", "MEDIUM", accession="A1", service="Röntgen"),
            item("1.1", "STAT", accession="A1"),
            item("1.2", "low", accession="A2"),
            item("1.3", "WHENEVER"),
            WorklistItem(b"no data set", EXPLICIT_LITTLE),
        ]
    )
    assert orders.find("1.1", "") == Order(Priority.STAT, "Röntgen"), "the most urgent of its items"
    assert orders.find("9.9", "A1") == Order(Priority.STAT, "Röntgen")
    assert orders.find("1.2", "A1").priority is Priority.LOW, "the study it names itself"
    assert orders.find("1.3", "") == NO_ORDER
    assert orders.find("9.9", "") == NO_ORDER
    orders.learn([])
    assert orders.find("1.1", "A1") == NO_ORDER


@pytest.fixture
def routing() -> Routing:
    settings = Settings.model_validate(
        {
            "routing": [
                {"departments": ["ER*"], "priority": "high"},
                {"stations": ["SCAN?"], "priority": "low"},
            ]
        }
    )
    return Routing(settings.destinations, settings.routing, Orders())


def open_spool(folder: Path, routing: Routing, central: Central) -> Spool:
    return Spool.open(
        folder / "spool",
        reserve_bytes=0,
        quarantine_max_bytes=1 << 20,
        keys=central.ring(),
        route=routing.route,
        rank=routing.rank,
        complete=routing.complete,
    )


def store(spool: Spool, uid: str, study: str, **marks: str) -> None:
    with spool.entrance.receive(ORIGIN) as reception:
        reception.write(uid.encode() * 100)
        reception.commit(
            InstanceIdentity("1.2.840.10008.5.1.4.1.1.2", uid, study, f"{study}.9", "CT", **marks)
        )


def left(spool: Spool, count: int) -> list[str]:
    claims = (spool.queue.claim(lease_s=60) for _ in range(count))
    return [claimed.study_instance_uid for claimed in claims if claimed]


def ranks(spool: Spool) -> dict[str, int]:
    rows = spool._index.execute("SELECT sop_instance_uid, priority FROM objects", ()).fetchall()
    return dict(rows)


def test_orders_and_rules_rank_before_the_first_byte_leaves(tmp_path: Path, routing: Routing) -> None:
    orders = routing._orders
    orders.learn(
        [
            item("1.4", "STAT"),
            item("7.7", "STAT", accession="ACCESSION-5"),
            item("1.6", "ROUTINE", service="ER North"),
        ]
    )
    spool = open_spool(tmp_path, routing, Central())
    store(spool, "1.2.1", "1.2")
    store(spool, "1.3.1", "1.3", station_name="scan1")
    store(spool, "1.4.1", "1.4")
    store(spool, "1.5.1", "1.5", accession_number="ACCESSION-5")
    store(spool, "1.6.1", "1.6")
    assert left(spool, 6) == ["1.5", "1.4", "1.6", "1.2", "1.3"]
    rows = spool._index.execute("SELECT station, department FROM objects ORDER BY sequence", ()).fetchall()
    assert rows == [(None, None), ("scan1", None), (None, None), (None, None), (None, "ER North")]
    spool.close()
    for path in (tmp_path / "spool").rglob("*"):
        assert not path.is_file() or b"ACCESSION-5" not in path.read_bytes().rpartition(b'"object_id"')[2], (
            path
        )


def test_a_worklist_that_comes_later_ranks_what_waits_but_not_over_a_person(
    tmp_path: Path, routing: Routing
) -> None:
    spool = open_spool(tmp_path, routing, Central())
    for study in ("1.1", "1.2", "1.3"):
        store(spool, f"{study}.1", study)
    assert spool.queue.prioritise("1.2", Priority.LOW) == 1
    news = [item("1.1", "HIGH"), item("1.2", "STAT"), item("1.9", "STAT")]
    assert spool.queue.rank_again(routing.rank_again, routing._orders.learn(news)) == 1
    store(spool, "1.2.2", "1.2")
    spool.holdings.depth()
    assert ranks(spool) == {"1.1.1": 1, "1.2.1": -1, "1.3.1": 0, "1.2.2": -1}
    assert spool.queue.rank_again(routing.rank_again, routing._orders.learn([item("1.1", "ROUTINE")])) == 1
    assert ranks(spool)["1.1.1"] == 0
    spool.close()
    spool = open_spool(tmp_path, routing, Central())
    store(spool, "1.2.3", "1.2")
    spool.holdings.depth()
    assert ranks(spool)["1.2.3"] == -1, "a person's word holds over a restart, and for images that come later"
    spool.close()
