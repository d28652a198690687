"""The box's own pair of sealing keys: the second recipient, which exists only where queries on the box are wanted.

Without it a box holds nothing that opens what it has received. With it, what is sealed from then on opens with this
key too; so it lies in a directory of its own, apart from the spool, in a file of mode 0600, and switching queries
off again stops sealing for it. A crash leaves the whole file or none.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from contract.identifiers import ObjectId
from contract.sealed_object import SealedObjectError, read_sealed
from contract.sealing import RecipientPrivateKey, RecipientPublicKey, SealingKeyError, Unwrapper
from edge.buffer.durable_file import create_file
from edge.buffer.errors import PermanentSpoolError


class LocalKeyError(PermanentSpoolError):
    """The key file is not one. Its text says what to do."""


class CannotOpenError(PermanentSpoolError):
    """The object was sealed before the box had its key, with another one, or is damaged."""


class LocalRecipient:
    """Safe from any thread."""

    def __init__(self, key: RecipientPrivateKey) -> None:
        self._key = key
        self.public_key: RecipientPublicKey = key.public_key()

    @classmethod
    def load(cls, path: Path) -> LocalRecipient:
        """The key pair in `path`; made there if there is none.

        Raises
        ------
        LocalKeyError : the file holds something else.
        OSError : it cannot be read or written.
        """
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            create_file(path, RecipientPrivateKey.generate().raw)  # of two makers the first one wins
            raw = path.read_bytes()
        try:
            return cls(RecipientPrivateKey(raw))
        except SealingKeyError as error:
            raise LocalKeyError(
                f"{path} is not a key for local queries: restore it from a backup, or remove it; "
                "what was received until then can no longer be retrieved from this box"
            ) from error

    def open(self, sealed: BinaryIO, object_id: ObjectId) -> OpenedObject:
        """The Part 10 file inside, piece by piece as it is asked for."""
        return OpenedObject(sealed, object_id, Unwrapper({self.public_key.key_id: self._key}))


class OpenedObject:
    """An iterator over the verified pieces of a Part 10 file, at most 1 MiB each. To be closed.

    Raises, while it is read, `CannotOpenError`.
    """

    def __init__(self, sealed: BinaryIO, object_id: ObjectId, unwrap: Unwrapper) -> None:
        self._sealed = sealed
        self._pieces = read_sealed(sealed, unwrap, expected_object_id=object_id)

    def __iter__(self) -> OpenedObject:
        return self

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except (SealedObjectError, SealingKeyError) as error:
            raise CannotOpenError(f"a sealed object does not open on this box: {error}") from error
        if isinstance(piece, bytes):
            return piece
        raise StopIteration  # its content's hash, which `read_sealed` has compared

    def __enter__(self) -> OpenedObject:
        return self

    def __exit__(self, *_: object) -> None:
        self._sealed.close()
