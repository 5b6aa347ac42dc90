"""An account's API keys: list, create, change, rotate, revoke."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
from quart import Blueprint, Response, g

from adapters.http.contract import Auth, Meter, Rate, Repeat, Tag, operation
from adapters.http.keys_view import key_json, wished
from adapters.http.parsing import id_in_path, integer_field, json_object, signed_in, text_field
from kyma.accounts import Key
from kyma.errors import Code, Refusal
from kyma.flows.keys import DEFAULT_POLICY, WHOLE_KEY, Issued, Wish
from kyma.keys import Scope

if TYPE_CHECKING:
    from adapters.http.app import Parts


def routes(parts: Parts) -> Blueprint:
    """The routes below /v1/auth/keys."""
    blueprint = Blueprint("keys", __name__, url_prefix="/v1")

    @blueprint.get("/auth/keys")
    @operation(
        id="listKeys",
        tag=Tag.AUTH,
        summary="List API keys",
        auth=Auth.KEY,
        scope=Scope.ACCOUNT_READ,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(),
        answers={200: "KeyList"},
    )
    async def keys() -> Response:
        principal = await signed_in(parts.access)
        found = await parts.accounts.keys(principal.account_id)
        months = await parts.keys.months(principal.account_id)
        data = [key_json(key, months.get(key.id)) for key in found]
        return _json({"object": "list", "data": data})

    @blueprint.post("/auth/keys")
    @operation(
        id="createKey",
        tag=Tag.AUTH,
        summary="Create an API key",
        description="The secret is shown only here. A key gives no more than it has itself.",
        auth=Auth.KEY,
        scope=Scope.KEYS_MANAGE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.SHOWN_ONCE,
        errors=(Code.FORBIDDEN, Code.MODEL_NOT_FOUND),
        body="NewKey",
        answers={201: "KeyWithSecret"},
    )
    async def create() -> Response:
        principal = await signed_in(parts.access)
        body = await json_object()
        text_field(body, "name")
        wish = _wish(wished(body, parts.catalogue))
        issued = await parts.keys.create(principal, wish, g.made_id)
        return _issued(issued, await _told(parts, issued.key), 201)

    @blueprint.patch("/auth/keys/<key_id>")
    @operation(
        id="updateKey",
        tag=Tag.AUTH,
        summary="Change an API key",
        description="What is not named stays. Every process knows it within a second.",
        auth=Auth.KEY,
        scope=Scope.KEYS_MANAGE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(Code.NOT_FOUND, Code.FORBIDDEN, Code.MODEL_NOT_FOUND),
        body="KeyChange",
        answers={200: "Key"},
    )
    async def change(key_id: str) -> Response:
        principal = await signed_in(parts.access)
        changed = wished(await json_object(), parts.catalogue)
        if not changed:
            raise Refusal(Code.MISSING_FIELD, "Name at least one thing to change.")
        key = await parts.keys.change(principal, id_in_path(key_id), changed)
        return _json(await _told(parts, key))

    @blueprint.post("/auth/keys/<key_id>/rotate")
    @operation(
        id="rotateKey",
        tag=Tag.AUTH,
        summary="Give an API key a new secret",
        description="Id, limits and usage stay. The secret before works for `overlap_hours` "
        "more; one that was before it stops at once.",
        auth=Auth.KEY,
        scope=Scope.KEYS_MANAGE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        repeat=Repeat.SHOWN_ONCE,
        errors=(Code.NOT_FOUND, Code.FORBIDDEN),
        body="KeyRotation",
        answers={200: "KeyWithSecret"},
    )
    async def rotate(key_id: str) -> Response:
        principal = await signed_in(parts.access)
        hours = integer_field(await json_object(), "overlap_hours")
        issued = await parts.keys.rotate(principal, id_in_path(key_id), hours)
        return _issued(issued, await _told(parts, issued.key), 200)

    @blueprint.delete("/auth/keys/<key_id>")
    @operation(
        id="revokeKey",
        tag=Tag.AUTH,
        summary="Revoke an API key",
        description="It stops working everywhere within a second. A key revokes itself, and "
        "others that have no more than it has.",
        auth=Auth.KEY,
        scope=Scope.KEYS_MANAGE,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(Code.NOT_FOUND, Code.FORBIDDEN),
        answers={200: "Key"},
    )
    async def revoke(key_id: str) -> Response:
        principal = await signed_in(parts.access)
        key = await parts.access.revoke_key(principal, id_in_path(key_id))
        return _json(await _told(parts, key))

    return blueprint


def _wish(changed: dict[str, Any]) -> Wish:
    of_key = {name: changed.pop(name) for name in WHOLE_KEY & changed.keys()}
    policy = replace(DEFAULT_POLICY, **changed)
    return Wish(policy=policy, **of_key)


async def _told(parts: Parts, key: Key) -> dict[str, Any]:
    """A key with what was spent with it, if that counts."""
    if key.policy.monthly_cap is None:
        return key_json(key)
    return key_json(key, (await parts.keys.months(key.account_id)).get(key.id))


def _issued(issued: Issued, key: dict[str, Any], status: int) -> Response:
    return _json({**key, "api_key": issued.secret}, status)


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, content_type="application/json")
