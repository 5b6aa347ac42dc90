"""Device codes, authorization codes, links by mail, and the errors that OAuth's clients read."""

from __future__ import annotations

from adapters.http.schemas.accounts import API_KEY, EMAIL
from adapters.http.schemas.errors import TYPES
from adapters.http.schemas.shapes import boolean, integer, maybe, number, record, text
from kyma.accounts import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH
from kyma.errors import Code
from kyma.identity import DEVICE_CODE_S, POLL_INTERVAL_S

LINK_TOKEN = text("From the link that was mailed.", minLength=1)

SCHEMAS = {
    "DeviceWish": record(
        {
            "client_name": maybe(
                text("What the person is shown, and what the key is called.", examples=["kyma-ter"])
            )
        },
        required=(),
    ),
    "DeviceCode": record(
        {
            "device_code": text("The device's secret."),
            "user_code": text("What the person compares.", pattern="^KYMA-[2-9A-HJ-NP-Z]{4}$"),
            "verification_url": text("Open it with `?code=` and the user code.", format="uri"),
            "verification_uri": text("The same, by the name of RFC 8628.", format="uri"),
            "verification_uri_complete": text("The same, code included.", format="uri"),
            "interval": integer("Seconds between two questions.", examples=[POLL_INTERVAL_S]),
            "expires_in": integer("Seconds until it is too late.", examples=[DEVICE_CODE_S]),
        }
    ),
    "DevicePoll": record({"device_code": text(minLength=1)}),
    "GivenKey": record(
        {
            "access_token": API_KEY,
            "api_key": API_KEY,
            "token_type": text(const="Bearer"),
            "user_id": text(),
            "email": text(),
            "balance": number("What can be spent, in USD."),
        },
        description="The access token is an API key of the account, named after the client.",
    ),
    "CodeExchange": record(
        {
            "grant_type": text(const="authorization_code"),
            "code": text(minLength=1),
            "code_verifier": text("PKCE's, of 43 to 128 characters.", minLength=1),
            "client_id": text(minLength=1),
            "redirect_uri": text("The same as was asked with.", minLength=1),
        },
    ),
    "OAuthError": record(
        {
            "error": text("A word of RFC 6749 or RFC 8628.", examples=["authorization_pending"]),
            "error_description": text("What went wrong and what to do, in a sentence."),
            "message": text("The same."),
            "type": text(enum=TYPES),
            "code": text("Stable; never renamed.", enum=[code.value for code in Code]),
            "param": maybe(text("The field at fault.")),
            "retryable": boolean("Whether the same request may succeed later."),
            "charged": boolean(),
            "request_id": text("The same as in X-Kyma-Request-Id."),
            "interval": integer("With `slow_down`: how many seconds to wait from now on."),
        },
        required=("error", "error_description", "code", "retryable", "request_id"),
    ),
    "AddressWish": record({"email": EMAIL}),
    "MailAsked": record(
        {"object": text(const="mail"), "message": text("The same for every address.")}
    ),
    "PasswordReset": record(
        {
            "token": LINK_TOKEN,
            "password": text(minLength=MIN_PASSWORD_LENGTH, maxLength=MAX_PASSWORD_LENGTH),
            "revoke_keys": boolean(
                "Whether every API key shall stop, too. They do in any case if the address was "
                "never confirmed before."
            ),
        },
        required=("token", "password"),
    ),
    "PasswordChanged": record({"user_id": text(), "email": text()}),
    "ProofAsked": record(
        {"email": text(), "verified": boolean("True: it was before, and no mail was sent.")}
    ),
    "AddressProof": record(
        {"token": LINK_TOKEN, "password": text("The account's.", maxLength=MAX_PASSWORD_LENGTH)}
    ),
    "AddressProven": record({"email": text(), "verified": boolean()}),
}
