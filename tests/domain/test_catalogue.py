"""The text catalogue as published: prices, windows, routes and stand-ins."""

from dataclasses import replace
from itertools import pairwise

import pytest

from kyma.catalog.filters import COSTS, GRADES, QUALITIES, SPEEDS, USES
from kyma.catalog.model import Catalogue
from kyma.catalog.text import ALIASES, TEXT_MODELS, cost_of
from kyma.errors import Code, Refusal
from kyma.money import MARKUP_PERCENT, usd
from kyma.pricing import per_token

PROVIDERS = {route.provider for model in TEXT_MODELS for route in model.routes}
CATALOGUE = Catalogue(TEXT_MODELS, ALIASES, PROVIDERS)
BY_ID = {model.id: model for model in TEXT_MODELS}
QUALITY = {name: rank for rank, name in enumerate(QUALITIES)}

PUBLISHED = {
    "glm-4.7-flash": ("0.08", "0.54", 203_776, 65_536),
    "gemma-4-31b": ("0.19", "0.54", 131_072, 8_192),
    "deepseek-v4-flash": ("0.19", "0.38", 1_048_576, 65_536),
    "gpt-oss-120b": ("0.20", "0.81", 131_072, 8_192),
    "glm-4.5-air": ("0.18", "1.15", 131_072, 8_192),
    "qwen-3-32b": ("0.39", "0.81", 32_768, 8_192),
    "minimax-m2.5": ("0.41", "1.62", 196_608, 32_768),
    "minimax-m2.7": ("0.41", "1.62", 204_800, 32_768),
    "deepseek-v3": ("0.81", "2.30", 163_840, 8_192),
    "llama-3.3-70b": ("1.19", "1.19", 131_072, 8_192),
    "qwen-3-coder": ("0.68", "2.16", 131_072, 32_768),
    "deepseek-r1": ("0.68", "2.90", 65_536, 32_768),
    "kimi-k2.6": ("1.28", "5.40", 262_144, 32_768),
    "kimi-k2.5": ("0.68", "3.78", 262_144, 32_768),
    "qwen-3.6-plus": ("0.68", "4.05", 131_072, 32_768),
    "deepseek-v4-pro": ("2.35", "4.70", 1_048_576, 65_536),
    "claude-opus-4-7": ("6.75", "33.75", 1_000_000, 128_000),
    "claude-sonnet-4-6": ("4.05", "20.25", 1_000_000, 128_000),
    "claude-haiku-4-5": ("1.35", "6.75", 200_000, 64_000),
    "gemini-2.5-flash": ("0.41", "3.38", 1_048_576, 8_192),
    "gemini-3-flash": ("0.68", "4.05", 1_048_576, 8_192),
    "glm-5.1": ("1.89", "5.94", 203_776, 65_536),
}

SEES = ("text", "image")
FILMS = ("text", "image", "video")
"""Published with `audio` too, which no price of theirs covers (`docs/known-limits.md`)."""

MODALITIES = {
    "gemma-4-31b": SEES,
    "kimi-k2.5": SEES,
    "kimi-k2.6": SEES,
    "claude-opus-4-7": SEES,
    "claude-sonnet-4-6": SEES,
    "claude-haiku-4-5": SEES,
    "gemini-2.5-flash": FILMS,
    "gemini-3-flash": FILMS,
}

each_model = pytest.mark.parametrize("model", TEXT_MODELS, ids=lambda model: model.id)


def test_the_catalogue_lists_exactly_the_published_models():
    assert [model.id for model in TEXT_MODELS if model.id not in PUBLISHED] == []
    assert sorted(BY_ID) == sorted(PUBLISHED)
    assert len(TEXT_MODELS) == len(BY_ID)


@each_model
def test_price_and_window_are_the_published_ones(model):
    input, output, window, longest = PUBLISHED[model.id]
    assert (model.price.input, model.price.output) == (usd(input), usd(output))
    assert (model.context_window, model.max_output_tokens) == (window, longest)


@each_model
def test_cached_input_costs_a_tenth_of_input(model):
    assert model.price.cached * 10 == model.price.input


@each_model
def test_a_cache_write_costs_a_quarter_more_for_claude_and_nothing_extra_elsewhere(model):
    quarters = 5 if model.family == "claude" else 4
    assert model.price.cache_write * 4 == model.price.input * quarters


@each_model
def test_a_model_takes_the_published_kinds_of_input(model):
    assert model.input_modalities == MODALITIES.get(model.id, ("text",))


@each_model
def test_every_model_has_tools_and_the_thinking_ones_say_so(model):
    assert model.tools
    plain = {"llama-3.3-70b", "gemma-4-31b", "deepseek-v3"}
    assert model.reasoning == (model.id not in plain)


@each_model
def test_every_route_leaves_the_markup(model):
    for route in model.routes:
        for part in ("input", "output", "cached", "cache_write"):
            cost, price = getattr(route.cost, part), getattr(model.price, part)
            assert cost * MARKUP_PERCENT <= price * 100, route.key


def test_a_cost_is_rounded_down_to_the_nano_dollar():
    assert cost_of(per_token("0.68", "0.41")).input == 503_703_703


