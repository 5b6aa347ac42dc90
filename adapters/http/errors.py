"""From refusals to HTTP: the one table of statuses and types, and the OpenAI envelope."""

from __future__ import annotations

from typing import Any

from kyma.errors import Code, Refusal, whole_seconds
from kyma.ports.runtime import Quota
from kyma.strangers import Left
from kyma.tiers import Tier

INVALID = "invalid_request_error"
AUTH = "authentication_error"
PERMISSION = "permission_error"
PROVIDER = "provider_error"
SERVER = "server_error"

STATUS: dict[Code, tuple[int, str]] = {
    Code.INVALID_JSON: (400, INVALID),
    Code.INVALID_REQUEST: (400, INVALID),
    Code.MISSING_FIELD: (400, INVALID),
    Code.INVALID_TYPE: (400, INVALID),
    Code.INVALID_VALUE: (400, INVALID),
    Code.UNSUPPORTED_MEDIA_TYPE: (415, INVALID),
    Code.BODY_TOO_LARGE: (413, INVALID),
    Code.BODY_TIMEOUT: (408, INVALID),
    Code.NOT_FOUND: (404, INVALID),
    Code.METHOD_NOT_ALLOWED: (405, INVALID),
    Code.MISSING_KEY: (401, AUTH),
    Code.MALFORMED_KEY: (401, AUTH),
    Code.INVALID_KEY: (401, AUTH),
    Code.EXPIRED_KEY: (401, AUTH),
    Code.WRONG_CREDENTIALS: (401, AUTH),
    Code.EMAIL_TAKEN: (409, INVALID),
    Code.REQUEST_OPEN: (409, INVALID),
    Code.TOO_MANY_ATTEMPTS: (429, "rate_limit"),
    Code.FORBIDDEN: (403, PERMISSION),
    Code.SCOPE_MISSING: (403, PERMISSION),
    Code.ADDRESS_NOT_ALLOWED: (403, PERMISSION),
    Code.AUTHORIZATION_PENDING: (428, AUTH),
    Code.SLOW_DOWN: (428, AUTH),
    Code.EXPIRED_TOKEN: (400, AUTH),
    Code.ACCESS_DENIED: (400, AUTH),
    Code.INVALID_CLIENT: (400, AUTH),
    Code.INVALID_GRANT: (400, AUTH),
    Code.UNSUPPORTED_GRANT_TYPE: (400, INVALID),
    Code.INVALID_LINK: (400, INVALID),
    Code.SIGN_IN_FAILED: (400, AUTH),
    Code.IDENTITY_UNAVAILABLE: (503, SERVER),
    Code.MODEL_NOT_FOUND: (404, INVALID),
    Code.MODEL_NOT_ALLOWED: (403, PERMISSION),
    Code.REQUEST_TOO_LARGE: (400, INVALID),
    Code.RATE_LIMITED: (429, "rate_limit"),
    Code.INSUFFICIENT_CREDITS: (402, "insufficient_credits"),
    Code.KEY_CAP_REACHED: (402, "key_cap_reached"),
    Code.MAX_COST_EXCEEDED: (400, INVALID),
    Code.IDEMPOTENCY_KEY_REUSED: (409, INVALID),
    Code.IDEMPOTENCY_IN_PROGRESS: (409, INVALID),
    Code.CONTEXT_TOO_LONG: (400, INVALID),
    Code.CONTENT_FILTERED: (400, INVALID),
    Code.REFUSED_BY_MODEL: (400, INVALID),
    Code.PROVIDER_ERROR: (502, PROVIDER),
    Code.PROVIDER_TIMEOUT: (504, PROVIDER),
    Code.PROVIDER_BUSY: (503, PROVIDER),
    Code.NO_ROUTE: (503, PROVIDER),
    Code.STREAM_INTERRUPTED: (502, PROVIDER),
    Code.DEADLINE_PASSED: (400, INVALID),
    Code.BILLING_OFF: (503, SERVER),
    Code.PAYMENT_FAILED: (402, "payment_failed"),
    Code.PAYMENT_ACTION: (402, "payment_action_required"),
    Code.PAYMENT_NOT_CREDITED: (402, "payment_not_credited"),
    Code.PROCESSOR_UNAVAILABLE: (503, SERVER),
    Code.SETTING_CHANGED: (409, INVALID),
    Code.FORGED_NOTICE: (400, INVALID),
    Code.STORAGE_UNAVAILABLE: (503, SERVER),
    Code.INTERNAL: (500, SERVER),
}
"""Status and `error.type` of every refusal; a test holds this table to `kyma.errors.Code`."""


