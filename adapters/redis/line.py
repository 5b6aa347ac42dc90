"""One connection to Redis on which batches of commands travel.

It is redis-py's, with all that it knows of addresses, passwords and TLS, but not out of its pool:
that reads from the socket before every use to see whether it is whole, and its pipeline packs each
command in Python. Knows nothing of what is said on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hiredis import pack_command
from redis.asyncio import Connection, Redis
from redis.exceptions import ResponseError

Command = tuple[Any, ...]
"""A name and its arguments: words, bytes and numbers."""


class Line:
    """For one batch at a time."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._connection: Connection | None = None

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to all, in order; what Redis refused has its `ResponseError` there.

        Raises `RedisError`, `OSError` and `TimeoutError` where Redis is away, and never sends
        anything twice. What was under way when it was cancelled is nobody's: redis-py closes.
        """
        connection = await self._whole()
        packed = b"".join([pack_command(command) for command in commands])
        await connection.send_packed_command(packed, check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except ResponseError as error:  # the answers to the others come behind it
                answers.append(error.with_traceback(None))
        return answers

    async def _whole(self) -> Connection:
        """The connection; made anew if it was closed, by whomever, while nothing was said."""
        connection = self._connection
        if connection is None:
            connection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # as shipped
            self._connection = connection
        if _is_closed(connection):
            await connection.disconnect(nowait=True)
            await connection.connect()
        return connection

    async def close(self) -> None:
        """Hang up, and wait for nobody to take note of it."""
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)


def _is_closed(connection: Connection) -> bool:
    """Whether it is known here that it is closed: an end was read, or the socket was reset.

    redis-py's own `is_connected` only says that it was open once, and uvloop raises a
    `RuntimeError` at who writes to what was reset.
    """
    reader, writer = connection._reader, connection._writer  # noqa: SLF001 - it tells no other way
    return reader is None or writer is None or reader.at_eof() or writer.is_closing()
