"""Cards charged unasked: once per crossing, within the ceiling, and not for ever in vain."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from adapters.memory.payments import Manner
from kyma.errors import Code, Refusal
from kyma.ledger import Kind, Outcome, Resolution
from kyma.mail import Letter
from kyma.money import Usd, usd
from kyma.orders import OrderState
from kyma.payments import Order, PaymentState, Source
from kyma.ports.payments import ProcessorRefused, ProcessorUnavailable
from kyma.ports.storage import StorageUnavailable
from kyma.topups import LONG, PAUSES, RESUME_AFTER, RESUME_AT_MOST, TopUp
from tests.builders import new_id
from tests.flows.selling import MemoryShop, a_shop


async def a_customer(shop: MemoryShop, *manner: Any, **changes: Any) -> str:
    """With a saved card, $3 left, and a top-up of $20 below $5."""
    account = await shop.account()
    await shop.card(account, *manner)
    await shop.ledger.deposit(new_id(), account, usd("3"), "before")
    setting = TopUp(account, True, usd("5"), usd("20"), usd("100"))
    await shop.choose(replace(setting, **changes))
    return account


async def setting_of(shop: MemoryShop, account: str) -> TopUp:
    found, _ = await shop.auto.setting(account)
    assert found is not None
    return found


def orders(shop: MemoryShop) -> list[Any]:
    found = shop.orders._till.orders.values()
    return [known for known in found if known.order.source is Source.AUTO_TOP_UP]


async def test_a_balance_below_the_threshold_is_topped_up_once() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    assert await shop.auto.run() == 1
    assert (await shop.balance(account)).paid == usd("23")
    assert await shop.auto.run() == 0
    assert shop.processor.charges == 1
    _, charged = await shop.auto.setting(account)
    assert charged == usd("20")
    assert len(shop.letters(Letter.RECEIPT)) == 1


@pytest.mark.parametrize(
    "changes", [{"enabled": False}, {"threshold": usd("3")}, {"threshold": usd("2.99")}]
)
async def test_nobody_is_charged_who_did_not_ask_for_it(changes: dict[str, Any]) -> None:
    shop = a_shop()
    await a_customer(shop, **changes)
    assert await shop.auto.run() == 0
    assert shop.processor.charges == 0


async def test_two_processes_that_see_the_threshold_crossed_together_charge_once() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    shop.processor.pause()
    runs = [asyncio.create_task(shop.auto.run()) for _ in range(5)]
    for _ in range(20):
        await asyncio.sleep(0)
    shop.processor.resume()
    assert sum(await asyncio.gather(*runs)) == 1
    assert shop.processor.charges == 1
    assert (await shop.balance(account)).paid == usd("23")


async def test_the_ceiling_of_a_calendar_month_holds_and_ends_with_it() -> None:
    shop = a_shop()
    account = await a_customer(shop, monthly_ceiling=usd("45"))
    for _ in range(4):
        await shop.auto.run()
        await shop.spend(account, (await shop.balance(account)).available)
    assert shop.processor.charges == 2
    assert len(orders(shop)) == 2
    shop.clock.move(timedelta(days=14, hours=11, minutes=59).total_seconds())
    await shop.auto.run()
    assert shop.processor.charges == 2, f"it is still {shop.clock.now():%B}"
    shop.clock.move(60)
    await shop.auto.run()
    assert shop.processor.charges == 3, f"it is {shop.clock.now():%B}"


async def test_the_ceiling_is_of_what_the_card_pays_taxes_included() -> None:
    shop = a_shop()
    shop.processor.tax_percent = 20
    account = await a_customer(shop, monthly_ceiling=usd("47.99"))
    for _ in range(4):
        await shop.auto.run()
        await shop.spend(account, (await shop.balance(account)).available)
    assert shop.processor.charges == 1, "two would be $48"
    _, charged = await shop.auto.setting(account)
    assert charged == usd("24")
    await shop.choose(replace(await setting_of(shop, account), monthly_ceiling=usd("48")))
    await shop.auto.run()
    assert shop.processor.charges == 2
    assert (await shop.balance(account)).paid == usd("20")


async def test_taxes_that_rise_are_within_the_ceiling_and_are_not_asked_for_all_day() -> None:
    shop = a_shop()
    account = await a_customer(shop, monthly_ceiling=usd("20"))
    shop.processor.tax_percent = 10
    assert [await shop.auto.run() for _ in range(5)] == [0] * 5
    assert shop.processor.charges == 0
    assert shop.processor.reckoned == 1, "what it came to is remembered"
    assert (await setting_of(shop, account)).tax == usd("2")


async def test_taxes_that_rise_above_the_ceiling_are_said_by_message_and_one_letter() -> None:
    shop = a_shop()
    account = await a_customer(shop, monthly_ceiling=usd("20"))
    shop.processor.tax_percent = 10
    for _ in range(100):
        await shop.auto.run()
        shop.clock.move(timedelta(days=1).total_seconds())
    assert shop.processor.reckoned == 4, "in May, June, July and August"
    found = await setting_of(shop, account)
    assert (found.enabled, found.failures, shop.processor.charges) == (True, 0, 0)
    assert "its taxes (2) are more than `monthly_ceiling` (20)" in found.message
    (mail,) = shop.letters(Letter.AUTO_TOP_UP_FAILED)
    assert (mail.facts["amount"], mail.facts["next_try"]) == ("20", "in the next month")
    assert "$2" in mail.facts["reason"]
    assert "$20" in mail.facts["reason"]


async def test_a_process_that_dies_after_it_wrote_of_taxes_has_it_written_once() -> None:
    shop = a_shop()
    account = await a_customer(shop, monthly_ceiling=usd("20"))
    shop.processor.tax_percent = 10

    class Falling(Through):
        async def claim(self, *_: Any) -> bool:
            raise StorageUnavailable("gone")

    shop.auto._topups = Falling(shop.topups)
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            await shop.auto.run()
    shop.auto._topups = shop.topups
    await shop.auto.run()
    assert len(shop.letters(Letter.AUTO_TOP_UP_FAILED)) == 1
    assert (await setting_of(shop, account)).message


async def test_nobody_is_written_of_taxes_on_an_amount_that_was_chosen_before() -> None:
    shop = a_shop()
    account = await a_customer(shop, monthly_ceiling=usd("20"))
    due = await shop.topups.due()
    await shop.choose(TopUp(account, True, usd("5"), usd("30"), usd("31")))
    shop.processor.tax_percent = 10

    class Late(Through):
        async def due(self) -> Any:
            return due

    shop.auto._topups = Late(shop.topups)
    assert await shop.auto.run() == 0
    assert not shop.mails.posted


async def test_taxes_that_fall_again_are_found_out_in_the_next_month() -> None:
    shop = a_shop()
    account = await a_customer(shop, monthly_ceiling=usd("20"))
    shop.processor.tax_percent = 10
    await shop.auto.run()
    shop.processor.tax_percent = 0
    found = await setting_of(shop, account)
    assert found.not_before is not None
    shop.clock.move((found.not_before - shop.clock.now()).total_seconds() - 1)
    assert await shop.auto.run() == 0
    shop.clock.move(1)
    assert (shop.clock.now().day, await shop.auto.run()) == (1, 1)
    found = await setting_of(shop, account)
    assert (found.message, found.not_before, found.tax) == ("", None, Usd(0))
    assert (await shop.balance(account)).paid == usd("23")


async def test_who_chooses_a_ceiling_for_the_taxes_is_charged_or_told_again_at_once() -> None:
    shop = a_shop()
    account = await a_customer(shop, monthly_ceiling=usd("20"))
    shop.processor.tax_percent = 10
    await shop.auto.run()
    higher = TopUp(account, True, usd("5"), usd("20"), usd("22"))
    await shop.choose(higher)
    shop.processor.tax_percent = 20
    assert await shop.auto.run() == 0
    assert len(shop.letters(Letter.AUTO_TOP_UP_FAILED)) == 2, "it is another choice"
    await shop.choose(replace(higher, monthly_ceiling=usd("24")))
    assert (await setting_of(shop, account)).message == ""
    assert await shop.auto.run() == 1


async def test_a_charge_that_the_ceiling_has_no_more_room_for_is_no_trouble_to_tell() -> None:
    shop = a_shop()
    account = await a_customer(shop, monthly_ceiling=usd("39"))
    await shop.auto.run()
    await shop.spend(account, usd("23"))
    shop.processor.tax_percent = 10
    for _ in range(3):
        assert await shop.auto.run() == 0
    assert ((await setting_of(shop, account)).message, shop.processor.reckoned) == ("", 0)
    assert not shop.letters(Letter.AUTO_TOP_UP_FAILED)


async def test_a_ceiling_that_one_charge_with_its_taxes_exceeds_is_refused() -> None:
    shop = a_shop()
    shop.processor.tax_percent = 20
    with pytest.raises(Refusal) as refused:
        await a_customer(shop, monthly_ceiling=usd("23.99"))
    assert (refused.value.code, refused.value.param) == (Code.INVALID_VALUE, "monthly_ceiling")
    account = await a_customer(shop, monthly_ceiling=usd("24"))
    assert (await setting_of(shop, account)).tax == usd("4")


async def test_three_failures_in_a_row_switch_it_off_and_say_so_by_one_mail() -> None:
    shop = a_shop()
    account = await a_customer(shop, Manner.DECLINES)
    for failures in (1, 2):
        await shop.auto.run()
        await shop.auto.run()
        found = await setting_of(shop, account)
        assert (found.enabled, found.failures) == (True, failures)
        assert len(orders(shop)) == failures, "it waits before it tries again"
        assert not shop.letters(Letter.AUTO_TOP_UP_FAILED)
        shop.clock.move(PAUSES[failures - 1].total_seconds())
    await shop.auto.run()
    found = await setting_of(shop, account)
    assert not found.enabled
    assert "Your card was declined." in found.message
    (mail,) = shop.letters(Letter.AUTO_TOP_UP_FAILED)
    assert mail.facts["amount"] == "20"
    assert "declined" in mail.facts["reason"]
    shop.clock.move(timedelta(days=1).total_seconds())
    await shop.auto.run()
    assert len(orders(shop)) == 3
    assert shop.processor.charges == 0


async def test_a_success_between_failures_begins_the_count_again() -> None:
    shop = a_shop()
    account = await a_customer(shop, Manner.DECLINES)
    for pause in PAUSES:
        await shop.auto.run()
        shop.clock.move(pause.total_seconds())
    await shop.card(account)
    await shop.auto.run()
    found = await setting_of(shop, account)
    assert (found.enabled, found.failures, found.not_before) == (True, 0, None)


async def test_a_card_whose_bank_wants_its_owner_counts_as_failed_and_may_still_be_paid() -> None:
    shop = a_shop()
    account = await a_customer(shop, Manner.WANTS_OWNER)
    await shop.auto.run()
    (known,) = orders(shop)
    assert known.state is OrderState.FAILED
    assert "confirm" in known.message
    assert (await setting_of(shop, account)).failures == 1
    payment = await shop.processor.payment(known.payment_id)
    assert payment is not None
    assert payment.state is PaymentState.CANCELED, "nobody is asked any more"
    await shop.deliver_all()
    await shop.credits.reconcile()
    assert orders(shop) == [known], "it has ended, whatever is heard of its payment"
    assert await shop.orders.take_waiting(9) == []
    shop.processor.settle(known.payment_id)
    await shop.deliver(shop.processor.notices[-1])
    assert (await shop.balance(account)).paid == usd("23")
    _, charged = await shop.auto.setting(account)
    assert charged == usd("20"), "it counts to the ceiling all the same"


class Through:
    """A processor that does as the one behind it, but for what a subclass says."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


