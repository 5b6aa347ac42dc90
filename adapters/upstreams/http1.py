"""HTTP/1.1 as a client: one question at a time on a connection, which is kept for the next one.

httptools (llhttp) reads what comes, aiohappyeyeballs connects, the event loop speaks TLS. What is
left is who waits for what, and which connection may be asked again. Why not aiohttp, which does
more: docs/decisions/0019. Left out, for no call of ours wants it: redirects, cookies, proxies,
compression, and asking again on its own, which might be paid twice.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from yarl import URL

IDLE_S = 30.0
"""How long a connection is kept unasked; servers close theirs after a minute or more."""

MOST_HEAD_BYTES = 128 * 1024
"""Also of what comes after a body, or between its pieces."""

MOST_UNREAD_BYTES = 256 * 1024
"""Of a body that is read slower than it comes; the socket waits from there on."""

MOST_WHOLE_BYTES = 256 * 1024 * 1024
"""Of a body that is read as a whole: 2,048 embeddings of 3,072 numbers are half of it."""

ENCODINGS = frozenset({b"gzip", b"x-gzip", b"deflate", b"compress", b"br", b"zstd"})
"""Some servers send other words, such as `none` before a stream, and mean nothing by them."""

LENIENCIES = {
    "lenient_headers": True,
    "lenient_optional_cr_before_lf": True,
    "lenient_spaces_after_chunk_size": True,
}
"""What servers are forgiven that do not write HTTP to the letter, as by other clients (aiohttp)."""

NEXT_ADDRESS_S = 0.25
"""When a host's next address is tried beside the one that does not answer (RFC 8305)."""


NAMES_S = 60.0
"""How long it is remembered where a host is."""

Origin = tuple[bool, str, int]
"""Whether it is asked over TLS, its host, its port."""


class Wants(Enum):
    """What a reader waits for."""

    HEAD = 1
    BYTES = 2
    ALL = 3


Offer = Callable[[bytes], bool]
"""Whether what came was dealt with on the spot; asked while bytes are read, so it never waits."""


class Answer:
    """What is said to one request. Wait for what is `coming` until `has_head` or `complete`.

    Waiting raises `OSError`: `ConnectionError` if the connection broke or this is not HTTP,
    `TimeoutError` after `expire`. What came before may be `taken` first. Whoever was cancelled
    may wait again; whoever has it releases it, and it says no more.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(**LENIENCIES)
        self._waiter: asyncio.Future[None] | None = None
        self._waits_since = 0.0
        self._wants = Wants.ALL
        self._offer: Offer | None = None
        self._failure: OSError | None = None
        self._keeps_alive = False
        self._released = False
        self._paused = False
        self._other_bytes = 0
        self._is_encoded = False
        self._pieces: list[bytes] = []
        self._unread = 0
        self.has_head = False
        self.complete = False
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        """By their names in lower case; of one that came twice the first."""

    def coming(self, wants: Wants, offer: Offer | None = None) -> asyncio.Future[None]:
        """Done as soon as there is what is wanted, or the end.

        Bytes that come until then are offered first; the wait goes on over those that are taken.
        """
        if self._failure is not None:
            raise self._failure
        self._wants = wants
        self._offer = offer
        self._waits_since = self._loop.time()
        self._waiter = self._loop.create_future()
        return self._waiter

    def taken(self) -> bytes:
        """What came of the body since the last time."""
        pieces = self._pieces
        if not pieces:
            return b""
        self._unread = 0
        if self._paused:
            self._paused = False
            self._connection.transport.resume_reading()
        if len(pieces) == 1:
            return pieces.pop()
        data = b"".join(pieces)
        pieces.clear()
        return data

    async def head(self) -> None:
        """Return when `status` and `headers` are known."""
        while not self.has_head:
            await self.coming(Wants.HEAD)

    async def whole(self) -> bytes:
        """The body, once it is complete."""
        while not self.complete:
            await self.coming(Wants.ALL)
        return self.taken()

    @property
    def waits_since(self) -> float | None:
        """When a reader began to wait, on the loop's clock, if one does."""
        is_waiting = self._waiter is not None and not self._waiter.done()
        return self._waits_since if is_waiting else None

    def expire(self, why: str) -> None:
        """Give up: who waits is told with a `TimeoutError`."""
        if not self._released:
            self._fail(TimeoutError(why))

    def release(self) -> None:
        """Done with it. Its connection is kept for the next question if it came to its end."""
        if self._released:
            return
        self._released = True
        self._offer = None  # it may know who has us
        self.taken()
        if not self.complete:
            self._end_with(ConnectionAbortedError("given up"))
        del self._parser  # it knows us, too: nobody would notice that both are done with
        self._connection.released(keep=self.complete and self._keeps_alive)

    def feed(self, data: bytes) -> None:
        """The connection's next bytes."""
        self._other_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            reason = error.__context__ or error  # ours, raised in a callback, or the parser's
            self._fail(ConnectionResetError(f"not an answer in HTTP/1.1: {reason}"))
            return
        if self._other_bytes > MOST_HEAD_BYTES:
            self._fail(ConnectionResetError(f"a head of more than {MOST_HEAD_BYTES} bytes"))
        elif self._pieces and self._wants is not Wants.ALL:
            self._hand_over()

    def closed(self, error: Exception | None) -> None:
        """No more bytes: the end of a body that has no other, of any other a failure."""
        self._keeps_alive = False
        is_end = error is None and self._failure is None and self.has_head
        if is_end and self._ends_with_the_connection():
            self.complete = True
            self._wake()
        else:
            reason = f": {error}" if error is not None else ""
            when = "in the middle of" if self.has_head else "before"
            self._end_with(ConnectionResetError(f"closed {when} its answer{reason}"))

    def _ends_with_the_connection(self) -> bool:
        return (
            b"content-length" not in self.headers
            and b"chunked" not in self.headers.get(b"transfer-encoding", b"").lower()
        )

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _hand_over(self) -> None:
        """Offer what came to whoever waits, or wake them to read it; of much the rest waits."""
        waiter, pieces = self._waiter, self._pieces
        if waiter is not None and self._wants is Wants.BYTES and not waiter.done():
            if len(pieces) > 1:
                pieces[:] = [b"".join(pieces)]
            if self._offer is not None and self._offer(pieces[0]):
                pieces.clear()
                self._unread = 0
                self._waits_since = self._loop.time()
                return
            waiter.set_result(None)
        if self._unread > MOST_UNREAD_BYTES and not self._paused:
            self._paused = True
            self._connection.transport.pause_reading()

    def _end_with(self, failure: OSError) -> None:
        """Say no more than came. An answer that is complete stays so."""
        self._keeps_alive = False
        if self._failure is None and not self.complete:
            self._failure = failure
        self._wake()

    def _fail(self, failure: OSError) -> None:
        self._end_with(failure)
        self._connection.abort()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A second answer to one question is refused."""
        if self.complete:
            raise ValueError("a second answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One line of the head; what follows the body is of no interest."""
        if not self.has_head:
            self.headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        """The head is here, unless it is an interim one (1xx): the answer's own follows."""
        status = self._parser.get_status_code()
        if status < 200:
            self.headers = {}
            return
        self._is_encoded = self.headers.get(b"content-encoding", b"").lower() in ENCODINGS
        self.status = status
        self.has_head = True
        if self._wants is Wants.HEAD:
            self._wake()

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        if self._is_encoded:
            raise ValueError("its body is encoded, which was not asked for")
        self._other_bytes = 0
        self._pieces.append(piece)
        self._unread += len(piece)
        if self._unread > MOST_WHOLE_BYTES:
            raise ValueError(f"its body has more than {MOST_WHOLE_BYTES} bytes")

    def on_message_complete(self) -> None:
        """All is here; whether the connection may be asked again is known now."""
        if self.has_head:
            self.complete = True
            self._keeps_alive = self._parser.should_keep_alive()
            self._wake()


