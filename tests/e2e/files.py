"""Files to send: pydicom's own in every transfer syntax, each under a UID of its own, and small series by the dozen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.data import get_testdata_file, get_testdata_files
from pynetdicom.dsutils import split_dataset

from demo.scanner import Instance, read_instance

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")


@dataclass(frozen=True)
class TestFile:
    """A file to send and whether its data set names its instance, series and study well enough to be taken."""

    __test__ = False

    instance: Instance
    identified: bool


def packaged_files(folder: Path) -> Iterator[TestFile]:
    """The DICOM files that the packages bring along, copied into `folder`.

    Many are the same instance in another transfer syntax. Such a copy gets another SOP Instance UID of the same
    length, put in place of the old one byte by byte, so that nothing else of the file changes.
    """
    seen: set[str] = set()
    for number, name in enumerate(sorted(get_testdata_files())):
        source = read_instance(Path(name))
        if source is None:
            continue
        raw = Path(name).read_bytes()
        if source.sop_instance_uid in seen:
            uid = _sibling(source.sop_instance_uid, seen)
            raw = raw.replace(source.sop_instance_uid.encode(), uid.encode())
        path = folder / f"{number:03d}-{Path(name).name}"
        path.write_bytes(raw)
        instance = read_instance(path)
        if instance is None or instance.sop_instance_uid in seen:
            continue
        seen.add(instance.sop_instance_uid)
        yield TestFile(instance, _is_identified(instance))


def _sibling(uid: str, seen: set[str]) -> str:
    """Another UID of the same length: the last digits counted up."""
    digits = re.search(r"[0-9]*$", uid)
    assert digits is not None
    width = len(digits[0])
    for step in range(1, 10 ** min(width, 3)):
        candidate = uid[:-width] + f"{(int(digits[0]) + step) % 10**width:0{width}d}"
        if candidate not in seen and _UID.fullmatch(candidate):
            return candidate
    return uid


def _is_identified(instance: Instance) -> bool:
    try:
        ds = dcmread(instance.path, stop_before_pixels=True)
        uids = [ds.SOPInstanceUID, ds.SOPClassUID, ds.StudyInstanceUID, ds.SeriesInstanceUID]
    except (AttributeError, ValueError, NotImplementedError):
        return False
    well_formed = all(len(uid) <= 64 and _UID.fullmatch(str(uid)) for uid in uids)
    return well_formed and [str(uid) for uid in uids[:2]] == [
        instance.sop_instance_uid,
        instance.sop_class_uid,
    ]


def data_set_bytes(path: Path) -> bytes:
    """What follows the File Meta Information: what a scanner sends."""
    _, offset = split_dataset(path)
    return path.read_bytes()[offset:]


def small_series(folder: Path, study: int, count: int) -> list[Instance]:
    """`count` CT images of 39 KB in one study, made from pydicom's CT_small by setting their UIDs."""
    folder.mkdir(parents=True, exist_ok=True)
    ds = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    ds.StudyInstanceUID = f"2.25.7000{study}"
    ds.SeriesInstanceUID = f"2.25.7000{study}1"
    made = []
    for number in range(1, count + 1):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.7000{study}1{number:05d}"
        ds.InstanceNumber = number
        path = folder / f"{number:05d}.dcm"
        ds.save_as(path)
        instance = read_instance(path)
        assert instance is not None
        made.append(instance)
    return made
