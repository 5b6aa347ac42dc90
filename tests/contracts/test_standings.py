"""Remembered principals: fast, and never longer than a change allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Set
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from sqlalchemy import text

from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryOverrides, MemoryStore
from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.units import PostgresUnits
from adapters.redis.client import channel, make_redis
from adapters.redis.standings import CHANNEL, MAX_REMEMBERED, RememberedPrincipals
from kyma.accounts import Account, Key
from kyma.money import ZERO, usd
from kyma.ports.storage import Accounts, Principal, Principals, StorageUnavailable
from kyma.tiers import Override
from tests.builders import NOON, a_key, a_session, an_account, new_id

NOWHERE = "redis://127.0.0.1:1/0"


@dataclass
class Source:
    """A slow store that counts its look-ups, and can be away."""

    accounts: Accounts
    away: bool = False
    takes_s: float = 0.0
    asked: int = 0
    breaks: bool = False
    """Whether it fails in a way that nobody foresaw."""

    reading: asyncio.Event = field(default_factory=asyncio.Event)
    """That a look-up has read."""

    held: asyncio.Event | None = None
    """Until when the answer of the next look-up is kept back, after it has read."""

    async def principal(self, digest: bytes) -> Principal | None:
        self.asked += 1
        if self.away:
            raise StorageUnavailable("away")
        found = await self.accounts.principal(digest)
        held, self.held = self.held, None
        self.reading.set()
        if held is not None:
            await held.wait()
        await asyncio.sleep(self.takes_s)
        return found

    async def changes(self) -> Set[tuple[str, str]]:
        if self.breaks:
            raise KeyError("changes")
        if self.away:
            raise StorageUnavailable("away")
        return await self.accounts.changes()


class Hours:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self.now + seconds, over))
        await over

    async def pass_time(self, seconds: float) -> None:
        """Whoever pauses goes on in turn, as far as it comes before it pauses again."""
        until = self.now + seconds
        while due := [each for each in self._waiting if each[0] <= until]:
            first = min(due, key=lambda each: each[0])
            self._waiting.remove(first)
            self.now, over = first
            if not over.done():
                over.set_result(None)
            await turns()
        self.now = until

    async def all_pause(self) -> None:
        """Wait until both the one who asks and the one who listens do."""
        async with asyncio.timeout(5):
            while len(self._waiting) < 2:
                await asyncio.sleep(0.01)


async def turns() -> None:
    """As many of the loop's as a task needs that waits for nothing outside of this process."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def hours() -> Hours:
    return Hours()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def source(store: MemoryStore) -> Source:
    return Source(MemoryAccounts(store))


async def a_customer(accounts: Accounts) -> tuple[Account, Key]:
    account = an_account()
    key = a_key(account)
    assert await accounts.register(account, key, a_session(account), ZERO)
    return account, key


@pytest_asyncio.fixture
async def remembering(servers: object) -> AsyncIterator[Callable[..., RememberedPrincipals]]:
    """Starts instances as so many processes would."""
    started: list[tuple[RememberedPrincipals, Redis]] = []

    def start(
        source: Principals, url: str, most: int = MAX_REMEMBERED, hours: Hours | None = None
    ) -> RememberedPrincipals:
        client = make_redis(url)
        principals = (
            RememberedPrincipals(source, client, most)
            if hours is None
            else RememberedPrincipals(source, client, most, hours.monotonic, hours.pause)
        )
        principals.start()
        started.append((principals, client))
        return principals

    yield start
    for principals, client in started:
        await principals.close()
        await client.aclose()


async def stopped(principals: RememberedPrincipals, digest: bytes, within_s: float) -> float:
    """Seconds until a secret has no owner any more."""
    began = time.monotonic()
    while await principals.principal(digest) is not None:
        assert time.monotonic() - began < within_s, "the key still works"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


