"""What ends with the sessions of an account, and what is under way meanwhile.

On memory and on real Postgres alike; the races, which memory has none of, on Postgres.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text

from adapters.memory.identity import (
    MemoryAuthorizationCodes,
    MemoryDeviceCodes,
    MemoryIdentities,
    MemoryLinks,
    MemoryWays,
)
from adapters.memory.keys import MemoryKeys, MemorySignIns
from adapters.memory.storage import MemoryAccounts, MemoryStore
from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.identity import (
    PostgresAuthorizationCodes,
    PostgresDeviceCodes,
    PostgresIdentities,
    PostgresLinks,
)
from adapters.postgres.keys import PostgresKeys, PostgresSignIns
from adapters.postgres.units import PostgresUnits
from kyma.accounts import Account, Key, Session
from kyma.identity import (
    DEVICE_CODE_S,
    POLL_INTERVAL_S,
    Device,
    DeviceState,
    Identity,
    Link,
    LinkKind,
    Minted,
    Permission,
    Taken,
)
from kyma.money import ZERO
from kyma.ports.identity import AuthorizationCodes, DeviceCodes, Identities, Links
from kyma.ports.storage import Accounts, Keys, Principal, SignIns
from tests.builders import a_key, a_session, an_account, new_id

CALLBACK, CHALLENGE = "https://app.example/callback", "x" * 43
GOOGLE = "https://accounts.google.com"


@dataclass
class Desk:
    """The ports under test over one store."""

    devices: DeviceCodes
    codes: AuthorizationCodes
    links: Links
    identities: Identities
    accounts: Accounts
    sign_ins: SignIns
    keys: Keys
    drawn: list[int] = field(default_factory=lambda: [0])

    async def customer(self, *, proven: bool = True) -> tuple[Account, Session]:
        account = an_account()
        session = a_session(account)
        assert await self.accounts.register(account, a_key(account), session, ZERO)
        if proven:
            assert await self.identities.prove(account.id, account.email, ZERO)
        return account, session

    async def device(self) -> tuple[str, bytes]:
        """One that waits: its short code, and its own."""
        self.drawn[0] += 1
        code, mine = f"KYMA-{self.drawn[0]:04}", digest()
        device = Device(code, "Laptop", DeviceState.PENDING)
        assert await self.devices.add(mine, device, POLL_INTERVAL_S, DEVICE_CODE_S)
        return code, mine

    async def approved(self, session: Session) -> bytes:
        code, mine = await self.device()
        who = session.account_id
        assert await self.devices.decide(code, who, session.id, approved=True)
        return mine

    async def allowed(self, session: Session) -> bytes:
        mine = digest()
        assert await self.allow(session, mine)
        return mine

    async def allow(self, session: Session, code: bytes) -> bool:
        permission = Permission("app", CALLBACK, CHALLENGE, session.account_id)
        return await self.codes.add(code, permission, session.id, 60)

    async def take(self, code: bytes) -> Taken:
        return await self.codes.take(code, "app", CALLBACK, CHALLENGE, "An app", minted())

    async def known(self, secret: bytes) -> Principal:
        """Who has a session or key, as a process may remember it for a moment after its end."""
        found = await self.accounts.principal(secret)
        assert found is not None
        return found

    async def linked(self, kind: LinkKind, account: Account) -> bytes:
        mine = digest()
        identity = Identity(GOOGLE, "1001", account.email) if kind is LinkKind.JOIN else None
        await self.links.add(mine, Link(kind, account.email, account.id, identity), 3600)
        return mine

    async def live_keys(self, account: Account) -> int:
        return sum(key.revoked_at is None for key in await self.accounts.keys(account.id))


@pytest.fixture
def memory_desk() -> Desk:
    store = MemoryStore()
    ways = MemoryWays(store)
    return Desk(
        MemoryDeviceCodes(ways),
        MemoryAuthorizationCodes(ways),
        MemoryLinks(ways),
        MemoryIdentities(ways),
        MemoryAccounts(store),
        MemorySignIns(ways),
        MemoryKeys(store),
    )


@pytest_asyncio.fixture
async def postgres_desk(postgres_units: PostgresUnits) -> AsyncIterator[Desk]:
    yield Desk(
        PostgresDeviceCodes(postgres_units),
        PostgresAuthorizationCodes(postgres_units),
        PostgresLinks(postgres_units),
        PostgresIdentities(postgres_units),
        PostgresAccounts(postgres_units),
        PostgresSignIns(postgres_units),
        PostgresKeys(postgres_units),
    )


@pytest.fixture(params=["memory", "postgres"])
def desk(request: pytest.FixtureRequest) -> Desk:
    """Synchronous, so that the servers start outside of any event loop."""
    found: Desk = request.getfixturevalue(f"{request.param}_desk")
    return found


def digest() -> bytes:
    return uuid4().bytes * 2


def minted() -> Minted:
    return Minted(new_id(), digest(), "ky-1234", "cdef")


# Each ends every session of an account; whether it leaves the key of its registration.


async def a_reset(desk: Desk, account: Account) -> None:
    mine = await desk.linked(LinkKind.RESET, account)
    assert await desk.links.reset(mine, "new hash", revoke_keys=False)


async def a_reset_of_all(desk: Desk, account: Account) -> None:
    mine = await desk.linked(LinkKind.RESET, account)
    assert await desk.links.reset(mine, "new hash", revoke_keys=True)


async def a_join(desk: Desk, account: Account) -> None:
    assert await desk.identities.join(await desk.linked(LinkKind.JOIN, account))


async def a_sign_out(desk: Desk, account: Account) -> None:
    assert await desk.sign_ins.end_all(account.id)


@dataclass(frozen=True)
class End:
    run: Callable[[Desk, Account], Awaitable[None]]
    proven: bool
    keys_left: int


ENDS = {
    "reset": End(a_reset, True, 1),
    "reset with keys": End(a_reset_of_all, True, 0),
    "reset of an unproven address": End(a_reset, False, 0),
    "join of an unproven address": End(a_join, False, 0),
    "sign-out everywhere": End(a_sign_out, True, 1),
}
every_end = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)


@every_end
async def test_what_a_session_allowed_ends_with_all_sessions(desk: Desk, end: End) -> None:
    account, session = await desk.customer(proven=end.proven)
    _, strangers = await desk.customer()
    device, code = await desk.approved(session), await desk.allowed(session)
    their_device, their_code = await desk.approved(strangers), await desk.allowed(strangers)
    await end.run(desk, account)
    assert await desk.accounts.principal(session.digest) is None
    assert await desk.devices.poll(device) is None
    assert await desk.devices.spend(device, minted()) is None
    assert await desk.take(code) == Taken()
    assert await desk.live_keys(account) == end.keys_left
    polled = await desk.devices.poll(their_device)
    assert polled is not None
    assert polled.state is DeviceState.APPROVED
    assert await desk.devices.spend(their_device, minted()) == strangers.account_id
    assert await desk.take(their_code) == Taken(account_id=strangers.account_id)


@every_end
async def test_what_was_fetched_before_is_a_key_like_any_other(desk: Desk, end: End) -> None:
    account, session = await desk.customer(proven=end.proven)
    device, code = await desk.approved(session), await desk.allowed(session)
    assert await desk.devices.spend(device, minted()) == account.id
    assert await desk.take(code) == Taken(account_id=account.id)
    await end.run(desk, account)
    assert await desk.live_keys(account) == (3 if end.keys_left else 0)
    # Used twice it is taken back, then as before.
    assert await desk.take(code) == (Taken(replayed=account.id) if end.keys_left else Taken())


async def test_who_stays_signed_in_has_to_allow_it_again(desk: Desk) -> None:
    account, session = await desk.customer()
    device, code = await desk.approved(session), await desk.allowed(session)
    assert await desk.accounts.add_session(a_session(account))
    assert await desk.sign_ins.end_all(account.id, session.digest) == 1
    assert await desk.devices.spend(device, minted()) is None
    assert await desk.take(code) == Taken()
    assert await desk.devices.spend(await desk.approved(session), minted()) == account.id


async def test_signing_out_here_leaves_what_was_allowed_here(desk: Desk) -> None:
    account, session = await desk.customer()
    device, code = await desk.approved(session), await desk.allowed(session)
    assert await desk.sign_ins.end(account.id, session.id)
    assert await desk.devices.spend(device, minted()) == account.id
    assert await desk.take(code) == Taken(account_id=account.id)


async def test_a_session_that_has_ended_answers_no_device_and_no_application(desk: Desk) -> None:
    account, session = await desk.customer()
    _, strangers = await desk.customer()
    code, _ = await desk.device()
    late = replace(session, digest=digest())
    assert await desk.sign_ins.end(account.id, session.id)
    for one in (session, late, replace(strangers, account_id=account.id)):
        for approved in (True, False):
            assert not await desk.devices.decide(code, account.id, one.id, approved=approved)
        assert not await desk.allow(one, digest())
    found = await desk.devices.find(code)
    assert found is not None
    assert found.state is DeviceState.PENDING


@every_end
async def test_what_has_ended_makes_and_changes_no_key(desk: Desk, end: End) -> None:
    account, session = await desk.customer(proven=end.proven)
    (first,) = await desk.accounts.keys(account.id)
    by_session, by_key = await desk.known(session.digest), await desk.known(first.digest)
    other = a_key(account)
    assert await desk.keys.create(a_key(account), by_session)
    assert await desk.keys.create(other, by_key)
    assert await desk.keys.edit(account.id, other.id, renamed, by_session)
    assert await desk.keys.edit(account.id, first.id, renamed, by_key)
    await end.run(desk, account)
    assert not await desk.keys.create(a_key(account), by_session)
    assert await desk.keys.edit(account.id, other.id, renamed, by_session) is None
    goes_on = end.keys_left > 0
    assert await desk.keys.create(a_key(account), by_key) == goes_on
    assert (await desk.keys.edit(account.id, other.id, renamed, by_key) is not None) == goes_on
    assert await desk.live_keys(account) == (4 if goes_on else 0)


def renamed(key: Key) -> Key:
    return replace(key, name="renamed")


async def test_a_password_opens_a_session_only_while_it_is_the_accounts(desk: Desk) -> None:
    account, _ = await desk.customer()
    first, late, other = a_session(account), a_session(account), a_session(account)
    assert await desk.accounts.add_session(first, account.password_hash)
    await a_reset(desk, account)
    assert not await desk.accounts.add_session(late, account.password_hash)
    for session in (first, late):
        assert await desk.accounts.principal(session.digest) is None
    assert await desk.accounts.add_session(other, "new hash")
    assert [one.id for one in await desk.sign_ins.of(account.id)] == [other.id]


async def test_a_password_attaches_and_confirms_only_while_it_is_the_accounts(desk: Desk) -> None:
    account, _ = await desk.customer(proven=False)
    verify = await desk.linked(LinkKind.VERIFY, account)
    ada = Identity(GOOGLE, "1001", account.email)
    for wrong in ("", "new hash"):
        assert await desk.links.verify(verify, ZERO, wrong) is None
        assert not await desk.identities.attach(ada, account.id, wrong)
    assert not await desk.identities.is_proven(account.id)
    assert await desk.identities.account_of(GOOGLE, "1001") is None
    assert await desk.links.verify(verify, ZERO, account.password_hash) is not None
    await a_reset(desk, account)
    again = await desk.linked(LinkKind.VERIFY, account)
    assert await desk.links.verify(again, ZERO, account.password_hash) is None
    assert not await desk.identities.attach(ada, account.id, account.password_hash)
    assert await desk.identities.attach(ada, account.id, "new hash")


# Races.


@asynccontextmanager
async def held(units: PostgresUnits, query: str, value: object) -> AsyncIterator[None]:
    """A row that somebody else has locked."""
    async with units.unit() as connection:
        locked = await connection.execute(text(f"{query} FOR UPDATE"), {"it": value})
        assert locked.first() is not None
        yield


async def waiting(units: PostgresUnits, count: int) -> None:
    """Return once so many transactions wait for a lock."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(2.5):
        while True:
            async with units.unit() as connection:
                if await connection.scalar(query) == count:
                    return
            await asyncio.sleep(0.01)


