"""Between OpenAI's chat dialect and Anthropic's Messages, both ways; the door to the translation.

Pure. Here is a chat as a Messages body, in `translation_chat` the way back, in
`translation_answers` and `translation_streams` what models answer. Anthropic refuses unknown
fields: only known ones cross.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapters.upstreams.wire.jsons import objects
from adapters.upstreams.wire.marks import FIELD as MARK
from adapters.upstreams.wire.marks import mark_last, mark_of
from adapters.upstreams.wire.sold import not_run
from adapters.upstreams.wire.translation_answers import (
    SIGNED,
    answer_as_chat,
    answer_as_messages,
    calls_of,
    text_of,
    use_of,
)
from adapters.upstreams.wire.translation_chat import (
    EFFORTS,
    Json,
    as_object,
    cannot,
    messages_to_chat,
)
from adapters.upstreams.wire.translation_streams import StreamAsChat, StreamAsMessages
from kyma.calls import ChatCall, Dialect
from kyma.tools import is_the_callers, runs_at_the_callers

__all__ = [
    "StreamAsChat",
    "StreamAsMessages",
    "answer_as_chat",
    "answer_as_messages",
    "chat_to_messages",
    "messages_to_chat",
]

GO_ON = "Continue."
"""What a user says where the other dialect has no user's turn and Anthropic demands one."""

JSON_ONLY = "Answer with one valid JSON object and nothing else."
"""What `response_format: json_object` becomes; Anthropic knows schemas only."""

SAME_IN_MESSAGES = ("stream", "top_k", "cache_control", "output_config", "anthropic_beta", "betas")
"""Fields that may stand in a body of the other dialect as they are."""


def chat_to_messages(call: ChatCall) -> ChatCall:
    """The same request as a Messages body; raises `UpstreamError` BAD_REQUEST."""
    asked = call.body
    if (asked.get("n") or 1) != 1:
        raise cannot("n", "must be 1: this model gives one answer at a time")
    system, messages = _turns(asked)
    if _format(asked).get("type") == "json_object":
        system.append({"type": "text", "text": JSON_ONLY})
    body: Json = {"messages": messages, "max_tokens": _max_tokens(call)}
    if system:
        body["system"] = system
    body.update({name: asked[name] for name in SAME_IN_MESSAGES if asked.get(name) is not None})
    body.update(_tools(asked))
    body.update(_sampling(asked))
    _think(asked, body)
    schema = _format(asked).get("json_schema")
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        written = {"type": "json_schema", "schema": _closed(schema["schema"], depth=0)}
        body["output_config"] = {**as_object(body.get("output_config")), "format": written}
    user = asked.get("user") or asked.get("safety_identifier")
    if isinstance(user, str):
        body["metadata"] = {"user_id": user}
    return replace(call, body=body, dialect=Dialect.MESSAGES)


def _format(asked: Mapping[str, Any]) -> Json:
    return as_object(asked.get("response_format"))


def _max_tokens(call: ChatCall) -> Any:
    asked = call.body.get("max_completion_tokens") or call.body.get("max_tokens")
    return asked or call.size.max_output


def _turns(asked: Mapping[str, Any]) -> tuple[list[Json], list[Json]]:
    """The system prompt and the turns: those of one role after another become one."""
    system: list[Json] = []
    turns: list[Json] = []
    for place, message in enumerate(objects(asked.get("messages"))):
        where, role = f"messages[{place}]", message.get("role")
        if role in ("system", "developer"):
            system += mark_last(_blocks(message, where), mark_of(message))
            continue
        speaker = "assistant" if role == "assistant" else "user"
        if role == "assistant":
            blocks = _said_before(message, where)
        elif role in ("tool", "function"):
            blocks = [_result(message, where)]
        else:
            blocks = _blocks(message, where)
        blocks = mark_last(blocks, mark_of(message))
        if blocks and turns and turns[-1]["role"] == speaker:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": speaker, "content": blocks})
    if not turns or turns[0]["role"] != "user":
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": GO_ON}]})
    _trim_prefill(turns[-1])
    return system, turns


