"""One key under many hands at once, ledger included: on memory and on real Postgres alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from adapters.memory.requests import MemoryClaims, MemoryReceipts
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.once import PostgresClaims
from adapters.postgres.receipts import PostgresReceipts
from adapters.vault import AesVault
from kyma.errors import Code, Refusal
from kyma.flows.once import Claim, Once, Replay
from kyma.generations import Status
from kyma.idempotency import StoredAnswer, fingerprint_of
from kyma.ledger import Kind, Outcome, Resolution
from kyma.money import Usd, usd
from kyma.ports.requests import Receipts
from kyma.ports.storage import Accounts, Ledger, Principal
from tests.builders import a_key, a_record, a_session, an_account, new_id

CREDIT, HOLD, BILL = usd("5"), usd("0.10"), usd("0.03")
BODY = fingerprint_of("POST", "/v1/chat/completions", b"{}")
SECRET = "ky-" + "0123456789abcdef" * 3
ANSWER = StoredAnswer(200, "application/json", b'{"said": "hello"}')


@dataclass
class House:
    """The flow over one store."""

    once: Once
    accounts: Accounts
    ledger: Ledger
    receipts: Receipts

    async def customer(self, replay_minutes: int = 0) -> Principal:
        account = an_account()
        key = a_key(account)
        assert await self.accounts.register(account, key, a_session(account), CREDIT)
        found = await self.accounts.principal(key.digest)
        assert found is not None
        return Principal(found.account_id, found.key_id, "", found.standing, replay_minutes)

    async def begin(self, who: Principal, key: str, ttl_s: float = 600) -> Claim | Replay:
        return await self.once.begin(who, key, BODY, new_id(), ttl_s, SECRET)

    async def hold(self, claim: Claim) -> None:
        held = await self.ledger.hold(claim.request_id, claim.account_id, HOLD, 600)
        assert held.outcome is Outcome.DONE

    async def settle(self, claim: Claim) -> Outcome:
        record = a_record(claim.account_id, claim.request_id)
        how = Resolution(claim.request_id, Kind.SETTLE, BILL)
        return (await self.ledger.resolve(how, record)).outcome

    async def work(self, who: Principal, key: str) -> str:
        """What a client does that will have an answer: ask until there is one; its request."""
        while True:
            try:
                begun = await self.begin(who, key)
            except Refusal as refusal:
                if refusal.code is not Code.IDEMPOTENCY_IN_PROGRESS:
                    raise
                await asyncio.sleep(0.002)
                continue
            if isinstance(begun, Replay):
                assert begun.generation is not None
                assert begun.generation.status is Status.COMPLETED
                return begun.request_id
            await self.hold(begun)
            await asyncio.sleep(0.002)
            assert await self.settle(begun) is Outcome.DONE
            await self.once.finish(begun, ANSWER)
            return begun.request_id

    async def spent(self, who: Principal) -> Usd:
        balance = await self.ledger.balance(who.account_id)
        assert balance.held == 0
        return Usd(CREDIT - balance.available)


@pytest.fixture
def memory_house() -> House:
    store = MemoryStore()
    ledger, receipts = MemoryLedger(store), MemoryReceipts(store)
    once = Once(MemoryClaims(store), receipts, ledger, AesVault())
    return House(once, MemoryAccounts(store), ledger, receipts)


@pytest_asyncio.fixture
async def postgres_house(postgres_engine, postgres_units) -> AsyncIterator[House]:
    ledger = PostgresLedger(postgres_engine, postgres_units)
    receipts = PostgresReceipts(postgres_units)
    once = Once(PostgresClaims(postgres_units), receipts, ledger, AesVault())
    yield House(once, PostgresAccounts(postgres_units), ledger, receipts)
    await ledger.close()


@pytest.fixture(params=["memory", "postgres"])
def house(request: pytest.FixtureRequest) -> House:
    """Synchronous, so that the servers start outside of any event loop."""
    found: House = request.getfixturevalue(f"{request.param}_house")
    return found


async def test_thirty_clients_with_one_key_get_one_outcome_for_one_price(house: House) -> None:
    who = await house.customer()
    async with asyncio.timeout(60):
        ids = await asyncio.gather(*(house.work(who, "order-17") for _ in range(30)))
    assert len(set(ids)) == 1
    assert await house.spent(who) == BILL
    assert (await house.ledger.health()).sound


async def test_whoever_wins_between_a_late_settlement_and_its_heirs_one_is_charged(
    house: House,
) -> None:
    """The first request seems dead, and settles just while others take its place."""
    for number in range(15):
        who = await house.customer()
        slow = await house.begin(who, "order-17", ttl_s=0)
        assert isinstance(slow, Claim)
        await house.hold(slow)

        async def late(claim: Claim = slow, pause: int = number) -> Outcome:
            await asyncio.sleep(pause / 2000)
            return await house.settle(claim)

        async with asyncio.timeout(60):
            settled, *ids = await asyncio.gather(
                late(), *(house.work(who, "order-17") for _ in range(6))
            )
        assert settled in {Outcome.DONE, Outcome.ALREADY_EXPIRED}
        assert len(set(ids)) == 1
        assert (ids[0] == slow.request_id) is (settled is Outcome.DONE)
        assert await house.spent(who) == BILL
    assert (await house.ledger.health()).sound


async def test_an_answer_is_kept_in_the_database_and_opened_by_its_callers_secret(
    house: House,
) -> None:
    who = await house.customer(replay_minutes=10)
    first = await house.work(who, "order-17")
    replay = await house.begin(who, "order-17")
    assert isinstance(replay, Replay)
    assert (replay.request_id, replay.answer) == (first, ANSWER)
    stranger = await house.once.begin(who, "order-17", BODY, new_id(), 600, SECRET[::-1])
    assert isinstance(stranger, Replay)
    assert stranger.answer is None
