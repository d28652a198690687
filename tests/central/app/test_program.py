"""The program as people run it: starts, says where it listens, stops in order, and says plainly what is wrong."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from central.app import run
from central.commands import run_command
from central.config import Settings
from central.serving import bind
from contract.enrolment import Pairing
from contract.settings import load_settings
from tests.central.app.program import CENTRAL, CentralProcess
from tests.ports import free_base_port


class Program(CentralProcess):
    """With the other commands beside it."""

    def complaint(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        """What a person is told when it cannot be done: exit code 2 and one line. In this process, for speed."""
        capsys.readouterr()
        assert run_command([*arguments, "--config", str(self.config)], run) == 2
        said = capsys.readouterr().err
        assert said.startswith("dicomnet-central: ")
        assert said.count("\n") == 1
        return said

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        where = ["--config", str(self.config)]
        return subprocess.run(
            [*CENTRAL, *arguments, *where],
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    port = free_base_port(3)
    config = tmp_path / "central.toml"
    config.write_text(
        f"[people]\nport = {port}\n[gateways]\nport = {port + 1}\n[dicom]\nport = {port + 2}\n"
        f'[storage]\nroot = "{tmp_path / "root"}"\nreserve_bytes = 0\n'
    )
    program = Program(config)
    yield program
    if program.process is not None:
        program.process.kill()
        program.process.wait(60)


def test_it_starts_answers_keeps_accounts_and_stops_in_order(program: Program) -> None:
    listening = program.start()
    assert set(listening) == {"people", "gateways", "dicom"}
    url = f"http://{listening['people']['host']}:{listening['people']['port']}"
    assert httpx.get(url + "/healthz").json() == {
        "status": "ok",
        "broker": "none",
        "audit_messages": "none",
        "objects": "ok",
    }
    assert httpx.get(url + "/dicom-web/studies").status_code == 401
    added = program.run("user", "add", "anna", "--role", "radiologist", given="a long password\n")
    assert (added.returncode, added.stdout) == (0, "user anna has the role radiologist\n")
    form = {"username": "anna", "password": "a long password"}
    token = httpx.post(url + "/api/auth/token", data=form).json()["access_token"]
    found = httpx.get(url + "/dicom-web/studies", headers={"Authorization": f"Bearer {token}"})
    assert found.status_code == 204
    paired = program.run("pair", "--name", "ct")
    assert Pairing.parse(paired.stdout).port == listening["gateways"]["port"]
    assert program.stop() == 0
    assert program.start() == listening
    assert httpx.post(url + "/api/auth/token", data=form).status_code == 200
    assert program.stop(signal.SIGINT) == 0


def test_generated_passwords_are_shown_once_and_work(program: Program) -> None:
    added = program.run(
        "user",
        "add",
        "pat",
        "--role",
        "patient",
        "--patient-id",
        "P1",
        "--issuer",
        "H",
        "--generate-password",
    )
    password = added.stdout.split("password: ")[1].strip()
    listening = program.start()
    url = f"http://127.0.0.1:{listening['people']['port']}"
    answer = httpx.post(url + "/api/auth/token", data={"username": "pat", "password": password})
    assert answer.status_code == 200
    again = program.run("user", "add", "pat", "--role", "patient", given="another password\n")
    assert (again.returncode, again.stderr) == (2, "dicomnet-central: there is already a user pat\n")


def test_accounts_are_blocked_and_signed_out_beside_a_running_server(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    listening = program.start()
    url = f"http://127.0.0.1:{listening['people']['port']}"

    def user(*arguments: str) -> str:
        capsys.readouterr()
        assert run_command(["user", *arguments, "--config", str(program.config)], run) == 0
        return capsys.readouterr().out

    def sign_in(password: str) -> str | None:
        form = {"username": "anna", "password": password}
        token: str | None = httpx.post(url + "/api/auth/token", data=form).json().get("access_token")
        return token

    def status(token: str | None) -> int:
        return httpx.get(url + "/api/me", headers={"Authorization": f"Bearer {token}"}).status_code

    first = user("add", "anna", "--role", "radiologist", "--generate-password").split("password: ")[1].strip()
    token = sign_in(first)
    assert status(token) == 200
    assert "signed out" in user("sign-out", "anna")
    assert status(token) == 401
    token = sign_in(first)
    user("block", "anna")
    assert (status(token), sign_in(first)) == (401, None)
    assert user("list").split() == ["anna", "radiologist", "blocked"]
    user("unblock", "anna")
    token = sign_in(first)
    second = user("password", "anna", "--generate-password").split("password: ")[1].strip()
    assert (status(token), sign_in(first)) == (401, None)
    assert status(sign_in(second)) == 200
    assert "password alone" in user("reset-factors", "anna")
    assert "no user nobody" in program.complaint(capsys, "user", "block", "nobody")


def test_a_taken_port_is_one_sentence(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    port = load_settings(Settings, program.config).gateways.port
    with socket.create_server(("127.0.0.1", port)):
        said = program.complaint(capsys, "serve")
    assert f"port {port} (gateways.port)" in said


def test_a_second_server_on_the_same_folder_is_one_sentence(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.start()
    other = tmp_path / "other.toml"
    other.write_text(
        f'[people]\nport = 0\n[gateways]\nport = 0\n[dicom]\nport = 0\n[storage]\nroot = "{tmp_path / "root"}"\n'
    )
    assert "another dicomnet-central is running" in Program(other).complaint(capsys, "serve")


def test_wrong_settings_and_folders_are_one_sentence(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = program.config.read_text()
    program.config.write_text(good.replace("[people]", "[people]\nprot = 1"))
    assert "people.port" in program.complaint(capsys, "serve")
    program.config.write_text(good.replace("[people]", '[people]\nhost = "0.0.0.0"'))
    assert "tls_certificate" in program.complaint(capsys, "serve")
    program.config.write_text(good.replace("[gateways]", '[gateways]\nhost = "0.0.0.0"'))
    assert "public_host" in program.complaint(capsys, "serve")
    blocked = tmp_path / "file"
    blocked.write_text("")
    program.config.write_text(good.replace(str(tmp_path / "root"), str(blocked / "root")))
    assert "storage.root" in program.complaint(capsys, "serve")
    program.config.write_text(good)
    assert run_command(["gateways", "list", "--config", str(program.config)], run) == 0
    (tmp_path / "root" / "keys" / "ca.key").write_text("no key")
    assert "ca.key" in program.complaint(capsys, "serve")
    (tmp_path / "root" / "keys" / "receipt.key").chmod(0o644)
    assert "restore" in program.complaint(capsys, "serve")


def test_gateways_are_listed_and_unknown_ones_not_revoked(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["gateways", "list", "--config", str(program.config)], run) == 0
    assert capsys.readouterr().out == ""
    assert "no gateway nobody" in program.complaint(capsys, "gateways", "revoke", "nobody")


def test_the_printed_default_configuration_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--print-default-config"], run) == 0
    path = tmp_path / "default.toml"
    path.write_text(capsys.readouterr().out)
    assert load_settings(Settings, path, environ={}) == Settings()
    assert run_command(["settings-table"], run) == 0
    assert "`limits.max_object_bytes`" in capsys.readouterr().out


def test_what_is_written_is_for_its_owner_only(program: Program, tmp_path: Path) -> None:
    program.start()
    root = tmp_path / "root"
    assert root.stat().st_mode & 0o077 == 0
    assert (root / "keys").stat().st_mode & 0o077 == 0
    for path in (root / "keys").glob("*.key"):
        assert path.stat().st_mode & 0o177 == 0, path.name
    for name in ("central.sqlite3", "audit.sqlite3"):
        assert (root / name).stat().st_mode & 0o177 == 0, name


def test_head_and_body_of_an_answer_do_not_wait_for_an_acknowledgement() -> None:
    with (
        bind("127.0.0.1", 0, "people.port") as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
