"""What every route declares beside its code: who may call it, what limits and what pays it.

    @blueprint.get("/credits/balance")
    @operation(
        id="getBalance", tag=Tag.CREDITS, summary="Check credit balance",
        auth=Auth.KEY, scope=Scope.ACCOUNT_READ, limiter=Rate.NONE, meter=Meter.FREE, errors=(),
        answers={200: "Balance"},
    )
    async def balance() -> Response: ...

The OpenAPI document is generated from these declarations, a test fails for a route that has
none, and the fuzzed stack is held to them. `@operation` stands below the route decorator.
A name instead of a schema (`"Balance"`) is one of `adapters/http/schemas`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

from kyma.errors import Code
from kyma.keys import Scope

Schema = Mapping[str, Any]
View = TypeVar("View", bound=Callable[..., Any])

NOTHING: Mapping[str, Any] = MappingProxyType({})
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
EVENTS = "text/event-stream"


class Tag(StrEnum):
    """Where an operation stands in the document."""

    CHAT = "Chat"
    MODELS = "Models"
    DISCOVERY = "Discovery"
    CREDITS = "Credits"
    RECEIPTS = "Receipts"
    AUTH = "Auth"
    HEALTH = "Health"


class Auth(StrEnum):
    """Who may call."""

    NONE = "none"
    KEY = "key"
    """An API key or a session token, as `Authorization: Bearer` or `x-api-key`."""


class Rate(StrEnum):
    """Which limiter counts the call."""

    NONE = "none"
    TIER = "tier"
    """The sliding windows of the customer's tier: requests, requests per model, tokens."""


class Meter(StrEnum):
    """What pays for the call."""

    FREE = "free"
    TOKENS = "tokens"
    """A hold on the balance, settled by the tokens the answer used."""

    PURCHASE = "purchase"
    """Money from outside, for credit: a card, or a page to pay on."""


class Repeat(StrEnum):
    """What a second POST with the same `Idempotency-Key` and the same body gets."""

    RECEIPT = "receipt"
    """The receipt of what was charged, or the answer if the API key's owner lets it be kept."""

    ANSWER = "answer"
    """The first answer, byte for byte; it tells no secret, and is kept for a day."""

    READING = "reading"
    """The same; nothing was done, and key and answer are kept for ten minutes."""

    SHOWN_ONCE = "shown_once"
    """The same, but the answer tells a secret: it is kept for ten minutes."""

    TICKET = "ticket"
    """The same, but nothing in the request is known to its sender alone, unless the key is."""

    SAME = "same"
    """The route is asked again: what it does follows from the key, and is done once for ever."""

    NEVER = "never"
    """The header is not for this route, and changes nothing."""


