"""Tools of the Responses API as chat functions: their names there and back, and which is forced.

A chat model knows functions only. A custom tool (free text, perhaps held to a grammar) is
offered as a function with one string, `input`; a tool in a namespace under one joined name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from adapters.http.complaints import MAX_TOOLS, out_of_range
from kyma.errors import Code, Refusal

MAX_NAME = 64
"""Longest name of a function that OpenAI's chat dialect takes."""

FUNCTION, CUSTOM = "function", "custom"
INPUT = "input"
"""The one parameter of a custom tool."""

LEFT_OUT = ("web_search", "image_generation", "tool_search")
"""Beginnings of the hosted tools that agents declare with every request.

Codex CLI sends `web_search` beside its own tools whatever the provider (codex-rs tool_spec.rs,
2026-09); a gateway that refuses them cannot serve it (command-code #885, coder #28656). They
are not offered to the model, and the answer's `tools` shows that.
"""

CHOICES = frozenset({"auto", "none", "required"})


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as its caller names it; `kind` decides how a call to it is shown."""

    kind: str
    name: str
    namespace: str | None = None


@dataclass(slots=True)
class Toolbox:
    """Tools in three views: `offered` to chat models, `shown` in the answer, `names` back."""

    offered: list[dict[str, Any]] = field(default_factory=list)
    shown: list[dict[str, Any]] = field(default_factory=list)
    names: dict[str, Tool] = field(default_factory=dict)

    def add(self, where: str, tool: Mapping[str, Any], namespace: str | None = None) -> None:
        """Offer a function or a custom tool."""
        if len(self.offered) == MAX_TOOLS:
            out_of_range("tools", f"at most {MAX_TOOLS} tools")
        name = _name(where, tool)
        flat = flat_name(namespace, name)
        self.names[flat] = Tool(tool["type"], name, namespace)
        make = _custom if tool["type"] == CUSTOM else _function
        self.offered.append({"type": FUNCTION, "function": make(where, flat, tool)})


def flat_name(namespace: str | None, name: str) -> str:
    """The function name of a tool; the same in every turn, so that history agrees with it."""
    if not namespace:
        return name
    flat = namespace + name if namespace.endswith("__") else f"{namespace}__{name}"
    if len(flat) <= MAX_NAME:
        return flat
    digest = hashlib.sha256(flat.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{flat[: MAX_NAME - 9]}_{digest}"


def toolbox(tools: Iterable[tuple[str, Any]]) -> Toolbox:
    """The tools of a request, each with the name of its field; refuses what runs elsewhere."""
    box = Toolbox()
    left_out: list[tuple[str, str]] = []
    for where, tool in tools:
        kind = _kind(where, tool)
        if kind in {FUNCTION, CUSTOM}:
            box.add(where, tool)
        elif kind == "namespace":
            _add_namespace(box, where, tool)
        elif kind.startswith(LEFT_OUT):
            left_out.append((where, kind))
            continue
        else:
            _hosted(where, kind)
        box.shown.append(tool)
    if left_out and not box.offered:
        _hosted(*left_out[0])
    return box


def _add_namespace(box: Toolbox, where: str, tool: Mapping[str, Any]) -> None:
    namespace, inner = _name(where, tool), tool.get("tools")
    if not isinstance(inner, list):
        raise Refusal(
            Code.INVALID_TYPE, f"`{where}.tools` must be an array.", param=f"{where}.tools"
        )
    for place, member in enumerate(inner):
        at = f"{where}.tools[{place}]"
        kind = _kind(at, member)
        if kind not in {FUNCTION, CUSTOM}:
            _hosted(at, kind)
        box.add(at, member, namespace)


def _kind(where: str, tool: Any) -> str:
    if not isinstance(tool, dict):
        raise Refusal(Code.INVALID_TYPE, f"`{where}` must be an object.", param=where)
    kind = tool.get("type")
    if not isinstance(kind, str):
        code = Code.MISSING_FIELD if kind is None else Code.INVALID_TYPE
        raise Refusal(code, f"`{where}.type` must be a string.", param=f"{where}.type")
    return kind


def _name(where: str, tool: Mapping[str, Any]) -> str:
    name = tool.get("name")
    if isinstance(name, str) and name:
        return name
    code = Code.MISSING_FIELD if name is None else Code.INVALID_TYPE
    raise Refusal(code, f"`{where}.name` must be a non-empty string.", param=f"{where}.name")


def _hosted(where: str, kind: str) -> NoReturn:
    raise Refusal(
        Code.INVALID_VALUE,
        f"The tool `{kind[:MAX_NAME]}` cannot be used here: it runs on OpenAI's servers or needs "
        "their models. Offer `function` or `custom` tools, which your own program runs.",
        param=f"{where}.type",
    )


def _function(where: str, flat: str, tool: Mapping[str, Any]) -> dict[str, Any]:
    parameters = tool.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise Refusal(
            Code.INVALID_TYPE,
            f"`{where}.parameters` must be an object.",
            param=f"{where}.parameters",
        )
    function: dict[str, Any] = {
        "name": flat,
        "parameters": parameters or {"type": "object", "properties": {}},
    }
    if tool.get("description"):
        function["description"] = tool["description"]
    if tool.get("strict") is True:
        function["strict"] = True
    return function


def _custom(where: str, flat: str, tool: Mapping[str, Any]) -> dict[str, Any]:
    form = tool.get("format") or {}
    if not isinstance(form, dict):
        raise Refusal(
            Code.INVALID_TYPE, f"`{where}.format` must be an object.", param=f"{where}.format"
        )
    texts = [tool["description"]] if isinstance(tool.get("description"), str) else []
    if form.get("type") == "grammar":
        # No chat provider holds a model to a grammar in a tool: telling it is what can be done.
        texts.append(
            f"`{INPUT}` is plain text that matches this {form.get('syntax')} grammar:\n"
            f"{form.get('definition')}"
        )
    return {
        "name": flat,
        "description": "\n\n".join(texts),
        "parameters": {
            "type": "object",
            "properties": {INPUT: {"type": "string", "description": "The tool's whole input."}},
            "required": [INPUT],
            "additionalProperties": False,
        },
    }


def choose(asked: Any, box: Toolbox) -> tuple[list[dict[str, Any]], Any]:
    """The functions to offer and chat's `tool_choice` (None where it may not be sent)."""
    if asked is None:
        return box.offered, None
    if isinstance(asked, str):
        if asked not in CHOICES:
            _choice("tool_choice", "one of auto, none, required, or an object")
        if asked == "required" and not box.offered:
            _choice("tool_choice", "auto or none where no tools are offered")
        return box.offered, asked if box.offered else None
    if asked.get("type") == "allowed_tools":
        return _allowed(asked, box)
    if asked.get("type") not in (FUNCTION, CUSTOM):
        _choice("tool_choice.type", "function, custom or allowed_tools")
    flat = _flat_of(asked)
    if flat not in box.names:
        _choice("tool_choice.name", "the name of a tool in `tools`")
    return box.offered, {"type": FUNCTION, "function": {"name": flat}}


def _allowed(asked: Mapping[str, Any], box: Toolbox) -> tuple[list[dict[str, Any]], Any]:
    """Only the allowed ones are offered: no other provider knows chat's own `allowed_tools`."""
    mode, tools = asked.get("mode"), asked.get("tools")
    if mode not in ("auto", "required"):
        _choice("tool_choice.mode", "auto or required")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        _choice("tool_choice.tools", "an array of objects")
    flat = {_flat_of(tool) for tool in tools}
    spaces = {str(tool.get("name")) for tool in tools if tool.get("type") == "namespace"}
    kept = [
        tool
        for tool in box.offered
        if tool[FUNCTION]["name"] in flat or box.names[tool[FUNCTION]["name"]].namespace in spaces
    ]
    if not kept:
        _choice("tool_choice.tools", "tools that are in `tools`")
    return kept, mode


def _flat_of(tool: Mapping[str, Any]) -> str:
    namespace = tool.get("namespace")
    return flat_name(namespace if isinstance(namespace, str) else None, str(tool.get("name") or ""))


def _choice(param: str, words: str) -> NoReturn:
    raise Refusal(Code.INVALID_VALUE, f"`{param}` must be {words}.", param=param)
