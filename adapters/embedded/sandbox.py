"""The sandbox provider: a process that speaks OpenAI's chat completions, so Kyma runs with no key.

Owns the HTTP side: endpoints, pacing, the record of requests and the closing of connections.
`python -m adapters.embedded.sandbox --port 0` starts it; it imports nothing else of Kyma.
"""

import argparse
import asyncio
import hashlib
import os
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson
from aiohttp import web

from adapters.embedded.sandbox_ask import (
    CONTEXT_TOKENS,
    ERROR_FAULTS,
    ApiError,
    Ask,
    ask_from,
    error_of,
)
from adapters.embedded.sandbox_faults import Fault, FaultBoard, FaultError, FaultName, fault_from
from adapters.embedded.sandbox_text import Json, prompt_pieces
from adapters.embedded.sandbox_wire import (
    Answer,
    Cut,
    Pause,
    PrefixCache,
    Step,
    Usage,
    choices_for,
    stream_steps,
    whole_body,
    whole_steps,
)

_BODY_BYTES = 64 * 1024 * 1024
_KEPT_RECORDS = 100
_SHUTDOWN_S = 0.2  # a sleeping fault must not hold up the end of the process
_MODELS = ("sandbox-small", "sandbox-large")
_HTML = "<!doctype html><html><body><h1>502 Bad Gateway</h1></body></html>"

_RESETS = (FaultName.RESET, FaultName.RESET_BEFORE_HEADERS, FaultName.TIMEOUT)


@dataclass(frozen=True, slots=True)
class Options:
    """How a sandbox is started."""

    host: str = "127.0.0.1"
    port: int = 0
    name: str = "sandbox"
    speed_ms: float = 5
    key: str | None = None
    port_file: Path | None = None


@dataclass(slots=True)
class Record:
    """One request to the chat endpoint, as the tests of a gateway want to see it."""

    number: int
    model: str | None = None
    stream: bool = False
    fault: str | None = None
    status: int | None = None
    chunks_sent: int = 0
    completed: bool = False
    client_disconnected: bool = False
    aborted: bool = False
    """The sandbox itself closed the connection, because a fault asked for it."""


@dataclass(slots=True)
class Log:
    """The requests since the last `DELETE /sandbox/requests`."""

    count: int = 0
    last: deque[Record] = field(default_factory=lambda: deque(maxlen=_KEPT_RECORDS))

    def open(self) -> Record:
        """A record for the request that just arrived."""
        self.count += 1
        record = Record(self.count)
        self.last.append(record)
        return record

    def clear(self) -> None:
        """Starts counting anew."""
        self.count = 0
        self.last.clear()


