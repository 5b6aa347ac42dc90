"""The machine's clock, dice, ids, hashing and log behind the runtime ports."""

from __future__ import annotations

import asyncio
import hmac
import os
import random
import secrets
import time
from datetime import UTC, datetime

import structlog
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

log = structlog.get_logger("kyma")


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
        """Uniform in (0, 1). Spreads load, guards nothing."""
        return random.random() or 0.5  # noqa: S311

    def id(self) -> str:
        """UUID version 7 (RFC 9562): 48 bits of milliseconds, then randomness, as 32 hex digits."""
        value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
        value = value & ~(0xF << 76) | 0x7 << 76
        value = value & ~(0x3 << 62) | 0x2 << 62
        return f"{value:032x}"

    def secret(self, prefix: str) -> str:
        """`prefix` and 192 random bits in hex."""
        return prefix + secrets.token_hex(24)


class Argon2Passwords:
    """argon2id with the library's current defaults, in a thread."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._decoy = self._hasher.hash(secrets.token_hex(16))

    async def hash(self, password: str) -> str:
        """A PHC string."""
        return await asyncio.to_thread(self._hasher.hash, password)

    async def matches(self, password: str, hashed: str | None) -> bool:
        """Whether it is the password; without a hash a decoy is compared, to take as long."""
        return await asyncio.to_thread(self._compare, password, hashed)

    def _compare(self, password: str, hashed: str | None) -> bool:
        try:
            self._hasher.verify(hashed or self._decoy, password)
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
