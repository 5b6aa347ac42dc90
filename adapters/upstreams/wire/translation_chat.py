"""Anthropic's Messages in OpenAI's chat dialect: what is asked of models.

Pure. A request that the other dialect has no word for is the caller's to change
(`Fault.BAD_REQUEST`, with the field's name). Several of OpenAI's dialect refuse unknown fields:
only known ones cross.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from adapters.json_text import Unwritable, json_bytes
from adapters.upstreams.wire.jsons import objects
from adapters.upstreams.wire.marks import is_marked, mark_last, mark_of
from adapters.upstreams.wire.sold import not_run
from adapters.upstreams.wire.translation_answers import text_of
from kyma.calls import ChatCall, Dialect, Fault, UpstreamError

Json = dict[str, Any]
Mark = Callable[[Mapping[str, Any]], Json]
"""`mark_of`, or `_no_mark` for a provider that takes none."""

EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
"""Efforts of either dialect in the words that every model of the other knows."""

SAME_IN_CHAT = (
    *("stream", "max_tokens", "temperature", "top_p", "seed", "response_format", "user"),
    *("frequency_penalty", "presence_penalty", "reasoning_effort", "prompt_cache_key"),
)
"""Fields that may stand in a body of the other dialect as they are."""

USER_CHARACTERS = 64
"""What OpenAI takes of a `user`; Claude Code's `user_id` is longer."""

AGENT_NOTE = "x-anthropic-"
"""How a line begins that Claude Code puts before its system prompt. It differs from turn to
turn and would keep every other provider from ever finding the prompt in its cache."""


def cannot(param: str, words: str) -> UpstreamError:
    """The error for a field that cannot be said in the other dialect."""
    return UpstreamError(Fault.BAD_REQUEST, f"`{param}` {words}.", param=param)


def as_object(value: Any) -> Json:
    """The object, or an empty one where something else stands."""
    return value if isinstance(value, dict) else {}


def _no_mark(_: Mapping[str, Any]) -> Json:
    return {}


