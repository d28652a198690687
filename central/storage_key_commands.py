"""``dicomnet-central keys …`` of the storage keys: what studies' keys are wrapped under where objects are encrypted."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from central.archive.study_keys import StudyKeys
from central.audit.events import Action
from central.command_group import AddCommand, CommandGroup
from central.errors import StartError
from central.foundation import Foundation, open_archive
from central.identity.storage_keys import StorageKeys
from central.key_backup import save
from central.key_commands import one_sentence


class StorageKeyCommands(CommandGroup):
    """The commands."""

    def add(self, command: AddCommand) -> None:
        """Add every command through `command` (name, what it does, function)."""
        command(
            "storage", "print the storage keys, and how many studies' keys each of them wraps", self._list
        )
        rotate = command(
            "rotate-storage",
            "make a new storage key and wrap every study's key under it; no object is written anew",
            self._rotate,
        )
        saved = rotate.add_mutually_exclusive_group(required=True)
        saved.add_argument(
            "--backup", type=Path, metavar="FILE", help="save all keys there, with the new one"
        )
        saved.add_argument(
            "--without-backup", action="store_true", help="lose every encrypted image if this disk breaks"
        )
        destroy = command("destroy-storage", "erase a former storage key that wraps nothing", self._destroy)
        destroy.add_argument("key_id")

    def _list(self, options: argparse.Namespace) -> None:
        with closing(self._open(options)) as foundation:
            storage_keys, study_keys = _keys(foundation)
            wrapped, ids = study_keys.wrapped_under(), storage_keys.ids()
        if not ids:
            print("there is none: nothing was ever encrypted here (storage.encrypt)")
        for key_id in ids:
            state = "in use" if key_id == ids[-1] else "former"
            print(f"{key_id}  {state}  wraps the keys of {wrapped.get(key_id, 0)} studies")

    def _rotate(self, options: argparse.Namespace) -> None:
        with closing(self._open(options)) as foundation:
            storage_keys, study_keys = _keys(foundation)
            if not storage_keys.ids():
                raise StartError("there is no storage key yet: set storage.encrypt and start central")
            foundation.audit.record(self._event(Action.KEYS, "rotate storage key"))
            with one_sentence():
                key_id = storage_keys.rotate()
                if options.backup is not None:
                    save(foundation.settings.storage.keys_folder, options.backup)
                count = study_keys.rewrap()
        print(f"{key_id} wraps the keys of all studies; {count} were wrapped anew")
        print("a backup of the database from before this needs the former key: destroy it when there is none")

    def _destroy(self, options: argparse.Namespace) -> None:
        with closing(self._open(options)) as foundation, one_sentence():
            storage_keys, study_keys = _keys(foundation)
            with foundation.db.writing():  # no study's key is wrapped meanwhile
                if count := study_keys.wrapped_under().get(options.key_id, 0):
                    raise StartError(
                        f"{options.key_id} wraps the keys of {count} studies: keys rotate-storage first"
                    )
                foundation.audit.record(self._event(Action.KEYS, f"destroy: {options.key_id}"))
                storage_keys.destroy(options.key_id)
        print(f"{options.key_id} is destroyed here; copies in backups are not")

    def _open(self, options: argparse.Namespace) -> Foundation:
        settings = self._settings(options)
        foundation = Foundation.open(settings)
        try:
            open_archive(
                settings.storage, foundation.db
            )  # makes the tables, and checks that the keys are here
        except StartError:
            foundation.close()
            raise
        return foundation


def _keys(foundation: Foundation) -> tuple[StorageKeys, StudyKeys]:
    storage_keys = StorageKeys(foundation.settings.storage.keys_folder)
    return storage_keys, StudyKeys(foundation.db, storage_keys)
