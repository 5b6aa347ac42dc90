"""How a request that failed is told: to its record, and to its caller."""

from __future__ import annotations

import asyncio

from kyma.calls import Fault, UpstreamError
from kyma.errors import Code, Refusal


def outcome_of(error: BaseException) -> str:
    """The word for a usage record whose request ended by `error`; its customer reads it, too."""
    if isinstance(error, Refusal):
        return error.code.value
    return "cancelled" if isinstance(error, asyncio.CancelledError) else Code.INTERNAL.value


def refusal_of(error: UpstreamError) -> Refusal:
    """What a caller is told of an upstream's fault; trouble with our accounts is not theirs."""
    again = "Nothing was charged; try again."
    match error.fault:
        case Fault.BAD_REQUEST:
            return Refusal(Code.REFUSED_BY_MODEL, error.message, param=error.param)
        case Fault.TOO_LONG:
            return Refusal(Code.CONTEXT_TOO_LONG, error.message, param="messages")
        case Fault.REFUSED:
            return Refusal(Code.CONTENT_FILTERED, error.message, param="messages")
        case Fault.BUSY:
            return Refusal(
                Code.PROVIDER_BUSY,
                f"Every provider of this model is busy. {again}",
                retry_after_s=error.retry_after_s or 1,
            )
        case Fault.TIMEOUT | Fault.OVERDUE:
            return Refusal(Code.PROVIDER_TIMEOUT, f"No provider answered in time. {again}")
        case Fault.BROKEN | Fault.DENIED:
            return Refusal(Code.PROVIDER_ERROR, f"Every provider of this model failed. {again}")
