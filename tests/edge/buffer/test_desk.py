"""What is made ready for the next instance: used for it, under the key and in the codec it was made for, or gone."""

from __future__ import annotations

from contract.sealed_object import Codec, read_header
from edge.buffer.records import Origin, RecoveryReport
from edge.buffer.spool import Spool
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import ORIGIN, Central, content_of, store, taken_files

JPEG = Origin("CT1", "DICOMNET", "192.0.2.7", "1.2.840.10008.1.2.4.70")


def ready_names(spool: Spool) -> list[str]:
    return [ready.object_id for ready in spool.entrance._desk._ready]


def test_the_next_instance_goes_into_what_is_ready(spool: Spool, receiving_central: Central) -> None:
    spool.entrance.prepare(ORIGIN)
    (ready,) = ready_names(spool)

    first, second = store(spool, 1), store(spool, 2)

    assert first.object_id == ready != second.object_id
    assert receiving_central.unseal(spool, first.object_id) == content_of(1)
    assert receiving_central.unseal(spool, second.object_id) == content_of(2)


def test_what_is_ready_in_another_codec_waits_for_its_own_kind(spool: Spool) -> None:
    spool.entrance.prepare(ORIGIN)
    (ready,) = ready_names(spool)

    other = store(spool, 1, origin=JPEG)
    own = store(spool, 2)

    assert other.object_id != ready == own.object_id
    with spool.holdings.open_object(other.object_id) as sealed:
        assert read_header(sealed).codec is Codec.STORED


def test_nothing_is_sealed_under_a_key_that_is_not_the_boxs_any_more(spool: Spool) -> None:
    spool.entrance.prepare(ORIGIN)
    newer = Central()
    spool.entrance.set_keys(newer.ring())

    stored = store(spool, 1)

    assert newer.unseal(spool, stored.object_id) == content_of(1)
    assert [path.stem for path in taken_files(spool, spool._files.root)] == [stored.object_id]


def test_a_few_are_ready_and_a_clean_stop_leaves_none(open_spool: OpenSpool) -> None:
    spool = open_spool()
    for _ in range(20):
        spool.entrance.prepare(ORIGIN)
    assert len(ready_names(spool)) == 4

    spool.close()

    assert not list(spool._files.root.rglob("*.sealed"))
    assert open_spool().recovery == RecoveryReport()


def test_a_box_without_keys_makes_nothing_ready(open_spool: OpenSpool) -> None:
    spool = open_spool(keys=None)
    spool.entrance.prepare(ORIGIN)
    assert not ready_names(spool)
