"""`GET /v1/openapi.json`: what the routes declare, as one OpenAPI 3.1 document.

It keeps the published document's paths, parameters, properties and enums, and adds to them
(`tests/http/published_openapi.json`); nothing in it is written by hand a second time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from quart import Blueprint, Quart, Response, current_app

from adapters.http.caching import public
from adapters.http.contract import (
    EVENTS,
    JSON,
    Answer,
    Auth,
    Envelope,
    Meter,
    Operation,
    Rate,
    Repeat,
    Schema,
    Tag,
    operation,
    operation_of,
)
from adapters.http.errors import STATUS
from adapters.http.schemas import SCHEMAS
from adapters.http.schemas.shapes import integer, ref, text
from adapters.http.text_contract import OPERATIONS, SERVED_BY
from kyma.errors import Code
from kyma.idempotency import HEADER

BASE = "/v1"
MAX_AGE_S = 300
PARAMETER = re.compile(r"<(?:[a-z]+(?:\([^)]*\))?:)?([a-z_]+)>")
SILENT = {"HEAD", "OPTIONS"}
"""Methods that every route answers, in the way of its others."""

TAGS = {
    Tag.CHAT: "Chat completion endpoints (OpenAI + Anthropic format)",
    Tag.MODELS: "Model catalog, recommendations, and filtering",
    Tag.DISCOVERY: "Auto-configuration and capability discovery (no auth required)",
    Tag.CREDITS: "Balance and pricing",
    Tag.RECEIPTS: "What each request cost, and why",
    Tag.AUTH: "Account management and API keys",
    Tag.HEALTH: "Whether this process is alive and able to serve",
}

DESCRIPTION = """\
One endpoint for many models, with redundancy across providers. OpenAI and Anthropic SDK \
compatible.

Every answer carries `X-Kyma-Request-Id`, `Server-Timing` and what is left of the limits, \
`X-RateLimit-*`: an account's, or those of an address that shows no known key. Every error says in \
`error.code` what happened, in `error.retryable` whether the same request may succeed later, \
and in `error.charged` that it cost nothing. Paths that are not listed answer 404 \
`not_found`, other methods 405 `method_not_allowed`. On a POST an `Idempotency-Key` makes a \
retry safe. Prompts and answers are not stored.\
"""

HEADERS: dict[str, Schema] = {
    "X-Kyma-Request-Id": text("Quote it when something went wrong."),
    "Server-Timing": text("Milliseconds spent, by part."),
    "Retry-After": integer("Seconds until the same request may succeed.", minimum=0),
    "WWW-Authenticate": text("Bearer"),
    "X-RateLimit-Limit-Requests": integer(
        "Requests allowed in 60 seconds: of the account whose key or session it is, else of the "
        "client's address."
    ),
    "X-RateLimit-Remaining-Requests": integer("Of those, how many are left.", minimum=0),
    "X-RateLimit-Reset-Requests": text("When the next is back.", pattern=r"^[0-9]+\.[0-9]{3}s$"),
    "X-RateLimit-Limit-Tokens": integer(
        "Tokens allowed in 60 seconds; told to a known key or session alone."
    ),
    "X-RateLimit-Remaining-Tokens": integer("Of those, how many are left.", minimum=0),
}
LEFT = tuple(name for name in HEADERS if name.startswith("X-RateLimit-"))
ALWAYS = (
    "X-Kyma-Request-Id",
    "Server-Timing",
    *(name for name in LEFT if name.endswith("-Requests")),
)
OF_ACCOUNTS = tuple(name for name in LEFT if name not in ALWAYS)
"""What stands on the answers to keys and sessions that are known, whatever they ask."""