async def test_an_owner_is_looked_up_once_and_remembered(
    source: Source, remembering: Callable[..., RememberedPrincipals], redis_url: str
) -> None:
    account, key = await a_customer(source.accounts)
    principals = remembering(source, redis_url)
    await asyncio.sleep(0.05)
    for _ in range(100):
        found = await principals.principal(key.digest)
        assert found is not None
        assert found.account_id == account.id
    assert source.asked == 1


async def test_all_who_ask_at_once_share_one_look_up(
    source: Source, remembering: Callable[..., RememberedPrincipals], redis_url: str
) -> None:
    _, key = await a_customer(source.accounts)
    source.takes_s = 0.05
    principals = remembering(source, redis_url)
    found = await asyncio.gather(*(principals.principal(key.digest) for _ in range(50)))
    assert source.asked == 1
    assert len(set(found)) == 1


async def test_one_who_leaves_does_not_take_the_look_up_from_the_others(
    source: Source, remembering: Callable[..., RememberedPrincipals], redis_url: str
) -> None:
    _, key = await a_customer(source.accounts)
    source.takes_s = 0.05
    principals = remembering(source, redis_url)
    first = asyncio.create_task(principals.principal(key.digest))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(principals.principal(key.digest))
    await asyncio.sleep(0.01)
    first.cancel()
    assert await second is not None
    assert source.asked == 1


async def test_a_failure_is_not_remembered(
    source: Source, remembering: Callable[..., RememberedPrincipals], redis_url: str
) -> None:
    _, key = await a_customer(source.accounts)
    principals = remembering(source, redis_url)
    source.away = True
    with pytest.raises(StorageUnavailable):
        await principals.principal(key.digest)
    source.away = False
    assert await principals.principal(key.digest) is not None


async def test_a_secret_that_is_not_there_is_asked_for_again_within_a_second(
    source: Source, remembering: Callable[..., RememberedPrincipals], redis_url: str
) -> None:
    account = an_account()
    key = a_key(account)
    principals = remembering(source, redis_url)
    await asyncio.sleep(0.05)
    for _ in range(50):
        assert await principals.principal(key.digest) is None
    assert source.asked == 1
    assert await source.accounts.register(account, key, a_session(account), ZERO)
    began = time.monotonic()
    while await principals.principal(key.digest) is None:
        assert time.monotonic() - began < 1.0
        await asyncio.sleep(0.01)


async def test_a_revocation_is_seen_by_another_process_almost_at_once(
    source: Source, remembering: Callable[..., RememberedPrincipals], redis_url: str
) -> None:
    account, key = await a_customer(source.accounts)
    here, there = remembering(source, redis_url), remembering(source, redis_url)
    await asyncio.sleep(0.15)
    assert await there.principal(key.digest) is not None
    await source.accounts.revoke_key(account.id, key.id)
    await here.forget(account.id)
    assert await here.principal(key.digest) is None
    assert await stopped(there, key.digest, 1.0) < 0.3


async def test_without_redis_a_revoked_key_stops_within_a_second(
    source: Source, remembering: Callable[..., RememberedPrincipals]
) -> None:
    account, key = await a_customer(source.accounts)
    here, there = remembering(source, NOWHERE), remembering(source, NOWHERE)
    await asyncio.sleep(0.05)
    assert await there.principal(key.digest) is not None
    await source.accounts.revoke_key(account.id, key.id)
    await here.forget(account.id)
    assert await here.principal(key.digest) is None
    await stopped(there, key.digest, 1.0)


async def test_a_process_that_cannot_ask_for_changes_trusts_nothing_after_a_second(
    source: Source, remembering: Callable[..., RememberedPrincipals], redis_url: str
) -> None:
    _, key = await a_customer(source.accounts)
    principals = remembering(source, redis_url)
    await asyncio.sleep(0.05)
    assert await principals.principal(key.digest) is not None
    source.away = True
    await asyncio.sleep(1.0)
    with pytest.raises(StorageUnavailable):
        await principals.principal(key.digest)


