"""The ledger's rules: entries that sum to zero, holds that resolve exactly once.

Pure. The memory adapter applies these functions; the SQL function `ledger_apply` is held
to them operation by operation by a differential test. Amounts are nano-dollars.

Signs: a positive amount is credit of that book. `processor` is the world outside, money in
from Stripe and out to providers. Promotional credit is spent before paid credit and a
return goes back to the fund it came from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from kyma.money import ZERO, Usd

MAX_AMOUNT = Usd(10**16)
"""Ten million dollars: nothing we book is larger, and sums of many fit 64 bits."""


class Kind(StrEnum):
    """The kinds of entry. `expire` is the sweep's refund of a hold nobody resolved.

    A `reversal` takes back what a deposit brought (its payment was refunded or disputed), a
    `reinstate` undoes a reversal (the dispute was won).
    """

    DEPOSIT = "deposit"
    GRANT = "grant"
    HOLD = "hold"
    SETTLE = "settle"
    REFUND = "refund"
    EXPIRE = "expire"
    REVERSAL = "reversal"
    REINSTATE = "reinstate"


class Outcome(StrEnum):
    """How an operation on the ledger ended; each refusal has a name."""

    DONE = "done"
    EXISTS = "exists"
    MISMATCH = "same_id_other_content"
    INSUFFICIENT = "insufficient_credits"
    CAPPED = "key_cap_reached"
    NO_ACCOUNT = "no_such_account"
    NO_HOLD = "no_such_hold"
    NO_ENTRY = "no_such_entry"
    ALREADY_SETTLED = "already_settled"
    ALREADY_REFUNDED = "already_refunded"
    ALREADY_EXPIRED = "already_expired"


@dataclass(frozen=True, slots=True)
class Balance:
    """Projection of one account's entries: two funds, each available and held."""

    paid: Usd = ZERO
    promo: Usd = ZERO
    held_paid: Usd = ZERO
    held_promo: Usd = ZERO
    deposited: Usd = ZERO

    @property
    def available(self) -> Usd:
        """What a new hold may take; never negative."""
        return Usd(self.paid + self.promo)

    @property
    def held(self) -> Usd:
        """Reserved by open holds."""
        return Usd(self.held_paid + self.held_promo)

    @property
    def posted(self) -> Usd:
        """All credit that has not been spent."""
        return Usd(self.available + self.held)


@dataclass(frozen=True, slots=True)
class Entry:
    """One immutable transaction with a leg per book; the legs sum to zero.

    `corrects` is the entry that a correction is about: a reversal's deposit, a reinstatement's
    reversal. `excess` is no leg: the part of a reversal that its deposit no longer had.
    """

    id: str
    kind: Kind
    account_id: str
    hold_id: str | None = None
    paid: int = 0
    promo: int = 0
    held_paid: int = 0
    held_promo: int = 0
    revenue: int = 0
    provider_cost: int = 0
    processor: int = 0
    promo_fund: int = 0
    loss: int = 0
    reason: str = ""
    actor: str = ""
    corrects: str | None = None
    excess: int = 0

    def __post_init__(self) -> None:
        if self.total != 0:
            raise ValueError(f"entry {self.id} does not sum to zero: {self.total}")

    @property
    def total(self) -> int:
        """Sum over all books; zero by construction."""
        return (
            self.paid
            + self.promo
            + self.held_paid
            + self.held_promo
            + self.revenue
            + self.provider_cost
            + self.processor
            + self.promo_fund
            + self.loss
        )

    @property
    def deposited(self) -> int:
        """What it adds to lifetime deposits, by which tiers go."""
        return self.excess - self.processor if self.kind in DEPOSITED_BY else 0


DEPOSITED_BY = frozenset({Kind.DEPOSIT, Kind.REVERSAL, Kind.REINSTATE})
"""Kinds that change lifetime deposits: money from customers, and money back to them."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Credit reserved for one request: who, how much of which fund."""

    id: str
    account_id: str
    paid: Usd
    promo: Usd

    @property
    def amount(self) -> Usd:
        """The most that may be settled."""
        return Usd(self.paid + self.promo)


