"""Two real gateways on one database and one Redis, and what happens when one of these dies."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import asyncpg
import orjson
import pytest
import pytest_asyncio

from adapters.embedded import postgres
from adapters.embedded import redis as embedded_redis
from adapters.embedded.processes import Server, Supervisor, free_port
from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.units import PostgresUnits, make_engine
from tests.e2e.asking import (
    CREDIT,
    HELLO,
    PATIENCE,
    Audit,
    Customer,
    Reply,
    arm,
    asked,
    audit,
    customer,
    reset,
    send,
)
from tests.e2e.stack import Process, Stack, register
from tests.servers import (
    Servers,
    _migrate,
    drop_database,
    fresh_database,
    fresh_redis,
    temporary_data_dir,
)

MODEL, OTHER = "gemma-4-31b", "deepseek-v4-flash"
"""Models whose only routes are the sandboxes, so that health of one is nobody else's."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two gateways and what they share."""

    stack: Stack
    a: Process
    b: Process
    first: Process
    second: Process

    async def audit(self, who: Customer) -> Audit:
        """Of a customer."""
        return await audit(self.stack.database_url, who.id)


@asynccontextmanager
async def pair_on(database_url: str, redis_url: str, **settings: str) -> AsyncIterator[Pair]:
    """Two of them, and two sandboxes."""
    stack = Stack(database_url, redis_url)
    try:
        first = await stack.sandbox("sandbox")
        second = await stack.sandbox("sandbox-2")
        urls = {"sandbox_url": f"{first.url}/v1", "sandbox_url_2": f"{second.url}/v1"}
        a = await stack.gateway("gateway-a", **urls, **settings)
        b = await stack.gateway("gateway-b", **urls, **settings)
        yield Pair(stack, a, b, first, second)
    finally:
        stack.close()


@pytest_asyncio.fixture(scope="module")
async def shared_pair(servers: Servers) -> AsyncIterator[Pair]:
    url = await fresh_database(servers)
    async with pair_on(url, await fresh_redis(servers)) as made:
        yield made
    await drop_database(servers, url)


@pytest_asyncio.fixture
async def pair(shared_pair: Pair) -> Pair:
    await reset(shared_pair.first.url)
    await reset(shared_pair.second.url)
    return shared_pair


async def until(
    true: Callable[[], Awaitable[bool]], patience_s: float = 15.0, pause_s: float = 0.05
) -> float:
    """Wait for something; the seconds that it took."""
    began = time.monotonic()
    while not await true():
        assert time.monotonic() - began < patience_s, "it did not happen in time"
        await asyncio.sleep(pause_s)
    return time.monotonic() - began


async def test_two_gateways_share_the_thirty_requests_of_a_minute(pair: Pair) -> None:
    who = await customer(pair.a.url)
    at = itertools.cycle([who, who.at(pair.b.url)])
    for turn in range(30):
        reply = await next(at).chat(MODEL if turn % 4 < 2 else OTHER, max_tokens=1)
        assert reply.status == 200, reply.raw
        assert reply.headers["x-ratelimit-remaining-requests"] == str(29 - turn)
    for url in (pair.a.url, pair.b.url):
        reply = await who.at(url).chat(MODEL)
        assert (reply.status, reply.error()["code"]) == (429, "rate_limited")
        assert 1 <= int(reply.headers["retry-after"]) <= 60
    books = await pair.audit(who)
    books.check_at_rest()
    assert len(books.records) == 30


async def test_many_at_once_through_both_do_not_pass_the_limit_together(pair: Pair) -> None:
    who = await customer(pair.a.url)
    replies = await asyncio.gather(
        *(
            who.at((pair.a if turn % 2 else pair.b).url).chat(
                MODEL if turn % 4 < 2 else OTHER, max_tokens=1
            )
            for turn in range(60)
        )
    )
    assert sorted(reply.status for reply in replies) == [200] * 30 + [429] * 30


