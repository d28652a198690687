"""Studies of other archives by the command itself: Orthanc and DCMTK, by C-GET and C-MOVE, whole, stopped, killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import pytest
from pydicom.uid import RLELossless

from central.foundation import Foundation
from central.importing.pace import Hours, Pace
from tests.central.access.house import STUDY, pydicom_file
from tests.central.app.program import CentralProcess
from tests.central.dimse.house import dcmtk, dcmtk_listening, open_house
from tests.central.importing.house import (
    MOST_BYTES,
    begun,
    command,
    configuration,
    instances,
    large,
    looked_into,
    measured,
    peak_bytes,
    settings_of,
    told,
    wait_for_objects,
)
from tests.central.importing.orthanc import Orthanc
from tests.edge.gateway.authority import Authority, Pair
from tests.ports import free_base_port

FILES = ("CT_small.dcm", "MR_small_RLE.dcm", "test-SR.dcm")


def file_of(study: int, number: int, name: str = "CT_small.dcm", **more: object) -> bytes:
    uid = f"{STUDY}.{study}"
    said = {
        "StudyInstanceUID": uid,
        "SeriesInstanceUID": f"{uid}.{len(name)}",
        "SOPInstanceUID": f"{uid}.{len(name)}.{number}",
        "StudyDate": f"2020{study % 12 + 1:02}{study % 28 + 1:02}",
    }
    return pydicom_file(name, **{**said, **more})


def studies(said: str) -> dict[str, int]:
    """The summary's first line."""
    parts = said.splitlines()[0].partition(";")[0].split(", ")
    return {part.partition(" ")[2]: int(part.partition(" ")[0]) for part in parts}


def came(said: str) -> int:
    return int(said.partition("; ")[2].partition(" ")[0].replace(",", ""))


def peers(ae_title: str, port: int) -> list[dict[str, object]]:
    return [
        {"ae_title": ae_title, "address": "127.0.0.1", "host": "127.0.0.1", "port": port, "may": ["store"]}
    ]


@pytest.mark.needs("orthanc")
def test_orthanc_by_c_get_which_lists_three_studies_at_once(tmp_path: Path) -> None:
    """Its list ends at three matches, so it has to be asked by dates; then a study grows, and only that is fetched."""
    config = configuration(tmp_path)
    with Orthanc(tmp_path / "orthanc", {}, limit_find_results=3) as source:
        for study in range(7):
            for number, name in enumerate(FILES):
                source.put(file_of(study, number, name))
        wanted = ("--from", "2020-01-01", "--until", "2020-12-31")
        first = command(config, "import-pacs", source.source, *wanted)
        assert first.returncode == 0, first.stdout + first.stderr
        assert studies(first.stdout) == {"studies": 7, "complete": 7}
        assert came(first.stdout) == 7 * len(FILES)
        source.put(file_of(3, 9))
        second = told(config, "import-pacs", source.source)
        assert second.returncode == 0, second.stdout + second.stderr
        assert studies(second.stdout) == {"studies": 7, "known": 6, "complete": 1}
        assert came(second.stdout) == 1
        assert "studies without a date are not in it" in second.stdout
        one = told(config, "import-pacs", source.source, "--study", f"{STUDY}.5", "--modality", "US")
        assert studies(one.stdout) == {"studies": 0}
        # What one institution has is not yet another's.
        unknown = told(config, "import-pacs", source.source, "--institution", "north")
        assert (unknown.returncode, "no institution north" in unknown.stderr) == (2, True)
        with closing(Foundation.open(settings_of(config))) as foundation:
            foundation.doorkeeper.institutions.add("north", "North Clinic")
        for news in ({"studies": 1, "complete": 1}, {"studies": 1, "known": 1}):
            north = told(
                config, "import-pacs", source.source, "--study", f"{STUDY}.5", "--institution", "north"
            )
            assert studies(north.stdout) == news
    with looked_into(config) as (archive, rows):
        found = instances(archive)
        assert len(found) == 7 * len(FILES) + 1
        assert {row.transfer_syntax_uid for row in found if "MR" in row.series.modality} == {str(RLELossless)}
        details = [row.event.detail for row in rows if row.event.study_instance_uid == f"{STUDY}.3"]
        assert len(details) == 2
        assert details[0].endswith(f": 1 instances from {source.source}")
        origins = archive._db.execute_sql("select distinct gateway_id from instance").fetchall()
        assert sorted(origin for (origin,) in origins) == ["ae:ORTHANC", "ae:north/ORTHANC"]
        facts = archive.reading.facts(f"{STUDY}.5")
        assert facts is not None
        assert [facts.institution, *(one.institution for one in facts.elsewhere)] == ["default", "north"]


