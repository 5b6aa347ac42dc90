"""Anthropic's content blocks at the sandbox: which are refused, and their likes at OpenAI.

Answers are composed from messages in one shape; this is where the other shape ends.
"""

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from adapters.embedded.sandbox_ask import refuse
from adapters.embedded.sandbox_text import Json
from adapters.embedded.sandbox_wire import signature_of

_USER_BLOCKS = ("text", "image", "document", "tool_result", "search_result", "container_upload")
_ASSISTANT_BLOCKS = (
    *("text", "tool_use", "thinking", "redacted_thinking"),
    *("server_tool_use", "web_search_tool_result", "web_fetch_tool_result"),
    *("code_execution_tool_result", "bash_code_execution_tool_result", "compaction"),
    *("text_editor_code_execution_tool_result", "tool_search_tool_result"),
    *("mcp_tool_use", "mcp_tool_result", "image", "document"),
)
_RESULT_BLOCKS = ("text", "image", "document", "search_result", "tool_reference", "browser_state")
_ROLES = {"user": _USER_BLOCKS, "assistant": _ASSISTANT_BLOCKS, "system": ("text",)}
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_SOURCES = {
    "image": ("base64", "url", "file"),
    "document": ("base64", "url", "file", "text", "content"),
}


def content_of(content: Any) -> list[Json]:
    """Content as blocks, whichever way it was written."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return list(content or ())


def check_system(body: Json) -> None:
    """`system` is a string or text blocks."""
    system = body.get("system")
    if system is None or isinstance(system, str):
        return
    if not isinstance(system, list):
        refuse("system: Input should be a valid list")
    for at, block in enumerate(system):
        if not isinstance(block, dict) or block.get("type") != "text":
            refuse(f"system.{at}.type: Input should be 'text'")
        _check_text(block, f"system.{at}.text", "system: text content blocks must be non-empty")


def check_messages(messages: Any, *, is_newer: bool) -> list[Json]:
    """The conversation in OpenAI's shape; `ApiError` if Anthropic would not have it."""
    if not isinstance(messages, list):
        refuse("messages: Input should be a valid list")
    if not messages:
        refuse("messages: at least one message is required")
    found: list[Json] = []
    calls: list[str] = []
    for at, message in enumerate(messages):
        where = f"messages.{at}"
        role = message.get("role") if isinstance(message, dict) else None
        if role == "system" and at == 0:  # later ones are taken since Claude Opus 4.8
            refuse('messages: Unexpected role "system". The Messages API accepts a top-level '
                   "`system` parameter, not \"system\" as an input message role.")  # fmt: skip
        if role not in _ROLES:
            refuse(f"{where}.role: Input should be 'user', 'assistant' or 'system'")
        blocks = _blocks(message, where, is_last=at == len(messages) - 1)
        if is_newer:
            _check_newer(blocks, role, where)
        _check_results(blocks, calls, where)
        calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
        found += _as_user(blocks) if role == "user" else _as_text(role, blocks)
    if calls:
        _refuse_unanswered(len(messages) - 1, calls)
    return found


def _blocks(message: Json, where: str, *, is_last: bool) -> list[Json]:
    content, role = message.get("content"), message["role"]
    if not isinstance(content, str | list):
        refuse(f"{where}.content: Input should be a valid list")
    if not content and not (is_last and role == "assistant"):
        refuse(f"{where}: all messages must have non-empty content "
               "except for the optional final assistant message")  # fmt: skip
    blocks = content_of(content)
    allowed = _ROLES[role]
    for index, block in enumerate(blocks):
        _check_block(block, allowed, f"{where}.content.{index}")
    last = blocks[-1] if blocks else {}
    if is_last and role == "assistant" and str(last.get("text", "")).endswith((" ", "\n", "\t")):
        refuse("messages: final assistant content cannot end with trailing whitespace")
    return blocks


def _check_newer(blocks: list[Json], role: str, where: str) -> None:
    """What API version 2026-10-21 no longer takes."""
    for index, block in enumerate(blocks):
        if role == "assistant" and block["type"] == "document":
            refuse(f"{where}.content.{index}: document blocks are not permitted in assistant "
                   "messages")  # fmt: skip
        if role == "user" and block["type"] == "text" and block.get("citations"):
            refuse(f"{where}.content.{index}.text.citations: Extra inputs are not permitted")


