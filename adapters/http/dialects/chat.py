"""OpenAI's chat completions: events pass through, the usage comes last."""

from __future__ import annotations

from typing import Any

import orjson

from adapters.http.chat_request import check
from adapters.http.dialects.sounds import check_sounds
from adapters.http.dialects.unsold import check_tools
from adapters.http.errors import envelope
from kyma.calls import ChatCall, size_of
from kyma.catalog.model import Model
from kyma.errors import Refusal
from kyma.flows.live import LiveAnswer
from kyma.flows.ticket import Receipt, Served, Ticket
from kyma.money import decimal_text, number

DONE = b"data: [DONE]\n\n"


class ChatCompletions:
    """`POST /v1/chat/completions`."""

    path = "/v1/chat/completions"
    endpoint = "chat.completions"
    id_header = "x-request-id"

    def model(self, body: dict[str, Any]) -> str:
        """The model of a body that is in order."""
        check(body)
        name: str = body["model"]
        return name

    def call(self, body: dict[str, Any], model: Model) -> ChatCall:
        """The body as it came; raises `Refusal` for a tool or a sound that is not sold."""
        check_tools(body.get("tools"))
        check_sounds(body, model)
        return ChatCall(
            body,
            model.id,
            stream=bool(body.get("stream")),
            wants_usage=asks_for_usage(body),
            size=size_of(body, model.context_window),
        )

    def whole(self, served: Served) -> dict[str, Any]:
        """The provider's object with our usage."""
        body = served.answer.body
        body["usage"] = usage_json(served.receipt)
        return body

    def rendering(self, ticket: Ticket) -> PassThrough:
        """Events as they came, then `[DONE]`."""
        return PassThrough(ticket, "chat.completion.chunk", "chatcmpl-")

    def refusal(self, refusal: Refusal, request_id: str) -> dict[str, Any]:
        """OpenAI's envelope."""
        return envelope(refusal, request_id)


def asks_for_usage(body: dict[str, Any]) -> bool:
    """Whether a stream is to end with a usage chunk."""
    options = body.get("stream_options")
    return bool(options and options.get("include_usage"))


class PassThrough:
    """A stream of OpenAI's in which nothing is changed; its last chunk carries our usage."""

    def __init__(self, ticket: Ticket, object: str, prefix: str) -> None:
        self._ticket = ticket
        self._object = object
        self._prefix = prefix

    def events(self, events: list[bytes]) -> bytes:
        """As they came."""
        return b"\n\n".join(events) + b"\n\n"

    def end(self, live: LiveAnswer) -> bytes:
        """The usage chunk, if the client asked for it, and the end mark."""
        if not self._ticket.call.wants_usage or live.receipt is None:
            return DONE
        chunk = {
            "id": f"{self._prefix}{self._ticket.id}",
            "object": self._object,
            "created": int(self._ticket.started_at.timestamp()),
            "model": live.route.model,
            "choices": [],
            "usage": usage_json(live.receipt),
        }
        return b"data: " + orjson.dumps(chunk) + b"\n\n" + DONE

    def failed(self, refusal: Refusal, request_id: str) -> bytes:
        """An error event; `[DONE]` never follows it."""
        return b"event: error\ndata: " + orjson.dumps(envelope(refusal, request_id)) + b"\n\n"


def usage_json(receipt: Receipt) -> dict[str, Any]:
    """OpenAI's usage with Kyma's fields beside it; `cost` is what was charged, in USD."""
    usage = receipt.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        "cached_tokens": usage.cache_read,
        "cache_write_tokens": usage.cache_write,
        "cost": number(receipt.charged),
        "cost_usd": decimal_text(receipt.charged),
        "cache_discount": number(receipt.cache_discount),
    }
