"""What an account chooses about its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from quart import Blueprint, Response

from adapters.http.accounts import key_json
from adapters.http.contract import Auth, Meter, Rate, Tag, operation
from adapters.http.parsing import id_in_path, integer_field, json_object, signed_in
from kyma.errors import Code

if TYPE_CHECKING:
    from adapters.http.app import Parts


def routes(parts: Parts) -> Blueprint:
    """PATCH /v1/auth/keys/{id}."""
    blueprint = Blueprint("keys", __name__, url_prefix="/v1")

    @blueprint.patch("/auth/keys/<key_id>")
    @operation(
        id="updateKey",
        tag=Tag.AUTH,
        summary="Change an API key",
        description="`replay_minutes` allows answers made with this key to be kept, encrypted "
        "under the key itself, for an idempotent retry. 0, the default, keeps nothing.",
        auth=Auth.KEY,
        limiter=Rate.NONE,
        meter=Meter.FREE,
        errors=(Code.NOT_FOUND,),
        body="KeyChange",
        answers={200: "Key"},
    )
    async def change(key_id: str) -> Response:
        principal = await signed_in(parts.access)
        minutes = integer_field(await json_object(), "replay_minutes")
        key = await parts.keys.set_replay(principal.account_id, id_in_path(key_id), minutes)
        return Response(orjson.dumps(key_json(key)), content_type="application/json")

    return blueprint
