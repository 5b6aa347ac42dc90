"""Receipts of past requests, the log of them, and quotes for those to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import orjson
from quart import Blueprint, Response, request

from adapters.http.asking import Asking
from adapters.http.bodies import LARGE_BYTES, parsed
from adapters.http.contract import Auth, Meter, Rate, Repeat, Tag, operation
from adapters.http.dialects import Dialect
from adapters.http.log_query import DEFAULT_LIMIT, MAX_LIMIT, MAX_WORD, from_query
from adapters.http.parsing import raw_body, signed_in
from adapters.http.receipts_view import Prices, log_json, prices_now, quote_json, receipt_json
from adapters.http.schemas.shapes import integer, text
from adapters.http.text_contract import REQUEST_HEADERS
from kyma.budget import FIELD as MAX_COST
from kyma.budget import HEADER as MAX_COST_HEADER
from kyma.budget import limit_of
from kyma.calls import ChatCall
from kyma.catalog.model import Model
from kyma.errors import Code, Refusal
from kyma.flows.quote import Quote, Quotes
from kyma.generations import Generation, request_id_of
from kyma.keys import Scope
from kyma.money import Usd
from kyma.ports.requests import PriceBook, Receipts

if TYPE_CHECKING:
    from adapters.http.app import Parts
    from kyma.ports.storage import Principal

ENDPOINT = "endpoint"
"""The field of a quote that says which route it is for; the first dialect if it does not."""

MAX_LAYER_HEADER = "X-Kyma-Max-Fallback-Layer"
MOMENT_QUERY = text("ISO 8601, or Unix seconds.", examples=["2026-05-17T12:00:00Z"])


@dataclass(frozen=True, slots=True)
class Books:
    """What these routes read; filled by the container."""

    receipts: Receipts
    prices: PriceBook
    quotes: Quotes


def routes(parts: Parts, dialects: Sequence[Dialect]) -> Blueprint:
    """/v1/generations/{id}, /v1/logs and /v1/quote."""
    blueprint = Blueprint("receipts", __name__, url_prefix="/v1")

    @blueprint.get("/generations/<id>")
    @operation(
        id="getGeneration",
        tag=Tag.RECEIPTS,
        summary="Get the receipt of a request",
        description="Hold, charge and refund of one of your requests, its usage, the prices "
        "used and every attempt. `id` is that of X-Kyma-Request-Id or of the answer.",
        auth=Auth.KEY,
        scope=Scope.ACCOUNT_READ,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(Code.NOT_FOUND,),
        answers={200: "Receipt"},
    )
    async def generation(id: str) -> Response:
        principal = await signed_in(parts.access)
        found = await _generation(parts, principal.account_id, id)
        return _json(receipt_json(found, parts.catalogue, await _prices(parts, found)))

    @blueprint.get("/logs")
    @operation(
        id="listLogs",
        tag=Tag.RECEIPTS,
        summary="List your requests",
        description="Metadata of your own requests, newest first. Prompts and answers are "
        "not stored.",
        auth=Auth.KEY,
        scope=Scope.ACCOUNT_READ,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(),
        query={
            "model": text("Asked for, by id or alias.", maxLength=MAX_WORD),
            "outcome": text("Such as `ok` or `client_left`.", maxLength=MAX_WORD),
            "endpoint": text("Such as `chat.completions`.", maxLength=MAX_WORD),
            "key_id": text("The id of one of your keys."),
            "since": MOMENT_QUERY,
            "until": MOMENT_QUERY,
            "limit": integer(minimum=1, maximum=MAX_LIMIT, default=DEFAULT_LIMIT),
            "cursor": text("`next_cursor` of the page before."),
        },
        answers={200: "Log"},
    )
    async def logs() -> Response:
        principal = await signed_in(parts.access)
        asked = from_query(request.args, parts.catalogue)
        lines = await parts.books.receipts.log(
            principal.account_id, asked.wanted, asked.after, asked.limit + 1
        )
        page = lines[: asked.limit]
        more = len(lines) > asked.limit
        return _json(
            {
                "object": "list",
                "data": [log_json(line) for line in page],
                "has_more": more,
                "next_cursor": page[-1].place.cursor() if more else None,
            }
        )

    @blueprint.post("/quote")
    @operation(
        id="quote",
        tag=Tag.RECEIPTS,
        summary="Quote a request before it is sent",
        description="Send the body of a request; `endpoint` says which (default "
        "`chat.completions`). Nothing is held, charged, counted or sent to a provider.",
        auth=Auth.KEY,
        scope=Scope.INFERENCE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.READING,
        errors=(Code.MODEL_NOT_FOUND, Code.MODEL_NOT_ALLOWED, Code.NO_ROUTE),
        headers={name: REQUEST_HEADERS[name] for name in (MAX_COST_HEADER, MAX_LAYER_HEADER)},
        body="QuoteRequest",
        answers={200: "Quote"},
    )
    async def quote() -> Response:
        principal = await signed_in(parts.access)
        found, max_cost = await _quote(parts, dialects, principal, await raw_body())
        return _json(quote_json(found, max_cost))

    return blueprint


async def _generation(parts: Parts, account_id: str, name: str) -> Generation:
    id = request_id_of(name)
    found = None if id is None else await parts.books.receipts.generation(account_id, id)
    if found is None:
        raise Refusal(
            Code.NOT_FOUND,
            "No request of this account has this id. A request that was refused before credit "
            "was held (401, 402, 404, 429) leaves no receipt.",
            param="id",
        )
    return found


async def _prices(parts: Parts, found: Generation) -> Prices:
    """The prices that were in force for this request."""
    record = found.record
    if record is None:
        return {}
    now = prices_now(parts.catalogue, record.price_version)
    if now is not None:
        return now
    models = {record.requested_model, record.served_model}
    return await parts.books.prices.prices(record.price_version, models)


async def _quote(
    parts: Parts, dialects: Sequence[Dialect], principal: Principal, raw: bytes
) -> tuple[Quote, Usd | None]:
    """The quote for a body, read as its own route would read it, and its `max_cost`."""
    asking = Asking(cast("Any", request.scope))

    def read() -> tuple[Dialect, ChatCall, Model, str | None, Usd | None]:
        body = parsed(raw)
        dialect = _dialect(body.pop(ENDPOINT, None), dialects)
        max_cost = limit_of(body.pop(MAX_COST, None), asking.max_cost)
        model, alias = parts.catalogue.find(dialect.model(body))
        return dialect, dialect.call(body, model), model, alias, max_cost

    large = len(raw) > LARGE_BYTES
    found = await parts.workbench.run(principal.account_id, read) if large else read()
    dialect, call, model, alias, max_cost = found
    quote = await parts.books.quotes.quote(
        principal, call, model, alias, endpoint=dialect.endpoint, max_layer=asking.max_layer()
    )
    return quote, max_cost


def _dialect(name: Any, dialects: Sequence[Dialect]) -> Dialect:
    """The route that a quote is for, by its name in usage records or by its path."""
    if name is None:
        return dialects[0]
    for dialect in dialects:
        if name in (dialect.endpoint, dialect.path):
            return dialect
    known = ", ".join(dialect.endpoint for dialect in dialects)
    raise Refusal(Code.INVALID_VALUE, f"`{ENDPOINT}` must be one of {known}.", param=ENDPOINT)


def _json(body: Any) -> Response:
    return Response(orjson.dumps(body), content_type="application/json")
