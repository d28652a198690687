"""The control socket with good, bad and too many callers."""

from __future__ import annotations

import json
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from contract.control import MAX_LINE_BYTES, RequeueParams
from contract.enrolment import PairingError
from edge.control import MAX_CONNECTIONS, ControlError, ControlServer, NoBoxError, ask


class Said(BaseModel):
    word: str


def refuse(_params: dict[str, object]) -> Said:
    raise PairingError("this is not a pairing string")


def fail(_params: dict[str, object]) -> Said:
    raise RuntimeError("secret detail")


HANDLERS = {
    "status": lambda _: Said(word="well"),
    "echo": lambda params: Said(word=str(params["word"])),
    "enrol": refuse,
    "scanners": fail,
    "requeue": lambda params: Said(word=RequeueParams.model_validate(params).object_id),
}


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dn-") as directory:  # short: it is a socket's path
        yield Path(directory) / "made" / "control.sock"


@pytest.fixture
def server(path: Path) -> Iterator[ControlServer]:
    running = ControlServer(path, HANDLERS)
    running.start()
    yield running
    running.stop()


def say(path: Path, line: bytes) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(60)
        caller.connect(str(path))
        caller.sendall(line)
        answer: dict[str, object] = json.loads(caller.makefile("rb").readline())
        return answer


@pytest.mark.usefixtures("server")
def test_only_the_boxs_own_user_may_speak(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert ask(path, "status", {}, timeout_s=60) == {"word": "well"}


@pytest.mark.usefixtures("server")
def test_many_questions_on_one_connection_are_answered_in_order(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(60)
        caller.connect(str(path))
        questions = [{"method": "echo", "params": {"word": str(number)}} for number in range(100)]
        caller.sendall(b"".join(json.dumps(question).encode() + b"\n" for question in questions))
        lines = caller.makefile("rb")
        assert [json.loads(lines.readline())["result"]["word"] for _ in range(100)] == [
            str(number) for number in range(100)
        ]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"\n", "the request: Invalid JSON"),
        (b"[]\n", "the request"),
        (b'{"method": "shutdown"}\n', "method"),
        (b'{"method": "requeue", "params": {"object_id": "../../etc/passwd"}}\n', "object_id"),
        (b'{"method": "enrol"}\n', "this is not a pairing string"),
        (b'{"method": "scanners"}\n', "a fault in the box's program"),
        (b'{"method": "queue"}\n', "a fault in the box's program"),
        (b"\xff\xfe\n", "the request"),
    ],
)
def test_a_bad_request_gets_a_sentence_and_the_box_goes_on(path: Path, line: bytes, expected: str) -> None:
    answer = say(path, line)
    assert expected in str(answer["error"])
    assert "secret" not in str(answer)
    assert ask(path, "status", {}, timeout_s=60) == {"word": "well"}


@pytest.mark.usefixtures("server")
def test_a_line_without_end_is_cut_off(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(60)
        caller.connect(str(path))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            caller.sendall(b"x" * (4 * MAX_LINE_BYTES))
    assert ask(path, "status", {}, timeout_s=60) == {"word": "well"}


@pytest.mark.usefixtures("server")
def test_too_many_callers_are_turned_away_until_one_leaves(path: Path) -> None:
    callers = []
    for _ in range(MAX_CONNECTIONS):
        caller = socket.socket(socket.AF_UNIX)
        caller.settimeout(60)
        caller.connect(str(path))
        caller.sendall(b'{"method": "status"}\n')
        assert b"well" in caller.recv(1000)
        callers.append(caller)
    with pytest.raises(ControlError):
        ask(path, "status", {}, timeout_s=60)
    for caller in callers:
        caller.close()
    pause = threading.Event()
    for _ in range(3000):
        try:
            assert ask(path, "status", {}, timeout_s=60) == {"word": "well"}
            return
        except ControlError:
            pause.wait(0.02)
    raise AssertionError("no room again after the callers left")


def test_a_socket_left_by_a_crash_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(NoBoxError, match="no box is running"):
        ask(path, "status", {}, timeout_s=60)
    server = ControlServer(path, HANDLERS)
    server.start()
    assert ask(path, "status", {}, timeout_s=60) == {"word": "well"}
    server.stop()
    assert not path.exists()


@pytest.mark.usefixtures("server")
def test_a_living_boxs_socket_is_left_alone(path: Path) -> None:
    with pytest.raises(ControlError, match="another box is running"):
        ControlServer(path, HANDLERS).start()
    assert ask(path, "status", {}, timeout_s=60) == {"word": "well"}


def test_a_file_in_the_way_is_not_deleted(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(ControlError, match="in the way"):
        ControlServer(path, HANDLERS).start()
    assert path.read_text() == "precious"


def test_stopping_hangs_up_on_whoever_waits(path: Path) -> None:
    server = ControlServer(path, HANDLERS)
    server.start()
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(60)
        caller.connect(str(path))
        caller.sendall(b'{"method": "status"}\n')
        assert caller.recv(1000)
        server.stop()
        assert caller.recv(1000) == b""
