"""Memory and Postgres are the same ledger: any sequence of operations, answer by answer.

Hypothesis makes up sequences over a few accounts. Single operations must answer alike; a batch
is sent to Postgres all at once and to memory one by one, in the order that the batcher promises:
resolutions first, then holds, each in the order of arrival. `kyma.ledger` has the rule, the
SQL function `ledger_apply` is held to it here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.units import PostgresUnits, make_engine
from kyma.ledger import MAX_AMOUNT, Kind, Resolution
from kyma.money import ZERO, Usd
from kyma.ports.storage import Accounts, Held, Ledger, Resolved
from tests.builders import a_key, a_record, a_session, an_account, new_id

EXAMPLES = 60
ACCOUNTS = 3
IDS = 8
"""Names an example draws from: few, so that it repeats itself and picks holds that exist."""

which = st.integers(0, ACCOUNTS)  # the last one does not exist
names = st.integers(0, IDS - 1)
amounts = st.one_of(
    st.integers(0, 40),
    st.sampled_from([0, 1, 1_000, 10**9, MAX_AMOUNT]),
).map(Usd)
wanted = amounts | st.sampled_from([Usd(-1), Usd(MAX_AMOUNT + 1)])
endings = st.sampled_from([Kind.SETTLE, Kind.SETTLE, Kind.REFUND, Kind.EXPIRE])


@dataclass(frozen=True)
class DoHold:
    name: int
    account: int
    amount: Usd

    async def run(self, ledger: Ledger, ids: Ids) -> object:
        held = await ledger.hold(ids.holds[self.name], ids.accounts[self.account], self.amount, 600)
        assert isinstance(held, Held)
        return held


@dataclass(frozen=True)
class DoEnd:
    name: int
    kind: Kind
    bill: Usd
    cost: Usd

    async def run(self, ledger: Ledger, ids: Ids) -> object:
        hold, bill = ids.holds[self.name], self.bill if self.kind is Kind.SETTLE else ZERO
        record = a_record(ids.accounts[0], hold)
        done = await ledger.resolve(Resolution(hold, self.kind, bill, self.cost), record)
        assert isinstance(done, Resolved)
        return done


@dataclass(frozen=True)
class DoCredit:
    name: int
    account: int
    amount: Usd
    paid: bool

    async def run(self, ledger: Ledger, ids: Ids) -> object:
        book = ledger.deposit if self.paid else ledger.grant
        # Half of the names are those of holds: one namespace of ids, named mismatches.
        return await book(ids.credits[self.name], ids.accounts[self.account], self.amount, "test")


@dataclass(frozen=True)
class DoReverse:
    name: int
    deposit: int
    amount: Usd

    async def run(self, ledger: Any, ids: Ids) -> object:
        return await ledger.reverse(
            ids.back[self.name], ids.credits[self.deposit], self.amount, "test"
        )


@dataclass(frozen=True)
class DoReinstate:
    name: int
    reversal: int

    async def run(self, ledger: Any, ids: Ids) -> object:
        return await ledger.reinstate(ids.back[self.name], ids.back[self.reversal], "test")


@dataclass(frozen=True)
class Together:
    """Operations that arrive at the same moment."""

    operations: tuple[DoHold | DoEnd, ...]


Step = DoHold | DoEnd | DoCredit | DoReverse | DoReinstate | Together


@dataclass(frozen=True)
class Ids:
    accounts: Sequence[str]
    holds: Sequence[str]
    credits: Sequence[str]
    back: Sequence[str]


holds = st.builds(DoHold, names, which, wanted)
ends = st.builds(DoEnd, names, endings, amounts, amounts)
funds = st.builds(
    DoCredit, names, which, st.integers(1, 60).map(Usd) | st.just(MAX_AMOUNT), st.booleans()
)
batches = st.builds(Together, st.lists(st.one_of(holds, ends), min_size=2, max_size=12).map(tuple))
# Deposits and reversals draw from few names, so that reversals find what they are about.
few = st.integers(IDS // 2, IDS - 1)
paid = st.builds(DoCredit, few, which, st.integers(1, 60).map(Usd), st.just(True))
backs = st.builds(DoReverse, few, few, st.integers(1, 60).map(Usd))
undos = st.builds(DoReinstate, names, few)
sequences = st.lists(
    st.one_of(holds, ends, funds, paid, backs, undos, batches), min_size=8, max_size=40
)
bonuses = st.lists(st.integers(0, 60).map(Usd), min_size=ACCOUNTS, max_size=ACCOUNTS)


async def _open(accounts: Accounts, id: str, bonus: Usd) -> None:
    account = replace(an_account(f"{id}@example.com"), id=id)
    assert await accounts.register(account, a_key(account), a_session(account), bonus)


def _rounds(batch: Together) -> list[list[DoHold | DoEnd]]:
    """As the batcher does it: no id twice in one transaction, what is left over comes next."""
    rounds: list[list[DoHold | DoEnd]] = []
    left = list(batch.operations)
    while left:
        taken: list[DoHold | DoEnd] = []
        later: list[DoHold | DoEnd] = []
        for operation in left:
            again = any(operation.name == other.name for other in taken)
            (later if again else taken).append(operation)
        taken.sort(key=lambda operation: isinstance(operation, DoHold))
        rounds.append(taken)
        left = later
    return rounds


async def _together_in_order(ledger: Ledger, batch: Together, ids: Ids) -> list[object]:
    answers: dict[int, object] = {}
    for operations in _rounds(batch):
        for operation in operations:
            answers[id(operation)] = await operation.run(ledger, ids)
    return [answers[id(operation)] for operation in batch.operations]


@pytest_asyncio.fixture
async def postgres(database_url: str) -> AsyncIterator[Runner]:
    """One database and one event loop of its own for all examples of a test."""
    runner = Runner(database_url)
    yield runner
    await asyncio.to_thread(runner.close)


class Runner:
    """An event loop beside pytest's, for a test that Hypothesis calls again and again."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self.run = self._runner.run
        engine = make_engine(url, 3)
        self.units = PostgresUnits(engine)
        self.ledger = PostgresLedger(engine, self.units)
        self.accounts = PostgresAccounts(self.units)

    def close(self) -> None:
        self.run(self.ledger.close())
        self.run(self.units.close())
        self._runner.close()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(sequence=sequences, bonus=bonuses)
