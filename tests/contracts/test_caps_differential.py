"""Memory and Postgres agree on monthly caps: any sequence of caps, holds, ends and reversals.

Keys get caps, have them raised, lowered and lifted, while holds of several keys of one account
come singly and in batches. After every step what each key has spent and reserved is the same on
both, and a hold that passed left its key within its cap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import pytest_asyncio
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from adapters.memory.keys import MemoryKeys
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.keys import PostgresKeys
from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.units import PostgresUnits, make_engine
from kyma.accounts import Key
from kyma.ledger import Kind, Outcome, Resolution
from kyma.money import ZERO, Usd
from kyma.ports.storage import Accounts, Held, Keys
from tests.builders import a_key, a_record, a_session, an_account, new_id

ACCOUNTS = 2
KEYS = 4
"""Two of each account; the one after the last is none, as a session's."""

NAMES = 24
GIVEN = Usd(10)
PAID = Usd(90)
"""So little that what goes back to a payer is often in a hold that counts against a cap."""

names = st.integers(0, NAMES - 1)
amounts = st.integers(0, 40).map(Usd)


@dataclass(frozen=True)
class DoHold:
    name: int
    key: int
    amount: Usd
    ttl_s: int


@dataclass(frozen=True)
class DoEnd:
    name: int
    kind: Kind
    bill: Usd


@dataclass(frozen=True)
class DoCap:
    key: int
    cap: Usd | None


@dataclass(frozen=True)
class DoSweep:
    """Return what is overdue."""


@dataclass(frozen=True)
class DoTake:
    """So much of what an account paid goes back, of its holds too."""

    account: int
    amount: Usd


@dataclass(frozen=True)
class Together:
    operations: tuple[DoHold | DoEnd, ...]


@dataclass
class Place:
    """One implementation, and the ids that an example uses on both."""

    accounts: Accounts
    keys: Keys
    ledger: MemoryLedger | PostgresLedger
    ids: Ids

    async def run(self, step: DoHold | DoEnd | DoCap | DoTake | DoSweep) -> object:
        ids = self.ids
        if isinstance(step, DoTake):
            deposit = ids.deposits[step.account]
            return await self.ledger.reverse(new_id(), deposit, step.amount, "test")
        if isinstance(step, DoHold):
            key = ids.keys[step.key]
            return await self.ledger.hold(
                ids.names[step.name],
                ids.owner(step.key),
                step.amount,
                step.ttl_s,
                key.id if key else "",
            )
        if isinstance(step, DoEnd):
            id = ids.names[step.name]
            bill = step.bill if step.kind is Kind.SETTLE else ZERO
            used = ids.keys[ids.placed.get(step.name, KEYS)]
            record = a_record(ids.accounts[0], id, key_id=used.id if used else "")
            if used is not None:
                record = replace(record, account_id=used.account_id)
            return await self.ledger.resolve(Resolution(id, step.kind, bill), record)
        if isinstance(step, DoCap):
            return await self._cap(step)
        return await self.ledger.sweep()

    async def _cap(self, step: DoCap) -> object:
        key = self.ids.keys[step.key]
        assert key is not None

        def decide(key: Key) -> Key:
            return replace(key, policy=replace(key.policy, monthly_cap=step.cap))

        changed = await self.keys.edit(key.account_id, key.id, decide)
        assert changed is not None
        return changed.policy.monthly_cap

    async def months(self) -> list[object]:
        return [dict(await self.keys.months(account)) for account in self.ids.accounts]


