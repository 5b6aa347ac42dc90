"""Anthropic's Messages: bodies checked, events passed on, the usage last, its own errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from adapters.http.complaints import MAX_INT, MAX_MESSAGES, MAX_PARTS, MAX_TOOLS
from adapters.http.dialects.sounds import check_sounds
from adapters.http.dialects.unsold import check_servers, check_tool, refuse_thread
from adapters.http.errors import status_of
from adapters.json_text import json_bytes
from kyma.calls import ChatCall, Dialect, size_of_messages
from kyma.catalog.model import Model
from kyma.errors import Code, Refusal
from kyma.flows.live import LiveAnswer
from kyma.flows.ticket import Receipt, Served, Ticket
from kyma.money import decimal_text, number

ROLES = ("user", "assistant", "system")
"""`system` among the turns is Anthropic's newest: Claude takes it, others get it translated."""

MAX_DEPTH = 2
"""Blocks may hold blocks: a tool's result a document, that one texts and images."""


class Messages:
    """`POST /v1/messages` and `/v1/messages/count_tokens`."""

    path = "/v1/messages"
    endpoint = "messages"
    id_header = "request-id"

    def model(self, body: dict[str, Any]) -> str:
        """The model of a body that is in order."""
        if body.get("max_tokens") is None:
            _missing("max_tokens")
        return self.model_to_count(body)

    def model_to_count(self, body: dict[str, Any]) -> str:
        """The model of a body whose tokens are to be counted: it needs no `max_tokens`."""
        name = body.get("model")
        if name is None:
            _missing("model")
        if not isinstance(name, str) or not name:
            _wrong("model", "a non-empty string")
        _check_messages(body.get("messages"))
        for field, check in CHECKS.items():
            if body.get(field) is not None:
                check(field, body[field])
        return name

    def call(self, body: dict[str, Any], model: Model) -> ChatCall:
        """The body as it came; a model that does not reason is not asked to."""
        check_sounds(body, model)
        return ChatCall(
            body if model.reasoning else _without_thinking(body),
            model.id,
            stream=bool(body.get("stream")),
            wants_usage=True,
            size=size_of_messages(body, model.context_window),
            dialect=Dialect.MESSAGES,
        )

    def count(self, body: dict[str, Any], model: Model) -> int:
        """The likely input tokens: an estimate, four bytes a token and a fixed sum per image."""
        return size_of_messages(body, model.context_window).likely_input

    def whole(self, served: Served) -> dict[str, Any]:
        """The message with its usage."""
        body = served.answer.body
        body["usage"] = usage_json(served.receipt)
        return body

    def rendering(self, ticket: Ticket) -> MessageStream:
        """Events as they came, then the two that close a message."""
        return MessageStream(ticket)

    def refusal(self, refusal: Refusal, request_id: str) -> dict[str, Any]:
        """Anthropic's envelope, with our fields in it."""
        hidden = {"quota", "rung"}
        shown = {name: value for name, value in refusal.details.items() if name not in hidden}
        return {
            "type": "error",
            "error": {
                "type": type_of(refusal),
                "message": refusal.message,
                "code": refusal.code.value,
                "param": refusal.param,
                "retryable": refusal.retryable,
                "charged": refusal.charged,
                **{name: value for name, value in shown.items() if name != "type"},
            },
            "request_id": request_id,
        }


class MessageStream:
    """A stream of Anthropic's events; the last ones are written once the answer is settled."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket

    def events(self, events: list[bytes]) -> bytes:
        """As they came."""
        return b"\n\n".join(events) + b"\n\n" if events else b""

    def end(self, live: LiveAnswer) -> bytes:
        """`message_delta` with the reason to stop, the usage and its cost, then `message_stop`."""
        ending = dict(live.ending or {})
        delta = {"stop_reason": "end_turn", "stop_sequence": None, **ending}
        edits = delta.pop("context_management", None)
        closing: dict[str, Any] = {"type": "message_delta", "delta": delta}
        closing["usage"] = usage_json(live.receipt) if live.receipt else {"output_tokens": 0}
        if edits is not None:
            closing["context_management"] = edits
        return _event("message_delta", closing) + _event("message_stop", {"type": "message_stop"})

    def failed(self, refusal: Refusal, request_id: str) -> bytes:
        """An error event; `message_stop` never follows it."""
        return _event("error", Messages().refusal(refusal, request_id))


def _event(name: str, body: Mapping[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + json_bytes(body) + b"\n\n"


def usage_json(receipt: Receipt) -> dict[str, Any]:
    """Anthropic's usage, whose buckets are disjoint as ours are, with Kyma's fields beside it.

    `output_tokens` includes thinking, which is told apart beside it. `cost` is what was
    charged, in USD.
    """
    usage = receipt.usage
    return {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
        "cost": number(receipt.charged),
        "cost_usd": decimal_text(receipt.charged),
        "cache_discount": number(receipt.cache_discount),
    }


TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""Anthropic's word for a status (platform.claude.com/docs/en/api/errors, 2026-11)."""