async def test_what_its_owner_confirmed_before_it_was_given_up_is_a_success() -> None:
    shop = a_shop()
    account = await a_customer(shop, Manner.WANTS_OWNER)

    class Quick(Through):
        async def cancel(self, id: str) -> Any:
            self._processor.settle(id)
            return await self._processor.cancel(id)

    shop.auto._processor = Quick(shop.processor)
    await shop.auto.run()
    (known,) = orders(shop)
    assert known.state is OrderState.CREDITED
    assert (await shop.balance(account)).paid == usd("23")
    found = await setting_of(shop, account)
    assert (found.failures, await shop.topups.running()) == (0, [])


async def test_what_its_owner_confirms_while_it_is_given_up_is_waited_for() -> None:
    shop = a_shop()
    account = await a_customer(shop, Manner.WANTS_OWNER)

    class Slow(Through):
        async def cancel(self, id: str) -> Any:
            self._processor.change(id, state=PaymentState.PENDING)
            return await self._processor.cancel(id)

    shop.auto._processor = Slow(shop.processor)
    await shop.auto.run()
    (known,) = orders(shop)
    assert await shop.auto.run() == 0, "its money is on its way"
    assert (await setting_of(shop, account)).failures == 0
    shop.auto._processor = shop.processor
    shop.processor.settle(known.payment_id)
    shop.clock.move(RESUME_AFTER.total_seconds() + 1)
    await shop.auto.run()
    assert (await shop.balance(account)).paid == usd("23")
    assert ((await setting_of(shop, account)).failures, await shop.topups.running()) == (0, [])


