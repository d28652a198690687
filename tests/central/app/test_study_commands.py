"""``dicomnet-central study …`` as an administrator types it, on a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

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
            for row in reversed(audit.search(limit=50))
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
    changes = [row for row in recorded(desk) if row[0] in ("erase", "legal-hold")]
    assert all(row[2] == STUDY for row in changes)
    assert [(row[0], row[1]) for row in changes] == [
        ("legal-hold", "success"),
        ("erase", "refused"),
        ("legal-hold", "success"),
        ("erase", "success"),
        ("erase", "refused"),
        ("erase", "success"),
    ]
    assert changes[3][3] == "1 objects: asked by the patient"
    assert Desk(tmp_path, desk._capsys).type("verify")[0] == 0, "the audit chain is whole"


def test_a_uid_that_is_none_is_refused(desk: Desk) -> None:
    code, _, err = desk.type("hold", "../x", "--reason", "because")
    assert (code, err.count("\n")) == (2, 1)
