"""OpenAI's Responses, which keep no state here: as strict as `dialects.responses` is."""

from __future__ import annotations

from adapters.http.dialects.responses_input import ROLES
from adapters.http.dialects.responses_request import (
    MAX_ITEMS,
    MAX_METADATA,
    MAX_METADATA_KEY,
    MAX_METADATA_VALUE,
    MAX_TOP_LOGPROBS,
)
from adapters.http.schemas.chat import MAX_COST, MODEL, STREAM, TEMPERATURE, TOP_P, tokens
from adapters.http.schemas.shapes import (
    DOLLARS,
    array,
    boolean,
    integer,
    maybe,
    number,
    record,
    ref,
    text,
)

PART = {
    "anyOf": [
        record({"type": text(enum=["input_text", "output_text", "text"]), "text": text()}),
        record({"type": text(const="refusal"), "refusal": text()}),
        record(
            {"type": text(const="input_image"), "image_url": text("An address, or a data URL.")}
        ),
        record({"type": text(const="input_file"), "file_data": text()}),
        record({"type": text(const="input_audio"), "input_audio": {"type": "object"}}),
    ]
}
CONTENT = {"oneOf": [text(), array(PART)]}
ITEM = {
    "anyOf": [
        record(
            {"type": text(const="message"), "role": text(enum=[*ROLES]), "content": CONTENT},
            required=("role", "content"),
        ),
        record(
            {
                "type": text(const="function_call"),
                "call_id": text(),
                "name": text(),
                "arguments": text("JSON, as text."),
            }
        ),
        record({"type": text(const="function_call_output"), "call_id": text(), "output": CONTENT}),
        record(
            {
                "type": text(const="custom_tool_call"),
                "call_id": text(),
                "name": text(),
                "input": text(),
            }
        ),
        record(
            {"type": text(const="custom_tool_call_output"), "call_id": text(), "output": CONTENT}
        ),
        record(
            {"type": text(const="reasoning"), "summary": maybe(array(record({"text": text()})))},
            required=("type",),
        ),
    ]
}
TOOL = {
    "anyOf": [
        record(
            {
                "type": text(const="function"),
                "name": text(minLength=1),
                "description": maybe(text()),
                "parameters": maybe({"type": "object"}),
                "strict": maybe(boolean()),
            },
            required=("type", "name"),
        ),
        record({"type": text(const="custom"), "name": text(minLength=1)}),
    ]
}
FORMAT = {
    "anyOf": [
        record({"type": text(enum=["text", "json_object"])}),
        record({"type": text(const="json_schema"), "name": text(), "schema": {"type": "object"}}),
    ]
}
METADATA = {
    "type": ["object", "null"],
    "maxProperties": MAX_METADATA,
    "propertyNames": {"maxLength": MAX_METADATA_KEY},
    "additionalProperties": text(maxLength=MAX_METADATA_VALUE),
}
COUNT = integer(minimum=0)

SCHEMAS = {
    "ResponseItem": ITEM,
    "ResponseRequest": record(
        {
            "model": MODEL,
            "input": {
                "description": "The user's words, or the whole conversation",
                "oneOf": [
                    text(minLength=1),
                    array(ref("ResponseItem"), minItems=1, maxItems=MAX_ITEMS),
                ],
            },
            "instructions": maybe(text("What the model is told first")),
            "max_output_tokens": tokens("Most tokens of the answer"),
            "temperature": TEMPERATURE,
            "top_p": TOP_P,
            "top_logprobs": maybe(integer(minimum=0, maximum=MAX_TOP_LOGPROBS)),
            "stream": STREAM,
            "max_cost": MAX_COST,
            "store": maybe(boolean("Taken and ignored: nothing is stored")),
            "tools": maybe(array(TOOL)),
            "tool_choice": {
                "description": "auto, none, required, or one tool",
                "oneOf": [
                    text(enum=["auto", "none", "required"]),
                    {"type": "object"},
                    {"type": "null"},
                ],
            },
            "parallel_tool_calls": maybe(boolean()),
            "reasoning": maybe(record({"effort": maybe(text())}, required=())),
            "text": maybe(record({"format": FORMAT}, required=())),
            "metadata": METADATA,
        },
        required=("model", "input"),
        examples=[{"model": "best", "input": "Say hello."}],
    ),
    "Response": record(
        {
            "id": text(examples=["resp_01980f3f6c7a7b1e9a10c1d2e3f4a5b6"]),
            "object": text(const="response"),
            "created_at": integer("Unix seconds."),
            "status": text(enum=["completed", "incomplete", "failed", "in_progress"]),
            "model": text("Actual model used"),
            "output": array(record({"type": text(examples=["message", "function_call"])})),
            "usage": record(
                {
                    "input_tokens": COUNT,
                    "output_tokens": COUNT,
                    "total_tokens": COUNT,
                    "cost": number("Cost in USD for this request", minimum=0),
                    "cost_usd": DOLLARS,
                },
                required=("input_tokens", "output_tokens", "total_tokens"),
            ),
        }
    ),
}
