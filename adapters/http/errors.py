"""From refusals to HTTP: the one table of statuses and types, and the OpenAI envelope."""

from __future__ import annotations

import math
from typing import Any

from kyma.errors import Code, Refusal
from kyma.ports.runtime import Quota
from kyma.tiers import Tier

INVALID = "invalid_request_error"
AUTH = "authentication_error"
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
    Code.WRONG_CREDENTIALS: (401, AUTH),
    Code.EMAIL_TAKEN: (409, INVALID),
    Code.FORBIDDEN: (403, "permission_error"),
    Code.MODEL_NOT_FOUND: (404, INVALID),
    Code.REQUEST_TOO_LARGE: (400, INVALID),
    Code.RATE_LIMITED: (429, "rate_limit"),
    Code.INSUFFICIENT_CREDITS: (402, "insufficient_credits"),
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
    Code.STORAGE_UNAVAILABLE: (503, SERVER),
    Code.INTERNAL: (500, SERVER),
}
"""Status and `error.type` of every refusal; a test holds this table to `kyma.errors.Code`."""


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


def headers_of(refusal: Refusal) -> list[tuple[str, str]]:
    """`Retry-After` (whole seconds, rounded up) and, on a limit, what was reached."""
    headers = []
    if refusal.retry_after_s is not None:
        headers.append(("Retry-After", str(max(1, math.ceil(refusal.retry_after_s)))))
    quota, tier = refusal.details.get("quota"), refusal.details.get("rung")
    if isinstance(quota, Quota) and isinstance(tier, Tier):
        headers += quota_headers(tier, quota)
    if refusal.code in {Code.MISSING_KEY, Code.MALFORMED_KEY, Code.INVALID_KEY}:
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
