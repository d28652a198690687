"""Keys of studies and of their objects, each wrapped under the one above: storage key, study's key, object's key.

Always true: nothing but the rows here opens an object that is encrypted at rest, and of a study's objects none without
the study's row; so a study whose row is gone is gone, whatever is left of its files. A wrapped key opens in its own
place only: a study's under its UID, an object's under its address, hash and size. What a crash leaves: a study's key
that wraps nothing, which the study's next object takes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any, Final

import peewee
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from central.archive.errors import ObjectDamagedError
from central.archive.sealed_file import KEY_BYTES, SealedObject
from central.archive.tables import Instance, SealedContent, StudyKey
from central.database import Database
from central.identity.errors import KeyFileError
from central.identity.storage_keys import StorageKeys

_NONCE_BYTES: Final = 12
_STUDY_CONTEXT: Final = b"dicomnet study key 1\0"
_OBJECT_CONTEXT: Final = b"dicomnet object key 1\0"
_REWRAPPED_AT_ONCE: Final = 500


class StudyKeys:
    """Safe to call from many threads and processes."""

    def __init__(self, db: Database, storage_keys: StorageKeys) -> None:
        self._db = db
        self._storage_keys = storage_keys

    def require_whole(self, *, make: bool) -> None:
        """Check that every storage key that wraps a study's key is here.

        Parameters
        ----------
        make : make the first one if there is none and none was ever used.

        Raises
        ------
        KeyFileError : one is missing or damaged; the text says what to restore.
        """
        used = StudyKey.select(StudyKey.storage_key_id).distinct()
        for (key_id,) in list(used.tuples().execute(self._db)):
            _ = self._storage_keys[key_id]
        if make:
            self._storage_keys.make_first()
        for key_id in self._storage_keys.ids():
            _ = self._storage_keys[key_id]

    def wrap(self, study_instance_uid: str, sha256: str, size_bytes: int, sealed: SealedObject) -> bytes:
        """The object's key under the study's, which is made if there is none. Inside the caller's transaction."""
        row = self._row(study_instance_uid)
        if row is None:
            study_key = os.urandom(KEY_BYTES)
            self._put(study_instance_uid, study_key)
        else:
            study_key = self._study_key(study_instance_uid, row)
        return _wrap(study_key, sealed.key, _object_context(sealed.address, sha256, size_bytes))

    def unwrap(self, row: Mapping[str, Any]) -> SealedObject:
        """What opens the object of a row with the columns of `SealedContent` and `StudyKey`, and `size_bytes`.

        Raises
        ------
        ObjectDamagedError : the keys do not fit: a row was changed, or is from another backup than the others.
        KeyFileError : the storage key is missing or damaged.
        """
        address = str(row["address"])
        if row["storage_key_id"] is None:
            raise ObjectDamagedError(address)
        study_key = self._study_key(
            row["study_instance_uid"],
            {"storage_key_id": row["storage_key_id"], "wrapped_key": row["wrapped_study_key"]},
        )
        context = _object_context(address, row["sha256"], row["size_bytes"])
        try:
            return SealedObject(address, _unwrap(study_key, row["wrapped_key"], context))
        except InvalidTag as error:
            raise ObjectDamagedError(address) from error

    def opens(self, address: str) -> bool:
        """Whether an object is not encrypted, or its row and its study's open it. KeyFileError as `unwrap`."""
        query = (
            SealedContent.select(
                SealedContent,
                Instance.size_bytes,
                StudyKey.storage_key_id,
                StudyKey.wrapped_key.alias("wrapped_study_key"),
            )
            .join(Instance, on=(Instance.sha256 == SealedContent.sha256))
            .join_from(
                SealedContent,
                StudyKey,
                peewee.JOIN.LEFT_OUTER,
                on=(StudyKey.study_instance_uid == SealedContent.study_instance_uid),
            )
            .where(SealedContent.address == address)
        )
        try:
            for row in query.dicts().execute(self._db):
                self.unwrap(row)
        except ObjectDamagedError:
            return False
        return True

    def rewrap(self) -> int:
        """Wrap every study's key under the newest storage key; how many. Can be broken off and done again."""
        newest, count = self._storage_keys.ids()[-1], 0
        while True:
            with self._db.writing():
                former = StudyKey.select().where(StudyKey.storage_key_id != newest).limit(_REWRAPPED_AT_ONCE)
                rows = list(former.dicts().execute(self._db))
                for row in rows:
                    uid = row["study_instance_uid"]
                    wrapped = self._wrapped(newest, uid, self._study_key(uid, row))
                    StudyKey.update(storage_key_id=newest, wrapped_key=wrapped).where(
                        StudyKey.study_instance_uid == uid
                    ).execute(self._db)
            if not rows:
                return count
            count += len(rows)

    def wrapped_under(self) -> dict[str, int]:
        """How many studies' keys each storage key wraps."""
        count = peewee.fn.COUNT(StudyKey.study_instance_uid)
        query = StudyKey.select(StudyKey.storage_key_id, count).group_by(StudyKey.storage_key_id)
        return dict(query.tuples().execute(self._db))

    def _row(self, study_instance_uid: str) -> Mapping[str, Any] | None:
        query = StudyKey.select().where(StudyKey.study_instance_uid == study_instance_uid)
        return next(iter(query.dicts().execute(self._db)), None)

    def _put(self, study_instance_uid: str, study_key: bytes) -> None:
        newest = self._storage_keys.ids()[-1]
        wrapped = self._wrapped(newest, study_instance_uid, study_key)
        StudyKey.insert(
            study_instance_uid=study_instance_uid, storage_key_id=newest, wrapped_key=wrapped
        ).execute(self._db)

    def _wrapped(self, storage_key_id: str, study_instance_uid: str, study_key: bytes) -> bytes:
        return _wrap(self._storage_keys[storage_key_id], study_key, _study_context(study_instance_uid))

    def _study_key(self, study_instance_uid: str, row: Mapping[str, Any]) -> bytes:
        storage_key_id = row["storage_key_id"]
        try:
            return _unwrap(
                self._storage_keys[storage_key_id], row["wrapped_key"], _study_context(study_instance_uid)
            )
        except InvalidTag as error:
            raise KeyFileError(
                f"the key of study {study_instance_uid} does not open with {storage_key_id}: the index database and "
                "the keys are not of one central; restore both from one backup"
            ) from error


def _study_context(study_instance_uid: str) -> bytes:
    return _STUDY_CONTEXT + study_instance_uid.encode("ascii")


def _object_context(address: str, sha256: str, size_bytes: int) -> bytes:
    return _OBJECT_CONTEXT + bytes.fromhex(address) + bytes.fromhex(sha256) + struct.pack(">Q", size_bytes)


def _wrap(key: bytes, wrapped: bytes, context: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, wrapped, context)


def _unwrap(key: bytes, wrapped: bytes | memoryview, context: bytes) -> bytes:
    data = bytes(wrapped)
    if len(data) != _NONCE_BYTES + KEY_BYTES + 16:
        raise InvalidTag
    return AESGCM(key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], context)
