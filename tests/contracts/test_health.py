"""Health of routes: the board's contract in memory and on Redis, and what processes share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from adapters.memory.runtime import MemoryHealth
from adapters.redis.client import make_redis
from adapters.redis.health import SharedHealth
from kyma.calls import Fault
from kyma.ports.runtime import HealthBoard
from kyma.routing import TRIP_AFTER, UNKNOWN, Health, is_shut

KEY = "groq/qwen"


async def until(true: Callable[[], bool], within_s: float = 2.0) -> float:
    """Seconds until something holds."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within_s, "it did not come to be in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


def seen(board: HealthBoard, key: str = KEY) -> Health:
    return board.view().get(key, UNKNOWN)


@pytest.fixture
def memory_board() -> MemoryHealth:
    return MemoryHealth(time.time)


@pytest_asyncio.fixture
async def redis_board(redis: Redis) -> AsyncIterator[SharedHealth]:
    board = SharedHealth(redis)
    board.start()
    yield board
    await board.close()


@pytest.fixture(params=["memory", "redis"])
def board(request: pytest.FixtureRequest) -> HealthBoard:
    """Synchronous, so that the servers start outside of any event loop."""
    found: HealthBoard = request.getfixturevalue(f"{request.param}_board")
    return found


@pytest_asyncio.fixture
async def processes(redis_url: str) -> AsyncIterator[Callable[[], SharedHealth]]:
    """Starts boards as so many processes would, each with a client of its own."""
    started: list[tuple[SharedHealth, Redis]] = []

    def start() -> SharedHealth:
        client = make_redis(redis_url)
        board = SharedHealth(client)
        board.start()
        started.append((board, client))
        return board

    yield start
    for board, client in started:
        await board.close()
        await client.aclose()


async def test_what_is_seen_here_counts_here_at_once(board: HealthBoard) -> None:
    assert KEY not in board.view()
    board.succeeded(KEY, 120)
    assert seen(board).latency_ms == 120
    for _ in range(TRIP_AFTER):
        board.failed(KEY, Fault.BROKEN)
    assert is_shut(seen(board), time.time())


async def test_the_callers_own_faults_do_not_count(board: HealthBoard) -> None:
    for _ in range(10):
        board.failed(KEY, Fault.BAD_REQUEST)
    assert not is_shut(seen(board), time.time())
    assert seen(board).failures_in_a_row == 0


async def test_a_probe_keeps_the_others_away(board: HealthBoard) -> None:
    board.failed(KEY, Fault.BUSY, 0.01)
    await asyncio.sleep(0.02)
    assert not is_shut(seen(board), time.time())
    board.probing(KEY)
    assert is_shut(seen(board), time.time())


async def test_a_failure_here_is_known_there_within_a_moment(
    processes: Callable[[], SharedHealth],
) -> None:
    one, other = processes(), processes()
    await asyncio.sleep(0.1)  # both listen
    one.failed(KEY, Fault.BUSY, 30)
    took = await until(lambda: is_shut(seen(other), time.time()))
    assert took < 0.5
    assert seen(other).waits
    assert seen(other).open_until == pytest.approx(seen(one).open_until, abs=0.1)


async def test_failures_add_up_over_processes(processes: Callable[[], SharedHealth]) -> None:
    boards = [processes() for _ in range(TRIP_AFTER)]
    await asyncio.sleep(0.1)
    for board in boards:
        board.failed(KEY, Fault.BROKEN)
        await asyncio.sleep(0.05)
    for board in boards:
        await until(lambda board=board: is_shut(seen(board), time.time()))


async def test_a_probe_here_keeps_calls_away_there(processes: Callable[[], SharedHealth]) -> None:
    one, other = processes(), processes()
    await asyncio.sleep(0.1)
    one.failed(KEY, Fault.BUSY, 0.05)
    await until(lambda: seen(other).open_until > 0)
    await until(lambda: not is_shut(seen(other), time.time()))
    one.probing(KEY)
    await until(lambda: is_shut(seen(other), time.time()))


async def test_a_route_that_recovers_here_is_open_there(
    processes: Callable[[], SharedHealth],
) -> None:
    one, other = processes(), processes()
    await asyncio.sleep(0.1)
    one.failed(KEY, Fault.BUSY, 0.05)
    await until(lambda: seen(other).open_until > 0)
    await asyncio.sleep(0.1)
    one.succeeded(KEY, 100)
    await until(lambda: seen(other).open_until == 0)
    assert seen(other).ramp_from > 0


async def test_latencies_are_shared_too(processes: Callable[[], SharedHealth]) -> None:
    one, other = processes(), processes()
    await asyncio.sleep(0.1)
    one.succeeded(KEY, 100)
    one.succeeded(KEY, 200)
    await until(lambda: seen(other).latency_ms > 0)
    assert 100 <= seen(other).latency_ms <= 200


async def test_nobody_counts_their_own_words_twice(processes: Callable[[], SharedHealth]) -> None:
    one, other = processes(), processes()
    await asyncio.sleep(0.1)
    one.failed(KEY, Fault.BROKEN)
    await until(lambda: seen(other).failures_in_a_row == 1)
    assert seen(one).failures_in_a_row == 1


async def test_a_newcomer_reads_what_is_known(processes: Callable[[], SharedHealth]) -> None:
    one, other = processes(), processes()
    await asyncio.sleep(0.1)
    one.failed(KEY, Fault.DENIED)
    one.succeeded("fireworks/kimi", 80)
    await until(lambda: seen(other, "fireworks/kimi").latency_ms > 0)
    newcomer = processes()
    await until(lambda: KEY in newcomer.view())
    assert seen(newcomer) == seen(one)
    assert seen(newcomer, "fireworks/kimi") == seen(one, "fireworks/kimi")


async def test_without_redis_a_process_goes_on_with_what_it_sees() -> None:
    client = make_redis("redis://127.0.0.1:1/0")
    board = SharedHealth(client)
    board.start()
    for _ in range(TRIP_AFTER):
        board.failed(KEY, Fault.TIMEOUT)
    await asyncio.sleep(0.05)
    assert is_shut(seen(board), time.time())
    await board.close()
    await client.aclose()
