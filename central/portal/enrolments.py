"""Boxes that want in: who waits, the administrator's yes or no, and pairing strings as text and as QR code.

Always true: only who may add boxes sees or decides anything here, and every decision is on record before it counts.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import segno
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.access.on_record import admit
from central.access.policy import Privilege, has_privilege, managed
from central.access.problems import problem
from central.access.web import principal_of
from central.audit.events import Action
from central.audit.record import Audit
from central.identity.pairings import Decision, Pairings, PendingBox
from central.portal.wishes import NO_STORE, WrongWishError, with_wish
from contract.enrolment import PAIRING_LIFE_S, Pairing

_NO_SUCH: Final = "there is no such gateway"


def routes(
    audit: Audit,
    pairings: Pairings,
    is_known: Callable[[str, str | None], bool],
    institution_of: Callable[[str], str],
    replace: Callable[[str], Pairing | None],
    revoke: Callable[[str], str | None],
) -> list[BaseRoute]:
    """Must be behind `RequireSignIn`.

    Parameters
    ----------
    is_known : whether there is such a gateway in that institution (None: in any).
    institution_of : whose a gateway is that is known.
    replace : makes a pairing that gives a new box that gateway's place; None: there is no such gateway.
    revoke : lets a gateway in no more; says what is still to be done, or None: there is no such gateway.
    """
    desk = _Desk(audit, pairings, is_known, institution_of, replace, revoke)
    return [
        Route("/api/gateways/pending", desk.pending),
        Route("/api/gateways/decision", with_wish(desk.decision), methods=["POST"]),
        Route("/api/gateways/replacement", with_wish(desk.replacement), methods=["POST"]),
        Route("/api/gateways/revocation", with_wish(desk.revocation), methods=["POST"]),
    ]


def pairing_json(pairing: Pairing) -> dict[str, str]:
    """A pairing string as it is shown once: text, its end, and a QR code in SVG. Secret until it is used."""
    expires = datetime.now(UTC) + timedelta(seconds=PAIRING_LIFE_S)
    drawn = io.BytesIO()
    segno.make_qr(str(pairing), error="m").save(
        drawn, kind="svg", scale=4, dark="#000", light="#fff", xmldecl=False, nl=False
    )
    return {
        "pairing": str(pairing),
        "expires_at_utc": expires.isoformat(),
        "qr_svg": drawn.getvalue().decode("ascii"),
    }


class _Desk:
    def __init__(
        self,
        audit: Audit,
        pairings: Pairings,
        is_known: Callable[[str, str | None], bool],
        institution_of: Callable[[str], str],
        replace: Callable[[str], Pairing | None],
        revoke: Callable[[str], str | None],
    ) -> None:
        self._audit = audit
        self._pairings = pairings
        self._is_known = is_known
        self._institution_of = institution_of
        self._replace = replace
        self._revoke = revoke

    def pending(self, request: Request) -> Response:
        if (refusal := no_boxes(request)) is not None:
            return refusal
        boxes = self._pairings.pending(managed(principal_of(request)))
        return JSONResponse({"boxes": [_box_json(box) for box in boxes]}, headers=NO_STORE)

    def decision(self, request: Request, wish: Mapping[str, Any]) -> Response:
        fingerprint, decision = wish.get("fingerprint"), wish.get("decision")
        if not isinstance(fingerprint, str) or decision not in ("accepted", "refused"):
            raise WrongWishError('send {"fingerprint": "…", "decision": "accepted" or "refused"}')
        detail = f"{decision}: key {fingerprint[:64]}"
        answer = admit(self._audit, request, no_boxes(request), Action.ENROL_DECISION, detail)
        if answer is not None:
            return answer
        institution = managed(principal_of(request))
        box = self._pairings.decide(fingerprint[:64], cast(Decision, decision), institution)
        if box is None:
            return problem(404, "no box with this fingerprint waits any more")
        return JSONResponse(_box_json(box), headers=NO_STORE)

    def replacement(self, request: Request, wish: Mapping[str, Any]) -> Response:
        gateway_id = _gateway(wish, "the gateway whose box is replaced")
        answer = self._admit(request, gateway_id, Action.PAIR, f"replaces {gateway_id}")
        if answer is not None:
            return answer
        pairing = self._replace(gateway_id)
        if pairing is None:
            return problem(404, _NO_SUCH)
        return JSONResponse(pairing_json(pairing), 201, headers=NO_STORE)

    def revocation(self, request: Request, wish: Mapping[str, Any]) -> Response:
        gateway_id = _gateway(wish, "the gateway to let in no more")
        answer = self._admit(request, gateway_id, Action.REVOKE, gateway_id)
        if answer is not None:
            return answer
        trouble = self._revoke(gateway_id)
        if trouble is None:
            return problem(404, _NO_SUCH)
        return JSONResponse({"gateway_id": gateway_id, "trouble": trouble}, headers=NO_STORE)

    def _admit(self, request: Request, gateway_id: str, action: Action, detail: str) -> Response | None:
        """Record what is about to be done with a gateway, for whose it is as well; the answer if it may not."""
        refusal = no_boxes(request)
        if refusal is None and not self._is_known(gateway_id, managed(principal_of(request))):
            refusal = problem(404, _NO_SUCH)
        concerned = (self._institution_of(gateway_id),) if refusal is None else ()
        return admit(self._audit, request, refusal, action, detail, institutions=concerned)


def no_boxes(request: Request) -> Response | None:
    """A refusal for everybody who may not add, replace or revoke boxes."""
    allowed = has_privilege(principal_of(request), Privilege.PAIR_GATEWAY)
    return None if allowed else problem(403, "your role may not add or revoke a box")


def _gateway(wish: Mapping[str, Any], which: str) -> str:
    gateway_id = wish.get("gateway_id")
    if not isinstance(gateway_id, str):
        raise WrongWishError(f'send {{"gateway_id": "<{which}>"}}')
    return gateway_id[:64]


def _box_json(box: PendingBox) -> dict[str, str | None]:
    return {
        "fingerprint": box.fingerprint,
        "name": box.name,
        "replaces": box.replaces,
        "source_address": box.source_address,
        "requested_at_utc": box.requested_at_utc.isoformat(),
    }
