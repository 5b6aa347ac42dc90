"""A request that is over is gone at once: nothing is left that only the collector could find.

What it finds it has to look for among everything that lives, and all streams wait meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import pytest

from kyma.calls import Fault
from tests.flows.upstreams import PROVIDERS, Act, Breaks, Fails, Says, Stalls
from tests.garbage import collected
from tests.http.on_memory import SECRET, Place, a_body, a_place
from tests.http.test_at_once import served

COUNT = 5


STREAM = {"stream": True}


def a_response(**fields: Any) -> dict[str, Any]:
    return {"model": "big", "input": "x" * 400, "max_output_tokens": 100, **fields}


BODIES: dict[str, Callable[..., dict[str, Any]]] = {
    "/v1/chat/completions": a_body,
    "/v1/messages": a_body,
    "/v1/responses": a_response,
}


async def ask(session: aiohttp.ClientSession, url: str, body: Any, *, leaves: bool) -> int:
    headers = {"Authorization": f"Bearer {SECRET}"}
    async with session.post(url, data=orjson.dumps(body), headers=headers) as response:
        if leaves:
            await response.content.readany()
        else:
            await response.read()
        return response.status


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("acts", "fields", "status", "leaves"),
    [
        ([Says()], {}, 200, False),
        ([Says(["word "] * 20)], STREAM, 200, False),
        ([Says()], {"model": "nobody's"}, 404, False),
        ([Fails(Fault.REFUSED)], {}, 400, False),
        ([Fails(Fault.REFUSED)], STREAM, 400, False),
        ([Fails(Fault.BUSY)], {}, 503, False),
        ([Fails(Fault.BUSY)], STREAM, 503, False),
        ([Fails(Fault.BROKEN), Says()], {}, 200, False),
        ([Fails(Fault.BROKEN), Says()], STREAM, 200, False),
        ([Breaks(["word "] * 5)], STREAM, 200, False),
        ([Stalls(["word "] * 5)], STREAM, 200, True),
    ],
    ids=[
        "whole",
        "streamed",
        "not to be had",
        "refused",
        "refused stream",
        "failed everywhere",
        "stream failed everywhere",
        "fallback",
        "stream of a fallback",
        "broken",
        "left",
    ],
)
async def test_a_request_leaves_no_garbage(
    path: str, acts: list[Act], fields: dict[str, Any], status: int, leaves: bool
) -> None:
    """`acts` are what the providers do in turn, the last of them all that come after."""
    everywhere = len(acts) == 1 and isinstance(acts[0], Fails) and acts[0].fault is Fault.BUSY
    script: dict[str, list[Act]] = {"first": acts[:1], "second": acts[-1:]}
    place = await a_place(dict.fromkeys(PROVIDERS, acts) if everywhere else script)
    body = BODIES[path](**fields)
    async with asyncio.timeout(20), served(place.gateway) as (host, port):
        url = f"http://{host}:{port}{path}"
        async with aiohttp.ClientSession() as session:
            await ask(session, url, body, leaves=leaves)  # what is made once is made here
            await settled(place)
            with collected() as found:
                for _ in range(COUNT):
                    assert await ask(session, url, body, leaves=leaves) == status
                await settled(place)
    assert found == {}
    assert not place.store.open_holds


async def settled(place: Place) -> None:
    """Until the streams that were left are over."""
    await asyncio.sleep(0.05)
    while place.store.open_holds:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)
