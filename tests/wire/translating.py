"""What the tests of the translation share: bodies there and back, and JSON as nobody expects it."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import strategies as st

from adapters.upstreams.wire.translation import chat_to_messages, messages_to_chat
from kyma.calls import ChatCall, Dialect, Size

MODEL, ID = "our-model", "0190b5a0"
SIZE = Size(1, 2, 4096)
PNG = base64.b64encode(b"\x89PNG").decode()
HELLO = [{"role": "user", "content": "hi"}]


def chat(messages: Any = HELLO, **fields: Any) -> dict[str, Any]:
    """A chat body as it reaches Anthropic."""
    call = ChatCall({"model": "m", "messages": messages, **fields}, "m", False, True, SIZE)
    made = chat_to_messages(call)
    assert made.dialect is Dialect.MESSAGES
    assert made.size == SIZE
    return dict(made.body)


def messages(turns: Any = HELLO, *, thoughts: bool = True, **fields: Any) -> dict[str, Any]:
    """A Messages body as it reaches a provider of OpenAI's dialect."""
    body = {"model": "m", "max_tokens": 9, "messages": turns, **fields}
    call = ChatCall(body, "m", False, True, SIZE, Dialect.MESSAGES)
    made = messages_to_chat(call, thoughts=thoughts)
    assert made.dialect is Dialect.CHAT
    assert made.size == SIZE
    return dict(made.body)


def user(*blocks: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(
    lambda said: bool(said.strip()) and said == said.strip()
)
INPUTS = st.dictionaries(WORDS, st.one_of(st.integers(-99, 99), WORDS, st.booleans()), max_size=3)
KEYS = st.sampled_from(
    [
        *("role", "content", "type", "text", "source", "data", "url", "tool_calls", "function"),
        *("name", "arguments", "input", "id", "thinking", "image_url", "file", "signature"),
        *("tool_use_id", "media_type", "thinking_blocks", "is_error", "title", "file_data"),
        "cache_control",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
KINDS = st.sampled_from(
    [
        *("text", "image", "document", "tool_use", "tool_result", "thinking", "image_url", "file"),
        *("search_result", "redacted_thinking", "refusal", "tool_reference", "server_tool_use"),
    ]
)
BLOCKS = st.dictionaries(KEYS, JSON, max_size=5).flatmap(
    lambda block: KINDS.map(lambda kind: {**block, "type": kind})
)
