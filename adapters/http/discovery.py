"""What anyone may read of the catalogue, and whether this process is well.

The figures that are measured are in `figures.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from quart import Blueprint, Response, current_app, request

from adapters.http.caching import public, public_json
from adapters.http.config_view import (
    badges,
    capabilities_json,
    config_json,
    llms_text,
    paths_here,
)
from adapters.http.contract import Answer, Tag
from adapters.http.models_view import list_json, model_json
from adapters.http.pricing_view import (
    credits_pricing_json,
    pricing_json,
    registry_json,
    tiers_json,
)
from adapters.http.public import anyone
from adapters.http.recommend_view import recommendation_json
from adapters.http.schemas.discovery import WISH
from adapters.http.schemas.models import FILTERS
from adapters.http.schemas.shapes import text
from kyma.catalog.filters import from_query, select
from kyma.catalog.recommend import from_query as wish_of
from kyma.catalog.recommend import recommend, served
from kyma.errors import Code, Refusal

if TYPE_CHECKING:
    from adapters.http.app import Parts

CATALOGUE_S = 60
"""How long anybody may keep what follows from the catalogue; a price is at most this old."""

TIERS_S = 300
BADGE_S = 3600
TEXT = "text/plain; charset=utf-8"


def routes(parts: Parts) -> Blueprint:
    """Models, prices, tiers, configuration, documents for machines, badges, health."""
    blueprint = Blueprint("discovery", __name__)
    _models(blueprint, parts)
    _recommendations(blueprint, parts)
    _prices(blueprint, parts)
    _configuration(blueprint, parts)
    _documents(blueprint, parts)
    _health(blueprint, parts)
    return blueprint


def _models(blueprint: Blueprint, parts: Parts) -> None:
    catalogue = parts.catalogue

    @blueprint.get("/v1/models")
    @anyone(
        "listModels",
        Tag.MODELS,
        "List all models",
        "ModelList",
        "Returns all available models with pricing, capabilities, context windows, and "
        "recommendations. Filters may be combined.",
        query=FILTERS,
    )
    async def models() -> Response:
        here = served(catalogue)
        found = select(here, from_query(request.args))
        ids = {model.id for model in here}
        aliases = {name: id for name, id in catalogue.aliases.items() if id in ids}
        return await public_json(list_json(found, aliases), CATALOGUE_S)

    @blueprint.get("/v1/models/<path:model_id>")
    @anyone(
        "getModel",
        Tag.MODELS,
        "Get one model",
        "Model",
        "By id or alias.",
        errors=(Code.MODEL_NOT_FOUND,),
        path={"model_id": text("An id or an alias.", examples=["qwen-3.6-plus", "best"])},
    )
    async def model(model_id: str) -> Response:
        found, _ = catalogue.find(model_id)
        return await public_json(model_json(found), CATALOGUE_S)


def _recommendations(blueprint: Blueprint, parts: Parts) -> None:
    @blueprint.get("/v1/models/recommend")
    @anyone(
        "recommendModel",
        Tag.MODELS,
        "Get model recommendation",
        "Recommendation",
        "Get a model recommendation by use case or specific agent, among the models served "
        "here, with a configuration to copy.",
        errors=(Code.MODEL_NOT_FOUND,),
        query=WISH,
    )
    async def recommended() -> Response:
        wish = wish_of(request.args)
        chosen = recommend(parts.catalogue, wish.use, for_agent=wish.agent is not None)
        body = recommendation_json(wish, chosen, parts.public.base_url)
        return await public_json(body, CATALOGUE_S)


def _prices(blueprint: Blueprint, parts: Parts) -> None:
    @blueprint.get("/v1/pricing")
    @anyone("getPricingCatalog", Tag.DISCOVERY, "Every price, one entry per SKU", "Pricing")
    async def pricing() -> Response:
        return await public_json(pricing_json(served(parts.catalogue)), CATALOGUE_S)

    @blueprint.get("/v1/credits/pricing")
    @anyone(
        "getPricing",
        Tag.DISCOVERY,
        "Model pricing table",
        "CreditsPricing",
        "Returns per-model token pricing (input_per_1m, output_per_1m). GET /v1/pricing is "
        "complete.",
    )
    async def credits_pricing() -> Response:
        return await public_json(credits_pricing_json(served(parts.catalogue)), CATALOGUE_S)

    @blueprint.get("/v1/limits/tiers")
    @anyone("getTiers", Tag.DISCOVERY, "The limits of every tier", "TierMatrix")
    async def tiers() -> Response:
        return await public_json(tiers_json(), TIERS_S)


def _configuration(blueprint: Blueprint, parts: Parts) -> None:
    @blueprint.get("/v1/config")
    @anyone(
        "getConfig",
        Tag.DISCOVERY,
        "Agent auto-configuration",
        "Config",
        "Returns full auto-configuration for AI agents: base_url, format, streaming, default "
        "model, recommended models, full model list, endpoints and links.",
    )
    async def config() -> Response:
        body = config_json(parts.catalogue, parts.public.base_url, _paths())
        return await public_json(body, CATALOGUE_S)

    @blueprint.get("/v1/capabilities")
    @anyone(
        "getCapabilities",
        Tag.DISCOVERY,
        "Gateway capabilities",
        "Capabilities",
        "Returns AI-readable summary of gateway capabilities: limits, model count, reliability "
        "info, compatibility flags, pricing model.",
    )
    async def capabilities() -> Response:
        body = capabilities_json(parts.catalogue, _paths(), parts.limits.body_bytes)
        return await public_json(body, CATALOGUE_S)


def _documents(blueprint: Blueprint, parts: Parts) -> None:
    started_at = parts.clock.now()

    @blueprint.get("/llms.txt")
    @anyone(
        "getLlmsText",
        Tag.DISCOVERY,
        "This service described for machines",
        Answer(text(), media="text/plain"),
    )
    async def llms() -> Response:
        body = llms_text(parts.catalogue, parts.public.base_url, _paths())
        return await public(Response(body, content_type=TEXT), CATALOGUE_S)

    @blueprint.get("/registry/image-models.json")
    @anyone("getImageRegistry", Tag.DISCOVERY, "Image models", "ImageRegistry")
    async def registry() -> Response:
        return await public_json(registry_json(started_at), TIERS_S)

    @blueprint.get("/api/badge/models.json")
    @anyone("getModelsBadge", Tag.DISCOVERY, "Badge: how many models", "Badge")
    async def models_badge() -> Response:
        return await public_json(badges(parts.catalogue)["models"], BADGE_S)

    @blueprint.get("/api/badge/creators.json")
    @anyone("getCreatorsBadge", Tag.DISCOVERY, "Badge: how many model creators", "Badge")
    async def creators_badge() -> Response:
        return await public_json(badges(parts.catalogue)["creators"], BADGE_S)

    @blueprint.get("/api/badge/free-credit.json")
    @anyone("getCreditBadge", Tag.DISCOVERY, "Badge: credit on sign-up", "Badge")
    async def credit_badge() -> Response:
        return await public_json(badges(parts.catalogue)["free-credit"], BADGE_S)


def _health(blueprint: Blueprint, parts: Parts) -> None:
    @blueprint.get("/healthz")
    @anyone(
        "getHealth", Tag.HEALTH, "Whether this process is alive", "Alive", counts_strangers=False
    )
    async def alive() -> Response:
        return _json({"status": "ok"})

    @blueprint.get("/readyz")
    @anyone(
        "getReadiness",
        Tag.HEALTH,
        "Whether this process can serve",
        "Ready",
        errors=(Code.STORAGE_UNAVAILABLE,),
        counts_strangers=False,
    )
    async def ready() -> Response:
        try:
            await parts.ready()
        except Exception as error:
            raise Refusal(
                Code.STORAGE_UNAVAILABLE, f"Not ready: {type(error).__name__}.", retry_after_s=1
            ) from error
        return _json({"status": "ready"})


def _paths() -> dict[str, str]:
    """The endpoints of this application, as its own routes have them."""
    return paths_here(rule.rule for rule in current_app.url_map.iter_rules())


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), content_type="application/json")
