"""What is left of the limits stands on every answer: a customer's, or that of an address."""

from __future__ import annotations

import re

import pytest
import pytest_asyncio

from adapters.http.callers import KNOWING_S
from adapters.http.contract import Auth
from adapters.http.openapi import Route, routes_of
from kyma.flows.access import Client
from kyma.strangers import PER_MINUTE
from tests.http.callers import (
    CHAT,
    HERE,
    REQUESTS,
    TIER_0,
    TOKENS,
    figures,
    left,
    remaining,
    stranger,
    use_up,
)
from tests.http.on_memory import SECRET, STRANGER, Place, a_body, a_place
from tests.http.visiting import Browser
from tests.http.wired import ask, gateway

UNKNOWN = "ky-" + "00" * 24
ELSEWHERE = "203.0.113.10"
PREFLIGHT = {"origin": "https://app.example", "access-control-request-method": "POST"}

ROUTES = [*routes_of(gateway().quart)]


@pytest_asyncio.fixture
async def place() -> Place:
    return await a_place()


def path_of(route: Route) -> str:
    """Some path of a route."""
    return re.sub(r"<[^>]*>", "00000000000000000000000000000000", route.path)


# --- every answer -----------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, UNKNOWN, "nonsense"], ids=["none", "unknown", "no key"])
async def test_every_route_tells_a_stranger_what_is_left_to_their_address(
    place: Place, secret: str | None
) -> None:
    """Of every route that there is, and exactly one request of each that counts."""
    wrong, before = [], PER_MINUTE
    for route in ROUTES:
        answer = await stranger(place, route.method, path_of(route), secret=secret)
        assert route.operation is not None
        before -= route.operation.counts_strangers
        told = (figures(answer), answer.headers.get("x-ratelimit-remaining-requests"))
        if told != (REQUESTS, str(before)):
            wrong.append((route.method, route.path, answer.status, told))
    assert len(ROUTES) > 60
    assert wrong == []


async def test_every_route_tells_a_known_key_what_is_left_to_its_account(place: Place) -> None:
    """Pages know people by their cookies, and no key."""
    wrong = []
    for route in ROUTES:
        declared = route.operation
        assert declared is not None
        if declared.documented and declared.counts_strangers:
            answer = await stranger(place, route.method, path_of(route), secret=SECRET)
            limit = answer.headers.get("x-ratelimit-limit-requests")
            if (figures(answer), limit) != (REQUESTS | TOKENS, TIER_0):
                wrong.append((route.method, route.path, answer.status, limit))
    assert wrong == []
    assert await left(place) == PER_MINUTE


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nowhere", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("POST", f"/{CHAT}", 404),
        ("HEAD", "/v1/models", 200),
        ("OPTIONS", "/v1/models", 200),
    ],
)
async def test_what_is_no_route_tells_it_too(
    place: Place, method: str, path: str, status: int
) -> None:
    unknown = await stranger(place, method, path)
    assert (unknown.status, figures(unknown)) == (status, REQUESTS)
    assert remaining(unknown) == PER_MINUTE - 1
    known = await stranger(place, method, path, secret=SECRET)
    assert (known.status, figures(known)) == (status, REQUESTS | TOKENS)
    assert await left(place) == PER_MINUTE - 1


async def test_a_refusal_before_the_work_tells_it_too(place: Place) -> None:
    for path in ("/v1/auth/keys", CHAT, "/v1/auth/login"):
        for secret, told in ((SECRET, REQUESTS | TOKENS), (None, REQUESTS)):
            answer = await stranger(place, "POST", path, secret=secret, Idempotency_Key="a b")
            assert answer.status in {400, 401}
            assert figures(answer) == told


# --- beyond the limit -------------------------------------------------------------------


async def test_the_request_after_the_last_is_refused_and_a_known_key_is_not_affected(
    place: Place,
) -> None:
    answers = [await stranger(place) for _ in range(PER_MINUTE)]
    assert {answer.status for answer in answers} == {200}
    assert [remaining(answer) for answer in answers] == [*range(PER_MINUTE - 1, -1, -1)]
    refused = await stranger(place)
    error = refused.json()["error"]
    assert (refused.status, error["code"], error["limit"]) == (429, "rate_limited", "address")
    assert (error["charged"], error["retryable"]) == (False, True)
    assert "Requests with a valid key are not affected" in error["message"]
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-ratelimit-limit-requests"] == str(PER_MINUTE)
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] == "0.100s"
    for path in ("/v1/auth/me", "/v1/models"):
        known = await stranger(place, path=path, secret=SECRET)
        assert (known.status, known.headers["x-ratelimit-limit-requests"]) == (200, TIER_0)
    chat = await place.ask("POST", CHAT, a_body(), address=HERE)
    assert (chat.status, remaining(chat)) == (200, 29)


