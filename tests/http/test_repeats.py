"""`Idempotency-Key` on every POST: what a repetition gets, by the audit's own list of routes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from dependency_injector import providers

from adapters.http.app import DIALECTS
from adapters.http.contract import Auth, Operation, Repeat
from adapters.http.openapi import PARAMETER, Route, routes_of
from adapters.http.schemas import SCHEMAS
from adapters.memory.keys import MemoryKeys
from adapters.memory.mail import MemoryMails
from adapters.memory.payments import MemoryPayments
from adapters.memory.requests import MemoryClaims
from adapters.system import HmacDigests
from adapters.vault import AesVault
from kyma.accounts import Key
from kyma.flows.repeats import LEASE_S, UNTOLD, Repeats
from kyma.idempotency import KEEP_S, digest_of, fingerprint_of
from kyma.keys import MAX_KEYS
from kyma.mail import Letter
from kyma.ports.requests import Claims
from kyma.ports.storage import Principal, StorageUnavailable
from tests.builders import a_key, new_id
from tests.http.on_memory import SECRET, STRANGER, Place, a_body, a_place
from tests.http.wired import Answer, ask, gateway

KEY = "7d4e9f0c-3b1a-4c7e-9a55-2f6f0d1f8b11"
REPLAY = "x-kyma-idempotent-replay"
NEVER = {
    "/v1/auth/token": "RFC 6749, 4.1.2: a code must not be used twice",
    "/v1/billing/webhook": "signed by the processor, and told apart by its event",
}
"""Routes for programs that take no key, and why."""

ROUTES = [*routes_of(gateway().quart)]
POSTS = [route for route in ROUTES if route.method == "POST"]


def declared(route: Route) -> Operation:
    assert route.operation is not None
    return route.operation


@dataclass(frozen=True)
class Case:
    """One request that does something, and what another under the same key would say."""

    path: str
    body: Any = None
    other: Any = field(default_factory=lambda: {"something": "else"})
    secret: str | None = SECRET

    def raw(self) -> bytes:
        return b"" if self.body is None else orjson.dumps(self.body)

    async def ask(self, place: Place, body: Any = ..., key: str = KEY) -> Answer:
        told = self.body if body is ... else body
        named = {"Idempotency-Key": key}
        return await place.ask("POST", self.path, told, secret=self.secret, **named)


async def a_shop() -> Place:
    return await a_place(
        stripe_secret_key="sk_test_memory",
        stripe_webhook_secret="whsec_memory",
        public_url="https://kyma.example",
    )


async def registered(place: Place) -> dict[str, Any]:
    body = {"email": "ana@example.com", "password": "correct horse"}
    answer = await place.ask("POST", "/v1/auth/register", body, secret=None)
    assert answer.status == 200
    found: dict[str, Any] = answer.json()
    return found


def mailed(place: Place, letter: Letter) -> str:
    """The token of the last link of this kind."""
    mails = place.container.mails()
    assert isinstance(mails, MemoryMails)
    row = [row for row in mails.rows.values() if row.letter is letter][-1]
    (url,) = [fact for fact in row.facts.values() if "token=" in fact]
    return parse_qs(urlsplit(url).query)["token"][0]


async def saved_card(place: Place) -> None:
    page = (await place.ask("POST", "/v1/billing/cards")).json()["url"]
    processor = place.container.processor()
    assert isinstance(processor, MemoryPayments)
    processor.leave_card(page.rsplit("/", 1)[1])


async def to_register(_: Place) -> Case:
    body = {"email": "new@example.com", "password": "correct horse"}
    return Case("/v1/auth/register", body, {**body, "password": "wrong horse"}, None)


async def to_log_in(place: Place) -> Case:
    await registered(place)
    body = {"email": "ana@example.com", "password": "correct horse"}
    return Case("/v1/auth/login", body, {**body, "password": "wrong horse"}, None)


async def to_log_out(place: Place) -> Case:
    return Case("/v1/auth/logout", secret=(await registered(place))["session_token"])


async def to_rotate(place: Place) -> Case:
    path = f"/v1/auth/keys/{place.key.id}/rotate"
    return Case(path, {"overlap_hours": 1}, {"overlap_hours": 2})


async def to_poll(place: Place) -> Case:
    begun = await place.ask("POST", "/v1/auth/device/code", {}, secret=None)
    code = begun.json()["user_code"]
    await place.container.devices().decide(code, await place.person(), approved=True)
    body = {"device_code": begun.json()["device_code"]}
    return Case("/v1/auth/device/token", body, {"device_code": "kd-other"}, None)


async def to_forget(place: Place) -> Case:
    await registered(place)
    body = {"email": "ana@example.com"}
    return Case("/v1/auth/password/forgot", body, {"email": "eva@example.com"}, None)


async def to_reset(place: Place) -> Case:
    asked = await to_forget(place)
    await place.ask("POST", asked.path, asked.body, secret=None)
    body = {"token": mailed(place, Letter.RESET), "password": "another horse"}
    return Case("/v1/auth/password/reset", body, {**body, "password": "yet another"}, None)


async def to_confirm(place: Place) -> Case:
    await registered(place)
    body = {"token": mailed(place, Letter.VERIFY), "password": "correct horse"}
    return Case("/v1/auth/verify/confirm", body, {**body, "token": "other"}, None)


async def to_ask_for_limits(_: Place) -> Case:
    body = {"company": "Acme", "use": "Tests", "expected_load": "Much"}
    return Case("/v1/limits/requests", body, {**body, "company": "Other"})


async def to_charge(place: Place) -> Case:
    await saved_card(place)
    return Case("/v1/billing/charge", {"amount": 20}, {"amount": 21})


def plainly(path: str, body: Any = None, other: Any = None, secret: str | None = SECRET) -> Any:
    """A request that needs nothing to be there before it."""

    async def case(_: Place) -> Case:
        return Case(path, body, other if other is not None else {"x": 1}, secret)

    return case


CASES: dict[str, Callable[[Place], Awaitable[Case]]] = {
    "register": to_register,
    "login": to_log_in,
    "logout": to_log_out,
    "logoutEverywhere": plainly("/v1/auth/logout/all"),
    "createKey": plainly("/v1/auth/keys", {"name": "one"}, {"name": "two"}),
    "rotateKey": to_rotate,
    "createDeviceCode": plainly("/v1/auth/device/code", {"client_name": "a"}, {}, None),
    "pollDeviceToken": to_poll,
    "forgotPassword": to_forget,
    "resetPassword": to_reset,
    "askVerification": plainly("/v1/auth/verify"),
    "confirmVerification": to_confirm,
    "requestLimits": to_ask_for_limits,
    "quote": plainly("/v1/quote", a_body(), a_body(max_tokens=101)),
    "countTokens": plainly(
        "/v1/messages/count_tokens",
        {"model": "big", "messages": [{"role": "user", "content": "one"}]},
        {"model": "big", "messages": [{"role": "user", "content": "two"}]},
    ),
    "createCheckout": plainly("/v1/billing/checkout", {"amount": 20}, {"amount": 21}),
    "chargeCard": to_charge,
    "saveCard": plainly("/v1/billing/cards"),
}
BY_ID = {declared(route).id: route for route in POSTS}
KEEPS_ITS_ANSWER = sorted(id for id in CASES if declared(BY_ID[id]).repeat is not Repeat.SAME)
of_all = pytest.mark.parametrize("id", sorted(CASES))


def counted(place: Place) -> tuple[int, ...]:
    """Of everything that a request may make, how many there are."""
    mails, till = place.container.mails(), place.container.processor()
    assert isinstance(mails, MemoryMails)
    assert isinstance(till, MemoryPayments)
    store = place.store
    asked = len(store.keys), len(store.accounts), len(store.sessions), len(mails.rows)
    return (*asked, till.charges, len(store.entries))


# Which routes there are.


def speechless(routes: Iterable[Route]) -> list[str]:
    """Where something is posted and nothing is said of repetitions."""
    posts = [route for route in routes if route.method == "POST"]
    return [route.path for route in posts if declared(route).repeat is None]


def test_every_post_route_says_what_a_repetition_gets() -> None:
    assert speechless(ROUTES) == []


def test_a_post_route_that_does_not_say_it_fails_the_audit() -> None:
    new = Route("POST", "/v1/new", replace(declared(BY_ID["login"]), repeat=None))
    assert speechless([*ROUTES, new]) == ["/v1/new"]


def test_every_post_route_for_programs_has_a_case_here_or_a_reason() -> None:
    programs = [route for route in POSTS if declared(route).documented]
    never = {route.path for route in programs if declared(route).repeat is Repeat.NEVER}
    texts = {route.path for route in programs if declared(route).repeat is Repeat.RECEIPT}
    assert never == set(NEVER)
    assert texts == {dialect.path for dialect in DIALECTS}  # tests/e2e/test_repeats.py
    others = {declared(route).id for route in programs if route.path not in never | texts}
    assert others == set(CASES)


def test_a_page_for_people_takes_no_key() -> None:
    pages = [declared(route) for route in POSTS if not declared(route).documented]
    assert pages
    assert {page.repeat for page in pages} == {Repeat.NEVER}


def test_an_answer_with_a_secret_is_kept_for_minutes_only() -> None:
    """By their schemas: whatever is named like a secret."""
    names = ("api_key", "session_token", "access_token", "device_code")
    secret = set()
    for route in POSTS:
        for answer in declared(route).answers.values():
            schema = SCHEMAS[answer.schema] if isinstance(answer.schema, str) else {}
            if set(names) & set(schema.get("properties", {})):
                secret.add(declared(route).id)
    kept = {id for id in secret if declared(BY_ID[id]).repeat is not Repeat.NEVER}
    assert {"createKey", "register", "login", "createDeviceCode"} <= kept
    assert {declared(BY_ID[id]).repeat for id in kept} == {Repeat.SHOWN_ONCE, Repeat.TICKET}


# What each of them does.


@of_all
async def test_the_same_request_has_the_same_outcome_and_is_done_once(id: str) -> None:
    place = await a_shop()
    case = await CASES[id](place)
    first = await case.ask(place)
    assert first.status in declared(BY_ID[id]).answers, first.body
    assert REPLAY not in first.headers
    done = counted(place)
    again = await case.ask(place)
    assert counted(place) == done
    if id == "logout":  # the session that asks has ended, as was asked
        assert again.status == 401
        return
    assert (again.status, again.body) == (first.status, first.body)
    if id in KEEPS_ITS_ANSWER:
        assert again.headers[REPLAY] == "true"
        assert again.headers["x-kyma-request-id"] == first.headers["x-kyma-request-id"]
        assert again.headers["content-type"] == first.headers["content-type"]


@of_all
async def test_another_body_under_the_same_key_is_refused_and_nothing_is_done(id: str) -> None:
    place = await a_shop()
    case = await CASES[id](place)
    assert (await case.ask(place)).status < 400
    done = counted(place)
    other = await case.ask(place, case.other)
    assert counted(place) == done
    if id == "logout":
        assert other.status == 401
        return
    error = other.json()["error"]
    told = other.json()["code"] if isinstance(error, str) else error.get("code", error["type"])
    assert other.status == 409
    assert told in {"idempotency_key_reused", "invalid_request_error"}  # Anthropic has no codes


async def begun_by_another(place: Place, id: str, case: Case) -> str:
    """A process claims the request's key, and is heard of no more; the id it works under."""
    repeats = place.container.repeats()
    account, secret = place.account.id, SECRET
    if declared(BY_ID[id]).auth is Auth.NONE:
        account, secret = repeats.scope_of("127.0.0.1"), ""
    elif case.secret != SECRET:
        principal = await place.container.access().identify(case.secret)
        account, secret = principal.account_id, case.secret or ""
    asked = fingerprint_of("POST", case.path, case.raw())
    claim = await repeats.begin(account, secret, KEY, asked, new_id(), UNTOLD)
    return str(claim.request_id)


