"""Encrypts an object on its way into the store: what is written is never on the disk in the clear."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from central.archive.objects import FileSink, ObjectSink, ObjectStore, StoredObject
from central.archive.sealed_file import KEY_BYTES, FrameWriter, SealedFile, SealedObject


def new_sink(objects: ObjectStore, *, encrypts: bool) -> ObjectSink:
    """Where the bytes of one Part 10 file go, encrypted at rest or as they are."""
    sink = objects.new_object()
    return SealingSink(sink) if encrypts else sink


class SealingSink(ObjectSink):
    """Writes into `inner`, which the store gave. The object's key is new, and known to what `commit` returns alone."""

    def __init__(self, inner: FileSink) -> None:
        self._inner = inner
        self._key = os.urandom(KEY_BYTES)
        self._frames = FrameWriter(self._key)
        self._hash = hashlib.sha256()
        self._size = 0
        self._ended = False
        inner.write(self._frames.begin())

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._ended, "the content is complete"
        for frame in self._frames.add(data):
            self._inner.write(frame)
        self._hash.update(data)
        self._size += len(data)

    def readable(self) -> SealedFile:
        self._end()
        return SealedFile(self._inner.readable(), self._hash.hexdigest(), self._size, self._key)

    def sync(self) -> None:
        assert self._ended, "the content is complete"
        self._inner.sync()

    def commit(self) -> StoredObject:
        self._end()
        kept = self._inner.commit()
        assert isinstance(kept.path, Path), "what the store keeps"
        return StoredObject(
            self._hash.hexdigest(),
            self._size,
            SealedFile(kept.path, kept.sha256, self._size, self._key),
            SealedObject(kept.sha256, self._key),
        )

    def discard(self) -> None:
        self._inner.discard()

    def _end(self) -> None:
        if not self._ended:
            self._inner.write(self._frames.finish())
            self._ended = True
