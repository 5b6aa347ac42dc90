"""Anthropic's Messages requests at the sandbox: what is refused, and what is asked for.

Turns the body into the neutral `Ask` and its prompt into tokens with the ends of its blocks.
The words of refusals are Anthropic's where they are known, since gateways read them.
"""

import re
from typing import Any

from adapters.embedded.sandbox_ask import Ask, control_from, is_new_turn, refuse
from adapters.embedded.sandbox_blocks import check_messages, check_system, content_of, marks_in
from adapters.embedded.sandbox_cache import Mark, Prompt
from adapters.embedded.sandbox_text import MEDIA_TOKENS, Json, digest, pieces, text_of

_FIELDS = frozenset(
    {
        *("model", "messages", "max_tokens", "system", "stream", "diagnostics"),
        *("stop_sequences", "tools", "tool_choice", "metadata", "thinking", "service_tier"),
        *("container", "mcp_servers", "context_management", "output_config", "output_format"),
        *("cache_control", "inference_geo", "speed", "sandbox"),
    }
)
_SAMPLING = ("temperature", "top_p", "top_k")
_OLDER, _NEWER = VERSIONS = ("2023-06-01", "2026-10-21")
"""The newer one has no sampling, no citations in a user's text, and no assistant's documents:
https://platform.claude.com/docs/en/api/migration-2026-10-21, read 2026-11."""

_TOOL_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,128}$")
_MOST_MARKS = 4
_LEAST_BUDGET = 1_024
_MOST_TOKENS = 1_000_000


def ask_from(body: Any, version: str) -> Ask:
    """The request in a decoded body; `ApiError` when Anthropic would refuse it."""
    return _ask(body, version, counting=False)


def count_from(body: Any, version: str) -> Ask:
    """The request to count tokens, which has no `max_tokens` and no stream."""
    return _ask(body, version, counting=True)


def _ask(body: Any, version: str, *, counting: bool) -> Ask:
    if not isinstance(body, dict):
        refuse("The request body is not valid JSON: expected an object.")
    _check_fields(body, version, counting=counting)
    limit = None if counting else _limit(body)
    check_system(body)
    messages = check_messages(body["messages"], is_newer=version == _NEWER)
    functions = _functions(body)
    thinks = _thinks(body, limit)
    _check_marks(body)
    tool, parallel = _wanted_tool(body, functions, messages, thinks=thinks)
    return Ask(
        model=body["model"],
        messages=messages,
        stream=bool(body.get("stream")) and not counting,
        tools=tuple(functions),
        tool=tool,
        parallel=parallel,
        schema=_schema(body),
        thinks=thinks,
        max_tokens=limit,
        stops=_stops(body),
        control=control_from(body),
        body=body,
    )


def _check_fields(body: Json, version: str, *, counting: bool) -> None:
    for name in body:
        if name not in _FIELDS and (name not in _SAMPLING or version == _NEWER):
            refuse(f"{name}: Extra inputs are not permitted")
    for name in ("model", "messages") if counting else ("model", "messages", "max_tokens"):
        if body.get(name) is None:
            refuse(f"{name}: Field required")
    if not isinstance(body["model"], str) or not body["model"]:
        refuse("model: Input should be a valid string")
    if body.get("stream") is not None and not isinstance(body["stream"], bool):
        refuse("stream: Input should be a valid boolean")
    for name in ("temperature", "top_p"):
        _check_share(body, name)


def _check_share(body: Json, name: str) -> None:
    value = body.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(f"{name}: Input should be a valid number")
    if not 0 <= value <= 1:
        refuse(f"{name}: range: 0..1")


def _limit(body: Json) -> int:
    limit = body["max_tokens"]
    if isinstance(limit, bool) or not isinstance(limit, int):
        refuse("max_tokens: Input should be a valid integer")
    if limit < 0:  # nought fills the cache and says nothing
        refuse("max_tokens: Input should be greater than or equal to 0")
    if limit > _MOST_TOKENS:
        refuse(f"max_tokens: {limit} > {_MOST_TOKENS}, which is the maximum allowed number of "
               f"output tokens for {body['model']}")  # fmt: skip
    return limit


