"""What the owner of an API key chooses about it."""

from __future__ import annotations

from kyma.accounts import Key
from kyma.errors import Code, Refusal
from kyma.flows.access import unavailable
from kyma.idempotency import MAX_REPLAY_MINUTES
from kyma.ports.requests import KeyOptions
from kyma.ports.runtime import Invalidations
from kyma.ports.storage import StorageUnavailable


class KeySettings:
    """Choices that every process must know of soon."""

    def __init__(self, options: KeyOptions, invalidations: Invalidations) -> None:
        self._options = options
        self._invalidations = invalidations

    async def set_replay(self, account_id: str, key_id: str, minutes: int) -> Key:
        """Allow answers made with a key to be kept, encrypted, for so many minutes; 0 ends it.

        What is kept already stays unreadable to all but the key, and is gone after its time.
        """
        if not 0 <= minutes <= MAX_REPLAY_MINUTES:
            raise Refusal(
                Code.INVALID_VALUE,
                f"`replay_minutes` must be between 0 and {MAX_REPLAY_MINUTES}.",
                param="replay_minutes",
            )
        try:
            key = await self._options.set_replay(account_id, key_id, minutes)
        except StorageUnavailable as error:
            raise unavailable() from error
        if key is None:
            raise Refusal(Code.NOT_FOUND, "No such key on this account.")
        await self._invalidations.forget(account_id)
        return key
