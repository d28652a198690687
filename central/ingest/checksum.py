"""The checksum that a request may carry for its body: tus 1.0.0's checksum extension.

Always true: it is judged over a body that came to its end. What a cut request brought is kept without one: the seal of
each object says at the end whether its bytes are the right ones.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from starlette.requests import Request

from central.ingest.errors import RequestRefusedError
from contract.transfer import CHECKSUM_HEADER, Problem

ALGORITHMS: Final = ("sha1", "sha256")
"""What ``Upload-Checksum`` may name. SHA-1 is the one that the extension demands; against accidents it will do."""


class Checksum:
    """What the body of one request should be, and what came of it so far."""

    def __init__(self, algorithm: str, expected: bytes) -> None:
        self._expected = expected
        self._digest = hashlib.new(algorithm, usedforsecurity=False)

    @classmethod
    def announced(cls, request: Request) -> Checksum | None:
        """The one in ``Upload-Checksum: <algorithm> <base64>``, if there is one.

        Raises
        ------
        RequestRefusedError (INVALID) : it is malformed, or of another algorithm.
        """
        text = request.headers.get(CHECKSUM_HEADER)
        if text is None:
            return None
        algorithm, _, value = text.partition(" ")
        if algorithm not in ALGORITHMS:
            raise RequestRefusedError(
                Problem.INVALID, f"{CHECKSUM_HEADER} takes {' or '.join(ALGORITHMS)}, then base64"
            )
        try:
            return cls(algorithm, base64.b64decode(value, validate=True))
        except binascii.Error as error:
            raise RequestRefusedError(Problem.INVALID, f"{CHECKSUM_HEADER} is not base64") from error

    def update(self, piece: bytes) -> None:
        self._digest.update(piece)

    @property
    def fits(self) -> bool:
        return self._digest.digest() == self._expected
