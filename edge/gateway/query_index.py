"""Keeps the catalogue of what can be queried in step with the spool, on a thread of its own.

Storing waits for nobody: an instance is found a moment after it was stored, once its first bytes have been opened
with the box's local key and its attributes sealed under the device key. What was sealed before there was a local
key stays in the catalogue by its UIDs alone. A crash costs the time to look again.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import BinaryIO, Protocol

from contract.identifiers import ObjectId
from edge.buffer.catalogue import Catalogue
from edge.buffer.errors import SpoolClosedError, SpoolError
from edge.buffer.local_recipient import CannotOpenError, LocalRecipient
from edge.buffer.records import Present
from edge.gateway.data_set import DataSet, text_element, write_data_set
from edge.gateway.query_attributes import read_attributes
from edge.gateway.sop_classes import EXPLICIT_VR_LITTLE_ENDIAN

_LOG = logging.getLogger(__name__)

_AT_ONCE = 100
_LOOK_EVERY_S = 1.0
_SWEEP_EVERY_S = 30.0  # asks for every object that is here, which may be a hundred thousand
_RETRY_S = 10.0


class Cache(Protocol):
    """What queries ask of the spool."""

    def present(self, *, after: int, limit: int) -> list[Present]: ...

    def open_object(self, object_id: ObjectId) -> BinaryIO: ...


class QueryIndex:
    """`start`, then `stop`; `look_again` from any thread.

    Parameters
    ----------
    sweep_every_s : least time between two looks for what is not here any more.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        cache: Cache,
        recipient: LocalRecipient,
        *,
        sweep_every_s: float = _SWEEP_EVERY_S,
    ) -> None:
        self._catalogue = catalogue
        self._cache = cache
        self._recipient = recipient
        self._sweep_every_s = sweep_every_s
        self._swept_at_s = time.monotonic() - sweep_every_s
        self._after = 0  # everything up to this sequence number was looked at in this life
        self._stopping = threading.Event()
        self._changed = threading.Event()
        self._changed.set()
        self._thread = threading.Thread(target=self._run, name="query-index")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._changed.set()
        self._thread.join()

    def look_again(self) -> None:
        """Something was stored, or freed."""
        self._changed.set()

    def _run(self) -> None:
        unswept = True
        while not self._stopping.is_set():
            due_in_s = self._swept_at_s + self._sweep_every_s - time.monotonic()
            if self._changed.wait(max(0.0, due_in_s) if unswept else None):
                unswept = True
            self._changed.clear()
            wait_s = min(_LOOK_EVERY_S, self._sweep_every_s)
            try:
                self._take_new()
                if unswept and time.monotonic() - self._swept_at_s >= self._sweep_every_s:
                    self._sweep()
                    unswept = False
            except SpoolClosedError:
                return
            except SpoolError as error:
                _LOG.warning("the query catalogue cannot be kept", extra={"reason": str(error)})
                self._changed.set()
                wait_s = _RETRY_S
            self._stopping.wait(wait_s)  # a study that arrives is one look a second, not one an image

    def _take_new(self) -> None:
        while objects := self._cache.present(after=self._after, limit=_AT_ONCE):
            missing = self._catalogue.missing(objects)
            self._catalogue.add([(one, self._record(one)) for one in missing])
            self._after = objects[-1].sequence
            if self._stopping.is_set():
                return

    def _sweep(self) -> None:
        """Forget what was freed."""
        here: set[ObjectId] = set()
        after = 0
        while objects := self._cache.present(after=after, limit=_AT_ONCE):
            after = objects[-1].sequence
            here.update(one.object_id for one in objects)
        self._swept_at_s = time.monotonic()
        self._catalogue.keep_only(here)

    def _record(self, one: Present) -> bytes:
        attributes: DataSet = {}
        try:
            with self._recipient.open(self._cache.open_object(one.object_id), one.object_id) as pieces:
                attributes = read_attributes(pieces, one.transfer_syntax_uid)
        except CannotOpenError as error:
            _LOG.info("known by its UIDs alone", extra={"object_id": one.object_id, "reason": str(error)})
        except SpoolClosedError:
            raise
        except SpoolError as error:  # it was freed in between
            _LOG.debug("gone", extra={"object_id": one.object_id, "reason": str(error)})
        record = {
            **attributes,
            0x00080016: text_element("UI", one.sop_class_uid),
            0x00080018: text_element("UI", one.sop_instance_uid),
            0x0020000D: text_element("UI", one.study_instance_uid),
            0x0020000E: text_element("UI", one.series_instance_uid),
        }
        return write_data_set(record, EXPLICIT_VR_LITTLE_ENDIAN)
