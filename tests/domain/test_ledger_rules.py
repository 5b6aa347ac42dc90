"""The ledger's rules as a table: a state, an attempt, the named outcome and what is left."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from kyma.ledger import (
    MAX_AMOUNT,
    RESOLVED,
    Balance,
    Entry,
    Hold,
    Kind,
    LedgerHealth,
    Outcome,
    Resolution,
    after,
    check_amount,
    deposit,
    fold,
    grant,
    hold,
    left_of,
    reinstate,
    resolve,
    reverse,
)
from kyma.money import ZERO, Usd
from tests.builders import NOON, a_key, a_session, an_account

# Each line: what happens, in nano-dollars, to one account with holds named h1, h2 …
#   promo paid | attempt | outcome | promo paid held settled
# A step before the attempt is separated by `;`. The funds came by the grant p and the deposit d.
TABLE = """
  0   0 | hold h1 0                              | done                  |  0   0   0 -
  0   0 | hold h1 1                              | insufficient_credits  |  0   0   0 -
  5   0 | hold h1 5                              | done                  |  0   0   5 -
  5   0 | hold h1 6                              | insufficient_credits  |  5   0   0 -
  5   7 | hold h1 6                              | done                  |  0   6   6 -
  5   7 | hold h1 12                             | done                  |  0   0  12 -
  5   7 | hold h1 13                             | insufficient_credits  |  5   7   0 -
  5   7 | hold h1 -1                             | insufficient_credits  |  5   7   0 -
  5   7 | hold h1 6; hold h2 7                   | insufficient_credits  |  0   6   6 -
  5   7 | hold h1 6; hold h2 6                   | done                  |  0   0  12 -
  5   7 | hold h1 6; hold h1 6                   | exists                |  0   6   6 -
  5   7 | hold h1 6; hold h1 5                   | same_id_other_content |  0   6   6 -
  5   7 | hold h1 6; settle h1 6; hold h1 6      | exists                |  0   6   0 -
  5   7 | settle h1 1                            | no_such_hold          |  5   7   0 0
  5   7 | refund h1                              | no_such_hold          |  5   7   0 0
  5   7 | hold h1 6; settle h1 0                 | done                  |  5   7   0 0
  5   7 | hold h1 6; settle h1 3                 | done                  |  2   7   0 3
  5   7 | hold h1 6; settle h1 6                 | done                  |  0   6   0 6
  5   7 | hold h1 6; settle h1 99                | done                  |  0   6   0 6
  5   7 | hold h1 6; refund h1                   | done                  |  5   7   0 0
  5   7 | hold h1 6; expire h1                   | done                  |  5   7   0 0
  5   7 | hold h1 6; settle h1 3; settle h1 3    | already_settled       |  2   7   0 3
  5   7 | hold h1 6; settle h1 3; settle h1 5    | already_settled       |  2   7   0 3
  5   7 | hold h1 6; settle h1 3; refund h1      | already_settled       |  2   7   0 3
  5   7 | hold h1 6; settle h1 3; expire h1      | already_settled       |  2   7   0 3
  5   7 | hold h1 6; refund h1; settle h1 3      | already_refunded      |  5   7   0 0
  5   7 | hold h1 6; refund h1; refund h1        | already_refunded      |  5   7   0 0
  5   7 | hold h1 6; refund h1; expire h1        | already_refunded      |  5   7   0 0
  5   7 | hold h1 6; expire h1; settle h1 3      | already_expired       |  5   7   0 0
  5   7 | hold h1 6; expire h1; refund h1        | already_expired       |  5   7   0 0
  5   7 | hold h1 6; expire h1; expire h1        | already_expired       |  5   7   0 0
  5   7 | hold h1 6; hold h2 3; settle h2 3      | done                  |  0   3   6 3
  0   0 | grant g1 4                             | done                  |  4   0   0 -
  0   0 | deposit d1 4                           | done                  |  0   4   0 -
  0   0 | grant g1 4; grant g1 4                 | exists                |  4   0   0 -
  0   0 | grant g1 4; grant g1 5                 | same_id_other_content |  4   0   0 -
  0   0 | grant g1 4; deposit g1 4               | same_id_other_content |  4   0   0 -
  0   0 | deposit d1 4; deposit d1 4             | exists                |  0   4   0 -
  0   0 | deposit d1 4; hold d1 4                | same_id_other_content |  0   4   0 -
  9   0 | hold h1 4; deposit h1 4                | same_id_other_content |  5   0   4 -
  5   7 | reverse r1 d 3                         | done                  |  5   4   0 -
  5   7 | reverse r1 d 9                         | done                  |  5   0   0 -
  5   7 | reverse r1 d 3; reverse r1 d 3         | exists                |  5   4   0 -
  5   7 | reverse r1 d 3; reverse r1 d 4         | same_id_other_content |  5   4   0 -
  5   7 | reverse r1 d 3; reverse r2 d 9         | done                  |  5   0   0 -
  5   7 | reverse r1 x 3                         | no_such_entry         |  5   7   0 -
  5   0 | reverse r1 p 3                         | no_such_entry         |  5   0   0 -
  5   7 | hold h1 9; reverse r1 d 7              | done                  |  0   0   5 -
  5   7 | hold h1 9; reverse r1 d 7; refund h1   | done                  |  5   0   0 0
  5   7 | reverse r1 d 3; reinstate u1 r1        | done                  |  5   7   0 -
  5   7 | hold h1 9; reverse r1 d 7; reinstate u1 r1 | done              |  0   7   5 -
  5   7 | reverse r1 d 3; reinstate u1 r1; reinstate u1 r1 | exists      |  5   7   0 -
  5   7 | reverse r1 d 3; reinstate u1 r1; reinstate u2 r1 | same_id_other_content | 5 7 0 -
  5   7 | reinstate u1 r1                        | no_such_entry         |  5   7   0 -
  5   7 | reinstate u1 d                         | no_such_entry         |  5   7   0 -
