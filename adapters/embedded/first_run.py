"""The first account, its key and the first operator of one machine.

Owns the part of `secrets.json` that lets `make up` show the same working key every time.
It writes through the ports alone; which adapters stand behind them is the caller's affair.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from adapters.embedded.processes import StartError
from kyma.accounts import Account, Key, Operator, Session
from kyma.money import usd
from kyma.ports.runtime import Chance, Clock, Digests, Passwords
from kyma.ports.storage import Accounts, Operators

OPERATOR = "operator"
UNSEEN = "operator_password"
"""In `secrets.json`: a password that was not shown yet."""

CREDIT = usd("0.50")
"""The sign-up credit, as any other account gets it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The ports that a first run writes through."""

    accounts: Accounts
    operators: Operators
    passwords: Passwords
    digests: Digests
    chance: Chance
    clock: Clock


@dataclass(frozen=True, slots=True)
class FirstRun:
    """What to show. The password is known until it has been shown once: see `forget_password`."""

    api_key: str
    operator_name: str
    operator_password: str | None


async def first_run(data_dir: Path, parts: Parts) -> FirstRun:
    """See that a usable key and an operator exist; the ones there are if they do."""
    password = await _ensure_operator(data_dir, parts)
    kept = read_secrets(data_dir).get("first_key")
    if kept and await parts.accounts.principal(parts.digests.digest(kept)) is not None:
        return FirstRun(kept, OPERATOR, password)
    return FirstRun(await _first_key(data_dir, parts), OPERATOR, password)


async def _ensure_operator(data_dir: Path, parts: Parts) -> str | None:
    """The first operator's password, if nobody has been shown it yet.

    It is written down before the operator is made, so that a run cut short loses nobody's.
    """
    kept = read_secrets(data_dir)
    if await parts.operators.count():
        unseen, first = kept.get(UNSEEN), await parts.operators.by_name(OPERATOR)
        if unseen is None or first is None:
            return None
        return unseen if await parts.passwords.matches(unseen, first.password_hash) else None
    password = parts.chance.secret("")
    write_secrets(data_dir, {**kept, UNSEEN: password})
    hashed = await parts.passwords.hash(password)
    made = await parts.operators.add(Operator(OPERATOR, hashed, parts.clock.now()))
    return password if made else None


def forget_password(data_dir: Path) -> None:
    """The first operator's password has been shown; from now on only its owner knows it."""
    kept = read_secrets(data_dir)
    if kept.pop(UNSEEN, None) is not None:
        write_secrets(data_dir, kept)


async def _first_key(data_dir: Path, parts: Parts) -> str:
    """Register the first account; its key.

    The key is written down before it is registered: a run cut short between the two leaves
    a note of a key that opens nothing, never a funded account whose key is lost.
    """
    key = parts.chance.secret("ky-")
    write_secrets(data_dir, {**read_secrets(data_dir), "first_key": key})
    email = "first@kyma.localhost"
    while not await _register(parts, email, key):
        # An earlier data dir, or another pepper, left an account whose key is lost.
        email = f"first-{parts.chance.id()[-8:]}@kyma.localhost"
    return key


async def _register(parts: Parts, email: str, secret: str) -> bool:
    now, account_id = parts.clock.now(), parts.chance.id()
    hashed = await parts.passwords.hash(parts.chance.secret(""))  # nobody signs in as it
    account = Account(account_id, email, hashed, now)
    key = Key(
        id=parts.chance.id(),
        account_id=account_id,
        name="first key",
        digest=parts.digests.digest(secret),
        prefix=secret[:7],
        last4=secret[-4:],
        created_at=now,
    )
    session = Session(
        account_id=account_id,
        digest=parts.digests.digest(parts.chance.secret("ks-")),
        created_at=now,
        expires_at=now + timedelta(seconds=1),
    )
    return await parts.accounts.register(account, key, session, CREDIT)


def read_secrets(data_dir: Path) -> dict[str, str]:
    """The generated secrets of this machine; empty before the first run."""
    path = data_dir / "secrets.json"
    if not path.exists():
        return {}
    try:
        return {str(name): str(value) for name, value in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError) as error:
        raise StartError(
            f"{path} cannot be read as the JSON object that it was. Put back a copy of it: "
            "without its pepper every key and session of before is unknown. To begin anew with "
            f"an empty database, move {data_dir} away."
        ) from error


def write_secrets(data_dir: Path, secrets: dict[str, str]) -> None:
    """Replace the file whole, readable by its owner alone: half a pepper would lock all out."""
    path = data_dir / "secrets.json"
    staging = path.with_name("secrets.json.tmp")
    staging.unlink(missing_ok=True)
    with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(secrets, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)