async def test_one_that_the_processor_will_not_cancel_has_failed_all_the_same() -> None:
    shop = a_shop()
    account = await a_customer(shop, Manner.WANTS_OWNER)

    class Strict(Through):
        async def cancel(self, id: str) -> Any:
            raise ProcessorRefused(f"not {id}")

    shop.auto._processor = Strict(shop.processor)
    await shop.auto.run()
    assert (await setting_of(shop, account)).failures == 1
    assert await shop.topups.running() == []
    assert shop.alerts.waiting


async def test_a_customer_deleted_at_the_processor_fails_for_want_of_a_card_and_is_told() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    _, gone = await shop.till.customer(account)
    shop.processor.delete_customer(gone)
    for pause in (*PAUSES, timedelta()):
        await shop.auto.run()
        shop.clock.move(pause.total_seconds())
    found = await setting_of(shop, account)
    assert (found.enabled, found.failures) == (False, 3)
    assert len(shop.letters(Letter.AUTO_TOP_UP_FAILED)) == 1
    _, now = await shop.till.customer(account)
    assert now != gone
    await shop.card(account)
    await shop.choose(replace(found, enabled=True, failures=0, not_before=None))
    assert await shop.auto.run() == 1
    assert (await shop.balance(account)).paid == usd("23")


async def test_a_processor_that_refuses_the_customer_counts_as_a_failure() -> None:
    shop = a_shop()
    account = await a_customer(shop)

    class Choosy(Through):
        async def customer(self, *given: Any) -> str:
            raise ProcessorRefused("an address that it does not like", "Your address is not valid.")

    shop.till._processor = Choosy(shop.processor)
    for pause in (*PAUSES, timedelta()):
        await shop.auto.run()
        shop.clock.move(pause.total_seconds())
    found = await setting_of(shop, account)
    assert (found.enabled, shop.processor.charges) == (False, 0)
    assert "Your address is not valid." in found.message
    (mail,) = shop.letters(Letter.AUTO_TOP_UP_FAILED)
    assert mail.facts["reason"] == "Your address is not valid."