NO_KEY = {Code.MISSING_KEY, Code.MALFORMED_KEY, Code.INVALID_KEY, Code.EXPIRED_KEY}


def status_of(refusal: Refusal) -> int:
    """The HTTP status of a refusal."""
    return STATUS[refusal.code][0]


def envelope(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """The error body that OpenAI's clients read, with ours beside it."""
    shown = {
        name: value for name, value in refusal.details.items() if name not in {"quota", "rung"}
    }
    return {
        "error": {
            "message": refusal.message,
            "type": STATUS[refusal.code][1],
            "code": refusal.code.value,
            "param": refusal.param,
            "retryable": refusal.retryable,
            "charged": refusal.charged,
            "request_id": request_id,
            **shown,
        }
    }


OAUTH_WORDS = frozenset(
    {
        Code.AUTHORIZATION_PENDING,
        Code.SLOW_DOWN,
        Code.EXPIRED_TOKEN,
        Code.ACCESS_DENIED,
        Code.INVALID_CLIENT,
        Code.INVALID_GRANT,
        Code.UNSUPPORTED_GRANT_TYPE,
    }
)
"""Codes that RFC 6749 section 5.2 and RFC 8628 section 3.5 name themselves."""


def oauth_envelope(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """The error body that OAuth's clients read, `error` a plain word, with ours beside it."""
    status = status_of(refusal)
    general = "invalid_request" if status < 500 else "server_error"
    if status in {429, 503}:
        general = "temporarily_unavailable"
    word = refusal.code.value if refusal.code in OAUTH_WORDS else general
    ours = envelope(refusal, request_id)["error"]
    return {"error": word, "error_description": refusal.message, **ours}


def headers_of(refusal: Refusal) -> list[tuple[str, str]]:
    """`Retry-After` (whole seconds, rounded up) and, on a limit, what was reached."""
    headers = []
    if refusal.retry_after_s is not None:
        headers.append(("Retry-After", str(whole_seconds(refusal.retry_after_s))))
    quota, tier = refusal.details.get("quota"), refusal.details.get("rung")
    if isinstance(quota, Quota) and isinstance(tier, Tier):
        headers += quota_headers(tier, quota)
    if refusal.code in NO_KEY:
        headers.append(("WWW-Authenticate", "Bearer"))
    return headers


def quota_headers(tier: Tier, quota: Quota) -> list[tuple[str, str]]:
    """What is left of the sliding windows, in the field's spelling."""
    return [
        ("X-RateLimit-Limit-Requests", str(tier.requests_per_minute)),
        (
            "X-RateLimit-Remaining-Requests",
            str(max(0, tier.requests_per_minute - quota.requests_used)),
        ),
        ("X-RateLimit-Reset-Requests", f"{quota.requests_reset_s:.3f}s"),
        ("X-RateLimit-Limit-Tokens", str(tier.tokens_per_minute)),
        ("X-RateLimit-Remaining-Tokens", str(max(0, tier.tokens_per_minute - quota.tokens_used))),
    ]


def stranger_headers(left: Left) -> list[tuple[str, str]]:
    """The same of an address whose requests show no known key; it has no tokens."""
    return [
        ("X-RateLimit-Limit-Requests", str(left.limit)),
        ("X-RateLimit-Remaining-Requests", str(left.remaining)),
        ("X-RateLimit-Reset-Requests", f"{left.reset_s:.3f}s"),
    ]
