"""One box, two whole centrals: every image in both archives, a fleet page of each, one of them dead for a while."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from pynetdicom import AE

from central import serving
from central.fleet.view import BoxView
from contract.control import EnrolParams
from edge.app import Box
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
def box(houses: tuple[House, House], tmp_path: Path) -> Iterator[Box]:
    box = Box(
        Settings.model_validate(
            {
                "box": {"state_directory": tmp_path / "edge", "control_socket": tmp_path / "s"},
                "gateway": {"host": "127.0.0.1", "port": 0},
                "buffer": {"reserve_bytes": 0, "low_water_bytes": 0},
                "query": {"enabled": True},
                "uplink": {"backoff_ceiling_s": 0.3, "mode": "copy", "further_centrals": ["two"]},
            }
        )
    )
    box.start()
    try:
        box.enrol(EnrolParams(pairing=str(houses[0].pairing("ct-one"))))
        box.enrol(EnrolParams(pairing=str(houses[1].pairing("ct-two")), central="two"))
        yield box
    finally:
        box.stop()


def send(box: Box, count: int) -> None:
    path = get_testdata_file("CT_small.dcm")
    assert isinstance(path, str)
    instance = dcmread(path)
    ae = AE(ae_title="CT1")
    ae.add_requested_context(instance.SOPClassUID, instance.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", box._gateway.port, ae_title="DICOMNET")
    assert association.is_established
    for _ in range(count):
        instance.SOPInstanceUID = generate_uid()
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

    until(lambda: bool(box.status().destinations[0].last_error), "the box knows why")
    box._reporting.soon()

    def waits() -> bool:
        (destination,) = view(one, "ct-one").destinations
        return destination.waiting_objects == 5 and bool(destination.last_error)

    until(waits, "its fleet page says what waits for the other, and why")
    two.start()
    until(lambda: len(hashes(two)) == 17, "what waited has come")
    assert hashes(one) == hashes(two)


def sealed(box: Box) -> list[Path]:
    return list(box._settings.spool_directory.rglob("*.sealed"))


def test_a_box_that_queries_itself_seals_for_three(box: Box) -> None:
    """Both centrals, and the box's own key, in one header: the bytes are written once."""
    assert isinstance(box._services._query, LocalQuery)
    keys = box._spool._desk.keys
    assert keys is not None
    assert len(keys.recipients) == 3
