"""Migrations: from nothing, twice, and two at once; and the tables that Core names."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.postgres.tables import metadata
from adapters.settings import ROOT
from tests.servers import Servers, at


def a_config(url: str) -> Config:
    config = Config(str(ROOT / "alembic.ini"))
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.attributes["database_url"] = url
    return config


async def upgrade(url: str) -> None:
    """In a thread, because a migration brings an event loop of its own."""
    await asyncio.to_thread(command.upgrade, a_config(url), "head")


async def version_of(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch("SELECT version_num FROM alembic_version")]
    finally:
        await connection.close()


@pytest_asyncio.fixture
async def empty_url(servers: Servers) -> AsyncIterator[str]:
    """A database in which nothing ever was."""
    name = f"kyma_empty_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute(f'CREATE DATABASE "{name}"')
    yield at(servers.database_url, name)
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


@pytest.fixture
def head() -> str:
    found = ScriptDirectory.from_config(a_config("")).get_current_head()
    assert found is not None
    return found


def test_there_is_one_line_of_migrations() -> None:
    script = ScriptDirectory.from_config(a_config(""))
    assert len(script.get_heads()) == 1
    assert all(not revision.is_branch_point for revision in script.walk_revisions())


async def test_an_empty_database_is_brought_to_the_head_and_a_second_time_changes_nothing(
    empty_url: str, head: str
) -> None:
    await upgrade(empty_url)
    assert await version_of(empty_url) == [head]
    before = await shape_of(empty_url)
    await upgrade(empty_url)
    assert await version_of(empty_url) == [head]
    assert await shape_of(empty_url) == before


async def shape_of(url: str) -> set[tuple[str, str, str]]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT table_name, column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = 'public'"
            " UNION ALL SELECT 'function', proname, md5(prosrc) FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace"
        )
    finally:
        await connection.close()
    return {tuple(row) for row in rows}


async def test_two_that_start_at_once_do_not_race(empty_url: str, head: str) -> None:
    """Two processes, as two gateways that start together would be."""
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "from alembic import command\n"
        "from tests.migrations.test_migrations import a_config\n"
        "command.upgrade(a_config(sys.argv[1]), 'head')"
    )
    both = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            script,
            empty_url,
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]
    ended = await asyncio.gather(*(process.communicate() for process in both))
    assert [process.returncode for process in both] == [0, 0], ended
    assert await version_of(empty_url) == [head]


async def test_there_is_no_way_back(empty_url: str) -> None:
    await upgrade(empty_url)
    with pytest.raises(RuntimeError, match="append-only"):
        await asyncio.to_thread(command.downgrade, a_config(empty_url), "base")


@pytest.mark.parametrize("table", sorted(metadata.tables))
async def test_the_tables_that_core_names_are_those_of_the_database(
    postgres_engine: AsyncEngine, table: str
) -> None:
    def read(connection: Connection) -> tuple[dict[str, tuple[str, bool]], list[str]]:
        found = inspect(connection)
        columns = {
            column["name"]: (column["type"].compile(connection.dialect), column["nullable"])
            for column in found.get_columns(table)
        }
        return columns, found.get_pk_constraint(table)["constrained_columns"]

    async with postgres_engine.connect() as connection:
        columns, key = await connection.run_sync(read)
        dialect = connection.dialect
    named = metadata.tables[table]
    assert columns == {
        column.name: (column.type.compile(dialect), bool(column.nullable))
        for column in named.columns
    }
    assert key == [column.name for column in named.primary_key]
