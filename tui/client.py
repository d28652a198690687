"""Asks the box through its control socket: one connection a question, so there is nothing to reconnect.

Always true: a question ends within its timeout, whatever the box does, and never blocks the event loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from contract.control import (
    MAX_LINE_BYTES,
    Answer,
    BoxStatus,
    CallerParams,
    EchoAnswer,
    EchoParams,
    EnrolParams,
    PriorityParams,
    QueueList,
    ScannerEntry,
    ScannerList,
    StudyList,
)

TIMEOUT_S: Final = 5.0
LONG_TIMEOUT_S: Final = 60.0  # a C-ECHO or an enrolment waits for somebody else

Shape = TypeVar("Shape", bound=BaseModel)


class BoxError(Exception):
    """Root of what a question can end in; the text is for a person."""


class BoxAwayError(BoxError):
    """Nobody answers: the box is stopped, or starting."""


class BoxRefusedError(BoxError):
    """The box answered that it cannot."""


class BoxClient:
    """The box behind one socket path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def status(self) -> BoxStatus:
        return await self._ask("status", {}, BoxStatus)

    async def queue(self) -> QueueList:
        return await self._ask("queue", {}, QueueList)

    async def prioritise(self, study_instance_uid: str, priority: str) -> QueueList:
        params = PriorityParams(study_instance_uid=study_instance_uid, priority=priority)
        return await self._ask("prioritise", params.model_dump(), QueueList)

    async def pause(self, *, paused: bool) -> BoxStatus:
        """Stop sending to centrals, or go on."""
        return await self._ask("pause" if paused else "resume", {}, BoxStatus)

    async def scanners(self) -> ScannerList:
        return await self._ask("scanners", {}, ScannerList)

    async def studies(self) -> StudyList:
        return await self._ask("studies", {}, StudyList)

    async def echo(self, params: EchoParams) -> EchoAnswer:
        return await self._ask("echo", params.model_dump(), EchoAnswer, LONG_TIMEOUT_S)

    async def enrol(self, pairing: str, central: str) -> BoxStatus:
        params = EnrolParams(pairing=pairing, central=central)
        return await self._ask("enrol", params.model_dump(), BoxStatus, LONG_TIMEOUT_S)

    async def requeue(self, object_id: str, destination: str) -> QueueList:
        return await self._ask("requeue", {"object_id": object_id, "destination": destination}, QueueList)

    async def decide(self, method: str, caller: CallerParams) -> ScannerList:
        """`method`: approve, refuse or remove_scanner."""
        return await self._ask(method, caller.model_dump(), ScannerList)

    async def save_scanner(self, entry: ScannerEntry) -> ScannerList:
        return await self._ask("save_scanner", entry.model_dump(), ScannerList)

    async def _ask(
        self, method: str, params: Mapping[str, object], shape: type[Shape], timeout_s: float = TIMEOUT_S
    ) -> Shape:
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._exchange(json.dumps({"method": method, "params": dict(params)}))
        except TimeoutError as error:
            raise BoxAwayError(f"the box did not answer within {timeout_s:.0f} s") from error
        except (OSError, ValueError) as error:  # ValueError: a line beyond the limit
            reason = error.strerror if isinstance(error, OSError) else None
            raise BoxAwayError(f"no box answers on {self.path} ({reason or error})") from error
        try:
            answer = Answer.model_validate_json(line)
            if answer.result is not None:
                return shape.model_validate(answer.result)
        except ValidationError as error:
            raise BoxAwayError(f"what answers on {self.path} is not a box of this version") from error
        raise BoxRefusedError(answer.error or "the box gave no reason")

    async def _exchange(self, line: str) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self.path), limit=MAX_LINE_BYTES + 1)
        try:
            writer.write(line.encode() + b"\n")
            await writer.drain()
            return await reader.readline()
        finally:
            writer.close()