@pytest.mark.needs("orthanc")
def test_orthanc_by_c_move_to_a_running_central(tmp_path: Path) -> None:
    config = configuration(tmp_path, {"peers": peers("ORTHANC", 104)})
    with Orthanc(tmp_path / "orthanc", {"DICOMNET": settings_of(config).dicom.port}) as source:
        for number, name in enumerate(FILES):
            source.put(file_of(1, number, name))
        refused = told(config, "import-pacs", "STRANGER@127.0.0.1:" + str(source.port), "--by", "move")
        assert refused.returncode == 2
        assert "may not store here" in refused.stderr
        nobody = told(config, "import-pacs", source.source, "--by", "move")
        assert nobody.returncode == 1
        assert "is central running" in nobody.stdout
        with CentralProcess(config):
            done = told(config, "import-pacs", source.source, "--by", "move")
        assert done.returncode == 0, done.stdout + done.stderr
        assert studies(done.stdout) == {"studies": 1, "complete": 1}
    with looked_into(config) as (archive, _):
        assert len(instances(archive)) == len(FILES)


@pytest.mark.needs("orthanc")
def test_a_source_that_is_killed_in_the_middle(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    many, big = 12, {"Rows": 1024, "Columns": 1024, "PixelData": bytes(2 << 20)}
    with Orthanc(tmp_path / "orthanc", {}) as source:
        for study in range(many):
            for number in range(4):
                source.put(file_of(study, number, **big))
        # Slow enough to be in the middle when it is noticed that it has begun.
        process = begun(config, "import-pacs", source.source, "--by", "get", "--patience", 1, "--mbit", 100)
        wait_for_objects(config, 5, process)
        source.kill()
        said, errors = process.communicate(timeout=300)
        assert process.returncode == 1, said + errors
        assert "give the same command again" in said
        assert "cannot be reached" in errors
        done = studies(said).get("complete", 0)
        assert done < many
        source.start()
        again = told(config, "import-pacs", source.source)
        assert again.returncode == 0, again.stdout + again.stderr
        assert studies(again.stdout).get("known", 0) == done
        assert came(said) + came(again.stdout) <= many * 4
    with looked_into(config) as (archive, _):
        assert len(instances(archive)) == many * 4


@pytest.mark.needs("orthanc")
def test_it_is_stopped_and_goes_on(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with Orthanc(tmp_path / "orthanc", {}) as source:
        for study in range(3):
            for number in range(3):
                source.put(file_of(study, number))
        slow = begun(config, "import-pacs", source.source, "--mbit", "0.1")
        wait_for_objects(config, 1, slow)
        slow.send_signal(signal.SIGINT)
        said, errors = slow.communicate(timeout=300)
        assert slow.returncode == 1, errors
        assert studies(said).get("complete", 0) < 3
        again = told(config, "import-pacs", source.source)
        assert again.returncode == 0, again.stdout + again.stderr
    with looked_into(config) as (archive, _):
        assert len(instances(archive)) == 9


@contextmanager
def dcmqrscp(folder: Path, port: int, central: int) -> Iterator[None]:
    """DCMTK's image archive, which knows central as a destination."""
    (folder / "db").mkdir(parents=True)
    (folder / "qr.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\ncentral = (DICOMNET, 127.0.0.1, {central})\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nQR {folder / 'db'} RW (100, 100mb) ANY\nAETable END\n"
    )
    with dcmtk_listening(port, "dcmqrscp", "-c", folder / "qr.cfg", "+xr"):
        yield


@pytest.mark.needs("dcmtk")
def test_dcmtk_by_both_ways(tmp_path: Path) -> None:
    port = free_base_port(1)
    files = tmp_path / "files"
    files.mkdir()
    for study in range(3):
        for number in range(2):
            (files / f"{study}-{number}.dcm").write_bytes(file_of(study, number))
    for way in ("get", "move"):
        place = tmp_path / way
        place.mkdir()
        config = configuration(place, {"peers": peers("QR", port)})
        with dcmqrscp(place / "qr", port, settings_of(config).dicom.port), CentralProcess(config):
            sent = dcmtk("storescu", "-aec", "QR", "+sd", "127.0.0.1", port, files)
            assert sent.returncode == 0, sent.stderr
            done = told(config, "import-pacs", "QR", "--by", way)
        assert done.returncode == 0, done.stdout + done.stderr
        assert studies(done.stdout) == {"studies": 3, "complete": 3}
        with looked_into(config) as (archive, _):
            assert len(instances(archive)) == 6


def test_over_tls_from_another_central(tmp_path: Path) -> None:
    """DCMTK's and Orthanc's packages for Debian serve no TLS."""
    authority = Authority(tmp_path / "ca")
    ours, theirs = authority.issue("ours"), authority.issue("theirs")

    def tls(pair: Pair, port: int) -> dict[str, object]:
        files = {"certificate": pair.certificate, "key": pair.key, "client_ca": authority.ca}
        return {"port": port, **{name: str(path) for name, path in files.items()}}

    config = configuration(tmp_path, {"ae_title": "OURS", "tls": tls(ours, 0)})
    port = free_base_port(1)
    (tmp_path / "theirs").mkdir()
    may = {"ae_title": "OURS", "address": "127.0.0.1", "certificate_sha256": ours.sha256}
    with open_house(
        tmp_path / "theirs", peers=[{**may, "may": ["query", "retrieve"]}], tls=tls(theirs, port)
    ) as house:
        house.put(file_of(1, 1))
        house.put(file_of(1, 2, "MR_small_RLE.dcm"))
        source = f"DICOMNET@127.0.0.1:{port}"
        plain = told(config, "import-pacs", source, "--patience", 0)
        assert plain.returncode == 1
        assert "cannot be reached" in plain.stderr
        done = told(config, "import-pacs", source, "--tls")
    assert done.returncode == 0, done.stdout + done.stderr
    assert studies(done.stdout) == {"studies": 1, "complete": 1}


def test_a_large_instance_is_never_in_memory(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    (tmp_path / "theirs").mkdir()
    peer = {"ae_title": "DICOMNET", "address": "127.0.0.1", "may": ["query", "retrieve"]}
    with open_house(tmp_path / "theirs", peers=[peer]) as house:
        house.put(file_of(1, 1, **large()))
        done = measured(config, "import-pacs", f"DICOMNET@127.0.0.1:{house.port}", "--by", "get")
    assert done.returncode == 0, done.stdout + done.stderr
    assert studies(done.stdout) == {"studies": 1, "complete": 1}
    assert peak_bytes(done) < MOST_BYTES


def test_what_cannot_begin_says_why(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    gone = free_base_port(1)
    for source, arguments, code, why in (
        ("NOBODY", (), 2, "no peer NOBODY"),
        ("A@host:port", (), 2, "no AE@HOST:PORT"),
        (f"A@127.0.0.1:{gone}", ("--study", "x"), 2, "named by its UID"),
        (f"A@127.0.0.1:{gone}", ("--hours", "8-9"), 2, "--hours"),
        (f"A@127.0.0.1:{gone}", ("--tls",), 2, "dicom.tls.certificate"),
        (f"A@127.0.0.1:{gone}", (), 1, "cannot be reached"),
    ):
        done = told(config, "import-pacs", source, *arguments)
        assert (done.returncode, why in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(
    ("hours", "now", "wait_s"),
    [
        ("20:00-06:00", "21:00", 0),
        ("20:00-06:00", "05:59", 0),
        ("20:00-06:00", "06:00", 14 * 3600),
        ("08:00-17:30", "17:30", 14.5 * 3600),
        ("08:00-17:30", "07:00", 3600),
        ("00:00-00:00", "12:00", 0),
    ],
)
def test_hours(hours: str, now: str, wait_s: float) -> None:
    hour, minute = map(int, now.split(":"))
    assert Hours.read(hours).wait_s(datetime(2026, 3, 3, hour, minute, tzinfo=UTC)) == wait_s


def test_the_pace_is_held_and_hours_are_said_once() -> None:
    waited: list[float] = []
    now_s = 100.0

    class Waiting(Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now_s
            waited.append(timeout or 0.0)
            now_s += timeout or 0.0
            return False

    said: list[str] = []
    moments = iter(
        [
            datetime(2026, 3, 3, 5, 50, tzinfo=UTC),
            datetime(2026, 3, 3, 5, 55, tzinfo=UTC),
            datetime(2026, 3, 3, 6, 0, tzinfo=UTC),
        ]
    )
    pace = Pace(Hours.read("06:00-07:00"), 1000, Waiting(), said.append, lambda: next(moments), lambda: now_s)
    for _ in range(4):
        pace.spend(1000)
    assert sum(waited) == pytest.approx(4, abs=1.1)
    waited.clear()
    pace.wait_for_hours()
    assert waited == [300, 300]
    assert said == ["outside of the hours: waiting for 0:10:00"]
