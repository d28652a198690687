"""Why somebody may do something with a study, or may not: the policy asked again with one reason left at a time.

Always true: nothing is decided here. What holds is what `authorize` says of the person as they stand; something is a
reason because `authorize` grants with it and without the others. So a rule that is changed there is explained as
changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Final

from central.access.policy import Action, DenialReason, Denied, Grant, Principal, StudyFacts, authorize

ACTIONS: Final = (Action.SEARCH, Action.VIEW, Action.EXPORT, Action.SHARE)
"""What may be granted of a study and goes on; an emergency is opened anew each time."""


class Why(StrEnum):
    """What lets somebody see a study."""

    ROLE = "role"
    REFERRING_PHYSICIAN = "referring-physician"
    DEPARTMENT = "department"
    BOX = "box"
    PATIENT = "patient"
    ASSIGNED_STUDY = "assigned-study"
    ASSIGNED_PATIENT = "assigned-patient"
    GRANT = "grant"
    EMERGENCY = "emergency"
    INVITATION = "invitation"
    AGREEMENT = "agreement"  # with what the role is, or with one of the above


_SOURCES: Final[Mapping[Why, str]] = {
    Why.REFERRING_PHYSICIAN: "referring_physician_names",
    Why.DEPARTMENT: "departments",
    Why.BOX: "gateway_ids",
    Why.PATIENT: "patient_ids",
    Why.ASSIGNED_STUDY: "assigned_studies",
    Why.ASSIGNED_PATIENT: "assigned_patients",
    Why.GRANT: "granted_studies",
    Why.EMERGENCY: "emergency_studies",
    Why.INVITATION: "invitation",
    Why.AGREEMENT: "agreements",
}
_WITHOUT_THEM: Final[Mapping[str, Any]] = {
    field.name: field.default for field in fields(Principal) if field.name in _SOURCES.values()
}


@dataclass(frozen=True)
class Explanation:
    """What somebody may do with a study, and why.

    Attributes
    ----------
    may : of `ACTIONS`, in that order; () when nothing.
    why : each of these alone would do. Of somebody who is refused: what would do but for the refusal.
    why_not : None when there is something that they may do.
    """

    may: tuple[Action, ...]
    why: tuple[Why, ...]
    why_not: DenialReason | None


def explain(principal: Principal, facts: StudyFacts) -> Explanation:
    """What the policy says of `principal` and the study of `facts`, and why."""
    may = _granted(principal, facts)
    if may:
        return Explanation(may, _why(principal, may[0], facts), None)
    denials = [authorize(principal, action, facts) for action in ACTIONS]
    reasons = [denied.reason for denied in denials if isinstance(denied, Denied)]
    why_not = next((reason for reason in reasons if reason is not DenialReason.ROLE_MAY_NOT), reasons[0])
    unrefused = replace(principal, refused_studies=frozenset())
    would = _granted(unrefused, facts)
    return Explanation((), _why(unrefused, would[0], facts) if would else (), why_not)


def _granted(principal: Principal, facts: StudyFacts) -> tuple[Action, ...]:
    return tuple(action for action in ACTIONS if _grants(principal, action, facts))


def _why(principal: Principal, action: Action, facts: StudyFacts) -> tuple[Why, ...]:
    bare = replace(principal, **_WITHOUT_THEM)
    if _grants(bare, action, facts):
        return (Why.ROLE,)
    alone = tuple(
        why
        for why, name in _SOURCES.items()
        if _grants(replace(bare, **{name: getattr(principal, name)}), action, facts)
    )
    # What an institution opened to another opens by itself, or together with one of the others: an identifier, an
    # emergency.
    return alone or (Why.AGREEMENT,)


def _grants(principal: Principal, action: Action, facts: StudyFacts) -> bool:
    return isinstance(authorize(principal, action, facts), Grant)
