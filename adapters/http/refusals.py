"""Whatever goes wrong before or in a route of Quart, as an answer in the envelope of its path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import structlog
from quart import Quart, Response, current_app, g, request
from quart.wrappers.base import BaseRequestWebsocket
from werkzeug.exceptions import BadHost, HTTPException, MethodNotAllowed, RequestEntityTooLarge
from werkzeug.routing import MapAdapter

from adapters.http.contract import Envelope, operation_of
from adapters.http.dialects.messages import Messages
from adapters.http.errors import envelope, headers_of, oauth_envelope, status_of
from kyma.errors import Code, Refusal
from kyma.flows.access import unavailable
from kyma.ports.storage import StorageUnavailable

log = structlog.get_logger("kyma.http")

_MESSAGES = Messages()


class AnyHost(Quart):
    """Quart, which by itself breaks on a bad `Host` before anything of ours is asked."""

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """None for a bad `Host`: no route is looked for, and `install` refuses the request."""
        try:
            return super().create_url_adapter(request)
        except BadHost:
            return None


def install(app: AnyHost) -> None:
    """Refusals, a database that is away, the framework's own errors, and our mistakes."""

    @app.before_request
    async def check_host() -> None:
        """After `adapters.http.callers`: who asks so is counted as with any other bad request."""
        if request.url_rule is None and request.routing_exception is None:
            raise Refusal(Code.INVALID_VALUE, "`Host` cannot be the name of a host.", param="Host")

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


def _refused(refusal: Refusal) -> Response:
    raw = orjson.dumps(_spoken()(refusal, g.request_id))
    response = Response(raw, status_of(refusal), content_type="application/json")
    response.headers.extend(headers_of(refusal))
    return response


def _spoken() -> Callable[[Refusal, str], dict[str, Any]]:
    if f"{request.path}/".startswith(f"{_MESSAGES.path}/"):
        return _MESSAGES.refusal
    declared = operation_of(current_app.view_functions.get(request.endpoint or ""))
    is_oauth = declared is not None and declared.envelope is Envelope.OAUTH
    return oauth_envelope if is_oauth else envelope


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