def type_of(refusal: Refusal) -> str:
    """Anthropic's type of an error."""
    status = status_of(refusal)
    return TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def with_betas(body: dict[str, Any], header: str | None) -> None:
    """Put the `anthropic-beta` header where it crosses to Anthropic, and to nobody else."""
    body.pop("betas", None)
    body.pop("anthropic_beta", None)
    if header:
        body["anthropic_beta"] = [beta.strip() for beta in header.split(",") if beta.strip()]


def _without_thinking(body: dict[str, Any]) -> dict[str, Any]:
    """2026-11: Groq answers 400 to `reasoning_effort` for a model that knows none."""
    kept = {name: value for name, value in body.items() if name != "thinking"}
    config = kept.get("output_config")
    if isinstance(config, dict) and "effort" in config:
        kept["output_config"] = {name: v for name, v in config.items() if name != "effort"}
    return kept


def _check_messages(messages: Any) -> None:
    if messages is None:
        _missing("messages")
    if not isinstance(messages, list):
        _wrong("messages", "an array")
    if not messages:
        _range("messages", "at least one message")
    if len(messages) > MAX_MESSAGES:
        _range("messages", f"at most {MAX_MESSAGES} messages")
    for place, message in enumerate(messages):
        _check_message(f"messages[{place}]", message, last=place == len(messages) - 1)


def _check_message(where: str, message: Any, *, last: bool) -> None:
    if not isinstance(message, dict):
        _wrong(where, "an object")
    role, content = message.get("role"), message.get("content")
    if role is None:
        _missing(f"{where}.role")
    if role not in ROLES:
        _range(f"{where}.role", "one of " + ", ".join(ROLES))
    if content is None:
        _missing(f"{where}.content")
    if not content and not (last and role == "assistant"):
        _range(f"{where}.content", "not empty")
    _check_content(f"{where}.content", content)


def _check_content(where: str, content: Any, depth: int = 0) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        _wrong(where, "a string or an array of objects")
    if len(content) > MAX_PARTS:
        _range(where, f"at most {MAX_PARTS} blocks")
    if depth > MAX_DEPTH:
        _range(where, f"nested at most {MAX_DEPTH} blocks deep")
    for place, block in enumerate(content):
        _check_block(f"{where}[{place}]", block, depth)


BLOCKS: dict[str, tuple[tuple[str, type, str], ...]] = {
    "text": (("text", str, "a string"),),
    "image": (("source", dict, "an object"),),
    "document": (("source", dict, "an object"),),
    "tool_use": (
        ("id", str, "a string"),
        ("name", str, "a string"),
        ("input", dict, "an object"),
    ),
    "tool_result": (("tool_use_id", str, "a string"),),
    "thinking": (("thinking", str, "a string"),),
    "redacted_thinking": (("data", str, "a string"),),
}
SOURCES: dict[str, tuple[tuple[str, type, str], ...]] = {
    "base64": (("media_type", str, "a string"), ("data", str, "a string")),
    "text": (("data", str, "a string"),),
    "url": (("url", str, "a string"),),
    "file": (("file_id", str, "a string"),),
}


def _check_block(where: str, block: Any, depth: int) -> None:
    """A block that is known has its fields; others pass, as long as they say what they are."""
    if not isinstance(block, dict):
        _wrong(where, "an object")
    kind = _kind(where, block)
    _check_fields(where, block, BLOCKS.get(kind, ()))
    if kind == "tool_result" and block.get("content") is not None:
        _check_content(f"{where}.content", block["content"], depth + 1)
    source = block.get("source")
    if kind not in ("image", "document") or not isinstance(source, dict):
        return
    form = _kind(f"{where}.source", source)
    _check_fields(f"{where}.source", source, SOURCES.get(form, ()))
    if form == "content":
        _check_content(f"{where}.source.content", source.get("content"), depth + 1)


