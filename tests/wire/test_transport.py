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
from kyma.calls import ChatCall, Chunk, Fault, Size, UpstreamError
from kyma.ledger import Hold
from kyma.money import ZERO
from kyma.ports.upstreams import Chunks, Deadline, Take
from kyma.pricing import per_token
from kyma.routing import Route
from tests.garbage import collected
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
    port = site._server.sockets[0].getsockname()[1]
    transport = Transport(Timeouts(connect_s=1, first_byte_s=first_s, chunk_s=chunk_s, answer_s=5))
    endpoint = Endpoint(PROVIDERS["local"], f"http://127.0.0.1:{port}", "")
    yield ProviderChat(transport, {"local": endpoint})
    await transport.close()
    await runner.cleanup()


HOLD = Hold("0" * 32, "a", ZERO, ZERO)


async def to_its_end(chunks: Chunks) -> None:
    while await chunks.next() is not None:
        pass


async def read_all(
    chat: ProviderChat, pause_s: float = 0.0, left_s: float = 5.0, take: Take | None = None
) -> int:
    deadline = Deadline(asyncio.get_running_loop().time() + left_s)
    read = 0
    async with chat.stream(CALL, ROUTE, HOLD, deadline) as chunks:
        while (chunk := await chunks.next(take)) is not None:
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


@pytest.mark.parametrize(
    ("pause_s", "take"),
    [(0.0, None), (0.1, None), (0.0, lambda _: True)],
    ids=["it waits", "it is busy", "its chunks are taken"],
)
async def test_a_stream_ends_with_the_time_of_its_request_however_steady_it_is(
    pause_s: float, take: Take | None
) -> None:
    """Long before a chunk would be late, whatever the reader does."""

    async def steady(response: web.StreamResponse) -> None:
        for _ in range(60):
            await response.write(TEXT)
            await asyncio.sleep(0.05)
        await response.write(END + DONE)

    async with upstream(steady, chunk_s=9) as chat:
        began = time.monotonic()
        with pytest.raises(UpstreamError) as raised:
            await read_all(chat, pause_s, left_s=0.5, take=take)
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
    async with upstream(write) as chat, chat.stream(call, ROUTE, HOLD, deadline) as chunks:
        if complete:
            await to_its_end(chunks)
        else:
            with pytest.raises(UpstreamError, match="before the answer was complete"):
                await to_its_end(chunks)


class Taker:
    """Takes what it is offered, all of it or some."""

    def __init__(self, takes: Callable[[int], bool] = lambda _: True) -> None:
        self._takes = takes
        self.offered = 0
        self.taken: list[Chunk] = []

    def __call__(self, chunk: Chunk) -> bool:
        self.offered += 1
        if self._takes(self.offered):
            self.taken.append(chunk)
            return True
        return False


def numbered(number: int) -> bytes:
    return TEXT.replace(b'"hi"', b'"hi%d"' % number)


async def slowly(response: web.StreamResponse, count: int) -> None:
    for number in range(count):
        await response.write(numbered(number))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("every", [1, 2, 3])
async def test_what_is_taken_on_the_spot_does_not_come_again_and_all_comes_in_turn(
    every: int,
) -> None:
    """Some chunks are taken, some are left, and some cannot be offered: the first, and the end."""

    async def write(response: web.StreamResponse) -> None:
        await slowly(response, 20)
        await response.write(END + DONE)

    taker = Taker(lambda count: count % every == 0)
    events: list[bytes] = []

    def take(chunk: Chunk) -> bool:
        takes = taker(chunk)
        if takes:
            events.extend(chunk.events)
        return takes

    deadline = Deadline(asyncio.get_running_loop().time() + 5)
    async with upstream(write) as chat, chat.stream(CALL, ROUTE, HOLD, deadline) as chunks:
        while (chunk := await chunks.next(take)) is not None:
            events.extend(chunk.events)
    assert [f'"hi{number}"'.encode() in event for number, event in enumerate(events[:20])] == (
        [True] * 20
    )
    assert len(events) == 21
    assert b'"finish_reason":"stop"' in events[20]
    assert all(event.count(b'"id":"chatcmpl-' + HOLD.id.encode()) == 1 for event in events)
    for one in taker.taken:
        texts = [event.split(b'"content":"')[1].split(b'"')[0] for event in one.events]
        assert (one.output_bytes, one.finished) == (len(b"".join(texts)), False)
    # A loop that was held up may read two chunks as one.
    assert taker.offered >= 10
    assert len(taker.taken) == taker.offered // every


