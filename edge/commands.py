"""What `dicomnet-edge` can be told besides `run`: its arguments, and the commands that talk to a box.

A running box is always asked through its control socket; only `enrol` also works on a box at rest, by
writing the identity that its next start takes up.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from contract.control import BoxStatus, DeliveryParams, DestinationList, StudyList
from contract.enrolment import Pairing, PairingError
from contract.identifiers import InvalidIdentifierError, check_object_id
from edge.centrals import IDENTITY, folder_of, names_of
from edge.config import Settings
from edge.control import NoBoxError, ask
from edge.destination_settings import CENTRAL
from edge.routes import routes_text
from edge.status_text import destinations_text, status_text, studies_text
from edge.uplink.clock import BoxClock
from edge.uplink.enrolment import enrol
from edge.uplink.errors import (
    EnrolmentPendingError,
    EnrolmentRefusedError,
    IdentityError,
    UplinkPermanentError,
)
from edge.uplink.identity import IdentityStore
from edge.uplink.key_book import KeyBook
from edge.uplink.key_maker import KeyMaker
from edge.uplink.pending import PendingFile, pending_sentence
from edge.uplink.tpm import Tpm

_ASK_TIMEOUT_S: Final = 10.0
_ENROL_TIMEOUT_S: Final = 60.0
_DECIDE_TIMEOUT_S: Final = 600.0  # giving up a hundred thousand objects takes its time
_MOST_STUDIES: Final = 10_000


def enrol_from_shell(settings: Settings, pairing_text: str, central: str) -> None:
    """Enrol the running box through its control socket, or, if none runs, the one that starts next.

    `pairing_text` is the pairing string, or "-" to read it from standard input; `central` a name in names_of(settings).
    """
    pairing = _read_pairing(sys.stdin) if pairing_text == "-" else Pairing.parse(pairing_text)
    try:
        answer = ask(
            settings.control_socket_path,
            "enrol",
            {"pairing": str(pairing), "central": central},
            timeout_s=_ENROL_TIMEOUT_S,
        )
        status = BoxStatus.model_validate(answer)
        link, gateway_id = status.link, status.gateway_id
        for one in status.centrals:
            if one.name == central:
                link, gateway_id = one.link, one.gateway_id
        if link.enrolment:
            print(link.enrolment)
            return
    except NoBoxError:
        gateway_id = _enrol_at_rest(settings, pairing, central)
        if gateway_id is None:
            return
    print(f"enrolled as {gateway_id} at {pairing.host}:{pairing.port}")


def _read_pairing(lines: Iterable[str]) -> Pairing:
    """Out of as many lines as it was wrapped into, and no further: whoever types it does not end the input."""
    text = ""
    for line in lines:
        text += line
        try:
            return Pairing.parse(text)
        except PairingError:
            if not line.strip():
                break
    return Pairing.parse(text)


def _enrol_at_rest(settings: Settings, pairing: Pairing, central: str) -> str | None:
    """The gateway id; None if an administrator has to accept the box first, which is said."""
    if central not in names_of(settings):
        listed = ", ".join(names_of(settings))
        raise EnrolmentRefusedError(
            f"no central is called {central}: there are {listed}; uplink.further_centrals names more"
        )
    for other in names_of(settings):
        if other != central and _fingerprint(settings, other) == pairing.ca_fingerprint:
            raise EnrolmentRefusedError(
                f"this pairing string is of the central that this box knows as {other}: each is enrolled once"
            )
    folder = folder_of(settings, central) / IDENTITY
    clock = BoxClock(folder / "clock.json")
    keys = key_maker(settings)
    store = IdentityStore(folder, clock, keys)
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
    pending = PendingFile(folder / "pending.json", keys)
    key = pending.key_for(pairing)
    try:
        _, enrolment = enrol(pairing, key, clock=clock)
    except EnrolmentPendingError as error:
        print(f"{pending_sentence(error.fingerprint)}. The box goes on with it by itself when it runs.")
        return None
    except (UplinkPermanentError, PairingError):
        pending.clear(pairing)
        raise
    identity = store.save(key, enrolment)
    identity.receipt_book.forget()
    # What lies in the spool is looked at when the box runs; until then any former key counts as needed.
    book = KeyBook(folder / "keys.json", lambda: None)
    book.open(enrolment.answer.root_key, enrolment.answer.key_set, anew=True)
    pending.clear(pairing)
    return identity.gateway_id


def key_maker(settings: Settings) -> KeyMaker:
    """What makes this box's private keys."""
    return KeyMaker(settings.identity.key, Tpm(settings.identity.tpm))


