"""The HTTP edge: Quart for every route, and the hottest one mounted in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from quart import Quart, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from adapters.http import accounts, discovery
from adapters.http.asgi import Receive, Scope, Send
from adapters.http.chat import PATH as CHAT_PATH
from adapters.http.chat import ChatCompletions, Limits
from adapters.http.errors import envelope, headers_of, quota_headers, status_of
from kyma.catalog.model import Catalogue
from kyma.errors import Code, Refusal
from kyma.flows.access import Access, unavailable
from kyma.flows.chat import Chat
from kyma.ports.runtime import Chance, Clock, Limiter
from kyma.ports.storage import Accounts, Ledger, Reports, StorageUnavailable

log = structlog.get_logger("kyma.http")

Ready = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Parts:
    """All that the routes use; filled by the container."""

    access: Access
    chat: Chat
    catalogue: Catalogue
    accounts: Accounts
    ledger: Ledger
    reports: Reports
    limiter: Limiter
    clock: Clock
    chance: Chance
    limits: Limits
    ready: Ready


class Gateway:
    """The ASGI application: the chat route as a plain callable, everything else Quart."""

    def __init__(self, parts: Parts) -> None:
        self.quart = make_quart(parts)
        self._chat = ChatCompletions(
            parts.access, parts.chat, parts.catalogue, parts.clock, parts.chance, parts.limits
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route one connection event."""
        if scope["type"] == "http" and scope["path"] == CHAT_PATH and scope["method"] == "POST":
            await self._chat(scope, receive, send)
        else:
            await self.quart(scope, receive, send)  # type: ignore[arg-type]


def make_quart(parts: Parts) -> Quart:
    """Quart with our routes and our envelope for every error."""
    app = Quart("kyma")
    app.config["RESPONSE_TIMEOUT"] = None  # 60 s by default, which cuts a stream silently
    app.config["BODY_TIMEOUT"] = parts.limits.body_timeout_s
    app.config["MAX_CONTENT_LENGTH"] = parts.limits.body_bytes
    app.register_blueprint(accounts.routes(parts))
    app.register_blueprint(discovery.routes(parts))
    # Served in front of Quart; known to it so that other methods are told which one is meant.
    app.add_url_rule(CHAT_PATH, "chat", methods=["POST"])

    @app.before_request
    async def name_request() -> None:
        g.request_id = parts.chance.id()

    @app.after_request
    async def say_what_is_left(response: Response) -> Response:
        response.headers["X-Kyma-Request-Id"] = g.request_id
        principal = getattr(g, "principal", None)
        if principal is not None and "X-RateLimit-Limit-Requests" not in response.headers:
            quota = await parts.limiter.peek(principal.account_id)
            response.headers.extend(quota_headers(parts.access.tier(principal), quota))
        return response

    @app.errorhandler(Refusal)
    async def refuse(refusal: Refusal) -> Response:
        return _refused(refusal)

    @app.errorhandler(StorageUnavailable)
    async def away(error: StorageUnavailable) -> Response:
        log.error("storage_unavailable", error=str(error))
        return _refused(unavailable())

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        response = _refused(_of_framework(error))
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    @app.errorhandler(Exception)
    async def broken(error: Exception) -> Response:
        log.error("request_failed", request_id=g.request_id, exc_info=error)
        return _refused(
            Refusal(
                Code.INTERNAL,
                "Something broke on our side. Nothing was charged; quote the request id.",
            )
        )

    return app


def _refused(refusal: Refusal) -> Response:
    response = json_response(envelope(refusal, g.request_id), status_of(refusal))
    response.headers.extend(headers_of(refusal))
    return response


def _of_framework(error: HTTPException) -> Refusal:
    if isinstance(error, RequestEntityTooLarge):
        return Refusal(Code.BODY_TOO_LARGE, "The body is too large.")
    known = {
        404: (Code.NOT_FOUND, f"There is nothing at {request.method} {request.path}."),
        405: (Code.METHOD_NOT_ALLOWED, f"{request.path} does not take {request.method}."),
        408: (Code.BODY_TIMEOUT, "The body did not arrive in time."),
        415: (Code.UNSUPPORTED_MEDIA_TYPE, "Send the body as application/json."),
    }
    code, message = known.get(
        error.code or 500, (Code.INVALID_REQUEST, error.description or "Bad request.")
    )
    return Refusal(code, message)


def json_response(body: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(body), status, content_type="application/json")


async def within(seconds: float, work: Awaitable[None]) -> bool:
    """Whether `work` ended in time; its own errors are raised."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return False
    return True
