"""Buying credit: checkout, saved cards, auto top-up, invoices, and the processor's notices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from quart import Blueprint, Response, request

from adapters.http.amounts import amount_field, purchase
from adapters.http.billing_view import (
    cards_json,
    estimate_json,
    invoices_json,
    order_json,
    page_json,
    topup_json,
)
from adapters.http.contract import Auth, Meter, Rate, Repeat, Tag, View, operation
from adapters.http.parsing import client, json_object, optional_text, signed_in
from adapters.http.schemas.shapes import text
from kyma.errors import Code, Refusal
from kyma.flows.credits import Credits
from kyma.flows.throttle import Throttle
from kyma.flows.till import Till
from kyma.flows.topup import AutoTopUps
from kyma.idempotency import HEADER as IDEMPOTENCY_KEY
from kyma.keys import Scope
from kyma.orders import OrderState
from kyma.throttles import Guarded
from kyma.topups import TopUp, check

if TYPE_CHECKING:
    from adapters.http.app import Parts

NOTICE_BYTES = 256 * 1024
"""A processor's notice has a few kilobytes."""

SIGNATURE = "Stripe-Signature"
AWAY = (Code.BILLING_OFF, Code.PROCESSOR_UNAVAILABLE, Code.PAYMENT_FAILED)
ASKED = (*AWAY, Code.TOO_MANY_ATTEMPTS)
AMOUNTS = ("threshold", "amount", "monthly_ceiling")


@dataclass(frozen=True, slots=True)
class Sales:
    """What sells; filled by the container where there is a processor."""

    credits: Credits
    till: Till
    auto: AutoTopUps
    throttle: Throttle

    async def begin(self, account_id: str, key: str | None = None) -> None:
        """Count a purchase that somebody begins, or refuse it, before the processor is asked.

        A repetition under its key begins none, and whether that was charged is not ours to say.
        """
        if key is None or not await self.credits.is_begun(account_id, key):
            await self.throttle.take(Guarded.PURCHASE, client().address, account_id)
            return
        try:
            await self.ask(account_id)
        except Refusal as refusal:
            raise Refusal(
                refusal.code,
                f"{refusal.message} This purchase was begun before, and goes on as it did.",
                retry_after_s=refusal.retry_after_s,
                charged=None,
            ) from refusal

    async def ask(self, account_id: str) -> None:
        """Count a question to the processor, or refuse it."""
        await self.throttle.take(Guarded.ASKING, client().address, account_id)

    async def state_of(self, account_id: str, order_id: str) -> str:
        """How an account's order stands now, the processor asked; if not too often, that is."""
        try:
            await self.ask(account_id)
        except Refusal:
            return (await self.credits.known(account_id, order_id)).state.value
        return (await self.credits.returned(account_id, order_id)).state.value


def routes(parts: Parts) -> Blueprint:
    """The routes below /v1/billing."""
    blueprint = Blueprint("billing", __name__, url_prefix="/v1/billing")
    _estimates(blueprint, parts)
    _orders(blueprint, parts)
    _cards(blueprint, parts)
    _top_up(blueprint, parts)
    _invoices(blueprint, parts)
    _webhook(blueprint, parts)
    return blueprint


def open_shop(parts: Parts) -> Sales:
    """What sells, or a refusal where nothing is sold."""
    if parts.sales is None:
        raise Refusal(
            Code.BILLING_OFF,
            "Billing is not configured on this server: credit cannot be bought here. Nothing was "
            "charged. Its operator can switch it on (docs/billing.md).",
        )
    return parts.sales


def _estimates(blueprint: Blueprint, parts: Parts) -> None:
    @blueprint.get("/estimate")
    @operation(
        id="estimateTaxes",
        tag=Tag.CREDITS,
        summary="What a purchase costs with taxes",
        description="Reckoned for the address that your customer has at the payment processor. "
        "Counts as a purchase begun, for the throttle; no tax where the operator collects none.",
        auth=Auth.KEY,
        scope=Scope.BILLING,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=ASKED,
        query={"amount": text("US dollars, whole cents, from 5 to 10,000.")},
        needed=("amount",),
        answers={200: "Estimate"},
    )
    async def estimate() -> Response:
        account = (await signed_in(parts.access)).account_id
        shop, amount = open_shop(parts), amount_field(dict(request.args), "amount")
        await shop.begin(account)
        return _json(estimate_json(amount, await shop.credits.estimate(account, amount)))


