"""The languages callers speak to us: one module each, the same few questions asked of all."""

from __future__ import annotations

from typing import Any, Protocol

from kyma.calls import ChatCall
from kyma.catalog.model import Model
from kyma.errors import Refusal
from kyma.flows.live import LiveAnswer
from kyma.flows.ticket import Served, Ticket


class Rendering(Protocol):
    """One stream in a dialect. Every method answers bytes ready to be sent, or none."""

    def events(self, events: list[bytes]) -> bytes:
        """Server-sent events of the call's dialect (see `kyma.calls.Chunk`) in this one."""
        ...

    def end(self, live: LiveAnswer) -> bytes:
        """The last words of a stream that was settled: usage, and the mark of the end."""
        ...

    def failed(self, refusal: Refusal, request_id: str) -> bytes:
        """The event that tells of a failure after the head; a clean end never follows it."""
        ...


class Dialect(Protocol):
    """How one route is spoken.

    `path` is the route, `endpoint` its name in usage records, `id_header` where its clients
    look for a request's id.
    """

    path: str
    endpoint: str
    id_header: str

    def model(self, body: dict[str, Any]) -> str:
        """Check a body and name the model it asks for; raises `Refusal` naming the field."""
        ...

    def call(self, body: dict[str, Any], model: Model) -> ChatCall:
        """What crosses to an upstream."""
        ...

    def whole(self, served: Served) -> dict[str, Any]:
        """The JSON of a whole answer, usage included."""
        ...

    def rendering(self, ticket: Ticket) -> Rendering:
        """How the stream of this request is written."""
        ...

    def refusal(self, refusal: Refusal, request_id: str) -> dict[str, Any]:
        """The JSON of an error that has a status of its own."""
        ...
