"""``dicomnet-central audit …`` as an administrator types it, on a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from central import audit_commands
from central.app import run
from central.audit.events import Action, AuditEvent
from central.audit.record import Audit
from central.commands import run_command
from central.config import Settings
from central.foundation import Foundation, open_archive
from contract.settings import load_settings
from tests.central.access.house import ORIGIN, STUDY, pydicom_file
from tests.central.databases import put_in, storage_keys


class Desk:
    """Commands of one group, with one configuration."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], group: str = "audit") -> None:
        self._group = group
        self.config = folder / "central.toml"
        self._capsys = capsys
        self._folder = folder
        self.write()

    def write_storage(self, **storage: object) -> None:
        """The configuration, with these keys of [storage]."""
        self._write(storage, {})

    def write(self, **audit: object) -> None:
        """The configuration, with these keys of [audit]."""
        self._write({}, audit)

    def _write(self, storage: dict[str, object], audit: dict[str, object]) -> None:
        keys = {**storage_keys(self._folder / "root"), **storage}
        s3 = keys.pop("s3", {})
        text = "[storage]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in keys.items())
        if s3:
            text += "[storage.s3]\n" + "".join(
                f"{name} = {json.dumps(value)}\n" for name, value in s3.items()
            )
        self.config.write_text(
            text + "[audit]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in audit.items())
        )

    def type(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        self._capsys.readouterr()
        code = run_command([self._group, *words, "--config", str(self.config)], run)
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def foundation(self) -> Foundation:
        return Foundation.open(load_settings(Settings, self.config))

    def with_audit(self, work: Callable[[Audit], object]) -> None:
        foundation = self.foundation()
        work(foundation.audit)
        foundation.close()


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def look(actor: str, study: str = STUDY) -> AuditEvent:
    return AuditEvent(actor, "doctor", Action.VIEW, "success", "::1", study)


def test_who_has_seen_a_patient(desk: Desk) -> None:
    foundation = desk.foundation()
    archive = open_archive(foundation.settings.storage, foundation.db)
    put_in(archive, pydicom_file("CT_small.dcm"), ORIGIN)
    foundation.audit.record(look("ann"))
    foundation.audit.record(look("bob", "9.9"))
    foundation.close()
    code, out, _ = desk.type("export", "--patient", "P1", "--issuer", "HOSP")
    assert code == 0
    assert [json.loads(line)["actor"] for line in out.splitlines()] == ["ann"]
    assert desk.type("export", "--patient", "P1")[1] == ""
    seen: list[str] = []
    desk.with_audit(
        lambda audit: seen.extend(row["detail"] for row in audit.rows() if row["action"] == "export")
    )
    assert seen[0] == "audit record, ndjson patient=P1 issuer=HOSP"


def test_prune_removes_what_is_old_and_verify_goes_on(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.with_audit(lambda audit: [audit.record(look(f"user{number}")) for number in range(5)])
    old = tmp_path / "old.ndjson"
    assert desk.type("prune", "--export", str(old))[:2] == (0, "nothing is older than 10 years\n")
    monkeypatch.setattr(audit_commands, "cutoff", lambda now, _: now.isoformat(timespec="microseconds"))
    code, out, err = desk.type("prune", "--export", str(old))
    assert (code, err) == (0, "")
    assert "5 records, up to 5, are in" in out
    assert len(old.read_text().splitlines()) >= 6
    code, out, _ = desk.type("verify")
    assert code == 0
    assert "records up to 5, from before" in out
    assert "nothing was changed" in out
    actions: list[str] = []
    desk.with_audit(lambda audit: actions.extend(row["action"] for row in audit.rows()))
    assert actions == ["prune-audit", "read-audit"]
    code, _, err = desk.type("prune", "--export", str(old))
    assert (code, "is there already" in err) == (2, True)
    lines = [json.loads(line) for line in desk.type("export")[1].splitlines()]
    assert "pruned" in lines[0]


def test_a_record_that_is_kept_for_ever_is_not_pruned(desk: Desk, tmp_path: Path) -> None:
    desk.write(retention_years=0)
    code, _, err = desk.type("prune", "--export", str(tmp_path / "old.ndjson"))
    assert (code, "for ever" in err) == (2, True)
