"""What is remembered of requests: claims on idempotency keys, receipts, logs and old prices."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from kyma.generations import Generation, LogFilter, Logged, Place
from kyma.idempotency import KEEP_S, KnownClaim
from kyma.pricing import PerToken


class Claims(Protocol):
    """Who works under an idempotency key. `key` is always its 32-byte digest.

    Times are the database's. `StorageUnavailable` is raised by every method.
    """

    async def claim(
        self,
        account_id: str,
        key: bytes,
        fingerprint: bytes,
        request_id: str,
        ttl_s: int,
        keep_s: int = KEEP_S,
    ) -> KnownClaim | None:
        """Claim the key for `ttl_s`: None if it is now this request's, else whose it is.

        After `keep_s` the key is new, whatever became of the request. Of any number of concurrent
        claims exactly one gets None.
        """
        ...

    async def take_over(
        self, account_id: str, key: bytes, former_id: str, request_id: str, ttl_s: int
    ) -> bool:
        """Put this request in the place of `former_id`; False if it no longer has the claim.

        From then on the former request can neither finish nor release it.
        """
        ...

    async def renew(self, account_id: str, key: bytes, request_id: str, ttl_s: int) -> bool:
        """Begin an overdue lease anew, under the same id; False if it is not overdue.

        Of any number of concurrent renewals exactly one is told True.
        """
        ...

    async def finish(
        self, account_id: str, key: bytes, request_id: str, sealed: bytes | None, keep_s: int
    ) -> bool:
        """End the claim, keeping a sealed answer for `keep_s`; False if it is another's."""
        ...

    async def release(self, account_id: str, key: bytes, request_id: str) -> bool:
        """Forget a running claim; False if it is another's or finished."""
        ...

    async def tidy(self, limit: int = 5000) -> int:
        """Forget claims after their day and sealed answers after their time; how many."""
        ...


class Receipts(Protocol):
    """What a customer may read of past requests. Never anybody else's."""

    async def generation(self, account_id: str, id: str) -> Generation | None:
        """The request whose hold has this id, or None if the account has no such hold."""
        ...

    async def log(
        self, account_id: str, wanted: LogFilter, after: Place | None, limit: int
    ) -> Sequence[Logged]:
        """Lines of the log that follow a place (None: its beginning), newest first."""
        ...


class PriceBook(Protocol):
    """The prices of every version that was ever in force: append-only."""

    async def remember(self, version: str, prices: Mapping[str, PerToken]) -> None:
        """Keep the prices of a version by model; a version already known stays as it is."""
        ...

    async def prices(self, version: str, models: Collection[str]) -> Mapping[str, PerToken]:
        """Those of these models that the version had."""
        ...
