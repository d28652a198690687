"""Worklist down and procedure steps up, against a real central with its own TLS; the line goes and comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from central.audit.events import Action
from central.audit.reading import Wanted
from central.workflow.data_sets import scheduled_item
from central.workflow.procedures import ProcedureStore
from central.workflow.worklist import Entry, WorklistStore
from contract.workflow import PERFORMED_PROCEDURES_PATH, WORKLIST_PATH, StepStatus
from edge.buffer.device_key import DeviceKey
from edge.buffer.performed_procedures import FinalAttribute, PerformedProcedures, WaitingMessage
from edge.buffer.service_database import ServiceDatabase
from edge.buffer.worklist_cache import WorklistCache
from edge.buffer.worklist_refresh import Fetched, WorklistRefresher, WorklistSourceError
from edge.gateway.data_set import read_data_set
from edge.uplink.box_key import FileKey
from edge.uplink.errors import UplinkTransientError
from edge.uplink.identity import Enrolment, Identity, IdentityStore
from edge.uplink.workflow import CentralWorkflow, MessageRefusedError, ProcedureRelay
from tests.central.app.house import Box, House, enrol
from tests.edge.gateway.procedure_samples import ended_step, new_step
from tests.edge.gateway.worklist_samples import NAMES, encoded, several_scripts, worklist_item

EXPLICIT = "1.2.840.10008.1.2.1"
ALL = FinalAttribute.END_DATE | FinalAttribute.END_TIME | FinalAttribute.SERIES


class Hospital:
    """A central that keeps its port when it goes and comes back, and one enrolled box."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.house = House(folder / "central").start()
        self.box: Box = enrol(self.house, folder / "box", "ct-1")

    @property
    def worklist(self) -> WorklistStore:
        return WorklistStore(self.house.central.foundation.db)

    @property
    def procedures(self) -> ProcedureStore:
        return ProcedureStore(self.house.central.foundation.db)

    def schedule(self, *items: Dataset, gateways: tuple[str, ...] = ()) -> None:
        today = datetime.now().astimezone().date()
        for ds in items:
            item = dict(ds.to_json_dict())
            self.worklist.put(Entry(f"RIS-{ds.PatientID}", gateways, item), scheduled_item(item), today)

    def identity(self) -> Identity:
        enrolment = Enrolment(
            central_host="127.0.0.1", central_port=self.house.central.gateways.port, answer=self.box.answer
        )
        return IdentityStore(self._folder / "identity").save(FileKey(self.box.key), enrolment)

    def kept(self, step: str) -> list[bytes]:
        """The messages of a step of the box, as central has them."""
        return [data_set for _, data_set in self.procedures.messages("ct-1", step)]

    def recorded(self, action: Action) -> list[str]:
        rows = self.house.central.foundation.audit.newest(Wanted(action=action), limit=100)
        return [f"{row.event.actor} {row.event.detail} {row.event.study_instance_uid}" for row in rows]


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    running = Hospital(tmp_path)
    yield running
    running.house.stop()


@pytest.fixture
def line(hospital: Hospital) -> Iterator[CentralWorkflow]:
    workflow = CentralWorkflow(horizon_days=7, timeout_s=10)
    workflow.use(hospital.identity())
    yield workflow
    workflow.close()


def names(fetched: Fetched | None) -> list[bytes]:
    assert fetched is not None
    return [
        read_data_set(item.data_set, item.transfer_syntax_uid)[0x00100010].value for item in fetched.items
    ]


def test_every_script_reaches_the_box_in_the_bytes_it_was_to_have(
    hospital: Hospital, line: CentralWorkflow
) -> None:
    wanted = several_scripts()
    hospital.schedule(*wanted)
    fetched = line.fetch("")
    assert fetched is not None
    assert [item.data_set for item in fetched.items] == [encoded(ds).data_set for ds in wanted]
    assert hospital.recorded(Action.WORKLIST_READ) == [f"ct-1 {len(NAMES)} items None"]


