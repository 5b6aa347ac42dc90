"""Tools that a call may offer: which of them a caller's own program runs, and what they weigh.

Sources: platform.claude.com, the overview of tool use (read on 2026-07-13: what runs where, and the
tokens of its system prompt by model) and the pages of the bash, text editor and computer use tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFINED = ("bash_", "text_editor_", "computer_", "memory_", "browser_")
"""How the types of tools begin that Anthropic describes and the caller's own program runs.

All others (web search and fetch, code execution, tool search, an advising model, MCP servers) run
at Anthropic. Some are billed by the use; whatever they find, the model reads, and reads again with
every step, and no hold knows how much that will be. So they are not sold.
"""

TOOL_PROMPT_TOKENS = 1_000
"""More than a provider puts before the model where tools or a form of answer are asked for.

Claude Opus 4.7 reads 804 tokens beside the tools themselves, Sonnet 4.6 and Haiku 4.5 some 590.
"""

DEFINED_TOOL_TOKENS = 2_000
"""More than describing one of these tools takes, of which its caller sends some fifty bytes.

Bash takes 245 tokens, the text editor 700, computer use 735 and 499 of a prompt of its own. For the
others no figure is published.
"""


def runs_at_the_callers(kind: Any) -> bool:
    """Whether a tool with this `type` costs nothing but the tokens of its description."""
    return kind is None or (isinstance(kind, str) and (kind == "custom" or _is_defined(kind)))


OUR_TOOLS = frozenset({"function", "custom"})
"""Types of tools in OpenAI's dialect that a caller runs, and that cost nothing but their tokens."""


def is_the_callers(tool: Mapping[str, Any]) -> bool:
    """Whether a tool of OpenAI's dialect is a function or a custom one, run by who offers it."""
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if isinstance(name, str) and name.startswith("$"):  # Moonshot's own
        return False
    kind = tool.get("type")
    return function is not None if kind is None else isinstance(kind, str) and kind in OUR_TOOLS


def _is_defined(kind: Any) -> bool:
    return isinstance(kind, str) and kind.startswith(DEFINED)


def unseen_tokens(body: Mapping[str, Any]) -> int:
    """At most so many tokens does the model read of which nothing stands in this body."""
    tools = body.get("tools")
    config = body.get("output_config")
    forms = (body.get("functions"), body.get("response_format"), body.get("output_format"))
    form = config.get("format") if isinstance(config, Mapping) else None
    if not (tools or form or any(forms)):
        return 0
    given = tools if isinstance(tools, list) else ()
    defined = sum(isinstance(tool, Mapping) and _is_defined(tool.get("type")) for tool in given)
    return TOOL_PROMPT_TOKENS + DEFINED_TOOL_TOKENS * defined
