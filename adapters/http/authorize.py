"""OAuth 2.0: the page on which a person lets an application in, and the call that fetches its key.

An application that is not known, or would have the person sent where it is not registered, gets
no redirect but a page. Every other mistake of its is told by a redirect.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from quart import Blueprint, Response, request

from adapters.http.contract import FORM, Auth, Envelope, Meter, Rate, Repeat, Tag, operation
from adapters.http.identity import Ways, given_json, once_each
from adapters.http.page_contract import page
from adapters.http.visitor import Visitor, asked
from kyma.errors import Code, Refusal
from kyma.flows.authorize import Misasked, Wish
from kyma.identity import origin_of, with_query

PATH = "/v1/auth/authorize"
MAX_BYTES = 16 * 1024
ASKED = (
    "client_id",
    "redirect_uri",
    "response_type",
    "code_challenge",
    "code_challenge_method",
    "state",
    "scope",
)


def routes(ways: Ways) -> Blueprint:
    """POST /v1/auth/token."""
    blueprint = Blueprint("authorize", __name__, url_prefix="/v1/auth")

    @blueprint.post("/token")
    @operation(
        id="exchangeCode",
        tag=Tag.AUTH,
        summary="Exchange an authorization code",
        description="OAuth 2.0 with PKCE. A code is good for one minute and one key; one that is "
        "used twice loses the key it gave.",
        auth=Auth.NONE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.NEVER,
        errors=(
            Code.INVALID_REQUEST,
            Code.INVALID_CLIENT,
            Code.INVALID_GRANT,
            Code.UNSUPPORTED_GRANT_TYPE,
            Code.STORAGE_UNAVAILABLE,
        ),
        body="CodeExchange",
        media=FORM,
        answers={200: "GivenKey"},
        envelope=Envelope.OAUTH,
    )
    async def token() -> Response:
        return given_json(await ways.authorize.exchange(await _told()))

    return blueprint


def pages(blueprint: Blueprint, ways: Ways, visitor: Visitor) -> None:
    """GET and POST /v1/auth/authorize."""

    @blueprint.get(PATH)
    @page("authorizePage", "Let an application in", Code.INVALID_CLIENT, Code.INVALID_REQUEST)
    async def ask_person() -> Response:
        found = asked()
        try:
            wish = ways.authorize.checked(found)
        except Misasked as mistake:
            return visitor.to(mistake.address)
        principal = await visitor.person()
        if principal is None:
            return visitor.to(with_query("/signin", next=_again(found)))
        return await visitor.page(
            "consent.html",
            goes_to=origin_of(wish.redirect_uri),
            wish=wish,
            asked={name: found[name] for name in ASKED if name in found},
            target=_shown(wish),
            email=principal.email,
        )

    @blueprint.post(PATH)
    @page("answerApplication", "Let an application in, or not", Code.INVALID_CLIENT)
    async def answer_application() -> Response:
        told = await visitor.form()
        try:
            wish = ways.authorize.checked(told)
        except Misasked as mistake:
            return visitor.to(mistake.address)
        principal = await visitor.person()
        if principal is None:
            return visitor.to(with_query("/signin", next=_again(told)))
        if told.get("answer") != "approve":
            return visitor.to(ways.authorize.deny(wish))
        return visitor.to(await ways.authorize.allow(wish, principal))


def _again(asked_with: Mapping[str, str]) -> str:
    """The same question, for after signing in."""
    return f"{PATH}?{urlencode([(name, asked_with[name]) for name in ASKED if name in asked_with])}"


def _shown(wish: Wish) -> str:
    """Where the person will be sent, in words they can judge."""
    origin = origin_of(wish.redirect_uri)
    if origin.startswith("http://"):
        return "a program on this computer"
    return (
        origin.removeprefix("https://") if "//" in origin else f"an app on this device ({origin})"
    )


async def _told() -> dict[str, str]:
    """The form, each name once, text alone."""
    raw = await request.get_data(cache=True, as_text=False, parse_form_data=False)
    if request.mimetype != FORM or len(raw) > MAX_BYTES:
        raise Refusal(Code.INVALID_REQUEST, f"Send the parameters as {FORM}.")
    try:
        return once_each(parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=40))
    except ValueError:
        raise Refusal(Code.INVALID_REQUEST, "The form cannot be read.") from None
