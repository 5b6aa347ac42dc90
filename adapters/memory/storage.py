"""The storage ports in memory: for unit tests of the domain, equal to Postgres by contract.

Everything hangs on one `MemoryStore`; operations do not await, so each is one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

from kyma import ledger as rules
from kyma.accounts import Account, Key, Operator, Session
from kyma.ledger import (
    Balance,
    Entry,
    Flag,
    Hold,
    KeyMonth,
    Kind,
    LedgerHealth,
    Outcome,
    Resolution,
)
from kyma.money import ZERO, Usd
from kyma.ports.storage import Held, Principal, Resolved
from kyma.referrals import Referral, State
from kyma.tiers import Override, Standing
from kyma.usage import UsageRecord


@dataclass(slots=True)
class MemoryStore:
    """All state. `now` is the clock that decides expiry; tests may move it."""

    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    accounts: dict[str, Account] = field(default_factory=dict)
    proven: set[str] = field(default_factory=set)
    """Accounts whose owner was shown to read mail at their address."""

    keys: dict[str, Key] = field(default_factory=dict)
    sessions: dict[bytes, Session] = field(default_factory=dict)
    overrides: list[Override] = field(default_factory=list)
    operators: dict[str, Operator] = field(default_factory=dict)
    balances: dict[str, Balance] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    booked_at: dict[str, datetime] = field(default_factory=dict)
    resolutions: dict[str, Entry] = field(default_factory=dict)
    open_holds: dict[str, tuple[Hold, datetime]] = field(default_factory=dict)
    records: list[UsageRecord] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)
    changes: set[tuple[str, str]] = field(default_factory=set)
    held_with: dict[str, tuple[str, date]] = field(default_factory=dict)
    """The key of each open hold, and the month it was placed in."""

    capped_holds: set[str] = field(default_factory=set)
    """Open holds that count against a cap."""

    key_months: dict[tuple[str, date], KeyMonth] = field(default_factory=dict)
    referrals: dict[str, Referral] = field(default_factory=dict)
    counted: dict[str, datetime] = field(default_factory=dict)
    """Until when what a referral's new account used is in its figure."""

    serial: int = 0

    def open_account(self, account: Account, bonus: Usd) -> None:
        """A new account with its balance, who sent it and the sign-up credit."""
        self.accounts[account.id] = account
        self.balances[account.id] = Balance()
        if account.sent_by:
            id, now = uuid4().hex, self.now()
            self.referrals[id] = Referral(id, account.sent_by, account.id, State.PENDING, now)
            self.counted[id] = now
        if bonus:
            self.book(rules.grant(account.id, account.id, bonus, "sign-up credit"))

    def book(self, entry: Entry) -> None:
        """Append an entry and move the balance with it."""
        if entry.id in self.entries:
            raise ValueError(f"entry {entry.id} exists")
        self.balances[entry.account_id] = rules.after(self.balances[entry.account_id], entry)
        self.entries[entry.id] = entry
        self.booked_at[entry.id] = self.now()
        if entry.hold_id is not None and entry.kind is not Kind.HOLD:
            self.resolutions[entry.hold_id] = entry

    def corrections(self, deposit_id: str) -> list[Entry]:
        """Reversals of a deposit, and reinstatements of those."""
        taken = [entry for entry in self.entries.values() if entry.corrects == deposit_id]
        back = {entry.id for entry in taken}
        return taken + [entry for entry in self.entries.values() if entry.corrects in back]

    @property
    def month(self) -> date:
        """The first of this month, UTC."""
        return self.now().astimezone(UTC).date().replace(day=1)

    def key_month(self, account_id: str, key_id: str) -> KeyMonth | None:
        """What a key of the account spent this month, if it has a cap."""
        key = self.keys.get(key_id)
        if key is None or key.account_id != account_id or key.policy.monthly_cap is None:
            return None
        known = self.key_months.get((key_id, self.month), KeyMonth(key.policy.monthly_cap))
        return replace(known, cap=key.policy.monthly_cap)

    def is_signed_in(self, account_id: str, session_id: str) -> bool:
        """Whether a session lives."""
        own = [one for one in self.sessions.values() if one.account_id == account_id]
        return any(one.id == session_id and one.expires_at > self.now() for one in own)

    def note_change(self, account_id: str) -> None:
        """Tell those who remember a principal that it may be another now."""
        self.changes.add((account_id, self.next_id()))

    def next_id(self) -> str:
        """An id for an entry that nobody named."""
        self.serial += 1
        return f"{self.serial:032x}"


