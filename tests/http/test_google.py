"""Signing in with an account elsewhere, against a real OpenID provider over real HTTP."""

from __future__ import annotations

import asyncio
import threading
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import aiohttp
import flask
import oidc_provider_mock
import orjson
import pytest
import pytest_asyncio
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from oidc_provider_mock import User
from pydantic import SecretStr, ValidationError
from werkzeug.serving import make_server

from adapters.identity.google import GoogleIdentity
from adapters.memory.mail import MemoryMails
from adapters.settings import Settings
from kyma.flows.access import Client
from kyma.identity import challenge_of
from kyma.mail import Letter
from kyma.ports.identity import IdentityRefused, IdentityUnavailable
from tests.http.on_memory import Place, a_place
from tests.http.visiting import Browser, Page

ANA = User(sub="1001", claims={"email": "Ana@Example.com", "email_verified": True})
UNVERIFIED = User(sub="1002", claims={"email": "eve@example.com", "email_verified": False})
SILENT = User(sub="1003", claims={})
BACK = "http://kyma.example/back"


@dataclass
class Provider:
    """The provider, and what it was asked at its token endpoint."""

    url: str = ""
    forms: list[dict[str, str]] = field(default_factory=list)
    answer: Any = None
    """What the token endpoint says instead of its own, if anything."""


@contextmanager
def a_provider(**options: Any) -> Iterator[Provider]:
    """Runs for as long as the block lasts."""
    found = Provider()
    app = oidc_provider_mock.app(
        user_claims=[ANA, UNVERIFIED, SILENT], require_nonce=True, **options
    )

    @app.before_request
    def watch() -> Any:
        if flask.request.path == "/oauth2/token":
            found.forms.append(dict(flask.request.form))
            if found.answer is not None:
                return found.answer()
        return None

    server = make_server("127.0.0.1", 0, app, threaded=True)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    with a_provider() as found:
        yield found


@pytest.fixture
def provider(running: Provider) -> Iterator[Provider]:
    running.forms.clear()
    yield running
    running.answer = None


@pytest_asyncio.fixture
async def place(provider: Provider) -> AsyncIterator[Place]:
    made = await a_place(
        google_client_id="kyma", google_client_secret=SecretStr("a secret"),
        google_issuer=provider.url, public_url="http://kyma.example",
    )  # fmt: skip
    yield made
    await made.container.google().close()


@pytest.fixture
def browser(place: Place) -> Browser:
    return Browser(place.gateway)


