"""A running gateway and whoever shows it no known key: told what is left, and then refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest_asyncio

from kyma.strangers import PER_MINUTE
from tests.e2e.asking import PATIENCE, Reply, customer
from tests.e2e.stack import Process, Stack

CHAT = "/v1/chat/completions"
UNKNOWN = {"Authorization": "Bearer ky-" + "00" * 24}
FROM_AFAR = {"X-Forwarded-For": "198.51.100.7"}
FROM_ELSEWHERE = {"X-Forwarded-For": "198.51.100.8"}
PLACES = (("GET", "/v1/auth/me", UNKNOWN), ("POST", CHAT, UNKNOWN), ("GET", "/v1/models", {}))


@pytest_asyncio.fixture
async def gateway(stack: Stack) -> Process:
    """It takes this machine for a proxy, whose clients it counts one by one."""
    return await stack.gateway(trusted_proxies="127.0.0.1")


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=PATIENCE) as made:
        yield made


async def ask(
    session: aiohttp.ClientSession, gateway: Process, method: str, path: str, **headers: str
) -> Reply:
    body = b"" if method == "POST" else None
    async with session.request(method, gateway.url + path, data=body, headers=headers) as answer:
        raw = await answer.read()
        lowered = {name.lower(): value for name, value in answer.headers.items()}
        return Reply(answer.status, lowered, raw)


def remaining(reply: Reply) -> int:
    assert reply.headers["x-ratelimit-limit-requests"] == str(PER_MINUTE)
    assert "x-ratelimit-limit-tokens" not in reply.headers
    return int(reply.headers["x-ratelimit-remaining-requests"])


async def test_an_address_is_told_what_is_left_until_it_is_refused_and_its_customers_are_not(
    gateway: Process, session: aiohttp.ClientSession
) -> None:
    who = await customer(gateway.url)
    statuses: list[int] = []
    began, left = time.monotonic(), PER_MINUTE
    while True:
        method, path, secret = PLACES[len(statuses) % len(PLACES)]
        reply = await ask(session, gateway, method, path, **FROM_AFAR, **secret)
        if reply.status == 429:
            break
        assert reply.status == (401 if secret else 200)
        assert remaining(reply) >= left - 1, "no fewer are left than was said"
        left = remaining(reply)
        statuses.append(reply.status)
    came_back = 10 * (time.monotonic() - began)
    assert PER_MINUTE <= len(statuses) <= PER_MINUTE + came_back + 1
    assert (reply.error()["code"], remaining(reply)) == ("rate_limited", 0)
    assert float(reply.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 0.1
    assert reply.headers["retry-after"] == "1"

    known = await ask(session, gateway, "GET", "/v1/auth/me", **FROM_AFAR, **who.headers)
    assert (known.status, known.headers["x-ratelimit-limit-requests"]) == (200, "30")
    text = await ask(session, gateway, "POST", CHAT, **FROM_AFAR, **who.headers)
    assert (text.status, text.headers["x-ratelimit-limit-requests"]) == (400, "30")
    other = await ask(session, gateway, "GET", "/v1/models", **FROM_ELSEWHERE)
    assert (other.status, remaining(other)) == (200, PER_MINUTE - 1)

    await asyncio.sleep(int(reply.headers["retry-after"]))
    for method, path, secret in PLACES:
        again = await ask(session, gateway, method, path, **FROM_AFAR, **secret)
        assert again.status == (401 if secret else 200)


async def test_a_preflight_and_a_probe_tell_it_over_the_wire(
    gateway: Process, session: aiohttp.ClientSession
) -> None:
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    told = [
        await ask(session, gateway, "OPTIONS", CHAT, **FROM_AFAR, **asked),
        await ask(session, gateway, "GET", "/healthz", **FROM_AFAR),
        await ask(session, gateway, "GET", "/v1/models", **FROM_AFAR),
    ]
    assert [reply.status for reply in told] == [204, 200, 200]
    assert [remaining(reply) for reply in told] == [PER_MINUTE, PER_MINUTE, PER_MINUTE - 1]
    assert orjson.loads(told[1].raw) == {"status": "ok"}
