"""A row of the catalogue, and the catalogue as a customer can use it here."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from kyma.calls import Dialect
from kyma.errors import Code, Refusal
from kyma.pricing import PerToken
from kyma.routing import Route

CHAT = "chat"
EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class Model:
    """What a customer asks for by id, as the creator publishes it, with our price and routes.

    `routes` serve this very model: layer 0 is first choice, layer 1 the same model
    elsewhere. `siblings` (same family, other version) and `substitutes` (equal quality)
    name the models whose routes become layers 2 and 3. `context_window` and
    `max_output_tokens` are tokens; `created` is when it joined the catalogue, in Unix
    seconds. `sampling` is false where the creator refuses `temperature` and `top_p`. `embeds`
    is set where it makes vectors, or may do so: of a local server's models we do not know.
    """

    id: str
    name: str
    description: str
    owned_by: str
    family: str
    price: PerToken
    context_window: int
    max_output_tokens: int
    routes: tuple[Route, ...]
    siblings: tuple[str, ...] = ()
    substitutes: tuple[str, ...] = ()
    best_for: str = ""
    recommended_for: tuple[str, ...] = ()
    recommended: bool = False
    hot: bool = False
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    capability: str = CHAT
    embeds: bool = False
    created: int = 0
    sampling: bool = True
    tools: bool = True
    reasoning: bool = False
    structured_outputs: bool = True
    caching: bool = True
    speed_grade: str = "medium"
    cost_grade: str = "balanced"
    quality_grade: str = "strong"
    release_stage: str = "stable"

    def speaks(self, dialect: Dialect) -> bool:
        """Whether it can be asked in a dialect at all."""
        return self.embeds if dialect is Dialect.EMBEDDINGS else self.capability == CHAT

    @property
    def vision(self) -> bool:
        """Whether it sees images."""
        return "image" in self.input_modalities

    @property
    def hears(self) -> bool:
        """Whether a sound may be put to it: it is sold one, or costs nothing, as a local one does.

        A provider bills a sound's tokens at a price of their own; no row has one yet.
        """
        return "audio" in self.input_modalities or self.price.dearest_input == 0

    @property
    def grade(self) -> str:
        """The picker's top level, `tier` in JSON (changelog, May 1 2026)."""
        if self.quality_grade == "frontier-open":
            return "quality"
        return "cheap" if self.cost_grade == "cheap" else "fast"


NAME_SHOWN = 100
"""Characters of an unknown name that its refusal repeats."""


class Catalogue:
    """The models that can be served with the providers enabled here.

    Layers are worked out once, at construction. A substitute never costs the customer
    more than the model asked for: dearer ones are left out of the layers.
    """

    def __init__(
        self,
        models: Iterable[Model],
        aliases: Mapping[str, str],
        providers: Collection[str],
        *,
        stand_ins: tuple[str, ...] = (),
    ) -> None:
        """`providers` are the enabled ones; each of `stand_ins` (the sandbox) serves all models."""
        rows = [self._with_stand_ins(model, stand_ins) for model in models]
        enabled = {*providers, *stand_ins}
        self._models = {
            model.id: replace(
                model, routes=tuple(route for route in model.routes if route.provider in enabled)
            )
            for model in rows
        }
        self._aliases = dict(aliases)
        self._routes = {id: self._layers(model) for id, model in self._models.items()}
        self.price_version = self._version()

    @staticmethod
    def _with_stand_ins(model: Model, stand_ins: tuple[str, ...]) -> Model:
        extra = tuple(
            Route(provider, model.id, model.id, model.price, layer=min(place, 1))
            for place, provider in enumerate(stand_ins)
        )
        return replace(model, routes=model.routes + extra)

    def _layers(self, model: Model) -> tuple[Route, ...]:
        routes = list(model.routes)
        for layer, names in ((2, model.siblings), (3, model.substitutes)):
            for name in names:
                other = self._models.get(name)
                if other is None or not _serves_instead(other, model):
                    continue
                routes += [replace(route, layer=layer) for route in other.routes]
        return tuple(routes)

    def _version(self) -> str:
        prices = repr(sorted((model.id, model.price) for model in self._models.values()))
        return hashlib.sha256(prices.encode()).hexdigest()[:16]

    @property
    def aliases(self) -> Mapping[str, str]:
        """Alias → model id, those whose model is known here."""
        return {alias: id for alias, id in self._aliases.items() if id in self._models}

    def models(self) -> list[Model]:
        """Every model, in catalogue order, served here or not."""
        return list(self._models.values())

    def find(self, name: str) -> tuple[Model, str | None]:
        """The model an id or alias names, and the alias if it was one; refuses unknown names."""
        model = self._models.get(name)
        if model is not None:
            return model, None
        target = self._aliases.get(name)
        if target is not None and target in self._models:
            return self._models[target], name
        raise Refusal(
            Code.MODEL_NOT_FOUND,
            f"The model {name[:NAME_SHOWN]!r} does not exist here. GET /v1/models lists what does.",
            param="model",
        )

    def get(self, id: str) -> Model:
        """The model with this id; a missing one is a mistake of ours."""
        return self._models[id]

    def routes(self, model: Model) -> tuple[Route, ...]:
        """Every way to serve `model`, all layers, in no particular order within one."""
        return self._routes[model.id]


def _serves_instead(other: Model, model: Model) -> bool:
    """Whether `other` can do all that `model` can, at no higher price."""
    return (
        set(model.input_modalities) <= set(other.input_modalities)
        and (other.tools or not model.tools)
        and other.price.input <= model.price.input
        and other.price.output <= model.price.output
    )
