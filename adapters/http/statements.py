"""What moved an account's credit: pages of lines, the same as CSV, and monthly statements."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from quart import Blueprint, Response, request

from adapters.http.billing_view import csv_head, csv_lines, line_json, statement_json
from adapters.http.contract import Answer, Auth, Meter, Rate, Tag, operation
from adapters.http.log_query import DEFAULT_LIMIT, MAX_LIMIT, limit, moment
from adapters.http.parsing import signed_in
from adapters.http.schemas.shapes import integer, text
from kyma.errors import Code, Refusal
from kyma.keys import Scope
from kyma.ledger import Kind
from kyma.ports.billing import Statements
from kyma.statements import MOVING, Line, LineFilter, Place, month, place_of

if TYPE_CHECKING:
    from adapters.http.app import Parts

CSV = "text/csv"
CSV_PAGE = 1000
"""Lines read at once while a whole history is written."""

FORMATS = ("json", "csv")
MOMENT_QUERY = text("ISO 8601, or Unix seconds.", examples=["2026-05-17T12:00:00Z"])


@dataclass(frozen=True, slots=True)
class _Asked:
    wanted: LineFilter
    after: Place | None
    limit: int
    as_csv: bool


def routes(parts: Parts) -> Blueprint:
    """/v1/credits/transactions and /v1/credits/statements/{month}."""
    blueprint = Blueprint("statements", __name__, url_prefix="/v1/credits")

    @blueprint.get("/transactions")
    @operation(
        id="listTransactions",
        tag=Tag.CREDITS,
        summary="List what moved your credit",
        description="Deposits, grants, what requests cost (`settle`), refunds and disputes "
        "(`reversal`) and their return (`reinstate`), newest first. A hold that is released "
        "moves nothing. As CSV with `format=csv` or `Accept: text/csv`: every line at once, or "
        "as many as `limit` says.",
        auth=Auth.KEY,
        scope=Scope.ACCOUNT_READ,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(),
        query={
            "kind": text("One kind of line.", enum=[kind.value for kind in MOVING]),
            "since": MOMENT_QUERY,
            "until": MOMENT_QUERY,
            "limit": integer(minimum=1, maximum=MAX_LIMIT, default=DEFAULT_LIMIT),
            "cursor": text("`next_cursor` of the page before."),
            "format": text("Instead of the Accept header.", enum=[*FORMATS]),
        },
        answers={200: Answer("TransactionList", also=(CSV,))},
    )
    async def transactions() -> Response:
        account = (await signed_in(parts.access)).account_id
        asked = _asked(request.args, request.headers.get("Accept", ""))
        if asked.as_csv:
            return await _csv(parts.statements, account, asked)
        return await _page(parts.statements, account, asked)

    @blueprint.get("/statements/<month>")
    @operation(
        id="getStatement",
        tag=Tag.CREDITS,
        summary="Get the statement of a month",
        description="What the credit was when the month began, what moved it, and what it was in "
        "the end, held credit included; it adds up to the nano-dollar. Months are those of UTC.",
        auth=Auth.KEY,
        scope=Scope.ACCOUNT_READ,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(Code.INVALID_VALUE,),
        path={"month": text(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$", examples=["2026-05"])},
        answers={200: "Statement"},
    )
    async def statement(month: str) -> Response:
        account = (await signed_in(parts.access)).account_id
        return _json(await _statement(parts.statements, account, month))

    return blueprint


async def _statement(statements: Statements, account_id: str, name: str) -> dict[str, Any]:
    start, end = month(name)
    return statement_json(name, await statements.statement(account_id, start, end))


async def _page(statements: Statements, account_id: str, asked: _Asked) -> Response:
    lines = await statements.lines(account_id, asked.wanted, asked.after, asked.limit + 1)
    page, more = lines[: asked.limit], len(lines) > asked.limit
    return _json(
        {
            "object": "list",
            "data": [line_json(line) for line in page],
            "has_more": more,
            "next_cursor": page[-1].place.cursor() if more else None,
        }
    )


async def _csv(statements: Statements, account_id: str, asked: _Asked) -> Response:
    """The first lines are read before the answer begins: a refusal can still be one."""
    size = min(asked.limit, CSV_PAGE)
    first = await statements.lines(account_id, asked.wanted, asked.after, size)
    response = Response(
        _written(statements, account_id, asked, first), content_type=f"{CSV}; charset=utf-8"
    )
    response.headers["Content-Disposition"] = 'attachment; filename="transactions.csv"'
    response.headers["Cache-Control"] = "no-store"
    return response


async def _written(
    statements: Statements, account_id: str, asked: _Asked, lines: Sequence[Line]
) -> AsyncIterator[str]:
    yield csv_head()
    left = asked.limit
    while lines:
        yield csv_lines(lines)
        left -= len(lines)
        size = min(left, CSV_PAGE)
        if size <= 0:
            return
        lines = await statements.lines(account_id, asked.wanted, lines[-1].place, size)


def _asked(query: Mapping[str, str], accept: str) -> _Asked:
    """What a query string asks for; an empty value is as good as none, a bad one is refused."""
    given = {name: value for name, value in query.items() if value}
    as_csv = _is_csv(given.get("format"), accept)
    wanted = LineFilter(_kind(given.get("kind")), moment(given, "since"), moment(given, "until"))
    cursor = given.get("cursor")
    every = as_csv and "limit" not in given
    size = 2**62 if every else limit(given)
    return _Asked(wanted, None if cursor is None else place_of(cursor), size, as_csv)


def _is_csv(name: str | None, accept: str) -> bool:
    if name is None:
        offers = [offer.split(";")[0].strip().lower() for offer in accept.split(",")]
        return CSV in offers and "application/json" not in offers
    if name not in FORMATS:
        raise Refusal(
            Code.INVALID_VALUE, f"`format` must be one of {', '.join(FORMATS)}.", param="format"
        )
    return name == "csv"


def _kind(name: str | None) -> Kind | None:
    if name is None:
        return None
    kinds = {kind.value: kind for kind in MOVING}
    if name not in kinds:
        raise Refusal(
            Code.INVALID_VALUE, f"`kind` must be one of {', '.join(kinds)}.", param="kind"
        )
    return kinds[name]


def _json(body: Any) -> Response:
    return Response(orjson.dumps(body), content_type="application/json")
