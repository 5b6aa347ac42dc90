"""Connections before there is a request on them.

Who says nothing is not waited for, and what cannot be read as HTTP/1.1 is refused in our own words.
"""

from __future__ import annotations

import asyncio
import resource
import secrets
import weakref
from collections import deque

import orjson
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from adapters.http.errors import STATUS, envelope
from kyma.errors import Code, Refusal

REASONS = {400: b"Bad Request", 408: b"Request Timeout"}
MOST_FILES = 65_536
MOST_URL_BYTES = 65_535
"""Of a path with its query: the parser's own limit."""

MOST_HEAD_BYTES = 131_072
"""Of a head, beyond the read in which it began. The parser has no limit to the number of lines."""


CONTROLS = bytes(code for code in range(32) if code != ord("\t")) + b"\x7f"
"""What the value of a header may not have in it."""

ONE_PIECE_BYTES = 65_536
"""A body up to here goes out with its head: to join a longer one costs more than a second write."""

OUTLET = "kyma.outlet"
"""Where in a scope's state the `Outlet` of its answer is."""


class Outlet:
    """The client of an answer under way, for who cannot wait: ASGI's `send` may, `receive` does."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = weakref.ref(cycle)  # whose scope has us
        self._flow = cycle.flow
        self._transport = cycle.transport

    def is_gone(self) -> bool:
        """Whether the client has closed its connection; its body has been read by now."""
        self._flow.resume_reading()  # or nobody would notice
        cycle = self._cycle()
        return cycle is None or cycle.disconnected

    def is_whole(self) -> bool:
        """Whether all of the request's body has been received, read or not."""
        cycle = self._cycle()
        return cycle is not None and not cycle.more_body

    def is_free(self) -> bool:
        """Whether the client is there and has read what it was sent, but for a little."""
        cycle = self._cycle()
        if cycle is None or cycle.disconnected or cycle.response_complete:
            return False
        return bool(cycle.chunked_encoding) and not self._flow.write_paused

    def write(self, data: bytes) -> None:
        """Send a part of the body, after its head and before its end; nothing would be the end."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Send a whole answer, its `content-length` among the headers, in a single write.

        ASGI takes two, of which the client hears twice. False if it must be sent that way: the
        client has gone or reads too slowly, is told of no body, or of a long one, or a value cannot
        be sent.
        """
        cycle = self._cycle()
        if cycle is None or cycle.disconnected or cycle.response_started:
            return False
        if self._flow.write_paused or cycle.scope["method"] == "HEAD":
            return False
        values = b"".join([value for _, value in headers])
        if len(body) > ONE_PIECE_BYTES or len(values.translate(None, CONTROLS)) != len(values):
            return False
        lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        self._transport.write(b"%b%b\r\n%b" % (STATUS_LINE[status], b"".join(lines), body))
        cycle.waiting_for_100_continue = False
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._transport.close()
        cycle.on_response()
        return True


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's, with limits on a request's head: the time until it is complete, and its length.

    It counts from the connection, and for every further request on it from its first byte; the
    body has a limit of its own. Without one a few hundred silent sockets hold every file
    descriptor of the process, and nobody needs a key for that.
    """

    head_timeout_s = 15.0
    body_timeout_s = 30.0
    _late: asyncio.TimerHandle | None = None
    _in_head = False
    _in_body = False
    _deaf = False
    """Bytes came that are no request, while one was being answered: nothing is read after them."""

    _head_bytes = 0
    url = b""  # uvicorn's, which has none before a request begins
    _unanswered: deque[RequestResponseCycle]
    """What is being answered, and what was asked behind it: uvicorn knows the last one alone."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """The wait begins."""
        super().connection_made(transport)
        self._unanswered = deque()
        self._wait(self.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody to wait for, and nobody to answer, whatever was asked last."""
        self._wait_no_more()
        super().connection_lost(exc)
        for cycle in self._unanswered:
            cycle.disconnected = not cycle.response_complete
            cycle.message_event.set()
        self._unanswered.clear()

    def data_received(self, data: bytes) -> None:
        """Any byte ends uvicorn's wait for a request: ours begins.

        It may be a blank line, which begins none, or the rest of a body that was refused early:
        whoever sends that reads its answer when all is sent.
        """
        if self._deaf:
            return
        was_in_head = self._in_head
        super().data_received(data)
        if was_in_head and self._in_head:
            self._head_bytes += len(data)
        is_answered = self.cycle is None or self.cycle.response_complete
        if self._head_bytes > MOST_HEAD_BYTES:
            said = f"The head of the request is too long: it may have {MOST_HEAD_BYTES:,} bytes."
            self._cannot_read(said)
        if is_answered and not self.transport.is_closing():
            self._wait(self.body_timeout_s if self._in_body else self.head_timeout_s)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head = True
        self._wait(self.head_timeout_s)

    def on_headers_complete(self) -> None:
        """The head is here: the rest has limits of its own."""
        self._wait_no_more()
        self._in_head, self._head_bytes = False, 0
        super().on_headers_complete()  # raises if the URL is none
        if self.cycle is not None:  # it is where the request asks for another protocol
            self.scope["state"][OUTLET] = Outlet(self.cycle)
            while self._unanswered and self._unanswered[0].response_complete:
                self._unanswered.popleft()  # they are answered in turn
            self._unanswered.append(self.cycle)
        self._in_body = True

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._in_body = False
        self._wait_no_more()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the same for all it cannot read
        """What the parser cannot read."""
        if self._in_body:
            said = "The body could not be read: its chunks are not as HTTP/1.1 has them."
        elif len(self.url) > MOST_URL_BYTES:
            said = f"The URL is too long: it may have {MOST_URL_BYTES:,} bytes."
        else:
            said = "The head of the request could not be read as HTTP/1.1."
        self._cannot_read(said)

    def _cannot_read(self, said: str) -> None:
        """Refuse and close. What was asked before is answered first, and then it closes."""
        self._wait_no_more()
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._refuse(Refusal(Code.INVALID_VALUE, said))
        elif not self._in_body:
            cycle.keep_alive, self._deaf = False, True
        elif self.pipeline or cycle.response_started:  # others are answered, or it was
            self.transport.close()
        else:
            self._refuse(Refusal(Code.INVALID_VALUE, said))

    def _wait(self, seconds: float) -> None:
        if self._late is None:
            self._late = self.loop.call_later(seconds, self._give_up)

    def _wait_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer is still on its way; the request behind it waits in any case.
            self._wait(self.head_timeout_s)
            return
        if self._in_body:  # its answer has been sent
            self.transport.close()
            return
        said = f"The head of the request did not arrive within {self.head_timeout_s:g} s."
        self._refuse(Refusal(Code.BODY_TIMEOUT, said))

    def _refuse(self, refusal: Refusal) -> None:
        """Answer without a request, and close."""
        status = STATUS[refusal.code][0]
        request_id = secrets.token_hex(16)
        body = orjson.dumps(envelope(refusal, request_id))
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"x-kyma-request-id: %b\r\nconnection: close\r\n\r\n%b"
            % (status, REASONS[status], len(body), request_id.encode(), body)
        )
        self.transport.close()


def patient(head_timeout_s: float, body_timeout_s: float) -> type[PatientProtocol]:
    """The protocol with its limits."""
    limits = {"head_timeout_s": head_timeout_s, "body_timeout_s": body_timeout_s}
    return type("Protocol", (PatientProtocol,), limits)


def allow_more_files() -> None:
    """As many sockets as this process may have: the usual limit of 1,024 is 500 requests."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
