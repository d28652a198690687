"""The worklist as it was last seen: what modalities are answered from, whether or not the source can be reached.

Why it exists: a patient is on the table while the line to the hospital is down, and the scanner still has to be
given the right name. Items are patient data: in memory as they came, on the disk sealed under the device key.

Always true: a snapshot is a whole answer of the source, never a mixture of two; the file is replaced only when the
items changed, so that refreshing an unchanged worklist writes nothing. A crash leaves the former worklist or
the new one. A file that does not open (another device key) is put down as no worklist at all.
"""

from __future__ import annotations

import base64
import binascii
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from contract.workflow import MAX_WORKLIST_BYTES, MAX_WORKLIST_ITEM_BYTES, MAX_WORKLIST_ITEMS
from edge.buffer.device_key import DeviceKey, NotSealedHereError
from edge.buffer.durable_file import replace_file
from edge.buffer.errors import PermanentSpoolError

MAX_ITEMS: Final = MAX_WORKLIST_ITEMS
MAX_ITEM_BYTES: Final = MAX_WORKLIST_ITEM_BYTES
MAX_TOTAL_BYTES: Final = MAX_WORKLIST_BYTES
_MAX_FILE_BYTES: Final = 2 * MAX_TOTAL_BYTES + MAX_ITEMS * 256
_CONTEXT: Final = "worklist"
_log = logging.getLogger(__name__)


class WorklistTooLargeError(PermanentSpoolError):
    """The source gave more than this box keeps."""

    def __init__(self) -> None:
        super().__init__(
            f"the worklist has more than {MAX_ITEMS} items, or an item of more than {MAX_ITEM_BYTES} bytes: "
            "set a shorter worklist.horizon_days; the box goes on with the former worklist"
        )


@dataclass(frozen=True)
class WorklistItem:
    """One scheduled procedure step, encoded as its source encoded it."""

    data_set: bytes
    transfer_syntax_uid: str


@dataclass(frozen=True)
class WorklistSnapshot:
    """What is answered from.

    Attributes
    ----------
    refreshed_at_utc : when the source last said that this is the worklist; None if it never did.
    version : the source's name for this state, to ask it for news by; "" where it has none.
    """

    items: tuple[WorklistItem, ...] = ()
    refreshed_at_utc: datetime | None = None
    source: str = ""
    version: str = ""


class _KeptItem(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    data_set: str
    transfer_syntax_uid: str


class _Kept(BaseModel):
    """What is inside the sealed file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    owner: str
    version: str
    refreshed_at_utc: AwareDatetime
    items: list[_KeptItem]


class WorklistCache:
    """Thread-safe: one writer, any number of readers, who each see one whole snapshot."""

    def __init__(
        self,
        path: Path,
        key: DeviceKey,
        *,
        source: str,
        owner: str | None = None,
        on_items: Callable[[Sequence[WorklistItem]], None] = lambda _: None,
    ) -> None:
        """Read what the last life kept, if it came from the same `source` and `owner`.

        Parameters
        ----------
        source : what people call it, such as ``central``.
        owner : which one of those; None while that is not known (see `belong_to`).
        on_items : told of the items whenever they are other ones, on the writer's thread.
        """
        self._path = path
        self._key = key
        self._source = source
        self._on_items = on_items
        self._owner: str | None = None
        self._writing = threading.Lock()
        self._snapshot = WorklistSnapshot(source=source)
        if owner is not None:
            self.belong_to(owner)

    def belong_to(self, owner: str) -> None:
        """From now on the worklist is `owner`'s: what was kept of another one is not shown to anybody."""
        with self._writing:
            if owner == self._owner:
                return
            self._owner = owner
            self._snapshot = self._load()
            self._on_items(self._snapshot.items)

    def snapshot(self) -> WorklistSnapshot:
        return self._snapshot

    def replace(self, items: Sequence[WorklistItem], *, version: str = "") -> None:
        """The source's whole answer takes the place of the former one.

        Raises
        ------
        WorklistTooLargeError : nothing was changed.
        OSError : it could not be made durable; the former worklist goes on being used.
        """
        kept = tuple(items)
        total = sum(len(item.data_set) for item in kept)
        if (
            len(kept) > MAX_ITEMS
            or total > MAX_TOTAL_BYTES
            or any(len(item.data_set) > MAX_ITEM_BYTES for item in kept)
        ):
            raise WorklistTooLargeError
        with self._writing:
            now, former = datetime.now(UTC), self._snapshot
            if former.refreshed_at_utc is None or kept != former.items or version != former.version:
                self._save(kept, version, now)
            else:
                kept = former.items  # whoever has read these need not read them again
            self._snapshot = WorklistSnapshot(kept, now, self._source, version)
            if kept is not former.items:
                self._on_items(kept)

    def confirm(self) -> None:
        """The source says that nothing changed."""
        with self._writing:
            former = self._snapshot
            self._snapshot = WorklistSnapshot(former.items, datetime.now(UTC), self._source, former.version)

    def _save(self, items: Sequence[WorklistItem], version: str, now: datetime) -> None:
        kept = _Kept(
            source=self._source,
            owner=self._owner or "",
            version=version,
            refreshed_at_utc=now,
            items=[
                _KeptItem(
                    data_set=base64.b64encode(item.data_set).decode("ascii"),
                    transfer_syntax_uid=item.transfer_syntax_uid,
                )
                for item in items
            ],
        )
        replace_file(self._path, self._key.seal(kept.model_dump_json().encode(), _CONTEXT))

    def _load(self) -> WorklistSnapshot:
        try:
            with self._path.open("rb") as file:
                sealed = file.read(_MAX_FILE_BYTES + 1)
            kept = _Kept.model_validate_json(self._key.open(sealed, _CONTEXT))
            items = tuple(
                WorklistItem(base64.b64decode(item.data_set, validate=True), item.transfer_syntax_uid)
                for item in kept.items
            )
        except FileNotFoundError:
            return WorklistSnapshot(source=self._source)
        except (OSError, NotSealedHereError, ValidationError, binascii.Error) as error:
            # No text of the error: pydantic quotes what it could not read.
            _log.warning("the kept worklist cannot be used", extra={"reason": type(error).__name__})
            return WorklistSnapshot(source=self._source)
        if (kept.source, kept.owner) != (self._source, self._owner):
            return WorklistSnapshot(source=self._source)
        return WorklistSnapshot(items, kept.refreshed_at_utc, kept.source, kept.version)
