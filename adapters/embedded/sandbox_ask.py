"""What a caller of the sandbox asked for, in no wire's words, and how fields are read from a body.

Pure: knows nothing of sockets, answers or stored state. Each wire's own checks are in its module.
"""

from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NoReturn

from adapters.embedded.sandbox_errors import ApiError
from adapters.embedded.sandbox_faults import Fault, FaultError, fault_from
from adapters.embedded.sandbox_text import Json

_LONGEST_ANSWER = 200_000  # tokens; `sandbox.chunks` beyond it would only fill memory
_MOST_CALLS = 16
_OPENAI_STOPS = 4


@dataclass(frozen=True, slots=True)
class Control:
    """The `sandbox` field of a body: what no real provider would let a caller decide."""

    fault: Fault | None = None
    delay_ms: float | None = None
    first_ms: float = 0
    chunks: int | None = None
    """How many tokens the text has."""
    calls: int = 1
    """How many tools are called at once, where any is."""
    thinking: int | None = None
    """How many tokens it thinks first, even if nobody asked it to."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that passed the checks. Messages are in OpenAI's shape whatever the wire."""

    model: str
    messages: list[Json]
    stream: bool
    control: Control
    tools: tuple[Json, ...] = ()
    """The functions it may call, with `name` and `parameters`."""
    tool: Json | None = None
    """The function the answer has to call, when it has to call one."""
    parallel: bool = True
    schema: Json | None = None
    """What a structured answer has to satisfy; `{}` asks for any JSON object."""
    thinks: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    n: int = 1
    body: Json | None = None
    """The body as it came, for what only the wire itself has to know."""


def object_from(body: Any) -> Json:
    """The body, which has to be an object."""
    if not isinstance(body, dict):
        refuse("We could not parse the JSON body of your request: expected an object.")
    return body


def model_from(body: Json) -> str:
    """The model's name."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        refuse("you must provide a model parameter", "model", "missing_required_parameter")
    return model


def control_from(body: Json) -> Control:
    """The caller's wishes for this very answer."""
    told = body.get("sandbox")
    if told is None:
        return Control()
    if not isinstance(told, dict):
        invalid("sandbox", "expected an object", "invalid_type")
    return Control(
        fault=_fault(told),
        delay_ms=number(told, "delay_ms"),
        first_ms=number(told, "first_ms") or 0,
        chunks=whole(told, "chunks", 1, _LONGEST_ANSWER),
        calls=whole(told, "tool_calls", 1, _MOST_CALLS) or 1,
        thinking=whole(told, "thinking", 1, _LONGEST_ANSWER),
    )


def _fault(control: Json) -> Fault | None:
    if control.get("fault") is None:
        return None
    try:
        return fault_from(control)
    except FaultError as unknown:
        raise ApiError(400, str(unknown), param="sandbox.fault", code="invalid_value") from unknown


def stops_from(body: Json) -> tuple[str, ...]:
    """OpenAI's `stop`: a string or at most four of them."""
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(item, str) for item in stops):
        invalid("stop", "expected a string or an array of strings", "invalid_type")
    if len(stops) > _OPENAI_STOPS:
        invalid("stop", f"expected at most {_OPENAI_STOPS} sequences", "array_above_max_length")
    return tuple(item for item in stops if item)


def stream_from(body: Json) -> tuple[bool, bool]:
    """OpenAI's `stream`, and whether its usage is to be told."""
    stream = flag(body, "stream")
    options = body.get("stream_options")
    if options is not None and not stream:
        refuse("'stream_options' is only allowed when 'stream' is enabled.", "stream_options")
    if not isinstance(options or {}, dict):
        invalid("stream_options", "expected an object")
    return stream, bool((options or {}).get("include_usage"))


def is_new_turn(messages: list[Json]) -> bool:
    """Whether the user speaks last, and no tool has answered in the same turn.

    A user's words that come with a tool's result are notes to it: another call would loop.
    """
    backwards = (one for one in reversed(messages) if one["role"] not in ("system", "developer"))
    turn = [one["role"] for one in takewhile(lambda one: one["role"] != "assistant", backwards)]
    return bool(turn) and turn[0] == "user" and "tool" not in turn


def refuse(message: str, param: str | None = None, code: str | None = None) -> NoReturn:
    """The request is wrong."""
    raise ApiError(400, message, param=param, code=code)


def invalid(param: str, why: str, code: str = "invalid_value") -> NoReturn:
    """A field is wrong."""
    refuse(f"Invalid '{param}': {why}.", param, code)


def flag(body: Json, name: str) -> bool:
    """A boolean, false if it is not there."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        invalid(name, "expected a boolean", "invalid_type")
    return bool(value)


def number(body: Json, name: str) -> float | None:
    """A number that is not negative."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        invalid(name, "expected a number that is not negative", "invalid_type")
    return float(value)


def whole(body: Json, name: str, least: int, most: int | None = None) -> int | None:
    """A whole number within bounds."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        invalid(name, "expected an integer", "invalid_type")
    if value < least:
        invalid(name, f"expected a value of at least {least}", "integer_below_min_value")
    if most is not None and value > most:
        invalid(name, f"expected a value of at most {most}", "integer_above_max_value")
    return value
