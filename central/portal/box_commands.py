"""What an administrator may tell a box from the fleet page: commands, settings, and fetching a support bundle.

Always true: only who has the privilege does any of it, and each try is on record before it counts, allowed or not.
Whether a box obeys is seen on the fleet page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.on_record import admit
from central.access.policy import Privilege, has_privilege, managed
from central.access.problems import problem
from central.access.web import principal_of
from central.audit.events import Action
from central.audit.record import Audit
from central.portal.wishes import WrongWishError, with_wish
from contract.command import MAX_SETTINGS, Command, CommandKind, Desired, SettingValue
from contract.errors import ContractError
from contract.identifiers import check_ae_title, check_gateway_id, check_object_id, check_uid
from contract.priority import Priority

_SETTINGS: Final[TypeAdapter[dict[str, SettingValue]]] = TypeAdapter(dict[str, SettingValue])
_PARAMS: Final[Mapping[CommandKind, tuple[str, Callable[[str], str]]]] = {
    CommandKind.PRIORITISE: ("study_instance_uid", check_uid),
    CommandKind.ECHO: ("ae_title", check_ae_title),
}


def routes(
    audit: Audit,
    *,
    is_admitted: Callable[[str, str | None], bool],
    institution_of: Callable[[str], str],
    command: Callable[[str, CommandKind, Mapping[str, str], str], Command],
    desire: Callable[[str, Mapping[str, SettingValue]], Desired],
    bundle: Callable[[str, str], Path | None],
) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`.

    Parameters
    ----------
    is_admitted : whether there is such a gateway in that institution (None: in any), and it is not revoked.
    institution_of : whose a gateway is that is admitted.
    command : tells a box something, on behalf of a user.
    desire : wants a box to be set like this.
    bundle : the support bundle that answered a command of a gateway.
    """
    desk = _Desk(audit, is_admitted, institution_of, command, desire, bundle)
    return [
        Route("/api/gateways/command", with_wish(desk.command), methods=["POST"]),
        Route("/api/gateways/settings", with_wish(desk.settings), methods=["POST"]),
        Route("/api/gateways/support/{gateway_id}/{command_id}", desk.support),
    ]


class _Desk:
    def __init__(
        self,
        audit: Audit,
        is_admitted: Callable[[str, str | None], bool],
        institution_of: Callable[[str], str],
        command: Callable[[str, CommandKind, Mapping[str, str], str], Command],
        desire: Callable[[str, Mapping[str, SettingValue]], Desired],
        bundle: Callable[[str, str], Path | None],
    ) -> None:
        self._audit = audit
        self._is_admitted = is_admitted
        self._institution_of = institution_of
        self._command = command
        self._desire = desire
        self._bundle = bundle

    def command(self, request: Request, wish: Mapping[str, Any]) -> Response:
        if (refusal := self._refusal(request, wish)) is not None:
            return refusal
        gateway_id = str(wish["gateway_id"])
        try:
            kind = CommandKind(wish.get("kind", ""))
            params = _params(kind, wish)
        except ContractError as error:
            raise WrongWishError(str(error)) from error
        except ValueError:
            raise WrongWishError(f"there is no such command; there are {', '.join(CommandKind)}") from None
        said = " ".join((gateway_id, kind.value, *params.values()))
        if (unrecorded := self._admit(request, gateway_id, said)) is not None:
            return unrecorded
        given = self._command(gateway_id, kind, params, principal_of(request).username)
        return JSONResponse({"id": given.id, "expires_at_utc": given.expires_at_utc.isoformat()}, 202)

    def settings(self, request: Request, wish: Mapping[str, Any]) -> Response:
        if (refusal := self._refusal(request, wish)) is not None:
            return refusal
        gateway_id = str(wish["gateway_id"])
        try:
            settings = _SETTINGS.validate_python(wish.get("settings"), strict=True)
        except ValidationError:
            raise WrongWishError('send {"gateway_id": "…", "settings": {"<name>": <value>}}') from None
        if len(settings) > MAX_SETTINGS:
            raise WrongWishError(f"at most {MAX_SETTINGS} settings")
        said = f"{gateway_id} settings {json.dumps(settings)}"
        if (unrecorded := self._admit(request, gateway_id, said)) is not None:
            return unrecorded
        return JSONResponse({"version": self._desire(gateway_id, settings).version}, 202)

    def support(self, request: Request) -> Response:
        ids = request.path_params
        if (refusal := self._refusal(request, ids)) is not None:
            return refusal
        gateway_id = str(ids["gateway_id"])
        try:
            command_id = check_object_id(ids["command_id"])
        except ContractError:
            return problem(404, "there is no such bundle")
        said = f"{gateway_id} support bundle {command_id}"
        if (unrecorded := self._admit(request, gateway_id, said)) is not None:
            return unrecorded
        path = self._bundle(gateway_id, command_id)
        if path is None:
            return problem(404, "the box has not sent this bundle, or it was replaced by newer ones")
        name = f"support-{gateway_id}-{command_id[:8]}.json.gz"
        return FileResponse(
            path, media_type="application/gzip", filename=name, headers={"Cache-Control": "no-store"}
        )

    def _admit(self, request: Request, gateway_id: str, said: str) -> Response | None:
        """Record what a box is about to be told, for whose it is as well; the answer if that cannot be."""
        concerned = (self._institution_of(gateway_id),)
        return admit(self._audit, request, None, Action.BOX_COMMAND, said, institutions=concerned)

    def _refusal(self, request: Request, wish: Mapping[str, Any]) -> Response | None:
        """Why not; a try without the right is on record."""
        allowed = has_privilege(principal_of(request), Privilege.COMMAND_GATEWAY)
        try:
            gateway_id = check_gateway_id(str(wish.get("gateway_id", "")))
        except ContractError:
            gateway_id = ""
        if not allowed:
            refusal = problem(403, "your role may not tell a box what to do")
            return admit(self._audit, request, refusal, Action.BOX_COMMAND, gateway_id)
        if not self._is_admitted(gateway_id, managed(principal_of(request))):
            return problem(404, "there is no such box, or it is revoked")
        return None


def _params(kind: CommandKind, wish: Mapping[str, Any]) -> dict[str, str]:
    """What belongs to the command, checked. ContractError says what is wrong with it."""
    if kind not in _PARAMS:
        return {}
    name, check = _PARAMS[kind]
    params = {name: check(str(wish.get(name, "")))}
    if kind is CommandKind.PRIORITISE and wish.get("priority"):
        params["priority"] = Priority.named(str(wish["priority"])).word
    return params
