"""The few pages a person needs: in, out, a new password, an address proven, back from paying.

The answers to forms are pages or redirects within this site. What the pages share (head, style,
headers, cookies) is `templates/base.html` and `visitor.py`, for a dashboard to build on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog
from quart import Blueprint, Response, g, request
from werkzeug.exceptions import HTTPException

from adapters.http import authorize, devices, federation
from adapters.http.errors import headers_of, status_of
from adapters.http.identity import Ways
from adapters.http.page_contract import page
from adapters.http.parsing import client, email_field, id_in_path, text_field
from adapters.http.visitor import HOME, Visitor, asked, local_path, referral, spoken
from kyma.errors import Code, Refusal
from kyma.flows.access import unavailable
from kyma.identity import LinkKind, with_query
from kyma.ports.storage import StorageUnavailable

log = structlog.get_logger("kyma.http")

STATIC = Path(__file__).with_name("static")
ASSET_AGE_S = 3600

BACK = "/billing/back"
"""Where the payment processor's pages lead back to, with an order's id or `card` behind it."""

PROOF = f"{HOME}/verify"

WRONG_PASSWORD = (Code.WRONG_CREDENTIALS, Code.TOO_MANY_ATTEMPTS)
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
    _asset(blueprint, "pages.css", "pageStyle", "The style of the pages", "text/css")
    _asset(blueprint, "icon.svg", "pageIcon", "The sign of the pages", "image/svg+xml")
    _in_and_out(blueprint, ways, visitor)
    _home(blueprint, ways, visitor)
    _sign_up(blueprint, ways, visitor)
    _finish_sign_up(blueprint, ways, visitor)
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


def _asset(blueprint: Blueprint, name: str, id: str, summary: str, media: str) -> None:
    written = (STATIC / name).read_bytes()

    @blueprint.get(f"/assets/{name}", endpoint=id)
    @page(id, summary, media=media)
    async def asset() -> Response:
        response = Response(written, content_type=f"{media}; charset=utf-8")
        response.headers["Cache-Control"] = f"public, max-age={ASSET_AGE_S}"
        response.vary.add("Cookie")  # what is left is told of who asks
        response.headers["Content-Security-Policy"] = "default-src 'none'"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _in_and_out(blueprint: Blueprint, ways: Ways, visitor: Visitor) -> None:
    @blueprint.get("/signin")
    @page("signInPage", "Sign in")
    async def sign_in_page() -> Response:
        told = asked()
        path = local_path(told.get("next", HOME))
        if await visitor.person() is not None:
            return visitor.to(path)
        return await visitor.page(
            "signin.html", next=path, ref=referral(told), email="", message=""
        )

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
            ref = referral(told)
            return await _again(visitor, "signin.html", refusal, next=path, ref=ref, email=email)
        return visitor.signed_in(welcome.session_token, path)

    @blueprint.post("/signout")
    @page("signOut", "Sign out")
    async def sign_out() -> Response:
        await visitor.form()
        principal = await visitor.person()
        if principal is not None:
            await ways.sessions.log_out(principal)
        return visitor.signed_out("/signin")


def _home(blueprint: Blueprint, ways: Ways, visitor: Visitor) -> None:
    @blueprint.get("/")
    @page("frontPage", "Where the address of the site and referral links lead")
    async def front() -> Response:
        # The first of several, and no error: a link that somebody mangled still leads here.
        ref = referral({"ref": request.args.get("ref", "")})
        return visitor.to(with_query("/signup", ref=ref) if ref else HOME)

    @blueprint.get(HOME)
    @page("accountPage", "Who is signed in")
    async def account() -> Response:
        principal = await visitor.person()
        if principal is None:
            return visitor.to(with_query("/signin", next=HOME))
        proven = await ways.links.is_proven(principal.account_id)
        return await visitor.page("account.html", email=principal.email, proven=proven)

    @blueprint.post(PROOF)
    @page("askProof", "Send the link to confirm an address again", Code.TOO_MANY_ATTEMPTS)
    async def ask_proof() -> Response:
        await visitor.form()
        principal = await visitor.person()
        if principal is None:
            return visitor.to(with_query("/signin", next=HOME))
        if not await ways.links.ask_proof(principal.account_id, principal.email, client()):
            return visitor.to(HOME)
        return await visitor.sent(principal.email, PROOF, {})


def _sign_up(blueprint: Blueprint, ways: Ways, visitor: Visitor) -> None:
    @blueprint.get("/signup")
    @page("signUpPage", "Create an account")
    async def sign_up_page() -> Response:
        if await visitor.person() is not None:
            return visitor.to(HOME)
        ref = referral({"ref": request.args.get("ref", "")})
        return await visitor.page("signup.html", ref=ref, email="", message="")

    @blueprint.post("/signup")
    @page("signUp", "Create an account", Code.TOO_MANY_ATTEMPTS)
    async def sign_up() -> Response:
        told = await visitor.form()
        ref = referral(told)
        try:
            email = email_field(told)
            await ways.links.sign_up(email, client(), ref)
        except Refusal as refusal:
            typed = told.get("email", "")
            return await _again(visitor, "signup.html", refusal, ref=ref, email=typed)
        return await visitor.sent(email, "/signup", {"email": email, "ref": ref})


def _finish_sign_up(blueprint: Blueprint, ways: Ways, visitor: Visitor) -> None:
    @blueprint.get("/signup/finish")
    @page("finishSignUpPage", "Choose a password", Code.INVALID_LINK)
    async def finish_page() -> Response:
        told = asked()
        token = told.get("token", "")
        link = await ways.links.find(token, LinkKind.SIGN_UP)
        return await visitor.page(
            "signup_finish.html", token=token, ref=referral(told), email=link.email, message=""
        )

    @blueprint.post("/signup/finish")
    @page("finishSignUp", "Choose a password", Code.INVALID_LINK, Code.TOO_MANY_ATTEMPTS)
    async def finish() -> Response:
        told = await visitor.form()
        token, ref = told.get("token", ""), referral(told)
        link = await ways.links.find(token, LinkKind.SIGN_UP)
        try:
            password = text_field(told, "password")
            welcome = await ways.links.open_account(token, password, client(), ref)
        except Refusal as refusal:
            return await _again(
                visitor, "signup_finish.html", refusal, token=token, ref=ref, email=link.email
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
        return await visitor.sent(email, "/forgot", {"email": email})

    @blueprint.get("/reset")
    @page("resetPage", "Choose a new password", Code.INVALID_LINK)
    async def reset_page() -> Response:
        token = asked().get("token", "")
        link = await ways.links.find(token, LinkKind.RESET)
        proven = await ways.links.is_proven(link.account_id or "")
        return await visitor.page(
            "reset.html", token=token, email=link.email, proven=proven, revoke=False, message=""
        )

    @blueprint.post("/reset")
    @page("reset", "Choose a new password", Code.INVALID_LINK)
    async def reset() -> Response:
        told = await visitor.form()
        token, revoke = told.get("token", ""), "revoke_keys" in told
        link = await ways.links.find(token, LinkKind.RESET)
        proven = await ways.links.is_proven(link.account_id or "")
        try:
            await ways.links.reset(token, text_field(told, "password"), revoke_keys=revoke)
        except Refusal as refusal:
            told = {"token": token, "email": link.email}
            return await _again(
                visitor, "reset.html", refusal, proven=proven, revoke=revoke, **told
            )
        return await visitor.page("reset_done.html", revoked=revoke or not proven)


def _proofs(blueprint: Blueprint, ways: Ways, visitor: Visitor) -> None:
    @blueprint.get("/verify")
    @page("verifyPage", "Confirm your address", Code.INVALID_LINK)
    async def verify_page() -> Response:
        token = asked().get("token", "")
        link = await ways.links.find(token, LinkKind.VERIFY)
        person = await visitor.person()
        known = person is not None and person.account_id == link.account_id
        return await visitor.page(
            "verify.html", token=token, email=link.email, known=known, message=""
        )

    @blueprint.post("/verify")
    @page("verify", "Confirm your address", Code.INVALID_LINK, *WRONG_PASSWORD)
    async def verify() -> Response:
        told, person = await visitor.form(), await visitor.person()
        token, password = told.get("token", ""), told.get("password", "")
        link = await ways.links.find(token, LinkKind.VERIFY)
        holder = "" if person is None else person.account_id
        try:
            email = await ways.links.verify(token, password, holder, client())
        except Refusal as refusal:
            told = {"token": token, "email": link.email}
            return await _again(visitor, "verify.html", refusal, known=False, **told)
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
        return await visitor.page("paid.html", outcome=state, here=request.path)


async def _again(visitor: Visitor, template: str, refusal: Refusal, **values: Any) -> Response:
    """The same form with what was wrong above it; what no second try mends is an error page."""
    if refusal.code not in ON_PAGE:
        raise refusal
    page = await visitor.page(template, status_of(refusal), message=spoken(refusal), **values)
    page.headers.extend(headers_of(refusal))
    return page