def _trim_prefill(turn: Json) -> None:
    """A beginning that the model is to go on with must not end in white space."""
    last = turn["content"][-1]
    if turn["role"] == "assistant" and last.get("type") == "text":
        last["text"] = str(last.get("text") or "").rstrip()


def _blocks(message: Mapping[str, Any], where: str) -> list[Json]:
    """A message's content as blocks, the blank ones left out: Anthropic refuses them."""
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    found = []
    for place, part in enumerate(objects(content)):
        block = _block(part, f"{where}.content[{place}]")
        if block is not None:
            found.append({**block, **mark_of(part)})
    return found


def _block(part: Mapping[str, Any], where: str) -> Json | None:
    kind = part.get("type", "text")
    match kind:
        case "text" | "refusal":
            text = part.get(kind)
            if not isinstance(text, str):
                raise cannot(f"{where}.{kind}", "must be a string")
            return {"type": "text", "text": text} if text.strip() else None
        case "image_url":
            return _image(part.get("image_url"), where)
        case "file":
            return _document(as_object(part.get("file")), where)
        case "image" | "document" | "search_result":  # Anthropic's own, as some clients send them
            return dict(part)
    raise cannot(where, f"is of a type that this model does not take: {str(kind)[:40]}")


def _image(given: Any, where: str) -> Json:
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str):
        raise cannot(f"{where}.image_url.url", "must be a string")
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    kind, data = _data(url, f"{where}.image_url.url")
    kind = "image/jpeg" if kind == "image/jpg" else kind
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _data(uri: str, where: str) -> tuple[str, str]:
    """Media type and base64 of a data URI."""
    head, comma, data = uri.removeprefix("data:").partition(",")
    kind, *parameters = head.split(";")
    if not comma or "base64" not in parameters:
        raise cannot(where, "must be a data URI with base64")
    return kind.strip().lower(), data


def _document(file: Mapping[str, Any], where: str) -> Json:
    data, name = file.get("file_data"), file.get("filename")
    if not isinstance(data, str):
        raise cannot(f"{where}.file", "must bring `file_data`: files are not stored here")
    titled = {"title": name} if isinstance(name, str) and name else {}
    if data.startswith(("https://", "http://")):
        return {"type": "document", "source": {"type": "url", "url": data}, **titled}
    kind, coded = _data(data, f"{where}.file.file_data")
    if kind.startswith("text/"):
        try:
            text = base64.b64decode(coded).decode("utf-8", "replace")
        except binascii.Error:
            raise cannot(f"{where}.file.file_data", "is not base64") from None
        source = {"type": "text", "media_type": "text/plain", "data": text}
    else:
        source = {"type": "base64", "media_type": kind, "data": coded}
    return {"type": "document", "source": source, **titled}


def _said_before(message: Mapping[str, Any], where: str) -> list[Json]:
    """An assistant's turn: thinking that is signed, text, tool calls, in Anthropic's order."""
    thinking = [
        block
        for block in objects(message.get(SIGNED))
        if block.get("type") == "redacted_thinking" or block.get("signature")
    ]
    refusal = text_of(message.get("refusal")).strip()
    refused: list[Json] = [{"type": "text", "text": refusal}] if refusal else []
    uses = [use_of(call) for call in calls_of(message)]
    return [*thinking, *_blocks(message, where), *refused, *uses]


def _result(message: Mapping[str, Any], where: str) -> Json:
    id = message.get("tool_call_id") or f"call_{message.get('name') or '0'}"
    block: Json = {"type": "tool_result", "tool_use_id": str(id)}
    content = _blocks(message, where)
    if content:
        block["content"] = content
    # A mark within is the result's: Anthropic takes four marks in all, and caches whole results.
    for inner in content:
        if MARK in inner:
            block[MARK] = inner.pop(MARK)
    return block


