"""Dates of central's certificate against the box's time, over real TLS; everything else as strict as ever."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from edge.uplink.client import exchange, line_errors, open_client
from edge.uplink.errors import CentralNotTrustedError, CentralUnreachableError
from edge.uplink.pinned_tls import pinned_context
from tests.edge.scripted_central import ScriptedCentral, TestAuthority

NOW = datetime.now(UTC)


def ask(
    central: ScriptedCentral, ca_pem: str, now: Callable[[], datetime] | None, host: str = "127.0.0.1"
) -> int:
    url = f"https://{host}:{central.port}"
    with (
        open_client(url, pinned_context(ca_pem, now), timeout_s=30, connections=1) as client,
        line_errors(url),
    ):
        return exchange(client, "HEAD", "/anything")[0]


def test_the_boxs_own_time_decides_not_the_systems(central: ScriptedCentral) -> None:
    assert ask(central, central.authority.pem, lambda: NOW) == 403
    for wrong, word in (
        (datetime(1970, 1, 1, tzinfo=UTC), "begins on"),
        (NOW + timedelta(days=900), "ended on"),
    ):
        with pytest.raises(CentralUnreachableError, match=f"clock: this box has {wrong:%Y-%m-%d}.*{word}"):
            ask(central, central.authority.pem, lambda wrong=wrong: wrong)  # type: ignore[misc]
    assert [method for method, _, _ in central.log] == [
        "HEAD"
    ]  # nothing was said where the dates did not fit


def test_the_question_for_the_time_goes_out_whatever_the_date(central: ScriptedCentral) -> None:
    assert ask(central, central.authority.pem, None) == 403


@pytest.mark.parametrize("now", [None, lambda: NOW], ids=["timeless", "dated"])
def test_without_dates_chain_and_name_are_still_checked(
    central: ScriptedCentral, now: Callable[[], datetime] | None
) -> None:
    with pytest.raises(
        CentralNotTrustedError, match=r"self-signed|unable to get local issuer|signature failure"
    ):
        ask(central, TestAuthority().pem, now)
    context = pinned_context(central.authority.pem, now)
    with (
        socket.create_connection(("127.0.0.1", central.port), 5) as raw,
        pytest.raises(ssl.SSLCertVerificationError, match="mismatch"),
    ):
        context.wrap_socket(raw, server_hostname="127.0.0.2")


def test_an_expired_certificate_of_centrals_is_refused_at_the_true_time(
    central: ScriptedCentral,
) -> None:
    """The way in for who stole a server key long ago: a box with a wrong clock must not fall for it."""
    later = NOW + timedelta(days=61)  # the scripted central's certificate lives 60 days
    with pytest.raises(CentralUnreachableError, match="ended on"):
        ask(central, central.authority.pem, lambda: later)


def test_httpx_sees_one_error_it_knows(central: ScriptedCentral) -> None:
    with (
        httpx.Client(
            verify=pinned_context(central.authority.pem, lambda: datetime(1990, 1, 1, tzinfo=UTC))
        ) as client,
        pytest.raises(httpx.ConnectError),
    ):
        client.get(f"https://127.0.0.1:{central.port}/")