SESSION = "SELECT true FROM sessions WHERE digest = :it"
DEVICE = "SELECT true FROM device_codes WHERE digest = :it"
CODE = "SELECT true FROM authorization_codes WHERE digest = :it"


@every_end
async def test_what_is_done_while_all_sessions_end_comes_too_late(
    postgres_desk: Desk, postgres_units: PostgresUnits, end: End
) -> None:
    """The ending has begun, and waits for a row; everything else that is tried waits for it."""
    desk = postgres_desk
    account, session = await desk.customer(proven=end.proven)
    device, code = await desk.approved(session), await desk.allowed(session)
    pending, _ = await desk.device()
    (first,) = await desk.accounts.keys(account.id)
    asks = await desk.known(session.digest)
    async with held(postgres_units, SESSION, session.digest):
        ending = asyncio.ensure_future(end.run(desk, account))
        await waiting(postgres_units, 1)
        tried = asyncio.gather(
            desk.devices.decide(pending, account.id, session.id, approved=True),
            desk.allow(session, digest()),
            desk.devices.spend(device, minted()),
            desk.take(code),
            desk.keys.create(a_key(account), asks),
            desk.keys.edit(account.id, first.id, renamed, asks),
        )
        await waiting(postgres_units, 7)
    await ending
    assert await tried == [False, False, None, Taken(), False, None]
    assert await desk.live_keys(account) == end.keys_left


