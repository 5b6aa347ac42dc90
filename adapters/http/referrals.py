"""An account's referral link, and whom it sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from quart import Blueprint, Response

from adapters.http.contract import Auth, Meter, Rate, Tag, operation
from adapters.http.parsing import signed_in
from kyma.flows.referrals import Mine
from kyma.keys import Scope
from kyma.money import decimal_text
from kyma.referrals import REWARD, TOKENS_TO_VERIFY

if TYPE_CHECKING:
    from adapters.http.app import Parts


def routes(parts: Parts) -> Blueprint:
    """GET /v1/referrals."""
    blueprint = Blueprint("referrals", __name__, url_prefix="/v1")

    @blueprint.get("/referrals")
    @operation(
        id="getReferrals",
        tag=Tag.CREDITS,
        summary="Your referral link and whom it brought",
        description="A referral is verified when the account has consumed a million tokens; "
        "then both sides are granted $0.50, once.",
        auth=Auth.KEY,
        scope=Scope.ACCOUNT_READ,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(),
        answers={200: "Referrals"},
    )
    async def mine() -> Response:
        principal = await signed_in(parts.access)
        found = await parts.referrals.mine(principal.account_id)
        body = referrals_json(found, parts.public.base_url)
        return Response(orjson.dumps(body), content_type="application/json")

    return blueprint


def referrals_json(mine: Mine, base_url: str) -> dict[str, Any]:
    """Counts are of all, the list is of the newest. Addresses and usage stay with their owners."""
    return {
        "object": "referrals",
        "code": mine.code,
        "link": f"{base_url}/?ref={mine.code}",
        "reward": decimal_text(REWARD),
        "tokens_to_verify": TOKENS_TO_VERIFY,
        "pending": mine.tally.pending,
        "verified": mine.tally.verified,
        "void": mine.tally.void,
        "earned": decimal_text(mine.tally.earned),
        "data": [
            {
                "id": referral.id,
                "object": "referral",
                "state": referral.state.value,
                "created_at": referral.created_at,
                "verified_at": referral.verified_at,
            }
            for referral in mine.referrals
        ],
    }
