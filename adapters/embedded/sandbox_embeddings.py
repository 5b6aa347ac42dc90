"""OpenAI's embeddings at the sandbox: a unit vector for every text, the same for the same text."""

import base64
import hashlib
import math
import sys
from array import array
from typing import Any

import orjson

from adapters.embedded.sandbox_ask import (
    Ask,
    control_from,
    invalid,
    model_from,
    object_from,
    refuse,
    whole,
)
from adapters.embedded.sandbox_cache import Prompt
from adapters.embedded.sandbox_completions import inputs_from, tokens_of
from adapters.embedded.sandbox_faults import FaultName, times_told
from adapters.embedded.sandbox_text import Json
from adapters.embedded.sandbox_wire import Answer, Wire, openai_stream_error

_DIMENSIONS = 1_536
_MOST_DIMENSIONS = 3_072
_LONGEST_INPUT = 8_192  # tokens, as at OpenAI's models


def _ask_from(body: Any, _version: str) -> Ask:
    body = object_from(body)
    model = model_from(body)
    texts = inputs_from(body, "input")
    for text in texts:
        _check(text)
    if body.get("encoding_format") not in (None, "float", "base64"):
        invalid("encoding_format", "expected float or base64")
    whole(body, "dimensions", 1, _MOST_DIMENSIONS)
    return Ask(
        model=model,
        messages=[{"role": "user", "content": text} for text in texts],
        stream=False,
        control=control_from(body),
        body=body,
    )


def _check(text: str) -> None:
    if not text:
        invalid("input", "input cannot be an empty string")
    size = len(tokens_of(text))
    if size > _LONGEST_INPUT:
        refuse(
            f"This model's maximum context length is {_LONGEST_INPUT} tokens, however you "
            f"requested {size} tokens ({size} in your prompt; 0 for the completion). "
            "Please reduce your prompt; or completion length.",
            "input",
        )


def _prompt(ask: Ask) -> Prompt:
    return Prompt([token for message in ask.messages for token in tokens_of(message["content"])])


def vector(text: str, dimensions: int) -> "array[float]":
    """A unit vector of 32-bit floats; a shorter one is the beginning of a longer, made unit again.

    Its numbers come from a hash: alike texts are not near one another.
    """
    raw = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(4 * dimensions)
    whole_numbers = array("i", raw)
    if sys.byteorder == "big":
        whole_numbers.byteswap()
    length = math.sqrt(sum(number * number for number in whole_numbers)) or 1.0
    return array("f", (number / length for number in whole_numbers))


def _embedding(text: str, dimensions: int, as_base64: bool) -> list[float] | str:
    found = vector(text, dimensions)
    if not as_base64:
        return found.tolist()
    if sys.byteorder == "big":
        found.byteswap()
    return base64.b64encode(found.tobytes()).decode()


def _whole(answer: Answer, fault: FaultName | None) -> bytes:
    if fault is FaultName.ERROR_IN_STREAM:
        return orjson.dumps(openai_stream_error())
    asked = answer.ask.body or {}
    dimensions = asked.get("dimensions") or _DIMENSIONS
    as_base64 = asked.get("encoding_format") == "base64"
    texts = [message["content"] for message in answer.ask.messages]
    kept = texts[: len(texts) // 2] if fault is FaultName.MISSING_FINISH else texts
    rows = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _embedding(text, dimensions, as_base64),
        }
        for index, text in enumerate(kept)
    ]
    body: Json = {"object": "list", "data": rows, "model": answer.ask.model}
    if fault is not FaultName.NO_USAGE:
        size = times_told(fault) * answer.usage.prompt
        body["usage"] = {"prompt_tokens": size, "total_tokens": size}
    return orjson.dumps(body)


EMBEDDINGS = Wire("embd-", _ask_from, _prompt, _whole)
