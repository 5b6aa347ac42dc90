"""Passwords: the hash itself, and that a burst of them leaves the process to the others."""

from __future__ import annotations

import asyncio

from adapters.system import Argon2Passwords


async def test_a_hash_matches_its_password_alone() -> None:
    passwords = Argon2Passwords()
    hashed = await passwords.hash("secret-1")
    assert hashed.startswith("$argon2id$")
    assert await passwords.matches("secret-1", hashed)
    assert not await passwords.matches("secret-2", hashed)
    assert not await passwords.matches("secret-1", None)
    assert not await passwords.matches("secret-1", "no PHC string")


async def test_a_burst_of_sign_ups_does_not_hold_the_threads_that_others_need() -> None:
    """Six hashes at once, of four threads each, kept the database's connections waiting."""
    passwords = Argon2Passwords()
    hashes = [asyncio.create_task(passwords.hash(f"secret-{n}")) for n in range(40)]
    await asyncio.sleep(0)
    await asyncio.to_thread(lambda: None)
    assert sum(task.done() for task in hashes) < 10
    for task in hashes:
        task.cancel()
    await asyncio.gather(*hashes, return_exceptions=True)
