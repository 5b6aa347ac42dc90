"""What the flows need remembered. Implemented on Postgres and, for tests, in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from kyma.accounts import Account, Key, Operator, Session
from kyma.keys import UNRESTRICTED, Policy
from kyma.ledger import Balance, Hold, KeyMonth, LedgerHealth, Outcome, Resolution
from kyma.money import Usd
from kyma.tiers import Override, Standing
from kyma.traffic import Probe, ProbeCount, Traffic
from kyma.usage import CacheUsage, CustomerUsage, Period, UsageRecord


class StorageUnavailable(Exception):
    """The database did not do what was asked; nothing is known to have been written."""


@dataclass(frozen=True, slots=True)
class Held:
    """Answer to a hold. `hold` is None unless the outcome is DONE or EXISTS.

    `cap_left` is what the key's monthly cap has left, if that is why: the outcome is CAPPED.
    """

    outcome: Outcome
    hold: Hold | None
    available: Usd
    cap_left: Usd | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """Answer to a resolution: what was settled of the hold, and what is available now.

    A hold that had ended before answers with its `ALREADY_…` outcome and its first figures.
    """

    outcome: Outcome
    settled: Usd
    available: Usd


class Ledger(Protocol):
    """Money. Each call is one short transaction, possibly shared with concurrent calls."""

    async def hold(
        self, id: str, account_id: str, amount: Usd, ttl_s: int, key_id: str = ""
    ) -> Held:
        """Reserve `amount` under the caller's own `id` until the database clock passes `ttl_s`.

        `key_id` is the key that asks; its monthly cap, if it has one, is never exceeded.
        """
        ...

    async def resolve(self, how: Resolution, record: UsageRecord | None = None) -> Resolved:
        """End a hold once; `record` is stored in the same transaction if this call ended it."""
        ...

    async def deposit(self, id: str, account_id: str, amount: Usd, reason: str) -> Outcome:
        """Book paid-in credit under `id`; a repeat answers EXISTS or MISMATCH."""
        ...

    async def grant(
        self, id: str, account_id: str, amount: Usd, reason: str, actor: str = ""
    ) -> Outcome:
        """Book given credit under `id`; a repeat answers EXISTS or MISMATCH."""
        ...

    async def balance(self, account_id: str) -> Balance:
        """The account's balance; zero for an account without entries."""
        ...

    async def sweep(self, limit: int = 500) -> int:
        """Expire overdue holds, oldest first; how many. Safe beside live resolutions."""
        ...

    async def health(self) -> LedgerHealth:
        """Replay entries and compare them with balances and open holds."""
        ...


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a secret belongs to, with all that admission derives a tier from.

    `replay_minutes` is the key's consent to encrypted replay; 0 for a session. `until` is when
    the secret stops to work, `session_id` that of the session if it is one.
    """

    account_id: str
    key_id: str
    email: str
    standing: Standing
    replay_minutes: int = 0
    policy: Policy = UNRESTRICTED
    until: datetime | None = None
    session_id: str = ""


class Principals(Protocol):
    """From the digest of a secret to its owner."""

    async def principal(self, digest: bytes) -> Principal | None:
        """Owner of a key or session, or None if there is positively no such secret.

        One whose time is over is found for some time yet: whoever asks looks at `until`. Notes
        that the secret was used, at most once an hour.
        """
        ...

    async def changes(self) -> Set[tuple[str, str]]:
        """Changes of keys, tiers or deposits in the last 15 s: the account and a mark."""
        ...


class Accounts(Principals, Protocol):
    """Customers, their keys and their sessions."""

    async def register(self, account: Account, key: Key, session: Session, bonus: Usd) -> bool:
        """Create all four in one transaction; False if the address is taken.

        No address is taken for an account that is not `bound` to it, but an id may be: False too.
        """
        ...

    async def by_email(self, email: str) -> Account | None:
        """The account that this address signs in to, compared case-insensitively."""
        ...

    async def find(self, text: str, limit: int = 20) -> Sequence[Account]:
        """Accounts whose id is `text`, then those whose address contains it, newest first."""
        ...

    async def keys(self, account_id: str) -> Sequence[Key]:
        """All keys of an account, newest first, revoked ones included."""
        ...

    async def add_session(self, session: Session, password_hash: str | None = None) -> bool:
        """Remember a signed-in person.

        False, and nothing is done, if `password_hash`, by which they were known, is the account's
        no more: a new password ends the sessions of the old one, those that are about to be too.
        """
        ...

    async def revoke_key(self, account_id: str, key_id: str) -> Key | None:
        """Stop a key at once; the key as it is now, or None if it is not this account's."""
        ...

    async def standing(self, account_id: str) -> Standing | None:
        """Fresh deposits and override of an account."""
        ...


