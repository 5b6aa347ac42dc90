"""Where in a stream one tool call ends and another begins."""

from __future__ import annotations

import pytest

from adapters.tool_calls import ToolCall

WHOLE = ['{"city":', '"Oslo"}']


@pytest.mark.parametrize(
    ("pieces", "is_whole"),
    [
        ([], False),
        (['{"city":'], False),
        (WHOLE, True),
        (["{}"], True),
        (['{"arguments":"x"}'], True),
        (['"}"', "}"], False),
        (["[{}"], False),
        (['{"a":{}'], False),
        (['{"a":'] * 10_000 + ["}"] * 10_000, False),
        (['{"a":"\ud800"}'], False),
    ],
)
def test_arguments_are_whole_once_their_object_is_closed(pieces: list[str], is_whole: bool) -> None:
    assert ToolCall("weather", "a", pieces).is_whole is is_whole


@pytest.mark.parametrize(
    ("call", "piece", "follows"),
    [
        (ToolCall("weather", "a", WHOLE), ("a", "weather", ""), False),
        (ToolCall("weather", "a", WHOLE), ("b", "weather", ""), True),
        (ToolCall("weather", "a", WHOLE), ("", "time", ""), True),
        (ToolCall("weather", "a", WHOLE), ("b", "", "{}"), False),
        (ToolCall("weather", "", []), ("a", "weather", ""), False),
        (ToolCall("weather", "", ["{"]), ("a", "weather", ""), True),
        (ToolCall("weather", "", ["{"]), ("", "weather", "}"), False),
        (ToolCall("weather", "", WHOLE), ("", "weather", "{}"), True),
        (ToolCall("weather", "", WHOLE), ("", "", "{}"), False),
    ],
)
def test_a_piece_begins_another_call(
    call: ToolCall, piece: tuple[str, str, str], follows: bool
) -> None:
    assert call.is_followed_by(*piece) is follows


def test_a_name_that_comes_again_after_the_end_is_an_echo_until_arguments_follow() -> None:
    call = ToolCall("weather", "", list(WHOLE))
    assert not call.is_followed_by("", "weather", "")
    assert call.is_followed_by("", "", "{")
