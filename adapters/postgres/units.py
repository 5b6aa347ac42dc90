"""The connection pool and the short transactions on it.

Every connection carries limits on how long a statement, a lock or an idle transaction may
last. What goes wrong below becomes `StorageUnavailable`, unless it is a broken promise of
our own (a constraint), which is a bug and stays one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from kyma.ports.storage import StorageUnavailable

UNREACHABLE = (
    OSError,
    TimeoutError,
    PoolTimeout,
    OperationalError,
    InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
)
"""What says nothing about the request: the database is away, full, restarting or too slow."""

SERVER_LIMITS = {
    "statement_timeout": "5000",
    "lock_timeout": "3000",
    "idle_in_transaction_session_timeout": "10000",
    "application_name": "kyma",
    "jit": "off",
}


UNIT_S = 6.0
"""How long a unit may take, getting a connection included; a hung network ends here too."""


def make_engine(url: str, pool: int) -> AsyncEngine:
    """A pool of at most `pool` connections; connects lazily, checks a connection before use."""
    return create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://", 1),
        pool_size=pool,
        max_overflow=0,
        pool_timeout=3.0,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={"server_settings": SERVER_LIMITS, "timeout": 3.0},
    )


async def connect(engine: AsyncEngine) -> AsyncConnection:
    """A connection of the pool; whatever keeps it from being had, the database is away."""
    try:
        return await engine.connect()
    except (DBAPIError, *UNREACHABLE) as error:
        raise StorageUnavailable(f"cannot connect: {error}") from error


@asynccontextmanager
async def connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection with a transaction begun, given back in the end."""
    connection = await connect(engine)
    try:
        async with connection.begin():
            yield connection
    finally:
        await asyncio.shield(connection.close())


class PostgresUnits:
    """Where transactions begin and end."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def unit(self, timeout_s: float = UNIT_S) -> AsyncIterator[AsyncConnection]:
        """One short transaction: committed on leaving, rolled back by an exception."""
        try:
            async with asyncio.timeout(timeout_s), connected(self._engine) as connection:
                if timeout_s > UNIT_S:
                    await connection.execute(
                        text(f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}")
                    )
                yield connection
        except IntegrityError:
            raise
        except UNREACHABLE as error:
            raise StorageUnavailable(str(error)) from error
        except DBAPIError as error:
            if error.connection_invalidated or isinstance(
                getattr(error.orig, "__cause__", None), UNREACHABLE
            ):
                raise StorageUnavailable(str(error)) from error
            raise

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()
