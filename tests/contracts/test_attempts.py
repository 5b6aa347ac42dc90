"""The contract of attempts: in memory and in Redis alike, over two processes, and without Redis."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from adapters.memory.keys import MemoryAttempts
from adapters.redis.attempts import RedisAttempts
from adapters.redis.client import make_redis
from kyma.errors import Code, Refusal
from kyma.flows.throttle import Throttle
from kyma.ports.runtime import Attempts
from kyma.throttles import LIMITS, Guarded

LOGIN = LIMITS[Guarded.LOGIN]
HERE, THERE = "203.0.113.9", "198.51.100.7"
ANA, BOB = "ana@example.com", "bob@example.com"


@dataclass
class Doors:
    """Two processes at one door."""

    one: Attempts
    other: Attempts


@pytest.fixture
def memory_doors() -> Doors:
    attempts = MemoryAttempts(time.monotonic)
    return Doors(attempts, attempts)


@pytest_asyncio.fixture
async def redis_doors(redis: Redis) -> Doors:
    return Doors(
        RedisAttempts(redis, trust_loopback=False), RedisAttempts(redis, trust_loopback=False)
    )


@pytest.fixture(params=["memory", "redis"])
def doors(request: pytest.FixtureRequest) -> Doors:
    """Synchronous, so that the servers start outside of any event loop."""
    found: Doors = request.getfixturevalue(f"{request.param}_doors")
    return found


async def test_both_processes_count_one_subject_together(doors: Doors) -> None:
    for turn in range(LOGIN.per_subject):
        door = doors.one if turn % 2 else doors.other
        assert await door.take(Guarded.LOGIN, f"203.0.113.{turn}", ANA) == 0.0
    for door in (doors.one, doors.other):
        wait_s = await door.take(Guarded.LOGIN, THERE, ANA)
        assert LOGIN.window_s - 30 < wait_s <= LOGIN.window_s
    assert await doors.one.take(Guarded.LOGIN, THERE, BOB) == 0.0
    assert await doors.one.take(Guarded.CODE, THERE, ANA) == 0.0


async def test_one_client_runs_out_over_many_subjects(doors: Doors) -> None:
    for turn in range(LOGIN.per_address):
        assert await doors.one.take(Guarded.LOGIN, HERE, f"{turn}@example.com") == 0.0
    assert await doors.other.take(Guarded.LOGIN, HERE, "fresh@example.com") > 0
    assert await doors.other.take(Guarded.LOGIN, THERE, "fresh@example.com") == 0.0


async def test_attempts_made_at_once_are_counted_each(doors: Doors) -> None:
    waits = await asyncio.gather(
        *(
            door.take(Guarded.LOGIN, "", ANA)
            for _ in range(LOGIN.per_subject * 2)
            for door in (doors.one, doors.other)
        )
    )
    assert sum(wait_s == 0.0 for wait_s in waits) == LOGIN.per_subject


async def test_what_succeeded_leaves_room_in_every_process(doors: Doors) -> None:
    for turn in range(LOGIN.per_address + 1):
        door = doors.one if turn % 2 else doors.other
        assert await door.take(Guarded.LOGIN, HERE, ANA) == 0.0
        await door.give_back(Guarded.LOGIN, HERE, ANA)


async def test_nobody_in_particular_is_not_counted(doors: Doors) -> None:
    waits = [await doors.one.take(Guarded.MAIL, "", "") for _ in range(50)]
    assert set(waits) == {0.0}
    await doors.one.give_back(Guarded.MAIL, "", "")


async def test_without_redis_a_process_counts_for_itself() -> None:
    nowhere = make_redis("redis://127.0.0.1:1/0")
    alone = RedisAttempts(nowhere, trust_loopback=False)
    for _ in range(LOGIN.per_subject):
        assert await alone.take(Guarded.LOGIN, HERE, ANA) == 0.0
    assert await alone.take(Guarded.LOGIN, HERE, ANA) > 0
    assert alone.alone == LOGIN.per_subject
    await alone.give_back(Guarded.LOGIN, HERE, ANA)
    assert await alone.take(Guarded.LOGIN, HERE, ANA) == 0.0
    await nowhere.aclose()


async def test_when_redis_goes_nobody_starts_from_nothing(redis: Redis, redis_url: str) -> None:
    client = make_redis(redis_url)
    door = RedisAttempts(client, trust_loopback=False)
    for _ in range(LOGIN.per_subject):
        assert await door.take(Guarded.LOGIN, HERE, ANA) == 0.0
    client.connection_pool.connection_kwargs["port"] = 1
    await client.connection_pool.disconnect()
    client.connection_pool.reset()
    assert await door.take(Guarded.LOGIN, HERE, ANA) > 0
    assert await door.take(Guarded.LOGIN, HERE, BOB) == 0.0
    assert door.alone == 1
    await client.aclose()


async def test_addresses_are_not_kept_in_redis(redis: Redis) -> None:
    door = RedisAttempts(redis, trust_loopback=False)
    await door.take(Guarded.LOGIN, HERE, ANA)
    keys = [key.decode() for key in await redis.keys("*")]
    assert len(keys) == 2
    assert not any(word in key for key in keys for word in ("ana", "203"))
    assert all([await redis.ttl(key) > 0 for key in keys])


async def test_the_refusal_says_when_to_come_back_and_nothing_of_the_subject() -> None:
    throttle = Throttle(MemoryAttempts(lambda: 0.0))
    for _ in range(LIMITS[Guarded.REGISTER].per_subject):
        await throttle.take(Guarded.REGISTER, "", ANA)
    with pytest.raises(Refusal) as caught:
        await throttle.take(Guarded.REGISTER, THERE, ANA)
    refusal = caught.value
    assert (refusal.code, refusal.retryable) == (Code.TOO_MANY_ATTEMPTS, True)
    assert refusal.retry_after_s == LIMITS[Guarded.REGISTER].window_s
    assert refusal.message == "Too many registrations. Try again in 3600 seconds."
