"""Probes over real sockets: what is sent, what each answer means, and that none of it can hang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from adapters.upstreams.probes import ProviderProbes, outcome_of
from adapters.upstreams.providers import Endpoint, Provider
from adapters.upstreams.transport import Timeouts, Transport
from kyma.calls import UpstreamError
from kyma.traffic import FAILED_TRIES, OK


class Server:
    """Answers GET /v1/models as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b'{"data": []}'
        self.delay_s = 0.0
        self.asked: list[web.Request] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        await asyncio.sleep(self.delay_s)
        return web.Response(
            status=self.status, body=self.body, headers={"Location": "http://127.0.0.1:1/"}
        )


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/v1/models", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sockets: Any = site._server
    server.url = f"http://127.0.0.1:{sockets.sockets[0].getsockname()[1]}/v1"
    yield server
    await runner.cleanup()


@pytest_asyncio.fixture
async def transport() -> AsyncIterator[Transport]:
    transport = Transport(Timeouts(1.0, 1.0, 1.0, 1.0))
    yield transport
    await transport.close()


def endpoint(url: str, name: str = "groq", key: str = "secret") -> Endpoint:
    return Endpoint(Provider(name, url), url, key)


async def outcome(transport: Transport, url: str) -> str:
    (probe,) = await ProviderProbes(transport, {"groq": endpoint(url)}).ask()
    assert probe.provider == "groq"
    assert probe.latency_ms >= 0
    return probe.outcome


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, "ok"),
        (404, "ok"),
        (405, "ok"),
        (301, "ok"),
        (401, "denied"),
        (402, "denied"),
        (403, "denied"),
        (429, "busy"),
        (500, "broken"),
        (503, "broken"),
    ],
)
async def test_a_status_says_whether_the_provider_answers(
    server: Server, transport: Transport, status: int, expected: str
) -> None:
    server.status = status
    assert await outcome(transport, server.url) == expected
    assert expected == OK or expected in FAILED_TRIES


async def test_the_key_is_sent_and_nothing_but_the_list_is_asked_for(
    server: Server, transport: Transport
) -> None:
    await outcome(transport, server.url)
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("GET", "/v1/models")
    assert asked.headers["Authorization"] == "Bearer secret"


async def test_a_server_without_a_key_is_asked_without_one(
    server: Server, transport: Transport
) -> None:
    probes = ProviderProbes(transport, {"local": endpoint(server.url, "local", "")})
    await probes.ask()
    assert "Authorization" not in server.asked[0].headers


async def test_a_long_list_is_not_read_to_its_end(server: Server, transport: Transport) -> None:
    server.body = b"x" * 5_000_000
    assert await outcome(transport, server.url) == OK


async def test_nobody_there_is_broken_and_hangs_nobody(transport: Transport) -> None:
    assert await outcome(transport, "http://127.0.0.1:1/v1") == "broken"


async def test_an_answer_that_does_not_come_is_a_timeout(
    server: Server, transport: Transport
) -> None:
    server.delay_s = 5.0
    with pytest.raises(UpstreamError) as caught:
        await transport.get(f"{server.url}/models", {}, 0.05)
    assert caught.value.fault == "timeout"


async def test_all_providers_are_asked_at_once_and_one_spoils_no_other(
    server: Server, transport: Transport
) -> None:
    server.delay_s = 0.2
    good = {f"p{place}": endpoint(server.url, f"p{place}") for place in range(5)}
    probes = ProviderProbes(transport, {**good, "gone": endpoint("http://127.0.0.1:1/v1", "gone")})
    began = asyncio.get_running_loop().time()
    found = {probe.provider: probe.outcome for probe in await probes.ask()}
    assert found == {**dict.fromkeys(good, OK), "gone": "broken"}
    assert asyncio.get_running_loop().time() - began < 0.9


def test_every_status_has_a_meaning() -> None:
    assert {outcome_of(status) for status in range(100, 600)} == {OK, "denied", "busy", "broken"}
