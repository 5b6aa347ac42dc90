"""Marks up to which a prompt is to be cached (`cache_control`): where they stand, who gets them.

Pure. They are Anthropic's; OpenRouter takes them for the Claude models that it resells, in
OpenAI's dialect: on a body, a message, a part of its content, a tool (openrouter.ai/docs: prompt
caching, and its API's types, 2026-11). Everybody else caches without them, and several refuse a
field that they do not know. `sold.as_sold` bounds how long a marked prefix lives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from adapters.json_text import json_bytes
from adapters.upstreams.wire.jsons import objects

FIELD = "cache_control"
PLAIN = {"type", "text"}
THOUGHTS = frozenset({"thinking", "redacted_thinking"})
"""Blocks that Anthropic lets nobody mark, as it does empty texts."""


def mark_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """The mark that stands on a body, a message, a part or a tool, as a field; {} without one."""
    mark = part.get(FIELD)
    return {FIELD: mark} if isinstance(mark, dict) else {}


def mark_last(blocks: list[dict[str, Any]], mark: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Blocks whose last one carries this `mark_of` the whole, if it has none of its own."""
    last = blocks[-1] if blocks else {}
    if not last or FIELD in last or last.get("type") in THOUGHTS or last.get("text") == "":
        return blocks
    return [*blocks[:-1], {**last, **mark}]


def is_marked(parts: list[dict[str, Any]]) -> bool:
    """Whether one of them is."""
    return any(FIELD in part for part in parts)


def reads_marks(upstream_model: str) -> bool:
    """Whether a model caches by marks: Anthropic's do, by whatever name they are resold."""
    return "claude" in upstream_model.lower()


def without_marks(raw: bytes) -> bytes:
    """A body of OpenAI's dialect without its marks; a schema's property of that name stays.

    A text that is a part only to be marked is a string again: not everybody takes parts.
    """
    if b'"cache_control"' not in raw:
        return raw
    body = msgspec.json.decode(raw)
    for message in objects(body.get("messages")):
        _unmark(message)
    for place in _heads(body):
        place.pop(FIELD, None)
    return json_bytes(body)


def places(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Wherever a mark may stand, in either dialect: not in what a tool was given, or is to be."""
    yield from _heads(body)
    waiting = [*objects(body.get("system")), *objects(body.get("messages"))]
    while waiting:
        place = waiting.pop()
        yield place
        waiting += objects(place.get("content"))
        waiting += [inner for inner in objects([place.get("source")]) if "content" in inner]


def _unmark(message: dict[str, Any]) -> None:
    message.pop(FIELD, None)
    parts = objects(message.get("content"))
    marked = [part for part in parts if part.pop(FIELD, None) is not None]
    if marked and marked == message["content"] and [{*part} for part in marked] == [PLAIN]:
        message["content"] = marked[0]["text"]


def _heads(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield body
    for tool in [*objects(body.get("tools")), *objects(body.get("functions"))]:
        yield tool
        yield from objects([tool.get("function"), tool.get("custom")])
