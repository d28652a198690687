"""The command line: ``dicomnet-central``. Everything but ``serve`` works beside a running server.

Whatever cannot be done ends with one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, cast

from central.access.errors import AccessError
from central.audit.errors import AuditError
from central.audit.events import Action, AuditEvent
from central.audit_commands import AuditCommands
from central.backup_commands import BackupCommands
from central.command_group import RunCommand
from central.config import Settings
from central.errors import StartError
from central.fleet.mosquitto import BrokerPlan, write_configuration
from central.foundation import Foundation
from central.identity.pairings import Decision
from central.import_commands import ImportCommands
from central.institution import DEFAULT_INSTITUTION
from central.institution_commands import InstitutionCommands
from central.key_commands import KeyCommands
from central.object_commands import ObjectCommands
from central.pacs_import_command import PacsImportCommand
from central.revocation import revoke
from central.storage_key_commands import StorageKeyCommands
from central.study_commands import StudyCommands
from central.user_commands import UserCommands
from contract.enrolment import Pairing
from contract.settings import SettingsError, load_settings, print_default_config, settings_table

_EPILOG: Final = """\
a first start:
  dicomnet-central --print-default-config > central.toml
  dicomnet-central serve --config central.toml
  dicomnet-central user add --config central.toml anna --role radiologist
  dicomnet-central pair --config central.toml --name "ct room 2"
"""


def run_command(arguments: Sequence[str] | None, serve: Callable[[Settings], None]) -> int:
    """Parse `arguments` (None: the process's own) and carry them out; returns the exit code."""
    parser = _parser(serve)
    options = parser.parse_args(arguments)
    if options.print_default_config:
        print(print_default_config(Settings), end="")
        return 0
    if options.command is None:
        parser.error("say what to do: --help lists the commands")
    try:
        return options.command(options) or 0
    except (StartError, SettingsError, AccessError, AuditError) as error:
        print(f"dicomnet-central: {error}", file=sys.stderr)
        return 2


def _parser(serve: Callable[[Settings], None]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dicomnet-central",
        description="The central archive: takes images from the gateways, keeps them, shows them to whom they concern.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--print-default-config", action="store_true", help="print every setting with its default, and stop"
    )
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, does: str, run: RunCommand) -> argparse.ArgumentParser:
        return _command(commands, name, does, run)

    command("serve", "run central until SIGTERM or Ctrl-C", lambda options: serve(_settings(options)))

    pair = command("pair", "print a pairing string for a new gateway: good once, for 15 minutes", _pair)
    pair.add_argument("--name", default="", help="what the gateway will be called; default: a random name")
    pair.add_argument("--institution", metavar="I", help="whose box it will be; default: the default one's")
    pair.add_argument(
        "--replaces",
        metavar="GATEWAY",
        help="the new box takes this gateway's place: its id and history stay, the former box is let in no more",
    )

    user = commands.add_parser("user", help="accounts of people").add_subparsers(
        metavar="COMMAND", required=True
    )
    UserCommands(_settings, _event).add(lambda name, does, run: _command(user, name, does, run))

    institution = commands.add_parser(
        "institution", help="institutions of this central, and what they open to each other"
    ).add_subparsers(metavar="COMMAND", required=True)
    InstitutionCommands(_settings, _event).add(lambda name, does, run: _command(institution, name, does, run))

    gateways = commands.add_parser("gateways", help="the gateways that enrolled").add_subparsers(
        metavar="COMMAND", required=True
    )
    _command(
        gateways,
        "list",
        "print every gateway, its certificate's end and whether it is revoked",
        _list_gateways,
    )
    revocation = _command(gateways, "revoke", "let a gateway in no more, from its next request on", _revoke)
    revocation.add_argument("gateway_id")

    _command(gateways, "pending", "print the boxes that wait to be accepted", _list_pending)
    for verb, decision in (("accept", "accepted"), ("refuse", "refused")):
        choice = _command(
            gateways,
            verb,
            f"{verb} the waiting box whose key has this fingerprint",
            _decide(cast(Decision, decision)),
        )
        choice.add_argument("fingerprint", help="as the box shows it; with or without spaces")

    keys = commands.add_parser(
        "keys", help="sealing keys, their root, storage keys, and their backup"
    ).add_subparsers(metavar="COMMAND", required=True)
    for group in (KeyCommands(_settings, _event), StorageKeyCommands(_settings, _event)):
        group.add(lambda name, does, run: _command(keys, name, does, run))

    audit = commands.add_parser("audit", help="the audit record: verify it, give it out").add_subparsers(
        metavar="COMMAND", required=True
    )
    AuditCommands(_settings, _event).add(lambda name, does, run: _command(audit, name, does, run))

    ImportCommands(_settings, _event).add(command)
    PacsImportCommand(_settings, _event).add(command)
    BackupCommands(_settings, _event).add(command)
    objects = commands.add_parser("objects", help="what is kept: verify it, encrypt it").add_subparsers(
        metavar="COMMAND", required=True
    )
    ObjectCommands(_settings, _event).add(lambda name, does, run: _command(objects, name, does, run))

    study = commands.add_parser("study", help="legal hold, and erasing for good").add_subparsers(
        metavar="COMMAND", required=True
    )
    StudyCommands(_settings, _event).add(lambda name, does, run: _command(study, name, does, run))

    broker = command("mqtt-config", "write a mosquitto configuration that fits this central", _mqtt_config)
    broker.add_argument("--dir", type=Path, required=True, metavar="D", help="folder to write it into")
    broker.add_argument(
        "--bind", metavar="ADDRESS", help="address the broker listens on; default: mqtt.host of the settings"
    )
    broker.add_argument(
        "--watch-port",
        type=int,
        metavar="N",
        help="also listen in clear on 127.0.0.1 port N, where anybody may read: for demonstrations",
    )

    table = commands.add_parser("settings-table", help="print the table of settings for the manual")
    table.set_defaults(command=lambda _options: print(settings_table(Settings), end=""))
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    does: str,
    run: RunCommand,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".")
    parser.add_argument(
        "--config", type=Path, metavar="F", help="central.toml; default: defaults and environment"
    )
    parser.set_defaults(command=run)
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    return load_settings(Settings, options.config)


