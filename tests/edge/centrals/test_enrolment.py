"""Enrolling with further centrals: from the shell with and without a running box, twice, and moving."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.settings import SettingsError, load_settings
from edge import commands
from edge.config import Settings
from edge.uplink.errors import EnrolmentRefusedError
from tests.edge.app.waiting import wait
from tests.edge.buffer.instances import store
from tests.edge.centrals.conftest import Start
from tests.edge.centrals.test_copy import enrol
from tests.edge.scripted_central import ScriptedCentral


def settings_in(folder: Path) -> Settings:
    """The same box as `start` makes."""
    return Settings.model_validate(
        {
            "box": {"state_directory": folder / "box", "control_socket": folder / "s"},
            "uplink": {"further_centrals": ["north"], "mode": "copy"},
        }
    )


def test_from_the_shell_at_rest_and_while_it_runs(
    start: Start,
    central: ScriptedCentral,
    north: ScriptedCentral,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = settings_in(tmp_path)
    with pytest.raises(EnrolmentRefusedError, match="no central is called south: there are central, north"):
        commands.enrol_from_shell(settings, str(north.pairing), "south")
    commands.enrol_from_shell(settings, str(central.pairing), "central")
    with pytest.raises(EnrolmentRefusedError, match="that this box knows as central"):
        commands.enrol_from_shell(settings, str(central.pairing), "north")
    box = start(further_centrals=["north"], mode="copy")
    assert box.operations.status().centrals[0].gateway_id is None
    commands.enrol_from_shell(settings, str(north.pairing), "north")
    assert capsys.readouterr().out.splitlines() == [
        f"enrolled as gw-test at 127.0.0.1:{central.port}",
        f"enrolled as gw-north at 127.0.0.1:{north.port}",
    ]
    assert (tmp_path / "box" / "identity" / "current").is_symlink()
    assert (tmp_path / "box" / "centrals" / "north" / "identity" / "current").is_symlink()
    object_id = store(box._spool, 1).object_id
    wait(box, lambda _: object_id in north.archived and object_id in central.archived)


def test_nothing_is_taken_in_before_the_first_is_there(start: Start, north: ScriptedCentral) -> None:
    box = start(further_centrals=["north"], mode="copy")
    enrol(box, north, "north")
    status = box.operations.status()
    assert not status.accepting
    assert status.centrals[0].gateway_id == "gw-north"


def test_a_copy_central_is_not_changed_for_another_while_something_waits_for_it(
    start: Start, central: ScriptedCentral, north: ScriptedCentral, tmp_path: Path
) -> None:
    box = start(further_centrals=["north"], mode="copy")
    enrol(box, central)
    enrol(box, north, "north")
    north.stop()
    object_id = store(box._spool, 1).object_id
    wait(box, lambda _: object_id in central.archived)
    (tmp_path / "south").mkdir()
    south = ScriptedCentral(tmp_path / "south", gateway_id="gw-south", central_id="central-south").start()
    try:
        with pytest.raises(EnrolmentRefusedError, match="1 objects wait that only that central can open"):
            enrol(box, south, "north")
        box._destinations.give_up("north", None)
        enrol(box, south, "north")
        later = store(box._spool, 2).object_id
        wait(box, lambda _: later in south.archived and later in central.archived)
        assert object_id not in south.archived
    finally:
        south.stop()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[uplink]\nfurther_centrals = ["central"]\n', "is what the first central is called"),
        ('[uplink]\nfurther_centrals = ["a", "A"]\n', "two destinations or centrals are called A"),
        ('[uplink]\nfurther_centrals = ["../a"]\n', "letters, digits, spaces"),
        ('[uplink]\nfurther_centrals = ["a", "b", "c", "d", "e"]\n', "at most 4"),
        ('[uplink]\nmode = "both"\n', "'copy' or 'fail-over'"),
    ],
)
def test_what_the_configuration_refuses(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=sentence):
        load_settings(Settings, path, environ={})