def messages_to_chat(call: ChatCall, *, thoughts: bool = True, marks: bool = False) -> ChatCall:
    """The same request as a chat body; raises `UpstreamError` BAD_REQUEST.

    `thoughts` says whether the provider takes `reasoning_content` in a turn of the assistant
    (2026-11: Groq answers 400; DeepSeek and Moonshot want it back within a turn of tool calls).
    `marks` whether it takes `cache_control`: text is in parts then, where one is marked.
    """
    asked = call.body
    body = {name: asked[name] for name in SAME_IN_CHAT if asked.get(name) is not None}
    mark = mark_of if marks else _no_mark
    body["messages"] = _system(asked, mark) + _chat_turns(asked, mark, thoughts=thoughts)
    body.update(mark(asked))
    offered = objects(asked.get("tools"))
    tools = [{**_function(place, tool), **mark(tool)} for place, tool in enumerate(offered)]
    if tools:
        body["tools"] = tools
        body.update(_function_choice(as_object(asked.get("tool_choice")), tools))
    stops = asked.get("stop_sequences")
    if isinstance(stops, list) and stops:
        body["stop"] = stops
    user = as_object(asked.get("metadata")).get("user_id")
    if isinstance(user, str) and user:
        body["user"] = user[:USER_CHARACTERS]
    effort = _effort(asked)
    if effort:
        body["reasoning_effort"] = effort
    schema = _schema(asked)
    if schema is not None:
        named = {"name": "answer", "schema": schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    return replace(call, body=body, dialect=Dialect.CHAT)


def _schema(asked: Mapping[str, Any]) -> Json | None:
    config = as_object(asked.get("output_config"))
    written = as_object(config.get("format") or asked.get("output_format"))
    schema = written.get("schema")
    return schema if isinstance(schema, dict) else None


def _effort(asked: Mapping[str, Any]) -> str | None:
    """How hard to think. Without a figure that is left to the model, as Anthropic's does."""
    thinking = as_object(asked.get("thinking"))
    if thinking.get("type") == "disabled":
        return None
    effort = as_object(asked.get("output_config")).get("effort")
    if isinstance(effort, str):
        return EFFORTS.get(effort)
    budget = thinking.get("budget_tokens")
    if type(budget) is not int:
        return None
    return "low" if budget < 4_096 else "medium" if budget < 16_384 else "high"


def _system(asked: Mapping[str, Any], mark: Mark) -> list[Json]:
    system = asked.get("system")
    blocks = _text(system) if isinstance(system, str) else objects(system)
    parts = [part for part in _texts(blocks, mark) if not part["text"].startswith(AGENT_NOTE)]
    return [{"role": "system", "content": _plain(parts)}] if parts else []


def _texts(blocks: list[Json], mark: Mark) -> list[Json]:
    """What blocks say, each as a part with its mark; the empty ones left out."""
    said = [(text_of([block]), mark(block)) for block in blocks]
    return [{"type": "text", "text": text, **marked} for text, marked in said if text]


def _said(content: Any, mark: Mark) -> str | list[Json]:
    """The text of a turn without media: parts if one of them is marked."""
    parts = _texts(objects(content), mark)
    return parts if is_marked(parts) else text_of(content)


def _chat_turns(asked: Mapping[str, Any], mark: Mark, *, thoughts: bool) -> list[Json]:
    messages = objects(asked.get("messages"))
    spoken = [place for place, message in enumerate(messages) if _is_spoken(message)]
    loop = spoken[-1] if spoken else -1
    turns: list[Json] = []
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if message.get("role") == "assistant":
            turns.append(_chat_answer(message, mark, thoughts=thoughts and place > loop))
        elif message.get("role") == "system":
            turns.append({"role": "system", "content": _said(message.get("content"), mark)})
        else:
            turns += _chat_user(message, where, mark)
    return turns


def _is_spoken(message: Mapping[str, Any]) -> bool:
    """Whether a turn is the user's own, not the results of tools alone."""
    blocks = objects(message.get("content"))
    results = [block for block in blocks if block.get("type") == "tool_result"]
    return message.get("role") == "user" and (not results or len(results) < len(blocks))


def _chat_user(message: Mapping[str, Any], where: str, mark: Mark) -> Iterator[Json]:
    """Results first, as messages of their own, then what the user says and shows.

    OpenAI's tool messages are text: what a result shows follows as the user's.
    """
    content = message.get("content")
    if isinstance(content, str):
        yield {"role": "user", "content": content}
        return
    parts: list[Json] = []
    for place, block in enumerate(objects(content)):
        inside = f"{where}.content[{place}]"
        if block.get("type") != "tool_result":
            parts += mark_last(_parts(block, inside), mark(block))
            continue
        result, media = _result(block, inside, mark)
        yield result
        if media:
            parts += [*_text(f"What {result['tool_call_id']} returned:"), *media]
    if parts:
        yield {"role": "user", "content": _plain(parts)}


def _result(block: Mapping[str, Any], where: str, mark: Mark) -> tuple[Json, list[Json]]:
    """A tool's result as a message, and what it shows beside its text.

    It has one mark, whether that stood on it or within.
    """
    told = block.get("content")
    inner = _text(told) if isinstance(told, str) else objects(told)
    shown = [part for one in inner for part in _parts(one, f"{where}.content")]
    text = "\n\n".join(part["text"] for part in shown if part["type"] == "text")
    media = [part for part in shown if part["type"] != "text"]
    if block.get("is_error") is True and not text.lower().startswith("error"):
        text = f"Error: {text}"
    text = text or ("(below)" if media else "")
    marks = [found for one in (*inner, block) if (found := mark(one))]
    said = [{"type": "text", "text": text, **marks[-1]}] if marks and text else text
    return {"role": "tool", "tool_call_id": str(block.get("tool_use_id")), "content": said}, media


def _plain(parts: list[Json]) -> str | list[Json]:
    """Text alone as a string, which every provider takes; it has no place for a mark."""
    if all(part["type"] == "text" for part in parts) and not is_marked(parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def _parts(block: Mapping[str, Any], where: str) -> list[Json]:
    match block.get("type"):
        case "text":
            return _text(text_of([block]))
        case "image":
            url = _uri(as_object(block.get("source")), f"{where}.source")
            return [{"type": "image_url", "image_url": {"url": url}}]
        case "document":
            return _document(block, as_object(block.get("source")), where)
        case "search_result":
            return _text(_titled(block, text_of(block.get("content"))))
        case "tool_reference" | "browser_state":
            return _text(_written(block))
    return []  # traces of tools that Anthropic runs, containers: nothing for another model


def _text(text: str) -> list[Json]:
    return [{"type": "text", "text": text}]


def _document(block: Mapping[str, Any], source: Mapping[str, Any], where: str) -> list[Json]:
    inner = source.get("content")
    match source.get("type"):
        case "text":
            return _text(_titled(block, str(source.get("data") or "")))
        case "content" if isinstance(inner, str):
            return _text(_titled(block, inner))
        case "content":
            return [part for b in objects(inner) for part in _inner_parts(b, where)]
    name = block.get("title") if isinstance(block.get("title"), str) else "document.pdf"
    file = {"filename": name, "file_data": _uri(source, f"{where}.source")}
    return [{"type": "file", "file": file}]


def _inner_parts(block: Mapping[str, Any], where: str) -> list[Json]:
    return _parts(block, where) if block.get("type") in ("text", "image") else []


def _titled(block: Mapping[str, Any], text: str) -> str:
    heads = [block.get("title"), block.get("context")]
    return "\n\n".join([*(head for head in heads if isinstance(head, str) and head), text])


def _uri(source: Mapping[str, Any], where: str) -> str:
    data, url = source.get("data"), source.get("url")
    if isinstance(data, str):
        return f"data:{source.get('media_type') or 'application/octet-stream'};base64,{data}"
    if isinstance(url, str):
        return url
    raise cannot(where, "must bring its data or a URL: files are not stored here")


def _written(value: Any) -> str:
    try:
        return json_bytes(value).decode()
    except Unwritable as error:
        raise cannot("messages", f"cannot be passed on: {error}") from error


def _chat_answer(message: Mapping[str, Any], mark: Mark, *, thoughts: bool) -> Json:
    content = message.get("content")
    blocks = objects(content)
    texts = [block for block in blocks if block.get("type") == "text"]
    text = content if isinstance(content, str) else _said(texts, mark)
    calls = [
        {
            "id": str(block.get("id")),
            "type": "function",
            "function": {
                "name": str(block.get("name")),
                "arguments": _written(as_object(block.get("input"))),
            },
        }
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    turn: Json = {"role": "assistant", "content": None if calls and not text else text}
    thought = "".join(str(b.get("thinking") or "") for b in blocks if b.get("type") == "thinking")
    if thoughts and thought:
        turn["reasoning_content"] = thought
    if calls:
        turn["tool_calls"] = calls
        for block in blocks:
            turn.update(mark(block) if block.get("type") == "tool_use" else {})
    return turn


def _function(place: int, tool: Mapping[str, Any]) -> Json:
    """A tool of the caller's own. What Anthropic describes is known to its models alone."""
    if tool.get("type") not in (None, "custom") and "input_schema" not in tool:
        raise not_run(place, tool)
    function: Json = {"name": str(tool.get("name") or "")}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    schema = as_object(tool.get("input_schema")) or {"type": "object", "properties": {}}
    return {"type": "function", "function": {**function, "parameters": schema}}


def _function_choice(choice: Mapping[str, Any], tools: list[Json]) -> Json:
    found: Json = {}
    kind, name = choice.get("type"), choice.get("name")
    if kind in ("auto", "none"):
        found["tool_choice"] = kind
    elif kind == "any":
        found["tool_choice"] = "required"
    elif kind == "tool" and any(tool["function"]["name"] == name for tool in tools):
        found["tool_choice"] = {"type": "function", "function": {"name": name}}
    if choice.get("disable_parallel_tool_use") is True:
        found["parallel_tool_calls"] = False
    return found
