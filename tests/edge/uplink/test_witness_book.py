from __future__ import annotations

from pathlib import Path

import pytest

from contract.witness import MAX_WORDS, WITNESS_INTERVAL_S, Witness, Witnessed
from edge.uplink.witness_book import WitnessBook


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_words_survive_a_restart_as_they_were(tmp_path: Path) -> None:
    book = WitnessBook(tmp_path)
    assert book.take(Witness(word="a.b.c"))
    assert not book.take(Witness(word="a.b.c")), "known"
    assert WitnessBook(tmp_path).witnessed() == Witnessed(words=("a.b.c",))


def test_the_newest_are_kept_and_cannot_be_washed_away_at_once(tmp_path: Path) -> None:
    clock = Clock()
    book = WitnessBook(tmp_path, clock)
    assert book.take(Witness(word="w.w.0"))
    for number in range(1, 200):
        assert not book.take(Witness(word=f"w.w.x{number}")), "too soon"
    for number in range(1, MAX_WORDS + 3):
        clock.now += WITNESS_INTERVAL_S / 2
        assert book.take(Witness(word=f"w.w.{number}"))
    words = book.witnessed().words
    assert words == tuple(f"w.w.{number}" for number in range(3, MAX_WORDS + 3))
    assert WitnessBook(tmp_path).witnessed().words == words


@pytest.mark.parametrize("content", [b"", b"{", b'{"words":["no word"]}', b'{"words":7}', b"\xff" * 100])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "audit-witness.json").write_bytes(content)
    book = WitnessBook(tmp_path)
    assert book.witnessed().words == ()
    assert book.take(Witness(word="a.b.c"))
    assert WitnessBook(tmp_path).witnessed().words == ("a.b.c",)


def test_a_disk_that_cannot_take_a_word_costs_that_word(tmp_path: Path) -> None:
    clock = Clock()
    book = WitnessBook(tmp_path / "folder", clock)
    book.take(Witness(word="a.b.c"))
    clock.now += WITNESS_INTERVAL_S
    (tmp_path / "folder").rename(tmp_path / "elsewhere")
    (tmp_path / "folder").write_text("in the way")
    with pytest.raises(OSError):
        book.take(Witness(word="d.e.f"))
    assert book.witnessed().words == ("a.b.c",)
    (tmp_path / "folder").unlink()
    assert book.take(Witness(word="d.e.f"))
