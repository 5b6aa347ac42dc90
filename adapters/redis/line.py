"""One connection to Redis on which batches of commands travel.

It is redis-py's, with all that it knows of addresses, passwords and TLS, but not out of its pool:
that asks the socket before every use whether it is whole, and its pipeline packs each command in
Python. Knows nothing of what is said on it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from hiredis import pack_command
from redis.asyncio import Connection, Redis
from redis.exceptions import RedisError, ResponseError

Command = tuple[Any, ...]
"""A name and its arguments: words, bytes and numbers."""

TRUSTED_S = 1.0
"""A connection that answered so lately is not asked whether it is still whole."""


class Line:
    """For one batch at a time."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._connection: Connection | None = None
        self._answered_at = 0.0

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to all, in order; raises the first error among them.

        Raises `RedisError`, `OSError` and `TimeoutError` where Redis is away, and never sends
        anything twice.
        """
        connection = await self._whole()
        packed = b"".join([pack_command(command) for command in commands])
        await connection.send_packed_command(packed, check_health=False)
        answers: list[Any] = []
        refused: ResponseError | None = None
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except ResponseError as error:  # the answers to the others come behind it
                refused = refused or error
        self._answered_at = time.monotonic()
        if refused is not None:
            raise refused
        return answers

    async def _whole(self) -> Connection:
        """The connection, made anew if it was closed."""
        connection = self._connection
        if connection is None:
            connection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # as shipped
            self._connection = connection
        is_trusted = time.monotonic() - self._answered_at < TRUSTED_S
        if not (is_trusted and connection.is_connected):
            await self._reconnect_if_closed(connection)
        return connection

    async def _reconnect_if_closed(self, connection: Connection) -> None:
        await connection.connect()  # type: ignore[no-untyped-call]  # as shipped
        try:
            has_more = await connection.can_read_destructive()  # type: ignore[no-untyped-call]  # as shipped
        except (RedisError, OSError):
            has_more = True
        if has_more:
            await connection.disconnect()
            await connection.connect()  # type: ignore[no-untyped-call]  # as shipped

    async def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            await self._connection.disconnect()
