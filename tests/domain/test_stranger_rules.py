"""The limit of an address that shows no known key: how much at once, and when it is back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kyma.errors import Code
from kyma.strangers import MINUTE_NS, PER_MINUTE, Left, Strangers, beyond
from kyma.throttles import LOOPBACK, MAX_TRACKED

HERE = "203.0.113.9"
STEP_MS = 60_000 // PER_MINUTE
"""How long it takes until one request is back."""

SCHEDULES = st.lists(
    st.tuples(st.integers(0, 70_000) | st.integers(0, 2 * STEP_MS), st.integers(1, 700)),
    min_size=1,
    max_size=6,
)
"""Milliseconds of silence, and how many requests come at once after it."""


def strangers(*, trust_loopback: bool = False) -> Strangers:
    return Strangers(trust_loopback=trust_loopback)


def admitted(door: Strangers, schedule: list[tuple[int, int]]) -> list[int]:
    """When requests passed, in milliseconds."""
    passed, now_ms = [], 0
    for pause_ms, requests in schedule:
        now_ms += pause_ms
        for _ in range(requests):
            if door.take(HERE, now_ms / 1000).wait_s == 0:
                passed.append(now_ms)
    return passed


def test_so_many_pass_at_once_and_the_next_waits_for_its_share_of_the_minute() -> None:
    door = strangers()
    told = [door.take(HERE, 0.0) for _ in range(PER_MINUTE)]
    assert [left.remaining for left in told] == [*range(PER_MINUTE - 1, -1, -1)]
    assert {left.wait_s for left in told} == {0.0}
    assert door.take(HERE, 0.0) == Left(PER_MINUTE, 0, 0.1, 0.1)
    assert door.take(HERE, 0.075) == Left(PER_MINUTE, 0, 0.025, 0.025)
    assert door.take(HERE, 0.1) == Left(PER_MINUTE, 0, 0.1)


def test_after_a_minute_of_silence_all_is_back() -> None:
    door = strangers()
    for _ in range(PER_MINUTE):
        door.take(HERE, 5.0)
    assert door.look(HERE, 35.0).remaining == PER_MINUTE // 2
    assert door.look(HERE, 65.0) == Left(PER_MINUTE, PER_MINUTE, 0.0)


def test_looking_does_not_count_and_neither_does_what_is_refused() -> None:
    door = strangers()
    assert {door.look(HERE, 1.0) for _ in range(5)} == {Left(PER_MINUTE, PER_MINUTE, 0.0)}
    for _ in range(PER_MINUTE):
        door.take(HERE, 1.0)
    assert len({door.take(HERE, 1.0) for _ in range(1000)}) == 1
    assert door.take(HERE, 1.1).wait_s == 0


@given(SCHEDULES)
def test_in_no_time_pass_more_than_the_limit_and_what_came_back(
    schedule: list[tuple[int, int]],
) -> None:
    passed = admitted(strangers(), schedule)
    times = sorted(set(passed))
    for first in times:
        for last in times[times.index(first) :]:
            within = sum(first <= at <= last for at in passed)
            assert within * STEP_MS <= 60_000 + last - first


@given(SCHEDULES, st.integers(0, 70_000))
def test_as_many_as_are_told_to_be_left_pass_and_one_more_when_it_is_told(
    schedule: list[tuple[int, int]], pause_ms: int
) -> None:
    door = strangers()
    admitted(door, schedule)
    now = (sum(pause for pause, _ in schedule) + pause_ms) / 1000
    before = door.look(HERE, now)
    told = [door.take(HERE, now) for _ in range(before.remaining)]
    assert all(left.wait_s == 0 for left in told)
    assert [a.remaining - b.remaining for a, b in pairwise([before, *told])] == [1] * len(told)
    refused = door.take(HERE, now)
    assert refused.remaining == 0
    assert refused.wait_s == refused.reset_s > 0
    assert door.take(HERE, now + refused.wait_s - 0.001).wait_s > 0
    assert door.take(HERE, now + refused.wait_s).wait_s == 0


@given(SCHEDULES, st.integers(0, 70_000))
def test_the_reset_is_when_one_more_is_left_and_not_before(
    schedule: list[tuple[int, int]], pause_ms: int
) -> None:
    door = strangers()
    admitted(door, schedule)
    now = (sum(pause for pause, _ in schedule) + pause_ms) / 1000
    left = door.look(HERE, now)
    if left.remaining == PER_MINUTE:
        assert left.reset_s == 0
        return
    assert 0 < left.reset_s <= STEP_MS / 1000
    assert door.look(HERE, now + left.reset_s).remaining == left.remaining + 1
    assert door.look(HERE, now + left.reset_s - 0.0005).remaining == left.remaining


def test_each_client_has_its_own_and_a_network_of_ipv6_is_one() -> None:
    door = strangers()
    for address in (HERE, "203.0.113.10", "2001:db8:1:2::1", "2001:db8:1:3::1", ""):
        assert door.take(address, 0.0).remaining == PER_MINUTE - 1
    assert door.take("2001:db8:1:2:ffff::9", 0.0).remaining == PER_MINUTE - 2
    assert door.take(f"::ffff:{HERE}", 0.0).remaining == PER_MINUTE - 2


def test_where_this_machine_is_trusted_it_has_more_as_one_client_but_not_without_end() -> None:
    door, limit = strangers(trust_loopback=True), PER_MINUTE * LOOPBACK
    assert MINUTE_NS % limit == MINUTE_NS % PER_MINUTE == 0
    assert door.take("127.0.0.1", 0.0) == Left(limit, limit - 1, 0.001)
    for address in ("::1", "127.8.9.1", "::ffff:127.0.0.1"):
        door.take(address, 0.0)
    assert door.look("127.0.0.1", 0.0).remaining == limit - 4
    assert door.look(HERE, 0.0).limit == PER_MINUTE
    assert strangers().look("127.0.0.1", 0.0).limit == PER_MINUTE


def test_no_more_addresses_are_remembered_than_fit_and_the_one_used_last_is_kept() -> None:
    door = strangers()
    names = [f"address {number}" for number in range(MAX_TRACKED)]
    for name in names:
        door.take(name, 0.0)
    door.take(names[0], 0.0)
    door.take("one more", 0.0)
    assert door.look(names[0], 0.0).remaining == PER_MINUTE - 2
    assert door.look(names[1], 0.0).remaining == PER_MINUTE
    assert door.look("one more", 0.0).remaining == PER_MINUTE - 1


@pytest.mark.parametrize(("wait_s", "words"), [(0.1, "in 1 second."), (1.5, "in 2 seconds.")])
def test_who_is_beyond_hears_until_when_and_that_keys_are_not_meant(
    wait_s: float, words: str
) -> None:
    refusal = beyond(Left(PER_MINUTE, 0, wait_s, wait_s))
    assert (refusal.code, refusal.retry_after_s, refusal.charged, refusal.retryable) == (
        Code.RATE_LIMITED, wait_s, False, True,
    )  # fmt: skip
    for said in (words, "600 requests/minute", "a valid key are not affected", "Nothing was"):
        assert said in refusal.message
