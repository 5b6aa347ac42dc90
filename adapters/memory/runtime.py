"""The runtime ports in memory: a clock that tests move, dice that repeat, counters, health."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from kyma import routing
from kyma.calls import Fault
from kyma.ports.runtime import Quota
from kyma.routing import UNKNOWN, Health
from kyma.tiers import Tier

WINDOW_S = 60.0


@dataclass(slots=True)
class MemoryClock:
    """Stands still until told otherwise; `monotonic` may follow a real one for timeouts."""

    at: datetime = datetime(2026, 5, 17, 12, 0, tzinfo=UTC)
    ticking: Callable[[], float] | None = None
    _moved_s: float = 0.0

    def now(self) -> datetime:
        """The time it was set to."""
        return self.at

    def monotonic(self) -> float:
        """Seconds it was moved, or the real clock's."""
        return self.ticking() if self.ticking else self._moved_s

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.at += timedelta(seconds=seconds)
        self._moved_s += seconds


class MemoryChance:
    """Repeats itself for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose

    def dice(self) -> float:
        """Uniform in (0, 1)."""
        return self._random.random() or 0.5

    def id(self) -> str:
        """32 hex digits with a UUID's version and variant."""
        value = self._random.getrandbits(128)
        value = value & ~(0xF << 76) | 0x7 << 76
        value = value & ~(0x3 << 62) | 0x2 << 62
        return f"{value:032x}"

    def secret(self, prefix: str) -> str:
        """`prefix` and 48 hex digits."""
        return f"{prefix}{self._random.getrandbits(192):048x}"


class MemoryPasswords:
    """No hashing at all: tests are fast, and what is stored is visibly no hash."""

    async def hash(self, password: str) -> str:
        """The password with a mark."""
        return f"plain:{password}"

    async def matches(self, password: str, hashed: str | None) -> bool:
        """Whether it is the same."""
        return hashed == f"plain:{password}"


@dataclass(slots=True)
class _Counted:
    at: float
    model: str
    tokens: int
    requests: int


class MemoryConversations:
    """Remembers for as long as it lives."""

    def __init__(self) -> None:
        self.held_by: dict[str, str] = {}

    async def recall(self, conversation: str) -> str | None:
        """The route that answered last."""
        return self.held_by.get(conversation)

    def remember(self, conversation: str, route_key: str) -> None:
        """It answers from now on."""
        self.held_by[conversation] = route_key


class MemoryLimiter:
    """The same sliding windows as the script in Redis, on a given clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._counted: dict[str, list[_Counted]] = defaultdict(list)

    async def take(self, account_id: str, model: str, tokens: int, tier: Tier) -> Quota:
        """Count a request if the tier allows it."""
        now = self._now()
        live = self._live(account_id, now)
        requests = sum(one.requests for one in live)
        of_model = sum(one.requests for one in live if one.model == model)
        used = sum(one.tokens for one in live)
        limited = None
        if requests + 1 > tier.requests_per_minute:
            limited = "requests"
        elif of_model + 1 > tier.model_requests_per_minute:
            limited = "model_requests"
        elif used + tokens > tier.tokens_per_minute:
            limited = "tokens"
        if limited is not None:
            excess = {
                "requests": requests + 1 - tier.requests_per_minute,
                "model_requests": of_model + 1 - tier.model_requests_per_minute,
                "tokens": used + tokens - tier.tokens_per_minute,
            }
            retry = max(
                _retry_after(live, limit, model, over, now)
                for limit, over in excess.items()
                if over > 0
            )
            return Quota(limited, requests, of_model, used, retry, _reset(live, now))
        live.append(_Counted(now, model, tokens, 1))
        return Quota(
            None,
            requests + 1,
            of_model + 1,
            used + tokens,
            0.0,
            _reset(live, now),
            counted_at=int(now * 1000),
        )

    def correct(self, account_id: str, quota: Quota, tokens: int) -> None:
        """Correct at once, as of the time of the request."""
        if tokens and quota.counted_at:
            at = quota.counted_at / 1000
            self._live(account_id, self._now()).append(_Counted(at, "", tokens, 0))

    async def peek(self, account_id: str) -> Quota:
        """What is used now."""
        now = self._now()
        live = self._live(account_id, now)
        requests = sum(one.requests for one in live)
        return Quota(None, requests, 0, sum(one.tokens for one in live), 0.0, _reset(live, now))

    def _live(self, account_id: str, now: float) -> list[_Counted]:
        counted = self._counted[account_id]
        counted[:] = [one for one in counted if one.at > now - WINDOW_S]
        return counted


def _reset(live: list[_Counted], now: float) -> float:
    return max(0.0, min((one.at for one in live), default=now - WINDOW_S) + WINDOW_S - now)


def _retry_after(live: list[_Counted], limited: str, model: str, excess: int, now: float) -> float:
    for one in sorted(live, key=lambda one: one.at):
        if limited == "tokens":
            excess -= one.tokens
        elif limited == "requests" or one.model == model:
            excess -= one.requests
        if excess <= 0:
            return one.at + WINDOW_S - now
    return WINDOW_S


@dataclass(slots=True)
class MemoryHealth:
    """The `HealthBoard` port for one process."""

    now: Callable[[], float]
    health: dict[str, Health] = field(default_factory=dict)

    def view(self) -> Mapping[str, Health]:
        """The live mapping."""
        return self.health

    def succeeded(self, key: str, latency_ms: float) -> None:
        """Apply."""
        self.health[key] = routing.succeeded(self.health.get(key, UNKNOWN), latency_ms, self.now())

    def failed(self, key: str, fault: Fault, retry_after_s: float | None = None) -> None:
        """Apply."""
        self.health[key] = routing.failed(
            self.health.get(key, UNKNOWN), fault, self.now(), retry_after_s
        )

    def probing(self, key: str) -> None:
        """Apply."""
        self.health[key] = routing.probing(self.health.get(key, UNKNOWN), self.now())


@dataclass(slots=True)
class MemoryInvalidations:
    """Remembers what was to be forgotten."""

    forgotten: list[str] = field(default_factory=list)

    async def forget(self, account_id: str) -> None:
        """Note it."""
        self.forgotten.append(account_id)


@dataclass(slots=True)
class MemoryAlerts:
    """Remembers what an operator would have heard."""

    heard: list[tuple[str, ...]] = field(default_factory=list)

    def provider_account_refused(self, provider: str, message: str) -> None:
        """Note it."""
        self.heard.append(("provider_account_refused", provider, message))

    def implausible_usage(self, provider: str, model: str, message: str) -> None:
        """Note it."""
        self.heard.append(("implausible_usage", provider, model, message))
