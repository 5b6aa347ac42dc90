"""How a recommendation looks in `GET /v1/models/recommend`."""

from __future__ import annotations

from typing import Any

from adapters.http.agents_view import Setup, agent_config, sdk_config
from kyma.catalog.model import Model
from kyma.catalog.recommend import AGENTS, USES, Recommendation, Wish


def recommendation_json(wish: Wish, chosen: Recommendation, base_url: str) -> dict[str, Any]:
    """The model, why, what else would do, and a configuration to copy."""
    setup = Setup(base_url, chosen)
    model = chosen.model
    return {
        "object": "recommendation",
        "agent": wish.agent,
        "usecase": chosen.use.name,
        "model": model.id,
        "name": model.name,
        "reason": f"{model.name} {chosen.use.why}. {model.description}",
        "fast_model": chosen.light.id,
        "alternatives": [_alternative(other) for other in chosen.alternatives],
        "base_url": setup.openai_url,
        "config": agent_config(wish.agent, setup) if wish.agent else sdk_config(setup),
        "agents": [*AGENTS],
        "usecases": [*USES],
    }


def _alternative(model: Model) -> dict[str, Any]:
    return {"id": model.id, "name": model.name, "best_for": model.best_for}
