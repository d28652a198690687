"""``dicomnet-central keys`` as an administrator types it, beside objects that boxes still hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from central.app import run
from central.audit.reading import Wanted
from central.commands import run_command
from central.config import Settings
from central.foundation import Foundation
from contract.settings import load_settings
from contract.standing import StandingReport
from tests.central.app.house import new_key_and_request


class Administrator:
    """Types commands; knows what was said."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.config = folder / "central.toml"
        self.config.write_text(
            f'[storage]\nroot = "{folder / "root"}"\n[gateways]\nacceptance = "pairing-string"\n'
        )
        self.capsys = capsys

    def types(self, *command: str, fails: bool = False) -> str:
        self.capsys.readouterr()
        code = run_command([*command, "--config", str(self.config)], run)
        said = self.capsys.readouterr()
        assert code == (2 if fails else 0), said.err
        return said.err if fails else said.out

    def keys(self, *command: str, fails: bool = False) -> str:
        return self.types("keys", *command, fails=fails)

    def rotate(self) -> str:
        """Rotate; the former newest key's id."""
        former = self.listed()[-1][0]
        self.keys("rotate", "--without-backup")
        return former

    def listed(self) -> list[tuple[str, str]]:
        """(key id, state) of every key."""
        return self._states(self.keys("list").split("\n\n")[0])

    def receipt_keys(self) -> list[tuple[str, str]]:
        """(key id, state) of every receipt key."""
        return self._states(self.keys("list").split("\n\n")[1])

    def _states(self, listed: str) -> list[tuple[str, str]]:
        lines = [line for line in listed.splitlines()[1:] if not line.startswith(" ")]
        return [(line[:32], line.split("  ")[-1]) for line in lines]

    def foundation(self) -> Foundation:
        return Foundation.open(load_settings(Settings, self.config, environ={}))

    def report(self, name: str, version: int, *needed: str) -> None:
        """A gateway of that name, enrolled if it is not, says which keys it needs."""
        foundation = self.foundation()
        try:
            if not foundation.gateways.is_known(name):
                ticket = foundation.pairings.new_pairing(name)
                assert ticket is not None
                foundation.pairings.enrol(ticket.token, new_key_and_request()[1])
            report = StandingReport(key_set_version=version, needed_key_ids=needed, ticket=None)
            foundation.standings.exchange(name, report)
        finally:
            foundation.close()


@pytest.fixture
def administrator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Administrator:
    return Administrator(tmp_path, capsys)


def test_rotate_retire_destroy_in_this_order_only(administrator: Administrator) -> None:
    first = administrator.rotate()
    second = administrator.listed()[-1][0]
    assert administrator.listed() == [(first, "former"), (second, "in use")]
    assert "rotate first" in administrator.keys("retire", second, fails=True)
    assert "retire comes first" in administrator.keys("destroy", first, fails=True)
    assert "there is no sealing key" in administrator.keys("destroy", "0" * 32, fails=True)
    foundation = administrator.foundation()
    assert "destroy" not in foundation.audit.newest(Wanted(), limit=1)[0].event.detail, (
        "nothing was destroyed"
    )
    foundation.close()
    administrator.keys("retire", first)
    assert administrator.listed()[0][1].startswith("retired ")
    administrator.keys("destroy", first)  # no gateway is enrolled
    assert administrator.listed()[0] == (first, "destroyed")
    assert not list((administrator.folder / "root" / "keys" / "sealing").glob(f"{first}.key"))


def test_a_key_that_a_gateway_may_need_is_not_destroyed(administrator: Administrator) -> None:
    first = administrator.rotate()
    second = administrator.listed()[-1][0]
    administrator.keys("retire", first)
    administrator.report("ct", 2, second, first)
    administrator.report("mr", 3, second)
    said = administrator.keys("destroy", first, fails=True)
    assert "ct needs it" in said
    assert "mr" not in said
    assert said.count("\n") == 1
    assert "ct: needs it" in administrator.keys("list")
    administrator.report("ct", 3, second)
    administrator.keys("destroy", first)


