"""What the flows need of the running system: time, dice, ids, counters, health, secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kyma.calls import Fault
from kyma.routing import Health
from kyma.throttles import Guarded
from kyma.tiers import Tier


class Clock(Protocol):
    """The only source of time."""

    def now(self) -> datetime:
        """Wall clock, UTC, aware."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for timeouts and durations."""
        ...


class Chance(Protocol):
    """The only source of randomness."""

    def dice(self) -> float:
        """Uniform in (0, 1)."""
        ...

    def id(self) -> str:
        """A new time-ordered UUID (version 7) as 32 hex digits."""
        ...

    def secret(self, prefix: str) -> str:
        """An unguessable secret that begins with `prefix`."""
        ...


class Passwords(Protocol):
    """Slow, salted password hashing, off the event loop."""

    async def hash(self, password: str) -> str:
        """A hash that carries its own salt and parameters."""
        ...

    async def matches(self, password: str, hashed: str | None) -> bool:
        """Constant-time comparison; takes as long when there is no hash to compare with."""
        ...


class Digests(Protocol):
    """How secrets are stored."""

    def digest(self, secret: str) -> bytes:
        """HMAC-SHA-256 of a secret under the server's pepper."""
        ...


class Vault(Protocol):
    """Encryption under keys that only a caller's own secret yields."""

    def key(self, secret: str, purpose: str) -> bytes:
        """The 32-byte key that this secret has for this purpose; always the same."""
        ...

    def seal(self, key: bytes, plain: bytes, bound_to: bytes) -> bytes:
        """Encrypt and authenticate; what it is bound to must be given again to open it."""
        ...

    def open(self, key: bytes, sealed: bytes, bound_to: bytes) -> bytes | None:
        """What was sealed, or None if key or binding are others or the bytes were changed."""
        ...


@dataclass(frozen=True, slots=True)
class Quota:
    """Answer of the limiter: whether the request may pass, and what is left for headers.

    `limited_by` is None when it passes, else `requests`, `model_requests` or `tokens`.
    `unlimited` marks an answer given while the counters could not be reached. `counted_at` is
    when a request was counted, by the counters' own clock in ms; 0 if it was not.
    """

    limited_by: str | None
    requests_used: int
    model_requests_used: int
    tokens_used: int
    retry_after_s: float = 0.0
    requests_reset_s: float = 0.0
    unlimited: bool = False
    counted_at: int = 0


class Limiter(Protocol):
    """Sliding 60 s windows shared by all keys of an account and by all processes."""

    async def take(self, account_id: str, model: str, tokens: int, tier: Tier) -> Quota:
        """Count one request of `tokens` if the tier allows it; counts nothing if not."""
        ...

    def correct(self, account_id: str, quota: Quota, tokens: int) -> None:
        """Add `tokens` (below zero: return them) to the request that got `quota`.

        The correction leaves the window together with what it corrects. Takes effect with the
        account's next request, at the latest within a second.
        """
        ...

    async def peek(self, account_id: str) -> Quota:
        """What is used now, without counting."""
        ...


class Attempts(Protocol):
    """How often somebody tried to get in, counted by `kyma.throttles` over all processes.

    There is no answer "unknown": a process that is on its own counts for itself.
    """

    async def take(self, kind: Guarded, address: str, subject: str) -> float:
        """Count one attempt, of a client's address upon a subject: 0.0.

        Or count nothing if there were too many: the seconds until there may be another.
        """
        ...

    async def give_back(self, kind: Guarded, address: str, subject: str) -> None:
        """The attempt was none: it succeeded."""
        ...


class HealthBoard(Protocol):
    """Health of routes as all processes see it, at most moments old."""

    def view(self) -> Mapping[str, Health]:
        """Health by route key; a route without an entry is unknown and usable."""
        ...

    def succeeded(self, key: str, latency_ms: float) -> None:
        """A call on this route brought its first byte after `latency_ms`."""
        ...

    def failed(self, key: str, fault: Fault, retry_after_s: float | None = None) -> None:
        """A call on this route failed."""
        ...

    def probing(self, key: str) -> None:
        """A call to a half-open route starts."""
        ...


class Conversations(Protocol):
    """Which route holds the cache of a conversation: a hint that may be lost, never a promise."""

    async def recall(self, conversation: str) -> str | None:
        """The key of the route that answered last, if that was lately; None also when unsure."""
        ...

    def remember(self, conversation: str, route_key: str) -> None:
        """That this route answered just now; known within moments, in every process."""
        ...


class Invalidations(Protocol):
    """Tells every process to forget what it remembers of an account."""

    async def forget(self, account_id: str) -> None:
        """The account's keys, tier or override changed."""
        ...


class Alerts(Protocol):
    """What an operator must hear about."""

    def provider_account_refused(self, provider: str, message: str) -> None:
        """Our account at a provider is unpaid, locked or its key is wrong."""
        ...

    def implausible_usage(self, provider: str, model: str, message: str) -> None:
        """An upstream reported figures that cannot be billed."""
        ...
