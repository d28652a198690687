"""Refusals of a DICOMweb request, each with the HTTP status it becomes at the border (PS3.18 section 8.5).

The text of an error is for the client: it tells nothing about studies that the caller may not see. Everything
here is permanent (the same request gets the same answer) except `UnavailableError` and `TooSlowError`.
"""

from __future__ import annotations

from typing import ClassVar


class DicomwebError(Exception):
    """Root of this room's errors.

    Attributes
    ----------
    status : HTTP status of the answer.
    headers : further headers of the answer.
    """

    status: ClassVar[int] = 500
    headers: ClassVar[dict[str, str]] = {}


class BadRequestError(DicomwebError):
    """A UID, a parameter or a frame number is malformed."""

    status = 400


class ForbiddenError(DicomwebError):
    """The caller's role may not do this at all, whatever is here."""

    status = 403


class TooLargeError(DicomwebError):
    """The request holds more than one request may."""

    status = 413


class UnsupportedMediaTypeError(DicomwebError):
    """The request's body is of a type, or in a coding, that is not taken."""

    status = 415


class TooSlowError(DicomwebError):
    """Transient: nothing of the body came for too long."""

    status = 408


class NotHereError(DicomwebError):
    """It does not exist, or the caller may not see it; the two are not told apart."""

    status = 404

    def __init__(self) -> None:
        super().__init__("this is not here, or you may not see it")


class NotAcceptableError(DicomwebError):
    """It exists, but not in a form that the Accept header allows."""

    status = 406


class NotAnImageError(DicomwebError):
    """The instance has no pixel data, or none that can be taken apart or drawn; the text says which."""

    status = 406


class UnavailableError(DicomwebError):
    """Transient: it cannot be answered now, for instance because the look cannot be recorded."""

    status = 503
    headers: ClassVar[dict[str, str]] = {"Retry-After": "10"}
