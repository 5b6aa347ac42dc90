"""OpenAI's chat dialect: pure encode and decode, no sockets, no clock.

Payloads pass through; only what must be ours is replaced: the model's name, the answer's id,
and on the way in `max_tokens`, `stream_options` and the model id.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from kyma.calls import ChatAnswer, ChatCall, Chunk, Dialect, Fault, UpstreamError
from kyma.usage import Usage

DROPPED = ("provider",)
"""Fields of an answer that name who served it; OpenRouter adds one."""


NOT_SENT = ("service_tier",)
"""What no caller may ask of a provider in our name: faster service at a price we do not take."""

THOUGHTS = frozenset({"reasoning_content", "reasoning", "reasoning_details"})
"""How providers spell what a model thought, in an assistant's message."""


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None
    refusal: Any = None
    function_call: Any = None
    audio: Any = None


class _Choice(msgspec.Struct):
    index: Any = 0
    delta: _Delta | None = None
    text: Any = None
    finish_reason: Any = None


class _Event(msgspec.Struct):
    id: Any = None
    model: Any = None
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    x_groq: Any = None


_events = msgspec.json.Decoder(_Event)


def request(
    call: ChatCall,
    upstream_model: str,
    *,
    max_tokens_field: str = "max_tokens",
    drops: tuple[str, ...] = (),
    thoughts: bool = True,
    stream_usage: bool = True,
) -> bytes:
    """The request body for an upstream; `max_tokens` is always sent, never lowered.

    Without `thoughts` those of earlier turns are left out, for providers that refuse them.
    """
    unwanted = {*drops, *NOT_SENT}
    body: dict[str, Any] = {
        name: value for name, value in call.body.items() if name not in unwanted
    }
    body["model"] = upstream_model
    if not thoughts and "messages" in body:
        body["messages"] = [_without_thoughts(message) for message in body["messages"]]
    if call.dialect is Dialect.EMBEDDINGS:
        return orjson.dumps(body)
    # One field, and the one that the hold was reckoned from: `null` asks for nothing.
    asked = body.pop("max_tokens", None)
    asked = body.pop("max_completion_tokens", None) or asked
    if call.dialect is Dialect.COMPLETIONS:
        max_tokens_field = "max_tokens"
    body[max_tokens_field] = asked or call.size.max_output // call.size.choices
    if call.stream and stream_usage:
        options = call.body.get("stream_options")
        body["stream_options"] = {
            **(options if isinstance(options, Mapping) else {}),
            "include_usage": True,
        }
    return orjson.dumps(body)


def _without_thoughts(message: Any) -> Any:
    if not THOUGHTS.isdisjoint(message):
        return {name: value for name, value in message.items() if name not in THOUGHTS}
    return message


OBJECTS = {
    Dialect.CHAT: ("chat.completion", "chatcmpl-"),
    Dialect.COMPLETIONS: ("text_completion", "cmpl-"),
}
"""What a whole answer calls itself, and how its id begins."""


def answer(raw: bytes, model: str, id: str, dialect: Dialect = Dialect.CHAT) -> ChatAnswer:
    """A whole answer under our model name and id; what is no answer is a broken upstream."""
    body = _object(raw)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise UpstreamError(Fault.BROKEN, f"an answer without choices: {raw[:120]!r}")
    body["object"], prefix = OBJECTS[dialect]
    body["id"] = f"{prefix}{id}"
    body["model"] = model
    for name in DROPPED:
        body.pop(name, None)
    told = usage_of(body.pop("usage", None))
    said = _said if dialect is Dialect.CHAT else _written
    return ChatAnswer(body, told, sum(said(choice) for choice in choices))


def embeddings(raw: bytes, model: str) -> ChatAnswer:
    """A list of vectors under our model name."""
    body = _object(raw)
    data = body.get("data")
    if not isinstance(data, list) or not data:
        raise UpstreamError(Fault.BROKEN, f"an answer without vectors: {raw[:120]!r}")
    told = usage_of(body.pop("usage", None))
    shown = {"object": "list", "data": data, "model": model}
    return ChatAnswer(shown, told, 0)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamError(Fault.BROKEN, f"not JSON: {raw[:120]!r}") from error
    if not isinstance(body, dict):
        raise UpstreamError(Fault.BROKEN, f"not an object: {raw[:120]!r}")
    if body.get("error"):
        raise error_in_body(body["error"])
    return body


def _said(choice: Any) -> int:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict) or choice.get("finish_reason") is None:
        raise UpstreamError(Fault.BROKEN, "a choice without a message or a reason to end")
    return _weight(
        message.get("content"),
        message.get("reasoning_content"),
        message.get("reasoning"),
        message.get("tool_calls"),
        message.get("refusal"),
    )


def _written(choice: Any) -> int:
    text = choice.get("text") if isinstance(choice, dict) else None
    if not isinstance(text, str) or choice.get("finish_reason") is None:
        raise UpstreamError(Fault.BROKEN, "a choice without a text or a reason to end")
    return _weight(text)


