"""``dicomnet-central objects …`` as an administrator types it, on a folder of its own."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from central.access.policy import Action as PolicyAction
from central.access.policy import Grant, authorize
from central.app import run
from central.archive import postings
from central.archive.object_names import name_of
from central.audit.events import Action
from central.audit.reading import Wanted
from central.commands import run_command
from central.foundation import open_archive
from tests.central.access.house import ORIGIN, STUDY, pydicom_file
from tests.central.app.house import RADIOLOGIST
from tests.central.app.test_audit_commands import Desk
from tests.central.databases import change_object, put_in, storage


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys, "objects")


def put(desk: Desk, content: bytes) -> str:
    """The object's name."""
    foundation = desk.foundation()
    archive = open_archive(foundation.settings.storage, foundation.db)
    put_in(archive, content, ORIGIN)
    name = name_of(foundation.db, hashlib.sha256(content).hexdigest())
    foundation.close()
    assert name is not None
    return name


def test_verify_names_what_is_wrong_and_says_when_it_is_mended(desk: Desk, tmp_path: Path) -> None:
    name = put(desk, pydicom_file("CT_small.dcm"))
    code, out, err = desk.type("verify")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["1 objects, 0.00 GB read", "every object is whole, and the index names it"]
    assert desk.type("faults")[1] == "the last scrub ended: never\n"
    whole: list[bytes] = []

    def damaged(kept: bytes) -> bytes:
        whole.append(kept)
        return kept[:-1] + bytes([kept[-1] ^ 1])

    change_object(tmp_path / "root", name, damaged)
    code, out, err = desk.type("verify")
    assert code == 2
    assert f"damaged {name}: instance " in out
    assert f"of study {STUDY}, which came from gw-test" in out
    assert err.startswith("dicomnet-central: 1 objects are wrong")
    assert desk.type("verify", "--known")[0] == 2
    events: list[tuple[str, str | None]] = []
    desk.with_audit(
        lambda audit: events.extend(
            (row.event.action.value, row.event.study_instance_uid) for row in audit.newest(Wanted(), limit=9)
        )
    )
    assert events.count((Action.OBJECT_FAULT.value, STUDY)) == 1, "found twice, told once"
    change_object(tmp_path / "root", name, lambda _: whole[0])  # put back from a backup
    code, out, _ = desk.type("verify", "--known")
    assert (code, out.splitlines()[0]) == (0, f"mended {name}")


def test_a_study_that_searches_do_not_find_is_named_and_mended(desk: Desk) -> None:
    put(desk, pydicom_file("CT_small.dcm"))
    foundation = desk.foundation()
    postings.fold(foundation.db, 1)
    postings.put_members(foundation.db, 0, "mCT", 0)
    foundation.close()
    code, out, err = desk.type("verify")
    said = f"study {STUDY} of default: in searches it is not found by modality"
    assert (code, said in out.splitlines()) == (2, True), out
    assert "dicomnet-central objects mend-searches" in err
    assert desk.type("verify", "--known")[0] == 0, "that is of objects"
    code, out, _ = desk.type("mend-searches")
    assert (code, out) == (0, f"{said}\n1 faults were mended: searches find every study\n")
    assert desk.type("verify")[0] == 0


def test_what_lay_plain_is_encrypted_and_keys_rotate(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = Desk(tmp_path, capsys, "keys")
    keys.config = desk.config
    desk.write_storage(encrypt=False)
    content = pydicom_file("CT_small.dcm")
    plain = put(desk, content)
    assert desk.type("encrypt")[0] == 2
    desk.write_storage(encrypt=True)
    assert desk.type("encrypt")[1].splitlines()[0] == "1 objects were encrypted"
    assert desk.type("encrypt")[1].splitlines()[0] == "0 objects were encrypted"
    assert desk.type("verify")[0] == 0
    code, out, _ = keys.type("storage")
    assert code == 0
    (first,) = [line.split()[0] for line in out.splitlines()]
    assert "in use  wraps the keys of 1 studies" in out
    backup = tmp_path / "keys.tar"
    assert keys.type("rotate-storage", "--backup", str(backup))[0] == 0
    assert "former  wraps the keys of 0 studies" in keys.type("storage")[1]
    second = keys.type("storage")[1].splitlines()[1].split()[0]
    assert keys.type("destroy-storage", second)[0] == 2
    assert keys.type("destroy-storage", first)[0] == 0
    (tmp_path / "root" / "keys" / f"{second}.key").unlink()
    code, _, err = desk.type("verify")
    assert (code, f"{second}.key is missing: restore it from the backup" in err) == (2, True)
    assert run_command(["keys", "restore", str(backup), "--config", str(desk.config)], run) == 0
    assert not (tmp_path / "root" / "keys" / f"{first}.key").exists(), "what was destroyed stays so"
    code, out, _ = desk.type("verify")
    assert (code, plain not in out) == (0, True)
    foundation = desk.foundation()
    archive = open_archive(foundation.settings.storage, foundation.db)
    facts = archive.reading.facts(STUDY)
    assert facts is not None
    grant = authorize(RADIOLOGIST, PolicyAction.VIEW, facts)
    assert isinstance(grant, Grant)
    assert archive.reading.open_instances(grant)[0].path.read_bytes() == content
    foundation.close()


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        ("central.sqlite3", "metadata", "damaged database of the index: "),
        ("audit.sqlite3", "audit_record", "audit record"),
    ],
)
def test_a_damaged_database_file_is_found_and_named(
    desk: Desk, tmp_path: Path, name: str, table: str, said: str
) -> None:
    if storage(tmp_path / "root").database:
        pytest.skip("the pages of a server are the server's to look after")
    put(desk, pydicom_file("CT_small.dcm"))
    assert desk.type("verify")[0] == 0
    path = tmp_path / "root" / name
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = db.execute("PRAGMA page_size").fetchone()
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    db.close()
    kept = path.read_bytes()
    path.write_bytes(kept[: (page - 1) * size] + os.urandom(size) + kept[page * size :])
    code, out, err = desk.type("verify")
    assert (code, said in out + err) == (2, True), out + err
    path.write_bytes(b"no database at all" * 500)
    code, _, err = desk.type("verify")
    assert (code, str(path) in err, err.count("\n")) == (2, True, 1), err