NEW_PASSWORDS = [name for name in ENDS if name != "sign-out everywhere"]


@pytest.mark.parametrize("name", NEW_PASSWORDS)
async def test_the_old_password_opens_nothing_while_it_is_replaced(
    postgres_desk: Desk, postgres_units: PostgresUnits, name: str
) -> None:
    desk, end = postgres_desk, ENDS[name]
    account, session = await desk.customer(proven=end.proven)
    old, late = account.password_hash, a_session(account)
    verify = await desk.linked(LinkKind.VERIFY, account)
    ada = Identity(GOOGLE, "2002", account.email)
    async with held(postgres_units, SESSION, session.digest):
        ending = asyncio.ensure_future(end.run(desk, account))
        await waiting(postgres_units, 1)
        tried = asyncio.gather(
            desk.accounts.add_session(late, old),
            desk.links.verify(verify, ZERO, old),
            desk.identities.attach(ada, account.id, old),
        )
        await waiting(postgres_units, 4)
    await ending
    assert await tried == [False, None, False]
    assert await desk.accounts.principal(late.digest) is None
    assert await desk.identities.account_of(GOOGLE, "2002") is None


@every_end
async def test_what_began_before_all_sessions_ended_ends_with_them(
    postgres_desk: Desk, postgres_units: PostgresUnits, end: End
) -> None:
    """Now they wait for a row, and the ending for them: it finds what they have done."""
    desk = postgres_desk
    account, session = await desk.customer(proven=end.proven)
    pending, mine = await desk.device()
    device, code = await desk.approved(session), await desk.allowed(session)
    async with (
        held(postgres_units, DEVICE, mine),
        held(postgres_units, DEVICE, device),
        held(postgres_units, CODE, code),
    ):
        done = asyncio.gather(
            desk.devices.decide(pending, account.id, session.id, approved=True),
            desk.devices.spend(device, minted()),
            desk.take(code),
        )
        await waiting(postgres_units, 3)
        ending = asyncio.ensure_future(end.run(desk, account))
        await waiting(postgres_units, 4)
    assert await done == [True, account.id, Taken(account_id=account.id)]
    await ending
    assert await desk.devices.spend(mine, minted()) is None
    assert await desk.live_keys(account) == (3 if end.keys_left else 0)


