"""What is worth a person's time: each alert with the number on either side of its threshold."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from central.fleet.alerts import alerts
from central.fleet.view import BoxView, DestinationView, EquipmentView

NOW = datetime(2030, 1, 1, tzinfo=UTC)
WELL = BoxView(
    gateway_id="ct1",
    name="CT 1",
    state="online",
    since_utc=NOW,
    version="1.0",
    queue_objects=0,
    queue_bytes=0,
    quarantined_objects=0,
    oldest_unsent_at_utc=None,
    disk_total_bytes=100,
    disk_free_bytes=50,
    accepting=True,
    last_telemetry_at_utc=NOW,
    certificate_expires_at_utc=NOW + timedelta(days=40),
    revoked=False,
    equipment=(EquipmentView("CT1", "10.0.0.9", NOW - timedelta(hours=9), 7, 0, "usual", True),),
)


def found(box: BoxView) -> list[tuple[str, str]]:
    return [(alert.kind, alert.severity) for alert in alerts(box, NOW, central_version="1.0")]


def test_a_box_that_is_well_has_none() -> None:
    assert found(WELL) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state": "lost"}, [("lost", "critical")]),
        ({"state": "offline"}, [("offline", "warning")]),
        ({"twin": True}, [("twin", "critical")]),
        ({"certificate_expires_at_utc": NOW + timedelta(days=13)}, [("certificate", "warning")]),
        ({"certificate_expires_at_utc": NOW + timedelta(days=2)}, [("certificate", "critical")]),
        ({"certificate_expires_at_utc": NOW}, [("certificate", "critical")]),
        ({"accepting": False, "hours_to_full": 0.0}, [("not-accepting", "critical")]),
        ({"hours_to_full": 23.0}, [("disk-full", "warning")]),
        ({"hours_to_full": 3.9}, [("disk-full", "critical")]),
        ({"hours_to_full": 25.0}, []),
        ({"disk_wear_percent": 80}, [("disk-wear", "warning")]),
        ({"disk_wear_percent": 70}, []),
        ({"over_quota": True}, [("quota", "critical")]),
        ({"paused": True}, [("paused", "warning")]),
        ({"oldest_unsent_at_utc": NOW - timedelta(hours=25)}, [("unsent", "warning")]),
        ({"oldest_unsent_at_utc": NOW - timedelta(hours=23)}, []),
        ({"clock_offset_s": -61.0}, [("clock", "warning")]),
        ({"clock_offset_s": 59.0}, []),
        (  # a box in 1970, which has had its images for an hour
            {
                "clock_offset_s": -60 * 365 * 86_400.0,
                "oldest_unsent_at_utc": NOW - timedelta(days=60 * 365, hours=1),
            },
            [("clock", "warning")],
        ),
        (  # one that is three days ahead, and has had them for two
            {"clock_offset_s": 259_200.0, "oldest_unsent_at_utc": NOW + timedelta(hours=24)},
            [("unsent", "warning"), ("clock", "warning")],
        ),
        ({"clock_offset_s": 1e300}, [("clock", "warning")]),
        ({"temperature_c": 80.0}, [("temperature", "warning")]),
        ({"version": "0.9"}, [("version", "warning")]),
        ({"hours_to_full": 3.0, "paused": True}, [("disk-full", "critical"), ("paused", "warning")]),
        ({"revoked": True, "state": "lost"}, []),
        ({"state": "never", "version": ""}, []),
        ({"state": "lost", "paused": True, "clock_offset_s": 999.0}, [("lost", "critical")]),
        (
            {"destinations": (DestinationView("PACS", "dimse", 3, 9, 0, NOW - timedelta(hours=23), "away"),)},
            [],
        ),
        (
            {"destinations": (DestinationView("PACS", "dimse", 3, 9, 2, NOW - timedelta(hours=25), "away"),)},
            [("destination-refuses", "warning"), ("destination-waits", "warning")],
        ),
    ],
)
def test_each_threshold(changes: dict[str, object], expected: list[tuple[str, str]]) -> None:
    assert found(replace(WELL, **changes)) == expected  # type: ignore[arg-type]


def test_a_silent_scanner_is_named_with_its_hours() -> None:
    silent = replace(WELL, equipment=(replace(WELL.equipment[0], silence="silent"),))
    [alert] = alerts(silent, NOW, central_version="1.0")
    assert alert.kind == "scanner-silent"
    assert "CT1 has sent nothing for 9 hours" in alert.sentence
