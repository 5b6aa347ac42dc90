"""The outbox in memory, equal to the one on Postgres by contract; a bell, and a carrier's bag."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from kyma.mail import Claimed, Letter, Mail, State, Trouble, is_secret
from kyma.ports.mail import Printed

LOST_SIGHT = "the worker did not say how it ended"


@dataclass(frozen=True, slots=True)
class _Row:
    id: str
    letter: Letter
    to: str
    facts: Mapping[str, str]
    posted_at: datetime
    due_at: datetime
    state: State = State.WAITING
    tries: int = 0
    claim: str | None = None
    ended_at: datetime | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class PutBack:
    """Who had which letter sent after all, and why."""

    id: str
    operator: str
    reason: str


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class MemoryMails:
    """The `Outbox` and `Mails` ports."""

    now: Callable[[], datetime] = _now
    rows: dict[str, _Row] = field(default_factory=dict)
    put_backs: list[PutBack] = field(default_factory=list)

    async def post(self, mail: Mail) -> bool:
        """Unless the id is known."""
        if mail.id in self.rows:
            return False
        now = self.now()
        self.rows[mail.id] = _Row(mail.id, mail.letter, mail.to, dict(mail.facts), now, now)
        return True

    async def claim(self, claim: str, lease_s: int) -> Claimed | None:
        """The one that is due longest."""
        now = self.now()
        due = [
            row for row in self.rows.values() if row.state is State.WAITING and row.due_at <= now
        ]
        if not due:
            return None
        row = min(due, key=lambda row: row.due_at)
        self.rows[row.id] = replace(
            row,
            state=State.SENDING,
            claim=claim,
            tries=row.tries + 1,
            due_at=now + timedelta(seconds=lease_s),
        )
        mail = Mail(row.id, row.to, row.letter, row.facts)
        return Claimed(mail, claim, row.tries + 1, row.posted_at)

    async def sent(self, id: str, claim: str) -> bool:
        """Once."""
        row = self.rows.get(id)
        if row is None or row.claim != claim or row.state is State.SENT:
            return False
        self._end(row, State.SENT, "")
        return True

    async def put_off(self, id: str, claim: str, delay_s: int, error: str) -> bool:
        """Only one's own."""
        row = self._own(id, claim)
        if row is None:
            return False
        due = self.now() + timedelta(seconds=delay_s)
        self.rows[id] = replace(row, state=State.WAITING, due_at=due, error=error)
        return True

    async def end(self, id: str, claim: str, state: State, error: str) -> bool:
        """Only one's own."""
        row = self._own(id, claim)
        if row is None:
            return False
        self._end(row, state, error)
        return True

    async def lapse(self) -> int:
        """By the store's clock."""
        now = self.now()
        over = [
            row for row in self.rows.values() if row.state is State.SENDING and row.due_at <= now
        ]
        for row in over:
            self._end(row, State.UNKNOWN, LOST_SIGHT)
        return len(over)

    async def troubled(self, limit: int = 100) -> Sequence[Trouble]:
        """Newest first."""
        found = [
            Trouble(
                row.id,
                row.letter,
                row.to,
                row.state,
                row.tries,
                row.error,
                row.ended_at,
            )
            for row in self.rows.values()
            if row.state in {State.UNKNOWN, State.GIVEN_UP} and row.ended_at is not None
        ]
        found.sort(key=lambda trouble: trouble.id)
        found.sort(key=lambda trouble: trouble.ended_at, reverse=True)
        return found[:limit]

    async def put_back(
        self, id: str, letters: Collection[Letter], operator: str, reason: str
    ) -> bool:
        """With its claim and one try, so that a late word of the last one is understood."""
        row = self.rows.get(id)
        if row is None or row.state not in {State.UNKNOWN, State.GIVEN_UP}:
            return False
        if row.letter not in letters or not row.to:
            return False
        self.rows[id] = replace(
            row, state=State.WAITING, due_at=self.now(), ended_at=None, error="", tries=1
        )
        self.put_backs.append(PutBack(id, operator, reason))
        return True

    async def erase(self, after_days: int, limit: int = 5000) -> int:
        """Address and facts, never the id."""
        before = self.now() - timedelta(days=after_days)
        old = [
            row
            for row in self.rows.values()
            if row.to and row.ended_at is not None and row.ended_at < before
        ][:limit]
        for row in old:
            self.rows[row.id] = replace(row, to="", facts={})
        return len(old)

    def _own(self, id: str, claim: str) -> _Row | None:
        row = self.rows.get(id)
        mine = row is not None and row.claim == claim and row.state is State.SENDING
        return row if mine else None

    def _end(self, row: _Row, state: State, error: str) -> None:
        left = {name: fact for name, fact in row.facts.items() if not is_secret(name)}
        self.rows[row.id] = replace(row, facts=left, state=state, ended_at=self.now(), error=error)


@dataclass(slots=True)
class MemoryBell:
    """The `Bell` port: counts."""

    rung: int = 0

    async def ring(self) -> None:
        """Once more."""
        self.rung += 1


@dataclass(slots=True)
class MemoryCarrier:
    """The `Carrier` port: keeps letters, or fails as it is told to, first things first."""

    bag: list[Printed] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    async def carry(self, letter: Printed) -> None:
        """Into the bag."""
        if self.failures:
            raise self.failures.pop(0)
        self.bag.append(letter)
