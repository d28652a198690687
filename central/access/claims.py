"""Who somebody is here, from the claims of the provider that they signed on at. Pure.

What is always true: exactly one role follows from the claims, or nobody is let in; a patient's identifier counts
together with the issuer that is configured for it, never by itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from central.access.oidc import SignOnRefusedError
from central.access.policy import PatientKey, Principal, Role
from central.institution import DEFAULT_INSTITUTION, WHOLE_CENTRAL

EXTERNAL: Final = "oidc:"
"""How the `user_id` of an account begins that signs on at a provider."""

_MAX_VALUES: Final = 32
_MAX_CHARACTERS: Final = 256


@dataclass(frozen=True)
class ClaimRules:
    """Which claims say what. `role_values`: for each role, the values of `role_claim` that mean it.

    `institution`: whose all these people are; "": the default one's, and administrators the whole central's.
    """

    role_claim: str
    role_values: Mapping[Role, frozenset[str]] = field(default_factory=dict)
    physician_name_claim: str = ""
    patient_id_claim: str = ""
    issuer_of_patient_id: str = ""
    department_claim: str = ""
    institution: str = ""


def principal_from(claims: Mapping[str, Any], rules: ClaimRules) -> Principal:
    """The account that these verified claims describe.

    Raises
    ------
    SignOnRefusedError : they say no role of ours, or several.
    """
    user_id = external_user_id(claims["iss"], claims["sub"])
    said = set(_texts(claims.get(rules.role_claim)))
    roles = [role for role, values in rules.role_values.items() if values & said]
    if len(roles) != 1:
        raise SignOnRefusedError(
            "the claims say no role of this house" if not roles else "the claims say several roles"
        )
    names = _texts(claims.get(rules.physician_name_claim)) if roles[0] is Role.DOCTOR else []
    ids = _texts(claims.get(rules.patient_id_claim)) if roles[0] is Role.PATIENT else []
    has_departments = roles[0] in (Role.DOCTOR, Role.TECHNICIAN)
    nobodys = WHOLE_CENTRAL if roles[0] is Role.ADMIN else DEFAULT_INSTITUTION
    return Principal(
        user_id=user_id,
        username=_username(claims, user_id.removeprefix(EXTERNAL)),
        role=roles[0],
        referring_physician_names=tuple(names),
        patient_ids=tuple(PatientKey(rules.issuer_of_patient_id, one) for one in ids),
        institution=rules.institution or nobodys,
        departments=tuple(_texts(claims.get(rules.department_claim)) if has_departments else ()),
    )


def external_user_id(issuer: str, subject: str) -> str:
    """The `user_id` of this subject: the same name at another issuer is somebody else."""
    return EXTERNAL + hashlib.sha256(f"{issuer}\0{subject}".encode()).hexdigest()[:32]


def provider_session_of(issuer: str, session_id: object) -> str:
    """What is kept of a session at the provider (claim ``sid``); "" when it names none."""
    named = isinstance(session_id, str) and session_id
    return hashlib.sha256(f"{issuer}\0{session_id}".encode()).hexdigest() if named else ""


def _username(claims: Mapping[str, Any], subject: str) -> str:
    wished = str(claims.get("preferred_username") or claims.get("email") or "").lower()
    plain = re.sub(r"[^a-z0-9._@-]", "", wished).lstrip("._@-")[:64]
    return plain or f"oidc-{subject[:16]}"


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    texts = [one.strip() for one in values[:_MAX_VALUES] if isinstance(one, str)]
    return [text for text in texts if 0 < len(text) <= _MAX_CHARACTERS]
