"""Every refusal a caller can meet: a stable code, whether to retry, whether it cost money.

HTTP statuses are not known here; `adapters/http/errors.py` maps each code to one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

BILLING_URL = "https://kymaapi.com/billing"


class Code(StrEnum):
    """Stable machine-readable reasons; never rename one."""

    INVALID_JSON = "invalid_json"
    INVALID_REQUEST = "invalid_request"
    MISSING_FIELD = "missing_required_parameter"
    INVALID_TYPE = "invalid_type"
    INVALID_VALUE = "invalid_value"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TIMEOUT = "body_timeout"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"

    MISSING_KEY = "missing_api_key"
    MALFORMED_KEY = "malformed_api_key"
    INVALID_KEY = "invalid_api_key"
    EXPIRED_KEY = "expired_api_key"
    WRONG_CREDENTIALS = "wrong_credentials"
    EMAIL_TAKEN = "email_taken"
    REQUEST_OPEN = "request_already_open"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    FORBIDDEN = "forbidden"
    SCOPE_MISSING = "insufficient_scope"
    ADDRESS_NOT_ALLOWED = "ip_not_allowed"

    AUTHORIZATION_PENDING = "authorization_pending"
    SLOW_DOWN = "slow_down"
    EXPIRED_TOKEN = "expired_token"  # noqa: S105 - RFC 8628 names it so
    ACCESS_DENIED = "access_denied"
    INVALID_CLIENT = "invalid_client"
    INVALID_GRANT = "invalid_grant"
    UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"
    INVALID_LINK = "invalid_link"
    SIGN_IN_FAILED = "sign_in_failed"
    IDENTITY_UNAVAILABLE = "identity_provider_unavailable"

    MODEL_NOT_FOUND = "model_not_found"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    REQUEST_TOO_LARGE = "max_single_request_exceeded"
    RATE_LIMITED = "rate_limited"
    INSUFFICIENT_CREDITS = "insufficient_credits"
    KEY_CAP_REACHED = "key_cap_reached"
    MAX_COST_EXCEEDED = "max_cost_exceeded"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    IDEMPOTENCY_IN_PROGRESS = "idempotency_in_progress"

    CONTEXT_TOO_LONG = "context_length_exceeded"
    CONTENT_FILTERED = "content_filter"
    REFUSED_BY_MODEL = "provider_rejected_request"
    PROVIDER_ERROR = "provider_error"
    PROVIDER_TIMEOUT = "provider_timeout"
    PROVIDER_BUSY = "provider_overloaded"
    NO_ROUTE = "no_route_available"
    STREAM_INTERRUPTED = "stream_interrupted"
    DEADLINE_PASSED = "deadline_passed"

    BILLING_OFF = "billing_off"
    PAYMENT_FAILED = "payment_failed"
    PAYMENT_ACTION = "payment_action_required"
    PAYMENT_NOT_CREDITED = "payment_not_credited"
    PROCESSOR_UNAVAILABLE = "payment_processor_unavailable"
    SETTING_CHANGED = "setting_changed"
    FORGED_NOTICE = "invalid_signature"

    STORAGE_UNAVAILABLE = "storage_unavailable"
    INTERNAL = "internal_error"


RETRYABLE = frozenset(
    {
        Code.BODY_TIMEOUT,
        Code.RATE_LIMITED,
        Code.TOO_MANY_ATTEMPTS,
        Code.AUTHORIZATION_PENDING,
        Code.SLOW_DOWN,
        Code.IDENTITY_UNAVAILABLE,
        Code.IDEMPOTENCY_IN_PROGRESS,
        Code.PROVIDER_ERROR,
        Code.PROVIDER_TIMEOUT,
        Code.PROVIDER_BUSY,
        Code.NO_ROUTE,
        Code.STREAM_INTERRUPTED,
        Code.BILLING_OFF,
        Code.PROCESSOR_UNAVAILABLE,
        Code.STORAGE_UNAVAILABLE,
        Code.INTERNAL,
    }
)


def whole_seconds(wait_s: float) -> int:
    """A wait as `Retry-After` tells it: rounded up, for who comes earlier is refused again."""
    return max(1, math.ceil(wait_s))


def in_seconds(wait_s: float) -> str:
    """The same in words, for the message beside it."""
    seconds = whole_seconds(wait_s)
    return "1 second" if seconds == 1 else f"{seconds} seconds"


class Refusal(Exception):
    """A request that is not served, in words its sender can act on.

    `param` names the offending field, `retry_after_s` is honest or absent, `details`
    holds further JSON-ready facts. No refusal is charged: a hold placed for the request
    has been returned by the time this reaches the edge. Two exceptions say so: `charged=None`,
    for what was sent and whose answer was lost, and `charged=True`, for a card that was charged
    for what an operator has yet to book or to send back.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        details: Mapping[str, Any] = MappingProxyType({}),
        charged: bool | None = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.details = details
        self.charged = charged

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later unchanged."""
        return self.code in RETRYABLE