def _check_block(block: Any, allowed: tuple[str, ...], where: str) -> None:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind not in allowed:
        refuse(f"{where}: Input tag '{kind}' found using 'type' does not match any of the "
               f"expected tags: {', '.join(map(repr, allowed))}")  # fmt: skip
    match kind:
        case "text":
            said = "messages: text content blocks must be non-empty"
            _check_text(block, f"{where}.text.text", said)
        case "image" | "document":
            _check_source(block, f"{where}.{kind}.source")
        case "tool_use" | "tool_result":
            _check_tool_block(block, f"{where}.{kind}")
        case "thinking":
            said, signed = block.get("thinking"), block.get("signature")
            # A thought that was not shown comes back empty: it cannot be checked here.
            if not signed or (said and signed != signature_of(str(said))):
                refuse(f"{where}: Invalid `signature` in `thinking` block")


def _check_tool_block(block: Json, where: str) -> None:
    needed = {"tool_use": {"id": str, "name": str, "input": dict}}
    for name, type_ in needed.get(block["type"], {"tool_use_id": str}).items():
        if not isinstance(block.get(name), type_):
            refuse(f"{where}.{name}: Field required")
    if block["type"] == "tool_result":
        for index, part in enumerate(content_of(block.get("content"))):
            _check_block(part, _RESULT_BLOCKS, f"{where}.content.{index}")


def _check_text(block: Json, where: str, when_empty: str) -> None:
    if not isinstance(block.get("text"), str):
        refuse(f"{where}: Field required")
    if not block["text"]:
        refuse(when_empty)


def _check_source(block: Json, where: str) -> None:
    source, kinds = block.get("source"), _SOURCES[block["type"]]
    kind = source.get("type") if isinstance(source, dict) else None
    if kind not in kinds or not isinstance(source, dict):
        refuse(f"{where}: Input tag '{kind}' found using 'type' does not match any of the "
               f"expected tags: {', '.join(map(repr, kinds))}")  # fmt: skip
    if kind == "url" and not str(source.get("url")).startswith(("http://", "https://")):
        refuse(f"{where}.url.url: Only HTTP and HTTPS URLs are supported.")
    if kind != "base64":
        return
    media = _IMAGES if block["type"] == "image" else ("application/pdf",)
    if source.get("media_type") not in media:
        said = ", ".join(map(repr, media))
        refuse(f"{where}.base64.media_type: Input should be {said}")
    try:
        base64.b64decode(str(source.get("data")), validate=True)
    except binascii.Error:
        refuse(f"{where}.base64: invalid base64 data")


def _check_results(blocks: list[Json], calls: list[str], where: str) -> None:
    answered = [
        (index, block["tool_use_id"])
        for index, block in enumerate(blocks)
        if block["type"] == "tool_result"
    ]
    for index, call in answered:
        if call not in calls:
            refuse(f"{where}.content.{index}: unexpected `tool_use_id` found in `tool_result` "
                   f"blocks: {call}. Each `tool_result` block must have a corresponding "
                   "`tool_use` block in the previous message.")  # fmt: skip
    left = [call for call in calls if call not in {call for _, call in answered}]
    if left:
        _refuse_unanswered(int(where.split(".")[1]) - 1, left)


def _refuse_unanswered(at: int, calls: list[str]) -> None:
    refuse(f"messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately "
           f"after: {', '.join(calls)}. Each `tool_use` block must have a corresponding "
           "`tool_result` block in the next message.")  # fmt: skip


def _as_text(role: str, blocks: list[Json]) -> list[Json]:
    return [{"role": role, "content": [b for b in blocks if b["type"] == "text"]}]


def _as_user(blocks: list[Json]) -> list[Json]:
    """A user's turn; one in which tools answer counts as theirs, whatever is said beside it."""
    said = [_part(block) for block in blocks if block["type"] != "tool_result"]
    results = [
        {"role": "tool", "content": [_part(part) for part in content_of(block.get("content"))]}
        for block in blocks
        if block["type"] == "tool_result"
    ]
    return [*([{"role": "user", "content": said}] if said else []), *results]


def _part(block: Json) -> Json:
    match block["type"]:
        case "text":
            return {"type": "text", "text": block["text"]}
        case "image":
            return {"type": "image_url"}
        case "document":
            return {"type": "file"}
        case _:
            return {"type": "other"}


def marks_in(body: Json) -> int:
    """How many blocks carry `cache_control`; it has to be one of Anthropic's."""
    marks = [block["cache_control"] for block in _markable(body) if block.get("cache_control")]
    for mark in marks:
        if not isinstance(mark, dict) or mark.get("type") != "ephemeral":
            refuse("cache_control.type: Input should be 'ephemeral'")
        if mark.get("ttl") not in (None, "5m", "1h"):
            refuse("cache_control.ephemeral.ttl: Input should be '5m' or '1h'")
    return len(marks)


def _markable(body: Json) -> Iterator[Json]:
    yield body
    yield from body.get("tools") or ()
    yield from content_of(body.get("system"))
    for message in body["messages"]:
        yield from content_of(message["content"])
