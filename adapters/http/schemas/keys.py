"""API keys and sessions."""

from __future__ import annotations

from adapters.http.schemas.shapes import (
    DOLLARS,
    MOMENT,
    Schema,
    array,
    boolean,
    integer,
    maybe,
    number,
    record,
    ref,
    text,
)
from kyma.idempotency import MAX_REPLAY_MINUTES
from kyma.keys import (
    MAX_CAP,
    MAX_MODELS,
    MAX_NAME_LENGTH,
    MAX_NETWORKS,
    MAX_OVERLAP_HOURS,
    Scope,
)
from kyma.money import number as dollars

SCOPES = array(
    text(enum=[scope.value for scope in Scope]),
    "What the key may be used for.",
    minItems=1,
    uniqueItems=True,
)
WISHED: dict[str, Schema] = {
    "name": text(minLength=1, maxLength=MAX_NAME_LENGTH, examples=["build server"]),
    "scopes": SCOPES,
    "allowed_models": {
        **maybe(array(text(), "Models it may ask, by id or alias; empty or null: all.")),
        "maxItems": MAX_MODELS,
    },
    "monthly_cap_usd": {
        "description": "What may be spent with it in a calendar month (UTC); null: no cap.",
        "oneOf": [
            number(minimum=0, maximum=dollars(MAX_CAP)),
            DOLLARS,
            {"type": "null"},
        ],
    },
    "ip_list": {
        **maybe(
            array(
                text(examples=["203.0.113.0/24", "2001:db8::/32"]),
                "Addresses and CIDR networks it may be used from; empty or null: any.",
            )
        ),
        "maxItems": MAX_NETWORKS,
    },
    "expires_at": maybe(text("When it stops to work; null: never.", format="date-time")),
    "replay_minutes": integer(
        "How long answers may be kept, encrypted under the key itself, for an idempotent retry. "
        "0, the default, keeps nothing.",
        minimum=0,
        maximum=MAX_REPLAY_MINUTES,
    ),
}
KEY: dict[str, Schema] = {
    "id": text(),
    "object": text(const="api_key"),
    "name": text(),
    "prefix": text("The first characters of the key.", examples=["ky-a1b2"]),
    "last4": text("Its last four characters."),
    "created_at": MOMENT,
    "revoked_at": maybe(MOMENT),
    "last_used_at": maybe({**MOMENT, "description": "Up to an hour old."}),
    "scopes": SCOPES,
    "allowed_models": array(text(), "Empty: all."),
    "ip_list": array(text(), "Empty: any."),
    "monthly_cap": maybe(DOLLARS),
    "monthly_cap_usd": maybe(number("The same as a number.")),
    "spent_this_month": maybe({**DOLLARS, "description": "Told of keys with a cap."}),
    "cap_left": maybe({**DOLLARS, "description": "Less what is reserved for requests under way."}),
    "expires_at": maybe(MOMENT),
    "previous_secret_until": maybe(
        {**MOMENT, "description": "After a rotation: when the secret before stops to work."}
    ),
    "replay_minutes": WISHED["replay_minutes"],
}
SECRET = text("The secret, shown only here.", pattern="^ky-")

SCHEMAS = {
    "Key": record(KEY, description="A key without its secret."),
    "KeyList": record({"object": text(const="list"), "data": array(ref("Key"))}),
    "KeyWithSecret": record({**KEY, "api_key": SECRET}),
    "NewKey": record(
        WISHED,
        required=("name",),
        additionalProperties=False,
        examples=[{"name": "build server", "monthly_cap_usd": 20}],
        description="Without `scopes` a key may ask models and read the account.",
    ),
    "KeyChange": record(
        WISHED,
        required=(),
        minProperties=1,
        additionalProperties=False,
        examples=[{"name": "build server", "replay_minutes": 10}],
        description="What is not named stays as it is.",
    ),
    "KeyRotation": record(
        {
            "overlap_hours": integer(
                "How long the secret before goes on working.",
                minimum=0,
                maximum=MAX_OVERLAP_HOURS,
            )
        },
        examples=[{"overlap_hours": 24}],
    ),
    "Session": record(
        {
            "id": text(),
            "object": text(const="session"),
            "created_at": MOMENT,
            "expires_at": MOMENT,
            "last_used_at": maybe({**MOMENT, "description": "Up to an hour old."}),
            "user_agent": text("What the program that signed in calls itself."),
            "current": boolean("Whether it is the one that asks."),
        }
    ),
    "SessionList": record({"object": text(const="list"), "data": array(ref("Session"))}),
    "SignedOut": record({"object": text(const="signed_out"), "sessions_ended": integer(minimum=0)}),
}
