"""What `dicomnet-edge` can be told besides `run`: its arguments, and the commands that talk to a box.

A running box is always asked through its control socket; only `enrol` also works on a box at rest, by
writing the identity that its next start takes up.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from contract.control import BoxStatus
from contract.enrolment import Pairing
from edge import report
from edge.config import Settings
from edge.control import NoBoxError, ask
from edge.uplink.clock import BoxClock
from edge.uplink.enrolment import enrol
from edge.uplink.errors import EnrolmentPendingError, EnrolmentRefusedError, IdentityError
from edge.uplink.identity import IdentityStore
from edge.uplink.key_book import KeyBook
from edge.uplink.pending import PendingFile, pending_sentence

_ASK_TIMEOUT_S: Final = 10.0
_ENROL_TIMEOUT_S: Final = 60.0


def enrol_from_shell(settings: Settings, pairing_text: str) -> None:
    """Enrol the running box through its control socket, or, if none runs, the one that starts next.

    `pairing_text` is the pairing string, or "-" to read it from standard input.
    """
    pairing = Pairing.parse(sys.stdin.readline() if pairing_text == "-" else pairing_text)
    try:
        answer = ask(
            settings.control_socket_path, "enrol", {"pairing": str(pairing)}, timeout_s=_ENROL_TIMEOUT_S
        )
        status = BoxStatus.model_validate(answer)
        if status.link.enrolment:
            print(status.link.enrolment)
            return
        gateway_id = status.gateway_id
    except NoBoxError:
        gateway_id = _enrol_at_rest(settings, pairing)
        if gateway_id is None:
            return
    print(f"enrolled as {gateway_id} at {pairing.host}:{pairing.port}")


def _enrol_at_rest(settings: Settings, pairing: Pairing) -> str | None:
    """The gateway id; None if an administrator has to accept the box first, which is said."""
    clock = BoxClock(settings.identity_directory / "clock.json")
    store = IdentityStore(settings.identity_directory, clock)
    try:
        known = store.load()
    except IdentityError:
        known = None  # damaged: this is the repair
    if known is not None and known.ca_fingerprint != pairing.ca_fingerprint:
        raise EnrolmentRefusedError(
            f"this box belongs to {known.central_url}: to move it to another central start it and enrol it "
            "again; it will then check that nothing waits for the former one"
        )
    settings.box.state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    pending = PendingFile(settings.identity_directory / "pending.json")
    key = pending.key_for(pairing)
    try:
        _, enrolment = enrol(pairing, key, clock=clock)
    except EnrolmentPendingError as error:
        print(f"{pending_sentence(error.fingerprint)}. The box goes on with it by itself when it runs.")
        return None
    except EnrolmentRefusedError:
        pending.clear()
        raise
    gateway_id = store.save(key, enrolment).gateway_id
    # What lies in the spool is looked at when the box runs; until then any former key counts as needed.
    book = KeyBook(settings.identity_directory / "keys.json", lambda: None)
    book.open(enrolment.answer.root_key, enrolment.answer.key_set, anew=True)
    pending.clear()
    return gateway_id


def print_status(settings: Settings) -> None:
    """Say how the running box is."""
    answer = ask(settings.control_socket_path, "status", {}, timeout_s=_ASK_TIMEOUT_S)
    print(report.status_text(BoxStatus.model_validate(answer)))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dicomnet-edge",
        description="The box beside the scanner: takes DICOM, keeps it safe, and sends it to central.",
        epilog="A new box: dicomnet-edge --print-default-config > edge.toml, dicomnet-edge run --config edge.toml, "
        "then dicomnet-tui, or dicomnet-edge enrol with the pairing string that central shows.",
    )
    parser.add_argument(
        "--print-default-config", action="store_true", help="print every key with its meaning and default"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument(
        "--config", type=Path, metavar="FILE", help="the TOML file; without it, defaults and environment"
    )
    commands.add_parser(
        "run",
        parents=[config],
        help="serve until SIGTERM; prints one line LISTENING {json} when ready",
    )
    enrolment = commands.add_parser(
        "enrol",
        parents=[config],
        help="give the box its identity; also while it runs",
        description="Give the box its identity. Works while the box runs (it begins to send at once) and before.",
    )
    enrolment.add_argument(
        "pairing",
        help="the string dicomnet-pair:1:… that central shows once and takes for 15 minutes; - reads it from "
        "standard input, out of sight of other users of this machine",
    )
    commands.add_parser("status", parents=[config], help="say how the running box is")
    commands.add_parser("settings-table", help="print the table of settings for the manual")
    return parser
