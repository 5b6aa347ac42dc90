"""The HTTP/1.1 client against a server that says exactly what a test tells it, on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import socket
import ssl
import struct
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from adapters.upstreams import http1
from adapters.upstreams.http1 import Connection, Pool
from adapters.upstreams.transport import ERROR_BODY_S, TICK_S, Timeouts, Transport, classified
from kyma.calls import Fault, UpstreamError

TIMEOUTS = Timeouts(connect_s=1.0, first_byte_s=1.0, chunk_s=0.5, answer_s=2.0)
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
BEGUN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n7;note=x\r\n, world\r\n"
)
END = b"0\r\nX-Trailer: 1\r\n\r\n"
CHUNKED = BEGUN + END
TO_THE_END = b"HTTP/1.0 200 OK\r\nRetry-After: 7\r\n\r\nhello"
RESET = b"<reset>"

Steps = Sequence[bytes | float]
"""What a server says to one request: bytes, seconds of silence, RESET. Then it closes, or not."""


class Server:
    """Plays one list of steps for each request, in turn; the last one again and again."""

    def __init__(self, *answers: Steps, closes: bool = False) -> None:
        self._answers = list(answers)
        self._closes = closes
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.spoken: str | None = None
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        tls = writer.get_extra_info("ssl_object")
        self.spoken = tls.selected_alpn_protocol() if tls is not None else None
        try:
            while (request := await _request(reader)) is not None:
                self.requests.append(request)
                steps = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                for step in steps:
                    if step == RESET:
                        _reset(writer)
                    elif isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                    elif not await _silent(reader, step):
                        return
                if self._closes:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()


async def _silent(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Wait; whether the other side is still there."""
    try:
        async with asyncio.timeout(seconds):
            return bool(await reader.read(1))
    except TimeoutError:
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close without waiting for what is unsent: the other side is told that it broke."""
    transport: Any = writer.transport
    opened: socket.socket = transport.get_extra_info("socket")
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _request(reader: asyncio.StreamReader) -> bytes | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    (length,) = [
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    return head + await reader.readexactly(length)


@asynccontextmanager
async def listening(
    server: Server, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Server]:
    listener = await asyncio.start_server(server.serve, host, 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    server.url = f"{scheme}://localhost:{listener.sockets[0].getsockname()[1]}/v1/x?y=%20z"
    yield server
    listener.close()


Play = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a test's coroutine on a loop of its own."""

    def run(what: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await what()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())

    return run


@asynccontextmanager
async def calling(
    *answers: Steps, closes: bool = False, timeouts: Timeouts = TIMEOUTS
) -> AsyncIterator[tuple[Server, Transport]]:
    async with listening(Server(*answers, closes=closes)) as server:
        transport = Transport(timeouts)
        yield server, transport
        await transport.close()
        await _until(lambda: server.open == 0)  # no socket is left behind


async def _until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.005)


async def streamed(transport: Transport, url: str, pause_s: float = 0.0) -> bytes:
    body = b""
    async with transport.stream(url, {}, b"{}", 5.0) as stream:
        assert stream.status == 200
        while data := await stream.read(first=not body):
            body += data
            await asyncio.sleep(pause_s)
    return body


async def fault_of(what: Awaitable[object]) -> tuple[Fault, str]:
    with pytest.raises(UpstreamError) as raised:
        await what
    return raised.value.fault, str(raised.value)


def test_what_is_sent(play: Play) -> None:
    async def run() -> None:
        async with calling([PLAIN]) as (server, transport):
            answer = await transport.post(server.url, {"A": "1", "B": "zwei"}, b"{}", 5.0)
            assert answer == (200, b"hello", None)
            port = server.url.split(":")[2].split("/")[0]
            (request,) = server.requests
            assert request.split(b"\r\n") == [
                b"POST /v1/x?y=%20z HTTP/1.1",
                b"Host: localhost:" + port.encode(),
                b"Accept-Encoding: identity",
                b"A: 1",
                b"B: zwei",
                b"Content-Length: 2",
                b"",
                b"{}",
            ]

    play(run)


def test_a_value_with_a_line_break_is_not_sent(play: Play) -> None:
    async def run() -> None:
        async with calling([PLAIN]) as (server, transport):
            for value in ("a\r\nHost: b", "a\nb", "a\rb", "a\0b"):
                asking = transport.post(server.url, {"A": value}, b"{}", 5.0)
                assert "line break" in (await fault_of(asking))[1]
            assert server.requests == []

    play(run)


