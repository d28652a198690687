"""The workflow's line to central: the worklist down, performed procedure steps up (contract.workflow).

Always true: messages about steps go one at a time in the order in which modalities said them, each until central
has it; only what central calls unusable for good is put aside, kept, and never in the way of the next. A lost answer
costs a repetition, which central recognizes. Without an identity, or without the line, both just wait.
"""

from __future__ import annotations

import base64
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import httpx
from pydantic import ValidationError

from contract.transfer import Problem
from contract.workflow import (
    HORIZON_PARAMETER,
    MAX_WORKLIST_JSON_BYTES,
    PERFORMED_PROCEDURES_PATH,
    WORKLIST_PATH,
    PerformedProcedureMessage,
    Worklist,
)
from edge.buffer.errors import SpoolError
from edge.buffer.performed_procedures import PerformedProcedures, WaitingMessage
from edge.buffer.worklist_cache import WorklistItem
from edge.buffer.worklist_refresh import Fetched, WorklistSourceError
from edge.uplink.client import exchange, line_errors, open_client, refused
from edge.uplink.errors import CentralUnreachableError, UplinkPermanentError, UplinkTransientError
from edge.uplink.identity import Identity
from edge.uplink.line import backoff_s
from edge.uplink.refusals import read_refusal

_log = logging.getLogger(__name__)

_UNUSABLE: Final = frozenset({Problem.NOT_DICOM, Problem.TOO_LARGE})
_MORE: Final = "central has more scheduled than this box keeps: what starts last is not here"


class MessageRefusedError(UplinkPermanentError):
    """Central will refuse this message about a step whenever it comes."""


@dataclass(frozen=True)
class _Route:
    central: str
    client: httpx.Client


class CentralWorkflow:
    """Safe from any thread. Receives its identity later if the box is not enrolled yet.

    Parameters
    ----------
    horizon_days : how far ahead the worklist goes.
    timeout_s : for each connect, send and wait for bytes.
    """

    def __init__(self, *, horizon_days: int, timeout_s: float) -> None:
        self._worklist_path = f"{WORKLIST_PATH}?{HORIZON_PARAMETER}={horizon_days}"
        self._timeout_s = timeout_s
        self._route: _Route | None = None

    def use(self, identity: Identity) -> None:
        """Speak as `identity` from now on. The former client's sockets go with its last user."""
        client = open_client(
            identity.central_url, identity.tls_context(), timeout_s=self._timeout_s, connections=2
        )
        self._route = _Route(identity.central_url, client)

    def close(self) -> None:
        route, self._route = self._route, None
        if route is not None:
            route.client.close()

    def fetch(self, known_version: str) -> Fetched | None:
        """This box's worklist; None if `known_version` is still the newest.

        Raises
        ------
        WorklistSourceError : with a sentence for the technician.
        """
        try:
            return self._fetch(known_version)
        except UplinkTransientError as error:
            raise WorklistSourceError(str(error)) from error

    def send(self, message: WaitingMessage) -> None:
        """Hand a message about a step to central, which has it durably when this returns.

        Raises
        ------
        MessageRefusedError : never again.
        UplinkTransientError : later.
        """
        shape = PerformedProcedureMessage(
            sop_instance_uid=message.sop_instance_uid,
            number=message.number,
            operation=message.operation,
            calling_ae_title=message.calling_ae_title,
            received_at_utc=message.received_at_utc,
            transfer_syntax_uid=message.transfer_syntax_uid,
            data_set=base64.b64encode(message.data_set),
        )
        route = self._current()
        with line_errors(route.central):
            status, _, body = exchange(
                route.client,
                "POST",
                PERFORMED_PROCEDURES_PATH,
                content=shape.model_dump_json(),
                headers={"Content-Type": "application/json"},
            )
        if status == httpx.codes.NO_CONTENT:
            return
        refusal = read_refusal(status, body)
        if refusal.problem in _UNUSABLE:
            raise MessageRefusedError(refusal.sentence)
        raise refused(status, body)

    def _fetch(self, known_version: str) -> Fetched | None:
        route = self._current()
        headers = {"If-None-Match": known_version} if known_version else {}
        with line_errors(route.central):
            status, answered, body = exchange(
                route.client, "GET", self._worklist_path, MAX_WORKLIST_JSON_BYTES + 1, headers=headers
            )
        if status == httpx.codes.NOT_MODIFIED:
            return None
        if status != httpx.codes.OK:
            raise refused(status, body)
        try:
            worklist = Worklist.model_validate_json(body)
        except ValidationError:
            # Not chained: pydantic quotes the patients' data that it could not read.
            raise UplinkTransientError(
                f"{route.central} sends a worklist that this box cannot read"
            ) from None
        items = [WorklistItem(item.data_set, item.transfer_syntax_uid) for item in worklist.items]
        return Fetched(items, answered.get("ETag", ""), _MORE if worklist.more else "")

    def _current(self) -> _Route:
        route = self._route
        if route is None:
            raise CentralUnreachableError("this box is not enrolled at central yet")
        return route


class ProcedureRelay:
    """One thread that hands messages about steps to central, from `start` to `stop`.

    Parameters
    ----------
    ceiling_s : the longest wait between two attempts.
    """

    def __init__(
        self,
        procedures: PerformedProcedures,
        send: Callable[[WaitingMessage], None],
        *,
        ceiling_s: float,
    ) -> None:
        self._procedures = procedures
        self._send = send
        self._ceiling_s = ceiling_s
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="procedure-relay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Begin no further attempt; one under way gets `timeout_s`, and what it achieves may be repeated."""
        self._stopping.set()
        self._hurry.set()
        self._procedures.wake()
        self._thread.join(timeout_s)

    def try_now(self) -> None:
        """Something suggests that the line works again."""
        self._hurry.set()

    def _run(self) -> None:
        failures, seen = 0, 0
        while not self._stopping.is_set():
            try:
                message = self._procedures.next_waiting()
                if message is None:
                    seen = self._procedures.wait_for_news(seen, None)
                    continue
                self._deliver(message)
                failures = 0
            except (UplinkTransientError, SpoolError) as error:
                self._pause(failures, str(error))
                failures += 1
            except Exception as error:
                # A fault of ours must not end the thread; its text may quote the message.
                self._pause(failures, f"unexpected {type(error).__name__}")
                failures += 1

    def _pause(self, failures: int, reason: str) -> None:
        if self._stopping.is_set():
            return
        if not failures:  # once for each outage
            _log.warning("procedure steps wait for central", extra={"reason": reason})
        self._hurry.wait(backoff_s(failures, self._ceiling_s, random.uniform))
        self._hurry.clear()

    def _deliver(self, message: WaitingMessage) -> None:
        fields = {"sop_instance_uid": message.sop_instance_uid, "number": message.number}
        try:
            self._send(message)
        except MessageRefusedError as error:
            _log.error(
                "central refuses a message about a procedure step", extra={**fields, "reason": str(error)}
            )
            self._procedures.refuse(message.sequence, str(error))
        else:
            self._procedures.delivered(message.sequence)
            _log.info("procedure step relayed", extra=fields)
