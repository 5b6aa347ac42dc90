"""Connections and their limits, by a real server on a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from adapters.http.connections import patient
from adapters.http.exchange import Presence

HEAD = b"POST /x HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n"
REFUSED = b"HTTP/1.1 401"


async def refuse(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An application that answers before it has read anything."""
    assert scope["type"] == "http"
    head = {"status": 401, "headers": [(b"content-length", b"2")]}
    await send({"type": "http.response.start", **head})
    await send({"type": "http.response.body", "body": b"no"})


@asynccontextmanager
async def connection(
    head_s: float, body_s: float
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            refuse, http=patient(head_s, body_s), log_level="warning", lifespan="off"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        yield reader, writer
        writer.close()
        server.should_exit = True
        await serving


async def test_who_is_refused_early_may_send_the_rest_and_read_why() -> None:
    async with connection(head_s=0.3, body_s=20.0) as (reader, writer):
        writer.write(HEAD)
        for _ in range(10):
            await asyncio.sleep(0.1)
            writer.write(b"a" * 100)
        await writer.drain()
        assert (await reader.readexactly(len(REFUSED))) == REFUSED
        writer.write(HEAD + b"a" * 1000)  # the connection is as good as before
        async with asyncio.timeout(5):
            assert REFUSED in await reader.readuntil(REFUSED)


async def test_the_rest_of_a_refused_body_is_not_waited_for_without_end() -> None:
    async with connection(head_s=20.0, body_s=0.3) as (reader, writer):
        writer.write(HEAD)
        await asyncio.sleep(0.1)
        writer.write(b"a")
        async with asyncio.timeout(5):
            said = await reader.read()
    assert said.startswith(REFUSED)
    assert said.count(b"HTTP/1.1") == 1, "nothing is said on top of an answer"


async def test_who_reads_too_slowly_is_let_go_also_if_a_charge_was_finished_first() -> None:
    """A charge that is under way takes no notice of being cancelled."""
    presence = Presence(asyncio.Event().wait, again_s=0.02)  # type: ignore[arg-type]  # says nothing
    charged = asyncio.Event()

    async def serve() -> None:
        presence.watch(asyncio.get_running_loop().time() + 0.02)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            charged.set()
        await asyncio.Event().wait()  # the client does not read

    serving = asyncio.create_task(serve())
    async with asyncio.timeout(5):
        await asyncio.wait([serving])
    assert serving.cancelled()
    assert charged.is_set()
    assert presence.left
    presence.close()
