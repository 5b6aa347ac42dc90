"""Receipts, the log, and quotes."""

from __future__ import annotations

from adapters.http.schemas.chat import MAX_COST, MODEL
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
    ref,
    text,
)
from kyma.generations import Status
from kyma.usage import Evidence

COUNT = integer(minimum=0)
LAYER = integer("0 first choice … 3 an equal-quality substitute.", minimum=0, maximum=3)
ID = text(pattern="^[0-9a-f]{32}$", examples=["01980f3f6c7a7b1e9a10c1d2e3f4a5b6"])


def money(name: str, description: str = "") -> dict[str, Schema]:
    """An amount, exact and as a number."""
    exact = {**DOLLARS, "description": description} if description else DOLLARS
    return {name: exact, f"{name}_usd": number("The same as a number.")}


BUCKETS = record(
    {
        "input_tokens": COUNT,
        "cache_read_tokens": COUNT,
        "cache_write_tokens": COUNT,
        "output_tokens": COUNT,
        "reasoning_tokens": COUNT,
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "evidence": text(
            "`exact` as the provider told, `at_least` as counted by us.",
            enum=[evidence.value for evidence in Evidence],
        ),
    },
    description="The first five are disjoint: together they are everything that was processed.",
)
SERVED: dict[str, Schema] = {
    "endpoint": maybe(text(examples=["chat.completions"])),
    "model": maybe(text("Asked for.")),
    "served_model": maybe(text("Of our models, the one that answered.")),
    "provider": maybe(text("Who answered.")),
    "fallback_layer": maybe(LAYER),
    "streamed": maybe(boolean()),
    "key_id": maybe(text("The key that was used; null for a session.")),
}
TIMINGS = record({"started_at": MOMENT, "first_byte_ms": COUNT, "duration_ms": COUNT})
PRICES = record(
    {
        "version": text(),
        "unit": text(const="USD per million tokens"),
        "known": boolean("Whether the prices of this version are still on record."),
        "model": text("Whose prices they are: the cheaper of asked for and served."),
        **dict.fromkeys(
            ("input", "cache_read", "cache_write", "output", "reasoning", "bill"), DOLLARS
        ),
    },
    required=("version", "unit", "known"),
    description="`bill` is the usage at these prices; what is settled is at most the hold.",
)
ATTEMPT = record(
    {
        "provider": text(),
        "model": maybe(text()),
        "fallback_layer": LAYER,
        "outcome": text("`ok`, or why it failed.", examples=["ok", "busy", "timeout"]),
        "duration_ms": COUNT,
    }
)
LINE = record(
    {
        "object": text(const="generation"),
        "id": ID,
        "request_id": ID,
        "outcome": text(examples=["ok", "client_left", "provider_error"]),
        **SERVED,
        **money("settled", "What was charged."),
        **money("cache_discount"),
        "usage": ref("UsageBuckets"),
        "attempts": integer("How many providers were asked.", minimum=0),
        "timings": TIMINGS,
        "ended_at": MOMENT,
    }
)

SCHEMAS = {
    "UsageBuckets": BUCKETS,
    "Receipt": record(
        {
            "object": text(const="generation.receipt"),
            "id": ID,
            "request_id": ID,
            "status": text(
                "Of the hold: open, settled, returned, or swept after its process died.",
                enum=[status.value for status in Status],
            ),
            "outcome": maybe(text(examples=["ok", "client_left", "provider_error"])),
            "charged": {"type": ["boolean", "null"], "description": "Null while it runs."},
            "currency": text(const="USD"),
            **money("held", "The worst case, reserved before the request was sent."),
            **money("settled", "What was charged."),
            **money("refunded", "What of the hold was given back."),
            **money("cache_discount", "Saved against the same tokens uncached."),
            **SERVED,
            "prices": maybe(PRICES),
            "usage": {"oneOf": [ref("UsageBuckets"), {"type": "null"}]},
            "attempts": array(ATTEMPT),
            "timings": maybe(TIMINGS),
            "held_at": MOMENT,
            "expires_at": maybe(MOMENT),
            "ended_at": maybe(MOMENT),
        }
    ),
    "Replay": record(
        {
            "object": text(const="generation.receipt"),
            "id": ID,
            "request_id": ID,
            "status": text(const="already_completed"),
            "message": text("Why there is no answer, where nothing was charged."),
        },
        required=("object", "id", "request_id", "status"),
        description="What a repeated request with its Idempotency-Key gets in place of an answer "
        "that is not kept: the Receipt of the first one, whose status is `generation_status`, or "
        "for a request that is not charged these words.",
    ),
    "LogLine": LINE,
    "Log": record(
        {
            "object": text(const="list"),
            "data": array(ref("LogLine")),
            "has_more": boolean(),
            "next_cursor": maybe(text("For the next page; null on the last.")),
        }
    ),
    "QuoteRequest": record(
        {
            "endpoint": maybe(
                text(
                    "Which route the body is for, by name or path.",
                    examples=["chat.completions", "messages"],
                )
            ),
            "model": MODEL,
            "messages": array(description="And every other field of that route."),
            "max_cost": MAX_COST,
        },
        required=("model",),
        examples=[{"model": "best", "messages": [{"role": "user", "content": "Say hello."}]}],
    ),
    "Quote": record(
        {
            "object": text(const="quote"),
            "model": text(),
            "alias": maybe(text()),
            "currency": text(const="USD"),
            **money("worst_case", "What would be held: no more can be charged."),
            **money("likely_cost", "At `tokens.likely_input` and `tokens.likely_output`."),
            "tokens": record(
                dict.fromkeys(("likely_input", "worst_input", "max_output", "likely_output"), COUNT)
            ),
            "served_by": array(
                record(
                    {
                        "provider": text(),
                        "model": text(),
                        "fallback_layer": LAYER,
                        "healthy": boolean("False: only if all others fail."),
                        "latency_ms": maybe(integer("Typical time to the first byte.")),
                    }
                ),
                "In the order in which they would be tried now.",
            ),
            **money("balance", "What can be spent."),
            "sufficient": boolean("Whether the balance covers the worst case."),
            "max_tokens_that_fit": COUNT,
            "within_max_cost": {"type": ["boolean", "null"]},
            "limits": record(
                {
                    "admitted": boolean("Whether the limits would let it pass now."),
                    "limited_by": maybe(text(enum=["max_single_request", "requests", "tokens"])),
                    "tier": integer(minimum=0, maximum=4),
                    "max_single_request": COUNT,
                    "requests_left": COUNT,
                    "tokens_left": COUNT,
                }
            ),
        }
    ),
}
