"""What crosses to an upstream and what comes back, in no provider's dialect.

The body of a call stays an opaque mapping: fields we do not know reach the model untouched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any

from kyma.media import LIKELY_PICTURE_TOKENS, MEDIA, PICTURE_TOKENS, is_picture
from kyma.tools import unseen_tokens
from kyma.usage import Usage

DEFAULT_MAX_TOKENS = 4096


class Dialect(StrEnum):
    """The language a call and its answer are in: its caller's, whoever serves it."""

    CHAT = "chat"
    MESSAGES = "messages"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"


class Fault(StrEnum):
    """Why an upstream call failed; decides whether another route is tried."""

    BUSY = "busy"
    BROKEN = "broken"
    TIMEOUT = "timeout"
    DENIED = "denied"
    REFUSED = "refused"
    BAD_REQUEST = "bad_request"
    TOO_LONG = "too_long"
    OVERDUE = "overdue"
    """Our own deadline for the whole request has passed: nobody's fault."""


class UpstreamError(Exception):
    """A failed upstream call. `message` is for our logs unless the fault is the caller's own."""

    def __init__(
        self,
        fault: Fault,
        message: str,
        *,
        retry_after_s: float | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.retry_after_s = retry_after_s
        self.param = param


@dataclass(frozen=True, slots=True)
class Size:
    """How large a call may be, in tokens: `likely` for limits, `worst` for the hold.

    `max_output` is that of all `choices` together.
    """

    likely_input: int
    worst_input: int
    max_output: int
    choices: int = 1


@dataclass(frozen=True, slots=True)
class ChatCall:
    """A request for text as the caller meant it; `body` is the JSON object in its dialect.

    `large` says that work on the whole body takes so long that others would wait for it.
    """

    body: Mapping[str, Any]
    model: str
    stream: bool
    wants_usage: bool
    size: Size
    dialect: Dialect = Dialect.CHAT
    large: bool = False


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A whole answer: an object of the caller's dialect without usage, which is beside it.

    For CHAT a `chat.completion`, for MESSAGES a `message`, for COMPLETIONS a `text_completion`,
    for EMBEDDINGS a `list` whose `data` may be for a JSON writer only: nobody reads vectors.
    """

    body: dict[str, Any]
    usage: Usage | None
    output_bytes: int


@dataclass(slots=True)
class Chunk:
    """What one read of a stream brought: server-sent events of the caller's dialect.

    Each of `events` is one event's lines without the blank line that ends it, such as
    `data: {…}`. `output_bytes` counts delivered text, thinking and tool arguments; `finished`
    is set once every choice has its reason to end; `usage` comes with the payload that carried
    it, which is not among `events`. In MESSAGES the closing `message_delta` and `message_stop`
    are not among them either, since they carry the usage: `ending` is that delta
    (`stop_reason`, `stop_sequence`). Not frozen: one is built for every read of every stream.
    """

    events: list[bytes]
    output_bytes: int
    finished: bool
    usage: Usage | None
    ending: Mapping[str, Any] | None = None


LIKELY_UNSEEN_TOKENS = 30_000
"""Of a document, a sound or a film that is only named: some ten pages."""

LIKELY_BASE64_PER_TOKEN = 20
"""A page of a PDF is some 60 kB as base64 and 1,500 to 3,000 tokens (platform.claude.com)."""

INLINE_BASE64 = 64
"""Characters from which a string is taken for the medium itself, not for its name or kind."""

MESSAGE_OVERHEAD_TOKENS = 8
LIKELY_BYTES_PER_TOKEN = 4


def size_of(body: Mapping[str, Any], context_window: int) -> Size:
    """Bounds on what a chat body can use, before any tokenizer has seen it.

    No byte-level tokenizer makes more tokens than the text has UTF-8 bytes, and no model
    reads more than its context window: that is the worst case. Four bytes per token is the
    likely one. Media other than pictures (audio, video, documents) may fill the window, since
    what they are packed in says little of what is in them; likely they do not.
    """
    text_bytes = 0
    likely = worst = MESSAGE_OVERHEAD_TOKENS * len(body.get("messages") or ())
    for part in _parts(body):
        if isinstance(part, str):
            text_bytes += _utf8_bytes(part)
        else:
            likely += _likely_tokens(part, context_window)
            worst += _worst_tokens(part, context_window)
    worst += unseen_tokens(body)
    choices = body.get("n") or 1
    asked = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_MAX_TOKENS
    return Size(
        likely_input=min(context_window, -(-text_bytes // LIKELY_BYTES_PER_TOKEN) + likely),
        worst_input=min(context_window, text_bytes + worst),
        max_output=min(asked, context_window) * choices,
        choices=choices,
    )


DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for the legacy route: its models do not stop by themselves."""


def size_of_prompt(body: Mapping[str, Any], context_window: int) -> Size:
    """`size_of` for a body of the legacy completions: each of its prompts has a window of its own.

    `prompt` is a text or an array of them, each answered `n` times; `suffix` is read with each,
    as may be every other field that holds text.
    """
    prompt = body["prompt"]
    prompts = [prompt] if isinstance(prompt, str) else prompt
    more_bytes = sum(map(_utf8_bytes, (body.get("suffix") or "", *_of_fields(body))))
    sizes = [_utf8_bytes(text) + more_bytes for text in prompts]
    choices = (body.get("n") or 1) * len(prompts)
    asked = body.get("max_tokens") or DEFAULT_COMPLETION_TOKENS
    return Size(
        likely_input=sum(
            min(context_window, -(-size // LIKELY_BYTES_PER_TOKEN) + MESSAGE_OVERHEAD_TOKENS)
            for size in sizes
        ),
        worst_input=sum(min(context_window, size + MESSAGE_OVERHEAD_TOKENS) for size in sizes),
        max_output=min(asked, context_window) * choices,
        choices=choices,
    )


INLINE_BLOCKS = frozenset(
    {
        *("thinking", "redacted_thinking", "tool_use", "search_result", "tool_reference"),
        *("server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "compaction"),
        *("code_execution_tool_result", "bash_code_execution_tool_result", "mcp_tool_use"),
        *("text_editor_code_execution_tool_result", "mcp_tool_result", "browser_state"),
    }
)
"""Blocks of Anthropic's dialect that are all text: their JSON is the most they can weigh."""


def size_of_messages(body: Mapping[str, Any], context_window: int) -> Size:
    """Bounds on what an Anthropic Messages body can use, by the rules of `size_of`.

    Documents that are not text may fill the window, as may blocks that nobody knows yet.
    """
    messages = body.get("messages") or ()
    text_bytes = 0
    likely = worst = MESSAGE_OVERHEAD_TOKENS * len(messages)
    for name in ("tools", "output_config", "output_format"):
        if body.get(name):
            text_bytes += _utf8_bytes(_spelled(body[name], context_window))
    waiting = [body.get("system"), *(message.get("content") for message in messages)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            text_bytes += _utf8_bytes(part)
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, Mapping):
            within = _within(part, context_window)
            waiting += within
            if not within:
                likely += _likely_tokens(part, context_window)
                worst += _worst_tokens(part, context_window)
    worst += unseen_tokens(body)
    asked = body.get("max_tokens") or DEFAULT_MAX_TOKENS
    return Size(
        likely_input=min(context_window, -(-text_bytes // LIKELY_BYTES_PER_TOKEN) + likely),
        worst_input=min(context_window, text_bytes + worst),
        max_output=min(asked, context_window),
    )


def _worst_tokens(part: Mapping[str, Any], context_window: int) -> int:
    return min(PICTURE_TOKENS, context_window) if is_picture(part) else context_window


def _likely_tokens(part: Mapping[str, Any], context_window: int) -> int:
    """What a medium is likely to take: by its type, else by the length of what is inline."""
    if is_picture(part):
        return min(LIKELY_PICTURE_TOKENS, context_window)
    known = LIKELY_UNSEEN_TOKENS
    for name in ("source", "file", "input_audio"):
        packed = part.get(name)
        for data in packed.values() if isinstance(packed, Mapping) else ():
            if isinstance(data, str) and len(data) >= INLINE_BASE64:
                known = -(-len(data) // LIKELY_BASE64_PER_TOKEN) + LIKELY_PICTURE_TOKENS
    return min(known, context_window)


def _within(block: Mapping[str, Any], context_window: int) -> list[Any]:
    """What a block of Anthropic's dialect says, in strings and further blocks; [] for a medium."""
    kind, source = block.get("type"), block.get("source")
    if kind == "text":
        return [block.get("text") or ""]
    if kind == "tool_result":
        return [block.get("content") or ""]
    if kind in INLINE_BLOCKS:
        return [_spelled(block, context_window)]
    if kind == "document" and isinstance(source, Mapping) and source.get("type") in TEXT_SOURCES:
        told = [given for given in (block.get("title"), block.get("context")) if given]
        said = [
            given if isinstance(given, str) else _spelled(given, context_window) for given in told
        ]
        return [source.get("data") or source.get("content") or "", *said]
    return []


TEXT_SOURCES = ("text", "content")


MAX_SPELLED = 2**22
"""Bytes for which a value counts that is nested too deeply to be written: more than any window."""


def _spelled(value: Any, context_window: int) -> str:
    """A value as text; what is nested too deeply to be written fills the window."""
    try:
        return repr(value)
    except RecursionError:
        return " " * context_window


SAME_BEGINNING = 2000
"""Characters of each of a conversation's first texts that tell it from others."""

SAME_TEXTS = 100
"""How many of these texts are looked at."""


def conversation_of(body: Mapping[str, Any]) -> str:
    """What all turns of a conversation share: the cache key its caller names, else how it begins.

    A digest, never the text. Tools are left out: agents add and remove them between turns. So
    are the lines that Claude Code puts first for Anthropic's books, new with every turn.
    """
    digest = hashlib.blake2b(digest_size=16)
    named = body.get("prompt_cache_key")
    if isinstance(named, str) and named:
        digest.update(named.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()
    for text in islice(_beginning(body), SAME_TEXTS):
        if text.startswith("x-anthropic-"):
            continue
        digest.update(text[:SAME_BEGINNING].encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _beginning(body: Mapping[str, Any]) -> Iterator[str]:
    """The texts of the system prompt and of all messages up to the first user's."""
    yield from _texts(body.get("system"))
    for message in body.get("messages") or ():
        yield from _texts(message.get("content"))
        if message.get("role") == "user":
            return


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            text = part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str):
                yield text


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _parts(body: Mapping[str, Any]) -> Iterator[str | Mapping[str, Any]]:
    """Every text of the prompt, and every part that is not text."""
    for message in body.get("messages") or ():
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif content:
            for part in content:
                yield from _of_part(part)
        if len(message) > (2 if "content" in message else 1):
            yield from (
                _spelled(value, MAX_SPELLED)
                for name, value in message.items()
                if name not in {"role", "content"}
            )
    yield from _of_fields(body)


NO_PROMPT = frozenset(
    {
        *("messages", "prompt", "suffix", "input", "model", "stream", "stream_options", "stop"),
        *("user", "metadata", "store", "modalities", "audio", "logit_bias", "service_tier"),
        *("tool_choice", "function_call", "reasoning_effort", "reasoning", "thinking"),
        *("prompt_cache_key", "safety_identifier", "verbosity", "cache_control", "max_cost"),
        *("encoding_format", "stream_usage", "request_id", "user_id", "sandbox"),
    }
)
"""Fields that are measured elsewhere or that no model reads as text."""


def _of_fields(body: Mapping[str, Any]) -> Iterator[str]:
    """Every further field that a provider may put before the model.

    Tools, schemas, documents, grammars, predictions, templates, and whatever nobody here knows.
    """
    for name, value in body.items():
        if name in NO_PROMPT or not value:
            continue
        if isinstance(value, str):
            yield value
        elif isinstance(value, (list, Mapping)):
            yield _spelled(value, MAX_SPELLED)


def _of_part(part: Mapping[str, Any]) -> Iterator[str | Mapping[str, Any]]:
    """A part's text, and the part itself if it is a medium: one may be both."""
    text = part.get("text")
    if isinstance(text, str):
        yield text
    if part.get("type", "text") != "text" or any(part.get(name) for name in MEDIA):
        yield part
