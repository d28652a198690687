"""Requests grow and shrink with the line, within bounds."""

from __future__ import annotations

import socket

import pytest

from contract.transfer import CHUNK_BYTES
from edge.uplink.client import _socket_options
from edge.uplink.line_pace import LEAST_BYTES, LinePace


def learnt(bytes_per_s: float, round_trip_s: float = 0.0) -> int:
    pace = LinePace()
    pace.note_round_trip(round_trip_s)
    for _ in range(20):
        size = pace.chunk_bytes()
        pace.note_sent(size, size / bytes_per_s + round_trip_s)
    return pace.chunk_bytes()


def test_a_request_carries_about_a_second_of_the_line() -> None:
    assert learnt(600_000) == pytest.approx(600_000, rel=0.05)
    assert learnt(12_000) == LEAST_BYTES
    assert learnt(1e9) == CHUNK_BYTES


def test_a_long_round_trip_asks_for_longer_requests() -> None:
    assert learnt(100_000, round_trip_s=0.715) == pytest.approx(286_000, rel=0.05)


def test_the_first_packs_of_a_line_differ_so_that_their_answers_do() -> None:
    pace = LinePace()
    sizes = [pace.pack_bytes(worker, 4) for worker in range(4)]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == pace.chunk_bytes()
    pace.note_sent(600_000, 1.0)
    assert {pace.pack_bytes(worker, 4) for worker in range(4)} == {600_000}


def test_a_cut_halves_it_and_small_requests_tell_nothing() -> None:
    pace = LinePace()
    before = pace.chunk_bytes()
    pace.note_cut()
    assert pace.chunk_bytes() == before // 2
    pace.note_sent(100, 1.0)
    assert pace.chunk_bytes() == before // 2
    for _ in range(20):
        pace.note_cut()
    assert pace.chunk_bytes() == LEAST_BYTES


def test_only_socket_options_that_this_kernel_takes_are_set() -> None:
    with socket.socket() as sock:
        for option in _socket_options():
            sock.setsockopt(*option)
    assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in _socket_options()


def test_a_line_is_slow_once_that_is_known() -> None:
    pace = LinePace()
    assert not pace.is_slow
    for _ in range(8):
        pace.note_sent(128 << 10, 1.0)  # a megabit a second
    assert pace.is_slow
    for _ in range(8):
        pace.note_sent(1 << 20, 0.05)
    assert not pace.is_slow