def test_an_idle_refresh_costs_nothing_and_news_are_noticed(
    hospital: Hospital, line: CentralWorkflow
) -> None:
    hospital.schedule(worklist_item("1"))
    first = line.fetch("")
    assert first is not None
    assert first.version
    assert line.fetch(first.version) is None
    hospital.schedule(worklist_item("2"))
    assert len(names(line.fetch(first.version))) == 2
    hospital.worklist.remove("RIS-1")
    assert len(names(line.fetch(first.version))) == 1
    assert len(hospital.recorded(Action.WORKLIST_READ)) == 3


def test_a_box_gets_its_own_items_within_the_horizon(hospital: Hospital, line: CentralWorkflow) -> None:
    hospital.schedule(worklist_item("1"), gateways=("ct-1",))
    hospital.schedule(worklist_item("2"), gateways=("mr-7",))
    hospital.schedule(worklist_item("3"), gateways=("mr-7", "ct-1"))
    hospital.schedule(worklist_item("4", date="29990101"), worklist_item("5", date="20010101"))
    assert len(names(line.fetch(""))) == 2


def test_strangers_get_nothing(hospital: Hospital) -> None:
    hospital.schedule(worklist_item("1"))
    with hospital.box.client() as client:
        assert client.get(WORKLIST_PATH).status_code == 200
        assert client.get(WORKLIST_PATH, params={"horizon_days": "9999"}).status_code == 400
        hospital.house.revoke("ct-1")
        for answer in (client.get(WORKLIST_PATH), client.post(PERFORMED_PROCEDURES_PATH, content=b"{}")):
            assert answer.status_code == 403
            assert "PatientName" not in answer.text


def test_the_cache_goes_on_while_central_is_away(
    hospital: Hospital, line: CentralWorkflow, tmp_path: Path
) -> None:
    hospital.schedule(worklist_item("1"))
    key = DeviceKey.load(tmp_path / "device.key")
    cache = WorklistCache(tmp_path / "worklist.sealed", key, source="central", owner="one")
    asked = threading.Semaphore(0)

    def fetch(version: str) -> Fetched | None:
        try:
            return line.fetch(version)
        finally:
            asked.release()

    refresher = WorklistRefresher(cache, fetch, interval_s=3600)
    refresher.start()
    assert asked.acquire(timeout=60)
    hospital.house.stop()
    refresher.soon()
    assert asked.acquire(timeout=60)
    wait_until(lambda: "cannot be reached" in refresher.state().last_error)
    assert refresher.state().items == 1
    hospital.house.start()
    hospital.schedule(worklist_item("2"))
    refresher.soon()
    assert asked.acquire(timeout=60)
    wait_until(lambda: refresher.state().items == 2)
    assert refresher.state().last_error == ""
    refresher.stop(10)


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(1200):
        if true():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it did not come about in 60 s")


@pytest.fixture
def procedures(tmp_path: Path) -> Iterator[PerformedProcedures]:
    database = ServiceDatabase(tmp_path / "services.sqlite3")
    yield PerformedProcedures(database, DeviceKey.load(tmp_path / "device.key"))
    database.close()


def report(procedures: PerformedProcedures, uid: str = "1.2.3", end: bool = True) -> list[bytes]:
    """A step from begin to end; the bytes of its messages."""
    messages = [encoded(new_step(name="山田^太郎", character_set="ISO_IR 192")).data_set]
    procedures.create(
        uid,
        messages[0],
        supplies=FinalAttribute(0),
        transfer_syntax_uid=EXPLICIT,
        calling_ae_title="CT1",
    )
    if end:
        messages.append(encoded(ended_step("1.5.1")).data_set)
        procedures.set(
            uid,
            messages[1],
            status=StepStatus.COMPLETED,
            supplies=ALL,
            transfer_syntax_uid=EXPLICIT,
            calling_ae_title="CT1",
        )
    return messages


