"""Looks at central as an outside reader does: over DICOMweb, signed in as the radiologist."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

import httpx

from demo.processes import DemoError
from demo.ready import Credentials
from demo.scanner import Instance

PATIENCE_S: Final = 60.0  # without one more instance becoming visible
_PAUSE_S: Final = 0.3
_PAGE: Final = 500


class Reader:
    """QIDO-RS (PS3.18 10.6) with a bearer token, which is fetched anew when central no longer takes it."""

    def __init__(self, url: str, credentials: Credentials) -> None:
        self._credentials = credentials
        self._http = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def missing(self, instances: Iterable[Instance]) -> list[Instance]:
        """Those of `instances` that central does not show."""
        by_study: dict[str, list[Instance]] = defaultdict(list)
        for instance in instances:
            by_study[instance.study_instance_uid].append(instance)
        absent: list[Instance] = []
        for study_instance_uid, wanted in by_study.items():
            shown = await self._sop_instance_uids(study_instance_uid)
            absent += [instance for instance in wanted if instance.sop_instance_uid not in shown]
        return absent

    async def wait_for(self, instances: Iterable[Instance], progress: Callable[[int], None]) -> None:
        """Return when central shows all of `instances`; `progress` is told how many it does not show yet.

        Raises
        ------
        DemoError : nothing more appeared for `PATIENCE_S`.
        """
        loop = asyncio.get_running_loop()
        absent, since = list(instances), loop.time()
        while absent:
            try:
                still_absent = await self.missing(absent)
            except httpx.TransportError:
                still_absent = absent  # central is being started again
            if len(still_absent) < len(absent):
                since = loop.time()
            elif loop.time() - since > PATIENCE_S:
                raise DemoError(
                    f"{len(still_absent)} instances did not become visible at central within {PATIENCE_S:.0f} s; "
                    "dicomnet-tui shows where they wait, and the logs say why"
                )
            absent = still_absent
            progress(len(absent))
            if absent:
                await asyncio.sleep(_PAUSE_S)

    async def _sop_instance_uids(self, study_instance_uid: str) -> set[str]:
        found: set[str] = set()
        while True:
            page = await self._get(
                f"/dicom-web/studies/{study_instance_uid}/instances", limit=_PAGE, offset=len(found)
            )
            found |= {str(item["00080018"]["Value"][0]) for item in page}
            if len(page) < _PAGE:
                return found

    async def _get(self, path: str, **query: int) -> list[dict[str, dict[str, list[object]]]]:
        answer = await self._http.get(path, params=query)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            await self._sign_in()
            answer = await self._http.get(path, params=query)
        if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.NO_CONTENT):
            return []  # an absent study and one without instances look alike
        if answer.is_error:
            raise DemoError(f"central answered {answer.status_code} to a search; its log says why")
        items: list[dict[str, dict[str, list[object]]]] = answer.json()
        return items

    async def _sign_in(self) -> None:
        token = await _token(self._http, self._credentials)
        if token is None:
            raise DemoError(
                "central does not let the radiologist of accounts.json sign in: the state directory holds "
                "another central's accounts; remove it to begin anew"
            )
        self._http.headers["Authorization"] = f"Bearer {token}"


async def signs_in(url: str, credentials: Credentials) -> bool:
    """Whether central takes `credentials`."""
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        return await _token(http, credentials) is not None


async def _token(http: httpx.AsyncClient, credentials: Credentials) -> str | None:
    """A bearer token by the OAuth 2 password form (RFC 6749 4.3); None if the credentials are refused."""
    form = {
        "grant_type": "password",
        "username": credentials.username,
        "password": credentials.password,
    }
    answer = await http.post("/api/auth/token", data=form)
    return None if answer.is_error else str(answer.json()["access_token"])
