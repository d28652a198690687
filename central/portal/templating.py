"""Pages from templates: everything that is put into one is escaped, and no page holds patient data.

The study list, fleet and audit pages are empty frames; their scripts fetch the data and set it as text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import jinja2
from starlette.responses import HTMLResponse

from central.access.policy import Action, Principal, Privilege, Role, has_privilege, scope_of

FOLDER: Final = Path(__file__).parent
_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES: Final = (
    ("/", "Studies", None),
    ("/fleet", "Fleet", Privilege.READ_FLEET),
    ("/audit", "Audit", Privilege.READ_AUDIT),
)


def may_find_studies(principal: Principal) -> bool:
    """Whether the study list can ever show `principal` anything."""
    scope = scope_of(principal, Action.SEARCH)
    return scope.everything or bool(scope.patients or scope.referring_physician_keys)


def page(name: str, principal: Principal | None, status: int = 200, **values: object) -> HTMLResponse:
    """The page from template `name`, with the navigation that `principal` may use."""
    html = _TEMPLATES.get_template(name).render(
        principal=principal, navigation=_navigation(principal) if principal else [], **values
    )
    return HTMLResponse(html, status)


def _navigation(principal: Principal) -> list[tuple[str, str]]:
    pages = [
        (path, label)
        for path, label, privilege in _PAGES
        if (has_privilege(principal, privilege) if privilege else may_find_studies(principal))
    ]
    return [*pages, ("/looks", "Who looked")] if principal.role is Role.PATIENT else pages
