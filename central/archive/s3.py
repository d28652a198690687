"""Contents on S3: any number of central processes share them, and each keeps what it used last at hand.

Always true: `commit` returns after the store has said that it has the object; what is read was compared with its hash
when it came, so wrong bytes are named and never shown. The folder here is a copy and may be lost. What a crash leaves:
files in ``incoming``, swept at the next start; or an object without a row in the index, which the resend finds again.

Why whole objects come to a local file first: frames, headers and pictures are read at many places of a file, by other
processes too, and a doctor who opens one slice asks for the next.
"""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from central.archive.errors import NoSuchObjectError, ObjectDamagedError, StoreUnavailableError
from central.archive.objects import (
    INCOMING,
    FileSink,
    KeptObject,
    StoredObject,
    file_sha256,
    is_sha256,
    sweep_folder,
)
from contract.identifiers import check_sha256

if TYPE_CHECKING:
    from obstore.store import RetryConfig

_CHUNK_BYTES: Final = 1 << 20
_LOCKS: Final = 64  # so that one object is fetched once, however many ask for it at the same time
_IN_USE_S: Final = 60.0  # whoever got a path has opened the file by then
_FREED_TO: Final = 0.9
_RETRY: Final[RetryConfig] = {  # whoever waits is a person, or a box that asks again by itself
    "max_retries": 3,
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1)},
    "retry_timeout": timedelta(seconds=5),
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class S3Place:
    """Which bucket, where, and how much of it may lie at hand. `credentials` is a file in the form of AWS's tools."""

    endpoint: str
    bucket: str
    prefix: str
    region: str
    credentials: Path
    cache_bytes: int


