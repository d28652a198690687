"""Serves the built viewer under ``/viewer/``.

The page is program, not data: it holds nothing about any patient and is public by design. What it shows, it
fetches itself from ``/dicom-web`` with the session of the person at the screen, and every such request is decided
and recorded there.

Always true: each answer carries the content security policy below, so that a script hidden in a data set has
nothing to run in even if it ever reached the page's markup; files under ``assets/`` are named by their content and
never change, the page that names them is asked for anew each time.
"""

from __future__ import annotations

from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The decoders are WebAssembly in workers; the image library sets inline styles on its own elements; pixels
#: become pictures through blob: and data: addresses. Nothing else is allowed, and nothing from elsewhere.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; connect-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; object-src 'none'; form-action 'self'"
)

_IMMUTABLE = "public, max-age=31536000, immutable"

_NOT_BUILT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Viewer not built</title>
<h1>The viewer is not built</h1>
<p>Run <code>make viewer</code> where central is installed, then reload this page.</p>
</html>
"""


def routes(dist: Path) -> list[BaseRoute]:
    """Build the routes of the viewer.

    Parameters
    ----------
    dist
        The folder the viewer was built into. Looked at on each request: a viewer that is built while central
        runs is there on the next reload.

    Returns
    -------
    list of BaseRoute
        ``/viewer`` (redirects to the page) and ``/viewer/`` with everything below it.
    """

    def to_page(request: Request) -> Response:
        return RedirectResponse(request.url.replace(path="/viewer/"), status_code=308)

    files = GZipMiddleware(_BuiltFiles(dist), minimum_size=1024)
    return [
        Route("/viewer", to_page, methods=["GET"]),
        Mount("/viewer", app=_Guarded(ExceptionMiddleware(files))),
    ]


class _BuiltFiles:
    """The files of one build, or a plain answer that there is none."""

    def __init__(self, dist: Path) -> None:
        self._page = dist / "index.html"
        self._files = StaticFiles(directory=dist, html=True, check_dir=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._page.is_file():
            await self._files(scope, receive, send)
        else:
            await HTMLResponse(_NOT_BUILT, status_code=503)(scope, receive, send)


class _Guarded:
    """Puts the headers on every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                found = message["status"] in (200, 304)
                hashed = scope["path"].startswith("/viewer/assets/")
                headers["Cache-Control"] = _IMMUTABLE if found and hashed else "no-cache"
            await send(message)

        await self._app(scope, receive, send_guarded)