@pytest.mark.parametrize(
    "url", ["ftp://localhost/", "localhost:80/", "http://", "http://localhost:99999/"]
)
async def test_what_is_no_http_address_is_not_asked(url: str) -> None:
    fault, _ = await fault_of(Transport(TIMEOUTS).post(url, {}, b"", 1.0))
    assert fault is Fault.BROKEN


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://one.example/v1", "one.example"),
        ("http://one.example:80/v1", "one.example"),
        ("https://one.example:443/v1", "one.example"),
        ("https://one.example:80/v1", "one.example:80"),
        ("http://[::1]:8080/v1", "[::1]:8080"),
        ("http://me:secret@one.example:8080/v1", "one.example:8080"),
    ],
)
def test_how_a_host_is_called(url: str, told: str) -> None:
    head = http1._Target(url).head("POST", {}, 7)
    assert head.split(b"\r\n")[:2] == [b"POST /v1 HTTP/1.1", b"Host: " + told.encode()]


async def test_a_key_of_any_letters_is_sent_and_refused_by_its_provider() -> None:
    async with calling([PLAIN]) as (server, transport):
        await transport.post(server.url, {"Authorization": "Bearer \u043a\u043b"}, b"{}", 5.0)
        assert "Bearer \u043a\u043b".encode() in server.requests[0]


def test_two_hosts_at_one_address_have_connections_of_their_own() -> None:
    """Or one provider would read the other's key, and what its customers ask."""
    loop = _Names()

    async def run() -> None:
        async with listening(Server([PLAIN])) as server:
            pool = Pool()
            urls = [
                server.url.replace("localhost", name) for name in ("one.example", "two.example")
            ]
            for url in urls * 2:
                await _asked(pool, url)
            assert server.connections == 2
            hosts = [request.split(b"\r\n")[1].split(b":")[1] for request in server.requests]
            assert hosts == [b" one.example", b" two.example"] * 2
            with pytest.raises(OSError):
                await _asked(pool, urls[0].replace("http:", "https:"))
            assert len(server.requests) == 4
            await pool.close()

    _run_on(loop, run)


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED], ids=["length", "chunked"])
def test_a_connection_is_asked_again(play: Play, answer: bytes) -> None:
    async def run() -> None:
        async with calling([answer]) as (server, transport):
            first = await transport.post(server.url, {}, b"{}", 5.0)
            for _ in range(3):
                assert await transport.post(server.url, {}, b"{}", 5.0) == first
                assert await streamed(transport, server.url) == first[1]
            assert len(server.requests) == 7
            assert server.connections == 1

    play(run)


def test_two_questions_at_once_have_two_connections_and_the_later_ones_share_them(
    play: Play,
) -> None:
    async def run() -> None:
        async with calling([0.05, PLAIN]) as (server, transport):
            for _ in range(3):
                answers = await asyncio.gather(
                    *(transport.post(server.url, {}, b"{}", 5.0) for _ in range(4))
                )
                assert {answer[1] for answer in answers} == {b"hello"}
            assert server.connections == 4

    play(run)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        PLAIN + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        PLAIN + b"\x00",
    ],
    ids=["told to close", "1.0", "a second answer", "more than the answer"],
)
def test_a_connection_that_cannot_be_trusted_again_is_closed(play: Play, answer: bytes) -> None:
    async def run() -> None:
        async with calling([answer]) as (server, transport):
            for _ in range(3):
                assert (await transport.post(server.url, {}, b"{}", 5.0))[1] == b"hello"
            assert server.connections == 3

    play(run)