class Keys(Protocol):
    """API keys beyond their listing and their revocation."""

    async def create(self, key: Key, by: Principal | None = None) -> bool:
        """Remember a new key; False, and nothing is changed, if there is one with its id.

        False, too, if the session or the key `by` which it is asked for has ended meanwhile: a
        principal may be remembered for a moment longer.
        """
        ...

    async def edit(
        self,
        account_id: str,
        key_id: str,
        decide: Callable[[Key], Key],
        by: Principal | None = None,
    ) -> Key | None:
        """Replace a live key by what `decide` makes of it, in one transaction that holds it.

        What `decide` raises leaves the key as it was. None if no such live key is theirs, or if
        what it is asked for `by` has ended. A cap that is new counts what was spent with the key
        since the first of the month.
        """
        ...

    async def months(self, account_id: str) -> Mapping[str, KeyMonth]:
        """What every key that has a cap spent this month, by the key's id."""
        ...


class SignIns(Protocol):
    """Who is signed in where."""

    async def of(self, account_id: str) -> Sequence[Session]:
        """Live sessions, newest first."""
        ...

    async def end(self, account_id: str, session_id: str) -> bool:
        """End one; False if no such live session is theirs."""
        ...

    async def end_all(self, account_id: str, except_digest: bytes | None = None) -> int:
        """End all, save one perhaps; how many.

        With them ends what they allowed and nobody has fetched: device and authorization codes.
        """
        ...


class Overrides(Protocol):
    """Operators' tier decisions: append-only."""

    async def add(self, override: Override) -> None:
        """Append a decision; it replaces the one before it."""
        ...

    async def history(self, account_id: str) -> Sequence[Override]:
        """All decisions on an account, newest first."""
        ...


class Operators(Protocol):
    """Who may use the console."""

    async def add(self, operator: Operator) -> bool:
        """Create an operator; False if the name is taken."""
        ...

    async def by_name(self, name: str) -> Operator | None:
        """The operator, or None."""
        ...

    async def count(self) -> int:
        """How many there are."""
        ...


class Reports(Protocol):
    """The analysts' figures, derived from usage records and ledger entries alone."""

    async def top_customers(
        self, period: Period, order_by: str = "spend", limit: int = 20
    ) -> Sequence[CustomerUsage]:
        """Customers by `spend`, `tokens` or `requests` over a period, largest first."""
        ...

    async def cache_usage(self, period: Period) -> Sequence[CacheUsage]:
        """Cache hits and savings by model and day (UTC), oldest day first."""
        ...

    async def requests_since(self, account_id: str, since: datetime) -> int:
        """How many requests of an account were recorded since a moment."""
        ...

    async def traffic(self, since: datetime) -> Sequence[Traffic]:
        """Sums of all records since a whole hour, in the order of model and provider.

        Bounded, however many records there are. No customer is in it.
        """
        ...

    async def database_time(self) -> datetime:
        """The clock that decides expiry."""
        ...


class Probes(Protocol):
    """Whether providers answered when they were asked."""

    async def add(self, probes: Sequence[Probe]) -> None:
        """Remember these, as of now."""
        ...

    async def counts(self, since: datetime) -> Sequence[ProbeCount]:
        """Each provider's probes since a moment, in the order of names."""
        ...
