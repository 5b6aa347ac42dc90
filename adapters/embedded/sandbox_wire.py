"""What every wire of the sandbox shares: how an answer is composed and how a fault bends its bytes.

Pure: an answer becomes a body or a list of steps to send; sending them is not done here.
"""

import base64
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import orjson

from adapters.embedded.sandbox_ask import Ask
from adapters.embedded.sandbox_cache import Cached, PrefixCache, Prompt
from adapters.embedded.sandbox_errors import OPENAI_FAULTS, ApiError
from adapters.embedded.sandbox_faults import Fault, FaultName, times_told
from adapters.embedded.sandbox_schema import SchemaError
from adapters.embedded.sandbox_text import (
    Json,
    digest,
    last_user_text,
    pieces,
    prose,
    seeded,
    sentences,
)
from adapters.embedded.sandbox_values import value_for

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is sent for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection closes here, without the end of the body."""


Step = bytes | Pause | Cut


class End(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    STOP_SEQUENCE = "stop_sequence"
    LENGTH = "length"
    CALLS = "calls"
    FILTERED = "filtered"


@dataclass(frozen=True, slots=True)
class Call:
    """A tool called: its number among the calls of an answer, its name, and its id's hash."""

    at: int
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of an answer as tokens: thinking, text, or the arguments of a call."""

    pieces: list[str]
    call: Call | None = None
    is_thinking: bool = False

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the `n` answers; thinking comes first, and calls stand in the text's place."""

    index: int
    parts: list[Part]
    end: End
    stopped_by: str | None = None

    @property
    def size(self) -> int:
        """Its tokens."""
        return sum(len(part.pieces) for part in self.parts)

    def cut(self, size: int) -> "Choice":
        """The choice after so many tokens."""
        kept: list[Part] = []
        for part in self.parts:
            if size <= 0 and kept:
                break
            kept.append(replace(part, pieces=part.pieces[: max(0, size)]))
            size -= len(part.pieces)
        return replace(self, parts=kept)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; cached ones are part of the prompt, thinking is of the completion."""

    prompt: int
    completion: int
    cached: Cached = field(default_factory=Cached)
    thinking: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """All that is sent back for one request, before it takes a shape."""

    id: str
    created: int
    ask: Ask
    choices: list[Choice]
    usage: Usage


def no_choices(_ask: Ask, _seed: str) -> list[Choice]:
    """For a wire that says nothing in words."""
    return []


def not_cached(_cache: PrefixCache, _model: str, _prompt: Prompt) -> Cached:
    """For a wire that caches nothing."""
    return Cached()


def no_stream(_answer: Answer, _fault: Fault | None) -> list[Step]:
    """For a wire whose checks let no stream through."""
    raise AssertionError("this wire does not stream")


@dataclass(frozen=True, slots=True)
class Wire:
    """A dialect: from a body to an ask, from an answer to bytes. All are pure functions."""

    id_prefix: str
    ask: Callable[[Any, str], Ask]
    """From a decoded body, and the version of the API where the wire has versions."""
    prompt: Callable[[Ask], Prompt]
    whole: Callable[[Answer, FaultName | None], bytes]
    choices: Callable[[Ask, str], list[Choice]] = no_choices
    stream: Callable[[Answer, Fault | None], list[Step]] = no_stream
    cached: Callable[[PrefixCache, str, Prompt], Cached] = not_cached
    errors: Mapping[FaultName, ApiError] = field(default_factory=lambda: OPENAI_FAULTS)
    too_long: Callable[[int], ApiError] | None = None
    """The refusal of a prompt of so many tokens, where its words tell how many."""
    is_anthropic: bool = False
    """Whether its key and its version are told as Anthropic wants them."""


def choices_for(ask: Ask, answer_id: str) -> list[Choice]:
    """The `n` answers to a request; the last user message decides them."""
    return [_choice(ask, answer_id, index) for index in range(ask.n)]


def _choice(ask: Ask, answer_id: str, index: int) -> Choice:
    thinking = _thinking(ask, index)
    if ask.tool is not None:
        count = ask.control.calls if ask.parallel else 1
        calls = [_called(ask, ask.tool, answer_id, index, at) for at in range(count)]
        return _limited(ask, Choice(index, [*thinking, *calls], End.CALLS))
    rng = seeded(last_user_text(ask.messages), index)
    if ask.schema is not None:
        text = _structured(ask, rng)
    else:
        text = prose(ask.messages, rng, ask.control.chunks)
    ends = [(at, stop) for stop in ask.stops if (at := text.find(stop)) >= 0]
    if ends:
        at, stop = min(ends, key=lambda found: found[0])
        parts = [*thinking, Part(pieces(text[:at]))]
        return _limited(ask, Choice(index, parts, End.STOP_SEQUENCE, stop))
    return _limited(ask, Choice(index, [*thinking, Part(pieces(text))], End.STOP))


def _limited(ask: Ask, choice: Choice) -> Choice:
    """The choice, cut where the limit of tokens ends it."""
    if ask.max_tokens is not None and choice.size > ask.max_tokens:
        return replace(choice.cut(ask.max_tokens), end=End.LENGTH, stopped_by=None)
    return choice


def filtered(choice: Choice, fault: Fault) -> Choice:
    """The choice as a filter leaves it that steps in after some tokens."""
    return replace(choice.cut(fault.after or 0), end=End.FILTERED, stopped_by=None)


def _thinking(ask: Ask, index: int) -> list[Part]:
    """Thoughts of their own dice: the text is the same with them and without."""
    wanted = ask.control.thinking
    if wanted is None and not ask.thinks:
        return []
    rng = seeded(last_user_text(ask.messages), index, "thinking")
    wanted = wanted or rng.randint(12, 32)
    found = pieces("These are sandbox thoughts.")
    for sentence in sentences(rng):
        if len(found) >= wanted:
            break
        found += pieces(" " + sentence)
    return [Part(found[:wanted], is_thinking=True)]


def _called(ask: Ask, first: Json, answer_id: str, index: int, at: int) -> Part:
    """The call at this place: the function wanted, then the others in turn."""
    rng = seeded(last_user_text(ask.messages), index, *([at] if at else []))
    names = [function["name"] for function in ask.tools]
    tools = ask.tools or (first,)
    function = tools[(names.index(first["name"]) + at) % len(tools)] if names else first
    text = _json_text(function.get("parameters") or {}, rng, "tools")
    made = digest(answer_id, index, *([at] if at else []))[:24]
    return Part(pieces(text), Call(at, function["name"], made))


def _structured(ask: Ask, rng: random.Random) -> str:
    if ask.schema:
        return _json_text(ask.schema, rng, "response_format")
    return json.dumps({"sandbox": True, "answer": prose(ask.messages, rng, ask.control.chunks)})


def _json_text(schema: Json, rng: random.Random, param: str) -> str:
    if param == "tools":
        schema = {"type": "object", **schema}
    try:
        return json.dumps(value_for(schema, rng), ensure_ascii=False)
    except SchemaError as failed:
        code = "invalid_function_parameters" if param == "tools" else "invalid_json_schema"
        message = f"Invalid schema in '{param}': {failed}."
        raise ApiError(400, message, param=param, code=code) from failed


def signature_of(thinking: str) -> str:
    """What proves that a thought was ours: opaque, and different for every text."""
    made = hashlib.sha512(("sandbox" + thinking).encode("utf-8", "surrogatepass")).digest()
    return base64.b64encode(made).decode()


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


def bent_steps(
    content: Sequence[bytes],
    end: Sequence[bytes],
    fault: Fault | None,
    *,
    error: bytes,
    broken: bytes = b"data: {broken\n\n",
) -> list[Step]:
    """The events of a stream, bent by the faults that strike in mid-stream."""
    if fault is None:
        return [*content, *end]
    before, after = _split(content, fault)
    middle: list[Step] = []
    match fault.name:
        case FaultName.CUT_STREAM:
            middle, after, end = [Cut()], [], []
        case FaultName.MISSING_FINISH:
            after, end = [], []
        case FaultName.FAILED_FINISH:
            after = []
        case FaultName.ERROR_IN_STREAM:
            middle, after, end = [error], [], []
        case FaultName.STALLED_STREAM:
            middle = [Pause(fault.seconds)]
        case FaultName.MALFORMED_CHUNK:
            middle = [broken]
    return [*before, *middle, *after, *end]


def _split(content: Sequence[bytes], fault: Fault) -> tuple[Sequence[bytes], Sequence[bytes]]:
    share = 0.4 if fault.name is FaultName.CUT_STREAM else 0.5
    at = max(1, int(len(content) * share)) if fault.after is None else fault.after
    return content[:at], content[at:]


def openai_usage(usage: Usage, fault: FaultName | None) -> Json | None:
    """Usage as OpenAI reports it; None and figures that cannot be are faults."""
    if fault is FaultName.NO_USAGE:
        return None
    times = times_told(fault)
    return {
        "prompt_tokens": times * usage.prompt,
        "completion_tokens": times * usage.completion,
        "total_tokens": times * (usage.prompt + usage.completion),
        "prompt_tokens_details": {"cached_tokens": times * usage.cached.read, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": times * usage.thinking, "audio_tokens": 0,
        },
    }  # fmt: skip


OPENAI_ENDS = {
    End.STOP: "stop",
    End.STOP_SEQUENCE: "stop",
    End.LENGTH: "length",
    End.CALLS: "tool_calls",
    End.FILTERED: "content_filter",
}


def openai_end(end: End, fault: FaultName | None) -> str | None:
    """Why a choice ended, as OpenAI says it; as Z.AI does where its network failed."""
    if fault is FaultName.MISSING_FINISH:
        return None
    return "network_error" if fault is FaultName.FAILED_FINISH else OPENAI_ENDS[end]


HALVED = (FaultName.MISSING_FINISH, FaultName.FAILED_FINISH)
"""Faults of which a whole answer has its first half."""


def openai_head(answer: Answer, kind: str) -> Json:
    """The fields every body and every chunk of OpenAI's begins with."""
    return {
        "id": answer.id, "object": kind, "created": answer.created, "model": answer.ask.model,
        "service_tier": "default", "system_fingerprint": "sandbox",
    }  # fmt: skip


def data_event(body: Json) -> bytes:
    """A server-sent event without a name."""
    return b"data: " + orjson.dumps(body) + b"\n\n"


def openai_stream_error() -> Json:
    """An error that comes after a good status."""
    said = {
        "message": "The server had an error while processing your request.",
        "type": "server_error", "param": None, "code": "server_error",
    }  # fmt: skip
    return {"error": said}


def openai_stream(answer: Answer, fault: Fault | None, content: list[Json], ends: list[Json],
                  kind: str) -> list[Step]:  # fmt: skip
    """The steps of a stream of OpenAI's: content, reasons to end, usage if asked for, end mark."""
    name = fault.name if fault else None
    ending = [data_event(event) for event in ends]
    if name is not FaultName.MISSING_DONE:
        usage = openai_usage(answer.usage, name)
        if answer.ask.include_usage and usage is not None:
            ending.append(data_event({**openai_head(answer, kind), "choices": [], "usage": usage}))
        ending.append(DONE)
    sent = [data_event(event) for event in content]
    return bent_steps(sent, ending, fault, error=data_event(openai_stream_error()))
