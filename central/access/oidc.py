"""OpenID Connect: central as relying party, authorization code flow with PKCE (OpenID Connect Core 1.0, RFC 7636).

Why it exists: a hospital has one place where people sign on and are let go; central asks it instead of keeping a
password.

What is always true
-------------------
- An ID token counts only when it is signed by a key that the issuer publishes now, with an asymmetric algorithm, for
  this client, by this issuer, in time, and with the nonce of this browser's own attempt.
- A key that is not known is looked for once more at the issuer: keys may rotate at any time. Known ones are asked for
  anew after `_FRESH_S`.
- What comes from the provider is bounded in size and time, and no redirect of it is followed.
- A few requests ask it at once and none waits for a place: one that says nothing keeps nobody else waiting.

What a crash leaves: nothing; an attempt lives in the browser's cookie (`Attempt`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import httpx
import jwt

from central.access.errors import AccessError

_ALGORITHMS: Final = ("RS256", "PS256", "ES256", "ES384", "EdDSA")  # never "none" or with the client's secret
_MAX_ANSWER_BYTES: Final = 1 << 20
_TIMEOUT_S: Final = 10.0
_FRESH_S: Final = 3600.0
ASKING_AT_ONCE: Final = 12  # of forty threads that serve; a whole shift signs on together
AWAY_S: Final = 5.0  # for so long a provider that did not answer is not asked again
LEEWAY_S: Final = 60
_MAX_COOKIE_CHARACTERS: Final = 3500
_BASIC: Final = "client_secret_basic"
_POST: Final = "client_secret_post"


class ProviderAwayError(AccessError):
    """Transient: the provider does not answer, or not as OpenID Connect says; the text is for the log and record."""


class SignOnRefusedError(AccessError):
    """Permanent for this attempt: what came back proves nobody; the text is for the record."""


@dataclass(frozen=True)
class Client:
    """Central as the provider knows it. `secret` "" for a public client, which PKCE alone protects."""

    issuer: str
    client_id: str
    secret: str
    redirect_uri: str
    scopes: str = "openid profile"


@dataclass(frozen=True)
class Attempt:
    """What one browser has to bring back, and from which provider: it is kept in that browser, in a cookie."""

    state: str
    nonce: str
    verifier: str
    next_path: str
    provider: str

    @classmethod
    def new(cls, next_path: str, provider: str) -> Attempt:
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(state, nonce, verifier, next_path, provider)

    def cookie(self) -> str:
        return base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode("ascii")

    @classmethod
    def from_cookie(cls, text: str) -> Attempt | None:
        """None if it is none of ours."""
        if not text or len(text) > _MAX_COOKIE_CHARACTERS:
            return None
        try:
            values = json.loads(base64.urlsafe_b64decode(text))
        except (ValueError, RecursionError):
            return None
        names = ("state", "nonce", "verifier", "next_path", "provider")
        if not isinstance(values, dict) or not all(isinstance(values.get(name), str) for name in names):
            return None
        return cls(*(values[name] for name in names))


class Provider:
    """The provider of `client`; safe to call from every thread. `clock` gives seconds that never go back."""

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        self.client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._document: dict[str, Any] = {}
        self._document_at_s = -_FRESH_S
        self._keys: dict[str, jwt.PyJWK] = {}
        self._keys_at_s = -_FRESH_S
        self._places = threading.BoundedSemaphore(ASKING_AT_ONCE)
        self._away_until_s = -math.inf

    def authorization_url(self, attempt: Attempt) -> str:
        """Where to send the browser (OpenID Connect Core 3.1.2.1). ProviderAwayError if the provider does not say."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(attempt.verifier.encode()).digest())
        query = {
            "response_type": "code",
            "client_id": self.client.client_id,
            "redirect_uri": self.client.redirect_uri,
            "scope": self.client.scopes,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": challenge.rstrip(b"=").decode("ascii"),
            "code_challenge_method": "S256",
        }
        return _asking(self._endpoint("authorization_endpoint"), query)

    def sign_out_url(self, back_to: str) -> str | None:
        """Where the session at the provider ends (RP-Initiated Logout 1.0); None if the provider has no such place."""
        endpoint = self._configuration().get("end_session_endpoint")
        query = {"client_id": self.client.client_id, "post_logout_redirect_uri": back_to}
        return _asking(endpoint, query) if isinstance(endpoint, str) else None

    def claims(self, attempt: Attempt, answer: Mapping[str, str]) -> dict[str, Any]:
        """The claims of ID token and userinfo for what the provider's redirect brought (its query parameters).

        Raises
        ------
        SignOnRefusedError : another state, an error of the provider, a code that is not taken, or an ID token that does
            not verify.
        ProviderAwayError : the provider does not answer.
        """
        if not _same(answer.get("state", ""), attempt.state):
            raise SignOnRefusedError("the answer belongs to another attempt")
        # RFC 9207 section 2.4
        says_iss = self._configuration().get("authorization_response_iss_parameter_supported") is True
        if answer.get("iss", "" if says_iss else self.client.issuer) != self.client.issuer:
            raise SignOnRefusedError("the answer comes from another issuer")
        if "code" not in answer:
            raise SignOnRefusedError(f"the provider says {answer.get('error', 'nothing')[:64]}")
        form = {
            "grant_type": "authorization_code",
            "code": answer["code"],
            "redirect_uri": self.client.redirect_uri,
            "code_verifier": attempt.verifier,
            "client_id": self.client.client_id,
        }
        tokens = self._ask("POST", self._endpoint("token_endpoint"), form)
        claims = self._verified(str(tokens.get("id_token", "")), attempt.nonce)
        return {**self._userinfo(str(tokens.get("access_token", "")), claims["sub"]), **claims}

    def _userinfo(self, access_token: str, subject: object) -> dict[str, Any]:
        """What the provider tells besides the ID token (OpenID Connect Core 5.3); many tell roles here only."""
        if "userinfo_endpoint" not in self._configuration() or not access_token:
            return {}
        found = self._ask("GET", self._endpoint("userinfo_endpoint"), access_token=access_token)
        if found.get("sub") != subject:
            raise SignOnRefusedError("the provider tells of somebody else than the ID token")
        return found

    def _verified(self, id_token: str, nonce: str) -> dict[str, Any]:
        """OpenID Connect Core 3.1.3.7."""
        try:
            key = self.signing_key(jwt.get_unverified_header(id_token))
            claims: dict[str, Any] = jwt.decode(
                id_token,
                key,
                algorithms=[key.algorithm_name],
                audience=self.client.client_id,
                issuer=self.client.issuer,
                leeway=LEEWAY_S,
                options={"require": ["iss", "sub", "aud", "exp", "iat"]},
            )
        except jwt.PyJWTError as error:
            raise SignOnRefusedError(f"the ID token does not verify: {error}") from error
        if not _same(str(claims.get("nonce", "")), nonce):
            raise SignOnRefusedError("the ID token was made for another attempt")
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", "" if several else self.client.client_id) != self.client.client_id:
            raise SignOnRefusedError("the ID token was made for another client")
        return claims

    def signing_key(self, header: Mapping[str, Any]) -> jwt.PyJWK:
        """The issuer's key that a token with this header says it is signed with.

        Raises
        ------
        SignOnRefusedError : the issuer does not publish it now, or it is for an algorithm that is not taken.
        ProviderAwayError : the provider does not answer.
        """
        key_id = str(header.get("kid", ""))
        with self._lock:
            stale = self._clock() - self._keys_at_s >= _FRESH_S
            known = None if stale else self._keys.get(key_id)
        key = known or self._fetch_keys().get(key_id)
        if key is None:
            raise SignOnRefusedError("the token is signed by a key that the provider does not publish")
        if key.algorithm_name not in _ALGORITHMS:
            raise SignOnRefusedError(f"the token is signed with {key.algorithm_name}")
        return key

    def _fetch_keys(self) -> dict[str, jwt.PyJWK]:
        found = self._ask("GET", self._endpoint("jwks_uri"))
        keys = {}
        for one in found.get("keys", []):
            if isinstance(one, dict) and one.get("use", "sig") == "sig":
                try:
                    keys[str(one.get("kid", ""))] = jwt.PyJWK(one)
                except jwt.PyJWTError:  # of a kind that we do not know, and so never need
                    continue
        with self._lock:
            self._keys, self._keys_at_s = keys, self._clock()
        return keys

    def _endpoint(self, name: str) -> str:
        url = self._configuration().get(name)
        if not isinstance(url, str):
            raise ProviderAwayError(f"the provider names no {name}")
        if self.client.issuer.startswith("https:") and not url.startswith("https:"):
            raise ProviderAwayError(f"the provider's {name} is not https")
        return url

    def _configuration(self) -> dict[str, Any]:
        with self._lock:
            if self._document and self._clock() - self._document_at_s < _FRESH_S:
                return self._document
        document = self._ask("GET", self.client.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if document.get("issuer") != self.client.issuer:
            raise ProviderAwayError("the provider calls itself by another name than oidc.issuer")
        with self._lock:
            self._document, self._document_at_s = document, self._clock()
        return document

    def _ask(
        self, method: str, url: str, form: Mapping[str, str] | None = None, access_token: str = ""
    ) -> dict[str, Any]:
        """A JSON object from the provider."""
        bearer = {"Authorization": f"Bearer {access_token}"} if access_token else {}
        headers = {"Accept": "application/json", **bearer}
        auth, body = None, bytearray()
        if form and self.client.secret:  # RFC 6749 section 2.3.1
            offered = self._configuration().get("token_endpoint_auth_methods_supported")
            if isinstance(offered, list) and _BASIC not in offered and _POST in offered:
                form = {**form, "client_secret": self.client.secret}
            else:
                auth = (quote_plus(self.client.client_id), quote_plus(self.client.secret))
        try:
            with (
                self._place(),
                httpx.stream(
                    method, url, data=form, auth=auth, timeout=_TIMEOUT_S, headers=headers
                ) as response,
            ):
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > _MAX_ANSWER_BYTES:
                        raise ProviderAwayError("the provider's answer is too long")
            answer = json.loads(body)
        except (httpx.HTTPError, ValueError, RecursionError) as error:
            raise ProviderAwayError(f"the provider does not answer: {type(error).__name__}") from error
        if form and response.status_code == httpx.codes.BAD_REQUEST:
            said = answer.get("error") if isinstance(answer, dict) else None
            raise SignOnRefusedError(f"the provider takes no code: {str(said)[:64]}")
        if response.status_code != httpx.codes.OK or not isinstance(answer, dict):
            raise ProviderAwayError(f"the provider answers {response.status_code}")
        return answer

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Where the provider is asked from. ProviderAwayError: it did not answer a moment ago, or enough are asking."""
        away = self._clock() < self._away_until_s
        if away or not self._places.acquire(blocking=False):
            raise ProviderAwayError(
                f"the provider {'did not answer a moment ago' if away else 'is asked by others'}"
            )
        try:
            yield
        except httpx.HTTPError:
            self._away_until_s = self._clock() + AWAY_S
            raise
        finally:
            self._places.release()


def _asking(endpoint: str, query: Mapping[str, str]) -> str:
    """`endpoint` with `query`, beside what it asks already (RFC 6749 section 3.1)."""
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"


def _same(said: str, expected: str) -> bool:
    """Whether they are; `said` comes from outside and may hold anything, which `compare_digest` takes as bytes only."""
    return secrets.compare_digest(said.encode("utf-8", "surrogatepass"), expected.encode())
