"""Anthropic's Messages dialect: pure encode and decode, no sockets, no clock.

Payloads pass through; only what must be ours is replaced: the model's name, the message's id,
and on the way in what the model at the other end would refuse or bill beside its tokens.
Shapes: platform.claude.com/docs/en/api/messages and the types of `anthropic` 2.10 (2026-11).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from adapters.json_text import json_bytes
from adapters.upstreams.wire import faults
from adapters.upstreams.wire.jsons import UNREADABLE, check, read, written
from adapters.upstreams.wire.sold import as_sold, check_claude_tools
from adapters.upstreams.wire.sse import Splitter
from kyma.calls import ChatAnswer, ChatCall, Chunk, Fault, UpstreamError
from kyma.usage import Usage

VERSION = "2023-06-01"

BETA_FIELDS = ("anthropic_beta", "betas")
"""Fields of a body that stand for the `anthropic-beta` header; never sent in a body."""

NOT_SENT = frozenset(
    {
        *BETA_FIELDS,
        "max_cost",
        "mcp_servers",  # Anthropic asks them itself, and the model reads what they say
        # These change what a token costs or who bills it; prices here know nothing of them.
        *("speed", "inference_geo", "fallbacks", "fallback_credit_token", "billing_policy"),
    }
)

UNSOLD_BETAS = ("context-1m", "fast-mode", "oauth")
"""Betas that change the price of a token, or go with a credential that is not ours."""

BUDGETS = {"low": 2_048, "medium": 8_192, "high": 24_576, "xhigh": 32_768, "max": 49_152}
"""Thinking tokens for an effort, where a model knows budgets only."""

MIN_BUDGET = 1_024

_VERSIONED = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2}))?(?!\d)")
_ID = re.compile(r"[a-zA-Z0-9_-]+")
_BETA = re.compile(r"[A-Za-z0-9._-]{1,100}")


def headers(key: str) -> dict[str, str]:
    """The headers of every call."""
    return {
        "x-api-key": key,
        "anthropic-version": VERSION,
        "Content-Type": "application/json",
        "User-Agent": "kyma",
    }


def betas(call: ChatCall) -> dict[str, str]:
    """The header for the betas that a caller asked for, if any; the edge puts them in the body."""
    asked: list[str] = []
    for name in BETA_FIELDS:
        value = call.body.get(name)
        asked += value.split(",") if isinstance(value, str) else _strings(value)
    known = dict.fromkeys(beta.strip() for beta in asked)
    kept = [b for b in known if _BETA.fullmatch(b) and not b.startswith(UNSOLD_BETAS)]
    return {"anthropic-beta": ",".join(kept)} if kept else {}


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def request(call: ChatCall, upstream_model: str) -> bytes:
    """The request body for an upstream; `max_tokens` is always sent, never lowered.

    Raises `TypeError` for a body that is nested too deeply to be written, and `UpstreamError`
    BAD_REQUEST for a tool that Anthropic would run.
    """
    check_claude_tools(call.body)
    body: dict[str, Any] = {
        name: value
        for name, value in call.body.items()
        if value is not None and name not in NOT_SENT
    }
    body["model"] = upstream_model
    body["max_tokens"] = body.get("max_tokens") or call.size.max_output
    messages = [_mended(message) for message in body.get("messages") or ()]
    body["messages"] = [message for message in messages if message is not None]
    _suit(body, upstream_model)
    return as_sold(json_bytes(body))


def _mended(message: Any) -> Any:
    """A turn that another model may have answered, as Anthropic takes it; None if nothing is left.

    Its ids have letters that Anthropic refuses (Kimi: `functions.ls:0`), its thinking has no
    signature and cannot be verified.
    """
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list) or not any(map(_is_foreign, content)):
        return message
    blocks = [_with_our_ids(block) for block in content if not _is_unsigned(block)]
    return {**message, "content": blocks} if blocks else None


def _is_foreign(block: Any) -> bool:
    return _is_unsigned(block) or _with_our_ids(block) is not block


def _is_unsigned(block: Any) -> bool:
    return (
        isinstance(block, dict) and block.get("type") == "thinking" and not block.get("signature")
    )


def _with_our_ids(block: Any) -> Any:
    if not isinstance(block, dict):
        return block
    for name in ("id", "tool_use_id"):
        value = block.get(name)
        if isinstance(value, str) and not _ID.fullmatch(value):
            return {**block, name: re.sub(r"[^a-zA-Z0-9_-]", "_", value) or "_"}
    return block


def _suit(body: dict[str, Any], upstream_model: str) -> None:
    """Turn thinking and sampling into what this model takes, where it would refuse the request.

    2026-11: from 4.7 on, budgets and sampling are a 400 and thinking is adaptive; before 4.6
    only budgets are known, and effort by Opus alone (platform.claude.com, adaptive thinking).
    A call meets such a model as a fallback from another one, or translated.
    """
    found = _VERSIONED.search(upstream_model)
    if found is None:
        return
    version = (int(found[1]), int(found[2] or 0))
    thinking = body.get("thinking")
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if version >= (4, 7):
        for name in ("temperature", "top_p", "top_k"):
            body.pop(name, None)
        if kind == "disabled":
            del body["thinking"]
        elif kind == "enabled":
            _think_adaptively(body)
        return
    if version < (4, 6):
        if kind == "adaptive":
            _think_within_a_budget(body)
        if "opus" not in upstream_model:
            _drop_effort(body)
    if _kind(body) == "enabled" and not _may_think(body["messages"]):
        del body["thinking"]


def _kind(body: Mapping[str, Any]) -> Any:
    thinking = body.get("thinking")
    return thinking.get("type") if isinstance(thinking, dict) else None


def _think_adaptively(body: dict[str, Any]) -> None:
    thinking = body["thinking"]
    shown = {"display": thinking["display"]} if thinking.get("display") else {}
    body["thinking"] = {"type": "adaptive", **shown}
    config = body.get("output_config")
    config = config if isinstance(config, dict) else {}
    body["output_config"] = {"effort": effort_of(thinking.get("budget_tokens")), **config}


def effort_of(budget: Any) -> str:
    """The effort that a thinking budget stands for; without a number it is the middle one."""
    if type(budget) is not int:
        return "medium"
    if budget <= BUDGETS["low"] * 2:
        return "low"
    return "medium" if budget <= BUDGETS["medium"] * 2 else "high"


def _think_within_a_budget(body: dict[str, Any]) -> None:
    config = body.get("output_config")
    effort = config.get("effort") if isinstance(config, dict) else None
    limit = body["max_tokens"] - 1 if type(body["max_tokens"]) is int else 0
    budget = min(BUDGETS.get(str(effort), BUDGETS["high"]), limit)
    del body["thinking"]
    if budget >= MIN_BUDGET:
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        for name in ("temperature", "top_p", "top_k"):
            body.pop(name, None)


def _drop_effort(body: dict[str, Any]) -> None:
    config = body.get("output_config")
    if not isinstance(config, dict) or "effort" not in config:
        return
    body["output_config"] = {name: v for name, v in config.items() if name != "effort"}
    if not body["output_config"]:
        del body["output_config"]


def _may_think(messages: list[Any]) -> bool:
    """Whether a turn that goes on after tool results began with thinking, as a budget demands."""
    if not messages or not _begins(messages[-1], "tool_result"):
        return True
    asked = [m for m in messages if isinstance(m, dict) and m.get("role") == "assistant"]
    return bool(asked) and _begins(asked[-1], "thinking", "redacted_thinking")


def _begins(message: Any, *kinds: str) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and first.get("type") in kinds


def answer(raw: bytes, model: str, id: str) -> ChatAnswer:
    """A whole message under our model name and id; what is no answer is a broken upstream."""
    body = read(raw)
    if isinstance(body, dict) and body.get("error"):
        raise error_in_body(body["error"])
    content = body.get("content") if isinstance(body, dict) else None
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise UpstreamError(Fault.BROKEN, f"an answer without content: {raw[:120]!r}")
    if not isinstance(body.get("stop_reason"), str):
        raise UpstreamError(Fault.BROKEN, "an answer without a reason to stop")
    body.update({"id": f"msg_{id}", "type": "message", "role": "assistant", "model": model})
    body.setdefault("stop_sequence", None)
    told = usage_of(body.pop("usage", None))
    return ChatAnswer(body, told, sum(map(_weight, content)))


SAID = ("text", "thinking", "partial_json", "name")


def _weight(part: Mapping[str, Any]) -> int:
    """UTF-8 bytes of what a model produced in a block or a delta: text, thinking, tool input."""
    total = 0
    for name in SAID:
        said = part.get(name)
        if isinstance(said, str):
            total += len(said) if said.isascii() else len(said.encode("utf-8", "surrogatepass"))
    if part.get("input"):
        total += len(written(part["input"]))
    return total


def usage_of(told: Any) -> Usage | None:
    """Disjoint buckets; None if nothing was told.

    `input_tokens` excludes cache reads and writes, `output_tokens` includes thinking. The
    tokens of a compaction come beside the totals, in `iterations`; other iterations are in them.
    """
    if not isinstance(told, dict):
        return None
    iterations = told.get("iterations")
    beside = [
        part
        for part in (iterations if isinstance(iterations, list) else ())
        if isinstance(part, dict) and part.get("type") == "compaction"
    ]
    parts = [told, *beside]
    output = _sum(parts, "output_tokens")
    details = told.get("output_tokens_details")
    reasoning = _sum([details], "thinking_tokens") if isinstance(details, dict) else 0
    reasoning = min(reasoning, max(output, 0)) if reasoning > 0 else reasoning
    return Usage(
        _sum(parts, "input_tokens"),
        _sum(parts, "cache_read_input_tokens"),
        _sum(parts, "cache_creation_input_tokens"),
        output - reasoning,
        reasoning,
    )


def _sum(parts: list[dict[str, Any]], name: str) -> int:
    found = (part.get(name) for part in parts)
    return sum(int(value) for value in found if isinstance(value, (int, float)))


FAULTS = {
    "overloaded_error": Fault.BUSY,
    "rate_limit_error": Fault.BUSY,
    "timeout_error": Fault.TIMEOUT,
    "authentication_error": Fault.DENIED,
    "permission_error": Fault.DENIED,
    "billing_error": Fault.DENIED,
}


def error_in_body(error: Any) -> UpstreamError:
    """An error object under a status of 200, whole or inside a stream."""
    message, kind = "", ""
    if isinstance(error, dict):
        message, kind = str(error.get("message") or ""), str(error.get("type") or "")
    fault = FAULTS.get(kind, Fault.BROKEN)
    if "content filtering policy" in message.lower():
        fault = Fault.REFUSED
    return UpstreamError(fault, message or repr(error)[:200])


OUR_ACCOUNT = ("credit balance is too low", "specified api usage limits")
"""2026-11: a 400, though it is our account that lacks credit or has met its spend limit."""

TOO_LONG = ("prompt is too long", "exceed context limit", "exceed the context limit")


def failure(status: int, raw: bytes, retry_after: str | None) -> UpstreamError:
    """What another status than 200 means; by status first, then by Anthropic's own words."""
    error = faults.failure(status, raw, retry_after)
    if error.fault is not Fault.BAD_REQUEST:
        return error
    said = error.message.lower()
    if any(words in said for words in OUR_ACCOUNT):
        return UpstreamError(Fault.DENIED, error.message)
    if any(words in said for words in TOO_LONG):
        return UpstreamError(Fault.TOO_LONG, error.message)
    if "content filtering policy" in said:
        return UpstreamError(Fault.REFUSED, error.message)
    return error


