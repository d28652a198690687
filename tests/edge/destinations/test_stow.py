"""STOW-RS to a real Orthanc, and to a scripted server: over TLS, and one that says what none should.

Debian 12's Orthanc ends with a segmentation fault at its first request over TLS, so it is spoken to in the clear.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from contract.part10 import file_meta
from edge.buffer.states import State
from edge.uplink.stow import CannotStowError, stow_tls
from tests.edge.destinations.conftest import MakeBox
from tests.edge.destinations.sending import data_set, wait_until
from tests.edge.gateway.authority import Authority
from tests.peers.scripted_scu import CT_STORAGE, EXPLICIT_LITTLE
from tests.peers_installed import orthanc_dicomweb, program
from tests.ports import free_base_port


def stow_settings(url: str, **more: object) -> dict[str, object]:
    return {"stow": [{"name": "WEB", "url": url, **more}]}


class Orthanc:
    """A real one with its DICOMweb plugin. `start` and `kill` at will; what it has stays."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        self.url = f"http://127.0.0.1:{port}"
        self._settings = folder / "orthanc.json"
        self._settings.write_text(
            json.dumps(
                {
                    "StorageDirectory": str(folder / "db"),
                    "IndexDirectory": str(folder / "db"),
                    "Plugins": [str(orthanc_dicomweb())],
                    "HttpPort": port,
                    "DicomServerEnabled": False,
                    "AuthenticationEnabled": False,
                }
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(program("Orthanc")), str(self._settings)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "Orthanc ended"
        try:
            return self._get("/system").status_code == 200
        except httpx.HTTPError:
            return False

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", trust_env=False)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def files(self) -> set[bytes]:
        return {self._get(f"/instances/{one}/file").content for one in self._get("/instances").json()}


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    made = Orthanc(tmp_path / "orthanc", free_base_port())
    yield made
    made.kill()


@pytest.mark.needs("orthanc")
def test_orthanc_gets_the_very_files(make_box: MakeBox, orthanc: Orthanc) -> None:
    box = make_box(**stow_settings(f"{orthanc.url}/dicom-web", plain_http=True)).start()
    pixels = bytes(range(256)) * 20_000
    box.store(pixels=pixels)
    box.give_to_central()
    wait_until(lambda: "cannot be reached" in box.trouble("WEB"))
    assert box.states() == {State.OWED}

    orthanc.start()
    box.destinations.try_again("WEB", None)
    box.store()
    wait_until(lambda: box.waits("WEB") == 0)
    assert orthanc.files() == {
        file_meta(CT_STORAGE, "1.2.3.1", EXPLICIT_LITTLE) + data_set("1.2.3.1", pixels=pixels),
        file_meta(CT_STORAGE, "1.2.3.2", EXPLICIT_LITTLE) + data_set("1.2.3.2"),
    }
    assert box.reasons("WEB") == []

    # What is no DICOM is refused for good, and by its own name; the next one passes.
    box.store(b"")
    box.store()
    wait_until(lambda: box.waits("WEB") == 0)
    assert len(orthanc.files()) == 3
    assert box.tally("WEB").set_aside == 1

    astray = make_box(**stow_settings(f"{orthanc.url}/elsewhere", plain_http=True)).start()
    astray.store()
    wait_until(lambda: "HTTP 404" in astray.trouble("WEB"))
    assert astray.waits("WEB") == 1


@pytest.mark.needs("orthanc")
def test_orthanc_is_killed_in_the_middle(make_box: MakeBox, orthanc: Orthanc) -> None:
    orthanc.start()
    box = make_box(**stow_settings(f"{orthanc.url}/dicom-web", plain_http=True)).start()
    for _ in range(8):
        box.store(pixels=bytes(8_000_000))
    wait_until(lambda: box.waits("WEB") < 8)
    orthanc.kill()
    wait_until(lambda: bool(box.trouble("WEB")) or box.waits("WEB") == 0)
    box.restart()
    orthanc.start()
    wait_until(lambda: box.waits("WEB") == 0)
    assert box.reasons("WEB") == []
    expected = {
        file_meta(CT_STORAGE, uid, EXPLICIT_LITTLE) + data_set(uid, pixels=bytes(8_000_000))
        for uid in (f"1.2.3.{number}" for number in range(1, 9))
    }
    assert orthanc.files() == expected


Answer = Callable[[bytes], tuple[int, bytes]]


@contextlib.contextmanager
def scripted(
    answer: Answer, tls: ssl.SSLContext | None = None, *, retry_after: str = ""
) -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    """A server that takes a whole request and answers as told; its address, and what it was asked."""
    asked: list[tuple[str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, dict(self.headers), body))
            status, said = answer(body)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:1/")
            if retry_after:
                self.send_header("Retry-After", retry_after)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that hangs up, or does not like the certificate, is what is tested."""

        def finish_request(self, request: object, address: object) -> None:
            if tls is not None:
                request = tls.wrap_socket(request, server_side=True)  # type: ignore[arg-type]
            super().finish_request(request, address)  # type: ignore[arg-type]

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}/web", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def stored(uid: str) -> bytes:
    return json.dumps(
        {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}}]}}
    ).encode()


def failed(uid: str | None, reason: object) -> bytes:
    item: dict[str, object] = {"00081197": {"vr": "US", "Value": [reason]}}
    if uid is not None:
        item["00081155"] = {"vr": "UI", "Value": [uid]}
    return json.dumps([{"00081198": {"vr": "SQ", "Value": [item]}}]).encode()


def test_a_request_is_one_part_and_names_nobody_in_its_address(make_box: MakeBox) -> None:
    with scripted(lambda _: (202, stored("1.2.3.1"))) as (url, asked):
        box = make_box(**stow_settings(url, plain_http=True)).start()
        box.store()
        wait_until(lambda: box.waits("WEB") == 0)
    ((path, headers, body),) = asked
    assert path == "/web/studies"
    kind, boundary = headers["Content-Type"].split("; boundary=")
    assert kind == 'multipart/related; type="application/dicom"'
    assert "Authorization" not in headers
    assert body == (
        f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        + file_meta(CT_STORAGE, "1.2.3.1", EXPLICIT_LITTLE)
        + data_set("1.2.3.1")
        + f"\r\n--{boundary}--\r\n".encode()
    )


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (409, failed("1.2.3.1", 0x0122), "answered 0122: SOP class not supported"),
        (200, failed("1.2.3.1", 0xC123), "answered C123: cannot understand"),
        (409, failed(None, 0xA900), "answered A900"),
        (415, b"<html>", "HTTP 415: unsupported media type"),
        (400, b"", "HTTP 400: bad request"),
    ],
)
def test_what_is_refused_for_good(make_box: MakeBox, status: int, body: bytes, sentence: str) -> None:
    with scripted(lambda _: (status, body)) as (url, asked):
        box = make_box(**stow_settings(url, plain_http=True)).start()
        box.store()
        wait_until(lambda: bool(box.reasons("WEB")))
        assert sentence in box.reasons("WEB")[0]
        assert len(asked) == 1
        assert box.waits("WEB") == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        stored("1.2.3.99"),
        b"<NativeDicomModel/>",
        b"[" * 100_000,
        b'{"00081199": {"Value": [{"00081155": []}, 7]}}',
        failed("1.2.3.1", 0x0000),
        failed("1.2.3.1", "?"),
        b" " * 200_000 + stored("1.2.3.1"),  # beyond what is read of an answer
    ],
)
def test_a_200_that_does_not_name_the_instance_proves_nothing(make_box: MakeBox, body: bytes) -> None:
    """It waits, with the reason in sight, until the service says so."""
    answers = [body] * 9
    with scripted(lambda _: (200, answers.pop() if answers else stored("1.2.3.1"))) as (url, asked):
        box = make_box(**stow_settings(url, plain_http=True)).start()
        box.store()
        box.give_to_central()
        wait_until(lambda: "answered HTTP 200, and does not say that it has" in box.trouble("WEB"))
        assert box.states() == {State.OWED}
        wait_until(lambda: box.states() == {State.FREED})
        assert len(asked) == 10
        assert box.reasons("WEB") == []


@pytest.mark.parametrize("status", [403, 406, 501])
def test_a_firewall_that_does_not_like_one_image_keeps_no_other_out(make_box: MakeBox, status: int) -> None:
    def answer(body: bytes) -> tuple[int, bytes]:
        (uid, *_) = re.findall(rb"1\.2\.3\.[0-9]+", body)
        return (status, b"<html>") if uid == b"1.2.3.1" else (200, stored(uid.decode()))

    with scripted(answer) as (url, _):
        box = make_box(**stow_settings(url, plain_http=True)).start()
        box.store()
        for _ in range(60):
            if box.reasons("WEB"):
                break
            box.store()
            wait_until(lambda: bool(box.reasons("WEB")) or box.waits("WEB") <= 1)
        assert f"times while others passed: answered HTTP {status}" in box.reasons("WEB")[0]
        wait_until(lambda: box.waits("WEB") == 0)


@pytest.mark.parametrize("status", [302, 401, 403, 404, 406, 429, 501, 503, 507])
def test_what_blames_the_service_sets_nothing_aside(make_box: MakeBox, status: int) -> None:
    answers = [(status, stored("1.2.3.1"))] * 9

    def answer(body: bytes) -> tuple[int, bytes]:
        uid = "1.2.3.2" if b"1.2.3.2" in body else "1.2.3.1"
        return answers.pop() if answers else (200, stored(uid))

    with scripted(answer) as (url, asked):
        box = make_box(**stow_settings(url, plain_http=True)).start()
        box.store()
        box.store()
        wait_until(lambda: f"HTTP {status}" in box.trouble("WEB"))
        wait_until(lambda: box.waits("WEB") == 0)
        assert box.reasons("WEB") == []
        assert box.trouble("WEB") == ""
        assert len(asked) == 11


@pytest.mark.parametrize(("said", "least_s"), [("2", 2.0), ("soon", 0.0)])
def test_a_service_that_says_when_is_left_alone_until_then(
    make_box: MakeBox, said: str, least_s: float
) -> None:
    asked_at_s: list[float] = []

    def answer(_: bytes) -> tuple[int, bytes]:
        asked_at_s.append(time.monotonic())
        return (429, b"") if len(asked_at_s) == 1 else (200, stored("1.2.3.1"))

    with scripted(answer, retry_after=said) as (url, _):
        box = make_box(**stow_settings(url, plain_http=True), backoff_ceiling_s=60.0).start()
        box.store()
        wait_until(lambda: box.waits("WEB") == 0)
    assert asked_at_s[1] - asked_at_s[0] >= least_s


def test_tls_and_credentials(make_box: MakeBox, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "Another CA")
    theirs, ours = authority.issue("web"), authority.issue("box")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(theirs.certificate, theirs.key)
    tls.load_verify_locations(authority.ca)
    tls.verify_mode = ssl.CERT_REQUIRED
    with_us = {"certificate": str(ours.certificate), "key": str(ours.key)}
    with scripted(lambda _: (200, stored("1.2.3.1")), tls) as (url, asked):
        named = make_box(
            **stow_settings(url, ca=str(authority.ca), username="box", password="s:é", **with_us)
        )
        named.start().store()
        wait_until(lambda: named.waits("WEB") == 0)
        bearer = make_box(**stow_settings(url, ca=str(authority.ca), token="abc", **with_us)).start()
        bearer.store()
        wait_until(lambda: bearer.waits("WEB") == 0)
        assert [headers["Authorization"] for _, headers, _ in asked] == [
            "Basic " + base64.b64encode("box:s:é".encode()).decode(),
            "Bearer abc",
        ]

        stranger = make_box(**stow_settings(url, ca=str(other.ca), token="abc", **with_us)).start()
        stranger.store()
        wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in stranger.trouble("WEB"))
        nobody = make_box(**stow_settings(url, ca=str(authority.ca), token="abc")).start()
        nobody.store()
        wait_until(lambda: bool(nobody.trouble("WEB")))
        assert len(asked) == 2
        assert (stranger.waits("WEB"), nobody.waits("WEB")) == (1, 1)
        assert "abc" not in repr(stranger.settings)


def test_a_file_for_tls_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for ca in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(CannotStowError, match=f"{ca} is not there or holds no PEM"):
            stow_tls(ca=ca, certificate=None, key=None)