def _orders(blueprint: Blueprint, parts: Parts) -> None:
    @blueprint.post("/checkout")
    @operation(
        id="createCheckout",
        tag=Tag.CREDITS,
        summary="Buy credit on a payment page",
        description="Send `amount` (US dollars, whole cents) or `package`. Open `url` in a "
        "browser; the credit is there when the payment is. Taxes come on top, on the page.",
        auth=Auth.KEY,
        scope=Scope.BILLING,
        limiter=Rate.NONE,
        meter=Meter.PURCHASE,
        repeat=Repeat.SAME,
        errors=ASKED,
        body="Purchase",
        answers={200: "Order"},
    )
    async def checkout() -> Response:
        account = (await signed_in(parts.access)).account_id
        shop, amount = open_shop(parts), purchase(await json_object())
        await shop.begin(account, _key())
        return _json(order_json(await shop.credits.buy(account, amount, _key())))

    @blueprint.get("/checkout/<order_id>")
    @operation(
        id="getCheckout",
        tag=Tag.CREDITS,
        summary="How an order stands",
        description="The processor is asked, and what was paid is credited, before the answer.",
        auth=Auth.KEY,
        scope=Scope.BILLING,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=ASKED,
        answers={200: "Order"},
    )
    async def order(order_id: str) -> Response:
        account = (await signed_in(parts.access)).account_id
        shop = open_shop(parts)
        await shop.ask(account)
        return _json(order_json(await shop.credits.returned(account, order_id)))

    @blueprint.post("/charge")
    @operation(
        id="chargeCard",
        tag=Tag.CREDITS,
        summary="Buy credit with a saved card",
        description="Charges `card_id`, or the default card. Send an Idempotency-Key: a repeated "
        "request is then the same purchase. 202 where the payment takes its time.",
        auth=Auth.KEY,
        scope=Scope.BILLING,
        limiter=Rate.NONE,
        meter=Meter.PURCHASE,
        repeat=Repeat.SAME,
        errors=(*ASKED, Code.PAYMENT_ACTION, Code.PAYMENT_NOT_CREDITED, Code.NOT_FOUND),
        body="CardPurchase",
        answers={200: "Order", 202: "Order"},
    )
    async def charge() -> Response:
        account = (await signed_in(parts.access)).account_id
        shop, body = open_shop(parts), await json_object()
        card, amount = optional_text(body, "card_id"), purchase(body)
        await shop.begin(account, _key())
        known = await shop.credits.charge(account, amount, card, _key())
        return _json(order_json(known), 200 if known.state is OrderState.CREDITED else 202)


def _cards(blueprint: Blueprint, parts: Parts) -> None:
    @blueprint.get("/cards")
    @_about_cards("listCards", "Saved cards", "CardList")
    async def cards() -> Response:
        account = (await signed_in(parts.access)).account_id
        shop = open_shop(parts)
        await shop.ask(account)
        return _json(cards_json(await shop.till.cards(account)))

    @blueprint.post("/cards")
    @_about_cards("saveCard", "A page to leave a card on", "CardPage", Repeat.SHOWN_ONCE)
    async def save() -> Response:
        account = (await signed_in(parts.access)).account_id
        shop = open_shop(parts)
        await shop.begin(account)
        return _json(page_json(await shop.till.setup(account)))

    @blueprint.put("/cards/<card_id>/default")
    @_about_cards("chooseCard", "Make a saved card the default", "CardList")
    async def choose(card_id: str) -> Response:
        account = (await signed_in(parts.access)).account_id
        shop = open_shop(parts)
        await shop.ask(account)
        return _json(cards_json(await shop.till.choose(account, card_id)))

    @blueprint.delete("/cards/<card_id>")
    @_about_cards("removeCard", "Remove a saved card", "CardList")
    async def remove(card_id: str) -> Response:
        account = (await signed_in(parts.access)).account_id
        shop = open_shop(parts)
        await shop.ask(account)
        return _json(cards_json(await shop.till.remove(account, card_id)))


def _about_cards(
    id: str,
    summary: str,
    answer: str,
    repeat: Repeat | None = None,
) -> Callable[[View], View]:
    """Cards live at the processor; a number is never seen here."""
    return operation(
        id=id,
        tag=Tag.CREDITS,
        summary=summary,
        auth=Auth.KEY,
        scope=Scope.BILLING,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=ASKED,
        answers={200: answer},
        repeat=repeat,
    )


