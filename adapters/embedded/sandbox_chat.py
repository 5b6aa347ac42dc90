"""OpenAI's chat completions at the sandbox: what is refused, and how answers and chunks look."""

import itertools
from typing import Any

import orjson

from adapters.embedded.sandbox_ask import (
    Ask,
    control_from,
    flag,
    invalid,
    is_new_turn,
    model_from,
    object_from,
    refuse,
    stops_from,
    stream_from,
    whole,
)
from adapters.embedded.sandbox_cache import PrefixCache, Prompt
from adapters.embedded.sandbox_faults import Fault, FaultName
from adapters.embedded.sandbox_text import MEDIA_TOKENS, Json, prompt_pieces
from adapters.embedded.sandbox_wire import (
    HALVED,
    Answer,
    Call,
    Choice,
    Part,
    Step,
    Wire,
    choices_for,
    openai_end,
    openai_head,
    openai_stream,
    openai_stream_error,
    openai_usage,
)

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_PARTS = ("text", "refusal", *MEDIA_TOKENS)
_CHUNK = "chat.completion.chunk"


def ask_from(body: Any, _version: str = "") -> Ask:
    """The request in a decoded body; `ApiError` when OpenAI would refuse it."""
    body = object_from(body)
    model = model_from(body)
    messages = _messages(body)
    tools = _tools(body)
    stream, include_usage = stream_from(body)
    return Ask(
        model=model,
        messages=messages,
        tools=tuple(tool["function"] for tool in tools),
        tool=_wanted_tool(body, tools, messages),
        parallel=body.get("parallel_tool_calls") is None or flag(body, "parallel_tool_calls"),
        schema=_wanted_schema(body),
        thinks=body.get("reasoning_effort") not in (None, "none"),
        stream=stream,
        include_usage=include_usage,
        max_tokens=whole(body, "max_completion_tokens", 1) or whole(body, "max_tokens", 1),
        stops=stops_from(body),
        n=whole(body, "n", 1, 128) or 1,
        control=control_from(body),
        body=body,
    )


def _messages(body: Json) -> list[Json]:
    messages = body.get("messages")
    if messages is None:
        refuse("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
    if not isinstance(messages, list):
        invalid("messages", "expected an array of objects", "invalid_type")
    if not messages:
        invalid("messages", "empty array, expected at least one message", "empty_array")
    open_calls: set[str] = set()
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if not isinstance(message, dict):
            invalid(where, "expected an object", "invalid_type")
        role = message.get("role")
        if role not in _ROLES:
            invalid(f"{where}.role", f"expected one of {', '.join(_ROLES)}")
        _check_content(message, where)
        if role == "tool":
            _check_tool_answer(message, open_calls, where)
        elif open_calls:
            refuse("An assistant message with 'tool_calls' must be followed by tool messages "
                   "responding to each 'tool_call_id'.", where)  # fmt: skip
        if message.get("tool_calls"):
            open_calls = _call_ids(message, where)
    return messages


def _check_content(message: Json, where: str) -> None:
    content = message.get("content")
    calls = message["role"] == "assistant" and (
        message.get("tool_calls") or message.get("function_call") or message.get("refusal")
    )
    if content is None and not calls:
        invalid(f"{where}.content", "expected a string, got null")
    if content is not None and not isinstance(content, str | list):
        invalid(f"{where}.content", "expected a string or an array of parts", "invalid_type")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict) or part.get("type") not in _PARTS:
            invalid(f"{where}.content[{index}]", f"expected a part of type {', '.join(_PARTS)}")


def _call_ids(message: Json, where: str) -> set[str]:
    calls = message["tool_calls"]
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        invalid(f"{where}.tool_calls", "expected an array of objects", "invalid_type")
    return {str(call.get("id")) for call in calls}


def _check_tool_answer(message: Json, open_calls: set[str], where: str) -> None:
    call_id = message.get("tool_call_id")
    if not isinstance(call_id, str) or call_id not in open_calls:
        refuse("Invalid parameter: messages with role 'tool' must be a response to a preceding "
               "message with 'tool_calls'.", f"{where}.role")  # fmt: skip
    open_calls.discard(call_id)


def _tools(body: Json) -> list[Json]:
    tools = body.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list) or not tools:
        invalid("tools", "expected a non-empty array", "invalid_type")
    for at, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            refuse(f"Missing required parameter: 'tools[{at}].function.name'.",
                   f"tools[{at}].function", "missing_required_parameter")  # fmt: skip
        if not isinstance(function.get("parameters") or {}, dict):
            invalid(f"tools[{at}].function.parameters", "expected a JSON schema", "invalid_type")
    return tools


