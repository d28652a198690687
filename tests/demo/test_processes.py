"""The supervisor with small programs that behave and misbehave."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from demo import processes
from demo.processes import Child, DemoError, Program, run_once

SERVES = """
    import signal, sys
    print("a word before", flush=True)
    print('LISTENING {"port": 7}', flush=True)
    signal.pause()
"""


def program(code: str, name: str = "child") -> Program:
    return Program(name, [sys.executable, "-c", textwrap.dedent(code)])


def unexpected(error: DemoError) -> None:
    raise AssertionError(error)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_program_is_ready_when_it_says_so_and_stops_when_asked(tmp_path: Path) -> None:
    child = Child(program(SERVES), tmp_path, lambda sentence: None, unexpected)
    await child.start()
    assert child.listening == {"port": 7}
    assert is_running(child.pid)
    await child.stop()
    assert not is_running(child.pid)
    assert "a word before" in (tmp_path / "child.log").read_text()


async def test_a_killed_program_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    restarted = asyncio.Event()
    child = Child(program(SERVES), tmp_path, said.append, unexpected)
    child.on_restart = restarted.set
    await child.start()
    first = child.pid
    os.kill(first, signal.SIGKILL)
    await asyncio.wait_for(restarted.wait(), 20)
    assert child.pid != first
    assert is_running(child.pid)
    assert said == [
        "child was ended by SIGKILL; starting it again",
        f"child is back, pid {child.pid}",
    ]
    await child.stop()


async def test_one_that_does_not_get_ready_is_reported_with_its_last_words(tmp_path: Path) -> None:
    child = Child(
        program("import sys; sys.exit('the disk is full')"), tmp_path, lambda sentence: None, unexpected
    )
    with pytest.raises(
        DemoError, match=r"child ended with exit code 1 before it was ready(.|\n)*the disk is full"
    ):
        await child.start()
    await child.stop()


async def test_one_that_never_gets_ready_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "READY_WITHIN_S", 0.5)
    child = Child(program("import signal; signal.pause()"), tmp_path, lambda sentence: None, unexpected)
    with pytest.raises(DemoError, match="was not ready within"):
        await child.start()
    await child.stop()
    assert not is_running(child.pid)


async def test_one_that_cannot_be_restarted_ends_the_demonstration(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    code = f"""
        import pathlib, signal, sys
        if pathlib.Path({str(flag)!r}).exists(): sys.exit("never again")
        print("LISTENING {{}}", flush=True)
        signal.pause()
    """
    failure: asyncio.Future[DemoError] = asyncio.get_running_loop().create_future()
    child = Child(program(code), tmp_path, lambda sentence: None, failure.set_result)
    await child.start()
    flag.touch()
    os.kill(child.pid, signal.SIGKILL)
    assert "never again" in str(await asyncio.wait_for(failure, 20))
    await child.stop()


async def test_one_that_does_not_listen_to_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_WITHIN_S", 0.3)
    said: list[str] = []
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + textwrap.dedent(SERVES)
    child = Child(program(stubborn), tmp_path, said.append, unexpected)
    await child.start()
    await child.stop()
    assert not is_running(child.pid)
    assert len(said) == 1


async def test_what_a_command_says_when_it_fails_is_the_error() -> None:
    assert (await run_once("x", [sys.executable, "-c", "print(input())"], given="hello\n")) == "hello\n"
    with pytest.raises(DemoError, match="the account: no such role"):
        await run_once("the account", [sys.executable, "-c", "import sys; sys.exit('no such role')"])


def test_a_child_dies_with_its_parent() -> None:
    """kill -9 of the parent leaves no time for anything: only the kernel can end the child."""
    code = """
        import os, subprocess, sys
        child = subprocess.Popen(
            [sys.executable, "-m", "demo.tether", str(os.getpid()), sys.executable, "-c",
             "import signal; print('up', flush=True); signal.pause()"],
            stdout=subprocess.PIPE,
        )
        child.stdout.readline()
        print(child.pid, flush=True)
        child.wait()
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child_pid = int(parent.stdout.readline())
    assert is_running(child_pid)
    descriptor = os.pidfd_open(child_pid)
    parent.kill()
    parent.wait()
    ended, _, _ = select.select([descriptor], [], [], 10)
    os.close(descriptor)
    assert ended
