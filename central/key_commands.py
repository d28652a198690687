"""``dicomnet-central keys``: sealing keys, receipt keys and their root: listed, changed, saved, put back.

Always true: a new key is backed up before any box hears of it, unless that is declined in so many words, and with the
set that names it where the root signs at once; nothing is destroyed that a gateway may still need, unless that gateway
is named; every change is on the audit record first.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import TypeAdapter, ValidationError

from central.audit.events import Action
from central.command_group import AddCommand, CommandGroup
from central.errors import StartError
from central.foundation import Foundation, lock_folder
from central.identity.errors import KeyFileError, KeySetChangeError
from central.identity.identity import holds_keys
from central.identity.keyfiles import make_private_folder
from central.identity.receipt_keys import LEAD, RECEIPT_KEYS
from central.identity.sealing_keys import KEY_SET, ROOT_KEY, read_root
from central.key_backup import put_back, save, write_new
from contract.key_set import KeySet, sign_key_set
from contract.receipt_keys import ReceiptKeyList, is_receipt_keys, sign_receipt_keys

Parser = argparse.ArgumentParser
Signable = KeySet | ReceiptKeyList
_REQUEST: Final[TypeAdapter[Signable]] = TypeAdapter(Signable)
_MAX_LEAD_DAYS: Final = 365
_MOST_SETS_LOST: Final = 1000  # between a backup of the keys and the set that boxes have


class KeyCommands(CommandGroup):
    """The commands."""

    def add(self, command: AddCommand) -> None:
        """Add every command through `command` (name, what it does, function)."""
        command("list", "print every sealing key, its dates, and which gateways may need it", self._list)
        rotate = command(
            "rotate", "make a new sealing key, which boxes use from their next exchange on", self._rotate
        )
        saved = rotate.add_mutually_exclusive_group(required=True)
        saved.add_argument(
            "--backup", type=Path, metavar="FILE", help="save all keys there before boxes hear of it"
        )
        saved.add_argument(
            "--without-backup",
            action="store_true",
            help="lose what boxes sealed if this disk breaks before a backup",
        )
        retire = command("retire", "say that nobody seals for a key any more; it still opens", self._retire)
        retire.add_argument("key_id")
        rotate_receipt = command(
            "rotate-receipts",
            "make a new key for receipts, which boxes are told of before it signs",
            self._rotate_receipts,
        )
        rotate_receipt.add_argument(
            "--lead-days",
            type=float,
            default=LEAD.days,
            metavar="DAYS",
            help="how long boxes are told of it before it signs; default %(default)s",
        )
        saved = rotate_receipt.add_mutually_exclusive_group(required=True)
        saved.add_argument("--backup", type=Path, metavar="FILE", help="save all keys there first")
        saved.add_argument(
            "--without-backup",
            action="store_true",
            help="if this disk breaks before a backup, boxes are enrolled anew",
        )
        retire_receipt = command(
            "retire-receipts",
            "say that nothing counts any more that this key signed; what boxes still wait for is signed anew",
            self._retire_receipts,
        )
        retire_receipt.add_argument("key_id")
        for parser in (retire, retire_receipt):
            parser.add_argument("--backup", type=Path, metavar="FILE", help="save all keys there first")
        for parser in (rotate, retire, rotate_receipt, retire_receipt):
            parser.add_argument(
                "--root", type=Path, metavar="FILE", help="the root key, where it is kept elsewhere"
            )
            parser.add_argument(
                "--request",
                type=Path,
                metavar="FILE",
                help="write the new set there to be signed offline (keys sign)",
            )
        sign = command(
            "sign", "sign a request with the root key; needs nothing else and no network", self._sign
        )
        sign.add_argument("request", type=Path)
        sign.add_argument("--root", type=Path, required=True, metavar="FILE")
        sign.add_argument("--out", type=Path, required=True, metavar="FILE")
        install = command("install", "give boxes a set that was signed offline", self._install)
        install.add_argument("signed", type=Path)
        export = command("export-root", "move the root key out of central's folder", self._export_root)
        export.add_argument("file", type=Path)
        backup = command("backup", "save all keys in one file, readable by its owner only", self._backup)
        backup.add_argument("file", type=Path)
        restore = command(
            "restore", "put back keys that are missing; never replaces one that is there", self._restore
        )
        restore.add_argument("file", type=Path)
        command(
            "start-over",
            "make new keys where all are lost without a backup; boxes have to be enrolled anew",
            self._start_over,
        )
        destroy = command("destroy", "erase a retired key for good, if no gateway may need it", self._destroy)
        destroy.add_argument("key_id")
        destroy.add_argument(
            "--despite",
            action="append",
            default=[],
            metavar="GATEWAY",
            help="give up what this gateway may hold for the key; may be repeated",
        )

    def _list(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation:
            keys = foundation.identity.sealing_keys
            held = keys.current_set()
            print(f"key set {held.version}, issued {held.issued_at_utc:%Y-%m-%d %H:%M} UTC")
            if (seen := _seen_version(foundation)) > held.version:
                print(f"boxes have key set {seen}: these keys are of an older backup, so rotate once")
            for entry in held.keys:
                if keys.is_destroyed(entry.key_id):
                    state = "destroyed"
                elif entry.retired_at_utc is not None:
                    state = f"retired {entry.retired_at_utc:%Y-%m-%d}"
                else:
                    state = "in use" if entry == held.newest else "former"
                print(f"{entry.key_id}  made {entry.created_at_utc:%Y-%m-%d}  {state}")
                if entry != held.newest and state != "destroyed":
                    for gateway_id, reason in foundation.standings.who_may_need(
                        entry.key_id, held.version
                    ).items():
                        print(f"    {gateway_id}: {reason}")

            print()
            receipts = foundation.identity.receipt_keys
            listed = receipts.current_list()
            if listed is None:
                (key_id,) = receipts.verifying()
                print(f"receipt keys\n{key_id}  signs, the first one")
                return
            print(f"receipt keys, list {listed.version}, issued {listed.issued_at_utc:%Y-%m-%d %H:%M} UTC")
            now = datetime.now(UTC)
            for one in listed.keys:
                if one.retired_at_utc is not None:
                    state = f"retired {one.retired_at_utc:%Y-%m-%d}"
                elif one == listed.signing_at(now):
                    state = "signs"
                else:
                    begins = f"signs from {one.signs_from_utc:%Y-%m-%d %H:%M} UTC"
                    state = begins if one.signs_from_utc > now else "former"
                print(f"{one.key_id}  made {one.created_at_utc:%Y-%m-%d}  {state}")

    def _rotate(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation, one_sentence():
            keys = foundation.identity.sealing_keys
            with keys.changing():
                if options.request is None:
                    _root(options, foundation)  # before anything is made
                offered = keys.rotated(_seen_version(foundation))
                detail = f"rotate: set {offered.version}, new key {offered.newest.key_id}"
                self._carry_out(options, foundation, offered, detail)

    def _retire(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation, one_sentence():
            keys = foundation.identity.sealing_keys
            with keys.changing():
                offered = keys.retired(options.key_id, _seen_version(foundation))
                self._carry_out(options, foundation, offered, f"retire: {options.key_id}")

    def _rotate_receipts(self, options: argparse.Namespace) -> None:
        if not 0 <= options.lead_days <= _MAX_LEAD_DAYS:
            raise StartError(f"--lead-days is between 0 and {_MAX_LEAD_DAYS}")
        with self._changing(options) as foundation:
            if options.request is None:
                _root(options, foundation)  # before anything is made
            offered = foundation.identity.receipt_keys.rotated(timedelta(days=options.lead_days))
            detail = f"rotate-receipts: list {offered.version}, new key {offered.newest.key_id}"
            self._carry_out(options, foundation, offered, detail)

    def _retire_receipts(self, options: argparse.Namespace) -> None:
        with self._changing(options) as foundation:
            offered = foundation.identity.receipt_keys.retired(options.key_id)
            self._carry_out(options, foundation, offered, f"retire-receipts: {options.key_id}")

    @contextmanager
    def _changing(self, options: argparse.Namespace) -> Iterator[Foundation]:
        """Central's rooms, while nobody else changes keys."""
        with (
            closing(Foundation.open(self._settings(options))) as foundation,
            one_sentence(),
            foundation.identity.sealing_keys.changing(),
        ):
            yield foundation

    def _carry_out(
        self, options: argparse.Namespace, foundation: Foundation, offered: Signable, detail: str
    ) -> None:
        """Sign and publish, or write the request for whoever has the root."""
        token = None if options.request is not None else _signed(offered, _root(options, foundation))
        if options.backup is not None:
            # With what boxes are about to have: a backup with the set before it would be a step back for them.
            name = KEY_SET if isinstance(offered, KeySet) else RECEIPT_KEYS
            save(_folder(foundation), options.backup, {name: token.encode("ascii")} if token else {})
        if token is None:
            write_new(options.request, offered.model_dump_json(indent=2, exclude_none=True).encode())
            print(
                f"{options.request} is to be signed where the root key is, with keys sign: {_summary(offered)}"
            )
            return
        foundation.audit.record(self._event(Action.KEYS, detail))
        print(_publish(foundation, token))

    def _sign(self, options: argparse.Namespace) -> None:
        with one_sentence():
            root = read_root(options.root)
            if root is None:
                raise StartError(f"there is no root key in {options.root}")
            try:
                offered = _REQUEST.validate_json(options.request.read_bytes())
            except ValidationError as error:
                raise StartError(
                    f"{options.request} is not a request of keys rotate, retire, rotate-receipts or retire-receipts"
                ) from error
            write_new(options.out, _signed(offered, root).encode("ascii"))
        print(f"signed: {_summary(offered)}")
        print("compare this with what central printed before you install it", file=sys.stderr)

    def _install(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation, one_sentence():
            token = options.signed.read_text("ascii").strip()
            with foundation.identity.sealing_keys.changing():
                foundation.audit.record(self._event(Action.KEYS, f"install: {options.signed.name}"))
                said = _publish(foundation, token)
        print(said)

    def _export_root(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation, one_sentence():
            path = _folder(foundation) / ROOT_KEY
            root = read_root(path)
            if root is None:
                raise StartError(f"the root key is not in {path.parent} any more")
            foundation.audit.record(self._event(Action.KEYS, "export-root"))
            write_new(options.file, path.read_bytes())
            copied = read_root(options.file)
            if copied is None or copied.private_bytes_raw() != root.private_bytes_raw():
                raise StartError(f"{options.file} cannot be read back: the root key stays where it was")
            path.unlink()
        print(f"the root key is in {options.file} alone: keep two copies of it, off the network")

    def _backup(self, options: argparse.Namespace) -> None:
        with (
            closing(Foundation.open(self._settings(options))) as foundation,
            one_sentence(),
            foundation.identity.sealing_keys.changing(),
        ):
            foundation.audit.record(self._event(Action.KEYS, "backup"))
            count = save(_folder(foundation), options.file)
        print(f"{count} files are in {options.file}: whoever has it has central's keys, so lock it away")

    def _restore(self, options: argparse.Namespace) -> None:
        settings = self._settings(options)
        root = settings.storage.root
        with one_sentence():
            make_private_folder(root)
            descriptor = lock_folder(root)  # central must not run: it would not know its own CA any more
            try:
                restored = put_back(options.file, settings.storage.keys_folder)
            finally:
                os.close(descriptor)
        with closing(Foundation.open(settings)) as foundation:
            foundation.audit.record(self._event(Action.KEYS, f"restore: {len(restored)} files"))
        print(
            "\n".join(["nothing was missing"] if not restored else [f"restored {name}" for name in restored])
        )

    def _start_over(self, options: argparse.Namespace) -> None:
        settings = self._settings(options)
        if holds_keys(settings.storage.keys_folder):
            raise StartError(f"there are keys in {settings.storage.keys_folder}: nothing was changed")
        with closing(Foundation.open(settings, starts_over=True)) as foundation:
            foundation.audit.record(self._event(Action.KEYS, "start-over"))
        print(
            "new keys are made: enrol every box anew (pair --replaces), reset authenticator apps (user reset-factors)"
        )

    def _destroy(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation, one_sentence():
            keys = foundation.identity.sealing_keys
            with keys.changing():
                keys.require_retired(options.key_id)
                version = keys.current_set().version
                reasons = foundation.standings.who_may_need(options.key_id, version)
                in_the_way = {name: why for name, why in reasons.items() if name not in options.despite}
                if in_the_way:
                    who = "; ".join(f"{name} {why}" for name, why in in_the_way.items())
                    raise StartError(
                        f"the key is kept, for objects that only it opens may be on their way: {who}. To give up what "
                        "a gateway holds, name it with --despite"
                    )
                despite = f" despite {', '.join(options.despite)}" if options.despite else ""
                foundation.audit.record(self._event(Action.KEYS, f"destroy: {options.key_id}{despite}"))
                keys.destroy(options.key_id)
        print(f"{options.key_id} is destroyed here; copies in backups are not")


@contextmanager
def one_sentence() -> Iterator[None]:
    """What can go wrong with keys, as one sentence for the person who typed the command."""
    try:
        yield
    except (KeyFileError, KeySetChangeError) as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(f"{error.filename or 'a key file'}: {error.strerror or error}") from error


def _seen_version(foundation: Foundation) -> int:
    """The highest number of a key set that a box has, within reason: one that lies must not use the numbers up."""
    most = foundation.identity.sealing_keys.current_set().version + _MOST_SETS_LOST
    seen = (standing.key_set_version for standing in foundation.standings.all())
    return max((version for version in seen if version <= most), default=0)


def _summary(offered: Signable) -> str:
    """What two people compare, one at central and one where the root is."""
    what = "set" if isinstance(offered, KeySet) else "list of receipt keys"
    return f"{what} {offered.version} of {offered.central_id}, newest key {offered.newest.key_id}"


def _signed(offered: Signable, root: Ed25519PrivateKey) -> str:
    return sign_key_set(offered, root) if isinstance(offered, KeySet) else sign_receipt_keys(offered, root)


def _publish(foundation: Foundation, token: str) -> str:
    """Give boxes what the root signed, whichever of the two it is; what to tell the person."""
    if is_receipt_keys(token):
        listed = foundation.identity.receipt_keys.publish(token)
        signing = listed.signing_at(datetime.now(UTC))
        begins = f", {listed.newest.key_id} from {listed.newest.signs_from_utc:%Y-%m-%d %H:%M} UTC on"
        said = f"list {listed.version} of receipt keys is published; {signing.key_id} signs"
        return said + (begins if signing != listed.newest else "")
    offered = foundation.identity.sealing_keys.publish(token)
    return f"key set {offered.version} is published; boxes seal for {offered.newest.key_id}"


def _root(options: argparse.Namespace, foundation: Foundation) -> Ed25519PrivateKey:
    path = options.root or _folder(foundation) / ROOT_KEY
    root = read_root(path)
    if root is None:
        raise StartError(
            f"the root key is not in {path}: name it with --root, or write a --request to be signed where it is"
        )
    return root


def _folder(foundation: Foundation) -> Path:
    return foundation.settings.storage.keys_folder