@dataclass(frozen=True, slots=True)
class KeyMonth:
    """A key with a cap in a calendar month (UTC): spent, and reserved by its open holds.

    A hold counts in the month in which it is placed, whenever it is resolved.
    """

    cap: Usd
    spent: Usd = ZERO
    reserved: Usd = ZERO

    @property
    def left(self) -> Usd:
        """What a new hold may take. A cap may have been lowered below what is used."""
        return Usd(max(0, self.cap - self.spent - self.reserved))

    def placed(self, amount: Usd) -> KeyMonth:
        """With a hold more."""
        return replace(self, reserved=Usd(self.reserved + amount))

    def resolved(self, held: Usd, settled: Usd) -> KeyMonth:
        """With a hold less, of which so much was spent."""
        return replace(self, reserved=Usd(self.reserved - held), spent=Usd(self.spent + settled))


@dataclass(frozen=True, slots=True)
class Flag:
    """An account to look at: `amount` of a reversal was not there any more, and is our loss."""

    entry_id: str
    account_id: str
    amount: Usd
    reason: str
    flagged_at: datetime


@dataclass(frozen=True, slots=True)
class Resolution:
    """How a hold shall end. `bill` is the price of what was used, `cost` what it costs us.

    Only a settle may carry a bill; a refund may carry a cost (the provider was paid,
    the customer was not charged).
    """

    hold_id: str
    kind: Kind
    bill: Usd = ZERO
    cost: Usd = ZERO

    def __post_init__(self) -> None:
        if self.kind not in RESOLVED:
            raise ValueError(f"a hold does not end by {self.kind}")
        if self.bill < 0 or self.cost < 0 or (self.bill and self.kind is not Kind.SETTLE):
            raise ValueError("only a settle bills, and nothing is negative")


RESOLVED = {
    Kind.SETTLE: Outcome.ALREADY_SETTLED,
    Kind.REFUND: Outcome.ALREADY_REFUNDED,
    Kind.EXPIRE: Outcome.ALREADY_EXPIRED,
}
"""What a second resolution is told, by the kind of the first."""


def check_amount(amount: int) -> None:
    """Refuse amounts that no real operation has."""
    if not 0 < amount <= MAX_AMOUNT:
        raise ValueError(f"{amount} nano-dollars cannot be booked")


def deposit(id: str, account_id: str, amount: Usd, reason: str) -> Entry:
    """Credit that was paid for; the only kind that raises a tier."""
    check_amount(amount)
    return Entry(id, Kind.DEPOSIT, account_id, paid=amount, processor=-amount, reason=reason)


def grant(id: str, account_id: str, amount: Usd, reason: str, actor: str = "") -> Entry:
    """Credit that was given."""
    check_amount(amount)
    return Entry(
        id, Kind.GRANT, account_id, promo=amount, promo_fund=-amount, reason=reason, actor=actor
    )


def reverse(
    id: str, deposit: Entry, left: Usd, balance: Balance, amount: Usd, reason: str
) -> Entry:
    """Take back `amount` of a deposit, of which `left` has not been taken back before.

    Free paid credit is taken first, then what open holds reserve of it (`shrink`): their
    requests go on at our risk. What was spent is spent, and what was given is not what was
    paid for. The shortfall is our loss.
    """
    check_amount(amount)
    fitting = min(amount, left)
    free = min(fitting, balance.paid)
    held = min(fitting - free, balance.held_paid)
    return Entry(
        id,
        Kind.REVERSAL,
        deposit.account_id,
        paid=-free,
        held_paid=-held,
        processor=amount,
        loss=free + held - amount,
        reason=reason,
        corrects=deposit.id,
        excess=amount - fitting,
    )


