"""Uptime, rankings and status as JSON. Every figure was measured; where nothing was, it is null."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from kyma.catalog.model import Catalogue, Model
from kyma.money import decimal_text, number
from kyma.routing import UNKNOWN, Health, is_shut
from kyma.traffic import OK, OWN_LAYERS, WINDOW, ProbeCount, Traffic, by_model, percent, total

UNSERVED = ""
"""The model of a record that nobody served; it stands in no list."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured between `since` and `until`."""

    since: datetime
    until: datetime
    traffic: Sequence[Traffic]
    probes: Sequence[ProbeCount]


class State(StrEnum):
    """How a part of the service is."""

    OPERATIONAL = "operational"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"


def uptime_json(catalogue: Catalogue, models: Iterable[Model], figures: Figures) -> dict[str, Any]:
    """`GET /v1/models/uptime`."""
    asked = by_model(figures.traffic)
    probes = {count.provider: count for count in figures.probes}
    listed = list(models)
    own = [asked[model.id] for model in listed if model.id in asked]
    return {
        "object": "uptime",
        "window": _window(figures),
        "overall": _uptime(total(own)),
        "data": [
            {
                "id": model.id,
                "name": model.name,
                **_uptime(asked.get(model.id, Traffic(model.id, ""))),
                "probes": _probed(catalogue, model, probes),
            }
            for model in listed
        ],
        "providers": [_provider_row(count) for count in figures.probes],
    }


def _uptime(row: Traffic) -> dict[str, Any]:
    """`uptime_percent` is what the model answered itself, `served_percent` what was answered."""
    tries = row.tries_ok + row.tries_failed
    return {
        "uptime_percent": percent(row.answered, row.counted),
        "served_percent": percent(row.answered + row.substituted, row.counted),
        "requests": {
            "counted": row.counted,
            "answered": row.answered,
            "substituted": row.substituted,
            "failed": row.failed,
        },
        "attempts": {
            "counted": tries,
            "failed": row.tries_failed,
            "success_percent": percent(row.tries_ok, tries),
        },
    }


def _probed(catalogue: Catalogue, model: Model, probes: Mapping[str, ProbeCount]) -> dict[str, Any]:
    """Probes of the providers that serve this very model."""
    names = {route.provider for route in catalogue.routes(model) if route.layer <= OWN_LAYERS}
    seen = [probes[name] for name in sorted(names) if name in probes]
    checks = sum(count.checks for count in seen)
    answered = sum(count.answered for count in seen)
    return {
        "checks": checks,
        "answered": answered,
        "success_percent": percent(answered, checks),
        "providers": [count.provider for count in seen],
    }


def _provider_row(count: ProbeCount) -> dict[str, Any]:
    return {
        "id": count.provider,
        "checks": count.checks,
        "answered": count.answered,
        "success_percent": percent(count.answered, count.checks),
        "last_check_at": count.last_at,
        "last_check_ok": count.last_outcome == OK,
    }


def rankings_json(catalogue: Catalogue, figures: Figures) -> dict[str, Any]:
    """`GET /v1/rankings`: models by the tokens they processed."""
    rows = _ranked(figures, lambda row: row.tokens)
    all_of_it = total(rows)
    names = {model.id: model.name for model in catalogue.models()}
    return {
        "object": "rankings",
        "tab": "models",
        "window": _window(figures),
        "totals": _tokens(all_of_it),
        "data": [
            {
                "rank": place,
                "model": row.model,
                "name": names.get(row.model, row.model),
                **_tokens(row),
                "share_percent": percent(row.tokens, all_of_it.tokens),
            }
            for place, row in enumerate(rows, start=1)
        ],
    }


def cache_json(catalogue: Catalogue, figures: Figures) -> dict[str, Any]:
    """`GET /v1/rankings?tab=cache`: what came from the providers' prompt caches."""
    rows = _ranked(figures, lambda row: row.cached_tokens)
    names = {model.id: model.name for model in catalogue.models()}
    return {
        "object": "rankings",
        "tab": "cache",
        "window": _window(figures),
        "overall": _cache(total(rows)),
        "data": [
            {
                "rank": place,
                "model": row.model,
                "name": names.get(row.model, row.model),
                **_cache(row),
            }
            for place, row in enumerate(rows, start=1)
        ],
    }