def test_what_comes_while_nothing_is_asked_ends_the_connection(play: Play) -> None:
    async def run() -> None:
        late = [PLAIN, 0.05, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"]
        async with calling(late, [PLAIN]) as (server, transport):
            await transport.post(server.url, {}, b"{}", 5.0)
            await _until(lambda: server.open == 0)
            assert (await transport.post(server.url, {}, b"{}", 5.0))[:2] == (200, b"hello")
            assert server.connections == 2

    play(run)


def test_a_connection_that_its_server_closed_meanwhile_is_not_asked(play: Play) -> None:
    async def run() -> None:
        async with calling([PLAIN], closes=True) as (server, transport):
            for count in range(1, 4):
                assert (await transport.post(server.url, {}, b"{}", 5.0))[1] == b"hello"
                await _until(lambda: server.open == 0)
                await asyncio.sleep(0.02)
                assert server.connections == count

    play(run)


def test_a_connection_is_idle_for_so_long_and_no_longer(play: Play) -> None:
    async def run() -> None:
        async with listening(Server([PLAIN])) as server:
            pool = Pool(idle_s=0.2)
            await _asked(pool, server.url)
            await asyncio.sleep(0.1)
            await _asked(pool, server.url)
            assert server.connections == 1
            await _until(lambda: server.open == 0)  # nobody asked: the sweep closed it
            await _asked(pool, server.url)
            assert server.connections == 2
            await pool.close()

    play(run)


async def _asked(pool: Pool, url: str) -> None:
    answer = await pool.ask("POST", url, {}, b"{}", 1.0)
    assert await answer.whole() == b"hello"
    answer.release()


def test_an_interim_answer_is_not_the_answer(play: Play) -> None:
    async def run() -> None:
        interim = b"HTTP/1.1 103 Early Hints\r\nContent-Encoding: gzip\r\nRetry-After: 9\r\n\r\n"
        async with calling([b"HTTP/1.1 100 Continue\r\n\r\n", 0.02, interim + PLAIN]) as (
            server,
            transport,
        ):
            for _ in range(2):
                answer = await transport.post(server.url, {}, b"{}", 5.0)
                assert answer == (200, b"hello", None)
            assert server.connections == 1

    play(run)


def test_a_body_without_a_length_ends_with_its_connection(play: Play) -> None:
    async def run() -> None:
        async with calling([TO_THE_END[:-2], 0.02, TO_THE_END[-2:]], closes=True) as (
            server,
            transport,
        ):
            assert await transport.post(server.url, {}, b"{}", 5.0) == (200, b"hello", "7")
            assert await streamed(transport, server.url) == b"hello"

    play(run)


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN.replace(b"\r\n\r\n", b"\r\nContent-Encoding: none\r\n\r\n"),
        PLAIN.replace(b"\r\n\r\n", b"\r\nContent-Encoding: Identity\r\n\r\n"),
        PLAIN.replace(b"\r\n\r\n", b"\r\nContent-Encoding:\r\n\r\n"),
        PLAIN.replace(b"\r\n", b"\n"),
        PLAIN.replace(b"\r\n\r\n", b"\r\nX-Folded: a\r\n b\r\n\r\n"),
        PLAIN.replace(b"\r\n\r\n", b"\r\nX-Odd: a\x01b\r\n\r\n"),
        CHUNKED.replace(b"5\r\nhello", b"5 \r\nhello"),
        CHUNKED.replace(b"chunked", b"Chunked"),
    ],
)
def test_servers_that_do_not_write_to_the_letter_are_understood(play: Play, answer: bytes) -> None:
    async def run() -> None:
        async with calling([answer]) as (server, transport):
            for _ in range(2):
                assert (await transport.post(server.url, {}, b"{}", 5.0))[1].startswith(b"hello")
                assert (await streamed(transport, server.url)).startswith(b"hello")
            assert server.connections == 1

    play(run)


REFUSAL = b"HTTP/1.1 429 Busy\r\nRetry-After: 7\r\nRetry-After: 9\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([REFUSAL + b'{"error":'], b'{"error":'),
        ([REFUSAL + b'{"err'], b'{"err'),
        ([REFUSAL, 0.02, RESET], b""),
        ([REFUSAL.replace(b"Content-L", b"Content-Encoding: gzip\r\nContent-L") + b"x" * 9], b""),
        ([REFUSAL + b'{"err', 9.0], b'{"err'),
    ],
    ids=["whole", "cut", "broken", "encoded", "without an end"],
)
def test_a_refusal_is_one_whatever_becomes_of_its_body(
    play: Play, steps: Steps, said: bytes
) -> None:
    async def run() -> None:
        timeouts = Timeouts(connect_s=1, first_byte_s=0.5, chunk_s=9, answer_s=0.5)
        async with calling(steps, closes=True, timeouts=timeouts) as (server, transport):
            assert await transport.post(server.url, {}, b"{}", 5.0) == (429, said, "7")
            await asyncio.sleep(0.05)
            async with transport.stream(server.url, {}, b"{}", 5.0) as stream:
                assert (stream.status, stream.retry_after) == (429, "7")
                assert await stream.error_body() == said

    play(run)


def test_a_refusal_is_not_waited_for_without_end(play: Play) -> None:
    async def run() -> None:
        timeouts = Timeouts(connect_s=1, first_byte_s=60, chunk_s=60, answer_s=60)
        async with calling([REFUSAL + b"{", 30.0], timeouts=timeouts) as (server, transport):
            began = time.monotonic()
            async with transport.stream(server.url, {}, b"{}", 99.0) as stream:
                assert await stream.error_body() == b"{"
            assert time.monotonic() - began < 2 * ERROR_BODY_S

    play(run)