def _top_up(blueprint: Blueprint, parts: Parts) -> None:
    @blueprint.get("/auto-topup")
    @operation(
        id="getAutoTopUp",
        tag=Tag.CREDITS,
        summary="How auto top-up is set",
        auth=Auth.KEY,
        scope=Scope.BILLING,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=AWAY,
        answers={200: "AutoTopUp"},
    )
    async def top_up() -> Response:
        account = (await signed_in(parts.access)).account_id
        return _json(topup_json(*await open_shop(parts).auto.setting(account)))

    @blueprint.put("/auto-topup")
    @operation(
        id="setAutoTopUp",
        tag=Tag.CREDITS,
        summary="Set auto top-up",
        description="Below `threshold` the default card is charged `amount`, up to "
        "`monthly_ceiling` in a calendar month (UTC). Three failures in a row switch it off. "
        "What is left out stays as it was. Switching it on counts as a purchase begun, for the "
        "throttle; money that goes back switches it off, and `message` says so. 409 if it was "
        "switched off or set anew while this request was under way: nothing is changed then.",
        auth=Auth.KEY,
        scope=Scope.BILLING,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(*ASKED, Code.SETTING_CHANGED),
        body="AutoTopUpSetting",
        answers={200: "AutoTopUp"},
    )
    async def set_top_up() -> Response:
        account = (await signed_in(parts.access)).account_id
        shop, body = open_shop(parts), await json_object()
        before, _ = await shop.auto.setting(account)
        chosen = _chosen(account, body, before)
        if chosen.enabled:  # else nobody is asked, and switching off is never refused
            await shop.begin(account)
        await shop.auto.choose(chosen, before)
        return _json(topup_json(*await shop.auto.setting(account)))


def _chosen(account_id: str, body: dict[str, Any], before: TopUp | None) -> TopUp:
    """The setting that a body makes of the one before."""
    enabled = body.get("enabled")
    if enabled is None:
        raise Refusal(Code.MISSING_FIELD, "Missing required parameter: `enabled`.", param="enabled")
    if not isinstance(enabled, bool):
        raise Refusal(Code.INVALID_TYPE, "`enabled` must be a boolean.", param="enabled")
    threshold, amount, ceiling = (
        getattr(before, name)
        if before is not None and body.get(name) is None
        else amount_field(body, name)
        for name in AMOUNTS
    )
    chosen = TopUp(account_id, enabled, threshold, amount, ceiling)
    check(chosen)
    return chosen


def _invoices(blueprint: Blueprint, parts: Parts) -> None:
    @blueprint.get("/invoices")
    @operation(
        id="listInvoices",
        tag=Tag.CREDITS,
        summary="Invoices",
        description="Newest first, with links to the processor's pages.",
        auth=Auth.KEY,
        scope=Scope.BILLING,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=ASKED,
        answers={200: "InvoiceList"},
    )
    async def invoices() -> Response:
        account = (await signed_in(parts.access)).account_id
        shop = open_shop(parts)
        await shop.ask(account)
        return _json(invoices_json(await shop.till.invoices(account)))


def _webhook(blueprint: Blueprint, parts: Parts) -> None:
    @blueprint.post("/webhook")
    @operation(
        id="billingWebhook",
        tag=Tag.CREDITS,
        summary="Notices of the payment processor",
        description="For the processor alone: a body without its signature is refused. 200 says "
        "that the notice is kept; what it tells of is acted on now or within minutes.",
        auth=Auth.NONE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.NEVER,
        errors=(Code.FORGED_NOTICE, Code.BILLING_OFF, Code.STORAGE_UNAVAILABLE),
        counts_strangers=False,
        body="Notice",
        answers={200: "Received"},
    )
    async def webhook() -> Response:
        credits = open_shop(parts).credits
        await credits.notice(await _notice(), request.headers.get(SIGNATURE, ""))
        return _json({"received": True})


async def _notice() -> bytes:
    """The body as it came, byte for byte: the signature is of these bytes."""
    too_large = Refusal(Code.BODY_TOO_LARGE, f"A notice has at most {NOTICE_BYTES:,} bytes.")
    if (request.content_length or 0) > NOTICE_BYTES:
        raise too_large
    raw = await request.get_data(cache=True, as_text=False, parse_form_data=False)
    if len(raw) > NOTICE_BYTES:
        raise too_large
    return raw


def _key() -> str | None:
    """The caller's own name for this purchase; its form was checked."""
    return request.headers.get(IDEMPOTENCY_KEY)


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, content_type="application/json")