@of_all
async def test_while_the_first_is_at_work_a_repetition_is_told_when_to_ask_again(id: str) -> None:
    """And if it died at work, one that asks later works in its place."""
    place = await a_shop()
    case = await CASES[id](place)
    await begun_by_another(place, id, case)
    done = counted(place)
    early = await case.ask(place)
    assert early.status == 409
    assert int(early.headers["retry-after"]) >= 1
    assert counted(place) == done
    place.pass_time(LEASE_S + 1)
    late = await case.ask(place)
    assert late.status in declared(BY_ID[id]).answers, late.body
    assert REPLAY not in late.headers


async def test_a_body_with_a_query_is_another_request() -> None:
    place = await a_shop()
    named = {"Idempotency-Key": KEY}
    body = {"name": "one"}
    assert (await place.ask("POST", "/v1/auth/keys", body, **named)).status == 201
    other = await place.ask("POST", "/v1/auth/keys?x=1", body, **named)
    assert (other.status, other.json()["error"]["code"]) == (409, "idempotency_key_reused")


async def test_a_quote_with_another_limit_is_another_request() -> None:
    place = await a_shop()
    named = {"Idempotency-Key": KEY, "X-Kyma-Max-Cost": "1"}
    first = await place.ask("POST", "/v1/quote", a_body(), **named)
    again = await place.ask("POST", "/v1/quote", a_body(), **named)
    assert (first.status, again.body, again.headers[REPLAY]) == (200, first.body, "true")
    other = await place.ask("POST", "/v1/quote", a_body(), **{**named, "X-Kyma-Max-Cost": "2"})
    assert (other.status, other.json()["error"]["code"]) == (409, "idempotency_key_reused")


