"""An enrolment that waits for an administrator: kept over restarts, asked for again until there is an answer.

    identity/pending.json     the pairing string and the key, or what its TPM needs of it (0600), only while it waits

Always true: the key is durable here before central's administrator can accept it, so an acceptance is never for a
key that a power cut took. The former identity, if there is one, stays in use meanwhile. An answer to a pairing string
in whose place another one waits changes nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from contract.enrolment import Pairing, PairingError
from edge.buffer.durable_file import replace_file
from edge.uplink.box_key import BoxKey
from edge.uplink.clock import BoxClock
from edge.uplink.enrolment import enrol
from edge.uplink.errors import EnrolmentPendingError, UplinkPermanentError, UplinkTransientError
from edge.uplink.identity import Enrolment
from edge.uplink.key_maker import KeyMaker

_ASK_EVERY_S: Final = 60.0
_log = logging.getLogger(__name__)

Enrolled = Callable[[BoxKey, Enrolment], None]


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    pairing: str
    key_pem: str


class PendingFile:
    """Holds at most one enrolment that waits. Thread-safe."""

    def __init__(self, path: Path, keys: KeyMaker | None = None) -> None:
        self._path = path
        self._keys = keys or KeyMaker()
        self._lock = threading.Lock()

    def load(self) -> tuple[Pairing, BoxKey] | None:
        """None if nothing waits, or what is there cannot be read: the technician asks for a new pairing string."""
        try:
            kept = self._kept()
            return Pairing.parse(kept.pairing), self._keys.load(kept.key_pem)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ValidationError, PairingError) as error:
            _log.warning("waiting enrolment unreadable", extra={"path": str(self._path), "detail": error})
            return None

    def key_for(self, pairing: Pairing) -> BoxKey:
        """The key that waits with this pairing, or a new one; durable in both cases.

        Raises
        ------
        OSError : it is not durable.
        KeyUnavailableError : it is to be in a TPM, and cannot be made there.
        """
        with self._lock:
            held = self.load()
            if held is not None and held[0] == pairing:
                return held[1]
            key = self._keys.make()
            replace_file(self._path, _Kept(pairing=str(pairing), key_pem=key.text).model_dump_json().encode())
            return key

    def clear(self, pairing: Pairing) -> None:
        """This pairing waits no more; another one that has taken its place does."""
        with self._lock, suppress(FileNotFoundError, ValueError):
            if self._kept().pairing == str(pairing):
                self._path.unlink()

    def _kept(self) -> _Kept:
        return _Kept.model_validate_json(self._path.read_bytes())


def pending_sentence(fingerprint: str) -> str:
    """What a technician reads out to the administrator."""
    return f"Waiting for an administrator to accept this box at central (Fleet). Its key's fingerprint: {fingerprint}"


def delayed_sentence(why: Exception) -> str:
    """What a technician reads while central has not answered: nobody waits for an administrator yet."""
    return f"The enrolment is not through yet, and the box goes on with it by itself: {why}"


class EnrolmentWait:
    """Asks until central decides. One thread, from `start` to `stop` or the answer.

    Parameters
    ----------
    on_enrolled : called with the identity, once.
    on_state : called with a sentence whenever there is something to say; "" when it is over.
    """

    def __init__(
        self,
        file: PendingFile,
        clock: BoxClock,
        on_enrolled: Enrolled,
        on_state: Callable[[str], None],
        *,
        first_wait_s: float,
        ask_every_s: float = _ASK_EVERY_S,
    ) -> None:
        self._file = file
        self._clock = clock
        self._on_enrolled = on_enrolled
        self._on_state = on_state
        self._first_wait_s = first_wait_s
        self._ask_every_s = ask_every_s
        self._stopping = threading.Event()
        self._answered = threading.Lock()  # held while an answer is put into effect
        self._thread = threading.Thread(target=self._ask_until_decided, name="enrolment", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait_s: float = -1.0) -> None:
        """No answer counts from here on. One that is just put into effect is waited for, at most `wait_s` if that is
        not negative."""
        self._stopping.set()
        if threading.current_thread() is not self._thread and self._answered.acquire(timeout=wait_s):
            self._answered.release()

    def _ask_until_decided(self) -> None:
        wait_s: float | None = self._first_wait_s
        while wait_s is not None and not self._stopping.wait(wait_s):
            held = self._file.load()
            if held is None:
                return
            pairing, key = held
            answer = self._ask(pairing, key)
            with self._answered:
                # It may have been long on its way, and another enrolment have begun.
                if self._stopping.is_set():
                    return
                wait_s = self._take(pairing, key, answer)

    def _ask(self, pairing: Pairing, key: BoxKey) -> Future[Enrolment]:
        answer = Future[Enrolment]()
        try:
            answer.set_result(enrol(pairing, key, clock=self._clock)[1])
        except Exception as error:
            answer.set_exception(error)
        return answer

    def _take(self, pairing: Pairing, key: BoxKey, answer: Future[Enrolment]) -> float | None:
        """Put an answer into effect. How long until it is asked again; None: central has decided."""
        try:
            self._on_enrolled(key, answer.result())
        except EnrolmentPendingError as error:
            self._on_state(pending_sentence(error.fingerprint))
            return min(error.retry_in_s, self._ask_every_s)
        except UplinkTransientError as error:
            _log.info("enrolment waits", extra={"detail": error})
            self._on_state(delayed_sentence(error))
            return self._ask_every_s
        except (UplinkPermanentError, PairingError) as error:
            _log.error("enrolment refused", extra={"detail": error})
            sentence = str(error)
        except Exception:
            _log.exception("enrolment failed")
            return self._ask_every_s
        else:
            sentence = ""
        self._file.clear(pairing)
        self._on_state(sentence)
        return None
