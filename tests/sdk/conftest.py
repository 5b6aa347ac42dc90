"""One gateway for every client of this folder, as an operator runs it: no stand-in sandbox, but
two providers of its table whose addresses lead to one sandbox process. Claude models so go to
Anthropic's own wire and all others to OpenAI's.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.units import PostgresUnits, make_engine
from kyma.catalog.text import TEXT_MODELS
from kyma.money import usd
from tests.builders import new_id
from tests.e2e.asking import Customer, customer, send
from tests.e2e.stack import Stack
from tests.servers import Servers, drop_database, fresh_database, fresh_redis

collect_ignore = ["frameworks"]
"""What `test_frameworks.py` runs elsewhere: here not even its conftest is to be loaded."""

PROVIDERS = ("anthropic", "openrouter")


@dataclass(frozen=True, slots=True)
class Sdk:
    """What a client is pointed at, and the provider behind it."""

    url: str
    sandbox_url: str
    database_url: str

    @property
    def openai_url(self) -> str:
        """What OpenAI's clients call their base URL; Anthropic's take `url`."""
        return f"{self.url}/v1"


@pytest_asyncio.fixture(scope="package")
async def sdk(servers: Servers) -> AsyncIterator[Sdk]:
    """The gateway and the sandbox, started once."""
    database_url = await fresh_database(servers)
    stack = Stack(database_url, await fresh_redis(servers))
    try:
        sandbox = await stack.sandbox("sandbox")
        gateway = await stack.gateway(
            sandbox="off",
            provider_keys=json.dumps(dict.fromkeys(PROVIDERS, "sandbox")),
            provider_urls=json.dumps(dict.fromkeys(PROVIDERS, f"{sandbox.url}/v1")),
            request_timeout_s="60",
        )
        yield Sdk(gateway.url, sandbox.url, database_url)
    finally:
        stack.close()
        await drop_database(servers, database_url)


async def paying_customer(sdk: Sdk) -> Customer:
    """A new customer with a deposit that earns the highest tier."""
    made = await customer(sdk.url)
    engine = make_engine(sdk.database_url, 1)
    try:
        ledger = PostgresLedger(engine, PostgresUnits(engine))
        await ledger.deposit(new_id(), made.id, usd("1000"), "the suite's deposit")
    finally:
        await engine.dispose()
    return made


@pytest_asyncio.fixture(scope="package")
async def payer(sdk: Sdk) -> Customer:
    """One for all tests that have no reason to start from nothing."""
    return await paying_customer(sdk)


@pytest.fixture(scope="package")
def key(payer: Customer) -> str:
    """Its key."""
    return payer.key


@pytest_asyncio.fixture
async def newcomer(sdk: Sdk) -> Customer:
    """A customer with the sign-up credit and no request yet."""
    return await customer(sdk.url)


async def arm(sdk: Sdk, model: str, fault: str, **more: Any) -> None:
    """Let the next request for a model meet a fault of whichever provider is asked for it."""
    (row,) = [row for row in TEXT_MODELS if row.id == model]
    route = next(route for route in row.routes if route.provider in PROVIDERS)
    told = {"fault": fault, "model": route.upstream_model, "times": 1, **more}
    reply = await send(sdk.sandbox_url, "POST", "/sandbox/faults", json.dumps(told))
    assert reply.status == 201, reply.raw


async def disarm(sdk: Sdk) -> None:
    """Make the provider well again."""
    assert (await send(sdk.sandbox_url, "DELETE", "/sandbox/faults")).status == 204