"""
ROWS = [tuple(cell.strip() for cell in line.split("|")) for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize(("funds", "attempt", "outcome", "left"), ROWS)
async def test_every_attempt_has_a_named_outcome(
    funds: str, attempt: str, outcome: str, left: str
) -> None:
    store = MemoryStore(now=lambda: NOON)
    ledger, account = MemoryLedger(store), an_account()
    await MemoryAccounts(store).register(account, a_key(account), a_session(account), ZERO)
    promo, paid = (Usd(int(cell)) for cell in funds.split())
    if promo:
        await ledger.grant("p", account.id, promo, "start")
    if paid:
        await ledger.deposit("d", account.id, paid, "start")

    told, settled = "", "-"
    for step in attempt.split(";"):
        verb, id, *rest = step.split()
        amount = Usd(int(rest[-1])) if rest and verb != "reinstate" else ZERO
        if verb == "hold":
            told, settled = (await ledger.hold(id, account.id, amount, 60)).outcome, "-"
        elif verb == "grant":
            told, settled = await ledger.grant(id, account.id, amount, "why"), "-"
        elif verb == "deposit":
            told, settled = await ledger.deposit(id, account.id, amount, "why"), "-"
        elif verb == "reverse":
            told, settled = await ledger.reverse(id, rest[0], amount, "why"), "-"
        elif verb == "reinstate":
            told, settled = await ledger.reinstate(id, rest[0], "why"), "-"
        else:
            answer = await ledger.resolve(Resolution(id, Kind(verb), amount))
            told, settled = answer.outcome, str(answer.settled)
    balance = await ledger.balance(account.id)
    found = [str(balance.promo), str(balance.paid), str(balance.held), settled]
    assert (told, found) == (outcome, left.split())
    assert (await ledger.health()).sound


def test_the_table_reaches_every_outcome_but_a_missing_account() -> None:
    # A cap belongs to a key, and there is none here.
    beyond = {Outcome.NO_ACCOUNT, Outcome.CAPPED}
    assert {Outcome(row[2]) for row in ROWS} == set(Outcome) - beyond


@pytest.mark.parametrize(
    "books",
    [
        {"paid": 1},
        {"paid": 5, "processor": -4},
        {"held_paid": 1, "paid": 1},
        {"revenue": 3, "held_paid": -2, "loss": 1},
        {"promo": -1, "held_promo": 2},
    ],
)
def test_an_entry_that_does_not_sum_to_zero_cannot_be_made(books: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="does not sum to zero"):
        Entry("e", Kind.DEPOSIT, "a", **books)


def test_an_entry_cannot_be_changed_afterwards() -> None:
    entry = deposit("d", "a", Usd(5), "why")
    with pytest.raises(FrozenInstanceError):
        entry.paid = 6
    with pytest.raises(ValueError, match="does not sum to zero"):
        replace(entry, paid=6)


@pytest.mark.parametrize("amount", [0, -1, MAX_AMOUNT + 1])
def test_an_amount_that_no_real_operation_has_is_not_booked(amount: int) -> None:
    with pytest.raises(ValueError, match="cannot be booked"):
        check_amount(amount)
    with pytest.raises(ValueError, match="cannot be booked"):
        deposit("d", "a", Usd(amount), "why")
    with pytest.raises(ValueError, match="cannot be booked"):
        grant("g", "a", Usd(amount), "why")


@pytest.mark.parametrize(
    ("kind", "bill", "cost"),
    [
        (Kind.HOLD, 0, 0),
        (Kind.DEPOSIT, 0, 0),
        (Kind.GRANT, 0, 0),
        (Kind.SETTLE, -1, 0),
        (Kind.SETTLE, 0, -1),
        (Kind.REFUND, 1, 0),
        (Kind.EXPIRE, 1, 0),
    ],
)
def test_only_a_settle_bills_and_nothing_is_negative(kind: Kind, bill: int, cost: int) -> None:
    with pytest.raises(ValueError, match=r"a hold does not end|only a settle"):
        Resolution("h", kind, Usd(bill), Usd(cost))


def test_a_refund_may_have_cost_us_something() -> None:
    entry = resolve("e", Hold("h", "a", Usd(5), Usd(5)), Resolution("h", Kind.REFUND, cost=Usd(3)))
    assert (entry.paid, entry.promo, entry.held_paid, entry.held_promo) == (5, 5, -5, -5)
    assert (entry.provider_cost, entry.processor, entry.revenue) == (-3, 3, 0)


def test_every_kind_that_ends_a_hold_has_a_name_for_the_second_end() -> None:
    assert set(RESOLVED) == {Kind.SETTLE, Kind.REFUND, Kind.EXPIRE}


def test_a_balance_below_zero_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="below zero"):
        after(Balance(), Entry("e", Kind.HOLD, "a", "h", paid=-1, held_paid=1))


AMOUNTS = st.integers(0, MAX_AMOUNT).map(Usd)
BALANCES = st.builds(Balance, AMOUNTS, AMOUNTS)


@given(BALANCES, AMOUNTS, AMOUNTS, AMOUNTS)
def test_a_settle_is_between_nothing_and_the_hold_and_the_rest_comes_back(
    balance: Balance, amount: Usd, bill: Usd, cost: Usd
) -> None:
    entry = hold("h", balance, "a", amount)
    if amount > balance.available:
        assert entry is Outcome.INSUFFICIENT
        return
    assert isinstance(entry, Entry)
    held = after(balance, entry)
    assert held.posted == balance.posted
    assert (entry.held_paid > 0) <= (held.promo == 0), "promotional credit is spent first"
    one = Hold("h", "a", Usd(entry.held_paid), Usd(entry.held_promo))
    end = resolve("e", one, Resolution("h", Kind.SETTLE, bill, cost))
    done = after(held, end)
    settled = balance.available - done.available
    assert settled == min(bill, amount) == end.revenue + end.loss
    assert done.held == balance.held
    assert -end.loss == max(0, bill - amount)
    back = fold([entry, end])
    assert Usd(balance.paid + back.paid) == done.paid
    assert Usd(balance.promo + back.promo) == done.promo


@given(BALANCES, AMOUNTS)
def test_a_refund_goes_back_where_the_hold_came_from(balance: Balance, amount: Usd) -> None:
    entry = hold("h", balance, "a", amount)
    if isinstance(entry, Outcome):
        return
    one = Hold("h", "a", Usd(entry.held_paid), Usd(entry.held_promo))
    for kind in (Kind.REFUND, Kind.EXPIRE):
        end = resolve("e", one, Resolution("h", kind))
        assert after(after(balance, entry), end) == balance


@given(AMOUNTS.filter(bool), AMOUNTS, AMOUNTS, AMOUNTS.filter(bool))
def test_a_reversal_takes_what_is_there_and_its_undoing_gives_exactly_that_back(
    amount: Usd, gone: Usd, spent: Usd, back: Usd
) -> None:
    first = deposit("d", "a", amount, "")
    left = Usd(amount - min(gone, amount))
    free = Usd(amount - min(spent, amount))
    balance = Balance(paid=free, promo=Usd(5), deposited=left)
    entry = reverse("r", first, left, balance, back, "refund")
    done = after(balance, entry)
    assert done.paid == free - min(back, left, free)
    assert done.promo == balance.promo, "what was given is not what was paid for"
    assert done.deposited == left - min(back, left)
    assert entry.processor == back, "the money has gone, whatever is left here"
    assert -entry.loss == back - (free - done.paid)
    undone = reinstate("u", entry, "won")
    assert after(done, undone) == balance
    assert left_of(first, [entry, undone]) == amount


@given(st.lists(AMOUNTS.filter(bool), min_size=1, max_size=8), st.randoms())
def test_a_fold_does_not_depend_on_the_order(amounts: list[Usd], dice: object) -> None:
    entries = [deposit(f"d{n}", "a", amount, "") for n, amount in enumerate(amounts)]
    entries += [grant(f"g{n}", "a", amount, "") for n, amount in enumerate(amounts)]
    folded = fold(entries)
    dice.shuffle(entries)
    assert fold(entries) == folded
    assert folded.deposited == sum(amounts)


@pytest.mark.parametrize(
    ("total", "balances", "holds", "sound"),
    [(0, 0, 0, True), (1, 0, 0, False), (0, 1, 0, False), (0, 0, 1, False)],
)
def test_a_ledger_is_sound_when_every_difference_is_zero(
    total: int, balances: int, holds: int, sound: bool
) -> None:
    assert LedgerHealth(9, total, balances, holds, 3, 1.0, ZERO, ZERO, ZERO).sound is sound
