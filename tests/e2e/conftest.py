"""A gateway over two sandbox providers, shared by a module's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest_asyncio

from tests.e2e.stack import Process, Stack
from tests.servers import Servers, drop_database, fresh_database, fresh_redis


@dataclass(frozen=True, slots=True)
class Running:
    """What a test talks to."""

    stack: Stack
    gateway: Process
    first: Process
    second: Process


@pytest_asyncio.fixture
async def stack(servers: Servers) -> AsyncIterator[Stack]:
    """An empty stack on a fresh database and Redis."""
    url = await fresh_database(servers)
    made = Stack(url, await fresh_redis(servers))
    yield made
    made.close()
    await drop_database(servers, url)


@pytest_asyncio.fixture(scope="module")
async def running(servers: Servers) -> AsyncIterator[Running]:
    """Two sandboxes and one gateway for a whole module."""
    url = await fresh_database(servers)
    stack = Stack(url, await fresh_redis(servers))
    first = await stack.sandbox("sandbox")
    second = await stack.sandbox("sandbox-2")
    gateway = await stack.gateway(
        sandbox_url=f"{first.url}/v1",
        sandbox_url_2=f"{second.url}/v1",
        first_byte_timeout_s="2",
        answer_timeout_s="2",
        chunk_timeout_s="2",
        request_timeout_s="30",
    )
    yield Running(stack, gateway, first, second)
    stack.close()
    await drop_database(servers, url)