async def test_a_change_missed_while_the_database_was_away_is_not_believed_past_its_return(
    store: MemoryStore,
    source: Source,
    remembering: Callable[..., RememberedPrincipals],
    redis_url: str,
) -> None:
    account, key = await a_customer(source.accounts)
    principals = remembering(source, redis_url)
    await asyncio.sleep(0.05)
    assert await principals.principal(key.digest) is not None
    source.away = True
    await asyncio.sleep(1.0)
    await source.accounts.revoke_key(account.id, key.id)
    store.changes.clear()  # the note of it is older than what `changes` tells
    source.away = False
    await asyncio.sleep(0.5)
    assert await principals.principal(key.digest) is None


async def test_a_deposit_and_an_override_are_seen_without_a_word(
    store: MemoryStore,
    source: Source,
    remembering: Callable[..., RememberedPrincipals],
    redis_url: str,
) -> None:
    account, key = await a_customer(source.accounts)
    principals = remembering(source, redis_url)
    await asyncio.sleep(0.05)

    async def standing() -> tuple[int, int | None]:
        found = await principals.principal(key.digest)
        assert found is not None
        override = found.standing.override
        return found.standing.lifetime_deposits, override.level if override else None

    assert await standing() == (0, None)
    await MemoryLedger(store).deposit(new_id(), account.id, usd("5"), "test")
    await MemoryOverrides(store).add(
        Override(new_id(), account.id, 3, "ana", "a trial", NOON, None)
    )
    began = time.monotonic()
    while await standing() != (usd("5"), 3):
        assert time.monotonic() - began < 1.0
        await asyncio.sleep(0.01)


async def test_a_change_during_a_look_up_is_not_overwritten_by_what_was_read_before(
    source: Source, remembering: Callable[..., RememberedPrincipals], redis_url: str
) -> None:
    account, key = await a_customer(source.accounts)
    principals = remembering(source, redis_url)
    await asyncio.sleep(0.05)
    source.takes_s = 0.1
    early = asyncio.create_task(principals.principal(key.digest))
    await asyncio.sleep(0.02)
    await source.accounts.revoke_key(account.id, key.id)
    await principals.forget(account.id)
    await early  # it had read before the revocation
    assert await principals.principal(key.digest) is None


async def test_a_request_after_a_revocation_joins_no_look_up_that_began_before_it(
    source: Source, remembering: Callable[..., RememberedPrincipals], hours: Hours
) -> None:
    account, key = await a_customer(source.accounts)
    principals = remembering(source, NOWHERE, hours=hours)
    await turns()
    held = source.held = asyncio.Event()
    early = asyncio.create_task(principals.principal(key.digest))
    await source.reading.wait()
    await source.accounts.revoke_key(account.id, key.id)
    await principals.forget(account.id)
    late = asyncio.create_task(principals.principal(key.digest))
    await turns()
    held.set()
    assert await early is not None
    assert await late is None
    assert source.asked == 2


@pytest.mark.parametrize("answered", ["before the next request", "after it"])
async def test_a_look_up_from_before_trust_was_lost_is_neither_joined_nor_remembered(
    store: MemoryStore,
    source: Source,
    remembering: Callable[..., RememberedPrincipals],
    hours: Hours,
    answered: str,
) -> None:
    account, key = await a_customer(source.accounts)
    principals = remembering(source, NOWHERE, hours=hours)
    await turns()
    held = source.held = asyncio.Event()
    early = asyncio.create_task(principals.principal(key.digest))
    await source.reading.wait()
    source.away = True
    await hours.pass_time(1.0)
    await source.accounts.revoke_key(account.id, key.id)
    store.changes.clear()  # the note of it is older than what `changes` tells
    source.away = False
    await hours.pass_time(0.5)
    if answered == "before the next request":
        held.set()
        assert await early is not None
        assert principals.remembered == (0, 0)
    late = asyncio.create_task(principals.principal(key.digest))
    await turns()
    held.set()
    assert await early is not None
    assert await late is None
    assert source.asked == 2


