"""Connections and their limits, by a real server on a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import uvicorn

from adapters.http.connections import MOST_HEAD_BYTES, patient
from adapters.http.exchange import Presence

HEAD = b"POST /x HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n"
REFUSED = b"HTTP/1.1 401"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
LINE = b"x-line: " + b"a" * 1000 + b"\r\n"
GOOD = b"GET /x HTTP/1.1\r\nHost: here\r\n\r\n"


async def refuse(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An application that answers before it has read anything."""
    assert scope["type"] == "http"
    head = {"status": 401, "headers": [(b"content-length", b"2")]}
    await send({"type": "http.response.start", **head})
    await send({"type": "http.response.body", "body": b"no"})


async def answer_in_parts(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An application that has read what it was asked, and takes its time to answer."""
    while (await receive())["more_body"]:
        pass
    await asyncio.sleep(0.05)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in (b"one", b"two"):
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"three"})


@asynccontextmanager
async def connection(
    head_s: float, body_s: float, app: Any = refuse
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, http=patient(head_s, body_s), log_level="warning", lifespan="off"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        try:
            yield reader, writer
        finally:
            writer.close()
            server.should_exit = True
            await serving


async def test_who_is_refused_early_may_send_the_rest_and_read_why() -> None:
    async with connection(head_s=0.3, body_s=20.0) as (reader, writer):
        writer.write(HEAD)
        for _ in range(10):
            await asyncio.sleep(0.1)
            writer.write(b"a" * 100)
        await writer.drain()
        assert (await reader.readexactly(len(REFUSED))) == REFUSED
        writer.write(HEAD + b"a" * 1000)  # the connection is as good as before
        async with asyncio.timeout(5):
            assert REFUSED in await reader.readuntil(REFUSED)


async def test_the_rest_of_a_refused_body_is_not_waited_for_without_end() -> None:
    async with connection(head_s=20.0, body_s=0.3) as (reader, writer):
        writer.write(HEAD)
        await asyncio.sleep(0.1)
        writer.write(b"a")
        async with asyncio.timeout(5):
            said = await reader.read()
    assert said.startswith(REFUSED)
    assert said.count(b"HTTP/1.1") == 1, "nothing is said on top of an answer"


def a_url_of(length: int) -> bytes:
    return b"GET /x?" + b"a" * (length - 3) + b" HTTP/1.1\r\nHost: here\r\n\r\n"


UNREADABLE = {
    "a URL that is too long": (a_url_of(65_536), "The URL is too long: it may have 65,535 bytes."),
    "a URL far too long": (a_url_of(90_000), "The URL is too long"),
    "a URL that is none": (GOOD.replace(b"/x", b"http://["), "The head of the request"),
    "another protocol": (b"\x16\x03\x01\x02\x00\x01", "The head of the request"),
    "another version": (GOOD.replace(b"/1.1", b"/9.9"), "The head of the request"),
    "a header without a name": (GOOD.replace(b"Host", b""), "The head of the request"),
    "a broken chunk": (CHUNKED + b"2\r\n{}\r\nzz\r\n", "The body could not be read"),
}


@pytest.mark.parametrize(("sent", "said"), UNREADABLE.values(), ids=UNREADABLE)
async def test_what_cannot_be_read_is_told_what_is_wrong_with_it(sent: bytes, said: str) -> None:
    async with connection(head_s=5.0, body_s=5.0) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(5):
            answers = await reader.read()
    _, _, answer = answers.rpartition(b"HTTP/1.1 400 Bad Request\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    error = orjson.loads(body)["error"]
    assert error["message"].startswith(said)
    assert (error["code"], error["type"]) == ("invalid_value", "invalid_request_error")
    assert error["request_id"].encode() in head


ANSWERED = b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"


@pytest.mark.parametrize("asked", [1, 2], ids=["one", "two"])
@pytest.mark.parametrize("late_s", [0.0, 0.02, 0.08], ids=["at once", "before it", "in it"])
@pytest.mark.parametrize(
    "behind", [b"zz\r\n", a_url_of(65_536), GOOD[:-2] + LINE * 600], ids=["no head", "url", "long"]
)
async def test_what_is_no_request_does_not_get_into_the_answer_before_it(
    asked: int, late_s: float, behind: bytes
) -> None:
    """Such as the rest of a body whose length was told too small: what was asked is answered."""
    async with connection(5.0, 5.0, answer_in_parts) as (reader, writer):
        writer.write(GOOD * asked)
        await asyncio.sleep(late_s)
        writer.write(behind)
        async with asyncio.timeout(5):
            answers = await reader.read()
    assert answers.count(ANSWERED) == answers.count(b"HTTP/1.1 ") == asked
    assert answers.endswith(ANSWERED)


async def test_a_body_that_breaks_behind_an_answer_under_way_ends_the_connection() -> None:
    async with connection(5.0, 5.0, answer_in_parts) as (reader, writer):
        writer.write(GOOD + CHUNKED + b"zz\r\n")
        async with asyncio.timeout(5):
            assert await reader.read() == b""


async def test_a_url_as_long_as_it_may_be_is_read() -> None:
    async with connection(head_s=5.0, body_s=5.0) as (reader, writer):
        writer.write(a_url_of(65_535))
        async with asyncio.timeout(5):
            assert (await reader.readexactly(len(REFUSED))) == REFUSED


async def test_a_head_has_an_end() -> None:
    async with connection(head_s=20.0, body_s=20.0) as (reader, writer):
        answer = asyncio.create_task(reader.readuntil(b"}}"))
        writer.write(GOOD[:-2])
        sent = 0
        async with asyncio.timeout(10):
            while not answer.done():
                writer.write(LINE)
                sent += len(LINE)
                await asyncio.sleep(0.001)
    assert answer.result().startswith(b"HTTP/1.1 400")
    assert b"The head of the request is too long" in answer.result()
    assert sent > MOST_HEAD_BYTES


async def test_a_head_of_many_lines_that_is_no_longer_than_that_is_read() -> None:
    async with connection(head_s=20.0, body_s=20.0) as (reader, writer):
        for _ in range(3):  # each head counts for itself
            writer.write(GOOD[:-2])
            for _ in range(MOST_HEAD_BYTES // len(LINE) - 1):
                writer.write(LINE)
            writer.write(b"\r\n")
            await writer.drain()
            async with asyncio.timeout(5):
                assert REFUSED in await reader.readuntil(REFUSED)


async def test_whoever_asks_after_the_end_does_not_wait_for_the_client_again() -> None:
    """The server tells of the next one there, or that this one has been answered."""
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"type": "http.disconnect"}

    presence = Presence(receive)
    presence.close()
    assert not presence.gone()
    await asyncio.sleep(0.01)
    assert (asked, presence.gone()) == (0, False)


async def test_who_reads_too_slowly_is_let_go_also_if_a_charge_was_finished_first() -> None:
    """A charge that is under way takes no notice of being cancelled."""
    presence = Presence(asyncio.Event().wait, again_s=0.02)
    charged = asyncio.Event()

    async def serve() -> None:
        presence.watch(asyncio.get_running_loop().time() + 0.02)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            charged.set()
        await asyncio.Event().wait()  # the client does not read

    serving = asyncio.create_task(serve())
    async with asyncio.timeout(5):
        await asyncio.wait([serving])
    assert serving.cancelled()
    assert charged.is_set()
    assert presence.left
    presence.close()
