"""What anyone may read: the models, and whether the service is well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from quart import Blueprint, Response, request

from adapters.http.models_view import list_json, model_json
from kyma.catalog.filters import from_query, select
from kyma.errors import Code, Refusal

if TYPE_CHECKING:
    from adapters.http.app import Parts


def routes(parts: Parts) -> Blueprint:
    """/v1/models, /healthz (alive) and /readyz (able to serve)."""
    blueprint = Blueprint("discovery", __name__)

    @blueprint.get("/v1/models")
    async def models() -> Response:
        found = select(parts.catalogue.models(), from_query(request.args))
        return _json(list_json(found, parts.catalogue.aliases))

    @blueprint.get("/v1/models/<path:model_id>")
    async def model(model_id: str) -> Response:
        found, _ = parts.catalogue.find(model_id)
        return _json(model_json(found))

    @blueprint.get("/healthz")
    async def alive() -> Response:
        return _json({"status": "ok"})

    @blueprint.get("/readyz")
    async def ready() -> Response:
        try:
            await parts.ready()
        except Exception as error:
            raise Refusal(
                Code.STORAGE_UNAVAILABLE, f"Not ready: {type(error).__name__}.", retry_after_s=1
            ) from error
        return _json({"status": "ready"})

    return blueprint


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), content_type="application/json")
