"""Bodies and credentials of Quart's routes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from email_validator import EmailNotValidError, validate_email
from quart import Request, current_app, g, request

from adapters.http.asking import secret_of
from adapters.http.bodies import SMALL_BYTES, check_packing, parsed
from adapters.http.contract import operation_of
from kyma.errors import Code, Refusal
from kyma.flows.access import Client

LARGE_BODIES = frozenset({"/v1/quote", "/v1/billing/webhook"})
"""Paths of Quart's routes that take what the text routes take, or have a bound of their own."""

MAX_EMAIL = 254
"""Characters of an address that can be delivered to (RFC 3696, erratum 1690)."""

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

ID_FORM = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

if TYPE_CHECKING:
    from kyma.flows.access import Access
    from kyma.ports.storage import Principal


def client() -> Client:
    """Who is at the other end of the connection; a proxy counts as its client if it is trusted."""
    address = request.scope.get("client")
    return Client("" if address is None else address[0], request.headers.get("User-Agent", ""))


def credential() -> str:
    """The API key or session token that the request shows, unchecked; empty without one."""
    headers = request.headers
    return secret_of(headers.get("Authorization", ""), headers.get("x-api-key", ""))


async def signed_in(access: Access) -> Principal:
    """Who asks (`adapters.http.callers` knows), if they may ask for what the route declares."""
    principal: Principal | None = g.get("principal")
    if principal is None:
        unknown: Refusal = g.unknown
        raise unknown
    declared = operation_of(current_app.view_functions.get(request.endpoint or ""))
    scope = None if declared is None else declared.scope
    access.permit(principal, scope, client().address)
    return principal


class BoundedRequest(Request):
    """A request whose body may be as large as its path needs, and no larger."""

    def __init__(
        self,
        method: str,
        scheme: str,
        path: str,
        *rest: Any,
        max_content_length: int | None = None,
        **named: Any,
    ) -> None:
        if path not in LARGE_BODIES:
            max_content_length = min(SMALL_BYTES, max_content_length or SMALL_BYTES)
        super().__init__(
            method, scheme, path, *rest, max_content_length=max_content_length, **named
        )


async def raw_body() -> bytes:
    """The body as it came."""
    check_packing(request.headers.get("Content-Encoding", ""))
    return await request.get_data(cache=True, as_text=False, parse_form_data=False)


async def json_object() -> dict[str, Any]:
    """The body as a JSON object."""
    return parsed(await raw_body())


def text_field(body: dict[str, Any], name: str) -> str:
    """A required string without NUL or lone surrogates."""
    value = body.get(name)
    if value is None:
        raise Refusal(Code.MISSING_FIELD, f"Missing required parameter: `{name}`.", param=name)
    if not isinstance(value, str):
        raise Refusal(Code.INVALID_TYPE, f"`{name}` must be a string.", param=name)
    if UNSTORABLE.search(value):
        raise Refusal(
            Code.INVALID_VALUE, f"`{name}` holds characters that text cannot have.", param=name
        )
    return value


def optional_text(body: dict[str, Any], name: str) -> str | None:
    """A string that may be left out."""
    return None if body.get(name) is None else text_field(body, name)


def integer_field(body: dict[str, Any], name: str) -> int:
    """A required whole number; `true` is none."""
    value = body.get(name)
    if value is None:
        raise Refusal(Code.MISSING_FIELD, f"Missing required parameter: `{name}`.", param=name)
    if type(value) is not int:
        raise Refusal(Code.INVALID_TYPE, f"`{name}` must be an integer.", param=name)
    return value


def id_in_path(text: str) -> str:
    """An id as we give them out; nothing can be stored under another form."""
    if ID_FORM.fullmatch(text) is None:
        raise Refusal(Code.NOT_FOUND, "There is nothing of yours with this id.")
    return text


def email_field(body: dict[str, Any]) -> str:
    """A required address in its normal form; whether it receives mail is not asked."""
    given = text_field(body, "email")
    if len(given) > MAX_EMAIL:
        # The validator takes time that grows with the square of the length.
        raise Refusal(
            Code.INVALID_VALUE, f"`email` must have at most {MAX_EMAIL} characters.", param="email"
        )
    try:
        return validate_email(given, check_deliverability=False, test_environment=True).normalized
    except EmailNotValidError as error:
        raise Refusal(Code.INVALID_VALUE, f"`email`: {error}", param="email") from None
