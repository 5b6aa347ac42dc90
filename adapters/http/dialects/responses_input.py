"""The input of the Responses API as chat messages.

Items are finer than messages: a thought, a text and several calls are one assistant message,
and a chat model wants the outputs of its calls right after them. `Conversation` owns that
order; the rest of the module reads items and parts and refuses what cannot be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import orjson

from adapters.http.complaints import MAX_PARTS, check_count, missing, out_of_range, wrong
from adapters.http.dialects.responses_tools import FUNCTION, INPUT, flat_name
from kyma.errors import Code, Refusal

MARK = "cache_control"
"""Where a prompt is to be cached, on a part, as OpenRouter's callers write it. A text with a mark
stays a part: a string has no place for it."""

ROLES = {"user": "user", "system": "system", "developer": "system", "assistant": "assistant"}
"""`developer` is told as `system`, the word that every provider knows."""

CARRIES_TOOLS = frozenset({"additional_tools", "tool_search_output"})
"""Items whose `tools` count as offered with the request."""

PASSED_OVER = CARRIES_TOOLS | {
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "mcp_list_tools",
    "tool_search_call",
    "ghost_snapshot",
}
"""Traces of tools that ran elsewhere: without their service they tell a model nothing."""


class Conversation:
    """Chat messages in the making. Media that a tool returned follow as a user message."""

    def __init__(self, instructions: str) -> None:
        self._messages: list[dict[str, Any]] = []
        self._content = ""
        self._thought = ""
        self._calls: list[dict[str, Any]] = []
        self._waiting: set[str] = set()
        self._held: list[dict[str, Any]] = []
        if instructions:
            self._messages.append({"role": "system", "content": instructions})

    def said(self, role: str, content: str | list[dict[str, Any]]) -> None:
        """A user or system message; it waits until the calls before it have their outputs."""
        self._close_turn()
        first = self._messages[0] if len(self._messages) == 1 else None
        if self._waiting:
            self._held.append({"role": role, "content": content})
        elif first and first["role"] == role == "system" and isinstance(content, str):
            # Several templates take one system message only, at the very beginning.
            first["content"] = f"{first['content']}\n\n{content}"
        else:
            self._messages.append({"role": role, "content": content})

    def spoke(self, text: str) -> None:
        """A text of the assistant."""
        if self._content and not self._calls:
            self._close_turn()
        self._content = _joined(self._content, text)

    def thought(self, text: str) -> None:
        """What the assistant thought before what follows."""
        if self._content and not self._calls:
            self._close_turn()
        self._thought = _joined(self._thought, text)

    def called(self, call_id: str, name: str, arguments: str) -> None:
        """A call of a tool."""
        self._calls.append(
            {"id": call_id, "type": FUNCTION, FUNCTION: {"name": name, "arguments": arguments}}
        )

    def answered(
        self,
        where: str,
        call_id: str,
        text: str | list[dict[str, Any]],
        media: list[dict[str, Any]],
    ) -> None:
        """The output of a call: its text, as a part if that is marked, and what else it shows."""
        self._close_turn()
        if call_id not in self._waiting:
            raise Refusal(
                Code.INVALID_VALUE,
                f"`{where}.call_id` names no call before it that still waits for its output. "
                "Nothing is stored here: send the whole conversation.",
                param=f"{where}.call_id",
            )
        self._waiting.discard(call_id)
        if media:
            note = f"The following belongs to the output of the tool call {call_id}."
            self._held.append({"role": "user", "content": [{"type": "text", "text": note}, *media]})
            text = text or "The output follows in the next user message."
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
        if not self._waiting:
            self._release()

    def messages(self) -> list[dict[str, Any]]:
        """All of it."""
        self._close_turn()
        self._release()
        return self._messages

    def _close_turn(self) -> None:
        """Write down the assistant's message, if there is one; a thought alone is none."""
        if self._content or self._calls:
            if self._held:
                self._release()
            message: dict[str, Any] = {"role": "assistant", "content": self._content or None}
            if self._thought:
                message["reasoning_content"] = self._thought
            if self._calls:
                message["tool_calls"] = self._calls
                self._waiting.update(call["id"] for call in self._calls)
            self._messages.append(message)
        self._content, self._thought, self._calls = "", "", []

    def _release(self) -> None:
        self._messages += self._held
        self._held = []


def _joined(one: str, other: str) -> str:
    return f"{one}\n\n{other}" if one and other else one or other


def messages_of(instructions: str, given: str | list[Any]) -> list[dict[str, Any]]:
    """The chat messages of a request."""
    conversation = Conversation(instructions)
    if isinstance(given, str):
        conversation.said("user", given)
        return conversation.messages()
    for place, item in enumerate(given):
        where = f"input[{place}]"
        kind = _kind_of_item(where, item)
        if kind not in PASSED_OVER:
            _READERS[kind](conversation, where, item)
    return conversation.messages()


def _kind_of_item(where: str, item: Any) -> str:
    if not isinstance(item, dict):
        wrong(where, "an object")
    kind = item.get("type")
    if kind is None:
        kind = "message" if "role" in item else "item_reference" if "id" in item else None
    if kind is None:
        missing(f"{where}.type")
    if kind == "item_reference":
        raise Refusal(
            Code.INVALID_VALUE,
            f"`{where}` refers to a stored item. Nothing is stored here: send the item itself.",
            param=where,
        )
    if not isinstance(kind, str) or kind not in PASSED_OVER | {*_READERS}:
        _unknown(where, kind)
    return kind


