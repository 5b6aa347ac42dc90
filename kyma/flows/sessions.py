"""Signed-in people: where they are signed in, and how that ends, everywhere within a second."""

from __future__ import annotations

from collections.abc import Sequence

from kyma.accounts import Session
from kyma.errors import Code, Refusal
from kyma.keys import check_ends_sessions
from kyma.ports.runtime import Invalidations
from kyma.ports.storage import Principal, SignIns


class Sessions:
    """An account's sessions."""

    def __init__(self, sign_ins: SignIns, invalidations: Invalidations) -> None:
        self._sign_ins = sign_ins
        self._invalidations = invalidations

    async def of(self, account_id: str) -> Sequence[Session]:
        """Live sessions, newest first."""
        return await self._sign_ins.of(account_id)

    async def log_out(self, principal: Principal) -> None:
        """End the session that asks for it."""
        if not principal.session_id:
            raise Refusal(
                Code.FORBIDDEN,
                "This is an API key, not a session. DELETE /v1/auth/keys/{id} revokes a key.",
            )
        await self._sign_ins.end(principal.account_id, principal.session_id)
        await self._invalidations.forget(principal.account_id)

    async def end(self, principal: Principal, session_id: str) -> None:
        """End one of them, by its id."""
        check_ends_sessions(principal.policy)
        if not await self._sign_ins.end(principal.account_id, session_id):
            raise Refusal(Code.NOT_FOUND, "No such session on this account.")
        await self._invalidations.forget(principal.account_id)

    async def end_all(self, principal: Principal, except_digest: bytes | None = None) -> int:
        """End every session, save one perhaps: how many.

        Keys go on; a device or an application that was allowed one and has not fetched it yet
        gets none.
        """
        check_ends_sessions(principal.policy)
        ended = await self._sign_ins.end_all(principal.account_id, except_digest)
        await self._invalidations.forget(principal.account_id)
        return ended
