"""OpenAI's chat dialect: pure encode and decode, no sockets, no clock.

Payloads pass through; only what must be ours is replaced: the model's name, the answer's id,
and on the way in `max_tokens`, `stream_options` and the model id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from adapters.json_text import json_bytes
from adapters.upstreams.wire.alike import Alike
from adapters.upstreams.wire.endings import ending_of
from adapters.upstreams.wire.faults import check_told, error_in_body, failure
from adapters.upstreams.wire.jsons import UNREADABLE, objects, read, written
from adapters.upstreams.wire.marks import without_marks
from adapters.upstreams.wire.sold import NOT_SENT, as_sold, check_tools, is_another
from adapters.upstreams.wire.sse import Splitter
from adapters.upstreams.wire.translation_answers import arguments_of
from adapters.upstreams.wire.usage import usage_of
from kyma.calls import ChatAnswer, ChatCall, Chunk, Dialect, Fault, UpstreamError

__all__ = ["StreamDecoder", "answer", "failure", "request", "usage_of"]

DROPPED = ("provider",)
"""Fields of an answer that name who served it; OpenRouter adds one."""

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
    index: int | str | None = 0
    delta: _Delta | None = None
    text: Any = None
    finish_reason: Any = None
    native_finish_reason: Any = None
    error: Any = None


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
    marks: bool = False,
) -> bytes:
    """The request body for an upstream; `max_tokens` is always sent, never lowered.

    Without `thoughts` those of earlier turns are left out, for providers that refuse them; so
    are a prompt's cache marks without `marks`.
    Raises `UpstreamError` BAD_REQUEST for a tool that a provider would run and bill, and
    `TypeError` for a body that is nested too deeply to be written.
    """
    check_tools(call.body)
    unwanted = {*drops, *NOT_SENT}
    body: dict[str, Any] = {
        name: value for name, value in call.body.items() if name not in unwanted
    }
    body["model"] = upstream_model
    if not thoughts and "messages" in body:
        body["messages"] = [_without_thoughts(message) for message in body["messages"]]
    if call.dialect is Dialect.EMBEDDINGS:
        return json_bytes(body)
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
    raw = json_bytes(body)
    return as_sold(raw if marks else without_marks(raw))


def _without_thoughts(message: Any) -> Any:
    if not THOUGHTS.isdisjoint(message):
        return {name: value for name, value in message.items() if name not in THOUGHTS}
    return message


OBJECTS = {
    Dialect.CHAT: ("chat.completion", "chatcmpl-"),
    Dialect.COMPLETIONS: ("text_completion", "cmpl-"),
}
"""What a whole answer calls itself, and how its id begins."""


def answer(
    raw: bytes, model: str, id: str, dialect: Dialect = Dialect.CHAT, *, asked: str = ""
) -> ChatAnswer:
    """A whole answer under our model name and id; what is no answer is a broken upstream.

    `asked` is the model that was asked for, where the provider tells which one it used.
    """
    body = _object(raw)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise UpstreamError(Fault.BROKEN, f"an answer without choices: {raw[:120]!r}")
    _check_model(asked, body.get("model"))
    body["object"], prefix = OBJECTS[dialect]
    body["id"] = f"{prefix}{id}"
    body["model"] = model
    for name in DROPPED:
        body.pop(name, None)
    told = usage_of(body.pop("usage", None))
    said = _said if dialect is Dialect.CHAT else _written
    output_bytes = sum(said(_ended(choice)) for choice in choices)
    if dialect is Dialect.CHAT:
        for choice in choices:
            _make_answerable(choice["message"].get("tool_calls"), f"call_{id}")
    return ChatAnswer(body, told, output_bytes)


def _check_model(asked: str, told: Any) -> None:
    if asked and isinstance(told, str) and told and is_another(asked, told):
        raise UpstreamError(Fault.BROKEN, f"asked for {asked}, answered by {told[:80]}")


def _object(raw: bytes) -> dict[str, Any]:
    body = read(raw)
    if not isinstance(body, dict):
        raise UpstreamError(Fault.BROKEN, f"not an object: {raw[:120]!r}")
    check_told(body.get("error"), body.get("base_resp"))
    return body


def _ended(choice: Any) -> dict[str, Any]:
    """A choice of a whole answer that came to a clean end, told in OpenAI's word."""
    if not isinstance(choice, dict):
        raise UpstreamError(Fault.BROKEN, "a choice that is none")
    if choice.get("error"):
        raise error_in_body(choice["error"])
    ending = ending_of(choice.get("finish_reason"), choice.get("native_finish_reason"))
    if ending is None:
        raise UpstreamError(Fault.BROKEN, "a choice without a reason to end")
    choice["finish_reason"] = ending
    return choice


