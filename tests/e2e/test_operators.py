"""Operators that the command line adds."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from adapters.memory.keys import MemoryAttempts
from adapters.postgres.accounts import PostgresOperators
from adapters.postgres.units import PostgresUnits
from adapters.settings import ROOT
from adapters.system import Argon2Passwords, SystemClock
from kyma.flows.signin import OperatorSignIn
from kyma.flows.throttle import Throttle

PASSWORD = "twelve letters and more"


async def kyma(database_url: str, data_dir: Path, *argv: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "adapters.cli", *argv,
        cwd=ROOT,
        env={**os.environ, "KYMA_DATABASE_URL": database_url, "KYMA_DATA_DIR": str(data_dir)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_an_operator_is_added_once_and_may_sign_in(
    database_url: str, postgres_units: PostgresUnits, tmp_path: Path
) -> None:
    asked = ("operator", "olga", "--password", PASSWORD)
    assert await kyma(database_url, tmp_path, *asked) == (0, "✓ olga may sign in to the console\n")
    code, said = await kyma(database_url, tmp_path, *asked)
    assert (code, said) == (1, "✗ There is an operator 'olga' already.\n")
    operators, clock = PostgresOperators(postgres_units), SystemClock()
    sign_in = OperatorSignIn(
        operators, Argon2Passwords(), Throttle(MemoryAttempts(clock.monotonic))
    )
    assert await sign_in.sign_in("olga", PASSWORD) is not None
    assert await sign_in.sign_in("olga", "something else") is None


async def test_a_password_that_is_too_short_makes_no_operator(
    database_url: str, postgres_units: PostgresUnits, tmp_path: Path
) -> None:
    code, said = await kyma(database_url, tmp_path, "operator", "olga", "--password", "short")
    assert code == 1
    assert "password" in said
    assert await PostgresOperators(postgres_units).count() == 0
