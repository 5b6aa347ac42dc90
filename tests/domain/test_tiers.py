"""The tier ladder: thresholds, overrides, and the published figures."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kyma.money import Usd, usd
from kyma.tiers import TIERS, Override, tier_of, why, why_inside
from tests.builders import NOON

HOUR = timedelta(hours=1)


def an_override(level: int | None, until: datetime | None = None) -> Override:
    return Override("o", "a", level, "ana", "a trial", NOON - HOUR, until)


@pytest.mark.parametrize(
    ("deposits", "level"),
    [
        ("0", 0),
        ("0.50", 0),
        ("4.999999999", 0),
        ("5", 1),
        ("49.99", 1),
        ("50", 2),
        ("249.999999999", 2),
        ("250", 3),
        ("999.99", 3),
        ("1000", 4),
        ("1000000", 4),
    ],
)
def test_lifetime_deposits_decide_the_tier(deposits: str, level: int) -> None:
    assert tier_of(usd(deposits), None, NOON).level == level


@pytest.mark.parametrize(
    ("override", "level"),
    [
        (an_override(4), 4),
        (an_override(0), 0),
        (an_override(3, NOON + HOUR), 3),
        (an_override(3, NOON + timedelta(microseconds=1)), 3),
        (an_override(3, NOON), 1),
        (an_override(3, NOON - HOUR), 1),
        (an_override(None), 1),
        (an_override(None, NOON + HOUR), 1),
        (None, 1),
    ],
    ids=["up", "down", "future", "just", "end", "expired", "revoked", "revoked-till", "none"],
)
def test_an_override_decides_while_it_is_in_force(override: Override | None, level: int) -> None:
    assert tier_of(usd("5"), override, NOON).level == level


DEPOSITED = "lifetime deposits of $1,234.50"


@pytest.mark.parametrize(
    ("override", "told", "inside"),
    [
        (None, *[DEPOSITED] * 2),
        (an_override(None), *[DEPOSITED] * 2),
        (an_override(2, NOON), *[DEPOSITED] * 2),
        (
            an_override(2),
            "set by this gateway's operator, with no end",
            "override by ana, with no end: a trial",
        ),
        (
            an_override(2, NOON + HOUR),
            "set by this gateway's operator, until 2026-05-17 13:00 UTC",
            "override by ana, until 2026-05-17 13:00 UTC: a trial",
        ),
    ],
)
def test_the_reason_is_a_sentence_and_the_operators_own_stays_inside(
    override: Override | None, told: str, inside: str
) -> None:
    assert why(usd("1234.50"), override, NOON) == told
    assert why_inside(usd("1234.50"), override, NOON) == inside


@given(st.integers(0, 10**13), st.integers(0, 10**13))
def test_a_larger_deposit_never_means_a_lower_tier(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert tier_of(Usd(low), None, NOON).level <= tier_of(Usd(high), None, NOON).level


def test_tier_zero_is_the_documented_object() -> None:
    """facts section 2.5: the documented Tier 0 object."""
    tier = TIERS[0]
    pools = dict(tier.audio_pools)
    assert {
        "tier": tier.level,
        "name": tier.name,
        "min_deposit": tier.min_deposit,
        "rpm": tier.requests_per_minute,
        "per_model_rpm": tier.model_requests_per_minute,
        "tpm": tier.tokens_per_minute,
        "max_single_request": tier.max_request_tokens,
        "image_concurrent": tier.image_concurrent,
        "image_queue_depth_cap": 3 * tier.image_concurrent,
        "video_concurrent": tier.video_concurrent,
        "video_queue_depth_cap": 3 * tier.video_concurrent,
        "audio_concurrent": max(pools.values()),
        "audio_concurrent_per_provider": pools,
    } == {
        "tier": 0,
        "name": "Tier 0",
        "min_deposit": 0,
        "rpm": 30,
        "per_model_rpm": 25,
        "tpm": 200_000,
        "max_single_request": 200_000,
        "image_concurrent": 2,
        "image_queue_depth_cap": 6,
        "video_concurrent": 0,
        "video_queue_depth_cap": 0,
        "audio_concurrent": 2,
        "audio_concurrent_per_provider": {
            "groq": 1,
            "vertex": 2,
            "elevenlabs": 1,
            "minimax": 1,
            "openai": 1,
        },
    }


def test_the_ladder_has_the_published_figures() -> None:
    """facts sections 2.2 and 2.3."""
    assert [
        (
            tier.level,
            tier.min_deposit // usd("1"),
            tier.requests_per_minute,
            tier.model_requests_per_minute,
            tier.tokens_per_minute,
            tier.max_request_tokens,
            tier.image_concurrent,
            tier.video_concurrent,
            tier.combined_media_concurrent,
        )
        for tier in TIERS
    ] == [
        (0, 0, 30, 25, 200_000, 200_000, 2, 0, None),
        (1, 5, 60, 40, 500_000, 500_000, 10, 4, None),
        (2, 50, 120, 80, 2_000_000, 1_000_000, 20, 8, None),
        (3, 250, 200, 150, 5_000_000, 3_000_000, 28, 10, None),
        (4, 1000, 300, 200, 10_000_000, 10_000_000, 38, 38, 38),
    ]


def test_every_figure_grows_with_the_tier() -> None:
    for lower, higher in pairwise(TIERS):
        assert lower.level + 1 == higher.level
        assert lower.min_deposit < higher.min_deposit
        assert lower.requests_per_minute < higher.requests_per_minute
        assert lower.tokens_per_minute < higher.tokens_per_minute
        assert lower.max_request_tokens < higher.max_request_tokens
        for (pool, slots), (same, more) in zip(lower.audio_pools, higher.audio_pools, strict=True):
            assert pool == same
            assert slots < more