async def test_when_trust_is_lost_nothing_stays_in_memory(
    source: Source, remembering: Callable[..., RememberedPrincipals], hours: Hours
) -> None:
    principals = remembering(source, NOWHERE, hours=hours)
    await turns()
    for _ in range(3):
        _, key = await a_customer(source.accounts)
        assert await principals.principal(key.digest) is not None
    assert principals.remembered == (3, 3)
    source.away = True
    await hours.pass_time(1.0)
    assert principals.remembered == (3, 3)
    source.away = False
    await hours.pass_time(0.5)
    assert principals.remembered == (0, 0)


async def test_an_account_is_in_memory_as_long_as_one_of_its_secrets(
    source: Source, remembering: Callable[..., RememberedPrincipals], hours: Hours
) -> None:
    account = an_account()
    key, session = a_key(account), a_session(account)
    assert await source.accounts.register(account, key, session, ZERO)
    _, other = await a_customer(source.accounts)
    principals = remembering(source, NOWHERE, most=2, hours=hours)
    await turns()
    for digest in (key.digest, session.digest):
        assert await principals.principal(digest) is not None
    assert principals.remembered == (2, 1)
    assert await principals.principal(other.digest) is not None
    assert principals.remembered == (2, 2)
    await principals.forget(account.id)
    assert principals.remembered == (1, 1)


async def test_a_secret_is_looked_up_again_after_ten_minutes_though_nobody_told_of_a_change(
    store: MemoryStore,
    source: Source,
    remembering: Callable[..., RememberedPrincipals],
    hours: Hours,
) -> None:
    account, key = await a_customer(source.accounts)
    principals = remembering(source, NOWHERE, hours=hours)
    await turns()
    assert await principals.principal(key.digest) is not None
    await source.accounts.revoke_key(account.id, key.id)
    store.changes.clear()  # nobody is told
    await hours.pass_time(599)
    assert await principals.principal(key.digest) is not None
    assert source.asked == 1
    await hours.pass_time(2)
    assert await principals.principal(key.digest) is None
    assert principals.remembered == (1, 0)


async def test_who_was_looked_up_again_is_not_the_first_to_be_forgotten(
    source: Source, remembering: Callable[..., RememberedPrincipals], hours: Hours
) -> None:
    keys = [(await a_customer(source.accounts))[1] for _ in range(3)]
    principals = remembering(source, NOWHERE, most=2, hours=hours)
    await turns()
    assert await principals.principal(keys[0].digest) is not None
    await hours.pass_time(300)
    assert await principals.principal(keys[1].digest) is not None
    await hours.pass_time(301)
    for key in (keys[0], keys[2]):
        assert await principals.principal(key.digest) is not None
    assert source.asked == 4
    assert await principals.principal(keys[0].digest) is not None
    assert source.asked == 4
    assert await principals.principal(keys[1].digest) is not None
    assert source.asked == 5


async def test_a_failure_that_nobody_foresaw_does_not_end_the_asking_for_changes(
    source: Source, remembering: Callable[..., RememberedPrincipals], hours: Hours
) -> None:
    account, key = await a_customer(source.accounts)
    principals = remembering(source, NOWHERE, hours=hours)
    await turns()
    source.breaks = True
    await hours.pass_time(1.0)
    source.breaks = False
    await hours.pass_time(0.5)
    for _ in range(3):
        assert await principals.principal(key.digest) is not None
    assert source.asked == 1  # trusted again
    await source.accounts.revoke_key(account.id, key.id)
    await hours.pass_time(0.5)
    assert await principals.principal(key.digest) is None


