"""The `Reports` port answers the same from memory and from Postgres."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.memory.reports import MemoryReports
from adapters.postgres.reports import PostgresReports
from kyma.accounts import Account
from kyma.money import Usd, usd
from kyma.ports.storage import Reports
from kyma.traffic import FAILED, FAILED_TRIES, SUMS, Traffic, tally, total
from kyma.usage import Attempt, CacheUsage, CustomerUsage, Period, Usage, UsageRecord
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
        :id, :account_id, 'chat', :asked, :model, :provider, :layer, false, :outcome, :input,
        :cache_read, :cache_write, :output, :reasoning, 'exact', 'v1', :charged,
        :cache_discount, :provider_cost, 1, 2, CAST(:attempts AS jsonb), :started_at, :created_at)
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
        "asked": record.requested_model,
        "model": record.served_model,
        "provider": record.provider,
        "layer": record.layer,
        "outcome": record.outcome,
        "attempts": json.dumps([dataclasses.asdict(attempt) for attempt in record.attempts]),
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


OUTCOMES = ("ok", "ok", "ok", "client_left", "cut_by_gateway", "content_filter", *FAILED)
TRIES = ("ok", "cancelled", "bad_request", *FAILED_TRIES)
MODELS = ("qwen-3.6-plus", "Zephyr", "kimi-k2.5", "")
PROVIDERS = ("groq", "Alibaba", "")


def a_chance_record(dice: random.Random, started_at: datetime) -> UsageRecord:
    """Any combination at all: what cannot happen must not break the sums either."""
    return used(
        an_account(),
        requested_model=dice.choice(MODELS),
        served_model=dice.choice(MODELS),
        provider=dice.choice(PROVIDERS),
        layer=dice.randrange(4),
        outcome=dice.choice(OUTCOMES),
        usage=Usage(*(dice.choice((0, dice.randrange(10_000))) for _ in range(5))),
        cache_discount=Usd(dice.randrange(10**12)),
        attempts=tuple(
            Attempt(dice.choice(PROVIDERS), "upstream", dice.randrange(4), dice.choice(TRIES), 7)
            for _ in range(dice.randrange(4))
        ),
        started_at=started_at,
    )


@pytest.mark.parametrize("seed", range(3))
async def test_traffic_is_what_the_rule_makes_of_the_records(stage: Stage, seed: int) -> None:
    dice = random.Random(seed)
    records = [a_chance_record(dice, DAY + timedelta(minutes=place)) for place in range(120)]
    early = a_chance_record(dice, DAY - timedelta(hours=1))
    await stage.put([], [*records, early])
    assert list(await stage.reports.traffic(DAY)) == tally(records)
    assert list(await stage.reports.traffic(DAY + timedelta(days=2))) == []


async def close_all(reports: PostgresReports) -> int:
    closed = 0
    while done := await reports.close_hours(limit=100):
        closed += done
    return closed


async def test_closing_hours_changes_no_figure(postgres_engine: AsyncEngine) -> None:
    reports = PostgresReports(postgres_engine)
    stage = Stage(reports, {}, [], postgres_engine)
    now = await reports.database_time()
    since = now.replace(minute=0, second=0, microsecond=0) - timedelta(days=7)
    dice = random.Random(9)
    old = [
        a_chance_record(dice, now - timedelta(hours=5 * place, minutes=9)) for place in range(30)
    ]
    await stage.put([], old)
    expected = tally([record for record in old if record.started_at >= since])
    assert list(await reports.traffic(since)) == expected
    assert await close_all(reports) > 100
    assert list(await reports.traffic(since)) == expected
    late = a_chance_record(dice, now - timedelta(seconds=10))
    await stage.put([], [late])
    after = [record for record in (*old, late) if record.started_at >= since]
    assert list(await reports.traffic(since)) == tally(after)
    assert await close_all(reports) == 0


async def test_an_hour_is_closed_once_by_however_many(postgres_engine: AsyncEngine) -> None:
    reports = PostgresReports(postgres_engine)
    stage = Stage(reports, {}, [], postgres_engine)
    now = await reports.database_time()
    since = now.replace(minute=0, second=0, microsecond=0) - timedelta(days=7)
    record = used(an_account(), started_at=now - timedelta(hours=9))
    await stage.put([], [record])
    await asyncio.gather(*(close_all(reports) for _ in range(4)))
    assert total(await reports.traffic(since)).requests == 1


async def test_the_hour_under_way_is_not_closed(postgres_engine: AsyncEngine) -> None:
    reports = PostgresReports(postgres_engine)
    stage = Stage(reports, {}, [], postgres_engine)
    now = await reports.database_time()
    await stage.put([], [used(an_account(), started_at=now - timedelta(seconds=3))])
    assert await close_all(reports) <= 1
    async with postgres_engine.connect() as connection:
        newest = (await connection.execute(text("SELECT max(hour) FROM closed_hours"))).scalar()
    assert newest is None or newest + timedelta(hours=1) <= now


async def test_hours_further_back_than_any_figure_are_left_alone(
    postgres_engine: AsyncEngine,
) -> None:
    reports = PostgresReports(postgres_engine)
    stage = Stage(reports, {}, [], postgres_engine)
    now = await reports.database_time()
    await stage.put([], [used(an_account(), started_at=now - timedelta(days=400))])
    assert 24 * 8 - 1 <= await close_all(reports) <= 24 * 8 + 1


def test_every_sum_of_traffic_is_stored_by_the_hour() -> None:
    assert set(SUMS) == {field.name for field in dataclasses.fields(Traffic)} - {
        "model",
        "provider",
    }
