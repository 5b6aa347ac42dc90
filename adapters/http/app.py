"""The HTTP edge: Quart for every route, and those that answer with text in front of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from quart import Quart, Response, g, request

from adapters.http import (
    accounts,
    authorize,
    billing,
    callers,
    compress,
    cors,
    devices,
    discovery,
    figures,
    keys,
    limit_requests,
    links,
    openapi,
    pages,
    receipts,
    referrals,
    refusals,
    repeats,
    sessions,
    statements,
    timing,
    visitor,
)
from adapters.http.asgi import Receive, Scope, Send
from adapters.http.billing import Sales
from adapters.http.bodies import Workbench
from adapters.http.dialects import Dialect
from adapters.http.dialects.chat import ChatCompletions
from adapters.http.dialects.completions import Completions
from adapters.http.dialects.embeddings import Embeddings
from adapters.http.dialects.messages import Messages
from adapters.http.dialects.responses import Responses
from adapters.http.identity import Ways
from adapters.http.messages_route import COUNT_PATH, CountTokens, MessagesRoute
from adapters.http.parsing import BoundedRequest
from adapters.http.public import Public
from adapters.http.receipts import Books
from adapters.http.strangers import StrangerLimit
from adapters.http.text import Limits, TextRoute
from kyma.catalog.model import Catalogue
from kyma.errors import Code, Refusal
from kyma.flows.access import Access
from kyma.flows.chat import Chat
from kyma.flows.keys import KeySettings
from kyma.flows.limit_requests import HigherLimits
from kyma.flows.newcomers import Newcomers
from kyma.flows.once import Once
from kyma.flows.referrals import Referrals
from kyma.flows.repeats import Repeats
from kyma.flows.sessions import Sessions
from kyma.idempotency import HEADER as IDEMPOTENCY_KEY
from kyma.idempotency import checked_key
from kyma.ports.billing import Statements
from kyma.ports.runtime import Chance, Clock, Limiter
from kyma.ports.storage import Accounts, Ledger, Reports

Ready = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Parts:
    """All that the routes use; filled by the container."""

    access: Access
    chat: Chat
    catalogue: Catalogue
    accounts: Accounts
    ledger: Ledger
    reports: Reports
    limiter: Limiter
    clock: Clock
    chance: Chance
    limits: Limits
    ready: Ready
    once: Once
    repeats: Repeats
    books: Books
    keys: KeySettings
    sessions: Sessions
    public: Public
    limits_asked: HigherLimits
    referrals: Referrals
    newcomers: Newcomers
    ways: Ways
    statements: Statements
    sales: Sales | None
    strangers: StrangerLimit
    workbench: Workbench = field(default_factory=Workbench)


MESSAGES = Messages()
DIALECTS: tuple[Dialect, ...] = (
    ChatCompletions(),
    MESSAGES,
    Responses(),
    Completions(),
    Embeddings(),
)
"""Every way to ask for text, each a route served in front of Quart."""


class Gateway:
    """The ASGI application: text routes as plain callables, everything else Quart."""

    def __init__(self, parts: Parts) -> None:
        self.quart = make_quart(parts)
        self._chance = parts.chance
        self._strangers = parts.strangers
        self._texts = {dialect.path: TextRoute(dialect, parts) for dialect in DIALECTS}
        self._texts[MESSAGES.path] = MessagesRoute(MESSAGES, parts)
        self._texts[COUNT_PATH] = CountTokens(MESSAGES, parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route one connection event."""
        if scope["type"] == "http":
            if scope["method"] == "POST":
                text = self._texts.get(scope["path"])
                if text is not None:
                    await text(scope, receive, send)
                    return
            elif await cors.preflight(scope, send, self._chance.id, self._strangers):
                return
        await self.quart(scope, receive, send)  # type: ignore[arg-type]  # its ASGI types are finer


async def _misspelt() -> Response:
    """Reached by paths that Quart takes for a text route's, such as `//v1/messages`."""
    raise Refusal(Code.NOT_FOUND, f"There is nothing at this path; did you mean {request.path}?")


def make_quart(parts: Parts) -> Quart:
    """Quart with our routes and our envelope for every error."""
    app = refusals.AnyHost("kyma", static_folder=None)
    app.request_class = BoundedRequest
    app.url_map.merge_slashes = False  # a redirect would be HTML, and lose the body of a POST
    app.config["RESPONSE_TIMEOUT"] = None  # 60 s by default, which cuts a stream silently
    app.config["BODY_TIMEOUT"] = parts.limits.body_timeout_s
    app.config["MAX_CONTENT_LENGTH"] = parts.limits.body_bytes
    timing.install(app, parts.clock)  # first in, last out: it measures what follows
    visitor.install(app)
    cors.install(app)
    compress.install(app)
    app.register_blueprint(accounts.routes(parts))
    app.register_blueprint(keys.routes(parts))
    app.register_blueprint(sessions.routes(parts))
    app.register_blueprint(limit_requests.routes(parts))
    app.register_blueprint(referrals.routes(parts))
    app.register_blueprint(receipts.routes(parts, DIALECTS))
    app.register_blueprint(billing.routes(parts))
    app.register_blueprint(statements.routes(parts))
    app.register_blueprint(discovery.routes(parts))
    app.register_blueprint(figures.routes(parts))
    app.register_blueprint(devices.routes(parts.ways))
    app.register_blueprint(authorize.routes(parts.ways))
    app.register_blueprint(links.routes(parts.ways))
    app.register_blueprint(pages.routes(parts.ways))
    app.register_blueprint(openapi.routes())
    for dialect in DIALECTS:
        # Served in front of Quart; known to it so that other methods are told which one is meant.
        app.add_url_rule(dialect.path, dialect.endpoint, _misspelt, methods=["POST"])
    app.add_url_rule(COUNT_PATH, "count_tokens", _misspelt, methods=["POST"])
    repeats.install(app, parts)

    @app.before_request
    async def name_request() -> None:
        g.request_id = g.made_id = parts.chance.id()

    callers.install(app, parts)

    @app.before_request
    async def check_idempotency_key() -> None:
        """On routes that have no use for it, too: one form for all."""
        key = request.headers.get(IDEMPOTENCY_KEY)
        if key is not None and request.method == "POST":
            checked_key(key)

    refusals.install(app)
    return app
