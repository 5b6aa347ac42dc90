"""Recommendations, prices, tiers, configuration, uptime, rankings, status and badges."""

from __future__ import annotations

from adapters.http.schemas.models import PER_MILLION
from adapters.http.schemas.shapes import (
    DOLLARS,
    MOMENT,
    Schema,
    array,
    boolean,
    integer,
    maybe,
    number,
    record,
    text,
)
from kyma.catalog.recommend import AGENTS, USES

RANKING_TABS = ("models", "cache")
COUNT = integer(minimum=0)
PERCENT = maybe(number("Rounded down; null where nothing was measured.", minimum=0, maximum=100))
STATES = ("operational", "degraded", "down", "unknown")
STATE = text(enum=[*STATES])
URL = text(examples=["https://kymaapi.com/v1"])
ANY: Schema = {"type": "object"}
WORDS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
WINDOW = record({"days": integer(const=7), "from": MOMENT, "to": MOMENT})

WISH = {
    "agent": text("Agent name for specific config.", enum=[*AGENTS]),
    "usecase": text("Use case for recommendation.", enum=[*USES]),
    "for": text("Alias for usecase parameter", enum=[*USES]),
}
"""The query of `GET /v1/models/recommend`."""

REQUESTS = record(
    {"counted": COUNT, "answered": COUNT, "substituted": COUNT, "failed": COUNT},
    description="By the model itself, by a substitute, or not at all. A caller's own error and "
    "a client that left are not counted.",
)
ATTEMPTS = record({"counted": COUNT, "failed": COUNT, "success_percent": PERCENT})
UPTIME: dict[str, Schema] = {
    "uptime_percent": PERCENT,
    "served_percent": PERCENT,
    "requests": REQUESTS,
    "attempts": ATTEMPTS,
}
PROBES = {"checks": COUNT, "answered": COUNT, "success_percent": PERCENT}
CACHE_FIGURES = {
    "hit_rate_percent": PERCENT,
    "request_hit_rate_percent": PERCENT,
    "requests": COUNT,
    "requests_with_hits": COUNT,
    "prompt_tokens": COUNT,
    "cached_tokens": COUNT,
    "cache_write_tokens": COUNT,
    "savings_usd": number(minimum=0),
    "savings": DOLLARS,
}
TOKENS = {
    "requests": COUNT,
    "tokens": COUNT,
    "prompt_tokens": COUNT,
    "completion_tokens": COUNT,
}
PLACE: dict[str, Schema] = {"rank": integer(minimum=1), "model": text(), "name": text()}

CONFIG = record(
    {
        "format": text(enum=["openai", "anthropic"]),
        "env": WORDS,
        "files": array(
            record(
                {
                    "path": text(examples=["~/.claude/settings.json"]),
                    "format": text(enum=["json", "yaml"]),
                    "content": {"description": "Of JSON the object, of others the text."},
                }
            )
        ),
        "settings": array(record({"field": text(), "value": {}})),
        "where": text("Where the agent's own settings are."),
        "command": text(),
        "request": ANY,
        "notes": array(text()),
    },
    required=("format",),
    description="Variables, files or fields, as the agent takes them; put your key in.",
)

TIER = record(
    {
        "tier": integer(minimum=0, maximum=4),
        "name": text(examples=["Tier 0"]),
        "min_deposit": number("USD paid in over the account's life.", minimum=0),
        "rpm": COUNT,
        "per_model_rpm": COUNT,
        "tpm": COUNT,
        "max_single_request": integer("Input and estimated output tokens.", minimum=0),
        "image_concurrent": COUNT,
        "image_queue_depth_cap": COUNT,
        "video_concurrent": COUNT,
        "video_queue_depth_cap": COUNT,
        "audio_concurrent": COUNT,
        "audio_concurrent_per_provider": {
            "type": "object",
            "additionalProperties": {"type": "integer"},
        },
        "combined_media_concurrent": COUNT,
        "combined_queue_depth_cap": COUNT,
    },
    required=(
        "tier",
        "name",
        "min_deposit",
        "rpm",
        "per_model_rpm",
        "tpm",
        "max_single_request",
        "image_concurrent",
        "image_queue_depth_cap",
        "video_concurrent",
        "video_queue_depth_cap",
        "audio_concurrent",
        "audio_concurrent_per_provider",
    ),
)