async def seconds_until_revoked(a: Process, b: Process) -> float:
    """How long a key that was revoked at one gateway still works at the other."""
    who = await customer(a.url)
    there = who.at(b.url)
    for _ in range(3):
        assert (await there.get("/v1/auth/me")).status == 200
    (key,) = (await who.get("/v1/auth/keys")).json()["data"]
    gone = await send(a.url, "DELETE", f"/v1/auth/keys/{key['id']}", None, who.headers)
    assert gone.status == 200

    async def refused() -> bool:
        reply = await there.chat(MODEL, max_tokens=1)
        assert reply.status in {200, 401, 429}
        return reply.status == 401

    took = await until(refused, 5, 0.02)
    assert (await who.get("/v1/auth/me")).status == 401
    return took


async def test_a_key_revoked_at_one_gateway_stops_at_the_other_within_a_second(
    pair: Pair,
) -> None:
    assert max([await seconds_until_revoked(pair.a, pair.b) for _ in range(3)]) < 1.0


async def test_a_revoked_key_stops_within_a_second_with_redis_away_too(servers: Servers) -> None:
    url = await fresh_database(servers)
    async with pair_on(url, f"redis://127.0.0.1:{free_port()}/0") as pair:
        assert max([await seconds_until_revoked(pair.a, pair.b) for _ in range(3)]) < 1.0
    await drop_database(servers, url)


async def test_signing_out_everywhere_at_one_gateway_ends_sessions_at_the_other_within_a_second(
    pair: Pair,
) -> None:
    welcome = await register(pair.a.url)
    here = Customer(pair.a.url, welcome["user_id"], welcome["session_token"])
    there = here.at(pair.b.url)
    for _ in range(3):
        assert (await there.get("/v1/auth/me")).status == 200
    assert (await here.post("/v1/auth/logout/all", {})).status == 200

    async def refused() -> bool:
        return (await there.get("/v1/auth/me")).status == 401

    assert await until(refused, 5, 0.02) < 1.0
    with_key = Customer(pair.b.url, welcome["user_id"], welcome["api_key"])
    assert (await with_key.get("/v1/auth/me")).status == 200


async def test_a_breaker_that_one_gateway_opened_keeps_the_other_away(pair: Pair) -> None:
    who = await customer(pair.a.url)
    assert (await who.at(pair.b.url).chat(MODEL, max_tokens=1)).status == 200
    await reset(pair.first.url)
    await arm(pair.first.url, fault="error_500")
    for _ in range(3):
        assert (await who.chat(MODEL, max_tokens=1)).headers["x-kyma-fallback"] == "true"
    assert len(await asked(pair.first.url)) == 3
    reply = await who.at(pair.b.url).chat(MODEL, max_tokens=1)
    assert reply.headers["x-kyma-fallback-layer"] == "1"
    assert len(await asked(pair.first.url)) == 3


async def test_a_wait_that_one_gateway_was_told_keeps_the_other_away(pair: Pair) -> None:
    who = await customer(pair.a.url)
    await arm(pair.first.url, fault="rate_limit", retry_after=60, times=1)
    assert (await who.chat(OTHER, max_tokens=1)).headers["x-kyma-fallback"] == "true"
    for _ in range(5):
        reply = await who.at(pair.b.url).chat(OTHER, max_tokens=1)
        assert reply.headers["x-kyma-fallback-layer"] == "1"
    assert len(await asked(pair.first.url)) == 1


async def test_a_gateway_that_starts_later_knows_what_the_others_learned(pair: Pair) -> None:
    who = await customer(pair.a.url)
    model = "kimi-k2.5"
    await arm(pair.first.url, fault="rate_limit", retry_after=60, times=1)
    assert (await who.chat(model, max_tokens=1)).headers["x-kyma-fallback"] == "true"
    late = await pair.stack.gateway(
        "gateway-c",
        sandbox_url=f"{pair.first.url}/v1",
        sandbox_url_2=f"{pair.second.url}/v1",
    )
    reply = await who.at(late.url).chat(model, max_tokens=1)
    assert reply.headers["x-kyma-fallback-layer"] == "1"
    assert len(await asked(pair.first.url)) == 1
    assert late.stop() == 0


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Supervisor]:
    """An embedded server of the test's own."""
    supervisor = Supervisor(lambda _: None)
    try:
        await supervisor.start(server.child)
        yield supervisor
    finally:
        await supervisor.stop()