@pytest.mark.parametrize("secret", [None, UNKNOWN, "nonsense"], ids=["none", "unknown", "no key"])
@pytest.mark.parametrize(
    ("method", "path", "before"),
    [
        ("GET", "/v1/auth/me", 401),
        ("POST", CHAT, 401),
        ("POST", "/v1/messages", 401),
        ("POST", "/v1/messages/count_tokens", 401),
        ("GET", "/v1/models", 200),
        ("GET", "/v1/nowhere", 404),
        ("PUT", "/v1/models", 405),
    ],
)
async def test_who_shows_no_known_key_is_counted_and_then_refused(
    place: Place, secret: str | None, method: str, path: str, before: int
) -> None:
    first = await stranger(place, method, path, secret=secret)
    assert (first.status, remaining(first)) == (before, PER_MINUTE - 1)
    await use_up(place)
    refused = await stranger(place, method, path, secret=secret)
    assert (refused.status, figures(refused), remaining(refused)) == (429, REQUESTS, 0)
    assert refused.headers["retry-after"] == "1"
    assert "www-authenticate" not in refused.headers
    error = refused.json()["error"]
    assert error["type"] in {"rate_limit", "rate_limit_error"}
    assert ("type" in refused.json()) == path.startswith("/v1/messages")


async def test_oauths_clients_hear_it_in_their_words(place: Place) -> None:
    await use_up(place)
    refused = await stranger(place, "POST", "/v1/auth/device/token")
    assert (refused.status, refused.json()["error"]) == (429, "temporarily_unavailable")
    assert refused.json()["code"] == "rate_limited"


async def test_a_key_that_was_revoked_is_a_strangers(place: Place) -> None:
    made = (await place.ask("POST", "/v1/auth/keys", {"name": "short"})).json()
    path = f"/v1/auth/keys/{made['id']}"
    assert (await place.ask("DELETE", path)).status == 200
    answer = await stranger(place, path="/v1/auth/me", secret=made["api_key"])
    assert (answer.status, remaining(answer)) == (401, PER_MINUTE - 1)


async def test_addresses_are_apart_and_a_network_of_ipv6_is_one(place: Place) -> None:
    await use_up(place)
    assert (await stranger(place)).status == 429
    assert (await stranger(place, address=ELSEWHERE)).status == 200
    await use_up(place, "2001:db8:1:2::1")
    assert (await stranger(place, address="2001:db8:1:2:3:4:5:6")).status == 429
    assert (await stranger(place, address="2001:db8:1:3::1")).status == 200
    assert (await stranger(place, address=f"::ffff:{HERE}")).status == 429


async def test_time_brings_it_back(place: Place) -> None:
    await use_up(place)
    assert (await stranger(place)).status == 429
    place.pass_time(0.1)
    assert [(await stranger(place)).status for _ in range(2)] == [200, 429]
    place.pass_time(1.0)
    assert await left(place) == 10
    place.pass_time(60.0)
    assert await left(place) == PER_MINUTE


async def test_this_machine_has_more_in_development_and_no_more_in_production() -> None:
    assert remaining(await ask(gateway(), "GET", "/v1/models")) == 100 * PER_MINUTE - 1
    made = (await a_place(env="production")).container
    made.strangers.reset_override()
    assert made.strangers().look("127.0.0.1").limit == PER_MINUTE


# --- what is told and not counted -------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/healthz"), ("GET", "/readyz"), ("POST", "/v1/billing/webhook")],
)
async def test_a_probe_and_a_notice_of_a_payment_are_never_refused(
    place: Place, method: str, path: str
) -> None:
    first = await stranger(place, method, path)
    assert (figures(first), remaining(first)) == (REQUESTS, PER_MINUTE)
    await use_up(place)
    last = await stranger(place, method, path)
    assert (last.status, remaining(last)) == (first.status, 0)
    assert last.status != 429


def test_nothing_else_is_left_uncounted() -> None:
    uncounted = {
        route.operation.id: route.operation.auth
        for route in ROUTES
        if route.operation is not None and not route.operation.counts_strangers
    }
    names = ("getHealth", "getReadiness", "billingWebhook")
    assert uncounted == dict.fromkeys(names, Auth.NONE)


async def test_a_preflight_is_never_refused(place: Place) -> None:
    """A browser sends one before the request that shows the key."""
    answers = [await stranger(place, "OPTIONS", CHAT, **PREFLIGHT) for _ in range(3)]
    assert {(answer.status, remaining(answer)) for answer in answers} == {(204, PER_MINUTE)}
    assert figures(answers[0]) == REQUESTS
    await use_up(place)
    last = await stranger(place, "OPTIONS", CHAT, **PREFLIGHT)
    assert (last.status, remaining(last)) == (204, 0)


