"""Work that is done once however often it is asked for: claim, work, then finish or release.

The ledger is asked, not the claim, whether a request was charged: so a claim whose holder died
between its settlement and its last word neither charges twice nor locks its key.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from kyma.errors import Code, Refusal
from kyma.flows.access import unavailable
from kyma.generations import Generation, Status
from kyma.idempotency import (
    HEADER,
    MAX_ANSWER_BYTES,
    Decision,
    Fate,
    KnownClaim,
    StoredAnswer,
    checked_key,
    decide,
    digest_of,
    unpacked,
    wait_s,
)
from kyma.ledger import Kind, Outcome, Resolution
from kyma.ports.requests import Claims, Receipts
from kyma.ports.runtime import Vault
from kyma.ports.storage import Ledger, Principal, StorageUnavailable

ROUNDS = 5
"""How often the claim may change hands while we look; afterwards somebody is at work for sure."""

RELEASE_PAUSES_S = (0.0, 0.2, 1.0)
"""A hold whose caller left as it was granted is on its way back: it is looked for again."""

FATES = {
    Status.RUNNING: Fate.OPEN,
    Status.COMPLETED: Fate.SETTLED,
    Status.REFUNDED: Fate.RETURNED,
    Status.EXPIRED: Fate.RETURNED,
}


@dataclass(frozen=True, slots=True)
class Claim:
    """A request's right to work under its key. `seal_key` is there if its answer may be kept."""

    account_id: str
    key: bytes
    request_id: str
    replay_minutes: int = 0
    seal_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Replay:
    """What a repeated request gets instead of work: the kept answer, else its receipt.

    `generation` is None if the first request held no credit.
    """

    request_id: str
    generation: Generation | None
    answer: StoredAnswer | None = None


