"""Refusals on the gateways' routes: each a problem of the contract, split by whether the same bytes may pass later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from contract.transfer import Problem

STATUS: Final[Mapping[Problem, int]] = {
    Problem.TAMPERED: 422,
    Problem.UNKNOWN_KEY: 422,
    Problem.NOT_DICOM: 422,
    Problem.TOO_LARGE: 413,
    Problem.ERASED: 410,
    Problem.PACK: 422,
    Problem.OFFSET_MISMATCH: 409,
    Problem.CHECKSUM: 460,  # tus's own
    Problem.NO_SUCH_UPLOAD: 404,
    Problem.CERTIFICATE: 403,
    Problem.PAIRING: 403,
    Problem.INVALID: 400,
    Problem.STORAGE: 507,
    Problem.QUOTA: 429,
    Problem.UNAVAILABLE: 503,
}


class IngestError(Exception):
    """Root of this room's errors.

    Attributes
    ----------
    problem : the `type` that the box is told.
    detail : a sentence for the box's log; nothing an attacker could use.
    headers : that belong to the answer, such as the offset to go on from.
    """

    def __init__(self, problem: Problem, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """HTTP status that goes with the problem."""
        return STATUS[self.problem]


class ObjectRefusedError(IngestError):
    """Permanent: these bytes will be refused again."""


class RequestRefusedError(IngestError):
    """The request is not one, or does not fit the state of the upload; another one may."""


class TryAgainError(IngestError):
    """Transient: nothing is wrong with the bytes; later the same request may succeed."""