class MemoryLedger:
    """The `Ledger` port."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def hold(
        self, id: str, account_id: str, amount: Usd, ttl_s: int, key_id: str = ""
    ) -> Held:
        """Reserve, by the rule of `kyma.ledger`."""
        store = self._store
        balance = store.balances.get(account_id)
        old = store.entries.get(id)
        if old is not None:
            return self._again(old, account_id, amount, balance)
        if balance is None:
            return Held(Outcome.NO_ACCOUNT, None, ZERO)
        month = store.key_month(account_id, key_id)
        entry = rules.hold(id, balance, account_id, amount, month)
        if isinstance(entry, Outcome):
            left = month.left if month is not None and entry is Outcome.CAPPED else None
            return Held(entry, None, balance.available, left)
        store.book(entry)
        store.held_with[id] = (key_id, store.month)
        if month is not None:
            store.key_months[key_id, store.month] = month.placed(amount)
            store.capped_holds.add(id)
        hold = Hold(id, account_id, Usd(entry.held_paid), Usd(entry.held_promo))
        store.open_holds[id] = (hold, store.now() + timedelta(seconds=ttl_s))
        return Held(Outcome.DONE, hold, store.balances[account_id].available)

    def _again(self, old: Entry, account_id: str, amount: Usd, balance: Balance | None) -> Held:
        available = balance.available if balance else ZERO
        same = old.kind is Kind.HOLD and old.account_id == account_id
        if not same or old.held_paid + old.held_promo != amount:
            return Held(Outcome.MISMATCH, None, available)
        hold = Hold(old.id, account_id, Usd(old.held_paid), Usd(old.held_promo))
        return Held(Outcome.EXISTS, hold, available)

    async def resolve(self, how: Resolution, record: UsageRecord | None = None) -> Resolved:
        """End a hold once."""
        store = self._store
        opened = store.open_holds.pop(how.hold_id, None)
        if opened is None:
            first = store.resolutions.get(how.hold_id)
            if first is None:
                return Resolved(Outcome.NO_HOLD, ZERO, ZERO)
            available = store.balances[first.account_id].available
            return Resolved(rules.RESOLVED[first.kind], Usd(first.revenue + first.loss), available)
        hold, _ = opened
        entry = rules.resolve(store.next_id(), hold, how)
        store.book(entry)
        settled = Usd(entry.revenue + entry.loss)
        used = store.held_with.pop(how.hold_id)
        if how.hold_id in store.capped_holds:
            store.capped_holds.remove(how.hold_id)
            store.key_months[used] = store.key_months[used].resolved(hold.amount, settled)
        if record is not None:
            store.records.append(replace(record, charged=settled))
        return Resolved(Outcome.DONE, settled, store.balances[hold.account_id].available)

    async def deposit(self, id: str, account_id: str, amount: Usd, reason: str) -> Outcome:
        """Book paid-in credit."""
        return self.deposit_now(id, account_id, amount, reason)

    def deposit_now(self, id: str, account_id: str, amount: Usd, reason: str) -> Outcome:
        """For callers whose transaction has more in it."""
        return self._credit(rules.deposit(id, account_id, amount, reason))

    async def grant(
        self, id: str, account_id: str, amount: Usd, reason: str, actor: str = ""
    ) -> Outcome:
        """Book given credit."""
        return self._credit(rules.grant(id, account_id, amount, reason, actor))

    def _credit(self, entry: Entry) -> Outcome:
        store = self._store
        if entry.account_id not in store.balances:
            return Outcome.NO_ACCOUNT
        old = store.entries.get(entry.id)
        if old is not None:
            same = (old.kind, old.account_id, old.paid, old.promo) == (
                entry.kind,
                entry.account_id,
                entry.paid,
                entry.promo,
            )
            return Outcome.EXISTS if same else Outcome.MISMATCH
        store.book(entry)
        if entry.kind in rules.DEPOSITED_BY:
            store.note_change(entry.account_id)
        return Outcome.DONE

    async def reverse(self, id: str, deposit_id: str, amount: Usd, reason: str) -> Outcome:
        """The `Reversals` port: back to the processor what a deposit brought."""
        return self.reverse_now(id, deposit_id, amount, reason)

    async def reinstate(self, id: str, reversal_id: str, reason: str) -> Outcome:
        """The `Reversals` port: undo a reversal, once."""
        return self.reinstate_now(id, reversal_id, reason)

    def reverse_now(self, id: str, deposit_id: str, amount: Usd, reason: str) -> Outcome:
        """For callers whose transaction has more in it."""
        rules.check_amount(amount)
        store = self._store
        deposit, old = store.entries.get(deposit_id), store.entries.get(id)
        if deposit is None or deposit.kind is not Kind.DEPOSIT:
            return Outcome.NO_ENTRY
        if old is not None:
            same = (old.kind, old.corrects, old.processor) == (Kind.REVERSAL, deposit_id, amount)
            return Outcome.EXISTS if same else Outcome.MISMATCH
        left = rules.left_of(deposit, store.corrections(deposit_id))
        balance = store.balances[deposit.account_id]
        entry = rules.reverse(id, deposit, left, balance, amount, reason)
        store.book(entry)
        self._shrink(entry)
        store.note_change(entry.account_id)
        if entry.loss:
            flag = Flag(id, entry.account_id, Usd(-entry.loss), reason, store.now())
            store.flags.append(flag)
        return Outcome.DONE

    def _shrink(self, reversal: Entry) -> None:
        store = self._store
        own = [h for h, _ in store.open_holds.values() if h.account_id == reversal.account_id]
        for smaller in rules.shrink(own, -reversal.held_paid):
            hold, until = store.open_holds[smaller.id]
            store.open_holds[smaller.id] = (smaller, until)
            if smaller.id in store.capped_holds:
                used = store.held_with[smaller.id]
                month, taken = store.key_months[used], Usd(hold.amount - smaller.amount)
                store.key_months[used] = month.resolved(taken, ZERO)

    def reinstate_now(self, id: str, reversal_id: str, reason: str) -> Outcome:
        """For callers whose transaction has more in it."""
        store = self._store
        reversal, old = store.entries.get(reversal_id), store.entries.get(id)
        if reversal is None or reversal.kind is not Kind.REVERSAL:
            return Outcome.NO_ENTRY
        if old is not None:
            same = (old.kind, old.corrects) == (Kind.REINSTATE, reversal_id)
            return Outcome.EXISTS if same else Outcome.MISMATCH
        if any(entry.corrects == reversal_id for entry in store.entries.values()):
            return Outcome.MISMATCH
        store.book(rules.reinstate(id, reversal, reason))
        store.note_change(reversal.account_id)
        return Outcome.DONE

    async def balance(self, account_id: str) -> Balance:
        """The projection."""
        return self._store.balances.get(account_id, Balance())

    async def sweep(self, limit: int = 500) -> int:
        """Expire overdue holds, oldest first."""
        store = self._store
        now = store.now()
        overdue = sorted(
            (expires_at, id)
            for id, (_, expires_at) in store.open_holds.items()
            if expires_at <= now
        )
        for _, id in overdue[:limit]:
            await self.resolve(Resolution(id, Kind.EXPIRE))
        return len(overdue[:limit])

    async def health(self) -> LedgerHealth:
        """Replay everything."""
        store = self._store
        entries = list(store.entries.values())
        off = sum(
            rules.fold(entry for entry in entries if entry.account_id == account_id) != balance
            for account_id, balance in store.balances.items()
        )
        unresolved = {
            entry.id
            for entry in entries
            if entry.kind is Kind.HOLD and entry.id not in store.resolutions
        }
        return LedgerHealth(
            entries=len(entries),
            sum_of_all_books=sum(entry.total for entry in entries),
            balances_off=off,
            holds_off=len(unresolved ^ store.open_holds.keys()) + self._reserved_off(),
            open_holds=len(store.open_holds),
            oldest_open_hold_s=0.0,
            revenue=Usd(sum(entry.revenue for entry in entries)),
            provider_cost=Usd(-sum(entry.provider_cost for entry in entries)),
            loss=Usd(-sum(entry.loss for entry in entries)),
        )

    def _reserved_off(self) -> int:
        """Accounts whose open holds are not what their balance has reserved."""
        store = self._store
        reserved: dict[str, int] = {}
        for hold, _ in store.open_holds.values():
            reserved[hold.account_id] = reserved.get(hold.account_id, 0) + hold.amount
        return sum(
            reserved.get(account_id, 0) != balance.held
            for account_id, balance in store.balances.items()
        )


USE_NOTED_EVERY = timedelta(hours=1)


class MemoryAccounts:
    """The `Accounts` port."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def principal(self, digest: bytes) -> Principal | None:
        """Owner of a live key or session."""
        store = self._store
        for key in store.keys.values():
            if digest in (key.digest, key.previous_digest) and key.revoked_at is None:
                store.keys[key.id] = replace(key, used_at=self._used(key.used_at))
                return self._of_key(key, digest)
        session = store.sessions.get(digest)
        if session is None:
            return None
        store.sessions[digest] = replace(session, used_at=self._used(session.used_at))
        return replace(
            self._principal(session.account_id, ""),
            until=session.expires_at,
            session_id=session.id,
        )

    def _of_key(self, key: Key, digest: bytes) -> Principal:
        ends = [key.policy.expires_at, key.previous_until if digest != key.digest else None]
        return replace(
            self._principal(key.account_id, key.id, key.replay_minutes),
            policy=key.policy,
            until=min((end for end in ends if end is not None), default=None),
        )

    def _used(self, before: datetime | None) -> datetime:
        now = self._store.now()
        return now if before is None or before < now - USE_NOTED_EVERY else before

    async def changes(self) -> Set[tuple[str, str]]:
        """All changes there ever were; nothing is forgotten here."""
        return frozenset(self._store.changes)

    def _principal(self, account_id: str, key_id: str, replay_minutes: int = 0) -> Principal:
        account = self._store.accounts[account_id]
        standing = self._standing(account_id)
        return Principal(account_id, key_id, account.email, standing, replay_minutes)

    def _standing(self, account_id: str) -> Standing:
        decided = [row for row in self._store.overrides if row.account_id == account_id]
        return Standing(
            account_id,
            self._store.balances[account_id].deposited,
            decided[-1] if decided else None,
        )

    async def register(self, account: Account, key: Key, session: Session, bonus: Usd) -> bool:
        """All or nothing."""
        store = self._store
        if account.bound and await self.by_email(account.email) is not None:
            return False
        if account.id in store.accounts:
            return False
        store.open_account(account, bonus)
        store.keys[key.id] = key
        store.sessions[session.digest] = session
        return True

    async def by_email(self, email: str) -> Account | None:
        """By address, any case."""
        return next(
            (
                account
                for account in self._store.accounts.values()
                if account.bound and account.email.lower() == email.lower()
            ),
            None,
        )

    async def find(self, text: str, limit: int = 20) -> Sequence[Account]:
        """By part of the address or by whole id."""
        wanted = text.replace("-", "").lower()
        found = [
            account
            for account in self._store.accounts.values()
            if text.lower() in account.email.lower() or account.id == wanted
        ]
        found.sort(key=lambda account: (account.id == wanted, account.created_at), reverse=True)
        return found[:limit]

    async def keys(self, account_id: str) -> Sequence[Key]:
        """Newest first."""
        own = [key for key in self._store.keys.values() if key.account_id == account_id]
        return sorted(own, key=lambda key: (key.created_at, key.id), reverse=True)

    async def add_session(self, session: Session, password_hash: str | None = None) -> bool:
        """Remember it, if the password is still the account's."""
        owner = self._store.accounts.get(session.account_id)
        if owner is None or password_hash not in (None, owner.password_hash):
            return False
        self._store.sessions[session.digest] = session
        return True

    async def revoke_key(self, account_id: str, key_id: str) -> Key | None:
        """Once; a second call changes nothing."""
        key = self._store.keys.get(key_id)
        if key is None or key.account_id != account_id:
            return None
        if key.revoked_at is None:
            key = replace(key, revoked_at=self._store.now())
            self._store.keys[key_id] = key
            self._store.note_change(account_id)
        return key

    async def standing(self, account_id: str) -> Standing | None:
        """Deposits and override."""
        if account_id not in self._store.balances:
            return None
        return self._standing(account_id)


class MemoryOverrides:
    """The `Overrides` port."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def add(self, override: Override) -> None:
        """Append."""
        self._store.overrides.append(override)
        self._store.note_change(override.account_id)

    async def history(self, account_id: str) -> Sequence[Override]:
        """Newest first."""
        return [row for row in reversed(self._store.overrides) if row.account_id == account_id]


class MemoryOperators:
    """The `Operators` port."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def add(self, operator: Operator) -> bool:
        """Unless the name is taken."""
        if operator.name in self._store.operators:
            return False
        self._store.operators[operator.name] = operator
        return True

    async def by_name(self, name: str) -> Operator | None:
        """By exact name."""
        return self._store.operators.get(name)

    async def count(self) -> int:
        """How many."""
        return len(self._store.operators)
