"""API keys: made, changed, rotated. A secret is seen once, by whoever asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from kyma.accounts import Key, shown
from kyma.errors import Code, Refusal
from kyma.flows.access import unavailable
from kyma.idempotency import MAX_REPLAY_MINUTES
from kyma.keys import (
    DEFAULT_SCOPES,
    MAX_CAP,
    MAX_KEYS,
    MAX_NAME_LENGTH,
    MAX_OVERLAP_HOURS,
    UNRESTRICTED,
    Policy,
    check_hands_out,
)
from kyma.ledger import KeyMonth
from kyma.ports.runtime import Chance, Clock, Digests, Invalidations
from kyma.ports.storage import Accounts, Keys, Principal, StorageUnavailable

DEFAULT_POLICY = replace(UNRESTRICTED, scopes=DEFAULT_SCOPES)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the owner of a key wants it to be."""

    name: str
    policy: Policy = DEFAULT_POLICY
    replay_minutes: int = 0


@dataclass(frozen=True, slots=True)
class Issued:
    """A key and its secret, which nobody can show again."""

    key: Key
    secret: str


class KeySettings:
    """What the owner of an account chooses about its keys; every process knows it soon."""

    def __init__(
        self,
        accounts: Accounts,
        keys: Keys,
        invalidations: Invalidations,
        digests: Digests,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._accounts = accounts
        self._keys = keys
        self._invalidations = invalidations
        self._digests = digests
        self._clock = clock
        self._chance = chance

    async def create(self, principal: Principal, wish: Wish, id: str = "") -> Issued:
        """A new key; whoever asks may give it no more than they have.

        `id` is the request's own, under which it makes one key however often it is worked on:
        what it made before, unseen by anybody, gets the new secret.
        """
        check_hands_out(principal.policy, wish.policy)
        now = self._clock.now()
        self._check(wish, None, now)
        try:
            held = await self._accounts.keys(principal.account_id)
            if sum(key.revoked_at is None and key.id != id for key in held) >= MAX_KEYS:
                raise Refusal(
                    Code.FORBIDDEN, f"An account has at most {MAX_KEYS} keys. Revoke one first."
                )
            secret = self._chance.secret("ky-")
            key = Key(
                id or self._chance.id(),
                principal.account_id,
                wish.name,
                self._digests.digest(secret),
                *shown(secret),
                now,
                replay_minutes=wish.replay_minutes,
                policy=wish.policy,
            )
            if not await self._keys.create(key, principal):
                key = await self._resumed(key, principal)
        except StorageUnavailable as error:
            raise unavailable() from error
        return Issued(key, secret)

    async def _resumed(self, key: Key, principal: Principal) -> Key:
        """The key that an earlier try made, with the secret of this one."""

        def decide(made: Key) -> Key:
            return replace(made, digest=key.digest, prefix=key.prefix, last4=key.last4)

        made = await self._keys.edit(key.account_id, key.id, decide, principal)
        if made is None:
            raise Refusal(
                Code.FORBIDDEN,
                "There is no new key: what asks for it, or the key, was ended meanwhile.",
            )
        return await self._known(key.account_id, made)

    async def change(self, principal: Principal, key_id: str, changed: Mapping[str, Any]) -> Key:
        """Change what is named of a `Wish`'s fields and its policy's; the rest stays."""
        now = self._clock.now()
        of_policy = {name: value for name, value in changed.items() if name not in WHOLE_KEY}
        of_key = {name: value for name, value in changed.items() if name in WHOLE_KEY}

        def decide(key: Key) -> Key:
            policy = replace(key.policy, **of_policy)
            after = replace(key, policy=policy, **of_key)
            check_hands_out(principal.policy, key.policy, policy)
            self._check(Wish(after.name, policy, after.replay_minutes), key, now)
            return after

        try:
            key = await self._keys.edit(principal.account_id, key_id, decide, principal)
        except StorageUnavailable as error:
            raise unavailable() from error
        return await self._known(principal.account_id, key)

    async def rotate(self, principal: Principal, key_id: str, overlap_hours: int) -> Issued:
        """A new secret; the one before works for the hours of overlap, one yet older no more."""
        if not 0 <= overlap_hours <= MAX_OVERLAP_HOURS:
            raise Refusal(
                Code.INVALID_VALUE,
                f"`overlap_hours` must be between 0 and {MAX_OVERLAP_HOURS}.",
                param="overlap_hours",
            )
        secret = self._chance.secret("ky-")
        until = self._clock.now() + timedelta(hours=overlap_hours)
        prefix, last4 = shown(secret)

        def decide(key: Key) -> Key:
            check_hands_out(principal.policy, key.policy)
            return replace(
                key,
                digest=self._digests.digest(secret),
                prefix=prefix,
                last4=last4,
                previous_digest=key.digest if overlap_hours else None,
                previous_until=until if overlap_hours else None,
            )

        try:
            key = await self._keys.edit(principal.account_id, key_id, decide, principal)
        except StorageUnavailable as error:
            raise unavailable() from error
        return Issued(await self._known(principal.account_id, key), secret)

    async def months(self, account_id: str) -> Mapping[str, KeyMonth]:
        """What the keys with a cap have spent this month."""
        return await self._keys.months(account_id)

    async def _known(self, account_id: str, key: Key | None) -> Key:
        if key is None:
            raise Refusal(Code.NOT_FOUND, "No such live key on this account.")
        await self._invalidations.forget(account_id)
        return key

    def _check(self, wish: Wish, before: Key | None, now: datetime) -> None:
        """Refuse what no key can be; an expiry that was set before may lie in the past."""
        policy = wish.policy
        end = policy.expires_at
        if not 0 < len(wish.name) <= MAX_NAME_LENGTH or not wish.name.isprintable():
            raise _invalid("name", f"must be 1 to {MAX_NAME_LENGTH} printable characters.")
        if not 0 <= wish.replay_minutes <= MAX_REPLAY_MINUTES:
            raise _invalid("replay_minutes", f"must be between 0 and {MAX_REPLAY_MINUTES}.")
        if not policy.scopes:
            raise _invalid("scopes", "must name at least one scope.")
        if policy.monthly_cap is not None and not 0 <= policy.monthly_cap <= MAX_CAP:
            raise _invalid("monthly_cap_usd", "must be between 0 and 1,000,000.")
        is_new = before is None or before.policy.expires_at != end
        if end is not None and end <= now and is_new:
            raise _invalid("expires_at", "must be in the future.")


WHOLE_KEY = frozenset({"name", "replay_minutes"})
"""What of a change is the key's own; the rest is its policy's."""


def _invalid(field: str, what: str) -> Refusal:
    return Refusal(Code.INVALID_VALUE, f"`{field}` {what}", param=field)
