"""Real servers for the whole session, and a fresh database for whoever asks."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop
from hypothesis import settings
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.postgres.units import PostgresUnits, make_engine
from adapters.redis.client import make_redis
from tests.servers import Servers, drop_database, fresh_database, fresh_redis, start_servers

STARTING = Path(__file__).with_name("e2e")

# The same examples every time: a change is judged by what it does. New ones are looked for with
# HYPOTHESIS_PROFILE=search, as often as one likes.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=400)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


# Seven thousand tests and all that they import are a million objects. They stay to the end, and
# looking through them for garbage again and again would take as long as many of the tests.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on what tests leave behind is garbage, and nothing that was there before."""
    gc.freeze()
    gc.enable()


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The gateway runs on uvloop, which does not fail in the ways in which asyncio's own does.

    What starts and watches processes runs on asyncio's: uvloop starts none as another user.
    """
    if item.path.is_relative_to(STARTING):
        return {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """PostgreSQL and Valkey on free ports, or the given ones."""
    with start_servers() as running:
        yield running


@pytest_asyncio.fixture
async def database_url(servers: Servers) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    url = await fresh_database(servers)
    yield url
    await drop_database(servers, url)


@pytest_asyncio.fixture
async def postgres_engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A pool on it, which must have every connection back in the end."""
    engine = make_engine(database_url, 10)
    yield engine
    assert engine.pool.checkedout() == 0, "a connection was not given back"
    await engine.dispose()


@pytest_asyncio.fixture
async def postgres_units(postgres_engine: AsyncEngine) -> PostgresUnits:
    """Transactions on it."""
    return PostgresUnits(postgres_engine)


@pytest_asyncio.fixture
async def redis_url(servers: Servers) -> str:
    """An empty Redis of the test's own."""
    return await fresh_redis(servers)


@pytest_asyncio.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client on it."""
    client = make_redis(redis_url)
    yield client
    await client.aclose()
