"""Every query parameter of `GET /v1/models`, and what it refuses."""

import pytest

from kyma.catalog.filters import Filters, from_query, select
from kyma.catalog.text import TEXT_MODELS
from kyma.errors import Code, Refusal
from kyma.money import usd


def chosen(**query):
    return {model.id for model in select(TEXT_MODELS, from_query(query))}


def ids(wanted):
    return {model.id for model in TEXT_MODELS if wanted(model)}


def test_no_filter_keeps_every_model_in_order():
    assert select(TEXT_MODELS, Filters()) == list(TEXT_MODELS)
    assert from_query({}) == from_query({"tools": "", "limit": "5"}) == Filters()


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"tools": "true"}, lambda model: model.tools),
        ({"tools": "false"}, lambda model: not model.tools),
        ({"vision": "true"}, lambda model: "image" in model.input_modalities),
        ({"vision": "FALSE"}, lambda model: "image" not in model.input_modalities),
        ({"reasoning": "1"}, lambda model: model.reasoning),
        ({"reasoning": "0"}, lambda model: not model.reasoning),
        ({"structured_outputs": "true"}, lambda model: model.structured_outputs),
        ({"structured_outputs": "false"}, lambda model: not model.structured_outputs),
        ({"latency_tier": "slow"}, lambda model: model.speed_grade == "slow"),
        ({"cost_tier": "cheap"}, lambda model: model.cost_grade == "cheap"),
        ({"quality_tier": "frontier-open"}, lambda model: model.quality_grade == "frontier-open"),
        ({"tier": "quality"}, lambda model: model.grade == "quality"),
        ({"capability": "chat"}, lambda model: True),
        ({"capability": "vector"}, lambda model: False),
        ({"capability": "video"}, lambda model: False),
        ({"min_context_window": "1000000"}, lambda model: model.context_window >= 1_000_000),
        ({"max_input_price": "0.19"}, lambda model: model.price.input <= usd("0.19")),
        ({"max_input_price": "0"}, lambda model: False),
        ({"recommended_for": "math"}, lambda model: "math" in model.recommended_for),
        (
            {"recommended_for": "math, vision,"},
            lambda model: {"math", "vision"} & {*model.recommended_for},
        ),
        ({"vision": "true", "cost_tier": "cheap"}, lambda model: model.id == "gemma-4-31b"),
    ],
)
def test_a_filter_keeps_the_models_that_meet_it(query, wanted):
    assert chosen(**query) == ids(wanted)


def test_a_price_is_compared_exactly():
    assert "gemma-4-31b" in chosen(max_input_price="0.19")
    assert "gemma-4-31b" not in chosen(max_input_price="0.189999999")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", "yes"),
        ("vision", "2"),
        ("reasoning", "none"),
        ("structured_outputs", "null"),
        ("latency_tier", "quick"),
        ("cost_tier", "free"),
        ("quality_tier", "frontier"),
        ("tier", "Quality"),
        ("capability", "zz"),
        ("capability", "Chat"),
        ("recommended_for", "coding,poetry"),
        ("min_context_window", "-1"),
        ("min_context_window", "128k"),
        ("min_context_window", "1e6"),
        ("min_context_window", "9" * 13),
        ("max_input_price", "-0.1"),
        ("max_input_price", "NaN"),
        ("max_input_price", "Infinity"),
        ("max_input_price", "1e999999"),
        ("max_input_price", "0.0000000001"),
        ("max_input_price", "cheap"),
        ("max_input_price", "1_0"),
    ],
)
def test_a_bad_value_is_refused_and_its_parameter_named(name, value):
    with pytest.raises(Refusal) as caught:
        from_query({name: value})
    assert caught.value.code is Code.INVALID_VALUE
    assert caught.value.param == name


def test_an_unknown_capability_is_told_the_known_ones():
    with pytest.raises(Refusal, match="chat, embedding, image") as caught:
        from_query({"capability": "zz"})
    assert "'zz'" in caught.value.message
