"""`dicomnet-central institution …`: institutions are added and listed here, and what one opens to another.

Each change is recorded before it is made. All of it holds in a running server from the next request on.
"""

from __future__ import annotations

import argparse
from contextlib import closing

from central.access.policy import Sharing
from central.audit.events import Action
from central.command_group import AddCommand, CommandGroup
from central.errors import StartError
from central.foundation import Foundation


class InstitutionCommands(CommandGroup):
    """The commands."""

    def add(self, add: AddCommand) -> None:
        new = add("add", "add an institution, or give one another name", self._add)
        new.add_argument("institution", help="1 to 32 of a-z, 0-9 and '-'")
        new.add_argument("--name", default="", help="what people call it")
        add("list", "print every institution, and what is agreed between them", self._list)
        agreed = add("agree", "let an institution open its studies to another", self._agree)
        agreed.add_argument("opened_by", metavar="OWNER", help="whose studies are opened")
        agreed.add_argument("opened_to", metavar="READER", help="to whose people")
        agreed.add_argument(
            "--for",
            dest="sharing",
            required=True,
            choices=[sharing.value for sharing in Sharing],
            help="reading: radiologists; emergencies: doctors, one study at a time; patients: their own; peers: DICOM",
        )
        add("end", "end an agreement", self._end).add_argument("agreement_id", help="as list shows it")
        move = add("move-gateway", "make a box another institution's; what it sent stays", self._move)
        move.add_argument("gateway_id")
        move.add_argument("institution")

    def _add(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation:
            said = f"institution {options.institution}: {options.name}"
            foundation.audit.record(self._event(Action.ACCESS_CHANGE, said))
            foundation.doorkeeper.institutions.add(options.institution, options.name)
        print(said.rstrip(": "))

    def _list(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation:
            for institution, name in foundation.doorkeeper.institutions.listed().items():
                print(f"{institution:32}  {name}".rstrip())
            for one in foundation.doorkeeper.institutions.agreements():
                print(f"{one.agreement_id}  {one.opened_by} opens to {one.opened_to} for {one.sharing}")

    def _agree(self, options: argparse.Namespace) -> None:
        by, to = options.opened_by, options.opened_to
        said = f"agreement on {options.sharing}: {by} opens to {to}"
        with closing(Foundation.open(self._settings(options))) as foundation:
            foundation.audit.record(self._event(Action.ACCESS_CHANGE, said, frozenset({by, to})))
            agreement_id = foundation.doorkeeper.institutions.agree(
                Sharing(options.sharing), opened_by=by, opened_to=to, made_by="command line"
            )
        print(f"{agreement_id}  {said}")

    def _end(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation:
            institutions = foundation.doorkeeper.institutions
            agreed = {one.agreement_id: one for one in institutions.agreements()}
            found = agreed.get(options.agreement_id)
            if found is None:
                raise StartError("there is no such agreement that holds; institution list shows them")
            said = f"end the agreement on {found.sharing}: {found.opened_by} to {found.opened_to}"
            concerned = frozenset({found.opened_by, found.opened_to})
            foundation.audit.record(self._event(Action.ACCESS_CHANGE, said, concerned))
            institutions.end(found.agreement_id)
        print("ended; it counts no more from the next request on")

    def _move(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation:
            institution = foundation.doorkeeper.institutions.require(options.institution)
            former = foundation.gateways.institution_of(options.gateway_id)
            said = f"gateway {options.gateway_id} is moved from {former} to institution {institution}"
            foundation.audit.record(self._event(Action.ACCESS_CHANGE, said, frozenset({institution, former})))
            if not foundation.gateways.move(options.gateway_id, institution, former=former):
                raise StartError(f"there is no gateway {options.gateway_id}; gateways list shows them")
        print(said)