async def test_without_a_saved_card_it_fails_like_any_other() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    (card,) = await shop.till.cards(account)
    await shop.till.remove(account, card.id)
    await shop.auto.run()
    assert (await setting_of(shop, account)).failures == 1
    (known,) = orders(shop)
    assert known.message == "there is no saved card"


class Losing(Through):
    """A processor that loses its answer to the next charge, before or after it has acted."""

    def __init__(self, processor: Any, after_acting: bool) -> None:
        super().__init__(processor)
        self._after_acting = after_acting

    async def charge(self, *given: Any) -> Any:
        self._processor.go_down(after_acting=self._after_acting)
        return await self._processor.charge(*given)


async def a_lost_charge(shop: MemoryShop, after_acting: bool) -> None:
    shop.auto._processor = Losing(shop.processor, after_acting)
    assert await shop.auto.run() == 0
    shop.auto._processor = shop.processor
    assert shop.alerts.waiting
    assert await shop.auto.run() == 0, "it is under way: nobody begins another"
    assert len(orders(shop)) == 1


@pytest.mark.parametrize("after_acting", [False, True])
async def test_a_charge_whose_answer_is_lost_is_ended_by_the_same_order(
    after_acting: bool,
) -> None:
    shop = a_shop()
    account = await a_customer(shop)
    await a_lost_charge(shop, after_acting)
    shop.clock.move(RESUME_AFTER.total_seconds() + 1)
    await shop.auto.run()
    assert shop.processor.charges == 1
    assert len(orders(shop)) == 1
    assert (await shop.balance(account)).paid == usd("23")
    assert await shop.topups.running() == []
    assert (await setting_of(shop, account)).failures == 0


async def test_a_charge_that_was_taken_is_found_by_asking_even_after_days() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    await a_lost_charge(shop, after_acting=True)
    shop.clock.move(timedelta(days=3).total_seconds())
    await shop.auto.run()
    assert (shop.processor.charges, len(orders(shop))) == (1, 1)
    assert (await shop.balance(account)).paid == usd("23")


async def test_a_charge_that_never_arrived_is_given_up_when_it_can_no_longer_be_sent_again() -> (
    None
):
    shop = a_shop()
    account = await a_customer(shop)
    await a_lost_charge(shop, after_acting=False)
    shop.clock.move(timedelta(hours=21).total_seconds())
    await shop.auto.run()
    assert shop.processor.charges == 0
    (known,) = orders(shop)
    assert known.state is OrderState.FAILED
    assert (await setting_of(shop, account)).failures == 1
    shop.clock.move(PAUSES[0].total_seconds())
    await shop.auto.run()
    assert shop.processor.charges == 1


async def test_a_charge_that_a_notice_credited_first_is_ended_as_paid() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    await a_lost_charge(shop, after_acting=True)
    await shop.deliver_all()
    assert (await shop.balance(account)).paid == usd("23")
    await shop.spend(account, usd("20"))
    assert await shop.auto.run() == 0, "its charge has not ended yet"
    shop.clock.move(RESUME_AFTER.total_seconds() + 1)
    assert await shop.auto.run() == 1, "ended, and begun anew for the new crossing"
    assert shop.processor.charges == 2


