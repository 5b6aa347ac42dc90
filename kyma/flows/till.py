"""An account as a customer of the payment processor, its saved cards and its bills."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from kyma.errors import Code, Refusal
from kyma.flows.access import unavailable
from kyma.orders import Customer
from kyma.payments import Card, Checkout, Invoice
from kyma.ports.billing import Customers
from kyma.ports.payments import (
    Cards,
    Payments,
    ProcessorRefused,
    ProcessorUnavailable,
    UnreadablePayment,
)
from kyma.ports.storage import StorageUnavailable

NOT_ANSWERING = "The payment processor does not answer. Nothing was charged; try again shortly."
REFUSED = "The payment processor refused this. Nothing was charged."
UNREADABLE = (
    "This payment cannot be read as the payment processor has it; an operator has to look at it. "
    "What was paid is credited then."
)


@contextmanager
def asking() -> Iterator[None]:
    """Turn what keeps a question from being answered into a refusal; nothing was charged."""
    try:
        yield
    except StorageUnavailable as error:
        raise unavailable() from error
    except ProcessorUnavailable as error:
        raise Refusal(Code.PROCESSOR_UNAVAILABLE, NOT_ANSWERING, retry_after_s=5) from error
    except ProcessorRefused as error:
        raise Refusal(Code.PAYMENT_FAILED, error.public or REFUSED) from error
    except UnreadablePayment as error:
        raise Refusal(Code.PROCESSOR_UNAVAILABLE, UNREADABLE, charged=None) from error


class Till:
    """Customers, cards and invoices. `back_url` is where the processor's pages lead back to."""

    def __init__(
        self, processor: Payments, cards: Cards, customers: Customers, back_url: str
    ) -> None:
        self._processor = processor
        self._cards = cards
        self._customers = customers
        self.back_url = back_url.rstrip("/")

    async def customer(self, account_id: str) -> tuple[Customer, str]:
        """The account as a buyer, and its name at the processor, made at first use.

        The processor is asked each time: a customer whom somebody deleted there is made anew,
        or the account could never pay again.
        """
        found = await self._customers.customer(account_id)
        if found is None:
            raise Refusal(Code.NOT_FOUND, f"There is no account {account_id!r}.")
        id = await self._processor.customer(account_id, found.email, found.id)
        if id != found.id:
            id = await self._customers.remember(account_id, id, found.id)
        return replace(found, id=id), id

    async def payer(self, account_id: str) -> tuple[str, str | None]:
        """Its name at the processor and its default card; raises the port's own errors."""
        _, customer = await self.customer(account_id)
        cards = await self._cards.cards(customer)
        return customer, cards[0].id if cards else None

    async def setup(self, account_id: str) -> Checkout:
        """A page to leave a card on."""
        with asking():
            _, customer = await self.customer(account_id)
            return await self._cards.setup(customer, f"{self.back_url}/card")

    async def cards(self, account_id: str) -> Sequence[Card]:
        """The default first; none for an account that never bought anything."""
        with asking():
            found = await self._customers.customer(account_id)
            if found is None or found.id is None:
                return ()
            return await self._cards.cards(found.id)

    async def card(self, account_id: str, card_id: str | None) -> Card:
        """One of its cards, or its default; refuses others."""
        cards = await self.cards(account_id)
        for card in cards:
            if card_id in {None, card.id}:
                return card
        if card_id is None:
            raise Refusal(
                Code.NOT_FOUND,
                "There is no saved card. Nothing was charged; save one with "
                "POST /v1/billing/cards, or buy with POST /v1/billing/checkout.",
                param="card_id",
            )
        raise _no_card()

    async def choose(self, account_id: str, card_id: str) -> Sequence[Card]:
        """Make one the default; its cards as they are then."""
        card = await self.card(account_id, card_id)
        with asking():
            _, customer = await self.customer(account_id)
            if not await self._cards.choose(customer, card.id):
                raise _no_card()
        return await self.cards(account_id)

    async def remove(self, account_id: str, card_id: str) -> Sequence[Card]:
        """Forget one; the cards that are left."""
        card = await self.card(account_id, card_id)
        with asking():
            _, customer = await self.customer(account_id)
            if not await self._cards.remove(customer, card.id):
                raise _no_card()
        return await self.cards(account_id)

    async def invoices(self, account_id: str) -> Sequence[Invoice]:
        """Newest first; none for an account that never bought anything."""
        with asking():
            found = await self._customers.customer(account_id)
            if found is None or found.id is None:
                return ()
            return await self._processor.invoices(found.id)


def _no_card() -> Refusal:
    return Refusal(Code.NOT_FOUND, "No such card on this account.", param="card_id")
