"""`dicomnet-central user …`: accounts are made, listed, blocked and signed out, passwords set, second factors reset.

Each change is recorded before it is made. All of it holds in a running server from the next request on.
"""

from __future__ import annotations

import argparse
import getpass
import secrets
import sys
from contextlib import closing
from typing import Final

from central.access.policy import PatientKey, Role
from central.audit.events import Action
from central.command_group import AddCommand, CommandGroup
from central.errors import StartError
from central.foundation import Foundation
from central.institution import DEFAULT_INSTITUTION, WHOLE_CENTRAL

_PEOPLE: Final = [role.value for role in Role if role not in (Role.PEER, Role.GUEST)]


class UserCommands(CommandGroup):
    """The commands."""

    def add(self, add: AddCommand) -> None:
        new = add("add", "make an account; the password comes from stdin or a prompt", self._add)
        new.add_argument("username", help="1 to 64 of a-z, 0-9, '.', '_', '@' and '-'")
        new.add_argument("--role", required=True, choices=_PEOPLE, help="what the account is for")
        new.add_argument(
            "--referring-physician",
            action="append",
            default=[],
            metavar="NAME",
            help='for a doctor: Referring Physician\'s Name as on the images, such as "DOE^JANE"; may be repeated',
        )
        new.add_argument("--patient-id", metavar="ID", help="for a patient: Patient ID as on the images")
        new.add_argument("--issuer", default="", metavar="I", help="Issuer of Patient ID that goes with it")
        changed = add("change", "change whose an account is, its departments, or its boxes", self._change)
        changed.add_argument("username")
        for parser in (new, changed):
            parser.add_argument(
                "--institution",
                metavar="I",
                help="whose account it is; default: the default one's, of an administrator the whole central's (*)",
            )
            parser.add_argument(
                "--department",
                action="append",
                metavar="NAME",
                help="for a doctor or technician: department as orders and equipment name it; may be repeated",
            )
            parser.add_argument(
                "--gateway",
                action="append",
                metavar="GATEWAY",
                help="for a technician: box that they work at; may be repeated",
            )
        password = add(
            "password", "set a password; ends every session and API token of the account", self._set_password
        )
        password.add_argument("username")
        for parser in (new, password):
            parser.add_argument(
                "--generate-password", action="store_true", help="make a random password and print it, once"
            )
        add(
            "list", "print every account, its role, whether it is blocked, and its second factors", self._list
        )
        for name, does, run in (
            ("block", "let an account in no more, and end its sessions, API tokens and guests", self._block),
            ("unblock", "let a blocked account in again; its guest links hold again, too", self._unblock),
            ("sign-out", "end every session and API token of an account", self._sign_out),
            (
                "reset-factors",
                "take authenticator app, recovery codes and passkeys from an account, and end its sessions",
                self._reset_factors,
            ),
        ):
            add(name, does, run).add_argument("username")

    def _add(self, options: argparse.Namespace) -> None:
        patient_ids = [PatientKey(options.issuer, options.patient_id)] if options.patient_id else []
        with closing(Foundation.open(self._settings(options))) as foundation:
            password = _chosen(options)
            foundation.audit.record(
                self._event(Action.USER_CHANGE, f"add {options.username} as {options.role}")
            )
            made = foundation.accounts.create_user(
                options.username,
                password,
                Role(options.role),
                referring_physician_names=options.referring_physician,
                patient_ids=patient_ids,
                institution=self._institution(foundation, options),
                departments=options.department or (),
                gateway_ids=_known_gateways(foundation, options) or (),
            )
        print(f"user {made.username} has the role {made.role.value}")
        _tell(options, password)

    def _change(self, options: argparse.Namespace) -> None:
        wanted = {
            "institution": options.institution,
            "departments": options.department,
            "gateway_ids": options.gateway,
        }
        said = ", ".join(f"{name} {value}" for name, value in wanted.items() if value is not None)
        if not said:
            raise StartError("say what to change: --institution, --department or --gateway")
        with closing(Foundation.open(self._settings(options))) as foundation:
            foundation.audit.record(self._event(Action.USER_CHANGE, f"change {options.username}: {said}"))
            foundation.accounts.change(
                options.username,
                institution=self._institution(foundation, options),
                departments=options.department,
                gateway_ids=_known_gateways(foundation, options),
            )
        print(f"user {options.username} has {said}")

    def _institution(self, foundation: Foundation, options: argparse.Namespace) -> str | None:
        wanted: str | None = options.institution
        if wanted in (None, WHOLE_CENTRAL):
            return wanted
        return foundation.doorkeeper.institutions.require(wanted)

    def _set_password(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation:
            password = _chosen(options)
            foundation.audit.record(self._event(Action.USER_CHANGE, f"password of {options.username}"))
            foundation.accounts.set_password(options.username, password)
        print(f"user {options.username} has a new password, and is signed out everywhere")
        _tell(options, password)

    def _list(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation:
            for one in foundation.accounts.listed():
                usual = WHOLE_CENTRAL if one.role is Role.ADMIN else DEFAULT_INSTITUTION
                more = {
                    "institution": one.institution if one.institution != usual else "",
                    "departments": ", ".join(one.departments),
                    "boxes": ", ".join(one.gateway_ids),
                }
                said = "; ".join(f"{name}: {value}" for name, value in more.items() if value)
                blocked = "blocked" if one.is_blocked else ""
                line = f"{one.username:32}  {one.role.value:12}  {blocked:7}  {one.held}  {said}"
                print(line.rstrip())

    def _block(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation:
            foundation.audit.record(self._event(Action.USER_CHANGE, f"block {options.username}"))
            foundation.accounts.block(options.username)
        print(f"user {options.username} is let in no more")

    def _unblock(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation:
            foundation.audit.record(self._event(Action.USER_CHANGE, f"unblock {options.username}"))
            foundation.accounts.unblock(options.username)
        print(f"user {options.username} may sign in again")

    def _sign_out(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation:
            foundation.audit.record(self._event(Action.USER_CHANGE, f"sign out {options.username}"))
            foundation.accounts.sign_out(options.username)
        print(f"user {options.username} is signed out everywhere")

    def _reset_factors(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation:
            detail = f"reset the second factors of {options.username}"
            foundation.audit.record(self._event(Action.USER_CHANGE, detail))
            foundation.accounts.reset_factors(options.username)
        print(f"user {options.username} signs in with the password alone, until something is set up anew")


def _known_gateways(foundation: Foundation, options: argparse.Namespace) -> list[str] | None:
    wanted: list[str] | None = options.gateway
    for gateway_id in wanted or ():
        if not foundation.gateways.is_known(gateway_id):
            raise StartError(f"there is no gateway {gateway_id}; gateways list shows them")
    return wanted


def _chosen(options: argparse.Namespace) -> str:
    """A random password, or the first line of stdin; at a terminal, asked for twice."""
    if options.generate_password:
        return secrets.token_urlsafe(15)
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("password: ")
    if getpass.getpass("the same again: ") != password:
        raise StartError("the two passwords differ; nothing was changed")
    return password


def _tell(options: argparse.Namespace, password: str) -> None:
    if options.generate_password:
        print(f"password: {password}")
