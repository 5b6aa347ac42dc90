"""OpenAI's legacy completions at the sandbox: a prompt is continued, with no roles and no tools."""

import itertools
from dataclasses import replace
from typing import Any

import orjson

from adapters.embedded.sandbox_ask import (
    Ask,
    control_from,
    flag,
    invalid,
    model_from,
    object_from,
    refuse,
    stops_from,
    stream_from,
    whole,
)
from adapters.embedded.sandbox_cache import PrefixCache, Prompt
from adapters.embedded.sandbox_faults import Fault, FaultName
from adapters.embedded.sandbox_text import Json, pieces
from adapters.embedded.sandbox_wire import (
    HALVED,
    Answer,
    Choice,
    Part,
    Step,
    Wire,
    choices_for,
    openai_end,
    openai_head,
    openai_stream,
    openai_stream_error,
    openai_usage,
)

_KIND = "text_completion"
_DEFAULT_TOKENS = 16
_MOST_INPUTS = 2_048


def inputs_from(body: Json, name: str) -> list[str]:
    """The texts of `prompt` or `input`: one, many, or tokens, which read as `<token 15339>`."""
    value = body.get(name)
    if value is None:
        refuse(f"you must provide a {name} parameter", name, "missing_required_parameter")
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        invalid(name, "expected a string or a non-empty array", "invalid_type")
    if _are_tokens(value):
        return [_text_of_tokens(value)]
    if len(value) > _MOST_INPUTS:
        invalid(name, f"expected at most {_MOST_INPUTS} elements", "array_above_max_length")
    if all(isinstance(item, str) for item in value):
        return value
    if all(isinstance(item, list) and _are_tokens(item) for item in value):
        return [_text_of_tokens(item) for item in value]
    return invalid(name, "expected strings, tokens or arrays of tokens", "invalid_type")


def _are_tokens(value: list[Any]) -> bool:
    return bool(value) and all(type(item) is int and item >= 0 for item in value)


def _text_of_tokens(tokens: list[int]) -> str:
    return "".join(f"<token {token}>" for token in tokens)


def tokens_of(text: str) -> list[str]:
    """The tokens of such a text; those that came as tokens count as what they are."""
    if text.startswith("<token ") and text.endswith(">"):
        return text[:-1].split(">")
    return pieces(text)


def _ask_from(body: Any, _version: str) -> Ask:
    body = object_from(body)
    stream, include_usage = stream_from(body)
    control = control_from(body)
    flag(body, "echo")
    limit = whole(body, "max_tokens", 1)
    return Ask(
        model=model_from(body),
        messages=[{"role": "user", "content": text} for text in inputs_from(body, "prompt")],
        stream=stream,
        include_usage=include_usage,
        max_tokens=limit or max(_DEFAULT_TOKENS, control.chunks or 0),
        stops=stops_from(body),
        n=whole(body, "n", 1, 128) or 1,
        control=control,
        body=body,
    )


def _prompt(ask: Ask) -> Prompt:
    return Prompt([token for message in ask.messages for token in tokens_of(message["content"])])


def _choices(ask: Ask, answer_id: str) -> list[Choice]:
    """`n` for every prompt, counted through."""
    made = [choices_for(replace(ask, messages=[message]), answer_id) for message in ask.messages]
    every = itertools.chain.from_iterable(made)
    return [replace(choice, index=index) for index, choice in enumerate(every)]


def _texts(answer: Answer, choice: Choice) -> list[str]:
    """A choice as it is streamed: the prompt where it is echoed, then one token at a time."""
    echoed = []
    if (answer.ask.body or {}).get("echo"):
        echoed = [answer.ask.messages[choice.index // answer.ask.n]["content"]]
    return [*echoed, *(piece for part in _said(choice) for piece in part.pieces)]


def _said(choice: Choice) -> list[Part]:
    return [part for part in choice.parts if not part.is_thinking]


def _whole(answer: Answer, fault: FaultName | None) -> bytes:
    if fault is FaultName.ERROR_IN_STREAM:
        return orjson.dumps(openai_stream_error())
    choices = []
    for choice in answer.choices:
        kept = choice.cut(choice.size // 2) if fault in HALVED else choice
        text = "".join(_texts(answer, kept))
        choices.append(_choice(choice.index, text, openai_end(choice.end, fault)))
    body = {**openai_head(answer, _KIND), "choices": choices}
    usage = openai_usage(answer.usage, fault)
    return orjson.dumps(body if usage is None else {**body, "usage": usage})


def _choice(index: int, text: str, reason: str | None = None) -> Json:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


def _stream(answer: Answer, fault: Fault | None) -> list[Step]:
    turns = itertools.zip_longest(*(_texts(answer, choice) for choice in answer.choices))
    content = [
        _chunk(answer, _choice(index, text))
        for turn in turns
        for index, text in enumerate(turn)
        if text is not None
    ]
    reason = fault.name if fault else None
    ends = [
        _chunk(answer, _choice(choice.index, "", openai_end(choice.end, reason)))
        for choice in answer.choices
    ]
    return openai_stream(answer, fault, content, ends, _KIND)


def _chunk(answer: Answer, choice: Json) -> Json:
    chunk = {**openai_head(answer, _KIND), "choices": [choice]}
    return {**chunk, "usage": None} if answer.ask.include_usage else chunk


COMPLETIONS = Wire("cmpl-", _ask_from, _prompt, _whole, _choices, _stream, PrefixCache.by_itself)
