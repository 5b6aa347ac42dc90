"""`docs/scorecard.md` and the tests that it names."""

from __future__ import annotations

import re
from types import FunctionType

import pytest

from adapters.settings import ROOT, Settings
from tests.e2e import test_scenarios
from tests.e2e.test_scenarios import CHAT, NATIVE, PATIENCE, SCALE, SCENARIOS

PAGE = (ROOT / "docs" / "scorecard.md").read_text()


def _rows() -> dict[str, list[str]]:
    """The cells of every row, by the test that it names in its second one."""
    found = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 6 and (name := re.fullmatch(r"`(test_\w+)`", cells[1])):
            assert name[1] not in found, f"{name[1]} is there twice"
            found[name[1]] = [cells[0], *cells[2:]]
    return found


def _tests() -> dict[str, FunctionType]:
    return {name: test for name, test in vars(test_scenarios).items() if name.startswith("test_")}


def test_the_page_has_the_sixteen_scenarios_and_every_test_is_one() -> None:
    assert len(SCENARIOS) == 16
    assert set(_rows()) == set(_tests()) == set(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_row_says_what_its_test_sees(name: str) -> None:
    row = SCENARIOS[name]
    assert _rows()[name] == [row.title, row.whole, row.streamed, row.whole, row.streamed]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_is_played_on_both_surfaces_whole_and_streamed(name: str) -> None:
    (mark,) = [mark for mark in _tests()[name].pytestmark if mark.name == "parametrize"]
    played = {case.values[0] for case in mark.args[1]}
    assert played >= {(surface, streamed) for surface in (CHAT, NATIVE) for streamed in (0, 1)}


def test_the_page_tells_the_scale_and_the_shipped_patience() -> None:
    assert f"1 : {SCALE}" in PAGE
    for name in PATIENCE:
        default = Settings.model_fields[name].default
        assert f"`KYMA_{name.upper()}` {default:g} s" in PAGE
