"""What a caller of the sandbox asked for: one checked request, or the refusal OpenAI would give.

Pure: reads a decoded body and knows nothing of sockets, answers or stored state.
"""

from dataclasses import dataclass
from typing import Any, NoReturn

from adapters.embedded.sandbox_faults import Fault, FaultError, FaultName, fault_from
from adapters.embedded.sandbox_text import MEDIA_TOKENS, Json

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_PARTS = ("text", "refusal", *MEDIA_TOKENS)
CONTEXT_TOKENS = 1_048_576
_LONGEST_ANSWER = 200_000  # tokens; `sandbox.chunks` beyond it would only fill memory
_OPENAI_STOPS = 4


@dataclass(slots=True, eq=False)
class ApiError(Exception):
    """An answer with an error body; `retry_after` becomes the header."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None

    def body(self) -> Json:
        """The error as OpenAI writes it."""
        said = {
            "message": self.message, "type": self.type, "param": self.param, "code": self.code,
        }  # fmt: skip
        return {"error": said}


_FAULT_ERRORS = {
    FaultName.ERROR_500: ApiError(
        500, "The server had an error while processing your request.", "server_error"
    ),
    FaultName.ERROR_503: ApiError(
        503, "The engine is currently overloaded, please try again later.", "server_error"
    ),
    FaultName.FLAP: ApiError(503, "The server is temporarily unavailable.", "server_error"),
    FaultName.RATE_LIMIT: ApiError(
        429, "Rate limit reached for requests.", "requests", None, "rate_limit_exceeded", 1
    ),
    FaultName.UNAUTHORIZED: ApiError(401, "Incorrect API key provided.", code="invalid_api_key"),
    FaultName.PAYMENT_REQUIRED: ApiError(
        402, "You exceeded your current quota.", "insufficient_quota", None, "insufficient_quota"
    ),
    FaultName.BAD_REQUEST: ApiError(400, "The request was not understood.", code="invalid_value"),
    FaultName.CONTENT_FILTER: ApiError(
        400, "The prompt was refused by the content filter.", param="prompt", code="content_filter"
    ),
    FaultName.CONTEXT_TOO_LONG: ApiError(
        400,
        f"This model's maximum context length is {CONTEXT_TOKENS} tokens. "
        "Please reduce the length of the messages.",
        param="messages",
        code="context_length_exceeded",
    ),
    FaultName.REJECT_PREFILL: ApiError(
        400, "This model does not support assistant message prefill.", param="messages"
    ),
}


ERROR_FAULTS = frozenset(_FAULT_ERRORS)


def error_of(fault: FaultName, retry_after: float | None = None) -> ApiError:
    """A fresh error each time: a shared one would collect the tracebacks of every request."""
    error = _FAULT_ERRORS[fault]
    wait = error.retry_after if retry_after is None else retry_after
    return ApiError(error.status, error.message, error.type, error.param, error.code, wait)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that passed the checks."""

    model: str
    messages: list[Json]
    tools: list[Json]
    tool: Json | None
    """The function the answer has to call, when it has to call one."""
    schema: Json | None
    """What a structured answer has to satisfy; `{}` asks for any JSON object."""
    stream: bool
    include_usage: bool
    max_tokens: int | None
    stops: list[str]
    n: int
    fault: Fault | None
    delay_ms: float | None
    first_ms: float
    chunks: int | None


def ask_from(body: Any) -> Ask:
    """The request in a decoded body; `ApiError` when OpenAI would refuse it."""
    if not isinstance(body, dict):
        _refuse("We could not parse the JSON body of your request: expected an object.")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        _refuse("you must provide a model parameter", "model", "missing_required_parameter")
    messages = _messages(body)
    tools = _tools(body)
    stream = _flag(body, "stream")
    options = body.get("stream_options")
    if options is not None and not stream:
        _refuse("'stream_options' is only allowed when 'stream' is enabled.", "stream_options")
    if not isinstance(options or {}, dict):
        _invalid("stream_options", "expected an object")
    control = _control(body)
    return Ask(
        model=model,
        messages=messages,
        tools=tools,
        tool=_wanted_tool(body, tools, messages[-1]["role"]),
        schema=_wanted_schema(body),
        stream=stream,
        include_usage=bool((options or {}).get("include_usage")),
        max_tokens=_whole(body, "max_completion_tokens", 1) or _whole(body, "max_tokens", 1),
        stops=_stops(body),
        n=_whole(body, "n", 1, 128) or 1,
        fault=_fault(control),
        delay_ms=_number(control, "delay_ms"),
        first_ms=_number(control, "first_ms") or 0,
        chunks=_whole(control, "chunks", 1, _LONGEST_ANSWER),
    )


def _refuse(message: str, param: str | None = None, code: str | None = None) -> NoReturn:
    raise ApiError(400, message, param=param, code=code)


def _invalid(param: str, why: str, code: str = "invalid_value") -> NoReturn:
    _refuse(f"Invalid '{param}': {why}.", param, code)