def test_both_ledgers_answer_every_operation_alike(
    postgres: Runner,
    sequence: list[Step],
    bonus: list[Usd],
) -> None:
    postgres.run(_compare(postgres, sequence, bonus))


async def _compare(postgres: Runner, sequence: list[Step], bonus: list[Usd]) -> None:
    named = [new_id() for _ in range(IDS)]
    ids = Ids(
        [new_id() for _ in range(ACCOUNTS + 1)],
        named,
        [*named[: IDS // 2], *(new_id() for _ in range(IDS - IDS // 2))],
        [*named[: IDS // 4], *(new_id() for _ in range(IDS - IDS // 4))],
    )
    store = MemoryStore()
    memory, accounts = MemoryLedger(store), MemoryAccounts(store)
    for id, amount in zip(ids.accounts, bonus, strict=False):
        await _open(accounts, id, amount)
        await _open(postgres.accounts, id, amount)

    for step in sequence:
        if isinstance(step, Together):
            expected = await _together_in_order(memory, step, ids)
            answered: list[object] = await asyncio.gather(
                *(operation.run(postgres.ledger, ids) for operation in step.operations)
            )
        else:
            expected = [await step.run(memory, ids)]
            answered = [await step.run(postgres.ledger, ids)]
        assert answered == expected, step
        for answer in answered:
            event(f"outcome {getattr(answer, 'outcome', answer)}")

    for id in ids.accounts:
        assert await postgres.ledger.balance(id) == await memory.balance(id)
    assert (await memory.health()).sound


@pytest.mark.parametrize("amount", [0, -1, MAX_AMOUNT + 1])
def test_neither_ledger_books_what_is_no_amount(postgres: Runner, amount: int) -> None:
    store = MemoryStore()
    account = new_id()
    asyncio.run(_open(MemoryAccounts(store), account, Usd(5)))
    postgres.run(_open(postgres.accounts, account, Usd(5)))
    ledgers: tuple[Any, ...] = (MemoryLedger(store), postgres.ledger)
    for ledger in ledgers:
        for book in (ledger.deposit, ledger.grant):
            with pytest.raises(ValueError, match="cannot be booked"):
                postgres.run(book(new_id(), account, Usd(amount), "test"))
        with pytest.raises(ValueError, match="cannot be booked"):
            postgres.run(ledger.reverse(new_id(), account, Usd(amount), "test"))
        assert postgres.run(ledger.balance(account)).available == 5


def test_after_all_of_it_the_books_are_sound(postgres: Runner) -> None:
    """A run of the same kind with a fixed seed, and then the replay of the whole database."""
    run = given(sequence=sequences, bonus=bonuses)(
        lambda sequence, bonus: postgres.run(_compare(postgres, sequence, bonus))
    )
    settings(max_examples=10, deadline=None, derandomize=True, database=None)(run)()
    health = postgres.run(postgres.ledger.health())
    assert health.sound
    assert health.entries > 0
