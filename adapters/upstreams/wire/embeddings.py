"""OpenAI's embeddings on the way back: vectors are checked for being JSON and counted, never read.

2,000 vectors are 60 MB of figures. Read into objects and written again they would hold the event
loop for most of a second; as the bytes that they came in they hold it for a tenth of that.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import orjson

from adapters.upstreams.wire.faults import check_told
from adapters.upstreams.wire.usage import usage_of
from kyma.calls import ChatAnswer, Fault, UpstreamError


class _Told(msgspec.Struct):
    data: list[msgspec.Raw] | None = None
    usage: Any = None
    error: Any = None
    base_resp: Any = None


class _Vector(msgspec.Struct):
    embedding: msgspec.Raw


_answers = msgspec.json.Decoder(_Told)
_vectors = msgspec.json.Decoder(_Vector)

_BEGINNING = re.compile(rb'\[\s*-?[0-9]|"[A-Za-z0-9+/_-]')
"""How a vector begins: a list with its first figure, or the same packed as base64."""

_SPELT = re.compile(rb'"embedding"\s*:\s*(?:' + _BEGINNING.pattern + rb")")


def asked_for(input: Any) -> int:
    """How many vectors an `input` asks for: a text or a list of tokens is one."""
    many = isinstance(input, list) and input and not isinstance(input[0], int)
    return len(input) if many else 1


def answer(raw: bytes, model: str, count: int) -> ChatAnswer:
    """A list of `count` vectors under our model name; anything else is a broken upstream.

    Each is an `orjson.Fragment` with the upstream's own bytes.
    """
    try:
        told = _answers.decode(raw)
        if not raw.isascii():  # what is passed over was not looked at
            raw.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamError(Fault.BROKEN, f"no list of vectors: {raw[:120]!r}") from error
    check_told(told.error, told.base_resp)
    if not told.data or len(told.data) != count:
        found = len(told.data or ())
        raise UpstreamError(Fault.BROKEN, f"{found} vectors for {count} inputs: {raw[:120]!r}")
    vectors = [bytes(item) for item in told.data]
    for vector in vectors:
        if not _is_vector(vector):
            raise UpstreamError(Fault.BROKEN, f"no vector: {vector[:120]!r}")
    shown = {"object": "list", "data": [*map(orjson.Fragment, vectors)], "model": model}
    return ChatAnswer(shown, usage_of(told.usage), 0)


def _is_vector(item: bytes) -> bool:
    """Whether a JSON value is an object whose `embedding` is a vector.

    All but the first figure is cut out before it is read: what is left is some sixty bytes.
    """
    found = _SPELT.search(item)
    if found is None:
        return False
    quote = b'"' if found[0][-2:-1] == b'"' else b"]"
    end = item.find(quote, found.end())
    try:
        told = _vectors.decode(item[: found.end()] + item[end:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return _BEGINNING.match(bytes(told.embedding)) is not None
