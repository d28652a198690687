"""The control socket: how the terminal UI and scripts on this machine talk to a running box.

A Unix stream socket of mode 0600, so that only the box's own user (and root) can speak; one JSON object a
line, as contract.control lays down. Always true: at most `MAX_CONNECTIONS` callers and one bounded line each
in memory; no caller can stop the box or read an image through it. A crash leaves a socket file that nobody
answers on; the next start removes it, after asking whether somebody does.
"""

from __future__ import annotations

import json
import logging
import socket
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from contract.control import MAX_LINE_BYTES, Answer, Request
from contract.errors import ContractError
from edge.buffer.errors import SpoolError
from edge.gateway.errors import GatewayError

_log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 16
_ALIVE_TIMEOUT_S: Final = 2.0

Handler = Callable[[dict[str, object]], BaseModel]


class ControlError(Exception):
    """The control socket cannot be had, or the box answered with an error; the text is for a person."""


class NoBoxError(ControlError):
    """Nobody answers on the control socket."""


class ControlServer:
    """Serves `handlers` by method name, one thread a caller.

    A handler gets the request's params and returns a shape of contract.control. What it raises from the
    contract's, the uplink's or the spool's error trees reaches the caller as its sentence; anything else is
    logged and reaches the caller as a fault without details.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._callers: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)

    def start(self) -> None:
        """Listen. ControlError if the path cannot be used or another box answers on it."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_stale(self._path)
            listener.bind(str(self._path))
            # Before listen() nobody can connect, so there is no moment with a wider mode.
            self._path.chmod(0o600)
            listener.listen(MAX_CONNECTIONS)
        except OSError as error:
            listener.close()
            raise ControlError(f"cannot make the control socket {self._path}: {error.strerror}") from error
        except ControlError:
            listener.close()
            raise
        self._listener = listener
        self._thread.start()

    def stop(self) -> None:
        """Hang up on every caller and remove the socket."""
        if self._listener is None:
            return
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join()
        self._listener.close()
        self._path.unlink(missing_ok=True)
        with self._lock:
            for caller in self._callers:
                with suppress(OSError):  # it hung up first
                    caller.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return  # stop() shut the listener down
            with self._lock:
                welcome = len(self._callers) < MAX_CONNECTIONS
                if welcome:
                    self._callers.add(caller)
            if welcome:
                threading.Thread(
                    target=self._serve, args=(caller,), name="control-caller", daemon=True
                ).start()
            else:
                caller.close()

    def _serve(self, caller: socket.socket) -> None:
        try:
            with caller.makefile("rb") as lines:
                while line := lines.readline(MAX_LINE_BYTES + 1):
                    if len(line) > MAX_LINE_BYTES:
                        break  # no honest request is that long; what follows cannot be made sense of
                    caller.sendall(self._answer(line).model_dump_json(exclude_none=True).encode() + b"\n")
        except OSError:
            pass  # the caller went away, or stop() hung up
        finally:
            with self._lock:
                self._callers.discard(caller)
            caller.close()

    def _answer(self, line: bytes) -> Answer:
        try:
            request = Request.model_validate_json(line)
            result = self._handlers[request.method](request.params)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in fault["loc"]) or "the request"
            return Answer(error=f"{where}: {fault['msg'].removeprefix('Value error, ')}")
        except (ContractError, SpoolError, ControlError, GatewayError) as error:
            return Answer(error=str(error))
        except Exception:
            _log.exception("control request failed")
            return Answer(error="a fault in the box's program; its log says more")
        return Answer(result=result.model_dump(mode="json"))


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"{path} is in the way: the control socket goes there, and it is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(_ALIVE_TIMEOUT_S)
        try:
            trial.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ControlError(f"{path}: {error}: is another box running?") from error
    raise ControlError(f"another box is running: it answers on {path}")


def ask(path: Path, method: str, params: Mapping[str, object], *, timeout_s: float) -> dict[str, object]:
    """Put one question to the running box; ControlError with its sentence, NoBoxError if nobody answers."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.settimeout(timeout_s)
            caller.connect(str(path))
            caller.sendall(json.dumps({"method": method, "params": dict(params)}).encode() + b"\n")
            with caller.makefile("rb") as lines:
                line = lines.readline(MAX_LINE_BYTES + 1)
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise NoBoxError(f"no box is running here: nobody answers on {path}") from error
    except OSError as error:
        raise ControlError(f"the box does not answer on {path}: {error}") from error
    try:
        answer = Answer.model_validate_json(line)
    except ValidationError as error:
        raise ControlError(f"what answers on {path} is not a box") from error
    if answer.result is None:
        raise ControlError(answer.error or "the box gave no answer")
    return answer.result
