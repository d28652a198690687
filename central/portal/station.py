"""What a technician needs at the modality: the day's worklist of the own boxes, and whether the images have come.

Always true: it says how many series and images of a scheduled study are here and since when, and shows none; looking at
them is the policy's to allow (policy.Arrivals). Each reading is on record before it is answered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.on_record import admit
from central.access.policy import Privilege, Role, has_privilege
from central.access.problems import problem
from central.access.web import principal_of
from central.archive.reading import Reading
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.templating import page
from central.portal.wishes import NO_STORE, iso

MAX_ITEMS: Final = 500
_DAY: Final = re.compile(r"[0-9]{8}")
_STEP: Final = "00400100"


class Item(Protocol):
    """A worklist item, in DICOM JSON."""

    @property
    def item(self) -> Mapping[str, Any]: ...


def routes(
    entries: Callable[..., Sequence[Item]],
    archive: Reading,
    audit: Audit,
    today: Callable[[], datetime] = datetime.now,
) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`. `entries` is workflow's `WorklistStore.entries`."""
    desk = _Desk(entries, archive, audit, today)
    return [Route("/station", desk.show), Route("/api/station", desk.day)]


class _Desk:
    def __init__(
        self,
        entries: Callable[..., Sequence[Item]],
        archive: Reading,
        audit: Audit,
        today: Callable[[], datetime],
    ) -> None:
        self._entries = entries
        self._archive = archive
        self._audit = audit
        self._today = today

    def show(self, request: Request) -> Response:
        principal = principal_of(request)
        if principal.role is not Role.TECHNICIAN:
            return page("refused.html", principal, 403, path="/station")
        return page("station.html", principal, path="/station")

    def day(self, request: Request) -> Response:
        """The items of one day, the own boxes' and those for every box, by their start."""
        principal = principal_of(request)
        day = request.query_params.get("day") or self._today().strftime("%Y%m%d")
        if not _DAY.fullmatch(day):
            return problem(400, "a day is YYYYMMDD")
        allowed = principal.role is Role.TECHNICIAN and has_privilege(principal, Privilege.READ_WORKLIST)
        refusal = None if allowed else problem(403, "this page is a technician's")
        answer = admit(self._audit, request, refusal, Action.WORKLIST_READ, f"station, {day}")
        if answer is not None:
            return answer
        found = self._entries(
            limit=MAX_ITEMS,
            institution=principal.institution,
            gateway_ids=principal.gateway_ids,
            day=day,
        )
        items = [self._json(one.item, principal.institution) for one in found]
        return JSONResponse({"day": day, "items": items, "max_items": MAX_ITEMS}, headers=NO_STORE)

    def _json(self, item: Mapping[str, Any], institution: str) -> dict[str, Any]:
        step = _first(item, _STEP)
        step = step if isinstance(step, dict) else {}
        study = str(_first(item, "0020000D") or "")
        arrived = self._archive.arrival(study, institution)
        return {
            "patient_name": _name(_first(item, "00100010")),
            "patient_id": str(_first(item, "00100020") or ""),
            "accession_number": str(_first(item, "00080050") or ""),
            "study_instance_uid": study,
            "time": str(_first(step, "00400003") or ""),
            "modality": str(_first(step, "00080060") or ""),
            "station_ae_title": str(_first(step, "00400001") or ""),
            "description": str(_first(step, "00400007") or _first(item, "00321060") or ""),
            "series": arrived[0] if arrived else 0,
            "instances": arrived[1] if arrived else 0,
            "arrived_at_utc": iso(arrived[2]) if arrived else None,
        }


def _first(item: Mapping[str, Any], tag: str) -> Any:
    """The first value of an attribute in DICOM JSON; None where there is none."""
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _name(value: object) -> str:
    return str(value.get("Alphabetic") or "") if isinstance(value, dict) else ""
