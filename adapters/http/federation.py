"""Signing in with an account elsewhere: off, back, and how it is joined to an account of ours."""

from __future__ import annotations

from quart import Blueprint, Response

from adapters.http.identity import Ways
from adapters.http.page_contract import page
from adapters.http.parsing import client
from adapters.http.visitor import HOME, Visitor, asked, referral
from kyma.errors import Code, Refusal
from kyma.flows.federation import Arrival, Federation
from kyma.identity import LinkKind

START = "/v1/auth/google/start"
CALLBACK = "/v1/auth/google/callback"
JOIN = "/join"
AWAY = (Code.SIGN_IN_FAILED, Code.IDENTITY_UNAVAILABLE)


def pages(blueprint: Blueprint, ways: Ways, visitor: Visitor) -> None:
    """Start, callback, proof by password or mail, and the link that was mailed."""

    @blueprint.get(START)
    @page("startGoogle", "Sign in with Google", Code.NOT_FOUND, *AWAY)
    async def start() -> Response:
        attempt, told = await _federation(ways).begin(), asked()
        path = told.get("next", HOME)
        return visitor.leaving(attempt.address, attempt.seed, referral(told), path)

    @blueprint.get(CALLBACK)
    @page("finishGoogle", "Back from Google", Code.NOT_FOUND, Code.TOO_MANY_ATTEMPTS, *AWAY)
    async def callback() -> Response:
        told, (seed, ref, path) = asked(), visitor.back()
        if "error" in told:
            raise Refusal(Code.SIGN_IN_FAILED, "You are not signed in. Google says you did not.")
        arrival = await _federation(ways).finish(
            seed, told.get("state", ""), told.get("code", ""), client(), ref
        )
        return await _arrived(visitor, arrival, path)

    @blueprint.post("/join/password")
    @page("joinByPassword", "Join by password", Code.INVALID_LINK, Code.TOO_MANY_ATTEMPTS, *AWAY)
    async def by_password() -> Response:
        told = await visitor.form()
        offer, email = told.get("offer", ""), told.get("email", "")
        try:
            arrival = await _federation(ways).prove_by_password(
                offer, told.get("password", ""), client()
            )
        except Refusal as refusal:
            if refusal.code is not Code.WRONG_CREDENTIALS:
                raise
            return await _offer(visitor, email, offer, told.get("next", HOME), "Wrong password.")
        return visitor.signed_in(arrival.session_token, told.get("next", HOME))

    @blueprint.post("/join/mail")
    @page("joinByMail", "Join by mail", Code.INVALID_LINK, Code.TOO_MANY_ATTEMPTS)
    async def by_mail() -> Response:
        told = await visitor.form()
        offer = told.get("offer", "")
        email = await _federation(ways).prove_by_mail(offer, client())
        return await visitor.sent(email, "/join/mail", {"offer": offer})

    @blueprint.get(JOIN)
    @page("joinPage", "Let Google open an account", Code.INVALID_LINK)
    async def join_page() -> Response:
        token = asked().get("token", "")
        link = await ways.links.find(token, LinkKind.JOIN)
        proven = await ways.links.is_proven(link.account_id or "")
        return await visitor.page("join.html", token=token, email=link.email, proven=proven)

    @blueprint.post(JOIN)
    @page("join", "Let Google open an account", Code.INVALID_LINK)
    async def join() -> Response:
        told = await visitor.form()
        arrival = await _federation(ways).join(told.get("token", ""), client())
        return visitor.signed_in(arrival.session_token, HOME)


async def _arrived(visitor: Visitor, arrival: Arrival, path: str) -> Response:
    if arrival.offer:
        return await _offer(visitor, arrival.email, arrival.offer, path, "")
    return visitor.signed_in(arrival.session_token, path)


async def _offer(visitor: Visitor, email: str, offer: str, path: str, message: str) -> Response:
    status = 401 if message else 200
    return await visitor.page(
        "offer.html", status, email=email, offer=offer, next=path, message=message
    )


def _federation(ways: Ways) -> Federation:
    if ways.federation is None:
        raise Refusal(Code.NOT_FOUND, "Signing in with Google is not set up here.")
    return ways.federation
