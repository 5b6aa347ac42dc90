"""OpenAI's embeddings: text or tokens in, vectors out, only the prompt is billed."""

from __future__ import annotations

from typing import Any

from adapters.http.complaints import missing, out_of_range, wrong
from adapters.http.dialects.chat import PassThrough, usage_json
from adapters.http.errors import envelope
from kyma.calls import ChatCall, Dialect, Size
from kyma.catalog.model import Model
from kyma.errors import Refusal
from kyma.flows.ticket import Served, Ticket

MAX_INPUTS = 2048
LIKELY_BYTES_PER_TOKEN = 4


class Embeddings:
    """`POST /v1/embeddings`."""

    path = "/v1/embeddings"
    endpoint = "embeddings"
    id_header = "x-request-id"

    def model(self, body: dict[str, Any]) -> str:
        """The model of a body that is in order."""
        name = body.get("model")
        if name is None:
            missing("model")
        if not isinstance(name, str) or not name:
            wrong("model", "a non-empty string")
        _check_input(body.get("input"))
        dimensions = body.get("dimensions")
        if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
            out_of_range("dimensions", "a positive integer")
        if body.get("encoding_format") not in (None, "float", "base64"):
            out_of_range("encoding_format", "one of float, base64")
        return name

    def call(self, body: dict[str, Any], model: Model) -> ChatCall:
        """The body as it came; there is no output to bound."""
        tokens, text_bytes = _measured(body["input"])
        return ChatCall(
            body,
            model.id,
            stream=False,
            wants_usage=False,
            # Every input may fill the window by itself, so the window bounds none of this.
            size=Size(
                likely_input=tokens - (-text_bytes // LIKELY_BYTES_PER_TOKEN),
                worst_input=tokens + text_bytes + 8 * _count(body["input"]),
                max_output=0,
            ),
            dialect=Dialect.EMBEDDINGS,
        )

    def whole(self, served: Served) -> dict[str, Any]:
        """The vectors, which nobody here reads, with our usage."""
        return {**served.answer.body, "usage": usage_json(served.receipt)}

    def rendering(self, ticket: Ticket) -> PassThrough:
        """There is no stream of vectors: a call never asks for one."""
        return PassThrough(ticket, "list", "emb-")

    def refusal(self, refusal: Refusal, request_id: str) -> dict[str, Any]:
        """OpenAI's envelope."""
        return envelope(refusal, request_id)


def _check_input(input: Any) -> None:
    if input is None:
        missing("input")
    if isinstance(input, str) and input:
        return
    if (
        isinstance(input, list)
        and 0 < len(input) <= MAX_INPUTS
        and (
            all(isinstance(one, str) and one for one in input)
            or _are_tokens(input)
            or all(isinstance(one, list) and one and _are_tokens(one) for one in input)
        )
    ):
        return
    out_of_range("input", f"a text, tokens, or an array of 1 to {MAX_INPUTS} of either; none empty")


def _are_tokens(input: list[Any]) -> bool:
    return all(type(one) is int and one >= 0 for one in input)


def _count(input: Any) -> int:
    many = isinstance(input, list) and not isinstance(input[0], int)
    return len(input) if many else 1


def _measured(input: Any) -> tuple[int, int]:
    """Tokens that were given as such, and UTF-8 bytes of text."""
    if isinstance(input, str):
        return 0, len(input.encode("utf-8", "surrogatepass"))
    if isinstance(input[0], int):
        return len(input), 0
    if isinstance(input[0], list):
        return sum(len(one) for one in input), 0
    return 0, sum(len(one.encode("utf-8", "surrogatepass")) for one in input)
