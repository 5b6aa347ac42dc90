"""The `Probes` port answers the same from memory and from Postgres."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.memory.reports import MemoryProbes
from adapters.postgres.probes import KEEP_DAYS, PostgresProbes
from adapters.postgres.units import PostgresUnits
from kyma.ports.storage import Probes
from kyma.traffic import Probe


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(params=["memory", "postgres"])
def probes(request: pytest.FixtureRequest) -> Probes:
    if request.param == "memory":
        return MemoryProbes(now)
    return PostgresProbes(request.getfixturevalue("postgres_units"))


async def test_probes_are_counted_by_provider_with_the_newest_outcome(probes: Probes) -> None:
    since = now() - timedelta(hours=1)
    await probes.add([Probe("groq", "ok", 12), Probe("Alibaba", "timeout", 10_000)])
    await probes.add([Probe("groq", "broken", 3), Probe("Alibaba", "ok", 40)])
    await probes.add([Probe("groq", "ok", 9)])
    found = {count.provider: count for count in await probes.counts(since)}
    assert list(found) == ["Alibaba", "groq"]
    assert (found["groq"].checks, found["groq"].answered, found["groq"].last_outcome) == (
        3,
        2,
        "ok",
    )
    assert (found["Alibaba"].checks, found["Alibaba"].answered) == (2, 1)
    assert abs(found["groq"].last_at - now()) < timedelta(minutes=1)
    assert found["groq"].last_at.utcoffset() == timedelta(0)


async def test_the_newest_of_a_round_is_the_one_that_came_last(probes: Probes) -> None:
    await probes.add([Probe("groq", "ok", 1), Probe("groq", "denied", 1)])
    (count,) = await probes.counts(now() - timedelta(hours=1))
    assert count.last_outcome == "denied"


async def test_none_and_none_since_are_no_rows(probes: Probes) -> None:
    await probes.add([])
    assert list(await probes.counts(now() - timedelta(hours=1))) == []
    await probes.add([Probe("groq", "ok", 1)])
    assert list(await probes.counts(now() + timedelta(hours=1))) == []


async def test_what_no_figure_looks_back_on_is_forgotten(postgres_engine: AsyncEngine) -> None:
    probes = PostgresProbes(PostgresUnits(postgres_engine))
    await probes.add([Probe("groq", "ok", 1), Probe("google", "ok", 1)])
    async with postgres_engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE provider_probes SET probed_at = now() - make_interval(days => :days)"
                " WHERE provider = 'groq'"
            ),
            {"days": KEEP_DAYS + 1},
        )
    await probes.tidy()
    since = now() - timedelta(days=400)
    assert [count.provider for count in await probes.counts(since)] == ["google"]
