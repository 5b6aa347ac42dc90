"""The limiter's contract, in memory and on real Redis; then what only Redis can do."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from structlog.testing import capture_logs

from adapters.memory.runtime import MemoryLimiter
from adapters.redis.client import make_redis
from adapters.redis.limiter import RETURNED_AT_ONCE, RedisLimiter
from kyma.ports.runtime import Limiter, Quota
from kyma.tiers import TIERS
from tests.builders import new_id

TIER = replace(
    TIERS[0], requests_per_minute=5, model_requests_per_minute=3, tokens_per_minute=1_000
)
WIDE = replace(TIER, model_requests_per_minute=100)
WINDOW_S = 60.0


@dataclass
class Counters:
    """A limiter under test, and a way to let time pass for what one account has used."""

    limiter: Limiter
    pass_time: Callable[[str, float], Awaitable[None]]
    settle: Callable[[], Awaitable[None]]
    answers_age: bool = False
    """Whether the clock stands still, so that an answer in hand must be made older too."""

    def aged(self, quota: Quota, seconds: float) -> Quota:
        """An answer as it would be, had that much time passed since."""
        if not self.answers_age:
            return quota
        return replace(quota, counted_at=quota.counted_at - int(seconds * 1000))


async def _nothing() -> None: ...


@pytest.fixture
def memory_counters() -> Counters:
    now = [1_000.0]

    async def pass_time(_account: str, seconds: float) -> None:
        now[0] += seconds

    return Counters(MemoryLimiter(lambda: now[0]), pass_time, _nothing)


async def age(redis: Redis, account: str, seconds: float) -> None:
    """Make what is counted older: the members keep their form, their times go back."""
    key = f"kyma:rl:{{{account}}}"
    members = await redis.zrange(key, 0, -1, withscores=True)
    for member, at in members:
        await redis.zadd(key, {member: at - seconds * 1000})


@pytest_asyncio.fixture
async def redis_counters(redis: Redis) -> AsyncIterator[Counters]:
    limiter = RedisLimiter(redis, 5.0)

    async def pass_time(account: str, seconds: float) -> None:
        await age(redis, account, seconds)

    yield Counters(limiter, pass_time, lambda: asyncio.sleep(0), answers_age=True)
    await limiter.close()


@pytest.fixture(params=["memory", "redis"])
def counters(request: pytest.FixtureRequest) -> Counters:
    """Synchronous, so that the servers start outside of any event loop."""
    found: Counters = request.getfixturevalue(f"{request.param}_counters")
    return found


def figures(quota: Quota) -> tuple[str | None, int, int, int]:
    return (
        quota.limited_by,
        quota.requests_used,
        quota.model_requests_used,
        quota.tokens_used,
    )


async def test_a_request_is_counted_in_all_three_windows(counters: Counters) -> None:
    account = new_id()
    first = await counters.limiter.take(account, "m", 100, TIER)
    second = await counters.limiter.take(account, "other", 50, TIER)
    assert figures(first) == (None, 1, 1, 100)
    assert figures(second) == (None, 2, 1, 150)
    assert not first.unlimited
    assert first.retry_after_s == 0
    assert first.requests_reset_s == pytest.approx(WINDOW_S, abs=0.5)


@pytest.mark.parametrize(
    ("before", "asked", "tier", "limited_by", "used"),
    [
        ([("m", 1)] * 5, ("m", 1), WIDE, "requests", (5, 5, 5)),
        ([("m", 1)] * 3, ("m", 1), TIER, "model_requests", (3, 3, 3)),
        ([("m", 1)] * 3, ("other", 1), TIER, None, (4, 1, 4)),
        ([("m", 900)], ("m", 101), TIER, "tokens", (1, 1, 900)),
        ([("m", 900)], ("m", 100), TIER, None, (2, 2, 1_000)),
        ([], ("m", 1_001), TIER, "tokens", (0, 0, 0)),
        ([("m", 1)] * 5, ("m", 9_999), WIDE, "requests", (5, 5, 5)),
        ([("a", 1)] * 2 + [("m", 1)] * 3, ("m", 1), TIER, "requests", (5, 3, 5)),
        ([("a|b", 1)] * 3, ("a|b", 1), TIER, "model_requests", (3, 3, 3)),
        ([("модель", 1)] * 3, ("модель", 1), TIER, "model_requests", (3, 3, 3)),
    ],
)
async def test_the_limit_that_is_reached_first_is_named_and_nothing_is_counted(
    counters: Counters,
    before: list[tuple[str, int]],
    asked: tuple[str, int],
    tier: object,
    limited_by: str | None,
    used: tuple[int, int, int],
) -> None:
    account, limiter = new_id(), counters.limiter
    for model, tokens in before:
        assert (await limiter.take(account, model, tokens, tier)).limited_by is None
    quota = await limiter.take(account, *asked, tier)
    assert figures(quota) == (limited_by, *used)
    after = await limiter.peek(account)
    counted = len(before) + (limited_by is None)
    assert after.requests_used == counted


async def test_accounts_do_not_share_their_windows(counters: Counters) -> None:
    one, other = new_id(), new_id()
    for _ in range(3):
        await counters.limiter.take(one, "m", 1, TIER)
    assert (await counters.limiter.take(one, "m", 1, TIER)).limited_by == "model_requests"
    assert (await counters.limiter.take(other, "m", 1, TIER)).limited_by is None


async def test_a_peek_counts_nothing(counters: Counters) -> None:
    account = new_id()
    assert figures(await counters.limiter.peek(account)) == (None, 0, 0, 0)
    await counters.limiter.take(account, "m", 70, TIER)
    for _ in range(10):
        quota = await counters.limiter.peek(account)
        assert (quota.requests_used, quota.tokens_used) == (1, 70)


async def test_the_window_slides(counters: Counters) -> None:
    account, limiter = new_id(), counters.limiter
    await limiter.take(account, "m", 500, TIER)
    await counters.pass_time(account, 30)
    await limiter.take(account, "m", 300, TIER)
    assert (await limiter.take(account, "m", 300, TIER)).limited_by == "tokens"
    await counters.pass_time(account, 31)
    # The first is 61 s old and gone, the second is 31 s old and counts.
    assert figures(await limiter.take(account, "m", 300, TIER)) == (None, 2, 2, 600)
    await counters.pass_time(account, 61)
    assert (await limiter.peek(account)).tokens_used == 0


@pytest.mark.parametrize(
    ("ages", "asked", "limited_by", "retry_s"),
    [
        ([(50, 1)] + [(10, 1)] * 4, 1, "requests", 10),
        ([(59, 1)] + [(0, 1)] * 4, 1, "requests", 1),
        ([(40, 600), (20, 300)], 200, "tokens", 20),
        ([(40, 100), (20, 800)], 150, "tokens", 20),
        ([(40, 100), (20, 800)], 250, "tokens", 40),
    ],
)
async def test_a_refusal_says_honestly_when_to_come_back(
    counters: Counters,
    ages: list[tuple[int, int]],
    asked: int,
    limited_by: str,
    retry_s: float,
) -> None:
    account, limiter = new_id(), counters.limiter
    last = ages[0][0]
    for aged, tokens in ages:
        if aged != last:
            await counters.pass_time(account, last - aged)
            last = aged
        assert (await limiter.take(account, "m", tokens, WIDE)).limited_by is None
    if last:
        await counters.pass_time(account, last)
    quota = await limiter.take(account, "m", asked, WIDE)
    assert quota.limited_by == limited_by
    assert quota.retry_after_s == pytest.approx(retry_s, abs=0.5)
    await counters.pass_time(account, quota.retry_after_s - 0.6)
    assert (await limiter.take(account, "m", asked, WIDE)).limited_by == limited_by
    await counters.pass_time(account, 0.7)
    assert (await limiter.take(account, "m", asked, WIDE)).limited_by is None


async def test_the_wait_for_a_model_is_that_of_its_own_oldest_request(counters: Counters) -> None:
    account, limiter = new_id(), counters.limiter
    await limiter.take(account, "other", 1, TIER)
    await counters.pass_time(account, 20)
    for _ in range(3):
        await limiter.take(account, "m", 1, TIER)
    await counters.pass_time(account, 10)
    quota = await limiter.take(account, "m", 1, TIER)
    assert quota.limited_by == "model_requests"
    assert quota.retry_after_s == pytest.approx(50, abs=0.5)
    assert quota.requests_reset_s == pytest.approx(30, abs=0.5)


async def test_tokens_that_were_not_used_are_given_back(counters: Counters) -> None:
    account, limiter = new_id(), counters.limiter
    taken = await limiter.take(account, "m", 900, TIER)
    limiter.correct(account, taken, -850)
    await counters.settle()
    quota = await limiter.take(account, "m", 900, TIER)
    assert figures(quota) == (None, 2, 2, 950)


async def test_a_request_that_used_more_than_it_reserved_counts_with_all_of_it(
    counters: Counters,
) -> None:
    account, limiter = new_id(), counters.limiter
    taken = await limiter.take(account, "m", 100, TIER)
    limiter.correct(account, taken, 850)
    assert (await limiter.peek(account)).tokens_used == 950
    assert (await limiter.take(account, "m", 100, TIER)).limited_by == "tokens"


async def test_a_request_that_was_not_counted_is_not_corrected(counters: Counters) -> None:
    account, limiter = new_id(), counters.limiter
    taken = await limiter.take(account, "m", 100, TIER)
    limiter.correct(account, Quota(None, 0, 0, 0, unlimited=True), -50)
    limiter.correct(account, taken, 0)
    assert (await limiter.peek(account)).tokens_used == 100


async def test_what_is_given_back_late_buys_no_second_window(counters: Counters) -> None:
    """A slow answer returns its tokens; they must not outlive the request that reserved them."""
    account, limiter = new_id(), counters.limiter
    taken = await limiter.take(account, "m", 900, TIER)
    await counters.pass_time(account, 61)
    limiter.correct(account, counters.aged(taken, 61), -900)
    assert (await limiter.take(account, "m", 1_000, TIER)).tokens_used == 1_000
    assert (await limiter.take(account, "m", 1, TIER)).limited_by == "tokens"


async def test_what_was_given_back_leaves_the_window_with_what_was_taken(
    counters: Counters,
) -> None:
    account, limiter = new_id(), counters.limiter
    taken = await limiter.take(account, "m", 900, TIER)
    limiter.correct(account, taken, -400)
    assert (await limiter.peek(account)).tokens_used == 500
    await counters.pass_time(account, 61)
    assert figures(await limiter.take(account, "m", 10, TIER)) == (None, 1, 1, 10)


async def test_requests_at_once_pass_up_to_the_limit_and_no_further(counters: Counters) -> None:
    account, limiter = new_id(), counters.limiter
    quotas = await asyncio.gather(*(limiter.take(account, "m", 1, WIDE) for _ in range(40)))
    assert [quota.limited_by for quota in quotas].count(None) == WIDE.requests_per_minute


async def test_a_limit_of_another_tier_holds_at_once(counters: Counters) -> None:
    account, limiter = new_id(), counters.limiter
    for _ in range(3):
        await limiter.take(account, "m", 1, TIER)
    assert (await limiter.take(account, "m", 1, TIER)).limited_by == "model_requests"
    assert (await limiter.take(account, "m", 1, WIDE)).limited_by is None


async def test_two_processes_share_the_windows(redis_url: str) -> None:
    clients = [make_redis(redis_url), make_redis(redis_url)]
    one, other = (RedisLimiter(client, 5.0) for client in clients)
    account = new_id()
    taken = await asyncio.gather(
        *(limiter.take(account, "m", 1, WIDE) for limiter in (one, other) for _ in range(10))
    )
    assert [quota.limited_by for quota in taken].count(None) == WIDE.requests_per_minute
    counted = next(quota for quota in taken if quota.counted_at)
    one.correct(account, counted, -3)
    await one.close()
    assert (await other.peek(account)).tokens_used == 2
    await other.close()
    for client in clients:
        await client.aclose()


async def test_tokens_come_back_within_a_second_without_another_request(redis: Redis) -> None:
    limiter, other = RedisLimiter(redis, 5.0), RedisLimiter(redis, 5.0)
    account = new_id()
    taken = await limiter.take(account, "m", 900, TIER)
    limiter.correct(account, taken, -850)
    began = time.monotonic()
    while (quota := await other.peek(account)).tokens_used != 50:
        assert time.monotonic() - began < 1.0
        await asyncio.sleep(0.02)
    assert quota.requests_used == 1, "what only corrects is no request"
    await limiter.close()
    await other.close()


async def owing(limiter: RedisLimiter, accounts: list[str]) -> None:
    """Owe each of them 850 of 1000 tokens, all at one moment: nothing of it is returned yet."""
    taken = await asyncio.gather(*(limiter.take(each, "m", 1000, TIERS[0]) for each in accounts))
    for account, quota in zip(accounts, taken, strict=True):
        limiter.correct(account, quota, -850)


async def test_tokens_of_many_accounts_come_back_a_few_at_a_time(redis: Redis) -> None:
    limiter, other = RedisLimiter(redis, 5.0), RedisLimiter(redis, 5.0)
    accounts = [new_id() for _ in range(3 * RETURNED_AT_ONCE + 1)]
    await owing(limiter, accounts)
    async with asyncio.timeout(5):
        for account in accounts:
            while (await other.peek(account)).tokens_used != 150:
                await asyncio.sleep(0.05)
    await limiter.close()
    await other.close()


async def test_one_that_stops_returns_what_it_owes_to_all_before_it_has_stopped(
    redis: Redis,
) -> None:
    """So many that returning them a few at a time takes longer than asking for the last."""
    limiter, other = RedisLimiter(redis, 5.0), RedisLimiter(redis, 5.0)
    accounts = [new_id() for _ in range(40 * RETURNED_AT_ONCE)]
    await owing(limiter, accounts)
    await limiter.close()
    for account in (accounts[-1], *accounts):
        assert (await other.peek(account)).tokens_used == 150
    await other.close()


async def test_without_redis_requests_pass_unlimited_and_are_counted() -> None:
    client = make_redis("redis://127.0.0.1:1/0")
    limiter = RedisLimiter(client, 0.2)
    with capture_logs() as logs:
        quotas = [await limiter.take(new_id(), "m", 10**9, TIER) for _ in range(20)]
        assert all(quota.unlimited and quota.limited_by is None for quota in quotas)
        assert (await limiter.peek(new_id())).unlimited  # a question passes no limit
        assert limiter.passed_unlimited == 20
        while not (said := [line for line in logs if "count" in line]):
            await asyncio.sleep(0.05)
        assert [(line["count"], line["since_start"]) for line in said] == [(20, 20)]
        await limiter.take(new_id(), "m", 1, TIER)
        await limiter.close()
    assert logs[-1]["event"] == "requests_passed_unlimited"
    assert (logs[-1]["count"], logs[-1]["since_start"]) == (1, 21)
    await client.aclose()


async def test_a_redis_that_hangs_costs_one_request_its_patience_and_not_the_next() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client has gone
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    client = make_redis(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    limiter = RedisLimiter(client, 0.1)
    began = time.monotonic()
    assert (await limiter.take("a", "m", 1, TIER)).unlimited
    assert time.monotonic() - began < 0.5
    began = time.monotonic()
    for _ in range(100):
        assert (await limiter.take("a", "m", 1, TIER)).unlimited
    assert time.monotonic() - began < 0.1
    assert limiter.passed_unlimited == 101
    await limiter.close()
    await client.aclose()
    server.close()


async def test_an_answer_that_is_none_leaves_nobody_waiting() -> None:
    """A mistake of ours, or something that is no Redis: requests pass, and it is said."""

    async def say_something_else(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while asked := await reader.read(65_536):
            for _ in re.findall(rb"(?:^|\r\n)\*\d+\r\n", asked):
                writer.write(b"*1\r\n:1\r\n")
        writer.close()

    server = await asyncio.start_server(say_something_else, "127.0.0.1", 0)
    client = make_redis(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    limiter = RedisLimiter(client, 0.5)
    with capture_logs() as logs:
        async with asyncio.timeout(5):
            assert (await limiter.take("a", "m", 1, TIER)).unlimited
            assert (await limiter.take("a", "m", 1, TIER)).unlimited
    assert limiter.passed_unlimited == 2
    assert "limits_broken" in [line["event"] for line in logs]
    await limiter.close()
    await client.aclose()
    server.close()


async def test_a_batch_that_was_cancelled_before_it_began_keeps_nobody_waiting(
    redis: Redis,
) -> None:
    limiter = RedisLimiter(redis, 5.0)
    first = asyncio.ensure_future(limiter.take("a", "m", 1, TIER))
    before = asyncio.all_tasks()
    await asyncio.sleep(0)
    (batch,) = asyncio.all_tasks() - before
    batch.cancel()
    async with asyncio.timeout(5):
        second = await limiter.take("a", "m", 1, TIER)
        assert {(await first).requests_used, second.requests_used} == {1, 2}
        await limiter.close()


async def test_a_loop_that_was_busy_is_no_slow_redis(redis: Redis, redis_url: str) -> None:
    limiter = RedisLimiter(redis, 0.2)
    await limiter.take("a", "m", 1, TIER)  # connected, and the script is there
    other = make_redis(redis_url)
    await other.execute_command("CLIENT", "PAUSE", "400", "ALL")
    asked = asyncio.ensure_future(limiter.take("a", "m", 1, TIER))
    for _ in range(3):  # by now the script is on its way, and its time runs
        await asyncio.sleep(0)
    time.sleep(0.3)  # as what else a busy loop has to do
    quota = await asked
    assert (quota.unlimited, quota.requests_used) == (False, 2)
    assert limiter.passed_unlimited == 0
    await limiter.close()
    await other.aclose()


async def test_limits_hold_again_when_redis_is_back(redis: Redis, redis_url: str) -> None:
    limiter = RedisLimiter(redis, 5.0)
    account = new_id()
    for _ in range(5):
        await limiter.take(account, "m", 1, WIDE)
    await redis.client_kill_filter(_type="normal", skipme=True)
    quota = await limiter.take(account, "m", 1, WIDE)
    began = time.monotonic()
    while quota.unlimited:
        assert time.monotonic() - began < 3
        await asyncio.sleep(0.1)
        quota = await limiter.take(account, "m", 1, WIDE)
    assert quota.limited_by == "requests"
    await limiter.close()


async def test_a_restarted_redis_that_lost_the_script_gets_it_again(redis: Redis) -> None:
    limiter = RedisLimiter(redis, 5.0)
    account = new_id()
    await limiter.take(account, "m", 1, TIER)
    await redis.script_flush()
    quotas = await asyncio.gather(*(limiter.take(account, "m", 1, TIER) for _ in range(5)))
    assert [quota.limited_by for quota in quotas] == [None, None, *["model_requests"] * 3]
    assert not any(quota.unlimited for quota in quotas)
    assert limiter.passed_unlimited == 0
    await limiter.close()


async def test_an_idle_accounts_counters_do_not_stay_in_redis(redis: Redis) -> None:
    limiter = RedisLimiter(redis, 5.0)
    account = new_id()
    await limiter.take(account, "m", 1, TIER)
    keys = await redis.keys("kyma:*")
    assert len(keys) == 2
    for key in keys:
        assert 0 < await redis.pttl(key) <= 61_000
    await limiter.close()
