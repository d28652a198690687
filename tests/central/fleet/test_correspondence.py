"""Events once and in order, commands until answered, settings by version; without a broker, by a clock of the test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from central.fleet.commands import LIFE
from central.fleet.correspondence import Down
from central.fleet.events import KEPT
from contract.command import COMMAND, DESIRED, HEARD, CommandKind, Heard, Reported
from contract.heartbeat import EVENT, REPORTED, BoxState, CommandAnswer, Event, Outcome, up_topic
from tests.central.fleet.test_heartbeats import T0, Scene

SCHEMAS = Path(__file__).parents[3] / "docs" / "formats" / "heartbeat"
STREAM = "a" * 16


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    for down in scene.said:
        schema = json.loads((SCHEMAS / f"down-{down.below}.json").read_text())
        said = json.loads(down.payload)
        Draft202012Validator(schema, format_checker=FormatChecker()).validate(said)
        assert set(said) <= set(schema["properties"])
    scene.db.close()


def tell(
    scene: Scene, number: int, after: int, *, stream: str = STREAM, answer: CommandAnswer | None = None
) -> bool:
    event = Event(
        stream=stream,
        number=number,
        after=after,
        at_utc=T0,
        kind="started",
        detail=f"{number}",
        answer=answer,
    )
    return scene.hear(up_topic(scene.box, EVENT), event.model_dump_json().encode())


def heard_through(scene: Scene) -> int:
    last = [down for down in scene.said if down.below == HEARD][-1]
    mark = Heard.model_validate_json(last.payload).events
    assert mark is not None
    return mark.through


def shown(scene: Scene) -> list[str]:
    return [event.detail for event in scene.fleet.boxes()[0].events]


def given(scene: Scene, below: str) -> list[Down]:
    return [down for down in scene.said if down.below == below]


def test_events_are_kept_once_and_answered_each_time(scene: Scene) -> None:
    assert tell(scene, 1, 0)
    assert tell(scene, 2, 1)
    assert not tell(scene, 1, 0)
    assert heard_through(scene) == 2
    assert shown(scene) == ["2", "1"]


def test_one_whose_predecessor_is_missing_is_not_taken(scene: Scene) -> None:
    assert tell(scene, 1, 0)
    assert not tell(scene, 3, 2)
    assert heard_through(scene) == 1, "so the box says two and three"
    assert tell(scene, 2, 1)
    assert tell(scene, 3, 2)
    assert tell(scene, 9, 0), "the box gave up four to eight"


def test_a_new_stream_begins_anew_and_kinds_of_a_later_version_are_kept(scene: Scene) -> None:
    tell(scene, 7, 0)
    assert tell(scene, 1, 0, stream="b" * 16)
    later = Event(stream="c" * 16, number=1, at_utc=T0, kind="invented-later", detail="?").model_dump_json()
    assert scene.hear(up_topic(scene.box, EVENT), later.encode())


def test_a_retained_event_is_nobodys(scene: Scene) -> None:
    event = Event(stream=STREAM, number=1, at_utc=T0, kind="started", detail="")
    assert not scene.hear(up_topic(scene.box, EVENT), event.model_dump_json().encode(), retained=True)


def test_a_box_cannot_fill_the_database_with_events(scene: Scene) -> None:
    for number in range(1, KEPT + 20):
        tell(scene, number, number - 1)
    [(count,)] = scene.db.execute_sql("select count(*) from box_event").fetchall()
    assert count == KEPT
    for number in range(30):
        scene.now += timedelta(seconds=1)
        tell(scene, 1, 0, stream=f"{number:016x}")
    [(count,)] = scene.db.execute_sql("select count(*) from box_event_mark").fetchall()
    assert count == 8


def test_a_command_goes_out_again_to_a_new_session_until_it_is_answered(scene: Scene) -> None:
    scene.connected_s = None
    command = scene.correspondence.command(scene.box, CommandKind.PAUSE, {}, "anna")
    assert [view.state for view in scene.commands.last(scene.box, 5)] == ["waiting"]
    scene.connected_s = 60.0
    scene.status(BoxState.ONLINE, "a" * 16)
    scene.status(BoxState.ONLINE, "a" * 16)
    assert len(given(scene, COMMAND)) == 1, "once a session"
    assert given(scene, COMMAND)[0].life_s == LIFE.total_seconds()
    assert not given(scene, COMMAND)[0].retain
    scene.status(BoxState.ONLINE, "b" * 16)
    assert len(given(scene, COMMAND)) == 2
    answer = CommandAnswer(command_id=command.id, outcome=Outcome.DONE)
    tell(scene, 1, 0, answer=answer)
    scene.status(BoxState.ONLINE, "c" * 16)
    assert len(given(scene, COMMAND)) == 2
    assert [(view.state, view.detail) for view in scene.commands.last(scene.box, 5)] == [("done", "1")]


def test_a_command_expires_and_a_late_answer_still_tells(scene: Scene) -> None:
    command = scene.correspondence.command(scene.box, CommandKind.PAUSE, {}, "anna")
    scene.now += LIFE
    scene.status(BoxState.ONLINE, "b" * 16)
    assert len(given(scene, COMMAND)) == 1, "not given again"
    assert [view.state for view in scene.commands.last(scene.box, 5)] == ["expired"]
    tell(scene, 1, 0, answer=CommandAnswer(command_id=command.id, outcome=Outcome.DONE))
    assert [view.state for view in scene.commands.last(scene.box, 5)] == ["done"]


def test_an_answer_counts_once_and_from_the_box_it_was_for(scene: Scene) -> None:
    command = scene.correspondence.command(scene.box, CommandKind.PAUSE, {}, "anna")
    answer = CommandAnswer(command_id=command.id, outcome=Outcome.FAILED)
    assert not scene.commands.note_answer("another", answer, "x")
    assert scene.commands.note_answer(scene.box, answer, "first")
    assert not scene.commands.note_answer(
        scene.box, answer.model_copy(update={"outcome": Outcome.DONE}), "second"
    )
    assert scene.commands.last(scene.box, 1)[0].detail == "first"


def test_nothing_is_said_to_a_revoked_box(scene: Scene) -> None:
    scene.gateways.revoke(scene.box)
    scene.correspondence.command(scene.box, CommandKind.PAUSE, {}, "anna")
    scene.correspondence.desire(scene.box, {"log_level": "debug"})
    assert scene.said == []


def test_settings_go_out_until_the_box_has_looked_at_them(scene: Scene) -> None:
    desired = scene.correspondence.desire(scene.box, {"echo_interval_s": 60})
    assert given(scene, DESIRED)[0].retain
    scene.status(BoxState.ONLINE, "a" * 16)
    assert len(given(scene, DESIRED)) == 2
    reported = Reported(version=desired.version, settings={"echo_interval_s": 60})
    scene.hear(up_topic(scene.box, REPORTED), reported.model_dump_json().encode())
    scene.status(BoxState.ONLINE, "b" * 16)
    assert len(given(scene, DESIRED)) == 2
    [view] = scene.fleet.boxes()
    assert (view.settings, view.settings_pending) == ({"echo_interval_s": 60}, False)
    # Another box in its place, at a broker that lost what it kept: its status comes before what it reports.
    scene.status(BoxState.ONLINE, "c" * 16)
    scene.hear(up_topic(scene.box, REPORTED), Reported(version=0, settings={}).model_dump_json().encode())
    assert len(given(scene, DESIRED)) == 3


def test_a_central_restored_from_yesterday_is_still_obeyed(scene: Scene) -> None:
    reported = Reported(version=41, settings={})
    scene.hear(up_topic(scene.box, REPORTED), reported.model_dump_json().encode())
    assert scene.correspondence.desire(scene.box, {}).version == 42


def test_sessions_are_ordered_by_boot_whatever_the_clock_says(scene: Scene) -> None:
    later, earlier = T0 + timedelta(days=1), T0 - timedelta(days=10_000)
    scene.status(BoxState.ONLINE, "a" * 16, later, boot=4, connection=9)
    scene.status(BoxState.ONLINE, "b" * 16, earlier, boot=5, connection=1)  # no clock: it believes in 1970
    assert not scene.status(BoxState.LOST, "a" * 16, later, boot=4, connection=9)
    assert scene.state() == "online"
    assert scene.status(BoxState.LOST, "b" * 16, earlier, boot=5, connection=1)
    assert scene.state() == "lost"


def test_two_runs_that_take_turns_are_two_boxes(scene: Scene) -> None:
    def online(run: str, session: str) -> None:
        scene.status(BoxState.ONLINE, session * 16, boot=5, run=run * 16)

    online("1", "a")
    online("2", "b")
    assert not scene.fleet.boxes()[0].twin, "a restart looks like this"
    online("1", "c")
    assert scene.fleet.boxes()[0].twin
    warning = Heard.model_validate_json(given(scene, HEARD)[-1].payload)
    assert warning.twin
    scene.now += timedelta(minutes=11)
    assert not scene.fleet.boxes()[0].twin
    online("1", "c")  # the one that is left, in its session
    assert Heard.model_validate_json(given(scene, HEARD)[-1].payload) == Heard()
    before = len(scene.said)
    online("1", "c")
    assert len(scene.said) == before, "once"
