"""Quantiles and a histogram of durations. Durations are whole nanoseconds, results milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NANOS_PER_MS = 1_000_000


def quantile(ordered: Sequence[int], share: float) -> float | None:
    """The smallest of the sorted durations that `share` of them do not exceed, in ms."""
    if not ordered:
        return None
    place = min(len(ordered) - 1, max(0, -(-int(share * 10_000) * len(ordered) // 10_000) - 1))
    return round(ordered[place] / NANOS_PER_MS, 4)


def summary(durations: list[int]) -> dict[str, Any]:
    """Count, mean, quantiles and maximum; None where there was nothing to measure."""
    ordered = sorted(durations)
    mean = round(sum(ordered) / len(ordered) / NANOS_PER_MS, 4) if ordered else None
    return {
        "count": len(ordered),
        "mean_ms": mean,
        "p50_ms": quantile(ordered, 0.5),
        "p90_ms": quantile(ordered, 0.9),
        "p99_ms": quantile(ordered, 0.99),
        "max_ms": quantile(ordered, 1.0),
    }


def histogram(durations: list[int]) -> list[tuple[float, int]]:
    """How many lie at or below each bound, bounds growing by a quarter octave; empty ones left out.

    Pairs of (upper bound in ms, count): enough to draw the distribution, or to merge two.
    """
    bounds: list[float] = []
    counts: list[int] = []
    bound, ordered, at = 0.01, sorted(durations), 0
    while at < len(ordered):
        before, limit = at, bound * NANOS_PER_MS
        while at < len(ordered) and ordered[at] <= limit:
            at += 1
        if at > before:
            bounds.append(round(bound, 4))
            counts.append(at - before)
        bound *= 2**0.25
    return list(zip(bounds, counts, strict=True))