CUT = ("length", "content_filter")


def _said(choice: dict[str, Any]) -> int:
    message = choice.get("message")
    if message is None and choice["finish_reason"] in CUT:
        # Google leaves the message out where nothing was said (agentgateway #1464, 2026-04).
        message = choice["message"] = {"role": "assistant", "content": ""}
    if not isinstance(message, dict):
        raise UpstreamError(Fault.BROKEN, "a choice without a message")
    return _weight(
        message.get("content"),
        message.get("reasoning_content"),
        message.get("reasoning"),
        message.get("tool_calls"),
        message.get("refusal"),
    )


def _make_answerable(calls: Any, prefix: str) -> None:
    """Give each call of a message an id and arguments that are text: clients cannot do without."""
    for place, call in enumerate(objects(calls)):
        call["id"] = str(call.get("id") or f"{prefix}_{place}")
        function = call.get("function")
        if isinstance(function, dict) and not isinstance(function.get("arguments"), str):
            function["arguments"] = arguments_of(function.get("arguments"))


def _written(choice: dict[str, Any]) -> int:
    text = choice.get("text")
    if not isinstance(text, str):
        raise UpstreamError(Fault.BROKEN, "a choice without a text")
    return _weight(text)


def _weight(*parts: Any) -> int:
    """UTF-8 bytes of what a model produced, tool calls as their JSON."""
    total = 0
    for part in parts:
        if isinstance(part, str):
            total += len(part) if part.isascii() else len(part.encode("utf-8", "surrogatepass"))
        elif part:
            total += len(written(part))
    return total


_NAMES = {
    name: re.compile(rb'"' + name.encode() + rb'"\s*:\s*("(?:[^"\\]|\\.)*"|null)')
    for name in ("id", "model")
}


class Renamer:
    """Replaces a stream's id and model name in its JSON bytes without building objects.

    The patterns are learned from the first payload. They cannot occur inside a JSON string,
    where quotes are escaped.
    """

    def __init__(self, model: str, id: str, asked: str = "") -> None:
        """`asked` as `answer` takes it."""
        self._asked = asked
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
        if self._slow or b'"provider"' in payload:
            return self._rebuild(payload)
        renamed = payload
        for theirs, ours in self._theirs:
            before, renamed = renamed, renamed.replace(theirs, ours, 1)
            if renamed is before:  # the same name, written in another way
                return self._rebuild(payload)
        return renamed

    def _learn(self, payload: bytes, event: _Event) -> None:
        _check_model(self._asked, event.model)
        self._known = (event.id, event.model)
        self._theirs = []
        self._slow = False
        for name, value in (("model", event.model), ("id", event.id)):
            found = _NAMES[name].search(payload)
            if found is None or msgspec.json.decode(found.group(1)) != value:
                self._slow = True
                return
            self._theirs.append((found.group(0), self._ours[name]))

    def _rebuild(self, payload: bytes) -> bytes:
        body = read(payload)
        for name in DROPPED:
            body.pop(name, None)
        for ours in self._ours.values():
            body.update(orjson.loads(b"{" + ours + b"}"))
        return written(body)


class Calls:
    """Mends the calls of a stream: an id where there is none, arguments as text.

    An id is given with the first arguments and not before, for until then the provider's may
    come. It is unlike those that translators of the stream make.
    """

    def __init__(self, id: str) -> None:
        """`id` is the request's."""
        self._prefix = f"call_{id}_s"
        self._with_id: set[tuple[int | str | None, int | None]] = set()

    def mend(self, choice: int | str | None, pieces: Any) -> bool:
        """Change the pieces of a choice that need it, in place; whether any did."""
        mended = False
        for piece in objects(pieces):
            index, function = piece.get("index"), piece.get("function")
            function = function if isinstance(function, dict) else {}
            arguments = function.get("arguments")
            if isinstance(arguments, dict):
                arguments = function["arguments"] = arguments_of(arguments)
                mended = True
            place = (choice, index if type(index) is int else None)
            if arguments and not piece.get("id") and place not in self._with_id:
                piece["id"] = f"{self._prefix}{len(self._with_id)}"
                mended = True
            if piece.get("id"):
                self._with_id.add(place)
        return mended


