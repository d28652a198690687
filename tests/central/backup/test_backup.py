"""A whole central into a folder while it runs, and back into an empty place: same images, people, keys and record."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from central import backup_commands
from central.access.policy import Role
from central.archive.tables import DoomedObject
from central.audit.events import Action, AuditEvent
from central.audit.reading import Wanted
from central.foundation import Foundation, open_archive, open_objects
from tests.central.access.house import ORIGIN, PASSWORD, STUDY, pydicom_file
from tests.central.app.program import CentralProcess
from tests.central.databases import contents_in, encrypts, put_in, storage_keys
from tests.central.importing.house import command, configuration, instances, looked_into, settings_of, told

FILES = 6


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A central with images and a radiologist, not running."""
    place = tmp_path / "ours"
    place.mkdir()
    made = configuration(place)
    with closing(Foundation.open(settings_of(made))) as foundation:
        foundation.accounts.create_user("anna", PASSWORD, Role.RADIOLOGIST)
    fill(made, range(FILES))
    return made


def fill(config: Path, numbers: range) -> None:
    with closing(Foundation.open(settings_of(config))) as foundation:
        archive = open_archive(foundation.settings.storage, foundation.db, "filling")
        for number in numbers:
            put_in(archive, pydicom_file("CT_small.dcm", SOPInstanceUID=f"{STUDY}.1.{number}"), ORIGIN)


