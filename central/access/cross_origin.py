"""DICOMweb for viewers that live at another address, such as OHIF: cross-origin requests (Fetch, section 3.2).

What is always true: nothing is allowed unless the settings name the page's origin; then DICOMweb alone, and with a
bearer token alone. No answer allows credentials, so a browser that is signed in here lends its cookie to no other page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from central.access.headers import with_safe_headers

_FOLDER: Final = "/dicom-web/"
_PREFLIGHT_LIFE_S: Final = 600
_ASKED: Final = ("Accept", "Authorization", "Content-Type", "If-None-Match", "If-Range", "Range")
_ANSWERED: Final = ("Accept-Ranges", "Content-Length", "Content-Range", "ETag", "Warning", "WWW-Authenticate")


class CrossOrigin:
    """ASGI middleware, in front of `RequireSignIn`: a browser asks whether it may ask, and says no names with it."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._shared = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=_ASKED,
            expose_headers=_ANSWERED,
            max_age=_PREFLIGHT_LIFE_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(_FOLDER):
            await self._shared(scope, receive, with_safe_headers(send))
        else:
            await self._app(scope, receive, send)
