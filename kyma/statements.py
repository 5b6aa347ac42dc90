"""What moved an account's credit: lines, pages of them, and months that add up.

Only entries that change the credit are lines: a hold and its release move nothing for good.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from kyma.errors import Code, Refusal
from kyma.ledger import Entry, Kind
from kyma.money import ZERO, Usd

MOVING = (Kind.DEPOSIT, Kind.GRANT, Kind.SETTLE, Kind.REVERSAL, Kind.REINSTATE)
"""The kinds of line, in the order in which a statement sums them up."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CURSOR_LENGTH = 32
"""Characters of 24 bytes in base64: eight of time, sixteen of id; no padding."""

MONTH_FORM = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Line:
    """One entry as its account sees it. `amount` is what it added to the credit, or took.

    `hold_id` of a settle is the id of its request.
    """

    id: str
    kind: Kind
    amount: Usd
    paid: Usd
    promo: Usd
    booked_at: datetime
    reason: str = ""
    hold_id: str | None = None

    @property
    def place(self) -> Place:
        """Where the line stands."""
        return Place(self.booked_at, self.id)


@dataclass(frozen=True, slots=True)
class Place:
    """A place among the lines, which run from the newest to the oldest."""

    booked_at: datetime
    id: str

    def cursor(self) -> str:
        """The place as an opaque word for a URL."""
        micros = (self.booked_at - EPOCH) // timedelta(microseconds=1)
        return base64.urlsafe_b64encode(micros.to_bytes(8, "big") + bytes.fromhex(self.id)).decode()


@dataclass(frozen=True, slots=True)
class LineFilter:
    """Which lines are asked for; None asks for nothing. `since ≤ booked_at < until`."""

    kind: Kind | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Sum:
    """The lines of one kind in a month."""

    count: int = 0
    amount: Usd = ZERO


@dataclass(frozen=True, slots=True)
class Statement:
    """A month: `opening` plus all sums is `closing`, to the nano-dollar.

    Both are all credit that was not spent, what is under a hold included.
    """

    start: datetime
    end: datetime
    opening: Usd
    sums: Mapping[Kind, Sum]
    closing: Usd


def line_of(entry: Entry, booked_at: datetime) -> Line:
    """The line of an entry that moves credit."""
    return Line(
        entry.id,
        entry.kind,
        moved_by(entry),
        Usd(entry.paid + entry.held_paid),
        Usd(entry.promo + entry.held_promo),
        booked_at,
        entry.reason,
        entry.hold_id,
    )


def moved_by(entry: Entry) -> Usd:
    """What an entry adds to the credit, free and held together."""
    return Usd(entry.paid + entry.promo + entry.held_paid + entry.held_promo)


def statement(start: datetime, end: datetime, closing: Usd, sums: Mapping[Kind, Sum]) -> Statement:
    """A month from its end and what moved in it."""
    moved = sum(sums[kind].amount for kind in sums)
    every = {kind: sums.get(kind, Sum()) for kind in MOVING}
    return Statement(start, end, Usd(closing - moved), every, closing)


def summed(lines: Iterable[Line]) -> dict[Kind, Sum]:
    """Sums by kind."""
    found: dict[Kind, Sum] = {}
    for line in lines:
        old = found.get(line.kind, Sum())
        found[line.kind] = Sum(old.count + 1, Usd(old.amount + line.amount))
    return found


def month(name: str) -> tuple[datetime, datetime]:
    """From when until when a month named `YYYY-MM` lasts, in UTC; refuses other names."""
    found = MONTH_FORM.fullmatch(name)
    if found is None:
        raise Refusal(
            Code.INVALID_VALUE,
            "A month is written as 2026-05 and is in this century.",
            param="month",
        )
    year, number = int(found[1]), int(found[2])
    start = datetime(year, number, 1, tzinfo=UTC)
    return start, datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)


def place_of(cursor: str) -> Place:
    """The place that a cursor names, or a refusal."""
    wrong = Refusal(
        Code.INVALID_VALUE, "`cursor` must be the `next_cursor` of an earlier page.", param="cursor"
    )
    if len(cursor) != CURSOR_LENGTH:
        raise wrong
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        at = EPOCH + timedelta(microseconds=int.from_bytes(raw[:8], "big"))
    except (ValueError, OverflowError):
        raise wrong from None
    return Place(at, raw[8:].hex())