def test_steps_reach_central_in_order_and_are_kept_as_they_were_sent(
    hospital: Hospital, line: CentralWorkflow, procedures: PerformedProcedures
) -> None:
    sent = report(procedures)
    relay = ProcedureRelay(procedures, line.send, ceiling_s=1)
    relay.start()
    wait_until(lambda: procedures.state().waiting == 0)
    later = report(procedures, "1.2.4", end=False)
    wait_until(lambda: procedures.state().waiting == 0)
    relay.stop(10)
    assert hospital.procedures.standing("ct-1", "1.2.3") == (StepStatus.COMPLETED, len(sent) - 1)
    assert hospital.kept("1.2.3") == sent
    assert hospital.procedures.standing("ct-1", "1.2.4") == (StepStatus.IN_PROGRESS, len(later) - 1)
    assert hospital.kept("1.2.4") == later
    assert hospital.recorded(Action.PROCEDURE_STEP)[-1] == ("ct-1 create 1.2.3 0 IN PROGRESS 1.2.826.0.1.1")


def test_steps_wait_for_central_and_go_when_it_is_back(
    hospital: Hospital, line: CentralWorkflow, procedures: PerformedProcedures
) -> None:
    hospital.house.stop()
    relay = ProcedureRelay(procedures, line.send, ceiling_s=0.2)
    relay.start()
    report(procedures)
    state = procedures.state()
    assert state.waiting == 2
    assert state.oldest_at_utc is not None
    assert state.oldest_at_utc <= datetime.now(UTC)
    hospital.house.start()
    relay.try_now()
    wait_until(lambda: procedures.state().waiting == 0)
    relay.stop(10)
    assert hospital.procedures.standing("ct-1", "1.2.3") == (StepStatus.COMPLETED, 1)


def test_a_repetition_is_recognized_and_another_content_is_not_taken(
    hospital: Hospital, line: CentralWorkflow, procedures: PerformedProcedures
) -> None:
    report(procedures)
    message = procedures.next_waiting()
    assert message is not None
    line.send(message)
    line.send(message)  # the answer was lost
    assert hospital.kept("1.2.3") == [message.data_set]
    other = WaitingMessage(**{**vars(message), "data_set": encoded(new_step(name="Other")).data_set})
    with pytest.raises(MessageRefusedError):
        line.send(other)


def test_what_central_cannot_read_is_put_aside_and_the_next_goes(
    hospital: Hospital, line: CentralWorkflow, procedures: PerformedProcedures
) -> None:
    procedures.create(
        "1.2.9",
        b"\xff" * 50,
        supplies=FinalAttribute(0),
        transfer_syntax_uid=EXPLICIT,
        calling_ae_title="CT1",
    )
    report(procedures)
    relay = ProcedureRelay(procedures, line.send, ceiling_s=1)
    relay.start()
    wait_until(lambda: procedures.state().waiting == 0)
    relay.stop(10)
    state = procedures.state()
    assert state.refused == 1
    assert "no message about a procedure step" in state.last_reason
    assert hospital.procedures.standing("ct-1", "1.2.9") is None
    assert hospital.procedures.standing("ct-1", "1.2.3") == (StepStatus.COMPLETED, 1)


def test_an_ended_step_stays_ended_at_central(
    hospital: Hospital, line: CentralWorkflow, procedures: PerformedProcedures
) -> None:
    report(procedures)
    messages = []
    while (message := procedures.next_waiting()) is not None:
        messages.append(message)
        procedures.delivered(message.sequence)
    line.send(messages[1])  # out of turn, as after a restored backup
    line.send(messages[0])
    assert hospital.procedures.standing("ct-1", "1.2.3") == (StepStatus.COMPLETED, 1)
    assert hospital.kept("1.2.3") == [message.data_set for message in messages]


def test_without_an_identity_both_wait(procedures: PerformedProcedures) -> None:
    workflow = CentralWorkflow(horizon_days=7, timeout_s=1)
    with pytest.raises(WorklistSourceError, match="not enrolled"):
        workflow.fetch("")
    report(procedures)
    message = procedures.next_waiting()
    assert message is not None
    with pytest.raises(UplinkTransientError, match="not enrolled"):
        workflow.send(message)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[" * 100_000, b'{"format": 2}', b"x" * (4 << 20)], ids=range(5)
)
def test_noise_is_refused_and_not_quoted(hospital: Hospital, body: bytes) -> None:
    with hospital.box.client() as client:
        answer = client.post(PERFORMED_PROCEDURES_PATH, content=body)
    assert answer.status_code in (413, 422)
    assert len(answer.content) < 500
