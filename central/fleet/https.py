"""The gateways' listener, as far as heartbeats and support bundles go (contract.heartbeat, contract.command).

Always true: nobody is heard whose certificate was not checked for this very request; bodies are bounded while they
are read; a support bundle is taken only from the box that was told to send one, and never unpacked here.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Final

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.bodies import body_within
from central.fleet.commands import Commands
from central.fleet.correspondence import Correspondence
from central.fleet.support import SupportBundles
from contract.command import MAX_SUPPORT_BYTES, SUPPORT_PATH, CommandKind
from contract.heartbeat import HEARTBEAT_PATH, MAX_POST_BYTES, MAX_POST_LETTERS, Letter, Post
from contract.identifiers import InvalidIdentifierError, check_object_id
from contract.transfer import PROBLEM_CONTENT_TYPE, Problem, ProblemDetails

_GZIP: Final = b"\x1f\x8b"


class GatewayDesk:
    """The two routes.

    Parameters
    ----------
    gateway_of : whose request it is; raises what the listener turns into a refusal.
    """

    def __init__(
        self,
        gateway_of: Callable[[Request], Awaitable[str]],
        correspondence: Correspondence,
        commands: Commands,
        bundles: SupportBundles,
    ) -> None:
        self._gateway_of = gateway_of
        self._correspondence = correspondence
        self._commands = commands
        self._bundles = bundles

    def routes(self) -> list[BaseRoute]:
        return [
            Route(HEARTBEAT_PATH, self._heartbeat, methods=["POST"]),
            Route(SUPPORT_PATH + "/{command_id}", self._support, methods=["POST"]),
        ]

    async def _heartbeat(self, request: Request) -> Response:
        gateway_id = await self._gateway_of(request)
        body = await body_within(request, MAX_POST_BYTES)
        if body is None:
            return _problem(413, f"a request has at most {MAX_POST_BYTES} bytes")
        try:
            post = Post.model_validate_json(body)
        except ValidationError:
            return _problem(400, "the request is not one of contract.heartbeat")
        letters = [(letter.below, json.dumps(letter.payload).encode()) for letter in post.letters]
        downs = await run_in_threadpool(self._correspondence.hear_https, gateway_id, letters)
        said = tuple(Letter(below=down.below, payload=json.loads(down.payload)) for down in downs)
        answer = Post(letters=said[:MAX_POST_LETTERS])
        return Response(
            answer.model_dump_json(), media_type="application/json", headers={"Cache-Control": "no-store"}
        )

    async def _support(self, request: Request) -> Response:
        gateway_id = await self._gateway_of(request)
        try:
            command_id = check_object_id(request.path_params["command_id"])
        except InvalidIdentifierError:
            return _problem(404, "there is no such command")
        asked = await run_in_threadpool(
            self._commands.is_open, gateway_id, command_id, CommandKind.SUPPORT_BUNDLE
        )
        if not asked:
            return _problem(404, "this box was not asked for a support bundle by that command")
        body = await body_within(request, MAX_SUPPORT_BYTES)
        if body is None or not body.startswith(_GZIP):
            return _problem(413, f"a bundle is gzip and has at most {MAX_SUPPORT_BYTES} bytes")
        try:
            await run_in_threadpool(self._bundles.keep, gateway_id, command_id, body)
        except OSError:
            return _problem(507, "central cannot keep the bundle now; give the command again later")
        return JSONResponse({}, 201)


def _problem(status: int, detail: str) -> Response:
    details = ProblemDetails(
        type=Problem.STORAGE if status == 507 else Problem.INVALID,
        title="not taken",
        status=status,
        detail=detail,
    )
    return Response(details.model_dump_json(), status, media_type=PROBLEM_CONTENT_TYPE)
