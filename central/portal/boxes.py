"""What the fleet page needs to know of a box, said as protocols: this room does not know the fleet room."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol


class EquipmentView(Protocol):
    """A scanner as a box has seen it."""

    @property
    def ae_title(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def last_store_at_utc(self) -> datetime | None: ...
    @property
    def instances(self) -> int: ...
    @property
    def rejected(self) -> int: ...


class BoxView(Protocol):
    """A box as central knows it; None where it has not said anything yet. `state`: online, offline, lost, never."""

    @property
    def gateway_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def since_utc(self) -> datetime | None: ...
    @property
    def version(self) -> str: ...
    @property
    def queue_objects(self) -> int | None: ...
    @property
    def queue_bytes(self) -> int | None: ...
    @property
    def quarantined_objects(self) -> int | None: ...
    @property
    def oldest_unsent_at_utc(self) -> datetime | None: ...
    @property
    def disk_total_bytes(self) -> int | None: ...
    @property
    def disk_free_bytes(self) -> int | None: ...
    @property
    def accepting(self) -> bool | None: ...
    @property
    def last_telemetry_at_utc(self) -> datetime | None: ...
    @property
    def certificate_expires_at_utc(self) -> datetime | None: ...
    @property
    def revoked(self) -> bool: ...
    @property
    def equipment(self) -> Sequence[EquipmentView]: ...


def box_json(box: BoxView) -> dict[str, Any]:
    """One box for the page; times in ISO 8601, sizes in bytes."""
    return {
        "gateway_id": box.gateway_id,
        "name": box.name,
        "state": box.state,
        "since_utc": _iso(box.since_utc),
        "version": box.version,
        "queue_objects": box.queue_objects,
        "queue_bytes": box.queue_bytes,
        "quarantined_objects": box.quarantined_objects,
        "oldest_unsent_at_utc": _iso(box.oldest_unsent_at_utc),
        "disk_total_bytes": box.disk_total_bytes,
        "disk_free_bytes": box.disk_free_bytes,
        "accepting": box.accepting,
        "last_telemetry_at_utc": _iso(box.last_telemetry_at_utc),
        "certificate_expires_at_utc": _iso(box.certificate_expires_at_utc),
        "revoked": box.revoked,
        "equipment": [
            {
                "ae_title": scanner.ae_title,
                "address": scanner.address,
                "last_store_at_utc": _iso(scanner.last_store_at_utc),
                "instances": scanner.instances,
                "rejected": scanner.rejected,
            }
            for scanner in box.equipment
        ],
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
