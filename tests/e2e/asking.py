"""A customer with nothing but HTTP, and an auditor with nothing but SQL."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg
import orjson
from redis.asyncio import Redis

from adapters.redis.client import channel
from adapters.redis.health import CHANNEL, STORE
from tests.e2e.stack import register

CREDIT = 500_000_000
"""The sign-up credit, in nano-dollars."""

HELLO = [{"role": "user", "content": "Say hello."}]
PATIENCE = aiohttp.ClientTimeout(total=60)
BOOKS = (
    "paid + promo + held_paid + held_promo + revenue + provider_cost + processor"
    " + promo_fund + loss"
)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it came over the wire."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    def json(self) -> Any:
        """The body."""
        return json.loads(self.raw)

    def error(self) -> dict[str, Any]:
        """The error of a refusal, which must have all that OpenAI's clients read."""
        error: dict[str, Any] = self.json()["error"]
        assert {"message", "type", "code", "param"} <= set(error)
        assert isinstance(error["message"], str)
        assert error["message"]
        assert isinstance(error["type"], str)
        assert isinstance(error["code"], str)
        assert error["charged"] is False
        return error

    def events(self) -> list[tuple[str, str]]:
        """Name and data of every server-sent event."""
        found = []
        for block in self.raw.decode().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
            if "data" in lines:  # else a comment
                found.append((lines.get("event", ""), lines["data"]))
        return found

    def chunks(self) -> list[dict[str, Any]]:
        """The chunks of a stream, without its end mark and without error events."""
        return [json.loads(data) for name, data in self.events() if not name and data != "[DONE]"]

    def text(self) -> str:
        """What the model said, whole or streamed."""
        if "text/event-stream" not in self.headers["content-type"]:
            return str(self.json()["choices"][0]["message"]["content"])
        return "".join(
            choice["delta"].get("content") or ""
            for chunk in self.chunks()
            for choice in chunk["choices"]
        )

    def finish_reasons(self) -> list[str]:
        """Every reason why an answer ended."""
        bodies = self.chunks() if self.is_stream else [self.json()]
        choices = [choice for body in bodies for choice in body["choices"]]
        return [choice["finish_reason"] for choice in choices if choice["finish_reason"]]

    @property
    def is_stream(self) -> bool:
        """Whether events came."""
        return "text/event-stream" in self.headers["content-type"]


@dataclass(frozen=True, slots=True)
class Customer:
    """A fresh account at one gateway."""

    url: str
    id: str
    key: str

    def at(self, url: str) -> Customer:
        """The same one at another gateway."""
        return Customer(url, self.id, self.key)

    @property
    def headers(self) -> dict[str, str]:
        """What a request needs."""
        return {"Authorization": f"Bearer {self.key}"}

    async def chat(self, model: str, **fields: Any) -> Reply:
        """A chat completion, read to its end."""
        body = {"model": model, "messages": HELLO, **fields}
        return await self.post("/v1/chat/completions", body)

    async def post(self, path: str, body: Any) -> Reply:
        """JSON, posted."""
        return await send(self.url, "POST", path, orjson.dumps(body), self.headers)

    async def get(self, path: str) -> Reply:
        """Anything, read."""
        return await send(self.url, "GET", path, None, self.headers)

    async def balance(self) -> dict[str, Any]:
        """What the API says is there."""
        reply = await self.get("/v1/credits/balance")
        assert reply.status == 200, reply.raw
        body: dict[str, Any] = reply.json()
        return body


async def customer(url: str) -> Customer:
    """A new customer with the sign-up credit."""
    welcome = await register(url)
    return Customer(url, welcome["user_id"], welcome["api_key"])


async def send(
    url: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Reply:
    """One request on a connection of its own."""
    given = {"Content-Type": "application/json", **(headers or {})}
    async with (
        aiohttp.ClientSession(timeout=PATIENCE) as session,
        session.request(method, url + path, data=body, headers=given) as response,
    ):
        raw = await response.read()
        lowered = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status, lowered, raw)


@dataclass(frozen=True, slots=True)
class Audit:
    """What the database knows of one account, and whether the whole ledger is sound."""

    sum_of_all_books: int
    open_holds: int
    spent: int
    available: int
    held: int
    replayed: tuple[int, int]
    largest_hold: int
    records: list[dict[str, Any]] = field(default_factory=list)

    def check(self) -> None:
        """The invariants that must hold at every moment."""
        assert self.sum_of_all_books == 0
        assert (self.available, self.held) == self.replayed
        assert self.spent + self.available + self.held == CREDIT
        assert min(self.spent, self.available, self.held) >= 0

    def check_at_rest(self) -> None:
        """Those, and that nothing is under way."""
        self.check()
        assert (self.open_holds, self.held) == (0, 0)
        assert self.spent == sum(record["charged"] for record in self.records)


async def audit(database_url: str, account_id: str) -> Audit:
    """Read one snapshot."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            row = await connection.fetchrow(
                f"""
                SELECT (SELECT coalesce(sum({BOOKS}), 0) FROM entries)::bigint AS total,
                    (SELECT count(*) FROM open_holds WHERE account_id = $1) AS open_holds,
                    coalesce(sum(revenue + loss), 0)::bigint AS spent,
                    coalesce(sum(paid + promo), 0)::bigint AS available,
                    coalesce(sum(held_paid + held_promo), 0)::bigint AS held,
                    coalesce(max(held_paid + held_promo), 0)::bigint AS largest_hold
                FROM entries WHERE account_id = $1
                """,
                account_id,
            )
            balance = await connection.fetchrow(
                "SELECT paid + promo AS available, held_paid + held_promo AS held"
                " FROM balances WHERE account_id = $1",
                account_id,
            )
            records = await connection.fetch(
                "SELECT * FROM usage_records WHERE account_id = $1 ORDER BY created_at",
                account_id,
            )
    finally:
        await connection.close()
    return Audit(
        row["total"],
        row["open_holds"],
        row["spent"],
        balance["available"],
        balance["held"],
        (row["available"], row["held"]),
        row["largest_hold"],
        [{**record, "attempts": json.loads(record["attempts"])} for record in records],
    )


async def well_again(redis_url: str, *routes: str) -> None:
    """Tell every gateway on this Redis that these routes answer, as another gateway would.

    A provider that told to wait is taken at its word: until then nobody asks it.
    """
    good = [{"k": route, "n": 1, "l": 5.0} for route in routes for _ in range(12)]
    async with Redis.from_url(redis_url) as redis:
        for raw in await redis.hmget(STORE, routes):
            health = orjson.loads(raw or b"{}")
            if health.get("waits"):
                await asyncio.sleep(max(0.0, health["open_until"] - time.time() + 0.01))
        word = orjson.dumps({"from": "test", "bad": [], "good": good})
        assert await redis.publish(channel(redis, CHANNEL), word)


async def arm(sandbox_url: str, **fault: Any) -> None:
    """Let a sandbox's coming requests meet a fault."""
    reply = await send(sandbox_url, "POST", "/sandbox/faults", orjson.dumps(fault))
    assert reply.status == 201, reply.raw


async def reset(sandbox_url: str) -> None:
    """Make a sandbox well and let it forget what it was asked."""
    for path in ("/sandbox/faults", "/sandbox/requests"):
        assert (await send(sandbox_url, "DELETE", path)).status == 204


async def asked(sandbox_url: str) -> list[dict[str, Any]]:
    """The chat requests a sandbox got since its reset."""
    rows: list[dict[str, Any]] = (await send(sandbox_url, "GET", "/sandbox/requests")).json()[
        "last"
    ]
    return rows