SECURITY: dict[Auth, list[dict[str, list[str]]]] = {
    Auth.NONE: [],
    Auth.KEY: [{"BearerAuth": []}, {"ApiKeyAuth": []}],
}
SCHEMES = {
    "BearerAuth": {
        "type": "http",
        "scheme": "bearer",
        "description": "Kyma API key (starts with ky-) or session token (starts with ks-)",
    },
    "ApiKeyAuth": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same, as Anthropic's clients send it",
    },
}
IDEMPOTENCY = text(
    "Send the same key with a retry: the same outcome, nothing done twice, no second charge.",
    minLength=1,
    maxLength=255,
    pattern="^[!-~]+$",
)
ERRORS = {
    Envelope.OPENAI: "Error",
    Envelope.ANTHROPIC: "AnthropicError",
    Envelope.OAUTH: "OAuthError",
}
IDEMPOTENCY_CODES = frozenset(
    {
        Code.INVALID_VALUE,
        Code.IDEMPOTENCY_KEY_REUSED,
        Code.IDEMPOTENCY_IN_PROGRESS,
        Code.STORAGE_UNAVAILABLE,
        Code.BODY_TOO_LARGE,  # a body is read for its fingerprint even if it says nothing
        Code.BODY_TIMEOUT,
    }
)
REPLAYED = "X-Kyma-Idempotent-Replay"
REPLAYS = frozenset(Repeat) - {Repeat.SAME, Repeat.NEVER}


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path, and what it declares, if it does."""

    method: str
    path: str
    operation: Operation | None

    @property
    def idempotent(self) -> bool:
        """Whether a retry may be marked as one: every POST but those that say why not."""
        return (
            self.method == "POST"
            and self.operation is not None
            and self.operation.repeat not in {None, Repeat.NEVER}
        )

    @property
    def codes(self) -> frozenset[Code]:
        """Every refusal that its callers must expect."""
        own = self.operation.codes if self.operation else frozenset()
        if PARAMETER.search(self.path):
            own |= {Code.NOT_FOUND}
        return own | IDEMPOTENCY_CODES if self.idempotent else own


def routes() -> Blueprint:
    """The document, written once, when it is first asked for."""
    blueprint = Blueprint("openapi", __name__)
    written: list[bytes] = []

    @blueprint.get("/v1/openapi.json")
    @operation(
        id="getOpenAPI",
        tag=Tag.DISCOVERY,
        summary="This document",
        auth=Auth.NONE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(),
        answers={200: {"type": "object", "required": ["openapi", "paths"]}},
    )
    async def openapi() -> Response:
        if not written:
            written.append(orjson.dumps(document(routes_of(current_app))))
        return await public(Response(written[0], content_type=JSON), MAX_AGE_S)

    return blueprint


def routes_of(app: Quart) -> Iterator[Route]:
    """Every route of the application; those in front of Quart are known to it by their path."""
    for rule in app.url_map.iter_rules():
        view = app.view_functions.get(rule.endpoint)
        for method in sorted((rule.methods or set()) - SILENT):
            declared = operation_of(view)
            if declared is None and method == "POST":
                declared = OPERATIONS.get(rule.rule)
            yield Route(method, rule.rule, declared)


def document(found: Iterable[Route]) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in sorted(found, key=lambda route: (route.path, route.method)):
        if route.operation is not None and route.operation.documented:
            path = PARAMETER.sub(r"{\1}", route.path)
            ours = path.startswith(f"{BASE}/")
            item = paths.setdefault(path.removeprefix(BASE) if ours else path, {})
            if not ours:
                item["servers"] = [{"url": "/"}]
            item[route.method.lower()] = _operation(route, route.operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Kyma API",
            "description": DESCRIPTION,
            "version": "1.0.0",
            "contact": {"name": "Kyma API", "url": "https://kymaapi.com"},
        },
        "servers": [{"url": BASE, "description": "This gateway"}],
        "security": SECURITY[Auth.KEY],
        "tags": [{"name": tag.value, "description": words} for tag, words in TAGS.items()],
        "paths": paths,
        "components": {
            "securitySchemes": SCHEMES,
            "schemas": SCHEMAS,
            "headers": {
                name: _header(schema, required=name in ALWAYS) for name, schema in HEADERS.items()
            },
        },
    }


def _operation(route: Route, declared: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": declared.id,
        "summary": declared.summary,
        "description": declared.description or f"{declared.summary}.",
        "tags": [declared.tag.value],
        "security": SECURITY[declared.auth],
        "parameters": list(_parameters(route, declared)),
        "responses": _responses(declared, route),
        "x-kyma-scope": declared.scope,
        "x-kyma-limiter": declared.limiter.value,
        "x-kyma-meter": declared.meter.value,
    }
    if declared.body is not None:
        described["requestBody"] = {
            "required": declared.body_required,
            "content": {declared.media: {"schema": _schema(declared.body)}},
        }
    return described


def _parameters(route: Route, declared: Operation) -> Iterator[dict[str, Any]]:
    for name in PARAMETER.findall(route.path):
        schema = declared.path.get(name) or text(minLength=1)
        yield {**_parameter(name, "path", schema), "required": True}
    for name, schema in declared.query.items():
        if name in declared.needed:
            yield {**_parameter(name, "query", schema), "required": True}
        else:  # an empty value is as good as none
            yield {**_parameter(name, "query", schema), "allowEmptyValue": True}
    for name, schema in declared.headers.items():
        yield _parameter(name, "header", schema)
    if route.idempotent:
        yield _parameter(HEADER, "header", IDEMPOTENCY)


def _parameter(name: str, place: str, schema: Schema) -> dict[str, Any]:
    said = {"description": schema["description"]} if "description" in schema else {}
    return {"name": name, "in": place, **said, "schema": schema}


def _responses(declared: Operation, route: Route) -> dict[str, Any]:
    found = {str(status): _answer(given, declared) for status, given in declared.answers.items()}
    by_status: dict[int, list[Code]] = {}
    for code in sorted(route.codes):
        by_status.setdefault(STATUS[code][0], []).append(code)
    for status, refused in sorted(by_status.items()):
        found[str(status)] = _refusal(refused, declared)
    return found


def _answer(given: Answer, declared: Operation) -> dict[str, Any]:
    content = {given.media: {} if given.schema is None else {"schema": _schema(given.schema)}}
    if declared.repeat in REPLAYS and given.schema is not None:
        content[given.media] = {"schema": {"anyOf": [_schema(given.schema), ref("Replay")]}}
    if given.example is not None:
        content[given.media]["example"] = given.example
    content |= {media: {"schema": text()} for media in given.also}
    if given.streamed:
        words = "Server-sent events stream (when stream=true)"
        content[EVENTS] = {"schema": text(words)}
    headers = {name: _reference(name) for name in (*ALWAYS, *OF_ACCOUNTS)}
    headers |= {name: _header(schema) for name, schema in given.headers.items()}
    if declared.repeat in REPLAYS:
        headers[REPLAYED] = _header(SERVED_BY[REPLAYED])
    return {
        "description": given.description or declared.summary,
        "headers": headers,
        "content": content,
    }


def _refusal(codes: list[Code], declared: Operation) -> dict[str, Any]:
    """One status and the codes that may stand behind it."""
    name, is_flat = ERRORS[declared.envelope], declared.envelope is Envelope.OAUTH
    said = {"properties": {"code": {"enum": [*map(str, codes)]}}}
    one_of = said if is_flat else {"properties": {"error": said}}
    status = STATUS[codes[0]][0]
    more = dict.fromkeys((409, 429, 503), (*OF_ACCOUNTS, "Retry-After"))
    more[401] = ("WWW-Authenticate",)
    return {
        "description": ", ".join(f"`{code}`" for code in codes),
        "headers": {
            header: _reference(header) for header in (*ALWAYS, *more.get(status, OF_ACCOUNTS))
        },
        "content": {JSON: {"schema": {"allOf": [ref(name), one_of]}}},
    }


def _header(schema: Schema, *, required: bool = False) -> dict[str, Any]:
    return {
        "description": schema.get("description", ""),
        "required": required,
        "schema": schema,
    }


def _reference(header: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{header}"}


def _schema(given: Schema | str) -> Schema:
    return ref(given) if isinstance(given, str) else given
