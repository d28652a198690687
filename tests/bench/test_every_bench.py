"""`make bench`: every bench runs, whatever becomes of those before it, and options go to the bench that has them."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_BY_THEMSELVES = {"anything", "orthanc", "plain", "studies"}


def _run(tmp_path: Path, names: str, *options: str) -> tuple[int, list[str], str]:
    """With a program in the place of Python that writes down what it is asked, and fails for two benches."""
    python, asked = tmp_path / "python", tmp_path / "asked"
    python.write_text(f'#!/bin/sh\necho "$*" >>{asked}\n[ "$2" != bench.size ] && [ "$2" != bench.wan ]\n')
    python.chmod(0o755)
    command = [str(ROOT / "tools" / "bench.sh"), str(python), names, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, asked.read_text().splitlines() if asked.exists() else [], done.stderr


def test_a_bench_that_fails_hides_none_and_all_that_there_are_run(tmp_path: Path) -> None:
    status, asked, said = _run(tmp_path, "")
    there = {path.stem for path in (ROOT / "bench").glob("*.py")} - NOT_BY_THEMSELVES
    assert {line.split()[1].removeprefix("bench.") for line in asked} == there
    assert status == 1
    assert said == "Failed: size wan\n"


def test_options_go_to_the_one_bench_that_is_named(tmp_path: Path) -> None:
    assert _run(tmp_path, "search", "--only", "two modalities")[:2] == (
        0,
        ["-m bench.search --only two modalities"],
    )


def test_options_for_several_benches_are_refused_before_any_runs(tmp_path: Path) -> None:
    for names in ("", "ingest archive"):
        status, asked, said = _run(tmp_path, names, "--rounds", "5")
        assert (status, asked) == (2, [])
        assert 'make bench BENCH=ingest ARGS="--rounds 5"' in said


def test_a_bench_that_is_not_there_is_refused_before_any_runs(tmp_path: Path) -> None:
    status, asked, said = _run(tmp_path, "ingest speed")
    assert (status, asked) == (2, [])
    assert "There is no bench called speed. There are: ingest size" in said
