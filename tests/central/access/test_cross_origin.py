"""Pages of other origins: none unless named, DICOMweb alone, by bearer token alone."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from pydantic import ValidationError

from central.access.policy import Role
from central.config import PeopleSettings
from tests.central.access.house import PASSWORD
from tests.central.app.house import House

OHIF = "https://ohif.example"
STUDIES = "/dicom-web/studies"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("central"), people={"allowed_origins": [OHIF]}) as opened:
        opened.central.foundation.accounts.create_user("radiologist", PASSWORD, Role.RADIOLOGIST)
        yield opened


def preflight(url: str, origin: str, method: str = "GET", headers: str = "authorization") -> httpx.Response:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return httpx.options(url, headers={"Origin": origin, **asked}, timeout=60)


def bearer(house: House) -> dict[str, str]:
    accounts = house.central.foundation.accounts
    admitted = accounts.passwords.verify("radiologist", PASSWORD, "127.0.0.1")
    assert admitted is not None
    return {"Authorization": f"Bearer {accounts.sessions.start(admitted.principal, 'bearer', 3600)}"}


def test_a_named_origin_may_ask_by_token(house: House) -> None:
    url = house.people_url + STUDIES
    allowed = preflight(url, OHIF, headers="accept,authorization,if-none-match,range")
    assert allowed.status_code == 200
    for answer in (
        allowed,
        preflight(url, OHIF, "POST", "authorization,content-type"),
        httpx.get(url, headers={"Origin": OHIF, **bearer(house)}, timeout=60),
        httpx.get(url, headers={"Origin": OHIF}, timeout=60),  # so that the page sees that it is 401
    ):
        assert answer.headers["access-control-allow-origin"] == OHIF
        assert "Origin" in answer.headers["vary"]
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"
    assert [answer.status_code, httpx.get(url, timeout=60).status_code] == [401, 401]
    assert preflight(url, OHIF, "DELETE").status_code == 400


@pytest.mark.parametrize(
    "origin",
    [
        "https://other.example",
        "http://ohif.example",
        "https://ohif.example:8443",
        "https://ohif.example.evil",
        "null",
    ],
)
def test_no_other_origin_may(house: House, origin: str) -> None:
    url = house.people_url + STUDIES
    asked = httpx.get(url, headers={"Origin": origin, **bearer(house)}, timeout=60)
    for answer in (preflight(url, origin), asked):
        assert "access-control-allow-origin" not in answer.headers
    assert preflight(url, origin).status_code == 400


@pytest.mark.parametrize("path", ["/api/me", "/api/auth/token", "/api/tokens", "/signin", "/dicom-webx"])
def test_nothing_but_dicomweb(house: House, path: str) -> None:
    answers = (
        preflight(house.people_url + path, OHIF),
        httpx.get(house.people_url + path, headers={"Origin": OHIF}),
    )
    assert not any("access-control-allow-origin" in answer.headers for answer in answers)


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "ohif.example",
        "https://",
        "https://*.example",
        "https://OHIF.example",
        "https://ohif.example/",
        "https://ohif.example/viewer",
        "https://ohif.example?x",
        "https://ohif.example:443",  # which a browser leaves away
        "https://user@ohif.example",
        "http://ohif.example",
    ],
)
def test_what_is_no_origin_is_refused_at_start(origin: str) -> None:
    assert PeopleSettings(allowed_origins=["http://127.0.0.1:3000", "https://ohif.example:8443"])
    with pytest.raises(ValidationError, match=r"is no origin: write https://HOST"):
        PeopleSettings(allowed_origins=[origin])
