"""Public figures and live checks: uptime, rankings, status. All remembered for a short while."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from quart import Blueprint, Response, request

from adapters.http.caching import Remembered, public_json
from adapters.http.contract import Tag
from adapters.http.figures_view import (
    Checked,
    Figures,
    cache_json,
    rankings_json,
    status_json,
    uptime_json,
)
from adapters.http.public import anyone
from adapters.http.schemas.discovery import RANKING_TABS
from adapters.http.schemas.shapes import text
from kyma.catalog.recommend import served
from kyma.errors import Code, Refusal
from kyma.ports.storage import StorageUnavailable
from kyma.traffic import window_of

if TYPE_CHECKING:
    from adapters.http.app import Parts

FIGURES_TTL_S = 60.0
FIGURES_STALE_S = 3600.0
"""How long the last figures still stand in for new ones while the database is away."""

STATUS_TTL_S = 5.0
CHECK_TIMEOUT_S = 1.5


def routes(parts: Parts) -> Blueprint:
    """/v1/models/uptime, /v1/rankings and /v1/status."""
    blueprint = Blueprint("figures", __name__)
    figures = Remembered(
        lambda: measured(parts), FIGURES_TTL_S, FIGURES_STALE_S, parts.clock.monotonic
    )

    @blueprint.get("/v1/models/uptime")
    @anyone(
        "getUptime",
        Tag.DISCOVERY,
        "Model uptime statistics",
        "Uptime",
        "Per-model uptime over 7 days, from real requests and from probes of the providers; "
        "null where nothing was measured.",
        errors=(Code.STORAGE_UNAVAILABLE,),
    )
    async def uptime() -> Response:
        found = await figures.get()
        models = served(parts.catalogue)
        return await public_json(uptime_json(parts.catalogue, models, found), 60)

    @blueprint.get("/v1/rankings")
    @anyone(
        "getRankings",
        Tag.DISCOVERY,
        "Models by tokens, and prompt cache statistics",
        "Rankings",
        "Over 7 days, from usage records. No customer is named.",
        errors=(Code.STORAGE_UNAVAILABLE,),
        query={"tab": text("What to rank by.", enum=[*RANKING_TABS])},
    )
    async def rankings() -> Response:
        tab = ranking_tab(request.args.get("tab", ""))
        found = await figures.get()
        view = cache_json if tab == "cache" else rankings_json
        return await public_json(view(parts.catalogue, found), 60)

    _status(blueprint, parts)
    return blueprint


def _status(blueprint: Blueprint, parts: Parts) -> None:
    checks = Remembered(lambda: checked(parts), STATUS_TTL_S, 0.0, parts.clock.monotonic)

    @blueprint.get("/v1/status")
    @anyone(
        "getStatus",
        Tag.DISCOVERY,
        "Service status",
        "Status",
        "Returns current service status, from live checks that are at most five seconds old. "
        "Always 200: `status` says how it is.",
    )
    async def status() -> Response:
        found = await checks.get()
        return await public_json(
            status_json(parts.catalogue, served(parts.catalogue), found), int(STATUS_TTL_S)
        )


def ranking_tab(value: str) -> str:
    """The tab that was asked for; refuses unknown ones."""
    tab = value.strip() or RANKING_TABS[0]
    if tab not in RANKING_TABS:
        raise Refusal(
            Code.INVALID_VALUE,
            f"tab must be one of {', '.join(RANKING_TABS)}, not {tab[:80]!r}.",
            param="tab",
        )
    return tab


async def measured(parts: Parts) -> Figures:
    """Traffic and probes of the last seven days."""
    now = parts.clock.now()
    since = window_of(now)
    traffic = await parts.reports.traffic(since)
    return Figures(since, now, traffic, await parts.public.probes.counts(since))


async def checked(parts: Parts) -> Checked:
    """Every part asked at once."""
    names = list(parts.public.checks)
    answers = await asyncio.gather(
        _database(parts), *(parts.public.checks[name]() for name in names)
    )
    found = dict(zip(["database", *names], answers, strict=True))
    return Checked(parts.clock.now(), found, dict(parts.public.board.view()))


async def _database(parts: Parts) -> bool:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await parts.ready()
    except (StorageUnavailable, OSError, TimeoutError):
        return False
    return True
