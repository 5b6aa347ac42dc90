"""OpenAI's Responses API, stateless, over the chat dialect.

A request becomes a chat call, an answer's deltas become output items; what is supported,
mapped and refused is in docs/responses.md. Nothing is stored, whatever `store` says.
"""

from __future__ import annotations

from typing import Any

import msgspec

from adapters.http.dialects.chat import usage_json
from adapters.http.dialects.responses_request import ResponsesCall, check, translated
from adapters.http.dialects.responses_stream import Output
from adapters.http.dialects.sounds import check_sounds
from adapters.http.errors import envelope
from adapters.json_text import json_bytes
from kyma.calls import ChatCall, size_of
from kyma.catalog.model import Model
from kyma.errors import Code, Refusal
from kyma.flows.live import LiveAnswer
from kyma.flows.ticket import Receipt, Served, Ticket

FAILED: dict[Code, str] = {
    Code.CONTEXT_TOO_LONG: "context_length_exceeded",
    Code.RATE_LIMITED: "rate_limit_exceeded",
    Code.PROVIDER_BUSY: "rate_limit_exceeded",
    Code.INSUFFICIENT_CREDITS: "insufficient_quota",
    Code.CONTENT_FILTERED: "invalid_prompt",
    Code.REFUSED_BY_MODEL: "invalid_prompt",
}
"""`response.error.code` as agents know it (codex-rs sse/responses.rs); else `server_error`."""

FIELDS: dict[str | None, str] = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""What a field of the chat dialect is called here."""

PROVIDERS_OWN = frozenset({Code.CONTEXT_TOO_LONG, Code.CONTENT_FILTERED, Code.REFUSED_BY_MODEL})
"""Refusals of who got the chat body, and complains of its fields."""

DEFAULT_MAX_OUTPUT = 16_384
"""Output tokens where the caller sets no bound. The API itself has none, and Codex sends none:
the chat route's 4,096 would cut its patches. Higher would only make every hold larger."""


class Responses:
    """`POST /v1/responses`."""

    path = "/v1/responses"
    endpoint = "responses"
    id_header = "x-request-id"

    def model(self, body: dict[str, Any]) -> str:
        """The model of a body that is in order."""
        check(body)
        name: str = body["model"]
        return name

    def call(self, body: dict[str, Any], model: Model) -> ChatCall:
        """The body in the chat dialect; raises `Refusal` for an item or a tool it cannot say."""
        said = translated(body)
        check_sounds(said.body, model, field="input")
        said.body.setdefault("max_tokens", min(model.max_output_tokens, DEFAULT_MAX_OUTPUT))
        return ResponsesCall(
            said.body,
            model.id,
            stream=bool(body.get("stream")),
            wants_usage=False,
            size=size_of(said.body, model.context_window),
            echo=said.echo,
            names=said.names,
            logprobs=said.logprobs,
        )

    def whole(self, served: Served) -> dict[str, Any]:
        """The provider's `chat.completion` as a `response`."""
        call = _call_of(served.ticket)
        output = Output(
            served.ticket.id, call.names, lambda _type, _fields: None, logprobs=call.logprobs
        )
        choice = served.answer.body["choices"][0]
        message = choice["message"]
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            # A whole answer does not number its calls.
            numbered = [
                {**told, "index": place}
                for place, told in enumerate(calls)
                if isinstance(told, dict)
            ]
            message = {**message, "tool_calls": numbered}
        output.feed(message, choice.get("finish_reason"), choice.get("logprobs"))
        output.finish()
        return _finished(served.ticket, served.route.model, output, served.receipt)

    def rendering(self, ticket: Ticket) -> ResponseEvents:
        """Chat chunks as the events of the Responses API."""
        return ResponseEvents(ticket)

    def refusal(self, refusal: Refusal, request_id: str) -> dict[str, Any]:
        """OpenAI's envelope, with the field as this dialect names it."""
        return _envelope(refusal, request_id)