# What a key is, whose it is, and for how long.


async def test_a_new_key_made_twice_is_one_key_with_one_secret() -> None:
    place = await a_shop()
    case = await CASES["createKey"](place)
    first, again = await case.ask(place), await case.ask(place)
    assert again.json()["api_key"] == first.json()["api_key"]
    made = [key for key in place.store.keys.values() if key.name == "one"]
    assert [key.id for key in made] == [first.json()["id"]]


async def test_after_ten_minutes_a_secret_is_told_no_more_but_what_has_it_is_named() -> None:
    place = await a_shop()
    case = await CASES["createKey"](place)
    first = await case.ask(place)
    place.pass_time(601)
    late = await case.ask(place)
    assert (late.status, late.headers[REPLAY]) == (201, "true")
    assert late.json()["status"] == "already_completed"
    assert late.json()["id"] == first.json()["id"]
    assert "shown only once" in late.json()["message"]
    assert first.json()["api_key"] not in late.body.decode()


async def test_another_key_of_the_account_is_told_that_it_was_done_and_no_secret() -> None:
    place = await a_shop()
    case = await CASES["createKey"](place)
    first = await case.ask(place)
    other = await place.ask("POST", "/v1/auth/keys", {"name": "x", "scopes": ["keys.manage"]})
    named = {"Idempotency-Key": KEY}
    again = await place.ask("POST", case.path, case.body, secret=other.json()["api_key"], **named)
    assert (again.status, again.json()["id"]) == (201, first.json()["id"])
    assert "api_key" not in again.json()


