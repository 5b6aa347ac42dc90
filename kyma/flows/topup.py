"""Auto top-up and the letter on a low balance: what a worker does every few seconds.

A charge is claimed before it is made, one per account at a time, under the lock that decides
it; until it has ended nobody claims another. A process that dies leaves its claim, and the next
look finds out what became of it: by asking, and by repeating the same order, never by another.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, replace
from datetime import timedelta

from kyma.errors import Code, Refusal
from kyma.flows.credits import Credits
from kyma.flows.till import Till, asking
from kyma.mail import Letter, Mail
from kyma.money import Usd, decimal_text
from kyma.orders import WAITING, KnownOrder, OrderState
from kyma.payments import Order, Payment, PaymentState, Source
from kyma.ports.billing import Alarms, BillingAlerts, Customers, Orders, TopUps
from kyma.ports.mail import Outbox
from kyma.ports.payments import (
    Payments,
    ProcessorRefused,
    ProcessorUnavailable,
    UnreadablePayment,
)
from kyma.ports.runtime import Chance, Clock
from kyma.topups import LONG, Attempt, TopUp, check, is_last, month_of, reckoned

SEND_AGAIN_WITHIN = timedelta(hours=20)
"""For so long an order may be sent again: the processor remembers it and charges once."""

CHANGED = (
    "Auto top-up was set or switched off while this request was under way, and stays as it is now. "
    "Look at GET /v1/billing/auto-topup, and set it again if you still want it so."
)
NO_CARD = "there is no saved card"
REFUSED = "the payment processor refused it"
UNFINISHED = frozenset({OrderState.FAILED, OrderState.NEEDS_ACTION, OrderState.CANCELED})
"""Nobody is there to act: what needs its owner has failed, and still counts if it is paid later."""

STUCK = (
    "A charge that was begun at {at:%Y-%m-%d %H:%M} UTC has not ended: the payment processor has "
    "not told what became of it. Nothing more is charged until it has; it is asked again."
)

UNCREDITED = (
    "A charge that was begun at {at:%Y-%m-%d %H:%M} UTC was paid, but is not what was ordered. "
    "Nothing more is charged until an operator has booked it or sent it back."
)
RETURNED = "what was paid is not what was ordered, and went back or was settled otherwise"

UNDER_WAY = frozenset({PaymentState.PAID, PaymentState.PENDING})
"""What cannot be given up any more."""


@dataclass(frozen=True, slots=True)
class _Payer:
    customer: str
    card_id: str
    tax: Usd
    trouble: str = ""


class AutoTopUps:
    """Charge saved cards unasked, as their owners chose."""

    def __init__(
        self,
        processor: Payments,
        till: Till,
        credits: Credits,
        topups: TopUps,
        orders: Orders,
        customers: Customers,
        outbox: Outbox,
        alerts: BillingAlerts,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._processor = processor
        self._till = till
        self._credits = credits
        self._topups = topups
        self._orders = orders
        self._customers = customers
        self._outbox = outbox
        self._alerts = alerts
        self._clock = clock
        self._chance = chance

    async def choose(self, setting: TopUp, before: TopUp | None) -> TopUp:
        """Switch on, off or over; a card must be there, and failures are forgotten.

        What taxes come on top is reckoned now: within the ceiling one charge must be possible.
        `before` is the setting that was looked at for this one. Refused if it was switched off
        or chosen anew while the processor was asked: who chose has not heard of that.
        """
        check(setting)
        if setting.enabled and not await self._till.cards(setting.account_id):
            raise Refusal(
                Code.INVALID_VALUE,
                "Auto top-up needs a saved card: leave one with POST /v1/billing/cards.",
                param="enabled",
            )
        if setting.enabled:
            with asking():
                _, customer = await self._till.customer(setting.account_id)
                tax = await self._processor.tax(self._order(setting), customer)
            setting = replace(setting, tax=tax)
            check(setting)
        if not await self._topups.choose(setting, before):
            raise Refusal(Code.SETTING_CHANGED, CHANGED)
        return setting

    async def setting(self, account_id: str) -> tuple[TopUp | None, Usd]:
        """What was chosen, and what was charged in this month, taxes included."""
        now = self._clock.now()
        charged = await self._topups.charged(account_id, month_of(now))
        setting = await self._topups.setting(account_id)
        if setting is not None and not setting.message:
            begun = await self._topups.running_of(account_id)
            if begun is not None:
                setting = replace(setting, message=await self._why_it_waits(begun))
        return setting, charged

    async def _why_it_waits(self, begun: Attempt) -> str:
        """What an owner is told of a charge that has not ended; nothing while that is usual."""
        known = await self._orders.order(begun.order_id)
        if known is not None and known.state is OrderState.REFUSED:
            return UNCREDITED.format(at=begun.created_at)
        is_long = self._clock.now() - begun.created_at > LONG
        return STUCK.format(at=begun.created_at) if is_long else ""

    async def run(self) -> int:
        """Look after charges that were left, then charge whoever is due; how many were begun."""
        for attempt in await self._topups.take_stalled():
            await self._guarded(self._resume(attempt), attempt.account_id)
        begun = 0
        for setting in await self._topups.due():
            begun += await self._guarded(self._charge(setting), setting.account_id)
        return begun

    async def _guarded(self, work: Awaitable[bool], account_id: str) -> bool:
        """One account's trouble is not another's; what is under way is taken up again."""
        try:
            return await work
        except (ProcessorUnavailable, ProcessorRefused, UnreadablePayment, Refusal) as error:
            self._alerts.left_waiting(f"auto top-up of {account_id}", error)
            return False

    async def _charge(self, setting: TopUp) -> bool:
        order = self._order(setting)
        try:
            payer = await self._payer(order, setting.tax)
        except ProcessorUnavailable:
            await self._topups.delay(order.account_id)
            raise
        await self._warn(order, payer.tax)
        if not await self._topups.claim(order, payer.customer, payer.card_id, payer.tax):
            return False
        if payer.trouble:
            await self._fail(order, payer.trouble)
        else:
            await self._pay(KnownOrder(order, payer.customer), payer.card_id)
        return True

    def _order(self, setting: TopUp) -> Order:
        source, now = Source.AUTO_TOP_UP, self._clock.now()
        return Order(self._chance.id(), setting.account_id, setting.amount, source, now)

    async def _payer(self, order: Order, last_tax: Usd) -> _Payer:
        """Customer, card and taxes, or why nobody can pay: a failed charge, once it is claimed."""
        try:
            customer, card_id = await self._till.payer(order.account_id)
            if card_id is None:
                return _Payer(customer, "", last_tax, NO_CARD)
            return _Payer(customer, card_id, await self._processor.tax(order, customer))
        except ProcessorRefused as error:
            return _Payer("", "", last_tax, error.public or REFUSED)

    async def _pay(self, known: KnownOrder, card_id: str) -> None:
        order = known.order
        if not card_id:
            await self._fail(order, NO_CARD)
            return
        try:
            payment = await self._processor.charge(order, known.customer, card_id)
        except ProcessorRefused as error:
            await self._fail(order, error.public or REFUSED)
            return
        await self._conclude(order, await self._credits.apply(payment))

    async def _resume(self, attempt: Attempt) -> bool:
        """Find out what became of a charge whose process died or never heard."""
        known = await self._orders.order(attempt.order_id)
        assert known is not None
        if known.state in WAITING:
            payment = await self._look_for(known)
            if payment is not None:
                known = await self._credits.apply(payment) or known
            elif why_not := await self._why_not_again(attempt):
                await self._fail(known.order, why_not)
                return False
            else:
                await self._pay(known, attempt.card_id)
                return False
        await self._conclude(known.order, known)
        return False

    async def _why_not_again(self, attempt: Attempt) -> str:
        """Why an order of which nobody knows a payment is not sent again; empty if it is.

        Should it have been paid all the same, it is credited. It counts to the ceiling of the
        month in which it was begun: sent in the next, it would be above that one's ceiling.
        """
        now = self._clock.now()
        if now - attempt.created_at >= SEND_AGAIN_WITHIN:
            return "no payment came of it within a day"
        if month_of(now) != month_of(attempt.created_at):
            return "no payment came of it before its month was over"
        setting = await self._topups.setting(attempt.account_id)
        if setting is None or not setting.enabled:
            return "auto top-up was switched off meanwhile"
        return ""

    async def _look_for(self, known: KnownOrder) -> Payment | None:
        if known.handle is not None:
            return await self._processor.payment(known.handle)
        return await self._processor.payment_of(known.order, known.customer)

    async def _conclude(self, order: Order, known: KnownOrder | None) -> None:
        """End a charge whose payment has come to an end; any other goes on.

        One that was paid and not credited goes on too: nothing more is charged until an
        operator has settled it, or the money has gone back.
        """
        if known is None:
            return
        if known.state is OrderState.CREDITED:
            await self._topups.end(order.id, None)
        elif known.state is OrderState.REFUSED and known.payment_id is not None:
            await self._conclude_refused(order, known.payment_id)
        elif known.state in UNFINISHED:
            reason = known.message or "the card was declined"
            if known.state is OrderState.NEEDS_ACTION:
                reason = "the bank wants the owner of the card to confirm"
            await self._orders.close(order.id, OrderState.FAILED, reason)
            if known.payment_id is None or await self._gave_up(known.payment_id, order):
                await self._fail(order, reason)

    async def _conclude_refused(self, order: Order, payment_id: str) -> None:
        """End a charge that was paid and not credited, once nobody has to look at it any more."""
        payment = await self._processor.payment(payment_id)
        known = None if payment is None else await self._credits.apply(payment)
        if known is not None and known.state is OrderState.CREDITED:
            await self._topups.end(order.id, None)
        elif not await self._orders.is_uncredited(payment_id):
            now = await self._orders.order(order.id)
            settled = now is not None and now.state is OrderState.CREDITED
            await (self._topups.end(order.id, None) if settled else self._fail(order, RETURNED))

    async def _gave_up(self, payment_id: str, order: Order) -> bool:
        """See to it that nobody pays any more; False if it was paid, or is on its way."""
        try:
            payment = await self._processor.cancel(payment_id)
        except ProcessorRefused as error:
            # Paid after all, it is credited after all; it has failed all the same.
            self._alerts.left_waiting(f"payment {payment_id} of an auto top-up", error)
            return True
        if payment is None or payment.state not in UNDER_WAY:
            return True
        known = await self._credits.apply(payment)
        if known is not None and known.state is OrderState.CREDITED:
            await self._topups.end(order.id, None)
        return False

    async def _fail(self, order: Order, reason: str) -> None:
        """End a charge as failed. The letter first: repeated, it is not sent twice."""
        await self._orders.close(order.id, OrderState.FAILED, reason)
        setting = await self._topups.setting(order.account_id)
        if setting is not None and is_last(setting):
            await self._tell(order, f"top_up_failed:{order.id}", {"reason": reason})
        await self._topups.end(order.id, reason)

    async def _warn(self, order: Order, tax: Usd) -> None:
        """Write once that nothing is charged, if taxes are why. The letter first, as above.

        The claim then says so in the setting, and who has been told is not told again.
        """
        now, setting = self._clock.now(), await self._topups.setting(order.account_id)
        if setting is None or setting.message or setting.amount != order.amount:
            return
        if not reckoned(setting, tax, now).message:
            return
        id = f"top_up_too_dear:{order.account_id}:{setting.revision}:{now:%Y-%m}"
        taxes, ceiling = decimal_text(tax), decimal_text(setting.monthly_ceiling)
        reason = f"its taxes (${taxes}) would take it above the monthly ceiling (${ceiling})."
        await self._tell(order, id, {"reason": reason, "next_try": "in the next month"})

    async def _tell(self, order: Order, id: str, facts: dict[str, str]) -> None:
        customer = await self._customers.customer(order.account_id)
        if customer is not None:
            facts = {"amount": decimal_text(order.amount), **facts}
            await self._outbox.post(Mail(id, customer.email, Letter.AUTO_TOP_UP_FAILED, facts))


class LowBalances:
    """Tell customers once that their balance has become low."""

    def __init__(self, alarms: Alarms, customers: Customers, outbox: Outbox) -> None:
        self._alarms = alarms
        self._customers = customers
        self._outbox = outbox

    async def run(self) -> int:
        """How many were told. The letter first: repeated, it is not sent twice."""
        told = 0
        for alarm in await self._alarms.low():
            customer = await self._customers.customer(alarm.account_id)
            if customer is not None:
                facts = {"balance": decimal_text(alarm.posted)}
                id = f"low_balance:{alarm.armed_by}"
                told += await self._outbox.post(Mail(id, customer.email, Letter.LOW_BALANCE, facts))
            await self._alarms.told(alarm)
        return told
