"""What a further central hears, and what it may not set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from contract.command import Desired, Reported
from contract.control import EnrolParams, LinkStatus
from contract.heartbeat import DestinationHealth, Event, EventKind, Telemetry
from edge.heartbeat import as_another_sees_it
from edge.voice import SettingsOfAnother
from tests.edge.centrals.conftest import Start
from tests.edge.scripted_central import ScriptedCentral

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SINCE = NOW - timedelta(hours=2)
PACS = DestinationHealth(name="PACS", kind="dimse", waiting_objects=1, waiting_bytes=9, set_aside_objects=0)
NORTH = DestinationHealth(
    name="north",
    kind="central",
    waiting_objects=4,
    waiting_bytes=400,
    set_aside_objects=2,
    oldest_at_utc=SINCE,
)
OWN = Telemetry(
    captured_at_utc=NOW,
    queue_objects=7,
    queue_bytes=700,
    quarantined_objects=0,
    disk_total_bytes=1,
    disk_free_bytes=1,
    accepting=True,
    memory_bytes=1,
    uptime_s=1,
    destinations=(NORTH, PACS),
)
AWAY = LinkStatus(state="waiting", detail="central cannot be reached")


def test_what_waits_for_its_copy_is_its_queue_and_the_first_is_elsewhere() -> None:
    seen = as_another_sees_it(OWN, "north", "central", AWAY)
    assert (seen.queue_objects, seen.queue_bytes, seen.quarantined_objects) == (4, 400, 2)
    assert seen.oldest_unsent_at_utc == SINCE
    first, *others = seen.destinations
    assert (first.name, first.kind, first.waiting_objects) == ("central", "central", 7)
    assert first.last_error == "central cannot be reached"
    assert others == [PACS]


def test_one_that_stands_by_sees_the_queue_itself() -> None:
    seen = as_another_sees_it(OWN.model_copy(update={"destinations": (PACS,)}), "north", "central", AWAY)
    assert seen.queue_objects == 7
    assert [one.name for one in seen.destinations] == ["central", "PACS"]


def test_settings_of_a_further_central_are_refused_once_by_name() -> None:
    in_force = Reported(version=3, settings={"echo_interval_s": 60})
    foreign = SettingsOfAnother(lambda: in_force)
    assert foreign.reported() == Reported(version=0, settings={"echo_interval_s": 60})
    wish = Desired(version=8, settings={"echo_interval_s": 30})
    assert foreign.desire(wish)
    assert not foreign.desire(wish), "no news"
    assert foreign.reported() == Reported(
        version=8,
        settings={"echo_interval_s": 60},
        refused={"echo_interval_s": "the first central of this box sets it"},
    )


def test_events_wait_for_each_central_by_itself(start: Start, tmp_path: Path) -> None:
    box = start(further_centrals=["north"], mode="copy")
    box._reporting._voices["north"].tell(EventKind.COMMAND, "for north alone")
    here = (tmp_path / "box" / "heartbeat" / "events.jsonl").read_text()
    there = (tmp_path / "box" / "centrals" / "north" / "heartbeat" / "events.jsonl").read_text()
    assert "start number 1" in here
    assert "start number 1" in there
    assert "for north alone" in there
    assert "for north alone" not in here


def test_events_are_dated_by_what_central_says_the_time_is(
    start: Start, north: ScriptedCentral, tmp_path: Path
) -> None:
    """The box's own clock may live in 1970, and an administrator reads these."""
    box = start()
    box.operations.enrol(EnrolParams(pairing=str(north.pairing)))
    voice = box._reporting._voices["central"]
    assert voice.identity is not None
    voice.identity.clock.begin_anew(NOW + timedelta(days=3650))
    voice.tell(EventKind.COMMAND, "later")
    last = (tmp_path / "box" / "heartbeat" / "events.jsonl").read_text().splitlines()[-1]
    assert Event.model_validate_json(last).at_utc > NOW + timedelta(days=3649)
