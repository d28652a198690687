"""What somebody may do to the house itself, as apart from what may be seen of patients, and for which institution.

Always true: what no role has been given nobody has, and no API token carries any of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from central.access.principal import Principal, Role
from central.institution import WHOLE_CENTRAL


class Privilege(StrEnum):
    """What may be done to the house, as apart from what may be seen of patients."""

    READ_FLEET = "read-fleet"
    PAIR_GATEWAY = "pair-gateway"
    COMMAND_GATEWAY = "command-gateway"
    READ_AUDIT = "read-audit"
    READ_WORKLIST = "read-worklist"
    MANAGE_WORKLIST = "manage-worklist"
    STORE_INSTANCES = "store-instances"
    GIVE_ACCESS = "give-access"
    MANAGE_ACCESS = "manage-access"
    REVIEW_EMERGENCIES = "review-emergencies"
    ERASE_STUDIES = "erase-studies"  # with another one who confirms it; and legal holds, which keep from it


_PRIVILEGES: Final[Mapping[Role, frozenset[Privilege]]] = {
    Role.ADMIN: frozenset(Privilege),
    # What a radiologist makes of images (measurements, key images, reports) is instances, too.
    Role.RADIOLOGIST: frozenset({Privilege.READ_FLEET, Privilege.GIVE_ACCESS, Privilege.STORE_INSTANCES}),
    Role.TECHNICIAN: frozenset({Privilege.READ_FLEET, Privilege.READ_WORKLIST}),  # of the own boxes
    Role.SERVICE: frozenset({Privilege.READ_WORKLIST, Privilege.MANAGE_WORKLIST, Privilege.STORE_INSTANCES}),
}


def has_privilege(principal: Principal, privilege: Privilege) -> bool:
    """Whether `principal` may do something to the house itself; never by an API token."""
    return principal.delegation is None and privilege in _PRIVILEGES.get(principal.role, frozenset())


def manages(principal: Principal, institution: str) -> bool:
    """Whether what `principal` may do to the house holds for this institution."""
    return managed(principal) in (None, institution)


def managed(principal: Principal) -> str | None:
    """The institution for which it holds; None: for all of them."""
    return None if principal.institution == WHOLE_CENTRAL else principal.institution
