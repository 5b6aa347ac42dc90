"""Bodies and credentials of Quart's routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from email_validator import EmailNotValidError, validate_email
from quart import g, request

from adapters.http.chat_request import parsed
from kyma.errors import Code, Refusal

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


def email_field(body: dict[str, Any]) -> str:
    """A required address in its normal form; whether it receives mail is not asked."""
    try:
        return validate_email(
            text_field(body, "email"), check_deliverability=False, test_environment=True
        ).normalized
    except EmailNotValidError as error:
        raise Refusal(Code.INVALID_VALUE, f"`email`: {error}", param="email") from None
