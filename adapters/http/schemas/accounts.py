"""Registration, sign-in, limits and balance."""

from __future__ import annotations

from adapters.http.schemas.shapes import (
    DOLLARS,
    MOMENT,
    array,
    boolean,
    integer,
    maybe,
    number,
    record,
    ref,
    text,
)
from kyma.accounts import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH
from kyma.tiers import TIERS

EMAIL = text(format="email", examples=["ada@example.com"])
API_KEY = text("Starts with ky-", pattern="^ky-")
SESSION_TOKEN = text("Starts with ks-", pattern="^ks-")
TIER = integer("0 to 4, by lifetime deposits or an operator's override.", minimum=0, maximum=4)
COUNT = integer(minimum=0)

SCHEMAS = {
    "Registration": record(
        {
            "email": EMAIL,
            "password": text(minLength=MIN_PASSWORD_LENGTH, maxLength=MAX_PASSWORD_LENGTH),
            "referral_code": maybe(text("Of whoever sent you; one that nobody has is ignored.")),
        },
        required=("email", "password"),
        examples=[{"email": "ada@example.com", "password": "correct horse"}],
    ),
    "Login": record(
        {"email": EMAIL, "password": text()},
        examples=[{"email": "ada@example.com", "password": "correct horse"}],
    ),
    "Welcome": record(
        {
            "user_id": text(),
            "email": text(),
            "referred": boolean("Whether somebody has the referral code."),
            "api_key": API_KEY,
            "session_token": SESSION_TOKEN,
        }
    ),
    "SignedIn": record({"user_id": text(), "email": text(), "session_token": SESSION_TOKEN}),
    "Me": record({"user_id": text(), "email": text(), "tier": TIER, "api_keys": array(ref("Key"))}),
    "Balance": record(
        {
            "object": text(const="balance"),
            "balance": number("What can be spent, in USD."),
            "low_balance": boolean("Whether less than one dollar is left."),
            "currency": text(const="USD"),
            "available": DOLLARS,
            "held": DOLLARS,
            "posted": DOLLARS,
            "promotional": DOLLARS,
            "lifetime_purchased": DOLLARS,
            "topup_url": text(format="uri"),
        },
        description="`balance` is a number for clients; the strings beside it are exact.",
    ),
    "Limits": record(
        {
            "object": text(const="limits"),
            "tier": TIER,
            "tier_name": text(enum=[tier.name for tier in TIERS]),
            "why": text("Why this tier."),
            "rpm_limit": COUNT,
            "rpm_used": COUNT,
            "rpm_remaining": COUNT,
            "per_model_rpm_limit": COUNT,
            "tpm_limit": COUNT,
            "tpm_used": COUNT,
            "tpm_remaining": COUNT,
            "max_single_request": COUNT,
            "has_credits": boolean(),
            "used_today": COUNT,
            "remaining": COUNT,
            "resets_at": MOMENT,
            "counters_available": boolean("False while the counters cannot be reached."),
            "image_concurrent": COUNT,
            "video_concurrent": COUNT,
            "audio_concurrent_per_provider": {
                "type": "object",
                "additionalProperties": COUNT,
            },
            "lifetime_purchased": DOLLARS,
            "next_tier": {
                "oneOf": [record({"tier": TIER, "min_deposit": number()}), {"type": "null"}]
            },
        },
        description="All windows slide over 60 seconds; there is no daily limit.",
    ),
}
