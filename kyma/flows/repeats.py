"""Requests that hold no credit, done once under their key: what they make is made once.

No ledger says what became of them. So a claim keeps the id of its first request for as long as
it lives, and whatever the request makes gets that id: whoever works again in the place of one
that died, or whose end is not known, finds what was made instead of making it twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kyma.errors import Code
from kyma.flows.access import unavailable
from kyma.flows.once import ROUNDS, Claim, Replay, in_progress, opened, reused, sealed_for
from kyma.idempotency import (
    KEEP_S,
    MAX_REPLAY_MINUTES,
    Decision,
    Fate,
    StoredAnswer,
    checked_key,
    decide,
    digest_of,
    wait_s,
)
from kyma.ports.requests import Claims
from kyma.ports.runtime import Digests, Vault
from kyma.ports.storage import StorageUnavailable

LEASE_S = 300
"""After this the process that worked under a claim is taken for dead."""

WORK_S = 270.0
"""Work under a claim is ended before its lease, so that no two ever work at a time."""

UNSURE = frozenset({Code.STORAGE_UNAVAILABLE, Code.PROCESSOR_UNAVAILABLE, Code.INTERNAL})
"""Refusals that leave open whether something was done. After any other, nothing was."""


@dataclass(frozen=True, slots=True)
class Terms:
    """For how long an answer may be told again, and for how long its key is remembered."""

    answer_minutes: int
    key_s: int = KEEP_S


DAY = Terms(KEEP_S // 60)
SHORT = Terms(MAX_REPLAY_MINUTES)
"""Of an answer that tells a secret."""

PASSING = Terms(MAX_REPLAY_MINUTES, MAX_REPLAY_MINUTES * 60)
"""Where nothing is done, and anybody may ask as often as they like."""

UNTOLD = Terms(0)


class Repeats:
    """Idempotency keys of requests that hold no credit."""

    def __init__(self, claims: Claims, vault: Vault, digests: Digests) -> None:
        self._claims = claims
        self._vault = vault
        self._digests = digests

    def scope_of(self, address: str) -> str:
        """The account, so to speak, of all who ask from an address without a credential."""
        return self._digests.digest(f"repeat/nobody\n{address}")[:16].hex()

    async def begin(
        self,
        account_id: str,
        secret: str,
        key: str,
        fingerprint: bytes,
        request_id: str,
        terms: Terms,
    ) -> Claim | Replay:
        """Claim `key`, or say what was answered under it; the claim's id names what is made.

        `secret` is the caller's own, from which alone a kept answer can be opened; without one
        the request itself is needed for it, and the server's pepper. A body may hold a password:
        so what is stored of it is a digest under that pepper, and under the key.

        Raises `Refusal` if the key belongs to another request, or is being worked on.
        """
        checked_key(key)
        bound = self._digests.digest(f"repeat\n{key}\n{fingerprint.hex()}")
        claim = Claim(account_id, digest_of(key), request_id)
        if terms.answer_minutes:
            own = secret or self._digests.digest(f"seal\n{key}\n{fingerprint.hex()}").hex()
            seal_key = self._vault.key(own, key)
            claim = replace(claim, replay_minutes=terms.answer_minutes, seal_key=seal_key)
        try:
            return await self._begin(claim, bound, terms.key_s)
        except StorageUnavailable as error:
            raise unavailable() from error

    async def _begin(self, mine: Claim, fingerprint: bytes, keep_s: int) -> Claim | Replay:
        who, key, id = mine.account_id, mine.key, mine.request_id
        for _ in range(ROUNDS):
            known = await self._claims.claim(who, key, fingerprint, id, LEASE_S, keep_s)
            if known is None:
                return mine
            match decide(known, fingerprint, Fate.NO_HOLD):
                case Decision.REUSED:
                    raise reused()
                case Decision.WAIT:
                    raise in_progress(wait_s(known))
                case Decision.REPLAY:
                    return Replay(known.request_id, None, opened(self._vault, mine, known))
                case Decision.TAKE_OVER:
                    if await self._claims.renew(who, key, known.request_id, LEASE_S):
                        return replace(mine, request_id=known.request_id)
        raise in_progress(1.0)

    async def finish(self, claim: Claim, answer: StoredAnswer | None) -> None:
        """The request was answered: from now on its key gives this answer."""
        sealed = sealed_for(self._vault, claim, answer)
        keep_s = claim.replay_minutes * 60
        try:
            await self._claims.finish(claim.account_id, claim.key, claim.request_id, sealed, keep_s)
        except StorageUnavailable:
            return  # when the lease is over a repetition works again, under the same id

    async def release(self, claim: Claim) -> None:
        """The request was refused and did nothing: its key is free."""
        try:
            await self._claims.release(claim.account_id, claim.key, claim.request_id)
        except StorageUnavailable:
            return  # it is free when the lease is over

    async def lapse(self, claim: Claim) -> None:
        """It is not known what the request did: a repetition may go on at once, under its id."""
        who, key, id = claim.account_id, claim.key, claim.request_id
        try:
            await self._claims.take_over(who, key, id, id, 0)
        except StorageUnavailable:
            return  # it may when the lease is over
