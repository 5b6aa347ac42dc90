"""Anthropic's Messages at the sandbox: the shape of answers and the order of their events."""

import json
from dataclasses import replace
from typing import Any

import orjson

from adapters.embedded.sandbox_cache import PrefixCache
from adapters.embedded.sandbox_errors import ANTHROPIC_FAULTS, CONTEXT_TOKENS, ApiError
from adapters.embedded.sandbox_faults import Fault, FaultName, times_told
from adapters.embedded.sandbox_messages_ask import ask_from, count_from, prompt_of
from adapters.embedded.sandbox_text import Json
from adapters.embedded.sandbox_wire import (
    Answer,
    Choice,
    End,
    Part,
    Step,
    Wire,
    bent_steps,
    choices_for,
    signature_of,
)

_ENDS = {
    End.STOP: "end_turn",
    End.STOP_SEQUENCE: "stop_sequence",
    End.LENGTH: "max_tokens",
    End.CALLS: "tool_use",
    End.FILTERED: "refusal",
}
_REFUSAL = {"type": "refusal", "category": None, "explanation": None}
_PING = {"type": "ping"}
_OVERLOADED: Json = {
    "type": "error",
    "error": {"type": "overloaded_error", "message": "Overloaded"},
}


def _whole(answer: Answer, fault: FaultName | None) -> bytes:
    """The JSON of a whole answer, with the faults that live in its fields."""
    if fault in (FaultName.ERROR_IN_STREAM, FaultName.FAILED_FINISH):
        return orjson.dumps(_OVERLOADED)  # Anthropic has no word for an end that failed
    (choice,) = answer.choices
    unfinished = fault is FaultName.MISSING_FINISH
    kept = choice.cut(choice.size // 2) if unfinished else choice
    body: Json = {
        **_head(answer),
        "content": [_block(part, answer, whole=True) for part in _parts(kept)],
        **_ending(None if unfinished else choice),
    }
    if fault is not FaultName.NO_USAGE:
        body["usage"] = _usage(answer, answer.usage.completion, fault)
    return orjson.dumps(body)


def _head(answer: Answer) -> Json:
    return {
        "id": answer.id, "type": "message", "role": "assistant", "model": answer.ask.model,
    }  # fmt: skip


def _ending(choice: Choice | None) -> Json:
    if choice is None:
        return {"stop_reason": None, "stop_sequence": None, "stop_details": None}
    details = _REFUSAL if choice.end is End.FILTERED else None
    return {
        "stop_reason": _ENDS[choice.end],
        "stop_sequence": choice.stopped_by,
        "stop_details": details,
    }


def _parts(choice: Choice) -> list[Part]:
    """Anthropic leaves out a text of which there is nothing."""
    return [part for part in choice.parts if part.pieces or part.call]


def _shows_thinking(answer: Answer) -> bool:
    told: Json = (answer.ask.body or {}).get("thinking") or {}
    return bool(told.get("display") != "omitted")


def _block(part: Part, answer: Answer, *, whole: bool) -> Json:
    """A block as it stands in a whole answer, or as it starts in a stream."""
    text = part.text if whole else ""
    if part.is_thinking:
        shown = text if _shows_thinking(answer) else ""
        signed = signature_of(text) if whole else ""
        return {"type": "thinking", "thinking": shown, "signature": signed}
    if part.call is None:
        return {"type": "text", "text": text}
    call = {"type": "tool_use", "id": f"toolu_01{part.call.digest}", "name": part.call.name}
    return {**call, "input": _input(text)}


def _input(text: str) -> Any:
    """Arguments as an object; those that `max_tokens` cut are none."""
    try:
        return json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {}


def _usage(answer: Answer, completion: int, fault: FaultName | None) -> Json:
    """As Anthropic reports it: three disjoint parts of the prompt, and all of the output."""
    times = times_told(fault)
    usage, cached = answer.usage, answer.usage.cached
    written = cached.written_5m + cached.written_1h
    return {
        "input_tokens": times * (usage.prompt - cached.read - written),
        "cache_creation_input_tokens": times * written,
        "cache_read_input_tokens": times * cached.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": times * cached.written_5m,
            "ephemeral_1h_input_tokens": times * cached.written_1h,
        },
        "output_tokens": times * completion,
        "output_tokens_details": {"thinking_tokens": times * min(usage.thinking, completion)},
        "service_tier": "standard",
    }


def _stream(answer: Answer, fault: Fault | None) -> list[Step]:
    """The steps of a streamed answer, one per event."""
    (choice,) = answer.choices
    if fault is not None and fault.name is FaultName.FAILED_FINISH:
        fault = replace(fault, name=FaultName.ERROR_IN_STREAM)
    name = fault.name if fault else None
    content = [_event(body) for body in _content(answer, choice, name)]
    end: Json = {"type": "message_delta", "delta": _ending(choice)}
    if name is not FaultName.NO_USAGE:
        told = _usage(answer, answer.usage.completion, name)
        del told["cache_creation"], told["service_tier"]
        end["usage"] = told
    ending = [_event(end)]
    if name is not FaultName.MISSING_DONE:
        ending.append(_event({"type": "message_stop"}))
    broken = b"event: content_block_delta\ndata: {broken\n\n"
    return bent_steps(content, ending, fault, error=_event(_OVERLOADED), broken=broken)


def _content(answer: Answer, choice: Choice, fault: FaultName | None) -> list[Json]:
    """From `message_start` to the last block; the ping comes where Anthropic's first one does."""
    message = {**_head(answer), "content": [], **_ending(None)}
    if fault is not FaultName.NO_USAGE:
        message["usage"] = _usage(answer, min(1, answer.usage.completion), fault)
    events: list[Json] = [{"type": "message_start", "message": message}]
    for index, part in enumerate(_parts(choice)):
        block = _block(part, answer, whole=False)
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        if index == 0:
            events.append(_PING)
        events += (
            {"type": "content_block_delta", "index": index, "delta": delta}
            for delta in _deltas(part, answer)
        )
        events.append({"type": "content_block_stop", "index": index})
    return events if len(events) > 1 else [*events, _PING]


def _deltas(part: Part, answer: Answer) -> list[Json]:
    if part.is_thinking:
        shown = part.pieces if _shows_thinking(answer) else []
        thoughts = [{"type": "thinking_delta", "thinking": piece} for piece in shown]
        return [*thoughts, {"type": "signature_delta", "signature": signature_of(part.text)}]
    if part.call is None:
        return [{"type": "text_delta", "text": piece} for piece in part.pieces]
    # Anthropic opens the arguments with an empty fragment.
    return [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *part.pieces)]


def _event(body: Json) -> bytes:
    name: str = body["type"]
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(body) + b"\n\n"


def _counted(answer: Answer, _fault: FaultName | None) -> bytes:
    return orjson.dumps({"input_tokens": answer.usage.prompt})


def _too_long(size: int) -> ApiError:
    return ApiError(400, f"prompt is too long: {size} tokens > {CONTEXT_TOKENS} maximum")


MESSAGES = Wire(
    "msg_01",
    ask_from,
    prompt_of,
    _whole,
    choices_for,
    _stream,
    PrefixCache.by_mark,
    errors=ANTHROPIC_FAULTS,
    too_long=_too_long,
    is_anthropic=True,
)
COUNT_TOKENS = Wire(
    "count_",
    count_from,
    prompt_of,
    _counted,
    errors=ANTHROPIC_FAULTS,
    too_long=_too_long,
    is_anthropic=True,
)