async def test_an_upstream_whose_chunks_are_all_taken_is_not_silent() -> None:
    async def steady(response: web.StreamResponse) -> None:
        await slowly(response, 40)
        await response.write(END + DONE)

    taker = Taker()
    async with upstream(steady, chunk_s=0.3) as chat:
        assert await read_all(chat, take=taker) < 10
    assert len(taker.taken) > 20


async def test_an_upstream_that_falls_silent_after_chunks_that_were_taken_is_a_timeout() -> None:
    async def silent(response: web.StreamResponse) -> None:
        await slowly(response, 5)
        await asyncio.sleep(1.5)
        await response.write(END + DONE)

    taker = Taker()
    async with upstream(silent) as chat:
        began = time.monotonic()
        with pytest.raises(UpstreamError) as raised:
            await read_all(chat, take=taker)
        assert raised.value.fault is Fault.TIMEOUT
        assert taker.taken
        assert time.monotonic() - began < 1.2


async def test_a_stream_that_is_over_leaves_no_garbage() -> None:
    """Whoever takes its chunks knows it, and it knows them."""

    async def write(response: web.StreamResponse) -> None:
        await slowly(response, 4)
        await response.write(END + DONE)

    async with upstream(write) as chat:
        taker = Taker()
        await read_all(chat, take=taker)
        with collected() as found:
            for _ in range(3):
                await read_all(chat, take=taker)
        assert found == {}
        assert taker.taken


async def test_nothing_is_offered_before_the_first_text_or_to_a_reader_that_does_not_wait() -> None:
    async def write(response: web.StreamResponse) -> None:
        role = TEXT.replace(b'"content":"hi"', b'"role":"assistant"')
        for _ in range(3):
            await response.write(role)
            await asyncio.sleep(0.02)
        await response.write(TEXT)
        await asyncio.sleep(0.1)
        await slowly(response, 5)
        await response.write(END + DONE)

    taker = Taker()
    deadline = Deadline(asyncio.get_running_loop().time() + 5)
    async with upstream(write) as chat, chat.stream(CALL, ROUTE, HOLD, deadline) as chunks:
        for _ in range(4):
            chunk = await chunks.next(taker)
        assert chunk is not None
        assert chunk.output_bytes == 2
        await asyncio.sleep(0.5)
        assert taker.offered == 0
        rest = 0
        while (chunk := await chunks.next(taker)) is not None:
            rest += len(chunk.events)
        assert (rest, taker.offered) == (6, 0)


async def test_who_was_cancelled_is_offered_nothing_more() -> None:
    async def write(response: web.StreamResponse) -> None:
        await slowly(response, 15)
        await response.write(END + DONE)

    taker = Taker()
    deadline = Deadline(asyncio.get_running_loop().time() + 5)
    async with upstream(write) as chat, chat.stream(CALL, ROUTE, HOLD, deadline) as chunks:
        assert await chunks.next() is not None
        waiting = asyncio.ensure_future(chunks.next(taker))
        while taker.offered < 3:
            await asyncio.sleep(0.005)
        waiting.cancel()
        await asyncio.wait([waiting])
        offered = taker.offered
        rest = 0
        while (chunk := await chunks.next()) is not None:
            rest += len(chunk.events)
        assert taker.offered == offered
        taken = sum(len(one.events) for one in taker.taken)
        assert 1 + taken + rest == 16


async def test_whoever_cannot_deal_with_a_chunk_ends_the_answer_as_a_broken_one() -> None:
    def broken(_: Chunk) -> bool:
        raise RuntimeError("our mistake")

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # it is logged
    async with upstream(lambda response: slowly(response, 20)) as chat:
        with pytest.raises(UpstreamError) as raised:
            await read_all(chat, take=broken)
    assert raised.value.fault is Fault.BROKEN


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
