"""Processes that sell die at every touch of storage and of Stripe: nothing is lost, nothing twice.

The oracle is Stripe itself, driven by its real package: whatever died, in the end a customer's
paid credit is what Stripe took and did not give back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kyma.errors import Code, Refusal
from kyma.ledger import Kind
from kyma.mail import Letter
from kyma.money import ZERO, usd
from kyma.orders import UNTRACED, OrderState
from kyma.topups import PAUSES, RESUME_AFTER, RESUME_AT_MOST, TopUp, month_of
from tests.flows.dying import Counter, at_every_touch, counter
from tests.flows.selling import MemoryShop

TWENTY = usd("20")
LATER = RESUME_AFTER + timedelta(seconds=1)
Work = Callable[[MemoryShop], Awaitable[Any]]


async def reconcile(shop: MemoryShop) -> None:
    await shop.credits.reconcile()


async def a_page(at: Counter) -> str:
    """The order of a page that nobody has paid on."""
    return (await at.shop.credits.buy(at.account, TWENTY)).order.id


async def paid(at: Counter) -> tuple[str, str]:
    """An order that was just paid for, and its payment; nobody has been told."""
    known = await at.shop.credits.buy(at.account, TWENTY)
    assert known.checkout is not None
    payment = at.stripe.pay(known.checkout.id)
    assert payment is not None
    return known.order.id, payment


async def a_card(at: Counter, kind: str = "success") -> str:
    _, customer = await at.shop.till.customer(at.account)
    return at.stripe.card(customer, kind)


def charge(account: str, key: str | None) -> Work:
    """A customer who buys with a saved card, and may be refused."""

    async def work(shop: MemoryShop) -> None:
        try:
            await shop.credits.charge(account, TWENTY, None, key)
        except Refusal as refusal:
            assert refusal.code is Code.PAYMENT_FAILED  # noqa: PT017 - a process that lives on

    return work


# Buying on a page


async def test_a_page_that_was_never_shown_is_shown_to_whoever_asks_again_and_is_one_page() -> None:
    async def case(at: int, where: str) -> bool:
        async with counter() as place:
            account = place.account

            async def buy(shop: MemoryShop) -> None:
                await shop.credits.buy(account, TWENTY, "my key")

            died = not await place.live(buy, at)
            known = await place.shop.credits.buy(account, TWENTY, "my key")
            assert known.checkout is not None
            assert len(place.stripe.world.tables["checkout.session"]) == 1, where
            assert len(place.stripe.world.tables["customer"]) == 1, where
            place.stripe.pay(known.checkout.id)
            await place.live(reconcile)
            assert place.charges() == 1
            await place.check(where)
        return died

    await at_every_touch(case, least=6)


async def test_an_order_whose_page_was_lost_costs_nothing_and_ends() -> None:
    async def case(at: int, where: str) -> bool:
        async with counter() as place:
            account = place.account

            async def buy(shop: MemoryShop) -> None:
                await shop.credits.buy(account, TWENTY)

            died = not await place.live(buy, at)
            place.shop.clock.by = UNTRACED + timedelta(hours=2)
            await place.live(reconcile)
            states = {known.state for known in place.shop.orders._till.orders.values()}
            assert states <= {OrderState.CANCELED}, where
            assert await place.shop.orders.take_waiting(9) == []
            await place.check(where)
        return died

    await at_every_touch(case, least=6)


WITNESSES = ["a notice", "the return", "a round"]


def told_by(witness: str, place: Counter, order: str) -> Work:
    """Who brings the news of a payment. Of the notices the last: all say the same."""
    fresh = [*place.stripe.world.tables["event"].values()][-1:]

    async def notices(shop: MemoryShop) -> None:
        for event in fresh:
            await shop.credits.notice(*place.stripe.signed(event))

    async def back(shop: MemoryShop) -> None:
        await shop.credits.returned(place.account, order)

    return {"a notice": notices, "the return": back, "a round": reconcile}[witness]


@pytest.mark.parametrize(
    ("witness", "next_witness"), list(zip(WITNESSES, [*WITNESSES[1:], WITNESSES[0]], strict=True))
)
async def test_a_payment_is_credited_once_whoever_dies_of_the_news(
    witness: str, next_witness: str
) -> None:
    async def case(at: int, where: str) -> bool:
        async with counter() as place:
            order, _ = await paid(place)
            died = not await place.live(told_by(witness, place, order), at)
            assert await place.live(told_by(next_witness, place, order))
            balance = await place.shop.balance(place.account)
            assert balance.paid == TWENTY, f"without waiting for a round: {where}"
            await place.live(reconcile)
            await place.check(where)
            assert len(place.shop.letters(Letter.RECEIPT)) == 1, where
            known = await place.shop.orders.order(order)
            assert known is not None
            assert known.state is OrderState.CREDITED, where
        return died

    await at_every_touch(case, least=8)


async def test_processes_that_die_one_after_another_each_a_little_later_come_to_an_end() -> None:
    async with counter() as place:
        _, payment = await paid(place)
        for life in ("paid", "refunded"):
            lived = [await place.live(reconcile, at) for at in range(1, 32)]
            assert lived[-1], life
            assert lived.count(False) > 8, life
            await place.check(life)
            if life == "paid":
                place.stripe.refund(payment, 500)
        assert (await place.shop.balance(place.account)).paid == usd("15")
        assert len(place.shop.letters(Letter.RECEIPT)) == 1
        assert len(place.shop.letters(Letter.REFUNDED)) == 1


# Buying with a saved card


@pytest.mark.parametrize("card", ["success", "declined", "slow"])
async def test_a_card_is_charged_once_however_its_purchase_dies_and_is_repeated(card: str) -> None:
    async def case(at: int, where: str) -> bool:
        async with counter() as place:
            await a_card(place, card)
            buy = charge(place.account, "my key")
            died = not await place.live(buy, at)
            await place.live(buy)
            intents = place.stripe.world.tables["payment_intent"]
            assert len(intents) == 1, where
            for id, intent in intents.items():
                if intent["status"] == "processing":
                    place.stripe.settle(id)
            await place.live(reconcile)
            assert place.charges() == (card != "declined"), where
            await place.check(where)
        return died

    await at_every_touch(case, least=8)


async def test_a_card_that_was_charged_by_who_died_is_credited_by_the_next_round() -> None:
    async def case(at: int, where: str) -> bool:
        async with counter() as place:
            await a_card(place)
            died = not await place.live(charge(place.account, None), at)
            await place.live(reconcile)
            assert place.charges() in {0, 1}
            await place.check(where)
            assert len(place.shop.letters(Letter.RECEIPT)) == place.charges(), where
            place.shop.clock.by = UNTRACED + timedelta(hours=2)
            await place.live(reconcile)
            assert await place.shop.orders.take_waiting(9) == [], where
            await place.check(where)
        return died

    await at_every_touch(case, least=8)


# Auto top-up


def within_a_month() -> timedelta:
    """By how much a clock is ahead after which a whole day is left of its month."""
    now, day = datetime.now(UTC), timedelta(days=1)
    return timedelta() if month_of(now) == month_of(now + day) else -day


async def a_topped_up(place: Counter, card: str = "success") -> None:
    """A customer with a card, nothing left, and a ceiling that allows one charge a month."""
    await a_card(place, card)
    place.shop.clock.by = within_a_month()
    setting = TopUp(place.account, True, usd("5"), TWENTY, usd("39"))
    await place.shop.choose(setting)


async def top_up(shop: MemoryShop) -> None:
    await shop.auto.run()


def running(place: Counter) -> Any:
    return place.shop.topups.running()


@pytest.mark.parametrize("first", ["top up", "a round"])
async def test_a_crossing_charges_once_wherever_the_process_that_charges_dies(first: str) -> None:
    """And nothing above the ceiling, though the balance is spent at once."""

    async def case(at: int, where: str) -> bool:
        async with counter() as place:
            await a_topped_up(place)
            died = not await place.live(top_up, at)
            place.shop.clock.by += LATER
            for work in [top_up, reconcile] if first == "top up" else [reconcile, top_up]:
                assert await place.live(work)
            assert place.charges() == 1, where
            assert await running(place) == [], where
            await place.check(where)
            await place.shop.spend(place.account, TWENTY)
            place.spent += TWENTY
            for _ in range(3):
                place.shop.clock.by += LATER
                await place.live(top_up)
                await place.live(reconcile)
            assert place.charges() == 1, f"the ceiling: {where}"
            await place.check(where)
            assert len(place.shop.letters(Letter.RECEIPT)) == 1, where
        return died

    await at_every_touch(case, least=12)


async def test_a_charge_that_died_is_looked_after_by_processes_that_die_as_well() -> None:
    async def case(at: int, where: str) -> bool:
        async with counter() as place:
            await a_topped_up(place)
            died = not await place.live(top_up, at)
            for later in range(1, 19):  # before the order is too old to be sent again
                place.shop.clock.by += RESUME_AT_MOST
                await place.live(top_up, later)
            assert place.charges() == 1, where
            assert await running(place) == [], where
            assert len(place.shop.orders._till.orders) == 1, where
            await place.check(where)
        return died

    await at_every_touch(case, least=12)


async def test_three_failures_are_three_and_one_letter_wherever_the_last_one_dies() -> None:
    async def case(at: int, where: str) -> bool:
        async with counter() as place:
            await a_topped_up(place, "declined")
            for pause in PAUSES:
                await place.live(top_up)
                place.shop.clock.by += pause + timedelta(seconds=1)
            died = not await place.live(top_up, at)
            place.shop.clock.by += LATER
            assert await place.live(top_up)
            setting, charged = await place.shop.auto.setting(place.account)
            assert setting is not None
            assert (setting.enabled, setting.failures, charged) == (False, 3, ZERO), where
            assert len(place.shop.letters(Letter.AUTO_TOP_UP_FAILED)) == 1, where
            assert len(place.stripe.world.tables["payment_intent"]) == 3, where
            await place.check(where)
        return died

    await at_every_touch(case, least=12)


async def test_a_low_balance_is_told_once_wherever_the_teller_dies() -> None:
    async def tell(shop: MemoryShop) -> None:
        await shop.low.run()

    async def case(at: int, where: str) -> bool:
        async with counter() as place:
            await paid(place)
            await place.live(reconcile)
            await place.shop.spend(place.account, TWENTY)
            died = not await place.live(tell, at)
            await place.live(tell)
            assert len(place.shop.letters(Letter.LOW_BALANCE)) == 1, where
            assert await place.shop.alarms.low() == [], where
        return died

    await at_every_touch(case, least=4)


# Money that goes back


def partial(place: Counter, payment: str) -> None:
    place.stripe.refund(payment, 700)
    place.stripe.refund(payment, 300)


def whole(place: Counter, payment: str) -> None:
    place.stripe.refund(payment)


def failed(place: Counter, payment: str) -> None:
    place.stripe.end_refund(place.stripe.refund(payment, 700, pending=True), failed=True)


def disputed(place: Counter, payment: str) -> None:
    place.stripe.dispute(payment)


def won(place: Counter, payment: str) -> None:
    place.stripe.end_dispute(place.stripe.dispute(payment), "won")


async def test_auto_top_up_is_off_and_its_owner_told_wherever_the_booker_of_a_dispute_dies() -> (
    None
):
    async def case(at: int, where: str) -> bool:
        async with counter() as place:
            await a_topped_up(place)
            await place.live(top_up)
            (payment,) = place.stripe.world.tables["payment_intent"]
            place.stripe.dispute(payment)
            died = not await place.live(reconcile, at)
            for work in (top_up, reconcile, top_up):
                place.shop.clock.by += LATER
                assert await place.live(work)
            setting, _ = await place.shop.auto.setting(place.account)
            assert setting is not None
            assert (setting.enabled, place.charges()) == (False, 1), where
            (mail,) = place.shop.letters(Letter.REFUNDED)
            assert mail.facts["auto_top_up"] == "switched off", where
            await place.check(where)
        return died

    await at_every_touch(case, least=8)


@pytest.mark.parametrize(
    ("happens", "witness"),
    [
        (partial, "a round"),
        (whole, "a notice"),
        (failed, "a notice"),
        (disputed, "a round"),
        (won, "a notice"),
    ],
)
async def test_what_goes_back_is_booked_once_wherever_the_booker_dies(
    happens: Callable[[Counter, str], None], witness: str
) -> None:
    """Of $20, fifteen are spent: most of these find less than they would take."""

    async def case(at: int, where: str) -> bool:
        async with counter() as place:
            order, payment = await paid(place)
            await place.live(reconcile)
            await place.shop.spend(place.account, usd("15"))
            place.spent += usd("15")
            happens(place, payment)
            died = not await place.live(told_by(witness, place, order), at)
            await place.live(reconcile)
            entries = place.shop.entries(Kind.REVERSAL, Kind.REINSTATE)
            assert len(entries) == {partial: 2, whole: 1, failed: 2, disputed: 1, won: 2}[happens]
            await check_shortfall(place, where)
        return died

    await at_every_touch(case, least=8)


async def check_shortfall(place: Counter, where: str) -> None:
    """As `check`, where more may have gone back than was left: what is short is our loss."""
    balance = await place.shop.balance(place.account)
    loss = sum(entry.loss for entry in place.shop.entries(Kind.REVERSAL, Kind.REINSTATE))
    assert balance.paid + place.spent + loss == place.taken(), where
    assert balance.paid >= ZERO
    assert balance.deposited == place.taken(), where
    assert len(place.shop.entries(Kind.DEPOSIT)) == 1, where
    assert (await place.shop.ledger.health()).sound, where
    assert (await place.shop.notices.waiting(), place.shop.alerts.unreversed) == ([], []), where
    letters = place.shop.letters(Letter.REFUNDED)
    assert len(letters) == len(place.shop.entries(Kind.REVERSAL)), where