def _thinks(body: Json, limit: int | None) -> bool:
    thinking = body.get("thinking")
    if thinking is None:
        return False
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        refuse("thinking: Input tag found using 'type' does not match any of the expected tags: "
               "'adaptive', 'between_tools', 'disabled', 'enabled'")  # fmt: skip
    if kind in ("disabled", "between_tools"):
        return False
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        if isinstance(budget, bool) or not isinstance(budget, int):
            refuse("thinking.enabled.budget_tokens: Field required")
        if budget < _LEAST_BUDGET:
            refuse("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
        if limit is not None and limit <= budget:
            refuse("`max_tokens` must be greater than `thinking.budget_tokens`.")
    if body.get("temperature") not in (None, 1):
        refuse("`temperature` may only be set to 1 when thinking is enabled.")
    return True


def _stops(body: Json) -> tuple[str, ...]:
    stops = body.get("stop_sequences")
    if stops is None:
        return ()
    if not isinstance(stops, list) or not all(isinstance(item, str) for item in stops):
        refuse("stop_sequences: Input should be a valid list of strings")
    if not all(item.strip() for item in stops):
        refuse("stop_sequences: each stop sequence must contain non-whitespace")
    return tuple(stops)


def _functions(body: Json) -> list[Json]:
    """The caller's own tools as functions; Anthropic's own are accepted and never called."""
    tools = body.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list):
        refuse("tools: Input should be a valid list")
    found: list[Json] = []
    names: set[str] = set()
    for at, tool in enumerate(tools):
        where = f"tools.{at}.custom"
        if not isinstance(tool, dict):
            refuse(f"tools.{at}: Input should be a valid dictionary")
        name = tool.get("name")
        if name is None and tool.get("type") not in (None, "custom"):
            continue
        if not isinstance(name, str):
            refuse(f"{where}.name: Field required")
        if not _TOOL_NAME.match(name):
            refuse(f"{where}.name: String should match pattern '{_TOOL_NAME.pattern}'")
        if name in names:
            refuse("tools: Tool names must be unique.")
        names.add(name)
        if tool.get("type") in (None, "custom"):
            found.append({"name": name, "parameters": _input_schema(tool, where)})
    return found


def _input_schema(tool: Json, where: str) -> Json:
    schema = tool.get("input_schema")
    if schema is None:
        refuse(f"{where}.input_schema: Field required")
    if not isinstance(schema, dict):
        refuse(f"{where}.input_schema: Input should be a valid dictionary")
    if schema.get("type") is None:
        refuse(f"{where}.input_schema.type: Field required")
    if schema["type"] != "object":
        refuse(f"{where}.input_schema.type: Input should be 'object'")
    return schema


def _wanted_tool(
    body: Json, functions: list[Json], messages: list[Json], *, thinks: bool
) -> tuple[Json | None, bool]:
    """The function to call, and whether others may be called beside it."""
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else None
    if choice is not None and kind not in ("auto", "any", "tool", "none"):
        refuse("tool_choice: Input tag found using 'type' does not match any of the expected "
               "tags: 'any', 'auto', 'none', 'tool'")  # fmt: skip
    if choice is not None and not body.get("tools"):
        refuse("tool_choice: tool_choice may only be specified while providing tools.")
    if kind in ("any", "tool") and thinks:
        refuse("Thinking may not be enabled when tool_choice forces tool use.")
    parallel = not (choice or {}).get("disable_parallel_tool_use")
    if kind == "tool":
        name = (choice or {}).get("name")
        for function in functions:
            if function["name"] == name:
                return function, parallel
        refuse(f"Tool '{name}' not found in provided tools")
    asks = kind == "any" or (kind != "none" and is_new_turn(messages))
    return (functions[0] if functions and asks else None), parallel


def _schema(body: Json) -> Json | None:
    """What a structured answer has to satisfy, in the newer place or the older one."""
    config = body.get("output_config") or {}
    wanted = config.get("format") if isinstance(config, dict) else None
    wanted = wanted or body.get("output_format")
    if wanted is None:
        return None
    if not isinstance(wanted, dict) or not isinstance(wanted.get("schema"), dict):
        refuse("output_config.format.schema: Field required")
    schema: Json = wanted["schema"]
    return schema


def _check_marks(body: Json) -> None:
    marks = marks_in(body)
    if marks > _MOST_MARKS:
        refuse("A maximum of 4 blocks with cache_control may be provided. "
               f"Found {marks}.")  # fmt: skip


def prompt_of(ask: Ask) -> Prompt:
    """Tools, system and messages as tokens, in the order in which they are cached."""
    body = ask.body or {}
    tokens: list[str] = []
    marks: list[Mark] = []

    def end_of(block: Any) -> None:
        control = block.get("cache_control") if isinstance(block, dict) else None
        marks.append(Mark(len(tokens), (control.get("ttl") or "5m") if control else None))

    for tool in body.get("tools") or ():
        tokens.extend(pieces(str(_unmarked(tool))))
        end_of(tool)
    for block in content_of(body.get("system")):
        tokens.extend(_block_tokens(block))
        end_of(block)
    for message in body["messages"]:
        tokens.extend(("<message>", message["role"]))
        for block in content_of(message["content"]):
            tokens.extend(_block_tokens(block))
            end_of(block)
        tokens.append("</message>")
    if body.get("cache_control") and marks:
        marks[-1] = Mark(marks[-1].at, body["cache_control"].get("ttl") or "5m")
    return Prompt(tokens, marks)


def _unmarked(block: Json) -> Json:
    return {name: value for name, value in block.items() if name != "cache_control"}


def _block_tokens(block: Json) -> list[str]:
    match block["type"]:
        case "text" | "thinking":
            return pieces(str(block.get("text") or block.get("thinking") or ""))
        case "image" | "document":
            size = MEDIA_TOKENS["image_url" if block["type"] == "image" else "file"]
            return [f"<{block['type']} {digest(_unmarked(block))}>"] * size
        case "tool_result":
            inner = content_of(block.get("content"))
            return [
                f"<{block['tool_use_id']}>",
                *(token for part in inner for token in _block_tokens(part)),
            ]
        case _:
            return pieces(text_of({"content": [block]}) or str(_unmarked(block)))
