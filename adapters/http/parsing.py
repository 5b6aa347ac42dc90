"""Bodies and credentials of Quart's routes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from email_validator import EmailNotValidError, validate_email
from quart import g, request

from adapters.http.chat_request import parsed
from kyma.errors import Code, Refusal

ID_FORM = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

if TYPE_CHECKING:
    from kyma.flows.access import Access
    from kyma.ports.storage import Principal


async def signed_in(access: Access) -> Principal:
    """Who asks; remembered for the headers of the answer."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        secret = request.headers.get("x-api-key", "")
    g.principal = await access.identify(secret.strip() or None)
    principal: Principal = g.principal
    return principal


async def json_object() -> dict[str, Any]:
    """The body as a JSON object."""
    raw: bytes = await request.get_data(as_text=False)  # type: ignore[assignment]
    return parsed(raw)


def text_field(body: dict[str, Any], name: str) -> str:
    """A required string without NUL or lone surrogates."""
    value = body.get(name)
    if value is None:
        raise Refusal(Code.MISSING_FIELD, f"Missing required parameter: `{name}`.", param=name)
    if not isinstance(value, str):
        raise Refusal(Code.INVALID_TYPE, f"`{name}` must be a string.", param=name)
    if "\x00" in value or any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        raise Refusal(
            Code.INVALID_VALUE, f"`{name}` holds characters that text cannot have.", param=name
        )
    return value


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
    try:
        return validate_email(
            text_field(body, "email"), check_deliverability=False, test_environment=True
        ).normalized
    except EmailNotValidError as error:
        raise Refusal(Code.INVALID_VALUE, f"`email`: {error}", param="email") from None
