"""What an agent or a script needs to set itself up: configuration, capabilities, text for machines.

Nothing here is promised that is not so: endpoints and compatibility flags follow from the
routes that exist, models from those that some provider serves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from adapters.http.pricing_view import PER_MILLION, badge
from kyma.calls import DEFAULT_MAX_TOKENS
from kyma.catalog.model import Catalogue, Model
from kyma.catalog.recommend import AGENTS, USES, recommend, served
from kyma.errors import Refusal
from kyma.flows.access import SIGN_UP_CREDIT
from kyma.flows.chat import MAX_ATTEMPTS
from kyma.money import decimal_text, number
from kyma.tiers import TIERS

ENDPOINTS = {
    "chat_completions": "/v1/chat/completions",
    "messages": "/v1/messages",
    "count_tokens": "/v1/messages/count_tokens",
    "responses": "/v1/responses",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "quote": "/v1/quote",
    "generations": "/v1/generations/<generation_id>",
    "logs": "/v1/logs",
    "models": "/v1/models",
    "recommend": "/v1/models/recommend",
    "uptime": "/v1/models/uptime",
    "rankings": "/v1/rankings",
    "pricing": "/v1/pricing",
    "limits": "/v1/limits/tiers",
    "balance": "/v1/credits/balance",
    "capabilities": "/v1/capabilities",
    "status": "/v1/status",
    "openapi": "/v1/openapi.json",
}
"""By the names under which `/v1/config` lists them."""

WHAT = (
    "Kyma is an LLM API gateway: one key and one base URL for many models, with automatic "
    "failover between providers and pay-as-you-go credits. It speaks OpenAI's and Anthropic's "
    "formats."
)
AUTHENTICATION = {
    "header": "Authorization: Bearer <key>",
    "also": "x-api-key: <key>",
    "key_prefix": "ky-",
    "register": "/v1/auth/register",
}


def paths_here(rules: Iterable[str]) -> dict[str, str]:
    """Those of `ENDPOINTS` that have a route, parameters written as `{id}`."""
    routes = {_path(rule) for rule in rules}
    return {name: _path(rule) for name, rule in ENDPOINTS.items() if _path(rule) in routes}


def config_json(catalogue: Catalogue, base_url: str, paths: Mapping[str, str]) -> dict[str, Any]:
    """`GET /v1/config`: all that an agent needs to configure itself, in one answer."""
    models = served(catalogue)
    picks = _picks(catalogue)
    return {
        "object": "config",
        "base_url": f"{base_url}/v1",
        "anthropic_base_url": base_url,
        "format": "openai",
        "formats": [
            name
            for name, endpoint in (("openai", "chat_completions"), ("anthropic", "messages"))
            if endpoint in paths
        ],
        "streaming": True,
        "authentication": AUTHENTICATION,
        "default_model": picks.get("general"),
        "recommended_models": picks,
        "aliases": _aliases(catalogue, models),
        "models": [
            {
                "id": model.id,
                "name": model.name,
                "capability": model.capability,
                "context_window": model.context_window,
                "max_output_tokens": model.max_output_tokens,
            }
            for model in models
        ],
        "agents": {agent: f"/v1/models/recommend?agent={agent}" for agent in AGENTS},
        "endpoints": {name: f"{base_url}{path}" for name, path in paths.items()},
        "links": {
            "docs": f"{base_url}/llms.txt",
            "openapi": f"{base_url}/v1/openapi.json",
            "status": f"{base_url}/v1/status",
            "mcp": None,
            "dashboard": None,
        },
    }


def capabilities_json(
    catalogue: Catalogue, paths: Collection[str], body_bytes: int
) -> dict[str, Any]:
    """`GET /v1/capabilities`."""
    models = served(catalogue)
    return {
        "object": "capabilities",
        "limits": {
            "gateway_output_limit": None,
            "max_tokens_passthrough": True,
            "default_max_tokens": DEFAULT_MAX_TOKENS,
            "max_context_window": max((model.context_window for model in models), default=None),
            "max_request_bytes": body_bytes,
            "window_seconds": 60,
            "daily_request_cap": None,
            "tiers": "/v1/limits/tiers",
        },
        "models": {
            "count": len(models),
            "tools": sum(model.tools for model in models),
            "vision": sum(model.vision for model in models),
            "reasoning": sum(model.reasoning for model in models),
            "structured_outputs": sum(model.structured_outputs for model in models),
            "caching": sum(model.caching for model in models),
        },
        "reliability": _reliability(),
        "compatibility": _compatibility(paths),
        "pricing": _pricing(),
        "privacy": {"prompts_stored": False, "answers_stored": False, "metadata_stored": True},
    }


def _pricing() -> dict[str, Any]:
    return {
        "model": "prepaid credits, pay per token",
        "currency": "USD",
        "unit": PER_MILLION,
        "subscription": False,
        "minimum_purchase": number(TIERS[1].min_deposit),
        "sign_up_credit": number(SIGN_UP_CREDIT),
        "credits_expire": False,
        "failed_requests_charged": False,
        "charged_more_than_held": False,
        "cached_input": "billed at the model's cached_input_per_1m",
        "catalog": "/v1/pricing",
    }


def _reliability() -> dict[str, Any]:
    return {
        "automatic_failover": True,
        "max_upstream_calls_per_request": MAX_ATTEMPTS,
        "fallback_layers": {
            "1": "the same model from another provider",
            "2": "another version of the same family",
            "3": "another model of equal quality, never at a higher price",
        },
        "headers": [
            "X-Kyma-Model",
            "X-Kyma-Alias",
            "X-Kyma-Fallback",
            "X-Kyma-Fallback-Layer",
            "X-Kyma-Request-Id",
        ],
        "strict_model_header": "X-Kyma-Max-Fallback-Layer",
        "broken_streams": "end with an error event, never as a complete answer",
        "uptime": "/v1/models/uptime",
        "status": "/v1/status",
    }


def _compatibility(paths: Collection[str]) -> dict[str, bool]:
    return {
        "openai_chat_completions": "chat_completions" in paths,
        "openai_responses": "responses" in paths,
        "openai_completions": "completions" in paths,
        "openai_embeddings": "embeddings" in paths,
        "anthropic_messages": "messages" in paths,
        "anthropic_count_tokens": "count_tokens" in paths,
        "streaming": True,
        "tool_calling": True,
        "structured_outputs": True,
        "vision": True,
        "prompt_caching": True,
        "unknown_fields_passed_through": True,
    }


def llms_text(catalogue: Catalogue, base_url: str, paths: Mapping[str, str]) -> str:
    """`GET /llms.txt`: what this is, in the form that llmstxt.org describes."""
    models = served(catalogue)
    picks = _picks(catalogue)
    parts = [
        "# Kyma API",
        f"> {WHAT}",
        f"Base URL: {base_url}/v1 (OpenAI's format); {base_url} for Anthropic's SDKs, which add "
        "/v1/messages themselves. Send `Authorization: Bearer <key>` or `x-api-key: <key>`; "
        "keys begin with ky-. What is listed under Discovery needs no key.",
        f"New accounts get ${decimal_text(SIGN_UP_CREDIT)} of credit: POST /v1/auth/register with "
        "`email` and `password` answers with a key. Prompts and answers are not stored.",
        _section(
            "Docs",
            [
                f"- [OpenAPI document]({base_url}/v1/openapi.json): every endpoint and schema",
                f"- [Configuration for agents]({base_url}/v1/config): JSON, in one request",
                f"- [Capabilities and limits]({base_url}/v1/capabilities)",
            ],
        ),
        _section("Endpoints", [f"- {name}: {base_url}{path}" for name, path in paths.items()]),
        _section(
            "Which model",
            [f"- {use}: {model} ({USES[use].why})" for use, model in picks.items()],
        ),
        _section(
            "Agents",
            [f"- [{agent}]({base_url}/v1/models/recommend?agent={agent})" for agent in AGENTS],
        ),
        _section("Models", [_model_line(model) for model in models]),
    ]
    return "\n\n".join(parts) + "\n"


def badges(catalogue: Catalogue) -> dict[str, dict[str, Any]]:
    """The three badges of the published README, by name."""
    models = served(catalogue)
    creators = {model.owned_by for model in models}
    credit = f"${number(SIGN_UP_CREDIT):.2f}"
    return {
        "models": badge("models", str(len(models)), "blue"),
        "creators": badge("model creators", str(len(creators)), "blueviolet"),
        "free-credit": badge("free credit", credit, "brightgreen"),
    }


def _picks(catalogue: Catalogue) -> dict[str, str]:
    """The first choice of each use, of those for which anything is served."""
    found = {}
    for name, use in USES.items():
        try:
            found[name] = recommend(catalogue, use).model.id
        except Refusal:
            continue
    return found


def _aliases(catalogue: Catalogue, models: list[Model]) -> dict[str, str]:
    ids = {model.id for model in models}
    return {alias: id for alias, id in catalogue.aliases.items() if id in ids}


def _model_line(model: Model) -> str:
    price = (
        f"${decimal_text(model.price.input)} in / ${decimal_text(model.price.output)} out per 1M"
    )
    return f"- {model.id}: {model.description} {model.context_window:,} tokens, {price}"


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}", "", *lines])


def _path(rule: str) -> str:
    return "/".join("{id}" if part.startswith("<") else part for part in rule.split("/"))
