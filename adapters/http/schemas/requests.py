"""Referrals, and requests for higher limits."""

from __future__ import annotations

from adapters.http.schemas.shapes import (
    DOLLARS,
    MOMENT,
    array,
    integer,
    maybe,
    record,
    ref,
    text,
)
from kyma import limit_requests, referrals
from kyma.limit_requests import LENGTHS

SCHEMAS = {
    "LimitRequestBody": record(
        {
            "company": text("Who you are.", minLength=1, maxLength=LENGTHS["company"]),
            "use": text("What the service is used for.", minLength=1, maxLength=LENGTHS["use"]),
            "expected_load": text(
                "What you expect to need, in your own words.",
                minLength=1,
                maxLength=LENGTHS["expected_load"],
            ),
        },
        examples=[
            {
                "company": "Example GmbH",
                "use": "Summaries of support tickets.",
                "expected_load": "About 250 requests a minute from June on.",
            }
        ],
    ),
    "LimitRequest": record(
        {
            "id": text(),
            "object": text(const="limit_request"),
            "state": text(enum=[state.value for state in limit_requests.State]),
            "company": text(),
            "use": text(),
            "expected_load": text(),
            "requested_at": MOMENT,
            "answered_at": maybe(MOMENT),
            "reason": maybe(text("What the answer says.")),
            "tier": maybe(integer("The tier that was granted.", minimum=0, maximum=4)),
            "until": maybe(text("When it ends; null for no end.", format="date-time")),
        }
    ),
    "LimitRequestList": record({"object": text(const="list"), "data": array(ref("LimitRequest"))}),
    "Referral": record(
        {
            "id": text(),
            "object": text(const="referral"),
            "state": text(enum=[state.value for state in referrals.State]),
            "created_at": MOMENT,
            "verified_at": maybe(MOMENT),
        },
        description="Somebody who registered with your link; nothing says who.",
    ),
    "Referrals": record(
        {
            "object": text(const="referrals"),
            "code": text("Sent as `referral_code` on registration.", examples=["3f8e2a1b4c"]),
            "link": text(format="uri"),
            "reward": DOLLARS,
            "tokens_to_verify": integer("What they must have consumed.", minimum=1),
            "pending": integer(minimum=0),
            "verified": integer(minimum=0),
            "void": integer(minimum=0),
            "earned": DOLLARS,
            "data": array(ref("Referral"), "The newest hundred."),
        }
    ),
}
