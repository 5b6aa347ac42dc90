"""What was paid and cannot be credited: its buyer is told so, and an operator ends it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from adapters.memory.billing import MemorySettlements
from adapters.memory.payments import Manner
from kyma.errors import Code, Refusal
from kyma.flows.settlements import UncreditedPayments
from kyma.ledger import Kind, Outcome
from kyma.mail import Letter
from kyma.money import ZERO, Usd, usd
from kyma.orders import OrderState, Settlement, deposit_id
from kyma.payments import PaymentState
from kyma.ports.storage import StorageUnavailable
from kyma.topups import PAUSES, RESUME_AT_MOST, TopUp
from tests.builders import new_id
from tests.flows.selling import MemoryShop, a_shop
from tests.flows.test_credits_stripe import selling

DAYS = [timedelta(minutes=61), timedelta(hours=30), timedelta(days=9)]
WHY = "a slip in the dashboard"


class Slips:
    """A processor whose payments come out as 19 dollars, whatever was ordered."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    async def charge(self, *given: Any) -> Any:
        made = await self._processor.charge(*given)
        self._processor.change(made.id, amount=usd("19"))
        return replace(made, amount=usd("19"))


def by_hand(shop: MemoryShop) -> UncreditedPayments:
    return UncreditedPayments(MemorySettlements(shop.orders._till))


async def refused(work: Any) -> Refusal:
    with pytest.raises(Refusal) as found:
        await work
    return found.value


async def a_slip(shop: MemoryShop) -> tuple[str, str]:
    """Somebody whose card was charged for what they did not order; the order's id."""
    account = await shop.account()
    await shop.card(account)
    shop.credits._processor = Slips(shop.processor)
    answer = await refused(shop.credits.charge(account, usd("20"), None, "key"))
    return account, answer.details["order_id"]


async def test_a_card_that_paid_what_was_not_ordered_is_never_said_not_to_be_charged() -> None:
    shop = a_shop()
    account, order = await a_slip(shop)
    (listed,) = await shop.credits.uncredited()
    assert shop.processor.charges == 1
    for later in (timedelta(), *DAYS):
        shop.clock.move(later.total_seconds())
        await shop.credits.reconcile()
        told = await refused(shop.credits.charge(account, usd("20"), None, "key"))
        assert (told.code, told.charged) == (Code.PAYMENT_NOT_CREDITED, True)
        assert "do not pay again" in told.message
        assert "another card" not in told.message
        assert listed.refusal not in told.message
        found = await shop.credits.returned(account, order)
        assert (found.state, found.message) == (OrderState.REFUSED, told.message)
    assert shop.processor.charges == 1


@pytest.mark.parametrize("closed", [False, True])
async def test_a_page_that_was_paid_for_another_amount_is_refused_even_if_it_was_closed(
    closed: bool,
) -> None:
    shop = a_shop()
    account = await shop.account()
    known = await shop.credits.buy(account, usd("20"))
    assert known.checkout is not None
    if closed:
        shop.processor.expire(known.checkout.id)
        shop.clock.move(timedelta(hours=30).total_seconds())
        await shop.credits.reconcile()
        found = await shop.credits.returned(account, known.order.id)
        assert found.state is OrderState.CANCELED
    shop.processor.change(shop.processor.pay(known.checkout.id), amount=usd("19"))
    for later in DAYS:
        await shop.credits.reconcile()
        found = await shop.credits.returned(account, known.order.id)
        assert found.state is OrderState.REFUSED
        shop.clock.move(later.total_seconds())


async def test_an_order_that_was_refused_is_credited_once_its_payment_is_put_right() -> None:
    shop = a_shop()
    account, order = await a_slip(shop)
    (payment,) = [one.payment.id for one in await shop.credits.uncredited()]
    shop.processor.change(payment, amount=usd("20"))
    assert (await shop.credits.returned(account, order)).state is OrderState.CREDITED
    assert (await shop.credits.charge(account, usd("20"), None, "key")).message == ""
    assert (await shop.balance(account)).paid == usd("20")


async def test_a_payment_whose_entry_is_another_is_refused_with_its_order() -> None:
    shop = a_shop()
    account = await shop.account()
    known, payment = await shop.bought(account, usd("20"))
    await shop.ledger.grant(deposit_id(payment), account, usd("5"), "by nobody's rule")
    await shop.credits.reconcile()
    assert (await shop.credits.known(account, known.order.id)).state is OrderState.REFUSED
    assert [one.payment.id for one in await shop.credits.uncredited()] == [payment]