SCHEMAS = {
    "Recommendation": record(
        {
            "object": text(const="recommendation"),
            "agent": maybe(text(enum=[*AGENTS])),
            "usecase": text(enum=[*USES]),
            "model": text("The id to use."),
            "name": text(),
            "reason": text(),
            "fast_model": text("For the small work that agents do on the side."),
            "alternatives": array(record({"id": text(), "name": text(), "best_for": text()})),
            "base_url": URL,
            "config": CONFIG,
            "agents": array(text()),
            "usecases": array(text()),
        }
    ),
    "Config": record(
        {
            "object": text(const="config"),
            "base_url": URL,
            "anthropic_base_url": text(),
            "format": text(const="openai"),
            "formats": array(text(enum=["openai", "anthropic"])),
            "streaming": boolean(),
            "authentication": WORDS,
            "default_model": maybe(text()),
            "recommended_models": WORDS,
            "aliases": WORDS,
            "models": array(
                record(
                    {
                        "id": text(),
                        "name": text(),
                        "capability": text(examples=["chat"]),
                        "context_window": COUNT,
                        "max_output_tokens": COUNT,
                    }
                )
            ),
            "agents": WORDS,
            "endpoints": WORDS,
            "links": record(
                {
                    "docs": text(),
                    "openapi": text(),
                    "status": text(),
                    "mcp": maybe(text()),
                    "dashboard": maybe(text()),
                }
            ),
        }
    ),
    "Capabilities": record(
        {
            "object": text(const="capabilities"),
            "limits": record(
                {
                    "gateway_output_limit": {"type": "null"},
                    "max_tokens_passthrough": boolean(),
                    "default_max_tokens": COUNT,
                    "max_context_window": maybe(integer("Tokens.")),
                    "max_request_bytes": COUNT,
                    "window_seconds": COUNT,
                    "daily_request_cap": {"type": "null"},
                    "tiers": text(),
                }
            ),
            "models": {"type": "object", "additionalProperties": {"type": "integer"}},
            "reliability": ANY,
            "compatibility": {"type": "object", "additionalProperties": {"type": "boolean"}},
            "pricing": ANY,
            "privacy": {"type": "object", "additionalProperties": {"type": "boolean"}},
        }
    ),
    "Pricing": record(
        {
            "object": text(const="pricing.catalog"),
            "text_count": COUNT,
            "media_count": COUNT,
            "text": array(
                record(
                    {
                        "id": text(),
                        "name": text(),
                        "input_per_1m": PER_MILLION,
                        "output_per_1m": PER_MILLION,
                        "cached_input_per_1m": PER_MILLION,
                    }
                )
            ),
            "media": array(
                record(
                    {
                        "id": text(),
                        "name": text(),
                        "modality": text(enum=["image", "video", "audio"]),
                        "pricing_mode": text(),
                        "usd_per_call": number(minimum=0),
                        "detail": ANY,
                    }
                )
            ),
        }
    ),
    "CreditsPricing": record(
        {
            "object": text(const="list"),
            "currency": text(const="USD"),
            "unit": text(),
            "data": array(
                record(
                    {
                        "id": text(),
                        "model": text(),
                        "name": text(),
                        "input_per_1m": PER_MILLION,
                        "output_per_1m": PER_MILLION,
                    }
                )
            ),
        }
    ),
    "TierMatrix": record({"object": text(const="tier.matrix"), "tiers": array(TIER)}),
    "Uptime": record(
        {
            "object": text(const="uptime"),
            "window": WINDOW,
            "overall": record(UPTIME),
            "data": array(
                record(
                    {
                        "id": text(),
                        "name": text(),
                        **UPTIME,
                        "probes": record({**PROBES, "providers": array(text())}),
                    }
                )
            ),
            "providers": array(
                record(
                    {
                        "id": text(),
                        **PROBES,
                        "last_check_at": MOMENT,
                        "last_check_ok": boolean(),
                    }
                )
            ),
        }
    ),
    "Rankings": record(
        {
            "object": text(const="rankings"),
            "tab": text(enum=[*RANKING_TABS]),
            "window": WINDOW,
            "totals": record(TOKENS, description="Of the tab models."),
            "overall": record(CACHE_FIGURES, description="Of the tab cache."),
            "data": {
                "type": "array",
                "items": {
                    "oneOf": [
                        record({**PLACE, **TOKENS, "share_percent": PERCENT}),
                        record({**PLACE, **CACHE_FIGURES}),
                    ]
                },
            },
        },
        required=("object", "tab", "window", "data"),
    ),
    "Status": record(
        {
            "object": text(const="status"),
            "status": STATE,
            "checked_at": MOMENT,
            "components": array(record({"id": text(), "status": STATE})),
            "providers": array(
                record({"id": text(), "status": STATE, "routes": COUNT, "routes_paused": COUNT})
            ),
            "models": record({"total": COUNT, "available": COUNT, "unavailable": array(text())}),
        }
    ),
    "ImageRegistry": record(
        {
            "object": text(const="registry"),
            "updated_at": MOMENT,
            "models": array(
                record(
                    {
                        "id": text(),
                        "name": text(),
                        "description": text(),
                        "best_for": text(),
                        "capability": text(enum=["image_generate", "image_edit"]),
                        "input_modalities": array(text()),
                        "output_modalities": array(text()),
                        "pricing": ANY,
                        "hot": boolean(),
                        "recommended": boolean(),
                    }
                )
            ),
        }
    ),
    "Badge": record(
        {
            "schemaVersion": integer(const=1),
            "label": text(),
            "message": text(),
            "color": text(),
            "cacheSeconds": COUNT,
        },
        description="What shields.io's endpoint badge reads.",
    ),
    "Alive": record({"status": text(const="ok")}),
    "Ready": record({"status": text(const="ready")}),
}
