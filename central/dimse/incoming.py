"""The data set of one C-STORE-RQ on its way into the archive, behind the header that a box would put there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from central.archive.errors import StorageError
from central.archive.objects import ObjectSink
from contract.identifiers import InvalidIdentifierError, check_uid
from contract.part10 import file_meta

INVALID_SOP_INSTANCE: Final = 0x0117  # PS3.7 Annex C
OUT_OF_RESOURCES: Final = 0xA700


class Incoming:
    """What has come of it, as a Part 10 file.

    Attributes
    ----------
    refusal : DIMSE status that it gets instead of being archived; 0 while all is well.
    """

    def __init__(self, new_object: Callable[[], ObjectSink], header: bytes | None) -> None:
        self.refusal = 0 if header is not None else INVALID_SOP_INSTANCE
        self.sink: ObjectSink | None = None
        if header is not None:
            try:
                self.sink = new_object()
            except OSError:
                self.refuse(OUT_OF_RESOURCES)
            self.write(header)

    def write(self, data: bytes | memoryview) -> None:
        if self.sink is None:
            return
        try:
            self.sink.write(data)
        except (OSError, StorageError):
            self.refuse(OUT_OF_RESOURCES)

    def refuse(self, status: int) -> None:
        self.refusal = status
        self.discard()

    def discard(self) -> None:
        if self.sink is not None:
            self.sink.discard()
            self.sink = None


def header_for(command: Any, transfer_syntax_uid: str) -> bytes | None:
    """Preamble and File Meta Information; None where the command names no SOP instance."""
    try:
        return file_meta(
            check_uid(str(command.get("AffectedSOPClassUID", "")), "SOP Class UID"),
            check_uid(str(command.get("AffectedSOPInstanceUID", "")), "SOP Instance UID"),
            transfer_syntax_uid,
        )
    except InvalidIdentifierError:
        return None
