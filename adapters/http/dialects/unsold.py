"""What providers do beside their models, and this gateway neither does nor sells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from kyma.errors import Code, Refusal
from kyma.tools import is_the_callers, runs_at_the_callers

KIND_SHOWN = 64
"""Characters of a tool's type that its refusal repeats."""


def check_tool(where: str, kind: Any) -> None:
    """Refuse a tool that Anthropic runs.

    Left out silently it would not be missed: a search that never happened looks like an answer.
    """
    if runs_at_the_callers(kind):
        return
    raise Refusal(
        Code.INVALID_VALUE,
        f"{where}.type: `{str(kind)[:KIND_SHOWN]}` is no tool that your own program runs. Tools "
        "that Anthropic runs (web search and fetch, code execution, tool search, MCP) are not "
        "sold here.",
        param=f"{where}.type",
    )


def check_tools(tools: Any) -> None:
    """Refuse a tool of the chat dialect that a provider would run; some also take Anthropic's."""
    for place, tool in enumerate(tools if isinstance(tools, list) else ()):
        given = tool if isinstance(tool, Mapping) else {}
        if not is_the_callers(given) and not ("name" in given and _is_claudes(given)):
            where = f"tools[{place}].type"
            raise Refusal(
                Code.INVALID_VALUE,
                f"{where} must be `function` or `custom`: tools that a provider runs are not sold "
                "here.",
                param=where,
            )


def _is_claudes(tool: Mapping[str, Any]) -> bool:
    return tool.get("type") is not None and runs_at_the_callers(tool["type"])


def check_servers(field: str, servers: Any) -> None:
    """Refuse MCP servers that Anthropic would ask; none are none."""
    if servers != []:
        raise Refusal(
            Code.INVALID_VALUE,
            f"{field}: Anthropic's MCP connector is not sold here. Offer the servers' tools as "
            "tools of your own, which your program runs.",
            param=field,
        )


def refuse_thread(field: str, _: Any) -> NoReturn:
    """A client's tool runner asks for one that is kept, and falls back when told in these words."""
    raise Refusal(
        Code.INVALID_VALUE,
        f"{field}: conversations are not kept here; send every message with each request.",
        param=field,
        details={"details": {"error_code": "thread_unsupported_request"}},
    )
