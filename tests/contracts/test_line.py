"""The connection on which the limiter's batches travel, against a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from adapters.redis.client import make_redis
from adapters.redis.line import TRUSTED_S, Line
from tests.builders import new_id


@pytest_asyncio.fixture
async def line(redis: Redis) -> AsyncIterator[Line]:
    line = Line(redis)
    yield line
    await line.close()


async def hung_up_on(redis: Redis) -> None:
    """As a server that closes what has been silent, or restarts."""
    await redis.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(0.05)


async def test_answers_come_in_order_and_connections_are_made_once(line: Line) -> None:
    mine = (await line.ask([("CLIENT", "ID")]))[0]
    for size in (1, 200, 3):
        said = [f"wörd {number}" for number in range(size)]
        asked = [("ECHO", word) for word in said]
        assert await line.ask(asked) == [word.encode() for word in said]
    assert (await line.ask([("CLIENT", "ID")]))[0] == mine


async def test_a_refused_command_spoils_no_answer_of_the_next_batch(line: Line) -> None:
    key = new_id()
    with pytest.raises(ResponseError, match="not an integer"):
        await line.ask([("SET", key, "one"), ("INCR", key), ("INCR", key), ("GET", key)])
    assert await line.ask([("ECHO", "two"), ("GET", key)]) == [b"two", b"one"]


async def test_an_answer_that_came_too_late_is_nobodys(line: Line) -> None:
    await line.ask([("PING",)])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await line.ask([("BLPOP", new_id(), "0.3"), ("ECHO", "late")])
    assert await line.ask([("ECHO", "mine")]) == [b"mine"]
    await asyncio.sleep(0.4)
    assert await line.ask([("ECHO", "again")]) == [b"again"]


async def test_one_that_was_closed_while_nothing_was_said_is_made_anew(
    line: Line, redis: Redis
) -> None:
    await line.ask([("PING",)])
    await hung_up_on(redis)
    await asyncio.sleep(TRUSTED_S)
    assert await line.ask([("ECHO", "here")]) == [b"here"]


async def test_one_that_closes_under_a_batch_is_not_asked_a_second_time(
    line: Line, redis: Redis
) -> None:
    key = new_id()
    assert await line.ask([("INCR", key)]) == [1]
    await hung_up_on(redis)
    with pytest.raises((RedisError, OSError)):
        await line.ask([("INCR", key)])
    assert await line.ask([("INCR", key)]) == [2]


async def test_one_that_cannot_be_made_says_so_each_time() -> None:
    client = make_redis("redis://127.0.0.1:1/0")
    line = Line(client)
    for _ in range(2):
        with pytest.raises((RedisError, OSError)):
            await line.ask([("PING",)])
    await line.close()
    await client.aclose()
