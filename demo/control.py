"""Asks the running gateway how it is, over its control socket (contract/control.py)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from contract.control import MAX_LINE_BYTES, Answer, BoxStatus, Request
from demo.processes import DemoError


async def gateway_status(control_socket: Path) -> BoxStatus:
    """The gateway's own view of itself.

    Raises
    ------
    DemoError : it does not answer, or answers with a fault.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(control_socket), limit=MAX_LINE_BYTES)
        try:
            writer.write(Request(method="status").model_dump_json().encode() + b"\n")
            line = await reader.readline()
        finally:
            writer.close()
    except OSError as error:
        raise DemoError(
            f"the gateway does not answer on {control_socket} ({error.strerror}); its log says why"
        ) from error
    answer = Answer.model_validate_json(line)
    if answer.result is None:
        raise DemoError(f"the gateway cannot say how it is: {answer.error}")
    return BoxStatus.model_validate(answer.result)