@pytest.mark.parametrize(("minutes", "charges"), [(31, 1), (29, 0)])
async def test_a_lost_charge_is_not_sent_again_once_its_month_is_over(
    minutes: int, charges: int
) -> None:
    """It counts to the ceiling of the month in which it was begun."""
    shop = a_shop()
    account = await a_customer(shop, monthly_ceiling=usd("20"))
    shop.clock.at = datetime(2026, 5, 31, 23, 60 - minutes, tzinfo=UTC)
    await a_lost_charge(shop, after_acting=False)
    shop.clock.move(timedelta(minutes=30).total_seconds())
    await shop.auto.run()
    assert shop.processor.charges == charges
    shop.clock.at = datetime(2026, 6, 1, 1, tzinfo=UTC)
    for _ in range(4):
        await shop.auto.run()
        shop.clock.move(PAUSES[0].total_seconds())
        await shop.spend(account, (await shop.balance(account)).available)
    _, charged = await shop.auto.setting(account)
    assert (charged, shop.processor.charges) == (usd("20"), charges + 1)


async def test_a_charge_that_was_taken_at_the_end_of_a_month_counts_to_it_and_is_no_failure() -> (
    None
):
    shop = a_shop()
    account = await a_customer(shop, monthly_ceiling=usd("20"))
    shop.clock.at = datetime(2026, 5, 31, 23, 59, 30, tzinfo=UTC)
    await a_lost_charge(shop, after_acting=True)
    shop.clock.at = datetime(2026, 6, 1, 0, 30, tzinfo=UTC)
    await shop.auto.run()
    assert (await shop.balance(account)).paid == usd("23")
    assert (await setting_of(shop, account)).failures == 0
    assert await shop.topups.charged(account, datetime(2026, 5, 1, tzinfo=UTC)) == usd("20")
    assert await shop.topups.charged(account, datetime(2026, 6, 1, tzinfo=UTC)) == 0


@pytest.mark.parametrize("heard", [True, False])
async def test_a_payment_that_takes_its_time_lets_no_other_begin(heard: bool) -> None:
    shop = a_shop()
    account = await a_customer(shop, Manner.SLOW)
    assert await shop.auto.run() == 1
    shop.clock.move(3600)
    assert await shop.auto.run() == 0
    (known,) = orders(shop)
    shop.processor.settle(known.payment_id)
    if heard:
        await shop.deliver(shop.processor.notices[-1])
        await shop.auto.run()
        assert await shop.topups.running() == [], "what is credited is ended at once"
    shop.clock.move(RESUME_AT_MOST.total_seconds())
    await shop.auto.run()
    assert (await shop.balance(account)).paid == usd("23")
    assert await shop.topups.running() == []


async def test_one_that_was_paid_and_not_credited_charges_nothing_more() -> None:
    shop = a_shop()
    account = await a_customer(shop, Manner.SLOW)
    await shop.auto.run()
    (known,) = orders(shop)
    shop.processor.settle(known.payment_id)
    shop.processor.change(known.payment_id, amount=usd("19"))
    shop.clock.move(3600)
    for _ in range(3):
        assert await shop.auto.run() == 0
        shop.clock.move(3600)
    assert shop.processor.charges == 1
    assert len(await shop.credits.uncredited()) == 1
    assert (await shop.balance(account)).paid == usd("3")


class Counting(Through):
    """Loses every charge before it is made, and counts what it was asked."""

    def __init__(self, processor: Any) -> None:
        super().__init__(processor)
        self.sent: list[float] = []
        self.read = 0

    async def charge(self, order: Any, *_: Any) -> Any:
        self.sent.append((self._processor._now() - order.created_at).total_seconds() / 60)
        raise ProcessorUnavailable("the same 500 again")

    async def payment(self, id: str) -> Any:
        self.read += 1
        return await self._processor.payment(id)


async def test_a_charge_that_is_never_answered_is_sent_again_later_and_later() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    for _ in range(3):
        await shop.bought(await shop.account(), usd("20"))
    counting = Counting(shop.processor)
    shop.auto._processor = counting
    for _ in range(4 * 60 * 6):
        await shop.auto.run()
        shop.clock.move(10)
    assert [round(minutes) for minutes in counting.sent] == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert counting.read == 0, "the payments of others are not looked through"
    assert (await setting_of(shop, account)).failures == 0


async def test_who_waits_for_an_hour_is_told_why_nothing_is_charged() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    await a_lost_charge(shop, after_acting=False)
    shop.auto._processor = Counting(shop.processor)
    begun = f"{shop.clock.now():%Y-%m-%d %H:%M} UTC"
    shop.clock.move(LONG.total_seconds())
    await shop.auto.run()
    assert (await setting_of(shop, account)).message == ""
    shop.clock.move(1)
    told = await setting_of(shop, account)
    assert told.enabled
    assert begun in told.message
    shop.auto._processor = shop.processor
    shop.clock.move(RESUME_AT_MOST.total_seconds())
    await shop.auto.run()
    assert (await setting_of(shop, account)).message == ""
    assert shop.processor.charges == 1