@each_model
def test_routes_start_at_first_choice_and_name_their_model_and_no_provider_twice(model):
    assert [route.layer for route in model.routes] == [0] + [1] * (len(model.routes) - 1)
    assert {route.model for route in model.routes} == {model.id}
    assert len({route.provider for route in model.routes}) == len(model.routes)


@each_model
def test_every_model_is_to_be_had_from_two_providers_or_replaced(model):
    assert len(model.routes) >= 2 or model.siblings


@each_model
def test_no_sibling_or_substitute_is_dropped_from_the_layers(model):
    routes = CATALOGUE.routes(model)
    for layer, names in ((2, model.siblings), (3, model.substitutes)):
        served = {route.model for route in routes if route.layer == layer}
        assert served == set(names)


@each_model
def test_siblings_are_family_and_substitutes_are_as_able(model):
    assert {BY_ID[name].family for name in model.siblings} <= {model.family}
    for other in (BY_ID[name] for name in model.substitutes):
        assert other.family != model.family
        assert QUALITY[other.quality_grade] >= QUALITY[model.quality_grade]
        assert other.context_window >= model.context_window
        assert other.reasoning or not model.reasoning


@each_model
def test_grades_and_uses_are_ones_that_can_be_asked_for(model):
    assert model.speed_grade in SPEEDS
    assert model.cost_grade in COSTS
    assert model.quality_grade in QUALITIES
    assert model.grade in GRADES
    assert model.recommended_for
    assert set(model.recommended_for) <= set(USES)
    assert model.created > 0


def test_every_use_is_met_by_some_model():
    assert {use for model in TEXT_MODELS for use in model.recommended_for} == set(USES)


def test_the_documented_recommendations_are_marked():
    assert {model.id for model in TEXT_MODELS if model.recommended} == {
        "qwen-3.6-plus",
        "kimi-k2.6",
        "deepseek-r1",
        "gemini-2.5-flash",
        "gemma-4-31b",
    }


@pytest.mark.parametrize(
    ("alias", "id"),
    [
        ("best", "qwen-3.6-plus"),
        ("fast", "qwen-3-32b"),
        ("code", "kimi-k2.5"),
        ("reasoning", "deepseek-r1"),
        ("agent", "kimi-k2.6"),
        ("vision", "gemma-4-31b"),
        ("cheap", "glm-4.7-flash"),
        ("long-context", "gemini-2.5-flash"),
        ("balanced", "minimax-m2.7"),
    ],
)
def test_an_alias_names_its_model(alias, id):
    model, said = CATALOGUE.find(alias)
    assert (model.id, said) == (id, alias)
    assert CATALOGUE.aliases[alias] == id


def test_the_aliases_keep_what_they_promise():
    cheapest = min(TEXT_MODELS, key=lambda model: model.price.input)
    assert ALIASES["cheap"] == cheapest.id
    assert cheapest.speed_grade == "fast"
    assert BY_ID[ALIASES["long-context"]].context_window == 1_048_576
    assert BY_ID[ALIASES["vision"]].vision
    assert not set(ALIASES) & set(BY_ID)


def test_an_id_is_no_alias():
    assert CATALOGUE.find("deepseek-r1") == (CATALOGUE.get("deepseek-r1"), None)


@pytest.mark.parametrize("name", ["gpt-4o", "", "QWEN-3-32B", "local/llama"])
def test_an_unknown_model_is_refused_by_name(name):
    with pytest.raises(Refusal) as caught:
        CATALOGUE.find(name)
    assert caught.value.code is Code.MODEL_NOT_FOUND
    assert caught.value.param == "model"
    assert repr(name) in caught.value.message


def test_routes_of_providers_without_a_key_are_left_out():
    catalogue = Catalogue(TEXT_MODELS, ALIASES, {"groq"})
    groq = {"qwen-3-32b", "gpt-oss-120b", "llama-3.3-70b"}
    served = {model.id for model in catalogue.models() if model.routes}
    assert served == groq
    llama = catalogue.routes(catalogue.get("llama-3.3-70b"))
    assert [(route.provider, route.layer) for route in llama] == [("groq", 0), ("groq", 3)]


def test_without_any_provider_the_sandbox_serves_everything():
    catalogue = Catalogue(TEXT_MODELS, ALIASES, (), stand_ins=("sandbox", "sandbox-2"))
    for model in catalogue.models():
        assert [(route.provider, route.layer) for route in model.routes] == [
            ("sandbox", 0),
            ("sandbox-2", 1),
        ]


def test_a_changed_price_is_another_price_version():
    dearer = replace(TEXT_MODELS[0], price=per_token("0.69", "4.05"))
    changed = Catalogue((dearer, *TEXT_MODELS[1:]), ALIASES, PROVIDERS)
    again = Catalogue(TEXT_MODELS, ALIASES, ())
    assert changed.price_version != CATALOGUE.price_version == again.price_version


def test_models_were_listed_in_or_after_april_2026():
    dates = sorted({model.created for model in TEXT_MODELS})
    assert dates[0] == 1_775_260_800
    assert all((later - earlier) % 86_400 == 0 for earlier, later in pairwise(dates))