async def test_with_redis_killed_requests_pass_and_it_is_logged(servers: Servers) -> None:
    url = await fresh_database(servers)
    with temporary_data_dir() as folder:
        log = folder / "redis.log"
        server = embedded_redis.prepare(folder, log, sync=False)
        async with running(server) as redis, pair_on(url, server.url) as pair:
            who = await customer(pair.a.url)
            for at in (pair.a, pair.b):
                assert (await who.at(at.url).chat(MODEL, max_tokens=1)).status == 200
            await redis.stop()
            began = time.monotonic()
            for turn in range(40):
                at = pair.a if turn % 2 else pair.b
                reply = await who.at(at.url).chat(MODEL, max_tokens=1)
                assert reply.status == 200, reply.raw
            assert time.monotonic() - began < 20
            assert not (await who.get("/v1/auth/limits")).json()["counters_available"]
            for at in (pair.a, pair.b):
                assert "limits_unavailable" in at.said()
                await until(lambda at=at: _all_logged(at, 20))
            async with running(embedded_redis.prepare(folder, log, sync=False)):
                for at in (pair.a, pair.b):
                    await until(lambda at=at: _counts(who.at(at.url)))
            books = await pair.audit(who)
            books.check_at_rest()
            assert len(books.records) == 42
    await drop_database(servers, url)


async def _all_logged(at: Process, passed: int) -> bool:
    """The requests that passed, in however many lines; what only asked is not among them."""
    lines = [line for line in at.said().splitlines() if "requests_passed_unlimited" in line]
    return sum(orjson.loads(line)["count"] for line in lines) == passed


async def _counts(who: Customer) -> bool:
    return bool((await who.get("/v1/auth/limits")).json()["counters_available"])


async def test_with_postgres_away_everything_is_a_503_and_comes_back(servers: Servers) -> None:
    with temporary_data_dir() as folder:
        server = _postgres(folder)
        async with running(server) as database:
            url = server.url
            await asyncio.to_thread(_migrate, url)
            async with pair_on(url, await fresh_redis(servers)) as pair:
                who = await customer(pair.a.url)
                assert (await who.chat(MODEL, max_tokens=1)).status == 200
                await database.stop()
                for at in (pair.a, pair.b):
                    await _check_away(who.at(at.url))
                async with running(_postgres(folder)):
                    for at in (pair.a, pair.b):
                        await until(lambda at=at: _answers(who.at(at.url)))
                    stranger = Customer(pair.a.url, "", "ky-" + "0" * 48)
                    assert (await stranger.chat(MODEL)).status == 401
                    books = await audit(url, who.id)
                    books.check_at_rest()
                    assert {record["outcome"] for record in books.records} == {"ok"}


def _postgres(folder: Path) -> Server:
    return postgres.prepare(folder, None, folder / "pg.log", {"fsync": "off"}, sync=False)


async def _answers(who: Customer) -> bool:
    reply = await who.chat(MODEL, max_tokens=1)
    assert reply.status in {200, 503}, reply.raw
    return reply.status == 200


async def _check_away(who: Customer) -> None:
    """A known key, an unknown key, a stream, a balance, a registration: all 503, and soon."""
    unknown = Customer(who.url, "", "ky-" + "f" * 48)
    new = {"email": "late@example.com", "password": "secret1"}
    asking: list[Callable[[], Awaitable[Reply]]] = [
        lambda: who.chat(MODEL),
        lambda: who.chat(MODEL, stream=True),
        lambda: unknown.chat(MODEL),
        lambda: who.get("/v1/credits/balance"),
        lambda: who.get("/v1/auth/me"),
        lambda: who.post("/v1/auth/register", new),
        lambda: who.post("/v1/auth/login", new),
    ]
    for ask in asking * 2:
        began = time.monotonic()
        reply = await ask()
        assert (reply.status, reply.error()["code"]) == (503, "storage_unavailable"), reply.raw
        assert int(reply.headers["retry-after"]) >= 1
        assert time.monotonic() - began < 5
    assert (await send(who.url, "GET", "/readyz")).status == 503
    assert (await send(who.url, "GET", "/healthz")).status == 200
    assert (await send(who.url, "GET", "/v1/models")).status == 200