def _weight(*parts: Any) -> int:
    """UTF-8 bytes of what a model produced, tool calls as their JSON."""
    total = 0
    for part in parts:
        if isinstance(part, str):
            total += len(part) if part.isascii() else len(part.encode("utf-8", "surrogatepass"))
        elif part:
            total += len(msgspec.json.encode(part))
    return total


def usage_of(told: Any) -> Usage | None:
    """Disjoint buckets from the spellings seen in the field; None if nothing was told.

    `prompt_tokens` includes cached ones, read and written, at OpenAI, Groq, DeepSeek, Moonshot,
    Alibaba, Google and OpenRouter (CLIProxyAPI #1562, 2026-02: 5,004 written of 5,031). The
    cached part comes as `prompt_tokens_details.cached_tokens`, or as DeepSeek's
    `prompt_cache_hit_tokens`, or as Moonshot's `cached_tokens`. What `total_tokens` has beyond
    both sums is `_beside` them.
    """
    if not isinstance(told, dict):
        return None
    prompt, completion = _count(told, "prompt_tokens"), _count(told, "completion_tokens")
    details = told.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    read = (
        _count(details, "cached_tokens")
        or _count(told, "prompt_cache_hit_tokens")
        or _count(told, "cached_tokens")
        or _count(told, "cache_read_input_tokens")
    )
    write = (
        _count(details, "cache_write_tokens")
        or _count(details, "cache_creation_tokens")
        or _count(details, "cache_creation_input_tokens")
        or _count(told, "cache_creation_input_tokens")
    )
    thinking = told.get("completion_tokens_details")
    reasoning = _count(thinking, "reasoning_tokens") if isinstance(thinking, dict) else 0
    beside = _beside(told, prompt, completion)
    if beside and beside in (write, read + write) and beside != reasoning:
        prompt += beside
    elif beside:
        completion += beside
        reasoning = beside if reasoning in (0, beside) else reasoning + beside
    reasoning = min(reasoning, max(completion, 0)) if reasoning > 0 else reasoning
    return Usage(prompt - read - write, read, write, completion - reasoning, reasoning)


def _beside(told: Mapping[str, Any], prompt: int, completion: int) -> int:
    """Tokens that a provider counts in its total and in neither sum: as a rule its thinking.

    2026-11: so Google's OpenAI endpoint (vercel/ai #6082, any-llm #1290) and xAI (vercel/ai
    #12425); a proxy before Anthropic may leave cache reads and writes out of `prompt_tokens`.
    """
    return max(0, _count(told, "total_tokens") - prompt - completion) if prompt > 0 else 0


