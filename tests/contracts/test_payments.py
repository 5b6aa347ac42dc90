"""The contract of a payment processor, on the one in memory and on Stripe's alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pytest
import pytest_asyncio

from adapters.memory.payments import Manner, MemoryPayments
from adapters.payments.stripe import StripePayments
from kyma.money import Usd, usd
from kyma.payments import Event, Order, PaymentState, Source
from kyma.ports.payments import Cards, Payments, ProcessorRefused, ProcessorUnavailable
from tests.builders import new_id
from tests.stripe_server import StripeServer, stripe_server
from tests.stripe_server.errors import ApiError

BACK = "https://kyma.example/billing/back"
FIVE = usd("5")


class Processor(Payments, Cards, Protocol):
    """Both ports; one adapter stands behind them."""


class World(Protocol):
    """The buyer, the bank and the post, whichever processor it is."""

    def card(self, customer: str, kind: str = "success") -> str: ...
    def pay(self, page: str, kind: str = "success") -> None: ...
    def leave_card(self, page: str) -> None: ...
    def expire(self, page: str) -> None: ...
    def settle(self, payment: str, *, paid: bool) -> None: ...
    def refund(self, payment: str, credit: Usd | None = None) -> str: ...
    def dispute(self, payment: str) -> str: ...
    def win(self, dispute: str) -> None: ...
    def notices(self) -> list[tuple[bytes, str]]: ...
    def pass_time(self, seconds: int) -> None: ...
    def times_charged(self) -> int: ...
    def delete_customer(self, customer: str) -> None: ...
    def confirm(self, payment: str, *, agreed: bool = True) -> None: ...


@dataclass
class Shop:
    payments: Processor
    world: World

    async def customer(self, account_id: str = "") -> str:
        return await self.payments.customer(account_id or new_id(), "ada@example.com")

    async def bought(self, order: Order) -> str:
        """An order paid on a page; the payment's id."""
        customer = await self.customer(order.account_id)
        page = await self.payments.checkout(order, customer, BACK)
        self.world.pay(page.id)
        payment = await self.payments.payment(page.id)
        assert payment is not None
        return payment.id


MANNERS = {
    "success": Manner.PAYS,
    "declined": Manner.DECLINES,
    "requires_authentication": Manner.WANTS_OWNER,
    "slow": Manner.SLOW,
}


class MemoryWorld:
    def __init__(self) -> None:
        self._shift = timedelta()
        self.payments = MemoryPayments(self.now)
        self._sent = 0

    def now(self) -> datetime:
        return datetime.now(UTC) + self._shift

    def card(self, customer: str, kind: str = "success") -> str:
        return self.payments.add_card(customer, MANNERS[kind])

    def pay(self, page: str, kind: str = "success") -> None:
        self.payments.pay(page, manner=MANNERS[kind])

    def leave_card(self, page: str) -> None:
        self.payments.leave_card(page)

    def expire(self, page: str) -> None:
        self.payments.expire(page)

    def settle(self, payment: str, *, paid: bool) -> None:
        self.payments.settle(payment, paid)

    def refund(self, payment: str, credit: Usd | None = None) -> str:
        return self.payments.refund(payment, credit)

    def dispute(self, payment: str) -> str:
        return self.payments.dispute(payment)

    def win(self, dispute: str) -> None:
        self.payments.reinstate(dispute)

    def notices(self) -> list[tuple[bytes, str]]:
        fresh = self.payments.notices[self._sent :]
        self._sent = len(self.payments.notices)
        return [(notice.raw, notice.signature) for notice in fresh]

    def pass_time(self, seconds: int) -> None:
        self._shift += timedelta(seconds=seconds)

    def times_charged(self) -> int:
        return self.payments.charges

    def delete_customer(self, customer: str) -> None:
        self.payments.delete_customer(customer)

    def confirm(self, payment: str, *, agreed: bool = True) -> None:
        self.payments.settle(payment, agreed)