async def _load(who: Customer, session: aiohttp.ClientSession, ended: list[int]) -> None:
    """Ask again and again, in turn whole and streamed, until the gateway is gone."""
    for turn in itertools.count():
        body = {
            "model": MODEL,
            "messages": HELLO,
            "max_tokens": 30,
            "stream": bool(turn % 2),
            "sandbox": {"first_ms": 20, "delay_ms": 1},
        }
        try:
            async with session.post(
                f"{who.url}/v1/chat/completions", data=orjson.dumps(body), headers=who.headers
            ) as response:
                await response.read()
                ended.append(response.status)
        except aiohttp.ClientError:
            return


async def test_after_a_kill_in_full_load_every_nano_dollar_is_accounted_for(
    servers: Servers,
) -> None:
    url = await fresh_database(servers)
    stack = Stack(url, f"redis://127.0.0.1:{free_port()}/0")
    try:
        sandbox = await stack.sandbox()
        settings = {"sandbox_url": f"{sandbox.url}/v1", "request_timeout_s": "3"}
        gateway = await stack.gateway(**settings)
        who = await customer(gateway.url)
        ended: list[int] = []
        async with aiohttp.ClientSession(timeout=PATIENCE) as session:
            load = [asyncio.create_task(_load(who, session, ended)) for _ in range(50)]
            await asyncio.sleep(2)
            gateway.kill()
            await asyncio.gather(*load)
        await until(lambda: _nobody_writes(url))
        books = await audit(url, who.id)
        books.check()
        assert ended.count(200) == len(ended) > 50
        assert books.open_holds > 0
        assert books.held > 0
        assert books.spent == sum(record["charged"] for record in books.records) > 0
        # Who has read a whole answer has paid for it: the settlement comes before its last byte.
        assert len(books.records) >= len(ended)
        assert await sweep(url) == 0, "a hold was swept before its time"
        await _make_overdue(url)
        assert await sweep(url) == books.open_holds
        after = await audit(url, who.id)
        after.check_at_rest()
        assert after.available == CREDIT - books.spent
        assert await sweep(url) == 0
        again = await stack.gateway(**settings)
        assert (await who.at(again.url).chat(MODEL, max_tokens=1)).status == 200
        (await audit(url, who.id)).check_at_rest()
    finally:
        stack.close()
    await drop_database(servers, url)


async def _nobody_writes(url: str) -> bool:
    """Whether the dead gateway's last transactions have ended."""
    connection = await asyncpg.connect(url)
    try:
        others = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
    finally:
        await connection.close()
    return not others


