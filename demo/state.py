"""The demonstration's state directory: who may use it, what lies where, and the accounts made for it.

    accounts.json     passwords, made once, mode 0600
    central.toml      written at every start, from the ports and paths of this start
    edge.toml
    enrolled-with.toml    central.toml as it was when the gateway enrolled
    central/ edge/ broker/    the programs' own
    sample/           the generated series
    logs/             what the programs print
    ready.json        the READY line's JSON, kept up to date when a program is started again

The directory is 0700 and used by one demonstration at a time. A crash leaves nothing that the next start does not
overwrite or take over.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Final

from demo.processes import DemoError
from demo.ready import Credentials

HOST: Final = "127.0.0.1"
_ENROLLED_WITH: Final = "enrolled-with.toml"
ROLES: Final = ("admin", "radiologist", "doctor", "patient")


@dataclass(frozen=True)
class Ports:
    """Six neighbouring TCP ports on loopback."""

    gateway_dicom: int
    central_people: int
    central_dicom: int
    mqtt_watch: int
    mqtt_gateways: int
    central_gateways: int

    @classmethod
    def from_base(cls, base: int) -> Ports:
        return cls(*(base + offset for offset in range(6)))

    def check_free(self) -> None:
        """Raise DemoError naming the first port that somebody else holds."""
        for port in asdict(self).values():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError as error:
                    raise DemoError(
                        f"port {port} on {HOST} cannot be used ({error.strerror}): choose six free "
                        f'neighbours with --base-port, such as make demo ARGS="--base-port {port + 1000}"'
                    ) from error


@dataclass(frozen=True)
class Account:
    """`created` is set once central knows the account."""

    username: str
    password: str
    created: bool = False

    def credentials(self) -> Credentials:
        return Credentials(self.username, self.password)


class State:
    """The opened state directory; hold on to it: its lock ends with it."""

    def __init__(self, root: Path, lock: IO[str]) -> None:
        self.root = root
        self._lock = lock

    @classmethod
    def open(cls, root: Path) -> State:
        """Make `root` if it is not there and lock it.

        Raises
        ------
        DemoError : it cannot be written, or another demonstration uses it.
        """
        root = root.absolute()
        try:
            root.mkdir(parents=True, exist_ok=True)
            root.chmod(0o700)
            for name in ("logs", "broker"):
                (root / name).mkdir(exist_ok=True)
            lock = (root / "lock").open("w")
        except OSError as error:
            raise DemoError(
                f"the state directory {root} cannot be used ({error.strerror}): choose another with --state"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DemoError(
                f"another demo is running in {root}: stop it, or choose another directory with --state "
                "and other ports with --base-port"
            ) from error
        return cls(root, lock)

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def central_toml(self) -> Path:
        return self.root / "central.toml"

    @property
    def edge_toml(self) -> Path:
        return self.root / "edge.toml"

    def enrolled_with(self) -> str:
        """Central's configuration at the last enrolment: a box must enrol anew when central or broker moves."""
        path = self.root / _ENROLLED_WITH
        return path.read_text() if path.exists() else ""

    def note_enrolled_with(self, central_toml: str) -> None:
        self.write(_ENROLLED_WITH, central_toml)

    def accounts(self) -> dict[str, Account]:
        """The accounts by role, with passwords of 96 random bits made at the first call."""
        path = self.root / "accounts.json"
        if not path.exists():
            self._keep_accounts({role: Account(role, secrets.token_urlsafe(12)) for role in ROLES})
        try:
            return {role: Account(**fields) for role, fields in json.loads(path.read_text()).items()}
        except (ValueError, TypeError) as error:
            raise DemoError(f"{path} is damaged: remove {self.root} to begin anew") from error

    def note_created(self, role: str) -> None:
        accounts = self.accounts()
        accounts[role] = replace(accounts[role], created=True)
        self._keep_accounts(accounts)

    def _keep_accounts(self, accounts: dict[str, Account]) -> None:
        fields = {role: asdict(account) for role, account in accounts.items()}
        self.write("accounts.json", json.dumps(fields, indent=2) + "\n")

    def write(self, name: str, text: str) -> Path:
        """Write a file of mode 0600 that appears whole or not at all."""
        path = self.root / name
        part = path.with_name(f".{name}.part")
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        part.replace(path)
        return path
