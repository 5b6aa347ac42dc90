"""Where a person is signed in, and signing out of there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from quart import Blueprint, Response

from adapters.http.contract import Auth, Meter, Rate, Repeat, Tag, operation
from adapters.http.parsing import id_in_path, signed_in
from kyma.accounts import Session
from kyma.errors import Code
from kyma.keys import Scope

if TYPE_CHECKING:
    from adapters.http.app import Parts

WITHIN = "It stops working everywhere within a second."


def routes(parts: Parts) -> Blueprint:
    """/v1/auth/sessions and /v1/auth/logout."""
    blueprint = Blueprint("sessions", __name__, url_prefix="/v1")

    @blueprint.get("/auth/sessions")
    @operation(
        id="listSessions",
        tag=Tag.AUTH,
        summary="List where you are signed in",
        auth=Auth.KEY,
        scope=Scope.ACCOUNT_READ,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(),
        answers={200: "SessionList"},
    )
    async def sessions() -> Response:
        principal = await signed_in(parts.access)
        found = await parts.sessions.of(principal.account_id)
        data = [session_json(session, principal.session_id) for session in found]
        return _json({"object": "list", "data": data})

    @blueprint.delete("/auth/sessions/<session_id>")
    @operation(
        id="endSession",
        tag=Tag.AUTH,
        summary="Sign out elsewhere",
        description=WITHIN,
        auth=Auth.KEY,
        scope=Scope.KEYS_MANAGE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(Code.NOT_FOUND, Code.FORBIDDEN),
        answers={200: "SignedOut"},
    )
    async def end(session_id: str) -> Response:
        await parts.sessions.end(await signed_in(parts.access), id_in_path(session_id))
        return _ended(1)

    @blueprint.post("/auth/logout")
    @operation(
        id="logout",
        tag=Tag.AUTH,
        summary="Sign out",
        description=f"Ends the session that asks. {WITHIN}",
        auth=Auth.KEY,
        scope=Scope.KEYS_MANAGE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.ANSWER,
        errors=(Code.FORBIDDEN,),
        answers={200: "SignedOut"},
    )
    async def logout() -> Response:
        await parts.sessions.log_out(await signed_in(parts.access))
        return _ended(1)

    @blueprint.post("/auth/logout/all")
    @operation(
        id="logoutEverywhere",
        tag=Tag.AUTH,
        summary="Sign out of every device",
        description="Ends every session of the account, this one too. API keys go on working.",
        auth=Auth.KEY,
        scope=Scope.KEYS_MANAGE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.ANSWER,
        errors=(Code.FORBIDDEN,),
        answers={200: "SignedOut"},
    )
    async def everywhere() -> Response:
        return _ended(await parts.sessions.end_all(await signed_in(parts.access)))

    return blueprint


def session_json(session: Session, current: str) -> dict[str, Any]:
    """A session without its token; `current` is the id of the one that asks."""
    return {
        "id": session.id,
        "object": "session",
        "created_at": session.created_at,
        "expires_at": session.expires_at,
        "last_used_at": session.used_at,
        "user_agent": session.user_agent,
        "current": session.id == current,
    }


def _ended(count: int) -> Response:
    return _json({"object": "signed_out", "sessions_ended": count})


def _json(body: Any) -> Response:
    return Response(orjson.dumps(body), content_type="application/json")