async def test_a_word_that_is_none_does_not_end_the_listening(
    source: Source,
    remembering: Callable[..., RememberedPrincipals],
    hours: Hours,
    redis: Redis,
    redis_url: str,
) -> None:
    async def tell(word: bytes | str) -> None:
        async with asyncio.timeout(5):
            while await redis.publish(channel(redis, CHANNEL), word) == 0:
                await asyncio.sleep(0.01)

    account, key = await a_customer(source.accounts)
    principals = remembering(source, redis_url, hours=hours)
    await tell(b"\xff")
    await hours.all_pause()
    await hours.pass_time(1.0)
    assert await principals.principal(key.digest) is not None
    await source.accounts.revoke_key(account.id, key.id)
    # The hours stand still, so nobody asks for changes: only a word can tell of it.
    await tell(account.id)
    await stopped(principals, key.digest, 5.0)


@pytest.mark.parametrize("table", ["api_keys", "sessions"])
async def test_on_postgres_a_row_deleted_by_hand_stops_working(
    postgres_units: PostgresUnits, remembering: Callable[..., RememberedPrincipals], table: str
) -> None:
    accounts = PostgresAccounts(postgres_units)
    account = an_account()
    key, session = a_key(account), a_session(account)
    assert await accounts.register(account, key, session, ZERO)
    digest = key.digest if table == "api_keys" else session.digest
    there = remembering(accounts, NOWHERE)
    await asyncio.sleep(0.1)
    assert await there.principal(digest) is not None
    async with postgres_units.unit() as connection:
        await connection.execute(
            text(f"DELETE FROM {table} WHERE account_id = :id"),
            {"id": account.id},
        )
    await stopped(there, digest, 1.0)
    await there.close()


async def test_no_more_are_remembered_than_may_be_and_what_left_can_still_be_forgotten(
    source: Source, remembering: Callable[..., RememberedPrincipals], redis_url: str
) -> None:
    principals = remembering(source, redis_url, most=2)
    owned = [await a_customer(source.accounts) for _ in range(3)]
    await asyncio.sleep(0.05)
    for _, key in owned:
        assert await principals.principal(key.digest) is not None
    asked = source.asked
    assert await principals.principal(owned[2][1].digest) is not None
    assert source.asked == asked
    assert await principals.principal(owned[0][1].digest) is not None
    assert source.asked == asked + 1
    for account, key in owned:
        await source.accounts.revoke_key(account.id, key.id)
        await principals.forget(account.id)
        assert await principals.principal(key.digest) is None


async def test_on_postgres_a_revocation_through_one_process_stops_the_other(
    postgres_units, remembering: Callable[..., RememberedPrincipals]
) -> None:
    """Without a word over Redis: the notes that triggers write are enough."""
    accounts = PostgresAccounts(postgres_units)
    account, key = await a_customer(accounts)
    there = remembering(accounts, NOWHERE)
    await asyncio.sleep(0.1)
    assert await there.principal(key.digest) is not None
    await accounts.revoke_key(account.id, key.id)
    await stopped(there, key.digest, 1.0)
    await there.close()


async def test_on_postgres_a_change_is_seen_though_it_was_written_long_before_it_was_committed(
    postgres_units: PostgresUnits, remembering: Callable[..., RememberedPrincipals]
) -> None:
    accounts = PostgresAccounts(postgres_units)
    account, key = await a_customer(accounts)
    source = Source(accounts)
    there = remembering(source, NOWHERE)
    async with asyncio.timeout(5):
        asked = -1
        while asked != source.asked:  # until it is answered from memory
            asked = source.asked
            assert await there.principal(key.digest) is not None
            await asyncio.sleep(0.01)
    async with postgres_units.unit() as connection:
        for statement in (
            "UPDATE api_keys SET revoked_at = now() WHERE account_id = :id",
            "UPDATE account_changes SET changed_at = changed_at - interval '30 seconds'"
            " WHERE account_id = :id",
        ):
            await connection.execute(text(statement), {"id": account.id})
    await stopped(there, key.digest, 1.0)
    await there.close()