def test_a_body_that_ends_with_its_connection_does_not_end_with_our_patience(play: Play) -> None:
    """Text came, the time is over: that is our deadline, not the provider's end."""

    async def run() -> None:
        async with (
            calling([TO_THE_END, 9.0]) as (server, transport),
            transport.stream(server.url, {}, b"{}", 0.2) as stream,
        ):
            assert await stream.read(first=True) == b"hello"
            await asyncio.sleep(0.4)
            assert (await fault_of(stream.read()))[0] is Fault.OVERDUE

    play(run)


def test_what_follows_a_body_has_a_limit_as_its_head_has(play: Play) -> None:
    async def run() -> None:
        endless = [BEGUN + b"0\r\nX-Trailer: ", *[b"x" * 10_000] * 50]
        async with calling(endless) as (server, transport):
            fault, words = await fault_of(transport.post(server.url, {}, b"{}", 5.0))
            assert (fault, "more than 131072 bytes" in words) == (Fault.BROKEN, True)

    play(run)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], "closed before its answer"),
        ([b"HTTP/1.1 200 OK\r\nContent-Le"], "closed before its answer"),
        ([PLAIN[:-1]], "closed in the middle of its answer"),
        ([CHUNKED.replace(b"chunked", b"Chunked")[:-2]], "closed in the middle of its answer"),
        ([BEGUN], "closed in the middle of its answer"),
        ([TO_THE_END, 0.02, RESET], "in the middle of its answer"),
        ([PLAIN[:-1], 0.02, RESET], "in the middle of its answer"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "not an answer in HTTP/1.1"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello"], "not an answer in HTTP/1.1"),
        (
            [CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n", 1)],
            "not an answer in HTTP/1.1",
        ),
        ([CHUNKED.replace(b"5\r\nhello", b"z\r\nhello")], "not an answer in HTTP/1.1"),
        ([b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"], "HTTP/1.1"),
        ([PLAIN.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")], "is encoded"),
        ([b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 30_000], "a head of more than"),
    ],
)
def test_what_is_no_answer_is_the_providers_failure(play: Play, steps: Steps, words: str) -> None:
    async def run() -> None:
        async with calling(steps, closes=True) as (server, transport):
            for ask in (
                lambda: transport.post(server.url, {}, b"{}", 5.0),
                lambda: streamed(transport, server.url),
            ):
                fault, told = await fault_of(ask())
                assert fault is Fault.BROKEN
                assert words in told

    play(run)


def test_what_came_before_a_break_is_read_first(play: Play) -> None:
    async def run() -> None:
        async with (
            calling([BEGUN, 0.02, RESET]) as (server, transport),
            transport.stream(server.url, {}, b"{}", 5.0) as stream,
        ):
            await asyncio.sleep(0.1)
            assert await stream.read(first=True) == b"hello, world"
            assert (await fault_of(stream.read()))[0] is Fault.BROKEN
            assert (await fault_of(stream.read()))[0] is Fault.BROKEN

    play(run)


def test_a_server_that_is_not_there(play: Play) -> None:
    async def run() -> None:
        async with listening(Server([PLAIN])) as server:
            pass
        transport = Transport(TIMEOUTS)
        assert (await fault_of(transport.post(server.url, {}, b"{}", 5.0)))[0] is Fault.BROKEN
        no_such = transport.post("http://nobody.invalid/", {}, b"{}", 5.0)
        assert (await fault_of(no_such))[0] is Fault.BROKEN
        await transport.close()

    play(run)


@pytest.mark.parametrize("steps", [[5.0], [PLAIN[:-1], 5.0], [PLAIN[:20], 5.0]])
def test_a_whole_answer_that_takes_too_long(play: Play, steps: Steps) -> None:
    async def run() -> None:
        timeouts = Timeouts(connect_s=1, first_byte_s=9, chunk_s=9, answer_s=0.2)
        async with calling(steps, timeouts=timeouts) as (server, transport):
            for left_s, expected in ((5.0, Fault.TIMEOUT), (0.1, Fault.OVERDUE)):
                began = time.monotonic()
                fault, _ = await fault_of(transport.post(server.url, {}, b"{}", left_s))
                assert fault is expected
                assert time.monotonic() - began < 2.0

    play(run)


def test_whoever_leaves_closes_the_connection(play: Play) -> None:
    async def run() -> None:
        async with calling([PLAIN[:-1], 9.0]) as (server, transport):
            for what in (
                lambda: transport.post(server.url, {}, b"{}", 5.0),
                lambda: streamed(transport, server.url),
            ):
                asking = asyncio.ensure_future(what())
                await _until(lambda: server.open == 1)
                await asyncio.sleep(0.05)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                await _gone(transport)

    play(run)


async def _gone(transport: Transport) -> None:
    open_ones: set[Connection] = transport._pool._open
    await _until(lambda: not open_ones)


def test_whoever_was_cancelled_may_read_on(play: Play) -> None:
    async def run() -> None:
        steps = [BEGUN, 0.2, END]
        async with (
            calling(steps) as (server, transport),
            transport.stream(server.url, {}, b"{}", 5.0) as stream,
        ):
            assert await stream.read(first=True) == b"hello, world"
            reading = asyncio.ensure_future(stream.read())
            await asyncio.sleep(0.05)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            assert await stream.read() == b""

    play(run)


def test_what_comes_is_offered_to_whoever_waits_and_read_if_it_is_not_taken(play: Play) -> None:
    """In turn, whole, and once; what comes with the end is read, for the reader must wake."""

    async def run() -> None:
        pieces = [b"%d;" % number for number in range(12)]
        steps: list[bytes | float] = [BEGUN]
        for piece in pieces:
            steps += [0.02, b"%x\r\n%b\r\n" % (len(piece), piece)]
        steps += [0.02, b"4\r\nlast\r\n" + END]
        offered: list[bytes] = []
        got: list[bytes] = []

        def offer(data: bytes) -> bool:
            offered.append(data)
            takes = len(offered) % 3 != 0
            if takes:
                got.append(data)
            return takes

        async with calling(steps) as (server, transport):
            async with transport.stream(server.url, {}, b"{}", 5.0) as stream:
                while data := await stream.read(first=not got, offer=offer if got else None):
                    got.append(data)
            assert b"".join(got) == b"hello, world" + b"".join(pieces) + b"last"
            assert b"".join(offered) == b"".join(pieces)
            assert len(offered) >= 6  # two pieces may be read at once
            assert (await transport.post(server.url, {}, b"{}", 5.0))[0] == 200
            assert server.connections == 1

    play(run)


def test_much_that_is_taken_is_not_held_against_its_server(play: Play) -> None:
    """Nothing of it is unread, so its socket need not wait."""

    async def run() -> None:
        size = http1.MOST_UNREAD_BYTES // 2
        piece = b"%x\r\n%b\r\n" % (size, b"x" * size)
        steps = [BEGUN, 0.02, *[piece] * 40, 0.05, END]
        taken = 0

        def offer(data: bytes) -> bool:
            nonlocal taken
            taken += len(data)
            return True

        async with (
            calling(steps) as (server, transport),
            transport.stream(server.url, {}, b"{}", 9.0) as stream,
        ):
            assert await stream.read(first=True) == b"hello, world"
            assert await stream.read(offer=offer) == b""
            assert taken == 40 * size

    play(run)


async def test_what_is_offered_and_left_counts_as_unread_and_a_break_comes_after_it() -> None:
    connection = Connection([])
    connection.connection_made(_Wire())
    answer = connection.ask(b"", b"")
    connection.data_received(BEGUN)
    assert answer.taken() == b"hello, world"
    taking = answer.coming(http1.Wants.BYTES, lambda _: True)
    connection.data_received(b"3\r\ntwo\r\n")
    assert not taking.done()
    assert (answer._unread, answer.taken()) == (0, b""), "it was taken"
    offered: list[bytes] = []
    waiting = answer.coming(http1.Wants.BYTES, lambda data: bool(offered.append(data)))
    connection.data_received(b"3\r\none\r\n")
    assert waiting.done()
    connection.data_received(b"3\r\ntwo\r\n3\r\nthr\r\nno chunk")
    assert offered == [b"one"], "it is awake by now"
    assert answer._unread == 9
    assert answer.taken() == b"onetwothr"
    with pytest.raises(ConnectionError, match="not an answer"):
        answer.coming(http1.Wants.BYTES)


def test_a_body_that_is_not_read_makes_its_server_wait(play: Play) -> None:
    """Ten megabytes for a client that does not read: no more than the limit is held for it."""

    async def run() -> None:
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        steps = [CHUNKED.split(b"\r\n\r\n")[0] + b"\r\n\r\n", *[piece] * 160, b"0\r\n\r\n"]
        async with calling(steps) as (server, transport):
            async with transport.stream(server.url, {}, b"{}", 9.0) as stream:
                read = 0
                for _ in range(3):
                    await asyncio.sleep(0.1)
                    (connection,) = transport._pool._open
                    assert connection._answer is not None
                    held = sum(map(len, connection._answer._pieces))
                    # A read of the loop's (256 KiB at most) more than the limit.
                    assert http1.MOST_UNREAD_BYTES < held <= 2 * http1.MOST_UNREAD_BYTES
                    read += len(await stream.read(first=not read))
                while data := await stream.read(first=not read):
                    read += len(data)
                assert read == 160 * 0x10000
            assert (await transport.post(server.url, {}, b"{}", 5.0))[1] == b"x" * read
            assert server.connections == 1

    play(run)


async def test_a_whole_answer_has_a_limit() -> None:
    connection = Connection([])
    wire = _Wire()
    connection.connection_made(wire)
    reading = asyncio.ensure_future(connection.ask(b"", b"").whole())
    await asyncio.sleep(0)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    piece, count = b"x" * 2**24, http1.MOST_WHOLE_BYTES // 2**24
    for _ in range(count):
        connection.data_received(piece)
        assert wire.is_open
    connection.data_received(b"x")
    assert not wire.is_open
    with pytest.raises(ConnectionError, match=f"more than {http1.MOST_WHOLE_BYTES} bytes"):
        await reading


def test_a_large_request_goes_out_as_it_can_be_taken(play: Play) -> None:
    async def run() -> None:
        body = bytes(range(256)) * 40_000
        async with calling([PLAIN]) as (server, transport):
            for _ in range(2):
                assert (await transport.post(server.url, {}, body, 9.0))[1] == b"hello"
            assert [request.endswith(body) for request in server.requests] == [True, True]
            assert server.connections == 1

    play(run)


def test_an_answer_before_its_question_was_read_ends_the_connection(play: Play) -> None:
    """Or the rest of the question would be read as the next one."""

    async def run() -> None:
        connections = 0

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
            with contextlib.suppress(ConnectionError):
                await writer.drain()
                await asyncio.sleep(0.5)
            writer.close()

        listener = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=2**10)
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        transport = Transport(TIMEOUTS)
        for count in (1, 2):
            answer = await transport.post(url, {}, b"x" * 30_000_000, 5.0)
            assert (answer, connections) == ((413, b"no", None), count)
        await transport.close()
        listener.close()

    play(run)


@given(st.sets(st.integers(1, len(CHUNKED) - 1), max_size=8))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: set[int]) -> None:
    """One connection, the same answer twice, each in pieces."""

    async def run() -> None:
        connection = Connection([])
        connection.connection_made(_Wire())
        for _ in range(2):
            answer = connection.ask(b"", b"")
            edges = [0, *sorted(cuts), len(CHUNKED)]
            read = b""
            for begin, end in itertools.pairwise(edges):
                connection.data_received(CHUNKED[begin:end])
                read += answer.taken()
            assert (answer.status, read, answer.complete) == (200, b"hello, world", True)
            assert answer.headers[b"content-type"] == b"text/event-stream"
            assert b"x-trailer" not in answer.headers
            answer.release()
        assert connection._idle == [connection, connection]

    asyncio.run(run())


class _Wire:
    """A transport that is open and takes everything."""

    def __init__(self) -> None:
        self.is_open = True
        self.unsent = 0

    def writelines(self, _: Sequence[bytes]) -> None: ...

    def abort(self) -> None:
        self.is_open = False

    def is_closing(self) -> bool:
        return not self.is_open

    def get_write_buffer_size(self) -> int:
        return self.unsent


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of localhost, signed by itself; the key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def _serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def test_tls_with_a_certificate_that_is_trusted(play: Play, certificate: Path) -> None:
    async def run() -> None:
        async with listening(Server([CHUNKED]), _serving(certificate)) as server:
            transport = Transport(TIMEOUTS, ssl.create_default_context(cafile=certificate))
            body = b"x" * 3_000_000
            for _ in range(3):
                assert (await transport.post(server.url, {}, body, 5.0))[1] == b"hello, world"
                assert await streamed(transport, server.url) == b"hello, world"
            assert (server.connections, server.spoken) == (1, "http/1.1")
            assert server.requests[0].endswith(body)
            await transport.close()
            await _until(lambda: server.open == 0)

    play(run)


@pytest.mark.parametrize("whose", ["nobody's", "another host's"])
def test_tls_with_a_certificate_that_is_not(play: Play, certificate: Path, whose: str) -> None:
    async def run() -> None:
        async with listening(Server([PLAIN]), _serving(certificate)) as server:
            trusted = None if whose == "nobody's" else certificate
            url = server.url if trusted is None else server.url.replace("localhost", "127.0.0.1")
            transport = Transport(TIMEOUTS, ssl.create_default_context(cafile=trusted))
            fault, words = await fault_of(transport.post(url, {}, b"{}", 5.0))
            assert fault is Fault.BROKEN
            assert "certificate verify failed" in words
            assert server.requests == []
            await transport.close()

    play(run)


def test_a_handshake_that_does_not_end_is_a_connection_that_does_not_come(play: Play) -> None:
    async def run() -> None:
        there = 0

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal there
            there += 1
            with contextlib.suppress(ConnectionError):
                await reader.read()
            there -= 1
            writer.close()

        listener = await asyncio.start_server(silent, "127.0.0.1", 0)
        url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        timeouts = Timeouts(connect_s=0.2, first_byte_s=9, chunk_s=9, answer_s=9)
        transport = Transport(timeouts)
        began = time.monotonic()
        assert (await fault_of(transport.post(url, {}, b"{}", 9.0)))[0] is Fault.TIMEOUT
        left = asyncio.ensure_future(transport.post(url, {}, b"{}", 9.0))
        await _until(lambda: there > 0)
        await asyncio.sleep(0.05)
        left.cancel()
        await asyncio.wait([left])
        await _until(lambda: there == 0)  # at once, without a leave that would take half a minute
        assert time.monotonic() - began < 2.0
        await transport.close()
        listener.close()

    play(run)


def test_a_reader_that_was_left_behind_does_not_read_the_next_answer(play: Play) -> None:
    """Two customers' answers follow each other on one connection."""

    async def run() -> None:
        second = PLAIN.replace(b"hello", b"other")
        async with listening(Server([PLAIN], [0.05, second])) as server:
            pool = Pool()
            first = await pool.ask("POST", server.url, {}, b"{}", 1.0)
            await _until(lambda: first.complete)
            first.release()
            other = await pool.ask("POST", server.url, {}, b"{}", 1.0)
            first.release()
            first.expire("too late")
            assert first.taken() == await first.whole() == b""
            assert await other.whole() == b"other"
            assert server.connections == 1
            other.release()
            await pool.close()

    play(run)


def test_a_reader_that_waits_while_its_answer_is_given_up_is_told(play: Play) -> None:
    async def run() -> None:
        async with calling([BEGUN, 5.0]) as (server, transport):
            async with transport.stream(server.url, {}, b"{}", 5.0) as stream:
                assert await stream.read(first=True)
                reading = asyncio.ensure_future(stream.read())
                await asyncio.sleep(0.02)
            fault, words = await fault_of(reading)
            assert (fault, "given up" in words) == (Fault.BROKEN, True)

    play(run)


def test_a_question_on_a_closed_connection_is_not_answered() -> None:
    async def run() -> None:
        connection = Connection([])
        wire = _Wire()
        connection.connection_made(wire)
        wire.is_open = False
        with pytest.raises(ConnectionResetError, match="before its answer"):
            await connection.ask(b"", b"").whole()

    asyncio.run(run())


@pytest.mark.parametrize("how", ["closed", "unsent", "unsent below TLS"])
def test_a_connection_that_was_closed_or_did_not_send_all_is_not_kept(how: str) -> None:
    async def run() -> None:
        idle: list[Connection] = []
        connection = Connection(idle)
        wire, below = _Wire(), _Wire()
        connection.connection_made(wire)
        connection.socket = below
        answer = connection.ask(b"", b"")
        connection.data_received(PLAIN)
        wire.is_open = how != "closed"
        wire.unsent, below.unsent = int(how == "unsent"), int(how == "unsent below TLS")
        answer.release()
        assert (idle, wire.is_open) == ([], False)

    asyncio.run(run())


def test_whoever_only_wants_the_status_leaves_nothing_behind(play: Play) -> None:
    async def run() -> None:
        async with calling([PLAIN[:-1], 9.0]) as (server, transport):
            assert await transport.get(server.url, {}, 5.0) == 200
            await _until(lambda: server.open == 0)

    play(run)


def test_a_pool_that_was_closed_has_nothing_left(play: Play) -> None:
    async def run() -> None:
        async with listening(Server([PLAIN], [BEGUN, 9.0])) as server:
            pool = Pool()
            await _asked(pool, server.url)
            under_way = await pool.ask("POST", server.url, {}, b"{}", 1.0)
            await under_way.head()
            connections = list(pool._open)
            await pool.close()
            assert all(connection.lost.done() for connection in connections)
            assert (pool._open, pool._idle, pool._sweep) == (set(), {}, None)
            with pytest.raises(ConnectionError):
                await under_way.whole()

    play(run)


async def test_a_timer_that_fires_a_little_early_is_the_end_of_the_time_all_the_same() -> None:
    now = asyncio.get_running_loop().time()
    assert classified(TimeoutError(), now + TICK_S / 2).fault is Fault.OVERDUE
    assert classified(TimeoutError(), now + 1.0).fault is Fault.TIMEOUT


def test_a_call_leaves_no_timer_behind() -> None:
    async def run() -> None:
        loop: Any = asyncio.get_running_loop()
        async with listening(Server([PLAIN])) as server:
            transport = Transport(Timeouts(90, 90, 90, 90))
            for _ in range(3):
                await transport.post(server.url, {}, b"{}", 90.0)
                await streamed(transport, server.url)
            await transport.close()
            left = [timer for timer in loop._scheduled if not timer.cancelled()]
            assert [timer for timer in left if timer.when() > loop.time() + 60] == []

    asyncio.run(run())


def test_an_answer_leaves_no_garbage() -> None:
    """What can only be found by looking through everything costs every request something."""

    async def run() -> None:
        connection = Connection([])
        connection.connection_made(_Wire())
        for complete in (True, False):
            answer = connection.ask(b"", b"")
            connection.data_received(CHUNKED if complete else BEGUN)
            answer.release()
            gone = weakref.ref(answer)
            del answer
            assert gone() is None

    asyncio.run(run())


class _Names(asyncio.SelectorEventLoop):
    """A network in which every name is this machine's, after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.fails = False

    async def getaddrinfo(self, host: Any, port: Any, **more: Any) -> Any:
        self.asked.append(host)
        await asyncio.sleep(0.05)
        if self.fails:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return await super().getaddrinfo("127.0.0.1", port, **more)


def _run_on(loop: _Names, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(what())


def test_a_name_is_asked_for_once_however_many_want_it() -> None:
    loop = _Names()

    async def run() -> None:
        async with listening(Server([0.05, PLAIN])) as server:
            pool = Pool()
            impatient = asyncio.ensure_future(pool.ask("POST", server.url, {}, b"{}", 0.01))
            await asyncio.gather(*(_asked(pool, server.url) for _ in range(5)))
            with pytest.raises(TimeoutError):
                await impatient
            await asyncio.gather(*(_asked(pool, server.url) for _ in range(9)))
            assert (server.connections, loop.asked) == (9, ["localhost"])
            await pool.close()

    _run_on(loop, run)


def test_a_name_that_was_not_found_is_asked_for_again() -> None:
    loop = _Names()

    async def run() -> None:
        async with listening(Server([PLAIN])) as server:
            pool = Pool()
            loop.fails = True
            for _ in range(2):
                both = [pool.ask("POST", server.url, {}, b"{}", 1.0) for _ in range(3)]
                answers = await asyncio.gather(*both, return_exceptions=True)
                assert {type(answer) for answer in answers} == {socket.gaierror}
            loop.fails = False
            await _asked(pool, server.url)
            assert loop.asked == ["localhost"] * 3
            await pool.close()

    _run_on(loop, run)


def test_where_a_host_is_not_any_more_it_is_looked_for_again() -> None:
    loop = _Names()

    async def run() -> None:
        async with listening(Server([PLAIN], closes=True)) as server:
            pool = Pool()
            await _asked(pool, server.url)
            await _until(lambda: server.open == 0)
            await asyncio.sleep(0.05)
        for count in (1, 2):
            with pytest.raises(OSError):
                await pool.ask("POST", server.url, {}, b"{}", 1.0)
            assert len(loop.asked) == count
        await pool.close()

    _run_on(loop, run)


class _TwoAddresses(asyncio.SelectorEventLoop):
    """A network in which a host has another address before its own, where nobody listens."""

    async def getaddrinfo(self, host: Any, port: Any, **more: Any) -> Any:
        (found,) = await super().getaddrinfo("127.0.0.1", port, **more)
        return [(*found[:4], ("127.0.0.9", port)), found]


def test_another_address_of_a_host_is_tried_where_one_refuses() -> None:
    async def run() -> None:
        async with listening(Server([PLAIN])) as server:
            pool = Pool()
            await _asked(pool, server.url)
            await pool.close()

    with asyncio.Runner(loop_factory=_TwoAddresses) as runner:
        runner.run(run())
