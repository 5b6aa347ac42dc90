"""Stripe's error envelopes."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An answer that is an error; `saved` says whether its idempotency key keeps it."""

    def __init__(
        self, status: int, type: str, message: str, *, saved: bool = False, **more: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.saved = saved
        self.error: dict[str, Any] = {"type": type, "message": message, **more}

    @property
    def body(self) -> dict[str, Any]:
        return {"error": self.error}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    error = ApiError(400, "invalid_request_error", message)
    told = {"param": param, "code": code}
    error.error.update({name: value for name, value in told.items() if value is not None})
    return error


def unknown_parameter(name: str) -> ApiError:
    return invalid(f"Received unknown parameter: {name}", name, "parameter_unknown")


def missing_parameter(name: str) -> ApiError:
    return invalid(f"Missing required param: {name}.", name, "parameter_missing")


def no_such(what: str, id: str, param: str = "id") -> ApiError:
    status = 404 if param == "id" else 400
    return ApiError(
        status,
        "invalid_request_error",
        f"No such {what}: '{id}'",
        param=param,
        code="resource_missing",
    )


def card_error(code: str, message: str, decline_code: str | None, **more: Any) -> ApiError:
    """402; execution had begun, so its key keeps it."""
    declined = {"decline_code": decline_code} if decline_code else {}
    return ApiError(402, "card_error", message, saved=True, code=code, **declined, **more)
