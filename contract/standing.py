"""How a box and central keep each other up to date between enrolments: keys, and whether the box is one box.

    POST /ingest/v1/standing   StandingReport → StandingAnswer          (client certificate)

The box says which key set it has and which former keys the objects on its disk still need; central answers the
newest set. The *ticket* changes with every exchange: two boxes that share one identity (a copied disk) cannot
both hold the current one, so central notices. Normative text: docs/formats/key-set.md, "The exchange".
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from contract.key_set import MAX_KEY_SET_CHARACTERS, MAX_KEYS

STANDING_PATH: Final = "/ingest/v1/standing"

KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Ticket = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class StandingReport(BaseModel):
    """What the box has. `ticket` is the one of the last answer; None before the first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_set_version: int = Field(ge=1, lt=1 << 53)
    needed_key_ids: tuple[KeyId, ...] = Field(
        max_length=MAX_KEYS,
        description="keys that open what the box holds or may yet seal, the newest among them",
    )
    ticket: Ticket | None = None


class StandingAnswer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    key_set: str = Field(max_length=MAX_KEY_SET_CHARACTERS)
    ticket: Ticket
    seen_twice: bool = Field(
        default=False, description="another box, or a copy of this one, has been here with this identity"
    )
