"""`Idempotency-Key` over real processes: at once, after a crash, and on every text route."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest

from adapters.http.app import DIALECTS
from kyma.flows.repeats import LEASE_S
from tests.e2e.asking import HELLO, Customer, Reply, audit, customer, send
from tests.e2e.conftest import Running
from tests.e2e.stack import Stack

KEY = "7d4e9f0c-3b1a-4c7e-9a55-2f6f0d1f8b11"
REPLAY = "x-kyma-idempotent-replay"
MODEL = "deepseek-v4-flash"
NEW = {"name": "the new one"}

BODIES: dict[str, dict[str, Any]] = {
    "chat.completions": {"model": MODEL, "messages": HELLO, "max_tokens": 20},
    "messages": {"model": MODEL, "messages": HELLO, "max_tokens": 20},
    "responses": {"model": MODEL, "input": "Say hello.", "max_output_tokens": 20},
    "completions": {"model": MODEL, "prompt": "Say hello.", "max_tokens": 20},
    "embeddings": {"model": "qwen-3-embedding-8b", "input": "hello"},
}


async def post(who: Customer, path: str, body: Any) -> Reply:
    headers = {**who.headers, "Idempotency-Key": KEY}
    return await send(who.url, "POST", path, orjson.dumps(body), headers)


async def made(who: Customer) -> list[str]:
    """The ids of the keys that have the name."""
    listed = (await who.get("/v1/auth/keys")).json()["data"]
    return [key["id"] for key in listed if key["name"] == NEW["name"]]


def test_every_text_route_is_asked() -> None:
    assert {dialect.endpoint for dialect in DIALECTS} == set(BODIES)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.endpoint)
async def test_a_text_route_charges_a_repeated_request_once(running: Running, dialect: Any) -> None:
    buyer, body = await customer(running.gateway.url), BODIES[dialect.endpoint]
    first = await post(buyer, dialect.path, body)
    again = await post(buyer, dialect.path, body)
    assert (first.status, again.status) == (200, 200), first.raw
    assert (again.headers[REPLAY], again.json()["status"]) == ("true", "already_completed")
    other = await post(buyer, dialect.path, {**body, "user": "somebody"})
    assert other.status == 409
    found = await audit(running.stack.database_url, buyer.id)
    found.check_at_rest()
    assert len(found.records) == 1


async def test_of_twenty_at_once_one_makes_a_key_and_all_are_told_of_it(running: Running) -> None:
    who = await customer(running.gateway.url)
    replies = await asyncio.gather(*(post(who, "/v1/auth/keys", NEW) for _ in range(20)))
    assert {reply.status for reply in replies} <= {201, 409}
    for reply in replies:
        if reply.status == 409:
            assert reply.error()["code"] == "idempotency_in_progress"
            assert int(reply.headers["retry-after"]) >= 1
    again = await post(who, "/v1/auth/keys", NEW)
    assert (again.status, again.headers[REPLAY]) == (201, "true")
    assert {reply.raw for reply in replies if reply.status == 201} == {again.raw}
    assert await made(who) == [again.json()["id"]]
    works = await Customer(who.url, who.id, again.json()["api_key"]).get("/v1/credits/balance")
    assert works.status == 200


async def test_a_gateway_killed_at_work_leaves_a_claim_that_another_finishes(stack: Stack) -> None:
    first = await stack.gateway("first")
    who = await customer(first.url)
    assert await made(who) == []
    connection = await asyncpg.connect(stack.database_url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE api_keys IN EXCLUSIVE MODE")
            asking = asyncio.create_task(post(who, "/v1/auth/keys", NEW))
            await _stuck(stack.database_url)
            first.kill()
            with pytest.raises(aiohttp.ClientError):
                await asking
        who = who.at((await stack.gateway("second")).url)
        early = await post(who, "/v1/auth/keys", NEW)
        assert (early.status, early.error()["code"]) == (409, "idempotency_in_progress")
        assert int(early.headers["retry-after"]) >= 1
        await connection.execute(
            "UPDATE idempotency_claims SET lease_until = lease_until - make_interval(secs => $1)",
            LEASE_S + 1.0,
        )
        late = await post(who, "/v1/auth/keys", NEW)
        assert late.status == 201
        assert await made(who) == [late.json()["id"]]
        again = await post(who, "/v1/auth/keys", NEW)
        assert (again.raw, again.headers[REPLAY]) == (late.raw, "true")
    finally:
        await connection.close()


async def _stuck(database_url: str) -> None:
    """Wait until the gateway is at work: it has its claim, and waits at the lock."""
    connection = await asyncpg.connect(database_url)
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1"
    try:
        async with asyncio.timeout(10):
            while not await connection.fetchval(query, "INSERT INTO api_keys%"):
                await asyncio.sleep(0.02)
    finally:
        await connection.close()
