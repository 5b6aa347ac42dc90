"""The `Reports` port answers the same from memory and from Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.memory.reports import MemoryReports
from adapters.postgres.reports import PostgresReports
from kyma.accounts import Account
from kyma.money import usd
from kyma.ports.storage import Reports
from kyma.usage import CacheUsage, CustomerUsage, Period, Usage, UsageRecord
from tests.builders import a_record, an_account, new_id

DAY = datetime(2026, 5, 10, tzinfo=UTC)
WEEK = Period(DAY, until=DAY + timedelta(days=7))

INSERT_ACCOUNT = text(
    "INSERT INTO accounts (id, email, password_hash, created_at)"
    " VALUES (:id, :email, :password_hash, :created_at)"
)
INSERT_RECORD = text(
    """
    INSERT INTO usage_records (
        id, account_id, endpoint, requested_model, served_model, provider, layer, streamed,
        outcome, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens,
        reasoning_tokens, evidence, price_version, charged, cache_discount, provider_cost,
        first_byte_ms, duration_ms, attempts, started_at, created_at)
    VALUES (
        :id, :account_id, 'chat', :model, :model, 'groq', 0, false, 'ok', :input, :cache_read,
        :cache_write, :output, :reasoning, 'exact', 'v1', :charged, :cache_discount,
        :provider_cost, 1, 2, '[]', :started_at, :created_at)
    """
)


@dataclass
class Stage:
    """One implementation of the port, and a way to put rows under it."""

    reports: Reports
    accounts: dict[str, Account]
    records: list[UsageRecord]
    engine: AsyncEngine | None

    async def put(self, accounts: Sequence[Account], records: Sequence[UsageRecord]) -> None:
        self.accounts.update({account.id: account for account in accounts})
        self.records.extend(records)
        if self.engine is None:
            return
        async with self.engine.begin() as connection:
            for account in accounts:
                values = {name: getattr(account, name) for name in Account.__slots__}
                await connection.execute(INSERT_ACCOUNT, values)
            for record in records:
                await connection.execute(INSERT_RECORD, columns(record))


def columns(record: UsageRecord) -> dict[str, object]:
    usage = record.usage
    return {
        "id": record.id,
        "account_id": record.account_id,
        "model": record.served_model,
        "input": usage.input,
        "cache_read": usage.cache_read,
        "cache_write": usage.cache_write,
        "output": usage.output,
        "reasoning": usage.reasoning,
        "charged": record.charged,
        "cache_discount": record.cache_discount,
        "provider_cost": record.provider_cost,
        "started_at": record.started_at,
        "created_at": record.started_at + timedelta(seconds=3),
    }


@pytest.fixture(params=["memory", "postgres"])
def stage(request: pytest.FixtureRequest) -> Stage:
    accounts: dict[str, Account] = {}
    records: list[UsageRecord] = []
    if request.param == "memory":
        return Stage(MemoryReports(records, accounts), accounts, records, None)
    engine = request.getfixturevalue("postgres_engine")
    return Stage(PostgresReports(engine), accounts, records, engine)


def used(account: Account, **changes: object) -> UsageRecord:
    return a_record(account.id, new_id(), **{"started_at": DAY, **changes})


async def test_customers_are_ranked_by_what_was_asked_for(stage: Stage) -> None:
    spender, talker, caller = (an_account() for _ in range(3))
    small = Usage(input=1)
    await stage.put(
        [spender, talker, caller],
        [
            used(spender, charged=usd("9.000000001"), provider_cost=usd("7"), usage=small),
            used(talker, charged=usd("1"), usage=Usage(1, 20, 300, 4_000, 50_000)),
            *(used(caller, charged=usd("0"), provider_cost=usd("0"), usage=small) for _ in "abc"),
        ],
    )
    ranked = {
        order: await stage.reports.top_customers(WEEK, order)
        for order in ("spend", "tokens", "requests")
    }
    assert {order: rows[0].account_id for order, rows in ranked.items()} == {
        "spend": spender.id,
        "tokens": talker.id,
        "requests": caller.id,
    }
    assert ranked["spend"][0] == CustomerUsage(
        spender.id, spender.email, usd("9.000000001"), 1, 1, usd("7")
    )
    assert ranked["tokens"][0].tokens == 54_321
    assert ranked["requests"][0].requests == 3


async def test_free_requests_count(stage: Stage) -> None:
    account = an_account()
    await stage.put([account], [used(account, charged=usd("0")), used(account, charged=usd("1"))])
    (row,) = await stage.reports.top_customers(WEEK)
    assert (row.requests, row.spend) == (2, usd("1"))


async def test_equal_customers_come_in_order_of_id_and_the_limit_cuts(stage: Stage) -> None:
    accounts = [an_account() for _ in range(5)]
    await stage.put(accounts, [used(account, charged=usd("1")) for account in accounts])
    rows = await stage.reports.top_customers(WEEK, "spend", limit=3)
    assert [row.account_id for row in rows] == sorted(account.id for account in accounts)[:3]


async def test_a_period_holds_its_beginning_but_not_its_end(stage: Stage) -> None:
    account = an_account()
    moments = [
        WEEK.since - timedelta(microseconds=1),
        WEEK.since,
        WEEK.until - timedelta(microseconds=1),
        WEEK.until,
    ]
    await stage.put([account], [used(account, started_at=moment) for moment in moments])
    (row,) = await stage.reports.top_customers(WEEK)
    assert row.requests == 2
    assert sum(row.requests for row in await stage.reports.cache_usage(WEEK)) == 2


async def test_a_record_whose_account_is_unknown_is_still_counted(stage: Stage) -> None:
    await stage.put([], [used(an_account(), charged=usd("1"))])
    (row,) = await stage.reports.top_customers(WEEK)
    assert (row.email, row.spend) == ("", usd("1"))


async def test_cache_usage_is_summed_by_utc_day_and_served_model(stage: Stage) -> None:
    account = an_account()
    eastern = timezone(timedelta(hours=5))
    record = used(
        account,
        served_model="qwen-3-32b",
        usage=Usage(input=70, cache_read=20, cache_write=10, output=5, reasoning=3),
        cache_discount=usd("0.000000007"),
    )
    await stage.put(
        [account],
        [
            record,
            replace(record, id=new_id(), started_at=DAY + timedelta(hours=23, minutes=59)),
            # The 12th in the east, still the 11th in UTC.
            replace(record, id=new_id(), started_at=datetime(2026, 5, 12, 3, 0, tzinfo=eastern)),
            replace(record, id=new_id(), served_model="Zephyr", usage=Usage()),
        ],
    )
    rows = await stage.reports.cache_usage(WEEK)
    next_day = DAY + timedelta(days=1)
    assert rows == [
        CacheUsage(DAY, "Zephyr", 1, 0, 0, 0, usd("0.000000007")),
        CacheUsage(DAY, "qwen-3-32b", 2, 200, 40, 20, usd("0.000000014")),
        CacheUsage(next_day, "qwen-3-32b", 1, 100, 20, 10, usd("0.000000007")),
    ]
    assert rows[0].hit_rate == 0.0
    assert rows[1].hit_rate == pytest.approx(0.2)


async def test_an_empty_period_has_no_rows(stage: Stage) -> None:
    assert list(await stage.reports.top_customers(WEEK, "tokens")) == []
    assert list(await stage.reports.cache_usage(WEEK)) == []


async def test_sums_beyond_one_record_stay_exact(stage: Stage) -> None:
    account = an_account()
    large = usd("9999999.999999999")
    await stage.put([account], [used(account, charged=large) for _ in range(50)])
    (row,) = await stage.reports.top_customers(WEEK)
    assert row.spend == 50 * large


async def test_the_database_has_a_clock_with_a_zone(stage: Stage) -> None:
    now = await stage.reports.database_time()
    assert now.utcoffset() == timedelta(0)
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)
