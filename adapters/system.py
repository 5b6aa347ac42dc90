"""The machine's clock, dice, ids, hashing and log behind the runtime ports."""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
import random
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TypeVar

import structlog
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from kyma.errors import Code, Refusal

log = structlog.get_logger("kyma")

R = TypeVar("R")


class SystemClock:
    """The operating system's clocks."""

    def now(self) -> datetime:
        """Wall clock, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds of the monotonic clock, the one asyncio's timeouts run on."""
        return time.monotonic()


class SystemChance:
    """Randomness from the operating system."""

    def dice(self) -> float:
        """Uniform in (0, 1)."""
        return random.random() or 0.5  # noqa: S311 - spreads load, guards nothing

    def id(self) -> str:
        """UUID version 7 (RFC 9562): 48 bits of milliseconds, then randomness, as 32 hex digits."""
        value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
        value = value & ~(0xF << 76) | 0x7 << 76
        value = value & ~(0x3 << 62) | 0x2 << 62
        return f"{value:032x}"

    def secret(self, prefix: str) -> str:
        """`prefix` and 192 random bits in hex."""
        return prefix + secrets.token_hex(24)


def _decoy(hasher: PasswordHasher) -> str:
    """What takes as long to compare as a hash of `hasher`, and is that of no known password."""
    salt, hashed = secrets.token_bytes(hasher.salt_len), secrets.token_bytes(hasher.hash_len)
    packed = [base64.b64encode(part).rstrip(b"=").decode() for part in (salt, hashed)]
    costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return "$".join(["", "argon2id", "v=19", costs, *packed])


class Argon2Passwords:
    """argon2id on threads of its own, with the first parameters of OWASP's password cheat sheet.

    A burst of sign-ups waits here, in turn, rather than taking the processor from the requests
    and the database's connections; one that would wait for long is refused.
    """

    def __init__(self, memory_mb: int = 46, most_waiting: int = 64) -> None:
        """`memory_mb` is what one hash takes, in MiB; 46 is OWASP's for a single pass."""
        self._hasher = PasswordHasher(memory_cost=memory_mb * 1024, time_cost=1, parallelism=1)
        at_once = max(1, (os.cpu_count() or 1) // 2)
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="password")
        self._most_waiting = most_waiting
        self._waiting = 0
        self.decoy = _decoy(self._hasher)

    async def hash(self, password: str) -> str:
        """A PHC string."""
        return await self._run(self._hasher.hash, password)

    async def matches(self, password: str, hashed: str | None) -> bool:
        """Whether it is the password; without a hash a decoy is compared, to take as long."""
        return await self._run(self._compare, password, hashed)

    async def _run(self, work: Callable[..., R], *args: object) -> R:
        if self._waiting >= self._most_waiting:
            raise Refusal(
                Code.TOO_MANY_ATTEMPTS,
                "Too many people sign in or up at this moment. Try again in some seconds.",
                retry_after_s=5,
            )
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, work, *args)
        finally:
            self._waiting -= 1

    def _compare(self, password: str, hashed: str | None) -> bool:
        try:
            self._hasher.verify(hashed or self.decoy, password)
        except (VerifyMismatchError, InvalidHashError):
            return False
        return hashed is not None


class HmacDigests:
    """HMAC-SHA-256 under the server's pepper."""

    def __init__(self, pepper: str) -> None:
        if len(pepper) < 32:
            raise ValueError("KYMA_KEY_PEPPER must be set to at least 32 characters")
        self._pepper = pepper.encode()

    def digest(self, secret: str) -> bytes:
        """32 bytes; non-ASCII secrets hash too, and match nothing."""
        return hmac.digest(self._pepper, secret.encode("utf-8", "surrogatepass"), "sha256")


class LogAlerts:
    """Alerts as log lines of level `error`, for whatever watches the log."""

    def provider_account_refused(self, provider: str, message: str) -> None:
        """Money or keys at a provider need a person."""
        log.error("provider_account_refused", provider=provider, message=message)

    def implausible_usage(self, provider: str, model: str, message: str) -> None:
        """An upstream's figures were thrown away."""
        log.error("implausible_usage", provider=provider, model=model, message=message)
