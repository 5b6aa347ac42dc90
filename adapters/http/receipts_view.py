"""Receipts, log lines and quotes as JSON.

Money stands twice: exact as a decimal string, and as a number under the same name with `_usd`.
A customer sees which provider was asked for which of our models; what the provider calls the
model, and what it charges us, is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kyma.catalog.model import Catalogue
from kyma.flows.quote import Candidate, Quote
from kyma.generations import Generation, Logged, Status, price_used
from kyma.money import ZERO, Usd, decimal_text, number
from kyma.pricing import PerToken
from kyma.usage import Attempt, Usage, UsageRecord

Prices = Mapping[str, PerToken]
"""By model, of one version."""


def prices_now(catalogue: Catalogue, version: str) -> Prices | None:
    """The prices of a version if it is the one in force."""
    if version != catalogue.price_version:
        return None
    return {model.id: model.price for model in catalogue.models()}


def money(name: str, amount: Usd) -> dict[str, Any]:
    """An amount of US dollars, exact and as a number."""
    return {name: decimal_text(amount), f"{name}_usd": number(amount)}


def receipt_json(found: Generation, catalogue: Catalogue, prices: Prices) -> dict[str, Any]:
    """The receipt of one request. `prices` are those of its own version, as far as known."""
    record = found.record
    return {
        "object": "generation.receipt",
        "id": found.id,
        "request_id": found.id,
        "status": found.status.value,
        "outcome": record.outcome if record else None,
        "charged": None if found.status is Status.RUNNING else found.settled > 0,
        "currency": "USD",
        **money("held", found.held),
        **money("settled", found.settled),
        **money("refunded", found.refunded),
        **money("cache_discount", record.cache_discount if record else ZERO),
        **_served(record),
        "prices": _prices_json(record, prices) if record else None,
        "usage": usage_json(record.usage) if record else None,
        "attempts": [*_attempts(record, catalogue)] if record else [],
        "timings": _timings(record) if record else None,
        "held_at": found.held_at,
        "expires_at": found.expires_at,
        "ended_at": found.ended_at,
    }


def _served(record: UsageRecord | None) -> dict[str, Any]:
    """What was asked for and who served it; null where nobody did, or nobody wrote it down."""
    if record is None:
        names = ("endpoint", "model", "served_model", "provider", "fallback_layer", "streamed")
        return dict.fromkeys((*names, "key_id"))
    served = bool(record.provider)
    return {
        "endpoint": record.endpoint,
        "model": record.requested_model,
        "served_model": record.served_model if served else None,
        "provider": record.provider if served else None,
        "fallback_layer": record.layer if served else None,
        "streamed": record.streamed,
        "key_id": record.key_id or None,
    }


def usage_json(usage: Usage) -> dict[str, Any]:
    """The disjoint buckets, their sums, and how well they are known."""
    return {
        "input_tokens": usage.input,
        "cache_read_tokens": usage.cache_read,
        "cache_write_tokens": usage.cache_write,
        "output_tokens": usage.output,
        "reasoning_tokens": usage.reasoning,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "evidence": usage.evidence.value,
    }


def _prices_json(record: UsageRecord, prices: Prices) -> dict[str, Any]:
    """The version, and the prices of the bill if they are known and anything was served."""
    told: dict[str, Any] = {"version": record.price_version, "unit": "USD per million tokens"}
    asked, served = prices.get(record.requested_model), prices.get(record.served_model)
    if asked is None or served is None:
        return {**told, "known": False}
    used = price_used(asked, served, record.usage)
    return {
        **told,
        "known": True,
        "model": record.requested_model if used == asked else record.served_model,
        "input": decimal_text(used.input),
        "cache_read": decimal_text(used.cached),
        "cache_write": decimal_text(used.cache_write),
        "output": decimal_text(used.output),
        "reasoning": decimal_text(used.output),
        "bill": decimal_text(used.bill(record.usage)),
    }


def _attempts(record: UsageRecord, catalogue: Catalogue) -> Iterator[dict[str, Any]]:
    for attempt in record.attempts:
        yield {
            "provider": attempt.provider,
            "model": _model_of(attempt, record, catalogue),
            "fallback_layer": attempt.layer,
            "outcome": attempt.outcome,
            "duration_ms": attempt.duration_ms,
        }


def _model_of(attempt: Attempt, record: UsageRecord, catalogue: Catalogue) -> str | None:
    """Which of our models a provider was asked for; None if the catalogue has forgotten."""
    if attempt.layer <= 1:
        return record.requested_model  # these layers serve the very model, elsewhere
    known = (
        route.model
        for model in catalogue.models()
        if model.id == record.requested_model
        for route in catalogue.routes(model)
        if (route.provider, route.upstream_model) == (attempt.provider, attempt.upstream_model)
    )
    return next(known, None)


def _timings(record: UsageRecord) -> dict[str, Any]:
    return {
        "started_at": record.started_at,
        "first_byte_ms": record.first_byte_ms,
        "duration_ms": record.duration_ms,
    }


def log_json(line: Logged) -> dict[str, Any]:
    """A line of the log: a short receipt."""
    record = line.record
    return {
        "object": "generation",
        "id": record.id,
        "request_id": record.id,
        "outcome": record.outcome,
        **_served(record),
        **money("settled", record.charged),
        **money("cache_discount", record.cache_discount),
        "usage": usage_json(record.usage),
        "attempts": len(record.attempts),
        "timings": _timings(record),
        "ended_at": line.ended_at,
    }


def quote_json(quote: Quote, max_cost: Usd | None) -> dict[str, Any]:
    """A quote: what it would cost, who would serve it, and whether it would be let in."""
    fits = min(quote.max_tokens_that_fit, quote.model.max_output_tokens)
    size = quote.call.size
    return {
        "object": "quote",
        "model": quote.model.id,
        "alias": quote.alias,
        "currency": "USD",
        **money("worst_case", quote.worst_case),
        **money("likely_cost", quote.likely_cost),
        "tokens": {
            "likely_input": size.likely_input,
            "worst_input": size.worst_input,
            "max_output": size.max_output,
            "likely_output": quote.likely_usage.output,
        },
        "served_by": [_candidate_json(candidate) for candidate in quote.candidates],
        **money("balance", quote.balance.available),
        "sufficient": quote.sufficient,
        "max_tokens_that_fit": fits,
        "within_max_cost": None if max_cost is None else quote.worst_case <= max_cost,
        "limits": {
            "admitted": quote.limited_by is None,
            "limited_by": quote.limited_by,
            "tier": quote.tier.level,
            "max_single_request": quote.tier.max_request_tokens,
            "requests_left": max(0, quote.tier.requests_per_minute - quote.quota.requests_used),
            "tokens_left": max(0, quote.tier.tokens_per_minute - quote.quota.tokens_used),
        },
    }


def _candidate_json(candidate: Candidate) -> dict[str, Any]:
    route = candidate.route
    return {
        "provider": route.provider,
        "model": route.model,
        "fallback_layer": route.layer,
        "healthy": candidate.usable,
        "latency_ms": round(candidate.latency_ms) or None,
    }


GONE = (
    "The first request with this Idempotency-Key was done, and nothing was done again. Its answer "
    "is not kept any more, or only for the credential that it was asked with. A key or an account "
    "that it made has this id; a secret is shown only once."
)


def replay_json(request_id: str, found: Generation | None, catalogue: Catalogue) -> dict[str, Any]:
    """What a repeated request gets that is not worked on again: the first one's receipt.

    Its `status` says that it is a repetition; that of the receipt is `generation_status`.
    """
    if found is None:
        return {
            "object": "generation.receipt",
            "id": request_id,
            "request_id": request_id,
            "status": "already_completed",
            "message": GONE,
        }
    version = found.record.price_version if found.record else ""
    receipt = receipt_json(found, catalogue, prices_now(catalogue, version) or {})
    return {**receipt, "status": "already_completed", "generation_status": found.status.value}
