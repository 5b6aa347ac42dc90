"""Prices, tiers and the small public documents, in their published shapes.

Shapes: docs pages api-reference/pricing-catalog and api-reference/limits-tiers; the registry
and the badges as public clients read them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from kyma.catalog.model import Model
from kyma.money import NANOS_PER_USD, Usd, number
from kyma.tiers import TIERS, Tier

PER_MILLION = "USD per 1M tokens"
BADGE_CACHE_S = 3600

QUEUE_PER_SLOT = 3
"""Queued jobs allowed for each that may run, in every tier (docs page guides/rate-limits)."""


def pricing_json(models: Iterable[Model]) -> dict[str, Any]:
    """`GET /v1/pricing`: one entry per SKU, by id. No media model is served yet."""
    text = [
        {
            "id": model.id,
            "name": model.name,
            "input_per_1m": number(model.price.input),
            "output_per_1m": number(model.price.output),
            "cached_input_per_1m": number(model.price.cached),
        }
        for model in _sorted(models)
    ]
    media: list[dict[str, Any]] = []
    return {
        "object": "pricing.catalog",
        "text_count": len(text),
        "media_count": len(media),
        "text": text,
        "media": media,
    }


def credits_pricing_json(models: Iterable[Model]) -> dict[str, Any]:
    """`GET /v1/credits/pricing`: the older table, of text models alone."""
    return {
        "object": "list",
        "currency": "USD",
        "unit": PER_MILLION,
        "data": [
            {
                "id": model.id,
                "model": model.id,
                "name": model.name,
                "input_per_1m": number(model.price.input),
                "output_per_1m": number(model.price.output),
            }
            for model in _sorted(models)
        ],
    }


def tiers_json() -> dict[str, Any]:
    """`GET /v1/limits/tiers`."""
    return {"object": "tier.matrix", "tiers": [_tier(tier) for tier in TIERS]}


def registry_json(updated_at: datetime) -> dict[str, Any]:
    """`GET /registry/image-models.json`. No image model is in the catalogue yet."""
    return {"object": "registry", "updated_at": updated_at, "models": []}


def badge(label: str, message: str, color: str) -> dict[str, Any]:
    """What shields.io's endpoint badge reads."""
    return {
        "schemaVersion": 1,
        "label": label,
        "message": message,
        "color": color,
        "cacheSeconds": BADGE_CACHE_S,
    }


def _sorted(models: Iterable[Model]) -> list[Model]:
    return sorted(models, key=lambda model: model.id)


def _tier(tier: Tier) -> dict[str, Any]:
    """Where image and video share their slots, the queue caps of each are zero."""
    shared = tier.combined_media_concurrent
    pools = dict(tier.audio_pools)
    row = {
        "tier": tier.level,
        "name": tier.name,
        "min_deposit": _whole(tier.min_deposit),
        "rpm": tier.requests_per_minute,
        "per_model_rpm": tier.model_requests_per_minute,
        "tpm": tier.tokens_per_minute,
        "max_single_request": tier.max_request_tokens,
        "image_concurrent": tier.image_concurrent,
        "image_queue_depth_cap": 0 if shared else QUEUE_PER_SLOT * tier.image_concurrent,
        "video_concurrent": tier.video_concurrent,
        "video_queue_depth_cap": 0 if shared else QUEUE_PER_SLOT * tier.video_concurrent,
        "audio_concurrent": max(pools.values()),
        "audio_concurrent_per_provider": pools,
    }
    if shared:
        row["combined_media_concurrent"] = shared
        row["combined_queue_depth_cap"] = QUEUE_PER_SLOT * shared
    return row


def _whole(amount: Usd) -> int | float:
    """Dollars as the documented whole number, where they are one."""
    dollars, nanos = divmod(amount, NANOS_PER_USD)
    return number(amount) if nanos else dollars
