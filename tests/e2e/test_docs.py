"""`docs/faults.md` and the tests that it names."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from adapters.embedded.sandbox_faults import FaultName
from adapters.settings import ROOT
from tests.e2e import test_faults, test_two_processes
from tests.e2e.test_faults import FAULTS, Answered, Interrupted, Outcome, Refused, Row

TABLE_TEST = "test_a_fault_has_the_outcome_of_its_row"


def _rows() -> dict[str, list[str]]:
    """The cells of every row of the page's tables, by the name in the first one."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        name = re.fullmatch(r"`(\w+)`", cells[0])
        if line.startswith("| `"):
            assert name, line
            assert name[1] not in found, f"{name[1]} is there twice"
            found[name[1]] = cells[1:]
    return found


def _tests(module: ModuleType) -> set[str]:
    return {name for name in vars(module) if name.startswith("test_")} - {TABLE_TEST}


def test_every_row_of_the_page_is_a_test_and_every_test_has_a_row() -> None:
    tests = _tests(test_faults) | _tests(test_two_processes) | {row.id for row in FAULTS}
    assert set(_rows()) == tests


def _says(cell: str, outcome: Outcome) -> bool:
    match outcome:
        case Refused():
            after = outcome.retry_after
            return (
                cell.startswith(f"{outcome.status} `{outcome.code}`")
                and ("Retry-After" in cell) is (after is not None)
                and (after is None or f"`Retry-After: {after}`" in cell)
            )
        case Answered():
            return cell.startswith("complete") and ("second" in cell) is outcome.fell_back
        case Interrupted():
            return cell == "error event"


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row.id)
def test_a_row_says_what_its_test_expects(row: Row) -> None:
    asked_for, _, with_second, alone, charged = _rows()[row.id]
    assert tuple(asked_for.split(", ")) == row.modes
    assert _says(with_second, row.with_second), with_second
    assert _says(alone, row.alone), alone
    match row.with_second:
        case Answered(fell_back=True):
            assert charged == "answer only"
        case Answered(counted=counted):
            assert charged == ("as counted" if counted else "as told")
        case _:
            assert charged == "nothing"


def test_every_fault_of_the_sandbox_has_a_row() -> None:
    assert {row.fault for row in FAULTS} == set(FaultName)
