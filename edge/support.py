"""What a box tells support about itself when an administrator asks: one gzip-compressed JSON document.

Always true: no image, no key, no patient's name: status, queue, scanners, settings and the last lines of the log,
which are free of patient data by the same rule as everything that is logged. At most `MAX_SUPPORT_BYTES`: the
oldest lines go first.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections import deque
from collections.abc import Mapping
from typing import Final

import httpx
from pydantic import BaseModel

from contract.command import MAX_SUPPORT_BYTES, SUPPORT_PATH
from edge.logs import FieldFormatter
from edge.uplink.client import line_errors, open_client, read_bounded
from edge.uplink.commands import CommandFailedError
from edge.uplink.errors import UplinkTransientError
from edge.uplink.identity import Identity
from edge.uplink.refusals import read_refusal

MAX_LINES: Final = 2000
MAX_LINE_CHARACTERS: Final = 2000
_TIMEOUT_S: Final = 30.0


class RecentLog(logging.Handler):
    """The last `MAX_LINES` lines of the log, in memory only."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(FieldFormatter())
        self._lines: deque[str] = deque(maxlen=MAX_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record)[:MAX_LINE_CHARACTERS])
        except Exception:
            self.handleError(record)

    def lines(self) -> list[str]:
        self.acquire()
        try:
            return list(self._lines)
        finally:
            self.release()


def bundle(parts: Mapping[str, BaseModel | object], lines: list[str]) -> bytes:
    """The document, compressed."""
    said = {
        name: part.model_dump(mode="json") if isinstance(part, BaseModel) else part
        for name, part in parts.items()
    }
    while True:
        document = json.dumps({**said, "log": lines}, indent=1).encode()
        packed = gzip.compress(document, mtime=0)
        if len(packed) <= MAX_SUPPORT_BYTES or not lines:
            return packed
        lines = lines[len(lines) // 2 + 1 :]


def send(identity: Identity, command_id: str, packed: bytes) -> None:
    """Deliver a bundle over the upload connection.

    Raises
    ------
    CommandFailedError : it did not arrive; the text says why.
    """
    client = open_client(identity.central_url, identity.tls_context(), timeout_s=_TIMEOUT_S, connections=1)
    try:
        with (
            line_errors(identity.central_url),
            client.stream(
                "POST",
                f"{SUPPORT_PATH}/{command_id}",
                content=packed,
                headers={"Content-Type": "application/gzip"},
            ) as response,
        ):
            answer, status = read_bounded(response), response.status_code
    except UplinkTransientError as error:
        raise CommandFailedError(str(error)) from error
    finally:
        client.close()
    if status not in (httpx.codes.OK, httpx.codes.CREATED):
        raise CommandFailedError(read_refusal(status, answer).sentence)