def _ranked(figures: Figures, by: Any) -> list[Traffic]:
    """Models that served anything, largest first; equal ones by their id."""
    rows = [
        row for row in by_model(figures.traffic).values() if row.requests and row.model != UNSERVED
    ]
    return sorted(rows, key=lambda row: (-by(row), row.model))


def _tokens(row: Traffic) -> dict[str, Any]:
    return {
        "requests": row.requests,
        "tokens": row.tokens,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.output_tokens,
    }


def _cache(row: Traffic) -> dict[str, Any]:
    """`hit_rate_percent` is the share of prompt tokens that were read from a cache."""
    return {
        "hit_rate_percent": percent(row.cached_tokens, row.prompt_tokens),
        "request_hit_rate_percent": percent(row.cache_hits, row.requests),
        "requests": row.requests,
        "requests_with_hits": row.cache_hits,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "cache_write_tokens": row.cache_write_tokens,
        "savings_usd": number(row.savings),
        "savings": decimal_text(row.savings),
    }


def _window(figures: Figures) -> dict[str, Any]:
    return {"days": WINDOW.days, "from": figures.since, "to": figures.until}


@dataclass(frozen=True, slots=True)
class Checked:
    """What live checks found: None where a part could not be asked."""

    at: datetime
    parts: Mapping[str, bool | None]
    health: Mapping[str, Health]


def status_json(catalogue: Catalogue, models: Sequence[Model], checked: Checked) -> dict[str, Any]:
    """`GET /v1/status`. A provider's state is that of the breakers of its routes."""
    now = checked.at.timestamp()
    shut = {key for key, health in checked.health.items() if is_shut(health, now)}
    away = [model.id for model in models if all(r.key in shut for r in catalogue.routes(model))]
    providers = _providers(catalogue, models, checked.health, shut)
    return {
        "object": "status",
        "status": _overall(checked.parts, providers, len(away), len(models)),
        "checked_at": checked.at,
        "components": [
            {"id": name, "status": _component(answer)} for name, answer in checked.parts.items()
        ],
        "providers": providers,
        "models": {
            "total": len(models),
            "available": len(models) - len(away),
            "unavailable": away,
        },
    }


def _component(answer: bool | None) -> State:
    if answer is None:
        return State.UNKNOWN
    return State.OPERATIONAL if answer else State.DOWN


def _overall(
    parts: Mapping[str, bool | None], providers: Sequence[Mapping[str, Any]], away: int, of: int
) -> State:
    """Nothing can be served without the database or any model; the rest only makes it worse."""
    if not parts["database"] or away == of:
        return State.DOWN
    whole = all(parts.values()) and not away
    good = {State.OPERATIONAL, State.UNKNOWN}
    if whole and all(provider["status"] in good for provider in providers):
        return State.OPERATIONAL
    return State.DEGRADED


def _providers(
    catalogue: Catalogue, models: Iterable[Model], health: Mapping[str, Health], shut: set[str]
) -> list[dict[str, Any]]:
    keys: dict[str, set[str]] = {}
    for model in models:
        for route in catalogue.routes(model):
            keys.setdefault(route.provider, set()).add(route.key)
    return [
        {
            "id": provider,
            "status": _provider_state(own, health, shut),
            "routes": len(own),
            "routes_paused": len(own & shut),
        }
        for provider, own in sorted(keys.items())
    ]


def _provider_state(own: set[str], health: Mapping[str, Health], shut: set[str]) -> State:
    """Unknown until something was tried; down when all that was tried is paused."""
    tried = {key for key in own if health.get(key, UNKNOWN).samples}
    if not tried:
        return State.UNKNOWN
    if tried <= shut:
        return State.DOWN
    return State.DEGRADED if own & shut else State.OPERATIONAL
