"""Which model is recommended: of those served here, the one that the use is about."""

from __future__ import annotations

import pytest

from kyma.catalog.model import Catalogue
from kyma.catalog.recommend import (
    AGENT_WINDOW,
    AGENTS,
    ALTERNATIVES,
    LONG_WINDOW,
    USES,
    from_query,
    recommend,
    served,
)
from kyma.catalog.text import ALIASES, TEXT_MODELS
from kyma.errors import Code, Refusal

EVERYTHING = Catalogue(TEXT_MODELS, ALIASES, [], stand_ins=("sandbox",))
NOTHING = Catalogue(TEXT_MODELS, ALIASES, [])
PUBLISHED_AGENTS = {
    *("cline", "roo-code", "openclaw", "claude-code"),
    *("aider", "opencode", "cursor", "kilo-code"),
}
PUBLISHED_USES = {
    *("coding", "reasoning", "general", "agent"),
    *("vision", "long-context", "cheap", "fast"),
}


def with_providers(*names: str) -> Catalogue:
    return Catalogue(TEXT_MODELS, ALIASES, names)


def refusal_of(query: dict[str, str]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        from_query(query)
    return caught.value


def test_the_published_names_are_known_and_no_others() -> None:
    assert set(AGENTS) == PUBLISHED_AGENTS
    assert set(USES) == PUBLISHED_USES
    assert set(AGENTS.values()) <= PUBLISHED_USES
    assert {use.alias for use in USES.values()} <= set(ALIASES)


@pytest.mark.parametrize("name", sorted(PUBLISHED_USES))
def test_the_first_choice_of_a_use_is_what_its_alias_stands_for(name: str) -> None:
    use = USES[name]
    assert recommend(EVERYTHING, use).model.id == ALIASES[use.alias]


@pytest.mark.parametrize("name", sorted(PUBLISHED_USES))
def test_alternatives_suit_the_use_and_never_repeat_the_choice(name: str) -> None:
    found = recommend(EVERYTHING, USES[name])
    assert len(found.alternatives) == ALTERNATIVES
    ids = [model.id for model in (found.model, *found.alternatives)]
    assert len(set(ids)) == len(ids)
    assert all(USES[name].fits(model) for model in found.alternatives)


@pytest.mark.parametrize("provider", ["groq", "google", "anthropic", "deepseek", "moonshot"])
@pytest.mark.parametrize("name", ["general", "cheap", "fast"])
def test_only_what_is_served_here_is_recommended(name: str, provider: str) -> None:
    catalogue = with_providers(provider)
    here = {model.id for model in served(catalogue)}
    assert 0 < len(here) < len(TEXT_MODELS)
    found = recommend(catalogue, USES[name])
    named = {found.model.id, found.light.id, *(model.id for model in found.alternatives)}
    assert named <= here


def test_without_the_first_choice_the_model_made_for_the_use_is_next() -> None:
    found = recommend(with_providers("anthropic"), USES["coding"])
    assert found.model.owned_by == "Anthropic"
    assert "coding" in found.model.recommended_for


def test_an_agent_gets_tools_and_a_window_it_can_work_in() -> None:
    found = recommend(EVERYTHING, USES["fast"], for_agent=True)
    models = (found.model, found.light, *found.alternatives)
    assert all(model.tools and model.context_window >= AGENT_WINDOW for model in models)
    assert found.model.id != recommend(EVERYTHING, USES["fast"]).model.id


def test_a_long_context_is_long() -> None:
    found = recommend(EVERYTHING, USES["long-context"])
    assert min(m.context_window for m in (found.model, *found.alternatives)) >= LONG_WINDOW


def test_a_model_that_does_not_see_is_no_choice_for_vision() -> None:
    found = recommend(EVERYTHING, USES["vision"])
    assert all(model.vision for model in (found.model, *found.alternatives))
    with pytest.raises(Refusal) as caught:
        recommend(with_providers("deepseek"), USES["vision"])
    assert caught.value.code is Code.MODEL_NOT_FOUND


@pytest.mark.parametrize("name", sorted(PUBLISHED_USES))
def test_where_nothing_is_served_nothing_is_recommended(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        recommend(NOTHING, USES[name])
    assert caught.value.code is Code.MODEL_NOT_FOUND


def test_a_query_without_a_wish_is_about_general_use() -> None:
    wish = from_query({})
    assert (wish.agent, wish.use.name) == (None, "general")
    assert from_query({"agent": " ", "usecase": ""}) == wish


def test_for_is_another_name_of_usecase() -> None:
    assert from_query({"for": "vision"}) == from_query({"usecase": "vision"})
    assert from_query({"for": "vision", "usecase": "VISION "}) == from_query({"for": "vision"})
    refusal = refusal_of({"for": "vision", "usecase": "coding"})
    assert (refusal.code, refusal.param) == (Code.INVALID_VALUE, "for")


def test_an_agent_brings_its_own_use_unless_one_is_named() -> None:
    assert from_query({"agent": "aider"}).use.name == AGENTS["aider"]
    assert from_query({"agent": "aider", "for": "cheap"}).use.name == "cheap"


@pytest.mark.parametrize("name", ["agent", "usecase", "for"])
def test_an_unknown_name_is_refused_with_the_allowed_ones(name: str) -> None:
    refusal = refusal_of({name: "everything-at-once"})
    assert (refusal.code, refusal.param) == (Code.INVALID_VALUE, name)
    allowed = PUBLISHED_AGENTS if name == "agent" else PUBLISHED_USES
    assert all(known in refusal.message for known in allowed)
