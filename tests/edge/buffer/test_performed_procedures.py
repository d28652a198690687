"""Procedure steps on the disk: state by table, order, durability, nothing readable."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.workflow import Operation, StepStatus
from edge.buffer import performed_procedures
from edge.buffer.device_key import DeviceKey
from edge.buffer.performed_procedures import (
    DuplicateStepError,
    FinalAttribute,
    IncompleteStepError,
    PerformedProcedures,
    StepEndedError,
    TooManyMessagesError,
    UnknownStepError,
)
from edge.buffer.service_database import ServiceDatabase

EXPLICIT = "1.2.840.10008.1.2.1"
ALL = FinalAttribute.END_DATE | FinalAttribute.END_TIME | FinalAttribute.SERIES
NONE = FinalAttribute(0)
CANARY = b"CANARY^PATIENT 19701224"
REPOSITORY = Path(__file__).parents[3]

OpenProcedures = Callable[..., PerformedProcedures]


def status_of(procedures: PerformedProcedures, sop_instance_uid: str) -> StepStatus | None:
    step = procedures._find(sop_instance_uid)
    return step and StepStatus(step.status)


@pytest.fixture
def open_procedures(tmp_path: Path) -> Iterator[OpenProcedures]:
    opened: list[ServiceDatabase] = []

    def opening(key_name: str = "device.key") -> PerformedProcedures:
        for database in opened:
            database.close()
        database = ServiceDatabase(tmp_path / "services.sqlite3")
        opened.append(database)
        return PerformedProcedures(database, DeviceKey.load(tmp_path / key_name))

    yield opening
    for database in opened:
        database.close()


@pytest.fixture
def procedures(open_procedures: OpenProcedures) -> PerformedProcedures:
    return open_procedures()


def create(procedures: PerformedProcedures, uid: str = "1.2", supplies: FinalAttribute = NONE) -> None:
    procedures.create(uid, CANARY, supplies=supplies, transfer_syntax_uid=EXPLICIT, calling_ae_title="CT1")


def set_(
    procedures: PerformedProcedures,
    uid: str = "1.2",
    status: StepStatus | None = None,
    supplies: FinalAttribute = NONE,
) -> None:
    procedures.set(
        uid, CANARY, status=status, supplies=supplies, transfer_syntax_uid=EXPLICIT, calling_ae_title="CT1"
    )


def drained(procedures: PerformedProcedures) -> list[tuple[str, int, Operation]]:
    taken = []
    while (message := procedures.next_waiting()) is not None:
        assert message.data_set == CANARY
        taken.append((message.sop_instance_uid, message.number, message.operation))
        procedures.delivered(message.sequence)
    return taken


def test_messages_leave_in_the_order_in_which_they_came(procedures: PerformedProcedures) -> None:
    create(procedures, "1.2")
    create(procedures, "1.1")
    set_(procedures, "1.2")
    set_(procedures, "1.2", StepStatus.COMPLETED, ALL)
    assert procedures.state().waiting == 4
    assert drained(procedures) == [
        ("1.2", 0, Operation.CREATE),
        ("1.1", 0, Operation.CREATE),
        ("1.2", 1, Operation.SET),
        ("1.2", 2, Operation.SET),
    ]
    assert procedures.state().waiting == 0


@pytest.mark.parametrize("end", [StepStatus.COMPLETED, StepStatus.DISCONTINUED])
def test_an_ended_step_stays_as_it_is_also_after_delivery_and_restart(
    open_procedures: OpenProcedures, end: StepStatus
) -> None:
    procedures = open_procedures()
    create(procedures)
    set_(procedures, status=end, supplies=ALL)
    drained(procedures)
    procedures = open_procedures()
    for status in (None, *StepStatus):
        with pytest.raises(StepEndedError):
            set_(procedures, status=status, supplies=ALL)
    with pytest.raises(DuplicateStepError):
        create(procedures)
    assert status_of(procedures, "1.2") is end
    assert drained(procedures) == []


def test_a_step_that_is_not_there(procedures: PerformedProcedures) -> None:
    with pytest.raises(UnknownStepError):
        set_(procedures)
    assert status_of(procedures, "1.2") is None


@pytest.mark.parametrize(
    ("status", "supplied", "missing"),
    [
        (StepStatus.COMPLETED, NONE, ALL),
        (StepStatus.COMPLETED, FinalAttribute.END_DATE | FinalAttribute.END_TIME, FinalAttribute.SERIES),
        (StepStatus.DISCONTINUED, FinalAttribute.END_DATE, FinalAttribute.END_TIME),
    ],
)
def test_no_end_without_what_an_end_needs(
    procedures: PerformedProcedures, status: StepStatus, supplied: FinalAttribute, missing: FinalAttribute
) -> None:
    create(procedures)
    with pytest.raises(IncompleteStepError) as refused:
        set_(procedures, status=status, supplies=supplied)
    assert refused.value.missing == missing
    assert status_of(procedures, "1.2") is StepStatus.IN_PROGRESS
    assert procedures.state().waiting == 1


def test_what_an_end_needs_may_have_been_said_before(procedures: PerformedProcedures) -> None:
    create(procedures, supplies=FinalAttribute.SERIES)
    set_(procedures, supplies=FinalAttribute.END_DATE)
    set_(procedures, status=StepStatus.COMPLETED, supplies=FinalAttribute.END_TIME)
    assert status_of(procedures, "1.2") is StepStatus.COMPLETED


def test_nothing_of_a_patient_is_readable_on_the_disk(
    procedures: PerformedProcedures, tmp_path: Path
) -> None:
    create(procedures)
    set_(procedures)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"CANARY" not in path.read_bytes(), path
            assert b"19701224" not in path.read_bytes(), path


def test_a_refused_message_is_kept_and_out_of_the_way(procedures: PerformedProcedures) -> None:
    create(procedures, "1.1")
    create(procedures, "1.2")
    first = procedures.next_waiting()
    assert first is not None
    procedures.refuse(first.sequence, "central does not read it")
    assert drained(procedures) == [("1.2", 0, Operation.CREATE)]
    state = procedures.state()
    assert (state.waiting, state.refused, state.last_reason) == (0, 1, "central does not read it")


def test_messages_of_another_device_key_are_said_and_block_nothing(open_procedures: OpenProcedures) -> None:
    create(open_procedures(), "1.1")
    procedures = open_procedures("other.key")
    create(procedures, "1.2")
    assert drained(procedures) == [("1.2", 0, Operation.CREATE)]
    assert "another device key" in procedures.state().last_reason


def test_more_than_the_box_keeps_is_refused(
    procedures: PerformedProcedures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performed_procedures, "MAX_WAITING_MESSAGES", 2)
    create(procedures, "1.1")
    create(procedures, "1.2")
    with pytest.raises(TooManyMessagesError):
        create(procedures, "1.3")
    assert status_of(procedures, "1.3") is None
    with pytest.raises(TooManyMessagesError):
        set_(procedures, "1.2")
    drained(procedures)
    create(procedures, "1.3")


def test_what_is_over_for_long_is_forgotten_and_what_waits_is_not(
    open_procedures: OpenProcedures, tmp_path: Path
) -> None:
    procedures = open_procedures()
    for uid in ("1.1", "1.2"):
        create(procedures, uid)
        set_(procedures, uid, StepStatus.COMPLETED, ALL)
        if uid == "1.1":
            drained(procedures)
    with sqlite3.connect(tmp_path / "services.sqlite3") as db:
        db.execute("UPDATE procedure_step SET changed_at_utc = '2001-01-01T00:00:00.000000Z'")
    db.close()
    procedures = open_procedures()
    create(procedures, "1.3")
    assert status_of(procedures, "1.1") is None
    assert status_of(procedures, "1.2") is StepStatus.COMPLETED
    assert len(drained(procedures)) == 3


def test_news_wake_who_waits(procedures: PerformedProcedures) -> None:
    seen = procedures.wait_for_news(-1, 0)
    assert procedures.wait_for_news(seen, 0.01) == seen
    create(procedures)
    assert procedures.wait_for_news(seen, 10) != seen


LIFE = """
import os, sys
from pathlib import Path
from edge.buffer.device_key import DeviceKey
from edge.buffer.performed_procedures import FinalAttribute, PerformedProcedures
from edge.buffer.service_database import ServiceDatabase
root = Path(sys.argv[1])
procedures = PerformedProcedures(ServiceDatabase(root / "services.sqlite3"), DeviceKey.load(root / "device.key"))
for number in range(1, 1_000_000):
    procedures.create(f"1.2.{number}", b"CANARY", supplies=FinalAttribute(0), transfer_syntax_uid="1.2",
                      calling_ae_title="CT1")
    os.write(1, f"{number}\\n".encode())
"""


def test_what_was_answered_survives_a_kill(tmp_path: Path, open_procedures: OpenProcedures) -> None:
    life = subprocess.Popen(
        [sys.executable, "-c", LIFE, str(tmp_path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert life.stdout is not None
    said = [int(life.stdout.readline()) for _ in range(20)]
    life.kill()
    said += [int(line) for line in life.stdout.read().split()]
    life.wait()
    procedures = open_procedures()
    kept = []
    while (message := procedures.next_waiting()) is not None:
        kept.append(int(message.sop_instance_uid.rpartition(".")[2]))
        procedures.delivered(message.sequence)
    assert kept[: len(said)] == said
    assert len(kept) <= len(said) + 1