def shrink(holds: Iterable[Hold], amount: int) -> list[Hold]:
    """The holds that change when so much of their paid credit is taken, the newest first."""
    smaller = []
    for hold in sorted(holds, key=lambda hold: hold.id, reverse=True):
        taken = min(amount, hold.paid)
        if taken:
            smaller.append(replace(hold, paid=Usd(hold.paid - taken)))
            amount -= taken
    return smaller


def reinstate(id: str, reversal: Entry, reason: str) -> Entry:
    """Undo a reversal: all that it took is free again; what was spent before stays spent."""
    return Entry(
        id,
        Kind.REINSTATE,
        reversal.account_id,
        paid=-reversal.paid - reversal.held_paid,
        processor=-reversal.processor,
        loss=-reversal.loss,
        reason=reason,
        corrects=reversal.id,
        excess=-reversal.excess,
    )


def left_of(deposit: Entry, corrections: Iterable[Entry]) -> Usd:
    """What of a deposit has not been taken back, by its reversals and their reinstatements."""
    return Usd(deposit.deposited + sum(entry.deposited for entry in corrections))


def hold(
    id: str, balance: Balance, account_id: str, amount: Usd, month: KeyMonth | None = None
) -> Entry | Outcome:
    """Reserve `amount`, promotional credit first, or say that it is not there.

    `month` is that of the key it is for, if the key has a cap.
    """
    if not 0 <= amount <= MAX_AMOUNT or amount > balance.available:
        return Outcome.INSUFFICIENT
    if month is not None and amount > month.left:
        return Outcome.CAPPED
    promo = min(amount, balance.promo)
    paid = amount - promo
    return Entry(
        id, Kind.HOLD, account_id, id, paid=-paid, promo=-promo, held_paid=paid, held_promo=promo
    )


def resolve(id: str, open_hold: Hold, how: Resolution) -> Entry:
    """End a hold: spend up to the bill, return the rest; a bill beyond the hold is our loss."""
    settled = min(how.bill, open_hold.amount)
    from_promo = min(settled, open_hold.promo)
    from_paid = settled - from_promo
    return Entry(
        id,
        how.kind,
        open_hold.account_id,
        open_hold.id,
        paid=open_hold.paid - from_paid,
        promo=open_hold.promo - from_promo,
        held_paid=-open_hold.paid,
        held_promo=-open_hold.promo,
        revenue=how.bill,
        loss=settled - how.bill,
        provider_cost=-how.cost,
        processor=how.cost,
    )


def after(balance: Balance, entry: Entry) -> Balance:
    """The balance once `entry` is booked; refuses one that would go below zero."""
    moved = replace(
        balance,
        paid=Usd(balance.paid + entry.paid),
        promo=Usd(balance.promo + entry.promo),
        held_paid=Usd(balance.held_paid + entry.held_paid),
        held_promo=Usd(balance.held_promo + entry.held_promo),
        deposited=Usd(balance.deposited + entry.deposited),
    )
    if min(moved.paid, moved.promo, moved.held_paid, moved.held_promo, moved.deposited) < 0:
        raise ValueError(f"entry {entry.id} would take {entry.account_id} below zero")
    return moved


def fold(entries: Iterable[Entry]) -> Balance:
    """The balance of one account from all its entries, in any order of booking."""
    paid = promo = held_paid = held_promo = deposited = 0
    for entry in entries:
        paid += entry.paid
        promo += entry.promo
        held_paid += entry.held_paid
        held_promo += entry.held_promo
        deposited += entry.deposited
    return Balance(Usd(paid), Usd(promo), Usd(held_paid), Usd(held_promo), Usd(deposited))


@dataclass(frozen=True, slots=True)
class LedgerHealth:
    """Figures that must be zero in a sound ledger, and what is still open."""

    entries: int
    sum_of_all_books: int
    balances_off: int
    holds_off: int
    open_holds: int
    oldest_open_hold_s: float
    revenue: Usd
    provider_cost: Usd
    loss: Usd

    @property
    def sound(self) -> bool:
        """Whether every invariant held when this was read."""
        return self.sum_of_all_books == 0 and self.balances_off == 0 and self.holds_off == 0
