"""Begins receptions: finds key, codec and file for the next instance.

The spool has one, and each process that receives for it has another (`edge.buffer.remote_spool`). Parallel receptions
share nothing here but the pace at which each scanner sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from contract.identifiers import ObjectId
from contract.sealed_object import Aead, Codec, SealedObjectWriter
from contract.sealing import DataKeyRing
from contract.segment_coder import SegmentCoder
from edge.buffer.coding import choose_codec
from edge.buffer.coding_pace import CodingPace
from edge.buffer.errors import NotEnrolledError, storage_error
from edge.buffer.reception import Reception, Registrar
from edge.buffer.records import Origin
from edge.buffer.sealed_file import SealedFile


class Intake(Protocol):
    """What an association asks of the spool."""

    def receive(self, origin: Origin) -> Reception:
        """Begin an instance.

        Raises
        ------
        NotEnrolledError, DiskFullError, StorageFailedError, SpoolClosedError
        """

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

    def begin(self, origin: Origin) -> Reception:
        """NotEnrolledError, DiskFullError, StorageFailedError."""
        keys = self.keys
        if keys is None:
            raise NotEnrolledError
        self._registrar.check_room()
        data_key = keys.current()
        codec = choose_codec(origin.transfer_syntax_uid, tight=self._pace.allows_tight(origin))
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
        sealed_for = tuple(key_id.hex() for key_id, _ in data_key.wrapped)
        return Reception(object_id, origin, file, self._registrar, writer, coder, self._pace, sealed_for)
