from __future__ import annotations

import json
import socket
import stat
from pathlib import Path

import pytest

from demo.configuration import toml
from demo.processes import DemoError
from demo.ready import BrokerReady, CentralReady, Credentials, DicomAddress, GatewayReady, Ready
from demo.state import Ports, State
from tests.ports import free_base_port


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_accounts_are_made_once_and_readable_by_the_owner_only(tmp_path: Path) -> None:
    state = State.open(tmp_path / "state")
    accounts = state.accounts()
    assert set(accounts) == {"admin", "radiologist", "doctor", "patient"}
    assert len({account.password for account in accounts.values()}) == 4
    state.note_created("doctor")
    assert state.accounts()["doctor"].created
    assert {r: a.password for r, a in state.accounts().items()} == {
        r: a.password for r, a in accounts.items()
    }
    assert mode(state.root) == 0o700
    assert mode(state.root / "accounts.json") == 0o600


def test_two_demonstrations_do_not_share_a_state_directory(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    with pytest.raises(DemoError, match="another demo is running"):
        State.open(tmp_path)
    del state
    State.open(tmp_path)


def test_a_state_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DemoError, match="choose another with --state"):
        State.open(tmp_path / "file" / "state")


def test_damaged_accounts_are_one_sentence(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.write("accounts.json", "{")
    with pytest.raises(DemoError, match="is damaged"):
        state.accounts()


def test_a_taken_port_is_named_with_the_option_that_helps() -> None:
    base = free_base_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 3))
        taken.listen()
        with pytest.raises(DemoError, match=rf"port {base + 3} .*--base-port"):
            Ports.from_base(base).check_free()
    Ports.from_base(base).check_free()


def test_toml_is_what_tomllib_reads() -> None:
    import tomllib

    values = {"path": Path('/a "b"\\c/ü\n').as_posix(), "on": True, "n": 3, "s": 0.5, "list": ["x"]}
    assert tomllib.loads(toml({"section": values})) == {"section": values}


def test_the_ready_line_has_the_shape_that_scripts_read() -> None:
    person = Credentials("name", "secret")
    ready = Ready(
        GatewayReady("127.0.0.1", 1, "GW", "/s", 2),
        CentralReady("http://127.0.0.1:3", 4, DicomAddress("127.0.0.1", 5, "C")),
        BrokerReady("127.0.0.1", 6),
        dict.fromkeys(("admin", "radiologist", "doctor", "patient"), person),
    )
    account = {"username": "name", "password": "secret"}
    assert json.loads(ready.json()) == {
        "gateway": {"host": "127.0.0.1", "port": 1, "ae_title": "GW", "control_socket": "/s", "pid": 2},
        "central": {
            "url": "http://127.0.0.1:3",
            "pid": 4,
            "dicom": {"host": "127.0.0.1", "port": 5, "ae_title": "C"},
        },
        "mqtt": {"host": "127.0.0.1", "port": 6},
        "accounts": {"admin": account, "radiologist": account, "doctor": account, "patient": account},
    }
    assert "\n" not in ready.json()


def test_a_file_appears_whole_even_over_what_a_crash_left(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    (tmp_path / ".x.part").write_text("torn")
    (tmp_path / ".x.part").chmod(0o644)
    path = state.write("x", "whole")
    assert (path.read_text(), mode(path)) == ("whole", 0o600)