def _kind(where: str, value: Mapping[str, Any]) -> str:
    kind = value.get("type")
    if kind is None:
        _missing(f"{where}.type")
    if not isinstance(kind, str):
        _wrong(f"{where}.type", "a string")
    return kind


def _check_fields(
    where: str, value: Mapping[str, Any], fields: tuple[tuple[str, type, str], ...]
) -> None:
    for name, kind, words in fields:
        found = value.get(name)
        if found is None:
            _missing(f"{where}.{name}")
        if not isinstance(found, kind):
            _wrong(f"{where}.{name}", words)


def _check_system(where: str, value: Any) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        _wrong(where, "a string or an array of text blocks")
    if len(value) > MAX_PARTS:
        _range(where, f"at most {MAX_PARTS} blocks")
    for place, block in enumerate(value):
        _check_block(f"{where}[{place}]", block, 0)
        if block["type"] != "text":
            _range(f"{where}[{place}].type", "text")


def _check_tools(where: str, value: Any) -> None:
    if not isinstance(value, list):
        _wrong(where, "an array")
    if len(value) > MAX_TOOLS:
        _range(where, f"at most {MAX_TOOLS} tools")
    for place, tool in enumerate(value):
        at = f"{where}[{place}]"
        if not isinstance(tool, dict):
            _wrong(at, "an object")
        if tool.get("type") is not None and not isinstance(tool["type"], str):
            _wrong(f"{at}.type", "a string")
        check_tool(at, tool.get("type"))
        if tool.get("type") in (None, "custom"):
            _check_fields(at, tool, (("name", str, "a string"),))
        if tool.get("input_schema") is not None and not isinstance(tool["input_schema"], dict):
            _wrong(f"{at}.input_schema", "an object")


def _check_choice(where: str, value: Any) -> None:
    _check_object(where, value)
    kind = _kind(where, value)
    if kind not in ("auto", "any", "tool", "none"):
        _range(f"{where}.type", "one of auto, any, tool, none")
    if kind == "tool":
        _check_fields(where, value, (("name", str, "a string"),))


def _check_thinking(where: str, value: Any) -> None:
    _check_object(where, value)
    _kind(where, value)
    budget = value.get("budget_tokens")
    if budget is not None:
        _check_integer(f"{where}.budget_tokens", budget)


def _check_stops(where: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(stop, str) for stop in value):
        _wrong(where, "an array of strings")


def _check_metadata(where: str, value: Any) -> None:
    _check_object(where, value)
    if not isinstance(value.get("user_id", ""), str | None):
        _wrong(f"{where}.user_id", "a string")


def _check_object(where: str, value: Any) -> None:
    if not isinstance(value, dict):
        _wrong(where, "an object")


def _check_boolean(where: str, value: Any) -> None:
    if not isinstance(value, bool):
        _wrong(where, "a boolean")


def _check_integer(where: str, value: Any) -> None:
    if type(value) is not int:
        _wrong(where, "an integer")
    if not 1 <= value <= MAX_INT:
        _range(where, f"between 1 and {MAX_INT}")


def _check_share(where: str, value: Any) -> None:
    if type(value) not in (int, float):
        _wrong(where, "a number")
    if not 0 <= value <= 1:
        _range(where, "between 0 and 1")


CHECKS = {
    "thread": refuse_thread,
    "mcp_servers": check_servers,
    "max_tokens": _check_integer,
    "system": _check_system,
    "tools": _check_tools,
    "tool_choice": _check_choice,
    "stop_sequences": _check_stops,
    "temperature": _check_share,
    "top_p": _check_share,
    "thinking": _check_thinking,
    "metadata": _check_metadata,
    "output_config": _check_object,
    "stream": _check_boolean,
}
"""Fields that are looked at; all others reach the model as they came."""


def _missing(param: str) -> NoReturn:
    raise Refusal(Code.MISSING_FIELD, f"{param}: Field required.", param=param)


def _wrong(param: str, kind: str) -> NoReturn:
    raise Refusal(Code.INVALID_TYPE, f"{param}: must be {kind}.", param=param)


def _range(param: str, words: str) -> NoReturn:
    raise Refusal(Code.INVALID_VALUE, f"{param}: must be {words}.", param=param)