async def test_two_resets_at_once_are_one_and_nobody_waits_for_each_other(
    postgres_desk: Desk,
) -> None:
    desk = postgres_desk
    for _ in range(10):
        account, _ = await desk.customer()
        links = [await desk.linked(LinkKind.RESET, account) for _ in range(4)]
        done = await asyncio.gather(
            *(desk.links.reset(one, f"hash {n}", revoke_keys=False) for n, one in enumerate(links))
        )
        assert len([one for one in done if one is not None]) == 1


async def test_a_storm_of_approvals_and_sign_ins_leaves_nothing_of_before_the_reset(
    postgres_desk: Desk,
) -> None:
    """Nothing deadlocks either: that would be a `StorageUnavailable`."""
    desk = postgres_desk
    account, session = await desk.customer()
    devices = [await desk.device() for _ in range(6)]
    codes = [await desk.allowed(session) for _ in range(6)]
    asks = await desk.known(session.digest)

    async def approve(code: str, mine: bytes) -> None:
        await desk.devices.decide(code, account.id, session.id, approved=True)
        await desk.devices.spend(mine, minted())

    async def sign_in() -> None:
        await desk.accounts.add_session(a_session(account), account.password_hash)

    await asyncio.gather(
        *(approve(code, mine) for code, mine in devices[:3]),
        *(desk.take(code) for code in codes[:3]),
        *(sign_in() for _ in range(3)),
        *(desk.keys.create(a_key(account), asks) for _ in range(3)),
        a_reset_of_all(desk, account),
        a_sign_out_of_any(desk, account),
        *(approve(code, mine) for code, mine in devices[3:]),
        *(desk.take(code) for code in codes[3:]),
        *(sign_in() for _ in range(3)),
        *(desk.keys.create(a_key(account), asks) for _ in range(3)),
    )
    assert await desk.live_keys(account) == 0
    assert await desk.sign_ins.of(account.id) == []
    for _, mine in devices:
        assert await desk.devices.spend(mine, minted()) is None
    for code in codes:
        assert (await desk.take(code)).account_id is None


async def a_sign_out_of_any(desk: Desk, account: Account) -> None:
    """However many there are by now."""
    await desk.sign_ins.end_all(account.id)
