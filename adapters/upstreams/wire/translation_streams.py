"""What models answer as streams, from each chat dialect into the other.

Pure. The rules of whole answers hold (`translation_answers`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from adapters.tool_calls import ToolCall
from adapters.upstreams.wire.jsons import objects, read, written
from adapters.upstreams.wire.translation_answers import (
    SIGNED,
    arguments_of,
    call_of,
    finish_of,
    signed_of,
    stop_of,
    text_of,
    thoughts_of,
)
from kyma.calls import Chunk


def _event(kind: str, **fields: Any) -> bytes:
    body = orjson.dumps({"type": kind, **fields})
    return b"event: " + kind.encode() + b"\ndata: " + body


@dataclass(slots=True)
class _Use(ToolCall):
    """A tool call on its way: what of it came, and how much of that was passed on."""

    id: str = ""
    """The provider's only where it came before the call was begun."""

    sent: int = 0
    """So many pieces of its arguments."""

    begun: bool = False


@dataclass(slots=True)
class _Blocks:
    """Content blocks as Anthropic streams them: one open at a time, each closed before the next."""

    index: int = -1
    kind: str = ""
    events: list[bytes] = field(default_factory=list)

    def open(self, kind: str, block: Mapping[str, Any]) -> None:
        """Begin a block; the one before it ends."""
        self.close()
        self.index += 1
        self.kind = kind
        started = {"type": kind, **block}
        self.events.append(_event("content_block_start", index=self.index, content_block=started))

    def delta(self, kind: str, **said: str) -> None:
        """A piece of the open block."""
        delta = {"type": kind, **said}
        self.events.append(_event("content_block_delta", index=self.index, delta=delta))

    def close(self) -> None:
        """End the open block, if one is."""
        if self.kind:
            self.events.append(_event("content_block_stop", index=self.index))
        self.kind = ""


