"""The contract of what buying credit needs remembered, on memory and Postgres alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.memory.billing import (
    MemoryAlarms,
    MemoryNotices,
    MemoryOrders,
    MemorySettlements,
    MemoryStatements,
    MemoryTill,
)
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.memory.topups import MemoryTopUps
from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.orders import PostgresNotices, PostgresOrders
from adapters.postgres.settlements import PostgresSettlements
from adapters.postgres.statements import PostgresStatements
from adapters.postgres.topups import PostgresAlarms, PostgresTopUps
from adapters.postgres.units import PostgresUnits
from kyma.ledger import Kind, Outcome, Resolution
from kyma.money import ZERO, Usd, usd
from kyma.orders import (
    KnownOrder,
    OrderState,
    Ruling,
    Settlement,
    deposit_id,
    derived,
    ruling,
)
from kyma.payments import Checkout, Event, Order, Payment, PaymentState, Reversal, Source
from kyma.ports.billing import Alarms, NotBooked, Notices, Settlements, Statements, TopUps
from kyma.ports.storage import Accounts, Ledger
from kyma.statements import LineFilter, Place, month, place_of
from kyma.tiers import tier_of
from kyma.topups import PAUSES, TopUp, month_of, pause_after
from tests.builders import a_key, a_session, an_account, new_id

NOW = datetime.now(UTC).replace(microsecond=0)
TWENTY = usd("20")


@dataclass
class Office:
    """The ports under test over one store."""

    accounts: Accounts
    ledger: Ledger
    orders: Any
    notices: Notices
    topups: TopUps
    alarms: Alarms
    statements: Statements
    settlements: Settlements

    async def account(self, promo: Usd = ZERO) -> str:
        account = an_account()
        assert await self.accounts.register(account, a_key(account), a_session(account), promo)
        return account.id

    async def ordered(self, account: str, amount: Usd = TWENTY, **changes: Any) -> Order:
        order = replace(Order(new_id(), account, amount, Source.CHECKOUT, NOW), **changes)
        assert await self.orders.open(order, f"cus_{account}") is None
        return order

    async def apply(self, payment: Payment, event_id: str | None = None) -> Any:
        known = await self.orders.order(payment.order_id)
        return await self.orders.book(ruling(known, payment), event_id)

    async def bought(self, account: str, amount: Usd = TWENTY) -> Payment:
        payment = a_payment(await self.ordered(account, amount))
        await self.apply(payment)
        return payment

    async def choose(self, setting: TopUp) -> None:
        """Set auto top-up, having looked at it."""
        before = await self.topups.setting(setting.account_id)
        assert await self.topups.choose(setting, before)


def a_payment(order: Order, **changes: Any) -> Payment:
    payment = Payment(
        f"pi_{new_id()}",
        order.id,
        order.account_id,
        f"cus_{order.account_id}",
        order.amount,
        "usd",
        PaymentState.PAID,
        NOW,
        card="visa 4242",
        receipt_url="https://pay.example/receipt",
    )
    return replace(payment, **changes)


def went_back(payment: Payment, *amounts: str, **fields: Any) -> Payment:
    known = payment.reversals
    more = tuple(
        Reversal(f"re_{payment.id}_{len(known) + n}", usd(amount), is_dispute=False, **fields)
        for n, amount in enumerate(amounts)
    )
    return replace(payment, reversals=(*known, *more))


@pytest.fixture
def memory_office() -> Office:
    return an_office(MemoryStore())


def an_office(store: MemoryStore) -> Office:
    till = MemoryTill(store)
    return Office(
        MemoryAccounts(store),
        MemoryLedger(store),
        MemoryOrders(till),
        MemoryNotices(till),
        MemoryTopUps(till),
        MemoryAlarms(till),
        MemoryStatements(store),
        MemorySettlements(till),
    )


@pytest_asyncio.fixture
async def postgres_office(
    postgres_engine: AsyncEngine, postgres_units: PostgresUnits
) -> AsyncIterator[Office]:
    ledger = PostgresLedger(postgres_engine, postgres_units)
    yield Office(
        PostgresAccounts(postgres_units),
        ledger,
        PostgresOrders(postgres_units),
        PostgresNotices(postgres_units),
        PostgresTopUps(postgres_units),
        PostgresAlarms(postgres_units),
        PostgresStatements(postgres_units),
        PostgresSettlements(postgres_units),
    )
    await ledger.close()


@pytest.fixture(params=["memory", "postgres"])
def office(request: pytest.FixtureRequest) -> Office:
    """Synchronous, so that the servers start outside of any event loop."""
    found: Office = request.getfixturevalue(f"{request.param}_office")
    return found


async def test_an_account_is_one_customer_of_the_processor_the_first_that_was_kept(
    office: Office,
) -> None:
    account = await office.account()
    found = await office.orders.customer(account)
    assert (found.account_id, found.id) == (account, None)
    assert "@" in found.email
    kept = await asyncio.gather(*(office.orders.remember(account, f"cus_{n}") for n in range(5)))
    assert len(set(kept)) == 1
    assert (await office.orders.customer(account)).id == kept[0]
    assert await office.orders.customer(new_id()) is None


async def test_a_customer_who_is_gone_is_replaced_once_and_only_by_name(office: Office) -> None:
    account = await office.account()
    await office.orders.remember(account, "cus_old")
    assert await office.orders.remember(account, "cus_x", "cus_other") == "cus_old"
    kept = await asyncio.gather(
        *(office.orders.remember(account, f"cus_{n}", "cus_old") for n in range(5))
    )
    assert len(set(kept)) == 1
    assert kept[0] != "cus_old"
    assert (await office.orders.customer(account)).id == kept[0]


async def test_an_order_is_kept_once_and_shown_again_under_its_id(office: Office) -> None:
    account = await office.account()
    order = await office.ordered(account)
    other = replace(order, amount=usd("50"))
    assert await office.orders.open(other, "cus_other") == KnownOrder(order, f"cus_{account}")
    page = Checkout(f"cs_{new_id()}", "https://pay.example/cs", NOW + timedelta(hours=24))
    await office.orders.attach(order.id, page)
    assert (await office.orders.order(order.id)).checkout == page
    assert await office.orders.order(new_id()) is None


async def test_a_paid_order_is_credited_once_and_raises_the_tier(office: Office) -> None:
    account = await office.account(usd("0.5"))
    payment = a_payment(await office.ordered(account, usd("50")))
    booked = await office.apply(payment)
    assert [outcome for _, outcome in booked.outcomes] == [Outcome.DONE]
    again = await office.apply(payment)
    assert [outcome for _, outcome in again.outcomes] == [Outcome.EXISTS]
    balance = await office.ledger.balance(account)
    assert (balance.paid, balance.promo, balance.deposited) == (usd("50"), usd("0.5"), usd("50"))
    known = await office.orders.order(payment.order_id)
    assert (known.state, known.payment_id) == (OrderState.CREDITED, payment.id)
    standing = await office.accounts.standing(account)
    assert standing is not None
    assert tier_of(standing.lifetime_deposits, None, NOW).level == 2
    assert await office.orders.uncredited() == []


async def test_the_tier_follows_deposits_net_of_what_went_back(office: Office) -> None:
    account = await office.account()
    payment = await office.bought(account, usd("250"))

    async def level() -> int:
        standing = await office.accounts.standing(account)
        assert standing is not None
        return tier_of(standing.lifetime_deposits, None, NOW).level

    assert await level() == 3
    payment = went_back(payment, "0.01")
    await office.apply(payment)
    assert await level() == 2
    await office.apply(went_back(payment, "200"))
    assert await level() == 1
    marks = await office.accounts.changes()
    assert account in {found for found, _ in marks}, "every process hears of it"


async def test_a_refund_takes_back_what_is_there_and_flags_the_rest(office: Office) -> None:
    account = await office.account(usd("1"))
    payment = await office.bought(account)
    hold = new_id()
    await office.ledger.hold(hold, account, usd("16"), 600)
    await office.ledger.resolve(Resolution(hold, Kind.SETTLE, usd("16")))
    await office.apply(went_back(payment, "20"))
    balance = await office.ledger.balance(account)
    assert (balance.paid, balance.promo, balance.deposited) == (ZERO, ZERO, ZERO)
    (flag,) = await office.orders.flags()
    assert (flag.account_id, flag.amount) == (account, usd("15"))
    assert flag.entry_id == derived("reversal", f"re_{payment.id}_0")
    health = await office.ledger.health()
    assert (health.sound, health.loss) == (True, usd("15"))


async def test_a_refund_takes_what_a_hold_reserves_and_nothing_comes_back_of_it(
    office: Office,
) -> None:
    account = await office.account(usd("1"))
    payment = await office.bought(account)
    older, newer = sorted((new_id(), new_id()))
    await office.ledger.hold(older, account, usd("11"), 600)  # of which 1 was given
    await office.ledger.hold(newer, account, usd("8"), 600)
    await office.apply(went_back(payment, "12"))
    balance = await office.ledger.balance(account)
    assert (balance.paid, balance.held_paid, balance.held_promo) == (ZERO, usd("8"), usd("1"))
    assert await office.orders.flags() == []
    done = await office.ledger.resolve(Resolution(newer, Kind.SETTLE, usd("3")))
    assert (done.settled, done.available) == (ZERO, ZERO)
    await office.apply(went_back(payment, "12", "8"))
    assert (await office.ledger.balance(account)).held == usd("1")
    done = await office.ledger.resolve(Resolution(older, Kind.REFUND))
    assert done.available == usd("1"), "what was given was not paid back"
    health = await office.ledger.health()
    assert (health.sound, health.loss) == (True, usd("3"))


async def test_a_dispute_won_after_its_hold_ended_gives_back_what_the_hold_had(
    office: Office,
) -> None:
    account = await office.account()
    payment = await office.bought(account)
    hold = new_id()
    await office.ledger.hold(hold, account, usd("15"), 600)
    await office.apply(went_back(payment, "20"))
    await office.ledger.resolve(Resolution(hold, Kind.SETTLE, usd("10")))
    assert (await office.ledger.balance(account)).posted == ZERO
    await office.apply(went_back(payment, "20", reinstated=True))
    balance = await office.ledger.balance(account)
    assert (balance.paid, balance.deposited) == (usd("20"), usd("20"))
    health = await office.ledger.health()
    assert (health.sound, health.loss) == (True, usd("10"))


async def test_a_dispute_that_was_won_gives_back_exactly_what_was_taken(office: Office) -> None:
    account = await office.account()
    payment = await office.bought(account)
    await office.apply(went_back(payment, "20"))
    won = went_back(payment, "20", reinstated=True)
    booked = await office.apply(won)
    assert [outcome for _, outcome in booked.outcomes] == [
        Outcome.EXISTS, Outcome.EXISTS, Outcome.DONE,
    ]  # fmt: skip
    balance = await office.ledger.balance(account)
    assert (balance.paid, balance.deposited) == (usd("20"), usd("20"))
    await office.apply(won)
    assert await office.ledger.balance(account) == balance


async def test_what_went_back_and_came_again_before_we_looked_changes_nothing(
    office: Office,
) -> None:
    account = await office.account()
    payment = a_payment(await office.ordered(account))
    await office.apply(went_back(payment, "20", reinstated=True))
    stale = went_back(payment, "20")
    await office.apply(stale)  # looked at before it was won, booked after
    assert (await office.ledger.balance(account)).paid == usd("20")
    assert (await office.ledger.health()).sound


async def test_more_than_was_paid_can_go_back_and_the_excess_lowers_no_tier(
    office: Office,
) -> None:
    account = await office.account()
    first, second = await office.bought(account), await office.bought(account, usd("50"))
    await office.apply(went_back(first, "20", "20"))
    balance = await office.ledger.balance(account)
    assert (balance.paid, balance.deposited) == (second.amount, second.amount)
    (flag,) = await office.orders.flags()
    assert flag.amount == usd("20")
    assert (await office.ledger.health()).sound


async def test_a_payment_that_was_not_ordered_is_listed_until_it_has_gone_back(
    office: Office,
) -> None:
    account = await office.account()
    payment = a_payment(await office.ordered(account), amount=usd("19"))
    assert (await office.apply(payment)).is_news
    assert not (await office.apply(payment)).is_news
    (found,) = await office.orders.uncredited()
    assert (found.payment.id, found.payment.amount) == (payment.id, usd("19"))
    assert "amount" in found.refusal
    assert (await office.ledger.balance(account)).posted == 0
    known = await office.orders.order(payment.order_id)
    assert (known.state, known.payment_id) == (OrderState.REFUSED, payment.id)
    assert "do not pay again" in known.message
    assert await office.orders.take_waiting(10) == [], "it waits for nobody but an operator"
    await office.apply(went_back(payment, "18"))
    (found,) = await office.orders.uncredited()
    assert found.returned == usd("18")
    assert await office.orders.is_uncredited(payment.id)
    await office.apply(went_back(payment, "18", "1"))
    assert await office.orders.uncredited() == []
    assert not await office.orders.is_uncredited(payment.id)
    assert not await office.orders.is_uncredited("pi_none")


@pytest.mark.parametrize("ended", [OrderState.FAILED, OrderState.CANCELED])
async def test_an_order_that_has_ended_is_refused_by_a_payment_that_does_not_fit(
    office: Office, ended: OrderState
) -> None:
    account = await office.account()
    payment = a_payment(await office.ordered(account), amount=usd("19"))
    await office.orders.close(payment.order_id, ended, "Nothing was paid in time.")
    await office.apply(payment)
    known = await office.orders.order(payment.order_id)
    assert known.state is OrderState.REFUSED, "its buyer has paid"
    mended = replace(payment, amount=TWENTY)
    await office.apply(mended)
    known = await office.orders.order(payment.order_id)
    assert (known.state, known.message) == (OrderState.CREDITED, "")
    await office.apply(payment)
    assert await office.orders.order(payment.order_id) == known, "nothing takes that back"


async def test_a_payment_of_an_unknown_order_is_kept_whatever_it_names(office: Office) -> None:
    stranger = Order("no order", "no account", usd("5"), Source.CARD, NOW)
    payment = a_payment(stranger)
    await office.orders.book(ruling(None, payment))
    (found,) = await office.orders.uncredited()
    assert found.payment == payment
    assert "no order" in found.refusal


async def test_two_payments_of_one_order_credit_it_once(office: Office) -> None:
    account = await office.account()
    order = await office.ordered(account)
    known = await office.orders.order(order.id)
    one, other = a_payment(order), a_payment(order)
    # Both judged before either is booked.
    rulings = [ruling(known, one), ruling(known, other)]
    ended = await asyncio.gather(*map(office.orders.book, rulings), return_exceptions=True)
    assert [type(end) for end in ended].count(NotBooked) == 1
    assert (await office.ledger.balance(account)).paid == order.amount
    # The one that lost, judged before it lost, moves no order that is credited.
    known = await office.orders.order(order.id)
    late = a_payment(order, amount=usd("19"))
    await office.orders.book(Ruling(late, order.id, OrderState.REFUSED, refusal="late"))
    assert await office.orders.order(order.id) == known


def by_hand(payment: Payment, account: str, amount: str = "19") -> Settlement:
    return Settlement(payment.id, account, usd(amount), "olga", "a slip in the dashboard")


async def test_what_is_settled_by_hand_is_granted_once_and_leaves_the_list_with_its_order(
    office: Office,
) -> None:
    account = await office.account()
    payment = a_payment(await office.ordered(account), amount=usd("19"))
    await office.apply(payment)
    settlement = by_hand(payment, account)
    ended = await asyncio.gather(*(office.settlements.settle(settlement) for _ in range(10)))
    assert sorted(ended) == sorted([Outcome.DONE, *[Outcome.EXISTS] * 9])
    balance = await office.ledger.balance(account)
    assert (balance.promo, balance.paid, balance.deposited) == (usd("19"), ZERO, ZERO)
    (line,) = await office.statements.lines(account, LineFilter(), None, 10)
    assert (line.kind, line.amount, line.id) == (Kind.GRANT, usd("19"), deposit_id(payment.id))
    assert line.reason == f"payment {payment.id}: a slip in the dashboard"
    known = await office.orders.order(payment.order_id)
    assert (known.state, known.payment_id) == (OrderState.CREDITED, payment.id)
    assert "19 dollars" in known.message
    for other in (by_hand(payment, account, "20"), by_hand(payment, await office.account())):
        assert await office.settlements.settle(other) is Outcome.MISMATCH
    assert await office.orders.uncredited() == []
    assert (await office.ledger.health()).sound


async def test_what_is_settled_by_hand_stays_so_whatever_is_seen_later(office: Office) -> None:
    account = await office.account()
    payment = a_payment(await office.ordered(account), amount=usd("19"))
    await office.apply(payment)
    assert await office.settlements.settle(by_hand(payment, account)) is Outcome.DONE
    for seen in (payment, replace(payment, currency="eur"), went_back(payment, "5")):
        assert not (await office.apply(seen)).is_news, "nobody has to look at it again"
        assert await office.orders.uncredited() == []
    with pytest.raises(NotBooked):
        await office.apply(replace(payment, amount=TWENTY))
    assert (await office.ledger.balance(account)).posted == usd("19")


async def test_only_what_is_on_the_list_is_settled_and_only_for_an_account(
    office: Office,
) -> None:
    account = await office.account()
    credited = await office.bought(account)
    gone = went_back(a_payment(await office.ordered(account), amount=usd("19")), "19")
    slow = a_payment(await office.ordered(account), state=PaymentState.PENDING)
    for payment in (gone, slow):
        await office.apply(payment)
    for payment in (credited, gone, slow, replace(gone, id="pi_none")):
        settled = await office.settlements.settle(by_hand(payment, account))
        assert settled is Outcome.NO_ENTRY
    listed = a_payment(await office.ordered(account), amount=usd("19"))
    await office.apply(listed)
    assert await office.settlements.settle(by_hand(listed, new_id())) is Outcome.NO_ACCOUNT
    assert [one.payment.id for one in await office.orders.uncredited()] == [listed.id]
    assert (await office.ledger.balance(account)).posted == credited.amount


async def test_two_payments_too_many_of_one_order_and_of_none_are_settled_each(
    office: Office,
) -> None:
    account, other = await office.account(), await office.account()
    bought = await office.bought(account)
    known = await office.orders.order(bought.order_id)
    again = [replace(bought, id=f"pi_{new_id()}") for _ in range(2)]
    stray = [replace(bought, id=f"pi_{new_id()}", order_id="no order") for _ in range(2)]
    for payment in (*again, *stray):
        order = await office.orders.order(bought.order_id) if payment in again else None
        await office.orders.book(ruling(order, payment))
        assert await office.settlements.settle(by_hand(payment, other)) is Outcome.DONE
    assert (await office.ledger.balance(other)).promo == usd("76")
    assert await office.orders.order(bought.order_id) == known
    assert await office.orders.uncredited() == []


async def test_credit_for_somebody_else_does_not_call_an_order_credited(office: Office) -> None:
    account, owner = await office.account(), await office.account()
    payment = a_payment(await office.ordered(account), account_id=owner)
    await office.apply(payment)
    assert await office.settlements.settle(by_hand(payment, owner)) is Outcome.DONE
    assert (await office.orders.order(payment.order_id)).state is OrderState.REFUSED
    assert not await office.orders.is_uncredited(payment.id)


async def test_a_deposit_and_a_grant_at_the_same_moment_credit_a_payment_once(
    office: Office,
) -> None:
    account = await office.account()
    payment = a_payment(await office.ordered(account), amount=usd("19"))
    await office.apply(payment)
    mended = ruling(await office.orders.order(payment.order_id), replace(payment, amount=TWENTY))
    await asyncio.gather(
        office.orders.book(mended),
        office.settlements.settle(by_hand(payment, account)),
        return_exceptions=True,
    )
    assert (await office.ledger.balance(account)).posted in {usd("19"), TWENTY}
    assert await office.orders.uncredited() == []


async def test_a_hundred_deliveries_at_once_are_one_deposit_and_one_reversal(
    office: Office,
) -> None:
    account = await office.account()
    payment = went_back(a_payment(await office.ordered(account)), "5")
    known = await office.orders.order(payment.order_id)
    booked = await asyncio.gather(*(office.orders.book(ruling(known, payment)) for _ in range(100)))
    done = [[outcome for _, outcome in one.outcomes] for one in booked]
    assert done.count([Outcome.DONE, Outcome.DONE]) == 1
    assert done.count([Outcome.EXISTS, Outcome.EXISTS]) == 99
    assert (await office.ledger.balance(account)).paid == usd("15")


async def test_what_is_credited_stays_so_whatever_is_seen_later(office: Office) -> None:
    account = await office.account()
    payment = await office.bought(account)
    stale = replace(payment, state=PaymentState.PENDING, message="old")
    await office.apply(stale)
    known = await office.orders.order(payment.order_id)
    assert (known.state, known.message) == (OrderState.CREDITED, "")
    await office.orders.close(payment.order_id, OrderState.CANCELED, "too late")
    assert await office.orders.order(payment.order_id) == known
    assert await office.orders.uncredited() == []


async def test_a_payment_that_failed_moves_its_order_and_a_later_one_may_still_pay(
    office: Office,
) -> None:
    account = await office.account()
    order = await office.ordered(account, source=Source.CARD)
    failed = a_payment(
        order, state=PaymentState.FAILED, message="Declined.", action_url="https://bank.example"
    )
    assert (await office.apply(failed)).outcomes == ()
    known = await office.orders.order(order.id)
    assert (known.state, known.message) == (OrderState.FAILED, "Declined.")
    assert known.action_url == "https://bank.example"
    await office.apply(replace(failed, state=PaymentState.PAID, message="", action_url=None))
    assert (await office.orders.order(order.id)).state is OrderState.CREDITED


@pytest.mark.parametrize("ended", [OrderState.FAILED, OrderState.CANCELED])
@pytest.mark.parametrize(
    "seen", [PaymentState.PENDING, PaymentState.NEEDS_ACTION, PaymentState.CANCELED]
)
async def test_an_order_that_has_ended_is_reopened_by_a_payment_alone(
    office: Office, ended: OrderState, seen: PaymentState
) -> None:
    account = await office.account()
    order = await office.ordered(account, source=Source.AUTO_TOP_UP)
    await office.orders.close(order.id, ended, "given up")
    payment = a_payment(order, state=seen, message="other", action_url="https://bank.example")
    await office.apply(payment)
    known = await office.orders.order(order.id)
    assert (known.state, known.message, known.action_url) == (ended, "given up", None)
    assert known.payment_id == payment.id, "whoever asks again asks about this one"
    assert await office.orders.take_waiting(9) == []
    await office.apply(replace(payment, state=PaymentState.PAID, message="", action_url=None))
    known = await office.orders.order(order.id)
    assert (known.state, known.message) == (OrderState.CREDITED, "")
    assert (await office.ledger.balance(account)).paid == order.amount


async def test_orders_that_wait_are_taken_in_turn(office: Office) -> None:
    account = await office.account()
    orders = [await office.ordered(account) for _ in range(3)]
    closed = await office.ordered(account)
    await office.orders.close(closed.id, OrderState.CANCELED, "nothing was paid")
    taken = [known.order.id for known in await office.orders.take_waiting(2)]
    taken += [known.order.id for known in await office.orders.take_waiting(2)]
    assert taken == [orders[0].id, orders[1].id, orders[2].id, orders[0].id]


def an_event(**changes: Any) -> Event:
    return replace(Event(f"evt_{new_id()}", "payment.paid", "pi_1", None, NOW), **changes)


async def test_an_event_waits_until_it_is_acted_on_and_then_never_again(office: Office) -> None:
    event = an_event()
    assert await office.notices.keep(event)
    assert await office.notices.keep(event), "it was not acted on: its repetition may be"
    assert await office.notices.waiting() == [event]
    await office.notices.done(event.id)
    assert not await office.notices.keep(event)
    assert await office.notices.waiting() == []


async def test_an_event_is_processed_with_what_it_causes_or_not_at_all(office: Office) -> None:
    account = await office.account()
    order = await office.ordered(account)
    event = an_event()
    await office.notices.keep(event)
    known = await office.orders.order(order.id)
    await office.apply(a_payment(order))
    with pytest.raises(NotBooked):
        await office.orders.book(ruling(known, a_payment(order)), event.id)
    assert await office.notices.waiting() == [event]
    await office.apply(a_payment(await office.ordered(account)), event.id)
    assert await office.notices.waiting() == []


async def test_the_last_round_never_goes_back(office: Office) -> None:
    assert await office.notices.last_round() is None
    await office.notices.round_ended(NOW)
    await office.notices.round_ended(NOW - timedelta(hours=1))
    assert await office.notices.last_round() == NOW


async def a_top_up(office: Office, **changes: Any) -> TopUp:
    account = await office.account()
    setting = TopUp(account, True, usd("5"), usd("20"), usd("45"))
    setting = replace(setting, **changes)
    await office.choose(setting)
    return setting


async def claimed(office: Office, setting: TopUp, tax: Usd = ZERO) -> str | None:
    order = Order(new_id(), setting.account_id, setting.amount, Source.AUTO_TOP_UP, NOW)
    done = await office.topups.claim(order, f"cus_{setting.account_id}", "pm_1", tax)
    return order.id if done else None


async def paid_for(office: Office, order_id: str) -> None:
    known = await office.orders.order(order_id)
    await office.apply(a_payment(known.order))
    await office.topups.end(order_id, None)


async def test_a_setting_is_as_it_was_last_chosen(office: Office) -> None:
    setting = await a_top_up(office)
    assert await office.topups.setting(setting.account_id) == setting
    other = replace(setting, enabled=False, amount=usd("30"), failures=2, not_before=NOW)
    await office.choose(other)
    assert await office.topups.setting(setting.account_id) == other
    assert await office.topups.setting(new_id()) is None


async def test_who_is_below_the_threshold_is_due_until_the_balance_is_there(
    office: Office,
) -> None:
    setting = await a_top_up(office)
    assert await office.topups.due() == [setting]
    order = await claimed(office, setting)
    assert order is not None
    assert await office.topups.due() == []
    (attempt,) = await office.topups.running()
    assert (attempt.order_id, attempt.card_id) == (order, "pm_1")
    assert (await office.orders.order(order)).order.source is Source.AUTO_TOP_UP
    await paid_for(office, order)
    assert await office.topups.due() == []
    assert await office.topups.running() == []
    assert await claimed(office, setting) is None


async def test_of_many_that_see_the_threshold_crossed_one_charges(office: Office) -> None:
    setting = await a_top_up(office, monthly_ceiling=usd("1000"))
    orders = await asyncio.gather(*(claimed(office, setting) for _ in range(20)))
    assert len([order for order in orders if order is not None]) == 1


async def test_a_claim_is_for_what_is_chosen_now(office: Office) -> None:
    setting = await a_top_up(office)
    await office.choose(replace(setting, amount=usd("25")))
    assert await claimed(office, setting) is None
    assert await claimed(office, replace(setting, account_id=new_id())) is None


async def test_a_month_has_a_ceiling_to_which_failed_charges_do_not_count(
    office: Office,
) -> None:
    setting = await a_top_up(office)
    since = month_of(datetime.now(UTC))
    for charged in ("20", "40"):
        order = await claimed(office, setting)
        assert order is not None
        assert await office.topups.charged(setting.account_id, since) == usd(charged)
        await paid_for(office, order)
        hold = new_id()
        await office.ledger.hold(hold, setting.account_id, usd("20"), 600)
        await office.ledger.resolve(Resolution(hold, Kind.SETTLE, usd("20")))
    assert await office.topups.due() == []
    assert await claimed(office, setting) is None
    await office.choose(replace(setting, monthly_ceiling=usd("60")))
    order = await claimed(office, setting)
    assert order is not None
    await office.topups.end(order, "declined")
    assert await office.topups.charged(setting.account_id, since) == usd("40")
    # Its owner confirms the payment at the bank, after we had given it up.
    known = await office.orders.order(order)
    await office.apply(a_payment(known.order))
    assert await office.topups.charged(setting.account_id, since) == usd("60")


async def test_taxes_count_to_the_ceiling_as_they_were_reckoned_for_the_claim(
    office: Office,
) -> None:
    setting = await a_top_up(office, monthly_ceiling=usd("43"), tax=usd("1"))
    account, since = setting.account_id, month_of(datetime.now(UTC))
    order = await claimed(office, setting, usd("2"))
    assert order is not None
    assert (await office.topups.setting(account)) == replace(setting, tax=usd("2"))
    assert await office.topups.charged(account, since) == usd("22")
    await paid_for(office, order)
    await spent(office, account, usd("20"))
    await office.choose(setting)
    assert await office.topups.due() == [setting], "22 and 21 are 43"
    assert await claimed(office, setting, usd("1.01")) is None
    assert await office.topups.due() == [], "it is known by now what it comes to"
    assert await office.topups.charged(account, since) == usd("22")
    await office.choose(setting)
    assert await claimed(office, setting, usd("1")) is not None
    assert await office.topups.charged(account, since) == usd("43")


async def test_what_is_too_dear_says_so_and_waits_for_the_next_month(office: Office) -> None:
    setting = await a_top_up(office, monthly_ceiling=usd("20"))
    account = setting.account_id
    assert await claimed(office, setting, usd("2")) is None
    told = await office.topups.setting(account)
    assert told is not None
    assert (told.enabled, told.tax) == (True, usd("2"))
    assert "taxes" in told.message
    assert told.not_before is not None
    assert told.not_before == month_of(told.not_before) > datetime.now(UTC)
    assert await office.topups.due() == []
    assert await claimed(office, setting) is None, "not before the next month"


async def test_what_was_too_dear_is_due_when_it_may_be_reckoned_again(office: Office) -> None:
    setting = await a_top_up(office, monthly_ceiling=usd("39"))
    await office.choose(replace(setting, tax=usd("20"), message="too dear", delays=2))
    assert [one.tax for one in await office.topups.due()] == [usd("20")]
    order = await claimed(office, setting, usd("1"))
    assert order is not None
    assert await office.topups.setting(setting.account_id) == replace(setting, tax=usd("1"))
    await paid_for(office, order)
    await spent(office, setting.account_id, usd("20"))
    await office.choose(replace(setting, tax=usd("20")))
    assert await office.topups.due() == [], "without any taxes it would be $41 in this month"


async def test_who_gets_no_answer_is_due_later_and_later(office: Office) -> None:
    setting, other = await a_top_up(office), await a_top_up(office)
    account = setting.account_id
    for delays in (1, 2, 3):
        before = datetime.now(UTC)
        await office.topups.delay(account)
        found = await office.topups.setting(account)
        assert found is not None
        assert (found.delays, found.enabled, found.failures) == (delays, True, 0)
        assert found.not_before is not None
        wait = found.not_before - before
        assert abs(wait - pause_after(delays - 1)) < timedelta(seconds=20)
    assert await office.topups.due() == [other]
    await office.choose(replace(found, not_before=None))
    assert await claimed(office, setting) is not None
    assert await office.topups.setting(account) == setting, "it has answered"
    await office.topups.delay(new_id())


async def test_a_choice_is_made_only_over_what_was_looked_at(office: Office) -> None:
    account = await office.account()
    setting = TopUp(account, True, usd("5"), usd("20"), usd("45"))
    assert not await office.topups.choose(setting, setting), "there is nothing to look at"
    assert await office.topups.setting(account) is None
    assert await office.topups.choose(setting, None)
    assert not await office.topups.choose(replace(setting, amount=usd("9")), None)
    seen = await office.topups.setting(account)
    assert seen == setting
    higher = replace(setting, monthly_ceiling=usd("60"))
    assert await office.topups.choose(higher, seen)
    assert not await office.topups.choose(setting, seen), "another was made since"
    assert await office.topups.setting(account) == higher
    assert await office.topups.choose(replace(setting, enabled=False), seen)
    assert await office.topups.setting(account) == replace(setting, enabled=False)


async def test_what_charges_make_of_a_setting_is_no_other_choice(office: Office) -> None:
    setting = await a_top_up(office)
    seen = await office.topups.setting(setting.account_id)
    await office.topups.delay(setting.account_id)
    await office.choose(setting)
    seen = await office.topups.setting(setting.account_id)
    order = await claimed(office, setting, usd("1"))
    assert order is not None
    await office.topups.end(order, "declined")
    assert await office.topups.choose(setting, seen)


async def test_of_first_choices_at_once_one_is_made(office: Office) -> None:
    account = await office.account()
    settings = [TopUp(account, True, usd("5"), usd(f"{20 + n}"), usd("99")) for n in range(8)]
    made = await asyncio.gather(*(office.topups.choose(setting, None) for setting in settings))
    assert sum(made) == 1
    assert await office.topups.setting(account) == settings[made.index(True)]


@pytest.mark.parametrize("was_on", [True, False])
async def test_money_that_goes_back_is_news_to_whoever_chose_before_it(
    office: Office, was_on: bool
) -> None:
    setting, payment = await a_reversible(office, enabled=was_on)
    seen = await office.topups.setting(setting.account_id)
    await office.apply(went_back(payment, "20"))
    found = await office.topups.setting(setting.account_id)
    assert not await office.topups.choose(replace(setting, enabled=True), seen)
    assert await office.topups.setting(setting.account_id) == found
    assert found is not None
    assert (found.enabled, bool(found.message)) == (False, was_on)
    await office.apply(went_back(payment, "20"))
    assert await office.topups.choose(replace(setting, enabled=True), found), "no news"


@pytest.mark.parametrize("was_on", [True, False])
async def test_no_choice_switches_on_what_money_that_went_back_has_just_switched_off(
    office: Office, was_on: bool
) -> None:
    for turn in range(10):
        setting, payment = await a_reversible(office, enabled=was_on)
        seen = await office.topups.setting(setting.account_id)
        on = replace(setting, enabled=True, monthly_ceiling=usd("60"))
        both = [office.topups.choose(on, seen), office.apply(went_back(payment, "20"))]
        ended = await asyncio.gather(*(both if turn % 2 else reversed(both)))
        found = await office.topups.setting(setting.account_id)
        assert found is not None
        assert not found.enabled
        assert (found.monthly_ceiling == usd("60")) is any(end is True for end in ended)
        assert not await office.topups.choose(on, seen)


async def test_no_choice_switches_on_what_the_third_failure_has_just_switched_off(
    office: Office,
) -> None:
    for _ in range(10):
        setting = await a_top_up(office, failures=2)
        order = await claimed(office, setting)
        assert order is not None
        seen = await office.topups.setting(setting.account_id)
        anew = office.topups.choose(replace(setting, failures=0), seen)
        made, ended = await asyncio.gather(anew, office.topups.end(order, "declined"))
        assert ended is not None
        assert (ended.enabled, ended.failures) == ((True, 1) if made else (False, 3))
        assert await office.topups.setting(setting.account_id) == ended


async def held_up(engine: AsyncEngine, work: Any) -> asyncio.Task[Any]:
    """Begin it, and go on when it waits for a lock that this test holds, or did not wait."""
    task = asyncio.ensure_future(work)
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with asyncio.timeout(2.5), engine.connect() as connection:
        while not task.done() and not await connection.scalar(waiting):
            await connection.rollback()
            await asyncio.sleep(0.01)
    return task


CHOSEN = text(
    "UPDATE auto_top_ups SET enabled = true, amount = :amount, revision = revision + 1"
    " WHERE account_id = :account"
)
STOPPED = text(
    "UPDATE auto_top_ups SET enabled = false, message = 'a dispute', revision = revision + 1"
    " WHERE account_id = :account"
)


@pytest.mark.parametrize("was_on", [True, False])
async def test_money_that_goes_back_waits_for_a_choice_under_way_and_switches_that_off(
    postgres_office: Office, postgres_engine: AsyncEngine, was_on: bool
) -> None:
    office = postgres_office
    setting, payment = await a_reversible(office, enabled=was_on)
    account = setting.account_id
    async with postgres_engine.connect() as connection:
        await connection.execute(CHOSEN, {"account": account, "amount": usd("30")})
        back = await held_up(postgres_engine, office.apply(went_back(payment, "20")))
        await connection.commit()
    booked = await back
    found = await office.topups.setting(account)
    assert found is not None
    assert found == replace(setting, enabled=False, amount=usd("30"), message=found.message)
    assert payment.id in found.message
    assert booked.top_up_off == {derived("reversal", f"re_{payment.id}_0")}


async def test_a_choice_waits_for_money_that_is_going_back_and_is_not_made(
    postgres_office: Office, postgres_engine: AsyncEngine
) -> None:
    office = postgres_office
    setting = await a_top_up(office)
    account = setting.account_id
    seen = await office.topups.setting(account)
    async with postgres_engine.connect() as connection:
        await connection.execute(STOPPED, {"account": account})
        choice = await held_up(postgres_engine, office.topups.choose(setting, seen))
        await connection.commit()
    assert await choice is False
    stopped = replace(setting, enabled=False, message="a dispute")
    assert await office.topups.setting(account) == stopped


async def test_what_gets_no_answer_waits_for_what_is_under_way_and_undoes_nothing(
    postgres_office: Office, postgres_engine: AsyncEngine
) -> None:
    office = postgres_office
    setting = await a_top_up(office)
    account = setting.account_id
    async with postgres_engine.connect() as connection:
        await connection.execute(STOPPED, {"account": account})
        delay = await held_up(postgres_engine, office.topups.delay(account))
        await connection.commit()
    await delay
    stopped = replace(setting, enabled=False, message="a dispute")
    assert await office.topups.setting(account) == stopped


async def test_a_charge_ends_once_and_the_setting_follows_the_rule(office: Office) -> None:
    setting = await a_top_up(office)
    order = await claimed(office, setting)
    assert order is not None
    before = datetime.now(UTC)
    found = await office.topups.end(order, "declined")
    assert found is not None
    assert (found.enabled, found.failures) == (True, 1)
    assert found.not_before is not None
    assert abs(found.not_before - before - PAUSES[0]) < timedelta(minutes=1)
    assert await office.topups.setting(setting.account_id) == found
    assert await office.topups.end(order, "declined") is None
    assert await office.topups.end(new_id(), None) is None
    assert await office.topups.due() == [], "it waits"
    assert await claimed(office, setting) is None


async def test_the_third_failure_in_a_row_switches_it_off(office: Office) -> None:
    setting = await a_top_up(office)
    for failures in (1, 2, 3):
        order = await claimed(office, setting)
        assert order is not None
        found = await office.topups.end(order, "declined")
        assert found is not None
        assert found.failures == failures
        if failures < 3:
            await office.choose(replace(found, not_before=None))
    assert not found.enabled
    assert "declined" in found.message
    assert await office.topups.due() == []


async def a_reversible(office: Office, **changes: Any) -> tuple[TopUp, Payment]:
    """Auto top-up of an account with $20 that can go back, which would make it due."""
    setting = await a_top_up(office, **changes)
    return setting, await office.bought(setting.account_id)


@pytest.mark.parametrize("is_dispute", [False, True])
async def test_what_goes_back_switches_auto_top_up_off_with_its_booking(
    office: Office, is_dispute: bool
) -> None:
    setting, payment = await a_reversible(office)
    account = setting.account_id
    back = replace(payment, reversals=(Reversal(f"back_{account}", TWENTY, is_dispute),))
    booked = await office.apply(back)
    assert booked.top_up_off == {derived("reversal", f"back_{account}")}
    found = await office.topups.setting(account)
    assert found == replace(setting, enabled=False, message=found.message)
    assert f"back_{account}" in found.message
    assert (await office.ledger.balance(account)).paid == ZERO
    assert await office.topups.due() == []
    assert await claimed(office, setting) is None
    again = await office.apply(back)
    assert again.top_up_off == booked.top_up_off, "a second look still knows why it is off"
    assert await office.topups.setting(account) == found


async def test_what_went_back_before_leaves_on_what_was_switched_on_since(office: Office) -> None:
    setting, payment = await a_reversible(office)
    await office.apply(went_back(payment, "5"))
    await office.choose(setting)
    for reversed in (went_back(payment, "5"), went_back(payment, "5", reinstated=True)):
        assert (await office.apply(reversed)).top_up_off == frozenset()
        assert await office.topups.setting(setting.account_id) == setting
    booked = await office.apply(went_back(payment, "5", "6"))
    assert booked.top_up_off == {derived("reversal", f"re_{payment.id}_1")}
    found = await office.topups.setting(setting.account_id)
    assert found is not None
    assert not found.enabled


async def test_what_goes_back_leaves_other_accounts_and_those_that_never_chose(
    office: Office,
) -> None:
    other, _ = await a_reversible(office)
    account = await office.account()
    booked = await office.apply(went_back(await office.bought(account), "5"))
    assert booked.top_up_off == frozenset()
    assert await office.topups.setting(account) is None
    assert await office.topups.setting(other.account_id) == other


async def test_no_charge_is_claimed_for_what_is_going_back(office: Office) -> None:
    """Whoever sees the balance without it sees auto top-up off."""
    for _ in range(10):
        setting, payment = await a_reversible(office)
        claims = [claimed(office, setting) for _ in range(8)]
        half = claims[:4], claims[4:]
        orders = await asyncio.gather(*half[0], office.apply(went_back(payment, "20")), *half[1])
        assert [order for order in orders if isinstance(order, str)] == []


async def test_a_charge_that_is_under_way_then_ends_and_leaves_it_off(office: Office) -> None:
    setting = await a_top_up(office)
    payment = await office.bought(setting.account_id, usd("4"))
    order = await claimed(office, setting)
    assert order is not None
    await office.apply(went_back(payment, "4"))
    await paid_for(office, order)
    found = await office.topups.setting(setting.account_id)
    assert found is not None
    assert (found.enabled, found.failures) == (False, 0)
    assert payment.id in found.message


async def test_a_charge_is_looked_after_when_its_minute_is_over_and_by_one(office: Office) -> None:
    setting = await a_top_up(office)
    assert await office.topups.running_of(setting.account_id) is None
    order = await claimed(office, setting)
    assert order is not None
    assert await office.topups.take_stalled() == [], "whoever made it is at it"
    attempt = await office.topups.running_of(setting.account_id)
    assert attempt is not None
    assert attempt.order_id == order
    assert await office.topups.running_of(new_id()) is None
    await office.topups.end(order, None)
    assert await office.topups.running_of(setting.account_id) is None


async def test_looks_at_a_charge_come_later_and_later_by_the_rule() -> None:
    store = MemoryStore()
    clock = [NOW]
    store.now = lambda: clock[0]
    office = an_office(store)
    order = await claimed(office, await a_top_up(office))
    for looks in range(9):
        clock[0] += pause_after(looks) - timedelta(seconds=1)
        assert await office.topups.take_stalled() == []
        clock[0] += timedelta(seconds=1)
        assert [one.order_id for one in await office.topups.take_stalled()] == [order]


AGED = text(
    "UPDATE top_up_attempts SET created_at = created_at - make_interval(secs => :by),"
    " resume_at = resume_at - make_interval(secs => :by)"
)


async def test_looks_at_a_charge_come_later_and_later_on_postgres(
    postgres_office: Office, postgres_engine: AsyncEngine
) -> None:
    topups = postgres_office.topups
    order = await claimed(postgres_office, await a_top_up(postgres_office))
    for looks in range(9):
        for seconds, due in ((-20, []), (20, [order])):
            by = pause_after(looks).total_seconds() + seconds if seconds < 0 else seconds
            async with postgres_engine.begin() as connection:
                await connection.execute(AGED, {"by": by})
            taken = await asyncio.gather(*(topups.take_stalled() for _ in range(5)))
            assert [one.order_id for some in taken for one in some] == due, (looks, seconds)


async def test_a_charge_whose_order_was_credited_is_ended_without_waiting(
    postgres_office: Office, postgres_engine: AsyncEngine
) -> None:
    office = postgres_office
    order = await claimed(office, await a_top_up(office))
    assert order is not None
    async with postgres_engine.begin() as connection:
        await connection.execute(AGED, {"by": 70})
    assert len(await office.topups.take_stalled()) == 1
    assert await office.topups.take_stalled() == []
    await office.apply(a_payment((await office.orders.order(order)).order))
    assert [one.order_id for one in await office.topups.take_stalled()] == [order]


async def test_what_is_held_is_still_there_for_top_ups_and_letters(office: Office) -> None:
    setting = await a_top_up(office)
    account = setting.account_id
    await office.bought(account)
    hold = new_id()
    await office.ledger.hold(hold, account, usd("19.5"), 600)
    assert (await office.topups.due(), await claimed(office, setting)) == ([], None)
    assert await office.alarms.low() == []
    await office.ledger.resolve(Resolution(hold, Kind.SETTLE, usd("19.5")))
    assert await office.topups.due() == [setting]
    (alarm,) = await office.alarms.low()
    assert (alarm.account_id, alarm.posted) == (account, usd("0.5"))


async def spent(office: Office, account: str, amount: Usd) -> None:
    hold = new_id()
    await office.ledger.hold(hold, account, amount, 600)
    await office.ledger.resolve(Resolution(hold, Kind.SETTLE, amount))


async def test_who_only_has_a_grant_is_low_below_half_of_it(office: Office) -> None:
    account = await office.account(usd("0.5"))
    await spent(office, account, usd("0.25"))
    assert await office.alarms.low() == []
    await spent(office, account, Usd(1))
    (alarm,) = await office.alarms.low()
    assert (alarm.account_id, alarm.posted) == (account, usd("0.25") - 1)
    await office.alarms.told(alarm)
    await spent(office, account, usd("0.1"))
    assert await office.alarms.low() == []
    await office.ledger.grant(new_id(), account, usd("1"), "from an operator", "ada")
    assert await office.alarms.low() == []
    await spent(office, account, usd("0.7"))
    (again,) = await office.alarms.low()
    assert again.armed_by != alarm.armed_by


async def test_a_grant_after_a_deposit_leaves_its_mark_where_it_was(office: Office) -> None:
    account = await office.account()
    await office.bought(account)
    await office.ledger.grant(new_id(), account, usd("0.5"), "a referral", "system")
    await spent(office, account, usd("19.5"))
    assert await office.alarms.low() == []
    await spent(office, account, Usd(1))
    assert len(await office.alarms.low()) == 1


async def test_a_low_balance_is_told_once_until_the_next_deposit(office: Office) -> None:
    account = await office.account(usd("0.5"))
    assert await office.alarms.low() == [], "a new account is not low, it is new"
    await office.bought(account)
    assert await office.alarms.low() == []
    await spent(office, account, usd("20"))
    (alarm,) = await office.alarms.low()
    assert (alarm.account_id, alarm.posted) == (account, usd("0.5"))
    await office.alarms.told(alarm)
    assert await office.alarms.low() == []
    payment = await office.bought(account)
    await office.apply(went_back(payment, "20"))
    (again,) = await office.alarms.low()
    assert again.armed_by != alarm.armed_by
    await office.alarms.told(alarm)
    assert len(await office.alarms.low()) == 1, "an older occasion disarms nothing"


async def test_lines_are_what_moved_the_credit_newest_first(office: Office) -> None:
    account = await office.account(usd("0.5"))
    payment = await office.bought(account)
    hold, released = new_id(), new_id()
    await office.ledger.hold(hold, account, usd("3"), 600)
    await office.ledger.resolve(Resolution(hold, Kind.SETTLE, usd("2")))
    await office.ledger.hold(released, account, usd("3"), 600)
    await office.ledger.resolve(Resolution(released, Kind.REFUND))
    await office.apply(went_back(payment, "5", reinstated=True))
    lines = await office.statements.lines(account, LineFilter(), None, 100)
    told = sorted((line.kind, line.amount, line.paid, line.promo) for line in lines)
    assert told == sorted(
        [
            (Kind.REINSTATE, usd("5"), usd("5"), ZERO),
            (Kind.REVERSAL, -usd("5"), -usd("5"), ZERO),
            (Kind.SETTLE, -usd("2"), -usd("1.5"), -usd("0.5")),
            (Kind.DEPOSIT, usd("20"), usd("20"), ZERO),
            (Kind.GRANT, usd("0.5"), ZERO, usd("0.5")),
        ]
    )
    places = [(line.booked_at, line.id) for line in lines]
    assert places == sorted(places, reverse=True)
    assert {line.hold_id for line in lines if line.kind is Kind.SETTLE} == {hold}
    pages, after = [], None
    while page := await office.statements.lines(account, LineFilter(), after, 2):
        pages += page
        after = place_of(page[-1].place.cursor())
    assert pages == list(lines)


async def test_lines_are_ones_own_and_can_be_asked_for_by_kind_and_time(office: Office) -> None:
    account, other = await office.account(usd("0.5")), await office.account(usd("0.5"))
    await office.bought(other)
    start = datetime.now(UTC) - timedelta(hours=1)
    end = datetime.now(UTC) + timedelta(hours=1)

    async def kinds(wanted: LineFilter) -> list[Kind]:
        return [line.kind for line in await office.statements.lines(account, wanted, None, 10)]

    assert await kinds(LineFilter()) == [Kind.GRANT]
    assert await kinds(LineFilter(kind=Kind.DEPOSIT)) == []
    assert await kinds(LineFilter(kind=Kind.GRANT, since=start, until=end)) == [Kind.GRANT]
    assert await kinds(LineFilter(since=end)) == []
    assert await kinds(LineFilter(until=start)) == []
    beginning = Place(end, "f" * 32)
    assert len(await office.statements.lines(account, LineFilter(), beginning, 10)) == 1


async def test_a_statement_adds_up_and_ends_as_the_balance(office: Office) -> None:
    account = await office.account(Usd(500_000_001))
    payment = await office.bought(account)
    hold = new_id()
    await office.ledger.hold(hold, account, usd("3"), 600)
    await office.ledger.resolve(Resolution(hold, Kind.SETTLE, Usd(2_123_456_789)))
    await office.ledger.hold(new_id(), account, usd("7"), 600)
    await office.apply(went_back(payment, "5"))
    start, end = month(f"{datetime.now(UTC):%Y-%m}")
    found = await office.statements.statement(account, start, end)
    balance = await office.ledger.balance(account)
    assert (found.opening, found.closing) == (ZERO, balance.posted)
    assert {kind: (one.count, one.amount) for kind, one in found.sums.items()} == {
        Kind.DEPOSIT: (1, usd("20")),
        Kind.GRANT: (1, 500_000_001),
        Kind.SETTLE: (1, -2_123_456_789),
        Kind.REVERSAL: (1, -usd("5")),
        Kind.REINSTATE: (0, 0),
    }
    assert found.opening + sum(one.amount for one in found.sums.values()) == found.closing
    last = await office.statements.statement(account, *month("2026-01"))
    assert (last.opening, last.closing) == (ZERO, ZERO)
    later = await office.statements.statement(account, *month("2099-01"))
    assert later.opening == later.closing == balance.posted
    nobody = await office.statements.statement(new_id(), start, end)
    assert nobody.closing == 0


FALSIFIED = [
    "UPDATE account_flags SET amount = 1",
    "DELETE FROM account_flags",
    "UPDATE entries SET corrects = NULL WHERE kind = 'reversal'",
    "INSERT INTO entries (id, kind, account_id, corrects, paid, processor)"
    " SELECT gen_random_uuid(), 'reversal', account_id, NULL, -1, 1 FROM balances",
    "INSERT INTO entries (id, kind, account_id, corrects, processor, excess, loss)"
    " SELECT gen_random_uuid(), 'reversal', account_id, gen_random_uuid(), 1, 2, -1 FROM balances",
    "INSERT INTO entries (id, kind, account_id, loss, paid)"
    " SELECT gen_random_uuid(), 'grant', account_id, 1, -1 FROM balances",
    "UPDATE balances SET deposited = -1",
    "INSERT INTO payments SELECT 'pi_copy', order_id, account_id, customer, amount, tax, currency,"
    " state, card, receipt_url, invoice_url, created_at, returned, refusal, gen_random_uuid()"
    " FROM payments",
]


@pytest.mark.parametrize("statement", FALSIFIED)
async def test_the_database_itself_refuses_to_falsify_what_came_in(
    postgres_office: Office, postgres_engine: AsyncEngine, statement: str
) -> None:
    account = await postgres_office.account()
    payment = await postgres_office.bought(account)
    await postgres_office.apply(went_back(payment, "20", "1"))
    with pytest.raises(DBAPIError):
        async with postgres_engine.begin() as connection:
            await connection.execute(text(statement))
    assert (await postgres_office.ledger.health()).sound
