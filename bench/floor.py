"""The floor: the same server and the same upstream client, and nothing of Kyma between them.

What it costs, the gateway cannot avoid with these libraries; measured in the same run, it
also tells a slow gateway from a slow machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import uvicorn

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = {"content-type": "application/json"}


class Floor:
    """An ASGI application that passes a body on and the answer back."""

    def __init__(self, upstream: str) -> None:
        self._url = f"{upstream}/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        message = await receive()
        if scope["path"] == "/healthz":
            await _whole(send, b"")
            return
        body: bytes = message["body"]
        async with self._client().post(self._url, data=body, headers=JSON) as answer:
            if b'"stream":true' in body:
                await _stream(send, answer.content)
            else:
                await _whole(send, await answer.read())

    def _client(self) -> aiohttp.ClientSession:
        """Made within the loop that uses it."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
            )
        return self._session


async def _whole(send: Send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Send, content: aiohttp.StreamReader) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for piece in content.iter_any():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.floor", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="base URL")
    options = parser.parse_args()
    app: Any = Floor(options.upstream)
    uvicorn.run(
        app, port=options.port, loop="uvloop", http="httptools", lifespan="off", access_log=False
    )


if __name__ == "__main__":
    main()
