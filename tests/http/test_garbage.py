"""A request that is over is gone at once: nothing is left that only the collector could find.

What it finds it has to look for among everything that lives, and all streams wait meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson
import pytest

from kyma.calls import Fault
from tests.flows.upstreams import Act, Breaks, Fails, Says, Stalls
from tests.garbage import collected
from tests.http.on_memory import SECRET, a_body, a_place
from tests.http.test_at_once import served

COUNT = 5


async def ask(session: aiohttp.ClientSession, url: str, body: Any, *, leaves: bool) -> int:
    headers = {"Authorization": f"Bearer {SECRET}"}
    async with session.post(url, data=orjson.dumps(body), headers=headers) as response:
        if leaves:
            await response.content.readany()
            return response.status
        await response.read()
        return response.status


@pytest.mark.parametrize(
    ("act", "fields", "leaves"),
    [
        (Says(), {}, False),
        (Says(["word "] * 20), {"stream": True}, False),
        (Says(), {"model": "nobody's"}, False),
        (Fails(Fault.REFUSED), {}, False),
        (Fails(Fault.REFUSED), {"stream": True}, False),
        (Breaks(["word "] * 5), {"stream": True}, False),
        (Stalls(["word "] * 5), {"stream": True}, True),
    ],
    ids=["whole", "streamed", "refused", "failed", "failed stream", "broken", "left"],
)
async def test_a_request_leaves_no_garbage(act: Act, fields: dict[str, Any], leaves: bool) -> None:
    place = await a_place({"first": [act]})
    body = a_body(**fields)
    async with served(place.gateway) as (host, port):
        url = f"http://{host}:{port}/v1/chat/completions"
        async with aiohttp.ClientSession() as session:
            await ask(session, url, body, leaves=leaves)  # what is made once is made here
            await settled(place, leaves)
            with collected() as found:
                for _ in range(COUNT):
                    await ask(session, url, body, leaves=leaves)
                await settled(place, leaves)
    assert found == {}
    assert len(place.store.open_holds) == 0


async def settled(place: Any, leaves: bool) -> None:
    """Until the streams that were left are over."""
    await asyncio.sleep(0.05)
    while place.store.open_holds:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)