async def test_a_stranger_has_keys_of_their_own() -> None:
    place = await a_shop()
    case = await CASES["createKey"](place)
    await case.ask(place)
    named = {"Idempotency-Key": KEY}
    other = await place.ask("POST", case.path, case.body, secret=STRANGER, **named)
    assert (other.status, REPLAY in other.headers) == (201, False)


async def test_what_is_kept_of_a_request_holds_no_secret_in_clear() -> None:
    place = await a_shop()
    for id in ("createKey", "register", "login", "createDeviceCode"):
        case = await CASES[id](place)
        assert (await case.ask(place, key=f"{KEY}/{id}")).status < 400
    assert place.claims.kept() == 4
    stored = repr([kept for name, kept in vars(place.claims).items() if name != "_store"])
    assert "sealed=b" in stored
    for word in ("ky-", "ks-", "kd-", "correct horse", "example.com", KEY, "127.0.0.1"):
        assert word not in stored


async def digest_kept(claims: Claims, account: str, key: str) -> bytes:
    """What is stored of the request that was made under a key."""
    known = await claims.claim(account, digest_of(key), b"", new_id(), 1)
    assert known is not None
    return known.fingerprint


async def test_no_digest_that_is_stored_lets_a_password_be_guessed() -> None:
    """Whoever reads the table may know the rest of a body, and could try every password."""
    place = await a_shop()
    case = await CASES["login"](place)
    nobody, keys = place.container.repeats().scope_of("127.0.0.1"), (KEY, f"{KEY}/2")
    for key in keys:
        assert (await case.ask(place, key=key)).status == 200
    stored = {await digest_kept(place.claims, nobody, key) for key in keys}
    assert len(stored) == 2, "one body looks different under another key"
    asked = fingerprint_of("POST", case.path, case.raw())
    for told in (case.raw(), asked, asked.hex().encode(), f"{KEY}\n{asked.hex()}".encode()):
        assert stored.isdisjoint([told, *plain_digests(told)])
    peppers = [HmacDigests(f"pepper-{name}" + "0" * 32) for name in "ab"]
    claims = [MemoryClaims(place.store) for _ in peppers]
    for shelf, digests in zip(claims, peppers, strict=True):
        await Repeats(shelf, AesVault(), digests).begin("a", "", KEY, asked, new_id(), UNTOLD)
    kept = {await digest_kept(shelf, "a", KEY) for shelf in claims}
    assert len(kept) == 2, "no server can tell what another one has stored"