def _fingerprint(settings: Settings, central: str) -> str | None:
    try:
        known = IdentityStore(folder_of(settings, central) / IDENTITY, keys=key_maker(settings)).load()
    except IdentityError:
        return None
    return known.ca_fingerprint if known is not None else None


def print_status(settings: Settings, method: str = "status") -> None:
    """Say how the running box is, where `method` is pause or resume after that."""
    answer = ask(settings.control_socket_path, method, {}, timeout_s=_ASK_TIMEOUT_S)
    print(status_text(BoxStatus.model_validate(answer)))


def print_studies(settings: Settings) -> None:
    """Say which of the last studies are complete, and by what."""
    answer = ask(settings.control_socket_path, "studies", {}, timeout_s=_ASK_TIMEOUT_S)
    print(studies_text(StudyList.model_validate(answer)))


def print_destinations(settings: Settings) -> None:
    """Say how the running box stands with its destinations beside central."""
    _show(ask(settings.control_socket_path, "destinations", {}, timeout_s=_ASK_TIMEOUT_S))


def decide_on_delivery(settings: Settings, method: str, destination: str, object_id: str | None) -> None:
    """`method`: try_again or give_up, for one object or all that is open; of central's all that is in quarantine."""
    params = DeliveryParams(destination=destination, object_id=object_id)
    answer = ask(settings.control_socket_path, method, params.model_dump(), timeout_s=_DECIDE_TIMEOUT_S)
    if destination == CENTRAL:
        print_status(settings)
    else:
        _show(answer)


def _show(answer: dict[str, object]) -> None:
    print(destinations_text(DestinationList.model_validate(answer)))


def _object_id(text: str) -> str:
    try:
        return check_object_id(text)
    except InvalidIdentifierError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= _MOST_STUDIES:
        raise argparse.ArgumentTypeError(f"a number from 1 to {_MOST_STUDIES}")
    return int(text)


def carry_out(settings: Settings, options: argparse.Namespace) -> None:
    """Every command but `run`."""
    if options.command == "enrol":
        enrol_from_shell(settings, options.pairing, options.central)
    elif options.command == "routes":
        print(routes_text(settings, last=options.last, rules=options.rules))
    elif options.command == "studies":
        print_studies(settings)
    elif options.command == "destinations":
        print_destinations(settings)
    elif options.command in ("pause", "resume"):
        print_status(settings, options.command)
    elif options.command in ("try-again", "give-up"):
        method = options.command.replace("-", "_")
        decide_on_delivery(settings, method, options.destination, options.object)
    else:
        print_status(settings)


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
    enrolment.add_argument(
        "--central",
        default=CENTRAL,
        metavar="NAME",
        help="which central it is, where uplink.further_centrals names more than the first",
    )
    commands.add_parser("status", parents=[config], help="say how the running box is")
    commands.add_parser(
        "studies",
        parents=[config],
        help="list the last studies: complete or not, by what, and how many images of how many",
    )
    commands.add_parser(
        "destinations",
        parents=[config],
        help="say how the running box stands with destinations beside central",
    )
    commands.add_parser(
        "pause", parents=[config], help="send nothing more to central; images are still taken in"
    )
    commands.add_parser("resume", parents=[config], help="go on sending, whoever paused it")
    for command, words in (
        (
            "try-again",
            "send what a destination refused, or waits for, again now; central: what is in quarantine",
        ),
        ("give-up", "owe a destination no longer what it does not have; it may be freed then"),
    ):
        deciding = commands.add_parser(
            command, parents=[config], help=words, description=f"{words}.".capitalize()
        )
        deciding.add_argument("destination", help="its name")
        which = deciding.add_mutually_exclusive_group(required=True)
        which.add_argument("--object", type=_object_id, metavar="ID", help="one object, by its id")
        which.add_argument("--all", action="store_true", help="everything that is open for it")
    routes = commands.add_parser(
        "routes",
        parents=[config],
        help="show where the last studies would go; changes nothing",
        description="Show where the last studies go by the rules in force, and what other rules would change.",
    )
    routes.add_argument(
        "--last", type=_count, default=50, metavar="N", help="so many studies, the latest first (50)"
    )
    routes.add_argument(
        "--rules",
        type=Path,
        metavar="FILE",
        help="a TOML file with [[routing]] to compare with the rules in force",
    )
    commands.add_parser("settings-table", help="print the table of settings for the manual")
    return parser
