"""The server's HTTP: keys, idempotency, faults on request, and the hosted page."""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from aiohttp import web

from tests.stripe_server import forms, routes
from tests.stripe_server.cards import CARDS
from tests.stripe_server.errors import ApiError, invalid
from tests.stripe_server.world import World, public

KEY_SECONDS = 24 * 60 * 60


class Fault(StrEnum):
    """What goes wrong with a request."""

    ERROR = "error"
    """500 once execution began; nothing was done, and the key keeps the answer."""

    ERROR_AFTER = "error_after"
    """500 although it was done; the key keeps the answer."""

    UNAVAILABLE = "unavailable"
    """503 from in front of the API: nothing was done or kept."""

    RATE_LIMITED = "rate_limited"
    RESET = "reset"
    RESET_AFTER = "reset_after"
    """Done, and the connection is reset before the answer."""

    HANG = "hang"
    HANG_AFTER = "hang_after"
    CUT = "cut"
    """Done, and the answer ends in its middle."""


@dataclass(slots=True)
class Asked:
    """A request as it came, for a test to look at."""

    method: str
    path: str
    params: dict[str, Any]
    headers: Mapping[str, str]


@dataclass(slots=True)
class _Kept:
    fingerprint: str
    at: int
    status: int = 0
    body: str = ""
    running: bool = True


