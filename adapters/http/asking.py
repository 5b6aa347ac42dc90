"""What a request's headers ask for, read where the hot routes need it."""

from __future__ import annotations

from adapters.http.asgi import Scope
from kyma.errors import Code, Refusal

MAX_LAYER = 3


def secret_of(authorization: str, api_key: str) -> str:
    """The secret of `Authorization: Bearer`, else that of `x-api-key`; empty without one.

    The one rule of every route; of a header that comes twice each takes the first.
    """
    scheme, _, secret = authorization.partition(" ")
    shown = secret.strip() if scheme.lower() == "bearer" else ""
    return shown or api_key.strip()


class Asking:
    """The headers of one request; of a header that comes twice the first one counts."""

    def __init__(self, scope: Scope) -> None:
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self._scope = scope

    @property
    def secret(self) -> str:
        """The API key or session token that the request shows, unchecked; empty without one."""
        return secret_of(self._text(b"authorization") or "", self._text(b"x-api-key") or "")

    @property
    def address(self) -> str | None:
        """The client's, which a trusted proxy may have told."""
        client = self._scope.get("client")
        return None if client is None else str(client[0])

    @property
    def content_length(self) -> int | None:
        """What the client says that it will send; the server has checked that it is a number."""
        told = self.headers.get(b"content-length")
        return None if told is None else int(told)

    @property
    def packing(self) -> str | None:
        """`Content-Encoding`, unchecked."""
        return self._text(b"content-encoding")

    @property
    def idempotency_key(self) -> str | None:
        """`Idempotency-Key`, unchecked."""
        return self._text(b"idempotency-key")

    @property
    def max_cost(self) -> str | None:
        """`X-Kyma-Max-Cost`, unchecked."""
        return self._text(b"x-kyma-max-cost")

    @property
    def betas(self) -> str | None:
        """`anthropic-beta`: names of features, with commas between."""
        return self._text(b"anthropic-beta")

    def _text(self, name: bytes) -> str | None:
        told = self.headers.get(name)
        return None if told is None else told.decode("latin-1")

    @property
    def from_browser(self) -> bool:
        """Whether a page of some origin asks, so that it must be told that it may read."""
        return b"origin" in self.headers

    def max_layer(self) -> int:
        """`X-Kyma-Max-Fallback-Layer`: how far from first choice the caller lets us go."""
        told = self.headers.get(b"x-kyma-max-fallback-layer")
        if told is None:
            return MAX_LAYER
        if told.strip() not in {b"0", b"1", b"2", b"3"}:
            raise Refusal(
                Code.INVALID_VALUE,
                "X-Kyma-Max-Fallback-Layer must be 0, 1, 2 or 3.",
                param="X-Kyma-Max-Fallback-Layer",
            )
        return int(told)