class StripeWorld:
    def __init__(self, server: StripeServer) -> None:
        self._server = server

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._server.world.shift_s)

    def card(self, customer: str, kind: str = "success") -> str:
        return self._server.card(customer, kind)

    def pay(self, page: str, kind: str = "success") -> None:
        late = self._server.world.get("checkout.session", page)["status"] == "expired"
        try:
            self._server.pay(page, kind, late=late)
        except ApiError as error:
            if error.status != 402:
                raise

    def leave_card(self, page: str) -> None:
        self._server.pay(page)

    def expire(self, page: str) -> None:
        self._server.expire(page)

    def settle(self, payment: str, *, paid: bool) -> None:
        self._server.settle(payment, paid=paid)

    def refund(self, payment: str, credit: Usd | None = None) -> str:
        return self._server.refund(payment, None if credit is None else credit // 10_000_000)

    def dispute(self, payment: str) -> str:
        return self._server.dispute(payment)

    def win(self, dispute: str) -> None:
        self._server.end_dispute(dispute, "won")

    def notices(self) -> list[tuple[bytes, str]]:
        return [self._server.signed(event) for event in self._server.events()]

    def pass_time(self, seconds: int) -> None:
        self._server.pass_time(seconds)

    def times_charged(self) -> int:
        return len(self._server.world.newest("charge"))

    def delete_customer(self, customer: str) -> None:
        self._server.delete_customer(customer)

    def confirm(self, payment: str, *, agreed: bool = True) -> None:
        self._server.authenticate(payment, agreed=agreed)


@pytest.fixture
def memory_shop() -> Shop:
    world = MemoryWorld()
    return Shop(world.payments, world)


@pytest_asyncio.fixture
async def stripe_shop() -> AsyncIterator[Shop]:
    async with stripe_server() as server:
        world = StripeWorld(server)
        payments = StripePayments(
            server.secret_key, server.webhook_secret, now=world.now, api_base=server.url
        )
        yield Shop(payments, world)
        await payments.close()


@pytest.fixture(params=["memory", "stripe"])
def shop(request: pytest.FixtureRequest) -> Shop:
    found: Shop = request.getfixturevalue(f"{request.param}_shop")
    return found


def an_order(amount: Usd = FIVE, source: Source = Source.CHECKOUT) -> Order:
    return Order(new_id(), new_id(), amount, source, datetime.now(UTC))


def by_card(order: Order) -> Order:
    return replace(order, source=Source.CARD)


async def told(shop: Shop) -> list[Event]:
    found = [shop.payments.event(raw, signature) for raw, signature in shop.world.notices()]
    assert all(found)
    return [event for event in found if event is not None]


async def test_an_account_is_one_customer(shop: Shop) -> None:
    account = new_id()
    first = await shop.customer(account)
    assert await shop.customer(account) == first
    assert await shop.customer() != first


async def test_a_customer_who_was_deleted_is_made_anew_once(shop: Shop) -> None:
    account, address = new_id(), "ada@example.com"
    first = await shop.customer(account)
    assert await shop.payments.customer(account, address, first) == first
    shop.world.card(first)
    shop.world.delete_customer(first)
    assert await shop.payments.cards(first) == []
    assert await shop.payments.invoices(first) == []
    made = await asyncio.gather(
        *(shop.payments.customer(account, address, first) for _ in range(2))
    )
    assert made[0] == made[1] != first
    assert await shop.payments.customer(account, address, made[0]) == made[0]
    shop.world.delete_customer(made[0])
    third = await shop.payments.customer(account, address, made[0])
    assert third not in {first, made[0]}
    order = replace(an_order(), account_id=account)
    with pytest.raises(ProcessorRefused):
        await shop.payments.checkout(order, first, BACK)
    assert (await shop.payments.checkout(replace(order, id=new_id()), third, BACK)).url


async def test_an_order_paid_on_a_page_is_bound_to_it(shop: Shop) -> None:
    order = an_order(usd("12.34"))
    customer = await shop.customer(order.account_id)
    page = await shop.payments.checkout(order, customer, BACK)
    assert page.url.startswith("http")
    assert page.expires_at > datetime.now(UTC) + timedelta(minutes=29)
    assert await shop.payments.payment(page.id) is None
    shop.world.pay(page.id)
    paid = await shop.payments.payment(page.id)
    assert paid is not None
    assert (paid.order_id, paid.account_id, paid.customer) == (order.id, order.account_id, customer)
    assert (paid.amount, paid.currency, paid.state) == (order.amount, "usd", PaymentState.PAID)
    assert (paid.tax, paid.reversals) == (0, ())
    assert paid.card == "visa 4242"
    assert paid.receipt_url is not None
    assert paid.invoice_url is not None
    assert await shop.payments.payment(paid.id) == paid


async def test_one_order_has_one_page(shop: Shop) -> None:
    order = an_order()
    customer = await shop.customer(order.account_id)
    first = await shop.payments.checkout(order, customer, BACK)
    assert await shop.payments.checkout(order, customer, BACK) == first
    with pytest.raises(ProcessorUnavailable):
        await shop.payments.checkout(order, customer, "https://elsewhere.example")


@pytest.mark.parametrize("nanos", [0, -5_000_000_000, 5_000_000_001, 4_999_999])
async def test_only_whole_cents_are_asked_for(shop: Shop, nanos: int) -> None:
    order = an_order(Usd(nanos))
    customer = await shop.customer(order.account_id)
    with pytest.raises(ProcessorRefused):
        await shop.payments.checkout(order, customer, BACK)
    with pytest.raises(ProcessorRefused):
        await shop.payments.charge(by_card(order), customer, shop.world.card(customer))
    assert shop.world.times_charged() == 0


async def test_an_order_that_is_a_day_old_is_not_sent(shop: Shop) -> None:
    """By then the processor may have forgotten that it had it already."""
    order = replace(an_order(), created_at=datetime.now(UTC) - timedelta(hours=23, minutes=1))
    customer = await shop.customer(order.account_id)
    with pytest.raises(ProcessorRefused, match="old"):
        await shop.payments.checkout(order, customer, BACK)
    with pytest.raises(ProcessorRefused, match="old"):
        await shop.payments.charge(by_card(order), customer, shop.world.card(customer))


async def test_a_declined_card_leaves_an_open_page_open(shop: Shop) -> None:
    order = an_order()
    page = await shop.payments.checkout(order, await shop.customer(order.account_id), BACK)
    shop.world.pay(page.id, "declined")
    tried = await shop.payments.payment(page.id)
    assert tried is not None
    assert (tried.state, tried.message) == (PaymentState.PENDING, "Your card was declined.")
    shop.world.pay(page.id)
    paid = await shop.payments.payment(tried.id)
    assert paid is not None
    assert (paid.id, paid.state, paid.message) == (tried.id, PaymentState.PAID, "")


async def test_a_declined_card_has_failed_when_its_page_expires(shop: Shop) -> None:
    order = an_order()
    page = await shop.payments.checkout(order, await shop.customer(order.account_id), BACK)
    shop.world.pay(page.id, "declined")
    shop.world.expire(page.id)
    failed = await shop.payments.payment(page.id)
    assert failed is not None
    assert failed.state is PaymentState.FAILED


async def test_a_page_that_expired_may_still_be_paid(shop: Shop) -> None:
    order = an_order()
    page = await shop.payments.checkout(order, await shop.customer(order.account_id), BACK)
    shop.world.expire(page.id)
    assert await shop.payments.payment(page.id) is None
    shop.world.pay(page.id)
    paid = await shop.payments.payment(page.id)
    assert paid is not None
    assert (paid.state, paid.order_id) == (PaymentState.PAID, order.id)


async def test_a_saved_card_pays_an_order_once_however_often_it_is_asked(shop: Shop) -> None:
    order = by_card(an_order(usd("20")))
    customer = await shop.customer(order.account_id)
    card = shop.world.card(customer)
    first = await shop.payments.charge(order, customer, card)
    assert (first.state, first.amount, first.order_id) == (
        PaymentState.PAID,
        order.amount,
        order.id,
    )
    again = await asyncio.gather(*(shop.payments.charge(order, customer, card) for _ in range(3)))
    assert again == [first] * 3
    assert shop.world.times_charged() == 1


async def test_two_processes_that_charge_together_charge_once(shop: Shop) -> None:
    order = by_card(an_order())
    customer = await shop.customer(order.account_id)
    card = shop.world.card(customer)
    both = await asyncio.gather(*(shop.payments.charge(order, customer, card) for _ in range(2)))
    assert both[0] == both[1]
    assert shop.world.times_charged() == 1


async def test_a_declined_card_is_a_failed_payment_and_stays_one(shop: Shop) -> None:
    order = by_card(an_order())
    customer = await shop.customer(order.account_id)
    card = shop.world.card(customer, "declined")
    failed = await shop.payments.charge(order, customer, card)
    assert (failed.state, failed.message) == (PaymentState.FAILED, "Your card was declined.")
    assert await shop.payments.charge(order, customer, card) == failed


async def test_a_card_whose_bank_wants_its_owner_pays_nothing(shop: Shop) -> None:
    order = by_card(an_order())
    customer = await shop.customer(order.account_id)
    card = shop.world.card(customer, "requires_authentication")
    waiting = await shop.payments.charge(order, customer, card)
    assert waiting.state is PaymentState.NEEDS_ACTION
    assert waiting.message


@pytest.mark.parametrize("agreed", [True, False])
async def test_an_owner_who_is_there_is_sent_to_the_bank_and_pays_the_same_payment(
    shop: Shop, agreed: bool
) -> None:
    order = by_card(an_order())
    customer = await shop.customer(order.account_id)
    card = shop.world.card(customer, "requires_authentication")
    waiting = await shop.payments.charge(order, customer, card, BACK)
    assert waiting.state is PaymentState.NEEDS_ACTION
    assert (waiting.action_url or "").startswith("http")
    assert await shop.payments.charge(order, customer, card, BACK) == waiting
    shop.world.confirm(waiting.id, agreed=agreed)
    ended = await shop.payments.payment(waiting.id)
    assert ended is not None
    assert ended.state is (PaymentState.PAID if agreed else PaymentState.FAILED)
    assert (ended.id, ended.action_url) == (waiting.id, None)


@pytest.mark.parametrize("away", [True, False])
async def test_a_card_that_just_pays_does_so_whether_its_owner_is_there(
    shop: Shop, away: bool
) -> None:
    order = by_card(an_order())
    customer = await shop.customer(order.account_id)
    card = shop.world.card(customer)
    paid = await shop.payments.charge(order, customer, card, *([] if away else [BACK]))
    assert paid.state is PaymentState.PAID


@pytest.mark.parametrize("kind", ["requires_authentication", "declined"])
async def test_a_payment_that_waits_can_be_given_up_for_good(shop: Shop, kind: str) -> None:
    order = by_card(an_order())
    customer = await shop.customer(order.account_id)
    card = shop.world.card(customer, kind)
    waiting = await shop.payments.charge(order, customer, card)
    for _ in range(2):
        ended = await shop.payments.cancel(waiting.id)
        assert ended is not None
        assert (ended.id, ended.state) == (waiting.id, PaymentState.CANCELED)
    assert await shop.payments.payment(waiting.id) == ended


@pytest.mark.parametrize(
    ("kind", "state"), [("success", PaymentState.PAID), ("slow", PaymentState.PENDING)]
)
async def test_what_is_paid_or_under_way_cannot_be_given_up(
    shop: Shop, kind: str, state: PaymentState
) -> None:
    order = by_card(an_order())
    customer = await shop.customer(order.account_id)
    paid = await shop.payments.charge(order, customer, shop.world.card(customer, kind))
    assert paid.state is state
    assert await shop.payments.cancel(paid.id) == paid


@pytest.mark.parametrize("id", ["", "pi_none", "cs_none", "../charges"])
async def test_what_is_not_there_is_not_given_up(shop: Shop, id: str) -> None:
    assert await shop.payments.cancel(id) is None


async def test_a_payment_may_take_its_time(shop: Shop) -> None:
    for paid, state in ((True, PaymentState.PAID), (False, PaymentState.FAILED)):
        order = by_card(an_order())
        customer = await shop.customer(order.account_id)
        card = shop.world.card(customer, "slow")
        pending = await shop.payments.charge(order, customer, card)
        assert pending.state is PaymentState.PENDING
        shop.world.settle(pending.id, paid=paid)
        ended = await shop.payments.payment(pending.id)
        assert ended is not None
        assert ended.state is state
        assert await shop.payments.charge(order, customer, card) == ended


async def test_another_customers_card_is_refused(shop: Shop) -> None:
    order = by_card(an_order())
    customer = await shop.customer(order.account_id)
    other = shop.world.card(await shop.customer())
    for card in (other, "pm_nothing", "../customers"):
        with pytest.raises(ProcessorRefused):
            await shop.payments.charge(order, customer, card)
    assert shop.world.times_charged() == 0


async def test_what_is_refunded_is_a_reversal_of_its_own(shop: Shop) -> None:
    id = await shop.bought(an_order(usd("20")))
    first = shop.world.refund(id, usd("7.25"))
    rest = shop.world.refund(id)
    payment = await shop.payments.payment(id)
    assert payment is not None
    assert payment.state is PaymentState.PAID
    assert {back.id: back.amount for back in payment.reversals} == {
        first: usd("7.25"),
        rest: usd("12.75"),
    }
    assert not any(back.is_dispute or back.reinstated for back in payment.reversals)


async def test_a_dispute_is_a_reversal_until_it_is_won(shop: Shop) -> None:
    id = await shop.bought(an_order(usd("20")))
    dispute = shop.world.dispute(id)
    payment = await shop.payments.payment(id)
    assert payment is not None
    (back,) = payment.reversals
    assert (back.id, back.amount, back.is_dispute, back.reinstated) == (
        dispute,
        usd("20"),
        True,
        False,
    )
    shop.world.win(dispute)
    payment = await shop.payments.payment(id)
    assert payment is not None
    assert payment.reversals == (replace(back, reinstated=True),)


@pytest.mark.parametrize("id", ["", "pi_none", "cs_none", "cs_test_none", "../v1/charges", "pi_é"])
async def test_what_is_not_there_is_nothing(shop: Shop, id: str) -> None:
    assert await shop.payments.payment(id) is None


async def test_what_changed_since_is_found(shop: Shop) -> None:
    old = await shop.bought(an_order())
    quiet = await shop.bought(an_order())
    shop.world.pass_time(3_600)
    since = datetime.now(UTC) + timedelta(seconds=3_590)
    shop.world.refund(old)
    new = await shop.bought(an_order())
    assert sorted([id async for id in shop.payments.changed_since(since)]) == sorted([old, new])
    found = await shop.payments.payment(old)
    assert found is not None
    assert len(found.reversals) == 1
    everything = datetime.now(UTC) - timedelta(hours=1)
    assert {id async for id in shop.payments.changed_since(everything)} == {old, quiet, new}


async def test_a_dispute_of_an_old_payment_is_found(shop: Shop) -> None:
    id = await shop.bought(an_order())
    dispute = shop.world.dispute(id)
    shop.world.pass_time(86_400)
    shop.world.win(dispute)
    since = datetime.now(UTC) + timedelta(seconds=86_390)
    assert [id async for id in shop.payments.changed_since(since)] == [id]
    found = await shop.payments.payment(id)
    assert found is not None
    assert found.reversals[0].reinstated


async def test_the_payment_of_an_order_is_found_by_the_order_it_names(shop: Shop) -> None:
    order, other = an_order(), an_order()
    customer = await shop.customer(order.account_id)
    card = shop.world.card(customer)
    assert await shop.payments.payment_of(order, customer) is None
    made = await shop.payments.charge(order, customer, card)
    again = replace(order, id=new_id())
    await shop.payments.charge(again, customer, card)
    shop.world.pass_time(86_400)
    assert await shop.payments.payment_of(order, customer) == made
    found = await shop.payments.payment_of(again, customer)
    assert found is not None
    assert found.order_id == again.id
    assert await shop.payments.payment_of(other, customer) is None
    assert await shop.payments.payment_of(order, await shop.customer()) is None


async def test_a_bill_is_there_after_a_purchase(shop: Shop) -> None:
    order = an_order(usd("20"))
    assert await shop.payments.invoices(await shop.customer(order.account_id)) == []
    await shop.bought(order)
    second = replace(order, id=new_id(), amount=usd("5"))
    await shop.bought(second)
    newest, oldest = await shop.payments.invoices(await shop.customer(order.account_id))
    assert (newest.amount, oldest.amount) == (usd("5"), usd("20"))
    assert (oldest.tax, oldest.currency, oldest.status) == (0, "usd", "paid")
    assert oldest.number != newest.number
    assert oldest.page_url
    assert oldest.pdf_url
    assert await shop.payments.invoices(await shop.customer()) == []


async def test_cards_are_left_on_a_page_chosen_and_removed(shop: Shop) -> None:
    customer = await shop.customer()
    assert await shop.payments.cards(customer) == []
    for _ in range(2):
        page = await shop.payments.setup(customer, BACK)
        assert await shop.payments.payment(page.id) is None
        shop.world.leave_card(page.id)
    newest, oldest = await shop.payments.cards(customer)
    assert (newest.is_default, oldest.is_default) == (True, False)
    assert (newest.brand, newest.last4, newest.expires) == ("visa", "4242", "12/2034")
    assert await shop.payments.choose(customer, oldest.id)
    assert [card.id for card in await shop.payments.cards(customer)] == [oldest.id, newest.id]
    assert await shop.payments.remove(customer, oldest.id)
    assert await shop.payments.cards(customer) == [newest]
    assert not await shop.payments.remove(customer, oldest.id)
    assert not await shop.payments.choose(customer, oldest.id)


async def test_nobody_touches_another_customers_card(shop: Shop) -> None:
    mine, theirs = await shop.customer(), await shop.customer()
    card = shop.world.card(theirs)
    for id in (card, "pm_none", "../../customers"):
        assert not await shop.payments.choose(mine, id)
        assert not await shop.payments.remove(mine, id)
    assert [kept.id for kept in await shop.payments.cards(theirs)] == [card]


async def test_a_removed_card_pays_nothing(shop: Shop) -> None:
    order = by_card(an_order())
    customer = await shop.customer(order.account_id)
    card = shop.world.card(customer)
    await shop.payments.remove(customer, card)
    with pytest.raises(ProcessorRefused):
        await shop.payments.charge(order, customer, card)
    assert shop.world.times_charged() == 0


async def test_notices_lead_to_the_payment_and_to_its_page(shop: Shop) -> None:
    order = an_order()
    page = await shop.payments.checkout(order, await shop.customer(order.account_id), BACK)
    shop.world.pay(page.id)
    payment = await shop.payments.payment(page.id)
    assert payment is not None
    shop.world.notices()
    shop.world.refund(payment.id, usd("1"))
    shop.world.dispute(payment.id)
    events = await told(shop)
    assert {event.payment_id for event in events} == {payment.id}
    assert len({event.id for event in events}) == len(events)
    assert all(abs(event.created_at - datetime.now(UTC)) < timedelta(minutes=1) for event in events)


async def test_a_notice_of_a_page_names_it(shop: Shop) -> None:
    order = an_order()
    page = await shop.payments.checkout(order, await shop.customer(order.account_id), BACK)
    shop.world.notices()
    shop.world.pay(page.id)
    events = await told(shop)
    payment = await shop.payments.payment(page.id)
    assert payment is not None
    assert {event.checkout_id for event in events} == {None, page.id}
    assert {event.payment_id for event in events} - {None} == {payment.id}


async def test_a_forged_old_or_damaged_notice_is_none(shop: Shop) -> None:
    await shop.bought(an_order())
    *_, (raw, signature) = shop.world.notices()
    assert shop.payments.event(raw, signature) is not None
    changed = raw.replace(b"evt_", b"evx_")
    assert changed != raw
    damaged = [
        (changed, signature),
        (raw[:-1], signature),
        (raw + b" ", signature),
        (b"", signature),
        (b"\xff\xfe", signature),
        (raw, ""),
        (raw, signature[:-1]),
        (raw, "t=1,v1=é"),
        (raw, "t=,v1="),
        (raw, "t=99999999999999999999,v1=00"),
    ]
    assert [shop.payments.event(*notice) for notice in damaged] == [None] * len(damaged)
