"""Key files: written whole or not at all, readable by their owner only (0600, in a folder of 0700)."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from central.identity.errors import KeyFileError


def make_private_folder(folder: Path) -> None:
    """Make `folder`, or close it to others if it is open to them.

    Raises
    ------
    OSError : it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def write_whole(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Put `content` at `path`, durably: after a crash the old content is there, or the new."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask took away or left
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_private(path: Path) -> bytes | None:
    """The content of a key file; None when there is none yet.

    Raises
    ------
    KeyFileError : it cannot be read, or others than its owner can read it.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise KeyFileError(
                    f"{path} can be read by others than its owner: find out who did, then chmod 600"
                )
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from error


def private_pem(key: PrivateKeyTypes) -> bytes:
    """PKCS #8 in PEM, not encrypted: what protects it is the file's mode."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