def plain_digests(told: bytes) -> list[bytes]:
    """Plain digests of these bytes."""
    return [
        *(hashlib.new(name, told).digest() for name in ("sha256", "sha512", "md5", "sha1")),
        *(hashlib.blake2b(told, digest_size=size).digest() for size in (16, 32, 64)),
    ]


async def test_a_refused_request_gives_its_key_back_for_a_corrected_body() -> None:
    place = await a_shop()
    case = await CASES["createKey"](place)
    assert (await case.ask(place, {"name": 5})).status == 400
    assert (await case.ask(place)).status == 201


async def test_a_device_asks_again_under_its_key_until_somebody_has_approved() -> None:
    place = await a_shop()
    begun = (await place.ask("POST", "/v1/auth/device/code", {}, secret=None)).json()
    case = Case("/v1/auth/device/token", {"device_code": begun["device_code"]}, secret=None)
    assert (await case.ask(place)).status == 428
    await place.container.devices().decide(begun["user_code"], await place.person(), approved=True)
    first, again = await case.ask(place), await case.ask(place)
    assert first.json()["api_key"] == again.json()["api_key"]


async def test_a_device_code_is_not_told_again_under_a_key_that_can_be_guessed() -> None:
    place = await a_shop()
    case = await CASES["createDeviceCode"](place)
    first = await case.ask(place, key="1")
    again = await case.ask(place, key="1")
    assert (first.status, again.status) == (200, 200)
    assert again.json()["status"] == "already_completed"
    assert "device_code" not in again.json()


@pytest.mark.parametrize(
    ("id", "life_s"), [("createKey", KEEP_S), ("quote", 600), ("countTokens", 600)]
)
async def test_a_key_is_new_when_its_time_is_over(id: str, life_s: int) -> None:
    place = await a_shop()
    case = await CASES[id](place)
    await case.ask(place)
    place.pass_time(life_s - 1)
    assert (await case.ask(place)).headers[REPLAY] == "true"
    place.pass_time(2)
    assert REPLAY not in (await case.ask(place, case.other)).headers


async def test_a_bad_key_is_refused_on_every_route() -> None:
    place = await a_shop()
    for id in CASES:
        path = PARAMETER.sub(place.key.id, BY_ID[id].path)
        answer = await place.ask("POST", path, a_body(), **{"Idempotency-Key": "two words"})
        assert answer.status == 400, path
        assert b"Idempotency-Key must be" in answer.body


# What goes wrong.


async def test_without_its_database_a_request_with_a_key_is_a_503() -> None:
    named = {"Idempotency-Key": KEY, "content-type": "application/json"}
    body = orjson.dumps({"email": "ana@example.com"})
    answer = await ask(gateway(), "POST", "/v1/auth/password/forgot", named, body)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "storage_unavailable")
    assert answer.headers["retry-after"]


