"""How a model looks in `GET /v1/models`: the published `Model` schema and what clients read.

Prices are JSON numbers of dollars per million tokens, under both of the published spellings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kyma.catalog.model import EMBEDDING, Model
from kyma.money import number
from kyma.pricing import PerToken

PRICING_MODE = "per-token"


def model_json(model: Model) -> dict[str, Any]:
    """One entry of the list."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "name": model.name,
        "description": model.description,
        "context_window": model.context_window,
        "max_output_tokens": model.max_output_tokens,
        "gateway_output_limit": None,
        "max_tokens_passthrough": True,
        "best_for": model.best_for,
        "recommended_for": [*model.recommended_for],
        "recommended": model.recommended,
        "hot": model.hot,
        "input_modalities": [*model.input_modalities],
        "output_modalities": [*model.output_modalities],
        "supported_parameters": _parameters(model),
        "supports_tools": model.tools,
        "supports_vision": model.vision,
        "supports_reasoning": model.reasoning,
        "supports_structured_outputs": model.structured_outputs,
        "supports_caching": model.caching,
        "speed": model.speed_grade,
        "latency_tier": model.speed_grade,
        "cost_tier": model.cost_grade,
        "quality_tier": model.quality_grade,
        "tier": model.grade,
        "capability": model.capability,
        "release_stage": model.release_stage,
        "pricing_mode": PRICING_MODE,
        "pricing": _pricing(model.price),
    }


def list_json(models: Iterable[Model], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The whole answer; `aliases` maps each alias to the id it stands for."""
    return {
        "object": "list",
        "data": [model_json(model) for model in models],
        "aliases": dict(aliases),
    }


def _pricing(price: PerToken) -> dict[str, Any]:
    input, output, cached = number(price.input), number(price.output), number(price.cached)
    return {
        "mode": PRICING_MODE,
        "currency": "USD",
        "input_per_1m": input,
        "output_per_1m": output,
        "cached_input_per_1m": cached,
        "cache_write_per_1m": number(price.cache_write),
        "input": input,
        "output": output,
    }


def _parameters(model: Model) -> list[str]:
    """Request fields the model acts on; others are passed through all the same."""
    if model.capability == EMBEDDING:
        return ["dimensions", "encoding_format", "user"]
    known = ["max_tokens", "stream", "stop"]
    if model.sampling:
        known += ["temperature", "top_p"]
    if model.tools:
        known += ["tools", "tool_choice"]
    if model.structured_outputs:
        known += ["response_format"]
    if model.reasoning:
        known += ["reasoning_effort"]
    return known
