"""One request on its way, and what it comes to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from kyma.calls import ChatAnswer, ChatCall
from kyma.catalog.model import Model
from kyma.flows.access import Admission
from kyma.money import Usd
from kyma.ports.upstreams import Deadline
from kyma.routing import Affinity, Route
from kyma.usage import Attempt, Usage


@dataclass(slots=True)
class Ticket:
    """One request on its way: everything its record needs. Mutable, owned by one task."""

    id: str
    admission: Admission
    call: ChatCall
    model: Model
    alias: str | None
    endpoint: str
    started_at: datetime
    started: float
    deadline: Deadline
    gone: Callable[[], bool]
    routes: tuple[Route, ...]
    affinity: Affinity | None
    recalling: asyncio.Future[str | None] | None = None
    hold_s: float = 0.0
    settle_s: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    upstream_s: float = 0.0
    first_byte_ms: int = 0

    @property
    def fell_back(self) -> bool:
        """Whether another route than the first choice serves."""
        return bool(self.attempts) and (len(self.attempts) > 1 or self.attempts[-1].layer > 0)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a finished request used and cost. `charged` is what was settled."""

    usage: Usage
    charged: Usd
    cache_discount: Usd


@dataclass(frozen=True, slots=True)
class Served:
    """A whole answer: the body as the model gave it, who gave it, and the receipt.

    `written` is all of that in its caller's dialect, as bytes.
    """

    ticket: Ticket
    route: Route
    answer: ChatAnswer
    receipt: Receipt
    written: bytes = b""
