"""The sandbox's refusals, in OpenAI's envelope and in Anthropic's: which fault is which of them.

Pure tables and words; sending them, and the faults that are no refusal, belong to others.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from adapters.embedded.sandbox_faults import FaultName
from adapters.embedded.sandbox_text import Json

CONTEXT_TOKENS = 1_048_576


@dataclass(slots=True, eq=False)
class ApiError(Exception):
    """An answer with an error body; `retry_after` becomes the header."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None

    def body(self) -> Json:
        """The error as OpenAI writes it."""
        said = {
            "message": self.message, "type": self.type, "param": self.param, "code": self.code,
        }  # fmt: skip
        return {"error": said}

    def anthropic_body(self, request_id: str) -> Json:
        """The error as Anthropic writes it: no code, no param, but the request's id."""
        kind = _ANTHROPIC_TYPES.get(self.status, "api_error")
        said = {"type": kind, "message": self.message}
        return {"type": "error", "error": said, "request_id": request_id}


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""https://docs.claude.com/en/api/errors, read 2026-11; the rest is `api_error`."""

OPENAI_FAULTS: Mapping[FaultName, ApiError] = {
    FaultName.ERROR_500: ApiError(
        500, "The server had an error while processing your request.", "server_error"
    ),
    FaultName.ERROR_503: ApiError(
        503, "The engine is currently overloaded, please try again later.", "server_error"
    ),
    FaultName.FLAP: ApiError(503, "The server is temporarily unavailable.", "server_error"),
    FaultName.RATE_LIMIT: ApiError(
        429, "Rate limit reached for requests.", "requests", None, "rate_limit_exceeded", 1
    ),
    FaultName.UNAUTHORIZED: ApiError(401, "Incorrect API key provided.", code="invalid_api_key"),
    FaultName.PAYMENT_REQUIRED: ApiError(
        402, "You exceeded your current quota.", "insufficient_quota", None, "insufficient_quota"
    ),
    FaultName.BAD_REQUEST: ApiError(400, "The request was not understood.", code="invalid_value"),
    FaultName.CONTENT_FILTER: ApiError(
        400, "The prompt was refused by the content filter.", param="prompt", code="content_filter"
    ),
    FaultName.CONTEXT_TOO_LONG: ApiError(
        400,
        f"This model's maximum context length is {CONTEXT_TOKENS} tokens. "
        "Please reduce the length of the messages.",
        param="messages",
        code="context_length_exceeded",
    ),
    FaultName.REJECT_PREFILL: ApiError(
        400, "This model does not support assistant message prefill.", param="messages"
    ),
}

ANTHROPIC_FAULTS: Mapping[FaultName, ApiError] = {
    FaultName.ERROR_500: ApiError(500, "Internal server error"),
    FaultName.ERROR_503: ApiError(529, "Overloaded"),
    FaultName.FLAP: ApiError(529, "Overloaded"),
    FaultName.RATE_LIMIT: ApiError(
        429, "This request would exceed your organization's rate limit.", retry_after=1
    ),
    FaultName.UNAUTHORIZED: ApiError(401, "invalid x-api-key"),
    # A 400, not the documented 402: anthropics/claude-code #88711, 2026-08.
    FaultName.PAYMENT_REQUIRED: ApiError(
        400,
        "Your credit balance is too low to access the Anthropic API. "
        "Please go to Plans & Billing to upgrade or purchase credits.",
    ),
    FaultName.BAD_REQUEST: ApiError(400, "messages.0: The request was not understood."),
    FaultName.CONTENT_FILTER: ApiError(400, "Output blocked by content filtering policy"),
    FaultName.CONTEXT_TOO_LONG: ApiError(
        400, f"prompt is too long: {CONTEXT_TOKENS + 1} tokens > {CONTEXT_TOKENS} maximum"
    ),
    FaultName.REJECT_PREFILL: ApiError(
        400,
        "This model does not support assistant message prefill. "
        "The conversation must end with a user message.",
    ),
}

ERROR_FAULTS = frozenset(OPENAI_FAULTS)
"""The faults that are an error status; both tables have all of them."""


def error_of(
    fault: FaultName,
    retry_after: float | None = None,
    table: Mapping[FaultName, ApiError] = OPENAI_FAULTS,
) -> ApiError:
    """A fresh error each time: a shared one would collect the tracebacks of every request."""
    error = table[fault]
    wait = error.retry_after if retry_after is None else retry_after
    return ApiError(error.status, error.message, error.type, error.param, error.code, wait)
