"""Pages from templates: everything that is put into one is escaped, and no page holds patient data.

The study list, fleet and audit pages are empty frames; their scripts fetch the data and set it as text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import jinja2
from starlette.responses import HTMLResponse

from central.access.policy import Action, Principal, Privilege, Role, delegable, has_privilege, scope_of

FOLDER: Final = Path(__file__).parent
_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def may_find_studies(principal: Principal) -> bool:
    """Whether the study list can ever show `principal` anything."""
    return not scope_of(principal, Action.SEARCH).is_nothing


def may_invite(principal: Principal) -> bool:
    """Whether there can be a study that `principal` may show to a guest."""
    return not scope_of(principal, Action.SHARE).is_nothing


def may_share(principal: Principal) -> bool:
    """Whether `principal` can ever let somebody else look at a study, or keep them from it."""
    return may_invite(principal) or has_privilege(principal, Privilege.GIVE_ACCESS)


def may_break_glass(principal: Principal) -> bool:
    """Whether `principal` can ever open a study in an emergency."""
    return not scope_of(principal, Action.BREAK_GLASS).is_nothing


def _has_part_in_emergencies(principal: Principal) -> bool:
    return may_break_glass(principal) or has_privilege(principal, Privilege.REVIEW_EMERGENCIES)


def may_use_tokens(principal: Principal) -> bool:
    """Whether `principal` makes API tokens, or ends those of others."""
    return bool(delegable(principal)) or has_privilege(principal, Privilege.MANAGE_ACCESS)


def has_account(principal: Principal) -> bool:
    """Whether `principal` is the owner of an account in person."""
    return principal.delegation is None and principal.role is not Role.GUEST


_PAGES: Final[tuple[tuple[str, str, Callable[[Principal], bool]], ...]] = (
    ("/", "Studies", may_find_studies),
    ("/station", "Station", lambda principal: principal.role is Role.TECHNICIAN),
    ("/sharing", "Sharing", may_share),
    ("/accounts", "Accounts", lambda principal: has_privilege(principal, Privilege.MANAGE_ACCESS)),
    ("/tokens", "Tokens", may_use_tokens),
    ("/emergency", "Emergency", _has_part_in_emergencies),
    ("/looks", "Who looked", lambda principal: principal.role is Role.PATIENT),
    ("/fleet", "Fleet", lambda principal: has_privilege(principal, Privilege.READ_FLEET)),
    (
        "/institutions",
        "Institutions",
        lambda principal: has_privilege(principal, Privilege.MANAGE_ACCESS),
    ),
    ("/erasing", "Erasing", lambda principal: has_privilege(principal, Privilege.ERASE_STUDIES)),
    ("/audit", "Audit", lambda principal: has_privilege(principal, Privilege.READ_AUDIT)),
)


def page(name: str, principal: Principal | None, status: int = 200, **values: object) -> HTMLResponse:
    """The page from template `name`, with the navigation that `principal` may use."""
    navigation = [(path, label) for path, label, may in _PAGES if principal and may(principal)]
    reviews = principal is not None and has_privilege(principal, Privilege.REVIEW_EMERGENCIES)
    html = _TEMPLATES.get_template(name).render(
        principal=principal,
        navigation=navigation,
        may_review=reviews,
        has_account=principal is not None and has_account(principal),
        **values,
    )
    return HTMLResponse(html, status)