def test_a_gateway_that_is_lost_is_given_up_by_name(administrator: Administrator) -> None:
    first = administrator.rotate()
    administrator.report("ct", 1, first)
    administrator.types("gateways", "revoke", "ct")
    administrator.keys("retire", first)
    assert "ct needs it" in administrator.keys("destroy", first, fails=True)
    assert "ct needs it" in administrator.keys("destroy", first, "--despite", "mr", fails=True)
    administrator.keys("destroy", first, "--despite", "ct")
    foundation = administrator.foundation()
    assert foundation.audit.newest(Wanted(), limit=1)[0].event.detail == f"destroy: {first} despite ct"
    foundation.close()


def test_a_rotation_needs_a_backup_or_the_word_that_there_is_none(
    administrator: Administrator, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        administrator.keys("rotate")
    backup = tmp_path / "backup.tar"
    administrator.keys("rotate", "--backup", str(backup))
    assert backup.stat().st_mode & 0o077 == 0
    assert "not replaced" in administrator.keys("rotate", "--backup", str(backup), fails=True)


def test_what_the_disk_lost_comes_back_from_the_backup(administrator: Administrator, tmp_path: Path) -> None:
    backup = tmp_path / "backup.tar"
    administrator.rotate()
    administrator.keys("backup", str(backup))
    keys = administrator.folder / "root" / "keys"
    before = {path.name: path.read_bytes() for path in keys.rglob("*") if path.is_file()}
    for path in [*keys.glob("sealing/*.key"), keys / "key-set.jws", keys / "root.pub"]:
        path.unlink()
    assert "restore" in administrator.keys("list", fails=True)
    assert administrator.keys("restore", str(backup)).count("restored") == 4
    after = {path.name: path.read_bytes() for path in keys.rglob("*") if path.is_file()}
    assert after == before
    assert administrator.keys("restore", str(backup)) == "nothing was missing\n"


def test_lost_keys_are_not_made_up_where_boxes_are_enrolled(
    administrator: Administrator, tmp_path: Path
) -> None:
    backup, keys = tmp_path / "backup.tar", administrator.folder / "root" / "keys"
    administrator.report("ct", 1, administrator.listed()[0][0])
    before = administrator.listed()
    administrator.keys("backup", str(backup))
    keys.rename(tmp_path / "not mounted")
    said = administrator.types("gateways", "list", fails=True)
    assert "is it mounted" in said
    assert "keys restore" in said
    assert not list(keys.glob("ca.*"))
    administrator.keys("restore", str(backup))
    assert administrator.listed() == before
    assert "nothing was changed" in administrator.keys("start-over", fails=True)
    shutil.rmtree(keys)
    assert "--replaces" in administrator.keys("start-over")
    assert administrator.listed()[0][0] != before[0][0]
    assert administrator.types("gateways", "list").startswith("ct ")


def test_a_restore_replaces_nothing_and_does_not_bring_back_what_was_destroyed(
    administrator: Administrator, tmp_path: Path
) -> None:
    (tmp_path / "foreign").mkdir()
    backup, foreign = tmp_path / "backup.tar", Administrator(tmp_path / "foreign", administrator.capsys)
    first = administrator.rotate()
    administrator.keys("backup", str(backup))
    administrator.keys("retire", first)
    administrator.keys("destroy", first)
    assert administrator.keys("restore", str(backup)) == "nothing was missing\n"
    assert administrator.listed()[0] == (first, "destroyed")
    foreign.keys("list")  # another central, with keys of its own
    assert "another key than in the backup" in foreign.keys("restore", str(backup), fails=True)
    (tmp_path / "no.tar").write_bytes(b"no tar")
    assert "not a backup" in administrator.keys("restore", str(tmp_path / "no.tar"), fails=True)


def test_the_backup_of_a_change_brings_back_what_boxes_have(
    administrator: Administrator, tmp_path: Path
) -> None:
    first = administrator.listed()[0][0]
    keys = administrator.folder / "root" / "keys"
    changes: tuple[tuple[str, ...], ...] = (
        ("rotate",),
        ("retire", first),
        ("rotate-receipts", "--lead-days", "0"),
        ("retire-receipts", administrator.receipt_keys()[0][0]),
    )
    for change in changes:
        backup = tmp_path / f"{change[0]}.tar"
        administrator.keys(*change, "--backup", str(backup))
        published = {path: path.read_bytes() for path in keys.glob("*.jws")}
        for path in published:
            path.unlink()
        administrator.keys("restore", str(backup))
        assert {path: path.read_bytes() for path in keys.glob("*.jws")} == published


def test_keys_of_an_older_backup_pass_what_boxes_have_with_one_rotation(administrator: Administrator) -> None:
    key = administrator.listed()[0][0]
    administrator.report("ct", 7, key)
    assert "boxes have key set 7" in administrator.keys("list")
    assert administrator.keys("rotate", "--without-backup").startswith("key set 8 is published")
    administrator.report("mr", (1 << 53) - 1, key)  # it lies
    assert administrator.keys("rotate", "--without-backup").startswith("key set 9 is published")


def test_the_root_stays_offline_and_signs_there(administrator: Administrator, tmp_path: Path) -> None:
    stick, request, signed = tmp_path / "root.key", tmp_path / "request.json", tmp_path / "signed.jws"
    former = administrator.listed()[-1][0]
    administrator.keys("export-root", str(stick))
    assert not (administrator.folder / "root" / "keys" / "root.key").exists()
    assert stick.stat().st_mode & 0o077 == 0
    assert "--root" in administrator.keys("rotate", "--without-backup", fails=True)
    assert administrator.listed() == [(former, "in use")]
    asked = administrator.keys("rotate", "--without-backup", "--request", str(request))
    assert administrator.listed() == [(former, "in use")]  # nothing is published without the root
    said = administrator.keys("sign", str(request), "--root", str(stick), "--out", str(signed))
    compared = said.removeprefix("signed: ")
    assert compared.startswith("set 2 of central-")
    assert asked.endswith(compared), "both places name the same set and key"
    administrator.keys("install", str(signed))
    assert [state for _, state in administrator.listed()] == ["former", "in use"]
    assert "published already" in administrator.keys("install", str(signed), fails=True)
    administrator.keys("retire", former, "--root", str(stick))
    changed = json.loads(request.read_text()) | {"version": 99}
    request.write_text(json.dumps(changed))
    (tmp_path / "foreign").mkdir()
    foreign = Administrator(tmp_path / "foreign", administrator.capsys)
    foreign.keys("export-root", str(tmp_path / "foreign.key"))
    signed.unlink()
    administrator.keys("sign", str(request), "--root", str(tmp_path / "foreign.key"), "--out", str(signed))
    assert "not central's" in administrator.keys("install", str(signed), fails=True)


def test_receipt_keys_are_rotated_ahead_and_retired_with_the_root_offline(
    administrator: Administrator, tmp_path: Path
) -> None:
    stick, request, signed = tmp_path / "root.key", tmp_path / "request.json", tmp_path / "signed.jws"
    ((first, state),) = administrator.receipt_keys()
    assert state == "signs, the first one"
    administrator.keys("export-root", str(stick))
    assert "--root" in administrator.keys("rotate-receipts", "--without-backup", fails=True)
    administrator.keys("rotate-receipts", "--without-backup", "--request", str(request))
    assert len(administrator.receipt_keys()) == 1
    administrator.keys("sign", str(request), "--root", str(stick), "--out", str(signed))
    assert f"{first} signs" in administrator.keys("install", str(signed))
    assert "published already" in administrator.keys("install", str(signed), fails=True)
    (_, begun), (second, waits) = administrator.receipt_keys()
    assert begun == "signs"
    assert waits.startswith("signs from ")
    assert "signs now" in administrator.keys("retire-receipts", first, "--root", str(stick), fails=True)
    too_soon = ("rotate-receipts", "--without-backup", "--lead-days", "0", "--root", str(stick))
    assert "wait until then" in administrator.keys(*too_soon, fails=True)
    assert "between 0 and" in administrator.keys(*too_soon[:3], "-1", fails=True)
    backup = tmp_path / "backup.tar"
    administrator.keys("backup", str(backup))
    keys = administrator.folder / "root" / "keys"
    for path in (keys / f"receipt-{second}.key", keys / "receipt-keys.jws"):
        path.unlink()
    assert administrator.keys("restore", str(backup)).count("restored") == 2
    assert [key_id for key_id, _ in administrator.receipt_keys()] == [first, second]
