"""Every route says who may call it, what limits it, what pays for it and how it refuses."""

from __future__ import annotations

import pytest

from adapters.http.app import DIALECTS
from adapters.http.contract import Auth, Meter, Operation, Rate
from adapters.http.openapi import Route, routes_of
from adapters.http.text_contract import OPERATIONS
from kyma.errors import Code
from kyma.keys import Scope
from tests.http.wired import ask, gateway

BEYOND_ROUTES = {
    Code.METHOD_NOT_ALLOWED: "a method that the path does not declare",
}
"""Codes that no operation declares, and why."""

GATEWAY = gateway()
ROUTES = [*routes_of(GATEWAY.quart)]
DECLARED = [route for route in ROUTES if route.operation is not None]


def undeclared(routes: list[Route]) -> list[str]:
    return [f"{route.method} {route.path}" for route in routes if route.operation is None]


def operation(route: Route) -> Operation:
    assert route.operation is not None
    return route.operation


def test_every_route_is_declared() -> None:
    assert undeclared(ROUTES) == []


def test_a_route_without_a_declaration_fails_the_audit() -> None:
    app = gateway().quart

    async def forgotten() -> str:
        return "who may call me?"

    app.add_url_rule("/v1/forgotten", view_func=forgotten, methods=["GET", "POST"])
    assert set(undeclared([*routes_of(app)])) - set(undeclared(ROUTES)) == {
        "GET /v1/forgotten",
        "POST /v1/forgotten",
    }


def test_a_route_in_front_of_quart_that_no_table_declares_fails_the_audit() -> None:
    app = gateway().quart
    app.add_url_rule("/v1/hot/forgotten", "hot.forgotten", methods=["POST"])
    assert "POST /v1/hot/forgotten" in undeclared([*routes_of(app)])


def test_a_declaration_cannot_leave_a_question_open() -> None:
    questions = {"auth", "limiter", "meter", "errors"}
    for left_out in sorted(questions):
        given = {
            "id": "x", "tag": "Chat", "summary": "x", "answers": {},
            "auth": Auth.NONE, "limiter": Rate.NONE, "meter": Meter.FREE, "errors": frozenset(),
        }  # fmt: skip
        del given[left_out]
        with pytest.raises(TypeError, match=left_out):
            Operation(**given)


def test_the_routes_in_front_of_quart_are_exactly_those_of_the_table() -> None:
    assert {dialect.path for dialect in DIALECTS} <= set(OPERATIONS)
    assert set(OPERATIONS) <= {route.path for route in ROUTES if route.method == "POST"}


def test_each_operation_has_a_name_of_its_own() -> None:
    names = [operation(route).id for route in DECLARED]
    assert sorted(set(names)) == sorted(names)


def test_every_code_is_declared_by_some_operation() -> None:
    declared = {code for route in DECLARED for code in route.codes}
    assert set(Code) - declared == set(BEYOND_ROUTES)


def test_what_costs_money_needs_a_key_and_is_limited() -> None:
    metered = [operation(route) for route in DECLARED if operation(route).meter is Meter.TOKENS]
    assert metered
    assert all(found.auth is Auth.KEY and found.limiter is Rate.TIER for found in metered)


def test_every_route_with_a_key_names_the_scope_that_the_key_needs() -> None:
    nameless = {
        route.path
        for route in DECLARED
        if (operation(route).auth is Auth.KEY) != (operation(route).scope is not None)
    }
    assert nameless == set()


def test_what_is_metered_needs_the_scope_of_inference() -> None:
    metered = [operation(route) for route in DECLARED if operation(route).meter is Meter.TOKENS]
    assert {found.scope for found in metered} == {Scope.INFERENCE}


def test_what_charges_a_card_needs_a_key_with_the_scope_of_billing() -> None:
    bought = [operation(route) for route in DECLARED if operation(route).meter is Meter.PURCHASE]
    assert {found.id for found in bought} == {"createCheckout", "chargeCard"}
    assert {(found.auth, found.scope) for found in bought} == {(Auth.KEY, Scope.BILLING)}


@pytest.mark.parametrize("route", DECLARED, ids=lambda route: f"{route.method} {route.path}")
async def test_a_declared_key_is_asked_for(route: Route) -> None:
    """Refused before anything is looked up: nothing behind this gateway is running."""
    answer = await ask(GATEWAY, route.method, route.path.replace("<", "").replace(">", ""))
    assert (answer.status == 401) == (operation(route).auth is Auth.KEY)