@dataclass(slots=True)
class Api:
    """All requests, one after the other."""

    world: World
    secret_key: str
    faults: list[tuple[Fault, str]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    delay_s: float = 0.0
    meddle: Callable[[str], Fault | None] | None = None
    """Is shown every `METHOD /path` as it comes, and may say what goes wrong with it."""

    _keys: dict[str, _Kept] = field(default_factory=dict)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/c/pay/{id}", self.page)
        application.router.add_post("/c/pay/{id}", self.submit)
        application.router.add_route("*", "/v1/{rest:.*}", self.handle)
        return application

    def stop(self) -> None:
        """Let go of whoever hangs."""
        self._over.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        fault = self._fault(f"{request.method} {request.path}")
        try:
            self._check_key(request)
            params = forms.parsed(body if request.method == "POST" else request.query_string)
            headers = dict(request.headers)
            self.asked.append(Asked(request.method, request.path, params, headers))
            status, text, replayed = await self._answer(request, params, body, fault)
        except ApiError as error:
            status, text, replayed = error.status, json.dumps(error.body), False
        return await self._send(request, status, text, replayed, fault)

    def _fault(self, call: str) -> Fault | None:
        for place, (fault, path) in enumerate(self.faults):
            if path in call:
                del self.faults[place]
                return fault
        return None if self.meddle is None else self.meddle(call)

    def _check_key(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if given != self.secret_key:
            shown = f"{given[:7]}********{given[-4:]}"
            raise ApiError(401, "invalid_request_error", f"Invalid API Key provided: {shown}")

    async def _answer(
        self, request: web.Request, params: dict[str, Any], body: str, fault: Fault | None
    ) -> tuple[int, str, bool]:
        """Status, body, and whether it was kept from before."""
        match fault:
            case Fault.RESET:
                _reset(request)
            case Fault.HANG:
                await self._over.wait()
            case Fault.UNAVAILABLE:
                raise ApiError(503, "api_error", "Stripe is temporarily unavailable.")
            case Fault.RATE_LIMITED:
                raise ApiError(
                    429, "invalid_request_error", "Too many requests.", code="rate_limit"
                )
            case _:
                pass
        key = request.headers.get("Idempotency-Key")
        if request.method != "POST" or key is None:
            return *await self._do(request, params, fault), False
        if len(key) > 255:
            raise invalid("The `Idempotency-Key` header is too long (255 characters at most).")
        return await self._once(key, request, params, body, fault)

    async def _once(
        self, key: str, request: web.Request, params: dict[str, Any], body: str, fault: Fault | None
    ) -> tuple[int, str, bool]:
        fingerprint = f"{request.path}?{body}"
        kept = self._keys.get(key)
        if kept is not None and kept.at + KEY_SECONDS < self.world.now():
            kept = None
        if kept is not None:
            return _replayed(key, kept, fingerprint)
        kept = self._keys[key] = _Kept(fingerprint, self.world.now())
        try:
            kept.status, kept.body = await self._do(request, params, fault)
        except ApiError as error:
            # What failed validation or was never begun is not kept.
            if not error.saved:
                del self._keys[key]
                raise
            kept.status, kept.body = error.status, json.dumps(error.body)
        finally:
            kept.running = False
        return kept.status, kept.body, False

    async def _do(
        self, request: web.Request, params: dict[str, Any], fault: Fault | None
    ) -> tuple[int, str]:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if fault is Fault.ERROR:
            raise ApiError(500, "api_error", "An unknown error occurred.", saved=True)
        key = request.headers.get("Idempotency-Key")
        self.world.request = {"id": "req_test", "idempotency_key": key}
        try:
            text = json.dumps(self._found(request, params))
        finally:
            self.world.request = None
        if fault is Fault.ERROR_AFTER:
            raise ApiError(500, "api_error", "An unknown error occurred.", saved=True)
        return 200, text

    def _found(self, request: web.Request, params: dict[str, Any]) -> dict[str, Any]:
        self.world.tick()
        for route in routes.ROUTES:
            match = route.path.fullmatch(request.path)
            if match is None or route.method != request.method:
                continue
            forms.checked(params, route.accepts)
            paths = params.pop("expand", [])
            found = route.act(self.world, params, *match.groups())
            if isinstance(found, list):
                shown = routes.paginated(found, params, request.path)
            else:
                shown = public(found)
            return routes.expanded(self.world, shown, paths)
        raise ApiError(
            404,
            "invalid_request_error",
            f"Unrecognized request URL ({request.method}: {request.path}).",
        )

    async def _send(
        self, request: web.Request, status: int, text: str, replayed: bool, fault: Fault | None
    ) -> web.StreamResponse:
        if fault is Fault.RESET_AFTER:
            _reset(request)
        if fault is Fault.HANG_AFTER:
            await self._over.wait()
        headers = {"Request-Id": "req_test", "Stripe-Version": request.headers["Stripe-Version"]}
        if key := request.headers.get("Idempotency-Key"):
            headers["Idempotency-Key"] = key
        if replayed:
            headers["Idempotent-Replayed"] = "true"
        if fault is Fault.CUT:
            return await _cut(request, status, text, headers)
        return web.Response(
            status=status, text=text, headers=headers, content_type="application/json"
        )

    async def page(self, request: web.Request) -> web.Response:
        """The hosted page, as far as a person or a browser test needs it."""
        self.world.tick()
        session = self.world.tables["checkout.session"].get(request.match_info["id"])
        if session is None or session["status"] != "open":
            return web.Response(status=410, text="This page is no longer open.")
        return web.Response(text=_html(session, ""), content_type="text/html")

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Pay, or leave a card."""
        self.world.tick()
        session = self.world.tables["checkout.session"].get(request.match_info["id"])
        form = await request.post()
        if session is None or session["status"] != "open":
            return web.Response(status=410, text="This page is no longer open.")
        try:
            self.world.complete(session, str(form.get("card", "success")), save="save" in form)
        except ApiError as error:
            return web.Response(
                status=402, text=_html(session, str(error)), content_type="text/html"
            )
        back = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
        raise web.HTTPSeeOther(back)


def _replayed(key: str, kept: _Kept, fingerprint: str) -> tuple[int, str, bool]:
    if kept.fingerprint != fingerprint:
        raise ApiError(
            400,
            "idempotency_error",
            "Keys for idempotent requests can only be used with the same parameters they were "
            f"first used with. Try using a key other than '{key}' if you meant to execute a "
            "different request.",
        )
    if kept.running:
        raise ApiError(
            409,
            "invalid_request_error",
            "There is currently another in-progress request using this Idempotent Key "
            f"({key}). Please try again later.",
            code="idempotency_key_in_use",
        )
    return kept.status, kept.body, True


def _reset(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError


async def _cut(
    request: web.Request, status: int, text: str, headers: dict[str, str]
) -> web.StreamResponse:
    whole = text.encode()
    headers["Content-Type"] = "application/json"
    headers["Content-Length"] = str(len(whole))
    response = web.StreamResponse(status=status, headers=headers)
    await response.prepare(request)
    await response.write(whole[: len(whole) // 2])
    await asyncio.sleep(0.01)
    _reset(request)
    return response


def _html(session: dict[str, Any], error: str) -> str:
    options = "".join(f"<option>{html.escape(kind)}</option>" for kind in CARDS)
    total = session["amount_total"]
    title = "Save a card" if total is None else f"Pay ${total / 100:.2f}"
    return (
        f"<!doctype html><html lang=en><title>{title}</title><h1>{title}</h1>"
        f"<p role=alert>{html.escape(error)}</p><form method=post>"
        f"<label>Card <select name=card>{options}</select></label>"
        "<label><input type=checkbox name=save> Save my card</label>"
        f"<button>{title}</button></form>"
        f"<a href='{html.escape(session['cancel_url'] or '')}'>Back</a></html>"
    )
