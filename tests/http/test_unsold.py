"""What no hold can cover is refused before one is placed; what can be is held for in full."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http.on_memory import CREDIT, a_body, a_place

SERVED_THERE: list[dict[str, Any]] = [
    {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]},
    {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    {"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]},
    {"mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}]},
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", SERVED_THERE, ids=str)
async def test_what_anthropic_would_run_is_a_400_that_holds_and_costs_nothing(
    fields: dict[str, Any], stream: bool
) -> None:
    place = await a_place()
    answer = await place.ask("POST", "/v1/messages", a_body(stream=stream, **fields))
    assert answer.status == 400
    assert answer.json()["error"]["param"] in ("tools[0].type", "mcp_servers")
    balance = await place.ledger.balance(place.account.id)
    assert (balance.available, place.upstream.calls) == (CREDIT, [])


@pytest.mark.parametrize("fields", SERVED_THERE, ids=str)
async def test_neither_is_it_counted(fields: dict[str, Any]) -> None:
    place = await a_place()
    answer = await place.ask("POST", "/v1/messages/count_tokens", a_body(**fields))
    assert answer.status == 400