def _count(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    return int(value) if isinstance(value, (int, float)) else 0


def error_in_body(error: Any) -> UpstreamError:
    """An error object that came under a status of 200, whole or inside a stream."""
    message, code = "", None
    if isinstance(error, dict):
        message, code = str(error.get("message") or ""), error.get("code") or error.get("type")
    fault = Fault.BUSY if str(code) in {"429", "503", "overloaded_error"} else Fault.BROKEN
    return UpstreamError(fault, message or repr(error)[:200])


DENIED_STATUS = frozenset({401, 402, 403})
BUSY_STATUS = frozenset({429, 503, 529})
TIMEOUT_STATUS = frozenset({408, 504, 524})
CALLERS_STATUS = frozenset({400, 413, 415, 422})


def failure(status: int, raw: bytes, retry_after: str | None) -> UpstreamError:
    """What another status than 200 means; the code counts only where it is ambiguous."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None
    error = body.get("error", body) if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or raw[:200].decode("utf-8", "replace") or f"HTTP {status}")
    code = str(error.get("code") or error.get("type") or "")
    param = error.get("param") if isinstance(error.get("param"), str) else None
    if status in BUSY_STATUS:
        return UpstreamError(Fault.BUSY, message, retry_after_s=_seconds(retry_after))
    if status in DENIED_STATUS:
        # 2026-11: OpenRouter answers 403 when its moderation flags the input.
        moderated = status == 403 and ("moderation" in code or "flagged" in message.lower())
        return UpstreamError(Fault.REFUSED if moderated else Fault.DENIED, message)
    if status in TIMEOUT_STATUS:
        return UpstreamError(Fault.TIMEOUT, message)
    if status in CALLERS_STATUS:
        return UpstreamError(_callers_fault(status, code, message), message, param=param)
    return UpstreamError(Fault.BROKEN, f"HTTP {status}: {message}")


def _callers_fault(status: int, code: str, message: str) -> Fault:
    lowered = message.lower()
    if status == 413 or code == "context_length_exceeded" or "maximum context length" in lowered:
        return Fault.TOO_LONG
    if "content_filter" in code or "content_policy" in code:
        return Fault.REFUSED
    return Fault.BAD_REQUEST


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds; the HTTP-date form is not used by any provider here."""
    try:
        seconds = float(retry_after) if retry_after else math.nan
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


_NAMES = {
    name: re.compile(rb'"' + name.encode() + rb'"\s*:\s*("(?:[^"\\]|\\.)*"|null)')
    for name in ("id", "model")
}


class Renamer:
    """Replaces a stream's id and model name in its JSON bytes without building objects.

    The patterns are learned from the first payload. They cannot occur inside a JSON string,
    where quotes are escaped.
    """

    def __init__(self, model: str, id: str) -> None:
        self._ours = {
            "id": b'"id":' + orjson.dumps(id),
            "model": b'"model":' + orjson.dumps(model),
        }
        self._known: tuple[Any, Any] | None = None
        self._theirs: list[tuple[bytes, bytes]] = []
        self._slow = False

    def rename(self, payload: bytes, event: _Event) -> bytes:
        """The payload under our names."""
        if self._known != (event.id, event.model):
            self._learn(payload, event)
        if self._slow:
            return self._rebuild(payload)
        renamed = payload
        for theirs, ours in self._theirs:
            before, renamed = renamed, renamed.replace(theirs, ours, 1)
            if renamed is before:  # the same name, written in another way
                return self._rebuild(payload)
        return renamed

    def _learn(self, payload: bytes, event: _Event) -> None:
        self._known = (event.id, event.model)
        self._theirs = []
        self._slow = b'"provider"' in payload
        for name, value in (("model", event.model), ("id", event.id)):
            found = _NAMES[name].search(payload)
            if found is None or msgspec.json.decode(found.group(1)) != value:
                self._slow = True
                return
            self._theirs.append((found.group(0), self._ours[name]))

    def _rebuild(self, payload: bytes) -> bytes:
        body = msgspec.json.decode(payload)
        for name in DROPPED:
            body.pop(name, None)
        for ours in self._ours.values():
            body.update(orjson.loads(b"{" + ours + b"}"))
        return orjson.dumps(body)


MAX_EVENT_BYTES = 16 * 1024 * 1024


class StreamDecoder:
    """Server-sent events in, chunks out; knows when the upstream has said all."""

    def __init__(self, model: str, id: str, choices: int, dialect: Dialect = Dialect.CHAT) -> None:
        self._renamer = Renamer(model, f"{OBJECTS[dialect][1]}{id}")
        self._choices = max(1, choices)
        self._seen: set[Any] = set()
        self._finished: set[Any] = set()
        self._rest = b""
        self.said_done = False

    @property
    def complete(self) -> bool:
        """Whether every choice has told why it ended (every one seen, where `n` is ignored)."""
        return len(self._finished) >= self._choices or (
            self.said_done and bool(self._finished) and self._finished >= self._seen
        )

    def feed(self, data: bytes) -> Chunk | None:
        """What this read completes; raises `UpstreamError` on what is no chunk."""
        data = self._rest + data if self._rest else data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise UpstreamError(Fault.BROKEN, "an event without an end")
        if not events:
            return None
        chunk = Chunk([], 0, False, None)
        for event in events:
            payload = _payload(event)
            if payload == b"[DONE]":
                self.said_done = True
            elif payload:
                self._take(payload, chunk)
        return chunk

    def _take(self, payload: bytes, chunk: Chunk) -> None:
        try:
            event = _events.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError(Fault.BROKEN, f"malformed chunk: {payload[:120]!r}") from error
        if event.error:
            raise error_in_body(event.error)
        told = event.usage
        if told is None and isinstance(event.x_groq, dict):
            told = event.x_groq.get("usage")
        if told is not None:
            chunk.usage = usage_of(told)
        if not event.choices:
            return
        for choice in event.choices:
            chunk.output_bytes += self._see(choice)
        chunk.finished = len(self._finished) >= self._choices
        if told is not None or event.x_groq is not None:
            payload = _without_usage(payload)
        chunk.events.append(b"data: " + self._renamer.rename(payload, event))

    def _see(self, choice: _Choice) -> int:
        """Bytes of output in one choice of a chunk, and whether it has ended."""
        weight = 0
        if choice.delta is not None:
            weight = _delta_weight(choice.delta)
            self._seen.add(choice.index)
        elif choice.text is not None:
            weight = _weight(choice.text)
            self._seen.add(choice.index)
        if choice.finish_reason:
            self._finished.add(choice.index)
        return weight


def _delta_weight(delta: _Delta) -> int:
    content = delta.content
    if type(content) is str and content and content.isascii():
        return len(content)
    return _weight(
        content,
        delta.reasoning_content,
        delta.reasoning,
        delta.tool_calls,
        delta.refusal,
        delta.function_call,
        delta.audio,
    )


def _payload(event: bytes) -> bytes:
    """The data of one server-sent event; comments and other fields carry nothing for us."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def _without_usage(payload: bytes) -> bytes:
    body = msgspec.json.decode(payload)
    body.pop("usage", None)
    body.pop("x_groq", None)
    return orjson.dumps(body)