def _pair(options: argparse.Namespace) -> None:
    settings = _settings(options)
    port = settings.gateways.public_port or settings.gateways.port
    if port == 0:
        raise StartError("gateways.port is 0, so nobody can be told where to call: give it a number")
    with closing(Foundation.open(settings)) as foundation:
        detail = f"replaces {options.replaces}" if options.replaces else options.name
        foundation.audit.record(_event(Action.PAIR, detail))
        institution = options.institution
        if institution is not None:
            foundation.doorkeeper.institutions.require(institution)
        ticket = foundation.pairings.new_pairing(
            options.name, replaces=options.replaces, institution=institution
        )
        if ticket is None:
            raise StartError(f"there is no gateway {options.replaces}; gateways list shows them")
        host, fingerprint = settings.gateways.called_host, foundation.identity.ca_fingerprint
    print(Pairing(host, port, fingerprint, ticket.token))
    print(f"good once, until {ticket.expires_at_utc:%H:%M} UTC", file=sys.stderr)


def _list_gateways(options: argparse.Namespace) -> None:
    with closing(Foundation.open(_settings(options))) as foundation:
        for record in foundation.gateways.listed():
            ends = record.certificate_expires_at_utc
            state = f"revoked {record.revoked_at_utc:%Y-%m-%d}" if record.revoked_at_utc else "admitted"
            until = f"certificate until {ends:%Y-%m-%d}  {record.name}" if ends else ""
            whose = (
                "" if record.institution == DEFAULT_INSTITUTION else f"  institution: {record.institution}"
            )
            print(f"{record.gateway_id:32}  {state:18}  {until}{whose}".rstrip())


def _revoke(options: argparse.Namespace) -> None:
    with closing(Foundation.open(_settings(options))) as foundation:
        foundation.audit.record(_event(Action.REVOKE, options.gateway_id))
        trouble = revoke(foundation, options.gateway_id)
    if trouble is None:
        raise StartError(f"there is no gateway {options.gateway_id}; gateways list shows them")
    print(
        f"gateway {options.gateway_id} is revoked: it delivers nothing more, and its heartbeats do not count"
    )
    if trouble:
        raise StartError(f"the gateway is revoked, but {trouble}")


def _list_pending(options: argparse.Namespace) -> None:
    with closing(Foundation.open(_settings(options))) as foundation:
        for box in foundation.pairings.pending():
            what = f"replaces {box.replaces}" if box.replaces else box.name or "(no name)"
            print(
                f"{box.fingerprint}  {box.requested_at_utc:%Y-%m-%d %H:%M} UTC  {box.source_address}  {what}"
            )


def _decide(decision: Decision) -> Callable[[argparse.Namespace], None]:
    def decide(options: argparse.Namespace) -> None:
        with closing(Foundation.open(_settings(options))) as foundation:
            foundation.audit.record(_event(Action.ENROL_DECISION, f"{decision}: key {options.fingerprint}"))
            if foundation.pairings.decide(options.fingerprint, decision) is None:
                raise StartError("no box with this fingerprint waits; gateways pending shows them")
        print(f"{decision}; the box learns of it within a minute")

    return decide


def _mqtt_config(options: argparse.Namespace) -> None:
    settings = _settings(options)
    if not settings.mqtt.host:
        raise StartError("mqtt.host is empty, so there is no broker to configure")
    plan = BrokerPlan(options.dir, options.bind or settings.mqtt.host, settings.mqtt.port, options.watch_port)
    with closing(Foundation.open(settings)) as foundation:
        try:
            path = write_configuration(plan, foundation.identity, foundation.gateways.revoked_serials())
        except OSError as error:
            raise StartError(f"cannot write into {options.dir}: {error.strerror}") from error
    print(path)


def _event(action: Action, detail: str, institutions: frozenset[str] = frozenset()) -> AuditEvent:
    """An administrator at the machine itself, by the name the system knows; `institutions` are concerned."""
    who = pwd.getpwuid(os.getuid()).pw_name
    event = AuditEvent(
        who, "command-line", action, "success", "local", detail=detail, institutions=institutions
    )
    if not event.is_whole:
        raise StartError("this is more than the audit record can hold: do it in parts")
    return event
