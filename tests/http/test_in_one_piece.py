"""Whole answers in a single write, by a real server on a real socket: as ASGI's two would be."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from adapters.http.asgi import send_whole
from adapters.http.connections import ONE_PIECE_BYTES, OUTLET, Outlet
from tests.flows.upstreams import Says
from tests.http.on_memory import a_body, a_place
from tests.http.test_at_once import posted, served

HEADERS = [(b"content-length", b"5"), (b"x-kyma-model", b"big"), (b"x-tab", b"a\tb")]
ASKED = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\nhi"


class Says5:
    """An application that answers with five bytes, in one piece if it can and is to."""

    def __init__(
        self,
        status: int = 200,
        *,
        one_piece: bool = True,
        reads: bool = True,
        listens: bool = False,
    ) -> None:
        self.status = status
        self.one_piece = one_piece
        self.reads = reads
        self.listens = listens
        self.heard: list[str] = []
        self.sent: list[bool] = []
        self.headers = HEADERS

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if self.reads:
            await receive()
        outlet: Outlet = scope["state"][OUTLET]
        sent = self.one_piece and outlet.answer(self.status, self.headers, b"hello")
        self.sent.append(sent)
        if not sent:
            await send_whole(send, self.status, self.headers, b"hello")
        if self.listens:
            self.heard.append((await receive())["type"])


async def said(app: Any, asked: bytes) -> bytes:
    """All that a client hears which waits until the connection is closed, or for a while."""
    async with served(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(asked)
        heard = b""
        try:
            async with asyncio.timeout(0.15):
                while part := await reader.read(65_536):
                    heard += part
                heard += b"<closed>"
        except TimeoutError:
            heard += b"<open>"
        writer.close()
    return re.sub(rb"date: [^\r]*", b"date: now", heard)


CHUNKED = b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
OLD = b"POST / HTTP/1.0\r\nHost: here\r\nContent-Length: 2\r\n\r\nhi"
LAST = b"POST / HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
EXPECTS = b"POST / HTTP/1.1\r\nHost: here\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi"
UNREAD = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nhi"


@pytest.mark.parametrize(
    ("asked", "end"),
    [
        (ASKED, b"<open>"),
        (ASKED * 3, b"<open>"),
        (CHUNKED * 2, b"<open>"),
        (OLD, b"<closed>"),
        (LAST, b"<closed>"),
        (EXPECTS, b"<open>"),
        (UNREAD, b"<open>"),
        (UNREAD + b"1234567" + ASKED, b"<open>"),
        (LAST + ASKED, b"<closed>"),
        (ASKED + OLD + ASKED, b"<closed>"),
    ],
)
@pytest.mark.parametrize(("status", "reads"), [(200, True), (402, False)])
@pytest.mark.parametrize("listens", [False, True])
async def test_one_piece_is_what_two_would_be(
    asked: bytes, end: bytes, status: int, reads: bool, listens: bool
) -> None:
    app = Says5(status, reads=reads, listens=listens)
    other = Says5(status, one_piece=False, reads=reads, listens=listens)
    heard = await said(app, asked)
    assert heard == await said(other, asked)
    assert heard.endswith(end)
    assert app.sent, "it was not even asked"
    assert all(app.sent)
    assert (len(app.sent), app.heard) == (len(other.sent), other.heard)
    assert app.heard == ["http.disconnect"] * len(app.sent) * listens


class Watched(asyncio.Protocol):
    """A client that knows in how many pieces it was answered."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)


async def test_a_whole_answer_of_the_gateway_comes_in_one_piece() -> None:
    place = await a_place({"first": [Says(["a word"])]})
    async with served(place.gateway) as address:
        transport, client = await asyncio.get_running_loop().create_connection(Watched, *address)
        for _ in range(3):
            client.pieces.clear()
            transport.write(posted(a_body()))
            async with asyncio.timeout(5):
                while not client.pieces:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.02)
            (piece,) = client.pieces
            head, _, body = piece.partition(b"\r\n\r\n")
            assert b"content-length: %d" % len(body) in head
            assert b'"a word"' in body
        transport.close()


async def test_who_asks_for_a_head_alone_is_sent_no_body() -> None:
    app = Says5()
    heard = await said(app, b"HEAD / HTTP/1.1\r\nHost: here\r\n\r\n")
    assert app.sent == [False]
    assert heard.endswith(b"\r\n\r\n<open>")


@pytest.mark.parametrize("value", [b"a\r\nx-stolen: 1", b"a\0", b"a\x7f", b"\x1f"])
async def test_a_value_that_would_be_another_header_is_not_sent(value: bytes) -> None:
    app = Says5()
    app.headers = [*HEADERS, (b"x-alias", value)]
    heard = await said(app, ASKED)
    assert app.sent == [False]
    assert heard == b"<closed>"


async def test_an_answer_is_sent_once_and_not_to_who_has_left() -> None:
    seen: list[bool] = []
    gone = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        outlet: Outlet = scope["state"][OUTLET]
        await receive()
        if scope["path"] == "/twice":
            seen.extend(outlet.answer(200, HEADERS, b"hello") for _ in range(2))
            return
        while not outlet.is_gone():
            await asyncio.sleep(0.01)
        seen.append(outlet.answer(200, HEADERS, b"hello"))
        gone.set()

    heard = await said(app, ASKED.replace(b" / ", b" /twice "))
    assert heard.count(b"hello") == 1
    assert seen == [True, False]
    seen.clear()
    async with asyncio.timeout(5), served(app) as address:
        _, writer = await asyncio.open_connection(*address)
        writer.write(ASKED)
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await gone.wait()
    assert seen == [False]


async def test_who_listens_for_the_client_hears_that_its_answer_was_sent() -> None:
    heard: list[Any] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        outlet: Outlet = scope["state"][OUTLET]
        await receive()
        listening = asyncio.create_task(receive())
        await asyncio.sleep(0.01)
        assert outlet.answer(200, HEADERS, b"hello")
        for _ in range(5):
            await asyncio.sleep(0)
        assert listening.done()
        heard.append(listening.result())

    assert b"hello" in await said(app, ASKED)
    assert heard == [{"type": "http.disconnect"}]


async def test_who_does_not_read_and_what_is_long_is_sent_in_the_usual_way() -> None:
    sent: list[bool] = []
    sizes = [ONE_PIECE_BYTES, 4_000_000, 5]

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        outlet: Outlet = scope["state"][OUTLET]
        body = b"x" * sizes[len(sent)]
        headers = [(b"content-length", b"%d" % len(body))]
        sent.append(outlet.answer(200, headers, body))
        if not sent[-1]:
            await send_whole(send, 200, headers, body)

    async with asyncio.timeout(10), served(app) as address:
        reader, writer = await asyncio.open_connection(*address, limit=2**14)
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * 3)
        await asyncio.sleep(0.2)
        for size in sizes:
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(size) == b"x" * size
        assert sent == [True, False, False], "the third waits until the second has been read"
        writer.close()
