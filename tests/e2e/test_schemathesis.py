"""Every public route against data made from its own description, good and bad.

What is sent follows from the source alone: the same code sends the same requests. What comes
back must be described: the status, the content type, the headers and the body, which for a
refusal means that its code is one that the operation declares; and never a 500. The books of
whoever asked are right in the end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import pytest_asyncio
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case, CheckContext, Response
from schemathesis.specs.openapi.checks import positive_data_acceptance

from adapters.http.openapi import Route, document, routes_of
from kyma.errors import Code
from tests.e2e.asking import Customer, audit
from tests.e2e.paying import check_at_rest, paying_customers
from tests.e2e.stack import Stack
from tests.http.wired import gateway
from tests.servers import Servers, drop_database, fresh_database, fresh_redis
from tests.stripe_server.server import StripeServer, stripe_beside

EXAMPLES = 20
"""Per operation, besides its written examples and the coverage of every constraint."""

CONFIG = {
    "seed": 1,
    "generation": {
        "deterministic": True,
        "max-examples": EXAMPLES,
        "no-shrink": True,
        "allow-extra-parameters": False,  # a header or parameter that nobody reads is no error
    },
    "phases": {
        phase: {"extra-data-sources": {"responses": False}}  # what differs from run to run
        for phase in ("examples", "coverage", "fuzzing")
    },
}

ROUTES: list[Route] = [*routes_of(gateway().quart)]
DOCUMENT: dict[str, Any] = orjson.loads(orjson.dumps(document(ROUTES)))


def part(*, outside: bool) -> Any:
    """The operations below `/v1`, or those beside it, which have another base."""
    paths = {
        path: item for path, item in DOCUMENT["paths"].items() if ("servers" in item) == outside
    }
    config = schemathesis.Config.from_dict(CONFIG)
    return schemathesis.openapi.from_dict({**DOCUMENT, "paths": paths}, config=config)


BELOW, BESIDE = part(outside=False), part(outside=True)


ILL_FORMED = {Code.INVALID_JSON, Code.INVALID_TYPE, Code.MISSING_FIELD}

BODY_OF_ANOTHER_ROUTE = {"quote"}
"""Whose descriptions do not repeat all that the other route's says."""


def what_is_well_formed_is_not_called_ill_formed(
    _: CheckContext, response: Response, case: Case
) -> None:
    """A value may be refused for more than a schema says, a shape that it describes may not.

    Except `10.0`: a whole number to JSON Schema, but no integer to OpenAI or to us.
    """
    made_well = (
        case.meta is not None
        and case.meta.generation.mode.is_positive
        and case.operation.definition.raw["operationId"] not in BODY_OF_ANOTHER_ROUTE
    )
    if made_well and response.status_code == 400 and not has_whole_float(case.body):
        told = response.json()  # OAuth's routes have its name of the error there, and ours beside
        assert (told["code"] if "code" in told else told["error"]["code"]) not in ILL_FORMED, told


def has_whole_float(value: Any) -> bool:
    """Whether such a number is anywhere in it."""
    if isinstance(value, dict):
        return any(has_whole_float(child) for child in value.values())
    if isinstance(value, list):
        return any(has_whole_float(child) for child in value)
    return isinstance(value, float) and value.is_integer()


@dataclass(frozen=True, slots=True)
class Place:
    """A running gateway, and a customer for each operation, so that no limit is met."""

    url: str
    customers: dict[str, Customer]
    session: requests.Session

    def check(self, case: Case, base: str = "") -> None:
        """Send it, and hold the answer to the description."""
        described = case.operation.definition.raw
        who = self.customers[described["operationId"]]
        headers = who.headers if described["security"] else {}
        case.call_and_validate(
            base_url=self.url + base,
            headers=headers,
            session=self.session,
            timeout=20,
            additional_checks=[what_is_well_formed_is_not_called_ill_formed],
            excluded_checks=[positive_data_acceptance],
        )


@pytest.fixture(scope="module")
def stripe() -> Iterator[StripeServer]:
    """On a thread of its own: schemathesis blocks the event loop."""
    with stripe_beside() as server:
        yield server


@pytest_asyncio.fixture(scope="module")
async def place(servers: Servers, stripe: StripeServer) -> AsyncIterator[Place]:
    url = await fresh_database(servers)
    stack = Stack(url, await fresh_redis(servers))
    sandbox = await stack.sandbox()
    gateway = await stack.gateway(
        sandbox_url=f"{sandbox.url}/v1",
        stripe_secret_key=stripe.secret_key,
        stripe_webhook_secret=stripe.webhook_secret,
        stripe_api_base=stripe.url,
    )
    names = [route.operation.id for route in ROUTES if route.operation is not None]
    customers = await paying_customers(gateway.url, url, len(names))
    with requests.Session() as session:
        yield Place(gateway.url, dict(zip(names, customers, strict=True)), session)
    for who in customers:
        check_at_rest(await audit(url, who.id))
    said = gateway.said()
    stack.close()
    await drop_database(servers, url)
    assert "request_failed" not in said
    assert "Traceback" not in said


within_reason = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=EXAMPLES,
    suppress_health_check=list(HealthCheck),
)


@BELOW.parametrize()
@within_reason
def test_a_route_answers_as_it_is_described(place: Place, case: Case) -> None:
    place.check(case, "/v1")


@BESIDE.parametrize()
@within_reason
def test_a_resource_beside_the_api_answers_as_it_is_described(place: Place, case: Case) -> None:
    place.check(case)
