"""JSON Schemas of every message between box and fleet, made from the models that the programs use.

docs/formats/heartbeat/ holds them for those who write a reader of their own; a test compares.
`python -m contract.heartbeat_schemas DIRECTORY` writes them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from contract.command import Command, Desired, Heard, Reported
from contract.heartbeat import Equipment, Event, Info, Message, Post, Status, Telemetry
from contract.witness import Witness, Witnessed

VERSION: Final = 1
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
MESSAGES: Final[Mapping[str, type[Message]]] = {
    "up-status": Status,
    "up-info": Info,
    "up-telemetry": Telemetry,
    "up-equipment": Equipment,
    "up-reported": Reported,
    "up-witnessed": Witnessed,
    "up-event": Event,
    "down-heard": Heard,
    "down-witness": Witness,
    "down-desired": Desired,
    "down-command": Command,
    "https-post": Post,
}


def schema(name: str) -> dict[str, Any]:
    """The schema of one of `MESSAGES`. Members it does not name are allowed: readers ignore them."""
    identity = {"$schema": DIALECT, "$id": f"urn:dicomnet:schema:heartbeat:{VERSION}:{name}"}
    return {**identity, **MESSAGES[name].model_json_schema()}


def schema_text(name: str) -> str:
    return json.dumps(schema(name), indent=2, ensure_ascii=False) + "\n"


def write_schemas(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name in MESSAGES:
        (directory / f"{name}.json").write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
