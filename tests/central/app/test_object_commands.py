"""``dicomnet-central objects …`` as an administrator types it, on a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from central.audit.record import Action
from central.foundation import open_archive
from tests.central.access.house import ORIGIN, STUDY, pydicom_file
from tests.central.app.test_audit_commands import Desk
from tests.central.databases import change_object


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys, "objects")


def put(desk: Desk, content: bytes) -> str:
    """The object's name."""
    foundation = desk.foundation()
    archive = open_archive(foundation.settings.storage, foundation.db)
    with archive.new_object() as sink:
        sink.write(content)
        stored = sink.commit()
    archive.index(stored, ORIGIN)
    foundation.close()
    return stored.sha256


def test_verify_names_what_is_wrong_and_says_when_it_is_mended(desk: Desk, tmp_path: Path) -> None:
    content = pydicom_file("CT_small.dcm")
    name = put(desk, content)
    code, out, err = desk.type("verify")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["1 objects, 0.00 GB read", "every object is whole, and the index names it"]
    assert desk.type("faults")[1] == "the last scrub ended: never\n"
    change_object(tmp_path / "root", name, lambda kept: kept[:-1] + b"?")
    code, out, err = desk.type("verify")
    assert code == 2
    assert f"damaged {name}: instance " in out
    assert f"of study {STUDY}, which came from gw-test" in out
    assert err.startswith("dicomnet-central: 1 objects are wrong")
    assert desk.type("verify", "--known")[0] == 2
    events: list[tuple[str, str | None]] = []
    desk.with_audit(
        lambda audit: events.extend(
            (row.event.action.value, row.event.study_instance_uid) for row in audit.search(limit=9)
        )
    )
    assert events.count((Action.OBJECT_FAULT.value, STUDY)) == 1, "found twice, told once"
    change_object(tmp_path / "root", name, lambda _: content)  # put back from a backup
    code, out, _ = desk.type("verify", "--known")
    assert (code, out.splitlines()[0]) == (0, f"mended {name}")
