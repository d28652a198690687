"""One box, two whole centrals: every image in both archives, a fleet page of each, one of them dead for a while."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from pynetdicom import AE

from central import serving
from central.fleet.view import BoxView
from contract.control import EnrolParams
from edge.app import Box
from edge.buffer.states import State
from edge.config import Settings
from edge.local_query import LocalQuery
from tests.central.app.house import House, everything_in
from tests.e2e.test_fleet import until, view
from tests.ports import free_base_port


@pytest.fixture
def houses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[House, House]]:
    """No broker at either: heartbeats go over HTTPS. A stopped one does not wait for the box's idle connections."""
    monkeypatch.setattr(serving, "_GRACE_S", 1)
    port = free_base_port(2)
    with (
        House(tmp_path / "one", gateways={"port": port}) as one,
        House(tmp_path / "two", gateways={"port": port + 1}) as two,
    ):
        yield one, two
        two.stop()


@pytest.fixture
def box(houses: tuple[House, House], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Box]:
    """A parameter says for how many hours it keeps what both have."""
    retain_hours = getattr(request, "param", 0)
    box = Box(
        Settings.model_validate(
            {
                "box": {"state_directory": tmp_path / "edge", "control_socket": tmp_path / "s"},
                "gateway": {"host": "127.0.0.1", "port": 0},
                "buffer": {"reserve_bytes": 0, "low_water_bytes": 0, "retain_hours": retain_hours},
                "query": {"enabled": True},
                "uplink": {"backoff_ceiling_s": 0.3, "mode": "copy", "further_centrals": ["two"]},
            }
        )
    )
    box.start()
    try:
        box.operations.enrol(EnrolParams(pairing=str(houses[0].pairing("ct-one"))))
        box.operations.enrol(EnrolParams(pairing=str(houses[1].pairing("ct-two")), central="two"))
        yield box
    finally:
        box.stop()


def send(box: Box, count: int) -> None:
    path = get_testdata_file("CT_small.dcm")
    assert isinstance(path, str)
    instances = []
    for _ in range(count):
        instances.append(dcmread(path))
        instances[-1].SOPInstanceUID = generate_uid()
    store(box, instances)


def send_content(box: Box, content: bytes) -> None:
    store(box, [dcmread(io.BytesIO(content))])


def store(box: Box, instances: list[Dataset]) -> None:
    ae = AE(ae_title="CT1")
    ae.add_requested_context(instances[0].SOPClassUID, instances[0].file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", box._gateway.port, ae_title="DICOMNET")
    assert association.is_established
    for instance in instances:
        assert association.send_c_store(instance).Status == 0
    association.release()


def hashes(house: House) -> list[str]:
    return sorted(hashlib.sha256(found.content).hexdigest() for found in everything_in(house.root))


def test_both_archives_hold_the_same_and_a_dead_one_delays_nothing(
    houses: tuple[House, House], box: Box
) -> None:
    one, two = houses
    send(box, 12)
    until(lambda: len(hashes(one)) == len(hashes(two)) == 12, "both have everything")
    until(lambda: not any(path.stat().st_size for path in sealed(box)), "and nothing is kept here")

    def shown(house: House, gateway_id: str) -> BoxView:
        until(lambda: view(house, gateway_id).state == "online", "it is heard")
        return view(house, gateway_id)

    assert [(one_.name, one_.kind) for one_ in shown(one, "ct-one").destinations] == [("two", "central")]
    assert [(one_.name, one_.kind) for one_ in shown(two, "ct-two").destinations] == [("central", "central")]

    two.stop()
    send(box, 5)
    until(lambda: len(hashes(one)) == 17, "the other goes on")

    until(lambda: bool(box.operations.status().destinations[0].last_error), "the box knows why")
    box._reporting.soon()

    def waits() -> bool:
        (destination,) = view(one, "ct-one").destinations
        return destination.waiting_objects == 5 and bool(destination.last_error)

    until(waits, "its fleet page says what waits for the other, and why")
    two.start()
    until(lambda: len(hashes(two)) == 17, "what waited has come")
    assert hashes(one) == hashes(two)


@pytest.mark.skipif(
    any(os.environ.get(name) for name in ("DICOMNET_TEST_DATABASE", "DICOMNET_TEST_OBJECTS")),
    reason="a copied folder holds neither a PostgreSQL nor a bucket",
)
@pytest.mark.parametrize("box", [24], indirect=True)
def test_a_copy_central_set_back_to_a_backup_gets_again_what_it_lost(
    houses: tuple[House, House], box: Box, tmp_path: Path
) -> None:
    """The first has everything all the time, and is asked for nothing."""
    one, two = houses

    def is_done() -> bool:
        states = {row.state for row in box._spool.holdings.list_objects(states=list(State), limit=99)}
        waits = any(waiting.waiting_objects for waiting in box.operations.status().destinations)
        return not waits and states <= {State.FREED, State.RETAINED}

    def stored(count: int, retain_hours: int) -> None:
        box._spool.retained.period = timedelta(hours=retain_hours)
        send(box, count)
        until(is_done, "both have signed")

    stored(2, 0)
    two.stop()
    shutil.copytree(two.root, tmp_path / "backup")
    two.start()
    stored(2, 0)
    stored(3, 24)
    at_one, at_two = hashes(one), hashes(two)
    assert len(at_one) == 7
    assert at_one == at_two
    box.stop()
    two.stop()
    shutil.rmtree(two.root)
    shutil.copytree(tmp_path / "backup", two.root)
    two.start()
    assert len(hashes(two)) == 2

    box.start()  # and the first round of its upkeep asks
    until(lambda: len(hashes(two)) == 5, "what the box still had came again")
    until(lambda: len(box.operations.status().lost_studies) == 1, "and the rest is said")
    (study,) = box.operations.status().lost_studies
    assert study.instances == 2
    assert study.sentence.startswith("two lost 2 images of study ")
    assert "fetch them from another central of this box" in study.sentence
    assert hashes(one) == at_one
    assert two.refusals()[-1][0] == "receipts-unknown"
    assert "receipts-unknown" not in [kind for kind, *_ in one.refusals()]

    missing = [found for found in everything_in(one.root) if found.content not in contents(two)]
    for found in missing:  # the technician sends them again
        send_content(box, found.content)
    until(lambda: hashes(two) == at_one, "it has everything once more")
    until(lambda: not box.operations.status().lost_studies, "and the line has gone")
    assert hashes(one) == at_one
    assert not any(found.row.flagged for house in houses for found in everything_in(house.root))


def contents(house: House) -> list[bytes]:
    return [found.content for found in everything_in(house.root)]


def sealed(box: Box) -> list[Path]:
    return list(box._settings.spool_directory.rglob("*.sealed"))


def test_a_box_that_queries_itself_seals_for_three(box: Box) -> None:
    """Both centrals, and the box's own key, in one header: the bytes are written once."""
    assert isinstance(box._services._query, LocalQuery)
    keys = box._spool.entrance._desk.keys
    assert keys is not None
    assert len(keys.recipients) == 3
