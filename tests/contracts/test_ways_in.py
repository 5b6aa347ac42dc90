"""The contract of codes, links and identities, on memory and on real Postgres alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.memory.identity import (
    MemoryAuthorizationCodes,
    MemoryDeviceCodes,
    MemoryIdentities,
    MemoryLinks,
    MemoryWays,
)
from adapters.memory.storage import MemoryAccounts, MemoryLedger, MemoryStore
from adapters.postgres.accounts import PostgresAccounts
from adapters.postgres.identity import (
    PostgresAuthorizationCodes,
    PostgresDeviceCodes,
    PostgresIdentities,
    PostgresLinks,
)
from adapters.postgres.ledger import PostgresLedger
from adapters.postgres.units import PostgresUnits
from kyma.accounts import Account, Session
from kyma.identity import (
    DEVICE_CODE_S,
    GRANTED_SCOPES,
    POLL_INTERVAL_S,
    Device,
    DeviceState,
    Identity,
    Link,
    LinkKind,
    Minted,
    Permission,
    Polled,
    Taken,
)
from kyma.money import ZERO, usd
from kyma.ports.identity import AuthorizationCodes, DeviceCodes, Identities, Links
from kyma.ports.storage import Accounts, Ledger
from tests.builders import a_key, a_session, an_account, new_id

BONUS = usd("0.50")
CODE = "KYMA-7XQ2"
DEVICE = Device(CODE, "Laptop", DeviceState.PENDING)
CALLBACK = "https://app.example/callback"
GOOGLE = "https://accounts.google.com"


@dataclass
class Desk:
    """The ports under test; `pass_time` makes everything written so far so much older."""

    devices: DeviceCodes
    codes: AuthorizationCodes
    links: Links
    identities: Identities
    accounts: Accounts
    ledger: Ledger
    pass_time: Callable[[float], Awaitable[None]]

    async def customer(self, email: str | None = None, *, bound: bool = True) -> Account:
        account = replace(an_account(email), bound=bound)
        assert await self.accounts.register(
            account, a_key(account), a_session(account), BONUS if bound else ZERO
        )
        return account

    async def signs_in(self, account: Account) -> Session:
        session = a_session(account)
        assert await self.accounts.add_session(session)
        return session

    async def says(self, account: Account, *, approved: bool) -> bool:
        """The answer of somebody who has just signed in, to the device with `CODE`."""
        session = await self.signs_in(account)
        return await self.devices.decide(CODE, account.id, session.id, approved=approved)

    async def live_keys(self, account: Account) -> int:
        return sum(key.revoked_at is None for key in await self.accounts.keys(account.id))


@pytest.fixture
def memory_desk() -> Desk:
    offset = [0.0]
    store = MemoryStore(now=lambda: datetime.now(UTC) + timedelta(seconds=offset[0]))
    ways = MemoryWays(store)

    async def pass_time(seconds: float) -> None:
        offset[0] += seconds

    return Desk(
        MemoryDeviceCodes(ways),
        MemoryAuthorizationCodes(ways),
        MemoryLinks(ways),
        MemoryIdentities(ways),
        MemoryAccounts(store),
        MemoryLedger(store),
        pass_time,
    )


@pytest_asyncio.fixture
async def postgres_desk(
    postgres_engine: AsyncEngine, postgres_units: PostgresUnits
) -> AsyncIterator[Desk]:
    async def pass_time(seconds: float) -> None:
        async with postgres_units.unit() as connection:
            for table, columns in (
                ("device_codes", ("polled_at", "created_at", "expires_at")),
                ("authorization_codes", ("created_at", "expires_at", "used_at")),
                ("links", ("created_at", "expires_at", "used_at")),
            ):
                moved = ", ".join(
                    f"{name} = {name} - make_interval(secs => :by)" for name in columns
                )
                await connection.execute(text(f"UPDATE {table} SET {moved}"), {"by": seconds})

    ledger = PostgresLedger(postgres_engine, postgres_units)
    yield Desk(
        PostgresDeviceCodes(postgres_units),
        PostgresAuthorizationCodes(postgres_units),
        PostgresLinks(postgres_units),
        PostgresIdentities(postgres_units),
        PostgresAccounts(postgres_units),
        ledger,
        pass_time,
    )
    await ledger.close()
    async with asyncio.timeout(5):  # the last use of a session is noted behind its answer
        while postgres_engine.pool.checkedout():
            await asyncio.sleep(0.01)


@pytest.fixture(params=["memory", "postgres"])
def desk(request: pytest.FixtureRequest) -> Desk:
    """Synchronous, so that the servers start outside of any event loop."""
    found: Desk = request.getfixturevalue(f"{request.param}_desk")
    return found


def digest() -> bytes:
    return uuid4().bytes * 2


def minted() -> Minted:
    return Minted(new_id(), digest(), "ky-1234", "cdef")


async def begun(desk: Desk, device: Device = DEVICE) -> bytes:
    mine = digest()
    assert await desk.devices.add(mine, device, POLL_INTERVAL_S, DEVICE_CODE_S)
    return mine


async def test_a_device_waits_is_approved_and_gets_one_key(desk: Desk) -> None:
    owner = await desk.customer()
    mine = await begun(desk)
    assert await desk.devices.poll(mine) == Polled(DeviceState.PENDING, POLL_INTERVAL_S)
    assert await desk.devices.find(CODE) == DEVICE
    assert await desk.devices.spend(mine, minted()) is None
    assert await desk.says(owner, approved=True)
    polled = await desk.devices.poll(mine)
    assert polled is not None
    assert (polled.state, polled.account_id, polled.email) == (
        DeviceState.APPROVED, owner.id, owner.email,
    )  # fmt: skip
    key = minted()
    assert await desk.devices.spend(mine, key) == owner.id
    assert await desk.devices.spend(mine, minted()) is None
    made = [one for one in await desk.accounts.keys(owner.id) if one.id == key.id]
    assert [(one.name, one.digest, one.last4) for one in made] == [("Laptop", key.digest, "cdef")]
    assert made[0].policy.scopes == GRANTED_SCOPES
    principal = await desk.accounts.principal(key.digest)
    assert principal is not None
    assert principal.account_id == owner.id


async def test_of_many_polls_at_once_one_gets_the_key(desk: Desk) -> None:
    owner = await desk.customer()
    mine = await begun(desk)
    await desk.says(owner, approved=True)
    given = await asyncio.gather(*(desk.devices.spend(mine, minted()) for _ in range(8)))
    assert [one for one in given if one is not None] == [owner.id]
    assert len(await desk.accounts.keys(owner.id)) == 2


async def test_the_first_answer_to_a_device_counts(desk: Desk) -> None:
    owner, other = await desk.customer(), await desk.customer()
    mine = await begun(desk)
    assert await desk.says(owner, approved=False)
    assert not await desk.says(other, approved=True)
    polled = await desk.devices.poll(mine)
    assert polled is not None
    assert polled.state is DeviceState.DENIED
    assert await desk.devices.spend(mine, minted()) is None


async def test_a_device_code_ends_with_its_time(desk: Desk) -> None:
    owner = await desk.customer()
    mine = await begun(desk)
    await desk.says(owner, approved=True)
    await desk.pass_time(DEVICE_CODE_S + 1)
    assert await desk.devices.poll(mine) is None
    assert await desk.devices.find(CODE) is None
    assert await desk.devices.spend(mine, minted()) is None
    assert await desk.live_keys(owner) == 1


async def test_a_short_code_is_nobodys_but_the_first_ones_until_its_time_is_over(
    desk: Desk,
) -> None:
    first = await begun(desk)
    assert not await desk.devices.add(digest(), DEVICE, POLL_INTERVAL_S, DEVICE_CODE_S)
    await desk.pass_time(DEVICE_CODE_S + 1)
    second = await begun(desk, replace(DEVICE, client_name="Phone"))
    assert await desk.devices.poll(first) is None
    assert await desk.devices.poll(second) is not None
    found = await desk.devices.find(CODE)
    assert found is not None
    assert found.client_name == "Phone"


async def test_whoever_asks_too_often_waits_longer(desk: Desk) -> None:
    mine = await begun(desk)
    first, second = await desk.devices.poll(mine), await desk.devices.poll(mine)
    assert first == Polled(DeviceState.PENDING, 5)
    assert second == Polled(DeviceState.PENDING, 10, too_fast=True)
    await desk.pass_time(9.5)  # half a second early is not too early
    assert await desk.devices.poll(mine) == Polled(DeviceState.PENDING, 10)
    for _ in range(20):
        last = await desk.devices.poll(mine)
    assert last == Polled(DeviceState.PENDING, 60, too_fast=True)


def allowed(owner: Account) -> Permission:
    return Permission("app", CALLBACK, "x" * 43, owner.id)


async def coded(desk: Desk, owner: Account) -> bytes:
    mine = digest()
    session = await desk.signs_in(owner)
    assert await desk.codes.add(mine, allowed(owner), session.id, 60)
    return mine


async def test_an_authorization_code_gives_one_key_and_a_second_use_takes_it_back(
    desk: Desk,
) -> None:
    owner = await desk.customer()
    mine = await coded(desk, owner)
    assert await desk.codes.owner(mine) == owner
    assert await desk.codes.owner(digest()) is None
    key = minted()
    taken = await desk.codes.take(mine, "app", CALLBACK, "x" * 43, "An app", key)
    assert taken == Taken(account_id=owner.id)
    assert await desk.accounts.principal(key.digest) is not None
    again = await desk.codes.take(mine, "app", CALLBACK, "x" * 43, "An app", minted())
    assert again == Taken(replayed=owner.id)
    assert await desk.accounts.principal(key.digest) is None
    third = await desk.codes.take(mine, "app", CALLBACK, "x" * 43, "An app", minted())
    assert third == Taken()
    assert await desk.live_keys(owner) == 1


@pytest.mark.parametrize(
    "asked",
    [
        ("other", CALLBACK, "x" * 43),
        ("app", "https://app.example/other", "x" * 43),
        ("app", CALLBACK, "y" * 43),
        ("app", CALLBACK, ""),
    ],
)
async def test_a_code_presented_by_another_is_spent_without_a_key(
    desk: Desk, asked: tuple[str, str, str]
) -> None:
    owner = await desk.customer()
    mine = await coded(desk, owner)
    assert await desk.codes.take(mine, *asked, "An app", minted()) == Taken()
    right = await desk.codes.take(mine, "app", CALLBACK, "x" * 43, "An app", minted())
    assert right == Taken()
    assert await desk.live_keys(owner) == 1


async def test_a_code_is_good_for_a_minute(desk: Desk) -> None:
    owner = await desk.customer()
    mine = await coded(desk, owner)
    await desk.pass_time(61)
    assert await desk.codes.take(mine, "app", CALLBACK, "x" * 43, "An app", minted()) == Taken()
    assert await desk.live_keys(owner) == 1


async def test_two_uses_at_once_leave_no_key(desk: Desk) -> None:
    """The first makes it, the second, which waited for the first, takes it back."""
    owner = await desk.customer()
    mine = await coded(desk, owner)
    both = await asyncio.gather(
        *(desk.codes.take(mine, "app", CALLBACK, "x" * 43, "An app", minted()) for _ in range(2))
    )
    assert {(one.account_id, one.replayed) for one in both} == {(owner.id, None), (None, owner.id)}
    assert await desk.live_keys(owner) == 1


async def test_a_link_works_once_in_time_and_for_its_kind(desk: Desk) -> None:
    owner = await desk.customer()
    mine, link = digest(), Link(LinkKind.RESET, owner.email, owner.id)
    await desk.links.add(mine, link, 3600)
    assert await desk.links.find(mine, LinkKind.VERIFY) is None
    assert await desk.links.take(mine, LinkKind.VERIFY) is None
    assert await desk.links.find(mine, LinkKind.RESET) == link
    taken = await asyncio.gather(*(desk.links.take(mine, LinkKind.RESET) for _ in range(4)))
    assert [one for one in taken if one is not None] == [link]
    assert await desk.links.find(mine, LinkKind.RESET) is None
    late = digest()
    await desk.links.add(late, link, 3600)
    await desk.pass_time(3601)
    assert await desk.links.take(late, LinkKind.RESET) is None


async def test_a_reset_changes_the_password_and_ends_every_session_and_other_link(
    desk: Desk,
) -> None:
    owner = await desk.customer()
    assert await desk.identities.prove(owner.id, owner.email, ZERO)
    session = a_session(owner)
    await desk.accounts.add_session(session)
    first, second = digest(), digest()
    for one in (first, second):
        await desk.links.add(one, Link(LinkKind.RESET, owner.email, owner.id), 3600)
    assert await desk.accounts.principal(session.digest) is not None
    changed = await desk.links.reset(first, "new hash", revoke_keys=False)
    assert changed == replace(owner, password_hash="new hash")
    assert await desk.accounts.by_email(owner.email) == changed
    assert await desk.accounts.principal(session.digest) is None
    assert await desk.links.reset(first, "other", revoke_keys=False) is None
    assert await desk.links.reset(second, "other", revoke_keys=False) is None
    assert await desk.live_keys(owner) == 1
    assert await desk.identities.is_proven(owner.id)
    assert owner.id in {account for account, _ in await desk.accounts.changes()}


async def test_a_reset_revokes_keys_when_asked(desk: Desk) -> None:
    owner = await desk.customer()
    assert await desk.identities.prove(owner.id, owner.email, ZERO)
    mine = digest()
    await desk.links.add(mine, Link(LinkKind.RESET, owner.email, owner.id), 3600)
    assert await desk.links.reset(mine, "new hash", revoke_keys=True) is not None
    assert await desk.live_keys(owner) == 0


async def test_a_reset_of_an_unproven_account_ends_what_its_opener_had(desk: Desk) -> None:
    squatted = await desk.customer()
    session, mine = a_session(squatted), digest()
    await desk.accounts.add_session(session)
    await desk.links.add(mine, Link(LinkKind.RESET, squatted.email, squatted.id), 3600)
    assert await desk.links.reset(mine, "new hash", revoke_keys=False) is not None
    assert await desk.live_keys(squatted) == 0
    assert await desk.accounts.principal(session.digest) is None
    assert await desk.identities.is_proven(squatted.id)


async def test_an_account_is_found_by_its_id_whether_or_not_it_is_bound(desk: Desk) -> None:
    for bound in (True, False):
        owner = await desk.customer(bound=bound)
        assert await desk.identities.account(owner.id) == owner
    assert await desk.identities.account(new_id()) is None


async def test_a_proven_address_is_bound_and_earns_the_bonus_once(desk: Desk) -> None:
    owner = await desk.customer("late@example.com", bound=False)
    assert await desk.accounts.by_email(owner.email) is None
    for _ in range(2):
        mine = digest()
        await desk.links.add(mine, Link(LinkKind.VERIFY, owner.email, owner.id), 3600)
        assert await desk.links.verify(mine, BONUS) is not None
        assert await desk.links.verify(mine, BONUS) is None
    assert await desk.accounts.by_email(owner.email) == replace(owner, bound=True)
    assert await desk.identities.is_proven(owner.id)
    assert (await desk.ledger.balance(owner.id)).available == BONUS


async def test_an_account_that_was_bound_earns_no_second_bonus_by_proving(desk: Desk) -> None:
    owner = await desk.customer()
    assert not await desk.identities.is_proven(owner.id)
    assert await desk.identities.prove(owner.id, owner.email, BONUS)
    assert (await desk.ledger.balance(owner.id)).available == BONUS


async def a_sign_up(desk: Desk, email: str = "new@example.com") -> bytes:
    mine = digest()
    await desk.links.add(mine, Link(LinkKind.SIGN_UP, email), 3600)
    return mine


async def test_a_sign_up_link_opens_one_account_with_all_that_belongs_to_it(desk: Desk) -> None:
    mine = await a_sign_up(desk)
    new = [an_account("new@example.com") for _ in range(4)]
    opened = await asyncio.gather(
        *(desk.links.open_account(mine, one, a_key(one), a_session(one), BONUS) for one in new)
    )
    assert sorted(opened) == [False, False, False, True]
    account = new[opened.index(True)]
    assert await desk.accounts.by_email("new@example.com") == account
    assert await desk.identities.is_proven(account.id)
    assert (await desk.ledger.balance(account.id)).available == BONUS
    assert await desk.live_keys(account) == 1
    assert await desk.links.find(mine, LinkKind.SIGN_UP) is None


async def test_a_sign_up_link_that_opens_nothing_is_not_used_up(desk: Desk) -> None:
    mine = await a_sign_up(desk)
    other = an_account("other@example.com")
    for used in (mine, digest()):
        assert not await desk.links.open_account(used, other, a_key(other), a_session(other), BONUS)
    taken = await desk.customer("new@example.com")
    late = an_account("new@example.com")
    assert not await desk.links.open_account(mine, late, a_key(late), a_session(late), BONUS)
    for one in (other, late):
        assert await desk.identities.account(one.id) is None
    assert await desk.accounts.by_email("new@example.com") == taken
    assert await desk.links.find(mine, LinkKind.SIGN_UP) is not None


async def test_an_address_that_signs_in_elsewhere_cannot_be_proven(desk: Desk) -> None:
    await desk.customer("taken@example.com")
    late = await desk.customer("taken@example.com", bound=False)
    mine = digest()
    await desk.links.add(mine, Link(LinkKind.VERIFY, late.email, late.id), 3600)
    assert await desk.links.verify(mine, BONUS) is None
    assert not await desk.identities.prove(late.id, late.email, BONUS)
    assert not await desk.identities.prove(late.id, "another@example.com", BONUS)
    assert not await desk.identities.is_proven(late.id)
    assert (await desk.ledger.balance(late.id)).available == ZERO


async def test_an_identity_opens_a_new_account_once(desk: Desk) -> None:
    new = replace(an_account("ada@example.com"), password_hash="")
    ada = Identity(GOOGLE, "1001", new.email)
    assert await desk.identities.account_of(GOOGLE, "1001") is None
    assert await desk.identities.register(new, ada, BONUS)
    assert await desk.identities.account_of(GOOGLE, "1001") == new
    assert await desk.identities.is_proven(new.id)
    assert (await desk.ledger.balance(new.id)).available == BONUS
    same_address = replace(new, id=new_id())
    assert not await desk.identities.register(same_address, Identity(GOOGLE, "1002", "x"), BONUS)
    same_identity = replace(an_account("eve@example.com"), password_hash="")
    assert not await desk.identities.register(same_identity, ada, BONUS)
    assert await desk.accounts.by_email("eve@example.com") is None
    assert await desk.identities.account_of(GOOGLE, "1002") is None


async def test_of_two_that_open_the_same_account_at_once_one_does(desk: Desk) -> None:
    ada = Identity(GOOGLE, "1001", "ada@example.com")
    new = [replace(an_account("ada@example.com"), password_hash="") for _ in range(2)]
    done = await asyncio.gather(*(desk.identities.register(one, ada, BONUS) for one in new))
    assert sorted(done) == [False, True]
    opened = await desk.identities.account_of(GOOGLE, "1001")
    assert opened is not None
    assert (await desk.ledger.balance(opened.id)).available == BONUS


async def test_an_identity_opens_one_account(desk: Desk) -> None:
    owner, other = await desk.customer(), await desk.customer()
    identity = Identity(GOOGLE, "1001", owner.email)
    assert await desk.identities.attach(identity, owner.id, owner.password_hash)
    assert await desk.identities.attach(identity, owner.id, owner.password_hash)
    theirs = replace(identity, email=other.email)
    assert not await desk.identities.attach(theirs, other.id, other.password_hash)
    assert await desk.identities.account_of(GOOGLE, "1001") == owner
    assert not await desk.identities.is_proven(other.id)


async def joining(desk: Desk, owner: Account) -> bytes:
    mine = digest()
    identity = Identity(GOOGLE, "1001", owner.email)
    await desk.links.add(mine, Link(LinkKind.JOIN, owner.email, owner.id, identity), 3600)
    return mine


async def test_joining_a_proven_account_leaves_all_as_it_was(desk: Desk) -> None:
    owner = await desk.customer()
    session = a_session(owner)
    await desk.accounts.add_session(session)
    await desk.identities.prove(owner.id, owner.email, BONUS)
    mine = await joining(desk, owner)
    assert await desk.identities.join(mine) == owner
    assert await desk.identities.join(mine) is None
    assert await desk.identities.account_of(GOOGLE, "1001") == owner
    assert await desk.accounts.principal(session.digest) is not None
    assert await desk.live_keys(owner) == 1


async def test_joining_an_account_of_unproven_address_ends_what_its_opener_had(desk: Desk) -> None:
    """Somebody may have opened it with an address that was not theirs, and waited."""
    squatted = await desk.customer()
    session = a_session(squatted)
    await desk.accounts.add_session(session)
    joined = await desk.identities.join(await joining(desk, squatted))
    assert joined == replace(squatted, password_hash="")
    assert await desk.accounts.principal(session.digest) is None
    assert await desk.live_keys(squatted) == 0
    assert await desk.identities.is_proven(squatted.id)


async def test_what_nobody_can_use_is_tidied_away_after_a_day(desk: Desk) -> None:
    owner = await desk.customer()
    mine, code = await begun(desk), await coded(desk, owner)
    link = digest()
    await desk.links.add(link, Link(LinkKind.SIGN_UP, "new@example.com"), 3600)
    for port in (desk.devices, desk.codes, desk.links):
        assert await port.tidy() == 0
    await desk.pass_time(3 * 86_400)
    for port in (desk.devices, desk.codes, desk.links):
        assert await port.tidy() == 1
        assert await port.tidy() == 0
    assert await desk.devices.poll(mine) is None
    assert await desk.codes.owner(code) is None
