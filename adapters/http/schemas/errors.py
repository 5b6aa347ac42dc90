"""Refusals: OpenAI's envelope, and Anthropic's on its own paths."""

from __future__ import annotations

from adapters.http.errors import STATUS
from adapters.http.schemas.shapes import boolean, maybe, record, text
from kyma.errors import Code

TYPES = sorted({kind for _, kind in STATUS.values()})

SCHEMAS = {
    "Error": record(
        {
            "error": record(
                {
                    "message": text("What went wrong and what to do, in a sentence."),
                    "type": text(enum=TYPES),
                    "code": text("Stable; never renamed.", enum=[code.value for code in Code]),
                    "param": maybe(text("The field at fault.")),
                    "retryable": boolean("Whether the same request may succeed later."),
                    "charged": {
                        "type": ["boolean", "null"],
                        "description": "Null only if the settlement's answer was lost.",
                    },
                    "request_id": text("The same as in X-Kyma-Request-Id."),
                },
            )
        },
        examples=[
            {
                "error": {
                    "message": "Rate limit exceeded (30 requests/minute, Tier 0). Try again in "
                    "4 seconds. Nothing was charged.",
                    "type": "rate_limit",
                    "code": "rate_limited",
                    "param": None,
                    "retryable": True,
                    "charged": False,
                    "request_id": "01980f3f6c7a7b1e9a10c1d2e3f4a5b6",
                }
            }
        ],
    ),
    "AnthropicError": record(
        {
            "type": text(const="error"),
            "error": record(
                {
                    "type": text(examples=["invalid_request_error"]),
                    "message": text("What went wrong and what to do, in a sentence."),
                    "code": text("Stable; never renamed.", enum=[code.value for code in Code]),
                },
                required=("type", "message"),
            ),
            "request_id": text("The same as in X-Kyma-Request-Id."),
        },
        examples=[
            {
                "type": "error",
                "error": {"type": "not_found_error", "message": "No such model."},
                "request_id": "01980f3f6c7a7b1e9a10c1d2e3f4a5b6",
            }
        ],
    ),
}