@dataclass
class Ids:
    accounts: Sequence[str]
    keys: Sequence[Key | None]
    names: Sequence[str]
    deposits: Sequence[str]
    placed: dict[int, int] = field(default_factory=dict)
    """By which key a name was first held."""

    def owner(self, key: int) -> str:
        return self.accounts[key * ACCOUNTS // (KEYS + 1)]


key_numbers = st.integers(0, KEYS)
holds = st.builds(DoHold, names, key_numbers, amounts, st.sampled_from([600, 600, 600, 0]))
ends = st.builds(
    DoEnd, names, st.sampled_from([Kind.SETTLE, Kind.SETTLE, Kind.REFUND, Kind.EXPIRE]), amounts
)
cap = st.none() | st.integers(0, 60).map(Usd)
caps = st.builds(DoCap, st.integers(0, KEYS - 1), cap)
batches = st.builds(Together, st.lists(holds | ends, min_size=2, max_size=10).map(tuple))
takes = st.builds(DoTake, st.integers(0, ACCOUNTS - 1), st.integers(1, 60).map(Usd))
later = st.lists(
    st.one_of(holds, ends, caps, takes, st.just(DoSweep()), batches), min_size=6, max_size=40
)
sequences = st.tuples(st.lists(cap, min_size=KEYS, max_size=KEYS), later).map(
    lambda drawn: [*(DoCap(key, cap) for key, cap in enumerate(drawn[0])), *drawn[1]]
)


def in_order(batch: Together) -> list[list[DoHold | DoEnd]]:
    """As the batcher does it: no id twice in one transaction, resolutions before holds."""
    rounds: list[list[DoHold | DoEnd]] = []
    left = list(batch.operations)
    while left:
        first = [
            one for at, one in enumerate(left) if all(one.name != other.name for other in left[:at])
        ]
        taken = {id(one) for one in first}
        left = [one for one in left if id(one) not in taken]
        rounds.append(sorted(first, key=lambda one: isinstance(one, DoHold)))
    return rounds


class Runner:
    """An event loop beside pytest's, for a test that Hypothesis calls again and again."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self.run = self._runner.run
        engine = make_engine(url, 3)
        self.units = PostgresUnits(engine)
        self.ledger = PostgresLedger(engine, self.units)

    def place(self, ids: Ids) -> Place:
        return Place(PostgresAccounts(self.units), PostgresKeys(self.units), self.ledger, ids)

    def close(self) -> None:
        self.run(self.ledger.close())
        self.run(self.units.close())
        self._runner.close()


@pytest_asyncio.fixture
async def postgres(database_url: str) -> AsyncIterator[Runner]:
    runner = Runner(database_url)
    yield runner
    await asyncio.to_thread(runner.close)


async def _open(place: Place) -> None:
    for id in place.ids.accounts:
        account = replace(an_account(f"{id}@example.com"), id=id)
        first = a_key(account)
        assert await place.accounts.register(account, first, a_session(account), GIVEN)
        deposit = place.ids.deposits[place.ids.accounts.index(id)]
        assert await place.ledger.deposit(deposit, id, PAID, "test") is Outcome.DONE
        for key in place.ids.keys:
            if key is not None and key.account_id == id:
                await place.keys.create(key)


def _fresh() -> Ids:
    accounts = [new_id() for _ in range(ACCOUNTS)]
    ids = Ids(accounts, [], [new_id() for _ in range(NAMES)], [new_id() for _ in accounts])
    ids.keys = [
        replace(a_key(an_account()), account_id=ids.owner(number)) for number in range(KEYS)
    ] + [None]
    return ids


async def _compare(postgres: Runner, sequence: Sequence[object]) -> None:
    ids = _fresh()
    store = MemoryStore()
    memory = Place(MemoryAccounts(store), MemoryKeys(store), MemoryLedger(store), ids)
    real = postgres.place(ids)
    await _open(memory)
    await _open(real)
    while await real.ledger.sweep():
        pass  # what examples before this one left overdue
    for step in sequence:
        if isinstance(step, Together):
            for operations in in_order(step):
                expected = []
                for one in operations:
                    expected.append(await memory.run(one))
                    _note(ids, one, expected[-1])
                answered = list(await asyncio.gather(*(real.run(one) for one in operations)))
                assert answered == expected, step
        else:
            before = _reserved(store)
            expected = [await memory.run(step)]
            if isinstance(step, DoTake):
                event(f"capped holds were bitten: {_reserved(store) < before}")
            if isinstance(step, DoHold):
                _note(ids, step, expected[0])
            answered = [await real.run(step)]
            assert answered == expected, step
        months = await memory.months()
        assert await real.months() == months, step
        if isinstance(step, DoHold) and isinstance(expected[0], Held):
            _within(step, expected[0].outcome, ids, store)
    for id in ids.accounts:
        assert await real.ledger.balance(id) == await memory.ledger.balance(id)


def _note(ids: Ids, step: object, answer: object) -> None:
    if isinstance(step, DoHold) and isinstance(answer, Held):
        event(f"hold {answer.outcome}")
        if answer.outcome is Outcome.DONE:
            ids.placed[step.name] = step.key


def _reserved(store: MemoryStore) -> int:
    return sum(month.reserved for month in store.key_months.values())


def _within(step: DoHold, outcome: Outcome, ids: Ids, store: MemoryStore) -> None:
    key = ids.keys[step.key]
    month = store.key_month(key.account_id, key.id) if key is not None else None
    if month is not None and outcome is Outcome.DONE and step.amount:
        assert month.spent + month.reserved <= month.cap


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sequence=sequences)
def test_both_count_every_key_alike_and_never_over_its_cap(
    postgres: Runner, sequence: list[object]
) -> None:
    postgres.run(_compare(postgres, sequence))