class Written:
    """Events that are numbered and not sent yet; knows nothing of the stream, which knows it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.count = 0

    def emit(self, type: str, fields: dict[str, Any]) -> None:
        """Write the next event."""
        event = {"type": type, "sequence_number": self.count, **fields}
        self.count += 1
        self.say(b"event: " + type.encode() + b"\ndata: " + json_bytes(event) + b"\n\n")

    def say(self, part: bytes) -> None:
        """Write something that is no event."""
        self._parts.append(part)

    def take(self) -> bytes:
        """What was written since the last time."""
        written = b"".join(self._parts)
        self._parts.clear()
        return written


class ResponseEvents:
    """One stream: numbered events, from `response.created` to one that tells how it ended."""

    def __init__(self, ticket: Ticket) -> None:
        call = _call_of(ticket)
        self._ticket = ticket
        self._model = ticket.model.id
        self._written = written = Written()
        self._emit = written.emit
        self._output = Output(ticket.id, call.names, written.emit, logprobs=call.logprobs)

    def events(self, events: list[bytes]) -> bytes:
        """What a read of the chat stream means here; comments pass through."""
        for event in events:
            if event.startswith(b":"):
                self._written.say(event + b"\n\n")
            elif event.startswith(b"data:"):
                self._take(event[5:])
        return self._written.take()

    def end(self, live: LiveAnswer) -> bytes:
        """What is still open is done, then `response.completed` or `response.incomplete`."""
        self._begin(live.route.model)
        self._output.finish()
        response = _finished(self._ticket, live.route.model, self._output, live.receipt)
        self._emit(f"response.{response['status']}", {"response": response})
        return self._written.take()

    def failed(self, refusal: Refusal, request_id: str) -> bytes:
        """`response.failed`, then an `error` that official clients raise."""
        self._begin(self._model)
        error = _envelope(refusal, request_id)["error"]
        response = _response(self._ticket, self._model, "failed", self._output.items)
        response["error"] = {**error, "code": FAILED.get(refusal.code, "server_error")}
        self._emit("response.failed", {"response": response})
        told = {name: error[name] for name in ("code", "message", "param")}
        self._emit("error", {**told, "error": error})
        return self._written.take()

    def _take(self, payload: bytes) -> None:
        try:
            chunk = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return  # no chunk (`[DONE]`): the wire has refused whatever else is none
        if not isinstance(chunk, dict):
            return
        model = chunk.get("model")
        self._begin(model if isinstance(model, str) and model else self._model)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and not choice.get("index"):
                delta = choice.get("delta")
                self._output.feed(
                    delta if isinstance(delta, dict) else {},
                    choice.get("finish_reason"),
                    choice.get("logprobs"),
                )

    def _begin(self, model: str) -> None:
        if self._written.count:
            return
        self._model = model
        response = _response(self._ticket, model, "in_progress", [])
        self._emit("response.created", {"response": response})
        self._emit("response.in_progress", {"response": response})


def _envelope(refusal: Refusal, request_id: str) -> dict[str, Any]:
    told = envelope(refusal, request_id)
    if refusal.code in PROVIDERS_OWN:
        told["error"]["param"] = FIELDS.get(refusal.param, refusal.param)
    return told


def _call_of(ticket: Ticket) -> ResponsesCall:
    call = ticket.call
    assert isinstance(call, ResponsesCall)
    return call


def _finished(
    ticket: Ticket, model: str, output: Output, receipt: Receipt | None
) -> dict[str, Any]:
    """The `response` of an answer that has ended by itself."""
    cut = output.incomplete
    response = _response(ticket, model, "incomplete" if cut else "completed", output.items)
    response["incomplete_details"] = {"reason": cut} if cut else None
    response["usage"] = None if receipt is None else _usage(receipt)
    return response


def _response(
    ticket: Ticket, model: str, status: str, items: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "id": f"resp_{ticket.id}",
        "object": "response",
        "created_at": int(ticket.started_at.timestamp()),
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": items,
        "usage": None,
        **_call_of(ticket).echo,
    }


def _usage(receipt: Receipt) -> dict[str, Any]:
    """The Responses API's usage with Kyma's fields beside it."""
    told = usage_json(receipt)
    return {
        "input_tokens": told["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": told["cached_tokens"],
            "cache_write_tokens": told["cache_write_tokens"],
        },
        "output_tokens": told["completion_tokens"],
        "output_tokens_details": told["completion_tokens_details"],
        "total_tokens": told["total_tokens"],
        **{
            name: told[name]
            for name in (
                "cached_tokens",
                "cache_write_tokens",
                "cost",
                "cost_usd",
                "cache_discount",
            )
        },
    }
