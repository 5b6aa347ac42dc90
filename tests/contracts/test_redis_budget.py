"""The time that Redis has: what ends a block, and what does not."""

from __future__ import annotations

import asyncio
import time

import pytest

from adapters.redis.budget import LATE_S, ROUNDS, TURNS, Budget

SHORT_S = 0.05


def cancellations() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_a_block_that_takes_too_long_ends_and_its_task_lives_on() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError), Budget(SHORT_S):
        await asyncio.sleep(5)
    assert SHORT_S <= time.monotonic() - began < 1
    assert cancellations() == 0
    for _ in range(2 * TURNS):
        await asyncio.sleep(0)


async def test_a_block_in_time_is_left_alone_then_and_later() -> None:
    with Budget(SHORT_S):
        await asyncio.sleep(0)
    await asyncio.sleep(2 * SHORT_S)
    with pytest.raises(KeyError), Budget(SHORT_S):
        raise KeyError
    await asyncio.sleep(2 * SHORT_S)
    assert cancellations() == 0


@pytest.mark.parametrize("turns", range(TURNS + 1))
async def test_a_block_that_ends_as_its_time_does_is_left_alone_whatever_the_turn(
    turns: int,
) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(5):
        done: asyncio.Future[None] = loop.create_future()

        def end_in(left: int, done: asyncio.Future[None] = done) -> None:
            if left:
                loop.call_soon(end_in, left - 1)
            elif not done.done():
                done.set_result(None)

        loop.call_later(SHORT_S / 10, end_in, turns)
        try:
            with Budget(SHORT_S / 10):
                await done
        except TimeoutError:
            assert turns >= TURNS - 2, "its answer lay in the socket"
        for _ in range(2 * TURNS):
            await asyncio.sleep(0)  # where a cancellation that came late would be felt
        assert cancellations() == 0


async def test_who_is_cancelled_by_somebody_else_is_cancelled() -> None:
    async def wait() -> None:
        with Budget(5):
            await asyncio.sleep(10)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_loop_that_was_busy_gives_it_its_time_once_more_but_not_for_ever() -> None:
    async def keep_busy() -> None:
        while True:
            time.sleep(SHORT_S + 2 * LATE_S)  # longer than the whole budget
            await asyncio.sleep(0)

    busy = asyncio.create_task(keep_busy())
    began = time.monotonic()
    with pytest.raises(TimeoutError), Budget(SHORT_S):
        await asyncio.sleep(60)
    took_s = time.monotonic() - began
    busy.cancel()
    assert took_s > 2 * (SHORT_S + LATE_S)
    assert took_s < 10 * ROUNDS * (SHORT_S + 2 * LATE_S)
