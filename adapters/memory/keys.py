"""Keys, sign-ins and throttles in memory, equal to Postgres and Redis by contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from adapters.memory.identity import MemoryWays
from adapters.memory.storage import MemoryStore
from kyma.accounts import Key, Session
from kyma.ledger import KeyMonth
from kyma.money import Usd
from kyma.ports.storage import Principal
from kyma.throttles import Counts, Guarded, windows_of


class MemoryKeys:
    """The `Keys` port."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def create(self, key: Key, by: Principal | None = None) -> bool:
        """Remember it, unless its id is known."""
        if key.id in self._store.keys or not self._may_act(by):
            return False
        self._store.keys[key.id] = key
        self._count_anew(key)
        return True

    async def edit(
        self,
        account_id: str,
        key_id: str,
        decide: Callable[[Key], Key],
        by: Principal | None = None,
    ) -> Key | None:
        """If it lives and is theirs."""
        store = self._store
        key = store.keys.get(key_id) if self._may_act(by) else None
        if key is None or key.account_id != account_id or key.revoked_at is not None:
            return None
        changed = decide(key)
        store.keys[key_id] = changed
        if key.policy.monthly_cap is None:
            self._count_anew(changed)
        store.note_change(account_id)
        return changed

    def _may_act(self, by: Principal | None) -> bool:
        if by is None:
            return True
        if by.session_id:
            return self._store.is_signed_in(by.account_id, by.session_id)
        key = self._store.keys.get(by.key_id)
        return key is not None and key.revoked_at is None

    def _count_anew(self, key: Key) -> None:
        """A cap counts from the first of the month, whenever it is set."""
        if key.policy.monthly_cap is None:
            return
        store, place = self._store, (key.id, self._store.month)
        spent = sum(
            record.charged
            for record in store.records
            if record.key_id == key.id and self._placed_in(record.id) == store.month
        )
        open_now = {id for id, used in store.held_with.items() if used == place}
        store.capped_holds |= open_now
        reserved = sum(store.open_holds[id][0].amount for id in open_now)
        store.key_months[place] = KeyMonth(key.policy.monthly_cap, Usd(spent), Usd(reserved))

    def _placed_in(self, hold_id: str) -> object:
        return self._store.booked_at[hold_id].date().replace(day=1)

    async def months(self, account_id: str) -> Mapping[str, KeyMonth]:
        """Of keys with a cap."""
        found = {key.id: self._store.key_month(account_id, key.id) for key in self._of(account_id)}
        return {id: month for id, month in found.items() if month is not None}

    def _of(self, account_id: str) -> list[Key]:
        return [key for key in self._store.keys.values() if key.account_id == account_id]


class MemorySignIns:
    """The `SignIns` port."""

    def __init__(self, ways: MemoryWays) -> None:
        self._ways = ways
        self._store = ways.store

    async def of(self, account_id: str) -> Sequence[Session]:
        """Live ones, newest first."""
        now = self._store.now()
        own = [
            session
            for session in self._store.sessions.values()
            if session.account_id == account_id and session.expires_at > now
        ]
        return sorted(own, key=lambda session: (session.created_at, session.id), reverse=True)

    async def end(self, account_id: str, session_id: str) -> bool:
        """Forget it."""
        wanted = session_id.replace("-", "").lower()
        ended = [session for session in await self.of(account_id) if session.id == wanted]
        for session in ended:
            self._forget(session)
        return bool(ended)

    async def end_all(self, account_id: str, except_digest: bytes | None = None) -> int:
        """Forget all but one."""
        ended = [
            session for session in await self.of(account_id) if session.digest != except_digest
        ]
        for session in ended:
            self._forget(session)
        self._ways.end_codes(account_id)
        return len(ended)

    def _forget(self, session: Session) -> None:
        del self._store.sessions[session.digest]
        self._store.note_change(session.account_id)


class MemoryAttempts:
    """The `Attempts` port, on a given clock."""

    def __init__(self, now: Callable[[], float], *, trust_loopback: bool = False) -> None:
        self._now = now
        self._trust_loopback = trust_loopback
        self._counts = Counts()

    async def take(self, kind: Guarded, address: str, subject: str) -> float:
        """Count it here."""
        windows = windows_of(kind, address, subject, trust_loopback=self._trust_loopback)
        return self._counts.take(windows, self._now())

    async def give_back(self, kind: Guarded, address: str, subject: str) -> None:
        """Uncount it."""
        self._counts.give_back(
            windows_of(kind, address, subject, trust_loopback=self._trust_loopback)
        )
