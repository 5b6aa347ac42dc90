"""Who asks, found out once for every request that Quart serves, and what is left to them.

An account has the limits of its tier, everybody else those of an address (`kyma.strangers`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from quart import Quart, Response, current_app, g, request

from adapters.http.contract import Auth, Operation, operation_of
from adapters.http.errors import quota_headers, stranger_headers
from adapters.http.parsing import client, credential
from adapters.http.visitor import Visitor
from kyma.errors import Refusal
from kyma.flows.access import Access, unavailable

if TYPE_CHECKING:
    from adapters.http.app import Parts
    from kyma.ports.storage import Principal

KNOWING_S = 0.5
"""How long a route that asks for no key waits to learn whose it is: it needs no database."""

LIMIT = "X-RateLimit-Limit-Requests"


def install(app: Quart, parts: Parts) -> None:
    """Count strangers before the work, say what is left after it."""
    visitor = Visitor(parts.ways)

    @app.before_request
    async def know_who_asks() -> None:
        declared = operation_of(current_app.view_functions.get(request.endpoint or ""))
        if declared is not None and not declared.counts_strangers:
            return
        try:
            g.principal = await _known(parts.access, declared, visitor)
        except Refusal as refusal:
            # `signed_in` says this where a key is asked for; elsewhere it stops nobody.
            g.unknown, g.left = parts.strangers.heard(refusal, client().address)
            if g.left.wait_s > 0:
                raise g.unknown from None

    @app.after_request
    async def say_what_is_left(response: Response) -> Response:
        response.headers["X-Kyma-Request-Id"] = g.request_id
        if LIMIT in response.headers:
            return response
        if "principal" in g:
            response.headers.extend(quota_headers(*await parts.access.quota(g.principal)))
        else:
            left = g.left if "left" in g else parts.strangers.look(client().address)
            response.headers.extend(stranger_headers(left))
        return response


async def _known(access: Access, declared: Operation | None, visitor: Visitor) -> Principal:
    """Whose key it is, or on a page whose session; programs send no cookies, people no keys."""
    is_page = declared is not None and not declared.documented
    needs_key = declared is not None and declared.auth is Auth.KEY
    secret = visitor.token if is_page else credential()
    try:
        async with asyncio.timeout(None if needs_key else KNOWING_S):
            return await access.known(secret or None)
    except TimeoutError:
        raise unavailable() from None