def backup(config: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return told(config, "backup", folder, *more)


def objects_in(folder: Path) -> list[Path]:
    return sorted((folder / "objects").rglob("*.dcm"))


def anna_sees(config: Path) -> int:
    """How many instances a radiologist finds in a central that runs on `config`."""
    with CentralProcess(config) as process, httpx.Client(base_url=process.people_url, timeout=60) as client:
        form = {"username": "anna", "password": PASSWORD}
        token = client.post("/api/auth/token", data=form).json()["access_token"]
        answer = client.get(
            f"/dicom-web/studies/{STUDY}/instances", headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 200, answer.text
        return len(answer.json())


def test_a_running_central_comes_back_whole(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    with CentralProcess(config):
        first = command(config, "backup", folder)
        assert first.returncode == 0, first.stderr
        fill(config, range(FILES, FILES + 2))
        second = backup(config, folder)
    assert second.returncode == 0, second.stderr
    assert f"{FILES + 2} objects" in second.stdout
    assert f"{FILES} of them were there already" in second.stdout
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.glob("*/*") if path.is_file())
    checked = backup(config, folder, "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr

    place = tmp_path / "theirs"
    place.mkdir()
    restored_to = configuration(place)
    restored = command(restored_to, "restore", folder)
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert sorted(contents_in(place / "root")) == sorted(contents_in(tmp_path / "ours" / "root"))
    assert anna_sees(restored_to) == FILES + 2
    verified = told(restored_to, "audit verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    with looked_into(restored_to) as (_, rows):
        details = [row.event.detail for row in rows]
    assert f"backup of everything into {folder}" in details
    assert any(detail.startswith("restore of everything from") for detail in details)
    again = told(restored_to, "restore", folder)
    assert again.returncode == 2
    assert "replaces nothing" in again.stderr


def encrypt_during(monkeypatch: pytest.MonkeyPatch, config: Path, *, and_remove: bool = False) -> None:
    """From now on every object is encrypted while a backup is made, after its databases were saved."""
    really_save = backup_commands.save

    def save(folder: Path, target: Path) -> None:
        done = told(config, "objects encrypt")
        assert done.returncode == 0, done.stderr
        if and_remove:
            with closing(Foundation.open(settings_of(config))) as foundation:
                objects = open_objects(foundation.settings.storage, "removing")
                for doomed in DoomedObject.select().execute(foundation.db):
                    objects.remove(doomed.sha256)
        really_save(folder, target)

    monkeypatch.setattr(backup_commands, "save", save)


@pytest.mark.skipif(encrypts(), reason="everything is encrypted before")
def test_what_is_encrypted_during_a_backup_is_in_it_as_its_index_names_it(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backup"
    encrypting = configuration(config.parent, encrypt=True)
    encrypt_during(monkeypatch, encrypting)
    made = backup(encrypting, folder)
    assert made.returncode == 0, made.stdout + made.stderr
    assert backup(encrypting, folder, "--check").returncode == 0
    place = tmp_path / "theirs"
    place.mkdir()
    restored_to = configuration(place, encrypt=True)
    assert command(restored_to, "restore", folder).returncode == 0
    verified = command(restored_to, "objects verify")
    assert verified.returncode == 0, verified.stdout


@pytest.mark.skipif(encrypts(), reason="everything is encrypted before")
def test_what_was_encrypted_and_is_gone_before_it_is_copied_is_named_as_lacking(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backup"
    encrypting = configuration(config.parent, encrypt=True)
    encrypt_during(monkeypatch, encrypting, and_remove=True)
    made = backup(encrypting, folder)
    assert made.returncode == 1
    assert f"{FILES} LACKING" in made.stdout
    assert backup(encrypting, folder, "--check").returncode == 1
    monkeypatch.undo()
    assert backup(encrypting, folder).returncode == 0, "the next one is whole"


def test_the_record_comes_before_the_first_byte(config: Path, tmp_path: Path) -> None:
    assert backup(config, tmp_path / "backup").returncode == 0
    with closing(Foundation.open(settings_of(config))) as foundation:
        [row] = foundation.audit.newest(Wanted(action="export"), limit=5)
        event: AuditEvent = row.event
    assert event.actor_role == "command-line"
    assert event.study_instance_uid is None


def test_what_is_damaged_or_gone_in_the_archive_is_named_and_the_rest_is_kept(
    config: Path, tmp_path: Path
) -> None:
    root = tmp_path / "ours" / "root"
    if storage_keys(root).get("s3"):
        pytest.skip("objects are on S3")
    first, second, *_ = sorted((root / "objects").rglob("*.dcm"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1] + b"!")
    done = backup(config, tmp_path / "backup")
    assert done.returncode == 1
    assert f"lacking: {first.stem}: it is not there" in done.stdout
    assert f"lacking: {second.stem}: its content is another" in done.stdout
    assert len(objects_in(tmp_path / "backup")) == FILES - 2


def test_a_damaged_backup_is_found_out(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    assert backup(config, folder).returncode == 0
    damaged = objects_in(folder)[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(bytes(len(whole)))
    checked = backup(config, folder, "--check")
    assert checked.returncode == 1
    assert f"lacking: {damaged.stem}: its content is another" in checked.stdout
    damaged.write_bytes(whole)
    [keys] = folder.glob("*/keys.tar")
    keys.write_bytes(keys.read_bytes()[:-1] + b"!")
    checked = backup(config, folder, "--check")
    assert checked.returncode == 2
    assert "keys.tar is damaged" in checked.stderr
    place = tmp_path / "theirs"
    place.mkdir()
    refused = told(configuration(place), "restore", folder)
    assert refused.returncode == 2
    assert not (place / "root").exists()


def test_a_backup_that_was_cut_is_none_and_a_restore_goes_on(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    assert backup(config, folder).returncode == 0
    [manifest] = folder.glob("*/backup.json")
    kept = manifest.read_text()
    manifest.unlink()
    place = tmp_path / "theirs"
    place.mkdir()
    target = configuration(place)
    nothing = told(target, "restore", folder)
    assert nothing.returncode == 2
    assert "no whole backup" in nothing.stderr
    manifest.write_text(kept)
    lost = objects_in(folder)[0]
    content = lost.read_bytes()
    lost.unlink()
    part = told(target, "restore", folder)
    assert part.returncode == 1
    assert f"lacking: {lost.stem}" in part.stdout
    with looked_into(target) as (archive, _):
        assert len(instances(archive)) == FILES  # the row says what is missing
    assert content not in contents_in(place / "root")


def test_an_audit_record_that_outlived_the_index_is_kept(config: Path, tmp_path: Path) -> None:
    root = tmp_path / "ours" / "root"
    if storage_keys(root)["database"]:
        pytest.skip("PostgreSQL holds both")
    folder = tmp_path / "backup"
    assert backup(config, folder).returncode == 0
    with closing(Foundation.open(settings_of(config))) as foundation:
        newest = foundation.audit.newest(Wanted(), limit=1)[0].id
        foundation.audit.record(AuditEvent("anna", "radiologist", Action.VIEW, "success", "local"))
    for path in root.glob("central.sqlite3*"):
        path.unlink()
    shutil.rmtree(root / "objects")
    assert told(config, "restore", folder).returncode == 0
    with closing(Foundation.open(settings_of(config))) as foundation:
        assert foundation.audit.newest(Wanted(), limit=1)[0].id == newest + 2
    assert anna_sees(config) == FILES
