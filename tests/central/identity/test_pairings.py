"""From a pairing string to a gateway: waiting for a yes, replacing a box, renewing, and who reports as whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from central.database import Database, put
from central.identity.authority import CertificateAuthority
from central.identity.errors import CertificateRefusedError, PairingRefusedError, RenewalRefusedError
from central.identity.gateways import GatewayCertificate, Gateways
from central.identity.pairings import Enrolment, PairingRequest, Pairings, PendingBox
from central.identity.standings import GatewayStanding, Standings
from contract.enrolment import DECISION_LIFE_S, PAIRING_LIFE_S, decode_request, key_fingerprint
from contract.standing import StandingReport
from tests.central.app.house import new_key_and_request
from tests.central.databases import open_index

KEY_A, KEY_B = "a" * 32, "b" * 32


@dataclass
class Register:
    db: Database
    gateways: Gateways
    pairings: Pairings
    standings: Standings
    now: list[float] = field(default_factory=lambda: [1.8e9])

    def token(self, name: str = "ct", replaces: str | None = None) -> str:
        ticket = self.pairings.new_pairing(name, replaces=replaces)
        assert ticket is not None
        return ticket.token

    def enrolled(self, token: str, request: bytes) -> Enrolment:
        """Asked, accepted, asked again."""
        waiting = self.pairings.enrol(token, request)
        assert isinstance(waiting, PendingBox)
        self.pairings.decide(waiting.fingerprint, "accepted")
        outcome = self.pairings.enrol(token, request)
        assert isinstance(outcome, Enrolment)
        return outcome

    def may_come_in(self, certificate: x509.Certificate) -> str:
        try:
            return self.gateways.gateway_of(der(certificate))
        except CertificateRefusedError as error:
            return error.reason


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    now = [1.8e9]
    db = open_index(tmp_path)

    def clock() -> float:
        return now[0]

    gateways = Gateways(db, CertificateAuthority.open(tmp_path), clock)
    yield Register(
        db, gateways, Pairings(db, gateways, clock), Standings(db, gateways, b"k" * 32, clock), now
    )
    db.close()


def test_nobody_is_let_in_before_an_administrator_accepts_the_key(register: Register) -> None:
    token, (key, request) = register.token(), new_key_and_request()
    for _ in range(2):
        outcome = register.pairings.enrol(token, request, "10.0.0.9")
        assert isinstance(outcome, PendingBox)
    (waiting,) = register.pairings.pending()
    assert waiting.fingerprint == key_fingerprint(key.public_key())
    assert (waiting.name, waiting.source_address) == ("ct", "10.0.0.9")
    assert register.gateways.listed() == []
    register.now[0] += PAIRING_LIFE_S + 1  # the string was used in time; the administrator is at lunch
    assert register.pairings.decide(waiting.fingerprint.replace(" ", "").upper(), "accepted") == waiting
    outcome = register.pairings.enrol(token, request)
    assert isinstance(outcome, Enrolment)
    assert register.may_come_in(outcome.certificate) == "ct"
    assert register.pairings.pending() == []


def test_a_no_is_for_good_and_an_unknown_fingerprint_is_nobodys(register: Register) -> None:
    token, (_, request) = register.token(), new_key_and_request()
    waiting = register.pairings.enrol(token, request)
    assert isinstance(waiting, PendingBox)
    assert register.pairings.decide("0000", "accepted") is None
    register.pairings.decide(waiting.fingerprint, "refused")
    assert register.pairings.decide(waiting.fingerprint, "accepted") is None
    with pytest.raises(PairingRefusedError, match="refused"):
        register.pairings.enrol(token, request)


def test_a_request_does_not_wait_for_ever(register: Register) -> None:
    token, (_, request) = register.token(), new_key_and_request()
    register.pairings.enrol(token, request)
    register.now[0] += DECISION_LIFE_S + 1
    assert register.pairings.pending() == []
    with pytest.raises(PairingRefusedError, match="too old"):
        register.pairings.enrol(token, request)


def test_another_key_does_not_get_what_was_accepted(register: Register) -> None:
    token, (_, request) = register.token(), new_key_and_request()
    register.enrolled(token, request)
    with pytest.raises(PairingRefusedError, match="another key"):
        register.pairings.enrol(token, new_key_and_request()[1])


def test_a_new_box_takes_a_gateways_place_and_the_old_one_is_out(register: Register) -> None:
    former = register.enrolled(register.token(), new_key_and_request()[1])
    before = register.gateways.listed()[0]
    token, (_, request) = register.token(replaces="ct"), new_key_and_request()
    waiting = register.pairings.enrol(token, request)
    assert isinstance(waiting, PendingBox)
    assert waiting.replaces == "ct"
    assert register.may_come_in(former.certificate) == "ct"  # until somebody said yes
    register.pairings.decide(waiting.fingerprint, "accepted")
    new = register.pairings.enrol(token, request)
    assert isinstance(new, Enrolment)
    assert (new.gateway_id, new.is_replacement) == ("ct", True)
    assert register.may_come_in(new.certificate) == "ct"
    assert register.may_come_in(former.certificate) == "certificate of a box that was replaced"
    assert register.gateways.revoked_serials() == [former.certificate.serial_number]
    (after,) = register.gateways.listed()
    assert (after.gateway_id, after.enrolled_at_utc) == (before.gateway_id, before.enrolled_at_utc)
    again = register.pairings.enrol(token, request)  # a lost answer
    assert again == new, "what is left of the former box is ended once more"
    assert register.may_come_in(new.certificate) == "ct"


def test_a_lost_answer_is_the_same_certificate_however_often_it_is_asked_for(register: Register) -> None:
    token, (_, request) = register.token(), new_key_and_request()
    first = register.enrolled(token, request)
    for _ in range(10):
        assert register.pairings.enrol(token, request) == first
    assert GatewayCertificate.select().count(register.db) == 1


def test_a_certificate_that_an_older_version_issued_and_did_not_keep_is_issued_once_more(
    register: Register,
) -> None:
    token, (_, request) = register.token(), new_key_and_request()
    first = register.enrolled(token, request)
    PairingRequest.update(certificate_pem=None).execute(register.db)
    again = register.pairings.enrol(token, request)
    assert isinstance(again, Enrolment)
    assert again.certificate != first.certificate
    assert register.may_come_in(first.certificate) == register.may_come_in(again.certificate) == "ct"
    assert register.pairings.enrol(token, request) == again


def test_a_revoked_gateway_comes_back_by_replacement_only_and_with_a_new_key(register: Register) -> None:
    former = register.enrolled(register.token(), new_key_and_request()[1])
    register.gateways.revoke("ct")
    assert register.may_come_in(former.certificate) == "revoked gateway"
    back = register.enrolled(register.token(replaces="ct"), new_key_and_request()[1])
    assert register.may_come_in(back.certificate) == "ct"
    assert register.may_come_in(former.certificate) == "certificate of a box that was replaced"


def test_the_string_of_a_box_that_was_replaced_buys_it_nothing_more(register: Register) -> None:
    """Not even where a revocation in between was lifted by the replacement: its disk has the key that was accepted."""
    token, (_, request) = register.token(), new_key_and_request()
    former = register.enrolled(token, request)
    register.gateways.revoke("ct")
    new = register.enrolled(register.token(replaces="ct"), new_key_and_request()[1])
    with pytest.raises(PairingRefusedError):
        register.pairings.enrol(token, request)
    assert register.may_come_in(former.certificate) == "certificate of a box that was replaced"
    assert register.may_come_in(new.certificate) == "ct"


def test_a_revocation_ends_a_yes_that_was_said_before_it(register: Register) -> None:
    register.enrolled(register.token(), new_key_and_request()[1])
    requests = []
    for _ in range(2):
        token, (_, request) = register.token(replaces="ct"), new_key_and_request()
        waiting = register.pairings.enrol(token, request)
        assert isinstance(waiting, PendingBox)
        requests.append((token, request, waiting.fingerprint))
    register.pairings.decide(requests[0][2], "accepted")
    register.now[0] += 1
    register.gateways.revoke("ct")
    with pytest.raises(PairingRefusedError, match="before the gateway was revoked"):
        register.pairings.enrol(*requests[0][:2])
    assert not register.gateways.is_admitted("ct")
    register.now[0] += 1
    register.pairings.decide(requests[1][2], "accepted")  # by somebody who knows of the revocation
    assert isinstance(register.pairings.enrol(*requests[1][:2]), Enrolment)


def test_one_yes_lets_a_key_in_once(register: Register) -> None:
    """Two strings and one key: what is accepted is what the administrator sees."""
    register.enrolled(register.token(), new_key_and_request()[1])
    _, request = new_key_and_request()
    replacing = register.token(replaces="ct")
    assert isinstance(register.pairings.enrol(replacing, request), PendingBox)
    harmless = register.pairings.enrol(register.token("waiting room"), request)
    assert isinstance(harmless, PendingBox)
    assert register.pairings.pending() == [replace(harmless, is_new=False)]
    register.pairings.decide(harmless.fingerprint, "accepted")
    with pytest.raises(PairingRefusedError):
        register.pairings.enrol(replacing, request)


def test_nobody_replaces_a_gateway_that_is_not_there(register: Register) -> None:
    assert register.pairings.new_pairing(replaces="nobody") is None


def test_renewal_is_for_the_same_name_and_not_without_end(register: Register) -> None:
    first = register.enrolled(register.token(), new_key_and_request()[1])
    request = decode_request(new_key_and_request("ct")[1])
    shown = der(first.certificate)
    renewed = register.gateways.renew(shown, request)
    assert register.may_come_in(renewed) == register.may_come_in(first.certificate) == "ct"
    with pytest.raises(RenewalRefusedError, match="subject"):
        register.gateways.renew(shown, decode_request(new_key_and_request("other")[1]))
    for _ in range(6):
        register.gateways.renew(shown, request)
    with pytest.raises(RenewalRefusedError, match="one day"):
        register.gateways.renew(shown, request)
    register.now[0] += 86_401
    register.gateways.renew(shown, request)


def report(ticket: str | None, version: int = 1, needed: tuple[str, ...] = (KEY_A,)) -> StandingReport:
    return StandingReport(key_set_version=version, needed_key_ids=needed, ticket=ticket)


def test_one_box_is_one_box_also_when_answers_are_lost(register: Register) -> None:
    ticket = None
    for _ in range(5):
        lost, seen_twice, _ = register.standings.exchange("ct", report(ticket))
        assert not seen_twice
        ticket, seen_twice, _ = register.standings.exchange("ct", report(ticket))  # the same ticket once more
        assert not seen_twice
        assert ticket != lost


def test_a_copied_disk_is_noticed_once_and_shown_to_both_for_a_day(register: Register) -> None:
    first, _, _ = register.standings.exchange("ct", report(None))
    original, _, _ = register.standings.exchange("ct", report(first))
    copied, seen_twice, _ = register.standings.exchange(
        "ct", report(first)
    )  # not to be told from a lost answer
    assert not seen_twice
    original, seen_twice, is_news = register.standings.exchange("ct", report(original))
    assert (seen_twice, is_news) == (True, True)
    copied, seen_twice, is_news = register.standings.exchange("ct", report(copied))
    assert (seen_twice, is_news) == (True, False)
    register.standings.forget("ct")  # one of them was enrolled anew
    _, seen_twice, _ = register.standings.exchange("ct", report(copied))
    assert not seen_twice


def test_a_later_ticket_says_that_central_was_set_back(register: Register) -> None:
    first, _, _ = register.standings.exchange("ct", report(None))
    (then,) = GatewayStanding.select().dicts().execute(register.db)
    later = first
    for _ in range(3):  # the clock stands still: tickets rise all the same
        later, seen_twice, _ = register.standings.exchange("ct", report(later))
        assert not seen_twice
    put(register.db, GatewayStanding, then)
    after, seen_twice, _ = register.standings.exchange("ct", report(later))
    assert not seen_twice
    after, seen_twice, _ = register.standings.exchange("ct", report(after))
    assert not seen_twice
    assert register.standings.exchange("ct", report(first))[1]  # a copied disk has an earlier one


def test_only_central_can_make_a_later_ticket_and_only_for_that_box(register: Register) -> None:
    register.standings.exchange("ct", report(None))
    others = ""
    for _ in range(3):
        others, _, _ = register.standings.exchange("mr", report(others or None))
    assert register.standings.exchange("ct", report(others))[1:] == (True, True)
    register.standings.forget("ct")
    register.standings.exchange("ct", report(None))
    assert register.standings.exchange("ct", report("f" * 32))[1:] == (True, True)


def test_who_may_need_a_key_is_known_from_what_the_boxes_say(register: Register) -> None:
    for name in ("one", "two", "three", "silent"):
        register.enrolled(register.token(name), new_key_and_request()[1])
    register.standings.exchange("one", report(None, version=3, needed=(KEY_B,)))
    register.standings.exchange("two", report(None, version=3, needed=(KEY_B, KEY_A)))
    register.standings.exchange("three", report(None, version=2, needed=(KEY_B,)))
    reasons = register.standings.who_may_need(KEY_A, 3)
    assert set(reasons) == {"two", "three", "silent"}
    assert "never said" in reasons["silent"]
    register.gateways.revoke("two")  # its objects may still come: with a box that is enrolled in its place
    assert "two" in register.standings.who_may_need(KEY_A, 3)
