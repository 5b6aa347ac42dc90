"""What no hold can cover is refused before one is placed; what can be is held for in full."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from adapters.http.dialects import Dialect
from adapters.http.dialects.chat import ChatCompletions
from adapters.http.dialects.messages import Messages
from adapters.http.dialects.responses import Responses
from tests.http.on_memory import CREDIT, a_body, a_place
from tests.http.responses_builders import MODEL

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


URL = "https://example.com/a.png"
SHOWN: list[tuple[Dialect, dict[str, Any]]] = [
    (
        ChatCompletions(),
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": URL}]}]},
    ),
    (
        Messages(),
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "source": {"type": "url", "url": URL}}],
                }
            ]
        },
    ),
    (
        Responses(),
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]}]},
    ),
]


@pytest.mark.parametrize(("dialect", "fields"), SHOWN, ids=lambda given: type(given).__name__)
def test_a_picture_is_held_for_as_its_model_reads_it(
    dialect: Dialect, fields: dict[str, Any]
) -> None:
    body = {"model": MODEL.id, **fields}
    usual = dialect.call({**body}, MODEL).size
    sharp = dialect.call({**body}, replace(MODEL, picture_tokens=4_800)).size
    assert sharp.worst_input - usual.worst_input == 4_800 - 2_600
    assert sharp.likely_input - usual.likely_input == 4_800 - 2_600


def test_a_picture_is_counted_as_its_model_reads_it() -> None:
    _, fields = SHOWN[1]
    sharp = replace(MODEL, picture_tokens=4_800)
    assert Messages().count(fields, sharp) - Messages().count(fields, MODEL) == 4_800 - 2_600
