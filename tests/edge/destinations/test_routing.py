"""Which destinations an instance goes to, and what the configuration refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.priority import Priority
from contract.settings import SettingsError, load_settings
from edge.config import Settings
from edge.orders import Order
from edge.routing import Routing, Traits

PACS = {"name": "PACS", "ae_title": "PACS", "host": "10.1.2.3"}
WEB = {"name": "WEB", "url": "https://web.example/dicom-web", "gets_all": True}


def routing(*rules: dict[str, list[str]]) -> Routing:
    settings = Settings.model_validate(
        {
            "query": {"enabled": True},
            "destinations": {"dimse": [PACS, {**PACS, "name": "MAMMO"}], "stow": [WEB]},
            "routing": list(rules),
        }
    )
    return Routing(settings.destinations, settings.routing)


def ct(**changes: str) -> Traits:
    traits = {
        "modality": "CT",
        "calling_ae_title": "CT1",
        "called_ae_title": "DICOMNET",
        "peer_address": "10.1.2.7",
    }
    return Traits(**{**traits, **changes})


def test_without_rules_only_those_get_it_that_get_all() -> None:
    assert routing().destinations_of(ct()) == ("WEB",)


def test_rules_add_up_in_the_order_of_the_configuration() -> None:
    rules = routing(
        {"modalities": ["MG"], "destinations": ["MAMMO"]},
        {"calling_ae_titles": ["CT1", "MG1"], "destinations": ["WEB", "PACS"]},
    )
    assert rules.destinations_of(ct()) == ("PACS", "WEB")
    assert rules.destinations_of(ct(modality="MG")) == ("PACS", "MAMMO", "WEB")
    assert rules.destinations_of(ct(modality="MG", calling_ae_title="MG2")) == ("MAMMO", "WEB")


@pytest.mark.parametrize(
    ("rule", "fits", "fits_not"),
    [
        ({"modalities": ["ct", "MR"]}, ct(), ct(modality="US")),
        ({"modalities": ["CT"]}, ct(modality="CT "), ct(modality="")),
        ({"calling_ae_titles": ["CT1"]}, ct(), ct(calling_ae_title="ct1")),
        ({"called_ae_titles": ["NIGHT"]}, ct(called_ae_title="NIGHT"), ct()),
        ({"addresses": ["10.1.2.0/24"]}, ct(), ct(peer_address="10.1.3.7")),
        ({"addresses": ["10.1.2.7"]}, ct(peer_address="::ffff:10.1.2.7"), ct(peer_address="")),
        ({"addresses": ["fe80::/10"]}, ct(peer_address="fe80::1%eth0"), ct()),
        ({"modalities": ["CT"], "called_ae_titles": ["NIGHT"]}, ct(called_ae_title="NIGHT"), ct()),
        ({"stations": ["ct room ?"]}, ct(station_name="CT Room 2"), ct(station_name="CT Room 12")),
        ({"stations": ["*"]}, ct(station_name="X"), ct()),
        ({"departments": ["Emergency*", "ICU"]}, ct(department="EMERGENCY ward"), ct(department="ICU 2")),
        ({"departments": ["*süd*"]}, ct(department="Röntgen SÜD"), ct(department="")),
    ],
)
def test_everything_a_rule_names_has_to_fit(
    rule: dict[str, list[str]], fits: Traits, fits_not: Traits
) -> None:
    rules = routing({**rule, "destinations": ["PACS"]})
    assert rules.destinations_of(fits) == ("PACS", "WEB")
    assert rules.destinations_of(fits_not) == ("WEB",)


def test_of_rules_and_order_the_most_urgent_counts() -> None:
    rules = routing(
        {"calling_ae_titles": ["RESEARCH"], "priority": "low"},  # type: ignore[dict-item]
        {"departments": ["ER*"], "priority": "stat"},  # type: ignore[dict-item]
        {
            "modalities": ["CT"],
            "calling_ae_titles": ["RESEARCH"],
            "priority": "high",
            "destinations": ["PACS"],
        },  # type: ignore[dict-item]
    )
    research = ct(modality="MR", calling_ae_title="RESEARCH")
    assert rules.priority_of(ct()) is Priority.ROUTINE
    assert rules.priority_of(research) is Priority.LOW
    assert rules.priority_of(ct(calling_ae_title="RESEARCH")) is Priority.HIGH
    assert rules.priority_of(ct(department="ER 1"), Order(Priority.LOW)) is Priority.STAT
    assert rules.priority_of(ct(), Order(Priority.LOW)) is Priority.LOW
    assert rules.priority_of(research, Order(Priority.HIGH)) is Priority.HIGH
    assert rules.priority_of(research, Order(Priority.ROUTINE)) is Priority.LOW, (
        "ROUTINE is what most orders say"
    )


QUERY = "[query]\nenabled = true\n"
ONE = '[[destinations.dimse]]\nname = "PACS"\nae_title = "PACS"\nhost = "10.1.2.3"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            ONE,
            "the destination PACS needs query.enabled = true: without a key of its own this box cannot open",
        ),
        (QUERY + ONE + ONE, "two destinations are called PACS"),
        (QUERY + ONE.replace('"PACS"\nae', '"central"\nae'), "it gets everything"),
        (QUERY + ONE + "tls = true\n", "PACS: tls = true needs ca"),
        (QUERY + ONE + 'ca = "ca.pem"\n', "of use only with tls = true"),
        (QUERY + ONE + 'tls = true\nca = "ca.pem"\nkey = "k.pem"\n', "certificate and key go together"),
        (
            QUERY + ONE + '[[routing]]\nmodalities = ["CT"]\ndestinations = ["PAX"]\n',
            "rule 1 of routing names PAX, and no destination is called that: there are PACS",
        ),
        (QUERY + ONE + "[[routing]]\ndestinations = []\n", "names destinations, a priority, or both"),
        (QUERY + '[[routing]]\npriority = "first"\n', "routing.0.priority"),
        (QUERY + '[[routing]]\nstations = [" "]\npriority = "high"\n', "at least 1 character"),
        (
            QUERY + ONE + '[[routing]]\nstation = "A"\ndestinations = ["PACS"]\n',
            "unknown key routing.0.station",
        ),
        (
            QUERY + '[[destinations.stow]]\nname = "W"\nurl = "http://w.example/web"\n',
            "use https://, or set plain_http = true",
        ),
        (
            QUERY
            + '[[destinations.stow]]\nname = "W"\nurl = "http://w.example"\nplain_http = true\ntoken = "x"\n',
            "for https:// only",
        ),
        (
            QUERY + '[[destinations.stow]]\nname = "W"\nurl = "https://u:p@w.example"\n',
            "user and password go into their own keys",
        ),
        (QUERY + '[[destinations.stow]]\nname = "W"\nurl = "ftp://w.example"\n', "is https://host/path"),
        (
            QUERY
            + '[[destinations.stow]]\nname = "W"\nurl = "https://w.example"\nusername = "u"\ntoken = "x"\n',
            "either username and password, or a token",
        ),
    ],
)
def test_what_the_configuration_refuses(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_settings(Settings, path, environ={})
    assert sentence in str(refused.value)
    assert "p@w" not in str(refused.value)
