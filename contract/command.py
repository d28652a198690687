"""What central says to a box: what it heard, how the box should be set, and what it should do now.

    dicomnet/v1/<gateway id>/down/heard      after each event: what need not be said again
    dicomnet/v1/<gateway id>/down/desired    retained: settings by version, answered by ``up/reported``
    dicomnet/v1/<gateway id>/down/command    one thing to do before it expires, answered by an event of kind `command`

The broker's ACL lets central alone write there, and a box listens over mutual TLS only. A command is never retained,
lives `MAX_COMMAND_LIFE_S` at most by central's clock, and is carried out once however often it arrives.
docs/formats/heartbeat.md.
"""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Final

from pydantic import AwareDatetime, Field

from contract.heartbeat import Hex16, Message

HEARD: Final = "heard"
DESIRED: Final = "desired"
COMMAND: Final = "command"

MAX_COMMAND_LIFE_S: Final = 900.0
MAX_SETTINGS: Final = 16
SUPPORT_PATH: Final = "/ingest/v1/support"  # POST <path>/<command id>: gzip, with the box's certificate
MAX_SUPPORT_BYTES: Final = 2 << 20


class EventMark(Message):
    """Every event of `stream` up to number `through` is kept at central."""

    stream: Hex16
    through: int = Field(ge=0)


class Heard(Message):
    """`events`: kept at central from now on. `twin`: another box uses this identity, too; False without `events`: none
    does any more."""

    events: EventMark | None = None
    twin: bool = False


SettingValue = str | int | float | bool


class Desired(Message):
    version: int = Field(ge=1)
    settings: dict[str, SettingValue] = Field(max_length=MAX_SETTINGS)


class Reported(Message):
    """The settings in force, the newest version looked at, and what of it was refused and why."""

    version: int = Field(ge=0, description="0: none was ever desired")
    settings: dict[str, SettingValue] = Field(max_length=MAX_SETTINGS)
    refused: dict[str, str] = Field(default_factory=dict, max_length=MAX_SETTINGS)


class CommandKind(StrEnum):
    """`PRIORITISE` takes `study_instance_uid` and perhaps `priority` (a word of contract.priority; without it: first),
    `ECHO` the `ae_title` of a configured scanner; the others nothing."""

    PAUSE = "pause"
    RESUME = "resume"
    PRIORITISE = "prioritise"
    ECHO = "echo"
    SUPPORT_BUNDLE = "support-bundle"


class Command(Message):
    """`id` correlates the answer. `kind` is text, so that a box can refuse what a newer central asks."""

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    kind: str = Field(max_length=32)
    issued_at_utc: AwareDatetime
    expires_at_utc: AwareDatetime
    params: dict[str, str] = Field(default_factory=dict, max_length=4)


def new_command_id() -> str:
    """128 random bits as 32 hex digits."""
    return secrets.token_hex(16)
