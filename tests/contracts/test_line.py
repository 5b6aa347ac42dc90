"""The connection on which the limiter's batches travel, against a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from adapters.redis.client import make_redis
from adapters.redis.limiter import RedisLimiter
from adapters.redis.line import Line
from kyma.tiers import TIERS
from tests.builders import new_id


@pytest_asyncio.fixture
async def line(redis: Redis) -> AsyncIterator[Line]:
    line = Line(redis)
    yield line
    await line.close()


async def test_answers_come_in_order_and_connections_are_made_once(line: Line) -> None:
    mine = (await line.ask([("CLIENT", "ID")]))[0]
    for size in (1, 200, 3):
        said = [f"wörd {number}" for number in range(size)]
        asked = [("ECHO", word) for word in said]
        assert await line.ask(asked) == [word.encode() for word in said]
    assert (await line.ask([("CLIENT", "ID")]))[0] == mine


async def test_a_refused_command_spoils_no_answer_of_the_next_batch(line: Line) -> None:
    key = new_id()
    asked = [("SET", key, "one"), ("INCR", key), ("LPUSH", key, "x"), ("GET", key)]
    done, no_number, no_list, read = await line.ask(asked)
    assert (done, read) == (b"OK", b"one")
    assert isinstance(no_number, ResponseError)
    assert isinstance(no_list, ResponseError)
    assert ("integer" in str(no_number), "wrong kind" in str(no_list)) == (True, True)
    assert await line.ask([("ECHO", "two"), ("GET", key)]) == [b"two", b"one"]


async def test_an_answer_that_came_too_late_is_nobodys(line: Line) -> None:
    await line.ask([("PING",)])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await line.ask([("BLPOP", new_id(), "0.3"), ("ECHO", "late")])
    assert await line.ask([("ECHO", "mine")]) == [b"mine"]
    await asyncio.sleep(0.4)
    assert await line.ask([("ECHO", "again")]) == [b"again"]


class Between:
    """A way to Redis on which connections can be ended, as servers, proxies and networks do."""

    def __init__(self, redis_url: str) -> None:
        self._to = urlsplit(redis_url)
        self._clients: set[asyncio.StreamWriter] = set()
        self._pipes: set[asyncio.Task[None]] = set()
        self.in_the_middle: Callable[[], Awaitable[Any]] | None = None
        """What happens when half of the next batch of scripts has arrived."""

    async def __aenter__(self) -> Between:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        who = self._to.netloc.rpartition("@")[0]
        self.url = self._to._replace(netloc=f"{who}@127.0.0.1:{port}").geturl()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.end(by_reset=True)
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to = await asyncio.open_connection(self._to.hostname, self._to.port)
        self._clients.add(writer)
        for ends in ((reader, to), (there, writer)):
            self._pipes.add(asyncio.create_task(self._pipe(*ends)))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self.in_the_middle is not None and data.count(b"EVALSHA") > 1:
                    half = data.index(b"*6\r\n", len(data) // 2)
                    writer.write(data[:half])
                    await asyncio.sleep(0.05)
                    await self.in_the_middle()
                    self.in_the_middle, data = None, data[half:]
                writer.write(data)
        writer.close()

    async def end(self, *, by_reset: bool) -> None:
        """End all that are open, and let the other side hear of it."""
        for writer in self._clients:
            if by_reset:
                opened = writer.get_extra_info("socket")
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._clients.clear()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("by_reset", [False, True])
@pytest.mark.parametrize("pause_s", [0, 0.3])
async def test_one_that_was_ended_while_nothing_was_said_is_made_anew(
    redis_url: str, by_reset: bool, pause_s: float
) -> None:
    async with Between(redis_url) as between:
        client = make_redis(between.url)
        line, key = Line(client), new_id()
        for number in range(1, 4):
            assert await line.ask([("INCR", key)]) == [number]
            await between.end(by_reset=by_reset)
            await asyncio.sleep(pause_s)
        await line.close()
        await client.aclose()


@pytest.mark.parametrize("by_reset", [False, True])
async def test_one_that_ends_under_a_batch_is_not_asked_a_second_time(
    redis_url: str, by_reset: bool
) -> None:
    async with Between(redis_url) as between:
        client = make_redis(between.url)
        line, key = Line(client), new_id()
        asked = asyncio.create_task(line.ask([("INCR", key), ("BLPOP", new_id(), "2")]))
        await asyncio.sleep(0.1)
        await between.end(by_reset=by_reset)
        with pytest.raises((RedisError, OSError)):
            await asked
        assert await line.ask([("INCR", key)]) == [2]
        await line.close()
        await client.aclose()


@pytest.mark.parametrize("by_reset", [False, True])
async def test_the_limiter_counts_on_over_a_connection_that_was_ended(
    redis_url: str, by_reset: bool
) -> None:
    """Whoever came then waited for ever, once, and nobody else was limited for a second."""
    async with Between(redis_url) as between, asyncio.timeout(10):
        client = make_redis(between.url)
        limiter, account = RedisLimiter(client, 5.0), new_id()
        for round_number in range(3):
            taken = [limiter.take(account, "m", 1, TIERS[4]) for _ in range(5)]
            quotas = await asyncio.gather(*taken)
            used = [quota.requests_used for quota in quotas]
            assert used == [5 * round_number + number for number in range(1, 6)]
            await between.end(by_reset=by_reset)
        assert limiter.passed_unlimited == 0
        await limiter.close()
        await client.aclose()


async def test_a_script_that_is_lost_in_the_middle_of_a_batch_counts_nobody_twice(
    redis_url: str, redis: Redis
) -> None:
    async with Between(redis_url) as between, asyncio.timeout(10):
        client = make_redis(between.url)
        limiter, account = RedisLimiter(client, 5.0), new_id()
        await limiter.take(account, "m", 10, TIERS[4])
        between.in_the_middle = redis.script_flush
        quotas = await asyncio.gather(
            *(limiter.take(account, "m", 10, TIERS[4]) for _ in range(30))
        )
        assert between.in_the_middle is None, "it did not happen"
        assert sorted(quota.requests_used for quota in quotas) == list(range(2, 32))
        now = await limiter.peek(account)
        assert (now.requests_used, now.tokens_used) == (31, 310)
        await limiter.close()
        await client.aclose()


async def test_one_that_cannot_be_made_says_so_each_time() -> None:
    client = make_redis("redis://127.0.0.1:1/0")
    line = Line(client)
    for _ in range(2):
        with pytest.raises((RedisError, OSError)):
            await line.ask([("PING",)])
    await line.close()
    await client.aclose()
