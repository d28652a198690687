"""Folders and ZIP files into the archive by the command itself: what is taken, what is not, twice, stopped, killed."""

from __future__ import annotations

import hashlib
import os
import signal
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.fileset import FileSet

from central.access.policy import Grant, StudyFacts, authorize
from central.audit.events import Action
from central.importing.folder_import import _BATCH_FILES
from tests.central.access.house import STUDY, pydicom_file
from tests.central.app.program import CentralProcess
from tests.central.importing.house import (
    EVERYBODY,
    MOST_BYTES,
    begun,
    command,
    configuration,
    instances,
    large,
    looked_into,
    measured,
    peak_bytes,
    told,
    wait_for_objects,
)

NAMES = ("CT_small.dcm", "MR_small_RLE.dcm", "test-SR.dcm", "JPEG-LL.dcm")


def file_of(number: int, name: str = "CT_small.dcm", **more: object) -> bytes:
    return pydicom_file(name, SOPInstanceUID=f"{STUDY}.1.{number}", InstanceNumber=number, **more)


def counts(said: str) -> dict[str, int]:
    """The summary's first line."""
    parts = said.splitlines()[0].partition(";")[0].split(", ")
    return {part.partition(" ")[2]: int(part.partition(" ")[0].replace(",", "")) for part in parts}


def listed(said: str) -> dict[str, tuple[str, str]]:
    """The list of what was not imported: name → fate, reason."""
    path = Path(said.partition("file by file: ")[2].splitlines()[0])
    assert path.stat().st_mode & 0o077 == 0
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return {shown.rpartition("/")[2]: (fate, reason) for fate, shown, reason in rows}


def test_a_folder_and_a_zip_beside_a_running_central(tmp_path: Path) -> None:
    config, folder = configuration(tmp_path), tmp_path / "discs"
    (folder / "deep" / "er").mkdir(parents=True)
    contents = {name: file_of(number, name) for number, name in enumerate(NAMES)}
    for name, content in contents.items():
        (folder / "deep" / "er" / name).write_bytes(content)
    (folder / "twice.dcm").write_bytes(contents["CT_small.dcm"])
    (folder / "other.dcm").write_bytes(file_of(0, PatientComments="another content, the same UID"))
    (folder / "readme\tof disc.txt").write_text("no DICOM")
    (folder / "cut.dcm").write_bytes(contents["CT_small.dcm"][:140])
    (folder / "link.dcm").symlink_to(folder / "twice.dcm")
    os.mkfifo(folder / "pipe")
    whole = tmp_path / "disc.zip"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("A/B/IM1", file_of(100))
        archive.writestr("A/autorun.inf", b"[autorun]")
        archive.writestr("A/B/", b"")
    with CentralProcess(config):
        arriving = tmp_path / "root" / "objects" / "incoming" / "an upload of a box"
        if arriving.parent.exists():
            arriving.write_bytes(b"half of it")
        first = command(config, "import", folder, whole)
        assert first.returncode == 1, first.stderr
        second = command(config, "import", folder, whole)
        assert not arriving.parent.exists() or arriving.exists()
    assert counts(first.stdout) == {
        "files": 12, "imported": 6, "there already": 1, "no DICOM": 2, "failed": 3,
    }  # fmt: skip
    assert "another content under a UID that was here" in first.stdout
    left = listed(first.stdout)
    assert left["readme\\tof disc.txt"][0] == "no DICOM"
    assert left["cut.dcm"] == ("failed", "it names no SOP instance")
    assert left["link.dcm"][1] == left["pipe"][1] == "a link or a device: it is not followed"
    assert counts(second.stdout) == {"files": 12, "known": 7, "no DICOM": 2, "failed": 3}
    assert not arriving_files(tmp_path)
    with looked_into(config) as (archive, rows):
        assert len(instances(archive)) == 5
        facts = archive.reading.facts(STUDY)
        assert facts is not None
        grant = authorize(EVERYBODY, Action.EXPORT, facts)
        assert isinstance(grant, Grant)
        there = {stored.sha256 for stored in archive.reading.open_instances(grant)}
        current = [*list(contents.values())[1:], file_of(100)]
        assert {hashlib.sha256(content).hexdigest() for content in current} <= there
        events = [row.event for row in rows if row.event.detail.startswith("import ")]
        begins = [event for event in events if " begins: " in event.detail]
        assert len(begins) == 2
        assert str(folder) in begins[0].detail
        assert begins[0].actor_role == "command-line"
        assert sum(int(e.detail.split()[2]) for e in events if e.study_instance_uid == STUDY) == 7
        origins = archive._db.execute_sql("select distinct gateway_id from instance").fetchall()
        assert [origin for (origin,) in origins] == [f"import:{begins[0].actor}"]


