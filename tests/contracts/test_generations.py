"""The contract of receipts, logs and price versions, on memory and Postgres alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from adapters.memory.requests import MemoryPriceBook, MemoryReceipts
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.receipts import PostgresReceipts
from adapters.postgres.units import PostgresUnits
from kyma.accounts import Account, Key, Session
from kyma.generations import Generation, LogFilter, Logged, Place, Status, place_of
from kyma.ledger import Kind, Resolution
from kyma.money import ZERO, Usd, usd
from kyma.ports.requests import PriceBook, Receipts
from kyma.ports.storage import Accounts, Ledger
from kyma.pricing import per_token
from kyma.usage import Attempt, Evidence, Usage, UsageRecord
from tests.builders import a_key, a_record, a_session, an_account, new_id

EVERYTHING = LogFilter()
HOLD = usd("0.02")
BILL = usd("0.0123456")
ATTEMPTS = (
    Attempt("groq", "qwen/qwen3-32b", 0, "busy", 12),
    Attempt("vertex", "qwen3", 1, "ok", 340),
)


@dataclass
class Office:
    """The ports under test over one store."""

    receipts: Receipts
    prices: PriceBook
    accounts: Accounts
    ledger: Ledger

    async def customer(self) -> tuple[Account, Key, Session]:
        account = an_account()
        key, session = a_key(account), a_session(account)
        assert await self.accounts.register(account, key, session, usd("5"))
        return account, key, session

    async def request(self, account: Account, **changes: object) -> UsageRecord:
        """A request that was held, settled and recorded."""
        record = a_record(account.id, new_id(), **changes)
        await self.ledger.hold(record.id, account.id, HOLD, 60)
        await self.ledger.resolve(Resolution(record.id, Kind.SETTLE, BILL, Usd(7)), record)
        return replace(record, charged=BILL)

    async def pages(
        self, account: Account, size: int, wanted: LogFilter = EVERYTHING
    ) -> list[Logged]:
        """The whole log, read page by page."""
        found: list[Logged] = []
        after: Place | None = None
        while page := await self.receipts.log(account.id, wanted, after, size):
            found += page
            after = place_of(page[-1].place.cursor())
        return found


@pytest.fixture
def memory_office() -> Office:
    store = MemoryStore()
    return Office(
        MemoryReceipts(store),
        MemoryPriceBook(),
        MemoryAccounts(store),
        MemoryLedger(store),
    )


@pytest_asyncio.fixture
async def postgres_office(postgres_engine, postgres_units) -> AsyncIterator[Office]:
    ledger = PostgresLedger(postgres_engine, postgres_units)
    receipts = PostgresReceipts(postgres_units)
    accounts = PostgresAccounts(postgres_units)
    yield Office(receipts, receipts, accounts, ledger)
    await ledger.close()


@pytest.fixture(params=["memory", "postgres"])
def office(request: pytest.FixtureRequest) -> Office:
    """Synchronous, so that the servers start outside of any event loop."""
    found: Office = request.getfixturevalue(f"{request.param}_office")
    return found


def is_now(moment: datetime | None) -> bool:
    return moment is not None and abs(moment - datetime.now(UTC)) < timedelta(minutes=5)


async def test_a_request_under_way_shows_its_hold_and_when_that_ends(office: Office) -> None:
    account, *_ = await office.customer()
    id = new_id()
    await office.ledger.hold(id, account.id, HOLD, 60)
    found = await office.receipts.generation(account.id, id)
    assert found is not None
    assert found.expires_at is not None
    assert abs((found.expires_at - found.held_at) - timedelta(seconds=60)) < timedelta(seconds=5)
    assert is_now(found.held_at)
    assert found == Generation(
        id, account.id, Status.RUNNING, HOLD, ZERO, found.held_at, found.expires_at, None, None
    )
    assert found.refunded == ZERO


async def test_a_settled_request_shows_what_was_charged_and_its_whole_record(
    office: Office,
) -> None:
    account, key, _ = await office.customer()
    record = await office.request(
        account,
        key_id=key.id,
        provider="vertex",
        layer=1,
        streamed=True,
        usage=Usage(10, 20, 30, 40, 50, Evidence.AT_LEAST),
        cache_discount=Usd(999),
        attempts=ATTEMPTS,
        price_version="abc",
    )
    found = await office.receipts.generation(account.id, record.id)
    assert found is not None
    assert (found.status, found.held, found.settled) == (Status.COMPLETED, HOLD, BILL)
    assert found.refunded == HOLD - BILL
    assert found.expires_at is None
    assert is_now(found.ended_at)
    assert found.record == record


async def test_a_bill_above_the_hold_shows_as_no_more_than_the_hold(office: Office) -> None:
    account, *_ = await office.customer()
    record = a_record(account.id, new_id())
    await office.ledger.hold(record.id, account.id, HOLD, 60)
    await office.ledger.resolve(Resolution(record.id, Kind.SETTLE, usd("1")), record)
    found = await office.receipts.generation(account.id, record.id)
    assert found is not None
    assert (found.settled, found.refunded) == (HOLD, ZERO)
    assert found.record is not None
    assert found.record.charged == HOLD


async def test_a_refunded_request_shows_everything_given_back(office: Office) -> None:
    account, *_ = await office.customer()
    record = a_record(account.id, new_id(), outcome="provider_error", attempts=ATTEMPTS[:1])
    await office.ledger.hold(record.id, account.id, HOLD, 60)
    await office.ledger.resolve(Resolution(record.id, Kind.REFUND, cost=Usd(5)), record)
    found = await office.receipts.generation(account.id, record.id)
    assert found is not None
    assert (found.status, found.settled, found.refunded) == (Status.REFUNDED, ZERO, HOLD)
    assert found.record == record


async def test_a_hold_that_expired_shows_as_expired_without_a_record(office: Office) -> None:
    account, *_ = await office.customer()
    id = new_id()
    await office.ledger.hold(id, account.id, HOLD, 0)
    assert await office.ledger.sweep() == 1
    found = await office.receipts.generation(account.id, id)
    assert found is not None
    assert (found.status, found.settled, found.refunded) == (Status.EXPIRED, ZERO, HOLD)
    assert (found.record, found.expires_at) == (None, None)


async def test_nobody_reads_anothers_receipt_or_one_that_is_none(office: Office) -> None:
    account, *_ = await office.customer()
    stranger, *_ = await office.customer()
    record = await office.request(account)
    deposit = new_id()
    await office.ledger.deposit(deposit, account.id, usd("1"), "test")
    assert await office.receipts.generation(stranger.id, record.id) is None
    assert await office.receipts.generation(account.id, new_id()) is None
    assert await office.receipts.generation(account.id, deposit) is None
    assert await office.receipts.generation(account.id, account.id) is None


async def test_the_log_is_ones_own_newest_first(office: Office) -> None:
    account, *_ = await office.customer()
    stranger, *_ = await office.customer()
    records = [await office.request(account) for _ in range(3)]
    await office.request(stranger)
    found = await office.receipts.log(account.id, EVERYTHING, None, 10)
    assert [line.record for line in found] == records[::-1]
    assert all(is_now(line.ended_at) for line in found)
    assert await office.receipts.log(new_id(), EVERYTHING, None, 10) == []


@pytest.mark.parametrize("size", [1, 2, 7, 12, 100])
async def test_pages_of_any_size_hold_every_line_once_in_one_order(
    office: Office, size: int
) -> None:
    account, *_ = await office.customer()
    # Settled together, so that on Postgres many lines bear the same moment.
    records = await asyncio.gather(*(office.request(account) for _ in range(12)))
    whole = await office.receipts.log(account.id, EVERYTHING, None, 100)
    assert {line.record.id for line in whole} == {record.id for record in records}
    assert await office.pages(account, size) == whole


async def test_lines_written_while_somebody_pages_neither_repeat_nor_hide_any(
    office: Office,
) -> None:
    account, *_ = await office.customer()
    before = [await office.request(account) for _ in range(6)]
    first = await office.receipts.log(account.id, EVERYTHING, None, 2)
    place = first[-1].place
    writing = asyncio.gather(*(office.request(account) for _ in range(10)))
    rest: list[Logged] = []
    while page := await office.receipts.log(account.id, EVERYTHING, place, 2):
        rest += page
        place = page[-1].place
    await writing
    assert [line.record for line in [*first, *rest]] == before[::-1]


async def test_filters_choose_by_model_outcome_endpoint_and_key(office: Office) -> None:
    account, key, _ = await office.customer()
    plain = await office.request(account)
    keyed = await office.request(account, key_id=key.id)
    broken = await office.request(account, outcome="client_left")
    other = await office.request(account, requested_model="best-model", endpoint="messages")

    async def chosen(**wanted: str) -> list[str]:
        lines = await office.receipts.log(account.id, LogFilter(**wanted), None, 10)
        return [line.record.id for line in lines]

    assert await chosen(model="best-model") == [other.id]
    assert await chosen(model="qwen-3-32b") == [broken.id, keyed.id, plain.id]
    assert await chosen(outcome="client_left") == [broken.id]
    assert await chosen(endpoint="messages") == [other.id]
    assert await chosen(key_id=key.id) == [keyed.id]
    assert await chosen(key_id=key.id, outcome="client_left") == []
    assert await chosen(model="%") == []


async def test_filters_hold_on_every_page(office: Office) -> None:
    account, *_ = await office.customer()
    wanted = []
    for number in range(9):
        endpoint = "messages" if number % 2 else "chat.completions"
        record = await office.request(account, endpoint=endpoint)
        wanted += [record] if number % 2 else []
    found = await office.pages(account, 1, LogFilter(endpoint="messages"))
    assert [line.record for line in found] == wanted[::-1]


async def test_since_is_included_and_until_is_not(office: Office) -> None:
    account, *_ = await office.customer()
    for _ in range(3):
        await office.request(account)
    newest, middle, oldest = await office.receipts.log(account.id, EVERYTHING, None, 10)
    assert oldest.ended_at < middle.ended_at < newest.ended_at

    async def within(since: datetime | None, until: datetime | None) -> list[Logged]:
        wanted = LogFilter(since=since, until=until)
        return list(await office.receipts.log(account.id, wanted, None, 10))

    assert await within(middle.ended_at, None) == [newest, middle]
    assert await within(None, middle.ended_at) == [oldest]
    assert await within(oldest.ended_at, newest.ended_at) == [middle, oldest]
    assert await within(newest.ended_at, oldest.ended_at) == []


async def test_the_first_word_on_a_price_version_stands(office: Office) -> None:
    cheap, dear = per_token("0.1", "0.4", "0.02", "0.12"), per_token("9", "90")
    await office.prices.remember("v1", {"one": cheap, "two": dear})
    await office.prices.remember("v1", {"one": dear, "three": cheap})
    await office.prices.remember("v2", {"one": dear})
    assert await office.prices.prices("v1", ["one", "two", "three", "four"]) == {
        "one": cheap,
        "two": dear,
        "three": cheap,
    }
    assert await office.prices.prices("v2", ["one"]) == {"one": dear}
    assert await office.prices.prices("v3", ["one"]) == {}
    assert await office.prices.prices("v1", []) == {}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE price_versions SET input = 0",
        "DELETE FROM price_versions",
        "UPDATE api_keys SET replay_minutes = 11",
        "UPDATE api_keys SET replay_minutes = -1",
    ],
)
async def test_the_database_itself_refuses_to_rewrite_prices_and_to_keep_answers_longer(
    postgres_office: Office, postgres_units: PostgresUnits, change: str
) -> None:
    account, key, _ = await postgres_office.customer()
    price = per_token("1", "4")
    await postgres_office.prices.remember("v1", {"one": price})
    with pytest.raises(IntegrityError):
        async with postgres_units.unit() as connection:
            await connection.execute(text(change))
    assert await postgres_office.prices.prices("v1", ["one"]) == {"one": price}
    assert await postgres_office.accounts.keys(account.id) == [key]
