"""The schema's version, and whether this machine can run the service: `migrate` and `doctor`."""

from __future__ import annotations

import sys
import time
from typing import Any

import asyncpg
import redis.asyncio
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from redis.exceptions import RedisError

from adapters.embedded import postgres
from adapters.embedded import redis as embedded_redis
from adapters.embedded.first_run import read_secrets
from adapters.embedded.processes import StartError
from adapters.settings import PEPPER_LENGTH, ROOT, Settings


def alembic_config(url: str) -> Config:
    """Alembic's configuration for one database."""
    config = Config(str(ROOT / "alembic.ini"))
    config.set_main_option("script_location", str(ROOT / "migrations").replace("%", "%%"))
    config.attributes["database_url"] = url
    return config


def migrate_to_head(url: str) -> str:
    """Upgrade to the head; its name."""
    config = alembic_config(url)
    try:
        command.upgrade(config, "head")
    except OSError as error:
        raise StartError(unreachable("PostgreSQL", "KYMA_DATABASE_URL", error)) from error
    return f"at {ScriptDirectory.from_config(config).get_current_head()}"


def unreachable(what: str, variable: str, error: BaseException) -> str:
    """One sentence on a server that does not answer."""
    why = str(error) or type(error).__name__
    return f"{what} does not answer ({why}). Is it running, is {variable} right?"


async def examine(settings: Settings) -> list[tuple[bool, str]]:
    """Every check as (passed, what was found)."""
    version = sys.version_info
    pepper = settings.key_pepper.get_secret_value()
    pepper = pepper or read_secrets(settings.data_dir).get("key_pepper", "")
    return [
        (version >= (3, 11), f"Python {version.major}.{version.minor} (3.11 or newer)"),
        (True, "settings are valid"),
        (
            len(pepper) >= PEPPER_LENGTH,
            f"key pepper has {len(pepper)} characters of {PEPPER_LENGTH} (`make up` makes one)",
        ),
        _examine_mail(settings),
        *await _examine_database(settings),
        await _examine_redis(settings),
    ]


def _examine_mail(settings: Settings) -> tuple[bool, str]:
    """Where letters go, and whether an address must be confirmed by one."""
    where = f"go to {settings.smtp_host}" if settings.smtp_host else "stay in a folder"
    rule = "must" if settings.confirms else "need not"
    advice = "; set KYMA_SMTP_HOST, or nobody can confirm theirs" if settings.is_mute else ""
    return (
        not settings.is_mute,
        f"letters {where}; addresses {rule} be confirmed ({settings.why_confirms}){advice}",
    )


def database_of(settings: Settings) -> str | None:
    """The given database, else the embedded one if it was ever made."""
    return settings.database_url or postgres.address(settings.data_dir)


async def _examine_database(settings: Settings) -> list[tuple[bool, str]]:
    url = database_of(settings)
    if url is None:
        return [(False, "PostgreSQL: set KYMA_DATABASE_URL, or run `make up` first")]
    try:
        connection = await asyncpg.connect(url, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        return [(False, unreachable("PostgreSQL", "KYMA_DATABASE_URL", error))]
    try:
        version = await connection.fetchval("SHOW server_version")
        return [
            (True, f"PostgreSQL {version} answers"),
            await _examine_schema(connection, url),
            await _examine_clock(connection),
            await _examine_connections(connection, settings),
        ]
    finally:
        await connection.close()


async def _examine_schema(connection: asyncpg.Connection[Any], url: str) -> tuple[bool, str]:
    head = ScriptDirectory.from_config(alembic_config(url)).get_current_head()
    known = await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL")
    current = (
        await connection.fetchval("SELECT version_num FROM alembic_version") if known else None
    )
    advice = "" if current == head else "; run `kyma migrate`"
    return current == head, f"schema is at {current}, newest is {head}{advice}"


async def _examine_clock(connection: asyncpg.Connection[Any]) -> tuple[bool, str]:
    before = time.time()
    theirs = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
    difference_s = abs(theirs - (before + time.time()) / 2)
    return (
        difference_s < 1,
        f"clock differs from the database's by {difference_s:.3f} s (under 1 s)",
    )


async def _examine_connections(
    connection: asyncpg.Connection[Any], settings: Settings
) -> tuple[bool, str]:
    most = int(await connection.fetchval("SHOW max_connections"))
    kept = int(await connection.fetchval("SHOW superuser_reserved_connections"))
    users = settings.processes + 2  # the worker and the console have pools of their own
    wanted = settings.database_pool * users
    return (
        wanted <= most - kept,
        f"{users} processes × {settings.database_pool} connections = {wanted}, "
        f"the database takes {most - kept} (KYMA_DATABASE_POOL, KYMA_PROCESSES, max_connections)",
    )


async def _examine_redis(settings: Settings) -> tuple[bool, str]:
    url = settings.redis_url or embedded_redis.address(settings.data_dir)
    if url is None:
        return False, "Redis: set KYMA_REDIS_URL, or run `make up` first"
    client = redis.asyncio.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
    try:
        answer: dict[str, Any] = await client.info("server")
    except (RedisError, OSError) as error:
        return False, unreachable("Redis", "KYMA_REDIS_URL", error)
    finally:
        await client.aclose()
    return True, f"Redis {answer.get('valkey_version') or answer.get('redis_version')} answers"