def arriving_files(tmp_path: Path) -> list[Path]:
    return [path for path in tmp_path.glob("root/objects*/importing/*") if path.is_file()]


def test_a_disc_that_was_copied_in_part(tmp_path: Path) -> None:
    disc, config = tmp_path / "disc", configuration(tmp_path)
    made = FileSet()
    for number in range(3):
        made.add(dcmread(BytesIO(file_of(number))))
    made.write(disc)
    names = sorted(path for path in disc.rglob("*") if path.is_file() and path.name != "DICOMDIR")
    names[0].unlink()
    names[1].rename(names[1].with_name(names[1].name.lower()))  # as some mount it
    done = told(config, "import", disc)
    assert done.returncode == 1
    assert counts(done.stdout) == {"files": 4, "imported": 2, "DICOMDIR": 1, "failed": 1}
    assert "failed, 1: named by the DICOMDIR, and not there" in done.stdout
    assert names[0].name in str(listed(done.stdout))


def test_what_is_of_an_erased_study_is_left_out_and_the_rest_comes_in(tmp_path: Path) -> None:
    config, folder = configuration(tmp_path), tmp_path / "disc"
    folder.mkdir()
    (folder / "gone.dcm").write_bytes(file_of(0))
    assert told(config, "import", folder).returncode == 0
    assert told(config, "study erase", STUDY, "--reason", "asked for", "--yes").returncode == 0
    (folder / "of-the-same.dcm").write_bytes(file_of(1))
    (folder / "of-another.dcm").write_bytes(file_of(2, StudyInstanceUID="1.2.9.77"))
    done = told(config, "import", folder)
    assert done.returncode == 1
    assert "this study was erased at central" in done.stdout
    with looked_into(config) as (archive, _):
        assert {row.series.study.study_instance_uid for row in instances(archive)} == {"1.2.9.77"}