@dataclass(slots=True)
class Sandbox:
    """The state of one sandbox process and its handlers."""

    options: Options
    log: Log = field(default_factory=Log)
    cache: PrefixCache = field(default_factory=PrefixCache)
    served: int = 0
    board: FaultBoard = field(init=False)

    def __post_init__(self) -> None:
        self.board = FaultBoard(self.options.name)

    def app(self) -> web.Application:
        """The endpoints, ready to be served."""
        app = web.Application(client_max_size=_BODY_BYTES, middlewares=[_refusals_as_json])
        app.on_response_prepare.append(self._label)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/healthz", self.health)
        app.router.add_get("/sandbox/faults", self.list_faults)
        app.router.add_post("/sandbox/faults", self.arm_fault)
        app.router.add_delete("/sandbox/faults", self.clear_faults)
        app.router.add_get("/sandbox/requests", self.list_requests)
        app.router.add_delete("/sandbox/requests", self.clear_requests)
        return app

    async def _label(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Sandbox"] = self.options.name

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answers, or fails as asked; the record says how it went."""
        record = self.log.open()
        try:
            response = await self._answer(request, record)
        except ApiError as refusal:
            record.status = refusal.status
            record.completed = True
            raise
        except asyncio.CancelledError:
            record.client_disconnected = not record.aborted
            raise
        record.completed = not (record.aborted or record.client_disconnected)
        return response

    async def _answer(self, request: web.Request, record: Record) -> web.StreamResponse:
        self._check_key(request)
        body = await request.read()
        ask = ask_from(_decoded(body))
        record.model, record.stream = ask.model, ask.stream
        last_role = ask.messages[-1]["role"]
        fault = self.board.meets(ask.fault, ask.model, last_role, time.monotonic())
        record.fault = fault.name if fault else None
        await asyncio.sleep(ask.first_ms / 1000)
        early = await self._instead_of_an_answer(request, ask, fault, record)
        if early is not None:
            return early
        answer = self._compose(ask, body)
        record.status = 200
        if ask.stream:
            response = web.StreamResponse(headers=_STREAM_HEADERS)
            steps = stream_steps(ask, answer, fault)
        else:
            whole = whole_body(answer, fault.name if fault else None)
            steps = whole_steps(whole, fault)
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.content_length = _declared_length(whole, steps)
        response.headers["X-Request-Id"] = answer.id
        await self._send(request, response, steps, self._delay_s(ask), record)
        return response

    def _check_key(self, request: web.Request) -> None:
        key = self.options.key
        if key is not None and request.headers.get("Authorization") != f"Bearer {key}":
            raise error_of(FaultName.UNAUTHORIZED)

    async def _instead_of_an_answer(
        self, request: web.Request, ask: Ask, fault: Fault | None, record: Record
    ) -> web.StreamResponse | None:
        """What a fault sends in place of the answer, or None when the answer is still due."""
        if fault is None:
            return None
        if fault.name in ERROR_FAULTS:
            raise error_of(fault.name, fault.retry_after)
        if fault.name in (FaultName.SLOW_START, FaultName.TIMEOUT):
            await asyncio.sleep(fault.seconds)
        if fault.name in _RESETS:
            return _reset(request, record)
        if fault.name not in (FaultName.EMPTY_200, FaultName.HTML_200):
            return None
        record.status = 200
        if fault.name is FaultName.HTML_200:
            return web.Response(text=_HTML, content_type="text/html")
        kind = "text/event-stream" if ask.stream else "application/json"
        return web.Response(body=b"", content_type=kind)

    def _compose(self, ask: Ask, body: bytes) -> Answer:
        prompt = prompt_pieces(ask.messages, ask.tools)
        if len(prompt) > CONTEXT_TOKENS:
            raise error_of(FaultName.CONTEXT_TOO_LONG)
        answer_id = f"chatcmpl-{hashlib.sha256(body).hexdigest()[:16]}{self.served:08d}"
        choices = choices_for(ask, answer_id)
        self.served += 1
        cached = self.cache.cached_tokens(ask.model, prompt)
        usage = Usage(len(prompt), cached, sum(len(choice.pieces) for choice in choices))
        return Answer(answer_id, int(time.time()), ask.model, choices, usage)

    def _delay_s(self, ask: Ask) -> float:
        return (self.options.speed_ms if ask.delay_ms is None else ask.delay_ms) / 1000

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        steps: list[Step],
        delay_s: float,
        record: Record,
    ) -> None:
        try:
            await response.prepare(request)
            for step in steps:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, Cut):
                    record.aborted = True
                    _close(request)
                    return
                else:
                    if delay_s and record.chunks_sent:
                        await asyncio.sleep(delay_s)
                    await response.write(step)
                    record.chunks_sent += 1
            await response.write_eof()
        except ConnectionResetError:
            record.client_disconnected = True

    async def models(self, request: web.Request) -> web.Response:
        """The ids it names; it answers to any other as well."""
        self._check_key(request)
        rows = [
            {"id": model, "object": "model", "created": 0, "owned_by": "sandbox"}
            for model in _MODELS
        ]
        return _json({"object": "list", "data": rows})

    async def health(self, _request: web.Request) -> web.Response:
        """Says that it is up."""
        return _json({"status": "ok", "name": self.options.name})

    async def list_faults(self, _request: web.Request) -> web.Response:
        """The faults armed and how often each has acted."""
        rows = [{**asdict(armed.fault), "acted": armed.acted} for armed in self.board.armed]
        return _json({"faults": rows})

    async def arm_fault(self, request: web.Request) -> web.Response:
        """Arms a fault for the coming requests."""
        asked = _decoded(await request.read())
        try:
            fault = fault_from(asked if isinstance(asked, dict) else {})
        except FaultError as unknown:
            raise ApiError(400, str(unknown), param="fault", code="invalid_value") from unknown
        self.board.arm(fault, time.monotonic())
        return _json(asdict(fault), status=201)

    async def clear_faults(self, _request: web.Request) -> web.Response:
        """Disarms every fault."""
        self.board.clear()
        return web.Response(status=204)

    async def list_requests(self, _request: web.Request) -> web.Response:
        """How often it was asked, and the last hundred times."""
        return _json({"count": self.log.count, "last": [asdict(row) for row in self.log.last]})

    async def clear_requests(self, _request: web.Request) -> web.Response:
        """Forgets the requests so far."""
        self.log.clear()
        return web.Response(status=204)


_STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


def _decoded(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as broken:
        message = "We could not parse the JSON body of your request."
        raise ApiError(400, message, code="invalid_json") from broken


def _json(body: Json, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


def _declared_length(whole: bytes, steps: list[Step]) -> int:
    return max(len(whole), sum(len(step) for step in steps if isinstance(step, bytes)))


@web.middleware
async def _refusals_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as refusal:
        response = _json(refusal.body(), status=refusal.status)
        if refusal.retry_after is not None:
            response.headers["Retry-After"] = f"{refusal.retry_after:g}"
        return response
    except web.HTTPClientError as unknown:
        message = f"{unknown.reason} ({request.method} {request.path})"
        return _json(ApiError(unknown.status, message).body(), status=unknown.status)


def _reset(request: web.Request, record: Record) -> web.Response:
    """Closes with a TCP reset; the response returned is never sent."""
    record.aborted = True
    if request.transport is not None:
        sock: socket.socket = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()


def _close(request: web.Request) -> None:
    """Closes after what was written has left, so that the caller really sees the first part."""
    if request.transport is not None:
        request.transport.close()


async def serve(options: Options) -> tuple[web.AppRunner, int]:
    """A sandbox listening in this event loop, and its port; `cleanup()` of the runner ends it."""
    # Without cancellation a handler would notice a vanished client only at its next write.
    runner = web.AppRunner(
        Sandbox(options).app(),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=_SHUTDOWN_S,
    )
    await runner.setup()
    await web.TCPSite(runner, options.host, options.port).start()
    return runner, int(runner.addresses[0][1])


async def run(options: Options) -> None:
    """Serves until the process is told to end."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner, port = await serve(options)
    try:
        if options.port_file is not None:
            _write_atomically(options.port_file, str(port))
        sys.stdout.write(f"sandbox listening on http://{options.host}:{port}\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await runner.cleanup()


def _write_atomically(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)


def _options(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(prog="sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--name", default="sandbox")
    parser.add_argument("--speed-ms", type=float, default=5)
    parser.add_argument("--key", default=None, help="answer 401 to any other bearer key")
    parser.add_argument("--port-file", type=Path, default=None)
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    asyncio.run(run(_options()))
