"""OpenAI's legacy completions: a prompt in, its continuation out; the body passes through."""

from __future__ import annotations

from typing import Any, NoReturn

from adapters.http.dialects.chat import PassThrough, asks_for_usage, usage_json
from adapters.http.errors import envelope
from kyma.calls import ChatCall, Dialect, size_of_prompt
from kyma.catalog.model import Model
from kyma.errors import Code, Refusal
from kyma.flows.ticket import Served, Ticket

MAX_INT = 2**31 - 1
MAX_CHOICES = 128
"""Answers of one request: prompts × `n`."""

SHAPES: dict[str, tuple[type, str]] = {
    "stream": (bool, "a boolean"),
    "echo": (bool, "a boolean"),
    "suffix": (str, "a string"),
    "stream_options": (dict, "an object"),
}
NUMBERS = {"temperature": 2, "top_p": 1}


class Completions:
    """`POST /v1/completions`."""

    path = "/v1/completions"
    endpoint = "completions"
    id_header = "x-request-id"

    def model(self, body: dict[str, Any]) -> str:
        """The model of a body that is in order."""
        name = body.get("model")
        if name is None:
            _missing("model")
        if not isinstance(name, str) or not name:
            _wrong("model", "a non-empty string")
        prompts = _prompts(body.get("prompt"))
        for option, value in body.items():
            if value is not None:
                _check_option(option, value)
        if (body.get("n") or 1) * prompts > MAX_CHOICES:
            _range("n", f"such that prompts × n is at most {MAX_CHOICES}")
        if (body.get("best_of") or 1) > (body.get("n") or 1):
            # The ones thrown away would be billed, too, and no hold covers them.
            _range("best_of", "absent, or at most `n`")
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
        _missing("prompt")
    if isinstance(prompt, str):
        return 1
    if not isinstance(prompt, list):
        _wrong("prompt", "a string or an array of strings")
    if not prompt:
        _range("prompt", "at least one string")
    if any(isinstance(one, (int, list)) for one in prompt):
        raise Refusal(
            Code.INVALID_TYPE,
            "`prompt` must be text: token ids mean something else to every provider's model.",
            param="prompt",
        )
    if not all(isinstance(one, str) for one in prompt):
        _wrong("prompt", "a string or an array of strings")
    return len(prompt)


def _check_option(name: str, value: Any) -> None:
    if name in SHAPES:
        kind, words = SHAPES[name]
        if not isinstance(value, kind):
            _wrong(name, words)
    elif name in {"max_tokens", "n", "best_of"}:
        if type(value) is not int:
            _wrong(name, "an integer")
        if not 1 <= value <= (MAX_INT if name == "max_tokens" else MAX_CHOICES):
            _range(name, "a positive integer within bounds")
    elif name in NUMBERS:
        if type(value) not in {int, float}:
            _wrong(name, "a number")
        if not 0 <= value <= NUMBERS[name]:
            _range(name, f"between 0 and {NUMBERS[name]}")


def _missing(param: str) -> NoReturn:
    raise Refusal(Code.MISSING_FIELD, f"Missing required parameter: `{param}`.", param=param)


def _wrong(param: str, kind: str) -> NoReturn:
    raise Refusal(Code.INVALID_TYPE, f"`{param}` must be {kind}.", param=param)


def _range(param: str, words: str) -> NoReturn:
    raise Refusal(Code.INVALID_VALUE, f"`{param}` must be {words}.", param=param)
