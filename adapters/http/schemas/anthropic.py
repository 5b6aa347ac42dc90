"""Anthropic's Messages and its count of tokens: as strict as `dialects.messages` is."""

from __future__ import annotations

from adapters.http.complaints import MAX_INT, MAX_MESSAGES
from adapters.http.dialects.messages import BLOCKS, ROLES, SOURCES
from adapters.http.schemas.chat import MAX_COST, MODEL
from adapters.http.schemas.shapes import (
    DOLLARS,
    Schema,
    anything,
    array,
    boolean,
    integer,
    maybe,
    number,
    record,
    ref,
    text,
)
from kyma.tools import DEFINED


def block(kind: str, required: tuple[str, ...], **properties: Schema) -> Schema:
    """A content block of a kind that is looked into."""
    fields = {"type": text(const=kind), **properties}
    return record(fields, required=("type", *required))


NESTED = array(ref("AnthropicBlock"), "Content blocks")
CONTENT = {"oneOf": [text(), NESTED]}
KNOWN_SOURCES = [*SOURCES, "content"]
SOURCE = {
    "anyOf": [
        record({"type": text(const="base64"), "media_type": text(), "data": text()}),
        record({"type": text(const="text"), "data": text()}),
        record({"type": text(const="url"), "url": text(examples=["https://example.com/a.png"])}),
        record({"type": text(const="file"), "file_id": text()}),
        record({"type": text(const="content"), "content": CONTENT}),
        record({"type": text("Another kind, passed on.", **{"not": {"enum": KNOWN_SOURCES}})}),
    ]
}
TEXT_BLOCK = block("text", ("text",), text=text(), cache_control=anything("Where to cache"))
KINDS = [
    TEXT_BLOCK,
    block("image", ("source",), source=SOURCE),
    block("document", ("source",), source=SOURCE, title=anything("Its title")),
    block("tool_use", ("id", "name", "input"), id=text(), name=text(), input={"type": "object"}),
    block(
        "tool_result",
        ("tool_use_id",),
        tool_use_id=text(),
        content={"oneOf": [text(), NESTED, {"type": "null"}]},
        is_error=anything("Whether it failed"),
    ),
    block("thinking", ("thinking",), thinking=text(), signature=anything("As it came")),
    block("redacted_thinking", ("data",), data=text()),
    record({"type": text("Another kind, passed on.", **{"not": {"enum": [*BLOCKS]}})}),
]

TURN = record(
    {
        "role": text(enum=[*ROLES]),
        "content": CONTENT,
    }
)
SYSTEM = {
    "description": "System prompt",
    "oneOf": [text(), array(TEXT_BLOCK), {"type": "null"}],
}
INPUT_SCHEMA = maybe({"type": "object"})
TOOL = {
    "anyOf": [
        record(
            {
                "type": {"enum": ["custom", None]},
                "name": text(),
                "description": anything("What it does and when to use it"),
                "input_schema": INPUT_SCHEMA,
            },
            required=("name",),
            description="A tool of yours.",
        ),
        record(
            {
                "type": text("Such as `bash_20250124`.", pattern=f"^({'|'.join(DEFINED)})"),
                "input_schema": INPUT_SCHEMA,
            },
            required=("type",),
            description="A tool that Anthropic describes and your own program runs, for models "
            "that know it. Those that Anthropic runs are not sold here.",
        ),
    ]
}
CHOICE = {
    "anyOf": [
        record({"type": text(enum=["auto", "any", "none"])}),
        record({"type": text(const="tool"), "name": text()}),
        {"type": "null"},
    ]
}
SHARE = maybe(number(minimum=0, maximum=1))
COMMON = {
    "model": MODEL,
    "messages": array(TURN, "The conversation so far", minItems=1, maxItems=MAX_MESSAGES),
    "system": SYSTEM,
    "tools": maybe(array(TOOL, "Tools the model can use")),
    "tool_choice": CHOICE,
    "thinking": maybe(
        record(
            {
                "type": text(examples=["enabled", "adaptive", "disabled"]),
                "budget_tokens": maybe(integer(minimum=1, maximum=MAX_INT)),
            },
            required=("type",),
            description="Extended thinking",
        )
    ),
}
EXAMPLE = {"model": "claude-sonnet-4-6", "messages": [{"role": "user", "content": "Say hello."}]}
COUNT = integer(minimum=0)

SCHEMAS = {
    "AnthropicBlock": {"anyOf": KINDS},
    "AnthropicMessageRequest": record(
        {
            **COMMON,
            "max_tokens": integer("Most tokens of the answer", minimum=1, maximum=MAX_INT),
            "max_cost": MAX_COST,
            "stream": maybe(boolean("Answer with Anthropic's server-sent events")),
            "temperature": SHARE,
            "top_p": SHARE,
            "stop_sequences": maybe(array(text())),
            "metadata": maybe(record({"user_id": maybe(text())}, required=())),
        },
        required=("model", "messages", "max_tokens"),
        examples=[{**EXAMPLE, "max_tokens": 64}],
    ),
    "AnthropicMessage": record(
        {
            "id": text(),
            "type": text(const="message"),
            "role": text(const="assistant"),
            "model": text("Actual model used"),
            "content": array(record({"type": text()})),
            "stop_reason": maybe(text(examples=["end_turn", "max_tokens", "tool_use"])),
            "stop_sequence": maybe(text()),
            "usage": record(
                {
                    "input_tokens": integer("Neither read from nor written to a cache", minimum=0),
                    "output_tokens": integer("Thinking included", minimum=0),
                    "output_tokens_details": record({"thinking_tokens": COUNT}),
                    "cache_creation_input_tokens": COUNT,
                    "cache_read_input_tokens": COUNT,
                    "cost": number("Cost in USD for this request", minimum=0),
                    "cost_usd": DOLLARS,
                    "cache_discount": number("Amount saved from prompt caching in USD"),
                }
            ),
        }
    ),
    "CountTokensRequest": record(COMMON, required=("model", "messages"), examples=[EXAMPLE]),
    "TokenCount": record({"input_tokens": COUNT}),
}