class Envelope(StrEnum):
    """The shape of an error."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OAUTH = "oauth"
    """`error` is a word of RFC 6749 or 8628, and the rest of ours lies flat beside it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One way in which an operation succeeds.

    `streamed` says that the same status may come as server-sent events instead, `also` names
    other media types that it may come as, each a text of its own; `headers`
    are those beyond what the kind of route implies, each with its schema.
    """

    schema: Schema | str | None = None
    description: str = ""
    media: str = JSON
    streamed: bool = False
    also: tuple[str, ...] = ()
    headers: Mapping[str, Schema] = field(default_factory=dict)
    example: Any = None


@dataclass(frozen=True, slots=True)
class Operation:
    """A declared route. `errors` are the codes of its own; `codes` are all it may answer.

    `scope` is what a key needs for it. A route with a key that names none takes only keys that
    have every scope, and fails the audit.
    `needed` are the names of the query that must be given; `media` is what a body comes as. A
    route of the pages, which answers people and not programs, is not `documented` to programs.
    `repeat` is for POST alone, where the audit asks for it.
    `counts_strangers` is false where a refusal would do harm (a probe, a notice of a payment):
    whoever asks there is told what is left to their address, and not counted.
    """

    id: str
    tag: Tag
    summary: str
    auth: Auth
    limiter: Rate
    meter: Meter
    errors: frozenset[Code]
    answers: Mapping[int, Answer]
    query: Mapping[str, Schema] = field(default_factory=dict)
    path: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[str, Schema] = field(default_factory=dict)
    body: Schema | str | None = None
    body_required: bool = True
    description: str = ""
    envelope: Envelope = Envelope.OPENAI
    scope: Scope | None = None
    media: str = JSON
    documented: bool = True
    repeat: Repeat | None = None
    counts_strangers: bool = True
    needed: tuple[str, ...] = ()

    @property
    def codes(self) -> frozenset[Code]:
        """Every refusal that a caller of this operation must expect."""
        implied = {Code.INTERNAL, *BY_AUTH[self.auth], *BY_RATE[self.limiter]}
        implied |= BY_METER[self.meter]
        if self.needed:
            implied.add(Code.MISSING_FIELD)
        if self.counts_strangers:
            implied.add(Code.RATE_LIMITED)
        if self.body is not None:
            implied |= BY_BODY
        if self.query:
            implied.add(Code.INVALID_VALUE)
        return frozenset(implied | self.errors)


BY_AUTH: Mapping[Auth, frozenset[Code]] = {
    Auth.NONE: frozenset(),
    Auth.KEY: frozenset(
        {
            Code.MISSING_KEY,
            Code.MALFORMED_KEY,
            Code.INVALID_KEY,
            Code.EXPIRED_KEY,
            Code.SCOPE_MISSING,
            Code.ADDRESS_NOT_ALLOWED,
            Code.STORAGE_UNAVAILABLE,
        }
    ),
}
BY_RATE: Mapping[Rate, frozenset[Code]] = {
    Rate.NONE: frozenset(),
    Rate.TIER: frozenset({Code.RATE_LIMITED, Code.REQUEST_TOO_LARGE}),
}
BY_METER: Mapping[Meter, frozenset[Code]] = {
    Meter.FREE: frozenset(),
    Meter.PURCHASE: frozenset(),
    Meter.TOKENS: frozenset(
        {
            Code.INSUFFICIENT_CREDITS,
            Code.KEY_CAP_REACHED,
            Code.MODEL_NOT_ALLOWED,
            Code.MAX_COST_EXCEEDED,
            Code.CONTEXT_TOO_LONG,
            Code.CONTENT_FILTERED,
            Code.REFUSED_BY_MODEL,
            Code.PROVIDER_ERROR,
            Code.PROVIDER_TIMEOUT,
            Code.PROVIDER_BUSY,
            Code.NO_ROUTE,
            Code.STREAM_INTERRUPTED,
            Code.DEADLINE_PASSED,
        }
    ),
}
BY_BODY = frozenset(
    {
        Code.INVALID_JSON,
        Code.INVALID_TYPE,
        Code.MISSING_FIELD,
        Code.INVALID_VALUE,
        Code.BODY_TOO_LARGE,
        Code.BODY_TIMEOUT,
        Code.UNSUPPORTED_MEDIA_TYPE,
    }
)


def operation(
    *,
    id: str,
    tag: Tag,
    summary: str,
    auth: Auth,
    limiter: Rate,
    meter: Meter,
    errors: tuple[Code, ...],
    answers: Mapping[int, Answer | Schema | str],
    query: Mapping[str, Schema] = NOTHING,
    path: Mapping[str, Schema] = NOTHING,
    headers: Mapping[str, Schema] = NOTHING,
    body: Schema | str | None = None,
    body_required: bool = True,
    description: str = "",
    envelope: Envelope = Envelope.OPENAI,
    scope: Scope | None = None,
    media: str = JSON,
    documented: bool = True,
    repeat: Repeat | None = None,
    counts_strangers: bool = True,
    needed: tuple[str, ...] = (),
) -> Callable[[View], View]:
    """Declare a route of Quart.

    `query`, `path` and `headers` name parameters of the request and their schemas; path
    parameters without a schema are strings. Errors that the kind of route implies (a key,
    a body, a limiter, a meter) are not repeated in `errors`.
    """
    declared = Operation(
        id=id,
        tag=tag,
        summary=summary,
        auth=auth,
        limiter=limiter,
        meter=meter,
        errors=frozenset(errors),
        answers={status: _answer(given) for status, given in answers.items()},
        query=query,
        path=path,
        headers=headers,
        body=body,
        body_required=body_required,
        description=description,
        envelope=envelope,
        scope=scope,
        media=media,
        documented=documented,
        repeat=repeat,
        counts_strangers=counts_strangers,
        needed=needed,
    )

    def attach(view: View) -> View:
        view.operation = declared  # type: ignore[attr-defined]  # a function has a __dict__
        return view

    return attach


def operation_of(view: Callable[..., Any] | None) -> Operation | None:
    """What a view declares."""
    found = getattr(view, "operation", None)
    return found if isinstance(found, Operation) else None


def _answer(given: Answer | Schema | str) -> Answer:
    return given if isinstance(given, Answer) else Answer(given)