def _message(conversation: Conversation, where: str, item: Mapping[str, Any]) -> None:
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        out_of_range(f"{where}.role", f"one of {', '.join(ROLES)}")
    content = _content(f"{where}.content", item.get("content"))
    if role == "assistant":
        conversation.spoke(_text_of(content))
    elif ROLES[role] == "system" and _is_plain(content):
        conversation.said("system", "\n\n".join(part["text"] for part in content))
    elif len(content) == 1 and _is_plain(content):
        conversation.said(ROLES[role], content[0]["text"])
    else:
        conversation.said(ROLES[role], content)


def _function_call(conversation: Conversation, where: str, item: Mapping[str, Any]) -> None:
    arguments = _string(where, item, "arguments")
    conversation.called(_string(where, item, "call_id"), _called_name(where, item), arguments)


def _custom_call(conversation: Conversation, where: str, item: Mapping[str, Any]) -> None:
    arguments = orjson.dumps({INPUT: _string(where, item, "input")}).decode()
    conversation.called(_string(where, item, "call_id"), _called_name(where, item), arguments)


def _called_name(where: str, item: Mapping[str, Any]) -> str:
    namespace = item.get("namespace")
    return flat_name(
        namespace if isinstance(namespace, str) else None, _string(where, item, "name")
    )


def _call_output(conversation: Conversation, where: str, item: Mapping[str, Any]) -> None:
    content = _content(f"{where}.output", item.get("output"))
    texts = [part for part in content if part["type"] == "text"]
    media = [part for part in content if part["type"] != "text"]
    marks = [{MARK: part[MARK]} for part in texts if MARK in part]
    text = _text_of(texts)
    said = [{"type": "text", "text": text, **marks[-1]}] if marks and text else text
    conversation.answered(where, _string(where, item, "call_id"), said, media)


def _reasoning(conversation: Conversation, where: str, item: Mapping[str, Any]) -> None:
    """What was thought, in whole or as its summary; encrypted thoughts cannot be read here."""
    for name in ("content", "summary"):
        parts = item.get(name) or []
        if not isinstance(parts, list):
            wrong(f"{where}.{name}", "an array")
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        text = "\n\n".join(text for text in texts if isinstance(text, str) and text)
        if text:
            conversation.thought(text)
            return


_READERS: dict[str, Callable[[Conversation, str, Mapping[str, Any]], None]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _call_output,
    "custom_tool_call": _custom_call,
    "custom_tool_call_output": _call_output,
    "reasoning": _reasoning,
}


def _content(where: str, content: Any) -> list[dict[str, Any]]:
    """Chat parts of a string or of an array of parts."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None:
        missing(where)
    if not isinstance(content, list):
        wrong(where, "a string or an array")
    check_count(where, content, MAX_PARTS, "parts")
    return [_part(f"{where}[{place}]", part) for place, part in enumerate(content)]


def _part(where: str, part: Any) -> dict[str, Any]:
    if not isinstance(part, dict):
        wrong(where, "an object")
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _PARTS:
        _unknown(where, kind)
    found, mark = _PARTS[kind](where, part), part.get(MARK)
    return {**found, MARK: mark} if isinstance(mark, dict) else found


def _plain(where: str, part: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": _string(where, part, "text")}


def _refusal(where: str, part: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": _string(where, part, "refusal")}


def _image(where: str, part: Mapping[str, Any]) -> dict[str, Any]:
    _no_stored_file(where, part)
    image: dict[str, Any] = {"url": _string(where, part, "image_url")}
    if part.get("detail") in ("auto", "low", "high"):
        image["detail"] = part["detail"]
    return {"type": "image_url", "image_url": image}


def _file(where: str, part: Mapping[str, Any]) -> dict[str, Any]:
    _no_stored_file(where, part)
    if part.get("file_url"):
        raise Refusal(
            Code.INVALID_VALUE,
            f"`{where}.file_url` is not fetched here: send the file in `file_data`.",
            param=f"{where}.file_url",
        )
    file = {"file_data": _string(where, part, "file_data")}
    if isinstance(part.get("filename"), str):
        file["filename"] = part["filename"]
    return {"type": "file", "file": file}


def _audio(where: str, part: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(part.get("input_audio"), dict):
        wrong(f"{where}.input_audio", "an object")
    return {"type": "input_audio", "input_audio": part["input_audio"]}


_PARTS: dict[str, Callable[[str, Mapping[str, Any]], dict[str, Any]]] = {
    "input_text": _plain,
    "output_text": _plain,
    "text": _plain,
    "refusal": _refusal,
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
}


def _no_stored_file(where: str, part: Mapping[str, Any]) -> None:
    if part.get("file_id"):
        raise Refusal(
            Code.INVALID_VALUE,
            f"`{where}.file_id` names a stored file. Nothing is stored here: send its data.",
            param=f"{where}.file_id",
        )


def _is_plain(content: list[dict[str, Any]]) -> bool:
    """Whether this is text that a string can say."""
    return all(part["type"] == "text" and MARK not in part for part in content)


def _text_of(content: list[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in content if part["type"] == "text")


def _string(where: str, item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if value is None:
        missing(f"{where}.{name}")
    if not isinstance(value, str):
        wrong(f"{where}.{name}", "a string")
    return value


def _unknown(where: str, kind: Any) -> NoReturn:
    shown = repr(kind)[:100]
    raise Refusal(
        Code.INVALID_VALUE,
        f"`{where}.type` is {shown}, which cannot be shown to a model here.",
        param=f"{where}.type",
    )
