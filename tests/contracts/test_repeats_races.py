"""A key that is created once under an idempotency key: on memory and on real Postgres alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson
import pytest
import pytest_asyncio
from sqlalchemy import text

from adapters.memory.keys import MemoryKeys
from adapters.memory.requests import MemoryClaims
from adapters.memory.storage import MemoryAccounts, MemoryStore
from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.keys import PostgresKeys
from adapters.postgres.once import PostgresClaims
from adapters.postgres.units import PostgresUnits
from adapters.system import HmacDigests, SystemChance, SystemClock
from adapters.vault import AesVault
from kyma.errors import Code, Refusal
from kyma.flows.keys import Issued, KeySettings, Wish
from kyma.flows.once import Claim, Replay
from kyma.flows.repeats import LEASE_S, SHORT, Repeats
from kyma.idempotency import StoredAnswer, fingerprint_of
from kyma.money import usd
from kyma.ports.requests import Claims
from kyma.ports.storage import Accounts, Keys, Principal
from tests.builders import a_key, a_session, an_account, new_id

KEY = "7d4e9f0c-3b1a-4c7e-9a55-2f6f0d1f8b11"
SECRET = "ky-" + "0123456789abcdef" * 3
BODY = fingerprint_of("POST", "/v1/auth/keys", b'{"name":"one"}')
WISH = Wish("one")


class Everybody:
    """The `Invalidations` port: no process remembers anything."""

    async def forget(self, account_id: str) -> None:
        assert account_id


@dataclass
class House:
    """The flows over one store; `pass_time` makes every claim so much older."""

    accounts: Accounts
    repeats: Repeats
    keys: KeySettings
    pass_time: Callable[[float], Awaitable[None]]

    async def customer(self) -> Principal:
        account = an_account()
        key = a_key(account)
        assert await self.accounts.register(account, key, a_session(account), usd("5"))
        found = await self.accounts.principal(key.digest)
        assert found is not None
        return found

    async def begin(self, who: Principal) -> Claim | Replay:
        return await self.repeats.begin(who.account_id, SECRET, KEY, BODY, new_id(), SHORT)

    async def make(self, who: Principal, claim: Claim) -> Issued:
        return await self.keys.create(who, WISH, claim.request_id)

    async def client(self, who: Principal) -> tuple[str, str]:
        """Asks until it is told; the key's id and its secret."""
        while True:
            try:
                begun = await self.begin(who)
            except Refusal as refusal:
                if refusal.code is not Code.IDEMPOTENCY_IN_PROGRESS:
                    raise
                await asyncio.sleep(0.002)
                continue
            if isinstance(begun, Claim):
                made = await self.make(who, begun)
                body = orjson.dumps([made.key.id, made.secret])
                await self.repeats.finish(begun, StoredAnswer(201, "application/json", body))
                return made.key.id, made.secret
            assert begun.answer is not None
            id, secret = orjson.loads(begun.answer.body)
            return id, secret

    async def made(self, who: Principal) -> list[str]:
        found = await self.accounts.keys(who.account_id)
        return [key.id for key in found if key.name == WISH.name]


def a_house(
    accounts: Accounts, keys: Keys, claims: Claims, pass_time: Callable[[float], Awaitable[None]]
) -> House:
    digests = HmacDigests("test-pepper-" + "0" * 32)
    settings = KeySettings(accounts, keys, Everybody(), digests, SystemClock(), SystemChance())
    return House(accounts, Repeats(claims, AesVault(), digests), settings, pass_time)


@pytest.fixture
def memory_house() -> House:
    offset = [0.0]
    store = MemoryStore(now=lambda: datetime.now(UTC) + timedelta(seconds=offset[0]))

    async def pass_time(seconds: float) -> None:
        offset[0] += seconds

    return a_house(MemoryAccounts(store), MemoryKeys(store), MemoryClaims(store), pass_time)


@pytest_asyncio.fixture
async def postgres_house(postgres_units: PostgresUnits) -> House:
    async def pass_time(seconds: float) -> None:
        moved = ", ".join(
            f"{column} = {column} - make_interval(secs => :by)"
            for column in ("claimed_at", "lease_until", "forget_at", "sealed_until")
        )
        async with postgres_units.unit() as connection:
            await connection.execute(
                text(f"UPDATE idempotency_claims SET {moved}"), {"by": seconds}
            )

    units = postgres_units
    return a_house(PostgresAccounts(units), PostgresKeys(units), PostgresClaims(units), pass_time)


@pytest.fixture(params=["memory", "postgres"])
def house(request: pytest.FixtureRequest) -> House:
    """Synchronous, so that the servers start outside of any event loop."""
    found: House = request.getfixturevalue(f"{request.param}_house")
    return found


async def test_twenty_clients_with_one_key_are_told_of_one_new_key(house: House) -> None:
    who = await house.customer()
    async with asyncio.timeout(60):
        told = await asyncio.gather(*(house.client(who) for _ in range(20)))
    assert len(set(told)) == 1
    assert await house.made(who) == [told[0][0]]


@pytest.mark.parametrize("made", [False, True], ids=["before", "after"])
async def test_a_process_that_died_before_or_after_it_made_a_key_is_replaced_by_one(
    house: House, made: bool
) -> None:
    who = await house.customer()
    dead = await house.begin(who)
    assert isinstance(dead, Claim)
    if made:
        await house.make(who, dead)
    with pytest.raises(Refusal) as early:
        await house.begin(who)
    assert early.value.code is Code.IDEMPOTENCY_IN_PROGRESS
    await house.pass_time(LEASE_S + 1)
    async with asyncio.timeout(60):
        told = await asyncio.gather(*(house.client(who) for _ in range(10)))
    assert set(told) == {(dead.request_id, told[0][1])}
    assert await house.made(who) == [dead.request_id]
    digest = HmacDigests("test-pepper-" + "0" * 32).digest(told[0][1])
    found = await house.accounts.principal(digest)
    assert found is not None
    assert found.key_id == dead.request_id


async def test_heirs_that_die_one_after_the_other_leave_one_key(house: House) -> None:
    who = await house.customer()
    for _ in range(3):
        heir = await house.begin(who)
        assert isinstance(heir, Claim)
        await house.make(who, heir)
        await house.pass_time(LEASE_S + 1)
    id, _ = await house.client(who)
    assert await house.made(who) == [id]


async def test_work_whose_end_is_unknown_goes_on_at_once_under_its_id(house: House) -> None:
    who = await house.customer()
    first = await house.begin(who)
    assert isinstance(first, Claim)
    await house.repeats.lapse(first)
    again = await house.begin(who)
    assert isinstance(again, Claim)
    assert again.request_id == first.request_id


async def test_a_released_key_is_free_for_another_body(house: House) -> None:
    who = await house.customer()
    first = await house.begin(who)
    assert isinstance(first, Claim)
    await house.repeats.release(first)
    other = fingerprint_of("POST", "/v1/auth/keys", b'{"name":"two"}')
    begun = await house.repeats.begin(who.account_id, SECRET, KEY, other, new_id(), SHORT)
    assert isinstance(begun, Claim)
    assert begun.request_id != first.request_id


async def test_an_account_of_the_same_request_is_not_made_again(house: House) -> None:
    """Also where no address is taken, so that nothing else would stop it."""
    first = an_account()
    assert await house.accounts.register(first, a_key(first), a_session(first), usd("5"))
    again = an_account()
    again = type(again)(first.id, again.email, again.password_hash, again.created_at, bound=False)
    assert not await house.accounts.register(again, a_key(again), a_session(again), usd("5"))
