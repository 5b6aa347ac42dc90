"""What models answer as a whole, from each chat dialect into the other, and its parts.

Pure. What the other dialect has no word for is left out, but for the reason to end: an ending that
nobody knows is a broken answer, never a clean one (`endings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from adapters.upstreams.wire.endings import ending_of
from adapters.upstreams.wire.jsons import objects, written
from kyma.calls import ChatAnswer, Fault, UpstreamError

STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""OpenAI's `finish_reason`, in its own words → Anthropic's `stop_reason`."""

SIGNED = "thinking_blocks"
"""The field of an OpenAI message that keeps Anthropic's thinking with its signatures, so that a
client which sends it back does not lose it. LiteLLM's name for it, which agents know."""

RAW_INPUT = "arguments"
"""The name under which a tool's input is put that is not the JSON object it should be."""


def text_of(content: Any) -> str:
    """The text of a message that may be a string or parts."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in objects(content) if isinstance(part.get("text"), str))


def input_of(arguments: Any) -> dict[str, Any]:
    """A tool's input from the JSON that a model wrote; cut or foreign JSON stays as text."""
    if isinstance(arguments, dict):
        return arguments
    text = arguments if isinstance(arguments, str) else ""
    try:
        found = msgspec.json.decode(text) if text.strip() else {}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {RAW_INPUT: text}
    return found if isinstance(found, dict) else {RAW_INPUT: text}


def thoughts_of(message: Mapping[str, Any]) -> str:
    """What a message or a delta of OpenAI's dialect says of the model's thinking."""
    for name in ("reasoning_content", "reasoning"):
        said = message.get(name)
        if isinstance(said, str) and said:
            return said
    return ""


def calls_of(message: Mapping[str, Any], prefix: str = "call") -> list[dict[str, Any]]:
    """The tool calls of a message as `id`, `name`, `arguments`; old function calls, too.

    `prefix` begins the id of a call that has none.
    """
    found: list[dict[str, Any]] = []
    for call in objects(message.get("tool_calls")):
        said = call.get("function") or call.get("custom")
        said = said if isinstance(said, dict) else {}
        found.append(
            {
                "id": str(call.get("id") or f"{prefix}_{len(found)}"),
                "name": str(said.get("name") or ""),
                "arguments": said.get("arguments", said.get("input")),
            }
        )
    old = message.get("function_call")
    if not found and isinstance(old, dict):
        name = str(old.get("name") or "")
        found.append({"id": f"{prefix}_{name}", "name": name, "arguments": old.get("arguments")})
    return found


def use_of(call: Mapping[str, Any]) -> dict[str, Any]:
    """Anthropic's block for one of `calls_of`."""
    return {
        "type": "tool_use",
        "id": call["id"],
        "name": call["name"],
        "input": input_of(call["arguments"]),
    }


def finish_of(reason: Any) -> str:
    """OpenAI's `finish_reason` for either dialect's word; raises `UpstreamError` without one."""
    finish = ending_of(reason)
    if finish is None:
        raise UpstreamError(Fault.BROKEN, "an answer without a reason to end")
    return finish


def stop_of(choice: Mapping[str, Any], *, calls: bool, refused: bool) -> dict[str, Any]:
    """Anthropic's ending for a finished choice. vLLM tells the sequence that stopped it."""
    reason = STOPS[finish_of(choice.get("finish_reason"))]
    if reason == "end_turn" and (calls or refused):
        return {"stop_reason": "tool_use" if calls else "refusal", "stop_sequence": None}
    sequence = choice.get("stop_reason")
    if reason == "end_turn" and isinstance(sequence, str) and sequence:
        return {"stop_reason": "stop_sequence", "stop_sequence": sequence}
    return {"stop_reason": reason, "stop_sequence": None}


def answer_as_messages(answer: ChatAnswer) -> ChatAnswer:
    """A `chat.completion` as a `message`; further choices are left out."""
    choice = next(iter(objects(answer.body.get("choices"))), {})
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    content: list[dict[str, Any]] = []
    thoughts, text = thoughts_of(message), text_of(message.get("content"))
    refusal = text_of(message.get("refusal"))
    if thoughts:
        content.append({"type": "thinking", "thinking": thoughts, "signature": ""})
    if text or refusal:
        content.append({"type": "text", "text": text + refusal})
    id = str(answer.body.get("id")).removeprefix("chatcmpl-")
    # With the request's id in them they are unlike those of every other turn.
    uses = [use_of(call) for call in calls_of(message, f"call_{id}")]
    body = {
        "id": f"msg_{id}",
        "type": "message",
        "role": "assistant",
        "model": answer.body.get("model"),
        "content": content + uses,
        **stop_of(choice, calls=bool(uses), refused=bool(refusal)),
    }
    return ChatAnswer(body, answer.usage, answer.output_bytes)


def answer_as_chat(answer: ChatAnswer, created: int = 0) -> ChatAnswer:
    """A `message` as a `chat.completion`; `created` is in Unix seconds."""
    blocks = objects(answer.body.get("content"))
    text = "".join(str(b.get("text") or "") for b in blocks if b.get("type") == "text")
    thinking = [kept for kept in map(signed_of, blocks) if kept]
    thoughts = "".join(str(b.get("thinking") or "") for b in blocks if b.get("type") == "thinking")
    calls = [
        call_of(block, arguments_of(block.get("input")))
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if calls and not text else text,
        "refusal": None,
    }
    if thoughts:
        message["reasoning_content"] = thoughts
    if thinking:
        message[SIGNED] = thinking
    if calls:
        message["tool_calls"] = calls
    finish = finish_of(answer.body.get("stop_reason"))
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    body = {
        "id": "chatcmpl-" + str(answer.body.get("id")).removeprefix("msg_"),
        "object": "chat.completion",
        "created": created,
        "model": answer.body.get("model"),
        "choices": [choice],
    }
    return ChatAnswer(body, answer.usage, answer.output_bytes)


def arguments_of(input: Any) -> str:
    """A tool's input as the JSON text of OpenAI's dialect."""
    return written(input if isinstance(input, dict) else {}).decode()


def signed_of(block: Mapping[str, Any]) -> dict[str, str]:
    """A thinking block as a client may send it back; empty for any other."""
    match block.get("type"):
        case "thinking":
            thought, signature = str(block.get("thinking")), str(block.get("signature") or "")
            return {"type": "thinking", "thinking": thought, "signature": signature}
        case "redacted_thinking":
            return {"type": "redacted_thinking", "data": str(block.get("data") or "")}
    return {}


def call_of(block: Mapping[str, Any], arguments: str) -> dict[str, Any]:
    """A tool call of OpenAI's dialect from a block of Anthropic's."""
    function = {"name": str(block.get("name") or ""), "arguments": arguments}
    return {"id": str(block.get("id") or ""), "type": "function", "function": function}
