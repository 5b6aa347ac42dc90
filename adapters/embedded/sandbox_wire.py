"""The sandbox's answers in OpenAI's chat completions shape, and how a fault bends their bytes.

Pure: an answer becomes a JSON body or a list of steps to send; sending them is not done here.
"""

import itertools
import json
import random
from collections import OrderedDict
from dataclasses import dataclass, field, replace

import orjson

from adapters.embedded.sandbox_ask import ApiError, Ask
from adapters.embedded.sandbox_faults import Fault, FaultName
from adapters.embedded.sandbox_schema import SchemaError
from adapters.embedded.sandbox_text import (
    Json,
    digest,
    last_user_text,
    pieces,
    prose,
    seeded,
)
from adapters.embedded.sandbox_values import value_for

DONE = b"data: [DONE]\n\n"
_BLOCK_TOKENS = 64
_CACHED_ABOVE_TOKENS = 1_024
_REMEMBERED_BLOCKS = 131_072  # about 8 million tokens of prompts


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is sent for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection closes here, without the end of the body."""


Step = bytes | Pause | Cut


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; the cached ones are part of the prompt."""

    prompt: int
    cached: int
    completion: int

    def body(self, sign: int = 1) -> Json:
        """As OpenAI reports it; a sign of -1 is the `negative_usage` fault."""
        return {
            "prompt_tokens": sign * self.prompt,
            "completion_tokens": sign * self.completion,
            "total_tokens": sign * (self.prompt + self.completion),
            "prompt_tokens_details": {"cached_tokens": sign * self.cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the `n` answers, as tokens."""

    index: int
    pieces: list[str]
    finish: str
    call: Json | None = None
    """`id` and `name` of the tool called; the pieces are then its arguments."""

    def message(self) -> Json:
        """The choice in a whole answer."""
        text = "".join(self.pieces)
        if self.call is None:
            return {"role": "assistant", "content": text, "refusal": None}
        function = {"name": self.call["name"], "arguments": text}
        call = {"id": self.call["id"], "type": "function", "function": function}
        return {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}

    def deltas(self) -> list[Json]:
        """The choice in a streamed answer: its role, then one token at a time."""
        if self.call is None:
            opening: Json = {"role": "assistant", "content": "", "refusal": None}
            return [opening, *({"content": piece} for piece in self.pieces)]
        function = {"name": self.call["name"], "arguments": ""}
        call = {"index": 0, "id": self.call["id"], "type": "function", "function": function}
        opening = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}
        rest = ({"index": 0, "function": {"arguments": piece}} for piece in self.pieces)
        return [opening, *({"tool_calls": [part]} for part in rest)]


@dataclass(frozen=True, slots=True)
class Answer:
    """All that is sent back for one request, before it takes a shape."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage

    def head(self, kind: str) -> Json:
        """The fields every body and every chunk begins with."""
        return {
            "id": self.id, "object": kind, "created": self.created, "model": self.model,
            "service_tier": "default", "system_fingerprint": "sandbox",
        }  # fmt: skip


@dataclass(slots=True)
class PrefixCache:
    """Prompt prefixes seen before, as a chain of hashes over blocks, per model; oldest go first."""

    seen: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def cached_tokens(self, model: str, prompt: list[str]) -> int:
        """How much of this prompt was seen before; from now on all of it was."""
        if len(prompt) <= _CACHED_ABOVE_TOKENS:
            return 0
        link, hits, unbroken = model, 0, True
        for start in range(0, len(prompt) - _BLOCK_TOKENS + 1, _BLOCK_TOKENS):
            link = digest(link, *prompt[start : start + _BLOCK_TOKENS])
            unbroken = unbroken and link in self.seen
            hits += unbroken
            self.seen[link] = None
            self.seen.move_to_end(link)
        while len(self.seen) > _REMEMBERED_BLOCKS:
            self.seen.popitem(last=False)
        return hits * _BLOCK_TOKENS


def choices_for(ask: Ask, answer_id: str) -> list[Choice]:
    """The `n` answers to a request; the last user message decides them."""
    return [_choice(ask, answer_id, index) for index in range(ask.n)]


def _choice(ask: Ask, answer_id: str, index: int) -> Choice:
    rng = seeded(last_user_text(ask.messages), index)
    call: Json | None = None
    if ask.tool is not None:
        name = ask.tool["name"]
        call = {"id": f"call_{digest(answer_id, index)[:24]}", "name": name}
        text = _json_text(ask.tool.get("parameters") or {}, rng, "tools")
    elif ask.schema is not None:
        text = _structured(ask, rng)
    else:
        text = prose(ask.messages, rng, ask.chunks)
    if call is None:
        text = text[: min((at for stop in ask.stops if (at := text.find(stop)) >= 0), default=None)]
    found = pieces(text)
    if ask.max_tokens is not None and len(found) > ask.max_tokens:
        return Choice(index, found[: ask.max_tokens], "length", call)
    return Choice(index, found, "tool_calls" if call else "stop", call)


def _structured(ask: Ask, rng: random.Random) -> str:
    if ask.schema:
        return _json_text(ask.schema, rng, "response_format")
    return json.dumps({"sandbox": True, "answer": prose(ask.messages, rng, ask.chunks)})


def _json_text(schema: Json, rng: random.Random, param: str) -> str:
    if param == "tools":
        schema = {"type": "object", **schema}
    try:
        return json.dumps(value_for(schema, rng), ensure_ascii=False)
    except SchemaError as failed:
        code = "invalid_function_parameters" if param == "tools" else "invalid_json_schema"
        message = f"Invalid schema in '{param}': {failed}."
        raise ApiError(400, message, param=param, code=code) from failed


def whole_body(answer: Answer, fault: FaultName | None) -> bytes:
    """The JSON of a whole answer, with the faults that live in its fields."""
    if fault is FaultName.ERROR_IN_STREAM:
        return orjson.dumps({"error": _stream_error()})
    unfinished = fault is FaultName.MISSING_FINISH
    body = {
        **answer.head("chat.completion"),
        "choices": [_whole_choice(choice, unfinished) for choice in answer.choices],
    }
    if fault is not FaultName.NO_USAGE:
        body["usage"] = answer.usage.body(-1 if fault is FaultName.NEGATIVE_USAGE else 1)
    return orjson.dumps(body)


def _whole_choice(choice: Choice, unfinished: bool) -> Json:
    kept = choice.pieces[: len(choice.pieces) // 2] if unfinished else choice.pieces
    return {
        "index": choice.index,
        "message": replace(choice, pieces=kept).message(),
        "logprobs": None,
        "finish_reason": None if unfinished else choice.finish,
    }


def whole_steps(body: bytes, fault: Fault | None) -> list[Step]:
    """The steps of a whole answer; the Content-Length is always that of the full body."""
    half = len(body) // 2
    match fault.name if fault else None:
        case FaultName.CUT_STREAM:
            return [body[:half], Cut()]
        case FaultName.STALLED_STREAM if fault:
            return [body[:half], Pause(fault.seconds), body[half:]]
        case FaultName.MALFORMED_CHUNK:
            # Broken at its end: in the middle it could land inside a string and do no harm.
            return [body[:-1] + b", {broken"]
        case _:
            return [body]


def stream_steps(ask: Ask, answer: Answer, fault: Fault | None) -> list[Step]:
    """The steps of a streamed answer, one per chunk."""
    content = [_event(event) for event in _content_events(ask, answer)]
    end = _stream_end(ask, answer, fault.name if fault else None)
    if fault is None:
        return [*content, *end]
    before, after = _split(content, fault)
    middle: list[Step] = []
    match fault.name:
        case FaultName.CUT_STREAM:
            middle, after, end = [Cut()], [], []
        case FaultName.MISSING_FINISH:
            after, end = [], []
        case FaultName.ERROR_IN_STREAM:
            middle, after, end = [_event({"error": _stream_error()})], [], []
        case FaultName.STALLED_STREAM:
            middle = [Pause(fault.seconds)]
        case FaultName.MALFORMED_CHUNK:
            middle = [b"data: {broken\n\n"]
    return [*before, *middle, *after, *end]


def _stream_end(ask: Ask, answer: Answer, fault: FaultName | None) -> list[bytes]:
    """What follows the content: finish reasons, the usage if it was asked for, the end mark."""
    end = [_event(_finish_event(ask, answer, choice)) for choice in answer.choices]
    if fault is FaultName.MISSING_DONE:
        return end
    if ask.include_usage and fault is not FaultName.NO_USAGE:
        usage = answer.usage.body(-1 if fault is FaultName.NEGATIVE_USAGE else 1)
        end.append(_event({**answer.head(_CHUNK), "choices": [], "usage": usage}))
    return [*end, DONE]


_CHUNK = "chat.completion.chunk"


def _split(content: list[bytes], fault: Fault) -> tuple[list[bytes], list[bytes]]:
    share = 0.4 if fault.name is FaultName.CUT_STREAM else 0.5
    at = max(1, int(len(content) * share)) if fault.after is None else fault.after
    return content[:at], content[at:]


def _content_events(ask: Ask, answer: Answer) -> list[Json]:
    """The deltas of every choice, taking turns as they do when choices are sampled together."""
    turns = itertools.zip_longest(*(choice.deltas() for choice in answer.choices))
    return [
        _chunk(ask, answer, {"index": index, "delta": delta, "finish_reason": None})
        for turn in turns
        for index, delta in enumerate(turn)
        if delta is not None
    ]


def _finish_event(ask: Ask, answer: Answer, choice: Choice) -> Json:
    return _chunk(ask, answer, {"index": choice.index, "delta": {}, "finish_reason": choice.finish})


def _chunk(ask: Ask, answer: Answer, choice: Json) -> Json:
    chunk = {**answer.head(_CHUNK), "choices": [{**choice, "logprobs": None}]}
    # OpenAI sends the field on every chunk once usage was asked for, and only then.
    return {**chunk, "usage": None} if ask.include_usage else chunk


def _event(body: Json) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _stream_error() -> Json:
    return {
        "message": "The server had an error while processing your request.",
        "type": "server_error", "param": None, "code": "server_error",
    }  # fmt: skip
