"""What `GET /v1/models` lists."""

from __future__ import annotations

from adapters.http.schemas.shapes import (
    array,
    boolean,
    integer,
    number,
    record,
    ref,
    text,
)
from kyma.catalog.filters import CAPABILITIES, COSTS, GRADES, QUALITIES, SPEEDS, USES

PER_MILLION = number("USD per million tokens.", minimum=0)
INPUTS = ("text", "image", "audio", "video", "document")
OUTPUTS = ("text", "audio", "image", "embedding")
STAGES = ("stable", "preview", "limited")

ONE_OF = f"({'|'.join(USES)})"

PRICING = record(
    {
        "mode": text(enum=["per-token"]),
        "currency": text(const="USD"),
        "input_per_1m": PER_MILLION,
        "output_per_1m": PER_MILLION,
        "cached_input_per_1m": PER_MILLION,
        "cache_write_per_1m": PER_MILLION,
        "input": PER_MILLION,
        "output": PER_MILLION,
    },
    description="Both published spellings; they are always equal.",
)

SCHEMAS = {
    "Model": record(
        {
            "id": text(examples=["qwen-3.6-plus"]),
            "object": text(const="model"),
            "created": integer("When it joined the catalogue, in Unix seconds."),
            "owned_by": text("Who made it."),
            "name": text(),
            "description": text(),
            "context_window": integer("Tokens.", minimum=1),
            "max_output_tokens": integer("Tokens; 0 where it writes none.", minimum=0),
            "gateway_output_limit": {
                "type": "null",
                "description": "Always null. Kyma does not impose output limits",
            },
            "max_tokens_passthrough": {
                "type": "boolean",
                "const": True,
                "description": "Always true. max_tokens is forwarded directly to the model",
            },
            "best_for": text(),
            "recommended_for": array(text(enum=[*USES])),
            "recommended": boolean(),
            "hot": boolean(),
            "input_modalities": array(text(enum=[*INPUTS])),
            "output_modalities": array(text(enum=[*OUTPUTS])),
            "supported_parameters": array(text()),
            "supports_tools": boolean(),
            "supports_vision": boolean(),
            "supports_reasoning": boolean(),
            "supports_structured_outputs": boolean(),
            "supports_caching": boolean(),
            "speed": text(enum=[*SPEEDS]),
            "latency_tier": text(enum=[*SPEEDS]),
            "cost_tier": text(enum=[*COSTS]),
            "quality_tier": text(enum=[*QUALITIES]),
            "tier": text("The picker's top level.", enum=[*GRADES]),
            "capability": text(examples=["chat"]),
            "release_stage": text(enum=[*STAGES]),
            "pricing_mode": text(enum=["per-token"]),
            "pricing": PRICING,
        }
    ),
    "ModelList": record(
        {
            "object": text(const="list"),
            "data": array(ref("Model")),
            "aliases": {
                "type": "object",
                "description": "Map of alias name to resolved model ID",
                "additionalProperties": {"type": "string"},
            },
        }
    ),
}

FILTERS = {
    "recommended_for": text(
        "Filter by recommended use case (comma-separated). Values: " + ", ".join(USES),
        pattern=f"^({ONE_OF}( *, *{ONE_OF})*)?$",
        examples=["coding", "coding,agent"],
    ),
    "tools": boolean("Filter to models supporting tool calling"),
    "vision": boolean("Filter to models supporting image input"),
    "reasoning": boolean("Filter to models with reasoning capabilities"),
    "structured_outputs": boolean("Filter to models supporting structured outputs / JSON mode"),
    "latency_tier": text("Filter by latency tier", enum=[*SPEEDS]),
    "cost_tier": text("Filter by cost tier", enum=[*COSTS]),
    "quality_tier": text("Filter by quality tier", enum=[*QUALITIES]),
    "tier": text("Filter by the picker's top level", enum=[*GRADES]),
    "capability": text("Filter by what the model does", enum=[*CAPABILITIES]),
    "min_context_window": integer(
        "Minimum context window size in tokens", minimum=0, maximum=10**12 - 1
    ),
    "max_input_price": number("Maximum input price per 1M tokens", minimum=0, maximum=1_000_000),
}
"""The query of `GET /v1/models`, as `kyma.catalog.filters` reads it."""