async def agreed(address: str, sub: str = ANA.sub) -> str:
    """Where the provider sends somebody who agrees there."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(address, data={"sub": sub}, allow_redirects=False) as response,
    ):
        assert response.status == 302, await response.text()
        return response.headers["Location"]


async def denied(address: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.post(address, data={"action": "deny"}, allow_redirects=False) as response,
    ):
        return response.headers["Location"]


def here(address: str) -> str:
    """The path of an address of ours."""
    parts = urlsplit(address)
    assert parts.netloc == "kyma.example"
    return f"{parts.path}?{parts.query}"


async def through(browser: Browser, sub: str = ANA.sub, path: str = "/account") -> Page:
    """All the way there and back."""
    left = await browser.get(f"/v1/auth/google/start?{urlencode({'next': path})}")
    assert left.status == 303
    return await browser.get(here(await agreed(left.location, sub)))


async def customer(place: Place) -> str:
    welcome = await place.container.access().register("ana@example.com", "secret-1", Client())
    return welcome.account.id


async def test_the_browser_leaves_with_state_nonce_and_a_challenge(
    browser: Browser, provider: Provider
) -> None:
    assert "Sign in with Google" in (await browser.get("/signin")).text
    left = await browser.get("/v1/auth/google/start")
    assert left.location.startswith(f"{provider.url}/oauth2/authorize?")
    asked = dict(parse_qsl(urlsplit(left.location).query))
    assert asked["redirect_uri"] == "http://kyma.example/v1/auth/google/callback"
    assert (asked["scope"], asked["code_challenge_method"]) == ("openid email", "S256")
    assert min(len(asked["state"]), len(asked["nonce"]), len(asked["code_challenge"])) >= 43
    (cookie,) = left.cookies
    assert {"HttpOnly", "SameSite=Lax", "Max-Age=600"} <= set(cookie.split("; "))
    assert asked["state"] not in cookie
    back = await browser.get(here(await agreed(left.location)))
    assert back.status == 303
    (form,) = provider.forms
    assert challenge_of(form["code_verifier"]) == asked["code_challenge"]


async def test_somebody_new_is_signed_in_and_back_where_they_wanted_to_be(
    place: Place, browser: Browser
) -> None:
    back = await through(browser, path="/device?code=KYMA-2222")
    assert (back.status, back.location) == (303, "/device?code=KYMA-2222")
    assert "kyma_federation" not in browser.jar
    assert "ana@example.com" in (await browser.get("/account")).text
    assert [one.email for one in place.store.accounts.values()].count("ana@example.com") == 1
    other = Browser(place.gateway)
    assert (await through(other)).status == 303
    assert [one.email for one in place.store.accounts.values()].count("ana@example.com") == 1


async def test_who_comes_by_a_referral_link_and_google_is_a_pending_referral(
    place: Place, browser: Browser
) -> None:
    link = (await place.ask("GET", "/v1/referrals")).json()["link"]
    form = await browser.follow(await browser.get(here(link)))
    (start,) = [
        given["href"]
        for tag, given in form.read.tags
        if tag == "a" and (given.get("href") or "").startswith("/v1/auth/google")
    ]
    assert start is not None
    left = await browser.get(start)
    await browser.get(here(await agreed(left.location)))
    assert "ana@example.com" in (await browser.get("/account")).text
    found = (await place.ask("GET", "/v1/referrals")).json()
    assert found["pending"] == 1


@pytest.mark.parametrize("ref", ["0123456789", "x|y", "<script>", "x" * 3000])
async def test_google_opens_an_account_whatever_the_code_that_somebody_came_by(
    ref: str, place: Place, browser: Browser
) -> None:
    left = await browser.get(
        f"/v1/auth/google/start?{urlencode({'ref': ref, 'next': '/device?a|b'})}"
    )
    back = await browser.get(here(await agreed(left.location)))
    assert (back.status, back.location) == (303, "/device?a|b")
    assert (await place.ask("GET", "/v1/referrals")).json()["pending"] == 0


async def test_whom_google_knows_here_already_is_nobodys_referral(
    place: Place, browser: Browser
) -> None:
    await through(browser)
    code = (await place.ask("GET", "/v1/referrals")).json()["code"]
    other = Browser(place.gateway)
    left = await other.get(f"/v1/auth/google/start?ref={code}")
    assert (await other.get(here(await agreed(left.location)))).status == 303
    assert (await place.ask("GET", "/v1/referrals")).json()["pending"] == 0


@pytest.mark.parametrize("sub", [UNVERIFIED.sub, SILENT.sub])
async def test_an_address_that_is_not_verified_there_is_not_let_in(
    sub: str, place: Place, browser: Browser
) -> None:
    before = len(place.store.accounts)
    page = await through(browser, sub)
    assert page.status == 400
    assert "not verified" in page.text
    assert len(place.store.accounts) == before


async def test_an_account_with_the_address_is_joined_by_its_password(
    place: Place, browser: Browser
) -> None:
    account_id = await customer(place)
    offer = await through(browser)
    assert "Is this account yours?" in offer.text
    assert "kyma_session" not in browser.jar
    wrong = await browser.send(offer, 0, password="guess")
    assert (wrong.status, "Wrong password." in wrong.text) == (401, True)
    joined = await browser.send(wrong, 0, password="secret-1")
    assert joined.location == "/account"
    assert place.store.sessions
    later = Browser(place.gateway)
    await through(later)
    digest = place.container.digests().digest(later.jar["kyma_session"])
    assert place.store.sessions[digest].account_id == account_id


async def test_an_account_with_the_address_is_joined_by_its_mail(
    place: Place, browser: Browser
) -> None:
    account_id = await customer(place)
    sent = await browser.send(await through(browser), 1)
    assert "Check your mail" in sent.text
    mails = place.container.mails()
    assert isinstance(mails, MemoryMails)
    (row,) = [row for row in mails.rows.values() if row.letter is Letter.JOIN]
    reader = Browser(place.gateway)  # the mail may be read in another one
    page = await reader.get(here(row.facts["join_url"]))
    assert "never confirmed" in page.text
    assert (await reader.send(page)).location == "/account"
    digest = place.container.digests().digest(reader.jar["kyma_session"])
    assert place.store.sessions[digest].account_id == account_id
    assert (await reader.send(page)).status != 303  # it works once


async def test_an_answer_in_another_browser_is_refused(place: Place, browser: Browser) -> None:
    """As if somebody sent another person the end of a sign-in of their own."""
    left = await browser.get("/v1/auth/google/start")
    address = here(await agreed(left.location))
    victim = Browser(place.gateway)
    assert (await victim.get(address)).status == 400
    await victim.get("/v1/auth/google/start")
    assert (await victim.get(address)).status == 400
    assert "kyma_session" not in victim.jar
    assert (await browser.get(address)).status == 303


async def test_a_changed_or_used_code_lets_nobody_in(browser: Browser) -> None:
    left = await browser.get("/v1/auth/google/start")
    jar = dict(browser.jar)
    address = here(await agreed(left.location))
    state = parse_qs(urlsplit(address).query)["state"][0]
    wrong = await browser.get(
        f"/v1/auth/google/callback?{urlencode({'code': 'x', 'state': state})}"
    )
    assert (wrong.status, "did not confirm" in wrong.text) == (400, True)
    assert (await browser.get(address)).status == 303
    browser.jar = jar
    assert (await browser.get(address)).status == 400


async def test_somebody_who_says_no_there_is_told_so_here(browser: Browser) -> None:
    left = await browser.get("/v1/auth/google/start")
    page = await browser.get(here(await denied(left.location)))
    assert page.status == 400
    assert "You are not signed in" in page.text


async def test_a_nonce_of_another_attempt_is_refused(provider: Provider) -> None:
    google = GoogleIdentity(provider.url, "kyma", "a secret")
    try:
        address = await google.address(BACK, "s", "nonce-1", "v" * 64)
        code = parse_qs(urlsplit(await agreed(address)).query)["code"][0]
        with pytest.raises(IdentityRefused, match="nonce"):
            await google.claims(code, BACK, "nonce-2", "v" * 64)
    finally:
        await google.close()


async def test_a_token_for_another_client_is_refused(provider: Provider) -> None:
    """Stolen from another application that people sign in to with the same provider."""
    ours = GoogleIdentity(provider.url, "kyma", "a secret")
    theirs = GoogleIdentity(provider.url, "other", "a secret")
    try:
        address = await theirs.address(BACK, "s", "nonce-1", "v" * 64)
        code = parse_qs(urlsplit(await agreed(address)).query)["code"][0]
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{provider.url}/oauth2/token",
                data={
                    "grant_type": "authorization_code", "code": code, "redirect_uri": BACK,
                    "client_id": "other", "client_secret": "a secret",
                },
            ) as response,
        ):  # fmt: skip
            token = await response.json()
        provider.answer = lambda: flask.jsonify(token)
        with pytest.raises(IdentityRefused, match="aud"):
            await ours.claims("any", BACK, "nonce-1", "v" * 64)
    finally:
        await asyncio.gather(ours.close(), theirs.close())


def forged(url: str, header: dict[str, str], key: RSAKey | OctKey) -> str:
    return jwt.encode(header, claims_for(url), key, algorithms=[header["alg"]])


def claims_for(url: str) -> dict[str, Any]:
    return {
        "iss": url, "sub": "1001", "aud": "kyma", "exp": 2**32, "iat": 1, "nonce": "nonce-1",
        "email": "ana@example.com", "email_verified": True,
    }  # fmt: skip


def unsigned(url: str) -> str:
    parts = [orjson.dumps(part) for part in ({"alg": "none"}, claims_for(url))]
    return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


@pytest.mark.parametrize("how", ["another_key", "shared_secret", "no_signature", "no_token"])
async def test_a_token_that_the_provider_did_not_sign_is_refused(
    how: str, provider: Provider
) -> None:
    shared = OctKey.import_key("a secret" * 8)
    raw = {
        "another_key": lambda: forged(provider.url, {"alg": "RS256"}, RSAKey.generate_key(2048)),
        "shared_secret": lambda: forged(provider.url, {"alg": "HS256"}, shared),
        "no_signature": lambda: unsigned(provider.url),
        "no_token": lambda: "",
    }[how]()
    provider.answer = lambda: flask.jsonify({"id_token": raw, "access_token": "x"})
    google = GoogleIdentity(provider.url, "kyma", "a secret")
    try:
        with pytest.raises(IdentityRefused):
            await google.claims("any", BACK, "nonce-1", "v" * 64)
    finally:
        await google.close()


async def test_a_token_that_is_over_is_refused() -> None:
    with a_provider(access_token_max_age=timedelta(seconds=-120)) as provider:
        google = GoogleIdentity(provider.url, "kyma", "a secret")
        try:
            address = await google.address(BACK, "s", "nonce-1", "v" * 64)
            code = parse_qs(urlsplit(await agreed(address)).query)["code"][0]
            with pytest.raises(IdentityRefused, match="expired"):
                await google.claims(code, BACK, "nonce-1", "v" * 64)
        finally:
            await google.close()


async def test_new_keys_of_the_provider_are_fetched_when_they_are_used(
    provider: Provider,
) -> None:
    google = GoogleIdentity(provider.url, "kyma", "a secret")
    old = RSAKey.generate_key(2048)
    try:
        address = await google.address(BACK, "s", "nonce-1", "v" * 64)
        keys = {"keys": [old.as_dict(private=False)]}
        google._read[f"{provider.url}/jwks"] = (float("inf"), keys)
        code = parse_qs(urlsplit(await agreed(address)).query)["code"][0]
        claims = await google.claims(code, BACK, "nonce-1", "v" * 64)
        assert (claims.subject, claims.email_verified) == ("1001", True)
    finally:
        await google.close()


async def test_a_provider_that_breaks_or_is_away_is_no_verdict(
    place: Place, browser: Browser, provider: Provider
) -> None:
    left = await browser.get("/v1/auth/google/start")
    provider.answer = lambda: ("broken", 503)
    page = await browser.get(here(await agreed(left.location)))
    assert page.status == 503
    assert "cannot be reached" in page.text
    assert page.answer.headers["retry-after"] == "5"
    away = GoogleIdentity("http://127.0.0.1:1", "kyma", "a secret")
    try:
        with pytest.raises(IdentityUnavailable):
            await away.address(BACK, "s", "n", "v" * 64)
    finally:
        await away.close()


def test_a_client_at_google_without_its_secret_does_not_start() -> None:
    with pytest.raises(ValidationError, match="belong together"):
        Settings(google_client_id="kyma")


@pytest.mark.parametrize(
    "client",
    [
        {"name": "App", "redirect_uris": []},
        {"name": "", "redirect_uris": ["https://a.example/cb"]},
        {"name": "App", "redirect_uris": ["http://a.example/cb"]},
        {"name": "App", "redirect_uris": ["https://a.example/cb"], "secret": "x"},
    ],
)
def test_an_application_that_cannot_be_registered_does_not_start(client: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(oauth_clients={"app": client})
