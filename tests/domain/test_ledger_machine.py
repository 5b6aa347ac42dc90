"""The memory ledger, whatever happens to it in whatever order, against a model of its own.

The model knows nothing of entries or funds' legs: two integers per account, a dictionary of
holds, and rules in the words of architecture.md section 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from adapters.memory.runtime import MemoryClock
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from kyma.ledger import Kind, Outcome, Resolution, fold
from kyma.money import ZERO, Usd
from tests.builders import a_key, a_record, a_session, an_account

T = TypeVar("T")
AMOUNTS = st.integers(1, 50).map(Usd)
TTL_S = st.integers(0, 120)


@dataclass
class Model:
    """What must be true, in as few words as possible."""

    now: float = 0.0
    promo: dict[str, int] = field(default_factory=dict)
    paid: dict[str, int] = field(default_factory=dict)
    put_in: dict[str, int] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    deposits: dict[str, int] = field(default_factory=dict)
    reversals: dict[str, tuple[str, str, int, int, bool]] = field(default_factory=dict)
    """Of which deposit and account, how much of it was fitting and taken, whether undone."""

    holds: dict[str, tuple[str, int, int, float]] = field(default_factory=dict)
    ended: dict[str, tuple[Outcome, int]] = field(default_factory=dict)

    def hold(self, id: str, account: str, amount: int, ttl_s: int) -> Outcome:
        if amount > self.promo[account] + self.paid[account]:
            return Outcome.INSUFFICIENT
        from_promo = min(amount, self.promo[account])
        self.promo[account] -= from_promo
        self.paid[account] -= amount - from_promo
        self.holds[id] = (account, from_promo, amount - from_promo, self.now + ttl_s)
        return Outcome.DONE

    def end(self, id: str, told: Outcome, bill: int) -> tuple[Outcome, int]:
        if id in self.ended:
            return self.ended[id]
        account, promo, paid, _ = self.holds.pop(id)
        settled = min(bill, promo + paid)
        self.promo[account] += promo - min(settled, promo)
        self.paid[account] += paid - max(0, settled - promo)
        self.spent[account] += settled
        self.ended[id] = (told, settled)
        return Outcome.DONE, settled

    def reverse(self, id: str, deposit: str, account: str, amount: int) -> None:
        fitting = min(amount, self.deposits[deposit])
        free = taken = min(fitting, self.paid[account])
        self.deposits[deposit] -= fitting
        self.paid[account] -= free
        for id_, (owner, promo, paid, until) in sorted(self.holds.items(), reverse=True):
            if owner == account:
                of_hold = min(fitting - taken, paid)
                taken += of_hold
                self.holds[id_] = (owner, promo, paid - of_hold, until)
        self.put_in[account] -= taken
        self.lost[account] += amount - taken
        self.reversals[id] = (deposit, account, fitting, taken, False)

    def undo(self, id: str, amount: int) -> Outcome:
        deposit, account, fitting, taken, undone = self.reversals[id]
        if undone:
            return Outcome.MISMATCH
        self.deposits[deposit] += fitting
        self.paid[account] += taken
        self.put_in[account] += taken
        self.lost[account] -= amount - taken
        self.reversals[id] = (deposit, account, fitting, taken, True)
        return Outcome.DONE


ALREADY = {
    Kind.SETTLE: Outcome.ALREADY_SETTLED,
    Kind.REFUND: Outcome.ALREADY_REFUNDED,
    Kind.EXPIRE: Outcome.ALREADY_EXPIRED,
}


class LedgerMachine(RuleBasedStateMachine):
    """Holds, ends, credits, repeats and passing time."""

    holds = Bundle("holds")
    funds = Bundle("funds")
    reversals = Bundle("reversals")

    def __init__(self) -> None:
        super().__init__()
        self.clock = MemoryClock()
        self.store = MemoryStore(now=self.clock.now)
        self.ledger = MemoryLedger(self.store)
        self.model = Model()
        self.serial = 0
        self.accounts: list[str] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The memory adapter never waits, so one step runs it to its end."""
        try:
            work.send(None)
        except StopIteration as ended:
            return ended.value
        raise AssertionError("the memory ledger waited for something")

    def new_id(self) -> str:
        self.serial += 1
        return f"op{self.serial}"

    @initialize(bonuses=st.lists(st.integers(0, 60), min_size=1, max_size=3))
    def open_accounts(self, bonuses: list[int]) -> None:
        for bonus in bonuses:
            account = an_account()
            registered = MemoryAccounts(self.store).register(
                account, a_key(account), a_session(account), Usd(bonus)
            )
            assert self.run(registered)
            self.accounts.append(account.id)
            self.model.promo[account.id] = self.model.put_in[account.id] = bonus
            self.model.paid[account.id] = self.model.spent[account.id] = 0
            self.model.lost[account.id] = 0

    @rule(target=holds, which=st.integers(0, 2), amount=AMOUNTS, ttl_s=TTL_S)
    def hold(self, which: int, amount: Usd, ttl_s: int) -> Any:
        account, id = self.accounts[which % len(self.accounts)], self.new_id()
        held = self.run(self.ledger.hold(id, account, amount, ttl_s))
        assert held.outcome is self.model.hold(id, account, amount, ttl_s)
        assert held.available == self.model.promo[account] + self.model.paid[account]
        return (id, account, amount) if held.outcome is Outcome.DONE else multiple()

    @rule(one=holds, change=st.sampled_from([0, 0, 1]))
    def hold_again(self, one: tuple[str, str, Usd], change: int) -> None:
        id, account, amount = one
        again = self.run(self.ledger.hold(id, account, Usd(amount + change), 60))
        assert again.outcome is (Outcome.MISMATCH if change else Outcome.EXISTS)

    @rule(one=holds, kind=st.sampled_from(list(ALREADY)), bill=AMOUNTS, cost=st.integers(0, 99))
    def end(self, one: tuple[str, str, Usd], kind: Kind, bill: Usd, cost: int) -> None:
        self._end(one, kind, bill, cost)

    @rule(one=consumes(holds), kind=st.sampled_from(list(ALREADY)), bill=AMOUNTS)
    def end_and_forget(self, one: tuple[str, str, Usd], kind: Kind, bill: Usd) -> None:
        self._end(one, kind, bill, 0)

    def _end(self, one: tuple[str, str, Usd], kind: Kind, bill: Usd, cost: int) -> None:
        id, account, _ = one
        bill = bill if kind is Kind.SETTLE else ZERO
        how = Resolution(id, kind, bill, Usd(cost))
        done = self.run(self.ledger.resolve(how, a_record(account, id)))
        assert (done.outcome, done.settled) == self.model.end(id, ALREADY[kind], bill)
        assert done.available == self.model.promo[account] + self.model.paid[account]

    @rule(kind=st.sampled_from(list(ALREADY)))
    def end_what_never_was(self, kind: Kind) -> None:
        done = self.run(self.ledger.resolve(Resolution(self.new_id(), kind)))
        assert (done.outcome, done.settled) == (Outcome.NO_HOLD, 0)

    @rule(target=funds, which=st.integers(0, 2), paid=st.booleans(), amount=AMOUNTS)
    def credit(self, which: int, paid: bool, amount: Usd) -> Any:
        account, id = self.accounts[which % len(self.accounts)], self.new_id()
        book = self.ledger.deposit if paid else self.ledger.grant
        assert self.run(book(id, account, amount, "")) is Outcome.DONE
        (self.model.paid if paid else self.model.promo)[account] += amount
        self.model.put_in[account] += amount
        if paid:
            self.model.deposits[id] = amount
        return id, account, paid, amount

    @rule(one=funds, change=st.sampled_from([0, 0, 1]), other_kind=st.booleans())
    def credit_again(self, one: tuple[str, str, bool, Usd], change: int, other_kind: bool) -> None:
        id, account, paid, amount = one
        book = self.ledger.deposit if paid is not other_kind else self.ledger.grant
        same = not change and not other_kind
        told = self.run(book(id, account, Usd(amount + change), ""))
        assert told is (Outcome.EXISTS if same else Outcome.MISMATCH)

    @rule(target=reversals, one=funds, amount=AMOUNTS)
    def reverse(self, one: tuple[str, str, bool, Usd], amount: Usd) -> Any:
        deposit, account, paid, _ = one
        id = self.new_id()
        told = self.run(self.ledger.reverse(id, deposit, amount, "refund"))
        if not paid:
            assert told is Outcome.NO_ENTRY
            return multiple()
        assert told is Outcome.DONE
        self.model.reverse(id, deposit, account, amount)
        return id, deposit, amount

    @rule(one=reversals, change=st.sampled_from([0, 0, 1]))
    def reverse_again(self, one: tuple[str, str, Usd], change: int) -> None:
        id, deposit, amount = one
        again = self.run(self.ledger.reverse(id, deposit, Usd(amount + change), "refund"))
        assert again is (Outcome.MISMATCH if change else Outcome.EXISTS)

    @rule(one=reversals)
    def reinstate(self, one: tuple[str, str, Usd]) -> None:
        id, _, amount = one
        told = self.run(self.ledger.reinstate(self.new_id(), id, "won"))
        assert told is self.model.undo(id, amount)

    @rule(seconds=st.integers(1, 90))
    def let_time_pass(self, seconds: int) -> None:
        self.clock.move(seconds)
        self.model.now += seconds

    @rule(limit=st.integers(1, 4))
    def sweep(self, limit: int) -> None:
        overdue = sorted(
            (until, id) for id, (*_, until) in self.model.holds.items() if until <= self.model.now
        )[:limit]
        assert self.run(self.ledger.sweep(limit)) == len(overdue)
        for _, id in overdue:
            if id not in self.store.open_holds:
                self.model.end(id, Outcome.ALREADY_EXPIRED, 0)
        left = [id for _, id in overdue if id in self.store.open_holds]
        assert not left, "the sweep takes the oldest"

    @invariant()
    def the_books_sum_to_zero(self) -> None:
        assert sum(entry.total for entry in self.store.entries.values()) == 0
        assert self.run(self.ledger.health()).sound

    @invariant()
    def credit_is_conserved_and_never_negative(self) -> None:
        for id, balance in self.store.balances.items():
            parts = (balance.paid, balance.promo, balance.held_paid, balance.held_promo)
            assert min(parts) >= 0
            assert (balance.promo, balance.paid) == (self.model.promo[id], self.model.paid[id])
            assert self.model.put_in[id] == (
                balance.available + balance.held + self.model.spent[id]
            )

    @invariant()
    def lifetime_deposits_are_net_of_what_went_back(self) -> None:
        deposits = {
            id: entry for id, entry in self.store.entries.items() if entry.kind == "deposit"
        }
        for id, balance in self.store.balances.items():
            own = [name for name, entry in deposits.items() if entry.account_id == id]
            assert balance.deposited == sum(self.model.deposits[name] for name in own)
            assert balance.deposited >= 0

    @invariant()
    def what_was_not_there_is_our_loss_and_flags_its_account(self) -> None:
        for id, lost in self.model.lost.items():
            of_reversals = [
                entry.loss
                for entry in self.store.entries.values()
                if entry.account_id == id and entry.corrects is not None
            ]
            assert -sum(of_reversals) == lost
        flagged = {flag.entry_id: flag.amount for flag in self.store.flags}
        assert flagged == {
            id: -self.store.entries[id].loss
            for id in self.model.reversals
            if self.store.entries[id].loss
        }

    @invariant()
    def a_balance_is_the_replay_of_its_entries(self) -> None:
        for id, balance in self.store.balances.items():
            own = [entry for entry in self.store.entries.values() if entry.account_id == id]
            assert fold(own) == balance

    @invariant()
    def each_hold_is_open_or_has_ended_once(self) -> None:
        entries = self.store.entries.values()
        ends = [entry.hold_id for entry in entries if entry.kind in ALREADY]
        assert len(ends) == len(set(ends))
        assert set(self.store.open_holds) == set(self.model.holds)
        assert set(ends) == set(self.model.ended)

    @invariant()
    def a_record_is_written_with_the_settlement_and_only_then(self) -> None:
        written = [record.id for record in self.store.records]
        assert len(written) == len(set(written))
        for record in self.store.records:
            assert record.charged == self.model.ended[record.id][1]


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase


def test_the_memory_ledger_never_waits() -> None:
    """What lets the machine above run without an event loop, and each call be one unit."""
    store = MemoryStore()
    coroutine = MemoryLedger(store).balance("nobody")
    assert asyncio.run(coroutine).posted == 0
