"""Sounds are refused where they would be sold below their cost: in every dialect and wrapping."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from adapters.http.dialects.chat import ChatCompletions
from adapters.http.dialects.messages import Messages
from kyma.catalog.text import TEXT_MODELS
from kyma.errors import Code, Refusal
from kyma.pricing import per_token
from tests.http.on_memory import CREDIT, a_body, a_place
from tests.http.responses_builders import MODEL

SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
TEXT = {"type": "text", "text": "What is this?"}
MP3 = "data:audio/mp3;base64,AAAA"
PACKED: list[dict[str, Any]] = [
    SOUND,
    {"type": "audio_url", "audio_url": {"url": "https://x/a"}},
    {"type": "image_url", "image_url": {"url": MP3}},
    {"type": "image_url", "image_url": MP3.upper()},
    {"type": "video_url", "video_url": {"url": MP3}},
    {"type": "file", "file": {"filename": "a.pdf", "file_data": MP3}},
    {"type": "image_url", "image_url": {"url": f" {MP3}"}},
    {"type": "image_url", "image_url": {"url": "data:application/ogg;base64,AAAA"}},
    {"type": "image_url", "image_url": {"url": "https://x/a.MP3?b=c"}},
    {"type": "file", "file": {"filename": "a.wav", "file_data": "AAAA"}},
    {
        "type": "file",
        "file": {"filename": "a.mp3", "file_data": "data:application/octet-stream;base64,AAAA"},
    },
]
BLOCK = {"type": "document", "source": {"type": "base64", "media_type": "audio/mp3", "data": "A"}}
HEARING = replace(MODEL, input_modalities=("text", "audio"))
FREE = replace(MODEL, id="local/omni", price=per_token("0", "0"))
QUIET: list[dict[str, Any]] = [
    {"type": "text", "text": MP3},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
    {"type": "file", "file": {"filename": "a.mp3", "file_data": "data:text/plain;base64,AAAA"}},
    {"type": "image_url", "image_url": {"url": "https://x/a.png?like=b.mp3"}},
    {"type": "text", "text": "said", "source": "https://x/y.mp3"},
    {"type": "file", "file": {"filename": "a.pdf", "file_data": "AAAA"}},
    {"type": "something_new", "content": ["x", 7, {"type": "text", "text": "x"}]},
    {},
]


def saying(*parts: Any) -> dict[str, Any]:
    return {"model": MODEL.id, "messages": [{"role": "user", "content": [TEXT, *parts]}]}


@pytest.mark.parametrize("part", PACKED, ids=str)
def test_a_sound_in_any_wrapping_is_refused_by_its_place(part: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        ChatCompletions().call(saying(part), MODEL)
    place = "messages[0].content[1]"
    assert (caught.value.code, caught.value.param) == (Code.INVALID_VALUE, place)
    assert MODEL.id in caught.value.message


@pytest.mark.parametrize(
    ("block", "place"),
    [
        (BLOCK, "messages[0].content[1]"),
        ({**BLOCK, "type": "image"}, "messages[0].content[1]"),
        (
            {"type": "tool_result", "tool_use_id": "a", "content": [TEXT, BLOCK]},
            "messages[0].content[1].content[1]",
        ),
        (
            {"type": "document", "source": {"type": "content", "content": [BLOCK]}},
            "messages[0].content[1].source.content[0]",
        ),
    ],
)
def test_a_sound_in_a_block_is_refused_by_its_place(block: dict[str, Any], place: str) -> None:
    with pytest.raises(Refusal) as caught:
        Messages().call({**saying(block), "max_tokens": 9}, MODEL)
    assert (caught.value.code, caught.value.param) == (Code.INVALID_VALUE, place)


@pytest.mark.parametrize("part", QUIET, ids=str)
def test_what_is_no_sound_is_none(part: dict[str, Any]) -> None:
    assert ChatCompletions().call(saying(part), MODEL).body == saying(part)


def test_parts_in_parts_without_end_are_looked_at_so_far_and_no_further() -> None:
    deep: Any = [SOUND]
    for _ in range(100_000):
        deep = [{"type": "something_new", "content": deep}]
    assert ChatCompletions().call(saying(*deep), MODEL).model == MODEL.id


@pytest.mark.parametrize("model", [HEARING, FREE], ids=lambda model: model.id)
def test_a_model_that_is_sold_sounds_or_costs_nothing_hears(model: Any) -> None:
    assert ChatCompletions().call(saying(SOUND), model).body == saying(SOUND)


def test_no_model_of_the_catalogue_is_sold_a_sound_and_none_says_it_hears() -> None:
    """There is no price for a sound's tokens: whoever adds one takes this away."""
    for model in TEXT_MODELS:
        assert "audio" not in model.input_modalities
        assert not model.hears
        with pytest.raises(Refusal):
            ChatCompletions().call(saying(SOUND), model)


async def test_a_sound_is_a_400_before_any_provider_is_asked_or_paid() -> None:
    place = await a_place()
    message = {"role": "user", "content": [TEXT, SOUND]}
    answers = [
        await place.chat(messages=[message]),
        await place.ask("POST", "/v1/messages", a_body(messages=[{**message, "content": [BLOCK]}])),
        await place.ask(
            "POST",
            "/v1/responses",
            {"model": "big", "input": [{"role": "user", "content": [SOUND]}]},
        ),
    ]
    assert [answer.status for answer in answers] == [400, 400, 400]
    assert await place.spent() == 0
    assert (await place.ledger.balance(place.account.id)).available == CREDIT
    assert place.upstream.calls == []