# --- who it is cannot be known ----------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/auth/me"), ("POST", CHAT)])
async def test_while_the_database_is_away_nobody_is_counted_for_what_may_be_their_key(
    place: Place, method: str, path: str
) -> None:
    await use_up(place)
    place.pass_time(1.0)
    place.principals.is_away = True
    for _ in range(15):
        answer = await stranger(place, method, path, secret=SECRET)
        assert (answer.status, figures(answer), remaining(answer)) == (503, REQUESTS, 10)
    without = await stranger(place, method, path)
    assert (without.status, remaining(without)) == (401, 9)
    place.principals.is_away = False
    assert figures(await stranger(place, method, path, secret=SECRET)) == REQUESTS | TOKENS


async def test_a_public_list_does_not_wait_for_the_database(place: Place) -> None:
    place.principals.is_away = True
    away = await stranger(place, secret=SECRET)
    place.principals.is_away, place.principals.is_hung = False, True
    hung = await stranger(place, secret=SECRET)
    for answer in (away, hung):
        assert (answer.status, figures(answer), remaining(answer)) == (200, REQUESTS, PER_MINUTE)
    assert KNOWING_S < 1


# --- customers --------------------------------------------------------------------------


async def test_a_known_key_that_may_not_do_this_is_told_what_is_left_to_its_account(
    place: Place,
) -> None:
    few = {"name": "few", "scopes": ["billing"]}
    far = {"name": "far", "ip_list": ["198.51.100.1"]}
    await use_up(place)
    for fields, code in ((few, "insufficient_scope"), (far, "ip_not_allowed")):
        made = await place.ask("POST", "/v1/auth/keys", fields)
        for method, path in (("GET", "/v1/auth/keys"), ("POST", CHAT)):
            answer = await stranger(place, method, path, secret=made.json()["api_key"])
            assert (answer.status, answer.json()["error"]["code"]) == (403, code)
            assert figures(answer) == REQUESTS | TOKENS
            assert answer.headers["x-ratelimit-limit-requests"] == TIER_0


async def test_what_caches_keep_for_a_key_is_given_to_no_other(place: Place) -> None:
    for path in ("/v1/models", "/v1/openapi.json", "/llms.txt"):
        kept = {
            name.strip() for name in (await stranger(place, path=path)).headers["vary"].split(",")
        }
        assert {"authorization", "x-api-key"} <= {name.lower() for name in kept}
    assert "Cookie" in (await stranger(place, path="/assets/pages.css")).headers["vary"]


async def test_two_customers_at_one_address_have_their_own(place: Place) -> None:
    await place.ask("POST", CHAT, a_body(), address=HERE)
    told = [
        remaining(await stranger(place, path="/v1/models", secret=secret))
        for secret in (SECRET, STRANGER)
    ]
    assert told == [29, 30]


# --- people -----------------------------------------------------------------------------


async def test_who_is_signed_in_at_a_browser_is_a_customer_and_others_are_strangers(
    place: Place,
) -> None:
    await place.container.access().register("ana@example.com", "secret-1", Client())
    browser = Browser(place.gateway, address=HERE)
    first = await browser.get("/signin")
    assert (figures(first.answer), remaining(first.answer)) == (REQUESTS, PER_MINUTE - 1)
    home = await browser.sign_in("ana@example.com", "secret-1")
    assert figures(home.answer) == REQUESTS | TOKENS
    await use_up(place)
    again = await browser.get("/account")
    assert (again.status, figures(again.answer)) == (200, REQUESTS | TOKENS)
    style = await browser.get("/assets/pages.css")
    assert (style.status, figures(style.answer)) == (200, REQUESTS | TOKENS)
    for jar in ({}, {"kyma_session": "ks-" + "00" * 24}, {"kyma_session": SECRET}):
        other = await Browser(place.gateway, dict(jar), HERE).get("/account")
        assert (other.status, figures(other.answer)) == (429, REQUESTS)
        assert "Requests with a valid key are not affected" in other.text
        assert other.answer.headers["retry-after"] == "1"


async def test_a_cookie_opens_no_door_to_the_api(place: Place) -> None:
    welcome = await place.container.access().register("ana@example.com", "secret-1", Client())
    cookie = {"cookie": f"kyma_session={welcome.session_token}"}
    answer = await stranger(place, path="/v1/auth/me", **cookie)
    assert (answer.status, remaining(answer)) == (401, PER_MINUTE - 1)


async def test_an_answer_that_is_given_again_tells_what_is_left_now(place: Place) -> None:
    created = ("/v1/auth/keys", {"name": "once"})
    for path, body in ((CHAT, a_body()), ("/v1/messages/count_tokens", a_body()), created):
        answers = [
            await place.ask("POST", path, body, Idempotency_Key=f"for {path}".replace(" ", "-"))
            for _ in range(2)
        ]
        assert answers[1].headers["x-kyma-idempotent-replay"] == "true"
        assert [figures(answer) for answer in answers] == [REQUESTS | TOKENS] * 2
        assert [remaining(answer) for answer in answers] == [29, 29]
