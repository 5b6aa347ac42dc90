"""Money comes in, once, whatever order, number or loss of notices it comes with."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from adapters.memory.billing import MemoryOrders
from adapters.memory.payments import Manner
from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.orders import PostgresNotices, PostgresOrders
from adapters.postgres.topups import PostgresAlarms, PostgresTopUps
from adapters.postgres.units import PostgresUnits, make_engine
from adapters.system import SystemClock
from kyma.errors import Code, Refusal
from kyma.flows.credits import OVERLAP
from kyma.ledger import Kind
from kyma.mail import Letter
from kyma.money import ZERO, usd
from kyma.orders import OrderState, Ruling
from kyma.payments import Reversal, Source
from kyma.ports.billing import NotBooked
from kyma.ports.storage import StorageUnavailable
from kyma.tiers import tier_of
from tests.builders import new_id
from tests.flows.selling import BACK, MemoryShop, Shop, a_shop, a_shop_over


async def refused(work: Any) -> Refusal:
    with pytest.raises(Refusal) as found:
        await work
    return found.value


async def test_a_purchase_by_checkout_is_credited_when_its_notice_comes() -> None:
    shop = a_shop()
    account = await shop.account(usd("0.5"))
    known = await shop.credits.buy(account, usd("20"))
    assert known.checkout is not None
    assert known.checkout.url.startswith("https://")
    assert (await shop.balance(account)).paid == ZERO, "nothing before it is paid"
    shop.processor.pay(known.checkout.id)
    await shop.deliver_all()
    balance = await shop.balance(account)
    assert (balance.paid, balance.deposited) == (usd("20"), usd("20"))
    assert (await shop.credits.returned(account, known.order.id)).state is OrderState.CREDITED
    assert account in shop.invalidations.forgotten, "every process hears of the tier"
    assert await shop.credits.uncredited() == []
    assert not shop.alerts.uncredited


async def test_a_buyer_who_returns_is_credited_without_any_notice() -> None:
    shop = a_shop()
    account = await shop.account()
    known, _ = await shop.bought(account, usd("5"))
    assert (await shop.credits.returned(account, known.order.id)).state is OrderState.CREDITED
    assert (await shop.balance(account)).paid == usd("5")


async def test_a_buyer_who_returns_without_having_paid_sees_that_it_is_open() -> None:
    shop = a_shop()
    account = await shop.account()
    known = await shop.credits.buy(account, usd("5"))
    assert (await shop.credits.returned(account, known.order.id)).state is OrderState.OPEN
    assert known.checkout is not None
    shop.processor.pay(known.checkout.id, manner=Manner.DECLINES)
    found = await shop.credits.returned(account, known.order.id)
    assert (found.state, found.message) == (OrderState.OPEN, "Your card was declined.")
    shop.processor.pay(known.checkout.id)
    assert (await shop.credits.returned(account, known.order.id)).state is OrderState.CREDITED


async def test_a_round_credits_what_no_notice_ever_told_of() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.bought(account, usd("100"))
    assert await shop.credits.reconcile() == 1
    assert (await shop.balance(account)).paid == usd("100")


async def test_a_round_looks_back_further_than_the_one_before_it_began() -> None:
    shop = a_shop()
    account = await shop.account()
    _, payment = await shop.bought(account, usd("5"))
    assert await shop.credits.reconcile() == 1
    shop.clock.move(OVERLAP.total_seconds())
    assert await shop.credits.reconcile() == 1, "within the overlap it is looked at again"
    shop.clock.move(2)
    assert await shop.credits.reconcile() == 1
    shop.clock.move(OVERLAP.total_seconds() + 1)
    await shop.credits.reconcile()
    shop.clock.move(1)
    assert await shop.credits.reconcile() == 0
    shop.processor.refund(payment)
    assert await shop.credits.reconcile() == 1, "a change of an old payment is found"
    assert (await shop.balance(account)).posted == ZERO


async def test_a_round_after_days_of_silence_finds_everything_since_the_last() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.credits.reconcile()
    await shop.bought(account, usd("5"))
    shop.clock.move(timedelta(days=20).total_seconds())
    await shop.credits.reconcile()
    assert (await shop.balance(account)).paid == usd("5")


async def test_a_checkout_that_succeeds_after_it_expired_is_credited_all_the_same() -> None:
    shop = a_shop()
    account = await shop.account()
    known = await shop.credits.buy(account, usd("20"))
    assert known.checkout is not None
    shop.processor.expire(known.checkout.id)
    shop.clock.move(timedelta(hours=30).total_seconds())
    await shop.credits.reconcile()
    closed = await shop.credits.returned(account, known.order.id)
    assert (closed.state, closed.message) == (OrderState.CANCELED, "Nothing was paid in time.")
    shop.processor.pay(known.checkout.id)
    await shop.deliver(shop.processor.notices[-1])
    assert (await shop.balance(account)).paid == usd("20")
    assert (await shop.credits.returned(account, known.order.id)).state is OrderState.CREDITED


async def test_an_order_that_was_never_paid_is_not_asked_about_for_ever() -> None:
    shop = a_shop()
    account = await shop.account()
    known = await shop.credits.buy(account, usd("20"))
    await shop.credits.reconcile()
    assert (await shop.orders.order(known.order.id)).state is OrderState.OPEN
    shop.clock.move(timedelta(hours=26).total_seconds())
    await shop.credits.reconcile()
    assert await shop.orders.take_waiting(10) == []


async def test_an_order_whose_page_was_never_made_is_given_up_in_the_end() -> None:
    shop = a_shop()
    account = await shop.account()
    real = shop.processor.checkout

    async def lost(*given: Any) -> Any:
        shop.processor.go_down()
        return await real(*given)

    shop.credits._processor = _With(shop.processor, checkout=lost)
    assert (await refused(shop.credits.buy(account, usd("5")))).code is Code.PROCESSOR_UNAVAILABLE
    (known,) = await shop.orders.take_waiting(10)
    assert known.checkout is None
    shop.clock.move(timedelta(hours=25).total_seconds())
    await shop.credits.reconcile()
    assert (await shop.orders.order(known.order.id)).state is OrderState.CANCELED


async def test_a_hundred_deliveries_of_one_payment_are_one_deposit() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.bought(account, usd("20"))
    notices = [*shop.processor.notices]
    shop.processor.pause()
    work = [shop.deliver(notices[n % len(notices)]) for n in range(100)]
    tasks = [asyncio.create_task(one) for one in work]
    await asyncio.sleep(0)
    shop.processor.resume()
    await asyncio.gather(*tasks)
    assert len(shop.entries(Kind.DEPOSIT)) == 1
    assert (await shop.balance(account)).paid == usd("20")
    assert len(shop.letters(Letter.RECEIPT)) == 1


@pytest.mark.parametrize("raw", [b"", b"{}", b"\x00\xff", b"null", b"[" * 10_000])
async def test_what_is_not_signed_is_refused_and_leaves_nothing(raw: bytes) -> None:
    shop = a_shop()
    for signature in ("", "t=1,v1=00", "1." + "0" * 64, "é", "x" * 10_000):
        assert (await refused(shop.credits.notice(raw, signature))).code is Code.FORGED_NOTICE
    assert await shop.notices.waiting() == []


async def test_a_notice_that_was_changed_cut_off_or_replayed_late_is_refused() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.bought(account, usd("20"))
    (first, *_) = shop.processor.notices
    other = "1" if first.signature.endswith("0") else "0"
    for raw, signature in (
        (first.raw + b" ", first.signature),
        (first.raw[:-5], first.signature),
        (first.raw, first.signature[:-1] + other),
        (first.raw, "9" + first.signature),
    ):
        answer = await refused(shop.credits.notice(raw, signature))
        assert answer.code is Code.FORGED_NOTICE
    shop.clock.move(301)
    assert (await refused(shop.deliver(first))).code is Code.FORGED_NOTICE
    assert (await shop.balance(account)).posted == ZERO


async def test_a_notice_whose_processor_is_away_is_kept_and_done_by_the_next_round() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.bought(account, usd("20"))
    notice = shop.processor.notices[-1]
    shop.processor.go_down()
    await shop.deliver(notice)
    assert (await shop.balance(account)).paid == ZERO
    assert len(await shop.notices.waiting()) == 1
    assert shop.alerts.waiting
    await shop.credits.reconcile()
    assert await shop.notices.waiting() == []
    assert (await shop.balance(account)).paid == usd("20")


async def test_a_processor_that_hangs_does_not_keep_its_own_notice_waiting() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.bought(account, usd("20"))
    shop.credits._notice_s = 0.05
    shop.processor.pause()
    async with asyncio.timeout(3):
        await shop.deliver(shop.processor.notices[-1])
    assert len(await shop.notices.waiting()) == 1
    shop.processor.resume()
    await shop.credits.reconcile()
    assert (await shop.balance(account)).paid == usd("20")


async def test_a_notice_of_nothing_we_know_is_done_and_forgotten() -> None:
    shop = a_shop()
    account = await shop.account()
    page = await shop.till.setup(account)
    shop.processor.leave_card(page.id)
    await shop.deliver_all()
    assert await shop.notices.waiting() == []


class Stumbling(MemoryOrders):
    """Loses its database at the moment of booking, so many times."""

    def __init__(self, orders: MemoryOrders, falls: int) -> None:
        super().__init__(orders._till)
        self.falls = falls

    async def book(self, ruling: Ruling, event_id: str | None = None) -> Any:
        if self.falls:
            self.falls -= 1
            raise StorageUnavailable("gone")
        return await super().book(ruling, event_id)


async def test_a_process_that_dies_before_booking_leaves_its_event_to_the_next() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.bought(account, usd("20"))
    stumbling = Stumbling(shop.orders, falls=1)
    shop.credits._orders = stumbling
    await shop.deliver(shop.processor.notices[-1])
    assert len(await shop.notices.waiting()) == 1
    assert (await shop.balance(account)).posted == ZERO
    await shop.deliver(shop.processor.notices[-1])
    assert await shop.notices.waiting() == []
    assert (await shop.balance(account)).paid == usd("20")


async def test_a_process_that_dies_after_booking_has_its_receipt_written_by_the_next_look() -> None:
    shop = a_shop()
    account = await shop.account()
    known, _ = await shop.bought(account, usd("20"))
    shop.mails.falls = 1
    with pytest.raises(Refusal):
        await shop.credits.returned(account, known.order.id)
    assert (await shop.balance(account)).paid == usd("20"), "what is booked is booked"
    await shop.credits.reconcile()
    await shop.credits.reconcile()
    (mail,) = shop.letters(Letter.RECEIPT)
    assert mail.id == f"receipt:{shop.entries(Kind.DEPOSIT)[0].id}"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"amount": usd("2000")}, "amount"),
        ({"amount": usd("19.99")}, "amount"),
        ({"currency": "jpy"}, "currency"),
        ({"customer": "cus_other"}, "customer"),
        ({"account_id": "b" * 32}, "account"),
        ({"order_id": "c" * 32}, "no order"),
        ({"order_id": "'; --"}, "no order"),
    ],
)
async def test_a_payment_that_was_not_ordered_is_refused_logged_and_listed(
    changes: dict[str, Any], why: str
) -> None:
    shop = a_shop()
    account = await shop.account()
    _, payment = await shop.bought(account, usd("20"))
    shop.processor.change(payment, **changes)
    await shop.deliver_all()
    await shop.credits.reconcile()
    assert (await shop.balance(account)).posted == ZERO
    assert not shop.entries(Kind.DEPOSIT)
    (found,) = await shop.credits.uncredited()
    assert found.payment.id == payment
    assert why in found.refusal
    assert shop.alerts.uncredited == [(payment, found.refusal)], "said once"
    assert not shop.letters(Letter.RECEIPT)


async def test_a_refund_is_booked_told_and_takes_the_tier_with_it() -> None:
    shop = a_shop()
    account = await shop.account(usd("0.5"))
    _, payment = await shop.bought(account, usd("50"))
    await shop.deliver_all()
    shop.processor.refund(payment, usd("10"))
    await shop.deliver_all()
    balance = await shop.balance(account)
    assert (balance.paid, balance.promo, balance.deposited) == (usd("40"), usd("0.5"), usd("40"))
    assert tier_of(balance.deposited, None, shop.clock.now()).level == 1
    (mail,) = shop.letters(Letter.REFUNDED)
    assert (mail.facts["amount"], mail.facts["balance"]) == ("10", "40.5")
    shop.processor.refund(payment)
    await shop.deliver_all()
    assert (await shop.balance(account)).posted == usd("0.5")
    assert len(shop.letters(Letter.REFUNDED)) == 2


async def test_a_refund_larger_than_what_is_left_flags_the_account_and_stops_at_zero() -> None:
    shop = a_shop()
    account = await shop.account()
    _, payment = await shop.bought(account, usd("20"))
    await shop.deliver_all()
    await shop.spend(account, usd("19"))
    shop.processor.refund(payment)
    await shop.deliver_all()
    balance = await shop.balance(account)
    assert (balance.available, balance.deposited) == (ZERO, ZERO)
    (flag,) = await shop.orders.flags()
    assert (flag.account_id, flag.amount) == (account, usd("19"))
    assert (await shop.ledger.health()).loss == usd("19")


async def test_a_dispute_takes_its_credit_and_gives_it_back_when_it_is_won() -> None:
    shop = a_shop()
    account = await shop.account()
    _, payment = await shop.bought(account, usd("20"))
    await shop.deliver_all()
    await shop.spend(account, usd("12"))
    dispute = shop.processor.dispute(payment)
    await shop.deliver_all()
    assert (await shop.balance(account)).available == ZERO
    shop.processor.reinstate(dispute)
    await shop.deliver_all()
    balance = await shop.balance(account)
    assert (balance.available, balance.deposited) == (usd("8"), usd("20"))
    assert (await shop.ledger.health()).loss == ZERO


async def test_a_saved_card_pays_at_once() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.card(account)
    known = await shop.credits.charge(account, usd("20"), None)
    assert (known.state, known.order.source) == (OrderState.CREDITED, Source.CARD)
    assert (await shop.balance(account)).paid == usd("20")
    (mail,) = shop.letters(Letter.RECEIPT)
    assert mail.facts["receipt_url"].startswith("https://")


@pytest.mark.parametrize(
    ("manner", "code", "word"),
    [
        (Manner.DECLINES, Code.PAYMENT_FAILED, "another card"),
        (Manner.WANTS_OWNER, Code.PAYMENT_ACTION, "confirm"),
    ],
)
async def test_a_card_that_does_not_pay_says_what_to_do(
    manner: Manner, code: Code, word: str
) -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.card(account, manner)
    answer = await refused(shop.credits.charge(account, usd("20"), None))
    assert (answer.code, answer.charged) == (code, False)
    assert word in answer.message
    assert "Nothing was charged" in answer.message
    assert answer.details["order_id"]
    assert (await shop.balance(account)).posted == ZERO


async def test_a_payment_that_is_confirmed_later_is_credited_then() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.card(account, Manner.WANTS_OWNER)
    answer = await refused(shop.credits.charge(account, usd("20"), None))
    order = answer.details["order_id"]
    known = await shop.orders.order(order)
    shop.processor.settle(known.payment_id)
    assert (await shop.credits.returned(account, order)).state is OrderState.CREDITED
    assert (await shop.balance(account)).paid == usd("20")


async def test_a_payment_that_takes_its_time_is_open_and_then_credited() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.card(account, Manner.SLOW)
    known = await shop.credits.charge(account, usd("20"), None)
    assert known.state is OrderState.OPEN
    assert known.payment_id is not None
    shop.processor.settle(known.payment_id)
    await shop.credits.reconcile()
    assert (await shop.balance(account)).paid == usd("20")


@pytest.mark.parametrize("after_acting", [False, True])
async def test_a_charge_whose_answer_is_lost_is_told_as_such_and_never_made_twice(
    after_acting: bool,
) -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.card(account)
    cards = await shop.till.cards(account)

    async def charge() -> Any:
        return await shop.credits.charge(account, usd("20"), cards[0].id, key="again")

    # The card is looked up first; it is the charge itself that is lost.
    real = shop.processor.charge

    async def lost(*given: Any) -> Any:
        shop.processor.go_down(after_acting=after_acting)
        return await real(*given)

    shop.credits._processor = _With(shop.processor, charge=lost)
    answer = await refused(charge())
    assert (answer.code, answer.charged) == (Code.PROCESSOR_UNAVAILABLE, None)
    shop.credits._processor = shop.processor
    assert (await charge()).state is OrderState.CREDITED
    assert shop.processor.charges == 1
    assert (await shop.balance(account)).paid == usd("20")


class _With:
    """A processor one of whose methods is another."""

    def __init__(self, processor: Any, **other: Any) -> None:
        self._processor = processor
        self._other = other

    def __getattr__(self, name: str) -> Any:
        return self._other.get(name) or getattr(self._processor, name)


async def test_a_lost_charge_that_nobody_repeats_is_credited_by_the_next_round() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.card(account)
    real = shop.processor.charge

    async def lost(*given: Any) -> Any:
        shop.processor.go_down(after_acting=True)
        return await real(*given)

    shop.credits._processor = _With(shop.processor, charge=lost)
    answer = await refused(shop.credits.charge(account, usd("20"), None))
    await shop.credits.reconcile()
    assert (await shop.balance(account)).paid == usd("20")
    known = await shop.credits.returned(account, answer.details["order_id"])
    assert known.state is OrderState.CREDITED


async def test_the_same_key_is_the_same_purchase_and_another_amount_is_refused() -> None:
    shop = a_shop()
    account, other = await shop.account(), await shop.account()
    await shop.card(account)
    first = await shop.credits.charge(account, usd("20"), None, key="k")
    again = await shop.credits.charge(account, usd("20"), None, key="k")
    assert (first.order.id, shop.processor.charges) == (again.order.id, 1)
    answer = await refused(shop.credits.charge(account, usd("50"), None, key="k"))
    assert answer.code is Code.IDEMPOTENCY_KEY_REUSED
    assert (await refused(shop.credits.buy(account, usd("20"), key="k"))).code is answer.code
    page = await shop.credits.buy(account, usd("20"), key="page")
    assert (await shop.credits.buy(account, usd("20"), key="page")).checkout == page.checkout
    assert (await shop.credits.buy(other, usd("20"), key="k")).order.id != first.order.id
    assert (await shop.balance(account)).paid == usd("20")


async def test_a_declined_charge_is_told_again_under_its_key_and_not_tried_again() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.card(account, Manner.DECLINES)
    for _ in range(2):
        answer = await refused(shop.credits.charge(account, usd("20"), None, key="k"))
        assert answer.code is Code.PAYMENT_FAILED
    await shop.card(account)
    answer = await refused(shop.credits.charge(account, usd("20"), None, key="k"))
    assert answer.code is Code.PAYMENT_FAILED, "another card is another purchase"
    assert shop.processor.charges == 0


async def test_nobody_pays_with_or_sees_what_is_anothers() -> None:
    shop = a_shop()
    account, other = await shop.account(), await shop.account()
    card = await shop.card(other)
    answer = await refused(shop.credits.charge(account, usd("20"), card))
    assert answer.code is Code.NOT_FOUND
    known, _ = await shop.bought(other, usd("5"))
    for order in (known.order.id, new_id(), "x", "", "'; --"):
        assert (await refused(shop.credits.returned(account, order))).code is Code.NOT_FOUND
    assert (await refused(shop.till.choose(account, card))).code is Code.NOT_FOUND
    assert (await refused(shop.till.remove(account, card))).code is Code.NOT_FOUND
    assert await shop.till.cards(account) == ()
    assert await shop.till.invoices(account) == ()
    assert shop.processor.charges == 1


async def test_cards_are_left_chosen_and_removed() -> None:
    shop = a_shop()
    account = await shop.account()
    page = await shop.till.setup(account)
    assert page.url
    first = shop.processor.leave_card(page.id)
    second = shop.processor.leave_card((await shop.till.setup(account)).id)
    assert {card.id for card in await shop.till.cards(account)} == {first, second}
    (default, _) = await shop.till.choose(account, first)
    assert (default.id, default.is_default) == (first, True)
    (left,) = await shop.till.remove(account, first)
    assert left.id == second


async def test_invoices_are_those_of_the_processor() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.bought(account, usd("5"))
    (invoice,) = await shop.till.invoices(account)
    assert (invoice.amount, invoice.status) == (usd("5"), "paid")
    assert invoice.page_url


@pytest.mark.parametrize("amount", ["0", "-5", "4.99", "5.001", "10000.01"])
async def test_an_amount_that_is_not_sold_makes_no_order(amount: str) -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.card(account)
    for work in (
        shop.credits.buy(account, usd(amount)),
        shop.credits.charge(account, usd(amount), None),
    ):
        assert (await refused(work)).param == "amount"
    assert await shop.orders.take_waiting(10) == []


async def test_a_processor_that_is_away_is_a_refusal_and_not_a_failure() -> None:
    shop = a_shop()
    account = await shop.account()
    shop.processor.go_down()
    answer = await refused(shop.credits.buy(account, usd("5")))
    assert (answer.code, answer.charged) == (Code.PROCESSOR_UNAVAILABLE, False)
    shop.processor.go_down()
    assert (await refused(shop.till.setup(account))).code is Code.PROCESSOR_UNAVAILABLE


async def test_one_payment_that_cannot_be_booked_does_not_keep_the_others_from_it() -> None:
    shop = a_shop()
    account = await shop.account()
    _, bad = await shop.bought(account, usd("5"))
    await shop.bought(account, usd("20"))

    class Biting(MemoryOrders):
        async def book(self, ruling: Ruling, event_id: str | None = None) -> Any:
            if ruling.payment.id == bad:
                raise RuntimeError("a mistake of ours")
            return await super().book(ruling, event_id)

    orders = shop.orders
    shop.credits._orders = Biting(orders._till)
    with pytest.raises(ExceptionGroup, match="could not be done"):
        await shop.credits.reconcile()
    assert (await shop.balance(account)).paid == usd("20")
    assert await shop.notices.last_round() is None, "the next round looks as far back"
    shop.credits._orders = orders
    await shop.credits.reconcile()
    assert (await shop.balance(account)).paid == usd("25")
    assert await shop.notices.last_round() == shop.clock.now()


async def test_one_payment_that_cannot_be_read_does_not_keep_the_others_from_it() -> None:
    shop = a_shop()
    account = await shop.account()
    known, odd = await shop.bought(account, usd("5"))
    shop.processor.garble(odd)
    await shop.bought(account, usd("20"))
    for _ in range(2):
        with pytest.raises(ExceptionGroup, match="could not be done"):
            await shop.credits.reconcile()
    assert (await shop.balance(account)).paid == usd("20")
    assert len(shop.alerts.unread) == 2, "once a round, though it is met as an order's as well"
    assert all(odd in told for told in shop.alerts.unread)
    assert await shop.notices.last_round() is None, "the next round looks as far back"
    answer = await refused(shop.credits.returned(account, known.order.id))
    assert (answer.code, answer.charged) == (Code.PROCESSOR_UNAVAILABLE, None)
    await shop.deliver_all()
    assert {event.payment_id for event in await shop.notices.waiting()} == {odd}, "kept, no error"
    shop.processor.mend(odd)
    await shop.credits.reconcile()
    assert (await shop.balance(account)).paid == usd("25")
    assert await shop.notices.waiting() == []
    assert await shop.notices.last_round() == shop.clock.now()


async def test_what_was_charged_is_told_under_its_key_whoever_is_away_and_whatever_is_gone() -> (
    None
):
    shop = a_shop()
    account = await shop.account()
    await shop.card(account)
    first = await shop.credits.charge(account, usd("20"), None, "key")
    (card,) = await shop.till.cards(account)
    await shop.till.remove(account, card.id)
    shop.processor.go_down()
    assert await shop.credits.charge(account, usd("20"), card.id, "key") == first
    assert shop.processor.charges == 1


async def test_what_was_declined_is_told_under_its_key_and_nobody_is_asked() -> None:
    shop = a_shop()
    account = await shop.account()
    card = await shop.card(account, Manner.DECLINES)
    first = await refused(shop.credits.charge(account, usd("20"), card, "key"))
    await shop.till.remove(account, card)
    shop.processor.go_down()
    again = await refused(shop.credits.charge(account, usd("20"), card, "key"))
    assert (again.code, again.message) == (Code.PAYMENT_FAILED, first.message)


@pytest.mark.parametrize("after_acting", [False, True])
async def test_a_lost_charge_whose_card_is_gone_is_not_called_uncharged(after_acting: bool) -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.card(account)
    real = shop.processor.charge

    async def lost(*given: Any) -> Any:
        shop.processor.go_down(after_acting=after_acting)
        return await real(*given)

    shop.credits._processor = _With(shop.processor, charge=lost)
    await refused(shop.credits.charge(account, usd("20"), None, "key"))
    (card,) = await shop.till.cards(account)
    await shop.till.remove(account, card.id)
    answer = await refused(shop.credits.charge(account, usd("20"), None, "key"))
    assert (answer.code, answer.charged) == (Code.PROCESSOR_UNAVAILABLE, None)
    other = await refused(shop.credits.charge(account, usd("20"), None, "another key"))
    assert (other.code, other.charged) == (Code.NOT_FOUND, False)


async def test_two_payments_of_one_order_credit_it_once_and_the_other_is_listed() -> None:
    shop = a_shop()
    account = await shop.account()
    known, first = await shop.bought(account, usd("20"))
    _, second = await shop.bought(account, usd("20"))
    shop.processor.change(second, order_id=known.order.id)
    payments = [await shop.processor.payment(id) for id in (first, second)]
    seen = await shop.orders.order(known.order.id)

    class Late(MemoryOrders):
        """Saw the order before the other payment had credited it."""

        late = True

        async def order(self, order_id: str) -> Any:
            if self.late:
                return seen
            return await super().order(order_id)

        async def book(self, ruling: Ruling, event_id: str | None = None) -> Any:
            try:
                return await super().book(ruling, event_id)
            except NotBooked:
                self.late = False
                raise

    shop.credits._orders = Late(shop.orders._till)
    for payment in payments:
        assert payment is not None
        await shop.credits.apply(payment)
    assert (await shop.balance(account)).paid == usd("20")
    (found,) = await shop.credits.uncredited()
    assert first in found.refusal


def test_back_from_the_processors_page_a_buyer_comes_to_the_order() -> None:
    shop = a_shop()
    assert shop.till.back_url == BACK


# Whatever comes in whatever order

LIVES = st.lists(st.sampled_from(["refund some", "refund the rest", "dispute", "win"]), max_size=4)
DELIVERIES = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(["deliver", "deliver", "lose", "round"])),
    max_size=40,
)


def live(shop: Shop, payment: str, life: list[str]) -> None:
    """What happens to a payment at the processor; every step leaves notices."""
    disputes: list[str] = []
    left = usd("20")
    for step in life:
        if step == "win":
            if disputes:
                shop.processor.reinstate(disputes.pop())
        elif disputes or left == 0:
            continue
        elif step == "refund some":
            shop.processor.refund(payment, min(left, usd("5")))
            left = type(left)(left - min(left, usd("5")))
        elif step == "refund the rest":
            shop.processor.refund(payment)
            left = ZERO
        else:
            disputes.append(shop.processor.dispute(payment, left))


async def play(
    shop: Shop, life: list[str], deliveries: list[tuple[int, str]], every: bool
) -> tuple[int, int, int]:
    """A purchase whose notices come as they will, and a last round if some were lost."""
    account = await shop.account(usd("0.5"))
    _, payment = await shop.bought(account, usd("20"))
    live(shop, payment, life)
    notices = [*shop.processor.notices]
    for which, what in deliveries:
        if what == "deliver":
            await shop.deliver(notices[which % len(notices)])
        elif what == "round":
            await shop.credits.reconcile()
    if every:
        for notice in reversed(notices):
            await shop.deliver(notice)
    else:
        await shop.credits.reconcile()
    balance = await shop.balance(account)
    assert (await shop.ledger.health()).sound
    return balance.paid, balance.promo, balance.deposited


def expected(life: list[str]) -> tuple[int, int, int]:
    """From the payment as it stands in the end, and nothing else."""
    shop = a_shop()

    async def end() -> tuple[Reversal, ...]:
        account = await shop.account()
        _, payment = await shop.bought(account, usd("20"))
        live(shop, payment, life)
        found = await shop.processor.payment(payment)
        assert found is not None
        return found.reversals

    gone = sum(back.amount for back in asyncio.run(end()) if not back.reinstated)
    return usd("20") - gone, usd("0.5"), usd("20") - gone


@settings(max_examples=150, deadline=None)
@given(LIVES, DELIVERIES, st.booleans())
def test_every_order_repetition_and_loss_of_notices_ends_in_the_same_balance(
    life: list[str], deliveries: list[tuple[int, str]], every: bool
) -> None:
    event(f"{len(life)} steps")
    assert asyncio.run(play(a_shop(), life, deliveries, every)) == expected(life)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(LIVES, DELIVERIES, st.booleans())
def test_on_postgres_too(
    database_url: str, life: list[str], deliveries: list[tuple[int, str]], every: bool
) -> None:
    async def on_postgres() -> tuple[int, int, int]:
        engine = make_engine(database_url, 5)
        units = PostgresUnits(engine)
        ledger, clock = PostgresLedger(engine, units), SystemClock()
        shop = a_shop_over(
            PostgresAccounts(units),
            ledger,
            PostgresOrders(units),
            PostgresNotices(units),
            PostgresTopUps(units),
            PostgresAlarms(units),
            clock.now,
            clock,
        )
        # Ids of a processor are its own for ever; this one is new in every example.
        shop.processor._made = new_number()
        try:
            return await play(shop, life, deliveries, every)
        finally:
            await ledger.close()
            await units.close()

    assert asyncio.run(on_postgres()) == expected(life)


def new_number() -> int:
    return int(new_id()[:12], 16)


def test_a_shop_in_memory_can_be_looked_into() -> None:
    assert isinstance(a_shop(), MemoryShop)