class Connection(asyncio.Protocol):
    """One socket: asked, read, and kept for the next question or closed."""

    def __init__(self, idle: list[Connection]) -> None:
        """`idle` are the connections to this server that wait for a question."""
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._answer: Answer | None = None
        self._idle_since = 0.0
        self.transport: asyncio.Transport  # from `connection_made`, before anybody has us
        self.socket: asyncio.Transport
        """The transport below TLS, or the same."""
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done once the socket is closed."""

    def ask(self, head: bytes, body: bytes) -> Answer:
        """Send a request; its answer has the connection until it is released."""
        answer = self._answer = Answer(self)
        if self.transport.is_closing():
            answer.closed(None)
        else:
            self.transport.writelines((head, body))
        return answer

    def released(self, *, keep: bool) -> None:
        """Wait for the next question, unless the last one was not even sent to its end."""
        self._answer = None
        unsent = self.transport.get_write_buffer_size() + self.socket.get_write_buffer_size()
        if keep and not self.transport.is_closing() and unsent == 0:
            self._idle_since = self._loop.time()
            self._idle.append(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close the socket now, unsent bytes and all."""
        self.transport.abort()

    def is_usable(self, idle_s: float) -> bool:
        """Whether an idle connection is still open, and was idle for no longer than that."""
        is_young = self._loop.time() - self._idle_since < idle_s
        return is_young and not self.transport.is_closing()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP has this one
        """The socket is open."""
        self.transport = self.socket = transport

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer; those that nobody asked for end the connection."""
        if self._answer is not None and not self._answer.complete:
            self._answer.feed(data)
        else:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is closed."""
        if self._answer is not None:
            self._answer.closed(error)
        if not self.lost.done():
            self.lost.set_result(None)