# Money that goes back


async def went_back(shop: MemoryShop, what: str) -> str:
    """The one payment of an auto top-up goes back; what the refund or dispute is called."""
    (known,) = orders(shop)
    return str(getattr(shop.processor, what)(known.payment_id))


@pytest.mark.parametrize("what", ["refund", "dispute"])
async def test_what_went_back_is_not_charged_again(what: str) -> None:
    shop = a_shop()
    account = await a_customer(shop)
    await shop.auto.run()
    back = await went_back(shop, what)
    await shop.credits.reconcile()
    assert (await shop.balance(account)).paid == usd("3")
    for _ in range(3):
        assert await shop.auto.run() == 0
        await shop.credits.reconcile()
        shop.clock.move(3600)
    assert shop.processor.charges == 1
    found = await setting_of(shop, account)
    assert not found.enabled
    assert f"{what} {back}" in found.message
    (mail,) = shop.letters(Letter.REFUNDED)
    assert mail.facts["auto_top_up"] == "switched off"


async def test_who_switches_it_on_again_is_charged_again_whatever_is_looked_at_again() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    await shop.auto.run()
    await went_back(shop, "dispute")
    await shop.credits.reconcile()
    await shop.choose(TopUp(account, True, usd("5"), usd("20"), usd("100")))
    await shop.deliver_all()
    await shop.credits.reconcile()
    assert (await setting_of(shop, account)).enabled
    assert await shop.auto.run() == 1
    assert shop.processor.charges == 2


async def test_who_has_no_auto_top_up_reads_nothing_of_it() -> None:
    shop = a_shop()
    account = await shop.account()
    _, payment = await shop.bought(account, usd("20"))
    await shop.credits.reconcile()
    shop.processor.refund(payment)
    await shop.credits.reconcile()
    (mail,) = shop.letters(Letter.REFUNDED)
    assert "auto_top_up" not in mail.facts


async def test_a_process_that_dies_after_it_was_switched_off_has_it_told_by_the_next_look() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    await shop.auto.run()
    await went_back(shop, "dispute")
    shop.mails.falls = 2  # the receipt of the deposit, looked at again, and the letter
    with pytest.raises(StorageUnavailable):
        await shop.credits.reconcile()
    assert not (await setting_of(shop, account)).enabled, "with the booking, not after it"
    shop.mails.falls = 0
    await shop.credits.reconcile()
    (mail,) = shop.letters(Letter.REFUNDED)
    assert mail.facts["auto_top_up"] == "switched off"


async def test_a_lost_charge_is_not_sent_again_once_money_went_back() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    _, before = await shop.bought(account, usd("20"))
    await shop.credits.reconcile()
    await shop.spend(account, usd("20"))
    await a_lost_charge(shop, after_acting=False)
    shop.processor.dispute(before)
    await shop.credits.reconcile()
    shop.clock.move(RESUME_AFTER.total_seconds())
    await shop.auto.run()
    assert (shop.processor.charges, await shop.topups.running()) == (1, [])
    (known,) = orders(shop)
    assert known.state is OrderState.FAILED
    assert "dispute" in (await setting_of(shop, account)).message


async def test_one_that_was_taken_is_credited_though_money_went_back_meanwhile() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    _, before = await shop.bought(account, usd("20"))
    await shop.credits.reconcile()
    await shop.spend(account, usd("20"))
    await a_lost_charge(shop, after_acting=True)
    shop.processor.dispute(before)
    await shop.deliver(shop.processor.notices[-1])
    shop.clock.move(RESUME_AFTER.total_seconds())
    await shop.auto.run()
    assert (await shop.balance(account)).paid == usd("20")
    found = await setting_of(shop, account)
    assert (found.enabled, found.failures) == (False, 0)
    assert "dispute" in found.message, "its success does not wipe out why it is off"


async def test_a_round_does_not_close_what_auto_top_up_began() -> None:
    shop = a_shop()
    await a_customer(shop)
    await a_lost_charge(shop, after_acting=False)
    shop.clock.move(timedelta(hours=5).total_seconds())
    await shop.credits.reconcile()
    (known,) = orders(shop)
    assert known.state is OrderState.OPEN
    await shop.auto.run()
    assert shop.processor.charges == 1


async def test_one_customers_trouble_is_not_anothers() -> None:
    shop = a_shop()
    first, second = await a_customer(shop), await a_customer(shop)
    broken = f"cus_{first}"

    class Partial(Losing):
        async def charge(self, order: Any, customer: str, card_id: str) -> Any:
            if customer == broken:
                raise ProcessorUnavailable("not this one")
            return await self._processor.charge(order, customer, card_id)

    shop.auto._processor = Partial(shop.processor, False)
    await shop.auto.run()
    assert (await shop.balance(first)).paid == usd("3")
    assert (await shop.balance(second)).paid == usd("23")


