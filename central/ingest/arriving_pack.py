"""Accepts the objects of a pack while the rest of it is still on its way, so that its answer follows its last byte.

Always true: this is a start and no promise. What is accepted here has its receipt as if it had come alone; what fails
is left to the decision about the whole pack, and so is everything when the request is cut.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor
from itertools import takewhile

from central.ingest.pack_acceptance import PackAcceptance, is_last_word, peek
from central.ingest.partial import PartialUpload
from contract.identifiers import ObjectId
from contract.pack import Fate, Pack, PackError

_log = logging.getLogger(__name__)


class ArrivingPack:
    """For one request, in the pack's turn; belongs to the event loop."""

    def __init__(
        self,
        acceptance: PackAcceptance,
        workers: Executor,
        gateway_id: str,
        pack_id: ObjectId,
        upload: PartialUpload,
        source_address: str,
    ) -> None:
        self._acceptance = acceptance
        self._workers = workers
        self._gateway_id = gateway_id
        self._pack_id = pack_id
        self._upload = upload
        self._source_address = source_address
        self._pack: Pack | None = None
        self._fates: list[Fate] = []
        self._job: asyncio.Future[bool] | None = None
        self._ended = False

    def note_bytes(self) -> None:
        """More of the pack can be read from its file."""
        if self._job is None and not self._ended:
            self._job = asyncio.get_running_loop().run_in_executor(self._workers, self._accept)
            self._job.add_done_callback(self._go_on)

    async def settled(self) -> list[Fate]:
        """Begin nothing more; the fates of the first objects of the pack, for its decision."""
        self._ended = True
        if self._job is not None:
            await asyncio.wait({self._job})
        return self._fates

    def _go_on(self, job: asyncio.Future[bool]) -> None:
        self._job = None
        if job.result():
            self.note_bytes()  # what arrived meanwhile shares the next transaction

    def _accept(self) -> bool:
        """On a thread; whether there may be more to do at once."""
        try:
            self._pack = self._pack or peek(self._pack_id, self._upload)
            if self._pack is None:
                return False
            fates = self._acceptance.accept_arrived(
                self._gateway_id, self._pack, self._upload, self._source_address, len(self._fates)
            )
        except PackError:
            self._ended = True  # said when the request has ended
            return False
        except Exception:
            _log.warning("objects wait for the whole of their pack pack_id=%s", self._pack_id, exc_info=True)
            self._ended = True
            return False
        final = list(takewhile(is_last_word, fates))
        self._fates += final
        self._ended = self._ended or len(final) < len(fates)
        return bool(final)