def test_what_we_give_out_we_take_in(tmp_path: Path) -> None:
    """The ZIP of a study, imported by another central, is the same study."""
    from central.media.file_set import FileSet as Outgoing

    ours, theirs = (tmp_path / name for name in ("ours", "theirs"))
    for place in (ours, theirs):
        place.mkdir()
    source = tmp_path / "source"
    source.mkdir()
    for number, name in enumerate(NAMES):
        (source / name).write_bytes(file_of(number, name))
    first, second = configuration(ours), configuration(theirs)
    assert told(first, "import", source).returncode == 0
    with looked_into(first) as (archive, _):
        facts = archive.reading.facts(STUDY)
        assert isinstance(facts, StudyFacts)
        grant = authorize(EVERYBODY, Action.EXPORT, facts)
        assert isinstance(grant, Grant)
        (tmp_path / "out.zip").write_bytes(
            b"".join(Outgoing(archive.reading, grant, archive.reading.series_of(grant)).zip())
        )
    done = told(second, "import", tmp_path / "out.zip")
    assert done.returncode == 0, done.stdout + done.stderr
    assert counts(done.stdout) == {"files": len(NAMES) + 1, "imported": len(NAMES), "DICOMDIR": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_goes_on_where_it_was_stopped(tmp_path: Path, number: signal.Signals) -> None:
    config, folder = configuration(tmp_path), tmp_path / "many"
    folder.mkdir()
    files = 5 * _BATCH_FILES  # more than one worker has under way
    content = file_of(1_000_000)
    for at in range(files):
        named = f"{STUDY}.1.{1_000_001 + at}".encode()
        (folder / f"{at}.dcm").write_bytes(content.replace(f"{STUDY}.1.1000000".encode(), named))
    process = begun(config, "import", folder, "--workers", 1)
    wait_for_objects(config, 1, process)
    process.send_signal(number)
    said, errors = process.communicate(timeout=300)
    if number == signal.SIGINT:
        assert process.returncode == 1, errors
        assert "give the same command again" in said
        assert counts(said)["imported"] < files
    again = told(config, "import", folder)
    assert again.returncode == 0, again.stdout + again.stderr
    found = counts(again.stdout)
    assert found["files"] == files
    if number == signal.SIGINT:
        assert found["known"] == counts(said)["imported"]
    with looked_into(config) as (archive, _):
        assert len(instances(archive)) == files
    assert not arriving_files(tmp_path)


def test_what_cannot_begin_says_why(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    (tmp_path / "plain.txt").write_text("plain")
    for source, why in (("nowhere", "is not there"), ("plain.txt", "neither a folder nor a ZIP file")):
        done = told(config, "import", tmp_path / source)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr


def test_a_disk_that_becomes_full_stops_it_and_the_next_run_goes_on(tmp_path: Path) -> None:
    folder, config = tmp_path / "disc", configuration(tmp_path)
    folder.mkdir()
    (folder / "large.dcm").write_bytes(file_of(1, Rows=1024, Columns=4096, PixelData=bytes(8 << 20)))
    (folder / "small.dcm").write_bytes(file_of(2))
    done = command(config, "import", folder, largest_file_bytes=4 << 20)
    assert done.returncode == 2
    assert "the disk that holds the archive is full; give the same command again" in done.stderr
    assert not arriving_files(tmp_path)
    again = told(config, "import", folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert counts(again.stdout) == {"files": 2, "imported": 1, "known": 1}


def test_without_room_nothing_begins(tmp_path: Path) -> None:
    (tmp_path / "disc").mkdir()
    (tmp_path / "disc" / "one.dcm").write_bytes(file_of(1))
    config = configuration(tmp_path, reserve_bytes=1 << 60)
    done = command(config, "import", tmp_path / "disc")
    assert done.returncode == 2
    assert "storage.reserve_bytes" in done.stderr
    with looked_into(config) as (archive, _):
        assert not instances(archive)


def test_a_large_file_is_never_in_memory(tmp_path: Path) -> None:
    """In a folder and deflated in a ZIP file; the peak of the importer and of its worker."""
    (tmp_path / "disc").mkdir()
    (tmp_path / "disc" / "1.dcm").write_bytes(file_of(1, **large()))
    with zipfile.ZipFile(tmp_path / "disc.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("1", file_of(2, **large()))
    done = measured(
        configuration(tmp_path), "import", tmp_path / "disc", tmp_path / "disc.zip", "--workers", 1
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert counts(done.stdout)["imported"] == 2
    assert peak_bytes(done) < MOST_BYTES


def test_nothing_of_a_data_set_is_printed(tmp_path: Path) -> None:
    (tmp_path / "disc").mkdir()
    (tmp_path / "disc" / "1.dcm").write_bytes(
        file_of(1, PatientName="Canary^Yellow", PatientBirthDate="nonsense")
    )
    done = command(configuration(tmp_path), "import", tmp_path / "disc")
    assert done.returncode == 0
    assert "anary" not in done.stdout + done.stderr
    assert "nonsense" not in done.stdout + done.stderr
