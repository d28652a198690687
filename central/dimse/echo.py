"""C-ECHO (PS3.4 Annex A): carries no data, so everybody gets an answer."""

from __future__ import annotations

from central.dimse.association import SUCCESS, Request


class Echo:
    """Serves C-ECHO."""

    def serve(self, request: Request) -> None:
        request.respond(SUCCESS)
