"""The shapes the spool takes and gives: frozen, free of patient data, safe to log and to show.

Times are aware datetimes in UTC. Sizes are bytes; `size_bytes` is the Part 10 file, `stored_bytes` the
sealed file on the disk and on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

from contract.identifiers import ObjectId
from contract.priority import Priority
from edge.buffer.states import State


@dataclass(frozen=True)
class Origin:
    """Who sends, and in which transfer syntax: known before the first byte of the data set."""

    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class InstanceIdentity:
    """What an instance says it is. `modality` may be missing; the UIDs were checked by the caller.

    Attributes
    ----------
    station_name : Station Name (0008,1010), empty where the instance does not say.
    department : Requesting Service (0032,1033), the same.
    accession_number : finds the order in the worklist; in memory alone, never in a label or the index.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str | None
    station_name: str = ""
    department: str = ""
    accession_number: str = field(default="", repr=False)


@dataclass(frozen=True)
class Stored:
    """Answer of `Reception.commit`: from here on the instance survives a power cut.

    Attributes
    ----------
    object_id : the object that holds the bytes; for a duplicate, the one that was here before.
    outcome : ``duplicate`` when the same bytes of the same SOP instance wait here already.
    """

    object_id: ObjectId
    outcome: Literal["stored", "duplicate"]
    sha256: str
    size_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class Claimed:
    """An object leased to a sender."""

    object_id: ObjectId
    sha256: str
    size_bytes: int
    stored_bytes: int
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str | None
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    received_at_utc: datetime
    attempts: int  # this one included


@dataclass(frozen=True)
class ObjectRow:
    """One line of a list for people. Identity is None where quarantine holds what nobody could identify."""

    object_id: ObjectId
    state: State
    success_answered: bool
    sop_instance_uid: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    modality: str | None
    transfer_syntax_uid: str | None
    calling_ae_title: str
    peer_address: str
    size_bytes: int
    stored_bytes: int
    received_at_utc: datetime
    attempts: int
    next_attempt_in_s: float | None  # for ready objects that wait; None otherwise
    last_error: str | None
    has_receipt: bool
    freed_at_utc: datetime | None
    damaged: bool = False  # the disk has changed or lost its file
    priority: Priority = Priority.ROUTINE


@dataclass(frozen=True)
class Tally:
    """How many objects, and how much room they take on the disk."""

    objects: int
    stored_bytes: int


@dataclass(frozen=True)
class Depth:
    """How full the spool is. `by_state` has every state but `freed`, zeros included.

    Attributes
    ----------
    received_since_open : instances acknowledged to scanners in this process's life.
    """

    by_state: Mapping[State, Tally]
    received_since_open: int
    oldest_unsent_at_utc: datetime | None
    last_received_at_utc: datetime | None

    @property
    def unsent(self) -> Tally:
        """What still has to reach central: ready and sending together."""
        waiting = (self.by_state[State.READY], self.by_state[State.SENDING])
        return Tally(sum(tally.objects for tally in waiting), sum(tally.stored_bytes for tally in waiting))


@dataclass(frozen=True)
class SealedRow:
    """What the index says of a sealed file, for whoever compares the two. `sequence`: its place in the order."""

    sequence: int
    object_id: ObjectId
    state: State
    stored_bytes: int
    sha256: str | None
    sop_instance_uid: str | None
    calling_ae_title: str


class ReceivedRow(NamedTuple):
    """An instance that came in, as far as its study's completeness needs it. `sequence`: its place in the order."""

    sequence: int
    calling_ae_title: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None


@dataclass(frozen=True)
class Present:
    """An identified object whose file is on the disk; `sequence` rises with the time it came."""

    sequence: int
    object_id: ObjectId
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class ScannerSeen:
    """A sender as known by its calling AE title and address, since the index was made.

    Attributes
    ----------
    instances, size_bytes : stored here, duplicates not counted.
    rejected : connections, associations and instances that were refused.
    last_error : the latest refusal, in words for a technician.
    """

    calling_ae_title: str
    peer_address: str
    instances: int
    size_bytes: int
    rejected: int
    last_error: str | None
    first_seen_at_utc: datetime
    last_seen_at_utc: datetime
    last_store_at_utc: datetime | None


@dataclass(frozen=True)
class Disk:
    """Room on the file system that holds the spool.

    Attributes
    ----------
    low_water_bytes : below it, what central has and the site keeps (state `retained`) is freed, oldest first.
    free_files, reserve_files : how many files more fit, and how many must; zeros where nobody counts them.
    hours_to_full : until nothing is taken in any more, at the pace of late; None: not soon, or not known.
    """

    total_bytes: int
    free_bytes: int
    reserve_bytes: int
    low_water_bytes: int = 0
    free_files: int = 0
    reserve_files: int = 0
    hours_to_full: float | None = None

    @property
    def accepting(self) -> bool:
        """False while less than the reserve is free; scanners are then told 0xA700 and try again."""
        return self.free_bytes >= self.reserve_bytes and self.free_files >= self.reserve_files

    @property
    def low_by_bytes(self) -> int:
        """What is missing to the low-water mark, or to the reserve where that is higher."""
        return max(0, max(self.reserve_bytes, self.low_water_bytes) - self.free_bytes)

    @property
    def low_by_files(self) -> int:
        """The same of files: twice the reserve is their low-water mark."""
        return max(0, 2 * self.reserve_files - self.free_files)


@dataclass(frozen=True)
class RecoveryReport:
    """What start-up found and put right; all zero after a clean stop.

    Attributes
    ----------
    torn_files : unfinished files swept; their senders were never told success.
    files_adopted : whole files whose row the power cut took, or the lost index; made again from their labels.
    leases_dropped : objects that were being sent and are ready again.
    frees_finished : objects whose receipt was kept but whose file was still there.
    files_moved : files found in the folder of another state than their row's.
    files_set_aside : files whose bytes do not fit their label, or that have none; now in quarantine.
    files_missing : rows that lost their file: this is damage and wants a person.
    index_rebuilt : the index could not be read, was put aside and begun anew.
    unverified_from : place in the order of the first object taken in from its label alone; 0 if there is none.
    """

    torn_files: int = 0
    leases_dropped: int = 0
    frees_finished: int = 0
    files_moved: int = 0
    files_adopted: int = 0
    files_set_aside: int = 0
    files_missing: int = 0
    index_rebuilt: bool = False
    unverified_from: int = 0
