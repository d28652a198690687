"""Storage Commitment with pynetdicom as the modality, on the same and on a new association, through lives."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.pdu import P_DATA_TF

from central.archive.faults import FaultKind
from central.dimse.commitment import STORAGE_COMMITMENT
from tests.central.access.house import pydicom_file
from tests.central.dimse.house import PEER, House, open_house
from tests.ports import free_base_port

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
HERE, ABSENT = "1.2.40.1", "1.2.40.2"
Reports = "queue.Queue[tuple[int, Dataset]]"


def asked(*references: tuple[str, str], transaction: str = "1.2.99.1") -> Dataset:
    action = Dataset()
    action.TransactionUID = transaction
    action.ReferencedSOPSequence = []
    for sop_class, instance in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        action.ReferencedSOPSequence.append(item)
    return action


def receiver(reports: Reports, status: Callable[[], int] = lambda: 0) -> list[tuple[object, ...]]:
    def take(event: evt.Event) -> tuple[int, None]:
        reports.put((event.event_type, event.event_information))
        return status(), None

    return [(evt.EVT_N_EVENT_REPORT, take)]


def ask(house: House, action: Dataset, reports: Reports, *, action_type: int = 1, wait: bool = False) -> int:
    """The status of an N-ACTION; with `wait` the association stays until a report has come."""
    ae = AE("PEER")
    ae.add_requested_context(STORAGE_COMMITMENT)
    answered = threading.Event()

    def sent(event: evt.Event) -> None:
        if isinstance(event.pdu, P_DATA_TF) and not reports.empty():
            answered.set()

    handlers = [*receiver(reports), (evt.EVT_PDU_SENT, sent)]
    assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET", evt_handlers=handlers)  # type: ignore[arg-type]
    assert assoc.is_established
    status, _ = assoc.send_n_action(
        action, action_type, UID(STORAGE_COMMITMENT), UID("1.2.840.10008.1.20.1.1")
    )
    if wait:  # pynetdicom answers on a thread of its own: to release before that would break its association
        assert answered.wait(60)
    assoc.release()
    return int(status.Status)


@contextmanager
def modality(port: int, reports: Reports, status: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """Waits for reports on associations that central opens."""
    ae = AE("PEER")
    ae.add_supported_context(STORAGE_COMMITMENT, ExplicitVRLittleEndian, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=receiver(reports, status))  # type: ignore[arg-type]
    try:
        yield
    finally:
        server.shutdown()


@pytest.fixture
def reports() -> Reports:
    return queue.Queue()


def put(house: House) -> None:
    house.put(pydicom_file("CT_small.dcm", SOPInstanceUID=HERE))


def test_on_the_same_association_for_a_peer_without_a_host(tmp_path: Path, reports: Reports) -> None:
    with open_house(tmp_path) as house:
        put(house)
        assert ask(house, asked((CT, HERE)), reports, wait=True) == 0
        event_type, report = reports.get_nowait()
        assert (event_type, report.TransactionUID, "FailedSOPSequence" in report) == (1, "1.2.99.1", False)
        assert [one.ReferencedSOPInstanceUID for one in report.ReferencedSOPSequence] == [HERE]
        assert ask(house, asked((CT, HERE), (MR, HERE), (CT, ABSENT)), reports, wait=True) == 0
        event_type, report = reports.get_nowait()
        assert event_type == 2
        assert [(one.ReferencedSOPInstanceUID, one.FailureReason) for one in report.FailedSOPSequence] == [
            (HERE, 0x0119),
            (ABSENT, 0x0112),
        ]
        for kept in house.archive._objects.kept():
            house.archive.faults.note(kept.sha256, FaultKind.DAMAGED)
        assert ask(house, asked((CT, HERE)), reports, wait=True) == 0
        _, report = reports.get_nowait()
        assert [one.FailureReason for one in report.FailedSOPSequence] == [0x0112], (
            "damaged: the modality keeps its own"
        )


def test_on_a_new_association_until_it_is_answered_through_lives(
    tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("central.dimse.commitment._FIRST_RETRY_S", 0.5)
    port = free_base_port(1)
    peer = {**PEER, "host": "127.0.0.1", "port": port}
    with open_house(tmp_path, peers=[peer]) as house:
        put(house)
        assert ask(house, asked((CT, HERE)), reports) == 0  # and nobody listens there
    answers = iter((0x0110, 0))
    with modality(port, reports, lambda: next(answers)), open_house(tmp_path, peers=[peer]) as house:
        assert ask(house, asked((CT, HERE), transaction="1.2.99.2"), reports) == 0
        told = [reports.get(timeout=60)[1].TransactionUID]
        while len(set(told)) < 2 or len(told) < 3:
            told.append(reports.get(timeout=60)[1].TransactionUID)
    assert sorted(set(told)) == ["1.2.99.1", "1.2.99.2"]


def test_what_comes_in_time_is_committed_to(
    tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("central.dimse.commitment._WAIT_AGAIN_S", 0.2)
    port = free_base_port(1)
    peer = {**PEER, "host": "127.0.0.1", "port": port}
    with modality(port, reports), open_house(tmp_path, peers=[peer], commitment_wait_s=30) as house:
        assert ask(house, asked((CT, HERE)), reports) == 0
        put(house)
        event_type, _ = reports.get(timeout=60)
        assert event_type == 1


@pytest.mark.parametrize(
    ("action", "action_type", "status"),
    [
        (asked(), 1, 0x0115),
        (asked((CT, HERE), transaction=""), 1, 0x0115),
        (asked((CT, "not a uid")), 1, 0x0115),
        (asked((CT, HERE)), 2, 0x0123),
    ],
)
def test_requests_that_are_none(
    tmp_path: Path, reports: Reports, action: Dataset, action_type: int, status: int
) -> None:
    with open_house(tmp_path) as house:
        assert ask(house, action, reports, action_type=action_type) == status
        assert reports.empty()