async def test_what_was_settled_for_another_is_not_credited_when_it_is_put_right() -> None:
    shop = a_shop()
    account = await shop.account()
    known, payment = await shop.bought(account, usd("20"))
    shop.processor.change(payment, amount=usd("19"))
    await shop.credits.reconcile()
    await by_hand(shop).settle(payment, await shop.account(), usd("19"), WHY, "olga")
    shop.processor.change(payment, amount=usd("20"))
    await shop.credits.reconcile()
    assert (await shop.balance(account)).posted == ZERO, "it was given to another"
    assert (await shop.credits.known(account, known.order.id)).state is OrderState.REFUSED
    assert await shop.credits.uncredited() == []


@pytest.mark.parametrize("later", DAYS)
async def test_a_card_payment_that_takes_days_is_open_until_it_is_credited(
    later: timedelta,
) -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.card(account, Manner.SLOW)
    known = await shop.credits.charge(account, usd("20"), None, "key")
    shop.clock.move(later.total_seconds())
    await shop.credits.reconcile()
    again = await shop.credits.charge(account, usd("20"), None, "key")
    assert (again.state, again.order.id) == (OrderState.OPEN, known.order.id)
    assert (await shop.credits.returned(account, known.order.id)).state is OrderState.OPEN
    assert again.payment_id is not None
    shop.processor.settle(again.payment_id)
    await shop.credits.reconcile()
    found = await shop.credits.charge(account, usd("20"), None, "key")
    assert (found.state, shop.processor.charges) == (OrderState.CREDITED, 1)


async def test_a_page_whose_bank_takes_days_is_open_until_it_is_credited() -> None:
    shop = a_shop()
    account = await shop.account()
    known = await shop.credits.buy(account, usd("20"))
    assert known.checkout is not None
    payment = shop.processor.pay(known.checkout.id, manner=Manner.SLOW)
    for later in DAYS:
        shop.clock.move(later.total_seconds())
        await shop.credits.reconcile()
        found = await shop.credits.returned(account, known.order.id)
        assert found.state is OrderState.OPEN
    shop.processor.settle(payment, paid=False)
    await shop.credits.reconcile()
    found = await shop.credits.returned(account, known.order.id)
    assert (found.state, found.message) == (OrderState.CANCELED, "Nothing was paid in time.")


@pytest.mark.parametrize("quicker", [PaymentState.PENDING, PaymentState.PAID])
async def test_who_confirms_at_the_last_moment_is_not_told_that_nothing_was_paid(
    quicker: PaymentState,
) -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.card(account, Manner.WANTS_OWNER)
    told = await refused(shop.credits.charge(account, usd("20"), None))

    class Quicker(Slips):
        async def cancel(self, id: str) -> Any:
            self._processor.change(id, state=quicker, action_url=None)
            return await self._processor.cancel(id)

    shop.credits._processor = Quicker(shop.processor)
    shop.clock.move(timedelta(minutes=61).total_seconds())
    await shop.credits.reconcile()
    known = await shop.orders.order(told.details["order_id"])
    assert known is not None
    wanted = {PaymentState.PENDING: OrderState.OPEN, PaymentState.PAID: OrderState.CREDITED}
    assert known.state is wanted[quicker]


