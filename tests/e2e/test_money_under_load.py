"""Ten thousand requests on fifty cents, over HTTP: to the nano-dollar, and never below zero."""

from __future__ import annotations

import asyncio
from collections import Counter

import aiohttp
import orjson

from tests.e2e.asking import CREDIT, PATIENCE, audit, customer
from tests.e2e.stack import Stack

TASKS, REQUESTS = 50, 200
NOBODY = "redis://127.0.0.1:1/0"
"""Without Redis requests pass unlimited: no tier allows ten thousand in a few seconds."""

BODY = orjson.dumps(
    {
        "model": "qwen-3.6-plus",  # dear enough that the credit ends on the way
        "messages": [{"role": "user", "content": "Count to twenty."}],
        "max_tokens": 20,
    }
)


async def test_fifty_tasks_of_two_hundred_requests_spend_fifty_cents_exactly(stack: Stack) -> None:
    sandbox = await stack.sandbox("sandbox")
    gateway = await stack.gateway(sandbox_url=f"{sandbox.url}/v1", redis_url=NOBODY)
    buyer = await customer(gateway.url)
    answers: Counter[int] = Counter()
    told_nanos = 0

    async def ask(session: aiohttp.ClientSession) -> None:
        nonlocal told_nanos
        for _ in range(REQUESTS):
            async with session.post(
                f"{gateway.url}/v1/chat/completions", data=BODY, headers=buyer.headers
            ) as response:
                answers[response.status] += 1
                body = orjson.loads(await response.read())
                if response.status == 200:
                    told_nanos += round(float(body["usage"]["cost_usd"]) * 1e9)
                else:
                    assert body["error"]["code"] == "insufficient_credits"
                    assert body["error"]["charged"] is False

    connector = aiohttp.TCPConnector(limit=TASKS)
    async with aiohttp.ClientSession(connector=connector, timeout=PATIENCE) as session:
        work = asyncio.gather(*(ask(session) for _ in range(TASKS)))
        while not work.done():
            (await audit(stack.database_url, buyer.id)).check()
            await asyncio.wait({work}, timeout=0.5)
        await work

    assert sum(answers.values()) == TASKS * REQUESTS
    assert set(answers) == {200, 402}
    found = await audit(stack.database_url, buyer.id)
    found.check_at_rest()
    assert found.spent == told_nanos == CREDIT - found.available
    assert len(found.records) == answers[200]
