"""One step of an administrator about one study: whose it is, what keeps from it, and the record that stands before it.

Always true: nothing is done that is not on record, with its reason; what is refused is on record as well, also when it
turns out only as it is done. An administrator of one institution reaches that one's studies alone; of another one's it
is not said whether there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from central.access.on_record import admit
from central.access.policy import Principal, Privilege, has_privilege, managed
from central.access.problems import problem
from central.access.web import principal_of
from central.archive.errors import ErasureRefusedError
from central.archive.second_person import check_reason
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.wishes import WrongWishError, iso
from contract.identifiers import InvalidIdentifierError, check_uid

NOT_HERE: Final = "there is no such study"


def may_not(principal: Principal) -> Response | None:
    """The answer to who may neither erase nor hold studies."""
    if has_privilege(principal, Privilege.ERASE_STUDIES):
        return None
    return problem(403, "your role may not erase studies, or hold them")


def study_of(wish: Mapping[str, Any]) -> str:
    """Raises WrongWishError."""
    try:
        return check_uid(str(wish.get("study_instance_uid", "")).strip(), "study_instance_uid")
    except InvalidIdentifierError as error:
        raise WrongWishError(str(error)) from error


def reason_of(wish: Mapping[str, Any]) -> str:
    """Raises WrongWishError."""
    try:
        return check_reason(str(wish.get("reason", "")))
    except ErasureRefusedError as error:
        raise WrongWishError(str(error)) from error


def whose(request: Request, wish: Mapping[str, Any], have: Sequence[str]) -> str | Response:
    """The institution whose study is meant, of those that have it: the own, the named one, or the only one."""
    own = managed(principal_of(request))
    named = wish.get("institution") or own
    if own is not None:
        have = [one for one in have if one == own]
    if named is not None:
        return str(named) if named in have else problem(404, NOT_HERE)
    if len(have) > 1:
        return problem(409, f"several institutions have this study ({', '.join(have)}): say whose is meant")
    return have[0] if have else problem(404, NOT_HERE)


def step(
    audit: Audit,
    request: Request,
    action: Action,
    study: str,
    holder: str | Response,
    detail: str,
    check: Callable[[str], None],
    do: Callable[[str], Response],
) -> Response:
    """Do something about the study of an institution, on record before; what is refused is on record, too.

    Parameters
    ----------
    holder : the institution, or the answer where there is none.
    check, do : either may raise ErasureRefusedError.
    """
    refusal = may_not(principal_of(request))
    concerned: tuple[str, ...] = ()
    if isinstance(holder, Response):
        refusal = refusal or holder
    elif refusal is None:
        concerned = (holder,)
        try:
            check(holder)
        except ErasureRefusedError as error:
            refusal, detail = problem(409, str(error)), f"{error}; {detail}"
    answer = admit(audit, request, refusal, action, detail, study, institutions=concerned)
    if answer is not None:
        return answer
    assert isinstance(holder, str), "an answer is a refusal"
    try:
        return do(holder)
    except ErasureRefusedError as error:
        refusal = problem(409, str(error))
        refused = f"{error}; {detail}"
        return admit(audit, request, refusal, action, refused, study, institutions=concerned) or refusal


def nothing(_institution: str) -> None:
    """The check of a step that needs none."""


def with_times(said: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds since 1970 as ISO 8601 times; ``…_at_s`` becomes ``…_at_utc``."""
    return {
        name.removesuffix("_s") + "_utc" if name.endswith("_at_s") else name: (
            iso(int(value)) if name.endswith("_at_s") else value
        )
        for name, value in said.items()
    }
