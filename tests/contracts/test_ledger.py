"""The ledger's contract, on memory and on real Postgres alike."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.ledger import PostgresLedger
from kyma.ledger import Balance, Kind, Outcome, Resolution
from kyma.money import ZERO, Usd, usd
from kyma.ports.storage import Accounts, Ledger
from tests.builders import a_key, a_record, a_session, an_account, new_id


class Books:
    """A ledger under test with a way to open accounts in it."""

    def __init__(self, ledger: Ledger, accounts: Accounts) -> None:
        self.ledger = ledger
        self._accounts = accounts

    async def account(self, promo: Usd = ZERO, paid: Usd = ZERO) -> str:
        account = an_account()
        assert await self._accounts.register(account, a_key(account), a_session(account), promo)
        if paid:
            assert await self.ledger.deposit(new_id(), account.id, paid, "test") is Outcome.DONE
        return account.id


@pytest.fixture
def memory_books() -> Books:
    store = MemoryStore()
    return Books(MemoryLedger(store), MemoryAccounts(store))


@pytest_asyncio.fixture
async def postgres_books(postgres_engine, postgres_units) -> AsyncIterator[Books]:
    ledger = PostgresLedger(postgres_engine, postgres_units)
    yield Books(ledger, PostgresAccounts(postgres_units))
    await ledger.close()


@pytest.fixture(params=["memory", "postgres"])
def books(request: pytest.FixtureRequest) -> Books:
    """Synchronous, so that the servers start outside of any event loop."""
    found: Books = request.getfixturevalue(f"{request.param}_books")
    return found


async def test_a_hold_reserves_and_a_settle_returns_the_rest(books: Books) -> None:
    account = await books.account(paid=usd("5"))
    hold = new_id()
    held = await books.ledger.hold(hold, account, usd("2"), 60)
    assert (held.outcome, held.available) == (Outcome.DONE, usd("3"))
    done = await books.ledger.resolve(
        Resolution(hold, Kind.SETTLE, usd("1.20"), usd("0.9")), a_record(account, hold)
    )
    assert (done.outcome, done.settled, done.available) == (Outcome.DONE, usd("1.20"), usd("3.80"))
    assert await books.ledger.balance(account) == Balance(paid=usd("3.80"), deposited=usd("5"))


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (Kind.SETTLE, Outcome.ALREADY_SETTLED),
        (Kind.REFUND, Outcome.ALREADY_REFUNDED),
        (Kind.EXPIRE, Outcome.ALREADY_EXPIRED),
    ],
)
@pytest.mark.parametrize("second", [Kind.SETTLE, Kind.REFUND, Kind.EXPIRE])
async def test_a_hold_ends_once_and_the_second_end_has_a_name(
    books: Books, first: Kind, told: Outcome, second: Kind
) -> None:
    account = await books.account(promo=usd("0.5"))
    hold = new_id()
    await books.ledger.hold(hold, account, usd("0.3"), 60)
    bill = usd("0.1") if first is Kind.SETTLE else ZERO
    await books.ledger.resolve(Resolution(hold, first, bill))
    before = await books.ledger.balance(account)
    again = await books.ledger.resolve(
        Resolution(hold, second, usd("0.2") if second is Kind.SETTLE else ZERO)
    )
    assert (again.outcome, again.settled) == (told, bill)
    assert await books.ledger.balance(account) == before


async def test_what_is_not_there_cannot_be_held(books: Books) -> None:
    account = await books.account(promo=usd("0.5"))
    held = await books.ledger.hold(new_id(), account, Usd(usd("0.5") + 1), 60)
    assert (held.outcome, held.hold, held.available) == (Outcome.INSUFFICIENT, None, usd("0.5"))
    assert (await books.ledger.hold(new_id(), account, usd("0.5"), 60)).outcome is Outcome.DONE
    assert (await books.ledger.balance(account)).available == 0


async def test_promotional_credit_goes_first_and_returns_to_its_fund(books: Books) -> None:
    account = await books.account(promo=usd("0.5"), paid=usd("5"))
    hold = new_id()
    held = await books.ledger.hold(hold, account, usd("2"), 60)
    assert held.hold is not None
    assert (held.hold.promo, held.hold.paid) == (usd("0.5"), usd("1.5"))
    await books.ledger.resolve(Resolution(hold, Kind.SETTLE, usd("0.75")))
    balance = await books.ledger.balance(account)
    assert (balance.promo, balance.paid, balance.held) == (ZERO, usd("4.75"), ZERO)
    second = new_id()
    await books.ledger.hold(second, account, usd("1"), 60)
    await books.ledger.resolve(Resolution(second, Kind.REFUND))
    assert (await books.ledger.balance(account)).paid == usd("4.75")


async def test_a_bill_beyond_the_hold_is_our_loss(books: Books) -> None:
    account = await books.account(paid=usd("5"))
    hold = new_id()
    await books.ledger.hold(hold, account, usd("1"), 60)
    done = await books.ledger.resolve(Resolution(hold, Kind.SETTLE, usd("3"), usd("2")))
    assert (done.settled, done.available) == (usd("1"), usd("4"))
    health = await books.ledger.health()
    assert (health.revenue, health.loss, health.provider_cost) == (usd("3"), usd("2"), usd("2"))
    assert health.sound


async def test_a_repeated_hold_is_the_same_hold(books: Books) -> None:
    account = await books.account(paid=usd("5"))
    hold = new_id()
    first = await books.ledger.hold(hold, account, usd("1"), 60)
    again = await books.ledger.hold(hold, account, usd("1"), 60)
    assert (again.outcome, again.hold) == (Outcome.EXISTS, first.hold)
    other = await books.ledger.hold(hold, account, usd("2"), 60)
    assert (other.outcome, other.hold) == (Outcome.MISMATCH, None)
    stranger = await books.account(paid=usd("5"))
    assert (await books.ledger.hold(hold, stranger, usd("1"), 60)).outcome is Outcome.MISMATCH
    assert (await books.ledger.balance(account)).available == usd("4")


async def test_a_repeated_deposit_counts_once(books: Books) -> None:
    account = await books.account()
    id = new_id()
    assert await books.ledger.deposit(id, account, usd("5"), "x") is Outcome.DONE
    assert await books.ledger.deposit(id, account, usd("5"), "x") is Outcome.EXISTS
    assert await books.ledger.deposit(id, account, usd("6"), "x") is Outcome.MISMATCH
    assert await books.ledger.grant(id, account, usd("5"), "x") is Outcome.MISMATCH
    assert await books.ledger.deposit(new_id(), new_id(), usd("5"), "x") is Outcome.NO_ACCOUNT
    assert (await books.ledger.balance(account)).posted == usd("5")


async def test_unknown_accounts_and_holds_have_names(books: Books) -> None:
    assert (await books.ledger.hold(new_id(), new_id(), usd("1"), 60)).outcome is Outcome.NO_ACCOUNT
    gone = await books.ledger.resolve(Resolution(new_id(), Kind.REFUND))
    assert gone.outcome is Outcome.NO_HOLD
    assert (await books.ledger.balance(new_id())) == Balance()


async def test_the_sweep_returns_overdue_holds_and_only_those(books: Books) -> None:
    account = await books.account(paid=usd("5"))
    overdue, live = new_id(), new_id()
    await books.ledger.hold(overdue, account, usd("1"), 0)
    await books.ledger.hold(live, account, usd("2"), 600)
    assert await books.ledger.sweep() == 1
    assert await books.ledger.sweep() == 0
    assert (await books.ledger.balance(account)).available == usd("3")
    late = await books.ledger.resolve(Resolution(overdue, Kind.SETTLE, usd("1")))
    assert (late.outcome, late.settled) == (Outcome.ALREADY_EXPIRED, ZERO)


async def test_concurrent_holds_grant_a_prefix_and_never_more_than_there_is(books: Books) -> None:
    account = await books.account(promo=usd("0.001"))
    wanted = [books.ledger.hold(new_id(), account, usd("0.0000333"), 60) for _ in range(200)]
    held = await asyncio.gather(*wanted)
    granted = [one for one in held if one.outcome is Outcome.DONE]
    assert len(granted) == 30
    assert all(one.outcome is Outcome.INSUFFICIENT for one in held if one not in granted)
    assert (await books.ledger.balance(account)).available == usd("0.000001")
    assert (await books.ledger.health()).sound


async def test_concurrent_ends_of_one_hold_settle_once(books: Books) -> None:
    account = await books.account(paid=usd("5"))
    hold = new_id()
    await books.ledger.hold(hold, account, usd("2"), 60)
    ends = [
        books.ledger.resolve(Resolution(hold, Kind.SETTLE, usd("1")), a_record(account, hold))
        for _ in range(50)
    ]
    outcomes = [one.outcome for one in await asyncio.gather(*ends)]
    assert outcomes.count(Outcome.DONE) == 1
    assert outcomes.count(Outcome.ALREADY_SETTLED) == 49
    assert (await books.ledger.balance(account)).available == usd("4")


async def test_fifty_tasks_of_two_hundred_requests_conserve_every_nano(
    postgres_books: Books,
) -> None:
    """The issue's proof: 50 × 200 on one account of $0.50, real Postgres, two pools' worth."""
    ledger = postgres_books.ledger
    account = await postgres_books.account(promo=usd("0.50"))
    spent = 0
    refused = 0

    async def customer(seed: int) -> None:
        nonlocal spent, refused
        dice = random.Random(seed)
        for _ in range(200):
            hold = new_id()
            amount = Usd(dice.randrange(1, 2_000_000))
            held = await ledger.hold(hold, account, amount, 600)
            assert held.available >= 0
            if held.hold is None:
                refused += 1
                continue
            if dice.random() < 0.1:
                continue  # a process that died: its hold stays open
            bill = Usd(dice.randrange(0, 2 * amount))
            kind = Kind.REFUND if dice.random() < 0.2 else Kind.SETTLE
            how = Resolution(hold, kind, bill if kind is Kind.SETTLE else ZERO, Usd(bill // 2))
            done = await ledger.resolve(how, a_record(account, hold))
            assert done.outcome is Outcome.DONE
            spent += done.settled

    await asyncio.gather(*(customer(seed) for seed in range(50)))
    balance = await ledger.balance(account)
    assert spent + balance.available + balance.held == usd("0.50")
    assert min(balance.promo, balance.paid, balance.held_promo, balance.held_paid) >= 0
    assert refused > 0, "the account must have run dry for this to prove anything"
    health = await ledger.health()
    assert health.sound
    assert health.sum_of_all_books == 0


async def test_records_and_settlements_are_one(postgres_books: Books, postgres_engine) -> None:
    account = await postgres_books.account(paid=usd("5"))
    hold = new_id()
    await postgres_books.ledger.hold(hold, account, usd("2"), 60)
    how = Resolution(hold, Kind.SETTLE, usd("0.5"), usd("0.1"))
    await postgres_books.ledger.resolve(how, a_record(account, hold))
    await postgres_books.ledger.resolve(how, a_record(account, hold))
    async with postgres_engine.connect() as connection:
        rows = (await connection.execute(text("SELECT id, charged FROM usage_records"))).all()
    assert [(row.id.hex, row.charged) for row in rows] == [(hold, usd("0.5"))]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET paid = paid + 1, processor = processor - 1",
        "DELETE FROM entries",
        "TRUNCATE entries",
        "UPDATE entries SET paid = 1",
        "INSERT INTO entries (id, kind, account_id, paid) "
        "SELECT gen_random_uuid(), 'deposit', account_id, 1 FROM balances",
        "UPDATE balances SET promo = -1",
        "DELETE FROM usage_records",
    ],
)
async def test_the_database_itself_refuses_to_falsify_the_books(
    postgres_books: Books,
    postgres_engine,
    statement: str,
) -> None:
    account = await postgres_books.account(paid=usd("5"))
    hold = new_id()
    await postgres_books.ledger.hold(hold, account, usd("1"), 60)
    await postgres_books.ledger.resolve(
        Resolution(hold, Kind.SETTLE, usd("1")), a_record(account, hold)
    )
    with pytest.raises(DBAPIError):
        async with postgres_engine.begin() as connection:
            await connection.execute(text(statement))
    assert (await postgres_books.ledger.health()).sound


async def test_a_second_resolution_row_is_impossible_even_without_our_code(
    postgres_books: Books,
    postgres_engine,
) -> None:
    account = await postgres_books.account(paid=usd("5"))
    hold = new_id()
    await postgres_books.ledger.hold(hold, account, usd("1"), 60)
    await postgres_books.ledger.resolve(Resolution(hold, Kind.REFUND))
    with pytest.raises(DBAPIError, match="entries_one_resolution"):
        async with postgres_engine.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO entries (id, kind, account_id, hold_id) "
                    "VALUES (gen_random_uuid(), 'refund', :account, :hold)"
                ),
                {"account": account, "hold": hold},
            )
