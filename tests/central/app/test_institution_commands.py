"""`dicomnet-central institution …` and what `user` and `pair` say of institutions, on a real data folder."""

from __future__ import annotations

import io
import json
from contextlib import closing
from pathlib import Path

import pytest

from central.access.policy import Agreement, Sharing
from central.app import run
from central.audit.events import Action
from central.audit.reading import Wanted
from central.commands import run_command
from central.config import Settings
from central.foundation import Foundation
from tests.central.databases import storage_keys


class Commands:
    """Types commands and reads what they say."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.settings = Settings.model_validate({"storage": storage_keys(root), "gateways": {"port": 11443}})
        self._config = root / "central.toml"
        said = {"storage": storage_keys(root), "gateways": {"port": 11443}}
        lines = [
            f"{name} = {json.dumps(value)}"
            for name, value in said["storage"].items()
            if not isinstance(value, dict)
        ]
        self._config.write_text("\n".join(["[storage]", *lines, "[gateways]", "port = 11443", ""]))
        self._capsys, self._patch = capsys, patch

    def __call__(self, *arguments: str, given: str = "") -> tuple[int, str]:
        self._patch.setattr("sys.stdin", io.StringIO(given))
        code = run_command([*arguments, "--config", str(self._config)], run)
        captured = self._capsys.readouterr()
        return code, captured.out + captured.err


@pytest.fixture
def commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, capsys, monkeypatch)


def test_institutions_are_added_and_agree_until_it_is_ended(commands: Commands) -> None:
    assert commands("institution", "add", "north", "--name", "North Clinic") == (
        0, "institution north: North Clinic\n",
    )  # fmt: skip
    code, said = commands("institution", "agree", "north", "default", "--for", "reading")
    agreement_id = said.split()[0]
    assert (code, said) == (0, f"{agreement_id}  agreement on reading: north opens to default\n")
    _, listed = commands("institution", "list")
    assert [line.split() for line in listed.splitlines()] == [
        ["default"],
        ["north", "North", "Clinic"],
        [agreement_id, "north", "opens", "to", "default", "for", "reading"],
    ]
    with closing(Foundation.open(commands.settings)) as foundation:
        opened = foundation.doorkeeper.institutions.opened_to("default")
        assert opened == {Agreement(Sharing.READING, "north")}
        for institution in ("north", "default"):  # on record for both
            (row,) = foundation.audit.newest(Wanted(institutions=(institution,)), limit=9)
            assert row.event.action is Action.ACCESS_CHANGE
    assert commands("institution", "end", agreement_id)[0] == 0
    for wrong, why in (
        (("end", agreement_id), "no such agreement"),
        (("agree", "north", "south", "--for", "reading"), "no institution south"),
        (("agree", "north", "north", "--for", "reading"), "itself"),
        (("add", "Not/One"), "is called by"),
        (("move-gateway", "nobody", "north"), "no gateway"),
    ):
        code, said = commands("institution", *wrong)
        assert code == 2
        assert why in said


def test_accounts_and_boxes_are_of_institutions_that_are_there(commands: Commands) -> None:
    commands("institution", "add", "north")
    password = "a long password\n"
    added = ("user", "add", "tess", "--role", "technician", "--department", "Röntgen")
    assert commands(*added, "--institution", "south", given=password)[0] == 2
    assert commands(*added, "--gateway", "nobody", given=password)[0] == 2
    assert commands(*added, "--institution", "north", given=password)[0] == 0
    assert commands("user", "add", "root", "--role", "admin", given=password)[0] == 0
    assert commands("user", "add", "ann", "--role", "doctor", "--institution", "*", given=password)[0] == 2
    _, listed = commands("user", "list")
    assert [line.split() for line in listed.splitlines()] == [
        ["root", "admin"],
        ["tess", "technician", "institution:", "north;", "departments:", "Röntgen"],
    ]
    assert commands("user", "change", "tess", "--institution", "default", "--department", "CT")[0] == 0
    assert commands("user", "change", "tess")[0] == 2
    assert commands("user", "change", "nobody", "--department", "CT")[0] == 2
    assert ["tess", "technician", "departments:", "CT"] in [
        line.split() for line in commands("user", "list")[1].splitlines()
    ]
    assert commands("pair", "--institution", "south")[0] == 2
    assert commands("pair", "--institution", "north", "--name", "ct")[0] == 0
