"""One request as its customer may read it afterwards: hold, end, usage, prices, and log pages."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from kyma.errors import Code, Refusal
from kyma.money import ZERO, Usd
from kyma.pricing import PerToken
from kyma.usage import Usage, UsageRecord

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CURSOR_LENGTH = 32
"""Characters of 24 bytes in base64: eight of time, sixteen of id; no padding."""


class Status(StrEnum):
    """What became of a request's hold: the word a receipt begins with."""

    RUNNING = "running"
    COMPLETED = "completed"
    REFUNDED = "refunded"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Generation:
    """A request by its ledger entries, and its usage record if one was written.

    `expires_at` is set while the hold is open, `ended_at` once it is not. A hold that expired
    has no record: the process that served the request died.
    """

    id: str
    account_id: str
    status: Status
    held: Usd
    settled: Usd
    held_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None
    record: UsageRecord | None

    @property
    def refunded(self) -> Usd:
        """What of the hold was given back; nothing while it is open."""
        return ZERO if self.status is Status.RUNNING else Usd(self.held - self.settled)


@dataclass(frozen=True, slots=True)
class Logged:
    """A line of a customer's log: the record, and when it was written."""

    record: UsageRecord
    ended_at: datetime

    @property
    def place(self) -> Place:
        """Where the line stands in the log."""
        return Place(self.ended_at, self.record.id)


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines are asked for; None asks for nothing. `since ≤ ended_at < until`."""

    model: str | None = None
    outcome: str | None = None
    endpoint: str | None = None
    key_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the log, which runs from the newest line to the oldest.

    Lines are written at its beginning: what follows a place stays what it was, so pages that
    begin at places neither repeat nor miss a line that was there when the first was read.
    """

    ended_at: datetime
    id: str

    def cursor(self) -> str:
        """The place as an opaque word for a URL."""
        micros = (self.ended_at - EPOCH) // timedelta(microseconds=1)
        raw = micros.to_bytes(8, "big") + bytes.fromhex(self.id)
        return base64.urlsafe_b64encode(raw).decode()


def place_of(cursor: str) -> Place:
    """The place that a cursor names, or a refusal."""
    wrong = Refusal(
        Code.INVALID_VALUE,
        "`cursor` must be the `next_cursor` of an earlier page.",
        param="cursor",
    )
    if len(cursor) != CURSOR_LENGTH:
        raise wrong
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        at = EPOCH + timedelta(microseconds=int.from_bytes(raw[:8], "big"))
    except (ValueError, OverflowError):
        raise wrong from None
    return Place(at, raw[8:].hex())


def price_used(asked: PerToken, served: PerToken, usage: Usage) -> PerToken:
    """The price a request is billed at: a substitute never costs more than what was asked for."""
    return min(asked, served, key=lambda price: price.bill(usage))


ID_PREFIXES = ("chatcmpl-", "cmpl-", "msg_", "resp_")
"""What answers put in front of a request's id, each in its own language."""


def request_id_of(name: str) -> str | None:
    """The request id in a name a customer may know it by, or None if it cannot be one."""
    for prefix in ID_PREFIXES:
        name = name.removeprefix(prefix)
    id = name.replace("-", "").lower()
    return id if len(id) == 32 and set(id) <= set("0123456789abcdef") else None
