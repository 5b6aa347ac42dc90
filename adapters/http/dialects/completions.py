"""OpenAI's legacy completions: a prompt in, its continuation out; the body passes through."""

from __future__ import annotations

from typing import Any

from adapters.http.complaints import (
    MAX_CHOICES,
    MAX_INT,
    NUMBERS,
    check_count,
    check_integer,
    check_number,
    missing,
    out_of_range,
    wrong,
)
from adapters.http.dialects.chat import PassThrough, asks_for_usage, usage_json
from adapters.http.errors import envelope
from kyma.calls import ChatCall, Dialect, size_of_prompt
from kyma.catalog.model import Model
from kyma.errors import Code, Refusal
from kyma.flows.ticket import Served, Ticket

SHAPES: dict[str, tuple[type, str]] = {
    "stream": (bool, "a boolean"),
    "echo": (bool, "a boolean"),
    "suffix": (str, "a string"),
    "stream_options": (dict, "an object"),
}
INTEGERS = {"max_tokens": MAX_INT, "n": MAX_CHOICES, "best_of": MAX_CHOICES}


class Completions:
    """`POST /v1/completions`."""

    path = "/v1/completions"
    endpoint = "completions"
    id_header = "x-request-id"

    def model(self, body: dict[str, Any]) -> str:
        """The model of a body that is in order."""
        name = body.get("model")
        if name is None:
            missing("model")
        if not isinstance(name, str) or not name:
            wrong("model", "a non-empty string")
        prompts = _prompts(body.get("prompt"))
        for option, value in body.items():
            if value is not None:
                _check_option(option, value)
        if (body.get("n") or 1) * prompts > MAX_CHOICES:
            out_of_range("n", f"such that prompts × n is at most {MAX_CHOICES}")
        if (body.get("best_of") or 1) > (body.get("n") or 1):
            # The ones thrown away would be billed, too, and no hold covers them.
            out_of_range("best_of", "absent, or at most `n`")
        return name

    def call(self, body: dict[str, Any], model: Model) -> ChatCall:
        """The body as it came."""
        return ChatCall(
            body,
            model.id,
            stream=bool(body.get("stream")),
            wants_usage=asks_for_usage(body),
            size=size_of_prompt(body, model.context_window),
            dialect=Dialect.COMPLETIONS,
        )

    def whole(self, served: Served) -> dict[str, Any]:
        """The provider's `text_completion` with our usage."""
        return {**served.answer.body, "usage": usage_json(served.receipt)}

    def rendering(self, ticket: Ticket) -> PassThrough:
        """Events as they came, then `[DONE]`."""
        return PassThrough(ticket, "text_completion", "cmpl-")

    def refusal(self, refusal: Refusal, request_id: str) -> dict[str, Any]:
        """OpenAI's envelope."""
        return envelope(refusal, request_id)


def _prompts(prompt: Any) -> int:
    """How many prompts there are."""
    if prompt is None:
        missing("prompt")
    if isinstance(prompt, str):
        return 1
    if not isinstance(prompt, list):
        wrong("prompt", "a string or an array of strings")
    if not prompt:
        out_of_range("prompt", "at least one string")
    check_count("prompt", prompt, MAX_CHOICES, "strings")
    if any(isinstance(one, (int, list)) for one in prompt):
        raise Refusal(
            Code.INVALID_TYPE,
            "`prompt` must be text: token ids mean something else to every provider's model.",
            param="prompt",
        )
    if not all(isinstance(one, str) for one in prompt):
        wrong("prompt", "a string or an array of strings")
    return len(prompt)


def _check_option(name: str, value: Any) -> None:
    if name in SHAPES:
        kind, words = SHAPES[name]
        if not isinstance(value, kind):
            wrong(name, words)
    elif name in INTEGERS:
        check_integer(name, value, 1, INTEGERS[name])
    elif name in NUMBERS:
        check_number(name, value)
