"""Words of a stream that are sent on from where they arrive, by a real server on a real socket."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import orjson
import pytest
import uvicorn
import uvloop

from adapters.http.asking import Asking
from adapters.http.connections import OUTLET, Outlet, patient
from adapters.http.dialects.chat import ChatCompletions, PassThrough
from adapters.http.exchange import Exchange
from kyma.calls import Fault
from kyma.flows.ticket import Ticket
from tests.flows.upstreams import PROVIDERS, Breaks, Fails, Says
from tests.http.on_memory import SECRET, Place, a_body, a_place

WORDS = [f"word{number} " for number in range(20)]


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[tuple[str, int]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            http=patient(5, 5),
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=2,  # for an application that waits in vain
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            await serving


async def over_a_socket(
    place: Place, path: str, body: Mapping[str, Any], **headers: str
) -> tuple[int, bytes]:
    given = {"Authorization": f"Bearer {SECRET}", **headers}
    async with (
        served(place.gateway) as (host, port),
        aiohttp.ClientSession() as session,
        session.post(
            f"http://{host}:{port}{path}", data=orjson.dumps(body), headers=given
        ) as response,
    ):
        return response.status, await response.read()


def asked(path: str) -> dict[str, Any]:
    if path == "/v1/responses":
        return {"model": "big", "input": "x" * 400, "max_output_tokens": 100, "stream": True}
    return a_body(stream=True)


def same(stream: bytes) -> bytes:
    """Without what differs between two answers: ids and times."""
    stream = re.sub(rb"[0-9a-f]{32}", b"<id>", stream)
    return re.sub(rb'"(created|created_at|completed_at)":[0-9.]+', rb'"\\1":0', stream)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_a_stream_says_the_same_whether_its_words_wait_for_their_reader_or_not(
    path: str,
) -> None:
    place = await a_place({"first": [Says(WORDS)]})
    waiting = await place.ask("POST", path, asked(path))
    assert place.upstream.taken == 0, "this server has no way to send at once"
    status, at_once = await over_a_socket(place, path, asked(path))
    assert place.upstream.taken >= len(WORDS) - 1, "but for the first, which is waited for"
    assert (status, waiting.status) == (200, 200)
    assert same(at_once) == same(waiting.body)
    first, second = place.store.records
    assert (second.usage, second.charged, second.outcome) == (first.usage, first.charged, "ok")
    assert second.charged > 0


async def test_words_that_were_sent_at_once_are_in_an_answer_that_is_given_again() -> None:
    place = await a_place({"first": [Says(WORDS)]})
    path, body = "/v1/chat/completions", a_body(stream=True)
    await place.ask("PATCH", f"/v1/auth/keys/{place.key.id}", {"replay_minutes": 5})
    _, first = await over_a_socket(place, path, body, **{"Idempotency-Key": "one"})
    assert place.upstream.taken >= len(WORDS) - 1
    again = await place.ask("POST", path, body, **{"Idempotency-Key": "one"})
    assert again.headers["x-kyma-idempotent-replay"] == "true"
    assert again.body == first
    assert len(place.upstream.asked) == 1


async def test_words_that_were_sent_at_once_cost_nothing_if_the_answer_breaks() -> None:
    place = await a_place({"first": [Breaks(WORDS)]})
    status, body = await over_a_socket(place, "/v1/chat/completions", a_body(stream=True))
    assert place.upstream.taken >= len(WORDS) - 1
    assert status == 200
    assert all(word.encode() in body for word in WORDS)
    assert b"event: error" in body
    assert b"[DONE]" not in body
    (record,) = place.store.records
    assert (record.outcome, record.charged) == ("stream_interrupted", 0)
    assert record.provider_cost > 0
    assert await place.spent() == 0


# The outlet itself


Play = Callable[[Outlet, Any], Any]


@asynccontextmanager
async def playing(
    play: Play, head: Mapping[str, Any] = {"headers": []}
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client of an application that begins an answer and then does this."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        outlet = scope["state"][OUTLET]
        assert not outlet.is_free(), "the head comes first"
        await send({"type": "http.response.start", "status": 200, **head})
        await play(outlet, send)

    async with served(app) as address:
        reader, writer = await asyncio.open_connection(*address, limit=2**14)
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
        writer.close()


async def test_what_is_sent_at_once_comes_in_turn_and_before_the_end() -> None:
    async def play(outlet: Outlet, send: Any) -> None:
        assert outlet.is_free()
        outlet.write(b"one,")
        await send({"type": "http.response.body", "body": b"two,", "more_body": True})
        outlet.write(b"three,")
        await send({"type": "http.response.body", "body": b"four"})
        assert not outlet.is_free(), "it is over"

    async with playing(play) as (reader, _):
        raw = await reader.readuntil(b"0\r\n\r\n")
        assert raw == b"4\r\none,\r\n4\r\ntwo,\r\n6\r\nthree,\r\n4\r\nfour\r\n0\r\n\r\n"


async def test_a_client_that_does_not_read_or_has_left_is_sent_nothing_at_once() -> None:
    seen: list[bool] = []
    done = asyncio.Event()

    async def play(outlet: Outlet, _: Any) -> None:
        written = 0
        while outlet.is_free():
            outlet.write(b"x" * 65_536)
            written += 65_536
            await asyncio.sleep(0)
            assert written < 2**26, "it is never full"
        while not outlet.is_free():  # the client reads
            await asyncio.sleep(0.01)
        seen.append(True)
        outlet.write(b"it has")
        while outlet.is_free():  # the client leaves
            await asyncio.sleep(0.01)
        done.set()

    async with asyncio.timeout(10), playing(play) as (reader, writer):
        await asyncio.sleep(0.2)
        while not seen:
            await reader.read(2**16)
        writer.transport.abort()
        await done.wait()


async def test_a_client_that_has_left_is_noticed_behind_a_large_body_too() -> None:
    """uvicorn stops reading behind one: it would not see that its client has gone."""
    size = 300_000
    seen: list[bool] = []
    done = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        outlet = scope["state"][OUTLET]
        await asyncio.sleep(0.1)  # all of it is there by now
        read = 0
        while read < size:
            read += len((await receive())["body"])
        seen.append(outlet.is_gone())
        while not outlet.is_gone():
            await asyncio.sleep(0.01)
        done.set()

    async with asyncio.timeout(10), served(app) as address:
        _, writer = await asyncio.open_connection(*address)
        writer.write(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % size)
        writer.write(b"x" * size)
        while not seen:
            await asyncio.sleep(0.01)
        writer.transport.abort()
        await done.wait()
    assert seen == [False]


NEXT = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"
"""Asked behind a request that is being answered: uvicorn then knows this one alone."""


def posted(body: Mapping[str, Any]) -> bytes:
    raw = orjson.dumps(body)
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer %b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (SECRET.encode(), len(raw), raw)
    )


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("next_one", [b"", NEXT], ids=["", "asked for more"])
def test_a_client_that_leaves_pays_what_it_was_sent_whatever_it_asked_for_next(
    loop: Any, next_one: bytes
) -> None:
    async def run() -> None:
        errors: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: errors.append(told))
        place = await a_place({"first": [Says(WORDS * 20, pause_s=0.005)]})
        async with served(place.gateway) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(posted(a_body(stream=True)))
            await reader.readuntil(b"word5 ")
            writer.write(next_one)
            await asyncio.sleep(0.02)
            writer.transport.abort()
            while not place.store.records:
                await asyncio.sleep(0.01)
        (record,) = place.store.records
        assert record.outcome == "client_left"
        assert record.charged > 0
        assert 5 < place.upstream.taken < 200
        assert not place.store.open_holds
        assert errors == []

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(run(), 10))


@pytest.mark.parametrize("leaves", [False, True])
async def test_nobody_is_asked_for_a_client_that_has_left(leaves: bool) -> None:
    """A second round of questions comes after a pause, in which it goes."""
    place = await a_place({provider: [Fails(Fault.BUSY)] for provider in PROVIDERS})
    async with served(place.gateway) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(posted(a_body()))
        while not place.upstream.asked:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        once = len(place.upstream.asked)
        if leaves:
            writer.transport.abort()
            await asyncio.sleep(0.5)
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.close()
        assert (len(place.upstream.asked) == once) is leaves
    assert await place.spent() == 0
    assert not place.store.open_holds


async def test_events_that_mean_nothing_here_are_not_sent() -> None:
    """An empty part would be the end of the body."""

    class Quiet(PassThrough):
        def events(self, events: list[bytes]) -> bytes:
            return b""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        outlet = scope["state"][OUTLET]
        exchange = Exchange(send, "0" * 32, ChatCompletions(), 5.0, Asking(scope), outlet)
        exchange.streams(Quiet(cast(Ticket, None), "", ""), [])
        assert not exchange.more_at_once([b"before the head"])
        await exchange.begin([])
        assert exchange.more_at_once([b"a word"])
        await exchange.end(b"end")

    async with served(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readuntil(b"0\r\n\r\n") == b"3\r\nend\r\n0\r\n\r\n"
        writer.close()


async def test_a_body_of_a_told_length_is_not_sent_in_pieces() -> None:
    async def play(outlet: Outlet, send: Any) -> None:
        assert not outlet.is_free()
        await send({"type": "http.response.body", "body": b"four"})

    async with playing(play, {"headers": [(b"content-length", b"4")]}) as (reader, _):
        assert await reader.readexactly(4) == b"four"


async def test_of_two_requests_on_one_connection_each_has_its_own() -> None:
    """The second is read while the first is answered."""
    outlets: list[Outlet] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        outlet = scope["state"][OUTLET]
        outlets.append(outlet)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.05)
        assert [one.is_free() for one in outlets] == [False] * (len(outlets) - 1) + [True]
        outlet.write(b"%d" % len(outlets))
        await send({"type": "http.response.body", "body": b""})

    async with served(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * 2)
        for number in (b"1", b"2"):
            assert (await reader.readuntil(b"0\r\n\r\n")).endswith(number + b"\r\n0\r\n\r\n")
        writer.close()
