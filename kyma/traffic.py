"""What the public figures are made of: traffic by model and provider, probes of providers.

No customer is in any of it. The rules of what counts against a model are here; the memory
adapter applies them as they stand, and a contract test holds the SQL to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from kyma.calls import Fault
from kyma.errors import Code
from kyma.money import ZERO, Usd
from kyma.routing import Step, next_step
from kyma.usage import UsageRecord

WINDOW = timedelta(days=7)
"""What public figures look back on, begun at a whole hour."""

OK = "ok"

DELIVERED = (OK, "client_left", Code.DEADLINE_PASSED.value)
"""Outcomes of requests whose tokens reached their customer: what rankings count."""

FAILED = (
    Code.PROVIDER_ERROR.value,
    Code.PROVIDER_TIMEOUT.value,
    Code.PROVIDER_BUSY.value,
    Code.NO_ROUTE.value,
    Code.STREAM_INTERRUPTED.value,
)
"""Outcomes that count against the model that was asked for. A caller's own error, a client
that left and a stream that we cut at a restart count neither for nor against it."""

FAILED_TRIES = tuple(fault.value for fault in Fault if next_step(fault) is Step.NEXT_ROUTE)
"""Outcomes of single attempts that count against the provider."""

OWN_LAYERS = 1
"""Up to this layer it is the very model that was asked for; beyond, another answers for it."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Sums over a span of time for one model and one provider ("" where nobody answered).

    The first seven count by the model that served: `requests` that were delivered, their
    tokens in disjoint buckets but for `prompt_tokens`, which is all input; `cache_hits` are
    requests of which any input came from a cache. The others count by the model that was
    asked for: `answered` by itself, `substituted` by another, `failed`, and single attempts.
    """

    model: str
    provider: str
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    cache_hits: int = 0
    savings: Usd = ZERO
    answered: int = 0
    substituted: int = 0
    failed: int = 0
    tries_ok: int = 0
    tries_failed: int = 0

    @property
    def tokens(self) -> int:
        """Everything that was processed."""
        return self.prompt_tokens + self.output_tokens

    @property
    def counted(self) -> int:
        """Requests that say something about the model that was asked for."""
        return self.answered + self.substituted + self.failed


SUMS = tuple(field.name for field in fields(Traffic) if field.name not in {"model", "provider"})


@dataclass(frozen=True, slots=True)
class Probe:
    """One question to a provider: `outcome` is `ok` or the fault, after `latency_ms`."""

    provider: str
    outcome: str
    latency_ms: int


@dataclass(frozen=True, slots=True)
class ProbeCount:
    """Probes of one provider over a span of time, and how the newest ended."""

    provider: str
    checks: int
    answered: int
    last_outcome: str
    last_at: datetime


def window_of(now: datetime) -> datetime:
    """The beginning of the seven days that end `now`: a whole hour, so that hours can be summed."""
    return now.replace(minute=0, second=0, microsecond=0) - WINDOW


def tally(records: Iterable[UsageRecord]) -> list[Traffic]:
    """The sums of these records, in the order of model and provider."""
    return _summed(row for record in records for row in _rows(record))


def by_model(rows: Iterable[Traffic]) -> dict[str, Traffic]:
    """The same sums over all providers of each model."""
    found = _summed(_renamed(row, row.model) for row in rows)
    return {row.model: row for row in found}


def total(rows: Iterable[Traffic]) -> Traffic:
    """The sum of everything; it names no model and no provider."""
    found = _summed(_renamed(row, "") for row in rows)
    return found[0] if found else Traffic("", "")


def percent(part: int, whole: int) -> float | None:
    """`part` of `whole` in percent, three decimals rounded down: one failure never shows as 100.

    None of nothing: no figure is made up where nothing was measured.
    """
    return math.floor(part * 100_000 / whole) / 1000 if whole else None


def _rows(record: UsageRecord) -> Iterable[Traffic]:
    usage = record.usage
    if record.outcome in DELIVERED:
        yield Traffic(
            record.served_model,
            record.provider,
            requests=1,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cache_read,
            cache_write_tokens=usage.cache_write,
            output_tokens=usage.completion_tokens,
            cache_hits=int(usage.cache_read > 0),
            savings=record.cache_discount,
        )
    if record.outcome == OK or _counts_against(record):
        yield Traffic(
            record.requested_model,
            record.provider,
            answered=int(record.outcome == OK and record.layer <= OWN_LAYERS),
            substituted=int(record.outcome == OK and record.layer > OWN_LAYERS),
            failed=int(record.outcome != OK),
        )
    for attempt in record.attempts:
        good, bad = attempt.outcome == OK, attempt.outcome in FAILED_TRIES
        if attempt.layer <= OWN_LAYERS and (good or bad):
            yield Traffic(
                record.requested_model,
                attempt.provider,
                tries_ok=int(good),
                tries_failed=int(bad),
            )


def _counts_against(record: UsageRecord) -> bool:
    """A stream that nobody had begun to serve was not interrupted by us: its client had left."""
    began = record.outcome != Code.STREAM_INTERRUPTED.value or record.provider != ""
    return record.outcome in FAILED and began


def _renamed(row: Traffic, model: str) -> Traffic:
    return Traffic(model, "", **{name: getattr(row, name) for name in SUMS})


def _summed(rows: Iterable[Traffic]) -> list[Traffic]:
    sums: dict[tuple[str, str], list[Any]] = {}  # counts, and one sum of money
    for row in rows:
        so_far = sums.setdefault((row.model, row.provider), [0] * len(SUMS))
        for place, name in enumerate(SUMS):
            so_far[place] += getattr(row, name)
    return [
        Traffic(model, provider, **dict(zip(SUMS, figures, strict=True)))
        for (model, provider), figures in sorted(sums.items())
    ]
