"""What the spool says of an instance's safety, at each step of its way."""

from __future__ import annotations

from pathlib import Path

from edge.buffer.index import SpoolIndex
from edge.buffer.spool import Spool
from edge.buffer.standing import Standing, standing
from tests.edge.buffer.instances import ORIGIN, identity, store

CT = identity(1).sop_class_uid
SAFE_HERE = Standing(frozenset({CT}), at_central=False)
AT_CENTRAL = Standing(frozenset({CT}), at_central=True)


def acknowledge_next(spool: Spool) -> None:
    claimed = spool.queue.claim(lease_s=60)
    assert claimed is not None
    spool.queue.acknowledge(claimed.object_id, "a verified receipt")


def test_an_instance_is_safe_here_then_at_central(spool: Spool) -> None:
    store(spool, 1)
    assert spool.holdings.standing(["1.2.3.1", "1.2.3.2"]) == {"1.2.3.1": SAFE_HERE}

    acknowledge_next(spool)
    assert spool.holdings.standing(["1.2.3.1"]) == {"1.2.3.1": AT_CENTRAL}


def test_every_version_has_to_be_at_central(spool: Spool) -> None:
    store(spool, 1)
    store(spool, 1, b"the same instance, and other bytes")
    acknowledge_next(spool)
    assert spool.holdings.standing(["1.2.3.1"]) == {"1.2.3.1": SAFE_HERE}

    acknowledge_next(spool)
    assert spool.holdings.standing(["1.2.3.1"]) == {"1.2.3.1": AT_CENTRAL}


def test_what_central_refuses_stays_safe_here(spool: Spool) -> None:
    store(spool, 1)
    claimed = spool.queue.claim(lease_s=60)
    assert claimed is not None
    spool.queue.set_aside(claimed.object_id, reason="central says no")

    assert spool.holdings.standing(["1.2.3.1"]) == {"1.2.3.1": SAFE_HERE}


def test_what_a_scanner_was_refused_is_not_here(spool: Spool) -> None:
    with spool.entrance.receive(ORIGIN) as reception:
        reception.write(b"not to be identified")
        reception.quarantine("nobody knows what it is")

    assert spool.holdings.standing(["1.2.3.1", ""]) == {}


def test_thousands_in_one_question(spool: Spool) -> None:
    for number in (1, 7000):
        store(spool, number)

    found = spool.holdings.standing([f"1.2.3.{number}" for number in range(10_000)])

    assert found == {"1.2.3.1": SAFE_HERE, "1.2.3.7000": SAFE_HERE}
    assert spool.holdings.standing([]) == {}


def test_it_reads_indexes_and_never_a_month_of_receipts(tmp_path: Path) -> None:
    index = SpoolIndex(tmp_path / "index.sqlite3", reserve_bytes=0)
    asked: list[str] = []
    execute = index.execute

    def explained(statement: str, values: tuple[object, ...]) -> object:
        asked.extend(row[3] for row in execute(f"EXPLAIN QUERY PLAN {statement}", values))
        return execute(statement, values)

    index.execute = explained  # type: ignore[method-assign,assignment]
    standing(index, ["1.2", "1.3"])
    index.close()

    assert [plan.split(" (")[0] for plan in asked if "objects" in plan] == [
        "SEARCH objects USING INDEX live_by_instance",
        "SEARCH objects USING INDEX freed_by_instance",
    ]
    assert all("SCAN" not in plan or "json_each" in plan for plan in asked)
