"""An upstream that answers at once: OpenAI chat completions over raw HTTP/1.1.

Owns nothing but bytes prepared in advance. What a stream looks like is chosen by the
request body, `"bench": {"chunks": 64, "gap_ms": 20}`; no other field but `stream` is read.
Each chunk carries the moment it was written, in ns of CLOCK_MONOTONIC, which all
processes of one machine share: the client subtracts it from its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import signal
import time
from contextlib import suppress
from functools import cache
from typing import Any, cast

import httptools
import uvloop

STAMP_DIGITS = 16
"""Enough for 115 days of uptime in nanoseconds; a fixed width keeps every chunk one length."""

DEFAULT_CHUNKS = 100
GROUP = 10
"""A blast leaves in groups of so many chunks, one write each: about what TCP makes of 100."""

TURN_S = 0.001

_BLANK = b"@" + b"0" * STAMP_DIGITS
_NANOS = 10**STAMP_DIGITS
_CHUNKS = re.compile(rb'"chunks": ?(\d+)')
_GAP = re.compile(rb'"gap_ms": ?(\d+(?:\.\d+)?)')
_HEAD = {"id": "chatcmpl-bench", "created": 1_700_000_000, "model": "bench"}
_USAGE = {"prompt_tokens": 40, "completion_tokens": 100, "total_tokens": 140}


def _framed(payload: bytes) -> bytes:
    """One server-sent event as one piece of a chunked body."""
    event = b"data: " + payload + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    body = {**_HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
    return _framed(json.dumps(body, separators=(",", ":")).encode())


def _content() -> bytes:
    delta = {"role": "assistant", "content": f"{_BLANK.decode()} word"}
    return _event([{"index": 0, "delta": delta, "finish_reason": None}])


CHUNK = _content()
TAIL = (
    _event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + _event([], usage=_USAGE)
    + _framed(b"[DONE]")
    + b"0\r\n\r\n"
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def _whole() -> bytes:
    message = {"role": "assistant", "content": "All work and no wait. " * 10}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    return _json(body)


def _json(body: dict[str, Any]) -> bytes:
    text = json.dumps(body, separators=(",", ":")).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
    return head.encode() + b"\r\n\r\n" + text


WHOLE = _whole()
NO_MODELS = _json({"object": "list", "data": []})


def stamped(template: bytes) -> bytes:
    """The template with the present moment in each of its chunks."""
    return template.replace(_BLANK, b"@%0*d" % (STAMP_DIGITS, time.monotonic_ns() % _NANOS))


@cache
def _group(chunks: int) -> bytes:
    return CHUNK * chunks


def asked_for(body: bytes) -> tuple[int, float]:
    """Chunks and seconds between them, found without parsing the JSON."""
    at = body.find(b'"bench"')
    if at < 0:
        return DEFAULT_CHUNKS, 0.0
    part = body[at : at + 80]
    chunks, gap = _CHUNKS.search(part), _GAP.search(part)
    return (
        int(chunks.group(1)) if chunks else DEFAULT_CHUNKS,
        float(gap.group(1)) / 1000 if gap else 0.0,
    )


class Wheel:
    """Wakes the streams that are due, with one timer for all of them: thousands run at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: dict[int, list[Upstream]] = {}
        self._turned_ms = 0
        self._turning = False

    def add(self, stream: Upstream, at_s: float) -> None:
        """Wake `stream` in the first whole millisecond of the loop's clock not before `at_s`."""
        if not self._turning:
            self._turning = True
            self._turned_ms = int(self._loop.time() * 1000)
            self._loop.call_later(TURN_S, self._turn)
        at_ms = max(-int(-at_s * 1000 // 1), self._turned_ms + 1)
        self._due.setdefault(at_ms, []).append(stream)

    def _turn(self) -> None:
        now_ms = int(self._loop.time() * 1000)
        while self._turned_ms < now_ms:
            self._turned_ms += 1
            for stream in self._due.pop(self._turned_ms, ()):
                stream.wake()
        self._turning = bool(self._due)
        if self._turning:
            self._loop.call_later(TURN_S, self._turn)


class Upstream(asyncio.Protocol):
    """One connection: one answer at a time, kept alive. uvloop sets TCP_NODELAY itself."""

    __slots__ = ("_body", "_file", "_gap_s", "_left", "_next_s", "_parser", "_transport", "_wheel")

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._body = b""
        self._left, self._gap_s, self._next_s = 0, 0.0, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._file: int = transport.get_extra_info("socket").fileno()
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as asyncio calls it
        self._left = self._file = -1

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_body(self, body: bytes) -> None:
        self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        if not body:
            self._transport.write(NO_MODELS)
        elif b'"stream":true' in body or b'"stream": true' in body:
            self._stream(*asked_for(body))
        else:
            self._transport.write(WHOLE)

    def _stream(self, chunks: int, gap_s: float) -> None:
        self._left, self._gap_s = chunks, gap_s
        if gap_s:
            self._next_s = asyncio.get_running_loop().time()
            self._left -= 1
            self._transport.write(STREAM_HEAD + stamped(CHUNK))
            self._rest()
        else:
            self._transport.write(STREAM_HEAD)
            self._blast()

    def _blast(self) -> None:
        if self._left < 0:
            return
        size = min(GROUP, self._left)
        self._left -= size
        self._transport.write(stamped(_group(size)))
        if self._left:
            asyncio.get_running_loop().call_soon(self._blast)
        else:
            self._transport.write(TAIL)

    def wake(self) -> None:
        """The next chunk is due."""
        if self._left > 0:
            self._left -= 1
            self._write_now(stamped(CHUNK))
            self._rest()

    def _rest(self) -> None:
        if self._left:
            self._next_s += self._gap_s  # by the schedule: one late chunk delays no other
            self._wheel.add(self, self._next_s)
        else:
            self._transport.write(TAIL)

    def _write_now(self, data: bytes) -> None:
        """Past the transport, which would write at the end of the turn: the stamp must be true."""
        if not self._transport.get_write_buffer_size():
            with suppress(OSError):  # full or closed: the transport knows what to do
                data = data[os.write(self._file, data) :]
        if data:
            self._transport.write(data)


async def serve(port: int) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    wheel = Wheel(loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: Upstream(wheel), "127.0.0.1", port, backlog=2048)
    print(f"fake upstream on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.fake_upstream", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    gc.disable()  # no cycles are made, and a pause would look like a stall
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
