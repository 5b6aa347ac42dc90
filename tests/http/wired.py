"""The gateway as it is wired, asked in this process; nothing behind it is running."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from adapters.container import Container
from adapters.http.app import Gateway
from adapters.settings import Settings


def gateway() -> Gateway:
    """A new one. What it would connect to does not exist."""
    settings = Settings(
        database_url="postgresql+asyncpg://nobody@127.0.0.1:1/none",
        redis_url="redis://127.0.0.1:1/0",
        key_pepper="test-pepper-" + "0" * 32,
        sandbox="on",
    )
    return Container(settings=settings).gateway()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body."""
        return orjson.loads(self.body)


async def ask(
    app: Any, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Answer:
    """One request to an ASGI application."""
    sent: list[dict[str, Any]] = []
    asked = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if not asked:
            await asyncio.Event().wait()  # the client stays
        return asked.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    path, _, query = path.partition("?")
    given = {"host": "gateway", "content-length": str(len(body)), **(headers or {})}
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
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)
    head, *rest = sent
    return Answer(
        head["status"],
        {name.decode().lower(): value.decode() for name, value in head["headers"]},
        b"".join(part.get("body", b"") for part in rest),
    )
