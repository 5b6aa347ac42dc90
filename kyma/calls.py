"""What crosses to an upstream and what comes back, in no provider's dialect.

The body of a call stays an opaque mapping: fields we do not know reach the model untouched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kyma.usage import Usage

DEFAULT_MAX_TOKENS = 4096


class Dialect(StrEnum):
    """The language a call and its answer are in: its caller's, whoever serves it."""

    CHAT = "chat"
    MESSAGES = "messages"
    COMPLETIONS = "completions"


class Fault(StrEnum):
    """Why an upstream call failed; decides whether another route is tried."""

    BUSY = "busy"
    BROKEN = "broken"
    TIMEOUT = "timeout"
    DENIED = "denied"
    REFUSED = "refused"
    BAD_REQUEST = "bad_request"
    TOO_LONG = "too_long"


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

    `conversation` is the same for all turns of one conversation, "" where none is known.
    """

    body: Mapping[str, Any]
    model: str
    stream: bool
    wants_usage: bool
    size: Size
    dialect: Dialect = Dialect.CHAT
    conversation: str = ""


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A whole answer: an object of the caller's dialect without usage, which is beside it.

    For CHAT a `chat.completion`, for MESSAGES a `message`, for COMPLETIONS a `text_completion`.
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


NON_TEXT_TOKENS = {"image_url": 2600, "image": 2600, "input_image": 2600}
"""Upper figure for one picture: Google's largest tiling of a 4-megapixel image is 2,580."""

MESSAGE_OVERHEAD_TOKENS = 8
LIKELY_BYTES_PER_TOKEN = 4


def size_of(body: Mapping[str, Any], context_window: int) -> Size:
    """Bounds on what a chat body can use, before any tokenizer has seen it.

    No byte-level tokenizer makes more tokens than the text has UTF-8 bytes, and no model
    reads more than its context window: that is the worst case. Four bytes per token is the
    likely one. Media other than pictures (audio, video, documents) may fill the window.
    """
    text_bytes = media = 0
    for part in _parts(body):
        if isinstance(part, str):
            text_bytes += _utf8_bytes(part)
        else:
            media += min(NON_TEXT_TOKENS.get(part.get("type", ""), context_window), context_window)
    messages = len(body.get("messages") or ())
    fixed = MESSAGE_OVERHEAD_TOKENS * messages + media
    choices = body.get("n") or 1
    asked = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_MAX_TOKENS
    return Size(
        likely_input=min(context_window, -(-text_bytes // LIKELY_BYTES_PER_TOKEN) + fixed),
        worst_input=min(context_window, text_bytes + fixed),
        max_output=min(asked, context_window) * choices,
        choices=choices,
    )


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
                repr(value) for name, value in message.items() if name not in {"role", "content"}
            )
    for name in ("tools", "functions", "response_format"):
        if body.get(name):
            yield repr(body[name])


def _of_part(part: Mapping[str, Any]) -> Iterator[str | Mapping[str, Any]]:
    """A part's text, and the part itself if it is a medium: one may be both."""
    text = part.get("text")
    if isinstance(text, str):
        yield text
    if part.get("type", "text") != "text":
        yield part
