"""What a hostile or broken peer does to a listener: ``python -m tests.peers.attacks PORT`` until its input ends.

Every one of these locks out, fells or swells a naive receiver. Each attacker calls again and again from an address
of its own, and minds nothing that happens to it. A process of its own, so that what it costs to attack is not
taken for what it costs to be attacked.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.peers.scripted_scu import (
    CT_STORAGE,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    VERIFICATION,
    ScriptedScu,
    associate_rq,
    c_store_rq,
    command,
    ds_element,
    p_data,
    pdu,
    small_data_set,
)

DEFLATED = "1.2.840.10008.1.2.1.99"
_REQUEST = associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])])


class Siege:
    """All attackers at work in another process, until left.

    Attributes
    ----------
    rounds : after that, how often each attack was made.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.rounds: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            # Attackers bring machines of their own: theirs must not take the box's processor.
            ["nice", "-n", "19", sys.executable, "-m", "tests.peers.attacks", str(self._port)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(self, *_: object) -> None:
        try:
            told, _ = self._process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        self.rounds = json.loads(told)


class Caller:
    """Makes connections that last as long as the attack's round."""

    def __init__(self, port: int, source: str, held: contextlib.ExitStack, over: threading.Event) -> None:
        self._port, self._source, self._held = port, source, held
        self.over = over

    def call(self) -> ScriptedScu:
        return self._held.enter_context(ScriptedScu(self._port, source=self._source, timeout_s=10))

    def associate(self, transfer_syntax: str = EXPLICIT_LITTLE) -> ScriptedScu:
        scu = self.call()
        scu.associate([(1, CT_STORAGE, [transfer_syntax]), (3, VERIFICATION, [IMPLICIT_LITTLE])])
        return scu


def half_open(caller: Caller) -> None:
    """Twelve connections with 56 bytes of a request each, held until the box cuts them."""
    callers = [caller.call() for _ in range(12)]
    for scu in callers:
        scu.send(_REQUEST[:56])
    for scu in callers:
        scu.wait_for_close()


def trickle_request(caller: Caller) -> None:
    """A byte at a time: no timeout of a single read ever ends it."""
    scu = caller.call()
    for byte in _REQUEST:
        scu.send(bytes((byte,)))
        if caller.over.wait(0.2):
            return


def trickle_object(caller: Caller) -> None:
    scu = caller.associate()
    scu.send(p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.6.1")))
    for byte in small_data_set("1.2.6.1"):
        scu.send(p_data(1, 0, bytes((byte,))))
        if caller.over.wait(0.05):
            return


def storm(caller: Caller) -> None:
    """Connect and hang up, by the hundred."""
    for _ in range(100):
        scu = caller.call()
        scu.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        scu.socket.close()


def huge_lengths(caller: Caller) -> None:
    """Lengths to allocate for: before the association, of a PDU, of a value in it, of an element."""
    caller.call().send(struct.pack(">BBI", 1, 0, 0xFFFFFFF0) + bytes(100_000))
    caller.associate().send(struct.pack(">BBI", 4, 0, 0xFFFFFFF0) + bytes(100_000))
    caller.associate().send(pdu(4, struct.pack(">IBB", 0xFFFFFFF0, 1, 3) + bytes(1000)))
    caller.associate().send(p_data(1, 3, struct.pack("<HHI", 0, 0x0100, 0xFFFFFFF0) + bytes(1000)))
    scu = caller.associate()
    element = struct.pack("<HH2sHI", 0x0008, 0x0018, b"UN", 0, 0xFFFFFFF0)
    for _ in range(50):
        scu.store(element + bytes(20_000), "1.2.6.2")


def endless_command(caller: Caller) -> None:
    """A command set that goes on and on."""
    scu = caller.associate()
    for _ in range(10_000):
        scu.send(p_data(1, 1, bytes(16_000)))


def deflate_bomb(caller: Caller) -> None:
    """Half a megabyte that inflates to half a gigabyte, with its identity in front and with it behind."""
    scu = caller.associate(DEFLATED)
    for uid, late in (("1.2.6.3", False), ("1.2.6.4", True)):
        scu.store(_bomb(uid, late), uid)
        if caller.over.is_set():
            return


@functools.cache
def _bomb(uid: str, late: bool) -> bytes:
    shrink = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = small_data_set(uid, pixels=b"")
    filler = struct.pack("<HH2sHI", 0x0009 if late else 0x7FE1, 0x1010, b"OB", 0, 512 << 20)
    start = shrink.compress((b"" if late else head) + filler) + shrink.flush(zlib.Z_FULL_FLUSH)
    megabyte = shrink.compress(bytes(1 << 20)) + shrink.flush(zlib.Z_FULL_FLUSH)
    return start + megabyte * 512 + shrink.compress(head if late else b"") + shrink.flush()


def nesting(caller: Caller) -> None:
    """Sequences in sequences, 200 deep and 100,000 deep."""
    scu = caller.associate()
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    for depth in (200, 100_000):
        scu.store((sequence + item) * depth, "1.2.6.5")


def bad_uids(caller: Caller) -> None:
    """Names that climb, quote, and do not end."""
    scu = caller.associate()
    for uid in (
        "../../../../tmp/evil",
        "/etc/evil",
        "1.2.3'; DROP TABLE objects; --",
        "1" * 5_000,
        "\xff\xfe",
    ):
        scu.store(small_data_set(uid), uid)
        scu.store(small_data_set("1.2.6.6", study=uid, series=uid), "1.2.6.6")


def deaf(caller: Caller) -> None:
    """Asks for echoes without end and reads no answer."""
    scu = caller.associate()
    echo = p_data(3, 3, command(0x0030)) * 100
    while not caller.over.is_set():
        scu.send(echo)


def quarantine_flood(caller: Caller) -> None:
    """Fills the place for what cannot be identified."""
    scu = caller.associate()
    for _ in range(20):
        scu.store(ds_element(0x0009, 0x1010, "OB", os.urandom(500_000)), "1.2.6.7")


def left_open(caller: Caller) -> None:
    """Objects that never end, on as many associations as one address gets."""
    callers = [caller.associate() for _ in range(10)]
    for scu in callers:
        scu.send(p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.6.8")) + p_data(1, 0, bytes(100_000)))
    caller.over.wait(3)


ATTACKS: tuple[Callable[[Caller], None], ...] = (
    half_open,
    trickle_request,
    trickle_object,
    storm,
    huge_lengths,
    endless_command,
    deflate_bomb,
    nesting,
    bad_uids,
    deaf,
    quarantine_flood,
    left_open,
)


def main() -> None:
    over = threading.Event()
    rounds = {attack.__name__: 0 for attack in ATTACKS}

    def attack_on(attack: Callable[[Caller], None], source: str) -> None:
        while not over.wait(0.05):
            with contextlib.ExitStack() as held, contextlib.suppress(OSError, AssertionError):
                attack(Caller(int(sys.argv[1]), source, held, over))
            rounds[attack.__name__] += 1

    threads = [
        threading.Thread(target=attack_on, args=(attack, f"127.0.1.{number}"), daemon=True)
        for number, attack in enumerate(ATTACKS, 1)
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join(20)
    print(json.dumps(rounds))


if __name__ == "__main__":
    main()
