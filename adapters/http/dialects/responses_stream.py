"""Chat deltas as output items of the Responses API, with the events that tell of them.

`Output` takes deltas in whatever pieces they come and never raises on an odd one; a whole
answer is one delta. It knows nothing of the `response` object around the items.

What a model thinks is shown as a reasoning *summary*: that is what clients display, and what
agents send back with the next turn (raw `reasoning_text` is dropped by Codex on resending).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from adapters.http.dialects.responses_tools import CUSTOM, FUNCTION, INPUT, Tool
from adapters.json_text import json_bytes
from adapters.tool_calls import ToolCall

Emit = Callable[[str, dict[str, Any]], None]

DONE, CUT = "completed", "incomplete"

COMPLETE = frozenset({"", "stop", "tool_calls", "function_call"})
CUT_SHORT = "max_output_tokens"
INCOMPLETE = {"length": CUT_SHORT, "content_filter": "content_filter"}


class _Item(Protocol):
    """An output item that is being written."""

    index: int

    def close(self, status: str) -> dict[str, Any]:
        """Tell that it is done, and what it is."""
        ...


class _Thought:
    """A `reasoning` item with one summary."""

    def __init__(self, output: Output) -> None:
        self.index = output.take_place()
        self.id = f"rs_{output.id}_{self.index}"
        self._emit = output.emit
        self._text: list[str] = []
        self._place = {"item_id": self.id, "output_index": self.index, "summary_index": 0}
        self._emit(
            "response.output_item.added",
            {"output_index": self.index, "item": self._item("in_progress", [])},
        )
        part = {"type": "summary_text", "text": ""}
        self._emit("response.reasoning_summary_part.added", {**self._place, "part": part})

    def add(self, text: str) -> None:
        self._text.append(text)
        self._emit("response.reasoning_summary_text.delta", {**self._place, "delta": text})

    def close(self, status: str) -> dict[str, Any]:
        text = "".join(self._text)
        part = {"type": "summary_text", "text": text}
        self._emit("response.reasoning_summary_text.done", {**self._place, "text": text})
        self._emit("response.reasoning_summary_part.done", {**self._place, "part": part})
        return self._item(status, [part])

    def _item(self, status: str, summary: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "reasoning",
            "status": status,
            "summary": summary,
            "encrypted_content": None,
        }


class _Message:
    """A `message` item: parts of text or refusal, one after the other."""

    def __init__(self, output: Output) -> None:
        self.index = output.take_place()
        self.id = f"msg_{output.id}_{self.index}"
        self._emit = output.emit
        self._parts: list[dict[str, Any]] = []
        self._kind = ""
        self._text: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._emit(
            "response.output_item.added",
            {"output_index": self.index, "item": self._item("in_progress")},
        )

    def add(self, kind: str, text: str, logprobs: list[dict[str, Any]]) -> None:
        """More text of a kind, `output_text` or `refusal`."""
        if kind != self._kind:
            self._close_part()
            self._kind = kind
            self._emit("response.content_part.added", {**self._place(), "part": self._part("")})
        self._text.append(text)
        more: dict[str, Any] = {"delta": text}
        if kind == "output_text":
            self._logprobs += logprobs
            more["logprobs"] = logprobs
        self._emit(f"response.{kind}.delta", self._place() | more)

    def close(self, status: str) -> dict[str, Any]:
        self._close_part()
        return self._item(status)

    def _close_part(self) -> None:
        if not self._kind:
            return
        text, kind, place = "".join(self._text), self._kind, self._place()
        part = self._part(text)
        if kind == "output_text":
            done = {"text": text, "logprobs": self._logprobs}
        else:
            done = {"refusal": text}
        self._emit(f"response.{kind}.done", place | done)
        self._emit("response.content_part.done", {**place, "part": part})
        self._parts.append(part)
        self._kind, self._text, self._logprobs = "", [], []

    def _place(self) -> dict[str, Any]:
        return {
            "item_id": self.id,
            "output_index": self.index,
            "content_index": len(self._parts),
        }

    def _part(self, text: str) -> dict[str, Any]:
        if self._kind == "refusal":
            return {"type": "refusal", "refusal": text}
        logprobs = list(self._logprobs)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _item(self, status: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": list(self._parts),
        }


class _Call(ToolCall):
    """A call of a tool. It takes its place in the output once its name is known."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output
        self._emit = output.emit
        self.index = -1
        self.call_id = ""
        self._tool: Tool | None = None

    @property
    def is_open(self) -> bool:
        """Whether its item was added."""
        return self._tool is not None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever told of it."""
        return self._tool is None and not self.given and not self.pieces

    def add(self, id: str, name: str, arguments: str) -> None:
        """Whatever of it is known by now; an id or a name that comes again is not looked at."""
        self.given = self.given or id
        if self._tool is None and name:
            self.name = name
            self.open(name)
        if arguments:
            self.pieces.append(arguments)
            self._tell(arguments)

    def open(self, name: str) -> None:
        """Add the item to the output."""
        self.index = self._output.take_place()
        self._tool = self._output.names.get(name) or Tool(FUNCTION, name)
        self.call_id = self.given or f"call_{self._output.id}_{self.index}"
        self._emit(
            "response.output_item.added",
            {"output_index": self.index, "item": self._item("in_progress", "")},
        )
        if self.pieces:
            self._tell(self.arguments)

    def close(self, status: str) -> dict[str, Any]:
        text = self.arguments
        if not text:
            text = "{}"
            self._tell(text)
        if self._kind == CUSTOM:
            text = _input_of(text)
            self._emit("response.custom_tool_call_input.delta", {**self._place(), "delta": text})
            self._emit("response.custom_tool_call_input.done", {**self._place(), INPUT: text})
        else:
            name = self._tool.name if self._tool else ""
            done = {"name": name, "arguments": text}
            self._emit("response.function_call_arguments.done", self._place() | done)
        return self._item(status, text)

    @property
    def _kind(self) -> str:
        return self._tool.kind if self._tool else FUNCTION

    def _tell(self, arguments: str) -> None:
        """The input of a custom tool is inside the arguments: it is told once they are whole."""
        if self._tool is not None and self._tool.kind != CUSTOM:
            self._emit(
                "response.function_call_arguments.delta", {**self._place(), "delta": arguments}
            )

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": self.index}

    @property
    def _id(self) -> str:
        return f"{'ctc' if self._kind == CUSTOM else 'fc'}_{self._output.id}_{self.index}"

    def _item(self, status: str, text: str) -> dict[str, Any]:
        tool = self._tool or Tool(FUNCTION, "")
        item = {
            "id": self._id,
            "type": "custom_tool_call" if tool.kind == CUSTOM else "function_call",
            "status": status,
            "call_id": self.call_id,
            "name": tool.name,
            INPUT if tool.kind == CUSTOM else "arguments": text,
        }
        return item | ({"namespace": tool.namespace} if tool.namespace else {})


class Output:
    """The items of one answer. Feed it choices of the chat dialect, then `finish` it."""

    def __init__(
        self, id: str, names: Mapping[str, Tool], emit: Emit, *, logprobs: bool = False
    ) -> None:
        """`emit` is called with the type and the fields of every event, in order."""
        self.id = id
        self.names = names
        self.emit = emit
        self.reason = ""
        self._wants_logprobs = logprobs
        self._taken = 0
        self._items: dict[int, dict[str, Any]] = {}
        self._speaking: _Thought | _Message | None = None
        self._calls: list[_Call] = []
        self._places: dict[int, _Call] = {}

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items that are done."""
        return [self._items[index] for index in sorted(self._items)]

    def take_place(self) -> int:
        """The next output index."""
        self._taken += 1
        return self._taken - 1

    def feed(self, delta: Mapping[str, Any], reason: Any = None, logprobs: Any = None) -> None:
        """More of the answer: a delta of chat, or a whole message, and why it ended."""
        thought = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
        if thought:
            self._thought().add(thought)
        if text := _text(delta.get("content")):
            self._message().add("output_text", text, self._shown(logprobs))
        if refusal := _text(delta.get("refusal")):
            self._message().add("refusal", refusal, [])
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            for call in calls:
                if isinstance(call, dict):
                    self._called(call)
        if isinstance(reason, str) and reason:
            self.reason = reason

    def finish(self) -> None:
        """Close what is open, in order; what was written last is incomplete if it was cut."""
        calls = [call for call in self._calls if not call.is_empty]
        for call in calls:
            if not call.is_open:
                self._hush()
                call.open("")
        last = self._taken - 1
        cut = self.incomplete is not None
        if self._speaking is not None:
            self._close(self._speaking, CUT if cut and self._speaking.index == last else DONE)
            self._speaking = None
        for call in sorted(calls, key=lambda call: call.index):
            self._close(call, CUT if cut and call.index == last else DONE)
        self._calls, self._places = [], {}

    @property
    def incomplete(self) -> str | None:
        """Why the answer is not complete, in the Responses API's words.

        A reason that is none of chat's is told as a cut: only a clean end is complete.
        """
        return None if self.reason in COMPLETE else INCOMPLETE.get(self.reason, CUT_SHORT)

    def _thought(self) -> _Thought:
        if not isinstance(self._speaking, _Thought):
            self._hush()
            self._speaking = _Thought(self)
        return self._speaking

    def _message(self) -> _Message:
        if not isinstance(self._speaking, _Message):
            self._hush()
            self._speaking = _Message(self)
        return self._speaking

    def _hush(self) -> None:
        if self._speaking is not None:
            self._close(self._speaking, DONE)
            self._speaking = None

    def _called(self, told: Mapping[str, Any]) -> None:
        function = told.get("function")
        function = function if isinstance(function, dict) else {}
        id, name = _string(told.get("id")), _string(function.get("name"))
        arguments = _arguments(function.get("arguments"))
        call = self._call_of(told.get("index"), id, name, arguments)
        if id and name and id == call.given and call.is_whole:
            return  # some providers tell the whole call once more
        name = name or call.name  # a call that was only announced by its name
        if name and not call.is_open:
            self._hush()
        call.add(id, name, arguments)

    def _call_of(self, index: Any, id: str, name: str, arguments: str) -> _Call:
        """Which call is meant. Google's chat dialect numbers parallel calls all 0 (2026-03)."""
        place = index if type(index) is int else None
        if place is None:
            place = max(self._places, default=0)
        known = self._places.get(place)
        if known is None or known.is_followed_by(id, name, arguments):
            self._places[place] = self._other_than(known, id)
        return self._places[place]

    def _other_than(self, known: _Call | None, id: str) -> _Call:
        """The call of this id, if its number is another one's by now; else a new one."""
        for call in self._calls:
            if known is not None and id and call.given == id:
                return call
        call = _Call(self)
        call.name = known.name if known is not None else ""
        self._calls.append(call)
        return call

    def _close(self, item: _Item, status: str) -> None:
        done = item.close(status)
        self.emit("response.output_item.done", {"output_index": item.index, "item": done})
        self._items[item.index] = done

    def _shown(self, logprobs: Any) -> list[dict[str, Any]]:
        tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
        if not self._wants_logprobs or not isinstance(tokens, list):
            return []
        shown = []
        for token in tokens:
            if isinstance(token, dict):
                top = token.get("top_logprobs")
                others = top if isinstance(top, list) else []
                others = [_logprob(other) for other in others if isinstance(other, dict)]
                shown.append({**_logprob(token), "top_logprobs": others})
        return shown


def _logprob(token: Mapping[str, Any]) -> dict[str, Any]:
    probability, data = token.get("logprob"), token.get("bytes")
    return {
        "token": _string(token.get("token")),
        "logprob": probability if isinstance(probability, (int, float)) else 0,
        "bytes": [one for one in data if type(one) is int] if isinstance(data, list) else [],
    }


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _text(value: Any) -> str:
    """A text, or that of an array of parts (Mistral's models write one)."""
    if isinstance(value, list):
        return "".join(_string(part.get("text")) for part in value if isinstance(part, dict))
    return _string(value)


def _arguments(value: Any) -> str:
    if isinstance(value, dict):
        return json_bytes(value).decode()
    return _string(value)


def _input_of(arguments: str) -> str:
    """The free text that a model put into the arguments; what is no such object is the text."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments
    if isinstance(value, str):
        return value
    texts = [value.get(INPUT)] if isinstance(value, dict) and INPUT in value else []
    if not texts and isinstance(value, dict) and len(value) == 1:
        texts = [*value.values()]
    return texts[0] if texts and isinstance(texts[0], str) else arguments
