"""The least a receiver in Python can be: one thread an association, and nothing it could do without.

    python -m bench.plain PORT FOLDER STAGE

It says what this machine's limit is: `bench.ingest` runs it beside the box. Each stage does what the one before does,
and more: receive and drop; hash; seal; write and sync. It checks nothing, survives nothing and keeps no record, so what
the box takes beyond it is what its promises cost.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge.gateway.command_set import decode_command, encode_response
from edge.gateway.guard import read_associate_rq
from edge.gateway.negotiation import Admitted, negotiate
from edge.gateway.pdu import PduReader, PduType, p_data, release_rp, split_pdvs
from edge.gateway.quirks import NO_QUIRKS
from edge.gateway.settings import GatewaySettings

STAGES: Final = ("receive", "hash", "seal", "sync")
_MAX_INSTANCE_BYTES: Final = 1 << 21
_BLOCK_BYTES: Final = 4096
_KEY: Final = AESGCM(bytes(32))


def serve(sock: socket.socket, folder: Path, stage: int) -> None:
    """One association."""
    settings = GatewaySettings()
    request = read_associate_rq(sock, timeout_s=5)
    assert request is not None
    agreed = negotiate(request, settings, admit=lambda _: Admitted(NO_QUIRKS))
    sock.sendall(agreed.answer)
    reader = PduReader(
        sock,
        max_pdu_bytes=settings.max_pdu_bytes,
        idle_timeout_s=60,
        stall_timeout_s=60,
        min_rate_bytes_per_s=0,
    )
    buffer = mmap.mmap(-1, _MAX_INSTANCE_BYTES)
    number, command, data_bytes, digest = 0, b"", 0, hashlib.sha256()
    while (pdu := reader.next_pdu(inside_message=False)) is not None:
        if pdu[0] is PduType.A_RELEASE_RQ:
            sock.sendall(release_rp())
            break
        for pdv in split_pdvs(pdu[1]):
            if pdv.is_command:
                command += pdv.data
                asked = decode_command(bytearray(command)) if pdv.is_last else None
                if asked is not None and not asked.has_data_set:  # C-ECHO
                    sock.sendall(p_data(pdv.context_id, encode_response(asked, 0, ""), max_pdu_bytes=16_384))
                    command = b""
                continue
            if stage >= 1:
                digest.update(pdv.data)
            if stage >= 2:
                sealed = _KEY.encrypt(data_bytes.to_bytes(12, "big"), pdv.data, None)
                buffer[data_bytes : data_bytes + len(sealed)] = sealed
                data_bytes += len(sealed)
            if not pdv.is_last:
                continue
            if stage >= 3:
                _keep(folder / f"{threading.get_ident()}-{number}", buffer, data_bytes)
            answer = encode_response(decode_command(bytearray(command)), 0, "")
            sock.sendall(p_data(pdv.context_id, answer, max_pdu_bytes=16_384))
            number, command, data_bytes, digest = number + 1, b"", 0, hashlib.sha256()
    sock.close()


def _keep(path: Path, buffer: mmap.mmap, size: int) -> None:
    """Past the page cache, as the box does; the name itself is not made durable."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
    with memoryview(buffer) as whole, whole[: -(-size // _BLOCK_BYTES) * _BLOCK_BYTES] as blocks:
        os.write(descriptor, blocks)
    os.fdatasync(descriptor)
    os.close(descriptor)


def main() -> None:
    port, folder, stage = int(sys.argv[1]), Path(sys.argv[2]), STAGES.index(sys.argv[3])
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with socket.create_server(("127.0.0.1", port), backlog=16) as listener:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(sock, folder, stage), daemon=True).start()


if __name__ == "__main__":
    main()