class StreamAsMessages:
    """Chunks of a chat stream into events of Anthropic's, its blocks in strict order."""

    def __init__(self, model: str, id: str, likely_input: int = 0) -> None:
        """`likely_input` stands in `message_start`, before the model has told its figure."""
        self._message: dict[str, Any] = {
            "id": f"msg_{id}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": likely_input,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 0,
            },
        }
        self._id = id
        self._begun = False
        self._ended = False
        self._blocks = _Blocks()
        self._known: dict[str, _Use] = {}
        self._waiting: deque[_Use] = deque()
        self._late: list[tuple[str, str]] = []
        self._uses: list[_Use] = []
        self._refused = False

    def take(self, chunk: Chunk) -> Chunk:
        """The same in Anthropic's dialect; the last one carries the `ending`."""
        ending = None
        self._blocks.events = []
        for raw in chunk.events:
            ending = self._take(read(raw.removeprefix(b"data:"))) or ending
        events = self._blocks.events
        return Chunk(events, chunk.output_bytes, chunk.finished, chunk.usage, ending)

    def _take(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        if not self._begun:
            self._begun = True
            self._blocks.events.append(_event("message_start", message=self._message))
            self._blocks.events.append(_event("ping"))
        for choice in objects(body.get("choices")):
            if choice.get("index") or self._ended:
                continue
            delta = choice.get("delta")
            if isinstance(delta, dict):
                self._delta(delta)
            if choice.get("finish_reason"):
                return self._end(choice)
        return None

    def _delta(self, delta: Mapping[str, Any]) -> None:
        self._say("thinking", thoughts_of(delta))
        self._say("text", text_of(delta.get("content")))
        refusal = text_of(delta.get("refusal"))
        self._refused = self._refused or bool(refusal)
        self._say("text", refusal)
        for piece in objects(delta.get("tool_calls")):
            self._call(piece.get("index"), piece.get("id"), piece.get("function"))
        old = delta.get("function_call")
        if isinstance(old, dict):
            self._call("function_call", None, old)

    def _say(self, kind: str, text: str) -> None:
        if not text:
            return
        if self._waiting:  # a call may still be going on: its block has to end first
            self._late.append((kind, text))
            return
        if self._blocks.kind != kind:
            block = {"text": ""} if kind == "text" else {"thinking": "", "signature": ""}
            self._blocks.open(kind, block)
        self._blocks.delta(f"{kind}_delta", **{kind: text})

    def _call(self, index: Any, id: Any, function: Any) -> None:
        """Take a piece of a call. Google sends every call of a turn under the same index."""
        function = function if isinstance(function, dict) else {}
        id, name, said = str(id or ""), text_of(function.get("name")), function.get("arguments")
        arguments = arguments_of(said) if isinstance(said, dict) else text_of(said)
        use = self._known.get(repr(index))
        if use is None or use.is_followed_by(id, name, arguments):
            use = self._known[repr(index)] = self._other_than(use, id)
        if id and name and id == use.given and use.is_whole:
            return  # some providers tell the whole call once more
        use.given = use.given or id
        if not use.begun:
            use.id, use.name = use.given or use.id, name or use.name
        if arguments:
            use.pieces.append(arguments)
        self._pass_on()

    def _other_than(self, known: _Use | None, id: str) -> _Use:
        """The call of this id, if its index is another one's by now; else a new one."""
        for use in self._uses:
            if known is not None and id and use.given == id:
                return use
        use = _Use(known.name if known is not None else "", id=f"call_{self._id}_{len(self._uses)}")
        self._uses.append(use)
        self._waiting.append(use)
        return use

    def _pass_on(self, *, last: bool = False) -> None:
        """Send what the first waiting call has; the next one begins when that one is whole."""
        while self._waiting:
            use = self._waiting[0]
            if not use.begun and (use.name or last):
                use.begun = True
                self._blocks.open("tool_use", {"id": use.id, "name": use.name, "input": {}})
            if use.begun and use.sent < len(use.pieces):
                piece = "".join(use.pieces[use.sent :])
                self._blocks.delta("input_json_delta", partial_json=piece)
                use.sent = len(use.pieces)
            if not last and not (len(self._waiting) > 1 and use.begun and use.is_whole):
                return
            self._blocks.close()
            self._waiting.popleft()

    def _end(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        self._ended = True
        self._pass_on(last=True)
        if any(text.strip() for _, text in self._late):
            for kind, text in self._late:
                self._say(kind, text)
        self._blocks.close()
        return stop_of(choice, calls=bool(self._uses), refused=self._refused)


class StreamAsChat:
    """Events of Anthropic's into chunks of a chat stream."""

    def __init__(self, model: str, id: str, created: int = 0) -> None:
        """`created` is in Unix seconds."""
        self._head = {
            "id": f"chatcmpl-{id}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._begun = False
        self._ended = False
        self._calls = -1
        self._kind = ""
        self._has_input = False
        self._thoughts = ""
        self._signature = ""

    def take(self, chunk: Chunk) -> Chunk:
        """The same in OpenAI's dialect, the reason to finish included."""
        deltas: list[dict[str, Any]] = []
        for raw in chunk.events:
            body = read(raw.partition(b"data:")[2])
            deltas += [delta for delta in self._take(body) if delta]
        events = [self._written(delta) for delta in self._with_role(deltas)]
        if chunk.ending is not None and not self._ended:
            self._ended = True
            finish = finish_of(chunk.ending.get("stop_reason"))
            events += [self._written(delta) for delta in self._with_role([])]
            events.append(self._written({}, finish))
        return Chunk(events, chunk.output_bytes, chunk.finished, chunk.usage)

    def _with_role(self, deltas: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        if self._begun:
            return deltas
        self._begun = True
        return [{"role": "assistant", "content": ""}, *deltas]

    def _written(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + written({**self._head, "choices": [choice]})

    def _take(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        block, delta = body.get("content_block"), body.get("delta")
        match body.get("type"):
            case "content_block_start" if isinstance(block, dict):
                return [self._open(block)]
            case "content_block_delta" if isinstance(delta, dict):
                return [self._delta(delta)]
            case "content_block_stop":
                return [self._close()]
        return []

    def _open(self, block: Mapping[str, Any]) -> dict[str, Any]:
        self._kind = str(block.get("type"))
        self._thoughts = self._signature = ""
        match self._kind:
            case "text":
                return {"content": block["text"]} if block.get("text") else {}
            case "redacted_thinking":
                return {SIGNED: [signed_of(block)]}
            case "tool_use":
                self._calls += 1
                self._has_input = bool(block.get("input"))
                arguments = arguments_of(block.get("input")) if self._has_input else ""
                return {"tool_calls": [{"index": self._calls, **call_of(block, arguments)}]}
        return {}

    def _delta(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        match delta.get("type"):
            case "text_delta":
                return {"content": str(delta.get("text") or "")}
            case "thinking_delta":
                thought = str(delta.get("thinking") or "")
                self._thoughts += thought
                return {"reasoning_content": thought}
            case "signature_delta":
                self._signature += str(delta.get("signature") or "")
            case "input_json_delta" if self._kind == "tool_use" and delta.get("partial_json"):
                self._has_input = True
                return self._arguments(str(delta["partial_json"]))
        return {}

    def _close(self) -> dict[str, Any]:
        kind, self._kind = self._kind, ""
        if kind == "tool_use" and not self._has_input:
            return self._arguments("{}")
        if kind == "thinking" and self._signature:
            signed = {"thinking": self._thoughts, "signature": self._signature}
            return {SIGNED: [{"type": "thinking", **signed}]}
        return {}

    def _arguments(self, text: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": self._calls, "function": {"arguments": text}}]}
