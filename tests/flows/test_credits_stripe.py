"""The flows of billing over the real `stripe` package and a Stripe server of the test tree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.payments.stripe import StripePayments
from adapters.system import SystemClock
from kyma.errors import Code, Refusal
from kyma.ledger import Kind
from kyma.mail import Letter
from kyma.money import ZERO, usd
from kyma.orders import GRACE, OrderState
from kyma.topups import RESUME_AFTER, TopUp
from tests.flows.selling import MemoryShop, a_shop
from tests.stripe_server.app import Fault
from tests.stripe_server.server import StripeServer, stripe_server


class Clock(SystemClock):
    """The real one, further on."""

    ahead = timedelta()

    def now(self) -> Any:
        return super().now() + self.ahead


@asynccontextmanager
async def selling(*, tax: bool = False) -> AsyncIterator[tuple[MemoryShop, StripeServer]]:
    clock = Clock()
    async with stripe_server() as stripe:
        processor = StripePayments(
            stripe.secret_key,
            stripe.webhook_secret,
            now=clock.now,
            api_base=stripe.url,
            tax=tax,
            timeout_s=5.0,
        )
        try:
            yield a_shop(clock, processor), stripe
        finally:
            await processor.close()


async def bought(shop: MemoryShop, stripe: StripeServer, account: str) -> str:
    known = await shop.credits.buy(account, usd("20"))
    assert known.checkout is not None
    payment = stripe.pay(known.checkout.id)
    assert payment is not None
    return payment


async def tell(shop: MemoryShop, stripe: StripeServer, event: Any) -> None:
    await shop.credits.notice(*stripe.signed(event))


async def test_a_purchase_is_credited_by_its_notices_and_its_receipt_is_linked() -> None:
    async with selling() as (shop, stripe):
        account = await shop.account(usd("0.5"))
        await bought(shop, stripe, account)
        for event in stripe.events():
            await tell(shop, stripe, event)
        balance = await shop.balance(account)
        assert (balance.paid, balance.deposited) == (usd("20"), usd("20"))
        (mail,) = shop.letters(Letter.RECEIPT)
        assert mail.facts["receipt_url"].startswith("http")
        (invoice,) = await shop.till.invoices(account)
        assert invoice.amount == usd("20")
        assert await shop.notices.waiting() == []


async def test_a_hundred_deliveries_at_once_are_one_deposit() -> None:
    async with selling() as (shop, stripe):
        account = await shop.account()
        await bought(shop, stripe, account)
        events = stripe.events()
        deliveries = [events[n % len(events)] for n in range(100)]
        await asyncio.gather(*(tell(shop, stripe, event) for event in deliveries))
        await shop.credits.reconcile()
        assert len(shop.entries(Kind.DEPOSIT)) == 1
        assert (await shop.balance(account)).paid == usd("20")
        assert len(shop.letters(Letter.RECEIPT)) == 1


async def test_taxes_come_on_top_and_are_no_credit() -> None:
    async with selling(tax=True) as (shop, stripe):
        account = await shop.account()
        _, customer = await shop.till.customer(account)
        stripe.address(customer)
        stripe.world.tax_basis_points = 825
        payment = await bought(shop, stripe, account)
        await shop.credits.reconcile()
        assert (await shop.balance(account)).paid == usd("20")
        (mail,) = shop.letters(Letter.RECEIPT)
        assert mail.facts["tax"] == "1.65"
        stripe.refund(payment)
        await shop.credits.reconcile()
        assert (await shop.balance(account)).posted == ZERO
        assert not shop.memory.flags


async def test_a_refund_that_fails_gives_back_its_credit_and_what_was_rounded_away() -> None:
    async with selling(tax=True) as (shop, stripe):
        account = await shop.account()
        stripe.world.tax_basis_points = 2_000
        payment = await bought(shop, stripe, account)
        refunds = [stripe.refund(payment, 800, pending=True) for _ in range(3)]
        await shop.credits.reconcile()
        assert (await shop.balance(account)).paid == ZERO
        stripe.end_refund(refunds[0], failed=True)
        await shop.credits.reconcile()
        assert (await shop.balance(account)).paid == usd("6.68"), "two thirds of 20, rounded down"
        stripe.refund(payment, 800)
        await shop.credits.reconcile()
        assert (await shop.balance(account)).paid == ZERO
        assert not shop.memory.flags
        assert not shop.alerts.unreversed


async def test_a_declined_card_and_one_that_needs_its_owner_are_told_apart() -> None:
    async with selling() as (shop, stripe):
        account = await shop.account()
        _, customer = await shop.till.customer(account)
        for kind, code in (
            ("declined", Code.PAYMENT_FAILED),
            ("requires_authentication", Code.PAYMENT_ACTION),
        ):
            card = stripe.card(customer, kind)
            with pytest.raises(Refusal) as refused:
                await shop.credits.charge(account, usd("20"), card)
            assert refused.value.code is code
        card = stripe.card(customer)
        known = await shop.credits.charge(account, usd("20"), card)
        assert known.state is OrderState.CREDITED
        assert (await shop.balance(account)).paid == usd("20")


async def test_a_buyer_whose_bank_asks_is_led_there_and_is_credited_on_return() -> None:
    async with selling() as (shop, stripe):
        account = await shop.account()
        _, customer = await shop.till.customer(account)
        stripe.card(customer, "requires_authentication")
        with pytest.raises(Refusal) as refused:
            await shop.credits.charge(account, usd("20"), None, "my key")
        assert refused.value.code is Code.PAYMENT_ACTION
        told = refused.value.details
        assert told["action_url"].startswith("http")
        assert "action_url" in refused.value.message
        ((id, intent),) = stripe.world.tables["payment_intent"].items()
        back = intent["next_action"]["redirect_to_url"]["return_url"]
        assert back == f"{shop.till.back_url}/{told['order_id']}"
        stripe.authenticate(id)
        known = await shop.credits.returned(account, told["order_id"])
        assert known.state is OrderState.CREDITED
        assert (await shop.credits.charge(account, usd("20"), None, "my key")) == known
        assert (await shop.balance(account)).paid == usd("20")


async def test_a_buyer_who_never_goes_to_the_bank_is_given_up_and_cannot_pay_later() -> None:
    async with selling() as (shop, stripe):
        account = await shop.account()
        _, customer = await shop.till.customer(account)
        stripe.card(customer, "requires_authentication")
        with pytest.raises(Refusal) as refused:
            await shop.credits.charge(account, usd("20"), None)
        shop.clock.ahead = GRACE + timedelta(minutes=1)
        await shop.credits.reconcile()
        known = await shop.orders.order(refused.value.details["order_id"])
        assert known is not None
        assert (known.state, known.message) == (OrderState.CANCELED, "Nothing was paid in time.")
        (intent,) = stripe.world.newest("payment_intent")
        assert intent["status"] == "canceled"
        await shop.credits.reconcile()
        assert await shop.orders.order(known.order.id) == known


async def test_no_month_charges_more_than_its_ceiling_with_taxes() -> None:
    async with selling(tax=True) as (shop, stripe):
        account = await shop.account()
        _, customer = await shop.till.customer(account)
        stripe.card(customer)
        setting = TopUp(account, True, usd("5"), usd("20"), usd("20"))
        stripe.world.tax_basis_points = 2_000
        with pytest.raises(Refusal, match="billing address"):
            await shop.choose(setting)
        stripe.address(customer)
        with pytest.raises(Refusal, match="monthly_ceiling"):
            await shop.choose(setting)
        stripe.world.tax_basis_points = 0
        await shop.choose(setting)
        stripe.world.tax_basis_points = 2_000
        for _ in range(3):
            await shop.auto.run()
        assert not stripe.world.tables["charge"]
        assert len(stripe.world.tables["tax.calculation"]) == 3
        await shop.choose(TopUp(account, True, usd("5"), usd("20"), usd("24")))
        await shop.auto.run()
        (charge,) = stripe.world.newest("charge")
        assert charge["amount"] == 2_400
        _, charged = await shop.auto.setting(account)
        assert charged == usd("24")
        assert (await shop.balance(account)).paid == usd("20")


async def test_a_customer_deleted_at_stripe_is_made_anew_and_buys_on() -> None:
    async with selling() as (shop, stripe):
        account = await shop.account()
        _, gone = await shop.till.customer(account)
        stripe.card(gone)
        await shop.choose(TopUp(account, True, usd("5"), usd("20"), usd("100")))
        stripe.delete_customer(gone)
        assert await shop.till.cards(account) == []
        assert await shop.till.invoices(account) == []
        await shop.auto.run()
        setting, _ = await shop.auto.setting(account)
        assert setting is not None
        assert setting.failures == 1
        await bought(shop, stripe, account)
        await shop.till.setup(account)
        _, customer = await shop.till.customer(account)
        assert customer != gone
        stripe.card(customer)
        await shop.credits.charge(account, usd("20"), None)
        await shop.credits.reconcile()
        assert (await shop.balance(account)).paid == usd("40")
        assert await shop.credits.uncredited() == []


async def test_an_order_begun_by_a_customer_who_is_gone_is_never_paid_by_another() -> None:
    async with selling() as (shop, stripe):
        account = await shop.account()
        _, gone = await shop.till.customer(account)
        stripe.fail(Fault.UNAVAILABLE, "POST /v1/checkout/sessions", times=3)
        with pytest.raises(Refusal):
            await shop.credits.buy(account, usd("20"), "my key")
        stripe.delete_customer(gone)
        with pytest.raises(Refusal) as refused:
            await shop.credits.buy(account, usd("20"), "my key")
        assert refused.value.code is Code.PAYMENT_FAILED
        assert not stripe.world.tables["checkout.session"]
        assert (await shop.credits.buy(account, usd("20"), "another key")).checkout is not None


@pytest.mark.parametrize(
    "fault", [Fault.RESET, Fault.RESET_AFTER, Fault.ERROR_AFTER, Fault.UNAVAILABLE]
)
async def test_a_top_up_whose_answer_is_lost_charges_once(fault: Fault) -> None:
    async with selling() as (shop, stripe):
        account = await shop.account()
        _, customer = await shop.till.customer(account)
        stripe.card(customer)
        await shop.choose(TopUp(account, True, usd("5"), usd("20"), usd("100")))
        stripe.fail(fault, "POST /v1/payment_intents", times=10)
        await shop.auto.run()
        stripe.api.faults.clear()
        assert await shop.auto.run() == 0
        shop.clock.ahead = RESUME_AFTER + timedelta(seconds=1)
        await shop.auto.run()
        assert (await shop.balance(account)).paid == usd("20")
        assert len(stripe.world.tables["payment_intent"]) == 1
        assert await shop.topups.running() == []


async def test_a_key_of_ours_that_was_rolled_is_nobody_elses_failure() -> None:
    async with selling() as (shop, stripe):
        account = await shop.account()
        _, customer = await shop.till.customer(account)
        stripe.card(customer)
        await shop.choose(TopUp(account, True, usd("5"), usd("20"), usd("100")))
        rolled, stripe.api.secret_key = stripe.api.secret_key, "sk_test_new"
        for _ in range(5):
            assert await shop.auto.run() == 0
            shop.clock.ahead += timedelta(hours=2)
        setting, _ = await shop.auto.setting(account)
        assert setting is not None
        assert (setting.enabled, setting.failures, setting.message) == (True, 0, "")
        assert shop.mails.posted == {}
        stripe.api.secret_key = rolled
        assert await shop.auto.run() == 1
        assert (await shop.balance(account)).paid == usd("20")


async def test_a_500_that_stripe_keeps_costs_few_questions_and_holds_nobody_up() -> None:
    async with selling() as (shop, stripe):
        account = await shop.account()
        _, customer = await shop.till.customer(account)
        stripe.card(customer)
        await shop.choose(TopUp(account, True, usd("5"), usd("20"), usd("100")))
        stripe.fail(Fault.ERROR, "POST /v1/payment_intents", times=10)
        await shop.auto.run()
        stripe.api.faults.clear()
        for _ in range(5):
            await bought(shop, stripe, account)
        shop.clock.ahead = RESUME_AFTER + timedelta(seconds=1)
        stripe.asked.clear()
        for _ in range(5):
            await shop.auto.run()
        asked = [f"{asked.method} {asked.path}" for asked in stripe.asked]
        assert asked[0] == "GET /v1/payment_intents"
        assert set(asked[1:]) == {"POST /v1/payment_intents"}
        assert len(asked) <= 4, "one look, and one order with its retries"
        assert len(await shop.topups.running()) == 1


async def test_an_odd_payment_at_stripe_does_not_end_the_round() -> None:
    async with selling() as (shop, stripe):
        account = await shop.account()
        _, customer = await shop.till.customer(account)
        card = stripe.card(customer)
        await shop.credits.charge(account, usd("20"), card)
        (odd,) = stripe.world.tables["payment_intent"].values()
        odd["metadata"]["kyma_tax_cents"] = "abc"
        fine = await bought(shop, stripe, account)
        with pytest.raises(ExceptionGroup, match="could not be done"):
            await shop.credits.reconcile()
        assert (await shop.balance(account)).paid == usd("40")
        assert fine in shop.orders._till.payments
        (told,) = shop.alerts.unread
        assert odd["id"] in told
        assert "abc" in told


LIFE = st.lists(st.sampled_from(["refund", "dispute", "win", "fail"]), max_size=3)


def live(stripe: StripeServer, payment: str, life: list[str]) -> int:
    """What happens to a payment; the cents of it that are back with its buyer in the end."""
    refunds: list[tuple[str, int]] = []
    disputes: list[tuple[str, int]] = []
    gone = 0
    for step in life:
        if step == "refund" and not disputes and gone < 2000:
            refunds.append((stripe.refund(payment, 500, pending=True), 500))
            gone += 500
        elif step == "fail" and refunds:
            id, cents = refunds.pop()
            stripe.end_refund(id, failed=True)
            gone -= cents
        elif step == "dispute" and not disputes and gone == 0:
            disputes.append((stripe.dispute(payment, 2000), 2000))
            gone += 2000
        elif step == "win" and disputes:
            id, cents = disputes.pop()
            stripe.end_dispute(id, "won")
            gone -= cents
            break  # a payment is disputed once
    return gone


@settings(max_examples=15, deadline=None)
@given(LIFE, st.randoms(use_true_random=False), st.sampled_from(["all", "twice", "some", "none"]))
def test_every_order_repetition_and_loss_of_notices_ends_in_the_same_balance(
    life: list[str], dice: Any, which: str
) -> None:
    async def play() -> None:
        async with selling() as (shop, stripe):
            account = await shop.account(usd("0.5"))
            payment = await bought(shop, stripe, account)
            gone = live(stripe, payment, life)
            events = stripe.events() * (2 if which == "twice" else 1)
            dice.shuffle(events)
            kept = {"some": events[::2], "none": []}.get(which, events)
            for event in kept:
                await tell(shop, stripe, event)
            if which in {"some", "none"}:
                await shop.credits.reconcile()
            balance = await shop.balance(account)
            left = usd("20") - gone * 10_000_000
            assert (balance.paid, balance.deposited, balance.promo) == (left, left, usd("0.5"))
            assert (await shop.ledger.health()).sound

    asyncio.run(play())