async def _make_overdue(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("UPDATE open_holds SET expires_at = now() - interval '1 second'")
    finally:
        await connection.close()


async def sweep(url: str) -> int:
    """What the worker does every minute."""
    engine = make_engine(url, 2)
    units = PostgresUnits(engine)
    try:
        return await PostgresLedger(engine, units).sweep()
    finally:
        await units.close()


async def test_a_gateway_told_to_stop_lets_a_running_stream_finish(pair: Pair) -> None:
    gateway = await pair.stack.gateway("gateway-d", sandbox_url=f"{pair.first.url}/v1")
    who = await customer(gateway.url)
    body = {
        "model": MODEL,
        "messages": HELLO,
        "stream": True,
        "max_tokens": 60,
        "sandbox": {"delay_ms": 25, "chunks": 200},
    }
    async with (
        aiohttp.ClientSession(timeout=PATIENCE) as session,
        session.post(
            f"{gateway.url}/v1/chat/completions", data=orjson.dumps(body), headers=who.headers
        ) as response,
    ):
        got = await response.content.readany()
        gateway.popen.terminate()
        await asyncio.sleep(0.3)
        with pytest.raises(aiohttp.ClientConnectorError):
            await who.get("/healthz")
        got += await response.read()
    reply = Reply(200, {"content-type": "text/event-stream"}, got)
    assert reply.events()[-1] == ("", "[DONE]")
    assert reply.finish_reasons() == ["length"]
    assert await asyncio.to_thread(gateway.stop) == 0
    books = await pair.audit(who)
    books.check_at_rest()
    (record,) = books.records
    assert (record["outcome"], record["output_tokens"]) == ("ok", 60)
    assert record["charged"] > 0


async def test_a_stream_cut_by_the_end_of_the_grace_ends_as_an_error_and_costs_nothing(
    pair: Pair,
) -> None:
    gateway = await pair.stack.gateway(
        "gateway-f", sandbox_url=f"{pair.first.url}/v1", shutdown_grace_s="1"
    )
    who = await customer(gateway.url)
    body = {
        "model": MODEL,
        "messages": HELLO,
        "stream": True,
        "sandbox": {"delay_ms": 50, "chunks": 400},
    }
    async with (
        aiohttp.ClientSession(timeout=PATIENCE) as session,
        session.post(
            f"{gateway.url}/v1/chat/completions", data=orjson.dumps(body), headers=who.headers
        ) as response,
    ):
        got = await response.content.readany()
        gateway.popen.terminate()
        got += await response.read()
    name, data = Reply(200, {"content-type": "text/event-stream"}, got).events()[-1]
    assert name == "error"
    assert orjson.loads(data)["error"]["charged"] is False
    assert b"[DONE]" not in got
    assert await asyncio.to_thread(gateway.stop) == 0
    books = await pair.audit(who)
    books.check_at_rest()
    assert books.spent == 0
    assert [record["outcome"] for record in books.records] == ["cut_by_gateway"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_answer_that_is_being_charged_when_the_grace_ends_is_still_told(
    pair: Pair, stream: bool
) -> None:
    gateway = await pair.stack.gateway(
        f"gateway-h-{stream}", sandbox_url=f"{pair.first.url}/v1", shutdown_grace_s="1"
    )
    who = await customer(gateway.url)
    slow = {"fault": "slow_start", "seconds": 0.8, "key": who.id}
    asking = asyncio.create_task(who.chat(MODEL, stream=stream, sandbox=slow))
    database = await asyncpg.connect(pair.stack.database_url)
    while not await database.fetchval(
        "SELECT count(*) FROM open_holds WHERE account_id = $1", who.id
    ):
        await asyncio.sleep(0.02)
    async with database.transaction():
        await database.execute("SELECT 1 FROM balances WHERE account_id = $1 FOR UPDATE", who.id)
        gateway.popen.terminate()
        await asyncio.sleep(2.0)
    reply = await asking
    assert reply.finish_reasons() == ["stop"]
    assert not stream or reply.events()[-1] == ("", "[DONE]")
    assert await asyncio.to_thread(gateway.stop) == 0
    books = await pair.audit(who)
    books.check_at_rest()
    (record,) = books.records
    assert (record["outcome"], books.spent) == ("ok", record["charged"])
    assert books.spent > 0
    await database.close()


async def test_what_came_until_our_own_deadline_is_charged_and_nobody_is_blamed(
    pair: Pair,
) -> None:
    gateway = await pair.stack.gateway(
        "gateway-g",
        sandbox_url=f"{pair.first.url}/v1",
        sandbox_url_2=f"{pair.second.url}/v1",
        request_timeout_s="2",
    )
    who = await customer(gateway.url)
    slow = {"delay_ms": 50, "chunks": 400}
    reply = await who.chat(MODEL, stream=True, max_tokens=400, sandbox=slow)
    name, data = reply.events()[-1]
    error = orjson.loads(data)["error"]
    assert (name, error["code"], error["charged"]) == ("error", "deadline_passed", True)
    assert b"[DONE]" not in reply.raw
    assert reply.finish_reasons() == []
    books = await pair.audit(who)
    books.check_at_rest()
    (record,) = books.records
    assert record["outcome"] == "deadline_passed"
    assert record["charged"] == books.spent > 0
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["ok"]
    for _ in range(3):
        assert "x-kyma-fallback" not in (await who.chat(MODEL, max_tokens=5)).headers


async def test_a_gateway_told_to_stop_resolves_the_holds_of_clients_that_left(pair: Pair) -> None:
    gateway = await pair.stack.gateway("gateway-e", sandbox_url=f"{pair.first.url}/v1")
    who = await customer(gateway.url)
    body = {
        "model": MODEL,
        "messages": HELLO,
        "stream": True,
        "sandbox": {"delay_ms": 50, "chunks": 400},
    }
    async with aiohttp.ClientSession(timeout=PATIENCE) as session:
        for _ in range(5):
            response = await session.post(
                f"{gateway.url}/v1/chat/completions", data=orjson.dumps(body), headers=who.headers
            )
            await response.content.readany()
            response.close()
        assert await asyncio.to_thread(gateway.stop) == 0
    books = await pair.audit(who)
    books.check_at_rest()
    assert [record["outcome"] for record in books.records] == ["client_left"] * 5
