"""`Idempotency-Key` on every route of Quart that declares what a repetition gets: in one place.

The work under a key goes on when its client hangs up: a connection that is lost between what is
done and its answer is what the key is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, cast

from quart import Quart, Response, g, request

from adapters.http.contract import Auth, Operation, Repeat, operation_of
from adapters.http.exchange import REPLAYED
from adapters.http.parsing import client, credential, signed_in
from adapters.http.replays import replayed
from kyma.errors import Code, Refusal
from kyma.flows.once import Claim, Replay
from kyma.flows.repeats import DAY, PASSING, SHORT, UNSURE, UNTOLD, WORK_S, Terms
from kyma.idempotency import HEADER, StoredAnswer, fingerprint_of

if TYPE_CHECKING:
    from adapters.http.app import Parts

View = Callable[..., Awaitable[Response]]

TERMS = {
    Repeat.ANSWER: DAY,
    Repeat.READING: PASSING,
    Repeat.SHOWN_ONCE: SHORT,
    Repeat.TICKET: SHORT,
    Repeat.SAME: UNTOLD,
}
"""How the answers of these routes are kept, sealed. Routes with other words are not ours."""

MIN_TICKET_KEY = 16
"""Characters of a key that nobody else will choose or guess; a UUID has more."""


def install(app: Quart, parts: Parts) -> None:
    """Wrap every route that declares it; called when all are known."""
    running: set[asyncio.Task[Response]] = set()
    for endpoint, view in app.view_functions.items():
        declared = operation_of(view)
        if declared is not None and declared.repeat in TERMS:
            ours = cast("View", view)  # all of our routes are coroutines that answer with one
            app.view_functions[endpoint] = _Once(parts, declared, ours, running).wrapped()


class _Once:
    """One route, answered once for each key."""

    def __init__(
        self, parts: Parts, declared: Operation, view: View, running: set[asyncio.Task[Response]]
    ) -> None:
        self._access = parts.access
        self._repeats = parts.repeats
        self._catalogue = parts.catalogue
        self._declared = declared
        self._view = view
        self._running = running

    def wrapped(self) -> View:
        """The view, with its declaration."""

        @wraps(self._view)
        async def answered(**named: Any) -> Response:
            key = request.headers.get(HEADER)
            if key is None or request.method != "POST":
                return await self._view(**named)
            task = asyncio.create_task(self._once(key, partial(self._view, **named)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            return await asyncio.shield(task)

        return answered

    async def _once(self, key: str, work: View) -> Response:
        account_id, secret = await self._caller()
        raw = await request.get_data(cache=True, as_text=False, parse_form_data=False)
        begun = await self._repeats.begin(
            account_id, secret, key, self._asked(raw), g.request_id, self._terms(key)
        )
        if isinstance(begun, Claim):
            return await self._work(begun, work)
        if self._declared.repeat is Repeat.SAME:
            return await work()
        return self._again(begun)

    def _asked(self, raw: bytes) -> bytes:
        """What makes two requests the same: all that the route reads, headers of its own too."""
        query = request.query_string.decode("latin-1")
        path = f"{request.path}?{query}" if query else request.path
        given = [name for name in self._declared.headers if name in request.headers]
        lines = [path, *(f"{name}: {request.headers[name]}" for name in given)]
        return fingerprint_of(request.method, "\n".join(lines), raw)

    async def _caller(self) -> tuple[str, str]:
        """Whose keys these are, and what only the caller knows, if they show anything."""
        if self._declared.auth is Auth.KEY:
            return (await signed_in(self._access)).account_id, credential()
        return self._repeats.scope_of(client().address), ""

    def _terms(self, key: str) -> Terms:
        repeat = self._declared.repeat or Repeat.SAME
        if repeat is Repeat.TICKET and len(key) < MIN_TICKET_KEY:
            return UNTOLD
        return TERMS[repeat]

    async def _work(self, claim: Claim, work: View) -> Response:
        """The answer, kept before it is sent; or the key given back, as far as that is safe."""
        resumes = claim.request_id != g.request_id
        g.made_id = claim.request_id
        try:
            response = await _in_time(work)
        except Refusal as refusal:
            # What was tried before may have been done, even if this try was refused.
            is_open = resumes or refusal.code in UNSURE
            await (self._repeats.lapse if is_open else self._repeats.release)(claim)
            raise
        except Exception:
            await self._repeats.lapse(claim)
            raise
        body: bytes = await response.get_data(as_text=False)
        answer = StoredAnswer(response.status_code, response.content_type or "", body)
        await self._repeats.finish(claim, answer)
        return response

    def _again(self, replay: Replay) -> Response:
        answer = replayed(replay, self._catalogue, min(self._declared.answers))
        g.request_id = replay.request_id
        response = Response(answer.body, answer.status, content_type=answer.content_type)
        response.headers.extend([REPLAYED, ("Cache-Control", "no-store")])
        return response


async def _in_time(work: View) -> Response:
    try:
        async with asyncio.timeout(WORK_S):
            return await work()
    except TimeoutError as error:
        raise Refusal(
            Code.INTERNAL,
            f"This took too long. Ask again with the same {HEADER} to be told what came of it.",
            charged=None,
        ) from error
