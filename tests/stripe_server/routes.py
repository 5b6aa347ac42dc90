"""The routes of the API: which parameters each takes, and what it does to the world."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import stripe.params as p
from stripe.params import checkout as cp
from stripe.params import tax as tp

from tests.stripe_server import objects
from tests.stripe_server.cards import CARDS
from tests.stripe_server.errors import invalid, missing_parameter, no_such
from tests.stripe_server.objects import Fields
from tests.stripe_server.world import World, public

Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: re.Pattern[str]
    accepts: Any
    act: Callable[..., Fields | list[Fields]]


ROUTES: list[Route] = []


def route(method: str, path: str, accepts: Any) -> Callable[[Any], Any]:
    """`path` has `{}` for each id; a list answered is paginated."""

    def kept(act: Any) -> Any:
        pattern = re.compile("/v1" + path.replace("{}", r"([^/]+)"))
        ROUTES.append(Route(method, pattern, accepts, act))
        return act

    return kept


def integer(params: Params, name: str) -> int:
    if name not in params:
        raise missing_parameter(name)
    text = str(params[name])
    if not re.fullmatch(r"-?\d+", text):
        raise invalid(f"Invalid integer: {text}", name, "parameter_invalid_integer")
    return int(text)


def currency_of(params: Params) -> str:
    if "currency" not in params:
        raise missing_parameter("currency")
    if params["currency"] != "usd":
        raise invalid(f"Invalid currency: {params['currency']}", "currency")
    return "usd"


def owner_of(world: World, params: Params) -> str | None:
    if "customer" in params:
        world.get("customer", params["customer"], "customer")
    return params.get("customer")


# Customers and their cards


@route("POST", "/customers", p.CustomerCreateParams)
def make_customer(world: World, params: Params) -> Fields:
    return world.add_customer(params)


@route("GET", "/customers", p.CustomerListParams)
def list_customers(world: World, params: Params) -> list[Fields]:
    wanted = {"email": params["email"]} if "email" in params else {}
    return [row for row in world.newest("customer", **wanted) if not row.get("_deleted")]


@route("GET", "/customers/{}", p.CustomerRetrieveParams)
def get_customer(world: World, params: Params, id: str) -> Fields:
    if world.tables["customer"].get(id, {}).get("_deleted"):
        return {"id": id, "object": "customer", "deleted": True}
    return world.get("customer", id)


@route("POST", "/customers/{}", p.CustomerUpdateParams)
def update_customer(world: World, params: Params, id: str) -> Fields:
    found = world.get("customer", id)
    card = params.get("invoice_settings", {}).get("default_payment_method")
    if card is not None:
        if world.get("payment_method", card, "default_payment_method")["customer"] != id:
            raise invalid("The customer does not have a payment method with that ID.")
        found["invoice_settings"]["default_payment_method"] = card
    if "address" in params:
        found["address"] = {**objects.ADDRESS, **params["address"]}
    found.update({k: params[k] for k in ("email", "name") if k in params})
    found["metadata"].update(params.get("metadata", {}))
    world.emit("customer.updated", found)
    return found


@route("GET", "/customers/{}/payment_methods", p.CustomerPaymentMethodListParams)
def list_cards(world: World, params: Params, id: str) -> list[Fields]:
    world.get("customer", id)
    return world.newest("payment_method", customer=id)


@route("GET", "/customers/{}/payment_methods/{}", p.CustomerPaymentMethodRetrieveParams)
def get_card(world: World, params: Params, id: str, card: str) -> Fields:
    world.get("customer", id)
    found = world.tables["payment_method"].get(card)
    if found is None or found["customer"] != id:
        raise no_such("payment method", card)
    return found


@route("POST", "/payment_methods/{}/detach", p.PaymentMethodDetachParams)
def detach(world: World, params: Params, id: str) -> Fields:
    return world.detach(world.get("payment_method", id))


@route("GET", "/payment_methods/{}", p.PaymentMethodRetrieveParams)
def get_method(world: World, params: Params, id: str) -> Fields:
    return world.get("payment_method", id)


# Payments


@route("POST", "/payment_intents", p.PaymentIntentCreateParams)
def make_intent(world: World, params: Params) -> Fields:
    amount, currency = integer(params, "amount"), currency_of(params)
    customer = owner_of(world, params)
    _check_calculation(world, params, amount)
    method = None
    if "payment_method" in params:
        method = world.method_for(params["payment_method"], customer)
    intent = world.add_intent(
        amount,
        currency,
        customer=customer,
        description=params.get("description"),
        metadata=dict(params.get("metadata", {})),
        setup_future_usage=params.get("setup_future_usage"),
    )
    if params.get("confirm") == "true":
        if method is None:
            raise missing_parameter("payment_method")
        away = params.get("off_session", "false") not in {"", "false"}
        if not away and CARDS[method["_card"]].off_session_only:
            return world.ask_owner(intent, method, params.get("return_url"))
        world.attempt(intent, method, owner_is_there=not away)
    return intent


def _check_calculation(world: World, params: Params, amount: int) -> None:
    named = params.get("hooks", {}).get("inputs", {}).get("tax", {}).get("calculation")
    if named is None:
        return
    if world.get("tax.calculation", named, "hooks[inputs][tax]")["amount_total"] != amount:
        raise invalid("The tax calculation's total is not the PaymentIntent's amount.", "hooks")


@route("GET", "/payment_intents", p.PaymentIntentListParams)
def list_intents(world: World, params: Params) -> list[Fields]:
    wanted = {"customer": params["customer"]} if "customer" in params else {}
    return world.newest("payment_intent", **wanted)


@route("GET", "/payment_intents/{}", p.PaymentIntentRetrieveParams)
def get_intent(world: World, params: Params, id: str) -> Fields:
    return world.get("payment_intent", id)


@route("POST", "/payment_intents/{}/confirm", p.PaymentIntentConfirmParams)
def confirm(world: World, params: Params, id: str) -> Fields:
    intent = world.get("payment_intent", id)
    method = world.method_for(params["payment_method"], intent["customer"])
    away = params.get("off_session", "false") not in {"", "false"}
    world.attempt(intent, method, owner_is_there=not away)
    return intent


@route("POST", "/payment_intents/{}/cancel", p.PaymentIntentCancelParams)
def cancel(world: World, params: Params, id: str) -> Fields:
    return world.cancel(world.get("payment_intent", id))


@route("GET", "/charges", p.ChargeListParams)
def list_charges(world: World, params: Params) -> list[Fields]:
    return world.newest("charge", **_by_payment(params))


@route("GET", "/charges/{}", p.ChargeRetrieveParams)
def get_charge(world: World, params: Params, id: str) -> Fields:
    return world.get("charge", id)


@route("POST", "/refunds", p.RefundCreateParams)
def refund(world: World, params: Params) -> Fields:
    if "payment_intent" in params:
        intent = world.get("payment_intent", params["payment_intent"], "payment_intent")
        id = intent["latest_charge"]
    else:
        id = params.get("charge") or ""
    amount = integer(params, "amount") if "amount" in params else None
    metadata = dict(params.get("metadata", {}))
    charge = world.get("charge", id, "charge")
    return world.add_refund(charge, amount, reason=params.get("reason"), metadata=metadata)


@route("GET", "/refunds", p.RefundListParams)
def list_refunds(world: World, params: Params) -> list[Fields]:
    return world.newest("refund", **_by_payment(params))


@route("GET", "/refunds/{}", p.RefundRetrieveParams)
def get_refund(world: World, params: Params, id: str) -> Fields:
    return world.get("refund", id)


@route("GET", "/charges/{}/refunds", p.RefundListParams)
def list_refunds_of(world: World, params: Params, id: str) -> list[Fields]:
    return world.newest("refund", charge=id)


@route("GET", "/disputes", p.DisputeListParams)
def list_disputes(world: World, params: Params) -> list[Fields]:
    return world.newest("dispute", **_by_payment(params))


@route("GET", "/disputes/{}", p.DisputeRetrieveParams)
def get_dispute(world: World, params: Params, id: str) -> Fields:
    return world.get("dispute", id)


def _by_payment(params: Params) -> dict[str, Any]:
    return {name: params[name] for name in ("payment_intent", "charge") if name in params}


# Checkout, prices, bills, tax


@route("POST", "/checkout/sessions", cp.SessionCreateParams)
def make_session(world: World, params: Params) -> Fields:
    for line in params.get("line_items", []):
        if "price_data" in line:
            currency_of(line["price_data"])
            integer(line["price_data"], "unit_amount")
    return world.add_session(params)


@route("GET", "/checkout/sessions", cp.SessionListParams)
def list_sessions(world: World, params: Params) -> list[Fields]:
    names = ("payment_intent", "customer", "status")
    return world.newest("checkout.session", **{k: params[k] for k in names if k in params})


@route("GET", "/checkout/sessions/{}", cp.SessionRetrieveParams)
def get_session(world: World, params: Params, id: str) -> Fields:
    return world.get("checkout.session", id)


@route("POST", "/checkout/sessions/{}/expire", cp.SessionExpireParams)
def expire(world: World, params: Params, id: str) -> Fields:
    return world.expire(world.get("checkout.session", id))


@route("POST", "/setup_intents", p.SetupIntentCreateParams)
def make_setup(world: World, params: Params) -> Fields:
    made = objects.setup_intent(world.id("setup_intent"), world.now(), owner_of(world, params))
    return world.keep(made)


@route("GET", "/setup_intents/{}", p.SetupIntentRetrieveParams)
def get_setup(world: World, params: Params, id: str) -> Fields:
    return world.get("setup_intent", id)


@route("POST", "/products", p.ProductCreateParams)
def make_product(world: World, params: Params) -> Fields:
    return world.add_product(params)


@route("GET", "/products/{}", p.ProductRetrieveParams)
def get_product(world: World, params: Params, id: str) -> Fields:
    return world.get("product", id)


@route("POST", "/prices", p.PriceCreateParams)
def make_price(world: World, params: Params) -> Fields:
    behavior = params.get("tax_behavior", "unspecified")
    amount, currency = integer(params, "unit_amount"), currency_of(params)
    product = params.get("product") or world.add_product(params["product_data"])["id"]
    return world.add_price(product, amount, currency, behavior)


@route("GET", "/prices/{}", p.PriceRetrieveParams)
def get_price(world: World, params: Params, id: str) -> Fields:
    return world.get("price", id)


@route("GET", "/prices", p.PriceListParams)
def list_prices(world: World, params: Params) -> list[Fields]:
    return world.newest("price", **{k: params[k] for k in ("product",) if k in params})


@route("GET", "/invoices", p.InvoiceListParams)
def list_invoices(world: World, params: Params) -> list[Fields]:
    owner_of(world, params)
    return world.newest("invoice", **{k: params[k] for k in ("customer", "status") if k in params})


@route("GET", "/invoices/{}", p.InvoiceRetrieveParams)
def get_invoice(world: World, params: Params, id: str) -> Fields:
    return world.get("invoice", id)


@route("POST", "/tax/calculations", tp.CalculationCreateParams)
def calculate(world: World, params: Params) -> Fields:
    currency, customer = currency_of(params), owner_of(world, params)
    if customer is not None and world.get("customer", customer)["address"] is None:
        raise invalid(
            "We could not determine the customer's tax location based on the provided customer "
            "address.",
            "customer",
            "customer_tax_location_invalid",
        )
    net = sum(integer(line, "amount") for line in params["line_items"])
    id = world.id("tax.calculation")
    made = objects.calculation(id, world.now(), customer, net, world.tax_on(net), currency)
    return world.keep(made)


@route("GET", "/events", p.EventListParams)
def list_events(world: World, params: Params) -> list[Fields]:
    kinds = params.get("types") or ([params["type"]] if "type" in params else None)
    if kinds is not None and len(kinds) > 20:
        raise invalid("You can pass at most 20 event types.", "types")
    month = world.now() - 30 * 86_400
    return [
        event
        for event in world.newest("event")
        if (kinds is None or event["type"] in kinds) and event["created"] >= month
    ]


@route("GET", "/events/{}", p.EventRetrieveParams)
def get_event(world: World, params: Params, id: str) -> Fields:
    return world.get("event", id)


# Lists and expansion

_BOUNDS: dict[str, Callable[[int, int], bool]] = {
    "gt": lambda at, bound: at > bound,
    "gte": lambda at, bound: at >= bound,
    "lt": lambda at, bound: at < bound,
    "lte": lambda at, bound: at <= bound,
}


def paginated(rows: Sequence[Fields], params: Params, url: str) -> Fields:
    """`created` filters, cursors and limits, newest first."""
    limit = integer(params, "limit") if "limit" in params else 10
    if not 1 <= limit <= 100:
        raise invalid("Limit must be between 1 and 100", "limit", "parameter_invalid_integer")
    created = params.get("created", {})
    bounds = created if isinstance(created, Mapping) else {"gte": created, "lte": created}
    kept = [
        row
        for row in rows
        if all(_BOUNDS[name](row["created"], int(bound)) for name, bound in bounds.items())
    ]
    ids = [row["id"] for row in kept]
    first = 0
    if "starting_after" in params:
        first = _place(ids, params["starting_after"], "starting_after") + 1
    last = len(kept)
    if "ending_before" in params:
        last = _place(ids, params["ending_before"], "ending_before")
        first = max(first, last - limit)
    page = kept[first : min(last, first + limit)]
    has_more = first > 0 if "ending_before" in params else first + limit < last
    return {
        "object": "list",
        "data": [public(row) for row in page],
        "has_more": has_more,
        "url": url,
    }


def _place(ids: list[str], id: str, param: str) -> int:
    if id not in ids:
        raise no_such("object", id, param)
    return ids.index(id)


REFERENCES = {
    "customer": "customer",
    "payment_intent": "payment_intent",
    "latest_charge": "charge",
    "charge": "charge",
    "invoice": "invoice",
    "setup_intent": "setup_intent",
    "payment_method": "payment_method",
    "default_payment_method": "payment_method",
    "product": "product",
    "balance_transaction": "balance_transaction",
}


def expanded(world: World, found: Fields, paths: Sequence[str]) -> Fields:
    """The object with what `expand[]` names in place of ids."""
    for path in paths:
        parts = path.split(".")
        if len(parts) > 4:
            raise invalid("You cannot expand more than 4 levels of a property", "expand")
        _expand(world, found, parts)
    return found


def _expand(world: World, found: Fields, parts: Sequence[str]) -> None:
    head, *rest = parts
    if head == "data" and found.get("object") == "list":
        for row in found["data"]:
            _expand(world, row, rest)
        return
    if (found.get("object"), head) == ("charge", "refunds"):
        refunds = world.newest("refund", charge=found["id"])
        found.setdefault(head, paginated(refunds, {}, f"/v1/charges/{found['id']}/refunds"))
    elif (found.get("object"), head) == ("checkout.session", "line_items"):
        lines = world.get("checkout.session", found["id"]).get("_lines", [])
        found[head] = {"object": "list", "data": lines, "has_more": False, "url": "/v1/lines"}
    elif head not in found or (not rest and head not in REFERENCES):
        raise invalid(f"This property cannot be expanded ({head}).", "expand")
    if isinstance(found[head], str):
        found[head] = public(world.get(REFERENCES[head], found[head]))
    if rest and isinstance(found[head], dict):
        _expand(world, found[head], rest)
