"""A client that reads slowly gets its whole answer, pays for it, and harms nobody."""

from __future__ import annotations

import asyncio
import socket

import orjson

from tests.e2e.asking import HELLO, Reply, audit, customer
from tests.e2e.conftest import Running

MODEL = "deepseek-v4-flash"
CHUNKS = 30_000
PAUSE_S = 3.0
"""Longer than this gateway waits for a provider's next chunk."""


def body_of(answer: bytes) -> bytes:
    """The body of an answer as it came over the wire, in chunks of HTTP's own."""
    at, body = answer.index(b"\r\n\r\n") + 4, bytearray()
    while at < len(answer):
        end = answer.index(b"\r\n", at)
        size = int(answer[at:end], 16)
        body += answer[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
    return bytes(body)


async def test_a_client_that_pauses_its_reading_gets_and_pays_the_whole_answer(
    running: Running,
) -> None:
    who = await customer(running.gateway.url)
    body = orjson.dumps(
        {
            "model": MODEL,
            "messages": HELLO,
            "stream": True,
            "max_tokens": CHUNKS,
            "sandbox": {"delay_ms": 0, "chunks": CHUNKS},
        }
    )
    port = int(running.gateway.url.rpartition(":")[2])
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=2**14)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nConnection: close\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
        % (who.key.encode(), len(body), body)
    )
    got = bytearray(await reader.read(2**14))
    await asyncio.sleep(PAUSE_S)
    books = await audit(running.stack.database_url, who.id)
    assert books.open_holds == 1, "the answer fitted into the buffers: make it longer"
    while more := await reader.read(2**16):
        got += more
    writer.close()
    assert b"data: [DONE]" in got
    assert b"event: error" not in got
    books = await audit(running.stack.database_url, who.id)
    books.check_at_rest()
    (record,) = books.records
    assert (record["outcome"], record["output_tokens"]) == ("ok", CHUNKS)
    assert record["charged"] > 0
    other = await who.chat(MODEL, max_tokens=CHUNKS, sandbox={"chunks": CHUNKS})
    assert other.status == 200
    streamed = Reply(200, {"content-type": "text/event-stream"}, body_of(bytes(got)))
    assert streamed.text() == other.text()
    assert "x-kyma-fallback" not in other.headers, "the provider was blamed for a slow reader"
