"""The tier ladder: who may do how much. A tier is derived, never stored.

Figures: docs pages guides/rate-limits and api-reference/limits-tiers (May 2026);
the $5 threshold and the audio pools follow `decisions.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kyma.money import Usd, usd


@dataclass(frozen=True, slots=True)
class Tier:
    """One rung: its deposit threshold and what it allows, per user over sliding 60 s."""

    level: int
    min_deposit: Usd
    requests_per_minute: int
    model_requests_per_minute: int
    tokens_per_minute: int
    max_request_tokens: int
    image_concurrent: int
    video_concurrent: int
    combined_media_concurrent: int | None
    audio_pools: tuple[tuple[str, int], ...]
    live_sessions: int

    @property
    def name(self) -> str:
        """`Tier 0` … `Tier 4`."""
        return f"Tier {self.level}"


def _pools(
    groq: int, vertex: int, elevenlabs: int, minimax: int, openai: int
) -> tuple[tuple[str, int], ...]:
    return (
        ("groq", groq),
        ("vertex", vertex),
        ("elevenlabs", elevenlabs),
        ("minimax", minimax),
        ("openai", openai),
    )


TIERS = (
    Tier(0, usd("0"), 30, 25, 200_000, 200_000, 2, 0, None, _pools(1, 2, 1, 1, 1), 1),
    Tier(1, usd("5"), 60, 40, 500_000, 500_000, 10, 4, None, _pools(4, 4, 2, 3, 2), 3),
    Tier(2, usd("50"), 120, 80, 2_000_000, 1_000_000, 20, 8, None, _pools(8, 8, 4, 6, 4), 10),
    Tier(3, usd("250"), 200, 150, 5_000_000, 3_000_000, 28, 10, None, _pools(16, 16, 6, 10, 6), 25),
    Tier(
        4,
        usd("1000"),
        300,
        200,
        10_000_000,
        10_000_000,
        38,
        38,
        38,
        _pools(30, 30, 10, 20, 10),
        100,
    ),
)


@dataclass(frozen=True, slots=True)
class Override:
    """An operator's tier decision: append-only, in force until `until` or a later row.

    `level` is None in a row that revokes the override before it.
    """

    id: str
    account_id: str
    level: int | None
    operator: str
    reason: str
    granted_at: datetime
    until: datetime | None

    def in_force(self, now: datetime) -> bool:
        """Whether it decides the tier at `now`."""
        return self.level is not None and (self.until is None or now < self.until)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a customer's tier is derived from."""

    account_id: str
    lifetime_deposits: Usd
    override: Override | None


def tier_of(deposits: Usd, override: Override | None, now: datetime) -> Tier:
    """The tier of a customer with these lifetime deposits and this latest override."""
    if override is not None and override.in_force(now) and override.level is not None:
        return TIERS[override.level]
    return max((tier for tier in TIERS if deposits >= tier.min_deposit), key=lambda t: t.level)


def why(deposits: Usd, override: Override | None, now: datetime) -> str:
    """Where the tier comes from, for its customer: who set it, and what for, stays inside."""
    if override is not None and override.in_force(now):
        return f"set by this gateway's operator, {_end_of(override)}"
    return f"lifetime deposits of ${deposits / 1e9:,.2f}"


def why_inside(deposits: Usd, override: Override | None, now: datetime) -> str:
    """The same for operators, with the name and the reason."""
    if override is not None and override.in_force(now):
        return f"override by {override.operator}, {_end_of(override)}: {override.reason}"
    return why(deposits, override, now)


def _end_of(override: Override) -> str:
    return f"until {override.until:%Y-%m-%d %H:%M} UTC" if override.until else "with no end"
