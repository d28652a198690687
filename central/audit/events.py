"""What a record says: the words for what somebody did, and an event as it is told and as it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Literal, overload

MAX_DETAIL_CHARACTERS: Final = 8000
MAX_NAME_CHARACTERS: Final = 128


class Action(StrEnum):
    """What somebody did or tried; whether it was allowed is the event's `outcome`."""

    SIGN_IN = "sign-in"
    SIGN_IN_FAILED = "sign-in-failed"
    SIGN_OUT = "sign-out"
    SEARCH = "search"
    VIEW = "view"
    EXPORT = "export"
    STORE = "store"
    SHARE = "share"
    BREAK_GLASS = "break-glass"
    BREAK_GLASS_REVIEW = "break-glass-review"
    GUEST_SIGN_IN = "guest-sign-in"
    ACCESS_CHANGE = "access-change"
    CONSENT_CHANGE = "consent-change"
    TOKEN_CHANGE = "token-change"  # noqa: S105  # what was done, no password
    READ_AUDIT = "read-audit"
    CHAIN_AUDIT = "chain-audit"
    PRUNE_AUDIT = "prune-audit"
    PAIR = "pair"
    ENROL = "enrol"
    ENROL_REFUSED = "enrol-refused"
    ENROL_REQUEST = "enrol-request"
    ENROL_DECISION = "enrol-decision"
    RENEW = "renew"
    IDENTITY_SEEN_TWICE = "identity-seen-twice"
    RECEIPTS_UNKNOWN = "receipts-unknown"
    OBJECT_FAULT = "object-fault"
    READ_OBJECTS = "read-objects"
    REMOVE_OBJECTS = "remove-objects"
    ERASE = "erase"
    ERASE_REQUEST = "erase-request"
    READMIT = "readmit"
    READMIT_REQUEST = "readmit-request"
    LEGAL_HOLD = "legal-hold"
    KEYS = "keys"
    REVOKE = "revoke"
    BOX_COMMAND = "box-command"
    UPLOAD_REFUSED = "upload-refused"
    ASSOCIATION_REFUSED = "association-refused"
    REQUEST_REFUSED = "request-refused"
    USER_CHANGE = "user-change"
    WORKLIST_READ = "worklist-read"
    WORKLIST_CHANGE = "worklist-change"
    PROCEDURE_STEP = "procedure-step"


Outcome = Literal["success", "refused"]


@dataclass(frozen=True)
class AuditEvent:
    """One thing that happened. `actor` is a username, a gateway id or a peer's AE title, as it was claimed.

    `detail` may hold search values (it is the protected place for them); it is cut at
    `MAX_DETAIL_CHARACTERS`, and `actor` at `MAX_NAME_CHARACTERS`, because both can come from outside. What a caller
    asks for is not done unless it `is_whole`: else whoever pads it would choose what is on record.
    """

    actor: str
    actor_role: str
    action: Action
    outcome: Outcome
    source_address: str
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    detail: str = ""
    institutions: frozenset[str] = frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether the record can hold all of `detail`."""
        return len(_storable(self.detail)) <= MAX_DETAIL_CHARACTERS


@dataclass(frozen=True)
class AuditRow:
    """A recorded event. `id` grows with time and is never reused."""

    id: int
    at_utc: datetime
    event: AuditEvent


def row_of(event: AuditEvent) -> dict[str, Any]:
    """As it is kept, stamped with the time now; its id and chain value come later."""
    return {
        "at_utc": datetime.now(UTC).isoformat(timespec="microseconds"),
        "actor": _storable(event.actor)[:MAX_NAME_CHARACTERS],
        "actor_role": event.actor_role,
        "action": event.action.value,
        "outcome": event.outcome,
        "source_address": _storable(event.source_address),
        "study_instance_uid": _storable(event.study_instance_uid),
        "series_instance_uid": _storable(event.series_instance_uid),
        "sop_instance_uid": _storable(event.sop_instance_uid),
        "detail": _storable(event.detail)[:MAX_DETAIL_CHARACTERS],
    }


def read_row(row: dict[str, Any]) -> AuditRow:
    """A kept record."""
    fields = {name: value for name, value in row.items() if name != "chain"}
    return AuditRow(
        id=fields.pop("id"),
        at_utc=datetime.fromisoformat(fields.pop("at_utc")),
        event=AuditEvent(**{**fields, "action": Action(fields["action"])}),
    )


@overload
def _storable(text: str) -> str: ...
@overload
def _storable(text: None) -> None: ...
def _storable(text: str | None) -> str | None:
    """`text` as every database takes it: what came from outside may have lone surrogates, which are no UTF-8, and NUL,
    which PostgreSQL refuses. One event that cannot be written would keep those from it that are written with it."""
    if text is None:
        return None
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