async def test_a_request_whose_client_hangs_up_is_done_and_its_repetition_is_told() -> None:
    place = await a_shop()
    case = await CASES["register"](place)
    await _ask_and_leave(place, case)
    async with asyncio.timeout(10):
        while (again := await case.ask(place)).status == 409:
            await asyncio.sleep(0.01)
    assert (again.status, again.headers[REPLAY]) == (200, "true")
    assert again.json()["api_key"].startswith("ky-")


async def _ask_and_leave(place: Place, case: Case) -> None:
    """A client that is gone as soon as its request has been read."""
    parts = [
        {"type": "http.request", "body": case.raw(), "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: dict[str, Any]) -> None:
        raise AssertionError(f"nobody is there to be told {message}")

    headers = {"host": "gateway", "content-length": str(len(case.raw())), "idempotency-key": KEY}
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": "POST", "scheme": "http", "path": case.path, "raw_path": case.path.encode(),
        "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    async with asyncio.timeout(10):
        await place.gateway(scope, receive, send)


async def test_a_try_that_is_refused_in_the_place_of_one_that_died_does_not_free_its_key() -> None:
    """What the dead one did is not known: whoever goes on is held to its body and its id."""
    place = await a_shop()
    case = await CASES["createKey"](place)
    id = await begun_by_another(place, "createKey", case)
    full = {new_id(): a_key(place.account, name.encode()) for name in map(str, range(MAX_KEYS))}
    place.store.keys.update({id: replace(key, id=id) for id, key in full.items()})
    place.pass_time(LEASE_S + 1)
    refused = await case.ask(place)
    assert (refused.status, refused.json()["error"]["code"]) == (403, "forbidden")
    for spare in full:
        del place.store.keys[spare]
    other = await case.ask(place, case.other)
    assert (other.status, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    answer = await case.ask(place)
    assert (answer.status, answer.json()["id"]) == (201, id)


async def test_a_first_try_that_is_refused_frees_its_key() -> None:
    place = await a_shop()
    case = await CASES["createKey"](place)
    full = {new_id(): a_key(place.account, name.encode()) for name in map(str, range(MAX_KEYS))}
    place.store.keys.update({id: replace(key, id=id) for id, key in full.items()})
    assert (await case.ask(place)).status == 403
    for spare in full:
        del place.store.keys[spare]
    assert (await case.ask(place, case.other)).status == 201


async def test_a_key_made_by_a_process_that_died_is_finished_and_not_made_again() -> None:
    """Between the key and the word that it is made: one key, whose secret somebody knows."""
    place = await a_shop()
    case = await CASES["createKey"](place)
    id = await begun_by_another(place, "createKey", case)
    place.store.keys[id] = replace(a_key(place.account, b"lost"), id=id, name="one")
    place.pass_time(LEASE_S + 1)
    answer = await case.ask(place)
    assert (answer.status, answer.json()["id"]) == (201, id)
    assert [key.id for key in place.store.keys.values() if key.name == "one"] == [id]
    balance = await place.ask("GET", "/v1/credits/balance", secret=answer.json()["api_key"])
    assert balance.status == 200


class LosesItsAnswer(MemoryKeys):
    """Writes the first key, and then cannot say so."""

    async def create(self, key: Key, by: Principal | None = None) -> bool:
        is_new = await super().create(key, by)
        if is_new:
            raise StorageUnavailable("the connection broke after the commit")
        return is_new


async def test_a_key_whose_commit_was_not_acknowledged_is_not_made_again() -> None:
    place = await a_shop()
    container = place.container
    container.key_rows.override(providers.Object(LosesItsAnswer(place.store)))
    container.keys.reset()
    container.gateway.reset()
    place.gateway = container.gateway()
    case = await CASES["createKey"](place)
    lost = await case.ask(place)
    assert (lost.status, lost.json()["error"]["code"]) == (503, "storage_unavailable")
    answer = await case.ask(place)
    assert answer.status == 201
    made = [key.id for key in place.store.keys.values() if key.name == "one"]
    assert made == [answer.json()["id"]]
    told = await place.ask("GET", "/v1/credits/balance", secret=answer.json()["api_key"])
    assert told.status == 200
