"""The load generator's connections: HTTP/1.1 read with as little Python as can be trusted.

A connection knows one exchange at a time. It looks at the status, at where the answer
ends, and at the stamps of the fake upstream's chunks; it parses no JSON.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Protocol, cast

from bench.fake_upstream import STAMP_DIGITS

STALL_NS = 250_000_000
"""A stream stalled if a chunk came so much later than the schedule allows after the one before."""

_NANOS = 10**STAMP_DIGITS
_STAMP = re.compile(rb"@(\d{%d})" % STAMP_DIGITS)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_END = b"0\r\n\r\n"


@dataclass(slots=True)
class Exchange:
    """One request: when it was due, when it left, and what came back."""

    due: int
    sent: int
    status: int = 0
    finished: int = 0
    trouble: str = ""
    first: int = 0
    chunks: int = 0
    stalled: bool = False
    upstream_late: bool = False
    body: bytes = b""


class Run(Protocol):
    """Who owns the connections."""

    chunk_delays: list[int]
    gap_limit: int
    expected_chunks: int

    def finished(self, connection: Connection, exchange: Exchange) -> None:
        """The answer is whole, or will never be; the connection is free if it is open."""
        ...

    def lost(self, connection: Connection) -> None:
        """The connection closed."""
        ...


@dataclass(slots=True, eq=False)
class Connection(asyncio.Protocol):
    """One keep-alive connection that carries whole answers. uvloop sets TCP_NODELAY itself."""

    run: Run
    transport: asyncio.Transport | None = None
    exchange: Exchange | None = None
    buffer: bytes = b""
    length: int | None = None
    """Of the body; None: the head is not whole yet, -1: until the last frame of a chunked one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as asyncio calls it
        self.transport = None
        if self.exchange is not None:
            self.end("connection lost")
        self.run.lost(self)

    def send(self, request: bytes, due: int = 0) -> None:
        """Begin an exchange; `due` is when an open-loop schedule wanted it."""
        assert self.transport is not None
        assert self.exchange is None
        now = time.monotonic_ns()
        self.exchange = Exchange(due or now, now)
        self.buffer, self.length = b"", None
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        now, exchange = time.monotonic_ns(), self.exchange
        if exchange is None:  # bytes that belong to no request: not to be trusted any more
            if self.transport is not None:
                self.transport.abort()
            return
        if self.length is None:
            self.buffer += data
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            exchange.status = int(self.buffer[9:12])
            length = _LENGTH.search(self.buffer, 0, end)
            self.length = int(length.group(1)) if length else -1
            data, self.buffer = self.buffer[end + 4 :], b""
        self.body(data, now, exchange)

    def body(self, data: bytes, now: int, exchange: Exchange) -> None:
        """Take a part of the answer; ends the exchange with the last one."""
        self.buffer = buffer = self.buffer + data if self.buffer else data
        assert self.length is not None
        if len(buffer) >= self.length if self.length >= 0 else buffer.endswith(_END):
            exchange.finished, exchange.body = now, buffer
            self.end("" if exchange.status != 200 or b'"usage"' in buffer else "no usage")

    def end(self, trouble: str) -> None:
        """Hand the exchange back."""
        exchange, self.exchange = self.exchange, None
        assert exchange is not None
        exchange.finished = exchange.finished or time.monotonic_ns()
        exchange.trouble = trouble
        self.run.finished(self, exchange)


@dataclass(slots=True, eq=False)
class StreamConnection(Connection):
    """One keep-alive connection that carries streams of stamped chunks.

    This runs for every chunk of every stream, on the core that also bears the upstream and
    the databases: what is cheap comes first, and nothing is copied in the ordinary case.
    """

    rest: bytes = b""
    before: bytes = b""
    last_arrival: int = 0
    last_stamp: int = 0

    def send(self, request: bytes, due: int = 0) -> None:
        self.rest = self.before = b""
        Connection.send(self, request, due)

    def body(self, data: bytes, now: int, exchange: Exchange) -> None:
        if exchange.status != 200 or self.length != -1:
            Connection.body(self, data, now, exchange)
            return
        if self.rest or not data.endswith(b"\n"):
            self.rest, stamps = _split(self.rest + data)
        else:
            stamps = _STAMP.findall(data)
        if stamps:
            self._arrived([int(stamp) for stamp in stamps], now, exchange)
        if data.endswith(_END) or (len(data) < len(_END) and (self.before + data).endswith(_END)):
            self._ended(self.before + data, now, exchange)
        else:
            self.before = data

    def _arrived(self, stamps: list[int], now: int, exchange: Exchange) -> None:
        run = self.run
        if exchange.first == 0:
            exchange.first = now
        elif now - self.last_arrival > run.gap_limit:
            exchange.stalled = True
            exchange.upstream_late |= stamps[0] - self.last_stamp > run.gap_limit
        self.last_arrival, self.last_stamp = now, stamps[-1]
        exchange.chunks += len(stamps)
        clock = now % _NANOS
        run.chunk_delays.extend([clock - stamp for stamp in stamps])

    def _ended(self, ending: bytes, now: int, exchange: Exchange) -> None:
        exchange.finished = now
        if exchange.first and now - self.last_arrival > self.run.gap_limit:
            exchange.stalled = True
        if b"[DONE]" not in ending:
            self.end("no [DONE]")
        else:
            self.end("" if exchange.chunks == self.run.expected_chunks else "chunks missing")


def _split(data: bytes) -> tuple[bytes, list[bytes]]:
    """The bytes at the end that may begin another stamp, and the stamps in `data`."""
    begun = data.rfind(b"@")
    whole = begun < 0 or len(data) - begun > STAMP_DIGITS
    return b"" if whole else data[begun:], _STAMP.findall(data)
