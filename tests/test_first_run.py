"""The first run of a machine: what is shown, and what a run that was cut short leaves."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from adapters.embedded.first_run import (
    OPERATOR,
    FirstRun,
    Parts,
    first_run,
    forget_password,
    read_secrets,
)
from adapters.embedded.screen import model_to_try
from adapters.memory.runtime import MemoryChance, MemoryClock, MemoryPasswords
from adapters.memory.storage import MemoryAccounts, MemoryOperators, MemoryStore
from adapters.system import HmacDigests
from tests.flows.dying import Life, Mortal


class Machine:
    """A data folder and a database that outlive every run on them."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.store = MemoryStore()
        self.passwords = MemoryPasswords()

    def parts(self, life: Life | None = None) -> Parts:
        given: dict[str, Any] = {
            "accounts": MemoryAccounts(self.store),
            "operators": MemoryOperators(self.store),
            "passwords": self.passwords,
        }
        if life is not None:
            given = {name: Mortal(part, life) for name, part in given.items()}
        return Parts(
            **given, digests=HmacDigests("p" * 32), chance=MemoryChance(), clock=MemoryClock()
        )

    async def run(self) -> FirstRun:
        return await first_run(self.data_dir, self.parts())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_a_password_is_told_until_it_has_been_shown_and_never_after(
    machine: Machine,
) -> None:
    first, again = await machine.run(), await machine.run()
    assert first.operator_password is not None
    assert again == first
    assert stat.S_IMODE((machine.data_dir / "secrets.json").stat().st_mode) == 0o600
    forget_password(machine.data_dir)
    forget_password(machine.data_dir)
    assert first.operator_password not in read_secrets(machine.data_dir).values()
    later = await machine.run()
    assert (later.api_key, later.operator_password) == (first.api_key, None)


async def test_wherever_a_first_run_is_cut_short_the_next_shows_a_password_that_opens(
    machine: Machine, tmp_path: Path
) -> None:
    for at in range(1, 30):
        folder = tmp_path / str(at)
        folder.mkdir()
        cut = Machine(folder)
        life = Life(at)
        died = not await life.run(first_run(folder, cut.parts(life)))
        shown = await cut.run()
        (operator,) = cut.store.operators.values()
        assert shown.operator_password is not None
        assert await cut.passwords.matches(shown.operator_password, operator.password_hash)
        digest = cut.parts().digests.digest(shown.api_key)
        assert await MemoryAccounts(cut.store).principal(digest) is not None
        if not died:
            break
    assert at > 4


async def test_a_password_that_opens_nothing_is_not_shown(machine: Machine) -> None:
    """Another machine made the operator of this database while this one's run was cut short."""
    await machine.run()
    operator = machine.store.operators[OPERATOR]
    hashed = await machine.passwords.hash("somebody else's")
    machine.store.operators[OPERATOR] = type(operator)(OPERATOR, hashed, operator.created_at)
    assert (await machine.run()).operator_password is None


@pytest.mark.parametrize(
    ("served", "shown"),
    [(["a", "b"], "best"), (["a"], "a"), ([], None)],
    ids=["best is served", "something else is", "nothing is"],
)
def test_the_line_to_try_asks_for_what_is_served(served: list[str], shown: str | None) -> None:
    listed = {"data": [{"id": id} for id in served], "aliases": {"best": "b"}}
    assert model_to_try(listed) == shown
