"""What the worker does for the public figures, over real Postgres and Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest_asyncio
from sqlalchemy import text

from adapters.container import Container
from adapters.settings import Settings
from adapters.workers.worker import beat, close_hours, probe, tidy


@pytest_asyncio.fixture
async def context(database_url: str, redis_url: str) -> AsyncIterator[dict[str, Any]]:
    """As the worker has it; the only provider is one that nobody runs."""
    settings = Settings(
        database_url=database_url,
        redis_url=redis_url,
        key_pepper="test-pepper-" + "0" * 32,
        sandbox="on",
        sandbox_url="http://127.0.0.1:1/v1",
    )
    container = Container(settings=settings)
    yield {"container": container}
    await container.transport().close()
    await container.redis().aclose()
    await container.units().close()


async def test_probes_are_stored_whatever_they_found(context: dict[str, Any]) -> None:
    container = context["container"]
    await probe(context)
    since = await container.reports().database_time() - timedelta(hours=1)
    (count,) = await container.probes().counts(since)
    assert (count.provider, count.checks, count.answered) == ("sandbox", 1, 0)
    assert count.last_outcome == "broken"


async def test_a_beat_is_heard_by_the_gateway(context: dict[str, Any]) -> None:
    pulse = context["container"].pulse()
    assert await pulse.worker_beats() is False
    await beat(context)
    assert await pulse.worker_beats() is True


async def test_hours_without_records_need_no_closing(context: dict[str, Any]) -> None:
    assert await close_hours(context) == 0


async def test_tidying_keeps_what_is_new(context: dict[str, Any]) -> None:
    await probe(context)
    await tidy(context)
    async with context["container"].units().unit() as connection:
        left = (await connection.execute(text("SELECT count(*) FROM provider_probes"))).scalar()
    assert left == 1