def _wanted_tool(body: Json, tools: list[Json], messages: list[Json]) -> Json | None:
    choice = body.get("tool_choice")
    if choice is not None and not tools:
        refuse("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
    functions: list[Json] = [tool["function"] for tool in tools]
    if isinstance(choice, dict):
        named = choice.get("function")
        name = named.get("name") if isinstance(named, dict) else None
        for function in functions:
            if function["name"] == name:
                return function
        invalid("tool_choice", f"the tool {name!r} is not among 'tools'")
    if choice not in (None, "auto", "none", "required"):
        invalid("tool_choice", "expected none, auto, required or a function")
    if functions and (choice == "required" or (choice != "none" and is_new_turn(messages))):
        return functions[0]
    return None


def _wanted_schema(body: Json) -> Json | None:
    wanted = body.get("response_format")
    if wanted is None:
        return None
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    match kind:
        case "text":
            return None
        case "json_object":
            return {}
        case "json_schema":
            spec = wanted.get("json_schema")
            schema = spec.get("schema", {}) if isinstance(spec, dict) else None
            if not isinstance(schema, dict):
                invalid("response_format.json_schema", "expected an object with a schema")
            return schema
        case _:
            return invalid("response_format.type", "expected text, json_object or json_schema")


def _prompt(ask: Ask) -> Prompt:
    tools = (ask.body or {}).get("tools") or []
    return Prompt(prompt_pieces(ask.messages, tools))


def _whole(answer: Answer, fault: FaultName | None) -> bytes:
    """The JSON of a whole answer, with the faults that live in its fields."""
    if fault is FaultName.ERROR_IN_STREAM:
        return orjson.dumps(openai_stream_error())
    body = {
        **openai_head(answer, "chat.completion"),
        "choices": [_whole_choice(choice, fault) for choice in answer.choices],
    }
    usage = openai_usage(answer.usage, fault)
    return orjson.dumps(body if usage is None else {**body, "usage": usage})


def _whole_choice(choice: Choice, fault: FaultName | None) -> Json:
    kept = choice.cut(choice.size // 2) if fault in HALVED else choice
    return {
        "index": choice.index,
        "message": _message(kept),
        "logprobs": None,
        "finish_reason": openai_end(choice.end, fault),
    }


def _message(choice: Choice) -> Json:
    message: Json = {"role": "assistant", "content": None, "refusal": None}
    for part in choice.parts:
        if part.is_thinking:
            message["reasoning_content"] = part.text
        elif part.call is None:
            message["content"] = part.text
        else:
            call = _call(part.call, part.text)
            del call["index"]
            message.setdefault("tool_calls", []).append(call)
    return message


def _call(call: Call, arguments: str) -> Json:
    function = {"name": call.name, "arguments": arguments}
    return {
        "index": call.at, "id": f"call_{call.digest}", "type": "function", "function": function,
    }  # fmt: skip


def _deltas(choice: Choice) -> list[Json]:
    """A choice as it is streamed: its role, then one token at a time."""
    first, *_ = choice.parts
    opening: Json = {"role": "assistant", "content": "", "refusal": None}
    if any(part.call for part in choice.parts):
        opening["content"] = None
    if first.call is not None:  # OpenAI's first chunk names the first call
        opening["tool_calls"] = [_call(first.call, "")]
    deltas = [opening]
    for part in choice.parts:
        if part.call is not None and part is not first:
            deltas.append({"tool_calls": [_call(part.call, "")]})
        deltas += (_delta(part, piece) for piece in part.pieces)
    return deltas


def _delta(part: Part, piece: str) -> Json:
    if part.is_thinking:
        return {"reasoning_content": piece}
    if part.call is None:
        return {"content": piece}
    return {"tool_calls": [{"index": part.call.at, "function": {"arguments": piece}}]}


def _stream(answer: Answer, fault: Fault | None) -> list[Step]:
    """The steps of a streamed answer: choices take turns, as when they are sampled together."""
    turns = itertools.zip_longest(*(_deltas(choice) for choice in answer.choices))
    content = [
        _chunk(answer, {"index": index, "delta": delta, "finish_reason": None})
        for turn in turns
        for index, delta in enumerate(turn)
        if delta is not None
    ]
    reason = fault.name if fault else None
    ends = [
        _chunk(answer, {
            "index": choice.index, "delta": {}, "finish_reason": openai_end(choice.end, reason),
        })
        for choice in answer.choices
    ]  # fmt: skip
    return openai_stream(answer, fault, content, ends, _CHUNK)


def _chunk(answer: Answer, choice: Json) -> Json:
    chunk = {**openai_head(answer, _CHUNK), "choices": [{**choice, "logprobs": None}]}
    # OpenAI sends the field on every chunk once usage was asked for, and only then.
    return {**chunk, "usage": None} if answer.ask.include_usage else chunk


CHAT = Wire("chatcmpl-", ask_from, _prompt, _whole, choices_for, _stream, PrefixCache.by_itself)
