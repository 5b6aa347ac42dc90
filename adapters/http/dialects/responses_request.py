"""The body of `POST /v1/responses`: what is checked, mapped, ignored and refused of it.

Fields that nobody documents reach the model untouched, as they do on the chat route; the
table is in docs/responses.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from adapters.http.complaints import (
    MAX_INT,
    MAX_MESSAGES,
    NUMBERS,
    check_integer,
    check_number,
    missing,
    out_of_range,
    wrong,
)
from adapters.http.dialects.responses_input import CARRIES_TOOLS, messages_of
from adapters.http.dialects.responses_tools import Tool, choose, toolbox
from adapters.json_text import Unwritable, check_writable
from kyma.calls import ChatCall
from kyma.errors import Code, Refusal

MAX_ITEMS = 2 * MAX_MESSAGES
"""Items are finer than messages: a call and its output are two."""

MAX_TOP_LOGPROBS = 20
MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512

LOGPROBS = "message.output_text.logprobs"

SHAPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "stream": (bool, "a boolean"),
    "store": (bool, "a boolean"),
    "background": (bool, "a boolean"),
    "parallel_tool_calls": (bool, "a boolean"),
    "instructions": (str, "a string"),
    "user": (str, "a string"),
    "safety_identifier": (str, "a string"),
    "prompt_cache_key": (str, "a string"),
    "tools": (list, "an array"),
    "include": (list, "an array"),
    "tool_choice": ((str, dict), "a string or an object"),
    "text": (dict, "an object"),
    "reasoning": (dict, "an object"),
    "metadata": (dict, "an object"),
}
INTEGERS = {"max_output_tokens": (1, MAX_INT), "top_logprobs": (0, MAX_TOP_LOGPROBS)}

STORED = {
    "previous_response_id": "send the whole conversation in `input`",
    "conversation": "send the whole conversation in `input`",
    "prompt": "send its text in `instructions` and `input`",
}
"""What would need something that an earlier request left behind."""

ABSENT = {
    "context_management": "shorten the conversation yourself",
    "moderation": "ask a moderation model yourself",
}
"""What OpenAI does beside the model; leaving it out silently would mislead."""

ELSEWHERE = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "functions": "tools",
    "function_call": "tool_choice",
}
"""Fields of the chat dialect, and what this one calls them."""

NOT_HERE = frozenset({*STORED, *ABSENT, *ELSEWHERE})

IGNORED = frozenset(
    {
        *("store", "background", "include", "metadata", "truncation", "max_tool_calls"),
        *("service_tier", "stream_options", "client_metadata", "image", "access_programs"),
        *("prompt_cache_options", "prompt_cache_retention", "n", *NOT_HERE),
    }
)
"""Never sent to a model: `service_tier` could raise what we pay, the others mean nothing there."""

MAPPED = frozenset(
    {
        *("model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls"),
        *("max_output_tokens", "text", "reasoning", "top_logprobs", "stream"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesCall(ChatCall):
    """A call in the chat dialect with what its answer must repeat.

    `echo` are fields of the `response` object, `names` the tools by their chat names.
    """

    echo: Mapping[str, Any]
    names: Mapping[str, Tool]
    logprobs: bool


@dataclass(frozen=True, slots=True)
class Translated:
    """A request in the chat dialect, and what its answer must repeat."""

    body: dict[str, Any]
    echo: dict[str, Any]
    names: dict[str, Tool]
    logprobs: bool


def check(body: Mapping[str, Any]) -> None:
    """Refuse a body that cannot be served, naming the field; items are read in `translated`."""
    if body.get("model") is None:
        missing("model")
    if not isinstance(body["model"], str) or not body["model"]:
        wrong("model", "a non-empty string")
    given = body.get("input")
    if given is None:
        missing("input")
    if not isinstance(given, (str, list)):
        wrong("input", "a string or an array")
    if not given or (isinstance(given, list) and len(given) > MAX_ITEMS):
        out_of_range("input", f"a text that is not empty, or an array of 1 to {MAX_ITEMS} items")
    for name, value in body.items():
        if value is not None:
            _check_option(name, value)
            if name in NOT_HERE or (name == "background" and value):
                _not_here(name)
    _check_metadata(body.get("metadata") or {})


def _check_option(name: str, value: Any) -> None:
    if name in SHAPES:
        kind, words = SHAPES[name]
        if not isinstance(value, kind):
            wrong(name, words)
    elif name in INTEGERS:
        check_integer(name, value, *INTEGERS[name])
    elif name in NUMBERS:
        check_number(name, value)


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    if len(metadata) > MAX_METADATA:
        out_of_range("metadata", f"at most {MAX_METADATA} pairs")
    for name, value in metadata.items():
        if not isinstance(value, str):
            wrong("metadata", "an object whose values are strings")
        if len(name) > MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            out_of_range(
                "metadata",
                f"keys of at most {MAX_METADATA_KEY} and values of at most "
                f"{MAX_METADATA_VALUE} characters",
            )


def _not_here(name: str) -> NoReturn:
    if name in STORED:
        words = f"`{name}` cannot be used: nothing is stored here; {STORED[name]}."
    elif name in ABSENT:
        words = f"`{name}` cannot be used here: {ABSENT[name]}."
    elif name in ELSEWHERE:
        words = f"`{name}` is of /v1/chat/completions; here it is `{ELSEWHERE[name]}`."
    else:
        words = "`background` must be false: nothing is stored here, so no answer can be fetched."
    raise Refusal(Code.INVALID_VALUE, words, param=name)


def translated(body: Mapping[str, Any]) -> Translated:
    """A checked body in the chat dialect; raises `Refusal` for what no chat model can be shown."""
    given = body["input"]
    box = toolbox(_tools(body))
    offered, choice = choose(body.get("tool_choice"), box)
    logprobs = bool(body.get("top_logprobs")) or LOGPROBS in (body.get("include") or ())
    chat = {
        name: value
        for name, value in body.items()
        if name not in MAPPED and name not in IGNORED and value is not None
    }
    chat["model"] = body["model"]
    chat["messages"] = messages_of(body.get("instructions") or "", given)
    if not chat["messages"]:
        out_of_range("input", "something that a model can be shown")
    if offered:
        chat["tools"] = offered
        if choice is not None:
            chat["tool_choice"] = choice
        if body.get("parallel_tool_calls") is False:
            chat["parallel_tool_calls"] = False
    if body.get("stream"):
        chat["stream"] = True
    if body.get("max_output_tokens"):
        chat["max_tokens"] = body["max_output_tokens"]
    if logprobs:
        chat |= {"logprobs": True, "top_logprobs": body.get("top_logprobs") or 0}
    _text(body.get("text") or {}, chat)
    _reasoning(body.get("reasoning") or {}, chat)
    return Translated(chat, _echo(body, box.shown), box.names, logprobs)


def _tools(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for place, tool in enumerate(body.get("tools") or ()):
        yield f"tools[{place}]", tool
    if isinstance(body["input"], list):
        for place, item in enumerate(body["input"]):
            if isinstance(item, dict) and item.get("type") in [*CARRIES_TOOLS]:
                carried = item.get("tools") or []
                if not isinstance(carried, list):
                    wrong(f"input[{place}].tools", "an array")
                for number, tool in enumerate(carried):
                    yield f"input[{place}].tools[{number}]", tool


def _text(text: Mapping[str, Any], chat: dict[str, Any]) -> None:
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    form = text.get("format")
    if form is None:
        return
    if not isinstance(form, dict):
        wrong("text.format", "an object")
    match form.get("type"):
        case "text":
            return
        case "json_object":
            chat["response_format"] = {"type": "json_object"}
        case "json_schema":
            if not isinstance(form.get("schema"), dict):
                wrong("text.format.schema", "an object")
            schema = {
                name: form[name]
                for name in ("name", "description", "schema", "strict")
                if form.get(name) is not None
            }
            chat["response_format"] = {"type": "json_schema", "json_schema": schema}
        case _:
            out_of_range("text.format.type", "text, json_object or json_schema")


def _reasoning(reasoning: Mapping[str, Any], chat: dict[str, Any]) -> None:
    effort = reasoning.get("effort")
    if effort is None:
        return
    if not isinstance(effort, str):
        wrong("reasoning.effort", "a string")
    chat["reasoning_effort"] = effort


def _echo(body: Mapping[str, Any], tools: list[dict[str, Any]]) -> dict[str, Any]:
    """What the answer says of the request, with OpenAI's defaults; nothing is ever stored."""
    choice = body.get("tool_choice")
    parallel = body.get("parallel_tool_calls")
    text, reasoning = body.get("text") or {}, body.get("reasoning") or {}
    echo = {
        "background": False,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": None,
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": True if parallel is None else parallel,
        "previous_response_id": None,
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": None, "summary": None, **reasoning},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": "default",
        "store": False,
        "temperature": body.get("temperature"),
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tool_choice": "auto" if choice is None else choice,
        "tools": [_shown(tool) for tool in tools],
        "top_logprobs": body.get("top_logprobs") or 0,
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        "user": body.get("user"),
    }
    try:
        check_writable(echo)
    except Unwritable as error:
        # Better now than after the answer.
        raise Refusal(
            Code.INVALID_REQUEST, f"The body cannot be written as JSON again: {error}."
        ) from None
    return echo


def _shown(tool: dict[str, Any]) -> dict[str, Any]:
    if tool["type"] != "function":
        return tool
    return {"parameters": None, "strict": False, "description": None, **tool}
