"""What the Codex command line sends, over raw sockets, in the form that 0.169 was seen to send
(2026-11): `developer` messages, tools of every sort, metadata of its own, no `max_output_tokens`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from tests.e2e.asking import Customer, Reply, send

RUN = {
    "type": "object",
    "properties": {
        "cmd": {"type": "string", "description": "Shell command to execute."},
        "login": {"type": "boolean"},
        "prefix_rule": {"type": "array", "items": {"type": "string"}},
        "max_output_tokens": {"type": "number"},
    },
    "required": ["cmd"],
    "additionalProperties": False,
}
CLOSE = {
    "type": "object",
    "properties": {"target": {"type": "string"}},
    "required": ["target"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "name": "exec_command", "strict": False, "parameters": RUN},
    {
        "type": "namespace",
        "name": "multi_agent_v1",
        "description": "Tools for sub-agents.",
        "tools": [
            {"type": "function", "name": "close_agent", "strict": False, "parameters": CLOSE}
        ],
    },
    {"type": "web_search", "external_web_access": False},
]


def text(role: str, words: str, number: int) -> dict[str, Any]:
    content = [{"type": "input_text", "text": words}]
    return {"type": "message", "id": f"msg_{number:032x}", "role": role, "content": content}


FIRST = [
    text("developer", "You are a coding agent. " * 400, 1),
    text("developer", "<skills_instructions>None.</skills_instructions>", 2),
    text("user", "<environment_context><cwd>/project</cwd></environment_context>", 3),
    text("user", "Run echo hi", 4),
]


async def post(who: Customer, model: str, items: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The events that answer a request of Codex's."""
    thread = "01a1fd27-21bd-74d3-8bbe-1f09282b597f"
    body = {
        "model": model,
        "stream": True,
        "input": items,
        "tools": TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": thread,
        "client_metadata": {"session_id": thread, "x-codex-turn-metadata": "{}"},
    }
    headers = {
        "Accept": "text/event-stream",
        "Authorization": f"Bearer {who.key}",
        "User-Agent": "codex_exec/0.169.0 (Debian 12.0.0; x86_64)",
        "originator": "codex_exec",
        "session-id": thread,
        "x-codex-beta-features": "remote_compaction_v2",
    }
    reply: Reply = await send(who.url, "POST", "/v1/responses", json.dumps(body).encode(), headers)
    assert reply.status == 200, reply.raw
    events = [(name, json.loads(data)) for name, data in reply.events() if data != "[DONE]"]
    assert all(name == event["type"] for name, event in events)
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    return [event for _, event in events]


@pytest.mark.parametrize("model", ["qwen-3.6-plus", "claude-haiku-4-5"])
async def test_a_conversation_with_tools_is_held(payer: Customer, model: str) -> None:
    events = await post(payer, model, FIRST)
    assert events[-1]["type"] == "response.completed"
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    (call,) = [item for item in done if item["type"] == "function_call"]
    assert call["name"] == "exec_command"
    jsonschema.validate(json.loads(call["arguments"]), RUN)

    output = {
        "type": "function_call_output",
        "call_id": call["call_id"],
        "output": "Process exited with code 0\nhi there",
    }
    events = await post(payer, model, [*FIRST, *done, output])
    assert events[-1]["type"] == "response.completed"
    answer = events[-1]["response"]
    (message,) = [item for item in answer["output"] if item["type"] == "message"]
    assert "hi there" in message["content"][0]["text"]
    assert answer["usage"]["input_tokens"] > 1000
    assert (await payer.balance())["held"] == "0"
