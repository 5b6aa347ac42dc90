"""Requests and streams of the Responses API, as the edge sees them, without a gateway around."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import orjson
from aiohttp import web
from openai import AsyncOpenAI

from adapters.http.dialects.responses import Responses
from adapters.http.dialects.responses_request import ResponsesCall
from kyma.calls import ChatAnswer
from kyma.catalog.model import Model
from kyma.errors import Refusal
from kyma.flows.access import Admission
from kyma.flows.live import LiveAnswer
from kyma.flows.ticket import Receipt, Served, Ticket
from kyma.money import usd
from kyma.ports.upstreams import Deadline
from kyma.pricing import per_token
from kyma.routing import Route
from kyma.usage import Usage
from tests.builders import NOON

DIALECT = Responses()
PRICE = per_token("1", "2")
MODEL = Model(
    id="kimi-k2.6",
    name="Kimi",
    description="",
    owned_by="moonshot",
    family="kimi",
    price=PRICE,
    context_window=262_144,
    max_output_tokens=32_768,
    routes=(),
)
ROUTE = Route("moonshot", "kimi-k2.6", MODEL.id, PRICE, layer=0)
RECEIPT = Receipt(
    Usage(input=70, cache_read=20, cache_write=10, output=5, reasoning=3),
    usd("0.000116"),
    usd("0.000018"),
)
FUNCTION = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a place.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    "strict": False,
}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edit files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: begin_patch"},
}
NAMESPACE = {
    "type": "namespace",
    "name": "mcp__files",
    "description": "Files.",
    "tools": [{"type": "function", "name": "read", "parameters": {"type": "object"}}],
}


@dataclass
class Ended:
    """What a rendering asks of a stream that is over."""

    route: Route = ROUTE
    receipt: Receipt | None = RECEIPT


def ended() -> LiveAnswer:
    return cast(LiveAnswer, Ended())


def a_body(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL.id, "input": "Hello", **fields}


def a_call(model: Model = MODEL, /, **fields: Any) -> ResponsesCall:
    body = a_body(**fields)
    DIALECT.model(body)
    call = DIALECT.call(body, model)
    assert isinstance(call, ResponsesCall)
    return call


def a_ticket(**fields: Any) -> Ticket:
    return Ticket(
        id="r1",
        admission=cast(Admission, None),
        call=a_call(**fields),
        model=MODEL,
        alias=None,
        endpoint="responses",
        started_at=NOON,
        started=0,
        deadline=Deadline(60),
        gone=lambda: False,
        routes=(ROUTE,),
        affinity=None,
    )


def whole(message: dict[str, Any], reason: str = "stop", **fields: Any) -> dict[str, Any]:
    """The `response` of a whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    answer = ChatAnswer({"id": "chatcmpl-r1", "choices": [choice]}, None, 0)
    return DIALECT.whole(Served(a_ticket(**fields), ROUTE, answer, RECEIPT))


def chunk(delta: Any = None, reason: Any = None, **more: Any) -> bytes:
    """An event of the chat dialect."""
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": reason}
    body = {"object": "chat.completion.chunk", "model": MODEL.id, "choices": [{**choice, **more}]}
    return b"data: " + orjson.dumps(body)


def streamed(
    events: Iterable[bytes], *, failure: Refusal | None = None, **fields: Any
) -> list[bytes]:
    """What leaves for chat events that come one by one."""
    rendering = DIALECT.rendering(a_ticket(stream=True, **fields))
    written = [rendering.events([event]) for event in events]
    last = rendering.failed(failure, "r1") if failure else rendering.end(ended())
    return [*written, last]


def parsed(written: Iterable[bytes]) -> list[dict[str, Any]]:
    """The events, each one checked to be named as its type."""
    events = []
    for event in b"".join(written).split(b"\n\n")[:-1]:
        name, data = event.split(b"\n")
        body = orjson.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + body["type"].encode()
        events.append(body)
    return events


@asynccontextmanager
async def served(answer: list[bytes] | dict[str, Any]) -> AsyncIterator[AsyncOpenAI]:
    """An official client of a server that answers every request with these bytes, over TCP."""

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        if isinstance(answer, dict):
            return web.json_response(body=orjson.dumps(answer), content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in answer:
            await response.write(piece)
        return response

    app = web.Application()
    app.router.add_post("/v1/responses", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    client = AsyncOpenAI(api_key="ky-test", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)
    try:
        async with client:
            yield client
    finally:
        await runner.cleanup()
