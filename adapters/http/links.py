"""Forgotten passwords and unproven addresses, for programs; the pages are in `pages.py`."""

from __future__ import annotations

from quart import Blueprint, Response

from adapters.http.contract import Auth, Meter, Rate, Repeat, Tag, operation
from adapters.http.identity import Ways, private_json
from adapters.http.parsing import client, email_field, json_object, signed_in, text_field
from kyma.errors import Code, Refusal
from kyma.keys import Scope

ASKED = "If there is an account with this address, a link to a new password is on its way to it."


def routes(ways: Ways) -> Blueprint:
    """Below /v1/auth/password and /v1/auth/verify."""
    blueprint = Blueprint("links", __name__, url_prefix="/v1/auth")
    _passwords(blueprint, ways)
    _proofs(blueprint, ways)
    return blueprint


def _passwords(blueprint: Blueprint, ways: Ways) -> None:
    @blueprint.post("/password/forgot")
    @operation(
        id="forgotPassword",
        tag=Tag.AUTH,
        summary="Ask for a new password",
        description="Mails a link that works once, for an hour. The answer is the same, and "
        "takes the same time, whether the address has an account.",
        auth=Auth.NONE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.ANSWER,
        errors=(Code.TOO_MANY_ATTEMPTS, Code.STORAGE_UNAVAILABLE),
        body="AddressWish",
        answers={200: "MailAsked"},
    )
    async def forgot() -> Response:
        await ways.links.forgot(email_field(await json_object()), client())
        return private_json({"object": "mail", "message": ASKED})

    @blueprint.post("/password/reset")
    @operation(
        id="resetPassword",
        tag=Tag.AUTH,
        summary="Set a new password",
        description="By the token of the link that was mailed. Every session ends; keys too if "
        "`revoke_keys`, and always if the address was never confirmed before.",
        auth=Auth.NONE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.ANSWER,
        errors=(Code.INVALID_LINK, Code.STORAGE_UNAVAILABLE),
        body="PasswordReset",
        answers={200: "PasswordChanged"},
    )
    async def reset() -> Response:
        body = await json_object()
        revoke = body.get("revoke_keys", False)
        if not isinstance(revoke, bool):
            raise Refusal(
                Code.INVALID_TYPE, "`revoke_keys` must be a boolean.", param="revoke_keys"
            )
        account = await ways.links.reset(
            text_field(body, "token"), text_field(body, "password"), revoke_keys=revoke
        )
        return private_json({"user_id": account.id, "email": account.email})


def _proofs(blueprint: Blueprint, ways: Ways) -> None:
    @blueprint.post("/verify")
    @operation(
        id="askVerification",
        tag=Tag.AUTH,
        summary="Verify your address",
        description="Mails the account's address a link that works once, for a day.",
        auth=Auth.KEY,
        scope=Scope.ACCOUNT_READ,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.ANSWER,
        errors=(Code.TOO_MANY_ATTEMPTS,),
        answers={200: "ProofAsked"},
    )
    async def ask() -> Response:
        principal = await signed_in(ways.access)
        sent = await ways.links.ask_proof(principal.account_id, principal.email, client())
        return private_json({"email": principal.email, "verified": not sent})

    @blueprint.post("/verify/confirm")
    @operation(
        id="confirmVerification",
        tag=Tag.AUTH,
        summary="Confirm your address",
        description="By the token of the link that was mailed and the account's password: who "
        "reads the mail need not be who opened the account.",
        auth=Auth.NONE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.ANSWER,
        errors=(
            Code.INVALID_LINK,
            Code.WRONG_CREDENTIALS,
            Code.TOO_MANY_ATTEMPTS,
            Code.STORAGE_UNAVAILABLE,
        ),
        body="AddressProof",
        answers={200: "AddressProven"},
    )
    async def confirm() -> Response:
        body = await json_object()
        email = await ways.links.verify(
            text_field(body, "token"), text_field(body, "password"), client=client()
        )
        return private_json({"email": email, "verified": True})
