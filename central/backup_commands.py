"""`dicomnet-central backup FOLDER` and `restore FOLDER`: a whole central, beside the running one, and back.

Exit code 1: it is done, and some contents are lacking, which are named.
"""

from __future__ import annotations

import argparse
import os
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import peewee

from central.archive.errors import StorageError
from central.archive.object_files import ObjectFiles
from central.archive.objects import file_sha256, fsync_folder
from central.archive.settings import StorageSettings
from central.audit.events import Action
from central.backup.copying import Copied, check_objects, copy_objects
from central.backup.databases import require_empty, restore_databases, save_databases
from central.backup.layout import (
    KEYS,
    LIST,
    OBJECTS,
    Manifest,
    listed_objects,
    newest,
    read_manifest,
    write_manifest,
)
from central.command_group import AddCommand, CommandGroup
from central.errors import StartError
from central.foundation import Foundation, lock_folder, open_objects
from central.identity.keyfiles import make_private_folder
from central.import_commands import import_lock, say
from central.key_backup import put_back, save

_INCOMING: Final = "copying"


class BackupCommands(CommandGroup):
    """The commands."""

    def add(self, add: AddCommand) -> None:
        backup = add(
            "backup",
            "copy a whole central into a folder, also while it runs; what is there already is not copied again",
            self._backup,
        )
        backup.add_argument("folder", type=Path)
        backup.add_argument(
            "--check",
            action="store_true",
            help="copy nothing: read the newest backup of the folder and compare each file with its checksum",
        )
        restore = add(
            "restore",
            "put back a whole central from a backup; central must not run, and nothing is replaced",
            self._restore,
        )
        restore.add_argument("folder", type=Path)
        restore.add_argument(
            "--which", metavar="NAME", help="which backup of the folder; default: the newest"
        )

    def _backup(self, options: argparse.Namespace) -> int:
        folder: Path = options.folder
        if options.check:
            return _checked(folder)
        settings = self._settings(options).storage
        with (
            closing(Foundation.open(self._settings(options))) as foundation,
            import_lock(settings.root, "backup"),
        ):
            foundation.audit.record(
                self._event(Action.EXPORT, f"backup of everything into {folder.resolve()}")
            )
            try:
                return _made(settings, foundation, folder)
            except (StorageError, OSError, peewee.PeeweeException) as error:
                raise StartError(f"the backup is not whole: {error}; give the same command again") from error

    def _restore(self, options: argparse.Namespace) -> int:
        settings = self._settings(options).storage
        backup = options.folder / options.which if options.which else newest(options.folder)
        manifest = read_manifest(backup)
        try:
            make_private_folder(settings.root)
            descriptor = lock_folder(settings.root)
            try:
                require_empty(settings)
                source = ObjectFiles(options.folder / OBJECTS)
                objects = open_objects(settings, _INCOMING)
                objects.sweep(lambda _: False)  # no index names anything yet
                copied = copy_objects(listed_objects(backup), source, objects, say)
                put_back(backup / KEYS, settings.keys_folder)
                restore_databases(settings, backup, list(manifest.files))
            finally:
                os.close(descriptor)
        except (StorageError, OSError) as error:
            raise StartError(f"the restore is not whole: {error}; give the same command again") from error
        with closing(Foundation.open(self._settings(options))) as foundation:
            foundation.audit.record(
                self._event(Action.STORE, f"restore of everything from {backup.resolve()}")
            )
        print(f"restored what was backed up on {manifest.at_utc}: {copied.line}")
        return _named(copied)


def _made(settings: StorageSettings, foundation: Foundation, folder: Path) -> int:
    now = datetime.now(UTC)
    make_private_folder(folder)
    while (backup := folder / f"{now:%Y%m%dT%H%M%SZ}").exists():  # of the same second
        now += timedelta(seconds=1)
    backup.mkdir(mode=0o700)
    fsync_folder(folder)
    # The databases first, with what they name: each content is durable by then. The keys after them, for a row may need
    # one. What is encrypted or erased meanwhile may be gone before it is copied: then it is named as lacking.
    names = save_databases(settings, backup)
    save(settings.keys_folder, backup / KEYS)
    source = open_objects(settings, _INCOMING)
    copied = copy_objects(listed_objects(backup), source, ObjectFiles.open(folder / OBJECTS), say)
    files = {name: file_sha256(backup / name) for name in (*names, KEYS, LIST)}
    manifest = Manifest(
        foundation.identity.central_id,
        now.isoformat(timespec="seconds"),
        copied.objects,
        copied.bytes,
        copied.lacking_count,
        files,
    )
    write_manifest(backup, manifest)
    fsync_folder(backup)
    print(f"{backup}: {copied.line}")
    return _named(copied)


def _checked(folder: Path) -> int:
    backup = newest(folder)
    manifest = read_manifest(backup)
    found = check_objects(listed_objects(backup), ObjectFiles(folder / OBJECTS), say)
    print(f"{backup}, of {manifest.at_utc}: index, audit record and keys are as they were; {found.line}")
    return _named(found)


def _named(copied: Copied) -> int:
    for one in copied.lacking:
        print(f"lacking: {one}")
    return 1 if copied.lacking_count else 0