async def test_an_operator_settles_a_payment_once_with_a_name_and_a_reason() -> None:
    shop = a_shop()
    account, order = await a_slip(shop)
    (listed,) = await shop.credits.uncredited()
    payment = listed.payment.id
    for _ in range(2):
        done = await by_hand(shop).settle(payment, account.upper(), usd("19"), f" {WHY} ", "olga")
        assert done == Settlement(payment, account, usd("19"), "olga", WHY)
    (entry,) = shop.entries(Kind.GRANT)
    assert (entry.account_id, entry.promo, entry.actor) == (account, usd("19"), "olga")
    assert entry.reason == f"payment {payment}: {WHY}"
    assert await shop.credits.uncredited() == []
    known = await shop.credits.charge(account, usd("20"), None, "key")
    assert (known.state, known.order.id) == (OrderState.CREDITED, order)
    assert "19 dollars" in known.message
    shop.processor.change(payment, amount=usd("20"))
    await shop.credits.reconcile()
    assert (await shop.balance(account)).posted == usd("19"), "put right too late: not twice"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"amount": ZERO}, "whole cents"),
        ({"amount": Usd(-usd("1"))}, "whole cents"),
        ({"amount": Usd(1)}, "whole cents"),
        ({"amount": usd("10000.01")}, "at most 10000"),
        ({"reason": "  "}, "reason"),
        ({"operator": " "}, "operator"),
        ({"account_id": "nobody"}, "no such account"),
        ({"account_id": "0" * 32}, "no such account"),
        ({"payment_id": "pi_none"}, "not on the list"),
    ],
)
async def test_what_an_operator_cannot_settle_is_said_and_gives_nothing(
    changes: dict[str, Any], word: str
) -> None:
    shop = a_shop()
    account, _ = await a_slip(shop)
    (listed,) = await shop.credits.uncredited()
    asked = {
        "payment_id": listed.payment.id, "account_id": account, "amount": usd("19"),
        "reason": WHY, "operator": "olga",
    }  # fmt: skip
    told = await refused(by_hand(shop).settle(**{**asked, **changes}))
    assert word in told.message
    assert (await shop.balance(account)).posted == ZERO
    assert len(await shop.credits.uncredited()) == 1


async def test_a_settlement_whose_database_is_away_is_refused_as_such() -> None:
    class Away:
        async def settle(self, _: Settlement) -> Outcome:
            raise StorageUnavailable("gone")

    told = await refused(UncreditedPayments(Away()).settle("pi", "a" * 32, usd("1"), WHY, "olga"))
    assert told.code is Code.STORAGE_UNAVAILABLE


async def a_stuck_top_up(shop: MemoryShop) -> tuple[str, str]:
    """An account whose card was charged unasked for what was not ordered; the payment."""
    account = await shop.account()
    await shop.card(account)
    await shop.ledger.deposit(new_id(), account, usd("3"), "before")
    await shop.choose(TopUp(account, True, usd("5"), usd("20"), usd("100")))
    shop.auto._processor = Slips(shop.processor)
    assert await shop.auto.run() == 1
    (listed,) = await shop.credits.uncredited()
    shop.auto._processor = shop.processor
    return account, listed.payment.id


async def top_up_of(shop: MemoryShop, account: str) -> TopUp:
    found, _ = await shop.auto.setting(account)
    assert found is not None
    return found


async def test_a_top_up_that_was_paid_and_not_credited_says_who_has_it() -> None:
    shop = a_shop()
    account, _ = await a_stuck_top_up(shop)
    for later in (timedelta(), *DAYS):
        shop.clock.move(later.total_seconds())
        assert await shop.auto.run() == 0
        setting = await top_up_of(shop, account)
        assert "until an operator has booked it or sent it back" in setting.message
        assert setting.enabled
    assert (shop.processor.charges, len(await shop.topups.running())) == (1, 1)


async def test_a_top_up_that_was_refunded_has_failed_and_another_may_begin() -> None:
    shop = a_shop()
    account, payment = await a_stuck_top_up(shop)
    shop.processor.refund(payment, usd("18"))
    shop.clock.move(RESUME_AT_MOST.total_seconds())
    assert await shop.auto.run() == 0
    assert len(await shop.topups.running()) == 1, "not all of it has gone back"
    shop.processor.refund(payment)
    shop.clock.move(RESUME_AT_MOST.total_seconds())
    assert await shop.auto.run() == 0
    assert await shop.topups.running() == []
    setting, charged = await shop.auto.setting(account)
    assert setting is not None
    assert (setting.enabled, setting.failures, setting.message, charged) == (True, 1, "", ZERO)
    shop.clock.move(PAUSES[0].total_seconds())
    assert await shop.auto.run() == 1
    assert (await shop.balance(account)).paid == usd("23")


