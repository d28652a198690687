"""Each command once, in time, and always answered."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contract.command import Command, new_command_id
from contract.heartbeat import CommandAnswer, EventKind, Outcome
from contract.priority import Priority
from edge.uplink.commands import MAX_WAITING, CommandDesk, CommandFailedError
from edge.uplink.outbox import Outbox

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Scene:
    """A box's controls that note what they were told, and an outbox that is a queue."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.answers: queue.Queue[tuple[CommandAnswer, str]] = queue.Queue()
        self.now = NOW
        self.gate = threading.Event()
        self.gate.set()
        self.desk = CommandDesk(self, self, lambda: self.now)

    def add(self, kind: EventKind, detail: str, answer: CommandAnswer | None = None) -> None:
        assert kind is EventKind.COMMAND
        assert answer is not None
        self.answers.put((answer, detail))

    def answered(self) -> list[str]:
        return []

    def pause(self) -> str:
        assert self.gate.wait(60)
        self.done.append("pause")
        return "paused"

    def resume(self) -> str:
        raise RuntimeError("a fault")

    def prioritise(self, study_instance_uid: str, priority: Priority) -> str:
        self.done.append(study_instance_uid if priority is Priority.FIRST else priority.word)
        return "first"

    def echo(self, ae_title: str) -> str:
        raise CommandFailedError(f"{ae_title} does not answer")

    def send_support_bundle(self, command_id: str) -> str:
        self.done.append(command_id)
        return "sent"

    def tell(self, kind: str, life_s: float = 300, **params: str) -> Command:
        command = Command(
            id=new_command_id(),
            kind=kind,
            issued_at_utc=NOW,
            expires_at_utc=NOW + timedelta(seconds=life_s),
            params=params,
        )
        self.desk.take(command)
        return command

    def answer(self) -> tuple[CommandAnswer, str]:
        return self.answers.get(timeout=60)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    scene.desk.start()
    yield scene
    scene.gate.set()
    scene.desk.stop(10)


def test_a_command_is_done_and_answered_with_its_id(scene: Scene) -> None:
    command = scene.tell("pause")
    assert scene.answer() == (CommandAnswer(command_id=command.id, outcome=Outcome.DONE), "paused")
    study = scene.tell("prioritise", study_instance_uid="1.2.3")
    assert scene.answer()[0].command_id == study.id
    scene.tell("prioritise", study_instance_uid="1.2.3", priority="low")
    scene.answer()
    assert scene.done == ["pause", "1.2.3", "low"]


def test_what_comes_again_is_absorbed(scene: Scene) -> None:
    command = scene.tell("pause")
    scene.answer()
    scene.desk.take(command)
    scene.tell("prioritise", study_instance_uid="1.2.3")
    scene.answer()
    assert scene.done == ["pause", "1.2.3"]


def test_what_comes_again_after_a_restart_is_absorbed_while_its_answer_waits(
    scene: Scene, tmp_path: Path
) -> None:
    """Central gives it again to the new session, for it has not heard."""
    answered = threading.Semaphore(0)

    def told_in_a_new_run(*commands: Command) -> None:
        desk = CommandDesk(scene, Outbox(tmp_path, on_added=answered.release), lambda: NOW)
        desk.start()
        for command in commands:
            desk.take(command)
        assert answered.acquire(timeout=60)  # by the last of them
        desk.stop(60)

    pause, bundle = (
        Command(
            id=new_command_id(), kind=kind, issued_at_utc=NOW, expires_at_utc=NOW + timedelta(seconds=300)
        )
        for kind in ("pause", "support-bundle")
    )
    told_in_a_new_run(pause)
    told_in_a_new_run(pause, bundle)
    assert scene.done == ["pause", bundle.id]
    assert Outbox(tmp_path).answered() == [pause.id, bundle.id]


@pytest.mark.parametrize(
    ("kind", "life_s", "params", "why"),
    [
        ("pause", -1, {}, "after its expiry"),
        ("pause", 0, {}, "after its expiry"),
        ("pause", 86_400, {}, "longer than a command may"),
        ("format-disk", 300, {}, "does not know"),
        ("prioritise", 300, {}, "UID is missing"),
        ("prioritise", 300, {"study_instance_uid": "../../etc"}, "digits and dots"),
        (
            "prioritise",
            300,
            {"study_instance_uid": "1.2", "priority": "asap"},
            "first, stat, high, routine, low",
        ),
        ("echo", 300, {"ae_title": "A\\B"}, "no backslash"),
    ],
)
def test_what_may_not_be_done_is_refused(
    scene: Scene, kind: str, life_s: float, params: dict[str, str], why: str
) -> None:
    scene.tell(kind, life_s, **params)
    answer, detail = scene.answer()
    assert answer.outcome is Outcome.REFUSED
    assert why in detail
    assert scene.done == []


def test_what_expired_while_it_waited_is_refused(scene: Scene) -> None:
    scene.gate.clear()
    scene.tell("pause")
    late = scene.tell("prioritise", study_instance_uid="1.2.3", life_s=60)
    scene.now = NOW + timedelta(seconds=61)
    scene.gate.set()
    answers = [scene.answer() for _ in range(2)]
    assert answers[1][0] == CommandAnswer(command_id=late.id, outcome=Outcome.REFUSED)
    assert scene.done == ["pause"]


def test_failures_are_answers_and_the_next_command_is_done(scene: Scene) -> None:
    scene.tell("echo", ae_title="CT1")
    answer, detail = scene.answer()
    assert (answer.outcome, detail) == (Outcome.FAILED, "CT1 does not answer")
    scene.tell("resume")
    scene.tell("pause")
    outcomes = [scene.answer() for _ in range(2)]
    assert [answer.outcome for answer, _ in outcomes] == [Outcome.FAILED, Outcome.DONE]
    assert "a fault in the box's program" in outcomes[0][1]


def test_too_many_at_once_are_refused_and_none_is_forgotten(scene: Scene) -> None:
    scene.gate.clear()
    told = [scene.tell("pause").id for _ in range(MAX_WAITING + 5)]
    scene.gate.set()
    answers = [scene.answer()[0] for _ in told]
    assert {answer.command_id for answer in answers} == set(told)
    refused = [answer for answer in answers if answer.outcome is Outcome.REFUSED]
    assert 4 <= len(refused) <= 5
