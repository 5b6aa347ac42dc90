"""What was consumed: disjoint token buckets, and the metadata record of one request.

No prompt and no answer is ever part of a record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from kyma.money import ZERO, Usd

MAX_TOKENS = 1 << 40
"""A count beyond this is a broken upstream, not usage."""


class Evidence(StrEnum):
    """How well a usage figure is known."""

    EXACT = "exact"
    AT_LEAST = "at_least"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens in disjoint buckets: their sum is everything that was processed.

    `input` excludes cache reads and writes; `reasoning` excludes visible `output`.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    evidence: Evidence = Evidence.EXACT

    @property
    def prompt_tokens(self) -> int:
        """All input, however it was served."""
        return self.input + self.cache_read + self.cache_write

    @property
    def completion_tokens(self) -> int:
        """All output, thinking included."""
        return self.output + self.reasoning


NOTHING = Usage()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call to an upstream on behalf of a request."""

    provider: str
    upstream_model: str
    layer: int
    outcome: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One served request, written in the same transaction as its settlement."""

    id: str
    account_id: str
    key_id: str
    endpoint: str
    requested_model: str
    served_model: str
    provider: str
    layer: int
    streamed: bool
    outcome: str
    usage: Usage
    price_version: str
    charged: Usd
    cache_discount: Usd
    provider_cost: Usd
    first_byte_ms: int
    duration_ms: int
    attempts: tuple[Attempt, ...]
    started_at: datetime


@dataclass(frozen=True, slots=True)
class CustomerUsage:
    """A row of the top-customers report over a period."""

    account_id: str
    email: str
    spend: Usd
    tokens: int
    requests: int
    provider_cost: Usd = ZERO


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """Cache statistics of one model on one day (UTC)."""

    day: datetime
    model: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    savings: Usd

    @property
    def hit_rate(self) -> float:
        """Share of prompt tokens that came from a cache, 0 to 1."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open span of time, `since ≤ t < until`."""

    since: datetime
    until: datetime = field(kw_only=True)
