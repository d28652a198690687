"""What is answered on the thread that finds out who asks, beside what the router would answer."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request

from central.access.policy import Principal
from central.access.web import RequireSignIn
from central.dicomweb import at_once
from tests.central.access.house import STUDY, House, open_house, pydicom_file, served

PATHS = (
    "/studies?limit=3",
    "/studies?PatientID=",
    "/studies?limit=x",  # 400
    f"/studies/{STUDY}/series",
    f"/studies/{STUDY}/instances",
    f"/studies/{STUDY}/metadata",
    f"/studies/{STUDY}",
    "/studies/1.2.3",  # 404
    f"/studies/{STUDY}/series/not-a-uid",
    f"/studies/{STUDY}/nothing",
    "/studies/",
    "/",
    "/nothing",
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("house")) as opened:
        opened.put(pydicom_file("CT_small.dcm"))
        yield opened


@pytest.mark.parametrize("username", ["radiologist", "admin", None])
def test_the_router_would_answer_the_same(house: House, username: str | None) -> None:
    by_router = Starlette(
        routes=house.app.routes,
        middleware=[Middleware(RequireSignIn, doorkeeper=house.doorkeeper, audit=house.audit)],
    )
    with house.client(username) as client, served(by_router) as router_url:
        for path in PATHS:
            for method in ("GET", "HEAD", "DELETE"):
                here = client.request(method, f"/dicom-web{path}", headers={"Accept": "*/*"})
                there = client.request(method, f"{router_url}/dicom-web{path}", headers={"Accept": "*/*"})
                assert said(here) == said(there), (method, path)


def said(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """An answer but for what is new each time (date, boundary) and for its own address."""
    headers = {name: value for name, value in answer.headers.items() if name != "date"}
    headers["content-type"], _, boundary = headers.get("content-type", "").partition("boundary=")
    content = answer.content.replace(str(answer.url.copy_with(raw_path=b"/")).encode(), b"http://here/")
    location = headers.pop("location", "")
    headers.pop("content-length", None)
    assert location == "" or location.startswith(str(answer.url.copy_with(raw_path=b"/")))
    return answer.status_code, headers, content.replace(boundary.encode() or b"\0", b"boundary")


def test_a_look_is_answered_without_another_change_of_threads(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers: set[str] = set()
    find = house.archive.reading.find_studies

    def watched(*asked: Any) -> Any:
        callers.update(frame.name for frame in traceback.extract_stack())
        return find(*asked)

    monkeypatch.setattr(house.archive.reading, "find_studies", watched)
    with house.client("radiologist") as client:
        assert client.get("/dicom-web/studies").status_code == 200
    assert RequireSignIn._begun.__name__ in callers, "the call that found out who asks"


def test_nobody_is_answered_at_once_before_the_door_has_let_them_in(house: House) -> None:
    reached: list[Principal] = []
    answer = at_once([route for route in house.app.routes if getattr(route, "path", "") == "/dicom-web"])

    def watched(request: Request):  # type: ignore[no-untyped-def]  # as `at_once` gives it
        reached.append(request.state.principal)
        return answer(request)

    app = Starlette(
        routes=house.app.routes,
        middleware=[
            Middleware(RequireSignIn, doorkeeper=house.doorkeeper, audit=house.audit, at_once=watched)
        ],
    )
    with served(app) as url, house.client() as anonymous, house.client("radiologist") as radiologist:
        wrong = {"Authorization": "Bearer wrong"}
        statuses = [
            anonymous.get(f"{url}/dicom-web/studies", headers=said).status_code for said in ({}, wrong)
        ]
        assert (statuses, reached) == ([401, 401], [])
        assert radiologist.get(f"{url}/dicom-web/studies").status_code == 200
    assert [principal.username for principal in reached] == ["radiologist"]
