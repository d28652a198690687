"""What DICOM calls each of our actions: Event ID (PS3.16 CID 400), Event Type Codes (CID 401) and kind of event.

For audit messages and FHIR alike. Always true: a type that belongs to a Security Alert comes with one (PS3.15
A.5.3.11); an action that has no event of its own is Application Activity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

ACTIONS: Final = "dicomnet"
"""The code system of our own actions and roles."""


class Code(NamedTuple):
    """A coded value; `meaning` is its Code Meaning (PS3.15 A.5.1: originalText)."""

    value: str
    system: str
    meaning: str


class Event(NamedTuple):
    """`kind` is the Event Action Code: Create, Read, Update, Delete, Execute. The last of `types` is our own action."""

    event_id: Code
    kind: str
    types: tuple[Code, ...]


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


def _alert(value: str, meaning: str) -> tuple[Code, str, Code]:
    return _dcm("110113", "Security Alert"), "E", _dcm(value, meaning)


_AUTHENTICATION: Final = _dcm("110114", "User Authentication")
_LOGIN: Final = (_AUTHENTICATION, "E", _dcm("110122", "Login"))
_QUERY: Final = (_dcm("110112", "Query"), "E", None)
_NODE: Final = _alert("110126", "Node Authentication")
_ROLES: Final = _alert("110136", "Security Roles Changed")
_CONFIGURED: Final = _alert("110129", "Security Configuration")
_ACTIVITY: Final = (_dcm("110100", "Application Activity"), "E", None)
_EVENTS: Final[Mapping[str, tuple[Code, str, Code | None]]] = {
    "sign-in": _LOGIN,
    "sign-in-failed": _LOGIN,
    "guest-sign-in": _LOGIN,
    "sign-out": (_AUTHENTICATION, "E", _dcm("110123", "Logout")),
    "search": _QUERY,
    "worklist-read": _QUERY,
    "view": (_dcm("110103", "DICOM Instances Accessed"), "R", None),
    "export": (_dcm("110106", "Export"), "R", None),
    "store": (_dcm("110104", "DICOM Instances Transferred"), "C", None),
    "erase": (_dcm("110105", "DICOM Study Deleted"), "D", None),
    "read-audit": (_dcm("110101", "Audit Log Used"), "R", None),
    "procedure-step": (_dcm("110111", "Procedure Record"), "U", None),
    "worklist-change": (_dcm("110109", "Order Record"), "U", None),
    "break-glass": _alert("110127", "Emergency Override Started"),
    "request-refused": _alert("110132", "Use of Restricted Function"),
    "box-command": _alert("110131", "Software Configuration"),
    "user-change": _alert("110137", "User Security Attributes Changed"),
    **dict.fromkeys(("upload-refused", "association-refused", "enrol-refused", "identity-seen-twice"), _NODE),
    "break-glass-review": (_dcm("110113", "Security Alert"), "E", None),
    **dict.fromkeys(("access-change", "consent-change", "token-change", "share"), _ROLES),
    **dict.fromkeys(
        (
            "chain-audit",
            "prune-audit",
            "pair",
            "enrol",
            "enrol-request",
            "enrol-decision",
            "renew",
            "keys",
            "revoke",
        ),
        _CONFIGURED,
    ),
}


def event_of(action: str) -> Event:
    """What one of `central.audit.events.Action`, or one of a later version, is as a DICOM event."""
    event_id, kind, of_type = _EVENTS.get(action, _ACTIVITY)
    types = (of_type,) if of_type is not None else ()
    return Event(event_id, kind, (*types, Code(action, ACTIONS, action)))
