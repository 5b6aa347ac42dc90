"""The transport's clocks, against a real server on a real socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from adapters.upstreams.chat import ProviderChat
from adapters.upstreams.providers import PROVIDERS, Endpoint
from adapters.upstreams.transport import Timeouts, Transport
from kyma.calls import ChatCall, Fault, Size, UpstreamError
from kyma.ledger import Hold
from kyma.money import ZERO
from kyma.ports.upstreams import Deadline
from kyma.pricing import per_token
from kyma.routing import Route
from tests.servers import black_hole

Writing = Callable[[web.StreamResponse], Coroutine[Any, Any, None]]
TEXT = b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
END = b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
ROUTE = Route("local", "m", "m", per_token("0", "0"))
CALL = ChatCall({"messages": []}, "m", True, False, Size(1, 1, 1, 1))


@asynccontextmanager
async def upstream(
    write: Writing, chunk_s: float = 0.3, first_s: float = 1.0
) -> AsyncIterator[ProviderChat]:
    async def serve(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await write(response)
        return response

    app = web.Application()
    app.router.add_post("/chat/completions", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    transport = Transport(Timeouts(connect_s=1, first_byte_s=first_s, chunk_s=chunk_s, answer_s=5))
    endpoint = Endpoint(PROVIDERS["local"], f"http://127.0.0.1:{port}", "")
    yield ProviderChat(transport, {"local": endpoint})
    await transport.close()
    await runner.cleanup()


async def read_all(chat: ProviderChat, pause_s: float = 0.0, left_s: float = 5.0) -> int:
    deadline = Deadline(asyncio.get_running_loop().time() + left_s)
    read = 0
    async with chat.stream(CALL, ROUTE, Hold("0" * 32, "a", ZERO, ZERO), deadline) as chunks:
        async for chunk in chunks:
            read += len(chunk.events)
            await asyncio.sleep(pause_s)
    return read


async def test_a_first_text_may_come_later_than_two_chunks_may_lie_apart() -> None:
    async def late(response: web.StreamResponse) -> None:
        await asyncio.sleep(0.6)
        await response.write(TEXT + END + DONE)

    async with upstream(late) as chat:
        assert await read_all(chat) == 2


async def test_comments_do_not_put_off_the_limit_of_the_first_text() -> None:
    async def trickle(response: web.StreamResponse) -> None:
        for _ in range(60):
            await response.write(b": still thinking\n\n")
            await asyncio.sleep(0.05)
        await response.write(TEXT + END + DONE)

    async with upstream(trickle) as chat:
        began = time.monotonic()
        with pytest.raises(UpstreamError) as raised:
            await read_all(chat)
        assert raised.value.fault is Fault.TIMEOUT
        assert time.monotonic() - began < 2.5


async def test_a_reader_that_pauses_is_no_stall_of_the_upstream() -> None:
    async def steady(response: web.StreamResponse) -> None:
        for _ in range(4):
            await response.write(TEXT)
            await asyncio.sleep(0.05)
        await response.write(END + DONE)

    async with upstream(steady) as chat:
        assert await read_all(chat, pause_s=0.5) == 5
    async with upstream(steady, first_s=0.2) as chat:
        assert await read_all(chat, pause_s=0.5) == 5


async def test_an_upstream_that_falls_silent_is_a_timeout() -> None:
    async def silent(response: web.StreamResponse) -> None:
        await response.write(TEXT)
        await asyncio.sleep(1.5)
        await response.write(END + DONE)

    async with upstream(silent) as chat:
        with pytest.raises(UpstreamError) as raised:
            await read_all(chat)
        assert raised.value.fault is Fault.TIMEOUT


@pytest.mark.parametrize("pause_s", [0.0, 0.1])
async def test_a_stream_ends_with_the_time_of_its_request_however_steady_it_is(
    pause_s: float,
) -> None:
    """Long before a chunk would be late, whether the reader waits or is busy."""

    async def steady(response: web.StreamResponse) -> None:
        for _ in range(60):
            await response.write(TEXT)
            await asyncio.sleep(0.05)
        await response.write(END + DONE)

    async with upstream(steady, chunk_s=9) as chat:
        began = time.monotonic()
        with pytest.raises(UpstreamError) as raised:
            await read_all(chat, pause_s, left_s=0.5)
        assert raised.value.fault is Fault.OVERDUE
        assert 0.4 < time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("ends", "complete"),
    [
        ([0, 1], True),
        ([0, 0], False),
        ([0], False),
    ],
)
async def test_each_of_two_choices_must_say_why_it_ended(ends: list[int], complete: bool) -> None:
    async def write(response: web.StreamResponse) -> None:
        for index in (0, 1):
            await response.write(TEXT.replace(b'"index":0', b'"index":%d' % index))
        for index in ends:
            await response.write(END.replace(b'"index":0', b'"index":%d' % index))
        await response.write(DONE)

    call = ChatCall({"messages": [], "n": 2}, "m", True, False, Size(1, 1, 1, 2))
    deadline = Deadline(asyncio.get_running_loop().time() + 5)
    hold = Hold("0" * 32, "a", ZERO, ZERO)
    async with upstream(write) as chat, chat.stream(call, ROUTE, hold, deadline) as chunks:
        if complete:
            assert [chunk async for chunk in chunks]
        else:
            with pytest.raises(UpstreamError, match="before the answer was complete"):
                [chunk async for chunk in chunks]


async def ask(transport: Transport, url: str, left_s: float, *, is_stream: bool) -> None:
    if not is_stream:
        await transport.post(url, {}, b"{}", left_s)
        return
    async with transport.stream(url, {}, b"{}", left_s):
        pass


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("connect_s", "left_s", "fault"),
    [(0.3, 3.0, Fault.TIMEOUT), (2.0, 0.4, Fault.OVERDUE)],
    ids=["the provider does not connect", "the request has no time left"],
)
async def test_whose_limit_a_late_connection_was_is_told_by_the_time_that_is_left(
    is_stream: bool, connect_s: float, left_s: float, fault: Fault
) -> None:
    """With less time left than a whole answer may take, as any request late in its fallbacks."""
    transport = Transport(Timeouts(connect_s, first_byte_s=60, chunk_s=60, answer_s=300))
    began = time.monotonic()
    with black_hole() as port:
        url = f"http://127.0.0.1:{port}/chat/completions"
        with pytest.raises(UpstreamError) as raised:
            await ask(transport, url, left_s, is_stream=is_stream)
    assert raised.value.fault is fault
    assert time.monotonic() - began < 2.0
    await transport.close()