class StreamDecoder:
    """Server-sent events in, chunks out; knows when the upstream has said all."""

    def __init__(
        self,
        model: str,
        id: str,
        choices: int,
        dialect: Dialect = Dialect.CHAT,
        *,
        asked: str = "",
    ) -> None:
        """`choices` is how many answers were asked for; `asked` as `answer` takes it."""
        self._renamer = Renamer(model, f"{OBJECTS[dialect][1]}{id}", asked)
        self._choices = max(1, choices)
        self._seen: set[Any] = set()
        self._finished: set[Any] = set()
        self._splitter = Splitter()
        self._alike = Alike()
        self._misspelt = False
        self._calls = Calls(id)
        self._mended = False
        self.said_done = False

    @property
    def complete(self) -> bool:
        """Whether every choice has told why it ended (every one seen, where `n` is ignored)."""
        return len(self._finished) >= self._choices or (
            self.said_done and bool(self._finished) and self._finished >= self._seen
        )

    def known(self, data: bytes) -> Chunk | None:
        """What this read says if that is text in a form that was seen before; changes nothing."""
        if self._splitter.rest:
            return None
        known = self._alike.events(data)
        if known is None:
            return None
        events, weight = known
        return Chunk(events, weight, len(self._finished) >= self._choices, None)

    def feed(self, data: bytes) -> Chunk | None:
        """What this read completes; raises `UpstreamError` on what is no chunk."""
        known = self.known(data)
        if known is not None:
            return known
        payloads = self._splitter.feed(data)
        if payloads is None:
            return None
        chunk = Chunk([], 0, False, None)
        for payload in payloads:
            if payload == b"[DONE]":
                self.said_done = True
            else:
                self._take(payload, chunk)
        return chunk

    def _take(self, payload: bytes, chunk: Chunk) -> None:
        try:
            event = _events.decode(payload)
        except UNREADABLE as error:
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
        chunk.events.append(b"data: " + self._ours(payload, event.choices, event))

    def _ours(self, payload: bytes, choices: list[_Choice], event: _Event) -> bytes:
        """A payload as it is sent on."""
        if self._misspelt:
            payload = _spelt(payload)
            self._misspelt = False
        renamed = self._renamer.rename(payload, event)
        if self._mended:  # only now: the renamer learns from chunks as their provider writes them
            renamed = _with_calls(renamed, choices)
            self._mended = False
        elif len(choices) == self._choices == 1 and event.usage is event.x_groq is None:
            (choice,) = choices
            if choice.delta is not None and not choice.finish_reason:
                self._alike.learn(payload, renamed, _only_text(choice.delta))
        return renamed

    def _see(self, choice: _Choice) -> int:
        """Bytes of output in one choice of a chunk; notes whether it has ended."""
        if choice.error:
            raise error_in_body(choice.error)
        weight = 0
        if choice.delta is not None:
            weight = _delta_weight(choice.delta)
            if choice.delta.tool_calls:
                mended = self._calls.mend(choice.index, choice.delta.tool_calls)
                self._mended = self._mended or mended
            self._seen.add(choice.index)
        elif choice.text is not None:
            weight = _weight(choice.text)
            self._seen.add(choice.index)
        if choice.finish_reason:
            ending = ending_of(choice.finish_reason, choice.native_finish_reason)
            self._misspelt = self._misspelt or ending != choice.finish_reason
            if ending is not None:
                self._finished.add(choice.index)
        return weight


def _only_text(said: _Delta) -> str:
    """The text of a delta if that is all it says, else nothing."""
    unseen = said.reasoning_content, said.reasoning, said.tool_calls, said.refusal
    if any(unseen) or said.function_call or said.audio or type(said.content) is not str:
        return ""
    return said.content


def _delta_weight(delta: _Delta) -> int:
    text = _only_text(delta)
    if text and text.isascii():
        return len(text)
    return _weight(
        delta.content,
        delta.reasoning_content,
        delta.reasoning,
        delta.tool_calls,
        delta.refusal,
        delta.function_call,
        delta.audio,
    )


def _without_usage(payload: bytes) -> bytes:
    body = read(payload)
    body.pop("usage", None)
    body.pop("x_groq", None)
    return written(body)


def _with_calls(payload: bytes, choices: list[_Choice]) -> bytes:
    """A chunk with its tool calls as they are by now."""
    body = read(payload)
    for choice, mended in zip(body["choices"], choices, strict=True):
        if mended.delta is not None and mended.delta.tool_calls:
            choice["delta"]["tool_calls"] = mended.delta.tool_calls
    return written(body)


def _spelt(payload: bytes) -> bytes:
    """A chunk with its endings in OpenAI's words."""
    body = read(payload)
    for choice in body["choices"]:
        choice["finish_reason"] = ending_of(choice.get("finish_reason"))
    return written(body)
