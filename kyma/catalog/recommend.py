"""Which model to take for a use or an agent, among those that can be served here.

The names are those of the published OpenAPI document; the first choice of a use is the
target of its alias (docs page faq: which model should I use), and where that one is not
served, the model whose row says that it is made for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from kyma.catalog.model import CHAT, Catalogue, Model
from kyma.errors import Code, Refusal

AGENT_WINDOW = 65_536
"""Tokens an agent's conversation needs at least: its instructions and tools alone take 20,000."""

LONG_WINDOW = 200_000
ALTERNATIVES = 4
QUALITY = {"frontier-open": 0, "strong": 1, "efficient": 2}
SPEED = {"fast": 0, "medium": 1, "slow": 2}

Rank = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Use:
    """A use case: the alias that names its first choice, who can do it, who does it best.

    The least `rank` is best, after those whose row recommends them for it.
    """

    name: str
    alias: str
    why: str
    fits: Callable[[Model], bool]
    rank: Callable[[Model], Rank]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to take: `model` first, `light` for the small work that agents do on the side."""

    use: Use
    model: Model
    light: Model
    alternatives: tuple[Model, ...]


def _price(model: Model) -> int:
    return model.price.input + model.price.output


def _best(model: Model) -> Rank:
    return (QUALITY[model.quality_grade], not model.recommended, not model.hot, _price(model))


def _quick(model: Model) -> Rank:
    return (SPEED[model.speed_grade], _price(model))


def _writes(model: Model) -> bool:
    return model.capability == CHAT


def _works(model: Model) -> bool:
    """Whether an agent can work with it."""
    return _writes(model) and model.tools and model.context_window >= AGENT_WINDOW


USES = {
    use.name: use
    for use in (
        Use("coding", "code", "is made for writing and mending code", _works, _best),
        Use("reasoning", "reasoning", "thinks before it answers", lambda m: m.reasoning, _best),
        Use("general", "best", "is the safest default", _writes, _best),
        Use("agent", "agent", "is made for work with tools over many turns", _works, _best),
        Use("vision", "vision", "sees images", lambda m: m.vision, _best),
        Use(
            "long-context",
            "long-context",
            "takes very long prompts",
            lambda m: m.context_window >= LONG_WINDOW,
            lambda m: (-m.context_window, _price(m)),
        ),
        Use("cheap", "cheap", "costs little and stays quick", _writes, lambda m: (_price(m),)),
        Use("fast", "fast", "answers quickly", _writes, _quick),
    )
}

AGENTS = {
    "cline": "agent",
    "roo-code": "agent",
    "openclaw": "agent",
    "claude-code": "agent",
    "aider": "coding",
    "opencode": "agent",
    "cursor": "coding",
    "kilo-code": "agent",
}
"""Each agent that has a ready configuration, and the use it is recommended for by itself."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a query asks for; `agent` is None where none was named."""

    agent: str | None
    use: Use


def from_query(query: Mapping[str, str]) -> Wish:
    """The wish of a query's `agent`, `usecase` or `for`; refuses names it does not know."""
    agent = _known(query, "agent", AGENTS)
    usecase, alias = _known(query, "usecase", USES), _known(query, "for", USES)
    if usecase and alias and usecase != alias:
        raise Refusal(
            Code.INVALID_VALUE,
            "`for` is another name of `usecase`: send one of them, or the same value in both.",
            param="for",
        )
    default = AGENTS[agent] if agent else "general"
    return Wish(agent, USES[usecase or alias or default])


def _known(query: Mapping[str, str], name: str, known: Iterable[str]) -> str | None:
    value = query.get(name, "").strip().lower()
    if value and value not in known:
        raise Refusal(
            Code.INVALID_VALUE,
            f"{name} must be one of {', '.join(known)}, not {value[:80]!r}.",
            param=name,
        )
    return value or None


def served(catalogue: Catalogue) -> list[Model]:
    """The models that some enabled provider serves, in catalogue order."""
    return [model for model in catalogue.models() if catalogue.routes(model)]


def recommend(catalogue: Catalogue, use: Use, *, for_agent: bool = False) -> Recommendation:
    """The best models for a use; `for_agent` asks that they can also work as one.

    Refuses with MODEL_NOT_FOUND if nothing that is served here fits.
    """
    able = [
        model
        for model in served(catalogue)
        if _writes(model) and use.fits(model) and (_works(model) or not for_agent)
    ]
    if not able:
        raise Refusal(
            Code.MODEL_NOT_FOUND,
            f"No model that is served here suits {use.name!r}. GET /v1/models lists what is.",
            param="usecase",
        )
    first_choice = catalogue.aliases.get(use.alias)
    able.sort(key=lambda m: (m.id != first_choice, use.name not in m.recommended_for, *use.rank(m)))
    helpers = [model for model in served(catalogue) if _works(model)]
    light = min(helpers or able, key=_price)
    return Recommendation(use, able[0], light, tuple(able[1 : 1 + ALTERNATIVES]))
