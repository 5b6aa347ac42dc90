"""The contract of claims on idempotency keys, on memory and on real Postgres alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from sqlalchemy import text

from adapters.memory.requests import MemoryClaims
from adapters.memory.storage import MemoryStore
from adapters.postgres.once import PostgresClaims
from adapters.postgres.units import PostgresUnits
from kyma.idempotency import KEEP_S, KnownClaim, State, digest_of, fingerprint_of
from kyma.ports.requests import Claims
from tests.builders import new_id

KEY = digest_of("order-17")
BODY = fingerprint_of("POST", "/v1/chat/completions", b'{"model":"best"}')
OTHER = fingerprint_of("POST", "/v1/chat/completions", b'{"model":"fast"}')
DAY_S = KEEP_S + 1


@dataclass
class Desk:
    """The port under test; `pass_time` makes everything written so far so much older."""

    claims: Claims
    pass_time: Callable[[float], Awaitable[None]]
    kept: Callable[[], Awaitable[int]]
    """How many sealed answers are stored, whether they may still be replayed or not."""


@pytest.fixture
def memory_desk() -> Desk:
    offset = [0.0]
    store = MemoryStore(now=lambda: datetime.now(UTC) + timedelta(seconds=offset[0]))
    claims = MemoryClaims(store)

    async def pass_time(seconds: float) -> None:
        offset[0] += seconds

    async def kept() -> int:
        return claims.kept()

    return Desk(claims, pass_time, kept)


@pytest_asyncio.fixture
async def postgres_desk(postgres_units: PostgresUnits) -> Desk:
    async def pass_time(seconds: float) -> None:
        moved = ", ".join(
            f"{column} = {column} - make_interval(secs => :by)"
            for column in ("claimed_at", "lease_until", "forget_at", "sealed_until")
        )
        async with postgres_units.unit() as connection:
            await connection.execute(
                text(f"UPDATE idempotency_claims SET {moved}"), {"by": seconds}
            )

    async def kept() -> int:
        async with postgres_units.unit() as connection:
            return int(
                await connection.scalar(text("SELECT count(sealed) FROM idempotency_claims")) or 0
            )

    return Desk(PostgresClaims(postgres_units), pass_time, kept)


@pytest.fixture(params=["memory", "postgres"])
def desk(request: pytest.FixtureRequest) -> Desk:
    """Synchronous, so that the servers start outside of any event loop."""
    found: Desk = request.getfixturevalue(f"{request.param}_desk")
    return found


async def known(desk: Desk, account: str, key: bytes = KEY) -> KnownClaim:
    """Whose the claim is, asked as a request that comes too late."""
    found = await desk.claims.claim(account, key, OTHER, new_id(), 60)
    assert found is not None
    return found


async def test_the_first_has_the_claim_and_the_second_is_told_whose_it_is(desk: Desk) -> None:
    account, first = new_id(), new_id()
    assert await desk.claims.claim(account, KEY, BODY, first, 60) is None
    found = await desk.claims.claim(account, KEY, OTHER, new_id(), 60)
    assert found is not None
    assert (found.fingerprint, found.request_id) == (BODY, first)
    assert (found.state, found.overdue, found.sealed) == (State.RUNNING, False, None)
    assert 0 <= found.age_s < 30
    assert 30 < found.left_s <= 60


async def test_of_fifty_at_once_exactly_one_has_the_claim(desk: Desk) -> None:
    account = new_id()
    ids = [new_id() for _ in range(50)]
    found = await asyncio.gather(
        *(desk.claims.claim(account, KEY, BODY, request_id, 60) for request_id in ids)
    )
    assert found.count(None) == 1
    winner = ids[found.index(None)]
    assert {one.request_id for one in found if one is not None} == {winner}


async def test_accounts_and_keys_do_not_know_of_one_another(desk: Desk) -> None:
    account = new_id()
    assert await desk.claims.claim(account, KEY, BODY, new_id(), 60) is None
    assert await desk.claims.claim(new_id(), KEY, BODY, new_id(), 60) is None
    assert await desk.claims.claim(account, digest_of("order-18"), BODY, new_id(), 60) is None


async def test_a_released_claim_is_free_again(desk: Desk) -> None:
    account, first = new_id(), new_id()
    await desk.claims.claim(account, KEY, BODY, first, 60)
    assert await desk.claims.release(account, KEY, first)
    assert not await desk.claims.release(account, KEY, first)
    assert await desk.claims.claim(account, KEY, OTHER, new_id(), 60) is None


async def test_a_finished_claim_stays_and_cannot_be_released(desk: Desk) -> None:
    account, first = new_id(), new_id()
    await desk.claims.claim(account, KEY, BODY, first, 60)
    assert await desk.claims.finish(account, KEY, first, None, 0)
    assert not await desk.claims.release(account, KEY, first)
    found = await known(desk, account)
    assert (found.request_id, found.state, found.sealed) == (first, State.FINISHED, None)


async def test_nobody_ends_anothers_claim(desk: Desk) -> None:
    account, first = new_id(), new_id()
    await desk.claims.claim(account, KEY, BODY, first, 60)
    for who, request_id in ((account, new_id()), (new_id(), first)):
        assert not await desk.claims.finish(who, KEY, request_id, b"x", 60)
        assert not await desk.claims.release(who, KEY, request_id)
        assert not await desk.claims.take_over(who, KEY, request_id, new_id(), 60)
    assert (await known(desk, account)).state is State.RUNNING


async def test_a_lease_ends_by_the_databases_clock(desk: Desk) -> None:
    account = new_id()
    await desk.claims.claim(account, KEY, BODY, new_id(), 60)
    await desk.pass_time(59)
    assert not (await known(desk, account)).overdue
    await desk.pass_time(2)
    found = await known(desk, account)
    assert found.overdue
    assert found.age_s > 60
    assert found.left_s < 0


async def test_who_was_taken_over_can_no_longer_finish_or_release(desk: Desk) -> None:
    account, dead, heir = new_id(), new_id(), new_id()
    await desk.claims.claim(account, KEY, BODY, dead, 60)
    await desk.pass_time(61)
    assert await desk.claims.take_over(account, KEY, dead, heir, 60)
    assert not await desk.claims.finish(account, KEY, dead, b"late", 60)
    assert not await desk.claims.release(account, KEY, dead)
    found = await known(desk, account)
    assert (found.request_id, found.fingerprint) == (heir, BODY)
    assert (found.state, found.overdue) == (State.RUNNING, False)
    assert found.age_s < 30
    assert await desk.claims.finish(account, KEY, heir, None, 0)


async def test_of_many_heirs_one_takes_over(desk: Desk) -> None:
    account, dead = new_id(), new_id()
    await desk.claims.claim(account, KEY, BODY, dead, 60)
    heirs = [new_id() for _ in range(20)]
    taken = await asyncio.gather(
        *(desk.claims.take_over(account, KEY, dead, heir, 60) for heir in heirs)
    )
    assert taken.count(True) == 1
    assert (await known(desk, account)).request_id == heirs[taken.index(True)]


async def test_an_overdue_lease_begins_anew_under_its_id_once(desk: Desk) -> None:
    account, first = new_id(), new_id()
    await desk.claims.claim(account, KEY, BODY, first, 60)
    assert not await desk.claims.renew(account, KEY, first, 60)
    await desk.pass_time(61)
    assert not await desk.claims.renew(account, KEY, new_id(), 60)
    renewed = await asyncio.gather(*(desk.claims.renew(account, KEY, first, 60) for _ in range(20)))
    assert renewed.count(True) == 1
    found = await known(desk, account)
    assert (found.request_id, found.fingerprint, found.overdue) == (first, BODY, False)
    assert await desk.claims.finish(account, KEY, first, None, 0)
    await desk.pass_time(61)
    assert not await desk.claims.renew(account, KEY, first, 60)


async def test_a_lease_that_was_given_up_can_be_renewed_at_once(desk: Desk) -> None:
    account, first = new_id(), new_id()
    await desk.claims.claim(account, KEY, BODY, first, 60)
    assert await desk.claims.take_over(account, KEY, first, first, 0)
    assert (await known(desk, account)).overdue
    assert await desk.claims.renew(account, KEY, first, 60)


async def test_a_key_may_be_remembered_for_less_than_a_day(desk: Desk) -> None:
    account, later = new_id(), new_id()
    await desk.claims.claim(account, KEY, BODY, new_id(), 60, 600)
    await desk.pass_time(599)
    assert (await known(desk, account)).fingerprint == BODY
    await desk.pass_time(2)
    assert await desk.claims.claim(account, KEY, OTHER, later, 60, 600) is None


async def test_a_finished_claim_is_not_taken_over(desk: Desk) -> None:
    account, first = new_id(), new_id()
    await desk.claims.claim(account, KEY, BODY, first, 60)
    await desk.claims.finish(account, KEY, first, None, 0)
    await desk.pass_time(61)
    assert not await desk.claims.take_over(account, KEY, first, new_id(), 60)


async def test_a_sealed_answer_is_shown_until_its_time_and_stored_until_tidied(
    desk: Desk,
) -> None:
    account, first = new_id(), new_id()
    await desk.claims.claim(account, KEY, BODY, first, 60)
    assert await desk.claims.finish(account, KEY, first, b"\x00sealed\xff", 600)
    assert (await known(desk, account)).sealed == b"\x00sealed\xff"
    await desk.pass_time(599)
    assert (await known(desk, account)).sealed == b"\x00sealed\xff"
    assert await desk.claims.tidy() == 0
    await desk.pass_time(2)
    found = await known(desk, account)
    assert (found.sealed, found.state) == (None, State.FINISHED)
    assert await desk.kept() == 1
    assert await desk.claims.tidy() == 1
    assert await desk.kept() == 0
    assert (await known(desk, account)).request_id == first


@pytest.mark.parametrize("tidied", [False, True])
@pytest.mark.parametrize("finished", [False, True])
async def test_after_a_day_a_key_is_new_tidied_up_or_not(
    desk: Desk, tidied: bool, finished: bool
) -> None:
    account, first, next_day = new_id(), new_id(), new_id()
    await desk.claims.claim(account, KEY, BODY, first, 60)
    if finished:
        await desk.claims.finish(account, KEY, first, b"old", DAY_S + 60)
    await desk.pass_time(KEEP_S - 60)
    assert await desk.claims.tidy() == 0
    assert (await known(desk, account)).request_id == first
    await desk.pass_time(61)
    if tidied:
        assert await desk.claims.tidy() == 1
    assert await desk.claims.claim(account, KEY, OTHER, next_day, 60) is None
    found = await known(desk, account)
    assert (found.request_id, found.fingerprint) == (next_day, OTHER)
    assert (found.state, found.sealed) == (State.RUNNING, None)
    assert await desk.kept() == 0


async def test_of_fifty_at_once_on_a_forgotten_key_exactly_one_has_the_claim(desk: Desk) -> None:
    account = new_id()
    await desk.claims.claim(account, KEY, BODY, new_id(), 60)
    await desk.pass_time(DAY_S)
    ids = [new_id() for _ in range(50)]
    found = await asyncio.gather(
        *(desk.claims.claim(account, KEY, BODY, request_id, 60) for request_id in ids)
    )
    assert found.count(None) == 1


async def test_claims_that_come_and_go_are_never_held_by_two(desk: Desk) -> None:
    """Twenty requests fight for a key; whoever has it gives it back a moment later."""
    account = new_id()
    working: set[str] = set()
    done: list[str] = []

    async def work() -> None:
        request_id = new_id()
        while await desk.claims.claim(account, KEY, BODY, request_id, 60) is not None:
            await asyncio.sleep(0.001)
        working.add(request_id)
        assert working == {request_id}
        await asyncio.sleep(0)
        working.remove(request_id)
        assert await desk.claims.release(account, KEY, request_id)
        done.append(request_id)

    async with asyncio.timeout(30):
        await asyncio.gather(*(work() for _ in range(20)))
    assert len(set(done)) == 20


async def test_tidying_takes_no_more_than_it_is_told(desk: Desk) -> None:
    account = new_id()
    for number in range(5):
        await desk.claims.claim(account, digest_of(str(number)), BODY, new_id(), 60)
    await desk.pass_time(DAY_S)
    assert await desk.claims.tidy(limit=3) == 3
    assert await desk.claims.tidy(limit=3) == 2
    assert await desk.claims.tidy(limit=3) == 0
