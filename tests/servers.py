"""PostgreSQL and Redis for the test-suite: embedded ones, or those that the environment names.

    with start_servers() as servers:
        url = asyncio.run(fresh_database(servers))

Every test gets a database of its own, copied from one migrated template.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import redis.asyncio
from alembic import command
from alembic.config import Config

from adapters.embedded import postgres
from adapters.embedded import redis as embedded_redis
from adapters.embedded.processes import Server, Supervisor
from adapters.settings import ROOT, Settings

REDIS_DATABASES = 128
# The data is thrown away with the run, so nothing waits for a disk, and little log is kept.
UNSAFE = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "128MB",
}
IN_MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 2 * 2**30
"""What has to be free there: two servers take some 300 MB each."""


@dataclass(slots=True)
class _Made:
    """What this run made on the servers, and so must take away again."""

    template: str | None = None
    databases: list[str] = field(default_factory=list)
    redis_turn: Iterator[int] | None = None
    redis_used: set[int] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Servers:
    """Where both servers answer."""

    database_url: str
    redis_url: str
    _made: _Made = field(default_factory=_Made, repr=False, compare=False)


@contextmanager
def temporary_data_dir() -> Iterator[Path]:
    """A data dir that `nobody` can pass through (pytest's own are closed to others).

    In memory, where that is to be had: a test's own database is 300 new files, which take a
    disk's file system a tenth of a second to half of one, and memory a fortieth.
    """
    path = Path(tempfile.mkdtemp(prefix="kyma-test-", dir=_in_memory()))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _in_memory() -> Path | None:
    """A file system in memory with room enough from which programs may be run; None without."""
    if not IN_MEMORY.is_dir() or not os.access(IN_MEMORY, os.W_OK):
        return None
    found = os.statvfs(IN_MEMORY)
    is_closed = found.f_flag & os.ST_NOEXEC
    return IN_MEMORY if found.f_bavail * found.f_frsize >= ENOUGH_BYTES and not is_closed else None


@contextmanager
def start_servers() -> Iterator[Servers]:
    """Both servers for as long as the block lasts. For synchronous, session-wide fixtures."""
    given = Settings()
    with temporary_data_dir() as data_dir, asyncio.Runner() as runner:
        supervisor = Supervisor()
        try:
            database_url, redis_url = given.database_url, given.redis_url
            if not database_url:
                log = data_dir / "postgres.log"
                server = postgres.prepare(data_dir, given.pg_bin, log, UNSAFE, sync=False)
                database_url = runner.run(_started(supervisor, server))
            if not redis_url:
                server = embedded_redis.prepare(
                    data_dir, data_dir / "redis.log", databases=REDIS_DATABASES, sync=False
                )
                redis_url = runner.run(_started(supervisor, server))
            servers = Servers(database_url, redis_url)
            try:
                yield servers
            finally:
                runner.run(_drop_all(servers))
                runner.run(_empty(servers))
        finally:
            runner.run(supervisor.stop())


async def _started(supervisor: Supervisor, server: Server) -> str:
    await supervisor.start(server.child)
    return server.url


async def fresh_database(servers: Servers) -> str:
    """The URL of a new, migrated, empty database."""
    made = servers._made
    async with made.lock:
        if made.template is None:
            name = await _create(servers, f"kyma_template_{secrets.token_hex(6)}")
            await asyncio.to_thread(_migrate, at(servers.database_url, name))
            made.template = name
    name = f"kyma_test_{secrets.token_hex(6)}"
    return at(servers.database_url, await _create(servers, name, made.template))


async def drop_database(servers: Servers, url: str) -> None:
    """Take a fresh database away before the end of the run, connections or not."""
    name = urlsplit(url).path.lstrip("/")
    connection = await asyncpg.connect(servers.database_url)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await connection.close()
    servers._made.databases.remove(name)


async def fresh_redis(servers: Servers) -> str:
    """The URL of an emptied database; indexes come round again after all have been used."""
    made = servers._made
    if made.redis_turn is None:
        made.redis_turn = itertools.cycle(await _ours(servers.redis_url))
    index = next(made.redis_turn)
    made.redis_used.add(index)
    url = at(servers.redis_url, str(index))
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.flushdb()
    return url


async def _ours(redis_url: str) -> list[int]:
    """Databases that this process may empty: nobody's data is in them, no other worker has them."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        databases = int((await client.config_get("databases"))["databases"])
        used = {int(name.removeprefix("db")) for name in await client.info("keyspace")}
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = range(worker, databases, workers)
    if used & set(own):
        raise RuntimeError(
            f"The Redis at KYMA_REDIS_URL holds data (databases {sorted(used)}), and tests empty "
            "what they use. Give them a Redis of their own, or unset KYMA_REDIS_URL."
        )
    return list(own)


def at(url: str, database: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


async def _create(servers: Servers, name: str, template: str | None = None) -> str:
    connection = await asyncpg.connect(servers.database_url)
    # Copied as files: half the time of writing the copy to the log, page by page.
    copied = f' TEMPLATE "{template}" STRATEGY FILE_COPY' if template else ""
    try:
        await connection.execute(f'CREATE DATABASE "{name}"{copied}')
    finally:
        await connection.close()
    servers._made.databases.append(name)
    return name


async def _drop_all(servers: Servers) -> None:
    for name in reversed(servers._made.databases.copy()):
        await drop_database(servers, at(servers.database_url, name))


async def _empty(servers: Servers) -> None:
    """Leave a given Redis as empty as it was, for the next run."""
    for index in servers._made.redis_used:
        async with redis.asyncio.Redis.from_url(at(servers.redis_url, str(index))) as client:
            await client.flushdb()


def _migrate(url: str) -> None:
    config = Config(str(ROOT / "alembic.ini"))
    config.set_main_option("script_location", str(ROOT / "migrations").replace("%", "%%"))
    config.attributes["database_url"] = url
    command.upgrade(config, "head")


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that answers no attempt to connect: its queue is full and nobody accepts."""
    with ExitStack() as open_ones:
        listener = open_ones.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            waiting = open_ones.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield address[1]
