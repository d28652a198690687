"""C-STORE (PS3.4 Annex B): one instance from its request to its answer.

The bytes go straight into a spool reception, behind File Meta Information made from the command; they are never
decoded. What cannot be identified is quarantined with the reason and answered with a failure that says so;
neither that nor a full disk disturbs the association. Success is answered only after the spool's commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from contract.identifiers import InvalidIdentifierError, check_uid
from contract.part10 import file_meta
from edge.buffer.desk import Intake
from edge.buffer.errors import DiskFullError, NotEnrolledError, SpoolError
from edge.buffer.reception import Reception
from edge.buffer.records import InstanceIdentity, Origin
from edge.gateway.command_set import Command, Element
from edge.gateway.identify import Found, IdentityReader, UnidentifiableError

_LOG = logging.getLogger(__name__)


class StoreStatus(NamedTuple):
    """Status and Error Comment of a C-STORE-RSP (PS3.4 Table B.2-1); the comment has at most 64 characters."""

    code: int
    comment: str


SUCCESS = StoreStatus(0x0000, "")
NOT_ENROLLED = StoreStatus(0xA700, "This box is not set up yet; send again later")
DISK_FULL = StoreStatus(0xA700, "The disk of this box is full; send again later")
STORAGE_FAILED = StoreStatus(0xA700, "The disk of this box fails; send again later")
SOP_CLASS_MISMATCH = StoreStatus(0xA900, "Data set and command name different SOP classes")
UNREADABLE = StoreStatus(0xC001, "The data set cannot be parsed as far as its UIDs")
NO_SOP_INSTANCE_UID = StoreStatus(0xC002, "The data set has no SOP Instance UID")
SOP_INSTANCE_MISMATCH = StoreStatus(0xC003, "Data set and command name different SOP instances")
INVALID_UID = StoreStatus(0xC004, "A UID has characters other than digits and dots")
NO_STUDY_INSTANCE_UID = StoreStatus(0xC005, "The data set has no Study Instance UID")
NO_SERIES_INSTANCE_UID = StoreStatus(0xC006, "The data set has no Series Instance UID")
FILE_SET_DIRECTORY = StoreStatus(0xB007, "This is a DICOMDIR, not an image; it was not stored")
UNEXPECTED = StoreStatus(0xC0FF, "This box failed unexpectedly; send again later")


class _RefusedError(Exception):
    """The instance goes to quarantine with `reason`, and its sender is told `status`."""

    def __init__(self, status: StoreStatus, reason: str | None = None) -> None:
        super().__init__(reason or status.comment)
        self.status = status
        self.reason = reason or status.comment


class IncomingInstance:
    """The data set of one C-STORE-RQ. Used by one thread; `discard` is harmless after `finish`."""

    def __init__(self, spool: Intake, origin: Origin, command: Command) -> None:
        self._spool = spool
        self._origin = origin
        self._sop_class_uid = command.uid(Element.AFFECTED_SOP_CLASS_UID)
        self._sop_instance_uid = command.uid(Element.AFFECTED_SOP_INSTANCE_UID)
        self._reception: Reception | None = None
        self._failed: StoreStatus | None = None
        self._refused: _RefusedError | None = None
        self._said = False
        self._attempt(self._begin)
        # Bound after the first step, which makes the reception if it can.
        reception: Reception | None = self._reception
        self._identity = IdentityReader(
            origin.transfer_syntax_uid, find_pixels=reception is not None and reception.wants_pixels
        )

    def write(self, data: memoryview) -> None:
        """Take a fragment. Never raises: what failed is told by `finish`, once the peer has sent everything."""
        if self._failed is None:
            self._attempt(self._take, data)

    def finish(self) -> StoreStatus:
        """Make the instance durable, or keep it apart, and say which."""
        if self._failed is None:
            self._attempt(self._decide)
        status = self._failed or (self._refused.status if self._refused else SUCCESS)
        if status is not SUCCESS:
            reason = self._refused.reason if self._refused and not self._failed else status.comment
            self._spool.note_rejection(self._origin.calling_ae_title, self._origin.peer_address, reason)
            if self._said:
                return status
            _LOG.warning(
                "instance refused",
                extra={
                    "calling_ae_title": self._origin.calling_ae_title,
                    "peer_address": self._origin.peer_address,
                    "status": f"0x{status.code:04X}",
                    "reason": reason,
                },
            )
        return status

    def answered(self) -> None:
        """Make ready for the next one while the scanner does."""
        if self._failed is None:
            self._spool.prepare(self._origin)

    def discard(self) -> None:
        """Drop an instance whose rest will never come."""
        if self._reception is not None:
            self._reception.discard()

    def _attempt(self, step: Callable[..., None], *arguments: memoryview) -> None:
        """Run a step; a failure ends the reception and is remembered, for there is still data to drain."""
        try:
            step(*arguments)
        except NotEnrolledError:
            self._fail(NOT_ENROLLED)
        except DiskFullError as error:
            # Below the reserve the spool has said so, once: a line for each image would fill the disk further.
            self._said = error.free_bytes is not None
            self._fail(DISK_FULL)
        except SpoolError:
            _LOG.exception("the spool failed")
            self._fail(STORAGE_FAILED)
        except Exception:
            _LOG.exception("a C-STORE failed unexpectedly")
            self._fail(UNEXPECTED)

    def _fail(self, status: StoreStatus) -> None:
        self._failed = status
        self.discard()

    def _begin(self) -> None:
        self._reception = self._spool.receive(self._origin)
        try:
            check_uid(self._sop_class_uid, "SOP Class UID")
            check_uid(self._sop_instance_uid, "SOP Instance UID")
        except InvalidIdentifierError as error:
            # Kept for a person to look at; the header cannot carry what is not a UID.
            self._refused = _RefusedError(INVALID_UID, f"{error} in the command")
            self._reception.write(file_meta("", "", self._origin.transfer_syntax_uid))
        else:
            self._reception.write(
                file_meta(self._sop_class_uid, self._sop_instance_uid, self._origin.transfer_syntax_uid)
            )

    def _take(self, data: memoryview) -> None:
        assert self._reception is not None
        if not self._identity.done and self._refused is None:
            try:
                self._identity.feed(data)
            except UnidentifiableError as error:
                self._refused = _RefusedError(UNREADABLE, str(error))
            if self._identity.pixels is not None:
                pixels = self._identity.pixels
                self._reception.write(data[: pixels.at])
                self._reception.begin_pixels(pixels.layout, pixels.size_bytes)
                data = data[pixels.at :]
        self._reception.write(data)

    def _decide(self) -> None:
        assert self._reception is not None
        if self._refused is None:
            try:
                identity = self._check(self._identity.finish())
            except UnidentifiableError as error:
                self._refused = _RefusedError(UNREADABLE, str(error))
            except _RefusedError as error:
                self._refused = error
            else:
                self._reception.commit(identity)
                return
        self._reception.quarantine(self._refused.reason)

    def _check(self, found: Found) -> InstanceIdentity:
        """The identity both command and data set agree on; `_RefusedError` otherwise."""
        if not found.sop_instance_uid:
            # A warning for a DICOMDIR: senders of whole folders stop at a failure, with images still to come.
            raise _RefusedError(FILE_SET_DIRECTORY if found.has_directory_records else NO_SOP_INSTANCE_UID)
        if found.sop_instance_uid != self._sop_instance_uid:
            raise _RefusedError(SOP_INSTANCE_MISMATCH)
        if found.sop_class_uid != self._sop_class_uid:
            raise _RefusedError(SOP_CLASS_MISMATCH)
        if not found.study_instance_uid:
            raise _RefusedError(NO_STUDY_INSTANCE_UID)
        if not found.series_instance_uid:
            raise _RefusedError(NO_SERIES_INSTANCE_UID)
        try:
            check_uid(found.study_instance_uid, "Study Instance UID")
            check_uid(found.series_instance_uid, "Series Instance UID")
        except InvalidIdentifierError as error:
            raise _RefusedError(INVALID_UID, str(error)) from error
        return InstanceIdentity(
            sop_class_uid=found.sop_class_uid,
            sop_instance_uid=found.sop_instance_uid,
            study_instance_uid=found.study_instance_uid,
            series_instance_uid=found.series_instance_uid,
            modality=found.modality,
            station_name=found.station_name,
            department=found.department,
            accession_number=found.accession_number,
        )