async def test_top_ups_that_go_back_again_and_again_are_switched_off_with_a_letter() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.card(account)
    await shop.ledger.deposit(new_id(), account, usd("3"), "before")
    await shop.choose(TopUp(account, True, usd("5"), usd("20"), usd("100")))
    for _ in range(3):
        shop.auto._processor = Slips(shop.processor)
        assert await shop.auto.run() == 1
        (listed,) = await shop.credits.uncredited()
        shop.processor.refund(listed.payment.id)
        shop.clock.move(RESUME_AT_MOST.total_seconds())
        await shop.auto.run()
        shop.clock.move(PAUSES[-1].total_seconds())
    setting = await top_up_of(shop, account)
    assert not setting.enabled
    assert "went back" in setting.message
    assert len(shop.letters(Letter.AUTO_TOP_UP_FAILED)) == 1


async def test_a_top_up_that_was_settled_by_hand_is_over_and_the_next_may_begin() -> None:
    shop = a_shop()
    account, payment = await a_stuck_top_up(shop)
    await by_hand(shop).settle(payment, account, usd("1"), WHY, "olga")
    shop.clock.move(timedelta(minutes=2).total_seconds())
    assert await shop.auto.run() == 1, "it is ended, and 4 dollars are still too little"
    assert await shop.topups.running() == []
    setting, charged = await shop.auto.setting(account)
    assert setting is not None
    assert (setting.failures, setting.message) == (0, "")
    assert charged == usd("40"), "what was settled was paid for all the same"
    assert (await shop.balance(account)).posted == usd("24")


class SettledMeanwhile:
    """A processor that is asked of a payment while an operator settles it."""

    def __init__(self, shop: MemoryShop, account: str) -> None:
        self._shop, self._account = shop, account

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shop.processor, name)

    async def payment(self, id: str) -> Any:
        found = await self._shop.processor.payment(id)
        await by_hand(self._shop).settle(id, self._account, usd("19"), WHY, "olga")
        return found


async def test_a_top_up_that_is_settled_while_it_is_looked_at_has_not_failed() -> None:
    shop = a_shop()
    account, _ = await a_stuck_top_up(shop)
    shop.auto._processor = SettledMeanwhile(shop, account)
    shop.clock.move(RESUME_AT_MOST.total_seconds())
    await shop.auto.run()
    assert await shop.topups.running() == []
    setting = await top_up_of(shop, account)
    assert (setting.failures, setting.message, setting.enabled) == (0, "", True)


async def test_a_top_up_that_was_settled_for_somebody_else_has_failed() -> None:
    shop = a_shop()
    account, payment = await a_stuck_top_up(shop)
    await by_hand(shop).settle(payment, await shop.account(), usd("19"), WHY, "olga")
    shop.clock.move(RESUME_AT_MOST.total_seconds())
    assert await shop.auto.run() == 0
    assert await shop.topups.running() == []
    assert (await top_up_of(shop, account)).failures == 1


async def test_a_top_up_that_was_put_right_is_credited() -> None:
    shop = a_shop()
    account, payment = await a_stuck_top_up(shop)
    shop.processor.change(payment, amount=usd("20"))
    shop.clock.move(RESUME_AT_MOST.total_seconds())
    await shop.auto.run()
    assert await shop.topups.running() == []
    assert (await shop.balance(account)).paid == usd("23")


async def test_over_the_real_stripe_package_a_slow_card_and_a_slip_are_told_as_they_are() -> None:
    async with selling() as (shop, stripe):
        account = await shop.account()
        _, customer = await shop.till.customer(account)
        stripe.card(customer, "slow")
        known = await shop.credits.charge(account, usd("20"), None, "key")
        shop.clock.ahead += timedelta(minutes=61)
        await shop.credits.reconcile()
        again = await shop.credits.charge(account, usd("20"), None, "key")
        assert (again.order.id, again.state) == (known.order.id, OrderState.OPEN)
        assert again.payment_id is not None
        intent = stripe.world.get("payment_intent", again.payment_id)
        intent["metadata"]["kyma_tax_cents"] = "100"
        stripe.settle(again.payment_id)
        await shop.credits.reconcile()
        told = await refused(shop.credits.charge(account, usd("20"), None, "key"))
        assert (told.code, told.charged) == (Code.PAYMENT_NOT_CREDITED, True)
        await by_hand(shop).settle(again.payment_id, account, usd("20"), WHY, "olga")
        intent["metadata"]["kyma_tax_cents"] = "0"
        await shop.credits.reconcile()
        assert (await shop.balance(account)).posted == usd("20")
        assert await shop.credits.uncredited() == []
