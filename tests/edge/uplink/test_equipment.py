"""Scanners asked calmly, weeks learned and kept, silence and return noticed; by a clock of the test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contract.heartbeat import Equipment, EventKind
from edge.uplink.equipment import ConfiguredScanner, Echoed, EquipmentWatch

MONDAY = datetime(2030, 1, 7, tzinfo=UTC)


class Scene:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = MONDAY
        self.answers = True
        self.asked: list[str] = []
        self.noticed: list[tuple[EventKind, str]] = []
        self.stored_at: datetime | None = None
        self.configured = [ConfiguredScanner("CT1", "127.0.0.1", 104)]
        self.watch = self.open()

    def open(self) -> EquipmentWatch:
        return EquipmentWatch(
            self.directory,
            configured=lambda: self.configured,
            seen=self.seen,
            echo=self.echo,
            notice=lambda kind, detail: self.noticed.append((kind, detail)),
            echo_interval_s=300,
            clock=lambda: self.now.timestamp(),
        )

    def seen(self) -> list[Equipment]:
        if self.stored_at is None:
            return []
        return [
            Equipment(
                ae_title="CT1",
                address="10.0.0.9",
                first_seen_at_utc=MONDAY,
                last_store_at_utc=self.stored_at,
                instances=1,
                rejected=0,
            )
        ]

    def echo(self, scanner: ConfiguredScanner) -> Echoed:
        self.asked.append(scanner.ae_title)
        return Echoed(self.answers, 2.0 if self.answers else None, "a sentence")

    def live(self, hours: int, *, sends: bool = True) -> None:
        """So many hours of a scanner that sends on working days, eight to six."""
        for _ in range(hours):
            working = self.now.weekday() < 5 and 8 <= self.now.hour < 18
            if sends and working:
                self.stored_at = self.now + timedelta(minutes=30)
            self.now += timedelta(hours=1)
            self.watch.tick()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def silence(scene: Scene) -> str:
    return scene.watch.equipment()[0].silence


def test_a_scanner_that_answers_is_asked_at_its_interval(scene: Scene) -> None:
    for _ in range(60):
        scene.watch.tick()
        scene.now += timedelta(seconds=30)
    assert scene.asked == ["CT1"] * 6, "every five minutes for half an hour"
    [shown] = scene.watch.equipment()
    assert (shown.ae_title, shown.instances) == ("CT1", 0)
    assert shown.echo is not None
    assert shown.echo.ok
    scene.watch.echo_every(60)
    scene.asked.clear()
    for _ in range(20):
        scene.watch.tick()
        scene.now += timedelta(seconds=30)
    assert len(scene.asked) == 10


def test_one_that_never_answered_is_asked_once_an_hour(scene: Scene) -> None:
    scene.answers = False
    for _ in range(240):
        scene.watch.tick()
        scene.now += timedelta(seconds=30)
    assert len(scene.asked) == 2
    assert scene.watch.equipment()[0].echo is not None


def test_only_configured_scanners_are_asked(scene: Scene) -> None:
    assert scene.watch.echo_now("STRANGER") is None
    scene.configured = []
    scene.watch.tick()
    assert scene.asked == []
    assert scene.watch.equipment() == []


def test_silence_and_return_are_noticed_once(scene: Scene) -> None:
    scene.live(24)
    assert silence(scene) == "learning"
    scene.live(7 * 24 * 4)
    assert silence(scene) == "usual"
    assert scene.noticed == []
    scene.live(24, sends=False)  # a Tuesday
    assert silence(scene) == "silent"
    assert [kind for kind, _ in scene.noticed] == [EventKind.SCANNER_SILENT]
    assert "CT1 at 10.0.0.9 has sent nothing since 2030-02-04 17:30 UTC" in scene.noticed[0][1]
    scene.stored_at = scene.now
    assert silence(scene) == "usual", "at once, not at the end of the hour"
    scene.live(48)
    assert [kind for kind, _ in scene.noticed] == [EventKind.SCANNER_SILENT, EventKind.SCANNER_BACK]


def test_what_was_learned_survives_a_restart_and_silence_is_not_told_twice(scene: Scene) -> None:
    scene.live(7 * 24 * 4)
    scene.live(24, sends=False)
    scene.watch.stop()
    scene.watch = scene.open()
    assert silence(scene) == "silent"
    scene.live(6, sends=False)
    assert len(scene.noticed) == 1


def test_hours_in_which_the_box_was_off_teach_nothing(scene: Scene) -> None:
    scene.live(7 * 24 * 4)
    scene.watch.stop()
    scene.now += timedelta(hours=9)
    scene.watch = scene.open()
    scene.now += timedelta(hours=30)  # suspended, or its clock was set
    scene.watch.tick()
    assert silence(scene) == "usual"
    assert scene.noticed == []


def test_weeks_are_written_once_a_day(scene: Scene) -> None:
    scene.live(1)
    path = scene.directory / "patterns.json"
    written = 0
    last = 0
    for _ in range(24 * 7):
        scene.live(1)
        if path.exists() and path.stat().st_mtime_ns != last:
            written, last = written + 1, path.stat().st_mtime_ns
    assert written <= 7
    assert path.stat().st_size < 2000


def test_a_damaged_file_is_learned_anew(scene: Scene) -> None:
    (scene.directory / "patterns.json").write_text('{"scanners": {"x": {"weeks": "ff", "hits": "00"}}}')
    scene.watch = scene.open()
    scene.live(2)
    assert scene.watch.equipment() != []