class Silent(Through):
    """A processor that does not answer for one customer, and remembers when it was asked."""

    def __init__(self, processor: Any, account: str) -> None:
        super().__init__(processor)
        self.account = account
        self.asked: list[datetime] = []

    async def customer(self, account_id: str, *given: Any) -> Any:
        if account_id == self.account:
            self.asked.append(self._processor._now())
            raise ProcessorUnavailable("a timeout")
        return await self._processor.customer(account_id, *given)


async def test_who_gets_no_answer_before_a_charge_is_asked_for_later_and_later() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    silent = Silent(shop.processor, account)
    shop.till._processor = silent
    begun = shop.clock.now()
    for _ in range(4 * 60 * 6):
        assert await shop.auto.run() == 0
        shop.clock.move(10)
    minutes = [(at - begun).total_seconds() / 60 for at in silent.asked]
    assert minutes == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    found = await setting_of(shop, account)
    assert (found.enabled, found.failures, orders(shop)) == (True, 0, [])
    assert found.not_before == silent.asked[-1] + RESUME_AT_MOST
    shop.till._processor = shop.processor
    shop.clock.at = found.not_before
    assert await shop.auto.run() == 1
    found = await setting_of(shop, account)
    assert (found.delays, found.not_before) == (0, None)


async def test_who_gets_no_answer_and_sets_it_again_is_asked_for_at_once() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    shop.till._processor = Silent(shop.processor, account)
    await shop.auto.run()
    shop.till._processor = shop.processor
    assert await shop.auto.run() == 0
    await shop.choose(TopUp(account, True, usd("5"), usd("20"), usd("100")))
    assert await shop.auto.run() == 1


# Choices that are under way while something else happens


async def under_way(shop: MemoryShop, setting: TopUp) -> asyncio.Task[TopUp]:
    """A choice whose questions the processor does not answer until `resume`."""
    shop.processor.pause()
    choice = asyncio.create_task(shop.choose(setting))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not choice.done()
    return choice


async def is_refused(shop: MemoryShop, choice: asyncio.Task[TopUp]) -> None:
    shop.processor.resume()
    with pytest.raises(Refusal, match="stays as it is now") as refused:
        await choice
    assert (refused.value.code, refused.value.charged) == (Code.SETTING_CHANGED, False)


@pytest.mark.parametrize("was_on", [True, False])
async def test_a_choice_that_was_under_way_does_not_undo_what_money_that_went_back_did(
    was_on: bool,
) -> None:
    shop = a_shop()
    account = await a_customer(shop, enabled=was_on)
    _, payment = await shop.bought(account, usd("20"))
    await shop.credits.reconcile()
    shop.processor.dispute(payment)
    found = await shop.processor.payment(payment)
    assert found is not None
    setting = TopUp(account, True, usd("5"), usd("20"), usd("200"))
    choice = await under_way(shop, setting)
    await shop.credits.apply(found)
    await is_refused(shop, choice)
    now = await setting_of(shop, account)
    assert (now.enabled, now.monthly_ceiling) == (False, usd("100"))
    assert ("dispute" in now.message) is was_on
    assert await shop.auto.run() == 0
    await shop.choose(setting)
    assert await shop.auto.run() == 1, "who has seen it may switch it on"


async def test_a_choice_that_was_under_way_does_not_undo_the_third_failure() -> None:
    shop = a_shop()
    account = await a_customer(shop, Manner.DECLINES)
    for pause in PAUSES:
        await shop.auto.run()
        shop.clock.move(pause.total_seconds())
    order = Order(new_id(), account, usd("20"), Source.AUTO_TOP_UP, shop.clock.now())
    assert await shop.topups.claim(order, f"cus_{account}", "pm_1", Usd(0))
    setting = TopUp(account, True, usd("5"), usd("20"), usd("100"))
    choice = await under_way(shop, setting)
    await shop.topups.end(order.id, "declined")
    await is_refused(shop, choice)
    assert not (await setting_of(shop, account)).enabled


async def test_of_two_choices_at_once_one_is_made_and_the_other_is_told() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    setting = TopUp(account, True, usd("5"), usd("20"), usd("100"))
    first = await under_way(shop, replace(setting, amount=usd("30")))
    second = await under_way(shop, replace(setting, threshold=usd("6")))
    shop.processor.resume()
    ended = await asyncio.gather(first, second, return_exceptions=True)
    assert sorted(isinstance(end, Refusal) for end in ended) == [False, True]


