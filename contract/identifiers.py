"""Names that cross the wire: UIDs, AE titles, object and gateway ids, and how each is checked.

A value that passed one of these checks is safe in a URL segment, an MQTT topic level and a log line.
No identifier that came from outside is ever used as a file name, checked or not: files are named by
object ids (ours) and by content hashes.
"""

from __future__ import annotations

import re
import secrets
from typing import NewType

from contract.errors import PermanentError

ObjectId = NewType("ObjectId", str)
"""32 lower-case hexadecimal digits: 128 random bits, given by the box when reception begins."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_OBJECT_ID = re.compile(r"[0-9a-f]{32}")
_GATEWAY_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")

UID_MAX_LENGTH = 64
AE_TITLE_MAX_LENGTH = 16


class InvalidIdentifierError(PermanentError):
    """A value that claims to be an identifier is not one.

    Attributes
    ----------
    kind : what it should have been, such as ``SOP Instance UID``.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(f"{kind} {why}")
        self.kind = kind


def check_uid(value: str, kind: str = "UID") -> str:
    """Return `value` if it is built of digits and dots and at most 64 long (PS3.5 section 9).

    Leading zeros in a component are against PS3.5 but sent by real equipment; they are let through
    unchanged, because changing a UID would change the image.
    """
    if not value:
        raise InvalidIdentifierError(kind, "is missing")
    if len(value) > UID_MAX_LENGTH:
        raise InvalidIdentifierError(kind, f"is longer than {UID_MAX_LENGTH} characters")
    if not _UID.fullmatch(value):
        raise InvalidIdentifierError(kind, "has characters other than digits and dots")
    return value


def is_uid(value: str) -> bool:
    """Whether `check_uid` would return it."""
    try:
        check_uid(value)
    except InvalidIdentifierError:
        return False
    return True


def check_ae_title(value: str, kind: str = "AE title") -> str:
    """Return `value` without its padding if it is a usable AE title (PS3.5 section 6.2, VR AE)."""
    stripped = value.strip(" ")
    if not 1 <= len(stripped) <= AE_TITLE_MAX_LENGTH:
        raise InvalidIdentifierError(kind, f"must have 1 to {AE_TITLE_MAX_LENGTH} characters")
    if any(not 0x20 <= ord(char) <= 0x7E or char == "\\" for char in stripped):
        raise InvalidIdentifierError(kind, "may hold printable ASCII only, and no backslash")
    return stripped


def new_object_id() -> ObjectId:
    return ObjectId(secrets.token_hex(16))


def check_object_id(value: str) -> ObjectId:
    if not _OBJECT_ID.fullmatch(value):
        raise InvalidIdentifierError("object id", "must be 32 lower-case hexadecimal digits")
    return ObjectId(value)


def check_gateway_id(value: str) -> str:
    """A gateway id is also a certificate's common name, an MQTT client id and a topic level."""
    if not _GATEWAY_ID.fullmatch(value):
        raise InvalidIdentifierError(
            "gateway id", "must be 1 to 32 of a-z, 0-9 and '-', with no '-' at either end"
        )
    return value


def check_sha256(value: str) -> str:
    if not _SHA256.fullmatch(value):
        raise InvalidIdentifierError("SHA-256", "must be 64 lower-case hexadecimal digits")
    return value
