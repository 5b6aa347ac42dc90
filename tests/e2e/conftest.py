"""A gateway over two sandbox providers, shared by a module's tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.e2e.browser import find_chromium
from tests.e2e.stack import Process, Stack
from tests.servers import Servers, drop_database, fresh_database, fresh_redis

NO_BROWSER = find_chromium() is None and not os.environ.get("CI")
"""In CI a missing browser is a failure; elsewhere the run says loudly what it leaves out."""

IN_BROWSER = ["test_console_browser.py", "test_pages_browser.py"]
collect_ignore = IN_BROWSER if NO_BROWSER else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if NO_BROWSER:
        terminalreporter.write_line(
            f"LEFT OUT of tests/e2e: {', '.join(IN_BROWSER)}, for there is no Chromium on this "
            "machine. Install it (apt-get install chromium) or set CHROMIUM.",
            yellow=True,
        )


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
