"""Attempts to get in, counted in Redis for all processes, and here for when Redis is away.

Every attempt is counted in this process too: if Redis goes, nobody starts from nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kyma.throttles import Counts, Guarded, Window, windows_of

log = structlog.get_logger("kyma.attempts")

SCRIPT = Path(__file__).with_name("attempts.lua").read_text()
TIMEOUT_S = 0.5
PAUSE_S = 1.0
"""After a failure Redis is left alone this long."""


class RedisAttempts:
    """The `Attempts` port."""

    def __init__(self, redis: Redis, *, trust_loopback: bool) -> None:
        self._redis = redis
        self._take = redis.register_script(SCRIPT)
        self._trust_loopback = trust_loopback
        self._counts = Counts()
        self._me = os.urandom(6).hex()
        self._serial = 0
        self._paused_until = 0.0
        self.alone = 0
        """Attempts that were counted in this process only."""

    async def take(self, kind: Guarded, address: str, subject: str) -> float:
        """Count it here, then everywhere; whoever refuses first is heard."""
        windows = windows_of(kind, address, subject, trust_loopback=self._trust_loopback)
        wait_s = self._counts.take(windows, time.monotonic())
        if wait_s > 0 or not windows:
            return wait_s
        self._serial += 1
        arguments = [f"{self._me}:{self._serial}"]
        for window in windows:
            arguments += [str(window.allowed), str(window.window_s * 1000)]
        answer = await self._asked(windows, arguments)
        if not answer:
            return 0.0
        self._counts.give_back(windows)  # it was counted nowhere else
        return answer / 1000

    async def _asked(self, windows: tuple[Window, ...], arguments: list[str]) -> int:
        """Milliseconds to wait; 0 also if Redis does not say."""
        if time.monotonic() >= self._paused_until:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    return int(await self._take(keys=_keys(windows), args=arguments))
            except (RedisError, OSError, TimeoutError) as error:
                self._failed(error)
        self.alone += 1
        return 0

    async def give_back(self, kind: Guarded, address: str, subject: str) -> None:
        """Uncount the latest of each."""
        windows = windows_of(kind, address, subject, trust_loopback=self._trust_loopback)
        self._counts.give_back(windows)
        if not windows or time.monotonic() < self._paused_until:
            return
        try:
            async with asyncio.timeout(TIMEOUT_S), self._redis.pipeline(transaction=True) as pipe:
                for key in _keys(windows):
                    pipe.zpopmax(key)
                await pipe.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + PAUSE_S
        log.warning("attempts_counted_alone", error=type(error).__name__)


def _keys(windows: tuple[Window, ...]) -> list[str]:
    """Addresses, of mail or of clients, are not stored: only what they hash to."""
    return [
        "kyma:try:" + hashlib.blake2b(window.name.encode(), digest_size=16).hexdigest()
        for window in windows
    ]
