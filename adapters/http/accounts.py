"""Registration, sign-in, limits and balance."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
from quart import Blueprint, Response, g

from adapters.http.contract import Auth, Meter, Rate, Repeat, Tag, operation
from adapters.http.keys_view import key_json
from adapters.http.parsing import (
    client,
    email_field,
    json_object,
    optional_text,
    signed_in,
    text_field,
)
from kyma.errors import BILLING_URL, Code
from kyma.flows.access import Welcome
from kyma.keys import Scope
from kyma.ledger import Balance
from kyma.money import decimal_text, number, usd
from kyma.ports.runtime import Quota
from kyma.ports.storage import Principal
from kyma.tiers import TIERS, Tier, why

if TYPE_CHECKING:
    from adapters.http.app import Parts

LOW_BALANCE = usd("1")
"""Under this `low_balance` is true."""


def routes(parts: Parts) -> Blueprint:
    """The routes below /v1/auth and /v1/credits."""
    blueprint = Blueprint("accounts", __name__, url_prefix="/v1")

    @blueprint.post("/auth/register")
    @operation(
        id="register",
        tag=Tag.AUTH,
        summary="Create account",
        description="Returns user_id, api_key (ky-), and session_token (ks-), shown only here.",
        auth=Auth.NONE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.SHOWN_ONCE,
        errors=(Code.EMAIL_TAKEN, Code.TOO_MANY_ATTEMPTS, Code.STORAGE_UNAVAILABLE),
        body="Registration",
        answers={200: "Welcome"},
    )
    async def register() -> Response:
        body = await json_object()
        email, password = email_field(body), text_field(body, "password")
        code = optional_text(body, "referral_code")
        is_invited = await parts.newcomers.is_invited(code)
        sent_by = await parts.newcomers.sender(email, code)
        welcome = await parts.access.register(
            email, password, client(), id=g.made_id, sent_by=sent_by
        )
        await parts.newcomers.greet(welcome)
        await parts.ways.links.greet(welcome, client())
        return _json(welcome_json(welcome, referred=is_invited))

    @blueprint.post("/auth/login")
    @operation(
        id="login",
        tag=Tag.AUTH,
        summary="Login",
        description="Sign in and get a session token, good for 30 days.",
        auth=Auth.NONE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.SHOWN_ONCE,
        errors=(Code.WRONG_CREDENTIALS, Code.TOO_MANY_ATTEMPTS, Code.STORAGE_UNAVAILABLE),
        body="Login",
        answers={200: "SignedIn"},
    )
    async def login() -> Response:
        body = await json_object()
        welcome = await parts.access.login(
            text_field(body, "email"), text_field(body, "password"), client()
        )
        return _json(
            {
                "user_id": welcome.account.id,
                "email": welcome.account.email,
                "session_token": welcome.session_token,
            }
        )

    @blueprint.get("/auth/me")
    @operation(
        id="getMe",
        tag=Tag.AUTH,
        summary="Get current user",
        auth=Auth.KEY,
        scope=Scope.ACCOUNT_READ,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(),
        answers={200: "Me"},
    )
    async def me() -> Response:
        principal = await signed_in(parts.access)
        keys = await parts.accounts.keys(principal.account_id)
        months = await parts.keys.months(principal.account_id)
        tier = parts.access.tier(principal)
        return _json(
            {
                "user_id": principal.account_id,
                "email": principal.email,
                "tier": tier.level,
                "api_keys": [key_json(key, months.get(key.id)) for key in keys],
            }
        )

    @blueprint.get("/auth/limits")
    @operation(
        id="getLimits",
        tag=Tag.AUTH,
        summary="Check rate limits",
        description="Your tier, its limits and what is used of them now.",
        auth=Auth.KEY,
        scope=Scope.ACCOUNT_READ,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(),
        answers={200: "Limits"},
    )
    async def limits() -> Response:
        principal = await signed_in(parts.access)
        quota = await parts.limiter.peek(principal.account_id)
        balance = await parts.ledger.balance(principal.account_id)
        now = parts.clock.now()
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        used = await parts.reports.requests_since(principal.account_id, midnight)
        tier = parts.access.tier(principal)
        return _json(limits_json(principal, tier, quota, balance, used, now))

    @blueprint.get("/credits/balance")
    @operation(
        id="getBalance",
        tag=Tag.CREDITS,
        summary="Check credit balance",
        auth=Auth.KEY,
        scope=Scope.ACCOUNT_READ,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(),
        answers={200: "Balance"},
    )
    async def balance() -> Response:
        principal = await signed_in(parts.access)
        return _json(balance_json(await parts.ledger.balance(principal.account_id)))

    return blueprint


def welcome_json(welcome: Welcome, *, referred: bool) -> dict[str, Any]:
    """A new account with its secrets, shown only here."""
    return {
        "user_id": welcome.account.id,
        "email": welcome.account.email,
        "referred": referred,
        "api_key": welcome.api_key,
        "session_token": welcome.session_token,
    }


def _json(body: Any) -> Response:
    return Response(orjson.dumps(body), content_type="application/json")


def balance_json(balance: Balance) -> dict[str, Any]:
    """Dollars as numbers for clients, and as exact text; `balance` is what can be spent."""
    return {
        "object": "balance",
        "balance": number(balance.available),
        "low_balance": balance.available < LOW_BALANCE,
        "currency": "USD",
        "available": decimal_text(balance.available),
        "held": decimal_text(balance.held),
        "posted": decimal_text(balance.posted),
        "promotional": decimal_text(balance.promo),
        "lifetime_purchased": decimal_text(balance.deposited),
        "topup_url": BILLING_URL,
    }


def limits_json(
    principal: Principal,
    tier: Tier,
    quota: Quota,
    balance: Balance,
    used_today: int,
    now: datetime,
) -> dict[str, Any]:
    """The superset of the three shapes on record, all windows sliding over 60 s."""
    standing = principal.standing
    above = TIERS[tier.level + 1] if tier.level + 1 < len(TIERS) else None
    remaining = max(0, tier.requests_per_minute - quota.requests_used)
    return {
        "object": "limits",
        "tier": tier.level,
        "tier_name": tier.name,
        "why": why(standing.lifetime_deposits, standing.override, now),
        "rpm_limit": tier.requests_per_minute,
        "rpm_used": quota.requests_used,
        "rpm_remaining": remaining,
        "per_model_rpm_limit": tier.model_requests_per_minute,
        "tpm_limit": tier.tokens_per_minute,
        "tpm_used": quota.tokens_used,
        "tpm_remaining": max(0, tier.tokens_per_minute - quota.tokens_used),
        "max_single_request": tier.max_request_tokens,
        "has_credits": balance.available > 0,
        "used_today": used_today,
        "remaining": remaining,
        "resets_at": now + timedelta(seconds=quota.requests_reset_s),
        "counters_available": not quota.unlimited,
        "image_concurrent": tier.image_concurrent,
        "video_concurrent": tier.video_concurrent,
        "audio_concurrent_per_provider": dict(tier.audio_pools),
        "lifetime_purchased": decimal_text(standing.lifetime_deposits),
        "next_tier": above and {"tier": above.level, "min_deposit": number(above.min_deposit)},
    }