class _Target:
    """A URL taken apart, once: where to connect, and how a request to it begins."""

    def __init__(self, url: str) -> None:
        parts = URL(url)
        if parts.scheme not in {"http", "https"} or not parts.raw_host or not parts.port:
            raise ValueError(f"not an HTTP address: {url}")
        self.is_tls = parts.scheme == "https"
        self.host = parts.raw_host
        self.port = parts.port
        self.origin: Origin = (self.is_tls, self.host, self.port)
        self.begins = (
            f"{parts.raw_path_qs} HTTP/1.1\r\n"
            f"Host: {parts.host_port_subcomponent}\r\n"
            "Accept-Encoding: identity\r\n"
        )

    def head(self, method: str, headers: Mapping[str, str], length: int) -> bytes:
        """The request's head. Raises `ValueError` for a header that would be several."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        breaks = {lines.count("\n"), lines.count("\r"), lines.count("\0") + len(headers)}
        if breaks != {len(headers)}:
            raise ValueError("a header's value has a line break")
        return f"{method} {self.begins}{lines}Content-Length: {length}\r\n\r\n".encode()


class Pool:
    """Connections to any number of servers, those that are idle kept for the next question."""

    def __init__(self, tls: ssl.SSLContext | None = None, idle_s: float = IDLE_S) -> None:
        """`tls`: whose certificates are trusted; the system's, unless told."""
        self._tls = tls
        if tls is not None:
            tls.set_alpn_protocols(["http/1.1"])
        self._idle_s = idle_s
        self._targets: dict[str, _Target] = {}
        self._idle: dict[Origin, list[Connection]] = {}
        self._names: dict[Origin, tuple[float, asyncio.Future[Any]]] = {}
        self._open: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    async def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, connect_s: float
    ) -> Answer:
        """Send a request; whoever gets its answer releases it.

        Raises `OSError`: `TimeoutError` if there is no connection after `connect_s` seconds.
        """
        target = self._targets.get(url)
        if target is None:
            target = self._targets[url] = _Target(url)
        head = target.head(method, headers, len(body))
        connection = self._kept(target)
        if connection is None:
            try:
                async with asyncio.timeout(connect_s):
                    connection = await self._connected(target)
            except RuntimeError as error:  # uvloop's, where a socket was closed meanwhile
                raise ConnectionResetError(str(error)) from error
        return connection.ask(head, body)

    async def close(self) -> None:
        """Close every socket, also those on which an answer is being read."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        for _, asking in self._names.values():
            asking.cancel()
        self._names.clear()
        lost = [connection.lost for connection in self._open]
        for connection in list(self._open):
            connection.abort()
        await asyncio.gather(*lost)

    def _kept(self, target: _Target) -> Connection | None:
        idle = self._idle.get(target.origin)
        while idle:
            connection = idle.pop()
            if connection.is_usable(self._idle_s):
                return connection
            connection.abort()
        return None

    async def _connected(self, target: _Target) -> Connection:
        loop = asyncio.get_running_loop()
        addresses = await self._addresses(target)
        try:
            opened = await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=NEXT_ADDRESS_S
            )
        except OSError:
            self._names.pop(target.origin, None)  # perhaps it is elsewhere by now
            raise
        idle = self._idle.setdefault(target.origin, [])
        # From here on the loop closes the socket: who closes it, too, may close another one's.
        transport, connection = await loop.create_connection(lambda: Connection(idle), sock=opened)
        if target.is_tls:
            try:
                connection.transport = await self._encrypted(transport, connection, target)
            except BaseException:
                transport.abort()  # or it would take its leave of somebody who does not answer
                raise
        self._open.add(connection)
        connection.lost.add_done_callback(lambda _: self._open.discard(connection))
        if self._sweep is None:
            self._sweep = loop.call_later(self._idle_s, self._swept)
        return connection

    async def _encrypted(
        self, transport: asyncio.Transport, connection: Connection, target: _Target
    ) -> asyncio.Transport:
        encrypted = await asyncio.get_running_loop().start_tls(
            transport, connection, self._context(), server_hostname=target.host
        )
        if encrypted is None:
            raise ConnectionResetError("closed before its handshake")
        return encrypted

    async def _addresses(self, target: _Target) -> list[AddrInfoType]:
        """Where a host is: one question at a time, whose answer is good for `NAMES_S`.

        Names are asked for in a few threads, which one name that nobody knows must not fill.
        """
        loop = asyncio.get_running_loop()
        until, asking = self._names.get(target.origin, (0.0, None))
        if asking is None or (asking.done() and (loop.time() >= until or _failed(asking))):
            asking = asyncio.ensure_future(
                loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            )
            asking.add_done_callback(_failed)  # it may be that nobody waits for it any more
            self._names[target.origin] = (loop.time() + NAMES_S, asking)
        addresses: list[AddrInfoType] = await asyncio.shield(asking)
        return addresses

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def _swept(self) -> None:
        """Close what was idle for too long, and look again while anything is open."""
        for idle in self._idle.values():
            for connection in [one for one in idle if not one.is_usable(self._idle_s)]:
                idle.remove(connection)
                connection.abort()
        self._sweep = None
        if self._open:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_s, self._swept)


def _failed(asked: asyncio.Future[Any]) -> bool:
    return asked.cancelled() or asked.exception() is not None
