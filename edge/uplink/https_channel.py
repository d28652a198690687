"""The same heartbeats over the upload connection, where only HTTPS leaves the building.

One POST carries what there is to say, its answer what central has to say: the box asks, so a command waits for the
next beat. Always true: one request at a time, bounded both ways; it proves its sender by the box's certificate,
as an upload does. Nothing is durable here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import httpx
from pydantic import ValidationError

from contract.heartbeat import HEARTBEAT_PATH, MAX_POST_BYTES, MAX_POST_LETTERS, Letter, Post
from edge.uplink.client import line_errors, open_client, read_bounded
from edge.uplink.errors import UplinkTransientError
from edge.uplink.identity import Identity
from edge.uplink.refusals import read_refusal
from edge.uplink.speech import Saying

_log = logging.getLogger(__name__)


class HttpsChannel:
    """Not thread-safe: one thread beats.

    Parameters
    ----------
    timeout_s : for each connect, send and wait for bytes.
    """

    def __init__(self, identity: Identity, *, timeout_s: float) -> None:
        self._central = identity.central_url
        self._client: httpx.Client = open_client(
            identity.central_url, identity.tls_context(), timeout_s=timeout_s, connections=1
        )

    def post(self, sayings: Sequence[Saying]) -> list[tuple[str, bytes]]:
        """Say as much as one request takes, beginning with the first; what central answers, by topic below ``down/``.

        Raises
        ------
        UplinkTransientError : with the sentence for the technician; nothing may be taken as said.
        """
        letters = [Letter(below=saying.below, payload=json.loads(saying.payload)) for saying in sayings]
        body = Post(letters=tuple(letters)).model_dump_json().encode()
        with (
            line_errors(self._central),
            self._client.stream(
                "POST", HEARTBEAT_PATH, content=body, headers={"Content-Type": "application/json"}
            ) as response,
        ):
            answer = read_bounded(response, MAX_POST_BYTES)
            status = response.status_code
        if status != httpx.codes.OK:
            raise UplinkTransientError(read_refusal(status, answer).sentence)
        try:
            heard = Post.model_validate_json(answer)
        except ValidationError as error:
            raise UplinkTransientError("central's answer to a heartbeat makes no sense") from error
        return [(letter.below, json.dumps(letter.payload).encode()) for letter in heard.letters]

    def close(self) -> None:
        self._client.close()


def first_post(sayings: Sequence[Saying]) -> list[Saying]:
    """As many of `sayings` as one request takes, in order."""
    room, taken = MAX_POST_BYTES - 1024, []
    for saying in sayings[:MAX_POST_LETTERS]:
        room -= len(saying.payload) + len(saying.below) + 64
        if room < 0:
            break
        taken.append(saying)
    return taken
