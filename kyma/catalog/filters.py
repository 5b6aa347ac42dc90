"""Which models a `GET /v1/models` query asks for: parsing and selection, nothing of HTTP.

The parameters are those of the published OpenAPI document, and `tier` and `capability` of
the changelog of May 1 2026. Unknown parameters are ignored, bad values are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from kyma.catalog.model import Model
from kyma.errors import Code, Refusal
from kyma.money import Usd, usd

USES = (
    *("general", "coding", "reasoning", "agent", "vision", "fast", "cheap", "long-context"),
    *("math", "multilingual", "balanced", "value", "writing", "bulk"),
)
SPEEDS = ("fast", "medium", "slow")
COSTS = ("cheap", "balanced", "premium")
QUALITIES = ("efficient", "strong", "frontier-open")
GRADES = ("quality", "fast", "cheap")
CAPABILITIES = (
    *("chat", "embedding", "image", "vector", "video", "speech", "music", "sfx", "stt"),
    "audio-understand",
)
"""What a model may do: of text what is served here, of media the changelog of May 1 2026."""

MAX_PRICE_USD = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Filters:
    """What a model must be; `None` and the empty set ask for nothing."""

    recommended_for: frozenset[str] = frozenset()
    tools: bool | None = None
    vision: bool | None = None
    reasoning: bool | None = None
    structured_outputs: bool | None = None
    latency_tier: str | None = None
    cost_tier: str | None = None
    quality_tier: str | None = None
    tier: str | None = None
    capability: str | None = None
    min_context_window: int | None = None
    max_input_price: Usd | None = None


def select(models: Iterable[Model], filters: Filters) -> list[Model]:
    """The models that meet every filter, in their order. Of several uses, one is enough."""
    return [model for model in models if _meets(model, filters)]


def _meets(model: Model, filters: Filters) -> bool:
    wanted: tuple[tuple[object, object], ...] = (
        (filters.tools, model.tools),
        (filters.vision, model.vision),
        (filters.reasoning, model.reasoning),
        (filters.structured_outputs, model.structured_outputs),
        (filters.latency_tier, model.speed_grade),
        (filters.cost_tier, model.cost_grade),
        (filters.quality_tier, model.quality_grade),
        (filters.tier, model.grade),
        (filters.capability, model.capability),
    )
    return (
        all(want is None or want == has for want, has in wanted)
        and (
            not filters.recommended_for
            or not filters.recommended_for.isdisjoint(model.recommended_for)
        )
        and model.context_window >= (filters.min_context_window or 0)
        and (filters.max_input_price is None or model.price.input <= filters.max_input_price)
    )


def from_query(query: Mapping[str, str]) -> Filters:
    """Filters of a query string's parameters; an empty value is as good as none."""
    given = {name: value.strip() for name, value in query.items() if value.strip()}
    return Filters(
        recommended_for=_uses(given.get("recommended_for")),
        tools=_flag(given, "tools"),
        vision=_flag(given, "vision"),
        reasoning=_flag(given, "reasoning"),
        structured_outputs=_flag(given, "structured_outputs"),
        latency_tier=_choice(given, "latency_tier", SPEEDS),
        cost_tier=_choice(given, "cost_tier", COSTS),
        quality_tier=_choice(given, "quality_tier", QUALITIES),
        tier=_choice(given, "tier", GRADES),
        capability=_choice(given, "capability", CAPABILITIES),
        min_context_window=_tokens(given, "min_context_window"),
        max_input_price=_price(given, "max_input_price"),
    )


def _refuse(name: str, value: str, expected: str) -> Refusal:
    return Refusal(
        Code.INVALID_VALUE, f"{name} must be {expected}, not {value[:80]!r}.", param=name
    )


def _uses(value: str | None) -> frozenset[str]:
    uses = frozenset(use.strip() for use in (value or "").split(",") if use.strip())
    for use in sorted(uses.difference(USES)):
        raise _refuse("recommended_for", use, f"among {', '.join(USES)}")
    return uses


def _flag(given: Mapping[str, str], name: str) -> bool | None:
    value = given.get(name)
    if value is None:
        return None
    known = {"true": True, "1": True, "false": False, "0": False}
    if value.lower() not in known:
        raise _refuse(name, value, "true or false")
    return known[value.lower()]


def _choice(given: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str | None:
    value = given.get(name)
    if value is not None and value not in choices:
        raise _refuse(name, value, f"one of {', '.join(choices)}")
    return value


def _tokens(given: Mapping[str, str], name: str) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 12):
        raise _refuse(name, value, "a whole number of tokens")
    return int(value)


def _price(given: Mapping[str, str], name: str) -> Usd | None:
    """Dollars per million tokens, to the nano-dollar."""
    value = given.get(name)
    if value is None:
        return None
    try:
        amount = Decimal(value if "_" not in value else "NaN")
        if not 0 <= amount <= MAX_PRICE_USD:
            raise _refuse(name, value, "a price in USD, 0 or more")
        return usd(value)
    except (InvalidOperation, ValueError) as error:
        raise _refuse(name, value, "a price in USD with at most nine decimals") from error
