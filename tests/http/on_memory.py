"""The gateway as it is wired, over memory adapters and upstreams that follow a script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from dependency_injector import providers
from pydantic import SecretStr

from adapters.container import Container
from adapters.http.app import Gateway
from adapters.http.receipts import Books
from adapters.http.strangers import StrangerLimit
from adapters.memory.billing import (
    MemoryAlarms,
    MemoryNotices,
    MemoryOrders,
    MemoryStatements,
    MemoryTill,
)
from adapters.memory.identity import (
    MemoryAuthorizationCodes,
    MemoryDeviceCodes,
    MemoryIdentities,
    MemoryLinks,
    MemoryWays,
)
from adapters.memory.keys import MemoryAttempts, MemoryKeys, MemorySignIns
from adapters.memory.limit_requests import MemoryLimitRequests
from adapters.memory.mail import MemoryBell, MemoryMails
from adapters.memory.payments import MemoryPayments
from adapters.memory.referrals import MemoryReferrals
from adapters.memory.requests import MemoryClaims, MemoryPriceBook, MemoryReceipts
from adapters.memory.runtime import (
    MemoryConversations,
    MemoryHealth,
    MemoryLimiter,
    MemoryPasswords,
)
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.memory.topups import MemoryTopUps
from adapters.settings import Settings
from kyma.accounts import Account, Key
from kyma.catalog.model import Catalogue
from kyma.money import Usd, usd
from kyma.ports.storage import Principal, StorageUnavailable
from kyma.strangers import Strangers
from tests.builders import a_key, a_session, an_account
from tests.flows.upstreams import MODELS, PROVIDERS, Act, ScriptedUpstream
from tests.http.wired import Answer

CREDIT = usd("0.50")
SECRET = "ky-" + "0123456789abcdef" * 3
STRANGER = "ky-" + "fedcba9876543210" * 3


class Principals(MemoryAccounts):
    """Remembers nobody, and notes whom it was told to forget."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.forgotten: list[str] = []
        self.is_away = False
        self.is_hung = False
        self.slow_s = 0.0

    async def principal(self, digest: bytes) -> Principal | None:
        if self.is_away:
            raise StorageUnavailable("away")
        if self.is_hung:
            await asyncio.Event().wait()
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        return await super().principal(digest)

    async def forget(self, account_id: str) -> None:
        self.forgotten.append(account_id)


@dataclass
class Place:
    """A gateway with one customer, who has `SECRET`, and a stranger, who has `STRANGER`."""

    gateway: Gateway
    store: MemoryStore
    ledger: MemoryLedger
    limiter: MemoryLimiter
    upstream: ScriptedUpstream
    principals: Principals
    claims: MemoryClaims
    prices: MemoryPriceBook
    catalogue: Catalogue
    account: Account
    key: Key
    container: Container
    offset: list[float] = field(default_factory=lambda: [0.0])

    def pass_time(self, seconds: float) -> None:
        self.offset[0] += seconds

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        secret: str | None = SECRET,
        at_once: Callable[[], Awaitable[None]] | None = None,
        address: str = "127.0.0.1",
        **headers: str,
    ) -> Answer:
        """One request of a client that stays until it has its answer (`asked` tells the rest)."""
        raw = b"" if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
        given = {"host": "gateway", "content-length": str(len(raw))}
        if secret is not None:
            given["authorization"] = f"Bearer {secret}"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await asked(self.gateway, method, path, given, raw, at_once, address)

    async def chat(self, model: str = "big", **fields: Any) -> Answer:
        """A chat whose headers are the fields that are written with a capital letter."""
        headers = {name: fields.pop(name) for name in list(fields) if name[0].isupper()}
        return await self.ask("POST", "/v1/chat/completions", a_body(model, **fields), **headers)

    async def person(self) -> Principal:
        """The customer, signed in."""
        (session,) = (
            one for one in self.store.sessions.values() if one.account_id == self.account.id
        )
        found = await self.principals.principal(session.digest)
        assert found is not None
        return found

    async def spent(self) -> Usd:
        return Usd(CREDIT - (await self.ledger.balance(self.account.id)).posted)


