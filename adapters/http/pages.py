"""The few pages a person needs: in, out, a new password, an address proven, back from paying.

The answers to forms are pages or redirects within this site. What the pages share (head, style,
headers, cookies) is `templates/base.html` and `visitor.py`, for a dashboard to build on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog
from quart import Blueprint, Response, g
from werkzeug.exceptions import HTTPException

from adapters.http import authorize, devices, federation
from adapters.http.errors import headers_of, status_of
from adapters.http.identity import Ways
from adapters.http.page_contract import page
from adapters.http.parsing import client, email_field, id_in_path, text_field
from adapters.http.visitor import HOME, Visitor, asked, local_path
from kyma.errors import Code, Refusal
from kyma.flows.access import unavailable
from kyma.identity import LinkKind, with_query
from kyma.ports.storage import StorageUnavailable

log = structlog.get_logger("kyma.http")

CSS = Path(__file__).with_name("static") / "pages.css"
CSS_AGE_S = 3600

BACK = "/billing/back"
"""Where the payment processor's pages lead back to, with an order's id or `card` behind it."""

ON_PAGE = {
    Code.WRONG_CREDENTIALS,
    Code.INVALID_VALUE,
    Code.MISSING_FIELD,
    Code.TOO_MANY_ATTEMPTS,
    Code.EMAIL_TAKEN,
}
"""Refusals that the person can answer on the same page."""


def routes(ways: Ways) -> Blueprint:
    """Every page, and the style sheet."""
    blueprint = Blueprint("pages", __name__, template_folder="templates")
    visitor = Visitor(ways)
    _errors(blueprint, visitor)
    _style(blueprint)
    _in_and_out(blueprint, ways, visitor)
    _sign_up(blueprint, ways, visitor)
    _passwords(blueprint, ways, visitor)
    _proofs(blueprint, ways, visitor)
    _paying(blueprint, ways, visitor)
    devices.pages(blueprint, ways, visitor)
    authorize.pages(blueprint, ways, visitor)
    federation.pages(blueprint, ways, visitor)
    return blueprint


def _errors(blueprint: Blueprint, visitor: Visitor) -> None:
    """People get a page, whatever goes wrong on one."""

    @blueprint.errorhandler(Refusal)
    async def refused(refusal: Refusal) -> Response:
        return await visitor.refused(refusal)

    @blueprint.errorhandler(StorageUnavailable)
    async def away(error: StorageUnavailable) -> Response:
        log.error("storage_unavailable", error=str(error))
        return await visitor.refused(unavailable())

    @blueprint.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        return await visitor.refused(
            Refusal(Code.INVALID_REQUEST, error.description or "Bad request.")
        )

    @blueprint.errorhandler(Exception)
    async def broken(error: Exception) -> Response:
        log.error("request_failed", request_id=g.request_id, exc_info=error)
        return await visitor.refused(
            Refusal(Code.INTERNAL, "Something broke on our side. Nothing was charged.")
        )


def _style(blueprint: Blueprint) -> None:
    written = CSS.read_bytes()

    @blueprint.get("/assets/pages.css")
    @page("pageStyle", "The style of the pages", media="text/css")
    async def style() -> Response:
        response = Response(written, content_type="text/css; charset=utf-8")
        response.headers["Cache-Control"] = f"public, max-age={CSS_AGE_S}"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _in_and_out(blueprint: Blueprint, ways: Ways, visitor: Visitor) -> None:
    @blueprint.get("/signin")
    @page("signInPage", "Sign in")
    async def sign_in_page() -> Response:
        path = local_path(asked().get("next", HOME))
        if await visitor.person() is not None:
            return visitor.to(path)
        return await visitor.page("signin.html", next=path, email="", message="")

    @blueprint.post("/signin")
    @page("signIn", "Sign in", Code.WRONG_CREDENTIALS, Code.TOO_MANY_ATTEMPTS)
    async def sign_in() -> Response:
        told = await visitor.form()
        path, email = local_path(told.get("next", HOME)), told.get("email", "")
        try:
            welcome = await ways.access.login(
                text_field(told, "email"), text_field(told, "password"), client()
            )
        except Refusal as refusal:
            return await _again(visitor, "signin.html", refusal, next=path, email=email)
        return visitor.signed_in(welcome.session_token, path)

    @blueprint.post("/signout")
    @page("signOut", "Sign out")
    async def sign_out() -> Response:
        await visitor.form()
        principal = await visitor.person()
        if principal is not None:
            await ways.sessions.log_out(principal)
        return visitor.signed_out("/signin")

    @blueprint.get(HOME)
    @page("accountPage", "Who is signed in")
    async def account() -> Response:
        principal = await visitor.person()
        if principal is None:
            return visitor.to(with_query("/signin", next=HOME))
        return await visitor.page("account.html", email=principal.email)


def _sign_up(blueprint: Blueprint, ways: Ways, visitor: Visitor) -> None:
    @blueprint.get("/signup")
    @page("signUpPage", "Create an account")
    async def sign_up_page() -> Response:
        return await visitor.page("signup.html", email="", message="")

    @blueprint.post("/signup")
    @page("signUp", "Create an account", Code.TOO_MANY_ATTEMPTS)
    async def sign_up() -> Response:
        told = await visitor.form()
        try:
            email = email_field(told)
            await ways.links.sign_up(email, client())
        except Refusal as refusal:
            return await _again(visitor, "signup.html", refusal, email=told.get("email", ""))
        return await visitor.page("sent.html", email=email)

    @blueprint.get("/signup/finish")
    @page("finishSignUpPage", "Choose a password", Code.INVALID_LINK)
    async def finish_page() -> Response:
        token = asked().get("token", "")
        link = await ways.links.find(token, LinkKind.SIGN_UP)
        return await visitor.page("signup_finish.html", token=token, email=link.email, message="")

    @blueprint.post("/signup/finish")
    @page("finishSignUp", "Choose a password", Code.INVALID_LINK, Code.TOO_MANY_ATTEMPTS)
    async def finish() -> Response:
        told = await visitor.form()
        token = told.get("token", "")
        link = await ways.links.find(token, LinkKind.SIGN_UP)
        try:
            welcome = await ways.links.open_account(token, text_field(told, "password"), client())
        except Refusal as refusal:
            return await _again(
                visitor, "signup_finish.html", refusal, token=token, email=link.email
            )
        response = await visitor.page("welcome.html", email=link.email, api_key=welcome.api_key)
        return visitor.remembered(response, welcome.session_token)


def _passwords(blueprint: Blueprint, ways: Ways, visitor: Visitor) -> None:
    @blueprint.get("/forgot")
    @page("forgotPage", "Ask for a new password")
    async def forgot_page() -> Response:
        return await visitor.page("forgot.html", email="", message="")

    @blueprint.post("/forgot")
    @page("forgot", "Ask for a new password", Code.TOO_MANY_ATTEMPTS)
    async def forgot() -> Response:
        told = await visitor.form()
        try:
            email = email_field(told)
            await ways.links.forgot(email, client())
        except Refusal as refusal:
            return await _again(visitor, "forgot.html", refusal, email=told.get("email", ""))
        return await visitor.page("sent.html", email=email)

    @blueprint.get("/reset")
    @page("resetPage", "Choose a new password", Code.INVALID_LINK)
    async def reset_page() -> Response:
        token = asked().get("token", "")
        link = await ways.links.find(token, LinkKind.RESET)
        proven = await ways.links.is_proven(link.account_id or "")
        return await visitor.page(
            "reset.html", token=token, email=link.email, revoke=not proven, message=""
        )

    @blueprint.post("/reset")
    @page("reset", "Choose a new password", Code.INVALID_LINK)
    async def reset() -> Response:
        told = await visitor.form()
        token, revoke = told.get("token", ""), "revoke_keys" in told
        link = await ways.links.find(token, LinkKind.RESET)
        try:
            await ways.links.reset(token, text_field(told, "password"), revoke_keys=revoke)
        except Refusal as refusal:
            return await _again(
                visitor, "reset.html", refusal, token=token, email=link.email, revoke=revoke
            )
        return await visitor.page("reset_done.html", revoked=revoke)


def _proofs(blueprint: Blueprint, ways: Ways, visitor: Visitor) -> None:
    @blueprint.get("/verify")
    @page("verifyPage", "Confirm your address", Code.INVALID_LINK)
    async def verify_page() -> Response:
        token = asked().get("token", "")
        link = await ways.links.find(token, LinkKind.VERIFY)
        return await visitor.page("verify.html", token=token, email=link.email)

    @blueprint.post("/verify")
    @page("verify", "Confirm your address", Code.INVALID_LINK)
    async def verify() -> Response:
        told = await visitor.form()
        email = await ways.links.verify(told.get("token", ""))
        return await visitor.page("verify_done.html", email=email)


def _paying(blueprint: Blueprint, ways: Ways, visitor: Visitor) -> None:
    @blueprint.get(f"{BACK}/card")
    @page("cardSaved", "Back from leaving a card")
    async def card() -> Response:
        saved = asked().get("checkout") != "canceled"
        return await visitor.page("paid.html", outcome="card_saved" if saved else "canceled")

    @blueprint.get(f"{BACK}/<order_id>")
    @page("backFromCheckout", "Back from paying", Code.NOT_FOUND)
    async def back(order_id: str) -> Response:
        principal = await visitor.person()
        if ways.returned is None or principal is None:
            # Whoever bought with an API key has no session here, and is told where to look.
            canceled = asked().get("checkout") == "canceled"
            return await visitor.page("paid.html", outcome="canceled" if canceled else "unknown")
        state = await ways.returned(principal.account_id, id_in_path(order_id))
        return await visitor.page("paid.html", outcome=state)


async def _again(visitor: Visitor, template: str, refusal: Refusal, **values: Any) -> Response:
    """The same form with what was wrong above it; what no second try mends is an error page."""
    if refusal.code not in ON_PAGE:
        raise refusal
    page = await visitor.page(template, status_of(refusal), message=refusal.message, **values)
    page.headers.extend(headers_of(refusal))
    return page
