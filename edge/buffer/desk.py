"""Begins receptions: finds key, codec and file for the next instance.

The spool has one, and each process that receives for it has others (`edge.buffer.remote_spool`). Parallel receptions
share nothing here but the pace at which each scanner sends, and what is ready. To open a file and derive its key takes
as long as to hash and seal a small image, so it is done while the scanner prepares the next one. What is ready has
nothing on the disk yet but a name; it is used under the key and in the codec it was made for, or it goes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from contract.identifiers import ObjectId
from contract.sealed_object import Aead, Codec, SealedObjectWriter
from contract.sealing import DataKey, DataKeyRing
from contract.segment_coder import SegmentCoder
from edge.buffer.coding import choose_codec
from edge.buffer.coding_pace import CodingPace
from edge.buffer.errors import NotEnrolledError, SpoolError, storage_error
from edge.buffer.reception import Reception, Registrar
from edge.buffer.records import Origin
from edge.buffer.sealed_file import SealedFile

_MOST_READY: Final = 4  # of a codec: more scanners at once keep the processors busy as it is


class _Ready(NamedTuple):
    """A sealed object begun: nothing of an instance is in it."""

    object_id: ObjectId
    file: SealedFile
    data_key: DataKey
    codec: Codec
    coder: SegmentCoder | None
    writer: SealedObjectWriter


class Intake(Protocol):
    """What an association asks of the spool."""

    def receive(self, origin: Origin) -> Reception:
        """Begin an instance.

        Raises
        ------
        NotEnrolledError, DiskFullError, StorageFailedError, SpoolClosedError
        """

    def prepare(self, origin: Origin) -> None:
        """Make ready for the next instance of the same kind, where the sender waits for nothing. Raises nothing."""

    def note_rejection(self, calling_ae_title: str, peer_address: str, reason: str) -> None:
        """Remember a refusal for the technician. `calling_ae_title` is empty where it was never learnt."""


class Desk:
    """Safe from any thread.

    Parameters
    ----------
    new_file : a file under a durable name of its own.

    Attributes
    ----------
    keys : whom to seal for; None before enrolment.
    """

    def __init__(
        self,
        registrar: Registrar,
        new_file: Callable[[], tuple[ObjectId, SealedFile]],
        pace: CodingPace,
        aead: Aead,
        keys: DataKeyRing | None,
    ) -> None:
        self.keys = keys
        self._registrar = registrar
        self._new_file = new_file
        self._pace = pace
        self._aead = aead
        self._lock = threading.Lock()
        self._ready: list[_Ready] = []
        self._closed = False

    def begin(self, origin: Origin) -> Reception:
        """NotEnrolledError, DiskFullError, StorageFailedError."""
        keys = self.keys
        if keys is None:
            raise NotEnrolledError
        self._registrar.check_room()
        data_key, codec = keys.current(), self._codec(origin)
        ready = self._take(data_key, codec) or self._make(data_key, codec)
        sealed_for = tuple(key_id.hex() for key_id, _ in data_key.wrapped)
        return Reception(
            ready.object_id,
            origin,
            ready.file,
            self._registrar,
            ready.writer,
            ready.coder,
            self._pace,
            sealed_for,
        )

    def prepare(self, origin: Origin) -> None:
        """Begin an object ahead, unless enough are. What fails here fails again in `begin`, where it is told."""
        keys = self.keys
        if keys is None:
            return
        codec = self._codec(origin)
        if sum(ready.codec is codec for ready in self._ready) >= _MOST_READY:
            return
        with contextlib.suppress(SpoolError):
            ready = self._make(keys.current(), codec)
            with self._lock:
                if not self._closed:
                    self._ready.append(ready)
                    return
            ready.file.discard()

    def close(self) -> None:
        """Let go what is ready."""
        with self._lock:
            self._closed = True
            unused, self._ready = self._ready, []
        for ready in unused:
            ready.file.discard()

    def _codec(self, origin: Origin) -> Codec:
        return choose_codec(origin.transfer_syntax_uid, tight=self._pace.allows_tight(origin))

    def _take(self, data_key: DataKey, codec: Codec) -> _Ready | None:
        """One that was made for this key and codec; those of another key go."""
        with self._lock:
            stale = [ready for ready in self._ready if ready.data_key is not data_key]
            self._ready = [ready for ready in self._ready if ready.data_key is data_key]
            found = next((ready for ready in self._ready if ready.codec is codec), None)
            if found is not None:
                self._ready.remove(found)
        for ready in stale:
            ready.file.discard()
        return found

    def _make(self, data_key: DataKey, codec: Codec) -> _Ready:
        """StorageFailedError, DiskFullError."""
        coder = SegmentCoder() if codec is Codec.SEGMENTS else None
        try:
            object_id, file = self._new_file()
        except OSError as error:
            raise storage_error(error, reserve_bytes=self._registrar.reserve_bytes) from error
        try:
            writer = SealedObjectWriter(file, object_id, data_key, self._aead, codec, coder)
        except OSError as error:
            file.discard()
            raise storage_error(error, reserve_bytes=self._registrar.reserve_bytes) from error
        return _Ready(object_id, file, data_key, codec, coder, writer)