async def test_what_charges_make_of_a_setting_keeps_no_choice_from_being_made() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    shop.till._processor = Silent(shop.processor, account)
    before, _ = await shop.auto.setting(account)
    await shop.auto.run()
    shop.till._processor = shop.processor
    shop.clock.move(60)
    assert await shop.auto.run() == 1
    assert before is not None
    await shop.auto.choose(replace(before, monthly_ceiling=usd("60")), before)
    assert (await setting_of(shop, account)).monthly_ceiling == usd("60")


async def test_switching_off_is_done_whatever_happens_meanwhile() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    before, _ = await shop.auto.setting(account)
    assert before is not None
    await shop.choose(replace(before, amount=usd("30")))
    await shop.auto.choose(replace(before, enabled=False), before)
    assert not (await setting_of(shop, account)).enabled


async def test_it_is_switched_on_with_a_card_and_a_setting_that_works() -> None:
    shop = a_shop()
    account = await shop.account()
    setting = TopUp(account, True, usd("5"), usd("20"), usd("100"))
    with pytest.raises(Refusal, match="saved card") as refused:
        await shop.choose(setting)
    assert refused.value.code is Code.INVALID_VALUE
    await shop.choose(replace(setting, enabled=False))
    await shop.card(account)
    with pytest.raises(Refusal, match="threshold"):
        await shop.choose(replace(setting, threshold=usd("21")))
    assert await shop.choose(setting) == setting
    assert await shop.auto.setting(account) == (setting, Usd(0))


async def test_switching_it_on_again_forgets_its_failures() -> None:
    shop = a_shop()
    account = await a_customer(shop, Manner.DECLINES)
    await shop.auto.run()
    await shop.card(account)
    await shop.choose(TopUp(account, True, usd("5"), usd("20"), usd("100")))
    assert await shop.auto.run() == 1
    assert (await shop.balance(account)).paid == usd("23")


async def test_what_a_request_only_holds_is_neither_low_nor_topped_up() -> None:
    shop = a_shop()
    account = await a_customer(shop)
    await shop.ledger.deposit(new_id(), account, usd("17"), "more")
    hold = new_id()
    assert (await shop.ledger.hold(hold, account, usd("19.5"), 600)).outcome is Outcome.DONE
    assert await shop.auto.run() == 0, "it may all come back"
    assert await shop.low.run() == 0
    await shop.ledger.resolve(Resolution(hold, Kind.SETTLE, usd("19.5")))
    assert await shop.low.run() == 1, "the hold has not used up the one letter"
    assert await shop.auto.run() == 1
    assert shop.processor.charges == 1


async def test_a_newcomer_is_told_when_half_of_the_grant_is_gone() -> None:
    shop = a_shop()
    account = await shop.account(usd("0.5"))
    assert await shop.low.run() == 0, "a new account is not low, it is new"
    await shop.spend(account, usd("0.25"))
    assert await shop.low.run() == 0
    await shop.spend(account, usd("0.01"))
    assert await shop.low.run() == 1
    (mail,) = shop.letters(Letter.LOW_BALANCE)
    assert mail.facts["balance"] == "0.24"
    assert await shop.low.run() == 0


async def test_a_low_balance_is_told_once_per_crossing() -> None:
    shop = a_shop()
    account = await shop.account(usd("0.5"))
    assert await shop.low.run() == 0, "a new account is not low, it is new"
    _, _ = await shop.bought(account, usd("5"))
    await shop.deliver_all()
    assert await shop.low.run() == 0
    await shop.spend(account, usd("4.51"))
    assert await shop.low.run() == 1
    assert await shop.low.run() == 0
    (mail,) = shop.letters(Letter.LOW_BALANCE)
    assert mail.facts["balance"] == "0.99"
    await shop.spend(account, usd("0.5"))
    assert await shop.low.run() == 0
    await shop.bought(account, usd("5"))
    await shop.deliver_all()
    await shop.spend(account, usd("5"))
    assert await shop.low.run() == 1
    assert len(shop.letters(Letter.LOW_BALANCE)) == 2


async def test_a_worker_that_dies_after_the_letter_writes_no_second_one() -> None:
    shop = a_shop()
    account = await shop.account()
    await shop.bought(account, usd("5"))
    await shop.deliver_all()
    await shop.spend(account, usd("5"))
    (alarm,) = await shop.alarms.low()
    await shop.low.run()
    shop.orders._till.told.clear()  # as if it had never been written down
    assert await shop.alarms.low() == [alarm]
    assert await shop.low.run() == 0
    assert len(shop.letters(Letter.LOW_BALANCE)) == 1


def test_the_books_of_a_top_up_are_a_deposit_like_any_other() -> None:
    async def run() -> list[Kind]:
        shop = a_shop()
        await a_customer(shop)
        await shop.auto.run()
        return [entry.kind for entry in shop.entries()]

    assert asyncio.run(run()) == [Kind.DEPOSIT, Kind.DEPOSIT]
