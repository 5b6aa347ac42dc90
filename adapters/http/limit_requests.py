"""Asking for higher limits than deposits give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from quart import Blueprint, Response

from adapters.http.contract import Auth, Meter, Rate, Repeat, Tag, operation
from adapters.http.parsing import json_object, signed_in, text_field
from kyma.errors import Code
from kyma.keys import Scope
from kyma.limit_requests import LENGTHS, LimitRequest

if TYPE_CHECKING:
    from adapters.http.app import Parts


def routes(parts: Parts) -> Blueprint:
    """POST and GET /v1/limits/requests."""
    blueprint = Blueprint("limit_requests", __name__, url_prefix="/v1")

    @blueprint.post("/limits/requests")
    @operation(
        id="requestLimits",
        tag=Tag.AUTH,
        summary="Ask for higher limits",
        description="An operator reads it and answers by e-mail. One request is open at a time.",
        auth=Auth.KEY,
        scope=Scope.BILLING,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.ANSWER,
        errors=(Code.REQUEST_OPEN,),
        body="LimitRequestBody",
        answers={201: "LimitRequest"},
    )
    async def ask() -> Response:
        principal = await signed_in(parts.access)
        body = await json_object()
        texts = {name: text_field(body, name) for name in LENGTHS}
        return _json(request_json(await parts.limits_asked.ask(principal.account_id, **texts)), 201)

    @blueprint.get("/limits/requests")
    @operation(
        id="listLimitRequests",
        tag=Tag.AUTH,
        summary="Your requests for higher limits",
        description="Newest first, with the answers.",
        auth=Auth.KEY,
        scope=Scope.ACCOUNT_READ,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(),
        answers={200: "LimitRequestList"},
    )
    async def mine() -> Response:
        principal = await signed_in(parts.access)
        found = await parts.limits_asked.mine(principal.account_id)
        return _json({"object": "list", "data": [request_json(request) for request in found]})

    return blueprint


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, content_type="application/json")


def request_json(request: LimitRequest) -> dict[str, Any]:
    """A request as its owner may read it; who answered stays inside."""
    return {
        "id": request.id,
        "object": "limit_request",
        "state": request.state.value,
        "company": request.company,
        "use": request.use,
        "expected_load": request.expected_load,
        "requested_at": request.requested_at,
        "answered_at": request.answered_at,
        "reason": request.reason or None,
        "tier": request.level,
        "until": request.until,
    }