def a_body(model: str = "big", **fields: Any) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "x" * 400}],
        "max_tokens": 100,
        **fields,
    }


async def a_place(script: Mapping[str, Sequence[Act]] | None = None, **more: Any) -> Place:
    """A place in which providers do as the script says; others say hello. `more` are settings."""
    offset = [0.0]
    store = MemoryStore(now=lambda: datetime.now(UTC) + timedelta(seconds=offset[0]))
    settings = Settings(
        database_url="postgresql://nobody@127.0.0.1:1/none",
        redis_url="redis://127.0.0.1:1/0",
        key_pepper=SecretStr("test-pepper-" + "0" * 32),
        sandbox="on",
        **more,
    )
    container = Container(settings=settings)
    principals, ledger, claims = Principals(store), MemoryLedger(store), MemoryClaims(store)
    receipts, prices = MemoryReceipts(store), MemoryPriceBook()
    upstream = ScriptedUpstream(script or {}, store)
    limiter = MemoryLimiter(time.monotonic)
    catalogue = Catalogue(MODELS, {"best": "big"}, PROVIDERS)
    ways, till = MemoryWays(store), MemoryTill(store)
    stand_ins: dict[str, object] = {
        "accounts": principals,
        "principals": principals,
        "ledger": ledger,
        "limiter": limiter,
        "board": MemoryHealth(time.time),
        "conversations": MemoryConversations(),
        "upstream": upstream,
        "catalogue": catalogue,
        "receipts": receipts,
        "claims": claims,
        "key_rows": MemoryKeys(store),
        "sign_ins": MemorySignIns(ways),
        "mails": MemoryMails(store.now),
        "bell": MemoryBell(),
        "referral_book": MemoryReferrals(store),
        "limit_requests": MemoryLimitRequests(store),
        "identities": MemoryIdentities(ways),
        "link_rows": MemoryLinks(ways),
        "device_codes": MemoryDeviceCodes(ways),
        "authorization_codes": MemoryAuthorizationCodes(ways),
        "passwords": MemoryPasswords(),
        "orders": MemoryOrders(till),
        "notices": MemoryNotices(till),
        "top_ups": MemoryTopUps(till),
        "alarms": MemoryAlarms(till),
        "statements": MemoryStatements(store),
        "processor": MemoryPayments(store.now),
        "attempts": MemoryAttempts(lambda: time.monotonic() + offset[0], trust_loopback=True),
        "strangers": StrangerLimit(Strangers(trust_loopback=True), lambda: offset[0]),
    }
    for name, stand_in in stand_ins.items():
        getattr(container, name).override(providers.Object(stand_in))
    container.books.override(providers.Object(Books(receipts, prices, container.quotes())))
    account, key = await _customer(principals, container.digests().digest, SECRET)
    await _customer(principals, container.digests().digest, STRANGER)
    return Place(
        container.gateway(),
        store,
        ledger,
        limiter,
        upstream,
        principals,
        claims,
        prices,
        catalogue,
        account,
        key,
        container,
        offset,
    )


async def _customer(
    accounts: MemoryAccounts, digest: Callable[[str], bytes], secret: str
) -> tuple[Account, Key]:
    account = an_account()
    key = a_key(account, digest(secret))
    assert await accounts.register(account, key, a_session(account), CREDIT)
    return account, key


async def asked(
    app: Any,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    at_once: Callable[[], Awaitable[None]] | None = None,
    address: str = "127.0.0.1",
) -> Answer:
    """One request to an ASGI application by a client that waits for the end.

    `at_once` is what the client does on its last byte, while the application may not be done yet.
    """
    sent: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if parts:
            return parts.pop()
        await asyncio.Event().wait()
        raise AssertionError("nobody ends this")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        is_last = message["type"] == "http.response.body" and not message.get("more_body")
        if is_last and at_once is not None:
            await at_once()

    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": (address, 1),
        "server": ("127.0.0.1", 2),
    }
    async with asyncio.timeout(10):
        await app(scope, receive, send)
    head, *rest = sent
    return Answer(
        head["status"],
        {name.decode().lower(): value.decode() for name, value in head["headers"]},
        b"".join(part.get("body", b"") for part in rest),
    )
