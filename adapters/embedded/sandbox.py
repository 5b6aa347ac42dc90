"""The sandbox provider: a process that speaks OpenAI's wires and Anthropic's, without a key.

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
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson
from aiohttp import web

from adapters.embedded.sandbox_ask import Ask
from adapters.embedded.sandbox_cache import PrefixCache
from adapters.embedded.sandbox_chat import CHAT
from adapters.embedded.sandbox_completions import COMPLETIONS
from adapters.embedded.sandbox_embeddings import EMBEDDINGS
from adapters.embedded.sandbox_errors import CONTEXT_TOKENS, ERROR_FAULTS, ApiError, error_of
from adapters.embedded.sandbox_faults import Fault, FaultBoard, FaultError, FaultName, fault_from
from adapters.embedded.sandbox_log import Log, Record
from adapters.embedded.sandbox_messages import COUNT_TOKENS, MESSAGES
from adapters.embedded.sandbox_messages_ask import VERSIONS
from adapters.embedded.sandbox_text import Json
from adapters.embedded.sandbox_wire import (
    Answer,
    Cut,
    Pause,
    Step,
    Usage,
    Wire,
    filtered,
    whole_steps,
)

_BODY_BYTES = 64 * 1024 * 1024
_SHUTDOWN_S = 0.2  # a sleeping fault must not hold up the end of the process
_MODELS = ("sandbox-small", "sandbox-large", "sandbox-embed")
_HTML = "<!doctype html><html><body><h1>502 Bad Gateway</h1></body></html>"
_MESSAGES_PATH = "/v1/messages"
_WIRES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    _MESSAGES_PATH: MESSAGES,
    f"{_MESSAGES_PATH}/count_tokens": COUNT_TOKENS,
}

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
        for path in _WIRES:
            app.router.add_post(path, self.answer)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/healthz", self.health)
        app.router.add_get("/sandbox/faults", self.list_faults)
        app.router.add_post("/sandbox/faults", self.arm_fault)
        app.router.add_delete("/sandbox/faults", self.clear_faults)
        app.router.add_get("/sandbox/requests", self.list_requests)
        app.router.add_delete("/sandbox/requests", self.clear_requests)
        return app

    async def _label(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Sandbox"] = self.options.name
        if _is_anthropic(request):
            response.headers["request-id"] = request[_ID]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answers, or fails as asked; the record says how it went."""
        record = self.log.open(request.path)
        try:
            response = await self._answer(request, _WIRES[request.path], record)
        except ApiError as refusal:
            record.status = refusal.status
            record.completed = True
            raise
        except asyncio.CancelledError:
            record.client_disconnected = not record.aborted
            raise
        record.completed = not (record.aborted or record.client_disconnected)
        return response

    async def _answer(self, request: web.Request, wire: Wire, record: Record) -> web.StreamResponse:
        self._check_key(request, wire)
        body = await request.read()
        ask = wire.ask(_decoded(body), request.headers.get("anthropic-version", ""))
        record.model, record.stream = ask.model, ask.stream
        last_role = ask.messages[-1]["role"]
        fault = self.board.meets(ask.control.fault, ask.model, last_role, time.monotonic())
        record.fault = fault.name if fault else None
        await asyncio.sleep(ask.control.first_ms / 1000)
        early = await self._instead_of_an_answer(request, ask, wire, fault, record)
        if early is not None:
            return early
        answer = self._compose(ask, wire, body, fault)
        record.status = 200
        if ask.stream:
            response = web.StreamResponse(headers=_STREAM_HEADERS)
            steps = wire.stream(answer, fault)
        else:
            whole = wire.whole(answer, fault.name if fault else None)
            steps = whole_steps(whole, fault)
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.content_length = _declared_length(whole, steps)
        if not wire.is_anthropic:
            response.headers["X-Request-Id"] = answer.id
        await self._send(request, response, steps, self._delay_s(ask), record)
        return response

    def _check_key(self, request: web.Request, wire: Wire) -> None:
        key = self.options.key
        if not wire.is_anthropic:
            if key is not None and request.headers.get("Authorization") != f"Bearer {key}":
                raise error_of(FaultName.UNAUTHORIZED)
            return
        bearer = request.headers.get("Authorization", "")
        # The official client of 2026 sends its API key as a bearer, earlier ones as x-api-key.
        told = request.headers.get("x-api-key") or bearer.removeprefix("Bearer ")
        if not told:
            raise ApiError(401, "x-api-key header is required")
        if key is not None and told != key:
            raise error_of(FaultName.UNAUTHORIZED, table=wire.errors)
        version = request.headers.get("anthropic-version")
        if version not in VERSIONS:
            why = "is not a valid version" if version else "header is required"
            raise ApiError(400, f"anthropic-version: {why}")

    async def _instead_of_an_answer(
        self, request: web.Request, ask: Ask, wire: Wire, fault: Fault | None, record: Record
    ) -> web.StreamResponse | None:
        """What a fault sends in place of the answer, or None when the answer is still due."""
        if fault is None or _filters_midway(fault):
            return None
        if fault.name in ERROR_FAULTS:
            raise error_of(fault.name, fault.retry_after, wire.errors)
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

    def _compose(self, ask: Ask, wire: Wire, body: bytes, fault: Fault | None) -> Answer:
        prompt = wire.prompt(ask)
        size = len(prompt.tokens)
        if size > CONTEXT_TOKENS:
            raise wire.too_long(size) if wire.too_long else error_of(FaultName.CONTEXT_TOO_LONG)
        made = f"{hashlib.sha256(body).hexdigest()[:16]}{self.served:08d}"
        answer_id = wire.id_prefix + made
        choices = wire.choices(ask, answer_id)
        if fault is not None and _filters_midway(fault):
            choices = [filtered(choice, fault) for choice in choices]
        self.served += 1
        cached = wire.cached(self.cache, ask.model, prompt)
        said = [part for choice in choices for part in choice.parts]
        thinking = sum(len(part.pieces) for part in said if part.is_thinking)
        usage = Usage(size, sum(len(part.pieces) for part in said), cached, thinking)
        return Answer(answer_id, int(time.time()), ask, choices, usage)

    def _delay_s(self, ask: Ask) -> float:
        return (
            self.options.speed_ms if ask.control.delay_ms is None else ask.control.delay_ms
        ) / 1000

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
        self._check_key(request, CHAT)
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


_ID = web.RequestKey("id", str)
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


def _is_anthropic(request: web.Request) -> bool:
    return request.path.startswith(_MESSAGES_PATH)


def _filters_midway(fault: Fault) -> bool:
    """A filter that steps in after some tokens ends the answer; it is no refusal of the prompt."""
    return fault.name is FaultName.CONTENT_FILTER and fault.after is not None


@web.middleware
async def _refusals_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    request[_ID] = f"req_01{os.urandom(11).hex()}"
    try:
        return await handler(request)
    except ApiError as error:
        refusal = error
    except web.HTTPClientError as unknown:
        message = f"{unknown.reason} ({request.method} {request.path})"
        refusal = ApiError(unknown.status, message)
    anthropic = _is_anthropic(request)
    body = refusal.anthropic_body(request[_ID]) if anthropic else refusal.body()
    response = _json(body, status=refusal.status)
    if refusal.retry_after is not None:
        response.headers["Retry-After"] = f"{refusal.retry_after:g}"
    return response


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