def _tools(asked: Mapping[str, Any]) -> Json:
    offered = asked.get("tools")
    given = list(enumerate(offered if isinstance(offered, list) else ()))
    given += [(0, {"type": "function", "function": old}) for old in objects(asked.get("functions"))]
    tools = [_tool(place, tool) for place, tool in given]
    if not tools:
        return {}
    choice = _choice(asked.get("tool_choice") or asked.get("function_call"))
    if asked.get("parallel_tool_calls") is False and choice.get("type") != "none":
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    return {"tools": tools, "tool_choice": choice} if choice else {"tools": tools}


def _tool(place: int, tool: Any) -> Json:
    """A function or a custom tool in Anthropic's words; what is in them already passes."""
    if not isinstance(tool, dict):
        raise not_run(place, tool)
    function = tool.get("function") or tool.get("custom")
    if not isinstance(function, dict):
        if "name" not in tool or not runs_at_the_callers(tool.get("type")):
            raise not_run(place, tool)
        return dict(tool)
    if not is_the_callers(tool):
        raise not_run(place, tool)
    named: Json = {"name": str(function.get("name") or ""), **mark_of(function), **mark_of(tool)}
    if isinstance(function.get("description"), str):
        named["description"] = function["description"]
    if tool.get("type") == "custom":
        properties: Json = {"input": {"type": "string"}}
        return {**named, "input_schema": {"type": "object", "properties": properties}}
    return {**named, "input_schema": {"type": "object", **as_object(function.get("parameters"))}}


def _choice(asked: Any) -> Json:
    if isinstance(asked, str):
        kind = {"required": "any", "auto": "auto", "none": "none"}.get(asked)
        return {"type": kind} if kind else {}
    choice = as_object(asked)
    if choice.get("type") == "allowed_tools":
        return _choice(as_object(choice.get("allowed_tools")).get("mode"))
    name = (as_object(choice.get("function")) or as_object(choice.get("custom")) or choice).get(
        "name"
    )
    return {"type": "tool", "name": name} if isinstance(name, str) else {}


def _sampling(asked: Mapping[str, Any]) -> Json:
    """Temperature, or nucleus sampling without one: newer models refuse both together."""
    found: Json = {}
    heat, top_p, stop = asked.get("temperature"), asked.get("top_p"), asked.get("stop")
    if isinstance(heat, (int, float)):
        found["temperature"] = min(heat, 1)
    elif isinstance(top_p, (int, float)):
        found["top_p"] = top_p
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    stops = [text for text in stops if isinstance(text, str) and text.strip()]
    if stops:
        found["stop_sequences"] = stops
    return found


def _think(asked: Mapping[str, Any], body: Json) -> None:
    """Effort becomes adaptive thinking; `wire.anthropic` makes a budget of it for older models."""
    reasoning = as_object(asked.get("reasoning"))
    effort = str(asked.get("reasoning_effort") or reasoning.get("effort"))
    budget = reasoning.get("max_tokens")
    if isinstance(asked.get("thinking"), dict):
        body["thinking"] = asked["thinking"]
    elif effort == "none" or reasoning.get("enabled") is False:
        body["thinking"] = {"type": "disabled"}
    elif type(budget) is int:
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    elif effort in EFFORTS or reasoning.get("enabled") is True:
        body["thinking"] = {"type": "adaptive"}
    if effort in EFFORTS:
        config = {"effort": EFFORTS[effort], **as_object(body.get("output_config"))}
        body["output_config"] = config
    if body.get("thinking", {"type": "disabled"}).get("type") == "disabled":
        return
    if body.get("tool_choice", {}).get("type") in ("any", "tool"):
        del body["thinking"]  # refused together
        return
    for name in ("temperature", "top_p", "top_k"):
        body.pop(name, None)


def _closed(schema: Any, depth: int) -> Any:
    """A JSON schema whose objects take no further properties, as Anthropic demands."""
    if depth > MAX_SCHEMA_DEPTH:
        return schema
    if isinstance(schema, list):
        return [_closed(item, depth + 1) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(value, depth + 1) for name, value in schema.items()}
    if found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


MAX_SCHEMA_DEPTH = 100