class Once:
    """Idempotency keys. Their scope is the account: all its keys share them."""

    def __init__(self, claims: Claims, receipts: Receipts, ledger: Ledger, vault: Vault) -> None:
        self._claims = claims
        self._receipts = receipts
        self._ledger = ledger
        self._vault = vault

    async def begin(
        self,
        principal: Principal,
        key: str,
        fingerprint: bytes,
        request_id: str,
        ttl_s: float,
        secret: str = "",
    ) -> Claim | Replay:
        """Claim `key` for `request_id`, or say what became of the request that had it.

        `ttl_s` is how long the request may take at most, its hold included: after that it is
        taken for dead, and its hold is expired before another works in its place. `secret` is
        the caller's own, from which alone a kept answer can be opened.

        Raises `Refusal` if the key belongs to another body or path, or is being worked on.
        """
        checked_key(key)
        claim = Claim(principal.account_id, digest_of(key), request_id)
        if principal.replay_minutes and secret:
            seal_key = self._vault.key(secret, key)
            claim = replace(claim, replay_minutes=principal.replay_minutes, seal_key=seal_key)
        try:
            return await self._begin(claim, fingerprint, int(ttl_s))
        except StorageUnavailable as error:
            raise unavailable() from error

    async def _begin(self, mine: Claim, fingerprint: bytes, ttl_s: int) -> Claim | Replay:
        for _ in range(ROUNDS):
            known = await self._claims.claim(
                mine.account_id, mine.key, fingerprint, mine.request_id, ttl_s
            )
            if known is None:
                return mine
            replay = await self._instead(mine, known, fingerprint)
            if replay is not None:
                return replay
            if await self._claims.take_over(
                mine.account_id, mine.key, known.request_id, mine.request_id, ttl_s
            ):
                return mine
        raise in_progress(1.0)

    async def _instead(self, mine: Claim, known: KnownClaim, fingerprint: bytes) -> Replay | None:
        """The outcome of the request that has the key; None if ours may take its place."""
        generation = await self._receipts.generation(mine.account_id, known.request_id)
        match decide(known, fingerprint, fate_of(generation)):
            case Decision.REUSED:
                raise reused()
            case Decision.WAIT:
                raise in_progress(wait_s(known))
            case Decision.REPLAY:
                answer = opened(self._vault, mine, known)
                return Replay(known.request_id, generation, answer)
            case Decision.TAKE_OVER:
                if not await self._was_charged(known.request_id):
                    return None
                generation = await self._receipts.generation(mine.account_id, known.request_id)
                return Replay(known.request_id, generation)

    async def _was_charged(self, request_id: str) -> bool:
        """End a dead request's hold for good; whether it was settled after all.

        Once its hold has expired, a request that only seemed dead can charge nothing.
        """
        ended = await self._ledger.resolve(Resolution(request_id, Kind.EXPIRE))
        return ended.outcome is Outcome.ALREADY_SETTLED

    async def finish(self, claim: Claim, answer: StoredAnswer | None) -> None:
        """The request was charged: from now on its key gives its outcome.

        The answer is kept, sealed, only if the key's owner agreed to that and it is small
        enough. If this cannot be written, the ledger still says that it was charged.
        """
        sealed = sealed_for(self._vault, claim, answer)
        keep_s = claim.replay_minutes * 60
        try:
            await self._claims.finish(claim.account_id, claim.key, claim.request_id, sealed, keep_s)
        except StorageUnavailable:
            return  # a repetition finds the settled hold, and tells its receipt

    async def release(self, claim: Claim) -> None:
        """The request ended without a charge: its key may be used again at once.

        Nothing is released while the ledger does not say so: a settlement whose answer was
        lost may still be written. Then the key is free when the lease is over, or leads to the
        receipt.
        """
        try:
            for pause_s in RELEASE_PAUSES_S:
                await asyncio.sleep(pause_s)
                found = await self._receipts.generation(claim.account_id, claim.request_id)
                if fate_of(found) is not Fate.OPEN:
                    break
            if fate_of(found) in {Fate.NO_HOLD, Fate.RETURNED}:
                await self._claims.release(claim.account_id, claim.key, claim.request_id)
        except StorageUnavailable:
            return  # a repetition finds a returned hold, or that the lease is over


def fate_of(generation: Generation | None) -> Fate:
    """What became of a request's hold."""
    return Fate.NO_HOLD if generation is None else FATES[generation.status]


def sealed_for(vault: Vault, claim: Claim, answer: StoredAnswer | None) -> bytes | None:
    """The answer as it may be kept under this claim; None if it may not, or is too large."""
    if answer is None or claim.seal_key is None or len(answer.body) > MAX_ANSWER_BYTES:
        return None
    bound = _binding(claim.account_id, claim.request_id)
    return vault.seal(claim.seal_key, answer.packed(), bound)


def opened(vault: Vault, mine: Claim, known: KnownClaim) -> StoredAnswer | None:
    """The answer that was kept, if this caller's secret opens it."""
    if known.sealed is None or mine.seal_key is None:
        return None
    bound = _binding(mine.account_id, known.request_id)
    plain = vault.open(mine.seal_key, known.sealed, bound)
    return None if plain is None else unpacked(plain)


def _binding(account_id: str, request_id: str) -> bytes:
    return f"{account_id}/{request_id}".encode()


def reused() -> Refusal:
    """The key belongs to another request."""
    return Refusal(
        Code.IDEMPOTENCY_KEY_REUSED,
        f"This {HEADER} was used for another request (other path or body). "
        "Send a new key, or the same request byte for byte.",
        param=HEADER,
    )


def in_progress(retry_after_s: float) -> Refusal:
    """The first request with the key has not ended yet."""
    return Refusal(
        Code.IDEMPOTENCY_IN_PROGRESS,
        f"The first request with this {HEADER} is still under way. Ask again for its outcome; "
        "this one was not started and is not charged.",
        param=HEADER,
        retry_after_s=retry_after_s,
    )