class _Event(msgspec.Struct):
    type: str
    message: Any = None
    delta: Any = None
    content_block: Any = None
    usage: Any = None
    error: Any = None
    context_management: Any = None


_events = msgspec.json.Decoder(_Event)

STARTED_USAGE = (
    *("input_tokens", "output_tokens", "cache_creation_input_tokens"),
    *("cache_read_input_tokens", "cache_creation"),
)


class StreamDecoder:
    """Server-sent events in, chunks out; knows when the upstream has said all.

    Events pass as they came, under our names. The closing `message_delta` and `message_stop`
    do not: they carry the usage and are written at the edge, once the answer is settled.
    """

    def __init__(self, model: str, id: str) -> None:
        self._model = model
        self._id = id
        self._split = Splitter().feed
        self._usage: dict[str, Any] = {}
        self._ending: dict[str, Any] = {}
        self.said_done = False
        self.complete = False

    def known(self, data: bytes) -> Chunk | None:  # noqa: ARG002 - as every decoder
        """Nothing: every event is read."""
        return None

    def feed(self, data: bytes) -> Chunk | None:
        """What this read completes; raises `UpstreamError` on what is no event."""
        payloads = self._split(data)
        if payloads is None:
            return None
        chunk = Chunk([], 0, False, None)
        for payload in payloads:
            self._take(payload, chunk)
        return chunk

    def _take(self, payload: bytes, chunk: Chunk) -> None:
        try:
            event = _events.decode(payload)
        except UNREADABLE as error:
            raise UpstreamError(Fault.BROKEN, f"malformed event: {payload[:120]!r}") from error
        if event.type == "error" or event.error:
            raise error_in_body(event.error)
        if event.type == "message_start":
            payload = self._start(event)
        elif event.type == "message_delta":
            self._finish(event, chunk)
            return
        elif event.type == "message_stop":
            self.said_done = True
            return
        for part in (event.delta, event.content_block):
            if isinstance(part, dict):
                chunk.output_bytes += _weight(part)
        chunk.events.append(_event_of(event.type, payload))

    def _start(self, event: _Event) -> bytes:
        if not isinstance(event.message, dict):
            raise UpstreamError(Fault.BROKEN, "a message that begins with nothing")
        usage = event.message.get("usage")
        self._usage = dict(usage) if isinstance(usage, dict) else {}
        shown = {name: self._usage[name] for name in STARTED_USAGE if name in self._usage}
        ours = {"id": f"msg_{self._id}", "model": self._model}
        shown = {"input_tokens": 0, "output_tokens": 0, **shown}
        message = {**event.message, **ours, "usage": shown}
        return written({"type": "message_start", "message": message})

    def _finish(self, event: _Event, chunk: Chunk) -> None:
        if isinstance(event.usage, dict):
            told = {name: value for name, value in event.usage.items() if value is not None}
            self._usage.update(told)
            chunk.usage = usage_of(self._usage)
        if isinstance(event.delta, dict):
            self._ending.update(event.delta)
        if event.context_management is not None:
            self._ending["context_management"] = event.context_management
        if self._ending.get("stop_reason"):
            self.complete = True
            chunk.finished = True
            chunk.ending = self._ending
            check(self._ending)  # it is written at the edge, once the answer is paid


def _event_of(kind: str, payload: bytes) -> bytes:
    if b"\n" in payload:  # it came in several lines
        payload = written(read(payload))
    return b"event: " + orjson.dumps(kind)[1:-1] + b"\ndata: " + payload
