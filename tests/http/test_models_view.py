"""`GET /v1/models` as the published schema and the public clients want it."""

import json

import pytest

from adapters.http.models_view import list_json, model_json
from kyma.catalog.text import ALIASES, TEXT_MODELS

SCHEMA = {
    "id": str,
    "name": str,
    "description": str,
    "context_window": int,
    "max_output_tokens": int,
    "best_for": str,
    "speed": str,
    "recommended": bool,
    "hot": bool,
    "input_modalities": list,
    "output_modalities": list,
    "supported_parameters": list,
    "supports_tools": bool,
    "supports_vision": bool,
    "supports_reasoning": bool,
    "supports_structured_outputs": bool,
    "latency_tier": str,
    "cost_tier": str,
    "quality_tier": str,
    "release_stage": str,
    "recommended_for": list,
    "pricing": dict,
    "gateway_output_limit": type(None),
    "max_tokens_passthrough": bool,
}
"""Every property of the OpenAPI schema `Model`."""

READ_BY_CLIENTS = {
    "object": str,
    "created": int,
    "owned_by": str,
    "pricing_mode": str,
    "supports_caching": bool,
    "tier": str,
    "capability": str,
}

ENUMS = {
    "latency_tier": {"fast", "medium", "slow"},
    "cost_tier": {"cheap", "balanced", "premium"},
    "quality_tier": {"efficient", "strong", "frontier-open"},
    "release_stage": {"stable", "preview", "limited"},
    "tier": {"quality", "fast", "cheap"},
}

each_model = pytest.mark.parametrize("model", TEXT_MODELS, ids=lambda model: model.id)


def row(id):
    (model,) = [model for model in TEXT_MODELS if model.id == id]
    return model_json(model)


@each_model
def test_an_entry_has_every_field_in_its_type_and_no_other(model):
    types = {**SCHEMA, **READ_BY_CLIENTS}
    entry = json.loads(json.dumps(model_json(model)))
    assert {name: type(value) for name, value in entry.items()} == types


@each_model
def test_an_entry_keeps_to_the_published_enums(model):
    entry = model_json(model)
    assert {name for name, allowed in ENUMS.items() if entry[name] not in allowed} == set()
    assert set(entry["input_modalities"]) <= {"text", "image", "audio", "video"}
    assert set(entry["output_modalities"]) <= {"text", "audio", "image"}
    assert all(entry[name] for name in ("name", "description", "best_for", "owned_by"))


@each_model
def test_the_gateway_promises_no_cap_of_its_own(model):
    entry = model_json(model)
    assert entry["gateway_output_limit"] is None
    assert entry["max_tokens_passthrough"] is True


def test_prices_come_in_both_spellings_as_exact_numbers():
    assert row("deepseek-v4-pro")["pricing"] == {
        "mode": "per-token",
        "currency": "USD",
        "input_per_1m": 2.35,
        "output_per_1m": 4.7,
        "cached_input_per_1m": 0.235,
        "cache_write_per_1m": 2.35,
        "input": 2.35,
        "output": 4.7,
    }
    assert json.dumps(row("qwen-3.6-plus")["pricing"]["input"]) == "0.68"
    assert json.dumps(row("deepseek-v4-flash")["pricing"]["cached_input_per_1m"]) == "0.019"


def test_the_mode_is_told_in_both_places():
    entry = row("qwen-3-32b")
    assert entry["pricing_mode"] == entry["pricing"]["mode"] == "per-token"


def test_supported_parameters_follow_what_the_model_can_do():
    assert {"tools", "response_format", "reasoning_effort", "temperature"} <= {
        *row("qwen-3.6-plus")["supported_parameters"]
    }
    assert "reasoning_effort" not in row("llama-3.3-70b")["supported_parameters"]
    assert "temperature" not in row("claude-opus-4-7")["supported_parameters"]
    assert "response_format" in row("claude-sonnet-4-6")["supported_parameters"]


def test_the_list_names_models_and_aliases():
    body = list_json(TEXT_MODELS, ALIASES)
    assert body["object"] == "list"
    assert [entry["id"] for entry in body["data"]] == [model.id for model in TEXT_MODELS]
    assert body["aliases"]["best"] == "qwen-3.6-plus"
    assert list_json([], {}) == {"object": "list", "data": [], "aliases": {}}
