"""``dicomnet-central study …`` as an administrator types it, on a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from central.audit.reading import Wanted
from tests.central.access.house import STUDY, pydicom_file
from tests.central.app.test_audit_commands import Desk
from tests.central.app.test_object_commands import put
from tests.central.databases import contents_in


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys, "study")


def recorded(desk: Desk) -> list[tuple[str, str, str | None, str]]:
    found: list[tuple[str, str, str | None, str]] = []
    desk.with_audit(
        lambda audit: found.extend(
            (row.event.action.value, row.event.outcome, row.event.study_instance_uid, row.event.detail)
            for row in reversed(audit.newest(Wanted(), limit=50))
        )
    )
    return found


def test_a_study_is_held_released_and_erased_each_on_record(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("central.archive.erasure.ON_ITS_WAY_S", 0.0)
    put(desk, pydicom_file("CT_small.dcm"))
    assert desk.type("hold", STUDY, "--reason", "court 17")[0] == 0
    code, _, err = desk.type("erase", STUDY, "--yes", "--reason", "asked by the patient")
    assert (code, "under legal hold" in err, "court 17" in err) == (2, True, True)
    assert desk.type("list")[1].startswith(f"held    {STUDY}")
    assert desk.type("release", STUDY, "--reason", "court 17 has ruled")[0] == 0
    code, _, err = desk.type("erase", STUDY, "--reason", "asked by the patient")
    assert (code, "1 objects of this study would be erased; nothing was" in err) == (2, True)
    assert len(contents_in(tmp_path / "root")) == 1
    assert desk.type("erase", STUDY, "--yes", "--reason", " ")[0] == 2
    code, out, err = desk.type("erase", STUDY, "--yes", "--reason", "asked by the patient")
    assert (code, err) == (0, "")
    assert out.startswith("the study and its 1 objects are erased")
    assert contents_in(tmp_path / "root") == []
    assert desk.type("list")[1].startswith(f"erased  {STUDY}")
    assert desk.type("erase", STUDY, "--yes", "--reason", "once more")[0] == 2
    assert desk.type("allow", STUDY, "--reason", "sent by mistake")[0] == 0
    assert desk.type("list")[1] == ""
    changes = [row for row in recorded(desk) if row[0] in ("erase", "readmit", "legal-hold")]
    assert all(row[2] == STUDY for row in changes)
    assert [(row[0], row[1]) for row in changes] == [
        ("legal-hold", "success"),
        ("erase", "refused"),
        ("legal-hold", "success"),
        ("erase", "success"),
        ("erase", "refused"),
        ("readmit", "success"),
    ]
    assert changes[3][3] == "1 objects: asked by the patient"
    assert Desk(tmp_path, desk._capsys).type("verify")[0] == 0, "the audit chain is whole"


def test_a_uid_that_is_none_is_refused(desk: Desk) -> None:
    code, _, err = desk.type("hold", "../x", "--reason", "because")
    assert (code, err.count("\n")) == (2, 1)


def test_of_several_institutions_that_have_a_study_one_is_named(desk: Desk, tmp_path: Path) -> None:
    put(desk, pydicom_file("CT_small.dcm"))
    assert Desk(tmp_path, desk._capsys, "institution").type("add", "north")[0] == 0
    folder = tmp_path / "disc"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(pydicom_file("CT_small.dcm"))
    importing = Desk(tmp_path, desk._capsys, "import")
    code, _, err = importing.type(str(folder), "--institution", "south")
    assert (code, "no institution south" in err) == (2, True)
    for _ in range(
        2
    ):  # the second time it knows the file, as the first one's of the other institution it did not
        assert importing.type(str(folder), "--institution", "north")[0] == 0
    why = ("--reason", "asked by the patient")
    code, _, err = desk.type("erase", STUDY, "--yes", *why)
    assert (code, "(default, north): say with --institution" in err) == (2, True)
    assert desk.type("hold", STUDY, *why, "--institution", "north")[0] == 0
    assert "institution: north" in desk.type("list")[1]
    code, _, err = desk.type("erase", STUDY, "--yes", *why, "--institution", "north")
    assert (code, "under legal hold" in err) == (2, True)
    assert desk.type("erase", STUDY, "--yes", *why, "--institution", "default")[0] == 0
    assert contents_in(tmp_path / "root") == [pydicom_file("CT_small.dcm")], "it is the other's as well"
    assert desk.type("release", STUDY, *why)[0] == 0, "one alone has a hold: it is meant"
    assert desk.type("erase", STUDY, "--yes", *why)[0] == 0, "and one alone has the study"
    assert contents_in(tmp_path / "root") == []
    assert Desk(tmp_path, desk._capsys).type("verify")[0] == 0