def _messages(body: Json) -> list[Json]:
    messages = body.get("messages")
    if messages is None:
        _refuse("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
    if not isinstance(messages, list):
        _invalid("messages", "expected an array of objects", "invalid_type")
    if not messages:
        _invalid("messages", "empty array, expected at least one message", "empty_array")
    open_calls: set[str] = set()
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if not isinstance(message, dict):
            _invalid(where, "expected an object", "invalid_type")
        role = message.get("role")
        if role not in _ROLES:
            _invalid(f"{where}.role", f"expected one of {', '.join(_ROLES)}")
        _check_content(message, where)
        if role == "tool":
            _check_tool_answer(message, open_calls, where)
        elif open_calls:
            _refuse("An assistant message with 'tool_calls' must be followed by tool messages "
                    "responding to each 'tool_call_id'.", where)  # fmt: skip
        if message.get("tool_calls"):
            open_calls = _call_ids(message, where)
    return messages


def _check_content(message: Json, where: str) -> None:
    content = message.get("content")
    calls = message["role"] == "assistant" and (
        message.get("tool_calls") or message.get("function_call") or message.get("refusal")
    )
    if content is None and not calls:
        _invalid(f"{where}.content", "expected a string, got null")
    if content is not None and not isinstance(content, str | list):
        _invalid(f"{where}.content", "expected a string or an array of parts", "invalid_type")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict) or part.get("type") not in _PARTS:
            _invalid(f"{where}.content[{index}]", f"expected a part of type {', '.join(_PARTS)}")


def _call_ids(message: Json, where: str) -> set[str]:
    calls = message["tool_calls"]
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        _invalid(f"{where}.tool_calls", "expected an array of objects", "invalid_type")
    return {str(call.get("id")) for call in calls}


def _check_tool_answer(message: Json, open_calls: set[str], where: str) -> None:
    call_id = message.get("tool_call_id")
    if call_id not in open_calls:
        _refuse("Invalid parameter: messages with role 'tool' must be a response to a preceding "
                "message with 'tool_calls'.", f"{where}.role")  # fmt: skip
    open_calls.discard(str(call_id))


def _tools(body: Json) -> list[Json]:
    tools = body.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list) or not tools:
        _invalid("tools", "expected a non-empty array", "invalid_type")
    for at, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            _refuse(f"Missing required parameter: 'tools[{at}].function.name'.",
                    f"tools[{at}].function", "missing_required_parameter")  # fmt: skip
        if not isinstance(function.get("parameters") or {}, dict):
            _invalid(f"tools[{at}].function.parameters", "expected a JSON schema", "invalid_type")
    return tools


def _wanted_tool(body: Json, tools: list[Json], last_role: str) -> Json | None:
    choice = body.get("tool_choice")
    if choice is not None and not tools:
        _refuse("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
    functions: list[Json] = [tool["function"] for tool in tools]
    if isinstance(choice, dict):
        named = choice.get("function")
        name = named.get("name") if isinstance(named, dict) else None
        for function in functions:
            if function["name"] == name:
                return function
        _invalid("tool_choice", f"the tool {name!r} is not among 'tools'")
    if choice not in (None, "auto", "none", "required"):
        _invalid("tool_choice", "expected none, auto, required or a function")
    if functions and (choice == "required" or (choice != "none" and last_role == "user")):
        return functions[0]
    return None


def _wanted_schema(body: Json) -> Json | None:
    wanted = body.get("response_format")
    if wanted is None:
        return None
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    match kind:
        case "text":
            return None
        case "json_object":
            return {}
        case "json_schema":
            spec = wanted.get("json_schema")
            schema = spec.get("schema", {}) if isinstance(spec, dict) else None
            if not isinstance(schema, dict):
                _invalid("response_format.json_schema", "expected an object with a schema")
            return schema
        case _:
            _invalid("response_format.type", "expected text, json_object or json_schema")


def _stops(body: Json) -> list[str]:
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(item, str) for item in stops):
        _invalid("stop", "expected a string or an array of strings", "invalid_type")
    if len(stops) > _OPENAI_STOPS:
        _invalid("stop", f"expected at most {_OPENAI_STOPS} sequences", "array_above_max_length")
    return [item for item in stops if item]


def _control(body: Json) -> Json:
    control = body.get("sandbox")
    if control is None:
        return {}
    if not isinstance(control, dict):
        _invalid("sandbox", "expected an object", "invalid_type")
    return control


def _fault(control: Json) -> Fault | None:
    if control.get("fault") is None:
        return None
    try:
        return fault_from(control)
    except FaultError as unknown:
        raise ApiError(400, str(unknown), param="sandbox.fault", code="invalid_value") from unknown


def _flag(body: Json, name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        _invalid(name, "expected a boolean", "invalid_type")
    return bool(value)


def _number(body: Json, name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        _invalid(name, "expected a number that is not negative", "invalid_type")
    return float(value)


def _whole(body: Json, name: str, least: int, most: int | None = None) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        _invalid(name, "expected an integer", "invalid_type")
    if value < least:
        _invalid(name, f"expected a value of at least {least}", "integer_below_min_value")
    if most is not None and value > most:
        _invalid(name, f"expected a value of at most {most}", "integer_above_max_value")
    return value
