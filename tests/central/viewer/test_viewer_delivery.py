"""How the viewer's files are served."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from central.viewer.delivery import CONTENT_SECURITY_POLICY, routes


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A build as Vite leaves it, with files as small as they come."""
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>Viewer</title>")
    (folder / "assets" / "index-abc123.js").write_text("// program\n" * 500)
    (folder / "assets" / "codec-abc123.wasm").write_bytes(b"\0asm\1\0\0\0")
    return folder


def _client(folder: Path) -> TestClient:
    return TestClient(Starlette(routes=routes(folder)), follow_redirects=False)


@pytest.mark.parametrize("path", ["/viewer/", "/viewer/index.html", "/viewer/?study=1.2.3"])
def test_page_is_asked_for_anew_each_time(built: Path, path: str) -> None:
    answer = _client(built).get(path)
    assert answer.status_code == 200
    assert "Viewer" in answer.text
    assert answer.headers["cache-control"] == "no-cache"


def test_hashed_files_are_kept_for_good_and_sent_compressed(built: Path) -> None:
    answer = _client(built).get("/viewer/assets/index-abc123.js", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["content-encoding"] == "gzip"
    assert (
        _client(built).get("/viewer/assets/codec-abc123.wasm").headers["content-type"] == "application/wasm"
    )


@pytest.mark.parametrize("path", ["/viewer/", "/viewer/assets/index-abc123.js", "/viewer/assets/none.js"])
def test_every_answer_is_guarded(built: Path, path: str) -> None:
    headers = _client(built).get(path).headers
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_absent_file_is_not_remembered_as_absent(built: Path) -> None:
    answer = _client(built).get("/viewer/assets/index-old.js")
    assert answer.status_code == 404
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["/viewer/../secret", "/viewer/%2e%2e/secret", "/viewer/assets/..%2f..%2fsecret"]
)
def test_nothing_outside_the_build_is_served(built: Path, path: str) -> None:
    (built.parent / "secret").write_text("key")
    answer = _client(built).get(path)
    assert answer.status_code == 404
    assert "key" not in answer.text


def test_unbuilt_viewer_says_what_to_run(tmp_path: Path) -> None:
    client = _client(tmp_path / "dist")
    answer = client.get("/viewer/?study=1.2.3")
    assert answer.status_code == 503
    assert "make viewer" in answer.text
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY


def test_viewer_built_while_central_runs_is_served(tmp_path: Path) -> None:
    client = _client(tmp_path / "dist")
    assert client.get("/viewer/").status_code == 503
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.html").write_text("<title>Viewer</title>")
    assert client.get("/viewer/").status_code == 200


def test_address_without_slash_keeps_the_study(built: Path) -> None:
    answer = _client(built).get("/viewer?study=1.2.3")
    assert answer.status_code == 308
    assert answer.headers["location"].endswith("/viewer/?study=1.2.3")
