"""What nobody sends by mistake, at every route of billing, identity, keys and limits.

Each field of a good body is replaced in turn by what does not belong there, and each body, query,
path and notice by what is none. The answer is service or a refusal in the envelope, never a 500;
a refusal costs nothing, books nothing and makes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any
from urllib.parse import quote

import pytest

from adapters.http.parsing import UNSTORABLE
from adapters.memory.billing import MemoryOrders
from adapters.memory.payments import TOLERANCE_S, MemoryPayments, Notice
from kyma.errors import Code
from kyma.money import usd
from kyma.throttles import LIMITS, Guarded
from tests.http.on_memory import SECRET, STRANGER, Place, a_place
from tests.http.wired import Answer


async def a_shop() -> Place:
    return await a_place(
        stripe_secret_key="sk_test_memory",
        stripe_webhook_secret="whsec_memory",
        public_url="https://kyma.example",
    )


def processor(place: Place) -> MemoryPayments:
    found = place.container.processor()
    assert isinstance(found, MemoryPayments)
    return found


@dataclass(frozen=True)
class Route:
    """A route that takes JSON, a good body for it, and whether it wants a key."""

    method: str
    path: str
    body: dict[str, Any]
    keyed: bool = True


KEY = {
    "name": "a box",
    "scopes": ["inference"],
    "allowed_models": ["big"],
    "monthly_cap_usd": 5,
    "ip_list": ["203.0.113.0/24"],
    "expires_at": "2999-01-31T00:00:00Z",
    "replay_minutes": 0,
}
AMOUNTS = {"threshold": 5, "amount": 20, "monthly_ceiling": 100}
ROUTES = {
    "register": Route(
        "POST", "/v1/auth/register",
        {"email": "bob@example.com", "password": "secret-1", "referral_code": "0123456789"}, False,
    ),
    "login": Route(
        "POST", "/v1/auth/login", {"email": "bob@example.com", "password": "secret-1"}, False
    ),
    "forgot": Route("POST", "/v1/auth/password/forgot", {"email": "nobody@example.com"}, False),
    "reset": Route(
        "POST", "/v1/auth/password/reset",
        {"token": "kl-0", "password": "secret-1", "revoke_keys": True}, False,
    ),
    "confirm": Route("POST", "/v1/auth/verify/confirm", {"token": "kl-0"}, False),
    "device code": Route("POST", "/v1/auth/device/code", {"client_name": "a box"}, False),
    "device token": Route("POST", "/v1/auth/device/token", {"device_code": "kd-0"}, False),
    "key": Route("POST", "/v1/auth/keys", KEY),
    "key change": Route("PATCH", "/v1/auth/keys/KEY", KEY),
    "key rotation": Route("POST", "/v1/auth/keys/KEY/rotate", {"overlap_hours": 1}),
    "limits": Route(
        "POST", "/v1/limits/requests",
        {"company": "Example GmbH", "use": "support", "expected_load": "250 a minute"},
    ),
    "checkout": Route("POST", "/v1/billing/checkout", {"amount": 20, "currency": "usd"}),
    "package": Route("POST", "/v1/billing/checkout", {"package": 20}),
    "charge": Route("POST", "/v1/billing/charge", {"amount": 20, "card_id": "pm_none"}),
    "top-up": Route("PUT", "/v1/billing/auto-topup", {"enabled": False, **AMOUNTS}),
}  # fmt: skip
each_route = pytest.mark.parametrize("name", ROUTES)

DEEP = 20_000
STRANGE = [
    "null", "true", "false", "0", "-0", "-1", "-20", "0.1", "4.99", "20.001", "1e309", "-1e309",
    "1e-320", "1e22", "NaN", "Infinity", "9223372036854775808", "-9223372036854775809",
    "1" + "0" * 400, "[]", "{}", "[20]", '[["inference"]]', "[null]", '{"a": {"b": 1}}', '""',
    '" "', '"-5"', '"5e3"', '" 20"', '"20\\n"', '"0x14"', '"NaN"', '"\\u0000"', '"20\\u0000"',
    '"\\ud800"', '"\\udc00\\ud800"', '"\\uff12\\uff10"', '"\\u202e\\u200b"', '"\\u0130@x.de"',
    '"a@b.de\\r\\nBcc: c@d.de"', '"0001-01-01T00:00:00+14:00"', '"9999-12-31T23:59:59-14:00"',
    '"::1/129"', '"%00"', '"../../x"', f'"{"x" * 50_000}"', f'"{"a@" * 20_000}"',
    "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP,
]  # fmt: skip
"""JSON, or nearly, in the place of one value."""


def complaint(answer: Answer) -> str | None:
    """What is wrong with an answer to a hostile request, if something is."""
    if "x-kyma-request-id" not in answer.headers:
        return "no request id"
    if answer.status in {200, 201, 202}:
        return None
    if not 400 <= answer.status < 500:
        return f"status {answer.status}"
    told = answer.json()
    # OAuth's clients want a plain word there; ours stand beside it.
    error = told["error"] if isinstance(told["error"], dict) else told
    if error.get("code") not in {code.value for code in Code}:
        return "no code"
    if error.get("charged") is not False:
        return "does not say that it is free"
    if error.get("request_id") != answer.headers["x-kyma-request-id"]:
        return "another request id"
    return None if error.get("message") or told.get("error_description") else "no message"


def books(place: Place) -> tuple[object, ...]:
    """What a refusal may not change."""
    orders = place.container.orders()
    assert isinstance(orders, MemoryOrders)
    keys = [(key.id, key.name, key.policy, key.digest, key.revoked_at) for key in
            place.store.keys.values()]  # fmt: skip
    return (
        len(place.store.entries), len(place.store.accounts), keys, len(place.store.open_holds),
        len(orders._till.orders), repr(place.container.top_ups().till.top_ups),
        processor(place).charges,
    )  # fmt: skip


def texts(kept: object) -> Iterator[str]:
    """Every text within something that is kept."""
    if isinstance(kept, str):
        yield kept
    elif is_dataclass(kept):
        for field in fields(kept):
            yield from texts(getattr(kept, field.name))
    elif isinstance(kept, Mapping):
        yield from texts([*kept, *kept.values()])
    elif isinstance(kept, Iterable) and not isinstance(kept, bytes):
        for one in kept:
            yield from texts(one)


def unstorable(place: Place) -> list[str]:
    """Texts that were kept and for which PostgreSQL has none."""
    container = place.container
    kept = [
        place.store.accounts, place.store.keys, place.store.sessions, container.mails().rows,
        container.device_codes()._ways.devices, container.limit_requests().requests,
        container.orders()._till.orders, container.top_ups().till.top_ups,
    ]  # fmt: skip
    return [text for text in texts(kept) if UNSTORABLE.search(text)]


async def sent(place: Place, route: Route, raw: str | bytes, **headers: str) -> Answer:
    """One hostile request, after which the books are right."""
    before = books(place)
    path = route.path.replace("KEY", place.key.id)
    body = raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass")
    secret = SECRET if route.keyed else None
    answer = await place.ask(route.method, path, body, secret=secret, **headers)
    if answer.status == 429:  # so many attempts are enough for now: wait, and ask again
        assert complaint(answer) is None
        place.pass_time(int(answer.headers["retry-after"]) + 1)
        answer = await place.ask(route.method, path, body, secret=secret, **headers)
    shown = (route.path, body[:200], answer.status, answer.body[:300])
    assert complaint(answer) is None, (complaint(answer), *shown)
    if answer.status >= 400:
        assert books(place) == before, shown
    else:
        assert not unstorable(place), shown
    return answer


def replaced(body: dict[str, Any], field: str, by: str) -> str:
    """The body as text, with this in the place of a value."""
    mark = '"THE MARK"'
    return json.dumps({**body, field: "THE MARK"}).replace(mark, by)


@each_route
async def test_no_value_in_any_field_breaks_a_route(name: str) -> None:
    place, route = await a_shop(), ROUTES[name]
    for field in route.body:
        for value in STRANGE:
            await sent(place, route, replaced(route.body, field, value))


REFUSED = [
    "", " ", "17", "null", '"text"', "[{}]", "{", "}", '{"a": 1}}', "{'a': 1}", '{"a": 1,}',
    "\ufeff{}", '{"\\ud800": 1}', '{"a": "\ud800"}', "[" * 60_000, '{"a":' * DEEP, b"\xff\xfe{}",
    b'{"a": "\xc3\x28"}', b"\x1f\x8b\x08\x00", "{}".encode("utf-16"), "{}" * 2,
    '{"a": "' + "x" * 70_000 + '"}',
]  # fmt: skip
"""No JSON object, or one that is too large."""


@each_route
async def test_what_is_no_object_is_refused(name: str) -> None:
    place, route = await a_shop(), ROUTES[name]
    for raw in REFUSED:
        if raw == "" and name == "device code":
            continue  # a wish without a body is a wish
        answer = await sent(place, route, raw)
        assert answer.status in {400, 413}, (raw[:40], answer.status)


@pytest.mark.parametrize("name", ["checkout", "charge", "top-up", "register", "key", "limits"])
async def test_a_wrong_wrapping_is_refused_or_looked_through(name: str) -> None:
    place, route = await a_shop(), ROUTES[name]
    good = json.dumps(route.body)
    for media in ("text/plain", "application/xml", "multipart/form-data; boundary=x", "\x7f", ""):
        await sent(place, route, good, Content_Type=media)
    for packing in ("gzip", "br", "identity, gzip", "x" * 5000):
        answer = await sent(place, route, good, Content_Encoding=packing)
        assert answer.status == 415
    for key in ("", " ", "x" * 5000, "\u00e9", "a\tb"):
        await sent(place, route, good, Idempotency_Key=key)


@pytest.mark.parametrize("path", ["/v1/billing/checkout", "/v1/billing/charge"])
async def test_no_amount_but_what_is_sold_makes_an_order(path: str) -> None:
    place = await a_shop()
    wrong = [
        -1, 0, -0.0, 4.99, 4.999999999, 5.001, 10_000.01, 10**9, 10**18, 10**30, 1e300, True,
        "five", "", "-5", "+5", "5,00", "5.", ".5", "5e0", "5\u0000", "\u0665", "5" * 400, [5],
        {"usd": 5},
    ]  # fmt: skip
    for amount in wrong:
        answer = await sent(place, Route("POST", path, {}), json.dumps({"amount": amount}))
        assert answer.status == 400, amount
        assert answer.json()["error"]["param"] in {"amount", None}
    for currency in ("eur", "EUR", "usd ", "", 1, ["usd"], {"usd": 1}, "\u0000"):
        body = json.dumps({"amount": 20, "currency": currency})
        answer = await sent(place, Route("POST", path, {}), body)
        assert (answer.status, answer.json()["error"]["param"]) == (400, "currency"), currency


async def test_of_a_field_that_is_named_twice_the_last_one_counts() -> None:
    place = await a_shop()
    answer = await sent(place, ROUTES["checkout"], '{"amount": -1, "amount": 5}')
    assert (answer.status, answer.json()["amount"]) == (200, "5")
    assert (await sent(place, ROUTES["checkout"], '{"amount": 5, "amount": -1}')).status == 400


# Paths and queries

PLACES = [
    ("GET", "/v1/billing/checkout/"), ("DELETE", "/v1/billing/cards/"),
    ("GET", "/v1/credits/statements/"), ("DELETE", "/v1/auth/keys/"),
    ("DELETE", "/v1/auth/sessions/"),
]  # fmt: skip
NAMES = [
    "\x00", "a\x00b", "\ufffd", "..", "%00", "0" * 32, "g" * 32, "a" * 5000, "-1", "\u0661" * 32,
    "2026-13", "2026-05\n", "\u0662026-05", "0000-00", "99999999-01", "pi_1", "cs_\u00e9", "'; --",
    "00000000-0000-0000-0000-00000000000g", "\u202e", "null",
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), PLACES)
async def test_a_name_that_nothing_has_leads_to_nothing(method: str, path: str) -> None:
    place = await a_shop()
    for name in NAMES:
        await sent(place, Route(method, path + name, {}), "")


async def test_no_question_about_transactions_breaks_them() -> None:
    place = await a_shop()
    values = [
        "", "\x00", "-1", "0", "1e9", "9" * 400, "\u0665", "\ufffd", "AAAA", "=" * 32, "A" * 32,
        "_" * 32, "/" * 32, "f" * 5000, "[]", "0001-01-01T00:00:00+14:00", "NaN", "2026-02-30",
        "9999-12-31T23:59:59-14:00", "deposit,grant", "DEPOSIT", "9999999999999999",
    ]  # fmt: skip
    for name in ("cursor", "since", "until", "limit", "kind", "format", "unknown"):
        for value in values:
            path = f"/v1/credits/transactions?{name}={quote(value)}"
            await sent(place, Route("GET", path, {}), "")
    for query in ("limit=1&limit=-1", "cursor=%FF%FE", "&&&===", "%", "cursor[]=1", "a" * 5000):
        await sent(place, Route("GET", f"/v1/credits/transactions?{query}", {}), "")


@pytest.mark.parametrize("sent_as", ["authorization", "x-api-key"])
async def test_no_credential_but_a_key_opens_anything(sent_as: str) -> None:
    place = await a_shop()
    for secret in ("", " ", "ky-", "ky-" + "x" * 5000, "ky-\u00e9" + "a" * 40, "ks-\x7f", "Bearer"):
        headers = {sent_as.replace("-", "_"): f"Bearer {secret}" if "auth" in sent_as else secret}
        for path in ("/v1/billing/cards", "/v1/auth/keys", "/v1/auth/limits"):
            answer = await place.ask("GET", path, secret=None, **headers)
            assert (answer.status, complaint(answer)) == (401, None), secret


# OAuth's form

FORM = "application/x-www-form-urlencoded"
TOLD = {
    "grant_type": "authorization_code",
    "code": "kc-0",
    "client_id": "nobody",
    "redirect_uri": "https://app.example/cb",
    "code_verifier": "v" * 64,
}


async def test_no_form_breaks_the_exchange_of_a_code() -> None:
    place = await a_shop()
    route = Route("POST", "/v1/auth/token", {}, keyed=False)
    for field in TOLD:
        for value in ("", "%00", "%FF", "%ED%A0%80", "x" * 20_000, "[]", "%F0%9F%98%80"):
            told = "&".join(f"{n}={value if n == field else quote(v)}" for n, v in TOLD.items())
            assert (await sent(place, route, told, Content_Type=FORM)).status >= 400
    for raw in ("", "&" * 5000, "=" * 5000, "a=1&" * 2000, "%", "\x00", json.dumps(TOLD), "[]"):
        for media in (FORM, "application/json", "multipart/form-data", "text/plain"):
            assert (await sent(place, route, raw, Content_Type=media)).status >= 400


# Notices


async def deliver(place: Place, raw: bytes, signature: str) -> Answer:
    return await sent(
        place, Route("POST", "/v1/billing/webhook", {}, keyed=False), raw,
        Stripe_Signature=signature,
    )  # fmt: skip


async def paid(place: Place) -> Notice:
    """The notice of a payment of $20 that nobody was told of."""
    order = (await place.ask("POST", "/v1/billing/checkout", {"amount": 20})).json()
    processor(place).pay(order["url"].rsplit("/", 1)[1])
    return processor(place).notices[-1]


async def test_only_a_whole_fresh_notice_of_the_processor_is_acted_on() -> None:
    place = await a_shop()
    notice = await paid(place)
    raw, good = notice.raw, notice.signature
    stamp, _, mark = good.partition(".")
    forged = [
        (raw, ""), (raw, mark), (raw, stamp + "."), (raw, f"{stamp}.{mark[:-1]}"),
        (raw, f"{int(stamp) + 1}.{mark}"), (raw, f"-{stamp}.{mark}"), (raw, f"{stamp}.{'0' * 64}"),
        (raw, f"{'9' * 400}.{mark}"), (raw, good + "\u00e9"), (raw, good.upper()),
        (raw[: len(raw) // 2], good), (raw + b" ", good), (b"", good), (raw[::-1], good),
        (raw.replace(b"pi_", b"pi-"), good), (b"\x00" * 1000, good),
    ]  # fmt: skip
    for body, signature in forged:
        answer = await deliver(place, body, signature)
        assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_signature")
    assert (await place.ledger.balance(place.account.id)).paid == 0
    place.pass_time(TOLERANCE_S + 1)
    late = await place.ask("POST", "/v1/billing/webhook", raw, secret=None, Stripe_Signature=good)
    assert (late.status, late.json()["error"]["code"]) == (400, "invalid_signature")
    assert await place.container.notices().waiting() == [], "what is refused is not kept"


async def test_a_notice_that_is_replayed_is_acted_on_once() -> None:
    place = await a_shop()
    notice = await paid(place)
    for _ in range(5):
        answer = await place.ask(
            "POST", "/v1/billing/webhook", notice.raw, secret=None,
            Stripe_Signature=notice.signature,
        )  # fmt: skip
        assert answer.status == 200
    assert (await place.ledger.balance(place.account.id)).paid == usd("20")


# How often


@pytest.mark.parametrize("path", ["checkout", "charge", "cards"])
async def test_who_begins_to_pay_too_often_waits_and_the_processor_is_not_asked(path: str) -> None:
    place = await a_shop()
    body = None if path == "cards" else {"amount": 20}
    most = LIMITS[Guarded.PURCHASE].per_subject
    answers = [await place.ask("POST", f"/v1/billing/{path}", body) for _ in range(most + 3)]
    assert {answer.status for answer in answers[:most]} == {404 if path == "charge" else 200}
    pages = len(processor(place)._pages)
    for answer in answers[most:]:
        error = answer.json()["error"]
        assert (answer.status, error["code"]) == (429, "too_many_attempts")
        assert (error["charged"], error["retryable"]) == (False, True)
        assert 0 < int(answer.headers["retry-after"]) <= LIMITS[Guarded.PURCHASE].window_s
    assert pages == (0 if path == "charge" else most)
    other = await place.ask("POST", f"/v1/billing/{path}", body, secret=STRANGER)
    assert other.status != 429, "others buy on"
    for where in ("cards", "invoices", "auto-topup"):
        assert (await place.ask("GET", f"/v1/billing/{where}")).status == 200, "looking is free"
    place.pass_time(LIMITS[Guarded.PURCHASE].window_s)
    assert (await place.ask("POST", f"/v1/billing/{path}", body)).status != 429


@pytest.mark.parametrize(
    ("path", "body"), [("charge", {"amount": 20}), ("checkout", {"amount": 20})]
)
async def test_a_purchase_repeated_under_its_key_is_none_and_is_never_called_uncharged(
    path: str, body: dict[str, Any]
) -> None:
    place = await a_shop()
    page = (await place.ask("POST", "/v1/billing/cards")).json()["url"]
    processor(place).leave_card(page.rsplit("/", 1)[1])

    async def again(key: str = "one") -> Answer:
        return await place.ask("POST", f"/v1/billing/{path}", body, Idempotency_Key=key)

    first = await again()
    assert first.status == 200
    most = LIMITS[Guarded.ASKING].per_subject
    answers = [await again() for _ in range(most)]
    assert {(answer.status, answer.body) for answer in answers} == {(200, first.body)}
    refused = await again()
    error = refused.json()["error"]
    assert (refused.status, error["code"], error["charged"]) == (429, "too_many_attempts", None)
    assert 0 < int(refused.headers["retry-after"]) <= LIMITS[Guarded.ASKING].window_s
    assert processor(place).charges == (path == "charge")
    begun = LIMITS[Guarded.PURCHASE].per_subject
    others = [await again(f"another {n}".replace(" ", "-")) for n in range(begun)]
    assert [answer.status for answer in others] == [200] * (begun - 2) + [429] * 2
    assert {answer.json()["error"]["charged"] for answer in others[-2:]} == {False}


ASKING = [
    ("GET", "cards", None),
    ("PUT", "cards/pm_1/default", None),
    ("DELETE", "cards/pm_1", None),
    ("GET", "invoices", None),
    ("GET", "checkout/{order}", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ASKING)
async def test_the_processor_is_not_asked_as_often_as_anybody_likes(
    method: str, path: str, body: Any
) -> None:
    place = await a_shop()
    order = (await place.ask("POST", "/v1/billing/checkout", {"amount": 20})).json()["order_id"]
    where = f"/v1/billing/{path.format(order=order)}"
    most = LIMITS[Guarded.ASKING].per_subject
    answers = [await place.ask(method, where, body) for _ in range(most)]
    assert {answer.status for answer in answers} <= {200, 404}
    processor(place).go_down(1_000)
    refused = await place.ask(method, where, body)
    assert (refused.status, refused.json()["error"]["code"]) == (429, "too_many_attempts")
    assert 0 < int(refused.headers["retry-after"]) <= LIMITS[Guarded.ASKING].window_s
    for other, elsewhere, _ in ASKING:
        asked = await place.ask(other, f"/v1/billing/{elsewhere.format(order=order)}")
        assert asked.status == 429, "one window for all of them"
    assert (await place.ask(method, where, body, secret=STRANGER)).status != 429
    processor(place)._down.clear()
    assert (await place.ask("POST", "/v1/billing/checkout", {"amount": 20})).status == 200
    place.pass_time(LIMITS[Guarded.ASKING].window_s)
    assert (await place.ask(method, where, body)).status in {200, 404}


async def test_auto_top_up_is_not_switched_on_as_often_as_anybody_likes_but_off() -> None:
    place = await a_shop()
    page = (await place.ask("POST", "/v1/billing/cards")).json()["url"]
    processor(place).leave_card(page.rsplit("/", 1)[1])
    processor(place).tax_percent = 8
    on = {"enabled": True, "threshold": 5, "amount": 20, "monthly_ceiling": 100}
    wrong = {**on, "threshold": 21}
    begun = LIMITS[Guarded.PURCHASE].per_subject
    for _ in range(begun):
        assert (await place.ask("PUT", "/v1/billing/auto-topup", wrong)).status == 400
    answers = [await place.ask("PUT", "/v1/billing/auto-topup", on) for _ in range(begun)]
    assert [answer.status for answer in answers] == [200] * (begun - 1) + [429]
    assert processor(place).reckoned == begun - 1
    for _ in range(2 * LIMITS[Guarded.ASKING].per_subject):
        off = await place.ask("PUT", "/v1/billing/auto-topup", {"enabled": False})
        assert (off.status, off.json()["enabled"]) == (200, False)
        assert (await place.ask("GET", "/v1/billing/auto-topup")).status == 200


async def test_who_comes_back_from_paying_too_often_is_told_what_is_known() -> None:
    place = await a_shop()
    sales = place.container.sales()
    order = (await place.ask("POST", "/v1/billing/checkout", {"amount": 20})).json()
    where = f"/v1/billing/checkout/{order['order_id']}"
    for _ in range(LIMITS[Guarded.ASKING].per_subject):
        await place.ask("GET", where)
    processor(place).pay(order["url"].rsplit("/", 1)[1])
    async with place.gateway.quart.test_request_context("/billing/back"):
        assert await sales.state_of(place.account.id, order["order_id"]) == "open"
        place.pass_time(LIMITS[Guarded.ASKING].window_s)
        assert await sales.state_of(place.account.id, order["order_id"]) == "credited"


async def test_what_is_no_purchase_is_not_counted_as_one() -> None:
    place = await a_shop()
    for _ in range(2 * LIMITS[Guarded.PURCHASE].per_subject):
        answer = await place.ask("POST", "/v1/billing/checkout", {"amount": "five"})
        assert answer.status == 400
    assert (await place.ask("POST", "/v1/billing/checkout", {"amount": 20})).status == 200
