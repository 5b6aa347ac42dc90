"""Whose a request is: which credential counts, how long it is looked up, what its owner hears."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
import pytest_asyncio
from quart import Response

from adapters.http.callers import KNOWING_S
from kyma.errors import Code, Refusal
from kyma.flows.access import Client
from kyma.ports.runtime import Quota
from kyma.strangers import PER_MINUTE
from kyma.tiers import TIERS
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
from tests.http.on_memory import SECRET, Place, a_body, a_place, asked
from tests.http.visiting import Browser

SLOW_S = KNOWING_S + 0.3


@pytest_asyncio.fixture
async def place() -> Place:
    return await a_place()


# --- which credential counts ------------------------------------------------------------

GOOD, OTHER = f"Bearer {SECRET}", "Bearer ky-" + "00" * 24
SHOWN: dict[str, tuple[list[tuple[str, str]], bool]] = {
    "a bearer": ([("authorization", GOOD)], True),
    "a bearer in capitals": ([("authorization", GOOD.replace("Bearer", "BEARER"))], True),
    "a bearer among spaces": ([("authorization", f"Bearer   {SECRET}  ")], True),
    "a key": ([("x-api-key", f" {SECRET} ")], True),
    "an empty bearer": ([("authorization", "Bearer ")], False),
    "an empty bearer and a key": ([("authorization", "Bearer "), ("x-api-key", SECRET)], True),
    "a bare bearer and a key": ([("authorization", "Bearer"), ("x-api-key", SECRET)], True),
    "a blank bearer and a key": ([("x-api-key", SECRET), ("authorization", "Bearer   ")], True),
    "another scheme and a key": ([("authorization", "Basic eA=="), ("x-api-key", SECRET)], True),
    "an unknown bearer and a key": ([("authorization", OTHER), ("x-api-key", SECRET)], False),
    "a bearer and an unknown key": ([("authorization", GOOD), ("x-api-key", OTHER[7:])], True),
    "a bearer before another": ([("authorization", GOOD), ("authorization", OTHER)], True),
    "a bearer after another": ([("authorization", OTHER), ("authorization", GOOD)], False),
    "a bearer after an empty one": (
        [("authorization", "Bearer "), ("authorization", GOOD)], False,
    ),
    "a key before another": ([("x-api-key", SECRET), ("x-api-key", OTHER[7:])], True),
    "a key after another": ([("x-api-key", OTHER[7:]), ("x-api-key", SECRET)], False),
}  # fmt: skip


@pytest.mark.parametrize(("shown", "is_known"), SHOWN.values(), ids=SHOWN)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/auth/me", None),
        ("GET", "/v1/models", None),
        ("POST", CHAT, a_body()),
        ("POST", "/v1/messages/count_tokens", a_body()),
    ],
)
async def test_every_route_goes_by_the_same_credential(
    place: Place,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    shown: list[tuple[str, str]],
    is_known: bool,
) -> None:
    async def gateway(scope: Any, receive: Any, send: Any) -> None:
        scope["headers"] += [(name.encode(), value.encode()) for name, value in shown]
        await place.gateway(scope, receive, send)

    raw = b"" if body is None else orjson.dumps(body)
    given = {"host": "here", "content-length": str(len(raw))}
    answer = await asked(gateway, method, path, given, raw, address=HERE)
    assert figures(answer) == (REQUESTS | TOKENS if is_known else REQUESTS)
    assert answer.status == (200 if is_known or path == "/v1/models" else 401)


# --- a slow database --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"), [("GET", "/v1/auth/me", None), ("POST", CHAT, a_body())]
)
async def test_where_a_key_is_needed_a_slow_database_is_waited_for(
    place: Place, method: str, path: str, body: dict[str, Any] | None
) -> None:
    place.principals.slow_s = SLOW_S
    answer = await place.ask(method, path, body, address=HERE)
    assert (answer.status, figures(answer)) == (200, REQUESTS | TOKENS)
    assert answer.headers["x-ratelimit-limit-requests"] == TIER_0


async def test_a_public_list_waits_for_a_slow_database_so_long_and_no_longer(
    place: Place,
) -> None:
    place.principals.slow_s = SLOW_S
    began = time.monotonic()
    answer = await stranger(place, secret=SECRET)
    took_s = time.monotonic() - began
    assert (answer.status, figures(answer), remaining(answer)) == (200, REQUESTS, PER_MINUTE)
    assert took_s >= KNOWING_S
    place.principals.slow_s = KNOWING_S / 5
    known = await stranger(place, secret=SECRET)
    assert (known.status, figures(known)) == (200, REQUESTS | TOKENS)


# --- beyond an account's limit -----------------------------------------------------------


async def headers_sent(place: Place, method: str, path: str, body: Any = None) -> list[str]:
    """Names and values as they went out, a name that is told twice twice."""
    sent: list[tuple[bytes, bytes]] = []

    async def heard(scope: Any, receive: Any, send: Any) -> None:
        async def note(message: dict[str, Any]) -> None:
            sent.extend(message.get("headers", []))
            await send(message)

        await place.gateway(scope, receive, note)

    raw = b"" if body is None else orjson.dumps(body)
    given = {"authorization": f"Bearer {SECRET}", "content-length": str(len(raw)), "host": "here"}
    assert (await asked(heard, method, path, given, raw)).status == 429
    return [f"{name.decode().lower()}: {value.decode()}" for name, value in sent]


def told_once(lines: list[str]) -> dict[str, str]:
    """The figures, if no name comes twice."""
    told = [line.partition(": ") for line in lines if line.startswith("x-ratelimit-")]
    assert sorted(name for name, _, _ in told) == sorted(REQUESTS | TOKENS)
    return {name: value for name, _, value in told}


async def test_a_customer_beyond_their_limit_is_told_the_figures_once(place: Place) -> None:
    for number in range(int(TIER_0)):
        await place.limiter.take(place.account.id, f"model {number}", 0, TIERS[0])
    told = told_once(await headers_sent(place, "POST", CHAT, a_body()))
    assert told["x-ratelimit-remaining-requests"] == "0"


async def test_a_refusal_that_tells_an_accounts_figures_is_not_told_others_on_top(
    place: Place,
) -> None:
    """The figures that it was refused by: those of a moment later may be others."""
    quota = Quota("requests", int(TIER_0), 0, 500, 1.5, 1.5)

    async def refuse() -> Response:
        raise Refusal(Code.RATE_LIMITED, "no", details={"quota": quota, "rung": TIERS[0]})

    place.gateway.quart.add_url_rule("/limited", "limited", refuse)
    told = told_once(await headers_sent(place, "GET", "/limited"))
    assert told["x-ratelimit-remaining-requests"] == "0"
    assert told["x-ratelimit-reset-requests"] == "1.500s"


# --- where a key is none ----------------------------------------------------------------


@pytest.mark.parametrize("path", ["/signin", "/account", "/assets/pages.css"])
async def test_a_key_in_a_header_is_a_strangers_on_a_page(place: Place, path: str) -> None:
    first = await stranger(place, path=path, secret=SECRET)
    assert (figures(first), remaining(first)) == (REQUESTS, PER_MINUTE - 1)
    await use_up(place)
    assert (await stranger(place, path=path, secret=SECRET)).status == 429


async def test_a_path_that_is_no_route_knows_keys_and_no_cookies(place: Place) -> None:
    await place.container.access().register("ana@example.com", "secret-1", Client())
    browser = Browser(place.gateway, address=HERE)
    await browser.sign_in("ana@example.com", "secret-1")
    before = await left(place)
    nowhere = await browser.get("/account/nowhere")
    assert (nowhere.status, remaining(nowhere.answer)) == (404, before - 1)
    known = await stranger(place, path="/account/nowhere", secret=SECRET)
    assert (known.status, figures(known)) == (404, REQUESTS | TOKENS)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_probe_tells_a_customer_the_figures_of_the_address(place: Place, path: str) -> None:
    answer = await stranger(place, path=path, secret=SECRET)
    assert (figures(answer), remaining(answer)) == (REQUESTS, PER_MINUTE)
