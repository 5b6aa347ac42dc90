"""Passwords: the hash itself, and that a burst of them leaves the process to the others."""

from __future__ import annotations

import asyncio

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerifyMismatchError

from adapters.system import Argon2Passwords
from kyma.errors import Code, Refusal


async def test_a_hash_matches_its_password_alone() -> None:
    passwords = Argon2Passwords()
    hashed = await passwords.hash("secret-1")
    assert hashed.startswith("$argon2id$")
    assert await passwords.matches("secret-1", hashed)
    assert not await passwords.matches("secret-2", hashed)
    assert not await passwords.matches("secret-1", None)
    assert not await passwords.matches("secret-1", "no PHC string")


@pytest.mark.parametrize("memory_mb", [8, 46])
def test_the_decoy_takes_as_long_as_a_hash(memory_mb: int) -> None:
    decoy = Argon2Passwords(memory_mb).decoy
    alike = PasswordHasher(memory_cost=memory_mb * 1024, time_cost=1, parallelism=1)
    assert extract_parameters(decoy) == extract_parameters(alike.hash("secret-1"))
    with pytest.raises(VerifyMismatchError):  # it was hashed and compared, not merely read
        alike.verify(decoy, "secret-1")


async def test_a_burst_of_sign_ups_does_not_hold_the_threads_that_others_need() -> None:
    """Six hashes at once kept the database's connections waiting until they timed out."""
    passwords = Argon2Passwords()
    hashes = [asyncio.create_task(passwords.hash(f"secret-{n}")) for n in range(40)]
    await asyncio.sleep(0)
    await asyncio.to_thread(lambda: None)
    assert sum(task.done() for task in hashes) < 10
    for task in hashes:
        task.cancel()
    await asyncio.gather(*hashes, return_exceptions=True)


async def test_who_would_wait_for_long_is_refused_and_the_next_one_is_served() -> None:
    passwords = Argon2Passwords(most_waiting=3)
    waiting = [asyncio.create_task(passwords.hash(f"secret-{n}")) for n in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Refusal) as refused:
        await passwords.hash("secret-4")
    assert (refused.value.code, refused.value.retry_after_s) == (Code.TOO_MANY_ATTEMPTS, 5)
    waiting[2].cancel()
    assert len(await asyncio.gather(*waiting[:2])) == 2
    assert await passwords.matches("secret-4", await passwords.hash("secret-4"))
