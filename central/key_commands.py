"""``dicomnet-central keys``: sealing keys and their root, listed, changed, taken apart, saved and put back.

Always true: a new key is backed up before any box hears of it, unless that is declined in so many words; nothing is
destroyed that a gateway may still need, unless that gateway is named; every change is on the audit record first.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from central.audit.record import Action
from central.command_group import AddCommand, CommandGroup
from central.errors import StartError
from central.foundation import Foundation, lock_folder
from central.identity.errors import KeyFileError, KeySetChangeError
from central.identity.keyfiles import make_private_folder, write_whole
from central.identity.sealing_keys import ROOT_KEY, SEALING, read_root
from contract.key_set import KeySet, sign_key_set

Parser = argparse.ArgumentParser
_MAX_BACKUP_FILES: Final = 256
_MAX_KEY_FILE_BYTES: Final = 1 << 20


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
        for parser in (rotate, retire):
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

    def _rotate(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation, one_sentence():
            keys = foundation.identity.sealing_keys
            with keys.changing():
                if options.request is None:
                    _root(options, foundation)  # before anything is made
                offered = keys.rotated()
                if options.backup is not None:
                    save(_folder(foundation), options.backup)
                detail = f"rotate: set {offered.version}, new key {offered.newest.key_id}"
                self._carry_out(options, foundation, offered, detail)

    def _retire(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation, one_sentence():
            keys = foundation.identity.sealing_keys
            with keys.changing():
                offered = keys.retired(options.key_id)
                self._carry_out(options, foundation, offered, f"retire: {options.key_id}")

    def _carry_out(
        self, options: argparse.Namespace, foundation: Foundation, offered: KeySet, detail: str
    ) -> None:
        """Sign and publish, or write the request for whoever has the root."""
        if options.request is not None:
            _write_new(options.request, offered.model_dump_json(indent=2, exclude_none=True).encode())
            print(f"{options.request} is to be signed where the root key is: dicomnet-central keys sign")
            return
        root = _root(options, foundation)
        foundation.audit.record(self._event(Action.KEYS, detail))
        foundation.identity.sealing_keys.publish(sign_key_set(offered, root))
        print(f"key set {offered.version} is published; boxes seal for {offered.newest.key_id}")

    def _sign(self, options: argparse.Namespace) -> None:
        with one_sentence():
            root = read_root(options.root)
            if root is None:
                raise StartError(f"there is no root key in {options.root}")
            try:
                offered = KeySet.model_validate_json(options.request.read_bytes())
            except ValidationError as error:
                raise StartError(
                    f"{options.request} is not a request of keys rotate or keys retire"
                ) from error
            _write_new(options.out, sign_key_set(offered, root).encode("ascii"))
        print(f"signed: set {offered.version} of {offered.central_id}, newest key {offered.newest.key_id}")
        print("compare this with what central printed before you install it", file=sys.stderr)

    def _install(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation, one_sentence():
            token = options.signed.read_text("ascii").strip()
            keys = foundation.identity.sealing_keys
            with keys.changing():
                foundation.audit.record(self._event(Action.KEYS, f"install: {options.signed.name}"))
                offered = keys.publish(token)
        print(f"key set {offered.version} is published; boxes seal for {offered.newest.key_id}")

    def _export_root(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation, one_sentence():
            path = _folder(foundation) / ROOT_KEY
            root = read_root(path)
            if root is None:
                raise StartError(f"the root key is not in {path.parent} any more")
            foundation.audit.record(self._event(Action.KEYS, "export-root"))
            _write_new(options.file, path.read_bytes())
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

    def _destroy(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation, one_sentence():
            keys = foundation.identity.sealing_keys
            with keys.changing():
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


def _write_new(path: Path, content: bytes) -> None:
    """Durable and for its owner only. StartError if there is such a file: it may be somebody's last copy."""
    if path.exists():
        raise StartError(f"{path} is there already, and is not replaced")
    write_whole(path, content)


def save(folder: Path, path: Path) -> int:
    """Put every file of the keys' folder into one tar file; how many. Nothing in it is encrypted."""
    out = io.BytesIO()
    count = 0
    with tarfile.open(fileobj=out, mode="w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.name != "lock" and not file.name.endswith(".part"):
                archive.add(file, str(file.relative_to(folder)))
                count += 1
    _write_new(path, out.getvalue())
    return count


def put_back(path: Path, folder: Path) -> list[str]:
    """Write what the backup has and `folder` has not; the names. Of two key sets the higher number is kept by leaving
    the one that is there.

    Raises
    ------
    StartError : the backup is not one, or a file that is there differs in a way that one must be wrong.
    """
    make_private_folder(folder)
    make_private_folder(folder / SEALING)
    missing: list[tuple[Path, bytes, int]] = []
    try:
        with tarfile.open(path) as archive:
            for number, member in enumerate(archive):
                name = PurePosixPath(member.name)
                fits = len(name.parts) == 1 or (len(name.parts) == 2 and name.parts[0] == SEALING)
                bounded = number < _MAX_BACKUP_FILES and member.size <= _MAX_KEY_FILE_BYTES
                if not (member.isfile() and fits and bounded and ".." not in name.parts):
                    raise StartError(f"{path} is not a backup of keys: {member.name}")
                source = archive.extractfile(member)
                assert source is not None, "isfile() was asked"
                content, target = source.read(), folder / name
                if not target.exists():
                    missing.append(
                        (target, content, 0o644 if target.suffix in (".pem", ".pub", ".jws") else 0o600)
                    )
                elif target.suffix == ".key" and target.read_bytes() != content:
                    raise StartError(
                        f"{target} is another key than in the backup: move away the wrong one of them"
                    )
    except tarfile.TarError as error:
        raise StartError(f"{path} is not a backup of keys") from error
    # The set last: it must not name a key that is not there yet.
    for target, content, mode in sorted(missing, key=lambda one: one[0].suffix == ".jws"):
        if not target.with_suffix(".gone").exists():
            write_whole(target, content, mode=mode)
    return [str(target.relative_to(folder)) for target, _, _ in missing]
