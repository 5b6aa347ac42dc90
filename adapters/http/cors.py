"""Browsers of any origin may call: keys travel in headers, never in cookies.

Quart's answers always say so, since caches may keep them for callers of both kinds. The hot
routes' answers say it only to requests with an `Origin`, and preflights never reach Quart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quart import Quart, Response

from adapters.http.asgi import Scope, Send, encoded
from adapters.http.asking import Asking
from adapters.http.errors import stranger_headers
from adapters.http.strangers import StrangerLimit
from adapters.http.timing import server_timing

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
MAX_AGE_S = 86_400
"""Browsers ask again at the latest after this; each has a shorter limit of its own."""

REQUEST_HEADERS = (
    "Authorization, x-api-key, Content-Type, Accept, anthropic-version, anthropic-beta, "
    "Idempotency-Key, X-Kyma-Max-Fallback-Layer, X-Kyma-Max-Cost, X-Kyma-SDK"
)
"""What is allowed when a preflight names none. Otherwise it may send whatever it names: SDKs
add headers of their own (`x-stainless-…`), and `*` does not stand for `Authorization`."""

EXPOSED = (
    "X-Kyma-Request-Id",
    "X-Kyma-Model",
    "X-Kyma-Alias",
    "X-Kyma-Fallback",
    "X-Kyma-Fallback-Layer",
    "X-Kyma-Overhead-Ms",
    "X-Kyma-Sandbox",
    "X-Kyma-Idempotent-Replay",
    "X-RateLimit-Limit-Requests",
    "X-RateLimit-Remaining-Requests",
    "X-RateLimit-Reset-Requests",
    "X-RateLimit-Limit-Tokens",
    "X-RateLimit-Remaining-Tokens",
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
    "request-id",
    "x-request-id",
)
"""What a script may read, by name for browsers that do not know `*`; a test holds this list to
the headers of the OpenAPI document."""

ANSWER = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": ", ".join(("*", *EXPOSED)),
}
ENCODED = encoded(list(ANSWER.items()))
NONE: list[tuple[bytes, bytes]] = []

MAX_NAMED_BYTES = 4096


async def preflight(
    scope: Scope, send: Send, new_id: Callable[[], str], strangers: StrangerLimit
) -> bool:
    """Answer a browser's question whether it may send a request; False if it is no such one.

    It shows no key even where the request will, so it is told its address's limit and not counted.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    asking = Asking(scope)
    headers = asking.headers
    if scope["method"] != "OPTIONS" or b"access-control-request-method" not in headers:
        return False
    named = headers.get(b"access-control-request-headers", b"")
    if not 0 < len(named) <= MAX_NAMED_BYTES:
        named = REQUEST_HEADERS.encode()
    answer = [
        (b"access-control-allow-origin", b"*"),
        (b"access-control-allow-methods", METHODS.encode()),
        (b"access-control-allow-headers", named),
        (b"access-control-max-age", b"%d" % MAX_AGE_S),
        (b"vary", b"Access-Control-Request-Headers"),
        (b"content-length", b"0"),
        (b"x-kyma-request-id", new_id().encode()),
        (b"server-timing", server_timing(app=loop.time() - began).encode()),
        *encoded(stranger_headers(strangers.look(asking.address))),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": answer})
    await send({"type": "http.response.body", "body": b""})
    return True


def install(app: Quart) -> None:
    """Let every answer of Quart be read by browsers."""

    @app.after_request
    async def allow(response: Response) -> Response:
        response.headers.update(ANSWER)
        return response