class S3Objects:
    """The object store in `place`; the copies at hand lie under `root`."""

    def __init__(self, store: S3Store, place: S3Place, root: Path, incoming: str = INCOMING) -> None:
        self._store = store
        self._place = place
        self._root = root
        self._incoming = root / incoming
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._freeing = threading.Lock()
        self._at_hand_bytes = 0

    @classmethod
    def open(cls, place: S3Place, root: Path, incoming: str = INCOMING, *, swept: bool = True) -> S3Objects:
        """Make the folder if needed, sweep it if `swept`, and ask the bucket once.

        Raises
        ------
        OSError : the folder or the credentials' file cannot be used.
        StoreUnavailableError : the bucket does not answer.
        """
        key_id, secret = _credentials(place.credentials)
        store = S3Store(
            place.bucket,
            endpoint=place.endpoint,
            region=place.region,
            access_key_id=key_id,
            secret_access_key=secret,
            virtual_hosted_style_request=False,
            checksum_algorithm="SHA256",
            client_options={
                "allow_http": place.endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=5),
                "timeout": timedelta(minutes=10),
            },
            retry_config=_RETRY,
        )
        objects = cls(store, place, root, incoming)
        objects._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        objects._at_hand_bytes = sum(path.stat().st_size for path in root.glob("??/*.dcm"))
        objects._ask_bucket()
        return objects

    def new_object(self) -> FileSink:
        return FileSink(self._incoming / secrets.token_hex(16), self._keep)

    def path_of(self, sha256: str, *, compare: bool = False) -> Path:
        path = self._at_hand(sha256)
        with self._locks[int(sha256[:2], 16) % _LOCKS]:
            try:
                os.utime(path)  # used last
            except FileNotFoundError:
                self._fetch(sha256, path)
                return path
            if compare and file_sha256(path) != sha256:
                _log.error("a copy at hand is damaged, it is fetched anew", extra={"sha256": sha256})
                path.unlink(missing_ok=True)
                self._fetch(sha256, path)
        return path

    def remove(self, sha256: str) -> None:
        self._at_hand(sha256).unlink(missing_ok=True)
        try:
            obstore.delete(self._store, self._key(sha256))
        except FileNotFoundError:
            pass
        except BaseError as error:
            raise _unavailable("removing", error) from error

    def sweep(self, is_indexed: Callable[[str], bool]) -> None:
        sweep_folder(self._incoming)  # of what is indexed the store had said that it has it

    def kept(self, after: str = "") -> Iterator[KeptObject]:
        offset = self._key(after) if after else None
        try:
            for page in obstore.list(self._store, prefix=self._place.prefix or None, offset=offset):
                for entry in sorted(page, key=lambda entry: entry["path"]):
                    name = PurePosixPath(entry["path"]).stem
                    if is_sha256(name) and entry["path"] == self._key(name) and name > after:
                        yield KeptObject(name, entry["last_modified"].timestamp())
        except BaseError as error:
            raise _unavailable("listing", error) from error

    def read_through(self, sha256: str) -> Iterator[bytes | memoryview]:
        try:
            for chunk in obstore.get(self._store, self._key(sha256)).stream(min_chunk_size=_CHUNK_BYTES):
                yield memoryview(chunk)
        except FileNotFoundError as error:
            raise NoSuchObjectError(sha256) from error
        except BaseError as error:
            raise _unavailable("reading", error) from error

    def _key(self, sha256: str) -> str:
        return f"{self._place.prefix}{sha256[:2]}/{sha256[2:4]}/{sha256}.dcm"

    def _at_hand(self, sha256: str) -> Path:
        check_sha256(sha256)
        return self._root / sha256[:2] / f"{sha256}.dcm"

    def _keep(self, file: BinaryIO, path: Path, sha256: str, size_bytes: int) -> StoredObject:
        try:
            obstore.put(self._store, self._key(sha256), path)
        except BaseError as error:
            raise _unavailable("writing", error) from error
        file.close()
        return StoredObject(sha256, size_bytes, self._take(path, sha256, size_bytes))

    def _fetch(self, sha256: str, path: Path) -> None:
        arriving = self._incoming / secrets.token_hex(16)
        try:
            digest, size_bytes = self._download(sha256, arriving)
            if digest != sha256:
                _log.error("the object store returned wrong bytes", extra={"sha256": sha256})
                raise ObjectDamagedError(sha256)
            self._take(arriving, sha256, size_bytes)
        finally:
            arriving.unlink(missing_ok=True)

    def _download(self, sha256: str, arriving: Path) -> tuple[str, int]:
        digest, size_bytes = hashlib.sha256(), 0
        with arriving.open("xb") as file:
            for chunk in self.read_through(sha256):
                file.write(chunk)
                digest.update(chunk)
                size_bytes += len(chunk)
        return digest.hexdigest(), size_bytes

    def _take(self, arriving: Path, sha256: str, size_bytes: int) -> Path:
        """A whole file becomes the copy at hand."""
        path = self._at_hand(sha256)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        arriving.rename(path)
        with self._freeing:
            self._at_hand_bytes += size_bytes
            if self._at_hand_bytes > self._place.cache_bytes:
                self._free()
        return path

    def _free(self) -> None:
        """Remove the copies that were not used for longest; what was used a moment ago stays, whatever its size."""
        files = sorted(
            (entry.st_mtime, entry.st_size, path)
            for path in self._root.glob("??/*.dcm")
            if (entry := _stat(path)) is not None
        )
        held = sum(size for _, size, _ in files)
        for used_at, size, path in files:
            if held <= self._place.cache_bytes * _FREED_TO or used_at > time.time() - _IN_USE_S:
                break
            path.unlink(missing_ok=True)
            held -= size
        self._at_hand_bytes = held

    def _ask_bucket(self) -> None:
        try:
            obstore.head(self._store, self._key("0" * 64))
        except FileNotFoundError:
            pass  # it answers, and has no such object
        except BaseError as error:
            raise _unavailable("asking for an object", error) from error


def _credentials(path: Path) -> tuple[str, str]:
    """Key id and secret of the profile ``default``. StoreUnavailableError if they are not there."""
    file = configparser.ConfigParser(interpolation=None)
    with path.open(encoding="utf-8") as source, contextlib.suppress(configparser.Error):
        file.read_file(source)  # an error's message would quote the file
    try:
        return file["default"]["aws_access_key_id"], file["default"]["aws_secret_access_key"]
    except KeyError as error:
        raise StoreUnavailableError(
            f"{path} has no section [default] with aws_access_key_id and aws_secret_access_key"
        ) from error


def _unavailable(doing: str, error: BaseException) -> StoreUnavailableError:
    # The first line alone: below it, the client shows its insides.
    said = str(error).partition("\n")[0]
    return StoreUnavailableError(f"{doing} failed at the object store: {said}")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
