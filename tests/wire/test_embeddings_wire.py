"""Embeddings on the way back: vectors are counted and passed on as the bytes that they came in."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from dependency_injector import providers

from adapters.http.dialects.embeddings import Embeddings
from adapters.upstreams.chat import ProviderChat
from adapters.upstreams.providers import PROVIDERS, Endpoint
from adapters.upstreams.transport import Timeouts, Transport
from adapters.upstreams.wire import embeddings
from kyma.calls import ChatAnswer, Fault, UpstreamError
from kyma.catalog.model import Catalogue
from kyma.flows.ticket import Served
from kyma.ledger import Hold
from kyma.money import ZERO
from kyma.ports.upstreams import Deadline
from kyma.pricing import per_token
from kyma.routing import Route
from kyma.usage import Usage
from tests.http.on_memory import CREDIT, a_place
from tests.http.responses_builders import MODEL, RECEIPT, a_ticket

FIGURES = b"[-0.0, 1e-400, 0.1000000000000000055511151231257827, 1E+2 ,12345678901234567890123]"
"""No reader of floats would write these again as they are."""

SPELT = b'{ "index":0,"object": "embedding",\n "embedding" : ' + FIGURES + b"}"
PACKED = b'{"embedding":"AACAPwAAAEA=","object":"embedding","index":1,"x":{"y":[null,"\xc3\xa9"]}}'
USAGE = b'"usage":{"prompt_tokens":7,"total_tokens":7}'


def listed(*vectors: bytes, more: bytes = USAGE) -> bytes:
    told = [b'"object":"list"', b'"data" : [ ' + b" , ".join(vectors) + b" ]", b'"model":"x"']
    return b"{" + b",".join([*told, *([more] if more else [])]) + b"}"


def written(answer: ChatAnswer) -> bytes:
    """The body that a client gets."""
    served = Served(a_ticket(), Route("p", "m", MODEL.id, MODEL.price), answer, RECEIPT)
    return orjson.dumps(Embeddings().whole(served))


def test_vectors_pass_byte_for_byte() -> None:
    answer = embeddings.answer(listed(SPELT, PACKED), "ours", 2)
    assert answer.usage == Usage(input=7)
    assert b'{"object":"list","data":[' + SPELT + b"," + PACKED + b'],"model":"ours"' in written(
        answer
    )


async def test_vectors_pass_byte_for_byte_from_socket_to_client() -> None:
    async def serve(request: web.Request) -> web.Response:
        asked = await request.json()
        raw = listed(*[SPELT] * len(asked["input"]))
        return web.Response(body=raw, content_type="application/json")

    app = web.Application()
    app.router.add_post("/embeddings", serve)
    transport = Transport(Timeouts(connect_s=1, first_byte_s=1, chunk_s=1, answer_s=5))
    async with TestServer(app) as server:
        endpoint = Endpoint(PROVIDERS["local"], str(server.make_url("")).rstrip("/"), "")
        upstream = ProviderChat(transport, {"local": endpoint})
        call = Embeddings().call({"model": "m", "input": ["a", "b", "c"]}, MODEL)
        route = Route("local", "m", "m", per_token("0", "0"))
        hold = Hold("0" * 32, "a", ZERO, ZERO)
        answer = await upstream.answer(
            call, route, hold, Deadline(asyncio.get_running_loop().time() + 5)
        )
        await transport.close()
    assert b'"data":[' + b",".join([SPELT] * 3) + b"]" in written(answer)


def test_no_figure_of_a_vector_becomes_an_object() -> None:
    """Counted in blocks of memory: an object for every figure would be 100,000 of them."""
    figures, rows = 1_000, 100
    vector = orjson.dumps({"embedding": [0.1 + place for place in range(figures)]})
    raw = listed(*[vector] * rows)
    answers: list[Any] = []
    before = sys.getallocatedblocks()
    answers.append(embeddings.answer(raw, "ours", rows))
    answers.append(written(answers[0]))
    assert sys.getallocatedblocks() - before < 10 * rows
    before = sys.getallocatedblocks()
    answers.append(orjson.loads(raw))
    assert sys.getallocatedblocks() - before > figures * rows


@pytest.mark.parametrize(
    ("input", "count"),
    [("a text", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2, 3]], 2), (["a"], 1), (None, 1)],
)
def test_what_is_asked_for_is_counted(input: Any, count: int) -> None:
    assert embeddings.asked_for(input) == count


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"<html>",
        b"{}",
        listed(SPELT),
        listed(SPELT, SPELT, SPELT),
        listed(),
        listed(SPELT, SPELT)[:-1],
        listed(SPELT, SPELT) + b"}",
        b'{"data":null}',
        b'{"data":{}}',
        b'{"data":"x"}',
        b'{"data":7}',
        listed(SPELT, b'{"embedding":[NaN]}'),
        listed(SPELT, b'{"embedding":[01]}'),
        listed(SPELT, b'{"embedding":[1,]}'),
        listed(SPELT, b'{"embedding":"\xff"}'),
        listed(SPELT, b'{"embedding":"\\ud800"}'),
        listed(SPELT, b'{"embedding":"\n"}'),
        listed(SPELT, b"[" * 100_000 + b"]" * 100_000),
    ],
    ids=lambda raw: raw[-30:].decode("latin-1"),
)
def test_what_is_no_list_of_that_many_vectors_is_a_broken_upstream(raw: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        embeddings.answer(raw, "ours", 2)
    assert caught.value.fault is Fault.BROKEN
    assert len(caught.value.message) < 1_000


@pytest.mark.parametrize(
    "item",
    [
        b"null",
        b"7",
        b"1e999",
        b'"x"',
        b"[1,2]",
        b"{}",
        b'{"error":"x"}',
        b'{"object":"embedding","index":0}',
        b'{"embedding":null}',
        b'{"embedding":{}}',
        b'{"embedding":{"float":[1]}}',
        b'{"embedding":7}',
        b'{"embedding":true}',
        b'{"embedding":[]}',
        b'{"embedding": [ \n ]}',
        b'{"embedding":""}',
        b'{"embedding":" "}',
        b'{"embedding":[null]}',
        b'{"embedding":["a"]}',
        b'{"embedding":[{}]}',
        b'{"embedding":[[1,2]]}',
        b'{"Embedding":[1]}',
        b'{"x":{"embedding":[1]}}',
        b'{"x":{"embedding":[1]},"embedding":[]}',
        b'{"x":[{"embedding":"AAAA"}],"embedding":null}',
        b'{"x":"\\"embedding\\":[1]"}',
        b'{"x":"embedding","y":[1]}',
    ],
    ids=bytes.decode,
)
def test_what_is_no_vector_is_not_sold_as_one(item: bytes) -> None:
    for raw, count in ((listed(item), 1), (listed(SPELT, item), 2), (listed(item, PACKED), 2)):
        with pytest.raises(UpstreamError) as caught:
            embeddings.answer(raw, "ours", count)
        assert caught.value.fault is Fault.BROKEN
        assert len(caught.value.message) < 1_000


@pytest.mark.parametrize(
    "item",
    [
        b'{"embedding":[0]}',
        b'{"embedding":[-1e-9]}',
        b'{ "embedding" :\n[ 1 , 2 ] }',
        b'{"embedding":"AAAA"}',
        b'{"embedding":"_-8="}',
        b'{"embedding":"+/8="}',
        b'{"x":{"embedding":[1]},"embedding":[2]}',
        b'{"x":{"embedding":null},"embedding":[2]}',
        b'{"x":["embedding","]","\\"embedding\\":7"],"embedding":[2],"embedding":[3]}',
    ],
    ids=bytes.decode,
)
def test_a_vector_however_it_is_spelt_passes_as_it_is(item: bytes) -> None:
    answer = embeddings.answer(listed(item, SPELT), "ours", 2)
    assert b'"data":[' + item + b"," + SPELT + b"]" in written(answer)


async def test_what_is_no_vector_is_asked_for_elsewhere_and_costs_nothing() -> None:
    """The first provider answers with vectors that are none, the second with a real one."""

    def app(item: bytes) -> web.Application:
        async def serve(_: web.Request) -> web.Response:
            return web.Response(body=listed(item), content_type="application/json")

        made = web.Application()
        made.router.add_post("/embeddings", serve)
        return made

    transport = Transport(Timeouts(connect_s=1, first_byte_s=1, chunk_s=1, answer_s=5))
    price = per_token("1", "0")
    async with TestServer(app(b"null")) as none, TestServer(app(SPELT)) as real:
        place = await a_place()
        urls = {"first": none, "second": real}
        endpoints = {
            name: Endpoint(PROVIDERS["local"], str(server.make_url("")).rstrip("/"), "")
            for name, server in urls.items()
        }
        container = place.container
        routes = tuple(
            Route(name, "m", "vectors", price, layer=layer) for layer, name in enumerate(urls)
        )
        row = replace(MODEL, id="vectors", price=price, routes=routes, embeds=True)
        alone = replace(row, id="broken", routes=(replace(routes[0], model="broken"),))
        container.upstream.override(providers.Object(ProviderChat(transport, endpoints)))
        container.catalogue.override(providers.Object(Catalogue([row, alone], {}, [*urls])))
        container.gateway.reset()
        container.chat.reset()
        place.gateway = container.gateway()
        broken = await place.ask("POST", "/v1/embeddings", {"model": "broken", "input": "x"})
        left = await place.ledger.balance(place.account.id)
        answer = await place.ask("POST", "/v1/embeddings", {"model": "vectors", "input": "x"})
        await transport.close()
    assert (broken.status, left.available) == (502, CREDIT)
    assert (answer.status, answer.headers["x-kyma-fallback"]) == (200, "true")
    assert b'"data":[' + SPELT + b"]" in answer.body
    assert await place.spent() == price.bill(Usage(input=7))


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b'{"error":{"message":"no","code":"insufficient_quota"}}', Fault.DENIED),
        (b'{"error":{"code":429}, "data":null}', Fault.BUSY),
        (listed(SPELT, more=b'"error":{"message":"half of it"}'), Fault.BROKEN),
        (b'{"base_resp":{"status_code":1008,"status_msg":"empty"},"vectors":null}', Fault.DENIED),
    ],
)
def test_a_failure_under_a_status_of_200_is_told_as_what_it_is(raw: bytes, fault: Fault) -> None:
    with pytest.raises(UpstreamError) as caught:
        embeddings.answer(raw, "ours", 1)
    assert caught.value.fault is fault


@pytest.mark.parametrize("more", [b"", b'"usage":null', b'"usage":"much"', b'"base_resp":{}'])
def test_vectors_without_a_usage_are_vectors(more: bytes) -> None:
    assert embeddings.answer(listed(SPELT, more=more), "ours", 1).usage is None
