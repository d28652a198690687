"""Two real providers (npm oidc-provider) at once, which know people by the same names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from central.access.oidc_settings import OidcOtherProvider, OidcSettings
from central.access.policy import Role
from central.access.web import COOKIE_NAME
from central.audit.events import Action
from central.audit.reading import Wanted
from central.config import Settings
from central.people_app import sign_ons_of
from contract.settings import SettingsError, load_settings
from tests.central.access.house import House, open_house
from tests.central.access.test_back_channel import Sender
from tests.central.access.test_oidc import SECRET, Place, go_to_provider, new_key, sign_on
from tests.ports import free_base_port


@pytest.fixture
def staff() -> Place:
    port = free_base_port(3)
    return Place(port, port + 1)


@pytest.fixture
def patients(staff: Place) -> Place:
    return Place(staff.provider_port + 2, staff.central_port, "patients")


@pytest.fixture
def house(staff: Place, patients: Place, tmp_path: Path) -> Iterator[House]:
    secret = tmp_path / "client-secret"
    secret.write_text(SECRET)
    first = staff.settings(secret).model_dump(exclude={"others", "patient"})
    second = patients.settings(secret).model_dump(exclude={"others", "doctor", "name"})
    other = OidcOtherProvider(key="patients", name="the state", **second)
    sign_ons = sign_ons_of(OidcSettings(**first, others=[other]))
    with open_house(
        tmp_path, port=staff.central_port, sign_ons=sign_ons, second_factor_roles=frozenset(Role)
    ) as opened:
        yield opened


@pytest.mark.needs("oidc-provider")
def test_each_is_trusted_for_its_own_people(staff: Place, patients: Place, house: House) -> None:
    key = new_key("one")
    with staff.provider(new_key("one")), patients.provider(key):
        page = httpx.get(f"{house.base_url}/signin?next=/looks").text
        assert "Sign in with &lt;b&gt;the hospital&lt;/b&gt;" in page
        assert 'href="/signin/oidc?next=%2Flooks&amp;provider=patients">Sign in with the state' in page

        doctor, answer = sign_on(house, "gregory")
        assert (answer.status_code, doctor.get("/api/me").json()["role"]) == (200, "doctor")
        patient, answer = sign_on(house, "jane", key="patients")
        assert (answer.status_code, patient.get("/api/me").json()["role"]) == (200, "patient")
        # What the one says of roles means nothing at the other.
        assert sign_on(house, "gregory", key="patients")[1].status_code == 403
        assert sign_on(house, "jane")[1].status_code == 403
        assert httpx.get(f"{house.base_url}/signin/oidc?provider=nobodys").status_code == 404

        # Second factors of the provider's people are its own business, and so is what they sign on with.
        assert doctor.get("/dicom-web/studies").status_code == 204
        page = doctor.get("/account").text
        assert "Where you are signed in" in page
        assert "Authenticator app" not in page
        own_page = {"Sec-Fetch-Site": "same-origin"}
        for path, wish in (
            ("/api/account/app", None),
            ("/api/account/passkeys/options", None),
            ("/api/account/password", {"current": "", "new": "a password for tests"}),
        ):
            assert doctor.post(path, json=wish, headers=own_page).status_code == 403, path

        sender = Sender(house, patients, key)
        assert sender.send(sub="gregory").status_code == 200  # who is somebody else there
        assert sender.send(jti="two", iss=staff.issuer).status_code == 400
        assert doctor.get("/api/me").status_code == 200
        assert sender.send(jti="three", sub="jane").status_code == 200
        assert patient.get("/api/me").status_code == 401


@pytest.mark.needs("oidc-provider")
def test_an_answer_counts_at_the_provider_that_was_asked(staff: Place, patients: Place, house: House) -> None:
    with staff.provider(new_key("one")), patients.provider(new_key("two")):
        client = httpx.Client(base_url=house.base_url, timeout=60)
        back = go_to_provider(client, house, "gregory")
        assert client.get(back + "&provider=patients").status_code == 403
        assert client.get("/api/me").status_code == 401
        (failed,) = house.audit.newest(Wanted(action=Action.SIGN_IN_FAILED), limit=9)
        assert "another provider" in failed.event.detail

        patient, _ = sign_on(house, "jane", key="patients")
        out = patient.post("/signout", headers={"Sec-Fetch-Site": "same-origin"})
        assert out.headers["location"] == "/signin/oidc/out?provider=patients"
        assert COOKIE_NAME not in patient.cookies
        page = patient.get(out.headers["location"])
        assert "the state" in page.text
        assert patients.issuer.replace("http://", "") in page.text


FIRST = 'issuer = "https://one.example"\npublic_url = "https://c.example"\nclient_id = "c"\n'


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (FIRST + "[[oidc.others]]\n" + FIRST.replace("one", "two"), "key"),
        (FIRST + '[[oidc.others]]\nkey = "a b"\n' + FIRST.replace("one", "two"), "key"),
        (FIRST + '[[oidc.others]]\nkey = "a"\n' + FIRST, "same issuer"),
        (FIRST + '[[oidc.others]]\nkey = "a"\n', "each provider has an issuer"),
        ('[[oidc.others]]\nkey = "a"\n' + FIRST, "each provider has an issuer"),
        (
            FIRST + "".join(f'[[oidc.others]]\nkey = "a"\n{FIRST.replace("one", n)}' for n in "xy"),
            "the same key",
        ),
    ],
)
def test_providers_that_cannot_be_told_apart_are_refused(tmp_path: Path, lines: str, why: str) -> None:
    (tmp_path / "central.toml").write_text(f"[oidc]\n{lines}\n")
    with pytest.raises(SettingsError, match=why):
        load_settings(Settings, tmp_path / "central.toml")
