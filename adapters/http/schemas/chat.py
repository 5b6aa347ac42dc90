"""OpenAI's chat completions: as strict as the gateway is, and no stricter.

Fields that are not named here are passed on to the model as they come.
"""

from __future__ import annotations

from adapters.http.chat_request import ROLES, SPEAKERS
from adapters.http.complaints import MAX_CHOICES, MAX_INT, MAX_MESSAGES
from adapters.http.schemas.shapes import (
    DOLLARS,
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
from kyma.budget import MAX_USD

MODEL = text(
    "Model ID or alias. Aliases: best, fast, code, cheap, long-context, vision, reasoning, "
    "agent, balanced",
    minLength=1,
    examples=["qwen-3.6-plus", "best", "code"],
)
PARTS = array(
    record({"type": text(examples=["text", "image_url"])}),
    "Multimodal content (text + images)",
)
CONTENT = {"oneOf": [{"type": "string"}, PARTS, {"type": "null"}]}
TEMPERATURE = maybe(
    number(
        "Sampling temperature. Lower = more focused, higher = more creative",
        minimum=0,
        maximum=2,
        default=1,
    )
)
TOP_P = maybe(number("Nucleus sampling parameter", minimum=0, maximum=1, default=1))
STREAM = maybe(boolean("Stream response as server-sent events", default=False))


def tokens(description: str) -> Schema:
    """A bound on tokens, which may be null."""
    return maybe(integer(description, minimum=1, maximum=MAX_INT))


MAX_COST = {
    "description": "What this request may cost at most, in USD; refused before it is sent if its "
    "worst case costs more.",
    "oneOf": [
        {"type": "number", "minimum": 0, "maximum": float(MAX_USD)},
        {"type": "string", "pattern": r"^[0-9]{1,6}(\.[0-9]{1,9})?$"},
        {"type": "null"},
    ],
}

USAGE = record(
    {
        "prompt_tokens": integer(minimum=0),
        "completion_tokens": integer(minimum=0),
        "total_tokens": integer(minimum=0),
        "prompt_tokens_details": record({"cached_tokens": integer(minimum=0)}),
        "completion_tokens_details": record({"reasoning_tokens": integer(minimum=0)}),
        "cached_tokens": integer("Number of prompt tokens served from cache", minimum=0),
        "cache_write_tokens": integer("Tokens written to the cache", minimum=0),
        "cost": number("Cost in USD for this request", minimum=0),
        "cost_usd": DOLLARS,
        "cache_discount": number("Amount saved from prompt caching in USD", minimum=0),
    },
)
"""The cost is what was charged; a receipt tells how it came about."""

REQUEST = record(
    {
        "model": MODEL,
        "messages": array(
            ref("Message"),
            "Array of messages in the conversation",
            minItems=1,
            maxItems=MAX_MESSAGES,
        ),
        "temperature": TEMPERATURE,
        "max_tokens": tokens(
            "Maximum tokens to generate. Default 4096. Forwarded directly to model with no "
            "gateway cap"
        ),
        "max_completion_tokens": tokens("OpenAI's newer name of max_tokens"),
        "n": maybe(integer("How many answers", minimum=1, maximum=MAX_CHOICES, default=1)),
        "stream": STREAM,
        "stream_options": maybe(
            record(
                {"include_usage": boolean("End the stream with a chunk that holds the usage")},
                required=(),
            )
        ),
        "top_p": TOP_P,
        "max_cost": MAX_COST,
        "tools": maybe(array(description="List of tools/functions the model can call")),
        "tool_choice": {"description": "auto, none, required, or one function by name"},
        "response_format": maybe(
            record(
                {"type": text(enum=["text", "json_object", "json_schema"])},
                required=(),
                description="Force output format. Use json_object for structured outputs",
            )
        ),
    },
    required=("model", "messages"),
    examples=[{"model": "best", "messages": [{"role": "user", "content": "Say hello."}]}],
)

MESSAGE = record(
    {
        "role": text(enum=sorted(ROLES)),
        "content": CONTENT,
        "tool_calls": maybe(array(description="Tool calls made by the assistant")),
        "tool_call_id": maybe(text("ID of the tool call this message is responding to")),
        "reasoning_content": maybe(text("What the model thought.")),
    },
    required=("role",),
    anyOf=[
        {
            "properties": {
                "role": {"enum": sorted(SPEAKERS)},
                "content": {"type": ["string", "array"]},
            },
            "required": ["content"],
        },
        {"properties": {"role": {"enum": sorted(ROLES - SPEAKERS)}}},
    ],
)

ANSWER = record(
    {
        "id": text(examples=["chatcmpl-01980f3f6c7a7b1e9a10c1d2e3f4a5b6"]),
        "object": text(const="chat.completion"),
        "created": integer("Unix seconds."),
        "model": text("Actual model used"),
        "choices": array(
            record(
                {
                    "index": integer(minimum=0),
                    "message": ref("Message"),
                    "finish_reason": text(
                        enum=["stop", "length", "tool_calls", "content_filter", "function_call"]
                    ),
                }
            )
        ),
        "usage": ref("Usage"),
    }
)

SCHEMAS = {
    "ChatCompletionRequest": REQUEST,
    "Message": MESSAGE,
    "ChatCompletionResponse": ANSWER,
    "Usage": USAGE,
}
