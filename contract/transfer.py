"""How a sealed object crosses: tus 1.0.0 over HTTPS with a client certificate, with the extensions of `TUS_EXTENSIONS`.

    POST  /ingest/v1/uploads                create, with the first bytes in the body → 201, Location, Upload-Offset
    HEAD  /ingest/v1/uploads/{object_id}    how far are we → 200, Upload-Offset, Upload-Length
    PATCH /ingest/v1/uploads/{object_id}    bytes from Upload-Offset on → 204, Upload-Offset

An offset is answered only after those bytes are fsynced at central. The answer that completes an object, and
every HEAD after it, carries the signed receipt in `RECEIPT_HEADER`; creating an object that is already archived
answers 201 with offset = length and the receipt, so a lost answer costs nothing. Refusals are problem details
(RFC 9457) whose `type` is one of `Problem`. Packs of small objects (contract.pack) go the same way below
`PACKS_PATH`, and a GET there tells the fate of each object. Normative text: docs/formats/transfer.md.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

TUS_VERSION: Final = "1.0.0"
TUS_EXTENSIONS: Final = "creation,creation-with-upload,expiration,checksum"
CHECKSUM_HEADER: Final = "Upload-Checksum"
UPLOADS_PATH: Final = "/ingest/v1/uploads"
PACKS_PATH: Final = "/ingest/v1/packs"
TIME_PATH: Final = "/ingest/v1/time"
RECEIPT_HEADER: Final = "Dicomnet-Receipt"
OBJECT_ID_METADATA: Final = "object_id"  # the one key in Upload-Metadata
PACK_ID_METADATA: Final = "pack_id"
PATCH_CONTENT_TYPE: Final = "application/offset+octet-stream"
PROBLEM_CONTENT_TYPE: Final = "application/problem+json"
CHUNK_BYTES: Final = 8 << 20  # the most a cut line can cost


class Problem(StrEnum):
    """`type` of a problem answer on the gateway's routes; whether trying again helps is in `PERMANENT`."""

    TAMPERED = "urn:dicomnet:problem:object-tampered"  # does not verify: sent anew from zero, then set aside
    UNKNOWN_KEY = "urn:dicomnet:problem:unknown-sealing-key"
    NOT_DICOM = "urn:dicomnet:problem:not-dicom"
    TOO_LARGE = "urn:dicomnet:problem:too-large"
    ERASED = "urn:dicomnet:problem:study-erased"  # an administrator erased its study: a person decides
    PACK = "urn:dicomnet:problem:malformed-pack"  # 422: its objects are sent one by one
    OFFSET_MISMATCH = "urn:dicomnet:problem:offset-mismatch"  # 409: ask HEAD and go on from there
    CHECKSUM = "urn:dicomnet:problem:checksum-mismatch"  # 460: ask HEAD and go on from there
    NO_SUCH_UPLOAD = "urn:dicomnet:problem:no-such-upload"  # 404: create it again
    CERTIFICATE = "urn:dicomnet:problem:certificate"  # 401/403: missing, foreign, expired or revoked
    PAIRING = "urn:dicomnet:problem:pairing"  # 403: the pairing string is wrong, used or expired
    INVALID = "urn:dicomnet:problem:invalid-request"
    STORAGE = "urn:dicomnet:problem:storage"  # 507: central's disk; later
    QUOTA = "urn:dicomnet:problem:quota"  # 429: this gateway has brought its share of the day; later
    UNAVAILABLE = "urn:dicomnet:problem:unavailable"


PERMANENT: Final = frozenset(
    {Problem.TAMPERED, Problem.UNKNOWN_KEY, Problem.NOT_DICOM, Problem.TOO_LARGE, Problem.ERASED}
)
"""Refusals of the object itself. Everything else is about the line, the box or central, and is tried again."""


class ProblemDetails(BaseModel):
    """RFC 9457. `detail` says what happened and what to do next, and nothing an attacker could use."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: str
    title: str
    status: int
    detail: str = Field(default="")
