"""The simulated scanner: sends DICOM files over C-STORE exactly as they are on disk.

Every file goes out in its own transfer syntax with its data set's bytes untouched: one presentation context for
each pair of SOP class and transfer syntax. What was not acknowledged because the line broke or the gateway was
out of resources is sent again, as a modality does; what was refused for good is reported with its status.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import MediaStorageDirectoryStorage
from pynetdicom import AE, _config
from pynetdicom.association import Association

AE_TITLE: Final = "DEMO_CT"
PATIENCE_S: Final = 60.0  # without a single acknowledgement, before the scanner gives up
_RETRY_WAIT_S: Final = 0.5
_MAX_CONTEXTS: Final = 128  # presentation context ids are odd numbers of one byte (PS3.8 9.3.2.2)
_STATUS_SUCCESS: Final = 0x0000
_OUT_OF_RESOURCES: Final = range(0xA700, 0xA800)  # PS3.4 Annex B.2.3: may go away


@dataclass(frozen=True)
class Instance:
    """A DICOM file and what it says it is."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str

    @property
    def context(self) -> tuple[str, str]:
        return self.sop_class_uid, self.transfer_syntax_uid


@dataclass(frozen=True)
class Refusal:
    instance: Instance
    status: int
    comment: str


@dataclass
class SendReport:
    """What became of the instances. `unsent` is not empty only when the scanner's patience ran out."""

    acknowledged: list[Instance] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    unsent: list[Instance] = field(default_factory=list)


def read_instance(path: Path) -> Instance | None:
    """The identity of the DICOM file at `path`; None if it is none, or one that is never sent (a DICOMDIR)."""
    try:
        ds = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
        meta = ds.file_meta
        if meta.MediaStorageSOPClassUID == MediaStorageDirectoryStorage:
            return None
        return Instance(
            path,
            str(meta.MediaStorageSOPClassUID),
            str(meta.MediaStorageSOPInstanceUID),
            str(ds.StudyInstanceUID),
            str(meta.TransferSyntaxUID),
        )
    except (InvalidDicomError, AttributeError, OSError, EOFError, ValueError, NotImplementedError):
        return None


def find_instances(folder: Path) -> tuple[list[Instance], int]:
    """All DICOM files below `folder` in the order of their names, and the number of other files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    read = [read_instance(path) for path in files]
    found = [instance for instance in read if instance is not None]
    return found, len(read) - len(found)


def send(
    instances: Iterable[Instance],
    address: tuple[str, int],
    called_ae_title: str,
    *,
    stop: threading.Event,
    progress: Callable[[int], None] = lambda acknowledged: None,
) -> SendReport:
    """Send `instances` until each is acknowledged or refused for good.

    Parameters
    ----------
    stop : set by another thread to end early; what is left is reported as unsent.
    progress : called with the number acknowledged so far.
    """
    _config.STORE_SEND_CHUNKED_DATASET = (
        True  # pynetdicom's switch for "send the file's bytes, do not decode"
    )
    report = SendReport(unsent=list(instances))
    last_progress = time.monotonic()
    while report.unsent and not stop.is_set():
        settled_before = len(report.acknowledged) + len(report.refused)
        for batch in _batches(report.unsent):
            _send_batch(batch, address, called_ae_title, report, stop, progress)
        settled = {id(i) for i in report.acknowledged} | {id(r.instance) for r in report.refused}
        report.unsent = [instance for instance in report.unsent if id(instance) not in settled]
        if len(settled) > settled_before:
            last_progress = time.monotonic()
        elif time.monotonic() - last_progress > PATIENCE_S:
            break
        if report.unsent:
            stop.wait(_RETRY_WAIT_S)
    return report


def _batches(instances: Sequence[Instance]) -> Iterator[list[Instance]]:
    """Cut where one association's presentation contexts are used up."""
    batch: list[Instance] = []
    contexts: set[tuple[str, str]] = set()
    for instance in instances:
        if instance.context not in contexts and len(contexts) == _MAX_CONTEXTS:
            yield batch
            batch, contexts = [], set()
        contexts.add(instance.context)
        batch.append(instance)
    if batch:
        yield batch


def _send_batch(
    batch: list[Instance],
    address: tuple[str, int],
    called_ae_title: str,
    report: SendReport,
    stop: threading.Event,
    progress: Callable[[int], None],
) -> None:
    """One association; returns early when it breaks. What is settled is added to `report`."""
    ae = AE(ae_title=AE_TITLE)
    ae.connection_timeout = 10
    for sop_class_uid, transfer_syntax_uid in dict.fromkeys(instance.context for instance in batch):
        ae.add_requested_context(sop_class_uid, transfer_syntax_uid)
    assoc = ae.associate(*address, ae_title=called_ae_title)
    accepted = {
        (str(context.abstract_syntax), str(context.transfer_syntax[0])) for context in assoc.accepted_contexts
    }
    for instance in batch:
        if stop.is_set() or not assoc.is_established:
            break
        if instance.context not in accepted:
            report.refused.append(Refusal(instance, 0x0122, "the presentation context was not accepted"))
            continue
        if not _store(assoc, instance, report):
            # pynetdicom notices a broken line only after a while; another request would wait for its timeout.
            assoc.abort()
            return
        progress(len(report.acknowledged))
    if assoc.is_established:
        assoc.release()


def _store(assoc: Association, instance: Instance, report: SendReport) -> bool:
    """Send one; False when no answer came, because the line broke before or after it was sent."""
    try:
        answer = assoc.send_c_store(instance.path)
    except RuntimeError:
        return False
    status = answer.get("Status")
    if status is None:
        return False
    if status == _STATUS_SUCCESS:
        report.acknowledged.append(instance)
    elif status not in _OUT_OF_RESOURCES:
        report.refused.append(Refusal(instance, int(status), str(answer.get("ErrorComment", ""))))
    return True
