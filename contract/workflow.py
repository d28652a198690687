"""What a box and central say to each other about work: the worklist down, performed procedure steps up.

    GET  /workflow/v1/worklist?horizon_days=N     → 200 Worklist with an ETag; 304 for If-None-Match
    POST /workflow/v1/performed-procedures        PerformedProcedureMessage → 204, also for a repetition

Over the gateways' listener, with the box's client certificate. Data sets travel as the bytes they are, in base64: no
character set and no private element changes on the way. Refusals are problem details of contract.transfer.
Normative text: docs/formats/workflow.md.
"""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Base64Encoder, BaseModel, ConfigDict, EncodedBytes, Field
from pydantic_core import PydanticCustomError

WORKLIST_PATH: Final = "/workflow/v1/worklist"
PERFORMED_PROCEDURES_PATH: Final = "/workflow/v1/performed-procedures"
HORIZON_PARAMETER: Final = "horizon_days"
MAX_HORIZON_DAYS: Final = 60
MAX_WORKLIST_ITEMS: Final = 2_000
MAX_WORKLIST_ITEM_BYTES: Final = 65_536
MAX_WORKLIST_BYTES: Final = 8 << 20
"""Of all data sets together; as JSON a worklist is at most `MAX_WORKLIST_JSON_BYTES`."""
MAX_WORKLIST_JSON_BYTES: Final = 12 << 20
MAX_MESSAGE_JSON_BYTES: Final = 3 << 20
"""A data set of 2 MiB in base64, and what stands around it."""

_UID = r"^[0-9]+(\.[0-9]+)*$"


class _StrictBase64(Base64Encoder):
    """pydantic's own passes over characters that are not base64; a data set must be what was sent."""

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise PydanticCustomError("base64_decode", "this is not base64") from error


DataSetBytes = Annotated[bytes, EncodedBytes(encoder=_StrictBase64)]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ScheduledItem(_Shape):
    """One scheduled procedure step (PS3.4 Table K.6-1)."""

    transfer_syntax_uid: str = Field(pattern=_UID, max_length=64)
    data_set: DataSetBytes = Field(max_length=2 * MAX_WORKLIST_ITEM_BYTES)


class Worklist(_Shape):
    """Everything that is scheduled for one box, from yesterday to the horizon, by its start.

    `more` says that the list was cut at its end, since there is more than a worklist may hold.
    """

    format: Literal[1] = 1
    items: list[ScheduledItem] = Field(max_length=MAX_WORKLIST_ITEMS)
    more: bool = False


class Operation(StrEnum):
    """The DIMSE service by which the modality said it (PS3.4 section F.7)."""

    CREATE = "create"
    SET = "set"


class StepStatus(StrEnum):
    """Performed Procedure Step Status (0040,0252)."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class PerformedProcedureMessage(_Shape):
    """One N-CREATE or N-SET as the modality sent it.

    Attributes
    ----------
    number : 0 for the N-CREATE, then counting up: with the SOP Instance UID it names the message for good.
    """

    format: Literal[1] = 1
    sop_instance_uid: str = Field(pattern=_UID, max_length=64)
    number: int = Field(ge=0, lt=1 << 31)
    operation: Operation
    calling_ae_title: str = Field(min_length=1, max_length=16)
    received_at_utc: AwareDatetime
    transfer_syntax_uid: str = Field(pattern=_UID, max_length=64)
    data_set: DataSetBytes
